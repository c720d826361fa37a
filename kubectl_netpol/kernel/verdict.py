"""What a program of the network policy agent (>= 1.3.0 semantics) decides for a new flow.

Follows the program step by step, on decoded maps: pod states, conntrack forward and reverse, cluster policy
tiers, longest prefix of the NetworkPolicy map, baseline, default. Sources: agent facts 3.1, 3.4 and 3.6.

A map that could not be read makes the verdict unknown, unless an earlier step already decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kubectl_netpol.kernel import layouts
from kubectl_netpol.model.flow import Direction, Flow, Network, host_network
from kubectl_netpol.model.kernel import ClusterSlot, ConntrackEntry, LpmEntry, LpmTable, MapView, Slot
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


def decide(layer: Layer, direction: Direction, flow: Flow, maps: Mapping[str, MapView]) -> Verdict:
    """The verdict of a program that uses these maps (by role) for the first packet of ``flow``.

    The flow is new: no conntrack entry of its own is assumed. ``conntrack_entries`` tells which exist.
    """
    np_map = maps.get("np")
    if np_map is not None and np_map.family and np_map.family != flow.peer(direction).version:
        return Verdict(
            layer,
            Decision.ALLOW,
            "OTHER_FAMILY",
            f"the program looks at IPv{np_map.family} packets only: other families are never filtered",
        )
    if flow.source.version == 6 and flow.protocol == ICMPV6:
        return Verdict(layer, Decision.ALLOW, "ICMPV6", "the program always lets ICMPv6 through")
    states = maps.get("pod_state")
    if states is None or states.states is None:
        return _unreadable(layer, states, "pod state", direction)
    state_map = _map_text(states, direction)
    if not states.complete and not {0, 1} <= states.states.keys():
        return _unreadable(layer, states, "pod state", direction)
    for key in (1, 0):
        if key not in states.states:
            return Verdict(
                layer,
                Decision.DENY,
                "POD_STATE_MISSING",
                f"{layouts.map_name('pod_state', direction)} has no entry for key {key} "
                f"({layouts.STATE_KEY_NAMES[key]}): the program then drops every packet",
                (f"{state_map}: keys present: {sorted(states.states) or 'none'}",),
            )
    np_state = states.states[0]
    evidence = (f"{state_map}: {state_text(states.states)}",)
    return _by_rules(layer, direction, flow, maps, np_state, evidence)


def _by_rules(
    layer: Layer,
    direction: Direction,
    flow: Flow,
    maps: Mapping[str, MapView],
    np_state: int,
    evidence: tuple[str, ...],
) -> Verdict:
    peer = host_network(flow.peer(direction))
    cp_map, np_map = maps.get("cp"), maps.get("np")
    if cp_map is None or cp_map.lpm is None or not _found_all(cp_map, cp_map.lpm.lookup(peer), peer):
        return _unreadable(layer, cp_map, "cluster policy map", direction)
    winner, baseline = cluster_tiers(cp_map.lpm, peer, flow)
    if winner is not None and winner.slot.priority <= BASELINE_ABOVE and winner.slot.action != 2:
        return _tier_verdict(layer, "ADMIN", winner, cp_map, direction, evidence)
    if np_map is None or np_map.lpm is None:
        return _unreadable(layer, np_map, "rule map", direction)
    entry = np_map.lpm.lookup(peer)
    where = _map_text(np_map, direction)
    if not _found_all(np_map, entry, peer):
        return _unreadable(layer, np_map, "rule map", direction)
    if entry is not None:
        return _entry_verdict(layer, direction, flow, entry, where, evidence)
    none = f"no entry of {where} matches {flow.peer(direction)}"
    state = layouts.STATE_NAMES.get(np_state, f"state {np_state}")
    if np_state == layouts.POLICIES_APPLIED:
        return Verdict(layer, Decision.DENY, "NO_ENTRY", f"{none}, and the pod state is POLICIES_APPLIED", evidence)
    if baseline is not None and baseline.slot.action != 2:
        return _tier_verdict(layer, "BASELINE", baseline, cp_map, direction, evidence)
    if np_state == layouts.DEFAULT_ALLOW:
        return Verdict(layer, Decision.ALLOW, "DEFAULT_ALLOW", f"{none}, and the pod state is DEFAULT_ALLOW", evidence)
    return Verdict(layer, Decision.DENY, "DEFAULT_DENY", f"{none}, and the pod state is {state}", evidence)


def _found_all(view: MapView, entry: LpmEntry | None, peer: Network) -> bool:
    """Whether no entry that was not read could be a longer match than this one."""
    return view.complete or (entry is not None and entry.prefix.prefixlen == peer.prefixlen)


def _entry_verdict(
    layer: Layer, direction: Direction, flow: Flow, entry: LpmEntry, where: str, evidence: tuple[str, ...]
) -> Verdict:
    slot, matched = scan(entry, flow)
    facts = (f"{where}: {entry.prefix} -> {slots_text(entry.slots)}", *evidence)
    if matched and slot is not None:
        if slot == (0, 0, 0):
            why = f"entry {entry.prefix} of {where} has unused slots, and those match IP protocol 0"
            return Verdict(layer, Decision.ALLOW, "ZERO_SLOT", why, facts)
        why = f"entry {entry.prefix} of {where} allows {slot_text(slot)}"
        return Verdict(layer, Decision.ALLOW, "ENTRY_ALLOWS", why, facts)
    if slot is not None:
        why = f"entry {entry.prefix} of {where} is marked deny (an `except` of an ipBlock)"
        return Verdict(layer, Decision.DENY, "EXCEPT", why, facts)
    why = (
        f"the longest prefix for {flow.peer(direction)} in {where} is {entry.prefix}, "
        f"which allows {slots_text(entry.slots)}, not {flow.port_text}"
    )
    return Verdict(layer, Decision.DENY, "PORT_NOT_ALLOWED", why, facts)


def _tier_verdict(
    layer: Layer, tier: str, winner: Tier, cp_map: MapView, direction: Direction, evidence: tuple[str, ...]
) -> Verdict:
    allowed = winner.slot.action == 1
    priority = winner.slot.priority - (2000 if tier == "BASELINE" else 0)
    action = ACTION_NAMES.get(winner.slot.action, f"action {winner.slot.action}")
    where = _map_text(cp_map, direction)
    why = f"entry {winner.entry.prefix} of {where}: {tier} tier, priority {priority}, {action}"
    decision = Decision.ALLOW if allowed else Decision.DENY
    return Verdict(layer, decision, f"{tier}_{'ACCEPT' if allowed else 'DENY'}", why, evidence)


def _unreadable(layer: Layer, view: MapView | None, what: str, direction: Direction) -> Verdict:
    if view is None:
        why = f"the program uses no {what} of a known layout"
    else:
        why = f"{_map_text(view, direction)} could not be read: {view.reason or 'contents are not known'}"
    return Verdict(layer, Decision.UNKNOWN, "MAP_UNREADABLE", why)


def scan(entry: LpmEntry, flow: Flow) -> tuple[Slot | None, bool]:
    """Scan the slots of a NetworkPolicy entry in order: (deciding slot, whether it allows).

    A slot 255 stops the scan and denies. Unused slots are not skipped: protocol 0 matches them.
    """
    for slot in entry.slots:
        assert isinstance(slot, Slot)
        if slot.protocol == layouts.PROTOCOL_DENY:
            return slot, False
        if slot.protocol in (layouts.PROTOCOL_ANY, flow.protocol) and np_port_matches(slot, flow.port):
            return slot, True
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


def conntrack_entries(
    entries: Iterable[ConntrackEntry], direction: Direction, flow: Flow, ifindex: int | None
) -> tuple[ConntrackEntry, ...]:
    """Established flows like ``flow`` (any source port): their packets pass without a look at the rules."""
    owner = flow.owner(direction)
    found = []
    for entry in entries:
        if entry.owner != owner or entry.protocol != flow.protocol:
            continue
        if ifindex is not None and entry.ifindex != ifindex:
            continue
        if (entry.source, entry.destination, entry.port) == (flow.source, flow.destination, flow.port):
            found.append(entry)
    return tuple(found)


def state_text(states: Mapping[int, int]) -> str:
    """`POLICIES_APPLIED (cluster policies: DEFAULT_ALLOW)`."""

    def name(key: int) -> str:
        return layouts.STATE_NAMES.get(states[key], f"state {states[key]}") if key in states else "missing"

    return f"{name(0)} (cluster policies: {name(1)})"


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
    return f"{layouts.map_name(view.role, direction)} (id {view.id})"
