"""Why one peer of one rule means a flow for Kubernetes and not for the controller, or the other way round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.diagnose.reasons import Reason
from kubectl_netpol.model.flow import Address, Direction, Flow
from kubectl_netpol.policy import controller, selectors
from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.controller import Key, Wanted
from kubectl_netpol.policy.networkpolicy import Ends, RulePeer
from kubectl_netpol.policy.ports import Port
from kubectl_netpol.policy.world import (
    APPLICATION_POLICY,
    CLUSTER_POLICY,
    World,
    cluster_ips,
    kind_of,
    name_of,
    node_of,
    on_host_network,
    ref,
    subject_selectors,
)

Json = dict[str, Any]


@dataclass(frozen=True)
class PeerFits:
    """One peer of one rule, and whether it means the flow."""

    peer: RulePeer
    ends: Ends
    real: tuple[Ends, ...]
    """Behind a ClusterIP the pods, else the ends themselves."""
    intended: tuple[bool, ...]
    """For each of ``real``."""
    resolved: bool
    near: tuple[Wanted, ...]
    """The entries that the peer brings whose prefix holds the other end."""
    dropped: bool = False
    """Whether the controller drops the whole rule for its first peer."""

    @property
    def verb(self) -> str:
        return {"Deny": "denies", "Pass": "passes on"}.get(self.peer.action, "allows")


def holds(key: Key, address: Address) -> bool:
    """Whether an entry means an address."""
    prefix, excepts, _ = key
    inside = prefix.version == address.version and address in prefix
    return inside and not any(one.version == address.version and address in one for one in excepts)


def admits(ports: Iterable[Port], flow: Flow) -> bool:
    return port_lists.admits(tuple(ports), flow)


def own_node(ends: Ends, world: World) -> Reason:
    """The other end behind a ClusterIP is the own node, which may always be reached."""
    service = world.service_by_ip.get(ends.peer)
    name = f"Service {ref(service)}" if service is not None else str(ends.peer)
    text = (
        f"a pod behind {name} has the address of the own node, {node_of(ends.pod)}, which is always allowed: but "
        f"egress is judged on the ClusterIP {ends.peer}"
    )
    return "CLUSTER_IP", text


def itself(ends: Ends, world: World) -> Reason:
    """The pod behind the ClusterIP is the pod that asks."""
    service = world.service_by_ip.get(ends.peer)
    name = f"Service {ref(service)}" if service is not None else str(ends.peer)
    text = (
        f"{name_of(ends.pod)} is itself behind {name}, and no policy is about a pod and itself: but egress is judged "
        f"on the ClusterIP {ends.peer}"
    )
    return "CLUSTER_IP", text


def sentence(fits: PeerFits, world: World) -> Reason | None:
    """What makes the difference; None where it is none of the controller's rules that are known here."""
    return _gained(fits, world) if fits.resolved else _lost(fits, world)


def _names(rule: RulePeer) -> str:
    return ", ".join(str(port["port"]) for port in rule.ports if isinstance(port.get("port"), str))


# ---- the controller's entry means the flow, the rule does not


def _gained(fits: PeerFits, world: World) -> Reason | None:
    rule, ends = fits.peer, fits.ends
    service = world.service_by_ip.get(ends.peer) if ends.direction is Direction.EGRESS else None
    if service is not None:
        return _cluster_ip_gained(fits, service, world)
    host = _host_network_pod(fits, world)
    if host is not None:
        text = (
            f"{rule.label} {fits.verb} {np.peer_text(rule.peer)}, and pod {ref(host)} is one of them: it uses the host "
            f"network, so that the rule means the whole of {world.who(ends.peer) or ends.peer} ({ends.peer})"
        )
        return "HOST_NETWORK_PEER", text
    if not _names(rule):
        return None
    text = (
        f"{rule.label} names the port {_names(rule)}, which {name_of(ends.pod)} does not have as "
        f"{ends.flow.port_text}: the controller takes the numbers of all pods that the policy selects, for each of them"
    )
    return "NAMED_PORT", text


def _host_network_pod(fits: PeerFits, world: World) -> Json | None:
    """The pod of the host network through which a selector means the address of a node."""
    if fits.peer.peer is None or fits.peer.peer.get("ipBlock") or fits.ends.peer_pod is not None:
        return None
    pods = (pod for pod in np.peer_pods(fits.peer, world) if on_host_network(pod))
    return next((pod for pod in pods if controller.address_of(pod) == fits.ends.peer), None)


def _cluster_ip_gained(fits: PeerFits, service: Json, world: World) -> Reason:
    rule, name = fits.peer, f"Service {ref(service)}"
    other = next((real for real, meant in zip(fits.real, fits.intended, strict=True) if not meant), fits.ends)
    judged = f"egress to {name} is judged on its ClusterIP {fits.ends.peer}"
    if other.peer_pod is None:
        text = f"{rule.label} {fits.verb} {np.peer_text(rule.peer)}, and with them {name}: no pod is behind it"
        return "CLUSTER_IP", f"{text} that the rule could mean, but {judged}"
    pod = f"pod {ref(other.peer_pod)}"
    if not np.peer_matches(rule, other, world):
        why = "holds that" if rule.peer and rule.peer.get("ipBlock") else "means the Service by its selector"
        text = f"{judged}: {rule.label} ({np.peer_text(rule.peer)}) {why}, and does not mean {pod} behind it"
        return "CLUSTER_IP", text
    text = (
        f"{judged} and the Service port: {rule.label} {fits.verb} {fits.ends.flow.port_text} there, and does not mean "
        f"{other.flow.port_text} of {pod} behind it"
    )
    return "SERVICE_PORT", text


# ---- the rule means the flow, the controller's entries do not


def _lost(fits: PeerFits, world: World) -> Reason | None:
    rule, ends = fits.peer, fits.ends
    egress = ends.direction is Direction.EGRESS
    service = world.service_by_ip.get(ends.peer) if egress else None
    if rule.peer is None and egress and kind_of(rule.policy) == APPLICATION_POLICY:
        return "EMPTY_TO", f"{rule.label} has no `to`: in an {APPLICATION_POLICY} that means nobody, not everybody"
    if fits.dropped:
        text = f"{rule.label} is lost as a whole, as the rule's first peer means no namespace (controllers up to 1.1.7)"
        return "FIRST_PEER", text
    if any(admits(one.ports, ends.flow) and holds((one.prefix, one.excepts, ""), ends.peer) for one in fits.near):
        return _merged_away(fits)
    if kind_of(rule.policy) == CLUSTER_POLICY and _same_first_ports(fits, world):
        text = (
            f"{rule.label} has a range of ports that begins like the ports of an earlier rule for {ends.peer}: the "
            "controller takes the two for one and drops the later, as it does not look at the ends of ranges"
        )
        return "RANGE_LOST", text
    if rule.peer is None or rule.peer.get("ipBlock"):
        return _block_lost(fits, service)
    if service is not None:
        return _service_lost(fits, service, world)
    return _pod_lost(fits, world)


def _merged_away(fits: PeerFits) -> Reason:
    """The peer's own entry would do, but it does not come through."""
    rule, ends = fits.peer, fits.ends
    if any(not one.ports for one in fits.near):
        text = (
            f"{rule.label} {fits.verb} {ends.peer} on all ports, but another rule of the policy names ports for the "
            "same prefix: the controller keeps only those"
        )
        return "ALL_PORTS_LOST", text
    text = (
        f"{rule.label} {fits.verb} {ends.peer}, but another rule of the policy excepts it from the same block: the "
        "controller (1.0.7 to 1.1.2) joins the excepts"
    )
    return "EXCEPT_WINS", text


def _block_lost(fits: PeerFits, service: Json | None) -> Reason | None:
    """An address block, or everybody."""
    rule, ends = fits.peer, fits.ends
    names = _names(rule)
    if service is not None:
        meant = next(real for real, yes in zip(fits.real, fits.intended, strict=True) if yes)
        judged = f"egress to Service {ref(service)} is judged on its ClusterIP {ends.peer}"
        if rule.peer is not None and not np.in_block(ends.peer, rule.peer["ipBlock"]):
            text = f"{judged}, and {rule.label} {fits.verb} {np.peer_text(rule.peer)}: it holds {meant.peer} only"
            return "CLUSTER_IP", text
        if not names:
            text = (
                f"{judged} and the Service port: {rule.label} {fits.verb} {meant.flow.port_text}, the port of the pods "
                f"behind, and not {ends.flow.port_text}"
            )
            return "SERVICE_PORT", text
    where = "an address block" if rule.peer is not None else "everybody"
    text = (
        f"{rule.label} names the port {names}, which the controller cannot look up for {where}: it leaves the port "
        "out, and with the last port the rule"
    )
    return ("NAMED_PORT", text) if names else None


def _pod_lost(fits: PeerFits, world: World) -> Reason | None:
    rule, ends = fits.peer, fits.ends
    other = ends.peer_pod
    first = controller.address_of(other) if other is not None else None
    if other is not None and first != ends.peer:
        text = (
            f"{rule.label} means pod {ref(other)}, of which the controller resolves only the first address, {first}, "
            f"and not {ends.peer}"
        )
        return "FIRST_ADDRESS", text
    if kind_of(rule.policy) != CLUSTER_POLICY or not _names(rule):
        return None
    where = _first_namespace(rule.policy, world)
    text = (
        f"{rule.label} names the port {_names(rule)}: for a ClusterNetworkPolicy the controller looks named ports up "
        f"in one namespace of its subject only, {where}, and {ref(ends.pod)} is not there"
    )
    return "NAMED_PORT", text


def _same_first_ports(fits: PeerFits, world: World) -> bool:
    return any(
        holds((one.prefix, one.excepts, ""), fits.ends.peer) and admits(one.ports, fits.ends.flow)
        for one in controller.entries_of(fits.peer, world)
    )


def _first_namespace(policy: Json, world: World) -> str:
    where, _ = subject_selectors(policy)
    return min(world.namespaces_matching(where), default="none") if where is not None else "none"


# ---- Services


def _service_lost(fits: PeerFits, service: Json, world: World) -> Reason | None:
    found, rule = _why_no_cluster_ip(fits, service, world), fits.peer
    if found is None:
        return None
    code, why = found
    if rule.action == "Deny":
        text = (
            f"{rule.label} denies {np.peer_text(rule.peer)}, and that does not reach the ClusterIP {fits.ends.peer} of "
            f"their Service {ref(service)}, on which egress is judged: {why}"
        )
        return "CLUSTER_IP_BYPASS", text
    return code, f"{rule.label} {fits.verb} {np.peer_text(rule.peer)}, but not through Service {ref(service)}: {why}"


def _why_no_cluster_ip(fits: PeerFits, service: Json, world: World) -> Reason | None:
    """Why a rule for the pods behind a Service does not bring its ClusterIP, or not with this port."""
    rule, ends = fits.peer, fits.ends
    selector = (rule.peer or {}).get("podSelector") or {}
    own = (service.get("spec") or {}).get("selector") or {}
    if not selectors.matches(selector, own):
        text = (
            f"the controller adds a ClusterIP only where the Service's own selector ({_text(own)}) satisfies that of "
            f"the rule ({selectors.text(selector)}); straight to the pods' addresses it works"
        )
        return "SERVICE_SELECTOR", text
    first = next(iter(cluster_ips(service)), None)
    if first != ends.peer:
        return "FIRST_ADDRESS", f"the controller adds its first ClusterIP only, {first}, and not {ends.peer}"
    return next(_port_reasons(fits, service, world), None)


def _text(labels: Json) -> str:
    return selectors.text({"matchLabels": labels}) if labels else "none"


def _port_reasons(fits: PeerFits, service: Json, world: World) -> Iterator[Reason]:
    """One for each port of the rule that the pods behind would be reached at."""
    rule = fits.peer
    meant = next(real for real, yes in zip(fits.real, fits.intended, strict=True) if yes)
    resolved = controller.service_ports(rule, service, world)
    meant_on = f"on {port_lists.text(resolved)} only" if resolved is not None else "on no port"
    for port in rule.ports:
        protocol, value = str(port.get("protocol") or "TCP"), port.get("port")
        ports = np.resolve_ports((port,), meant.peer_pod)
        if value is None or ports is None or not admits(ports, meant.flow):
            continue
        match = controller.service_port(value, protocol, service, world)
        if match is None:
            begin = ", with which the range begins" if port.get("endPort") else ""
            why = f"no {protocol} port of the Service has the targetPort {value}{begin}"
        elif controller.bypasses(match, value, protocol, rule, service, world):
            why = (
                f"its targetPort {match.get('targetPort')} is another port than {value} on some pod, so that the "
                "controller leaves the Service port out"
            )
            yield "TARGET_PORT_BYPASS", why
            continue
        else:
            why = f"the first port of the Service with the targetPort {value} is {match.get('port')}"
        yield "SERVICE_PORT", f"{why}; the rule means the ClusterIP {meant_on}, and not on {fits.ends.flow.port_text}"
