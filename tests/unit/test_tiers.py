"""INTENT over all tiers: what the authors of ClusterNetworkPolicies mean, whatever EKS makes of it."""

from __future__ import annotations

import pytest

from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.snapshot import Collection
from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.policy import tiers
from kubectl_netpol.policy.networkpolicy import Ends
from tests.unit.builders import NODE_IP, container_port, flow, match, namespace, pod, policy, world
from tests.unit.policy_builders import cnp, number, pods, rule, span, to

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
ME = pod(
    "web-1", "10.0.1.1", labels={"app": "web"}, ports=[container_port(80, "http"), container_port(53, "dns", "UDP")]
)
PEER = pod("client", "10.0.1.2", labels={"app": "client"})
FAR = pod("client", "10.0.2.2", namespace="team-b", labels={"app": "client"}, ports=[container_port(80, "http")])
NAMESPACES = [namespace("default", {"team": "a"}), namespace("team-b", {"team": "b"})]
ANYBODY = {"namespaces": {}}
TEAM_A, TEAM_B = {"namespaces": match(team="a")}, {"namespaces": match(team="b")}
CLIENTS = pods({"app": "client"})
DENY, ACCEPT, PASS = (rule(action, ANYBODY) for action in ("Deny", "Accept", "Pass"))
ALLOWS, ISOLATES = policy("np", ingress=[{}]), policy("np", ingress=[])


def judge(cluster, policies=(), *, peer=PEER, port=80, protocol=6, direction=INGRESS, me=ME, **more):
    address = peer if isinstance(peer, str) else peer["status"]["podIP"]
    ends = (address, me["status"]["podIP"]) if direction is INGRESS else (me["status"]["podIP"], address)
    objects = {
        "pods": [ME, PEER, FAR],
        "namespaces": NAMESPACES,
        "networkpolicies": policies,
        "clusternetworkpolicies": cluster,
        **more,
    }
    asked = Ends(me, direction, flow(*ends, port, protocol), None if isinstance(peer, str) else peer)
    return tiers.evaluate(asked, world(**objects))


def baseline(*rules, priority=10, name="base"):
    return cnp(name, tier="Baseline", priority=priority, ingress=rules)


def admin(*rules, priority=10, name="guard", **more):
    return cnp(name, priority=priority, ingress=rules, **more)


ORDER = {
    "Admin Deny decides": ([admin(DENY)], [ALLOWS], "ADMIN_DENY"),
    "Admin Accept decides": ([admin(ACCEPT)], [ISOLATES], "ADMIN_ACCEPT"),
    "Admin Pass: NetworkPolicies decide": ([admin(PASS), baseline(DENY)], [ALLOWS], "RULE_ALLOWS"),
    "Admin Pass: they deny": ([admin(PASS), baseline(ACCEPT)], [ISOLATES], "NO_RULE"),
    "Admin Pass: Baseline where none isolates": ([admin(PASS), baseline(DENY)], [], "BASELINE_DENY"),
    "Pass leaves the tier: later rules of it are not asked": ([admin(PASS, DENY)], [], "NOT_ISOLATED"),
    "Pass leaves the tier: later policies neither": (
        [admin(PASS, priority=1), admin(DENY, priority=2, name="b")],
        [],
        "NOT_ISOLATED",
    ),
    "nothing in Admin: NetworkPolicies": ([admin(rule("Deny", TEAM_B))], [ISOLATES], "NO_RULE"),
    "Baseline Deny": ([baseline(DENY)], [], "BASELINE_DENY"),
    "Baseline Accept": ([baseline(ACCEPT)], [], "BASELINE_ACCEPT"),
    "Baseline Pass: the default": ([baseline(PASS)], [], "NOT_ISOLATED"),
    "Baseline is not asked where a NetworkPolicy isolates": ([baseline(DENY)], [ALLOWS], "RULE_ALLOWS"),
    "Baseline is asked where it isolates the other direction": (
        [baseline(DENY)],
        [policy("np", types=["Egress"])],
        "BASELINE_DENY",
    ),
    "the default": ([admin(rule("Deny", TEAM_B)), baseline(rule("Deny", TEAM_B), name="b")], [], "NOT_ISOLATED"),
    "the lowest priority first": ([admin(DENY, priority=2), admin(ACCEPT, priority=1, name="b")], [], "ADMIN_ACCEPT"),
    "a policy without a rule that fits is passed over": (
        [admin(rule("Accept", TEAM_B), priority=1), admin(DENY, priority=2, name="b")],
        [],
        "ADMIN_DENY",
    ),
    "rules of one policy in their order": ([admin(ACCEPT, DENY)], [], "ADMIN_ACCEPT"),
    "rules of one policy in their order, turned": ([admin(DENY, ACCEPT)], [], "ADMIN_DENY"),
    "one priority: Deny before Accept": ([admin(ACCEPT), admin(DENY, name="b")], [], "ADMIN_DENY"),
    "one priority: Accept before Pass": ([admin(PASS), admin(ACCEPT, name="b")], [ISOLATES], "ADMIN_ACCEPT"),
    "priorities of tiers do not mix": ([admin(DENY, priority=1000), baseline(ACCEPT, priority=0)], [], "ADMIN_DENY"),
    "a priority that is none is 0": (
        [admin(ACCEPT, priority=None), admin(DENY, priority=1, name="b")],
        [],
        "ADMIN_ACCEPT",
    ),
    "a tier that is none is Admin": ([cnp(tier="", ingress=[DENY])], [ALLOWS], "ADMIN_DENY"),
}


@pytest.mark.parametrize(("cluster", "policies", "code"), ORDER.values(), ids=ORDER)
def test_the_order_of_tiers_policies_and_rules(cluster, policies, code):
    for listed in (cluster, cluster[::-1]):
        found = judge(listed, policies)
        assert found.code == code
        denies = code in ("ADMIN_DENY", "BASELINE_DENY", "NO_RULE")
        assert found.decision is (Decision.DENY if denies else Decision.ALLOW)


SUBJECTS = {
    "everybody": (ANYBODY, True),
    "the namespace": (TEAM_A, True),
    "another namespace": (TEAM_B, False),
    "pods of all namespaces": (pods({"app": "web"}), True),
    "other pods": (pods({"app": "db"}), False),
    "pods of the namespace": (pods({"app": "web"}, {"team": "a"}), True),
    "pods of another namespace": (pods({"app": "web"}, {"team": "b"}), False),
    "all pods of a namespace": (pods(None, {"team": "a"}), True),
    "nobody": ({}, False),
}


@pytest.mark.parametrize(("subject", "expected"), SUBJECTS.values(), ids=SUBJECTS)
def test_subjects(subject, expected):
    assert (judge([admin(DENY, subject=subject)]).code == "ADMIN_DENY") is expected


PEERS = {
    "namespaces": (TEAM_A, PEER, True),
    "other namespaces": (TEAM_B, PEER, False),
    "pods": (CLIENTS, FAR, True),
    "other pods": (pods({"app": "db"}), PEER, False),
    "pods of a namespace": (pods({"app": "client"}, {"team": "b"}), PEER, False),
    "selectors do not mean addresses": (ANYBODY, "192.0.2.1", False),
}


@pytest.mark.parametrize(("peer", "other", "expected"), PEERS.values(), ids=PEERS)
def test_peers(peer, other, expected):
    for made, direction in (
        (admin(rule("Deny", peer)), INGRESS),
        (cnp(egress=[to("Deny", peer)]), EGRESS),
    ):
        assert (judge([made], peer=other, direction=direction).code == "ADMIN_DENY") is expected


NETWORKS = {
    "inside": (["192.0.2.0/24"], "192.0.2.1", True),
    "outside": (["192.0.2.0/24"], "198.51.100.1", False),
    "any of several": (["192.0.2.0/24", "198.51.100.0/24"], "198.51.100.1", True),
    "a pod's address": (["10.0.1.0/24"], PEER, True),
    "the other family": (["::/0"], "192.0.2.1", False),
}


@pytest.mark.parametrize(("networks", "other", "expected"), NETWORKS.values(), ids=NETWORKS)
def test_networks_of_egress_rules(networks, other, expected):
    found = judge([cnp(egress=[to("Deny", {"networks": networks})])], peer=other, direction=EGRESS)
    assert (found.code == "ADMIN_DENY") is expected


PORTS = {
    "none: all": (None, 80, 6, True),
    "number": ([number(80)], 80, 6, True),
    "another number": ([number(81)], 80, 6, False),
    "another protocol": ([number(80, "UDP")], 80, 6, False),
    "without a protocol: TCP": ([number(80, None)], 80, 6, True),
    "first of a range": ([span(80, 90)], 80, 6, True),
    "last of a range": ([span(70, 80)], 80, 6, True),
    "before a range": ([span(81, 90)], 80, 6, False),
    "a range of another protocol": ([span(70, 90, "UDP")], 80, 6, False),
    "a range of that protocol": ([span(50, 60, "UDP")], 53, 17, True),
    "a range without a protocol": ([span(70, 90, None)], 80, 6, True),
    "name": ([{"namedPort": "http"}], 80, 6, True),
    "another name": ([{"namedPort": "https"}], 80, 6, False),
    "a name means TCP": ([{"namedPort": "dns"}], 53, 17, False),
    "any of several": ([number(1), span(70, 90)], 80, 6, True),
}


@pytest.mark.parametrize(("ports", "port", "protocol", "expected"), PORTS.values(), ids=PORTS)
def test_ports(ports, port, protocol, expected):
    found = judge([admin(rule("Deny", ANYBODY, ports=ports))], port=port, protocol=protocol)
    assert (found.code == "ADMIN_DENY") is expected


def test_named_ports_of_egress_are_the_receivers():
    made = cnp(egress=[to("Deny", ANYBODY, ports=[{"namedPort": "http"}])])
    assert judge([made], peer=FAR, direction=EGRESS).code == "ADMIN_DENY"
    assert judge([made], peer=PEER, direction=EGRESS).code == "NOT_ISOLATED"


def test_rules_of_the_other_direction_do_not_count():
    assert judge([cnp(egress=[to("Deny", ANYBODY)])]).code == "NOT_ISOLATED"


def test_rules_without_peers_mean_nobody():
    """The CRD wants at least one."""
    assert judge([admin(rule("Deny"))]).code == "NOT_ISOLATED"


def test_the_host_network_is_no_subject():
    me = pod("edge", NODE_IP, labels={"app": "web"}, host_network=True)
    assert judge([admin(DENY)], me=me).code == "HOST_NETWORK"


def test_a_pod_talks_to_itself():
    assert judge([admin(DENY)], peer="10.0.1.1").code == "ITSELF"


def test_the_own_node_passes_network_policies_and_not_cluster_policies():
    assert (
        judge([cnp(egress=[to("Deny", {"networks": ["10.0.0.0/24"]})])], peer=NODE_IP, direction=EGRESS).code
        == "ADMIN_DENY"
    )
    assert judge([baseline(DENY)], [ISOLATES], peer=NODE_IP).code == "OWN_NODE"


# ---- what is said


def steps(found) -> list[str]:
    return [step.text for step in found.chain]


def test_chains_name_each_tier_and_its_rule():
    named = rule("Pass", CLIENTS, name="clients")
    found = judge([admin(named, priority=3), baseline(DENY)], [ALLOWS])
    assert steps(found) == [
        'Admin: Pass by guard (priority 3) spec.ingress[0] "clients"',
        "NetworkPolicy: Accept by np spec.ingress[0]",
    ]
    found = judge([admin(rule("Deny", TEAM_B)), baseline(rule("Deny", TEAM_B), DENY)])
    assert steps(found) == [
        "Admin: nothing matches",
        "NetworkPolicy: not isolated",
        "Baseline: Deny by base (priority 10) spec.ingress[1]",
    ]
    assert steps(judge([baseline(PASS)])) == [
        "Admin: nothing matches",
        "NetworkPolicy: not isolated",
        "Baseline: Pass by base (priority 10) spec.ingress[0]",
        "default: Allow",
    ]
    assert steps(judge([admin(DENY)], [ALLOWS])) == ["Admin: Deny by guard (priority 10) spec.ingress[0]"]
    assert steps(judge([admin(PASS)], [ISOLATES]))[1:] == ["NetworkPolicy: Deny by np"]


def test_chains_without_cluster_policies():
    assert steps(judge([])) == ["NetworkPolicy: not isolated", "default: Allow"]
    assert steps(judge([], [ALLOWS])) == ["NetworkPolicy: Accept by np spec.ingress[0]"]
    assert steps(judge([], [ISOLATES, policy("b")])) == ["NetworkPolicy: Deny by b, np"]
    assert steps(judge([admin(DENY, subject=TEAM_B)])) == ["NetworkPolicy: not isolated", "default: Allow"]


def test_sentences():
    found = judge([admin(rule("Deny", CLIENTS, ports=[number(80)]), priority=3)])
    assert found.why == (
        "ClusterNetworkPolicy guard (priority 3) spec.ingress[0] denies pods app=client in all namespaces, "
        "in the Admin tier"
    )
    found = judge([baseline(rule("Accept", TEAM_B, TEAM_A))])
    assert found.why == (
        "ClusterNetworkPolicy base (priority 10) spec.ingress[0] accepts all pods in namespaces team=a, "
        "in the Baseline tier"
    )
    found = judge([admin(PASS), baseline(rule("Deny", TEAM_B), name="b")])
    assert found.why == "no rule of guard, b means this flow, and no NetworkPolicy isolates the pod for ingress"


def test_policies_of_one_priority_that_disagree_are_named():
    found = judge([admin(ACCEPT, priority=3), admin(DENY, priority=3, name="b")])
    assert found.evidence == ("b (Deny), guard (Accept) share priority 3 in the Admin tier: Deny wins, then Accept",)
    assert judge([admin(DENY), admin(DENY, name="b")]).evidence == ()


# ---- what is not known

UNREAD = {
    "clusternetworkpolicies": ({"cluster": Collection(reason="forbidden")}, "NOT_READ"),
    "no CRD": ({"cluster": Collection(absent=True)}, "NOT_ISOLATED"),
    "namespaces": ({"namespaces": Collection(reason="forbidden")}, "NOT_READ"),
    "pods": ({"pods": Collection(reason="forbidden")}, "NOT_READ"),
    "networkpolicies, and Admin decides": ({"networkpolicies": Collection(reason="forbidden")}, "ADMIN_DENY"),
    "networkpolicies, and it matters": (
        {"networkpolicies": Collection(reason="forbidden"), "cluster": [baseline(DENY)]},
        "NOT_READ",
    ),
    "namespaces, without any cluster policy": (
        {"namespaces": Collection(reason="forbidden"), "cluster": []},
        "NOT_READ",
    ),
    "namespaces, and a policy that would come first means one of them": (
        {
            "namespaces": Collection(reason="forbidden"),
            "cluster": [admin(DENY, subject=TEAM_A, priority=1), admin(ACCEPT, priority=5, name="b")],
        },
        "NOT_READ",
    ),
}


@pytest.mark.parametrize(("objects", "code"), UNREAD.values(), ids=UNREAD)
def test_what_could_not_be_read(objects, code):
    """A subject of namespaces that were not read may be missed, and another policy would then seem to decide."""
    found = judge(**{"cluster": [admin(DENY)], **objects})
    assert found.code == code
    assert (found.decision is Decision.UNKNOWN) is (code == "NOT_READ")


DOMAIN = {"domainNames": ["example.com"]}
OUTSIDE = "192.0.2.1"
ANY = {"networks": ["0.0.0.0/0"]}
DOMAINS = {
    "it may be": ([cnp(egress=[to("Accept", DOMAIN), to("Deny", ANY)])], OUTSIDE, "DOMAIN_NAME"),
    "either way it passes": ([cnp(egress=[to("Accept", DOMAIN), to("Accept", ANY)])], OUTSIDE, "ADMIN_ACCEPT"),
    "another rule was first": ([cnp(egress=[to("Deny", ANY), to("Accept", DOMAIN)])], OUTSIDE, "ADMIN_DENY"),
    "Deny is not supported": ([cnp(egress=[to("Deny", DOMAIN)])], OUTSIDE, "NOT_ISOLATED"),
    "a pod has none": ([cnp(egress=[to("Accept", DOMAIN), to("Deny", ANY)])], PEER, "ADMIN_DENY"),
    "another port": ([cnp(egress=[to("Accept", DOMAIN, ports=[number(443)]), to("Deny", ANY)])], OUTSIDE, "ADMIN_DENY"),
    "Pass to what denies": (
        [cnp(egress=[to("Accept", ANY)], priority=20, name="b"), cnp(egress=[to("Pass", DOMAIN)])],
        OUTSIDE,
        "ADMIN_ACCEPT",
    ),
}


@pytest.mark.parametrize(("cluster", "other", "code"), DOMAINS.values(), ids=DOMAINS)
def test_rules_for_domain_names(cluster, other, code):
    found = judge(cluster, peer=other, direction=EGRESS)
    assert found.code == code
    assert (found.decision is Decision.UNKNOWN) is (code == "DOMAIN_NAME")


OUT_ALLOWS, OUT_ISOLATES = policy("np", egress=[{}], types=["Egress"]), policy("np", types=["Egress"])


def base_out(*rules):
    return cnp("base", tier="Baseline", egress=rules)


DOMAINS_AND_POLICIES = {
    "Accept, and a NetworkPolicy allows": ([cnp(egress=[to("Accept", DOMAIN)])], [OUT_ALLOWS], "RULE_ALLOWS"),
    "Accept, and a NetworkPolicy denies": ([cnp(egress=[to("Accept", DOMAIN)])], [OUT_ISOLATES], "DOMAIN_NAME"),
    "Accept, and Baseline denies": (
        [cnp(egress=[to("Accept", DOMAIN)]), base_out(to("Deny", ANY))],
        [],
        "DOMAIN_NAME",
    ),
    "Accept, and Baseline accepts": (
        [cnp(egress=[to("Accept", DOMAIN)]), base_out(to("Accept", ANY))],
        [],
        "BASELINE_ACCEPT",
    ),
    "Accept, and Baseline passes": (
        [cnp(egress=[to("Accept", DOMAIN)]), base_out(to("Pass", ANY))],
        [],
        "NOT_ISOLATED",
    ),
    "Pass before a Deny, and a NetworkPolicy allows": (
        [cnp(egress=[to("Pass", DOMAIN), to("Deny", ANY)])],
        [OUT_ALLOWS],
        "DOMAIN_NAME",
    ),
    "Pass before a Deny, and a NetworkPolicy denies": (
        [cnp(egress=[to("Pass", DOMAIN), to("Deny", ANY)])],
        [OUT_ISOLATES],
        "ADMIN_DENY",
    ),
    "Pass before an Accept, and a NetworkPolicy denies": (
        [cnp(egress=[to("Pass", DOMAIN), to("Accept", ANY)])],
        [OUT_ISOLATES],
        "DOMAIN_NAME",
    ),
    "Baseline Accept before a Deny": ([base_out(to("Accept", DOMAIN), to("Deny", ANY))], [], "DOMAIN_NAME"),
    "Baseline Accept before a Deny, and a NetworkPolicy decides": (
        [base_out(to("Accept", DOMAIN), to("Deny", ANY))],
        [OUT_ALLOWS],
        "RULE_ALLOWS",
    ),
    "Baseline Accept and nothing else": ([base_out(to("Accept", DOMAIN))], [], "NOT_ISOLATED"),
    "Baseline Pass before a Deny": ([base_out(to("Pass", DOMAIN), to("Deny", ANY))], [], "DOMAIN_NAME"),
    "an earlier priority": (
        [cnp(egress=[to("Accept", DOMAIN)], priority=1), cnp("b", egress=[to("Deny", ANY)], priority=2)],
        [],
        "DOMAIN_NAME",
    ),
    "a later priority": (
        [cnp(egress=[to("Accept", DOMAIN)], priority=3), cnp("b", egress=[to("Deny", ANY)], priority=2)],
        [],
        "ADMIN_DENY",
    ),
    "one priority: Deny wins in any case": (
        [cnp(egress=[to("Accept", DOMAIN)]), cnp("b", egress=[to("Deny", ANY)])],
        [],
        "ADMIN_DENY",
    ),
    "one priority: Accept before Pass": (
        [cnp(egress=[to("Accept", DOMAIN)]), cnp("b", egress=[to("Pass", ANY)])],
        [OUT_ISOLATES],
        "DOMAIN_NAME",
    ),
    "one priority: Pass does not win over Accept": (
        [cnp(egress=[to("Pass", DOMAIN)]), cnp("b", egress=[to("Accept", ANY)])],
        [OUT_ISOLATES],
        "ADMIN_ACCEPT",
    ),
    "no more rules are asked after the first that surely fits": (
        [cnp(egress=[to("Accept", DOMAIN), to("Accept", ANY), to("Deny", ANY)])],
        [],
        "ADMIN_ACCEPT",
    ),
}


@pytest.mark.parametrize(("cluster", "policies", "code"), DOMAINS_AND_POLICIES.values(), ids=DOMAINS_AND_POLICIES)
def test_domain_names_and_what_comes_after_them(cluster, policies, code):
    """Unknown only where it makes a difference whether the other end has the name."""
    for listed in (cluster, cluster[::-1]):
        found = judge(listed, policies, peer=OUTSIDE, direction=EGRESS)
        assert found.code == code
        assert (found.decision is Decision.UNKNOWN) is (code == "DOMAIN_NAME")


def test_a_domain_name_of_an_application_policy_below_cluster_policies():
    app = policy("app", egress=[{"to": [DOMAIN]}], types=["Egress"])
    asked = {"peer": OUTSIDE, "direction": EGRESS, "applicationnetworkpolicies": [app]}
    found = judge([cnp(egress=[to("Pass", ANY)])], **asked)
    assert (found.code, steps(found)) == ("DOMAIN_NAME", ["Admin: Pass by guard (priority 10) spec.egress[0]"])
    assert judge([cnp(egress=[to("Deny", ANY)])], **asked).code == "ADMIN_DENY"


def test_only_the_domains_of_a_rule_are_named():
    made = cnp(egress=[to("Accept", TEAM_B, DOMAIN), to("Deny", ANY)])
    assert judge([made], peer=OUTSIDE, direction=EGRESS).why == (
        "guard (priority 10) spec.egress[0] means domains example.com: "
        "whether 192.0.2.1 is an address of it is not known here"
    )


def test_a_domain_name_in_the_admin_tier_and_a_network_policy_that_denies():
    made = cnp(egress=[to("Accept", DOMAIN)])
    found = judge([made], [policy("np", types=["Egress"])], peer=OUTSIDE, direction=EGRESS)
    assert found.why == (
        "guard (priority 10) spec.egress[0] means domains example.com: "
        "whether 192.0.2.1 is an address of it is not known here"
    )
    assert judge([made], peer=OUTSIDE, direction=EGRESS).code == "NOT_ISOLATED"


# ---- rules in the form of NetworkPolicies


def test_peers_of_a_rule_are_one_each():
    """Each kind that the CRD allows; exactly one of them is in a peer."""
    made = cnp(egress=[to("Deny", {"networks": ["10.0.0.0/8", "::/0"]}, TEAM_B, CLIENTS, DOMAIN, name="x")])
    [found] = tiers.cluster_rules(made, EGRESS)
    assert (found.action, found.name, found.path) == ("Deny", "x", "spec.egress[0]")
    assert [(peer.path.removeprefix("spec.egress[0]."), peer.peer) for peer in found.peers] == [
        ("to[0].networks[0]", {"ipBlock": {"cidr": "10.0.0.0/8"}}),
        ("to[0].networks[1]", {"ipBlock": {"cidr": "::/0"}}),
        ("to[1]", {"namespaceSelector": match(team="b")}),
        ("to[2]", {"namespaceSelector": {}, "podSelector": match(app="client")}),
        ("to[3]", DOMAIN),
    ]
    assert {peer.action for peer in found.peers} == {"Deny"}


def test_the_text_of_a_rule():
    made = cnp(ingress=[rule("Deny", ANYBODY), rule("Deny", ANYBODY, name="no-imds")], priority=7)
    assert [found.text for found in tiers.cluster_rules(made, INGRESS)] == [
        "guard (priority 7) spec.ingress[0]",
        'guard (priority 7) spec.ingress[1] "no-imds"',
    ]
