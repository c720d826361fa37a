"""Options of the whole suite."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# A shell has SIGINT ignored by what it starts in the background, and that is inherited: tests of Ctrl-C need it heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


HERE = Path(__file__).parent
LONG = ("e2e", "krew", "publish", "system", "faults", "kernel", "lab_selftest")
"""Directories whose files take long, those with the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long is begun first: a long file that one worker is left with at the end is waited for by all."""
    ranks = {name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path.relative_to(HERE).parts[0], len(LONG)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="write golden files anew instead of comparing")
