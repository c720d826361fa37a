"""A kind cluster made (or taken) as pytest-kind does it, and somebody at a shell beside it.

Options of pytest-kind: --cluster-name, --keep-cluster, --kubeconfig, --kind-image, --kind-bin. A cluster of that name
that exists is taken and stays. NETPOL_E2E_PLUGIN: another plugin than that of this tree.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pytest_kind import KindCluster

from kubectl_netpol.node.debug_pod import MANAGED_BY, TOOL
from tests.e2e import images, require
from tests.e2e.cluster import Cluster
from tests.system.conftest import plugin_bin as of_this_tree

Json = dict[str, Any]
__all__ = ["of_this_tree"]
PLUGIN = "NETPOL_E2E_PLUGIN"
"""A directory with the plugin and its completer, such as one that was unpacked from krew's archive."""
HERE = Path(__file__).parent


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Here and not in a fixture: then all of them are skipped in one line."""
    require.or_skip(item.config)


@pytest.fixture(scope="session")
def kind_cluster(request: pytest.FixtureRequest) -> Iterator[KindCluster]:
    """In the place of pytest-kind's own, which takes no configuration, and deletes what was there before."""
    config = request.config
    kubeconfig = config.getoption("kubeconfig")
    made = KindCluster(
        config.getoption("cluster_name"),
        Path(kubeconfig).absolute() if kubeconfig else None,
        image=config.getoption("kind_image") or images.NODE.value,
        kind_path=require.kind(config),
    )
    known = subprocess.run([str(made.kind_path), "get", "clusters"], capture_output=True, text=True, check=True)
    taken = made.name in known.stdout.split()
    try:
        made.create(HERE / "kind.yaml")
        yield made
    finally:
        if not taken and not config.getoption("keep_cluster"):
            made.delete()


@pytest.fixture(scope="session")
def cluster(kind_cluster: KindCluster) -> Iterator[Cluster]:
    made = Cluster(kind_cluster.name, Path(kind_cluster.kind_path), Path(kind_cluster.kubeconfig_path).absolute())
    made.set_up()
    yield made
    made.close()


@pytest.fixture(scope="session")
def plugin_bin(request: pytest.FixtureRequest) -> Path:
    """What is on PATH."""
    named = os.environ.get(PLUGIN)
    found: Path = Path(named).absolute() if named else request.getfixturevalue("of_this_tree")
    return found


@dataclass
class User:
    """Somebody at a shell with kubectl and this plugin on PATH. ``flags`` go with every verb that reads a node."""

    cluster: Cluster
    bin: Path

    @property
    def environment(self) -> dict[str, str]:
        found = self.cluster.environment
        return {**found, "PATH": f"{self.bin}:{found['PATH']}"}

    @property
    def image(self) -> tuple[str, str]:
        return "--image", images.DEBUG.value

    def run(self, *words: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        """`kubectl netpol-ebpf WORDS`."""
        command = ["kubectl", "netpol-ebpf", *words]
        environment = {**self.environment, **env}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)

    def read(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """The same with the image that has Python."""
        return self.run(*words, *self.image, **env)

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = ["kubectl", "netpol-ebpf", *words, *self.image]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def debug_pods(self) -> list[Json]:
        """The plugin's own pods, wherever they are; also those that are on their way out."""
        return self.cluster.get("pods", "-A", "-l", f"{MANAGED_BY}={TOOL}")

    def nothing_left(self, seconds: float = 30) -> bool:
        """Whether all of them are gone, which the kubelet may take a moment for."""
        return within(seconds, lambda: not self.debug_pods() and not self.on_the_node())

    def on_the_node(self) -> list[str]:
        """Processes of debug pods, as the node's process table shows them."""
        return [line for line in self.cluster.node.processes() if line.startswith("sleep ") and "infinity" not in line]


def within(seconds: float, what: Any) -> Any:
    """What it gives once it is true; what it gave last if it never was."""
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


@pytest.fixture
def user(cluster: Cluster, plugin_bin: Path) -> Iterator[User]:
    found = User(cluster, plugin_bin)
    yield found
    cluster.settle()
    found.run("cleanup", "--delete", "--all")
    assert found.nothing_left()


def document(done: subprocess.CompletedProcess[str]) -> Json:
    """What -o json printed."""
    found: Json = json.loads(done.stdout)
    return found
