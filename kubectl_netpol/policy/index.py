"""Indexes: who is meant by a selector, which selectors mean somebody, who has an address, without a look at everybody.

The API server itself evaluates each selector against each object. In a cluster of 100,000 pods and 5,000 policies that
is 500 million evaluations; here each side is filed under its labels once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Generic, TypeVar

from kubectl_netpol.model.flow import Address
from kubectl_netpol.policy import selectors

Json = dict[str, Any]
T = TypeVar("T")


class LabelIndex:
    """The objects of one namespace, or the namespaces of a cluster, filed under their labels."""

    def __init__(self, items: Sequence[tuple[Mapping[str, str], Any]]) -> None:
        """``items``: (labels, what is found by them), in the order in which it is to be found."""
        self._items = items
        self._by_pair: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._by_key: dict[str, list[int]] = defaultdict(list)
        self._known: dict[str, tuple[Any, ...]] = {}
        for number, (labels, _) in enumerate(items):
            for key, value in labels.items():
                self._by_pair[key, value].append(number)
                self._by_key[key].append(number)

    def select(self, selector: Json) -> tuple[Any, ...]:
        """Whom a LabelSelector means; ``{}`` means everybody. Asked again, the answer is at hand."""
        name = selectors.canonical(selector)
        if name not in self._known:
            self._known[name] = tuple(
                self._items[number][1]
                for number in self._candidates(selector)
                if selectors.matches(selector, self._items[number][0])
            )
        return self._known[name]

    def _candidates(self, selector: Json) -> Sequence[int]:
        """The shortest list of those who meet one requirement."""
        lists: list[Sequence[int]] = [
            self._by_pair.get(pair, ()) for pair in (selector.get("matchLabels") or {}).items()
        ]
        for requirement in selector.get("matchExpressions") or ():
            key, operator = str(requirement.get("key")), requirement.get("operator")
            if operator == "In":
                values = dict.fromkeys(str(value) for value in requirement.get("values") or ())
                lists.append(sorted(n for value in values for n in self._by_pair.get((key, value), ())))
            elif operator == "Exists":
                lists.append(self._by_key.get(key, ()))
        return min(lists, key=len, default=range(len(self._items)))


class AddressIndex:
    """Objects by address, filed under its text: parsing 100,000 of them takes longer than the rest of a question."""

    def __init__(self, items: Iterable[tuple[str, Json]]) -> None:
        """``items``: (address as it is written, object); the last of one address is kept."""
        # An IPv4 address has one spelling. Whatever else a text may be is never asked for.
        self._found = {text if ":" not in text else _spelled(text): obj for text, obj in items}

    def __contains__(self, address: object) -> bool:
        return str(address) in self._found

    def __getitem__(self, address: Address) -> Json:
        return self._found[str(address)]

    def get(self, address: Address) -> Json | None:
        return self._found.get(str(address))


def _spelled(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return text


class SelectorIndex(Generic[T]):
    """Selectors, each filed under one requirement that all whom it means must meet."""

    def __init__(self, entries: Iterable[tuple[Json, T]]) -> None:
        self._entries = list(entries)
        self._by_pair: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._by_key: dict[str, list[int]] = defaultdict(list)
        self._rest: list[int] = []
        for number, (selector, _) in enumerate(self._entries):
            self._file(number, selector)

    def _file(self, number: int, selector: Json) -> None:
        for pair in (selector.get("matchLabels") or {}).items():
            self._by_pair[pair].append(number)
            return
        for requirement in selector.get("matchExpressions") or ():
            key, operator = str(requirement.get("key")), requirement.get("operator")
            if operator == "In":
                for value in {str(value) for value in requirement.get("values") or ()}:
                    self._by_pair[key, value].append(number)
                return
            if operator == "Exists":
                self._by_key[key].append(number)
                return
        self._rest.append(number)

    def matching(self, labels: Mapping[str, str]) -> Iterator[T]:
        """What is filed under the selectors that mean somebody with these labels, in the order of the entries."""
        numbers = list(self._rest)
        for key, value in labels.items():
            numbers += self._by_pair.get((key, value), ())
            numbers += self._by_key.get(key, ())
        for number in sorted(numbers):
            selector, item = self._entries[number]
            if selectors.matches(selector, labels):
                yield item
