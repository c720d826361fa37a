"""The entry point. It imports next to nothing, so that Ctrl-C while the rest is loaded ends in one line too."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from typing import IO


def collect_rarely() -> None:
    """Objects of the API hold no cycles, and there are millions in a large cluster: looking for some among them, again
    and again while the lists grow, takes as long as reading them (bench/scale.py)."""
    gc.set_threshold(100_000, 20, 100)


def open_what_is_closed() -> None:
    """A standard stream that the caller closed (`>&-`) goes nowhere: its number must not be given to a connection."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - stays open


def give_up_what_cannot_be_written(interrupted: bool) -> None:
    """What the interpreter would try to write once more when it ends: to a full disk, which it reports with an exit
    code of its own, or to a pipe that nobody reads, for ever."""
    if interrupted:
        to_nowhere(sys.stdout)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            to_nowhere(stream)


def to_nowhere(stream: IO[str]) -> None:
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main() -> None:
    """Run the command line that the process was given, and exit with its code."""
    _run(sys.argv[1:])


def complete() -> None:
    """`kubectl_complete-netpol_ebpf WORDS`, which kubectl runs for completions."""
    _run([COMPLETE, *sys.argv[1:]])


COMPLETE = "__complete"
"""The verb for completions, as plugins made with cobra call it."""


def _run(arguments: list[str]) -> None:
    open_what_is_closed()
    collect_rarely()
    try:
        if arguments[:1] == [COMPLETE]:
            from kubectl_netpol.completion.answer import main as answer

            code = answer(arguments[1:])
        else:
            from kubectl_netpol.cli import run

            code = run(arguments)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        code = 130
    # The answer is out and nothing is left behind: a signal now would only make the interpreter complain.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    give_up_what_cannot_be_written(interrupted=code == 130)
    sys.exit(code)
