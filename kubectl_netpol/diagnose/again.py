"""What is left of a report once the API was asked again: pods and PolicyEndpoints that came or went meanwhile are no
fault of a node that was read in between."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.check import PodRow, Report
from kubectl_netpol.model.finding import Finding, Where

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
    findings.WRONG_POD_STATE,
    findings.PIN_WITHOUT_POD,
    findings.POD_WITHOUT_PIN,
    findings.NOT_ATTACHED,
    findings.OPEN_POD,
)
"""Findings that objects of another moment can make."""


def doubtful(found: Iterable[Finding]) -> bool:
    """Whether any of these may come from what changed between the API's answer and the node's."""
    return any(one.kind in SUDDEN for one in found)


def confirmed(first: Report, second: Report, nodes: Collection[str]) -> Report:
    """The first report less what the second does not say. ``nodes``: whose documents the second looked at, too."""
    places = {row.key: row.node for row in first.rows}
    said = {(one.code, one.subject): one for one in second.findings}
    kept = [one for one in first.findings if not _looked_at(one, places, nodes) or (one.code, one.subject) in said]
    left = [said.get((one.code, one.subject), one) if _looked_at(one, places, nodes) else one for one in kept]
    codes = {(key, one.code) for one in left for key in one.pods}
    newer = {row.key: row for row in second.rows}
    rows = [newer.get(row.key) if row.node in nodes else row for row in first.rows]
    told = [replace(row, codes=tuple(c for c in row.codes if (row.key, c) in codes)) for row in rows if row is not None]
    return replace(first, rows=tuple(told), findings=tuple(left), unread=_unread(first, second, told, nodes))


def _looked_at(one: Finding, places: dict[tuple[str, str], str], nodes: Collection[str]) -> bool:
    if one.kind not in SUDDEN:
        return False
    if one.kind.where is Where.ENDPOINTS:
        return True
    return one.node in nodes if one.node else all(places.get(pod) in nodes for pod in one.pods)


def _unread(first: Report, second: Report, rows: Iterable[PodRow], nodes: Collection[str]) -> tuple[str, ...]:
    """Pods of these nodes as the second look has them."""
    gone = tuple(f"pod {row.namespace}/{row.name}: " for row in first.rows if row.node in nodes)
    there = tuple(f"pod {row.namespace}/{row.name}: " for row in rows if row.node in nodes)
    kept = [text for text in first.unread if not text.startswith(gone)]
    return (*kept, *(text for text in second.unread if text.startswith(there)))
