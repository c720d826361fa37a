"""A short run of every target, the same cases each time, and all inputs that once did harm."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_inputs(name: str) -> None:
    """Real inputs are taken: a target that refuses all of them would test nothing."""
    target = TARGETS[name]
    outcomes = [target.outcome(seed) for seed in target.seeds()]
    assert any(outcome.startswith("value") for outcome in outcomes), outcomes


@pytest.mark.parametrize("name", TARGETS)
def test_no_case_does_harm(name: str) -> None:
    target = TARGETS[name]
    for seed in range(target.short):
        case = target.case(seed)
        assert target.outcome(case) == target.outcome(case), f"{name} {seed}: two outcomes of one input"


@pytest.mark.parametrize("name", TARGETS)
def test_what_once_did_harm(name: str) -> None:
    for path in TARGETS[name].kept():
        TARGETS[name].outcome(path.read_bytes())
