"""PolicyEndpoints: what the controller resolved, over all slices, and what they decide for a flow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from kubectl_netpol.kernel.identity import pod_part
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.verdict import Decision, Layer, Step, Verdict
from kubectl_netpol.policy import controller
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.networkpolicy import ITSELF, Ends, is_itself
from kubectl_netpol.policy.ports import Port
from kubectl_netpol.policy.slices import EndpointEntry as EndpointEntry
from kubectl_netpol.policy.slices import EndpointIndex, Slices, parse_all
from kubectl_netpol.policy.slices import lists as lists
from kubectl_netpol.policy.slices import policy_of as policy_of
from kubectl_netpol.policy.world import (
    CLUSTER_POLICY,
    World,
    kind_of,
    name_of,
    namespace_of,
    node_of,
    on_host_network,
    pod_ips,
    ref,
)

Json = dict[str, Any]


def index(world: World, namespace: str) -> EndpointIndex:
    """The index of one namespace, made once for each."""
    found: EndpointIndex | None = world.endpoint_indexes.get(namespace)
    if found is None:
        found = world.endpoint_indexes[namespace] = EndpointIndex(world.endpoints_of.get(namespace, ()))
    return found


def cluster_index(world: World) -> EndpointIndex:
    """The same of all ClusterPolicyEndpoints, whose pods are of any namespace."""
    found: EndpointIndex | None = world.endpoint_indexes.get("")
    if found is None:
        found = EndpointIndex(world.snapshot.items("clusterpolicyendpoints"))
        world.endpoint_indexes[""] = found
    return found


def of_policy(world: World, policy: Json) -> list[Json]:
    """All slices that were made from a policy of any kind."""
    if kind_of(policy) == CLUSTER_POLICY:
        return cluster_index(world).of_policy(name_of(policy))
    return index(world, namespace_of(policy)).of_policy(name_of(policy))


def of_pod(world: World, pod: Json) -> Slices:
    """All slices of all policies that list this pod in at least one slice."""
    return index(world, namespace_of(pod)).of_pod(namespace_of(pod), name_of(pod))


def of_identifier(world: World, pod: Json) -> Slices:
    """All slices of all policies that list a pod with the pod identifier of this one.

    This, not ``of_pod``, is what the agent programs: maps belong to the identifier, and pods that share it
    (replicas, but also bare pods `web-a` and `web-b`) share one set of rules.
    """
    return index(world, namespace_of(pod)).of_part(namespace_of(pod), pod_part(name_of(pod)))


def restricting(world: World, pod: Json, direction: Direction) -> list[str]:
    """The policies whose PolicyEndpoints restrict a direction of the pod's identifier, whatever the YAML says of it."""
    slices = of_identifier(world, pod)
    found = [policy_of(one) for one in slices if (one.get("spec") or {}).get(direction.value)]
    return list(dict.fromkeys([*found, *isolates(slices, direction)]))


def only_elsewhere(world: World, pod: Json) -> bool:
    """Whether pods with the pod identifier of this one are listed, and none of them is on its node.

    The agent then writes the rules only when something else makes it (agent facts 4.3): a pod that starts while it
    knows them, or a listed pod that comes to the node.
    """
    part, namespace = pod_part(name_of(pod)), namespace_of(pod)
    found = False
    for where in (index(world, namespace), cluster_index(world)):
        for name in where.pods_of_part(namespace, part):
            other = world.pod(namespace, name)
            if other is pod or (other is not None and node_of(other) == node_of(pod)):
                return False
            found = True
    return found


def cluster_of_pod(world: World, pod: Json) -> Slices:
    """The ClusterPolicyEndpoints, all slices, that list this pod."""
    return cluster_index(world).of_pod(namespace_of(pod), name_of(pod))


def cluster_of_identifier(world: World, pod: Json) -> Slices:
    """The same for the pod identifier."""
    return cluster_index(world).of_part(namespace_of(pod), pod_part(name_of(pod)))


def entries(endpoints: Iterable[Json], direction: Direction) -> Iterator[EndpointEntry]:
    """The elements that have a CIDR; those with a domainName only are not programmed by the open agent."""
    return endpoints.entries(direction) if isinstance(endpoints, Slices) else parse_all(endpoints, direction)


def domains(endpoints: Iterable[Json]) -> Iterator[tuple[str, str, tuple[Port, ...]]]:
    """(PolicyEndpoint and path, domain name, ports) of the egress elements that have no CIDR."""
    for endpoint in endpoints:
        for number, element in enumerate((endpoint.get("spec") or {}).get("egress") or ()):
            if element.get("domainName") and not element.get("cidr"):
                ports = tuple(port_lists.from_endpoint(port) for port in element.get("ports") or ())
                yield f"{name_of(endpoint)} spec.egress[{number}]", str(element["domainName"]), ports


def isolates(endpoints: Iterable[Json], direction: Direction) -> list[str]:
    """Names of the policies whose podIsolation (a copy of policyTypes) lists the direction."""
    kind = direction.value.capitalize()
    return sorted({policy_of(e) for e in endpoints if kind in ((e.get("spec") or {}).get("podIsolation") or ())})


def evaluate(ends: Ends, world: World) -> Verdict:
    """The ENDPOINTS verdict of one leg: what the resolved entries of the pod's own policies say, tier by tier."""
    layer, pod = Layer.ENDPOINTS, ends.pod
    collection = world.snapshot.get("policyendpoints")
    if collection.absent and not cluster_of_pod(world, pod):
        why = "the PolicyEndpoint CRD is not installed: NetworkPolicy is not enforced by the VPC CNI here"
        return Verdict(layer, Decision.ALLOW, "NO_CRD", why)
    unread = world.unread("policyendpoints", "clusterpolicyendpoints")
    if unread:
        return Verdict(layer, Decision.UNKNOWN, "NOT_READ", unread)
    if on_host_network(pod):
        why = f"{ref(pod)} uses the host network: it is in no PolicyEndpoint"
        return Verdict(layer, Decision.ALLOW, "HOST_NETWORK", why)
    if is_itself(ends):
        return Verdict(layer, Decision.ALLOW, "ITSELF", f"{ref(pod)} {ITSELF}")
    cluster = cluster_of_pod(world, pod)
    if not cluster:
        found = _by_network_policies(ends, world)
        return replace(found, chain=_steps(found))
    return _by_tiers(ends, world, cluster)


def _by_network_policies(ends: Ends, world: World) -> Verdict:
    """The tier of NetworkPolicies and ApplicationNetworkPolicies."""
    layer, pod, direction = Layer.ENDPOINTS, ends.pod, ends.direction
    endpoints = of_pod(world, pod)
    if not endpoints:
        return Verdict(layer, Decision.ALLOW, "NOT_LISTED", f"no PolicyEndpoint lists {ref(pod)}")
    names = endpoints.names
    if not endpoints.has_entries(direction) and not isolates(endpoints, direction):
        return Verdict(layer, Decision.ALLOW, "NOT_ISOLATED", f"{names} does not restrict {direction}")
    if ends.peer == world.own_node_address(pod, ends.peer.version):
        why = f"the agent adds the address of the own node ({node_of(pod)}) to what {names} lists"
        return Verdict(layer, Decision.ALLOW, "OWN_NODE", why)
    return _by_entries(ends, endpoints.holding(direction, ends.peer), names)


def _steps(found: Verdict) -> tuple[Step, ...]:
    if found.code in ("NOT_LISTED", "NOT_ISOLATED"):
        return Step("NetworkPolicy", "not isolated"), Step("default", "Allow")
    word = {Decision.ALLOW: "Accept", Decision.DENY: "Deny"}.get(found.decision)
    by = found.why.partition(": ")[0] if found.code == "ENTRY_ALLOWS" else ""
    return (Step("NetworkPolicy", word, by),) if word else ()


ACTIONS = {"Deny": 0, "Accept": 1, "Pass": 2}


def _by_tiers(ends: Ends, world: World, cluster: Slices) -> Verdict:
    """Lowest priority first; within one, Deny before Accept before Pass: rules have no order any more (facts 6.6)."""
    layer = Layer.ENDPOINTS
    holding = cluster.holding(ends.direction, ends.peer)
    found = [entry for entry in holding if port_lists.admits(entry.ports, ends.flow)]
    admin, baseline = (_winner(found, tier) for tier in ("Admin", "Baseline"))
    chain = [_cluster_step("Admin", admin)]
    if admin is not None and admin.action != "Pass":
        return _tier_verdict("Admin", admin, chain)
    middle = _by_network_policies(ends, world)
    if middle.code not in ("NOT_LISTED", "NOT_ISOLATED"):
        return replace(middle, chain=(*chain, *_steps(middle)))
    chain += [Step("NetworkPolicy", "not isolated"), _cluster_step("Baseline", baseline)]
    if baseline is not None and baseline.action != "Pass":
        return _tier_verdict("Baseline", baseline, chain)
    why = f"no {ends.direction} entry of {cluster.names} means {ends.peer} on {ends.flow.port_text}; {middle.why}"
    return Verdict(layer, Decision.ALLOW, "NOT_ISOLATED", why, chain=(*chain, Step("default", "Allow")))


def _winner(found: Iterable[EndpointEntry], tier: str) -> EndpointEntry | None:
    mine = [entry for entry in found if (entry.tier == "Baseline") == (tier == "Baseline")]
    return min(mine, key=lambda entry: (entry.priority, ACTIONS.get(entry.action, 9)), default=None)


def _cluster_step(tier: str, entry: EndpointEntry | None) -> Step:
    if entry is None:
        return Step(tier, "nothing matches")
    return Step(tier, entry.action, f"{entry.endpoint} (priority {entry.priority}) {entry.path}")


def _tier_verdict(tier: str, entry: EndpointEntry, chain: list[Step]) -> Verdict:
    allowed = entry.action == "Accept"
    why = (
        f"{entry.endpoint} {entry.path}: {entry.prefix} on {port_lists.text(entry.ports)}: "
        f"{entry.action} in the {tier} tier, priority {entry.priority}"
    )
    code = f"{tier.upper()}_{'ACCEPT' if allowed else 'DENY'}"
    decision = Decision.ALLOW if allowed else Decision.DENY
    return Verdict(Layer.ENDPOINTS, decision, code, why, chain=tuple(chain))


def _by_entries(ends: Ends, covering: list[EndpointEntry], names: str) -> Verdict:
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
    return index(world, namespace_of(pod)).addresses_of(namespace_of(pod), name_of(pod))


def stale_address(world: World, pod: Json) -> str:
    """The listed address, where it is not one of the pod's own; empty otherwise."""
    own = {str(address) for address in (*pod_ips(pod), controller.address_of(pod))}
    wrong = sorted(ip for ip in listed_ips(world, pod) if ip not in own)
    return ", ".join(wrong)
