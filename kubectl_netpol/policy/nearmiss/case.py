"""One denied flow, with what all near misses ask about it, and the changes that they propose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

from kubectl_netpol.model.flow import Direction, host_network, protocol_name
from kubectl_netpol.model.verdict import Decision, Verdict
from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy import selectors, targets, tiers
from kubectl_netpol.policy.nearmiss.record import Change, Proof
from kubectl_netpol.policy.networkpolicy import Ends, RulePeer
from kubectl_netpol.policy.world import (
    COLLECTIONS,
    World,
    kind_of,
    label_of,
    labels_of,
    name_of,
    namespace_of,
    on_host_network,
    ref,
)

Json = dict[str, Any]


class Case:
    """``judged``: the end whose denial is explained; of a flow to a Service the first denied pod behind it."""

    def __init__(self, ends: Ends, backends: tuple[Ends, ...], world: World) -> None:
        self.ends, self.backends, self.world = ends, backends, world
        self.judged, self.intent = _judged(backends or (ends,), world)

    @property
    def direction(self) -> Direction:
        return self.ends.direction

    @property
    def incoming(self) -> bool:
        return self.ends.direction is Direction.INGRESS

    @property
    def pod(self) -> Json:
        return self.ends.pod

    @property
    def other(self) -> Json | None:
        return self.judged.peer_pod

    @property
    def protocol(self) -> str:
        return protocol_name(self.judged.flow.protocol)

    @cached_property
    def selecting(self) -> list[Json]:
        """The policies that select the pod, in both directions."""
        return self.world.policies_selecting(self.pod)

    @cached_property
    def policies(self) -> list[Json]:
        """Those that isolate it in the direction of the flow."""
        return [policy for policy in self.selecting if self.direction in np.directions(policy)]

    @cached_property
    def rules(self) -> list[RulePeer]:
        return [rule for policy in self.policies for rule in np.rule_peers(policy, self.direction)]

    @cached_property
    def wrong_peer(self) -> list[RulePeer]:
        """Rules whose ports admit the flow, and whose peer does not mean the other end."""
        rules = [rule for rule in self.rules if not rule.domains]
        return [
            rule
            for rule in rules
            if np.rule_admits(rule, self.judged) and not np.peer_matches(rule, self.judged, self.world)
        ]

    @cached_property
    def wrong_port(self) -> list[RulePeer]:
        """Rules whose peer means the other end, and whose ports do not admit the flow."""
        return [
            rule
            for rule in self.rules
            if np.peer_matches(rule, self.judged, self.world) and not np.rule_admits(rule, self.judged)
        ]

    @cached_property
    def fronting(self) -> list[Json]:
        """The Services whose selector means the receiving pod."""
        receiver = self.judged.receiver
        if receiver is None:
            return []
        found = self.world.services_of.get(namespace_of(receiver), ())
        return [service for service in found if fronts(service, receiver)]

    def where(self, rule: RulePeer) -> str:
        """`access-nginx`, with the path where the policy has more than this one peer in this direction."""
        first_two = list(islice(np.rule_peers(rule.policy, rule.direction), 2))
        return rule.label if len(first_two) > 1 else label_of(rule.policy)

    def called(self, obj: Json) -> str:
        """A pod by its bare name in the namespace of the judged one, else `namespace/name`."""
        return name_of(obj) if namespace_of(obj) == namespace_of(self.pod) else ref(obj)


def _judged(reals: Sequence[Ends], world: World) -> tuple[Ends, Verdict]:
    first: tuple[Ends, Verdict] | None = None
    for ends in reals:
        found = tiers.evaluate(ends, world)
        if found.decision is Decision.DENY:
            return ends, found
        if first is None or (first[1].decision is Decision.ALLOW and found.decision is not Decision.ALLOW):
            first = ends, found
    assert first is not None
    return first


def fronts(service: Json, pod: Json) -> bool:
    """Whether this Service of the pod's namespace leads to the pod."""
    selector = (service.get("spec") or {}).get("selector")
    return bool(selector) and not on_host_network(pod) and selectors.matches({"matchLabels": selector}, labels_of(pod))


def service_entries(service: Json, protocol: str) -> Iterable[Json]:
    """The ports of a Service for one protocol."""
    for entry in (service.get("spec") or {}).get("ports") or ():
        if (entry.get("protocol") or "TCP") == protocol and isinstance(entry.get("port"), int):
            yield entry


def leads_to(service: Json, protocol: str, pod: Json) -> list[tuple[int, int]]:
    """(port of the Service, port of the pod) for each port that leads to the pod."""
    found = []
    for entry in service_entries(service, protocol):
        target = targets.target_port(service, protocol, entry["port"], pod)
        if target is not None:
            found.append((int(entry["port"]), target))
    return found


# ---- changes


def collection_of(policy: Json) -> str:
    return COLLECTIONS[kind_of(policy)]


def with_spec(policy: Json, **fields: Any) -> Change:
    """The policy with other fields of its spec; None takes one away."""
    spec = {**(policy.get("spec") or {}), **fields}
    return Change(collection_of(policy), {**policy, "spec": {k: v for k, v in spec.items() if v is not None}})


def with_rule(policy: Json, direction: Direction, peers: Iterable[Json], ports: Iterable[Json]) -> Change:
    """The policy with one more rule: rules only add, so a changed rule allows what one more like it allows."""
    side = "from" if direction is Direction.INGRESS else "to"
    rule: Json = {}
    if found := list(peers):
        rule[side] = found
    if limits := list(ports):
        rule["ports"] = limits
    old = (policy.get("spec") or {}).get(direction.value) or ()
    return with_spec(policy, **{direction.value: [*old, rule]})


def with_peer(rule: RulePeer, *peers: Json) -> Proof:
    """The flow is allowed where the rule has these peers instead of its own."""
    return Proof((with_rule(rule.policy, rule.direction, peers, rule.ports),))


def with_ports(rule: RulePeer, *ports: Json) -> Proof:
    """The flow is allowed where the rule has these ports instead of its own."""
    peers = () if rule.peer is None else (rule.peer,)
    return Proof((with_rule(rule.policy, rule.direction, peers, ports),))


def with_labels(pod: Json, labels: Mapping[str, object]) -> Change:
    return Change("pods", {**pod, "metadata": {**pod["metadata"], "labels": dict(labels)}})


def namespace_with_labels(name: str, labels: Mapping[str, object]) -> Change:
    return Change("namespaces", {"metadata": {"name": name, "labels": dict(labels)}})


def block_of(ends: Ends) -> Json:
    """The peer that means just the other end's address."""
    return {"ipBlock": {"cidr": str(host_network(ends.peer))}}
