"""A node's document -> what its kernel holds for one pod.

The program that a tc filter runs, and the maps that this program really uses, are the truth. Pins are what
the agent believes. Both are kept, side by side, and never mixed.
"""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from kubectl_netpol.kernel import decode, identity, layouts
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import DirectionView, FilterView, MapView, PodKernel, ProgramView

Json = dict[str, Any]

_MAP_SUFFIXES = {
    (direction, role): layouts.map_name(role, direction.value)
    for direction in Direction
    for role in ("np", "cp", "pod_state")
}
_GLOBAL_PINS = {"conntrack": "maps/global_aws_conntrack_map", "events": "maps/global_policy_events"}
MAIN_TABLE = 254


class NodeView:
    """Indexes over one reader document. ``PodKernel`` views of any pod of the node are cut out of it."""

    def __init__(self, document: Json) -> None:
        self.document = document
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
        return f"{section} could not be read" if self.document[section] is None else ""

    @cached_property
    def filters(self) -> Mapping[tuple[int, str], list[Json]]:
        found: dict[tuple[int, str], list[Json]] = defaultdict(list)
        for entry in self._section("filters"):
            found[entry["ifindex"], entry["hook"]].append(entry)
        for entries in found.values():
            entries.sort(key=lambda entry: (entry["pref"], entry["handle"]))
        return found

    @cached_property
    def pins(self) -> Mapping[str, int]:
        """Path below globals/aws -> object id, of all pins whose object could be identified."""
        return {pin["path"]: pin["id"] for pin in self._section("pins") if pin["id"] is not None}

    @cached_property
    def _map_pins(self) -> Mapping[int, str]:
        return {number: path for path, number in self.pins.items() if path.startswith("maps/")}

    @cached_property
    def _program_pins(self) -> Mapping[int, str]:
        return {number: path for path, number in self.pins.items() if path.startswith("programs/")}

    @cached_property
    def errors(self) -> tuple[str, ...]:
        return tuple(f"{error['what']}: {error['error']}" for error in self.document["errors"])

    def has_clsact(self, ifindex: int) -> bool:
        return any(q["ifindex"] == ifindex and q["kind"] == "clsact" for q in self._section("qdiscs"))

    def drops(self, ifindex: int) -> int | None:
        """Packets that clsact of this link dropped since it was made, both hooks together."""
        for qdisc in self._section("qdiscs"):
            if qdisc["ifindex"] == ifindex and qdisc["kind"] == "clsact":
                drops: int | None = qdisc.get("drops")
                return drops
        return None

    def pod(self, namespace: str, name: str, ips: Iterable[str]) -> PodKernel:
        """The view of one pod, whatever of it exists."""
        veth, ifindex, evidence, agrees = self._veth(namespace, name, tuple(ips))
        identifier, pinned = self._identifier(namespace, name)
        directions = {
            direction: self._direction(
                direction,
                ifindex,
                identifier if pinned else "",
                "; ".join(evidence) if ifindex is None else "",
            )
            for direction in Direction
        }
        return PodKernel(
            veth=veth,
            ifindex=ifindex,
            veth_evidence=evidence,
            veth_agrees=agrees,
            identifier=identifier,
            identifier_pinned=pinned,
            directions=directions,
            errors=self.errors,
            notes=tuple(self.document["notes"]),
            pins_unread=self.unread("pins") or self._unidentified_pin(namespace, name),
        )

    def _veth(
        self, namespace: str, name: str, ips: tuple[str, ...]
    ) -> tuple[str, int | None, tuple[str, ...], bool | None]:
        """The host veth: by name, then checked against the route to the pod's address."""
        candidates = identity.veth_names(namespace, name)
        computed = next((n for n in candidates if n in self.links_by_name), None)
        routed = self._routed_link(ips)
        if computed is None and routed is None:
            unread = self.unread("links") or self.unread("routes")
            where = f"no link {' or '.join(candidates)} on this node"
            why = unread or f"{where}, and no route to {', '.join(ips) or 'the pod'}"
            return candidates[0], None, (why,), None if unread else False
        if computed is None:
            assert routed is not None
            index = self.links_by_name[routed]["ifindex"]
            why = f"no link {' or '.join(candidates)}; the route to {ips[0]} goes to {routed}: that one is used"
            return routed, index, (why,), False
        index = self.links_by_name[computed]["ifindex"]
        if routed is None:
            why = self.unread("routes") or f"no route to {', '.join(ips) or 'the pod'} confirms it"
            return computed, index, (f"link {computed} exists; {why}",), None
        if routed != computed:
            return computed, index, (f"the route to {ips[0]} goes to {routed}, not to {computed}",), False
        return computed, index, (f"sha1({namespace}.{name}) and the route to {ips[0]} agree",), True

    def _routed_link(self, ips: tuple[str, ...]) -> str | None:
        for route in self._section("routes"):
            # Host routes only: /32 in IPv4, /128 in IPv6.
            full = 32 if route["family"] == 4 else 128
            if route["table"] == MAIN_TABLE and route["destination"] in ips and route["prefixlen"] == full:
                link = self.links_by_index.get(route["ifindex"])
                if link is not None:
                    return str(link["name"])
        return None

    def _identifier(self, namespace: str, name: str) -> tuple[str, bool]:
        candidates = identity.identifiers(namespace, name)
        for identifier in candidates:
            endings = ("_handle_ingress", "_handle_egress")
            if any(f"programs/{identifier}{ending}" in self.pins for ending in endings) or any(
                f"maps/{identifier}_{suffix}" in self.pins for suffix in _MAP_SUFFIXES.values()
            ):
                return identifier, True
        return candidates[0], False

    def _unidentified_pin(self, namespace: str, name: str) -> str:
        """A pin of this pod whose object could not be told; empty where there is none such."""
        paths = tuple(
            f"{place}/{identifier}_"
            for place in ("programs", "maps")
            for identifier in identity.identifiers(namespace, name)
        )
        for pin in self._section("pins"):
            if pin["id"] is None and pin["path"].startswith(paths):
                return f"pin {pin['path']}: {pin['reason'] or 'its object is not known'}"
        return ""

    def _direction(self, direction: Direction, ifindex: int | None, identifier: str, reason: str) -> DirectionView:
        filters: tuple[FilterView, ...] = ()
        if ifindex is not None:
            filters = tuple(_filter_view(entry) for entry in self.filters.get((ifindex, direction.tc_hook), ()))
            name = str(self.links_by_index[ifindex]["name"])
            reason = self.unread("filters", name, direction.tc_hook)
        attached = next((f for f in filters if f.name == direction.program_name), None)
        program = self._program(attached.program_id) if attached else None
        if attached and program is None and not reason:
            reason = self.unread("programs") or f"program {attached.program_id} is gone"
        maps, others = self._program_maps(program)
        pinned_program = self._program(self.pins.get(f"programs/{identifier}_{direction.program_name}"))
        return DirectionView(
            direction=direction,
            filters=filters,
            filter=attached,
            program=program,
            maps=maps,
            pinned_program=pinned_program,
            pinned_maps=self._pinned_maps(direction, identifier),
            other_maps=others,
            reason=reason,
        )

    def _program(self, number: int | None) -> ProgramView | None:
        entry = self.programs.get(number) if number is not None else None
        if entry is None:
            return None
        return ProgramView(
            id=entry["id"],
            tag=entry["tag"],
            jited=entry["jited"],
            map_ids=tuple(entry["map_ids"]),
            type=entry["type"],
            pin=self._program_pins.get(entry["id"], ""),
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
            why = self.unread("maps") or "the map is gone"
            return MapView(number, "unknown", "not read", 0, 0, 0, 0, reason=why, complete=False)
        shape = entry["type"], entry["key_size"], entry["value_size"]
        layout = layouts.layout_of(*shape)
        view: dict[str, Any] = {
            "id": number,
            "role": layout.role if layout else "unknown",
            "layout": layout.name if layout else layouts.unknown_layout(*shape),
            "type": entry["type"],
            "key_size": entry["key_size"],
            "value_size": entry["value_size"],
            "max_entries": entry["max_entries"],
            "pin": self._map_pins.get(number, ""),
            "family": layout.family if layout else 0,
        }
        failed = next((e for e in self.errors if e.startswith((f"map {number}:", f"map {number} "))), "")
        return MapView(**view, **_contents(entry, layout, failed))


def _contents(entry: Json, layout: layouts.Layout | None, failed: str) -> dict[str, Any]:
    contents = entry["contents"]
    if layout is not None and layout.role == "events":
        return {"reason": "a ring buffer is not read: that would take records from the agent"}
    if contents is None:
        return {"reason": failed or "contents were not asked for", "complete": False}
    if contents["reason"] and not contents["complete"] and not contents["count"]:
        return {"reason": contents["reason"], "complete": False}
    more = {"complete": contents["complete"], "reason": contents["reason"]}
    try:
        keys, values = (base64.b64decode(contents[part], validate=True) for part in ("keys", "values"))
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
    )
