"""What one pod's part of the kernel looks like once decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from kubectl_netpol.model.flow import Address, Direction, Network


class Slot(NamedTuple):
    """One L4 slot of ingress_map or egress_map. Ports in host order; (0, 0, 0) is an unused slot."""

    protocol: int
    start: int
    end: int


class ClusterSlot(NamedTuple):
    """One L4 slot of cp_ingress_map or cp_egress_map. ``word`` is priority * 10 + action."""

    protocol: int
    word: int
    start: int
    end: int

    @property
    def priority(self) -> int:
        return self.word // 10

    @property
    def action(self) -> int:
        """0 Deny, 1 Accept, 2 Pass."""
        return self.word % 10


class LpmEntry(NamedTuple):
    """One prefix and its slots, all of them, in map order."""

    prefix: Network
    slots: tuple[Slot, ...] | tuple[ClusterSlot, ...]


@dataclass(frozen=True, eq=False)
class LpmTable:
    """The entries of one LPM map, sorted by address and length, with the kernel's lookup."""

    entries: tuple[LpmEntry, ...]

    @cached_property
    def _by_prefix(self) -> dict[Network, LpmEntry]:
        return {entry.prefix: entry for entry in self.entries}

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(sorted({entry.prefix.prefixlen for entry in self.entries}, reverse=True))

    def lookup(self, host: Network) -> LpmEntry | None:
        """The entry with the longest prefix that contains a host network (/32 or /128)."""
        for length in self._lengths:
            if length <= host.prefixlen:
                found = self._by_prefix.get(host.supernet(new_prefix=length))
                if found is not None:
                    return found
        return None

    def get(self, prefix: Network) -> LpmEntry | None:
        return self._by_prefix.get(prefix)


class ConntrackEntry(NamedTuple):
    """One entry of aws_conntrack_map: a flow that a program let pass."""

    source: Address
    source_port: int
    destination: Address
    port: int
    protocol: int
    owner: Address
    ifindex: int
    value: int
    """State pair at creation; see ``kernel.layouts.STATE_PAIRS``."""
    last_seen: int | None = None
    """ns of CLOCK_MONOTONIC; None where the layout has no such field."""


@dataclass(frozen=True)
class MapView:
    """One map: what it is, where its name comes from, and its decoded contents.

    ``role`` is one of np, cp, pod_state, conntrack, events, unknown, chosen by type and sizes alone.
    Exactly one of the content fields is set when the contents are known; ``reason`` says why none is.
    """

    id: int
    role: str
    layout: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    pin: str = ""
    """Path below globals/aws, empty where nothing pins this map."""
    lpm: LpmTable | None = None
    states: Mapping[int, int] | None = None
    conntrack: tuple[ConntrackEntry, ...] | None = None
    raw: tuple[tuple[bytes, bytes], ...] | None = None
    """Entries of an unknown layout, as they are."""
    complete: bool = True
    reason: str = ""
    family: int = 0


@dataclass(frozen=True)
class ProgramView:
    """A loaded program. ``pin`` is its path below globals/aws, empty where nothing pins it."""

    id: int
    tag: str
    jited: bool
    map_ids: tuple[int, ...]
    type: int
    pin: str = ""


@dataclass(frozen=True)
class FilterView:
    """A tc filter on one clsact hook."""

    hook: str
    kind: str
    name: str
    pref: int
    handle: int
    program_id: int | None
    tag: str
    direct_action: bool


@dataclass(frozen=True)
class DirectionView:
    """One direction of one pod: the filter that runs, its program and maps, and what the pins say.

    ``maps`` are the maps that the attached program really uses; ``pinned_maps`` those behind the pins of the
    pod identifier, which the agent writes. Both by role.
    """

    direction: Direction
    filters: tuple[FilterView, ...]
    filter: FilterView | None
    program: ProgramView | None
    maps: Mapping[str, MapView]
    pinned_program: ProgramView | None
    pinned_maps: Mapping[str, MapView]
    other_maps: tuple[MapView, ...] = ()
    """Maps of the attached program whose role is unknown or taken twice."""
    reason: str = ""
    """Why the attachment is not known (not: why there is none)."""


@dataclass(frozen=True)
class PodKernel:
    """All that one node's kernel holds for one pod."""

    veth: str
    """Name of the host veth: computed, or found by the pod's route."""
    ifindex: int | None
    veth_evidence: tuple[str, ...]
    """How the name was verified, or what contradicts it."""
    veth_agrees: bool | None
    """Link and route both confirm the computed name; None where they could not be read."""
    identifier: str
    """The pod identifier that the pins use; the newest form where nothing is pinned."""
    identifier_pinned: bool
    directions: Mapping[Direction, DirectionView]
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pins_unread: str = ""
    """Why the pins are not known; empty where they were read."""
