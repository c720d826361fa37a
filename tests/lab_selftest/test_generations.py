"""The agent stand-in by generation, with packets: when it attaches, what it pins, which states it writes."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab import bpfsys
from tests.lab.agent import APPLIED, DEFAULT_ALLOW, GENERATIONS, Agent, lpm_key
from tests.lab.node import Fabric, Node, PodSandbox

from .helpers import allow, cluster_endpoint, connects, endpoint, selected, tcp_server

WEB, CLIENT, OTHER = "10.0.1.1", "10.0.1.2", "10.0.1.3"
POD = ("shop", "web-1")
BEFORE_POD_STATE = ("1.0.1", "1.0.4", "1.0.5", "1.1.6")
ONE_STATE = ("1.2.1", "1.2.3", "1.2.7")
TIERS = ("1.3.5", "1.3.7", "1.4.1", "1.4.2")


@dataclass
class Lab:
    node: Node
    agent: Agent
    web: PodSandbox
    client: PodSandbox
    other: PodSandbox

    def reach(self) -> tuple[str, str]:
        return connects(self.client, WEB, 80), connects(self.other, WEB, 80)

    def only_client(self) -> None:
        self.agent.sync([endpoint("p", selected(self.node, *POD), [allow(CLIENT, ("TCP", 80))])])

    def states(self) -> dict[int, int]:
        found = []
        for direction in ("ingress", "egress"):
            with self.agent.open_map(*POD, f"{direction}_pod_state_map") as fd:
                found.append({struct.unpack("<I", k)[0]: v[0] for k, v in bpfsys.map_items(fd).items()})
        assert found[0] == found[1]
        return found[0]

    def entries(self) -> int:
        with self.agent.open_map(*POD, "ingress_map") as fd:
            return len(bpfsys.map_items(fd))


def build_lab(fabric: Fabric, agent_version: str, mode: str = "standard") -> Lab:
    node = Node("node-a", "10.0.0.10", fabric)
    agent = Agent(node, agent_version, mode=mode)  # type: ignore[arg-type]
    web = node.add_pod(*POD, WEB)
    client, other = node.add_pod("shop", "client-1", CLIENT), node.add_pod("shop", "other-1", OTHER)
    for pod in (web, client, other):
        agent.pod_added(pod.namespace, pod.name)
    return Lab(node, agent, web, client, other)


@pytest.fixture
def lab(fabric: Fabric, request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = build_lab(fabric, request.param)
    with tcp_server(made.web, WEB, 80):
        yield made


def generations(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lab", names, indirect=True)


@generations(*GENERATIONS)
def test_open_then_closed_then_open(lab: Lab) -> None:
    assert lab.reach() == ("open", "open")
    lab.only_client()
    assert lab.reach() == ("open", "silent")
    assert connects(lab.node, WEB, 80) == "open"
    handle = lab.agent.handles(*POD)["ingress"]
    assert handle.attached_program_id == handle.program_id
    assert set(handle.attached_map_ids) == set(handle.map_ids.values())
    expected = {**dict.fromkeys(BEFORE_POD_STATE, 3), **dict.fromkeys(ONE_STATE, 4), **dict.fromkeys(TIERS, 5)}
    assert len(handle.map_ids) == expected[lab.agent.generation.name]
    lab.agent.sync([])
    assert lab.reach() == ("open", "open")


@generations(*BEFORE_POD_STATE)
def test_filters_come_and_go_with_the_policy(lab: Lab) -> None:
    index = lab.web.interfaces[0].host_index
    assert lab.agent.pins_of(*POD) == []
    assert lab.node._netlink.filters(index, 0xFFFFFFF3) == []
    lab.only_client()
    assert len(lab.agent.pins_of(*POD)) == 4
    assert len(lab.node._netlink.filters(index, 0xFFFFFFF3)) == 1
    assert lab.agent.pins_of("shop", "client-1") == []
    lab.agent.sync([])
    assert lab.agent.pins_of(*POD) == []
    assert lab.node._netlink.filters(index, 0xFFFFFFF3) == []
    lab.only_client()
    assert lab.reach() == ("open", "silent")


@generations("1.1.6")
def test_pins_stay_while_a_mate_of_the_identifier_is_selected(lab: Lab) -> None:
    lab.node.add_pod("shop", "web-2", "10.0.1.8")
    both = selected(lab.node, "shop", "web-1", "web-2")
    lab.agent.sync([endpoint("p", both, [allow(CLIENT)])])
    lab.agent.sync([endpoint("p", both[1:], [allow(CLIENT)])])
    assert len(lab.agent.pins_of(*POD)) == 4
    assert lab.reach() == ("open", "open"), "no longer selected, so without a filter"


@generations("1.1.6")
def test_a_pod_of_the_same_name_is_attached_again(lab: Lab) -> None:
    lab.only_client()
    lab.agent.pod_removed(*POD)
    lab.node.remove_pod(*POD)
    assert len(lab.agent.pins_of(*POD)) == 4, "the agent is not told"
    pod = lab.node.add_pod(*POD, WEB)
    lab.agent.pod_added(*POD)
    lab.only_client()
    with tcp_server(pod, WEB, 80):
        assert lab.reach() == ("open", "silent")


@generations("1.1.6")
def test_restart_opens_until_the_next_reconcile(lab: Lab) -> None:
    lab.only_client()
    lab.agent.restart()
    assert lab.reach() == ("open", "open")
    lab.only_client()
    assert lab.reach() == ("open", "silent")


def test_strict_mode_before_pod_state(fabric: Fabric) -> None:
    """Agent facts 5.10: attached at CNI ADD with empty maps, so everything is dropped."""
    lab = build_lab(fabric, "1.1.6", "strict")
    with tcp_server(lab.web, WEB, 80):
        assert lab.reach() == ("silent", "silent")
        assert connects(lab.node, WEB, 80) == "silent"


@generations(*ONE_STATE)
def test_one_pod_state(lab: Lab) -> None:
    assert lab.states() == {0: DEFAULT_ALLOW}
    lab.only_client()
    assert lab.states() == {0: APPLIED}
    assert lab.entries() == 2
    lab.agent.sync([], [cluster_endpoint("c", selected(lab.node, *POD), ingress=[allow(CLIENT, action="Deny")])])
    assert lab.states() == {0: DEFAULT_ALLOW}
    assert lab.entries() == 2, "what a deleted policy wrote stays"
    assert lab.reach() == ("open", "open"), "and is not read; cluster policies do not exist yet"


@generations(*TIERS)
def test_two_pod_states(lab: Lab) -> None:
    assert lab.states() == {0: DEFAULT_ALLOW, 1: DEFAULT_ALLOW}
    lab.only_client()
    assert lab.states() == {0: APPLIED, 1: DEFAULT_ALLOW}
    lab.agent.sync([], [cluster_endpoint("c", selected(lab.node, *POD), ingress=[allow(CLIENT, action="Deny")])])
    assert lab.states() == {0: DEFAULT_ALLOW, 1: APPLIED}
    assert lab.entries() == 1
    assert lab.reach() == ("silent", "open")


def test_strict_mode_with_one_state_drops_replies_too(fabric: Fabric) -> None:
    lab = build_lab(fabric, "1.2.7", "strict")
    with tcp_server(lab.node, "10.0.0.10", 90):
        lab.agent.sync([endpoint("p", selected(lab.node, *POD), [allow(CLIENT)])])
        assert connects(lab.web, "10.0.0.10", 90) == "open"
        assert connects(lab.client, "10.0.0.10", 90) == "silent"


@generations("1.0.4", "1.0.5")
def test_slots_are_cut_to_what_the_map_holds(lab: Lab) -> None:
    ports = [("TCP", 1000 + i) for i in range(30)]
    lab.agent.sync([endpoint("p", selected(lab.node, *POD), [allow(CLIENT, *ports)])])
    slots = lab.agent.generation.slots
    with lab.agent.open_map(*POD, "ingress_map") as fd:
        value = bpfsys.map_items(fd)[lpm_key(ipaddress.ip_network(CLIENT))]
    assert len(value) == 12 * slots
    used = {struct.unpack_from("<I", value, 12 * i + 4)[0] for i in range(slots)}
    assert len(used) == slots
    assert used <= {p for _, p in ports}


@generations("1.0.5", "1.1.6")
def test_dotted_name(lab: Lab) -> None:
    """Agent facts 9.2 no. 27: bpffs takes no dots, and the agent does not notice (<= 1.1.1)."""
    pod = lab.node.add_pod("shop", "a.b-1", "10.0.1.20")
    lab.agent.sync([endpoint("closed", selected(lab.node, "shop", "a.b-1"))])
    enforced = lab.agent.generation.name == "1.1.6"
    assert bool(lab.agent.pins_of("shop", "a.b-1")) == enforced
    with tcp_server(pod, "10.0.1.20", 80):
        assert connects(lab.client, "10.0.1.20", 80) == ("silent" if enforced else "open")


@generations("1.4.1")
def test_name_that_is_too_long_to_pin(lab: Lab) -> None:
    """No. 29: pod and namespace of legal length whose pin would have more than 255 bytes."""
    name = "x" * 240
    pod = lab.node.add_pod("shop", name, "10.0.1.20")
    lab.agent.pod_added("shop", name)
    lab.agent.sync([endpoint("closed", selected(lab.node, "shop", name))])
    with tcp_server(pod, "10.0.1.20", 80):
        assert connects(lab.client, "10.0.1.20", 80) == "open"
