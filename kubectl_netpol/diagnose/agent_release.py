"""Which release of the agent wrote a map, as far as an entry of it tells: up to 1.4.2, or after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel.verdict import used_slots
from kubectl_netpol.model.flow import Network
from kubectl_netpol.model.kernel import LpmEntry, LpmTable, MapView
from kubectl_netpol.policy.agent import Expected, ExpectedTier

Entry = Expected | ExpectedTier


def may_be_newer(like: Mapping[str, MapView]) -> bool:
    """Whether an agent after 1.4.2 may have loaded a program with these maps.

    Not where they are of agents up to 1.4.1: a newer agent loads its own when it starts (agent facts 2.2).
    """
    view = like.get("conntrack")
    layout = layouts.layout_of(view.type, view.key_size, view.value_size) if view is not None else None
    return layout is None or layout.value == layouts.STATE_AND_TIME


def whole_map(like: Mapping[str, MapView], role: str) -> LpmTable | None:
    """A map that is there, if all of it was read."""
    view = like.get(role)
    return view.lpm if view is not None and view.complete and not view.first_slot_only else None


def meaning(entry: Entry | None) -> tuple[Network, set[Any]] | None:
    """All port rules that meet in an entry, whether they fit or not; None: there is no entry."""
    if entry is None:
        return None
    return entry.prefix, set(entry.slots) | (entry.lost if isinstance(entry, Expected) else set())


def is_written(entry: Entry | None, there: LpmEntry | None) -> bool:
    """Whether what is there, or that nothing is, is what the agent makes of this entry."""
    if entry is None or there is None:
        return entry is None and there is None
    slots, wanted = set(used_slots(there.slots)), set(entry.slots)
    if entry.prefix != there.prefix:
        return False
    if slots == wanted or (isinstance(entry, Expected) and slots in entry.others):
        return True
    filled = sum(map(any, there.slots)) == layouts.SLOTS
    return entry.cut_off and filled and slots <= wanted
