"""Plain text: nothing from outside steers the terminal, tables look like kubectl's."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.report import text


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("plain", "plain"),
        (12, "12"),
        (None, "None"),
        ("a\x1b[31mred", "a[31mred"),
        ("a\x9b31m", "a31m"),
        ("a\x00b\x07c\x7f", "abc"),
        ("a\nb\tc\rd", "a b c d"),
        ("user\u202etxt.exe", "usertxt.exe"),
        ("a\u2066b\u2069", "ab"),
        ("a\u200bb\ufeff", "ab"),
        ("a\u2028b\u2029c", "abc"),
        ("a\ud800b", "ab"),
        ("\ue000", ""),
        ("Grüße 日本", "Grüße 日本"),
    ],
)
def test_clean(dirty, expected):
    assert text.clean(dirty) == expected


@given(st.text())
def test_nothing_but_printable_characters_comes_out(dirty):
    found = text.clean(dirty)
    assert not {unicodedata.category(c) for c in found} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert text.clean(found) == found


def test_tables_are_two_spaces_apart_without_frames_or_trailing_blanks():
    assert text.table(["NAME", "ID"], [["a", 1], ["long-name", 1000000]]) == "\n".join(
        ["NAME       ID", "a          1", "long-name  1000000"]
    )


def test_numbers_stay_texts():
    assert text.table(["ID", "X"], [["007", "1e5"], ["1.50", ""]]) == "ID    X\n007   1e5\n1.50"


def test_without_headers():
    assert text.table(["NAME"], [["a"]], with_headers=False) == "a"
    assert text.table(["NAME"], []) == ""


def test_cells_are_cleaned_and_one_line_each():
    found = text.table(["A", "B"], [["x\x1b[2J\ny", "z"]])
    assert found.splitlines()[1:] == ["x[2J y  z"]


def test_indent():
    assert text.indent("a\n\nb") == "  a\n\n  b"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "expected"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_colour_for_terminals_only(stream, environment, expected, monkeypatch):
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert text.wants_colour(stream) is expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("DROP: a -> b", "\033[31;1mDROP\033[0m: a -> b"),
        ("  ATTACHED  ALLOW  entry ALLOW", "  ATTACHED  \033[32mALLOW\033[0m  entry ALLOW"),
        ("  INTENT  -  nothing", "  INTENT  -  nothing"),
        ("  EXPECTED  ALLOW  DROP  why", "  EXPECTED  \033[32mALLOW\033[0m  \033[31;1mDROP\033[0m  why"),
        ("  EXPECTED  -  ALLOW  why DROP", "  EXPECTED  -  \033[32mALLOW\033[0m  why DROP"),
        ("the word ALLOW inside", "the word ALLOW inside"),
        ("ALLOWED", "ALLOWED"),
    ],
)
def test_paint_colours_the_verdict_and_nothing_else(line, expected):
    assert text.paint(line, True) == expected
    assert text.paint(line, False) == line
