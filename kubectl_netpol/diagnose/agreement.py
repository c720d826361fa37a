"""Whether a pod's part of its node is exactly what its PolicyEndpoints make of it: most pods need no closer look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubectl_netpol.diagnose import agent_release, plain
from kubectl_netpol.diagnose.checks.base import PodCase
from kubectl_netpol.diagnose.plain import holds_rules, holds_tiers
from kubectl_netpol.kernel.layouts import DEFAULT_ALLOW, DEFAULT_DENY, POLICIES_APPLIED
from kubectl_netpol.model.flow import Address, Direction
from kubectl_netpol.model.kernel import DirectionView, MapView
from kubectl_netpol.policy import agent, endpoints
from kubectl_netpol.policy.slices import Slices
from kubectl_netpol.policy.world import World, pod_ip

Json = dict[str, Any]


def agrees(case: PodCase) -> bool:
    """False: it has to be looked at row by row; it may be right all the same."""
    kernel, world = case.kernel, case.world
    if kernel is None or kernel.pins_unread or kernel.differences or len(kernel.interfaces) > 1:
        return False
    if kernel.veth_agrees is not True or world.unread("policyendpoints", "clusterpolicyendpoints"):
        return False
    return all(_direction(case, kernel.directions[direction]) for direction in Direction)


def _direction(case: PodCase, view: DirectionView) -> bool:
    if view.reason or view.differences or view.filter is None or view.program is None or not view.agents:
        return False
    if view.in_front or view.xdp or view.tcx or view.tcx_unread or view.other_direction:
        return False
    if "conntrack" not in view.maps or view.maps["conntrack"].id != _id(view.pinned_maps.get("conntrack")):
        return False
    pod, world = case.pod, case.world
    slices, cluster = endpoints.of_identifier(world, pod), endpoints.cluster_of_identifier(world, pod)
    if not _states(case, view, agent.states(slices, cluster)):
        return False
    address = pod_ip(pod)
    family = address.version if address else 4
    own = world.own_node_address(pod, family)
    return _rules(view, slices, own, family, world) and _tiers(view, cluster, own, family, world)


def _id(view: MapView | None) -> int | None:
    return view.id if view is not None else None


def _states(case: PodCase, view: DirectionView, wanted: Mapping[int, int | None]) -> bool:
    held = view.maps.get("pod_state")
    if held is None or held.states is None or not held.complete:
        return False
    default = {"standard": DEFAULT_ALLOW, "strict": DEFAULT_DENY}.get(case.scope.cni.mode)
    states = {key: default if state is None else state for key, state in wanted.items()}
    keys = (0, 1) if "cp" in view.maps else (0,)
    return all(states[key] is not None and held.states.get(key) == states[key] for key in keys)


def _rules(view: DirectionView, slices: Slices, own: Address | None, family: int, world: World) -> bool:
    table = agent_release.whole_map(view.maps, "np")
    if table is None:
        return False
    contents = table.contents()
    if not slices:
        # Without a policy the own node's entry may be left over; in DEFAULT_ALLOW it makes no difference.
        left = {(int(own), own.max_prefixlen): plain.ANY} if own is not None else {}
        states = view.maps["pod_state"].states or {}
        return not contents or (contents == left and states.get(0) == DEFAULT_ALLOW)
    states = view.maps["pod_state"].states or {}
    wanted = plain.rules(slices, view.direction, family, world)
    return states.get(0) == POLICIES_APPLIED and wanted is not None and holds_rules(contents, wanted, own, family)


def _tiers(view: DirectionView, cluster: Slices, own: Address | None, family: int, world: World) -> bool:
    if "cp" not in view.maps:
        return not cluster
    table = agent_release.whole_map(view.maps, "cp")
    wanted = plain.tiers(cluster, view.direction, family, world)
    return table is not None and wanted is not None and holds_tiers(table.contents(), wanted, own)
