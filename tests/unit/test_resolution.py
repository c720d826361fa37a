"""PolicyEndpoints that are there against those that the controller makes, as sets over all slices."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.policy import controller, modelled, resolution
from tests.unit.builders import (
    NODE_IP,
    container_port,
    endpoint,
    entry,
    match,
    namespace,
    pe_port,
    pod,
    policy,
)
from tests.unit.policy_builders import acts, cluster_endpoint, cnp, number, pods, rule, span, to, with_policy

NP, ANP, CNP = "NetworkPolicy", "ApplicationNetworkPolicy", "ClusterNetworkPolicy"
WEB = {"app": "web"}
WEB_1 = pod("web-1", "10.0.1.1", labels=WEB, ports=[container_port(8080, "http")])
WEB_2 = pod("web-2", "10.0.1.2", labels=WEB)
CLIENT = pod("client", "10.0.1.3", labels={"app": "client"})
FAR = pod("far", "10.0.2.1", namespace="team-b", labels=WEB)
CLUSTER = {
    "pods": [WEB_1, WEB_2, CLIENT, FAR],
    "namespaces": [namespace("default", {"team": "a"}), namespace("team-b", {"team": "b"})],
}
CLIENTS = {"podSelector": match(app="client")}
HTTP = [{"port": 80}]
BLOCK = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}
SELECTOR = {"matchLabels": WEB}


def ours(*rules, **more):
    return policy("np", selects=WEB, ingress=list(rules), **more)


def slice_(*elements, pods=(WEB_1, WEB_2), suffix="1", selector=SELECTOR, **more):
    made = endpoint("np", pods=pods, ingress=list(elements), suffix=suffix, **more)
    if selector is not None:
        made["spec"]["podSelector"] = selector
    return made


def compare(kind, made, slices, **more):
    plural = "clusterpolicyendpoints" if kind == CNP else "policyendpoints"
    cluster, known = with_policy(kind, made, **{**CLUSTER, plural: slices, **more})
    return resolution.compare(known, cluster)


def codes(found) -> list[str]:
    return [drift.code for drift in found.drifts]


OTHER = {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}
C_HTTP = entry("10.0.1.3", pe_port(80))
C_ALL = entry("10.0.1.3")
FROM_CLIENT, FROM_CLIENT_HTTP = {"from": [CLIENTS]}, {"from": [CLIENTS], "ports": HTTP}
EQUAL = {
    "one slice": ([FROM_CLIENT_HTTP], [slice_(C_HTTP)]),
    "6.2 pods and rules in different slices": (
        [FROM_CLIENT_HTTP],
        [slice_(pods=[WEB_2], suffix="1"), slice_(C_HTTP, pods=[], suffix="2"), slice_(pods=[WEB_1], suffix="3")],
    ),
    "6.2 ports of one prefix in two slices": (
        [FROM_CLIENT_HTTP, {"from": [CLIENTS], "ports": [{"port": 81}]}],
        [slice_(C_HTTP), slice_(entry("10.0.1.3", pe_port(81)), suffix="2")],
    ),
    "an entry twice": ([FROM_CLIENT_HTTP], [slice_(C_HTTP), slice_(C_HTTP, suffix="2")]),
    "6.5 all ports in one slice, some in another": (
        [FROM_CLIENT, FROM_CLIENT_HTTP],
        [slice_(C_ALL), slice_(C_HTTP, suffix="2")],
    ),
    "6.3 blocks as they are written": (
        [{"from": [{"ipBlock": {"cidr": "10.9.9.9/8", "except": ["10.1.2.3/16"]}}]}],
        [slice_(entry("10.9.9.9/8", excepts=["10.1.2.3/16"]))],
    ),
    "a host with its length": ([FROM_CLIENT], [slice_(entry("10.0.1.3/32"))]),
    "excepts in another order": (
        [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16", "10.1.0.0/16"]}}]}],
        [slice_(entry("10.0.0.0/8", excepts=["10.2.0.0/16", "10.1.0.0/16"]))],
    ),
    "no rules": ([], [slice_()]),
    "domain names are not compared": ([], [slice_({"domainName": "example.com"})]),
    "without the copied podSelector": ([FROM_CLIENT], [slice_(C_ALL, selector=None)]),
}


@pytest.mark.parametrize(("rules", "slices"), EQUAL.values(), ids=EQUAL)
def test_slices_that_are_as_the_controller_resolves_them(rules, slices):
    for order in itertools.permutations(slices):
        found = compare(NP, ours(*rules), list(order))
        assert (codes(found), found.release, found.slices) == ([], "", len(slices))
    many = f"{len(slices)} slice" + ("" if len(slices) == 1 else "s")
    assert found.text == f"np: {many}, as the controller resolves it"


DRIFTS = {
    "nothing there": ([FROM_CLIENT], [], ["NO_ENDPOINT"]),
    "an entry is missing": ([FROM_CLIENT], [slice_()], ["MISSING"]),
    "an entry too many": ([], [slice_(C_ALL)], ["EXTRA"]),
    "another address": ([FROM_CLIENT], [slice_(entry("10.0.1.4"))], ["MISSING", "EXTRA"]),
    "other ports": ([FROM_CLIENT_HTTP], [slice_(entry("10.0.1.3", pe_port(81)))], ["PORTS"]),
    "all ports where one is meant": ([FROM_CLIENT_HTTP], [slice_(C_ALL)], ["PORTS"]),
    "one port where all are meant": ([FROM_CLIENT], [slice_(C_HTTP)], ["PORTS"]),
    "a range cut off": ([{"from": [CLIENTS], "ports": [{"port": 80, "endPort": 90}]}], [slice_(C_HTTP)], ["PORTS"]),
    "another protocol": ([FROM_CLIENT_HTTP], [slice_(entry("10.0.1.3", pe_port(80, protocol="UDP")))], ["PORTS"]),
    "other excepts": (
        [{"from": [BLOCK]}],
        [slice_(entry("10.0.0.0/8", excepts=["10.2.0.0/16"]))],
        ["MISSING", "EXTRA"],
    ),
    "no excepts": ([{"from": [BLOCK]}], [slice_(entry("10.0.0.0/8"))], ["MISSING", "EXTRA"]),
    "a pod is not listed": ([], [slice_(pods=[WEB_1])], ["PODS_MISSING"]),
    "a pod too many": ([], [slice_(pods=[WEB_1, WEB_2, CLIENT])], ["PODS_EXTRA"]),
    "a pod instead of another": ([], [slice_(pods=[WEB_1, CLIENT])], ["PODS_MISSING", "PODS_EXTRA"]),
    "the isolation of before": ([], [slice_(isolation=("Ingress", "Egress"))], ["ISOLATION"]),
    "no isolation": ([], [slice_(isolation=())], ["ISOLATION"]),
    "the isolation of one slice of several": ([], [slice_(), slice_(suffix="2", isolation=("Egress",))], ["ISOLATION"]),
    "the selector of before": ([], [slice_(selector={"matchLabels": {"app": "api"}})], ["SELECTOR"]),
    "the selector of one slice of several": ([], [slice_(), slice_(suffix="2", selector={})], ["SELECTOR"]),
    "the isolation of all slices, said once": (
        [],
        [slice_(isolation=()), slice_(suffix="2", isolation=())],
        ["ISOLATION"],
    ),
    "the selector of all slices, said once": (
        [],
        [slice_(selector={}), slice_(suffix="2", selector={})],
        ["SELECTOR"],
    ),
    "one entry is right and another missing": ([FROM_CLIENT, OTHER], [slice_(C_ALL)], ["MISSING"]),
    "all at once": (
        [FROM_CLIENT],
        [slice_(entry("10.0.1.9"), pods=[CLIENT], isolation=(), selector={})],
        ["MISSING", "EXTRA", "PODS_MISSING", "PODS_EXTRA", "ISOLATION", "SELECTOR"],
    ),
}


@pytest.mark.parametrize(("rules", "slices", "expected"), DRIFTS.values(), ids=DRIFTS)
def test_drifts(rules, slices, expected):
    for order in itertools.permutations(slices):
        found = compare(NP, ours(*rules), list(order))
        assert (codes(found), found.release) == (expected, "")


def test_slices_of_other_policies_and_namespaces_do_not_count():
    others = [endpoint("other", pods=[WEB_1]), endpoint("np", namespace="team-b", pods=[FAR])]
    assert codes(compare(NP, ours(), others)) == ["NO_ENDPOINT"]
    assert codes(compare(NP, ours(), [slice_(), *others])) == []


def test_egress_is_compared_too():
    made = policy("np", selects=WEB, egress=[{"to": [CLIENTS]}], types=["Egress"])
    right = endpoint("np", pods=[WEB_1, WEB_2], egress=[C_ALL], isolation=("Egress",))
    assert codes(compare(NP, made, [right])) == []
    wrong = endpoint("np", pods=[WEB_1, WEB_2], egress=[C_HTTP], ingress=[C_ALL], isolation=("Egress",))
    found = compare(NP, made, [wrong])
    assert [(drift.code, drift.text.partition(" ")[0]) for drift in found.drifts] == [
        ("EXTRA", "1"),
        ("PORTS", "egress:"),
    ]


def test_host_network_and_finished_pods_are_not_to_be_listed():
    """6.3: controllers before 1.1.2 listed the former, those before 1.0.18 the latter."""
    edge = pod("edge", NODE_IP, labels=WEB, host_network=True)
    done = pod("done", "10.0.1.8", labels=WEB, phase="Succeeded")
    both = {"pods": [*CLUSTER["pods"], edge, done]}
    assert codes(compare(NP, ours(), [slice_()], **both)) == []
    found = compare(NP, ours(), [slice_(pods=[WEB_1, WEB_2, edge, done])], **both)
    assert found.drifts[0].pods == {("default", "edge"), ("default", "done")}


# ---- what is said


def test_sentences():
    found = compare(NP, ours(), [])
    assert found.text == "np: 0 slices: the controller has made no PolicyEndpoint of it"
    rules = [{"from": [{"ipBlock": {"cidr": f"192.0.2.{number}/32"}}]} for number in range(1, 6)]
    found = compare(NP, ours(*rules), [slice_()])
    assert found.text == (
        "np: 1 slice: 5 ingress entries are missing: 192.0.2.1 on all ports, 192.0.2.2 on all ports, "
        "192.0.2.3 on all ports and 2 more"
    )
    assert compare(NP, ours(*rules[:3]), [slice_()]).text.endswith(
        ": 192.0.2.1 on all ports, 192.0.2.2 on all ports, 192.0.2.3 on all ports"
    )
    found = compare(NP, ours({"from": [BLOCK], "ports": HTTP}), [slice_(C_ALL)])
    assert [drift.text for drift in found.drifts] == [
        "1 ingress entry is missing: 10.0.0.0/8 except 10.1.0.0/16 on 80/TCP",
        "1 ingress entry is there that no rule means now: 10.0.1.3 on all ports",
    ]
    found = compare(NP, ours(FROM_CLIENT_HTTP), [slice_(entry("10.0.1.3", pe_port(81), pe_port(protocol="UDP")))])
    assert found.drifts[0].text == "ingress: 10.0.1.3 allows 81/TCP, all UDP ports where the policy means 80/TCP"
    found = compare(NP, ours(), [slice_(pods=[CLIENT], isolation=("Egress", "Ingress"), selector={})])
    assert [drift.text for drift in found.drifts] == [
        "2 selected pods are not listed: default/web-1, default/web-2",
        "1 pod is listed that the policy does not select: default/client",
        "np-1 has podIsolation [Egress, Ingress], the policy has policyTypes [Ingress]",
        "np-1 still has the podSelector of an earlier state of the policy",
    ]
    assert found.drifts[0].pods == {("default", "web-1"), ("default", "web-2")}
    assert found.drifts[1].pods == {("default", "client")}


def test_names_of_other_kinds():
    assert compare(ANP, policy("app"), []).name == "ApplicationNetworkPolicy app"
    made = cnp(ingress=[rule("Deny", pods(WEB))])
    found = compare(CNP, made, [cluster_endpoint(pods=CLUSTER["pods"], ingress=[acts("Deny", "10.0.1.1")])])
    assert found.text == (
        "ClusterNetworkPolicy guard: 1 slice: 2 ingress entries are missing: "
        "Deny 10.0.1.2 on all ports, Deny 10.0.2.1 on all ports"
    )


# ---- releases (agent facts 6.5, 6.6)

NARROW = "as controllers 1.0.7 to 1.1.2 merge: all ports of a prefix give way to the ports of another rule"
OLDER = {
    "narrowed": ([FROM_CLIENT, FROM_CLIENT_HTTP], [slice_(C_HTTP)], [], NARROW),
    "narrowed in one prefix of two": (
        [FROM_CLIENT, FROM_CLIENT_HTTP, OTHER, {**OTHER, "ports": HTTP}],
        [slice_(C_HTTP, entry("192.0.2.0/24"))],
        [],
        NARROW,
    ),
    "narrowed, and something else is wrong": (
        [FROM_CLIENT, FROM_CLIENT_HTTP, OTHER],
        [slice_(C_HTTP)],
        ["MISSING"],
        NARROW,
    ),
    "excepts joined": (
        [{"from": [BLOCK]}, {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": HTTP}],
        [slice_(entry("10.0.0.0/8", pe_port(80), excepts=["10.1.0.0/16"]))],
        [],
        NARROW,
    ),
    "not narrowed": ([FROM_CLIENT, FROM_CLIENT_HTTP], [slice_(C_ALL)], [], ""),
    "neither": ([FROM_CLIENT, FROM_CLIENT_HTTP], [slice_(entry("10.0.1.3", pe_port(81)))], ["PORTS"], ""),
}


@pytest.mark.parametrize(("rules", "slices", "expected", "release"), OLDER.values(), ids=OLDER)
def test_what_an_older_controller_makes_of_a_network_policy(rules, slices, expected, release):
    found = compare(NP, ours(*rules), slices)
    assert (codes(found), found.release) == (expected, release)
    assert found.text.endswith(f"({release})" if release else found.text)


def test_application_policies_are_never_narrowed():
    """Up to 1.1.7 entries with other ports stay apart, then they are merged as a NetworkPolicy's."""
    made = ours(FROM_CLIENT, FROM_CLIENT_HTTP, types=["Ingress"])
    assert codes(compare(ANP, made, [slice_(C_ALL, C_HTTP)])) == []
    assert codes(compare(ANP, made, [slice_(C_ALL)])) == []
    assert codes(compare(ANP, made, [slice_(C_HTTP)])) == ["PORTS"]


def test_isolation_of_an_application_policy_is_not_defaulted():
    assert codes(compare(ANP, ours(), [slice_(isolation=())])) == []
    assert codes(compare(ANP, ours(), [slice_()])) == ["ISOLATION"]


SUBJECT = pods(WEB, {"team": "b"})
NOWHERE, CLIENT_PODS = {"namespaces": match(x="y")}, pods({"app": "client"})
D_ALL, D_HTTP = acts("Deny", "10.0.1.3"), acts("Deny", "10.0.1.3", pe_port(80))
LOST = "as controllers up to 1.1.7 resolve it: a rule whose first peer means no namespace is lost as a whole"


def deny(*peers, **more):
    return rule("Deny", *(peers or (CLIENT_PODS,)), **more)


CLUSTER_POLICIES = {
    "equal": ([deny(ports=[number(80)])], [D_HTTP], [], ""),
    "narrowed": ([deny(), deny(ports=[number(80)])], [D_HTTP], [], ""),
    "in two slices, so not narrowed": ([deny(), deny(ports=[number(80)])], [D_ALL], [], ""),
    "by action": (
        [deny(), rule("Accept", CLIENT_PODS, ports=[number(80)])],
        [D_ALL, acts("Accept", "10.0.1.3", pe_port(80))],
        [],
        "",
    ),
    "another action": ([deny()], [acts("Accept", "10.0.1.3")], ["MISSING", "EXTRA"], ""),
    "duplicates but for endPort: the first": (
        [deny(ports=[span(80, 90)]), deny(ports=[number(80)])],
        [acts("Deny", "10.0.1.3", pe_port(80, 90))],
        [],
        "",
    ),
    "duplicates but for endPort: not both": (
        [deny(ports=[span(80, 90)]), deny(ports=[number(80)])],
        [acts("Deny", "10.0.1.3", pe_port(80, 90), pe_port(80))],
        ["PORTS"],
        "",
    ),
    "6.6 from[0] means no namespace, and the rest is there": ([deny(NOWHERE, CLIENT_PODS)], [D_ALL], [], ""),
    "6.6 from[0] means no namespace, and the rest is lost": ([deny(NOWHERE, CLIENT_PODS)], [], [], LOST),
    "6.6 the rest of another rule is not": ([deny(NOWHERE, CLIENT_PODS), deny(ports=[number(80)])], [D_HTTP], [], ""),
    "6.6 lost, and another rule is missing": ([deny(NOWHERE, pods(WEB)), deny()], [], ["MISSING"], LOST),
    "6.6 lost, and the rest is narrowed": (
        [deny(NOWHERE, CLIENT_PODS, ports=[number(81)]), deny(), deny(ports=[number(80)])],
        [D_HTTP],
        [],
        LOST,
    ),
    "a rule without peers means nobody": ([deny(ports=[number(80)]), rule("Deny")], [], ["MISSING"], ""),
    "6.6 from[1] means no namespace": ([deny(CLIENT_PODS, NOWHERE)], [], ["MISSING"], ""),
}


@pytest.mark.parametrize(("rules", "elements", "expected", "release"), CLUSTER_POLICIES.values(), ids=CLUSTER_POLICIES)
def test_cluster_policies(rules, elements, expected, release):
    found = compare(CNP, cnp(subject=SUBJECT, ingress=rules), [cluster_endpoint(pods=[FAR], ingress=elements)])
    assert (codes(found), found.release) == (expected, release)


def test_egress_rules_of_cluster_policies_are_not_lost_with_their_first_peer():
    """6.6 speaks of ingress rules only."""
    made = cnp(subject=SUBJECT, egress=[to("Deny", NOWHERE, CLIENT_PODS)])
    found = compare(CNP, made, [cluster_endpoint(pods=[FAR])])
    assert (codes(found), found.release) == (["MISSING"], "")


def test_pods_of_cluster_policies_are_compared_and_isolation_and_selector_are_not():
    made = cnp(subject=SUBJECT)
    wrong = cluster_endpoint(pods=[WEB_1])
    wrong["spec"] |= {"podIsolation": ["Ingress"], "podSelector": {"matchLabels": {"x": "y"}}}
    assert codes(compare(CNP, made, [wrong])) == ["PODS_MISSING", "PODS_EXTRA"]
    assert codes(compare(CNP, made, [])) == ["NO_ENDPOINT"]


def test_network_and_application_policies_of_one_name_fight():
    """6.6: whatever else differs follows from that, so it is said first."""
    other = {**policy("np", ingress=[OTHER]), "kind": ANP}
    found = compare(NP, ours(FROM_CLIENT), [slice_(entry("192.0.2.0/24"))], applicationnetworkpolicies=[other])
    assert codes(found) == ["SAME_NAME", "MISSING", "EXTRA"]
    assert found.drifts[0].text == (
        "ApplicationNetworkPolicy np has the same name: the controller makes the PolicyEndpoints now from one and now "
        "from the other"
    )
    found = compare(ANP, ours(FROM_CLIENT, types=["Ingress"]), [slice_(C_ALL)], networkpolicies=[policy("np")])
    assert [drift.text.partition(" has")[0] for drift in found.drifts] == ["NetworkPolicy np"]


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        (NP, {"applicationnetworkpolicies": [policy("np", namespace="team-b"), policy("other")]}),
        (NP, {"clusternetworkpolicies": [cnp("np")]}),
        (ANP, {"networkpolicies": [policy("np", namespace="team-b")]}),
    ],
    ids=["another namespace or name", "a cluster policy", "another namespace"],
)
def test_policies_that_do_not_share_a_name(kind, other):
    assert codes(compare(kind, ours(FROM_CLIENT, types=["Ingress"]), [slice_(C_ALL)], **other)) == []


# ---- any split into slices gives the same answer


def split(made, seed):
    """The same content in up to four slices: pods, ingress and egress each anywhere."""
    chance = random.Random(seed)
    keys = ("podSelectorEndpoints", "ingress", "egress")
    parts = [{**made["spec"], **{key: [] for key in keys}} for _ in range(chance.randint(1, 4))]
    for key in keys:
        for one in made["spec"][key]:
            chance.choice(parts)[key].append(one)
    chance.shuffle(parts)
    return [
        {"metadata": {**made["metadata"], "name": f"np-{number}"}, "spec": spec} for number, spec in enumerate(parts)
    ]


RULES = [
    {"from": [{"podSelector": {}}], "ports": HTTP},
    {"from": [{"namespaceSelector": {}}], "ports": [{"port": 81}, {"protocol": "UDP"}]},
    {"from": [BLOCK, {"ipBlock": {"cidr": "192.0.2.0/24"}}]},
    FROM_CLIENT,
]


@given(seed=st.integers(0, 2**32))
def test_any_split_into_slices_is_the_same(seed):
    made = ours(*RULES, egress=[{"to": [{"podSelector": {}}]}, {}], types=["Ingress", "Egress"])
    cluster, known = with_policy(NP, made, **CLUSTER)
    whole = modelled.endpoint_of(controller.resolution(known, cluster))
    assert codes(compare(NP, made, split(whole, seed))) == []
    whole["spec"]["ingress"].pop()
    whole["spec"]["podSelectorEndpoints"].pop()
    assert codes(compare(NP, made, split(whole, seed))) == ["MISSING", "PODS_MISSING"]
