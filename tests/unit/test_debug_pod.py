"""The life of the debug pod against a small stand-in of the API: every ending, and that nothing is left
behind."""

from __future__ import annotations

import contextlib
import copy
import http.server
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kubectl_netpol.cluster.api import Listing
from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.errors import ApiError, ConnectionFailed, Interrupted, NodeError
from kubectl_netpol.node import debug_pod
from kubectl_netpol.node.debug_pod import DebugPodOptions, interruptible, manifest, open_debug_pod
from tests.lab import api_protobuf
from tests.lab.require import require_tools

NODE = "ip-172-31-104-5.us-west-2.compute.internal"
PODS = "/api/v1/namespaces/kube-system/pods"
READY = {"type": "Ready", "status": "True"}
Json = dict[str, Any]


def node(labels: Json | None = None, **ready: str) -> Json:
    return {
        "metadata": {"name": NODE, "labels": {"kubernetes.io/os": "linux", **(labels or {})}},
        "status": {"conditions": [{"type": "MemoryPressure", "status": "False"}, {**READY, **ready}]},
    }


def container(**state: Json) -> Json:
    return {"phase": "Pending", "containerStatuses": [{"name": "debugger", "state": state}]}


RUNNING = {**container(running={}), "phase": "Running"}
CREATING = container(waiting={"reason": "ContainerCreating"})


def terminated(code: int, reason: str, message: str = "") -> Json:
    state = {"exitCode": code, "reason": reason, "message": message}
    return {**container(terminated=state), "phase": "Failed"}


class FakeApi:
    """One node, the pods of one namespace, and a list of the states through which a new pod goes."""

    def __init__(self, *states: Json, **failures: Exception) -> None:
        self.states = list(states) or [CREATING, RUNNING]
        self.failures: dict[str, Any] = failures
        self.node: Json = node()
        self.pods: dict[str, Json] = {}
        self.events: list[Json] = []
        self.calls: list[str] = []
        self.deleted: list[tuple[str, str]] = []
        self.now = 0.0

    def _call(self, verb: str, path: str) -> None:
        self.calls.append(f"{verb} {path.rsplit('/', 1)[-1]}")
        if error := self.failures.get(verb):
            raise error

    def get(self, path: str, **query: str) -> Json:
        name = path.rsplit("/", 1)[-1]
        if "/nodes/" in path:
            self._call("get_node", path)
            return self.node
        self._call("get", path)
        if name not in self.pods:
            raise ApiError(404, "NotFound", f'pods "{name}" not found')
        self._advance(name)
        return copy.deepcopy(self.pods[name])

    def list(self, path: str, **query: str) -> Listing:
        self._call("list", path)
        if path.endswith("/events"):
            return Listing(tuple(self.events), "1")
        found = [pod for pod in self.pods.values() if matches(pod, query)]
        return Listing(tuple(copy.deepcopy(found)), "1")

    def create(self, path: str, body: Json) -> Json:
        self.add(body, name := f"{body['metadata']['generateName']}abcde")
        try:
            self._call("create", path)
        except ApiError as error:
            if 400 <= error.status < 500:
                del self.pods[name]
            raise
        return copy.deepcopy(self.pods[name])

    def add(self, body: Json, name: str, **status: Any) -> Json:
        pod = copy.deepcopy(body)
        pod["metadata"].update(name=name, uid=f"uid-{name}", resourceVersion="1")
        pod["status"] = status or {"phase": "Pending"}
        self.pods[name] = pod
        return pod

    def delete(self, path: str, *, uid: str = "", grace_seconds: int | None = None) -> None:
        self._call("delete", path)
        name = path.rsplit("/", 1)[-1]
        self.deleted.append((name, uid))
        self.pods.pop(name, None)

    def watch(self, path: str, *, seconds: float, **query: str) -> Iterator[tuple[str, Json]]:
        self._call("watch", path)
        assert query["resourceVersion"]
        name = query["fieldSelector"].removeprefix("metadata.name=")
        while self.states and name in self.pods:
            self._advance(name)
            yield "MODIFIED", copy.deepcopy(self.pods[name])
        if name not in self.pods:
            yield "DELETED", {}
        self.now += seconds

    def _advance(self, name: str) -> None:
        if self.states:
            self.pods[name]["status"] = self.states.pop(0)


def matches(pod: Json, query: dict[str, str]) -> bool:
    label, _, value = query.get("labelSelector", "").partition("=")
    if label and pod["metadata"]["labels"].get(label) != value:
        return False
    return query.get("fieldSelector", f"spec.nodeName={pod['spec']['nodeName']}").endswith(pod["spec"]["nodeName"])


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes only by sleeping and watching."""
    passed = [0.0]
    monkeypatch.setattr(time, "sleep", lambda seconds: passed.__setitem__(0, passed[0] + seconds))
    monkeypatch.setattr(time, "monotonic", lambda: passed[0])
    real_watch = FakeApi.watch

    def watch(self: FakeApi, path: str, *, seconds: float, **query: str) -> Iterator[tuple[str, Json]]:
        yield from real_watch(self, path, seconds=seconds, **query)
        passed[0] += seconds

    monkeypatch.setattr(FakeApi, "watch", watch)


@pytest.fixture
def execs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the next execs answer: results or exceptions."""
    answers: list[Any] = []

    def exec_in_pod(api: Any, namespace: str, pod: str, argv: list[str], **options: Any) -> ExecResult:
        assert (namespace, options["container"]) == ("kube-system", "debugger")
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        result: ExecResult = answer
        return result

    monkeypatch.setattr(debug_pod, "exec_in_pod", exec_in_pod)
    return answers


def open_and_close(api: Any, options: DebugPodOptions | None = None) -> list[str]:
    said: list[str] = []
    with open_debug_pod(api, NODE, options, said.append):
        pass
    return said


def refusal(api: Any, options: DebugPodOptions | None = None) -> NodeError:
    with pytest.raises(NodeError) as raised:
        open_and_close(api, options)
    assert "\n" not in raised.value.message
    return raised.value


# ---- the manifest


def test_the_manifest_is_what_was_asked_for() -> None:
    options = DebugPodOptions(image="i", namespace="n", deadline_seconds=77, keep=True)
    pod = manifest("node-1", options, "me@laptop", "2026-01-02T03:04:05Z", "run1")
    assert pod["metadata"] == {
        "generateName": "netpol-ebpf-node-1-",
        "labels": {
            "app.kubernetes.io/managed-by": "kubectl-netpol-ebpf",
            "kubectl-netpol-ebpf/reuse-key": debug_pod.reuse_key(options),
            "kubectl-netpol-ebpf/kept": "true",
            "kubectl-netpol-ebpf/run": "run1",
        },
        "annotations": {
            "kubectl-netpol-ebpf/started-by": "me@laptop",
            "kubectl-netpol-ebpf/started-at": "2026-01-02T03:04:05Z",
        },
    }
    assert pod["spec"]["activeDeadlineSeconds"] == 77
    assert pod["spec"]["containers"][0]["command"] == ["sleep", "137"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (NODE, "netpol-ebpf-ip-172-31-104-5-"),
        ("i-0123456789abcdef0", "netpol-ebpf-i-0123456789abcdef0-"),
        ("x" * 80, f"netpol-ebpf-{'x' * 40}-"),
        ("x" * 39 + "-y.z", f"netpol-ebpf-{'x' * 39}-"),
    ],
)
def test_the_name_fits_into_what_the_server_keeps(name: str, wanted: str) -> None:
    generated = manifest(name, DebugPodOptions(), "", "")["metadata"]["generateName"]
    assert generated == wanted
    assert len(generated) <= 58


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves by path. Labels, annotations, commands and resources count as one leaf; nothing that is empty
    counts."""
    whole = path.endswith((".labels", ".annotations", ".command", ".resources"))
    if isinstance(value, dict) and not whole:
        return {k: v for key in value for k, v in flat(value[key], f"{path}.{key}".lstrip(".")).items()}
    if isinstance(value, list) and not whole:
        return {k: v for index, item in enumerate(value) for k, v in flat(item, f"{path}[{index}]").items()}
    return {} if value in (None, "", {}, []) else {path: value}


def test_it_is_the_pod_of_kubectl_but_for_the_wanted_differences(tmp_path: Path) -> None:
    require_tools("kubectl")
    options = DebugPodOptions()
    theirs = flat(kubectl_debug(tmp_path, options))
    ours = flat(manifest("n1", options, "me", "now", "run"))
    different = {path for path in theirs.keys() | ours.keys() if theirs.get(path) != ours.get(path)}
    wanted = {difference.path: difference for difference in debug_pod.WANTED_DIFFERENCES}
    for path in different:
        assert [name for name in wanted if path == name or path.startswith(name + ".")], path
    for path, difference in wanted.items():
        assert [name for name in different if name == path or name.startswith(path + ".")], path
        if difference.ours is not None:
            assert flat(difference.ours, path).items() <= ours.items()
        assert difference.why


def test_a_selinux_type_takes_the_place_of_privileged() -> None:
    options = DebugPodOptions(selinux_type="super_t")
    context = manifest("n1", options, "me", "now")["spec"]["containers"][0]["securityContext"]
    assert context == {
        "capabilities": {"add": ["ALL"]},
        "seLinuxOptions": {"type": "super_t"},
        "seccompProfile": {"type": "Unconfined"},
    }


def test_the_host_is_writable_only_where_that_was_asked_for() -> None:
    for options, expected in ((DebugPodOptions(), True), (DebugPodOptions(host_writable=True), None)):
        mount = manifest("n1", options, "me", "now")["spec"]["containers"][0]["volumeMounts"][0]
        assert (mount["mountPath"], mount.get("readOnly")) == ("/host", expected)


@pytest.mark.parametrize("other", [{"selinux_type": "super_t"}, {"host_writable": True}, {"image": "mine"}])
def test_pods_of_another_kind_do_not_stand_in_for_each_other(other: Json) -> None:
    api = FakeApi()
    kept(api)
    with open_debug_pod(api, NODE, DebugPodOptions(**other)) as pod:
        assert not pod.reused


def kubectl_debug(folder: Path, options: DebugPodOptions) -> Json:
    """The pod that the real kubectl posts for the same node, image and command."""
    posted: list[Json] = []
    resources = [
        {"name": "nodes", "singularName": "node", "namespaced": False, "kind": "Node", "verbs": ["get"]},
        {
            "name": "pods",
            "singularName": "pod",
            "namespaced": True,
            "kind": "Pod",
            "verbs": ["create", "get"],
        },
    ]
    answers = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": resources},
        "/api/v1/nodes/n1": {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"}},
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(answers.get(self.path.split("?")[0], {"kind": "Status", "code": 404}))

        def do_POST(self) -> None:
            # kubectl posts this pod as protobuf, whatever the server prefers.
            posted.append(api_protobuf.decode(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(posted[-1])

        def _answer(self, body: Json) -> None:
            data = json.dumps(body).encode()
            self.send_response(int(body.get("code", 200)))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = ["kubectl", "debug", "node/n1", f"--image={options.image}", "--profile=sysadmin", "-q"]
        command += ["-s", f"http://127.0.0.1:{server.server_port}", "-n", options.namespace]
        command += ["--cache-dir", str(folder), "--", "sleep", str(options.deadline_seconds + 60)]
        environment = {**os.environ, "KUBECONFIG": str(folder / "none"), "HOME": str(folder)}
        done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
        server.shutdown()
    assert posted, done.stderr
    return posted[0]


# ---- the node


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            node(status="Unknown", lastTransitionTime="2026-01-02T03:04:05Z", reason="NodeStatusUnknown"),
            f'node "{NODE}" is NotReady since 2026-01-02T03:04:05Z: NodeStatusUnknown',
        ),
        (node({"kubernetes.io/os": "windows"}), f'node "{NODE}" runs Windows'),
        (node({"eks.amazonaws.com/compute-type": "fargate"}), f'node "{NODE}" is a Fargate node'),
    ],
)
def test_nodes_on_which_nothing_is_made(found: Json, message: str) -> None:
    api = FakeApi()
    api.node = found
    assert refusal(api).message.startswith(message)
    assert api.calls == [f"get_node {NODE}"]


def test_a_node_that_is_not_there() -> None:
    api = FakeApi(get_node=ApiError(404, "NotFound", "nodes not found"))
    assert refusal(api).message == f'node "{NODE}" not found'
    assert len(api.calls) == 1


def test_a_node_that_may_not_be_looked_at() -> None:
    message = 'nodes "n" is forbidden: User "u" cannot get resource "nodes" in API group "" at the cluster scope'
    error = refusal(FakeApi(get_node=ApiError(403, "Forbidden", message)))
    assert "the right `get nodes` is missing" in error.message
    assert "kubectl auth can-i get nodes`" in error.hint


def test_a_cordoned_node_is_fine() -> None:
    api = FakeApi()
    api.node["spec"] = {"unschedulable": True}
    open_and_close(api)


# ---- refused


USER = 'User "u" cannot create resource "pods" in API group "" in the namespace "kube-system"'


@pytest.mark.parametrize(
    ("status", "text", "message", "hint"),
    [
        (
            403,
            'pods "x" is forbidden: violates PodSecurity "baseline:latest": host namespaces',
            'namespace "kube-system" enforces the PodSecurity level "baseline"',
            "--debug-namespace",
        ),
        (
            403,
            'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=4, limited: pods=4',
            'the quota of namespace "kube-system" is used up',
            "--debug-namespace",
        ),
        (
            403,
            f"pods is forbidden: {USER}",
            "the right `create pods` is missing",
            "kubectl auth can-i create pods -n kube-system",
        ),
        (404, 'namespaces "kube-system" not found', 'namespace "kube-system" not found', "--debug-namespace"),
        (
            400,
            'admission webhook "validate.kyverno.svc" denied the request: no privileged containers',
            'the admission webhook "validate.kyverno.svc" refused it',
            "--debug-namespace",
        ),
        (422, "Pod is invalid: spec.x", "Pod is invalid: spec.x", ""),
    ],
)
def test_refusals_of_the_create_request(status: int, text: str, message: str, hint: str) -> None:
    api = FakeApi(create=ApiError(status, "x", text))
    error = refusal(api)
    assert error.message.startswith(f"cannot start a debug pod on node {NODE}: ")
    assert message in error.message
    assert hint in error.hint
    assert not any(call.startswith("delete") for call in api.calls), "nothing was made"


# ---- started, or not


def test_the_requests_of_a_normal_run() -> None:
    api = FakeApi()
    said = open_and_close(api)
    name = "netpol-ebpf-ip-172-31-104-5-abcde"
    assert api.calls == [f"get_node {NODE}", "list pods", "create pods", "watch pods", f"delete {name}"]
    assert api.deleted == [(name, f"uid-{name}")]
    assert said[0].startswith(f"starting a debug pod on node {NODE}")
    assert said[1] == f"debug pod {name}: ContainerCreating"


PULL = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x": not found'}


@pytest.mark.parametrize(
    ("state", "message", "hint"),
    [
        (
            container(waiting=PULL),
            'cannot be pulled: ImagePullBackOff: Back-off pulling image "x": not found',
            "--image",
        ),
        (
            container(waiting={"reason": "ErrImagePull", "message": "two\nlines\x1b[1m"}),
            "two lines [1m",
            "--image",
        ),
        (container(waiting={"reason": "InvalidImageName"}), "cannot be pulled: InvalidImageName", "--image"),
        (
            container(waiting={"reason": "CreateContainerError", "message": "no"}),
            "CreateContainerError: no",
            "",
        ),
        (
            terminated(128, "StartError", 'exec: "sleep": executable file not found in $PATH'),
            'ended: exit code 128, StartError: exec: "sleep": executable file not found',
            "has no `sleep`",
        ),
        (terminated(1, "Error"), "ended: exit code 1, Error", ""),
        (
            {"phase": "Failed", "reason": "OutOfmemory", "message": "Pod was rejected"},
            f"node {NODE} refused the debug pod netpol-ebpf-ip-172-31-104-5-abcde: OutOfmemory: Pod was",
            "",
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "low on resource"},
            "Evicted: low on resource",
            "",
        ),
        ({"phase": "Failed", "reason": "DeadlineExceeded"}, "reached its deadline of 300 s", ""),
    ],
)
def test_pods_that_do_not_start(state: Json, message: str, hint: str) -> None:
    api = FakeApi(CREATING, state)
    error = refusal(api)
    assert message in error.message
    assert hint in error.hint
    assert len(api.deleted) == 1


def test_too_slow_tells_the_newest_warning() -> None:
    api = FakeApi(CREATING)
    api.events = [
        {"reason": "Old", "message": "old", "lastTimestamp": "2026-01-01T00:00:00Z"},
        {"reason": "FailedMount", "message": "no\nroom", "lastTimestamp": "2026-01-01T00:00:09Z"},
    ]
    error = refusal(api)
    assert error.message.endswith("did not start within 60 s: it is still ContainerCreating: FailedMount: no room")
    assert len(api.deleted) == 1


def test_too_slow_without_events() -> None:
    error = refusal(FakeApi({"phase": "Pending"}), DebugPodOptions(start_timeout=5))
    assert error.message.endswith("did not start within 5 s: it is still Pending")
    assert "--start-timeout" in error.hint


def test_a_pod_that_vanishes_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeApi(CREATING)
    monkeypatch.setattr(FakeApi, "watch", lambda *_, **__: (event for event in [("DELETED", {})]))
    assert "was deleted before it was running" in refusal(api).message


def test_without_the_right_to_watch_it_is_polled() -> None:
    api = FakeApi(CREATING, CREATING, RUNNING, watch=ApiError(403, "Forbidden", "no watch"))
    open_and_close(api)
    assert [call.split()[0] for call in api.calls] == [
        "get_node",
        "list",
        "create",
        "watch",
        "get",
        "get",
        "get",
        "delete",
    ]


def test_a_watch_that_is_too_old_is_opened_again() -> None:
    api = FakeApi(CREATING, RUNNING, watch=ApiError(410, "Expired", "too old"))
    open_and_close(api)
    assert sum(call.startswith("watch") for call in api.calls) == 2


def test_without_the_right_to_get_pods() -> None:
    forbidden = ApiError(403, "Forbidden", 'pods is forbidden: User "u" cannot get resource "pods" in API group ""')
    api = FakeApi(CREATING, RUNNING, watch=ApiError(403, "Forbidden", "no"), get=forbidden)
    assert "the right `get pods` is missing" in refusal(api).message
    assert len(api.deleted) == 1


def test_without_the_right_to_list_it_goes_on() -> None:
    api = FakeApi(list=ApiError(403, "Forbidden", "no list"))
    assert open_and_close(api)[0] == "cannot look for debug pods of earlier runs: no list"


# ---- kept and left behind


def kept(api: FakeApi, name: str = "kept-1", age: float = 0, **changes: Any) -> Json:
    options = DebugPodOptions(keep=True, **changes)
    started = (datetime.now(UTC) - timedelta(seconds=age)).isoformat(timespec="seconds").replace("+00:00", "Z")
    return api.add(manifest(NODE, options, "other@host", "then", "r"), name, **RUNNING, startTime=started)


def test_keep_leaves_the_pod() -> None:
    api = FakeApi()
    open_and_close(api, DebugPodOptions(keep=True))
    assert api.deleted == []
    assert len(api.pods) == 1


def test_a_pod_that_did_not_start_is_not_kept() -> None:
    api = FakeApi(container(waiting=PULL))
    refusal(api, DebugPodOptions(keep=True))
    assert len(api.deleted) == 1


@pytest.mark.parametrize("keep", [True, False])
def test_a_kept_pod_is_used_again_and_never_deleted(keep: bool) -> None:
    api = FakeApi()
    kept(api)
    with open_debug_pod(api, NODE, DebugPodOptions(keep=keep)) as pod:
        assert (pod.name, pod.reused) == ("kept-1", True)
    assert [call.split()[0] for call in api.calls] == ["get_node", "list"]
    assert "kept-1" in api.pods


def test_of_two_kept_pods_the_one_that_lives_longer() -> None:
    api = FakeApi()
    kept(api, "old", age=200)
    kept(api, "new", age=10)
    with open_debug_pod(api, NODE) as pod:
        assert pod.name == "new"


@pytest.mark.parametrize(
    "change",
    [
        lambda pod: pod["metadata"]["labels"].update({debug_pod.KEPT: "false"}),
        lambda pod: pod["metadata"].update(deletionTimestamp="now"),
        lambda pod: pod["spec"].update(hostNetwork=False),
        lambda pod: pod["spec"].update(nodeName="other/" + NODE),
        lambda pod: pod["spec"]["containers"][0].update(image="evil"),
        lambda pod: pod["spec"]["containers"][0]["securityContext"].update(privileged=False),
        lambda pod: pod["status"].update(startTime="2020-01-01T00:00:00Z"),
        lambda pod: pod["status"].update(startTime="not a time"),
        lambda pod: pod["status"].update(CREATING),
    ],
)
def test_pods_that_do_not_fit_are_neither_used_nor_deleted(change: Any) -> None:
    api = FakeApi()
    change(kept(api))
    with open_debug_pod(api, NODE) as pod:
        assert not pod.reused
    assert "kept-1" in api.pods


def test_a_kept_pod_of_another_image_does_not_fit() -> None:
    api = FakeApi()
    kept(api)
    with open_debug_pod(api, NODE, DebugPodOptions(image="mine")) as pod:
        assert not pod.reused


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_what_earlier_runs_left_is_deleted(phase: str) -> None:
    api = FakeApi()
    kept(api)["status"]["phase"] = phase
    said = open_and_close(api)
    assert api.deleted[0] == ("kept-1", "uid-kept-1")
    assert said[0] == "deleted the ended debug pod kube-system/kept-1 of an earlier run"


# ---- always deleted


def test_an_exception_in_the_block() -> None:
    api = FakeApi()
    with pytest.raises(ZeroDivisionError), open_debug_pod(api, NODE):
        raise ZeroDivisionError
    assert api.pods == {}


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGTERM, Interrupted), (signal.SIGINT, KeyboardInterrupt), (signal.SIGHUP, Interrupted)],
)
def test_signals(number: int, error: type[BaseException]) -> None:
    api = FakeApi()
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(error), open_debug_pod(api, NODE):
        os.kill(os.getpid(), number)
        threading.Event().wait(5)
        raise AssertionError("the signal did not arrive")
    assert api.pods == {}
    assert {one: signal.getsignal(one) for one in before} == before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with open_debug_pod(FakeApi(), NODE):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_waits_for_the_deletion() -> None:
    api = FakeApi()
    delete = api.delete

    def interrupted_delete(path: str, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(0.2)
        delete(path, **options)

    api.delete = interrupted_delete
    with pytest.raises(KeyboardInterrupt), open_debug_pod(api, NODE):
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5)
    assert api.pods == {}


def test_a_first_signal_during_the_deletion_comes_after_it() -> None:
    api = FakeApi()
    delete = api.delete

    def interrupted_delete(path: str, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(0.2)
        delete(path, **options)

    api.delete = interrupted_delete
    with pytest.raises(Interrupted, match="ended by SIGTERM"):
        open_and_close(api)
    assert api.pods == {}


@pytest.mark.parametrize(
    "error", [ConnectionFailed("no answer"), ApiError(0, "CutOff", "cut"), ApiError(504, "", "late")]
)
def test_a_lost_answer_to_the_create_request(error: Exception) -> None:
    """The pod was made although no answer came: the label of the run finds it."""
    api = FakeApi(create=error)
    with pytest.raises((ConnectionFailed, NodeError)):
        open_and_close(api)
    assert api.pods == {}
    assert [call.split()[0] for call in api.calls] == ["get_node", "list", "create", "list", "delete"]


def test_a_signal_in_the_middle_of_the_create_request() -> None:
    api = FakeApi(create=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        open_and_close(api)
    assert api.pods == {}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ApiError(403, "Forbidden", "cannot delete"), "(cannot delete)"),
        (ConnectionFailed("no answer from x"), "(no answer from x)"),
    ],
)
def test_a_deletion_that_fails_is_told_in_one_line(error: Exception, reason: str) -> None:
    said: list[str] = []
    api = FakeApi(delete=error)
    api.connection = type("Connection", (), {"context": "prod"})
    with open_debug_pod(api, NODE, warn=said.append):
        pass
    (line,) = said
    assert reason in line
    name = "netpol-ebpf-ip-172-31-104-5-abcde"
    assert f"`kubectl --context prod delete pod -n kube-system {name}`" in line
    assert line.endswith("Z")


def test_a_pod_that_is_gone_already_is_fine() -> None:
    assert "could not be deleted" not in " ".join(open_and_close(FakeApi(delete=ApiError(409, "Conflict", "uid"))))


def test_a_deletion_without_an_answer_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug_pod, "DELETE_SECONDS", 0.1)
    api, forever = FakeApi(), threading.Event()
    api.delete = lambda *_, **__: forever.wait(10)
    assert "no answer within 0 s" in open_and_close(api)[-1]
    forever.set()


def test_other_threads_install_no_handlers() -> None:
    api = FakeApi()
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=open_and_close, args=(api,))
    thread.start()
    thread.join()
    assert len(api.deleted) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_interruptible_deletes_the_pods_of_other_threads() -> None:
    api, opened, gone = FakeApi(), threading.Event(), threading.Event()
    delete = api.delete
    api.delete = lambda *a, **k: (delete(*a, **k), gone.set())

    def work() -> None:
        with open_debug_pod(api, NODE):
            opened.set()
            gone.wait(5)

    thread = threading.Thread(target=work)
    with pytest.raises(Interrupted), interruptible():
        thread.start()
        opened.wait(5)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(5)
    thread.join(5)
    assert not thread.is_alive()
    assert api.pods == {}
    open_and_close(FakeApi())


def test_a_thread_that_is_stuck_is_not_waited_for_when_its_pod_is_deleted() -> None:
    api, opened, forever = FakeApi(), threading.Event(), threading.Event()

    def work() -> None:
        with open_debug_pod(api, NODE):
            opened.set()
            forever.wait(30)

    thread = threading.Thread(target=work, daemon=True)
    with pytest.raises(KeyboardInterrupt), interruptible():
        thread.start()
        opened.wait(5)
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5)
    assert thread.is_alive()
    assert api.pods == {}
    forever.set()
    thread.join(5)
    assert api.deleted == [("netpol-ebpf-ip-172-31-104-5-abcde", "uid-netpol-ebpf-ip-172-31-104-5-abcde")]


def test_a_pod_that_is_being_made_in_another_thread_is_waited_for() -> None:
    """By any exception, not by signals alone: the threads end with the program."""
    api, asked, go = FakeApi(), threading.Event(), threading.Event()
    create = api.create

    def slow_create(path: str, body: Json) -> Json:
        asked.set()
        go.wait(5)
        return create(path, body)

    api.create = slow_create
    thread = threading.Thread(target=ended, args=(api,), daemon=True)
    with pytest.raises(ZeroDivisionError), interruptible():
        thread.start()
        asked.wait(5)
        threading.Timer(0.2, go.set).start()
        raise ZeroDivisionError
    assert len(api.deleted) == 1
    assert api.pods == {}


def test_no_pod_is_made_in_another_thread_once_all_are_to_stop() -> None:
    api, asked, go = FakeApi(), threading.Event(), threading.Event()
    get = api.get

    def slow_get(path: str, **query: str) -> Json:
        asked.set()
        go.wait(5)
        return get(path, **query)

    api.get = slow_get
    thread = threading.Thread(target=ended, args=(api,), daemon=True)
    with pytest.raises(ZeroDivisionError), interruptible():
        thread.start()
        asked.wait(5)
        raise ZeroDivisionError
    go.set()
    thread.join(5)
    assert not any(call.startswith("create") for call in api.calls)


def ended(api: FakeApi) -> None:
    """A thread's use of a pod, which somebody ends."""
    with contextlib.suppress(NodeError):
        open_and_close(api)


@pytest.mark.parametrize("error", [ApiError(429, "TooManyRequests", "busy"), ConnectionFailed("connection reset")])
def test_a_deletion_that_fails_for_a_moment_is_tried_again(error: Exception) -> None:
    api, errors = FakeApi(), [error]
    delete = api.delete

    def once(path: str, **options: Any) -> None:
        if errors:
            raise errors.pop()
        delete(path, **options)

    api.delete = once
    assert "could not be deleted" not in " ".join(open_and_close(api))
    assert api.pods == {}


# ---- exec


def test_an_exec(execs: list[Any]) -> None:
    execs.append(ExecResult(b"out", b"", 0))
    api = FakeApi()
    with open_debug_pod(api, NODE) as pod:
        asked = len(api.calls)
        assert pod.exec(["x"]) == ExecResult(b"out", b"", 0)
        assert len(api.calls) == asked, "a good exec costs no other request"


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (None, "the debug pod kube-system/netpol-ebpf-ip-172-31-104-5-abcde was deleted meanwhile"),
        ({"phase": "Failed", "reason": "Evicted", "message": "disk"}, "Evicted: disk"),
        ({"phase": "Failed", "reason": "DeadlineExceeded"}, "reached its deadline of 300 s"),
        (terminated(137, "OOMKilled"), "ended: exit code 137, OOMKilled"),
        (RUNNING, "cut"),
    ],
)
def test_a_broken_exec_says_what_happened_to_the_pod(execs: list[Any], status: Any, wanted: str) -> None:
    execs.append(ExecResult(b"half", b"", None, "cut"))
    api = FakeApi()
    with open_debug_pod(api, NODE) as pod:
        if status is None:
            api.pods.clear()
        else:
            api.pods[pod.name]["status"] = status
        result = pod.exec(["x"])
    assert (result.stdout, result.exit_code) == (b"half", None)
    assert wanted in result.error


def test_an_exec_without_the_right(execs: list[Any]) -> None:
    text = 'pods "p" is forbidden: User "u" cannot get resource "pods/exec" in API group "" in the namespace "k"'
    execs.append(ApiError(403, "Forbidden", text))
    with (
        pytest.raises(NodeError, match="the right `get pods/exec` is missing") as raised,
        open_debug_pod(
            FakeApi(),
            NODE,
        ) as pod,
    ):
        pod.exec(["x"])
    assert "kubectl auth can-i get pods --subresource=exec -n k`" in raised.value.hint


def test_an_exec_that_came_too_early_is_tried_once_more(execs: list[Any]) -> None:
    early = ApiError(500, "InternalError", 'unable to upgrade connection: container not found ("debugger")')
    execs.extend([early, ExecResult(b"", b"", 0)])
    with open_debug_pod(FakeApi(), NODE) as pod:
        assert pod.exec(["x"]).exit_code == 0
    execs.extend([early, early])
    with (
        pytest.raises(NodeError, match="container not found"),
        open_debug_pod(
            FakeApi(),
            NODE,
        ) as pod,
    ):
        pod.exec(["x"])


def test_an_exec_into_a_pod_that_was_replaced(execs: list[Any]) -> None:
    execs.append(ConnectionFailed("no answer"))
    api = FakeApi()
    with pytest.raises(NodeError, match="was deleted meanwhile"), open_debug_pod(api, NODE) as pod:
        api.pods[pod.name]["metadata"]["uid"] = "another"
        pod.exec(["x"])
