"""What an entry of aws_conntrack_map does for a packet, by generation (docs/generations.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel.generation import ConntrackRule, Generation
from kubectl_netpol.model.flow import WITH_PORTS, Address, Direction, Flow, protocol_name
from kubectl_netpol.model.kernel import ConntrackEntry


class Hit(StrEnum):
    """What the program finds for one packet."""

    FORWARD = "forward"
    """Its own flow is established: it passes."""
    REPLY = "reply"
    """It answers an established flow: it passes."""
    JUDGED_AGAIN = "judged again"
    """Its flow was made under another state: the rules decide, and a drop deletes the entry."""
    NONE = "none"


def find(
    entries: Iterable[ConntrackEntry],
    generation: Generation,
    states: Mapping[int, int],
    direction: Direction,
    flow: Flow,
    ifindex: int | None,
) -> tuple[Hit, ConntrackEntry | None]:
    """The lookups of the program, in its order, for a flow whose ``source_port`` is known."""
    own = flow.owner(direction)
    ends = (flow.source, flow.source_port or 0, flow.destination, flow.port)
    back = (flow.destination, flow.port, flow.source, flow.source_port or 0)
    mine = [e for e in entries if e.protocol == flow.protocol and belongs(e, generation, own, ifindex)]
    forward = next((e for e in mine if e[:4] == ends), None)
    if forward is not None:
        if passes(forward, generation, states, own):
            return Hit.FORWARD, forward
        if _asks_rules_at_once(forward, generation, states):
            return Hit.JUDGED_AGAIN, forward
    reverse = next((e for e in mine if e[:4] == back), None)
    # From 1.0.5 on a reverse entry lets the packet pass whatever its value is.
    if reverse is not None and (generation.conntrack is not ConntrackRule.OWN_ADDRESS or _own(reverse, own)):
        return Hit.REPLY, reverse
    return Hit.NONE, None


def like(
    entries: Iterable[ConntrackEntry], direction: Direction, flow: Flow, ifindex: int | None
) -> tuple[ConntrackEntry, ...]:
    """Established flows like ``flow`` (any source port) that this pod's program made."""
    ends = (flow.source, flow.destination, flow.port, flow.protocol, flow.owner(direction))
    return tuple(
        entry
        for entry in entries
        if (entry.source, entry.destination, entry.port, entry.protocol, entry.owner) == ends
        and (ifindex is None or entry.ifindex is None or entry.ifindex == ifindex)
    )


def belongs(entry: ConntrackEntry, generation: Generation, own: Address, ifindex: int | None) -> bool:
    """Whether this pod's program can find the entry: keys hold the owner from 1.0.5 on, then the ifindex too."""
    if generation.conntrack is ConntrackRule.OWN_ADDRESS:
        return True
    return entry.owner == own and (ifindex is None or entry.ifindex is None or entry.ifindex == ifindex)


def passes(entry: ConntrackEntry, generation: Generation, states: Mapping[int, int], own: Address) -> bool:
    """Whether a packet of the entry's own flow passes now without a look at the rules."""
    if generation.conntrack is ConntrackRule.OWN_ADDRESS:
        return _own(entry, own)
    if generation.conntrack is ConntrackRule.PRESENCE:
        return True
    state = states.get(0)
    if generation.conntrack is ConntrackRule.STATE:
        # An entry of POLICIES_APPLIED is rewritten, not refused, once the pod is back in DEFAULT_ALLOW.
        made_under = {layouts.DEFAULT_ALLOW: (0, 1), layouts.POLICIES_APPLIED: (1,)}
        return entry.value in made_under.get(state if state is not None else -1, ())
    return 0 in states and 1 in states and entry.value == layouts.state_pair(states[0], states[1])


def _asks_rules_at_once(entry: ConntrackEntry, generation: Generation, states: Mapping[int, int]) -> bool:
    """Whether a forward entry that does not pass keeps the program from looking for a reverse one."""
    if generation.conntrack is ConntrackRule.PAIR:
        return True
    return (
        generation.conntrack is ConntrackRule.STATE and entry.value == 0 and states.get(0) == layouts.POLICIES_APPLIED
    )


def _own(entry: ConntrackEntry, own: Address) -> bool:
    """IPv6 programs compare the last 4 bytes only; an IPv4 address has no more."""
    return entry.owner.packed[-4:] == own.packed[-4:]


def made_under(entry: ConntrackEntry, generation: Generation) -> str:
    """The state of the pod when the entry was made, in words; empty where the layout does not say."""
    if generation.conntrack is ConntrackRule.PAIR and entry.value is not None:
        return layouts.state_pair_text(entry.value)
    if generation.conntrack is ConntrackRule.STATE and entry.value is not None:
        names = {0: layouts.STATE_NAMES[layouts.DEFAULT_ALLOW], 1: layouts.STATE_NAMES[layouts.POLICIES_APPLIED]}
        return names.get(entry.value, f"unknown state {entry.value}")
    return ""


def text(entry: ConntrackEntry) -> str:
    """`10.0.1.5:40312 -> 10.0.2.9:80 TCP`."""
    left, right = (f"[{a}]" if a.version == 6 else str(a) for a in (entry.source, entry.destination))
    if entry.protocol not in WITH_PORTS:
        return f"{entry.source} -> {entry.destination} {protocol_name(entry.protocol)}"
    return f"{left}:{entry.source_port} -> {right}:{entry.port} {protocol_name(entry.protocol)}"


def direction_of(entry: ConntrackEntry) -> Direction | None:
    """The program that made the entry: ingress where the owner is the destination, egress where the source."""
    if entry.owner == entry.destination:
        return Direction.INGRESS
    return Direction.EGRESS if entry.owner == entry.source else None
