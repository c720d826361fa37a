"""The asker before the real kernel: its verdict is the program's, and what it leaves behind is one policy event.

Every run writes one record to policy_events when the program decides (none for ICMPv6, which it passes unseen);
that record is the only lasting effect, and the tests count it. The conntrack map is compared byte for byte.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from kubectl_netpol.cluster.api import Api
from kubectl_netpol.cluster.connection import ConnectionFlags, connect
from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel.packet import frame
from kubectl_netpol.model.flow import Direction, Flow
from kubectl_netpol.model.kernel import MapView
from kubectl_netpol.node import ask, asker, transport
from kubectl_netpol.node.debug_pod import open_debug_pod
from tests.lab import bpfsys, build
from tests.lab.agent import GENERATIONS, Agent
from tests.lab.cluster import LabCluster
from tests.lab.datapath_variant import APPLIED, LoadedVariant, load
from tests.lab.node import Container, Fabric, Node, PodSandbox
from tests.lab.require import require_lab
from tests.lab.ringbuf import RingBuffer

from .helpers import allow, connects, endpoint, selected, tcp_server

Json = dict[str, Any]
OK, SHOT = bpfsys.TC_ACT_OK, bpfsys.TC_ACT_SHOT
LOOPBACK = 1
PORTS = [61001, 62002, 63003]
# As large as the smallest of the agent's: the margin that must stay free grows with the CPUs of the machine.
CONNTRACK_SIZE = 65536
ENDS = {False: ("10.0.1.2", "10.0.1.1", "10.0.1.9"), True: ("fd00:1::2", "fd00:1::1", "fd00:1::9")}
MADE = "made and removed"


@pytest.fixture(scope="module", autouse=True)
def machine() -> None:
    require_lab()


def map_view(fd: int) -> MapView:
    info = bpfsys.map_info(fd)
    return MapView(info.id, "conntrack", "", info.type, info.key_size, info.value_size, info.max_entries)


def answered(*questions: Json | None) -> list[Json]:
    """In this process, with the checks of the other side."""
    request = ask.request([question for question in questions if question is not None])
    assert len(request["questions"]) == len(questions)
    document = {"format": 1, "asker": "x", "answers": asker.answers_to(request["questions"])}
    return ask.check_answers(document, request)


def answer(**changes: Any) -> Json:
    return {"id": "q", "verdict": OK, "source_port": PORTS[0], "entry": MADE, "reason": "", **changes}


# ---- every generation of the datapath, in both families and directions


class Variant:
    """A loaded program without a node: its packets come from the loopback link."""

    def __init__(self, loaded: LoadedVariant, ipv6: bool) -> None:
        self.v, self.ipv6 = loaded, ipv6
        self.peer, self.pod, self.third = map(ipaddress.ip_address, ENDS[ipv6])
        self.program_id = bpfsys.prog_info(loaded.program).id

    def flow(self, protocol: int = 6, port: int = 80, peer: Any = None, **more: Any) -> Flow:
        ends = (self.pod, peer or self.peer) if self.v.direction == "egress" else (peer or self.peer, self.pod)
        return Flow(*ends, protocol, port, **more)

    def question(self, flow: Flow, **changes: Any) -> Json | None:
        fields: Json = {"program_id": self.program_id, "conntrack": map_view(self.v.conntrack_map), "ports": PORTS}
        return ask.question("q", flow, self.pod, LOOPBACK, **{**fields, **changes})

    def ask(self, flow: Flow, **changes: Any) -> Json:
        (found,) = answered(self.question(flow, **changes))
        return found

    def key(self, flow: Flow, port: int, reverse: bool = False) -> bytes:
        """By the lab's own description of the layout."""
        ends = [(str(flow.source), port), (str(flow.destination), flow.port)]
        (src, sport), (dst, dport) = reversed(ends) if reverse else ends
        return self.v.layout.conntrack_key(src, sport, dst, dport, flow.protocol, str(self.pod), LOOPBACK)

    def allow_peer(self, *slots: tuple[int, int, int]) -> None:
        self.v.set_state(APPLIED)
        self.v.put_np(f"{self.peer}/{self.peer.max_prefixlen}", *slots)

    def verdicts_logged(self) -> list[int]:
        at = 44 if self.ipv6 else 20
        return [struct.unpack_from("<I", record, at)[0] for record in self.v.events.read()]

    def fill(self, entries: int) -> dict[bytes, bytes]:
        """Conntrack entries of other flows."""
        other = ipaddress.ip_address("fd00:9::" if self.ipv6 else "100.64.0.0")
        value = self.v.layout.conntrack_value(1, str(self.pod), last_seen=12345)
        for n in range(entries):
            flow = Flow(other + n, self.pod, 6, 443)
            self.v.put_conntrack(self.key(flow, 40000), value)
        return self.v.conntrack()


ALL = [(d, g, v6) for g, v6 in build.variants() for d in build.DIRECTIONS]


@pytest.fixture
def variant(request: pytest.FixtureRequest) -> Iterator[Variant]:
    direction, npa_gen, ipv6 = getattr(request, "param", ("ingress", 10402, False))
    with load(direction, npa_gen, ipv6, conntrack_size=CONNTRACK_SIZE) as loaded:
        yield Variant(loaded, ipv6)


every = pytest.mark.parametrize("variant", ALL, ids=lambda v: f"{v[0]}-{v[1]}-v{6 if v[2] else 4}", indirect=True)


@every
def test_every_generation_decides_itself_and_keeps_nothing(variant: Variant) -> None:
    variant.allow_peer((6, 80, 0), (17, 53, 0), (132, 9, 0))
    before = variant.fill(50)
    assert variant.verdicts_logged() == []
    for flow in (variant.flow(6, 80), variant.flow(17, 53), variant.flow(132, 9)):
        assert variant.ask(flow) == answer()
        assert variant.v.conntrack() == before
    for flow in (variant.flow(6, 81), variant.flow(17, 80), variant.flow(6, 80, peer=variant.third)):
        assert variant.ask(flow) == answer(verdict=SHOT, entry="none")
        assert variant.v.conntrack() == before
    assert variant.verdicts_logged() == [1, 1, 1, 0, 0, 0], "one event for each run"


@every
def test_protocols_without_ports(variant: Variant) -> None:
    """IPv4's ICMP and any other protocol are judged with ports of 0; ICMPv6 is passed unseen, with no event."""
    variant.allow_peer((254, 0, 0))
    before = variant.fill(5)
    echo = 58 if variant.ipv6 else 1
    passed = {"entry": "none", "reason": "the program let the packet pass without making an entry"}
    for protocol in (echo, 47):
        unseen = passed if protocol == 58 else {}
        assert variant.ask(variant.flow(protocol)) == answer(source_port=0, **unseen)
    assert variant.verdicts_logged() == [1] * (1 if variant.ipv6 else 2)
    for protocol in (echo, 47):
        verdict = {"verdict": OK, **passed} if protocol == 58 else {"verdict": SHOT, "entry": "none"}
        assert variant.ask(variant.flow(protocol, peer=variant.third)) == answer(source_port=0, **verdict)
    assert variant.v.conntrack() == before


@every
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_an_established_flow_is_left_as_it_is(variant: Variant, reverse: bool) -> None:
    """Were its port used, the entry would answer and, from 1.4.2 on, get another last_seen."""
    variant.v.set_state(APPLIED)
    flow = variant.flow()
    value = variant.v.layout.conntrack_value(5, str(variant.pod), last_seen=1)
    variant.v.put_conntrack(variant.key(flow, PORTS[0], reverse), value)
    before = variant.v.conntrack()
    assert variant.ask(flow) == answer(verdict=SHOT, source_port=PORTS[1], entry="none")
    assert variant.v.conntrack() == before
    found = variant.ask(flow, ports=PORTS[:1])
    assert (found["verdict"], found["source_port"]) == (None, None)
    assert found["reason"].startswith("an established flow has the same key")
    assert variant.v.conntrack() == before
    assert variant.verdicts_logged() == [0], "the second question was not run"


def test_an_entry_of_a_protocol_without_ports_leaves_no_other_candidate(variant: Variant) -> None:
    variant.allow_peer((254, 0, 0))
    flow = variant.flow(1, 0)
    variant.v.put_conntrack(variant.key(flow, 0), variant.v.layout.conntrack_value(5, last_seen=1))
    assert variant.ask(flow)["reason"].startswith("an established flow has the same key")
    assert variant.verdicts_logged() == []


def test_what_would_have_happened_without_care(variant: Variant) -> None:
    """A hit in conntrack passes in spite of the rules, and moves last_seen: the reason for a fresh source port."""
    variant.v.set_state(APPLIED)
    flow, key = variant.flow(), variant.key(variant.flow(), PORTS[0])
    variant.v.put_conntrack(key, variant.v.layout.conntrack_value(5, last_seen=1))
    assert bpfsys.prog_test_run(variant.v.program, frame(flow, PORTS[0]), LOOPBACK) == OK
    assert variant.v.conntrack()[key] != variant.v.layout.conntrack_value(5, last_seen=1)


def test_a_flow_with_its_own_source_port(variant: Variant) -> None:
    variant.allow_peer((6, 80, 0))
    assert variant.ask(variant.flow(source_port=40000)) == answer(source_port=40000)
    assert variant.v.conntrack() == {}


# ---- what is not as the question says


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (lambda v, _: {"program_id": 1 << 30}, "program 1073741824 is no longer there"),
        (lambda v, other: {"program_id": other.program_id}, "does not use map"),
        (lambda v, other: {"conntrack": map_view(other.v.conntrack_map)}, "does not use map"),
    ],
)
def test_another_program_or_map(variant: Variant, changes: Callable[[Variant, Variant], Json], reason: str) -> None:
    with load("egress", 10402, False, conntrack_size=1024) as loaded:
        other = Variant(loaded, False)
        found = variant.ask(variant.flow(), **changes(variant, other))
        assert (found["verdict"], found["entry"]) == (None, "none")
        assert reason in found["reason"]
        assert variant.verdicts_logged() == other.verdicts_logged() == []


@pytest.mark.parametrize(
    ("field", "value"), [("max_entries", 1 << 19), ("value_size", 1), ("key_size", 20), ("map_id", 1 << 30)]
)
def test_a_map_of_another_shape(variant: Variant, field: str, value: int) -> None:
    question = variant.question(variant.flow())
    assert question is not None
    question["conntrack"][field] = value
    (found,) = answered(question)
    assert found["verdict"] is None
    assert "does not use map" in found["reason"] or f"has {field} " in found["reason"]
    assert variant.verdicts_logged() == []


def test_a_link_that_does_not_exist(variant: Variant) -> None:
    question = variant.question(variant.flow())
    assert question is not None
    (found,) = answered({**question, "ifindex": 1_999_999_999})
    assert found["verdict"] is None
    assert found["reason"].startswith("there is no link with ifindex 1999999999 here")
    assert variant.verdicts_logged() == []


def test_a_map_that_is_not_known_is_not_run(variant: Variant) -> None:
    assert "conntrack map is not known" in variant.ask(variant.flow(), conntrack=None)["reason"]
    assert variant.verdicts_logged() == []


def test_the_kernels_own_refusals(variant: Variant) -> None:
    """The link is checked before; what the kernel itself says when it goes in between, and to a cut packet."""
    packet = frame(variant.flow(), PORTS[0])
    with pytest.raises(asker.Unknown, match=r"ENODEV: .* \(the link is gone\)"):
        asker.test_run(variant.v.program, packet, 1_999_999_999)
    with pytest.raises(asker.Unknown, match="EINVAL: "):
        asker.test_run(variant.v.program, packet[:13], LOOPBACK)
    assert variant.verdicts_logged() == []


def test_the_read_only_descriptor_deletes_nothing(variant: Variant) -> None:
    key = variant.key(variant.flow(), PORTS[0])
    variant.v.put_conntrack(key, bytes(16))
    info = asker.map_info(variant.v.conntrack_map)
    map_id = map_view(variant.v.conntrack_map).id
    with asker.opened("map", asker.MAP_GET_FD_BY_ID, map_id, asker.BPF_F_RDONLY) as fd:
        assert asker.clean_up(fd, fd, info, key) == "made, not removed: EPERM: Operation not permitted"
    assert variant.v.conntrack() == {key: bytes(16)}
    with asker.opened("map", asker.MAP_GET_FD_BY_ID, map_id) as fd:
        assert asker.clean_up(fd, fd, info, key) == MADE
        assert asker.clean_up(fd, fd, info, key) == "none"


# ---- a nearly full map


def margin() -> int:
    return 2 * 128 * asker.possible_cpus()


def fill_from_every_cpu(fd: int, first: int, last: int) -> None:
    """Each CPU takes free entries for itself, as the packets of a busy node do."""
    cpus = sorted(os.sched_getaffinity(0))
    try:
        for n in range(first, last):
            if n % 16 == 0:
                os.sched_setaffinity(0, {cpus[n // 16 % len(cpus)]})
            bpfsys.map_update(fd, struct.pack("<Q16x", n + 1), bytes(16))
    finally:
        os.sched_setaffinity(0, cpus)


def test_a_nearly_full_map_is_left_alone(variant: Variant) -> None:
    size = 4 * margin()
    with load("ingress", 10402, False, conntrack_size=size) as loaded:
        small = Variant(loaded, False)
        small.allow_peer((6, 80, 0))
        fill_from_every_cpu(small.v.conntrack_map, 0, size - margin())
        before = small.v.conntrack()
        assert len(before) == size - margin(), "nothing was evicted so far"
        for cpu in sorted(os.sched_getaffinity(0)):
            with pinned_to(cpu):
                assert small.ask(small.flow()) == answer(), "exactly at the limit"
            assert small.v.conntrack() == before
        bpfsys.map_update(small.v.conntrack_map, b"\xff" * 24, bytes(16))
        before = small.v.conntrack()
        small.verdicts_logged()
        found = small.ask(small.flow())
        assert (found["verdict"], found["source_port"], found["entry"]) == (None, None, "none")
        assert f"has room for {size} entries, {margin()} of them must be free" in found["reason"]
        assert small.v.conntrack() == before
        assert small.verdicts_logged() == []


@contextlib.contextmanager
def pinned_to(cpu: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_a_full_map_loses_real_flows_to_one_run(variant: Variant) -> None:
    """Why there is a margin: one insert into a full LRU map evicts a whole batch."""
    size = 4 * margin()
    with load("ingress", 10402, False, conntrack_size=size) as loaded:
        full = Variant(loaded, False)
        full.allow_peer((6, 80, 0))
        fill_from_every_cpu(full.v.conntrack_map, 0, 2 * size)
        lost = 0
        for n in range(130):
            before = set(full.v.conntrack())
            assert bpfsys.prog_test_run(full.v.program, frame(full.flow(), 1000 + n), LOOPBACK) == OK
            lost = max(lost, len(before - set(full.v.conntrack())))
            if lost:
                break
    print(f"one run in a full map of {size}: {lost} entries of other flows evicted")
    assert lost > 0


@pytest.mark.parametrize("batch", [True, False], ids=["batch", "next_key"])
def test_counting_is_exact_on_a_quiet_map(variant: Variant, batch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fd, info = variant.v.conntrack_map, asker.map_info(variant.v.conntrack_map)
    assert not asker.more_than(fd, info, 0)
    variant.fill(20_000)
    if not batch:
        monkeypatch.setattr(asker, "_batches", asker._keys)
    assert asker.more_than(fd, info, 19_999)
    assert not asker.more_than(fd, info, 20_000)


def test_counting_with_little_room_for_a_batch(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one entry the kernel answers ENOSPC for each bucket with more."""
    monkeypatch.setattr(asker, "BATCH", 1)
    variant.fill(3000)
    numbers = list(asker._batches(variant.v.conntrack_map, asker.map_info(variant.v.conntrack_map)))
    assert sum(numbers) == 3000
    assert len(numbers) > 100


def test_lookups_and_counts_do_not_save_an_entry_from_the_lru(variant: Variant) -> None:
    """A lookup that marked its entry as used would keep it, and push out another flow's."""
    survivors = []
    for look in (False, True):
        fd = bpfsys.map_create(layouts.MAP_TYPE_LRU_HASH, 24, 16, 2048)
        try:
            info = asker.map_info(fd)
            with pinned_to(min(os.sched_getaffinity(0))):
                for n in range(2048):
                    bpfsys.map_update(fd, struct.pack("<Q16x", n + 1), bytes(16))
                if look:
                    assert all(asker.has_entry(fd, info, struct.pack("<Q16x", n + 1)) for n in range(200))
                    asker.more_than(fd, info, 5000)
                for n in range(1000):
                    bpfsys.map_update(fd, struct.pack("<Q16x", 1 << 20 | n), bytes(16))
            survivors.append(sum(asker.has_entry(fd, info, struct.pack("<Q16x", n + 1)) for n in range(200)))
        finally:
            os.close(fd)
    assert survivors[0] == survivors[1] == 0


# ---- on a node, in the debug container, with real packets beside


@dataclass
class Lab:
    """A node with an agent, a selected pod, two peers, and a container as the debug pod has it."""

    node: Node
    agent: Agent
    web: PodSandbox
    client: PodSandbox
    other: PodSandbox
    container: Container

    name, namespace = "debug", "kube-system"

    def exec(self, argv: list[str], stdin: bytes = b"") -> ExecResult:
        """As the API server's exec: stdin stays open after the request."""
        pipe = subprocess.PIPE
        with self.node.popen(argv, self.container, pipe, pipe, pipe) as process:
            assert process.stdin and process.stdout and process.stderr
            process.stdin.write(stdin)
            process.stdin.flush()
            out, err = process.stdout.read(), process.stderr.read()
            return ExecResult(out, err, process.wait())

    def question(self, flow: Flow, id: str = "q", direction: Direction = Direction.INGRESS, **changes: Any) -> Json:
        handle = self.agent.handles("shop", "web-1")[direction.value]
        assert handle.attached_program_id is not None
        with self.conntrack_map() as fd:
            fields: Json = {
                "owner": flow.owner(direction),
                "ifindex": self.web.interfaces[0].host_index,
                "program_id": handle.attached_program_id,
                "conntrack": map_view(fd),
                "ports": PORTS,
            }
        question = ask.question(id, flow, **{**fields, **changes})
        assert question is not None
        return question

    def ask(self, *questions: Json) -> list[Json]:
        return ask.ask_node(self, ask.request(questions))

    def conntrack_map(self) -> contextlib.AbstractContextManager[int]:
        return self.agent.open_map("shop", "web-1", "aws_conntrack_map")

    def conntrack(self) -> dict[bytes, bytes]:
        with self.conntrack_map() as fd:
            return bpfsys.map_items(fd)

    def quiet_conntrack(self) -> dict[bytes, bytes]:
        """When the last packets of closed connections are through: they renew last_seen."""
        found: dict[bytes, bytes] = {}
        for _ in range(50):
            before, found = found, self.conntrack()
            if found and found == before:
                return found
            time.sleep(0.1)
        raise AssertionError("the conntrack map does not come to rest")

    def flow(self, peer: PodSandbox, port: int = 80, protocol: int = 6, **more: Any) -> Flow:
        ends = (ipaddress.ip_address(peer.ip), ipaddress.ip_address(self.web.ip))
        return Flow(*ends, protocol, port, **more)


def build_lab(fabric: Fabric, generation: str, image: str = "python3.11", **more: Any) -> Lab:
    """Only client-1 may reach web-1, on TCP 80."""
    node = Node("node-a", "10.0.0.10", fabric)
    agent = Agent(node, generation, **more)
    pods = [node.add_pod("shop", f"{name}-1", f"10.0.1.{n}") for n, name in enumerate(("web", "client", "other"), 1)]
    for pod in pods:
        agent.pod_added(pod.namespace, pod.name)
    rule = allow(pods[1].ip, ("TCP", 80))
    agent.sync([endpoint("p", selected(node, "shop", "web-1"), [rule])])
    return Lab(node, agent, *pods, node.add_container(rootfs=image))


@pytest.fixture
def lab(fabric: Fabric, request: pytest.FixtureRequest) -> Lab:
    return build_lab(fabric, getattr(request, "param", "1.4.2"))


@pytest.mark.parametrize("lab", GENERATIONS, indirect=True)
def test_the_answer_is_what_packets_meet(lab: Lab) -> None:
    """One exec with three questions; afterwards the same flows from sockets. Real entries stay as they are."""
    with tcp_server(lab.web, lab.web.ip, 80):
        assert connects(lab.client, lab.web.ip, 80) == "open"
        before = lab.quiet_conntrack()
        flows = {"client": lab.flow(lab.client), "other": lab.flow(lab.other), "closed port": lab.flow(lab.client, 81)}
        answers = lab.ask(*(lab.question(flow, id) for id, flow in flows.items()))
        assert {a["id"]: (a["verdict"], a["entry"], a["reason"]) for a in answers} == {
            "client": (OK, MADE, ""),
            "other": (SHOT, "none", ""),
            "closed port": (SHOT, "none", ""),
        }
        assert lab.conntrack() == before
        assert connects(lab.other, lab.web.ip, 80) == "silent"
        assert connects(lab.client, lab.web.ip, 80, PORTS[0]) == "open"


def test_egress_with_the_pod_as_owner(lab: Lab) -> None:
    flow = Flow(ipaddress.ip_address(lab.web.ip), ipaddress.ip_address("192.0.2.1"), 17, 53)
    before = lab.conntrack()
    assert lab.ask(lab.question(flow, direction=Direction.EGRESS)) == [answer()]
    assert lab.conntrack() == before


def test_a_real_flow_keeps_its_last_seen(lab: Lab) -> None:
    """A connection from the first candidate port is open: the second one is used, and nothing of it changes."""
    with tcp_server(lab.web, lab.web.ip, 80):
        assert connects(lab.client, lab.web.ip, 80, PORTS[0]) == "open"
    before = lab.quiet_conntrack()
    last_seen = {key: struct.unpack("<QQ", value)[1] for key, value in before.items()}
    assert all(last_seen.values())
    assert lab.ask(lab.question(lab.flow(lab.client))) == [answer(source_port=PORTS[1])]
    assert lab.conntrack() == before


def test_one_event_for_each_run(lab: Lab) -> None:
    with lab.agent.open_map("shop", "web-1", "policy_events") as fd, RingBuffer(fd) as events:
        events.read()
        lab.ask(lab.question(lab.flow(lab.client)), lab.question(lab.flow(lab.other), "r"))
        records = events.read()
    packet = frame(lab.flow(lab.client), PORTS[0])
    verdicts = [struct.unpack_from("<I", record, 20)[0] for record in records]
    ports = [struct.unpack_from("<I", record, 4)[0] for record in records]
    sizes = [struct.unpack_from("<I", record, 24)[0] for record in records]
    assert (verdicts, ports, sizes) == ([1, 0], [PORTS[0]] * 2, [len(packet)] * 2)


def test_a_small_conntrack_map_is_refused(fabric: Fabric) -> None:
    lab = build_lab(fabric, "1.4.1", conntrack_size=margin() + 64)
    with lab.conntrack_map() as fd:
        for n in range(65):
            bpfsys.map_update(fd, struct.pack("<Q16x", n + 1), b"\7")
    before = lab.conntrack()
    (found,) = lab.ask(lab.question(lab.flow(lab.client)))
    assert (found["verdict"], found["entry"]) == (None, "none")
    assert "nearly full" in found["reason"]
    assert lab.conntrack() == before


def test_the_link_must_be_in_this_namespace(lab: Lab) -> None:
    """The veth's index means nothing in another network namespace, as of a debug pod without hostNetwork."""
    lab.container = lab.node.add_container(host_network=False)
    (found,) = lab.ask(lab.question(lab.flow(lab.client)))
    assert found["verdict"] is None
    assert found["reason"].startswith(f"there is no link with ifindex {lab.web.interfaces[0].host_index} here")


def test_a_pod_that_is_gone(lab: Lab) -> None:
    question = lab.question(lab.flow(lab.client))
    lab.agent.pod_removed("shop", "web-1")
    lab.node.remove_pod("shop", "web-1")
    (found,) = lab.ask(question)
    assert found["verdict"] is None
    assert "is no longer there" in found["reason"] or "there is no link" in found["reason"]


def test_under_the_oldest_python(fabric: Fabric) -> None:
    lab = build_lab(fabric, "1.4.2", image="python3.9")
    assert lab.exec(["python3", "-c", "import sys; print(sys.version_info[:2])"]).stdout == b"(3, 9)\n"
    assert lab.ask(lab.question(lab.flow(lab.client))) == [answer()]
    assert lab.conntrack() == {}


def test_ipv6_on_a_node() -> None:
    with Fabric("fd00:10::/64") as fabric, contextlib.ExitStack() as stack:
        node = stack.enter_context(Node("node-a", "fd00:10::a", fabric))
        agent = Agent(node, "1.4.2")
        pods = [node.add_pod("shop", f"{n}-1", f"fd00:20::{i}") for i, n in enumerate(("web", "client", "other"), 1)]
        for pod in pods:
            agent.pod_added(pod.namespace, pod.name)
        agent.sync([endpoint("p", selected(node, "shop", "web-1"), [allow(pods[1].ip, ("TCP", 80))])])
        lab = Lab(node, agent, *pods, node.add_container())
        asked = {"client": lab.flow(pods[1]), "other": lab.flow(pods[2]), "ping": lab.flow(pods[2], 0, 58)}
        questions = [lab.question(flow, id) for id, flow in asked.items()]
        answers = lab.ask(*questions)
        assert [(a["verdict"], a["entry"]) for a in answers] == [(OK, MADE), (SHOT, "none"), (OK, "none")]
        # The pods' own multicast listener reports make entries meanwhile.
        candidates = [candidate for question in questions for candidate in question["candidates"]]
        assert len(candidates) == 2 * len(PORTS) + 1
        keys = {base64.b64decode(candidate["forward"]) for candidate in candidates}
        assert keys.isdisjoint(lab.conntrack())


# ---- interrupted, and at the same time


STOPPED_IN_THE_RUN = """
import sys, time
from kubectl_netpol.node import asker
real = asker.bpf
def bpf(command, attr):
    if command == asker.MAP_DELETE_ELEM:
        # The entry is there now. Whoever sends signals is told, and they all come before this goes on.
        sys.stderr.write("ran\\n"); sys.stderr.flush()
        time.sleep(0.5)
    return real(command, attr)
asker.bpf = bpf
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM])
def test_a_signal_between_run_and_clean_up(variant: Variant, number: int) -> None:
    """A process of its own is stopped between the two; the entry goes, whatever becomes of the process."""
    variant.allow_peer((6, 80, 0))
    before = variant.fill(10)
    request = ask.request([variant.question(variant.flow()), {**variant.question(variant.flow()), "id": "next"}])  # type: ignore[list-item, dict-item]
    script = f"{STOPPED_IN_THE_RUN}\nsys.exit(asker.main({request!r}))"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdout=pipe, stderr=pipe) as process:
        assert process.stdout and process.stderr
        assert process.stderr.readline() == b"ran\n"
        assert len(variant.v.conntrack()) == len(before) + 1, "the entry is there while the process waits"
        process.send_signal(number)
        out, code = process.stdout.read(), process.wait()
    assert variant.v.conntrack() == before
    if number in asker.STOPPING:
        document = transport._answer(ExecResult(out, b"", code), "x", "asker")
        first, second = ask.check_answers(document, request)
        assert first == answer()
        assert second["reason"] == f"{signal.Signals(number).name} came before it was asked"
        assert code == 0
    else:
        assert code == -number


def test_several_askers_and_real_traffic_at_once(variant: Variant) -> None:
    """Other entries come and go; of the askers, which use the same ports, nothing stays."""
    variant.allow_peer((6, 80, 0))
    stable = variant.fill(2000)
    fd, done = variant.v.conntrack_map, threading.Event()

    def churn() -> None:
        while not done.is_set():
            key = struct.pack("<Q16x", random.randrange(1, 500))
            bpfsys.map_update(fd, key, bytes(16))
            bpfsys.map_delete(fd, key)

    request = ask.request([{**variant.question(variant.flow()), "id": str(n)} for n in range(40)])  # type: ignore[dict-item]
    stdin = transport.packed_request(request, "asker")
    command = transport.command(sys.executable, len(stdin))
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        pipe = subprocess.PIPE
        processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(3)]
        results = [process.communicate(stdin)[0] for process in processes]
    finally:
        done.set()
        thread.join()
    for out in results:
        document = transport._answer(ExecResult(out, b"", 0), "x", "asker")
        assert {a["verdict"] for a in ask.check_answers(document, request)} <= {OK, None}
    assert variant.v.conntrack() == stable


def test_descriptors_do_not_leak(variant: Variant) -> None:
    variant.allow_peer((6, 80, 0))
    variant.ask(variant.flow())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        variant.ask(variant.flow())
        variant.ask(variant.flow(), program_id=1 << 30)
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_rights(variant: Variant) -> None:
    """A child that has given up root: nothing runs, and the reason is the kernel's."""
    request = ask.request([variant.question(variant.flow())])  # type: ignore[list-item]
    stdin = transport.packed_request(request, "asker")
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
    command += transport.command("/usr/bin/python3", len(stdin))
    done = subprocess.run(command, input=stdin, capture_output=True, check=True)
    (found,) = ask.check_answers(transport._answer(ExecResult(done.stdout, b"", 0), "x", "asker"), request)
    assert (found["verdict"], found["entry"]) == (None, "none")
    assert "cannot be opened (EPERM: Operation not permitted)" in found["reason"]


def test_the_layout_of_the_context_is_the_kernels(variant: Variant) -> None:
    """A link other than loopback: the key of the entry carries its ifindex, so the ctx_in offset is right."""
    variant.allow_peer((6, 80, 0))
    others = [index for index, _ in socket.if_nameindex() if index != LOOPBACK]
    if not others:
        pytest.skip("this machine has no link but lo")
    question = ask.question(
        "q", variant.flow(), variant.pod, others[0], variant.program_id, map_view(variant.v.conntrack_map), PORTS
    )
    assert answered(question) == [answer()]
    assert variant.v.conntrack() == {}


# ---- the whole way: API server, debug pod, exec


POLICY: Json = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "web"}},
        "policyTypes": ["Ingress"],
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": {"app": "client"}}}],
                "ports": [{"protocol": "TCP", "port": 80}],
            }
        ],
    },
}


def pod_object(app: str) -> Json:
    meta = {"name": f"{app}-1", "namespace": "default", "labels": {"app": app}}
    container = {"name": "main", "image": "busybox", "command": ["sleep", "infinity"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}}


def test_through_the_api_server_and_a_debug_pod() -> None:
    with LabCluster(generation="1.4.2") as cluster:
        node = cluster.add_node("node-a", "172.31.97.1")
        cluster.server.create(POLICY)
        for app in ("web", "client"):
            cluster.server.create(pod_object(app))
            cluster.server.wait_running(f"{app}-1")
        cluster.settle()
        web, client = node.pods["default", "web-1"], node.pods["default", "client-1"]
        agent = cluster.agents["node-a"]
        program_id = agent.handles("default", "web-1")["ingress"].attached_program_id
        assert program_id is not None
        with agent.open_map("default", "web-1", "aws_conntrack_map") as fd:
            conntrack, before = map_view(fd), bpfsys.map_items(fd)
            questions = []
            for port in (80, 81):
                flow = Flow(ipaddress.ip_address(client.ip), ipaddress.ip_address(web.ip), 6, port)
                fields = (flow.destination, web.interfaces[0].host_index, program_id, conntrack)
                question = ask.question(str(port), flow, *fields, ask.source_ports("a seed"))
                assert question is not None
                questions.append(question)
            api = Api(connect(ConnectionFlags(kubeconfig=str(cluster.kubeconfig))))
            with open_debug_pod(api, "node-a") as pod:
                answers = ask.ask_node(pod, ask.request(questions))
            assert bpfsys.map_items(fd) == before
        assert [(a["id"], a["verdict"], a["entry"]) for a in answers] == [("80", OK, MADE), ("81", SHOT, "none")]
