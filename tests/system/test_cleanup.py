"""`cleanup` against the lab: what runs leave behind, listed and removed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from kubectl_netpol.node.debug_pod import MANAGED_BY, TOOL
from tests.lab.netns import wait_until
from tests.system.conftest import User


@pytest.fixture
def user(healthy_user: User) -> User:
    return healthy_user


@pytest.fixture(autouse=True)
def nothing_left(user: User) -> Iterator[None]:
    yield
    user.lab.server.faults.clear()
    user.run("cleanup", "--delete", "--all")
    assert user.debug_pods() == []


def listed(user: User, *flags: str) -> list[dict[str, Any]]:
    done = user.run("cleanup", "-o", "json", *flags)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return found


def killed_run(user: User, *flags: str) -> None:
    """A run whose client dies without a chance to delete its pod."""
    fault = user.lab.server.faults.slow(20, "/exec")
    process = user.start("maps", "pod/nginx", *flags)
    wait_until(lambda: fault.hits > 0, "exec", 30)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    user.lab.server.faults.clear()


def test_nothing_is_left(user: User) -> None:
    assert user.run("maps", "pod/nginx").returncode == 0
    done = user.run("cleanup")
    assert (done.returncode, done.stdout) == (0, "no debug pods in the cluster.\n")


def test_the_pod_of_a_killed_run_is_listed_and_removed_only_with_all(user: User) -> None:
    killed_run(user)
    (found,) = listed(user)
    assert found["state"] == "running" and found["startedBy"] and found["ends"] > found["created"]
    done = user.run("cleanup", "--delete")
    assert done.returncode == 0 and "0 of them not in use" in done.stdout
    assert len(user.debug_pods()) == 1
    done = user.run("cleanup", "--delete", "--all")
    assert done.returncode == 0 and "1 deleted, 0 left alone" in done.stdout
    assert user.debug_pods() == []


def test_an_ended_pod_is_removed(user: User) -> None:
    """Its deadline is over, and the object is still there."""
    killed_run(user, "--deadline", "30")
    wait_until(lambda: listed(user)[0]["state"] == "ended", "the deadline", 45)
    done = user.run("cleanup", "--delete", "-o", "json")
    assert [one["deleted"] for one in json.loads(done.stdout)["items"]] == [True]
    assert user.debug_pods() == []


def test_a_kept_pod_stays(user: User) -> None:
    assert user.run("maps", "pod/nginx", "--keep").returncode == 0
    assert [one["state"] for one in listed(user)] == ["kept"]
    assert user.run("cleanup", "--delete").returncode == 0
    assert len(user.debug_pods()) == 1


def test_a_pod_that_cannot_be_deleted_is_said_so(user: User) -> None:
    killed_run(user)
    user.lab.server.faults.http(403, "/pods/", verb="delete")
    done = user.run("cleanup", "--delete", "--all")
    assert done.returncode == 3
    assert "1 could not be deleted" in done.stdout and "could not be deleted: " in done.stderr


def test_who_may_not_list_everywhere_sees_the_debug_namespace(user: User) -> None:
    killed_run(user)
    user.lab.server.faults.http(403, "^/api/v1/pods", verb="list")
    done = user.run("cleanup")
    assert done.returncode == 0 and "1 debug pod in namespace kube-system" in done.stdout
    assert "note: not all namespaces may be listed" in done.stderr
    user.lab.server.faults.http(403, "/pods", verb="list")
    done = user.run("cleanup")
    assert (done.returncode, done.stdout) == (3, "")
    assert "error: cannot list pods in namespace kube-system" in done.stderr


def test_a_pod_that_only_has_the_label_is_never_deleted(user: User) -> None:
    server = user.lab.server
    (name,) = (
        p["metadata"]["name"] for p in server.list("Pod", "default") if p["metadata"]["name"].startswith("nginx")
    )
    uid = server.get("Pod", name)["metadata"]["uid"]
    server.change("Pod", name, lambda pod: pod["metadata"]["labels"].update({MANAGED_BY: TOOL}))
    try:
        done = user.run("cleanup", "--delete", "--all")
        assert done.returncode == 0 and "not ours" in done.stdout
        assert server.get("Pod", name)["metadata"]["uid"] == uid
    finally:
        server.change("Pod", name, lambda pod: pod["metadata"]["labels"].pop(MANAGED_BY))


@pytest.mark.parametrize("flags", [("--all",), ("-n", ""), ("--debug-namespace", "")])
def test_usage(user: User, flags: tuple[str, ...]) -> None:
    done = user.run("cleanup", *flags)
    assert done.returncode == 2 and done.stdout == ""


def test_interrupted(user: User) -> None:
    slow = user.lab.server.faults.slow(20, "/pods", verb="list")
    process = user.start("cleanup", "--delete", "--all")
    wait_until(lambda: slow.hits > 0, "the list", 30)
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=30)
    assert (process.returncode, said, err.splitlines()[-1]) == (130, "", "error: interrupted")
