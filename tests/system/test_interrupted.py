"""Every verb that reads a node, interrupted while its debug pod is there: code 130, one line, nothing left."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import world
from tests.lab.netns import wait_until
from tests.lab.require import require_lab, require_tools
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


@pytest.fixture(scope="module")
def user(plugin_bin: Path) -> Iterator[User]:
    require_lab()
    require_tools("kubectl")
    with world.healthy() as lab:
        yield User(lab, plugin_bin)


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
