"""The answer of `explain`, for flows and for whole pods."""

from __future__ import annotations

import copy

import pytest

from kubectl_netpol.diagnose.explain import explain
from kubectl_netpol.diagnose.layers import Cause
from kubectl_netpol.diagnose.plan import Question, make_plan
from kubectl_netpol.kernel.identity import veth_names
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.model.verdict import Layer
from kubectl_netpol.policy.world import World
from kubectl_netpol.report import explain as report
from tests.lab import cni_objects
from tests.lab.agent import GENERATIONS
from tests.unit.builders import (
    ACCESS_ENDPOINT,
    ACCESS_MAP,
    ACCESS_NGINX,
    ACCESS_TRUE,
    ANY,
    APPLIED,
    DEFAULT_ALLOW,
    DEFAULT_DENY,
    NGINX,
    NODE,
    NODE_IP,
    TCP80,
    article,
    both_pods,
    clsact,
    endpoint,
    link,
    map_row,
    pe_port,
    pod,
    pod_document,
    policy,
    program,
    route,
    service,
    service_port,
    tc_filter,
)
from tests.unit.builders import entry as pe_entry

INGRESS = (Direction.INGRESS,)
EGRESS = (Direction.EGRESS,)


def ask(snapshot: Snapshot, name="nginx", **more):
    return explain(make_plan(Question(name, **more), "default", World(snapshot)), snapshot)


def flow(snapshot, source="accesstrue"):
    return ask(snapshot, source=source, port="80")


# ---- flows


GOOD = both_pods(pod_document(NGINX, ingress=ACCESS_MAP), ACCESS_TRUE, pod("accessfalse", "10.0.96.116"))


def test_an_allowed_flow():
    found = flow(article(GOOD))
    assert found.answer.startswith("ALLOW: default/accesstrue (10.0.1.218) -> default/nginx-f8d9c6576-8b4vf (10.0.4.5)")
    assert (found.decision.value, found.cause) == ("allow", Cause.NONE)
    assert found.next_step.startswith("policy does not stop this flow")


def test_the_denied_flow_of_the_article_names_the_rule_and_the_label():
    found = flow(article(GOOD), "accessfalse")
    assert found.answer.startswith(
        "DROP: default/accessfalse (10.0.96.116) -> default/nginx-f8d9c6576-8b4vf (10.0.4.5) 80/TCP"
    )
    assert "is dropped at the ingress of nginx-f8d9c6576-8b4vf" in found.answer
    assert found.cause is Cause.SELECTOR
    assert "allows pods with access=true; accessfalse has access=false" in found.next_step
    assert found.next_step.endswith("kubectl -n default edit networkpolicy access-nginx")


@pytest.mark.parametrize(
    ("objects", "rules", "source", "cause", "says"),
    [
        (
            {"policyendpoints": [endpoint("access-nginx", pods=[NGINX])]},
            {f"{NODE_IP}/32": [ANY]},
            "accesstrue",
            Cause.RESOLUTION,
            "get policyendpoints -o yaml",
        ),
        ({}, {f"{NODE_IP}/32": [ANY]}, "accesstrue", Cause.KERNEL, "kubectl netpol-ebpf maps nginx-f8d9c6576-8b4vf -n"),
        (
            {"networkpolicies": Collection(reason="forbidden")},
            ACCESS_MAP,
            "accessfalse",
            Cause.UNKNOWN,
            "no policy that was read says so",
        ),
    ],
)
def test_the_next_step_follows_from_the_cause(objects, rules, source, cause, says):
    doc = both_pods(pod_document(NGINX, ingress=rules), ACCESS_TRUE)
    found = flow(article(doc, **objects), source)
    assert (found.decision.value, found.cause) == ("deny", cause)
    assert says in found.next_step


NO_TC = {"filters": None, "errors": [{"what": "filters", "error": "no tc there"}]}
ODD_MAP = [map_row(102, 11, 8, 400) if m["id"] == 102 else m for m in GOOD["maps"]]


@pytest.mark.parametrize(
    ("sections", "of_flow", "of_pod"),
    [
        ({**NO_TC, "via": "agent"}, "with --via python", "with --via python"),
        ({**NO_TC, "via": "tools"}, "with --via python", "with --via python"),
        (NO_TC, "ask again: filters: no tc there", "ask again: filters: no tc there"),
        ({"maps": ODD_MAP}, "ask again with --ask-kernel", "map 102, LPM_TRIE of unknown layout"),
        (
            {"filters": [tc_filter(7, "egress", "other", 9, pref=0), *GOOD["filters"]]},
            "`bpftool prog show id ID`",
            "other program 9 runs first",
        ),
    ],
)
def test_the_next_step_of_an_unknown_says_what_would_settle_it(sections, of_flow, of_pod):
    snapshot = article({**GOOD, **sections})
    found = flow(snapshot)
    assert found.decision.value == "unknown"
    assert of_flow in found.next_step
    whole = ask(snapshot, directions=INGRESS)
    assert whole.decision.value == "unknown"
    assert of_pod in whole.next_step


def test_an_unread_node_leaves_the_flow_undecided():
    found = flow(Snapshot(article().collections, {NODE: NodeReading(None, "no image")}))
    assert found.decision.value == "unknown"
    assert found.answer.startswith("UNKNOWN: ")
    assert found.unread == (f"{NODE}: no image",)


def test_an_allowed_leg_and_a_dropped_one_are_a_dropped_flow():
    """The client's own egress policy drops it, whatever the receiver says."""
    deny = policy("no-egress", selects={"access": "true"}, types=["Egress"])
    client = pod_document(ACCESS_TRUE, egress={f"{NODE_IP}/32": [ANY]}, ifindex=9)
    slices = [ACCESS_ENDPOINT, endpoint("no-egress", pods=[ACCESS_TRUE], isolation=["Egress"])]
    # Two pods on two nodes, so that the ids of the two documents cannot meet.
    away = pod("accesstrue", "10.0.1.218", labels={"access": "true"}, node="node-b", host_ip="10.0.0.2")
    snapshot = article(pods=[NGINX, away], networkpolicies=[ACCESS_NGINX, deny], policyendpoints=slices)
    snapshot = Snapshot(snapshot.collections, {**snapshot.nodes, "node-b": NodeReading(client)})
    found = flow(snapshot)
    assert [leg.decision.value for leg in found.legs] == ["allow", "deny"]
    assert found.decision.value == "deny"
    assert "is dropped at the egress of accesstrue" in found.answer
    assert found.next_step.endswith("edit networkpolicy no-egress")


def test_a_service_is_dropped_when_one_of_its_pods_drops():
    second = pod("nginx-2", "10.0.4.6", labels={"app": "nginx"}, ports=[])
    offered = service("nginx", "10.100.0.1", selector={"app": "nginx"}, ports=[service_port(80)])
    found = ask(
        article(both_pods(GOOD, second), pods=[NGINX, second, pod("accessfalse", "10.0.96.116")], services=[offered]),
        "accessfalse",
        destination="svc/nginx",
    )
    assert [leg.decision.value for leg in found.legs] == ["allow", "deny", "allow"]
    assert "(and so at 1 of 2 pods behind the Service)" in found.answer
    assert found.next_step.endswith("edit networkpolicy access-nginx")


# ---- whole pods


def report_of(doc, directions=INGRESS, **objects):
    found = ask(article(doc, **objects), directions=directions)
    return found, found.directions[0]


def rules(ingress=None, states=None, **more):
    return pod_document(NGINX, ingress=ACCESS_MAP if ingress is None else ingress, states=states, **more)


UNSELECTED = {"networkpolicies": [], "policyendpoints": []}
NODE_ONLY = {f"{NODE_IP}/32": [ANY]}


@pytest.mark.parametrize(
    ("doc", "directions", "objects", "agrees", "summary"),
    [
        (rules(), INGRESS, {}, True, "ingress is restricted by access-nginx, and the kernel agrees"),
        (rules(), EGRESS, {}, True, "egress is not restricted by any NetworkPolicy, and the kernel agrees"),
        (rules(NODE_ONLY), INGRESS, {}, False, "but 1 of 2 entries differ: see STATUS"),
        ({**rules(), "filters": []}, INGRESS, {}, False, "but no handle_ingress filter is attached"),
        ({**rules(), "filters": []}, EGRESS, {}, False, "nothing is filtered, and replies to what passes here are not"),
        ({**rules(), "filters": None}, INGRESS, {}, None, "the kernel was not read"),
        ({**rules(), "links": [], "routes": []}, INGRESS, {}, None, "the kernel was not read: no link eni"),
        ({**rules(), "programs": rules()["programs"][1:]}, INGRESS, {}, None, "program 432 is gone"),
        (rules(states={}), INGRESS, {}, False, "the pod state is missing (key 0): the program drops"),
        (rules(states={0: APPLIED}), INGRESS, {}, False, "the pod state is missing (key 1)"),
        (rules(states={0: DEFAULT_ALLOW, 1: 1}), INGRESS, {}, False, "but the pod state is DEFAULT_ALLOW"),
        (rules(NODE_ONLY, {0: DEFAULT_ALLOW, 1: 1}), INGRESS, UNSELECTED, True, "and the kernel agrees"),
        (
            rules(NODE_ONLY, {0: DEFAULT_DENY, 1: 1}),
            INGRESS,
            UNSELECTED,
            None,
            "right where NETWORK_POLICY_ENFORCING_MODE is strict",
        ),
        (
            rules(NODE_ONLY),
            INGRESS,
            UNSELECTED,
            False,
            "but the pod state is POLICIES_APPLIED, and no entry of the map lets everybody through",
        ),
        # Agents >= 1.3.0 consult the map in DEFAULT_ALLOW too: what is left over there still decides.
        (
            rules({**NODE_ONLY, "10.0.9.9/32": [TCP80]}, {0: DEFAULT_ALLOW, 1: 1}),
            INGRESS,
            UNSELECTED,
            False,
            "but 1 of 2 entries differ",
        ),
        (
            rules(),
            INGRESS,
            {"policyendpoints": Collection(reason="forbidden")},
            None,
            "as far as the API could be read",
        ),
        (
            rules(),
            INGRESS,
            {"networkpolicies": Collection(reason="forbidden")},
            None,
            "as far as the API could be read",
        ),
        (
            {**rules(), "maps": [m if m["id"] != 101 else map_row(101, 11, 8, 288, None) for m in rules()["maps"]]},
            INGRESS,
            {},
            None,
            "its map could not be compared",
        ),
    ],
    ids=[
        "agrees",
        "other-direction",
        "entry-missing",
        "no-filter",
        "no-filter-unselected-direction",
        "filters-unread",
        "no-veth",
        "program-gone",
        "no-state",
        "no-cluster-state",
        "state-not-applied",
        "unselected",
        "strict",
        "closed-by-left-over-state",
        "left-over-entry",
        "endpoints-unread",
        "policies-unread",
        "map-unread",
    ],
)
def test_a_direction(doc, directions, objects, agrees, summary):
    found, side = report_of(doc, directions, **objects)
    assert side.agrees is agrees, side.summary
    assert summary in side.summary
    assert found.decision.value == {True: "allow", False: "deny", None: "unknown"}[agrees]


@pytest.mark.parametrize(
    ("state", "mode", "agrees", "summary"),
    [
        (DEFAULT_DENY, "strict", True, "and closed by the strict enforcing mode, and the kernel agrees"),
        (DEFAULT_DENY, "standard", False, "but the pod state is DEFAULT_DENY, and the enforcing mode is standard"),
        (DEFAULT_ALLOW, "strict", False, "but the pod state is DEFAULT_ALLOW, and the enforcing mode is strict"),
        (DEFAULT_ALLOW, "standard", True, "is not restricted by any NetworkPolicy, and the kernel agrees"),
    ],
)
def test_the_enforcing_mode_decides_about_a_pod_without_policies(state, mode, agrees, summary):
    settings = {"daemonsets": [cni_objects.daemonset(GENERATIONS["1.4.2"], mode=mode)]}
    found, side = report_of(rules(NODE_ONLY, {0: state, 1: 1}), INGRESS, **UNSELECTED, **settings)
    assert side.agrees is agrees, side.summary
    assert side.summary.endswith(summary)
    assert found.agrees is agrees
    # What a new flow meets, and whether that is a fault.
    one = flow(article(both_pods(rules(NODE_ONLY, {0: state, 1: 1}), ACCESS_TRUE), **UNSELECTED, **settings))
    assert one.decision.value == ("deny" if state == DEFAULT_DENY else "allow")
    ingress = next(leg for leg in one.legs if leg.direction.value == "ingress")
    by_rule = [rule.code for rule in ingress.by_rule]
    assert by_rule == (["STRICT_MODE"] if agrees and mode == "strict" else [])
    assert (ingress.break_between is None) is (mode == "standard" and agrees)


@pytest.mark.parametrize(("mode", "says"), [("strict", "DROP by the API objects alone"), ("standard", "ALLOW")])
def test_the_enforcing_mode_decides_by_the_api_alone(mode, says):
    settings = {"daemonsets": [cni_objects.daemonset(GENERATIONS["1.4.2"], mode=mode)]}
    snapshot = article(None, **UNSELECTED, **settings)
    question = Question("nginx", source="accesstrue", port="80", api_only=True)
    found = explain(make_plan(question, "default", World(snapshot)), snapshot)
    assert found.answer.startswith(says), found.answer
    assert "which mode it is was not read" not in found.answer
    assert "closed in it" in found.answer if mode == "strict" else "closed" not in found.answer
    unknown = article(None, **UNSELECTED)
    found = explain(make_plan(question, "default", World(unknown)), unknown)
    assert "which mode it is was not read" in found.answer


def test_an_old_program_that_is_still_attached():
    doc = rules()
    doc = {
        **doc,
        "filters": [tc_filter(7, "egress", "handle_ingress", 500), *doc["filters"][1:]],
        "programs": [*doc["programs"], program(500, [101, 102, 103, 21, 22])],
    }
    found, side = report_of(doc)
    assert side.agrees is False
    assert "the filter runs program 500, the pin programs/" in side.summary
    assert "is program 432: the agent updates maps that no packet meets" in side.summary
    assert found.cause is Cause.KERNEL


@pytest.mark.parametrize(
    ("slices", "cause", "says"),
    [
        ([endpoint("access-nginx", pods=[NGINX])], Cause.RESOLUTION, "get policyendpoints -o yaml"),
        (
            [endpoint("access-nginx", pods=[NGINX], ingress=[pe_entry("10.0.1.218", pe_port(80))])],
            Cause.RESOLUTION,
            "get policyendpoints -o yaml",
        ),
        ([ACCESS_ENDPOINT], Cause.KERNEL, "read the agent's log on node node-a"),
    ],
    ids=["not-resolved", "other-ports-resolved", "not-programmed"],
)
def test_the_cause_of_a_difference(slices, cause, says):
    found, _ = report_of(rules(NODE_ONLY), policyendpoints=slices)
    assert found.cause is cause
    assert says in found.next_step


def test_both_directions_are_the_default_and_one_bad_one_decides():
    found = ask(article(rules(NODE_ONLY)))
    assert [side.agrees for side in found.directions] == [False, True]
    assert found.decision.value == "deny"
    assert found.answer.startswith(f"default/nginx-f8d9c6576-8b4vf on node {NODE}: ingress is restricted by")


def test_the_host_network_is_not_filtered():
    host = pod("nginx-1", NODE_IP, labels={"app": "nginx"}, host_network=True)
    found = ask(article(pods=[host, ACCESS_TRUE]), "nginx-1", directions=INGRESS)
    assert (found.kernel, found.decision.value) == (None, "allow")
    assert found.directions[0].summary == "ingress is not filtered: the pod is on the host network"


def test_the_same_snapshot_gives_the_same_explanation():
    snapshot = article(GOOD)
    assert report.as_data(flow(snapshot)) == report.as_data(flow(snapshot))


# ---- the report


def test_the_text_of_a_flow_has_every_layer_and_the_next_step_last():
    lines = report.as_text(flow(article(GOOD), "accessfalse"), wide=False, with_headers=True).split("\n")
    for layer in ("INTENT", "ENDPOINTS", "EXPECTED", "PINNED", "ATTACHED", "CONNTRACK"):
        assert any(line.lstrip().startswith(layer) for line in lines)
    assert lines[0].startswith("DROP: ")
    assert lines[-1].startswith("Next: nothing is broken")
    assert any(line.startswith("Cause: selector: all layers") for line in lines)


def test_a_long_reason_stands_once_in_a_table():
    reason = "cannot look at the node: the right `get nodes` is missing, as the API server told in a long sentence"
    found = flow(Snapshot(article().collections, {NODE: NodeReading(None, reason)}))
    lines = [line.split() for line in report.as_text(found, wide=False, with_headers=True).split("\n")]
    rows = {
        words[0]: " ".join(words[1:]) for words in lines if words and words[0] in ("PINNED", "ATTACHED", "CONNTRACK")
    }
    assert rows == {"PINNED": f"UNKNOWN {reason}", "ATTACHED": "UNKNOWN as PINNED", "CONNTRACK": "UNKNOWN as PINNED"}
    layers = report.as_data(found)["legs"][0]["layers"]
    assert [one["why"] for one in layers[3:]] == [reason] * 3


def test_the_cause_does_not_claim_that_unread_layers_agree():
    snapshot = article(GOOD, policyendpoints=Collection(reason="forbidden"))
    text = report.as_text(flow(snapshot), wide=False, with_headers=True)
    assert "Cause: none: all layers that are known agree" in text


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("headers", [False, True])
def test_the_text_of_a_pod_has_headers_where_they_are_wanted(wide, headers):
    found = ask(article(GOOD))
    text = report.as_text(found, wide=wide, with_headers=headers)
    assert ("POLICYENDPOINT" in text) is headers
    assert ("PREFIX" in text) is (headers and wide)
    assert "pods access=true" in text
    assert found.next_step in text


def test_hostile_names_do_not_reach_the_terminal():
    """Whatever an object is called, no escape sequence comes out."""
    evil = "x\x1b[2J\u202e"
    made = policy("p", selects={"app": "nginx"}, ingress=[{"from": [{"podSelector": {"matchLabels": {"a": evil}}}]}])
    found = ask(article(GOOD, networkpolicies=[made]))
    text = report.as_text(found, wide=True, with_headers=True)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "x[2J" in text


def test_data_of_a_flow():
    data = report.as_data(flow(article(GOOD), "accessfalse"))
    assert (data["kind"], data["verdict"], data["cause"]) == ("Explanation", "DROP", "selector")
    ingress = data["legs"][0]
    assert [layer["verdict"] for layer in ingress["layers"]] == ["DENY", "DENY", "DROP", "DROP", "DROP", "-"]
    assert ingress["program"]["program"]["id"] == 432
    assert (ingress["protocol"], ingress["port"]) == ("TCP", 80)


@pytest.mark.parametrize(
    ("doc", "objects", "agree"),
    [
        (GOOD, {}, True),
        (pod_document(NGINX, ingress={f"{NODE_IP}/32": [ANY]}), {}, False),
        (GOOD, {"policyendpoints": Collection(reason="forbidden")}, None),
        ({**GOOD, "filters": None}, {}, None),
    ],
    ids=["agree", "map-lacks-it", "endpoints-unread", "filters-unread"],
)
def test_layers_of_a_flow_agree_only_where_all_are_known(doc, objects, agree):
    assert report.as_data(flow(article(both_pods(doc, ACCESS_TRUE), **objects)))["layersAgree"] is agree


def test_data_of_a_pod():
    data = report.as_data(ask(article(GOOD)))
    assert (data["verdict"], data["layersAgree"]) == (None, True)
    assert data["directions"][0]["rows"][0]["status"] == "OK"
    assert data["kernel"]["hostVeth"] == "eni9c515deae49"


@pytest.mark.parametrize("kind", ["clusterpolicyendpoints", "clusternetworkpolicies", "applicationnetworkpolicies"])
def test_policies_that_could_not_be_read_make_a_layer_unknown(kind):
    found = flow(article(GOOD, **{kind: Collection(reason="forbidden")}))
    words = {verdict.layer.value: verdict.word for verdict in found.legs[0].verdicts}
    assert words["ENDPOINTS" if kind == "clusterpolicyendpoints" else "INTENT"] == "UNKNOWN"
    assert found.decision.value == "allow"


@pytest.mark.parametrize("edit", ["rules cut short", "no pins", "another filter in front", "no decision"])
def test_what_was_not_compared_does_not_agree(edit):
    snapshot = article(copy.deepcopy(GOOD))
    document = next(iter(snapshot.nodes.values())).document
    rules = [row for row in document["maps"] if row["value_size"] == 288]
    if edit == "rules cut short":
        for row in rules:
            row["contents"] |= {"complete": False, "reason": "time ran out"}
    elif edit == "no pins":
        document["pins"] = None
    elif edit == "another filter in front":
        other = [f | {"handle": 9, "name": "other", "program_id": 999} for f in document["filters"]]
        document["filters"] = [*other, *document["filters"]]
    else:
        document["filters"] = [f | {"direct_action": False} for f in document["filters"]]
    assert ask(snapshot).decision.value == "unknown"


def test_what_somebody_elses_filter_enforces_is_not_known():
    """The agent's own program may hang there under another name: "not enforced" would be a guess."""
    doc = {**rules(), "filters": [tc_filter(7, "egress", "other", 9)]}
    _, side = report_of(doc, INGRESS)
    assert side.agrees is None
    assert {row.status.value for row in side.alignment.rows} == {"unknown"}
    _, side = report_of({**rules(), "filters": []}, INGRESS)
    assert side.agrees is False
    assert "NOT ENFORCED" in {row.status.value for row in side.alignment.rows}


def test_a_disputed_veth_is_no_agreement():
    doc = {**rules(), "links": [*rules()["links"], link("other", 8)], "routes": [route(NGINX["status"]["podIP"], 8)]}
    found, side = report_of(doc, INGRESS)
    assert side.agrees is None
    assert "goes to other" in side.summary
    assert "ip route get" in found.next_step


@pytest.mark.parametrize(("filters", "agrees"), [(True, True), (False, False)])
def test_a_further_interface_counts(filters, agrees):
    doc = rules()
    second = [{**f, "ifindex": 8} for f in doc["filters"]] if filters else []
    veth = veth_names("default", NGINX["metadata"]["name"], 1)[0]
    doc = {
        **doc,
        "links": [*doc["links"], link(veth, 8)],
        "qdiscs": [*doc["qdiscs"], clsact(8)],
        "filters": [*doc["filters"], *second],
    }
    _, side = report_of(doc, INGRESS)
    assert side.agrees is agrees, side.summary
    assert ("its interface 1 is not like that: no filter handle_ingress" in side.summary) is not agrees


# ---- from the API objects alone


def test_api_only_answers_from_the_api_and_leaves_the_kernel_unknown():
    found = ask(article(GOOD), source="accessfalse", port="80", api_only=True)
    assert (found.decision.value, found.cause) == ("deny", Cause.SELECTOR)
    assert found.answer.startswith("DROP by the API objects alone: ")
    assert "should be dropped at the ingress of nginx" in found.answer
    assert found.answer.endswith("Nodes were not read (--api-only).")
    words = [verdict.word for verdict in found.legs[0].verdicts]
    assert words == ["DENY", "DENY", "DROP", "UNKNOWN", "UNKNOWN", "UNKNOWN"]
    assert report.as_data(found)["apiOnly"] is True


def test_api_only_reads_no_node():
    plan = make_plan(Question("nginx", source="accesstrue", port="80", api_only=True), "default", World(article(GOOD)))
    assert plan.reads == {}


def test_api_only_says_that_the_enforcing_mode_decides_where_no_policy_does():
    found = ask(article(GOOD), source="accesstrue", port="80", api_only=True)
    assert found.answer.startswith("ALLOW by the API objects alone: ")
    assert "In strict enforcing mode a pod that no policy concerns is closed" in found.answer


def test_api_only_of_a_pod_has_no_kernel_column():
    found = ask(article(GOOD), api_only=True)
    assert (found.decision.value, found.kernel) == ("allow", None)
    assert "and the PolicyEndpoints say the same" in found.answer
    text = report.as_text(found, wide=False, with_headers=True)
    assert "POLICYENDPOINT  " in text
    assert "KERNEL" not in text


def test_api_only_of_a_pod_whose_policies_are_not_resolved():
    found = ask(article(GOOD, policyendpoints=[]), api_only=True)
    assert (found.decision.value, found.cause) == ("deny", Cause.RESOLUTION)
    assert "access-nginx: the controller has made no PolicyEndpoint of it" in found.answer


def test_api_only_does_not_call_what_was_not_read_fine():
    found = ask(article(GOOD, policyendpoints=Collection(reason="forbidden")), api_only=True)
    assert (found.decision.value, found.cause) == ("unknown", Cause.UNKNOWN)
    found = ask(article(GOOD, policyendpoints=Collection(reason="no")), source="accesstrue", port="80", api_only=True)
    assert found.decision.value == "unknown"


@pytest.mark.parametrize(
    ("source", "should"), [("accessfalse", "be dropped at the ingress of nginx"), ("accesstrue", "pass")]
)
def test_a_node_that_could_not_be_read_leaves_what_the_api_says(source, should):
    full = article(GOOD)
    unread = Snapshot(full.collections, {NODE: NodeReading(None, "pods is forbidden")})
    found = flow(unread, source)
    assert found.decision.value == "unknown"
    assert f"By the API objects alone it should {should}" in found.answer


# ---- what else concerns a pod


def test_a_policy_without_endpoints_is_named_even_where_it_has_no_rules():
    """Deny-all has no rows: nothing but the comparison shows that the controller made nothing of it."""
    free = pod_document(NGINX, states={0: DEFAULT_ALLOW, 1: DEFAULT_ALLOW}, ingress={}, egress={})
    deny_all = policy("deny-all", types=["Ingress"])
    found = ask(article(free, networkpolicies=[deny_all], policyendpoints=[]))
    assert (found.decision.value, found.cause) == ("deny", Cause.RESOLUTION)
    assert "deny-all: the controller has made no PolicyEndpoint of it" in found.answer
    assert report.as_data(found)["policies"][0]["differences"][0]["code"] == "NO_ENDPOINT"


def test_policies_are_compared_over_all_slices():
    text = report.as_text(ask(article(GOOD)), wide=False, with_headers=True)
    assert "access-nginx: 1 slice, as the controller resolves it" in text


def test_a_pod_that_its_policy_does_not_list():
    other = {**ACCESS_ENDPOINT, "spec": {**ACCESS_ENDPOINT["spec"], "podSelectorEndpoints": []}}
    found = ask(article(GOOD, policyendpoints=[other]))
    assert found.decision.value == "deny"
    assert f"1 selected pod is not listed: default/{NGINX['metadata']['name']}" in found.answer


def test_a_shared_pod_identifier_is_said():
    left, right = pod("web-a", "10.0.7.1", labels={"app": "a"}), pod("web-b", "10.0.7.2", labels={"app": "b"})
    made = policy("for-b", selects={"app": "b"}, types=["Ingress"])
    snapshot = article(
        pod_document(left, ingress={f"{NODE_IP}/32": [ANY]}),
        pods=[left, right],
        networkpolicies=[made],
        policyendpoints=[endpoint("for-b", pods=[right])],
    )
    found = ask(snapshot, "web-a")
    [note] = found.notes
    assert "web-b" in note
    assert f"  ! {note}" in report.as_text(found, wide=False, with_headers=True)


def test_dns_is_judged_for_pods_whose_egress_is_restricted():
    dns = service(
        "kube-dns", "10.100.0.10", namespace="kube-system", selector={"k8s-app": "kube-dns"}, ports=[service_port(53)]
    )
    closed = policy("no-egress", selects={"app": "nginx"}, types=["Egress"])
    resolved = [endpoint("no-egress", pods=[NGINX], isolation=["Egress"])]
    found = ask(article(GOOD, services=[dns], networkpolicies=[closed], policyendpoints=resolved), directions=EGRESS)
    assert found.dns[0].allowed is False
    assert "DNS\n  " in report.as_text(found, wide=False, with_headers=True)
    assert ask(article(GOOD, services=[dns]), directions=EGRESS).dns == ()
    assert ask(article(GOOD, services=[dns], networkpolicies=[closed]), directions=INGRESS).dns == ()


def test_a_rule_of_eks_is_no_fault_of_this_cluster():
    """An except of one policy wins over what another one allows."""
    broad = {"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.96.0/24"]}}
    more = policy("more", selects={"app": "nginx"}, ingress=[{"from": [broad]}])
    every = policy("every", selects={"app": "nginx"}, ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])
    resolved = [
        endpoint("more", pods=[NGINX], ingress=[pe_entry("10.0.0.0/16", excepts=["10.0.96.0/24"])]),
        endpoint("every", pods=[NGINX], ingress=[pe_entry("10.0.0.0/8")]),
    ]
    held = {"10.0.0.0/8": [ANY], "10.0.0.0/16": [ANY], "10.0.96.0/24": [(255, 0, 0)], f"{NODE_IP}/32": [ANY]}
    doc = both_pods(pod_document(NGINX, ingress=held), ACCESS_TRUE, pod("accessfalse", "10.0.96.116"))
    found = flow(article(doc, networkpolicies=[more, every], policyendpoints=resolved), "accessfalse")
    assert (found.decision.value, found.cause) == ("deny", Cause.KERNEL)
    assert found.legs[0].break_between == (Layer.ENDPOINTS, Layer.EXPECTED)
    assert [one.code for one in found.legs[0].by_rule] == ["EXCEPT_WINS"]
    assert found.next_step.startswith(
        "nothing is broken: EKS does the same on every cluster (10.0.96.0/24 is an except"
    )
    assert "by design of the controller and agent" in report.as_text(found, wide=False, with_headers=True)


# ---- what must not be called agreement


@pytest.mark.parametrize("api_only", [False, True])
def test_cluster_policies_that_were_not_read_are_no_agreement(api_only):
    unread = Collection(reason="forbidden")
    found = ask(article(GOOD, clusternetworkpolicies=unread, clusterpolicyendpoints=unread), api_only=api_only)
    assert found.decision.value == "unknown"
    assert "clusternetworkpolicies: forbidden" in found.answer


@pytest.mark.parametrize("api_only", [False, True])
def test_an_endpoint_that_is_left_behind_restricts_and_is_named(api_only):
    left = endpoint("gone", pods=[NGINX], isolation=["Egress"])
    doc = pod_document(NGINX, ingress=ACCESS_MAP, egress={f"{NODE_IP}/32": [ANY]})
    found = ask(article(doc, policyendpoints=[ACCESS_ENDPOINT, left]), api_only=api_only)
    assert (found.decision.value, found.cause) == ("deny", Cause.RESOLUTION)
    assert "egress is restricted by the PolicyEndpoints of gone, which the YAML does not mean" in found.answer
    assert "PolicyEndpoints are left behind: those of gone list" in found.answer


def test_rules_of_a_shared_pod_identifier_are_in_the_map_and_no_fault():
    left, right = pod("web-a", "10.0.7.1", labels={"app": "a"}), pod("web-b", "10.0.7.2", labels={"app": "b"})
    made = policy(
        "for-b", selects={"app": "b"}, ingress=[{"from": [{"podSelector": {"matchLabels": {"access": "true"}}}]}]
    )
    resolved = endpoint("for-b", pods=[right], ingress=[pe_entry("10.0.1.218")])
    doc = pod_document(left, ingress=ACCESS_MAP)
    objects = {"pods": [left, right, ACCESS_TRUE], "networkpolicies": [made], "policyendpoints": [resolved]}
    found = ask(article(doc, **objects), "web-a", directions=INGRESS)
    assert found.decision.value == "allow", found.answer
    assert "the PolicyEndpoints of for-b, which the YAML does not mean" in found.answer
    assert "for-b apply to it as well" in found.notes[0]


def test_a_break_at_one_end_is_told_before_a_rule_of_eks_at_the_other():
    """nginx's ingress differs by an except, and the egress map of accesstrue lacks its entry."""
    block = {"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24"]}}
    policies = [
        policy("wide", selects={"app": "nginx"}, ingress=[{"from": [block]}]),
        policy("wider", selects={"app": "nginx"}, ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]),
        policy("out", selects={"access": "true"}, egress=[{}], types=["Egress"]),
    ]
    resolved = [
        endpoint("wide", pods=[NGINX], ingress=[pe_entry("10.0.0.0/16", excepts=["10.0.1.0/24"])]),
        endpoint("wider", pods=[NGINX], ingress=[pe_entry("10.0.0.0/8")]),
        endpoint("out", pods=[ACCESS_TRUE], egress=[], isolation=["Egress"]),
    ]
    found = ask(
        article(GOOD, networkpolicies=policies, policyendpoints=resolved), source="accesstrue", port="80", api_only=True
    )
    assert [bool(leg.by_rule) for leg in found.legs] == [True, False]
    assert (found.decision.value, found.cause) == ("deny", Cause.RESOLUTION)
    assert "nothing is broken" not in found.next_step


def test_rules_of_a_direction_that_is_not_listed_restrict():
    """policyTypes lists Ingress only: Kubernetes ignores the egress rules, EKS enforces them."""
    out = {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}
    odd = policy("odd", selects={"app": "nginx"}, ingress=[{}], egress=[out], types=["Ingress"])
    resolved = endpoint("odd", pods=[NGINX], ingress=[pe_entry("0.0.0.0/0")], egress=[pe_entry("192.0.2.0/24")])
    held = {"192.0.2.0/24": [ANY], f"{NODE_IP}/32": [ANY]}
    doc = pod_document(NGINX, ingress={"0.0.0.0/0": [ANY], f"{NODE_IP}/32": [ANY]}, egress=held)
    found = ask(article(doc, networkpolicies=[odd], policyendpoints=[resolved]), directions=EGRESS)
    assert "egress is restricted by the PolicyEndpoints of odd, which the YAML does not mean" in found.answer


def test_an_except_that_was_not_resolved_differs():
    block = policy(
        "p",
        selects={"app": "nginx"},
        ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}],
    )
    resolved = endpoint("p", pods=[NGINX], ingress=[pe_entry("10.0.0.0/8")])
    doc = pod_document(NGINX, ingress={"10.0.0.0/8": [ANY], f"{NODE_IP}/32": [ANY]})
    found = ask(article(doc, networkpolicies=[block], policyendpoints=[resolved]))
    assert (found.decision.value, found.cause) == ("deny", Cause.RESOLUTION)


def test_a_cluster_policy_with_another_priority_than_its_endpoint_differs():
    guard = {
        "metadata": {"name": "guard"},
        "spec": {"tier": "Admin", "priority": 500, "subject": {"namespaces": {}}, "ingress": []},
    }
    made = endpoint("guard", namespace="", pods=[NGINX, ACCESS_TRUE, pod("accessfalse", "10.0.96.116")])
    made["spec"] |= {"tier": "Admin", "priority": 50}
    found = ask(article(GOOD, clusternetworkpolicies=[guard], clusterpolicyendpoints=[made]), api_only=True)
    assert found.decision.value == "deny"
    assert (
        "guard-abcde is in the Admin tier with priority 50, the policy in the Admin tier with priority 500"
        in found.answer
    )
    assert "kubectl get clusterpolicyendpoints -o yaml" in found.next_step


def test_dns_that_the_yaml_allows_and_the_agents_rules_drop():
    dns = service(
        "kube-dns", "10.100.0.10", namespace="kube-system", selector={"k8s-app": "kube-dns"}, ports=[service_port(53)]
    )
    outside = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]}
    port = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    two = [
        policy("outside", selects={"app": "nginx"}, egress=[outside], types=["Egress"]),
        policy("dns", selects={"app": "nginx"}, egress=[{"ports": port}], types=["Egress"]),
    ]
    resolved = [
        endpoint("outside", pods=[NGINX], egress=[pe_entry("0.0.0.0/0", excepts=["10.0.0.0/8"])], isolation=["Egress"]),
        endpoint("dns", pods=[NGINX], egress=[pe_entry("0.0.0.0/0", pe_port(53, protocol="UDP"), pe_port(53))],
                 isolation=["Egress"]),
    ]  # fmt: skip
    found = ask(article(GOOD, services=[dns], networkpolicies=two, policyendpoints=resolved), api_only=True)
    [answer] = found.dns
    assert answer.allowed is False
    assert "53/UDP is dropped" in answer.text
    assert answer.why.startswith("EXPECTED: entry 10.0.0.0/8")


# ---- the next step


def test_a_controller_that_is_behind_is_to_be_waited_for():
    found = ask(article(GOOD, policyendpoints=[]), source="accesstrue", port="80", api_only=True)
    assert [one.code for one in found.legs[0].deviations] == []
    found = ask(article(GOOD, policyendpoints=[]), source="accessfalse", port="80", api_only=True)
    assert [one.code for one in found.legs[0].deviations] == ["NOT_RESOLVED_YET"]
    assert found.next_step.startswith("the controller is behind: ask again in some seconds")
    assert "not resolved yet: " in report.as_text(found, wide=False, with_headers=True)


def test_the_policy_that_the_reason_is_about_is_the_one_to_edit():
    """Two policies isolate nginx; the one whose label is missed is to be edited, not the first by name."""
    first = policy("a-first", selects={"app": "nginx"}, ingress=[{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}])
    more = endpoint("a-first", pods=[NGINX], ingress=[pe_entry("192.0.2.0/24")])
    objects = {"networkpolicies": [first, ACCESS_NGINX], "policyendpoints": [more, ACCESS_ENDPOINT]}
    found = ask(article(GOOD, **objects), source="accessfalse", port="80", api_only=True)
    assert found.next_step.endswith("kubectl -n default edit networkpolicy access-nginx")


def test_a_domain_name_that_nothing_here_resolves():
    spec = {
        "podSelector": {"matchLabels": {"app": "nginx"}},
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"domainNames": ["example.com"]}]}],
    }
    item = {"metadata": {"name": "names", "namespace": "default"}, "spec": spec}
    resolved = {
        "metadata": {"name": "names-abcde", "namespace": "default"},
        "spec": {
            **endpoint("names", pods=[NGINX], isolation=["Egress"])["spec"],
            "egress": [{"domainName": "example.com"}],
        },
    }
    objects = {"networkpolicies": [], "applicationnetworkpolicies": [item], "policyendpoints": [resolved]}
    found = ask(article(GOOD, **objects), destination="198.51.100.7", port="443", api_only=True)
    words = [verdict.word for verdict in found.legs[0].verdicts[:3]]
    assert words == ["UNKNOWN", "DENY", "DROP"]


def test_dns_is_not_known_where_the_program_was_not_read():
    dns = service(
        "kube-dns", "10.100.0.10", namespace="kube-system", selector={"k8s-app": "kube-dns"}, ports=[service_port(53)]
    )
    open_ = policy("out", selects={"app": "nginx"}, egress=[{}], types=["Egress"])
    resolved = endpoint("out", pods=[NGINX], egress=[pe_entry("0.0.0.0/0")], isolation=["Egress"])
    doc = {**pod_document(NGINX), "filters": None}
    objects = {"services": [dns], "networkpolicies": [open_], "policyendpoints": [resolved]}
    [answer] = ask(article(doc, **objects)).dns
    assert (answer.allowed, answer.text) == (
        None,
        "pods ask kube-dns at 10.100.0.10: whether it is allowed is not known",
    )
    [answer] = ask(article(GOOD, **objects)).dns
    assert answer.allowed is True
