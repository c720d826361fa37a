"""What is left of the findings of `check` once the API was asked again."""

from __future__ import annotations

import copy
from typing import Any

from kubectl_netpol import bundle
from kubectl_netpol.diagnose.again import confirmed, doubtful
from kubectl_netpol.diagnose.check import Check, Report, asked_pods
from kubectl_netpol.policy.world import World
from tests.faults.world import Objects
from tests.unit.test_check_cases import BUNDLE, NODE

Json = dict[str, Any]


def report(objects: Objects) -> Report:
    snapshot = objects.snapshot()
    check = Check(World(snapshot), asked_pods(snapshot.items("pods")), whole=True)
    for node in check.by_node:
        check.node(node, snapshot.nodes[node])
    return check.report()


def now() -> Objects:
    return Objects.of(bundle.read(str(BUNDLE)))


def before_a_pod_came() -> Objects:
    """The API as it was when the pod that nginx admits was not there yet; the node is that of now."""
    found = now()
    found.drop("pods", "accesstrue")
    found.one("policyendpoints", "access-nginx")["spec"]["ingress"] = []
    return found


def before_a_pod_went() -> Objects:
    """A second one that nginx admits, whose network, pins and entries are gone."""
    found = now()
    gone = copy.deepcopy(found.one("pods", "accesstrue"))
    gone["metadata"] |= {"name": "gone-1", "uid": "gone"}
    gone["status"] |= {"podIP": "172.31.98.99", "podIPs": [{"ip": "172.31.98.99"}]}
    found.lists["pods"].append(gone)
    found.one("policyendpoints", "access-nginx")["spec"]["ingress"].append({"cidr": "172.31.98.99"})
    return found


def codes(found: Report) -> set[str]:
    return {one.code for one in found.findings}


def test_a_pod_that_came_meanwhile_is_no_fault() -> None:
    first = report(before_a_pod_came())
    assert codes(first) == {"NPE302", "NPE306"} and doubtful(first.findings)
    left = confirmed(first, report(now()), {NODE})
    assert left.findings == () and left.unread == ()
    assert all(row.codes == () for row in left.rows)
    assert {row.pinned for row in left.rows} == {"ok"}


def test_a_pod_that_went_meanwhile_is_no_fault() -> None:
    first = report(before_a_pod_went())
    assert {"NPE301", "NPE307"} <= codes(first) and first.unread
    left = confirmed(first, report(now()), {NODE})
    assert (left.findings, left.unread) == ((), ())
    assert "gone-1" not in {row.name for row in left.rows}


def test_what_is_there_both_times_stays() -> None:
    first = before_a_pod_came()
    second = now()
    for objects in (first, second):
        [document] = objects.nodes.values()
        document["filters"] = [one for one in document["filters"] if one["name"] != "handle_ingress"]
    left = confirmed(report(first), report(second), {NODE})
    assert codes(left) == {"NPE402", "NPE411"}
    assert {row.name for row in left.rows if "NPE402" in row.codes} == {"nginx-f8d9c6576-8b4vf"}


def test_of_nodes_that_were_not_looked_at_again_all_stays() -> None:
    first = report(before_a_pod_came())
    left = confirmed(first, report(now()), set())
    assert codes(left) == {"NPE302", "NPE306"}
    assert left.rows == first.rows


def test_what_the_controller_had_yet_to_do() -> None:
    """Findings by the API alone are asked for again whatever node was read."""
    late = now()
    late.drop("policyendpoints")
    assert codes(confirmed(report(late), report(now()), set())) == set()
    assert "NPE201" in codes(confirmed(report(late), report(late), set()))


def test_settings_are_not_asked_for_again() -> None:
    off = now()
    off.flag("enable-network-policy", "false")
    first = report(off)
    assert "NPE602" in codes(confirmed(first, report(now()), {NODE}))
    assert not doubtful(one for one in first.findings if one.code == "NPE602")
