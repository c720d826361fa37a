"""Objects of another shape are left out, and their collection is then not wholly read."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kubectl_netpol.model.snapshot import Collection, Snapshot
from kubectl_netpol.policy.shapes import SHAPES, MapOf, fits, sound
from tests.random_cluster import random_cluster

Json = dict[str, Any]


def test_what_real_objects_look_like_is_kept() -> None:
    for seed in range(20):
        made = random_cluster(random.Random(seed), family=random.Random(seed).choice((4, 6)), pods=8)
        snapshot = Snapshot({kind: Collection(tuple(items)) for kind, items in made.items()})
        kept = sound(snapshot)
        assert kept == snapshot, [one.reason for one in kept.collections.values() if one.reason]
        assert all(kept.get(kind) is snapshot.get(kind) for kind in made), "nothing is copied"


def test_every_collection_that_is_read_has_a_shape() -> None:
    from kubectl_netpol.diagnose.plan import EVERYTHING, RIGHTS

    assert set(SHAPES) == {*EVERYTHING, RIGHTS}


@pytest.mark.parametrize(
    ("value", "shape", "expected"),
    [
        (None, str, True),
        ("x", str, True),
        (1, str, False),
        (1, int, True),
        (True, int, False),
        (True, bool, True),
        (1, bool, False),
        (1.5, int, False),
        ([], [str], True),
        (["a", "b"], [str], True),
        (["a", None], [str], False),
        ("ab", [str], False),
        ({"a": "b"}, [str], False),
        ({}, {"a": str}, True),
        ({"a": None, "other": 5}, {"a": str}, True),
        ({"a": 5}, {"a": str}, False),
        ([], {"a": str}, False),
        ({"a": [{"b": "c"}]}, {"a": [{"b": str}]}, True),
        ({"a": [{"b": []}]}, {"a": [{"b": str}]}, False),
        ({"a": "b"}, MapOf(str), True),
        ({"a": 1}, MapOf(str), False),
        ("a", MapOf(str), False),
    ],
)
def test_fits(value: Any, shape: Any, expected: bool) -> None:
    assert fits(value, shape) is expected


@pytest.mark.parametrize(
    ("odd", "name"),
    [
        ({"metadata": {"name": "b", "labels": ["x"]}}, "b"),
        ({"metadata": {"name": "b"}, "status": []}, "b"),
        ({"metadata": {"name": ["b"]}}, "an object without a name"),
        ({"metadata": None}, "an object without a name"),
        ({}, "an object without a name"),
        ("pod", "an object without a name"),
        (None, "an object without a name"),
    ],
)
def test_an_odd_object_is_left_out_and_said(odd: Any, name: str) -> None:
    good = {"metadata": {"name": "a", "namespace": "x"}}
    found = sound(Snapshot({"pods": Collection((good, odd))})).get("pods")
    assert found.items == (good,)
    assert (found.reason, found.known) == (f"{name} does not have the shape of its kind", False)


def test_what_was_not_read_before_is_still_said() -> None:
    found = sound(Snapshot({"pods": Collection(({}, {}), "forbidden")})).get("pods")
    assert found.reason == "forbidden; an object without a name (and 1 more) does not have the shape of its kind"
    absent = Collection((), absent=True)
    assert sound(Snapshot({"x": absent})).get("x") is absent
