"""Real connections between sandboxes, all at the same time, and what became of each of them.

Every attempt ends with something that happens, never with time that passes: it is answered at its socket, or a
program on its way reports in `policy_events` that it denied the packet. An attempt has a source port of its own in
the whole lab (an echo: its pair of addresses), so that a report belongs to one attempt. Who is slow is asked again
each second; what is neither answered nor denied in the end is a fault of the lab, and says so.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from . import netns
from .node import Sandbox, version_of
from .ringbuf import RingBuffer

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
AT_ONCE = 250
"""Attempts that are open at the same time."""
REPEAT, PATIENCE = 1.0, 20.0
"""Seconds until an unanswered datagram is sent again (TCP does it by itself), and until the lab is at fault."""
EVENTS = 0.005
"""Seconds between two looks into the ring buffers."""
FIRST_SOURCE_PORT, LAST_SOURCE_PORT = 20000, 60999
ECHO_REQUEST, ECHO_REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}


@dataclass(frozen=True)
class Record:
    """What a program said in `policy_events` about one packet (agent facts 1.7, >= 1.2.2)."""

    source: str
    source_port: int
    destination: str
    port: int
    protocol: int
    allowed: bool
    egress: bool


def _record(raw: bytes, version: int) -> Record:
    size = 4 if version == 4 else 16
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    source, source_port, destination, port = struct.unpack_from(f"<{size}sI{size}sI", raw)
    at = 2 * size + 8
    protocol, verdict, _ = struct.unpack_from("<3I", raw, at)
    ends = (socket.inet_ntop(family, address) for address in (source, destination))
    return Record(next(ends), source_port, next(ends), port, protocol, bool(verdict), bool(raw[at + 12]))


@dataclass(frozen=True)
class Attempt:
    """A TCP connection, a datagram and its reply, or an echo (port 0)."""

    place: Sandbox
    source: str
    destination: str
    protocol: int
    port: int = 0


@dataclass
class Outcome:
    """What became of an attempt."""

    passed: bool = False
    answered_by: str = ""
    """Address of the listener that was reached; it tells the pod behind a ClusterIP."""
    denials: list[Record] = field(default_factory=list)
    refused: str = ""
    """An error, which is neither: as everybody listens, nobody is refused by a pod."""

    @property
    def ended(self) -> bool:
        # A client may know that it is connected before the listener has said who it is.
        return (self.passed and bool(self.answered_by)) or bool(self.denials) or bool(self.refused)


@dataclass
class _Running:
    attempt: Attempt
    outcome: Outcome
    socket: socket.socket
    number: int
    """Source port, or identifier of an echo."""

    def send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if self.attempt.protocol == UDP:
                self.socket.send(b"ask")
            elif self.attempt.protocol in (ICMP, ICMPV6):
                self.socket.send(_echo(ECHO_REQUEST[version_of(self.attempt.source)], self.number))


def _echo(kind: int, number: int) -> bytes:
    """The kernel fills in the checksum of ICMPv6, of all others it is ours."""
    head = struct.pack("!BBHHH", kind, 0, 0, number, 1)
    total = sum(struct.unpack("!4H", head))
    total = (total >> 16) + (total & 0xFFFF)
    return struct.pack("!BBHHH", kind, 0, ~(total + (total >> 16)) & 0xFFFF, number, 1)


class Switchboard:
    """Listeners, and the connections to them.

    ``listeners``: address -> the sandbox that has it. ``rings``: the datapaths' `policy_events`, which nobody else
    may read, in the order in which ``denied`` counts. Everybody listens on all ports.
    """

    def __init__(
        self,
        listeners: Mapping[str, Sandbox],
        tcp: Iterable[int],
        udp: Iterable[int],
        rings: Sequence[RingBuffer],
        version: int,
    ) -> None:
        self.version, self.rings = version, rings
        self.denied = [0] * len(rings)
        """Packets that programs denied, by ring: those that pods send of their own accord too."""
        self._family = socket.AF_INET if version == 4 else socket.AF_INET6
        self._numbers = itertools.count(FIRST_SOURCE_PORT)
        self._selector = selectors.DefaultSelector()
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._selector.close)
        self._running: dict[tuple[object, ...], _Running] = {}
        try:
            for address, place in listeners.items():
                self._listen(place, address, list(tcp), list(udp))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # listeners ----------------------------------------

    def _listen(self, place: Sandbox, address: str, tcp: list[int], udp: list[int]) -> None:
        wanted = [(socket.SOCK_STREAM, 0)] * len(tcp) + [(socket.SOCK_DGRAM, 0)] * len(udp)
        for port, sock in zip([*tcp, *udp], self._sockets(place, wanted), strict=True):
            self._stack.enter_context(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            stream = sock.type == socket.SOCK_STREAM
            if stream:
                sock.listen(AT_ONCE)
            self._watch(sock, self._accepter(sock, address) if stream else self._replier(sock, address))

    def _sockets(self, place: Sandbox, wanted: Sequence[tuple[int, int]]) -> list[socket.socket]:
        """One visit of the namespace for all of them."""
        made = netns.in_netns(place.pid, lambda: [socket.socket(self._family, kind, number) for kind, number in wanted])
        for sock in made:
            sock.setblocking(False)
        return made

    def _watch(self, sock: socket.socket, handle: Callable[[], None], events: int = selectors.EVENT_READ) -> None:
        self._selector.register(sock, events, handle)

    def _accepter(self, sock: socket.socket, address: str) -> Callable[[], None]:
        def accept() -> None:
            with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
                while True:
                    connection, peer = sock.accept()
                    connection.close()
                    self._reached(TCP, peer[1], address)

        return accept

    def _replier(self, sock: socket.socket, address: str) -> Callable[[], None]:
        def reply() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    _, peer = sock.recvfrom(64)
                    self._reached(UDP, peer[1], address)
                    sock.sendto(b"answer", peer)

        return reply

    def _reached(self, protocol: int, number: int, address: str) -> None:
        running = self._running.get((protocol, number))
        if running is not None:
            running.outcome.answered_by = address

    # clients ----------------------------------------

    def run(self, attempts: Sequence[Attempt]) -> list[Outcome]:
        """The outcome of each, in their order. Echoes: only one of a pair of addresses, in either direction."""
        found: list[Outcome] = []
        for batch in _batches(attempts, AT_ONCE):
            found += self._run_batch(batch)
        return found

    def _run_batch(self, attempts: Sequence[Attempt]) -> list[Outcome]:
        with contextlib.ExitStack() as stack:
            stack.callback(self._running.clear)
            outcomes = [self._start(attempt, sock, stack) for attempt, sock in self._clients(attempts)]
            for running in list(self._running.values()):
                running.send()
            self._wait()
            # Whoever got through in spite of a denial is heard as well.
            self._take(0)
            self._take(0)
            return outcomes

    def _clients(self, attempts: Sequence[Attempt]) -> Iterator[tuple[Attempt, socket.socket]]:
        by_place: dict[int, list[int]] = {}
        for number, attempt in enumerate(attempts):
            by_place.setdefault(attempt.place.pid, []).append(number)
        made: dict[int, socket.socket] = {}
        for numbers in by_place.values():
            kinds = [_kind(attempts[n].protocol) for n in numbers]
            made |= dict(zip(numbers, self._sockets(attempts[numbers[0]].place, kinds), strict=True))
        return ((attempt, made[number]) for number, attempt in enumerate(attempts))

    def _start(self, attempt: Attempt, sock: socket.socket, stack: contextlib.ExitStack) -> Outcome:
        stack.enter_context(sock)
        number, outcome = next(self._numbers), Outcome()
        if number > LAST_SOURCE_PORT:
            raise netns.LabError(f"more than {LAST_SOURCE_PORT - FIRST_SOURCE_PORT} attempts in one lab")
        running = _Running(attempt, outcome, sock, number)
        self._running[self._key(attempt, number)] = running
        has_port = attempt.protocol in (TCP, UDP)
        sock.bind((attempt.source, number if has_port else 0))
        if attempt.protocol == TCP:
            # Closing is a reset: nothing of a connection stays behind.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        code = sock.connect_ex((attempt.destination, attempt.port))
        if code not in (0, errno.EINPROGRESS):
            outcome.refused = f"connect: {os.strerror(code)}"
            return outcome
        events = selectors.EVENT_WRITE if attempt.protocol == TCP else selectors.EVENT_READ
        self._watch(sock, lambda: self._heard(running), events)
        stack.callback(self._unwatch, sock)
        return outcome

    def _unwatch(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(sock)

    @staticmethod
    def _key(attempt: Attempt, number: int) -> tuple[object, ...]:
        if attempt.protocol in (TCP, UDP):
            return attempt.protocol, number
        return attempt.protocol, frozenset((attempt.source, attempt.destination))

    def _heard(self, running: _Running) -> None:
        sock, tcp = running.socket, running.attempt.protocol == TCP
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if tcp else self._receive(running)
        if code is None:
            return
        self._unwatch(sock)
        if code:
            running.outcome.refused = os.strerror(code)
        else:
            running.outcome.passed = True

    def _receive(self, running: _Running) -> int | None:
        """0: it was answered. None: by something else. Else the error."""
        try:
            data = running.socket.recv(256)
        except BlockingIOError:
            return None
        except OSError as error:
            return error.errno
        if running.attempt.protocol == UDP:
            return 0
        start = 20 if self.version == 4 else 0
        kind, number = data[start], struct.unpack_from("!H", data, start + 4)[0]
        if (kind, number) != (ECHO_REPLY[self.version], running.number):
            return None
        running.outcome.answered_by = running.attempt.destination
        return 0

    # waiting ----------------------------------------

    def _wait(self) -> None:
        now = time.monotonic()
        again, latest = now + REPEAT, now + PATIENCE
        while waiting := [r for r in self._running.values() if not r.outcome.ended]:
            self._take(EVENTS)
            now = time.monotonic()
            if now > again:
                again = now + REPEAT
                for running in waiting:
                    running.send()
            if now > latest:
                one = waiting[0].attempt
                text = f"{one.source} to {one.destination} protocol {one.protocol} port {one.port}"
                raise netns.LabError(f"{len(waiting)} attempts were neither answered nor denied, the first: {text}")

    def _take(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            key.data()
        self.read_events()

    def read_events(self) -> None:
        """Take what the programs reported. Several rings: of the nodes."""
        for number, ring in enumerate(self.rings):
            for record in (_record(raw, self.version) for raw in ring.read()):
                if not record.allowed:
                    self.denied[number] += 1
                    self._denied(record)

    def _denied(self, record: Record) -> None:
        keys: list[tuple[object, ...]] = [
            (record.protocol, record.source_port),
            # The reply was denied.
            (record.protocol, record.port),
            (record.protocol, frozenset((record.source, record.destination))),
        ]
        running = next((self._running[key] for key in keys if key in self._running), None)
        if running is not None:
            running.outcome.denials.append(record)


def _kind(protocol: int) -> tuple[int, int]:
    kinds = {TCP: (socket.SOCK_STREAM, 0), UDP: (socket.SOCK_DGRAM, 0)}
    return kinds.get(protocol, (socket.SOCK_RAW, protocol))


def _batches(attempts: Sequence[Attempt], size: int) -> Iterator[Sequence[Attempt]]:
    for start in range(0, len(attempts), size):
        yield attempts[start : start + size]
