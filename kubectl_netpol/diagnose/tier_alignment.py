"""Cluster policy rules, ClusterPolicyEndpoint entries and cp map entries of one direction, aligned by prefix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.diagnose.alignment import Row, Status, family_of, who
from kubectl_netpol.kernel.layouts import SLOTS
from kubectl_netpol.kernel.verdict import slots_text, used_slots
from kubectl_netpol.model.flow import Direction, Network, host_network
from kubectl_netpol.model.kernel import LpmEntry, LpmTable
from kubectl_netpol.policy import agent, controller, endpoints, tiers
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.agent_newer import OWN_NODE_SLOT
from kubectl_netpol.policy.controller import Wanted
from kubectl_netpol.policy.endpoints import EndpointEntry
from kubectl_netpol.policy.ports import ALL_PORTS, Port
from kubectl_netpol.policy.world import World, name_of, node_of

Json = dict[str, Any]
Key = tuple[Network, str]


@dataclass(frozen=True)
class HeldTiers:
    """What the kernel holds of cluster policies for one direction."""

    table: LpmTable | None = None
    complete: bool = True
    attached: bool = True
    """False: it is known that no program is attached."""
    exists: bool = True
    """False: the program is of an agent before 1.3.0, which knows no cluster policies."""
    elsewhere: bool = False
    """Pods of the identifier are listed on other nodes only."""
    unread: str = ""
    asked: bool = True
    """False: the question is about the API alone."""


def align_tiers(pod: Json, direction: Direction, world: World, held: HeldTiers) -> tuple[Row, ...]:
    """The rows, in the order of tiers and priorities. Empty where no cluster policy concerns the pod."""
    resolved = endpoints.cluster_of_identifier(world, pod)
    family = family_of(held.table, pod)
    own = world.own_node_address(pod, family)
    builder = _Builder(pod, world, held, family)
    policies = sorted(world.cluster_policies_selecting(pod), key=_rank)
    wanted = [(policy, want) for policy in policies for want in controller.resolve(policy, direction, world)[0]]
    expected = agent.program_tiers(resolved, direction, own, family)
    return tuple(builder.rows(wanted, list(endpoints.entries(resolved, direction)), expected))


def _rank(policy: Json) -> tuple[bool, int, str]:
    return tiers.tier_of(policy) == tiers.BASELINE, tiers.priority_of(policy), name_of(policy)


def policy_text(policy: Json) -> str:
    """`block-metadata (Admin 10)`."""
    return f"{name_of(policy)} ({tiers.tier_of(policy)} {tiers.priority_of(policy)})"


class _Builder:
    def __init__(self, pod: Json, world: World, held: HeldTiers, family: int) -> None:
        self.pod, self.world, self.held, self.family = pod, world, held, family
        kinds = ("clusternetworkpolicies", "namespaces", "pods", "services")
        self.intent_unread = world.unread(*kinds)
        self.endpoints_unread = world.unread("clusterpolicyendpoints")

    def rows(
        self,
        wanted: list[tuple[Json, Wanted]],
        resolved: list[EndpointEntry],
        expected: dict[Network, agent.ExpectedTier],
    ) -> Iterable[Row]:
        asked: dict[Key, list[tuple[Json, Wanted]]] = defaultdict(list)
        given: dict[Key, list[EndpointEntry]] = defaultdict(list)
        for policy, want in wanted:
            asked[want.prefix, want.policy].append((policy, want))
        for entry in resolved:
            given[entry.prefix, entry.policy].append(entry)
        for key in asked | given:
            yield from self._pair(key[0], asked.get(key, []), given.get(key, []), expected.get(key[0]))
        covered = {prefix for prefix, _ in asked | given}
        for found in self.held.table.entries if self.held.table else ():
            if found.prefix not in covered and found.prefix not in expected:
                yield self._unexpected(found)

    def _pair(
        self,
        prefix: Network,
        asked: list[tuple[Json, Wanted]],
        given: list[EndpointEntry],
        expected: agent.ExpectedTier | None,
    ) -> Iterable[Row]:
        status, note = self._status(prefix, [want for _, want in asked], given, expected)
        actual = self.held.table.get(prefix) if self.held.table else None
        common: dict[str, Any] = {
            "prefix": prefix,
            "endpoint": ", ".join(dict.fromkeys(f"{e.endpoint} {e.path}" for e in given)),
            "resolved": _actions_text((e.action, e.ports) for e in given) if given else None,
            "kernel": slots_text(actual.slots) if actual else None,
            "status": status,
            "note": note,
        }
        if not asked:
            first = given[0]
            policy = f"{first.policy} ({first.tier or tiers.ADMIN} {first.priority})"
            yield Row(who=who(prefix, self.world), policy=policy, **common)
        for policy_, want in asked:
            intent = _actions_text([(want.action, want.ports)])
            yield Row(
                who=want.who,
                policy=policy_text(policy_),
                path=want.path,
                selects=want.selects,
                intent=intent,
                **common,
            )

    def _status(
        self,
        prefix: Network,
        asked: list[Wanted],
        given: list[EndpointEntry],
        expected: agent.ExpectedTier | None,
    ) -> tuple[Status, str]:
        if prefix.version != self.family:
            return Status.OTHER_FAMILY, f"the cluster is IPv{self.family}: the agent skips this family"
        if self.endpoints_unread:
            return Status.UNKNOWN, f"not read: {self.endpoints_unread}"
        if not self.intent_unread:
            if asked and not given:
                return Status.NOT_RESOLVED, "the controller did not resolve this peer (yet)"
            if given and not asked:
                return Status.STALE, "no rule of the policy means this address now: a stale or foreign entry"
            wide, narrow = (_by_action(((w.action, w.ports) for w in asked), narrow=narrow) for narrow in (False, True))
            there = _by_action(((e.action, e.ports) for e in given), narrow=False)
            if there not in (wide, narrow):
                return Status.PORTS_DIFFER, "YAML and ClusterPolicyEndpoint differ in actions or ports"
        return self._against_map(prefix, expected)

    def _against_map(self, prefix: Network, expected: agent.ExpectedTier | None) -> tuple[Status, str]:
        held = self.held
        if not held.asked:
            return Status.OK, ""
        if not held.attached:
            return Status.NOT_ENFORCED, "no program is attached: nothing is filtered"
        if not held.exists:
            return Status.NOT_ENFORCED, "the program is of an agent before 1.3.0, which knows no cluster policies"
        if held.table is None:
            why = f": {held.unread}" if held.unread else ""
            return Status.UNKNOWN, f"the attached map was not read{why}"
        actual = held.table.get(prefix)
        if expected is None:
            own = self.world.own_node_address(self.pod, prefix.version)
            if actual is None and own == prefix.network_address:
                return Status.OK, "the agent skips rules for the own node"
            if actual is not None and self._lets_own_node_pass(actual):
                return Status.NODE, "agents after 1.4.2 skip rules for the own node, and let it pass"
            return (Status.UNWANTED, _NOBODY) if actual else (Status.OK, "")
        if actual is None:
            if held.elsewhere:
                return Status.UNKNOWN, "its policies list pods of this pod identifier on other nodes only"
            if not held.complete:
                return Status.UNKNOWN, "the map was not read to its end"
            return Status.NOT_IN_MAP, "the agent should have written this entry, and the map does not hold it"
        return self._against_slots(actual, expected)

    def _against_slots(self, actual: LpmEntry, expected: agent.ExpectedTier) -> tuple[Status, str]:
        slots, wanted = set(used_slots(actual.slots)), set(expected.slots)
        if slots == wanted:
            inherited = sorted({str(e.prefix) for e in expected.sources if e.prefix != expected.prefix})
            return Status.OK, f"also the rules of {', '.join(inherited)}" if inherited else ""
        if not self.held.complete:
            return Status.UNKNOWN, "not all slots of the entry were read"
        if expected.cut_off and slots <= wanted:
            return (
                Status.CUT_OFF,
                f"{len(expected.slots)} rules meet here and {SLOTS} fit: {len(expected.slots) - SLOTS} are lost",
            )
        return Status.PORTS_DIFFER, f"the map should hold {slots_text(tuple(sorted(wanted)))}"

    def _lets_own_node_pass(self, entry: LpmEntry) -> bool:
        """The entry that agents after 1.4.2 write of their own accord."""
        own = self.world.own_node_address(self.pod, entry.prefix.version)
        is_own = own is not None and entry.prefix == host_network(own)
        return is_own and set(used_slots(entry.slots)) == {OWN_NODE_SLOT}

    def _unexpected(self, entry: LpmEntry) -> Row:
        status, note, name = Status.UNWANTED, _NOBODY, who(entry.prefix, self.world)
        if self._lets_own_node_pass(entry):
            status, note, name = Status.NODE, "added by the agent: the own node passes", f"node {node_of(self.pod)}"
        elif self.endpoints_unread:
            status, note = Status.UNKNOWN, f"not read: {self.endpoints_unread}"
        return Row(prefix=entry.prefix, who=name, kernel=slots_text(entry.slots), status=status, note=note)


_NOBODY = "no cluster policy of this pod asks for this entry"


def _by_action(rules: Iterable[tuple[str, tuple[Port, ...]]], *, narrow: bool) -> dict[str, frozenset[Port]]:
    """The union of ports for each action; releases differ in whether "all ports" swallows or gives way."""
    found: dict[str, set[Port]] = defaultdict(set)
    for action, ports in rules:
        found[action] |= set(ports or ALL_PORTS)
    combine = controller.narrowed if narrow else controller.union
    return {action: combine(ports) for action, ports in found.items()}


def _actions_text(rules: Iterable[tuple[str, tuple[Port, ...]]]) -> str:
    """`Deny 80/TCP; Accept all ports`."""
    found = _by_action(rules, narrow=False)
    return "; ".join(f"{action} {port_lists.text(tuple(ports))}" for action, ports in found.items())
