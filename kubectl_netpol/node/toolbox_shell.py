"""Several shell commands in one exec: a script for `sh` that frames what each of them says.

The script goes over stdin, since the words of an exec are part of a URL, which proxies cut. It is one group of
commands: a shell runs none of it before it has read the closing brace, so a script that is cut does nothing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.errors import NodeError
from kubectl_netpol.node.transport import ExecPod, clean

ARGV = ["sh", "-s"]
PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Output:
    """What one command said; texts are decoded, with U+FFFD for what is not UTF-8."""

    status: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """Why it failed, in one line: the last that it wrote on stderr, else its status."""
        lines = [line for line in map(clean, self.stderr.splitlines()) if line]
        return lines[-1][-300:] if lines else f"exit status {self.status}"


class Shell:
    """A shell in a pod. Each command is shown before it runs."""

    def __init__(self, pod: ExecPod, show: Callable[[str], None]) -> None:
        self.pod, self.show = pod, show
        self.who = f"pod {pod.namespace}/{pod.name}"

    def run(self, commands: Sequence[str]) -> list[Output]:
        """Run the commands one after the other, in one exec. Raises ``NodeError``: no shell, or a cut answer.

        Words that come from the API or from a node must be quoted by the caller (``shlex.quote``).
        """
        if not commands:
            return []
        for command in commands:
            self.show(command)
        # It cannot be guessed, so nothing that a command prints looks like the end of one.
        marker = secrets.token_hex(16)
        result = self.pod.exec(ARGV, script(commands, marker).encode())
        outputs = split(result, marker, len(commands))
        if outputs is None:
            raise self._broken(result)
        return outputs

    def _broken(self, result: ExecResult) -> NodeError:
        said = clean(result.error) or clean(result.stderr[-300:].decode("utf-8", "replace"))
        if result.exit_code in (126, 127) and not result.stdout:
            return NodeError(
                f"the image of {self.who} has no shell: {said or 'sh: not found'}",
                hint="choose an image that has `sh` and `chroot` with --image",
            )
        if result.exit_code == 137:
            return NodeError(f"the shell in {self.who} was killed with exit code 137")
        because = f" ({said})" if said else ""
        return NodeError(f"the answer of {self.who} was cut: not all commands came to their end{because}", "try again")


def script(commands: Sequence[str], marker: str) -> str:
    """Marks on stdout and on stderr the end of each command, with its number and its status."""
    lines = ["{", f"PATH={PATHS}:$PATH LC_ALL=C", "export PATH LC_ALL"]
    for number, command in enumerate(commands):
        lines += [
            f"(\n{command}\n) </dev/null",
            "status=$?",
            f"printf '\\n{marker} %s %s\\n' {number} \"$status\"",
            f"printf '\\n{marker} %s %s\\n' {number} \"$status\" >&2",
        ]
    # Without end of file on stdin, which older exec protocols cannot send, only this ends the shell.
    return "\n".join([*lines, "exit 0", "}", ""])


def split(result: ExecResult, marker: str, count: int) -> list[Output] | None:
    """The outputs of ``count`` commands; None where an end is missing or something comes after the last."""
    streams = []
    for stream in (result.stdout, result.stderr):
        parts = re.split(rb"\n" + marker.encode() + rb" (\d{1,6}) (\d{1,3})\n", stream)
        if len(parts) != 3 * count + 1 or parts[-1]:
            return None
        if [int(number) for number in parts[1::3]] != list(range(count)):
            return None
        streams.append(parts)
    out, err = streams
    return [
        Output(int(out[3 * n + 2]), out[3 * n].decode("utf-8", "replace"), err[3 * n].decode("utf-8", "replace"))
        for n in range(count)
    ]
