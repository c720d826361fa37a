"""Reading a node through the CLI in the agent's own container, one exec per command.

That image has no shell from agent 1.1.0 on. No privileged pod is needed for it, and it cannot tell what is attached.
EKS Auto Mode has no such container.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kubectl_netpol.errors import NodeError
from kubectl_netpol.node import na_cli, reader, toolbox_bpf
from kubectl_netpol.node.document import check_document
from kubectl_netpol.node.toolbox_bpf import Findings
from kubectl_netpol.node.toolbox_commands import Cli
from kubectl_netpol.node.toolbox_shell import Output
from kubectl_netpol.node.transport import ExecPod, clean

Json = dict[str, Any]

V4_CLI = "/aws-eks-na-cli"
V6_CLI = "/aws-eks-na-cli-v6"
NO_TC = "the agent's container has no tc: what is attached is unknown"


def read_node_through_agent(pod: ExecPod, request: Json, show: Callable[[str], None]) -> Json:
    """The document as far as the CLI in the agent's container tells it. ``pod.exec`` runs in that container.

    Raises ``NodeError``: there is no CLI in the container, or it lists nothing.
    """
    agent = _Agent(pod, show)
    texts = {"programs": agent.run(f"{V4_CLI} ebpf loaded-ebpfdata")}
    if texts["programs"].status in (126, 127):
        raise NodeError(
            f"cannot run {V4_CLI} in {agent.who}: {texts['programs'].said}",
            hint="only the agent of the DaemonSet aws-node has it; the other ways of reading a node do without",
        )
    texts["maps"] = agent.run(f"{V4_CLI} ebpf maps")
    texts["program list"] = agent.run(f"{V4_CLI} ebpf progs")
    found = Findings()
    for section in ("links", "addresses", "routes", "qdiscs", "filters", "tcx"):
        found.fail(section, NO_TC)
    document = toolbox_bpf.empty("agent")
    document["bpffs"] = {"path": reader.BPFFS_PATHS[0], "reason": ""}
    pinned = _listed_by_agent("programs", texts, na_cli.parse_pinned, found)
    loaded = _listed_by_agent("program list", texts, na_cli.parse_programs, found)
    document["maps"] = _listed_by_agent("maps", texts, na_cli.parse_maps, found)
    if pinned is None and document["maps"] is None:
        raise NodeError(f"aws-eks-na-cli in {agent.who} lists nothing: {found.errors[-1]['error']}")
    toolbox_bpf.objects(document, pinned, loaded, found)
    if pinned is None:
        found.fail("pins", "aws-eks-na-cli could not list them, and the agent's container has nothing else")
    else:
        document["pins"] = toolbox_bpf.pin_rows(pinned, None)
    for row in toolbox_bpf.wanted_rows(document, request, found):
        command = toolbox_bpf.dump(Cli(V4_CLI, V6_CLI, V4_CLI), row, found)
        if command:
            toolbox_bpf.fill(row, agent.run(command), request, found)
    document["notes"], document["errors"] = found.notes, found.errors
    return check_document(document)


class _Agent:
    """The agent's container: one command per exec."""

    def __init__(self, pod: ExecPod, show: Callable[[str], None]) -> None:
        self.pod, self.show = pod, show
        self.who = f"pod {pod.namespace}/{pod.name}"

    def run(self, command: str) -> Output:
        self.show(command)
        result = self.pod.exec(command.split())
        if result.exit_code is None:
            raise NodeError(f"{self.who} did not answer: {clean(result.error) or 'no exit status came'}", "try again")
        out, err = (stream.decode("utf-8", "replace") for stream in (result.stdout, result.stderr))
        # What the container runtime says of a program that cannot be started is no stream of the program.
        return Output(result.exit_code, out, err or result.error)


def _listed_by_agent(key: str, texts: dict[str, Output], parse: Callable[[str], Any], found: Findings) -> Any:
    output = texts[key]
    if output.status != 0:
        found.fail(key, output.said)
        return None
    return found.attempt(key, parse, output.stdout)
