"""NetworkPolicy -> PolicyEndpoint entries, with the controller's own rules."""

from __future__ import annotations

import pytest

from kubectl_netpol.model.flow import Direction
from kubectl_netpol.policy import controller
from kubectl_netpol.policy.ports import ALL_PORTS, Port
from tests.unit.builders import (
    NODE_IP,
    container_port,
    match,
    namespace,
    node,
    pod,
    policy,
    service,
    service_port,
    world,
)
from tests.unit.policy_builders import (
    EVERYWHERE,
    cnp,
    element_text,
    elements,
    listed,
    number,
    span,
    with_policy,
)
from tests.unit.policy_builders import pods as cp_pods
from tests.unit.policy_builders import rule as cp_rule
from tests.unit.policy_builders import to as to_

WEB = {"app": "web"}
WEB_1 = pod("web-1", "10.0.1.1", labels=WEB, ports=[container_port(8080, "http")])
WEB_2 = pod("web-2", "10.0.1.2", labels=WEB, ports=[container_port(9090, "http"), container_port(53, "dns", "UDP")])
CLIENT = pod("client", "10.0.1.3", labels={"app": "client"})
DONE = pod("job", "10.0.1.3", labels=WEB, phase="Succeeded")
NO_IP = pod("new", labels=WEB, phase="Pending")
HOST = pod("proxy", NODE_IP, labels={"app": "proxy"}, host_network=True)
PODS = [WEB_1, WEB_2, CLIENT, DONE, NO_IP, HOST]


def resolve(rules, direction=Direction.EGRESS, target=CLIENT, types=None, **objects):
    made = policy("p", types=types, **{direction.value: rules})
    found = {"pods": PODS, **objects}
    return controller.resolve(made, direction, world(**found))


def entries(*arguments, **more) -> dict[str, str]:
    """who -> `prefix ports`."""
    wanted, _ = resolve(*arguments, **more)
    return {w.who: " ".join([str(w.prefix), *(p.text for p in w.ports)]) for w in wanted}


def to(selector=None, *ports, **more):
    peer = {"podSelector": match(**WEB) if selector is None else selector, **more}
    return {"to": [peer], **({"ports": list(ports)} if ports else {})}


def test_selector_peers_are_the_living_pods_with_an_address():
    assert entries([to()]) == {"pod default/web-1": "10.0.1.1/32", "pod default/web-2": "10.0.1.2/32"}


def test_a_host_network_pod_is_a_peer_with_its_node_address():
    assert entries([to(match(app="proxy"))]) == {"pod default/proxy": f"{NODE_IP}/32"}


def test_entries_know_their_rule():
    wanted, _ = resolve([{}, to()])
    assert [(w.policy, w.path, w.selects) for w in wanted[2:]] == [("p", "spec.egress[1].to[0]", "pods app=web")] * 2


def test_an_absent_peer_list_is_everybody_in_both_families():
    for rules in ([{}], [{"to": []}], [{"to": None}]):
        wanted, skipped = resolve(rules)
        assert [str(w.prefix) for w in wanted] == ["0.0.0.0/0", "::/0"]
        assert {w.who for w in wanted} == {"anybody"}
        assert not skipped


def test_ip_block_keeps_its_excepts():
    [block], _ = resolve([{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]}}]}])
    assert (str(block.prefix), [str(e) for e in block.excepts]) == ("10.0.0.0/8", ["10.9.0.0/16"])


def test_rules_of_a_direction_that_policy_types_does_not_list_are_shipped_too():
    assert entries([to()], types=["Ingress"])


def test_namespaces_of_selector_peers():
    far = pod("far", "10.0.2.1", namespace="team-b", labels=WEB)
    objects = {"pods": [*PODS, far], "namespaces": [namespace("default"), namespace("team-b", {"team": "b"})]}
    selector = {"namespaceSelector": match(team="b")}
    assert set(entries([to(**selector)], **objects)) == {"pod team-b/far"}
    assert set(entries([{"to": [selector]}], **objects)) == {"pod team-b/far"}


# ---- named ports


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({"port": 80}, {"web-1": "80/TCP", "web-2": "80/TCP"}),
        ({"port": 80, "endPort": 90}, {"web-1": "80-90/TCP", "web-2": "80-90/TCP"}),
        ({"protocol": "UDP"}, {"web-1": "all UDP ports", "web-2": "all UDP ports"}),
        ({"port": "http"}, {"web-1": "8080/TCP", "web-2": "9090/TCP"}),
        ({"port": "dns", "protocol": "UDP"}, {"web-2": "53/UDP"}),
        ({"port": "dns"}, {}),
    ],
    ids=str,
)
def test_egress_ports_are_those_of_each_destination(port, expected):
    found = entries([to(None, port)])
    assert {who.removeprefix("pod default/"): text.split(" ", 1)[1] for who, text in found.items()} == expected


def test_ingress_named_ports_are_the_union_of_all_selected_pods():
    """Every selected pod gets the ports of all of them: the controller makes one list for the policy."""
    rule = {"from": [{"podSelector": match(app="client")}], "ports": [{"port": "http"}]}
    made = policy("p", selects=WEB, ingress=[rule])
    [found], _ = controller.resolve(made, Direction.INGRESS, world(pods=PODS))
    assert [p.text for p in found.ports] == ["8080/TCP", "9090/TCP"]


def test_ingress_named_ports_are_resolved_for_addresses_too_and_egress_ones_dropped():
    """Controllers of 2025 and later; the first releases dropped named ports wherever the peer is an address."""
    ports = [{"port": "http"}]
    block = {"ipBlock": {"cidr": "10.0.0.0/8"}}
    for rule, count in (({"ports": ports}, 2), ({"from": [block], "ports": ports}, 1)):
        found = policy("p", selects=WEB, ingress=[rule])
        wanted, _ = controller.resolve(found, Direction.INGRESS, world(pods=[WEB_1]))
        assert [p.text for w in wanted for p in w.ports] == ["8080/TCP"] * count
    out = policy("p", selects=WEB, egress=[{"to": [block], "ports": ports}])
    wanted, [skipped] = controller.resolve(out, Direction.EGRESS, world(pods=[WEB_1]))
    assert not wanted
    assert skipped.reason == "a named port cannot be resolved for addresses, so the controller drops it"


def test_of_several_ports_only_the_unresolved_are_dropped_for_a_block():
    rule = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "http"}, {"port": 443}]}
    assert entries([rule]) == {"10.0.0.0/8": "10.0.0.0/8 443/TCP"}


@pytest.mark.parametrize(
    ("rule", "selects", "reason"),
    [
        (to(match(app="nope")), "pods app=nope", "no running pod matches"),
        (to(namespaceSelector=match(x="y")), "pods app=web in namespaces x=y", "no namespace matches"),
        (to(None, {"port": "nope"}), "pods app=web", "no matching pod has a container port of that name"),
        ({"ports": [{"port": "http"}]}, "anybody", "a named port cannot be resolved for addresses, so the"),
        ({"to": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}, "10.0.0.0/99", "the ipBlock has no valid cidr"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_peer_that_resolves_to_nothing_is_skipped_with_a_reason(rule, selects, reason):
    wanted, [skipped] = resolve([rule])
    assert not wanted
    assert skipped.selects == selects
    assert skipped.reason.startswith(reason)


def test_an_ingress_name_that_no_selected_pod_has():
    rule = {"ports": [{"port": "nope"}]}
    wanted, [skipped] = resolve([rule], Direction.INGRESS, WEB_1)
    assert not wanted
    assert skipped.reason == "web-1 has no container port of that name (nope)"


# ---- Services


def svc(*ports, selector=WEB, ip="10.100.0.1", **more):
    return service("web", ip, selector=selector, ports=ports or [service_port(80, 8080)], **more)


@pytest.mark.parametrize(
    ("peer", "offered", "found"),
    [
        (match(**WEB), svc(), True),
        (match(app="web", tier="fe"), svc(), False),
        (match(app="web"), svc(selector={"app": "web", "tier": "fe"}), True),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}, svc(), True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, svc(selector=None), False),
        ({}, svc(), True),
        ({}, svc(selector=None), True),
        (match(**WEB), svc(ip="None"), False),
        (match(**WEB), svc(ip=""), False),
        (match(**WEB), svc(namespace="other"), False),
    ],
    ids=str,
)
def test_the_selector_of_the_service_itself_decides(peer, offered, found):
    """Not the labels of the pods behind it."""
    assert ("service default/web" in entries([to(peer)], services=[offered])) is found


def test_a_peer_of_namespaces_only_brings_all_their_services():
    rule = {"to": [{"namespaceSelector": {}}]}
    assert entries([rule], services=[svc(selector=None)])["service default/web"] == "10.100.0.1/32"


def test_blocks_and_absent_peers_bring_no_services():
    for rule in ({}, {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}):
        assert "service default/web" not in entries([rule], services=[svc()])
    assert "service default/web" not in entries([{"from": [{"podSelector": {}}]}], Direction.INGRESS, services=[svc()])


@pytest.mark.parametrize(
    ("port", "offered", "expected"),
    [
        ({"port": 8080}, svc(), "80/TCP"),
        ({"port": 80}, svc(), None),
        ({"port": 80}, svc(service_port(80)), "80/TCP"),
        ({"port": 8080, "protocol": "UDP"}, svc(), None),
        ({"port": "http"}, svc(service_port(80, "http")), "80/TCP"),
        ({"port": "http"}, svc(service_port(80, 8080)), "80/TCP"),
        # web-2 calls another port http: the ClusterIP would lead past the policy (controller >= 1.1.5).
        ({"port": 8080}, svc(service_port(80, "http")), None),
        ({"port": 8080, "endPort": 9090}, svc(service_port(80, "http")), "80-9090/TCP"),
        ({"port": 8080}, svc(service_port(80, 8080), service_port(81, 8080)), "80/TCP"),
        ({"port": 8080, "endPort": 8090}, svc(), "80-8090/TCP"),
        ({"protocol": "TCP"}, svc(), "all TCP ports"),
        ({"port": "8080"}, svc(), None),
    ],
    ids=str,
)
def test_ports_become_those_of_the_service(port, offered, expected):
    found = entries([to(None, port)], services=[offered]).get("service default/web")
    assert found == (f"10.100.0.1/32 {expected}" if expected else None)


def test_no_ports_give_the_cluster_ip_with_all_ports():
    assert entries([to()], services=[svc()])["service default/web"] == "10.100.0.1/32"


def test_only_the_first_cluster_ip_is_used():
    dual = svc()
    dual["spec"]["clusterIPs"] = ["10.100.0.1", "fd00::1"]
    wanted, _ = resolve([to()], services=[dual])
    assert [str(w.prefix) for w in wanted if w.who.startswith("service")] == ["10.100.0.1/32"]


def test_a_host_network_pod_that_does_not_run_yet_is_no_peer():
    bare = pod("proxy", labels={"app": "proxy"}, host_network=True, phase="Pending")
    wanted, [skipped] = resolve([to(match(app="proxy"))], pods=[bare], nodes=[node()])
    assert not wanted
    assert skipped.reason == "no running pod matches"


# ---- NetworkPolicy -> PolicyEndpoint, rule by rule (agent facts 6.3)

BLOCK = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16", "10.8.0.0/16"]}}
CLIENTS = {"podSelector": match(app="client")}
FAR = pod("far", "10.0.2.1", namespace="team-b", labels=WEB, ports=[container_port(7070, "http")])
NAMESPACES = [namespace("default"), namespace("team-b", {"team": "b"}), namespace("team-c", {"team": "c"})]
CLUSTER = {"pods": [*PODS, FAR], "namespaces": NAMESPACES}


def ingress(*rules, **more):
    return policy("p", selects=WEB, ingress=list(rules), **more)


def egress(*rules, **more):
    return policy("p", egress=list(rules), **more)


def changed(original, *, status=None, **metadata):
    """A copy of a pod with other metadata and status."""
    found = {**original, "metadata": {**original["metadata"], **metadata}}
    return {**found, "status": {**original["status"], **(status or {})}}


NOTED = {"annotations": {"vpc.amazonaws.com/pod-ips": "10.0.1.9"}}
TERMINATING = changed(WEB_1, deletionTimestamp="2026-01-01T00:00:00Z")
NOT_READY = changed(WEB_1, status={"conditions": [{"type": "Ready", "status": "False"}]})
DUAL = changed(WEB_1, status={"podIPs": [{"ip": "10.0.1.1"}, {"ip": "2001:db8::1"}]})
ANNOTATED = changed(NO_IP, **NOTED)
ANNOTATED_TOO = changed(WEB_1, **NOTED)
HOST_WEB = pod("edge", NODE_IP, labels=WEB, host_network=True, ports=[container_port(6060, "http")])
FAILED = changed(DONE, status={"phase": "Failed"})

PEERS = {
    "6.3 nil from: both families": ([{}], ["0.0.0.0/0", "::/0"]),
    "6.3 nil from with ports": ([{"ports": [{"port": 80}]}], ["0.0.0.0/0 80/TCP", "::/0 80/TCP"]),
    "6.3 ipBlock copied with its excepts": ([{"from": [BLOCK]}], ["10.0.0.0/8 except 10.8.0.0/16,10.9.0.0/16"]),
    "6.3 ipBlock of one address": ([{"from": [{"ipBlock": {"cidr": "192.0.2.1/32"}}]}], ["192.0.2.1"]),
    "6.3 ipBlock of the other family": ([{"from": [{"ipBlock": {"cidr": "2001:db8::/32"}}]}], ["2001:db8::/32"]),
    "6.3 podSelector: the own namespace": ([{"from": [{"podSelector": match(**WEB)}]}], ["10.0.1.1", "10.0.1.2"]),
    "6.3 podSelector {}: all of the own namespace": (
        [{"from": [{"podSelector": {}}]}],
        [NODE_IP, "10.0.1.1", "10.0.1.2", "10.0.1.3"],
    ),
    "6.3 namespaceSelector: all pods there": ([{"from": [{"namespaceSelector": match(team="b")}]}], ["10.0.2.1"]),
    "6.3 both selectors": (
        [{"from": [{"namespaceSelector": {}, "podSelector": match(**WEB)}]}],
        ["10.0.1.1", "10.0.1.2", "10.0.2.1"],
    ),
    "6.3 several peers of one rule": (
        [{"from": [CLIENTS, BLOCK]}],
        ["10.0.0.0/8 except 10.8.0.0/16,10.9.0.0/16", "10.0.1.3"],
    ),
    "6.3 no rules": ([], []),
}


@pytest.mark.parametrize(("rules", "expected"), PEERS.values(), ids=PEERS)
def test_peers_of_ingress_rules(rules, expected):
    assert elements("NetworkPolicy", ingress(*rules), Direction.INGRESS, **CLUSTER) == sorted(expected)


READY = {
    "6.3 finished": (DONE, None),
    "6.3 failed": (FAILED, None),
    "6.3 without an address": (NO_IP, None),
    "6.3 terminating": (TERMINATING, "10.0.1.1"),
    "6.3 not ready": (NOT_READY, "10.0.1.1"),
    "6.3 podIPs[1] never": (DUAL, "10.0.1.1"),
    "6.3 the annotation where there is no status.podIP": (ANNOTATED, "10.0.1.9"),
    "6.3 status.podIP before the annotation": (ANNOTATED_TOO, "10.0.1.1"),
}


@pytest.mark.parametrize(("one", "address"), READY.values(), ids=READY)
def test_which_pods_count(one, address):
    """As selected pods, as peers of both directions, and where named ports are looked up."""
    found = listed("NetworkPolicy", ingress(), pods=[one])
    assert found == ({f"default/{one['metadata']['name']}": address} if address else {})
    peer = {"podSelector": match(**WEB)}
    expected = [address] if address else []
    assert elements("NetworkPolicy", ingress({"from": [peer]}), Direction.INGRESS, pods=[one]) == expected
    assert elements("NetworkPolicy", egress({"to": [peer]}), Direction.EGRESS, pods=[one]) == expected
    named = {**one, "spec": WEB_1["spec"]}
    rules = ingress({"from": [{"ipBlock": {"cidr": "192.0.2.1/32"}}], "ports": [{"port": "http"}]})
    assert elements("NetworkPolicy", rules, Direction.INGRESS, pods=[named]) == ["192.0.2.1 8080/TCP"] * len(expected)


def test_host_network_pods_are_not_selected_and_are_peers_with_their_node_address():
    """6.3, controller >= 1.1.2."""
    assert listed("NetworkPolicy", ingress(), pods=[HOST_WEB, WEB_1]) == {"default/web-1": "10.0.1.1"}
    peer = {"podSelector": match(**WEB)}
    for made, direction in ((ingress({"from": [peer]}), Direction.INGRESS), (egress({"to": [peer]}), Direction.EGRESS)):
        assert elements("NetworkPolicy", made, direction, pods=[HOST_WEB]) == [NODE_IP]


PORTS = {
    "6.3 numeric": ([{"port": 80}], "80/TCP"),
    "6.3 numeric with endPort": ([{"port": 80, "endPort": 90, "protocol": "UDP"}], "80-90/UDP"),
    "6.3 protocol only": ([{"protocol": "SCTP"}], "all SCTP ports"),
    "6.3 several": ([{"port": 80}, {"port": 53, "protocol": "UDP"}], "80/TCP,53/UDP"),
    "6.3 named, ingress: the union over the selected pods": ([{"port": "http"}], "8080/TCP,9090/TCP"),
    "6.3 named, ingress: of the protocol": ([{"port": "dns", "protocol": "UDP"}], "53/UDP"),
    "6.3 named, ingress: not of another protocol": ([{"port": "dns"}], None),
    "6.3 named, ingress: what does not resolve is left out": ([{"port": "nope"}, {"port": 80}], "80/TCP"),
    "6.3 named, ingress: a rule without any port left is skipped": ([{"port": "nope"}, {"port": "no"}], None),
    "6.3 named and numeric together": ([{"port": "http"}, {"port": 80}], "80/TCP,8080/TCP,9090/TCP"),
}


@pytest.mark.parametrize(("ports", "expected"), PORTS.values(), ids=PORTS)
def test_ports_of_ingress_rules(ports, expected):
    """The same for pods, for blocks and for everybody."""
    for peers, cidrs in ((None, ["0.0.0.0/0", "::/0"]), ([CLIENTS], ["10.0.1.3"]), ([BLOCK], [])):
        rule = {"ports": ports, **({"from": peers} if peers else {})}
        cidrs = cidrs or ["10.0.0.0/8 except 10.8.0.0/16,10.9.0.0/16"]
        wanted = [f"{cidr} {expected}" for cidr in cidrs] if expected else []
        assert elements("NetworkPolicy", ingress(rule), Direction.INGRESS, **CLUSTER) == wanted


def with_ports(name, spec, **more):
    return {**pod(name, "10.0.1.7", labels=WEB), "spec": {"nodeName": "node-a", **spec}, **more}


CONTAINERS = {
    "6.3 not those of init containers": (
        {"containers": [{"name": "a"}], "initContainers": [{"name": "i", "ports": [container_port(81, "http")]}]},
        None,
    ),
    "6.3 of any container": (
        {"containers": [{"name": "a"}, {"name": "b", "ports": [container_port(82, "http")]}]},
        "82/TCP",
    ),
    "6.3 the first of that name": (
        {"containers": [{"name": n, "ports": [container_port(p, "http")]} for n, p in (("a", 83), ("b", 84))]},
        "83/TCP",
    ),
    "6.3 a container port without protocol is TCP": (
        {"containers": [{"name": "a", "ports": [{"name": "http", "containerPort": 85}]}]},
        "85/TCP",
    ),
}


@pytest.mark.parametrize(("spec", "expected"), CONTAINERS.values(), ids=CONTAINERS)
def test_where_named_ports_are_looked_up(spec, expected):
    one = with_ports("web-9", spec)
    made = ingress({"from": [BLOCK], "ports": [{"port": "http"}]})
    found = elements("NetworkPolicy", made, Direction.INGRESS, pods=[one])
    assert [text.rpartition(" ")[2] for text in found] == ([expected] if expected else [])
    made = egress({"to": [{"podSelector": match(**WEB)}], "ports": [{"port": "http"}]})
    assert elements("NetworkPolicy", made, Direction.EGRESS, pods=[one]) == (
        [f"10.0.1.7 {expected}"] if expected else []
    )


def test_named_ports_of_ingress_are_those_of_selected_pods_only_host_network_ones_included():
    """6.3: not of the peers, and pods of the host network are looked at though they are not listed."""
    made = ingress({"from": [CLIENTS], "ports": [{"port": "http"}]})
    peer = pod("client", "10.0.1.3", labels={"app": "client"}, ports=[container_port(1111, "http")])
    assert elements("NetworkPolicy", made, Direction.INGRESS, pods=[WEB_1, peer]) == ["10.0.1.3 8080/TCP"]
    assert elements("NetworkPolicy", made, Direction.INGRESS, pods=[HOST_WEB, peer]) == ["10.0.1.3 6060/TCP"]
    far = {"namespaceSelector": match(team="b")}
    made = ingress({"from": [far], "ports": [{"port": "http"}]})
    assert elements("NetworkPolicy", made, Direction.INGRESS, **CLUSTER) == ["10.0.2.1 8080/TCP,9090/TCP"]


EGRESS_PORTS = {
    "6.3 named, egress: each destination's own": (
        {"to": [{"podSelector": match(**WEB)}], "ports": [{"port": "http"}]},
        ["10.0.1.1 8080/TCP", "10.0.1.2 9090/TCP"],
    ),
    "6.3 named, egress: a pod without that name is left out": (
        {"to": [{"podSelector": {}}], "ports": [{"port": "dns", "protocol": "UDP"}]},
        ["10.0.1.2 53/UDP"],
    ),
    "6.3 named, egress: and keeps the ports that it has": (
        {"to": [{"podSelector": match(**WEB)}], "ports": [{"port": "dns", "protocol": "UDP"}, {"port": 443}]},
        ["10.0.1.1 443/TCP", "10.0.1.2 443/TCP,53/UDP"],
    ),
    "6.3 named with an ipBlock: dropped": ({"to": [BLOCK], "ports": [{"port": "http"}]}, []),
    "6.3 named with an ipBlock: others stay": (
        {"to": [BLOCK], "ports": [{"port": "http"}, {"port": 443}]},
        ["10.0.0.0/8 except 10.8.0.0/16,10.9.0.0/16 443/TCP"],
    ),
    "6.3 named with empty to: dropped": ({"ports": [{"port": "http"}]}, []),
    "6.3 named with empty to: others stay": (
        {"ports": [{"port": "http"}, {"port": 443}]},
        ["0.0.0.0/0 443/TCP", "::/0 443/TCP"],
    ),
}


@pytest.mark.parametrize(("rule", "expected"), EGRESS_PORTS.values(), ids=EGRESS_PORTS)
def test_named_ports_of_egress_rules(rule, expected):
    assert elements("NetworkPolicy", egress(rule), Direction.EGRESS, **CLUSTER) == expected


ISOLATION = {
    "6.3 podIsolation is policyTypes": ({"types": ["Egress"]}, ["Egress"]),
    "6.3 both": ({"types": ["Ingress", "Egress"]}, ["Ingress", "Egress"]),
    "6.3 defaulted by the API server": ({"egress": [{}]}, ["Ingress", "Egress"]),
    "6.3 defaulted without egress rules": ({}, ["Ingress"]),
}


@pytest.mark.parametrize(("more", "expected"), ISOLATION.values(), ids=ISOLATION)
def test_pod_isolation(more, expected):
    cluster, made = with_policy("NetworkPolicy", policy("p", **more))
    assert list(controller.resolution(made, cluster).isolation) == expected


def test_rules_of_unlisted_directions_are_shipped_in_both_directions():
    made = policy("p", types=["Ingress"], egress=[{"to": [BLOCK]}])
    assert elements("NetworkPolicy", made, Direction.EGRESS)
    made = policy("p", types=["Egress"], ingress=[{"from": [BLOCK]}])
    assert elements("NetworkPolicy", made, Direction.INGRESS)


# ---- Services of egress rules (agent facts 6.4)


def named_svc(name, ip, *ports, namespace="default", selector=WEB, **more):
    made = service(name, ip, namespace=namespace, selector=selector, ports=ports or [service_port(80, 8080)])
    made["spec"] |= more
    return made


SVC = "10.100.0.1"
TO_WEB = {"to": [{"podSelector": match(**WEB)}]}
IN_B = named_svc("far", "10.100.0.2", namespace="team-b")
KUBERNETES = named_svc("kubernetes", "10.100.0.9", service_port(443, 6443), selector=None)
SERVICES = {
    "6.4 clusterIP with all ports": (TO_WEB, [named_svc("web", SVC)], [SVC]),
    "6.4 namespaces of the peer": (
        {"to": [{"namespaceSelector": match(team="b"), "podSelector": match(**WEB)}]},
        [named_svc("web", SVC), IN_B],
        ["10.100.0.2"],
    ),
    "6.4 the own namespace only without a namespaceSelector": (TO_WEB, [IN_B], []),
    "6.4 the Service's selector, not its pods: a label less": (
        {"to": [{"podSelector": match(app="web", tier="fe")}]},
        [named_svc("web", SVC)],
        [],
    ),
    "6.4 the Service's selector, not its pods: a label more": (
        TO_WEB,
        [named_svc("web", SVC, selector={"app": "web", "tier": "fe"})],
        [SVC],
    ),
    "6.4 matchExpressions In": (
        {"to": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "x"]}]}}]},
        [named_svc("web", SVC)],
        [SVC],
    ),
    "6.4 matchExpressions NotIn a missing key": (
        {"to": [{"podSelector": {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["fe"]}]}}]},
        [named_svc("web", SVC)],
        [SVC],
    ),
    "6.4 podSelector {}: also without a selector": ({"to": [{"podSelector": {}}]}, [KUBERNETES], ["10.100.0.9"]),
    "6.4 no podSelector: also without a selector": ({"to": [{"namespaceSelector": {}}]}, [KUBERNETES], ["10.100.0.9"]),
    "6.4 a podSelector: not without a selector": (TO_WEB, [KUBERNETES], []),
    "6.4 headless": (TO_WEB, [named_svc("web", "None")], []),
    "6.4 ExternalName": (TO_WEB, [named_svc("web", "", type="ExternalName", externalName="example.com")], []),
    "6.4 the first clusterIP only": (TO_WEB, [named_svc("web", SVC, clusterIPs=[SVC, "fd00::1"])], [SVC]),
    "6.4 no externalIPs, no addresses of load balancers": (
        TO_WEB,
        [
            {
                **named_svc("web", SVC, externalIPs=["192.0.2.7"]),
                "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}]}},
            }
        ],
        [SVC],
    ),
    "6.4 none for ipBlock": ({"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}, [named_svc("web", SVC)], []),
    "6.4 none for an empty to": ({}, [named_svc("web", SVC), KUBERNETES], []),
    "6.4 a Service without pods": (
        {"to": [{"podSelector": match(app="gone")}]},
        [named_svc("gone", SVC, selector={"app": "gone"})],
        [SVC],
    ),
}


@pytest.mark.parametrize(("rule", "services", "expected"), SERVICES.values(), ids=SERVICES)
def test_services_of_egress_rules(rule, services, expected):
    found = elements("NetworkPolicy", egress(rule), Direction.EGRESS, services=services, **CLUSTER)
    assert [text for text in found if text.startswith(("10.100.", "fd00:"))] == expected
    assert not [text for text in found if text.startswith("192.0.2.") and rule is TO_WEB]


def test_ingress_rules_bring_no_services():
    made = ingress({"from": [{"podSelector": {}}, {"namespaceSelector": {}}]})
    found = elements("NetworkPolicy", made, Direction.INGRESS, services=[named_svc("web", SVC), KUBERNETES], **CLUSTER)
    assert not [text for text in found if text.startswith("10.100.")]


UNNAMED = pod("web-3", "10.0.1.4", labels=WEB, ports=[container_port(8080)])
SAME = pod("web-4", "10.0.1.5", labels=WEB, ports=[container_port(8080, "http")])
OTHER_NAME = pod("web-5", "10.0.1.6", labels=WEB, ports=[container_port(9090, "http"), container_port(8080, "admin")])
UDP_TOO = pod(
    "web-6", "10.0.1.8", labels=WEB, ports=[container_port(9090, "http", "UDP"), container_port(8080, "http")]
)
BARE = pod("web-9", "10.0.1.14", labels=WEB, ports=[{"name": "http", "containerPort": 8080}])
ADMIN_FIRST = pod("web-7", "10.0.1.10", labels=WEB, ports=[container_port(9090, "admin"), container_port(8080, "http")])
ONLY_UDP = pod("web-8", "10.0.1.11", labels=WEB, ports=[container_port(8080, "http", "UDP")])
DB = pod("db-1", "10.0.1.12", labels={"app": "db"}, ports=[container_port(9090, "http")])
DB_SAME = pod("db-2", "10.0.1.13", labels={"app": "db"}, ports=[container_port(8080, "http")])
NONE: list = []
TRANSLATED = {
    "6.4 by targetPort": ([{"port": 8080}], [service_port(80, 8080)], NONE, "80/TCP"),
    "6.4 not by the Service port": ([{"port": 80}], [service_port(80, 8080)], [SAME], None),
    "6.4 targetPort is the port where it is absent": ([{"port": 80}], [service_port(80)], NONE, "80/TCP"),
    "6.4 of the same protocol": ([{"port": 8080, "protocol": "UDP"}], [service_port(80, 8080)], [SAME], None),
    "6.4 of the same protocol, found": (
        [{"port": 53, "protocol": "UDP"}],
        [service_port(54, 53), service_port(55, 53, "UDP")],
        NONE,
        "55/UDP",
    ),
    "6.4 of the same type: text is no number": ([{"port": "8080"}], [service_port(80, 8080)], [SAME], None),
    "6.4 by name": ([{"port": "http"}], [service_port(80, "http")], NONE, "80/TCP"),
    "6.4 first of two Service ports on one targetPort": (
        [{"port": 8080}],
        [service_port(81, 8080), service_port(80, 8080)],
        NONE,
        "81/TCP",
    ),
    "6.4 a name through a backing pod's number": ([{"port": "http"}], [service_port(80, 8080)], [SAME], "80/TCP"),
    "6.4 a name through no backing pod": ([{"port": "http"}], [service_port(80, 8080)], [UNNAMED], None),
    "6.4 a name: the first pod that has it and fits": (
        [{"port": "http"}],
        [service_port(80, 8080)],
        [UNNAMED, WEB_2, SAME],
        "80/TCP",
    ),
    "6.4 a name: with a name as targetPort": ([{"port": "admin"}], [service_port(80, "http")], [OTHER_NAME], None),
    "6.4 a number through a backing pod's name": ([{"port": 8080}], [service_port(80, "http")], [SAME], "80/TCP"),
    "6.4 a number: the pod's port has no name": ([{"port": 8080}], [service_port(80, "http")], [UNNAMED], None),
    "6.4 a number: through any backing pod": ([{"port": 8080}], [service_port(80, "http")], [UNNAMED, SAME], "80/TCP"),
    "6.4 a number without pods": ([{"port": 8080}], [service_port(80, "http")], NONE, None),
    "6.4 protocol only": ([{"protocol": "UDP"}], [service_port(80, 8080)], NONE, "all UDP ports"),
    "6.4 endPort is copied unchanged": (
        [{"port": 8080, "endPort": 8090}],
        [service_port(80, 8080)],
        NONE,
        "80-8090/TCP",
    ),
    "6.4 several ports": (
        [{"port": 8080}, {"port": 9090}, {"port": 1}],
        [service_port(80, 8080), service_port(90, 9090)],
        NONE,
        "80/TCP,90/TCP",
    ),
    "6.4 a named targetPort that is elsewhere on another pod: left out": (
        [{"port": 8080}],
        [service_port(80, "http")],
        [SAME, WEB_2],
        None,
    ),
    "6.4 the same, and only that port": (
        [{"port": 8080}, {"port": 443}],
        [service_port(80, "http"), service_port(443)],
        [SAME, WEB_2],
        "443/TCP",
    ),
    "6.4 elsewhere, but allowed as well": (
        [{"port": 8080}, {"port": 9090}],
        [service_port(80, "http")],
        [SAME, WEB_2],
        "80/TCP",
    ),
    "6.4 elsewhere, but in the range": (
        [{"port": 8080, "endPort": 9090}],
        [service_port(80, "http")],
        [SAME, WEB_2],
        "80-9090/TCP",
    ),
    "6.4 elsewhere, just behind the range": (
        [{"port": 8080, "endPort": 9089}],
        [service_port(80, "http")],
        [SAME, WEB_2],
        None,
    ),
    "6.4 elsewhere, and the protocol allows all": (
        [{"port": 8080}, {"protocol": "TCP"}],
        [service_port(80, "http")],
        [SAME, WEB_2],
        "all TCP ports,80/TCP",
    ),
    "6.4 elsewhere, and another protocol allows it": (
        [{"port": 8080}, {"port": 9090, "protocol": "UDP"}],
        [service_port(80, "http")],
        [SAME, WEB_2],
        None,
    ),
    "6.4 elsewhere, and only a name allows it": (
        [{"port": 8080}, {"port": "http"}],
        [service_port(80, "http")],
        [SAME, WEB_2],
        "80/TCP",
    ),
    "6.4 elsewhere on another protocol does not matter": (
        [{"port": 8080}],
        [service_port(80, "http")],
        [UDP_TOO],
        "80/TCP",
    ),
    "6.4 elsewhere under another name does not matter": (
        [{"port": 8080}],
        [service_port(80, "http")],
        [ADMIN_FIRST],
        "80/TCP",
    ),
    "6.4 elsewhere on a pod that is not behind the Service does not matter": (
        [{"port": 8080}],
        [service_port(80, "http")],
        [SAME, DB],
        "80/TCP",
    ),
    "6.4 a name: not through a pod that is not behind the Service": (
        [{"port": "http"}],
        [service_port(80, 8080)],
        [DB_SAME],
        None,
    ),
    "6.4 without protocols: TCP": ([{"port": "http"}], [{"port": 80, "targetPort": 8080}], [BARE], "80/TCP"),
    "6.4 a name: of the same protocol": ([{"port": "http"}], [service_port(80, 8080)], [ONLY_UDP], None),
    "6.4 policy ports by name lead past nothing": (
        [{"port": "http"}],
        [service_port(80, "http")],
        [SAME, WEB_2],
        "80/TCP",
    ),
    "6.4 numeric targetPorts lead past nothing": ([{"port": 8080}], [service_port(80, 8080)], [SAME, WEB_2], "80/TCP"),
}


@pytest.mark.parametrize(("ports", "offered", "behind", "expected"), TRANSLATED.values(), ids=TRANSLATED)
def test_ports_of_services(ports, offered, behind, expected):
    made = egress({**TO_WEB, "ports": ports})
    found = elements("NetworkPolicy", made, Direction.EGRESS, pods=behind, services=[named_svc("web", SVC, *offered)])
    texts = [text.removeprefix(f"{SVC} ") for text in found if text.startswith(f"{SVC} ")]
    assert texts == ([expected] if expected else [])


def test_finished_pods_count_where_a_service_is_looked_into():
    """6.4: the controller asks all pods that the Service's selector means, in whatever phase."""
    made = egress({**TO_WEB, "ports": [{"port": 8080}]})
    ended = changed(WEB_2, status={"phase": "Failed"})
    found = elements(
        "NetworkPolicy",
        made,
        Direction.EGRESS,
        pods=[SAME, ended],
        services=[named_svc("web", SVC, service_port(80, "http"))],
    )
    assert found == ["10.0.1.5 8080/TCP"]


def test_a_service_without_selector_is_backed_by_all_pods_of_its_namespace():
    made = egress({"to": [{"podSelector": {}}], "ports": [{"port": "http"}]})
    bare = named_svc("bare", SVC, service_port(80, 8080), selector=None)
    assert f"{SVC} 80/TCP" in elements("NetworkPolicy", made, Direction.EGRESS, pods=[SAME], services=[bare])
    elsewhere = {**SAME, "metadata": {**SAME["metadata"], "namespace": "team-b"}}
    assert elements("NetworkPolicy", made, Direction.EGRESS, pods=[elsewhere], services=[bare]) == []


# ---- why a peer brings nothing, or less

SKIPPED = {
    "ingress: named port, nobody selected": (
        policy("p", selects={"app": "gone"}, ingress=[{"ports": [{"port": "http"}, {"port": 80}]}]),
        Direction.INGRESS,
        ("spec.ingress[0]", "anybody", "no pod is selected, so the named port http means nothing"),
    ),
    "ingress: named port that the selected have not": (
        ingress({"from": [CLIENTS], "ports": [{"port": "nope"}, {"port": "no"}, {"port": "x", "protocol": "UDP"}]}),
        Direction.INGRESS,
        ("spec.ingress[0].from[0]", "pods app=client", "web-1 has no container port of that name (nope, no, x)"),
    ),
    "ingress: no namespace": (
        ingress({"from": [{"namespaceSelector": match(x="y")}]}),
        Direction.INGRESS,
        ("spec.ingress[0].from[0]", "all pods in namespaces x=y", "no namespace matches"),
    ),
    "ingress: no pod": (
        ingress({"from": [BLOCK, {"podSelector": match(app="gone")}]}),
        Direction.INGRESS,
        ("spec.ingress[0].from[1]", "pods app=gone", "no running pod matches"),
    ),
    "ingress: finished pods only": (
        ingress({"from": [{"podSelector": match(app="job")}]}),
        Direction.INGRESS,
        ("spec.ingress[0].from[0]", "pods app=job", "no running pod matches"),
    ),
    "ingress: no valid block": (
        ingress({"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}),
        Direction.INGRESS,
        ("spec.ingress[0].from[0]", "10.0.0.0/99", "the ipBlock has no valid cidr"),
    ),
    "egress: named port for a block": (
        egress({"to": [BLOCK], "ports": [{"port": "http"}]}),
        Direction.EGRESS,
        (
            "spec.egress[0].to[0]",
            "10.0.0.0/8 except 10.9.0.0/16, 10.8.0.0/16",
            "a named port cannot be resolved for addresses, so the controller drops it",
        ),
    ),
    "egress: one of the ports for a block": (
        egress({"to": [BLOCK], "ports": [{"port": "http"}, {"port": "dns"}, {"port": 443}]}),
        Direction.EGRESS,
        (
            "spec.egress[0].to[0]",
            "10.0.0.0/8 except 10.9.0.0/16, 10.8.0.0/16",
            "the named port http, dns cannot be resolved for addresses, so the controller drops it",
        ),
    ),
    "egress: one of the ports for everybody": (
        egress({"ports": [{"port": "http"}, {"port": 443}]}),
        Direction.EGRESS,
        (
            "spec.egress[0]",
            "anybody",
            "the named port http cannot be resolved for addresses, so the controller drops it",
        ),
    ),
    "egress: named port that no destination has": (
        egress({"to": [CLIENTS], "ports": [{"port": "nope"}]}),
        Direction.EGRESS,
        ("spec.egress[0].to[0]", "pods app=client", "no matching pod has a container port of that name"),
    ),
}


@pytest.mark.parametrize(("made", "direction", "expected"), SKIPPED.values(), ids=SKIPPED)
def test_skipped_peers_and_why(made, direction, expected):
    ended = pod("job-1", "10.0.1.9", labels={"app": "job"}, phase="Succeeded")
    cluster, known = with_policy("NetworkPolicy", made, pods=[*PODS, ended], namespaces=NAMESPACES)
    [skipped] = controller.resolution(known, cluster).skipped[direction]
    assert (skipped.path, skipped.selects, skipped.reason) == expected
    assert (skipped.policy, skipped.direction) == ("p", direction)


@pytest.mark.parametrize(
    "made",
    [
        ingress({"from": [CLIENTS, BLOCK], "ports": [{"port": "http"}, {"port": "nope"}]}),
        egress({**TO_WEB, "ports": [{"port": "http"}]}),
        egress({"to": [{"podSelector": match(app="gone")}]}),
    ],
    ids=["ingress names", "egress names", "a Service without pods"],
)
def test_peers_that_bring_something_are_not_skipped(made):
    gone = named_svc("gone", SVC, selector={"app": "gone"})
    cluster, known = with_policy("NetworkPolicy", made, services=[gone], **CLUSTER)
    found = controller.resolution(known, cluster)
    assert not any(found.skipped.values())
    assert any(found.wanted.values())


# ---- merged (agent facts 6.5)

ALL, HTTP = {"from": [CLIENTS]}, {"from": [CLIENTS], "ports": [{"port": 80}]}
UDP = {"from": [CLIENTS], "ports": [{"protocol": "UDP"}]}
WIDE, WIDE_HTTP = {"ipBlock": {"cidr": "10.0.0.0/8"}}, [{"port": 80}]
MERGED = {
    # rules, as NetworkPolicies since 1.1.3, narrowed
    "6.5 all ports and one": ([ALL, HTTP], ["10.0.1.3"], ["10.0.1.3 80/TCP"]),
    "6.5 one and all ports": ([HTTP, ALL], ["10.0.1.3"], ["10.0.1.3 80/TCP"]),
    "6.5 all ports twice": ([ALL, ALL], ["10.0.1.3"], ["10.0.1.3"]),
    "6.5 all ports of a protocol and one": ([UDP, HTTP], ["10.0.1.3 80/TCP,all UDP ports"], None),
    "6.5 all ports and all of a protocol": ([ALL, UDP], ["10.0.1.3"], ["10.0.1.3 all UDP ports"]),
    "6.5 ports are deduplicated": ([HTTP, HTTP], ["10.0.1.3 80/TCP"], None),
    "6.5 endPort tells ports apart": (
        [HTTP, {"from": [CLIENTS], "ports": [{"port": 80, "endPort": 90}]}],
        ["10.0.1.3 80/TCP,80-90/TCP"],
        None,
    ),
    "6.5 excepts are part of the key": (
        [{"from": [BLOCK]}, {"from": [WIDE], "ports": WIDE_HTTP}],
        ["10.0.0.0/8 80/TCP", "10.0.0.0/8 except 10.8.0.0/16,10.9.0.0/16"],
        ["10.0.0.0/8 except 10.8.0.0/16,10.9.0.0/16 80/TCP"],
    ),
    "6.5 excepts in any order are one key": (
        [{"from": [BLOCK]}, {"from": [{"ipBlock": {**BLOCK["ipBlock"], "except": ["10.8.0.0/16", "10.9.0.0/16"]}}]}],
        ["10.0.0.0/8 except 10.8.0.0/16,10.9.0.0/16"],
        None,
    ),
    "6.5 excepts are joined": (
        [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": [e]}}]} for e in ("10.9.0.0/16", "10.8.0.0/16")],
        ["10.0.0.0/8 except 10.8.0.0/16", "10.0.0.0/8 except 10.9.0.0/16"],
        ["10.0.0.0/8 except 10.8.0.0/16,10.9.0.0/16"],
    ),
    "6.5 other prefixes stay apart": (
        [{"from": [WIDE]}, {"from": [CLIENTS], "ports": WIDE_HTTP}],
        ["10.0.0.0/8", "10.0.1.3 80/TCP"],
        None,
    ),
}


@pytest.mark.parametrize(("rules", "since_113", "narrow"), MERGED.values(), ids=MERGED)
def test_entries_of_one_prefix_are_merged(rules, since_113, narrow):
    """NetworkPolicies as of 1.1.3, and ApplicationNetworkPolicies in all releases (controller pull request 231)."""
    for kind in ("NetworkPolicy", "ApplicationNetworkPolicy"):
        assert elements(kind, ingress(*rules), Direction.INGRESS, **CLUSTER) == sorted(since_113)
    cluster, known = with_policy("NetworkPolicy", ingress(*rules), **CLUSTER)
    wanted = controller.resolution(known, cluster).wanted[Direction.INGRESS]
    assert texts(controller.merged(wanted)) == sorted(since_113)
    assert texts(controller.merged(wanted, narrow=True)) == sorted(narrow or since_113)


def test_all_ports_give_way_to_others_and_to_nothing_else():
    http = Port("TCP", 80)
    assert controller.narrowed([http, *ALL_PORTS]) == {http}
    assert controller.narrowed(ALL_PORTS) == set(ALL_PORTS)
    assert controller.union([http, *ALL_PORTS]) == set(ALL_PORTS)
    assert controller.union([http]) == {http}


def texts(merged) -> list[str]:
    found = []
    for (prefix, excepts, _), ports in merged.items():
        host = prefix.prefixlen == prefix.max_prefixlen
        cidr = str(prefix.network_address) if host else str(prefix)
        limited = [p for p in ports if p.text != "all ports"]
        ports = [{"protocol": p.protocol, "port": p.number, "endPort": p.end} for p in limited]
        found.append(element_text({"cidr": cidr, "except": [str(e) for e in excepts], "ports": ports}))
    return sorted(found)


# ---- ApplicationNetworkPolicy (agent facts 6.6)

DOMAIN = {"domainNames": ["example.com", "*.example.org"]}
APPLICATION = {
    "6.6 egress without to yields nothing": (egress({}), Direction.EGRESS, []),
    "6.6 egress without to and with ports": (egress({"ports": [{"port": 80}]}), Direction.EGRESS, []),
    "6.6 ingress without from is everybody": (ingress({}), Direction.INGRESS, ["0.0.0.0/0", "::/0"]),
    "6.6 other egress peers as a NetworkPolicy's": (
        egress({"to": [{"podSelector": match(**WEB)}, BLOCK], "ports": [{"port": 8080}]}),
        Direction.EGRESS,
        [
            "10.0.0.0/8 except 10.8.0.0/16,10.9.0.0/16 8080/TCP",
            "10.0.1.1 8080/TCP",
            "10.0.1.2 8080/TCP",
            f"{SVC} 80/TCP",
        ],
    ),
    "6.6 domainNames are passed through": (
        egress({"to": [DOMAIN]}),
        Direction.EGRESS,
        ["*.example.org", "example.com"],
    ),
    "6.6 domainNames with ports": (
        egress({"to": [DOMAIN], "ports": [{"port": 443}, {"port": 80, "endPort": 90}]}),
        Direction.EGRESS,
        ["*.example.org 80-90/TCP,443/TCP", "example.com 80-90/TCP,443/TCP"],
    ),
    "6.6 a named port of domainNames: all ports of the protocol": (
        egress({"to": [DOMAIN], "ports": [{"port": "https"}, {"port": 53, "protocol": "UDP"}]}),
        Direction.EGRESS,
        ["*.example.org all TCP ports,53/UDP", "example.com all TCP ports,53/UDP"],
    ),
    "6.6 domainNames beside others": (
        egress({"to": [DOMAIN, BLOCK]}),
        Direction.EGRESS,
        ["*.example.org", "10.0.0.0/8 except 10.8.0.0/16,10.9.0.0/16", "example.com"],
    ),
    "6.6 a port without protocol is TCP": (
        egress({"to": [{"podSelector": match(app="client")}], "ports": [{"port": 80}]}),
        Direction.EGRESS,
        ["10.0.1.3 80/TCP"],
    ),
}


@pytest.mark.parametrize(("made", "direction", "expected"), APPLICATION.values(), ids=APPLICATION)
def test_application_network_policies(made, direction, expected):
    found = elements("ApplicationNetworkPolicy", made, direction, services=[named_svc("web", SVC)], **CLUSTER)
    assert found == sorted(expected)


APPLICATION_ISOLATION = {
    "6.6 policyTypes are not defaulted": ({"ingress": [{}], "egress": [{}]}, []),
    "6.6 an empty list": ({"types": []}, []),
    "6.6 copied": ({"types": ["Egress"]}, ["Egress"]),
}


@pytest.mark.parametrize(("more", "expected"), APPLICATION_ISOLATION.values(), ids=APPLICATION_ISOLATION)
def test_isolation_of_application_network_policies(more, expected):
    cluster, made = with_policy("ApplicationNetworkPolicy", policy("p", **more))
    assert list(controller.resolution(made, cluster).isolation) == expected


def test_an_application_policy_says_why_an_empty_to_brings_nothing():
    cluster, made = with_policy("ApplicationNetworkPolicy", egress({}, {"ports": [{"port": "x"}, {"port": 80}]}))
    found = controller.resolution(made, cluster)
    reason = "an egress rule of an ApplicationNetworkPolicy without `to` resolves to nothing"
    assert [(s.path, s.reason) for s in found.skipped[Direction.EGRESS]] == [
        ("spec.egress[0]", reason),
        ("spec.egress[1]", reason),
    ]


def test_an_application_policy_says_of_a_block_what_a_network_policy_says():
    cluster, made = with_policy("ApplicationNetworkPolicy", egress({"to": [BLOCK], "ports": [{"port": "http"}]}))
    [skipped] = controller.resolution(made, cluster).skipped[Direction.EGRESS]
    assert skipped.reason == "a named port cannot be resolved for addresses, so the controller drops it"


def test_domains_know_their_rule():
    cluster, made = with_policy("ApplicationNetworkPolicy", egress({"to": [DOMAIN]}))
    found = controller.resolution(made, cluster)
    assert [(d.policy, d.path, d.name, d.action) for d in found.domains] == [
        ("p", "spec.egress[0].to[0]", "example.com", "Accept"),
        ("p", "spec.egress[0].to[0]", "*.example.org", "Accept"),
    ]
    assert not found.wanted[Direction.EGRESS]
    assert not found.skipped[Direction.EGRESS]


def test_selected_pods_of_an_application_policy():
    assert listed("ApplicationNetworkPolicy", ingress(), **CLUSTER) == {
        "default/web-1": "10.0.1.1",
        "default/web-2": "10.0.1.2",
    }


# ---- ClusterNetworkPolicy (agent facts 6.5, 6.6)

A, B = {"team": "a"}, {"team": "b"}
CP_WEB = pod("web-1", "10.0.1.1", namespace="a", labels=WEB, ports=[container_port(8080, "http")])
CP_API = pod("api-1", "10.0.1.2", namespace="a", labels={"app": "api"}, ports=[container_port(9090, "http")])
CP_FAR = pod("web-1", "10.0.2.1", namespace="b", labels=WEB, ports=[container_port(7070, "http")])
CP_HOST = pod("edge", NODE_IP, namespace="b", labels=WEB, host_network=True)
CP_ENDED = pod("job", "10.0.2.9", namespace="b", labels=WEB, phase="Failed")
CP = {
    "pods": [CP_FAR, CP_WEB, CP_API, CP_HOST, CP_ENDED],
    "namespaces": [namespace("b", B), namespace("a", A), namespace("empty", {"team": "e"})],
    "services": [
        named_svc("web", SVC, service_port(80, 8080), namespace="a"),
        named_svc("web", "10.100.0.2", service_port(80, "http"), namespace="b"),
    ],
}
IN_A, IN_BB, NOWHERE = (
    {"namespaces": {"matchLabels": A}},
    {"namespaces": {"matchLabels": B}},
    {"namespaces": match(x="y")},
)
SUBJECTS = {
    "6.1 namespaces": ({"namespaces": {"matchLabels": A}}, ["a/api-1", "a/web-1"]),
    "6.1 all namespaces": ({"namespaces": {}}, ["a/api-1", "a/web-1", "b/web-1"]),
    "6.1 pods": (cp_pods(WEB, B), ["b/web-1"]),
    "6.1 pods of all namespaces": (cp_pods(WEB), ["a/web-1", "b/web-1"]),
    "6.1 no namespace": ({"namespaces": match(x="y")}, []),
    "6.1 nobody": ({}, []),
}


@pytest.mark.parametrize(("subject", "expected"), SUBJECTS.values(), ids=SUBJECTS)
def test_subjects_of_cluster_policies(subject, expected):
    """Of the host network and finished ones there are none, as for NetworkPolicies."""
    assert sorted(listed("ClusterNetworkPolicy", cnp(subject=subject), **CP)) == expected


CLUSTER_RULES = {
    "6.1 Accept, Deny, Pass": (
        [cp_rule(action, IN_A) for action in ("Accept", "Deny", "Pass")],
        [f"{action} {ip}" for action in ("Accept", "Deny", "Pass") for ip in ("10.0.1.1", "10.0.1.2")],
    ),
    "6.1 pods and namespaces": (
        [cp_rule("Deny", cp_pods(WEB, A), IN_BB)],
        ["Deny 10.0.0.1", "Deny 10.0.1.1", "Deny 10.0.2.1"],
    ),
    "6.1 portNumber": (
        [cp_rule("Deny", cp_pods(WEB, A), ports=[number(80), number(53, "UDP")])],
        ["Deny 10.0.1.1 80/TCP,53/UDP"],
    ),
    "6.1 portRange": ([cp_rule("Deny", cp_pods(WEB, A), ports=[span(80, 90)])], ["Deny 10.0.1.1 80-90/TCP"]),
    "6.1 ports without protocol are TCP": (
        [cp_rule("Deny", cp_pods(WEB, A), ports=[number(80, None), span(1, 2, None)])],
        ["Deny 10.0.1.1 1-2/TCP,80/TCP"],
    ),
    "6.6 rule order is lost": (
        [cp_rule("Accept", cp_pods(WEB, A)), cp_rule("Deny", IN_A)],
        ["Accept 10.0.1.1", "Deny 10.0.1.1", "Deny 10.0.1.2"],
    ),
    "6.5 keyed by action": (
        [cp_rule("Accept", cp_pods(WEB, A)), cp_rule("Deny", cp_pods(WEB, A), ports=[number(80)])],
        ["Accept 10.0.1.1", "Deny 10.0.1.1 80/TCP"],
    ),
    "6.5 narrowing": (
        [cp_rule("Accept", cp_pods(WEB, A)), cp_rule("Accept", cp_pods(WEB, A), ports=[number(80)])],
        ["Accept 10.0.1.1 80/TCP"],
    ),
    "6.5 ports are joined": (
        [cp_rule("Accept", cp_pods(WEB, A), ports=[number(p)]) for p in (80, 81)],
        ["Accept 10.0.1.1 80/TCP,81/TCP"],
    ),
    "6.5 duplicates without a look at endPort: the first stays": (
        [
            cp_rule("Accept", cp_pods(WEB, A), ports=[span(80, 90)]),
            cp_rule("Accept", cp_pods(WEB, A), ports=[number(80)]),
        ],
        ["Accept 10.0.1.1 80-90/TCP"],
    ),
    "6.5 the same the other way round": (
        [
            cp_rule("Accept", cp_pods(WEB, A), ports=[number(80)]),
            cp_rule("Accept", cp_pods(WEB, A), ports=[span(80, 90)]),
        ],
        ["Accept 10.0.1.1 80/TCP"],
    ),
    "6.5 not of another action": (
        [
            cp_rule("Accept", cp_pods(WEB, A), ports=[number(80)]),
            cp_rule("Deny", cp_pods(WEB, A), ports=[span(80, 90)]),
        ],
        ["Accept 10.0.1.1 80/TCP", "Deny 10.0.1.1 80-90/TCP"],
    ),
    "6.5 not of another protocol": (
        [
            cp_rule("Accept", cp_pods(WEB, A), ports=[number(80)]),
            cp_rule("Accept", cp_pods(WEB, A), ports=[span(80, 90, "UDP")]),
        ],
        ["Accept 10.0.1.1 80/TCP,80-90/UDP"],
    ),
    "6.6 from[0] means no namespace: after 1.1.7 the others stay": (
        [cp_rule("Deny", NOWHERE, IN_A)],
        ["Deny 10.0.1.1", "Deny 10.0.1.2"],
    ),
    "6.1 no namespace at all": ([cp_rule("Deny", NOWHERE)], []),
    "6.1 a namespace without pods": ([cp_rule("Deny", {"namespaces": match(team="e")})], []),
}


@pytest.mark.parametrize(("rules", "expected"), CLUSTER_RULES.values(), ids=CLUSTER_RULES)
def test_ingress_rules_of_cluster_policies(rules, expected):
    assert elements("ClusterNetworkPolicy", cnp(ingress=rules), Direction.INGRESS, **CP) == sorted(expected)


CLUSTER_EGRESS = {
    "6.6 networks": ([to_("Deny", {"networks": ["10.0.0.0/8", "::/0"]})], ["Deny 10.0.0.0/8", "Deny ::/0"]),
    "6.6 networks with ports": (
        [to_("Deny", {"networks": ["10.0.0.0/8"]}, ports=[number(80)])],
        ["Deny 10.0.0.0/8 80/TCP"],
    ),
    "6.6 namespaces, with ClusterIPs and the rule's action": (
        [to_("Pass", IN_A)],
        ["Pass 10.0.1.1", "Pass 10.0.1.2", f"Pass {SVC}"],
    ),
    "6.6 pods, with ClusterIPs whose selector matches": (
        [to_("Deny", cp_pods(WEB, A))],
        ["Deny 10.0.1.1", f"Deny {SVC}"],
    ),
    "6.6 pods, without ClusterIPs whose selector does not match": (
        [to_("Deny", cp_pods({"app": "api"}, A))],
        ["Deny 10.0.1.2"],
    ),
    "6.4 ports of ClusterIPs": (
        [to_("Deny", cp_pods(WEB, A), ports=[number(8080)])],
        ["Deny 10.0.1.1 8080/TCP", f"Deny {SVC} 80/TCP"],
    ),
    "6.6 domainNames": (
        [to_("Accept", {"domainNames": ["example.com"]}, ports=[number(443)])],
        ["Accept example.com 443/TCP"],
    ),
    "6.6 domainNames with Pass": ([to_("Pass", {"domainNames": ["example.com"]})], ["Pass example.com"]),
    "6.6 domainNames with Deny are ignored": ([to_("Deny", {"domainNames": ["example.com"]})], []),
    "6.6 namedPort of domainNames is left out": (
        [to_("Accept", {"domainNames": ["example.com"]}, ports=[{"namedPort": "https"}, number(80)])],
        ["Accept example.com 80/TCP"],
    ),
    "6.6 namedPort alone with domainNames: all ports": (
        [to_("Accept", {"domainNames": ["example.com"]}, ports=[{"namedPort": "https"}])],
        ["Accept example.com"],
    ),
    "6.3 namedPort, egress: each destination's own, as TCP": (
        [to_("Deny", cp_pods(), ports=[{"namedPort": "http"}])],
        [
            "Deny 10.0.1.1 8080/TCP",
            "Deny 10.0.1.2 9090/TCP",
            "Deny 10.0.2.1 7070/TCP",
            f"Deny {SVC} 80/TCP",
            "Deny 10.100.0.2 80/TCP",
        ],
    ),
    "6.3 namedPort with networks: dropped": (
        [to_("Deny", {"networks": ["10.0.0.0/8"]}, ports=[{"namedPort": "http"}])],
        [],
    ),
    "6.1 several peers": (
        [to_("Deny", {"networks": ["192.0.2.0/24"]}, cp_pods(WEB, B))],
        ["Deny 10.0.0.1", "Deny 10.0.2.1", "Deny 10.100.0.2", "Deny 192.0.2.0/24"],
    ),
}


@pytest.mark.parametrize(("rules", "expected"), CLUSTER_EGRESS.values(), ids=CLUSTER_EGRESS)
def test_egress_rules_of_cluster_policies(rules, expected):
    assert elements("ClusterNetworkPolicy", cnp(egress=rules), Direction.EGRESS, **CP) == sorted(expected)


NAMED_OF_SUBJECT = {
    "all namespaces: the first by name": (EVERYWHERE, "8080/TCP,9090/TCP"),
    "one namespace": (IN_BB, "7070/TCP"),
    "pods of all namespaces: of the first by name": (cp_pods(WEB), "8080/TCP"),
    "pods that the first namespace has not": (cp_pods({"app": "gone"}), None),
    "the first namespace has no pod": (
        {"namespaces": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["e"]}]}},
        None,
    ),
    "no namespace": ({"namespaces": match(x="y")}, None),
    "nobody": ({}, None),
}


@pytest.mark.parametrize(("subject", "expected"), NAMED_OF_SUBJECT.values(), ids=NAMED_OF_SUBJECT)
def test_named_ports_of_cluster_ingress_are_those_of_one_subject_namespace(subject, expected):
    """After 1.1.7. Up to it the controller fell over them (6.6): there is no ClusterPolicyEndpoint to compare."""
    made = cnp(subject=subject, ingress=[cp_rule("Accept", cp_pods({"app": "api"}), ports=[{"namedPort": "http"}])])
    found = elements("ClusterNetworkPolicy", made, Direction.INGRESS, **CP)
    assert found == ([f"Accept 10.0.1.2 {expected}"] if expected else [])


def test_a_rule_that_the_controller_takes_for_an_earlier_one_says_so():
    rules = [cp_rule("Accept", cp_pods(WEB, A), ports=[span(80, 90)]), cp_rule("Accept", IN_A, ports=[number(80)])]
    cluster, made = with_policy("ClusterNetworkPolicy", cnp(ingress=rules), **CP)
    found = controller.resolution(made, cluster)
    assert [(w.path, str(w.prefix)) for w in found.wanted[Direction.INGRESS]] == [
        ("spec.ingress[0].from[0]", "10.0.1.1/32"),
        ("spec.ingress[1].from[0]", "10.0.1.2/32"),
    ]
    assert not found.skipped[Direction.INGRESS]
    rules[1] = cp_rule("Accept", cp_pods(WEB, A), ports=[number(80)])
    cluster, made = with_policy("ClusterNetworkPolicy", cnp(ingress=rules), **CP)
    [skipped] = controller.resolution(made, cluster).skipped[Direction.INGRESS]
    assert skipped.path == "spec.ingress[1].from[0]"
    assert skipped.reason == "the controller takes it for an earlier rule, which differs in endPort only"


def test_one_port_twice_in_two_rules_of_a_cluster_policy_is_no_loss():
    rules = [
        cp_rule("Accept", cp_pods(WEB, A), ports=[number(80)]),
        cp_rule("Accept", cp_pods(WEB, A), ports=[number(80)]),
    ]
    cluster, made = with_policy("ClusterNetworkPolicy", cnp(ingress=rules), **CP)
    found = controller.resolution(made, cluster)
    assert [w.path for w in found.wanted[Direction.INGRESS]] == ["spec.ingress[0].from[0]", "spec.ingress[1].from[0]"]
    assert not found.skipped[Direction.INGRESS]


def test_cluster_policies_isolate_nobody():
    cluster, made = with_policy("ClusterNetworkPolicy", cnp(ingress=[cp_rule("Deny", IN_A)]), **CP)
    assert controller.resolution(made, cluster).isolation == ()


def test_a_policy_is_resolved_once_for_a_world():
    cluster, made = with_policy("NetworkPolicy", ingress({}), **CLUSTER)
    assert controller.resolution(made, cluster) is controller.resolution(made, cluster)
