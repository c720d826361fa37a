"""What one pod's part of the kernel looks like once decoded."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from kubectl_netpol.model.flow import Address, Direction, Network

IP_PROTOCOLS = (0x0003, 0x0800, 0x86DD)
"""EtherTypes of a tc filter that sees IP packets: all, IPv4, IPv6."""


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

    def contents(self) -> dict[tuple[int, int], frozenset[tuple[int, ...]]]:
        """(address without host bits, length) -> the slots that say something: for comparing whole maps."""
        return {
            (int(entry.prefix.network_address), entry.prefix.prefixlen): frozenset(filter(any, entry.slots))
            for entry in self.entries
        }


class ConntrackEntry(NamedTuple):
    """One entry of aws_conntrack_map: a flow that a program let pass. None: the layout has no such field."""

    source: Address
    source_port: int
    destination: Address
    port: int
    protocol: int
    owner: Address
    """The pod whose program made it: a field of the key, or the whole value up to agent 1.0.4."""
    ifindex: int | None
    """Of the host veth, agent >= 1.3.7."""
    value: int | None
    """What the program compares; what it means depends on the generation: see ``kernel.generation``."""
    last_seen: int | None = None
    """ns of CLOCK_MONOTONIC, agent >= 1.4.2."""


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
    more_pins: tuple[str, ...] = ()
    """Further paths that hold the same map."""
    lpm: LpmTable | None = None
    states: Mapping[int, int] | None = None
    conntrack: tuple[ConntrackEntry, ...] | None = None
    raw: tuple[tuple[bytes, bytes], ...] | None = None
    """Entries of an unknown layout, as they are."""
    complete: bool = True
    reason: str = ""
    family: int = 0
    first_slot_only: bool = False
    """Of each rule entry only the first slot was read (aws-eks-na-cli up to 1.0.6 prints no more)."""
    total: int | None = None
    """Entries that the map held, also where only some were kept; None where it was not read."""


@dataclass(frozen=True)
class ProgramView:
    """A loaded program. ``pin`` is its path below globals/aws, empty where nothing pins it."""

    id: int
    tag: str
    jited: bool
    map_ids: tuple[int, ...]
    type: int
    pin: str = ""
    more_pins: tuple[str, ...] = ()


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
    protocol: int = 3
    """EtherType; 3 is all of them."""
    chain: int = 0

    def sees(self, protocols: Container[int]) -> bool:
        """Whether packets of these EtherTypes meet it of their own accord: other chains are run by a `goto` only."""
        return self.chain == 0 and self.protocol in protocols

    @property
    def text(self) -> str:
        program = f" program {self.program_id}" if self.program_id else ""
        return f"filter pref {self.pref} {self.kind} {self.name}{program}".replace("  ", " ")


@dataclass(frozen=True)
class Difference:
    """Something that is not as the agent leaves it. ``code`` is stable for scripts, ``text`` for people."""

    code: str
    text: str
    items: frozenset[str] = frozenset()
    """All names that it is about, where the text has some of them only."""


@dataclass(frozen=True)
class DirectionView:
    """One direction of one interface: the filter that runs, its program and maps, and what the pins say.

    ``maps`` are the maps that the attached program really uses; ``pinned_maps`` those behind the pins of the
    pod identifier, which the agent writes. Both by role.
    """

    direction: Direction
    filters: tuple[FilterView, ...]
    """All filters of the hook, in the order in which the kernel runs them."""
    filter: FilterView | None
    program: ProgramView | None
    maps: Mapping[str, MapView]
    pinned_program: ProgramView | None
    pinned_maps: Mapping[str, MapView]
    other_maps: tuple[MapView, ...] = ()
    """Maps of the attached program whose role is unknown or taken twice."""
    pinned_others: tuple[MapView, ...] = ()
    """The same of the pinned program."""
    pinned_missing: tuple[str, ...] = ()
    """Names of maps that the pinned program uses and no pin of the pod identifier holds."""
    reason: str = ""
    """Why the attachment is not known (not: why there is none)."""
    protocols: Container[int] = IP_PROTOCOLS
    """EtherTypes of the tc filters that the pod's packets meet."""
    clsact: bool | None = None
    """Whether the veth has a clsact qdisc; None where that is not known."""
    tcx: tuple[int, ...] = ()
    """Ids of the programs that tcx runs before any filter of this hook."""
    tcx_unread: str = ""
    """Why ``tcx`` or ``xdp`` is not known: a program that runs first may then be unseen. Empty where both are."""
    xdp: tuple[int, ...] = ()
    """Egress only: ids of the XDP programs of the veth, which see the pod's packets before tc does."""
    other_direction: str = ""
    """What tells that the filter runs a program that was made for the other direction; empty where nothing does."""
    agents: str = ""
    """Versions of the agent that load such a program."""
    generation_reason: str = ""
    """Why ``agents`` is not known."""
    differences: tuple[Difference, ...] = ()

    @property
    def in_front(self) -> tuple[str, ...]:
        """Programs of others that see a packet before the agent's: they may decide, so that it never runs."""
        found = self._before_tc()
        for other in self.filters:
            if other is self.filter:
                break
            if other.sees(self.protocols):
                found.append(other.text)
        return tuple(found)

    @property
    def foreign(self) -> tuple[str, ...]:
        """Where the agent has no filter: all that sees packets of the hook, and may drop them."""
        return (*self._before_tc(), *(f.text for f in self.filters if f.sees(self.protocols)))

    def _before_tc(self) -> list[str]:
        return [*(f"XDP program {number}" for number in self.xdp), *(f"tcx program {number}" for number in self.tcx)]


@dataclass(frozen=True)
class InterfaceView:
    """One host veth of a pod."""

    index: int
    """0, or the number of a further interface of a multi-NIC pod."""
    veth: str
    """Its name: computed, or found by the pod's route."""
    ifindex: int | None
    evidence: tuple[str, ...]
    """How the name was verified, or what contradicts it."""
    agrees: bool | None
    """Link and route both confirm the computed name; None where they could not be read."""
    directions: Mapping[Direction, DirectionView]
    addresses: tuple[Address, ...] = ()
    """Addresses whose host routes lead to it."""
    disputed: str = ""
    """Why it is not known to be the veth that the pod's packets pass; empty where nothing contradicts it."""
    drops: int | None = None
    """Packets that the filters of this veth dropped since its clsact qdisc was made, both hooks together."""


@dataclass(frozen=True)
class Moment:
    """When and how a node was read. Times are ns."""

    took_ns: int
    at_ns: int = 0
    """The node's CLOCK_REALTIME when the reading began; 0 where that is not known."""
    api_age_ns: int | None = None
    """How long before that the API had been asked, by the clock of the machine that asked; None: not known."""
    steady: bool | None = None
    """Whether all that the answer rests on was still the same at a second look; None: not (all) looked at."""
    attempts: int = 1
    """Readings until it was, or was given up."""
    changed: tuple[str, ...] = ()
    """What was otherwise at one of the looks, in words."""


@dataclass(frozen=True)
class PodKernel:
    """All that one node's kernel holds for one pod."""

    interfaces: tuple[InterfaceView, ...]
    """The pod's own interface first."""
    identifier: str
    """The pod identifier that the pins use; the newest form where nothing is pinned."""
    identifier_pinned: bool
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pins_unread: str = ""
    """Why the pins are not known; empty where they were read."""
    monotonic_ns: int = 0
    """The node's CLOCK_MONOTONIC when it was read; 0 where that is not known."""
    via: str = ""
    """"tools" or "agent" where it was not the reader that read the node."""
    differences: tuple[Difference, ...] = ()
    """Those that concern the pod and neither direction."""
    moment: Moment | None = None
    """When its node was read."""

    @property
    def veth(self) -> str:
        return self.interfaces[0].veth

    @property
    def ifindex(self) -> int | None:
        return self.interfaces[0].ifindex

    @property
    def veth_evidence(self) -> tuple[str, ...]:
        return self.interfaces[0].evidence

    @property
    def veth_agrees(self) -> bool | None:
        return self.interfaces[0].agrees

    @property
    def directions(self) -> Mapping[Direction, DirectionView]:
        """Of the pod's own interface, which its address is on."""
        return self.interfaces[0].directions
