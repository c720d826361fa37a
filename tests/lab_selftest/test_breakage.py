"""What breaks a node on purpose really breaks it: seen by packets and by the kernel's own lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab import bpfsys, netns
from tests.lab.agent import Agent
from tests.lab.breakage import OK, SHOT, UNSPEC
from tests.lab.netlink import TC_H_EGRESS_HOOK
from tests.lab.node import Fabric, Node, PodSandbox
from tests.lab.require import require_tools

from .helpers import allow, connects, endpoint, selected, tcp_server

WEB, CLIENT, OTHER = "10.0.1.1", "10.0.1.2", "10.0.1.3"
POD = ("shop", "web-1")


@dataclass
class Lab:
    node: Node
    agent: Agent
    web: PodSandbox
    client: PodSandbox
    other: PodSandbox

    def reach(self) -> tuple[str, str]:
        """What the allowed and what the denied client meets."""
        return connects(self.client, WEB, 80), connects(self.other, WEB, 80)


@pytest.fixture(params=["1.4.1"])
def lab(fabric: Fabric, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A web server that only the client may reach."""
    node = Node("node-a", "10.0.0.10", fabric)
    agent = Agent(node, request.param)
    web = node.add_pod(*POD, WEB)
    client, other = node.add_pod("shop", "client-1", CLIENT), node.add_pod("shop", "other-1", OTHER)
    for pod in (web, client, other):
        agent.pod_added(pod.namespace, pod.name)
    agent.sync([endpoint("p", selected(node, *POD), [allow(CLIENT, ("TCP", 80))])])
    with tcp_server(web, WEB, 80):
        made = Lab(node, agent, web, client, other)
        assert made.reach() == ("open", "silent")
        yield made


def names(lab: Lab) -> list[tuple[str, int, int]]:
    """(name, pref, handle) of the filters that traffic to the web pod meets, as the kernel lists them."""
    filters = lab.node._netlink.filters(lab.web.interfaces[0].host_index, TC_H_EGRESS_HOOK)
    return [(f.name, f.pref, f.handle) for f in filters]


def test_remove_filter(lab: Lab) -> None:
    lab.agent.remove_filter(*POD, "ingress")
    assert lab.reach() == ("open", "open")
    handles = lab.agent.handles(*POD)
    assert handles["ingress"].attached_program_id is None
    assert handles["egress"].attached_program_id == handles["egress"].program_id


def test_remove_clsact(lab: Lab) -> None:
    lab.agent.remove_clsact(*POD)
    assert lab.reach() == ("open", "open")
    require_tools("tc")
    assert "clsact" not in lab.node.run(["tc", "qdisc", "show", "dev", str(lab.web.veth)], check=True).stdout


@pytest.mark.parametrize(
    ("code", "reached"),
    [(UNSPEC, ("open", "silent")), (OK, ("open", "open")), (SHOT, ("silent", "silent"))],
)
def test_foreign_filter_in_front(lab: Lab, code: int, reached: tuple[str, str]) -> None:
    lab.agent.add_foreign_filter(*POD, "ingress", code)
    assert names(lab) == [("foreign", 1, 2), ("handle_ingress", 1, 1)], "the kernel lists it first, and asks it first"
    assert lab.reach() == reached
    lab.agent.remove_foreign_filter(*POD, "ingress")
    assert lab.reach() == ("open", "silent")


@pytest.mark.parametrize("code", [UNSPEC, OK, SHOT])
def test_foreign_filter_behind_is_never_asked(lab: Lab, code: int) -> None:
    """The agent's program always says OK or SHOT, which ends the list."""
    lab.agent.add_foreign_filter(*POD, "ingress", code, where="behind")
    assert names(lab) == [("handle_ingress", 1, 1), ("foreign", 2, 2)]
    assert lab.reach() == ("open", "silent")


@pytest.mark.parametrize("how", ["link", "attach"])
@pytest.mark.parametrize(
    ("code", "reached"),
    [(UNSPEC, ("open", "silent")), (OK, ("open", "open")), (SHOT, ("silent", "silent"))],
)
def test_tcx_comes_before_clsact(lab: Lab, how: str, code: int, reached: tuple[str, str]) -> None:
    id_ = lab.agent.add_tcx(*POD, "ingress", code, how=how)  # type: ignore[arg-type]
    assert lab.reach() == reached
    index = lab.web.interfaces[0].host_index
    listed = netns.in_netns(lab.node.pid, lambda: bpfsys.prog_query(index, bpfsys.TCX_EGRESS))
    assert listed == [id_]
    assert netns.in_netns(lab.node.pid, lambda: bpfsys.prog_query(index, bpfsys.TCX_INGRESS)) == []


def test_reload_filter(lab: Lab) -> None:
    id_ = lab.agent.reload_filter(*POD, "ingress")
    handle = lab.agent.handles(*POD)["ingress"]
    assert handle.attached_program_id == id_ != handle.program_id
    assert handle.map_ids["ingress_map"] not in handle.attached_map_ids
    assert lab.reach() == ("silent", "silent"), "its own pod_state map is empty"


def test_replace_global_map(lab: Lab) -> None:
    before, after = lab.agent.replace_global_map()
    handle = lab.agent.handles(*POD)["ingress"]
    assert handle.map_ids["aws_conntrack_map"] == after != before
    assert before in handle.attached_map_ids
    assert after not in handle.attached_map_ids
    lab.agent.sync([endpoint("closed", selected(lab.node, *POD))])
    with lab.agent.open_map(*POD, "aws_conntrack_map") as fd:
        assert bpfsys.map_items(fd) == {}


def test_remove_pins(lab: Lab) -> None:
    assert len(lab.agent.pins_of(*POD)) == 8
    (removed,) = lab.agent.remove_pins(*POD, containing="/web@shop_ingress_map")
    assert removed == "/sys/fs/bpf/globals/aws/maps/web@shop_ingress_map"
    assert len(lab.agent.remove_pins(*POD)) == 7
    assert lab.agent.pins_of(*POD) == []
    assert lab.reach() == ("open", "silent"), "the filters hold program and maps"


def test_pins_that_outlive_their_pod(lab: Lab) -> None:
    lab.agent.faults.add("leave_pins")
    lab.agent.pod_removed("shop", "other-1")
    lab.node.remove_pod("shop", "other-1")
    assert len(lab.agent.pins_of("shop", "other-1")) == 8


@pytest.mark.parametrize("lab", ["1.3.7", "1.4.1"], indirect=True)
@pytest.mark.parametrize("same", [False, True])
def test_pins_of_both_forms(lab: Lab, same: bool) -> None:
    assert lab.agent.pin_other_form(*POD, same_objects=same) == (
        "web-shop" if lab.agent.generation.separator == "@" else "web@shop"
    )
    programs = lab.node.root / "sys/fs/bpf/globals/aws/programs"
    assert {p.name for p in programs.glob("web*ingress")} == {"web@shop_handle_ingress", "web-shop_handle_ingress"}
    ids = set()
    for path in programs.glob("web*ingress"):
        with lab.agent.open_pin(f"/sys/fs/bpf/globals/aws/programs/{path.name}") as fd:
            ids.add(bpfsys.prog_info(fd).id)
    assert len(ids) == (1 if same else 2)
    assert lab.agent.handles(*POD)["ingress"].attached_program_id in ids
    assert lab.reach() == ("open", "silent")


def test_swap_map_pins(lab: Lab) -> None:
    lab.agent.swap_map_pins(POD, ("shop", "client-1"))
    mine, theirs = lab.agent.handles(*POD)["ingress"], lab.agent.handles("shop", "client-1")["ingress"]
    assert mine.map_ids == theirs.map_ids
    assert mine.program_id == mine.attached_program_id
    assert mine.map_ids["ingress_map"] not in mine.attached_map_ids
    assert lab.reach() == ("open", "silent")


@pytest.mark.parametrize("lab", ["1.1.6", "1.2.1", "1.4.1"], indirect=True)
def test_vlan_veth(lab: Lab) -> None:
    pod = lab.node.add_pod("shop", "sg-1", "10.0.1.20", veth_prefix="vlan")
    lab.agent.pod_added("shop", "sg-1")
    assert pod.veth
    assert pod.veth.startswith("vlan")
    lab.agent.sync([endpoint("p", selected(lab.node, "shop", "sg-1"), [allow(CLIENT)])])
    blind = lab.agent.generation.name == "1.1.6"
    with tcp_server(pod, "10.0.1.20", 80):
        assert connects(lab.client, "10.0.1.20", 80) == "open"
        assert connects(lab.other, "10.0.1.20", 80) == ("open" if blind else "silent")


@pytest.mark.parametrize("lab", ["1.2.1", "1.2.3", "1.4.1"], indirect=True)
@pytest.mark.parametrize("fault", [False, True])
def test_second_interface(lab: Lab, fault: bool) -> None:
    if fault:
        lab.agent.faults.add("first_interface_only")
    pod = lab.node.add_pod("shop", "multi-1", "10.0.1.20", links=["10.0.1.21"])
    lab.agent.pod_added("shop", "multi-1")
    lab.agent.sync([endpoint("p", selected(lab.node, "shop", "multi-1"), [allow(CLIENT)])])
    attached = [bool(lab.node._netlink.filters(i.host_index, TC_H_EGRESS_HOOK)) for i in pod.interfaces]
    unfiltered = fault or lab.agent.generation.name == "1.2.1"
    assert attached == [True, not unfiltered]
    with tcp_server(pod, "10.0.1.20", 80), tcp_server(pod, "10.0.1.21", 80):
        assert connects(lab.other, "10.0.1.20", 80) == "silent"
        assert connects(lab.other, "10.0.1.21", 80) == ("open" if unfiltered else "silent")
