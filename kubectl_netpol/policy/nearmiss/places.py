"""Near misses of what the other end is: no pod, a node, the host network, a pod that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy import selectors
from kubectl_netpol.policy.nearmiss.case import Case, block_of, leads_to, with_peer, with_rule
from kubectl_netpol.policy.nearmiss.record import Candidate, Proof, candidate
from kubectl_netpol.policy.networkpolicy import RulePeer
from kubectl_netpol.policy.world import (
    World,
    finished,
    labels_of,
    name_of,
    namespace_of,
    node_of,
    on_host_network,
    parse_address,
    phase_of,
    pod_ips,
    ref,
)

Json = dict[str, Any]

NODE_LOCAL_DNS = parse_address("169.254.20.10")
"""What NodeLocal DNSCache listens on, on each node (agent facts 6.4)."""


def candidates(case: Case) -> Iterator[Candidate]:
    """Of an end that no selector means, whatever it says."""
    address, world = case.judged.peer, case.world
    if not case.policies or address in world.pod_by_ip:
        return
    if case.other is not None and not on_host_network(case.other):
        return
    if address == NODE_LOCAL_DNS and has_node_local_dns(world):
        yield from _node_local(case)
    elif address in world.service_by_ip:
        yield from _service(case, world.service_by_ip[address])
    elif address in world.node_by_ip:
        yield from _node(case, world.node_by_ip[address])
    else:
        yield from _outside(case)


def has_node_local_dns(world: World) -> bool:
    """Whether the pods of NodeLocal DNSCache are there."""
    found = world.pods_matching("kube-system", {"matchLabels": {"k8s-app": "node-local-dns"}})
    return any(_of_daemonset(pod) and not finished(pod) for pod in found)


def _of_daemonset(pod: Json) -> bool:
    owners = pod["metadata"].get("ownerReferences") or ()
    return any(str(owner.get("kind")) == "DaemonSet" for owner in owners)


def gone(case: Case) -> Iterator[Candidate]:
    """A pod that has no address any more, or not yet: the YAML may well mean it."""
    address = case.judged.peer
    pod = case.other or case.world.pod_by_ip.get(address)
    if pod is None or on_host_network(pod):
        return
    if finished(pod):
        now = case.world.pod_by_ip.get(address)
        heir = f", which {ref(now)} has now" if now is not None and not finished(now) and now is not pod else ""
        text = f"{ref(pod)} has ended ({phase_of(pod)}): no selector means it at {address} any more{heir}"
        yield candidate("PEER_ENDED", 0, text)
    elif not pod_ips(pod):
        text = f"{ref(pod)} has no address yet ({phase_of(pod) or 'phase unknown'}): nothing can be resolved for it"
        yield candidate("PEER_NO_ADDRESS", 0, text)


def _block_allows(case: Case) -> Proof:
    """One more rule for just this address is all that is missing."""
    return Proof((with_rule(case.policies[0], case.direction, (block_of(case.judged),), ()),))


def _selector_rule(case: Case) -> RulePeer | None:
    """A rule with a selector that is there for this port: the widest one."""
    rules = [rule for rule in case.wrong_peer if rule.peer is not None and not rule.peer.get("ipBlock")]
    return max(rules, key=_width, default=None)


def _width(rule: RulePeer) -> int:
    peer = rule.peer or {}
    parts = (peer.get("podSelector") or {}, peer.get("namespaceSelector"))
    return sum(selectors.text(part) == "<all>" for part in parts if part is not None)


def _outside(case: Case) -> Iterator[Candidate]:
    rule = _selector_rule(case)
    if rule is None:
        return
    text = (
        f"{case.where(rule)} allows {np.peer_text(rule.peer)}; {case.judged.peer} is no pod of this cluster, and "
        "selectors mean pods only: an address outside or of a load balancer needs an ipBlock"
    )
    yield candidate("SELECTOR_OUTSIDE", 3 - _width(rule), text, with_peer(rule, block_of(case.judged)))


def _node_local(case: Case) -> Iterator[Candidate]:
    text = (
        f"{case.judged.peer} is NodeLocal DNSCache, which has this address on each node: no selector means it, an "
        "ipBlock does"
    )
    yield candidate("NODE_LOCAL_DNS", 0, text, _block_allows(case))


def _service(case: Case, service: Json) -> Iterator[Candidate]:
    address = case.judged.peer
    if case.incoming:
        text = (
            f"{address} is the ClusterIP of service {ref(service)}, which is never the source of a packet: connections "
            "come from the address of the pod that opens them"
        )
        yield candidate("SERVICE_AS_SOURCE", 0, text)
        return
    text = (
        f"service {ref(service)} has no running pod behind {address}, and selectors mean pods: an ipBlock can mean it"
    )
    yield candidate("SERVICE_WITHOUT_PODS", 1, text, _block_allows(case))


# ---- nodes


def _node(case: Case, node: Json) -> Iterator[Candidate]:
    yield from _host_pod(case, node)
    if case.incoming:
        yield from _masquerade(case, node)
    address, name = case.judged.peer, name_of(node)
    own = case.world.own_node_address(case.pod, address.version)
    pod = case.called(case.pod)
    if own is None:
        text = f"{address} is node {name}: no selector means a node, an ipBlock does"
    elif name == node_of(case.pod):
        text = f"{address} is an address of {name}, the own node of {pod}, but only its address {own} always passes"
    elif case.incoming:
        text = (
            f"{address} is node {name}; only {own}, the own node {node_of(case.pod)} of {pod}, always passes, and the "
            "kubelet's probes come from there: no selector means another node, an ipBlock does"
        )
    else:
        text = f"{address} is node {name}: no selector means a node or what runs on its host network, an ipBlock does"
    yield candidate("NODE", 2, text, _block_allows(case))


def _host_pod(case: Case, node: Json) -> Iterator[Candidate]:
    """A pod on the node's own network that a selector seems to mean."""
    rules = [rule for rule in case.wrong_peer if rule.peer is not None and not rule.peer.get("ipBlock")]
    rules = [rule for rule in rules if (rule.peer or {}).get("podSelector")]
    for pod in case.world.snapshot.items("pods") if rules else ():
        if not on_host_network(pod) or node_of(pod) != name_of(node) or finished(pod):
            continue
        rule = next((rule for rule in rules if _labels_fit(rule, pod, case)), None)
        if rule is not None:
            text = (
                f"{case.where(rule)} allows {np.peer_text(rule.peer)}, as {ref(pod)} is labelled, but that pod is on "
                f"the host network of {name_of(node)}: {case.judged.peer} is the node's address, which an ipBlock "
                "means and no selector"
            )
            yield candidate("HOST_NETWORK_PEER", 0, text, with_peer(rule, block_of(case.judged)))
            return


def _labels_fit(rule: RulePeer, pod: Json, case: Case) -> bool:
    selector = (rule.peer or {}).get("podSelector") or {}
    return np.means_namespace(rule, namespace_of(pod), case.world) and selectors.matches(selector, labels_of(pod))


def _masquerade(case: Case, node: Json) -> Iterator[Candidate]:
    """kube-proxy puts the node's address on what it sends on to a pod of another node (agent facts 3.6.8)."""
    for service in case.fronting:
        spec = service.get("spec") or {}
        kind, policy = spec.get("type"), spec.get("externalTrafficPolicy") or "Cluster"
        if kind not in ("NodePort", "LoadBalancer") or policy == "Local" or name_of(node) == node_of(case.pod):
            continue
        if not any(inside == case.judged.flow.port for _, inside in leads_to(service, case.protocol, case.pod)):
            continue
        text = (
            f"service {ref(service)} is a {kind} with externalTrafficPolicy {policy}: connections that reach it "
            f"through node {name_of(node)} come from that node's address {case.judged.peer}; allow the nodes by an "
            "ipBlock, or use externalTrafficPolicy: Local"
        )
        yield candidate("NODE_MASQUERADE", 1, text, _block_allows(case))
        return
