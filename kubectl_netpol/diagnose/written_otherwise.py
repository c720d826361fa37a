"""Why the maps that the agent should write decide otherwise than the PolicyEndpoints of the pod say.

The agent's rules, each of which can be left out: the outcome follows from those without which it would be another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kubectl_netpol.diagnose.reasons import Reason, needed
from kubectl_netpol.kernel.identity import pod_part
from kubectl_netpol.kernel.verdict import ICMPV6, scan
from kubectl_netpol.model.flow import Address, host_network
from kubectl_netpol.model.kernel import LpmEntry, LpmTable
from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.policy import agent, endpoints
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.slices import EndpointEntry, Slices, lists, policy_of
from kubectl_netpol.policy.world import World, name_of, namespace_of, node_of, pod_ip

Json = dict[str, Any]

FAMILY, ICMP, SHARED, LONGEST, OWN, CATCH_ALL = "family", "icmp", "shared", "longest prefix", "own node", "catch-all"
RULES = (OWN, CATCH_ALL, SHARED, LONGEST, ICMP, FAMILY)
NEWER_RULES = (OWN, CATCH_ALL, SHARED, ICMP, FAMILY)
"""Of agents after 1.4.2: the longest prefix has there what the PolicyEndpoints together allow."""


@dataclass(frozen=True)
class Case:
    """One flow of one pod, against the PolicyEndpoints that are there."""

    ends: Ends
    world: World
    newer: bool = False
    """By the rules of agents after 1.4.2."""

    @property
    def rules(self) -> tuple[str, ...]:
        """All that the agent follows."""
        return NEWER_RULES if self.newer else RULES

    @cached_property
    def family(self) -> int:
        address = pod_ip(self.ends.pod)
        return address.version if address else 4

    @cached_property
    def own(self) -> Address | None:
        return self.world.own_node_address(self.ends.pod, self.family)

    def decide(self, rules: frozenset[str]) -> Decision:
        """What comes of it with these rules of the agent; with none what the PolicyEndpoints of the pod say."""
        if FAMILY in rules and self.ends.peer.version != self.family:
            return Decision.ALLOW
        if ICMP in rules and self.ends.flow.protocol == ICMPV6 and self.ends.peer.version == 6:
            return Decision.ALLOW
        slices, cluster = self._slices(rules)
        if self.newer and OWN in rules and cluster and self.ends.peer == self.own:
            # Before all rules of cluster policies.
            return Decision.ALLOW
        tiers = self._tiers(cluster, rules)
        admin = tiers.get("Admin", "")
        if admin in ("Accept", "Deny"):
            return Decision.ALLOW if admin == "Accept" else Decision.DENY
        middle = self._by_network_policies(slices, rules)
        if middle is not None:
            return middle
        return Decision.DENY if tiers.get("Baseline") == "Deny" else Decision.ALLOW

    def _slices(self, rules: frozenset[str]) -> tuple[Slices, Slices]:
        pod = self.ends.pod
        if SHARED in rules:
            return endpoints.of_identifier(self.world, pod), endpoints.cluster_of_identifier(self.world, pod)
        return endpoints.of_pod(self.world, pod), endpoints.cluster_of_pod(self.world, pod)

    def _is_skipped(self, entry: EndpointEntry) -> bool:
        """Rules whose address is the own node's are left out, whatever the length of their prefix."""
        return entry.prefix.network_address == self.own

    def _tiers(self, cluster: Slices, rules: frozenset[str]) -> dict[str, str]:
        """The action of each tier that says something."""
        found: dict[str, EndpointEntry] = {}
        for entry in cluster.holding(self.ends.direction, self.ends.peer):
            if not port_lists.admits(entry.ports, self.ends.flow) or (OWN in rules and self._is_skipped(entry)):
                continue
            tier = "Baseline" if entry.tier == "Baseline" else "Admin"
            if tier not in found or _order(entry) < _order(found[tier]):
                found[tier] = entry
        return {tier: entry.action for tier, entry in found.items()}

    def _by_network_policies(self, slices: Slices, rules: frozenset[str]) -> Decision | None:
        """None: the direction is not restricted, and nothing stands in the map for it."""
        if not slices:
            return None
        peer, direction = self.ends.peer, self.ends.direction
        restricted = slices.has_entries(direction) or bool(endpoints.isolates(slices, direction))
        own = peer == self.own
        if restricted and LONGEST in rules:
            if own and OWN not in rules:
                return Decision.ALLOW
            return Decision.ALLOW if self._by_map(slices, rules) else Decision.DENY
        if own and (restricted or OWN in rules):
            return Decision.ALLOW
        if not restricted:
            return Decision.ALLOW if CATCH_ALL in rules else None
        return Decision.ALLOW if self._by_union(slices, rules) else Decision.DENY

    def entry(self, slices: Slices, rules: frozenset[str]) -> agent.Expected | None:
        """The entry of the rule map that decides."""
        own = self.own if OWN in rules else None
        made = agent.program(slices, self.ends.direction, own, self.family)
        table = LpmTable(tuple(LpmEntry(prefix, tuple(sorted(one.slots))) for prefix, one in made.items()))
        found = table.lookup(host_network(self.ends.peer))
        return made[found.prefix] if found is not None else None

    def _by_map(self, slices: Slices, rules: frozenset[str]) -> bool:
        found = self.entry(slices, rules)
        if found is None:
            return False
        # Where slots are cut off and it matters, the expected verdict is unknown, and this is not asked.
        slots = tuple(sorted(found.slots))
        return scan(LpmEntry(found.prefix, slots), self.ends.flow, limit=len(slots))[1]

    def _by_union(self, slices: Slices, rules: frozenset[str]) -> bool:
        return any(
            port_lists.admits(entry.ports, self.ends.flow) and not (OWN in rules and self._is_skipped(entry))
            for entry in self._meaning(slices)
        )

    def _meaning(self, slices: Slices) -> Iterator[EndpointEntry]:
        """The entries that mean the other end, whatever the port."""
        peer = self.ends.peer
        for entry in slices.holding(self.ends.direction, peer):
            if not any(one.version == peer.version and peer in one for one in entry.excepts):
                yield entry

    # ---- in words

    def reasons(self, outcome: Decision) -> Iterator[Reason]:
        """Codes and sentences of the agent's rules that turn what the PolicyEndpoints say into this outcome."""
        found = needed(self.rules, self.decide, outcome)
        reasons = [self._sentence(one, frozenset(found), outcome) for one in found]
        if None not in reasons:
            yield from (reason for reason in reasons if reason is not None)

    def _sentence(self, rule: str, rules: frozenset[str], outcome: Decision) -> Reason | None:
        ends = self.ends
        if rule == FAMILY:
            text = (
                f"{ends.peer} is IPv{ends.peer.version} and {name_of(ends.pod)} has IPv{self.family}: its programs "
                f"look at packets of IPv{self.family} only, and the agent skips all rules of the other family"
            )
            return "OTHER_FAMILY", text
        if rule == ICMP:
            return "ICMPV6", "the program lets ICMPv6 through whatever the rules say"
        if rule == SHARED:
            return "SHARED_IDENTIFIER", shared_identifier(ends.pod, self.world)
        if rule == OWN:
            return "OWN_NODE", self._own_node(rules)
        if rule == CATCH_ALL:
            slices, cluster = self._slices(rules)
            text = (
                f"the pod is in the PolicyEndpoints of {_policies(slices)}, which do not restrict {ends.direction}: so "
                "that the agent writes an entry for everybody, and the Baseline rules of "
                f"{_policies(cluster)} are not asked"
            )
            return "BASELINE_DEAD", text
        return self._longest(rules, outcome)

    def _own_node(self, rules: frozenset[str]) -> str:
        ends = self.ends
        node = f"the pod's own node {node_of(ends.pod)}"
        if ends.peer == self.own:
            return f"{ends.peer} is the address of {node}: the agent lets it pass, and leaves out all rules for it"
        slices, cluster = self._slices(rules)
        entries = [*slices.holding(ends.direction, ends.peer), *cluster.holding(ends.direction, ends.peer)]
        skipped = _places(one for one in entries if self._is_skipped(one))
        return f"the agent leaves out {skipped}, as the block begins with the address of {node}, {self.own}"

    def _longest(self, rules: frozenset[str], outcome: Decision) -> Reason | None:
        slices, _ = self._slices(rules)
        entry = self.entry(slices, rules)
        if entry is None:
            return None
        if entry.origin == agent.EXCEPT:
            entries = slices.entries(self.ends.direction)
            text = (
                f"{entry.prefix} is an except of {_places(one for one in entries if entry.prefix in one.excepts)}: "
                "agents up to 1.4.2 deny it for every other rule too, where Kubernetes allows what any rule allows"
            )
            return "EXCEPT_WINS", text
        if outcome is Decision.ALLOW:
            meaning = set(self._meaning(slices))
            holding = set(slices.holding(self.ends.direction, self.ends.peer))
            lost = [one for one in holding - meaning if port_lists.admits(one.ports, self.ends.flow)]
            text = (
                f"only the longest prefix counts, {entry.prefix}: it inherits the ports of {_places(entry.inherited)}, "
                f"and with them those of {_places(lost)}, although that excepts {self.ends.peer} (agents up to 1.4.2)"
            )
            return "EXCEPT_LOST", text
        left = [one for one in self._meaning(slices) if port_lists.admits(one.ports, self.ends.flow)]
        why = f"{entry.prefix.network_address} is among what is excepted from that block"
        if self.family == 6 and all(one.prefix.prefixlen == HOST_LENGTH_OF_BOTH for one in left):
            why = f"the agent takes a /{HOST_LENGTH_OF_BOTH} for a single address in IPv6 as well"
        text = (
            f"only the longest prefix counts, {entry.prefix}, and it does not inherit the ports of {_places(left)}, "
            f"which allows the flow: {why} (agents up to 1.4.2)"
        )
        return "NOT_INHERITED", text


HOST_LENGTH_OF_BOTH = 32
"""The agent tells hosts from blocks by the text of the mask (agent facts 5.3)."""


def _places(entries: Iterable[EndpointEntry]) -> str:
    """`web-abcde spec.egress[0] (10.0.0.0/8)`."""
    return ", ".join(sorted({f"{one.endpoint} {one.path} ({one.prefix})" for one in entries}))


def _order(entry: EndpointEntry) -> tuple[int, int]:
    return entry.priority, endpoints.ACTIONS.get(entry.action, 9)


def _policies(slices: Slices) -> str:
    return ", ".join(sorted({policy_of(one) for one in slices}))


# ---- pods that share a pod identifier


def shared_identifier(pod: Json, world: World) -> str:
    """`web-a shares its pod identifier with web-b: the rules of db apply to it as well`; empty: it does not."""
    mates = _mates(pod, world)
    if not mates:
        return ""
    own = {id(one) for one in _listing(pod, world, shared=False)}
    policies = {policy_of(one) for one in _listing(pod, world, shared=True) if id(one) not in own}
    names = ", ".join(mates[:SHOWN]) + (f" and {len(mates) - SHOWN} more" if len(mates) > SHOWN else "")
    return (
        f"{name_of(pod)} shares its pod identifier with {names}: the rules of {', '.join(sorted(policies))} apply to "
        "it as well (pods of a namespace are one for the agent where their names differ in the last part only)"
    )


SHOWN = 3


def _listing(pod: Json, world: World, *, shared: bool) -> list[Json]:
    if shared:
        return [*endpoints.of_identifier(world, pod), *endpoints.cluster_of_identifier(world, pod)]
    return [*endpoints.of_pod(world, pod), *endpoints.cluster_of_pod(world, pod)]


def _mates(pod: Json, world: World) -> list[str]:
    """Names of the pods, anywhere in the cluster, that share the pod's identifier and not its policies."""
    own = {id(one) for one in _listing(pod, world, shared=False)}
    part, namespace = pod_part(name_of(pod)), namespace_of(pod)
    return sorted(
        {
            name
            for endpoint in _listing(pod, world, shared=True)
            if id(endpoint) not in own
            for space, name in lists(endpoint)
            if space == namespace and pod_part(name) == part and name != name_of(pod)
        }
    )
