"""What a node sends: the framed answer, the document in it, the contents of its maps, the answers of the asker."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import zlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from kubectl_netpol import bundle
from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.errors import NodeError
from kubectl_netpol.kernel import conntrack
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.node import ask, reader, transport
from kubectl_netpol.node.document import check_document, raw_entries
from tests.fuzz import mutation
from tests.fuzz.target import Target, loaded
from tests.unit import builders

Json = dict[str, Any]

EXAMPLE = Path(bundle.__file__).parent / "examples" / "article.tar.gz"
RAW, COMPRESSED, TEXT = b"R", b"C", b"T"
"""First byte of an input of ``frame``: stdout as it is; a payload that gets its header; JSON that is packed too."""


@cache
def example() -> Json:
    """The document of the shipped bundle, recorded from a real kernel."""
    reading = next(iter(bundle.read(str(EXAMPLE)).nodes.values()))
    assert reading.document is not None
    return json.loads(json.dumps(reading.document))  # type: ignore[no-any-return]


@cache
def documents() -> tuple[bytes, ...]:
    log = {
        "path": "/var/log/a.log", "lines": ["{}"], "complete": True, "left_out": 0, "seen": 1, "files": ["a.log"],
        "position": {"inode": 1, "offset": 2}, "reason": "", "addresses": ["10.0.4.5"], "since_ns": 0, "all": True,
    }  # fmt: skip
    agent = {
        "errors": [{"line": "error: x", "count": 2, "file": "a.log"}], "npa_socket": True, "format_marker": None,
        "nf_conntrack_count": 5, "nf_conntrack_max": 9, "reason": "",
    }  # fmt: skip
    small = builders.pod_document(builders.NGINX, ingress=builders.ACCESS_MAP)
    whole = {**small, "flow_log": log, "agent": agent, "tcx": [{"ifindex": 7, "hook": "ingress", "program_ids": [433]}]}
    return tuple(mutation.dumped(one) for one in (example(), small, whole, builders.document()))


# ---- the frame


def framed(payload: bytes) -> bytes:
    return b"NPE1 %d %s\n" % (len(payload), hashlib.sha256(payload).hexdigest().encode()) + payload


def stdout(data: bytes) -> bytes:
    kind, rest = data[:1], data[1:]
    return rest if kind == RAW else framed(zlib.compress(rest, 1) if kind == TEXT else rest)


def read_frame(data: bytes) -> str:
    said = data[-40:]
    for code in (0, 1, 137, None) if data[:1] == RAW else (0,):
        transport_result = ExecResult(stdout(data), said, code, said.decode("utf-8", "replace"))
        document = transport.parse_answer(transport_result, "pod a/b")
    return digest(document)


def frames() -> tuple[bytes, ...]:
    real = b"".join(reader.framed(example()))
    payload = real.partition(b"\n")[2]
    text = documents()[1]
    return RAW + real, COMPRESSED + payload, TEXT + text, COMPRESSED + zlib.compress(text), RAW + framed(b"")


def other_frame(data: bytes, random: Random) -> bytes:
    kind, rest = data[:1], data[1:]
    if random.random() < 0.02:
        kind = random.choice((RAW, COMPRESSED, TEXT))
    return kind + (mutation.json_input if kind == TEXT else mutation.of_bytes)(rest, random)


def digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest()


# ---- the document, and all that is made of it


def read_document(data: bytes) -> str:
    document = check_document(loaded(data))
    view = NodeView(document)
    found = [view.pod("default", "nginx-f8d9c6576-8b4vf", ("10.0.4.5",)), view.pod("kube-system", "x", ())]
    maps = [view.map(number) for number in view.maps]
    raw = [sum(len(key) + len(value) for key, value in raw_entries(row)) for row in document["maps"] or ()]
    printable(document)
    return digest((found, maps, raw, view.generations()))


CHECKED_TEXTS = ("name", "kind", "path", "what", "error", "line", "reason", "operstate", "address", "tag", "release")


def printable(value: Any, key: str = "") -> None:
    """Texts of the documented fields cannot steer a terminal."""
    if isinstance(value, dict):
        for name, one in value.items():
            printable(one, name)
    elif isinstance(value, list):
        for one in value:
            printable(one, key)
    elif isinstance(value, str) and key in CHECKED_TEXTS and not value.isprintable():
        raise AssertionError(f"{key} came through: {value!r}")


# ---- contents of maps


def rows() -> tuple[bytes, ...]:
    key4, key6 = b"\x20\0\0\0\x0a\0\0\x01", b"\x80\0\0\0" + bytes(range(16))
    slots = builders.u32(6, 80, 0) + bytes(276)
    table = [
        *((11, 8, 288, [(key4, slots)]), (11, 20, 288, [(key6, slots)]), (11, 8, 96, [(key4, slots[:96])])),
        *((11, 8, 384, [(key4, builders.u32(6, 5, 80, 90) + bytes(368))]), (11, 20, 384, [(key6, bytes(384))])),
        *((1, 4, 1, [(b"\0\0\0\0", b"\1"), (b"\1\0\0\0", b"\2")]), (9, 24, 1, [(bytes(range(24)), b"\1")])),
        *((9, 24, 16, [(bytes(range(24)), bytes(16))]), (9, 20, 1, [(bytes(20), b"\0")])),
        *((9, 60, 16, [(bytes(range(60)), bytes(16))]), (2, 4, 9, [(bytes(4), bytes(9))])),
    ]
    found = [builders.map_row(number, *row) for number, row in enumerate(table, 1)]
    large = copy.deepcopy(found[0])
    keys = b"".join(key4[:4] + bytes((10, 0, number, 1)) for number in range(8))
    packed = {"keys": reader.by_columns(keys, 8), "values": reader.by_columns(slots * 2, 288)}
    packed["index"] = reader.by_columns(b"".join(builders.u32(number % 2) for number in range(8)), 4)
    large["contents"] |= {name: base64.b64encode(data).decode() for name, data in packed.items()}
    large["contents"] |= {"count": 8, "total": 8, "columns": True}
    return tuple(mutation.dumped(row) for row in (*found, large))


def read_row(data: bytes) -> str:
    document = check_document(builders.document(maps=[loaded(data)]))
    view = NodeView(document)
    found = [view.map(number) for number in view.maps]
    for one in found:
        for entry in one.conntrack or ():
            conntrack.text(entry)
            conntrack.direction_of(entry)
    return digest(found)


def other_row(data: bytes, random: Random) -> bytes:
    """Bytes of the contents as often as the rest of the row."""
    try:
        row = json.loads(data)
        contents = row["contents"]
        if random.random() < 0.5:
            name = random.choice([name for name in ("keys", "values", "index") if name in contents])
            raw = base64.b64decode(contents[name])
            changed = mutation.of_bytes(raw, random)
            # Of the same length it gets past the check of sizes.
            changed = changed[: len(raw)].ljust(len(raw), b"\0") if random.random() < 0.8 else changed
            contents[name] = base64.b64encode(changed).decode()
            return mutation.dumped(row)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        pass
    return mutation.json_input(data, random)


# ---- answers of the asker

REQUEST = {"questions": [{"id": "a", "candidates": [{"source_port": 61000}]}, {"id": "b", "candidates": []}]}


def answers() -> tuple[bytes, ...]:
    good = {"id": "a", "verdict": 0, "source_port": 61000, "entry": "made, removed", "reason": ""}
    unknown = {"id": "b", "verdict": None, "source_port": None, "entry": ask.NO_ENTRY, "reason": "EPERM"}
    whole = {"format": 1, "asker": "1", "answers": [good, unknown]}
    return (mutation.dumped(whole), mutation.dumped({**whole, "answers": [{**good, "entry": ask.REMOVED}, unknown]}))


def read_answers(data: bytes) -> str:
    return digest(ask.check_answers(loaded(data), REQUEST))


TARGETS = (
    Target("frame", read_frame, cache(frames), other_frame, (NodeError,), short=250, long=120_000),
    Target("document", read_document, documents, mutation.json_input, (NodeError,), short=150, long=30_000),
    Target("map", read_row, cache(rows), other_row, (NodeError,), short=250, long=120_000),
    Target("asker", read_answers, cache(answers), mutation.json_input, (NodeError,), short=150, long=50_000),
)
