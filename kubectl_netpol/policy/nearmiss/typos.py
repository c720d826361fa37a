"""Whether two texts are meant to be the same, and what tells them apart."""

from __future__ import annotations

import re

SHORTEST, SHORTEST_OTHER = 3, 4
"""Letters of the longer text: `fe` and `be`, `api` and `app` are words of their own, not typos of each other."""


def one_edit(left: str, right: str) -> bool:
    """Damerau-Levenshtein distance 1: one character more, less or other, or two neighbours swapped."""
    if left == right or abs(len(left) - len(right)) > 1:
        return False
    head = _same_head(left, right)
    if len(left) == len(right):
        a, b = left[head:], right[head:]
        return a[1:] == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
    short, long = sorted((left, right), key=len)
    return short[head:] == long[head + 1 :]


def _same_head(left: str, right: str) -> int:
    pairs = zip(left, right, strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def is_typo(left: str, right: str) -> bool:
    """One edit apart, and not two names on purpose: numbered names and very short words are."""
    if not one_edit(left, right):
        return False
    left, right = _differing_parts(left, right)
    head = _same_head(left, right)
    if any(text[head : head + 1].isdigit() for text in (left, right)):
        return False
    longest, swapped = max(len(left), len(right)), sorted(left) == sorted(right)
    other = len(left) == len(right) and not swapped
    return longest >= (SHORTEST_OTHER if other else SHORTEST)


def _differing_parts(left: str, right: str) -> tuple[str, str]:
    """`team-a` and `team-b` differ in a word of one letter."""
    parts = [re.split(r"[-_./]", text) for text in (left, right)]
    if len(parts[0]) != len(parts[1]):
        return left, right
    return next(((a, b) for a, b in zip(*parts, strict=True) if a != b), (left, right))


_INVISIBLE = re.compile(r"[\s\u00a0\u00ad\u200b-\u200f\u2028-\u202f\u2060\ufeff]+")
_RULES = (
    ("quotes", lambda text: text.strip("\"'`\u2018\u2019\u201c\u201d")),
    ("upper and lower case", str.casefold),
    ("`_` and `-`", lambda text: text.replace("_", "-")),
    ("blanks or invisible characters", lambda text: _INVISIBLE.sub("", text)),
)


def likeness(wanted: object, found: object) -> str:
    """`one letter off`, `differing only in upper and lower case` ...; empty: they are not alike."""
    left, right = _text(wanted), _text(found)
    if left == right:
        return "" if wanted == found else "which is no text: a label's value needs quotes"
    for name, rule in _RULES:
        if rule(left) == rule(right):
            return f"differing only in {name}"
    for _, rule in _RULES:
        left, right = rule(left), rule(right)
    if left == right:
        return "differing only in its spelling"
    return "one letter off" if is_typo(_text(wanted), _text(found)) else ""


def _text(value: object) -> str:
    """`true` of YAML without quotes is a bool, whose text Python writes otherwise."""
    return str(value).lower() if isinstance(value, bool) else str(value)
