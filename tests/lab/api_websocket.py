"""RFC 6455 as a server needs it: framing without I/O, so that one loop can serve socket and pipes."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class ProtocolError(Exception):
    """The peer does not speak the protocol; the connection cannot go on."""


class Message(NamedTuple):
    opcode: int
    data: bytes


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1((key + _MAGIC).encode(), usedforsecurity=False).digest()).decode()


def frame(data: bytes, opcode: int = BINARY) -> bytes:
    """A whole unmasked message, as servers send them."""
    size = len(data)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 127, size)
    return head + data


def unmask(data: bytes, mask: bytes) -> bytes:
    if not data:
        return data
    size = len(data)
    stream = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


class Receiver:
    """Bytes in, whole messages out; fragments are joined, control frames may come between them."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._opcode = 0

    def feed(self, data: bytes) -> list[Message]:
        self._buffer += data
        messages = []
        while (parsed := self._one()) is not None:
            final, opcode, payload = parsed
            if opcode >= CLOSE:
                messages.append(Message(opcode, payload))
                continue
            if opcode != CONTINUATION:
                self._opcode, self._parts = opcode, []
            self._parts.append(payload)
            if final:
                messages.append(Message(self._opcode, b"".join(self._parts)))
                self._parts = []
        return messages

    def _one(self) -> tuple[bool, int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1] & 0x7F, 2
        if not buffer[1] & 0x80:
            raise ProtocolError("client frames must be masked")
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(buffer) < 2 + width:
                return None
            size, start = int.from_bytes(buffer[2 : 2 + width], "big"), 2 + width
        if len(buffer) < start + 4 + size:
            return None
        mask = bytes(buffer[start : start + 4])
        payload = unmask(bytes(buffer[start + 4 : start + 4 + size]), mask)
        final, opcode = bool(buffer[0] & 0x80), buffer[0] & 0x0F
        del buffer[: start + 4 + size]
        return final, opcode, payload
