"""What kind of node it is, and where the agent and its traces are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

COMPUTE_TYPE = "eks.amazonaws.com/compute-type"
AGENT_LOG = "/var/log/aws-routed-eni/network-policy-agent.log"


@dataclass(frozen=True)
class NodeKind:
    """One kind of node. Ports are on the node's own address."""

    name: str
    agent: str
    """How the network policy agent runs there."""
    cli: tuple[str, ...]
    """Places of aws-eks-na-cli, the best first."""
    metrics: str
    health: str
    log: str = AGENT_LOG
    note: str = ""
    """What is different for a debug pod."""


_DAEMONSET = "container aws-eks-nodeagent of the DaemonSet kube-system/aws-node"
_CLI = ("/opt/cni/bin/aws-eks-na-cli",)

LINUX = NodeKind("Linux", _DAEMONSET, _CLI, ":8162/metrics", ":8163")
AL2023 = NodeKind("Amazon Linux 2023", _DAEMONSET, _CLI, ":8162/metrics", ":8163")
AL2 = NodeKind("Amazon Linux 2", _DAEMONSET, _CLI, ":8162/metrics", ":8163")
BOTTLEROCKET = NodeKind(
    "Bottlerocket",
    _DAEMONSET,
    _CLI,
    ":8162/metrics",
    ":8163",
    note="its SELinux policy confines privileged containers: if bpf(2) is refused, use --selinux-type super_t",
)
AUTO_MODE = NodeKind(
    "EKS Auto Mode",
    "systemd unit aws-network-policy-agent.service; there is no aws-node DaemonSet",
    ("/run/aws-network-policy-agent/aws-eks-na-cli", "/usr/bin/aws-eks-na-cli", "/usr/bin/aws-eks-na-cli-v6"),
    ":8900 on localhost",
    ":8901 on localhost",
    note="it is Bottlerocket without SSH and SSM: if bpf(2) is refused, use --selinux-type super_t",
)


def kind_of(node: Json) -> NodeKind:
    """By its labels and its own word for its system; ``LINUX`` where neither says more."""
    labels = (node.get("metadata") or {}).get("labels") or {}
    if labels.get(COMPUTE_TYPE) == "auto":
        return AUTO_MODE
    image = str(((node.get("status") or {}).get("nodeInfo") or {}).get("osImage") or "")
    for kind in (BOTTLEROCKET, AL2023, AL2):
        if image.startswith(kind.name):
            return kind
    return LINUX


def describe(node: Json) -> str:
    """`EKS Auto Mode, Bottlerocket (EKS Auto, Standard) 2026.6.3, kernel 6.12.1, amd64`."""
    info = (node.get("status") or {}).get("nodeInfo") or {}
    kind, image = kind_of(node), str(info.get("osImage") or "")
    parts = [] if image.startswith(kind.name) else [kind.name]
    parts += [image] if image else []
    parts += [f"kernel {info['kernelVersion']}"] if info.get("kernelVersion") else []
    parts += [str(info["architecture"])] if info.get("architecture") else []
    return ", ".join(parts)


def refused(errors: list[Json]) -> bool:
    """Whether what a node's document lacks was refused by its kernel."""
    return any(str(error["error"]).startswith(("EPERM", "EACCES")) for error in errors)
