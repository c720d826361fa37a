"""What a person sees while waiting: one line on stderr, on a terminal only, gone when the answer comes."""

from __future__ import annotations

import contextlib
import sys
import threading
import time

from kubectl_netpol.report.text import clean

QUIET_SECONDS = 1.0
"""A step that ends sooner is not worth a line."""


class Progress:
    """Shows the current step after a second. Notes and warnings are always printed, as lines of their own."""

    def __init__(self, enabled: bool | None = None) -> None:
        self._enabled = sys.stderr.isatty() if enabled is None else enabled
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._text = ""
        self._shown = False
        self._told: set[str] = set()
        self._timer: threading.Timer | None = None

    def step(self, text: str) -> None:
        """Say what is being waited for."""
        if not self._enabled:
            return
        with self._lock:
            self._text = clean(text)
            wait = self._started + QUIET_SECONDS - time.monotonic()
            if wait <= 0:
                self._draw()
            elif self._timer is None:
                self._timer = threading.Timer(wait, self._late)
                self._timer.daemon = True
                self._timer.start()

    def note(self, text: str) -> None:
        """A line that stays: a completed name, a warning."""
        with self._lock:
            self._erase()
            _write(f"{clean(text)}\n")

    def note_once(self, text: str) -> None:
        """The same, for what each of several readings would say again."""
        if text not in self._told:
            self._told.add(text)
            self.note(text)

    def pause(self) -> None:
        """Take the line away until the next step: something is about to be printed."""
        with self._lock:
            self._erase()

    def done(self) -> None:
        """Take the line away."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._text = ""
            self._erase()

    def _late(self) -> None:
        with self._lock:
            if self._text:
                self._draw()

    def _draw(self) -> None:
        width = 100
        _write(f"\r\033[K{self._text[:width]}")
        self._shown = True

    def _erase(self) -> None:
        if self._shown:
            _write("\r\033[K")
            self._shown = False


def _write(text: str) -> None:
    """Where stderr takes nothing (a full disk, a reader that is gone), the answer is still worth something."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()
