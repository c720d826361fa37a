"""What kubectl's completion scripts read: one candidate a line, behind a tab what it is, and a directive at the end.

kubectl takes the lines of `kubectl_complete-netpol_ebpf` as they are (kubectl pkg/cmd/plugin/plugin_completion.go) and
hands them to the user's shell. Its bash script puts them through `compgen -W`, which expands $(...) in them: a name
that a cluster or a kubeconfig made up would be run. So only words that no shell takes for more than letters get out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntFlag
from typing import NamedTuple


class Directive(IntFlag):
    """Of the cobra library, which makes kubectl's completion scripts."""

    FILES = 0
    NO_SPACE = 2
    NO_FILES = 4


class Candidate(NamedTuple):
    """A word that may stand there. ``note``: what it is; may be empty."""

    word: str
    note: str = ""


NAME = re.compile(r"[A-Za-z0-9@%+=:,./_-]{1,512}\Z")
"""Names of Kubernetes, and of contexts such as `arn:aws:eks:eu-west-1:1:cluster/a` or `me@a.example`."""
LONGEST_NOTE = 100


def text(found: Iterable[Candidate], directive: Directive) -> str:
    """All that is printed. A word comes once, and its order is that of ``found``."""
    notes: dict[str, str] = {}
    for word, note in found:
        if NAME.match(word) and not word.startswith(":"):
            notes.setdefault(word, _plain(note))
    if notes and all(word.endswith("/") for word in notes):
        directive |= Directive.NO_SPACE
    lines = [f"{word}\t{note}" if note else word for word, note in notes.items()]
    return "".join(f"{line}\n" for line in (*lines, f":{int(directive)}"))


def _plain(note: str) -> str:
    """One line of printable ASCII, without what a shell could take for more than letters."""
    kept = "".join(char if char.isascii() and char.isprintable() and char not in "$`\\" else " " for char in note)
    kept = " ".join(kept.split())
    return kept if len(kept) <= LONGEST_NOTE else kept[: LONGEST_NOTE - 3].rstrip() + "..."
