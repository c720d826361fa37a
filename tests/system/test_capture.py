"""`capture` against a running cluster: each scope, nothing that is secret, and redacted bundles that answer alike."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from kubectl_netpol import bundle
from tests.lab import article, cni_objects
from tests.lab.article import NODE
from tests.lab.flowlog import FlowLog
from tests.lab.require import require_lab, require_tools
from tests.lab_selftest.helpers import connects
from tests.system.conftest import User, reaches

SECRET = "hunter2-swordfish"
POD = f"""\
apiVersion: v1
kind: Pod
metadata:
  name: cartservice
  labels: {{team: pelican}}
  annotations: {{note: {SECRET}}}
spec:
  containers:
  - name: main
    image: busybox
    command: [sleep, infinity]
    args: []
    env: [{{name: PASSWORD, value: {SECRET}}}]
"""
LINES = (
    '{"level":"error","ts":"2026-11-01T03:04:05.678Z","msg":"unable to update map","pod":"shop/cartservice"}\n'
    '{"level":"info","ts":"2026-11-01T03:04:05.678Z","msg":"Starting the agent"}\n'
)


@pytest.fixture(scope="module")
def shop(plugin_bin: Path) -> Iterator[User]:
    """The article's cluster with a second node, a namespace, a Secret, and a log of the agent."""
    require_lab()
    require_tools("kubectl")
    with ExitStack() as stack:
        lab = stack.enter_context(article.cluster(generation="1.4.2", agent_pods=True))
        article.build(lab)
        cni_objects.install(lab)
        lab.add_node("ip-172-31-110-77.ap-northeast-1.compute.internal", "172.31.110.77")
        lab.kubectl("create", "namespace", "shop")
        lab.kubectl("create", "secret", "generic", "credentials", "-n", "shop", f"--from-literal=password={SECRET}")
        lab.kubectl("apply", "-n", "shop", "-f", "-", input=POD)
        lab.server.wait_running("cartservice", "shop")
        lab.settle()
        log = stack.enter_context(FlowLog(lab.agents[NODE]))
        log.path.write_text(LINES)
        assert reaches(lab, "accesstrue")
        assert connects(lab.sandbox("default", "accessfalse"), article.NGINX_IP, 80) != "open"
        log.write()
        yield User(lab, plugin_bin)
        assert not lab.server.errors


def texts(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        return {member.name: _content(tar, member) for member in tar}


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = tar.extractfile(member)
    assert content is not None
    return content.read().decode()


@pytest.mark.parametrize(
    ("scope", "nodes"),
    [(["pod/nginx"], 1), (["-n", "shop"], 1), (["--node", NODE], 1), (["-A"], 2), (["-A", "--via", "tools"], 2)],
)
def test_each_scope(shop: User, scope: list[str], nodes: int, tmp_path: Path) -> None:
    out = tmp_path / "b.tar.gz"
    done = shop.run("capture", *scope, "-f", str(out), timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert shop.debug_pods() == []
    found = bundle.read(str(out))
    assert len([r for r in found.nodes.values() if r.document is not None]) == nodes
    held = texts(out)
    assert not any(SECRET in text for text in held.values())
    for kind in ("networkpolicies", "policyendpoints", "daemonsets", "versions", "accessreviews"):
        assert found.items(kind), kind
    documents = [r.document for r in found.nodes.values() if r.document is not None]
    # Maps with what is in them, programs, tc, pod states and conntrack.
    for own in documents:
        assert own["filters"]
        if own["maps"] is None:
            # The agent's tool is on the first node only, and that is said.
            assert "--via" in scope and any("no aws-eks-na-cli" in error["error"] for error in own["errors"])
    assert any(row["contents"] and row["contents"]["count"] for own in documents for row in own["maps"] or ())
    if "--via" not in scope:
        assert all(own["programs"] for own in documents)
        assert all(any("conntrack" in pin["path"] for pin in own["pins"]) for own in documents)
    if "--via" not in scope and NODE in found.nodes:
        log = next(text for name, text in held.items() if name.endswith("network-policy-agent.log"))
        assert "Starting the agent" in log and "Flow Info" not in log
    assert "answers/check.yaml" in held and "answers/doctor.yaml" in held


def test_a_bundle_of_the_cluster_answers_for_every_pod(shop: User, tmp_path: Path) -> None:
    out = tmp_path / "b.tar.gz"
    assert shop.run("capture", "-A", "-f", str(out)).returncode == 0
    for arguments in (["check", "-A"], ["explain", "shop/cartservice"], ["maps", "accesstrue"], ["drops", "pod/nginx"]):
        live = shop.run(*arguments, "-o", "json")
        offline = shop.run(*arguments, "-o", "json", "--bundle", str(out), KUBECONFIG="/nonexistent")
        assert live.returncode == offline.returncode, (arguments, live.stderr, offline.stderr)
        if arguments[0] != "drops":
            assert _steady(live.stdout) == _steady(offline.stdout)


def _steady(text: str) -> str:
    """Less what goes on by itself between two looks: ages, counters and clocks."""
    return re.sub(r"\d+", "N", text)


def test_redacted(shop: User, tmp_path: Path) -> None:
    out, words = tmp_path / "b.tar.gz", tmp_path / "names.json"
    done = shop.run("capture", "-A", "--redact", "--redact-names", str(words), "-f", str(out))
    assert done.returncode == 0, done.stderr
    held = "\n".join(f"{name}\n{text}" for name, text in texts(out).items())
    for secret in (SECRET, "nginx", "cartservice", "shop", "pelican", "accesstrue", "accessfalse", "northeast"):
        # `access-nginx` is made of words, so none of them is left.
        assert secret not in held, secret
    for address in (article.NGINX_IP, article.TRUE_IP, article.FALSE_IP, article.NODE_IP, "172.31.110.77"):
        assert address not in held
        packed = ip_address(address).packed
        for reading in bundle.read(str(out)).nodes.values():
            for row in (reading.document or {})["maps"]:
                assert not row["contents"] or packed not in row["contents"].entries[0]
    given = json.loads(words.read_text())
    back = {old: new for new, old in given["words"].items()}
    nginx = "-".join(back.get(word, word) for word in article.NGINX.split("-"))
    for pod, code in (("accesstrue", 0), ("accessfalse", 1)):
        live = shop.run("explain", "pod/nginx", "--from", f"pod/{pod}", "--port", "80", "-o", "json")
        asked = ["explain", nginx, "--from", f"pod/{back[pod]}", "--port", "80", "-o", "json", "--bundle", str(out)]
        answered = shop.run(*asked, KUBECONFIG="/nonexistent")
        assert live.returncode == answered.returncode == code
        assert _verdicts(live.stdout) == _verdicts(answered.stdout)
    live, offline = shop.run("check", "-A", "-o", "json"), shop.run("check", "-A", "--bundle", str(out), "-o", "json")
    assert live.returncode == offline.returncode
    assert _codes(live.stdout) == _codes(offline.stdout)
    drops = json.loads(shop.run("drops", nginx, "--bundle", str(out), "-o", "json").stdout)
    assert drops["kinds"]["STILL_DENIED"] == 1


def _codes(text: str) -> list[str]:
    found = json.loads(text)
    return sorted(one["code"] for one in found["findings"]) + sorted(pod["pinned"] for pod in found["pods"])


def _verdicts(text: str) -> list[tuple[str, str]]:
    found = json.loads(text)
    return [
        (found["verdict"], found["cause"]),
        *((v["layer"], v["verdict"]) for leg in found["legs"] for v in leg["layers"]),
    ]


def test_a_bundle_can_be_redacted_later(shop: User, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.tar.gz", tmp_path / "b.tar.gz"
    assert shop.run("capture", "-A", "-f", str(whole)).returncode == 0
    done = shop.run("capture", "-A", "--redact", "-f", str(out), "--bundle", str(whole), KUBECONFIG="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert not any("cartservice" in text for text in texts(out).values())


def test_to_a_pipe(shop: User, tmp_path: Path) -> None:
    process = shop.start("capture", "-n", "shop", "-f", "-")
    assert process.stdout is not None
    data = process.stdout.buffer.read()  # type: ignore[attr-defined]
    assert process.wait(60) == 0
    out = tmp_path / "b.tar.gz"
    out.write_bytes(data)
    assert bundle.read(str(out)).nodes
