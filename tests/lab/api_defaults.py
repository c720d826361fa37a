"""What the API server fills in when it is not said: only what clients rely on."""

from __future__ import annotations

import secrets
from typing import Any

Json = dict[str, Any]

# The alphabet of generated names: no vowels and nothing that looks like something else.
ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def random_suffix(size: int = 5) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(size))


def generated_name(base: str) -> str:
    """As the server does it: at most 58 characters of the base, then five of its own."""
    return base[:58] + random_suffix()


def _container(container: Json) -> None:
    image = container.get("image", "")
    tag = image.rpartition("/")[2].partition("@")[0].rpartition(":")[2] if ":" in image.rpartition("/")[2] else ""
    latest = "@" not in image and tag in ("", "latest")
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    resources = container.setdefault("resources", {})
    for name, value in (resources.get("limits") or {}).items():
        resources.setdefault("requests", {}).setdefault(name, value)
    for port in container.get("ports") or []:
        port.setdefault("protocol", "TCP")


def pod_spec(spec: Json) -> None:
    for name, value in (
        ("restartPolicy", "Always"),
        ("dnsPolicy", "ClusterFirst"),
        ("terminationGracePeriodSeconds", 30),
        ("schedulerName", "default-scheduler"),
        ("securityContext", {}),
        ("enableServiceLinks", True),
    ):
        spec.setdefault(name, value)
    for container in (spec.get("initContainers") or []) + (spec.get("containers") or []):
        _container(container)
    for volume in spec.get("volumes") or []:
        if isinstance(volume.get("hostPath"), dict):
            volume["hostPath"].setdefault("type", "")
        for source in ("secret", "configMap"):
            if isinstance(volume.get(source), dict):
                volume[source].setdefault("defaultMode", 420)


def pod(obj: Json) -> None:
    spec = obj["spec"]
    pod_spec(spec)
    if spec.get("hostNetwork"):
        for container in spec["containers"]:
            for port in container.get("ports") or []:
                port.setdefault("hostPort", port.get("containerPort"))
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("priority", 0)
    obj["status"] = {"phase": "Pending", "qosClass": _qos(spec)}


def _qos(spec: Json) -> str:
    found = [c.get("resources") or {} for c in spec.get("containers") or []]
    if not any(r.get("limits") or r.get("requests") for r in found):
        return "BestEffort"
    whole = all({"cpu", "memory"} <= set(r.get("limits") or {}) and r["limits"] == r.get("requests") for r in found)
    return "Guaranteed" if whole else "Burstable"


def _tolerate(key: str) -> Json:
    return {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}


def service_account(obj: Json) -> None:
    """What the ServiceAccount and DefaultTolerationSeconds admission plugins add to a pod."""
    spec = obj["spec"]
    spec.setdefault("serviceAccountName", spec.get("serviceAccount") or "default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    keys = {t.get("key") for t in spec.get("tolerations") or []}
    exists = any(not t.get("key") and t.get("operator") == "Exists" for t in spec.get("tolerations") or [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if key not in keys and not exists:
            spec.setdefault("tolerations", []).append(_tolerate(key))
    if spec.get("automountServiceAccountToken", True) is False:
        return
    name = f"kube-api-access-{random_suffix()}"
    mount = {"name": name, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}
    for container in spec["containers"]:
        mounts = container.setdefault("volumeMounts", [])
        if not any(m.get("mountPath") == mount["mountPath"] for m in mounts):
            mounts.append(dict(mount))
    certificate = {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    field = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": certificate},
        {"downwardAPI": {"items": [field]}},
    ]
    spec.setdefault("volumes", []).append({"name": name, "projected": {"sources": sources, "defaultMode": 420}})


def network_policy(obj: Json) -> None:
    spec = obj["spec"]
    spec.setdefault("podSelector", {})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for rule in (spec.get("ingress") or []) + (spec.get("egress") or []):
        for port in rule.get("ports") or []:
            port.setdefault("protocol", "TCP")


def service(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    for name, value in (
        ("type", "ClusterIP"),
        ("sessionAffinity", "None"),
        ("internalTrafficPolicy", "Cluster"),
    ):
        spec.setdefault(name, value)
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))
    if spec["type"] != "ExternalName":
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
    obj.setdefault("status", {"loadBalancer": {}})


def deployment(obj: Json) -> None:
    spec = obj["spec"]
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    rolling = {"maxUnavailable": "25%", "maxSurge": "25%"}
    if not spec.get("strategy"):
        spec["strategy"] = {"type": "RollingUpdate", "rollingUpdate": rolling}
    workload(obj)


def workload(obj: Json) -> None:
    if obj["kind"] in ("ReplicaSet", "StatefulSet"):
        obj["spec"].setdefault("replicas", 1)
    template = obj["spec"].get("template") or {}
    if isinstance(template.get("spec"), dict):
        pod_spec(template["spec"])
        template.setdefault("metadata", {})
    obj.setdefault("status", {})


def namespace(obj: Json) -> None:
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
    obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    obj["status"] = {"phase": "Active"}


_BY_KIND = {
    "Pod": pod,
    "NetworkPolicy": network_policy,
    "Service": service,
    "Deployment": deployment,
    "ReplicaSet": workload,
    "StatefulSet": workload,
    "DaemonSet": workload,
    "Job": workload,
    "Namespace": namespace,
}


def apply(obj: Json) -> None:
    """Fill in place."""
    fill = _BY_KIND.get(obj["kind"])
    if fill:
        fill(obj)


def policy_ports(spec: Json) -> None:
    """Defaults inside custom resources, as their definitions give them."""
    for rule in (spec.get("ingress") or []) + (spec.get("egress") or []):
        for port in rule.get("ports") or []:
            if set(port) <= {"protocol", "port", "endPort"}:
                port.setdefault("protocol", "TCP")
