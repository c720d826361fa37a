"""PolicyEndpoints -> the entries that the node agent writes into ingress_map and egress_map.

The rules of agents >= 1.2.4: the node's own address, the catch-all of a direction
that is not restricted, prefixes in order of length, narrower ones inheriting the ports of wider ones, the
deny marker of excepts, at most 24 slots for one prefix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kubectl_netpol.kernel.layouts import PROTOCOL_ANY, PROTOCOL_DENY, SLOTS
from kubectl_netpol.model.flow import PROTOCOL_NUMBERS, WITH_PORTS, Address, Direction, Network, host_network
from kubectl_netpol.model.kernel import Slot
from kubectl_netpol.policy import endpoints as pe
from kubectl_netpol.policy.networkpolicy import parse_network
from kubectl_netpol.policy.ports import ALL_PORTS, Port

Json = dict[str, Any]

NODE, CATCH_ALL, RULE, EXCEPT = "node", "catch-all", "rule", "except"


@dataclass
class Expected:
    """One prefix that should be in the map: its slots, and what brings it there."""

    prefix: Network
    origin: str
    """node | catch-all | rule | except."""
    slots: set[Slot]
    sources: list[pe.EndpointEntry] = field(default_factory=list)
    inherited: list[pe.EndpointEntry] = field(default_factory=list)
    """Entries of wider prefixes whose ports apply here too."""
    excepts: list[Network] = field(default_factory=list)

    @property
    def cut_off(self) -> bool:
        """More combinations than a value has slots: which ones survive is random."""
        return len(self.slots) > SLOTS


def slot(port: Port) -> Slot:
    protocol = PROTOCOL_NUMBERS.get(port.protocol, PROTOCOL_ANY)
    if protocol not in WITH_PORTS:
        # TCP, UDP and SCTP are all that the agent knows.
        protocol = PROTOCOL_ANY
    return Slot(protocol, port.number, port.end)


def program(
    endpoints: list[Json], direction: Direction, node_address: Address | None, family: int
) -> dict[Network, Expected]:
    """The expected contents of one rule map, by prefix. ``endpoints``: all slices of the identifier.

    Empty where no PolicyEndpoint concerns the identifier: the agent then leaves the maps alone.
    """
    out: dict[Network, Expected] = {}
    if not endpoints:
        return out
    if node_address is not None and node_address.version == family:
        own = host_network(node_address)
        out[own] = Expected(own, NODE, {Slot(PROTOCOL_ANY, 0, 0)})
    rules = list(pe.entries(endpoints, direction))
    if not rules:
        if not pe.isolates(endpoints, direction):
            anywhere = parse_network("0.0.0.0/0" if family == 4 else "::/0")
            assert anywhere is not None
            out[anywhere] = Expected(anywhere, CATCH_ALL, {Slot(PROTOCOL_ANY, 0, 0)})
        return out
    _add_rules(out, rules, node_address, family)
    return out


def _add_rules(
    out: dict[Network, Expected], rules: Iterable[pe.EndpointEntry], node_address: Address | None, family: int
) -> None:
    seen: dict[Network, Expected] = {}
    # A text of /32 counts as a host in both families, so an IPv6 /32 is not inherited from.
    wider: list[Expected] = []
    excepts: list[Network] = []
    for rule in sorted(rules, key=lambda rule: rule.prefix.prefixlen):
        excepts += rule.excepts
        if rule.prefix.network_address == node_address or rule.prefix.version != family:
            continue
        slots = {slot(port) for port in rule.ports or ALL_PORTS}
        known = seen.get(rule.prefix)
        if known is None:
            known = seen[rule.prefix] = Expected(rule.prefix, RULE, set())
            _inherit(known, wider)
            if rule.prefix.prefixlen not in (32, 128):
                wider.append(known)
        known.slots |= slots
        known.sources.append(rule)
        known.excepts += rule.excepts
    for network in excepts:
        if network not in seen and network.version == family:
            seen[network] = Expected(network, EXCEPT, {Slot(PROTOCOL_DENY, 0, 0)})
    out.update(seen)


def _inherit(entry: Expected, wider: Iterable[Expected]) -> None:
    base = entry.prefix.network_address
    for other in wider:
        if base not in other.prefix:
            continue
        if any(base in network for network in other.excepts):
            continue
        entry.slots |= other.slots
        entry.inherited += other.sources
