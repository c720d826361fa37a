"""Plain-text building blocks: clean strings, tables, colour."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import IO

COLOURS = {
    "ALLOW": "32",
    "ok": "32",
    "DROP": "31;1",
    "DENY": "31",
    "UNKNOWN": "33;1",
    "unknown": "33",
}


def clean(text: object) -> str:
    """Strip control and formatting characters: nothing read from outside may steer the terminal."""
    # Nothing that is printable is stripped below; this is most of what there is, and much faster.
    if str(text).isprintable():
        return str(text)
    return "".join(
        " " if char in "\n\t\r" else char
        for char in str(text)
        if char in "\n\t\r" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    )


class Block(str):
    """Lines that are clean already: the only text that may be more than one line."""


def clean_lines(lines: Iterable[str]) -> list[str]:
    """A text from outside makes no line of its own, whatever it holds: only a ``Block`` is many lines."""
    return [part for line in lines for part in (line.split("\n") if isinstance(line, Block) else [clean(line)])]


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, with_headers: bool = True) -> Block:
    """kubectl's kind of table: upper-case headers, columns two spaces apart, no frames."""
    from tabulate import tabulate

    cells = [[clean(cell) for cell in row] for row in rows]
    if not cells:
        return Block()
    if with_headers:
        # As a row: tabulate pads real headers by two more columns.
        cells.insert(0, list(headers))
    # Numbers are texts here: an id column must not be right-aligned or rounded.
    text = tabulate(cells, tablefmt="plain", disable_numparse=True)
    return Block("\n".join(line.rstrip() for line in text.splitlines()))


def indent(block: Block, by: str = "  ") -> Block:
    return Block("\n".join(f"{by}{line}" if line else line for line in block.splitlines()))


def age_text(nanoseconds: int) -> str:
    """kubectl's kind of duration: `45s`, `3m12s`, `5h7m`, `3d4h`."""
    seconds = nanoseconds // 1_000_000_000
    for size, unit, small_size, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            rest = seconds % size // small_size
            return f"{seconds // size}{unit}{rest}{small}" if rest else f"{seconds // size}{unit}"
    return f"{seconds}s"


def wants_colour(stream: IO[str]) -> bool:
    """As kubectl decides: a terminal that can, and nobody asked for none."""
    return stream.isatty() and os.environ.get("TERM") not in (None, "dumb") and "NO_COLOR" not in os.environ


def paint(line: str, colour: bool) -> str:
    """Colour the verdict word that starts a line or ends a column."""
    if not colour:
        return line
    for word, code in COLOURS.items():
        if line.lstrip().startswith((f"{word}:", f"{word} ")):
            return line.replace(word, f"\033[{code}m{word}\033[0m", 1)
    for name in ("INTENT", "ENDPOINTS", "EXPECTED", "PINNED", "ATTACHED", "CONNTRACK", "TEST RUN"):
        if line.lstrip().startswith(f"{name} "):
            head, rest = line[: line.index(name) + len(name)], line[line.index(name) + len(name) :]
            return head + _paint_words(rest)
    return line


def _paint_words(rest: str) -> str:
    """The verdict column behind a layer's name, or the two of a change: whole words up to the first other one."""
    found = re.match(r"\s+(\S+)(\s+(ALLOW|DENY|DROP|UNKNOWN|-)(?=\s))?", rest)
    if found is None:
        return rest
    words = re.sub(r"\S+", lambda w: f"\033[{COLOURS[w[0]]}m{w[0]}\033[0m" if w[0] in COLOURS else w[0], found[0])
    return words + rest[found.end() :]
