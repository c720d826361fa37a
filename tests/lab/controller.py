"""A stand-in for the EKS network policy controller: NetworkPolicy objects -> PolicyEndpoint objects.

Written from the facts about it (sections 6.2 to 6.5, controller >= 1.1.5), and not from the product.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]

# What the API server makes random name suffixes of.
SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
# The API server cuts the base of a generated name here.
MAX_GENERATED_BASE = 58
EVERYWHERE = ("0.0.0.0/0", "::/0")
POD_IPS_ANNOTATION = "vpc.amazonaws.com/pod-ips"


# selectors ----------------------------------------


def _expression_matches(expression: Json, labels: Mapping[str, str]) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or ()
    if operator == "In":
        return labels.get(key) in values
    if operator == "NotIn":
        return labels.get(key) not in values
    if operator == "Exists":
        return key in labels
    if operator == "DoesNotExist":
        return key not in labels
    raise ValueError(f"operator {operator!r}")


def selector_matches(selector: Json | None, labels: Mapping[str, str] | None) -> bool:
    """nil and {} match everything."""
    labels = labels or {}
    wanted = (selector or {}).get("matchLabels") or {}
    expressions = (selector or {}).get("matchExpressions") or ()
    return all(labels.get(k) == v for k, v in wanted.items()) and all(
        _expression_matches(e, labels) for e in expressions
    )


def _labels(obj: Json) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


# pods ----------------------------------------


def pod_ip(pod: Json) -> str | None:
    """status.podIP only, never podIPs[1]; a pod that has none yet may carry the CNI's annotation."""
    address = (pod.get("status") or {}).get("podIP")
    if address:
        return str(address)
    annotation = (pod["metadata"].get("annotations") or {}).get(POD_IPS_ANNOTATION, "")
    return annotation.split(",")[0].strip() or None


def _counts(pod: Json) -> bool:
    """Finished pods do not; terminating ones do."""
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed") and pod_ip(pod) is not None


def _container_port(pod: Json, name: str, protocol: str) -> int | None:
    """Named ports are those of spec.containers; initContainers do not count."""
    for container in pod["spec"].get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("name") == name and (port.get("protocol") or "TCP") == protocol:
                return int(port["containerPort"])
    return None


def _resolved(port: Json, number: int | None = None) -> dict[str, Any]:
    out: dict[str, Any] = {"protocol": port.get("protocol") or "TCP"}
    if number is None:
        number = port.get("port")
    if number is not None:
        out["port"] = number
    if port.get("endPort") is not None:
        out["endPort"] = port["endPort"]
    return out


def _named(port: Json) -> bool:
    return isinstance(port.get("port"), str)


def _ports_on(ports: Sequence[Json], pods: Iterable[Json]) -> list[dict[str, Any]]:
    """Named ports as the union of what these pods call so; the others unchanged.

    With a name among them the controller takes all of a rule's ports pod by pod (pkg/resolvers/endpoints.go,
    getIngressRulesPorts), so that none is left where there is no pod.
    """
    out: list[dict[str, Any]] = []
    pods = list(pods)
    if not pods and any(_named(port) for port in ports):
        return out
    for port in ports:
        if not _named(port):
            out.append(_resolved(port))
            continue
        protocol = port.get("protocol") or "TCP"
        numbers = {_container_port(p, port["port"], protocol) for p in pods}
        out += [_resolved(port, n) for n in sorted(n for n in numbers if n is not None)]
    return out


# the cluster as one policy sees it ----------------------------------------


@dataclass(frozen=True)
class _Cluster:
    pods: Sequence[Json]
    namespaces: Sequence[Json]
    services: Sequence[Json]

    def receiving(self, policy: Json) -> list[Json]:
        """The pods whose named ports count in ingress rules, host network pods too."""
        namespace = policy["metadata"]["namespace"]
        selector = policy["spec"].get("podSelector")
        return [
            p
            for p in self.pods
            if p["metadata"]["namespace"] == namespace and selector_matches(selector, _labels(p)) and _counts(p)
        ]

    def selected(self, policy: Json) -> list[Json]:
        """Host network pods are peers, but are not selected (>= 1.1.2)."""
        return [p for p in self.receiving(policy) if not p["spec"].get("hostNetwork")]

    def peer_namespaces(self, peer: Json, own: str) -> list[str]:
        if peer.get("namespaceSelector") is None:
            return [own]
        names = [n["metadata"]["name"] for n in self.namespaces if self._selects(peer, n)]
        return sorted(names)

    @staticmethod
    def _selects(peer: Json, namespace: Json) -> bool:
        # The API server puts this label on every namespace.
        labels = {"kubernetes.io/metadata.name": namespace["metadata"]["name"], **_labels(namespace)}
        return selector_matches(peer["namespaceSelector"], labels)

    def peer_pods(self, peer: Json, own: str) -> list[Json]:
        names = set(self.peer_namespaces(peer, own))
        selector = peer.get("podSelector")
        return [
            p
            for p in self.pods
            if p["metadata"]["namespace"] in names and selector_matches(selector, _labels(p)) and _counts(p)
        ]

    def peer_services(self, peer: Json, own: str) -> list[Json]:
        """Those whose *selector map* satisfies the peer's podSelector: the pods behind are not asked."""
        names = set(self.peer_namespaces(peer, own))
        found = []
        for service in self.services:
            spec = service["spec"]
            headless = spec.get("clusterIP") in (None, "", "None") or spec.get("type") == "ExternalName"
            if service["metadata"]["namespace"] not in names or headless:
                continue
            if selector_matches(peer.get("podSelector"), spec.get("selector") or {}):
                found.append(service)
        return found

    def backing_pods(self, service: Json) -> list[Json]:
        """Of any phase; without a selector all of the namespace (endpoints.go, getMatchingServicePort)."""
        selector = service["spec"].get("selector") or {}
        return [
            p
            for p in self.pods
            if p["metadata"]["namespace"] == service["metadata"]["namespace"]
            and selector_matches({"matchLabels": selector}, _labels(p))
        ]

    # service ports ----------------------------------------

    def service_ports(self, service: Json, ports: Sequence[Json]) -> list[dict[str, Any]]:
        """The policy's ports as the Service's own; those that lead nowhere are left out."""
        found = []
        for port in ports:
            if port.get("port") is None:
                found.append(_resolved(port))
                continue
            number = self._service_port(service, port, ports)
            if number is not None:
                found.append(_resolved(port, number))
        return found

    def _service_port(self, service: Json, port: Json, allowed: Sequence[Json]) -> int | None:
        protocol = port.get("protocol") or "TCP"
        candidates = [s for s in service["spec"].get("ports") or () if (s.get("protocol") or "TCP") == protocol]
        for candidate in candidates:
            target = candidate.get("targetPort", candidate["port"])
            if type(target) is type(port["port"]) and target == port["port"]:
                return int(candidate["port"])
        backing = self.backing_pods(service)
        found = next((c for p in backing if (c := _on_pod(p, port["port"], protocol, candidates))), None)
        if found is None:
            return None
        target = found.get("targetPort", found["port"])
        if not _named(port) and isinstance(target, str):
            # It may mean another number on another pod: then the ClusterIP is left out.
            numbers = {_number(p, target, protocol) for p in backing}
            if any(n is not None and not _allowed(n, protocol, allowed) for n in numbers):
                return None
        return int(found["port"])


def _on_pod(pod: Json, wanted: int | str, protocol: str, candidates: Sequence[Json]) -> Json | None:
    """The Service port that leads where the policy's port does on this pod, by its number or by its name there.

    Of several declarations of a number the first one's name counts (pkg/k8s/pod_utils.go).
    """
    ports = [p for c in pod["spec"].get("containers") or () for p in c.get("ports") or ()]
    key = "name" if isinstance(wanted, str) else "containerPort"
    mine = (p for p in ports if (p.get("protocol") or "TCP") == protocol and p.get(key) == wanted)
    declared = next(mine, {} if isinstance(wanted, str) else {"containerPort": wanted})
    for candidate in candidates if declared else ():
        target = candidate.get("targetPort", candidate["port"])
        if target == declared.get("name" if isinstance(target, str) else "containerPort"):
            return candidate
    return None


def _number(pod: Json, port: int | str, protocol: str) -> int | None:
    return _container_port(pod, port, protocol) if isinstance(port, str) else port


def _allowed(number: int, protocol: str, ports: Sequence[Json]) -> bool:
    for port in ports:
        if _named(port) or (port.get("protocol") or "TCP") != protocol:
            continue
        if port.get("port") is None or port["port"] <= number <= (port.get("endPort") or port["port"]):
            return True
    return False


# rules ----------------------------------------


def _entry(cidr: str, ports: Sequence[Json], excepts: Sequence[str] = ()) -> dict[str, Any]:
    entry: dict[str, Any] = {"cidr": cidr}
    if excepts:
        entry["except"] = list(excepts)
    if ports:
        entry["ports"] = [dict(p) for p in ports]
    return entry


def _block_entry(peer: Json, ports: Sequence[Json]) -> dict[str, Any]:
    """Copied verbatim: 10.1.2.3/8 stays 10.1.2.3/8."""
    return _entry(peer["ipBlock"]["cidr"], ports, peer["ipBlock"].get("except") or ())


def _ingress(rules: Iterable[Json], receiving: list[Json], own: str, cluster: _Cluster) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for rule in rules:
        ports = _ports_on(rule.get("ports") or (), receiving)
        if rule.get("ports") and not ports:
            continue
        if not rule.get("from"):
            entries += [_entry(cidr, ports) for cidr in EVERYWHERE]
        for peer in rule.get("from") or ():
            if peer.get("ipBlock"):
                entries.append(_block_entry(peer, ports))
            else:
                entries += [_entry(str(pod_ip(p)), ports) for p in cluster.peer_pods(peer, own)]
    return entries


def _egress(rules: Iterable[Json], own: str, cluster: _Cluster) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for rule in rules:
        ports = rule.get("ports") or ()
        # A named port means nothing for an address block.
        plain = [_resolved(p) for p in ports if not _named(p)]
        usable = not ports or bool(plain)
        if not rule.get("to") and usable:
            entries += [_entry(cidr, plain) for cidr in EVERYWHERE]
        for peer in rule.get("to") or ():
            if peer.get("ipBlock"):
                entries += [_block_entry(peer, plain)] if usable else []
            else:
                entries += _egress_selector(peer, ports, own, cluster)
    return entries


def _egress_selector(peer: Json, ports: Sequence[Json], own: str, cluster: _Cluster) -> list[dict[str, Any]]:
    entries = []
    for pod in cluster.peer_pods(peer, own):
        resolved = _ports_on(ports, [pod])
        if resolved or not ports:
            entries.append(_entry(str(pod_ip(pod)), resolved))
    for service in cluster.peer_services(peer, own):
        resolved = cluster.service_ports(service, ports)
        if resolved or not ports:
            entries.append(_entry(service["spec"]["clusterIP"], resolved))
    return entries


def merge(entries: Iterable[Json]) -> list[dict[str, Any]]:
    """Agent facts 6.5 (>= 1.1.3): one entry per CIDR and except; "all ports" wins; ports are deduplicated."""
    merged: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    for entry in entries:
        key = (entry["cidr"], tuple(sorted(entry.get("except") or ())))
        known = merged.get(key)
        if known is None:
            merged[key] = _entry(entry["cidr"], _distinct(entry.get("ports") or ()), entry.get("except") or ())
        elif "ports" not in known or not entry.get("ports"):
            known.pop("ports", None)
        else:
            known["ports"] = _distinct([*known["ports"], *entry["ports"]])
    return list(merged.values())


def _distinct(ports: Sequence[Json]) -> list[dict[str, Any]]:
    return [dict(items) for items in dict.fromkeys(tuple(sorted(p.items())) for p in ports)]


# objects ----------------------------------------


def _policy_types(spec: Json) -> list[str]:
    """The API server's default, for objects that did not pass through one."""
    if spec.get("policyTypes"):
        return list(spec["policyTypes"])
    return ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def endpoint_name(namespace: str, policy: str, index: int) -> str:
    digest = hashlib.sha256(f"{namespace}/{policy}/{index}".encode()).digest()
    suffix = "".join(SUFFIX_ALPHABET[b % len(SUFFIX_ALPHABET)] for b in digest[:5])
    return f"{policy}-"[:MAX_GENERATED_BASE] + suffix


def _listed(pod: Json) -> dict[str, str]:
    meta = pod["metadata"]
    return {
        "hostIP": (pod.get("status") or {}).get("hostIP", ""),
        "podIP": str(pod_ip(pod)),
        "name": meta["name"],
        "namespace": meta["namespace"],
    }


def _slices(policy: Json, lists: Mapping[str, list[Any]], chunk: int) -> list[dict[str, Any]]:
    """Each list is cut on its own, so pods and rules of a policy may be in different slices. At least one."""
    count = max(1, *(-(-len(items) // chunk) for items in lists.values()))
    return [_endpoint(policy, i, {k: v[i * chunk : (i + 1) * chunk] for k, v in lists.items()}) for i in range(count)]


def _endpoint(policy: Json, index: int, lists: Mapping[str, list[Any]]) -> dict[str, Any]:
    meta = policy["metadata"]
    owner = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "name": meta["name"],
        "uid": meta.get("uid", ""), "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    spec: dict[str, Any] = {
        "policyRef": {"name": meta["name"], "namespace": meta["namespace"]},
        "podSelector": policy["spec"].get("podSelector") or {},
        "podIsolation": _policy_types(policy["spec"]),
    }
    spec |= {name: items for name, items in lists.items() if items}
    return {
        "apiVersion": "networking.k8s.aws/v1alpha1",
        "kind": "PolicyEndpoint",
        "metadata": {
            "name": endpoint_name(meta["namespace"], meta["name"], index),
            "generateName": f"{meta['name']}-",
            "namespace": meta["namespace"],
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


def resolve(
    network_policies: Sequence[Json],
    pods: Sequence[Json],
    namespaces: Sequence[Json],
    services: Sequence[Json],
    chunk: int = 200,
) -> list[dict[str, Any]]:
    """All PolicyEndpoints of these policies. Rules are shipped even for a direction not in policyTypes."""
    cluster = _Cluster(pods, namespaces, services)
    found: list[dict[str, Any]] = []
    for policy in network_policies:
        namespace, spec = policy["metadata"]["namespace"], policy["spec"]
        selected = cluster.selected(policy)
        lists = {
            "podSelectorEndpoints": [_listed(p) for p in selected],
            "ingress": merge(_ingress(spec.get("ingress") or (), cluster.receiving(policy), namespace, cluster)),
            "egress": merge(_egress(spec.get("egress") or (), namespace, cluster)),
        }
        found += _slices(policy, lists, chunk)
    return found
