"""Debug pods that stay open between two looks at their nodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from kubectl_netpol.errors import NodeError
from kubectl_netpol.model.asked import FollowUp
from kubectl_netpol.model.snapshot import NodeReading

Json = dict[str, Any]
ReadNode = Callable[[Json, FollowUp | None], NodeReading]
"""(request, what to ask once its document is there) -> reading, of one node through one pod; raises NodeError."""

MOST_HELD = 50
"""Pods that are open at once for a second look. A node beyond that is read through a pod of its own again."""
CLOSING = 4
"""Pods that are given back side by side."""


class Signals(Protocol):
    """What keeps signals back while pods are removed (``node.debug_pod``)."""

    def hold(self) -> None: ...


@dataclass
class _Held:
    """One open pod. ``until``: seconds of the monotonic clock, after which it is not relied on any more."""

    until: float
    in_main: bool
    stack: ExitStack = field(default_factory=ExitStack)
    read: ReadNode | None = None


class NodeReaders:
    """Reads nodes, each through the way that ``open_reader`` opens; while ``holding``, a way stays open.

    May be called from several threads, for different nodes. What was opened in the main thread is closed there, since
    it has signal handlers; all other is closed by whoever comes.
    """

    def __init__(self, open_reader: Callable[[str], AbstractContextManager[ReadNode]], seconds: float) -> None:
        """``seconds``: how long a pod may be used."""
        self._open_reader, self._seconds = open_reader, seconds
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._closers: ThreadPoolExecutor | None = None
        self._closing: list[Future[None]] = []

    def __call__(self, node: str, request: Json, follow: FollowUp | None) -> NodeReading:
        if self._closers is None:
            with self._open_reader(node) as read:
                return read(request, follow)
        return self._through_held(node, request, follow)

    @contextmanager
    def holding(self, guard: Callable[[], AbstractContextManager[Signals]]) -> Iterator[None]:
        """Keep what is opened until the block is left; then all of it is closed, whatever happens."""
        with guard() as signals, ThreadPoolExecutor(max_workers=CLOSING) as closers:
            self._closers = closers
            # Two layers, as in ``open_debug_pod``: a signal that strikes while the inner one is left finds the outer.
            try:
                try:
                    yield
                finally:
                    signals.hold()
            finally:
                signals.hold()
                try:
                    self._close_all()
                finally:
                    self._closers = None

    def release(self, node: str) -> None:
        """No second look at this node: its pod goes, in the background where that can be."""
        with self._lock:
            held = self._held.pop(node, None)
        if held is not None:
            self._close(held)

    def _through_held(self, node: str, request: Json, follow: FollowUp | None) -> NodeReading:
        with self._lock:
            held = self._held.get(node)
        if held is not None and held.read is not None and time.monotonic() < held.until:
            try:
                return held.read(request, follow)
            except NodeError:
                # Evicted, or at its deadline: another one is tried once.
                pass
        self.release(node)
        with self._lock:
            room = len(self._held) < MOST_HELD
            if room:
                until = time.monotonic() + self._seconds
                in_main = threading.current_thread() is threading.main_thread()
                held = self._held[node] = _Held(until, in_main)
        if not room or held is None:
            with self._open_reader(node) as read:
                return read(request, follow)
        try:
            held.read = held.stack.enter_context(self._open_reader(node))
            return held.read(request, follow)
        except NodeError:
            self.release(node)
            raise

    def _close(self, held: _Held) -> None:
        if held.in_main or self._closers is None:
            held.stack.close()
        else:
            self._closing.append(self._closers.submit(held.stack.close))

    def _close_all(self) -> None:
        with self._lock:
            listed = list(self._held.values())
            self._held.clear()
        with ExitStack() as own:
            # The last one that was opened first, and all of them, whatever one of them raises.
            for held in listed:
                if held.in_main:
                    own.callback(held.stack.close)
                else:
                    self._close(held)
        closing, self._closing = self._closing, []
        for one in closing:
            one.result()
