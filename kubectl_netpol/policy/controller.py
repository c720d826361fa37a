"""Policies -> the entries that the EKS network policy controller makes of them, each with its YAML path.

Rules of the controller, not of Kubernetes, where the two differ: rules of a direction that policyTypes does
not list are shipped too, selector peers of egress rules bring the ClusterIPs of Services whose selector
satisfies the peer's podSelector, rules whose ports cannot be resolved vanish (pkg/resolvers of
amazon-network-policy-controller-k8s). Modelled is the newest release; what older ones do differently and what can be
seen of it is told in ``policy.resolution``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.model.flow import Address, Direction, Network, host_network
from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy import tiers
from kubectl_netpol.policy.networkpolicy import RulePeer
from kubectl_netpol.policy.ports import ALL_PORTS, Port
from kubectl_netpol.policy.world import (
    APPLICATION_POLICY,
    CLUSTER_POLICY,
    World,
    cluster_ips,
    container_ports,
    finished,
    kind_of,
    name_of,
    namespace_of,
    on_host_network,
    parse_address,
    pod_ip,
    ref,
    subject_selectors,
)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
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
    action: str = "Accept"


@dataclass(frozen=True)
class Domain:
    """One entry for a domain name. The open agent does not enforce these; that of EKS Auto Mode does."""

    policy: str
    path: str
    name: str
    ports: tuple[Port, ...]
    action: str = "Accept"


@dataclass(frozen=True)
class Skipped:
    """A peer that resolves to nothing, or to less than it seems, and why."""

    policy: str
    direction: Direction
    path: str
    selects: str
    reason: str


@dataclass(frozen=True)
class Resolution:
    """All that the controller makes of one policy."""

    policy: Json
    wanted: Mapping[Direction, tuple[Wanted, ...]]
    skipped: Mapping[Direction, tuple[Skipped, ...]]
    domains: tuple[Domain, ...]
    pods: tuple[Json, ...]
    """Those that the policy selects, as the PolicyEndpoint lists them."""
    isolation: tuple[str, ...]
    """podIsolation: Ingress, Egress."""


ANYWHERE = ("0.0.0.0/0", "::/0")


def resolution(policy: Json, world: World) -> Resolution:
    """What the controller makes of a policy of any kind; worked out once for each policy of a world."""
    known: Resolution | None = world.resolutions.get(id(policy))
    if known is None:
        known = world.resolutions[id(policy)] = _resolution(policy, world)
    return known


def resolve(policy: Json, direction: Direction, world: World) -> tuple[tuple[Wanted, ...], tuple[Skipped, ...]]:
    """The entries of one direction, and the peers that resolve to nothing."""
    found = resolution(policy, world)
    return found.wanted[direction], found.skipped[direction]


def entries_of(rule: RulePeer, world: World) -> Iterator[Wanted]:
    """What one peer of one rule brings by itself, whatever the other rules of its policy say."""
    selected = subjects(rule.policy, world)
    yield from _resolve_rule(rule, _receivers(rule.policy, selected, world), world)


def _resolution(policy: Json, world: World) -> Resolution:
    wanted: dict[Direction, tuple[Wanted, ...]] = {}
    skipped: dict[Direction, tuple[Skipped, ...]] = {}
    domains: list[Domain] = []
    selected = subjects(policy, world)
    receivers = _receivers(policy, selected, world)
    for direction in Direction:
        entries, less = [], []
        taken: Taken = {}
        for rule in rule_peers_of(policy, direction):
            if rule.domains:
                domains += _domains(rule)
                continue
            made = list(_resolve_rule(rule, receivers, world))
            found = [entry for entry in made if _is_new(entry, taken)] if kind_of(policy) == CLUSTER_POLICY else made
            entries += found
            if made and not found:
                reason = "the controller takes it for an earlier rule, which differs in endPort only"
            else:
                reason = _why_less(rule, receivers, world) if found else _why_nothing(rule, receivers, world)
            if reason:
                less.append(Skipped(rule.policy_name, direction, rule.path, np.peer_text(rule.peer), reason))
        wanted[direction], skipped[direction] = tuple(entries), tuple(less)
    pods = tuple(pod for pod in selected if _is_ready(pod) and not on_host_network(pod))
    return Resolution(policy, wanted, skipped, tuple(domains), pods, _isolation(policy))


def subjects(policy: Json, world: World) -> tuple[Json, ...]:
    """The pods that a policy's selector means, of any phase and on any network."""
    if kind_of(policy) != CLUSTER_POLICY:
        selector = (policy.get("spec") or {}).get("podSelector") or {}
        return world.pods_matching(namespace_of(policy), selector)
    where, who = subject_selectors(policy)
    if where is None:
        return ()
    return tuple(pod for name in world.namespaces_matching(where) for pod in world.pods_matching(name, who))


def _receivers(policy: Json, selected: tuple[Json, ...], world: World) -> tuple[Json, ...]:
    """The selected pods on which named ports of ingress rules are looked up.

    For a ClusterNetworkPolicy those of one namespace only, the first by name that its subject means:
    getSubjectNamespace in clusternetworkpolicy_resolver.go, after 1.1.7. Releases before asked the peer's namespace
    (agent facts 6.6).
    """
    if kind_of(policy) != CLUSTER_POLICY:
        return selected
    where, _ = subject_selectors(policy)
    first = min(world.namespaces_matching(where), default="") if where is not None else ""
    return tuple(pod for pod in selected if namespace_of(pod) == first)


Taken = dict[tuple[Network, str, tuple[tuple[str, int], ...]], tuple[Port, ...]]


def _is_new(entry: Wanted, taken: Taken) -> bool:
    """The controller tells entries of a ClusterNetworkPolicy apart without a look at endPort (agent facts 6.5)."""
    key = entry.prefix, entry.action, tuple((port.protocol, port.number) for port in entry.ports)
    return taken.setdefault(key, entry.ports) == entry.ports


POD_IPS = "vpc.amazonaws.com/pod-ips"


def address_of(pod: Json) -> Address | None:
    """status.podIP, else what the CNI wrote into an annotation; never the second address (agent facts 6.3)."""
    found = pod_ip(pod)
    if found is not None:
        return found
    noted = str((pod["metadata"].get("annotations") or {}).get(POD_IPS) or "")
    return parse_address(noted.partition(",")[0].strip())


def _is_ready(pod: Json) -> bool:
    """Has an address and has not ended (controller >= 1.0.18); one that is terminating still counts."""
    return address_of(pod) is not None and not finished(pod)


def _isolation(policy: Json) -> tuple[str, ...]:
    """podIsolation: a copy of policyTypes. Nobody fills these in for an ApplicationNetworkPolicy."""
    if kind_of(policy) == CLUSTER_POLICY:
        return ()
    if kind_of(policy) == APPLICATION_POLICY:
        return tuple((policy.get("spec") or {}).get("policyTypes") or ())
    return tuple(direction.value.capitalize() for direction in np.directions(policy))


def rule_peers_of(policy: Json, direction: Direction) -> Iterator[RulePeer]:
    """All peers of all rules of a direction."""
    if kind_of(policy) == CLUSTER_POLICY:
        for rule in tiers.cluster_rules(policy, direction):
            yield from rule.peers
        return
    yield from np.rule_peers(policy, direction)


def _domains(rule: RulePeer) -> Iterator[Domain]:
    """Names of ports are lost on the way, so that domains are open on all ports (agent facts 6.6).

    On all of the protocol for an ApplicationNetworkPolicy; in a ClusterNetworkPolicy the named port itself is left out.
    """
    if rule.action == "Deny":
        # The controller leaves these out: they are not supported.
        return
    if kind_of(rule.policy) == CLUSTER_POLICY:
        plain = tuple(port for port in rule.ports if not isinstance(port.get("port"), str))
    else:
        plain = tuple({**port, "port": None} if isinstance(port.get("port"), str) else port for port in rule.ports)
    ports = np.resolve_ports(plain, None) or ()
    for name in rule.domains:
        yield Domain(rule.policy_name, rule.path, name, ports, rule.action)


def _resolve_rule(rule: RulePeer, selected: Iterable[Json], world: World) -> Iterator[Wanted]:
    incoming = rule.direction is Direction.INGRESS
    received = _ingress_ports(rule, selected) if incoming else None
    if incoming and received is None:
        return
    peer = rule.peer
    if peer is None or peer.get("ipBlock"):
        yield from _blocks(rule, received)
        return
    for pod in _peers(rule, world):
        ports = received if incoming else np.resolve_ports(rule.ports, pod)
        address = address_of(pod)
        if ports is not None and address is not None:
            yield _wanted(rule, f"pod {ref(pod)}", host_network(address), ports)
    if not incoming:
        yield from _services(rule, world)


def _peers(rule: RulePeer, world: World) -> list[Json]:
    """Living pods with an address; those of the host network too, with their node's."""
    return [pod for pod in np.peer_pods(rule, world) if _is_ready(pod)]


def _wanted(
    rule: RulePeer, who: str, prefix: Network, ports: tuple[Port, ...], excepts: tuple[Network, ...] = ()
) -> Wanted:
    return Wanted(rule.policy_name, rule.direction, rule.path, rule.text, who, prefix, ports, excepts, rule.action)


def _has_names(rule: RulePeer) -> bool:
    return any(isinstance(port.get("port"), str) for port in rule.ports)


def _ingress_ports(rule: RulePeer, selected: Iterable[Json]) -> tuple[Port, ...] | None:
    """Named ports as all selected pods have them: the controller gives every pod the union.

    With a named port among them all ports of the rule are taken pod by pod: without a pod the rule vanishes.
    """
    if not _has_names(rule):
        return np.resolve_ports(rule.ports, None)
    found = [np.resolve_ports(rule.ports, pod) for pod in selected if _is_ready(pod)]
    return tuple(sorted({port for ports in found for port in ports or ()})) or None


def _blocks(rule: RulePeer, received: tuple[Port, ...] | None) -> Iterator[Wanted]:
    block = (rule.peer or {}).get("ipBlock") or {}
    if not block and rule.direction is Direction.EGRESS and kind_of(rule.policy) == APPLICATION_POLICY:
        # An egress rule without `to` yields nothing there (agent facts 6.6).
        return
    # Named ports cannot be resolved for addresses: only an ingress rule knows the receiving pods.
    ports = received if rule.direction is Direction.INGRESS else np.resolve_ports(rule.ports, None)
    if ports is None:
        return
    excepts = tuple(n for text in block.get("except") or () if (n := np.parse_network(text)))
    for text in [block.get("cidr")] if block else ANYWHERE:
        network = np.parse_network(text)
        if network is not None:
            yield _wanted(rule, str(network) if block else "anybody", network, ports, excepts)


# ---- Services of egress rules


def _services(rule: RulePeer, world: World) -> Iterator[Wanted]:
    """ClusterIPs of the Services whose own selector satisfies the peer's podSelector."""
    selector = (rule.peer or {}).get("podSelector") or {}
    for namespace in np.peer_namespaces(rule, world):
        for service in world.services_selecting(namespace, selector):
            addresses = cluster_ips(service)
            ports = service_ports(rule, service, world) if addresses else None
            if ports is not None:
                yield _wanted(rule, f"service {ref(service)}", host_network(addresses[0]), ports)


def service_ports(rule: RulePeer, service: Json, world: World) -> tuple[Port, ...] | None:
    """The rule's ports translated to Service ports; None where none of them has one."""
    if not rule.ports:
        return ()
    found = []
    for port in rule.ports:
        protocol, value = str(port.get("protocol") or "TCP"), port.get("port")
        if value is None:
            found.append(Port(protocol))
            continue
        match = service_port(value, protocol, service, world)
        if match is None or bypasses(match, value, protocol, rule, service, world):
            continue
        found.append(Port(protocol, int(match["port"]), int(port.get("endPort") or 0)))
    return tuple(found) or None


def service_port(wanted: object, protocol: str, service: Json, world: World) -> Json | None:
    """The first Service port with that target: same type and text, else through a backing pod's ports."""
    entries = [
        entry
        for entry in (service.get("spec") or {}).get("ports") or ()
        if (entry.get("protocol") or "TCP") == protocol
    ]
    for entry in entries:
        target = _target(entry)
        if target == wanted and type(target) is type(wanted):
            return dict(entry)
    if not entries:
        return None
    for pod in backing_pods(service, world):
        found = _on_pod(wanted, protocol, entries, pod)
        if found is not None:
            return found
        if not isinstance(wanted, str) and all(isinstance(_target(entry), int) for entry in entries):
            # Numbers are the same on every pod.
            break
    return None


def _target(entry: Json) -> object:
    return entry.get("targetPort", entry.get("port"))


def backing_pods(service: Json, world: World) -> tuple[Json, ...]:
    """The pods that a Service's selector means; without one, as for the controller, all of the namespace."""
    selector = (service.get("spec") or {}).get("selector") or {}
    return world.pods_matching(namespace_of(service), {"matchLabels": selector} if selector else {})


def _on_pod(wanted: object, protocol: str, entries: Iterable[Json], pod: Json) -> Json | None:
    """The Service port whose target is what the policy's port is on this pod."""
    ports = [p for p in container_ports(pod) if (p.get("protocol") or "TCP") == protocol]
    key = "name" if isinstance(wanted, str) else "containerPort"
    declared = next((p for p in ports if p.get(key) == wanted), None)
    if declared is None and isinstance(wanted, str):
        return None
    number = declared.get("containerPort") if declared else wanted
    name = declared.get("name") if declared else None
    for entry in entries:
        target = _target(entry)
        if target == (name if isinstance(target, str) else number):
            return dict(entry)
    return None


def bypasses(match: Json, wanted: object, protocol: str, rule: RulePeer, service: Json, world: World) -> bool:
    """Whether the ClusterIP's port would lead to a port of some pod that the rule does not allow.

    Asked for numeric ports of policies that met a named targetPort only (controller >= 1.1.5; also 1.1.2, 1.1.3).
    """
    name = _target(match)
    if isinstance(wanted, str) or not isinstance(name, str):
        return False
    for pod in backing_pods(service, world):
        named = (p for p in container_ports(pod) if p.get("name") == name)
        port = next((p for p in named if (p.get("protocol") or "TCP") == protocol), None)
        if port is not None and not _number_allowed(port.get("containerPort"), protocol, rule.ports):
            return True
    return False


def _number_allowed(number: object, protocol: str, ports: Iterable[Json]) -> bool:
    for port in ports:
        value = port.get("port")
        if (port.get("protocol") or "TCP") != protocol or isinstance(value, str):
            continue
        if value is None:
            return True
        if isinstance(number, int) and value <= number <= (port.get("endPort") or value):
            return True
    return False


# ---- why a peer brings nothing, or less


def _why_nothing(rule: RulePeer, selected: Iterable[Json], world: World) -> str:
    peer = rule.peer
    if rule.direction is Direction.INGRESS and _has_names(rule) and _ingress_ports(rule, selected) is None:
        names = ", ".join(str(p["port"]) for p in rule.ports if isinstance(p.get("port"), str))
        who = next((name_of(pod) for pod in selected), "")
        if not who:
            return f"no pod is selected, so the named port {names} means nothing"
        return f"{who} has no container port of that name ({names})"
    if peer is None or peer.get("ipBlock"):
        if peer and np.parse_network(peer["ipBlock"].get("cidr")) is None:
            return "the ipBlock has no valid cidr"
        if peer is None and kind_of(rule.policy) == APPLICATION_POLICY and rule.direction is Direction.EGRESS:
            return "an egress rule of an ApplicationNetworkPolicy without `to` resolves to nothing"
        return "a named port cannot be resolved for addresses, so the controller drops it"
    if not np.peer_namespaces(rule, world):
        return "no namespace matches"
    if not _peers(rule, world):
        return "no running pod matches"
    return "no matching pod has a container port of that name"


def _why_less(rule: RulePeer, selected: Iterable[Json], world: World) -> str:
    """A named port that some or all of the pods do not have, where another port of the rule keeps it alive."""
    if not _has_names(rule):
        return ""
    peer = rule.peer
    if (peer is None or peer.get("ipBlock")) and rule.direction is Direction.EGRESS:
        names = ", ".join(str(p["port"]) for p in rule.ports if isinstance(p.get("port"), str))
        return f"the named port {names} cannot be resolved for addresses, so the controller drops it"
    return ""


# ---- merged as a PolicyEndpoint has them

Key = tuple[Network, tuple[Network, ...], str]
"""(prefix, excepts, action)"""


def written(found: Resolution, direction: Direction) -> dict[Key, frozenset[Port]]:
    """The entries of one direction as the newest controller writes them, one for each prefix.

    Those of an ApplicationNetworkPolicy are never narrowed: up to 1.1.7 entries with other ports stay apart, which is
    the same to the agent, and later the code is that of NetworkPolicies (its pull request 231).
    """
    return merged(found.wanted[direction], narrow=kind_of(found.policy) == CLUSTER_POLICY)


def merged(entries: Sequence[Wanted], *, narrow: bool = False) -> dict[Key, frozenset[Port]]:
    """Entries of one direction of one policy, one for each prefix.

    The controller keeps entries with other excepts apart, and "all ports" swallows the rest (>= 1.1.3). ``narrow``:
    as 1.0.7 to 1.1.2 do it, and every release for ClusterNetworkPolicies: excepts are joined, and "all ports" gives
    way to whatever else is said about the prefix (agent facts 6.5).
    """
    found: dict[Key, set[Port]] = {}
    joined: dict[tuple[Network, str], set[Network]] = {}
    for entry in entries if narrow else ():
        joined.setdefault((entry.prefix, entry.action), set()).update(entry.excepts)
    for entry in entries:
        excepts = joined[entry.prefix, entry.action] if narrow else set(entry.excepts)
        key = entry.prefix, tuple(sorted(excepts, key=_network_order)), entry.action
        found.setdefault(key, set()).update(entry.ports or ALL_PORTS)
    return {key: narrowed(ports) if narrow else union(ports) for key, ports in found.items()}


def _network_order(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def union(ports: Iterable[Port]) -> frozenset[Port]:
    """All ports swallow the rest."""
    found = frozenset(ports)
    return frozenset(ALL_PORTS) if ALL_PORTS[0] in found else found


def narrowed(ports: Iterable[Port]) -> frozenset[Port]:
    """All ports give way to whatever else is said."""
    return frozenset(ports) - frozenset(ALL_PORTS) or frozenset(ALL_PORTS)
