"""The model of `kernel.verdict` against the kernel itself, for every generation, direction and family."""

from __future__ import annotations

import os
import secrets

import pytest

from tests.kernel import agreement
from tests.lab.require import require_lab

WORLDS, PACKETS = 25, 25
"""Of each variant in a test run; `bench/run.py agreement` runs 100,000 cases."""


@pytest.fixture(scope="module", autouse=True)
def _lab() -> None:
    require_lab()


@pytest.fixture(scope="module")
def seed() -> int:
    """Another one each time; NETPOL_SEED repeats a run."""
    return int(os.environ.get("NETPOL_SEED") or secrets.randbits(32))


@pytest.mark.parametrize("variant", agreement.variants(), ids=lambda v: f"{v[0]}-{v[1]}-{'v6' if v[2] else 'v4'}")
def test_the_model_and_the_kernel_agree(variant: tuple[str, int, bool], seed: int) -> None:
    print(f"NETPOL_SEED={seed}")
    counted = {True: 0, False: 0}
    left_open = 0
    for case in agreement.cases(variant, seed, WORLDS, PACKETS):
        assert not case.disagreement, f"NETPOL_SEED={seed}: {case.disagreement}: {case}"
        counted[case.kernel == 0] += 1
        left_open += case.open
    # A generator that only ever makes one kind of answer would prove nothing.
    assert min(counted.values()) > WORLDS, counted
    # Nor would a model that leaves much open.
    assert left_open < WORLDS * PACKETS / 4, left_open
