"""Near misses of whole policies: policyTypes, tiers, and several that isolate one pod."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy.nearmiss.case import Case, collection_of, with_spec
from kubectl_netpol.policy.nearmiss.record import Candidate, Change, Proof, candidate
from kubectl_netpol.policy.tiers import ADMIN, ClusterRule, cluster_rules, priority_of, tier_of
from kubectl_netpol.policy.world import label_of, name_of, namespace_of

Json = dict[str, Any]

SHOWN = 5
"""Policies that one sentence names."""
MOST_REMOVED = 20
"""Policies whose absence is tried."""


def candidates(case: Case) -> Iterator[Candidate]:
    for policy in case.selecting:
        if case.direction in np.directions(policy):
            yield from _without_rules(case, policy)
        else:
            yield from _not_listed(case, policy)
    yield from _several(case)


def _kind(direction: Direction) -> str:
    return direction.value.capitalize()


def _not_listed(case: Case, policy: Json) -> Iterator[Candidate]:
    kinds = [_kind(direction) for direction in Direction if direction in np.directions(policy)]
    for rule in np.rule_peers(policy, case.direction):
        if np.rule_admits(rule, case.judged) and np.peer_matches(rule, case.judged, case.world):
            text = (
                f"{label_of(policy)} {rule.path} would allow this, but its policyTypes do not list "
                f"{_kind(case.direction)}, so Kubernetes ignores its {case.direction} rules"
            )
            listed = with_spec(policy, policyTypes=[*kinds, _kind(case.direction)])
            yield candidate("DIRECTION_NOT_LISTED", 0, text, Proof((listed,)))
            return


def _without_rules(case: Case, policy: Json) -> Iterator[Candidate]:
    """Isolation without a rule: on purpose in a policy that has no rules at all, by accident beside other rules."""
    spec = policy.get("spec") or {}
    own, other = _kind(case.direction), case.direction.value
    if spec.get(other) or len(case.policies) > 1:
        return
    rest = [_kind(direction) for direction in np.directions(policy) if direction is not case.direction]
    lists = f"lists {own} in policyTypes" if spec.get("policyTypes") else f"has no policyTypes, which means {own},"
    text = f"{label_of(policy)} {lists} and has no {other} rule, so {case.called(case.pod)} is closed for {other}"
    beside = any(spec.get(direction.value) for direction in Direction)
    gone = Change(collection_of(policy), policy, gone=True)
    change = with_spec(policy, policyTypes=rest) if rest else gone
    yield candidate("DIRECTION_WITHOUT_RULES", 1 if beside else 6, text, Proof((change,)))


def _several(case: Case) -> Iterator[Candidate]:
    if not 2 <= len(case.policies) <= MOST_REMOVED:
        return
    names = sorted({label_of(policy) for policy in case.policies})
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    text = (
        f"{shown} isolate {case.called(case.pod)} for {case.direction} together: none of them allows this flow, and "
        "without any one of them it would still be denied"
    )
    without = (Change(collection_of(policy), policy, gone=True) for policy in case.policies)
    yield candidate("SEVERAL_POLICIES", 9, text, *(Proof((change,), Decision.DENY) for change in without))


# ---- cluster policies


def of_tiers(case: Case) -> Iterator[Candidate]:
    """What decides is a ClusterNetworkPolicy."""
    allowing = _allow_all(case)
    if case.intent.code == "ADMIN_DENY":
        text = f"{case.intent.why}, before any NetworkPolicy is asked: none can allow this flow"
        own = case.judged.peer == case.world.own_node_address(case.pod, case.judged.peer.version)
        if own and case.incoming:
            text += ", and the kubelet's probes come from this address"
        yield candidate("ADMIN_DENY", 0, text, Proof((allowing,), Decision.DENY))
        yield from _later(case)
    elif case.intent.code == "BASELINE_DENY":
        text = (
            f"{case.intent.why}, because no NetworkPolicy isolates {case.called(case.pod)} for {case.direction}: one "
            "that allows this flow would decide first"
        )
        yield candidate("BASELINE_DENY", 0, text, Proof((allowing,)))


def _allow_all(case: Case) -> Change:
    spec = {"podSelector": {}, "policyTypes": [_kind(case.direction)], case.direction.value: [{}]}
    metadata = {"name": "netpol-near-miss", "namespace": namespace_of(case.pod)}
    return Change("networkpolicies", {"metadata": metadata, "spec": spec})


def _later(case: Case) -> Iterator[Candidate]:
    """A rule of the Admin tier that would let the flow pass, if its policy came first."""
    selecting = [p for p in case.world.cluster_policies_selecting(case.pod) if tier_of(p) == ADMIN]
    firsts = [rule for policy in selecting if (rule := next(_fitting(case, policy), None)) is not None]
    blocking = min((rule for rule in firsts if rule.action == "Deny"), key=_priority, default=None)
    lowest = 0 if blocking is None else _priority(blocking)
    for rule in firsts:
        if blocking is None or not lowest or rule.action not in ("Accept", "Pass") or _priority(rule) < lowest:
            continue
        does = "accepts this flow" if rule.action == "Accept" else "passes this flow on"
        other = name_of(blocking.policy)
        first = f"{other} (priority {lowest}) is asked first: lower numbers win"
        tied = f"{other} denies it with the same priority: Deny wins"
        text = f"{rule.text} {does}, but {tied if _priority(rule) == lowest else first}"
        proof = Proof((with_spec(rule.policy, priority=lowest - 1),))
        yield candidate("ADMIN_ORDER", 1, text, proof)


def _priority(rule: ClusterRule) -> int:
    return priority_of(rule.policy)


def _fitting(case: Case, policy: Json) -> Iterator[ClusterRule]:
    for rule in cluster_rules(policy, case.direction):
        for peer in rule.peers:
            if np.rule_admits(peer, case.judged) and np.peer_matches(peer, case.judged, case.world):
                yield rule
                break
