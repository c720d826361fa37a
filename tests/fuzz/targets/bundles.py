"""Bundles as files: damaged archives, odd members, and members that hold anything."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import tempfile
import zlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from kubectl_netpol import bundle
from kubectl_netpol.errors import BundleError
from tests.fuzz import mutation
from tests.fuzz.target import Target, loaded, unchanged_world
from tests.fuzz.targets.node import EXAMPLE, digest
from tests.unit import builders

Json = dict[str, Any]
RAW, TAR = b"R", b"T"
"""First byte of an input of ``bundle``: a file as it is; a tar, whose checksums are made right, to be packed."""
BLOCK = 512


def read_bundle(data: bytes) -> str:
    """Reading from a path, twice: at once, and node by node."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder) / "b.tar.gz"
        path.write_bytes(data)
        try:
            with unchanged_world():
                return outcome(str(path)).replace(folder, "")
        except BundleError as error:
            # The folder has another name each time.
            raise BundleError(error.message.replace(folder, "")) from error
        finally:
            assert os.listdir(folder) == ["b.tar.gz"]


def outcome(path: str) -> str:
    snapshot = bundle.read(path)
    source = bundle.BundleSource(path)
    found = list(source.each_node({name: {} for name in snapshot.nodes}, 1))
    whole = snapshot.collections, sorted(snapshot.nodes), snapshot.taken_at, snapshot.namespace
    return digest((whole, sorted(found, key=lambda one: one[0])))


# ---- the file


def read_file(data: bytes) -> str:
    kind, rest = data[:1], data[1:]
    return read_bundle(rest if kind == RAW else zlib_gzip(with_checksums(rest)))


def zlib_gzip(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def with_checksums(tar: bytes) -> bytes:
    """Of every block that looks like a header, where headers are: chains of sizes are followed as far as they go."""
    found, at = bytearray(tar), 0
    while at + BLOCK <= len(found):
        block = found[at : at + BLOCK]
        if not any(block):
            break
        block[148:156] = b" " * 8
        found[at + 148 : at + 156] = b"%06o\0 " % sum(block)
        try:
            size = max(0, tarfile.nti(bytes(block[124:136])))  # type: ignore[attr-defined]
        except tarfile.HeaderError:
            size = 0
        at += BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK
    return bytes(found)


def other_file(data: bytes, random: Random) -> bytes:
    kind, rest = data[:1], data[1:]
    if kind == RAW or random.random() < 0.3 or len(rest) < BLOCK:
        return kind + mutation.of_bytes(rest, random)
    # In a header: its type, its size, its name.
    found = bytearray(rest)
    at = random.choice([n for n in range(0, len(found) - 511, BLOCK) if found[n + 257 : n + 262] == b"ustar"] or [0])
    change = random.randrange(4)
    if change == 0:
        found[at + 156] = random.choice(b"0123456789xgLKSDVXMN\0A")
    elif change == 1:
        found[at + 124 : at + 136] = random.choice(SIZES)
    elif change == 2:
        name = random.choice(NAMES).encode()[:100]
        found[at : at + 100] = name.ljust(100, b"\0")
    else:
        found[at : at + BLOCK] = mutation.of_bytes(bytes(found[at : at + BLOCK]), random)[:BLOCK].ljust(BLOCK, b"\0")
    return kind + bytes(found)


SIZES = (
    *(b"77777777777\0", b"00000000000\0", b"00000001000\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"           \0"),
    *(b"\x80" + bytes(6) + b"\x7f" + bytes(4), b"-0000000001\0", b"8888888888\0\0"),
)
NAMES = (
    *("bundle.json", "../bundle.json", "/bundle.json", "nodes/../bundle.json", "nodes/0.json", "nodes/000000.json"),
    *("cluster/pods.json", "cluster/PODS.json", "nodes/1234567.json", "a\n/x", "nodes/0.json\n", "cluster/pods.json/x"),
)


@cache
def files() -> tuple[bytes, ...]:
    packed = EXAMPLE.read_bytes()
    tar = archive(members(), pax=True)
    odd = io.BytesIO()
    with tarfile.open(fileobj=odd, mode="w", format=tarfile.GNU_FORMAT) as file:
        for name, kind in (
            ("a" * 150, b"0"),
            ("../x", b"2"),
            ("l", b"1"),
            ("/dev/null", b"3"),
            ("d", b"5"),
            ("p", b"6"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "../../etc/passwd"
            file.addfile(info, io.BytesIO())
    return (RAW + packed, TAR + gzip.decompress(packed), TAR + tar, TAR + odd.getvalue() + tar)


def archive(found: Json, pax: bool = False) -> bytes:
    """A tar of members as they are, JSON or text."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in found.items():
            data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else mutation.dumped(content)
            info = tarfile.TarInfo(name.encode("utf-8", "replace").decode() or "x")
            info.size = len(data)
            info.pax_headers = {"comment": "x", "mtime": "1.5"} if pax else {}
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


# ---- what is in it


@cache
def _members() -> bytes:
    """A small bundle as it is written today, by member."""
    snapshot = builders.article()
    file = io.BytesIO()
    bundle.write_to(snapshot, file)
    file.seek(0)
    found: Json = {}
    with tarfile.open(fileobj=file, mode="r:gz") as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            text = content.read().decode()
            try:
                found[member.name] = json.loads(text)
            except ValueError:
                found[member.name] = text
    return mutation.dumped(found)


def members() -> Json:
    return json.loads(_members())  # type: ignore[no-any-return]


def read_members(data: bytes) -> str:
    found = loaded(data)
    if not isinstance(found, dict):
        return ""
    try:
        return read_bundle(zlib_gzip(archive(found)))
    except (tarfile.HeaderError, UnicodeError, zlib.error):
        return "no archive"


TARGETS = (
    Target("bundle", read_file, files, other_file, (BundleError,), short=120, long=40_000, writes=True),
    Target(
        "members",
        read_members,
        cache(lambda: (_members(),)),
        mutation.json_input,
        (BundleError,),
        short=120,
        long=30_000,
        writes=True,
    ),
)
