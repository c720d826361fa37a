"""`explain -f` and `--without`: what would be otherwise."""

from __future__ import annotations

from typing import Any

from kubectl_netpol.diagnose.deviations import Deviation
from kubectl_netpol.diagnose.flows_after import FlowAfter, FlowsAfter
from kubectl_netpol.diagnose.what_if import LegAfter, WhatIf
from kubectl_netpol.model.flow import protocol_name
from kubectl_netpol.model.verdict import Decision, Layer, chain_text
from kubectl_netpol.policy.world import ref
from kubectl_netpol.report.flows import WORDS
from kubectl_netpol.report.text import age_text, indent, table

Json = dict[str, Any]

API_LAYERS = (Layer.INTENT, Layer.ENDPOINTS, Layer.EXPECTED)


def lines(found: WhatIf, with_headers: bool) -> list[str]:
    """Everything between the answer and the next step."""
    made = [f"  {text}" for text in found.changes] if len(found.changes) > 2 else []
    for leg in found.legs:
        made += ["", *_leg_lines(leg, with_headers)]
    if found.maps:
        rows = [[one.map, one.key, one.before or "-", one.after or "-"] for one in found.maps]
        made += [
            "",
            "MAP ENTRIES that the agent would write",
            indent(table(MAP_COLUMNS, rows, with_headers=with_headers)),
        ]
    if found.dns:
        made += ["", "DNS with the change", *(f"  {one.text}: {one.why}" for one in found.dns)]
    if found.flows is not None and (found.flows.denied or found.flows.unread):
        made += ["", *_flow_lines(found.flows, with_headers)]
    return made


MAP_COLUMNS = ["MAP", "ENTRY", "EXPECTED NOW", "EXPECTED THEN"]
FLOW_COLUMNS = ["DENIED AT", "FROM", "TO", "PORT", "SOURCE PORT", "LAST SEEN", "THEN", "WHY"]


def _leg_lines(leg: LegAfter, with_headers: bool) -> list[str]:
    now, then = leg.now, leg.then
    rows: list[list[object]] = []
    for layer in API_LAYERS:
        verdict = then.verdict(layer)
        rows.append([layer.value, now.verdict(layer).word, verdict.word, verdict.why])
        tiers = {step.tier for step in verdict.chain} & {"Admin", "Baseline"}
        rows += [["", "", "", f"- {fact}"] for fact in ([chain_text(verdict.chain)] if tiers else [])]
        rows += [["", "", "", f"- {fact}"] for fact in verdict.evidence]
    attached = now.verdict(Layer.ATTACHED)
    rows.append([attached.layer.value, attached.word, "-", f"now: {attached.why}"])
    made = [f"{then.direction.value.upper()} of {ref(then.pod)}"]
    made.append(indent(table(["LAYER", "NOW", "THEN", "WHY"], rows, with_headers=with_headers)))
    made += [f"  {rule_text(one)}" for one in then.deviations]
    near = then.near if then.decision is not Decision.ALLOW else ()
    return made + [f"  near miss: {one.text}" for one in near]


def rule_text(one: Deviation) -> str:
    """What the controller has yet to do is no rule of EKS."""
    head = "not resolved yet" if one.code == "NOT_RESOLVED_YET" else f"by rule: {one.between[0]}, {one.between[1]}"
    return f"{head}: {one.text}" + ("" if one.code == "NOT_RESOLVED_YET" else f" ({one.code})")


def _flow_lines(flows: FlowsAfter, with_headers: bool) -> list[str]:
    made = [f"ESTABLISHED FLOWS that would be denied: {len(flows.denied)} of {flows.total}"]
    made += [f"  not read: {reason}" for reason in flows.unread]
    rows = [flow_row(one) for one in flows.denied]
    return [*made, indent(table(FLOW_COLUMNS, rows, with_headers=with_headers))] if rows else made


CUT = {
    True: "cut with its next packet",
    False: "goes on until its conntrack entry ends",
    None: "whether it is cut at once is not known",
}


def flow_row(one: FlowAfter) -> list[object]:
    flow, entry = one.flow, one.flow.entry
    return [
        one.place,
        f"{entry.source} {flow.source}",
        f"{entry.destination} {flow.destination}",
        f"{entry.port}/{protocol_name(entry.protocol)}",
        entry.source_port,
        "-" if flow.age_ns is None else age_text(flow.age_ns),
        CUT[one.cut],
        one.why,
    ]


def as_data(found: WhatIf) -> Json:
    return {
        "changes": list(found.changes),
        "directions": [
            {"direction": one.direction.value, "now": one.before, "then": one.after} for one in found.directions
        ],
        "legs": [_leg_data(leg) for leg in found.legs],
        "maps": [
            {
                "direction": one.direction.value,
                "map": one.map,
                "entry": one.key,
                "now": one.before,
                "then": one.after,
            }
            for one in found.maps
        ],
        "dnsLost": [{"address": str(one.address), "why": one.why} for one in found.dns],
        "establishedFlows": None if found.flows is None else _flows_data(found.flows),
    }


def _leg_data(leg: LegAfter) -> Json:
    return {
        "pod": ref(leg.then.pod),
        "direction": leg.then.direction.value,
        "now": WORDS[leg.now.decision],
        "then": WORDS[leg.decision],
        "layers": [
            {
                "layer": layer.value,
                "now": leg.now.verdict(layer).word,
                "then": leg.then.verdict(layer).word,
                "code": leg.then.verdict(layer).code,
                "why": leg.then.verdict(layer).why,
                "evidence": list(leg.then.verdict(layer).evidence),
            }
            for layer in API_LAYERS
        ],
        "deviations": [{"code": one.code, "text": one.text} for one in leg.then.deviations],
        "nearMisses": [{"code": one.code, "text": one.text} for one in leg.then.near],
    }


def _flows_data(flows: FlowsAfter) -> Json:
    return {
        "total": flows.total,
        "undecided": flows.undecided,
        "unread": list(flows.unread),
        "denied": [
            {
                "direction": one.flow.direction.value,
                "source": str(one.flow.entry.source),
                "sourceName": one.flow.source,
                "sourcePort": one.flow.entry.source_port,
                "destination": str(one.flow.entry.destination),
                "destinationName": one.flow.destination,
                "port": one.flow.entry.port,
                "protocol": protocol_name(one.flow.entry.protocol),
                "deniedAt": one.place,
                "cut": one.cut,
                "why": one.why,
            }
            for one in flows.denied
        ],
    }
