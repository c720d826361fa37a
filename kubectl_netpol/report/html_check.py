"""`check -o html`: the sum, one row a pod with its layers side by side, the findings by severity.

The words are those of the other forms (``report.check``). A page of thousands of pods shows those that something is
to be said of, and folds the others.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kubectl_netpol.diagnose.check import PodRow, Report
from kubectl_netpol.model.finding import Finding, Severity
from kubectl_netpol.report import check as words
from kubectl_netpol.report.html import (
    About,
    Markup,
    badge,
    el,
    folded,
    joined,
    page,
    section,
    table,
    table_row,
    tone,
    warned,
)
from kubectl_netpol.report.html_findings import TONES, counted, finding, in_progress

MOST_ROWS = 40
"""Pods that are all shown; of more those without findings are folded."""
MOST_TOLD = 200
"""Pods with findings that are shown at once: a browser takes long to lay out a table of thousands."""
TITLES = {Severity.ERROR: "Errors", Severity.WARNING: "Warnings", Severity.INFO: "To know"}


def checked(report: Report, about: About) -> str:
    """The whole file."""
    ids = {id(one): f"finding-{number}" for number, one in enumerate(report.findings, 1)}
    rows: dict[str, str] = {}
    for number, row in enumerate(report.rows, 1):
        # A bundle may hold a pod twice: the first of them is led to.
        rows.setdefault(f"{row.namespace}/{row.name}", f"pod-{number}")
    body = [_answer(report), warned(about, report.unread)]
    body.append(in_progress(report.in_progress))
    body += _pods(report, _links(report.findings, ids), rows)
    for severity in Severity:
        of = [one for one in report.findings if one.severity is severity]
        if of:
            title = f"{TITLES[severity]}: {len(of)}"
            body.append(section(title, *_findings(of, ids, rows), id_=f"of-{severity.value}"))
    return page("check", _title(report), about, *body)


def _title(report: Report) -> str:
    if len(report.rows) == 1:
        return f"{report.rows[0].namespace}/{report.rows[0].name}, checked"
    return f"{len(report.rows)} pods, checked"


def _answer(report: Report) -> Markup:
    worst = report.worst()
    of = TONES[worst.value] if worst else "good"
    if report.unread and worst in (None, Severity.INFO):
        of = "unsure"
    said = el("div", counted(report.findings), el("p", words.summary(report)), class_="said")
    return el("section", el("h2", "Answer"), said, class_=f"answer {of}")


# ---- pods


Links = Mapping[tuple[str, str], str]
"""(code, `namespace/name`) -> the id of the first such finding."""


def _links(found: Iterable[Finding], ids: Mapping[int, str]) -> Links:
    links: dict[tuple[str, str], str] = {}
    for one in found:
        for namespace, name in one.pods:
            links.setdefault((one.code, f"{namespace}/{name}"), ids[id(one)])
    return links


def _pods(report: Report, links: Links, ids: Mapping[str, str]) -> Iterator[Markup]:
    if not report.rows:
        return
    few = len(report.rows) <= MOST_ROWS
    told: list[PodRow] = []
    rest: list[PodRow] = []
    for row in report.rows:
        (told if few or _is_told(row, api_only=report.api_only) else rest).append(row)
    # Each id once: of a pod that is there twice the first row has it.
    ids = dict(ids)
    made = [_table("pods", told[:MOST_TOLD], links, ids)] if told else []
    more = told[MOST_TOLD:]
    for left, title in (
        (more, f"{len(more)} more pods of which there is something to say"),
        (rest, f"{len(rest)} of {len(report.rows)} pods without findings of their own"),
    ):
        if left:
            made.append(folded(title, _table(title, left, links, ids)))
    yield section("Pods, layer by layer", *made)


def _is_told(row: PodRow, *, api_only: bool) -> bool:
    """Whether something is to be said of a pod: also one whose findings are told once for the whole cluster."""
    if row.codes or (row.reason and not api_only):
        return True
    # Where no node was to be read, nothing is known of any pod's.
    layers = (row.intent, row.endpoints, *(() if api_only else (row.pinned, row.attached)))
    return any(not _QUIET.fullmatch(word) for word in layers) or row.state == "MISSING"


_QUIET = re.compile(r"ok|-|open|\d+( polic(y|ies))?")
"""Words of a layer that is as it should be. Others, those of later versions too, are shown."""


def _table(caption: str, rows: Sequence[PodRow], links: Links, ids: dict[str, str]) -> Markup:
    made = (_row(row, links, ids) for row in rows)
    columns = [column.title() if column in _PLAIN else column for column in words.COLUMNS]
    return table(caption, columns, made, class_="pods")


_PLAIN = ("POD", "NODE", "IDENTIFIER", "STATE", "FINDINGS")
"""Columns that are no layers."""


def _row(row: PodRow, links: Links, ids: dict[str, str]) -> Markup:
    pod, node, identifier, *layers, _, _ = words.cells(row, wide=True)
    state = words.cells(row, wide=False)[7]
    name = f"{row.namespace}/{row.name}"
    codes = [_code(code, links.get((code, name), "")) for code in row.codes]
    found = [joined(codes, " ")] if codes else []
    found += [el("p", f"unread: {row.reason}", class_="none")] if row.reason else []
    cells = [pod, node, identifier, *map(_word, layers), _state(state), joined(found) if found else "-"]
    return table_row(cells, id_=ids.pop(name, ""))


def _word(word: str) -> Markup | str:
    """A fault and what is not known stand out; all else is plain, so that they do."""
    of = tone(word)
    return badge(word) if of in ("bad", "unsure") else word


def _state(word: str) -> Markup | str:
    """Names of pod states are in capitals, and no faults."""
    return _word(word) if word in ("?", "MISSING") else word


def _code(code: str, to: str) -> Markup:
    return el("a", code, href=f"#{to}") if to else el("span", code)


# ---- findings


def _findings(found: Sequence[Finding], ids: Mapping[int, str], rows: Mapping[str, str]) -> Iterator[Markup]:
    """By code; of more than a few that are alike the others are folded."""
    by_code: dict[str, list[Finding]] = defaultdict(list)
    for one in found:
        by_code[one.code].append(one)
    for code, alike in by_code.items():
        made = [finding(one, ids[id(one)], rows) for one in alike]
        yield from made[: words.ALIKE]
        if made[words.ALIKE :]:
            yield folded(f"{code}: {len(made) - words.ALIKE} more like it", *made[words.ALIKE :])
