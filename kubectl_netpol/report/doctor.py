"""`doctor`: how many topics failed, all topics as a table, then what mends those that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kubectl_netpol.model.doctor import Line, State
from kubectl_netpol.report.check import ALIKE, finding_data
from kubectl_netpol.report.output import API_VERSION
from kubectl_netpol.report.text import clean, clean_lines, indent, table

Json = dict[str, Any]


def as_text(lines: Sequence[Line], notes: Iterable[str], wide: bool, with_headers: bool) -> str:
    columns = ["TOPIC", "STATE", "FOUND", *(["READ FROM"] if wide else [])]
    shown = list(lines if wide else _some(lines))
    cells = [[one.topic, one.state.value, one.text, *([one.source] if wide else [])] for one in shown]
    found = [summary(lines), *(f"  note: {note}" for note in notes), ""]
    found.append(indent(table(columns, cells, with_headers=with_headers)))
    for one in shown:
        if one.state is State.FAILED and (one.finding is not None or one.remedies):
            found += ["", *_mending(one)]
    return "\n".join(clean_lines(found))


def _some(lines: Iterable[Line]) -> Iterator[Line]:
    """Of findings of one code the first ones: a fault of all nodes is told of some, and how many more there are."""
    counts = Counter(_alike(one) for one in lines)
    told: Counter[tuple[str, str]] = Counter()
    for one in lines:
        kind = _alike(one)
        told[kind] += 1
        if told[kind] <= ALIKE:
            yield one
        elif told[kind] == ALIKE + 1:
            yield Line(one.topic, one.state, f"{counts[kind] - ALIKE} more like it; -o wide tells all", one.source)


def _alike(one: Line) -> tuple[str, str]:
    return one.topic, one.finding.code if one.finding is not None else ""


def summary(lines: Sequence[Line]) -> str:
    """`2 of 22 topics failed, and 1 could not be told.`"""
    failed, unknown = (_topics(lines, state) for state in (State.FAILED, State.UNKNOWN))
    topics = len({one.topic for one in lines})
    if not failed and not unknown:
        return f"all {topics} topics are ok."
    told = f"{failed} of {topics} topics failed" if failed else f"none of {topics} topics failed"
    return f"{told}, and {unknown} could not be told." if unknown else f"{told}."


def _topics(lines: Iterable[Line], state: State) -> int:
    return len({one.topic for one in lines if one.state is state})


def _mending(one: Line) -> Iterator[str]:
    code = f"{one.finding.code} " if one.finding is not None else ""
    yield f"{code}{one.topic}: {one.text}"
    for evidence in one.finding.evidence if one.finding is not None else ():
        yield f"    {evidence.source}: {evidence.value}"
    for remedy in one.remedies:
        yield f"  try: {remedy.command}"
        yield f"    side effect: {remedy.effect}"
    if one.finding is not None:
        yield f"  see: {one.finding.kind.page}"


def as_data(lines: Sequence[Line], notes: Iterable[str]) -> Json:
    return {
        "apiVersion": API_VERSION,
        "kind": "Doctor",
        "answer": summary(lines),
        "counts": {state.value: _topics(lines, state) for state in State},
        "notes": [clean(note) for note in notes],
        "topics": [_line_data(one) for one in lines],
    }


def _line_data(one: Line) -> Json:
    return {
        "topic": one.topic,
        "state": one.state.value,
        "found": clean(one.text),
        "source": clean(one.source),
        "remedies": [{"command": clean(r.command), "sideEffect": clean(r.effect)} for r in one.remedies],
        "finding": finding_data(one.finding) if one.finding is not None else None,
    }
