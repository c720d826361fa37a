"""Faults on the way to the API server, and in its answers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

from tests.lab.api_tls import make_certificate
from tests.lab.article import NODE
from tests.system.injected import servers
from tests.system.injected.row import Chapter, Leaves, Prints, Row, Scene
from tests.system.injected.words import (
    CHECK,
    CLEANUP,
    DOCTOR,
    FLOW,
    MAPS,
    PROXY,
    SHORT,
    SLOW,
    SLOW_DOWN,
    TROUBLE,
    TRY,
    left_behind,
    no_answer,
    not_run,
    not_started,
    unread,
)

Breaks = Callable[[Scene], Sequence[object] | object]
PODS = "/api/v1/pods"
KUBECONFIG_CA = "hint: check certificate-authority of the cluster in the kubeconfig"
DATA = "certificate-authority-data"


def cluster(**settings: object) -> Breaks:
    """Settings of the kubeconfig's cluster; `_` stands for `-`."""
    return lambda scene: scene.cluster(**{name.replace("_", "-"): value for name, value in settings.items()})


def http(status: int, path: str, **more: object) -> Breaks:
    return lambda scene: scene.faults.http(status, path, **more)


def raw(status: int, body: bytes, path: str, **more: object) -> Breaks:
    return lambda scene: scene.faults.raw(status, body, path, **more)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# ---- the way

REFUSED = no_answer(PODS, "Connection refused")
WAY = Chapter(
    "The way to the API server",
    (
        Row("refused", "nobody listens at the address", FLOW, 3, REFUSED, servers.refusing),
        Row("refused-check", "the same", CHECK, 3, REFUSED, servers.refusing),
        Row("refused-cleanup", "the same", CLEANUP, 3, REFUSED, servers.refusing),
        Row(
            "silent",
            "connections are taken, and nothing is ever answered",
            (*MAPS, *SHORT),
            3,
            no_answer(PODS, "The handshake operation timed out", SLOW),
            servers.silent,
        ),
        Row("hangs-up", "connections are closed at once", FLOW, 3, no_answer(PODS, "…"), servers.hanging_up),
        Row(
            "no-response",
            "the server closes the connection instead of answering",
            FLOW,
            3,
            no_answer(PODS, "Remote end closed connection without response"),
            lambda scene: scene.faults.close(PODS, verb="list"),
        ),
        Row(
            "slow",
            "the server is slower than `--request-timeout`",
            (*FLOW, *SHORT),
            3,
            no_answer(PODS, "The read operation timed out", SLOW),
            lambda scene: scene.faults.slow(60, PODS, verb="list"),
        ),
        Row(
            "slow-later",
            "the same, of one of several lists",
            (*FLOW, *SHORT),
            3,
            no_answer("/api/v1/services", "The read operation timed out", SLOW),
            lambda scene: scene.faults.slow(60, "/services"),
        ),
        Row(
            "slow-exec",
            "the same, of the exec request",
            (*MAPS, *SHORT),
            3,
            not_run(
                "no answer from https://… to the exec request: …timed out",
                "hint: a proxy on the way that cannot pass WebSockets is the usual cause",
            ),
            lambda scene: scene.faults.slow(60, "/exec"),
        ),
        Row(
            "slow-but-well",
            "answers that take a second",
            FLOW,
            0,
            (),
            lambda scene: scene.faults.slow(1, "/(pods|services)", verb="list", count=2),
            Prints.WHOLE,
        ),
        Row(
            "cut",
            "an answer is cut off",
            FLOW,
            3,
            (f"error: GET {PODS}: the answer of https://… was cut off (700 bytes read, … more expected)", TRY),
            lambda scene: scene.faults.cut(700, PODS, verb="list"),
        ),
        Row(
            "login-page",
            "a proxy answers with a login page",
            FLOW,
            3,
            (f"error: GET {PODS}: the answer is not JSON (…)", PROXY),
            raw(200, b"<html>\x1b[31mLog in</html>", "/api"),
        ),
        Row(
            "gateway",
            "a load balancer has no server behind it (502)",
            FLOW,
            3,
            (
                f"error: GET https://…{PODS}: HTTP 502 with a web page: 502 Bad Gateway",
                "hint: a load balancer or proxy does not reach the API server: try again in a minute",
            ),
            raw(502, b"<html><head><title>502 Bad Gateway</title></head>\r\n<body>\x1b[31m</body></html>", "/api"),
        ),
        Row(
            "no-list",
            "a list without objects in it",
            FLOW,
            3,
            (f"error: GET {PODS}: the answer is not a list of objects", PROXY),
            raw(200, b'{"items": 7}', f"{PODS}$", content_type="application/json"),
        ),
        Row(
            "no-object",
            "JSON that is no object",
            FLOW,
            3,
            (f"error: GET {PODS}: the answer is not a JSON object", PROXY),
            raw(200, b"[1]", f"{PODS}$", content_type="application/json"),
        ),
    ),
)
TLS = Chapter(
    "TLS",
    (
        Row(
            "other-authority",
            "the server's certificate is of an authority that the kubeconfig does not have",
            FLOW,
            3,
            no_answer(PODS, "certificate verify failed: self-signed certificate", KUBECONFIG_CA),
            lambda scene: scene.cluster(**{DATA: encoded(make_certificate()[0])}),
        ),
        Row(
            "other-authority-check",
            "the same",
            CHECK,
            3,
            no_answer(PODS, "certificate verify failed: self-signed certificate", KUBECONFIG_CA),
            lambda scene: scene.cluster(**{DATA: encoded(make_certificate()[0])}),
        ),
        Row(
            "other-name",
            "it is for another name",
            FLOW,
            3,
            no_answer(
                PODS,
                "certificate verify failed: Hostname mismatch, certificate is not valid for 'eks.example.com'.",
                "hint: check server and tls-server-name of the cluster in the kubeconfig",
            ),
            cluster(tls_server_name="eks.example.com"),
        ),
        Row(
            "expired",
            "its time is over",
            FLOW,
            3,
            no_answer(
                PODS,
                "certificate verify failed: certificate has expired",
                "hint: the certificate of the server, or this machine's clock, is out of date",
            ),
            servers.expired,
        ),
        Row(
            "plain",
            "the server does not speak TLS",
            FLOW,
            3,
            no_answer(
                PODS,
                "…",
                "hint: what listens there does not speak TLS: check server of the cluster in the kubeconfig",
            ),
            servers.plain,
        ),
        Row(
            "ca-missing",
            "the kubeconfig's authority is a file that is not there",
            FLOW,
            3,
            ('error: kubeconfig context "admin": File does not exist: /nowhere/ca.crt',),
            cluster(certificate_authority="/nowhere/ca.crt", certificate_authority_data=None),
        ),
        Row(
            "ca-rubbish",
            "the kubeconfig's authority is no certificate",
            FLOW,
            3,
            no_answer(PODS, "no certificate or crl found", KUBECONFIG_CA),
            lambda scene: scene.cluster(**{DATA: encoded("rubbish")}),
        ),
    ),
)


# ---- answers


def pages(times: int | None) -> Breaks:
    """Lists come in pages of one object, and the server forgets what the next page is of."""

    def breaks(scene: Scene) -> None:
        server = scene.server
        server.most_in_page = 1
        scene.on_exit.append(lambda: setattr(server, "most_in_page", 0))
        scene.faults.call(server.store.expire_tokens, f"{PODS}$", verb="list", skip=1, count=times)

    return breaks


def delete_pods(scene: Scene) -> None:
    for name in scene.debug_pods():
        scene.server.delete("Pod", name, "kube-system", grace_seconds=0)


def replace_pods(scene: Scene) -> None:
    """The debug pod is gone, and its name belongs to somebody else's pod."""
    for name in scene.debug_pods():
        scene.server.delete("Pod", name, "kube-system", grace_seconds=0)
        scene.server.wait_gone("Pod", name, "kube-system")
        scene.server.put(
            {
                "kind": "Pod",
                "apiVersion": "v1",
                "metadata": {"name": name, "namespace": "kube-system"},
                "spec": {"nodeName": NODE, "hostNetwork": True, "containers": [{"name": "c", "image": "i"}]},
                "status": {"phase": "Running"},
            }
        )


def others_are_there(scene: Scene) -> None:
    """The pod that took the name was not deleted."""
    (name,) = scene.debug_pods()
    scene.server.delete("Pod", name, "kube-system", grace_seconds=0)


BUSY = "Too many requests, please try again later."
ETCD = "Internal error occurred: etcdserver: request timed out"
ANSWERS = Chapter(
    "Answers of the API server",
    (
        Row("404-pod", "no such pod", ("maps", "nobody"), 2, ('error: pod "nobody" not found in namespace "default"',)),
        Row("404-namespace", "no such namespace", (*MAPS, "-n", "no"), 2, ('error: namespace "no" not found',)),
        Row(
            "404-node",
            "the pod's node is not there (404)",
            MAPS,
            3,
            ('error: node "…" not found', "hint: `kubectl get nodes` lists them"),
            http(404, f"/nodes/{NODE}"),
        ),
        Row(
            "404-crd",
            "a custom resource is not installed (404)",
            FLOW,
            0,
            (),
            http(404, "clusternetworkpolicies"),
            Prints.WHOLE,
        ),
        Row(
            "404-debug-namespace",
            "the debug namespace is not there (404)",
            (*MAPS, "--debug-namespace", "no"),
            3,
            not_started(
                'namespace "no" not found', "hint: choose another namespace for the debug pod with --debug-namespace"
            ),
        ),
        Row(
            "404-exec",
            "somebody deletes the debug pod before the node is read (404)",
            FLOW,
            3,
            unread("cannot run a command in the debug pod …: the debug pod … was deleted meanwhile"),
            lambda scene: scene.faults.call(lambda: delete_pods(scene), "/exec"),
            Prints.UNKNOWN,
        ),
        Row(
            "404-delete",
            "somebody deletes the debug pod before it is deleted (404)",
            FLOW,
            0,
            (),
            lambda scene: scene.faults.call(lambda: delete_pods(scene), "/pods/", verb="delete"),
            Prints.WHOLE,
        ),
        Row(
            "409-create",
            "the debug pod is refused for a conflict (409)",
            MAPS,
            3,
            not_started("Operation cannot be fulfilled on resourcequotas: the object has been modified"),
            http(
                409,
                "/pods",
                verb="create",
                message="Operation cannot be fulfilled on resourcequotas: the object has been modified",
            ),
        ),
        Row(
            "409-delete",
            "the name of the debug pod has a new owner when it is deleted (409): that pod stays",
            MAPS,
            0,
            (),
            lambda scene: scene.faults.call(lambda: replace_pods(scene), "/pods/", verb="delete"),
            Prints.WHOLE,
            after=others_are_there,
        ),
        Row(
            "410-once",
            "the server forgets a list in the middle of its pages (410), once",
            FLOW,
            0,
            (),
            pages(1),
            Prints.WHOLE,
        ),
        Row(
            "410",
            "the same, at every try",
            FLOW,
            3,
            (
                f"error: GET {PODS}: the server forgot the list between two of its pages, twice",
                "hint: try again: lists of a busy cluster are kept for a few minutes only",
            ),
            pages(None),
        ),
        Row(
            "410-watch",
            "the start of the debug pod cannot be watched (410)",
            FLOW,
            0,
            (),
            http(410, "/pods", verb="watch", count=1),
            Prints.WHOLE,
        ),
        Row(
            "429-once",
            "too many requests (429 with Retry-After), once",
            FLOW,
            0,
            (),
            http(429, "/api", verb="list", count=1, retry_after=1),
            Prints.WHOLE,
        ),
        Row(
            "429",
            "the same, at every try",
            FLOW,
            3,
            (f"error: GET https://…{PODS}: {BUSY}", SLOW_DOWN),
            http(429, PODS, verb="list", retry_after=1),
        ),
        Row(
            "429-check",
            "the same",
            CHECK,
            3,
            (f"error: GET https://…{PODS}: {BUSY}", SLOW_DOWN),
            http(429, PODS, verb="list", retry_after=0),
        ),
        Row(
            "429-create",
            "the same for the debug pod",
            MAPS,
            3,
            not_started(BUSY, SLOW_DOWN),
            http(429, "/pods", verb="create", retry_after=1),
        ),
        Row("429-exec", "the same for the exec", MAPS, 3, not_run(BUSY, SLOW_DOWN), http(429, "/exec", retry_after=1)),
        Row(
            "429-delete-once",
            "the same for the deletion, once",
            MAPS,
            0,
            (),
            http(429, "/pods/", verb="delete", retry_after=1, count=1),
            Prints.WHOLE,
        ),
        Row(
            "429-delete",
            "the same for the deletion, at every try",
            MAPS,
            0,
            (left_behind(BUSY),),
            http(429, "/pods/", verb="delete", retry_after=1),
            Prints.WHOLE,
            leaves=Leaves.POD,
        ),
        Row(
            "500-once",
            "an internal error (500), once",
            FLOW,
            0,
            (),
            http(500, "/api", verb="list", count=1),
            Prints.WHOLE,
        ),
        Row(
            "500",
            "the same, at every try",
            FLOW,
            3,
            (f"error: GET https://…{PODS}: {ETCD}", TROUBLE),
            http(500, PODS, verb="list"),
        ),
        Row(
            "500-doctor",
            "the same",
            DOCTOR,
            3,
            (f"error: GET https://…{PODS}: {ETCD}", TROUBLE),
            http(500, PODS, verb="list"),
        ),
        Row(
            "500-create",
            "the same for the debug pod",
            FLOW,
            3,
            unread(f"cannot start a debug pod on node …: {ETCD} (…)"),
            http(500, "/pods", verb="create"),
            Prints.UNKNOWN,
        ),
        Row(
            "500-watch",
            "the same for the watch of the debug pod's start",
            FLOW,
            0,
            (),
            http(500, "/pods", verb="watch"),
            Prints.WHOLE,
        ),
        Row(
            "500-exec",
            "the same for the exec",
            FLOW,
            3,
            unread(f"cannot run a command in the debug pod …: {ETCD} (…)"),
            http(500, "/exec"),
            Prints.UNKNOWN,
        ),
        Row(
            "500-delete-once",
            "the same for the deletion, once",
            FLOW,
            0,
            (),
            http(500, "/pods/", verb="delete", count=1),
            Prints.WHOLE,
        ),
        Row(
            "500-delete",
            "the same for the deletion, at every try",
            FLOW,
            0,
            (left_behind(ETCD),),
            http(500, "/pods/", verb="delete"),
            Prints.WHOLE,
            leaves=Leaves.POD,
        ),
        Row(
            "closed-delete-once",
            "the connection is gone when the debug pod is to be deleted",
            FLOW,
            0,
            (),
            lambda scene: scene.faults.close("/pods/", verb="delete", count=1),
            Prints.WHOLE,
        ),
        Row(
            "503",
            "the server is shutting down (503)",
            FLOW,
            3,
            (
                f"error: GET https://…{PODS}: apiserver is shutting down",
                "hint: the API server is not ready: try again in a minute",
            ),
            http(503, PODS, verb="list"),
        ),
        Row(
            "lost-create",
            "the answer to the request for the debug pod is lost, and the pod is there",
            FLOW,
            3,
            unread("cannot start a debug pod on node …: POST …: the answer of https://… was cut off (…) (try again)"),
            lambda scene: scene.faults.cut(10, "/pods", verb="create"),
            Prints.UNKNOWN,
        ),
        Row(
            "cleanup-500",
            "an internal error (500), at every try",
            CLEANUP,
            3,
            (f"error: GET https://…{PODS}: {ETCD}", TROUBLE),
            http(500, "/pods", verb="list"),
        ),
    ),
)
CHAPTERS = (WAY, TLS, ANSWERS)
