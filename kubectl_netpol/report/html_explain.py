"""`explain -o html`: the answer, the layers of each leg side by side, rules in rows, findings, the next step last.

The words are those of the other forms (``report.explain``, ``report.what_if``): the page only lays them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kubectl_netpol.diagnose.alignment import PORTS_RESOLVED_NOTE, Row, Status
from kubectl_netpol.diagnose.direction import DirectionReport
from kubectl_netpol.diagnose.explain import Explanation
from kubectl_netpol.diagnose.layers import LegVerdict
from kubectl_netpol.diagnose.what_if import LegAfter, WhatIf
from kubectl_netpol.model.kernel import PodKernel
from kubectl_netpol.model.verdict import Layer, Verdict
from kubectl_netpol.policy.world import node_of, ref
from kubectl_netpol.report import explain as words
from kubectl_netpol.report import kernel as kernel_report
from kubectl_netpol.report import what_if as what_if_words
from kubectl_netpol.report.html import (
    About,
    Markup,
    badge,
    el,
    facts,
    folded,
    items,
    joined,
    page,
    section,
    table,
    table_row,
    tone,
    warned,
)
from kubectl_netpol.report.html_findings import counted, finding, in_progress

MEANING = {
    Layer.INTENT: "the policies, as Kubernetes defines them",
    Layer.ENDPOINTS: "what the EKS controller resolved from them",
    Layer.EXPECTED: "the maps that the node agent should write",
    Layer.PINNED: "the maps that the node agent writes",
    Layer.ATTACHED: "what packets meet on the host veth of the pod",
    Layer.CONNTRACK: "flows that pass without a look at the rules",
    Layer.TEST_RUN: "what the attached program itself returns",
}
MOST_ROWS = 40
"""Rows of a table that are shown at once; beyond them those that are well are folded."""


def explanation(found: Explanation, about: About) -> str:
    """The whole file."""
    body = [_answer(found), warned(about, (*found.unread, *found.settings_unread))]
    if found.what_if is not None:
        body += _changed(found.what_if)
    else:
        body += [_leg(leg) for leg in found.legs]
        body += _pod(found)
    if found.findings:
        body.append(section("Findings", *(finding(one) for one in found.findings), id_="findings"))
    body.append(in_progress(found.in_progress))
    body.append(section("Next step", el("p", found.next_step), class_="next"))
    return page("explain", _title(found), about, *body)


def _title(found: Explanation) -> str:
    if not found.legs:
        return f"{ref(found.pod)}, layer by layer"
    flow = found.legs[0].leg.ends.flow
    return f"{found.source_text} to {found.destination_text}, {flow.port_text}"


def _answer(found: Explanation) -> Markup:
    """The sentence of the table with its word in front, large."""
    said = [el("p", found.answer)]
    of = "plain"
    if found.legs:
        word = words.ANSWERS.get(found.decision, "UNKNOWN")
        said, of = [badge(word), *said], tone(word)
    elif found.what_if is None:
        word, of = AGREE[words.layers_agree(found)]
        said = [badge(word, of), *said]
    if found.legs and found.what_if is None:
        said.append(el("p", el("b", "Cause"), ": ", words.cause_text(found), class_="cause"))
    if found.findings:
        said.append(el("p", el("b", "Findings"), ": ", counted(found.findings, "#findings"), class_="cause"))
    return el("section", el("h2", "Answer"), el("div", *said, class_="said"), class_=f"answer {of}")


AGREE = {True: ("LAYERS AGREE", "good"), False: ("LAYERS DIFFER", "bad"), None: ("NOT KNOWN", "unsure")}
"""Whether the layers agree: a word and its tone."""


# ---- one leg of a flow


def _leg(leg: LegVerdict) -> Markup:
    title = joined(
        (f"{leg.direction.value.upper()} of {ref(leg.pod)} ", badge(words.ANSWERS.get(leg.decision, "UNKNOWN")))
    )
    cards = [_card(verdict, leg) for verdict in (*leg.verdicts, *([leg.asked] if leg.asked else []))]
    chain = el("ol", *cards, class_="chain broken" if leg.break_between else "chain")
    made = [el("p", f"on node {node_of(leg.pod)}", class_="place"), chain, _told(leg)]
    if leg.kernel is not None:
        odd = (*leg.kernel.differences, *leg.kernel.directions[leg.direction].differences)
        made.append(items((_odd(one.code, one.text) for one in odd), class_="odd"))
        made.append(folded("Pod identifier and host veth", facts(kernel_report.header_facts(leg.kernel))))
    return section(title, *made, class_="leg")


def _card(verdict: Verdict, leg: LegVerdict) -> Markup:
    """One layer: its word, why, and its evidence folded; the first difference is marked on its second neighbour."""
    pair = leg.break_between
    second = pair is not None and verdict.layer is pair[1]
    mark = [_mark(leg)] if second else []
    evidence = (*words.chain(verdict), *verdict.evidence)
    return el(
        "li",
        *mark,
        el("h3", verdict.layer.value),
        el("p", MEANING.get(verdict.layer, ""), class_="meaning"),
        el("p", badge(verdict.word)),
        el("p", verdict.why, class_="why"),
        *([folded(f"Evidence: {len(evidence)}", items(evidence))] if evidence else []),
        class_=" ".join((tone(verdict.word), *(["differs"] if second else []))),
    )


def _mark(leg: LegVerdict) -> Markup:
    """`≠ first difference: kernel`, where the break is; with the first of the two where it is not the neighbour."""
    layers = [verdict.layer for verdict in leg.verdicts]
    first, second = leg.break_between or (layers[0], layers[0])
    beside = second in layers and layers.index(second) - layers.index(first) == 1
    how = "" if beside else f", from {first}"
    return el("p", f"\u2260 first difference: {leg.cause.value}{' by rule' if leg.by_rule else ''}{how}", class_="mark")


def _told(leg: LegVerdict) -> Markup:
    """Rules of EKS and near misses: sentences about the whole leg."""
    rules = [what_if_words.rule_text(one) for one in leg.deviations]
    return items((*rules, *(f"near miss: {one.text}" for one in leg.near)), class_="told")


def _odd(code: str, text: str) -> Markup:
    return joined((el("b", code), ": ", text))


# ---- a pod


def _pod(found: Explanation) -> Iterator[Markup]:
    if not found.directions:
        return
    if found.kernel is not None:
        yield _place(found.kernel, found)
    yield items(found.notes, class_="odd")
    for report in found.directions:
        yield _direction(report, found)
    if found.kernel is not None:
        lines = kernel_report.other_interface_lines(found.kernel, [report.direction for report in found.directions])
        if lines:
            yield section("Further interfaces", items(line.strip() for line in lines))
    if found.policies:
        yield section("Policies against their PolicyEndpoints", items(one.text for one in found.policies))
    if found.dns:
        said = (one.text if one.allowed else f"{one.text}: {one.why}" for one in found.dns)
        yield section("DNS", items(said))


def _place(kernel: PodKernel, found: Explanation) -> Markup:
    odd = items((_odd(one.code, one.text) for one in kernel.differences), class_="odd")
    pairs = (("node", node_of(found.pod)), *kernel_report.header_facts(kernel))
    return section("Where it is", facts(pairs), odd)


def _direction(report: DirectionReport, found: Explanation) -> Markup:
    made = [el("p", report.summary)]
    if report.view is not None and found.kernel is not None:
        view = report.view
        title = kernel_report.direction_title(view, found.kernel.veth)
        pairs = [("not read", view.reason)] if view.reason else kernel_report.direction_facts(view)
        made.append(items((_odd(one.code, one.text) for one in view.differences), class_="odd"))
        made.append(folded(title, facts(pairs)))
    for rows, resolved in ((report.tiers, "ClusterPolicyEndpoint"), (report.alignment.rows, "PolicyEndpoint")):
        if rows:
            made += _rows(rows, resolved, f"{report.direction.value}: rules", kernel=not found.api_only)
    made.append(items(words.footnotes(report.alignment, ()), class_="told"))
    return section(joined((f"{report.direction.value.upper()} ", badge(*AGREE[report.agrees]))), *made)


def _rows(rows: tuple[Row, ...], resolved: str, caption: str, *, kernel: bool) -> Iterator[Markup]:
    """Rule, PolicyEndpoint entry and map entry on one line; of many those that are well are folded."""
    held = ["ATTACHED: map entry"] if kernel else []
    columns = ["Who", "INTENT: the rule", f"ENDPOINTS: {resolved}", *held, "STATUS"]
    few = len(rows) <= MOST_ROWS
    shown = rows if few else tuple(row for row in rows if not row.status.good)
    class_ = "rows" if kernel else "rows api"
    if shown:
        yield table(caption, columns, (_row(row, kernel=kernel) for row in shown), class_=class_)
    if not few:
        rest = [row for row in rows if row.status.good]
        made = table(f"{caption} without a difference", columns, (_row(r, kernel=kernel) for r in rest), class_=class_)
        yield folded(f"{len(rest)} of {len(rows)} rows have no difference", made)


def _row(row: Row, *, kernel: bool) -> Markup:
    gap = _gap(row)
    rule = " ".join((row.policy, row.path)).strip()
    cells = [
        el("th", _who(row), scope="row"),
        _place_cell(row.intent, rule, row.selects),
        _place_cell(row.resolved, row.endpoint, differs=gap == "ENDPOINTS"),
        *([_place_cell(row.kernel, differs=gap == "ATTACHED")] if kernel else []),
        el("td", badge(row.status.value), *([el("p", row.note)] if row.note else [])),
    ]
    return table_row(cells, class_="" if row.status.good else "odd")


def _who(row: Row) -> Markup:
    address = str(row.prefix)
    return joined((row.who, el("code", address))) if row.who != address else el("code", address)


def _place_cell(holds: str | None, *where: str, differs: bool = False) -> Markup:
    """What a layer holds for the prefix, and under which name."""
    mark = [el("span", "\u2260 first difference", class_="mark")] if differs else []
    held = el("b", holds) if holds is not None else el("span", "-", class_="none")
    return el("td", *mark, held, *(el("p", text) for text in where if text), class_="differs" if differs else "")


_GAPS = {
    Status.NOT_RESOLVED: "ENDPOINTS",
    Status.STALE: "ENDPOINTS",
    Status.NOT_IN_MAP: "ATTACHED",
    Status.UNWANTED: "ATTACHED",
    Status.PORTS_DIFFER: "ATTACHED",
    Status.CUT_OFF: "ATTACHED",
    Status.NOT_ENFORCED: "ATTACHED",
}


def _gap(row: Row) -> str:
    """The second of the first two neighbours that differ; empty where none do, or where it is not known."""
    if row.status is Status.PORTS_DIFFER and (row.note == PORTS_RESOLVED_NOTE or row.note.startswith("YAML and ")):
        return "ENDPOINTS"
    return _GAPS.get(row.status, "")


# ---- what if


def _changed(found: WhatIf) -> Iterator[Markup]:
    yield section("The change", items(found.changes))
    for leg in found.legs:
        yield _leg_after(leg)
    if found.maps:
        rows = ((one.map, one.key, one.before or "-", one.after or "-") for one in found.maps)
        columns = ("Map", "Entry", "EXPECTED now", "EXPECTED then")
        yield section("Map entries that the agent would write", table("map entries", columns, rows, class_="entries"))
    if found.dns:
        yield section("DNS with the change", items(f"{one.text}: {one.why}" for one in found.dns))
    flows = found.flows
    if flows is not None and (flows.denied or flows.unread):
        title = f"Established flows that would be denied: {len(flows.denied)} of {flows.total}"
        said = items((f"not read: {reason}" for reason in flows.unread), class_="odd")
        yield section(title, said, *_flows(what_if_words.flow_row(one) for one in flows.denied))


def _flows(rows: Iterable[list[object]]) -> Iterator[Markup]:
    found = list(rows)
    if found:
        yield table("established flows", what_if_words.FLOW_COLUMNS, found, class_="flows")


def _leg_after(leg: LegAfter) -> Markup:
    now, then = leg.now, leg.then
    cards = [_card_after(then.verdict(layer), now.verdict(layer).word) for layer in what_if_words.API_LAYERS]
    attached = now.verdict(Layer.ATTACHED)
    cards.append(
        el(
            "li",
            el("h3", attached.layer.value),
            el("p", "what packets meet now", class_="meaning"),
            el("p", el("span", "now ", class_="when"), badge(attached.word)),
            el("p", f"now: {attached.why}", class_="why"),
            class_=tone(attached.word),
        )
    )
    title = f"{then.direction.value.upper()} of {ref(then.pod)}"
    near = then.near if words.ANSWERS.get(then.decision) != "ALLOW" else ()
    told = (*(what_if_words.rule_text(one) for one in then.deviations), *(f"near miss: {one.text}" for one in near))
    return section(title, el("ol", *cards, class_="chain"), items(told, class_="told"), class_="leg")


def _card_after(verdict: Verdict, now: str) -> Markup:
    evidence = (*words.chain(verdict), *verdict.evidence)
    return el(
        "li",
        el("h3", verdict.layer.value),
        el("p", MEANING.get(verdict.layer, ""), class_="meaning"),
        el(
            "p",
            el("span", "now ", class_="when"),
            badge(now),
            el("span", " then ", class_="when"),
            badge(verdict.word),
        ),
        el("p", verdict.why, class_="why"),
        *([folded(f"Evidence: {len(evidence)}", items(evidence))] if evidence else []),
        class_=tone(verdict.word),
    )
