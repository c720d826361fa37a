"""What changed policies would do: to the flow that was asked about, to the maps, and to the flows that live now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kubectl_netpol.diagnose import expected
from kubectl_netpol.diagnose.expected import ExpectedMaps, expected_maps
from kubectl_netpol.diagnose.flows import EstablishedFlow, FlowReport, flows_of
from kubectl_netpol.diagnose.layers import STRICT_MODE, Cause, LegVerdict, default_state, judge
from kubectl_netpol.diagnose.plan import Plan
from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel import verdict as kernel_verdict
from kubectl_netpol.kernel.verdict import slots_text
from kubectl_netpol.model.flow import Address, Direction, Flow, host_network
from kubectl_netpol.model.kernel import DirectionView, InterfaceView, LpmTable, PodKernel
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy.changes import Hypothesis
from kubectl_netpol.policy.world import World, name_of, namespace_of, ref

Json = dict[str, Any]


@dataclass(frozen=True)
class LegAfter:
    """One leg as it is, and as the API objects would have it after the change."""

    now: LegVerdict
    then: LegVerdict

    @property
    def released(self) -> bool:
        """Whether the last policy that concerns the pod goes: then the enforcing mode decides."""
        return self.then.by_mode and not self.now.by_mode


@dataclass(frozen=True)
class MapChange:
    """One entry that the agent would write, remove or rewrite."""

    direction: Direction
    map: str
    key: str
    """A prefix, or `key 0` of a pod state map."""
    before: str | None
    """Slots as they should be now; None: no such entry."""
    after: str | None


@dataclass(frozen=True)
class FlowAfter:
    """One established flow that the changed rules would deny."""

    flow: EstablishedFlow
    cut: bool | None
    """True: its next packet is dropped. False: it goes on until its conntrack entry ends. None: not known."""
    why: str


@dataclass(frozen=True)
class FlowsAfter:
    """The established flows of the pod under the changed rules."""

    total: int
    denied: tuple[FlowAfter, ...]
    undecided: int
    unread: tuple[str, ...]


@dataclass(frozen=True)
class WhatIf:
    """The answer for `-f` and `--without`."""

    changes: tuple[str, ...]
    answer: str
    decision: Decision
    cause: Cause
    next_step: str
    legs: tuple[LegAfter, ...]
    maps: tuple[MapChange, ...]
    flows: FlowsAfter | None
    """None: the kernel was not read."""


def what_if(
    plan: Plan,
    world: World,
    hypothesis: Hypothesis,
    now: tuple[LegVerdict, ...],
    kernel: PodKernel | None,
    *,
    api_only: bool,
) -> WhatIf:
    """Pure. ``now``: the legs as they are; ``kernel``: the asked pod's, None where it was not read."""
    then = [judge(leg, hypothesis.world, {}, api_only=True) for leg in plan.legs]
    legs = tuple(LegAfter(*pair) for pair in zip(now, then, strict=True))
    maps = tuple(_map_changes(plan, world, hypothesis.world))
    flows = _flows_after(plan, world, hypothesis.world, kernel) if kernel is not None and not api_only else None
    decision = _decision(legs, flows, api_only=api_only)
    return WhatIf(
        changes=hypothesis.texts,
        answer=_flow_answer(plan, legs, hypothesis) if legs else _pod_answer(plan, maps, flows, hypothesis),
        decision=decision,
        cause=next((leg.then.cause for leg in legs if leg.then.decision is decision), Cause.NONE),
        next_step=_next(plan, flows, api_only=api_only),
        legs=legs,
        maps=maps,
        flows=flows,
    )


def _decision(legs: tuple[LegAfter, ...], flows: FlowsAfter | None, *, api_only: bool) -> Decision:
    """Of a flow: its verdict after the change. Of a pod: whether flows that live now would be denied."""
    if legs:
        return _worst(leg.then.decision for leg in legs)
    if flows is None:
        return Decision.ALLOW if api_only else Decision.UNKNOWN
    if flows.denied:
        return Decision.DENY
    return Decision.UNKNOWN if flows.undecided or flows.unread else Decision.ALLOW


def _worst(decisions: Iterator[Decision]) -> Decision:
    found = set(decisions)
    return next((d for d in (Decision.DENY, Decision.UNKNOWN) if d in found), Decision.ALLOW)


WORDS = {Decision.ALLOW: "ALLOW", Decision.DENY: "DROP", Decision.UNKNOWN: "UNKNOWN", Decision.NONE: "-"}


def _flow_answer(plan: Plan, legs: tuple[LegAfter, ...], hypothesis: Hypothesis) -> str:
    after, before = (_worst(iter(d)) for d in ([leg.then.decision for leg in legs], [leg.now.decision for leg in legs]))
    flow = plan.legs[0].ends.flow
    between = f"{plan.source_text} -> {plan.destination_text} {flow.port_text}"
    leg = next(leg for leg in legs if leg.then.decision is after)
    place = f"at the {leg.then.direction} of {name_of(leg.then.pod)}"
    same = "still" if after is before else "then"
    verb = {
        Decision.ALLOW: f"would {same} pass",
        Decision.DENY: f"would {same} be dropped {place}",
    }.get(after, f"could not be decided {place}")
    intent = leg.then.verdict(Layer.INTENT)
    why = intent.why if intent.decision is after else leg.then.decided_by.why
    strict = f" {STRICT_MODE}" if after is Decision.ALLOW and any(one.released for one in legs) else ""
    what = changes_text(hypothesis.texts)
    return f"{WORDS[after]} with the change, {WORDS[before]} now ({what}): {between} {verb}: {why}.{strict}"


def changes_text(texts: tuple[str, ...]) -> str:
    """All of them where they are few; else how many."""
    return "; ".join(texts) if len(texts) <= 2 else f"{texts[0]} and {len(texts) - 1} more changes"


def _pod_answer(plan: Plan, maps: tuple[MapChange, ...], flows: FlowsAfter | None, hypothesis: Hypothesis) -> str:
    what = changes_text(hypothesis.texts)
    entries = f"{len(maps)} map entr{'y' if len(maps) == 1 else 'ies'} of {ref(plan.pod)} would change"
    return (
        f"With the change ({what}): {flows_text(plan.pod, flows)}; {entries if maps else 'no map entry would change'}."
    )


def flows_text(pod: Json, flows: FlowsAfter | None) -> str:
    """`3 of 127 established flows of nginx would be denied`."""
    if flows is None:
        return "which established flows it would cut is unknown: the kernel was not read"
    unread = " as far as could be read" if flows.unread else ""
    unsure = f" (of {flows.undecided} it is not known)" if flows.undecided else ""
    return f"{len(flows.denied)} of {flows.total} established flows of {name_of(pod)}{unread} would be denied{unsure}"


def _next(plan: Plan, flows: FlowsAfter | None, *, api_only: bool) -> str:
    where = f"{name_of(plan.pod)} -n {namespace_of(plan.pod)}"
    if api_only:
        return "nothing was changed; without --api-only the flows that live now are judged as well"
    if flows is None:
        return "nothing was changed; find out why the node could not be read to see which flows that live now are cut"
    goes_on = sum(one.cut is False for one in flows.denied)
    if goes_on:
        return (
            f"nothing was changed; {goes_on} of the denied flows would go on until their conntrack entries end: a "
            "change of rules alone does not end established flows; after it, "
            f"kubectl netpol-ebpf conntrack {where} lists them"
        )
    return "nothing was changed; kubectl diff and kubectl apply the files when this is what you want"


# ---- maps


def _map_changes(plan: Plan, before: World, after: World) -> Iterator[MapChange]:
    for direction in plan.question.directions:
        old, new = (expected_maps(plan.pod, direction, world) for world in (before, after))
        entries = _texts(new.table) if new.listed else _left_over(plan.pod, old, before)
        yield from _differ(direction, "pod_state", _states(old), _states(new))
        yield from _differ(direction, "np", _texts(old.table), entries)
        yield from _differ(direction, "cp", _texts(old.tier_table), _texts(new.tier_table))


def _texts(table: LpmTable) -> dict[str, str]:
    return {str(entry.prefix): slots_text(entry.slots) for entry in table.entries}


def _left_over(pod: Json, old: ExpectedMaps, world: World) -> dict[str, str]:
    """When the last policy goes, agents >= 1.3.0 leave the entry of the own node (agent facts 5.7)."""
    own = world.own_node_address(pod, old.family)
    node = str(host_network(own)) if own else ""
    return {prefix: text for prefix, text in _texts(old.table).items() if prefix == node}


def _states(maps: ExpectedMaps) -> dict[str, str]:
    mode = "as the enforcing mode has it"
    return {
        f"key {key} ({layouts.STATE_KEY_NAMES[key]})": mode if state is None else layouts.STATE_NAMES[state]
        for key, state in maps.states.items()
    }


def _differ(
    direction: Direction, role: str, before: Mapping[str, str], after: Mapping[str, str]
) -> Iterator[MapChange]:
    name = layouts.map_name(role, direction)
    for key in {**before, **after}:
        if before.get(key) != after.get(key):
            yield MapChange(direction, name, key, before.get(key), after.get(key))


# ---- flows that live now


def _flows_after(plan: Plan, before: World, after: World, kernel: PodKernel) -> FlowsAfter:
    report = flows_of(plan.pod, kernel, tuple(Direction), before)
    judge_ = {direction: _Rules(expected_maps(plan.pod, direction, after)) for direction in Direction}
    return _judged(report, kernel, judge_)


def _judged(report: FlowReport, kernel: PodKernel, rules: Mapping[Direction, _Rules]) -> FlowsAfter:
    denied: list[FlowAfter] = []
    undecided = total = 0
    interfaces = {one.ifindex: one for one in kernel.interfaces}
    for flow in report.flows:
        if flow.passes is False and flow.rules.decision is Decision.DENY:
            # Its next packet is dropped already: no change can cut it.
            continue
        total += 1
        interface = interfaces.get(flow.entry.ifindex, kernel.interfaces[0])
        found = rules[flow.direction].judged(flow, interface)
        if isinstance(found, FlowAfter):
            denied.append(found)
        undecided += found is None
    return FlowsAfter(total, tuple(denied), undecided, report.unread)


class _Rules:
    """The rules of one direction after the change."""

    def __init__(self, maps: ExpectedMaps) -> None:
        self.maps = maps
        self._known: dict[tuple[int | None, Address, int, int], Verdict] = {}

    def judged(self, flow: EstablishedFlow, interface: InterfaceView) -> FlowAfter | bool | None:
        """What becomes of one flow; True: still allowed, or denied before and after alike; None: not known."""
        view = interface.directions[flow.direction]
        entry, default = flow.entry, default_state(view)
        asked = Flow(entry.source, entry.destination, entry.protocol, entry.port)
        key = interface.ifindex, asked.peer(flow.direction), entry.protocol, entry.port
        if key not in self._known:
            self._known[key] = expected.verdict(self.maps, asked, view.maps, default)
        found = self._known[key]
        if found.decision is Decision.NONE:
            return True if default == layouts.DEFAULT_ALLOW else None
        if found.decision is not Decision.DENY:
            return True if found.decision is Decision.ALLOW else None
        cut = self._cut(flow, interface, view, default)
        if flow.rules.decision is Decision.DENY and cut is not True:
            # It lives on against the rules of now, and would against the changed ones.
            return True
        return FlowAfter(flow, cut, found.why)

    def _cut(self, flow: EstablishedFlow, interface: InterfaceView, view: DirectionView, default: int) -> bool | None:
        """Whether the program, with the maps and pod states after the change, drops its next packet."""
        if view.program is None or flow.table.conntrack is None:
            return None
        entry = flow.entry
        maps = expected.as_views(self.maps, view.maps, default=default)
        maps["conntrack"] = replace(flow.table, conntrack=(entry,), complete=True)
        packet = Flow(entry.source, entry.destination, entry.protocol, entry.port, entry.source_port)
        found = kernel_verdict.decide(Layer.CONNTRACK, flow.direction, packet, maps, (), interface.ifindex)
        return {Decision.DENY: True, Decision.ALLOW: False}.get(found.decision)
