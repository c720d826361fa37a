"""Near misses of whole policies that do not select the pod: the rule is right, and means other pods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy import selectors
from kubectl_netpol.policy.nearmiss import labels
from kubectl_netpol.policy.nearmiss.case import Case, collection_of
from kubectl_netpol.policy.nearmiss.record import Candidate, Change, Proof, candidate
from kubectl_netpol.policy.networkpolicy import RulePeer
from kubectl_netpol.policy.world import label_of, labels_of, namespace_of, on_host_network

Json = dict[str, Any]

CLOSENESS = {labels.TYPO: 0, labels.KEY: 1, labels.VALUE: 4, labels.MISSING: 4, labels.EXCLUDED: 4}


def candidates(case: Case) -> Iterator[Candidate]:
    if not case.policies or on_host_network(case.pod):
        return
    own = namespace_of(case.pod)
    for policies in (case.world.policies_of, case.world.application_policies_of):
        for policy in policies.get(own, ()):
            yield from _of_labels(case, policy)
        elsewhere = (p for namespace, found in policies.items() if namespace != own for p in found)
        yield from _of_namespace(case, elsewhere)


def _of_labels(case: Case, policy: Json) -> Iterator[Candidate]:
    """A policy of the pod's namespace whose podSelector misses the pod by one label."""
    selector = (policy.get("spec") or {}).get("podSelector") or {}
    if selectors.matches(selector, labels_of(case.pod)):
        return
    found = labels.difference(selector, labels_of(case.pod))
    if found is None or found.kind not in CLOSENESS:
        return
    rule = _fitting(case, policy)
    if rule is None:
        return
    text = (
        f"{case.where(rule)} would allow this, but {label_of(policy)} selects pods with {selectors.text(selector)}; "
        f"{case.called(case.pod)} {found.has}"
    )
    yield candidate("SUBJECT_LABEL", CLOSENESS[found.kind], text, _selecting(policy))


def _of_namespace(case: Case, policies: Iterator[Json]) -> Iterator[Candidate]:
    """A policy of another namespace that would do here; the first one only."""
    for policy in policies:
        selector = (policy.get("spec") or {}).get("podSelector") or {}
        if not any(selector.values()) or not selectors.matches(selector, labels_of(case.pod)):
            continue
        moved = {**policy, "metadata": {**policy["metadata"], "namespace": namespace_of(case.pod)}}
        if _fitting(case, moved) is None:
            continue
        text = (
            f"{label_of(policy)} would allow this, but it is in namespace {namespace_of(policy)} and selects pods with "
            f"{selectors.text(selector)} there only, not {case.called(case.pod)} in namespace {namespace_of(case.pod)}"
        )
        yield candidate("SUBJECT_NAMESPACE", 4, text, _selecting(moved))
        return


def _fitting(case: Case, policy: Json) -> RulePeer | None:
    """The first rule that allows the flow."""
    if case.direction not in np.directions(policy):
        return None
    for rule in np.rule_peers(policy, case.direction):
        if np.rule_admits(rule, case.judged) and np.peer_matches(rule, case.judged, case.world):
            return rule
    return None


def _selecting(policy: Json) -> Proof:
    spec = {**(policy.get("spec") or {}), "podSelector": {}}
    return Proof((Change(collection_of(policy), {**policy, "spec": spec}),))
