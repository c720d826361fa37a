"""INTENT once more: slow, plain, without an index, and without anything of the product.

Written from the NetworkPolicy API (networking.k8s.io/v1) and from the rules of tiers: cluster policies of the Admin
tier by priority, the rules of one policy in their order, the first that fits decides, Pass leaves the tier; then the
NetworkPolicies; then the Baseline tier; then allowed. Objects are the API server's, by kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import product
from typing import Any

Json = dict[str, Any]
Cluster = dict[str, list[Json]]
Address = IPv4Address | IPv6Address

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
RANK = {"Deny": 0, "Accept": 1, "Pass": 2}


@dataclass(frozen=True)
class Packet:
    """The first packet of a flow, from one pod's point of view."""

    direction: str
    """ingress | egress"""
    peer: Address
    protocol: int
    port: int


def decide(cluster: Cluster, pod: Json, packet: Packet) -> str:
    """allow | deny | unknown. Unknown: it depends on whether the other end has a domain name."""
    other = pod_with(cluster, packet.peer)
    # What the cluster itself has a name for is not outside, where domain names are meant for.
    asked = [] if _in_cluster(cluster, packet.peer) else _domain_peers(cluster)
    outcomes = {
        _decide(cluster, pod, packet, other, {id(peer) for peer, yes in zip(asked, answers, strict=True) if yes})
        for answers in product((False, True), repeat=len(asked))
    }
    return outcomes.pop() if len(outcomes) == 1 else "unknown"


def _domain_peers(cluster: Cluster) -> list[Json]:
    """All peers with domain names: each may or may not be the other end. Deny is not supported for them."""
    rules = [
        rule
        for kind in ("applicationnetworkpolicies", "clusternetworkpolicies")
        for policy in cluster.get(kind, [])
        for rule in policy["spec"].get("egress") or []
        if rule.get("action") != "Deny"
    ]
    return [peer for rule in rules for peer in rule.get("to") or [] if peer.get("domainNames")]


def pod_with(cluster: Cluster, address: Address) -> Json | None:
    """The living pod that has this address for itself."""
    for pod in cluster["pods"]:
        if pod["spec"].get("hostNetwork") or pod["status"].get("phase") in ("Succeeded", "Failed"):
            continue
        if address in addresses_of(pod):
            return pod
    return None


def addresses_of(pod: Json) -> list[Address]:
    texts = [pod["status"].get("podIP"), *(entry.get("ip") for entry in pod["status"].get("podIPs") or [])]
    return [ip_address(text) for text in texts if text]


def _decide(cluster: Cluster, pod: Json, packet: Packet, other: Json | None, named: set[int]) -> str:
    """``named``: the peers whose domain names the other end has."""
    if packet.peer in addresses_of(pod):
        # A pod cannot block access to itself.
        return "allow"
    if pod["spec"].get("hostNetwork"):
        return "allow"
    admin = _tier(cluster, pod, packet, other, "Admin", named)
    if admin in ("Accept", "Deny"):
        return "allow" if admin == "Accept" else "deny"
    isolating = [policy for policy in _policies(cluster) if _isolates(policy, pod, packet.direction)]
    if isolating:
        if packet.peer in _own_node(cluster, pod):
            # Traffic between a pod and the node that it runs on is always allowed.
            return "allow"
        fits = any(
            _rule_fits(cluster, policy, rule, pod, packet, other, named) for policy, rule in _rules(isolating, packet)
        )
        return "allow" if fits else "deny"
    return "deny" if _tier(cluster, pod, packet, other, "Baseline", named) == "Deny" else "allow"


def _in_cluster(cluster: Cluster, address: Address) -> bool:
    nodes = {ip_address(e["address"]) for node in cluster["nodes"] for e in node["status"]["addresses"]}
    services = {
        ip_address(text)
        for service in cluster["services"]
        for text in [service["spec"].get("clusterIP"), *(service["spec"].get("clusterIPs") or [])]
        if text and text != "None"
    }
    pods = {one for pod in cluster["pods"] if not pod["spec"].get("hostNetwork") for one in addresses_of(pod)}
    return address in nodes | services | pods


def _own_node(cluster: Cluster, pod: Json) -> list[Address]:
    found = [ip_address(pod["status"]["hostIP"])] if pod["status"].get("hostIP") else []
    if any(address.version == addresses_of(pod)[0].version for address in found):
        return found
    for node in cluster["nodes"]:
        if node["metadata"]["name"] == pod["spec"].get("nodeName"):
            found += [ip_address(e["address"]) for e in node["status"]["addresses"] if e["type"] == "InternalIP"]
    return found


# ---- NetworkPolicy and ApplicationNetworkPolicy


def _policies(cluster: Cluster) -> list[Json]:
    return [*cluster["networkpolicies"], *cluster.get("applicationnetworkpolicies", [])]


def _isolates(policy: Json, pod: Json, direction: str) -> bool:
    spec = policy["spec"]
    if policy["metadata"]["namespace"] != pod["metadata"]["namespace"]:
        return False
    if not selects(spec.get("podSelector") or {}, pod["metadata"].get("labels") or {}):
        return False
    types = spec.get("policyTypes")
    if not types:
        types = ["Ingress"]
        if spec.get("egress"):
            types = ["Ingress", "Egress"]
    return direction.capitalize() in types


def _rules(policies: list[Json], packet: Packet) -> Iterator[tuple[Json, Json]]:
    for policy in policies:
        for rule in policy["spec"].get(packet.direction) or []:
            yield policy, rule or {}


def _rule_fits(
    cluster: Cluster, policy: Json, rule: Json, pod: Json, packet: Packet, other: Json | None, named: set[int]
) -> bool:
    receiver = pod if packet.direction == "ingress" else other
    ports = rule.get("ports") or []
    if ports and not any(_port_fits(port, receiver, packet) for port in ports):
        return False
    peers = rule.get("from" if packet.direction == "ingress" else "to") or []
    return not peers or any(_peer_fits(cluster, policy, peer, packet, other, named) for peer in peers)


def _port_fits(port: Json, receiver: Json | None, packet: Packet) -> bool:
    protocol = port.get("protocol") or "TCP"
    if PROTOCOLS[protocol] != packet.protocol:
        return False
    wanted = port.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        return packet.port in _named_ports(receiver, wanted, protocol)
    return bool(wanted <= packet.port <= (port.get("endPort") or wanted))


def _named_ports(pod: Json | None, name: str, protocol: str) -> list[int]:
    if pod is None:
        return []
    return [
        port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports") or []
        if port.get("name") == name and (port.get("protocol") or "TCP") == protocol
    ]


def _peer_fits(cluster: Cluster, policy: Json, peer: Json, packet: Packet, other: Json | None, named: set[int]) -> bool:
    if peer.get("ipBlock"):
        return _in(packet.peer, peer["ipBlock"]["cidr"]) and not any(
            _in(packet.peer, text) for text in peer["ipBlock"].get("except") or []
        )
    if peer.get("domainNames"):
        return id(peer) in named
    if other is None:
        return False
    namespaces = peer.get("namespaceSelector")
    if namespaces is None:
        if other["metadata"]["namespace"] != policy["metadata"]["namespace"]:
            return False
    elif not _namespace_fits(cluster, namespaces, other):
        return False
    pods = peer.get("podSelector")
    return pods is None or selects(pods, other["metadata"].get("labels") or {})


def _in(address: Address, cidr: str) -> bool:
    network = ip_network(cidr, strict=False)
    return network.version == address.version and address in network


def _namespace_fits(cluster: Cluster, selector: Json, pod: Json) -> bool:
    for namespace in cluster["namespaces"]:
        name = namespace["metadata"]["name"]
        if name == pod["metadata"]["namespace"]:
            return selects(
                selector, {**(namespace["metadata"].get("labels") or {}), "kubernetes.io/metadata.name": name}
            )
    return False


def selects(selector: Json, labels: dict[str, str]) -> bool:
    """A LabelSelector, all requirements of which must be met."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if key not in labels or labels[key] != value:
            return False
    for one in selector.get("matchExpressions") or []:
        there = one["key"] in labels
        listed = there and labels[one["key"]] in (one.get("values") or [])
        met = {"In": listed, "NotIn": not listed, "Exists": there, "DoesNotExist": not there}
        if not met[one["operator"]]:
            return False
    return True


# ---- ClusterNetworkPolicy


def _tier(cluster: Cluster, pod: Json, packet: Packet, other: Json | None, tier: str, named: set[int]) -> str:
    """What the tier says: Accept | Deny | Pass, or nothing."""
    by_priority: dict[int, list[str]] = {}
    for policy in cluster.get("clusternetworkpolicies", []):
        spec = policy["spec"]
        if spec["tier"] != tier or not subject_fits(cluster, spec["subject"], pod):
            continue
        for rule in spec.get(packet.direction) or []:
            if _cluster_rule_fits(cluster, rule, pod, packet, other, named):
                by_priority.setdefault(spec["priority"], []).append(rule["action"])
                break
    if not by_priority:
        return ""
    # Of policies with the same priority the strictest counts: the API leaves it open.
    return min(by_priority[min(by_priority)], key=lambda action: RANK[action])


def subject_fits(cluster: Cluster, subject: Json, pod: Json) -> bool:
    if subject.get("namespaces") is not None:
        return _namespace_fits(cluster, subject["namespaces"], pod)
    pods = subject["pods"]
    return _namespace_fits(cluster, pods["namespaceSelector"], pod) and selects(
        pods["podSelector"], pod["metadata"].get("labels") or {}
    )


def _cluster_rule_fits(
    cluster: Cluster, rule: Json, pod: Json, packet: Packet, other: Json | None, named: set[int]
) -> bool:
    receiver = pod if packet.direction == "ingress" else other
    ports = rule.get("ports") or []
    if ports and not any(_cluster_port_fits(port, receiver, packet) for port in ports):
        return False
    for peer in rule.get("from" if packet.direction == "ingress" else "to") or []:
        if any(_in(packet.peer, cidr) for cidr in peer.get("networks") or []):
            return True
        if id(peer) in named:
            return True
        if other is None:
            continue
        if peer.get("namespaces") is not None and _namespace_fits(cluster, peer["namespaces"], other):
            return True
        if peer.get("pods") is not None and subject_fits(cluster, {"pods": peer["pods"]}, other):
            return True
    return False


def _cluster_port_fits(port: Json, receiver: Json | None, packet: Packet) -> bool:
    if port.get("portNumber"):
        one = port["portNumber"]
        return PROTOCOLS[one.get("protocol") or "TCP"] == packet.protocol and packet.port == one["port"]
    if port.get("portRange"):
        span = port["portRange"]
        return bool(
            PROTOCOLS[span.get("protocol") or "TCP"] == packet.protocol and span["start"] <= packet.port <= span["end"]
        )
    # A named port has no protocol of its own: TCP.
    return packet.protocol == 6 and packet.port in _named_ports(receiver, port["namedPort"], "TCP")
