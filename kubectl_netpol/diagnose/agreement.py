"""Whether a pod's part of its node is exactly what its PolicyEndpoints make of it: most pods need no closer look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubectl_netpol.diagnose import agent_release
from kubectl_netpol.diagnose.checks.base import PodCase
from kubectl_netpol.diagnose.expected import ExpectedMaps, expected_maps
from kubectl_netpol.kernel.layouts import DEFAULT_ALLOW, DEFAULT_DENY, POLICIES_APPLIED
from kubectl_netpol.kernel.verdict import used_slots
from kubectl_netpol.model.flow import Direction, Network
from kubectl_netpol.model.kernel import DirectionView, MapView

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
    expected = expected_maps(case.pod, view.direction, case.world)
    return _states(case, view, expected) and _rules(view, expected) and _tiers(view, expected)


def _id(view: MapView | None) -> int | None:
    return view.id if view is not None else None


def _states(case: PodCase, view: DirectionView, expected: ExpectedMaps) -> bool:
    held = view.maps.get("pod_state")
    if held is None or held.states is None or not held.complete:
        return False
    default = {"standard": DEFAULT_ALLOW, "strict": DEFAULT_DENY}.get(case.scope.cni.mode)
    wanted = {key: default if state is None else state for key, state in expected.states.items()}
    keys = (0, 1) if "cp" in view.maps else (0,)
    return all(wanted[key] is not None and held.states.get(key) == wanted[key] for key in keys)


def _rules(view: DirectionView, expected: ExpectedMaps) -> bool:
    table = agent_release.whole_map(view.maps, "np")
    if table is None:
        return False
    states = view.maps["pod_state"].states or {}
    if not expected.rules and states.get(0) == DEFAULT_ALLOW and len(table.entries) <= 1:
        # Without a policy the own node's entry may be left over; nobody asks the map then.
        return all(entry.prefix.prefixlen == entry.prefix.max_prefixlen for entry in table.entries)
    if states.get(0) != POLICIES_APPLIED or len(table.entries) != len(expected.rules):
        return not expected.rules and not table.entries
    wanted: Mapping[Network, Any] = expected.rules
    for entry in table.entries:
        one = wanted.get(entry.prefix)
        if one is None or one.cut_off or one.slots != set(used_slots(entry.slots)):
            return False
    return True


def _tiers(view: DirectionView, expected: ExpectedMaps) -> bool:
    if "cp" not in view.maps:
        return not expected.tiers
    table = agent_release.whole_map(view.maps, "cp")
    if table is None or len(table.entries) != len(expected.tiers):
        return False
    # Cluster policies may deny the own node: these pods are looked at one by one.
    return not expected.tiers
