"""`conntrack POD`: the established flows of a pod."""

from __future__ import annotations

from typing import Any

from kubectl_netpol.diagnose.flows import EstablishedFlow, FlowReport
from kubectl_netpol.model.flow import protocol_name
from kubectl_netpol.model.kernel import MapView
from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.policy.world import node_of, ref
from kubectl_netpol.report.output import API_VERSION
from kubectl_netpol.report.text import age_text, clean_lines, indent, table

Json = dict[str, Any]

WORDS = {Decision.ALLOW: "ALLOW", Decision.DENY: "DROP", Decision.UNKNOWN: "UNKNOWN", Decision.NONE: "-"}


def as_text(pod: Json, found: FlowReport, wide: bool, with_headers: bool) -> str:
    lines = [summary(pod, found)]
    lines += [f"  {_table_text(one)}" for one in found.tables]
    lines += [f"  not read: {reason}" for reason in found.unread]
    rows = [_row(flow, wide) for flow in found.flows]
    if rows:
        columns = ["DIRECTION", "FROM", "TO", "PORT", "LAST SEEN", "MADE UNDER", "RULES NOW", "NOTE"]
        if wide:
            columns[4:4] = ["SOURCE PORT", "IFINDEX", "MAP"]
            columns[-1:] = ["WHY", "NOTE"]
        lines += ["", indent(table(columns, rows, with_headers=with_headers))]
    return "\n".join(clean_lines(lines))


def summary(pod: Json, found: FlowReport) -> str:
    """The answer, in one sentence. An entry says that a packet was let pass, not that anybody answered."""
    count = len(found.flows)
    text = f"{ref(pod)} on node {node_of(pod)}: {count} conntrack entr{'y' if count == 1 else 'ies'}"
    if found.unread:
        text += " as far as could be read"
    parts = []
    if found.only_established:
        one = found.only_established == 1
        passes = "is a flow that passes" if one else "are flows that pass"
        parts.append(f"{found.only_established} {passes} only because established: the rules would drop it now")
    if found.undecided:
        parts.append(f"of {found.undecided} it is not known what the rules of now say")
    if count and not parts:
        allowed = all(flow.rules.decision is Decision.ALLOW for flow in found.flows)
        parts.append("the rules of now allow all of them" if allowed else "none passes against the rules of now")
    return f"{text}{', ' if parts else ''}{'; '.join(parts)}."


def _table_text(view: MapView) -> str:
    fill = "" if view.total is None else f", {view.total} of {view.max_entries} entries in use on this node"
    return f"aws_conntrack_map {view.id} ({view.layout}{fill})"


def _row(flow: EstablishedFlow, wide: bool) -> list[object]:
    entry = flow.entry
    cells: list[object] = [
        flow.direction.value,
        f"{entry.source} {flow.source}",
        f"{entry.destination} {flow.destination}",
        f"{entry.port}/{protocol_name(entry.protocol)}",
        "-" if flow.age_ns is None else age_text(flow.age_ns),
        flow.made_under or "-",
        WORDS[flow.rules.decision],
    ]
    if wide:
        cells[4:4] = [entry.source_port, "-" if entry.ifindex is None else entry.ifindex, flow.table.id]
        cells.append(flow.rules.why)
    return [*cells, note(flow)]


def note(flow: EstablishedFlow) -> str:
    """What is special about the flow; empty for most."""
    if flow.rules.code == "NO_FILTER":
        return "no program is attached: nothing is filtered"
    if flow.only_established:
        return "allowed only because it was established"
    if flow.passes is False:
        return "the rules decide again with its next packet"
    return "" if flow.passes else "whether it passes is not known"


def as_data(pod: Json, found: FlowReport) -> Json:
    return {
        "apiVersion": API_VERSION,
        "kind": "Conntrack",
        "pod": ref(pod),
        "node": node_of(pod),
        "answer": summary(pod, found),
        "onlyEstablished": found.only_established,
        "undecided": found.undecided,
        "unread": list(found.unread),
        "maps": [
            {"id": m.id, "layout": m.layout, "entriesInUse": m.total, "maxEntries": m.max_entries, "pin": m.pin or None}
            for m in found.tables
        ],
        "flows": [_data(flow) for flow in found.flows],
    }


def _data(flow: EstablishedFlow) -> Json:
    entry = flow.entry
    return {
        "direction": flow.direction.value,
        "source": str(entry.source),
        "sourceName": flow.source,
        "sourcePort": entry.source_port,
        "destination": str(entry.destination),
        "destinationName": flow.destination,
        "port": entry.port,
        "protocol": protocol_name(entry.protocol),
        "owner": str(entry.owner),
        "ifindex": entry.ifindex,
        "mapId": flow.table.id,
        "lastSeenAgoNs": flow.age_ns,
        "madeUnder": flow.made_under or None,
        "value": entry.value,
        "passes": flow.passes,
        "rulesNow": WORDS[flow.rules.decision],
        "rulesCode": flow.rules.code,
        "rulesWhy": flow.rules.why,
        "onlyEstablished": flow.only_established,
        "note": note(flow),
    }
