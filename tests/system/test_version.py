"""`kubectl netpol-ebpf version` against an API server, through the real kubectl."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.apiserver import ApiServer
from tests.lab.require import require_tools
from tests.unit.test_version import CLIENT, daemonset


@pytest.fixture
def server() -> Iterator[ApiServer]:
    require_tools("kubectl")
    with ApiServer() as made:
        made.put(daemonset())
        yield made
    assert made.errors == []


def test_through_kubectl(server: ApiServer, plugin_bin: Path, tmp_path: Path) -> None:
    def version(*flags: str) -> subprocess.CompletedProcess[str]:
        config = server.write_kubeconfig(tmp_path / "config")
        env = {
            **os.environ,
            "PATH": f"{plugin_bin}:{os.environ['PATH']}",
            "KUBECONFIG": str(config),
            "HOME": str(tmp_path),
        }
        argv = ["kubectl", "netpol-ebpf", "version", *flags]
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)

    done = version()
    versions = "VPC CNI Version: v1.19.2-eksbuild.5\nAgent Version: v1.1.6-eksbuild.2\n"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{CLIENT}Server Version: {server.git_version}\n{versions}"
    slow = server.faults.slow(60, "/version")
    done = version("--request-timeout", "1s")
    assert (done.returncode, slow.hits > 0) == (0, True)
    assert done.stdout.endswith("Server Version: unknown\nVPC CNI Version: unknown\nAgent Version: unknown\n")
    assert done.stderr.startswith("warning: the cluster's versions are not known: no answer from https://127.0.0.1:")
    assert version("--client").stdout == CLIENT
