"""The verb `completion`: the file by which kubectl finds the completions, written, removed or printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from enum import StrEnum

from kubectl_netpol.completion.install import SCRIPT, Done, install, uninstall
from kubectl_netpol.errors import UsageError
from kubectl_netpol.progress import Progress
from kubectl_netpol.report.output import write_text


class Action(StrEnum):
    """What to do with the file."""

    INSTALL = "install"
    UNINSTALL = "uninstall"
    SCRIPT = "script"


DO: Mapping[Action, Callable[[str], Done]] = {Action.INSTALL: install, Action.UNINSTALL: uninstall}


def completion(action: Action, directory: str) -> None:
    """`completion`. ``directory``: --dir; empty where it was not given."""
    if action is Action.SCRIPT:
        if directory:
            raise UsageError("--dir goes with install and uninstall: script prints the file")
        write_text(sys.stdout, SCRIPT)
        return
    done = DO[action](directory)
    write_text(sys.stdout, done.text)
    for note in done.notes:
        Progress(enabled=False).note(note)
