"""The debug pod against the lab: nothing is left behind, and every refusal is one clear line."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from kubectl_netpol.diagnose.plan import KINDS
from kubectl_netpol.node import debug_pod
from tests.lab.apiserver import Rule, make_node
from tests.lab.article import NODE
from tests.system.conftest import User

FLOW = ("explain", "pod/nginx", "--from", "pod/accesstrue", "--port", "80")


def wait_for(what: Callable[[], Any], timeout: float = 15.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


def on_the_node(user: User) -> list[str]:
    """Command lines of the debug pods' processes, as the node's own process table shows them."""
    text = user.lab.nodes[NODE].run(["ps", "-eo", "args"], check=True).stdout
    return [line for line in text.splitlines() if re.match(r"(\S*/)?sleep \d{2,3}$", line) or "reader.py" in line]


def only_error(done: subprocess.CompletedProcess[str]) -> str:
    """The single `error:` line; there is no traceback and nothing on stdout."""
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def test_success_leaves_nothing(user: User) -> None:
    assert user.run(*FLOW).returncode == 0
    assert user.debug_pods() == []
    assert on_the_node(user) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", ["starting", "reading"])
def test_a_signal_leaves_nothing(user: User, number: signal.Signals, phase: str) -> None:
    if phase == "starting":
        user.lab.server.faults.pod_stuck("netpol-ebpf-")
    slow = user.lab.server.faults.slow(20, "/exec$")
    process = user.start("maps", "pod/nginx")
    wait_for(user.debug_pods)
    if phase == "reading":
        wait_for(lambda: slow.hits)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "error: interrupted"
    wait_for(lambda: user.debug_pods() == [])
    wait_for(lambda: on_the_node(user) == [])


def test_sigkill_leaves_nothing_after_the_deadline(user: User) -> None:
    """The server ends the pod: no process of it stays on the node. The next run removes the ended object."""
    fault = user.lab.server.faults.slow(60, "/exec$", count=1)
    process = user.start("maps", "pod/nginx", "--deadline", "30")
    name = wait_for(user.debug_pods)[0]
    wait_for(lambda: fault.hits)  # in the middle of the exec
    process.kill()
    process.communicate()
    assert on_the_node(user) != []
    ended = user.lab.server.wait("Pod", name, lambda pod: pod["status"]["phase"] == "Failed", "kube-system", 40)
    assert ended["status"]["reason"] == "DeadlineExceeded"
    wait_for(lambda: on_the_node(user) == [])
    assert user.run("maps", "pod/nginx").returncode == 0
    assert user.debug_pods() == []


def test_keep_is_reused_and_ends_by_its_deadline(user: User) -> None:
    assert user.run("maps", "pod/nginx", "--keep").returncode == 0
    kept = user.debug_pods()
    assert len(kept) == 1
    before = len(user.lab.server.requests)
    assert user.run("maps", "pod/nginx", "--keep").returncode == 0
    assert user.run("maps", "pod/nginx").returncode == 0
    verbs = [request.verb for request in user.lab.server.requests[before:]]
    assert "create" not in verbs
    assert "delete" not in verbs
    assert user.debug_pods() == kept
    assert user.lab.server.get("Pod", kept[0], "kube-system")["spec"]["activeDeadlineSeconds"] == 300


def test_two_at_once_have_a_pod_each(user: User) -> None:
    processes = [user.start(*FLOW) for _ in range(2)]
    assert [p.wait(timeout=60) for p in processes] == [0, 0]
    for process in processes:
        process.communicate()
    assert user.debug_pods() == []


def test_our_pod_is_kubectls_but_for_the_listed_differences(user: User) -> None:
    """Both are posted at the same server; what differs is exactly what the code lists."""
    command = ("debug", f"node/{NODE}", f"--image={debug_pod.IMAGE}", "--profile=sysadmin", "-n", "kube-system")
    user.lab.kubectl(*command, "--", "sleep", "360")
    assert user.run("maps", "pod/nginx").returncode == 0
    posts = [r.body for r in user.lab.server.requests if r.verb == "create" and r.path.endswith("/kube-system/pods")]
    theirs = next(p for p in reversed(posts) if p["metadata"].get("name", "").startswith("node-debugger-"))
    ours = next(p for p in reversed(posts) if p["metadata"].get("generateName", "").startswith("netpol-ebpf-"))
    listed = {difference.path for difference in debug_pod.WANTED_DIFFERENCES}
    differing = {path for path in differences(theirs, ours, "") if path not in ("metadata.namespace",)}
    assert {path for path in differing if not any(path.startswith(wanted) for wanted in listed)} == set()
    for name in [p["metadata"]["name"] for p in user.lab.server.list("Pod", "kube-system")]:
        user.lab.server.delete("Pod", name, "kube-system", grace_seconds=0)


def differences(left: Any, right: Any, path: str) -> set[str]:
    """Paths of all fields that are not equal; empty values count as absent, as the API server treats them."""
    if isinstance(left, dict) or isinstance(right, dict):
        keys = set(left or {}) | set(right or {})
        return {
            found
            for key in keys
            for found in differences((left or {}).get(key), (right or {}).get(key), f"{path}.{key}".lstrip("."))
        }
    if isinstance(left, list) and isinstance(right, list):
        longest = max(len(left), len(right))
        pad = [*left, *[None] * (longest - len(left))], [*right, *[None] * (longest - len(right))]
        return {f for i, (a, b) in enumerate(zip(*pad, strict=True)) for f in differences(a, b, f"{path}[{i}]")}
    empty = (None, "", {}, [])
    return set() if left == right or (left in empty and right in empty) else {path}


@pytest.fixture
def far_pod(user: User) -> Callable[..., None]:
    """Puts pod `far` on a node of a kind that the test names."""

    def put(name: str, **kind: Any) -> None:
        if kind:
            user.lab.server.add_node(make_node(name, "172.31.99.9", **kind))
        user.lab.server.put(
            {
                "kind": "Pod",
                "apiVersion": "v1",
                "metadata": {"name": "far", "namespace": "default", "labels": {"app": "far"}},
                "spec": {"nodeName": name, "containers": [{"name": "c", "image": "i"}]},
                "status": {"phase": "Running", "podIP": "172.31.99.10", "hostIP": "172.31.99.9"},
            }
        )

    return put


@pytest.mark.parametrize(
    ("node", "kind", "said"),
    [
        ("gone.internal", {}, 'node "gone.internal" not found'),
        ("dead.internal", {"ready": False}, 'node "dead.internal" is NotReady since '),
        ("win.internal", {"os": "windows"}, 'node "win.internal" runs Windows'),
        ("far.internal", {"compute_type": "fargate"}, 'node "far.internal" is a Fargate node'),
    ],
)
def test_nodes_that_cannot_be_read(
    user: User, far_pod: Callable[..., None], node: str, kind: dict[str, Any], said: str
) -> None:
    far_pod(node, **kind)
    done = user.run("maps", "far")
    assert done.returncode == 3
    assert said in only_error(done)
    assert user.debug_pods() == []


def test_image_that_cannot_be_pulled(user: User) -> None:
    user.lab.server.faults.image_pull("netpol-ebpf-", message="not found: no such repository")
    done = user.run("maps", "pod/nginx", "--image", "registry.example/none:1")
    assert done.returncode == 3
    line = only_error(done)
    assert "registry.example/none:1" in line
    assert "no such repository" in line
    assert "--image" in done.stderr
    assert user.debug_pods() == []


def test_image_without_python_names_the_ways_out(user: User) -> None:
    done = user.run("maps", "pod/nginx", "--image", "busybox")
    assert done.returncode == 3
    assert "has no python3" in only_error(done)
    assert "--image" in done.stderr
    assert "aws-eks-na-cli" in done.stderr
    assert user.debug_pods() == []


def test_a_pod_that_does_not_start(user: User) -> None:
    user.lab.server.faults.pod_stuck("netpol-ebpf-")
    done = user.run("maps", "pod/nginx", "--start-timeout", "1")
    assert done.returncode == 3
    assert "did not start within 1 s" in only_error(done)
    assert user.debug_pods() == []


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_podsecurity_refuses(user: User, level: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": level}
    user.lab.server.put({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "tight", "labels": labels}})
    done = user.run("maps", "pod/nginx", "--debug-namespace", "tight")
    assert done.returncode == 3
    assert f'namespace "tight" enforces the PodSecurity level "{level}"' in only_error(done)
    assert "--debug-namespace" in done.stderr


def test_quota_refuses(user: User) -> None:
    user.lab.server.put({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "full"}})
    quota = {"kind": "ResourceQuota", "apiVersion": "v1", "metadata": {"name": "none", "namespace": "full"}}
    user.lab.server.put({**quota, "spec": {"hard": {"pods": "0"}}})
    done = user.run("maps", "pod/nginx", "--debug-namespace", "full")
    assert done.returncode == 3
    assert 'the quota of namespace "full" is used up' in only_error(done)


def test_debug_namespace_that_is_not_there(user: User) -> None:
    done = user.run("maps", "pod/nginx", "--debug-namespace", "nowhere")
    assert done.returncode == 3
    assert 'namespace "nowhere" not found' in only_error(done)


READ = Rule(("list", "get"), KINDS)


@pytest.mark.parametrize(
    ("name", "rules", "right"),
    [
        ("reader", [READ], "create pods"),
        ("maker", [READ, Rule(("create", "delete", "watch"), ("pods",))], "pods/exec"),
    ],
)
def test_missing_rights_are_named(user: User, name: str, rules: list[Rule], right: str) -> None:
    user.lab.server.add_user(name, rules)
    done = user.run("maps", "pod/nginx", "--as", name)
    assert done.returncode == 3
    assert right in only_error(done)
    assert user.debug_pods() == []


def test_explain_without_node_rights_answers_from_the_api(user: User) -> None:
    user.lab.server.add_user("looker", [READ])
    done = user.run(*FLOW, "--as", "looker")
    assert done.returncode == 3
    assert done.stdout.startswith("UNKNOWN: ")
    assert re.search(r"INTENT +ALLOW", done.stdout)
    assert re.search(r"ENDPOINTS +ALLOW", done.stdout)
    assert re.search(r"ATTACHED +UNKNOWN", done.stdout)
    assert "warning: node " in done.stderr


def test_evicted_while_reading(user: User) -> None:
    user.lab.server.faults.slow(1.5, "/exec$", count=1)
    user.lab.server.faults.evict("netpol-ebpf-", after_seconds=0.3)
    done = user.run("maps", "pod/nginx")
    assert done.returncode == 3
    assert re.search("(?i)evicted", only_error(done))
    wait_for(lambda: user.debug_pods() == [])


def test_exec_stream_that_is_cut(user: User) -> None:
    user.lab.server.faults.exec_cut(700, count=1)
    done = user.run("maps", "pod/nginx")
    assert done.returncode == 3
    assert "cut" in only_error(done)
    assert user.debug_pods() == []


def test_sigterm_before_any_pod_is_made(user: User) -> None:
    slow = user.lab.server.faults.slow(20, "/services$")
    process = user.start("maps", "pod/nginx")
    wait_for(lambda: slow.hits)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == "error: interrupted"
    assert user.debug_pods() == []


def test_a_pod_that_cannot_be_deleted_is_told(user: User) -> None:
    user.lab.server.faults.http(403, "/pods/netpol-ebpf", verb="delete", message="no deletes today")
    done = user.run("maps", "pod/nginx")
    assert done.returncode == 0
    assert user.debug_pods() != []
    told = done.stderr.splitlines()[-1]
    assert f"delete pod -n kube-system {user.debug_pods()[0]}`" in told
    assert "the server ends it by " in told
