"""No text of an API server, of a container or of a kubeconfig steers the terminal or forges a line of output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from kubectl_netpol.cluster import stream
from kubectl_netpol.node import agent_pod, debug_pod
from tests.fuzz.hostile import EVIL, FILE, LONG, forms, problems
from tests.fuzz.targets import verbs
from tests.unit import builders
from tests.unit.test_api import Answer, Request, Server

Json = dict[str, Any]


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


def kubeconfig(tmp_path: Path, url: str, name: str = "c") -> Path:
    cluster = {"name": name, "cluster": {"server": url}}
    context = {"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}
    user = {"name": name, "user": {"token": "t"}}
    path = tmp_path / "kubeconfig"
    found = {"apiVersion": "v1", "kind": "Config", "current-context": name}
    path.write_text(json.dumps({**found, "clusters": [cluster], "contexts": [context], "users": [user]}))
    return path


LIVE = (
    ["explain", verbs.POD, "--from", "pod/accessfalse", "--port", "80"],
    ["explain", verbs.POD, "--api-only"],
    ["maps", verbs.POD],
    ["conntrack", verbs.POD],
    ["drops", verbs.POD],
    ["check", verbs.POD],
    ["check", "-A"],
    ["doctor"],
    ["cleanup"],
    ["cleanup", "--delete", "--all"],
)
STATUS = {"kind": "Status", "status": "Failure", "message": f"no {EVIL}", "reason": EVIL, "details": {"name": EVIL}}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "body", [STATUS, EVIL.encode("utf-8", "surrogatepass"), b"[" * 5000], ids=["status", "text", "deep"]
)
@pytest.mark.parametrize("code", [200, 400, 401, 403, 404, 429, 500])
def test_refusals_of_the_api(code: int, body: Any, server: Server, tmp_path: Path) -> None:
    server.choose = lambda request: Answer(code, body)
    given = ["--kubeconfig", str(kubeconfig(tmp_path, server.url))]
    for number, words in enumerate(LIVE):
        if not LONG and (number + code) % 2:
            continue
        form = forms(words)[number % 4]
        result, out, err = verbs.answer([*words, "-o", form, *given], writes=True)
        assert result in (0, 1, 2, 3) and not problems(out, err), (words, form, out, err)
        assert "internal error" not in err, err
        verbs.parsed(form, out)


class Cluster:
    """Answers as an API server whose objects are ``objects``; ``refuse``: kinds and verbs that are refused."""

    def __init__(self, objects: Json, *refuse: str) -> None:
        self.objects, self.refuse = objects, refuse
        self.pods: dict[str, Json] = {}

    def __call__(self, request: Request) -> Answer:
        kind = request.path.rsplit("/", 1)[-1]
        words = request.path.split("/")
        if kind in self.refuse or f"{request.method} {words[-2]}" in self.refuse or request.method in self.refuse:
            return Answer(403, {**STATUS, "code": 403})
        if request.method == "POST" and kind == "pods":
            body = json.loads(request.body)
            body["metadata"] |= {"name": "debug-x", "uid": "u", "resourceVersion": "1"}
            body["status"] = {"phase": "Running", "containerStatuses": [{"name": "debugger", "state": {"running": {}}}]}
            self.pods["debug-x"] = body
            return Answer(201, body)
        if request.method == "POST":
            return Answer(201, {**json.loads(request.body), "status": {"allowed": True}})
        if request.method == "DELETE":
            self.pods.pop(kind, None)
            return Answer(200, {})
        if request.query.get("watch"):
            lines = [json.dumps({"type": "MODIFIED", "object": pod}) for pod in self.pods.values()]
            return Answer(200, "".join(f"{line}\n" for line in lines).encode(), cut=True)
        if kind == "version":
            return Answer(200, {"gitVersion": f"v1.31.0{EVIL}"})
        if kind in self.pods:
            return Answer(200, self.pods[kind])
        if request.query.get("labelSelector", "").startswith(debug_pod.MANAGED_BY):
            return Answer(200, {"items": [*self.pods.values(), *self.objects.get("leftovers", ())], "metadata": {}})
        if kind in self.objects:
            return Answer(200, {"items": self.objects[kind], "metadata": {"resourceVersion": "1"}})
        for one in self.objects.get(words[-2], ()):
            if one["metadata"]["name"] == kind:
                return Answer(200, one)
        return Answer(404, {**STATUS, "code": 404})


REFUSED: tuple[tuple[str, ...], ...] = (
    ("POST",),
    ("DELETE",),
    ("networkpolicies", "nodes", "daemonsets"),
    ("pods", "events"),
    ("policyendpoints", "GET nodes"),
)


KINDS, WAYS = ("garbage", "error", "cut", "missing", "killed"), ("python", "tools", "agent")
EXECS = [
    *product(KINDS, WAYS, ((), *REFUSED) if LONG else ((),)),
    *([] if LONG else product(("error",), ("python",), REFUSED)),
]


def leftovers() -> list[Json]:
    from kubectl_netpol.node.debug_pod import DebugPodOptions, manifest

    body = manifest(builders.NODE, DebugPodOptions(), EVIL, "2026-01-02T03:04:05Z", "run")
    for labels in ("labels", "annotations"):
        body["metadata"][labels] = {**body["metadata"].get(labels, {}), f"x{EVIL}": EVIL}
    name = f"netpol-ebpf-{EVIL}"
    body["metadata"] |= {"name": name, "namespace": EVIL, "uid": EVIL, "creationTimestamp": EVIL}
    body["spec"]["nodeName"] = EVIL
    body["status"] = {"phase": "Failed", "reason": EVIL, "message": EVIL}
    return [body, {"metadata": {"name": EVIL, "namespace": EVIL, "labels": {EVIL: EVIL}}, "status": {"phase": EVIL}}]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("kind", "way", "refuse"), EXECS, ids=str)
def test_what_an_exec_says(
    kind: str, way: str, refuse: tuple[str, ...], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = EVIL.encode("utf-8", "surrogatepass")
    result = {
        "garbage": stream.ExecResult(raw, raw, 0),
        "error": stream.ExecResult(raw, b"Traceback\n" + raw, 1, EVIL),
        "cut": stream.ExecResult(b"NPE1", raw, None, EVIL),
        "missing": stream.ExecResult(raw, raw, 127, f"executable file {EVIL[:50]} not found in $PATH"),
        "killed": stream.ExecResult(b"", raw, 137, EVIL),
    }[kind]
    for module in (debug_pod, agent_pod):
        monkeypatch.setattr(module, "exec_in_pod", lambda *_, **__: result)
    objects = verbs.collections()
    agent = {"name": "aws-node-x", "namespace": "kube-system", "labels": {"k8s-app": "aws-node"}}
    containers = [{"name": agent_pod.CONTAINER, "image": "x"}]
    running = {
        "metadata": agent,
        "spec": {"nodeName": builders.NODE, "containers": containers},
        "status": {"phase": "Running"},
    }
    objects["pods"] = [running, *objects["pods"]] if way == "agent" else objects["pods"]
    objects["leftovers"] = leftovers()
    server.choose = Cluster(objects, *refuse)
    given = ["--kubeconfig", str(kubeconfig(tmp_path, server.url)), "--start-timeout", "2"]
    turn = len(kind + way + str(refuse)) % 3
    for number, words in enumerate(LIVE[:-1]):
        if not LONG and number % 3 != turn:
            continue
        form = forms(words)[(number + len(kind)) % 4]
        more = ["--via", way, *(["--show-commands"] if way != "python" else [])] if words[0] != "cleanup" else []
        if words[0] == "doctor" and way == "agent":
            continue
        if words[0] == "cleanup":
            code, out, err = verbs.answer([*words, "-o", form, *given[:2]], writes=True)
        else:
            code, out, err = verbs.answer([*words, "-o", form, *given, *more], writes=True)
        assert code in (0, 1, 2, 3) and not problems(out, err), (words, form, problems(out, err), out, err)
        assert "internal error" not in err, err
        verbs.parsed(form, out)


def test_capture_says_what_it_could_not_read(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = EVIL.encode("utf-8", "surrogatepass")
    monkeypatch.setattr(debug_pod, "exec_in_pod", lambda *_, **__: stream.ExecResult(raw, raw, 1, EVIL))
    server.choose = Cluster(verbs.collections(), "services")
    words = ["capture", verbs.POD, "-f", str(tmp_path / f"{FILE}.tar.gz")]
    code, out, err = verbs.answer([*words, "--kubeconfig", str(kubeconfig(tmp_path, server.url))], writes=True)
    assert code == 3 and not problems(out, err), (out, err)


def test_names_of_a_kubeconfig(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:9", EVIL)
    other = tmp_path / FILE
    other.write_text("a: [")
    for words in (
        ["--kubeconfig", str(path)],
        ["--kubeconfig", str(path), "--context", f"x{EVIL}"],
        ["--kubeconfig", str(path), "--cluster", EVIL],
        ["--kubeconfig", str(path), "--user", f"x{EVIL}"],
        ["--kubeconfig", str(other)],
        ["--kubeconfig", str(tmp_path / f"none{FILE}")],
        ["--kubeconfig", str(path), "-s", f"http://127.0.0.1:9/{FILE}"],
        ["--kubeconfig", str(path), "-s", EVIL],
        ["--kubeconfig", str(path), "--as", EVIL],
        ["--kubeconfig", str(path), "--token", EVIL],
    ):
        code, out, err = verbs.answer(["maps", verbs.POD, *words], writes=True)
        assert code in (2, 3) and not problems(out, err), (words, out, err)
        assert "internal error" not in err, (words, err)
