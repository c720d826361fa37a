"""The answer of `explain`: the verdict of a flow, or both directions of a pod with their layers aligned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubectl_netpol.diagnose import asking
from kubectl_netpol.diagnose.alignment import PORTS_RESOLVED_NOTE, Alignment, Held, Status, align
from kubectl_netpol.diagnose.layers import (
    BY_DESIGN,
    OPEN_TO_THE_PROGRAM,
    Cause,
    LegVerdict,
    judge,
    node_views,
    pod_kernel,
    with_answer,
)
from kubectl_netpol.diagnose.plan import Plan
from kubectl_netpol.kernel.generation import Generation, generation_of
from kubectl_netpol.kernel.layouts import DEFAULT_ALLOW, DEFAULT_DENY, POLICIES_APPLIED, PROTOCOL_ANY, STATE_NAMES
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import DirectionView, PodKernel
from kubectl_netpol.model.snapshot import Snapshot
from kubectl_netpol.model.verdict import Decision, Layer
from kubectl_netpol.policy import networkpolicy
from kubectl_netpol.policy.nodes import AGENT_LOG
from kubectl_netpol.policy.world import World, name_of, namespace_of, node_of, on_host_network, ref

Json = dict[str, Any]


@dataclass(frozen=True)
class DirectionReport:
    """One direction of the pod: its kernel view and the aligned rows."""

    direction: Direction
    view: DirectionView | None
    alignment: Alignment
    summary: str
    agrees: bool | None
    """Every row is fine; None: something could not be read."""


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


def explain(plan: Plan, snapshot: Snapshot) -> Explanation:
    """Pure: the same snapshot gives the same explanation."""
    world = World(snapshot)
    views = node_views(snapshot)
    kernel = pod_kernel(plan.pod, views)
    unread = tuple(f"{n}: {reading.reason}" for n, reading in snapshot.nodes.items() if reading.reason)
    if plan.legs:
        legs = tuple(judge(leg, world, views) for leg in plan.legs)
        if plan.question.ask_kernel:
            answers = snapshot.nodes
            legs = tuple(with_answer(leg, asking.verdict_of(leg.leg, leg.kernel, answers)) for leg in legs)
        decision, cause = _overall(legs)
        return Explanation(
            pod=plan.pod,
            answer=_flow_answer(plan, legs, decision),
            decision=decision,
            cause=cause,
            kernel=kernel,
            legs=legs,
            directions=(),
            next_step=_flow_next(legs, decision, cause, world),
            source_text=plan.source_text,
            destination_text=plan.destination_text,
            unread=unread,
        )
    reports = tuple(_direction(plan.pod, d, world, kernel) for d in plan.question.directions)
    agrees = _all_agree(reports)
    return Explanation(
        pod=plan.pod,
        answer=_pod_answer(plan.pod, reports),
        decision={True: Decision.ALLOW, False: Decision.DENY, None: Decision.UNKNOWN}[agrees],
        cause=Cause.NONE if agrees else Cause.UNKNOWN if agrees is None else _cause_of(reports),
        kernel=kernel,
        legs=(),
        directions=reports,
        next_step=_pod_next(plan.pod, reports, agrees, kernel),
        unread=unread,
    )


def _all_agree(reports: tuple[DirectionReport, ...]) -> bool | None:
    if any(report.agrees is False for report in reports):
        return False
    return None if any(report.agrees is None for report in reports) else True


def _overall(legs: tuple[LegVerdict, ...]) -> tuple[Decision, Cause]:
    """Any leg that drops decides; then any that is unknown; a Service is denied when one of its pods is."""
    for decision in (Decision.DENY, Decision.UNKNOWN):
        found = [leg for leg in legs if leg.decision is decision]
        if found:
            return decision, found[0].cause
    differing = next((leg.cause for leg in legs if leg.cause is not Cause.NONE), Cause.NONE)
    return Decision.ALLOW, differing


def _flow_answer(plan: Plan, legs: tuple[LegVerdict, ...], decision: Decision) -> str:
    flow = plan.legs[0].ends.flow
    between = f"{plan.source_text} -> {plan.destination_text} {flow.port_text}"
    word = {Decision.ALLOW: "ALLOW", Decision.DENY: "DROP"}.get(decision, "UNKNOWN")
    leg = next(leg for leg in legs if leg.decision is decision)
    place = f"at the {leg.direction} of {name_of(leg.pod)}"
    if decision is Decision.DENY:
        behind = _backends(legs)
        although = ", although the YAML allows it" if _intended(leg) is Decision.ALLOW else ""
        return f"{word}{although}: {between} is dropped {place}{behind}: {leg.decided_by.why}."
    if decision is Decision.UNKNOWN:
        return f"{word}: {between} could not be decided {place}: {leg.decided_by.why}."
    reasons = "; ".join(f"{leg.direction} of {name_of(leg.pod)}: {leg.decided_by.why}" for leg in legs)
    denied = any(_intended(leg) is Decision.DENY for leg in legs)
    although = ", although the YAML denies it" if denied else ""
    return f"{word}{although}: {between} passes: {reasons}."


def _intended(leg: LegVerdict) -> Decision:
    """What the YAML says; an established flow is no exception to it, nor is what is not filtered by design."""
    return next(v.decision for v in leg.verdicts if v.layer is Layer.INTENT)


def _backends(legs: tuple[LegVerdict, ...]) -> str:
    behind = [leg for leg in legs if leg.direction is Direction.INGRESS]
    dropped = [leg for leg in behind if leg.decision is Decision.DENY]
    if len(behind) > 1 and dropped:
        return f" (and so at {len(dropped)} of {len(behind)} pods behind the Service)"
    return ""


def _flow_next(legs: tuple[LegVerdict, ...], decision: Decision, cause: Cause, world: World) -> str:
    leg = next((leg for leg in legs if leg.decision is decision and leg.cause is cause), legs[0])
    namespace, pod = namespace_of(leg.pod), name_of(leg.pod)
    if decision is Decision.UNKNOWN:
        return _unknown_next(leg)
    if leg.asked is not None and leg.asked.code == "DIFFERS":
        return (
            "the program decides otherwise than its maps say, as far as this version knows it: please report it with "
            f"kubectl netpol-ebpf capture {pod} -n {namespace} -f bundle.tar.gz"
        )
    if leg.decided_by.code in BY_DESIGN:
        return f"nothing is broken: {leg.decided_by.why}, whatever the policies say"
    only = next((one for one in legs if one.only_established), None)
    if decision is Decision.ALLOW and only is not None:
        return (
            f"the flow passes because it is established; {only.only_established}; "
            f"kubectl netpol-ebpf conntrack {name_of(only.pod)} -n {namespace_of(only.pod)} lists all such flows"
        )
    if cause is Cause.SELECTOR:
        miss = next((e for v in leg.verdicts if v.layer is Layer.INTENT for e in v.evidence), "")
        change = f" ({miss})" if miss else ""
        return (
            f"nothing is broken: the YAML does not allow this flow{change}. "
            "To allow it, change the labels or the rule: "
            f"kubectl -n {namespace} edit networkpolicy {_policy_of(leg, world)}"
        )
    if cause is Cause.RESOLUTION:
        return (
            "the controller resolved something else than the YAML says: "
            f"kubectl -n {namespace} get policyendpoints -o yaml"
        )
    if leg.decided_by.code == "DEFAULT_DENY" and cause is Cause.UNKNOWN:
        return (
            "in strict mode this is right, and the pod needs a policy that allows the flow; in standard mode the agent "
            "left it behind: kubectl -n kube-system get ds aws-node -o yaml | grep -A1 NETWORK_POLICY_ENFORCING_MODE"
        )
    if cause is Cause.KERNEL:
        return (
            "the node does not enforce what was resolved: compare the maps with "
            f"kubectl netpol-ebpf maps {pod} -n {namespace} --direction {leg.direction}, "
            f"then read the agent's log on node {node_of(leg.pod)}: {AGENT_LOG}"
        )
    if decision is Decision.DENY:
        return (
            "no policy that was read says so: see which layers are UNKNOWN above, then compare with "
            f"kubectl netpol-ebpf maps {pod} -n {namespace} --direction {leg.direction}"
        )
    return "policy does not stop this flow: if it still fails, look at the application, DNS, routes and security groups"


def _unknown_next(leg: LegVerdict) -> str:
    """What would turn UNKNOWN into an answer."""
    code, node = leg.decided_by.code, node_of(leg.pod)
    if leg.kernel is not None and leg.kernel.via:
        return f"--via {leg.kernel.via} cannot see all that decides here: read node {node} with --via python"
    if code in OPEN_TO_THE_PROGRAM and leg.asked is None:
        return "let the loaded program itself decide: ask again with --ask-kernel (its help says what that writes)"
    if code in ("FOREIGN_FIRST", "FOREIGN_ONLY"):
        return (
            "find out whose program that is and what it returns: in a debug pod on the node, `bpftool prog show id ID` "
            f"and `tc filter show dev {leg.kernel.veth if leg.kernel else 'VETH'} {leg.direction.tc_hook}`"
        )
    return f"find out why node {node} could not be read, and ask again: {leg.decided_by.why}"


def _policy_of(leg: LegVerdict, world: World) -> str:
    """The first isolating policy, to have a command that can be pasted."""
    return min((name_of(p) for p in networkpolicy.isolating(world, leg.pod, leg.direction)), default="NAME")


def _direction(pod: Json, direction: Direction, world: World, kernel: PodKernel | None) -> DirectionReport:
    view = kernel.directions[direction] if kernel else None
    rules = view.maps.get("np") if view else None
    table = rules.lpm if rules else None
    states = view.maps.get("pod_state") if view else None
    # Programs of 1.2.x do not look at the map in DEFAULT_ALLOW. With a cp map a matching entry decides in
    # DEFAULT_ALLOW too: none may be left over.
    waits = bool(states and states.states and states.states.get(0) == DEFAULT_ALLOW)
    idle = waits and bool(view and "cp" not in view.maps)
    held = Held(
        table,
        complete=bool(rules and rules.complete and not rules.first_slot_only),
        idle=idle,
        attached=not _nothing_attached(view),
        slots=_slots_looked_at(view),
        exact=_writes_as_modelled(view),
        unread=(view.reason if view else "") or (rules.reason if rules else ""),
    )
    alignment = align(pod, direction, world, held)
    agrees = _agrees(pod, view, alignment, pins_unread=bool(kernel and kernel.pins_unread))
    disputed = kernel.interfaces[0].disputed if kernel else ""
    if disputed:
        return DirectionReport(direction, view, alignment, f"{_what(direction, alignment)}; {disputed}", None)
    further = _further(kernel, direction) if kernel and agrees else ""
    if further:
        return DirectionReport(direction, view, alignment, f"{_what(direction, alignment)}, but {further}", False)
    return DirectionReport(direction, view, alignment, _summary(pod, direction, view, alignment, agrees), agrees)


def _further(kernel: PodKernel, direction: Direction) -> str:
    """What is wrong with a further interface of a multi-NIC pod whose own interface is as it should be."""
    if kernel.directions[direction].filter is None:
        return ""
    for one in kernel.interfaces[1:]:
        view = one.directions[direction]
        wrong = next((found for found in view.differences if found.code in (*WRONG_ATTACHMENT, *OPEN_HOOK)), None)
        if wrong is not None:
            return f"its interface {one.index} is not like that: {wrong.text}"
    return ""


def _nothing_attached(view: DirectionView | None) -> bool:
    """Known to be without any program on the hook, of whomever."""
    if view is None or view.reason or view.clsact is None:
        return False
    return view.filter is None and not view.foreign


def _slots_looked_at(view: DirectionView | None) -> int | None:
    """How many slots of an entry the program looks at, where that is known."""
    found = generation_of(view.maps, view.other_maps) if view else ""
    return found.slots_scanned if isinstance(found, Generation) else None


def _writes_as_modelled(view: DirectionView | None) -> bool:
    """Whether the agent that loaded the program surely fills its maps by the rules of >= 1.2.4."""
    found = generation_of(view.maps, view.other_maps) if view else ""
    return not isinstance(found, Generation) or found.any_checks_ports is True


def _agrees(pod: Json, view: DirectionView | None, alignment: Alignment, *, pins_unread: bool) -> bool | None:
    if any(not row.status.good and row.status is not Status.UNKNOWN for row in alignment.rows):
        return False
    if on_host_network(pod):
        return True
    if view is None or view.reason or alignment.reason:
        return None
    if view.filter is None:
        if view.foreign or view.clsact is None:
            return None
        # No filter is right for a pod that no policy selects, and wrong for one that is isolated.
        return not alignment.policies
    if any(row.status is Status.UNKNOWN for row in alignment.rows):
        return None
    if any(found.code in WRONG_ATTACHMENT for found in view.differences):
        return False
    if not view.agents:
        return None
    agrees = _states_agree(view, alignment)
    if agrees is not True:
        return agrees
    return None if pins_unread or _incomplete(view) else True


WRONG_ATTACHMENT = (
    "OTHER_DIRECTION",
    "OTHER_PROGRAM",
    "OTHER_MAP",
    "UNPINNED_MAP",
    "PIN_OF_ANOTHER",
    "NO_PROGRAM_PIN",
    "NO_MAPS",
)
"""Differences through which what the agent writes is not what packets meet."""
OPEN_HOOK = ("NO_CLSACT", "NO_FILTER", "NEVER_RUNS", "NOT_DIRECT_ACTION")
"""Differences through which nothing of the agent's meets packets."""


def _states_agree(view: DirectionView, alignment: Alignment) -> bool | None:
    """Whether the pod states are those of a pod with (or without) policies; agents < 1.2.0 have none."""
    view_of = view.maps.get("pod_state")
    if view_of is None:
        return True if alignment.policies else _lets_all_through(view)
    states = view_of.states
    if states is None or not view_of.complete:
        return None
    if 0 not in states or ("cp" in view.maps and 1 not in states):
        return False
    if alignment.policies:
        return states[0] == POLICIES_APPLIED
    if states[0] == DEFAULT_DENY:
        # Right in strict mode, wrong in standard mode: which one it is was not read.
        return None
    return states[0] == DEFAULT_ALLOW or (states[0] == POLICIES_APPLIED and _lets_all_through(view))


def _incomplete(view: DirectionView) -> str:
    """What keeps the rows from being the whole truth; empty where nothing does."""
    rules, cluster = view.maps.get("np"), view.maps.get("cp")
    if rules is None or not rules.complete:
        return "its rule map was not read to the end"
    if cluster is not None and (cluster.lpm is None or not cluster.complete):
        return "its cluster policy map could not be read"
    if cluster is not None and cluster.lpm is not None and cluster.lpm.entries:
        return "cluster policies decide first, and this release does not compare them with their objects"
    if view.filter is not None and not view.filter.direct_action:
        return "its filter does not decide by itself (no direct-action)"
    if view.in_front:
        return f"{' and '.join(view.in_front)} runs first and may decide"
    return ""


def _lets_all_through(view: DirectionView) -> bool | None:
    """Whether the catch-all is there, without which POLICIES_APPLIED drops whoever is not listed."""
    rules = view.maps.get("np")
    if rules is None or rules.lpm is None:
        return None
    return any(entry.prefix.prefixlen == 0 and (PROTOCOL_ANY, 0, 0) in entry.slots for entry in rules.lpm.entries)


def _what(direction: Direction, alignment: Alignment) -> str:
    names = ", ".join(alignment.policies)
    return f"{direction} is restricted by {names}" if names else f"{direction} is not restricted by any NetworkPolicy"


def _summary(
    pod: Json, direction: Direction, view: DirectionView | None, alignment: Alignment, agrees: bool | None
) -> str:
    if on_host_network(pod):
        return f"{direction} is not filtered: the pod is on the host network"
    what = _what(direction, alignment)
    if view is None:
        return f"{what}; the kernel was not read"
    if view.reason:
        return f"{what}; the kernel was not read: {view.reason}"
    if agrees:
        seen = ", as far as tc shows (what runs before tc filters was not read)" if view.tcx_unread else ""
        return f"{what}, and the kernel agrees{seen}"
    if alignment.reason:
        return f"{what}, as far as the API could be read: not read: {alignment.reason}"
    if view.filter is None and view.foreign:
        return f"{what}, but no {direction.program_name} filter is attached, and what others do there is not known"
    if view.filter is None:
        replies = "" if alignment.policies else ", and replies to what passes here are not known as replies"
        return f"{what}, but no {direction.program_name} filter is attached: nothing is filtered{replies}"
    problem = _problem(view, alignment)
    return f"{what}, {problem}"


STRICT = (
    "and the pod state is DEFAULT_DENY: right where NETWORK_POLICY_ENFORCING_MODE is strict, and wrong in standard "
    "mode; which one it is was not read"
)


def _problem(view: DirectionView, alignment: Alignment) -> str:
    wrong = next((found for found in view.differences if found.code in WRONG_ATTACHMENT), None)
    if wrong is not None:
        return f"but {wrong.text}"
    if not view.agents:
        return f"and what its program {view.program.id if view.program else ''} does is not known: " + (
            view.generation_reason
        )
    view_of = view.maps.get("pod_state")
    if view_of is not None and view_of.states is None:
        return "and its pod state could not be read"
    states = (view_of.states if view_of else None) or {}
    missing = [key for key in ((0, 1) if "cp" in view.maps else (0,)) if key not in states]
    if view_of is not None and missing:
        return f"but the pod state is missing (key {missing[0]}): the program drops every packet"
    bad = [row for row in alignment.rows if not row.status.good and row.status is not Status.UNKNOWN]
    if any(row.status is Status.UNKNOWN for row in alignment.rows) and not bad:
        return "and its map could not be compared: see STATUS"
    if bad:
        return f"but {len(bad)} of {len(alignment.rows)} entries differ: see STATUS"
    if not alignment.policies and states.get(0) == DEFAULT_DENY:
        return STRICT
    incomplete = _incomplete(view)
    if incomplete and _states_agree(view, alignment):
        return f"and the kernel could not be compared: {incomplete}"
    if view_of is None:
        return "but no entry of the map lets everybody through"
    text = f"but the pod state is {STATE_NAMES.get(states[0], states[0])}"
    if not alignment.policies and states[0] == POLICIES_APPLIED:
        text += ", and no entry of the map lets everybody through"
    return text


def _pod_answer(pod: Json, reports: tuple[DirectionReport, ...]) -> str:
    sentences = "; ".join(report.summary for report in reports)
    return f"{ref(pod)} on node {node_of(pod)}: {sentences}."


def _cause_of(reports: tuple[DirectionReport, ...]) -> Cause:
    rows = [row for report in reports for row in report.alignment.rows]
    if any(r.status in (Status.NOT_RESOLVED, Status.STALE) or r.note == PORTS_RESOLVED_NOTE for r in rows):
        return Cause.RESOLUTION
    return Cause.KERNEL


def _why_unknown(report: DirectionReport) -> str:
    """The first thing that kept a direction from being compared; empty where nothing did."""
    view = report.view
    if report.agrees is not None:
        return ""
    if view is None:
        return "the kernel was not read"
    states = view.maps.get("pod_state")
    unread = f"the pod state could not be read: {states.reason}" if states and states.states is None else ""
    if states and states.states and states.states.get(0) == DEFAULT_DENY:
        unread = STRICT.removeprefix("and ")
    return view.reason or report.alignment.reason or view.generation_reason or unread or _incomplete(view)


def _pod_next(pod: Json, reports: tuple[DirectionReport, ...], agrees: bool | None, kernel: PodKernel | None) -> str:
    where = f"-n {namespace_of(pod)}"
    if agrees is None:
        why = next((reason for report in reports if (reason := _why_unknown(report))), "not all of it was read")
        if kernel is not None and kernel.interfaces[0].disputed:
            disputed = kernel.interfaces[0].disputed
            return f"{disputed}: compare `ip route get` and `ip link` on node {node_of(pod)}"
        if kernel is not None and kernel.via:
            return f"{why}: read node {node_of(pod)} with --via python"
        return f"find out why it could not be compared, and ask again: {why}"
    if agrees is False:
        cause = _cause_of(reports)
        if cause is Cause.RESOLUTION:
            return f"compare the resolved entries with the YAML: kubectl {where} get policyendpoints -o yaml"
        return f"the node does not hold what was resolved: read the agent's log on node {node_of(pod)}: {AGENT_LOG}"
    return f"ask for one flow: kubectl netpol-ebpf explain {name_of(pod)} {where} --from POD --port PORT"
