"""What the debug pod may do on its node: the two profiles of ``--debug-profile``.

`sysadmin` is what ``kubectl debug node --profile=sysadmin`` gives: privileged, all host namespaces, the host's root.
`minimal` is what is left when all is taken away that the reader does not need. docs/rbac.md has the measurement, made
by tests/system/test_debug_profile.py on the real kernel: each part that is here breaks something when it is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

SYSADMIN, MINIMAL = "sysadmin", "minimal"
LOG_DIRECTORY = "/var/log/aws-routed-eni"
"""As in ``reader``, which is not imported where only a pod is made."""

BPFFS_VOLUME: Json = {"name": "bpffs", "hostPath": {"path": "/sys/fs/bpf"}}
BPFFS_MOUNT: Json = {"name": "bpffs", "mountPath": "/sys/fs/bpf", "readOnly": True}
# Directory: without a type the runtime makes a directory that is not there, and that would change the node.
LOG_VOLUME: Json = {"name": "agent-log", "hostPath": {"path": LOG_DIRECTORY, "type": "Directory"}}
# Below /host, where the reader finds it in a sysadmin pod: the answers name the same path.
LOG_MOUNT: Json = {"name": "agent-log", "mountPath": f"/host{LOG_DIRECTORY}", "readOnly": True}
COMPUTE_TYPE = "eks.amazonaws.com/compute-type"


@dataclass(frozen=True)
class Shape:
    """What differs between the profiles: fields of the pod's spec, and of its one container."""

    namespaces: Json
    volumes: list[Json]
    mounts: list[Json]
    security: Json


def shape(profile: str, *, selinux_type: str = "", host_writable: bool = False, with_log: bool = True) -> Shape:
    """The parts of a pod. ``host_writable`` is of `sysadmin` alone, ``with_log`` of `minimal`."""
    if profile == MINIMAL:
        return Shape(
            {"hostNetwork": True},
            [BPFFS_VOLUME, *([LOG_VOLUME] if with_log else [])],
            [BPFFS_MOUNT, *([LOG_MOUNT] if with_log else [])],
            _minimal(selinux_type),
        )
    read_only = {} if host_writable else {"readOnly": True}
    return Shape(
        {"hostNetwork": True, "hostPID": True, "hostIPC": True},
        [{"name": "host-root", "hostPath": {"path": "/"}}, BPFFS_VOLUME],
        [{"name": "host-root", "mountPath": "/host", **read_only}, BPFFS_MOUNT],
        _sysadmin(selinux_type),
    )


def _minimal(selinux_type: str) -> Json:
    """CAP_SYS_ADMIN alone: the kernel opens programs and maps by id for nothing less (kernel/bpf/syscall.c).

    User 0, since the pins and the log are root's, and since Kubernetes gives capabilities to no other user. The API
    server takes SYS_ADMIN together with ``allowPrivilegeEscalation: false`` in this spelling only; what is gained is
    that policies which ask for the field are content, since no_new_privs holds back nobody who has CAP_SYS_ADMIN.
    """
    return {
        "privileged": False,
        "runAsUser": 0,
        "runAsNonRoot": False,
        "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]},
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        **({"seLinuxOptions": {"type": selinux_type}} if selinux_type else {}),
    }


def _sysadmin(selinux_type: str) -> Json:
    """Privileged; with a SELinux type all that privileged means, one by one.

    Bottlerocket gives privileged containers its own type whatever they ask for (bottlerocket issue 3791): there
    `super_t` takes the capabilities without the word.
    """
    if not selinux_type:
        return {"privileged": True}
    return {
        "capabilities": {"add": ["ALL"]},
        "seLinuxOptions": {"type": selinux_type},
        "seccompProfile": {"type": "Unconfined"},
    }


def has_log(labels: Json) -> bool:
    """By a node's labels, whether the DaemonSet aws-node made its log directory there: a pod with a path that is not
    there never starts."""
    return COMPUTE_TYPE not in labels


def start_hint(why: str) -> str:
    """What to do about a pod that does not start, from the kubelet's word."""
    if "hostPath type check failed" not in why:
        return ""
    return "this node has no log of the agent for the minimal debug pod: use --debug-profile sysadmin"


LIMIT = (
    f"the minimal debug pod has {LOG_DIRECTORY} at most, and only where there is a DaemonSet aws-node; "
    "--debug-profile sysadmin has all of the node"
)


def with_limit_told(document: Json) -> Json:
    """The document of a minimal pod: where it did not find the log, it says that the pod may be why."""
    section = document.get("flow_log")
    if not isinstance(section, dict) or section["path"] is not None:
        return document
    return {**document, "flow_log": {**section, "reason": f"{section['reason']} ({LIMIT})"}}


def unseen(document: Json) -> str:
    """What `check` and `capture` asked for and a minimal pod did not find, or nothing."""
    section = document.get("agent")
    missing = isinstance(section, dict) and f"/host{LOG_DIRECTORY}: " in section["reason"]
    return f"the agent's log was not read: {LIMIT}" if missing else ""
