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
    if unread:
        return Verdict(layer, Decision.UNKNOWN, "NOT_READ", f"not read: {unread}")
    policies = [] if on_host_network(ends.pod) else world.cluster_policies_selecting(ends.pod)
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
    for end in (" allows ", " isolates ", " isolate "):
        head, cut, _ = found.why.partition(end)
        if cut:
            return head
    return ""


class _Tiers:
    """One flow on its way through the tiers."""

    def __init__(self, ends: Ends, world: World, policies: list[Json]) -> None:
        self.ends, self.world, self.policies = ends, world, policies
        self.chain: list[Step] = []
        self.maybe: list[str] = []
        """Rules for domain names that the other end may have, met on the way."""
        self.notes: list[str] = []

    def verdict(self) -> Verdict:
        return self._by_tier(ADMIN) or self._by_network_policies() or self._by_tier(BASELINE) or self._by_default()

    def _made(self, decision: Decision, code: str, why: str, *facts: str) -> Verdict:
        chain = tuple(self.chain)
        if self.maybe and decision is not Decision.ALLOW:
            may = f"{'; '.join(self.maybe)}: whether {self.ends.peer} is an address of it is not known here"
            return Verdict(Layer.INTENT, Decision.UNKNOWN, "DOMAIN_NAME", may, (why, *facts), chain=chain)
        return Verdict(Layer.INTENT, decision, code, why, (*facts, *self.notes), chain=chain)

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
        mine = sorted((p for p in self.policies if tier_of(p) == tier), key=lambda p: (priority_of(p), name_of(p)))
        for priority, same in groupby(mine, key=priority_of):
            fitting = [rule for policy in same if (rule := self._first(policy)) is not None]
            if not fitting:
                continue
            if len({rule.action for rule in fitting}) > 1:
                names = ", ".join(f"{name_of(r.policy)} ({r.action})" for r in fitting)
                self.notes.append(f"{names} share priority {priority} in the {tier} tier: Deny wins, then Accept")
            return min(fitting, key=lambda rule: ACTIONS.index(rule.action) if rule.action in ACTIONS else 9)
        return None

    def _first(self, policy: Json) -> ClusterRule | None:
        for rule in cluster_rules(policy, self.ends.direction):
            for peer in rule.peers:
                if not np.rule_admits(peer, self.ends):
                    continue
                if np.peer_matches(peer, self.ends, self.world):
                    return rule
                if rule.action != "Deny" and np.may_be_domain(peer, self.ends, self.world):
                    self.maybe.append(f"{rule.text} means {np.peer_text(peer.peer)}")
        return None

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
