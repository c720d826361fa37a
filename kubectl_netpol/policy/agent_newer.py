"""The same by the rules of agents after 1.4.2, which nothing in the kernel tells from those before.

What is known of them is public source and no release: the own node's entry for cluster policies is on the agent's main
branch (its pull request 636); the other rules are on a branch of one of its maintainers that builds on it (commit
44b8208, ``pkg/fwruleprocessor`` and ``pkg/utils``), and not in what was seen of the main branch.

- An except belongs to the rule that has it. The ports of every block around a prefix count there, rule by rule, but for
  those of rules that except the prefix as a whole: the entry of an except has the ports of the other rules, and the
  deny marker only where none is left.
- Ports are inherited from the rules themselves, and not from what a block between has inherited.
- Excepts of rules that are passed over, and an except that is the own node's address, make no entry.
- An IPv6 /32 is a block.
- All ports swallow the others. Of more than 24 port rules those for any protocol stay, then TCP, UDP, SCTP, each with
  the lower ports first: always the same ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from kubectl_netpol.kernel.layouts import PROTOCOL_ANY, PROTOCOL_DENY, SLOTS
from kubectl_netpol.model.flow import Address, Direction, Network, host_network
from kubectl_netpol.model.kernel import ClusterSlot, Slot
from kubectl_netpol.policy import agent
from kubectl_netpol.policy import endpoints as pe
from kubectl_netpol.policy.agent import EXCEPT, RULE, Expected, ExpectedTier
from kubectl_netpol.policy.ports import ALL_PORTS

Json = dict[str, Any]

ALL = Slot(PROTOCOL_ANY, 0, 0)
OWN_NODE_SLOT = ClusterSlot(PROTOCOL_ANY, 1, 0, 0)
"""Accept with priority 0: no rule comes before it."""


def program(
    endpoints: list[Json], direction: Direction, node_address: Address | None, family: int
) -> dict[Network, Expected]:
    """The expected contents of one rule map, by prefix, as ``agent.program`` has them; all of ``slots`` fit."""
    rules = list(pe.entries(endpoints, direction))
    if not rules:
        return agent.program(endpoints, direction, node_address, family)
    own = node_address if node_address is not None and node_address.version == family else None
    found = agent.own_node(own) if own is not None else {}
    return found | {one.prefix: one for one in _entries(rules, own, family)}


def holding(
    rules: Iterable[pe.EndpointEntry], peer: Address, node_address: Address | None, family: int
) -> dict[Network, Expected]:
    """What ``program`` has for prefixes that hold this address. ``rules``: those that do, of a direction that has any.

    As the API has it an except lies within the block of its rule: no other rule can bring one.
    """
    own = node_address if node_address is not None and node_address.version == family else None
    found = agent.own_node(own) if own is not None and own == peer else {}
    return found | {one.prefix: one for one in _entries(rules, own, family) if peer in one.prefix}


def program_tiers(
    endpoints: list[Json], direction: Direction, node_address: Address | None, family: int
) -> dict[Network, ExpectedTier]:
    """The expected contents of one map of cluster policies, as ``agent.program_tiers`` has them."""
    found = agent.program_tiers(endpoints, direction, node_address, family)
    if endpoints and node_address is not None and node_address.version == family:
        found |= own_node_tier(node_address)
    return found


def own_node_tier(address: Address) -> dict[Network, ExpectedTier]:
    """What lets the pod's own node pass, whatever cluster policies say."""
    own = host_network(address)
    return {own: ExpectedTier(own, [OWN_NODE_SLOT])}


def _entries(rules: Iterable[pe.EndpointEntry], own: Address | None, family: int) -> Iterator[Expected]:
    by_prefix: dict[Network, list[pe.EndpointEntry]] = defaultdict(list)
    for rule in rules:
        if rule.prefix.version == family and rule.prefix.network_address != own:
            by_prefix[rule.prefix].append(rule)
    blocks = _Blocks(by_prefix)
    for prefix, some in by_prefix.items():
        yield _entry(prefix, RULE, some, blocks.around(prefix))
    node = host_network(own) if own is not None else None
    excepts = {one: None for some in by_prefix.values() for rule in some for one in rule.excepts}
    for prefix in excepts:
        if prefix.version == family and prefix not in by_prefix and prefix != node:
            yield _entry(prefix, EXCEPT, [], blocks.around(prefix))


class _Blocks:
    """The rules of all prefixes that are not hosts, found by what they hold."""

    def __init__(self, by_prefix: dict[Network, list[pe.EndpointEntry]]) -> None:
        self.by_prefix = by_prefix
        self.lengths = sorted({one.prefixlen for one in by_prefix if one.prefixlen < one.max_prefixlen})

    def around(self, prefix: Network) -> list[pe.EndpointEntry]:
        """The rules of wider blocks whose ports count for the whole of this prefix."""
        wider = (prefix.supernet(new_prefix=length) for length in self.lengths if length < prefix.prefixlen)
        return [rule for block in wider for rule in self.by_prefix.get(block, ()) if not _excepts(rule, prefix)]


def _excepts(rule: pe.EndpointEntry, prefix: Network) -> bool:
    """Whether one of its excepts holds the whole prefix."""
    base = prefix.network_address
    return any(
        one.version == prefix.version and one.prefixlen <= prefix.prefixlen and base in one for one in rule.excepts
    )


def _entry(prefix: Network, origin: str, own: list[pe.EndpointEntry], around: list[pe.EndpointEntry]) -> Expected:
    slots = {agent.slot(port) for rule in (*own, *around) for port in rule.ports or ALL_PORTS}
    if not slots:
        slots = {Slot(PROTOCOL_DENY, 0, 0)}
    if any(one.protocol == PROTOCOL_ANY and one.start == 0 for one in slots):
        slots = {ALL}
    kept = sorted(slots, key=_broadest_first)[:SLOTS]
    excepts = [one for rule in own for one in rule.excepts]
    return Expected(prefix, origin, set(kept), own, around, excepts, lost=frozenset(slots - set(kept)))


def _broadest_first(one: Slot) -> tuple[bool, Slot]:
    return one.protocol != PROTOCOL_ANY, one
