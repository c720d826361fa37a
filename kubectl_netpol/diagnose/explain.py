"""The answer of `explain`: the verdict of a flow, or both directions of a pod with their layers aligned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kubectl_netpol.diagnose import asking, bearing, deviations, direction
from kubectl_netpol.diagnose.alignment import PORTS_RESOLVED_NOTE, Status
from kubectl_netpol.diagnose.check import carried
from kubectl_netpol.diagnose.direction import DirectionReport, why_unknown
from kubectl_netpol.diagnose.dns import dns_answers
from kubectl_netpol.diagnose.layers import (
    Cause,
    LegVerdict,
    judge,
    mode_note,
    node_views,
    pod_kernel,
    with_answer,
)
from kubectl_netpol.diagnose.next_step import broken_first, flow_next
from kubectl_netpol.diagnose.plan import SETTINGS_KINDS, Plan
from kubectl_netpol.diagnose.what_if import WhatIf, what_if
from kubectl_netpol.model.finding import Finding, InProgress
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import PodKernel
from kubectl_netpol.model.snapshot import Snapshot
from kubectl_netpol.model.verdict import Decision, Layer
from kubectl_netpol.policy import endpoints, networkpolicy, resolution, tiers
from kubectl_netpol.policy.changes import Hypothesis
from kubectl_netpol.policy.nearmiss import DnsAnswer
from kubectl_netpol.policy.nodes import AGENT_LOG
from kubectl_netpol.policy.resolution import Comparison
from kubectl_netpol.policy.world import World, name_of, namespace_of, node_of, on_host_network, ref

Json = dict[str, Any]


@dataclass(frozen=True)
class Explanation:
    """Everything that `explain` prints, in any format."""

    pod: Json
    answer: str
    decision: Decision
    cause: Cause
    kernel: PodKernel | None
    legs: tuple[LegVerdict, ...]
    directions: tuple[DirectionReport, ...]
    next_step: str
    source_text: str = ""
    destination_text: str = ""
    unread: tuple[str, ...] = ()
    """Nodes that could not be read, with the reason."""
    agrees: bool | None = None
    """Of a pod: whether its layers agree; None: something could not be read."""
    policies: tuple[Comparison, ...] = ()
    """Of a pod: each policy that selects it, against its PolicyEndpoints."""
    notes: tuple[str, ...] = ()
    """Of a pod: rules of EKS that concern it and are not Kubernetes'."""
    dns: tuple[DnsAnswer, ...] = ()
    """Of a pod whose egress is restricted: the places that answer DNS, and whether they may be asked."""
    what_if: WhatIf | None = None
    api_only: bool = False
    findings: tuple[Finding, ...] = ()
    """What `check` says that bears on the question; of a what-if none."""
    settings_unread: tuple[str, ...] = ()
    """Settings of the VPC CNI that could not be read, with the reason: findings about them are not among these."""
    in_progress: tuple[InProgress, ...] = ()
    """What not every look saw, or what was under way when a bundle was captured: no fault."""

    @property
    def now(self) -> Decision:
        """The verdict of a flow as things are; ``decision`` is that after the change where one was asked about."""
        return self.decision if self.what_if is None else _overall(self.legs)[0]


def explain(plan: Plan, snapshot: Snapshot, hypothesis: Hypothesis | None = None) -> Explanation:
    """Pure: the same snapshot gives the same explanation. ``hypothesis``: the policies of `-f` and `--without`."""
    world = World(snapshot)
    unread = tuple(f"{n}: {reading.reason}" for n, reading in snapshot.nodes.items() if reading.reason)
    found = _flow(plan, snapshot, world, unread) if plan.legs else _pod(plan, snapshot, world, unread)
    found = replace(found, in_progress=tuple(_carried(snapshot)))
    if hypothesis is not None:
        return _with_changes(found, plan, world, hypothesis)
    if plan.legs:
        told = bearing.of_flow(plan, snapshot, world, found.legs)
    else:
        told = bearing.of_pod(plan, snapshot, world, agrees=found.agrees)
    collections = ((kind, snapshot.get(kind)) for kind in SETTINGS_KINDS)
    settings = tuple(f"{kind}: {one.reason}" for kind, one in collections if one.reason)
    return replace(found, findings=told, settings_unread=settings)


def _flow(plan: Plan, snapshot: Snapshot, world: World, unread: tuple[str, ...]) -> Explanation:
    api_only = plan.question.api_only
    views = {} if api_only else node_views(snapshot)
    legs = tuple(judge(leg, world, views, api_only=api_only) for leg in plan.legs)
    if plan.question.ask_kernel:
        answers = snapshot.nodes
        legs = tuple(with_answer(leg, asking.verdict_of(leg.leg, leg.kernel, answers)) for leg in legs)
    decision, cause = _overall(legs)
    return Explanation(
        pod=plan.pod,
        answer=_flow_answer(plan, legs, decision, mode_note(world)),
        decision=decision,
        cause=cause,
        kernel=pod_kernel(plan.pod, views),
        legs=legs,
        directions=(),
        next_step=flow_next(legs, decision, cause, world, api_only=api_only),
        source_text=plan.source_text,
        destination_text=plan.destination_text,
        unread=unread,
        api_only=api_only,
    )


def _pod(plan: Plan, snapshot: Snapshot, world: World, unread: tuple[str, ...]) -> Explanation:
    api_only, pod = plan.question.api_only, plan.pod
    kernel = None if api_only else pod_kernel(pod, node_views(snapshot))
    reports = tuple(direction.report(pod, d, world, kernel, api_only=api_only) for d in plan.question.directions)
    policies = compare_policies(pod, world)
    rows_differ = any(direction.bad_rows(report.rows) for report in reports)
    wrong = _wrong_policy(pod, policies, entries=not rows_differ) or _left_behind(pod, world)
    agrees = False if wrong else _all_agree(reports)
    answer = "; ".join(report.summary for report in reports)
    if wrong:
        answer += f"; but {wrong}"
    return Explanation(
        pod=pod,
        answer=f"{ref(pod)} on node {node_of(pod)}: {answer}{_API_ONLY_TAIL if api_only else ''}.",
        decision={True: Decision.ALLOW, False: Decision.DENY, None: Decision.UNKNOWN}[agrees],
        cause=Cause.NONE if agrees else Cause.UNKNOWN if agrees is None else _cause_of(reports, wrong),
        kernel=kernel,
        legs=(),
        directions=reports,
        next_step=_pod_next(pod, reports, agrees, kernel, wrong),
        unread=unread,
        agrees=agrees,
        policies=policies,
        notes=_notes(pod, world),
        dns=_dns(pod, world, plan.question.directions, kernel),
        api_only=api_only,
    )


def _carried(snapshot: Snapshot) -> Iterator[InProgress]:
    for reading in snapshot.nodes.values():
        if reading.document is not None:
            yield from carried(reading.document)


_API_ONLY_TAIL = " (--api-only: what the kernel holds is unknown)"


def _with_changes(found: Explanation, plan: Plan, world: World, hypothesis: Hypothesis) -> Explanation:
    """The answer as it would be: its verdict is that of the changed policies."""
    after = what_if(plan, world, hypothesis, found.legs, found.kernel, api_only=found.api_only)
    return replace(
        found,
        answer=after.answer,
        decision=after.decision,
        cause=after.cause,
        next_step=after.next_step,
        what_if=after,
    )


def compare_policies(pod: Json, world: World) -> tuple[Comparison, ...]:
    """The policies that select the pod against their PolicyEndpoints; nothing where not all was read."""
    kinds = ("pods", "namespaces", "services", "networkpolicies", "applicationnetworkpolicies")
    cluster = ("clusternetworkpolicies", "clusterpolicyendpoints")
    found: list[Json] = []
    if not world.unread(*kinds, "policyendpoints"):
        found += world.policies_selecting(pod)
    if not world.unread("pods", "namespaces", "services", *cluster):
        found += world.cluster_policies_selecting(pod)
    if world.snapshot.get("policyendpoints").absent:
        return ()
    return tuple(resolution.compare(policy, world) for policy in found)


OF_ENTRIES = ("MISSING", "EXTRA", "PORTS")
WHOLE = ("NO_ENDPOINT", "ISOLATION", "SAME_NAME", "RANK")
"""Drifts that concern every pod of the policy."""


def _wrong_policy(pod: Json, policies: tuple[Comparison, ...], *, entries: bool) -> str:
    """What of the PolicyEndpoints is wrong for this pod; empty where nothing is. ``entries``: no row tells of those."""
    for found in policies:
        for drift in found.drifts:
            mine = drift.code == "PODS_MISSING" and (namespace_of(pod), name_of(pod)) in drift.pods
            if drift.code in WHOLE or mine or (entries and drift.code in OF_ENTRIES):
                return f"{found.name}: {drift.text}"
    return ""


def _left_behind(pod: Json, world: World) -> str:
    """PolicyEndpoints that list the pod, of policies that do not select it (any more)."""
    kinds = ("networkpolicies", "applicationnetworkpolicies", "clusternetworkpolicies", "namespaces")
    if on_host_network(pod) or world.unread(*kinds):
        return ""
    selecting = (*world.policies_selecting(pod), *world.cluster_policies_selecting(pod))
    found = next(iter(deviations.left_behind(pod, selecting, world)), "")
    return f"PolicyEndpoints are left behind: {found}" if found else ""


def _notes(pod: Json, world: World) -> tuple[str, ...]:
    shared = "" if on_host_network(pod) else deviations.shared_identifier(pod, world)
    return (shared,) if shared else ()


def _dns(pod: Json, world: World, directions: tuple[Direction, ...], kernel: PodKernel | None) -> tuple[DnsAnswer, ...]:
    """Asked for pods whose egress a policy restricts: everything else can ask whom it wants."""
    if Direction.EGRESS not in directions or on_host_network(pod):
        return ()
    view = kernel.interfaces[0] if kernel is not None else None
    by_cluster = (
        True for policy in world.cluster_policies_selecting(pod) for _ in tiers.cluster_rules(policy, Direction.EGRESS)
    )
    restricted = (
        bool(endpoints.restricting(world, pod, Direction.EGRESS))
        or bool(networkpolicy.isolating(world, pod, Direction.EGRESS))
        or any(by_cluster)
    )
    return dns_answers(pod, world, view) if restricted else ()


def _all_agree(reports: tuple[DirectionReport, ...]) -> bool | None:
    if any(report.agrees is False for report in reports):
        return False
    return None if any(report.agrees is None for report in reports) else True


def _overall(legs: tuple[LegVerdict, ...]) -> tuple[Decision, Cause]:
    """Any leg that drops decides; then any that is unknown; a Service is denied when one of its pods is."""
    for decision in (Decision.DENY, Decision.UNKNOWN):
        found = [leg for leg in broken_first(legs) if leg.decision is decision]
        if found:
            return decision, found[0].cause
    differing = next((leg.cause for leg in broken_first(legs) if leg.cause is not Cause.NONE), Cause.NONE)
    return Decision.ALLOW, differing


def _flow_answer(plan: Plan, legs: tuple[LegVerdict, ...], decision: Decision, mode: str) -> str:
    flow = plan.legs[0].ends.flow
    between = f"{plan.source_text} -> {plan.destination_text} {flow.port_text}"
    word = {Decision.ALLOW: "ALLOW", Decision.DENY: "DROP"}.get(decision, "UNKNOWN")
    leg = next(leg for leg in legs if leg.decision is decision)
    place = f"at the {leg.direction} of {name_of(leg.pod)}"
    api = plan.question.api_only
    source, tail = (" by the API objects alone", " Nodes were not read (--api-only).") if api else ("", "")
    if api and decision is Decision.ALLOW and any(leg.by_mode for leg in legs):
        tail += mode
    if decision is Decision.DENY:
        behind = backends_text(legs)
        although = ", although the YAML allows it" if _intended(leg) is Decision.ALLOW else ""
        verb = "should be dropped" if api else "is dropped"
        return f"{word}{source}{although}: {between} {verb} {place}{behind}: {_why(leg, api)}.{tail}"
    if decision is Decision.UNKNOWN:
        return f"{word}{source}: {between} could not be decided {place}: {_why(leg, api)}.{_by_api(legs)}{tail}"
    reasons = "; ".join(f"{leg.direction} of {name_of(leg.pod)}: {_why(leg, api)}" for leg in legs)
    denied = any(_intended(leg) is Decision.DENY for leg in legs)
    although = ", although the YAML denies it" if denied else ""
    verb = "should pass" if api else "passes"
    return f"{word}{source}{although}: {between} {verb}: {reasons}.{tail}"


def _why(leg: LegVerdict, api: bool) -> str:
    """The reason in the words of the layer that decides; of the YAML where only the API was asked and it agrees."""
    intent = leg.verdict(Layer.INTENT)
    return intent.why if api and intent.decision is leg.decision else leg.decided_by.why


def _by_api(legs: tuple[LegVerdict, ...]) -> str:
    """What the API objects alone say of a flow whose node could not be read; empty where it was read."""
    if all(leg.kernel is not None or on_host_network(leg.pod) for leg in legs):
        return ""
    found = [leg.by_api for leg in legs]
    for decision, word in ((Decision.DENY, "dropped"), (Decision.UNKNOWN, "")):
        worst = next((verdict for verdict in found if verdict.decision is decision), None)
        if worst is not None and not word:
            return ""
        if worst is not None:
            leg = legs[found.index(worst)]
            return f" By the API objects alone it should be {word} at the {leg.direction} of {name_of(leg.pod)}."
    return " By the API objects alone it should pass."


def _intended(leg: LegVerdict) -> Decision:
    """What the YAML says; an established flow is no exception to it, nor is what is not filtered by design."""
    return leg.verdict(Layer.INTENT).decision


def backends_text(legs: tuple[LegVerdict, ...]) -> str:
    """How many pods behind a Service drop, where there are several."""
    behind = [leg for leg in legs if leg.direction is Direction.INGRESS]
    dropped = [leg for leg in behind if leg.decision is Decision.DENY]
    if len(behind) > 1 and dropped:
        return f" (and so at {len(dropped)} of {len(behind)} pods behind the Service)"
    return ""


def _cause_of(reports: tuple[DirectionReport, ...], wrong: str) -> Cause:
    rows = [row for report in reports for row in report.rows]
    resolution_ = (Status.NOT_RESOLVED, Status.STALE)
    if wrong or any(r.status in resolution_ or r.note == PORTS_RESOLVED_NOTE for r in rows):
        return Cause.RESOLUTION
    return Cause.KERNEL


def _pod_next(
    pod: Json, reports: tuple[DirectionReport, ...], agrees: bool | None, kernel: PodKernel | None, wrong: str
) -> str:
    where = f"-n {namespace_of(pod)}"
    if agrees is None:
        why = next((reason for report in reports if (reason := why_unknown(report))), "not all of it was read")
        if kernel is not None and kernel.interfaces[0].disputed:
            disputed = kernel.interfaces[0].disputed
            return f"{disputed}: compare `ip route get` and `ip link` on node {node_of(pod)}"
        if kernel is not None and kernel.via:
            return f"{why}: read node {node_of(pod)} with --via python"
        return f"find out why it could not be compared, and ask again: {why}"
    if agrees is False:
        cause = _cause_of(reports, wrong)
        if cause is Cause.RESOLUTION and "ClusterNetworkPolicy" in wrong:
            return "compare the resolved entries with the YAML: kubectl get clusterpolicyendpoints -o yaml"
        if cause is Cause.RESOLUTION:
            return f"compare the resolved entries with the YAML: kubectl {where} get policyendpoints -o yaml"
        return f"the node does not hold what was resolved: read the agent's log on node {node_of(pod)}: {AGENT_LOG}"
    return f"ask for one flow: kubectl netpol-ebpf explain {name_of(pod)} {where} --from POD --port PORT"
