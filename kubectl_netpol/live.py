"""The live cluster for a verb: the API, and one way of the three to read a node."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kubectl_netpol.errors import NodeError
from kubectl_netpol.holding import NodeReaders, ReadNode
from kubectl_netpol.model.asked import FollowUp
from kubectl_netpol.model.snapshot import NodeReading
from kubectl_netpol.options import Common, DebugProfile, Way
from kubectl_netpol.progress import Progress
from kubectl_netpol.source import Source

if TYPE_CHECKING:
    from kubectl_netpol.cluster.api import Api
    from kubectl_netpol.node.debug_pod import DebugPodOptions
    from kubectl_netpol.node.transport import ExecPod

Json = dict[str, Any]


def open_cluster(common: Common, progress: Progress) -> Source:
    """Connect. Nothing is made in the cluster before a node is read."""
    from kubectl_netpol.cluster.api import Api
    from kubectl_netpol.cluster.connection import connect
    from kubectl_netpol.cluster.live import LiveSource
    from kubectl_netpol.node.debug_pod import interruptible

    progress.step("connecting")
    api = Api(connect(common.connection))
    read = _reader(api, common, progress)
    return LiveSource(api, read, interruptible, debug_namespace=common.debug_namespace, readers=read)


SPARED = 60
"""Seconds before its deadline at which a held debug pod is not relied on any more, and another one started."""


def _reader(api: Api, common: Common, progress: Progress) -> NodeReaders:
    """Reads a node in the way that the user chose."""
    from kubectl_netpol.node.agent_pod import find_agent_pod
    from kubectl_netpol.node.debug_pod import open_debug_pod

    options = pod_options(common)

    @contextmanager
    def opened(node: str) -> Iterator[ReadNode]:
        if common.via is Way.AGENT:
            agent_pod = find_agent_pod(api, node)

            def through_agent(request: Json, _: FollowUp | None) -> NodeReading:
                progress.step(f"reading the agent's view of node {node}")
                return NodeReading(_document(agent_pod, request, common, progress))

            yield through_agent
            return
        with open_debug_pod(api, node, options, progress.step, warn=progress.note) as pod:

            def through_debug_pod(request: Json, follow: FollowUp | None) -> NodeReading:
                progress.step(f"reading the kernel of node {node}")
                document = _document(pod, request, common, progress)
                return _asked(pod, node, document, follow, progress)

            yield through_debug_pod

    return NodeReaders(opened, max(common.deadline - SPARED, common.deadline / 2))


@contextmanager
def held_reader(origin: Source, node: str, common: Common, progress: Progress) -> Iterator[Callable[[Json], Json]]:
    """Readings of one node through one debug pod, for as long as it lives: its deadline ends it."""
    from kubectl_netpol.cluster.live import LiveSource
    from kubectl_netpol.node.debug_pod import open_debug_pod

    assert isinstance(origin, LiveSource)
    with open_debug_pod(origin.api, node, pod_options(common), progress.step, warn=progress.note) as pod:
        yield lambda request: _document(pod, request, common, progress)


def pod_options(common: Common) -> DebugPodOptions:
    """How the debug pod is made, from the flags."""
    from kubectl_netpol.node.debug_pod import DebugPodOptions

    return DebugPodOptions(
        image=common.image,
        namespace=common.debug_namespace,
        keep=common.keep,
        deadline_seconds=common.deadline,
        start_timeout=float(common.start_timeout),
        selinux_type=common.selinux_type,
        host_writable=common.install_on_host,
        profile=common.debug_profile.value,
    )


def _document(pod: ExecPod, request: Json, common: Common, progress: Progress) -> Json:
    """The node's document, in the way that the user chose."""

    def show(command: str) -> None:
        if common.show_commands:
            progress.note(f"+ {command}")

    if common.via is Way.PYTHON:
        from kubectl_netpol.node.transport import read_node

        document = read_node(pod, request)
        return _limited(pod, document, progress) if common.debug_profile is DebugProfile.MINIMAL else document
    from kubectl_netpol.node.document import untold

    begun = time.monotonic_ns()
    if common.via is Way.TOOLS:
        from kubectl_netpol.node.toolbox import ToolOptions, read_node_with_tools

        found = read_node_with_tools(pod, request, ToolOptions(install_on_host=common.install_on_host), show)
    else:
        from kubectl_netpol.node.toolbox_agent import read_node_through_agent

        found = read_node_through_agent(pod, request, show)
    return {**found, "consistency": untold(time.monotonic_ns() - begun)}


def _limited(pod: ExecPod, document: Json, progress: Progress) -> Json:
    """What a minimal pod could not see, said."""
    from kubectl_netpol.node import profiles

    if unseen := profiles.unseen(document):
        progress.note(f"warning: pod {pod.name}: {unseen}")
    return profiles.with_limit_told(document)


def _asked(pod: ExecPod, node: str, document: Json, follow: FollowUp | None, progress: Progress) -> NodeReading:
    """The second exec of `--ask-kernel`, in the pod that has just read the node."""
    from kubectl_netpol.node import ask

    flows = follow(node, document) if follow else ()
    ports = ask.source_ports(secrets.token_hex(8))
    questions = []
    unasked: dict[str, str] = {}
    for one in flows:
        asked = ask.question(one.id, one.flow, one.owner, one.ifindex, one.program_id, one.conntrack, ports)
        if asked is None:
            unasked[one.id] = "the program does not look at this address family"
        else:
            questions.append(asked)
    if not questions:
        return NodeReading(document, unasked=unasked)
    progress.step(f"asking the programs of node {node}")
    try:
        answers = ask.ask_node(pod, ask.request(questions))
    except NodeError as error:
        unasked |= {asked["id"]: error.message for asked in questions}
        return NodeReading(document, unasked=unasked)
    return NodeReading(document, answers={answer["id"]: answer for answer in answers}, unasked=unasked)
