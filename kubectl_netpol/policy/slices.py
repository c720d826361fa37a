"""The PolicyEndpoints of one namespace, or of the cluster, filed by policy, by listed pod and by address.

A policy that means every pod has an entry for each of them, and a flow meets one or two. So entries are found by what
is written in them, and only those that are found are parsed; all of them are parsed once, for whoever needs all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kubectl_netpol.kernel.identity import pod_part
from kubectl_netpol.model.flow import Address, Direction, Network
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.networkpolicy import parse_network
from kubectl_netpol.policy.ports import Port
from kubectl_netpol.policy.world import name_of, namespace_of, plain_name

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EndpointEntry:
    """One ingress or egress element of a PolicyEndpoint."""

    endpoint: str
    """Name of the PolicyEndpoint."""
    policy: str
    """Name of the policy it was made from (spec.policyRef, never parsed from the object's name)."""
    direction: Direction
    path: str
    """`spec.ingress[3]`."""
    prefix: Network
    ports: tuple[Port, ...]
    excepts: tuple[Network, ...] = ()
    text: str = ""
    """The cidr as it is written: older agents tell `10.1.2.3/8` from `10.0.0.0/8`."""
    except_texts: tuple[str, ...] = ()
    action: str = "Accept"
    tier: str = ""
    """Of ClusterPolicyEndpoints: Admin | Baseline."""
    priority: int = 0


def policy_of(endpoint: Json) -> str:
    reference = (endpoint.get("spec") or {}).get("policyRef") or {}
    return plain_name(str(reference.get("name") or ""))


def lists(endpoint: Json) -> Iterator[tuple[str, str]]:
    """(namespace, name) of the pods that a PolicyEndpoint lists."""
    for entry in (endpoint.get("spec") or {}).get("podSelectorEndpoints") or ():
        place = str(entry.get("namespace") or "") or namespace_of(endpoint)
        yield plain_name(place), plain_name(str(entry.get("name") or ""))


def elements(endpoint: Json, direction: Direction) -> Sequence[Json]:
    """The elements of one direction, as they are written."""
    return (endpoint.get("spec") or {}).get(direction.value) or ()


def parse(endpoint: Json, direction: Direction, number: int) -> EndpointEntry | None:
    """One element; None where it has no CIDR."""
    element = elements(endpoint, direction)[number]
    network = parse_network(element.get("cidr"))
    if network is None:
        return None
    spec = endpoint["spec"]
    excepts = element.get("except") or ()
    return EndpointEntry(
        endpoint=name_of(endpoint),
        policy=policy_of(endpoint),
        direction=direction,
        path=f"spec.{direction.value}[{number}]",
        prefix=network,
        ports=tuple(port_lists.from_endpoint(port) for port in element.get("ports") or ()),
        excepts=tuple(n for text in excepts if (n := parse_network(text))),
        text=str(element["cidr"]),
        except_texts=tuple(str(text) for text in excepts),
        action=str(element.get("action") or "Accept"),
        tier=str(spec.get("tier") or ""),
        priority=_priority(spec),
    )


def _priority(spec: Json) -> int:
    value = spec.get("priority")
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def parse_all(endpoints: Iterable[Json], direction: Direction) -> Iterator[EndpointEntry]:
    """All elements that have a CIDR."""
    for endpoint in endpoints:
        for number in range(len(elements(endpoint, direction))):
            entry = parse(endpoint, direction, number)
            if entry is not None:
                yield entry


Place = tuple[int, int]
"""(which slice, which element)."""


class _Addresses:
    """Where in the slices of a policy an address is, without parsing what is written as one address."""

    def __init__(self, endpoints: Sequence[Json], direction: Direction) -> None:
        self._hosts: dict[str, list[Place]] = defaultdict(list)
        self._blocks: dict[tuple[int, int], dict[int, list[Place]]] = defaultdict(lambda: defaultdict(list))
        for slice_, endpoint in enumerate(endpoints):
            for number, element in enumerate(elements(endpoint, direction)):
                self._file(element.get("cidr"), (slice_, number))

    def _file(self, text: object, place: Place) -> None:
        if isinstance(text, str) and "/" not in text and ":" not in text:
            # One IPv4 address has one spelling; whatever else this may be is never asked for.
            self._hosts[text].append(place)
            return
        network = parse_network(text)
        if network is None:
            return
        base, length = network.network_address, network.prefixlen
        if length == network.max_prefixlen:
            self._hosts[str(base)].append(place)
        else:
            self._blocks[network.version, length][int(base) >> (network.max_prefixlen - length)].append(place)

    def holding(self, address: Address, text: str) -> Sequence[Place]:
        """The elements whose prefix holds the address, in the order of the slices. ``text``: the address again."""
        hosts = self._hosts.get(text, ())
        if not self._blocks:
            return hosts
        found = [*hosts]
        for (version, length), blocks in self._blocks.items():
            if version == address.version:
                found += blocks.get(int(address) >> (address.max_prefixlen - length), ())
        return sorted(found)


class PolicySlices:
    """All slices of one policy."""

    def __init__(self) -> None:
        self.endpoints: list[Json] = []
        self._entries: dict[Direction, tuple[EndpointEntry, ...]] = {}
        self._addresses: dict[Direction, _Addresses] = {}

    def entries(self, direction: Direction) -> tuple[EndpointEntry, ...]:
        if direction not in self._entries:
            self._entries[direction] = tuple(parse_all(self.endpoints, direction))
        return self._entries[direction]

    def has_entries(self, direction: Direction) -> bool:
        return any(True for _ in self._entries.get(direction) or parse_all(self.endpoints, direction))

    def holding(self, direction: Direction, address: Address, text: str) -> Iterator[EndpointEntry]:
        """The entries whose prefix holds the address; ``text`` is its text."""
        if direction not in self._addresses:
            self._addresses[direction] = _Addresses(self.endpoints, direction)
        for slice_, number in self._addresses[direction].holding(address, text):
            entry = parse(self.endpoints[slice_], direction, number)
            if entry is not None:
                yield entry


SHOWN = 4
"""PolicyEndpoints that one sentence names."""


class Slices(list[Json]):
    """All slices of the policies that list a pod, with what is asked of them again and again."""

    def __init__(self, policies: Iterable[PolicySlices]) -> None:
        self._policies = tuple(policies)
        super().__init__(endpoint for policy in self._policies for endpoint in policy.endpoints)

    @cached_property
    def names(self) -> str:
        """Their names, as a sentence has it: of many the first and how many more."""
        found = sorted({name_of(endpoint) for endpoint in self})
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return ", ".join(found[:SHOWN]) + more

    def entries(self, direction: Direction) -> Iterator[EndpointEntry]:
        """All entries of one direction; parsed once for all pods that a policy lists."""
        for policy in self._policies:
            yield from policy.entries(direction)

    def has_entries(self, direction: Direction) -> bool:
        return any(policy.has_entries(direction) for policy in self._policies)

    def holding(self, direction: Direction, address: Address) -> list[EndpointEntry]:
        """The entries whose prefix holds an address."""
        text = str(address)
        return [entry for policy in self._policies for entry in policy.holding(direction, address, text)]


class EndpointIndex:
    """The PolicyEndpoints of one namespace, or those of the cluster, by policy, by listed pod and by pod identifier."""

    def __init__(self, endpoints: Sequence[Json]) -> None:
        self._policies: dict[str, PolicySlices] = defaultdict(PolicySlices)
        for endpoint in endpoints:
            self._policies[policy_of(endpoint)].endpoints.append(endpoint)
        self._parts: dict[str, dict[str, list[str]]] = {}
        self._sets: dict[tuple[str, ...], Slices] = {}

    @cached_property
    def _of_pod(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """Namespace -> pod -> policies. Pods of the same policies share one tuple."""
        found: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
        longer: dict[tuple[tuple[str, ...], str], tuple[str, ...]] = {}
        for policy, slices in self._policies.items():
            for endpoint in slices.endpoints:
                for namespace, name in lists(endpoint):
                    before = found[namespace].get(name, ())
                    if before[-1:] != (policy,):
                        found[namespace][name] = longer.setdefault((before, policy), (*before, policy))
        return found

    @cached_property
    def _addresses(self) -> Mapping[tuple[str, str], set[str]]:
        """(namespace, name) of a listed pod -> the addresses that it is listed with."""
        found: dict[tuple[str, str], set[str]] = defaultdict(set)
        for slices in self._policies.values():
            for endpoint in slices.endpoints:
                listed = (endpoint.get("spec") or {}).get("podSelectorEndpoints") or ()
                for key, entry in zip(lists(endpoint), listed, strict=True):
                    found[key].add(str(entry.get("podIP")))
        return found

    def addresses_of(self, namespace: str, name: str) -> set[str]:
        """The addresses under which a pod is listed."""
        return set(self._addresses.get((namespace, name), ()))

    def of_policy(self, name: str) -> list[Json]:
        """All slices of one policy."""
        return self._policies[name].endpoints if name in self._policies else []

    def of_pod(self, namespace: str, name: str) -> Slices:
        return self._slices(self._of_pod.get(namespace, {}).get(name, ()))

    def of_part(self, namespace: str, part: str) -> Slices:
        found = self._of_pod.get(namespace, {})
        sets = {found[name] for name in self.pods_of_part(namespace, part)}
        if len(sets) == 1:
            return self._slices(sets.pop())
        listed = {policy for policies in sets for policy in policies}
        return self._slices(tuple(policy for policy in self._policies if policy in listed))

    def pods_of_part(self, namespace: str, part: str) -> Sequence[str]:
        """Names of the listed pods of a namespace that have this part of a pod identifier."""
        if namespace not in self._parts:
            parts: dict[str, list[str]] = defaultdict(list)
            for name in self._of_pod.get(namespace, {}):
                parts[pod_part(name)].append(name)
            self._parts[namespace] = parts
        return self._parts[namespace].get(part, ())

    def _slices(self, policies: tuple[str, ...]) -> Slices:
        if policies not in self._sets:
            self._sets[policies] = Slices(self._policies[policy] for policy in policies)
        return self._sets[policies]
