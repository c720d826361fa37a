"""Whatever ends the process that made a lab, nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.lab import bpfsys, netns
from tests.lab.agent import Agent
from tests.lab.node import Fabric, Node
from tests.lab.require import require_lab

from .helpers import allow, connects, endpoint, selected, tcp_server

MAKER = textwrap.dedent(
    """
    import sys, time
    from tests.lab.agent import Agent
    from tests.lab.node import Fabric, Node

    fabric = Fabric()
    node = Node("node-a", "10.0.0.10", fabric)
    agent = Agent(node, "1.4.1", conntrack_size=1024)
    pod = node.add_pod("shop", "web-1", "10.0.1.1")
    agent.pod_added("shop", "web-1")
    box = node.add_container()
    for sandbox in (None, pod, box):
        node.popen(["sleep", "543210"], sandbox)
    handle = agent.handles("shop", "web-1")["ingress"]
    namespaces = [
        __import__("os").readlink(f"/proc/{p}/ns/{kind}")
        for p in (fabric.pid, node.pid, pod.pid, box.pid)
        for kind in ("net", "mnt", "pid")
    ]
    print(handle.program_id, ",".join(map(str, handle.map_ids.values())), fabric.pid, ",".join(namespaces))
    sys.stdout.flush()
    ending = sys.argv[1]
    if ending == "hang":
        time.sleep(60)
    elif ending == "raise":
        raise SystemExit(1)
    elif ending == "thread":
        # The thread that made something ends, the process goes on: the lab must stay.
        import threading
        made = []
        thread = threading.Thread(target=lambda: made.append(Node("node-b", "10.0.0.11", fabric)))
        thread.start()
        thread.join()
        assert made[0].run(["true"]).returncode == 0
        made[0].add_pod("shop", "web-2", "10.0.1.2")
    """
)


def _all_namespaces() -> set[str]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        for kind in ("net", "mnt", "pid"):
            try:
                found.add(str((process / "ns" / kind).readlink()))
            except OSError:
                continue
    return found


def _links() -> str:
    return Path("/proc/net/dev").read_text()


def _dead(opener: object, id_: int) -> bool:
    fd = opener(id_)  # type: ignore[operator]
    if fd is None:
        return True
    os.close(fd)
    return False


@pytest.mark.parametrize("ending", ["hang", "raise", "thread"])
def test_nothing_stays(ending: str) -> None:
    require_lab()
    mounts = Path("/proc/self/mountinfo").read_text()
    names = {line.split(":")[0] for line in _links().splitlines()}
    maker = subprocess.Popen([sys.executable, "-c", MAKER, ending], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    line = maker.stdout.readline().split()
    assert line, "the lab was made"
    program, maps, namespaces = int(line[0]), [int(i) for i in line[1].split(",")], line[3].split(",")
    if ending == "hang":
        assert set(namespaces) <= _all_namespaces()
        maker.send_signal(signal.SIGKILL)
    code = maker.wait(30)
    maker.stdout.close()
    assert code == {"hang": -9, "raise": 1, "thread": 0}[ending]
    netns.wait_until(lambda: not set(namespaces) & _all_namespaces(), "no process in the lab's namespaces")
    netns.wait_until(lambda: _dead(bpfsys.prog_fd_by_id, program), "program gone")
    netns.wait_until(lambda: all(_dead(bpfsys.map_fd_by_id, i) for i in maps), "maps gone")
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert {line.split(":")[0] for line in _links().splitlines()} == names


def test_close_waits_for_the_end(fabric: Fabric) -> None:
    node = Node("node-a", "10.0.0.10", fabric)
    agent = Agent(node, "1.4.1")
    node.add_pod("shop", "web-1", "10.0.1.1")
    agent.pod_added("shop", "web-1")
    sleeper = node.popen(["sleep", "60"])
    netns.wait_until(lambda: bool(sleeper.inner_pids()), "the process is in the node")
    handle = agent.handles("shop", "web-1")["egress"]
    pid = node.pid
    node.close()
    assert not Path(f"/proc/{pid}").exists()
    assert _dead(bpfsys.prog_fd_by_id, handle.program_id)
    assert all(_dead(bpfsys.map_fd_by_id, i) for i in handle.map_ids.values())
    assert sleeper.wait(5) == -9
    node.close()


def test_two_labs_with_the_same_addresses() -> None:
    require_lab()
    with Fabric() as one, Fabric() as two:
        labs = []
        for fabric in (one, two):
            node = Node("node-a", "10.0.0.10", fabric)
            agent = Agent(node, "1.4.1")
            for name, ip in (("web-1", "10.0.1.1"), ("client-1", "10.0.1.2")):
                node.add_pod("shop", name, ip)
                agent.pod_added("shop", name)
            labs.append((node, agent))
        labs[0][1].sync([endpoint("closed", selected(labs[0][0], "shop", "web-1"), [allow("10.9.9.9")])])
        for (node, _), expected in zip(labs, ("silent", "open"), strict=True):
            with tcp_server(node.pods["shop", "web-1"], "10.0.1.1", 80):
                assert connects(node.pods["shop", "client-1"], "10.0.1.1", 80) == expected
        one.close()
        with tcp_server(labs[1][0].pods["shop", "web-1"], "10.0.1.1", 80):
            assert connects(labs[1][0].pods["shop", "client-1"], "10.0.1.1", 80) == "open"
