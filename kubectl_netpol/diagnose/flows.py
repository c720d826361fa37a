"""The established flows of one pod: whose they are, how old, and whether the rules of now would allow them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.kernel import conntrack
from kubectl_netpol.kernel import verdict as kernel_verdict
from kubectl_netpol.kernel.generation import Generation, generation_of
from kubectl_netpol.model.flow import Address, Direction, Flow
from kubectl_netpol.model.kernel import ConntrackEntry, DirectionView, InterfaceView, MapView, PodKernel
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy.world import World, pod_ips

Json = dict[str, Any]


@dataclass(frozen=True)
class EstablishedFlow:
    """One conntrack entry of the pod."""

    entry: ConntrackEntry
    direction: Direction
    table: MapView
    made_under: str
    """The pod state when it was allowed; empty where the layout does not say."""
    age_ns: int | None
    """Since its last packet; None where the layout does not say."""
    passes: bool | None
    """Whether its packets pass now without a look at the rules; None: the program is not known."""
    rules: Verdict
    """What the rules of now say of a new flow like it."""
    source: str
    destination: str

    @property
    def only_established(self) -> bool:
        """Allowed only because it was established: the rules would drop it."""
        return self.passes is True and self.rules.decision is Decision.DENY


@dataclass(frozen=True)
class FlowReport:
    """All established flows of a pod, those first that the rules would drop."""

    flows: tuple[EstablishedFlow, ...]
    tables: tuple[MapView, ...]
    """The conntrack maps that they are from: one a node, two where programs still use a replaced one."""
    unread: tuple[str, ...]
    """What could not be read, with the reason; then ``flows`` is not all there is."""

    @property
    def only_established(self) -> int:
        return sum(flow.only_established for flow in self.flows)


def flows_of(pod: Json, kernel: PodKernel, directions: Sequence[Direction], world: World) -> FlowReport:
    """Pure: the entries of ``kernel`` that this pod's programs made and find."""
    own = set(pod_ips(pod))
    found: list[EstablishedFlow] = []
    tables: dict[int, MapView] = {}
    unread: list[str] = []
    for interface in kernel.interfaces:
        for direction in directions:
            view = interface.directions[direction]
            table = view.maps.get("conntrack") if view.program else view.pinned_maps.get("conntrack")
            reason = _unread(view, table)
            if reason:
                unread.append(f"{direction} of {interface.veth}: {reason}")
            if table is None or table.conntrack is None:
                continue
            tables[table.id] = table
            found += _of_direction(own, interface, view, table, kernel.monotonic_ns, world)
    found.sort(key=_order)
    return FlowReport(tuple(found), tuple(tables.values()), tuple(dict.fromkeys(unread)))


def _unread(view: DirectionView, table: MapView | None) -> str:
    if view.reason:
        return view.reason
    if table is None:
        return "" if view.program is None else "the program uses no conntrack map of a known layout"
    if table.conntrack is None or not table.complete:
        return f"aws_conntrack_map {table.id}: {table.reason or 'not read'}"
    return ""


def _of_direction(
    own: set[Address], interface: InterfaceView, view: DirectionView, table: MapView, now: int, world: World
) -> Iterator[EstablishedFlow]:
    generation = generation_of(view.maps, view.other_maps)
    judged: dict[tuple[Address, int, int], Verdict] = {}
    for entry in table.conntrack or ():
        if entry.owner not in own or conntrack.direction_of(entry) is not view.direction:
            continue
        if interface.ifindex is not None and entry.ifindex not in (None, interface.ifindex):
            continue
        flow = Flow(entry.source, entry.destination, entry.protocol, entry.port)
        key = flow.peer(view.direction), entry.protocol, entry.port
        if key not in judged:
            judged[key] = _rules(view, flow)
        yield EstablishedFlow(
            entry=entry,
            direction=view.direction,
            table=table,
            made_under="" if isinstance(generation, str) else conntrack.made_under(entry, generation),
            # 0: the node's clock could not be read (--via agent).
            age_ns=None if entry.last_seen is None or not now else max(0, now - entry.last_seen),
            passes=_passes(view, entry, generation),
            rules=judged[key],
            source=world.who(entry.source) or "unknown address",
            destination=world.who(entry.destination) or "unknown address",
        )


def _passes(view: DirectionView, entry: ConntrackEntry, generation: Generation | str) -> bool | None:
    if isinstance(generation, str):
        return None
    states = view.maps.get("pod_state")
    if generation.state_keys and (states is None or states.states is None):
        return None
    return conntrack.passes(entry, generation, (states.states if states else None) or {}, entry.owner)


def _rules(view: DirectionView, flow: Flow) -> Verdict:
    if view.reason or (view.filter is None and view.clsact is None):
        why = f"what is attached is not known: {view.reason or 'the qdiscs could not be read'}"
        return Verdict(Layer.ATTACHED, Decision.UNKNOWN, "NOT_READ", why)
    if view.filter is None:
        why = f"no {view.direction.program_name} filter is attached: nothing is filtered"
        return Verdict(Layer.ATTACHED, Decision.ALLOW, "NO_FILTER", why)
    return kernel_verdict.decide(Layer.ATTACHED, view.direction, flow, view.maps, view.other_maps)


def _order(flow: EstablishedFlow) -> tuple[Any, ...]:
    entry = flow.entry
    ends = int(entry.source), int(entry.destination), entry.protocol, entry.port, entry.source_port
    return not flow.only_established, flow.direction is Direction.EGRESS, *ends
