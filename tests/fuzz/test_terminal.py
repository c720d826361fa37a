"""No text from outside steers the terminal or forges a line of output: objects, nodes, names, errors, files.

`NETPOL_FUZZ_LONG=1` puts the text into one place at a time; without it, into some dozen places at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from kubectl_netpol.cluster import stream
from kubectl_netpol.node import agent_pod, debug_pod
from kubectl_netpol.progress import Progress
from tests.fuzz import hostile
from tests.fuzz.hostile import BLANK, EVIL, NEWLINE, problems
from tests.fuzz.targets import verbs
from tests.fuzz.targets.manifests import RULES
from tests.unit import builders
from tests.unit.test_api import Answer, Request, Server

Json = dict[str, Any]
LONG = "NETPOL_FUZZ_LONG" in os.environ
TOGETHER = 1 if LONG else 16


def forms(words: list[str]) -> tuple[str, ...]:
    return verbs.FORMS if words[0] == "check" else verbs.FORMS[:4]


def command(words: list[str], form: str, path: Path) -> list[str]:
    return [*words, "-o", form, "--bundle", str(path)]


def parsed(form: str, out: str) -> None:
    """What is for machines is what they can read."""
    if form == "json" and out:
        json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in {out!r}"))
    if form == "yaml" and out:
        yaml.load(out, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def groups(seed: int) -> Iterator[list[hostile.Path]]:
    places = hostile.places(hostile.whole())
    Random(seed).shuffle(places)
    for start in range(0, len(places), TOGETHER):
        yield places[start : start + TOGETHER]


def refused(place: hostile.Path, path: Path) -> bool:
    """Whether a node's document is not taken any more: such places are tried alone, since nothing else is shown."""
    verbs.write(hostile.with_text(hostile.whole(), [place], EVIL), path)
    return verbs.answer(["maps", verbs.POD, "--bundle", str(path)])[0] == 2


# ---- bundles


def test_there_are_many_places() -> None:
    places = hostile.places(hostile.whole())
    assert len(places) > 150
    for wanted in (
        ("collections", "pods", "*", "metadata", "labels", "key"),
        ("collections", "networkpolicies", "*", "metadata", "name"),
        ("nodes", "node-a", "flow_log", "lines", "*"),
        ("nodes", "node-a", "pins", "*", "path"),
        ("nodes", "node-a", "links", "*", "name"),
    ):
        assert wanted in places


@pytest.mark.parametrize("seed", [1] if LONG else [1, 2])
def test_texts_of_objects_and_nodes(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    for group in groups(seed):
        kept = [place for place in group if place[0] == "collections" or not refused(place, path)]
        verbs.write(hostile.with_text(hostile.whole(), kept, EVIL), path)
        for number, words in enumerate(verbs.QUESTIONS):
            for form in forms(words) if LONG else [forms(words)[(number + seed) % len(forms(words))]]:
                code, out, err = verbs.answer(command(words, form, path))
                assert code in (0, 1, 2, 3) and not problems(out, err), (
                    kept,
                    words,
                    form,
                    problems(out, err),
                    out,
                    err,
                )
                parsed(form, out)


def test_places_that_are_refused(tmp_path: Path) -> None:
    path, found = tmp_path / "b.tar.gz", []
    for place in hostile.places(hostile.whole()):
        if place[0] == "nodes" and refused(place, path):
            _, out, err = verbs.answer(["maps", verbs.POD, "--bundle", str(path)])
            assert not problems(out, err), (place, out, err)
            found.append(place[-1])
    assert {"destination", "keys", "hook"} <= set(found)


@pytest.mark.parametrize("words", hostile.QUESTIONS, ids=" ".join)
def test_names_that_are_hostile_everywhere(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    verbs.write(hostile.renamed(EVIL), path)
    for form in forms(words):
        code, out, err = verbs.answer(command(words, form, path), RULES.replace("shop", "default"))
        # The policy of --without has another name now, which the refusal tells.
        assert (code in (0, 1, 3)) is ("--without" not in words), (words, form, out, err)
        assert not problems(out, err), (words, form, problems(out, err), out, err)
        assert "FORGED" in out + err or words[0] == "doctor" or form == "prometheus"
        parsed(form, out)


@pytest.mark.parametrize("words", hostile.QUESTIONS, ids=" ".join)
def test_a_name_with_newlines_is_a_name_with_blanks(words: list[str], tmp_path: Path) -> None:
    """Not one line more, and each of them the same."""
    answers = []
    for text in (NEWLINE, BLANK):
        path = tmp_path / "b.tar.gz"
        verbs.write(hostile.renamed(text), path)
        answers.append([hostile.normal(verbs.answer(command(words, form, path))) for form in ("table", "wide")])
    assert answers[0] == answers[1]


def test_texts_with_newlines_are_texts_with_blanks(tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    for group in groups(3):
        # Names that no longer meet would end most questions early; they are above.
        kept = [place for place in group if place[-1] not in ("name", "namespace", "lines", "gitVersion")]
        kept = [place for place in kept if place[0] == "collections" or not refused(place, path)]
        for number, words in enumerate(verbs.QUESTIONS):
            form, answers = ("table", "wide")[number % 2], []
            for text in (NEWLINE, BLANK):
                verbs.write(hostile.with_text(hostile.whole(), kept, text), path)
                answers.append(hostile.normal(verbs.answer(command(words, form, path))))
            assert answers[0] == answers[1], (kept, words, form)


def test_the_reason_why_a_node_was_not_read(tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    verbs.write({**hostile.whole(), "nodes": {builders.NODE: EVIL}}, path)
    for words in verbs.QUESTIONS:
        for form in forms(words):
            _, out, err = verbs.answer(command(words, form, path))
            assert not problems(out, err), (words, form, problems(out, err), out, err)
            parsed(form, out)


def test_the_head_of_a_bundle(tmp_path: Path) -> None:
    from tests.fuzz.targets import bundles

    for field in ("taken_at", "tool_version", "namespace", "format"):
        found = bundles.members()
        found["bundle.json"][field] = EVIL
        path = tmp_path / "b.tar.gz"
        path.write_bytes(bundles.zlib_gzip(bundles.archive(found)))
        for words in (["check", "-A"], ["explain", "pod/nginx"], ["check"]):
            _, out, err = verbs.answer(command(words, "table", path))
            assert not problems(out, err), (field, words, out, err)


# ---- the command line, files


@pytest.mark.parametrize(
    "words",
    [
        ["explain", f"pod/{EVIL}"],
        ["explain", EVIL],
        ["explain", verbs.POD, "--from", EVIL],
        ["explain", verbs.POD, "--from", "10.0.0.1", "--port", EVIL],
        ["explain", verbs.POD, "--direction", EVIL],
        ["explain", verbs.POD, "--without", EVIL],
        ["explain", verbs.POD, "-n", EVIL],
        ["maps", f"{EVIL}/x"],
        ["check", "-l", EVIL],
        ["check", "--node", EVIL],
        ["check", "--ignore", EVIL],
        ["check", "--fail-on", EVIL],
        ["drops", verbs.POD, "--since", EVIL],
        ["maps", verbs.POD, "-o", EVIL],
        ["maps", verbs.POD, f"--{EVIL}"],
        [EVIL],
    ],
    ids=str,
)
def test_words_of_the_command_line(words: list[str], tmp_path: Path) -> None:
    """Scripts put names into commands."""
    path = tmp_path / "b.tar.gz"
    verbs.write(hostile.whole(), path)
    code, out, err = verbs.answer([*words, "--bundle", str(path)] if len(words) > 1 else words)
    assert code and not problems(out, err), (out, err)


FILE = EVIL.replace("\x00", "").replace("/", "").replace("\ud800", "\udc80")
"""What a name of a file can be."""


@pytest.mark.parametrize("content", ["", "a: [", "kind: Service\nmetadata: {name: x}", None, "evil"])
def test_names_and_texts_of_files(content: str | None, tmp_path: Path) -> None:
    bundle = tmp_path / "b.tar.gz"
    verbs.write(hostile.whole(), bundle)
    file = tmp_path / f"{FILE}.yaml"
    texts = [content]
    if content == "evil":
        quoted = json.dumps(EVIL)
        head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        texts = [
            f"kind: {quoted}",
            f"{head}metadata: {{name: {quoted}}}\nspec: {{}}",
            f"{head}metadata: {{name: a}}\nspec: {{podSelector: {{matchLabels: {{{quoted}: {quoted}}}}}}}",
            f"{head}metadata: {{name: a}}\nspec: {{podSelector: {{}}, {quoted}: 1, policyTypes: [{quoted}]}}",
            f"{head}metadata: {{name: a}}\nspec: {{ingress: [{{from: [{{ipBlock: {{cidr: {quoted}}}}}]}}]}}",
            f"{{{quoted}: 1, {quoted}: 2}}",
            f"a: !{FILE[:3].encode('ascii', 'ignore').hex()} x",
            f"{head}metadata: {{name: a}}\nspec: {{podSelector: {{}}, ingress: [{{ports: [{{port: {quoted}}}]}}]}}",
            EVIL.replace("\ud800", ""),
        ]
    for text in texts:
        if text is not None:
            file.write_text(text)
        for given in (str(file), str(tmp_path) if text is not None else str(tmp_path / FILE)):
            code, out, err = verbs.answer(["explain", verbs.POD, "-f", given, "--bundle", str(bundle)])
            assert code == 2 and not problems(out, err), (text, out, err)


def test_the_name_of_a_bundle(tmp_path: Path) -> None:
    good = tmp_path / f"{FILE}.tar.gz"
    verbs.write(hostile.whole(), good)
    bad = tmp_path / f"bad{FILE}.tar.gz"
    bad.write_bytes(b"x")
    for path in (good, bad, tmp_path / f"none{FILE}"):
        code, out, err = verbs.answer(["maps", verbs.POD, "--bundle", str(path)])
        assert (code == 0) is (path is good) and not problems(out, err), (path, out, err)


# ---- the API server and the exec


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
        form = forms(words)[number % 4]
        result, out, err = verbs.answer([*words, "-o", form, *given], writes=True)
        assert result in (0, 1, 2, 3) and not problems(out, err), (words, form, out, err)
        assert "internal error" not in err, err
        parsed(form, out)


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
@pytest.mark.parametrize("refuse", [(), *REFUSED], ids=str)
@pytest.mark.parametrize("way", ["python", "tools", "agent"])
@pytest.mark.parametrize("kind", ["garbage", "error", "cut", "missing", "killed"])
def test_what_an_exec_says(
    kind: str, way: str, refuse: tuple[str, ...], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if refuse and (kind, way) != ("error", "python") and not LONG:
        pytest.skip("one kind of exec is enough for refusals")
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
    for number, words in enumerate(LIVE[:-1]):
        form = forms(words)[number % 4]
        more = ["--via", way, *(["--show-commands"] if way != "python" else [])] if words[0] != "cleanup" else []
        if words[0] == "doctor" and way == "agent":
            continue
        if words[0] == "cleanup":
            code, out, err = verbs.answer([*words, "-o", form, *given[:2]], writes=True)
        else:
            code, out, err = verbs.answer([*words, "-o", form, *given, *more], writes=True)
        assert code in (0, 1, 2, 3) and not problems(out, err), (words, form, problems(out, err), out, err)
        assert "internal error" not in err, err
        parsed(form, out)


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
    ):
        code, out, err = verbs.answer(["maps", verbs.POD, *words], writes=True)
        assert code in (2, 3) and not problems(out, err), (words, out, err)
        assert "internal error" not in err, (words, err)


# ---- what is drawn while waiting


def test_steps_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(enabled=True)
    progress._started -= 10
    for say in (progress.step, progress.note, progress.note_once):
        say(EVIL)
        say(f"x{EVIL}")
    progress.done()
    said = capsys.readouterr().err
    # Its own way to take a line away.
    assert "\r\033[K" in said
    assert not problems("", said.replace("\r\033[K", "\n> ")), said
