"""`python -m tests.faults.table`: every fault is made and checked, and the table of docs/faults.md written.

It needs what the lab needs: root, clang, tc, kubectl.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from kubectl_netpol.report.text import table
from tests.faults import rows, world
from tests.faults.catalogue import KERNEL, OBJECTS, Fault

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
QUESTIONS = (
    ("ping where all rules have ports", "NPE114", "explain"),
    ("a connection from another node's address", "NPE115", "explain"),
    ("a connection from outside the cluster", "NPE115", "explain"),
    ("policy event logs are off", "NPE615", "drops"),
)
"""Made in tests/faults/test_of_questions.py."""
HEAD = """# The fault catalogue

What `check` says of faults that were made on purpose: most of them with real programs, maps and filters in a real
kernel (`kernel`), the others in the API objects of the same cluster (`API`). `scripts/faults` makes them all and writes
this page. The tests hold that each is found, that no other error is told beside what truly follows from it, and that
the healthy cluster and 50 random ones have no finding at all. What each code means: [findings](findings/README.md).

| fault | made in | expected | found |
|---|---|---|---|
"""
REST = """
## What only a question brings up

| fault | expected | told by |
|---|---|---|
"""
SAME = """
## What leaves the state of another fault behind

How it came about cannot be seen on the node; what is wrong with it can.

| what happens | found as |
|---|---|
"""
NOT_MADE = """
## What cannot be made on one node or in the API

"""


def found(fault: Fault, healthy: world.Objects) -> list[str]:
    """The codes that `check` tells, the expected one first."""
    if fault in OBJECTS:
        objects = world.Objects.of(healthy.snapshot())
        fault.make(objects)
        report = world.check(objects.snapshot())
    else:
        with world.healthy(**fault.lab) as lab:
            fault.make(lab)
            report = world.check(world.read(lab))
    codes = dict.fromkeys(one.code for one in report.findings)
    return sorted(codes, key=lambda code: (code != fault.code, code))


def everything() -> Iterator[tuple[str, str, str, str]]:
    """(fault, made in, expected, found) of all faults."""
    with world.healthy() as lab:
        healthy = world.Objects.of(world.read(lab))
    for fault in sorted((*KERNEL, *OBJECTS), key=lambda fault: (fault.code, fault.name)):
        codes = ", ".join(found(fault, healthy)) or "nothing"
        yield sentence(fault), "API" if fault in OBJECTS else "kernel", fault.code, codes


def sentence(fault: Fault) -> str:
    return fault.name.replace("_", " ")


def page(made: list[tuple[str, str, str, str]]) -> str:
    """docs/faults.md."""
    lines = [HEAD + "\n".join(f"| {' | '.join(row)} |" for row in made)]
    lines += [REST + "\n".join(f"| {' | '.join(row)} |" for row in QUESTIONS)]
    lines += [SAME + "\n".join(f"| {why} | {code} |" for code, why in rows.SAME_STATE.values())]
    lines += [NOT_MADE + "\n".join(f"- {why}" for why in rows.NOT_MADE.values())]
    return "\n".join(lines) + "\n"


def main() -> None:
    made = list(everything())
    print(table(["FAULT", "MADE IN", "EXPECTED", "FOUND"], made, with_headers=True))
    missed = [row[0] for row in made if row[2] not in row[3].split(", ")]
    if missed:
        sys.exit(f"not found: {'; '.join(missed)}")
    PAGE.write_text(page(made))


if __name__ == "__main__":
    main()
