"""Which of many differences make an outcome: those without which it would be another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from kubectl_netpol.model.verdict import Decision

T = TypeVar("T")
Reason = tuple[str, str]
"""(code, sentence)"""


def needed(differences: Iterable[T], decide: Callable[[frozenset[T]], Decision], outcome: Decision) -> list[T]:
    """Some of the differences that together make the outcome, and none of which could be left out.

    ``decide``: what comes of it with these differences and no others; with all of them it is ``outcome``. Where several
    such sets exist, the one that keeps the later differences.
    """
    left = list(dict.fromkeys(differences))
    # Large parts first: of hundreds of differences a few make the outcome.
    size = len(left) // 2
    while size > 1:
        start = 0
        while start < len(left):
            rest = [*left[:start], *left[start + size :]]
            if decide(frozenset(rest)) is outcome:
                left = rest
            else:
                start += size
        size //= 2
    smaller = True
    while smaller:
        smaller = False
        for one in tuple(left):
            rest = [other for other in left if other != one]
            if decide(frozenset(rest)) is outcome:
                left, smaller = rest, True
    return left
