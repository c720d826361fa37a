"""`check`: one row a pod, then the findings with their evidence and remedies, and how many there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from kubectl_netpol.diagnose.check import PodRow, Report
from kubectl_netpol.model.finding import Finding, Severity
from kubectl_netpol.report import kernel as kernel_report
from kubectl_netpol.report.output import API_VERSION
from kubectl_netpol.report.text import clean, indent, table

Json = dict[str, Any]

COLUMNS = ("POD", "NODE", "IDENTIFIER", "INTENT", "ENDPOINTS", "PINNED", "ATTACHED", "STATE", "FINDINGS")
SHORT_STATES = {"POLICIES_APPLIED": "applied", "DEFAULT_ALLOW": "allow", "DEFAULT_DENY": "deny"}
ALIKE = 3
"""Findings of one code that are told in full where many pods are asked about."""


def cells(row: PodRow, wide: bool, *, reason: bool = False) -> tuple[str, ...]:
    """The columns of one pod. ``reason``: with why its node is not known."""
    state = row.state if wide else "/".join(SHORT_STATES.get(word, word) for word in row.state.split("/"))
    node = row.node if wide else row.node.partition(".")[0]
    codes = ",".join(row.codes) or "-"
    if row.reason:
        # The same for all pods of a node, and told in full below the rows.
        codes = f"{codes if row.codes else ''} unread{f': {row.reason}' if wide or reason else ''}".strip()
    pod = f"{row.namespace}/{row.name}"
    words = pod, node, row.identifier or "-", row.intent, row.endpoints, row.pinned, row.attached, state, codes
    return tuple(clean(word) for word in words)


class Rows:
    """Rows that are written as they come, in columns whose widths are known before: the pods are."""

    def __init__(self, pods: Iterable[tuple[str, str, str]], wide: bool) -> None:
        """``pods``: (namespace, name, node) of all that will come."""
        listed = list(pods)
        self.wide = wide
        name = max((len(f"{ns}/{name}") for ns, name, _ in listed), default=0)
        node = max((len(node if wide else node.partition(".")[0]) for _, _, node in listed), default=0)
        # An identifier is the pod's name without its last piece, one separator and the namespace.
        identifier = max((len(ns) + len(pod.rpartition("-")[0] or pod) + 1 for ns, pod, _ in listed), default=0)
        state = 15 if wide else 9
        self.widths = [
            max(len(c), w) for c, w in zip(COLUMNS, (name, node, identifier, 11, 9, 6, 8, state, 0), strict=True)
        ]

    def header(self) -> str:
        return self._line(COLUMNS)

    def line(self, row: PodRow) -> str:
        return self._line(cells(row, self.wide))

    def _line(self, words: Sequence[str]) -> str:
        return "  ".join(word.ljust(width) for word, width in zip(words, self.widths, strict=True)).rstrip()


def one_pod(report: Report, wide: bool, with_headers: bool) -> str:
    """The answer first, then its findings in full, then its row."""
    lines = [summary(report)]
    lines += [f"not read: {reason}" for reason in report.unread]
    for one in report.findings:
        lines += ["", *finding_lines(one, full=True)]
    lines += _in_progress_lines(report)
    rows = table(COLUMNS, [cells(row, wide, reason=True) for row in report.rows], with_headers=with_headers)
    if rows:
        lines += ["", *indent(rows).split("\n")]
    if wide:
        lines += _moment_lines(report)
    return "\n".join(map(clean, lines))


def after_rows(report: Report, wide: bool) -> str:
    """What follows the rows of many pods: findings, what was not read, and the sum at the very end."""
    lines: list[str] = []
    told: Counter[str] = Counter()
    for one in report.findings:
        told[one.code] += 1
        if wide or told[one.code] <= ALIKE:
            lines += ["", *finding_lines(one, full=wide)]
        elif told[one.code] == ALIKE + 1:
            more = sum(other.code == one.code for other in report.findings) - ALIKE
            lines += ["", f"{one.code} {one.severity}: {more} more like it; -o wide tells all"]
    if report.unread:
        lines += ["", *(f"not read: {reason}" for reason in report.unread)]
    lines += _in_progress_lines(report)
    if wide:
        lines += _moment_lines(report)
    lines += ["", summary(report)]
    return "\n".join(map(clean, lines)).lstrip("\n")


def _in_progress_lines(report: Report) -> list[str]:
    lines = kernel_report.in_progress_lines(report.in_progress)
    return ["", "IN PROGRESS", *lines] if lines else []


def _moment_lines(report: Report) -> list[str]:
    """When each node was read."""
    lines = [f"node {name} was read {kernel_report.moment_text(one)}" for name, one in report.moments.items()]
    return ["", *lines] if lines else []


def summary(report: Report) -> str:
    """`42 pods on 5 nodes: 2 errors, 1 warning; 1 in progress; 1 reading failed`."""
    counts = Counter(one.severity for one in report.findings)
    words = [
        f"{counts[severity]} {word}{'' if counts[severity] == 1 or severity is Severity.INFO else 's'}"
        for severity, word in ((Severity.ERROR, "error"), (Severity.WARNING, "warning"), (Severity.INFO, "info"))
        if counts[severity]
    ]
    nodes = len({row.node for row in report.rows})
    if len(report.rows) == 1:
        row = report.rows[0]
        who = f"pod {row.namespace}/{row.name} on node {row.node}"
    else:
        who = f"{len(report.rows)} pods on {nodes} node{'' if nodes == 1 else 's'}"
    found = ", ".join(words) or ("no findings in what could be read" if report.unread else "no findings")
    waited = f"{report.waited}; " if report.waited else ""
    failed = len(report.unread)
    more = f"; {failed} reading{'' if failed == 1 else 's'} failed" if failed else ""
    moved = len(report.in_progress)
    more = f"; {moved} in progress{more}" if moved else more
    if report.ignored:
        more += f"; ignored: {', '.join(sorted(set(report.ignored)))}"
    api = " (--api-only: nodes were not read)" if report.api_only else ""
    return f"{who}: {waited}{found}{more}{api}."


def finding_lines(one: Finding, *, full: bool) -> Iterator[str]:
    """One finding: title, evidence, and what to do. A name with a newline makes no line of its own."""
    return map(clean, _finding_lines(one, full=full))


def _finding_lines(one: Finding, *, full: bool) -> Iterator[str]:
    yield f"{one.code} {one.severity} {one.kind.where}: {one.title}"
    for evidence in one.evidence:
        yield f"    {evidence.source}: {evidence.value}"
    remedies = one.remedies if full else one.remedies[:1]
    for remedy in remedies:
        yield f"  try: {remedy.command}"
        yield f"    side effect: {remedy.effect}"
    yield f"  see: {one.kind.page}"


def finding_data(one: Finding) -> Json:
    return {
        "code": one.code,
        "severity": one.severity.value,
        "layer": one.kind.where.value,
        "title": clean(one.title),
        "subject": clean(one.subject),
        "pods": sorted(f"{namespace}/{name}" for namespace, name in one.pods),
        "node": one.node or None,
        "everywhere": one.everywhere,
        "directions": [direction.value for direction in one.directions],
        "evidence": [{"source": clean(e.source), "value": clean(e.value)} for e in one.evidence],
        "remedies": [{"command": clean(r.command), "sideEffect": clean(r.effect)} for r in one.remedies],
        "page": one.kind.page,
    }


def as_data(report: Report) -> Json:
    counts = Counter(one.severity for one in report.findings)
    return {
        "apiVersion": API_VERSION,
        "kind": "Check",
        "answer": summary(report),
        "apiOnly": report.api_only,
        "ignored": list(report.ignored),
        "inForce": report.in_force,
        "counts": {severity.value: counts[severity] for severity in Severity},
        "pods": [_row_data(row) for row in report.rows],
        "findings": [finding_data(one) for one in report.findings],
        "unread": [clean(reason) for reason in report.unread],
        "inProgress": kernel_report.in_progress_data(report.in_progress),
        "readings": {clean(name): kernel_report.moment_data(one) for name, one in report.moments.items()},
    }


def _row_data(row: PodRow) -> Json:
    return {
        "pod": f"{row.namespace}/{row.name}",
        "node": row.node,
        "identifier": clean(row.identifier) or None,
        "intent": row.intent,
        "endpoints": row.endpoints,
        "pinned": row.pinned,
        "attached": row.attached,
        "state": row.state,
        "findings": list(row.codes),
        "unread": clean(row.reason) or None,
    }


# ---- for pipelines


def as_junit(report: Report, failing: Sequence[Severity]) -> str:
    """One test case a pod, and one for the cluster: a failure for each finding at the threshold, an error if unread."""
    cases = [(row, [one for one in report.findings if row.key in one.pods]) for row in report.rows]
    keys = {row.key for row in report.rows}
    rest = [one for one in report.findings if not one.pods & keys]
    suite = ElementTree.Element("testsuite", name="kubectl netpol-ebpf check")
    for row, found in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=clean(row.namespace), name=clean(row.name))
        _failures(case, found, failing)
        # With --api-only nodes were not to be read: that is no error.
        if row.reason and not report.api_only:
            ElementTree.SubElement(case, "error", message=clean(row.reason), type="unread")
    case = ElementTree.SubElement(suite, "testcase", classname="cluster", name="cluster")
    _failures(case, rest, failing)
    for reason in report.unread:
        ElementTree.SubElement(case, "error", message=clean(reason), type="unread")
    listed = list(suite)
    suite.set("tests", str(len(listed)))
    suite.set("failures", str(sum(one.find("failure") is not None for one in listed)))
    suite.set("errors", str(sum(one.find("error") is not None for one in listed)))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _failures(case: ElementTree.Element, found: Iterable[Finding], failing: Sequence[Severity]) -> None:
    for one in found:
        if one.severity in failing:
            failure = ElementTree.SubElement(case, "failure", type=one.code, message=clean(one.title))
            failure.text = " | ".join(finding_lines(one, full=True))


def as_prometheus(report: Report) -> str:
    """Gauges in the text format of Prometheus, version 0.0.4: for a textfile collector or a push gateway."""
    lines = [
        "# HELP netpol_ebpf_findings Findings by code, severity and layer.",
        "# TYPE netpol_ebpf_findings gauge",
    ]
    counts = Counter((one.code, one.severity.value, one.kind.where.value) for one in report.findings)
    lines += [
        f'netpol_ebpf_findings{{code="{code}",severity="{severity}",layer="{where}"}} {count}'
        for (code, severity, where), count in sorted(counts.items())
    ]
    lines += ["# HELP netpol_ebpf_pod_findings Findings of one pod.", "# TYPE netpol_ebpf_pod_findings gauge"]
    # Each series once: a bundle may hold a pod twice.
    lines += dict.fromkeys(
        f'netpol_ebpf_pod_findings{{namespace="{_label(row.namespace)}",pod="{_label(row.name)}",'
        f'node="{_label(row.node)}",code="{code}"}} 1'
        for row in report.rows
        for code in row.codes
    )
    lines += [
        "# HELP netpol_ebpf_pods Pods that were checked.",
        "# TYPE netpol_ebpf_pods gauge",
        f"netpol_ebpf_pods {len(report.rows)}",
        "# HELP netpol_ebpf_pods_unread Pods of which it is not known what is attached.",
        "# TYPE netpol_ebpf_pods_unread gauge",
        f"netpol_ebpf_pods_unread {sum(row.attached == '?' for row in report.rows)}",
        "# HELP netpol_ebpf_unread Things that could not be read.",
        "# TYPE netpol_ebpf_unread gauge",
        f"netpol_ebpf_unread {len(report.unread)}",
        "# HELP netpol_ebpf_in_progress Differences that not every look saw.",
        "# TYPE netpol_ebpf_in_progress gauge",
        f"netpol_ebpf_in_progress {len(report.in_progress)}",
    ]
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return clean(text).replace("\\", "\\\\").replace('"', '\\"')
