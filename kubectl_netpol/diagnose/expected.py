"""EXPECTED: the maps that the agent should have written for a pod, and what the datapath would decide by them.

Between ENDPOINTS and PINNED: where ENDPOINTS and EXPECTED differ, the agent's own rules are the reason (excepts win,
24 ports, shared pod identifiers, one family ...); where EXPECTED and PINNED differ, it did not write what it should.

No map tells agents up to 1.4.2 from those after, which write some entries by other rules: where these decide otherwise,
the entry that is there says which ones they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

from kubectl_netpol.diagnose import agent_release
from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel import verdict as kernel_verdict
from kubectl_netpol.kernel.generation import Generation, generation_of
from kubectl_netpol.model.flow import Address, Direction, Flow, Network, host_network
from kubectl_netpol.model.kernel import ClusterSlot, LpmEntry, LpmTable, MapView, Slot
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy import agent, agent_newer, endpoints
from kubectl_netpol.policy.networkpolicy import ITSELF
from kubectl_netpol.policy.slices import EndpointEntry, Slices
from kubectl_netpol.policy.world import World, pod_ip

Json = dict[str, Any]
LAYER = Layer.EXPECTED
Rules = Mapping[Network, agent.Expected]
Tiers = Mapping[Network, agent.ExpectedTier]
DECIDED = (Decision.ALLOW, Decision.DENY)
AFTER = "after 1.4.2"
"""``decided["agents"]`` of a verdict where the map is as these agents write it, and no others do."""


@dataclass(frozen=True, eq=False)
class ExpectedMaps:
    """What the agent should hold for one direction of a pod identifier."""

    direction: Direction
    family: int
    rules: Rules
    tiers: Tiers
    states: Mapping[int, int | None]
    """By key; None: the default of the enforcing mode."""
    listed: bool
    """Whether any PolicyEndpoint concerns the identifier at all."""
    make_newer: Callable[[Address], tuple[Rules, Tiers]] | None = None
    """The entries that hold an address, by the rules of agents after 1.4.2; None: these are they."""

    def newer(self, peer: Address) -> ExpectedMaps:
        """The same as agents after 1.4.2 write it, as far as it may decide about this address."""
        if self.make_newer is None:
            return self
        rules, tiers = self.make_newer(peer)
        return replace(self, rules=rules, tiers=tiers, make_newer=None)

    @cached_property
    def table(self) -> LpmTable:
        """The rule map as the kernel would hold it, but for the order of slots."""
        return self.table_with({})

    def table_with(self, slots: Mapping[Network, Iterable[Slot]]) -> LpmTable:
        """The same with other slots in some entries, in the order given."""
        entries = [
            LpmEntry(prefix, tuple(slots[prefix] if prefix in slots else sorted(one.slots)))
            for prefix, one in self.rules.items()
        ]
        return LpmTable(tuple(sorted(entries, key=_order)))

    @cached_property
    def tier_table(self) -> LpmTable:
        entries = [LpmEntry(prefix, tuple(sorted(set(one.slots)))) for prefix, one in self.tiers.items()]
        return LpmTable(tuple(sorted(entries, key=_order)))


def _order(entry: LpmEntry) -> tuple[int, int]:
    return int(entry.prefix.network_address), entry.prefix.prefixlen


def expected_maps(pod: Json, direction: Direction, world: World) -> ExpectedMaps:
    """From the PolicyEndpoints of all pods that share the pod's identifier: by agents 1.2.4 to 1.4.2, and by newer."""
    address = pod_ip(pod)
    family = address.version if address else 4
    own = world.own_node_address(pod, family)
    slices, cluster = endpoints.of_identifier(world, pod), endpoints.cluster_of_identifier(world, pod)

    rules = _rules(slices, direction, own, family, world)
    tiers = agent.program_tiers(cluster, direction, own, family)

    def newer(peer: Address) -> tuple[Rules, Tiers]:
        first = agent_newer.own_node_tier(own) if own is not None and own == peer and cluster else tiers
        if not slices.has_entries(direction):
            return rules, first
        return agent_newer.holding(slices.holding(direction, peer), peer, own, family), first

    return ExpectedMaps(
        direction,
        family,
        rules,
        tiers,
        agent.states(slices, cluster),
        listed=bool(slices or cluster),
        make_newer=newer,
    )


KEPT = 64
"""Rule maps that are kept: lists of pods have the pods of one namespace together."""


def _rules(slices: Slices, direction: Direction, own: Address | None, family: int, world: World) -> Rules:
    """The rule map; that of pods on another node with the same slices is the same but for the node's address."""
    if not slices or own is None or any(_begins_at(own, entry) for entry in slices.holding(direction, own)):
        return agent.program(slices, direction, own, family)
    key = id(slices), direction, family
    if key not in world.rule_maps:
        while len(world.rule_maps) >= KEPT:
            world.rule_maps.pop(next(iter(world.rule_maps)))
        world.rule_maps[key] = agent.program(slices, direction, None, family)
    return {**agent.own_node(own), **world.rule_maps[key]}


def _begins_at(own: Address, entry: EndpointEntry) -> bool:
    """Whether the agent passes over this entry, because it begins at the node's address."""
    return entry.prefix.network_address == own or entry.text.partition("/")[0] == str(own)


def as_views(
    maps: ExpectedMaps,
    like: Mapping[str, MapView],
    table: LpmTable | None = None,
    default: int = layouts.DEFAULT_ALLOW,
    tiers: LpmTable | None = None,
) -> dict[str, MapView]:
    """The maps in the form of decoded ones. ``like``: those of a program, whose generation they take over.

    Empty, or of no known generation: that of agents >= 1.4.2. ``default``: the pod state of the enforcing mode.
    ``table``, ``tiers``: other contents for the map of rules and of cluster policies.
    """
    v4 = maps.family == 4
    roles = set(like) if isinstance(generation_of(like), Generation) else {"np", "cp", "pod_state", "conntrack"}
    shapes = {
        "np": (layouts.MAP_TYPE_LPM_TRIE, 8 if v4 else 20, 288, 65536),
        "cp": (layouts.MAP_TYPE_LPM_TRIE, 8 if v4 else 20, 384, 65536),
        "pod_state": (layouts.MAP_TYPE_HASH, 4, 1, 2),
        "conntrack": (layouts.MAP_TYPE_LRU_HASH, 24 if v4 else 60, 16, 524288),
    }
    found = {}
    for role in sorted(roles & set(shapes)):
        kind, key, value, most = shapes[role]
        if role in like and len(roles) == len(like):
            kind, key, value = like[role].type, like[role].key_size, like[role].value_size
            most = like[role].max_entries
        view = MapView(0, role, "as the agent should write it", kind, key, value, most, family=maps.family)
        found[role] = _filled(view, maps, {"np": table or maps.table, "cp": tiers or maps.tier_table}, default)
    return found


def _filled(view: MapView, maps: ExpectedMaps, tables: Mapping[str, LpmTable], default: int) -> MapView:
    if view.role in tables:
        return replace(view, lpm=tables[view.role])
    if view.role == "pod_state":
        states = {key: default if state is None else state for key, state in maps.states.items()}
        return replace(view, states={key: state for key, state in states.items() if key < view.max_entries})
    return replace(view, conntrack=())


def verdict(
    maps: ExpectedMaps,
    flow: Flow,
    like: Mapping[str, MapView],
    default: int = layouts.DEFAULT_ALLOW,
    *,
    strict: bool = False,
) -> Verdict:
    """What the datapath would decide for a new flow if the agent had written all as it should.

    ``strict``: the enforcing mode is known to be strict, so that a pod that no policy concerns is closed.
    """
    if not maps.listed and strict:
        return _closed(maps, flow, like)
    if not maps.listed:
        why = "no PolicyEndpoint concerns the pod's identifier: the agent leaves the pod to the enforcing mode"
        return Verdict(LAYER, Decision.NONE, "NOT_LISTED", why)
    if flow.source == flow.destination:
        return Verdict(LAYER, Decision.ALLOW, "ITSELF", f"the pod {ITSELF}")
    generation = generation_of(like) if like else None
    if isinstance(generation, Generation) and generation.any_checks_ports is not True:
        why = f"agents {generation.agents} write some entries by other rules, which this release does not know"
        return Verdict(LAYER, Decision.UNKNOWN, "OLDER_AGENT", why)
    flow = replace(flow, source_port=None)
    newer = maps.newer(flow.peer(maps.direction)) if agent_release.may_be_newer(like) else maps
    rules = _candidates(maps, newer, flow, like, "np")
    tiers = _candidates(maps, newer, flow, like, "cp") if newer.tiers is not maps.tiers else (maps,)
    found = [_decided(one, other, flow, like, default) for one, other in product(rules, tiers)]
    if newer is not maps and (newer,) in (rules, tiers):
        found = [replace(one, decided={**one.decided, "agents": AFTER}) for one in found]
    first, rest = found[0], [other for other in found if other.decision is not found[0].decision]
    if not rest or first.decision not in DECIDED:
        return first
    other = next((one for one in rest if one.decision in DECIDED), rest[0])
    open_ = [role for role, ways in (("np", rules), ("cp", tiers)) if len(ways) > 1]
    if all(agent_release.whole_map(like, role) is None for role in open_):
        why = f"{first.why}; agents after 1.4.2 may write that otherwise, and then it is {_outcome(other)}"
        return replace(first, why=why)
    why = (
        "agents after 1.4.2 may write the entry that decides by other rules, and the map that is there does not tell: "
        f"up to 1.4.2 it should be {_outcome(first)}, after it {_outcome(other)}"
    )
    return Verdict(LAYER, Decision.UNKNOWN, "AGENT_RELEASE", why)


def _decided(
    rules: ExpectedMaps, tiers: ExpectedMaps, flow: Flow, like: Mapping[str, MapView], default: int
) -> Verdict:
    """The same with the map of rules of one release, and that of cluster policies of one."""
    views = [
        as_views(rules, like, table, default, other)
        for table in _tables(rules, flow)
        for other in _tier_tables(tiers, flow)
    ]
    found = [kernel_verdict.decide(LAYER, rules.direction, flow, view) for view in views]
    first = found[0]
    if all(other.decision is first.decision for other in found):
        return _cut_for_good(rules, flow, first)
    entry = _deciding(rules, flow)
    if entry is not None and entry.cut_off:
        why = (
            f"{len(entry.slots)} port rules meet in the entry {entry.prefix} and {layouts.SLOTS} fit: which ones "
            "agents up to 1.4.2 leave out is random, and changes each time they write the entry"
        )
        return Verdict(LAYER, Decision.UNKNOWN, "CUT_OFF", why)
    tier = _deciding_tier(tiers, flow)
    if tier is not None and tier.cut_off:
        why = (
            f"{len(tier.slots)} rules of cluster policies meet in the entry {tier.prefix} and {layouts.SLOTS} fit: "
            "which ones the agent leaves out is random, and changes each time it writes the entry"
        )
        return Verdict(LAYER, Decision.UNKNOWN, "CUT_OFF", why)
    why = "rules of one prefix are written with different host bits: which one an agent <= 1.4.1 keeps is random"
    return Verdict(LAYER, Decision.UNKNOWN, "HOST_BITS", why)


def _cut_for_good(rules: ExpectedMaps, flow: Flow, found: Verdict) -> Verdict:
    """Agents after 1.4.2 always leave out the same port rules: said where these would let the flow pass."""
    entry = _deciding(rules, flow)
    if found.code != "PORT_NOT_ALLOWED" or entry is None:
        return found
    if not any(_lets_pass(entry.prefix, one, flow) for one in entry.lost):
        return found
    why = (
        f"{len(entry.slots) + len(entry.lost)} port rules meet in the entry {entry.prefix} and {layouts.SLOTS} fit: "
        f"agents after 1.4.2 leave out {kernel_verdict.slots_text(tuple(entry.lost))}"
    )
    return replace(found, code="CUT_OFF", why=why)


def _outcome(found: Verdict) -> str:
    return f"{found.word} ({found.why})"


STRICT = "the enforcing mode is strict, and a pod that no policy concerns is closed in it"


def _closed(maps: ExpectedMaps, flow: Flow, like: Mapping[str, MapView]) -> Verdict:
    """Of a pod that no policy concerns, in strict mode (agent facts 5.10)."""
    node = next((prefix for prefix in maps.rules if prefix == host_network(flow.peer(maps.direction))), None)
    if node is not None:
        why = f"{STRICT}; whether its own node may talk to it depends on whether a policy concerned it before"
        return Verdict(LAYER, Decision.UNKNOWN, "STRICT_NODE", why)
    views = as_views(maps, like, LpmTable(()), layouts.DEFAULT_DENY)
    found = kernel_verdict.decide(LAYER, maps.direction, replace(flow, source_port=None), views)
    return replace(found, why=STRICT) if found.decision is Decision.DENY else found


def _candidates(
    maps: ExpectedMaps, newer: ExpectedMaps, flow: Flow, like: Mapping[str, MapView], role: str
) -> tuple[ExpectedMaps, ...]:
    """The releases that may have written the entry of the map of rules (np) or cluster policies (cp) that decides.

    One where both write the same, or where the map is there and its entry is as only one writes it.
    """
    deciding = _deciding if role == "np" else _deciding_tier
    both = maps, newer
    old, new = (deciding(one, flow) for one in both)
    if agent_release.meaning(old) == agent_release.meaning(new):
        return (maps,)
    held = agent_release.whole_map(like, role)
    if held is None:
        return both
    there = held.lookup(host_network(flow.peer(maps.direction)))
    fitting = (one for one, entry in zip(both, (old, new), strict=True) if agent_release.is_written(entry, there))
    return tuple(fitting) or both


def _deciding(maps: ExpectedMaps, flow: Flow) -> agent.Expected | None:
    """The longest prefix that holds the other end."""
    entry = maps.table.lookup(host_network(flow.peer(maps.direction)))
    return maps.rules.get(entry.prefix) if entry is not None else None


def _deciding_tier(maps: ExpectedMaps, flow: Flow) -> agent.ExpectedTier | None:
    entry = maps.tier_table.lookup(host_network(flow.peer(maps.direction)))
    return maps.tiers.get(entry.prefix) if entry is not None else None


def _tier_tables(maps: ExpectedMaps, flow: Flow) -> Iterable[LpmTable]:
    """What may be left of the deciding entry of cluster policies, as far as it makes a difference to this flow."""
    entry = _deciding_tier(maps, flow)
    if entry is None or not entry.cut_off:
        yield maps.tier_table
        return
    matching = sorted((one for one in entry.slots if _matches(entry.prefix, one, flow)), key=lambda one: one.word)
    low = [one for one in matching if one.priority > kernel_verdict.BASELINE_ABOVE]
    high = [one for one in matching if one.priority <= kernel_verdict.BASELINE_ABOVE]
    lost = len(entry.slots) - layouts.SLOTS
    found: dict[tuple[int, ...], tuple[ClusterSlot, ...]] = {}
    for first in range(min(lost, len(high)) + 1):
        for second in range(min(lost - first, len(low)) + 1):
            # The best ones of each tier decide, and one with the same actions decides the same.
            kept = (*high[first : first + 1], *low[second : second + 1])
            found.setdefault(tuple(one.action + (10 if one in low else 0) for one in kept), kept)
    for kept in found.values():
        yield LpmTable((LpmEntry(entry.prefix, kept),))


def _matches(prefix: Network, one: ClusterSlot, flow: Flow) -> bool:
    host = host_network(prefix.network_address)
    return kernel_verdict.cluster_tiers(LpmTable((LpmEntry(prefix, (one,)),)), host, flow)[0] is not None


def _tables(maps: ExpectedMaps, flow: Flow) -> Iterable[LpmTable]:
    """All that the deciding entry may hold: as it should, as agents <= 1.4.1 may write it, and with what is cut off."""
    entry = _deciding(maps, flow)
    if entry is None or not entry.cut_off:
        yield maps.table
    if entry is None:
        return
    for other in entry.others:
        yield maps.table_with({entry.prefix: sorted(other)})
    if entry.cut_off:
        passing = [one for one in sorted(entry.slots) if _lets_pass(entry.prefix, one, flow)]
        rest = [one for one in sorted(entry.slots) if one not in passing]
        # The best case for this flow, and the worst: all that would let it pass is among what is left out.
        yield maps.table_with({entry.prefix: (passing + rest)[: layouts.SLOTS]})
        if len(rest) >= layouts.SLOTS:
            yield maps.table_with({entry.prefix: rest[: layouts.SLOTS]})


def _lets_pass(prefix: Network, one: Slot, flow: Flow) -> bool:
    return kernel_verdict.scan(LpmEntry(prefix, (one,)), flow)[1]
