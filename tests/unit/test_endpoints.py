"""PolicyEndpoints: slices, identifiers, and what they decide."""

from __future__ import annotations

import pytest

from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.snapshot import Collection
from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.policy import endpoints
from kubectl_netpol.policy.networkpolicy import Ends
from tests.unit.builders import NODE_IP, endpoint, entry, flow, pe_port, pod, policy, world
from tests.unit.policy_builders import acts, cluster_endpoint, cnp

WEB = pod("web-1", "10.0.1.1")
TWIN = pod("web-2", "10.0.1.2")
OTHER = pod("db-0", "10.0.1.3")
FOREIGN = pod("web-1", "10.0.1.4", namespace="other")


def names(found) -> list[str]:
    return [e["metadata"]["name"] for e in found]


def judge(slices, peer="10.0.2.1", port=80, direction=Direction.INGRESS, me=WEB):
    ends = (peer, me["status"]["podIP"]) if direction is Direction.INGRESS else (me["status"]["podIP"], peer)
    found = slices if isinstance(slices, Collection) else list(slices)
    return endpoints.evaluate(Ends(me, direction, flow(*ends, port)), world(policyendpoints=found))


def test_all_slices_of_a_policy_count_also_those_that_do_not_list_the_pod():
    slices = [
        endpoint("a", suffix="1", pods=[WEB]),
        endpoint("a", suffix="2", pods=[OTHER], ingress=[entry("10.0.2.1")]),
        endpoint("b", suffix="1", pods=[OTHER], ingress=[entry("0.0.0.0/0")]),
        endpoint("a", suffix="3", namespace="other", pods=[FOREIGN], ingress=[entry("0.0.0.0/0")]),
    ]
    assert names(endpoints.of_pod(world(policyendpoints=slices), WEB)) == ["a-1", "a-2"]
    assert judge(slices).code == "ENTRY_ALLOWS"
    assert judge(slices, "10.0.2.2").code == "NO_ENTRY"


def test_slices_belong_to_their_policy_reference_not_to_their_name():
    odd = endpoint("web", suffix="x", pods=[WEB])
    odd["metadata"]["name"] = "something-else"
    assert endpoints.policy_of(odd) == "web"
    assert names(endpoints.of_pod(world(policyendpoints=[odd]), WEB)) == ["something-else"]


def test_the_identifier_shares_the_rules_of_all_its_pods():
    slices = [endpoint("a", pods=[TWIN]), endpoint("b", pods=[OTHER]), endpoint("c", namespace="other", pods=[FOREIGN])]
    found = world(policyendpoints=slices)
    assert names(endpoints.of_identifier(found, WEB)) == ["a-abcde"]
    assert names(endpoints.of_pod(found, WEB)) == []


def test_a_pod_listed_without_a_namespace_is_in_that_of_the_endpoint():
    bare = endpoint("a", pods=[WEB])
    del bare["spec"]["podSelectorEndpoints"][0]["namespace"]
    assert list(endpoints.lists(bare)) == [("default", "web-1")]


def test_entries_skip_what_has_no_address():
    slices = [
        endpoint(egress=[{"domainName": "example.com"}, entry("10.0.0.0/8", pe_port(80, 90), excepts=["10.1.0.0/16"])])
    ]
    [found] = endpoints.entries(slices, Direction.EGRESS)
    assert (found.path, str(found.prefix), found.policy) == ("spec.egress[1]", "10.0.0.0/8", "web")
    assert [p.text for p in found.ports] == ["80-90/TCP"]
    assert [str(e) for e in found.excepts] == ["10.1.0.0/16"]


def test_isolation_is_listed_by_policy():
    slices = [endpoint("b"), endpoint("a"), endpoint("a"), endpoint("c", isolation=("Egress",))]
    assert endpoints.isolates(slices, Direction.INGRESS) == ["a", "b"]


@pytest.mark.parametrize(
    ("rules", "peer", "port", "decision"),
    [
        ([entry("10.0.2.1")], "10.0.2.1", 80, "allow"),
        ([entry("10.0.2.1")], "10.0.2.2", 80, "deny"),
        ([entry("10.0.0.0/16", pe_port(80))], "10.0.2.1", 80, "allow"),
        ([entry("10.0.0.0/16", pe_port(80))], "10.0.2.1", 81, "deny"),
        ([entry("10.0.0.0/16", pe_port(80, 90))], "10.0.2.1", 90, "allow"),
        ([entry("10.0.0.0/16", pe_port(80, protocol=None))], "10.0.2.1", 80, "allow"),
        ([entry("10.0.0.0/16", excepts=["10.0.2.0/24"])], "10.0.2.1", 80, "deny"),
        ([entry("10.0.0.0/16", excepts=["10.0.2.0/24"])], "10.0.3.1", 80, "allow"),
        ([entry("10.0.0.0/16", excepts=["10.0.2.0/24"]), entry("10.0.2.1")], "10.0.2.1", 80, "allow"),
        ([entry("10.0.0.0/16", pe_port(1)), entry("10.0.2.1", pe_port(80))], "10.0.2.1", 80, "allow"),
        ([entry("::/0")], "10.0.2.1", 80, "deny"),
        ([], "10.0.2.1", 80, "deny"),
        ([], NODE_IP, 80, "allow"),
    ],
)
def test_verdicts(rules, peer, port, decision):
    assert judge([endpoint(pods=[WEB], ingress=rules)], peer, port).decision.value == decision


@pytest.mark.parametrize(
    ("slices", "code"),
    [
        ([], "NOT_LISTED"),
        ([endpoint(pods=[OTHER])], "NOT_LISTED"),
        ([endpoint(pods=[WEB], isolation=("Egress",))], "NOT_ISOLATED"),
        ([endpoint(pods=[WEB], isolation=("Egress",), ingress=[entry("10.0.3.1")])], "NO_ENTRY"),
        (Collection(absent=True), "NO_CRD"),
        (Collection(reason="forbidden"), "NOT_READ"),
    ],
    ids=["none", "other-pod", "other-direction", "rules-without-isolation", "no-crd", "unread"],
)
def test_reasons(slices, code):
    assert judge(slices).code == code


def test_unread_is_unknown_and_the_host_network_is_free():
    assert judge(Collection(reason="forbidden")).decision is Decision.UNKNOWN
    assert judge([endpoint(pods=[WEB])], me=pod("web-1", "10.0.1.1", host_network=True)).code == "HOST_NETWORK"


def test_evidence_shows_the_entries_that_almost_fit():
    rules = [entry("10.0.0.0/16", excepts=["10.0.2.0/24"]), entry("10.0.2.1", pe_port(443)), entry("10.9.9.9")]
    verdict = judge([endpoint(pods=[WEB], ingress=rules)])
    assert verdict.why == "no ingress entry of web-abcde admits 10.0.2.1 on 80/TCP"
    assert verdict.evidence == (
        "web-abcde spec.ingress[0]: 10.0.0.0/16 excepts 10.0.2.0/24",
        "web-abcde spec.ingress[1]: 10.0.2.1/32 allows 443/TCP, not 80/TCP",
    )


def test_an_address_that_is_listed_but_no_longer_the_pods_is_stale():
    old = endpoint(pods=[pod("web-1", "10.0.9.9"), TWIN])
    found = world(policyendpoints=[old])
    assert endpoints.stale_address(found, WEB) == "10.0.9.9"
    assert endpoints.stale_address(found, TWIN) == ""


def test_an_address_that_only_the_annotation_knows_is_the_pods_own():
    """Agent facts 6.3: the controller takes it where there is no status.podIP yet."""
    fresh = pod("web-1", labels={"app": "web"}, phase="Pending")
    fresh["metadata"]["annotations"] = {"vpc.amazonaws.com/pod-ips": "10.0.9.9"}
    assert endpoints.stale_address(world(policyendpoints=[endpoint(pods=[pod("web-1", "10.0.9.9")])]), fresh) == ""
    assert (
        endpoints.stale_address(world(policyendpoints=[endpoint(pods=[pod("web-1", "10.0.9.8")])]), fresh) == "10.0.9.8"
    )


# ---- slices and identifiers (agent facts 4.3, 5.9, 6.2)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)], ids=str)
def test_slices_count_whatever_their_order_and_whatever_is_in_which(order):
    """6.2: pods and rules of one policy may sit in different slices; no slice is the first."""
    parts = [
        endpoint("a", suffix="1", pods=[OTHER]),
        endpoint("a", suffix="2", ingress=[entry("10.0.2.1")]),
        endpoint("a", suffix="3", pods=[WEB]),
    ]
    slices = [parts[number] for number in order]
    assert names(endpoints.of_pod(world(policyendpoints=slices), WEB)) == names(slices)
    assert judge(slices).code == "ENTRY_ALLOWS"


def test_names_of_58_characters_and_more_are_cut_and_the_reference_counts():
    """6.2: the API server cuts the base of a generated name."""
    long = "p" * 63
    cut = endpoint(long, pods=[WEB], ingress=[entry("10.0.2.1")])
    cut["metadata"]["name"] = f"{long[:58]}abcde"
    neighbour = endpoint(long[:58], pods=[OTHER], ingress=[entry("0.0.0.0/0")])
    found = world(policyendpoints=[cut, neighbour])
    assert names(endpoints.of_policy(found, policy(long))) == [f"{long[:58]}abcde"]
    assert names(endpoints.of_pod(found, WEB)) == [f"{long[:58]}abcde"]


def test_slices_of_a_policy_are_those_of_its_own_namespace_and_kind():
    slices = [endpoint("a"), endpoint("a", namespace="other"), endpoint("b")]
    found = world(policyendpoints=slices, clusterpolicyendpoints=[cluster_endpoint("a"), cluster_endpoint("b")])
    assert names(endpoints.of_policy(found, policy("a"))) == ["a-abcde"]
    assert endpoints.of_policy(found, policy("a"))[0] is slices[0]
    assert endpoints.of_policy(found, policy("a", namespace="other"))[0] is slices[1]
    [mine] = endpoints.of_policy(found, {**cnp("a"), "kind": "ClusterNetworkPolicy"})
    assert mine["spec"]["tier"] == "Admin"
    assert endpoints.of_policy(found, policy("nope")) == []


def test_network_and_application_policies_of_one_name_share_their_slices():
    """6.6: looked up by the name in policyRef, whichever kind made them."""
    found = world(policyendpoints=[endpoint("a")])
    for kind in ("NetworkPolicy", "ApplicationNetworkPolicy"):
        assert names(endpoints.of_policy(found, {**policy("a"), "kind": kind})) == ["a-abcde"]


IDENTIFIERS = {
    "replicas": ("web-7d4-abcde", "web-7d4-fghij", True),
    "bare pods with one dash": ("frontend-a", "frontend-b", True),
    "a name without a dash": ("debug", "debug", True),
    "a name without a dash and one with": ("debug", "debug-1", True),
    "another prefix": ("web-7d4-abcde", "web-8e5-abcde", False),
    "dots count as underscores": ("a.b-1", "a_b-2", True),
}


@pytest.mark.parametrize(("mine", "listed", "shared"), IDENTIFIERS.values(), ids=IDENTIFIERS)
def test_which_pods_share_an_identifier(mine, listed, shared):
    """4.1, 4.3, within one namespace."""
    me = pod(mine, "10.0.1.1")
    slices = [endpoint("a", pods=[pod(listed, "10.0.1.9", host_ip="10.0.0.9")]), endpoint("a", suffix="2")]
    found = world(policyendpoints=slices)
    assert endpoints.of_identifier(found, me) == (slices if shared else [])
    elsewhere = endpoint("a", namespace="other", pods=[pod(listed, "10.0.1.9", namespace="other")])
    assert endpoints.of_identifier(world(policyendpoints=[elsewhere]), me) == []


def test_cluster_policy_endpoints_list_pods_of_any_namespace():
    slices = [
        cluster_endpoint("a", suffix="1", pods=[FOREIGN, OTHER]),
        cluster_endpoint("a", suffix="2"),
        cluster_endpoint("b", pods=[TWIN]),
    ]
    found = world(clusterpolicyendpoints=slices)
    assert names(endpoints.cluster_of_pod(found, FOREIGN)) == ["a-1", "a-2"]
    assert names(endpoints.cluster_of_pod(found, OTHER)) == ["a-1", "a-2"]
    assert names(endpoints.cluster_of_pod(found, WEB)) == []
    assert names(endpoints.cluster_of_identifier(found, WEB)) == ["b-abcde"]
    assert names(endpoints.cluster_of_identifier(found, pod("web-9", namespace="other"))) == ["a-1", "a-2"]
    assert names(endpoints.cluster_of_identifier(found, pod("web-9", namespace="third"))) == []


def test_several_policies_of_one_pod_come_in_the_order_of_the_list_and_once():
    slices = [
        endpoint("b", pods=[WEB]),
        endpoint("a", suffix="1", pods=[WEB]),
        endpoint("a", suffix="2", pods=[WEB, TWIN]),
    ]
    found = world(policyendpoints=slices)
    assert names(endpoints.of_pod(found, WEB)) == ["b-abcde", "a-1", "a-2"]
    assert names(endpoints.of_identifier(found, WEB)) == ["b-abcde", "a-1", "a-2"]


HERE, THERE = pod("web-1", "10.0.1.1"), pod("web-2", "10.0.1.2", node="node-b", host_ip="10.0.0.2")
NEAR = pod("web-3", "10.0.1.3")
ELSEWHERE = {
    "nobody is listed": ([], [], False),
    "the pod itself": ([endpoint(pods=[HERE])], [], False),
    "a mate on the same node": ([endpoint(pods=[NEAR])], [], False),
    "a mate on another node": ([endpoint(pods=[THERE])], [], True),
    "mates on both": ([endpoint(pods=[THERE, NEAR])], [], False),
    "a mate that is gone": ([endpoint(pods=[pod("web-9", "10.0.1.9")])], [], True),
    "others of the policy are on the node": ([endpoint(pods=[THERE, OTHER])], [], True),
    "of a cluster policy": ([], [cluster_endpoint(pods=[THERE])], True),
    "of a cluster policy, here": ([endpoint(pods=[THERE])], [cluster_endpoint(pods=[HERE])], False),
    "a pod of that name in another namespace": (
        [],
        [cluster_endpoint(pods=[pod("web-3", "10.0.2.3", namespace="other"), THERE])],
        True,
    ),
}


@pytest.mark.parametrize(("slices", "cluster", "expected"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_whether_an_identifier_is_listed_on_other_nodes_only(slices, cluster, expected):
    """4.3: the agent may then know the rules, and write them or not."""
    pods = [HERE, THERE, NEAR, OTHER, pod("web-3", "10.0.2.3", namespace="other")]
    assert (
        endpoints.only_elsewhere(world(pods=pods, policyendpoints=slices, clusterpolicyendpoints=cluster), HERE)
        is expected
    )


def test_entries_of_cluster_policies_know_tier_priority_and_action():
    made = cluster_endpoint("guard", tier="Baseline", priority=7, ingress=[acts("Deny", "10.9.9.9/8", pe_port(80))])
    [found] = endpoints.entries([made], Direction.INGRESS)
    assert (found.tier, found.priority, found.action, found.policy) == ("Baseline", 7, "Deny", "guard")
    assert (str(found.prefix), found.text) == ("10.0.0.0/8", "10.9.9.9/8")
    [plain] = endpoints.entries([endpoint(ingress=[entry("10.0.0.0/8", excepts=["10.1.2.3/16"])])], Direction.INGRESS)
    assert (plain.tier, plain.priority, plain.action, plain.except_texts) == ("", 0, "Accept", ("10.1.2.3/16",))


@pytest.mark.parametrize("value", [None, "high", True, [1]], ids=str)
def test_a_priority_that_is_no_number_is_zero(value):
    made = cluster_endpoint(ingress=[acts("Deny", "10.0.0.0/8")])
    made["spec"]["priority"] = value
    assert next(endpoints.entries([made], Direction.INGRESS)).priority == 0


def test_domains_are_the_egress_elements_without_a_cidr():
    made = endpoint(
        egress=[
            {"domainName": "example.com", "ports": [pe_port(443)]},
            entry("10.0.0.0/8"),
            {"domainName": "a.b", "cidr": "10.0.0.1"},
            {},
        ]
    )
    [(where, name, ports)] = endpoints.domains([made])
    assert (where, name) == ("web-abcde spec.egress[0]", "example.com")
    assert [port.text for port in ports] == ["443/TCP"]
    assert list(endpoints.domains([endpoint(ingress=[{"domainName": "example.com"}])])) == []


def test_an_address_that_no_entry_holds():
    found = judge([endpoint(pods=[WEB], ingress=[entry("10.0.2.1", pe_port(443))])], "10.0.2.2")
    assert (found.why, found.evidence) == ("no ingress entry of web-abcde contains 10.0.2.2", ())


def test_a_pod_talks_to_itself_whatever_lists_it():
    found = judge([endpoint(pods=[WEB])], "10.0.1.1")
    assert (found.decision, found.code) == (Decision.ALLOW, "ITSELF")


def test_listed_addresses_are_those_of_one_pod():
    old = endpoint(pods=[pod("web-1", "10.0.9.9"), TWIN, pod("web-1", "10.0.9.8", namespace="other")])
    del old["spec"]["podSelectorEndpoints"][0]["namespace"]
    found = world(policyendpoints=[old, endpoint("b", namespace="other", pods=[FOREIGN])])
    assert endpoints.listed_ips(found, WEB) == {"10.0.9.9"}
    assert endpoints.listed_ips(found, TWIN) == {"10.0.1.2"}
    assert endpoints.listed_ips(found, FOREIGN) == {"10.0.1.4"}


# ---- tiers (agent facts 3.4, 5.5, 6.6)


def tiers(cluster, slices=(), peer="10.0.2.1", port=80, direction=Direction.INGRESS, protocol=6):
    ends = (peer, "10.0.1.1") if direction is Direction.INGRESS else ("10.0.1.1", peer)
    objects = {"policyendpoints": list(slices), "clusterpolicyendpoints": list(cluster)}
    return endpoints.evaluate(Ends(WEB, direction, flow(*ends, port, protocol)), world(**objects))


def admin(*elements, priority=10, name="guard", tier="Admin"):
    return cluster_endpoint(name, pods=[WEB], ingress=list(elements), priority=priority, tier=tier)


def base(*elements, priority=10, name="base"):
    return admin(*elements, priority=priority, name=name, tier="Baseline")


DENY8, ACCEPT8, PASS8 = (acts(action, "10.0.0.0/8") for action in ("Deny", "Accept", "Pass"))
OPEN, CLOSED = endpoint(pods=[WEB], ingress=[entry("10.0.2.1")]), endpoint(pods=[WEB])
UNRESTRICTED = endpoint(pods=[WEB], isolation=("Egress",))
DECISIONS = {
    "Admin Deny before all": ([admin(DENY8)], [OPEN], "ADMIN_DENY"),
    "Admin Accept before all": ([admin(ACCEPT8)], [CLOSED], "ADMIN_ACCEPT"),
    "Admin Pass leaves it to NetworkPolicies: allow": ([admin(PASS8), base(DENY8)], [OPEN], "ENTRY_ALLOWS"),
    "Admin Pass leaves it to NetworkPolicies: deny": ([admin(PASS8), base(ACCEPT8)], [CLOSED], "NO_ENTRY"),
    "Admin Pass and no NetworkPolicy": ([admin(PASS8), base(DENY8)], [], "BASELINE_DENY"),
    "nothing fits: NetworkPolicies": ([admin(acts("Deny", "192.0.2.0/24"))], [CLOSED], "NO_ENTRY"),
    "Baseline Deny": ([base(DENY8)], [], "BASELINE_DENY"),
    "Baseline Accept": ([base(ACCEPT8)], [], "BASELINE_ACCEPT"),
    "Baseline Pass: the default": ([base(PASS8)], [], "NOT_ISOLATED"),
    "Baseline after NetworkPolicies: allow": ([base(DENY8)], [OPEN], "ENTRY_ALLOWS"),
    "Baseline after NetworkPolicies: deny": ([base(ACCEPT8)], [CLOSED], "NO_ENTRY"),
    "Baseline where the direction is not isolated": ([base(DENY8)], [UNRESTRICTED], "BASELINE_DENY"),
    "the default": ([admin(acts("Deny", "192.0.2.0/24"))], [], "NOT_ISOLATED"),
    "3.4 lowest priority first": ([admin(DENY8, priority=5), admin(ACCEPT8, priority=4, name="b")], [], "ADMIN_ACCEPT"),
    "3.4 whatever the order of the list": (
        [admin(ACCEPT8, priority=4, name="b"), admin(DENY8, priority=5)],
        [],
        "ADMIN_ACCEPT",
    ),
    "3.4 one priority: Deny before Accept": ([admin(ACCEPT8), admin(DENY8, name="b")], [], "ADMIN_DENY"),
    "3.4 one priority: Accept before Pass": ([admin(PASS8), admin(ACCEPT8, name="b")], [CLOSED], "ADMIN_ACCEPT"),
    "6.6 within one object too": ([admin(ACCEPT8, DENY8)], [], "ADMIN_DENY"),
    "priorities of Baseline among themselves": (
        [base(DENY8, priority=5), base(ACCEPT8, priority=4, name="b")],
        [],
        "BASELINE_ACCEPT",
    ),
    "Admin before Baseline whatever the priorities": (
        [admin(DENY8, priority=1000), base(ACCEPT8, priority=0)],
        [],
        "ADMIN_DENY",
    ),
    "ports": (
        [admin(acts("Deny", "10.0.0.0/8", pe_port(81)), acts("Accept", "10.0.0.0/8", pe_port(79, 80)))],
        [],
        "ADMIN_ACCEPT",
    ),
    "protocol": ([admin(acts("Deny", "10.0.0.0/8", pe_port(80, protocol="UDP")))], [], "NOT_ISOLATED"),
    "address": ([admin(acts("Deny", "10.0.2.0/32"), acts("Accept", "10.0.2.1"))], [], "ADMIN_ACCEPT"),
    "the other family": ([admin(acts("Deny", "::/0"))], [], "NOT_ISOLATED"),
}


@pytest.mark.parametrize(("cluster", "slices", "code"), DECISIONS.values(), ids=DECISIONS)
def test_what_tiers_decide(cluster, slices, code):
    found = tiers(cluster, slices)
    assert found.code == code
    denies = code in ("ADMIN_DENY", "BASELINE_DENY", "NO_ENTRY")
    assert found.decision is (Decision.DENY if denies else Decision.ALLOW)


def test_cluster_rules_of_the_other_direction_and_of_other_pods_do_not_count():
    assert tiers([admin(DENY8)], direction=Direction.EGRESS).code == "NOT_ISOLATED"
    other = cluster_endpoint(pods=[TWIN], ingress=[DENY8])
    assert tiers([other]).code == "NOT_LISTED"


def test_the_own_node_is_denied_by_admin_rules_and_allowed_by_network_policies():
    """3.4: the node's entry is in the map of NetworkPolicies, which comes second."""
    assert tiers([admin(DENY8)], [CLOSED], peer=NODE_IP).code == "ADMIN_DENY"
    assert tiers([base(DENY8)], [CLOSED], peer=NODE_IP).code == "OWN_NODE"
    assert tiers([base(DENY8)], [], peer=NODE_IP).code == "BASELINE_DENY"


def test_chains_tell_each_tier():
    found = tiers([admin(PASS8, priority=3), base(DENY8)], [OPEN])
    assert [step.text for step in found.chain] == [
        "Admin: Pass by guard-abcde (priority 3) spec.ingress[0]",
        "NetworkPolicy: Accept by web-abcde spec.ingress[0]",
    ]
    found = tiers([admin(acts("Deny", "192.0.2.0/24")), base(DENY8)], [])
    assert [step.text for step in found.chain] == [
        "Admin: nothing matches",
        "NetworkPolicy: not isolated",
        "Baseline: Deny by base-abcde (priority 10) spec.ingress[0]",
    ]
    found = tiers([base(acts("Deny", "192.0.2.0/24"))], [])
    assert [step.text for step in found.chain][2:] == ["Baseline: nothing matches", "default: Allow"]
    found = tiers([admin(DENY8)], [OPEN])
    assert [step.text for step in found.chain] == ["Admin: Deny by guard-abcde (priority 10) spec.ingress[0]"]
    assert [step.text for step in tiers([admin(PASS8)], [CLOSED]).chain][1:] == ["NetworkPolicy: Deny"]


def test_chains_without_cluster_policies():
    assert [s.text for s in judge([]).chain] == ["NetworkPolicy: not isolated", "default: Allow"]
    assert [s.text for s in judge([UNRESTRICTED]).chain] == ["NetworkPolicy: not isolated", "default: Allow"]
    assert [s.text for s in judge([OPEN]).chain] == ["NetworkPolicy: Accept by web-abcde spec.ingress[0]"]
    assert [s.text for s in judge([CLOSED]).chain] == ["NetworkPolicy: Deny"]
    assert [s.text for s in judge([CLOSED], NODE_IP).chain] == ["NetworkPolicy: Accept"]


def test_sentences_of_tiers():
    deny = tiers([admin(acts("Deny", "10.0.0.0/8", pe_port(80)))])
    assert deny.why == "guard-abcde spec.ingress[0]: 10.0.0.0/8 on 80/TCP: Deny in the Admin tier, priority 10"
    none = tiers([admin(acts("Deny", "192.0.2.0/24")), base(PASS8)])
    assert none.why == (
        "no ingress entry of base-abcde, guard-abcde means 10.0.2.1 on 80/TCP; no PolicyEndpoint lists default/web-1"
    )


UNREAD = {
    "PolicyEndpoints": ({"policyendpoints": Collection(reason="forbidden")}, "NOT_READ"),
    "ClusterPolicyEndpoints": ({"clusterpolicyendpoints": Collection(reason="forbidden")}, "NOT_READ"),
    "no CRD of cluster policies": ({"clusterpolicyendpoints": Collection(absent=True)}, "NOT_LISTED"),
    "no CRD of the other, and cluster policies": (
        {"policyendpoints": Collection(absent=True), "clusterpolicyendpoints": [admin(DENY8)]},
        "ADMIN_DENY",
    ),
    "no CRD of the other, and none": ({"policyendpoints": Collection(absent=True)}, "NO_CRD"),
}


@pytest.mark.parametrize(("objects", "code"), UNREAD.values(), ids=UNREAD)
def test_what_could_not_be_read(objects, code):
    found = endpoints.evaluate(Ends(WEB, Direction.INGRESS, flow("10.0.2.1", "10.0.1.1")), world(**objects))
    assert found.code == code
