"""Building blocks of `-o html`: markup that cannot be forged, and the page around it.

Whatever is no ``Markup`` is text and is escaped, so that a forgotten call shows as text and never as an element. Names
of elements and attributes and the values of attributes are the templates' own: nothing that was read is in them.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kubectl_netpol.report.html_style import STYLE
from kubectl_netpol.report.text import clean

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy: no script, no image, no font, no request. The only style is the one of the page."""


NEWLINE = "\n"
LINES = frozenset(("body", "dd", "div", "head", "header", "li", "main", "p", "section"))
LINES |= {"summary", "table", "title", "tr", "h2", "h3"}
"""Elements that end a line, so that the file can be read and compared as text too."""


class Markup(str):
    """Text that is HTML already: made here, or escaped."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """Text for people: without control and direction characters, and without a meaning for the parser."""
    return text if isinstance(text, Markup) else Markup(html.escape(clean(text)))


def joined(parts: Iterable[object], between: str = "") -> Markup:
    return Markup(escaped(between).join(map(escaped, parts)))


def el(name: str, *children: object, **attributes: str) -> Markup:
    """One element. Attributes: ``class_`` is class, ``data_x`` is data-x; empty ones are left out."""
    values = ((key.rstrip("_").replace("_", "-"), escaped(value)) for key, value in attributes.items())
    written = "".join(f' {key}="{value}"' for key, value in values if value)
    return Markup(f"<{name}{written}>{joined(children)}</{name}>{NEWLINE if name in LINES else ''}")


def items(texts: Iterable[object], class_: str = "") -> Markup:
    """A list; nothing where there is nothing."""
    found = [el("li", text) for text in texts]
    return el("ul", *found, class_=class_) if found else Markup()


def facts(pairs: Iterable[tuple[object, object]]) -> Markup:
    """Labels with their values."""
    found = [el("div", el("dt", label), el("dd", value)) for label, value in pairs]
    return el("dl", *found, class_="facts") if found else Markup()


def folded(title: object, *content: object, is_open: bool = False) -> Markup:
    """What is there for whoever wants it."""
    return Markup(f"<details{' open' if is_open else ''}>{el('summary', title)}{joined(content)}</details>\n")


def section(title: object, *content: object, class_: str = "", id_: str = "") -> Markup:
    return el("section", el("h2", title), *content, class_=class_, id_=id_)


def table(
    caption: object, columns: Sequence[object], rows: Iterable[Sequence[object] | Markup], *, class_: str
) -> Markup:
    """A table whose first column names the row. ``class_``: where the style has its columns. A row may be made."""
    head = el("thead", el("tr", *(el("th", column, scope="col") for column in columns)))
    body = el("tbody", *(row if isinstance(row, Markup) else table_row(row) for row in rows))
    # Wide tables are moved sideways, by keyboard too, and the page is not.
    made = el("table", el("caption", caption), head, body, class_=class_)
    return el("div", made, class_="scroll", role="group", tabindex="0", aria_label="table, scrolls sideways")


def table_row(cells: Sequence[object], *, class_: str = "", id_: str = "") -> Markup:
    """Cells that are elements already stay as they are."""
    first, *rest = cells
    made = [first if _is_cell(first) else el("th", first, scope="row")]
    return el("tr", *made, *(one if _is_cell(one) else el("td", one) for one in rest), class_=class_, id_=id_)


def _is_cell(cell: object) -> bool:
    return isinstance(cell, Markup) and cell.startswith(("<td", "<th"))


# ---- words


def tone(word: str) -> str:
    """The colour of a word, beside the word itself: never instead of it.

    The tool's own habit: faults are in capitals, what is well begins with ok; words that are not known here are plain.
    """
    if word == "ALLOW" or word.split(":")[0] == "ok":
        return "good"
    if word in ("UNKNOWN", "unknown", "?"):
        return "unsure"
    if word in ("", "-"):
        return "none"
    return "bad" if word.isupper() else "plain"


def badge(word: str, of: str = "") -> Markup:
    """``of``: the tone, where the word does not tell it."""
    return el("span", word, class_=f"badge {of or tone(word)}")


# ---- the page


@dataclass(frozen=True)
class About:
    """Where a page comes from: what whoever finds it at a ticket has to know."""

    version: str
    """Of the tool that made the page."""
    read_at: str
    """RFC 3339: when the data was read."""
    source: str
    """`bundle nginx.tar.gz`, `live cluster`."""
    facts: tuple[tuple[str, str], ...] = ()
    """What else is known of the source: context, user, the version that read it."""
    warnings: tuple[str, ...] = ()
    """What was said on stderr, where the reader of the page has not been."""


def page(verb: str, title: str, about: About, *content: object) -> str:
    """A whole file, in ASCII: nothing depends on how it is stored or sent."""
    head = [
        # Before anything that was read.
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        Markup('<meta name="referrer" content="no-referrer">'),
        el("title", title),
        Markup(f"<style>{STYLE}</style>"),
    ]
    command = f"kubectl netpol-ebpf {verb}"
    body = el(
        "body",
        el("header", el("p", command, class_="command"), el("h1", title), _origin(about)),
        el("main", *content),
        el("footer", el("p", f"Made by {command}, version {about.version}.")),
    )
    made = f'<!DOCTYPE html>\n<html lang="en">\n{el("head", *head)}\n{body}\n</html>\n'
    return made.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _origin(about: About) -> Markup:
    return facts((("Read", about.read_at or "at an unknown time"), ("From", about.source), *about.facts))


def warned(about: About, unread: Iterable[str]) -> Markup:
    """What could not be read, where nobody can miss it."""
    found = list(dict.fromkeys((*about.warnings, *unread)))
    return el("section", el("h2", "Not read"), items(found), class_="unread") if found else Markup()
