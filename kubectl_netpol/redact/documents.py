"""The document of a node with other names and addresses, also inside the bytes of its maps.

Sections that are not known here are left out: nobody can say what is in them.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel.identity import pinned_identifier
from kubectl_netpol.redact.names import Names

Json = dict[str, Any]

_AS_THEY_ARE = ("format", "reader", "python", "clock", "bpffs", "qdiscs", "tcx", "programs", "via")
LEFT_OUT = "left out by --redact: the layout of this map is not known, so there may be names or addresses in it"


def document(one: Json, names: Names) -> Json:
    """``one``: checked (see ``node.document``), so that the contents of its maps are at hand."""
    made: Json = {key: one[key] for key in _AS_THEY_ARE if key in one}
    made["uname"] = {**one["uname"], "nodename": names.name(one["uname"]["nodename"])}
    made["notes"] = [names.text(text) for text in one["notes"]]
    made["errors"] = [{"what": names.text(row["what"]), "error": names.text(row["error"])} for row in one["errors"]]
    for section, rename in _ROWS.items():
        if section in one:
            rows = one[section]
            made[section] = None if rows is None else [rename(row, names) for row in rows]
    made["maps"] = None if one["maps"] is None else [_map(row, names, made["errors"]) for row in one["maps"]]
    for section, whole in _SECTIONS.items():
        if section in one:
            made[section] = None if one[section] is None else whole(one[section], names)
    return made


def _link(row: Json, names: Names) -> Json:
    # The hardware address of a host veth is told nowhere else.
    return {**row, "name": names.link(row["name"]), "address": ""}


def _address(row: Json, names: Names) -> Json:
    return {**row, "address": names.address_or_name(row["address"])}


def _route(row: Json, names: Names) -> Json:
    made = {key: None if row[key] is None else names.address_or_name(row[key]) for key in ("gateway", "source")}
    destination = names.addresses.text(f"{row['destination']}/{row['prefixlen']}")
    return {**row, **made, "destination": (destination or names.name(row["destination"])).partition("/")[0]}


def _filter(row: Json, names: Names) -> Json:
    return {**row, "name": row["name"] if row["name"].startswith("handle_") else names.name(row["name"])}


def _pin(row: Json, names: Names) -> Json:
    return {**row, "path": _path(row["path"], names), "reason": names.text(row["reason"])}


def _path(path: str, names: Names) -> str:
    """`maps/<pod identifier>_ingress_map`."""
    folder, slash, name = path.rpartition("/")
    identifier = pinned_identifier(name)
    if identifier:
        name = names.name(identifier) + name.removeprefix(identifier)
    elif not name.startswith("global_"):
        name = names.name(name)
    return f"{names.name(folder)}{slash}{name}"


_ROWS: dict[str, Callable[[Json, Names], Json]] = {
    "links": _link,
    "addresses": _address,
    "routes": _route,
    "filters": _filter,
    "pins": _pin,
}


# ---- maps


def _map(row: Json, names: Names, errors: list[Json]) -> Json:
    contents = row["contents"]
    if not contents or not contents["count"]:
        return row
    layout = layouts.layout_of(row["type"], row["key_size"], row["value_size"])
    if layout is None or layout.role not in _KEYS:
        errors.append({"what": f"map {row['id']}", "error": LEFT_OUT})
        return {**row, "contents": None}
    before: tuple[bytes, bytes] = contents.entries
    keys, values = _KEYS[layout.role](*before, layout, names)
    kept = {name: contents[name] for name in _SAID_OF_CONTENTS if name in contents}
    packed = {"keys": base64.b64encode(keys).decode(), "values": base64.b64encode(values).decode()}
    return {**row, "contents": {**kept, **packed, "reason": names.text(contents["reason"])}}


_SAID_OF_CONTENTS = ("method", "count", "total", "complete", "filtered", "first_slot_only")


def _lpm(keys: bytes, values: bytes, layout: layouts.Layout, names: Names) -> tuple[bytes, bytes]:
    structure: struct.Struct = layouts.LPM_KEY4 if layout.family == 4 else layouts.LPM_KEY6
    made = (
        structure.pack(length, names.addresses.prefix(address, length))
        for length, address in structure.iter_unpack(keys)
    )
    return b"".join(made), values


def _states(keys: bytes, values: bytes, layout: layouts.Layout, names: Names) -> tuple[bytes, bytes]:
    return keys, values


def _conntrack(keys: bytes, values: bytes, layout: layouts.Layout, names: Names) -> tuple[bytes, bytes]:
    """Every field of bytes is an address; so is the value of the first layouts."""
    structure = layouts.CONNTRACK_KEYS[layout.key_size]
    packed = names.addresses.packed
    made = (
        structure.pack(*(packed(field) if isinstance(field, bytes) else field for field in row))
        for row in structure.iter_unpack(keys)
    )
    if layout.value == layouts.POD_ADDRESS:
        values = b"".join(packed(one) for (one,) in struct.iter_unpack(f"{layout.value_size}s", values))
    return b"".join(made), values


_KEYS: dict[str, Callable[[bytes, bytes, layouts.Layout, Names], tuple[bytes, bytes]]] = {
    "np": _lpm,
    "cp": _lpm,
    "pod_state": _states,
    "conntrack": _conntrack,
}


# ---- the agent's log


def _flow_log(section: Json, names: Names) -> Json:
    return {
        **{key: section[key] for key in ("complete", "left_out", "seen", "position", "since_ns", "all")},
        "path": section["path"],
        "files": section["files"],
        "lines": [names.text(line) for line in section["lines"]],
        "addresses": [names.address_or_name(text) for text in section["addresses"]],
        "reason": names.text(section["reason"]),
    }


def _agent(section: Json, names: Names) -> Json:
    kept = ("npa_socket", "format_marker", "nf_conntrack_count", "nf_conntrack_max")
    return {
        **{key: section[key] for key in kept},
        "errors": [{**row, "line": names.text(row["line"])} for row in section["errors"]],
        "reason": names.text(section["reason"]),
    }


def _agent_log(section: Json, names: Names) -> Json:
    files = [{**row, "lines": [names.text(line) for line in row["lines"]]} for row in section["files"]]
    return {"files": files, "reason": names.text(section["reason"])}


def _consistency(section: Json, names: Names) -> Json:
    kept = ("attempts", "steady", "unchecked", "took_ns", "api_age_ns")
    open_ = section["open"]
    return {
        **{key: section[key] for key in kept if key in section},
        "changed": [names.text(text) for text in section["changed"]],
        "open": {
            "links": [names.link(name) for name in open_["links"]],
            "programs": open_["programs"],
            "maps": open_["maps"],
            "pins": [_path(path, names) for path in open_["pins"]],
        },
        **({"in_progress": list(map(names.text, section["in_progress"]))} if "in_progress" in section else {}),
    }


_SECTIONS: dict[str, Callable[[Json, Names], Json]] = {
    "flow_log": _flow_log,
    "agent": _agent,
    "agent_log": _agent_log,
    "consistency": _consistency,
}
