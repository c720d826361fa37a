"""Five verdicts of one leg, who differs first, and which of the article's three causes that is."""

from __future__ import annotations

import pytest

from kubectl_netpol.diagnose.layers import Cause, judge, node_views
from kubectl_netpol.diagnose.plan import Question, make_plan
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.model.verdict import Layer, chain_text
from kubectl_netpol.policy.world import World
from tests.unit.builders import (
    ACCESS_ENDPOINT,
    ACCESS_FALSE,
    ACCESS_MAP,
    ACCESS_NGINX,
    ACCESS_TRUE,
    ANY,
    APPLIED,
    DEFAULT_ALLOW,
    NGINX,
    NODE,
    article,
    ct_key,
    endpoint,
    entry,
    link,
    map_row,
    meta,
    pod,
    pod_document,
    policy,
    program,
    route,
    service,
    service_port,
    tc_filter,
)

OPEN = {"0.0.0.0/0": [ANY]}
CLOSED = {"10.0.0.1/32": [ANY]}
NGINX_IP, TRUE_IP, FALSE_IP = (p["status"]["podIP"] for p in (NGINX, ACCESS_TRUE, ACCESS_FALSE))


def leg(snapshot: Snapshot, source="accesstrue", index=0, **more):
    """The ingress leg of nginx, or another one of the same question."""
    world = World(snapshot)
    asked = more or {"source": source, "port": "80"}
    plan = make_plan(Question(more.pop("pod", "nginx"), **asked), "default", world)
    return judge(plan.legs[index], world, node_views(snapshot))


def words(found) -> str:
    return " ".join(v.word for v in found.verdicts)


def between(found):
    return tuple(str(layer) for layer in found.break_between) if found.break_between else None


RULES = pod_document(NGINX, ingress=ACCESS_MAP)
ENDPOINT_ALL = endpoint("access-nginx", pods=[NGINX], ingress=[entry("0.0.0.0/0")])
ENDPOINT_NONE = endpoint("access-nginx", pods=[NGINX])


def stale(attached, pinned=ACCESS_MAP):
    """The filter still runs an old program with a map of its own."""
    doc = pod_document(NGINX, ingress=pinned)
    old = pod_document(NGINX, ingress=attached)
    rules = next(m for m in old["maps"] if m["id"] == 101)
    return {
        **doc,
        "filters": [tc_filter(7, "egress", "handle_ingress", 500), *doc["filters"][1:]],
        "programs": [*doc["programs"], program(500, [501, 102, 103, 21, 22])],
        "maps": [*doc["maps"], {**rules, "id": 501}],
    }


@pytest.mark.parametrize(
    ("source", "doc", "objects", "expected", "cause", "differ"),
    [
        ("accesstrue", RULES, {}, "ALLOW ALLOW ALLOW ALLOW ALLOW -", Cause.NONE, None),
        ("accessfalse", RULES, {}, "DENY DENY DROP DROP DROP -", Cause.SELECTOR, None),
        (
            "accessfalse",
            pod_document(NGINX, ingress=OPEN),
            {"policyendpoints": [ENDPOINT_ALL]},
            "DENY ALLOW ALLOW ALLOW ALLOW -",
            Cause.RESOLUTION,
            ("INTENT", "ENDPOINTS"),
        ),
        (
            "accesstrue",
            pod_document(NGINX, ingress=CLOSED),
            {"policyendpoints": [ENDPOINT_NONE]},
            "ALLOW DENY DROP DROP DROP -",
            Cause.RESOLUTION,
            ("INTENT", "ENDPOINTS"),
        ),
        (
            "accesstrue",
            pod_document(NGINX, ingress=CLOSED),
            {},
            "ALLOW ALLOW ALLOW DROP DROP -",
            Cause.KERNEL,
            ("EXPECTED", "PINNED"),
        ),
        ("accesstrue", stale(CLOSED), {}, "ALLOW ALLOW ALLOW ALLOW DROP -", Cause.KERNEL, ("PINNED", "ATTACHED")),
        ("accessfalse", stale(OPEN), {}, "DENY DENY DROP DROP ALLOW -", Cause.KERNEL, ("PINNED", "ATTACHED")),
        (
            "accessfalse",
            {**RULES, "filters": []},
            {},
            "DENY DENY DROP DROP ALLOW -",
            Cause.KERNEL,
            ("PINNED", "ATTACHED"),
        ),
        (
            "accessfalse",
            {**RULES, "filters": [], "programs": [], "maps": [], "pins": []},
            {},
            "DENY DENY DROP - ALLOW -",
            Cause.KERNEL,
            ("EXPECTED", "ATTACHED"),
        ),
        ("accesstrue", {**RULES, "pins": []}, {}, "ALLOW ALLOW ALLOW - ALLOW -", Cause.NONE, None),
        (
            "accesstrue",
            {**RULES, "links": [], "routes": []},
            {},
            "ALLOW ALLOW ALLOW ALLOW UNKNOWN UNKNOWN",
            Cause.UNKNOWN,
            None,
        ),
        (
            "accesstrue",
            {**RULES, "filters": None},
            {},
            "ALLOW ALLOW ALLOW ALLOW UNKNOWN UNKNOWN",
            Cause.UNKNOWN,
            None,
        ),
        (
            "accesstrue",
            {**RULES, "pins": None},
            {},
            "ALLOW ALLOW ALLOW UNKNOWN ALLOW -",
            Cause.NONE,
            None,
        ),
        (
            "accessfalse",
            RULES,
            {"networkpolicies": Collection(reason="forbidden")},
            "UNKNOWN DENY DROP DROP DROP -",
            Cause.UNKNOWN,
            None,
        ),
        (
            "accesstrue",
            pod_document(NGINX, ingress=CLOSED),
            {"policyendpoints": Collection(reason="forbidden")},
            "ALLOW UNKNOWN UNKNOWN DROP DROP -",
            Cause.UNKNOWN,
            ("INTENT", "PINNED"),
        ),
        (
            "accessfalse",
            RULES,
            {"policyendpoints": Collection(reason="forbidden")},
            "DENY UNKNOWN UNKNOWN DROP DROP -",
            Cause.SELECTOR,
            None,
        ),
        (
            "accessfalse",
            pod_document(NGINX, ingress={}, states={}),
            {},
            "DENY DENY DROP DROP DROP -",
            Cause.SELECTOR,
            None,
        ),
    ],
    ids=[
        "all-allow",
        "all-deny",
        "resolved-too-much",
        "resolved-too-little",
        "map-lacks-it",
        "old-program-drops",
        "old-program-lets-through",
        "no-filter",
        "nothing-on-the-node",
        "no-pins",
        "no-veth",
        "filters-unread",
        "pins-unread",
        "policies-unread",
        "endpoints-unread",
        "endpoints-unread-deny",
        "no-pod-state",
    ],
)
def test_who_differs_first(source, doc, objects, expected, cause, differ):
    found = leg(article(doc, **objects), source)
    assert words(found) == expected
    assert (found.cause, between(found)) == (cause, differ)
    assert found.decision is found.verdict(Layer.ATTACHED).decision


def test_a_node_that_was_not_read_is_unknown_with_its_reason():
    full = article()
    unread = Snapshot(full.collections, {NODE: NodeReading(None, "ImagePullBackOff")})
    found = leg(unread)
    assert words(found) == "ALLOW ALLOW ALLOW UNKNOWN UNKNOWN UNKNOWN"
    assert found.decided_by.why == "ImagePullBackOff"
    assert leg(Snapshot(full.collections)).decided_by.why == f"node {NODE} was not read"


def test_the_attached_verdict_names_hook_filter_program_and_a_pin_that_is_another():
    evidence = leg(article(stale(CLOSED))).decided_by.evidence
    assert evidence[0].startswith("tc egress hook of eni9c515deae49: filter handle_ingress runs program 500, but")
    assert "the pin is program 432" in evidence[0]


def test_what_a_foreign_filter_does_alone_is_not_known():
    doc = {**RULES, "filters": [tc_filter(7, "egress", "cil_to_container", 9)]}
    found = leg(article(doc)).decided_by
    assert (found.decision.value, found.code) == ("unknown", "FOREIGN_ONLY")
    assert "filter pref 1 bpf cil_to_container program 9" in found.why


def test_unread_tcx_programs_are_said():
    """tc does not show them, and they run first."""
    unread = {"tcx": None, "errors": [{"what": "tcx", "error": "tc does not show them"}]}
    found = leg(article({**RULES, **unread})).decided_by
    assert found.decision.value == "allow"
    assert "what runs before tc filters was not read (tcx: tc does not show them)" in found.evidence[-1]
    without = leg(article({**RULES, **unread, "filters": []})).decided_by
    assert (without.decision.value, without.code) == ("allow", "NO_FILTER")
    assert "what runs before tc filters was not read" in without.evidence[-1]


def test_the_host_network_has_no_kernel_part():
    host = pod("nginx", "10.0.0.1", labels={"app": "nginx"}, host_network=True)
    found = leg(article(pods=[host, ACCESS_TRUE]))
    assert words(found) == "ALLOW ALLOW - - ALLOW -"
    assert found.decided_by.code == "HOST_NETWORK"


# ---- conntrack


def conntrack(value, states=None, source=TRUE_IP, port=80):
    key = ct_key(source, 4000, NGINX_IP, port, NGINX_IP, 7)
    return pod_document(NGINX, ingress=ACCESS_MAP, conntrack=[(key, value)], states=states)


@pytest.mark.parametrize(
    ("doc", "source", "word", "code"),
    [
        (conntrack(5), "accesstrue", "ALLOW", "ESTABLISHED"),
        (conntrack(5, source=FALSE_IP), "accessfalse", "ALLOW", "ESTABLISHED"),
        (conntrack(5), "accessfalse", "-", "NO_ENTRY"),
        (conntrack(5, port=81), "accesstrue", "-", "NO_ENTRY"),
        (conntrack(2), "accesstrue", "-", "OTHER_STATES"),
        (conntrack(2, {0: DEFAULT_ALLOW, 1: DEFAULT_ALLOW}), "accesstrue", "ALLOW", "ESTABLISHED"),
        (conntrack(7, {0: APPLIED, 1: APPLIED}), "accesstrue", "ALLOW", "ESTABLISHED"),
        (conntrack(2, {}), "accesstrue", "-", "NOT_ASKED"),
        ({**RULES, "maps": [m for m in RULES["maps"] if m["id"] != 21]}, "accesstrue", "UNKNOWN", "NO_TABLE"),
        ({**RULES, "maps": [*RULES["maps"][1:], map_row(21, 9, 24, 1, None)]}, "accesstrue", "UNKNOWN", "NOT_READ"),
    ],
    ids=[
        "same",
        "denied-peer",
        "other-peer",
        "other-port",
        "made-under-other-states",
        "made-under-default-allow",
        "applied-applied",
        "states-missing",
        "map-gone",
        "contents-unread",
    ],
)
def test_established_flows(doc, source, word, code):
    found = leg(article(doc), source)
    assert (found.verdicts[5].word, found.verdicts[5].code) == (word, code)


def test_an_entry_is_not_said_to_be_missing_where_it_cannot_be_judged():
    doc = conntrack(5)
    unread = [map_row(103, 1, 4, 1, None) if m["id"] == 103 else m for m in doc["maps"]]
    plan = make_plan(
        Question("pod/nginx", source="accesstrue", port="80", source_port=4000), "default", World(article(doc))
    )
    for changed in (
        {"maps": unread},
        {"maps": [map_row(101, 11, 8, 400) if m["id"] == 101 else m for m in doc["maps"]]},
    ):
        snapshot = article({**doc, **changed})
        found = judge(plan.legs[0], World(snapshot), node_views(snapshot))
        assert (found.verdicts[5].word, found.verdicts[5].code) == ("UNKNOWN", "NOT_READ")
        assert found.decision.value == "unknown"


def test_conntrack_does_not_change_the_verdict_for_a_new_flow():
    found = leg(article(conntrack(5, source=FALSE_IP)), "accessfalse")
    assert (found.decision.value, found.cause) == ("deny", Cause.SELECTOR)


# ---- policies of other kinds, Services


DENY_TRUE = {
    "metadata": meta("no-true"),
    "spec": {
        "tier": "Admin",
        "priority": 5,
        "subject": {"namespaces": {}},
        "ingress": [
            {
                "name": "no",
                "action": "Deny",
                "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"access": "true"}}}}],
            }
        ],
    },
}
DENY_ENDPOINT = endpoint("no-true", namespace="", pods=[NGINX], ingress=[{**entry(TRUE_IP), "action": "Deny"}])
DENY_ENDPOINT["spec"] |= {"tier": "Admin", "priority": 5}


@pytest.mark.parametrize(
    ("objects", "expected", "cause"),
    [
        ({"clusternetworkpolicies": [{"metadata": meta("cnp")}]}, "ALLOW ALLOW ALLOW ALLOW ALLOW -", Cause.NONE),
        ({"clusternetworkpolicies": [DENY_TRUE]}, "DENY ALLOW ALLOW ALLOW ALLOW -", Cause.RESOLUTION),
        ({"clusterpolicyendpoints": [DENY_ENDPOINT]}, "ALLOW DENY DROP ALLOW ALLOW -", Cause.RESOLUTION),
        (
            {"clusternetworkpolicies": [DENY_TRUE], "clusterpolicyendpoints": [DENY_ENDPOINT]},
            "DENY DENY DROP ALLOW ALLOW -",
            Cause.KERNEL,
        ),
    ],
    ids=["nobody", "not-resolved", "stale", "not-written"],
)
def test_cluster_policies_are_evaluated(objects, expected, cause):
    found = leg(article(**objects))
    assert (words(found), found.cause) == (expected, cause)
    assert "NOT_RESOLVED_YET" in {one.code for one in found.deviations} or found.cause is not Cause.RESOLUTION


def test_the_chain_of_tiers_is_told():
    found = leg(article(clusternetworkpolicies=[DENY_TRUE], clusterpolicyendpoints=[DENY_ENDPOINT]))
    assert chain_text(found.verdict(Layer.INTENT).chain) == 'Admin: Deny by no-true (priority 5) spec.ingress[0] "no"'
    assert found.verdict(Layer.ENDPOINTS).chain[0].outcome == "Deny"


@pytest.mark.parametrize("kind", ["default", "other"])
def test_an_application_policy_isolates_in_its_own_namespace(kind):
    item = {"metadata": meta("anp", kind), "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}
    found = leg(article(networkpolicies=[], policyendpoints=[], applicationnetworkpolicies=[item]))
    assert words(found).startswith("DENY ALLOW" if kind == "default" else "ALLOW ALLOW")


def test_the_intent_of_a_service_is_that_of_all_its_pods():
    """The policy admits accesstrue to one of the two pods behind the Service only."""
    second = pod("nginx-2", "10.0.4.6", labels={"app": "nginx", "v": "2"})
    strict = {**ACCESS_NGINX, "spec": {"podSelector": {"matchLabels": {"v": "2"}}, "policyTypes": ["Ingress"]}}
    strict["metadata"] = meta("strict", "default")
    egress = {
        "metadata": meta("out", "default"),
        "spec": {
            "podSelector": {"matchLabels": {"access": "true"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"v": "2"}}}]}],
        },
    }
    found = leg(
        article(
            pods=[NGINX, second, ACCESS_TRUE],
            networkpolicies=[ACCESS_NGINX, strict, egress],
            policyendpoints=[ACCESS_ENDPOINT],
            services=[service("nginx", "10.100.0.1", selector={"app": "nginx"}, ports=[service_port(80)])],
        ),
        pod="accesstrue",
        destination="svc/nginx",
        port="80",
    )
    intent = found.verdicts[0]
    assert intent.word == "DENY"
    assert intent.why.startswith("1 of 2 pods behind default/nginx are allowed: out isolates default/accesstrue")


def test_the_program_of_the_other_direction_leaves_the_verdict_open():
    swapped = [{**f, "program_id": 433} if f["name"] == "handle_ingress" else f for f in RULES["filters"]]
    found = leg(article({**RULES, "filters": swapped})).decided_by
    assert (found.decision.value, found.code) == ("unknown", "OTHER_DIRECTION")


def test_a_route_to_another_link_leaves_the_verdict_open():
    doc = {**RULES, "links": [*RULES["links"], link("other", 8)], "routes": [route(NGINX_IP, 8)]}
    found = leg(article(doc)).decided_by
    assert (found.decision.value, found.code) == ("unknown", "VETH_DISPUTED")
    assert f"the route to {NGINX_IP} goes to other" in found.why


BLOCK = {"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.96.0/24"]}}
TWO = {
    "networkpolicies": [
        policy("wide", selects={"app": "nginx"}, ingress=[{"from": [BLOCK]}]),
        policy("wider", selects={"app": "nginx"}, ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]),
    ],
    "policyendpoints": [
        endpoint("wide", pods=[NGINX], ingress=[entry("10.0.0.0/16", excepts=["10.0.96.0/24"])]),
        endpoint("wider", pods=[NGINX], ingress=[entry("10.0.0.0/8")]),
    ],
}
WIDE_MAP = {"10.0.0.0/8": [ANY], "10.0.0.0/16": [ANY], "10.0.0.1/32": [ANY]}


@pytest.mark.parametrize(
    ("held", "expected", "differ", "by_rule"),
    [
        (
            {**WIDE_MAP, "10.0.96.0/24": [(255, 0, 0)]},
            "ALLOW ALLOW DROP DROP DROP -",
            ("ENDPOINTS", "EXPECTED"),
            ["EXCEPT_WINS"],
        ),
        (WIDE_MAP, "ALLOW ALLOW DROP ALLOW ALLOW -", ("EXPECTED", "PINNED"), []),
    ],
    ids=["by rule alone", "and the except was not written"],
)
def test_what_is_broken_is_told_before_what_differs_by_rule(held, expected, differ, by_rule):
    found = leg(article(pod_document(NGINX, ingress=held), **TWO), "accessfalse")
    assert (words(found), found.cause, between(found)) == (expected, Cause.KERNEL, differ)
    assert [one.code for one in found.by_rule] == by_rule
    assert [one.code for one in found.deviations] == ["EXCEPT_WINS"]
