"""Every generation of the datapath in both families: sizes, and what is peculiar to each (agent facts 0.3, 1, 3)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from tests.lab import bpfsys, build
from tests.lab.datapath_variant import APPLIED, DEFAULT_ALLOW, DEFAULT_DENY, LoadedVariant, VariantLayout, load
from tests.lab.frames import ETHERTYPE, TCP, frame
from tests.lab.require import require_lab

OK, SHOT = bpfsys.TC_ACT_OK, bpfsys.TC_ACT_SHOT
# (peer, pod, a third address, what contains them all)
ENDS = {
    False: ("10.0.1.2", "10.0.1.1", "10.0.1.9", "10.0.0.0/8"),
    True: ("fd00:1::2", "fd00:1::1", "fd00:1::9", "fd00::/16"),
}
FAMILIES = (False, True)

# Agent facts 1.5 and 1.6: (conntrack key, value), IPv4 and IPv6; 1.7: event record; 2: number of maps.
SIZES = {
    10001: ((16, 4), (38, 16)),
    10004: ((16, 4), (40, 16)),
    10005: ((20, 1), (56, 1)),
    10100: ((20, 1), (56, 1)),
    10200: ((20, 1), (56, 1)),
    10202: ((20, 1), (56, 1)),
    10204: ((20, 1), (56, 1)),
    10300: ((20, 1), (56, 1)),
    10307: ((24, 1), (60, 1)),
    10402: ((24, 16), (60, 16)),
}
CONNTRACK_ENTRIES = {10001: 65536, 10004: 65536, 10005: 65536, 10100: 262144}
OLD = (10001, 10004, 10005, 10100)
STATES = (10200, 10202, 10204)
TIERS = (10300, 10307, 10402)


def variant_ids(variant: tuple[str, int, bool]) -> str:
    direction, npa_gen, ipv6 = variant
    return f"{direction}-{npa_gen}-v{6 if ipv6 else 4}"


def of(
    *generations: int, directions: tuple[str, ...] = ("ingress",), families: tuple[bool, ...] = FAMILIES
) -> pytest.MarkDecorator:
    """Runs a test for these generations in each family and direction."""
    chosen = [(d, g, v6) for g in generations for v6 in families for d in directions]
    return pytest.mark.parametrize("program", chosen, ids=variant_ids, indirect=True)


every = of(*build.NPA_GENERATIONS, directions=build.DIRECTIONS)
every_ingress = of(*build.NPA_GENERATIONS)


class Program:
    """A loaded variant with the addresses of its family."""

    def __init__(self, variant: LoadedVariant) -> None:
        self.v = variant
        self.peer, self.pod, self.third, self.block = ENDS[variant.layout.ipv6]
        self.host = f"{self.peer}/{128 if variant.layout.ipv6 else 32}"
        self.generation = variant.layout.npa_gen

    @property
    def egress(self) -> bool:
        return self.v.direction == "egress"

    def packet(self, protocol: int = TCP, dport: int = 80, **more: object) -> bytes:
        """A frame of the peer's flow in this direction; the peer is the one whose address is looked up."""
        ends = (self.pod, self.peer) if self.egress else (self.peer, self.pod)
        return frame(*ends, protocol, 40000, dport, **more)  # type: ignore[arg-type]

    def run(self, protocol: int = TCP, dport: int = 80, **more: object) -> int:
        return self.v.run(self.packet(protocol, dport, **more))

    def key(self, reverse: bool = False, owner: str | None = None, protocol: int = TCP, dport: int = 80) -> bytes:
        ends = [(self.pod, 40000), (self.peer, dport)] if self.egress else [(self.peer, 40000), (self.pod, dport)]
        (src, sport), (dst, dport) = reversed(ends) if reverse else ends
        return self.v.layout.conntrack_key(src, sport, dst, dport, protocol, owner or self.pod)

    def know(self, made_in: int = 1, reverse: bool = False, owner: str | None = None, value_of: str = "") -> None:
        """Puts a conntrack entry of the flow there."""
        value = self.v.layout.conntrack_value(made_in, value_of or self.pod)
        self.v.put_conntrack(self.key(reverse, owner), value)

    def verdicts(self) -> list[int]:
        at = 44 if self.v.layout.ipv6 else 20
        return [struct.unpack_from("<I", e, at)[0] for e in self.v.events.read()]


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    require_lab()
    direction, npa_gen, ipv6 = request.param
    with load(direction, npa_gen, ipv6) as variant:
        yield Program(variant)


# what is loaded ----------------------------------------


@every
def test_maps_are_those_of_the_facts(program: Program) -> None:
    v, generation, v6 = program.v, program.generation, program.v.layout.ipv6
    info = bpfsys.prog_info(v.program)
    expected_maps = 5 if generation >= 10300 else 4 if generation >= 10200 else 3
    assert (info.name, info.btf_id, info.type, len(info.map_ids)) == ("", 0, bpfsys.SCHED_CLS, expected_maps)
    lpm, d = 20 if v6 else 8, v.direction
    shape = {n: bpfsys.map_info(fd) for n, fd in v.maps.items()}
    assert {(m.name, m.btf_id) for m in shape.values()} == {("", 0)}
    found = {n: (m.type, m.key_size, m.value_size, m.max_entries, m.flags) for n, m in shape.items()}
    ct = found.pop("aws_conntrack_map")
    assert (ct[0], ct[1:3], ct[4]) == (9, SIZES[generation][v6], 0)
    assert (v.layout.conntrack_key_size, v.layout.conntrack_value_size) == ct[1:3]
    expected = {
        f"{d}_map": (11, lpm, 288 if generation >= 10005 else 96, 65536, 1),
        "policy_events": (27, 0, 0, 524288 if generation >= 10200 else 262144, 0),
    }
    if generation >= 10200:
        expected[f"{d}_pod_state_map"] = (1, 4, 1, 2 if generation >= 10300 else 1, 1)
    if generation >= 10300:
        expected[f"cp_{d}_map"] = (11, lpm, 384, 65536, 1)
    assert found == expected


@pytest.mark.parametrize(("npa_gen", "ipv6"), build.variants())
def test_conntrack_of_its_real_size(npa_gen: int, ipv6: bool) -> None:
    require_lab()
    with load("ingress", npa_gen, ipv6, conntrack_size=None) as variant:
        assert bpfsys.map_info(variant.conntrack_map).max_entries == CONNTRACK_ENTRIES.get(npa_gen, 524288)


def test_any_version_number_builds_as_the_variant_it_belongs_to() -> None:
    require_lab()

    def compiled(npa_gen: int) -> bytes:
        return build.compile_datapath("egress", build.defines(npa_gen, True))

    for version, variant in ((10002, 10001), (10008, 10005), (10106, 10100), (10201, 10200), (10207, 10204),
                             (10305, 10300), (10401, 10307), (10403, 10402)):  # fmt: skip
        assert compiled(version) == compiled(variant), version


# what every generation does ----------------------------------------


@every
def test_entry_and_event_of_an_allowed_flow(program: Program) -> None:
    v, layout = program.v, program.v.layout
    v.set_state(APPLIED)
    v.put_np(program.host, (6, 80, 0))
    assert program.run() == OK
    ((key, value),) = v.conntrack().items()
    assert key == program.key()
    made_in = 5 if program.generation >= 10300 else 1
    last_seen = struct.unpack("<QQ", value)[1] if program.generation >= 10402 else 0
    assert value == layout.conntrack_value(made_in, program.pod, last_seen)
    assert last_seen or program.generation < 10402
    family = socket.AF_INET6 if layout.ipv6 else socket.AF_INET
    src, dst = (program.pod, program.peer) if program.egress else (program.peer, program.pod)
    record = socket.inet_pton(family, src) + struct.pack("<I", 40000)
    record += socket.inet_pton(family, dst) + struct.pack("<III", 80, 6, 1)
    if program.generation >= 10202:
        tier = 2 if program.generation >= 10300 else 0
        record += struct.pack("<IBBxx", len(program.packet()), program.egress, tier)
    assert v.events.read() == [record]
    assert program.run() == OK
    assert v.events.read() == [], "a conntrack hit is not logged"


@every
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"ethertype": 0x0806}, id="arp"),
        pytest.param({"ethertype": 0x8100}, id="vlan"),
        pytest.param({"ethertype": None}, id="other family"),
        pytest.param({"version": 5}, id="version nibble"),
        pytest.param({"l4_size": 19}, id="short tcp"),
        pytest.param({"protocol": 17, "l4_size": 7}, id="short udp"),
        pytest.param({"protocol": 132, "l4_size": 11}, id="short sctp"),
    ],
)
def test_what_is_not_judged_passes(program: Program, fields: dict[str, int | None]) -> None:
    program.v.set_state(DEFAULT_DENY)
    if "ethertype" in fields and fields["ethertype"] is None:
        fields = {"ethertype": ETHERTYPE[4 if program.v.layout.ipv6 else 6]}
    assert program.run(**fields) == OK  # type: ignore[arg-type]
    assert (program.run(), program.verdicts()) == (SHOT, [0])


@every
def test_only_icmp_of_ipv6_passes_always(program: Program) -> None:
    program.v.set_state(DEFAULT_DENY)
    assert program.run(protocol=58) == (OK if program.v.layout.ipv6 else SHOT)
    assert program.run(protocol=1) == SHOT


@every_ingress
def test_other_protocols_have_port_0(program: Program) -> None:
    """Also IPv6 extension headers: the packet's TCP header behind one is not looked at."""
    v = program.v
    v.set_state(APPLIED)
    v.put_np(program.host, (43, 80, 0))
    assert program.run(protocol=43) == SHOT
    v.put_np(program.host, (43, 0, 0))
    assert program.run(protocol=43) == OK
    assert set(v.conntrack()) == {v.layout.conntrack_key(program.peer, 0, program.pod, 0, 43, program.pod)}
    v.put_np(program.host, (6, 80, 0))
    v.clear()
    v.set_state(APPLIED)
    v.put_np(program.host, (6, 80, 0))
    hop_options = struct.pack("!BB6x", TCP, 0) + struct.pack("!HH16x", 40000, 80)
    assert program.run(protocol=60, payload=hop_options) == SHOT


@of(*build.NPA_GENERATIONS, families=(False,))
def test_ipv4_ports_are_read_at_a_fixed_offset(program: Program) -> None:
    program.v.set_state(APPLIED)
    program.v.put_np(program.host, (6, 0x1234, 0))
    assert program.run(dport=80, options=bytes.fromhex("94041234")) == OK


@every_ingress
def test_reverse_entry_passes(program: Program) -> None:
    program.v.set_state(APPLIED)
    assert program.run() == SHOT
    program.know(reverse=True)
    assert program.run() == OK
    assert set(program.v.conntrack()) == {program.key(reverse=True)}, "and makes no entry"


@every_ingress
def test_only_the_longest_prefix_counts(program: Program) -> None:
    program.v.set_state(APPLIED)
    program.v.put_np(program.block, (254, 0, 0))
    program.v.put_np(program.host, (6, 443, 0))
    assert program.run() == SHOT
    assert program.v.run(frame(program.third, program.pod)) == OK


SLOTS = [
    ((6, 80, 0), 6, 80, True), ((6, 80, 0), 6, 81, False), ((6, 80, 0), 17, 80, False), ((6, 80, 90), 6, 80, True),
    ((6, 80, 90), 6, 90, True), ((6, 80, 90), 6, 91, False), ((6, 80, 90), 6, 79, False), ((6, 80, 70), 6, 75, False),
    ((6, 0, 0), 6, 1234, True), ((6, 0, 0), 17, 1234, False), ((6, 0, 90), 6, 1234, True), ((17, 53, 0), 17, 53, True),
    ((132, 80, 0), 132, 80, True), ((254, 0, 0), 47, 0, True), ((254, 80, 0), 17, 80, True),
    ((254, 80, 90), 6, 85, True), ((255, 0, 0), 6, 80, False), ((255, 0, 0), 255, 0, False),
]  # fmt: skip


@every_ingress
def test_slots(program: Program) -> None:
    for slot, protocol, port, allowed in SLOTS:
        program.v.clear()
        program.v.set_state(APPLIED)
        program.v.put_np(program.host, slot)
        assert program.run(protocol, port) == (OK if allowed else SHOT), (slot, protocol, port)
        assert program.verdicts() == [int(allowed)]


@every_ingress
def test_any_slot_and_ports(program: Program) -> None:
    """Agent facts 3.5: before 1.2.4 a 254 slot with a port means any port."""
    program.v.set_state(APPLIED)
    program.v.put_np(program.host, (254, 80, 0))
    wide = OK if program.generation < 10204 else SHOT
    assert [program.run(6, 80), program.run(6, 81), program.run(17, 81), program.run(47, 0)] == [OK, wide, wide, wide]


@every_ingress
def test_reserved_slot_stops_the_scan_where_it_stands(program: Program) -> None:
    program.v.set_state(APPLIED)
    program.v.put_np(program.host, (6, 80, 0), (255, 0, 0), (6, 81, 0))
    assert (program.run(dport=80), program.run(dport=81)) == (OK, SHOT)


@every
def test_how_many_slots_are_looked_at(program: Program) -> None:
    layout = program.v.layout
    program.v.set_state(APPLIED)
    program.v.put_np(program.host, *[(6, 1000 + i, 0) for i in range(layout.np_slots)])
    reached = 4 if layout.ipv6 and program.generation < 10005 else 8 if program.generation < 10005 else 24
    assert layout.np_slots_scanned == reached
    allowed = [program.run(dport=1000 + i) == OK for i in range(layout.np_slots + 1)]
    assert allowed == [i < reached for i in range(layout.np_slots + 1)]


@every_ingress
def test_zero_slot_quirk(program: Program) -> None:
    program.v.set_state(APPLIED)
    program.v.put_np(program.host, (6, 80, 0))
    assert program.run(protocol=0) == OK
    program.v.clear()
    program.v.set_state(APPLIED)
    program.v.put_np(program.host, (255, 0, 0))
    assert program.run(protocol=0) == SHOT


# 1.0.1 to 1.1.6 ----------------------------------------


@of(*OLD, directions=build.DIRECTIONS)
def test_without_pod_state_an_empty_map_denies(program: Program) -> None:
    assert program.run() == SHOT
    program.v.put_np("::/0" if program.v.layout.ipv6 else "0.0.0.0/0", (254, 0, 0))
    assert program.run() == OK


@of(*OLD)
def test_established_flow_survives_every_change(program: Program) -> None:
    program.know(made_in=1)
    assert program.run() == OK
    assert (program.verdicts(), len(program.v.conntrack())) == ([], 1)


@of(10001, 10004, directions=build.DIRECTIONS)
def test_entry_of_another_pod_is_no_hit(program: Program) -> None:
    program.know(value_of=program.third)
    assert program.run() == SHOT
    assert program.v.conntrack() == {program.key(): program.v.layout.conntrack_value(owner=program.third)}
    program.v.put_np(program.host, (6, 80, 0))
    assert program.run() == OK
    assert program.v.conntrack() == {program.key(): program.v.layout.conntrack_value(owner=program.pod)}


@of(10001, 10004, directions=build.DIRECTIONS)
def test_reverse_entry_of_another_pod_is_no_hit(program: Program) -> None:
    program.know(reverse=True, value_of=program.third)
    assert program.run() == SHOT
    program.know(reverse=True)
    assert program.run() == OK


@of(10001, 10004, directions=build.DIRECTIONS)
def test_reverse_is_asked_after_a_forward_entry_of_another_pod(program: Program) -> None:
    program.know(value_of=program.third)
    program.know(reverse=True)
    assert program.run() == OK


@of(10001, 10004, families=(True,))
def test_ipv6_owner_is_compared_by_its_last_four_bytes(program: Program) -> None:
    program.know(value_of="2001:db8:9:9:9:9::1")
    assert program.run() == OK
    program.know(value_of="fd00:1::1:1")
    assert program.run() == SHOT


@of(10005, 10100, *STATES, *TIERS, directions=build.DIRECTIONS)
def test_owner_in_the_key(program: Program) -> None:
    program.v.set_state(APPLIED)
    made_in = 5 if program.generation >= 10300 else 1
    program.know(made_in, owner=program.third)
    program.know(made_in, owner=program.third, reverse=True)
    assert program.run() == SHOT
    program.know(made_in)
    assert program.run() == OK


@of(10005, 10100)
def test_value_is_not_compared(program: Program) -> None:
    program.know(made_in=77)
    assert program.run() == OK
    assert list(program.v.conntrack().values()) == [b"\x4d"]


# 1.2.0 to 1.2.7 ----------------------------------------


@of(*STATES, directions=build.DIRECTIONS)
def test_default_deny_drops_everything(program: Program) -> None:
    program.v.set_state(DEFAULT_DENY)
    program.v.put_np(program.host, (254, 0, 0))
    program.know(1)
    program.know(1, reverse=True)
    assert (program.run(), program.verdicts()) == (SHOT, [0])
    assert len(program.v.conntrack()) == 2, "and deletes nothing"


@of(*STATES, *TIERS, directions=build.DIRECTIONS)
def test_missing_state_drops(program: Program) -> None:
    program.v.put_np(program.host, (254, 0, 0))
    program.know(1, reverse=True)
    assert (program.run(), program.verdicts()) == (SHOT, [0])


@of(*STATES)
def test_in_default_allow_maps_are_not_read(program: Program) -> None:
    program.v.set_state(DEFAULT_ALLOW)
    program.v.put_np(program.host, (255, 0, 0))
    assert (program.run(), program.verdicts()) == (OK, [1])
    assert program.v.conntrack() == {program.key(): b"\0"}


@of(*STATES)
@pytest.mark.parametrize(
    ("value", "state", "rule", "verdict", "after"),
    [
        pytest.param(0, DEFAULT_ALLOW, False, OK, 0, id="open then and now"),
        pytest.param(1, APPLIED, False, OK, 1, id="policy then and now"),
        pytest.param(1, DEFAULT_ALLOW, False, OK, 0, id="policy went: rewritten"),
        pytest.param(0, APPLIED, True, OK, 1, id="policy came and allows: rewritten"),
        pytest.param(0, APPLIED, False, SHOT, None, id="policy came and denies: deleted"),
    ],
)
@pytest.mark.parametrize("reverse", [False, True], ids=["", "with reverse"])
def test_forward_entry_and_state(
    program: Program, value: int, state: int, rule: bool, verdict: int, after: int | None, reverse: bool
) -> None:
    """The reverse entry changes nothing: while there is a forward one it is not asked."""
    program.v.set_state(state)
    program.know(value)
    if reverse:
        program.know(1, reverse=True)
    if rule:
        program.v.put_np(program.host, (6, 80, 0))
    assert program.run() == verdict
    left = program.v.conntrack()
    left.pop(program.key(reverse=True), None)
    assert left == ({} if after is None else {program.key(): bytes([after])})


@of(*STATES)
@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("state", [APPLIED, DEFAULT_ALLOW])
def test_reverse_entry_of_any_value(program: Program, value: int, state: int) -> None:
    program.v.set_state(state)
    program.know(value, reverse=True)
    assert (program.run(), program.verdicts()) == (OK, [])
    assert program.v.conntrack() == {program.key(reverse=True): bytes([value])}


# 1.3.0 and later ----------------------------------------


@of(*TIERS, directions=build.DIRECTIONS)
def test_both_states_are_needed(program: Program) -> None:
    program.v.put_np(program.host, (254, 0, 0))
    for np, cp, verdict in ((APPLIED, None, SHOT), (None, APPLIED, SHOT), (APPLIED, DEFAULT_ALLOW, OK)):
        program.v.set_state(np, cp)
        assert program.run() == verdict


@of(*TIERS)
@pytest.mark.parametrize(
    ("np", "cp", "pair"),
    [(DEFAULT_ALLOW, DEFAULT_ALLOW, 2), (DEFAULT_ALLOW, DEFAULT_DENY, 3), (DEFAULT_ALLOW, APPLIED, 4),
     (APPLIED, DEFAULT_ALLOW, 5), (APPLIED, DEFAULT_DENY, 6), (APPLIED, APPLIED, 7), (DEFAULT_DENY, DEFAULT_ALLOW, 7),
     (DEFAULT_DENY, DEFAULT_DENY, 7), (DEFAULT_DENY, APPLIED, 7)],
)  # fmt: skip
def test_state_pair(program: Program, np: int, cp: int, pair: int) -> None:
    program.v.set_state(np, cp)
    program.v.put_np(program.host, (6, 80, 0))
    assert program.run() == OK
    assert [program.v.layout.made_in(v) for v in program.v.conntrack().values()] == [pair]
    program.v.put_np(program.host, (6, 81, 0))
    assert program.run() == OK, "a rule change with the same states does not end it"
    other = next(p for p in range(2, 8) if p != pair)
    program.know(other)
    program.know(pair, reverse=True)
    assert program.run() == SHOT, "of another pair: judged again, and the reverse is not asked"
    assert set(program.v.conntrack()) == {program.key(reverse=True)}
    assert program.run() == OK


@of(*TIERS)
def test_tiers(program: Program) -> None:
    v = program.v
    table = [
        # NetworkPolicy state, its rule, cluster rule -> verdict and tier
        (APPLIED, (6, 80, 0), (6, 100, 80, 0), SHOT, 1), (APPLIED, None, (6, 101, 80, 0), OK, 1),
        (APPLIED, (6, 80, 0), (6, 102, 80, 0), OK, 2), (APPLIED, None, (254, 101, 9999, 0), OK, 1),
        (APPLIED, None, (6, 20001, 80, 0), SHOT, 2), (DEFAULT_ALLOW, None, (6, 20000, 80, 0), SHOT, 3),
        (DEFAULT_DENY, None, (6, 20001, 80, 0), OK, 3), (DEFAULT_DENY, None, (6, 20002, 80, 0), SHOT, 4),
        (DEFAULT_ALLOW, None, None, OK, 4), (DEFAULT_ALLOW, (6, 443, 0), None, SHOT, 2),
    ]  # fmt: skip
    for np, rule, cluster_rule, verdict, tier in table:
        v.clear()
        v.set_state(np, APPLIED)
        if rule:
            v.put_np(program.host, rule)
        if cluster_rule:
            v.put_cp(program.host, cluster_rule)
        assert program.run() == verdict, (np, rule, cluster_rule)
        (record,) = v.events.read()
        assert record[53 if v.layout.ipv6 else 29] == tier, (np, rule, cluster_rule)


@of(10307, 10402)
def test_interface_in_the_key(program: Program) -> None:
    program.v.set_state(APPLIED)
    ends = (program.peer, 40000, program.pod, 80, TCP, program.pod)
    program.v.put_conntrack(program.v.layout.conntrack_key(*ends, ifindex=99), program.v.layout.conntrack_value(5))
    assert program.run() == SHOT


@of(10402)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_hit_renews_last_seen(program: Program, reverse: bool) -> None:
    program.v.set_state(APPLIED)
    program.know(5, reverse=reverse)
    assert program.run() == OK
    ((key, value),) = program.v.conntrack().items()
    assert key == program.key(reverse)
    assert struct.unpack("<QQ", value)[0] == 5
    assert struct.unpack("<QQ", value)[1] > 0


def test_layout_refuses_the_other_family() -> None:
    with pytest.raises(ValueError, match="family"):
        VariantLayout(10307, ipv6=False).lpm_key("fd00::/8")
