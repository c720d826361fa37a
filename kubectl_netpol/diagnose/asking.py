"""`--ask-kernel`: which program is asked about which flow, and what its answer means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from kubectl_netpol.diagnose.plan import Leg
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.model.asked import Asked
from kubectl_netpol.model.kernel import PodKernel
from kubectl_netpol.model.snapshot import NodeReading
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy.world import name_of, namespace_of, node_of, on_host_network, pod_ips, ref

Json = dict[str, Any]

TC_ACT_OK, TC_ACT_SHOT = 0, 2
WRITTEN_TYPES = (0, 1, 2, 5, 6, 9, 10)
"""Types of maps that a program may keep something in: hashes, arrays, LRU hashes (linux/bpf.h), or not known (0)."""
RETURNS = {
    TC_ACT_OK: (Decision.ALLOW, "0 (TC_ACT_OK)"),
    TC_ACT_SHOT: (Decision.DENY, "2 (TC_ACT_SHOT)"),
}


UNKNOWN_GENERATION = (
    "the program's generation is not known: if it keeps conntrack entries under another key than those that are known, "
    "the one that it made for the test packet is still there"
)


def leg_id(leg: Leg) -> str:
    """Unique among the legs of one question."""
    return f"{leg.ends.direction} {ref(leg.pod)}"


def to_ask(legs: Iterable[Leg], node: str, document: Json) -> Iterator[Asked]:
    """The attached programs of this node that judge a leg."""
    view = NodeView(document)
    for leg in legs:
        if node_of(leg.pod) != node or on_host_network(leg.pod):
            continue
        kernel = view.pod(namespace_of(leg.pod), name_of(leg.pod), [str(a) for a in pod_ips(leg.pod)])
        side = kernel.directions[leg.ends.direction]
        if side.program is None or kernel.ifindex is None:
            continue
        flow = replace(leg.ends.flow, source_port=None)
        owner = flow.owner(leg.ends.direction)
        # A program of an unknown generation may write into another map than this one: it is not run then.
        known = not any(other.type in WRITTEN_TYPES for other in side.other_maps)
        table = side.maps.get("conntrack") if known else None
        yield Asked(leg_id(leg), flow, owner, kernel.ifindex, side.program.id, table)


def verdict_of(leg: Leg, kernel: PodKernel | None, readings: Mapping[str, NodeReading]) -> Verdict:
    """What the program itself said, or why it was not asked."""
    layer = Layer.TEST_RUN
    if on_host_network(leg.pod):
        return Verdict(layer, Decision.NONE, "HOST_NETWORK", "no program to ask")
    reading = readings.get(node_of(leg.pod), NodeReading(None, f"node {node_of(leg.pod)} was not read"))
    answer, reason = reading.answers.get(leg_id(leg)), reading.unasked.get(leg_id(leg))
    program = kernel.directions[leg.ends.direction].program if kernel else None
    if reason or answer is None:
        if kernel is not None and program is None:
            return Verdict(layer, Decision.NONE, "NO_PROGRAM", "no attached program to ask")
        return Verdict(layer, Decision.UNKNOWN, "NOT_ASKED", reason or reading.reason or "the program was not asked")
    if answer["verdict"] is None:
        return Verdict(layer, Decision.UNKNOWN, "NOT_ANSWERED", str(answer["reason"]), _left(answer))
    decision, returned = RETURNS.get(answer["verdict"], (Decision.UNKNOWN, str(answer["verdict"])))
    number = program.id if program else "?"
    port = f" from source port {answer['source_port']}" if answer["source_port"] else ""
    why = f"program {number} itself returned {returned} for a test packet{port}"
    decided = {"sourcePort": answer["source_port"], "conntrackEntry": answer["entry"]}
    facts = _left(answer)
    if decision is Decision.ALLOW and kernel is not None and not kernel.directions[leg.ends.direction].agents:
        facts = (*facts, UNKNOWN_GENERATION)
    return Verdict(layer, decision, "TEST_RUN", why, facts, decided)


def _left(answer: Json) -> tuple[str, ...]:
    """What became of the conntrack entry that an allowed packet makes."""
    if answer["entry"] == "none":
        return ()
    return (f"its conntrack entry was {answer['entry']}",)


def left_behind(readings: Mapping[str, NodeReading]) -> Iterator[str]:
    """Warnings: entries that a test run made and that could not be removed."""
    for node, reading in readings.items():
        for answer in reading.answers.values():
            if answer["entry"].startswith("made, not removed"):
                yield f"node {node}: a test run's conntrack entry was {answer['entry']}; the agent's cleanup removes it"
