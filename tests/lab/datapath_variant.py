"""One direction of one datapath variant, loaded with maps of its own and without a node.

    with load("ingress", 10204, ipv6=False) as variant:
        variant.set_state(APPLIED)
        variant.put_np("10.0.1.2/32", (6, 80, 0))
        assert variant.run(frame("10.0.1.2", "10.0.1.1")) == bpfsys.TC_ACT_OK

The bytes of keys and values are written here from the facts (agent facts 1.3 to 1.6), so that tests need no
decoder of anybody else.
"""

from __future__ import annotations

import ipaddress
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from . import bpfsys, build, elf
from .ringbuf import RingBuffer

APPLIED, DEFAULT_ALLOW, DEFAULT_DENY = 0, 1, 2
CONNTRACK_MAP, EVENTS_MAP = "aws_conntrack_map", "policy_events"
# Enough for any test; the real size takes a second's part to allocate, and memory for each variant.
TEST_CONNTRACK_SIZE = 4096

NpSlot = tuple[int, int, int]
CpSlot = tuple[int, int, int, int]


@dataclass(frozen=True)
class VariantLayout:
    """What a variant's maps hold, by the facts."""

    npa_gen: int
    ipv6: bool

    @property
    def address_size(self) -> int:
        return 16 if self.ipv6 else 4

    @property
    def np_slots(self) -> int:
        return 24 if self.npa_gen >= 10005 else 8

    @property
    def np_slots_scanned(self) -> int:
        return 4 if self.ipv6 and self.npa_gen < 10005 else self.np_slots

    @property
    def pod_state_keys(self) -> int:
        return build.pod_state_keys(self.npa_gen)

    @property
    def has_cluster_policy(self) -> bool:
        return build.has_cluster_policy(self.npa_gen)

    @property
    def conntrack_key_size(self) -> int:
        return len(self.conntrack_key(self._zero, 0, self._zero, 0, 0, self._zero, 0))

    @property
    def conntrack_value_size(self) -> int:
        if self.npa_gen < 10005:
            return self.address_size
        return 16 if self.npa_gen >= 10402 else 1

    @property
    def _zero(self) -> str:
        return "::" if self.ipv6 else "0.0.0.0"

    def _packed(self, address: str) -> bytes:
        packed = ipaddress.ip_address(address).packed
        if len(packed) != self.address_size:
            raise ValueError(f"{address} is not of this variant's family")
        return packed

    def lpm_key(self, cidr: str) -> bytes:
        net = ipaddress.ip_network(cidr, strict=False)
        return struct.pack("<I", net.prefixlen) + self._packed(str(net.network_address))

    def np_value(self, *slots: NpSlot) -> bytes:
        return b"".join(struct.pack("<3I", *s) for s in slots).ljust(12 * self.np_slots, b"\0")

    def cp_value(self, *slots: CpSlot) -> bytes:
        return b"".join(struct.pack("<4I", *s) for s in slots).ljust(16 * 24, b"\0")

    def conntrack_key(
        self, src: str, sport: int, dst: str, dport: int, protocol: int, owner: str, ifindex: int = 1
    ) -> bytes:
        """`owner` and `ifindex` are left out where the generation has none."""
        padding = b"" if self.ipv6 and self.npa_gen < 10004 else bytes(2)
        key = self._packed(src) + struct.pack("<H", sport) + padding
        key += self._packed(dst) + struct.pack("<HBB", dport, protocol, 0)
        if self.npa_gen >= 10005:
            key += self._packed(owner)
        if self.npa_gen >= 10307:
            key += struct.pack("<I", ifindex)
        return key

    def conntrack_value(self, made_in: int = 1, owner: str | None = None, last_seen: int = 0) -> bytes:
        """`owner` for the generations to 1.0.4, `made_in` for the later, `last_seen` from 1.4.2."""
        if self.npa_gen < 10005:
            return self._packed(owner or self._zero)
        return struct.pack("<QQ", made_in, last_seen) if self.npa_gen >= 10402 else bytes([made_in])

    def made_in(self, value: bytes) -> int:
        """The state, state pair or constant in a conntrack value (>= 1.0.5)."""
        return int.from_bytes(value[:8], "little")


class LoadedVariant:
    """File descriptors of a loaded program and its maps; all are closed with it."""

    def __init__(self, direction: str, layout: VariantLayout, program: int, maps: Mapping[str, int]) -> None:
        self.direction, self.layout = direction, layout
        self.program, self.maps = program, dict(maps)
        self._events: RingBuffer | None = None

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
        for fd in (self.program, *self.maps.values()):
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # maps by what they are, whatever the direction ----------------------------------------

    @property
    def np_map(self) -> int:
        return self.maps[f"{self.direction}_map"]

    @property
    def cp_map(self) -> int:
        return self.maps[f"cp_{self.direction}_map"]

    @property
    def state_map(self) -> int:
        return self.maps[f"{self.direction}_pod_state_map"]

    @property
    def conntrack_map(self) -> int:
        return self.maps[CONNTRACK_MAP]

    @property
    def events(self) -> RingBuffer:
        if self._events is None:
            self._events = RingBuffer(self.maps[EVENTS_MAP])
        return self._events

    def set_state(self, np: int | None, cp: int | None = DEFAULT_ALLOW) -> None:
        """None removes the key. Keys that the generation has not are ignored, as is all of it without a map."""
        for key, value in list(enumerate((np, cp)))[: self.layout.pod_state_keys]:
            raw = struct.pack("<I", key)
            if value is None:
                bpfsys.map_delete(self.state_map, raw)
            else:
                bpfsys.map_update(self.state_map, raw, bytes([value]))

    def put_np(self, cidr: str, *slots: NpSlot) -> None:
        bpfsys.map_update(self.np_map, self.layout.lpm_key(cidr), self.layout.np_value(*slots))

    def put_cp(self, cidr: str, *slots: CpSlot) -> None:
        bpfsys.map_update(self.cp_map, self.layout.lpm_key(cidr), self.layout.cp_value(*slots))

    def put_conntrack(self, key: bytes, value: bytes) -> None:
        bpfsys.map_update(self.conntrack_map, key, value)

    def conntrack(self) -> dict[bytes, bytes]:
        return bpfsys.map_items(self.conntrack_map)

    def clear(self) -> None:
        """Empties every map, and forgets the events."""
        for name, fd in self.maps.items():
            if name != EVENTS_MAP:
                bpfsys.map_clear(fd)
        if self._events is not None:
            self._events.read()

    def run(self, packet: bytes, ifindex: int = 0) -> int:
        """What the program returns for a frame; without `ifindex` it is that of the loopback link (1)."""
        return bpfsys.prog_test_run(self.program, packet, ifindex)


def _create(name: str, definition: elf.MapDef, conntrack_size: int | None) -> int:
    entries = definition.max_entries
    if name == CONNTRACK_MAP and conntrack_size is not None:
        entries = conntrack_size
    return bpfsys.map_create(definition.type, definition.key_size, definition.value_size, entries, definition.flags)


def load(direction: str, npa_gen: int, ipv6: bool, conntrack_size: int | None = TEST_CONNTRACK_SIZE) -> LoadedVariant:
    """`direction`: "ingress" or "egress". `npa_gen`: 1.2.4 is 10204. `conntrack_size` None: the object's own."""
    obj = elf.parse(build.compile_datapath(direction, build.defines(npa_gen, ipv6)))
    maps: dict[str, int] = {}
    try:
        for name, definition in obj.maps.items():
            maps[name] = _create(name, definition, conntrack_size)
        program = bpfsys.prog_load(obj.link(maps), obj.license)
    except BaseException:
        for fd in maps.values():
            os.close(fd)
        raise
    return LoadedVariant(direction, VariantLayout(npa_gen, ipv6), program, maps)
