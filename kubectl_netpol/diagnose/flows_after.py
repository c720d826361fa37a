"""The established flows of a pod under changed policies: which would be denied, where, and when they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kubectl_netpol.diagnose import expected
from kubectl_netpol.diagnose.expected import expected_maps
from kubectl_netpol.diagnose.flows import EstablishedFlow, FlowReport, flows_of
from kubectl_netpol.diagnose.layers import default_state
from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel import verdict as kernel_verdict
from kubectl_netpol.model.flow import Direction, Flow, protocol_name
from kubectl_netpol.model.kernel import DirectionView, InterfaceView, MapView, PodKernel
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy import targets
from kubectl_netpol.policy.changes import Hypothesis
from kubectl_netpol.policy.cni import cni_of
from kubectl_netpol.policy.world import World, name_of, namespace_of, on_host_network, pod_ips, ref

Json = dict[str, Any]


@dataclass(frozen=True)
class FlowAfter:
    """One established flow that the changed rules would deny."""

    flow: EstablishedFlow
    place: str
    """Where: `ingress of nginx`; the other end may be a pod as well, whose policies change too."""
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


def flows_after(
    pod: Json, kernel: PodKernel, directions: Sequence[Direction], before: World, hypothesis: Hypothesis
) -> FlowsAfter:
    """Pure: the pod's established flows, judged by the policies of both worlds at both of their ends."""
    return _judged(flows_of(pod, kernel, directions, before), kernel, _Rules(pod, before, hypothesis))


def _judged(report: FlowReport, kernel: PodKernel, rules: _Rules) -> FlowsAfter:
    denied: list[FlowAfter] = []
    undecided = total = 0
    interfaces = {one.ifindex: one for one in kernel.interfaces}
    for flow in report.flows:
        if flow.passes is False and flow.rules.decision is Decision.DENY:
            # Its next packet is dropped already: no change can cut it.
            continue
        total += 1
        interface = interfaces.get(flow.entry.ifindex, kernel.interfaces[0])
        found = rules.judged(flow, interface)
        if isinstance(found, FlowAfter):
            denied.append(found)
        undecided += found is None
    return FlowsAfter(total, tuple(denied), undecided, report.unread)


class _Rules:
    """What the maps say of flows before the change and after it, at both ends."""

    def __init__(self, pod: Json, before: World, hypothesis: Hypothesis) -> None:
        self.pod, self.before, self.after = pod, before, hypothesis.world
        self.changed = hypothesis.namespaces
        mode = cni_of(before).mode
        self.strict, self.standard = mode == "strict", mode == "standard"
        self._known: dict[tuple[Any, ...], tuple[Verdict, Verdict]] = {}

    def judged(self, flow: EstablishedFlow, interface: InterfaceView) -> FlowAfter | bool | None:
        """What becomes of one flow; True: still allowed, or denied before and after alike; None: not known."""
        own = self._at_own_side(flow, interface)
        return own if own is not True else self._at_other_side(flow)

    def _at_own_side(self, flow: EstablishedFlow, interface: InterfaceView) -> FlowAfter | bool | None:
        view = interface.directions[flow.direction]
        default = default_state(view)
        entry = flow.entry
        asked = Flow(entry.source, entry.destination, entry.protocol, entry.port)
        was, found = self._both(self.pod, flow.direction, asked, shapes(view.maps), default, interface.ifindex)
        if found.decision is Decision.NONE:
            # The enforcing mode decides; a pod that no policy concerns now shows it.
            opened = default == layouts.DEFAULT_ALLOW if was.decision is Decision.NONE else self.standard
            return True if opened else None
        if found.decision is not Decision.DENY:
            return True if found.decision is Decision.ALLOW else None
        cut = self._cut(flow, interface, view, default, self.after)
        # What lives on against the rules of now: the change matters only where it cuts what was not cut before.
        against = Decision.DENY in (was.decision, flow.rules.decision)
        if against and (cut is not True or self._cut(flow, interface, view, default, self.before) is True):
            return True
        return FlowAfter(flow, f"{flow.direction} of {name_of(self.pod)}", cut, found.why)

    def _at_other_side(self, flow: EstablishedFlow) -> FlowAfter | bool | None:
        """The pod at the other end, if it is one: its kernel was not read, so when it is cut is not known."""
        entry = flow.entry
        if flow.direction is Direction.INGRESS:
            pod = self.before.pod_by_ip.get(entry.source)
            asked = Flow(entry.source, entry.destination, entry.protocol, entry.port)
            return self._at_pod(flow, pod, Direction.EGRESS, asked)
        service = self.before.service_by_ip.get(entry.destination)
        if service is None:
            pod = self.before.pod_by_ip.get(entry.destination)
            asked = Flow(entry.source, entry.destination, entry.protocol, entry.port)
            return self._at_pod(flow, pod, Direction.INGRESS, asked)
        return self._behind(flow, service)

    def _behind(self, flow: EstablishedFlow, service: Json) -> FlowAfter | bool | None:
        """A flow to a ClusterIP is one to some pod behind it; to which one the entry does not say."""
        entry, found = flow.entry, []
        for pod in targets.service_pods(service, self.before):
            address = next((a for a in pod_ips(pod) if a.version == entry.source.version), None)
            port = targets.target_port(service, protocol_name(entry.protocol), entry.port, pod)
            if address is not None and port is not None:
                asked = Flow(entry.source, address, entry.protocol, port)
                found.append(self._at_pod(flow, pod, Direction.INGRESS, asked))
        if found and all(isinstance(one, FlowAfter) for one in found):
            return found[0]
        return True if all(one is True for one in found) else None

    def _at_pod(
        self, flow: EstablishedFlow, pod: Json | None, direction: Direction, asked: Flow
    ) -> FlowAfter | bool | None:
        if pod is None or pod is self.pod or on_host_network(pod):
            return True
        if namespace_of(pod) in self.changed or ("" in self.changed and namespace_of(pod) == namespace_of(self.pod)):
            return self._compared(flow, pod, direction, asked)
        # Policies of other namespaces were not read: a cluster policy that changes may leave the word to them.
        return None if "" in self.changed else True

    def _compared(self, flow: EstablishedFlow, pod: Json, direction: Direction, asked: Flow) -> FlowAfter | bool | None:
        was, found = self._both(pod, direction, asked, {}, layouts.DEFAULT_ALLOW, None)
        if found.decision is Decision.UNKNOWN and was.decision is not Decision.UNKNOWN:
            return None
        if found.decision is Decision.NONE and was.decision is not Decision.NONE:
            return True if self.standard else None
        if found.decision is not Decision.DENY or was.decision is Decision.DENY:
            return True
        return FlowAfter(flow, f"{direction} of {ref(pod)}", None, found.why)

    def _both(
        self,
        pod: Json,
        direction: Direction,
        asked: Flow,
        like: Mapping[str, MapView],
        default: int,
        ifindex: int | None,
    ) -> tuple[Verdict, Verdict]:
        """The rules of one side, before and after the change."""
        key = id(pod), direction, ifindex, asked
        if key not in self._known:
            was, found = (
                expected.verdict(expected_maps(pod, direction, world), asked, like, default, strict=self.strict)
                for world in (self.before, self.after)
            )
            self._known[key] = was, found
        return self._known[key]

    def _cut(
        self, flow: EstablishedFlow, interface: InterfaceView, view: DirectionView, default: int, world: World
    ) -> bool | None:
        """Whether the program, with the maps and pod states of this world, drops its next packet."""
        if view.program is None or flow.table.conntrack is None:
            return None
        entry = flow.entry
        made = expected_maps(self.pod, flow.direction, world)
        maps = expected.as_views(made, view.maps, default=default)
        maps["conntrack"] = replace(flow.table, conntrack=(entry,), complete=True)
        packet = Flow(entry.source, entry.destination, entry.protocol, entry.port, entry.source_port)
        found = kernel_verdict.decide(Layer.CONNTRACK, flow.direction, packet, maps, (), interface.ifindex)
        return {Decision.DENY: True, Decision.ALLOW: False}.get(found.decision)


def shapes(maps: Mapping[str, MapView]) -> dict[str, MapView]:
    """The maps of a program without their rules: those of now tell nothing of rules that are not written yet."""
    return {role: replace(view, lpm=None) if role in ("np", "cp") else view for role, view in maps.items()}
