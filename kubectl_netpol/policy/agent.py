"""PolicyEndpoints -> the entries that the node agent writes into its maps, and the pod states beside them.

The rules of agents 1.2.4 to 1.4.2 for ingress_map and egress_map: the node's own address, the catch-all of a direction
that is not restricted, prefixes in order of length, narrower ones inheriting the ports of wider ones, the
deny marker of excepts, at most 24 slots for one prefix. And those of agents >= 1.3.0 for the maps of cluster policies.
``agent_newer`` has what agents after 1.4.2 do otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_network
from typing import Any

from kubectl_netpol.kernel.layouts import (
    DEFAULT_ALLOW,
    POLICIES_APPLIED,
    PROTOCOL_ANY,
    PROTOCOL_DENY,
    SLOTS,
)
from kubectl_netpol.model.flow import PROTOCOL_NUMBERS, WITH_PORTS, Address, Direction, Network, host_network
from kubectl_netpol.model.kernel import ClusterSlot, Slot
from kubectl_netpol.policy import endpoints as pe
from kubectl_netpol.policy.ports import ALL_PORTS, Port
from kubectl_netpol.policy.world import parse_address

Json = dict[str, Any]

NODE, CATCH_ALL, RULE, EXCEPT = "node", "catch-all", "rule", "except"
BASELINE_OFFSET = 2000
"""Added to the priority of Baseline rules, so that they come after all others."""


@dataclass
class Expected:
    """One prefix that should be in a rule map: its slots, and what brings it there."""

    prefix: Network
    origin: str
    """node | catch-all | rule | except."""
    slots: set[Slot]
    sources: list[pe.EndpointEntry] = field(default_factory=list)
    inherited: list[pe.EndpointEntry] = field(default_factory=list)
    """Entries of wider prefixes whose ports apply here too."""
    excepts: list[Network] = field(default_factory=list)
    others: list[frozenset[Slot]] = field(default_factory=list)
    """What agents <= 1.4.1 may hold instead: texts such as `10.1.2.3/8` and `10.0.0.0/8` are two rules of one key
    there, and the one that is written last stays."""
    lost: frozenset[Slot] = frozenset()
    """What agents after 1.4.2 leave out, always the same: there ``slots`` are those that fit."""

    @property
    def cut_off(self) -> bool:
        """More combinations than a value has slots: which ones survive is random."""
        return len(self.slots) > SLOTS


@dataclass
class ExpectedTier:
    """One prefix that should be in a map of cluster policies."""

    prefix: Network
    slots: list[ClusterSlot]
    """As written: what two rules say about one port is there twice (the agent compares pointers, agent facts 5.5)."""
    sources: list[pe.EndpointEntry] = field(default_factory=list)

    @property
    def cut_off(self) -> bool:
        return len(self.slots) > SLOTS


@lru_cache(maxsize=4096)
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
        out |= own_node(node_address)
    rules = list(pe.entries(endpoints, direction))
    if not rules:
        if not pe.isolates(endpoints, direction):
            anywhere = ip_network("0.0.0.0/0" if family == 4 else "::/0")
            out[anywhere] = Expected(anywhere, CATCH_ALL, {Slot(PROTOCOL_ANY, 0, 0)})
        return out
    found = _Rules(node_address, family, canonical=True).program(rules)
    out |= {entry.prefix: entry for entry in found}
    if any(not _is_canonical(rule) for rule in rules):
        # Their sort is not stable, and an agent may have the slices in another order.
        for order in (rules, rules[::-1]):
            _add_others(out, _Rules(node_address, family, canonical=False).program(order))
    return out


def own_node(address: Address) -> dict[Network, Expected]:
    """What lets the pod's own node pass."""
    own = host_network(address)
    return {own: Expected(own, NODE, {Slot(PROTOCOL_ANY, 0, 0)})}


def states(endpoints: list[Json], cluster: list[Json]) -> dict[int, int | None]:
    """The pod states that go with them, the same in both directions; None: the default of the enforcing mode."""
    applied = any(True for side in Direction for _ in pe.entries(cluster, side))
    return {0: POLICIES_APPLIED if endpoints else None, 1: POLICIES_APPLIED if applied else DEFAULT_ALLOW}


def _is_canonical(rule: pe.EndpointEntry) -> bool:
    """Whether neither the prefix nor its excepts are written with host bits."""
    if "/" not in rule.text and not rule.excepts:
        return True
    texts = [(rule.text, rule.prefix), *zip(rule.except_texts, rule.excepts, strict=False)]
    return all(not text or _base(text, network) == network.network_address for text, network in texts)


def _base(text: str, network: Network) -> Address:
    """The address part as it is written."""
    return parse_address(text.partition("/")[0]) or network.network_address


def _add_others(out: dict[Network, Expected], raw: Iterable[Expected]) -> None:
    """What agents that do not canonicalise make of the same rules."""
    by_key: dict[Network, list[frozenset[Slot]]] = defaultdict(list)
    for entry in raw:
        by_key[entry.prefix].append(frozenset(entry.slots))
    for prefix, slots in by_key.items():
        if prefix in out:
            entry = out[prefix]
            entry.others = [other for other in dict.fromkeys([*entry.others, *slots]) if other != entry.slots]


class _Rules:
    """The rules of one direction on their way into a map, the shortest prefix first."""

    def __init__(self, node_address: Address | None, family: int, *, canonical: bool) -> None:
        self.node_address, self.family, self.canonical = node_address, family, canonical
        self.bits = 32 if family == 4 else 128
        self.seen: dict[str, Expected] = {}
        # By length, then by the bits of the prefix: what is not a host, to be inherited from.
        self.wider: dict[int, dict[int, list[Expected]]] = defaultdict(lambda: defaultdict(list))

    def program(self, rules: Iterable[pe.EndpointEntry]) -> list[Expected]:
        excepts: dict[str, Network] = {}
        for rule in sorted(rules, key=lambda rule: rule.prefix.prefixlen):
            texts = rule.except_texts or tuple(map(str, rule.excepts))
            excepts |= {self._text(text, n): n for text, n in zip(texts, rule.excepts, strict=False)}
            base = self._address(rule.text, rule.prefix)
            if base == self.node_address or rule.prefix.version != self.family:
                continue
            self._add(rule, base)
        for text, network in excepts.items():
            if text not in self.seen and network.version == self.family:
                self.seen[text] = Expected(network, EXCEPT, {Slot(PROTOCOL_DENY, 0, 0)})
        return list(self.seen.values())

    def _text(self, text: str, network: Network) -> str:
        """What tells one rule from another: the network, or up to agent 1.4.1 how it is written."""
        if text and "/" not in text and ":" not in text:
            # Nearly all of them: a pod. Asking the network for its text takes longer than all the rest.
            return f"{text}/{self.bits}"
        if self.canonical or not text:
            return str(network)
        return text if "/" in text else f"{text}/{self.bits}"

    def _address(self, text: str, network: Network) -> Address:
        return network.network_address if self.canonical or not text else _base(text, network)

    def _add(self, rule: pe.EndpointEntry, base: Address) -> None:
        text = self._text(rule.text, rule.prefix)
        known = self.seen.get(text)
        if known is None:
            known = self.seen[text] = Expected(rule.prefix, RULE, set())
            self._inherit(known, base)
            # A text of /32 counts as a host in both families, so an IPv6 /32 is not inherited from.
            length = rule.prefix.prefixlen
            if length not in (32, 128):
                self.wider[length][int(base) >> (self.bits - length)].append(known)
        known.slots |= {slot(port) for port in rule.ports or ALL_PORTS}
        known.sources.append(rule)
        known.excepts += rule.excepts

    def _inherit(self, entry: Expected, base: Address) -> None:
        """Only the address itself is asked, not the whole prefix: whether the wider one contains and excepts it."""
        for length in sorted(self.wider):
            for other in self.wider[length].get(int(base) >> (self.bits - length), ()):
                if any(base in network for network in other.excepts):
                    continue
                entry.slots |= other.slots
                entry.inherited += other.sources


def program_tiers(
    endpoints: list[Json], direction: Direction, node_address: Address | None, family: int
) -> dict[Network, ExpectedTier]:
    """The expected contents of one map of cluster policies, by prefix. ``endpoints``: all slices of the identifier."""
    found: dict[Network, ExpectedTier] = {}
    lengths: list[int] = []
    for rule in sorted(pe.entries(endpoints, direction), key=lambda rule: rule.prefix.prefixlen):
        if rule.prefix.version != family or rule.prefix.network_address == node_address:
            continue
        known = found.get(rule.prefix)
        if known is None:
            wider = _most_specific(found, lengths, rule.prefix)
            if lengths[-1:] != [rule.prefix.prefixlen]:
                lengths.append(rule.prefix.prefixlen)
            known = ExpectedTier(rule.prefix, list(wider.slots) if wider else [])
            known.sources += wider.sources if wider else ()
            found[rule.prefix] = known
        known.sources.append(rule)
        for one in _cluster_slots(rule):
            if one.protocol != PROTOCOL_ANY or one not in known.slots:
                known.slots.append(one)
    return found


def _most_specific(found: dict[Network, ExpectedTier], lengths: list[int], prefix: Network) -> ExpectedTier | None:
    """The longest prefix before this one that holds it; what that one inherited comes along."""
    for length in reversed(lengths):
        wider = found.get(prefix.supernet(new_prefix=length)) if length < prefix.prefixlen else None
        if wider is not None:
            return wider
    return None


def _cluster_slots(rule: pe.EndpointEntry) -> Iterator[ClusterSlot]:
    priority = rule.priority + (BASELINE_OFFSET if rule.tier == "Baseline" else 0)
    word = priority * 10 + pe.ACTIONS.get(rule.action, 9)
    if not rule.ports:
        yield ClusterSlot(PROTOCOL_ANY, word, 0, 0)
    for port in rule.ports:
        # Protocol nil or unknown is TCP here, unlike in the maps of NetworkPolicies.
        protocol = PROTOCOL_NUMBERS.get(port.protocol, 6)
        yield ClusterSlot(protocol if protocol in WITH_PORTS else 6, word, port.number, port.end)
