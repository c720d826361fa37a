"""A Snapshot as a file, and a file as a Source.

Format 1: a gzip-compressed tar of JSON files, readable by hand:

    bundle.json            {"format": 1, "tool_version", "taken_at", "namespace", "nodes": {name: reason}}
    cluster/<kind>.json    {"items": [...], "reason": "", "absent": false}
    nodes/<number>.json    {"node": name, "document": the reader's document}

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
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from kubectl_netpol import archive
from kubectl_netpol.errors import BundleError, NodeError
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.node import json_text
from kubectl_netpol.node.document import check_document

Json = dict[str, Any]

FORMAT = 1
MEMBER = re.compile(r"(bundle|cluster/[a-z]{1,40}|nodes/[0-9]{1,6})\.json\Z")
LARGEST_MEMBER = 1 << 30
LARGEST_TOTAL = 4 << 30
MOST_MEMBERS = 10_000


def write(snapshot: Snapshot, path: str) -> None:
    """Write a bundle; the same Snapshot gives the same bytes. Raises ``BundleError`` where it cannot."""
    try:
        with open(path, "wb") as file:
            write_to(snapshot, file)
    except OSError as error:
        raise BundleError(f"{path}: the bundle could not be written: {error.strerror or error}") from error


def write_to(snapshot: Snapshot, file: IO[bytes]) -> None:
    header = {
        "format": FORMAT,
        "tool_version": snapshot.tool_version,
        "taken_at": snapshot.taken_at,
        "namespace": snapshot.namespace,
        "nodes": {name: reading.reason for name, reading in sorted(snapshot.nodes.items())},
    }
    # No file name and no time in the gzip header: equal snapshots are equal files.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        when = _seconds(snapshot.taken_at)
        _add(tar, "bundle.json", header, when)
        for kind, collection in sorted(snapshot.collections.items()):
            body = {"items": list(collection.items), "reason": collection.reason, "absent": collection.absent}
            _add(tar, f"cluster/{kind}.json", body, when)
        known = [(name, r.document) for name, r in sorted(snapshot.nodes.items()) if r.document is not None]
        for number, (name, document) in enumerate(known):
            _add(tar, f"nodes/{number}.json", {"node": name, "document": document}, when)


def _add(tar: tarfile.TarFile, name: str, body: Json, when: int) -> None:
    data = json.dumps(body, indent=1, sort_keys=True).encode()
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(data), when, 0o644
    tar.addfile(member, io.BytesIO(data))


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
    header = members.get("bundle.json")
    if header is None:
        raise BundleError(f"{path}: not a bundle: it holds no bundle.json")
    if header.get("format") != FORMAT:
        found = header.get("format")
        raise BundleError(f"{path}: bundle format {found!r} is not known to this version", "upgrade the plugin")
    with _contents(path):
        return _snapshot(header, members, nodes=nodes)


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


def _members(file: IO[bytes], path: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Json]]:
    """The members that are wanted, one by one; the file is read to its end for its checksum."""
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
            text, left = archive.text_of(content, left)
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


class BundleSource:
    """A bundle file in the place of a cluster: nothing else is touched.

    Documents of nodes are read from the file when they are asked for: those of a large cluster do not fit into memory
    together.
    """

    def __init__(self, path: str, namespace: str = "") -> None:
        self._path = path
        with _opened(path) as file:
            self.snapshot = read_from(file, path, nodes=False)
        self._namespace = namespace

    @property
    def namespace(self) -> str:
        return self._namespace or self.snapshot.namespace

    @property
    def taken_at(self) -> str:
        return self.snapshot.taken_at

    @property
    def tool_version(self) -> str:
        return self.snapshot.tool_version

    def collections(self, kinds: Sequence[str], namespaces: Sequence[str]) -> Mapping[str, Collection]:
        return {kind: self.snapshot.get(kind) for kind in kinds}

    def of_namespaces(self, kinds: Sequence[str], namespaces: Sequence[str]) -> Mapping[str, Collection]:
        """The same objects as a live cluster would have given for the question."""
        return {kind: _within(self.snapshot.get(kind), namespaces) for kind in kinds}

    def nodes(self, requests: Mapping[str, Json], follow: object = None) -> Mapping[str, NodeReading]:
        # A bundle has no programs to ask: the verbs refuse that before.
        found = dict(self.each_node(requests, 1))
        return {name: found[name] for name in requests}

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
            yield name, NodeReading(None, promised.get(name) or "this node is not in the bundle")

    def _documents(self) -> Iterator[tuple[str, NodeReading]]:
        with _opened(self._path) as file, _archive(self._path):
            for _, body in _members(file, self._path, lambda name: name.startswith(NODES)):
                with _contents(self._path):
                    read = _node(body)
                yield read


def _within(collection: Collection, namespaces: Sequence[str]) -> Collection:
    items = tuple(item for item in collection.items if item["metadata"].get("namespace") in namespaces)
    return Collection(items, collection.reason, collection.absent)
