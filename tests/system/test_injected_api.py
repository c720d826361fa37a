"""The table of injected faults: the way to the API server, TLS, and its answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.conftest import User
from tests.system.injected.api_rows import CHAPTERS
from tests.system.injected.row import Row
from tests.system.injected.running import Runner


@pytest.fixture(scope="module")
def runner(healthy_user: User) -> Runner:
    return Runner(healthy_user)


@pytest.mark.parametrize("row", [row for one in CHAPTERS for row in one.rows], ids=lambda row: row.name)
def test_row(runner: Runner, row: Row, tmp_path: Path) -> None:
    runner.run(row, tmp_path)
