"""`explain POD`: the answer, the evidence under it, the next step last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubectl_netpol.diagnose.alignment import Alignment, Row
from kubectl_netpol.diagnose.direction import DirectionReport
from kubectl_netpol.diagnose.explain import Explanation
from kubectl_netpol.diagnose.layers import BY_DESIGN, LegVerdict
from kubectl_netpol.model.flow import protocol_name
from kubectl_netpol.model.verdict import Decision, Verdict, chain_text
from kubectl_netpol.policy.resolution import Comparison
from kubectl_netpol.policy.world import node_of, ref
from kubectl_netpol.report import check as check_report
from kubectl_netpol.report import kernel as kernel_report
from kubectl_netpol.report import what_if as what_if_report
from kubectl_netpol.report.output import API_VERSION
from kubectl_netpol.report.text import clean_lines, indent, table

Json = dict[str, Any]

ANSWERS = {Decision.ALLOW: "ALLOW", Decision.DENY: "DROP", Decision.UNKNOWN: "UNKNOWN"}


def as_text(found: Explanation, wide: bool, with_headers: bool) -> str:
    lines = [found.answer]
    if found.what_if is not None:
        lines += what_if_report.lines(found.what_if, with_headers)
        lines += _in_progress_lines(found)
        lines += ["", f"Next: {found.next_step}"]
        return "\n".join(clean_lines(lines))
    for leg in found.legs:
        lines += ["", *_leg_lines(leg, wide, with_headers)]
    if found.directions:
        lines += _pod_lines(found, wide, with_headers)
    if found.legs:
        lines += ["", f"Cause: {cause_text(found)}"]
    if found.findings:
        lines += ["", *_finding_lines(found, wide)]
    lines += _in_progress_lines(found)
    lines += ["", f"Next: {found.next_step}"]
    return "\n".join(clean_lines(lines))


def _in_progress_lines(found: Explanation) -> list[str]:
    lines = kernel_report.in_progress_lines(found.in_progress)
    return ["", "IN PROGRESS", *lines] if lines else []


MOST_FINDINGS = 5
"""Told in full where the table was asked for; -o wide tells all."""
LONG_SENTENCE = 60
"""More letters than this are told once, and not at each layer that they make unknown."""


def _finding_lines(found: Explanation, wide: bool) -> Iterator[str]:
    yield "FINDINGS"
    for one in found.findings if wide else found.findings[:MOST_FINDINGS]:
        yield from (f"  {line}" for line in check_report.finding_lines(one, full=wide))
    rest = found.findings[MOST_FINDINGS:]
    if rest and not wide:
        yield f"  and {len(rest)} more ({', '.join(dict.fromkeys(one.code for one in rest))}): -o wide tells all"


def _pod_lines(found: Explanation, wide: bool, with_headers: bool) -> list[str]:
    lines = [] if found.kernel is None else [f"  {line}" for line in kernel_report.header_lines(found.kernel)]
    lines += [f"  ! {note}" for note in found.notes]
    for report in found.directions:
        lines += ["", *_direction_lines(report, found, wide, with_headers)]
    if found.kernel is not None:
        more = kernel_report.other_interface_lines(found.kernel, [r.direction for r in found.directions])
        lines += ["", *more] if more else []
    if found.policies:
        lines += ["", "POLICIES against their PolicyEndpoints", *(f"  {one.text}" for one in found.policies)]
    if found.dns:
        lines += ["", "DNS", *(f"  {one.text if one.allowed else f'{one.text}: {one.why}'}" for one in found.dns)]
    return lines


def cause_text(found: Explanation) -> str:
    between = next((leg.break_between for leg in found.legs if leg.break_between), None)
    by_design = any(leg.decided_by.code in BY_DESIGN for leg in found.legs)
    by_rule = any(leg.by_rule for leg in found.legs if leg.break_between)
    how = "are the first layers that differ"
    if by_design or by_rule:
        how = f"differ, by design of the {'datapath' if by_design else 'controller and agent'}"
    where = f": {between[0]} and {between[1]} {how}" if between else ""
    only = next((leg.only_established for leg in found.legs if leg.only_established), "")
    if only:
        return f"{found.cause.value}{where or f': the flow is established; {only}'}"
    unknown = any(v.decision is Decision.UNKNOWN for leg in found.legs for v in leg.verdicts)
    known = "all layers that are known agree" if unknown else "all layers agree"
    agree = {
        "none": f": {known}",
        "selector": f": {known}, the YAML itself does not allow it",
    }.get(found.cause.value, "")
    return f"{found.cause.value}{where or agree}"


def _leg_lines(leg: LegVerdict, wide: bool, with_headers: bool) -> list[str]:
    lines = [f"{leg.direction.value.upper()} of {ref(leg.pod)} on node {node_of(leg.pod)}"]
    if wide and leg.kernel is not None:
        lines += [f"  {line}" for line in kernel_report.header_lines(leg.kernel)]
    rows = []
    said: dict[str, str] = {}
    for verdict in (*leg.verdicts, *([leg.asked] if leg.asked else [])):
        rows.append([verdict.layer.value, verdict.word, _once(verdict, said)])
        rows += [["", "", f"- {fact}"] for fact in (*chain(verdict), *verdict.evidence)]
    lines.append(indent(table(["LAYER", "VERDICT", "WHY"], rows, with_headers=with_headers)))
    lines += [f"  {what_if_report.rule_text(one)}" for one in leg.deviations]
    lines += [f"  near miss: {one.text}" for one in leg.near]
    if leg.kernel is not None:
        odd = (*leg.kernel.differences, *leg.kernel.directions[leg.direction].differences)
        lines += [f"  {line}" for line in kernel_report.difference_lines(odd)]
    return lines


def _once(verdict: Verdict, said: dict[str, str]) -> str:
    """Why; a long sentence, such as why a node was not read, stands at the first of the layers that it is about."""
    if verdict.decision is not Decision.UNKNOWN or len(verdict.why) <= LONG_SENTENCE:
        return verdict.why
    first = said.setdefault(verdict.why, verdict.layer.value)
    return verdict.why if first == verdict.layer.value else f"as {first}"


def chain(verdict: Verdict) -> list[str]:
    """The tiers in one line, where cluster policies have a word in it."""
    tiers = {step.tier for step in verdict.chain}
    return [chain_text(verdict.chain)] if tiers & {"Admin", "Baseline"} else []


def _direction_lines(report: DirectionReport, found: Explanation, wide: bool, with_headers: bool) -> list[str]:
    lines = []
    if report.view is not None and found.kernel is not None:
        lines += kernel_report.direction_lines(report.view, found.kernel.veth)
    else:
        lines.append(f"{report.direction.value.upper()}: {report.summary}")
    for rows, resolved in ((report.tiers, "CLUSTERPOLICYENDPOINT"), (report.alignment.rows, "POLICYENDPOINT")):
        columns = ["RULE", "SELECTS", "WHO", "YAML", resolved, "KERNEL", "STATUS"]
        cells = [_row(row, wide) for row in rows]
        if wide:
            columns[3:3] = ["PREFIX"]
        if found.api_only:
            columns, cells = _without_kernel(columns), [_without_kernel(line) for line in cells]
        if cells:
            lines += ["", indent(table(columns, cells, with_headers=with_headers))]
    notes = footnotes(report.alignment, report.rows)
    if notes:
        lines += [""] + [f"  {note}" for note in notes]
    return lines


def _without_kernel(cells: list[Any]) -> list[Any]:
    """--api-only: there is nothing to show in that column."""
    return [*cells[:-2], cells[-1]]


def _row(row: Row, wide: bool) -> list[object]:
    rule = f"{row.policy} {row.path}".strip() or "-"
    name = row.who if row.who in ("anybody", str(row.prefix)) else f"{row.who} {_address(row)}"
    cells: list[object] = [
        rule,
        row.selects or "-",
        name,
        row.intent if row.intent is not None else "-",
        _resolved(row),
        row.kernel if row.kernel is not None else "-",
        row.status.value,
    ]
    if wide:
        cells[3:3] = [row.prefix]
    return cells


def _resolved(row: Row) -> str:
    """`access-nginx-x7k2p ingress[0]: all ports`."""
    if row.resolved is None:
        return "-"
    return f"{row.endpoint.replace(' spec.', ' ')}: {row.resolved}"


def _address(row: Row) -> str:
    full = row.prefix.prefixlen == row.prefix.max_prefixlen
    return str(row.prefix.network_address) if full else str(row.prefix)


def footnotes(alignment: Alignment, rows: tuple[Row, ...]) -> list[str]:
    """Footnotes: every row that is more than a plain match, and every peer that selects nobody."""
    found = dict.fromkeys(f"{_address(row)}: {row.note}" for row in rows if row.note)
    skipped = [f"{s.policy} {s.path} ({s.selects}): selects nobody: {s.reason}" for s in alignment.skipped]
    reason = [f"not read: {alignment.reason}"] if alignment.reason else []
    return [*found, *skipped, *reason]


# ---- the same as data


def as_data(found: Explanation) -> Json:
    data: Json = {
        "apiVersion": API_VERSION,
        "kind": "Explanation",
        "pod": ref(found.pod),
        "node": node_of(found.pod),
        "answer": found.answer,
        "verdict": ANSWERS[found.decision] if found.legs else None,
        "verdictNow": ANSWERS[found.now] if found.legs else None,
        "layersAgree": layers_agree(found),
        "cause": found.cause.value,
        "nextStep": found.next_step,
        "unread": list(found.unread),
        "apiOnly": found.api_only,
        "kernel": kernel_report.kernel_data(found.kernel),
        "findings": [check_report.finding_data(one) for one in found.findings],
        "settingsUnread": list(found.settings_unread),
        "inProgress": kernel_report.in_progress_data(found.in_progress),
    }
    if found.what_if is not None:
        data["whatIf"] = what_if_report.as_data(found.what_if)
    if found.legs:
        flow = found.legs[0].leg.ends.flow
        data["flow"] = {
            "from": found.source_text,
            "to": found.destination_text,
            "protocol": protocol_name(flow.protocol),
            "port": flow.port,
        }
        data["legs"] = [_leg_data(leg) for leg in found.legs]
    else:
        data["directions"] = [_direction_data(report) for report in found.directions]
        data["policies"] = [_policy_data(one) for one in found.policies]
        data["notes"] = list(found.notes)
        data["dns"] = [
            {"address": str(one.address), "allowed": one.allowed, "why": one.why, "text": one.text} for one in found.dns
        ]
    return data


def _policy_data(found: Comparison) -> Json:
    return {
        "policy": found.name,
        "slices": found.slices,
        "differences": [{"code": drift.code, "text": drift.text} for drift in found.drifts],
        "release": found.release or None,
    }


def layers_agree(found: Explanation) -> bool | None:
    """None where a layer could not be read."""
    if found.directions:
        return found.agrees
    if any(leg.break_between for leg in found.legs):
        return False
    unknown = any(v.decision is Decision.UNKNOWN for leg in found.legs for v in leg.verdicts)
    return None if unknown else True


def _leg_data(leg: LegVerdict) -> Json:
    flow = leg.leg.ends.flow
    return {
        "pod": ref(leg.pod),
        "node": node_of(leg.pod),
        "direction": leg.direction.value,
        "source": str(flow.source),
        "destination": str(flow.destination),
        "protocol": protocol_name(flow.protocol),
        "port": flow.port,
        "sourcePort": flow.source_port,
        "verdict": ANSWERS[leg.decision],
        "cause": leg.cause.value,
        "firstDifference": [layer.value for layer in leg.break_between] if leg.break_between else None,
        "kernel": kernel_report.kernel_data(leg.kernel),
        "program": kernel_report.direction_data(leg.kernel.directions[leg.direction]) if leg.kernel else None,
        "layers": [
            {
                "layer": v.layer.value,
                "verdict": v.word,
                "code": v.code,
                "why": v.why,
                "evidence": list(v.evidence),
                "tiers": [{"tier": step.tier, "outcome": step.outcome, "by": step.by or None} for step in v.chain],
                "decidedBy": dict(v.decided) or None,
            }
            for v in (*leg.verdicts, *([leg.asked] if leg.asked else []))
        ],
        "deviations": deviations_data(leg),
        "nearMisses": [{"code": one.code, "text": one.text} for one in leg.near],
    }


def deviations_data(leg: LegVerdict) -> list[Json]:
    """Rules of EKS by which layers of a leg differ."""
    return [
        {"code": one.code, "between": [layer.value for layer in one.between], "text": one.text}
        for one in leg.deviations
    ]


def _direction_data(report: DirectionReport) -> Json:
    return {
        **(kernel_report.direction_data(report.view) if report.view else {"direction": report.direction.value}),
        "summary": report.summary,
        "agrees": report.agrees,
        "policies": list(report.alignment.policies),
        "clusterRows": [_row_data(row) for row in report.tiers],
        "rows": [_row_data(row) for row in report.alignment.rows],
        "skipped": [
            {"policy": s.policy, "path": s.path, "selects": s.selects, "reason": s.reason}
            for s in report.alignment.skipped
        ],
    }


def _row_data(row: Row) -> Json:
    return {
        "prefix": str(row.prefix),
        "who": row.who,
        "policy": row.policy or None,
        "path": row.path or None,
        "selects": row.selects or None,
        "intent": row.intent,
        "policyEndpoint": row.endpoint or None,
        "resolved": row.resolved,
        "kernel": row.kernel,
        "status": row.status.name,
        "note": row.note,
    }
