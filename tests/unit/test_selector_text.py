"""Label selectors as kubectl's -l takes them."""

from __future__ import annotations

import pytest

from kubectl_netpol.errors import UsageError
from kubectl_netpol.policy import selectors

LABELS = {"app": "web", "env": "prod"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app=web", True),
        ("app==web", True),
        ("app=db", False),
        ("app!=db", True),
        ("tier!=db", True),
        ("app!=web", False),
        ("app", True),
        ("!app", False),
        ("!tier", True),
        ("env in (prod, dev)", True),
        ("env in (dev)", False),
        ("env notin (dev,test)", True),
        ("app=web,env in (prod,dev),!tier", True),
        ("app=web,env=dev", False),
    ],
)
def test_selector(text: str, expected: bool) -> None:
    assert selectors.matches(selectors.parse(text), LABELS) is expected


@pytest.mark.parametrize("text", ["app in web", "=x", "a=b,,c=d", "a b", "app in (x", "(a)"])
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="label selector"):
        selectors.parse(text)
