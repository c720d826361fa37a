"""The agent's own container as the place of execs."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_netpol.cluster.api import Listing
from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.errors import ApiError, NodeError
from kubectl_netpol.node import agent_pod


def aws_node(name: str = "aws-node-x7k2p", phase: str = "Running", *containers: str) -> dict[str, Any]:
    names = containers or ("aws-node", "aws-eks-nodeagent")
    return {
        "metadata": {"name": name},
        "spec": {"containers": [{"name": container} for container in names]},
        "status": {"phase": phase},
    }


class Api:
    def __init__(self, *pods: dict[str, Any], error: ApiError | None = None) -> None:
        self.pods, self.error, self.asked = pods, error, {}

    def list(self, path: str, **query: str) -> Listing:
        self.asked = {"path": path, **query}
        if self.error:
            raise self.error
        return Listing(self.pods, "1")


def test_the_pod_of_the_node_is_found():
    api = Api(aws_node("old", "Failed"), aws_node())
    assert agent_pod.find_agent_pod(api, "node-a").name == "aws-node-x7k2p"
    assert api.asked == {
        "path": "/api/v1/namespaces/kube-system/pods",
        "labelSelector": "k8s-app=aws-node",
        "fieldSelector": "spec.nodeName=node-a",
    }


@pytest.mark.parametrize(
    ("api", "says"),
    [
        (Api(), "node node-a has no running aws-node pod"),
        (Api(aws_node(phase="Pending")), "no running aws-node pod"),
        (Api(aws_node("x", "Running", "aws-node")), "has no container aws-eks-nodeagent"),
        (Api(error=ApiError(403, "Forbidden", "pods is forbidden")), "pods is forbidden"),
    ],
)
def test_without_it_there_is_one_line(api, says):
    with pytest.raises(NodeError, match=says) as caught:
        agent_pod.find_agent_pod(api, "node-a")
    if not api.error and not api.pods:
        assert "Auto Mode" in caught.value.hint


def test_commands_run_in_the_agents_container(monkeypatch):
    seen = {}

    def exec_in_pod(api, namespace, pod, argv, **more):
        seen.update(namespace=namespace, pod=pod, argv=argv, **more)
        return ExecResult(b"out", b"", 0)

    monkeypatch.setattr(agent_pod, "exec_in_pod", exec_in_pod)
    pod = agent_pod.find_agent_pod(Api(aws_node()), "node-a")
    assert pod.exec(["/aws-eks-na-cli", "ebpf", "progs"]).stdout == b"out"
    assert (seen["namespace"], seen["pod"], seen["container"]) == ("kube-system", "aws-node-x7k2p", "aws-eks-nodeagent")


def test_a_refused_exec_names_the_right(monkeypatch):
    def refuse(*_, **__):
        raise ApiError(403, "Forbidden", 'cannot create resource "pods/exec"')

    monkeypatch.setattr(agent_pod, "exec_in_pod", refuse)
    with pytest.raises(NodeError, match="container aws-eks-nodeagent of pod kube-system/aws-node-x7k2p") as caught:
        agent_pod.find_agent_pod(Api(aws_node()), "node-a").exec(["x"])
    assert "kubectl auth can-i create pods --subresource=exec -n kube-system" in caught.value.hint
