"""`check` through the real kubectl: rows, findings, formats, exit codes, one debug pod a node, waiting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.faults import world
from tests.lab.article import NGINX, NODE
from tests.lab.netns import wait_until
from tests.lab.require import require_lab, require_tools
from tests.system.conftest import User


@pytest.fixture
def user(plugin_bin: Path) -> Iterator[User]:
    require_lab()
    require_tools("kubectl", "tc")
    with world.healthy() as lab:
        yield User(lab, plugin_bin)
        assert not lab.server.errors


def test_a_healthy_cluster_is_clean(healthy_user: User) -> None:
    done = healthy_user.run("check", "-A")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == [
        "POD",
        "NODE",
        "IDENTIFIER",
        "INTENT",
        "ENDPOINTS",
        "PINNED",
        "ATTACHED",
        "STATE",
        "FINDINGS",
    ]
    row = next(line for line in lines if line.startswith(f"default/{NGINX}"))
    assert row.split()[-6:] == ["policy", "1", "ok", "ok", "applied", "-"]
    assert lines[-1] == "3 pods on 1 node: no findings."
    assert healthy_user.debug_pods() == []


def test_one_debug_pod_reads_all_pods_of_a_node(healthy_user: User) -> None:
    server = healthy_user.lab.server
    before = len([r for r in server.requests if r.method == "POST" and r.path.endswith("/pods")])
    assert healthy_user.run("check").returncode == 0
    made = [r for r in server.requests if r.method == "POST" and r.path.endswith("/pods")]
    assert len(made) - before == 1


def test_a_fault_is_named_in_every_format(user: User) -> None:
    user.lab.agents[NODE].faults.add("drop_pod_state")
    user.lab.sync_agents()
    done = user.run("check", "pod/nginx")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith(f"pod default/{NGINX} on node {NODE}: 1 error")
    assert "NPE304 error PINNED: every packet of pod" in done.stdout and "side effect:" in done.stdout
    data = json.loads(user.run("check", "-A", "-o", "json").stdout)
    assert {one["code"] for one in data["findings"]} == {"NPE304"}
    assert data["counts"]["error"] == len(data["findings"])
    row = next(row for row in data["pods"] if row["pod"] == f"default/{NGINX}")
    assert (row["pinned"], row["state"], row["findings"]) == ("DRIFT", "MISSING", ["NPE304"])
    suite = ElementTree.fromstring(user.run("check", "-A", "-o", "junit").stdout)
    [failure] = [case.find("failure") for case in suite if case.get("name") == NGINX]
    assert failure is not None and failure.get("type") == "NPE304"
    text = user.run("check", "-A", "-o", "prometheus").stdout
    assert 'netpol_ebpf_findings{code="NPE304",severity="error",layer="PINNED"}' in text
    assert user.run("check", "pod/nginx", "--ignore", "NPE304").returncode == 0


def test_a_node_that_cannot_be_read_is_a_row(user: User) -> None:
    user.lab.add_node("ip-172-31-103-130.ap-northeast-1.compute.internal", "172.31.103.130")
    user.lab.server.set_node_ready(NODE, False)
    done = user.run("check", "-n", "default")
    assert done.returncode == 3
    row = next(line for line in done.stdout.splitlines() if line.startswith(f"default/{NGINX}"))
    assert row.endswith("unread") and "not read:" in done.stdout


def test_api_only_makes_no_debug_pod(user: User) -> None:
    user.lab.controller_enabled = False
    for endpoint in user.lab.server.list("PolicyEndpoint"):
        user.lab.server.delete("PolicyEndpoint", endpoint["metadata"]["name"])
    before = len(user.lab.server.requests)
    done = user.run("check", "-A", "--api-only")
    assert done.returncode == 1 and "NPE201 error ENDPOINTS" in done.stdout
    assert not [r for r in user.lab.server.requests[before:] if r.method == "POST"]


def test_waiting_ends_when_the_policy_is_in_force(user: User) -> None:
    agent = user.lab.agents[NODE]
    agent.faults.add("skip_map_update")
    user.lab.kubectl("label", "pod", "accessfalse", "access=true", "--overwrite")
    user.lab.settle()
    done = user.run("check", "pod/nginx", "--wait", "1s")
    assert done.returncode == 1 and ": its policies are not in force after " in done.stdout.splitlines()[0]
    before = len(user.lab.server.requests)
    waiting = user.start("check", "nginx", "--wait", "60s")
    wait_until(lambda: sum(r.verb == "exec" for r in user.lab.server.requests[before:]) >= 2, "two readings", 60)
    agent.faults.clear()
    user.lab.sync_agents()
    out, err = waiting.communicate(timeout=90)
    assert waiting.returncode == 0, out + err
    assert ": its policies are in force after " in out.splitlines()[0]
    # One debug pod, whose node is read again and again.
    made = [r for r in user.lab.server.requests[before:] if r.verb == "create" and r.resource == "pods"]
    assert len(made) == 1
    assert user.debug_pods() == []


def test_waiting_does_not_ask_how_the_cni_is_set_up(user: User) -> None:
    """In force is in force: for a user who may not read its settings, and beside findings of other layers."""
    user.lab.server.faults.http(403, "/daemonsets", message="not yours")
    done = user.run("check", "pod/nginx", "--wait", "10s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not read: daemonsets" in done.stdout
    assert user.run("check", "pod/nginx").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--fail-on", "info"), "--fail-on"),
        (("--ignore", "NPE999"), "not a code"),
        (("-A", "-n", "default"), "-A goes without -n"),
        (("pod/nginx", "-A"), "-A goes without POD"),
        (("--wait", "60s"), "needs a POD"),
        (("pod/nginx", "--wait", "soon"), "not a duration"),
        (("-l", "app in web"), "label selector"),
        (("--node", "nowhere"), 'node "nowhere" not found'),
        (("-n", "nowhere"), 'namespace "nowhere" not found'),
    ],
)
def test_usage(healthy_user: User, arguments: tuple[str, ...], text: str) -> None:
    done = healthy_user.run("check", *arguments)
    assert done.returncode == 2 and text in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("what", ["comes", "goes"])
def test_pods_that_come_and_go_while_nodes_are_read_are_no_fault(user: User, what: str) -> None:
    """The API was listed before, the node is read after: neither the map nor the pins are wrong."""
    if what == "goes":
        _run_client(user, "later")
        user.lab.settle()
    slow = user.lab.server.faults.slow(3, "/pods", verb="create", count=1)
    checking = user.start("check", "-A")
    wait_until(lambda: slow.hits > 0, "the debug pod", 60)
    if what == "goes":
        user.lab.kubectl("delete", "pod", "later", "--grace-period=1")
        user.lab.server.wait_gone("Pod", "later")
    else:
        _run_client(user, "later")
    user.lab.settle()
    out, err = checking.communicate(timeout=90)
    assert checking.returncode == 0, out + err
    assert "no findings" in out and "error" not in out.splitlines()[-1]
    # One debug pod all the same.
    assert user.debug_pods() == []


def _run_client(user: User, name: str) -> None:
    user.lab.server.controllers.name_hook = None
    user.lab.kubectl("run", name, "--image=nginx", "--labels", "access=true")
    user.lab.server.wait_running(name)
