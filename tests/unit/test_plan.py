"""A question -> the legs of the flow and the pods to read."""

from __future__ import annotations

import pytest

from kubectl_netpol.diagnose import plan
from kubectl_netpol.errors import UsageError
from kubectl_netpol.kernel.identity import identifiers, veth_names
from kubectl_netpol.model.flow import Direction
from tests.unit.builders import (
    NODE_IP,
    container_port,
    node,
    pod,
    service,
    service_port,
    world,
)

WEB = {"app": "web"}
WEB_1 = pod("web-1", "10.0.1.1", labels=WEB, ports=[container_port(8080, "http")])
WEB_2 = pod("web-2", "10.0.2.1", labels=WEB, ports=[container_port(9090, "http")], node="node-b", host_ip="10.0.0.2")
CLIENT = pod("client", "10.0.1.9", ports=[container_port(1), container_port(2)])
HOST = pod("proxy", NODE_IP, host_network=True, ports=[container_port(443)])
SIX = pod("six", "fd00::6", ports=[container_port(80)])
SIX_B = pod("six-b", "fd00::7")
SERVICE = service("web", "10.100.0.1", selector=WEB, ports=[service_port(80, "http")])
HEADLESS = service("headless", "None", selector=WEB, ports=[service_port(80, "http")])
WORLD = world(
    pods=[WEB_1, WEB_2, CLIENT, HOST, SIX, SIX_B, pod("pending", node="")],
    services=[SERVICE, HEADLESS],
    nodes=[node(), node("node-b", "10.0.0.2"), {"metadata": {"name": "bare"}, "status": {}}],
)


def make(name, **more):
    return plan.make_plan(plan.Question(name, **more), "default", WORLD)


def legs(name, **more) -> list[str]:
    """`pod direction source->destination port/protocol peer`."""
    found = []
    for leg in make(name, **more).legs:
        flow, ends = leg.ends.flow, leg.ends
        peer = ends.peer_pod["metadata"]["name"] if ends.peer_pod else "-"
        found.append(
            f"{leg.pod['metadata']['name']} {ends.direction} {flow.source}->{flow.destination} "
            f"{flow.port}/{flow.protocol} {peer}"
        )
    return found


def test_without_a_flow_only_the_pod_is_read():
    found = make("client")
    assert (found.legs, list(found.reads), found.notes) == ((), ["node-a"], ())


def test_between_pods_both_sides_are_judged_the_asked_one_first():
    assert legs("client", destination="web-1", port="80") == [
        "client egress 10.0.1.9->10.0.1.1 80/6 web-1",
        "web-1 ingress 10.0.1.9->10.0.1.1 80/6 client",
    ]
    assert legs("web-1", source="client", port="80/udp") == [
        "web-1 ingress 10.0.1.9->10.0.1.1 80/17 client",
        "client egress 10.0.1.9->10.0.1.1 80/17 web-1",
    ]


def test_an_address_that_a_pod_has_is_that_pod():
    assert legs("client", destination="10.0.1.1", port="80") == legs("client", destination="web-1", port="80")


@pytest.mark.parametrize("end", ["192.0.2.1", "10.0.0.2", "node/node-b", "proxy"])
def test_an_end_that_is_not_on_the_pod_network_has_one_leg(end):
    """The host network is not judged by pod policies."""
    [leg] = legs("web-1", source=end, port="80")
    assert leg.endswith("80/6 -")


def test_a_service_is_judged_on_its_cluster_ip_and_each_pod_on_its_own_port():
    assert legs("client", destination="svc/web", port="80") == [
        "client egress 10.0.1.9->10.100.0.1 80/6 -",
        "web-1 ingress 10.0.1.9->10.0.1.1 8080/6 client",
        "web-2 ingress 10.0.1.9->10.0.2.1 9090/6 client",
    ]
    first = make("client", destination="10.100.0.1", port="80").legs[0]
    assert first.service == "default/web"
    assert [(str(e.flow.destination), e.flow.port) for e in first.backends] == [("10.0.1.1", 8080), ("10.0.2.1", 9090)]


def test_a_pod_behind_its_own_service_is_not_its_own_backend():
    assert len(legs("web-1", destination="svc/web", port="80")) == 2


def test_a_service_port_that_does_not_exist_leads_to_no_pod():
    with pytest.raises(UsageError, match="service default/web has no port 81/TCP; it has 80/TCP"):
        legs("client", destination="svc/web", port="81")


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("web-1", {"source": "client"}, (6, 8080, "--port 8080/TCP: the only one that is declared")),
        ("client", {"destination": "svc/web"}, (6, 80, "--port 80/TCP: the only one that is declared")),
        ("web-1", {"source": "client", "port": "icmp"}, (1, 0, None)),
        ("six", {"source": "six-b", "port": "icmp"}, (58, 0, None)),
    ],
)
def test_the_port(name, more, expected):
    found = make(name, **more)
    flow = found.legs[0].ends.flow
    assert (flow.protocol, flow.port) == expected[:2]
    assert found.notes == ((expected[2],) if expected[2] else ())


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("web-1", {"source": "client", "destination": "client"}, "--from and --to exclude each other"),
        ("web-1", {"port": "80"}, "--port needs --from or --to"),
        ("web-1", {"source": "client", "directions": (Direction.INGRESS,)}, "--direction goes without --from and --to"),
        ("client", {"source": "web-1"}, "--port is needed: the receiving side has several ports: 1/TCP, 2/TCP"),
        ("web-1", {"destination": "192.0.2.1"}, "the receiving side declares no port"),
        ("pending", {}, "pod default/pending is not on a node yet"),
        ("web-1", {"source": "web-1", "port": "80"}, "talking to itself"),
        ("web-1", {"source": "10.0.1.1", "port": "80"}, "talking to itself"),
        ("web-1", {"source": "fd00::1", "port": "80"}, "has no IPv6 address"),
        ("web-1", {"source": "svc/web", "port": "80"}, "cannot be a source"),
        ("web-1", {"destination": "svc/headless", "port": "80"}, "has no ClusterIP"),
        ("web-1", {"destination": "svc/nope", "port": "80"}, "not found"),
        ("web-1", {"destination": "node/nope", "port": "80"}, 'node "nope" not found'),
        ("web-1", {"destination": "node/bare", "port": "80"}, "has no InternalIP"),
        ("web-1", {"destination": "pending", "port": "80"}, "has no address yet"),
        ("web-1", {"destination": "web", "port": "80"}, "means 2 pods"),
        ("web-1", {"source": "client", "port": "http"}, "is not a port"),
    ],
)
def test_questions_that_make_no_sense(name, more, message):
    with pytest.raises(UsageError, match=message):
        make(name, **more)


def test_nodes_of_all_legs_are_read_once_and_the_host_network_never():
    found = make("client", destination="svc/web", port="80")
    names = {n: [p["metadata"]["name"] for p in pods] for n, pods in found.reads.items()}
    assert names == {"node-a": ["client", "web-1"], "node-b": ["web-2"]}
    assert dict(make("proxy", source="192.0.2.1", port="443").reads) == {}


def test_only_a_few_nodes_are_read_and_the_rest_is_named():
    crowd = [
        pod(f"web-{n}", f"10.0.1.{n}", labels=WEB, node=f"n{n}", ports=[container_port(80, "http")])
        for n in range(1, 9)
    ]
    question = plan.Question("client", destination="svc/web")
    found = plan.make_plan(question, "default", world(pods=[CLIENT, *crowd], services=[SERVICE]))
    assert list(found.reads) == ["node-a", "n1", "n2", "n3"]
    assert found.skipped_nodes == ("n4", "n5", "n6", "n7", "n8")
    assert len(found.legs) == 9


def test_the_readers_request():
    request = plan.reader_request([WEB_1])
    [asked] = request["pods"]
    assert asked["ips"] == ["10.0.1.1"]
    assert asked["links"][:2] == list(veth_names("default", "web-1"))
    assert set(veth_names("default", "web-1", 1)) < set(asked["links"])
    assert asked["identifiers"] == list(identifiers("default", "web-1"))
    assert (request["all"], request["conntrack"]) == (False, "pods")
    assert plan.reader_request([], everything=True)["conntrack"] == "all"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (plan.Question("web-1"), ("default",)),
        (plan.Question("shop/web-1"), ("shop",)),
        (plan.Question("web-1", source="shop/pod/x"), ("default", "shop")),
        (plan.Question("shop/web-1", destination="svc/web"), ("shop",)),
        (plan.Question("web-1", destination="10.0.1.9"), ("default",)),
        (plan.Question("web-1", source="node/x"), ("default",)),
    ],
)
def test_namespaces_that_the_words_of_a_question_name(question, expected):
    assert plan.namespaces_of(question, "default") == expected


def test_an_address_is_judged_in_the_namespace_of_its_pod():
    far = pod("far", "10.0.3.1", namespace="shop", ports=[container_port(80)])
    question = plan.Question("client", destination="10.0.3.1", port="80")
    found = plan.make_plan(question, "default", world(pods=[CLIENT, far]))
    assert plan.judged_namespaces(found) == ("default", "shop")


def test_a_pod_behind_its_own_service_is_judged_on_the_cluster_ip():
    """What comes back to it comes from its node (hairpin): there is no ingress leg."""
    alone = world(pods=[WEB_1], services=[SERVICE])
    found = plan.make_plan(plan.Question("web-1", destination="svc/web"), "default", alone)
    [leg] = found.legs
    assert (leg.ends.direction, str(leg.ends.flow.destination)) == (Direction.EGRESS, "10.100.0.1")
    assert [ends.peer_pod for ends in leg.backends] == [WEB_1]


def test_backends_on_the_host_network_are_no_pods_for_selectors():
    host = pod("host", NODE_IP, labels=WEB, host_network=True, ports=[container_port(80, "http")])
    found = plan.make_plan(
        plan.Question("client", destination="svc/web"), "default", world(pods=[CLIENT, host], services=[SERVICE])
    )
    assert [(str(ends.peer), ends.peer_pod) for ends in found.legs[0].backends] == [(NODE_IP, None)]
