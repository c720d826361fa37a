"""Label selectors, as the API server evaluates them."""

from __future__ import annotations

import pytest

from kubectl_netpol.policy import selectors


def need(key: str, operator: str, *values: str) -> dict:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


LABELS = {"app": "web", "tier": "fe", "empty": ""}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": {}}, True),
        ({"matchLabels": None, "matchExpressions": None}, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "Web"}}, False),
        ({"matchLabels": {"app": "web", "tier": "be"}}, False),
        ({"matchLabels": {"gone": ""}}, False),
        ({"matchLabels": {"empty": ""}}, True),
        (need("app", "In", "api", "web"), True),
        (need("app", "In", "api"), False),
        (need("gone", "In", "web"), False),
        (need("app", "NotIn", "api"), True),
        (need("app", "NotIn", "web"), False),
        (need("gone", "NotIn", "web"), True),
        (need("app", "Exists"), True),
        (need("empty", "Exists"), True),
        (need("gone", "Exists"), False),
        (need("gone", "DoesNotExist"), True),
        (need("app", "DoesNotExist"), False),
        (need("app", "Bogus", "web"), False),
        ({"matchLabels": {"app": "web"}, **need("tier", "In", "be")}, False),
        ({"matchLabels": {"app": "web"}, **need("tier", "In", "fe")}, True),
    ],
)
def test_matches(selector, expected):
    assert selectors.matches(selector, LABELS) is expected


def test_mismatches_name_every_unmet_requirement_and_nothing_else():
    selector = {
        "matchLabels": {"app": "web", "tier": "be", "gone": "x"},
        **need("app", "NotIn", "web", "api"),
    }
    assert list(selectors.mismatches(selector, LABELS)) == [
        "gone=x is wanted, it has no label gone",
        "tier=be is wanted, it has tier=fe",
        "app notin (web, api) is wanted, it has app=web",
    ]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, "<none>"),
        ({}, "<all>"),
        ({"matchLabels": {"b": "2", "a": "1"}}, "a=1,b=2"),
        (need("app", "In", "x", "y"), "app in (x, y)"),
        (need("app", "NotIn", "x"), "app notin (x)"),
        (need("app", "Exists"), "app"),
        (need("app", "DoesNotExist"), "!app"),
    ],
)
def test_text_is_what_kubectl_get_takes(selector, expected):
    assert selectors.text(selector) == expected
