"""Faults of the credentials, and missing rights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from kubectl_netpol.cluster.rights import Right, needed
from tests.lab.api_auth import User as ApiUser
from tests.system.injected.row import Chapter, Leaves, Prints, Row, Scene, exec_plugin
from tests.system.injected.words import (
    CAPTURE,
    CHECK,
    CLEANUP,
    CONNTRACK,
    DOCTOR,
    DROPS,
    FLOW,
    LOG_IN,
    MAPS,
    RIGHTS,
    left_behind,
    missing,
    not_run,
    not_started,
    unread,
)

DEBUG = "kube-system"


def token(text: str, expires: str = "") -> str:
    """A line of shell that answers as a credentials plugin."""
    status = f'"token": "{text}"' + (f', "expirationTimestamp": "{expires}"' if expires else "")
    return f"""echo '{{"apiVersion": "{VERSION}", "kind": "ExecCredential", "status": {{{status}}}}}'"""


VERSION = "client.authentication.k8s.io/v1beta1"
EXPIRED = token("old", "2020-01-01T00:00:00Z")
UNAUTHORIZED = ("error: GET https://…/api/v1/pods: Unauthorized", LOG_IN)


def plugin(script: str) -> Callable[[Scene], object]:
    return lambda scene: scene.plugin(script)


def failed(why: str) -> tuple[str, ...]:
    return (
        f'error: the credentials plugin of kubeconfig context "admin" failed: {why}',
        "hint: try `kubectl --context admin version`: kubectl uses the same plugin",
    )


CREDENTIALS = Chapter(
    "Credentials",
    (
        Row(
            "token",
            "a token that the server does not know (401)",
            FLOW,
            3,
            UNAUTHORIZED,
            lambda scene: scene.credentials({"token": "old"}),
        ),
        Row("token-cleanup", "the same", CLEANUP, 3, UNAUTHORIZED, lambda scene: scene.credentials({"token": "old"})),
        Row("none", "no credentials at all (401)", FLOW, 3, UNAUTHORIZED, lambda scene: scene.credentials({})),
        Row(
            "plugin-missing",
            "the credentials plugin is not installed",
            FLOW,
            3,
            failed("…No such file or directory: 'aws-of-nowhere'"),
            lambda scene: scene.credentials({"exec": exec_plugin("aws-of-nowhere")}),
        ),
        Row(
            "plugin-fails",
            "it fails",
            FLOW,
            3,
            failed("exec: process returned 255. Error when retrieving token from sso: …Token has expired"),
            plugin("printf 'Error when retrieving token from sso:\\n\\033[31mToken has expired\\n' >&2; exit 255"),
        ),
        Row("plugin-silent", "it fails without a word", FLOW, 3, failed("exec: process returned 1"), plugin("exit 1")),
        Row("plugin-killed", "it is killed", FLOW, 3, failed("exec: process returned -9"), plugin("kill -9 $$")),
        Row(
            "plugin-rubbish",
            "it prints something else",
            FLOW,
            3,
            failed("exec: failed to decode process output: …"),
            plugin("echo A new version is available; echo '{}'"),
        ),
        Row(
            "plugin-nothing",
            "it prints nothing",
            FLOW,
            3,
            failed("exec: failed to decode process output: …"),
            plugin("exit 0"),
        ),
        Row(
            "plugin-empty",
            "it answers without a token",
            FLOW,
            3,
            failed("exec: missing token or clientCertificateData field in plugin output"),
            plugin(token("").replace('"token": ""', "")),
        ),
        Row("plugin-expired", "it gives an expired token (401)", FLOW, 3, UNAUTHORIZED, plugin(EXPIRED)),
        Row("plugin-check", "the same", CHECK, 3, UNAUTHORIZED, plugin(EXPIRED)),
        Row(
            "late-list",
            "credentials end while objects are listed (401)",
            FLOW,
            3,
            ("error: GET https://…: Unauthorized", LOG_IN),
            lambda scene: scene.faults.http(401, "/", method="GET", skip=2),
        ),
        Row(
            "late-create",
            "credentials end before the debug pod is made (401)",
            FLOW,
            3,
            unread("cannot start a debug pod on node …: Unauthorized (the credentials are not accepted: …)"),
            lambda scene: scene.faults.http(401, "/pods", verb="create"),
            Prints.UNKNOWN,
        ),
        Row(
            "late-exec",
            "credentials end before the node is read (401)",
            MAPS,
            3,
            not_run("Unauthorized", LOG_IN),
            lambda scene: scene.faults.http(401, "/exec"),
        ),
        Row(
            "late-delete",
            "credentials end before the debug pod is deleted (401)",
            FLOW,
            0,
            (left_behind("Unauthorized"),),
            lambda scene: scene.faults.http(401, "/pods/", verb="delete"),
            Prints.WHOLE,
            leaves=Leaves.POD,
        ),
    ),
)


# ---- rights


@dataclasses.dataclass
class AllBut(ApiUser):
    """May do everything but what one right is about; refused as RBAC refuses."""

    right: Right = dataclasses.field(default_factory=lambda: Right("", ""))

    def may(self, verb: str, group: str, resource: str, namespace: str = "", name: str = "") -> bool:
        right = self.right
        wanted = f"{right.resource}/{right.subresource}" if right.subresource else right.resource
        there = not right.namespace or namespace == right.namespace
        return not ((verb, group, resource) == (right.verb, right.group, wanted) and there)


def without(right: Right) -> Callable[[Scene], object]:
    """The kubeconfig's user is jane, who has all rights but this one."""

    def breaks(scene: Scene) -> None:
        jane = scene.server.users.add(AllBut("jane", right=right))
        scene.credentials({"token": jane.token})

    return breaks


CREATE, WHY_CREATE = missing("create pods", "create pods -n kube-system")
EXEC, WHY_EXEC = missing("get pods/exec", "get pods --subresource=exec -n kube-system")
GET_NODES, WHY_GET_NODES = missing("get nodes", "get nodes")
NO_PODS = (
    "error: pod/accesstrue: pods could not be read: pods is forbidden: "
    'User "jane" cannot list resource "pods" in API group ""…'
)
POLICIES = (0, Prints.UNKNOWN, ())
EXPECTED: dict[str, tuple[int, Prints, tuple[str, ...]]] = {
    "list pods": (3, Prints.NOTHING, (NO_PODS,)),
    "list namespaces": POLICIES,
    "list networkpolicies": POLICIES,
    "list policyendpoints": POLICIES,
    "list clusterpolicyendpoints": POLICIES,
    "list clusternetworkpolicies": POLICIES,
    "list applicationnetworkpolicies": POLICIES,
    "get nodes": (3, Prints.UNKNOWN, unread(f'cannot look at node "…": {GET_NODES} ({WHY_GET_NODES})')),
    "create pods in kube-system": (
        3,
        Prints.UNKNOWN,
        unread(f"cannot start a debug pod on node …: {CREATE} ({WHY_CREATE})"),
    ),
    "get pods/exec in kube-system": (
        3,
        Prints.UNKNOWN,
        unread(f"cannot run a command in the debug pod …: {EXEC} ({WHY_EXEC})"),
    ),
    "delete pods in kube-system": (
        0,
        Prints.WHOLE,
        (left_behind('… is forbidden: User "jane" cannot delete resource "pods" in API group ""…'),),
    ),
}
"""Exit code, stdout and stderr of `explain` without this right. Without any other one it answers as ever."""


def each_right() -> Iterator[Row]:
    for right in needed(DEBUG):
        code, prints, says = EXPECTED.get(right.text, (0, Prints.WHOLE, ()))
        yield Row(
            f"403-{right.text.replace(' ', '-').replace('/', '-')}",
            f"no right to {right.text}",
            FLOW,
            code,
            says,
            without(right),
            prints,
            leaves=Leaves.POD if right.verb == "delete" else Leaves.NOTHING,
        )


CREATE_PODS = without(Right("create", "pods", namespace=DEBUG))
FORBIDDEN = Chapter(
    "Missing rights (403)",
    (
        *each_right(),
        Row("403-check", "no right to create pods in kube-system", CHECK, 3, (), CREATE_PODS, Prints.UNKNOWN),
        Row(
            "403-check-list",
            "no right to list networkpolicies",
            CHECK,
            3,
            (),
            without(Right("list", "networkpolicies", "networking.k8s.io")),
            Prints.UNKNOWN,
        ),
        Row(
            "403-maps",
            "no right to create pods in kube-system",
            MAPS,
            3,
            not_started(CREATE, f"hint: {WHY_CREATE}"),
            CREATE_PODS,
        ),
        Row("403-maps-list", "no right to list pods", MAPS, 3, (NO_PODS,), without(Right("list", "pods"))),
        Row(
            "403-conntrack",
            "no right to get pods/exec in kube-system",
            CONNTRACK,
            3,
            not_run(EXEC, f"hint: {WHY_EXEC}"),
            without(Right("get", "pods", namespace=DEBUG, subresource="exec")),
        ),
        Row(
            "403-drops",
            "no right to get nodes",
            DROPS,
            3,
            (f'error: cannot look at node "…": {GET_NODES}', f"hint: {WHY_GET_NODES}"),
            without(Right("get", "nodes")),
        ),
        Row(
            "403-doctor",
            "no right to create pods in kube-system",
            DOCTOR,
            1,
            (),
            CREATE_PODS,
            Prints.ANSWER,
            r"debug pod +failed +cannot start a debug pod",
        ),
        Row(
            "403-capture",
            "the same",
            CAPTURE,
            3,
            (f"warning: node …: cannot start a debug pod on node …: {CREATE}…",),
            CREATE_PODS,
            writes=("b.tar.gz",),
            says_more=True,
        ),
        Row(
            "403-cleanup",
            "no right to list pods",
            CLEANUP,
            3,
            (
                "note: not all namespaces may be listed: only kube-system is looked at",
                "error: cannot list pods in namespace kube-system: pods is forbidden: "
                'User "jane" cannot list resource "pods" in API group "" in the namespace "kube-system"',
                RIGHTS,
            ),
            without(Right("list", "pods")),
        ),
        Row(
            "403-cleanup-delete",
            "no right to delete pods: the pod of a killed run stays",
            ("cleanup", "--delete", "--all"),
            3,
            ('warning: kube-system/netpol-ebpf-… could not be deleted: … is forbidden: User "jane" cannot delete …',),
            lambda scene: (scene.leave_pod(), without(Right("delete", "pods"))(scene)),
            Prints.ANSWER,
            "1 could not be deleted",
            leaves=Leaves.POD,
        ),
    ),
)
CHAPTERS = (CREDENTIALS, FORBIDDEN)
