"""The table of injected faults: Ctrl-C, SIGTERM, SIGHUP and SIGKILL at every phase."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.conftest import User
from tests.system.injected.row import Row
from tests.system.injected.running import Runner, prepare_for_signals
from tests.system.injected.signal_rows import CHAPTERS


@pytest.fixture(scope="module")
def runner(healthy_user: User) -> Runner:
    prepare_for_signals(healthy_user.lab)
    return Runner(healthy_user)


@pytest.mark.parametrize("row", [row for one in CHAPTERS for row in one.rows], ids=lambda row: row.name)
def test_row(runner: Runner, row: Row, tmp_path: Path) -> None:
    runner.run(row, tmp_path)
