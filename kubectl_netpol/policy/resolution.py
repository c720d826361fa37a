"""PolicyEndpoints that are there against those that the controller should have made, as sets over all slices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.model.flow import Direction, Network
from kubectl_netpol.policy import controller, endpoints, tiers
from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.controller import Key, Resolution
from kubectl_netpol.policy.ports import ALL_PORTS, Port
from kubectl_netpol.policy.world import (
    CLUSTER_POLICY,
    NETWORK_POLICY,
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
    """NO_ENDPOINT | SAME_NAME | MISSING | EXTRA | PORTS | PODS_MISSING | PODS_EXTRA | ISOLATION | SELECTOR | RANK"""
    text: str
    pods: frozenset[tuple[str, str]] = frozenset()
    """(namespace, name) of the pods that it is about."""
    items: frozenset[str] = frozenset()
    """The entries that it is about, all of them."""


@dataclass(frozen=True)
class Comparison:
    """One policy: how many slices there are, and how they differ from the model."""

    policy: Json
    slices: int
    drifts: tuple[Drift, ...]
    release: str = ""
    """What can be seen of the controller's release, where an older one explains what is there."""

    @property
    def name(self) -> str:
        return label_of(self.policy)

    @property
    def text(self) -> str:
        """One line for people."""
        slices = f"{self.slices} slice{'' if self.slices == 1 else 's'}"
        if not self.drifts:
            return f"{self.name}: {slices}, as the controller resolves it{self._release}"
        return f"{self.name}: {slices}: {'; '.join(drift.text for drift in self.drifts)}{self._release}"

    @property
    def _release(self) -> str:
        return f" ({self.release})" if self.release else ""


SHOWN = 3
"""Entries or pods that one sentence names."""


def compare(policy: Json, world: World) -> Comparison:
    """The slices of one policy against the model. Worth nothing where not all pods were read."""
    found = controller.resolution(policy, world)
    slices = endpoints.of_policy(world, policy)
    if not slices:
        return Comparison(policy, 0, (Drift("NO_ENDPOINT", "the controller has made no PolicyEndpoint of it"),))
    drifts: list[Drift] = list(_same_name(policy, world))
    releases: list[str] = []
    for direction in Direction:
        more, older = _entries_differ(found, slices, direction, world)
        drifts += more
        releases += older
    drifts += _pods_differ(found, slices)
    drifts += _spec_differs(found, slices)
    return Comparison(policy, len(slices), tuple(drifts), "; ".join(dict.fromkeys(releases)))


def _same_name(policy: Json, world: World) -> Iterator[Drift]:
    """The controller finds PolicyEndpoints by the policy's name alone, of whichever kind it is (agent facts 6.6)."""
    if kind_of(policy) == CLUSTER_POLICY:
        return
    for other in (*world.policies_of.get(namespace_of(policy), ()), *_applications(policy, world)):
        if name_of(other) == name_of(policy) and kind_of(other) != kind_of(policy):
            text = (
                f"{kind_of(other)} {name_of(other)} has the same name: the controller makes the PolicyEndpoints now "
                "from one and now from the other"
            )
            yield Drift("SAME_NAME", text)


def _applications(policy: Json, world: World) -> Iterable[Json]:
    return world.application_policies_of.get(namespace_of(policy), ())


def actual(slices: Iterable[Json], direction: Direction) -> Entries:
    """The entries of all slices, one for each (prefix, excepts, action)."""
    merged: dict[Key, set[Port]] = defaultdict(set)
    for entry in endpoints.entries(slices, direction):
        excepts = tuple(sorted(set(entry.excepts), key=lambda n: (n.version, int(n.network_address), n.prefixlen)))
        merged[entry.prefix, excepts, entry.action] |= set(entry.ports or ALL_PORTS)
    return {key: controller.union(ports) for key, ports in merged.items()}


NARROWED = "as controllers 1.0.7 to 1.1.2 merge: all ports of a prefix give way to the ports of another rule"
FIRST_PEER = "as controllers up to 1.1.7 resolve it: a rule whose first peer means no namespace is lost as a whole"


def _entries_differ(
    found: Resolution, slices: list[Json], direction: Direction, world: World
) -> tuple[list[Drift], list[str]]:
    """What differs, prefix by prefix, and what tells an older release where one explains what is there."""
    is_there, written = actual(slices, direction), controller.written(found, direction)
    if is_there == written:
        return [], []
    there, wanted = _grouped(is_there), _grouped(written)
    others = [(_grouped(entries), release) for entries, release in _others(found, direction, world)]
    left: list[Group] = []
    releases: list[str] = []
    for group in dict.fromkeys([*wanted, *there]):
        if there.get(group) == wanted.get(group):
            continue
        explained = [release for entries, release in others if entries.get(group) == there.get(group)]
        if explained:
            releases += filter(None, explained[:1])
        else:
            left.append(group)
    return list(_differences(_some_of(there, left), _some_of(wanted, left), direction)), releases


Group = tuple[Network, str]
"""(prefix, action): what the controller does with one of these does not depend on the others."""


def _grouped(entries: Entries) -> dict[Group, Entries]:
    found: dict[Group, Entries] = defaultdict(dict)
    for key, ports in entries.items():
        found[key[0], key[2]][key] = ports
    return dict(found)


def _some_of(groups: dict[Group, Entries], some: Iterable[Group]) -> Entries:
    return {key: ports for group in some for key, ports in groups.get(group, {}).items()}


def _others(found: Resolution, direction: Direction, world: World) -> Iterator[tuple[Entries, str]]:
    """What else a controller may make of it, and what that tells of its release."""
    wanted = found.wanted[direction]
    if kind_of(found.policy) == NETWORK_POLICY:
        yield controller.merged(wanted, narrow=True), NARROWED
    if kind_of(found.policy) == CLUSTER_POLICY:
        # Slices are merged one by one: what stands in two of them is not narrowed.
        yield controller.merged(wanted), ""
        lost = tuple(f"{rule.path}." for rule in _lost_rules(found.policy, direction, world))
        yield controller.merged([one for one in wanted if not one.path.startswith(lost)], narrow=True), FIRST_PEER


def _lost_rules(policy: Json, direction: Direction, world: World) -> Iterator[tiers.ClusterRule]:
    """Ingress rules of which releases up to 1.1.7 make nothing (agent facts 6.6)."""
    if direction is Direction.INGRESS:
        for rule in tiers.cluster_rules(policy, direction):
            if rule.peers and not np.peer_namespaces(rule.peers[0], world):
                yield rule


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
        yield Drift(
            "MISSING", f"{_entries(missing, direction)} missing: {_some(missing)}", items=frozenset(map(str, missing))
        )
    if extra:
        yield Drift(
            "EXTRA",
            f"{_entries(extra, direction)} there that no rule means now: {_some(extra)}",
            items=frozenset(map(str, extra)),
        )
    if ports:
        yield Drift("PORTS", f"{direction}: {_some(ports)}", items=frozenset(map(str, ports)))


def _entries(found: Sized, direction: Direction) -> str:
    return f"1 {direction} entry is" if len(found) == 1 else f"{len(found)} {direction} entries are"


def _pods(found: Sized, kind: str = "") -> str:
    return f"1 {kind}pod is" if len(found) == 1 else f"{len(found)} {kind}pods are"


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
        yield Drift("PODS_MISSING", f"{_pods(missing, 'selected ')} not listed: {names}", frozenset(missing))
    if extra:
        names = _some([f"{namespace}/{name}" for namespace, name in extra])
        text = f"{_pods(extra)} listed that the policy does not select: {names}"
        yield Drift("PODS_EXTRA", text, frozenset(extra))


def _spec_differs(found: Resolution, slices: list[Json]) -> Iterator[Drift]:
    """What is copied from the policy, and stays behind when the policy is edited (controller issue 643)."""
    if kind_of(found.policy) == CLUSTER_POLICY:
        yield from _rank_differs(found.policy, slices)
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


def _rank_differs(policy: Json, slices: list[Json]) -> Iterator[Drift]:
    wanted = tiers.tier_of(policy), tiers.priority_of(policy)
    for endpoint in slices:
        spec = endpoint.get("spec") or {}
        there = tiers.tier_of({"spec": spec}), tiers.priority_of({"spec": spec})
        if there != wanted:
            text = (
                f"{name_of(endpoint)} is in the {there[0]} tier with priority {there[1]}, the policy in the "
                f"{wanted[0]} tier with priority {wanted[1]}"
            )
            yield Drift("RANK", text)
            break


def _list(kinds: Iterable[str]) -> str:
    return f"[{', '.join(sorted(kinds))}]"
