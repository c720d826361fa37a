"""`capture`: what was read of a pod, a namespace, a node or the cluster into one file, node by node as they come."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import sys
import tempfile
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import typer

from kubectl_netpol import __version__, bundle, checking, looking
from kubectl_netpol.answers import SHAPE_ERRORS, Answers, first_check
from kubectl_netpol.checking import look_again, may_be_late
from kubectl_netpol.diagnose import plan as planning
from kubectl_netpol.diagnose.again import doubtful
from kubectl_netpol.diagnose.check import Check, Report
from kubectl_netpol.diagnose.checks.intent import unenforced
from kubectl_netpol.diagnose.drops import log_request
from kubectl_netpol.errors import BundleError, ExitCode, OutputError, UsageError
from kubectl_netpol.looking import carrying
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.node.document import check_document
from kubectl_netpol.options import Common
from kubectl_netpol.policy import targets
from kubectl_netpol.policy.world import World, name_of, namespace_of, node_of
from kubectl_netpol.progress import Progress
from kubectl_netpol.redact import objects, reading_of
from kubectl_netpol.redact.names import Names
from kubectl_netpol.source import Live, SnapshotSource, Source
from kubectl_netpol.verbs import session

Json = dict[str, Any]

CAPTURED_SECONDS, CAPTURED_LINES = 3600.0, 20_000
"""How much of the agent's flow log is in a bundle, of the captured pods of each node."""
AGENT_LOG_BYTES = 1 << 19
"""Of the end of each of the agent's logs."""
MOST_TOLD = 5
"""Lines about what was in progress; the bundle has all of it."""


@dataclass(frozen=True)
class Asked:
    """The flags of `capture`, as typed."""

    pod: str
    file: str
    all_namespaces: bool = False
    node: str = ""
    parallel: int = 4
    api_only: bool = False
    redact: bool = False
    names_file: str = ""
    """--redact-names"""

    def as_check(self) -> checking.Asked:
        """The same scope as `check` understands it."""
        return checking.Asked(self.pod, self.all_namespaces, node=self.node, api_only=self.api_only)


@dataclass(frozen=True)
class _Scope:
    """What is captured: for the header, and the nodes with their pods whose flows are asked of the agent's log."""

    header: Json
    nodes: Mapping[str, tuple[Json, ...]]


def capture(common: Common, asked: Asked) -> None:
    """`capture`. Ends the process with an exit code: 3 where a node could not be read."""
    _checked(common, asked)
    with session(common) as (origin, progress):
        progress.step("reading policies, pods, services and settings")
        collections = _collections(origin, asked)
        world = World(Snapshot(collections))
        scope = _scope(origin, asked, world, progress)
        with _output(asked.file) as file:
            if isinstance(origin, Live) and not asked.api_only:
                made = _settled(file, origin, asked, scope, world, progress)
            else:
                made = _Captured(file, origin, collections, scope, asked)
                with contextlib.closing(_readings(origin, asked, scope, world, progress)) as readings:
                    _take(made, readings, len(scope.nodes), asked, progress)
            progress.step("writing what was found")
            made.close()
        if asked.names_file and made.names is not None:
            _write_names(made.names, asked.names_file)
        progress.done()
        if asked.file != "-":
            progress.note(f"wrote {asked.file}: {made.summary()}")
    if made.unread and not asked.api_only:
        raise typer.Exit(int(ExitCode.UNDECIDED))


def _collections(origin: Source, asked: Asked) -> Mapping[str, Collection]:
    namespace = targets.parse(asked.pod, origin.namespace).namespace if asked.pod else ""
    return origin.collections((*planning.EVERYTHING, planning.RIGHTS), [namespace or origin.namespace])


def _take(
    made: _Captured, readings: Iterable[tuple[str, NodeReading]], count: int, asked: Asked, progress: Progress
) -> None:
    """Each node into the bundle, and a word about each that does not get there."""
    for number, (node, reading) in enumerate(readings):
        why = made.node(node, reading)
        progress.step(f"{number + 1} of {count} nodes written")
        if why and not asked.api_only:
            progress.note(f"warning: node {node}: {why}; the bundle does not hold it")


def _settled(
    file: IO[bytes], origin: Source, asked: Asked, scope: _Scope, world: World, progress: Progress
) -> _Captured:
    """The nodes, and those where somebody seems to be at work a second time; then the objects that belong to that.

    Nothing is written into the bundle before all is read: documents wait in a file without a name.
    """
    with tempfile.TemporaryFile() as waiting:
        spool = _Spool(waiting)
        moved = _read(spool, origin, asked, scope, world, progress)
        for text in moved[:MOST_TOLD]:
            progress.note(f"in progress: {text}")
        # As they are now: the objects belong to the last look at the nodes.
        collections = _collections(origin, asked) if spool.again else world.snapshot.collections
        made = _Captured(file, origin, collections, scope, asked)
        _take(made, spool.readings(moved), len(scope.nodes), asked, progress)
    return made


def _read(
    spool: _Spool, origin: Source, asked: Asked, scope: _Scope, world: World, progress: Progress
) -> tuple[str, ...]:
    """All nodes into the spool. Returns what was in progress."""
    doubts = _Doubts(first_check(SnapshotSource(world.snapshot, origin.namespace), asked.as_check()))
    held: dict[str, NodeReading] = {}
    with looking.held(origin), contextlib.closing(_readings(origin, asked, scope, world, progress)) as readings:
        for number, (node, reading) in enumerate(readings):
            progress.step(f"{number + 1} of {len(scope.nodes)} nodes read")
            if doubts.late(node, reading) and len(held) < checking.MOST_HELD:
                held[node] = reading
                continue
            looking.release(origin, node)
            spool.add(node, reading)
        first = doubts.report()
        if first is None or not (held or doubtful(first.findings)):
            return ()
        requests = {node: _request(pods, world) for node, pods in scope.nodes.items()}
        whole = not (asked.pod or asked.node)
        report = look_again(origin, asked.as_check(), first, held, progress, whole=whole, ask=lambda _: requests)
        spool.again = True
        for node, reading in held.items():
            spool.add(node, reading, looked_again=True)
    return tuple(one.text for one in report.in_progress)


class _Doubts:
    """What `check` would doubt of a first look. Objects that have not the shape of their kind end the doubts only."""

    def __init__(self, check: Check | None) -> None:
        self._check = check

    def late(self, node: str, reading: NodeReading) -> bool:
        if self._check is None:
            return False
        try:
            return may_be_late(self._check, node, reading, self._check.node(node, reading))
        except SHAPE_ERRORS:
            self._check = None
            return False

    def report(self) -> Report | None:
        try:
            return None if self._check is None else self._check.report()
        except SHAPE_ERRORS:
            return None


class _Spool:
    """Readings that wait to be written, in a file: those of a large cluster do not fit into memory together."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._rows: list[tuple[str, str, int, bool]] = []
        self.again = False
        """Whether nodes or objects were looked at a second time."""

    def add(self, node: str, reading: NodeReading, *, looked_again: bool = False) -> None:
        data = b"" if reading.document is None else zlib.compress(json.dumps(reading.document).encode(), 1)
        self._file.write(data)
        self._rows.append((node, reading.reason, len(data), looked_again))

    def readings(self, moved: tuple[str, ...]) -> Iterator[tuple[str, NodeReading]]:
        """In the order in which they came. ``moved``: what was in progress, for those that were looked at twice."""
        self._file.seek(0)
        for node, reason, length, again in self._rows:
            data = self._file.read(length)
            reading = NodeReading(check_document(json.loads(zlib.decompress(data))) if data else None, reason)
            yield node, carrying(reading, moved) if again and moved else reading


def _checked(common: Common, asked: Asked) -> None:
    """Raises ``UsageError`` for flags that make no sense together."""
    for flag, wide in (("-A", asked.all_namespaces), ("--node", bool(asked.node))):
        if asked.pod and wide:
            raise UsageError(f"POD names one pod: it goes without {flag}")
    if asked.all_namespaces and asked.node:
        raise UsageError("-A goes without --node")
    if asked.all_namespaces and common.connection.namespace:
        raise UsageError("-A goes without -n")
    if asked.names_file and not asked.redact:
        raise UsageError("--redact-names goes with --redact")
    if asked.names_file and os.path.realpath(asked.names_file) == os.path.realpath(asked.file):
        raise UsageError("--redact-names and --file are the same file")
    if asked.file == "-" and sys.stdout.isatty():
        raise UsageError("-f - writes a packed file to stdout, which is a terminal: redirect it")


# ---- what is captured


def _scope(origin: Source, asked: Asked, world: World, progress: Progress) -> _Scope:
    """Raises ``UsageError`` for names that do not exist."""
    pods = world.snapshot.items("pods")
    if asked.pod:
        pod, note = targets.pick_pod(asked.pod, origin.namespace, world)
        if note:
            progress.note(note)
        return _Scope({"pod": f"{namespace_of(pod)}/{name_of(pod)}"}, _by_node([pod], ()))
    if asked.node:
        node = targets.pick_node(asked.node, world)
        return _Scope({"node": node}, _by_node((pod for pod in pods if node_of(pod) == node), [node]))
    if asked.all_namespaces:
        return _Scope({"cluster": True}, _by_node(pods, world.nodes))
    if origin.namespace not in world.namespaces and world.snapshot.get("namespaces").known:
        raise UsageError(f'namespace "{origin.namespace}" not found')
    own = [pod for pod in pods if namespace_of(pod) == origin.namespace]
    return _Scope({"namespace": origin.namespace}, _by_node(own, ()))


def _by_node(pods: Iterable[Json], nodes: Iterable[str]) -> Mapping[str, tuple[Json, ...]]:
    """``nodes``: those that are read also without pods. A pod that is on no node yet has none."""
    found: dict[str, list[Json]] = {node: [] for node in nodes}
    for pod in pods:
        if node_of(pod):
            found.setdefault(node_of(pod), []).append(pod)
    return {node: tuple(found[node]) for node in sorted(found)}


def _readings(
    origin: Source, asked: Asked, scope: _Scope, world: World, progress: Progress
) -> Generator[tuple[str, NodeReading], None, None]:
    if asked.api_only:
        yield from ((node, NodeReading(None, "--api-only: it was not read")) for node in scope.nodes)
        return
    bare = {node: why for node in scope.nodes if (why := unenforced(node, world))}
    yield from ((node, NodeReading(None, why)) for node, why in bare.items())
    requests = {node: _request(pods, world) for node, pods in scope.nodes.items() if node not in bare}
    if requests:
        progress.step(f"reading {len(requests)} node{'' if len(requests) == 1 else 's'}")
    yield from origin.each_node(requests, asked.parallel)


def _request(pods: tuple[Json, ...], world: World) -> Json:
    """The whole AWS part of a node, so that the bundle answers for all its pods; flows of the captured pods alone."""
    log = log_request(pods, world, seconds=CAPTURED_SECONDS, everything=True, most=CAPTURED_LINES)
    return {
        **planning.reader_request(pods, everything=True),
        "log": log,
        "agent": True,
        "agent_log": {"bytes": AGENT_LOG_BYTES, "path": log["path"]},
    }


# ---- the file


class _Captured:
    """One bundle in the making."""

    def __init__(
        self, file: IO[bytes], origin: Source, collections: Mapping[str, Collection], scope: _Scope, asked: Asked
    ) -> None:
        self.names = Names(secrets.token_bytes(32)) if asked.redact else None
        self.unread: list[str] = []
        kept = collections if self.names is None else objects.renamed(collections, self.names)
        self.snapshot = Snapshot(
            kept,
            {},
            origin.taken_at,
            origin.tool_version or __version__,
            self._name(origin.namespace),
            redacted=asked.redact or (isinstance(origin, SnapshotSource) and origin.snapshot.redacted),
        )
        self.answers = Answers(self.snapshot, self._asked(asked, scope))
        self.writer = bundle.Writer(
            file,
            taken_at=self.snapshot.taken_at,
            tool_version=self.snapshot.tool_version,
            namespace=self.snapshot.namespace,
            scope={what: self._name(name) if isinstance(name, str) else name for what, name in scope.header.items()},
            redacted=self.snapshot.redacted,
        )
        self.writer.text("README.txt", README)
        for kind, collection in sorted(kept.items()):
            self.writer.collection(kind, collection)
        self._texts(self.answers.policies())

    def _name(self, name: str) -> str:
        return name if self.names is None else self.names.name(name)

    def _asked(self, asked: Asked, scope: _Scope) -> checking.Asked:
        """By the names that are in the bundle."""
        header = {what: self._name(name) for what, name in scope.header.items() if isinstance(name, str)}
        return checking.Asked(
            header.get("pod", ""), asked.all_namespaces, node=header.get("node", ""), api_only=asked.api_only
        )

    def node(self, name: str, reading: NodeReading) -> str:
        """Why it is not in the bundle; empty where it is."""
        renamed, why = self._name(name), reading.reason
        if self.names is not None:
            reading = reading_of(reading, self.names)
            if reading.document is not None:
                # Checked again, so that the answers are made of what will be read.
                reading = NodeReading(check_document(reading.document))
        number = self.writer.node(renamed, reading)
        if number is not None:
            for log in ((reading.document or {}).get("agent_log") or {}).get("files", ()):
                lines = "".join(f"{line}\n" for line in log["lines"])
                self.writer.text(f"nodes/{number}/{_file_name(log['file'])}", lines)
        elif reading.document is not None:
            why = bundle.FULL
        self._texts(self.answers.node(renamed, reading))
        if why:
            self.unread.append(name)
        return why

    def close(self) -> None:
        self._texts(self.answers.whole())
        self.writer.close()

    def _texts(self, made: Iterable[tuple[str, str]]) -> None:
        for name, text in made:
            self.writer.text(name, text)

    def summary(self) -> str:
        """`2 nodes, 3 findings; redacted`."""
        read, found = self.answers.nodes_read, self.answers.findings
        parts = [f"{read} node{'' if read == 1 else 's'}"]
        if self.unread:
            parts.append(f"{len(self.unread)} not read")
        parts.append("findings not known" if found is None else f"{found} finding{'' if found == 1 else 's'}")
        return ", ".join(parts) + ("; redacted" if self.names is not None else "")


def _file_name(text: str) -> str:
    """A node says what its logs are called."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip(".") or "log"


README = """\
A bundle of kubectl netpol-ebpf: what a cluster and its nodes held when it was taken.

bundle.json     which format, when it was taken, of what
cluster/        API objects, cut down to what questions need, as JSON
policies/       policies and PolicyEndpoints once more, as YAML
nodes/N.json    what was read on a node: links, tc filters, programs, maps, pins, the agent's log, as JSON
nodes/N/        the end of the agent's logs of that node, without flows of pods
answers/        findings (check.yaml), settings and versions (doctor.yaml), and of the pods that were asked about:
                layers side by side (explain), tc filters, programs and maps (maps), established flows (conntrack),
                logged flows (drops)
nodes.json      the nodes that it holds, or why it does not

`kubectl netpol-ebpf explain POD --bundle FILE` answers from it; so does every other verb. Only bundle.json, cluster/,
nodes/N.json and nodes.json are read for that. It holds no Secrets, no values of environment variables but settings of
the VPC CNI, and no commands of containers.
"""


@contextlib.contextmanager
def _output(path: str) -> Iterator[IO[bytes]]:
    """The file, which is there only when it is whole: until then it has another name, and goes if it is not finished.

    What is no regular file (a pipe, a device) is written to as it is. Raises ``BundleError`` where it cannot be made,
    and ``OutputError`` where it cannot be written.
    """
    try:
        if path == "-":
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif _is_special(path):
            with open(path, "wb") as file:
                yield file
        else:
            with _replacing(path) as file:
                yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        name = "stdout" if path == "-" else path
        raise OutputError(f"{name}: the bundle could not be written: {error.strerror or error}") from error


def _is_special(path: str) -> bool:
    try:
        return not stat.S_ISREG(Path(path).stat().st_mode)
    except OSError:
        return False


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[IO[bytes]]:
    """Readable by its owner alone: it holds what was read with that person's rights."""
    target = Path(os.path.realpath(path))
    try:
        number, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        # Before anything was read.
        raise BundleError(f"{path}: the file could not be made: {error.strerror or error}") from error
    try:
        with open(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(number)
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _write_names(names: Names, path: str) -> None:
    """Which word stands for which: for whoever gets an answer about a redacted bundle."""
    try:
        with _replacing(path) as file:
            file.write(json.dumps({"words": names.given, "addresses": names.addresses.given}, indent=1).encode())
    except OSError as error:
        raise OutputError(f"{path}: the names could not be written: {error.strerror or error}") from error
