"""Containers that are not privileged: the kernel holds them to their securityContext, exec'ed processes too."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.node import Container, Fabric, Node
from tests.lab.security import CAPABILITIES, DEFAULT, capabilities, confinement

Json = dict[str, Any]
Start = Callable[..., Container]


@pytest.fixture
def node(fabric: Fabric) -> Node:
    return Node("node-a", "10.0.0.10", fabric)


@pytest.fixture
def start(node: Node) -> Iterator[Start]:
    def made(context: Json, argv: tuple[str, ...] = ("sleep", "600"), **more: Any) -> Container:
        security = confinement({}, {"securityContext": context})
        return node.add_container(argv, security=security, masked=True, host_pid=False, **more)

    yield made


def mask(*names: str) -> str:
    return f"{sum(1 << CAPABILITIES.index(name) for name in names):016x}"


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({}, DEFAULT),
        ({"capabilities": {"drop": ["ALL"]}}, ()),
        ({"capabilities": {"drop": ["ALL"], "add": ["CAP_SYS_ADMIN", "bpf"]}}, ("SYS_ADMIN", "BPF")),
        ({"capabilities": {"drop": ["KILL"]}}, tuple(name for name in DEFAULT if name != "KILL")),
    ],
    ids=["default", "none", "two", "but-one"],
)
def test_capabilities(node: Node, start: Start, context: Json, expected: tuple[str, ...]) -> None:
    with start(context) as box:
        for process in ("1", "self"):
            status = node.run(["grep", "Cap", f"/proc/{process}/status"], box).stdout.split()
            found = dict(zip(status[::2], status[1::2], strict=True))
            assert {found[key] for key in ("CapBnd:", "CapEff:", "CapPrm:")} == {mask(*expected)}


def test_all_capabilities_can_be_given() -> None:
    assert capabilities({"add": ["ALL"], "drop": ["NET_RAW"]}) == {*CAPABILITIES} - {"NET_RAW"}
    assert confinement({}, {"securityContext": {"privileged": True}}) is None


def test_another_user_has_none(node: Node, start: Start) -> None:
    with start({"runAsUser": 1000, "runAsGroup": 1001, "capabilities": {"add": ["SYS_ADMIN"]}}) as box:
        said = node.run(["sh", "-c", "id -u; id -g; id -G; grep CapEff /proc/self/status"], box).stdout.split()
        assert said == ["1000", "1001", "1001", "CapEff:", mask()]


SETTER = "import ctypes, os, sys; sys.exit(ctypes.CDLL(None, use_errno=True).unshare(0x20000) and 7)"


@pytest.mark.parametrize(
    ("context", "code"),
    [
        ({"capabilities": {"add": ["SYS_ADMIN"]}}, 0),
        ({"capabilities": {"add": ["SYS_ADMIN"]}, "seccompProfile": {"type": "RuntimeDefault"}}, 0),
        ({}, 7),
        # A new user namespace takes no capability: only seccomp refuses it.
        ({"seccompProfile": {"type": "RuntimeDefault"}}, 7),
    ],
    ids=["allowed", "allowed-by-the-profile", "no-capability", "filtered"],
)
def test_the_kernel_refuses(node: Node, start: Start, context: Json, code: int) -> None:
    with start(context) as box:
        assert node.run(["python3", "-c", SETTER], box).returncode == code
        user = node.run(["python3", "-c", SETTER.replace("0x20000", "0x10000000")], box).returncode
        assert (user == 7) is ("seccompProfile" in context and "capabilities" not in context)


def test_privileges_and_files(node: Node, start: Start) -> None:
    with start({"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}) as box:
        said = node.run(["sh", "-c", "grep NoNewPrivs /proc/self/status; touch /x /tmp/x /run/x /dev/shm/x"], box)
        assert said.stdout.split() == ["NoNewPrivs:", "1"]
        assert said.stderr.count("Read-only file system") == 3
        assert node.run(["ls", "/proc/1/exe", "/sys/firmware"], box).returncode == 0
        assert "Read-only" in node.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"], box).stderr


def test_ipc_is_its_own_unless_the_nodes(node: Node, start: Start) -> None:
    host = node.run(["readlink", "/proc/self/ns/ipc"]).stdout
    for shared in (True, False):
        with start({}, host_ipc=shared) as box:
            for process in ("1", "self"):
                assert (node.run(["readlink", f"/proc/{process}/ns/ipc"], box).stdout == host) is shared


def test_ends_are_told_as_without_it(node: Node, start: Start) -> None:
    with start({}) as box:
        assert node.run(["sh", "-c", "exit 3"], box).returncode == 3
        assert node.run(["no-such-program"], box).returncode == 127
        for number in (signal.SIGKILL, signal.SIGTERM):
            assert node.run(["sh", "-c", f"kill -{int(number)} $$"], box).returncode == -number
        assert node.run(["cat"], box, input="abc").stdout == "abc"
    with start({}, ("sh", "-c", "exit 5")) as box:
        assert box.wait(10) == 5
