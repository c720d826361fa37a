"""One table: fault, expected code, found codes. Healthy twins say nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from kubectl_netpol import bundle, redact
from kubectl_netpol.diagnose import deviations, findings
from kubectl_netpol.diagnose.drops import Kind
from kubectl_netpol.model.finding import Severity
from kubectl_netpol.model.snapshot import Snapshot
from kubectl_netpol.redact.names import Names
from tests.faults import rows, world
from tests.faults.catalogue import KERNEL, OBJECTS, Fault
from tests.faults.table import PAGE, sentence
from tests.lab.require import require_lab, require_tools


@pytest.fixture(scope="module")
def healthy() -> Iterator[Snapshot]:
    require_lab()
    require_tools("kubectl", "tc")
    with world.healthy() as lab:
        yield world.read(lab)


def test_a_healthy_cluster_has_no_findings(healthy: Snapshot) -> None:
    report = world.check(healthy)
    assert (report.findings, report.unread) == ((), ())
    assert {row.pinned for row in report.rows} == {row.attached for row in report.rows} == {"ok"}


def judge(fault: Fault, report: world.Report) -> None:
    """The fault is named, and nothing else is told but what follows from it."""
    found = {one.code: one for one in report.findings}
    print(f"{fault.name:60} {fault.code} {','.join(found)}")
    assert fault.code in found, f"{fault.name}: {[one.title for one in report.findings]}"
    beside = {code for code in found if code not in {fault.code, *fault.also}}
    errors = [found[code].title for code in beside if found[code].severity is not Severity.INFO]
    assert not errors, f"{fault.name}: {errors}"
    one = found[fault.code]
    assert len(one.evidence) >= 2 and one.remedies, fault.name
    assert all(part.source and part.value for part in one.evidence)
    assert all(remedy.effect for remedy in one.remedies)


def told_alike_when_redacted(snapshot: Snapshot, report: world.Report) -> None:
    """With other names and addresses the same is wrong with the same pods."""
    names = Names(bytes(32))
    other = world.check(checked(redact.renamed(checked(snapshot), names)))
    kept = [f for f in report.findings if f.code not in GONE_WITH_THE_NAMES]
    findings = [(f.code, f.severity, sorted((names.name(a), names.name(b)) for a, b in f.pods)) for f in kept]
    assert sorted((f.code, f.severity, sorted(f.pods)) for f in other.findings) == sorted(findings)
    rows = [(names.name(r.namespace), names.name(r.name), r.pinned, r.attached, r.state) for r in report.rows]
    assert sorted((r.namespace, r.name, r.pinned, r.attached, r.state) for r in other.rows) == sorted(rows)


GONE_WITH_THE_NAMES = {"NPE109": "a label that is nearly the right one is another word afterwards"}


def checked(snapshot: Snapshot) -> Snapshot:
    """As it comes from a node or a bundle."""
    return bundle.read_from(io.BytesIO(packed(snapshot)), "snapshot")


def packed(snapshot: Snapshot) -> bytes:
    file = io.BytesIO()
    bundle.write_to(snapshot, file)
    return file.getvalue()


@pytest.mark.parametrize("fault", OBJECTS, ids=lambda fault: fault.name)
def test_fault_of_objects(fault: Fault, healthy: Snapshot) -> None:
    objects = world.Objects.of(healthy)
    fault.make(objects)
    snapshot = objects.snapshot()
    report = world.check(snapshot)
    judge(fault, report)
    told_alike_when_redacted(snapshot, report)


@pytest.mark.parametrize("fault", KERNEL, ids=lambda fault: fault.name)
def test_fault_of_the_kernel(fault: Fault) -> None:
    require_lab()
    require_tools("kubectl", "tc")
    with world.healthy(**fault.lab) as lab:
        fault.make(lab)
        snapshot = world.read(lab)
    report = world.check(snapshot)
    judge(fault, report)
    told_alike_when_redacted(snapshot, report)


def test_ipv4_egress_matters_where_a_policy_restricts_egress(healthy: Snapshot) -> None:
    objects = world.Objects.of(healthy)
    objects.flag("enable-ipv6", "true")
    objects.env("ENABLE_V4_EGRESS", "true")
    assert world.check(objects.snapshot()).findings == ()


def test_every_code_has_a_fault() -> None:
    made = {fault.code for fault in (*KERNEL, *OBJECTS)}
    assert set(findings.KINDS) - made == set(ELSEWHERE)


ELSEWHERE = {
    "NPE114": "told by explain, for a flow",
    "NPE115": "told by explain, for a flow",
    "NPE615": "told by drops",
}
"""Codes that `check` does not tell: test_of_questions.py has the faults and their twins."""


def test_names_are_given_once() -> None:
    names = [fault.name for fault in (*KERNEL, *OBJECTS)]
    assert len(names) == len(set(names))


def test_every_row_of_the_facts_is_accounted_for() -> None:
    """Each report of users and each known failure has a fault, or says where else it is told or why it cannot be."""
    made = {row for fault in (*KERNEL, *OBJECTS) for row in fault.rows.split()}
    made |= {"P8", "P24"}  # test_of_questions.py
    tables = (made, rows.SAME_STATE, rows.DEVIATIONS, rows.QUESTIONS, rows.NOT_MADE)
    assert set().union(*tables) == rows.ALL
    assert sum(len(table) for table in tables) == len(rows.ALL), "a row stands in one table alone"
    codes = {fault.code for fault in (*KERNEL, *OBJECTS)}
    assert {code for code, _ in rows.SAME_STATE.values()} <= codes
    assert {code for code, _ in rows.DEVIATIONS.values()} <= set(deviations.CODES)
    assert {code for code, _ in rows.QUESTIONS.values()} <= {*ELSEWHERE, *(kind.value for kind in Kind)}


def test_the_page_of_faults_is_that_of_the_catalogue() -> None:
    """`scripts/faults` writes it anew."""
    text = PAGE.read_text()
    rows_of = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    listed = {cells[0]: cells[1:] for cells in rows_of if len(cells) == 4 and cells[0] != "fault"}
    assert {name: (cells[0], cells[1]) for name, cells in listed.items()} == {
        sentence(fault): ("API" if fault in OBJECTS else "kernel", fault.code) for fault in (*KERNEL, *OBJECTS)
    }
    for name, (_, expected, codes) in listed.items():
        assert codes.split(", ")[0] == expected, name
    assert all(reason in text for reason in rows.NOT_MADE.values())
