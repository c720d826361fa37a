"""pods/exec over WebSocket: channels of v4.channel.k8s.io and v5.channel.k8s.io on one side, a process on the other.

One thread, one loop: TLS connections must not be read and written by two threads at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import socket
import ssl
import struct
import subprocess
import termios
import threading
import time
from typing import IO, Any

from . import api_websocket as ws
from .api_faults import Fault
from .api_runtime import ExecError, exit_code, kill_group

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE_CHANNEL = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
CHUNK = 32 * 1024  # what the real server reads from a stream at once
BACKLOG = 1 << 20  # with more than this unsent, the process has to wait
DRAIN_SECONDS = 0.5  # output that grandchildren still hold open when the process has ended


def choose_protocol(offered: str) -> str | None:
    names = [name.strip() for name in offered.split(",")]
    return next((known for known in PROTOCOLS if known in names), None)


def success() -> dict[str, Any]:
    return {"metadata": {}, "status": "Success"}


def exit_status(code: int) -> dict[str, Any]:
    if code == 0:
        return success()
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: command terminated with exit code {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def internal_error(message: str) -> dict[str, Any]:
    text = f"Internal error occurred: {message}"
    return {
        "metadata": {},
        "status": "Failure",
        "message": text,
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    }


class _Wire:
    """The socket without blocking, plain or TLS, with what has not been sent yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.out = bytearray()
        self.sent_output = 0
        self.open = True
        sock.setblocking(False)

    def read(self) -> bytes:
        """What is there; b"" also means "nothing now", then `open` tells."""
        parts: list[bytes] = []
        try:
            while len(parts) < 64:
                data = self.sock.recv(65536)
                if not data:
                    self.open = False
                    break
                parts.append(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            pass
        except OSError:
            self.open = False
        return b"".join(parts)

    def flush(self) -> None:
        try:
            while self.out:
                sent = self.sock.send(memoryview(self.out)[: 1 << 16].tobytes())
                del self.out[:sent]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            pass
        except OSError:
            self.open = False

    def flush_all(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.out and self.open and time.monotonic() < deadline:
            self.flush()
            if self.out:
                time.sleep(0.002)


class ExecSession:
    """Joins one connection with one process until either ends."""

    def __init__(
        self,
        sock: socket.socket,
        protocol: str,
        process: subprocess.Popen[bytes] | None,
        *,
        tty: bool,
        fault: Fault | None = None,
        closing: threading.Event | None = None,
        owns_process: bool = True,
        muted: frozenset[int] = frozenset(),
    ) -> None:
        self.wire = _Wire(sock)
        self.v5 = protocol.startswith("v5")
        self.process = process
        self.tty = tty
        self.owns_process = owns_process
        self._fault = fault  # exec_cut, exec_stall, exec_change
        self._held = bytearray()  # stdout that is to be changed as a whole
        self._muted = muted  # channels that the client did not ask for
        self._closing = closing or threading.Event()
        self._receiver = ws.Receiver()
        self._selector = selectors.DefaultSelector()
        self._outputs: dict[int, int] = {}  # file descriptor -> channel
        self._input = bytearray()
        self._input_ended = False
        self._exited_at: float | None = None

    # -- towards the client ----------------------------------------------------------------------------------

    def send(self, channel: int, data: bytes) -> None:
        self.wire.out += ws.frame(bytes([channel]) + data)

    def send_output(self, channel: int, data: bytes) -> None:
        if channel in self._muted:
            return
        fault = self._fault
        if fault is not None and fault.change is not None and channel == STDOUT:
            self._held += data
            return
        ends = fault is not None and fault.kind in ("exec_cut", "exec_stall")
        if fault is not None and ends:
            data = data[: max(0, fault.after_bytes - self.wire.sent_output)]
        self.wire.sent_output += len(data)
        if data:
            self.send(channel, data)
        if fault is not None and ends and self.wire.sent_output >= fault.after_bytes:
            self.wire.flush_all(5)
            self._struck(fault)

    def _struck(self, fault: Fault) -> None:
        if fault.then is not None:
            fault.then()
        if fault.kind == "exec_cut":
            self.wire.open = False
            return
        # The rest is nowhere, and nobody says so: until the client goes away, or the server ends.
        while self.wire.open and not self._closing.wait(0.02):
            self._read_client()

    def _changed(self) -> None:
        if self._fault is not None and self._fault.change is not None:
            data = self._fault.change(bytes(self._held))
            self.wire.sent_output += len(data)
            for start in range(0, len(data), CHUNK):
                self.send(STDOUT, data[start : start + CHUNK])

    def finish(self, status: dict[str, Any]) -> None:
        """The last word on the error channel, then a close frame."""
        self.send(ERROR, json.dumps(status).encode())
        self.wire.out += ws.frame(struct.pack("!H", 1000), ws.CLOSE)
        self.wire.flush_all(10)
        # Closing with unread input would reset the connection and could take our last frames with it.
        self.wire.sock.settimeout(0.5)
        with contextlib.suppress(OSError):
            while self.wire.sock.recv(65536):
                pass

    # -- the loop --------------------------------------------------------------------------------------------

    def fail(self, status: dict[str, Any]) -> None:
        """An exec that never got a process."""
        self.send(STDOUT, b"")
        self.finish(status)

    def run(self) -> None:
        assert self.process is not None
        # The kubelet sends one empty message first, so that clients know the stream stands.
        self.send(STDOUT, b"")
        self._watch(self.process)
        try:
            while self.wire.open and not self._closing.is_set() and not self._ended():
                self._turn()
            if self.wire.open:
                self._changed()
            if self.wire.open and self._fault is not None and self._fault.kind == "exec_cut":
                self.wire.flush_all(5)
                self._struck(self._fault)
            if self.wire.open:
                self.finish(self._status())
        finally:
            self._cleanup()

    def _status(self) -> dict[str, Any]:
        assert self.process is not None
        if self._closing.is_set():
            return internal_error("error dialing backend: the node went away")
        return exit_status(exit_code(self.process.wait()))

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        for stream, channel in ((process.stdout, STDOUT), (process.stderr, STDERR)):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                self._outputs[stream.fileno()] = channel
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
        self._selector.register(self.wire.sock, selectors.EVENT_READ)

    def _ended(self) -> bool:
        """The process has ended and its output is read: to the end, or until nothing more came for a while."""
        assert self.process is not None
        if self.process.poll() is None:
            return False
        if not self._outputs:
            return True
        if self._exited_at is None:
            self._exited_at = time.monotonic()
        return time.monotonic() - self._exited_at > DRAIN_SECONDS

    def _turn(self) -> None:
        assert self.process is not None
        self._interests()
        # Without a stream left only the process itself is awaited: look often.
        timeout = 0.05 if self._outputs else 0.005
        ready = {key.fd: events for key, events in self._selector.select(timeout)}
        for fd in list(self._outputs):
            if fd in ready:
                self._read_output(fd)
        if ready.get(self.wire.sock.fileno(), 0) & selectors.EVENT_READ:
            self._read_client()
        self._write_input()
        self.wire.flush()

    def _interests(self) -> None:
        wanted: dict[int, int] = {self.wire.sock.fileno(): selectors.EVENT_READ}
        if self.wire.out:
            wanted[self.wire.sock.fileno()] |= selectors.EVENT_WRITE
        if len(self.wire.out) < BACKLOG:
            wanted |= dict.fromkeys(self._outputs, selectors.EVENT_READ)
        stdin = self._stdin()
        if stdin is not None and self._input:
            wanted[stdin.fileno()] = selectors.EVENT_WRITE
        for fd in set(self._selector.get_map()) - set(wanted):
            self._selector.unregister(fd)
        for fd, events in wanted.items():
            known = self._selector.get_map().get(fd)
            if known is None:
                self._selector.register(fd, events)
            elif known.events != events:
                self._selector.modify(fd, events)

    def _read_output(self, fd: int) -> None:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:  # a terminal whose other end is closed
            data = b""
        if not data:
            del self._outputs[fd]
            return
        if self._exited_at is not None:
            self._exited_at = time.monotonic()
        self.send_output(self._outputs[fd], data)

    # -- from the client -------------------------------------------------------------------------------------

    def _read_client(self) -> None:
        try:
            messages = self._receiver.feed(self.wire.read())
        except ws.ProtocolError:
            self.wire.open = False
            return
        for message in messages:
            if message.opcode == ws.PING:
                self.wire.out += ws.frame(message.data, ws.PONG)
            elif message.opcode == ws.CLOSE:
                self.wire.out += ws.frame(message.data[:2], ws.CLOSE)
                self.wire.flush_all(1)
                self.wire.open = False
            elif message.opcode in (ws.TEXT, ws.BINARY) and message.data:
                self._received(message.data[0], message.data[1:])

    def _received(self, channel: int, data: bytes) -> None:
        # Text frames carry the channel as chr(0) by real clients, as "0" only in the base64 protocol.
        if channel == STDIN and not self._input_ended:
            self._input += data
        elif channel == CLOSE_CHANNEL and self.v5 and data[:1] == bytes([STDIN]):
            self._input_ended = True
        elif channel == RESIZE and self.tty:
            self._resize(data)

    def _resize(self, data: bytes) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            size = json.loads(data)
            packed = struct.pack("HHHH", int(size["Height"]), int(size["Width"]), 0, 0)
            if self.process and self.process.stdout:
                fcntl.ioctl(self.process.stdout.fileno(), termios.TIOCSWINSZ, packed)

    def _stdin(self) -> IO[bytes] | None:
        stdin = self.process.stdin if self.process else None
        return stdin if stdin is not None and not stdin.closed else None

    def _write_input(self) -> None:
        stdin = self._stdin()
        if stdin is None:
            self._input.clear()
            return
        try:
            while self._input:
                written = os.write(stdin.fileno(), self._input[:65536])
                del self._input[:written]
        except BlockingIOError:
            return
        except OSError:  # nobody reads any more
            self._input.clear()
            self._input_ended = True
        if self._input_ended:
            self._close_stdin(stdin)

    def _close_stdin(self, stdin: IO[bytes]) -> None:
        with contextlib.suppress(OSError):
            if self.tty:  # a terminal has no end of file, only the character for it
                os.write(stdin.fileno(), b"\x04")
            if self.owns_process:
                stdin.close()

    def _cleanup(self) -> None:
        """A client that went away takes its command with it."""
        self._selector.close()
        process = self.process
        if process is None or not self.owns_process:
            return
        kill_group(process)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


__all__ = ["ExecError", "ExecSession", "choose_protocol", "exit_status", "internal_error", "success"]
