"""NetworkPolicy -> the entries that the EKS network policy controller makes of it, each with its YAML path.

Rules of the controller, not of Kubernetes, where the two differ: rules of a direction that policyTypes does
not list are shipped too, selector peers of egress rules bring the ClusterIPs of Services whose selector
satisfies the peer's podSelector, rules whose ports cannot be resolved vanish (pkg/resolvers of
amazon-network-policy-controller-k8s).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.model.flow import Direction, Network, host_network
from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy import selectors
from kubectl_netpol.policy.ports import Port
from kubectl_netpol.policy.world import (
    World,
    cluster_ips,
    container_ports,
    name_of,
    namespace_of,
    node_addresses,
    node_of,
    on_host_network,
    pod_ip,
    ref,
)

Json = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """One entry that a rule should bring: who is meant, as which prefix, on which ports."""

    policy: str
    direction: Direction
    path: str
    """YAML path of the rule's peer: `spec.ingress[0].from[0]`."""
    selects: str
    """The peer in words: `pods access=true`."""
    who: str
    """What it resolved to: `pod default/accesstrue`, or the block itself."""
    prefix: Network
    ports: tuple[Port, ...]
    """Empty: all ports."""
    excepts: tuple[Network, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A peer that resolves to nothing, and why."""

    policy: str
    direction: Direction
    path: str
    selects: str
    reason: str


ANYWHERE = ("0.0.0.0/0", "::/0")


def resolve(policy: Json, direction: Direction, target: Json, world: World) -> tuple[list[Wanted], list[Skipped]]:
    """All entries of one direction of one policy, as seen by one selected pod (named ingress ports)."""
    wanted: list[Wanted] = []
    skipped: list[Skipped] = []
    for rule in np.rule_peers(policy, direction):
        before = len(wanted)
        wanted.extend(_resolve_rule(rule, target, world))
        if len(wanted) == before:
            reason = _why_nothing(rule, target, world)
            skipped.append(Skipped(rule.policy_name, direction, rule.path, np.peer_text(rule.peer), reason))
    return wanted, skipped


def _resolve_rule(rule: np.RulePeer, target: Json, world: World) -> Iterator[Wanted]:
    peer = rule.peer
    if peer is None or peer.get("ipBlock"):
        yield from _blocks(rule, target, world)
        return
    incoming = rule.direction is Direction.INGRESS
    received = _ingress_ports(rule, target, world) if incoming else None
    for pod in np.peer_pods(rule, world):
        ports = received if incoming else np.resolve_ports(rule.ports, pod)
        address = _peer_address(pod, world)
        if ports is not None and address is not None:
            yield _wanted(rule, f"pod {ref(pod)}", address, ports)
    if rule.direction is Direction.EGRESS:
        yield from _services(rule, world)


def _wanted(
    rule: np.RulePeer, who: str, prefix: Network, ports: tuple[Port, ...], excepts: tuple[Network, ...] = ()
) -> Wanted:
    text = np.peer_text(rule.peer)
    return Wanted(rule.policy_name, rule.direction, rule.path, text, who, prefix, ports, excepts)


def _ingress_ports(rule: np.RulePeer, target: Json, world: World) -> tuple[Port, ...] | None:
    """Named ports as all selected pods have them: the controller gives every pod the union."""
    pods = [pod for pod in world.pods_of.get(namespace_of(target), ()) if np.selects(rule.policy, pod)]
    found = [np.resolve_ports(rule.ports, pod) for pod in pods or [target]]
    known = [ports for ports in found if ports is not None]
    return tuple(sorted({port for ports in known for port in ports})) if known else None


def _blocks(rule: np.RulePeer, target: Json, world: World) -> Iterator[Wanted]:
    block = (rule.peer or {}).get("ipBlock") or {}
    # Named ports cannot be resolved for addresses: only an ingress rule knows the receiving pods.
    if rule.direction is Direction.INGRESS:
        ports = _ingress_ports(rule, target, world)
    else:
        ports = np.resolve_ports(rule.ports, None)
    if ports is None:
        return
    excepts = tuple(n for text in block.get("except") or () if (n := np.parse_network(text)))
    for text in [block["cidr"]] if block else ANYWHERE:
        network = np.parse_network(text)
        if network is not None:
            yield _wanted(rule, str(network) if block else "anybody", network, ports, excepts)


def _peer_address(pod: Json, world: World) -> Network | None:
    """The pod's first address; a hostNetwork pod is a peer with its node's address."""
    address = pod_ip(pod)
    if address is None and on_host_network(pod):
        node = world.nodes.get(node_of(pod))
        address = next(iter(node_addresses(node)), None) if node else None
    return host_network(address) if address else None


def _services(rule: np.RulePeer, world: World) -> Iterator[Wanted]:
    """ClusterIPs of the Services whose own selector satisfies the peer's podSelector."""
    selector = (rule.peer or {}).get("podSelector") or {}
    for namespace in np.peer_namespaces(rule, world):
        for service in world.services_of.get(namespace, ()):
            spec = service.get("spec") or {}
            addresses = cluster_ips(service)
            if not addresses or not selectors.matches(selector, spec.get("selector") or {}):
                continue
            ports = _service_ports(rule, service, world)
            if ports is not None:
                yield _wanted(rule, f"service {ref(service)}", host_network(addresses[0]), ports)


def _service_ports(rule: np.RulePeer, service: Json, world: World) -> tuple[Port, ...] | None:
    """The rule's ports translated to Service ports; None where none of them has one."""
    if not rule.ports:
        return ()
    found = []
    for port in rule.ports:
        protocol, value = str(port.get("protocol") or "TCP"), port.get("port")
        if value is None:
            found.append(Port(protocol))
            continue
        match = _service_port(value, protocol, service, world)
        if match is not None:
            found.append(Port(protocol, int(match["port"]), int(port.get("endPort") or 0)))
    return tuple(found) or None


def _service_port(wanted: object, protocol: str, service: Json, world: World) -> Json | None:
    """The first Service port with that target: same type and text, else through a backing pod's ports."""
    entries = [
        entry
        for entry in (service.get("spec") or {}).get("ports") or ()
        if (entry.get("protocol") or "TCP") == protocol
    ]
    for entry in entries:
        target = entry.get("targetPort", entry.get("port"))
        if target == wanted and type(target) is type(wanted):
            return dict(entry)
    selector = {"matchLabels": (service.get("spec") or {}).get("selector") or {}}
    pods = world.pods_of.get(namespace_of(service), ())
    backing = next((p for p in pods if selectors.matches(selector, p["metadata"].get("labels") or {})), None)
    for entry in entries:
        for port in container_ports(backing) if backing else ():
            if {wanted, entry.get("targetPort")} == {port.get("name"), port.get("containerPort")}:
                return dict(entry)
    return None


def _why_nothing(rule: np.RulePeer, target: Json, world: World) -> str:
    peer = rule.peer
    if peer is None or peer.get("ipBlock"):
        if peer and np.parse_network(peer["ipBlock"].get("cidr")) is None:
            return "the ipBlock has no valid cidr"
        if rule.direction is Direction.EGRESS:
            return "a named port cannot be resolved for addresses, so the controller drops it"
        return f"{name_of(target)} has no container port of that name"
    if not np.peer_namespaces(rule, world):
        return "no namespace matches"
    if not np.peer_pods(rule, world):
        return "no running pod matches"
    return "no matching pod has a container port of that name"
