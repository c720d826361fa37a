"""What a row of the table of injected faults is, and what it breaks things with."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from tests.lab.api_faults import Faults
from tests.lab.apiserver import ApiServer
from tests.system.conftest import User
from tests.system.injected.words import DEBUG_PODS, POD

Json = dict[str, Any]
When = Callable[[], object]
"""True when the moment has come for the row's next signal."""


class Prints(Enum):
    """What is on stdout when a run has ended, in the words of the page."""

    NOTHING = "nothing"
    WHOLE = "the whole answer"
    UNKNOWN = "an answer that says what is unknown"
    ANSWER = "an answer"
    HEADER = "the header of the rows"
    LINE = "the first line, for `head`"


class Stdout(Enum):
    """Where stdout and stderr go."""

    PIPE = "read to the end"
    HEAD = "| head -n 1"
    GONE = "| true"
    FULL = "> /dev/full"
    CLOSED = ">&-"
    BLOCKED = "a pipe that nobody reads"
    STDERR_FULL = "2> /dev/full"
    STDERR_CLOSED = "2>&-"
    STDERR_GONE = "2> a pipe whose reader is gone"


class Leaves(Enum):
    """What is still in the cluster when a run has ended."""

    NOTHING = "nothing"
    POD = "a debug pod, which the server ends at its deadline"


@dataclass
class Scene:
    """One run: the cluster that is broken, a directory for it alone, and the user's environment."""

    user: User
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    on_exit: list[Callable[[], object]] = field(default_factory=list)
    taken: list[object] = field(default_factory=list)
    """Connections that servers of the row have taken."""

    @property
    def server(self) -> ApiServer:
        return self.user.lab.server

    @property
    def faults(self) -> Faults:
        return self.server.faults

    def debug_pods(self) -> list[str]:
        """Names of the pods that are called so, whatever their labels."""
        names = [pod["metadata"]["name"] for pod in self.server.list("Pod", "kube-system")]
        return [name for name in names if name.startswith(DEBUG_PODS)]

    def leave_pod(self) -> None:
        """A debug pod of an earlier run."""
        assert self.user.run("maps", POD, "--keep").returncode == 0

    def kubeconfig(self, edit: Callable[[Json], object]) -> None:
        """Another kubeconfig: the lab's, edited."""
        config = self.server.kubeconfig()
        edit(config)
        path = self.directory / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        self.environment["KUBECONFIG"] = str(path)

    def cluster(self, **settings: object) -> None:
        """Settings of the kubeconfig's cluster; None takes one away."""

        def edit(config: Json) -> None:
            cluster = config["clusters"][0]["cluster"]
            cluster.update(settings)
            for name in [name for name, value in cluster.items() if value is None]:
                del cluster[name]

        self.kubeconfig(edit)

    def credentials(self, user: Json) -> None:
        """The user of the kubeconfig."""
        self.kubeconfig(lambda config: config["users"][0].update(user=user))

    def plugin(self, script: str) -> None:
        """A credentials plugin: a shell script in the place of `aws eks get-token`."""
        path = self.directory / "get-token"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.credentials({"exec": exec_plugin(str(path))})


def exec_plugin(command: str) -> Json:
    version = "client.authentication.k8s.io/v1beta1"
    return {"apiVersion": version, "command": command, "interactiveMode": "Never"}


@dataclass(frozen=True)
class Row:
    """One injected fault. ``says``: all lines of stderr, in order; `…` in them stands for any text.

    ``breaks`` does it, and may return the moments at which the signals of ``signals`` are sent, one after the other.
    ``shows``: a regular expression that is found on stdout. ``{dir}`` in the command is the run's own directory.
    """

    name: str
    broken: str
    command: tuple[str, ...]
    code: int
    says: tuple[str, ...] = ()
    breaks: Callable[[Scene], Sequence[When] | object] = lambda scene: None
    prints: Prints = Prints.NOTHING
    shows: str = ""
    signals: tuple[int, ...] = ()
    stdout: Stdout = Stdout.PIPE
    leaves: Leaves = Leaves.NOTHING
    writes: tuple[str, ...] = ()
    """Files that it makes in its directory."""
    says_more: bool = False
    """Further lines of stderr are allowed, of the same kinds."""
    after: Callable[[Scene], object] = lambda scene: None
    """Further assertions, when the faults are over."""

    def pattern(self, number: int) -> str:
        """A full-match regular expression for a line of stderr."""
        return ".+".join(re.escape(part) for part in self.says[number].split("…"))


@dataclass(frozen=True)
class Chapter:
    """A part of the page."""

    title: str
    rows: tuple[Row, ...]
    text: str = ""
