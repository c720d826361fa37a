"""`version`: of the plugin always, of the cluster as far as it answers; never an error for what it does not."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_netpol import __version__, bundle, cli
from kubectl_netpol.node.reader import READER_VERSION
from tests.lab import cni_objects
from tests.lab.agent import GENERATIONS
from tests.lab.apiserver import ApiServer

CLIENT = (
    f"Client Version: {__version__}\nBundle Format: {bundle.FORMAT} (reads 1, 2)\nReader Version: {READER_VERSION}\n"
)
AWS_NODE = "/apis/apps/v1/namespaces/kube-system/daemonsets/aws-node"


def daemonset(cni: str = "v1.19.2-eksbuild.5", agent: str = "v1.1.6-eksbuild.2") -> dict[str, Any]:
    found = cni_objects.daemonset(GENERATIONS["1.2.7"])
    first, second = found["spec"]["template"]["spec"]["containers"]
    first["image"] = f"602401143452.dkr.ecr.eu-west-1.amazonaws.com/amazon-k8s-cni:{cni}"
    second["image"] = f"602401143452.dkr.ecr.eu-west-1.amazonaws.com/amazon/aws-network-policy-agent:{agent}"
    return {**found, "status": {"desiredNumberScheduled": 3, "updatedNumberScheduled": 3}}


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as made:
        yield made
    assert made.errors == []


class Asker:
    def __init__(self, server: ApiServer, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.server, self.capsys = server, capsys
        self.config = server.write_kubeconfig(directory / "config")

    def asks(self, *flags: str, code: int = 0) -> tuple[str, str]:
        """(stdout, stderr) of `version`."""
        found = cli.run(["version", "--kubeconfig", str(self.config), *flags])
        said = self.capsys.readouterr()
        assert found == code, said
        return said.out, said.err

    def data(self, *flags: str) -> dict[str, Any]:
        out, _ = self.asks("-o", "json", *flags)
        found: dict[str, Any] = json.loads(out)
        return found


@pytest.fixture
def asker(server: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Asker]:
    server.put(daemonset())
    server.requests.clear()
    yield Asker(server, tmp_path, capsys)
    server.faults.clear()


def test_of_a_cluster(asker: Asker) -> None:
    out, err = asker.asks()
    versions = "VPC CNI Version: v1.19.2-eksbuild.5\nAgent Version: v1.1.6-eksbuild.2\n"
    cluster = f"Server Version: {asker.server.git_version}\n{versions}"
    assert (out, err) == (CLIENT + cluster, "")
    assert [request.path for request in asker.server.requests] == ["/version", AWS_NODE]
    assert "amazonaws.com/amazon-k8s-cni:v1.19.2-eksbuild.5)" in asker.asks("-o", "wide")[0]
    found = asker.data()
    assert found == yaml.safe_load(asker.asks("-o", "yaml")[0])
    assert (found["apiVersion"], found["kind"], found["unread"]) == ("netpol-ebpf/v1alpha1", "Version", [])
    assert found["client"] == {
        "version": __version__,
        "bundleFormat": bundle.FORMAT,
        "bundleFormatsRead": list(bundle.FORMATS),
        "readerVersion": READER_VERSION,
        "pythonVersion": platform.python_version(),
    }
    assert found["server"] == {"version": asker.server.git_version}
    assert found["vpcCni"]["agent"]["version"] == "v1.1.6-eksbuild.2"


def test_the_client_alone(asker: Asker) -> None:
    assert asker.asks("--client") == (CLIENT, "")
    assert set(asker.data("--client")) == {"apiVersion", "kind", "client"}
    assert asker.server.requests == []


def test_while_a_release_is_rolled_out(asker: Asker) -> None:
    asker.server.put({**daemonset(), "status": {"desiredNumberScheduled": 3, "updatedNumberScheduled": 1}})
    assert "VPC CNI Version: v1.19.2-eksbuild.5 (being rolled out: on 1 of 3 nodes)\n" in asker.asks()[0]
    found = asker.data()["vpcCni"]
    assert (found["nodesUpdated"], found["nodesScheduled"]) == (1, 3)


def test_a_cluster_without_the_cni(asker: Asker) -> None:
    asker.server.delete("DaemonSet", "aws-node", "kube-system")
    out, err = asker.asks()
    assert out.endswith(
        "VPC CNI Version: none: there is no DaemonSet kube-system/aws-node\n"
        "Agent Version: none: there is no DaemonSet kube-system/aws-node\n"
    )
    assert err == ""
    assert asker.data()["vpcCni"] == {
        "installed": False, "cni": None, "agent": None, "nodesUpdated": None, "nodesScheduled": None,
    }  # fmt: skip


def test_an_old_cni_without_an_agent(asker: Asker) -> None:
    found = daemonset("v1.12.6")
    del found["spec"]["template"]["spec"]["containers"][1]
    asker.server.put(found)
    assert "Agent Version: none: there is no container of it in DaemonSet" in asker.asks()[0]


def test_an_image_whose_tag_is_no_version(asker: Asker) -> None:
    asker.server.put(daemonset("latest", "v1.1.6@sha256:abc"))
    out, _ = asker.asks()
    assert "VPC CNI Version: unknown (602401143452.dkr.ecr.eu-west-1.amazonaws.com/amazon-k8s-cni:latest)\n" in out
    assert "Agent Version: v1.1.6\n" in out
    assert asker.data()["vpcCni"]["cni"]["version"] is None


def test_who_may_not_read_the_daemonset(asker: Asker) -> None:
    asker.server.faults.http(403, "/daemonsets/")
    out, err = asker.asks()
    assert out.endswith("VPC CNI Version: unknown\nAgent Version: unknown\n")
    assert f"Server Version: {asker.server.git_version}" in out
    assert err.startswith("warning: the versions of the VPC CNI are not known: ") and err.count("\n") == 1
    assert asker.data()["vpcCni"]["installed"] is None and len(asker.data()["unread"]) == 1


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_server_that_does_not_answer_well(asker: Asker, status: int) -> None:
    asker.server.faults.http(status, "/version", retry_after=0)
    out, err = asker.asks()
    assert out == CLIENT + "Server Version: unknown\nVPC CNI Version: unknown\nAgent Version: unknown\n"
    assert err.startswith("warning: the cluster's versions are not known: ") and err.count("\n") == 1
    assert asker.data()["server"] is None


def test_a_server_that_is_not_there(asker: Asker) -> None:
    out, err = asker.asks("--server", "https://127.0.0.1:1")
    assert "Server Version: unknown" in out
    assert err.startswith("warning: the cluster's versions are not known: no answer from https://127.0.0.1:1")


def test_a_server_that_says_later_again_and_again(asker: Asker) -> None:
    asker.server.faults.http(429, "/version", retry_after=10)
    begun = time.monotonic()
    _, err = asker.asks("--request-timeout", "1s")
    assert time.monotonic() - begun < 6
    assert err.startswith("warning: the cluster's versions are not known: no whole answer from https://127.0.0.1:")
    assert err.endswith(" to GET /version in 1 s\n")


def test_an_answer_that_drips(asker: Asker) -> None:
    """Each byte comes within the time limit of a request."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(40):
                    connection.sendall(b" ")
                    time.sleep(0.2)

        threading.Thread(target=drip, daemon=True).start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        _, err = asker.asks("--server", address, "--request-timeout", "1s")
    assert err == (
        f"warning: the cluster's versions are not known: no whole answer from {address} to GET /version in 1 s\n"
    )


def test_objects_of_another_shape(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    from kubectl_netpol.cluster.api import Api

    for found in ({}, {"spec": []}, {"spec": {"template": {"spec": {"containers": [1]}}}},
                  {"spec": {"template": {"spec": {"containers": []}}}, "status": []}):  # fmt: skip
        monkeypatch.setattr(
            Api, "get", lambda self, path, found=found: {"gitVersion": 1} if path == "/version" else found
        )
        out, err = asker.asks()
        assert "Server Version: unknown\nVPC CNI Version: " in out
        assert "Traceback" not in err and err.count("\n") <= 2


def test_nothing_steers_the_terminal(asker: Asker) -> None:
    asker.server.put(daemonset("v1.19.2-\x1b[2J"))
    assert "\x1b" not in asker.asks()[0] + asker.asks("-o", "json")[0] + asker.asks("-o", "wide")[0]


def test_flags_that_name_what_is_not_there(asker: Asker) -> None:
    assert asker.asks("--context", "nope", code=2)[1].startswith('error: context "nope" does not exist')


def run(home: Path, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    """As a process, with this home."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "NETPOL"))}
    argv = [sys.executable, "-m", "kubectl_netpol", "version", *flags]
    return subprocess.run(
        argv, env={**keep, "HOME": str(home), **env}, capture_output=True, text=True, timeout=60, check=True
    )


def test_without_a_kubeconfig(tmp_path: Path) -> None:
    done = run(tmp_path)
    note = "note: no kubeconfig: the versions of a cluster are not known (--client asks for none)\n"
    assert (done.stdout, done.stderr) == (CLIENT, note)
    assert run(tmp_path, "--client").stderr == ""


def test_with_a_kubeconfig_that_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("apiVersion: v1\nkind: Config\n")
    done = run(tmp_path, KUBECONFIG=str(tmp_path / "config"))
    assert "Server Version: unknown" in done.stdout
    assert done.stderr.startswith("warning: the cluster's versions are not known: ") and done.stderr.count("\n") == 1


def test_without_a_kubeconfig_nothing_is_imported_that_asks_a_cluster(tmp_path: Path) -> None:
    code = (
        "import sys; from kubectl_netpol.cli import run; run(['version']); "
        "sys.exit([m for m in sys.modules if m.split('.')[0] in ('kubernetes', 'websocket', 'urllib3')][:1] or None)"
    )
    keep = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    subprocess.run([sys.executable, "-c", code], env={**keep, "HOME": str(tmp_path)}, check=True, timeout=60)
