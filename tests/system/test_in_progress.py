"""A second look through the real kubectl: what is late is in progress, what never comes is a fault as before."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults import world
from tests.lab.article import NGINX, NODE
from tests.lab.breakage import HOOKS
from tests.lab.cluster import ContainerPod
from tests.lab.netns import wait_until
from tests.lab.require import require_lab, require_tools
from tests.system.conftest import User

Json = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(plugin_bin: Path) -> Iterator[User]:
    require_lab()
    require_tools("kubectl", "tc")
    with world.healthy() as lab:
        yield User(lab, plugin_bin)
        assert not lab.server.errors


@pytest.fixture
def user(cluster: User) -> Iterator[User]:
    yield cluster
    lab = cluster.lab
    lab.server.faults.clear()
    lab.controller_enabled = True
    lab.agents[NODE].faults.clear()
    lab.kubectl("label", "pod", "accessfalse", "access=false", "--overwrite")
    lab.reconcile()
    lab.settle()
    assert cluster.debug_pods() == []


def let_in(user: User) -> None:
    """accessfalse gets the label that nginx lets in: the controller and the agent have something to do."""
    user.lab.kubectl("label", "pod", "accessfalse", "access=true", "--overwrite")
    user.lab.settle()


def late_agent(user: User) -> Callable[[], None]:
    """The agent has not written what the controller resolved; what is returned lets it."""
    agent = user.lab.agents[NODE]
    agent.faults.add("skip_map_update")
    let_in(user)

    def comes() -> None:
        agent.faults.clear()
        user.lab.sync_agents()

    return comes


def late_controller(user: User) -> Callable[[], None]:
    user.lab.controller_enabled = False
    let_in(user)

    def comes() -> None:
        user.lab.controller_enabled = True
        user.lab.reconcile()

    return comes


@contextmanager
def after_the_first_reading(comes: Callable[[], None] = lambda: None) -> Iterator[threading.Event]:
    """What is late comes once a node was read, as it does on a cluster that is at work. The event is set then."""
    plain, sessions = ContainerPod.exec, list[Any]()
    failed: list[BaseException] = []
    done = threading.Event()

    def recorded(pod: ContainerPod, argv: list[str], **more: Any) -> Any:
        session = plain(pod, argv, **more)
        sessions.append(session)
        return session

    def wait() -> None:
        try:
            wait_until(lambda: bool(sessions) and sessions[0].poll() is not None, "a reading", 90)
            comes()
        except BaseException as error:
            failed.append(error)
        done.set()

    thread = threading.Thread(target=wait)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ContainerPod, "exec", recorded)
        thread.start()
        try:
            yield done
        finally:
            thread.join()
    assert not failed, failed


def counted(user: User, before: int) -> tuple[int, int]:
    """(debug pods that were made, execs in them) since then."""
    made = [r for r in user.lab.server.requests[before:] if r.verb == "create" and r.resource == "pods"]
    return len(made), sum(r.verb == "exec" for r in user.lab.server.requests[before:])


LATE = {"agent": late_agent, "controller": late_controller}
QUESTIONS: dict[str, tuple[str, ...]] = {
    "check -A": ("check", "-A"),
    "check POD": ("check", "pod/nginx"),
    "explain POD": ("explain", "pod/nginx"),
    "explain FLOW": ("explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80"),
}


@pytest.mark.parametrize(
    ("who", "question"),
    [("agent", "check -A"), ("controller", "check POD"), ("controller", "explain POD"), ("agent", "explain FLOW")],
)
def test_what_comes_late_is_in_progress(user: User, who: str, question: str) -> None:
    comes = LATE[who](user)
    before = len(user.lab.server.requests)
    with after_the_first_reading(comes):
        done = user.run(*QUESTIONS[question], "-o", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert [one for one in answer["findings"] if one["severity"] == "error"] == []
    assert answer["inProgress"], answer
    assert all(1.0 < one["secondsApart"] < 30 for one in answer["inProgress"])
    wanted = {"agent": {"NPE301"}, "controller": {"NPE202"}}[who]
    assert wanted <= {one["code"] for one in answer["inProgress"]}
    # Twice through one pod.
    assert counted(user, before) == (1, 2)
    if question == "explain FLOW":
        assert answer["verdict"] == "ALLOW"
    elif question == "explain POD":
        assert answer["layersAgree"] is True


@pytest.mark.parametrize("question", ["check -A", "explain FLOW"])
def test_what_never_comes_is_a_fault(user: User, question: str) -> None:
    late_agent(user)
    before = len(user.lab.server.requests)
    done = user.run(*QUESTIONS[question], "-o", "json")
    assert done.returncode == 1, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert "NPE301" in {one["code"] for one in answer["findings"]}
    assert answer["inProgress"] == []
    assert counted(user, before) == (1, 2)


def test_the_words(user: User) -> None:
    with after_the_first_reading(late_agent(user)):
        done = user.run("check", "-A", "-o", "wide")
    lines = done.stdout.splitlines()
    assert lines[-1] == "3 pods on 1 node: no findings; 1 in progress."
    [told] = [line for line in lines if line.startswith("  in progress: NPE301 ")]
    assert NGINX in told and " s later" in told
    [read] = [line for line in lines if line.startswith(f"node {NODE} was read in ")]
    assert " s after the API was asked" in read


def test_nothing_is_looked_at_twice_where_all_agrees(user: User) -> None:
    for question in (QUESTIONS["check -A"], QUESTIONS["explain FLOW"]):
        before = len(user.lab.server.requests)
        assert user.run(*question).returncode == (1 if "--from" in question else 0)
        assert counted(user, before) == (1, 1)


def test_maps_names_only_what_stays(user: User) -> None:
    """A program that the agent replaces: for a moment the filter runs another one than the pin says."""
    lab, agent = user.lab, user.lab.agents[NODE]
    agent.reload_filter("default", NGINX, "ingress")
    stays = json.loads(user.run("maps", "pod/nginx", "-o", "json").stdout)
    assert "OTHER_PROGRAM" in {one["code"] for d in stays["directions"] for one in d["differences"]}
    assert stays["inProgress"] == []

    def repaired() -> None:
        index = agent._host_index("default", NGINX, 0)
        with agent.open_pin(agent.program_pin(agent.identifier("default", NGINX), "ingress")) as program:
            lab.nodes[NODE]._netlink.delete_filter(index, HOOKS["ingress"])
            lab.nodes[NODE]._netlink.add_bpf_filter(index, HOOKS["ingress"], program, "handle_ingress")

    with after_the_first_reading(repaired):
        done = user.run("maps", "pod/nginx", "-o", "json")
    moved = json.loads(done.stdout)
    assert [one for d in moved["directions"] for one in d["differences"]] == []
    assert any("program" in one["what"] for one in moved["inProgress"]), moved["inProgress"]


def test_a_second_look_that_fails_leaves_the_first_answer(user: User) -> None:
    """The debug pod is gone, and no other one can be started: what was seen is told, with what went wrong."""
    late_agent(user)
    requests, before = user.lab.server.requests, len(user.lab.server.requests)

    def refuse() -> None:
        user.lab.server.faults.http(403, "/pods", verb="create", message="no more pods")
        for pod in user.lab.server.list("Pod", labels="app.kubernetes.io/managed-by=kubectl-netpol-ebpf"):
            user.lab.server.delete("Pod", pod["metadata"]["name"], "kube-system", grace_seconds=0)

    with after_the_first_reading(refuse):
        done = user.run("explain", "pod/nginx")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "warning: a further look does not count: node" in done.stderr
    assert "NPE301" in done.stdout
    assert any(r.verb == "exec" for r in requests[before:])


@pytest.mark.parametrize(("number", "question"), [("SIGINT", "check -A"), ("SIGTERM", "explain POD")])
def test_interrupted_between_two_looks(user: User, number: str, question: str) -> None:
    """In the pause the debug pod is idle, and it is removed all the same."""
    late_agent(user)
    with after_the_first_reading() as read:
        process = user.start(*QUESTIONS[question])
        assert read.wait(90)
        # The answer has to arrive and to be judged; then the pause is longer than this.
        threading.Event().wait(0.8)
        process.send_signal(getattr(signal, number))
        _, err = process.communicate(timeout=40)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "error: interrupted" and "Traceback" not in err
    assert user.debug_pods() == []


# ---- several nodes; last, since the cluster has two of them from here on


SECOND = "ip-172-31-103-130.ap-northeast-1.compute.internal"


@pytest.fixture
def two_nodes(user: User) -> Iterator[User]:
    lab = user.lab
    if SECOND not in lab.nodes:
        lab.add_node(SECOND, "172.31.103.130")
        lab.server.controllers.name_hook = None
        place = json.dumps({"spec": {"nodeName": SECOND}})
        lab.kubectl("run", "web-2", "--image=nginx", "--labels", "app=nginx", "--overrides", place)
        lab.server.wait_running("web-2")
        lab.settle()
    yield user
    lab.agents[SECOND].faults.clear()


def late_agents(user: User) -> Callable[[], None]:
    user.lab.agents[SECOND].faults.add("skip_map_update")
    comes = late_agent(user)

    def come() -> None:
        user.lab.agents[SECOND].faults.clear()
        comes()

    return come


@pytest.mark.parametrize("parallel", ["1", "4"])
def test_each_node_is_looked_at_twice_through_its_own_pod(two_nodes: User, parallel: str) -> None:
    late_agents(two_nodes)
    before = len(two_nodes.lab.server.requests)
    done = two_nodes.run("check", "-A", "--parallel", parallel, "-o", "json")
    assert done.returncode == 1, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert {row["node"] for row in answer["pods"] if "NPE301" in row["findings"]} == {NODE, SECOND}
    assert counted(two_nodes, before) == (2, 4)


def test_several_held_pods_are_removed_when_it_is_interrupted(two_nodes: User) -> None:
    late_agents(two_nodes)
    before = len(two_nodes.lab.server.requests)
    process = two_nodes.start("check", "-A")
    wait_until(lambda: counted(two_nodes, before)[1] >= 2, "both readings", 90)
    threading.Event().wait(1.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=40)
    assert process.returncode == 130 and err.splitlines()[-1] == "error: interrupted", err
    assert "could not be deleted" not in err and "Traceback" not in err
    assert two_nodes.debug_pods() == []


def test_a_kept_pod_stays_and_is_used_for_both_looks(user: User) -> None:
    late_agent(user)
    for made in (1, 0):
        before = len(user.lab.server.requests)
        assert user.run("explain", "pod/nginx", "--keep").returncode == 1
        assert counted(user, before) == (made, 2)
    [kept] = user.debug_pods()
    user.lab.server.delete("Pod", kept, "kube-system", grace_seconds=0)


@pytest.mark.parametrize("who", ["agent", "controller"])
def test_a_capture_carries_what_was_in_progress(user: User, who: str, tmp_path: Path) -> None:
    comes = late_agent(user) if who == "agent" else late_controller(user)
    out = tmp_path / "b.tar.gz"
    with after_the_first_reading(comes):
        done = user.run("capture", "pod/nginx", "-f", str(out))
    assert done.returncode == 0, done.stderr
    assert "in progress: NPE" in done.stderr and "0 findings" in done.stderr
    checked = user.run("check", "pod/nginx", "--bundle", str(out), "-o", "json", KUBECONFIG="/nonexistent")
    assert (checked.returncode, json.loads(checked.stdout)["findings"]) == (0, [])
    explained = user.run("explain", "pod/nginx", "--bundle", str(out), KUBECONFIG="/nonexistent")
    assert explained.returncode == 0 and "in progress" in explained.stdout
    live = user.run("explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80")
    again = user.run("explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80", "--bundle", str(out))
    assert live.returncode == again.returncode == 0


def test_a_capture_of_a_fault_has_the_fault(user: User, tmp_path: Path) -> None:
    late_agent(user)
    out = tmp_path / "b.tar.gz"
    done = user.run("capture", "pod/nginx", "--redact", "-f", str(out))
    assert done.returncode == 0 and "1 finding" in done.stderr, done.stderr
    assert "in progress" not in done.stderr
    found = json.loads(user.run("check", "-A", "--bundle", str(out), "-o", "json").stdout)
    assert [one["code"] for one in found["findings"] if one["severity"] == "error"] == ["NPE301"]
