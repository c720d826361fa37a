"""What makes images and daemon for tests/e2e: what was begun and not ended is made again, nothing half-made is taken.

Its functions are called one by one, with stand-ins for the programs that build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[1] / "e2e" / "images" / "build"
DOCKERD = BUILD.parents[1] / "machine" / "docker"
GO = """
[ "$1" = build ] || exit 0
echo built >>"$CALLS"
while [ "$1" != -o ]; do shift; done
echo program >"$2"; chmod +x "$2"
exit "${FAILS:-0}"
"""
DOCKER = 'echo "$*" >>"$CALLS"; cat >/dev/null; case "$1 " in "$FAILS "*) exit 1 ;; esac; echo id'

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script is for bash")


class Workshop:
    def __init__(self, path: Path) -> None:
        self.out, self.tools, self.calls = path / "a b's", path / "tools", path / "calls"
        for directory in (self.out / "bin", self.out / "node", self.out / "modules" / "kubernetes", self.tools):
            directory.mkdir(parents=True)
        self.put(self.tools / "go", GO)
        self.put(self.tools / "docker", DOCKER)

    def put(self, path: Path, script: str) -> None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def do(self, commands: str, fails: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{self.tools}:{os.environ['PATH']}", "CALLS": str(self.calls)}
        return subprocess.run(
            ["bash", "-c", f'. "$1" "$2"; {commands}', "bash", BUILD, self.out],
            env=environment | ({"FAILS": fails} if fails else {}),
            text=True,
            capture_output=True,
            timeout=60,
        )

    def called(self) -> list[str]:
        found = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return found


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.mark.parametrize(
    ("make", "another"),
    [
        ("program kind sigs.k8s.io/kind $KIND", "program kind sigs.k8s.io/kind v99"),
        ("kubernetes_program kubeadm", "KUBERNETES=v99; kubernetes_program kubeadm"),
    ],
)
def test_a_program_is_built_until_it_is_whole_and_of_the_version(workshop: Workshop, make: str, another: str) -> None:
    assert workshop.do(make, fails="1").returncode != 0
    assert workshop.called() == ["built"]
    for wanted in (["built"], []):
        done = workshop.do(make)
        assert (done.returncode, workshop.called()) == (0, wanted), done.stderr
    assert workshop.do(another).returncode == 0
    assert workshop.called() == ["built"]


def test_a_file_system_is_made_until_it_is_whole_and_of_the_packages(workshop: Workshop) -> None:
    workshop.put(workshop.tools / "debootstrap", 'echo "$2" >>"$CALLS"; mkdir -p "$4"/usr/share; exit "${FAILS:-0}"')
    assert workshop.do("debian pods a,b", fails="1").returncode != 0
    assert workshop.called() == ["--include=a,b"]
    for packages, wanted in (("a,b", ["--include=a,b"]), ("a,b", []), ("a", ["--include=a"])):
        assert workshop.do(f"debian pods {packages}").returncode == 0
        assert workshop.called() == wanted


@pytest.mark.parametrize("listed", ["exit 1", "echo registry/etcd:1"])
def test_no_node_without_its_components(workshop: Workshop, listed: str) -> None:
    """Neither where their names nor where one of them is not to be had."""
    workshop.put(workshop.out / "bin" / "kubeadm", listed)
    done = workshop.do("node_image")
    assert done.returncode != 0
    assert workshop.called() == []


def test_a_node_has_its_name_when_it_is_whole(workshop: Workshop) -> None:
    for name in ("etcd", "pause"):
        workshop.put(workshop.out / "bin" / name, "")
    workshop.put(workshop.out / "bin" / "kubeadm", "echo registry/etcd:1")
    assert workshop.do("node_image", fails="save").returncode != 0
    assert not any(call.split()[-1] == "netpol-e2e-node:v1.34.4" for call in workshop.called())
    assert workshop.do("TAG=v0; node_image").returncode == 0
    assert [call.split()[0] for call in workshop.called() if call.split()[-1] == "netpol-e2e-node:v0"] == ["commit"]


def test_a_path_that_debootstrap_does_not_take_is_told(workshop: Workshop) -> None:
    done = workshop.do("need")
    said = f"error: debootstrap takes no path with a space: {workshop.out}; name another FOLDER\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("ends", ["exit 1", "exit 0"])
def test_a_docker_daemon_that_ends_is_not_waited_for(workshop: Workshop, tmp_path: Path, ends: str) -> None:
    workshop.put(workshop.tools / "docker", "exit 1")
    for name in ("runc", "jq", "iptables"):
        workshop.put(workshop.tools / name, "")
    workshop.put(workshop.tools / "dockerd", f"echo no rights; {ends}")
    begun = time.monotonic()
    done = subprocess.run(
        [DOCKERD],
        env={"PATH": f"{workshop.tools}:/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert time.monotonic() - begun < 15
    said = f"error: dockerd does not answer; {tmp_path}/dockerd.log ends with:\nno rights\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_any_shell_reads_the_variables(workshop: Workshop) -> None:
    done = workshop.do("variables")
    script = 'eval "$1"; printf %s "$NETPOL_E2E_KIND"'
    read = subprocess.run(["sh", "-ec", script, "sh", done.stdout], text=True, capture_output=True)
    assert (read.returncode, read.stdout) == (0, f"{workshop.out}/bin/kind"), read.stderr
