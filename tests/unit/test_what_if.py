"""`explain -f` and `--without`: the flow, the maps and the established flows after a change."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_netpol.diagnose.explain import explain
from kubectl_netpol.diagnose.plan import Question, make_plan
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.policy.changes import Changes, imagine
from kubectl_netpol.policy.world import CLUSTER_POLICY, NETWORK_POLICY, World
from kubectl_netpol.report import explain as report
from tests.unit.builders import (
    ACCESS_FALSE,
    ACCESS_MAP,
    ACCESS_TRUE,
    DEFAULT_ALLOW,
    DEFAULT_DENY,
    NGINX,
    NODE,
    article,
    both_pods,
    container_port,
    ct_key,
    endpoint,
    entry,
    match,
    meta,
    namespace,
    pod,
    pod_document,
    policy,
    service,
    service_port,
)
from tests.unit.modelled_node import aws_node

TRUE_IP, FALSE_IP, NGINX_IP = (p["status"]["podIP"] for p in (ACCESS_TRUE, ACCESS_FALSE, NGINX))
APPLIED_PAIR, ALLOW_PAIR = 5, 2
"""Conntrack values of flows made under POLICIES_APPLIED and under DEFAULT_ALLOW."""


def flow_in(source: str, value: int = APPLIED_PAIR, port: int = 80, sport: int = 40000):
    return ct_key(source, sport, NGINX_IP, port, NGINX_IP, 7), value


def only(*peers: dict[str, Any], name: str = "access-nginx", **more: Any):
    made = policy(name, selects={"app": "nginx"}, ingress=[{"from": [*peers], **more}])
    return {**made, "kind": NETWORK_POLICY}


NOBODY = {**policy("access-nginx", selects={"app": "nginx"}, types=["Ingress"]), "kind": NETWORK_POLICY}
CLOSE_ALL = {**policy("close", types=["Ingress", "Egress"]), "kind": NETWORK_POLICY}
FREE = {"networkpolicies": [], "policyendpoints": []}


def ask(snapshot: Snapshot, *applied, removed=(), **question):
    plan = make_plan(Question("nginx", **question), "default", World(snapshot))
    return explain(plan, snapshot, imagine(snapshot, Changes(tuple(applied), tuple(removed)), "default"))


def with_flows(*flows, states=None, **objects):
    doc = pod_document(NGINX, ingress=ACCESS_MAP, conntrack=flows, states=states)
    return article(both_pods(doc, ACCESS_TRUE, ACCESS_FALSE), **objects)


@pytest.mark.parametrize(
    ("source", "applied", "removed", "decision", "starts"),
    [
        ("accesstrue", [NOBODY], [], "deny", "DROP with the change, ALLOW now (NetworkPolicy default/access-nginx "),
        ("accessfalse", [], ["access-nginx"], "allow", "ALLOW with the change, DROP now (without NetworkPolicy "),
        ("accessfalse", [NOBODY], [], "deny", "DROP with the change, DROP now"),
        ("accesstrue", [only({"podSelector": {}})], [], "allow", "ALLOW with the change, ALLOW now"),
    ],
    ids=["closed", "opened", "still closed", "still open"],
)  # fmt: skip
def test_the_answer_is_that_of_the_changed_policies(source, applied, removed, decision, starts):
    found = ask(with_flows(), *applied, removed=removed, source=source, port="80")
    assert found.decision.value == decision
    assert found.answer.startswith(starts)
    assert found.what_if.legs[0].now.kernel is not None


def test_the_enforcing_mode_counts_where_no_policy_is_left():
    found = ask(with_flows(), removed=["access-nginx"], source="accessfalse", port="80")
    assert "In strict enforcing mode a pod that no policy concerns is closed" in found.answer
    assert "strict" not in ask(with_flows(), only({"podSelector": {}}), source="accessfalse", port="80").answer


def test_map_entries_that_would_change():
    found = ask(with_flows(), only({"podSelector": match(access="false")}, ports=[{"port": 80}]))
    assert [(one.map, one.key, one.before, one.after) for one in found.what_if.maps] == [
        ("ingress_map", f"{TRUE_IP}/32", "all ports", None),
        ("ingress_map", f"{FALSE_IP}/32", None, "80/TCP"),
    ]


def test_the_last_policy_leaves_the_entry_of_the_node_and_the_state_of_the_mode():
    found = ask(with_flows(), removed=["access-nginx"]).what_if
    changed = [(one.map, one.key, one.after) for one in found.maps if one.map.startswith("ingress")]
    assert changed == [
        ("ingress_pod_state_map", "key 0 (NetworkPolicy)", "as the enforcing mode has it"),
        ("ingress_map", f"{TRUE_IP}/32", None),
    ]


def denied(found):
    return [(str(one.flow.entry.source), one.cut) for one in found.what_if.flows.denied]


def test_established_flows_go_on_where_only_the_rules_change():
    found = ask(with_flows(flow_in(TRUE_IP), flow_in(TRUE_IP, sport=40001)), NOBODY)
    assert "2 of 2 established flows of nginx-f8d9c6576-8b4vf would be denied" in found.answer
    assert denied(found) == [(TRUE_IP, False)] * 2
    assert found.decision.value == "deny"
    assert "2 of the denied flows would go on until the conntrack entry ends" in found.next_step


def test_established_flows_are_cut_where_the_first_policy_comes():
    """Their entries were made under DEFAULT_ALLOW: under POLICIES_APPLIED the rules are asked again."""
    allow = {0: DEFAULT_ALLOW, 1: DEFAULT_ALLOW}
    free = with_flows(flow_in(TRUE_IP, ALLOW_PAIR), flow_in(FALSE_IP, ALLOW_PAIR), states=allow, **FREE)
    found = ask(free, only({"podSelector": match(access="true")}))
    assert denied(found) == [(FALSE_IP, True)]
    assert "1 of 2 established flows" in found.answer
    assert "cut with its next packet" in report.as_text(found, wide=False, with_headers=True)


def test_flows_that_are_denied_already_are_not_the_changes_doing():
    """accessfalse's flow lives on against the rules of now; the changed ones deny it as well."""
    found = ask(with_flows(flow_in(FALSE_IP), flow_in(TRUE_IP)), only({"podSelector": match(access="yes")}))
    assert denied(found) == [(TRUE_IP, False)]
    # Under another state its next packet is dropped with or without the change.
    found = ask(with_flows(flow_in(FALSE_IP, ALLOW_PAIR), flow_in(TRUE_IP)), NOBODY)
    assert (denied(found), found.what_if.flows.total) == ([(TRUE_IP, False)], 1)


def test_nothing_is_denied():
    found = ask(with_flows(flow_in(TRUE_IP)), only({"podSelector": {}}))
    assert (denied(found), found.decision.value) == ([], "allow")
    assert "0 of 1 established flows" in found.answer


def test_without_the_kernel_the_flows_are_unknown():
    full = with_flows(flow_in(TRUE_IP))
    unread = Snapshot(full.collections, {NODE: NodeReading(None, "no such image")})
    found = ask(unread, NOBODY)
    assert (found.what_if.flows, found.decision.value) == (None, "unknown")
    assert "which established flows it would cut is unknown" in found.answer
    assert ask(unread, NOBODY, api_only=True).decision.value == "allow"
    assert ask(unread, NOBODY, source="accesstrue", port="80").decision.value == "deny"


def test_a_table_that_was_not_read_to_its_end_leaves_it_open():
    doc = pod_document(NGINX, ingress=ACCESS_MAP, conntrack=[flow_in(TRUE_IP)])
    row = next(row for row in doc["maps"] if row["id"] == 21)
    row["contents"] |= {"complete": False, "reason": "time ran out"}
    found = ask(article(doc), only({"podSelector": {}}))
    assert found.decision.value == "unknown"
    assert "as far as could be read" in found.answer


def test_in_strict_mode_what_no_policy_concerns_is_not_called_open():
    deny = {0: DEFAULT_DENY, 1: DEFAULT_ALLOW}
    found = ask(with_flows(flow_in(TRUE_IP, 7), states=deny), removed=["access-nginx"])
    assert (found.what_if.flows.undecided, found.decision.value) == (1, "unknown")


def test_text_and_data():
    found = ask(with_flows(flow_in(TRUE_IP)), NOBODY, source="accesstrue", port="80")
    lines = report.as_text(found, wide=False, with_headers=True).split("\n")
    assert lines[-1].startswith("Next: nothing was changed")
    assert any(line.split()[:3] == ["EXPECTED", "ALLOW", "DROP"] for line in lines)
    assert any(line.startswith("ESTABLISHED FLOWS that would be denied: 1 of 1") for line in lines)
    data = report.as_data(found)
    assert data["verdict"] == "DROP"
    assert (data["whatIf"]["legs"][0]["now"], data["whatIf"]["legs"][0]["then"]) == ("ALLOW", "DROP")
    assert data["whatIf"]["establishedFlows"]["denied"][0]["sourcePort"] == 40000
    assert data["whatIf"]["maps"][0] == {
        "direction": "ingress", "map": "ingress_map", "entry": f"{TRUE_IP}/32", "now": "all ports", "then": None,
    }  # fmt: skip


def test_the_data_of_a_pod_still_says_whether_its_layers_agree_now():
    data = report.as_data(ask(with_flows(flow_in(TRUE_IP)), NOBODY))
    assert (data["layersAgree"], data["verdict"]) == (True, None)
    assert data["whatIf"]["establishedFlows"]["total"] == 1


# ---- what the answer must not get wrong


def test_a_node_that_is_behind_is_not_credited_to_the_change():
    """The map lacks the entry of accesstrue: whatever is added, the node drops it now."""
    doc = both_pods(pod_document(NGINX, ingress={"10.0.0.1/32": [(254, 0, 0)]}), ACCESS_TRUE, ACCESS_FALSE)
    nobody = {**policy("typo", selects={"app": "ngnix"}, types=["Ingress"]), "kind": NETWORK_POLICY}
    found = ask(article(doc), nobody, source="accesstrue", port="80")
    assert found.decision.value == "deny"
    assert found.answer.startswith("DROP with the change, DROP now")
    assert "the node does not do what was resolved, and the change makes no difference to that" in found.answer
    found = ask(article(doc), NOBODY, source="accesstrue", port="80")
    assert found.decision.value == "unknown"
    assert "By the API objects alone it is dropped with the change" in found.answer
    assert "find out first why the node does not do what was resolved" in found.next_step


def test_flows_that_the_api_denies_already_are_not_the_changes_doing():
    """The map still lets accesstrue in, which no policy allows (any more): the added policy changes nothing for it."""
    doc = both_pods(pod_document(NGINX, ingress=ACCESS_MAP, conntrack=[flow_in(TRUE_IP)]), ACCESS_TRUE)
    closed = {"networkpolicies": [NOBODY], "policyendpoints": [endpoint("access-nginx", pods=[NGINX])]}
    other = {**policy("other", selects={"app": "x"}, types=["Ingress"]), "kind": NETWORK_POLICY}
    found = ask(article(doc, **closed), other)
    assert (denied(found), found.what_if.flows.total) == ([], 1)


@pytest.mark.parametrize(
    ("applied", "removed", "expected"),
    [
        ([NOBODY], [], ["ingress would be closed by access-nginx (all but the own node)"]),
        ([], ["access-nginx"], ["ingress would be left to the enforcing mode (open in standard mode, "]),
        ([CLOSE_ALL], [], ["egress would be closed by close (all but the own node) (now open)"]),
        ([only({"podSelector": {}})], [], ["ingress stays restricted by access-nginx, with 2 other map entries"]),
    ],
    ids=["closed", "opened", "egress closed", "other entries"],
)  # fmt: skip
def test_how_far_the_pod_would_be_open_comes_first(applied, removed, expected):
    found = ask(with_flows(), *applied, removed=removed)
    assert all(text in found.answer for text in expected), found.answer


def test_the_other_end_is_judged_as_well():
    """A policy that closes the egress of accesstrue denies its flow to nginx, though nothing changes for nginx."""
    closing = {**policy("no-egress", selects={"access": "true"}, types=["Egress"]), "kind": NETWORK_POLICY}
    found = ask(with_flows(flow_in(TRUE_IP), flow_in(FALSE_IP)), closing)
    [one] = found.what_if.flows.denied
    assert (one.place, one.cut) == ("egress of default/accesstrue", None)
    assert "1 of 2 established flows" in found.answer
    assert "whether it is cut at once is not known" in report.as_text(found, wide=False, with_headers=True)


def test_only_the_directions_that_were_asked():
    found = ask(with_flows(flow_in(TRUE_IP)), NOBODY, directions=(Direction.EGRESS,))
    assert (found.what_if.maps, found.what_if.flows.total) == ((), 0)
    assert "egress stays open" in found.answer
    assert "ingress" not in found.answer


@pytest.mark.parametrize(
    ("applied", "removed", "files", "command"),
    [
        ([only({"podSelector": {}})], [], ("a b.yaml",), "to do it: kubectl apply -f 'a b.yaml'"),
        ([only({"podSelector": {}})], [], ("-",), "to do it: kubectl apply -f - with the same YAML"),
        ([], ["access-nginx"], (), "to do it: kubectl -n default delete networkpolicy access-nginx"),
    ],
)
def test_the_next_step_is_the_command_that_does_it(applied, removed, files, command):
    snapshot = with_flows()
    plan = make_plan(Question("nginx"), "default", World(snapshot))
    changes = Changes(tuple(applied), tuple(removed), files)
    assert explain(plan, snapshot, imagine(snapshot, changes, "default")).next_step.endswith(command)


def test_a_near_miss_is_the_next_step_where_the_change_does_not_help():
    wrong = only({"podSelector": match(access="treu")})
    found = ask(with_flows(), wrong, source="accesstrue", port="80")
    assert found.next_step.startswith("nothing was changed; with the change the YAML does not allow the flow: ")
    assert "access=treu" in found.next_step


def test_dns_that_the_pod_would_lose():
    dns = service(
        "kube-dns", "10.100.0.10", namespace="kube-system", selector={"k8s-app": "kube-dns"}, ports=[service_port(53)]
    )
    found = ask(with_flows(services=[dns]), CLOSE_ALL)
    assert [str(one.address) for one in found.what_if.dns] == ["10.100.0.10"]
    assert "DNS with the change" in report.as_text(found, wide=False, with_headers=True)
    assert ask(with_flows(services=[dns]), NOBODY).what_if.dns == ()


def test_unread_policyendpoints_leave_it_open():
    found = ask(with_flows(policyendpoints=Collection(reason="forbidden")), NOBODY)
    assert found.decision.value == "unknown"
    assert found.answer.startswith("UNKNOWN with the change (")
    assert "policyendpoints: forbidden" in found.answer
    assert (found.what_if.maps, found.what_if.directions, found.what_if.flows) == ((), (), None)


def test_a_cluster_without_the_crd_enforces_nothing_with_the_change_either():
    found = ask(
        with_flows(policyendpoints=Collection(absent=True)), NOBODY, source="accesstrue", port="80", api_only=True
    )
    assert found.decision.value == "allow"


def test_flows_of_a_released_pod_hang_on_the_enforcing_mode():
    found = ask(with_flows(flow_in(TRUE_IP)), removed=["access-nginx"])
    assert (found.what_if.flows.undecided, found.decision.value) == (1, "unknown")


def test_flows_of_a_released_pod_go_on_in_standard_mode():
    mode = {"daemonsets": [aws_node(env={"NETWORK_POLICY_ENFORCING_MODE": "standard"})]}
    found = ask(with_flows(flow_in(TRUE_IP), **mode), removed=["access-nginx"])
    assert "ingress would be open (standard enforcing mode)" in found.answer
    assert (found.what_if.flows.total, found.what_if.flows.undecided, found.decision.value) == (1, 0, "allow")
    peer = policy("release", selects={"access": "true"}, types=["Egress"], egress=[{"to": [{"podSelector": {}}]}])
    resolved = endpoint("release", pods=[ACCESS_TRUE], egress=[entry(NGINX_IP)])
    both = {"networkpolicies": [peer], "policyendpoints": [resolved]}
    states = {0: DEFAULT_ALLOW, 1: DEFAULT_ALLOW}
    for known, undecided in ((mode, 0), ({}, 1)):
        found = ask(with_flows(flow_in(TRUE_IP, ALLOW_PAIR), states=states, **both, **known), removed=["release"])
        assert (found.what_if.flows.total, found.what_if.flows.undecided) == (1, undecided)


def test_a_flow_through_a_service_is_judged_behind_it():
    """The conntrack entry of nginx's egress has the ClusterIP; the only pod behind it would be closed."""
    back = pod("back-1", "10.0.5.5", labels={"app": "back"}, ports=[container_port(8080)])
    front = service("back", "10.100.0.7", selector={"app": "back"}, ports=[service_port(80, 8080)])
    entry = ct_key(NGINX_IP, 40000, "10.100.0.7", 80, NGINX_IP, 7), APPLIED_PAIR
    closing = {**policy("close-back", selects={"app": "back"}, types=["Ingress"]), "kind": NETWORK_POLICY}
    objects = {"pods": [NGINX, ACCESS_TRUE, ACCESS_FALSE, back], "services": [front]}
    [one] = ask(with_flows(entry, **objects), closing).what_if.flows.denied
    assert one.place == "ingress of default/back-1"
    second = pod("more-1", "10.0.5.6", labels={"app": "back", "v": "2"}, ports=[container_port(8080)])
    half = {**policy("close-back", selects={"v": "2"}, types=["Ingress"]), "kind": NETWORK_POLICY}
    flows = ask(with_flows(entry, **{**objects, "pods": [*objects["pods"], second]}), half).what_if.flows
    assert (flows.denied, flows.undecided) == ((), 1)


def test_peers_in_namespaces_that_were_not_read_are_not_judged_by_a_cluster_policy():
    far = pod("far", "10.0.6.6", namespace="other")
    flow = flow_in("10.0.6.6")
    guard = {
        "kind": CLUSTER_POLICY,
        "metadata": meta("guard"),
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": [], "egress": []},
    }
    everybody = policy("access-nginx", selects={"app": "nginx"}, ingress=[{}])
    resolved = endpoint("access-nginx", pods=[NGINX], ingress=[entry("0.0.0.0/0")])
    objects = {"pods": [NGINX, far], "networkpolicies": [everybody], "policyendpoints": [resolved]}
    spaces = {"namespaces": [namespace("default"), namespace("other")]}
    assert ask(with_flows(flow, **objects, **spaces), guard).what_if.flows.undecided == 1
    assert ask(with_flows(flow, **objects, **spaces), NOBODY).what_if.flows.undecided == 0


def test_the_entry_of_the_node_stays_where_a_cluster_policy_stays():
    made = endpoint("guard", namespace="", pods=[NGINX], ingress=[{**entry("10.9.0.0/16"), "action": "Deny"}])
    made["spec"] |= {"tier": "Admin", "priority": 5}
    found = ask(with_flows(clusterpolicyendpoints=[made]), removed=["access-nginx"])
    assert not [one for one in found.what_if.maps if one.key == "10.0.0.1/32"]


def test_a_pod_that_no_policy_concerns_before_and_after_shows_its_mode():
    """A policy for others changes nothing here: open where the pod shows DEFAULT_ALLOW, not known in DEFAULT_DENY."""
    other = {**policy("other", selects={"app": "x"}, types=["Ingress"]), "kind": NETWORK_POLICY}
    for state, undecided in ((DEFAULT_ALLOW, 0), (DEFAULT_DENY, 1)):
        states = {0: state, 1: DEFAULT_ALLOW}
        value = ALLOW_PAIR if state == DEFAULT_ALLOW else 7
        found = ask(with_flows(flow_in(TRUE_IP, value), states=states, **FREE), other)
        assert (found.what_if.flows.total, found.what_if.flows.undecided) == (1, undecided)


def test_a_service_whose_pods_do_not_change_is_not_open():
    back = pod("back-1", "10.0.5.5", labels={"app": "back"}, ports=[container_port(8080)])
    front = service("back", "10.100.0.7", selector={"app": "back"}, ports=[service_port(80, 8080)])
    flow = ct_key(NGINX_IP, 40000, "10.100.0.7", 80, NGINX_IP, 7), APPLIED_PAIR
    other = {**policy("other", selects={"app": "x"}, types=["Ingress"]), "kind": NETWORK_POLICY}
    found = ask(with_flows(flow, pods=[NGINX, ACCESS_TRUE, ACCESS_FALSE, back], services=[front]), other)
    assert (denied(found), found.what_if.flows.undecided) == ([], 0)
