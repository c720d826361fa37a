"""What EKS puts into the API for the VPC CNI: DaemonSet, ConfigMap, ClusterRole, and the Service of the cluster's DNS.

Objects only: the DaemonSet's pods are those of ``LabCluster(agent_pods=True)``.
"""

from __future__ import annotations

from typing import Any

from . import agent_pod
from .agent import GENERATIONS, Generation
from .cluster import LabCluster

Json = dict[str, Any]

NAMESPACE = "kube-system"
DNS_ADDRESS = {4: "10.100.0.10", 6: "fd00:ec2::a"}


def daemonset(generation: Generation, family: int = 4, mode: str = "standard") -> Json:
    """aws-node as the add-on makes it, with network policies switched on."""
    pod = agent_pod.manifest("node", generation)["spec"]
    cni, agent = pod["containers"]
    cni["env"] = [
        {"name": "ENABLE_POD_ENI", "value": "false"},
        {"name": "NETWORK_POLICY_ENFORCING_MODE", "value": mode},
        {"name": "ENABLE_IPv6", "value": str(family == 6).lower()},
        # On where it is not set: the lab's pods have one interface.
        *([{"name": "ENABLE_V4_EGRESS", "value": "false"}] if family == 6 else []),
    ]
    agent["args"] = [
        f"--enable-ipv6={str(family == 6).lower()}",
        "--enable-network-policy=true",
        "--enable-cloudwatch-logs=false",
        "--enable-policy-event-logs=true",
        "--log-file=/var/log/aws-routed-eni/network-policy-agent.log",
        "--metrics-bind-addr=:8162",
    ]
    labels = {"k8s-app": agent_pod.LABEL}
    template = {"metadata": {"labels": labels}, "spec": {key: pod[key] for key in ("containers", "hostNetwork")}}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "aws-node", "namespace": NAMESPACE, "labels": labels},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


def config_map(value: str = "true") -> Json:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "amazon-vpc-cni", "namespace": NAMESPACE},
        "data": {"enable-network-policy-controller": value, "enable-windows-ipam": "false"},
    }


def cluster_role() -> Json:
    read = ["get", "list", "watch"]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "aws-node"},
        "rules": [
            {"apiGroups": [""], "resources": ["namespaces", "pods", "nodes"], "verbs": ["list", "watch", "get"]},
            {"apiGroups": ["networking.k8s.aws"], "resources": ["policyendpoints"], "verbs": read},
            {"apiGroups": ["networking.k8s.aws"], "resources": ["policyendpoints/status"], "verbs": ["get"]},
            {"apiGroups": ["networking.k8s.aws"], "resources": ["clusterpolicyendpoints"], "verbs": read},
        ],
    }


def dns_service(family: int = 4) -> Json:
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": NAMESPACE, "labels": {"k8s-app": "kube-dns"}},
        "spec": {"clusterIP": DNS_ADDRESS[family], "selector": {"k8s-app": "kube-dns"}, "ports": ports},
    }


def install(lab: LabCluster) -> None:
    """All of it, into the lab's API server."""
    generation = lab.generation if isinstance(lab.generation, Generation) else GENERATIONS[lab.generation]
    lab.server.put(daemonset(generation, lab.family, lab.mode))
    for made in (config_map(), cluster_role(), dns_service(lab.family)):
        lab.server.put(made)
