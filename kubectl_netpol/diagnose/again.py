"""What is left of a report after a second look: what came or went between the two is under way, and no fault."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.check import PodRow, Report
from kubectl_netpol.model.finding import Finding, InProgress, Kind, Severity, Where

SUDDEN = (
    findings.NO_ENDPOINT,
    findings.ENTRIES_BEHIND,
    findings.PODS_BEHIND,
    findings.SPEC_BEHIND,
    findings.LEFT_BEHIND,
    findings.WRONG_ADDRESS,
    findings.MISSING_ENTRIES,
    findings.UNWANTED_ENTRIES,
    findings.OTHER_PORTS,
    findings.NO_POD_STATE,
    findings.WRONG_POD_STATE,
    findings.PIN_WITHOUT_POD,
    findings.POD_WITHOUT_PIN,
    findings.BOTH_FORMS,
    findings.NODE_DROPPED,
    findings.OTHER_PROGRAM,
    findings.NOT_ATTACHED,
    findings.OTHER_MAP,
    findings.NO_MAPS,
    findings.OTHER_DIRECTION,
    findings.NEVER_RUNS,
    findings.SECOND_INTERFACE,
    findings.OTHER_VETH,
    findings.OPEN_POD,
    findings.OTHER_CONNTRACK,
)
"""Findings that a controller or agent can make which is a moment behind, or in the middle of its work."""
BUSY = "busy"
"""In the place of a column's word: one look saw a difference there, and the next one did not."""


def doubtful(found: Iterable[Finding]) -> bool:
    """Whether any of these may come from what was under way when it was read."""
    return any(one.kind in SUDDEN for one in found)


def stays(one: Finding, later: Finding | None) -> bool:
    """Whether a later look saw the same. Of two that consist of parts none of which they share it did not."""
    if later is None:
        return False
    return not (one.parts and later.parts) or bool(one.parts & later.parts)


def confirmed(first: Report, second: Report, nodes: Collection[str], apart_ns: int = 0) -> Report:
    """What both looks say; the rest is in progress. ``nodes``: whose pods the second looked at, too."""
    places = {row.key: row.node for row in first.rows}
    before, after = _by_subject(first.findings), _by_subject(second.findings)
    left: list[Finding] = []
    moved: list[InProgress] = []
    for one in first.findings:
        later = after.get((one.code, one.subject))
        if not _looked_at(one, places, nodes):
            left.append(one)
        elif later is not None and stays(one, later):
            left.append(later)
        else:
            moved.append(in_progress(one, apart_ns))
    for one in _fresh(before, second, nodes):
        moved.append(in_progress(one, apart_ns, came=True))
    rows = _rows(first, second, left, nodes)
    return replace(
        first,
        rows=tuple(rows),
        findings=tuple(left),
        unread=_unread(first, second, rows, nodes),
        in_progress=together((*first.in_progress, *moved), left),
        moments={**first.moments, **second.moments},
    )


def fresh(first: Report, second: Report, nodes: Collection[str]) -> bool:
    """Whether the second look saw what the first one did not: only one more tells whether that stays."""
    return any(True for _ in _fresh(_by_subject(first.findings), second, nodes))


def as_seen(first: Report, second: Report, nodes: Collection[str], apart_ns: int = 0) -> Report:
    """The first report with all that the second look saw in its place, to be held against a third one."""
    merged = confirmed(first, second, nodes, apart_ns)
    before = _by_subject(first.findings)
    new = tuple(_fresh(before, second, nodes))
    newer = {row.key: row for row in second.rows}
    rows = tuple(newer.get(row.key, row) if row.node in nodes else row for row in merged.rows)
    return replace(merged, findings=(*merged.findings, *new), rows=rows)


def in_progress(one: Finding, apart_ns: int, *, came: bool = False) -> InProgress:
    return InProgress(one.title, one.code, one.subject, apart_ns, one.pods, came)


def together(moved: Iterable[InProgress], left: Iterable[Finding] = ()) -> tuple[InProgress, ...]:
    """Each once, and not those that turned out to stay: those are findings."""
    stayed = {(one.code, one.subject) for one in left}
    found: dict[tuple[str, str], InProgress] = {}
    for one in moved:
        found.setdefault((one.code, one.subject or one.what), one)
    return tuple(one for one in found.values() if not one.code or (one.code, one.subject) not in stayed)


def _by_subject(found: Iterable[Finding]) -> dict[tuple[str, str], Finding]:
    return {(one.code, one.subject): one for one in found}


def _fresh(before: Mapping[tuple[str, str], Finding], second: Report, nodes: Collection[str]) -> Iterator[Finding]:
    places = {row.key: row.node for row in second.rows}
    for one in second.findings:
        if _looked_at(one, places, nodes):
            earlier = before.get((one.code, one.subject))
            if earlier is None or not stays(earlier, one):
                yield one


def _looked_at(one: Finding, places: Mapping[tuple[str, str], str], nodes: Collection[str]) -> bool:
    if one.kind not in SUDDEN:
        return False
    if one.kind.where is Where.ENDPOINTS:
        return True
    return one.node in nodes if one.node else all(places.get(pod) in nodes for pod in one.pods)


def _rows(first: Report, second: Report, left: Iterable[Finding], nodes: Collection[str]) -> list[PodRow]:
    codes = {(key, one.code) for one in left for key in one.pods}
    newer = {row.key: row for row in second.rows}
    rows = [newer.get(row.key) if row.node in nodes else row for row in first.rows]
    return [_settled(row, codes) for row in rows if row is not None]


def _settled(row: PodRow, codes: Collection[tuple[tuple[str, str], str]]) -> PodRow:
    """The row without what did not stay. A layer that differed because of that alone is busy."""
    kept = tuple(code for code in row.codes if (row.key, code) in codes)
    moved = _layers(code for code in row.codes if code not in kept) - _layers(kept)

    def word(now: str, bad: tuple[str, ...], where: Where) -> str:
        return BUSY if now in bad and where in moved else now

    return replace(
        row,
        codes=kept,
        endpoints=word(row.endpoints, ("DRIFT",), Where.ENDPOINTS),
        pinned=word(row.pinned, ("DRIFT",), Where.PINNED),
        attached=word(row.attached, ("STALE", "NONE"), Where.ATTACHED),
    )


def _layers(codes: Iterable[str]) -> set[Where]:
    kinds: list[Kind] = [findings.KINDS[code] for code in codes]
    return {kind.where for kind in kinds if kind.severity is Severity.ERROR or kind is findings.OPEN_POD}


def _unread(first: Report, second: Report, rows: Iterable[PodRow], nodes: Collection[str]) -> tuple[str, ...]:
    """Pods of these nodes as the second look has them."""
    gone = tuple(f"pod {row.namespace}/{row.name}: " for row in first.rows if row.node in nodes)
    there = tuple(f"pod {row.namespace}/{row.name}: " for row in rows if row.node in nodes)
    kept = [text for text in first.unread if not text.startswith(gone)]
    return (*kept, *(text for text in second.unread if text.startswith(there)))
