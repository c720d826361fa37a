"""Requests side by side, in threads that an interrupted run does not wait for.

`concurrent.futures.ThreadPoolExecutor` waits for its threads when it is left, and again when the interpreter ends: with
a server that does not answer, Ctrl-C would take as long as the requests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from queue import SimpleQueue
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class Pool(Generic[A, B]):
    """``work`` in at most ``at_once`` threads. When the block is left, what has not begun never does."""

    def __init__(self, work: Callable[[A], B], at_once: int) -> None:
        self._work, self._at_once = work, at_once
        self._tasks: SimpleQueue[tuple[Future[B], A] | None] = SimpleQueue()
        self._threads = 0
        self._left = False

    def __enter__(self) -> Pool[A, B]:
        return self

    def __exit__(self, *error: object) -> None:
        self._left = True
        for _ in range(self._threads):
            self._tasks.put(None)

    def submit(self, item: A) -> Future[B]:
        future: Future[B] = Future()
        self._tasks.put((future, item))
        if self._threads < self._at_once:
            self._threads += 1
            threading.Thread(target=self._run, daemon=True).start()
        return future

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None and not self._left:
            future, item = task
            try:
                future.set_result(self._work(item))
            except BaseException as error:
                future.set_exception(error)


WAKE_SECONDS = 0.25
"""How long the main thread sleeps at once. A signal that strikes in the moment before it sleeps does not wake it."""


def finished(futures: Collection[Future[B]]) -> set[Future[B]]:
    """At least one of them, when it is done."""
    while not (done := wait(futures, WAKE_SECONDS, FIRST_COMPLETED).done):
        pass
    return done


def _result(future: Future[B]) -> B:
    finished([future])
    return future.result()


def side_by_side(work: Callable[[A], B], items: Iterable[A], at_once: int) -> list[B]:
    """``work`` of each item, in their order. Raises what the first of them raises."""
    with Pool(work, at_once) as pool:
        return [_result(future) for future in [pool.submit(item) for item in items]]
