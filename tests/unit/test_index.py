"""Label indexes find whom the selectors mean, as a look at everybody would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.policy import selectors
from kubectl_netpol.policy.index import LabelIndex, SelectorIndex

KEYS, VALUES = ["app", "tier", "env"], ["web", "api", ""]
LABELS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3)
EXPRESSION = st.fixed_dictionaries(
    {"key": st.sampled_from(KEYS), "operator": st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "Bogus"])},
    optional={"values": st.lists(st.sampled_from([*VALUES, "other"]), max_size=3)},
)
SELECTOR = st.fixed_dictionaries(
    {},
    optional={
        "matchLabels": st.one_of(st.none(), LABELS),
        "matchExpressions": st.one_of(st.none(), st.lists(EXPRESSION, max_size=2)),
    },
)


@given(st.lists(LABELS, max_size=8), st.lists(SELECTOR, min_size=1, max_size=4))
def test_whom_a_selector_means(labels, asked):
    index = LabelIndex([(one, number) for number, one in enumerate(labels)])
    for selector in [*asked, *asked]:
        wanted = tuple(number for number, one in enumerate(labels) if selectors.matches(selector, one))
        assert index.select(selector) == wanted


@given(st.lists(SELECTOR, max_size=8), st.lists(LABELS, min_size=1, max_size=4))
def test_which_selectors_mean_somebody(filed, asked):
    index = SelectorIndex([(selector, number) for number, selector in enumerate(filed)])
    for labels in asked:
        wanted = [number for number, selector in enumerate(filed) if selectors.matches(selector, labels)]
        assert list(index.matching(labels)) == wanted


class Read(list):
    """A list that counts what is taken out of it."""

    reads = 0

    def __getitem__(self, number):
        self.reads += 1
        return super().__getitem__(number)


CANDIDATES = {
    "a label": {"matchLabels": {"app": "rare"}},
    "the rarer of two labels": {"matchLabels": {"all": "x", "app": "rare"}},
    "In": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["rare", "none"]}]},
    "Exists": {"matchExpressions": [{"key": "odd", "operator": "Exists"}]},
    "a label beside what no index helps with": {
        "matchLabels": {"app": "rare"},
        "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}],
    },
}


@pytest.mark.parametrize("selector", CANDIDATES.values(), ids=CANDIDATES)
def test_few_are_looked_at(selector):
    """That is what the index is for: of a thousand only those that meet one requirement."""
    items = [({"all": "x", "app": "many"}, number) for number in range(1000)] + [
        ({"all": "x", "app": "rare", "odd": "y"}, 1000)
    ]
    read = Read(items)
    index = LabelIndex(read)
    read.reads = 0
    assert index.select(selector) == (1000,)
    assert 0 < read.reads <= 4


def test_an_answer_is_at_hand_the_second_time():
    read = Read([({"app": "web"}, 1)])
    index = LabelIndex(read)
    index.select({"matchLabels": {"app": "web"}})
    read.reads = 0
    assert index.select({"matchLabels": {"app": "web"}}) == (1,)
    assert read.reads == 0


def test_few_selectors_are_evaluated(monkeypatch):
    filed = [({"matchLabels": {"app": f"a{number}"}}, number) for number in range(1000)]
    filed += [({"matchExpressions": [{"key": "k", "operator": "In", "values": ["v", "w", "v"]}]}, 1000)]
    filed += [({"matchExpressions": [{"key": "k", "operator": "Exists"}]}, 1001), ({}, 1002)]
    index, seen, real = SelectorIndex(filed), [], selectors.matches
    monkeypatch.setattr(selectors, "matches", lambda selector, labels: seen.append(selector) or real(selector, labels))
    assert list(index.matching({"app": "a7", "k": "v"})) == [7, 1000, 1001, 1002]
    assert len(seen) == 4
    seen.clear()
    assert list(index.matching({"app": "a7"})) == [7, 1002]
    assert len(seen) == 2


def test_nobody_and_no_selector():
    assert LabelIndex([]).select({}) == ()
    assert list(SelectorIndex([]).matching({"app": "web"})) == []
    assert list(SelectorIndex([({}, 1)]).matching({})) == [1]
