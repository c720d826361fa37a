"""The established flows of one pod: whose they are, how old, and whether the rules of now would allow them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.diagnose import attached
from kubectl_netpol.diagnose.established import passing_now, table_of
from kubectl_netpol.kernel import conntrack
from kubectl_netpol.kernel.generation import generation_of
from kubectl_netpol.model.flow import Address, Direction, Flow
from kubectl_netpol.model.kernel import ConntrackEntry, DirectionView, InterfaceView, MapView, PodKernel
from kubectl_netpol.model.verdict import Decision, Verdict
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
    """Whether its packets pass now without a look at the rules (also where nothing is attached); None: unknown."""
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

    @property
    def undecided(self) -> int:
        """Flows of which it is not known whether they pass, or what the rules say."""
        return sum(flow.passes is None or flow.rules.decision is Decision.UNKNOWN for flow in self.flows)


def flows_of(pod: Json, kernel: PodKernel, directions: Sequence[Direction], world: World) -> FlowReport:
    """Pure: the entries of ``kernel`` that this pod's programs made and find."""
    own = {*pod_ips(pod), *(a for interface in kernel.interfaces for a in interface.addresses)}
    found: list[EstablishedFlow] = []
    tables: dict[int, MapView] = {}
    unread: list[str] = []
    for interface in kernel.interfaces:
        for direction in directions:
            view = interface.directions[direction]
            table = table_of(view)
            reason = _unread(view, table)
            if reason:
                unread.append(f"{direction} of {interface.veth}: {reason}")
            if table is None or table.conntrack is None:
                continue
            tables[table.id] = table
            found += _of_direction(own, set(pod_ips(pod)), interface, view, table, kernel.monotonic_ns, world)
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
    own: set[Address],
    pod_addresses: set[Address],
    interface: InterfaceView,
    view: DirectionView,
    table: MapView,
    now: int,
    world: World,
) -> Iterator[EstablishedFlow]:
    generation = generation_of(view.maps, view.other_maps)
    judged: dict[tuple[Address, int, int], Verdict] = {}
    for entry in table.conntrack or ():
        if entry.owner not in own or conntrack.direction_of(entry) is not view.direction:
            continue
        if interface.ifindex is not None and entry.ifindex not in (None, interface.ifindex):
            continue
        # Keys of agents <= 1.3.5 do not say which veth it was: each entry once.
        if entry.ifindex is None and interface.index and entry.owner not in interface.addresses:
            continue
        if entry.ifindex is None and not interface.index and entry.owner not in pod_addresses:
            continue
        flow = Flow(entry.source, entry.destination, entry.protocol, entry.port)
        key = flow.peer(view.direction), entry.protocol, entry.port
        if key not in judged:
            judged[key] = attached.verdict(interface, view, flow)
        yield EstablishedFlow(
            entry=entry,
            direction=view.direction,
            table=table,
            made_under="" if isinstance(generation, str) else conntrack.made_under(entry, generation),
            # 0: the node's clock could not be read (--via agent).
            age_ns=None if entry.last_seen is None or not now else max(0, now - entry.last_seen),
            passes=_passes(view, entry, judged[key]),
            rules=judged[key],
            source=world.who(entry.source) or "unknown address",
            destination=world.who(entry.destination) or "unknown address",
        )


def _passes(view: DirectionView, entry: ConntrackEntry, rules: Verdict) -> bool | None:
    if rules.code in attached.NOT_THE_PROGRAM:
        return True if rules.decision is Decision.ALLOW else None
    found = passing_now([entry], view)
    return None if isinstance(found, str) else bool(found)


def _order(flow: EstablishedFlow) -> tuple[Any, ...]:
    entry = flow.entry
    ends = int(entry.source), int(entry.destination), entry.protocol, entry.port, entry.source_port
    return not flow.only_established, flow.direction is Direction.EGRESS, *ends
