"""What changed policies would do: to the flow that was asked about, to the maps, and to the flows that live now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kubectl_netpol.diagnose.dns import dns_answers
from kubectl_netpol.diagnose.expected import ExpectedMaps, expected_maps
from kubectl_netpol.diagnose.flows_after import FlowsAfter, flows_after, shapes
from kubectl_netpol.diagnose.layers import Cause, LegVerdict, judge, mode_note
from kubectl_netpol.diagnose.plan import Plan
from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel.verdict import slots_text
from kubectl_netpol.model.flow import Direction, host_network
from kubectl_netpol.model.kernel import DirectionView, LpmTable, PodKernel
from kubectl_netpol.model.verdict import Decision, Layer
from kubectl_netpol.policy import agent, endpoints
from kubectl_netpol.policy.changes import Hypothesis
from kubectl_netpol.policy.cni import cni_of
from kubectl_netpol.policy.nearmiss import DnsAnswer
from kubectl_netpol.policy.world import World, name_of, namespace_of, on_host_network, ref

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

    @property
    def behind(self) -> bool:
        """Whether the node does something else now than the API objects lead to: these do not tell then."""
        decided = (Decision.ALLOW, Decision.DENY)
        should, does = self.now.by_api.decision, self.now.decision
        return self.now.kernel is not None and should in decided and does in decided and should is not does

    @property
    def no_difference(self) -> bool:
        return self.then.by_api.decision is self.now.by_api.decision

    @property
    def decision(self) -> Decision:
        """What packets would meet."""
        if not self.behind:
            return self.then.decision
        return self.now.decision if self.no_difference else Decision.UNKNOWN


@dataclass(frozen=True)
class DirectionAfter:
    """How far one direction of the pod is open, in words: `open`, `restricted by a, b`, `closed by a`."""

    direction: Direction
    before: str
    after: str
    entries: int
    """Map entries of it that would change."""

    @property
    def text(self) -> str:
        if self.before != self.after:
            return f"{self.direction} would be {self.after} (now {self.before})"
        changed = f", with {self.entries} other map entr{'y' if self.entries == 1 else 'ies'}" if self.entries else ""
        return f"{self.direction} stays {self.after}{changed}"


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
class WhatIf:
    """The answer for `-f` and `--without`."""

    changes: tuple[str, ...]
    answer: str
    decision: Decision
    cause: Cause
    next_step: str
    legs: tuple[LegAfter, ...]
    directions: tuple[DirectionAfter, ...]
    maps: tuple[MapChange, ...]
    dns: tuple[DnsAnswer, ...]
    """Places that answer DNS, and that the pod could not ask any more."""
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
    then = [
        judge(leg, hypothesis.world, {}, api_only=True, like=_like(before))
        for leg, before in zip(plan.legs, now, strict=True)
    ]
    legs = tuple(LegAfter(*pair) for pair in zip(now, then, strict=True))
    unread = world.unread("policyendpoints", "clusterpolicyendpoints")
    asked = () if unread else plan.question.directions
    maps = tuple(one for d in asked for one in _map_changes(plan, d, world, hypothesis.world, kernel))
    directions = tuple(_direction_after(plan, d, world, hypothesis.world, maps) for d in asked)
    flows = None
    if kernel is not None and not api_only and not unread:
        flows = flows_after(plan.pod, kernel, plan.question.directions, world, hypothesis)
    decision = Decision.UNKNOWN if unread and not legs else _decision(legs, flows, api_only=api_only)
    if legs:
        answer = _flow_answer(plan, legs, hypothesis)
    elif unread:
        answer = f"UNKNOWN with the change ({changes_text(hypothesis.texts)}): not read: {unread}."
    else:
        answer = _pod_answer(plan, directions, flows, hypothesis)
    return WhatIf(
        changes=hypothesis.texts,
        answer=answer,
        decision=decision,
        cause=next((leg.then.cause for leg in legs if leg.decision is decision), Cause.NONE),
        next_step=_next(plan, legs, flows, hypothesis, api_only=api_only),
        legs=legs,
        directions=directions,
        maps=maps,
        dns=() if unread else _dns_lost(plan, world, hypothesis.world),
        flows=flows,
    )


def _like(now: LegVerdict) -> DirectionView | None:
    """What is known of the program and the enforcing mode, without the rules that its maps hold now."""
    if now.kernel is None:
        return None
    view = now.kernel.directions[now.direction]
    return replace(view, maps=shapes(view.maps), pinned_maps=shapes(view.pinned_maps))


def _dns_lost(plan: Plan, before: World, after: World) -> tuple[DnsAnswer, ...]:
    """What a policy that closes egress breaks first."""
    if Direction.EGRESS not in plan.question.directions or on_host_network(plan.pod):
        return ()
    asked = {one.address for one in dns_answers(plan.pod, before) if one.allowed}
    return tuple(one for one in dns_answers(plan.pod, after) if one.allowed is False and one.address in asked)


def _decision(legs: tuple[LegAfter, ...], flows: FlowsAfter | None, *, api_only: bool) -> Decision:
    """Of a flow: its verdict after the change. Of a pod: whether flows that live now would be denied."""
    if legs:
        return _worst(leg.decision for leg in legs)
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
    after, before = (_worst(iter(d)) for d in ([leg.decision for leg in legs], [leg.now.decision for leg in legs]))
    flow = plan.legs[0].ends.flow
    between = f"{plan.source_text} -> {plan.destination_text} {flow.port_text}"
    leg = next(leg for leg in legs if leg.decision is after)
    place = f"at the {leg.then.direction} of {name_of(leg.then.pod)}"
    head = f"{WORDS[after]} with the change, {WORDS[before]} now ({changes_text(hypothesis.texts)}): {between}"
    if leg.behind:
        return f"{head} {_behind_text(leg, place)}."
    same = "still" if after is before else "then"
    verb = {
        Decision.ALLOW: f"would {same} pass",
        Decision.DENY: f"would {same} be dropped {place}",
    }.get(after, f"could not be decided {place}")
    intent = leg.then.verdict(Layer.INTENT)
    why = intent.why if intent.decision is after else leg.then.decided_by.why
    released = after is Decision.ALLOW and any(one.released for one in legs)
    strict = mode_note(hypothesis.world) if released else ""
    return f"{head} {verb}: {why}.{strict}"


def _behind_text(leg: LegAfter, place: str) -> str:
    """The node does not do now what the API objects say: no change of these tells what it will do."""
    does, should = (VERBS[one] for one in (leg.now.decision, leg.now.by_api.decision))
    text = f"{does} {place} now, where by the API objects it {should}: the node does not do what was resolved"
    if leg.no_difference:
        return f"{text}, and the change makes no difference to that"
    return f"{text}. By the API objects alone it {VERBS[leg.then.by_api.decision]} with the change"


VERBS = {
    Decision.ALLOW: "passes",
    Decision.DENY: "is dropped",
    Decision.UNKNOWN: "is not decided",
    Decision.NONE: "is not decided",
}


def changes_text(texts: tuple[str, ...]) -> str:
    """All of them where they are few; else how many."""
    return "; ".join(texts) if len(texts) <= 2 else f"{texts[0]} and {len(texts) - 1} more changes"


def _pod_answer(
    plan: Plan, directions: tuple[DirectionAfter, ...], flows: FlowsAfter | None, hypothesis: Hypothesis
) -> str:
    what = "; ".join(one.text for one in directions)
    changes = changes_text(hypothesis.texts)
    return f"With the change ({changes}) of {ref(plan.pod)}: {what}; {flows_text(plan.pod, flows)}."


def flows_text(pod: Json, flows: FlowsAfter | None) -> str:
    """`3 of 127 established flows of nginx would be denied`."""
    if flows is None:
        return "which established flows it would cut is unknown: the kernel was not read"
    if not flows.total and not flows.unread:
        return f"{name_of(pod)} has no established flows"
    unread = " as far as could be read" if flows.unread else ""
    unsure = f" (of {flows.undecided} it is not known)" if flows.undecided else ""
    return f"{len(flows.denied)} of {flows.total} established flows of {name_of(pod)}{unread} would be denied{unsure}"


def _next(
    plan: Plan, legs: tuple[LegAfter, ...], flows: FlowsAfter | None, hypothesis: Hypothesis, *, api_only: bool
) -> str:
    where = f"{name_of(plan.pod)} -n {namespace_of(plan.pod)}"
    behind = next((leg for leg in legs if leg.behind), None)
    if behind is not None:
        asked = f"--from or --to and --port as asked, without -f: kubectl netpol-ebpf explain {where}"
        return f"find out first why the node does not do what was resolved ({asked})"
    denied = next((leg.then for leg in legs if leg.decision is Decision.DENY and leg.then.near), None)
    if denied is not None:
        return f"nothing was changed; with the change the YAML does not allow the flow: {denied.near[0].text}"
    if flows is not None and flows.denied:
        return f"nothing was changed; {_flows_next(flows, where)}; to do it: {hypothesis.command}"
    if api_only:
        more = "without --api-only the flows that live now are judged too"
        return f"nothing was changed; {more}; to do it: {hypothesis.command}"
    if flows is None:
        return "nothing was changed; find out why the node could not be read to see which flows that live now are cut"
    return f"nothing was changed; to do it: {hypothesis.command}"


def _flows_next(flows: FlowsAfter, where: str) -> str:
    cut = sum(one.cut is True for one in flows.denied)
    goes_on = sum(one.cut is False for one in flows.denied)
    parts = []
    if cut:
        parts.append(f"{cut} of the denied flows would be cut at once, with the next packet")
    if goes_on:
        of = "them" if cut else "the denied flows"
        parts.append(
            f"{goes_on} of {of} would go on until the conntrack entry ends: a change of rules alone does not end "
            f"established flows; after it, kubectl netpol-ebpf conntrack {where} lists them"
        )
    return "; ".join(parts) or "when the denied flows end is not known"


# ---- how far a direction is open


def _direction_after(
    plan: Plan, direction: Direction, before: World, after: World, maps: tuple[MapChange, ...]
) -> DirectionAfter:
    entries = sum(one.direction is direction and not one.map.endswith("pod_state_map") for one in maps)
    was, becomes = (openness(plan.pod, direction, world) for world in (before, after))
    return DirectionAfter(direction, was, becomes, entries)


def openness(pod: Json, direction: Direction, world: World) -> str:
    """`open`, `closed by deny-all (all but the own node)` or `restricted by a, b`: by the maps that it should have."""
    maps = expected_maps(pod, direction, world)
    origins = {one.origin for one in maps.rules.values()}
    cluster = endpoints.cluster_of_identifier(world, pod)
    names = [endpoints.policy_of(one) for one in cluster if (one.get("spec") or {}).get(direction.value)]
    by = ", ".join(dict.fromkeys([*names, *endpoints.restricting(world, pod, direction)]))
    if maps.tiers:
        return f"restricted by {by}"
    if agent.CATCH_ALL in origins:
        return "open"
    if not origins:
        return BY_MODE[cni_of(world).mode]
    if origins <= {agent.NODE, agent.EXCEPT}:
        return f"closed by {by} (all but the own node)"
    return f"restricted by {by}"


BY_MODE = {
    "": "left to the enforcing mode (open in standard mode, closed in strict mode)",
    "standard": "open (standard enforcing mode)",
    "strict": "closed by the strict enforcing mode",
}
"""What becomes of a pod that no policy concerns, by the enforcing mode; empty: not known which it is."""


# ---- maps


def _map_changes(
    plan: Plan, direction: Direction, before: World, after: World, kernel: PodKernel | None
) -> Iterator[MapChange]:
    old, new = (expected_maps(plan.pod, direction, world) for world in (before, after))
    ruled = new.states.get(0) is not None
    entries = _texts(new.table) if ruled else _left_over(plan.pod, old, before)
    roles = _roles(kernel, direction)
    if "pod_state" in roles:
        yield from _differ(direction, "pod_state", _states(old), _states(new))
    yield from _differ(direction, "np", _texts(old.table), entries)
    if "cp" in roles:
        yield from _differ(direction, "cp", _texts(old.tier_table), _texts(new.tier_table))


def _roles(kernel: PodKernel | None, direction: Direction) -> set[str]:
    """The maps that the agent has for the pod; all that the newest has where its program was not read."""
    view = kernel.directions[direction] if kernel is not None else None
    known = view is not None and view.program is not None and bool(view.agents)
    return set(view.maps) if view is not None and known else {"np", "cp", "pod_state"}


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
