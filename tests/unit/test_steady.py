"""The reader's bounds when a node changes under it, the section that it sends, and what everybody makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol import bundle
from kubectl_netpol.diagnose.check import Check, Report, asked_pods
from kubectl_netpol.errors import NodeError
from kubectl_netpol.kernel.view import NodeView, moment_of
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.node import reader
from kubectl_netpol.node.document import check_document, untold
from kubectl_netpol.policy.world import World
from kubectl_netpol.report.kernel import moment_text
from tests.faults.world import Objects
from tests.unit.test_check_cases import BUNDLE, NODE

Json = dict[str, Any]
POD = "nginx-f8d9c6576-8b4vf"


# ---- the loop


class Scripted:
    """Pictures whose looks find what the script says: a map that changed, or nothing."""

    def __init__(self, *script: str) -> None:
        self.script = list(script)
        self.forgotten = 0

    def __call__(self, wanted: Any, bpffs: Json) -> Scripted:
        self.document: Json = {}
        self.report = reader.Report()
        self.unchecked: set[int] = set()
        return self

    def changes(self, watch: Any) -> reader.Changes:
        found = reader.Changes()
        text = self.script.pop(0) if self.script else ""
        if text == "unknown":
            found.texts.append("could not look again: EPERM")
        elif text:
            found.maps.add(7)
            found.texts.append(text)
        return found

    def forget(self) -> None:
        self.forgotten += 1


def looked(monkeypatch: pytest.MonkeyPatch, *script: str) -> tuple[Json, Scripted, list[float]]:
    fake, pauses = Scripted(*script), list[float]()
    monkeypatch.setattr(reader, "Picture", fake)
    monkeypatch.setattr(reader.time, "sleep", pauses.append)
    wanted = reader.Wanted({}, [], {})
    _, section = reader.look_until_steady(wanted, {"path": None, "reason": ""})
    return section, fake, pauses


def test_a_node_that_holds_still_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    section, fake, pauses = looked(monkeypatch)
    assert (section["attempts"], section["steady"], section["changed"], pauses) == (1, True, [], [])
    assert section["open"] == {"links": [], "programs": [], "maps": [], "pins": []}
    assert fake.forgotten == 0


def test_what_changed_once_is_read_again_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    section, fake, pauses = looked(monkeypatch, "map 7: gone")
    assert (section["attempts"], section["steady"], section["changed"]) == (2, True, ["map 7: gone"])
    assert section["open"]["maps"] == [] and fake.forgotten == 1
    assert pauses == [reader.PAUSES[0]]


def test_what_never_holds_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    section, fake, pauses = looked(monkeypatch, *(f"map 7: {n}" for n in range(100)))
    assert (section["attempts"], section["steady"]) == (reader.MOST_LOOKS, False)
    assert section["open"]["maps"] == [7]
    assert len(section["changed"]) == reader.MOST_LOOKS and len(pauses) == reader.MOST_LOOKS - 1
    assert fake.forgotten == reader.MOST_LOOKS - 1, "the last picture is the one that is sent"


def test_no_reading_begins_after_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10**12, 4 * 10**9))
    monkeypatch.setattr(reader.time, "monotonic_ns", lambda: next(now))
    section, *_ = looked(monkeypatch, "map 7: a", "map 7: b")
    assert (section["attempts"], section["steady"]) == (1, False)
    assert section["took_ns"] == 8 * 10**9


def test_what_cannot_be_looked_at_again_is_not_known_to_be_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    section, *_ = looked(monkeypatch, "unknown", "unknown")
    assert (section["attempts"], section["steady"]) == (1, None)


def test_the_told_changes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_CHANGES", 2)
    section, *_ = looked(monkeypatch, "a", "b", "c")
    assert section["changed"] == ["a", "b"]


# ---- a map that is held against its trace


@given(st.lists(st.binary(min_size=8, max_size=8), max_size=40), st.integers(0, 200))
def test_a_trace_is_whole_or_known_not_to_be(pieces: list[bytes], room: int) -> None:
    trace = reader.Trace(room)
    trace.begin("batch")
    for piece in pieces:
        trace.add(piece[:4], piece[4:], 1)
    assert trace.count == len(pieces) and trace.size == 8 * len(pieces)
    assert trace.whole == (8 * len(pieces) <= room)
    if trace.whole:
        assert [keys + values for keys, values in trace.parts] == pieces
    else:
        assert trace.parts == [] or trace.size > room


@given(
    st.lists(st.binary(min_size=4, max_size=4), max_size=10), st.lists(st.binary(min_size=4, max_size=4), max_size=10)
)
def test_a_second_reading_is_the_same_only_if_it_is(first: list[bytes], second: list[bytes]) -> None:
    trace = reader.Trace(1 << 20)
    trace.begin("next_key")
    for piece in first:
        trace.add(piece, b"", 1)
    again = reader.Again(trace)
    try:
        for piece in second:
            again.add(piece, b"", 1)
        same = again.total == trace.count
    except reader.ChangedError:
        same = False
    assert same == (first == second)


@pytest.mark.parametrize(
    ("heard", "quiet"), [([BlockingIOError()], True), ([b"x", BlockingIOError()], False), ([OSError(105, "x")], False)]
)
def test_what_the_watch_hears(heard: list[Any], quiet: bool) -> None:
    class Link:
        def recv(self, size: int) -> bytes:
            found = heard.pop(0) if heard else BlockingIOError()
            if isinstance(found, Exception):
                raise found
            return bytes(found)

    watch = object.__new__(reader.Watch)
    watch.link = Link()
    assert watch.quiet() is quiet
    watch.link = None
    assert watch.quiet() is False, "without a socket all has to be compared"


# ---- the section in a document


def documented() -> Json:
    """Of a reader that looked once."""
    kept = Path(__file__).resolve().parents[1] / "bundles" / "format-1-0.1.0.tar.gz"
    [document] = Objects.of(bundle.read(str(kept))).nodes.values()
    return document


SECTION: Json = {
    "attempts": 2, "steady": True, "changed": ["map 7: gone"], "unchecked": [9], "took_ns": 80_000_000,
    "open": {"links": ["eni1"], "programs": [1], "maps": [2], "pins": ["maps/x"]},
}  # fmt: skip


def test_a_document_without_the_section_is_sound() -> None:
    document = documented()
    assert "consistency" not in document
    assert "consistency" not in check_document(document)
    moment = moment_of(document)
    assert (moment.steady, moment.attempts, moment.api_age_ns) == (None, 1, None)
    assert moment.took_ns > 0 and moment.at_ns > 0


def test_the_section_comes_through() -> None:
    section = {**SECTION, "api_age_ns": 1_200_000_000, "in_progress": ["NPE301 x"]}
    found = check_document({**documented(), "consistency": section})
    assert found["consistency"] == section
    assert check_document({**documented(), "consistency": None})["consistency"] is None
    assert check_document({**documented(), "consistency": untold(5)})["consistency"]["steady"] is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"attempts": 0}, "consistency.attempts"),
        ({"steady": 1}, "consistency.steady"),
        ({"changed": "all"}, "consistency.changed"),
        ({"changed": [5]}, "consistency.changed[0]"),
        ({"took_ns": -1}, "consistency.took_ns"),
        ({"unchecked": ["x"]}, "consistency.unchecked[0]"),
        ({"open": []}, "consistency.open"),
        ({"open": {"links": [], "programs": [], "maps": []}}, "consistency.open.pins"),
        ({"open": {**SECTION["open"], "maps": [None]}}, "consistency.open.maps[0]"),
        ({"api_age_ns": "1"}, "consistency.api_age_ns"),
        ({"in_progress": {}}, "consistency.in_progress"),
    ],
)
def test_a_wrong_field_is_named(change: Json, field: str) -> None:
    with pytest.raises(NodeError) as refused:
        check_document({**documented(), "consistency": {**SECTION, **change}})
    assert field in refused.value.message


def test_texts_come_out_printable_and_few() -> None:
    section = {**SECTION, "changed": ["\x1b[2J" + "x" * 9000] * 500}
    found = check_document({**documented(), "consistency": section})["consistency"]["changed"]
    assert len(found) == 100 and len(found[0]) <= 4096 and found[0].isprintable()


def test_how_it_is_told() -> None:
    document = {**documented(), "consistency": {**SECTION, "api_age_ns": 1_200_000_000}}
    document["clock"]["begin"]["realtime_ns"] = 1_767_355_203 * 10**9
    text = moment_text(moment_of(document))
    assert text == "in 0.08 s at 12:00:03Z, 1.2 s after the API was asked; it changed meanwhile, and was read 2 times"
    document["consistency"] |= {"steady": False, "attempts": 4}
    assert moment_text(moment_of(document)).endswith("; it changed at each of 4 readings: map 7: gone")
    document["clock"]["begin"]["realtime_ns"] = (1 << 64) - 1
    assert "in 0.08 s at " in moment_text(moment_of(document)), "a node may say anything"


# ---- what was still changing is unknown, and neither fine nor a fault


def unsteady(**still: Any) -> Objects:
    found = Objects.of(bundle.read(str(BUNDLE)))
    [document] = found.nodes.values()
    nothing: Json = {"links": [], "programs": [], "maps": [], "pins": []}
    section = {**SECTION, "steady": False, "attempts": 4, "open": {**nothing, **still}}
    document["consistency"] = section
    found.nodes[NODE] = check_document(json.loads(json.dumps(document, default=str)))
    return found


def report(objects: Objects) -> Report:
    snapshot = objects.snapshot()
    check = Check(World(snapshot), asked_pods(snapshot.items("pods")), whole=True)
    for node in check.by_node:
        check.node(node, snapshot.nodes[node])
    return check.report()


def kernel_of(objects: Objects) -> Any:
    [pod] = [one for one in objects.lists["pods"] if one["metadata"]["name"] == POD]
    return NodeView(objects.nodes[NODE]).pod("default", POD, [pod["status"]["podIP"]])


@pytest.mark.parametrize("what", ["links", "programs", "maps", "pins"])
def test_what_was_still_changing_is_unknown(what: str) -> None:
    plain = kernel_of(unsteady())
    view = plain.directions[Direction.INGRESS]
    value = {
        "links": [plain.veth],
        "programs": [view.program.id],
        "maps": [view.maps["np"].id],
        "pins": [view.program.pin],
    }[what]
    found = report(unsteady(**{what: value}))
    assert found.findings == (), "neither a fault"
    [row] = [one for one in found.rows if one.name == POD]
    assert "in progress" in row.reason, "nor fine"
    assert any(POD in text and "in progress" in text for text in found.unread)
    assert "?" in (row.attached, row.pinned)
    # The other pods of the node are as they were.
    assert all(one.reason == "" for one in found.rows if one.name != POD)


def test_a_pin_that_came_meanwhile_is_no_proof_of_anything() -> None:
    """Neither of a pod that is gone, nor that its own is not there."""
    pins = ["maps/new-abc@default_ingress_map", "programs/new-abc@default_handle_ingress"]
    found = report(unsteady(pins=pins))
    assert found.findings == () and found.unread == ()


def test_a_global_pin_that_changes_is_no_fault_of_a_pod() -> None:
    found = report(unsteady(pins=["maps/global_aws_conntrack_map"]))
    assert found.findings == ()
    assert len(found.unread) == len(found.rows) and all("in progress" in text for text in found.unread)


def test_a_fault_beside_what_changes_is_still_one() -> None:
    objects = unsteady(links=["eni00000000000"])
    [document] = objects.nodes.values()
    document["filters"] = [one for one in document["filters"] if one["name"] != "handle_ingress"]
    assert {"NPE402"} <= {one.code for one in report(objects).findings}


def test_what_was_in_progress_at_the_capture_is_told_of_a_bundle() -> None:
    objects = unsteady()
    objects.nodes[NODE]["consistency"] |= {"steady": True, "in_progress": ["NPE301 x lacks y: otherwise 1.6 s later"]}
    found = report(objects)
    assert [one.text for one in found.in_progress] == ["NPE301 x lacks y: otherwise 1.6 s later"]
    assert found.findings == ()
