"""A node's document -> what its kernel holds for one pod.

The program that a tc filter runs, and the maps that this program really uses, are the truth. Pins are what
the agent believes. Both are kept, side by side, and never mixed.
"""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import ip_address
from typing import Any

from kubectl_netpol.kernel import attachment, decode, identity, layouts
from kubectl_netpol.kernel.generation import Generation, generation_of
from kubectl_netpol.model.flow import Address, Direction
from kubectl_netpol.model.kernel import (
    DirectionView,
    FilterView,
    InterfaceView,
    MapView,
    Moment,
    PodKernel,
    ProgramView,
)

Json = dict[str, Any]

_MAP_SUFFIXES = {
    (direction, role): layouts.map_name(role, direction.value)
    for direction in Direction
    for role in ("np", "cp", "pod_state")
}
_GLOBAL_PINS = {"conntrack": "maps/global_aws_conntrack_map", "events": "maps/global_policy_events"}
MAIN_TABLE = 254
ALL_PROTOCOLS, ETHERTYPES = 3, {4: 0x0800, 6: 0x86DD}


@dataclass(frozen=True)
class _Veth:
    """A host veth: see ``InterfaceView``."""

    name: str
    ifindex: int | None
    evidence: tuple[str, ...]
    agrees: bool | None
    disputed: str = ""


@dataclass(frozen=True)
class _Place:
    """Where the pod's objects are pinned. ``identifier`` is empty where nothing is."""

    identifier: str
    pins_known: bool
    protocols: frozenset[int]
    """EtherTypes of the tc filters that see the pod's packets."""


CHANGED = "changed while the node was read: in progress"
"""Of what the reader saw otherwise at each of its looks: neither right nor wrong."""


def moment_of(document: Json) -> Moment:
    """When and how a node was read. Of the first documents, and of other readers, as far as their clocks tell."""
    begin, end = document["clock"]["begin"], document["clock"]["end"]
    section = document.get("consistency")
    if not section:
        took = end.get("monotonic_ns", 0) - begin["monotonic_ns"]
        return Moment(max(0, took), begin["realtime_ns"])
    return Moment(
        took_ns=section["took_ns"],
        at_ns=begin["realtime_ns"],
        api_age_ns=section.get("api_age_ns"),
        steady=section["steady"],
        attempts=section["attempts"],
        changed=tuple(section["changed"]),
    )


class NodeView:
    """Indexes over one reader document. ``PodKernel`` views of any pod of the node are cut out of it."""

    def __init__(self, document: Json) -> None:
        self.document = document
        self.moment = moment_of(document)
        still_open = (document.get("consistency") or {}).get("open") or {}
        self._open_links = frozenset(still_open.get("links") or ())
        self._open_programs = frozenset(still_open.get("programs") or ())
        self._open_maps = frozenset(still_open.get("maps") or ())
        self.open_pins = frozenset(still_open.get("pins") or ())
        """Paths that led to another object, or to none, from one look to the next."""
        self.links_by_name: dict[str, Json] = {link["name"]: link for link in self._section("links")}
        self.links_by_index: dict[int, Json] = {link["ifindex"]: link for link in self._section("links")}
        self.programs: dict[int, Json] = {program["id"]: program for program in self._section("programs")}
        self.maps: dict[int, Json] = {entry["id"]: entry for entry in self._section("maps")}
        self._views: dict[int, MapView] = {}

    def _section(self, name: str) -> list[Json]:
        """The rows of a section; none also where it could not be read: see ``unread``."""
        rows: list[Json] | None = self.document[name]
        return rows or []

    def unread(self, section: str, *more: str) -> str:
        """Why a section, or one part of it, could not be read; empty where it was."""
        wanted = " ".join((section, *more))
        for error in self.document["errors"]:
            if error["what"] in (section, wanted):
                return f"{error['what']}: {error['error']}"
        return "" if self.document.get(section, ()) is not None else f"{section} could not be read"

    @cached_property
    def filters(self) -> Mapping[tuple[int, str], list[Json]]:
        found: dict[tuple[int, str], list[Json]] = defaultdict(list)
        for entry in self._section("filters"):
            found[entry["ifindex"], entry["hook"]].append(entry)
        for entries in found.values():
            # Of one pref the dump has the order in which they run: cls_bpf puts a new filter first (list_add_rcu).
            entries.sort(key=lambda entry: (entry["chain"], entry["pref"]))
        return found

    @cached_property
    def pins(self) -> Mapping[str, int]:
        """Path below globals/aws -> object id, of all pins whose object could be identified."""
        return {pin["path"]: pin["id"] for pin in self._pin_rows if pin["id"] is not None}

    @cached_property
    def _pin_rows(self) -> list[Json]:
        """Those that led to another object from one look to the next lead to none that is known."""
        rows = self._section("pins")
        if not self.open_pins or self.document["pins"] is None:
            return rows
        still = [row for row in rows if row["path"] not in self.open_pins]
        return still + [
            {"path": path, "kind": "unknown", "id": None, "reason": CHANGED} for path in sorted(self.open_pins)
        ]

    @cached_property
    def _pins_of(self) -> Mapping[tuple[str, int], tuple[str, ...]]:
        """("maps" | "programs", object id) -> all paths that hold it."""
        found: dict[tuple[str, int], list[str]] = defaultdict(list)
        for pin in self._section("pins"):
            # Also of those that lead elsewhere since: when the maps were read they held them.
            if pin["id"] is not None:
                found[pin["path"].partition("/")[0], pin["id"]].append(pin["path"])
        return {key: tuple(sorted(paths)) for key, paths in found.items()}

    @cached_property
    def errors(self) -> tuple[str, ...]:
        return tuple(f"{error['what']}: {error['error']}" for error in self.document["errors"])

    def has_clsact(self, ifindex: int) -> bool | None:
        """None where the qdiscs could not be read."""
        if self.document["qdiscs"] is None:
            return None
        return any(q["ifindex"] == ifindex and q["kind"] == "clsact" for q in self._section("qdiscs"))

    def drops(self, ifindex: int | None) -> int | None:
        """Packets that clsact of this link dropped since it was made, both hooks together."""
        for qdisc in self._section("qdiscs"):
            if qdisc["ifindex"] == ifindex and qdisc["kind"] == "clsact":
                drops: int | None = qdisc.get("drops")
                return drops
        return None

    def pod(self, namespace: str, name: str, ips: Iterable[str]) -> PodKernel:
        """The view of one pod, whatever of it exists."""
        candidates = identity.identifiers(namespace, name)
        pinned = self._pinned_identifiers(candidates)
        identifier = self._used_identifier(pinned, namespace, name, tuple(ips)) if pinned else candidates[0]
        pins_unread = self.unread("pins") or self._unidentified_pin(namespace, name)
        if pins_unread and self.document["maps"] is None:
            # What is behind a pin is not known because nothing is: say that, and not which pin it was.
            pins_unread = self.unread("maps")
        place = _Place(identifier if pinned else "", not pins_unread, _protocols(tuple(ips)))
        interfaces = [self._interface(0, self._veth(namespace, name, tuple(ips)), place)]
        for index in range(1, identity.MOST_INTERFACES):
            veth = next((n for n in identity.veth_names(namespace, name, index) if n in self.links_by_name), None)
            if veth is not None:
                found = _Veth(veth, self.links_by_name[veth]["ifindex"], (f"sha1({namespace}.{name}.{index})",), None)
                interfaces.append(self._interface(index, found, place))
        differences = () if pins_unread else tuple(attachment.of_pod(interfaces[0].directions, candidates, pinned))
        if [d.code for d in differences] == ["NO_PIN"] and self._attaches_on_demand():
            interfaces = [_without_differences(one) for one in interfaces]
            differences = (attachment.NOT_ATTACHED,)
        return PodKernel(
            interfaces=tuple(interfaces),
            identifier=identifier,
            identifier_pinned=bool(pinned),
            errors=self.errors,
            notes=tuple(self.document["notes"]),
            pins_unread=pins_unread,
            monotonic_ns=self.document["clock"]["begin"]["monotonic_ns"],
            moment=self.moment,
            via=str(self.document.get("via") or ""),
            differences=differences,
        )

    def _attaches_on_demand(self) -> bool:
        """Whether the node's programs are all of agents that attach to pods with a policy only."""
        return bool(self.generations()) and not any(generation.state_keys for generation in self.generations())

    def _interface(self, index: int, veth: _Veth, place: _Place) -> InterfaceView:
        unknown = "; ".join(veth.evidence) if veth.ifindex is None else ""
        views = {d: self._direction(d, veth.ifindex, place, unknown) for d in Direction}
        for direction, opposite in ((Direction.INGRESS, Direction.EGRESS), (Direction.EGRESS, Direction.INGRESS)):
            found = attachment.differences(
                views[direction], views[opposite], veth.name, place.identifier, pins_known=place.pins_known
            )
            views[direction] = replace(views[direction], differences=found)
        return InterfaceView(
            index=index,
            veth=veth.name,
            ifindex=veth.ifindex,
            evidence=veth.evidence,
            agrees=veth.agrees,
            disputed=veth.disputed,
            directions=views,
            addresses=self._addresses(veth.ifindex),
            drops=self.drops(veth.ifindex),
        )

    def _addresses(self, ifindex: int | None) -> tuple[Address, ...]:
        """Addresses whose host routes lead to a link."""
        return tuple(
            ip_address(route["destination"])
            for route in self._section("routes")
            if route["ifindex"] == ifindex and _is_host_route(route)
        )

    def _veth(self, namespace: str, name: str, ips: tuple[str, ...]) -> _Veth:
        """The host veth: by name, then checked against the route to the pod's address."""
        candidates = identity.veth_names(namespace, name)
        routed = self._routed_link(ips)
        # Of two (one may be left over from a pod that was here before) the one that the route leads to.
        existing = sorted((n for n in candidates if n in self.links_by_name), key=lambda name: name != routed)
        computed = next(iter(existing), None)
        if computed is None and routed is None:
            unread = self.unread("links") or self.unread("routes") or self._open_link(candidates)
            where = f"no link {' or '.join(candidates)} on this node"
            why = unread or f"{where}, and no route to {', '.join(ips) or 'the pod'}"
            return _Veth(candidates[0], None, (why,), None if unread else False)
        if computed is None:
            assert routed is not None
            index = self.links_by_name[routed]["ifindex"]
            why = f"no link {' or '.join(candidates)}; the route to {ips[0]} goes to {routed}: that one is used"
            return _Veth(routed, index, (why,), False)
        index = self.links_by_name[computed]["ifindex"]
        if routed is None:
            why = self.unread("routes") or f"no route to {', '.join(ips) or 'the pod'} confirms it"
            return _Veth(computed, index, (f"link {computed} exists; {why}",), None)
        if routed != computed:
            why = f"the route to {ips[0]} goes to {routed}, not to {computed}"
            return _Veth(computed, index, (why,), False, f"which veth is the pod's is not known: {why}")
        return _Veth(computed, index, (f"sha1({namespace}.{name}) and the route to {ips[0]} agree",), True)

    def _open_link(self, names: Iterable[str]) -> str:
        """The first of these links that was not the same at each look, and what changed; else empty."""
        name = next((one for one in names if one in self._open_links), "")
        return name and f"link {name} {CHANGED}{self._words(f' {name} ', f' {name}:')}"

    def _words(self, *parts: str) -> str:
        text = next((text for text in reversed(self.moment.changed) if any(part in text for part in parts)), "")
        return f" ({text})" if text else ""

    def _routed_link(self, ips: tuple[str, ...]) -> str | None:
        for route in self._section("routes"):
            if route["destination"] in ips and _is_host_route(route):
                link = self.links_by_index.get(route["ifindex"])
                if link is not None:
                    return str(link["name"])
        return None

    def _pinned_identifiers(self, candidates: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the candidates, newest form first, under which anything is pinned."""
        return tuple(identifier for identifier in candidates if identifier in self._identifiers_with_pins)

    def has_pins(self, namespace: str, name: str) -> bool:
        """Whether anything is pinned under one of the forms of a pod's identifier."""
        return bool(self._pinned_identifiers(identity.identifiers(namespace, name)))

    @cached_property
    def _identifiers_with_pins(self) -> frozenset[str]:
        return frozenset(identity.pinned_identifier(path.partition("/")[2]) for path in (*self.pins, *self.open_pins))

    def _used_identifier(self, pinned: tuple[str, ...], namespace: str, name: str, ips: tuple[str, ...]) -> str:
        """Of two forms (a migration that stopped half-way) the one whose program runs; else the newest."""
        ifindex = self._veth(namespace, name, ips).ifindex
        running = {f["program_id"] for d in Direction for f in self.filters.get((ifindex or 0, d.tc_hook), ())}
        for identifier in pinned:
            paths = (f"programs/{identifier}_{d.program_name}" for d in Direction)
            if any(self.pins.get(path) in running for path in paths if path in self.pins):
                return identifier
        return pinned[0]

    def _unidentified_pin(self, namespace: str, name: str) -> str:
        """A pin of this pod whose object could not be told; empty where there is none such."""
        paths = tuple(
            f"{place}/{identifier}_"
            for place in ("programs", "maps")
            for identifier in identity.identifiers(namespace, name)
        )
        # All pods use the node's own maps.
        paths += tuple(path for path in _GLOBAL_PINS.values() if path in self.open_pins)
        for pin in self._pin_rows:
            if pin["id"] is None and pin["path"].startswith(paths):
                return f"pin {pin['path']}: {pin['reason'] or 'its object is not known'}"
        return ""

    def _direction(self, direction: Direction, ifindex: int | None, place: _Place, reason: str) -> DirectionView:
        filters: tuple[FilterView, ...] = ()
        tcx_unread, identifier = "", place.identifier
        xdp: tuple[int, ...] = ()
        if ifindex is not None:
            filters = tuple(_filter_view(entry) for entry in self.filters.get((ifindex, direction.tc_hook), ()))
            name = str(self.links_by_index[ifindex]["name"])
            reason = self.unread("filters", name, direction.tc_hook) or self._open_link((name,))
            if name in self._open_links:
                filters = ()
            xdp, xdp_unread = self._xdp(ifindex) if direction is Direction.EGRESS else ((), "")
            tcx_unread = "; ".join(filter(None, (self.unread("tcx", name, direction.tc_hook), xdp_unread)))
        pinned_program = self._program(self.pins.get(f"programs/{identifier}_{direction.program_name}"))
        attached = _agents_filter(filters, direction, pinned_program, place.protocols)
        program = self._program(attached.program_id) if attached else None
        if attached and program is None and not reason:
            one = f"program {attached.program_id}"
            changed = f"{one} {CHANGED}" if attached.program_id in self._open_programs else ""
            reason = self.unread("programs") or self.unread(one) or changed or f"{one} is gone"
        maps, others = self._program_maps(program)
        generation = generation_of(maps, others) if program else ""
        pinned_maps = self._pinned_maps(direction, identifier)
        pinned_uses, pinned_others = self._program_maps(pinned_program)
        known = isinstance(generation, Generation)
        return DirectionView(
            direction=direction,
            filters=filters,
            filter=attached,
            program=program,
            maps=maps,
            pinned_program=pinned_program,
            pinned_maps=pinned_maps,
            other_maps=others,
            pinned_others=pinned_others,
            pinned_missing=tuple(
                layouts.map_name(role, direction) for role in pinned_uses if role not in (*pinned_maps, "events")
            ),
            reason=reason,
            protocols=place.protocols,
            clsact=self.has_clsact(ifindex) if ifindex is not None else None,
            tcx=self._tcx.get((ifindex or 0, direction.tc_hook), ()),
            tcx_unread=tcx_unread,
            xdp=xdp,
            other_direction=attachment.made_for_the_other(program, maps, direction),
            agents=generation.agents if isinstance(generation, Generation) else "",
            generation_reason="" if known else str(generation),
        )

    def _xdp(self, ifindex: int) -> tuple[tuple[int, ...], str]:
        """XDP programs of a link, and why they are not known. The first readers did not ask for them."""
        programs = self.links_by_index[ifindex].get("xdp", [])
        if programs is None:
            return (), "xdp: sysfs does not show the programs that are attached by XDP"
        return tuple(programs), ""

    @cached_property
    def _tcx(self) -> Mapping[tuple[int, str], tuple[int, ...]]:
        return {(row["ifindex"], row["hook"]): tuple(row["program_ids"]) for row in self._section("tcx")}

    def _program(self, number: int | None) -> ProgramView | None:
        entry = self.programs.get(number) if number is not None else None
        if entry is None or number in self._open_programs:
            return None
        return ProgramView(
            id=entry["id"],
            tag=entry["tag"],
            jited=entry["jited"],
            map_ids=tuple(entry["map_ids"]),
            type=entry["type"],
            pin=next(iter(pins := self._pins_of.get(("programs", entry["id"]), ())), ""),
            more_pins=pins[1:],
        )

    def _program_maps(self, program: ProgramView | None) -> tuple[dict[str, MapView], tuple[MapView, ...]]:
        maps: dict[str, MapView] = {}
        others = []
        for number in program.map_ids if program else ():
            view = self.map(number)
            if view.role == "unknown" or view.role in maps:
                others.append(view)
            else:
                maps[view.role] = view
        return maps, tuple(others)

    def generations(self) -> Mapping[Generation, tuple[int, ...]]:
        """Known generation -> ids of the attached and pinned programs of it."""
        wanted = {f["program_id"] for rows in self.filters.values() for f in rows if f["name"].startswith("handle_")}
        wanted |= {number for path, number in self.pins.items() if path.startswith("programs/")}
        found: dict[Generation, list[int]] = defaultdict(list)
        for number in sorted(wanted - {None}):
            generation = generation_of(*self._program_maps(self._program(number)))
            if isinstance(generation, Generation):
                found[generation].append(number)
        return {generation: tuple(numbers) for generation, numbers in found.items()}

    def _pinned_maps(self, direction: Direction, identifier: str) -> dict[str, MapView]:
        maps = {}
        for role in ("np", "cp", "pod_state"):
            number = self.pins.get(f"maps/{identifier}_{_MAP_SUFFIXES[direction, role]}") if identifier else None
            if number is not None:
                maps[role] = self.map(number)
        for role, path in _GLOBAL_PINS.items():
            if path in self.pins:
                maps[role] = self.map(self.pins[path])
        return maps

    def map(self, number: int) -> MapView:
        """One map by id, decoded once."""
        if number not in self._views:
            self._views[number] = self._decode(number)
        return self._views[number]

    def _decode(self, number: int) -> MapView:
        entry = self.maps.get(number)
        if entry is None:
            why = self.unread("maps") or (CHANGED if number in self._open_maps else "the map is gone")
            return MapView(number, "unknown", "not read", 0, 0, 0, 0, reason=why, complete=False)
        shape = entry["type"], entry["key_size"], entry["value_size"]
        layout = layouts.layout_of(*shape)
        pins = self._pins_of.get(("maps", number), ())
        view: dict[str, Any] = {
            "id": number,
            "role": layout.role if layout else "unknown",
            "layout": layout.name if layout else layouts.unknown_layout(*shape),
            "type": entry["type"],
            "key_size": entry["key_size"],
            "value_size": entry["value_size"],
            "max_entries": entry["max_entries"],
            "pin": next(iter(pins), ""),
            "more_pins": pins[1:],
            "family": layout.family if layout else 0,
        }
        if number in self._open_maps:
            # Neither of what was seen: a part of it may be of the one, and a part of the other.
            return MapView(**view, reason=f"its entries {CHANGED}", complete=False)
        failed = next((e for e in self.errors if e.startswith((f"map {number}:", f"map {number} "))), "")
        return MapView(**view, **_contents(entry, layout, failed))


def _without_differences(one: InterfaceView) -> InterfaceView:
    views = {direction: replace(view, differences=()) for direction, view in one.directions.items()}
    return replace(one, directions=views)


def _is_host_route(route: Json) -> bool:
    """/32 in IPv4, /128 in IPv6, in the main table."""
    full = 32 if route["family"] == 4 else 128
    return bool(route["table"] == MAIN_TABLE and route["prefixlen"] == full)


def _contents(entry: Json, layout: layouts.Layout | None, failed: str) -> dict[str, Any]:
    contents = entry["contents"]
    if layout is not None and layout.role == "events":
        return {"reason": "a ring buffer is not read: that would take records from the agent"}
    if contents is None:
        return {"reason": failed or "contents were not asked for", "complete": False}
    if contents["reason"] and not contents["complete"] and not contents["count"]:
        return {"reason": contents["reason"], "complete": False}
    more = {
        "complete": contents["complete"],
        "reason": contents["reason"],
        "total": contents["total"],
        "first_slot_only": bool(contents.get("first_slot_only")),
    }
    try:
        keys, values = _unpacked(contents)
        if layout is None:
            raw = zip(
                decode.split(keys, entry["key_size"], "keys"),
                decode.split(values, entry["value_size"], "values"),
                strict=True,
            )
            return {"raw": tuple(sorted(raw)), **more}
        if layout.role in ("np", "cp"):
            return {"lpm": decode.lpm_entries(keys, values, layout), **more}
        if layout.role == "pod_state":
            return {"states": decode.pod_states(keys, values), **more}
        return {"conntrack": decode.conntrack_entries(keys, values, layout), **more}
    except (ValueError, binascii.Error) as error:
        return {"reason": f"the contents cannot be decoded: {error}", "complete": False}


def _unpacked(contents: Json) -> tuple[bytes, bytes]:
    """Keys and values. The check of a document has them unpacked already, and keeps them beside the texts."""
    entries: tuple[bytes, bytes] | None = getattr(contents, "entries", None)
    if entries is not None:
        return entries
    if contents.get("columns") or contents.get("index"):
        raise decode.DecodeError("they are packed, and nothing has checked them")
    return base64.b64decode(contents["keys"], validate=True), base64.b64decode(contents["values"], validate=True)


def _agents_filter(
    filters: tuple[FilterView, ...], direction: Direction, pinned: ProgramView | None, protocols: frozenset[int]
) -> FilterView | None:
    """The filter that the agent put there, by its name or because it runs the pinned program, if packets meet it."""
    for one in filters:
        ours = one.name == direction.program_name or (pinned is not None and one.program_id == pinned.id)
        if ours and one.kind == "bpf" and one.sees(protocols):
            return one
    return None


def _protocols(ips: tuple[str, ...]) -> frozenset[int]:
    versions = {ip_address(ip).version for ip in ips} or {4, 6}
    return frozenset({ALL_PROTOCOLS, *(ETHERTYPES[version] for version in versions)})


def _filter_view(entry: Json) -> FilterView:
    return FilterView(
        hook=entry["hook"],
        kind=entry["kind"],
        name=entry["name"] or "",
        pref=entry["pref"],
        handle=entry["handle"],
        program_id=entry["program_id"],
        tag=entry["tag"] or "",
        direct_action=bool(entry["direct_action"]),
        protocol=entry["protocol"],
        chain=entry["chain"],
    )
