"""The datapath's verdicts on single frames, by BPF_PROG_TEST_RUN (agent facts 3.1, 3.4 and 3.6)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.lab import bpfsys, build, elf
from tests.lab.require import require_lab
from tests.lab.ringbuf import RingBuffer

OK, SHOT = bpfsys.TC_ACT_OK, bpfsys.TC_ACT_SHOT
PEER, POD = "10.0.1.2", "10.0.1.1"
APPLIED, ALLOW, DENY = 0, 1, 2
ADMIN, NETWORK_POLICY, BASELINE, DEFAULT, ERROR = 1, 2, 3, 4, 0


def frame(
    protocol: int = 6,
    src: str = PEER,
    dst: str = POD,
    sport: int = 40000,
    dport: int = 80,
    ethertype: int = 0x0800,
    version: int = 4,
    l4: int | None = None,
) -> bytes:
    size = {6: 20, 17: 8, 132: 12}.get(protocol, 8) if l4 is None else l4
    body = struct.pack("!HH", sport, dport).ljust(20, b"\0")[:size]
    head = struct.pack("!BBHHHBBH", version << 4 | 5, 0, 20 + len(body), 0, 0, 64, protocol, 0)
    ends = socket.inet_aton(src) + socket.inet_aton(dst)
    return bytes(12) + struct.pack("!H", ethertype) + head + ends + body


class Program:
    """One direction, loaded with its own maps."""

    def __init__(self, direction: str) -> None:
        self.direction = direction
        obj = elf.parse(build.compile_datapath(direction))
        self.maps = {
            n: bpfsys.map_create(
                m.type, m.key_size, m.value_size, 1024 if n == "aws_conntrack_map" else m.max_entries, m.flags
            )
            for n, m in obj.maps.items()
        }
        self.fd = bpfsys.prog_load(obj.link(self.maps), obj.license)
        self.events = Events(self.maps["policy_events"])

    def close(self) -> None:
        self.events.close()
        for fd in (self.fd, *self.maps.values()):
            os.close(fd)

    def state(self, np: int | None, cp: int | None = ALLOW) -> None:
        fd = self.maps[f"{self.direction}_pod_state_map"]
        for key, value in ((0, np), (1, cp)):
            raw = struct.pack("<I", key)
            if value is None:
                bpfsys.map_delete(fd, raw)
            else:
                bpfsys.map_update(fd, raw, bytes([value]))

    def np(self, cidr: str, *slots: tuple[int, int, int]) -> None:
        body = b"".join(struct.pack("<3I", *s) for s in slots).ljust(288, b"\0")
        self._put(f"{self.direction}_map", cidr, body)

    def cp(self, cidr: str, *slots: tuple[int, int, int, int]) -> None:
        body = b"".join(struct.pack("<4I", *s) for s in slots).ljust(384, b"\0")
        self._put(f"cp_{self.direction}_map", cidr, body)

    def _put(self, name: str, cidr: str, value: bytes) -> None:
        address, _, length = cidr.partition("/")
        bpfsys.map_update(self.maps[name], struct.pack("<I", int(length)) + socket.inet_aton(address), value)

    def conntrack(self) -> dict[bytes, bytes]:
        return bpfsys.map_items(self.maps["aws_conntrack_map"])

    def run(self, **fields: object) -> int:
        return bpfsys.prog_test_run(self.fd, frame(**fields))  # type: ignore[arg-type]


class Events(RingBuffer):
    def last(self) -> tuple[int, int]:
        """(verdict, tier) of the newest record."""
        record = self.read()[-1]
        return struct.unpack_from("<I", record, 20)[0], record[29]


@pytest.fixture(params=["ingress"])
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    require_lab()
    made = Program(request.param)
    yield made
    made.close()


both = pytest.mark.parametrize("program", ["ingress", "egress"], indirect=True)


def ct_key(direction: str, reverse: bool = False, ifindex: int = 1, protocol: int = 6) -> bytes:
    ends = [(socket.inet_aton(PEER), 40000), (socket.inet_aton(POD), 80)]
    owner = ends[1][0] if direction == "ingress" else ends[0][0]
    (src, sport), (dst, dport) = reversed(ends) if reverse else ends
    head = src + struct.pack("<HH", sport, 0) + dst + struct.pack("<HBB", dport, protocol, 0)
    return head + owner + struct.pack("<I", ifindex)


@both
def test_objects_have_no_names_and_no_btf(program: Program) -> None:
    info = bpfsys.prog_info(program.fd)
    maps = {n: bpfsys.map_info(fd) for n, fd in program.maps.items()}
    assert (info.name, info.btf_id, info.type, len(info.map_ids)) == ("", 0, bpfsys.SCHED_CLS, 5)
    assert {(m.name, m.btf_id) for m in maps.values()} == {("", 0)}
    d = program.direction
    layout = {n: (m.type, m.key_size, m.value_size, m.max_entries, m.flags) for n, m in maps.items()}
    layout.pop("aws_conntrack_map")
    assert layout == {
        f"{d}_map": (11, 8, 288, 65536, 1),
        f"cp_{d}_map": (11, 8, 384, 65536, 1),
        f"{d}_pod_state_map": (1, 4, 1, 2, 1),
        "policy_events": (27, 0, 0, 524288, 0),
    }
    ct = maps["aws_conntrack_map"]
    assert (ct.type, ct.key_size, ct.value_size, ct.flags) == (9, 24, 1, 0)


@both
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"ethertype": 0x0806}, id="arp"),
        pytest.param({"ethertype": 0x8100}, id="vlan"),
        pytest.param({"ethertype": 0x86DD}, id="other family"),
        pytest.param({"version": 6}, id="version nibble"),
        pytest.param({"l4": 19}, id="short tcp"),
        pytest.param({"protocol": 17, "l4": 7}, id="short udp"),
        pytest.param({"protocol": 132, "l4": 11}, id="short sctp"),
    ],
)
def test_what_is_not_judged_passes(program: Program, fields: dict[str, int]) -> None:
    program.state(DENY)
    assert program.run(**fields) == OK
    assert program.events.read() == []
    assert program.run() == SHOT


@both
@pytest.mark.parametrize(("np", "cp"), [(None, ALLOW), (ALLOW, None), (None, None)])
def test_missing_pod_state_drops_with_tier_error(program: Program, np: int | None, cp: int | None) -> None:
    program.state(np, cp)
    assert program.run() == SHOT
    assert program.events.last() == (0, ERROR)


@both
@pytest.mark.parametrize(
    ("np", "cp", "pair"),
    [(ALLOW, ALLOW, 2), (ALLOW, DENY, 3), (ALLOW, APPLIED, 4), (APPLIED, ALLOW, 5), (APPLIED, DENY, 6),
     (APPLIED, APPLIED, 7), (DENY, ALLOW, 7), (DENY, DENY, 7), (DENY, APPLIED, 7)],
)  # fmt: skip
def test_conntrack_entry_and_event(program: Program, np: int, cp: int, pair: int) -> None:
    program.state(np, cp)
    program.np("10.0.0.0/8", (254, 0, 0))
    assert program.run() == OK
    assert program.conntrack() == {ct_key(program.direction): bytes([pair])}
    (record,) = program.events.read()
    egress = program.direction == "egress"
    assert record == (
        socket.inet_aton(PEER) + struct.pack("<I", 40000) + socket.inet_aton(POD)
        + struct.pack("<IIII", 80, 6, 1, len(frame())) + bytes([egress, NETWORK_POLICY, 0, 0])
    )  # fmt: skip
    assert program.run() == OK
    assert program.events.read() == [], "a conntrack hit is not logged"


def test_established_flow_survives_a_rule_change_but_not_a_state_change(program: Program) -> None:
    program.state(APPLIED)
    program.np("10.0.1.2/32", (6, 80, 0))
    assert program.run() == OK
    program.np("10.0.1.2/32", (6, 81, 0))
    assert program.run() == OK
    program.state(APPLIED, APPLIED)
    assert program.run() == SHOT
    assert program.conntrack() == {}


def test_reverse_entry_of_any_value_passes(program: Program) -> None:
    program.state(DENY)
    assert program.run() == SHOT
    bpfsys.map_update(program.maps["aws_conntrack_map"], ct_key("ingress", reverse=True), b"\x02")
    assert program.run() == OK


def test_reverse_is_not_asked_when_a_forward_entry_is_outdated(program: Program) -> None:
    program.state(APPLIED)
    ct = program.maps["aws_conntrack_map"]
    bpfsys.map_update(ct, ct_key("ingress", reverse=True), b"\x05")
    bpfsys.map_update(ct, ct_key("ingress"), b"\x02")
    assert program.run() == SHOT
    assert set(program.conntrack()) == {ct_key("ingress", reverse=True)}
    assert program.run() == OK, "now there is no forward entry, and the reverse one counts"


def test_conntrack_of_another_interface_does_not_count(program: Program) -> None:
    program.state(APPLIED)
    bpfsys.map_update(program.maps["aws_conntrack_map"], ct_key("ingress", ifindex=99), b"\x05")
    assert program.run() == SHOT


@pytest.mark.parametrize(
    ("slot", "protocol", "port", "verdict"),
    [
        ((6, 80, 0), 6, 80, OK), ((6, 80, 0), 6, 81, SHOT), ((6, 80, 0), 17, 80, SHOT),
        ((6, 80, 90), 6, 80, OK), ((6, 80, 90), 6, 90, OK), ((6, 80, 90), 6, 91, SHOT),
        ((6, 80, 90), 6, 79, SHOT),
        ((6, 0, 0), 6, 1234, OK), ((6, 0, 0), 17, 1234, SHOT),
        ((254, 0, 0), 1, 0, OK), ((254, 80, 0), 1, 0, SHOT), ((254, 80, 0), 17, 80, OK),
        ((254, 80, 0), 6, 81, SHOT),
        ((255, 0, 0), 6, 80, SHOT), ((132, 80, 0), 132, 80, OK),
    ],
)  # fmt: skip
def test_network_policy_slots(
    program: Program, slot: tuple[int, int, int], protocol: int, port: int, verdict: int
) -> None:
    program.state(APPLIED)
    program.np("10.0.1.2/32", slot)
    assert program.run(protocol=protocol, dport=port) == verdict
    assert program.events.last() == (int(verdict == OK), NETWORK_POLICY)


def test_only_the_longest_prefix_counts(program: Program) -> None:
    program.state(APPLIED)
    program.np("10.0.0.0/8", (254, 0, 0))
    program.np("10.0.1.2/32", (6, 443, 0))
    assert program.run() == SHOT
    assert program.run(src="10.9.9.9") == OK


def test_reserved_slot_stops_the_scan_where_it_stands(program: Program) -> None:
    program.state(APPLIED)
    program.np("10.0.1.2/32", (6, 80, 0), (255, 0, 0), (6, 81, 0))
    assert program.run(dport=80) == OK
    assert program.run(dport=81) == SHOT


def test_all_24_slots_are_looked_at(program: Program) -> None:
    program.state(APPLIED)
    program.np("10.0.1.2/32", *[(6, 1000 + i, 0) for i in range(24)])
    assert [program.run(dport=p) for p in (1000, 1023, 1024)] == [OK, OK, SHOT]


def test_zero_slot_quirk(program: Program) -> None:
    program.state(APPLIED)
    program.np("10.0.1.2/32", (6, 80, 0))
    assert program.run(protocol=0) == OK
    program.np("10.0.1.2/32", (255, 0, 0))
    bpfsys.map_delete(program.maps["aws_conntrack_map"], next(iter(program.conntrack())))
    assert program.run(protocol=0) == SHOT
    program.cp("10.0.1.2/32", (6, 11, 80, 0))
    program.np("10.0.1.2/32", (254, 0, 0))
    assert program.run(protocol=0) == SHOT
    assert program.events.last() == (0, ADMIN)


def test_map_entry_decides_even_in_default_allow(program: Program) -> None:
    program.state(ALLOW)
    assert program.run(src="10.0.1.9") == OK
    assert program.events.last() == (1, DEFAULT)
    program.np("10.0.1.2/32", (6, 443, 0))
    assert program.run() == SHOT
    assert program.events.last() == (0, NETWORK_POLICY)


def test_default_deny_without_entries(program: Program) -> None:
    program.state(DENY)
    assert program.run() == SHOT
    assert program.events.last() == (0, DEFAULT)


@pytest.mark.parametrize(
    ("slots", "np_allows", "verdict", "tier"),
    [
        pytest.param([(6, 100, 80, 0)], True, SHOT, ADMIN, id="deny wins over an allowing policy"),
        pytest.param([(6, 101, 80, 0)], False, OK, ADMIN, id="accept wins over a denying policy"),
        pytest.param([(6, 102, 80, 0)], True, OK, NETWORK_POLICY, id="pass goes on"),
        pytest.param([(6, 101, 80, 0), (6, 50, 80, 0)], True, SHOT, ADMIN, id="lower priority number wins"),
        pytest.param([(6, 101, 80, 0), (6, 100, 80, 0)], True, SHOT, ADMIN, id="tie: deny before accept"),
        pytest.param([(6, 102, 80, 0), (6, 101, 80, 0)], False, OK, ADMIN, id="tie: accept before pass"),
        pytest.param([(254, 100, 9999, 0)], True, SHOT, ADMIN, id="any protocol ignores its port"),
        pytest.param([(6, 10000, 80, 0)], True, SHOT, ADMIN, id="priority 1000 is still admin"),
        pytest.param([(6, 100, 79, 80)], True, SHOT, ADMIN, id="range, upper end"),
        pytest.param([(6, 100, 81, 90)], True, OK, NETWORK_POLICY, id="below the range"),
        pytest.param([(17, 100, 80, 0)], True, OK, NETWORK_POLICY, id="other protocol"),
        pytest.param([(6, 20000, 80, 0)], True, OK, NETWORK_POLICY, id="baseline comes after the policy"),
    ],
)
def test_cluster_policy_tiers(
    program: Program, slots: list[tuple[int, int, int, int]], np_allows: bool, verdict: int, tier: int
) -> None:
    program.state(APPLIED, APPLIED)
    program.cp("10.0.1.2/32", *slots)
    if np_allows:
        program.np("10.0.1.2/32", (6, 80, 0))
    assert program.run() == verdict
    assert program.events.last() == (int(verdict == OK), tier)


@pytest.mark.parametrize(
    ("np", "slots", "verdict", "tier"),
    [
        (ALLOW, [(6, 20000, 80, 0)], SHOT, BASELINE),
        (DENY, [(6, 20001, 80, 0)], OK, BASELINE),
        (DENY, [(6, 20002, 80, 0)], SHOT, DEFAULT),
        (APPLIED, [(6, 20001, 80, 0)], SHOT, NETWORK_POLICY),
        (ALLOW, [(6, 102, 80, 0), (6, 20000, 80, 0)], SHOT, BASELINE),
        (ALLOW, [(6, 20011, 80, 0), (6, 20000, 80, 0)], SHOT, BASELINE),
    ],
)
def test_baseline(program: Program, np: int, slots: list[tuple[int, int, int, int]], verdict: int, tier: int) -> None:
    program.state(np, APPLIED)
    program.cp("10.0.1.2/32", *slots)
    assert program.run() == verdict
    assert program.events.last() == (int(verdict == OK), tier)


@pytest.mark.parametrize("program", ["egress"], indirect=True)
def test_egress_looks_up_the_destination(program: Program) -> None:
    program.state(APPLIED)
    program.np("10.0.1.1/32", (6, 80, 0))
    assert program.run(src=PEER, dst=POD) == OK
    assert program.run(src=POD, dst=PEER) == SHOT


def test_a_refused_program_says_why() -> None:
    require_lab()
    with pytest.raises(bpfsys.BpfError, match="R0 !read_ok"):
        bpfsys.prog_load(struct.pack("<BBhi", 0x95, 0, 0, 0))
