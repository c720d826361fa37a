"""How map contents are packed on the way: what comes out is what went in, and garbage is a NodeError."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.errors import NodeError
from kubectl_netpol.node import reader
from kubectl_netpol.node.document import (
    MOST_UNPACKED,
    MOST_UNPACKED_TOTAL,
    Contents,
    _map,
    check_document,
    raw_entries,
    unpacked,
)

VALUES = st.sampled_from([b"a" * 12, b"b" * 12, b"\0" * 12])
ITEMS = st.dictionaries(st.binary(min_size=8, max_size=8), VALUES | st.binary(min_size=12, max_size=12), max_size=40)


def row(type_: int = reader.LPM_TRIE, **changes: Any) -> dict[str, Any]:
    sizes = {"key_size": 8, "value_size": 12}
    return {"id": 1, "type": type_, **sizes, "max_entries": 99, "flags": 0, "name": "", "contents": None, **changes}


def contents(items: dict[bytes, bytes], unique: bool, addresses: list[bytes] | None = None) -> dict[str, Any]:
    entries = reader.Entries(row(), addresses, unique, tolerant=False)
    for start in range(0, len(items), 7):
        part = list(items.items())[start : start + 7]
        entries.add(b"".join(k for k, _ in part), b"".join(v for _, v in part), len(part))
    return reader._contents("batch", entries, addresses is not None, "")


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize(("columns", "index"), [(0, 1 << 30), (1 << 30, -(1 << 30)), (0, -(1 << 30)), (4096, 4096)])
@given(items=ITEMS)
def test_what_is_packed_comes_back(unique: bool, columns: int, index: int, items: dict[bytes, bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "COLUMNS_FROM", columns)
        patch.setattr(reader, "INDEX_FROM", index)
        packed = contents(items, unique)
        framed = b"".join(reader.framed({"maps": [row(contents=packed)] * 2, "notes": []}))
    payload = framed.partition(b"\n")[2]
    document = json.loads(zlib.decompress(payload))
    assert document == {"maps": [row(contents=packed)] * 2, "notes": []}
    checked = _map(document["maps"][1], "maps[1]")
    assert list(raw_entries(checked)) == list(items.items())
    assert isinstance(checked["contents"], Contents)
    assert checked["contents"].entries == (b"".join(items), b"".join(items.values()))
    assert json.loads(json.dumps(checked)) == document["maps"][1]


@given(items=ITEMS)
def test_the_address_filter_with_and_without_a_cursor_that_is_a_key(items: dict[bytes, bytes]) -> None:
    wanted = {key: value for key, value in items.items() if b"\0" in key}
    for unique in (True, False):
        found = contents(items, unique, [b"\0"])
        assert (found["total"], found["count"]) == (len(items), len(wanted))
        assert dict(raw_entries(row(contents=found))) == wanted


def test_a_newer_value_replaces_an_older_one() -> None:
    entries = reader.Entries(row(), None, True, tolerant=True)
    entries.add(b"k" * 8, b"a" * 12, 1)
    entries.add(b"k" * 8, b"b" * 12, 1)
    found = reader._contents("batch", entries, False, "")
    assert (found["count"], found["total"], found["complete"]) == (1, 1, False)
    assert list(raw_entries(row(contents=found))) == [(b"k" * 8, b"b" * 12)]


def test_equal_values_are_sent_once() -> None:
    items = {struct.pack("<Q", n): bytes([n % 3]) * 12 for n in range(5000)}
    packed = contents(items, unique=True)
    assert packed["columns"]
    assert len(base64.b64decode(packed["values"])) == 3 * 12
    small = contents(dict(list(items.items())[:30]), unique=True)
    assert not {"columns", "index"} & set(small)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


PACKED = {"method": "batch", "count": 2, "total": 2, "complete": True, "filtered": False, "reason": ""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": text(struct.pack("<2I", 0, 1))}, "index refers to value 1 of 1"),
        ({"index": text(bytes(4))}, "index has 4 bytes, 2 entries of 4 bytes need 8"),
        ({"index": "%"}, "index should be a base64 text"),
        ({"index": 3}, "index should be a base64 text"),
        ({"columns": 1}, "columns should be true or false"),
        ({"index": text(bytes(8)), "values": text(bytes(13))}, "values has 13 bytes"),
        ({"columns": True, "keys": text(bytes(15))}, "keys has 15 bytes"),
    ],
)
def test_damaged_packing(changes: dict[str, Any], message: str) -> None:
    whole = {**PACKED, "keys": text(bytes(16)), "values": text(bytes(12)), **changes}
    with pytest.raises(NodeError, match=message):
        _map(row(contents=whole), "maps[0]")


def test_a_small_text_does_not_unpack_to_a_huge_one() -> None:
    size = MOST_UNPACKED // 2 + 1
    whole = {**PACKED, "keys": text(bytes(16)), "values": text(bytes(size)), "index": text(bytes(8))}
    with pytest.raises(NodeError, match="larger than"):
        unpacked(row(value_size=size, contents=whole), "maps[0]")


def test_keys_without_bytes_make_no_entries() -> None:
    whole = {**PACKED, "keys": "", "values": text(bytes(12)), "index": text(bytes(8)), "count": 2}
    with pytest.raises(NodeError, match="0 where keys have no bytes"):
        _map(row(key_size=0, contents=whole), "maps[0]")


def test_all_maps_together_fit_into_memory() -> None:
    contents = {**PACKED, "count": MOST_UNPACKED // 200}
    rows = [row(key_size=8, value_size=200, contents=contents) for _ in range(MOST_UNPACKED_TOTAL // MOST_UNPACKED + 1)]
    with pytest.raises(NodeError, match="its maps are larger than"):
        check_document({"format": 1, "maps": rows})
    with pytest.raises(NodeError, match="is missing"):
        check_document({"format": 1, "maps": [*rows[:2], None, {"contents": 3}, {"contents": {"count": "x"}}]})
