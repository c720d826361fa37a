"""Names on the command line -> pods, services, addresses."""

from __future__ import annotations

import pytest

from kubectl_netpol.errors import NotRead, UsageError
from kubectl_netpol.model.snapshot import Collection
from kubectl_netpol.policy import targets
from tests.unit.builders import container_port, node, pod, service, service_port, world

WEB = {"app": "web"}
HASHED = {"app": "web", "pod-template-hash": "abc"}
PODS = [
    pod("web-abc-x1", "10.0.1.1", labels=HASHED, owner=("ReplicaSet", "web-abc")),
    pod("web2-abc-x1", "10.0.1.2", labels={"pod-template-hash": "abc"}, owner=("ReplicaSet", "web2-abc")),
    pod("db-0", "10.0.1.3", owner=("StatefulSet", "db")),
    pod("db-1", "10.0.1.4", owner=("StatefulSet", "db")),
    pod("agent-q", "10.0.1.5", owner=("DaemonSet", "agent")),
    pod("load-1", "10.0.1.6", owner=("Job", "load")),
    pod("load-0", "10.0.1.7", owner=("Job", "load"), phase="Failed"),
    pod("web", "10.0.1.8", namespace="team-b"),
]
WORLD = world(
    pods=PODS,
    services=[
        service("web", "10.100.0.1", selector=WEB),
        service("bare", "10.100.0.2"),
        service("db", "None", selector={"app": "db"}),
    ],
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", ("pod", "here", "web")),
        ("pod/web", ("pod", "here", "web")),
        ("PO/web", ("pod", "here", "web")),
        ("team-b/web", ("pod", "team-b", "web")),
        ("team-b/svc/web", ("service", "team-b", "web")),
        ("deploy/web", ("deployment", "here", "web")),
        ("rs/web-abc", ("replicaset", "here", "web-abc")),
        ("sts/db", ("statefulset", "here", "db")),
        ("ds/agent", ("daemonset", "here", "agent")),
        ("jobs/load", ("job", "here", "load")),
        ("node/ip-10-0-0-1.ec2.internal", ("node", "here", "ip-10-0-0-1.ec2.internal")),
        ("10.0.0.1", ("address", "", "10.0.0.1")),
        ("FD00::0001", ("address", "", "fd00::1")),
        ("[fd00::1]", ("address", "", "fd00::1")),
    ],
)
def test_parse(text, expected):
    found = targets.parse(text, "here")
    assert (found.kind, found.namespace, found.name) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "pod/",
        "/web",
        "a/b/c",
        "a/pod/b/c",
        "Web",
        "web_1",
        "-web",
        "web-",
        "pod/web\n",
        "x/../y",
        "web\x1b[2J",
    ],
)
def test_not_a_name(text):
    with pytest.raises(UsageError):
        targets.parse(text, "here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", (6, 80)),
        ("80/TCP", (6, 80)),
        ("53/udp", (17, 53)),
        ("9/SCTP", (132, 9)),
        ("65535", (6, 65535)),
        ("icmp", (1, 0)),
        ("ICMPv6", (58, 0)),
    ],
)
def test_ports(text, expected):
    assert targets.parse_port(text) == expected


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "http", "80/ICMP", "80/x", "icmp/1", "8 0", "٨٠", "80/TCP/x"])
def test_not_a_port(text):
    with pytest.raises(UsageError, match="is not a port"):
        targets.parse_port(text)


@pytest.mark.parametrize(
    ("text", "name", "note"),
    [
        ("web-abc-x1", "web-abc-x1", ""),
        ("web", "web-abc-x1", "pod/web is pod default/web-abc-x1"),
        ("web-abc", "web-abc-x1", "pod/web-abc is pod default/web-abc-x1"),
        ("deploy/web", "web-abc-x1", "deployment/web is pod default/web-abc-x1"),
        ("rs/web-abc", "web-abc-x1", "replicaset/web-abc is pod default/web-abc-x1"),
        ("svc/web", "web-abc-x1", "service/web is pod default/web-abc-x1"),
        ("ds/agent", "agent-q", "daemonset/agent is pod default/agent-q"),
        ("job/load", "load-1", "job/load is pod default/load-1"),
        ("load", "load-1", "pod/load is pod default/load-1"),
        ("load-0", "load-0", ""),
        ("team-b/web", "web", ""),
    ],
)
def test_exactly_one_pod(text, name, note):
    found, said = targets.pick_pod(text, "default", WORLD)
    assert (found["metadata"]["name"], said) == (name, note)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("we", 'pod "we" not found in namespace "default"; names that begin with it: web-abc-x1, web2-abc-x1'),
        ("10.0.0.0/8", '"10.0.0.0/8" is a range of addresses'),
        ("db", "pod/db means 2 pods in default: db-0, db-1"),
        ("sts/db", "statefulset/db means 2 pods in default: db-0, db-1"),
        ("deploy/db", 'deployment/db has no running pod in namespace "default"'),
        ("deploy/web-abc", 'deployment/web-abc has no running pod in namespace "default"'),
        ("svc/bare", 'service/bare has no running pod in namespace "default"'),
        ("svc/nope", 'service "nope" not found in namespace "default"'),
        ("nope/web", 'namespace "nope" not found'),
        ("node/x", "node/x is not a pod"),
        ("10.0.1.1", "10.0.1.1 is not a pod"),
    ],
)
def test_never_a_guess(text, message):
    with pytest.raises(UsageError) as failed:
        targets.pick_pod(text, "default", WORLD)
    assert failed.value.message.startswith(message)


def test_many_matches_are_cut_short():
    crowd = world(pods=[pod(f"web-{number:02}", "10.0.1.1") for number in range(12)])
    with pytest.raises(UsageError, match=r"means 12 pods in default: web-00, .*web-09 and 2 more"):
        targets.pick_pod("web", "default", crowd)


def test_pods_that_could_not_be_read_are_not_not_found():
    with pytest.raises(NotRead, match="pods could not be read: forbidden"):
        targets.pick_pod("web", "default", world(pods=Collection(reason="forbidden")))


@pytest.mark.parametrize(
    ("ports", "asked", "expected"),
    [
        ([service_port(80, 8080)], ("TCP", 80), 8080),
        ([service_port(80)], ("TCP", 80), 80),
        ([service_port(80, "http")], ("TCP", 80), 8080),
        ([service_port(80, "nope")], ("TCP", 80), None),
        ([service_port(80, 8080)], ("UDP", 80), None),
        ([service_port(80, 8080)], ("TCP", 81), None),
        ([service_port(80, 1, "UDP"), service_port(80, 2)], ("TCP", 80), 2),
    ],
)
def test_target_ports(ports, asked, expected):
    backend = pod("web", "10.0.1.1", ports=[container_port(8080, "http")])
    assert targets.target_port(service("web", ports=ports), *asked, backend) == expected


def test_the_pods_of_a_service_are_alive_and_of_its_namespace():
    crowd = world(
        pods=[
            pod("a", "10.0.1.1", labels=WEB),
            pod("b", "10.0.1.2", labels=WEB, phase="Succeeded"),
            pod("c", "10.0.1.3", labels=WEB, namespace="other"),
        ]
    )
    found = targets.service_pods(service("web", selector=WEB), crowd)
    assert [p["metadata"]["name"] for p in found] == ["a"]


def test_the_name_of_a_node_is_pointed_out():
    with pytest.raises(UsageError) as caught:
        targets.pick_pod("ip-10-0-0-1.internal", "default", world(nodes=[node("ip-10-0-0-1.internal")]))
    assert caught.value.hint == "it is the name of a node: node/ip-10-0-0-1.internal"
