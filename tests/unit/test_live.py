"""The live cluster for a verb: flags reach the debug pod, and each way of reading gets what it needs."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from kubectl_netpol import live
from kubectl_netpol.cluster import api, connection
from kubectl_netpol.cluster.connection import ConnectionFlags
from kubectl_netpol.errors import NodeError
from kubectl_netpol.model.asked import Asked
from kubectl_netpol.model.flow import Flow
from kubectl_netpol.model.kernel import MapView
from kubectl_netpol.model.snapshot import NodeReading
from kubectl_netpol.node import agent_pod, ask, debug_pod, toolbox, toolbox_agent, transport
from kubectl_netpol.node.debug_pod import DebugPodOptions
from kubectl_netpol.node.toolbox import ToolOptions
from kubectl_netpol.options import Common, Way
from kubectl_netpol.report.output import Format

Json = dict[str, Any]
REQUEST: Json = {"format": 1, "pods": []}
DOCUMENT: Json = {"format": 1, "maps": []}
API = object()

COMMON = Common(
    connection=ConnectionFlags(),
    bundle="",
    image="image:1",
    debug_namespace="debug-here",
    keep=False,
    deadline=300,
    start_timeout=60,
    via=Way.PYTHON,
    show_commands=False,
    install_on_host=False,
    selinux_type="",
    output=Format.TABLE,
    no_headers=False,
)


class Notes:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.notes: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Node:
    """What happened on the fake node, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.options = DebugPodOptions()
        self.warn: Any = None
        self.questions: list[Json] = []
        self.error: NodeError | None = None

    @property
    def names(self) -> list[str]:
        return [event[0] for event in self.events]

    @contextmanager
    def open_debug_pod(
        self, api: object, node: str, options: DebugPodOptions, progress: Any, warn: Any = None
    ) -> Iterator[str]:
        self.options, self.warn = options, warn
        self.events.append(("open", api, node))
        try:
            yield "debug pod"
        finally:
            self.events.append(("close",))

    def find_agent_pod(self, api: object, node: str) -> str:
        self.events.append(("find", api, node))
        return "agent pod"

    def read_node(self, pod: object, request: Json) -> Json:
        self.events.append(("python", pod, request))
        return DOCUMENT

    def read_with_tools(self, pod: object, request: Json, options: ToolOptions, show: Any) -> Json:
        self.events.append(("tools", pod, request, options))
        show("tc filter show dev eni0 ingress")
        return DOCUMENT

    def read_through_agent(self, pod: object, request: Json, show: Any) -> Json:
        self.events.append(("agent", pod, request))
        show("/aws-eks-na-cli ebpf maps")
        return DOCUMENT

    def ask_node(self, pod: object, request: Json) -> list[Json]:
        self.events.append(("ask", pod))
        self.questions = request["questions"]
        if self.error:
            raise self.error
        return [{"id": asked["id"], "verdict": 0} for asked in self.questions]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    found = Node()
    monkeypatch.setattr(debug_pod, "open_debug_pod", found.open_debug_pod)
    monkeypatch.setattr(agent_pod, "find_agent_pod", found.find_agent_pod)
    monkeypatch.setattr(transport, "read_node", found.read_node)
    monkeypatch.setattr(toolbox, "read_node_with_tools", found.read_with_tools)
    monkeypatch.setattr(toolbox_agent, "read_node_through_agent", found.read_through_agent)
    monkeypatch.setattr(ask, "ask_node", found.ask_node)
    return found


def read(common: Common, notes: Notes | None = None, follow: Any = None) -> NodeReading:
    return live._reader(API, common, notes or Notes())("node-a", REQUEST, follow)  # type: ignore[arg-type]


# ---- flags


def test_options_reach_the_debug_pod(node: Node) -> None:
    common = replace(
        COMMON, keep=True, deadline=77, start_timeout=5, selinux_type="super_t", via=Way.TOOLS, install_on_host=True
    )
    read(common)
    assert node.options == DebugPodOptions(
        image="image:1",
        namespace="debug-here",
        keep=True,
        deadline_seconds=77,
        start_timeout=5.0,
        selinux_type="super_t",
        host_writable=True,
    )
    assert read(COMMON).document is DOCUMENT
    assert node.options == DebugPodOptions(image="image:1", namespace="debug-here")


def test_nothing_is_made_by_connecting(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ConnectionFlags(namespace="shop")
    connected: list[ConnectionFlags] = []
    monkeypatch.setattr(connection, "connect", connected.append)
    monkeypatch.setattr(api, "Api", lambda _: API)
    origin: Any = live.open_cluster(replace(COMMON, connection=flags), Notes())  # type: ignore[arg-type]
    assert (connected, origin.api, node.events) == ([flags], API, [])
    assert origin.guard is debug_pod.interruptible, "signals reach the debug pods of other threads"
    assert origin.nodes({"node-a": REQUEST})["node-a"].document is DOCUMENT
    assert node.names == ["open", "python", "close"]


# ---- ways


def test_python_reads_in_a_debug_pod(node: Node) -> None:
    notes = Notes()
    reading = read(COMMON, notes)
    assert node.events == [("open", API, "node-a"), ("python", "debug pod", REQUEST), ("close",)]
    assert (reading.document, reading.reason, reading.answers) == (DOCUMENT, "", {})
    assert notes.steps == ["reading the kernel of node node-a"]
    node.warn("could not be deleted")
    assert notes.notes == ["could not be deleted"], "a warning of the pod is seen without a terminal too"


@pytest.mark.parametrize("host", [False, True])
def test_tools_are_told_whether_to_install_on_the_host(node: Node, host: bool) -> None:
    read(replace(COMMON, via=Way.TOOLS, install_on_host=host))
    assert node.events[1] == ("tools", "debug pod", REQUEST, ToolOptions(install_on_host=host))
    assert node.names == ["open", "tools", "close"]


def test_the_agent_is_read_without_a_debug_pod(node: Node) -> None:
    found = read(replace(COMMON, via=Way.AGENT)).document or {}
    section = found.pop("consistency")
    assert found == DOCUMENT
    assert (section["steady"], section["attempts"]) == (None, 1), "whether it held still cannot be told that way"
    assert section["took_ns"] > 0
    assert node.events == [("find", API, "node-a"), ("agent", "agent pod", REQUEST)]


@pytest.mark.parametrize(
    ("via", "shown"), [(Way.TOOLS, "+ tc filter show dev eni0 ingress"), (Way.AGENT, "+ /aws-eks-na-cli ebpf maps")]
)
def test_commands_are_shown_where_that_is_asked_for(node: Node, via: Way, shown: str) -> None:
    for wanted in (False, True):
        notes = Notes()
        read(replace(COMMON, via=via, show_commands=wanted), notes)
        assert notes.notes == ([shown] if wanted else [])


def test_the_pod_is_given_back_when_reading_fails(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(pod: object, request: Json) -> Json:
        raise NodeError("cut")

    monkeypatch.setattr(transport, "read_node", broken)
    with pytest.raises(NodeError, match="cut"):
        read(COMMON)
    assert node.names == ["open", "close"]


# ---- --ask-kernel


def asked(name: str, family: int = 4) -> Asked:
    source, destination = (ipaddress.ip_address(a) for a in ("10.0.0.1", "10.0.0.2"))
    size = {4: 20, 6: 56}[family]
    table = MapView(id=7, type=9, key_size=size, value_size=1, max_entries=64, role="conntrack", layout="conntrack")
    return Asked(name, Flow(source, destination, 6, 80), destination, 3, 11, table)


def test_without_a_question_nothing_is_asked(node: Node) -> None:
    assert read(COMMON) == NodeReading(DOCUMENT)
    seen: list[Any] = []
    reading = read(COMMON, follow=lambda *arguments: seen.append(arguments) or ())
    assert (reading, seen) == (NodeReading(DOCUMENT), [("node-a", DOCUMENT)])
    assert "ask" not in node.names


def test_answers_come_by_question_from_the_same_pod(node: Node) -> None:
    notes = Notes()
    reading = read(COMMON, notes, lambda *_: [asked("leg 1"), asked("leg 2")])
    assert node.events[-2:] == [("ask", "debug pod"), ("close",)], "before the pod is given back"
    assert {name: answer["verdict"] for name, answer in reading.answers.items()} == {"leg 1": 0, "leg 2": 0}
    assert (reading.document, reading.unasked) == (DOCUMENT, {})
    assert notes.steps[-1] == "asking the programs of node node-a"
    ports = [[c["source_port"] for c in question["candidates"]] for question in node.questions]
    assert len(ports[0]) > 1 and ports[0] == ports[1]
    read(COMMON, follow=lambda *_: [asked("leg 1")])
    again = [c["source_port"] for c in node.questions[0]["candidates"]]
    assert again != ports[0], "not the same source ports in each run"


def test_a_program_of_the_other_family_is_not_asked(node: Node) -> None:
    reading = read(COMMON, follow=lambda *_: [asked("four"), asked("six", family=6)])
    assert list(reading.answers) == ["four"]
    assert reading.unasked == {"six": "the program does not look at this address family"}
    reading = read(COMMON, follow=lambda *_: [asked("six", family=6)])
    assert (list(reading.answers), list(reading.unasked), node.names.count("ask")) == ([], ["six"], 1)


def test_a_failed_question_keeps_the_document(node: Node) -> None:
    node.error = NodeError("the asker was killed", "a hint")
    reading = read(COMMON, follow=lambda *_: [asked("one"), asked("six", family=6), asked("two")])
    assert (reading.document, reading.reason, reading.answers) == (DOCUMENT, "", {})
    assert reading.unasked == {
        "one": "the asker was killed",
        "two": "the asker was killed",
        "six": "the program does not look at this address family",
    }
    assert node.names[-1] == "close"
