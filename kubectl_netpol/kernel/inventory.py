"""What is odd about a node as a whole: pins without a pod, pods without a pin, two generations side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kubectl_netpol.kernel import identity
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.model.kernel import Difference

MOST_NAMES = 5
"""Names that one line lists before it only counts."""


def of_node(view: NodeView, pods: Iterable[tuple[str, str]], *, pods_known: bool) -> tuple[Difference, ...]:
    """``pods``: (namespace, name) of the node's pods that have a network of their own and run."""
    found = list(_generations(view))
    if not view.unread("pins"):
        found += _pins(view, tuple(pods), pods_known)
    return tuple(found)


def _pins(view: NodeView, pods: tuple[tuple[str, str], ...], pods_known: bool) -> Iterator[Difference]:
    pinned = {identity.pinned_identifier(path.rsplit("/", 1)[-1]) for path in view.pins} - {""}
    # Those of a pod that is being set up or removed are no fault, and no proof that it has none.
    moving = {identity.pinned_identifier(path.rsplit("/", 1)[-1]) for path in view.open_pins} - {""}
    pinned -= moving
    forms = {"@" if "@" in identifier else "-" for identifier in pinned}
    if len(forms) > 1:
        old = [identifier for identifier in pinned if "@" not in identifier]
        text = f"pins of both name forms on this node; of the form before agent 1.4.0: {_names(old)}"
        yield Difference("BOTH_FORMS", text)
    if not pods_known:
        return
    expected = {i for namespace, name in pods for i in identity.identifiers(namespace, name)}
    left = pinned - expected
    if left:
        yield Difference(
            "PIN_WITHOUT_POD", f"pins whose pod identifier has no pod on this node: {_names(left)}", frozenset(left)
        )
    # Up to agent 1.1.6 only a pod with a policy has programs; from 1.2.0 on every pod has.
    generations = view.generations()
    if not generations or not all(generation.state_keys for generation in generations):
        return
    known = pinned | moving
    without = [f"{ns}/{name}" for ns, name in pods if not known.intersection(identity.identifiers(ns, name))]
    if without:
        text = f"pods of this node under whose identifier nothing is pinned: {_names(without)}"
        yield Difference("POD_WITHOUT_PIN", text)


def _generations(view: NodeView) -> Iterator[Difference]:
    found = view.generations()
    if len(found) > 1:
        words = "; ".join(
            f"agent {generation.agents}: {len(ids)} program(s), such as {ids[0]}"
            for generation, ids in sorted(found.items(), key=lambda item: item[1])
        )
        yield Difference("TWO_GENERATIONS", f"programs of different generations are loaded on this node: {words}")


def _names(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = len(listed) - MOST_NAMES
    return ", ".join(listed[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
