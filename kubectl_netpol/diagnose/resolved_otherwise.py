"""Why PolicyEndpoints decide otherwise than the YAML: the controller's rules, one difference at a time.

For one flow each policy comes down to a few answers: which peers of its rules mean the flow, whether it restricts the
direction, whether its rules have an order. Kubernetes answers one way, the controller another. A difference is one such
answer; the reason of an outcome are those differences that turn the one outcome into the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from kubectl_netpol.diagnose import rules_differ
from kubectl_netpol.diagnose.reasons import Reason, needed
from kubectl_netpol.diagnose.rules_differ import PeerFits
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.policy import controller, tiers
from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy.controller import Key, Wanted
from kubectl_netpol.policy.networkpolicy import Ends, RulePeer
from kubectl_netpol.policy.ports import Port
from kubectl_netpol.policy.tiers import ACTIONS, ClusterRule
from kubectl_netpol.policy.world import APPLICATION_POLICY, CLUSTER_POLICY, World, kind_of, label_of

Json = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """One answer that the controller gives otherwise."""

    kind: str
    """peer | listed | order | node"""
    policy: str = ""
    path: str = ""


NODE = Difference("node")
"""Whether the other end is the pod's own node: behind a ClusterIP it may be."""


ITSELF = Difference("itself")
"""Whether the other end is the pod itself, which no policy is asked about: behind a ClusterIP it may be."""


@dataclass(frozen=True)
class Merging:
    """How the controller joins entries of one prefix."""

    narrow: frozenset[str] = frozenset({CLUSTER_POLICY})
    """Kinds of policies of which "all ports" gives way to some ports."""
    first_peer: bool = False
    """Ingress rules of cluster policies are lost where their first peer means no namespace (up to 1.1.7)."""


NEWEST = Merging()


class Case:
    """One flow, and the policies that select its pod."""

    def __init__(self, ends: Ends, backends: Sequence[Ends], world: World, merging: Merging = NEWEST) -> None:
        self.ends, self.world, self.merging = ends, world, merging
        self.real: tuple[Ends, ...] = tuple(backends) or (ends,)
        """The ends that INTENT is about: behind a ClusterIP one for each pod."""
        self.policies = world.policies_selecting(ends.pod)
        self.cluster = world.cluster_policies_selecting(ends.pod)
        self._entries: dict[str, tuple[list[Wanted], dict[Key, frozenset[Port]]]] = {}

    # ---- the answers

    @cached_property
    def rules(self) -> dict[str, list[PeerFits]]:
        """All peers of the rules of each NetworkPolicy and ApplicationNetworkPolicy."""
        return {
            _name(policy): [self._fits(peer) for peer in np.rule_peers(policy, self.ends.direction)]
            for policy in self.policies
        }

    @cached_property
    def cluster_rules(self) -> dict[str, list[tuple[ClusterRule, list[PeerFits]]]]:
        return {
            _name(policy): [
                (rule, [self._fits(peer) for peer in rule.peers])
                for rule in tiers.cluster_rules(policy, self.ends.direction)
            ]
            for policy in self.cluster
        }

    def _fits(self, peer: RulePeer) -> PeerFits:
        intended = tuple(
            not peer.domains and np.rule_admits(peer, ends) and np.peer_matches(peer, ends, self.world)
            for ends in self.real
        )
        near = tuple(one for one in self._near(peer.policy)[0] if one.path == peer.path)
        dropped = self.merging.first_peer and self._is_lost(peer)
        resolved = not dropped and self._resolved(peer)
        return PeerFits(peer, self.ends, self.real, intended, resolved, near, dropped)

    def _resolved(self, peer: RulePeer) -> bool:
        """Whether an entry that the peer brings means the flow, once the entries of its policy are merged."""
        near, written = self._near(peer.policy)
        narrow = kind_of(peer.policy) in self.merging.narrow
        return any(
            rules_differ.holds(key, self.ends.peer) and rules_differ.admits(ports, self.ends.flow)
            for entry in near
            if entry.path == peer.path and rules_differ.admits(entry.ports, self.ends.flow)
            for key, ports in written.items()
            if (key[0], key[2]) == (entry.prefix, entry.action) and (narrow or {*key[1]} == {*entry.excepts})
        )

    def _near(self, policy: Json) -> tuple[list[Wanted], dict[Key, frozenset[Port]]]:
        """The entries of a policy whose prefix holds the other end: one by one, and merged."""
        if _name(policy) not in self._entries:
            peer = self.ends.peer
            wanted = controller.resolution(policy, self.world).wanted[self.ends.direction]
            near = [one for one in wanted if one.prefix.version == peer.version and peer in one.prefix]
            merged = controller.merged(near, narrow=kind_of(policy) in self.merging.narrow)
            self._entries[_name(policy)] = near, merged
        return self._entries[_name(policy)]

    def _is_lost(self, peer: RulePeer) -> bool:
        """Agent facts 6.6: ``from[0]`` decides about the whole rule."""
        if kind_of(peer.policy) != CLUSTER_POLICY or peer.direction is not Direction.INGRESS:
            return False
        rules = tiers.cluster_rules(peer.policy, peer.direction)
        first = next(rule.peers[0] for rule in rules if peer.path in {one.path for one in rule.peers})
        return not np.peer_namespaces(first, self.world)

    def _listed(self, policy: Json) -> tuple[bool, bool]:
        """Whether the policy restricts the direction: for Kubernetes, and as it is resolved."""
        direction = self.ends.direction
        found = controller.resolution(policy, self.world)
        resolved = direction.value.capitalize() in found.isolation or bool(found.wanted[direction])
        return direction in np.directions(policy), resolved

    # ---- what follows from them

    @cached_property
    def differences(self) -> list[Difference]:
        found = [Difference("order", _name(policy)) for policy in self.cluster]
        found += [
            Difference("listed", _name(policy)) for policy in self.policies if len(set(self._listed(policy))) == 2
        ]
        peers = [*(one for rules in self.rules.values() for one in rules)]
        peers += [one for rules in self.cluster_rules.values() for _, fits in rules for one in fits]
        found += [_of_peer(one.peer) for one in peers if {*one.intended} != {one.resolved}]
        if not np.is_itself(self.ends) and any(np.is_itself(real) for real in self.real):
            found.append(ITSELF)
        return [*found, NODE]

    def decide(self, differences: frozenset[Difference]) -> Decision:
        """What comes of it when these answers are the controller's, and all others those of Kubernetes.

        Of several pods behind a ClusterIP the one that fares worst counts, as for INTENT.
        """
        found = (self._decide(number, differences) for number in self._unlike)
        return Decision.DENY if any(one is Decision.DENY for one in found) else Decision.ALLOW

    @cached_property
    def _unlike(self) -> list[int]:
        """Of pods behind a ClusterIP that the same rules mean, one each."""
        fits = [one for rules in self.rules.values() for one in rules]
        fits += [one for rules in self.cluster_rules.values() for _, peers in rules for one in peers]
        seen: dict[tuple[Any, ...], int] = {}
        for number, real in enumerate(self.real):
            own = real.peer == self.world.own_node_address(self.ends.pod, real.peer.version)
            seen.setdefault((np.is_itself(real), own, *(one.intended[number] for one in fits)), number)
        return list(seen.values())

    @property
    def resolved(self) -> Decision:
        """What the controller makes of it."""
        return self.decide(frozenset(self.differences))

    def _decide(self, number: int, differences: frozenset[Difference]) -> Decision:
        if ITSELF not in differences and np.is_itself(self.real[number]):
            return Decision.ALLOW
        admin = self._tier(tiers.ADMIN, number, differences)
        if admin in ("Accept", "Deny"):
            return Decision.ALLOW if admin == "Accept" else Decision.DENY
        listed = [
            policy
            for policy in self.policies
            if self._listed(policy)[Difference("listed", _name(policy)) in differences]
        ]
        if listed:
            peer = self.ends.peer if NODE in differences else self.real[number].peer
            if peer == self.world.own_node_address(self.ends.pod, peer.version):
                return Decision.ALLOW
            fits = (one for policy in listed for one in self.rules[_name(policy)])
            return Decision.ALLOW if any(_means(one, number, differences) for one in fits) else Decision.DENY
        denied = self._tier(tiers.BASELINE, number, differences) == "Deny"
        return Decision.DENY if denied else Decision.ALLOW

    def _tier(self, tier: str, number: int, differences: frozenset[Difference]) -> str:
        """The action of the rule that decides in a tier; "" where none means the flow."""
        mine = sorted((p for p in self.cluster if tiers.tier_of(p) == tier), key=tiers.priority_of)
        for _, same in groupby(mine, key=tiers.priority_of):
            actions = [action for policy in same if (action := self._action(policy, number, differences))]
            if actions:
                return min(actions, key=_rank)
        return ""

    def _action(self, policy: Json, number: int, differences: frozenset[Difference]) -> str:
        rules = self.fitting(policy, number, differences)
        if Difference("order", _name(policy)) in differences:
            rules = sorted(rules, key=lambda rule: _rank(rule.action))
        return rules[0].action if rules else ""

    def fitting(self, policy: Json, number: int, differences: frozenset[Difference]) -> list[ClusterRule]:
        """The rules of one cluster policy that mean the flow."""
        return [
            rule
            for rule, fits in self.cluster_rules[_name(policy)]
            if any(_means(one, number, differences) for one in fits)
        ]

    # ---- in words

    def reasons(self, outcome: Decision) -> Iterator[Reason]:
        """Codes and sentences of what turns the outcome that Kubernetes defines into this one."""
        found = needed(self.differences, self.decide, outcome)
        reasons = [self._sentence(one, frozenset(found)) for one in found]
        if None not in reasons:
            # Half of the truth would send people the wrong way.
            yield from (reason for reason in reasons if reason is not None)

    def _sentence(self, one: Difference, found: frozenset[Difference]) -> Reason | None:
        if one.kind == "order":
            return self._order(one, found)
        if one.kind == "listed":
            return self._types(next(p for p in self.policies if _name(p) == one.policy))
        if one == ITSELF:
            return rules_differ.itself(self.ends, self.world)
        if one == NODE:
            return rules_differ.own_node(self.ends, self.world)
        return rules_differ.sentence(self._peer(one), self.world)

    def _peer(self, one: Difference) -> PeerFits:
        peers: list[PeerFits] = [*self.rules.get(one.policy, ())]
        peers += [fits for _, rule in self.cluster_rules.get(one.policy, ()) for fits in rule]
        return next(fits for fits in peers if fits.peer.path == one.path)

    def _types(self, policy: Json) -> Reason:
        direction, label = self.ends.direction, label_of(policy)
        kind = direction.value.capitalize()
        if self._listed(policy)[0]:
            text = (
                f"{label} has no policyTypes and brings no {direction} entry: nobody fills {kind} in for an "
                f"{APPLICATION_POLICY}, so that nothing restricts the direction"
            )
            return "NO_POLICY_TYPES", text
        text = (
            f"{label} has {direction} rules and does not list {kind} in policyTypes: Kubernetes ignores such rules, "
            "EKS enforces them and restricts the direction to them"
        )
        return "POLICY_TYPES", text

    def _order(self, one: Difference, differences: frozenset[Difference]) -> Reason | None:
        policy = next(p for p in self.cluster if _name(p) == one.policy)
        for number in range(len(self.real)):
            rules = self.fitting(policy, number, differences)
            wins = min(rules, key=lambda rule: _rank(rule.action), default=None)
            if wins is not None and wins.action != rules[0].action:
                text = (
                    f"{rules[0].text} comes first and says {rules[0].action}, but the rules of one "
                    f"ClusterNetworkPolicy have no order on EKS: {wins.action} of {wins.path} wins"
                )
                return "RULE_ORDER", text
        return None


def _name(policy: Json) -> str:
    return label_of(policy)


def _of_peer(peer: RulePeer) -> Difference:
    return Difference("peer", _name(peer.policy), peer.path)


def _means(fits: PeerFits, number: int, differences: frozenset[Difference]) -> bool:
    if fits.resolved is fits.intended[number]:
        return fits.resolved
    return fits.resolved if _of_peer(fits.peer) in differences else fits.intended[number]


def _rank(action: str) -> int:
    return ACTIONS.index(action) if action in ACTIONS else len(ACTIONS)
