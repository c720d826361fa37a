"""What a kernel says: netlink messages, and the info structs of bpf(2)."""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kubectl_netpol.errors import NodeError
from kubectl_netpol.node import reader
from kubectl_netpol.node.document import check_document
from tests.fuzz import mutation
from tests.fuzz.target import Target
from tests.unit import builders

Json = dict[str, Any]
RECORDED = Path(__file__).parents[1] / "recorded"
"""Answers of a real kernel (`python -m tests.fuzz.record`), one file a request."""


def sections(data: bytes) -> Json:
    """All that the reader makes of one datagram, whatever was asked."""
    report = reader.Report()

    def dump(kind: int, body: bytes) -> list[bytes]:
        found = []
        for got, _, payload in reader.messages(data):
            if got in (reader.NLMSG_DONE, reader.NLMSG_ERROR):
                reader._raise_status(payload)
                break
            found.append(payload)
        return found

    with patch.object(reader, "netlink_dump", dump):
        found = {
            "links": report.attempt("links", reader.read_links),
            "addresses": report.attempt("addresses", reader.read_addresses),
            "routes": report.attempt("routes", reader.read_routes, {"10.0.4.5", "::1"}),
            "qdiscs": report.attempt("qdiscs", reader.read_qdiscs),
            "filters": report.attempt("filters", reader.read_filters, 7, "ingress", reader.TC_H_INGRESS),
        }
    found["errors"] = report.errors
    return found


def read_netlink(data: bytes) -> str:
    """A document that is refused is one clear error too; what the kernel sends is never that (see the seeds)."""
    found = sections(data)
    for error in found["errors"]:
        kind = error["error"].partition(":")[0]
        if kind not in ("ValueError", "error") and not kind.startswith("E") and not kind.isdecimal():
            raise AssertionError(f"netlink parsing ended with {error}")
    document = check_document(builders.document(**found))
    return hashlib.sha256(repr(document).encode()).hexdigest()


@cache
def datagrams() -> tuple[bytes, ...]:
    recorded = tuple(path.read_bytes() for path in sorted(RECORDED.glob("*.netlink")))
    return (*recorded, filters())


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", len(payload) + 4, kind) + payload + bytes(-len(payload) % 4)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body + bytes(-len(body) % 4)


def filters() -> bytes:
    """A chain's head, a bpf filter and a foreign one, as linux/pkt_cls.h has them."""
    head = struct.pack("=BxHiIII", 0, 0, 7, 0, reader.TC_H_INGRESS, 1 << 16 | 0x0300)
    full = struct.pack("=BxHiIII", 0, 0, 7, 1, reader.TC_H_INGRESS, 1 << 16 | 0x0300)
    options = b"".join(
        (
            attribute(7, b"handle_egress\0"),
            attribute(8, struct.pack("=I", 1)),
            attribute(10, bytes(range(8))),
            attribute(11, struct.pack("=I", 433)),
        )
    )
    kind = attribute(1, b"bpf\0")
    return b"".join(
        (
            message(44, head + kind),
            message(44, full + kind + attribute(2, options) + attribute(11, struct.pack("=I", 0))),
            message(44, full + attribute(1, b"flower\0") + attribute(2, attribute(1, b"x"))),
            message(reader.NLMSG_DONE, struct.pack("=i", 0)),
        )
    )


# ---- bpf(2)


class Kernel:
    """Answers OBJ_GET_INFO_BY_FD and PROG_QUERY with the bytes of the input, as often as it is asked."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.calls = 0

    def bpf(self, command: int, attr: bytearray) -> int:
        self.calls += 1
        if self.calls > 50:
            raise AssertionError("the reader asks without an end")
        if command == reader.OBJ_GET_INFO_BY_FD:
            _, length, pointer = struct.unpack_from("=IIQ", attr)
            ctypes.memmove(pointer, self.data[:length].ljust(length, b"\0"), length)
            if length > 56:
                # The kernel leaves the pointer to the ids as it was given.
                return 0
        elif command == reader.PROG_QUERY:
            struct.pack_into("=I", attr, 24, struct.unpack("=I", self.data[:4].ljust(4, b"\0"))[0] % 65)
        return 0


def read_info(data: bytes) -> str:
    """Of a program, a map and a tcx hook: rows that the document's check takes."""
    report = reader.Report()
    found = []
    calls: tuple[tuple[Callable[..., Any], tuple[int, ...]], ...] = (
        *((reader.program_info, (3,)), (reader.map_info, (3,)), (reader.read_tcx, (7, reader.TCX_INGRESS))),
    )
    for call, arguments in calls:
        with patch.object(reader, "bpf", Kernel(data).bpf):
            found.append(report.attempt("info", call, *arguments))
    program, row, tcx = found
    tcx_rows = [{"ifindex": 7, "hook": "ingress", "program_ids": tcx or []}]
    programs = [] if program is None else [program]
    document = builders.document(programs=programs, maps=[row], tcx=tcx_rows, errors=report.errors)
    return repr(check_document(document))


def infos() -> tuple[bytes, ...]:
    program = struct.pack("=II8sII", 3, 433, bytes(range(8)), 900, 700) + bytes(16) + struct.pack("=QII", 5, 0, 3)
    names = program.ljust(64, b"\0") + b"handle_ingress\0\0" + bytes(8)
    return names, struct.pack("=6I", 11, 93, 8, 288, 65536, 1) + b"ingress_map\0\0\0\0\0"


TARGETS = (
    Target("netlink", read_netlink, datagrams, mutation.of_bytes, (NodeError,), short=250, long=100_000),
    Target("bpf", read_info, cache(infos), mutation.of_bytes, (NodeError,), short=150, long=60_000),
)
