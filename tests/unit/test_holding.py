"""Debug pods that stay open for a second look: used again, given back, and closed whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from kubectl_netpol import holding
from kubectl_netpol.errors import NodeError
from kubectl_netpol.holding import NodeReaders, ReadNode
from kubectl_netpol.model.snapshot import NodeReading

Json = dict[str, Any]


class Guard:
    """Signals that are held back, as far as this is told."""

    def __init__(self) -> None:
        self.held = 0

    def hold(self) -> None:
        self.held += 1

    @contextmanager
    def __call__(self) -> Iterator[Guard]:
        yield self


class Pods:
    """What was opened and closed, in order, and how readings go."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.fails: dict[str, int] = {}
        self.closing: BaseException | None = None
        self.guard = Guard()
        self.readers = NodeReaders(self.open, 100.0)

    @contextmanager
    def open(self, node: str) -> Iterator[ReadNode]:
        self.events.append(f"open {node}")

        def read(request: Json, follow: Any) -> NodeReading:
            if self.fails.get(node, 0):
                self.fails[node] -= 1
                raise NodeError(f"no {node}")
            self.events.append(f"read {node}")
            return NodeReading({"node": node, **request})

        try:
            yield read
        finally:
            self.events.append(f"close {node}")
            if self.closing:
                raise self.closing

    def read(self, node: str) -> NodeReading:
        return self.readers(node, {}, None)


def test_without_holding_each_reading_has_a_pod_of_its_own() -> None:
    pods = Pods()
    pods.read("a")
    pods.read("a")
    assert pods.events == ["open a", "read a", "close a"] * 2


def test_a_held_pod_reads_again() -> None:
    pods = Pods()
    with pods.readers.holding(pods.guard):
        pods.read("a")
        pods.read("b")
        assert pods.read("a").document == {"node": "a"}
        assert pods.events == ["open a", "read a", "open b", "read b", "read a"]
    # The last one first: each has signal handlers in this thread.
    assert pods.events[-2:] == ["close b", "close a"]
    assert pods.guard.held
    pods.read("a")
    assert pods.events[-3:] == ["open a", "read a", "close a"], "it is over"


def test_a_pod_that_is_given_back_is_closed_at_once() -> None:
    pods = Pods()
    with pods.readers.holding(pods.guard):
        pods.read("a")
        pods.readers.release("a")
        pods.readers.release("a")
        pods.readers.release("never read")
        assert pods.events == ["open a", "read a", "close a"]
        pods.read("a")
    assert pods.events == ["open a", "read a", "close a"] * 2


def test_pods_of_other_threads_are_closed_too() -> None:
    pods = Pods()
    with pods.readers.holding(pods.guard), ThreadPoolExecutor(3) as pool:
        list(pool.map(pods.read, "abc"))
        pods.readers.release("b")
        list(pool.map(pods.read, "ac"))
    for node in "abc":
        assert pods.events.count(f"open {node}") == pods.events.count(f"close {node}") == 1
    assert pods.events.count("read a") == 2


def test_a_pod_that_is_gone_is_replaced_once() -> None:
    pods = Pods()
    with pods.readers.holding(pods.guard):
        pods.read("a")
        pods.fails["a"] = 1
        assert pods.read("a").document
        assert pods.events == ["open a", "read a", "close a", "open a", "read a"]
        pods.fails["a"] = 2
        with pytest.raises(NodeError, match="no a"):
            pods.read("a")
    assert pods.events.count("open a") == pods.events.count("close a") == 3


def test_a_pod_near_its_deadline_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(holding.time, "monotonic", lambda: now[0])
    pods = Pods()
    with pods.readers.holding(pods.guard):
        pods.read("a")
        now[0] = 99.0
        pods.read("a")
        assert pods.events.count("open a") == 1
        now[0] = 101.0
        pods.read("a")
        assert pods.events == ["open a", "read a", "read a", "close a", "open a", "read a"]


def test_no_more_than_some_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "MOST_HELD", 2)
    pods = Pods()
    with pods.readers.holding(pods.guard):
        for node in "abc":
            pods.read(node)
        assert [e for e in pods.events if e.startswith("close")] == ["close c"]
        pods.read("c")
        assert pods.events.count("open c") == pods.events.count("close c") == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), NodeError("x"), ValueError("x")])
def test_all_are_closed_whatever_happens(error: BaseException) -> None:
    pods = Pods()
    with pytest.raises(type(error)), pods.readers.holding(pods.guard):
        pods.read("a")
        thread = threading.Thread(target=lambda: pods.read("b"))
        thread.start()
        thread.join()
        raise error
    assert {"close a", "close b"} <= set(pods.events)


def test_one_that_raises_when_it_is_closed_keeps_no_other_open() -> None:
    """A second signal that waited is raised when a pod is gone."""
    pods = Pods()
    with pytest.raises(KeyboardInterrupt), pods.readers.holding(pods.guard):
        for node in "abc":
            pods.read(node)
        pods.closing = KeyboardInterrupt()
    assert pods.events[-3:] == ["close c", "close b", "close a"]


def test_a_pod_that_cannot_be_opened_is_not_held() -> None:
    pods = Pods()
    pods.fails["a"] = 1
    with pods.readers.holding(pods.guard):
        with pytest.raises(NodeError):
            pods.read("a")
        assert pods.events == ["open a", "close a"]
        assert pods.read("a").document
