"""The layers' verdicts of one leg, the first place where two neighbours disagree, and why they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any

from kubectl_netpol.diagnose import attached as attached_layer
from kubectl_netpol.diagnose import deviations, expected
from kubectl_netpol.diagnose import established as conntrack_layer
from kubectl_netpol.diagnose.attached import NOT_THE_PROGRAM
from kubectl_netpol.diagnose.deviations import Deviation
from kubectl_netpol.diagnose.plan import Leg
from kubectl_netpol.kernel import inventory, layouts
from kubectl_netpol.kernel import verdict as kernel_verdict
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.model.flow import Direction, Flow
from kubectl_netpol.model.kernel import Difference, DirectionView, PodKernel
from kubectl_netpol.model.snapshot import Snapshot
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy import endpoints, tiers
from kubectl_netpol.policy.cni import cni_of
from kubectl_netpol.policy.nearmiss import NearMiss, near_misses
from kubectl_netpol.policy.world import World, finished, name_of, namespace_of, node_of, on_host_network, pod_ips, ref

Json = dict[str, Any]


class Cause(StrEnum):
    """The article's three causes, and the two answers that need none."""

    NONE = "none"
    SELECTOR = "selector"
    """The YAML itself says so: a selector or rule means something else than its author meant."""
    RESOLUTION = "resolution"
    """INTENT and ENDPOINTS differ: the controller resolved something else."""
    KERNEL = "kernel"
    """ENDPOINTS, PINNED and ATTACHED differ: the node does not enforce what was resolved."""
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class LegVerdict:
    """All layers of one leg. ``decision`` is what packets meet; the kernel's word counts, not the YAML's."""

    leg: Leg
    kernel: PodKernel | None
    verdicts: tuple[Verdict, ...]
    decision: Decision
    decided_by: Verdict
    cause: Cause
    break_between: tuple[Layer, Layer] | None = None
    asked: Verdict | None = None
    """`--ask-kernel`: what the attached program itself said."""
    deviations: tuple[Deviation, ...] = ()
    """Rules of the controller and agent through which layers differ, on every cluster: no fault of this one."""
    near: tuple[NearMiss, ...] = ()
    """What would have to be otherwise for the YAML to allow it, the best guess first."""

    @property
    def by_rule(self) -> tuple[Deviation, ...]:
        """The rules of EKS that explain the difference; empty where something is broken, late or unknown."""
        return explained_by(self.break_between, self.deviations) if self.break_between else ()

    def verdict(self, layer: Layer) -> Verdict:
        """What one layer says."""
        return next(v for v in self.verdicts if v.layer is layer)

    @property
    def by_api(self) -> Verdict:
        """What the API objects alone lead to: the maps that the agent should write, or where it has none to
        write the PolicyEndpoints."""
        found = self.verdict(Layer.EXPECTED)
        return self.verdict(Layer.ENDPOINTS) if found.decision is Decision.NONE else found

    @property
    def by_mode(self) -> bool:
        """Whether no policy concerns the pod, so that the enforcing mode decides."""
        return self.verdict(Layer.EXPECTED).code in ("NOT_LISTED", "DEFAULT_ALLOW", "DEFAULT_DENY")

    @property
    def only_established(self) -> str:
        """What would become of a new flow, where this one passes because it is established; else empty."""
        attached = self.verdict(Layer.ATTACHED)
        if self.decided_by.layer is not Layer.CONNTRACK or self.decision is not Decision.ALLOW:
            return ""
        return {
            Decision.DENY: "a new one would be dropped",
            Decision.UNKNOWN: "whether a new one would pass is not known",
        }.get(attached.decision, "")

    @property
    def pod(self) -> Json:
        return self.leg.pod

    @property
    def direction(self) -> Direction:
        return self.leg.ends.direction


def node_views(snapshot: Snapshot) -> dict[str, NodeView]:
    """A view for each node that was read."""
    return {
        name: NodeView(reading.document) for name, reading in snapshot.nodes.items() if reading.document is not None
    }


def pod_kernel(pod: Json, views: Mapping[str, NodeView]) -> PodKernel | None:
    view = views.get(node_of(pod))
    if view is None or on_host_network(pod):
        return None
    return view.pod(namespace_of(pod), name_of(pod), [str(address) for address in pod_ips(pod)])


def node_differences(node: str, world: World, view: NodeView) -> tuple[Difference, ...]:
    """What is odd about the node as a whole, compared with the pods that run there."""
    pods = [
        (namespace_of(pod), name_of(pod))
        for pod in world.pods_on.get(node, ())
        if not on_host_network(pod) and not finished(pod)
    ]
    return inventory.of_node(view, pods, pods_known=world.snapshot.get("pods").known)


BY_DESIGN = ("ICMPV6", "OTHER_FAMILY")
"""Codes of what the datapath never filters, whatever the policies say."""
API_ONLY = "--api-only: nodes were not read"
"""Why the kernel's layers are unknown where nobody wanted to know them."""
STRICT_MODE = "In strict enforcing mode a pod that no policy concerns is closed; which mode it is was not read."


def mode_note(world: World) -> str:
    """A sentence for an answer by the API alone about a pod that no policy concerns; empty where the mode is known."""
    return "" if cni_of(world).mode else f" {STRICT_MODE}"


ORDER = (Layer.INTENT, Layer.ENDPOINTS, Layer.EXPECTED, Layer.PINNED, Layer.ATTACHED, Layer.CONNTRACK)
"""The layers as they follow from each other."""


def api_verdicts(
    leg: Leg, world: World, view: DirectionView | None = None
) -> tuple[tuple[Verdict, Verdict, Verdict], tuple[Deviation, ...]]:
    """INTENT, ENDPOINTS and EXPECTED of a leg, and the rules by which they differ.

    ``view``: the kernel's side of the direction, whose generation the expected maps are of.
    """
    intent, resolved, found = resolution_verdicts(leg, world)
    should = _expected(leg, world, view)
    if should.decision is not Decision.NONE:
        maps = expected.expected_maps(leg.pod, leg.ends.direction, world)
        found += deviations.of_agent(leg.ends, resolved, should, maps, world)
    return (intent, resolved, should), tuple(found)


def resolution_verdicts(leg: Leg, world: World) -> tuple[Verdict, Verdict, list[Deviation]]:
    """INTENT and ENDPOINTS of a leg, and the rules of the controller by which they differ."""
    intent = _intent(leg, world)
    resolved = endpoints.evaluate(leg.ends, world)
    return intent, resolved, deviations.of_resolution(leg.ends, leg.backends, intent, resolved, world)


def judge(
    leg: Leg,
    world: World,
    views: Mapping[str, NodeView],
    *,
    api_only: bool = False,
    like: DirectionView | None = None,
) -> LegVerdict:
    """Evaluate the leg once per layer and compare neighbours.

    ``api_only``: the kernel is not asked for. ``like``: then what is known of the program whose maps would be written,
    its generation and the state of the enforcing mode.
    """
    kernel = None if api_only else pod_kernel(leg.pod, views)
    reason = API_ONLY if api_only else _unread_reason(leg.pod, world.snapshot)
    api, found = api_verdicts(leg, world, kernel.directions[leg.ends.direction] if kernel else like)
    intent, resolved, _ = api
    pinned = _pinned(leg, kernel, reason)
    attached = _attached(leg, kernel, reason)
    established = conntrack_layer.verdict(leg, kernel, reason, attached)
    verdicts = (*api, pinned, attached, established)
    cause, between = _compare((*api, pinned, attached), found)
    if attached.code == "DEFAULT_DENY" and resolved.decision is Decision.ALLOW and not cni_of(world).mode:
        # Right in strict mode, and wrong in standard mode: which one it is was not read.
        cause = Cause.UNKNOWN
    if attached.code in BY_DESIGN:
        # The YAML may say otherwise, but nothing is broken: no node of this agent does what it says here.
        cause = Cause.NONE
    decided_by = _decided_by(leg, attached, established)
    if decided_by.decision is Decision.ALLOW and cause is Cause.SELECTOR:
        # The layers agree that a new flow would be dropped: nothing is wrong with any of them.
        cause = Cause.NONE
    near: tuple[NearMiss, ...] = ()
    if Decision.DENY in (intent.decision, resolved.decision):
        told = {one.code for one in found}
        near = tuple(one for one in near_misses(leg.ends, leg.backends, world) if one.code not in told)
    made = LegVerdict(
        leg, kernel, verdicts, decided_by.decision, decided_by, cause, between, deviations=found, near=near
    )
    return _by_api_alone(made) if api_only else made


def _by_api_alone(found: LegVerdict) -> LegVerdict:
    """The leg where only the API was asked: what the agent should do decides."""
    by_api = found.by_api
    cause, between = _compare(found.verdicts[:3], found.deviations)
    if by_api.decision is Decision.ALLOW and cause is Cause.SELECTOR:
        cause = Cause.NONE
    return replace(found, decision=by_api.decision, decided_by=by_api, cause=cause, break_between=between)


def _decided_by(leg: Leg, attached: Verdict, established: Verdict) -> Verdict:
    """One flow, named by its source port, is judged by conntrack before the rules are asked."""
    if leg.ends.flow.source_port is None or attached.code in (*NOT_THE_PROGRAM, *BY_DESIGN):
        return attached
    if established.decision is Decision.ALLOW:
        return established
    # Whoever is allowed by the rules passes whatever conntrack holds.
    unknown = established.decision is Decision.UNKNOWN and attached.decision is Decision.DENY
    return established if unknown else attached


OPEN_TO_THE_PROGRAM = ("UNKNOWN_PROGRAM", "ANY_PROTOCOL_PORTS", "MAP_UNREADABLE", "OTHER_DIRECTION")
"""Codes of an ATTACHED verdict that the program's own answer settles."""


def with_answer(found: LegVerdict, asked: Verdict) -> LegVerdict:
    """The leg with what the program itself said. The kernel is right where the two differ."""
    attached = found.verdict(Layer.ATTACHED)
    if found.decided_by.layer is Layer.CONNTRACK:
        # The program was asked about a new flow; this one is established.
        return replace(found, asked=asked)
    if asked.decision not in (Decision.ALLOW, Decision.DENY) or asked.decision is attached.decision:
        return replace(found, asked=asked)
    if attached.decision is Decision.UNKNOWN and attached.code not in OPEN_TO_THE_PROGRAM:
        # A foreign program in front: what the agent's would say does not settle it.
        return replace(found, asked=asked)
    if attached.decision is Decision.UNKNOWN:
        settled = replace(attached, decision=asked.decision)
        cause, between = _compare((*found.verdicts[:4], settled), found.deviations)
        return replace(
            found, asked=asked, decision=asked.decision, decided_by=asked, cause=cause, break_between=between
        )
    return replace(
        found,
        asked=replace(asked, code="DIFFERS", why=f"{asked.why}: NOT what the maps say, see ATTACHED"),
        decision=asked.decision,
        decided_by=asked,
        cause=Cause.UNKNOWN,
        break_between=(Layer.ATTACHED, Layer.TEST_RUN),
    )


def _intent(leg: Leg, world: World) -> Verdict:
    if not leg.backends:
        return tiers.evaluate(leg.ends, world)
    verdicts = [tiers.evaluate(ends, world) for ends in leg.backends]
    worst = next((v for v in verdicts if v.decision is not Decision.ALLOW), verdicts[0])
    count = sum(v.decision is Decision.ALLOW for v in verdicts)
    why = f"{count} of {len(verdicts)} pods behind {leg.service} are allowed: {worst.why}"
    return replace(worst, why=why)


def _expected(leg: Leg, world: World, view: DirectionView | None) -> Verdict:
    """What the maps would decide if the agent had written them as it should."""
    layer, pod = Layer.EXPECTED, leg.pod
    if on_host_network(pod):
        return Verdict(layer, Decision.NONE, "HOST_NETWORK", "the agent has no maps for a pod on the host network")
    unread = world.unread("policyendpoints", "clusterpolicyendpoints")
    if unread:
        return Verdict(layer, Decision.UNKNOWN, "NOT_READ", f"not read: {unread}")
    maps = expected.expected_maps(pod, leg.ends.direction, world)
    like = {} if view is None else view.maps if view.program is not None else view.pinned_maps
    mode = cni_of(world).mode
    default = default_state(view, mode)
    found = expected.verdict(maps, _rules_only(leg.ends.flow), like, default, strict=mode == "strict")
    if found.decision is Decision.DENY and endpoints.only_elsewhere(world, pod):
        why = (
            f"PolicyEndpoints list pods of the same pod identifier on other nodes only: whether the agent here has "
            f"written their rules depends on when the pod started; if it has, {found.why}"
        )
        return Verdict(layer, Decision.UNKNOWN, "LISTED_ELSEWHERE", why)
    return replace(found, evidence=())


def default_state(view: DirectionView | None, mode: str = "") -> int:
    """The pod state of the enforcing mode: of the one that is known, else as the pod shows it, else standard mode's."""
    if mode:
        return layouts.DEFAULT_DENY if mode == "strict" else layouts.DEFAULT_ALLOW
    states = view.maps.get("pod_state") if view is not None else None
    shown = (states.states if states is not None else None) or {}
    return layouts.DEFAULT_DENY if shown.get(0) == layouts.DEFAULT_DENY else layouts.DEFAULT_ALLOW


def _unread_reason(pod: Json, snapshot: Snapshot) -> str:
    reading = snapshot.nodes.get(node_of(pod))
    if reading is None:
        return f"node {node_of(pod)} was not read"
    return reading.reason


def _pinned(leg: Leg, kernel: PodKernel | None, reason: str) -> Verdict:
    layer = Layer.PINNED
    if on_host_network(leg.pod):
        return Verdict(layer, Decision.NONE, "HOST_NETWORK", "a pod on the host network has no maps")
    if kernel is None:
        return Verdict(layer, Decision.UNKNOWN, "NOT_READ", reason)
    view = kernel.directions[leg.ends.direction]
    own = {role: m for role, m in view.pinned_maps.items() if role in ("np", "cp", "pod_state")}
    if not own and view.pinned_program is None:
        if kernel.pins_unread:
            return Verdict(layer, Decision.UNKNOWN, "NOT_READ", kernel.pins_unread)
        return Verdict(layer, Decision.NONE, "NO_PINS", f"nothing is pinned for {kernel.identifier}")
    if view.pinned_missing:
        why = f"no pin holds {', '.join(view.pinned_missing)}, which the pinned program uses"
        return Verdict(layer, Decision.UNKNOWN, "NOT_PINNED", why)
    flow = _rules_only(leg.ends.flow)
    found = kernel_verdict.decide(layer, leg.ends.direction, flow, view.pinned_maps, view.pinned_others)
    if all(view.maps.get(role) == pinned for role, pinned in own.items()):
        # The same maps as the attached program's: the evidence is told once, there.
        return replace(found, evidence=())
    return found


def _rules_only(flow: Flow) -> Flow:
    """The first packet of such a flow, without what conntrack knows of it."""
    return replace(flow, source_port=None)


def _attached(leg: Leg, kernel: PodKernel | None, reason: str) -> Verdict:
    layer, direction = Layer.ATTACHED, leg.ends.direction
    if on_host_network(leg.pod):
        why = f"{ref(leg.pod)} is on the host network: no veth, no program"
        return Verdict(layer, Decision.ALLOW, "HOST_NETWORK", why)
    if kernel is None:
        return Verdict(layer, Decision.UNKNOWN, "NOT_READ", reason)
    return attached_layer.verdict(kernel.interfaces[0], kernel.directions[direction], leg.ends.flow)


def _compare(
    verdicts: tuple[Verdict, ...], rules: tuple[Deviation, ...] = ()
) -> tuple[Cause, tuple[Layer, Layer] | None]:
    """The first pair of neighbours that differ, over the layers that have a word to say.

    ``verdicts``: in the order of the layers, INTENT first; the last one is the one that counts. ``rules``: of EKS, by
    which layers differ; what they explain is told only where nothing is broken besides.
    """
    decided = [v for v in verdicts if v.decision in (Decision.ALLOW, Decision.DENY)]
    pairs = [(left.layer, right.layer) for left, right in pairwise(decided) if left.decision is not right.decision]
    broken = [pair for pair in pairs if not explained_by(pair, rules)]
    for left, right in (broken or pairs)[:1]:
        cause = Cause.RESOLUTION if right is Layer.ENDPOINTS else Cause.KERNEL
        if left is Layer.INTENT and right is not Layer.ENDPOINTS:
            cause = Cause.UNKNOWN
        return cause, (left, right)
    intent, last = verdicts[0].decision, verdicts[-1].decision
    if last is Decision.DENY:
        # Only a YAML that was evaluated can be what denies.
        return (Cause.SELECTOR if intent is Decision.DENY else Cause.UNKNOWN), None
    return (Cause.UNKNOWN if last is Decision.UNKNOWN else Cause.NONE), None


def explained_by(pair: tuple[Layer, Layer], rules: tuple[Deviation, ...]) -> tuple[Deviation, ...]:
    """The rules of EKS by which these two layers differ; what the controller has yet to do is none."""
    left, right = (ORDER.index(layer) if layer in ORDER else len(ORDER) for layer in pair)
    return tuple(
        rule
        for rule in rules
        if rule.code != "NOT_RESOLVED_YET"
        and left <= ORDER.index(rule.between[0])
        and ORDER.index(rule.between[1]) <= right
    )
