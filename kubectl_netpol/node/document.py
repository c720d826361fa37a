"""The shape of the document that the reader sends: every field checked before anything else looks at it.

A node is not trusted more than the network: whatever comes, the answer is a document of the documented types
or a ``NodeError`` that names the first wrong field. Texts come out printable, so that an interface or a pin
cannot send escape sequences to a terminal.

A section that is null could not be read; ``errors`` says why. ``[]`` is a real "there is none".
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator
from typing import Any

from kubectl_netpol.errors import NodeError
from kubectl_netpol.node.checks import (
    Check,
    address,
    flag,
    list_of,
    number,
    object_of,
    one_of,
    or_null,
    short,
    text,
    wrong,
)

FORMAT = 1
"""The only document format so far; the reader that is sent along speaks the same."""

Json = dict[str, Any]

MOST_U64 = (1 << 64) - 1
_DAMAGED = "the node's document is damaged"
MOST_UNPACKED = 160 << 20
"""Bytes of the values of one map; the reader takes no more from it."""
MOST_UNPACKED_TOTAL = 1 << 30
"""Bytes of the keys and values of all maps: more than a node with 110 pods and full tables holds."""


def check_document(document: Any) -> Json:
    """The document with clean texts, unknown keys included. Raises ``NodeError`` on the first wrong field."""
    if not isinstance(document, dict):
        raise wrong("the document", "an object", document)
    if document.get("format") != FORMAT:
        raise NodeError(f"the node's document has format {short(document.get('format'))}; this version reads {FORMAT}")
    _check_total(document.get("maps"))
    more = {name: check(document[name], name) for name, check in _ASKED_FOR.items() if name in document}
    return {**document, **_DOCUMENT(document, ""), **more}


def _check_total(rows: Any) -> None:
    """Refuse to unpack what would not fit into memory. Rows of other shapes are found wrong later."""
    total = 0
    for row in rows if isinstance(rows, list) else ():
        contents = row.get("contents") if isinstance(row, dict) else None
        if isinstance(contents, dict):
            numbers = contents.get("count"), row.get("key_size"), row.get("value_size")
            count, key, value = (max(0, n) if isinstance(n, int) else 0 for n in numbers)
            total += count * (key + value)
    if total > MOST_UNPACKED_TOTAL:
        raise NodeError(f"{_DAMAGED}: its maps are larger than {MOST_UNPACKED_TOTAL} bytes when unpacked")


class Contents(dict[str, Any]):
    """Checked ``contents`` of a map: beside the packed texts also what they hold, so that it is unpacked once."""

    entries: tuple[bytes, bytes] = b"", b""
    """All keys and all values, in one order."""


def raw_entries(row: Json) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of every entry of one row of ``maps``; nothing where ``contents`` is null: look before."""
    contents = row["contents"]
    if contents is None:
        return
    keys, values = unpacked(row, "")
    key_size, value_size = row["key_size"], row["value_size"]
    for index in range(contents["count"]):
        yield (
            keys[index * key_size : (index + 1) * key_size],
            values[index * value_size : (index + 1) * value_size],
        )


def unpacked(row: Json, path: str) -> tuple[bytes, bytes]:
    """All keys and all values of a row of ``maps`` that has contents. Raises ``NodeError``.

    ``columns``: each part is byte 0 of every element, then byte 1 of every element ... ``index``: for each key
    the number (u32, little-endian) of its value in ``values``, which holds equal ones once.
    """
    contents = row["contents"]
    count = contents["count"]
    columns = contents.get("columns", False)
    keys = _packed(contents, path, "keys", row["key_size"], count, columns)
    if contents.get("index") is None:
        return keys, _packed(contents, path, "values", row["value_size"], count, columns)
    numbers = struct.unpack(f"<{count}I", _packed(contents, path, "index", 4, count, columns))
    size = row["value_size"]
    distinct = _packed(contents, path, "values", size, None, columns)
    values = [distinct[start : start + size] for start in range(0, len(distinct), size)] if size else []
    highest = max(numbers, default=-1)
    if highest >= len(values):
        raise NodeError(f"{_DAMAGED}: {path}.contents.index refers to value {highest} of {len(values)}")
    if count * size > MOST_UNPACKED:
        raise NodeError(f"{_DAMAGED}: {path}.contents are larger than {MOST_UNPACKED} bytes when unpacked")
    return keys, b"".join([values[number] for number in numbers])


def _packed(contents: Json, path: str, name: str, size: int, count: int | None, columns: bool) -> bytes:
    """One part of the contents: ``count`` elements of ``size`` bytes, any number of them where it is None."""
    where = f"{path}.contents.{name}"
    try:
        packed = base64.b64decode(contents[name], validate=True)
    except (binascii.Error, ValueError):
        raise wrong(where, "a base64 text", contents[name]) from None
    if count is None:
        count = len(packed) // size if size else 0
    if len(packed) != count * size:
        raise NodeError(
            f"{_DAMAGED}: {where} has {len(packed)} bytes, {count} entries of {size} bytes need {count * size}"
        )
    if not columns:
        return packed
    rows = bytearray(len(packed))
    for offset in range(size if count else 0):
        rows[offset::size] = packed[offset * count : (offset + 1) * count]
    return bytes(rows)


# ---- the fields


def _base64(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise wrong(path, "a base64 text", value)
    return value


def _link(value: Any, path: str) -> Json:
    """A row of ``links``. ``xdp`` is not there in the documents of the first readers."""
    row: Json = _LINK(value, path)
    if "xdp" in row:
        row["xdp"] = _XDP(row["xdp"], f"{path}.xdp")
    return row


def _map(value: Any, path: str) -> Json:
    """A row of ``maps``: the contents must have as many bytes as count and sizes say."""
    row: Json = _MAP_ROW(value, path)
    if row["contents"] is None:
        return row
    contents = row["contents"] = Contents(row["contents"])
    if contents["count"] and not row["key_size"]:
        raise wrong(f"{path}.contents.count", "0 where keys have no bytes", contents["count"])
    for name, check in _PACKING.items():
        if name in contents:
            contents[name] = check(contents[name], f"{path}.contents.{name}")
    contents.entries = unpacked(row, path)
    return row


_U8, _U16, _U32, _U64 = (number(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
_IFINDEX = number(0, (1 << 31) - 1)
_S32 = number(-(1 << 31), (1 << 31) - 1)
_HOOK = one_of("ingress", "egress")
_FAMILY = one_of(4, 6)
_CLOCKS = object_of({"monotonic_ns": _U64, "boottime_ns": _U64, "realtime_ns": _U64})
_CONTENTS = object_of(
    {
        "method": one_of("batch", "next_key"),
        "count": _U32,
        "total": _U32,
        "complete": flag,
        "filtered": flag,
        "keys": _base64,
        "values": _base64,
        "reason": text,
    }
)
_PACKING = {"columns": flag, "index": _base64}
"""How the contents are packed; not there in answers that use neither."""
_LINK = object_of(
    {
        "ifindex": _IFINDEX,
        "name": text,
        "kind": text,
        "flags": _U32,
        "operstate": text,
        "mtu": or_null(_U32),
        "address": text,
        "peer_ifindex": or_null(_U32),
        "link_netnsid": or_null(_S32),
        "master": or_null(_U32),
    }
)
_XDP = or_null(list_of(_U32))
_ADDRESS = object_of({"ifindex": _IFINDEX, "family": _FAMILY, "address": address, "prefixlen": number(0, 128)})
_ROUTE = object_of(
    {
        "family": _FAMILY,
        "destination": address,
        "prefixlen": number(0, 128),
        "ifindex": or_null(_IFINDEX),
        "gateway": or_null(address),
        "table": _U32,
        "type": _U8,
        "scope": _U8,
        "source": or_null(address),
    }
)
_QDISC = object_of(
    {
        "ifindex": _IFINDEX,
        "kind": text,
        "handle": _U32,
        "parent": _U32,
        "bytes": or_null(_U64),
        "packets": or_null(_U64),
        "drops": or_null(_U32),
    }
)
_FILTER = object_of(
    {
        "ifindex": _IFINDEX,
        "hook": _HOOK,
        "kind": text,
        "protocol": _U16,
        "pref": _U16,
        "chain": _U32,
        "handle": _U32,
        "name": text,
        "program_id": or_null(_U32),
        "tag": text,
        "direct_action": flag,
    }
)
_TCX = object_of({"ifindex": _IFINDEX, "hook": _HOOK, "program_ids": list_of(_U32)})
_PROGRAM = object_of(
    {
        "id": _U32,
        "type": _U32,
        "tag": text,
        "name": text,
        "jited": flag,
        "xlated_len": _U32,
        "jited_len": _U32,
        "load_time_ns": _U64,
        "map_ids": list_of(_U32),
    }
)
_MAP_ROW = object_of(
    {
        "id": _U32,
        "type": _U32,
        "key_size": _U32,
        "value_size": _U32,
        "max_entries": _U32,
        "flags": _U32,
        "name": text,
        "contents": or_null(_CONTENTS),
    }
)
_PIN = object_of({"path": text, "kind": one_of("map", "prog", "link", "unknown"), "id": or_null(_U32), "reason": text})


def _lines(value: Any, path: str) -> list[Any]:
    if isinstance(value, list) and len(value) > MOST_LINES:
        raise NodeError(f"{_DAMAGED}: {path} has {len(value)} lines; more than {MOST_LINES} are not taken")
    found: list[Any] = list_of(text)(value, path)
    return found


MOST_LINES = 50_000
"""Of the agent's log; the reader sends no more."""
_POSITION = object_of({"inode": _U64, "offset": _U64})
_FLOW_LOG = object_of(
    {
        "path": or_null(text),
        "lines": _lines,
        "complete": flag,
        "left_out": _U64,
        "seen": _U64,
        "position": or_null(_POSITION),
        "files": _lines,
        "reason": text,
        "addresses": _lines,
        "since_ns": number(-(1 << 63), MOST_U64),
        "all": flag,
    }
)
_AGENT = object_of(
    {
        "errors": list_of(object_of({"line": text, "count": _U32, "file": text})),
        "npa_socket": or_null(flag),
        "format_marker": or_null(flag),
        "nf_conntrack_count": or_null(_U64),
        "nf_conntrack_max": or_null(_U64),
        "reason": text,
    }
)
_AGENT_LOG = object_of(
    {"files": list_of(object_of({"file": text, "lines": _lines, "whole": flag, "left_out": _U64})), "reason": text}
)
MOST_CHANGES = 100
"""Of ``consistency``; the reader tells fewer."""


def _few(inner: Check) -> Check:
    def check(value: Any, path: str) -> list[Any]:
        found: list[Any] = list_of(inner)(value, path)
        return found[:MOST_CHANGES]

    return check


_CONSISTENCY = object_of(
    {
        "attempts": number(1, (1 << 16) - 1),
        "steady": or_null(flag),
        "changed": _few(text),
        "open": object_of(
            {"links": list_of(text), "programs": list_of(_U32), "maps": list_of(_U32), "pins": list_of(text)}
        ),
        "unchecked": list_of(_U32),
        "took_ns": _U64,
    }
)
_OF_THE_CLIENT = {"api_age_ns": or_null(_U64), "in_progress": _few(text)}
"""Of ``consistency`` what the machine that asked puts in."""


def untold(took_ns: int) -> Json:
    """The section ``consistency`` of a reading by tools that cannot tell whether the node held still."""
    nothing: Json = {"links": [], "programs": [], "maps": [], "pins": []}
    return {"attempts": 1, "steady": None, "changed": [], "open": nothing, "unchecked": [], "took_ns": took_ns}


def _consistency(value: Any, path: str) -> Json:
    section: Json = _CONSISTENCY(value, path)
    for name, check in _OF_THE_CLIENT.items():
        if name in section:
            section[name] = check(section[name], f"{path}.{name}")
    return section


_ASKED_FOR = {
    "flow_log": or_null(_FLOW_LOG),
    "agent": or_null(_AGENT),
    "agent_log": or_null(_AGENT_LOG),
    "consistency": or_null(_consistency),
}
"""Sections that are there only where the request asked for them, or since a later reader."""
_DOCUMENT = object_of(
    {
        "format": one_of(FORMAT),
        "reader": text,
        "uname": object_of({"sysname": text, "release": text, "machine": text, "nodename": text}),
        "python": text,
        "clock": object_of({"begin": _CLOCKS, "end": _CLOCKS}),
        "bpffs": object_of({"path": or_null(text), "reason": text}),
        "links": or_null(list_of(_link)),
        "addresses": or_null(list_of(_ADDRESS)),
        "routes": or_null(list_of(_ROUTE)),
        "qdiscs": or_null(list_of(_QDISC)),
        "filters": or_null(list_of(_FILTER)),
        "tcx": or_null(list_of(_TCX)),
        "programs": or_null(list_of(_PROGRAM)),
        "maps": or_null(list_of(_map)),
        "pins": or_null(list_of(_PIN)),
        "notes": list_of(text),
        "errors": list_of(object_of({"what": text, "error": text})),
    }
)
