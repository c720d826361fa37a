"""The live cluster as a Source: paged lists side by side, nodes through debug pods side by side."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol

from kubectl_netpol import __version__
from kubectl_netpol.cluster import settings
from kubectl_netpol.cluster.api import Api, Listing
from kubectl_netpol.cluster.parallel import Pool, finished, side_by_side
from kubectl_netpol.cluster.trim import trim
from kubectl_netpol.errors import ApiError, NetpolError
from kubectl_netpol.model.asked import FollowUp
from kubectl_netpol.model.snapshot import Collection, NodeReading

Json = dict[str, Any]

AWS = "/apis/networking.k8s.aws/v1alpha1"
CORE = "/api/v1"
LISTS_AT_ONCE = 4


@dataclass(frozen=True)
class Kind:
    """Where a collection lives in the API."""

    group: str
    resource: str
    namespaced: bool = True

    def path(self, namespace: str = "") -> str:
        middle = f"/namespaces/{namespace}" if namespace else ""
        return f"{self.group}{middle}/{self.resource}"


PATHS = {
    "pods": Kind(CORE, "pods"),
    "namespaces": Kind(CORE, "namespaces", False),
    "services": Kind(CORE, "services"),
    "nodes": Kind(CORE, "nodes", False),
    "networkpolicies": Kind("/apis/networking.k8s.io/v1", "networkpolicies"),
    "policyendpoints": Kind(AWS, "policyendpoints"),
    "applicationnetworkpolicies": Kind(AWS, "applicationnetworkpolicies"),
    "clusterpolicyendpoints": Kind(AWS, "clusterpolicyendpoints", False),
    "clusternetworkpolicies": Kind(AWS, "clusternetworkpolicies", False),
}


class Readers(Protocol):
    """Readers of nodes that can stay open (``holding.NodeReaders``)."""

    def holding(self, guard: Callable[[], AbstractContextManager[Any]]) -> AbstractContextManager[None]: ...

    def release(self, node: str) -> None: ...


NodeReader = Callable[[str, Json, FollowUp | None], NodeReading]
"""(node name, request, what to ask once its document is there) -> reading; raises NetpolError."""


@dataclass
class LiveSource:
    """Reads each collection with one paged list, and each node with one exec."""

    api: Api
    read_node: NodeReader
    guard: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Entered in the main thread while others read nodes: a signal must reach their debug pods too."""
    taken_at: str = field(default_factory=lambda: _now())
    tool_version: str = __version__
    debug_namespace: str = "kube-system"
    """Where debug pods are made: the user's rights there are asked for."""
    readers: Readers | None = None
    """What ``read_node`` reads with, where it can stay open."""
    held: bool = field(default=False, init=False)
    listed: float = field(default=0.0, init=False)
    """When the API was asked last: seconds of the monotonic clock."""

    @property
    def namespace(self) -> str:
        return self.api.namespace

    def collections(self, kinds: Sequence[str], namespaces: Sequence[str]) -> Mapping[str, Collection]:
        self.listed = time.monotonic()
        # The first request alone: a wrong address or expired credentials is one error, not nine.
        first, *rest = kinds
        found = {first: self._collection(first, namespaces)}
        others = side_by_side(lambda kind: self._collection(kind, namespaces), rest, LISTS_AT_ONCE)
        return {**found, **dict(zip(rest, others, strict=True))}

    def of_namespaces(self, kinds: Sequence[str], namespaces: Sequence[str]) -> Mapping[str, Collection]:
        def one(kind: str) -> Collection:
            return self._of_namespaces(kind, namespaces, "")

        return dict(zip(kinds, side_by_side(one, kinds, LISTS_AT_ONCE), strict=True))

    @contextmanager
    def holding(self) -> Iterator[None]:
        """While it lasts, debug pods stay open for a second reading of their nodes; see ``source.Live``."""
        if self.readers is None:
            yield
            return
        with self.readers.holding(self.guard):
            self.held = True
            try:
                yield
            finally:
                self.held = False

    def release(self, node: str) -> None:
        if self.readers is not None:
            self.readers.release(node)

    def nodes(self, requests: Mapping[str, Json], follow: FollowUp | None = None) -> Mapping[str, NodeReading]:
        if len(requests) == 1:
            # In the main thread, so that signals end the debug pod's life at once.
            return {node: self._node(node, request, follow) for node, request in requests.items()}

        def one(request: tuple[str, Json]) -> NodeReading:
            return self._node(*request, follow)

        with self.guard():
            return dict(zip(requests, side_by_side(one, requests.items(), max(1, len(requests))), strict=True))

    def each_node(self, requests: Mapping[str, Json], parallel: int) -> Iterator[tuple[str, NodeReading]]:
        if len(requests) <= 1 or (parallel <= 1 and not self.held):
            # In the main thread: see ``nodes``. Of several that stay open each has signal handlers there, which cannot
            # be given back in another order: these are read in a thread.
            for node, request in requests.items():
                yield node, self._node(node, request, None)
            return

        def one(request: tuple[str, Json]) -> NodeReading:
            return self._node(*request, None)

        with self.guard(), Pool(one, max(1, parallel)) as pool:
            waiting = iter(requests.items())
            futures: dict[Future[NodeReading], str] = {}
            while True:
                # No more at once than are read or checked: documents of a large cluster do not fit into memory.
                for item in islice(waiting, 2 * parallel - len(futures)):
                    futures[pool.submit(item)] = item[0]
                if not futures:
                    return
                for done in finished(futures):
                    yield futures.pop(done), done.result()

    def _node(self, node: str, request: Json, follow: FollowUp | None) -> NodeReading:
        try:
            return _dated(self.read_node(node, request, follow), self.listed)
        except NetpolError as error:
            reason = error.message + (f" ({error.hint})" if error.hint else "")
            return NodeReading(None, reason, message=error.message, hint=error.hint)

    def _collection(self, kind: str, namespaces: Sequence[str]) -> Collection:
        if kind in settings.KINDS:
            return settings.read(self.api, kind, self.debug_namespace)
        place = PATHS[kind]
        try:
            return _kept(kind, self.api.list(place.path()))
        except ApiError as error:
            if error.status == 404:
                return Collection(absent=True)
            if error.status != 403:
                raise
            if not place.namespaced:
                return Collection(reason=error.message)
            refusal = error.message
        return self._of_namespaces(kind, namespaces, refusal)

    def _of_namespaces(self, kind: str, namespaces: Sequence[str], refusal: str) -> Collection:
        """The namespaces of the question; ``refusal``: why not the whole cluster, where that was wanted."""
        items: list[Json] = []
        for namespace in namespaces:
            try:
                items += _kept(kind, self.api.list(PATHS[kind].path(namespace))).items
            except ApiError as error:
                if error.status == 404:
                    return Collection(absent=True)
                if error.status != 403:
                    raise
                return Collection(reason=error.message)
        reason = f"only namespaces {', '.join(namespaces)}: {refusal}" if refusal else ""
        return Collection(tuple(items), reason=reason)


def _dated(reading: NodeReading, listed: float) -> NodeReading:
    """The reading with how much older the API's answer is than it: by one clock, which no bundle could tell later."""
    section = (reading.document or {}).get("consistency")
    if reading.document is None or not section:
        return reading
    since = round((time.monotonic() - listed) * 1e9) - int(section["took_ns"])
    api_age_ns = max(0, since) if listed else None
    document = {**reading.document, "consistency": {**section, "api_age_ns": api_age_ns}}
    return replace(reading, document=document)


def _kept(kind: str, listing: Listing) -> Collection:
    return Collection(tuple(trim(kind, item) for item in listing.items if item.get("metadata")))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
