"""A Snapshot as a file, and a file as a Source.

Format 2, a gzip-compressed tar, written from front to end and readable by hand (docs/bundle-format.md):

    bundle.json            {"format": 2, "tool_version", "taken_at", "namespace", "scope", "redacted"}
    cluster/<kind>.json    {"items": [...], "reason": "", "absent": false}
    nodes/<number>.json    {"node": name, "document": the reader's document}
    nodes.json             {"nodes": {name: reason}}; the last one that is read: without it the file is not whole

Other members are copies for people, and are not read. Format 1 had no nodes.json: its bundle.json had "nodes".
Reading never writes to disk: members are read in memory, by name, within limits.
"""

from __future__ import annotations

import calendar
import gzip
import io
import json
import re
import tarfile
import time
import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from kubectl_netpol import archive
from kubectl_netpol.errors import BundleError, NodeError
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.node import json_text
from kubectl_netpol.node.document import check_document
from kubectl_netpol.source import NOT_IN_THE_BUNDLE, SnapshotSource

Json = dict[str, Any]

FORMAT = 2
FORMATS = (1, 2)
"""Those that are read: all that were ever written."""
MEMBER = re.compile(r"(bundle|nodes|cluster/[a-z]{1,40}|nodes/[0-9]{1,6})\.json\Z")
LARGEST_MEMBER = 1 << 30
LARGEST_TOTAL = 16 << 30
MOST_MEMBERS = 100_000
FULL = "the bundle is full: it holds no more than is read again"
ROOM = 1 << 20
"""Bytes and members kept free for what comes last."""


class _Gzip:
    """A file that what is written is packed into, without a name and a time in its header.

    Not gzip.GzipFile: of a bundle that is given up, that one writes what it holds when the interpreter collects it. Its
    file is closed or full by then, and Python 3.13 and newer print a traceback.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        self._size = 0

    def write(self, data: bytes) -> int:
        self._file.write(self._packer.compress(data))
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def close(self) -> None:
        self._file.write(self._packer.flush())


class Writer:
    """One bundle, member by member: nothing but the member at hand is in memory. Equal snapshots are equal files."""

    def __init__(
        self,
        file: IO[bytes],
        *,
        taken_at: str,
        tool_version: str,
        namespace: str,
        scope: Json | None = None,
        redacted: bool = False,
    ) -> None:
        self._packed = _Gzip(file)
        self._tar = tarfile.TarFile(fileobj=self._packed, mode="w", format=tarfile.PAX_FORMAT)  # type: ignore[arg-type]
        self._when = _seconds(taken_at)
        self._nodes: dict[str, str] = {}
        self._documents = self._members = self._total = 0
        header = {"format": FORMAT, "tool_version": tool_version, "taken_at": taken_at, "namespace": namespace}
        self._json("bundle.json", {**header, "scope": scope or {}, "redacted": redacted})

    def collection(self, kind: str, one: Collection) -> None:
        self._json(f"cluster/{kind}.json", {"items": list(one.items), "reason": one.reason, "absent": one.absent})

    def node(self, name: str, reading: NodeReading) -> int | None:
        """Its number in the bundle; None where there is no document of it, or no room for it."""
        self._nodes[name] = reading.reason
        if reading.document is None:
            return None
        data = _encoded({"node": name, "document": reading.document})
        if not self._has_room(len(data)):
            self._nodes[name] = FULL
            return None
        number = self._documents
        self._add(f"nodes/{number}.json", data)
        self._documents += 1
        return number

    def text(self, name: str, text: str) -> bool:
        """A copy for people, if there is room for it. ``name`` is not one of those that are read."""
        assert not MEMBER.match(name)
        data = text.encode("utf-8", "backslashreplace")
        if self._has_room(len(data)):
            self._add(name, data)
            return True
        return False

    def close(self) -> None:
        """The end, without which the file is not taken for a bundle."""
        self._json("nodes.json", {"nodes": self._nodes})
        self._tar.close()
        self._packed.close()

    def _has_room(self, size: int) -> bool:
        return (
            size <= LARGEST_MEMBER
            and self._total + size <= LARGEST_TOTAL - ROOM
            and self._members < MOST_MEMBERS - len(FORMATS)
        )

    def _json(self, name: str, body: Json) -> None:
        data = _encoded(body)
        if len(data) > LARGEST_MEMBER or self._total + len(data) > LARGEST_TOTAL:
            raise BundleError(f"the bundle would be larger than a bundle can be: {name} has {len(data)} bytes")
        self._add(name, data)

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = len(data), self._when, 0o644
        self._tar.addfile(member, io.BytesIO(data))
        self._total += len(data)
        self._members += 1


def _encoded(body: Json) -> bytes:
    return json.dumps(body, indent=1, sort_keys=True).encode()


def write(snapshot: Snapshot, path: str) -> None:
    """Write a bundle; the same Snapshot gives the same bytes. Raises ``BundleError`` where it cannot."""
    try:
        with open(path, "wb") as file:
            write_to(snapshot, file)
    except OSError as error:
        raise BundleError(f"{path}: the bundle could not be written: {error.strerror or error}") from error


def write_to(snapshot: Snapshot, file: IO[bytes]) -> None:
    writer = Writer(
        file,
        taken_at=snapshot.taken_at,
        tool_version=snapshot.tool_version,
        namespace=snapshot.namespace,
        redacted=snapshot.redacted,
    )
    for kind, collection in sorted(snapshot.collections.items()):
        writer.collection(kind, collection)
    for name, reading in sorted(snapshot.nodes.items()):
        writer.node(name, reading)
    writer.close()


def _seconds(taken_at: str) -> int:
    try:
        return calendar.timegm(time.strptime(taken_at, "%Y-%m-%dT%H:%M:%SZ"))
    except (ValueError, OverflowError):
        return 0


def read(path: str) -> Snapshot:
    """Read a bundle file. Raises ``BundleError`` with one line for anything that is not a sound bundle."""
    with _opened(path) as file:
        return read_from(file, path)


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    try:
        with Path(path).open("rb") as file:
            yield file
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{path!r}: the bundle could not be read: {reason}") from error


def read_from(file: IO[bytes], path: str, *, nodes: bool = True) -> Snapshot:
    """``nodes``: also the documents of its nodes; else what its header says of them."""
    with _archive(path):
        members = dict(_members(file, path, lambda name: nodes or not name.startswith(NODES)))
    with _contents(path):
        header = _header(members, path)
        return _snapshot(header, members, nodes=nodes)


def _header(members: Mapping[str, Json], path: str) -> Json:
    """What bundle.json says, with the nodes that the bundle should hold, of every format."""
    header = members.get("bundle.json")
    if header is None:
        raise BundleError(f"{path}: not a bundle: it holds no bundle.json")
    if header.get("format") not in FORMATS or isinstance(header["format"], bool):
        found = header.get("format")
        raise BundleError(f"{path}: bundle format {found!r} is not known to this version", "upgrade the plugin")
    if header["format"] == 1:
        return header
    end = members.get("nodes.json")
    if end is None:
        raise BundleError(f"{path}: the bundle is damaged: its end is missing")
    return {**header, "nodes": end["nodes"]}


NODES = "nodes/"


@contextmanager
def _archive(path: str) -> Iterator[None]:
    """What is wrong with the file is one line."""
    try:
        yield
    except (tarfile.TarError, EOFError, ValueError, gzip.BadGzipFile, zlib.error, RecursionError) as error:
        raise BundleError(f"{path}: not a bundle, or a damaged one: {error}") from error


@contextmanager
def _contents(path: str) -> Iterator[None]:
    """What is wrong with the objects in it is one line."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, NodeError) as error:
        what = error.message if isinstance(error, NodeError) else f"{type(error).__name__}: {error}"
        raise BundleError(f"{path}: the bundle is damaged: {what}") from error


def _members(
    file: IO[bytes], path: str, wanted: Callable[[str], bool], *, together: bool = True
) -> Iterator[tuple[str, Json]]:
    """The members that are wanted, one by one; the file is read to its end for its checksum. ``together``: they will
    all be in memory, so that there is a bound on all of them and not on each."""
    total, seen, left = 0, set(), json_text.MOST_VALUES
    with gzip.GzipFile(fileobj=file, mode="rb") as plain:
        for count, (tar, member) in enumerate(archive.members(plain)):
            if count >= MOST_MEMBERS or member.size > LARGEST_MEMBER or total + member.size > LARGEST_TOTAL:
                raise BundleError(f"{path}: the bundle is larger than a bundle can be")
            total += member.size
            if not member.isfile() or not MEMBER.match(member.name):
                continue
            if member.name in seen:
                raise BundleError(f"{path}: it holds {member.name} twice")
            seen.add(member.name)
            if not wanted(member.name):
                continue
            content = tar.extractfile(member)
            assert content is not None
            text, rest = archive.text_of(content, left)
            left = rest if together else left
            document = json_text.loads(text)
            if not isinstance(document, dict):
                raise BundleError(f"{path}: {member.name} is not a JSON object")
            yield member.name, document
        _read_to_end(plain, path)


def _read_to_end(plain: gzip.GzipFile, path: str) -> None:
    """What follows the archive is padding; the checksum of the file is checked at its very end."""
    rest = 0
    while chunk := plain.read(1 << 20):
        rest += len(chunk)
        if rest > LARGEST_MEMBER:
            raise BundleError(f"{path}: the bundle is larger than a bundle can be")


def _snapshot(header: Json, members: Mapping[str, Json], *, nodes: bool) -> Snapshot:
    collections = {
        name.removeprefix("cluster/").removesuffix(".json"): _collection(body)
        for name, body in members.items()
        if name.startswith("cluster/")
    }
    read = {
        str(name): NodeReading(None, str(reason)) for name, reason in header["nodes"].items() if reason or not nodes
    }
    read.update(_node(body) for name, body in members.items() if name.startswith(NODES))
    _check_complete(header["nodes"], read)
    return Snapshot(
        collections=collections,
        nodes=read,
        taken_at=str(header["taken_at"]),
        tool_version=str(header["tool_version"]),
        namespace=str(header["namespace"]),
        redacted=header.get("redacted") is True,
    )


def _node(body: Json) -> tuple[str, NodeReading]:
    return str(body["node"]), NodeReading(check_document(body["document"]))


def _check_complete(promised: Mapping[str, Any], found: Container[str]) -> None:
    """``promised``: node -> why it was not read; empty where its document has to be there."""
    lost = sorted(name for name, reason in promised.items() if not reason and name not in found)
    if lost:
        raise ValueError(f"it should hold node {lost[0]}")


def _collection(body: Json) -> Collection:
    items = body["items"]
    if not all(isinstance(item, dict) and isinstance(item.get("metadata"), dict) for item in items):
        raise TypeError("an object without metadata")
    return Collection(tuple(items), str(body["reason"]), bool(body["absent"]))


class BundleSource(SnapshotSource):
    """A bundle file in the place of a cluster: nothing else is touched.

    Documents of nodes are read from the file when they are asked for: those of a large cluster do not fit into memory
    together.
    """

    def __init__(self, path: str, namespace: str = "") -> None:
        self._path = path
        with _opened(path) as file:
            super().__init__(read_from(file, path, nodes=False), namespace)

    def each_node(self, requests: Mapping[str, Json], parallel: int) -> Iterator[tuple[str, NodeReading]]:
        """In the order of the file; then those that are not in it."""
        left, found = set(requests), set()
        if left:
            for name, reading in self._documents():
                found.add(name)
                if name in left:
                    left.discard(name)
                    yield name, reading
        with _contents(self._path):
            promised = {name: reading.reason for name, reading in self.snapshot.nodes.items() if name in left}
            _check_complete(promised, found)
        for name in sorted(left):
            yield name, NodeReading(None, promised.get(name) or NOT_IN_THE_BUNDLE)

    def _documents(self) -> Iterator[tuple[str, NodeReading]]:
        with _opened(self._path) as file, _archive(self._path):
            for _, body in _members(file, self._path, lambda name: name.startswith(NODES), together=False):
                with _contents(self._path):
                    read = _node(body)
                yield read
