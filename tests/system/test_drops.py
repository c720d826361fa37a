"""`drops`: what the programs of a real kernel denied, by the log that the agent writes of it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.lab import article, cni_objects
from tests.lab.article import NODE
from tests.lab.flowlog import FlowLog
from tests.lab.require import require_lab, require_tools
from tests.lab_selftest.helpers import connects
from tests.system.conftest import User, reaches

GENERATIONS = [("1.0.4", 4), ("1.2.7", 4), ("1.4.2", 4), ("1.4.2", 6)]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def cluster(stack: ExitStack, plugin_bin: Path, generation: str = "1.4.2", family: int = 4) -> tuple[User, FlowLog]:
    require_lab()
    require_tools("kubectl")
    lab = stack.enter_context(article.cluster(generation=generation, family=family))
    article.build(lab)
    cni_objects.install(lab)
    log = stack.enter_context(FlowLog(lab.agents[NODE]))
    return User(lab, plugin_bin), log


def denied(user: User) -> None:
    nginx = next(p for p in user.lab.server.list("Pod") if p["metadata"]["name"] == article.NGINX)["status"]["podIP"]
    assert connects(user.lab.sandbox("default", "accessfalse"), nginx, 80) != "open"


def data(user: User, *arguments: str) -> tuple[int, Any]:
    done = user.run("drops", "pod/nginx", *arguments, "-o", "json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize(("generation", "family"), GENERATIONS)
def test_a_denied_packet_is_still_denied(stack: ExitStack, plugin_bin: Path, generation: str, family: int) -> None:
    user, log = cluster(stack, plugin_bin, generation, family)
    denied(user)
    assert log.write()
    code, found = data(user)
    assert code == 1, found
    [flow] = [f for f in found["flows"] if f["kind"] == "STILL_DENIED"]
    assert (flow["sourceName"], flow["port"], flow["protocol"]) == ("pod default/accessfalse", 80, "TCP")
    assert (flow["direction"], flow["verdict"]) == ("ingress", "DENY")
    assert "INTENT denies it too" in flow["why"]
    assert user.debug_pods() == []


def test_the_same_line_after_the_policy_allows_it(stack: ExitStack, plugin_bin: Path, tmp_path: Path) -> None:
    user, log = cluster(stack, plugin_bin)
    old_pod = user.lab.server.get("Pod", article.NGINX)
    old_pod["status"]["startTime"] = "2026-01-02T03:04:05Z"
    user.lab.server.put(old_pod)
    denied(user)
    log.write()
    first = user.run("drops", "pod/nginx", "--since", "10m").stdout.splitlines()[0]
    assert "in the last 10m: 1 still denied" in first
    bundle = tmp_path / "b.tar.gz"
    assert user.run("capture", "pod/nginx", "-f", str(bundle)).returncode == 0

    user.lab.kubectl("delete", "networkpolicy", "access-nginx")
    user.lab.settle()
    assert reaches(user.lab, "accessfalse")
    log.write()
    code, found = data(user, "--all")
    assert code == 0, found
    [old] = [f for f in found["flows"] if f["verdict"] == "DENY" and f["sourceName"] == "pod default/accessfalse"]
    assert old["kind"] == "ALLOWED_NOW", old
    assert any(f["verdict"] == "ACCEPT" for f in found["flows"])

    code, kept = data(user, "--bundle", str(bundle))
    assert (code, kept["kinds"]["STILL_DENIED"]) == (1, 1)


def test_following(stack: ExitStack, plugin_bin: Path) -> None:
    user, log = cluster(stack, plugin_bin)
    process = user.start("drops", "pod/nginx", "--follow")
    assert process.stdout is not None
    assert "no drops in the last 1h" in process.stdout.readline()
    assert process.stdout.readline() == "\n"
    assert process.stdout.readline().startswith("LAST ")
    assert len(user.debug_pods()) == 1
    denied(user)
    assert log.write()
    row = process.stdout.readline()
    assert "default/accessfalse" in row and "still denied" in row
    # The log is rotated, and what comes then is found too.
    log.path.rename(log.path.with_name("network-policy-agent-2026-01-02T03-04-05.000.log"))
    denied(user)
    assert log.write()
    assert "still denied" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == "error: interrupted"
    assert user.debug_pods() == []


def test_following_ends_with_its_reader(stack: ExitStack, plugin_bin: Path) -> None:
    user, log = cluster(stack, plugin_bin)
    denied(user)
    log.write()
    command = ["sh", "-c", "kubectl netpol-ebpf drops pod/nginx --follow -o json | head -n 1"]
    process = subprocess.Popen(command, env=user.environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["kind"] == "STILL_DENIED"
    # `head` is gone: the next row cannot be written, and ends it.
    denied(user)
    log.write()
    process.communicate(timeout=60)
    assert user.debug_pods() == []


def test_where_the_agent_logs_nothing(stack: ExitStack, plugin_bin: Path) -> None:
    user, _ = cluster(stack, plugin_bin)
    made = user.lab.server.get("DaemonSet", "aws-node", "kube-system")
    agent = made["spec"]["template"]["spec"]["containers"][1]
    agent["args"] = [a for a in agent["args"] if "event-logs" not in a]
    user.lab.server.put(made)
    done = user.run("drops", "pod/nginx")
    assert done.returncode == 3
    assert "NPE615 info CONFIG: the agent logs no flows (--enable-policy-event-logs" in done.stdout
    assert "aws eks update-addon" in done.stdout
