"""docs/injected-faults.md: the table for users."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.lab.article import NGINX
from tests.system.injected import api_rows, node_rows, rights_rows, signal_rows
from tests.system.injected.row import Chapter, Leaves, Row, Stdout
from tests.system.injected.words import FAR, POD

PAGE = Path(__file__).resolve().parents[3] / "docs" / "injected-faults.md"
CHAPTERS: tuple[Chapter, ...] = (
    *api_rows.CHAPTERS[:2],
    *rights_rows.CHAPTERS,
    *api_rows.CHAPTERS[2:],
    *node_rows.CHAPTERS,
    *signal_rows.CHAPTERS,
)
HEAD = """# When something is broken

What `kubectl netpol-ebpf` does when the API server, the node, or the place that the answer goes to is not as it should
be. Each row is a test: the fault is made in the lab, the real kubectl runs the command, and all of this is looked at:

- the exit code ([which means what](exit-codes.md)), and all lines of stderr; `…` stands for any text;
- stdout: nothing, or the whole answer, or an answer that says what is unknown. Never half of one;
- no traceback, no control characters, no temporary files, and an end in bounded time;
- no debug pod is left, and no process of one on the node, but for the rows that say so. There the server ends the pod
  at its deadline, and `kubectl netpol-ebpf cleanup --delete` removes what is left of it.

This page is written by `python -m tests.system.injected`.
"""
COLUMNS = "| what is broken | run | said on stderr | stdout | exit code |\n|---|---|---|---|---|\n"
SPOKEN = {Stdout.BLOCKED: "| a reader that does not read", Stdout.STDERR_GONE: "2> a pipe without a reader"}


def page() -> str:
    """The whole page."""
    return HEAD + "".join(f"\n## {one.title}\n\n{COLUMNS}{''.join(map(line, one.rows))}" for one in CHAPTERS)


def line(row: Row) -> str:
    said = "<br>".join(code(text) for text in row.says) or "nothing"
    left = f"; left: {row.leaves.value}" if row.leaves is not Leaves.NOTHING else ""
    exit_code = str(row.code if row.code >= 0 else 128 - row.code)
    cells = (row.broken, code(command(row)), said + left, row.prints.value, exit_code)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def command(row: Row) -> str:
    """As one would type it: any pod, any directory."""
    words = ["POD" if word in (POD, FAR, NGINX, "accessfalse") else word.replace("{dir}/", "") for word in row.command]
    way = "" if row.stdout is Stdout.PIPE else SPOKEN.get(row.stdout, row.stdout.value)
    return " ".join([*words, way]).strip()


def code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def rows() -> Iterator[Row]:
    for chapter in CHAPTERS:
        yield from chapter.rows
