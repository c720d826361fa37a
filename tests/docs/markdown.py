"""The pages of the documentation, taken apart: fenced blocks, links, anchors, and the menu."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MENU = DOCS / "toc.yml"
FENCE = re.compile(
    r"^(?P<fence>`{3,}) *(?P<language>[\w-]*)[^\n`]*\n(?P<body>.*?)^(?P=fence) *$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """One fenced block; `start` and `end` are where its body is in the page."""

    language: str
    body: str
    start: int
    end: int


def pages() -> list[Path]:
    """Every Markdown file for people: those at the root, and all below docs/."""
    return sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> Iterator[Block]:
    for found in FENCE.finditer(text):
        yield Block(found["language"], found["body"], found.start("body"), found.end("body"))


def prose(text: str) -> str:
    """Without fenced blocks; lines that are indented as code go, too."""
    return re.sub(r"^ {4}.*$", "", FENCE.sub("", text), flags=re.MULTILINE)


def links(text: str) -> list[str]:
    """Targets of links and pictures; what stands between backquotes is none."""
    return re.findall(r"\]\(([^()\s]+)\)", re.sub(r"(?<!`)`[^`\n]*`(?!`)", "`code`", prose(text)))


@cache
def anchors(page: Path) -> frozenset[str]:
    """Of all headings, as GitHub and MyST make them: the second of one name gets -1."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.append(slug + (f"-{found.count(slug)}" if slug in found else ""))
    return frozenset(found)


def menu() -> list[str]:
    """The files that docs/toc.yml names, in its order, as often as it does."""
    tree = yaml.safe_load(MENU.read_text())
    return [f"{tree['root']}.md", *_entries(tree)]


def _entries(node: object) -> Iterator[str]:
    if isinstance(node, list):
        for part in node:
            yield from _entries(part)
    elif isinstance(node, dict):
        if "file" in node:
            yield f"{node['file']}.md"
        if "glob" in node:
            yield from sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(f"{node['glob']}.md"))
        yield from _entries(node.get("entries", []))
        yield from _entries(node.get("subtrees", []))
