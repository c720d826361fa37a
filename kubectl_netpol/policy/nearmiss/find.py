"""From a denied flow to the sentences about it: all that could be said, of which what proves true is."""

from __future__ import annotations

from collections.abc import Iterator

from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.policy.nearmiss import blocks, labels, places, policies, ports, services, subjects
from kubectl_netpol.policy.nearmiss.case import Case
from kubectl_netpol.policy.nearmiss.record import Candidate, NearMiss
from kubectl_netpol.policy.nearmiss.trial import Trial
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.world import World

MOST_TRIED = 50
"""Guesses that are tried for one flow: a pod may have hundreds of rules that miss it."""


def near_misses(ends: Ends, backends: tuple[Ends, ...], world: World, *, most: int = 3) -> tuple[NearMiss, ...]:
    """What is most likely wrong in the YAML, the best guess first; to be asked where INTENT or ENDPOINTS denies."""
    case = Case(ends, backends, world)
    found: dict[str, NearMiss] = {}
    for miss in (one.miss for one in proven(case)):
        if len(found) >= most:
            break
        found.setdefault(miss.text, miss)
    return tuple(found.values())


def proven(case: Case) -> Iterator[Candidate]:
    """The candidates that prove true, in their order."""
    trial = Trial(case)
    guesses = sorted(candidates(case), key=lambda one: one.miss.closeness)
    for one in guesses[:MOST_TRIED]:
        if all(trial.holds(proof) for proof in one.proofs):
            yield one


def candidates(case: Case) -> Iterator[Candidate]:
    """All that could be said, in no order."""
    if case.intent.code in ("NOT_READ", "HOST_NETWORK"):
        return
    yield from places.gone(case)
    yield from policies.of_tiers(case)
    yield from services.candidates(case)
    if case.intent.decision is Decision.ALLOW or case.intent.code.endswith("_DENY"):
        # What allows cannot be amended, and what a cluster policy denies no NetworkPolicy can allow.
        return
    yield from labels.candidates(case)
    yield from ports.candidates(case)
    yield from blocks.candidates(case)
    yield from places.candidates(case)
    yield from policies.candidates(case)
    yield from subjects.candidates(case)
