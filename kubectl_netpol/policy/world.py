"""The API objects of a Snapshot, indexed, with the few questions that everything asks of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from ipaddress import ip_address
from typing import Any

from kubectl_netpol.model.flow import Address
from kubectl_netpol.model.snapshot import Snapshot

Json = dict[str, Any]


def namespace_of(obj: Json) -> str:
    return str(obj["metadata"].get("namespace") or "")


def name_of(obj: Json) -> str:
    return str(obj["metadata"].get("name") or "")


def ref(obj: Json) -> str:
    """`namespace/name`, or the bare name of a cluster-scoped object."""
    namespace = namespace_of(obj)
    return f"{namespace}/{name_of(obj)}" if namespace else name_of(obj)


def labels_of(obj: Json) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def parse_address(text: object) -> Address | None:
    try:
        return ip_address(str(text))
    except ValueError:
        return None


def pod_ips(pod: Json) -> tuple[Address, ...]:
    """All addresses of a pod, the primary one first."""
    status = pod.get("status") or {}
    texts = [status.get("podIP")] + [entry.get("ip") for entry in status.get("podIPs") or ()]
    found = dict.fromkeys(address for text in texts if text and (address := parse_address(text)))
    return tuple(found)


def pod_ip(pod: Json) -> Address | None:
    return next(iter(pod_ips(pod)), None)


def node_of(pod: Json) -> str:
    return str((pod.get("spec") or {}).get("nodeName") or "")


def on_host_network(pod: Json) -> bool:
    return bool((pod.get("spec") or {}).get("hostNetwork"))


def phase_of(pod: Json) -> str:
    return str((pod.get("status") or {}).get("phase") or "")


def finished(pod: Json) -> bool:
    return phase_of(pod) in ("Succeeded", "Failed")


def container_ports(pod: Json) -> Iterable[Json]:
    """Ports of ordinary containers; init containers and sidecars do not count for named ports."""
    for container in (pod.get("spec") or {}).get("containers") or ():
        yield from container.get("ports") or ()


def node_addresses(node: Json) -> tuple[Address, ...]:
    """InternalIP addresses of a node."""
    entries = (node.get("status") or {}).get("addresses") or ()
    found = [parse_address(e.get("address")) for e in entries if e.get("type") == "InternalIP"]
    return tuple(address for address in found if address)


def cluster_ips(service: Json) -> tuple[Address, ...]:
    """ClusterIPs of a Service, none for headless and ExternalName ones."""
    spec = service.get("spec") or {}
    texts = [spec.get("clusterIP"), *(spec.get("clusterIPs") or ())]
    found = dict.fromkeys(address for text in texts if text and (address := parse_address(text)))
    return tuple(found)


class World:
    """Pods, namespaces, services, nodes and policies of one Snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    @cached_property
    def pods(self) -> Mapping[tuple[str, str], Json]:
        return {(namespace_of(pod), name_of(pod)): pod for pod in self.snapshot.items("pods")}

    @cached_property
    def pods_of(self) -> Mapping[str, list[Json]]:
        return _by_namespace(self.snapshot.items("pods"))

    @cached_property
    def namespaces(self) -> Mapping[str, Mapping[str, str]]:
        """Name -> labels. The name label that the API server itself sets is always there."""
        return {
            name_of(ns): {"kubernetes.io/metadata.name": name_of(ns), **labels_of(ns)}
            for ns in self.snapshot.items("namespaces")
        }

    @cached_property
    def services_of(self) -> Mapping[str, list[Json]]:
        return _by_namespace(self.snapshot.items("services"))

    @cached_property
    def nodes(self) -> Mapping[str, Json]:
        return {name_of(node): node for node in self.snapshot.items("nodes")}

    @cached_property
    def policies_of(self) -> Mapping[str, list[Json]]:
        return _by_namespace(self.snapshot.items("networkpolicies"))

    @cached_property
    def endpoints_of(self) -> Mapping[str, list[Json]]:
        """PolicyEndpoints by namespace."""
        return _by_namespace(self.snapshot.items("policyendpoints"))

    @cached_property
    def pod_by_ip(self) -> Mapping[Address, Json]:
        """Pods with an address of their own, living ones first: addresses of finished pods are reused."""
        found: dict[Address, Json] = {}
        for pod in sorted(self.snapshot.items("pods"), key=finished, reverse=True):
            if not on_host_network(pod):
                found.update(dict.fromkeys(pod_ips(pod), pod))
        return found

    @cached_property
    def node_by_ip(self) -> Mapping[Address, Json]:
        return {address: node for node in self.nodes.values() for address in node_addresses(node)}

    @cached_property
    def service_by_ip(self) -> Mapping[Address, Json]:
        services = self.snapshot.items("services")
        return {address: service for service in services for address in cluster_ips(service)}

    def who(self, address: Address) -> str:
        """The name of whatever has this address: `pod ns/x`, `node x`, `service ns/x`, or nothing."""
        for kind, index in (
            ("pod", self.pod_by_ip),
            ("node", self.node_by_ip),
            ("service", self.service_by_ip),
        ):
            found = index.get(address)
            if found is not None:
                return f"{kind} {ref(found)}"
        return ""

    def own_node_address(self, pod: Json, version: int) -> Address | None:
        """The address of the pod's node, which the agent always lets through."""
        host = parse_address((pod.get("status") or {}).get("hostIP"))
        if host is not None and host.version == version:
            return host
        node = self.nodes.get(node_of(pod))
        candidates = node_addresses(node) if node else ()
        return next((address for address in candidates if address.version == version), None)


def _by_namespace(items: Iterable[Json]) -> Mapping[str, list[Json]]:
    found: dict[str, list[Json]] = defaultdict(list)
    for item in items:
        found[namespace_of(item)].append(item)
    return found
