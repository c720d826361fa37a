"""PolicyEndpoints as the controller's model makes them: the cluster as it should be, or would be.

Each policy gets one PolicyEndpoint in the place of its slices: what agents make of them is the union of all slices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kubectl_netpol.model.flow import Direction, Network
from kubectl_netpol.model.snapshot import Collection, Snapshot
from kubectl_netpol.policy import controller
from kubectl_netpol.policy.controller import Resolution
from kubectl_netpol.policy.ports import ALL_PORTS, Port
from kubectl_netpol.policy.world import CLUSTER_POLICY, World, kind_of, name_of, namespace_of

Json = dict[str, Any]

SUFFIX = "modelled"
"""In the place of the five random characters of a real PolicyEndpoint's name."""


def endpoint_of(found: Resolution) -> Json:
    """One PolicyEndpoint (or ClusterPolicyEndpoint) with all that the controller makes of a policy."""
    policy = found.policy
    spec: Json = {
        "policyRef": {"name": name_of(policy), "namespace": namespace_of(policy)},
        "podIsolation": list(found.isolation),
        "podSelectorEndpoints": [_listed(pod) for pod in found.pods],
    }
    if kind_of(policy) == CLUSTER_POLICY:
        own = policy.get("spec") or {}
        spec |= {"tier": own.get("tier") or "Admin", "priority": own.get("priority") or 0}
    for direction in Direction:
        entries = controller.written(found, direction)
        spec[direction.value] = [_element(key, ports, policy) for key, ports in entries.items()]
    spec["egress"] += [_domain(one, policy) for one in found.domains]
    return {
        "metadata": {"name": f"{name_of(policy)}-{SUFFIX}", "namespace": namespace_of(policy)},
        "spec": spec,
    }


def _listed(pod: Json) -> Json:
    return {
        "name": name_of(pod),
        "namespace": namespace_of(pod),
        "podIP": str(controller.address_of(pod)),
        "hostIP": (pod.get("status") or {}).get("hostIP"),
    }


def _element(key: controller.Key, ports: Iterable[Port], policy: Json) -> Json:
    prefix, excepts, action = key
    element: Json = {"cidr": _text(prefix)}
    if excepts:
        element["except"] = [str(network) for network in excepts]
    limited = [_port(port) for port in sorted(ports) if port != ALL_PORTS[0]]
    if limited:
        element["ports"] = limited
    if kind_of(policy) == CLUSTER_POLICY:
        element["action"] = action
    return element


def _domain(one: controller.Domain, policy: Json) -> Json:
    element: Json = {"domainName": one.name, "ports": [_port(port) for port in one.ports]}
    if kind_of(policy) == CLUSTER_POLICY:
        element["action"] = one.action
    return element


def _text(prefix: Network) -> str:
    """Hosts are written without a length, as the controller does."""
    return str(prefix.network_address) if prefix.prefixlen == prefix.max_prefixlen else str(prefix)


def _port(port: Port) -> Json:
    found: Json = {"protocol": port.protocol} if port.protocol else {}
    if port.number:
        found["port"] = port.number
    if port.end:
        found["endPort"] = port.end
    return found


def modelled(world: World, namespace: str) -> World:
    """The world in which the controller has resolved all policies of one namespace and of the cluster to the end."""
    made = [endpoint_of(controller.resolution(policy, world)) for policy in _policies(world, namespace)]
    cluster = [endpoint_of(controller.resolution(policy, world)) for policy in world.cluster_policies]
    return with_endpoints(world.snapshot, made, cluster)


def _policies(world: World, namespace: str) -> list[Json]:
    return [*world.policies_of.get(namespace, ()), *world.application_policies_of.get(namespace, ())]


def with_endpoints(snapshot: Snapshot, made: Iterable[Json], cluster: Iterable[Json]) -> World:
    """The same cluster with these PolicyEndpoints and ClusterPolicyEndpoints, and no others."""
    collections = {
        **snapshot.collections,
        "policyendpoints": Collection(tuple(made)),
        "clusterpolicyendpoints": Collection(tuple(cluster)),
    }
    return World(replace(snapshot, collections=collections))
