"""Which generation of the agent's programs decides, as far as its maps tell.

A program has no name and no version. What it does follows from the maps that it uses: which roles, how many slots,
what conntrack keys and values look like (docs/generations.md). A combination that no known agent makes is
unknown, and so is what such a program decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from kubectl_netpol.kernel import layouts
from kubectl_netpol.model.kernel import MapView

OLD_SLOTS = 8
SLOTS_SCANNED_V6_OLD = 4
"""IPv6 programs of agents 1.0.1 to 1.0.4 look at the first half of their 8 slots."""


class ConntrackRule(StrEnum):
    """What makes a conntrack entry let a packet pass."""

    OWN_ADDRESS = "own address"
    """<= 1.0.4: its value is the address of this pod, in both directions."""
    PRESENCE = "presence"
    """1.0.5 to 1.1.6: it is there."""
    STATE = "state"
    """1.2.x: made under the present state of the pod, 0 DEFAULT_ALLOW or 1 POLICIES_APPLIED."""
    PAIR = "state pair"
    """>= 1.3.0: made under the present pair of states, see ``layouts.STATE_PAIRS``."""


@dataclass(frozen=True)
class Generation:
    """The semantics of one program."""

    agents: str
    """Versions of the network policy agent that load such programs."""
    state_keys: tuple[int, ...]
    """Keys of the pod state map that must be there, in the order in which the program asks for them."""
    tiers: bool
    """It has a cluster policy map."""
    any_checks_ports: bool | None
    """Whether a slot of protocol 254 looks at its ports. None for 1.2.x: yes from 1.2.4 on, and no map tells."""
    slots_scanned: int
    conntrack: ConntrackRule


def generation_of(maps: Mapping[str, MapView], others: Iterable[MapView] = ()) -> Generation | str:
    """The generation of a program with these maps (by role; ``others``: unknown or taken twice), or why it is
    not known."""
    for view in others:
        if view.role != "unknown":
            return f"it uses two maps with the layout of {view.layout}, {view.id} and {maps[view.role].id}"
        if not view.type:
            return f"its map {view.id} could not be read: {view.reason}"
        return f"it uses map {view.id}, {view.layout}"
    rules = maps.get("np")
    if rules is None:
        return "it uses no rule map of a known layout"
    slots = rules.value_size // layouts.NP_SLOT.size
    states, conntrack = maps.get("pod_state"), maps.get("conntrack")
    kind = _value_kind(conntrack)
    if "cp" in maps:
        return _with_tiers(states, conntrack, kind, slots)
    if states is not None:
        return _with_one_state(states, kind, slots)
    return _without_states(rules, conntrack, kind, slots)


def _value_kind(conntrack: MapView | None) -> str:
    layout = layouts.layout_of(conntrack.type, conntrack.key_size, conntrack.value_size) if conntrack else None
    return layout.value if layout else ""


def _with_tiers(states: MapView | None, conntrack: MapView | None, kind: str, slots: int) -> Generation | str:
    if states is None or states.max_entries < 2:
        return "it has a cluster policy map, and no pod state map with two keys"
    if kind == layouts.POD_ADDRESS or slots != layouts.SLOTS:
        return "its maps belong to different generations"
    agents = {layouts.PRESENCE: "1.3.0 to 1.3.5", layouts.STATE: "1.3.7 to 1.4.1", layouts.STATE_AND_TIME: ">= 1.4.2"}
    return Generation(agents.get(kind, ">= 1.3.0"), (1, 0), True, True, slots, ConntrackRule.PAIR)


def _with_one_state(states: MapView, kind: str, slots: int) -> Generation | str:
    if states.max_entries != 1:
        return "it has a pod state map with two keys, and no cluster policy map of a known layout"
    if kind not in (layouts.PRESENCE, "") or slots != layouts.SLOTS:
        return "its maps belong to different generations"
    return Generation("1.2.0 to 1.2.7", (0,), False, None, slots, ConntrackRule.STATE)


def _without_states(rules: MapView, conntrack: MapView | None, kind: str, slots: int) -> Generation | str:
    if kind == layouts.PRESENCE and slots == layouts.SLOTS:
        return Generation("1.0.5 to 1.1.6", (), False, False, slots, ConntrackRule.PRESENCE)
    if kind == layouts.POD_ADDRESS and slots == OLD_SLOTS:
        scanned = SLOTS_SCANNED_V6_OLD if rules.family == 6 else slots
        return Generation("1.0.1 to 1.0.4", (), False, False, scanned, ConntrackRule.OWN_ADDRESS)
    if conntrack is None:
        return "it uses neither a pod state map nor a conntrack map of a known layout"
    return "it uses no pod state map of a known layout"
