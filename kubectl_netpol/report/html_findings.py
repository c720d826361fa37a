"""Findings in HTML: title, what differs, what to do about it and what else that does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from kubectl_netpol.model.finding import Finding, InProgress, Severity
from kubectl_netpol.report.html import Markup, badge, el, folded, items, joined, section, table

TONES = {"error": "bad", "warning": "unsure", "info": "plain"}
MOST_PODS = 8
"""Names of a finding's pods that are shown at once."""


def finding(one: Finding, id_: str = "", rows: Mapping[str, str] | None = None) -> Markup:
    """``rows``: the ids of the rows of pods on the same page, by `namespace/name`."""
    severity = one.severity.value
    title = joined((el("span", one.code, class_="code"), " ", one.title))
    of = joined((badge(severity, TONES.get(severity, "plain")), " ", el("span", one.kind.where.value, class_="layer")))
    made = [el("h3", title), el("p", of, _concerns(one, rows or {}), class_="of")]
    if one.evidence:
        shown = ((evidence.source, evidence.value) for evidence in one.evidence)
        made.append(table("evidence", ("Read from", "Value"), shown, class_="evidence"))
    if one.remedies:
        made.append(el("ul", *map(_remedy, _pairs(one)), class_="remedies"))
    made.append(el("p", "see: ", el("code", one.kind.page), class_="see"))
    return el("article", *made, class_=f"finding {TONES.get(severity, 'plain')}", id_=id_)


def counted(found: Sequence[Finding], to: str = "") -> Markup:
    """`2 errors` `1 warning`, each leading to ``to``, or to the section of its severity."""
    counts = Counter(one.severity for one in found)
    return joined(
        (
            el("a", badge(f"{number} {plural(severity, number)}", TONES[severity.value]), href=to or f"#of-{severity}")
            for severity in Severity
            if (number := counts[severity])
        ),
        " ",
    )


def plural(severity: Severity, number: int) -> str:
    return severity.value if number == 1 or severity is Severity.INFO else f"{severity.value}s"


def _pairs(one: Finding) -> list[tuple[str, str]]:
    return [(remedy.command, remedy.effect) for remedy in one.remedies]


def _remedy(pair: tuple[str, str]) -> Markup:
    command, effect = pair
    return el("li", "try: ", el("code", command), el("p", "side effect: ", effect))


def _concerns(one: Finding, rows: Mapping[str, str]) -> Markup:
    if one.everywhere:
        return Markup(" all pods of the cluster")
    names = sorted(f"{namespace}/{name}" for namespace, name in one.pods)
    shown = [_pod(name, rows) for name in names]
    if not shown:
        return joined((" ", f"node {one.node}" if one.node else one.subject))
    if len(shown) <= MOST_PODS:
        return joined((" ", joined(shown, ", ")))
    return joined((f" {len(shown)} pods", folded("Pods", items(shown))))


def _pod(name: str, rows: Mapping[str, str]) -> Markup:
    return el("a", name, href=f"#{rows[name]}") if name in rows else el("span", name)


def in_progress(moved: Sequence[InProgress]) -> Markup:
    """What not every look saw; nothing where all of them saw the same."""
    if not moved:
        return Markup("")
    return section("In progress", items(one.text for one in moved), id_="in-progress")
