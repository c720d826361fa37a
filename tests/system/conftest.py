"""The article's cluster in the lab, and the plugin as a user runs it: through the real kubectl."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults import world
from tests.lab import article
from tests.lab.cluster import LabCluster
from tests.lab.require import require_lab, require_tools
from tests.lab_selftest.helpers import connects

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class User:
    """Somebody at a shell with kubectl, this plugin on PATH, and the lab's kubeconfig."""

    lab: LabCluster
    bin: Path

    def run(self, *arguments: str, timeout: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
        """`kubectl netpol-ebpf ARGUMENTS`."""
        return subprocess.run(
            ["kubectl", "netpol-ebpf", *arguments],
            env=self.environment(**env),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """The same without waiting. kubectl replaces itself by the plugin, so signals reach the plugin."""
        return subprocess.Popen(
            ["kubectl", "netpol-ebpf", *arguments],
            env=self.environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self, **env: str) -> dict[str, str]:
        found = self.lab.environment(**env)
        return {**found, "PATH": f"{self.bin}:{found['PATH']}"}

    def debug_pods(self) -> list[str]:
        """Names of the plugin's own pods. One that was deleted has a grace period of a second to go in: it is waited
        for, and is in the list if it stays."""
        label = "app.kubernetes.io/managed-by=kubectl-netpol-ebpf"
        until = time.monotonic() + 10
        while True:
            pods = self.lab.server.list("Pod", labels=label)
            if time.monotonic() > until or not any(p["metadata"].get("deletionTimestamp") for p in pods):
                return [p["metadata"]["name"] for p in pods]
            time.sleep(0.05)


def with_a_cluster_of_its_own(plugin_bin: Path) -> Iterator[User]:
    """The article's cluster, to be broken by one test."""
    require_lab()
    require_tools("kubectl")
    with article.cluster() as lab:
        article.build(lab)
        yield User(lab, plugin_bin)
        assert not lab.server.errors


def reaches(lab: LabCluster, pod: str) -> bool:
    """Whether a pod of the article gets a connection to nginx."""
    return connects(lab.sandbox("default", pod), article.NGINX_IP, 80) == "open"


def answers(connection: socket.socket) -> bool:
    """Whether nginx still answers on a connection that is established."""
    connection.sendall(b"GET / HTTP/1.1\r\nHost: nginx\r\n\r\n")
    try:
        return bool(connection.recv(1))
    except TimeoutError:
        return False


@pytest.fixture(scope="session")
def plugin_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `kubectl-netpol_ebpf` and its completer: the installed scripts, or some that run this tree."""
    directory = tmp_path_factory.mktemp("bin")
    for name, words in (("kubectl-netpol_ebpf", ""), ("kubectl_complete-netpol_ebpf", "__complete ")):
        script, installed = directory / name, Path(sys.executable).parent / name
        if installed.exists():
            script.symlink_to(installed)
        else:
            script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m kubectl_netpol {words}"$@"\n')
            script.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def lab() -> Iterator[LabCluster]:
    """The article's cluster, shared by the tests of one module."""
    require_lab()
    require_tools("kubectl", "tc", "bpftool", "wget")
    with article.cluster() as made:
        article.build(made)
        yield made


@pytest.fixture(scope="module")
def healthy_user(plugin_bin: Path) -> Iterator[User]:
    """The healthy cluster of the fault catalogue, shared by the tests of one module."""
    require_lab()
    require_tools("kubectl")
    with world.healthy() as made:
        yield User(made, plugin_bin)


@pytest.fixture
def user(lab: LabCluster, plugin_bin: Path) -> Iterator[User]:
    found = User(lab, plugin_bin)
    yield found
    lab.server.faults.clear()
    assert not lab.server.errors
    for name in found.debug_pods():
        lab.server.delete("Pod", name, "kube-system", grace_seconds=0)
