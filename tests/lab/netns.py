"""Processes that hold namespaces, and ways into them.

A sandbox is a PID (its first process) and a socket whose closing ends it. Nothing has a name in the file
system, so nothing can be left behind.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

HOLDER, CONFINE = (Path(__file__).with_name(f"{name}.py") for name in ("holder", "confine"))
CLONE_NEWNET = 0x40000000
START_TIMEOUT = 20.0
STOP_TIMEOUT = 20.0

DEFAULT_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}

_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")
File = int | IO[Any] | None


class LabError(RuntimeError):
    """The lab could not be set up; the text says which step and why."""


def in_netns(pid: int, work: Callable[[], T]) -> T:
    """Runs `work` in the network namespace of a process, on a thread of its own: the caller's stays."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            with open(f"/proc/{pid}/ns/net") as f:
                if _libc.setns(f.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            outcome.append(work())
        except BaseException as exc:
            failure.append(exc)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def socket_in(pid: int, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that belongs to that namespace for ever, usable from any thread."""
    return in_netns(pid, lambda: socket.socket(family, kind, protocol))


# starting and stopping ----------------------------------------


def control_pair() -> tuple[socket.socket, socket.socket]:
    """(ours, the sandbox's). Ours is told the sender's pid by the kernel, as seen from here."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


def receive_event(sock: socket.socket, timeout: float | None) -> tuple[dict[str, Any], int] | None:
    """One event with its sender's pid; None at the end of the sandbox."""
    sock.settimeout(timeout)
    try:
        data, ancillary, _, _ = sock.recvmsg(1 << 16, socket.CMSG_SPACE(12))
    except ConnectionResetError:
        return None
    if not data:
        return None
    pid = 0
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = struct.unpack_from("=i", payload)[0]
    return json.loads(data), pid


def wait_ready(sock: socket.socket, what: str) -> int:
    try:
        event = receive_event(sock, START_TIMEOUT)
    except TimeoutError:
        raise LabError(f"{what} did not start within {START_TIMEOUT:.0f} s") from None
    if event is None:
        raise LabError(f"{what} ended while starting")
    if event[0].get("event") != "ready":
        raise LabError(f"{what} did not start: {event[0].get('text', event[0])}")
    return event[1]


def send_request(control: socket.socket, request: dict[str, Any], fds: Sequence[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    control.sendmsg([json.dumps(request).encode()], rights)


def wait_gone(pidfd: int, what: str) -> None:
    if not select.select([pidfd], [], [], STOP_TIMEOUT)[0]:
        raise LabError(f"{what} is still there {STOP_TIMEOUT:.0f} s after it was killed")


def wait_until(condition: Callable[[], bool], what: str, timeout: float = STOP_TIMEOUT) -> None:
    deadline = time.monotonic() + timeout
    pause = 0.001
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout:.0f} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def start_holder(hostname: str) -> tuple[socket.socket, int, subprocess.Popen[bytes]]:
    """The control socket, the pid of the new namespaces' PID 1, and the process that waits for it."""
    ours, theirs = control_pair()
    request = json.dumps({"hostname": hostname})
    # -I -S: the holder needs only the standard library, and starts in a few milliseconds that way.
    command = [sys.executable, "-I", "-S", str(HOLDER), str(theirs.fileno()), request]
    with theirs:
        process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
        )  # fmt: skip
    try:
        pid = wait_ready(ours, f"namespaces of {hostname}")
    except BaseException:
        ours.close()
        process.kill()
        process.wait()
        raise
    return ours, pid, process


# entering ----------------------------------------


def children_of(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class NsPopen(subprocess.Popen[Any]):
    """A process behind nsenter: signals go to the process itself, not to the nsenter that waits for it.

    nsenter ends with the status of its child, so returncode means what it always means.
    """

    def inner_pids(self) -> list[int]:
        return children_of(self.pid)

    def send_signal(self, sig: int) -> None:
        if self.poll() is not None:
            return
        inner = self.inner_pids()
        for pid in inner:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig)
        if not inner:
            super().send_signal(sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def nsenter_command(pid: int, argv: Sequence[str]) -> list[str]:
    nsenter = shutil.which("nsenter")
    if nsenter is None:
        raise LabError("nsenter (util-linux) is not installed")
    return [nsenter, "-t", str(pid), "-m", "-n", "-p", "-u", "-i", "--", *argv]


def confined_command(pid: int, argv: Sequence[str], security: Mapping[str, Any]) -> list[str]:
    """The same for a container that is not privileged: with what it was confined to."""
    return [sys.executable, "-I", "-S", str(CONFINE), str(pid), json.dumps(security), *argv]


def popen_in(
    pid: int,
    argv: Sequence[str],
    stdin: File = None,
    stdout: File = None,
    stderr: File = None,
    env: Mapping[str, str] | None = None,
    security: Mapping[str, Any] | None = None,
    **options: Any,
) -> NsPopen:
    """`env` is the whole environment; without it the process gets a small default one. `security`: see `confine`."""
    environment = dict(DEFAULT_ENV if env is None else env)
    command = confined_command(pid, argv, security) if security else nsenter_command(pid, argv)
    return NsPopen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=environment, **options)


def run_in(
    pid: int,
    argv: Sequence[str],
    timeout: float = 30.0,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = False,
    security: Mapping[str, Any] | None = None,
) -> subprocess.CompletedProcess[str]:
    process = popen_in(
        pid, argv, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=env, security=security, text=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(input, timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise subprocess.TimeoutExpired(list(argv), timeout, out, err) from None
    if check and process.returncode != 0:
        raise LabError(f"{' '.join(argv)}: status {process.returncode}\n{out}{err}")
    return subprocess.CompletedProcess(list(argv), process.returncode, out, err)
