"""The API objects of a Snapshot, indexed, with the few questions that everything asks of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from ipaddress import ip_address
from typing import Any

from kubectl_netpol.model.flow import Address
from kubectl_netpol.model.snapshot import Snapshot
from kubectl_netpol.policy import selectors
from kubectl_netpol.policy.index import AddressIndex, LabelIndex, SelectorIndex

Json = dict[str, Any]


_NO_NAME = re.compile(r"[^A-Za-z0-9._:-]|\A[^A-Za-z0-9]")


@lru_cache(maxsize=1 << 16)
def plain_name(text: str) -> str:
    """A name as an API server takes it, with `_` for what it would refuse: a bundle may hold others, and names are in
    commands for the user to paste."""
    return _NO_NAME.sub("_", text)


def namespace_of(obj: Json) -> str:
    return plain_name(str(obj["metadata"].get("namespace") or ""))


def name_of(obj: Json) -> str:
    return plain_name(str(obj["metadata"].get("name") or ""))


def ref(obj: Json) -> str:
    """`namespace/name`, or the bare name of a cluster-scoped object."""
    namespace = namespace_of(obj)
    return f"{namespace}/{name_of(obj)}" if namespace else name_of(obj)


def labels_of(obj: Json) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def parse_address(text: object) -> Address | None:
    return _address(str(text))


@lru_cache(maxsize=1 << 18)
def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def pod_ips(pod: Json) -> tuple[Address, ...]:
    """All addresses of a pod, the primary one first."""
    found = [address for text in _ip_texts(pod) if (address := parse_address(text))]
    return tuple(found) if len(found) < 2 else tuple(dict.fromkeys(found))


def _ip_texts(pod: Json) -> Iterator[str]:
    """Each text once, as it is written."""
    status = pod.get("status") or {}
    first = status.get("podIP")
    if first:
        yield str(first)
    for entry in status.get("podIPs") or ():
        text = entry.get("ip")
        if text and text != first:
            yield str(text)


def pod_ip(pod: Json) -> Address | None:
    """The primary address of a pod."""
    text = (pod.get("status") or {}).get("podIP")
    return (parse_address(text) if text else None) or next(iter(pod_ips(pod)), None)


def node_of(pod: Json) -> str:
    return plain_name(str((pod.get("spec") or {}).get("nodeName") or ""))


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


NETWORK_POLICY, APPLICATION_POLICY = "NetworkPolicy", "ApplicationNetworkPolicy"
CLUSTER_POLICY = "ClusterNetworkPolicy"
COLLECTIONS = {
    NETWORK_POLICY: "networkpolicies",
    APPLICATION_POLICY: "applicationnetworkpolicies",
    CLUSTER_POLICY: "clusternetworkpolicies",
}
"""Where the API has policies of each kind."""


def kind_of(policy: Json) -> str:
    """Which of the three kinds of policies it is."""
    return str(policy.get("kind") or NETWORK_POLICY)


def label_of(policy: Json) -> str:
    """The name of a policy in a sentence: with its kind where it is not a NetworkPolicy."""
    return name_of(policy) if kind_of(policy) == NETWORK_POLICY else f"{kind_of(policy)} {name_of(policy)}"


def _of_kind(kind: str, items: Iterable[Json]) -> tuple[Json, ...]:
    """The items of a list answer do not say their kind."""
    return tuple({**item, "kind": kind} for item in items)


def subject_selectors(policy: Json) -> tuple[Json | None, Json]:
    """(namespaceSelector, podSelector) of a ClusterNetworkPolicy's subject; (None, {}): it means nobody."""
    subject = (policy.get("spec") or {}).get("subject") or {}
    if subject.get("namespaces") is not None:
        return subject["namespaces"], {}
    pods = subject.get("pods")
    if pods is None:
        return None, {}
    return pods.get("namespaceSelector") or {}, pods.get("podSelector") or {}


class World:
    """Pods, namespaces, services, nodes and policies of one Snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.resolutions: dict[int, Any] = {}
        """What ``controller.resolution`` made of a policy, by its identity."""
        self.endpoint_indexes: dict[str, Any] = {}
        """``slices.EndpointIndex`` by namespace; "" for those of the cluster."""
        self.rule_maps: dict[Any, Any] = {}
        """Rule maps that ``diagnose.expected`` made last."""
        self.plain_maps: dict[Any, Any] = {}
        """What ``diagnose.plain`` made of the same slices, for comparing whole maps."""
        self._unread: dict[tuple[str, ...], str] = {}

    @cached_property
    def pods_of(self) -> Mapping[str, list[Json]]:
        return _by_namespace(self.snapshot.items("pods"))

    @cached_property
    def pods_on(self) -> Mapping[str, list[Json]]:
        """By node."""
        found: dict[str, list[Json]] = defaultdict(list)
        for pod in self.snapshot.items("pods"):
            found[node_of(pod)].append(pod)
        return found

    @cached_property
    def _pods_by_name(self) -> dict[str, dict[str, Json]]:
        return {}

    def pod(self, namespace: str, name: str) -> Json | None:
        """The pod of exactly this name."""
        if namespace not in self._pods_by_name:
            self._pods_by_name[namespace] = {name_of(pod): pod for pod in self.pods_of.get(namespace, ())}
        return self._pods_by_name[namespace].get(name)

    @cached_property
    def namespaces(self) -> Mapping[str, Mapping[str, str]]:
        """Name -> labels. The name label that the API server itself sets is always there."""
        return {
            name_of(ns): {"kubernetes.io/metadata.name": name_of(ns), **labels_of(ns)}
            for ns in self.snapshot.items("namespaces")
        }

    @cached_property
    def _namespace_index(self) -> LabelIndex:
        return LabelIndex([(labels, name) for name, labels in self.namespaces.items()])

    def namespaces_matching(self, selector: Json) -> tuple[str, ...]:
        """Names of the namespaces that a namespaceSelector means."""
        return self._namespace_index.select(selector)

    @cached_property
    def _pod_indexes(self) -> dict[str, LabelIndex]:
        return {}

    def pods_matching(self, namespace: str, selector: Json) -> tuple[Json, ...]:
        """The pods of a namespace that a podSelector means, in any phase; ``{}`` means all."""
        if namespace not in self._pod_indexes:
            pods = self.pods_of.get(namespace, ())
            self._pod_indexes[namespace] = LabelIndex([(labels_of(pod), pod) for pod in pods])
        return self._pod_indexes[namespace].select(selector)

    @cached_property
    def _service_indexes(self) -> dict[str, LabelIndex]:
        return {}

    def services_selecting(self, namespace: str, selector: Json) -> tuple[Json, ...]:
        """The Services of a namespace whose own selector, taken as labels, satisfies a podSelector."""
        if namespace not in self._service_indexes:
            services = self.services_of.get(namespace, ())
            pairs = [((service.get("spec") or {}).get("selector") or {}, service) for service in services]
            self._service_indexes[namespace] = LabelIndex(pairs)
        return self._service_indexes[namespace].select(selector)

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
    def _policy_indexes(self) -> dict[tuple[str, str], SelectorIndex[Json]]:
        return {}

    def policies_selecting(self, pod: Json) -> list[Json]:
        """The NetworkPolicies and ApplicationNetworkPolicies whose podSelector means this pod."""
        if on_host_network(pod):
            return []
        found: list[Json] = []
        for kind in ("networkpolicies", "applicationnetworkpolicies"):
            key = kind, namespace_of(pod)
            if key not in self._policy_indexes:
                policies = self._namespaced(kind).get(namespace_of(pod), ())
                pairs = [((policy.get("spec") or {}).get("podSelector") or {}, policy) for policy in policies]
                self._policy_indexes[key] = SelectorIndex(pairs)
            found += self._policy_indexes[key].matching(labels_of(pod))
        return found

    def _namespaced(self, kind: str) -> Mapping[str, list[Json]]:
        return self.policies_of if kind == "networkpolicies" else self.application_policies_of

    @cached_property
    def application_policies_of(self) -> Mapping[str, list[Json]]:
        return _by_namespace(_of_kind(APPLICATION_POLICY, self.snapshot.items("applicationnetworkpolicies")))

    @cached_property
    def cluster_policies(self) -> tuple[Json, ...]:
        return _of_kind(CLUSTER_POLICY, self.snapshot.items("clusternetworkpolicies"))

    @cached_property
    def _subject_indexes(self) -> dict[str, SelectorIndex[Json]]:
        return {}

    def cluster_policies_selecting(self, pod: Json) -> list[Json]:
        """The ClusterNetworkPolicies whose subject means this pod."""
        namespace = namespace_of(pod)
        if on_host_network(pod):
            return []
        if namespace not in self._subject_indexes:
            labels = self.namespaces.get(namespace, {})
            pairs = []
            for policy in self.cluster_policies:
                where, who = subject_selectors(policy)
                if where is not None and selectors.matches(where, labels):
                    pairs.append((who, policy))
            self._subject_indexes[namespace] = SelectorIndex(pairs)
        return list(self._subject_indexes[namespace].matching(labels_of(pod)))

    @cached_property
    def endpoints_of(self) -> Mapping[str, list[Json]]:
        """PolicyEndpoints by namespace."""
        return _by_namespace(self.snapshot.items("policyendpoints"))

    @cached_property
    def pod_by_ip(self) -> AddressIndex:
        """Pods with an address of their own, living ones first: addresses of finished pods are reused."""
        pods = [pod for pod in self.snapshot.items("pods") if not on_host_network(pod)]
        return AddressIndex((text, pod) for pod in sorted(pods, key=finished, reverse=True) for text in _ip_texts(pod))

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

    def unread(self, *kinds: str) -> str:
        """Which of the collections could not be (wholly) read, and why; a kind that is not installed is known."""
        if kinds not in self._unread:
            collections = {kind: self.snapshot.get(kind) for kind in kinds}
            reasons = [f"{k}: {c.reason}" for k, c in collections.items() if not c.known and not c.absent]
            self._unread[kinds] = "; ".join(reasons)
        return self._unread[kinds]

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
        found[item["metadata"].get("namespace") or ""].append(item)
    return found
