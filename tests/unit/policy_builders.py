"""Builders for the policies of EKS itself, and one-line texts of what is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kubectl_netpol.model.flow import Direction
from kubectl_netpol.policy import controller, modelled
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.world import APPLICATION_POLICY, CLUSTER_POLICY, World, kind_of, name_of, namespace_of
from tests.unit.builders import Json, endpoint, entry, meta, policy, world

EVERYWHERE: Json = {"namespaces": {}}
"""A subject: all pods of the cluster."""


def anp(name: str = "app", **more: Any) -> Json:
    """An ApplicationNetworkPolicy; arguments as of a NetworkPolicy."""
    return policy(name, **more)


def cnp(
    name: str = "guard",
    *,
    tier: str = "Admin",
    priority: int = 10,
    subject: Json | None = None,
    ingress: Sequence[Json] = (),
    egress: Sequence[Json] = (),
) -> Json:
    """A ClusterNetworkPolicy; without ``subject`` it means everybody."""
    spec = {"tier": tier, "priority": priority, "subject": EVERYWHERE if subject is None else subject}
    return {"metadata": meta(name), "spec": {**spec, "ingress": list(ingress), "egress": list(egress)}}


def rule(action: str, *peers: Json, ports: Sequence[Json] | None = None, side: str = "from", name: str = "") -> Json:
    """One rule of a ClusterNetworkPolicy."""
    found: Json = {"action": action, side: list(peers)}
    if ports is not None:
        found["ports"] = list(ports)
    if name:
        found["name"] = name
    return found


def to(action: str, *peers: Json, ports: Sequence[Json] | None = None, name: str = "") -> Json:
    return rule(action, *peers, ports=ports, side="to", name=name)


def pods(labels: Mapping[str, str] | None = None, namespaces: Mapping[str, str] | None = None) -> Json:
    """A subject or peer of a ClusterNetworkPolicy by two selectors."""
    return {"pods": {"namespaceSelector": _selector(namespaces), "podSelector": _selector(labels)}}


def _selector(labels: Mapping[str, str] | None) -> Json:
    return {"matchLabels": dict(labels)} if labels else {}


def number(port: int, protocol: str | None = "TCP") -> Json:
    return {"portNumber": {"port": port, **({"protocol": protocol} if protocol else {})}}


def span(start: int, end: int, protocol: str | None = "TCP") -> Json:
    return {"portRange": {"start": start, "end": end, **({"protocol": protocol} if protocol else {})}}


def cluster_endpoint(
    policy_name: str = "guard",
    *,
    tier: str = "Admin",
    priority: int = 10,
    pods: Iterable[Json] = (),
    ingress: Sequence[Json] | None = None,
    egress: Sequence[Json] | None = None,
    suffix: str = "abcde",
) -> Json:
    """One slice of a ClusterPolicyEndpoint."""
    found = endpoint(policy_name, suffix=suffix, namespace="", pods=pods, ingress=ingress, egress=egress)
    found["spec"] |= {"policyRef": {"name": policy_name}, "tier": tier, "priority": priority}
    del found["spec"]["podIsolation"]
    return found


def acts(action: str, cidr: str, *ports: Json) -> Json:
    """One element of a ClusterPolicyEndpoint."""
    return {**entry(cidr, *ports), "action": action}


COLLECTIONS = {APPLICATION_POLICY: "applicationnetworkpolicies", CLUSTER_POLICY: "clusternetworkpolicies"}


def with_policy(kind: str, made: Json, **objects: Any) -> tuple[World, Json]:
    """A cluster with one policy more, and that policy as the product sees it: with its kind."""
    plural = COLLECTIONS.get(kind, "networkpolicies")
    objects[plural] = [*objects.get(plural, ()), made]
    cluster = world(**objects)
    every = (*cluster.cluster_policies, *_namespaced(cluster))
    key = (kind, namespace_of(made), name_of(made))
    return cluster, next(p for p in every if (kind_of(p), namespace_of(p), name_of(p)) == key)


def _namespaced(cluster: World) -> list[Json]:
    indexes = (cluster.policies_of, cluster.application_policies_of)
    return [one for index in indexes for policies in index.values() for one in policies]


def elements(kind: str, made: Json, direction: Direction, **objects: Any) -> list[str]:
    """What the controller makes of one direction of a policy: `10.0.0.0/8 except 10.1.0.0/16 80/TCP`, sorted."""
    cluster, known = with_policy(kind, made, **objects)
    slice_ = modelled.endpoint_of(controller.resolution(known, cluster))
    return sorted(element_text(one) for one in slice_["spec"][direction.value])


def element_text(element: Json) -> str:
    """`Deny 10.0.1.1 80/TCP,81/TCP`: the action only where the element has one, nothing for all ports."""
    parts = [element.get("action", ""), element.get("cidr") or element["domainName"]]
    if element.get("except"):
        parts += ["except", ",".join(element["except"])]
    ports = tuple(port_lists.from_endpoint(port) for port in element.get("ports") or ())
    parts.append(port_lists.text(ports).replace(", ", ",") if ports else "")
    return " ".join(filter(None, parts))


def listed(kind: str, made: Json, **objects: Any) -> dict[str, str]:
    """The pods that the controller lists, with their addresses."""
    cluster, known = with_policy(kind, made, **objects)
    slice_ = modelled.endpoint_of(controller.resolution(known, cluster))
    return {f"{p['namespace']}/{p['name']}": p["podIP"] for p in slice_["spec"]["podSelectorEndpoints"]}
