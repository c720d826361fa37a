"""Nodes, pods and containers as places for processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.lab import netns
from tests.lab.node import PYENV_39, Fabric, Node
from tests.lab.require import require_tools


@pytest.fixture
def node(fabric: Fabric) -> Node:
    return Node("node-a", "10.0.0.10", fabric)


def test_machine_is_not_touched(node: Node) -> None:
    script = (
        "touch /opt/cni/bin/x /var/run/aws-node/x /var/log/aws-routed-eni/x && "
        "mkdir /sys/fs/bpf/x && cat /proc/sys/kernel/hostname"
    )
    out = node.run(["sh", "-c", script], check=True)
    assert out.stdout == "node-a\n"
    for path in ("/opt/cni/bin/x", "/var/run/aws-node/x", "/var/log/aws-routed-eni/x", "/sys/fs/bpf/x"):
        assert subprocess.run(["test", "-e", path]).returncode == 1
        assert node.run(["test", "-e", path]).returncode == 0


def test_processes(node: Node) -> None:
    assert node.run(["sh", "-c", "cat; exit 3"], input="abc").stdout == "abc"
    assert node.run(["sh", "-c", "exit 3"]).returncode == 3
    with pytest.raises(subprocess.TimeoutExpired):
        node.run(["sleep", "60"], timeout=0.2)
    with pytest.raises(netns.LabError, match="status 1"):
        node.run(["false"], check=True)
    sleeper = node.popen(["sleep", "60"])
    while not sleeper.inner_pids():
        time.sleep(0.001)
    (inner,) = sleeper.inner_pids()
    sleeper.terminate()
    assert sleeper.wait(5) == -15
    assert not Path(f"/proc/{inner}").exists()


def test_pod_is_a_place_of_its_own(node: Node) -> None:
    pod = node.add_pod("shop", "web-1", "10.0.1.1", hosts={"api": "172.20.0.1"})
    seen = node.run(["sh", "-c", "cat /proc/1/cmdline | wc -c; cat /etc/hosts; hostname"], pod, check=True).stdout
    assert "172.20.0.1 api\n" in seen
    assert seen.endswith("web-1\n")
    pod.set_hosts({"other": "10.9.9.9"})
    seen = node.run(["cat", "/etc/hosts"], pod).stdout
    assert "10.9.9.9 other" in seen
    assert "api" not in seen
    assert node.run(["ls", "/sys/fs/bpf"], pod).stdout == ""
    route = node.run(["ip", "route", "show", "10.0.1.1"]).stdout
    assert route.strip() == f"10.0.1.1 dev {pod.veth} scope link"


def test_veth_name_is_the_cnis(node: Node) -> None:
    # echo -n shop.web-1 | sha1sum
    digest = subprocess.run(["sha1sum"], input=b"shop.web-1", capture_output=True).stdout.decode()
    assert node.add_pod("shop", "web-1", "10.0.1.1").veth == "eni" + digest[:11]


def test_removed_pod_is_gone(node: Node) -> None:
    pod = node.add_pod("shop", "web-1", "10.0.1.1")
    sleeper = node.popen(["sleep", "60"], pod)
    node.remove_pod("shop", "web-1")
    assert sleeper.wait(5) == -9
    assert str(pod.veth) not in node.run(["ip", "-br", "link"]).stdout
    assert node.run(["ip", "route", "show", "10.0.1.1"]).stdout == ""
    node.add_pod("shop", "web-1", "10.0.1.1")


# containers ----------------------------------------


def test_container_sees_bpffs_only_through_mounts(node: Node) -> None:
    node.run(["mkdir", "/sys/fs/bpf/mark"], check=True)
    with node.add_container(mounts=[("/", "/host", False), ("/sys/fs/bpf", "/pins", True)]) as box:
        listed = node.run(["ls", "/sys/fs/bpf"], box, check=True).stdout
        assert "mark" not in listed
        for path in ("/host/sys/fs/bpf", "/pins"):
            assert "mark" in node.run(["ls", path], box, check=True).stdout
        assert node.run(["touch", "/usr/x"], box).returncode != 0
        assert node.run(["sh", "-c", "echo x > /tmp/x && cat /tmp/x"], box).stdout == "x\n"
        assert "lo" in node.run(["chroot", "/host", "ip", "link"], box, check=True).stdout
        # a pin made on the node later is seen
        node.run(["mkdir", "/sys/fs/bpf/later"], check=True)
        assert "later" in node.run(["ls", "/host/sys/fs/bpf"], box).stdout
        # the new root is not inside the node's root that it shows
        assert "netpol-lab/root/" not in node.run(["cat", "/proc/self/mountinfo"], box).stdout


@pytest.mark.parametrize("host_pid", [True, False])
@pytest.mark.parametrize("host_network", [True, False])
def test_container_namespaces(node: Node, host_pid: bool, host_network: bool) -> None:
    with node.add_container(host_pid=host_pid, host_network=host_network) as box:
        first = node.run(["cat", "/proc/1/cmdline"], box).stdout
        assert ("holder.py" in first) == host_pid
        assert ("sleep" in first) == (not host_pid)
        assert ("eth0" in node.run(["ls", "/sys/class/net"], box).stdout) == host_network
        assert node.run(["sh", "-c", "echo $HOSTNAME; hostname"], box).stdout == "debug\ndebug\n"


@pytest.mark.parametrize("host_pid", [True, False])
def test_container_ends_with_its_main_process(node: Node, host_pid: bool) -> None:
    mark = "987654"
    script = f"(sleep {mark} & setsid sleep {mark} & echo started); echo err >&2; read line; exit 7"
    reader, writer = os.pipe()
    with node.add_container(["sh", "-c", script], host_pid=host_pid, stdin=reader) as box:
        os.close(reader)
        execd = node.popen(["sh", "-c", f"sleep {mark} & wait"], box)
        escaped = node.popen(["sleep", mark], box)
        assert box.poll() is None
        netns.wait_until(lambda: _count(node, mark) == 4, "four sleepers")
        os.write(writer, b"go\n")
        os.close(writer)
        assert box.wait(5) == 7
        assert box.poll() == 7
        assert sorted(box.logs().split()) == ["err", "started"]
        assert execd.wait(5) == -9
        assert escaped.wait(5) == -9
        assert _count(node, mark) == 0


@pytest.mark.parametrize("host_pid", [True, False])
def test_closing_a_container_kills_all(node: Node, host_pid: bool) -> None:
    mark = "876543"
    box = node.add_container(["sh", "-c", f"sleep {mark} & sleep {mark}; true"], host_pid=host_pid)
    sleeper = node.popen(["sleep", mark], box)
    netns.wait_until(lambda: _count(node, mark) == 3, "three sleepers")
    box.close()
    assert _count(node, mark) == 0
    assert sleeper.wait(5) == -9
    assert box.exit_code == -9


def _count(node: Node, mark: str) -> int:
    """Processes on the node, containers included, that are a `sleep <mark>`."""
    found = 0
    for path in (node.root / "proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += path.read_bytes() == f"sleep\0{mark}\0".encode()
    return found


def test_container_that_cannot_start(node: Node) -> None:
    with node.add_container(["/no/such/program"]) as box:
        assert box.wait(5) == 127
        assert "no/such/program" in box.logs()
    with pytest.raises(netns.LabError, match="No such file"):
        node.add_container(mounts=[("/no/such/path", "/x", False)])


def test_images(node: Node) -> None:
    with node.add_container() as box:
        assert node.run(["python3", "-c", "import ctypes; print('ok')"], box, check=True).stdout == "ok\n"
    if PYENV_39.is_dir():
        with node.add_container(rootfs="python3.9") as box:
            assert node.run(["python3", "-V"], box, check=True).stdout.startswith("Python 3.9.")
    require_tools("busybox")
    with node.add_container(rootfs="busybox", host_pid=False) as box:
        assert node.run(["sh", "-c", "sleep 0; ls / >/dev/null; cat /dev/null"], box).returncode == 0
        assert node.run(["sh", "-c", "ls /usr/bin /bin | grep -c python"], box).stdout == "0\n"
        assert node.run(["python3"], box).returncode == 127


def test_start_up_is_quick(fabric: Fabric) -> None:
    """Not a benchmark: a bound with a wide margin, against seconds creeping in."""
    begin = time.monotonic()
    node = Node("node-b", "10.0.0.12", fabric)
    node.add_pod("shop", "web-1", "10.0.1.1")
    node.close()
    assert time.monotonic() - begin < 5
