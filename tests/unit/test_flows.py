"""`conntrack`: whose flows, how old, and what the rules of now say of them."""

from __future__ import annotations

import json

import pytest

from kubectl_netpol.diagnose.flows import flows_of
from kubectl_netpol.diagnose.layers import node_views, pod_kernel
from kubectl_netpol.kernel.identity import veth_names
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.policy.world import World
from kubectl_netpol.report import flows as report
from kubectl_netpol.report.text import age_text
from tests.unit.builders import (
    ACCESS_MAP,
    APPLIED,
    DEFAULT_ALLOW,
    NGINX,
    article,
    clsact,
    ct_key,
    link,
    map_row,
    pod_document,
    route,
    tc_filter,
)

OWN, TRUE, FALSE = "10.0.4.5", "10.0.1.218", "10.0.96.116"
BOTH = tuple(Direction)
GOOD = pod_document(NGINX, ingress=ACCESS_MAP)


def document(*entries, states=None, **sections):
    return pod_document(NGINX, ingress=ACCESS_MAP, states=states, conntrack=entries, **sections)


def found(doc, directions=BOTH):
    snapshot = article(doc)
    kernel = pod_kernel(NGINX, node_views(snapshot))
    assert kernel is not None
    return flows_of(NGINX, kernel, directions, World(snapshot))


def into(source=TRUE, value=5, owner=OWN, ifindex=7, port=80):
    return ct_key(source, 4000, OWN, port, owner, ifindex), value


def out_of(destination="10.9.9.9", value=5):
    return ct_key(OWN, 5000, destination, 443, OWN, 7), value


def test_flows_in_both_directions():
    flows = found(document(into(), out_of())).flows
    assert [(f.direction.value, f.source, f.destination) for f in flows] == [
        ("ingress", "pod default/accesstrue", "pod default/nginx-f8d9c6576-8b4vf"),
        ("egress", "pod default/nginx-f8d9c6576-8b4vf", "unknown address"),
    ]
    assert [f.rules.word for f in flows] == ["ALLOW", "ALLOW"]
    assert all(f.passes and not f.only_established for f in flows)
    assert [f.direction.value for f in found(document(into(), out_of()), (Direction.EGRESS,)).flows] == ["egress"]


def test_what_the_rules_would_drop_now_comes_first():
    flows = found(document(into(), into(FALSE), out_of()))
    assert [f.only_established for f in flows.flows] == [True, False, False]
    assert flows.only_established == 1
    first = flows.flows[0]
    assert (str(first.entry.source), first.rules.code, first.passes) == (FALSE, "NO_ENTRY", True)
    assert report.note(first) == "allowed only because it was established"
    text = report.as_text(NGINX, flows, False, True)
    assert "3 conntrack entries, 1 is a flow that passes only because established" in text.splitlines()[0]


def test_a_flow_of_another_state_is_judged_again():
    [flow] = found(document(into(FALSE, value=2))).flows
    assert (flow.passes, flow.only_established) == (False, False)
    assert report.note(flow) == "the rules decide again with its next packet"
    assert flow.made_under == "DEFAULT_ALLOW (cluster policies: DEFAULT_ALLOW)"
    [flow] = found(document(into(FALSE, value=2), states={0: DEFAULT_ALLOW, 1: DEFAULT_ALLOW})).flows
    assert flow.passes is True


@pytest.mark.parametrize("entry", [into(owner=TRUE), into(ifindex=8)])
def test_entries_of_others_are_left_out(entry):
    assert found(document(entry)).flows == ()


def test_an_unknown_program_leaves_the_flow_undecided():
    odd = map_row(102, 11, 8, 400)
    doc = document(into())
    doc["maps"] = [odd if m["id"] == 102 else m for m in doc["maps"]]
    [flow] = found(doc).flows
    assert (flow.passes, flow.rules.word) == (None, "UNKNOWN")
    assert report.note(flow) == "whether it passes is not known"


def test_unread_tables_are_named():
    doc = document()
    doc["maps"] = [map_row(21, 9, 24, 1, None) if m["id"] == 21 else m for m in doc["maps"]]
    result = found(doc)
    assert result.flows == ()
    assert result.unread[0].startswith("ingress of eni")
    assert "as far as could be read" in report.summary(NGINX, result)
    cut = document(into())
    for row in cut["maps"]:
        if row["id"] == 21:
            row["contents"] |= {"complete": False, "reason": "the map changed"}
    assert "the map changed" in found(cut).unread[0]


def test_without_a_program_nothing_is_filtered():
    doc = document(into(FALSE))
    doc["filters"] = []
    [flow] = found(doc).flows
    assert (flow.rules.code, flow.only_established) == ("NO_FILTER", False)


def test_age_of_the_last_packet():
    def with_time(last_seen):
        key, _ = into()
        value = (5).to_bytes(8, "little") + last_seen.to_bytes(8, "little")
        doc = document(clock={"begin": {"monotonic_ns": 90_000_000_000, "boottime_ns": 1, "realtime_ns": 1}, "end": {}})
        doc["maps"] = [map_row(21, 9, 24, 16, [(key, value)]) if m["id"] == 21 else m for m in doc["maps"]]
        return found(doc).flows[0]

    assert with_time(15_000_000_000).age_ns == 75_000_000_000
    assert "1m15s" in report.as_text(NGINX, found_report(with_time(15_000_000_000)), False, True)
    # The entry was hit again while the map was read.
    assert with_time(99_000_000_000).age_ns == 0
    [plain] = found(document(into())).flows
    assert plain.age_ns is None


def found_report(flow):
    from kubectl_netpol.diagnose.flows import FlowReport

    return FlowReport((flow,), (flow.table,), ())


def test_the_data_form():
    data = report.as_data(NGINX, found(document(into(FALSE), states={0: APPLIED, 1: DEFAULT_ALLOW})))
    json.dumps(data)
    [flow] = data["flows"]
    assert (data["onlyEstablished"], flow["rulesNow"], flow["sourcePort"], flow["mapId"]) == (1, "DROP", 4000, 21)
    assert data["maps"][0]["entriesInUse"] == 1
    wide = report.as_text(NGINX, found(document(into())), True, True)
    assert "SOURCE PORT" in wide
    assert "entry 10.0.1.218/32 of ingress_map" in wide


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (45, "45s"), (60, "1m"), (192, "3m12s"), (3600, "1h"), (18420, "5h7m"), (273600, "3d4h")],
)
def test_ages(seconds, text):
    assert age_text(seconds * 1_000_000_000) == text


@pytest.mark.parametrize(
    ("sections", "rules", "passes"),
    [
        ({"filters": [tc_filter(7, "egress", "other", 9, pref=0)]}, "UNKNOWN", None),
        ({"filters": [tc_filter(7, "egress", "other", 9, pref=0), *GOOD["filters"]]}, "UNKNOWN", None),
        ({"filters": [{**f, "direct_action": False} for f in GOOD["filters"]]}, "UNKNOWN", None),
        ({"filters": []}, "ALLOW", True),
    ],
    ids=["foreign-only", "foreign-first", "no-direct-action", "nothing-attached"],
)
def test_what_others_may_decide_is_not_said_to_be_decided(sections, rules, passes):
    doc = {**document(into(FALSE)), **sections}
    report_of = found(doc, (Direction.INGRESS,))
    [flow] = report_of.flows
    assert (flow.rules.word, flow.passes) == (rules, passes)
    assert report_of.undecided == (0 if passes else 1)
    told = report.summary(NGINX, report_of)
    assert ("of 1 it is not known" in told) is (passes is None)
    assert "none passes" not in told


def test_entries_of_keys_without_an_interface_belong_to_the_first_that_has_the_address():
    """Agents up to 1.3.5 keep no ifindex: with two interfaces each entry is told once."""
    names = [veth_names("default", NGINX["metadata"]["name"], index)[0] for index in (0, 1)]
    key = ct_key(TRUE, 4000, OWN, 80, OWN, 7)[:20]
    maps = [map_row(21, 9, 20, 1, [(key, b"\5")]) if m["id"] == 21 else m for m in GOOD["maps"]]
    links = [link(names[0], 7), link(names[1], 8)]
    routes = [route(OWN, 7), route("10.0.4.77", 8)]
    second = [{**f, "ifindex": 8} for f in GOOD["filters"]]
    qdiscs = [clsact(7), clsact(8)]
    doc = {**GOOD, "maps": maps, "links": links, "routes": routes, "qdiscs": qdiscs}
    assert len(found({**doc, "filters": [*GOOD["filters"], *second]}, (Direction.INGRESS,)).flows) == 1
