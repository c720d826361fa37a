"""`drops POD`: the logged flows of a pod, the answer first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kubectl_netpol.diagnose.drops import DropReport, DropRow, Kind
from kubectl_netpol.kernel.flowlog import DENY, UNKNOWN_PROTOCOL, time_text
from kubectl_netpol.model.flow import WITH_PORTS, Address, port_text, protocol_name
from kubectl_netpol.policy.world import node_of, ref
from kubectl_netpol.report.check import finding_data, finding_lines
from kubectl_netpol.report.output import API_VERSION
from kubectl_netpol.report.text import age_text, clean, clean_lines, indent, table

Json = dict[str, Any]

WORDS = {
    Kind.STILL_DENIED: "still denied",
    Kind.STARTUP: "start-up",
    Kind.STALE_REPLY: "stale reply",
    Kind.NOISE: "noise",
    Kind.ALLOWED_NOW: "allowed now",
    Kind.OTHER_END: "other end",
    Kind.UNKNOWN: "unknown",
}
COLUMNS = ("LAST", "COUNT", "DIRECTION", "SOURCE", "DESTINATION", "PORT", "VERDICT", "KIND", "WHY")
WIDE_COLUMNS = (
    "LAST", "FIRST", "COUNT", "DIRECTION", "SOURCE", "SOURCE PORT", "DESTINATION", "PORT", "TIER", "VERDICT",
    "KIND", "WHY",
)  # fmt: skip
FOLLOWED_WIDTHS = (20, 5, 9, 30, 30, 9, 7, 12, 0)
WIDE_FOLLOWED_WIDTHS = (20, 20, 5, 9, 30, 11, 30, 9, 14, 7, 12, 0)


def as_text(found: DropReport, wide: bool, with_headers: bool) -> str:
    lines = [summary(found)]
    lines += [f"  could not be told: {reason}" for reason in found.unread]
    lines += [f"  note: {note}" for note in found.notes]
    lines += [f"  {line}" for one in found.findings for line in finding_lines(one, full=True)]
    rows = table(_columns(wide), [cells(row, wide) for row in found.rows], with_headers=with_headers)
    if rows:
        lines += ["", indent(rows)]
    return "\n".join(clean_lines(lines))


def summary(found: DropReport) -> str:
    """`shop/web-1 on node a: 14 drops of 3 flows in the last 10m: 1 still denied, 2 allowed now.`"""
    flows = sum(row.verdict == DENY for row in found.rows)
    accepted = sum(row.count for row in found.rows if row.verdict != DENY)
    kinds = [f"{found.of_kind(kind)} {WORDS[kind]}" for kind in Kind if found.of_kind(kind)]
    what = f"{_number(found.denied, 'drop')} of {_number(flows, 'flow')}" if flows else "no drops"
    if not flows and found.unread:
        what = "no drops are known of"
    text = f"{ref(found.pod)} on node {node_of(found.pod)}: {what} in the last {age_text(int(found.seconds * 1e9))}"
    text += f": {', '.join(kinds)}" if kinds else ""
    text += f"; {_number(accepted, 'accepted packet')}" if accepted else ""
    if found.unread:
        text += ", as far as could be read" if flows else ", which does not mean that there were none"
    return f"{text}."


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _columns(wide: bool) -> Sequence[str]:
    return WIDE_COLUMNS if wide else COLUMNS


def cells(row: DropRow, wide: bool) -> tuple[str, ...]:
    """The columns of one row."""
    flow = row.flow
    found = {
        "LAST": _time(row.last),
        "FIRST": _time(row.first),
        "COUNT": str(row.count),
        "DIRECTION": row.direction.value,
        "SOURCE": _end(flow.source, row.source),
        "SOURCE PORT": "-" if flow.source_port is None else str(flow.source_port),
        "DESTINATION": _end(flow.destination, row.destination),
        "PORT": "unknown" if flow.protocol == UNKNOWN_PROTOCOL else port_text(flow.protocol, flow.port),
        "TIER": row.tier or "-",
        "VERDICT": row.verdict,
        "KIND": WORDS[row.kind] if row.kind else "-",
        "WHY": row.why or "-",
    }
    return tuple(clean(found[name]) for name in _columns(wide))


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else time_text(seconds)


def _end(address: Address, who: str) -> str:
    return f"{who.removeprefix('pod ')} ({address})" if who else str(address)


def followed(rows: Iterable[DropRow], wide: bool) -> Iterator[str]:
    """Rows that are written as they come, the oldest first: in columns of fixed widths."""
    for row in sorted(rows, key=lambda row: row.last or 0.0):
        yield followed_line(cells(row, wide), wide)


def followed_line(words: Sequence[str], wide: bool) -> str:
    widths = WIDE_FOLLOWED_WIDTHS if wide else FOLLOWED_WIDTHS
    return "  ".join(word.ljust(width) for word, width in zip(words, widths, strict=True)).rstrip()


def header(wide: bool) -> str:
    return followed_line(_columns(wide), wide)


def as_data(found: DropReport) -> Json:
    return {
        "apiVersion": API_VERSION,
        "kind": "Drops",
        "pod": ref(found.pod),
        "node": node_of(found.pod),
        "answer": summary(found),
        "seconds": found.seconds,
        "drops": found.denied,
        "kinds": {kind.value: found.of_kind(kind) for kind in Kind},
        "unread": list(found.unread),
        "notes": list(found.notes),
        "findings": [finding_data(one) for one in found.findings],
        "flows": [row_data(row) for row in found.rows],
    }


def row_data(row: DropRow) -> Json:
    flow = row.flow
    return {
        "first": None if row.first is None else time_text(row.first),
        "last": None if row.last is None else time_text(row.last),
        "count": row.count,
        "direction": row.direction.value,
        "source": str(flow.source),
        "sourceName": row.source or None,
        "sourcePort": flow.source_port,
        "destination": str(flow.destination),
        "destinationName": row.destination or None,
        "port": flow.port if flow.protocol in WITH_PORTS else None,
        "protocol": None if flow.protocol == UNKNOWN_PROTOCOL else protocol_name(flow.protocol),
        "verdict": row.verdict,
        "tier": row.tier or None,
        "kind": row.kind.value if row.kind else None,
        "why": row.why,
    }
