"""What several rows run, and lines that several of them expect."""

from __future__ import annotations

POD = "accesstrue"
FAR = "far"
"""A pod on a second node, where there is one."""
FLOW = ("explain", POD, "--to", "accessfalse", "--port", "80")
MAPS = ("maps", POD)
CHECK = ("check", "-A")
CONNTRACK = ("conntrack", POD)
DROPS = ("drops", POD)
DOCTOR = ("doctor",)
CLEANUP = ("cleanup",)
CAPTURE = ("capture", POD, "-f", "{dir}/b.tar.gz")
SHORT = ("--request-timeout", "1s")
JSON = ("-o", "json")
DEBUG_PODS = "netpol-ebpf-"

TRY = "hint: try again"
NETWORK = "hint: check the context and the network: `kubectl cluster-info`"
SLOW = f"{NETWORK}; a slow server needs a longer --request-timeout"
PROXY = "hint: something on the way, such as a proxy with a login page, answers in place of the API server"
LOG_IN = "hint: the credentials are not accepted: log in again, or check the user of the kubeconfig context"
SLOW_DOWN = "hint: the API server asks to slow down: try again in a minute"
TROUBLE = "hint: the API server has a problem of its own: try again in a minute"
RIGHTS = "hint: the rights each verb needs are listed in docs/rbac.md"
OTHER_IMAGE = "hint: choose an image that the node can pull, for example a mirror inside the VPC, with --image"
ONLY_API = (
    "warning: no node was read: the answer is from the API objects alone, and what the kernel does is unknown; "
    "--api-only asks for no more"
)


def no_answer(path: str, why: str, hint: str = NETWORK) -> tuple[str, ...]:
    return f"error: no answer from https://… to GET {path}: {why}", hint


def not_started(why: str, *hint: str) -> tuple[str, ...]:
    """Of verbs that have nothing to show without the node."""
    return f"error: cannot start a debug pod on node …: {why}", *hint


def not_run(why: str, *hint: str) -> tuple[str, ...]:
    return f"error: cannot run a command in the debug pod kube-system/netpol-ebpf-…: {why}", *hint


def unread(why: str) -> tuple[str, ...]:
    """Of `explain`, which then answers from the API objects."""
    return ONLY_API, f"warning: node …: {why}"


def left_behind(why: str) -> str:
    return (
        f"warning: the debug pod on node … could not be deleted ({why}); remove it with "
        "`kubectl --context admin delete pod -n kube-system netpol-ebpf-…`, or leave it: the server ends it by …Z"
    )


def missing(right: str, flags: str) -> tuple[str, str]:
    """(what is missing, how to see it)."""
    verb, resource = right.split()
    return (
        f"the right `{right}` is missing (… is forbidden: "
        f'User "jane" cannot {verb} resource "{resource}" in API group ""…)',
        f"`kubectl auth can-i {flags}` shows it; the rights that each verb needs are listed in docs/rbac.md",
    )
