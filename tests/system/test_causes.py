"""Broken neighbours: each break is made for real, packets show its effect, and explain names the cause."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import article
from tests.lab.article import NGINX, NODE
from tests.lab.require import require_lab, require_tools
from tests.lab_selftest.helpers import connects
from tests.system.conftest import User, reaches, with_a_cluster_of_its_own


@pytest.fixture
def user(plugin_bin: Path) -> Iterator[User]:
    yield from with_a_cluster_of_its_own(plugin_bin)


def ask(user: User, *arguments: str) -> tuple[int, Any]:
    done = user.run("explain", *arguments, "-o", "json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def layers(answer: Any, direction: str = "ingress") -> dict[str, str]:
    leg = next(leg for leg in answer["legs"] if leg["direction"] == direction)
    return {layer["layer"]: layer["verdict"] for layer in leg["layers"]}


def statuses(answer: Any, direction: str = "ingress") -> dict[str, str]:
    report = next(d for d in answer["directions"] if d["direction"] == direction)
    return {row["who"]: row["status"] for row in report["rows"]}


def test_resolution_the_controller_made_nothing(user: User) -> None:
    user.lab.controller_enabled = False
    for endpoint in user.lab.server.list("PolicyEndpoint"):
        user.lab.server.delete("PolicyEndpoint", endpoint["metadata"]["name"])
    user.lab.sync_agents()
    assert reaches(user.lab, "accessfalse")
    code, answer = ask(user, "pod/nginx", "--from", "pod/accessfalse", "--port", "80")
    assert (code, answer["verdict"], answer["cause"]) == (0, "ALLOW", "resolution")
    assert answer["legs"][0]["firstDifference"] == ["INTENT", "ENDPOINTS"]
    code, answer = ask(user, "pod/nginx")
    assert (code, answer["cause"]) == (1, "resolution")
    assert statuses(answer)["pod default/accesstrue"] == "NOT_RESOLVED"


def test_kernel_an_update_was_lost(user: User) -> None:
    user.lab.agents[NODE].faults.add("skip_map_update")
    user.lab.kubectl("label", "pod", "accessfalse", "access=true", "--overwrite")
    user.lab.settle()
    assert not reaches(user.lab, "accessfalse")
    code, answer = ask(user, "pod/nginx", "--from", "pod/accessfalse", "--port", "80")
    assert (code, answer["verdict"], answer["cause"]) == (1, "DROP", "kernel")
    assert layers(answer) == {
        "INTENT": "ALLOW",
        "ENDPOINTS": "ALLOW",
        "EXPECTED": "ALLOW",
        "PINNED": "DROP",
        "ATTACHED": "DROP",
        "CONNTRACK": "-",
    }
    code, answer = ask(user, "pod/nginx")
    assert (code, answer["cause"]) == (1, "kernel")
    assert statuses(answer)["pod default/accessfalse"] == "NOT_IN_MAP"
    assert statuses(answer)["pod default/accesstrue"] == "OK"


def test_kernel_the_old_program_still_runs(user: User) -> None:
    user.lab.agents[NODE].faults.add("stale_program")
    user.lab.kubectl("label", "pod", "accessfalse", "access=true", "--overwrite")
    user.lab.settle()
    assert not reaches(user.lab, "accessfalse")
    code, answer = ask(user, "pod/nginx", "--from", "pod/accessfalse", "--port", "80")
    assert (code, answer["verdict"], answer["cause"]) == (1, "DROP", "kernel")
    assert (layers(answer)["PINNED"], layers(answer)["ATTACHED"]) == ("ALLOW", "DROP")
    assert answer["legs"][0]["firstDifference"] == ["PINNED", "ATTACHED"]
    program = answer["legs"][0]["program"]
    handle = user.lab.agents[NODE].handles("default", NGINX)["ingress"]
    assert program["program"]["id"] == handle.attached_program_id
    assert program["pinnedProgram"]["id"] == handle.program_id != handle.attached_program_id
    done = user.run("maps", "pod/nginx", "--direction", "ingress")
    assert f"is program {handle.program_id}: NOT THE ONE THAT RUNS" in done.stdout
    assert "(no pin)" in done.stdout
    code, answer = ask(user, "pod/nginx")
    assert (code, answer["layersAgree"]) == (1, False)


def test_kernel_the_pod_state_is_missing(user: User) -> None:
    user.lab.agents[NODE].faults.add("drop_pod_state")
    user.lab.sync_agents()
    assert not reaches(user.lab, "accesstrue")
    code, answer = ask(user, "pod/nginx", "--from", "pod/accesstrue", "--port", "80")
    assert (code, answer["verdict"], answer["cause"]) == (1, "DROP", "kernel")
    attached = next(x for x in answer["legs"][0]["layers"] if x["layer"] == "ATTACHED")
    assert attached["code"] == "POD_STATE_MISSING"
    done = user.run("explain", "pod/nginx", "--direction", "ingress")
    assert done.returncode == 1
    assert "but the pod state is missing" in done.stdout.splitlines()[0]


def test_kernel_nothing_is_attached(user: User) -> None:
    user.lab.agents[NODE].faults.add("no_attach")
    user.lab.server.controllers.name_hook = None
    user.lab.kubectl("run", "web", "--image=nginx", "--labels", "app=nginx")
    user.lab.server.wait_running("web")
    user.lab.settle()
    address = user.lab.sandbox("default", "web").ip
    assert connects(user.lab.sandbox("default", "accessfalse"), address, 80) == "open"
    code, answer = ask(user, "web", "--from", "pod/accessfalse", "--port", "80")
    assert (code, answer["verdict"], answer["cause"]) == (0, "ALLOW", "kernel")
    assert layers(answer)["PINNED"] == "DROP"
    code, answer = ask(user, "web", "--direction", "ingress")
    assert code == 1
    assert "no handle_ingress filter is attached: nothing is filtered" in answer["answer"]


def test_two_nodes_are_read_for_one_flow(user: User) -> None:
    other = "ip-172-31-97-20.ap-northeast-1.compute.internal"
    user.lab.add_node(other, "172.31.97.20")
    user.lab.server.controllers.scheduler = lambda pod, nodes: other
    user.lab.kubectl("run", "far", "--image=busybox", "--labels", "access=false", "--", "sleep", "infinity")
    user.lab.server.wait_running("far")
    user.lab.settle()
    assert not reaches(user.lab, "far")
    code, answer = ask(user, "pod/nginx", "--from", "pod/far", "--port", "80")
    assert (code, answer["verdict"], answer["cause"]) == (1, "DROP", "selector")
    assert {leg["node"]: leg["verdict"] for leg in answer["legs"]} == {NODE: "DROP", other: "ALLOW"}
    assert user.debug_pods() == []


@pytest.mark.parametrize(
    ("generation", "identifier", "value_size"),
    [("1.3.7", "nginx-f8d9c6576-default", 1), ("1.4.1", "nginx-f8d9c6576@default", 1),
     ("1.4.2", "nginx-f8d9c6576@default", 16)],
)  # fmt: skip
def test_agents_from_1_3_7_on(plugin_bin: Path, generation: str, identifier: str, value_size: int) -> None:
    """Both forms of the pod identifier, both sizes of a conntrack value; packets and verdicts agree."""
    require_lab()
    require_tools("kubectl")
    with article.cluster(generation=generation) as lab:
        article.build(lab)
        user = User(lab, plugin_bin)
        assert reaches(lab, "accesstrue")
        assert not reaches(lab, "accessfalse")
        for pod, verdict in (("accesstrue", "ALLOW"), ("accessfalse", "DROP")):
            _, answer = ask(user, "pod/nginx", "--from", f"pod/{pod}", "--port", "80")
            assert (answer["verdict"], answer["kernel"]["podIdentifier"]) == (verdict, identifier)
        found = json.loads(user.run("maps", "pod/nginx", "--direction", "ingress", "-o", "json").stdout)
        table = next(m for m in found["directions"][0]["maps"] if m["name"] == "aws_conntrack_map")
        assert table["valueSize"] == value_size
        flows = [e for e in table["entries"] if e["source"] == article.TRUE_IP]
        assert [f["allowedUnder"] for f in flows] == ["POLICIES_APPLIED (cluster policies: DEFAULT_ALLOW)"]
        assert (flows[0]["lastSeenNs"] is not None) == (value_size == 16)


def test_a_signal_reaches_the_pods_of_both_nodes(user: User) -> None:
    other = "ip-172-31-97-21.ap-northeast-1.compute.internal"
    user.lab.add_node(other, "172.31.97.21")
    user.lab.server.controllers.scheduler = lambda pod, nodes: other
    user.lab.kubectl("run", "far", "--image=busybox", "--labels", "access=true", "--", "sleep", "infinity")
    user.lab.server.wait_running("far")
    user.lab.settle()
    slow = user.lab.server.faults.slow(15, "/exec$")
    process = user.start("explain", "pod/nginx", "--from", "pod/far", "--port", "80")
    deadline = time.monotonic() + 15
    while slow.hits < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 8
    while user.debug_pods():
        assert time.monotonic() < deadline, "the pods wait for their execs to end"
        time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
