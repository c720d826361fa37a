"""The agent's own container on a node, for those who may exec into it and may not start a privileged pod.

Nothing is made and nothing is removed: the pod of the `aws-node` DaemonSet is there anyway. Its container
`aws-eks-nodeagent` is privileged and has the bpf filesystem, and a binary to read it, but no shell, no Python and no
tc: what is attached to the veths stays unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kubectl_netpol.cluster.stream import ExecResult, exec_in_pod
from kubectl_netpol.errors import ApiError, ConnectionFailed, NodeError

if TYPE_CHECKING:
    from kubectl_netpol.cluster.api import Api

Json = dict[str, Any]

NAMESPACE, SELECTOR, CONTAINER = "kube-system", "k8s-app=aws-node", "aws-eks-nodeagent"


@dataclass
class AgentPod:
    """The aws-node pod of one node, good for execs."""

    api: Api = field(repr=False)
    node: str
    name: str
    namespace: str = NAMESPACE
    exec_timeout: float = 120.0

    def exec(self, argv: list[str], stdin: bytes = b"") -> ExecResult:
        """Run ``argv`` in the agent's container. Raises ``NodeError`` where that is refused."""
        try:
            return exec_in_pod(
                self.api,
                self.namespace,
                self.name,
                argv,
                container=CONTAINER,
                stdin=stdin,
                timeout=self.exec_timeout,
            )
        except (ApiError, ConnectionFailed) as error:
            hint = error.hint
            if isinstance(error, ApiError) and error.status == 403:
                # `get` where the server asks for that with WebSockets, `create`, or both: its own word tells.
                refused = re.search(r'cannot (\w+) resource "pods/exec"', error.message)
                verb = refused[1] if refused else "create"
                hint = f"`kubectl auth can-i {verb} pods --subresource=exec -n {self.namespace}` shows the right"
            what = f"cannot run a command in container {CONTAINER} of pod {self.namespace}/{self.name}"
            raise NodeError(f"{what}: {error.message}", hint) from error


def find_agent_pod(api: Api, node: str) -> AgentPod:
    """The running aws-node pod of the node. Raises ``NodeError`` where there is none, or without its container."""
    where = {"labelSelector": SELECTOR, "fieldSelector": f"spec.nodeName={node}"}
    try:
        found = api.list(f"/api/v1/namespaces/{NAMESPACE}/pods", **where).items
    except ApiError as error:
        raise NodeError(f"cannot look for the aws-node pod of node {node}: {error.message}", error.hint) from error
    running = [pod for pod in found if (pod.get("status") or {}).get("phase") == "Running"]
    if not running:
        raise NodeError(
            f"node {node} has no running aws-node pod (label {SELECTOR} in {NAMESPACE})",
            "on EKS Auto Mode the agent is a service of the node: read it with --via python or --via tools",
        )
    pod = running[0]
    names = [container.get("name") for container in (pod.get("spec") or {}).get("containers") or ()]
    name = str(pod["metadata"]["name"])
    if CONTAINER not in names:
        raise NodeError(f"pod {NAMESPACE}/{name} has no container {CONTAINER}: network policy is not installed there")
    return AgentPod(api, node, name)
