"""API objects with other names and addresses. What is not known to be harmless is renamed, whatever it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kubectl_netpol.model.snapshot import Collection
from kubectl_netpol.redact.names import Names

Json = dict[str, Any]

_WORDS_OF_THE_API = """
    apiVersion protocol policyTypes podIsolation operator phase type action tier dnsPolicy externalTrafficPolicy
    status verb verbs resource resources group apiGroups subresource allowed controller uid
"""
_TIMES = """
    creationTimestamp deletionTimestamp lastTransitionTime lastTimestamp startTime finishedAt
    networking.k8s.aws/last-change-trigger-time
"""
_SOFTWARE = "gitVersion kernelVersion osImage kubeletVersion architecture operatingSystem args"
_KEPT = frozenset((*_WORDS_OF_THE_API.split(), *_TIMES.split(), *_SOFTWARE.split()))
"""Fields whose texts stay as they are."""
_KINDS = frozenset(
    [
        "Pod",
        "Node",
        "Namespace",
        "Service",
        "ReplicaSet",
        "Deployment",
        "StatefulSet",
        "DaemonSet",
        "Job",
        "CronJob",
        "ReplicationController",
        "NetworkPolicy",
        "ApplicationNetworkPolicy",
        "ClusterNetworkPolicy",
        "PolicyEndpoint",
        "ClusterPolicyEndpoint",
    ]
)
"""Kinds that are everybody's; an owner of another kind is of somebody's own making."""
_TEXTS = frozenset(("message", "reason", "description"))
_RELEASE = re.compile(r"v?\d{1,4}(\.\d{1,4}){1,3}(-(eksbuild|rc|alpha|beta)\.?\d{1,4})?", re.ASCII)
_REASON = re.compile(r"[A-Z][A-Za-z]{1,40}", re.ASCII)
"""A reason of the API is one word: OOMKilled, Evicted. Whatever else stands there is a sentence."""
_LABELS = frozenset(("labels", "matchLabels"))
_OWN_SYSTEM = frozenset(("daemonsets", "configmaps", "clusterroles", "versions"))
"""Kinds of which only what AWS and Kubernetes made is read, and that are told apart by their names."""


def collection(kind: str, one: Collection, names: Names) -> Collection:
    return Collection(tuple(_object(kind, item, names) for item in one.items), names.text(one.reason), one.absent)


def pods_of(one: Collection) -> list[tuple[str, str]]:
    """(namespace, name) of each."""
    found = [item.get("metadata") or {} for item in one.items]
    return [(str(metadata.get("namespace") or ""), str(metadata.get("name") or "")) for metadata in found]


def _object(kind: str, item: Json, names: Names) -> Json:
    made: Json = _value("", item, names)
    if kind == "accessreviews":
        made["metadata"]["name"] = names.text(str(item["metadata"].get("name") or ""))
    elif kind in _OWN_SYSTEM and kind != "daemonsets":
        for field in ("rules", "data", "gitVersion"):
            if field in item:
                made[field] = item[field]
    return made


def _value(key: str, value: Any, names: Names) -> Any:
    if isinstance(value, dict):
        return _dict(key, value, names)
    if isinstance(value, list):
        return [_value(key, one, names) for one in value]
    return _string(key, value, names) if isinstance(value, str) else value


def _dict(key: str, value: Json, names: Names) -> Json:
    if key in _LABELS or (key == "selector" and all(isinstance(one, str) for one in value.values())):
        return {names.label_key(str(k)): names.label(str(v)) for k, v in value.items()}
    if {"key", "operator"} <= value.keys():
        return _expression(value, names)
    if key == "env":
        # A variable of aws-node: `cluster.trim` keeps none but settings.
        return value
    return {str(k): _field(key, str(k), v, names) for k, v in value.items()}


def _field(parent: str, key: str, value: Any, names: Names) -> Any:
    if parent == "ports" and key in ("name", "port", "targetPort") and isinstance(value, int | str):
        # Names of ports are words like `http`: they are matched as they are, in at most 15 characters.
        return value
    if key == "image" and isinstance(value, str):
        return image(value, names)
    return _value(key, value, names)


def _expression(value: Json, names: Names) -> Json:
    """One of `matchExpressions`."""
    values = value.get("values")
    made = {**value, "key": names.label_key(str(value["key"]))}
    if isinstance(values, list):
        made["values"] = [names.label(str(one)) for one in values]
    return made


def image(text: str, names: Names) -> str:
    """The last part of the path and the tag tell which release of what it is; the registry is the user's own."""
    rest, slash, last = text.rpartition("/")
    name, colon, tag = last.partition(":")
    system = name.startswith("amazon-k8s-cni") or name == "aws-network-policy-agent"
    renamed = name if system else names.name(name)
    return f"{names.name(rest)}{slash}{renamed}{colon}{tag if _RELEASE.fullmatch(tag) else names.name(tag)}"


def _string(key: str, value: str, names: Names) -> str:
    if key in _KEPT or (key == "reason" and _REASON.fullmatch(value)) or (key == "kind" and value in _KINDS):
        return value
    if key == "finalizers":
        return names.label_key(value)
    if key in _TEXTS:
        return names.text(value)
    if key == "vpc.amazonaws.com/pod-ips":
        return ",".join(names.address_or_name(one.strip()) for one in value.split(","))
    if value == "None":
        # Of a headless Service.
        return value
    return names.address_or_name(value)


def renamed(collections: Mapping[str, Collection], names: Names) -> dict[str, Collection]:
    """All of them; pods first, since links of nodes are called after them."""
    names.know_pods(pods_of(collections.get("pods", Collection())))
    return {kind: collection(kind, one, names) for kind, one in collections.items()}
