"""CONNTRACK: what established flows mean for one leg, and which entries pass now."""

from __future__ import annotations

from collections.abc import Sequence

from kubectl_netpol.diagnose.plan import Leg
from kubectl_netpol.kernel import conntrack
from kubectl_netpol.kernel import verdict as kernel_verdict
from kubectl_netpol.kernel.generation import generation_of
from kubectl_netpol.model.kernel import ConntrackEntry, DirectionView, MapView, PodKernel
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy.world import on_host_network

LAYER = Layer.CONNTRACK


def table_of(view: DirectionView) -> MapView | None:
    """The conntrack map of the attached program; where none is attached, the pinned one with what is left in it."""
    return view.maps.get("conntrack") if view.program is not None else view.pinned_maps.get("conntrack")


def verdict(leg: Leg, kernel: PodKernel | None, reason: str, attached: Verdict) -> Verdict:
    """The layer's word for a leg. ``reason``: why there is no ``kernel``; ``attached``: the rules' verdict."""
    if kernel is None:
        if on_host_network(leg.pod):
            return Verdict(LAYER, Decision.NONE, "HOST_NETWORK", "no program, so no conntrack entries")
        return Verdict(LAYER, Decision.UNKNOWN, "NOT_READ", reason)
    view = kernel.directions[leg.ends.direction]
    if view.reason:
        return Verdict(LAYER, Decision.UNKNOWN, "NOT_READ", view.reason)
    if view.filter is None:
        return Verdict(LAYER, Decision.NONE, "NO_PROGRAM", "no program is attached that would ask conntrack")
    if attached.code == "POD_STATE_MISSING" or (attached.code == "DEFAULT_DENY" and "cp" not in view.maps):
        return Verdict(LAYER, Decision.NONE, "NOT_ASKED", "the program drops the packet before it asks conntrack")
    table = table_of(view)
    if table is None:
        unknown = "the program uses no conntrack map of a known layout"
        return Verdict(LAYER, Decision.UNKNOWN, "NO_TABLE", unknown)
    if table.conntrack is None:
        return _unread(table)
    if leg.ends.flow.source_port is not None:
        return _one_flow(leg, kernel, view, table)
    return _any_flow(leg, kernel, view, table)


def _unread(table: MapView) -> Verdict:
    why = f"aws_conntrack_map (id {table.id}) was not read{' to its end' if table.conntrack is not None else ''}"
    return Verdict(LAYER, Decision.UNKNOWN, "NOT_READ", f"{why}: {table.reason}")


def _any_flow(leg: Leg, kernel: PodKernel, view: DirectionView, table: MapView) -> Verdict:
    """Established flows like this one, from whatever port."""
    found = conntrack.like(table.conntrack or (), leg.ends.direction, leg.ends.flow, kernel.ifindex)
    if not found:
        if not table.complete:
            return _unread(table)
        return Verdict(LAYER, Decision.NONE, "NO_ENTRY", "no established flow of this kind: the rules decide")
    passing = passing_now(found, view)
    if isinstance(passing, str):
        why = f"{_flows(found)}; whether they pass is not known: {passing}"
        return Verdict(LAYER, Decision.UNKNOWN, "NOT_READ", why)
    if not passing:
        why = f"{_flows(found)}, made under other pod states: the rules decide again"
        return Verdict(LAYER, Decision.NONE, "OTHER_STATES", why)
    ports = ", ".join(str(entry.source_port) for entry in passing[:5])
    why = f"{_flows(passing)} (source port {ports}): such packets pass here without a look at the rules"
    return Verdict(LAYER, Decision.ALLOW, "ESTABLISHED", why)


def _flows(entries: Sequence[ConntrackEntry]) -> str:
    """An entry says that this program let a packet pass, not that the other end did."""
    return "1 established flow" if len(entries) == 1 else f"{len(entries)} established flows"


def _one_flow(leg: Leg, kernel: PodKernel, view: DirectionView, table: MapView) -> Verdict:
    """The flow with this source port: the program's own steps, in their order."""
    flow = leg.ends.flow
    found = kernel_verdict.decide(LAYER, leg.ends.direction, flow, view.maps, view.other_maps, kernel.ifindex)
    if found.code in ("ESTABLISHED", "REPLY"):
        return found
    if not table.complete:
        return _unread(table)
    unknown = passing_now((), view)
    if isinstance(unknown, str):
        return Verdict(LAYER, Decision.UNKNOWN, "NOT_READ", f"whether an entry lets it pass is not known: {unknown}")
    again = tuple(fact for fact in found.evidence if fact.startswith("aws_conntrack_map"))
    why = f"no entry lets the flow from source port {flow.source_port} pass: the rules decide"
    return Verdict(LAYER, Decision.NONE, "NO_ENTRY", why, again)


def passing_now(entries: Sequence[ConntrackEntry], view: DirectionView) -> list[ConntrackEntry] | str:
    """Those whose packets pass now without a look at the rules, or why that is not known."""
    if view.reason:
        return view.reason
    generation = generation_of(view.maps, view.other_maps)
    if isinstance(generation, str):
        return generation
    states = view.maps.get("pod_state")
    if generation.state_keys and (states is None or states.states is None):
        return f"the pod state could not be read: {states.reason if states else 'no map'}"
    known = (states.states if states else None) or {}
    return [entry for entry in entries if conntrack.passes(entry, generation, known, entry.owner)]
