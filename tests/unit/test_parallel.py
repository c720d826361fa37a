"""Work side by side, in threads that nobody waits for."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from kubectl_netpol.cluster.parallel import Pool, side_by_side


def test_results_are_in_the_order_of_the_items() -> None:
    done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            done.wait(5)
        else:
            done.set()
        return item * item

    assert side_by_side(work, range(5), 2) == [0, 1, 4, 9, 16]
    assert side_by_side(work, [], 4) == []


def test_no_more_at_once_than_asked_for() -> None:
    lock, running, most = threading.Lock(), [0], [0]

    def work(_: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.01)
        with lock:
            running[0] -= 1

    side_by_side(work, range(12), 3)
    assert most == [3]


def test_the_first_error_is_raised_and_what_has_not_begun_never_does() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        side_by_side(work, range(100), 1)
    threading.Event().wait(0.05)
    assert len(begun) < 100


def test_a_signal_does_not_wait_for_the_threads() -> None:
    begun, forever = threading.Event(), threading.Event()

    def work(_: int) -> None:
        begun.set()
        forever.wait(30)

    def interrupt() -> None:
        begun.wait(5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        side_by_side(work, range(2), 2)
    assert not forever.is_set()
    forever.set()


def test_the_threads_do_not_hold_up_the_end_of_the_program() -> None:
    daemons: list[bool] = []
    with Pool(lambda _: daemons.append(threading.current_thread().daemon), 1) as pool:
        pool.submit(0).result(5)
    assert daemons == [True]
