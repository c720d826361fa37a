"""Real packets through real programs: what a pod can reach is what the maps say."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab import bpfsys
from tests.lab.agent import Agent
from tests.lab.node import Fabric, Node, PodSandbox
from tests.lab.require import require_tools

from .helpers import allow, cluster_endpoint, connects, endpoint, pings, selected, tcp_server, udp_answers

WEB, CLIENT, FAR = "10.0.1.1", "10.0.1.2", "10.0.1.3"
CLUSTER_IP = "172.20.0.10"


@dataclass
class Lab:
    fabric: Fabric
    node: Node
    other: Node
    agent: Agent
    other_agent: Agent
    web: PodSandbox
    client: PodSandbox
    far: PodSandbox


@pytest.fixture(params=["1.4.1"])
def lab(fabric: Fabric, request: pytest.FixtureRequest) -> Lab:
    node, other = Node("node-a", "10.0.0.10", fabric), Node("node-b", "10.0.0.11", fabric)
    agents = [Agent(n, request.param) for n in (node, other)]
    web = node.add_pod("shop", "web-1", WEB)
    client = node.add_pod("shop", "client-1", CLIENT)
    far = other.add_pod("shop", "far-1", FAR)
    for agent, pod in ((agents[0], web), (agents[0], client), (agents[1], far)):
        agent.pod_added(pod.namespace, pod.name)
    return Lab(fabric, node, other, agents[0], agents[1], web, client, far)


@pytest.fixture
def server(lab: Lab) -> Iterator[socket.socket]:
    with tcp_server(lab.web, WEB, 80) as sock:
        yield sock


both_generations = pytest.mark.parametrize("lab", ["1.3.7", "1.4.1"], indirect=True)


@pytest.mark.usefixtures("server")
@both_generations
def test_ingress_by_address_and_port(lab: Lab) -> None:
    assert {connects(p, WEB, 80) for p in (lab.client, lab.far, lab.node, lab.other, lab.fabric)} == {"open"}
    web = selected(lab.node, "shop", "web-1")
    lab.agent.sync([endpoint("only-far", web, [allow(FAR, ("TCP", 80))])])
    assert connects(lab.far, WEB, 80) == "open"
    assert connects(lab.client, WEB, 80) == "silent"
    assert connects(lab.far, WEB, 81) == "silent"
    assert connects(lab.fabric, WEB, 80) == "silent"
    assert connects(lab.node, WEB, 80) == "open", "the own node's address is always allowed"
    assert connects(lab.other, WEB, 80) == "silent", "another node's is not"
    lab.agent.sync([])
    assert connects(lab.client, WEB, 80) == "open"


def test_udp_and_its_answer(lab: Lab) -> None:
    web = selected(lab.node, "shop", "web-1")
    lab.agent.sync([endpoint("dns", web, [allow(FAR, ("UDP", 53))])])
    assert udp_answers(lab.far, lab.web, WEB, 53, FAR)
    assert not udp_answers(lab.far, lab.web, WEB, 54, FAR)
    assert not udp_answers(lab.client, lab.web, WEB, 53, CLIENT)


def test_icmp_needs_a_rule_without_ports(lab: Lab) -> None:
    assert pings(lab.client, WEB)
    web = selected(lab.node, "shop", "web-1")
    lab.agent.sync([endpoint("ports", web, [allow(CLIENT, ("TCP", 80))])])
    assert not pings(lab.client, WEB)
    lab.agent.sync([endpoint("no-ports", web, [allow(CLIENT)])])
    assert pings(lab.client, WEB)
    assert not pings(lab.far, WEB)


def test_established_flow_survives_the_end_of_its_rule(lab: Lab, server: socket.socket) -> None:
    web = selected(lab.node, "shop", "web-1")
    lab.agent.sync([endpoint("p", web, [allow(FAR, ("TCP", 80))])])
    with lab.far.socket() as here:
        here.connect((WEB, 80))
        there, _ = server.accept()
        with there:
            lab.agent.sync([endpoint("p", web, [allow(FAR, ("TCP", 443))])])
            assert connects(lab.far, WEB, 80) == "silent"
            here.settimeout(2)
            there.settimeout(2)
            here.sendall(b"still here" * 5000)
            assert there.recv(10) == b"still here"
            there.sendall(b"so am I")
            assert here.recv(16) == b"so am I"
            # A change of the state pair has the flow judged again, and the entry goes.
            lab.agent.sync(
                [endpoint("p", web, [allow(FAR, ("TCP", 443))])],
                [cluster_endpoint("c", web, ingress=[allow("10.9.9.9", action="Deny")])],
            )
            here.sendall(b"gone")
            with pytest.raises(TimeoutError):
                here.settimeout(0.4)
                here.recv(1)


def test_egress_default_deny_and_replies(lab: Lab) -> None:
    client = selected(lab.node, "shop", "client-1")
    lab.agent.sync([endpoint("egress", client, egress=[allow(WEB, ("TCP", 80))], isolation=["Egress"])])
    with tcp_server(lab.web, WEB, 80), tcp_server(lab.web, WEB, 81), tcp_server(lab.client, CLIENT, 90):
        assert connects(lab.client, WEB, 80) == "open"
        assert connects(lab.client, WEB, 81) == "silent"
        assert connects(lab.far, CLIENT, 90) == "open", "ingress is open, and the answer may leave"


@pytest.mark.usefixtures("server")
def test_both_ends_judge(lab: Lab) -> None:
    far = selected(lab.other, "shop", "far-1")
    lab.other_agent.sync([endpoint("closed", far, isolation=["Egress"])])
    assert connects(lab.far, WEB, 80) == "silent"
    assert connects(lab.client, WEB, 80) == "open"


@pytest.mark.usefixtures("server")
def test_egress_to_a_service_is_judged_before_dnat(lab: Lab) -> None:
    require_tools("nft")
    lab.node.set_services({CLUSTER_IP: {("TCP", 8080): [(WEB, 80)], ("TCP", 8081): []}})
    assert connects(lab.client, CLUSTER_IP, 8080) == "open"
    assert connects(lab.client, CLUSTER_IP, 8081) == "refused"
    assert connects(lab.node, CLUSTER_IP, 8080) == "open"
    client = selected(lab.node, "shop", "client-1")

    def only(*rules: dict[str, object]) -> None:
        lab.agent.sync([endpoint("egress", client, egress=rules, isolation=["Egress"])])

    only(allow(WEB, ("TCP", 80)))
    assert connects(lab.client, WEB, 80) == "open"
    assert connects(lab.client, CLUSTER_IP, 8080) == "silent", "the backend's address does not help"
    only(allow(CLUSTER_IP, ("TCP", 8080)))
    assert connects(lab.client, CLUSTER_IP, 8080) == "open"
    assert connects(lab.client, WEB, 80) == "silent"


@pytest.mark.usefixtures("server")
def test_a_pod_reaches_itself_through_its_service(lab: Lab) -> None:
    require_tools("nft")
    lab.node.set_services({CLUSTER_IP: {("TCP", 80): [(WEB, 80)]}})
    lab.agent.sync([endpoint("closed", selected(lab.node, "shop", "web-1"))])
    assert connects(lab.client, CLUSTER_IP, 80) == "silent"
    assert connects(lab.web, CLUSTER_IP, 80) == "open", "masqueraded, so its source is the node"


@pytest.mark.usefixtures("server")
def test_except_and_inheritance(lab: Lab) -> None:
    web = selected(lab.node, "shop", "web-1")
    block = allow("10.0.0.0/16", ("TCP", 80), **{"except": ["10.0.1.2/32"]})
    lab.agent.sync([endpoint("block", web, [block])])
    assert connects(lab.far, WEB, 80) == "open"
    assert connects(lab.client, WEB, 80) == "silent"
    lab.agent.sync([endpoint("block", web, [allow("10.0.0.0/16", ("TCP", 80)), allow(FAR, ("TCP", 81))])])
    assert connects(lab.far, WEB, 80) == "open", "the /32 inherits the block's ports"


@pytest.mark.usefixtures("server")
def test_cluster_policy_before_network_policy(lab: Lab) -> None:
    web = selected(lab.node, "shop", "web-1")
    policy = [endpoint("p", web, [allow("10.0.0.0/16")])]
    deny = cluster_endpoint("deny", web, ingress=[allow(CLIENT, action="Deny")])
    lab.agent.sync(policy, [deny])
    assert (connects(lab.client, WEB, 80), connects(lab.far, WEB, 80)) == ("silent", "open")
    accept = cluster_endpoint("accept", web, priority=5, ingress=[allow(CLIENT, action="Accept")])
    lab.agent.sync([endpoint("closed", web)], [deny, accept])
    assert (connects(lab.client, WEB, 80), connects(lab.far, WEB, 80)) == ("open", "silent")


@pytest.mark.usefixtures("server")
def test_strict_mode(lab: Lab) -> None:
    agent = Agent(lab.node, "1.4.1", mode="strict")
    pod = lab.node.add_pod("shop", "late-1", "10.0.1.9")
    agent.pod_added("shop", "late-1")
    with tcp_server(pod, "10.0.1.9", 80):
        assert {connects(p, "10.0.1.9", 80) for p in (lab.client, lab.node)} == {"silent"}
        assert connects(pod, WEB, 80) == "silent"
        agent.sync([endpoint("p", selected(lab.node, "shop", "late-1"), [allow(CLIENT)])])
        assert {connects(p, "10.0.1.9", 80) for p in (lab.client, lab.node)} == {"open"}


@pytest.mark.usefixtures("server")
def test_shared_identifier_shares_rules(lab: Lab) -> None:
    twin = lab.node.add_pod("shop", "web-2", "10.0.1.8")
    lab.agent.pod_added("shop", "web-2")
    lab.agent.sync([endpoint("p", selected(lab.node, "shop", "web-1"), [allow(FAR)])])
    one, two = lab.agent.handles("shop", "web-1"), lab.agent.handles("shop", "web-2")
    assert [one[d].attached_program_id for d in one] == [two[d].attached_program_id for d in two]
    with tcp_server(twin, "10.0.1.8", 80):
        assert connects(lab.client, "10.0.1.8", 80) == "silent", "not selected, but of the same identifier"


def test_ids_agree_with_tc_and_bpftool(lab: Lab) -> None:
    require_tools("tc", "bpftool")
    handles = lab.agent.handles("shop", "web-1")
    for direction, hook in (("ingress", "egress"), ("egress", "ingress")):
        handle = handles[direction]
        assert handle.attached_program_id == handle.program_id
        assert set(handle.attached_map_ids) == set(handle.map_ids.values())
        assert len(handle.map_ids) == 5
        shown = lab.node.run(["tc", "filter", "show", "dev", str(handle.veth), hook], check=True).stdout
        assert f"protocol all pref 1 bpf chain 0 handle 0x1 handle_{direction} direct-action" in shown
        assert f" id {handle.program_id} " in shown
        net = lab.node.run(["bpftool", "net", "show", "dev", str(handle.veth)], check=True).stdout
        assert f"clsact/{hook} handle_{direction} id {handle.program_id}" in net
        pinned = lab.node.run(["bpftool", "-j", "prog", "show", "pinned", handle.program_pin], check=True).stdout
        assert f'"id":{handle.program_id},' in pinned
        assert '"name"' not in pinned
        assert '"btf_id"' not in pinned
        for name, pin in handle.map_pins.items():
            shown = lab.node.run(["bpftool", "-j", "map", "show", "pinned", pin], check=True).stdout
            assert f'"id":{handle.map_ids[name]},' in shown
            assert '"name"' not in shown
            assert '"btf_id"' not in shown


@both_generations
def test_pins(lab: Lab) -> None:
    separator = lab.agent.generation.separator
    base = lab.node.root / "sys/fs/bpf/globals/aws"
    maps = {p.name for p in (base / "maps").iterdir()}
    own = {"ingress_map", "egress_map", "cp_ingress_map", "cp_egress_map", "ingress_pod_state_map",
           "egress_pod_state_map"}  # fmt: skip
    assert maps == {"global_aws_conntrack_map", "global_policy_events"} | {
        f"{who}{separator}shop_{name}" for who in ("web", "client") for name in own
    }
    lab.agent.pod_removed("shop", "web-1")
    lab.node.remove_pod("shop", "web-1")
    assert {p.name for p in (base / "programs").iterdir()} == {
        f"client{separator}shop_handle_{d}" for d in ("ingress", "egress")
    }


def test_conntrack_entries_of_a_local_flow(lab: Lab, server: socket.socket) -> None:
    with lab.client.socket() as here:
        here.connect((WEB, 80))
        port = here.getsockname()[1]
    with lab.agent.open_map("shop", "web-1", "aws_conntrack_map") as fd:
        assert bpfsys.map_info(fd).max_entries == 524288
        entries = bpfsys.map_items(fd)
    head = socket.inet_aton(CLIENT) + struct.pack("<HH", port, 0)
    head += socket.inet_aton(WEB) + struct.pack("<HBB", 80, 6, 0)
    assert entries == {
        head + socket.inet_aton(pod.ip) + struct.pack("<I", pod.interfaces[0].host_index): b"\x02"
        for pod in (lab.client, lab.web)
    }


@pytest.mark.usefixtures("server")
@both_generations
def test_egress_after_one_of_two_policies_goes(lab: Lab) -> None:
    client = selected(lab.node, "shop", "client-1")
    first, second = endpoint("one", client), endpoint("two", client, [allow(FAR)])
    lab.agent.sync([first, second])
    assert connects(lab.client, WEB, 80) == "open"
    lab.agent.sync([second])
    bug = lab.agent.generation.forgets_egress_catch_all
    assert connects(lab.client, WEB, 80) == ("silent" if bug else "open")


# faults ----------------------------------------


@pytest.mark.usefixtures("server")
def test_fault_skip_map_update(lab: Lab) -> None:
    lab.agent.faults.add("skip_map_update")
    lab.agent.sync([endpoint("p", selected(lab.node, "shop", "web-1"), [allow(CLIENT)])])
    assert connects(lab.client, WEB, 80) == "silent"


@pytest.mark.usefixtures("server")
def test_fault_drop_pod_state(lab: Lab) -> None:
    lab.agent.faults.add("drop_pod_state")
    lab.agent.sync([endpoint("p", selected(lab.node, "shop", "web-1"), [allow(CLIENT)])])
    assert {connects(p, WEB, 80) for p in (lab.client, lab.node)} == {"silent"}


def test_fault_no_attach(lab: Lab) -> None:
    lab.agent.faults.add("no_attach")
    pod = lab.node.add_pod("shop", "bare-1", "10.0.1.9")
    lab.agent.pod_added("shop", "bare-1")
    lab.agent.sync([endpoint("closed", selected(lab.node, "shop", "bare-1"))])
    assert lab.agent.handles("shop", "bare-1")["ingress"].attached_program_id is None
    with tcp_server(pod, "10.0.1.9", 80):
        assert connects(lab.client, "10.0.1.9", 80) == "open"


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("lab", ["1.1.6", "1.2.7", "1.4.1"], indirect=True)
def test_fault_stale_program(lab: Lab) -> None:
    web = selected(lab.node, "shop", "web-1")
    lab.agent.sync([endpoint("p", web, [allow(CLIENT)])])
    before = lab.agent.handles("shop", "web-1")["ingress"]
    lab.agent.faults.add("stale_program")
    lab.agent.sync([endpoint("p", web, [allow(FAR)])])
    after = lab.agent.handles("shop", "web-1")["ingress"]
    assert after.attached_program_id == before.program_id != after.program_id
    assert after.map_ids["ingress_map"] not in after.attached_map_ids
    assert after.map_ids["aws_conntrack_map"] in after.attached_map_ids
    assert (connects(lab.client, WEB, 80), connects(lab.far, WEB, 80)) == ("open", "silent")
    lab.agent.faults.clear()
    lab.agent.restart()
    lab.agent.sync([endpoint("p", web, [allow(FAR)])])
    assert (connects(lab.client, WEB, 80), connects(lab.far, WEB, 80)) == ("silent", "open")


# the network around ----------------------------------------


def test_busybox_wget_by_name(lab: Lab) -> None:
    require_tools("busybox")
    files = lab.node.root / "run/www"
    files.mkdir()
    (files / "index.html").write_text("hello\n")
    lab.client.set_hosts({"nginx": WEB})
    httpd = lab.node.popen(["busybox", "httpd", "-f", "-p", f"{WEB}:80", "-h", "/run/www"], lab.web)
    try:
        deadline = time.monotonic() + 5
        while connects(lab.node, WEB, 80) != "open" and time.monotonic() < deadline:
            time.sleep(0.01)
        got = lab.node.run(["busybox", "wget", "-q", "-O", "-", "http://nginx/"], lab.client)
        assert (got.returncode, got.stdout) == (0, "hello\n")
        web = selected(lab.node, "shop", "web-1")
        lab.agent.sync([endpoint("closed", web)])
        got = lab.node.run(["timeout", "0.6", "busybox", "wget", "-q", "-O", "-", "http://nginx/"], lab.client)
        assert got.returncode != 0
    finally:
        httpd.kill()
        httpd.wait()


def test_more_than_one_interface(lab: Lab) -> None:
    pod = lab.node.add_pod("shop", "multi-1", "10.0.1.20", links=["10.0.1.21"])
    lab.agent.pod_added("shop", "multi-1")
    assert len({i.host_name for i in pod.interfaces}) == 2
    with tcp_server(pod, "10.0.1.21", 80):
        assert {connects(p, "10.0.1.21", 80) for p in (lab.client, lab.far)} == {"open"}
        lab.agent.sync([endpoint("p", selected(lab.node, "shop", "multi-1"), [allow(FAR)])])
        assert [connects(p, "10.0.1.21", 80) for p in (lab.client, lab.far)] == ["silent", "open"]


def test_host_network_pod(lab: Lab) -> None:
    pod = lab.node.add_pod("kube-system", "proxy-1", host_network=True)
    lab.agent.pod_added("kube-system", "proxy-1")
    assert (pod.veth, pod.ip) == (None, lab.node.ip)
    links = [lab.node.run(["ip", "-br", "link"], sandbox).stdout for sandbox in (None, pod)]
    assert links[0] == links[1]


def test_filter_is_created_exclusively(lab: Lab) -> None:
    handle = lab.agent.handles("shop", "web-1")["ingress"]
    index = lab.web.interfaces[0].host_index
    with lab.agent.open_pin(handle.program_pin) as fd, lab.node.netlink() as netlink:
        with pytest.raises(OSError, match="add filter") as caught:
            netlink.add_bpf_filter(index, 0xFFFFFFF3, fd, "handle_ingress")
        assert caught.value.errno == errno.EEXIST
