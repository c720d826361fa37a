"""Model -> bytes of map entries: the inverse of ``decode``, for what is built here and read as text elsewhere.

No map of a node is filled with it: it finds an entry by its key, and turns the texts of tools into the bytes that
they were made of. Addresses in network order, integers little-endian.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kubectl_netpol.kernel import layouts
from kubectl_netpol.model.flow import Address, Network
from kubectl_netpol.model.kernel import ClusterSlot, ConntrackEntry, Slot


def lpm_key(prefix: Network) -> bytes:
    """u32 prefix length, 4 or 16 address bytes."""
    return prefix.prefixlen.to_bytes(4, "little") + prefix.network_address.packed


def np_value(slots: Iterable[Slot], size: int) -> bytes:
    """Slots of 12 bytes, the rest of ``size`` bytes unused."""
    return _padded(b"".join(layouts.NP_SLOT.pack(*slot) for slot in slots), size)


def cp_value(slots: Iterable[ClusterSlot], size: int) -> bytes:
    """Slots of 16 bytes, the rest of ``size`` bytes unused."""
    return _padded(b"".join(layouts.CP_SLOT.pack(*slot) for slot in slots), size)


def _padded(body: bytes, size: int) -> bytes:
    if len(body) > size:
        raise ValueError(f"{len(body)} bytes of slots for a value of {size}")
    return body.ljust(size, b"\0")


def conntrack_key(entry: ConntrackEntry, layout: layouts.Layout) -> bytes:
    """The key of ``layout``; fields that it lacks are left out."""
    fields: list[bytes | int] = [
        entry.source.packed,
        entry.source_port,
        entry.destination.packed,
        entry.port,
        entry.protocol,
    ]
    if layout.value != layouts.POD_ADDRESS:
        fields.append(entry.owner.packed)
    if layout.has_ifindex:
        fields.append(entry.ifindex or 0)
    return layouts.CONNTRACK_KEYS[layout.key_size].pack(*fields)


def conntrack_value(entry: ConntrackEntry, layout: layouts.Layout) -> bytes:
    if layout.value == layouts.POD_ADDRESS:
        return entry.owner.packed
    if layout.value_size == 1:
        return layouts.CONNTRACK_VALUE1.pack(entry.value or 0)
    return layouts.CONNTRACK_VALUE16.pack(entry.value or 0, entry.last_seen or 0)


def flow_keys(
    layout: layouts.Layout,
    ends: tuple[Address, int, Address, int],
    protocol: int,
    owner: Address,
    ifindex: int,
) -> tuple[bytes, bytes]:
    """(forward, reverse) conntrack keys of one packet; ``ends``: source, its port, destination, its port."""
    source, source_port, destination, port = ends
    forward = ConntrackEntry(source, source_port, destination, port, protocol, owner, ifindex, 0)
    reverse = ConntrackEntry(destination, port, source, source_port, protocol, owner, ifindex, 0)
    return conntrack_key(forward, layout), conntrack_key(reverse, layout)


def pod_states(states: Sequence[tuple[int, int]]) -> tuple[bytes, bytes]:
    """(keys, values) of a pod state map: u32 keys, u8 values."""
    keys = b"".join(layouts.POD_STATE_KEY.pack(key) for key, _ in states)
    return keys, bytes(value for _, value in states)
