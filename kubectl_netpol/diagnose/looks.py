"""Two looks of `explain` or `maps` held against each other: what not both of them saw is in progress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kubectl_netpol.diagnose.again import SUDDEN, stays
from kubectl_netpol.diagnose.checks.attached import objects
from kubectl_netpol.diagnose.direction import bad_rows
from kubectl_netpol.diagnose.explain import Explanation
from kubectl_netpol.diagnose.layers import Cause
from kubectl_netpol.model.finding import Finding, InProgress
from kubectl_netpol.model.kernel import Difference, PodKernel
from kubectl_netpol.model.snapshot import NodeReading, Snapshot
from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.policy.world import ref

Key = tuple[str, ...]


@dataclass(frozen=True)
class Sign:
    """One difference, as one look saw it. ``parts``: see ``Finding.parts``."""

    text: str
    parts: frozenset[str] = frozenset()
    finding: Finding | None = None


Signs = Mapping[Key, Sign]


def of_explanation(found: Explanation, snapshot: Snapshot) -> dict[Key, Sign]:
    """All that a controller or agent may be in the middle of."""
    signs: dict[Key, Sign] = dict(_unsteady(snapshot))
    for one in found.findings:
        if one.kind in SUDDEN:
            signs["finding", one.code, one.subject] = Sign(one.title, one.parts, one)
    for leg in found.legs:
        if leg.break_between and not leg.by_rule:
            left, right = leg.break_between
            text = f"{left} and {right} differed at the {leg.direction} of pod {ref(leg.pod)}"
            signs["leg", ref(leg.pod), leg.direction.value, left.value, right.value] = Sign(text)
    for report in found.directions:
        if report.agrees is False:
            behind = objects(report.view) if report.view is not None else ""
            parts = frozenset(f"{behind} {row.prefix} {row.status.name}" for row in bad_rows(report.rows))
            parts = parts or frozenset({behind})
            signs["direction", report.direction.value] = Sign(report.summary, parts)
    if found.agrees is False:
        for policy in found.policies:
            for drift in policy.drifts:
                pods = frozenset(f"{namespace}/{name}" for namespace, name in drift.pods)
                signs["policy", policy.name, drift.code] = Sign(f"{policy.name}: {drift.text}", drift.items | pods)
    return signs


def of_kernel(kernel: PodKernel | None, odd: Iterable[Difference], snapshot: Snapshot) -> dict[Key, Sign]:
    """What differs between attached and pinned, of a pod and of its node (``odd``)."""
    signs: dict[Key, Sign] = dict(_unsteady(snapshot))
    for one in kernel.differences if kernel is not None else ():
        signs["pod", one.code] = Sign(one.text)
    for interface in kernel.interfaces if kernel is not None else ():
        for view in interface.directions.values():
            for one in view.differences:
                signs["direction", str(interface.index), view.direction.value, one.code] = Sign(one.text)
    for one in odd:
        signs["node", one.code] = Sign(one.text, one.items)
    return signs


def _unsteady(snapshot: Snapshot) -> Iterator[tuple[Key, Sign]]:
    for node, reading in snapshot.nodes.items():
        changed = unsteady(reading)
        if changed:
            yield ("unsteady", node), Sign(f"node {node} changed while it was read: {changed}")


def unsteady(reading: NodeReading) -> str:
    """What was still changing at the end of a reading; empty where it held still, or that is not known."""
    section = (reading.document or {}).get("consistency") or {}
    if section.get("steady") is not False:
        return ""
    changed = [str(text) for text in section["changed"]]
    return "; ".join(changed[-2:]) or "what its answer rests on"


def persisting(earlier: Signs, later: Signs) -> dict[Key, Sign]:
    """Those of the later look that the earlier one saw as well."""
    return {
        key: sign
        for key, sign in later.items()
        if key in earlier and (not (sign.parts and earlier[key].parts) or sign.parts & earlier[key].parts)
    }


def moved(looks: Sequence[tuple[Signs, int]]) -> tuple[InProgress, ...]:
    """What not both of the last two looks saw, and what any earlier one saw besides. ``looks``: signs and ns between
    the begin of the first look and that one, in their order."""
    if len(looks) < 2:
        return ()
    last, when = looks[-1]
    stayed = persisting(looks[-2][0], last)
    found: dict[Key, InProgress] = {}
    for number, (signs, seen) in enumerate(looks[:-1]):
        for key, sign in signs.items():
            if key not in stayed:
                found.setdefault(key, _made(key, sign, looks[number + 1][1] - seen))
    for key, sign in last.items():
        if key not in stayed and key not in found:
            found[key] = _made(key, sign, when - looks[-2][1], came=True)
    told = {one.what for key, one in found.items() if key[0] == "finding"}
    # The sentence about a direction or flow says the same again where a finding has its own.
    return tuple(one for key, one in found.items() if key[0] in ("finding", "unsteady", "node", "pod") or not told)


def _made(key: Key, sign: Sign, apart_ns: int, *, came: bool = False) -> InProgress:
    one = sign.finding
    code, subject, pods = (one.code, one.subject, one.pods) if one is not None else ("", "", frozenset())
    return InProgress(sign.text, code, subject or " ".join(key[1:]), apart_ns, pods, came)


def settled(found: Explanation, looks: Sequence[tuple[Signs, int]]) -> Explanation:
    """The answer of the last look, less the faults that the look before did not see."""
    if len(looks) < 2:
        return found
    (before, _), (last, _) = looks[-2:]
    earlier = {(key[1], key[2]): sign.finding for key, sign in before.items() if key[0] == "finding"}
    kept = tuple(one for one in found.findings if one.kind not in SUDDEN or _both(one, earlier))
    found = replace(found, findings=kept, in_progress=(*found.in_progress, *moved(looks)))
    stayed = [key for key in persisting(before, last) if key[0] != "unsteady"]
    if found.legs or found.agrees is not False or stayed:
        return found
    # It differed at both looks, and each time otherwise: neither right nor known to be wrong.
    answer = f"{found.answer.rstrip('.')}; it was otherwise at each look: in progress."
    return replace(found, agrees=None, decision=Decision.UNKNOWN, cause=Cause.UNKNOWN, answer=answer)


def _both(one: Finding, earlier: Mapping[tuple[str, str], Finding | None]) -> bool:
    before = earlier.get((one.code, one.subject))
    return before is not None and stays(before, one)
