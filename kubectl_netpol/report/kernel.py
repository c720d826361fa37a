"""The kernel's part of reports: the pod's header, programs, maps and their entries."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from kubectl_netpol.diagnose.alignment import who
from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel.conntrack import made_under
from kubectl_netpol.kernel.conntrack import text as conntrack_text
from kubectl_netpol.kernel.generation import Generation
from kubectl_netpol.kernel.identity import pinned_name
from kubectl_netpol.kernel.verdict import slot_text, slots_text, state_text, used_slots
from kubectl_netpol.model.finding import InProgress
from kubectl_netpol.model.flow import Direction, protocol_name
from kubectl_netpol.model.kernel import (
    ClusterSlot,
    ConntrackEntry,
    Difference,
    DirectionView,
    InterfaceView,
    LpmEntry,
    MapView,
    Moment,
    PodKernel,
    ProgramView,
    Slot,
)
from kubectl_netpol.policy import nodes
from kubectl_netpol.policy.world import World, node_of
from kubectl_netpol.report.text import clean

Json = dict[str, Any]

ORDER = ("np", "pod_state", "cp", "conntrack", "events")
"""Maps in the order in which a reader wants them."""


def header_lines(kernel: PodKernel) -> list[str]:
    """Identifier and host veths, with how sure they are, and what is odd about the pod as a whole."""
    return [f"{label:<14}  {value}" for label, value in header_facts(kernel)] + difference_lines(kernel.differences)


def header_facts(kernel: PodKernel) -> Iterator[tuple[str, str]]:
    """(label, value) of the pod as a whole."""
    pinned = "pinned" if kernel.identifier_pinned else kernel.pins_unread or "nothing is pinned under it"
    yield "pod identifier", f"{kernel.identifier} ({pinned})"
    for one in kernel.interfaces:
        yield "host veth", _interface_text(one)
    if kernel.moment is not None:
        yield "read", moment_text(kernel.moment)


def moment_text(moment: Moment) -> str:
    """`in 0.08 s at 12:00:03Z, 1.2 s after the API was asked; it held still at the 2nd reading`."""
    seconds = moment.took_ns / 1e9
    text = f"in {seconds:.2f} s" if seconds >= 0.01 else f"in {seconds:.3f} s"
    if moment.at_ns:
        text += time.strftime(" at %H:%M:%SZ", time.gmtime(min(moment.at_ns // 10**9, LAST_SECOND)))
    if moment.api_age_ns is not None:
        text += f", {moment.api_age_ns / 1e9:.1f} s after the API was asked"
    if moment.steady is False:
        text += f"; it changed at each of {moment.attempts} readings: {'; '.join(moment.changed[-2:])}"
    elif moment.attempts > 1:
        text += f"; it changed meanwhile, and was read {moment.attempts} times"
    return text


LAST_SECOND = 253402300799
"""31 December 9999: a node may say anything."""


def moment_data(moment: Moment | None) -> Json | None:
    if moment is None:
        return None
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(moment.at_ns // 10**9, LAST_SECOND)))
    return {
        "at": at if moment.at_ns else None,
        "tookSeconds": round(moment.took_ns / 1e9, 6),
        "apiAgeSeconds": None if moment.api_age_ns is None else round(moment.api_age_ns / 1e9, 6),
        "steady": moment.steady,
        "readings": moment.attempts,
        "changed": [clean(text) for text in moment.changed],
    }


def in_progress_lines(moved: Sequence[InProgress]) -> list[str]:
    """What not every look saw."""
    more = len(moved) - MOST_IN_PROGRESS
    lines = [f"  in progress: {one.text}" for one in moved[:MOST_IN_PROGRESS]]
    return lines + ([f"  and {more} more: -o json tells all"] if more > 0 else [])


MOST_IN_PROGRESS = 10


def in_progress_data(moved: Sequence[InProgress]) -> list[Json]:
    return [
        {
            "code": one.code or None,
            "what": clean(one.what),
            "subject": clean(one.subject) or None,
            "pods": sorted(clean(f"{namespace}/{name}") for namespace, name in one.pods),
            "secondsApart": round(one.apart_ns / 1e9, 3) if one.apart_ns else None,
            "seen": "last" if one.came else "before",
        }
        for one in moved
    ]


def _interface_text(one: InterfaceView) -> str:
    index = f"ifindex {one.ifindex}; " if one.ifindex is not None else ""
    number = f"interface {one.index}; " if one.index else ""
    return f"{one.veth} ({number}{index}{'; '.join(one.evidence)})"


def node_lines(pod: Json, world: World, wide: bool) -> list[str]:
    """What kind of node it is; wide: where its agent is."""
    node = world.nodes.get(node_of(pod))
    if node is None:
        return []
    kind = nodes.kind_of(node)
    lines = [f"node            {nodes.describe(node)}"]
    if wide:
        lines.append(f"agent           {kind.agent}; log {kind.log}; metrics {kind.metrics}, health {kind.health}")
    return lines


def node_data(pod: Json, world: World) -> Json | None:
    node = world.nodes.get(node_of(pod))
    if node is None:
        return None
    kind = nodes.kind_of(node)
    return {
        "kind": kind.name,
        "description": nodes.describe(node),
        "agent": kind.agent,
        "agentLog": kind.log,
        "agentMetrics": kind.metrics,
        "agentHealth": kind.health,
        "cli": list(kind.cli),
    }


def difference_lines(differences: Sequence[Difference]) -> list[str]:
    return [f"! {found.code}: {found.text}" for found in differences]


def other_interface_lines(kernel: PodKernel, directions: Sequence[Direction]) -> list[str]:
    """What runs on the further interfaces of a multi-NIC pod, one line for each hook."""
    lines = []
    for one in kernel.interfaces[1:]:
        for direction in directions:
            view = one.directions[direction]
            runs = f"program {view.program.id}" if view.program else view.reason or "no program"
            lines.append(f"interface {one.index} ({one.veth}) {direction}: {runs}")
            lines += [f"  {line}" for line in difference_lines(view.differences)]
    return lines


def direction_lines(view: DirectionView, veth: str) -> list[str]:
    """Hook, filter, program, pin, map ids, pod state of one direction."""
    lines = [direction_title(view, veth)]
    if view.reason:
        return [*lines, f"  not read: {view.reason}"]
    lines += [f"  {label:<14}  {value}" for label, value in direction_facts(view)]
    return lines + [f"  {line}" for line in difference_lines(view.differences)]


def direction_title(view: DirectionView, veth: str) -> str:
    way = "to the pod" if view.direction is Direction.INGRESS else "from the pod"
    return f"{view.direction.value.upper()} ({way}): tc {view.direction.tc_hook} hook of {veth}"


def direction_facts(view: DirectionView) -> Iterator[tuple[str, str]]:
    """(label, value) of what is on a hook that was read."""
    if view.tcx_unread:
        yield "tcx", f"not read: {view.tcx_unread}"
    for number in view.xdp:
        yield "xdp", f"program {number}, not the agent's: it runs before tc"
    for number in view.tcx:
        yield "tcx", f"program {number}, not the agent's: it runs before any filter"
    for other in view.filters:
        if other is not view.filter:
            yield "other filter", other.text.removeprefix("filter ")
    if view.filter is None or view.program is None:
        yield "program", f"none: no filter {view.direction.program_name} on this hook"
    else:
        yield "program", program_text(view.program, view.direction)
        yield "loaded by", generation_text(view)
    yield from _pin_facts(view)
    if view.program is not None:
        yield "maps", _maps_line(view)
        yield "pod state", _state_line(view.maps.get("pod_state"))


def generation_text(view: DirectionView) -> str:
    """`agent 1.3.7 to 1.4.1`, or why the generation is unknown."""
    return f"agent {view.agents}" if view.agents else f"an unknown generation of the agent: {view.generation_reason}"


def _pin_facts(view: DirectionView) -> Iterator[tuple[str, str]]:
    pinned, program = view.pinned_program, view.program
    if pinned is None:
        if program is not None:
            yield "pin", "none of this pod identifier"
    elif program is None or pinned.id == program.id:
        yield "pin", pinned.pin
    else:
        yield "pin", f"{pinned.pin} is program {pinned.id}: NOT THE ONE THAT RUNS"


def _maps_line(view: DirectionView) -> str:
    known = [f"{map_label(view.maps[r], view.direction)} {view.maps[r].id}" for r in ORDER if r in view.maps]
    return ", ".join(known + [f"unknown map {other.id}" for other in view.other_maps])


def program_text(program: ProgramView, direction: Direction) -> str:
    jited = "jited" if program.jited else "not jited"
    return f"{program.id} ({direction.program_name}, tag {program.tag}, {jited})"


def _state_line(view: MapView | None) -> str:
    if view is None:
        return "the program uses no pod state map"
    if view.states is None:
        return f"unknown: {view.reason}"
    if not view.states:
        return f"MISSING: map {view.id} is empty, the program drops every packet"
    return state_text(view.states, (0,) if view.max_entries == 1 else (0, 1))


def map_label(view: MapView, direction: Direction) -> str:
    """The agent's name for the map: by its role, else by its pin, else none."""
    return layouts.map_name(view.role, direction.value) or pinned_name(view.pin) or "unknown"


def maps_of(view: DirectionView) -> list[MapView]:
    """The maps of the attached program, or those behind the pins where nothing is attached."""
    maps = view.maps if view.program is not None else view.pinned_maps
    return [maps[role] for role in ORDER if role in maps] + list(view.other_maps)


def pinned_elsewhere(view: DirectionView) -> list[MapView]:
    """The maps that the agent writes and the attached program does not use; none where the two are the same."""
    if view.program is None:
        return []
    used = {m.id for m in (*view.maps.values(), *view.other_maps)}
    return [
        view.pinned_maps[role] for role in ORDER if role in view.pinned_maps and view.pinned_maps[role].id not in used
    ]


def size_text(view: MapView) -> str:
    """How many entries a map holds, as far as known."""
    if view.role == "events":
        return "-"
    for entries in (view.lpm.entries if view.lpm else None, view.states, view.conntrack, view.raw):
        if entries is not None:
            more = "" if view.complete else "+"
            return f"{len(entries)}{more}"
    return "unknown"


def entry_rows(
    view: MapView, direction: Direction, world: World, wide: bool, generation: Generation | str
) -> Iterator[list[object]]:
    """[map, id, key, who, value] of every entry, decoded or raw. ``generation``: of the program that uses it."""
    name = map_label(view, direction)
    for entry in view.lpm.entries if view.lpm else ():
        if wide:
            slots: tuple[Slot | ClusterSlot, ...] = entry.slots
            for number, slot in enumerate(slots):
                if any(slot):
                    yield [
                        name,
                        view.id,
                        entry.prefix,
                        who(entry.prefix, world),
                        f"[{number}] {slot_text(slot)}",
                    ]
        else:
            yield [name, view.id, entry.prefix, who(entry.prefix, world), slots_text(entry.slots)]
    for key, state in sorted((view.states or {}).items()):
        meaning = layouts.STATE_KEY_NAMES.get(key, "")
        yield [name, view.id, f"key {key}", meaning, layouts.STATE_NAMES.get(state, f"state {state}")]
    for flow in sorted(view.conntrack or ()):
        yield [
            name,
            view.id,
            conntrack_text(flow),
            conntrack_who(flow, world),
            made_under_text(flow, generation),
        ]
    for raw_key, raw_value in view.raw or ():
        yield [name, view.id, f"0x{raw_key.hex()}", view.layout, f"0x{raw_value.hex()}"]


def made_under_text(flow: ConntrackEntry, generation: Generation | str) -> str:
    """`allowed under POLICIES_APPLIED`, as far as layout and generation tell."""
    if isinstance(generation, str):
        return f"value {flow.value}" if flow.value is not None else "allowed"
    under = made_under(flow, generation)
    return f"allowed under {under}" if under else "allowed"


def conntrack_who(flow: ConntrackEntry, world: World) -> str:
    names = [world.who(address) or "unknown address" for address in (flow.source, flow.destination)]
    return " -> ".join(names)


# ---- the same as data


def kernel_data(kernel: PodKernel | None) -> Json | None:
    if kernel is None:
        return None
    return {
        "podIdentifier": kernel.identifier,
        "podIdentifierPinned": kernel.identifier_pinned,
        "hostVeth": kernel.veth,
        "ifindex": kernel.ifindex,
        "hostVethConfirmed": kernel.veth_agrees,
        "hostVethEvidence": list(kernel.veth_evidence),
        "droppedPackets": kernel.interfaces[0].drops,
        "reading": moment_data(kernel.moment),
        "otherInterfaces": [
            {
                "index": one.index,
                "hostVeth": one.veth,
                "ifindex": one.ifindex,
                "directions": [direction_data(view) for view in one.directions.values()],
            }
            for one in kernel.interfaces[1:]
        ],
        "differences": [difference_data(found) for found in kernel.differences],
        "errors": list(kernel.errors),
        "notes": list(kernel.notes),
    }


def difference_data(found: Difference) -> Json:
    return {"code": found.code, "text": found.text}


def direction_data(view: DirectionView) -> Json:
    return {
        "direction": view.direction.value,
        "tcHook": view.direction.tc_hook,
        "reason": view.reason,
        "clsact": view.clsact,
        "tcxPrograms": None if view.tcx_unread else list(view.tcx),
        "tcxUnread": view.tcx_unread,
        "xdpPrograms": list(view.xdp),
        "filters": [
            {
                "kind": f.kind,
                "name": f.name,
                "pref": f.pref,
                "handle": f.handle,
                "programId": f.program_id,
                "tag": f.tag,
                "directAction": f.direct_action,
                "protocol": f.protocol,
                "chain": f.chain,
            }
            for f in view.filters
        ],
        "program": program_data(view.program),
        "loadedByAgent": view.agents or None,
        "generationReason": view.generation_reason,
        "pinnedProgram": program_data(view.pinned_program),
        "pinnedMapIds": {map_label(m, view.direction): m.id for m in view.pinned_maps.values() if m.role != "unknown"},
        "differences": [difference_data(found) for found in view.differences],
    }


def program_data(program: ProgramView | None) -> Json | None:
    if program is None:
        return None
    return {
        "id": program.id,
        "tag": program.tag,
        "jited": program.jited,
        "mapIds": list(program.map_ids),
        "pin": program.pin or None,
    }


def map_data(view: MapView, direction: Direction, world: World, generation: Generation | str) -> Json:
    data: Json = {
        "name": map_label(view, direction),
        "id": view.id,
        "type": layouts.MAP_TYPE_NAMES.get(view.type, str(view.type)),
        "layout": view.layout,
        "keySize": view.key_size,
        "valueSize": view.value_size,
        "maxEntries": view.max_entries,
        "pin": view.pin or None,
        "complete": view.complete,
        "reason": view.reason,
    }
    if view.lpm is not None:
        data["entries"] = [lpm_data(entry, world) for entry in view.lpm.entries]
    elif view.states is not None:
        data["entries"] = [
            {
                "key": key,
                "meaning": layouts.STATE_KEY_NAMES.get(key),
                "state": layouts.STATE_NAMES.get(state, state),
            }
            for key, state in sorted(view.states.items())
        ]
    elif view.conntrack is not None:
        data["entries"] = [conntrack_data(flow, world, generation) for flow in sorted(view.conntrack)]
    elif view.raw is not None:
        data["entries"] = [{"rawKey": key.hex(), "rawValue": value.hex()} for key, value in view.raw]
    else:
        data["entries"] = None
    return data


def lpm_data(entry: LpmEntry, world: World) -> Json:
    return {
        "prefix": str(entry.prefix),
        "who": who(entry.prefix, world),
        "slots": [slot_data(slot) for slot in used_slots(entry.slots)],
    }


def slot_data(slot: Any) -> Json:
    data: Json = {
        "text": slot_text(slot),
        "protocol": slot.protocol,
        "startPort": slot.start,
        "endPort": slot.end,
    }
    if isinstance(slot, ClusterSlot):
        data.update(priority=slot.priority, action=slot.action)
    return data


def conntrack_data(flow: ConntrackEntry, world: World, generation: Generation | str) -> Json:
    under = "" if isinstance(generation, str) else made_under(flow, generation)
    return {
        "source": str(flow.source),
        "sourcePort": flow.source_port,
        "destination": str(flow.destination),
        "port": flow.port,
        "protocol": protocol_name(flow.protocol),
        "owner": str(flow.owner),
        "ifindex": flow.ifindex,
        "value": flow.value,
        "lastSeenNs": flow.last_seen,
        "allowedUnder": under or None,
        "who": conntrack_who(flow, world),
    }
