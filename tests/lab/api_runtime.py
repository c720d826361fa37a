"""What runs a pod's processes: the protocol, and a runtime that simply runs them on this machine."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import itertools
import os
import pty
import signal
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Callable
from typing import IO, Any, Protocol

Json = dict[str, Any]


class ImagePullError(Exception):
    """The image cannot be had; the text is what the registry said."""


class StartError(Exception):
    """The container could not be created or started; `reason` as the kubelet shows it while waiting."""

    def __init__(self, message: str, reason: str = "RunContainerError") -> None:
        super().__init__(message)
        self.reason = reason


class ExecError(Exception):
    """The command cannot be started at all (no such program, permission).

    With containerd the client then hears of an internal error, and of no exit code.
    """


class PodHandle(Protocol):
    """A running pod.

    `exec` gives a Popen in binary mode whose stdout (and, without tty, stderr) are pipes, and stdin too if asked
    for. The process should lead its own process group: that group is killed when the client goes away.
    With tty a handle may give a pipe-like pair of its own in `stdin`/`stdout` (see `spawn_with_tty`).
    A handle may also have `logs(container) -> bytes` and `attach(container) -> Popen`.
    """

    @property
    def pod_ip(self) -> str: ...

    def exec(self, argv: list[str], *, stdin: bool, tty: bool, container: str) -> subprocess.Popen[bytes]: ...

    def stop(self, grace_seconds: float) -> None:
        """End all processes of the pod, exec'ed ones too; return when they are gone. May be called twice."""

    def wait_exit(self, timeout: float | None = None) -> int | None:
        """The main process's exit code (128 + n for signal n), or None if it still runs after timeout."""


class Runtime(Protocol):
    def start_pod(self, pod: Json) -> PodHandle:
        """Run the pod; raises ImagePullError or StartError. May take its time, it has a thread of its own."""


def exit_code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def kill_group(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
    """Signal the group that the process leads; only its own pid if it leads none (never our own group)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        elif process.poll() is None:
            process.send_signal(number)


def spawn_with_tty(
    argv: list[str], *, preexec: Callable[[], None] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """A process on a terminal of its own; its stdin and stdout are both the terminal's other end."""
    master, slave = pty.openpty()

    def in_child() -> None:
        if preexec:
            preexec()
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    try:
        # A terminal needs a session of its own before it can be controlling, hence code in the child.
        process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, preexec_fn=in_child, **options)
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    process.stdout = os.fdopen(master, "rb", buffering=0)
    process.stdin = os.fdopen(os.dup(master), "wb", buffering=0)
    return process


class LocalPod:
    """A pod whose containers are plain processes here. Only the first container's command is run."""

    def __init__(self, pod: Json, ip: str) -> None:
        self._ip = ip
        container = pod["spec"]["containers"][0]
        argv = (container.get("command") or []) + (container.get("args") or []) or ["sleep", "infinity"]
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the pod
        self._lock = threading.Lock()
        self._stopped = False
        self._environment = os.environ | {e["name"]: e.get("value", "") for e in container.get("env") or []}
        stdin = subprocess.PIPE if container.get("stdin") else subprocess.DEVNULL
        try:
            self.main: subprocess.Popen[bytes] = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise StartError(f'exec: "{argv[0]}": executable file not found in $PATH: {error}') from None
        self._processes = [self.main]

    @property
    def pod_ip(self) -> str:
        return self._ip

    def exec(self, argv: list[str], *, stdin: bool, tty: bool, container: str) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise ExecError("container is not running")
            self._processes = [p for p in self._processes if p is self.main or p.poll() is None]
            try:
                process = self._spawn(argv, stdin, tty)
            except OSError as error:
                raise ExecError(f'exec: "{argv[0]}": executable file not found in $PATH: {error}') from None
            self._processes.append(process)
            return process

    def _spawn(self, argv: list[str], stdin: bool, tty: bool) -> subprocess.Popen[bytes]:
        if tty:
            return spawn_with_tty(argv, env=self._environment)
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
            bufsize=0,
            start_new_session=True,
        )

    def attach(self, container: str) -> subprocess.Popen[bytes]:
        """What the main process writes, from its first word on; its stdin is the main process's own."""
        log = f"/proc/{os.getpid()}/fd/{self._log.fileno()}"
        argv = ["tail", "-q", "-n", "+1", "-s", "0.05", "-f", f"--pid={self.main.pid}", log]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, bufsize=0, start_new_session=True)
        process.stdin = self.main.stdin
        with self._lock:
            self._processes.append(process)
        return process

    def logs(self, container: str) -> bytes:
        with self._lock:
            if self._log.closed:
                return b""
            return os.pread(self._log.fileno(), 1 << 24, 0)

    def stop(self, grace_seconds: float) -> None:
        with self._lock:
            self._stopped = True
            processes = list(self._processes)
        if grace_seconds > 0 and self.main.poll() is None:
            kill_group(self.main, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.main.wait(grace_seconds)
        for process in processes:
            kill_group(process)
            process.wait()
        with self._lock:
            self._log.close()
            if self.main.stdin:
                with contextlib.suppress(OSError):
                    self.main.stdin.close()

    def wait_exit(self, timeout: float | None = None) -> int | None:
        try:
            return exit_code(self.main.wait(timeout))
        except subprocess.TimeoutExpired:
            return None


class LocalRuntime:
    """Runs pods without any isolation: for tests of the API server itself and of clients."""

    def __init__(self, network: str = "10.244.0.0/16", start_delay: float = 0) -> None:
        self._addresses = itertools.islice(ipaddress.ip_network(network).hosts(), 9, None)
        self._delay = start_delay
        self.pods: list[LocalPod] = []

    def start_pod(self, pod: Json) -> LocalPod:
        time.sleep(self._delay)
        for container in pod["spec"]["containers"]:
            if "missing" in container["image"]:
                image = container["image"]
                raise ImagePullError(
                    f'failed to pull and unpack image "docker.io/library/{image}": failed to resolve reference '
                    f'"docker.io/library/{image}": pull access denied, repository does not exist'
                )
        ip = pod["status"].get("hostIP", "") if pod["spec"].get("hostNetwork") else str(next(self._addresses))
        handle = LocalPod(pod, ip)
        self.pods.append(handle)
        return handle
