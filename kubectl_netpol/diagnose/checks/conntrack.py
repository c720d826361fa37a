"""CONNTRACK: what passes without a look at the rules, and the state of the node's table."""

from __future__ import annotations

from collections.abc import Iterator

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.checks.attached import restricting
from kubectl_netpol.diagnose.checks.base import UPGRADE, VALUES, NodeCase, PodCase, agent_values, recreate
from kubectl_netpol.diagnose.flows import EstablishedFlow, flows_of
from kubectl_netpol.model.finding import NO_EFFECT, Evidence, Finding, Remedy
from kubectl_netpol.model.flow import Direction, port_text
from kubectl_netpol.model.kernel import MapView
from kubectl_netpol.policy.world import name_of, namespace_of

PIN = "maps/global_aws_conntrack_map"
FULL = 0.9
"""An LRU map forgets flows before the last place is taken: its free places are kept by processor."""
SHOWN = 3


def of_pod(case: PodCase, *, broken: bool) -> Iterator[Finding]:
    """``broken``: what is attached is not what it should be, so that it is no wonder what it says of flows."""
    if case.kernel is None:
        return
    yield from _other_table(case)
    if not broken and any(restricting(case, direction) for direction in Direction):
        yield from _still_open(case)


def _other_table(case: PodCase) -> Iterator[Finding]:
    assert case.kernel is not None
    for direction in Direction:
        view = case.kernel.directions[direction]
        used, pinned = view.maps.get("conntrack"), view.pinned_maps.get("conntrack")
        lost = pinned is None and not case.kernel.pins_unread and case.kernel.identifier_pinned
        if view.program is None or used is None or (pinned is None and not lost):
            continue
        if pinned is not None and used.id == pinned.id:
            continue
        held = f"pinned as {used.pin}" if used.pin else "which no pin holds"
        own = f"the node's is {pinned.id}" if pinned else "the node has none pinned"
        title = (
            f"pod {case.name} uses conntrack map {used.id}, {held}, and {own}: flows are not "
            "cleaned up, and what other pods of the node know of them it does not"
        )
        evidence = (
            Evidence(f"program {view.program.id} on {case.kernel.veth}", f"aws_conntrack_map {used.id}"),
            Evidence(f"pin {PIN}", f"aws_conntrack_map {pinned.id}" if pinned else "none"),
        )
        yield case.made(findings.OTHER_CONNTRACK, title, evidence, (recreate(case.pod),))
        return


def _still_open(case: PodCase) -> Iterator[Finding]:
    assert case.kernel is not None
    found = [
        flow for flow in flows_of(case.pod, case.kernel, tuple(Direction), case.world).flows if flow.only_established
    ]
    if not found:
        return
    first = found[0].entry
    port = port_text(first.protocol, first.port)
    words = "1 established flow passes" if len(found) == 1 else f"{len(found)} established flows pass"
    title = (
        f"{words} pod {case.name} that its policies now deny, such as {found[0].source} ({first.source}) to "
        f"{found[0].destination} ({first.destination}) on {port}"
    )
    evidence = tuple(part for flow in found[:SHOWN] for part in _flow_evidence(flow))
    look = Remedy(f"kubectl netpol-ebpf conntrack {name_of(case.pod)} -n {namespace_of(case.pod)}", NO_EFFECT)
    yield case.made(findings.STILL_OPEN, title, evidence, (look, recreate(case.pod)))


def _flow_evidence(flow: EstablishedFlow) -> Iterator[Evidence]:
    entry = flow.entry
    ends = f"{entry.source}:{entry.source_port} -> {entry.destination}:{entry.port}"
    yield Evidence(f"conntrack map {flow.table.id}", f"{ends} passes")
    yield Evidence("ATTACHED, a new flow like it", flow.rules.why)


def of_node(case: NodeCase) -> Iterator[Finding]:
    """How full the table is, and whether its keys tell whose flows they are."""
    number = case.view.pins.get(PIN)
    if number is None:
        return
    table = case.view.map(number)
    yield from _full(case, table)
    yield from _poisoning(case, table)


def _full(case: NodeCase, table: MapView) -> Iterator[Finding]:
    if table.total is None or not table.max_entries or table.total < FULL * table.max_entries:
        return
    title = (
        f"the conntrack map of node {case.name} holds {table.total} of {table.max_entries} flows: the least recently "
        "used ones are forgotten, and their replies dropped"
    )
    agent = case.view.document.get("agent") or {}
    evidence = [
        Evidence(f"aws_conntrack_map {table.id}, entries", str(table.total)),
        Evidence(f"aws_conntrack_map {table.id}, max_entries", str(table.max_entries)),
    ]
    if agent.get("nf_conntrack_count") is not None:
        evidence.append(
            Evidence("nf_conntrack of the node", f"{agent['nf_conntrack_count']} of {agent.get('nf_conntrack_max')}")
        )
    more = agent_values(
        case.scope.cni,
        '{"conntrackCacheTableSize":"1048576"}',
        f"the size counts for nodes that start after it; {VALUES}",
    )
    yield case.made(findings.TABLE_FULL, title, evidence, (more,))


def _poisoning(case: NodeCase, table: MapView) -> Iterator[Finding]:
    """Keys have the veth's index from agent 1.3.7 on (agent facts 1.5): 24 bytes in IPv4, 60 in IPv6."""
    if table.role != "conntrack" or table.key_size in (24, 60):
        return
    title = (
        f"node {case.name}: conntrack entries do not say by which veth they were made: a pod can make one that lets "
        "packets to another pod of the node pass"
    )
    evidence = (
        Evidence(f"aws_conntrack_map {table.id}", f"keys of {table.key_size} bytes"),
        Evidence("agents from 1.3.7 on", "keys of 24 bytes (IPv4) or 60 bytes (IPv6), with the veth's index"),
    )
    upgrade = Remedy(
        UPGRADE.command, f"{UPGRADE.effect}; conntrack starts empty, and established flows are judged anew"
    )
    yield case.made(findings.POISONING, title, evidence, (upgrade,))
