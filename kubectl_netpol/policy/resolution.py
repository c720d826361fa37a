"""PolicyEndpoints that are there against those that the controller should have made, as sets over all slices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.model.flow import Direction
from kubectl_netpol.policy import controller, endpoints
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.controller import Key, Resolution
from kubectl_netpol.policy.ports import ALL_PORTS, Port
from kubectl_netpol.policy.world import (
    APPLICATION_POLICY,
    CLUSTER_POLICY,
    World,
    kind_of,
    label_of,
    name_of,
    namespace_of,
)

Json = dict[str, Any]
Entries = dict[Key, frozenset[Port]]


@dataclass(frozen=True)
class Drift:
    """One way in which the PolicyEndpoints of a policy are not what the controller makes of it today."""

    code: str
    """NO_ENDPOINT | MISSING | EXTRA | PORTS | PODS_MISSING | PODS_EXTRA | ISOLATION | SELECTOR"""
    text: str


@dataclass(frozen=True)
class Comparison:
    """One policy: how many slices there are, and how they differ from the model."""

    policy: Json
    slices: int
    drifts: tuple[Drift, ...]
    release: str = ""
    """What can be seen of the controller's release, where an older one explains what is there."""

    @property
    def text(self) -> str:
        """One line for people."""
        slices = f"{self.slices} slice{'' if self.slices == 1 else 's'}"
        if not self.drifts:
            return f"{label_of(self.policy)}: {slices}, as the controller resolves it{self._release}"
        return f"{label_of(self.policy)}: {slices}: {'; '.join(drift.text for drift in self.drifts)}{self._release}"

    @property
    def _release(self) -> str:
        return f" ({self.release})" if self.release else ""


SHOWN = 3
"""Entries or pods that one sentence names."""


def compare(policy: Json, world: World) -> Comparison:
    """The slices of one policy against the model. Unknown where the pods or namespaces were not all read: ask before."""
    found = controller.resolution(policy, world)
    slices = endpoints.of_policy(world, policy)
    if not slices:
        return Comparison(policy, 0, (Drift("NO_ENDPOINT", "the controller has made no PolicyEndpoint of it"),))
    drifts: list[Drift] = []
    releases: list[str] = []
    for direction in Direction:
        more, release = _entries_differ(found, slices, direction)
        drifts += more
        releases += [release] if release else []
    drifts += _pods_differ(found, slices)
    drifts += _spec_differs(found, slices)
    return Comparison(policy, len(slices), tuple(drifts), "; ".join(dict.fromkeys(releases)))


def actual(slices: Iterable[Json], direction: Direction) -> Entries:
    """The entries of all slices, one for each (prefix, excepts, action)."""
    merged: dict[Key, set[Port]] = defaultdict(set)
    for entry in endpoints.entries(slices, direction):
        excepts = tuple(sorted(set(entry.excepts), key=lambda n: (n.version, int(n.network_address), n.prefixlen)))
        merged[entry.prefix, excepts, entry.action] |= set(entry.ports or ALL_PORTS)
    return {key: controller.union(ports) for key, ports in merged.items()}


NARROWED = "as controllers 1.0.7 to 1.1.2 merge: all ports of a prefix give way to the ports of another rule"


def _entries_differ(found: Resolution, slices: list[Json], direction: Direction) -> tuple[list[Drift], str]:
    there = actual(slices, direction)
    narrow = kind_of(found.policy) == APPLICATION_POLICY
    wanted = controller.merged(found.wanted[direction], narrow=narrow)
    if there == wanted:
        return [], ""
    # A release of before 1.1.3, or for ClusterNetworkPolicies any one of several: seen by what it made.
    other = controller.merged(found.wanted[direction], narrow=not narrow)
    if there == other and kind_of(found.policy) != APPLICATION_POLICY:
        return [], "" if kind_of(found.policy) == CLUSTER_POLICY else NARROWED
    return list(_differences(there, wanted, direction)), ""


def _differences(there: Entries, wanted: Entries, direction: Direction) -> Iterator[Drift]:
    missing = [_entry_text(key, wanted[key]) for key in wanted if key not in there]
    extra = [_entry_text(key, there[key]) for key in there if key not in wanted]
    ports = [
        f"{_prefix_text(key)} allows {port_lists.text(tuple(there[key]))} where the policy means "
        f"{port_lists.text(tuple(wanted[key]))}"
        for key in wanted
        if key in there and there[key] != wanted[key]
    ]
    if missing:
        yield Drift("MISSING", f"{len(missing)} {direction} entries are missing: {_some(missing)}")
    if extra:
        yield Drift("EXTRA", f"{len(extra)} {direction} entries are there that no rule means now: {_some(extra)}")
    if ports:
        yield Drift("PORTS", f"{direction}: {_some(ports)}")


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(sorted(texts)[:SHOWN]) + more


def _prefix_text(key: Key) -> str:
    prefix, excepts, action = key
    host = prefix.prefixlen == prefix.max_prefixlen
    text = str(prefix.network_address) if host else str(prefix)
    text += f" except {', '.join(map(str, excepts))}" if excepts else ""
    return text if action == "Accept" else f"{action} {text}"


def _entry_text(key: Key, ports: frozenset[Port]) -> str:
    return f"{_prefix_text(key)} on {port_lists.text(tuple(ports))}"


def _pods_differ(found: Resolution, slices: list[Json]) -> Iterator[Drift]:
    wanted = {(namespace_of(pod), name_of(pod)) for pod in found.pods}
    there = {pod for endpoint in slices for pod in endpoints.lists(endpoint)}
    missing, extra = wanted - there, there - wanted
    if missing:
        names = _some([f"{namespace}/{name}" for namespace, name in missing])
        yield Drift("PODS_MISSING", f"{len(missing)} selected pods are not listed: {names}")
    if extra:
        names = _some([f"{namespace}/{name}" for namespace, name in extra])
        yield Drift("PODS_EXTRA", f"{len(extra)} pods are listed that the policy does not select: {names}")


def _spec_differs(found: Resolution, slices: list[Json]) -> Iterator[Drift]:
    """What is copied from the policy, and stays behind when the policy is edited (controller issue 643)."""
    if kind_of(found.policy) == CLUSTER_POLICY:
        return
    wanted = set(found.isolation)
    for endpoint in slices:
        there = {str(kind) for kind in (endpoint.get("spec") or {}).get("podIsolation") or ()}
        if there != wanted:
            text = f"{name_of(endpoint)} has podIsolation {_list(there)}, the policy has policyTypes {_list(wanted)}"
            yield Drift("ISOLATION", text)
            break
    selector = (found.policy.get("spec") or {}).get("podSelector") or {}
    for endpoint in slices:
        copied = (endpoint.get("spec") or {}).get("podSelector")
        if copied is not None and copied != selector:
            yield Drift("SELECTOR", f"{name_of(endpoint)} still has the podSelector of an earlier state of the policy")
            break


def _list(kinds: Iterable[str]) -> str:
    return f"[{', '.join(sorted(kinds))}]"
