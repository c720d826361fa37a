"""Where a pod asks DNS, and whether it may: the first thing that an egress policy breaks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.model.flow import PROTOCOL_NUMBERS, Address, Direction, Flow, port_text
from kubectl_netpol.model.verdict import Decision, Verdict
from kubectl_netpol.policy import endpoints, targets, tiers
from kubectl_netpol.policy.nearmiss.case import service_entries
from kubectl_netpol.policy.nearmiss.places import NODE_LOCAL_DNS, has_node_local_dns
from kubectl_netpol.policy.nearmiss.record import printable
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.nodes import AUTO_MODE
from kubectl_netpol.policy.nodes import kind_of as node_kind
from kubectl_netpol.policy.world import (
    World,
    cluster_ips,
    labels_of,
    name_of,
    namespace_of,
    node_of,
    pod_ips,
)

Json = dict[str, Any]

PORT = 53
PROTOCOLS = ("UDP", "TCP")
SYSTEM = "kube-system"
MOST_PODS = 4
"""Pods behind one Service that are judged on their own."""


@dataclass(frozen=True)
class DnsAnswer:
    """One place that answers DNS, and whether the pod may ask it."""

    text: str
    """`pods ask kube-dns at 172.20.0.10: 53/UDP is denied`."""
    address: str
    allowed: bool | None
    """Over UDP and over TCP; None: not known."""
    why: str
    """The reason of the first verdict that does not allow it, with its layer."""


@dataclass(frozen=True)
class _Place:
    text: str
    address: Address
    pod: Json | None = None
    service: Json | None = None


def dns_of(pod: Json, world: World) -> tuple[DnsAnswer, ...]:
    """Each place that answers DNS in this cluster, as far as the pod has an address of the same family."""
    unread = world.unread("services")
    if unread:
        return (DnsAnswer("where pods ask DNS is not known", "", None, printable(f"not read: {unread}")),)
    return tuple(answer for place in _places(pod, world) if (answer := _answer(pod, place, world)))


def _is_dns(service: Json) -> bool:
    """Whether this Service of kube-system is the one that pods have in their resolv.conf."""
    labels = labels_of(service)
    known = labels.get("k8s-app") == "kube-dns" or labels.get("kubernetes.io/name") == "CoreDNS"
    return known or name_of(service) == "kube-dns"


def _places(pod: Json, world: World) -> Iterator[_Place]:
    on_node = _on_the_node(pod, world)
    for service in filter(_is_dns, world.services_of.get(SYSTEM, ())):
        pods = targets.service_pods(service, world)
        node = ", where the node itself answers (EKS Auto Mode)" if on_node and not pods else ""
        for address in cluster_ips(service):
            yield _Place(f"pods ask {name_of(service)} at {address}{node}", address, service=service)
        for backend in pods[:MOST_PODS]:
            for address in pod_ips(backend)[:1]:
                text = f"pod {name_of(backend)} behind {name_of(service)} answers at {address}"
                yield _Place(text, address, backend)
    if NODE_LOCAL_DNS is not None and has_node_local_dns(world):
        yield _Place(f"NodeLocal DNSCache answers at {NODE_LOCAL_DNS}", NODE_LOCAL_DNS)


def _on_the_node(pod: Json, world: World) -> bool:
    node = world.nodes.get(node_of(pod))
    return node is not None and node_kind(node) is AUTO_MODE


def _answer(pod: Json, place: _Place, world: World) -> DnsAnswer | None:
    own = next((address for address in pod_ips(pod) if address.version == place.address.version), None)
    if own is None:
        return None
    words, found = [], []
    for protocol in PROTOCOLS:
        flow = Flow(own, place.address, PROTOCOL_NUMBERS[protocol], PORT)
        verdict = _verdict(Ends(pod, Direction.EGRESS, flow, place.pod), place, world)
        found.append(verdict)
        words.append((port_text(flow.protocol, PORT), _WORDS.get(verdict.decision, "not known")))
    wrong = next((v for v in found if v.decision is Decision.DENY), None)
    wrong = wrong or next((v for v in found if v.decision is not Decision.ALLOW), None)
    allowed = {None: True, Decision.DENY: False}.get(wrong.decision if wrong else None)
    why = f"{wrong.layer}: {wrong.why}" if wrong else f"{found[0].layer}: {found[0].why}"
    return DnsAnswer(printable(f"{place.text}: {_said(words)}"), str(place.address), allowed, printable(why))


_WORDS = {Decision.ALLOW: "allowed", Decision.DENY: "denied"}


def _said(words: Iterable[tuple[str, str]]) -> str:
    """`53/UDP and 53/TCP are denied`, `53/UDP is allowed, 53/TCP is denied`."""
    (first, left), (second, right) = words
    if left == right:
        return f"{first} and {second} are {left}"
    return f"{first} is {left}, {second} is {right}"


def _verdict(ends: Ends, place: _Place, world: World) -> Verdict:
    """The PolicyEndpoints' word where they are read: it is nearer to what packets meet. Else that of the YAML."""
    intent = _intent(ends, place, world)
    if world.unread("policyendpoints", "clusterpolicyendpoints"):
        return intent
    resolved = endpoints.evaluate(ends, world)
    return intent if resolved.decision is intent.decision else resolved


def _intent(ends: Ends, place: _Place, world: World) -> Verdict:
    """A ClusterIP is judged by the pods behind it; the worst of them counts."""
    if place.service is None:
        return tiers.evaluate(ends, world)
    found = [tiers.evaluate(real, world) for real in _behind(ends, place.service, world)]
    worst = next((v for v in found if v.decision is Decision.DENY), None)
    return worst or next((v for v in found if v.decision is not Decision.ALLOW), found[0])


def _behind(ends: Ends, service: Json, world: World) -> list[Ends]:
    protocol = next(name for name in PROTOCOLS if PROTOCOL_NUMBERS[name] == ends.flow.protocol)
    found = []
    for pod in targets.service_pods(service, world):
        address = next((a for a in pod_ips(pod) if a.version == ends.flow.source.version), None)
        port = targets.target_port(service, protocol, PORT, pod)
        if address is not None and port is not None and pod is not ends.pod:
            found.append(Ends(ends.pod, ends.direction, Flow(ends.flow.source, address, ends.flow.protocol, port), pod))
    return found or [Ends(ends.pod, ends.direction, ends.flow, _stand_in(service, protocol))]


def _stand_in(service: Json, protocol: str) -> Json:
    """A pod as the Service would select it: EKS Auto Mode has none, and rules for such pods bring the ClusterIP."""
    ports = [
        {"name": str(entry.get("targetPort")), "containerPort": PORT, "protocol": protocol}
        for entry in service_entries(service, protocol)
        if entry["port"] == PORT
    ]
    metadata = {
        "name": name_of(service),
        "namespace": namespace_of(service),
        "labels": (service.get("spec") or {}).get("selector") or {},
    }
    return {"metadata": metadata, "spec": {"containers": [{"name": "dns", "ports": ports}]}, "status": {}}
