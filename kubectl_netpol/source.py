"""Where a Snapshot comes from: one interface for the live cluster and for a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from kubectl_netpol.model.asked import FollowUp
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot

Json = dict[str, Any]


class Source(Protocol):
    """The only I/O behind a verb."""

    @property
    def namespace(self) -> str:
        """Where names without a namespace are looked up."""
        ...

    @property
    def taken_at(self) -> str:
        """RFC 3339: when the data was read."""
        ...

    @property
    def tool_version(self) -> str:
        """The version of the tool that read the data."""
        ...

    def collections(self, kinds: Sequence[str], namespaces: Sequence[str]) -> Mapping[str, Collection]:
        """API objects by kind. ``namespaces``: where to look if the whole cluster may not be listed."""
        ...

    def of_namespaces(self, kinds: Sequence[str], namespaces: Sequence[str]) -> Mapping[str, Collection]:
        """API objects of these namespaces alone."""
        ...

    def nodes(self, requests: Mapping[str, Json], follow: FollowUp | None = None) -> Mapping[str, NodeReading]:
        """Reader documents by node name; with ``follow`` also the answers of the programs that it names."""
        ...

    def each_node(self, requests: Mapping[str, Json], parallel: int) -> Iterator[tuple[str, NodeReading]]:
        """The same, one after the other as they come, at most ``parallel`` at once: for more than fit into memory."""
        ...


@runtime_checkable
class Live(Protocol):
    """A Source that can be looked at a second time, which a bundle cannot."""

    def holding(self) -> AbstractContextManager[None]:
        """While it lasts, a node is read again through the same debug pod."""
        ...

    def release(self, node: str) -> None:
        """No second look at this node."""
        ...


class SnapshotSource:
    """What has been read already, in the place of a cluster."""

    def __init__(self, snapshot: Snapshot, namespace: str = "") -> None:
        self.snapshot = snapshot
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

    def nodes(self, requests: Mapping[str, Json], follow: FollowUp | None = None) -> Mapping[str, NodeReading]:
        # What has been read has no programs to ask: the verbs refuse that before.
        found = dict(self.each_node(requests, 1))
        return {name: found[name] for name in requests}

    def each_node(self, requests: Mapping[str, Json], parallel: int) -> Iterator[tuple[str, NodeReading]]:
        for name in requests:
            yield name, self.snapshot.nodes.get(name, NodeReading(None, NOT_IN_THE_BUNDLE))


NOT_IN_THE_BUNDLE = "this node is not in the bundle"


def _within(collection: Collection, namespaces: Sequence[str]) -> Collection:
    items = tuple(item for item in collection.items if item["metadata"].get("namespace") in namespaces)
    return Collection(items, collection.reason, collection.absent)
