"""The names of objects, from the API server or from a bundle, for completions: one request a list, names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from kubectl_netpol.cluster.api import Api
    from kubectl_netpol.cluster.connection import ConnectionFlags
    from kubectl_netpol.model.snapshot import Snapshot

Json = dict[str, Any]

REQUEST_SECONDS = 2.0
MOST = "500"
"""Objects of one list, a page of kubectl's: nobody reads more candidates."""
OBJECT = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z")
"""What the API server takes for a name; whatever else is sent is none."""
NOTES = {
    "pods": "Status",
    "nodes": "Status",
    "namespaces": "Status",
    "services": "Type",
    "networkpolicies": "Pod-Selector",
}
"""The column of `kubectl get` that tells most of an object."""


class Named(NamedTuple):
    """One object. ``metadata``: its labels and owners, where they were asked for."""

    name: str
    note: str = ""
    metadata: Json | None = None


class Names(Protocol):
    """Where names come from."""

    @property
    def namespace(self) -> str:
        """Of names without one."""
        ...

    def of(self, kind: str, namespace: str = "", *, metadata: bool = False) -> Iterable[Named]:
        """The objects of a kind, as `Snapshot` calls it; of a namespace, where it has one. Raises ``NetpolError``."""
        ...


def listed(names: Names, kind: str, namespace: str = "", *, metadata: bool = False) -> Iterator[Named]:
    """Those whose names are names."""
    return (one for one in names.of(kind, namespace, metadata=metadata) if OBJECT.match(one.name))


def workloads(names: Names, kind: str, namespace: str) -> Iterator[str]:
    """`deployment`, `daemonset`, ...: those that have pods, by the owners of the pods, as the verbs look for them."""
    for pod in listed(names, "pods", namespace, metadata=True):
        metadata = pod.metadata or {}
        labels = metadata.get("labels") or {}
        for owner in metadata.get("ownerReferences") or ():
            what, name = str(owner.get("kind", "")).lower(), str(owner.get("name", ""))
            hashed = f"-{labels.get('pod-template-hash')}"
            if not OBJECT.match(name):
                continue
            if what == kind:
                yield name
            elif kind == "deployment" and what == "replicaset" and name.endswith(hashed):
                yield name.removesuffix(hashed)


class ClusterNames:
    """By the tables that `kubectl get` prints: a row is a name and a few cells, and not the object."""

    def __init__(self, flags: ConnectionFlags) -> None:
        from kubectl_netpol.cluster.api import Api
        from kubectl_netpol.cluster.connection import connect

        self._api: Api = Api(connect(flags))

    @property
    def namespace(self) -> str:
        return self._api.namespace

    def of(self, kind: str, namespace: str = "", *, metadata: bool = False) -> Iterator[Named]:
        from kubectl_netpol.cluster.live import PATHS

        place = PATHS[kind]
        where = namespace or self.namespace if place.namespaced else ""
        if where and not OBJECT.match(where):
            return
        path = place.path(where)
        wanted = "Metadata" if metadata else "None"
        yield from _rows(self._api.table(path, limit=MOST, includeObject=wanted), NOTES.get(kind, ""))


def _rows(table: Json, column: str) -> Iterator[Named]:
    """``column``: whose cell is the note. Raises ValueError and the like for anything that is not a table."""
    columns = [str(one["name"]) for one in table["columnDefinitions"]]
    name = columns.index("Name")
    note = columns.index(column) if column in columns else None
    for row in table.get("rows") or ():
        cells, metadata = row["cells"], (row.get("object") or {}).get("metadata")
        yield Named(str(cells[name]), "" if note is None else str(cells[note]), metadata)


class BundleNames:
    """By the objects of a bundle."""

    def __init__(self, path: str, namespace: str) -> None:
        from kubectl_netpol.bundle import read_from

        with open(path, "rb") as file:
            self._snapshot: Snapshot = read_from(file, path, nodes=False)
        self._namespace = namespace

    @property
    def namespace(self) -> str:
        return self._namespace or self._snapshot.namespace

    def of(self, kind: str, namespace: str = "", *, metadata: bool = False) -> Iterator[Named]:
        for item in self._snapshot.items(kind):
            where = item["metadata"].get("namespace")
            if where is None or where == (namespace or self.namespace):
                yield Named(str(item["metadata"].get("name")), _phase(item), item["metadata"])


def _phase(item: Mapping[str, Any]) -> str:
    return str((item.get("status") or {}).get("phase") or "")
