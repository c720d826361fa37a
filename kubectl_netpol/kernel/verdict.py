"""What a program of the network policy agent decides for a packet, by generation.

Follows the program step by step, on decoded maps: pod states, conntrack forward and reverse, cluster policy
tiers, longest prefix of the NetworkPolicy map, baseline, default. Source: pkg/ebpf/c of the releases of
aws-network-policy-agent; docs/generations.md has it in short.

A map that could not be read makes the verdict unknown, unless an earlier step already decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kubectl_netpol.kernel import conntrack, layouts
from kubectl_netpol.kernel.conntrack import Hit
from kubectl_netpol.kernel.generation import Generation, generation_of
from kubectl_netpol.model.flow import Direction, Flow, Network, host_network
from kubectl_netpol.model.kernel import ClusterSlot, LpmEntry, LpmTable, MapView, Slot
from kubectl_netpol.model.verdict import Decision, Layer, Verdict

BASELINE_ABOVE = 1000
"""Rules of the Baseline tier are stored with 2000 added to their priority."""
ACTION_NAMES = {0: "Deny", 1: "Accept", 2: "Pass"}
ICMPV6 = 58


@dataclass(frozen=True)
class Tier:
    """The winning cluster policy slot of one lookup."""

    entry: LpmEntry
    slot: ClusterSlot


def decide(
    layer: Layer,
    direction: Direction,
    flow: Flow,
    maps: Mapping[str, MapView],
    others: Iterable[MapView] = (),
    ifindex: int | None = None,
) -> Verdict:
    """The verdict of a program that uses these maps (by role; ``others``: unknown or taken twice) for one packet.

    Without ``flow.source_port`` the packet is the first of a new flow: no conntrack entry of its own is assumed.
    With it the conntrack entries count too; ``ifindex`` is the host veth's, which keys of agents >= 1.3.7 hold.
    """
    generation = generation_of(maps, others)
    if isinstance(generation, str):
        why = f"the program is of no known generation of the agent: {generation}"
        return Verdict(layer, Decision.UNKNOWN, "UNKNOWN_PROGRAM", why)
    family = maps["np"].family
    if family and family != flow.source.version:
        return Verdict(
            layer,
            Decision.ALLOW,
            "OTHER_FAMILY",
            f"the program looks at IPv{family} packets only: other families are never filtered",
        )
    if flow.source.version == 6 and flow.protocol == ICMPV6:
        return Verdict(layer, Decision.ALLOW, "ICMPV6", "the program always lets ICMPv6 through")
    judge = _Judge(layer, direction, flow, maps, generation, ifindex)
    return judge.by_state() or judge.by_conntrack(judge.by_rules())


class _Judge:
    """The steps of one program for one packet. A step returns None where it leaves the decision to the next."""

    def __init__(
        self,
        layer: Layer,
        direction: Direction,
        flow: Flow,
        maps: Mapping[str, MapView],
        generation: Generation,
        ifindex: int | None,
    ) -> None:
        self.layer, self.direction, self.flow = layer, direction, flow
        self.maps, self.generation, self.ifindex = maps, generation, ifindex
        self.peer = host_network(flow.peer(direction))
        view = maps.get("pod_state")
        self.states: Mapping[int, int] = (view.states if view else None) or {}
        self.evidence: tuple[str, ...] = ()
        self.decided: dict[str, Any] = {}

    def verdict(self, decision: Decision, code: str, why: str, *facts: str, **decided: Any) -> Verdict:
        evidence = (*facts, *self.evidence)
        if not self.generation.tiers:
            decided.pop("tier", None)
        return Verdict(self.layer, decision, code, why, evidence, {**decided, **self.decided})

    def by_state(self) -> Verdict | None:
        """Agents >= 1.2.0: a pod state that is missing drops everything."""
        if not self.generation.state_keys:
            return None
        view = self.maps["pod_state"]
        if view.states is None:
            return self.unreadable(view)
        for key in self.generation.state_keys:
            if key in view.states:
                continue
            if not view.complete:
                return self.unreadable(view)
            why = (
                f"{layouts.map_name('pod_state', self.direction)} has no entry for key {key} "
                f"({layouts.STATE_KEY_NAMES[key]}): the program then drops every packet"
            )
            facts = f"{_map_text(view, self.direction)}: keys present: {sorted(view.states) or 'none'}"
            return self.verdict(Decision.DENY, "POD_STATE_MISSING", why, facts, tier="ERROR")
        text = state_text(view.states, self.generation.state_keys)
        self.evidence = (f"{_map_text(view, self.direction)}: {text}",)
        self.decided = {"podState": text}
        if not self.generation.tiers and self.states[0] == layouts.DEFAULT_DENY:
            why = "the pod state is DEFAULT_DENY: programs of agents 1.2.x then drop every packet, replies too"
            return self.verdict(Decision.DENY, "DEFAULT_DENY", why)
        return None

    def by_conntrack(self, rules: Verdict) -> Verdict:
        """An established flow passes without a look at the rules. ``rules``: what these say."""
        if self.flow.source_port is None:
            return rules
        view = self.maps.get("conntrack")
        if view is None or view.conntrack is None:
            return self._without_conntrack(rules, view)
        hit, entry = conntrack.find(
            view.conntrack, self.generation, self.states, self.direction, self.flow, self.ifindex
        )
        if entry is None or hit is Hit.NONE:
            return rules if view.complete else self._without_conntrack(rules, view)
        where = f"aws_conntrack_map (id {view.id})"
        under = conntrack.made_under(entry, self.generation)
        text = f"{where}: {conntrack.text(entry)}{f', made under {under}' if under else ''}"
        if hit is Hit.JUDGED_AGAIN:
            return replace(rules, evidence=(*rules.evidence, f"{text}: the rules decide again"))
        what = "the flow is established" if hit is Hit.FORWARD else "it answers an established flow"
        why = f"{what} in {where}: its packets pass without a look at the rules"
        code = "ESTABLISHED" if hit is Hit.FORWARD else "REPLY"
        return self.verdict(Decision.ALLOW, code, why, text, conntrack=conntrack.text(entry), mapId=view.id)

    def _without_conntrack(self, rules: Verdict, view: MapView | None) -> Verdict:
        """Whoever is allowed by the rules passes in any case."""
        if rules.decision is not Decision.DENY:
            return rules
        known = self.unreadable(view) if view else self.unused("conntrack map")
        return replace(known, why=f"the rules drop it ({rules.why}), and {known.why}")

    def by_rules(self) -> Verdict:
        """Tiers, longest prefix of the rule map, baseline, default: a flow without any conntrack entry."""
        if not self.generation.tiers:
            if self.generation.state_keys and self.states[0] == layouts.DEFAULT_ALLOW:
                why = "the pod state is DEFAULT_ALLOW: programs of agents 1.2.x then do not look at the rules"
                return self.verdict(Decision.ALLOW, "DEFAULT_ALLOW", why)
            return self.by_entry(None)
        view = self.maps["cp"]
        if view.lpm is None or not _found_all(view, view.lpm.lookup(self.peer), self.peer):
            return self.unreadable(view)
        winner, baseline = cluster_tiers(view.lpm, self.peer, self.flow)
        if winner is not None and winner.slot.priority <= BASELINE_ABOVE and winner.slot.action in (0, 1):
            return self.by_tier("ADMIN", winner)
        return self.by_entry(baseline)

    def by_entry(self, baseline: Tier | None) -> Verdict:
        view = self.maps["np"]
        entry = view.lpm.lookup(self.peer) if view.lpm is not None else None
        if view.lpm is None or not _found_all(view, entry, self.peer):
            return self.unreadable(view)
        where = _map_text(view, self.direction)
        if entry is not None:
            return self.by_slots(entry, view)
        none = f"no entry of {where} matches {self.flow.peer(self.direction)}"
        if not self.generation.state_keys:
            why = f"{none}: the program drops what no entry matches"
            return self.verdict(Decision.DENY, "NO_ENTRY", why, mapId=view.id)
        state = layouts.STATE_NAMES.get(self.states[0], f"state {self.states[0]}")
        # Programs of 1.2.x come here in POLICIES_APPLIED only; they drop whatever the state is.
        if self.states[0] == layouts.POLICIES_APPLIED or not self.generation.tiers:
            why = f"{none}, and the pod state is {state}"
            return self.verdict(Decision.DENY, "NO_ENTRY", why, tier="NETWORK_POLICY", mapId=view.id)
        # Any action but Pass ends here: the program drops for one that it does not know (tc.v4ingress.bpf.c).
        if baseline is not None and baseline.slot.action != 2:
            return self.by_tier("BASELINE", baseline)
        allowed = self.states[0] == layouts.DEFAULT_ALLOW
        code = "DEFAULT_ALLOW" if allowed else "DEFAULT_DENY"
        decision = Decision.ALLOW if allowed else Decision.DENY
        return self.verdict(decision, code, f"{none}, and the pod state is {state}", tier="DEFAULT")

    def by_slots(self, entry: LpmEntry, view: MapView) -> Verdict:
        """The slots of the entry that matched. 1.2.x: both readings of a slot of any protocol with ports."""
        rule = self.generation.any_checks_ports
        limit = self.generation.slots_scanned
        found = scan(entry, self.flow, any_checks_ports=rule is not False, limit=limit)
        if rule is None and found[1] != scan(entry, self.flow, any_checks_ports=False, limit=limit)[1]:
            why = (
                f"entry {entry.prefix} of {_map_text(view, self.direction)} has a slot for any protocol with ports: "
                "agents 1.2.0 to 1.2.3 ignore such ports, 1.2.4 to 1.2.7 do not, and no map tells which one this is"
            )
            return self.verdict(Decision.UNKNOWN, "ANY_PROTOCOL_PORTS", why)
        if view.first_slot_only and found[0] is None:
            why = f"only the first slot of entry {entry.prefix} of {_map_text(view, self.direction)} was read"
            return Verdict(self.layer, Decision.UNKNOWN, "MAP_UNREADABLE", f"{why}: {view.reason}")
        return self._slot_verdict(entry, view, *found)

    def _slot_verdict(self, entry: LpmEntry, view: MapView, number: int | None, matched: bool) -> Verdict:
        where = _map_text(view, self.direction)
        facts = f"{where}: {entry.prefix} -> {slots_text(entry.slots)}"
        decided: dict[str, Any] = {"mapId": view.id, "prefix": str(entry.prefix), "tier": "NETWORK_POLICY"}
        if number is not None:
            slot = entry.slots[number]
            decided |= {"slot": number, "slotText": slot_text(slot)}
        if matched and number is not None:
            if not any(slot):
                why = f"entry {entry.prefix} of {where} has unused slots, and those match IP protocol 0"
                return self.verdict(Decision.ALLOW, "ZERO_SLOT", why, facts, **decided)
            why = f"entry {entry.prefix} of {where} allows {slot_text(slot)}"
            if slot.protocol == layouts.PROTOCOL_ANY and self.generation.any_checks_ports is False and slot.start:
                why += ", whatever the port: this generation ignores the ports of such a slot"
            return self.verdict(Decision.ALLOW, "ENTRY_ALLOWS", why, facts, **decided)
        if number is not None:
            why = f"entry {entry.prefix} of {where} is marked deny (an `except` of an ipBlock)"
            return self.verdict(Decision.DENY, "EXCEPT", why, facts, **decided)
        beyond = entry.slots[self.generation.slots_scanned :]
        limit = f" in the {self.generation.slots_scanned} slots that it looks at" if any(map(any, beyond)) else ""
        looked_at = entry.slots[: self.generation.slots_scanned]
        why = (
            f"the longest prefix for {self.flow.peer(self.direction)} in {where} is {entry.prefix}, "
            f"which allows {slots_text(looked_at)}{limit}, not {self.flow.port_text}"
        )
        return self.verdict(Decision.DENY, "PORT_NOT_ALLOWED", why, facts, **decided)

    def by_tier(self, tier: str, winner: Tier) -> Verdict:
        allowed = winner.slot.action == 1
        view = self.maps["cp"]
        priority = winner.slot.priority - (2000 if tier == "BASELINE" else 0)
        action = ACTION_NAMES.get(winner.slot.action, f"action {winner.slot.action}")
        where = _map_text(view, self.direction)
        if not any(winner.slot):
            why = f"entry {winner.entry.prefix} of {where} has unused slots, and those deny IP protocol 0"
        else:
            why = f"entry {winner.entry.prefix} of {where}: {tier} tier, priority {priority}, {action}"
        decision = Decision.ALLOW if allowed else Decision.DENY
        number = winner.entry.slots.index(winner.slot)
        return self.verdict(
            decision,
            f"{tier}_{'ACCEPT' if allowed else 'DENY'}",
            why,
            tier=tier,
            mapId=view.id,
            prefix=str(winner.entry.prefix),
            slot=number,
            slotText=slot_text(winner.slot),
        )

    def unreadable(self, view: MapView) -> Verdict:
        where = _map_text(view, self.direction)
        why = f"{where} could not be read: {view.reason or 'contents are not known'}"
        return Verdict(self.layer, Decision.UNKNOWN, "MAP_UNREADABLE", why)

    def unused(self, what: str) -> Verdict:
        return Verdict(self.layer, Decision.UNKNOWN, "MAP_UNREADABLE", f"the program uses no {what} of a known layout")


def _found_all(view: MapView, entry: LpmEntry | None, peer: Network) -> bool:
    """Whether no entry that was not read could be a longer match than this one."""
    return view.complete or (entry is not None and entry.prefix.prefixlen == peer.prefixlen)


def scan(
    entry: LpmEntry, flow: Flow, *, any_checks_ports: bool = True, limit: int = layouts.SLOTS
) -> tuple[int | None, bool]:
    """Scan the slots of a NetworkPolicy entry in order: (number of the deciding slot, whether it allows).

    A slot 255 stops the scan and denies. Unused slots are not skipped: protocol 0 matches them. ``limit``: how
    many slots the program looks at; ``any_checks_ports``: whether a slot of protocol 254 looks at its ports.
    """
    for number, slot in enumerate(entry.slots[:limit]):
        assert isinstance(slot, Slot)
        if slot.protocol == layouts.PROTOCOL_DENY:
            return number, False
        if slot.protocol == layouts.PROTOCOL_ANY and not any_checks_ports:
            return number, True
        if slot.protocol in (layouts.PROTOCOL_ANY, flow.protocol) and np_port_matches(slot, flow.port):
            return number, True
    return None, False


def np_port_matches(slot: Slot, port: int) -> bool:
    """start 0 is every port; else the start itself, or above it up to the end."""
    return slot.start == 0 or port == slot.start or slot.start < port <= slot.end


def cp_port_matches(slot: ClusterSlot, port: int) -> bool:
    return slot.start == 0 or port == slot.start or (slot.end > 0 and slot.start <= port <= slot.end)


def cluster_tiers(table: LpmTable, peer: Network, flow: Flow) -> tuple[Tier | None, Tier | None]:
    """(overall winner, baseline winner) of the cluster policy map: lowest priority, then lowest action."""
    entry = table.lookup(peer)
    if entry is None:
        return None, None
    matching = []
    for slot in entry.slots:
        assert isinstance(slot, ClusterSlot)
        by_port = slot.protocol == flow.protocol and cp_port_matches(slot, flow.port)
        # 254 matches whatever the port, unlike in the NetworkPolicy map.
        if slot.protocol == layouts.PROTOCOL_ANY or by_port:
            matching.append(slot)
    winner = min(matching, key=lambda slot: slot.word, default=None)
    low = [slot for slot in matching if slot.priority > BASELINE_ABOVE]
    baseline = min(low, key=lambda slot: slot.word, default=None)
    return (
        Tier(entry, winner) if winner is not None else None,
        Tier(entry, baseline) if baseline is not None else None,
    )


def state_text(states: Mapping[int, int], keys: Sequence[int] = (0, 1)) -> str:
    """`POLICIES_APPLIED (cluster policies: DEFAULT_ALLOW)`; ``keys``: those that the generation knows."""

    def name(key: int) -> str:
        return layouts.STATE_NAMES.get(states[key], f"state {states[key]}") if key in states else "missing"

    return f"{name(0)} (cluster policies: {name(1)})" if 1 in keys else name(0)


def slot_text(slot: Slot | ClusterSlot) -> str:
    """`all ports`, `80/TCP`, `8000-8010/UDP`, `deny (except)`."""
    if slot.protocol == layouts.PROTOCOL_DENY and isinstance(slot, Slot):
        return "deny (except)"
    ports = str(slot.start) if not slot.end else f"{slot.start}-{slot.end}"
    if slot.protocol == layouts.PROTOCOL_ANY:
        text = "all ports" if not slot.start else f"{ports}/any protocol"
    else:
        names = {0: "protocol 0", 1: "ICMP", 6: "TCP", 17: "UDP", 132: "SCTP"}
        name = names.get(slot.protocol, f"protocol {slot.protocol}")
        text = f"all {name} ports" if not slot.start else f"{ports}/{name}"
    if isinstance(slot, ClusterSlot):
        low = slot.priority > BASELINE_ABOVE
        tier = f"baseline {slot.priority - 2000}" if low else f"admin {slot.priority}"
        return f"{tier} {ACTION_NAMES.get(slot.action, slot.action)} {text}"
    return text


def used_slots(slots: tuple[Slot, ...] | tuple[ClusterSlot, ...]) -> tuple[Slot | ClusterSlot, ...]:
    """The slots that say something: sorted, without the unused ones and without repetitions."""
    return tuple(sorted({slot for slot in slots if any(slot)}))


def slots_text(slots: tuple[Slot, ...] | tuple[ClusterSlot, ...]) -> str:
    return ", ".join(slot_text(slot) for slot in used_slots(slots)) or "nothing"


def _map_text(view: MapView, direction: Direction) -> str:
    """`ingress_map (id 93)`; a map without an id is not in any kernel: it is what the agent should write."""
    if not view.id:
        return f"the {layouts.map_name(view.role, direction)} that the agent should write"
    return f"{layouts.map_name(view.role, direction)} (id {view.id})"
