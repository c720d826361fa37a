"""NetworkPolicy as Kubernetes defines it."""

from __future__ import annotations

import pytest

from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.snapshot import Collection
from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.policy import networkpolicy as np
from tests.unit.builders import (
    NODE,
    NODE_IP,
    container_port,
    flow,
    match,
    namespace,
    node,
    pod,
    policy,
    world,
)

WEB = pod("web-1", "10.0.1.1", labels={"app": "web"}, ports=[container_port(8080, "http")])
CLIENT = pod("client", "10.0.1.2", labels={"app": "client"})
OTHER = pod("client", "10.0.1.3", namespace="team-b", labels={"app": "client"})
NAMESPACES = [namespace("default"), namespace("team-b", {"team": "b"})]


def judge(policies, peer=CLIENT, port=80, protocol=6, direction=Direction.INGRESS, me=WEB, **more):
    """The INTENT verdict between ``me`` and a peer (a pod, or an address)."""
    address = peer if isinstance(peer, str) else peer["status"]["podIP"]
    other = None if isinstance(peer, str) else peer
    ends = (address, me["status"]["podIP"])
    if direction is Direction.EGRESS:
        ends = ends[::-1]
    objects = {"pods": [WEB, CLIENT, OTHER], "namespaces": NAMESPACES, "networkpolicies": policies, **more}
    asked = np.Ends(me, direction, flow(*ends, port, protocol), other)
    return np.evaluate(asked, world(**objects))


def allowed(*arguments, **more) -> bool:
    decision = judge(*arguments, **more).decision
    assert decision in (Decision.ALLOW, Decision.DENY)
    return decision is Decision.ALLOW


def from_(*peers, ports=None):
    return {"from": list(peers), **({"ports": ports} if ports is not None else {})}


PODS_CLIENT = {"podSelector": match(app="client")}
NS_B = {"namespaceSelector": match(team="b")}
BOTH = {**PODS_CLIENT, **NS_B}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, ["ingress"]),
        ({"egress": []}, ["ingress"]),
        ({"egress": [{}]}, ["ingress", "egress"]),
        ({"policyTypes": []}, ["ingress"]),
        ({"policyTypes": ["Egress"]}, ["egress"]),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, ["ingress"]),
        ({"policyTypes": ["Ingress", "Egress"]}, ["ingress", "egress"]),
    ],
)
def test_policy_types_and_their_default(spec, expected):
    assert [d.value for d in np.directions({"spec": spec})] == expected


@pytest.mark.parametrize(
    ("peers", "peer", "expected"),
    [
        ([PODS_CLIENT], CLIENT, True),
        ([PODS_CLIENT], OTHER, False),
        ([NS_B], OTHER, True),
        ([NS_B], CLIENT, False),
        ([BOTH], OTHER, True),
        ([BOTH], CLIENT, False),
        ([PODS_CLIENT, NS_B], CLIENT, True),
        ([PODS_CLIENT, NS_B], OTHER, True),
        ([{"podSelector": match(app="x"), **NS_B}], OTHER, False),
        ([{"podSelector": {}}], CLIENT, True),
        ([{"podSelector": {}}], OTHER, False),
        ([{"namespaceSelector": {}}], OTHER, True),
        ([{"namespaceSelector": match(**{"kubernetes.io/metadata.name": "team-b"})}], OTHER, True),
        ([{"podSelector": {}}], "10.0.1.2", False),
        ([{"namespaceSelector": {}}], "192.0.2.1", False),
    ],
    ids=str,
)
def test_selector_peers(peers, peer, expected):
    """Selectors in one peer are ANDed, peers of one list are ORed, addresses are never selected."""
    assert allowed([policy(ingress=[from_(*peers)])], peer) is expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (None, False),
        ([], False),
        ([{}], True),
        ([None], True),
        ([{"from": []}], True),
        ([{"from": None}], True),
        ([{"ports": []}], True),
        ([{"ports": [{"port": 80}]}], True),
        ([{"ports": [{"port": 81}]}], False),
        ([{"from": [], "ports": [{"port": 81}]}], False),
    ],
    ids=str,
)
def test_empty_and_absent_lists(rules, expected):
    assert allowed([policy(ingress=rules)]) is expected
    assert allowed([policy(ingress=rules)], "192.0.2.1") is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.0.0", True),
        ("10.1.255.255", True),
        ("10.2.0.0", False),
        ("10.1.5.1", False),
        ("10.1.6.1", True),
        ("2001:db8::1", False),
    ],
)
def test_ip_block_with_except(address, expected):
    block = {"cidr": "10.1.0.0/16", "except": ["10.1.5.0/24", "2001:db8::/64"]}
    me = pod("web-1", "2001:db8::9" if ":" in address else "10.0.1.1", labels={"app": "web"})
    assert allowed([policy(ingress=[from_({"ipBlock": block})])], address, me=me) is expected


@pytest.mark.parametrize(
    ("ports", "port", "protocol", "expected"),
    [
        ([{"port": 80}], 80, 6, True),
        ([{"port": 80}], 80, 17, False),
        ([{"port": 80, "protocol": "UDP"}], 80, 17, True),
        ([{"port": 80, "protocol": "SCTP"}], 80, 132, True),
        ([{"protocol": "UDP"}], 5353, 17, True),
        ([{"protocol": "UDP"}], 5353, 6, False),
        ([{"port": 80, "endPort": 82}], 79, 6, False),
        ([{"port": 80, "endPort": 82}], 80, 6, True),
        ([{"port": 80, "endPort": 82}], 82, 6, True),
        ([{"port": 80, "endPort": 82}], 83, 6, False),
        ([{"port": 80}, {"port": 443}], 443, 6, True),
        ([{"port": "http"}], 8080, 6, True),
        ([{"port": "http"}], 80, 6, False),
        ([{"port": "http", "protocol": "UDP"}], 8080, 17, False),
        ([{"port": "nope"}], 8080, 6, False),
        ([{"port": "nope"}, {"port": 80}], 80, 6, True),
        ([{"port": 80}], 0, 1, False),
        ([], 0, 1, True),
    ],
    ids=str,
)
def test_ports_of_a_rule(ports, port, protocol, expected):
    assert allowed([policy(ingress=[{"ports": ports}])], port=port, protocol=protocol) is expected


def test_named_ports_of_an_egress_rule_are_those_of_the_receiver():
    rule = {"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}
    asked = {"direction": Direction.EGRESS, "me": CLIENT}
    assert allowed([policy(egress=[rule], types=["Egress"])], WEB, 8080, **asked)
    assert not allowed([policy(egress=[rule], types=["Egress"])], WEB, 80, **asked)


def test_a_rule_of_a_direction_that_policy_types_does_not_list_restricts_nothing():
    rule = {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}
    verdict = judge([policy(types=["Ingress"], egress=[rule])], "198.51.100.1", direction=Direction.EGRESS)
    assert (verdict.decision, verdict.code) == (Decision.ALLOW, "NOT_ISOLATED")


def test_policies_are_a_union():
    only_api = policy("a", ingress=[from_({"podSelector": match(app="api")})])
    clients = policy("b", ingress=[from_(PODS_CLIENT)])
    assert not allowed([only_api])
    verdict = judge([only_api, clients])
    assert verdict.decision is Decision.ALLOW
    assert verdict.why == "b spec.ingress[0].from[0] allows pods app=client on all ports"


@pytest.mark.parametrize(
    "other",
    [
        policy(selects={"app": "other"}),
        policy(namespace="team-b"),
        policy(types=["Egress"]),
    ],
    ids=["labels", "namespace", "direction"],
)
def test_a_policy_that_does_not_concern_the_pod_does_not_isolate_it(other):
    assert judge([other]).code == "NOT_ISOLATED"
    assert judge([other, policy("all")]).code == "NO_RULE"


def test_the_host_network_is_never_isolated():
    me = pod("agent", NODE_IP, labels={"app": "web"}, host_network=True)
    assert judge([policy()], me=me).code == "HOST_NETWORK"
    assert not np.selects(policy(), me)


@pytest.mark.parametrize(
    ("peer", "me", "expected"),
    [
        (NODE_IP, WEB, "OWN_NODE"),
        ("10.0.0.2", WEB, "NO_RULE"),
        ("10.0.0.2", pod("web-1", "10.0.1.1", host_ip="", labels={"app": "web"}), "NO_RULE"),
        (NODE_IP, pod("web-1", "10.0.1.1", host_ip="", labels={"app": "web"}), "OWN_NODE"),
    ],
)
def test_the_own_node_is_always_allowed(peer, me, expected):
    nodes = [node(NODE), node("node-b", "10.0.0.2")]
    for direction in Direction:
        verdict = judge([policy(types=["Ingress", "Egress"])], peer, me=me, direction=direction, nodes=nodes)
        assert verdict.code == expected


def test_near_misses_say_what_is_wanted_and_what_is_there():
    rules = [
        from_({"podSelector": match(access="true")}),
        from_(BOTH),
        from_(PODS_CLIENT, ports=[{"port": 443}]),
        from_({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.1/32"]}}),
        {"ports": [{"port": "metrics"}]},
    ]
    verdict = judge([policy("web", ingress=rules)])
    assert verdict.why == "web isolates default/web-1 for ingress: no rule allows it"
    assert verdict.evidence == (
        "web spec.ingress[0].from[0] allows pods access=true; "
        "default/client: access=true is wanted, it has no label access",
        "web spec.ingress[1].from[0] allows pods app=client in namespaces team=b; "
        "default/client: it is in namespace default, which the rule does not mean",
        "web spec.ingress[2].from[0] matches, but allows 443/TCP, not 80/TCP",
        "web spec.ingress[3].from[0] allows 192.0.2.0/24 except 192.0.2.1/32; 10.0.1.2 is not in it",
        "web spec.ingress[4] matches, but allows named ports that the receiving pod does not have (metrics), "
        "not 80/TCP",
    )


def test_an_address_is_named_where_selectors_are_all_there_is():
    verdict = judge([policy(ingress=[from_(PODS_CLIENT)])], "10.0.0.9", nodes=[node("node-b", "10.0.0.9")])
    assert verdict.evidence[0].endswith("; 10.0.0.9 is node node-b, and selectors mean pods only")


def test_no_rule_at_all_has_no_evidence():
    verdict = judge([policy("a"), policy("b")])
    assert verdict.why == ("a, b isolate default/web-1 for ingress: there is no rule, so nothing is allowed")
    assert verdict.evidence == ()


@pytest.mark.parametrize("kind", ["networkpolicies", "namespaces", "pods"])
def test_what_could_not_be_read_is_unknown(kind):
    ends = np.Ends(WEB, Direction.INGRESS, flow("10.0.1.2", "10.0.1.1"), CLIENT)
    verdict = np.evaluate(ends, world(**{kind: Collection(reason="forbidden")}))
    assert verdict.decision is Decision.UNKNOWN
    assert f"{kind}: forbidden" in verdict.why


# ---- more of what peers and ports mean

EGRESS = Direction.EGRESS


def out(*rules, **more):
    return policy("out", egress=list(rules), types=["Egress"], **more)


EGRESS_PEERS = {
    "selectors mean pods": ({"to": [PODS_CLIENT]}, CLIENT, True),
    "of the own namespace": ({"to": [PODS_CLIENT]}, OTHER, False),
    "of other namespaces": ({"to": [NS_B]}, OTHER, True),
    "addresses by a block": ({"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}, "192.0.2.1", True),
    "not by a selector": ({"to": [{"podSelector": {}}]}, "192.0.2.1", False),
    "pods by a block": ({"to": [{"ipBlock": {"cidr": "10.0.1.0/24"}}]}, CLIENT, True),
    "no valid block": ({"to": [{"ipBlock": {"cidr": "192.0.2.0/99"}}]}, "192.0.2.1", False),
    "an except that is no block": ({"to": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["x"]}}]}, "192.0.2.1", True),
    "everybody": ({}, "192.0.2.1", True),
    "an empty peer means the pods of the namespace": ({"to": [{}]}, CLIENT, True),
    "an empty peer does not mean addresses": ({"to": [None]}, "192.0.2.1", False),
}


@pytest.mark.parametrize(("rule", "peer", "expected"), EGRESS_PEERS.values(), ids=EGRESS_PEERS)
def test_peers_of_egress_rules(rule, peer, expected):
    assert allowed([out(rule)], peer, direction=EGRESS) is expected


def test_a_named_port_means_the_first_container_that_has_it():
    """Names are unique in one container; Services take the first as well."""
    me = {**WEB, "spec": {"nodeName": NODE, "containers": [{"ports": [container_port(p, "http")]} for p in (81, 82)]}}
    rule = {"ports": [{"port": "http"}]}
    assert allowed([policy(ingress=[rule])], port=81, me=me)
    assert not allowed([policy(ingress=[rule])], port=82, me=me)


def test_named_ports_of_addresses_are_not_known():
    """No pod, no name: Kubernetes leaves open what it means, and the controller drops it."""
    rule = {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": "http"}]}
    assert not allowed([out(rule)], "192.0.2.1", direction=EGRESS)


def test_a_pod_talks_to_itself():
    verdict = judge([policy()], WEB["status"]["podIP"])
    assert (verdict.decision, verdict.code) == (Decision.ALLOW, "ITSELF")
    assert verdict.why == "default/web-1 talks to itself: that stays inside the pod, and no policy can forbid it"


SELECTS = {
    "labels": (policy(selects={"app": "web"}), WEB, True),
    "other labels": (policy(selects={"app": "db"}), WEB, False),
    "everybody": (policy(), WEB, True),
    "another namespace": (policy(namespace="team-b"), WEB, False),
    "the host network": (policy(), pod("web-1", NODE_IP, host_network=True), False),
}


@pytest.mark.parametrize(("made", "one", "expected"), SELECTS.values(), ids=SELECTS)
def test_whom_a_policy_selects(made, one, expected):
    assert np.selects(made, one) is expected


TEXTS = {
    "everybody": (None, "anybody"),
    "all pods": ({"podSelector": {}}, "all pods"),
    "pods": ({"podSelector": match(app="web", tier="fe")}, "pods app=web,tier=fe"),
    "all pods of namespaces": ({"namespaceSelector": match(team="b")}, "all pods in namespaces team=b"),
    "everywhere": ({"namespaceSelector": {}}, "all pods in all namespaces"),
    "both": (BOTH, "pods app=client in namespaces team=b"),
    "block": ({"ipBlock": {"cidr": "10.0.0.0/8"}}, "10.0.0.0/8"),
    "block with excepts": (
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"]}},
        "10.0.0.0/8 except 10.1.0.0/16, 10.2.0.0/16",
    ),
    "domains": ({"domainNames": ["example.com", "*.a.b"]}, "domains example.com, *.a.b"),
}


@pytest.mark.parametrize(("peer", "text"), TEXTS.values(), ids=TEXTS)
def test_peers_in_words(peer, text):
    assert np.peer_text(peer) == text


def test_rules_know_where_they_stand():
    made = policy("p", ingress=[{}, None, {"from": [PODS_CLIENT, None], "ports": [{"port": 80}]}])
    found = list(np.rule_peers(made, Direction.INGRESS))
    assert [(rule.path, rule.peer, rule.ports) for rule in found] == [
        ("spec.ingress[0]", None, ()),
        ("spec.ingress[1]", None, ()),
        ("spec.ingress[2].from[0]", PODS_CLIENT, ({"port": 80},)),
        ("spec.ingress[2].from[1]", {}, ({"port": 80},)),
    ]
    assert found[2].label == "p spec.ingress[2].from[0]"
    kind = {**made, "kind": "ApplicationNetworkPolicy"}
    assert next(np.rule_peers(kind, Direction.INGRESS)).label == "ApplicationNetworkPolicy p spec.ingress[0]"


# ---- ApplicationNetworkPolicies, as their authors mean them

DOMAIN = {"to": [{"domainNames": ["example.com"]}]}


def test_application_policies_isolate_and_allow_as_network_policies_do():
    made = [policy("app", selects={"app": "web"}, ingress=[from_(PODS_CLIENT)])]
    assert judge([], applicationnetworkpolicies=made).code == "RULE_ALLOWS"
    denied = judge([], OTHER, applicationnetworkpolicies=made)
    assert denied.why == "ApplicationNetworkPolicy app isolates default/web-1 for ingress: no rule allows it"
    assert judge([policy("np")], applicationnetworkpolicies=made).code == "RULE_ALLOWS"
    both = judge([policy("np")], OTHER, applicationnetworkpolicies=made)
    assert both.why == "ApplicationNetworkPolicy app, np isolate default/web-1 for ingress: no rule allows it"
    assert judge([], applicationnetworkpolicies=[policy("app", namespace="team-b")]).code == "NOT_ISOLATED"


DOMAINS = {
    "an address that nothing has": ([DOMAIN], "192.0.2.1", 80, "DOMAIN_NAME"),
    "another port": ([{**DOMAIN, "ports": [{"port": 443}]}], "192.0.2.1", 80, "NO_RULE"),
    "a pod is none": ([DOMAIN], CLIENT, 80, "NO_RULE"),
    "a node is none": ([DOMAIN], "10.0.0.2", 80, "NO_RULE"),
    "another rule allows it": (
        [DOMAIN, {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}],
        "192.0.2.1",
        80,
        "RULE_ALLOWS",
    ),
}


@pytest.mark.parametrize(("rules", "peer", "port", "code"), DOMAINS.values(), ids=DOMAINS)
def test_rules_for_domain_names(rules, peer, port, code):
    made = policy("app", egress=rules, types=["Egress"])
    nodes = [node(NODE), node("node-b", "10.0.0.2")]
    verdict = judge([], peer, port, direction=EGRESS, applicationnetworkpolicies=[made], nodes=nodes)
    assert verdict.code == code
    assert (verdict.decision is Decision.UNKNOWN) is (code == "DOMAIN_NAME")


def test_domain_names_say_what_is_not_known():
    made = policy("app", egress=[DOMAIN, {"to": [PODS_CLIENT]}], types=["Egress"])
    verdict = judge([], "192.0.2.1", direction=EGRESS, applicationnetworkpolicies=[made])
    assert verdict.why == (
        "ApplicationNetworkPolicy app spec.egress[0].to[0] allows domains example.com: whether 192.0.2.1 is an address "
        "of it is not known here"
    )
    assert len(verdict.evidence) == 2
    denied = judge([], CLIENT, direction=EGRESS, applicationnetworkpolicies=[policy("app", egress=[DOMAIN])])
    assert denied.evidence[0].endswith("allows domains example.com; domain names do not mean pod default/client")


def test_application_policies_that_could_not_be_read_are_unknown():
    verdict = judge([policy()], applicationnetworkpolicies=Collection(reason="forbidden"))
    assert (verdict.decision, verdict.why) == (Decision.UNKNOWN, "not read: applicationnetworkpolicies: forbidden")
    assert judge([policy()], applicationnetworkpolicies=Collection(absent=True)).code == "NO_RULE"
