"""The whole of one completion: words in, text out. It says nothing else, writes nothing, and always ends well.

kubectl gives it the user's terminal as stdin and stderr while the user is typing. So both are put away, and a
credentials plugin that would ask there for a password finds nobody.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kubectl_netpol.cluster.connection import ConnectionFlags, may_connect
from kubectl_netpol.completion.line import Line, understand
from kubectl_netpol.completion.protocol import Candidate, Directive, text
from kubectl_netpol.completion.values import FILES, NAMES, WORDS, Asked
from kubectl_netpol.errors import ConnectionFailed

if TYPE_CHECKING:
    from kubectl_netpol.completion.names import Names

SECONDS = 4.0
"""For all of a lookup: a credentials plugin, and requests of 2 s at most each. A user who waits longer types it."""


def main(words: Sequence[str]) -> int:
    """Print what the last of ``words`` may become. The exit code is 0: with another one kubectl completes files."""
    apart = _put_terminal_away()
    try:
        said = complete(words, apart)
    except Exception:
        if os.environ.get("NETPOL_EBPF_DEBUG"):
            raise
        said = text((), Directive.NO_FILES)
    with contextlib.suppress(OSError):
        sys.stdout.write(said)
        sys.stdout.flush()
    return 0


def complete(words: Sequence[str], apart: bool = False) -> str:
    """The text of an answer. ``apart``: this process leads a session of its own."""
    import typer

    from kubectl_netpol.cli import app

    line = understand(typer.main.get_command(app), words)
    if line.parameter in FILES:
        return text((), Directive.FILES)
    found = list(line.candidates)
    asked = Asked(line.word, line.given, lambda: _names(line))
    if line.parameter in WORDS:
        found += WORDS[line.parameter](asked)
    elif line.parameter in NAMES:
        if not line.given.get("bundle") and may_connect(_flags(line)):
            prepare()
        found += within(SECONDS, lambda sink: sink.extend(NAMES[line.parameter](asked)), apart)
    return text((one for one in found if one.word.startswith(line.word)), Directive.NO_FILES)


def within(seconds: float, look: Callable[[list[Candidate]], None], apart: bool) -> list[Candidate]:
    """What ``look`` found until it ended, failed, or had no more time. In a thread, since names of hosts are looked
    up in C, where no signal ends it."""
    found: list[Candidate] = []

    def quietly() -> None:
        try:
            look(found)
        except Exception:
            if os.environ.get("NETPOL_EBPF_DEBUG"):
                raise

    looking = threading.Thread(target=quietly, daemon=True)
    looking.start()
    looking.join(seconds)
    if looking.is_alive() and apart:
        # A credentials plugin that hangs must not stay: it is in this session, with nobody else.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(os.getpgrp(), signal.SIGTERM)
    return list(found)


def prepare() -> None:
    """Import what asks a cluster before the clock runs: on a busy machine that alone may take seconds."""
    import kubernetes.config.kube_config  # noqa: F401
    import urllib3  # noqa: F401


def _names(line: Line) -> Names:
    from kubectl_netpol.completion import names

    if line.given.get("bundle"):
        return names.BundleNames(line.given["bundle"], line.given.get("namespace") or "")
    flags = _flags(line)
    if not may_connect(flags):
        raise ConnectionFailed("no kubeconfig")
    return names.ClusterNames(flags)


def _flags(line: Line) -> ConnectionFlags:
    from kubectl_netpol.completion.names import REQUEST_SECONDS
    from kubectl_netpol.options import connection_flags

    return connection_flags(line.given, REQUEST_SECONDS)


def _put_terminal_away() -> bool:
    """stdin and stderr lead nowhere, and no terminal can be opened. Returns whether this is a session of its own."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    if not os.environ.get("NETPOL_EBPF_DEBUG"):
        os.dup2(nowhere, 2)
    os.close(nowhere)
    if not hasattr(os, "setsid"):
        return False
    with contextlib.suppress(OSError):
        # Refused to the leader of a job that somebody runs from a shell.
        os.setsid()
    return os.getsid(0) == os.getpid()
