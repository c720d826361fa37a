"""Every verb and document that the project speaks of is there; pages and commands: tests/docs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from kubectl_netpol import __version__
from kubectl_netpol.cli import app
from kubectl_netpol.diagnose.alignment import Status
from kubectl_netpol.diagnose.layers import Cause

ROOT = Path(__file__).resolve().parents[2]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_the_readme_names_every_verb_that_reads() -> None:
    text = (ROOT / "README.md").read_text()
    assert all(f"kubectl netpol-ebpf {name} " in text for name in COMMANDS if name != "version")


def test_files_named_in_hints_exist() -> None:
    for source in (ROOT / "kubectl_netpol").rglob("*.py"):
        for name in re.findall(r"docs/[\w/-]+\.md", source.read_text()):
            assert (ROOT / name).exists(), f"{source.name} names {name}"


def test_the_changelog_has_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_difference_is_documented() -> None:
    page = (ROOT / "docs/generations.md").read_text()
    for name in ("attachment.py", "inventory.py"):
        codes = re.findall(r'Difference\(\s*"([A-Z_]+)"', (ROOT / "kubectl_netpol/kernel" / name).read_text())
        assert codes
        for code in codes:
            assert f"`{code}`" in page, code


def test_every_status_and_cause_is_documented() -> None:
    page = (ROOT / "docs/words.md").read_text()
    for word in (*Status, *Cause):
        assert f"| `{word.value}` |" in page, word
