"""Where a pod asks DNS, over all layers that were read: what the YAML allows is not yet an answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kubectl_netpol.diagnose import attached, expected
from kubectl_netpol.diagnose.expected import expected_maps
from kubectl_netpol.model.flow import PROTOCOL_NUMBERS, Direction, Flow
from kubectl_netpol.model.kernel import InterfaceView
from kubectl_netpol.model.verdict import Decision, Verdict
from kubectl_netpol.policy.nearmiss import DnsAnswer, dns_of
from kubectl_netpol.policy.world import World, parse_address, pod_ips

Json = dict[str, Any]

PORT = 53


def dns_answers(pod: Json, world: World, interface: InterfaceView | None = None) -> tuple[DnsAnswer, ...]:
    """``dns_of``, judged by the maps that the agent should write as well, and by the program where it was read."""
    return tuple(_judged(one, pod, world, interface) for one in dns_of(pod, world))


def _judged(answer: DnsAnswer, pod: Json, world: World, interface: InterfaceView | None) -> DnsAnswer:
    address = parse_address(answer.address)
    own = next((a for a in pod_ips(pod) if address is not None and a.version == address.version), None)
    if answer.allowed is False or address is None or own is None:
        return answer
    place = answer.text.partition(": ")[0]
    unknown = ""
    for protocol in ("UDP", "TCP"):
        flow = Flow(own, address, PROTOCOL_NUMBERS[protocol], PORT)
        for verdict in _verdicts(pod, flow, world, interface):
            why = f"{verdict.layer}: {verdict.why}"
            if verdict.decision is Decision.DENY:
                return replace(answer, text=f"{place}: 53/{protocol} is dropped", allowed=False, why=why)
            unknown = unknown or (why if verdict.decision is Decision.UNKNOWN else "")
    if unknown and answer.allowed:
        return replace(answer, text=f"{place}: whether it is allowed is not known", allowed=None, why=unknown)
    return answer


def _verdicts(pod: Json, flow: Flow, world: World, interface: InterfaceView | None) -> list[Verdict]:
    found = []
    if not world.unread("policyendpoints", "clusterpolicyendpoints"):
        found.append(expected.verdict(expected_maps(pod, Direction.EGRESS, world), flow, {}))
    if interface is not None:
        found.append(attached.verdict(interface, interface.directions[Direction.EGRESS], flow))
    return found
