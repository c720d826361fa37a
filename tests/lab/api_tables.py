"""Server-side tables: what `kubectl get` prints comes from here."""

from __future__ import annotations

import calendar
import time
from collections.abc import Callable
from typing import Any

from .api_types import Resource

Json = dict[str, Any]
Cells = Callable[[Json], list[Any]]

_Column = tuple[str, int]  # name, priority (1: only with -o wide)


def age(obj: Json) -> str:
    stamp = obj["metadata"].get("creationTimestamp")
    if not stamp:
        return "<unknown>"
    seconds = int(time.time() - calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")))
    if seconds < 120:
        return f"{max(0, seconds)}s"
    if seconds < 600:
        return f"{seconds // 60}m{seconds % 60}s" if seconds % 60 else f"{seconds // 60}m"
    if seconds < 3 * 3600:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 2 * 86400 else f"{seconds // 86400}d"


def _selector(labels: Json | None) -> str:
    return ",".join(f"{k}={v}" for k, v in sorted((labels or {}).items())) or "<none>"


def _object_selector(selector: Json | None) -> str:
    parts = [f"{k}={v}" for k, v in sorted(((selector or {}).get("matchLabels") or {}).items())]
    for item in (selector or {}).get("matchExpressions") or []:
        values = ",".join(item.get("values") or [])
        words = {"In": f"{item['key']} in ({values})", "NotIn": f"{item['key']} notin ({values})"}
        parts.append(words.get(item["operator"], item["key"] if item["operator"] == "Exists" else "!" + item["key"]))
    return ",".join(parts) or "<none>"


def pod_phase(pod: Json) -> str:
    """The STATUS column, as the server's printer finds it."""
    status = pod.get("status") or {}
    shown = status.get("reason") or status.get("phase", "Unknown")
    for container in reversed(status.get("containerStatuses") or []):
        state = container.get("state") or {}
        if (state.get("waiting") or {}).get("reason"):
            shown = state["waiting"]["reason"]
        elif "terminated" in state and not status.get("reason"):
            shown = state["terminated"].get("reason") or f"ExitCode:{state['terminated']['exitCode']}"
    return "Terminating" if pod["metadata"].get("deletionTimestamp") else shown


def _pod(pod: Json) -> list[Any]:
    status, spec = pod.get("status") or {}, pod["spec"]
    states = status.get("containerStatuses") or []
    ready = f"{sum(bool(s.get('ready')) for s in states)}/{len(spec.get('containers') or [])}"
    restarts = sum(s.get("restartCount", 0) for s in states)
    wide = [status.get("podIP") or "<none>", spec.get("nodeName") or "<none>", "<none>", "<none>"]
    return [pod["metadata"]["name"], ready, pod_phase(pod), str(restarts), age(pod), *wide]


def _node(node: Json) -> list[Any]:
    status = node.get("status") or {}
    ready = next((c["status"] for c in status.get("conditions") or [] if c["type"] == "Ready"), "Unknown")
    shown = "Ready" if ready == "True" else "NotReady"
    if (node.get("spec") or {}).get("unschedulable"):
        shown += ",SchedulingDisabled"
    prefix = "node-role.kubernetes.io/"
    roles = [k.removeprefix(prefix) for k in node["metadata"].get("labels") or {} if k.startswith(prefix)]
    addresses = {a["type"]: a["address"] for a in status.get("addresses") or []}
    info = status.get("nodeInfo") or {}
    return [
        node["metadata"]["name"],
        shown,
        ",".join(roles) or "<none>",
        age(node),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", "<none>"),
        addresses.get("ExternalIP", "<none>"),
        info.get("osImage", "<unknown>"),
        info.get("kernelVersion", "<unknown>"),
        info.get("containerRuntimeVersion", "<unknown>"),
    ]


def _service(service: Json) -> list[Any]:
    spec = service.get("spec") or {}
    ports = ",".join(f"{p['port']}/{p.get('protocol', 'TCP')}" for p in spec.get("ports") or []) or "<none>"
    address = spec.get("clusterIP") or "<none>"
    name, kind = service["metadata"]["name"], spec.get("type", "ClusterIP")
    return [name, kind, address, "<none>", ports, age(service), _selector(spec.get("selector"))]


def _images(obj: Json) -> tuple[str, str]:
    containers = obj["spec"].get("template", {}).get("spec", {}).get("containers") or []
    return ",".join(c["name"] for c in containers), ",".join(c["image"] for c in containers)


def _deployment(obj: Json) -> list[Any]:
    status, wanted = obj.get("status") or {}, obj["spec"].get("replicas", 1)
    ready = f"{status.get('readyReplicas', 0)}/{wanted}"
    counts = [status.get("updatedReplicas", 0), status.get("availableReplicas", 0)]
    return [
        obj["metadata"]["name"],
        ready,
        *counts,
        age(obj),
        *_images(obj),
        _object_selector(obj["spec"]["selector"]),
    ]


def _replica_set(obj: Json) -> list[Any]:
    status = obj.get("status") or {}
    counts = [obj["spec"].get("replicas", 1), status.get("replicas", 0), status.get("readyReplicas", 0)]
    return [
        obj["metadata"]["name"],
        *counts,
        age(obj),
        *_images(obj),
        _object_selector(obj["spec"]["selector"]),
    ]


def _daemon_set(obj: Json) -> list[Any]:
    status = obj.get("status") or {}
    names = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled")
    counts = [status.get(name, 0) for name in (*names, "numberAvailable")]
    nodes = _selector(obj["spec"]["template"]["spec"].get("nodeSelector"))
    selector = _object_selector(obj["spec"]["selector"])
    return [obj["metadata"]["name"], *counts, nodes, age(obj), *_images(obj), selector]


def _stateful_set(obj: Json) -> list[Any]:
    ready = f"{(obj.get('status') or {}).get('readyReplicas', 0)}/{obj['spec'].get('replicas', 1)}"
    return [obj["metadata"]["name"], ready, age(obj), *_images(obj)]


def _event(event: Json) -> list[Any]:
    involved = event.get("involvedObject") or {}
    subject = f"{involved.get('kind', '').lower()}/{involved.get('name', '')}"
    return [age(event), event.get("type"), event.get("reason"), subject, event.get("message")]


def _endpoints(obj: Json) -> list[Any]:
    found = []
    for subset in obj.get("subsets") or []:
        for address in subset.get("addresses") or []:
            ports = subset.get("ports") or []
            found += [f"{address['ip']}:{p['port']}" for p in ports] or [address["ip"]]
    shown = ",".join(found[:3]) + (f" + {len(found) - 3} more..." if len(found) > 3 else "")
    return [obj["metadata"]["name"], shown or "<none>", age(obj)]


def _columns(text: str) -> list[_Column]:
    """`Name Ready | IP Node`: what comes after the bar is only shown wide; `_` stands for a blank."""
    plain, _, wide = text.partition("|")
    return [(n.replace("_", " "), 0) for n in plain.split()] + [(n.replace("_", " "), 1) for n in wide.split()]


_SET = "Containers Images Selector"
_TABLES: dict[str, tuple[str, Cells]] = {
    "Pod": ("Name Ready Status Restarts Age | IP Node Nominated_Node Readiness_Gates", _pod),
    "Node": (
        "Name Status Roles Age Version | Internal-IP External-IP OS-Image Kernel-Version Container-Runtime",
        _node,
    ),
    "Service": ("Name Type Cluster-IP External-IP Port(s) Age | Selector", _service),
    "Deployment": (f"Name Ready Up-to-date Available Age | {_SET}", _deployment),
    "ReplicaSet": (f"Name Desired Current Ready Age | {_SET}", _replica_set),
    "DaemonSet": (f"Name Desired Current Ready Up-to-date Available Node_Selector Age | {_SET}", _daemon_set),
    "StatefulSet": ("Name Ready Age | Containers Images", _stateful_set),
    "Event": ("Last_Seen Type Reason Object Message", _event),
    "Endpoints": ("Name Endpoints Age", _endpoints),
    "Namespace": ("Name Status Age", lambda o: [o["metadata"]["name"], o["status"].get("phase"), age(o)]),
    "NetworkPolicy": (
        "Name Pod-Selector Age",
        lambda o: [o["metadata"]["name"], _object_selector(o["spec"].get("podSelector")), age(o)],
    ),
    "ConfigMap": ("Name Data Age", lambda o: [o["metadata"]["name"], len(o.get("data") or {}), age(o)]),
    "ServiceAccount": ("Name Secrets Age", lambda o: [o["metadata"]["name"], 0, age(o)]),
    "CustomResourceDefinition": (
        "Name Created_At",
        lambda o: [o["metadata"]["name"], o["metadata"].get("creationTimestamp")],
    ),
}
_PLAIN: tuple[str, Cells] = ("Name Age", lambda o: [o["metadata"]["name"], age(o)])


def wants_table(accept: str) -> bool:
    first = accept.split(",")[0].replace(" ", "")
    return "as=Table" in first and "g=meta.k8s.io" in first and "v=v1" in first.split(";")


def table(resource: Resource, objects: list[Json], metadata: Json, include: str) -> Json:
    text, cells = _TABLES.get(resource.kind, _PLAIN)
    columns = [
        {
            "name": name,
            "type": "string",
            "format": "name" if name == "Name" else "",
            "description": name,
            "priority": priority,
        }
        for name, priority in _columns(text)
    ]
    rows = []
    for obj in objects:
        row: Json = {"cells": cells(obj)}
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            kind = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
            row["object"] = kind | {"metadata": obj["metadata"]}
        rows.append(row)
    body = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    return body | {"columnDefinitions": columns, "rows": rows}
