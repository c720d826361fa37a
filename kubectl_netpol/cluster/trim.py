"""What is kept of an API object: the fields that a question needs, and nothing that could hold a secret.

An allow-list, applied where objects come in: environment values, commands, annotations and managed fields
are never in a Snapshot, so they cannot be in a bundle either. Live and offline work on the same data.
Of the DaemonSet aws-node alone the settings named below are kept: they say how policies are enforced.
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
AWS_NODE = "aws-node"
ENVIRONMENT = frozenset(
    (
        "ANNOTATE_POD_IP",
        "AWS_VPC_K8S_CNI_VETHPREFIX",
        "ENABLE_BANDWIDTH_PLUGIN",
        "ENABLE_IPv4",
        "ENABLE_IPv6",
        "ENABLE_MULTI_NIC",
        "ENABLE_POD_ENI",
        "ENABLE_V4_EGRESS",
        "ENABLE_V6_EGRESS",
        "NETWORK_POLICY_ENFORCING_MODE",
        "POD_SECURITY_GROUP_ENFORCING_MODE",
    )
)
"""Variables of aws-node's containers whose values are kept: no other value of an environment is."""
FLAGS = frozenset(
    (
        "conntrack-cache-cleanup-period",
        "conntrack-cache-table-size",
        "enable-cloudwatch-logs",
        "enable-ipv6",
        "enable-network-policy",
        "enable-policy-event-logs",
        "enable-profiling",
        "health-probe-bind-addr",
        "log-file",
        "log-file-max-backups",
        "log-file-max-size",
        "log-level",
        "max-concurrent-reconciles",
        "metrics-bind-addr",
    )
)
"""Flags of the agent (agent facts 8.2) that are kept of the arguments of aws-node's containers."""
SWITCHES = frozenset(name for name in FLAGS if name.startswith("enable-"))
"""Those that are true or false: pflag takes no argument after them for their value, only one behind `=`."""
CONFIG_KEYS = ("enable-network-policy-controller", "enable-windows-ipam", "branch-eni-cooldown")
"""Keys of the ConfigMap amazon-vpc-cni."""
STATUS_OF_DAEMONSET = (
    "desiredNumberScheduled",
    "currentNumberScheduled",
    "numberReady",
    "numberAvailable",
    "numberMisscheduled",
    "updatedNumberScheduled",
)
LONGEST_MESSAGE = 1000
"""Characters kept of an event's message."""
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
    kept = _pick(spec, ("nodeName", "hostNetwork", "dnsPolicy"))
    agent = _is_aws_node(pod)
    keep = _with_image if agent else _container
    kept["containers"] = [keep(c) for c in spec.get("containers") or ()]
    status = _pick(pod.get("status") or {}, STATUS_OF_POD)
    if "conditions" in status:
        # All of them would be a quarter of what a large cluster takes in memory (bench/scale.py).
        keys = ("type", "status", "lastTransitionTime")
        status["conditions"] = [_pick(c, keys) for c in status["conditions"] if c.get("type") == "Ready"]
    if agent:
        states = (pod.get("status") or {}).get("containerStatuses") or ()
        status["containerStatuses"] = [_container_status(s) for s in states]
    return {"metadata": _metadata(pod), "spec": kept, "status": status}


def _is_aws_node(pod: Json) -> bool:
    metadata = pod.get("metadata") or {}
    return metadata.get("namespace") == "kube-system" and (metadata.get("labels") or {}).get("k8s-app") == AWS_NODE


def _with_image(container: Json) -> Json:
    return _pick(container, ("name", "image", "ports"))


def _container_status(status: Json) -> Json:
    """Whether it runs, how often it was restarted, and why it ended last."""
    kept = _pick(status, ("name", "image", "ready", "restartCount"))
    waiting = (status.get("state") or {}).get("waiting") or {}
    ended = (status.get("lastState") or {}).get("terminated") or {}
    if waiting:
        kept["state"] = {"waiting": _pick(waiting, ("reason",))}
    if ended:
        kept["lastState"] = {"terminated": _pick(ended, ("reason", "exitCode", "finishedAt"))}
    return kept


def _daemonset(obj: Json) -> Json:
    """Names and images of the containers; of aws-node also its settings."""
    spec, metadata = obj.get("spec") or {}, _metadata(obj)
    template = (spec.get("template") or {}).get("spec") or {}
    own = (metadata.get("namespace"), metadata.get("name")) == ("kube-system", AWS_NODE)
    groups = ("containers", "initContainers")
    keep = _of_aws_node if own else _name_and_image
    kept: Json = {"template": {"spec": {group: [keep(c) for c in template.get(group) or ()] for group in groups}}}
    if not own:
        return {"metadata": metadata, "spec": kept}
    kept |= _pick(spec, ("selector",))
    return {"metadata": metadata, "spec": kept, "status": _pick(obj.get("status") or {}, STATUS_OF_DAEMONSET)}


def _name_and_image(container: Json) -> Json:
    return _pick(container, ("name", "image"))


def _of_aws_node(container: Json) -> Json:
    kept = _name_and_image(container)
    args = _flags(container.get("args") or ())
    env = [_variable(v) for v in container.get("env") or () if v.get("name") in ENVIRONMENT]
    return kept | ({"args": args} if args else {}) | ({"env": env} if env else {})


def _flags(args: Iterable[Any]) -> list[str]:
    """`--flag=value` of the flags that are kept, also where the value was an argument of its own."""
    found: list[str] = []
    waiting = ""
    for argument in map(str, args):
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            waiting = name if name in FLAGS - SWITCHES and not equals else ""
            if name in FLAGS:
                found.append(f"--{name}{equals}{value}")
        elif waiting:
            found[-1] += f"={argument}"
            waiting = ""
    return found


def _variable(variable: Json) -> Json:
    """Its value, which may be empty; a value that is elsewhere is not known."""
    if variable.get("valueFrom") is not None:
        return {"name": variable["name"], "valueFrom": {}}
    return {"name": variable["name"], "value": str(variable.get("value") or "")}


def _config_map(obj: Json) -> Json:
    data = obj.get("data") or {}
    return {"metadata": _metadata(obj), "data": {key: str(data[key]) for key in CONFIG_KEYS if key in data}}


def _cluster_role(obj: Json) -> Json:
    keys = ("apiGroups", "resources", "resourceNames", "verbs")
    return {"metadata": _metadata(obj), "rules": [_pick(rule, keys) for rule in obj.get("rules") or ()]}


def _version(obj: Json) -> Json:
    return {"metadata": _metadata(obj), **_pick(obj, ("gitVersion",))}


def _event(obj: Json) -> Json:
    kept = _pick(obj, ("reason", "message", "lastTimestamp", "count"))
    if "message" in kept:
        kept["message"] = str(kept["message"])[:LONGEST_MESSAGE]
    about = _pick(obj.get("involvedObject") or {}, ("kind", "namespace", "name", "uid"))
    return {"metadata": _metadata(obj), "involvedObject": about, **kept}


def _access_review(obj: Json) -> Json:
    keys = ("verb", "resource", "group", "namespace", "name", "subresource")
    status = obj.get("status") or {}
    return {
        "metadata": _metadata(obj),
        "spec": _pick(obj.get("spec") or {}, keys),
        "status": {"allowed": status.get("allowed") is True},
    }


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
    "daemonsets": _daemonset,
    "configmaps": _config_map,
    "clusterroles": _cluster_role,
    "versions": _version,
    "events": _event,
    "accessreviews": _access_review,
}


def trim(kind: str, obj: Json) -> Json:
    """The kept part of one object of a collection. Objects without usable metadata become empty names."""
    return _TRIMMERS.get(kind, _policy)(obj)
