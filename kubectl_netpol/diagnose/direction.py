"""One direction of a pod: its rows over the layers, whether they agree, and one sentence about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kubectl_netpol.diagnose.alignment import Alignment, Held, Row, Status, align
from kubectl_netpol.diagnose.tier_alignment import HeldTiers, align_tiers
from kubectl_netpol.kernel.generation import Generation, generation_of
from kubectl_netpol.kernel.layouts import DEFAULT_ALLOW, DEFAULT_DENY, POLICIES_APPLIED, PROTOCOL_ANY, STATE_NAMES
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import DirectionView, PodKernel
from kubectl_netpol.policy import agent, endpoints
from kubectl_netpol.policy.cni import cni_of
from kubectl_netpol.policy.world import World, on_host_network

Json = dict[str, Any]


@dataclass(frozen=True)
class DirectionReport:
    """One direction of the pod: its kernel view and the aligned rows."""

    direction: Direction
    view: DirectionView | None
    alignment: Alignment
    tiers: tuple[Row, ...]
    """The rows of cluster policies, against the cp map."""
    summary: str
    agrees: bool | None
    """Every row is fine; None: something could not be read."""
    mode: str = ""
    """The enforcing mode; empty where it was not read."""

    @property
    def rows(self) -> tuple[Row, ...]:
        return (*self.tiers, *self.alignment.rows)


def report(
    pod: Json, direction: Direction, world: World, kernel: PodKernel | None, *, api_only: bool = False
) -> DirectionReport:
    """Pure. ``api_only``: the kernel's column is left out, and nothing is held against it."""
    view = kernel.directions[direction] if kernel else None
    alignment = align(pod, direction, world, Held(None, asked=False) if api_only else _held(pod, view, world))
    tiers = align_tiers(pod, direction, world, HeldTiers(asked=False) if api_only else _held_tiers(pod, view, world))
    unread = world.unread("clusternetworkpolicies", "clusterpolicyendpoints")
    alignment = replace(alignment, reason="; ".join(text for text in (alignment.reason, unread) if text))
    if api_only:
        return _by_api(pod, direction, alignment, tiers, world)
    one = _Direction(pod, direction, world, view, alignment, tiers, pins_unread=bool(kernel and kernel.pins_unread))
    agrees = one.agrees()
    disputed = kernel.interfaces[0].disputed if kernel else ""
    if disputed:
        return one.made(f"{one.what}; {disputed}", None)
    further = _further(kernel, direction) if kernel and agrees else ""
    if further:
        return one.made(f"{one.what}, but {further}", False)
    return one.made(one.summary(agrees), agrees)


def _by_api(
    pod: Json, direction: Direction, alignment: Alignment, tiers: tuple[Row, ...], world: World
) -> DirectionReport:
    beyond = _beyond_yaml(pod, direction, alignment, world)
    what = _what(direction, alignment, tiers, beyond)
    if on_host_network(pod):
        summary = f"{direction} is not filtered: the pod is on the host network"
        return DirectionReport(direction, None, alignment, tiers, summary, True)
    bad = bad_rows((*tiers, *alignment.rows))
    if bad:
        return DirectionReport(
            direction, None, alignment, tiers, f"{what}, but {_differ(bad, alignment, tiers)}", False
        )
    unknown = next((row.note for row in (*tiers, *alignment.rows) if row.status is Status.UNKNOWN), "")
    if alignment.reason or unknown:
        why = f"not read: {alignment.reason}" if alignment.reason else unknown
        summary = f"{what}, as far as the API could be read: {why}"
        return DirectionReport(direction, None, alignment, tiers, summary, None)
    closed = not (alignment.policies or beyond) and cni_of(world).mode == "strict"
    what += CLOSED_BY_MODE if closed else ""
    summary = what if beyond or closed else f"{what}, and the PolicyEndpoints say the same"
    return DirectionReport(direction, None, alignment, tiers, summary, True)


def _held(pod: Json, view: DirectionView | None, world: World) -> Held:
    rules = view.maps.get("np") if view else None
    states = view.maps.get("pod_state") if view else None
    # Programs of 1.2.x do not look at the map in DEFAULT_ALLOW. With a cp map a matching entry decides in
    # DEFAULT_ALLOW too: none may be left over.
    waits = bool(states and states.states and states.states.get(0) == DEFAULT_ALLOW)
    return Held(
        rules.lpm if rules else None,
        complete=bool(rules and rules.complete and not rules.first_slot_only),
        idle=waits and bool(view and "cp" not in view.maps),
        attached=not _nothing_attached(view),
        slots=_slots_looked_at(view),
        exact=_writes_as_modelled(view),
        elsewhere=endpoints.only_elsewhere(world, pod),
        unread=(view.reason if view else "") or (rules.reason if rules else ""),
    )


def _held_tiers(pod: Json, view: DirectionView | None, world: World) -> HeldTiers:
    cluster = view.maps.get("cp") if view else None
    return HeldTiers(
        cluster.lpm if cluster else None,
        complete=bool(cluster and cluster.complete and not cluster.first_slot_only),
        attached=not _nothing_attached(view),
        exists=view is None or view.program is None or not view.agents or "cp" in view.maps,
        elsewhere=endpoints.only_elsewhere(world, pod),
        unread=(view.reason if view else "") or (cluster.reason if cluster else ""),
    )


def _further(kernel: PodKernel, direction: Direction) -> str:
    """What is wrong with a further interface of a multi-NIC pod whose own interface is as it should be."""
    if kernel.directions[direction].filter is None:
        return ""
    for one in kernel.interfaces[1:]:
        view = one.directions[direction]
        wrong = next((found for found in view.differences if found.code in (*WRONG_ATTACHMENT, *OPEN_HOOK)), None)
        if wrong is not None:
            return f"its interface {one.index} is not like that: {wrong.text}"
    return ""


def _nothing_attached(view: DirectionView | None) -> bool:
    """Known to be without any program on the hook, of whomever."""
    if view is None or view.reason or view.clsact is None:
        return False
    return view.filter is None and not view.foreign


def _slots_looked_at(view: DirectionView | None) -> int | None:
    """How many slots of an entry the program looks at, where that is known."""
    found = generation_of(view.maps, view.other_maps) if view else ""
    return found.slots_scanned if isinstance(found, Generation) else None


def _writes_as_modelled(view: DirectionView | None) -> bool:
    """Whether the agent that loaded the program surely fills its maps by the rules of >= 1.2.4."""
    found = generation_of(view.maps, view.other_maps) if view else ""
    return not isinstance(found, Generation) or found.any_checks_ports is True


WRONG_ATTACHMENT = (
    "OTHER_DIRECTION",
    "OTHER_PROGRAM",
    "OTHER_MAP",
    "UNPINNED_MAP",
    "PIN_OF_ANOTHER",
    "NO_PROGRAM_PIN",
    "NO_MAPS",
)
"""Differences through which what the agent writes is not what packets meet."""
OPEN_HOOK = ("NO_CLSACT", "NO_FILTER", "NEVER_RUNS", "NOT_DIRECT_ACTION")
"""Differences through which nothing of the agent's meets packets."""


def bad_rows(rows: Iterable[Row]) -> list[Row]:
    """Those that say that two layers differ."""
    return [row for row in rows if not row.status.good and row.status is not Status.UNKNOWN]


def _differ(bad: list[Row], alignment: Alignment, tiers: tuple[Row, ...]) -> str:
    return f"{len(bad)} of {len(alignment.rows) + len(tiers)} entries differ: see STATUS"


def _beyond_yaml(pod: Json, direction: Direction, alignment: Alignment, world: World) -> tuple[str, ...]:
    """Policies that restrict the pod by their PolicyEndpoints, and by the YAML do not.

    A shared pod identifier, rules of a direction that policyTypes does not list, or what an earlier state left behind.
    """
    return tuple(n for n in endpoints.restricting(world, pod, direction) if n not in alignment.policies)


def _what(direction: Direction, alignment: Alignment, tiers: tuple[Row, ...], beyond: tuple[str, ...] = ()) -> str:
    names = ", ".join(alignment.policies)
    if beyond:
        names += f"{' and ' if names else ''}the PolicyEndpoints of {', '.join(beyond)}, which the YAML does not mean"
    text = f"{direction} is restricted by {names}" if names else f"{direction} is not restricted by any NetworkPolicy"
    cluster = ", ".join(dict.fromkeys(row.policy for row in tiers if row.policy))
    return f"{text}, after {cluster}" if cluster else text


@dataclass(frozen=True)
class _Direction:
    """All that is known of one direction, while it is judged."""

    pod: Json
    direction: Direction
    world: World
    view: DirectionView | None
    alignment: Alignment
    tiers: tuple[Row, ...]
    pins_unread: bool

    def made(self, summary: str, agrees: bool | None) -> DirectionReport:
        return DirectionReport(self.direction, self.view, self.alignment, self.tiers, summary, agrees, self.mode)

    @property
    def rows(self) -> tuple[Row, ...]:
        return (*self.tiers, *self.alignment.rows)

    @property
    def what(self) -> str:
        return _what(self.direction, self.alignment, self.tiers, self.beyond)

    @property
    def beyond(self) -> tuple[str, ...]:
        return _beyond_yaml(self.pod, self.direction, self.alignment, self.world)

    @property
    def mode(self) -> str:
        """The enforcing mode; empty where it was not read."""
        return cni_of(self.world).mode

    @property
    def restricted(self) -> bool:
        """Whether anything restricts the direction, by YAML or by PolicyEndpoint."""
        return bool(self.alignment.policies or self.beyond)

    def agrees(self) -> bool | None:
        view, alignment = self.view, self.alignment
        if bad_rows(self.rows):
            return False
        if on_host_network(self.pod):
            return True
        if view is None or view.reason or alignment.reason:
            return None
        if view.filter is None:
            if view.foreign or view.clsact is None:
                return None
            # No filter is right for a pod that no policy selects, and wrong for one that is isolated.
            return not self.restricted
        if any(row.status is Status.UNKNOWN for row in self.rows):
            return None
        if any(found.code in WRONG_ATTACHMENT for found in view.differences):
            return False
        if not view.agents:
            return None
        agrees = self._states_agree(view)
        if agrees is not True:
            return agrees
        return None if self.pins_unread or incomplete(view) else True

    def _states_agree(self, view: DirectionView) -> bool | None:
        """Whether the pod states are those of a pod with (or without) policies; agents < 1.2.0 have none."""
        view_of = view.maps.get("pod_state")
        if view_of is None:
            return True if self.restricted else _lets_all_through(view)
        states = view_of.states
        if states is None or not view_of.complete:
            return None
        if missing_states(view, states):
            return False
        if self.restricted:
            return states[0] == POLICIES_APPLIED or (None if endpoints.only_elsewhere(self.world, self.pod) else False)
        if states[0] == DEFAULT_DENY:
            return {"strict": True, "standard": False}.get(self.mode)
        if self._wrong_state(view, states):
            return False
        if states[0] == DEFAULT_ALLOW and self.mode == "strict":
            return False
        return states[0] == DEFAULT_ALLOW or (states[0] == POLICIES_APPLIED and _lets_all_through(view))

    def _wrong_state(self, view: DirectionView, states: Mapping[int, int]) -> str:
        """A state that is not what PolicyEndpoints make the agent write, in both directions alike (facts 5.6)."""
        if endpoints.only_elsewhere(self.world, self.pod):
            return ""
        slices = endpoints.of_identifier(self.world, self.pod)
        cluster = endpoints.cluster_of_identifier(self.world, self.pod)
        for key, wanted in agent.states(slices, cluster).items():
            if key == 1 and "cp" not in view.maps:
                continue
            if wanted == POLICIES_APPLIED and states.get(key) == DEFAULT_ALLOW:
                what = "PolicyEndpoints" if key == 0 else "ClusterPolicyEndpoints"
                return f"the pod state of key {key} is DEFAULT_ALLOW, although {what} list the pod"
        return ""

    def summary(self, agrees: bool | None) -> str:
        if on_host_network(self.pod):
            return f"{self.direction} is not filtered: the pod is on the host network"
        what, view, alignment = self.what, self.view, self.alignment
        if view is None:
            return f"{what}; the kernel was not read"
        if view.reason:
            return f"{what}; the kernel was not read: {view.reason}"
        if agrees:
            seen = ", as far as tc shows (what runs before tc filters was not read)" if view.tcx_unread else ""
            return f"{what}{self._by_mode(view)}, and the kernel agrees{seen}"
        if alignment.reason:
            return f"{what}, as far as the API could be read: not read: {alignment.reason}"
        name = self.direction.program_name
        if view.filter is None and view.foreign:
            return f"{what}, but no {name} filter is attached, and what others do there is not known"
        if view.filter is None:
            replies = "" if self.restricted else ", and replies to what passes here are not known as replies"
            return f"{what}, but no {name} filter is attached: nothing is filtered{replies}"
        return f"{what}, {self._problem(view)}"

    def _by_mode(self, view: DirectionView) -> str:
        """What strict mode makes of a pod that no policy concerns."""
        held = view.maps.get("pod_state")
        states = (held.states if held else None) or {}
        return "" if self.restricted or states.get(0) != DEFAULT_DENY else CLOSED_BY_MODE

    def _problem(self, view: DirectionView) -> str:
        wrong = next((found for found in view.differences if found.code in WRONG_ATTACHMENT), None)
        if wrong is not None:
            return f"but {wrong.text}"
        if not view.agents:
            return f"and what its program {view.program.id if view.program else ''} does is not known: " + (
                view.generation_reason
            )
        view_of = view.maps.get("pod_state")
        if view_of is not None and view_of.states is None:
            return "and its pod state could not be read"
        states = (view_of.states if view_of else None) or {}
        missing = missing_states(view, states)
        if view_of is not None and missing:
            return f"but the pod state is missing (key {missing[0]}): the program drops every packet"
        bad = bad_rows(self.rows)
        if any(row.status is Status.UNKNOWN for row in self.rows) and not bad:
            return "and its map could not be compared: see STATUS"
        if bad:
            return f"but {_differ(bad, self.alignment, self.tiers)}"
        if not self.restricted and states.get(0) == DEFAULT_DENY and self.mode != "strict":
            return "but the pod state is DEFAULT_DENY, and the enforcing mode is standard" if self.mode else STRICT
        unread = incomplete(view)
        if unread and self._states_agree(view):
            return f"and the kernel could not be compared: {unread}"
        if view_of is None:
            return "but no entry of the map lets everybody through"
        odd = self._wrong_state(view, states)
        if odd and not self.restricted:
            return f"but {odd}"
        text = f"but the pod state is {STATE_NAMES.get(states[0], states[0])}"
        if not self.restricted and states[0] == DEFAULT_ALLOW:
            return f"{text}, and the enforcing mode is strict"
        if not self.restricted and states[0] == POLICIES_APPLIED:
            text += ", and no entry of the map lets everybody through"
        return text


def missing_states(view: DirectionView, states: Mapping[int, int]) -> list[int]:
    """Keys without which the program drops every packet."""
    return [key for key in ((0, 1) if "cp" in view.maps else (0,)) if key not in states]


def incomplete(view: DirectionView) -> str:
    """What keeps the rows from being the whole truth; empty where nothing does."""
    rules, cluster = view.maps.get("np"), view.maps.get("cp")
    if rules is None or not rules.complete:
        return "its rule map was not read to the end"
    if cluster is not None and (cluster.lpm is None or not cluster.complete):
        return "its cluster policy map could not be read"
    if view.filter is not None and not view.filter.direct_action:
        return "its filter does not decide by itself (no direct-action)"
    if view.in_front:
        return f"{' and '.join(view.in_front)} runs first and may decide"
    return ""


def _lets_all_through(view: DirectionView) -> bool | None:
    """Whether the catch-all is there, without which POLICIES_APPLIED drops whoever is not listed."""
    rules = view.maps.get("np")
    if rules is None or rules.lpm is None:
        return None
    return any(entry.prefix.prefixlen == 0 and (PROTOCOL_ANY, 0, 0) in entry.slots for entry in rules.lpm.entries)


CLOSED_BY_MODE = ", and closed by the strict enforcing mode"
STRICT = (
    "and the pod state is DEFAULT_DENY: right where NETWORK_POLICY_ENFORCING_MODE is strict, and wrong in standard "
    "mode; which one it is was not read"
)


def why_unknown(found: DirectionReport) -> str:
    """The first thing that kept a direction from being compared; empty where nothing did."""
    view = found.view
    if found.agrees is not None:
        return ""
    if view is None:
        return found.alignment.reason or "the kernel was not read"
    states = view.maps.get("pod_state")
    unread = f"the pod state could not be read: {states.reason}" if states and states.states is None else ""
    if states and states.states and states.states.get(0) == DEFAULT_DENY and not found.mode:
        unread = STRICT.removeprefix("and ")
    rows = next((row.note for row in found.rows if row.status is Status.UNKNOWN), "")
    return view.reason or found.alignment.reason or view.generation_reason or unread or incomplete(view) or rows
