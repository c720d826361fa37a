"""Near misses of selectors: labels of the pod at the other end, and of its namespace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy import selectors
from kubectl_netpol.policy.nearmiss import typos
from kubectl_netpol.policy.nearmiss.case import Case, namespace_with_labels, with_labels, with_peer
from kubectl_netpol.policy.nearmiss.record import Candidate, Proof, candidate
from kubectl_netpol.policy.networkpolicy import RulePeer
from kubectl_netpol.policy.world import labels_of, namespace_of, on_host_network, ref

Json = dict[str, Any]
Labels = Mapping[str, Any]

NAME_LABEL = "kubernetes.io/metadata.name"
SAME_MEANING = (
    {"app", "name", "run", "k8s-app", "app.kubernetes.io/name", "app.kubernetes.io/instance"},
    {"component", "tier", "role", "app.kubernetes.io/component"},
    {"env", "environment", "stage"},
)
"""Keys that people take for each other."""
COMMON_VALUES = {"true", "false", "yes", "no", "enabled", "disabled"}
"""The same under two keys by chance."""
MOST_DIFFERENCES = 3
TYPO, KEY, VALUE, MISSING, EXCLUDED, DIFFER = "TYPO", "KEY", "VALUE", "MISSING", "EXCLUDED", "DIFFER"


@dataclass(frozen=True)
class Difference:
    """One requirement that labels do not meet, and the labels with which it would be met."""

    kind: str
    closeness: int
    has: str
    """`has access=false`."""
    mended: Labels


def candidates(case: Case) -> Iterator[Candidate]:
    other = case.other
    if other is None or on_host_network(other) or ref(other) == ref(case.pod):
        return
    for rule in case.wrong_peer:
        if rule.peer is not None and not rule.peer.get("ipBlock"):
            yield from _of_peer(case, rule, other)


def _of_peer(case: Case, rule: RulePeer, other: Json) -> Iterator[Candidate]:
    peer = rule.peer or {}
    pods, namespaces = peer.get("podSelector") or {}, peer.get("namespaceSelector")
    fits = selectors.matches(pods, labels_of(other))
    here = np.means_namespace(rule, namespace_of(other), case.world)
    if fits and namespaces is None:
        yield _own_namespace(case, rule, other)
    elif fits and not here:
        yield from _of_namespace(case, rule, other, namespaces or {})
        yield from _one_peer(case, rule, other, 3)
    elif here and not fits:
        yield from _of_pod(case, rule, other, pods)
        yield from _one_peer(case, rule, other, 5)


def _own_namespace(case: Case, rule: RulePeer, other: Json) -> Candidate:
    space = namespace_of(other)
    only = f"{_pods(rule.peer)} in namespace {namespace_of(rule.policy)} only"
    text = f"{case.where(rule)} has no namespaceSelector, so it means {only}; {ref(other)} is in namespace {space}"
    mended = {**(rule.peer or {}), "namespaceSelector": {"matchLabels": {NAME_LABEL: space}}}
    return candidate("OWN_NAMESPACE_ONLY", 0, text, with_peer(rule, mended))


def _pods(peer: Json | None) -> str:
    text = selectors.text((peer or {}).get("podSelector") or {})
    return "all pods" if text == "<all>" else f"pods with {text}"


def _namespaces(selector: Json) -> str:
    text = selectors.text(selector)
    return "all namespaces" if text == "<all>" else f"namespaces with {text}"


def _of_pod(case: Case, rule: RulePeer, other: Json, selector: Json) -> Iterator[Candidate]:
    found = difference(selector, labels_of(other))
    if found is None:
        return
    namespaces = (rule.peer or {}).get("namespaceSelector")
    more = "" if namespaces is None else f" in {_namespaces(namespaces)}"
    text = f"{case.where(rule)} allows {_pods(rule.peer)}{more}; {case.called(other)} {found.has}"
    code = "LABELS_DIFFER" if found.kind == DIFFER else f"LABEL_{found.kind}"
    yield candidate(code, found.closeness, text, Proof((with_labels(other, found.mended),)))


def _of_namespace(case: Case, rule: RulePeer, other: Json, selector: Json) -> Iterator[Candidate]:
    space = namespace_of(other)
    if space not in case.world.namespaces:
        return
    labels = case.world.namespaces[space]
    found = _by_name(selector, space, labels) or difference(selector, labels)
    if found is not None and found.kind == TYPO and _names_another(selector, case):
        found = Difference(VALUE, 2, f"has {NAME_LABEL}={space}", found.mended)
    if found is None:
        return
    text = f"{case.where(rule)} allows {_namespaces(selector)}; namespace {space} {found.has}"
    code = "NAMESPACES_DIFFER" if found.kind == DIFFER else f"NAMESPACE_{found.kind}"
    if labels.get(NAME_LABEL) == found.mended.get(NAME_LABEL):
        proof = Proof((namespace_with_labels(space, found.mended),))
    else:
        # The API server sets this label itself: only the rule can change.
        mended = {**(rule.peer or {}), "namespaceSelector": {"matchLabels": {NAME_LABEL: space}}}
        proof = with_peer(rule, mended)
    yield candidate(code, found.closeness, text, proof)


def _names_another(selector: Json, case: Case) -> bool:
    """Whether the name that is wanted is not mistyped: there is a namespace of that name."""
    return str((selector.get("matchLabels") or {}).get(NAME_LABEL)) in case.world.namespaces


def _by_name(selector: Json, space: str, labels: Labels) -> Difference | None:
    """A label that should hold the name of the namespace, and that is not there: only its longer sister is."""
    unmet = _unmet(selector, labels)
    if len(unmet) != 1:
        return None
    key, operator, values = unmet[0]
    if operator != "In" or space not in values or key in labels or key == NAME_LABEL:
        return None
    has = f"has no label {key}, its name is in the label {NAME_LABEL}"
    return Difference("NAME", 0, has, {**labels, key: space})


def _one_peer(case: Case, rule: RulePeer, other: Json, closeness: int) -> Iterator[Candidate]:
    """One list item with both selectors, where two items would let the other end in.

    The reverse brings nothing: what fits both selectors of one item fits each of them in an item of its own.
    """
    peer = rule.peer or {}
    pods, namespaces = peer.get("podSelector"), peer.get("namespaceSelector")
    if not pods or selectors.text(pods) == "<all>" or not namespaces:
        return
    text = (
        f"{case.where(rule)} has podSelector and namespaceSelector in one list item, so it means {_pods(peer)} that "
        f"are in {_namespaces(namespaces)}; as two items, either of which is enough, it would also allow {ref(other)}"
    )
    proof = with_peer(rule, {"podSelector": pods}, {"namespaceSelector": namespaces})
    yield candidate("ONE_PEER", closeness, text, proof)


# ---- requirements


def _unmet(selector: Json, labels: Labels) -> list[tuple[str, str, list[Any]]]:
    """(key, operator, values) of each requirement that the labels do not meet; matchLabels are In."""
    found: list[tuple[str, str, list[Any]]] = []
    for key, value in sorted((selector.get("matchLabels") or {}).items()):
        if labels.get(key) != value:
            found.append((key, "In", [value]))
    for one in selector.get("matchExpressions") or ():
        if not selectors.matches({"matchExpressions": [one]}, labels):
            values = [str(value) for value in one.get("values") or ()]
            found.append((str(one.get("key")), str(one.get("operator")), values))
    return found


def difference(selector: Json, labels: Labels) -> Difference | None:
    """All differences as one; None: there is no saying what labels would fit, or far too many of them do not."""
    found: list[Difference] = []
    mended = labels
    for requirement in _unmet(selector, labels)[: MOST_DIFFERENCES + 1]:
        one = _difference(*requirement, mended)
        if one is None:
            return None
        mended = one.mended
        found.append(one)
    if not found or len(found) > MOST_DIFFERENCES or not selectors.matches(selector, mended):
        return None
    has = " and ".join(dict.fromkeys(one.has for one in found))
    if len(found) == 1:
        return found[0]
    worst = max(found, key=lambda one: one.closeness)
    return Difference(worst.kind, worst.closeness, has, mended) if worst.closeness <= 1 else _several(has, mended)


def _several(has: str, mended: Labels) -> Difference:
    return Difference(DIFFER, 5, has, mended)


def _difference(key: str, operator: str, values: list[Any], labels: Labels) -> Difference | None:
    if operator == "In" and values:
        return _wanted(key, values, labels)
    if operator == "Exists":
        typo = next(((k, like) for k in labels if (like := typos.likeness(key, k))), None)
        if typo is not None:
            return Difference(TYPO, 0, f"has the label {typo[0]}, {typo[1]}", {**labels, key: labels[typo[0]]})
        related = next((k for k in labels if _related(key, k)), None)
        if related is not None:
            return Difference(KEY, 1, f"has the label {related} instead", {**labels, key: labels[related]})
        return Difference(MISSING, 3, f"has no label {key}", {**labels, key: ""})
    if operator in ("NotIn", "DoesNotExist") and key in labels:
        return Difference(EXCLUDED, 4, f"has {key}={labels[key]}", {k: v for k, v in labels.items() if k != key})
    return None


def _wanted(key: str, values: list[Any], labels: Labels) -> Difference:
    if key in labels:
        for value in values:
            if like := typos.likeness(value, labels[key]):
                return Difference(TYPO, 0, f"has {key}={labels[key]}, {like}", {**labels, key: value})
        return Difference(VALUE, 2, f"has {key}={labels[key]}", {**labels, key: values[0]})
    same = [k for k, value in labels.items() if value in values]
    for k in same:
        if like := typos.likeness(key, k):
            return Difference(TYPO, 0, f"has {k}={labels[k]}, its key {like}", {**labels, key: labels[k]})
    for k in same:
        if _related(key, k):
            return Difference(KEY, 1, f"has {k}={labels[k]} instead", {**labels, key: labels[k]})
    for k in same:
        if len(str(labels[k])) > 2 and str(labels[k]).lower() not in COMMON_VALUES:
            return Difference(KEY, 3, f"has no label {key}, but {k}={labels[k]}", {**labels, key: labels[k]})
    return Difference(MISSING, 3, f"has no label {key}", {**labels, key: values[0]})


def _related(left: str, right: str) -> bool:
    """`app` and `app.kubernetes.io/name`; `team` and `example.com/team`."""
    if left.rpartition("/")[2] == right.rpartition("/")[2]:
        return True
    return any(left in group and right in group for group in SAME_MEANING)
