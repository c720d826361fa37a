"""The five layers' verdicts of one leg, and the first place where two neighbours disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from kubectl_netpol.diagnose.plan import Leg
from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel import verdict as kernel_verdict
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import DirectionView, PodKernel
from kubectl_netpol.model.snapshot import Snapshot
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy import endpoints, networkpolicy
from kubectl_netpol.policy.world import World, name_of, namespace_of, node_of, on_host_network, pod_ips, ref

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


def judge(leg: Leg, world: World, views: Mapping[str, NodeView]) -> LegVerdict:
    """Evaluate the leg once per layer and compare neighbours."""
    kernel = pod_kernel(leg.pod, views)
    intent = _intent(leg, world)
    resolved = _resolved(leg, world)
    reason = _unread_reason(leg.pod, world.snapshot)
    pinned = _pinned(leg, kernel, reason)
    attached = _attached(leg, kernel, reason)
    verdicts = (intent, resolved, pinned, attached, _conntrack(leg, kernel, reason))
    cause, between = _compare((intent, resolved, pinned, attached))
    return LegVerdict(leg, kernel, verdicts, attached.decision, attached, cause, between)


def _intent(leg: Leg, world: World) -> Verdict:
    other_kinds = [
        kind
        for kind in ("clusternetworkpolicies", "applicationnetworkpolicies")
        if any(namespace_of(item) in ("", namespace_of(leg.pod)) for item in world.snapshot.items(kind))
    ]
    unread = _unread(world, "clusternetworkpolicies", "applicationnetworkpolicies")
    if unread:
        return Verdict(Layer.INTENT, Decision.UNKNOWN, "NOT_READ", unread)
    if other_kinds:
        why = f"there are {' and '.join(other_kinds)}, whose intent this release does not evaluate"
        return Verdict(Layer.INTENT, Decision.UNKNOWN, "TIERS_NOT_EVALUATED", why)
    if not leg.backends:
        return networkpolicy.evaluate(leg.ends, world)
    verdicts = [networkpolicy.evaluate(ends, world) for ends in leg.backends]
    worst = next((v for v in verdicts if v.decision is not Decision.ALLOW), verdicts[0])
    count = sum(v.decision is Decision.ALLOW for v in verdicts)
    why = f"{count} of {len(verdicts)} pods behind {leg.service} are allowed: {worst.why}"
    return Verdict(worst.layer, worst.decision, worst.code, why, worst.evidence)


def _resolved(leg: Leg, world: World) -> Verdict:
    key = namespace_of(leg.pod), name_of(leg.pod)
    for endpoint in world.snapshot.items("clusterpolicyendpoints"):
        if key in endpoints.lists(endpoint):
            why = f"ClusterPolicyEndpoint {name_of(endpoint)} lists the pod; this release does not evaluate it"
            return Verdict(Layer.ENDPOINTS, Decision.UNKNOWN, "TIERS_NOT_EVALUATED", why)
    unread = _unread(world, "clusterpolicyendpoints")
    if unread:
        return Verdict(Layer.ENDPOINTS, Decision.UNKNOWN, "NOT_READ", unread)
    return endpoints.evaluate(leg.ends, world)


def _unread(world: World, *kinds: str) -> str:
    """Which of the collections could not be (wholly) read, and why; a kind that is not installed is known."""
    collections = {kind: world.snapshot.get(kind) for kind in kinds}
    return "; ".join(f"{k}: {c.reason}" for k, c in collections.items() if not c.known and not c.absent)


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
    found = kernel_verdict.decide(layer, leg.ends.direction, leg.ends.flow, view.pinned_maps)
    if all(view.maps.get(role) == pinned for role, pinned in own.items()):
        # The same maps as the attached program's: the evidence is told once, there.
        return Verdict(layer, found.decision, found.code, found.why)
    return found


def _attached(leg: Leg, kernel: PodKernel | None, reason: str) -> Verdict:
    layer, direction = Layer.ATTACHED, leg.ends.direction
    if on_host_network(leg.pod):
        why = f"{ref(leg.pod)} is on the host network: no veth, no program"
        return Verdict(layer, Decision.ALLOW, "HOST_NETWORK", why)
    if kernel is None:
        return Verdict(layer, Decision.UNKNOWN, "NOT_READ", reason)
    if kernel.ifindex is None:
        return Verdict(layer, Decision.UNKNOWN, "NO_VETH", "; ".join(kernel.veth_evidence))
    view = kernel.directions[direction]
    hook = f"tc {direction.tc_hook} hook of {kernel.veth}"
    if view.reason:
        return Verdict(layer, Decision.UNKNOWN, "NOT_READ", view.reason)
    if view.filter is None:
        others = ", ".join(f"{f.kind} {f.name}" for f in view.filters)
        why = f"no {direction.program_name} filter on the {hook}: nothing is filtered here"
        evidence = (f"other filters there: {others}",) if others else ()
        return Verdict(layer, Decision.ALLOW, "NO_FILTER", why, evidence)
    found = kernel_verdict.decide(layer, direction, leg.ends.flow, view.maps)
    return Verdict(found.layer, found.decision, found.code, found.why, (_program_text(view, hook), *found.evidence))


def _program_text(view: DirectionView, hook: str) -> str:
    assert view.program is not None
    text = f"{hook}: filter {view.direction.program_name} runs program {view.program.id}"
    pinned = view.pinned_program
    if pinned is not None and pinned.id != view.program.id:
        text += f", but the pin is program {pinned.id}: the agent writes maps that no packet meets"
    return text


def _conntrack(leg: Leg, kernel: PodKernel | None, reason: str) -> Verdict:
    layer = Layer.CONNTRACK
    if kernel is None:
        if on_host_network(leg.pod):
            return Verdict(layer, Decision.NONE, "HOST_NETWORK", "no program, so no conntrack entries")
        return Verdict(layer, Decision.UNKNOWN, "NOT_READ", reason)
    direction = leg.ends.direction
    view = kernel.directions[direction]
    table = view.maps.get("conntrack") or view.pinned_maps.get("conntrack")
    if table is None:
        return Verdict(layer, Decision.NONE, "NO_TABLE", "no conntrack map is in use")
    if table.conntrack is None:
        return Verdict(layer, Decision.UNKNOWN, "NOT_READ", f"aws_conntrack_map (id {table.id}): {table.reason}")
    found = kernel_verdict.conntrack_entries(table.conntrack, direction, leg.ends.flow, kernel.ifindex)
    if not found:
        return Verdict(layer, Decision.NONE, "NO_ENTRY", "no established flow of this kind: the rules decide")
    pair = _state_pair(view)
    passing = [entry for entry in found if pair is None or entry.value == pair]
    if not passing:
        why = f"{len(found)} established flow(s) were made under other pod states: the rules decide again"
        return Verdict(layer, Decision.NONE, "OTHER_STATES", why)
    found = tuple(passing)
    ports = ", ".join(str(entry.source_port) for entry in found[:5])
    why = f"{len(found)} established flow(s) pass without a look at the rules (source port {ports})"
    return Verdict(layer, Decision.ALLOW, "ESTABLISHED", why)


def _state_pair(view: DirectionView) -> int | None:
    """The conntrack value that lets a flow pass unseen now; None where the pod states are not known."""
    states = view.maps.get("pod_state")
    if states is None or not states.states or not {0, 1} <= states.states.keys():
        return None
    return layouts.state_pair(states.states[0], states.states[1])


def _compare(verdicts: tuple[Verdict, ...]) -> tuple[Cause, tuple[Layer, Layer] | None]:
    """The first pair of neighbours that differ, over the layers that have a word to say."""
    decided = [v for v in verdicts if v.decision in (Decision.ALLOW, Decision.DENY)]
    for left, right in pairwise(decided):
        if left.decision is not right.decision:
            cause = Cause.RESOLUTION if right.layer is Layer.ENDPOINTS else Cause.KERNEL
            if left.layer is Layer.INTENT and right.layer is not Layer.ENDPOINTS:
                cause = Cause.UNKNOWN
            return cause, (left.layer, right.layer)
    intent, attached = verdicts[0].decision, verdicts[-1].decision
    if attached is Decision.DENY:
        # Only a YAML that was evaluated can be what denies.
        return (Cause.SELECTOR if intent is Decision.DENY else Cause.UNKNOWN), None
    return (Cause.UNKNOWN if attached is Decision.UNKNOWN else Cause.NONE), None
