"""Names that the VPC CNI and the agent compute from a pod: host veth and pod identifier."""

from __future__ import annotations

import hashlib

VETH_PREFIXES = ("eni", "vlan")
"""Hard-coded in the agent: `eni`, and `vlan` for pods with a branch ENI (agent >= 1.2.0)."""
MOST_INTERFACES = 16
"""Interfaces of one pod that are looked for: multi-NIC pods have one per network card of the node."""
SEPARATORS = ("@", "-")
"""Between pod part and namespace: `@` from agent 1.4.0 on, `-` before. Newest first."""


def veth_names(namespace: str, pod: str, interface: int = 0) -> tuple[str, ...]:
    """Candidate names of the host veth: prefix + first 11 hex digits of sha1("<namespace>.<pod>").

    Interfaces of a multi-NIC pod beyond the first hash "<pod>.<index>" in the pod's place.
    """
    name = f"{pod}.{interface}" if interface else pod
    digest = hashlib.sha1(f"{namespace}.{name}".encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()[
        :11
    ]
    return tuple(f"{prefix}{digest}" for prefix in VETH_PREFIXES)


def pod_part(pod: str) -> str:
    """The pod name with dots replaced, less its last dash-separated piece (agent >= 1.1.2)."""
    name = pod.replace(".", "_")
    head, dash, _ = name.rpartition("-")
    return head if dash else name


def identifiers(namespace: str, pod: str) -> tuple[str, ...]:
    """Candidate pod identifiers, newest form first."""
    return tuple(f"{pod_part(pod)}{separator}{namespace}" for separator in SEPARATORS)


PIN_ENDINGS = (
    "ingress_pod_state_map",
    "egress_pod_state_map",
    "cp_ingress_map",
    "cp_egress_map",
    "ingress_map",
    "egress_map",
    "handle_ingress",
    "handle_egress",
)
"""What follows the identifier in a pin's file name, longest first: an identifier may itself hold "_"."""


def pinned_identifier(file_name: str) -> str:
    """The pod identifier in the name of a pin; empty for global maps and for files of others."""
    for ending in PIN_ENDINGS:
        if file_name.endswith(f"_{ending}") and not file_name.startswith("global_"):
            return file_name.removesuffix(f"_{ending}")
    return ""


def pinned_name(path: str) -> str:
    """The agent's name for what a pin holds: `ingress_map`, `aws_conntrack_map`; empty for other files."""
    name = path.rsplit("/", 1)[-1]
    if name.startswith("global_"):
        return name.removeprefix("global_")
    return name.removeprefix(f"{pinned_identifier(name)}_") if pinned_identifier(name) else ""
