"""Random maps, states, conntrack tables and packets: what the model says, and what the loaded program returns.

A world is one set of map contents in real maps of one datapath variant. It is read back from the kernel and decoded
as the product decodes a node's maps; then every packet goes through BPF_PROG_TEST_RUN and through the model. The
only entry that a packet can change, its own in conntrack, is put back after each one.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address

from kubectl_netpol.kernel import decode, layouts
from kubectl_netpol.kernel.verdict import decide, scan
from kubectl_netpol.model.flow import Direction, Flow, host_network
from kubectl_netpol.model.kernel import MapView
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from tests.lab import bpfsys, build
from tests.lab.datapath_variant import LoadedVariant, load
from tests.lab.frames import frame

IFINDEX = 1
"""BPF_PROG_TEST_RUN uses the loopback link of the caller's namespace where nothing else is asked for."""
POD = {4: "10.0.99.99", 6: "fd00:99::99"}
# Few values, so that packets, entries and slots meet often; the edges are all there. Two of the IPv6 addresses
# end like the pod's: programs of 1.0.x compare the last 4 bytes only.
PEERS = {
    4: ["10.0.0.7", "10.0.0.8", "10.0.1.7", "10.0.0.0", "192.0.2.1", "255.255.255.255", "0.0.0.0"],
    6: ["fd00::7", "fd00::8", "fd00:0:0:1::7", "2001:db8::1", "fd00:98::99", "::", "ffff::ffff"],
}
LENGTHS = {4: [0, 0, 1, 8, 16, 24, 31, 32, 32, 32], 6: [0, 0, 1, 16, 32, 64, 127, 128, 128, 128]}
PORTS = [0, 1, 79, 80, 80, 81, 90, 91, 443, 65534, 65535]
SOURCE_PORTS = [0, 80, 40000, 40001]
PROTOCOLS = [6, 6, 6, 17, 17, 132, 1, 58, 0, 2, 47, 253, 254, 255]
SLOT_PROTOCOLS = [6, 6, 6, 17, 132, 254, 254, 254, 255, 0, 1, 47]
PRIORITIES = [0, 1, 5, 999, 1000, 1001, 2000, 2005, 3000]
ACTIONS = [0, 0, 1, 1, 2, 2, 2, 5]
STATES = [0, 0, 0, 1, 1, 2, None]


UNSEEN = ("ESTABLISHED", "REPLY", "ICMPV6", "OTHER_FAMILY")
"""Verdicts by which a packet passes before the program looks at the rules: no policy event is written then."""
TIERS = ("ERROR", "ADMIN", "NETWORK_POLICY", "BASELINE", "DEFAULT")
"""By their number in the policy event of agents >= 1.3.0."""


@dataclass(frozen=True)
class Event:
    """What the program itself says of its decision, in its policy event."""

    verdict: int
    """1 allow, 0 deny."""
    tier: str
    """Empty before 1.3.0."""


@dataclass(frozen=True)
class Case:
    """One packet, and both answers."""

    variant: tuple[str, int, bool]
    """direction, agent as a number, IPv6."""
    flow: Flow
    model: Verdict
    kernel: int
    """What the program returned: 0 TC_ACT_OK, 2 TC_ACT_SHOT."""
    event: Event | None
    maps: dict[str, MapView]

    @property
    def open(self) -> bool:
        """Agents 1.2.0 to 1.2.3 and 1.2.4 to 1.2.7 have equal maps and differ in one rule: the model may not guess."""
        return self.model.code == "ANY_PROTOCOL_PORTS" and 10200 <= self.variant[1] < 10300

    @property
    def disagreement(self) -> str:
        """What the model and the program do not agree on; empty where they do."""
        allowed = {bpfsys.TC_ACT_OK: True, bpfsys.TC_ACT_SHOT: False}[self.kernel]
        if allowed is not self._expected():
            return f"the program returns {self.kernel}"
        if (self.event is None) is not (self.model.code in UNSEEN):
            return f"the policy event is {self.event}"
        if self.event is not None and bool(self.event.verdict) is not allowed:
            return f"the policy event says {self.event}"
        if self.event is not None and self.event.tier != (self.model.decided.get("tier") or ""):
            return f"the policy event says {self.event.tier or 'no tier'}"
        return self._prefix_is_wrong()

    def _expected(self) -> bool:
        """The model's answer; where it must leave one open, what it says once it is told the version."""
        if not self.open:
            assert self.model.decision is not Decision.UNKNOWN, self.model
            return self.model.decision is Decision.ALLOW
        table = self.maps["np"].lpm
        entry = table.lookup(host_network(self.flow.peer(Direction(self.variant[0])))) if table else None
        assert entry is not None
        return scan(entry, self.flow, any_checks_ports=self.variant[1] >= 10204)[1]

    def _prefix_is_wrong(self) -> str:
        """The entry that is said to decide has to be the longest of its map that holds the peer."""
        decided = self.model.decided
        if "prefix" not in decided:
            return ""
        peer = self.flow.peer(Direction(self.variant[0]))
        [view] = [view for view in self.maps.values() if view.id == decided["mapId"]]
        assert view.lpm is not None
        holding = [entry.prefix for entry in view.lpm.entries if peer in entry.prefix]
        longest = max(holding, key=lambda prefix: prefix.prefixlen)
        return "" if str(longest) == decided["prefix"] else f"the longest prefix is {longest}"


def variants() -> list[tuple[str, int, bool]]:
    """(direction, agent as a number, IPv6) of everything that the lab can build."""
    return [(direction, gen, ipv6) for gen, ipv6 in build.variants() for direction in ("ingress", "egress")]


@cache
def loaded(direction: str, npa_gen: int, ipv6: bool) -> LoadedVariant:
    """Loaded once a process; closed with it."""
    return load(direction, npa_gen, ipv6)


def cases(variant: tuple[str, int, bool], seed: int, worlds: int, packets: int) -> Iterator[Case]:
    """``worlds`` times ``packets`` cases. The seed alone decides what they are."""
    choose = random.Random(f"{seed} {variant}")
    under_test = loaded(*variant)
    for _ in range(worlds):
        yield from _world(variant, under_test, choose, packets)


def _world(
    variant: tuple[str, int, bool], under_test: LoadedVariant, choose: random.Random, packets: int
) -> Iterator[Case]:
    established = _fill(under_test, choose)
    under_test.events.read()
    maps = views(under_test.maps.values())
    direction = Direction(variant[0])
    table = under_test.conntrack()
    for _ in range(packets):
        flow = _flow(direction, variant[2], established, choose)
        sport = flow.source_port or 0
        packet = frame(str(flow.source), str(flow.destination), flow.protocol, sport, flow.port)
        known = flow if flow.protocol in (6, 17, 132) else Flow(flow.source, flow.destination, flow.protocol, 0, 0)
        verdict = decide(Layer.ATTACHED, direction, known, maps, (), IFINDEX)
        returned = under_test.run(packet)
        yield Case(variant, known, verdict, returned, _event(under_test), maps)
        if known.source.version == (6 if variant[2] else 4):
            _put_back(under_test, table, known, direction)


def _event(under_test: LoadedVariant) -> Event | None:
    """The record that the last run wrote: addresses and ports, protocol and verdict, from 1.3.0 on the tier too."""
    records = under_test.events.read()
    if not records:
        return None
    [record] = records
    layout = under_test.layout
    at = 2 * (16 if layout.ipv6 else 4) + 12
    tier = TIERS[record[at + 9]] if layout.npa_gen >= 10300 else ""
    return Event(struct.unpack_from("<I", record, at)[0], tier)


def _put_back(under_test: LoadedVariant, table: dict[bytes, bytes], flow: Flow, direction: Direction) -> None:
    owner = str(flow.owner(direction))
    key = under_test.layout.conntrack_key(
        str(flow.source), flow.source_port or 0, str(flow.destination), flow.port, flow.protocol, owner, IFINDEX
    )
    if key in table:
        under_test.put_conntrack(key, table[key])
    else:
        bpfsys.map_delete(under_test.conntrack_map, key)


# ---- random contents


def _fill(under_test: LoadedVariant, choose: random.Random) -> list[Flow]:
    """Fills all maps; returns the flows of the conntrack entries."""
    layout = under_test.layout
    family = 6 if layout.ipv6 else 4
    under_test.clear()
    under_test.set_state(choose.choice(STATES), choose.choice(STATES))
    for _ in range(choose.randrange(5)):
        under_test.put_np(_prefix(family, choose), *_slots(layout.np_slots, choose))
    if layout.has_cluster_policy:
        for _ in range(choose.randrange(4)):
            slots = [(p, _word(choose), start, end) for p, start, end in _slots(24, choose)]
            under_test.put_cp(_prefix(family, choose), *slots)
    established = []
    for _ in range(choose.randrange(12)):
        flow = _entry(under_test, family, choose)
        established.append(flow)
        if choose.random() < 0.3:
            # The same flow the other way round: both lookups of the program would hit.
            _establish(under_test, _turned(flow), choose)
    return established


def _prefix(family: int, choose: random.Random) -> str:
    return f"{choose.choice(PEERS[family])}/{choose.choice(LENGTHS[family])}"


def _slots(room: int, choose: random.Random) -> list[tuple[int, int, int]]:
    """Mostly a few; sometimes all, when no unused slot is left to match protocol 0; sometimes beyond the fourth."""
    count = choose.choice([0, 1, 1, 2, 3, 6, room])
    return [(choose.choice(SLOT_PROTOCOLS), choose.choice(PORTS), choose.choice([0, 0, *PORTS])) for _ in range(count)]


def _word(choose: random.Random) -> int:
    return choose.choice(PRIORITIES) * 10 + choose.choice(ACTIONS)


def _entry(under_test: LoadedVariant, family: int, choose: random.Random) -> Flow:
    """Often one that a packet of the pod meets, forward or reverse; else of another pod or another veth."""
    pod, peer = ip_address(POD[family]), ip_address(choose.choice(PEERS[family]))
    protocol = choose.choice([6, 6, 17, 132, 1, 47, 0])
    ports = (choose.choice(PORTS), choose.choice(SOURCE_PORTS)) if protocol in (6, 17, 132) else (0, 0)
    flow = Flow(peer, pod, protocol, *ports)
    flow = _turned(flow) if choose.random() < 0.5 else flow
    _establish(under_test, flow, choose)
    return flow


def _turned(flow: Flow) -> Flow:
    return Flow(flow.destination, flow.source, flow.protocol, flow.source_port or 0, flow.port)


def _establish(under_test: LoadedVariant, flow: Flow, choose: random.Random) -> None:
    layout = under_test.layout
    family = flow.source.version
    owner = choose.choice([POD[family]] * 3 + PEERS[family][-3:])
    ifindex = choose.choice([IFINDEX, IFINDEX, IFINDEX, 2])
    sport = flow.source_port or 0
    key = layout.conntrack_key(str(flow.source), sport, str(flow.destination), flow.port, flow.protocol, owner, ifindex)
    made_in = 1 if layout.pod_state_keys == 0 else choose.choice([0, 1] if layout.pod_state_keys == 1 else range(2, 8))
    under_test.put_conntrack(key, layout.conntrack_value(made_in, owner, last_seen=choose.randrange(1 << 40)))


def _flow(direction: Direction, ipv6: bool, established: list[Flow], choose: random.Random) -> Flow:
    """Any packet to (or from) the pod; a third of them belong to an established flow."""
    own = ip_address(POD[6 if ipv6 else 4])
    if established and choose.random() < 0.33:
        flow = choose.choice(established)
        return flow if flow.owner(direction) == own else _turned(flow)
    return _any_flow(direction, ipv6, choose)


def _any_flow(direction: Direction, ipv6: bool, choose: random.Random) -> Flow:
    family = (6 if ipv6 else 4) if choose.random() < 0.97 else (4 if ipv6 else 6)
    ends = [ip_address(choose.choice(PEERS[family])), ip_address(POD[family])]
    if direction is Direction.EGRESS:
        ends.reverse()
    return Flow(*ends, choose.choice(PROTOCOLS), choose.choice(PORTS), choose.choice([*SOURCE_PORTS, *PORTS]))


# ---- as the product sees them


def views(descriptors: Iterable[int]) -> dict[str, MapView]:
    """Maps by role, read back from the kernel and decoded as the product decodes those of a node."""
    found = {}
    for fd in descriptors:
        info = bpfsys.map_info(fd)
        layout = layouts.layout_of(info.type, info.key_size, info.value_size)
        assert layout is not None, f"the variant has a map that the product does not know: {info}"
        contents = {} if layout.role == "events" else _contents(fd, layout)
        found[layout.role] = MapView(
            info.id,
            layout.role,
            layout.name,
            info.type,
            info.key_size,
            info.value_size,
            info.max_entries,
            family=layout.family,
            **contents,
        )
    return found


def _contents(fd: int, layout: layouts.Layout) -> dict[str, object]:
    items = bpfsys.map_items(fd)
    keys, values = b"".join(items), b"".join(items.values())
    if layout.role in ("np", "cp"):
        return {"lpm": decode.lpm_entries(keys, values, layout)}
    if layout.role == "pod_state":
        return {"states": decode.pod_states(keys, values)}
    return {"conntrack": decode.conntrack_entries(keys, values, layout)}
