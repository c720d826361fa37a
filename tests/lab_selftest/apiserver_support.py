"""What the tests of the API server stand-in share: a server with one node, and both real clients."""

from __future__ import annotations

import http.client
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from tests.lab.apiserver import ApiServer, make_node

NODE = "ip-192-168-0-10.ap-northeast-1.compute.internal"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as made:
        made.add_node(make_node(NODE, "192.168.0.10"))
        yield made
    assert made.errors == []


class Kubectl:
    """The real kubectl with nothing but a kubeconfig."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        self.directory = directory
        self.path = server.write_kubeconfig(directory / "kubeconfig", extra_users=["viewer", "nobody"])

    def run(self, *args: str, stdin: str | bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        return subprocess.run(
            ["kubectl", f"--kubeconfig={self.path}", f"--cache-dir={self.directory}/cache", *args],
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def __call__(self, *args: str, stdin: str | bytes | None = None) -> str:
        done = self.run(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def refused(self, *args: str, stdin: str | bytes | None = None) -> str:
        done = self.run(*args, stdin=stdin)
        assert done.returncode != 0, done.stdout.decode()
        return done.stderr.decode()


@pytest.fixture
def kubectl(server: ApiServer, tmp_path: Path) -> Kubectl:
    return Kubectl(server, tmp_path)


def api_client(server: ApiServer, user: str = "admin") -> client.ApiClient:
    return config.new_client_from_config_dict(server.kubeconfig(user))


@pytest.fixture
def core(server: ApiServer) -> client.CoreV1Api:
    return client.CoreV1Api(api_client(server))


def pod_body(name: str = "p", command: list[str] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "busybox", "command": command or ["sleep", "infinity"]}
    body = {"terminationGracePeriodSeconds": 1, "containers": [container]} | spec
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}


def raw(server: ApiServer, method: str, path: str, body: bytes | None = None, token: str = "") -> tuple[int, bytes]:
    """A request without any client library's care."""
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection(server.address, context=context, timeout=10)
    headers = {"Authorization": f"Bearer {token or server.users.get('admin').token}"}
    try:
        connection.request(method, path, body, headers | {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
