"""Small stand-ins for the controller manager and the scheduler: they run in the thread that made the change."""

from __future__ import annotations

import copy
import hashlib
import ipaddress
import itertools
import json
from collections.abc import Callable
from typing import Any

from .api_defaults import ALPHABET, random_suffix
from .api_errors import ApiError
from .api_faults import Faults
from .api_kubelet import EventRecorder, condition, node_is_ready, pod_condition, set_condition
from .api_selectors import object_selector
from .api_store import Change, Store, now
from .api_types import Registry, Resource

Json = dict[str, Any]
_WORKLOADS = ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job")
NameHook = Callable[[str, Json], str | None]


def template_hash(template: Json) -> str:
    """Nine or ten characters of the alphabet of generated names, like `f8d9c6576`."""
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    return "".join(ALPHABET[byte % len(ALPHABET)] for byte in digest[:9])


def owner(obj: Json) -> Json:
    meta = obj["metadata"]
    reference = {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "name": meta["name"],
        "uid": meta["uid"],
    }
    return reference | {"controller": True, "blockOwnerDeletion": True}


def set_owners(references: list[Json]) -> Callable[[Json], None]:
    return lambda obj: obj["metadata"].update(ownerReferences=references)


def is_owned(obj: Json, by: Json) -> bool:
    return any(ref["uid"] == by["metadata"]["uid"] for ref in obj["metadata"].get("ownerReferences") or [])


def tolerates(pod: Json, taint: Json) -> bool:
    for item in pod["spec"].get("tolerations") or []:
        key = not item.get("key") or item["key"] == taint["key"]
        value = item.get("operator") == "Exists" or item.get("value", "") == taint.get("value", "")
        if key and value and item.get("effect", taint["effect"]) in (taint["effect"], ""):
            return True
    return False


def _affinity_matches(pod: Json, node: Json) -> bool:
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    needed = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not needed:
        return True
    for term in needed.get("nodeSelectorTerms") or []:
        names = [f for f in term.get("matchFields") or [] if f["key"] == "metadata.name"]
        if all(node["metadata"]["name"] in f["values"] for f in names) and object_selector(
            {"matchExpressions": term.get("matchExpressions") or []}
        )(node):
            return True
    return False


SERVICE_NETWORKS = {4: "10.100.0.0/16", 6: "fd30:1c53:5f8a::/108"}
"""As EKS gives them: an IPv6 cluster gets a /108 of unique local addresses."""


class Controllers:
    """Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, endpoints, scheduling and garbage collection.

    `name_hook(kind, owner) -> str | None` may fix the name of a ReplicaSet or Pod that is about to be created;
    None leaves the generated one. `scheduler(pod, nodes) -> name | None` may replace the choice of the node.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        faults: Faults,
        events: EventRecorder,
        create: Callable[[Json], Json],
        family: int = 4,
    ) -> None:
        self.store, self.registry, self.faults, self.events = store, registry, faults, events
        self._create = create
        self.name_hook: NameHook | None = None
        self.scheduler: Callable[[Json, list[Json]], str | None] | None = None
        self.family = family
        self._ips = itertools.islice(ipaddress.ip_network(SERVICE_NETWORKS[family]).hosts(), 99, None)

    def cluster_ip(self) -> str:
        return str(next(self._ips))

    def changed(self, change: Change) -> None:
        kind, obj = change.resource.kind, change.object
        if change.type == "DELETED":
            self._collect(obj)
        elif kind in _WORKLOADS and not obj["metadata"].get("deletionTimestamp") and "template" in obj.get("spec", {}):
            self._workload(kind, obj)
        if kind == "Pod":
            self._pod(change)
        elif kind == "Service":
            self._endpoints(change.type, obj)
        elif kind == "Node" and change.type != "DELETED":
            self._node(change)
        elif kind == "Namespace" and change.type == "ADDED":
            self._namespace(obj)

    def _resource(self, kind: str) -> Resource:
        return self.registry.of(kind)

    def _owned(self, kind: str, by: Json) -> list[Json]:
        return self.store.list(self._resource(kind), by["metadata"]["namespace"], lambda o: is_owned(o, by))

    def _namespace(self, namespace: Json) -> None:
        name = namespace["metadata"]["name"]
        if self.store.find(self._resource("ServiceAccount"), name, "default") is None:
            meta = {"name": "default", "namespace": name}
            account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": meta}
            self.store.create(self._resource("ServiceAccount"), account)

    # -- workloads -------------------------------------------------------------------------------------------

    def _name(self, kind: str, by: Json, generated: str) -> str:
        return (self.name_hook(kind, by) if self.name_hook else None) or generated

    def _workload(self, kind: str, obj: Json) -> None:
        if kind == "Deployment":
            self._deployment(obj)
        else:
            self._pods_for(kind, obj)

    def _deployment(self, obj: Json) -> None:
        meta, template = obj["metadata"], copy.deepcopy(obj["spec"]["template"])
        suffix = template_hash(template)
        sets = self._owned("ReplicaSet", obj)
        current = next((s for s in sets if s["metadata"]["labels"].get("lab/template") == suffix), None)
        for old in sets:
            if old is not current and old["spec"].get("replicas"):
                self.store.change(self._resource("ReplicaSet"), meta["namespace"], old["metadata"]["name"], _to_zero)
        if current is not None:
            wanted = obj["spec"].get("replicas", 1)
            name = current["metadata"]["name"]
            self.store.change(
                self._resource("ReplicaSet"),
                meta["namespace"],
                name,
                lambda o: o["spec"].update(replicas=wanted),
            )
            return
        name = self._name("ReplicaSet", obj, f"{meta['name']}-{suffix}")
        hashed = name.rpartition("-")[2]
        labels = template["metadata"].setdefault("labels", {})
        labels["pod-template-hash"] = hashed
        selector = copy.deepcopy(obj["spec"]["selector"])
        selector.setdefault("matchLabels", {})["pod-template-hash"] = hashed
        self._create(
            {
                "kind": "ReplicaSet",
                "apiVersion": "apps/v1",
                "metadata": {
                    "name": name,
                    "namespace": meta["namespace"],
                    "labels": labels | {"lab/template": suffix},
                    "ownerReferences": [owner(obj)],
                },
                "spec": {
                    "replicas": obj["spec"].get("replicas", 1),
                    "selector": selector,
                    "template": template,
                },
            }
        )

    def _pods_for(self, kind: str, obj: Json) -> None:
        alive = [
            pod
            for pod in self._owned("Pod", obj)
            if not pod["metadata"].get("deletionTimestamp") and pod["status"].get("phase") != "Failed"
        ]
        if kind == "DaemonSet":
            self._daemons(obj, alive)
            return
        if kind == "Job":
            if not self._owned("Pod", obj):
                self._pod_from(obj, f"{obj['metadata']['name']}-{random_suffix()}")
            return
        wanted = obj["spec"].get("replicas", 1)
        for pod in sorted(alive, key=lambda p: p["metadata"]["name"])[wanted:]:
            self.delete_pod(pod)
        taken = {pod["metadata"]["name"] for pod in self._owned("Pod", obj)}
        ordinals = (n for n in itertools.count() if f"{obj['metadata']['name']}-{n}" not in taken)
        for _ in range(wanted - len(alive)):
            suffix = str(next(ordinals)) if kind == "StatefulSet" else random_suffix()
            if not self._pod_from(obj, f"{obj['metadata']['name']}-{suffix}"):
                break

    def _daemons(self, obj: Json, alive: list[Json]) -> None:
        here = {pod["spec"].get("nodeName") for pod in alive}
        for node in self.store.list(self._resource("Node")):
            name, labels = node["metadata"]["name"], node["metadata"].get("labels") or {}
            if name not in here and labels.get("eks.amazonaws.com/compute-type") != "fargate":
                self._pod_from(obj, f"{obj['metadata']['name']}-{random_suffix()}", name)

    def _pod_from(self, by: Json, name: str, node: str = "") -> bool:
        template = copy.deepcopy(by["spec"]["template"])
        meta = {k: v for k, v in (template.get("metadata") or {}).items() if k in ("labels", "annotations")}
        meta |= {
            "name": self._name("Pod", by, name),
            "generateName": by["metadata"]["name"] + "-",
            "namespace": by["metadata"]["namespace"],
            "ownerReferences": [owner(by)],
        }
        if by["kind"] == "Job":
            meta.setdefault("labels", {}).setdefault("job-name", by["metadata"]["name"])
        if node:
            template["spec"]["nodeName"] = node
        try:
            self._create({"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": template["spec"]})
        except ApiError as error:
            self.events.record(by, "Warning", "FailedCreate", f"Error creating: {error.message}", "controller-manager")
            return False
        return True

    def delete_pod(self, pod: Json) -> None:
        """What a controller's delete does: gracefully, by the pod's own period."""

        def edit(new: Json) -> None:
            grace = new["spec"].get("terminationGracePeriodSeconds", 30) if new["spec"].get("nodeName") else 0
            new["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace}

        self.store.change(self._resource("Pod"), pod["metadata"]["namespace"], pod["metadata"]["name"], edit)

    def _status(self, by: Json) -> None:
        """Replica counts of the pod's owner, and of the Deployment above it."""
        resource = self._resource(by["kind"])
        current = self.store.find(resource, by["metadata"]["namespace"], by["metadata"]["name"])
        if current is None or by["kind"] == "Job":
            return
        if by["kind"] == "Deployment":
            pods = [pod for rs in self._owned("ReplicaSet", by) for pod in self._owned("Pod", rs)]
        else:
            pods = self._owned("Pod", by)
        ready = len([pod for pod in pods if pod_is_ready(pod)])

        def edit(obj: Json) -> None:
            status = obj.setdefault("status", {})
            status["observedGeneration"] = obj["metadata"].get("generation", 1)
            if obj["kind"] == "DaemonSet":
                names = ("currentNumberScheduled", "desiredNumberScheduled", "updatedNumberScheduled")
                status |= dict.fromkeys(names, len(pods))
                status |= {"numberReady": ready, "numberAvailable": ready, "numberMisscheduled": 0}
                return
            status |= {"replicas": len(pods), "readyReplicas": ready, "availableReplicas": ready}
            if obj["kind"] == "Deployment":
                status["updatedReplicas"] = len(pods)
                wanted = obj["spec"].get("replicas", 1)
                good = "True" if ready >= wanted else "False"
                status["unavailableReplicas"] = max(0, wanted - ready)
                set_condition(status, condition("Available", good, "MinimumReplicasAvailable"))
                done = "NewReplicaSetAvailable" if ready >= wanted else "ReplicaSetUpdated"
                set_condition(status, condition("Progressing", "True", done))

        self.store.change(resource, by["metadata"]["namespace"], by["metadata"]["name"], edit)
        self._status_of_owners(current)

    def _status_of_owners(self, obj: Json) -> None:
        for ref in obj["metadata"].get("ownerReferences") or []:
            if ref["kind"] in ("ReplicaSet", "StatefulSet", "DaemonSet", "Deployment"):
                by = self.store.find(self._resource(ref["kind"]), obj["metadata"]["namespace"], ref["name"])
                if by is not None and by["metadata"]["uid"] == ref["uid"]:
                    self._status(by)

    # -- pods ------------------------------------------------------------------------------------------------

    def _pod(self, change: Change) -> None:
        pod = change.object
        if change.type != "DELETED" and not pod["spec"].get("nodeName"):
            self._schedule(pod)
        self._status_of_owners(pod)
        if change.type == "DELETED":
            for ref in pod["metadata"].get("ownerReferences") or []:
                if ref["kind"] in ("ReplicaSet", "StatefulSet", "DaemonSet"):
                    by = self.store.find(self._resource(ref["kind"]), pod["metadata"]["namespace"], ref["name"])
                    if by is not None and not by["metadata"].get("deletionTimestamp"):
                        self._pods_for(ref["kind"], by)
        before, after = change.previous or {}, pod
        facts = [_endpoint_facts(p) if p else None for p in (before, after if change.type != "DELETED" else {})]
        if facts[0] != facts[1]:
            for service in self.store.list(self._resource("Service"), pod["metadata"]["namespace"]):
                self._endpoints("MODIFIED", service)

    def _fits(self, pod: Json, node: Json) -> bool:
        labels = node["metadata"].get("labels") or {}
        selector = pod["spec"].get("nodeSelector") or {}
        taints = (node.get("spec") or {}).get("taints") or []
        return (
            node_is_ready(node)
            and not (node.get("spec") or {}).get("unschedulable")
            and all(labels.get(k) == v for k, v in selector.items())
            and _affinity_matches(pod, node)
            and labels.get("eks.amazonaws.com/compute-type") != "fargate"
            and (labels.get("kubernetes.io/os") != "windows" or selector.get("kubernetes.io/os") == "windows")
            and all(tolerates(pod, t) for t in taints if t["effect"] in ("NoSchedule", "NoExecute"))
        )

    def _schedule(self, pod: Json) -> None:
        meta, nodes = pod["metadata"], self.store.list(self._resource("Node"))
        if meta.get("deletionTimestamp") or pod["status"].get("phase") != "Pending":
            return
        fault = self.faults.take_pod(("unschedulable",), pod)
        fitting = [] if fault else [node for node in nodes if self._fits(pod, node)]
        chosen: str | None = None
        if fitting:
            count = {n["metadata"]["name"]: 0 for n in fitting}
            for other in self.store.list(self._resource("Pod")):
                if other["spec"].get("nodeName") in count:
                    count[other["spec"]["nodeName"]] += 1
            chosen = self.scheduler(pod, fitting) if self.scheduler else min(count, key=lambda n: (count[n], n))
        if chosen is None:
            self._not_scheduled(pod, (fault and fault.message) or _why_not(pod, nodes))
            return

        def bind(new: Json) -> None:
            new["spec"]["nodeName"] = chosen
            set_condition(new["status"], pod_condition("PodScheduled", "True"))

        self.store.change(self._resource("Pod"), meta["namespace"], meta["name"], bind)
        message = f"Successfully assigned {meta['namespace']}/{meta['name']} to {chosen}"
        self.events.record(pod, "Normal", "Scheduled", message, "default-scheduler")

    def _not_scheduled(self, pod: Json, message: str) -> None:
        meta = pod["metadata"]
        if any(
            c["type"] == "PodScheduled" and c.get("message") == message for c in pod["status"].get("conditions") or []
        ):
            return

        def edit(new: Json) -> None:
            set_condition(new["status"], pod_condition("PodScheduled", "False", "Unschedulable", message))

        self.store.change(self._resource("Pod"), meta["namespace"], meta["name"], edit)
        self.events.record(pod, "Warning", "FailedScheduling", message, "default-scheduler")

    def _node(self, change: Change) -> None:
        """A node came or changed: pending pods may fit now, DaemonSets want a pod there."""
        before = change.previous and {k: v for k, v in change.previous.items() if k != "metadata"}
        if before == {k: v for k, v in change.object.items() if k != "metadata"}:
            return
        for pod in self.store.list(self._resource("Pod"), None, lambda p: not p["spec"].get("nodeName")):
            self._schedule(pod)
        if change.type == "ADDED":
            for daemons in self.store.list(self._resource("DaemonSet")):
                self._pods_for("DaemonSet", daemons)

    # -- services --------------------------------------------------------------------------------------------

    def _endpoints(self, event: str, service: Json) -> None:
        meta, spec = service["metadata"], service.get("spec") or {}
        name, namespace = meta["name"], meta["namespace"]
        endpoints, slices = self._resource("Endpoints"), self._resource("EndpointSlice")
        if event == "DELETED":
            self.store.remove(endpoints, namespace, name)
            return
        if not spec.get("selector"):
            return
        match = object_selector({"matchLabels": spec["selector"]})
        pods = [p for p in self.store.list(self._resource("Pod"), namespace, match) if _endpoint_facts(p)]
        subsets, slice_body = _endpoint_bodies(service, pods)
        body: Json = {
            "kind": "Endpoints",
            "apiVersion": "v1",
            "metadata": {"name": name, "namespace": namespace},
        }
        self._put(endpoints, body | ({"subsets": subsets} if subsets else {}))
        found = self._owned("EndpointSlice", service)
        slice_name = found[0]["metadata"]["name"] if found else f"{name}-{random_suffix()}"
        labels = {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "lab"}
        slice_meta = {
            "name": slice_name,
            "namespace": namespace,
            "labels": labels,
            "ownerReferences": [owner(service)],
        }
        self._put(slices, slice_body | {"metadata": slice_meta})

    def _put(self, resource: Resource, body: Json) -> None:
        meta = body["metadata"]
        with self.store.transaction():
            old = self.store.find(resource, meta["namespace"], meta["name"])
            if old is None:
                self.store.create(resource, body)
            else:
                self.store.update(resource, body | {"metadata": old["metadata"] | meta})

    # -- garbage ---------------------------------------------------------------------------------------------

    def _collect(self, gone: Json) -> None:
        """What belonged to the object goes as well (background propagation)."""
        uid = gone["metadata"]["uid"]
        for resource in self.registry.all():
            for obj in self.store.list(resource, None, lambda o: is_owned(o, gone)):
                references = [r for r in obj["metadata"]["ownerReferences"] if r["uid"] != uid]
                namespace, name = obj["metadata"].get("namespace"), obj["metadata"]["name"]
                if references:
                    self.store.change(resource, namespace, name, set_owners(references))
                elif resource.kind == "Pod":
                    self.delete_pod(obj)
                elif obj["metadata"].get("finalizers"):
                    self.store.change(
                        resource,
                        namespace,
                        name,
                        lambda o: o["metadata"].setdefault("deletionTimestamp", now()),
                    )
                else:
                    self.store.remove(resource, namespace, name)


def _to_zero(obj: Json) -> None:
    obj["spec"]["replicas"] = 0


def _why_not(pod: Json, nodes: list[Json]) -> str:
    if not nodes:
        return "no nodes available to schedule pods"
    return (
        f"0/{len(nodes)} nodes are available: {len(nodes)} node(s) didn't match Pod's node affinity/selector. "
        f"preemption: 0/{len(nodes)} nodes are available: {len(nodes)} Preemption is not helpful for scheduling."
    )


def pod_is_ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _endpoint_facts(pod: Json) -> tuple[str, bool, str] | None:
    """What of a pod shows in endpoints; None when it does not belong there."""
    status = pod.get("status") or {}
    if not status.get("podIP") or status.get("phase") in ("Succeeded", "Failed"):
        return None
    terminating = bool(pod["metadata"].get("deletionTimestamp"))
    labels = json.dumps(pod["metadata"].get("labels") or {}, sort_keys=True)
    return status["podIP"], pod_is_ready(pod) and not terminating, labels


def _target_port(pod: Json | None, port: Json) -> int | None:
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    for container in (pod or {}).get("spec", {}).get("containers") or []:
        for candidate in container.get("ports") or []:
            if candidate.get("name") == target:
                return int(candidate["containerPort"])
    return None


def _endpoint_bodies(service: Json, pods: list[Json]) -> tuple[list[Json], Json]:
    ports, named = [], []
    for port in service["spec"].get("ports") or []:
        entry = {"port": _target_port(pods[0] if pods else None, port), "protocol": port["protocol"]}
        ports.append(({"name": port["name"]} if port.get("name") else {}) | entry)
        named.append({"name": port.get("name", "")} | entry)
    addresses: dict[bool, list[Json]] = {True: [], False: []}
    endpoints = []
    for pod in pods:
        facts = _endpoint_facts(pod)
        if facts is None:
            continue
        ip, ready, _ = facts
        meta = pod["metadata"]
        ref = {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}
        addresses[ready].append({"ip": ip, "nodeName": pod["spec"].get("nodeName"), "targetRef": ref})
        conditions = {"ready": ready, "serving": ready, "terminating": bool(meta.get("deletionTimestamp"))}
        node = {"nodeName": pod["spec"].get("nodeName"), "targetRef": ref}
        endpoints.append({"addresses": [ip], "conditions": conditions} | node)
    subset: Json = {}
    if addresses[True]:
        subset["addresses"] = addresses[True]
    if addresses[False]:
        subset["notReadyAddresses"] = addresses[False]
    subsets = [subset | ({"ports": ports} if ports else {})] if subset else []
    family = (service["spec"].get("ipFamilies") or ["IPv4"])[0]
    kind = {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": family}
    return subsets, kind | {"endpoints": endpoints, "ports": named}
