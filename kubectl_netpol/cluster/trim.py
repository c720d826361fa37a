"""What is kept of an API object: the fields that a question needs, and nothing that could hold a secret.

An allow-list, applied where objects come in: environment values, commands, annotations and managed fields
are never in a Snapshot, so they cannot be in a bundle either. Live and offline work on the same data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Json = dict[str, Any]

ANNOTATIONS = ("vpc.amazonaws.com/pod-ips", "networking.k8s.aws/last-change-trigger-time")
METADATA = (
    "name",
    "namespace",
    "uid",
    "labels",
    "creationTimestamp",
    "deletionTimestamp",
    "generateName",
    "finalizers",
    "generation",
)
STATUS_OF_POD = ("phase", "podIP", "podIPs", "hostIP", "hostIPs", "startTime", "conditions", "reason")


def _pick(obj: Json, keys: Iterable[str]) -> Json:
    return {key: obj[key] for key in keys if obj.get(key) not in (None, "", [], {})}


def _metadata(obj: Json) -> Json:
    metadata = obj.get("metadata") or {}
    kept = _pick(metadata, METADATA)
    owners = [_pick(o, ("kind", "name", "uid", "controller")) for o in metadata.get("ownerReferences") or ()]
    annotations = _pick(metadata.get("annotations") or {}, ANNOTATIONS)
    if owners:
        kept["ownerReferences"] = owners
    if annotations:
        kept["annotations"] = annotations
    return kept


def _container(container: Json) -> Json:
    return _pick(container, ("name", "ports"))


def _pod(pod: Json) -> Json:
    spec = pod.get("spec") or {}
    kept = _pick(spec, ("nodeName", "hostNetwork"))
    kept["containers"] = [_container(c) for c in spec.get("containers") or ()]
    status = _pick(pod.get("status") or {}, STATUS_OF_POD)
    if "conditions" in status:
        # All of them would be a quarter of what a large cluster takes in memory (bench/scale.py).
        keys = ("type", "status", "lastTransitionTime")
        status["conditions"] = [_pick(c, keys) for c in status["conditions"] if c.get("type") == "Ready"]
    return {"metadata": _metadata(pod), "spec": kept, "status": status}


def _namespace(obj: Json) -> Json:
    return {"metadata": _metadata(obj)}


def _node(node: Json) -> Json:
    status = node.get("status") or {}
    info = _pick(
        status.get("nodeInfo") or {},
        ("kernelVersion", "osImage", "kubeletVersion", "architecture", "operatingSystem"),
    )
    conditions = [c for c in status.get("conditions") or () if c.get("type") == "Ready"]
    return {
        "metadata": _metadata(node),
        "status": {"addresses": status.get("addresses") or [], "nodeInfo": info, "conditions": conditions},
    }


def _service(service: Json) -> Json:
    spec = service.get("spec") or {}
    keys = ("type", "clusterIP", "clusterIPs", "selector", "ports", "externalName", "externalTrafficPolicy")
    return {"metadata": _metadata(service), "spec": _pick(spec, keys)}


def _policy(obj: Json) -> Json:
    """Policies and resolved endpoints: the whole spec is the evidence."""
    kept: Json = {"metadata": _metadata(obj), "spec": obj.get("spec") or {}}
    if obj.get("status"):
        kept["status"] = obj["status"]
    return kept


_TRIMMERS: dict[str, Callable[[Json], Json]] = {
    "pods": _pod,
    "namespaces": _namespace,
    "nodes": _node,
    "services": _service,
}


def trim(kind: str, obj: Json) -> Json:
    """The kept part of one object of a collection. Objects without usable metadata become empty names."""
    return _TRIMMERS.get(kind, _policy)(obj)
