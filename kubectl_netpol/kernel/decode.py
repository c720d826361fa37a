"""Bytes of map entries -> model. Pure; sizes are checked by the caller through ``layouts``."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from kubectl_netpol.kernel import layouts
from kubectl_netpol.model.flow import Address, Network
from kubectl_netpol.model.kernel import ClusterSlot, ConntrackEntry, LpmEntry, LpmTable, Slot


class DecodeError(ValueError):
    """The bytes are not what their layout says."""


def split(buffer: bytes, size: int, what: str) -> list[bytes]:
    """Cut packed elements of ``size`` bytes apart."""
    if size <= 0 or len(buffer) % size:
        raise DecodeError(f"{what}: {len(buffer)} bytes are not a multiple of {size}")
    return [buffer[start : start + size] for start in range(0, len(buffer), size)]


def lpm_entries(keys: bytes, values: bytes, layout: layouts.Layout) -> LpmTable:
    """Entries of an LPM map, sorted by prefix. Slots are shared between equal values."""
    key_list = split(keys, layout.key_size, "keys")
    value_list = split(values, layout.value_size, "values")
    if len(key_list) != len(value_list):
        raise DecodeError(f"{len(key_list)} keys, {len(value_list)} values")
    parse: Callable[[bytes], tuple[Slot, ...] | tuple[ClusterSlot, ...]]
    parse = np_slots if layout.role == "np" else cp_slots
    seen: dict[bytes, tuple[Slot, ...] | tuple[ClusterSlot, ...]] = {}
    entries = []
    for key, value in zip(key_list, value_list, strict=True):
        slots = seen.get(value)
        if slots is None:
            slots = seen[value] = parse(value)
        entries.append(LpmEntry(prefix(key), slots))
    entries.sort(key=lambda entry: _order(entry.prefix))
    return LpmTable(tuple(entries))


def _order(network: Network) -> tuple[int, int]:
    return int(network.network_address), network.prefixlen


def prefix(key: bytes) -> Network:
    """An LPM key: u32 prefix length in host order, then 4 or 16 address bytes in network order.

    Host bits are masked off, as the trie itself does when it compares.
    """
    length = int.from_bytes(key[:4], "little")
    address = key[4:]
    if length > len(address) * 8:
        raise DecodeError(f"prefix length {length} for an address of {len(address)} bytes")
    if len(address) == 4:
        return IPv4Network((address, length), strict=False)
    return IPv6Network((address, length), strict=False)


def np_slots(value: bytes) -> tuple[Slot, ...]:
    return tuple(Slot._make(fields) for fields in layouts.NP_SLOT.iter_unpack(value))


def cp_slots(value: bytes) -> tuple[ClusterSlot, ...]:
    return tuple(ClusterSlot._make(fields) for fields in layouts.CP_SLOT.iter_unpack(value))


def pod_states(keys: bytes, values: bytes) -> dict[int, int]:
    """u32 key -> u8 state. Key 0 is the NetworkPolicy state, key 1 the cluster policy state."""
    key_list = split(keys, layouts.POD_STATE_KEY.size, "keys")
    if len(key_list) != len(values):
        raise DecodeError(f"{len(key_list)} keys, {len(values)} values")
    return {int.from_bytes(key, "little"): value for key, value in zip(key_list, values, strict=True)}


def conntrack_entries(keys: bytes, values: bytes, layout: layouts.Layout) -> tuple[ConntrackEntry, ...]:
    """Entries of aws_conntrack_map, in map order."""
    structure = layouts.CONNTRACK_KEY4 if layout.family == 4 else layouts.CONNTRACK_KEY6
    contents = layouts.CONNTRACK_VALUE1 if layout.value_size == 1 else layouts.CONNTRACK_VALUE16
    for what, buffer, size in (("keys", keys, structure.size), ("values", values, contents.size)):
        if len(buffer) % size:
            raise DecodeError(f"{what}: {len(buffer)} bytes are not a multiple of {size}")
    if len(keys) // structure.size != len(values) // contents.size:
        raise DecodeError(f"{len(keys)} bytes of keys, {len(values)} bytes of values")
    address: Callable[[bytes], Address] = IPv4Address if layout.family == 4 else IPv6Address
    return tuple(
        ConntrackEntry(address(src), sport, address(dst), dport, protocol, address(owner), ifindex, *value)
        for (src, sport, dst, dport, protocol, owner, ifindex), value in zip(
            structure.iter_unpack(keys), contents.iter_unpack(values), strict=True
        )
    )
