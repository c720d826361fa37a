"""IPv6 from end to end with real packets: nodes, pods, Services, policies, every generation of the agent."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab import bpfsys
from tests.lab.agent import GENERATIONS, Agent
from tests.lab.node import Fabric, Node, PodSandbox
from tests.lab.require import require_lab, require_tools

from .helpers import allow, cluster_endpoint, connects, endpoint, pings, selected, tcp_server, udp_answers

NETWORK = "2001:db8:0:1::/64"
NODE_A, NODE_B = "2001:db8:0:1::10", "2001:db8:0:1::11"
WEB, CLIENT, FAR = "2001:db8:0:1:a::1", "2001:db8:0:1:a::2", "2001:db8:0:1:b::1"
CLUSTER_IP = "fd30:1c53:5f8a::64"
POD = ("shop", "web-1")


@dataclass
class Lab:
    fabric: Fabric
    node: Node
    other: Node
    agent: Agent
    web: PodSandbox
    client: PodSandbox
    far: PodSandbox

    def only(self, *rules: dict[str, object]) -> None:
        self.agent.sync([endpoint("p", selected(self.node, *POD), rules)])


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    require_lab()
    with Fabric(NETWORK) as fabric:
        node, other = Node("node-a", NODE_A, fabric), Node("node-b", NODE_B, fabric)
        agents = [Agent(n, getattr(request, "param", "1.4.1")) for n in (node, other)]
        web, client = node.add_pod(*POD, WEB), node.add_pod("shop", "client-1", CLIENT)
        far = other.add_pod("shop", "far-1", FAR)
        for agent, pod in ((agents[0], web), (agents[0], client), (agents[1], far)):
            agent.pod_added(pod.namespace, pod.name)
        yield Lab(fabric, node, other, agents[0], web, client, far)


@pytest.fixture
def server(lab: Lab) -> Iterator[socket.socket]:
    with tcp_server(lab.web, WEB, 80) as sock:
        yield sock


every_generation = pytest.mark.parametrize("lab", list(GENERATIONS), indirect=True)


@pytest.mark.usefixtures("server")
@every_generation
def test_allowed_and_denied(lab: Lab) -> None:
    everybody = {"client": lab.client, "far": lab.far, "node": lab.node, "other": lab.other, "vpc": lab.fabric}
    assert {name: connects(p, WEB, 80) for name, p in everybody.items()} == dict.fromkeys(everybody, "open")
    lab.only(allow(FAR, ("TCP", 80)))
    assert connects(lab.far, WEB, 80) == "open"
    assert connects(lab.client, WEB, 80) == "silent"
    assert connects(lab.fabric, WEB, 80) == "silent"
    assert connects(lab.node, WEB, 80) == "open", "the own node's address is always allowed"
    assert connects(lab.other, WEB, 80) == "silent"
    handle = lab.agent.handles(*POD)["ingress"]
    assert handle.attached_program_id == handle.program_id
    lab.agent.sync([])
    assert connects(lab.client, WEB, 80) == "open"


def test_blocks_of_each_family(lab: Lab) -> None:
    with tcp_server(lab.web, WEB, 80):
        lab.only(allow("::/0", ("TCP", 80), **{"except": ["2001:db8:0:1:a::/80"]}))
        assert (connects(lab.client, WEB, 80), connects(lab.far, WEB, 80)) == ("silent", "open")
        lab.only(allow("0.0.0.0/0"))
        assert {connects(p, WEB, 80) for p in (lab.client, lab.far)} == {"silent"}, "an IPv4 block helps nobody"


@pytest.mark.parametrize("lab", ["1.0.4", "1.2.3", "1.4.2"], indirect=True)
def test_replies_udp_and_icmp(lab: Lab, server: socket.socket) -> None:
    """The web pod may not open anything itself, but answers."""
    web = selected(lab.node, *POD)
    rules = [allow(FAR, ("TCP", 80), ("UDP", 53))]
    lab.agent.sync([endpoint("p", web, rules, isolation=["Ingress", "Egress"])])
    with lab.far.socket(socket.AF_INET6) as here:
        here.settimeout(2)
        here.connect((WEB, 80))
        there, _ = server.accept()
        with there:
            there.sendall(b"answer" * 3000)
            assert here.recv(6) == b"answer"
    assert udp_answers(lab.far, lab.web, WEB, 53, FAR)
    assert not udp_answers(lab.far, lab.web, WEB, 54, FAR)
    with tcp_server(lab.far, FAR, 90):
        assert connects(lab.web, FAR, 90) == "silent"
    assert pings(lab.client, WEB), "ICMPv6 cannot be denied"
    assert pings(lab.web, FAR)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("lab", ["1.1.6", "1.4.2"], indirect=True)
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
    assert (connects(lab.client, WEB, 80), connects(lab.client, CLUSTER_IP, 8080)) == ("open", "silent")
    only(allow(CLUSTER_IP, ("TCP", 8080)))
    assert (connects(lab.client, WEB, 80), connects(lab.client, CLUSTER_IP, 8080)) == ("silent", "open")


@pytest.mark.usefixtures("server")
def test_a_pod_reaches_itself_through_its_service(lab: Lab) -> None:
    require_tools("nft")
    lab.node.set_services({CLUSTER_IP: {("TCP", 80): [(WEB, 80)]}})
    lab.only()
    assert connects(lab.client, CLUSTER_IP, 80) == "silent"
    assert connects(lab.web, CLUSTER_IP, 80) == "open", "masqueraded, so its source is the node"


@pytest.mark.usefixtures("server")
def test_cluster_policy(lab: Lab) -> None:
    web = selected(lab.node, *POD)
    deny = cluster_endpoint("deny", web, ingress=[allow("2001:db8:0:1:a::/80", action="Deny")])
    lab.agent.sync([], [deny])
    assert (connects(lab.client, WEB, 80), connects(lab.far, WEB, 80)) == ("silent", "open")


@pytest.mark.parametrize("lab", ["1.0.4", "1.1.6", "1.2.7", "1.3.5", "1.4.1", "1.4.2"], indirect=True)
def test_conntrack_entry_of_a_real_flow(lab: Lab, server: socket.socket) -> None:
    lab.only(allow(FAR, ("TCP", 80)))
    with lab.far.socket(socket.AF_INET6) as here:
        here.connect((WEB, 80))
        port = here.getsockname()[1]
    npa_gen = lab.agent.generation.npa_gen
    key = socket.inet_pton(socket.AF_INET6, FAR) + struct.pack("<HH", port, 0)
    key += socket.inet_pton(socket.AF_INET6, WEB) + struct.pack("<HBB", 80, 6, 0)
    key += socket.inet_pton(socket.AF_INET6, WEB) if npa_gen >= 10005 else b""
    key += struct.pack("<I", lab.web.interfaces[0].host_index) if npa_gen >= 10307 else b""
    with lab.agent.open_map(*POD, "aws_conntrack_map") as fd:
        value = bpfsys.map_items(fd)[key]
    if npa_gen < 10005:
        assert value == socket.inet_pton(socket.AF_INET6, WEB)
    else:
        assert value[0] == (5 if npa_gen >= 10300 else 1)


def test_more_than_one_interface(lab: Lab) -> None:
    second = "2001:db8:0:1:a::21"
    pod = lab.node.add_pod("shop", "multi-1", "2001:db8:0:1:a::20", links=[second])
    lab.agent.pod_added("shop", "multi-1")
    with tcp_server(pod, second, 80):
        assert {connects(p, second, 80) for p in (lab.client, lab.far)} == {"open"}
        lab.agent.sync([endpoint("p", selected(lab.node, "shop", "multi-1"), [allow(FAR)])])
        assert [connects(p, second, 80) for p in (lab.client, lab.far)] == ["silent", "open"]


@pytest.mark.usefixtures("server")
def test_a_pod_goes_and_its_address_is_used_again(lab: Lab) -> None:
    lab.agent.pod_removed("shop", "client-1")
    lab.node.remove_pod("shop", "client-1")
    pod = lab.other.add_pod("shop", "client-1", CLIENT)
    assert connects(pod, WEB, 80) == "open"
