"""NetworkPolicy as Kubernetes defines it: who is selected, which rules are there, what they mean.

ApplicationNetworkPolicy has the same shape, and domain names as peers of egress rules besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import ip_network
from typing import Any

from kubectl_netpol.model.flow import Address, Direction, Flow, Network, host_network
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy import selectors
from kubectl_netpol.policy.ports import Port
from kubectl_netpol.policy.world import (
    World,
    container_ports,
    label_of,
    labels_of,
    name_of,
    namespace_of,
    node_of,
    on_host_network,
    parse_address,
    pod_ips,
    ref,
)

Json = dict[str, Any]


@dataclass(frozen=True)
class RulePeer:
    """One `from` or `to` element of one rule; ``peer`` None stands for an absent list (everybody)."""

    policy: Json
    direction: Direction
    path: str
    """`spec.ingress[0].from[0]`."""
    peer: Json | None
    ports: tuple[Json, ...]
    action: str = "Accept"
    """Accept | Deny | Pass; rules of NetworkPolicies only accept."""

    @property
    def policy_name(self) -> str:
        return name_of(self.policy)

    @property
    def label(self) -> str:
        """`access-nginx spec.ingress[0].from[0]`, for sentences."""
        return f"{label_of(self.policy)} {self.path}"

    @cached_property
    def text(self) -> str:
        """The peer in words."""
        return peer_text(self.peer)

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(str(name) for name in (self.peer or {}).get("domainNames") or ())


def directions(policy: Json) -> tuple[Direction, ...]:
    """policyTypes, with the API server's defaulting where the field is absent."""
    spec = policy.get("spec") or {}
    types = spec.get("policyTypes")
    if not types:
        types = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    return tuple(direction for direction in Direction if direction.value.capitalize() in types)


def selects(policy: Json, pod: Json) -> bool:
    """Whether the policy applies to this pod (same namespace, podSelector, not hostNetwork)."""
    if namespace_of(policy) != namespace_of(pod) or on_host_network(pod):
        return False
    return selectors.matches((policy.get("spec") or {}).get("podSelector") or {}, labels_of(pod))


def rule_peers(policy: Json, direction: Direction) -> Iterator[RulePeer]:
    """All peers of all rules of one direction, also where policyTypes does not list it."""
    side = "from" if direction is Direction.INGRESS else "to"
    for number, rule in enumerate((policy.get("spec") or {}).get(direction.value) or ()):
        rule = rule or {}
        path = f"spec.{direction.value}[{number}]"
        ports = tuple(rule.get("ports") or ())
        peers = rule.get(side)
        if not peers:
            yield RulePeer(policy, direction, path, None, ports)
        for index, peer in enumerate(peers or ()):
            yield RulePeer(policy, direction, f"{path}.{side}[{index}]", peer or {}, ports)


def peer_text(peer: Json | None) -> str:
    """`pods access=true`, `pods app=web in namespaces team=a`, `10.0.0.0/8 except 10.1.0.0/16`, `anybody`."""
    if peer is None:
        return "anybody"
    block = peer.get("ipBlock")
    if block:
        excepts = ", ".join(block.get("except") or ())
        return f"{block.get('cidr')}" + (f" except {excepts}" if excepts else "")
    if peer.get("domainNames"):
        return f"domains {', '.join(str(name) for name in peer['domainNames'])}"
    pods, namespaces = peer.get("podSelector"), peer.get("namespaceSelector")
    text = "all pods" if not pods or selectors.text(pods) == "<all>" else f"pods {selectors.text(pods)}"
    if namespaces is not None:
        where = selectors.text(namespaces)
        text += " in all namespaces" if where == "<all>" else f" in namespaces {where}"
    return text


def peer_namespaces(rule: RulePeer, world: World) -> tuple[str, ...]:
    """The namespaces that a selector peer looks in."""
    selector = (rule.peer or {}).get("namespaceSelector")
    if selector is None:
        return (namespace_of(rule.policy),)
    return world.namespaces_matching(selector)


def means_namespace(rule: RulePeer, namespace: str, world: World) -> bool:
    """Whether a selector peer looks in this namespace."""
    selector = (rule.peer or {}).get("namespaceSelector")
    if selector is None:
        return namespace == namespace_of(rule.policy)
    return namespace in world.namespaces and selectors.matches(selector, world.namespaces[namespace])


def peer_pods(rule: RulePeer, world: World) -> list[Json]:
    """The pods that a selector peer means, in any phase."""
    if rule.domains:
        return []
    selector = (rule.peer or {}).get("podSelector") or {}
    return [pod for namespace in peer_namespaces(rule, world) for pod in world.pods_matching(namespace, selector)]


def resolve_ports(ports: tuple[Json, ...], pod: Json | None) -> tuple[Port, ...] | None:
    """A rule's ports as numbers. Named ports are looked up on ``pod``: the one that receives the traffic.

    None where the rule has ports but none of them exists there; an empty tuple means all ports.
    """
    resolved = []
    for port in ports:
        protocol, value = str(port.get("protocol") or "TCP"), port.get("port")
        if value is None:
            resolved.append(Port(protocol))
        elif isinstance(value, int):
            resolved.append(Port(protocol, value, port.get("endPort") or 0))
        else:
            resolved += _named(str(value), protocol, pod)
    return None if ports and not resolved else tuple(resolved)


def _named(name: str, protocol: str, pod: Json | None) -> list[Port]:
    """Names are unique in one container only: of several containers the first counts, as for Services."""
    found = container_ports(pod) if pod else ()
    return [
        Port(protocol, int(entry["containerPort"]))
        for entry in found
        if entry.get("name") == name and (entry.get("protocol") or "TCP") == protocol
    ][:1]


def parse_network(text: object) -> Network | None:
    """A CIDR or a bare address; host bits are dropped. None where it is neither."""
    return _network(str(text))


@lru_cache(maxsize=1 << 18)
def _network(text: str) -> Network | None:
    # The same address is in as many PolicyEndpoints as there are policies that mean it.
    address = None if "/" in text else parse_address(text)
    if address is not None:
        return host_network(address)
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


@dataclass(frozen=True)
class Ends:
    """The two sides of one leg: the judged pod, and the peer's address with the pod behind it, if any."""

    pod: Json
    direction: Direction
    flow: Flow
    peer_pod: Json | None = None

    @property
    def receiver(self) -> Json | None:
        return self.pod if self.direction is Direction.INGRESS else self.peer_pod

    @property
    def peer(self) -> Address:
        return self.flow.peer(self.direction)


def peer_matches(rule: RulePeer, ends: Ends, world: World) -> bool:
    """Whether the peer of this rule means the other end, whatever the port."""
    peer = rule.peer
    if peer is None:
        return True
    block = peer.get("ipBlock")
    if block:
        return in_block(ends.peer, block)
    other = ends.peer_pod
    if other is None:
        return False
    if rule.domains:
        return False
    selector = peer.get("podSelector") or {}
    return means_namespace(rule, namespace_of(other), world) and selectors.matches(selector, labels_of(other))


def may_be_domain(rule: RulePeer, ends: Ends, world: World) -> bool:
    """Whether the other end could be one of the peer's domain names: nothing here resolves them.

    What has a name of the cluster's own (pod, node, Service) is not outside, where domain names are meant for.
    """
    return bool(rule.domains) and ends.peer_pod is None and not world.who(ends.peer)


def rule_admits(rule: RulePeer, ends: Ends) -> bool:
    """Whether the ports of the rule admit the flow; named ports are those of the receiving pod."""
    ports = resolve_ports(rule.ports, ends.receiver)
    return ports is not None and port_lists.admits(ports, ends.flow)


def in_block(address: Address, block: Json) -> bool:
    network = parse_network(block.get("cidr"))
    if network is None or address.version != network.version or address not in network:
        return False
    excepts = [parse_network(text) for text in block.get("except") or ()]
    return not any(e is not None and e.version == address.version and address in e for e in excepts)


def isolating(world: World, pod: Json, direction: Direction) -> list[Json]:
    """The policies that select the pod and list this direction: none means everything is allowed."""
    return [policy for policy in world.policies_selecting(pod) if direction in directions(policy)]


ITSELF = "talks to itself: that stays inside the pod, and no policy can forbid it"


def is_itself(ends: Ends) -> bool:
    """Whether both ends are the pod. Traffic through its own Service has the Service's address and is not meant."""
    return ends.peer in pod_ips(ends.pod)


def evaluate(ends: Ends, world: World) -> Verdict:
    """The INTENT verdict of one leg: the union of all policies that isolate the pod in this direction."""
    layer, pod, direction = Layer.INTENT, ends.pod, ends.direction
    unread = world.unread("networkpolicies", "applicationnetworkpolicies", "namespaces", "pods")
    if unread:
        return Verdict(layer, Decision.UNKNOWN, "NOT_READ", f"not read: {unread}")
    if on_host_network(pod):
        why = f"{ref(pod)} uses the host network: NetworkPolicy does not apply to it"
        return Verdict(layer, Decision.ALLOW, "HOST_NETWORK", why)
    if is_itself(ends):
        return Verdict(layer, Decision.ALLOW, "ITSELF", f"{ref(pod)} {ITSELF}")
    policies = isolating(world, pod, direction)
    if not policies:
        why = f"no NetworkPolicy selects {ref(pod)} for {direction}: everything is allowed"
        return Verdict(layer, Decision.ALLOW, "NOT_ISOLATED", why)
    if ends.peer == world.own_node_address(pod, ends.peer.version):
        why = f"traffic between a pod and its own node ({node_of(pod)}) is always allowed"
        return Verdict(layer, Decision.ALLOW, "OWN_NODE", why)
    return _by_rules(ends, world, policies)


def _by_rules(ends: Ends, world: World, policies: list[Json]) -> Verdict:
    misses, maybe = [], []
    for policy in policies:
        for rule in rule_peers(policy, ends.direction):
            ports = resolve_ports(rule.ports, ends.receiver)
            admits = ports is not None and port_lists.admits(ports, ends.flow)
            if admits and may_be_domain(rule, ends, world):
                maybe.append(f"{rule.label} allows {peer_text(rule.peer)}")
            if not peer_matches(rule, ends, world):
                misses.append(f"{rule.label} allows {peer_text(rule.peer)}{_miss(rule, ends, world)}")
            elif ports is None or not admits:
                wanted = _ports_text(rule, ports)
                misses.append(f"{rule.label} matches, but allows {wanted}, not {ends.flow.port_text}")
            else:
                allowed = f"{peer_text(rule.peer)} on {port_lists.text(ports)}"
                why = f"{rule.label} allows {allowed}"
                return Verdict(Layer.INTENT, Decision.ALLOW, "RULE_ALLOWS", why)
    if maybe:
        why = f"{'; '.join(maybe)}: whether {ends.peer} is an address of it is not known here"
        return Verdict(Layer.INTENT, Decision.UNKNOWN, "DOMAIN_NAME", why, tuple(misses))
    names = ", ".join(sorted(label_of(policy) for policy in policies))
    verb = "isolates" if len(policies) == 1 else "isolate"
    why = f"{names} {verb} {ref(ends.pod)} for {ends.direction}: "
    why += "no rule allows it" if misses else "there is no rule, so nothing is allowed"
    return Verdict(Layer.INTENT, Decision.DENY, "NO_RULE", why, tuple(misses))


def _ports_text(rule: RulePeer, ports: tuple[Port, ...] | None) -> str:
    if ports is not None:
        return port_lists.text(ports)
    names = ", ".join(str(port.get("port")) for port in rule.ports)
    return f"named ports that the receiving pod does not have ({names})"


def _miss(rule: RulePeer, ends: Ends, world: World) -> str:
    """Why a selector peer does not mean the other end, as the rest of a sentence."""
    peer, other = rule.peer or {}, ends.peer_pod
    if rule.domains:
        return f"; domain names do not mean {world.who(ends.peer)}" if world.who(ends.peer) else ""
    if peer.get("ipBlock"):
        return f"; {ends.peer} is not in it"
    if other is None:
        who = world.who(ends.peer) or "not a pod"
        return f"; {ends.peer} is {who}, and selectors mean pods only"
    reasons = list(selectors.mismatches(peer.get("podSelector") or {}, labels_of(other)))
    if not means_namespace(rule, namespace_of(other), world):
        reasons.append(f"it is in namespace {namespace_of(other)}, which the rule does not mean")
    return f"; {ref(other)}: {'; '.join(reasons)}"
