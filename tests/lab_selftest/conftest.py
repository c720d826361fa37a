from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.node import Fabric
from tests.lab.require import require_lab


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    require_lab()
    with Fabric() as made:
        yield made
