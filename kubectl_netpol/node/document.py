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
from collections.abc import Callable, Iterator
from typing import Any

from kubectl_netpol.errors import NodeError

FORMAT = 1
"""The only document format so far; the reader that is sent along speaks the same."""

Json = dict[str, Any]
Check = Callable[[Any, str], Any]

MOST_U64 = (1 << 64) - 1
_DAMAGED = "the node's document is damaged"
MOST_UNPACKED = 160 << 20
"""Bytes of the values of one map; the reader takes no more from it."""
MOST_TEXT = 4096
"""Characters of one text field; the longest real one is a path of 255 or an error message."""


def check_document(document: Any) -> Json:
    """The document with clean texts, unknown keys included. Raises ``NodeError`` on the first wrong field."""
    if not isinstance(document, dict):
        raise _wrong("the document", "an object", document)
    if document.get("format") != FORMAT:
        raise NodeError(f"the node's document has format {_short(document.get('format'))}; this version reads {FORMAT}")
    return {**document, **_DOCUMENT(document, "")}


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
        raise _wrong(where, "a base64 text", contents[name]) from None
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


# ---- the checks


def _wrong(path: str, wanted: str, value: Any) -> NodeError:
    return NodeError(f"the node's document is damaged: {path} should be {wanted}, it is {_short(value)}")


def _short(value: Any) -> str:
    names = {dict: "an object", list: "an array", type(None): "null", bool: "true or false"}
    if type(value) in names:
        return names[type(value)]
    text = repr(value)
    return _printable(text if len(text) <= 40 else text[:37] + "...")


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, "a text", value)
    return _printable(value[:MOST_TEXT])


def _number(lowest: int, highest: int) -> Check:
    def check(value: Any, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong(path, "an integer", value)
        if not lowest <= value <= highest:
            raise _wrong(path, f"between {lowest} and {highest}", value)
        return value

    return check


def _flag(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(path, "true or false", value)
    return value


def _one_of(*allowed: Any) -> Check:
    wanted = "one of " + ", ".join(map(str, allowed))

    def check(value: Any, path: str) -> Any:
        if not any(value == one and type(value) is type(one) for one in allowed):
            raise _wrong(path, wanted, value)
        return value

    return check


def _or_null(inner: Check) -> Check:
    return lambda value, path: None if value is None else inner(value, path)


def _list(inner: Check) -> Check:
    def check(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong(path, "an array", value)
        return [inner(item, f"{path}[{index}]") for index, item in enumerate(value)]

    return check


def _object(fields: dict[str, Check]) -> Check:
    """All of ``fields`` must be there; others are kept as they are (a newer reader may say more)."""

    def check(value: Any, path: str) -> Json:
        if not isinstance(value, dict):
            raise _wrong(path or "the document", "an object", value)
        prefix = f"{path}." if path else ""
        checked = dict(value)
        for name, inner in fields.items():
            if name not in value:
                raise NodeError(f"the node's document is damaged: {prefix}{name} is missing")
            checked[name] = inner(value[name], prefix + name)
        return checked

    return check


def _base64(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, "a base64 text", value)
    return value


def _map(value: Any, path: str) -> Json:
    """A row of ``maps``: the contents must have as many bytes as count and sizes say."""
    row: Json = _MAP_ROW(value, path)
    if row["contents"] is None:
        return row
    contents = row["contents"] = Contents(row["contents"])
    for name, check in _PACKING.items():
        if name in contents:
            contents[name] = check(contents[name], f"{path}.contents.{name}")
    contents.entries = unpacked(row, path)
    return row


_U8, _U16, _U32, _U64 = (_number(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
_IFINDEX = _number(0, (1 << 31) - 1)
_S32 = _number(-(1 << 31), (1 << 31) - 1)
_HOOK = _one_of("ingress", "egress")
_FAMILY = _one_of(4, 6)
_CLOCKS = _object({"monotonic_ns": _U64, "boottime_ns": _U64, "realtime_ns": _U64})
_CONTENTS = _object(
    {
        "method": _one_of("batch", "next_key"),
        "count": _U32,
        "total": _U32,
        "complete": _flag,
        "filtered": _flag,
        "keys": _base64,
        "values": _base64,
        "reason": _text,
    }
)
_PACKING = {"columns": _flag, "index": _base64}
"""How the contents are packed; not there in answers that use neither."""
_LINK = _object(
    {
        "ifindex": _IFINDEX,
        "name": _text,
        "kind": _text,
        "flags": _U32,
        "operstate": _text,
        "mtu": _or_null(_U32),
        "address": _text,
        "peer_ifindex": _or_null(_U32),
        "link_netnsid": _or_null(_S32),
        "master": _or_null(_U32),
    }
)
_ADDRESS = _object({"ifindex": _IFINDEX, "family": _FAMILY, "address": _text, "prefixlen": _number(0, 128)})
_ROUTE = _object(
    {
        "family": _FAMILY,
        "destination": _text,
        "prefixlen": _number(0, 128),
        "ifindex": _or_null(_IFINDEX),
        "gateway": _or_null(_text),
        "table": _U32,
        "type": _U8,
        "scope": _U8,
        "source": _or_null(_text),
    }
)
_QDISC = _object(
    {
        "ifindex": _IFINDEX,
        "kind": _text,
        "handle": _U32,
        "parent": _U32,
        "bytes": _or_null(_U64),
        "packets": _or_null(_U64),
        "drops": _or_null(_U32),
    }
)
_FILTER = _object(
    {
        "ifindex": _IFINDEX,
        "hook": _HOOK,
        "kind": _text,
        "protocol": _U16,
        "pref": _U16,
        "chain": _U32,
        "handle": _U32,
        "name": _text,
        "program_id": _or_null(_U32),
        "tag": _text,
        "direct_action": _flag,
    }
)
_TCX = _object({"ifindex": _IFINDEX, "hook": _HOOK, "program_ids": _list(_U32)})
_PROGRAM = _object(
    {
        "id": _U32,
        "type": _U32,
        "tag": _text,
        "name": _text,
        "jited": _flag,
        "xlated_len": _U32,
        "jited_len": _U32,
        "load_time_ns": _U64,
        "map_ids": _list(_U32),
    }
)
_MAP_ROW = _object(
    {
        "id": _U32,
        "type": _U32,
        "key_size": _U32,
        "value_size": _U32,
        "max_entries": _U32,
        "flags": _U32,
        "name": _text,
        "contents": _or_null(_CONTENTS),
    }
)
_PIN = _object(
    {"path": _text, "kind": _one_of("map", "prog", "link", "unknown"), "id": _or_null(_U32), "reason": _text}
)
_DOCUMENT = _object(
    {
        "format": _one_of(FORMAT),
        "reader": _text,
        "uname": _object({"sysname": _text, "release": _text, "machine": _text, "nodename": _text}),
        "python": _text,
        "clock": _object({"begin": _CLOCKS, "end": _CLOCKS}),
        "bpffs": _object({"path": _or_null(_text), "reason": _text}),
        "links": _or_null(_list(_LINK)),
        "addresses": _or_null(_list(_ADDRESS)),
        "routes": _or_null(_list(_ROUTE)),
        "qdiscs": _or_null(_list(_QDISC)),
        "filters": _or_null(_list(_FILTER)),
        "tcx": _or_null(_list(_TCX)),
        "programs": _or_null(_list(_PROGRAM)),
        "maps": _or_null(_list(_map)),
        "pins": _or_null(_list(_PIN)),
        "notes": _list(_text),
        "errors": _list(_object({"what": _text, "error": _text})),
    }
)
