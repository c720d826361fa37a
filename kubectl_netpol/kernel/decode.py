"""Bytes of map entries -> model. Pure; sizes are checked by the caller through ``layouts``."""

from __future__ import annotations

import gc
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, lru_cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

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
    """Entries of an LPM map, sorted by prefix. Slots are shared between equal values.

    All sizes and prefix lengths are checked here; the objects are made when something asks for them.
    """
    for what, buffer, size in (("keys", keys, layout.key_size), ("values", values, layout.value_size)):
        if len(buffer) % size:
            raise DecodeError(f"{what}: {len(buffer)} bytes are not a multiple of {size}")
    if len(keys) // layout.key_size != len(values) // layout.value_size:
        raise DecodeError(f"{len(keys) // layout.key_size} keys, {len(values) // layout.value_size} values")
    size = layout.key_size
    # The length is a little-endian u32: the low bytes of all keys, and whether any other byte is not zero.
    highest = max(set(keys[0::size]), default=0)
    if highest > (size - 4) * 8 or any(keys[byte::size].strip(b"\0") for byte in (1, 2, 3)):
        for key in split(keys, size, "keys"):
            prefix(key)
    return _PackedTable(keys, values, layout)


SEARCHES = 32
"""Lookups in one table before it gets an index."""


class _PackedTable(LpmTable):
    """An LPM table that decodes what is looked at: one entry for a lookup, all of them for ``entries``."""

    _keys: bytes
    _values: bytes
    _layout: layouts.Layout
    _slots: Callable[[bytes], tuple[Slot, ...] | tuple[ClusterSlot, ...]]
    _asked: list[int]

    def __init__(self, keys: bytes, values: bytes, layout: layouts.Layout) -> None:
        parse = np_slots if layout.role == "np" else cp_slots
        # Not by assignment: a frozen dataclass takes none.
        vars(self).update(_keys=keys, _values=values, _layout=layout, _slots=cache(parse), _asked=[0])

    @cached_property
    def entries(self) -> tuple[LpmEntry, ...]:
        kind, rules = (IPv4Network if self._layout.family == 4 else IPv6Network), self._rules
        with _no_collection():
            order = sorted((address, length, position) for position, (address, length) in enumerate(self._prefixes()))
            return tuple([LpmEntry(kind((address, length)), rules(position)) for address, length, position in order])

    def lookup(self, host: Network) -> LpmEntry | None:
        address = int(host.network_address)
        for length in self._lengths if host.version == self._layout.family else ():
            if length <= host.prefixlen:
                position = self._position(address, length)
                if position is not None:
                    return self._entry(position)
        return None

    def get(self, prefix: Network) -> LpmEntry | None:
        if prefix.version != self._layout.family:
            return None
        position = self._position(int(prefix.network_address), prefix.prefixlen)
        return None if position is None else self._entry(position)

    def contents(self) -> dict[tuple[int, int], frozenset[tuple[int, ...]]]:
        used, size, values = _USED[self._layout.role], self._layout.value_size, self._values
        return {
            prefix: used(values[position * size : (position + 1) * size])
            for position, prefix in enumerate(self._prefixes())
        }

    def _position(self, address: int, length: int) -> int | None:
        """The number of the key with this prefix. The first few are searched for: an index of a large table
        takes longer to make than one question needs."""
        self._asked[0] += 1
        bits = (self._layout.key_size - 4) * 8
        if self._asked[0] > SEARCHES:
            return self._positions.get((address >> bits - length << bits - length, length))
        return self._searched(address, length, bits)

    def _searched(self, address: int, length: int, bits: int) -> int | None:
        size, whole = self._layout.key_size, length // 8
        # The length, and the bytes of the address that are all prefix; of the rest the bits are compared, since
        # nothing keeps host bits of a key from being set.
        pattern = length.to_bytes(4, "little") + address.to_bytes(bits // 8, "big")[:whole]
        start = self._keys.find(pattern)
        while start >= 0:
            number, inside = divmod(start, size)
            found = int.from_bytes(self._keys[start + 4 : start + size], "big")
            if not inside and found >> bits - length == address >> bits - length:
                return number
            start = self._keys.find(pattern, start + 1)
        return None

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(sorted(set(self._keys[0 :: self._layout.key_size]), reverse=True))

    @cached_property
    def _positions(self) -> dict[tuple[int, int], int]:
        return {prefix: position for position, prefix in enumerate(self._prefixes())}

    def _prefixes(self) -> Iterator[tuple[int, int]]:
        """Address without its host bits, and length, of each key."""
        size = self._layout.key_size - 4
        for length, address in struct.iter_unpack(f"<B3x{size}s", self._keys):
            shift = size * 8 - length
            yield int.from_bytes(address, "big") >> shift << shift, length

    def _entry(self, position: int) -> LpmEntry:
        size = self._layout.key_size
        return LpmEntry(prefix(self._keys[position * size : (position + 1) * size]), self._rules(position))

    def _rules(self, position: int) -> tuple[Slot, ...] | tuple[ClusterSlot, ...]:
        size = self._layout.value_size
        return self._slots(self._values[position * size : (position + 1) * size])


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


def _used(structure: struct.Struct) -> Callable[[bytes], frozenset[tuple[int, ...]]]:
    """Slots of a value that say something. Values are few: most peers are allowed on the same ports."""
    return lru_cache(maxsize=8192)(lambda value: frozenset(filter(any, structure.iter_unpack(value))))


_USED = {"np": _used(layouts.NP_SLOT), "cp": _used(layouts.CP_SLOT)}


def pod_states(keys: bytes, values: bytes) -> dict[int, int]:
    """u32 key -> u8 state. Key 0 is the NetworkPolicy state, key 1 the cluster policy state."""
    key_list = split(keys, layouts.POD_STATE_KEY.size, "keys")
    if len(key_list) != len(values):
        raise DecodeError(f"{len(key_list)} keys, {len(values)} values")
    return {int.from_bytes(key, "little"): value for key, value in zip(key_list, values, strict=True)}


def conntrack_entries(keys: bytes, values: bytes, layout: layouts.Layout) -> tuple[ConntrackEntry, ...]:
    """Entries of aws_conntrack_map, in map order. Fields that a layout lacks are None."""
    structure = layouts.CONNTRACK_KEYS[layout.key_size]
    for what, buffer, size in (("keys", keys, structure.size), ("values", values, layout.value_size)):
        if len(buffer) % size:
            raise DecodeError(f"{what}: {len(buffer)} bytes are not a multiple of {size}")
    if len(keys) // structure.size != len(values) // layout.value_size:
        raise DecodeError(f"{len(keys)} bytes of keys, {len(values)} bytes of values")
    known = _Addresses(IPv4Address if layout.family == 4 else IPv6Address)
    rows = structure.iter_unpack(keys)
    with _no_collection():
        if layout.value == layouts.POD_ADDRESS:
            owners = _each(values, layout.value_size)
            return tuple(
                _ENTRY((known[src], sport, known[dst], dport, protocol, known[owner], None, None, None))
                for (src, sport, dst, dport, protocol), owner in zip(rows, owners, strict=True)
            )
        contents = layouts.CONNTRACK_VALUE1 if layout.value_size == 1 else layouts.CONNTRACK_VALUE16
        # The fields that a layout lacks, at the end of its key and of its value.
        no_ifindex = (None,) if len(structure.unpack(bytes(structure.size))) == 6 else ()
        no_time = (None,) if layout.value_size == 1 else ()
        return tuple(
            _ENTRY((known[src], sport, known[dst], dport, proto, known[owner], *ifindex, *no_ifindex, *value, *no_time))
            for (src, sport, dst, dport, proto, owner, *ifindex), value in zip(
                rows, contents.iter_unpack(values), strict=True
            )
        )


# What ConntrackEntry(...) does, without its Python function: there may be a million of them.
_ENTRY: Callable[[tuple[Any, ...]], ConntrackEntry] = partial(tuple.__new__, ConntrackEntry)


class _Addresses(dict[bytes, Address]):
    """Addresses by their bytes: each is made once."""

    def __init__(self, kind: Callable[[bytes], Address]) -> None:
        self._kind = kind

    def __missing__(self, packed: bytes) -> Address:
        made = self[packed] = self._kind(packed)
        return made


@contextmanager
def _no_collection() -> Iterator[None]:
    """Of many objects that all stay none is garbage; looking for it would take longer than making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _each(buffer: bytes, size: int) -> Iterator[bytes]:
    """The packed elements one by one; the caller has checked that they fit."""
    return (buffer[start : start + size] for start in range(0, len(buffer), size))
