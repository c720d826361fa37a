"""Questions to the loaded programs of a node, and their checked answers: what ``asker.py`` is given and gives.

A question is one flow, put before one program as a packet that comes from a source port of no established flow, so
that the program looks at its rules and not at its conntrack entries. ``asker.py`` says what is written on the node
meanwhile, and why that is safe.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from typing import Any

from kubectl_netpol.errors import NodeError
from kubectl_netpol.kernel import encode, layouts, packet
from kubectl_netpol.model.flow import WITH_PORTS, Address, Flow
from kubectl_netpol.model.kernel import MapView
from kubectl_netpol.node.asker import NO_ENTRY, NOT_REMOVED, REMOVED
from kubectl_netpol.node.checks import list_of, number, object_of, one_of, or_null, text, wrong
from kubectl_netpol.node.transport import ExecPod, run_script

Json = dict[str, Any]

FORMAT = 1
FIRST_PORT, LAST_PORT = 61000, 65535
"""Above Linux's default net.ipv4.ip_local_port_range, 32768 to 60999."""


def source_ports(seed: str, count: int = 8) -> list[int]:
    """``count`` different ports from 61000 to 65535; the same for the same seed, so give a random one."""
    return random.Random(seed).sample(range(FIRST_PORT, LAST_PORT + 1), count)


def question(
    id: str,
    flow: Flow,
    owner: Address,
    ifindex: int,
    program_id: int,
    conntrack: MapView | None,
    ports: Sequence[int],
) -> Json | None:
    """One question of a request. ``owner`` is the pod's own address, ``ifindex`` that of its host veth.

    ``ports`` are the source ports to choose from; a flow with a ``source_port`` of its own is asked with that one
    alone, and a protocol without ports has one packet. A conntrack map that is None or of an unknown layout
    makes a question that is answered with "unknown", since what the program would insert could not be removed.

    None: the map is of the other address family than the flow, so the program does not judge such packets.
    """
    asked = {"id": id, "program_id": program_id, "ifindex": ifindex, "conntrack": None, "candidates": []}
    layout = _layout(conntrack)
    if conntrack is None or layout is None:
        return asked
    if {flow.source.version, flow.destination.version, owner.version} != {layout.family}:
        return None
    return {
        **asked,
        "conntrack": {
            "map_id": conntrack.id,
            "key_size": conntrack.key_size,
            "value_size": conntrack.value_size,
            "max_entries": conntrack.max_entries,
        },
        "candidates": [_candidate(flow, port, layout, owner, ifindex) for port in _ports(flow, ports)],
    }


def request(questions: Sequence[Json]) -> Json:
    """What ``ask_node`` sends. The ids must differ."""
    return {"format": FORMAT, "questions": list(questions)}


def ask_node(pod: ExecPod, request: Json) -> list[Json]:
    """Put the questions of ``request``, and return one answer for each, in their order.

    An answer is {id, verdict, source_port, entry, reason} as ``asker.py`` documents it: ``verdict`` is 0 (passes),
    2 (dropped), another int, or None with the ``reason`` why it is unknown; ``entry`` begins with "made, not
    removed" where something is left to tell the user.
    Raises ``NodeError``: no Python in the image, the script crashed, or the answer is damaged.
    """
    return check_answers(run_script(pod, "asker", request), request)


def check_answers(document: Any, request: Json) -> list[Json]:
    """The answers with clean texts. Raises ``NodeError`` on the first field that is wrong."""
    if not isinstance(document, dict):
        raise wrong("the document", "an object", document)
    if document.get("format") != FORMAT:
        raise NodeError(f"the node's answer has another format than {FORMAT}, which this version reads")
    answers: list[Json] = _DOCUMENT(document, "")["answers"]
    questions = request["questions"]
    if [answer["id"] for answer in answers] != [asked["id"] for asked in questions]:
        raise NodeError("the node's answer is damaged: its ids are not those of the questions")
    for asked, answer in zip(questions, answers, strict=True):
        _check_sense(asked, answer)
    return answers


def _layout(conntrack: MapView | None) -> layouts.Layout | None:
    if conntrack is None:
        return None
    layout = layouts.layout_of(conntrack.type, conntrack.key_size, conntrack.value_size)
    return layout if layout is not None and layout.role == "conntrack" else None


def _ports(flow: Flow, ports: Sequence[int]) -> Sequence[int]:
    if flow.protocol not in WITH_PORTS:
        return [0]
    return ports if flow.source_port is None else [flow.source_port]


def _candidate(flow: Flow, source_port: int, layout: layouts.Layout, owner: Address, ifindex: int) -> Json:
    port = flow.port if flow.protocol in WITH_PORTS else 0
    ends = (flow.source, source_port, flow.destination, port)
    forward, reverse = encode.flow_keys(layout, ends, flow.protocol, owner, ifindex)
    raw = {"packet": packet.frame(flow, source_port), "forward": forward, "reverse": reverse}
    return {"source_port": source_port, **{name: base64.b64encode(data).decode() for name, data in raw.items()}}


def _entry(value: Any, path: str) -> str:
    said: str = text(value, path)
    if said not in (NO_ENTRY, REMOVED) and not said.startswith(NOT_REMOVED):
        raise wrong(path, f'"{NO_ENTRY}", "{REMOVED}" or "{NOT_REMOVED}..."', value)
    return said


def _check_sense(asked: Json, answer: Json) -> None:
    """A verdict needs a packet of those that were sent, and an unknown one needs its reason."""
    offered = [candidate["source_port"] for candidate in asked["candidates"]]
    if answer["source_port"] is None and (answer["verdict"] is not None or answer["entry"] != NO_ENTRY):
        raise NodeError(f"the node's answer is damaged: {answer['id']} has a verdict without a packet")
    if answer["source_port"] is not None and answer["source_port"] not in offered:
        raise NodeError(f"the node's answer is damaged: port {answer['source_port']} was not offered")
    if answer["verdict"] is None and not answer["reason"]:
        raise NodeError(f"the node's answer is damaged: {answer['id']} has neither a verdict nor a reason")


_ANSWER = object_of(
    {
        "id": text,
        "verdict": or_null(number(-(1 << 31), (1 << 31) - 1)),
        "source_port": or_null(number(0, 65535)),
        "entry": _entry,
        "reason": text,
    }
)
_DOCUMENT = object_of({"format": one_of(FORMAT), "asker": text, "answers": list_of(_ANSWER)})
