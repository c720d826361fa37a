"""NetworkPolicy -> PolicyEndpoint entries, with the controller's own rules."""

from __future__ import annotations

import pytest

from kubectl_netpol.model.flow import Direction
from kubectl_netpol.policy import controller
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
