"""Runs one row of the table: breaks, runs kubectl, sends signals, and looks at all that may be left or wrong."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.lab.cluster import LabCluster
from tests.system.conftest import User
from tests.system.injected.row import Leaves, Prints, Row, Scene, Stdout, When
from tests.system.injected.words import FAR

HANGS = 25.0
"""Seconds after which a run counts as hanging. The faults themselves last longer than that."""
STARTS = ("error: ", "hint: ", "warning: ", "note: ", "wrote ")
F_SETPIPE_SZ = 1031
PAGE = 4096


@dataclass
class Done:
    code: int
    out: str
    err: str


class Runner:
    """All rows in one cluster; what an answer looks like when nothing is broken is asked once a command."""

    def __init__(self, user: User) -> None:
        self.user = user
        self._healthy: dict[tuple[str, ...], str] = {}

    def run(self, row: Row, directory: Path) -> None:
        """Raises AssertionError where anything of the row does not hold."""
        whole = self._whole(row)
        scene = Scene(self.user, directory)
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(self._mend, scene)
                moments = row.breaks(scene)
                made = files(directory)
                done = self._start(row, scene, moments if isinstance(moments, list) else ())
                idle = [fault for fault in (*scene.faults.requests, *scene.faults.pods) if not fault.hits]
            self._look(row, scene, done, whole)
            assert not idle, f"a fault that never struck: {idle}"
            assert files(directory) == made | set(row.writes), "files are left behind"
            row.after(scene)
        finally:
            self.sweep()

    def _mend(self, scene: Scene) -> None:
        self.user.lab.server.faults.clear()
        for undo in reversed(scene.on_exit):
            undo()

    def sweep(self) -> None:
        """Debug pods that a row left, on purpose or not, are not those of the next one."""
        server = self.user.lab.server
        for name in self.user.debug_pods():
            server.delete("Pod", name, "kube-system", grace_seconds=0)
        server.errors.clear()

    # ---- the run

    def _start(self, row: Row, scene: Scene, moments: Sequence[When]) -> Done:
        temporary = scene.directory / "tmp"
        temporary.mkdir()
        words = ["kubectl", "netpol-ebpf", *(word.format(dir=scene.directory) for word in row.command)]
        environment = self.user.environment(**{"TMPDIR": str(temporary), **scene.environment})
        with _streams(row.stdout, scene.directory) as (out, err):
            process = subprocess.Popen(
                # Whoever runs the tests in the background of a shell has SIGINT ignored, and so would kubectl.
                ["env", "--default-signal=INT", *_shell(row.stdout), *words],
                env=environment,
                cwd=scene.directory,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
            )
            try:
                for number, moment in zip(row.signals, moments, strict=True):
                    _await(moment, process)
                    if number == signal.SIGINT:
                        # A terminal sends it to all that run there, the credentials plugin among them.
                        os.killpg(process.pid, number)
                    else:
                        process.send_signal(number)
                if row.stdout is Stdout.BLOCKED:
                    process.wait(HANGS)
                    said = ["", process.stderr.read() if process.stderr else ""]
                else:
                    said = [text or "" for text in process.communicate(timeout=HANGS)]
            finally:
                process.kill()
                process.wait()
                for stream in (process.stdout, process.stderr):
                    if stream:
                        stream.close()
        _await(lambda: not _any_process(process.pid))
        left = [path.name for path in temporary.iterdir()]
        assert not left or signal.SIGKILL in row.signals, f"temporary files are left: {left}"
        return Done(process.returncode, *said)

    def _whole(self, row: Row) -> str:
        """The answer when nothing is broken."""
        if row.prints not in (Prints.WHOLE, Prints.HEADER, Prints.LINE):
            return ""
        if row.command not in self._healthy:
            done = self.user.run(*row.command)
            assert done.stderr == "", done.stderr
            self._healthy[row.command] = done.stdout
        return self._healthy[row.command]

    # ---- the looks

    def _look(self, row: Row, scene: Scene, done: Done, whole: str) -> None:
        seen = f"exit code {done.code}, stdout:\n{done.out}\nstderr:\n{done.err}"
        assert done.code == row.code, seen
        assert "Traceback" not in done.err, seen
        lines = done.err.splitlines()
        assert all(line.isprintable() for line in [*lines, *done.out.splitlines()]), seen
        assert all(line.startswith(STARTS) for line in lines), seen
        assert len(lines) == len(row.says) or row.says_more, seen
        for number, expected in enumerate(row.says):
            among = lines if row.says_more else lines[number : number + 1]
            assert any(re.fullmatch(row.pattern(number), line) for line in among), f"{expected}\n{seen}"
        _look_at_stdout(row, done.out, whole, seen)
        assert not scene.server.errors, scene.server.errors
        if row.leaves is Leaves.POD:
            # The server may still be at work on a request whose client is gone.
            _await(scene.debug_pods)
        pods = self.user.debug_pods()
        assert bool(pods) == (row.leaves is Leaves.POD), (pods, seen)
        if row.leaves is Leaves.NOTHING:
            _await(lambda: not on_the_nodes(self.user))


def _look_at_stdout(row: Row, out: str, whole: str, seen: str) -> None:
    if row.prints is Prints.NOTHING:
        assert out == "", seen
    elif row.prints is Prints.WHOLE:
        assert _undated(out) == _undated(whole), seen
    elif row.prints in (Prints.HEADER, Prints.LINE):
        assert out == whole.splitlines(keepends=True)[0], seen
    elif "json" in row.command:
        assert json.loads(out)["apiVersion"], seen
    elif row.prints is Prints.UNKNOWN:
        assert re.search(r"(?i)unknown|not read|could not", out), seen
    if row.shows:
        assert re.search(row.shows, out, re.MULTILINE), seen


def _undated(text: str) -> str:
    """An answer without how long its node was read, and when."""
    return re.sub(r"in [0-9.e-]+ s at [0-9:]+Z, [0-9.]+ s after", "in N s at T, N s after", text)


def on_the_nodes(user: User) -> list[str]:
    """Command lines of the debug pods' processes, as the nodes' own process tables show them."""
    tables = [node.run(["ps", "-eo", "args"], check=True).stdout for node in user.lab.nodes.values()]
    lines = [line for table in tables for line in table.splitlines()]
    return [line for line in lines if re.match(r"(\S*/)?sleep \d{2,4}$", line) or "reader.py" in line]


def files(directory: Path) -> set[str]:
    """But for TMPDIR, which is looked at for itself."""
    found = {path.relative_to(directory) for path in directory.rglob("*")}
    return {str(path) for path in found if path.parts[0] != "tmp"}


def _any_process(group: int) -> bool:
    """Of the run's own process group: kubectl, the plugin, the credentials plugin, the shell around them."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _await(moment: When, process: subprocess.Popen[str] | None = None) -> None:
    until = time.monotonic() + HANGS
    while not moment():
        assert process is None or process.poll() is None, (
            f"ended before its time, with code {process.returncode}: {process.communicate()}"
        )
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)


def prepare_for_signals(lab: LabCluster) -> None:
    """A second node with one pod on it: what is about both is read in threads. 30 s of a deadline pass in three."""
    lab.server.kubelet.deadline_scale = 0.1
    name = "ip-172-31-103-130.ap-northeast-1.compute.internal"
    lab.add_node(name, "172.31.103.130")
    overrides = json.dumps({"spec": {"nodeName": name}})
    lab.kubectl("run", FAR, "--image=busybox", "--overrides", overrides, "--", "sleep", "infinity")
    lab.server.wait_running(FAR)
    lab.settle()


# ---- where stdout and stderr go

SHELLS = {
    Stdout.HEAD: '"$@" | head -n 1; exit ${PIPESTATUS[0]}',
    Stdout.GONE: '"$@" | true; exit ${PIPESTATUS[0]}',
    Stdout.CLOSED: 'exec "$@" >&-',
    Stdout.STDERR_CLOSED: 'exec "$@" 2>&-',
    Stdout.STDERR_GONE: '"$@" 2> >(true)',
}


def _shell(way: Stdout) -> list[str]:
    return ["bash", "-c", SHELLS[way], "bash"] if way in SHELLS else []


@contextlib.contextmanager
def _streams(way: Stdout, directory: Path) -> Iterator[tuple[int | IO[str], int | IO[str]]]:
    """(stdout, stderr) for Popen."""
    pipe = subprocess.PIPE
    if way in (Stdout.FULL, Stdout.STDERR_FULL):
        with open("/dev/full", "w") as full:
            yield (full, pipe) if way is Stdout.FULL else (pipe, full)
    elif way is Stdout.BLOCKED:
        # The smallest pipe that there is; its reader stays, and does not read.
        reader, writer = os.pipe()
        fcntl.fcntl(writer, F_SETPIPE_SZ, PAGE)
        blocked_pipe.append(reader)
        try:
            yield writer, pipe
        finally:
            blocked_pipe.remove(reader)
            os.close(reader)
            os.close(writer)
    else:
        yield pipe, pipe


blocked_pipe: list[int] = []


def printing() -> bool:
    """The pipe that nobody reads is full: the plugin has begun to print, and waits."""
    waiting = bytearray(4)
    for reader in blocked_pipe:
        fcntl.ioctl(reader, termios.FIONREAD, waiting)
    return int.from_bytes(waiting, "little") >= PAGE
