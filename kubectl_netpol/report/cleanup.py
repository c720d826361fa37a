"""`cleanup`: how many debug pods are there, one row each, and how to remove them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kubectl_netpol.kernel.flowlog import time_text
from kubectl_netpol.model.leftover import UNUSED, Leftover, Use
from kubectl_netpol.report.output import API_VERSION
from kubectl_netpol.report.text import age_text, clean, clean_lines, indent, table

Json = dict[str, Any]
Outcomes = Mapping[tuple[str, str], str]
"""Why a pod could not be deleted, "" where it was; pods that were let alone are not in it."""


def as_text(
    found: Sequence[Leftover], outcomes: Outcomes, now: float, where: str, wide: bool, with_headers: bool
) -> str:
    lines = [summary(found, outcomes, where)]
    if found:
        columns = ["NAMESPACE", "NAME", "NODE", "AGE", "STATE", "STARTED BY", *(["ENDS", "UID"] if wide else [])]
        rows = [_cells(one, outcomes, now, wide) for one in found]
        lines += ["", indent(table(columns, rows, with_headers=with_headers))]
        lines += [f"next: {step}" for step in _next(found, outcomes)]
    return "\n".join(clean_lines(lines))


def summary(found: Sequence[Leftover], outcomes: Outcomes, where: str) -> str:
    """The answer in one line."""
    if not found:
        return f"no debug pods in {where}."
    gone = sum(1 for why in outcomes.values() if not why)
    failed = len(outcomes) - gone
    pods = f"{len(found)} debug pod{'s' * (len(found) > 1)} in {where}"
    if not outcomes:
        return f"{pods}, {sum(one.use in UNUSED for one in found)} of them not in use any more."
    refused = f", {failed} could not be deleted" if failed else ""
    return f"{pods}: {gone} deleted{refused}, {len(found) - len(outcomes)} left alone."


def _cells(one: Leftover, outcomes: Outcomes, now: float, wide: bool) -> list[str]:
    state = one.use.value
    if (one.namespace, one.name) in outcomes:
        state = f"{state}: not deleted" if outcomes[one.namespace, one.name] else "deleted"
    age = age_text(int(max(0.0, now - one.created) * 1e9)) if one.created is not None else "?"
    more = [_utc(one.ends) or "?", one.uid or "?"] if wide else []
    return [one.namespace, one.name, one.node or "-", age, state, one.owner or "?", *more]


def _next(found: Sequence[Leftover], outcomes: Outcomes) -> Iterator[str]:
    left = [one for one in found if (one.namespace, one.name) not in outcomes and one.use is not Use.FOREIGN]
    if any(one.use in UNUSED for one in left):
        yield "`kubectl netpol-ebpf cleanup --delete` deletes those that nobody can use any more"
    if any(one.use not in UNUSED for one in left):
        yield (
            "running and kept ones end at their deadlines; `kubectl netpol-ebpf cleanup --delete --all` deletes them "
            "now, and cuts off whoever reads a node through them"
        )


def as_data(found: Sequence[Leftover], outcomes: Outcomes, now: float) -> Json:
    return {
        "apiVersion": API_VERSION,
        "kind": "DebugPodList",
        "items": [
            {
                "namespace": clean(one.namespace),
                "name": clean(one.name),
                "uid": clean(one.uid),
                "node": clean(one.node),
                "startedBy": clean(one.owner),
                "created": _utc(one.created),
                "ends": _utc(one.ends),
                "ageSeconds": int(max(0.0, now - one.created)) if one.created is not None else None,
                "state": one.use.value,
                "deleted": outcomes.get((one.namespace, one.name)) == "",
                "error": clean(outcomes.get((one.namespace, one.name), "")),
            }
            for one in found
        ],
    }


def _utc(seconds: float | None) -> str:
    return "" if seconds is None else time_text(seconds)
