"""The pod of the DaemonSet aws-node, as an EKS node has it: its manifest, and what its images hold.

The agent itself is `Agent`, outside of any pod. What is here stands for its container: the place of the CLI, for
those who exec into it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from . import na_cli
from .agent import Generation
from .node import Image

Json = dict[str, Any]

NAMESPACE, LABEL = "kube-system", "aws-node"
REGISTRY = "602401143452.dkr.ecr.ap-northeast-1.amazonaws.com"
CNI_IMAGE, AGENT_IMAGE = "amazon-k8s-cni", "aws-network-policy-agent"
COMPUTE_TYPE = "eks.amazonaws.com/compute-type"
AUTO_MODE_CLI = "/run/aws-network-policy-agent/aws-eks-na-cli"
"""Where a node of EKS Auto Mode has it; the others have it in /opt/cni/bin, put there by the DaemonSet."""
PAUSE = Path(__file__).parent / "pause.c"

# The ends of generated names: no vowels, and nothing that looks like another one.
_NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_VOLUMES = {
    "cni-bin-dir": "/opt/cni/bin",
    "bpf-pin-path": "/sys/fs/bpf",
    "log-dir": "/var/log/aws-routed-eni",
    "run-dir": "/var/run/aws-node",
}


def has_daemonset(node: Json) -> bool:
    """Whether aws-node runs on a node (its object): not on those of EKS Auto Mode, Fargate, or at home."""
    return COMPUTE_TYPE not in (node["metadata"].get("labels") or {})


CNI_OF = {
    "1.0.1": "1.14.0",
    "1.0.4": "1.15.1",
    "1.0.5": "1.15.3",
    "1.1.6": "1.19.2",
    "1.2.1": "1.19.4",
    "1.2.3": "1.20.0",
    "1.2.7": "1.20.4",
    "1.3.5": "1.21.2",
    "1.3.7": "1.22.3",
    "1.4.1": "1.23.0",
    "1.4.2": "1.23.1",
}
"""The VPC CNI that an agent comes with (agent facts 0.1)."""


def cni_image(generation: Generation) -> str:
    return f"{CNI_IMAGE}:v{CNI_OF[generation.name]}"


def manifest(node: str, generation: Generation) -> Json:
    """The pod as the DaemonSet makes it, less environment, probes and init containers."""
    security = {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}
    cni = _container("aws-node", cni_image(generation), security, "cni-bin-dir", "log-dir", "run-dir")
    image = f"{AGENT_IMAGE}:v{generation.name}-eksbuild.1"
    security = {"capabilities": {"add": ["NET_ADMIN"]}, "privileged": True}
    agent = _container("aws-eks-nodeagent", image, security, *_VOLUMES)
    agent["args"] = ["--enable-ipv6=false", "--enable-network-policy=true", "--metrics-bind-addr=:8162"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(node),
            "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/name": "aws-node", "k8s-app": LABEL},
        },
        "spec": {
            "nodeName": node,
            "hostNetwork": True,
            "priorityClassName": "system-node-critical",
            "tolerations": [{"operator": "Exists"}],
            "terminationGracePeriodSeconds": 10,
            "containers": [cni, agent],
            "volumes": [{"name": name, "hostPath": {"path": path}} for name, path in _VOLUMES.items()],
        },
    }


def pod_name(node: str) -> str:
    digest = hashlib.sha256(node.encode()).digest()
    return "aws-node-" + "".join(_NAME_LETTERS[byte % len(_NAME_LETTERS)] for byte in digest[:5])


def _container(name: str, image: str, security: Json, *volumes: str) -> Json:
    inside = {"cni-bin-dir": "/host/opt/cni/bin"}
    return {
        "name": name,
        "image": f"{REGISTRY}/{image}",
        "securityContext": security,
        "volumeMounts": [{"name": v, "mountPath": inside.get(v, _VOLUMES[v])} for v in volumes],
    }


def image(reference: str, generation: Generation) -> tuple[Image, list[str]] | None:
    """What an image of the DaemonSet holds, and the program that it runs; None for any other image.

    The agent's has no shell (agent facts 8.1) and both builds of the CLI.
    """
    if f"/{CNI_IMAGE}:" in reference:
        return Image({"/app/aws-vpc-cni": _pause()}), ["/app/aws-vpc-cni"]
    if f"/{AGENT_IMAGE}:" in reference:
        v4, v6 = (str(na_cli.compile_cli(generation.npa_gen, ipv6)) for ipv6 in (False, True))
        return Image({"/controller": _pause(), "/aws-eks-na-cli": v4, "/aws-eks-na-cli-v6": v6}), ["/controller"]
    return None


def _pause() -> str:
    return str(na_cli.compile_static(PAUSE))
