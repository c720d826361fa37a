"""INTENT over all tiers: Admin cluster policies, NetworkPolicies, Baseline cluster policies, and the default.

ClusterNetworkPolicy as its authors mean it, which is the semantics of the upstream ClusterNetworkPolicy: policies in
the order of their priority, the rules of one policy in the order in which they are written, the first rule that fits
decides, Pass leaves the tier. What the EKS controller and agent make of it differs: see ``diagnose.deviations``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.verdict import Decision, Layer, Step, Verdict
from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy.networkpolicy import Ends, RulePeer
from kubectl_netpol.policy.world import World, name_of, on_host_network

Json = dict[str, Any]

ADMIN, NETWORK, BASELINE, DEFAULT = "Admin", "NetworkPolicy", "Baseline", "default"
ACTIONS = ("Deny", "Accept", "Pass")
"""Of rules of one priority the datapath takes the first of these (agent facts 3.4)."""


@dataclass(frozen=True)
class ClusterRule:
    """One rule of a ClusterNetworkPolicy, its peers in the form of NetworkPolicy's."""

    policy: Json
    direction: Direction
    path: str
    name: str
    action: str
    peers: tuple[RulePeer, ...]

    @property
    def text(self) -> str:
        """`block-metadata (priority 10) spec.egress[0] "no-imds"`."""
        name = f' "{self.name}"' if self.name else ""
        return f"{name_of(self.policy)} (priority {priority_of(self.policy)}) {self.path}{name}"


def tier_of(policy: Json) -> str:
    return BASELINE if (policy.get("spec") or {}).get("tier") == BASELINE else ADMIN


def priority_of(policy: Json) -> int:
    value = (policy.get("spec") or {}).get("priority")
    return value if isinstance(value, int) else 0


def cluster_rules(policy: Json, direction: Direction) -> Iterator[ClusterRule]:
    """The rules of one direction, in their order."""
    for number, rule in enumerate((policy.get("spec") or {}).get(direction.value) or ()):
        path = f"spec.{direction.value}[{number}]"
        action, ports = str(rule.get("action") or ""), tuple(_ports(rule.get("ports") or ()))
        side = "from" if direction is Direction.INGRESS else "to"
        peers = tuple(
            RulePeer(policy, direction, f"{path}.{side}[{index}]{more}", peer, ports, action)
            for index, one in enumerate(rule.get(side) or ())
            for more, peer in _peers(one or {})
        )
        yield ClusterRule(policy, direction, path, str(rule.get("name") or ""), action, peers)


def _peers(peer: Json) -> Iterator[tuple[str, Json]]:
    """(rest of the path, peer in NetworkPolicy's form): networks are one each, and selectors always name namespaces."""
    for index, cidr in enumerate(peer.get("networks") or ()):
        yield f".networks[{index}]", {"ipBlock": {"cidr": cidr}}
    if peer.get("namespaces") is not None:
        yield "", {"namespaceSelector": peer["namespaces"]}
    pods = peer.get("pods")
    if pods is not None:
        found = {"namespaceSelector": pods.get("namespaceSelector") or {}, "podSelector": pods.get("podSelector") or {}}
        yield "", found
    if peer.get("domainNames"):
        yield "", {"domainNames": peer["domainNames"]}


def _ports(ports: tuple[Json, ...]) -> Iterator[Json]:
    """Ports in NetworkPolicy's form."""
    for port in ports:
        number, span, name = port.get("portNumber"), port.get("portRange"), port.get("namedPort")
        if number:
            yield {"protocol": number.get("protocol") or "TCP", "port": number.get("port")}
        if span:
            yield {"protocol": span.get("protocol") or "TCP", "port": span.get("start"), "endPort": span.get("end")}
        if name:
            # It has no protocol of its own; the controller takes TCP (clusternetworkpolicy_resolver.go).
            yield {"protocol": "TCP", "port": str(name)}


def evaluate(ends: Ends, world: World) -> Verdict:
    """The INTENT verdict of one leg, with the chain of tiers that led to it."""
    layer = Layer.INTENT
    unread = world.unread("clusternetworkpolicies")
    if not unread and world.cluster_policies:
        # Without the labels of namespaces it is not known whom they mean, and the first that means somebody decides.
        unread = world.unread("namespaces", "pods")
    if unread:
        return Verdict(layer, Decision.UNKNOWN, "NOT_READ", f"not read: {unread}")
    exempt = on_host_network(ends.pod) or np.is_itself(ends)
    policies = [] if exempt else world.cluster_policies_selecting(ends.pod)
    if not policies:
        found = np.evaluate(ends, world)
        return replace(found, chain=_network_steps(found))
    return _Tiers(ends, world, policies).verdict()


def _network_steps(found: Verdict) -> tuple[Step, ...]:
    if found.code == "NOT_ISOLATED":
        return Step(NETWORK, "not isolated"), Step(DEFAULT, "Allow")
    word = {Decision.ALLOW: "Accept", Decision.DENY: "Deny"}.get(found.decision)
    return (Step(NETWORK, word, _by(found)),) if word else ()


def _by(found: Verdict) -> str:
    """The policies that a verdict of the NetworkPolicy tier names, without the rest of the sentence."""
    heads = [found.why.partition(end)[0] for end in (" allows ", " isolates ", " isolate ") if end in found.why]
    return min(heads, key=len, default="")


def _rank(action: str) -> int:
    """Of two rules of one priority the one with the lower rank decides; "" is no rule."""
    if action in ACTIONS:
        return ACTIONS.index(action)
    return len(ACTIONS) + (not action)


class _Tiers:
    """One flow on its way through the tiers."""

    def __init__(self, ends: Ends, world: World, policies: list[Json]) -> None:
        self.ends, self.world, self.policies = ends, world, policies
        self.chain: list[Step] = []
        self.maybe: list[str] = []
        """Rules for domain names that the other end may have, met on the way."""
        self.notes: list[str] = []

    def verdict(self) -> Verdict:
        found = self._by_tier(ADMIN) or self._by_network_policies() or self._by_tier(BASELINE) or self._by_default()
        if not self.maybe or found.decision is Decision.UNKNOWN or self._decisions() == {found.decision}:
            return found
        may = f"{'; '.join(self.maybe)}: whether {self.ends.peer} is an address of it is not known here"
        facts = found.why, *found.evidence
        return Verdict(Layer.INTENT, Decision.UNKNOWN, "DOMAIN_NAME", may, facts, chain=found.chain)

    def _decisions(self) -> set[Decision]:
        """All that may come of it, as each rule for domain names may or may not mean the other end."""
        admin = self._outcomes(ADMIN)
        found = {Decision.ALLOW} if "Accept" in admin else set()
        found |= {Decision.DENY} if "Deny" in admin else set()
        if not admin & {"Pass", ""}:
            return found
        middle = np.evaluate(self.ends, self.world)
        if middle.code != "NOT_ISOLATED":
            return found | {middle.decision}
        baseline = self._outcomes(BASELINE)
        found |= {Decision.DENY} if "Deny" in baseline else set()
        return found | ({Decision.ALLOW} if baseline - {"Deny"} else set())

    def _outcomes(self, tier: str) -> set[str]:
        """The actions that one tier may come to; "": none of its rules means the flow."""
        found: set[str] = set()
        for _, same in groupby(self._of(tier), key=priority_of):
            group = {""}
            for policy in same:
                own = list(self._may_decide(policy))
                group = {min(left, right, key=_rank) for left in group for right in own}
            found |= group - {""}
            if "" not in group:
                return found
        return found | {""}

    def _may_decide(self, policy: Json) -> Iterator[str]:
        """The actions of one policy's rules up to the first that surely means the flow; "" where none does."""
        for rule, surely in self._fitting(policy):
            yield rule.action
            if surely:
                return
        yield ""

    def _made(self, decision: Decision, code: str, why: str, *facts: str) -> Verdict:
        return Verdict(Layer.INTENT, decision, code, why, (*facts, *self.notes), chain=tuple(self.chain))

    def _by_tier(self, tier: str) -> Verdict | None:
        rule = self._winner(tier)
        if rule is None:
            self.chain.append(Step(tier, "nothing matches"))
            return None
        self.chain.append(Step(tier, rule.action, rule.text))
        if rule.action not in ("Accept", "Deny"):
            return None
        allowed = rule.action == "Accept"
        code = f"{tier.upper()}_{'ACCEPT' if allowed else 'DENY'}"
        peers = [np.peer_text(one.peer) for one in rule.peers if np.peer_matches(one, self.ends, self.world)]
        verb = "accepts" if allowed else "denies"
        why = f"ClusterNetworkPolicy {rule.text} {verb} {peers[0]}, in the {tier} tier"
        return self._made(Decision.ALLOW if allowed else Decision.DENY, code, why)

    def _winner(self, tier: str) -> ClusterRule | None:
        """The first rule that fits, of the policy with the lowest priority that has one."""
        for priority, same in groupby(self._of(tier), key=priority_of):
            fitting = [rule for policy in same if (rule := self._first(policy)) is not None]
            if not fitting:
                continue
            if len({rule.action for rule in fitting}) > 1:
                names = ", ".join(f"{name_of(r.policy)} ({r.action})" for r in fitting)
                self.notes.append(f"{names} share priority {priority} in the {tier} tier: Deny wins, then Accept")
            return min(fitting, key=lambda rule: _rank(rule.action))
        return None

    def _of(self, tier: str) -> list[Json]:
        """The policies of one tier, by priority."""
        mine = (policy for policy in self.policies if tier_of(policy) == tier)
        return sorted(mine, key=lambda policy: (priority_of(policy), name_of(policy)))

    def _first(self, policy: Json) -> ClusterRule | None:
        for rule, surely in self._fitting(policy):
            if surely:
                return rule
            names = (np.peer_text(peer.peer) for peer in rule.peers if peer.domains)
            self.maybe.append(f"{rule.text} means {', '.join(names)}")
        return None

    def _fitting(self, policy: Json) -> Iterator[tuple[ClusterRule, bool]]:
        """The rules that mean the flow, in their order; False: only if the other end has a domain name."""
        for rule in cluster_rules(policy, self.ends.direction):
            # The ports are the rule's, the same for each of its peers.
            peers = rule.peers if rule.peers and np.rule_admits(rule.peers[0], self.ends) else ()
            if any(np.peer_matches(peer, self.ends, self.world) for peer in peers):
                yield rule, True
            elif rule.action != "Deny" and any(np.may_be_domain(peer, self.ends, self.world) for peer in peers):
                # Deny is not supported for domain names.
                yield rule, False

    def _by_network_policies(self) -> Verdict | None:
        found = np.evaluate(self.ends, self.world)
        if found.code == "NOT_ISOLATED":
            self.chain.append(Step(NETWORK, "not isolated"))
            return None
        self.chain += _network_steps(found)
        if found.decision is Decision.UNKNOWN:
            return replace(found, chain=tuple(self.chain))
        return self._made(found.decision, found.code, found.why, *found.evidence)

    def _by_default(self) -> Verdict:
        self.chain.append(Step(DEFAULT, "Allow"))
        names = ", ".join(name_of(policy) for policy in self.policies)
        why = f"no rule of {names} means this flow, and no NetworkPolicy isolates the pod for {self.ends.direction}"
        return self._made(Decision.ALLOW, "NOT_ISOLATED", why)
