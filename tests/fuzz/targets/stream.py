"""Frames of an exec: the bytes that come from the socket, read by the real WebSocket client."""

from __future__ import annotations

import json
import struct
from functools import cache
from types import SimpleNamespace
from typing import Any

import websocket

from kubectl_netpol.cluster.stream import exec_in_pod
from kubectl_netpol.errors import NetpolError
from tests.fuzz import mutation
from tests.fuzz.target import Target

LIMIT = 1 << 16


class Socket:
    """Gives the bytes of the input, and then the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def recv(self, size: int) -> bytes:
        found, self.data = self.data[:size], self.data[size:]
        return found

    def send(self, data: bytes) -> int:
        return len(data)

    def gettimeout(self) -> float:
        return 1.0

    def settimeout(self, seconds: float | None) -> None: ...

    def shutdown(self, how: int) -> None: ...

    def close(self) -> None: ...

    def fileno(self) -> int:
        return -1


def read_stream(data: bytes) -> str:
    client: Any = websocket.WebSocket(skip_utf8_validation=True)
    client.sock = Socket(data)
    client.connected = True
    client.handshake_response = SimpleNamespace(subprotocol="v5.channel.k8s.io")
    api = SimpleNamespace(websocket=lambda *_: client)
    return repr(exec_in_pod(api, "a", "b", ["x"], stdin=b"in", timeout=1.0, limit=LIMIT))


def frame(opcode: int, payload: bytes, final: bool = True) -> bytes:
    length = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + struct.pack(">H", len(payload))
    return bytes([opcode | (0x80 if final else 0)]) + length + payload


def status(**fields: Any) -> bytes:
    return frame(2, b"\3" + json.dumps(fields).encode())


def streams() -> tuple[bytes, ...]:
    out, err, close = frame(2, b"\1" + b"out" * 50), frame(2, b"\2err\x1b[31m"), frame(8, b"\x03\xe8")
    cause = {"causes": [{"reason": "ExitCode", "message": "3"}]}
    return (
        out + err + status(status="Success") + close,
        out + status(status="Failure", message="command terminated", details=cause) + close,
        frame(1, b"\1text") + frame(9, b"ping") + frame(2, b"\1a", False) + frame(0, b"b") + status(status="Failure"),
        out + close,
        frame(
            2, b"\3" + b'{"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": Infinity}]}}'
        ),
        frame(2, b"\3" + b"[" * 5000) + close,
    )


TARGETS = (Target("stream", read_stream, cache(streams), mutation.of_bytes, (NetpolError,), short=200, long=80_000),)
