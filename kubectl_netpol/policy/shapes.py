"""Objects whose fields have the shapes of their kinds.

A bundle may hold anything. An object of another shape is left out, and its collection is then one that was not wholly
read: what is asked of it is unknown, and nothing that reads objects meets a text where it expects a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kubectl_netpol.model.snapshot import Collection, Snapshot

Json = dict[str, Any]
Shape = Any
"""A type; a dict of field -> shape; a list of one shape; or ``MapOf``."""


@dataclass(frozen=True)
class MapOf:
    """An object with any keys and values of one shape."""

    value: Shape


def fits(value: Any, shape: Shape) -> bool:
    """Whether a value has a shape. Null fits everywhere but in lists: it stands for a field that is not set."""
    if value is None:
        return True
    if isinstance(shape, MapOf):
        return isinstance(value, dict) and all(fits(one, shape.value) for one in value.values())
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(fits(value.get(key), inner) for key, inner in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(one is not None and fits(one, shape[0]) for one in value)
    if isinstance(value, bool):
        return shape is bool
    return isinstance(value, shape)


_TEXTS = MapOf(str)
_SELECTOR = {
    "matchLabels": _TEXTS,
    "matchExpressions": [{"key": str, "operator": str, "values": [str]}],
}
_METADATA = {
    "name": str,
    "namespace": str,
    "labels": _TEXTS,
    "annotations": _TEXTS,
    "creationTimestamp": str,
    "deletionTimestamp": str,
    "ownerReferences": [{"kind": str, "name": str}],
}
_CONDITIONS = [{"type": str, "status": str}]
_POLICY = {"podSelector": _SELECTOR, "policyTypes": [str], "ingress": [{}], "egress": [{}]}
_ENDPOINT = {
    "policyRef": {"name": str, "namespace": str},
    "podSelectorEndpoints": [{"namespace": str, "name": str, "podIP": str, "hostIP": str}],
    "podIsolation": [str],
    "ingress": [{}],
    "egress": [{}],
}
_STATUS = {
    "name": str,
    "ready": bool,
    "restartCount": int,
    "state": {"waiting": {"reason": str}},
    "lastState": {"terminated": {"reason": str, "exitCode": int}},
}
SHAPES: Mapping[str, Shape] = {
    "pods": {
        "spec": {
            "nodeName": str,
            "hostNetwork": bool,
            "containers": [{"name": str, "image": str, "ports": [{"containerPort": int}]}],
        },
        "status": {
            "phase": str,
            "podIP": str,
            "hostIP": str,
            "podIPs": [{"ip": str}],
            "conditions": _CONDITIONS,
            "containerStatuses": [_STATUS],
        },
    },
    "namespaces": {},
    "nodes": {
        "status": {
            "addresses": [{"type": str, "address": str}],
            "nodeInfo": {"kernelVersion": str, "osImage": str, "operatingSystem": str, "architecture": str},
            "conditions": _CONDITIONS,
        },
    },
    "services": {"spec": {"clusterIP": str, "clusterIPs": [str], "selector": _TEXTS, "ports": [{}]}},
    "networkpolicies": {"spec": _POLICY},
    "applicationnetworkpolicies": {"spec": _POLICY},
    "clusternetworkpolicies": {
        "spec": {
            "subject": {"namespaces": _SELECTOR, "pods": {"namespaceSelector": _SELECTOR, "podSelector": _SELECTOR}},
            "ingress": [{}],
            "egress": [{}],
        }
    },
    "policyendpoints": {"spec": _ENDPOINT},
    "clusterpolicyendpoints": {"spec": _ENDPOINT},
    "daemonsets": {
        "spec": {
            "template": {
                "spec": {
                    "containers": [
                        {
                            "name": str,
                            "image": str,
                            "args": [str],
                            "env": [{"name": str, "value": str, "valueFrom": {}}],
                        }
                    ]
                }
            }
        }
    },
    "configmaps": {"data": _TEXTS},
    "clusterroles": {"rules": [{"apiGroups": [str], "resources": [str], "resourceNames": [str], "verbs": [str]}]},
    "versions": {"gitVersion": str},
    "events": {
        "involvedObject": {"namespace": str, "name": str},
        "message": str,
        "lastTimestamp": str,
        "count": int,
    },
    "accessreviews": {"spec": _TEXTS, "status": {"allowed": bool}},
}
"""The fields that are read of each kind to tell how a cluster is set up; what rules say is not among them."""


def sound(snapshot: Snapshot) -> Snapshot:
    """Without the objects that do not have the shape of their kind."""
    return replace(snapshot, collections={kind: _sound(kind, one) for kind, one in snapshot.collections.items()})


def _sound(kind: str, found: Collection) -> Collection:
    kept = tuple(one for one in found.items if _fits(one, SHAPES.get(kind, {})))
    if len(kept) == len(found.items):
        return found
    odd = next(one for one in found.items if not _fits(one, SHAPES.get(kind, {})))
    lost = len(found.items) - len(kept)
    more = f" (and {lost - 1} more)" if lost > 1 else ""
    reason = f"{_name(odd)}{more} does not have the shape of its kind"
    return replace(found, items=kept, reason="; ".join(filter(None, (found.reason, reason))))


def _fits(one: Any, shape: Shape) -> bool:
    return (
        isinstance(one, dict)
        and isinstance(one.get("metadata"), dict)
        and fits(one, {"metadata": _METADATA})
        and fits(one, shape)
    )


def _name(one: Any) -> str:
    metadata = one.get("metadata") if isinstance(one, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) and name else "an object without a name"
