"""Two looks held against each other: what stays, what moved, and what that makes of an answer. Pure."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol import bundle, looking
from kubectl_netpol.diagnose import explain as explainer
from kubectl_netpol.diagnose import findings, looks
from kubectl_netpol.diagnose.again import as_seen, confirmed, fresh, stays, together
from kubectl_netpol.diagnose.check import PodRow, Report
from kubectl_netpol.diagnose.looks import Sign
from kubectl_netpol.diagnose.plan import Question, make_plan
from kubectl_netpol.errors import UsageError
from kubectl_netpol.model.finding import Finding, InProgress, Kind
from kubectl_netpol.model.snapshot import NodeReading, Snapshot
from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.node.document import check_document, raw_entries
from kubectl_netpol.policy.world import World
from kubectl_netpol.progress import Progress
from tests.faults.world import Objects
from tests.unit.test_check_cases import BUNDLE, NODE

Json = dict[str, Any]
KEYS = st.tuples(st.sampled_from(["finding", "leg", "direction"]), st.sampled_from("abc"))
PARTS = st.frozensets(st.sampled_from("xyz"), max_size=3)
SIGNS = st.dictionaries(KEYS, st.builds(Sign, st.just("text"), PARTS), max_size=5)


# ---- signs


@given(SIGNS)
def test_what_both_looks_saw_stays(signs: Any) -> None:
    assert looks.persisting(signs, signs) == signs
    assert looks.moved([(signs, 0), (signs, 10)]) == ()


@given(SIGNS, SIGNS)
def test_what_stays_was_there_both_times(before: Any, last: Any) -> None:
    stayed = looks.persisting(before, last)
    assert set(stayed) <= set(before) & set(last)
    for key in set(before) & set(last) - set(stayed):
        assert before[key].parts and last[key].parts and not before[key].parts & last[key].parts


@given(st.lists(SIGNS, min_size=2, max_size=3))
def test_nothing_is_lost_between_what_stays_and_what_moved(seen: list[Any]) -> None:
    """Every sign of every look is a fault that stays or is told to be in progress, and none is both."""
    dated = [(signs, 10 * number) for number, signs in enumerate(seen)]
    stayed = looks.persisting(seen[-2], seen[-1])
    moved = looks.moved(dated)
    every = {key for signs in seen for key in signs} - set(stayed)
    told = {(key[0], one.subject) for one in moved for key in every if one.subject == key[1]}
    if any(key[0] == "finding" for key in every):
        assert {key for key in every if key[0] == "finding"} <= told
    else:
        assert every <= told
    assert (not moved) == (not every)
    assert all(one.apart_ns > 0 for one in moved)


def test_one_look_says_nothing_about_what_moves() -> None:
    assert looks.moved([({("finding", "a"): Sign("x")}, 0)]) == ()


# ---- reports of check


KINDS = (findings.MISSING_ENTRIES, findings.OTHER_PROGRAM, findings.FOREIGN)
NAMES = ("a", "b")


def finding(kind: Kind, name: str, parts: frozenset[str]) -> Finding:
    return Finding(kind, f"{kind.code} of {name}", subject=f"pod n/{name}", pods=frozenset({("n", name)}), parts=parts)


def row(name: str, found: list[Finding]) -> PodRow:
    codes = tuple(sorted({one.code for one in found if ("n", name) in one.pods}))
    pinned = "DRIFT" if "NPE301" in codes else "ok"
    attached = "STALE" if "NPE401" in codes else "FOREIGN" if "NPE406" in codes else "ok"
    return PodRow("n", name, "node", "", "1 policy", "1", pinned, attached, "POLICIES_APPLIED", codes)


def made(found: list[Finding]) -> Report:
    unique = list({(one.code, one.subject): one for one in found}.values())
    return Report(tuple(row(name, unique) for name in NAMES), tuple(unique), ())


FOUND = st.lists(st.builds(finding, st.sampled_from(KINDS), st.sampled_from(NAMES), PARTS), max_size=5)
REPORTS = FOUND.map(made)


@given(REPORTS, REPORTS)
def test_a_fault_is_what_both_looks_saw(first: Report, second: Report) -> None:
    left = confirmed(first, second, {"node"}, 5)
    later = {(one.code, one.subject): one for one in second.findings}
    for one in left.findings:
        if one.kind is findings.FOREIGN:
            # Not one that an agent can be in the middle of: as the first look saw it.
            assert one in first.findings
        else:
            assert one is later[one.code, one.subject]
    told = {(one.code, one.subject) for one in left.in_progress}
    kept = {(one.code, one.subject) for one in left.findings}
    assert not told & kept
    late = {(o.code, o.subject) for o in (*first.findings, *second.findings) if o.kind is not findings.FOREIGN}
    assert late <= told | kept, "what was seen is told, in one way or the other"


@given(REPORTS, REPORTS)
def test_rows_tell_of_what_stays_alone(first: Report, second: Report) -> None:
    left = confirmed(first, second, {"node"})
    for one in left.rows:
        codes = {found.code for found in left.findings if one.key in found.pods}
        assert set(one.codes) <= codes
        assert (one.pinned == "DRIFT") == ("NPE301" in one.codes)
        assert (one.attached == "STALE") == ("NPE401" in one.codes)


@given(REPORTS, REPORTS, REPORTS)
def test_a_third_look_settles_what_the_second_saw_first(first: Report, second: Report, third: Report) -> None:
    left = confirmed(as_seen(first, second, {"node"}, 5), third, {"node"}, 7)
    middle = {(one.code, one.subject): one for one in second.findings}
    last = {(one.code, one.subject): one for one in third.findings}
    for one in left.findings:
        if one.kind is not findings.FOREIGN:
            assert stays(middle[one.code, one.subject], last[one.code, one.subject])
    if not fresh(first, second, {"node"}):
        again = confirmed(first, second, {"node"}, 5)
        assert {(one.code, one.subject) for one in left.findings} <= {(o.code, o.subject) for o in again.findings}


@given(REPORTS)
def test_the_same_again_changes_nothing(report: Report) -> None:
    left = confirmed(report, report, {"node"})
    assert (left.findings, left.rows, left.in_progress) == (report.findings, report.rows, ())
    assert not fresh(report, report, {"node"})


def test_of_other_nodes_nothing_is_known() -> None:
    report = made([finding(findings.MISSING_ENTRIES, "a", frozenset())])
    assert confirmed(report, made([]), set()).findings == report.findings


def test_together_tells_each_once() -> None:
    one = InProgress("x", "NPE301", "pod n/a", 5)
    assert together([one, one, InProgress("x", "NPE301", "pod n/a", 9)]) == (one,)
    assert together([one], [finding(findings.MISSING_ENTRIES, "a", frozenset())]) == ()


def test_how_it_is_told() -> None:
    assert InProgress("x lacks y", "NPE301", "", 1_600_000_000).text == "NPE301 x lacks y: otherwise 1.6 s later"
    assert InProgress("x", "", "", 1_600_000_000, came=True).text == "x: not so 1.6 s before"
    assert InProgress("as a bundle says").text == "as a bundle says"


# ---- the loop around explain


class Cluster:
    """A live cluster that is at another state at each look."""

    def __init__(self, *states: Objects) -> None:
        self.states = list(states)
        self.looked: list[bool] = []
        self.open = False

    @contextmanager
    def holding(self) -> Iterator[None]:
        self.open = True
        yield
        self.open = False

    def release(self, node: str) -> None:
        raise AssertionError

    def look(self, question: Question) -> Callable[[bool], Any]:
        def one(thorough: bool) -> Any:
            assert self.open
            self.looked.append(thorough)
            snapshot = (self.states.pop(0) if len(self.states) > 1 else self.states[0]).snapshot()
            plan = make_plan(question, "default", World(snapshot))
            found = explainer.explain(plan, snapshot)
            return looking.Look(found, looks.of_explanation(found, snapshot), snapshot)

        return one


def now() -> Objects:
    return Objects.of(bundle.read(str(BUNDLE)))


def late() -> Objects:
    """The controller let one more in than the agent has written."""
    found = now()
    found.one("policyendpoints", "access-nginx")["spec"]["ingress"].append({"cidr": "172.31.98.99"})
    pod = copy.deepcopy(found.one("pods", "accesstrue"))
    pod["metadata"] |= {"name": "new", "uid": "new"}
    pod["status"] |= {"podIP": "172.31.98.99", "podIPs": [{"ip": "172.31.98.99"}]}
    found.lists["pods"].append(pod)
    return found


def written() -> Objects:
    """The agent has written it, in the place of the other one that it let in."""
    found = late()
    [document] = found.nodes.values()
    old, new = (bytes(map(int, address.split("."))) for address in ("172.31.101.218", "172.31.98.99"))
    for row in document["maps"]:
        contents = row["contents"]
        if contents and row["key_size"] == 8:
            for key, value in list(raw_entries(row)):
                if key[4:] == old:
                    entries = [*raw_entries(row), (key[:4] + new, value)]
                    for name, parts in zip(("keys", "values"), zip(*entries, strict=True), strict=True):
                        contents[name] = base64.b64encode(b"".join(parts)).decode()
                    contents["count"] = contents["total"] = len(entries)
                    row["contents"] = dict(contents)
    found.nodes[NODE] = check_document(document)
    return found


POD, FLOW = Question("pod/nginx"), Question("pod/nginx", source="pod/new", port="80")


def explained(
    question: Question, *states: Objects, monkeypatch: pytest.MonkeyPatch
) -> tuple[explainer.Explanation, Cluster, list[float]]:
    pauses: list[float] = []
    monkeypatch.setattr(looking.time, "sleep", pauses.append)
    cluster = Cluster(*states)
    found, seen = looking.until_settled(cluster, cluster.look(question), Progress(False))  # type: ignore[arg-type]
    assert not cluster.open
    return looks.settled(found.answer, seen), cluster, pauses


def test_where_all_agrees_there_is_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    found, cluster, pauses = explained(POD, now(), monkeypatch=monkeypatch)
    assert (found.agrees, found.in_progress, cluster.looked, pauses) == (True, (), [False], [])


def test_what_comes_late_is_in_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    found, cluster, pauses = explained(POD, late(), now(), monkeypatch=monkeypatch)
    assert (found.agrees, found.findings, cluster.looked) == (True, (), [False, True])
    assert [one.code for one in found.in_progress] == ["NPE301"]
    assert pauses == [looking.PAUSE_SECONDS]


def test_what_never_comes_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    found, cluster, _ = explained(POD, late(), late(), monkeypatch=monkeypatch)
    assert found.agrees is False and {one.code for one in found.findings} == {"NPE301"}
    assert found.in_progress == () and len(cluster.looked) == 2


def test_of_a_flow_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stays_, *_ = explained(FLOW, late(), late(), monkeypatch=monkeypatch)
    assert stays_.decision is Decision.DENY and stays_.findings and stays_.in_progress == ()
    arrived, *_ = explained(FLOW, late(), written(), monkeypatch=monkeypatch)
    # Of the pod that came, which this node does not have, nothing else is known.
    assert arrived.legs[0].decision is Decision.ALLOW and "NPE301" not in {one.code for one in arrived.findings}
    assert [one.code for one in arrived.in_progress] == ["NPE301"]


def test_what_is_otherwise_each_time_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another entry is missing at each look: nothing is known to be wrong, and nothing to be fine."""
    states = []
    for number in range(3):
        state = late()
        state.one("policyendpoints", "access-nginx")["spec"]["ingress"][-1]["cidr"] = f"172.31.98.{100 + number}"
        state.one("pods", "new")["status"] |= {
            "podIP": f"172.31.98.{100 + number}",
            "podIPs": [{"ip": f"172.31.98.{100 + number}"}],
        }
        states.append(state)
    found, cluster, _ = explained(POD, *states, monkeypatch=monkeypatch)
    assert len(cluster.looked) == looking.MOST_LOOKS
    assert (found.agrees, found.decision, found.findings) == (None, Decision.UNKNOWN, ())
    assert found.answer.endswith("it was otherwise at each look: in progress.")
    assert {one.code for one in found.in_progress} >= {"NPE301"}


def test_a_look_that_fails_does_not_count(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The pod is gone: what was seen of it is told."""
    gone = now()
    gone.drop("pods", "nginx")
    found, *_ = explained(POD, late(), gone, monkeypatch=monkeypatch)
    assert found.agrees is False and found.in_progress == ()
    assert "warning: no further look: " in capsys.readouterr().err
    with pytest.raises(UsageError):
        make_plan(POD, "default", World(gone.snapshot()))


@pytest.mark.parametrize("what", ["node", "kind"])
def test_a_look_that_could_read_less_does_not_count(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    less = now()
    if what == "node":
        less.nodes = {}
        plain = Objects.snapshot

        def without(objects: Objects) -> Snapshot:
            made = plain(objects)
            nodes = made.nodes or {NODE: NodeReading(None, "the debug pod is gone")}
            return Snapshot(made.collections, nodes, made.taken_at, made.tool_version, made.namespace)

        monkeypatch.setattr(Objects, "snapshot", without)
    else:
        less.unread["policyendpoints"] = "403"
    found, *_ = explained(POD, late(), less, monkeypatch=monkeypatch)
    assert found.agrees is False, "the first look's answer"
    assert "a further look does not count: " in capsys.readouterr().err


def test_a_bundle_is_looked_at_once() -> None:
    source, cluster = bundle.BundleSource(str(BUNDLE)), Cluster(late(), now())
    cluster.open = True
    found, seen = looking.until_settled(source, cluster.look(POD), Progress(False))
    assert cluster.looked == [False] and len(seen) == 1
    assert looks.settled(found.answer, seen) is found.answer
    with looking.held(source):
        looking.release(source, NODE)


def test_a_node_that_never_holds_still_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    restless = now()
    restless.nodes[NODE]["consistency"] = {
        "attempts": 4, "steady": False, "changed": ["filter eni1 ingress: program 1 -> 2"], "unchecked": [],
        "took_ns": 5, "open": {"links": ["eni1"], "programs": [], "maps": [], "pins": []},
    }  # fmt: skip
    found, cluster, _ = explained(POD, restless, now(), monkeypatch=monkeypatch)
    assert len(cluster.looked) == 2 and found.agrees is True
    [told] = found.in_progress
    assert told.what == f"node {NODE} changed while it was read: filter eni1 ingress: program 1 -> 2"


# ---- what a capture can put into a bundle


def test_a_reading_can_carry_what_was_in_progress() -> None:
    section = {"attempts": 1, "steady": True, "changed": [], "unchecked": [], "took_ns": 5, "open": {}}
    texts = [InProgress("x lacks y", "NPE301", "", 1_600_000_000).text]
    found = looking.carrying(NodeReading({"consistency": section}), texts)
    assert found.document == {"consistency": {**section, "in_progress": ["NPE301 x lacks y: otherwise 1.6 s later"]}}
    assert "in_progress" not in section, "the reading itself stays as it is"
    old, gone = NodeReading({}), NodeReading(None, "why")
    assert looking.carrying(old, texts) is old and looking.carrying(gone, texts) is gone
