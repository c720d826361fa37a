"""Which findings bear on a question of `explain`, and those that only a question about one flow brings up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.check import Check, asked_pods
from kubectl_netpol.diagnose.checks.base import PodKey, key_of
from kubectl_netpol.diagnose.layers import LegVerdict
from kubectl_netpol.diagnose.plan import Plan
from kubectl_netpol.model.finding import NO_EFFECT, Evidence, Finding, Kind, Remedy, Severity, Where
from kubectl_netpol.model.flow import PROTOCOL_NUMBERS, Direction
from kubectl_netpol.model.snapshot import Snapshot
from kubectl_netpol.model.verdict import Decision, Layer
from kubectl_netpol.policy.world import World, name_of, namespace_of, node_of, ref

Json = dict[str, Any]

DNS_PORT = 53
NEVER = (findings.PIN_WITHOUT_POD, findings.LEFT_ON)
"""What makes no difference to the packets of a pod that is there."""
OF_ENTRIES = (
    findings.ENTRIES_BEHIND,
    findings.MISSING_ENTRIES,
    findings.UNWANTED_ENTRIES,
    findings.OTHER_PORTS,
)
"""Findings about single entries, most of which are about other flows than the one that is asked about."""
BROKEN = (Where.ENDPOINTS, Where.PINNED, Where.ATTACHED)
"""Layers whose errors are told even of a flow that passes."""


def of_flow(plan: Plan, snapshot: Snapshot, world: World, legs: tuple[LegVerdict, ...]) -> tuple[Finding, ...]:
    """The findings about a flow: where all layers let it pass, only what is broken on its way."""
    sides = {(key_of(leg.pod), leg.direction) for leg in legs}
    found = _found(snapshot, world, (plan.pod, *(leg.pod for leg in legs)), api_only=plan.question.api_only)
    kept = [one for one in found if _on_the_way(one, sides, legs)]
    return (*(one for leg in legs for one in _of_leg(leg, world)), *kept)


def of_pod(plan: Plan, snapshot: Snapshot, world: World, *, agrees: bool | None) -> tuple[Finding, ...]:
    """The findings about a pod; what concerns its whole node or cluster only where something is wrong."""
    found = _found(snapshot, world, (plan.pod,), api_only=plan.question.api_only)
    asked, key = set(plan.question.directions), key_of(plan.pod)

    def bears(one: Finding) -> bool:
        if one.kind in NEVER or (one.directions and not asked & set(one.directions)):
            return False
        if key in one.pods:
            return True
        return _around(one, {node_of(plan.pod)}) and (one.severity is Severity.ERROR or agrees is not True)

    return tuple(filter(bears, found))


def _found(snapshot: Snapshot, world: World, pods: Iterable[Json], *, api_only: bool) -> tuple[Finding, ...]:
    """As `check` says it of these pods."""
    listed = {key_of(pod): pod for pod in asked_pods(list(pods))}
    check = Check(world, listed.values(), whole=False, api_only=api_only)
    for node, reading in snapshot.nodes.items():
        check.node(node, reading)
    return check.report().findings


def _around(one: Finding, nodes: set[str]) -> bool:
    """Whether it concerns a whole node of these, or the cluster."""
    return one.everywhere or (one.node in nodes if one.node else not one.pods)


def _on_the_way(one: Finding, sides: set[tuple[PodKey, Direction]], legs: tuple[LegVerdict, ...]) -> bool:
    if one.kind in NEVER or not _asked_about(one.kind, legs):
        return False
    differ = any(leg.break_between or leg.decision is Decision.UNKNOWN for leg in legs)
    error = one.severity is Severity.ERROR or one.kind is findings.TABLE_FULL
    if any(pod in one.pods and (not one.directions or side in one.directions) for pod, side in sides):
        if one.kind in OF_ENTRIES and not differ:
            # All layers say the same of this flow: what is wrong is an entry of somebody else's.
            return False
        dropped = any(leg.decision is Decision.DENY for leg in legs)
        return differ or dropped or (error and one.kind.where in BROKEN)
    # What concerns the whole node or cluster is no reason of a flow that all layers judge alike.
    around = not one.pods and _around(one, {node_of(leg.pod) for leg in legs})
    return around and (differ or error)


def _asked_about(kind: Kind, legs: tuple[LegVerdict, ...]) -> bool:
    """Findings about DNS and Services bear on flows to these alone."""
    if kind is findings.DNS_DENIED:
        return any(leg.leg.ends.flow.port == DNS_PORT for leg in legs)
    if kind is findings.SERVICE_DENIED:
        return any(leg.leg.service for leg in legs)
    return True


# ---- of one flow alone


def _of_leg(leg: LegVerdict, world: World) -> Iterator[Finding]:
    intent = leg.verdict(Layer.INTENT)
    if intent.decision is not Decision.DENY or leg.decision is Decision.ALLOW:
        return
    flow = leg.leg.ends.flow
    between = f"{_who(leg, flow.source, world)} to {_who(leg, flow.destination, world)}"
    for near in leg.near:
        if near.code == "ICMP" and flow.protocol == PROTOCOL_NUMBERS["ICMP"]:
            title = f"ping from {between} is dropped at the {leg.direction} of {name_of(leg.pod)}: {near.text}"
            yield _made(findings.ICMP, leg, title, Evidence("the packet", f"{flow.port_text}, which has no port"))
        if near.code in OUTSIDE:
            title = f"{between}: {near.text}"
            what = world.who(leg.leg.ends.peer) or "no pod, Service or node of this cluster has it"
            yield _made(findings.NODE_SOURCE, leg, title, Evidence(f"address {leg.leg.ends.peer}", what))


OUTSIDE = ("NODE", "NODE_MASQUERADE", "HOST_NETWORK_PEER", "SELECTOR_OUTSIDE", "NODE_LOCAL_DNS")
"""Near misses that say: a selector cannot mean this address (user pain, rows 8 and 24)."""


def _who(leg: LegVerdict, address: Any, world: World) -> str:
    found = world.who(address)
    return f"{found.removeprefix('pod ')} ({address})" if found else str(address)


def _made(kind: Kind, leg: LegVerdict, title: str, packet: Evidence) -> Finding:
    intent = leg.verdict(Layer.INTENT)
    place = f"-n {namespace_of(leg.pod)}"
    remedies = (
        Remedy(f"kubectl {place} get networkpolicies -o yaml", NO_EFFECT),
        Remedy(
            f"kubectl netpol-ebpf explain {name_of(leg.pod)} {place} -f POLICY.yaml",
            "none: it only says what a changed policy would do",
        ),
    )
    return Finding(
        kind,
        title,
        (packet, Evidence(f"INTENT at the {leg.direction} of {name_of(leg.pod)}", intent.why)),
        remedies,
        subject=f"pod {ref(leg.pod)}",
        pods=frozenset({key_of(leg.pod)}),
        directions=(leg.direction,),
    )
