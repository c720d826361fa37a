"""PolicyEndpoints: what the controller resolved, over all slices, and what they decide for a flow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.kernel.identity import pod_part
from kubectl_netpol.model.flow import Direction, Network
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.networkpolicy import Ends, parse_network
from kubectl_netpol.policy.ports import Port
from kubectl_netpol.policy.world import World, name_of, namespace_of, node_of, on_host_network, pod_ips, ref

Json = dict[str, Any]


@dataclass(frozen=True)
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


def policy_of(endpoint: Json) -> str:
    reference = (endpoint.get("spec") or {}).get("policyRef") or {}
    return str(reference.get("name") or "")


def lists(endpoint: Json) -> Iterator[tuple[str, str]]:
    """(namespace, name) of the pods that a PolicyEndpoint lists."""
    for entry in (endpoint.get("spec") or {}).get("podSelectorEndpoints") or ():
        yield str(entry.get("namespace") or namespace_of(endpoint)), str(entry.get("name") or "")


def of_pod(world: World, pod: Json) -> list[Json]:
    """All slices of all policies that list this pod in at least one slice."""
    key = namespace_of(pod), name_of(pod)
    return _slices(world, namespace_of(pod), lambda listed: listed == key)


def of_identifier(world: World, pod: Json) -> list[Json]:
    """All slices of all policies that list a pod with the pod identifier of this one.

    This, not ``of_pod``, is what the agent programs: maps belong to the identifier, and pods that share it
    (replicas, but also bare pods `web-a` and `web-b`) share one set of rules.
    """
    namespace, part = namespace_of(pod), pod_part(name_of(pod))
    return _slices(world, namespace, lambda listed: listed[0] == namespace and pod_part(listed[1]) == part)


def _slices(world: World, namespace: str, wanted: Any) -> list[Json]:
    endpoints = world.endpoints_of.get(namespace, ())
    policies = {policy_of(endpoint) for endpoint in endpoints if any(wanted(pod) for pod in lists(endpoint))}
    return [endpoint for endpoint in endpoints if policy_of(endpoint) in policies]


def entries(endpoints: Iterable[Json], direction: Direction) -> Iterator[EndpointEntry]:
    """The elements that have a CIDR; those with a domainName only are not programmed by the open agent."""
    for endpoint in endpoints:
        for number, element in enumerate((endpoint.get("spec") or {}).get(direction.value) or ()):
            network = parse_network(element.get("cidr"))
            if network is None:
                continue
            yield EndpointEntry(
                endpoint=name_of(endpoint),
                policy=policy_of(endpoint),
                direction=direction,
                path=f"spec.{direction.value}[{number}]",
                prefix=network,
                ports=tuple(port_lists.from_endpoint(port) for port in element.get("ports") or ()),
                excepts=tuple(n for text in element.get("except") or () if (n := parse_network(text))),
            )


def isolates(endpoints: Iterable[Json], direction: Direction) -> list[str]:
    """Names of the policies whose podIsolation (a copy of policyTypes) lists the direction."""
    kind = direction.value.capitalize()
    return sorted({policy_of(e) for e in endpoints if kind in ((e.get("spec") or {}).get("podIsolation") or ())})


def evaluate(ends: Ends, world: World) -> Verdict:
    """The ENDPOINTS verdict of one leg: what the resolved entries of the pod's own policies say."""
    layer, pod, direction = Layer.ENDPOINTS, ends.pod, ends.direction
    collection = world.snapshot.get("policyendpoints")
    if collection.absent:
        why = "the PolicyEndpoint CRD is not installed: NetworkPolicy is not enforced by the VPC CNI here"
        return Verdict(layer, Decision.ALLOW, "NO_CRD", why)
    if not collection.known:
        return Verdict(layer, Decision.UNKNOWN, "NOT_READ", f"policyendpoints: {collection.reason}")
    if on_host_network(pod):
        why = f"{ref(pod)} uses the host network: it is in no PolicyEndpoint"
        return Verdict(layer, Decision.ALLOW, "HOST_NETWORK", why)
    endpoints = of_pod(world, pod)
    if not endpoints:
        return Verdict(layer, Decision.ALLOW, "NOT_LISTED", f"no PolicyEndpoint lists {ref(pod)}")
    names = ", ".join(sorted({name_of(endpoint) for endpoint in endpoints}))
    if ends.peer == world.own_node_address(pod, ends.peer.version):
        why = f"the agent adds the address of the own node ({node_of(pod)}) to what {names} lists"
        return Verdict(layer, Decision.ALLOW, "OWN_NODE", why)
    rules = list(entries(endpoints, direction))
    if not rules and not isolates(endpoints, direction):
        return Verdict(layer, Decision.ALLOW, "NOT_ISOLATED", f"{names} does not restrict {direction}")
    return _by_entries(ends, rules, names)


def _by_entries(ends: Ends, rules: list[EndpointEntry], names: str) -> Verdict:
    covering = [rule for rule in rules if rule.prefix.version == ends.peer.version and ends.peer in rule.prefix]
    misses = []
    for rule in covering:
        where = f"{rule.endpoint} {rule.path}: {rule.prefix}"
        excluded = next((e for e in rule.excepts if e.version == ends.peer.version and ends.peer in e), None)
        if excluded is not None:
            misses.append(f"{where} excepts {excluded}")
        elif not port_lists.admits(rule.ports, ends.flow):
            misses.append(f"{where} allows {port_lists.text(rule.ports)}, not {ends.flow.port_text}")
        else:
            why = f"{where} on {port_lists.text(rule.ports)}"
            return Verdict(Layer.ENDPOINTS, Decision.ALLOW, "ENTRY_ALLOWS", why)
    what = "admits" if covering else "contains"
    rest = f"{ends.peer} on {ends.flow.port_text}" if covering else str(ends.peer)
    why = f"no {ends.direction} entry of {names} {what} {rest}"
    return Verdict(Layer.ENDPOINTS, Decision.DENY, "NO_ENTRY", why, tuple(misses))


def listed_ips(world: World, pod: Json) -> set[str]:
    """The addresses under which PolicyEndpoints list this pod."""
    key = namespace_of(pod), name_of(pod)
    return {
        str(entry.get("podIP"))
        for endpoint in world.endpoints_of.get(namespace_of(pod), ())
        for entry in (endpoint.get("spec") or {}).get("podSelectorEndpoints") or ()
        if (str(entry.get("namespace") or namespace_of(endpoint)), str(entry.get("name") or "")) == key
    }


def stale_address(world: World, pod: Json) -> str:
    """The listed address, where it is not one of the pod's own; empty otherwise."""
    own = {str(address) for address in pod_ips(pod)}
    wrong = sorted(ip for ip in listed_ips(world, pod) if ip not in own)
    return ", ".join(wrong)
