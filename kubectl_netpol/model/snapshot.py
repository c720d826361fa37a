"""All that was read, from a live cluster or from a bundle: the input of everything pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Collection:
    """The objects of one kind. ``reason`` is not empty where they could not be (all) read."""

    items: tuple[Json, ...] = ()
    reason: str = ""
    """Why the items are not known, or not all known."""
    absent: bool = False
    """The API server does not know this kind (its CRD is not installed)."""

    @property
    def known(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class NodeReading:
    """The reader's document of one node, or why there is none."""

    document: Json | None = None
    reason: str = ""
    answers: Mapping[str, Json] = field(default_factory=dict)
    """Of `--ask-kernel`, by question. Not part of a bundle: they are answers to one run's questions."""
    unasked: Mapping[str, str] = field(default_factory=dict)
    """Questions that no program was asked, with the reason."""
    message: str = ""
    """Of the error behind the reason, where it stands alone; "" where there was none. Not part of a bundle."""
    hint: str = ""


@dataclass(frozen=True)
class Snapshot:
    """API objects by collection name ("pods", "networkpolicies" ...), node documents by node name."""

    collections: Mapping[str, Collection]
    nodes: Mapping[str, NodeReading] = field(default_factory=dict)
    taken_at: str = ""
    """RFC 3339, UTC: the clock of the machine that captured."""
    tool_version: str = ""
    namespace: str = "default"
    """The namespace that names without one are looked up in."""
    redacted: bool = False
    """Names and addresses stand for others."""

    def get(self, kind: str) -> Collection:
        return self.collections.get(kind, Collection(reason=f"{kind} were not read"))

    def items(self, kind: str) -> tuple[Json, ...]:
        return self.get(kind).items
