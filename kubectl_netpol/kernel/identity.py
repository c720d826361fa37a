"""Names that the VPC CNI and the agent compute from a pod: host veth and pod identifier."""

from __future__ import annotations

import hashlib

VETH_PREFIXES = ("eni", "vlan")
"""Hard-coded in the agent: `eni`, and `vlan` for pods with a branch ENI (agent >= 1.2.0)."""
SEPARATORS = ("@", "-")
"""Between pod part and namespace: `@` from agent 1.4.0 on, `-` before. Newest first."""


def veth_names(namespace: str, pod: str, interface: int = 0) -> tuple[str, ...]:
    """Candidate names of the host veth: prefix + first 11 hex digits of sha1("<namespace>.<pod>").

    Interfaces of a multi-NIC pod beyond the first hash "<pod>.<index>" in the pod's place.
    """
    name = f"{pod}.{interface}" if interface else pod
    digest = hashlib.sha1(f"{namespace}.{name}".encode(), usedforsecurity=False).hexdigest()[:11]
    return tuple(f"{prefix}{digest}" for prefix in VETH_PREFIXES)


def pod_part(pod: str) -> str:
    """The pod name with dots replaced, less its last dash-separated piece (agent >= 1.1.2)."""
    name = pod.replace(".", "_")
    head, dash, _ = name.rpartition("-")
    return head if dash else name


def identifiers(namespace: str, pod: str) -> tuple[str, ...]:
    """Candidate pod identifiers, newest form first."""
    return tuple(f"{pod_part(pod)}{separator}{namespace}" for separator in SEPARATORS)
