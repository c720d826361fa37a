"""A snapshot with other names and addresses that means the same: what `capture --redact` writes."""

from __future__ import annotations

from kubectl_netpol.model.snapshot import NodeReading, Snapshot
from kubectl_netpol.redact import documents, objects
from kubectl_netpol.redact.names import Names


def renamed(snapshot: Snapshot, names: Names) -> Snapshot:
    """The whole of it. Documents have to be checked ones; those of the answer are to be checked again."""
    kept = objects.renamed(snapshot.collections, names)
    nodes = {names.name(name): reading_of(reading, names) for name, reading in snapshot.nodes.items()}
    space = names.name(snapshot.namespace)
    return Snapshot(kept, nodes, snapshot.taken_at, snapshot.tool_version, space, redacted=True)


def reading_of(reading: NodeReading, names: Names) -> NodeReading:
    """Of one node. The names of pods have to be known before: see ``Names.know_pods``."""
    document = reading.document
    return NodeReading(None if document is None else documents.document(document, names), names.text(reading.reason))
