"""Every verb that reads a node, interrupted while its debug pod is there: code 130, one line, nothing left."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.lab.netns import wait_until
from tests.system.conftest import User

VERBS = [
    ("explain", "pod/nginx"),
    ("check", "-A"),
    ("check", "pod/nginx", "--wait", "60s"),
    ("doctor",),
    ("drops", "pod/nginx"),
    ("maps", "pod/nginx"),
    ("conntrack", "pod/nginx"),
    ("capture", "pod/nginx", "-f", "{out}"),
]


@pytest.fixture
def user(healthy_user: User) -> User:
    return healthy_user


@pytest.mark.parametrize("verb", VERBS, ids=[" ".join(v[:3]) for v in VERBS])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(user: User, verb: tuple[str, ...], number: signal.Signals, tmp_path: Path) -> None:
    fault = user.lab.server.faults.slow(20, "/exec")
    before = len(user.lab.server.requests)
    out = tmp_path / "out.tar.gz"
    process = user.start(*(word.format(out=out) for word in verb))
    wait_until(lambda: any(r.verb == "exec" for r in user.lab.server.requests[before:]) or fault.hits > 0, "exec", 30)
    process.send_signal(number)
    said, err = process.communicate(timeout=30)
    user.lab.server.faults.clear()
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in err
    # Rows that come as nodes are read begin with their header.
    assert said == "" or (verb == ("check", "-A") and said.count("\n") == 1)
    assert user.debug_pods() == []
    assert not out.exists()


def test_a_pod_that_the_server_makes_after_the_interruption_is_removed(user: User) -> None:
    """The request was under way: what it leads to is looked for until it is there."""
    slow = user.lab.server.faults.slow(3, "/pods", verb="create", count=1)
    process = user.start("check", "-A")
    wait_until(lambda: slow.hits > 0, "the create request", 30)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=40)
    user.lab.server.faults.clear()
    assert process.returncode == 130
    assert "error: interrupted" in err
    assert user.debug_pods() == []


def test_a_delete_that_fails_once_is_tried_again(user: User) -> None:
    fault = user.lab.server.faults.http(500, "/pods/", verb="delete", count=1, message="leader changed")
    done = user.run("check", "-A")
    user.lab.server.faults.clear()
    assert (done.returncode, fault.hits) == (0, 1), done.stderr
    assert "could not be deleted" not in done.stderr
    assert user.debug_pods() == []


def test_a_delete_that_fails_is_told_with_the_command_that_does_it(user: User) -> None:
    user.lab.server.faults.http(500, "/pods/", verb="delete", message="leader changed")
    done = user.run("check", "-A")
    user.lab.server.faults.clear()
    assert done.returncode == 0
    [line] = [line for line in done.stderr.splitlines() if "could not be deleted" in line]
    command = line.split("`")[1]
    user.lab.kubectl(*command.split()[1:], "--grace-period=1")
    assert user.debug_pods() == []
