"""Options of the whole suite."""

from __future__ import annotations

import signal

import pytest

# A shell has SIGINT ignored by what it starts in the background, and that is inherited: tests of Ctrl-C need it heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="write golden files anew instead of comparing")
