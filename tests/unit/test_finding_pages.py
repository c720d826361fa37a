"""docs/findings: a page for each code, and what it says of it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from kubectl_netpol.cli import app
from kubectl_netpol.diagnose.findings import KINDS
from kubectl_netpol.model.finding import Kind

PAGES = Path(__file__).parents[2] / "docs" / "findings"
SECTIONS = ["What it means", "How it is found", "What to do", "See also"]
VERBS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_each_code_has_a_page_and_each_page_a_code() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {*KINDS, "README"}
    assert all((PAGES.parents[1] / kind.page).exists() for kind in KINDS.values())


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.code)
def test_a_page_says_what_the_register_says(kind: Kind) -> None:
    lines = (PAGES / f"{kind.code}.md").read_text().splitlines()
    assert lines[0] == f"# {kind.code}: {kind.summary[0].upper()}{kind.summary[1:]}"
    assert lines[2] == f"Severity: {kind.severity} · Layer: {kind.where}"


@pytest.mark.parametrize("code", KINDS)
def test_a_page_has_its_sections(code: str) -> None:
    parts = re.split(r"^## (.+)$", (PAGES / f"{code}.md").read_text(), flags=re.MULTILINE)
    assert parts[1::2] == SECTIONS
    means, found, to_do, see = parts[2::2]
    assert len(means.split()) >= 20 and len(to_do.split()) >= 5 and see.strip().startswith("- ")
    # A real one, as the tool prints it: its title, and two values with where each was read.
    example = re.search(r"^```\n(.+?)\n```$", found, re.MULTILINE | re.DOTALL)
    assert example is not None
    title, *evidence = example[1].splitlines()
    assert title.startswith(f"{code} {KINDS[code].severity} {KINDS[code].where}: ")
    assert len(evidence) >= 2 and all(re.match(r"    .+: .+", line) for line in evidence)
    commands = re.findall(r"^```\n(.+?)\n```\n\nSide effect: .+\.$", to_do, re.MULTILINE)
    assert commands and len(commands) == to_do.count("```") // 2
    for command in commands:
        assert command.startswith(("kubectl ", "aws eks ")), command
        words = shlex.split(command.partition(" | ")[0])
        if words[:2] == ["kubectl", "netpol-ebpf"]:
            verb = VERBS[words[2]]
            # Only whether the flags are there: files and clusters are not asked for.
            verb.make_parser(verb.context_class(verb)).parse_args(words[3:])


def test_the_index_lists_all_in_order() -> None:
    rows = re.findall(r"^\| \[(NPE\d+)\]\((NPE\d+\.md)\) \| (\w+) \| (.+) \|$", (PAGES / "README.md").read_text(), re.M)
    assert [(code, page, severity, summary) for code, page, severity, summary in rows] == [
        (kind.code, f"{kind.code}.md", kind.severity.value, kind.summary) for kind in KINDS.values()
    ]


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", target)
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path
        assert found.exists(), target
        headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
        assert not anchor or anchor in {_anchor(heading) for heading in headings}, target


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
