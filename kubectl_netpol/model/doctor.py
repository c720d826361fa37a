"""What `doctor` says: one line a topic, and what came of its debug pod."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kubectl_netpol.model.finding import Finding, Remedy

Json = dict[str, Any]


class State(StrEnum):
    """What is known of a topic."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It could not be told, and why is said."""


@dataclass(frozen=True)
class Line:
    """One topic, or one thing that is wrong with it."""

    topic: str
    state: State
    text: str
    """What was found, with the real names and values in it."""
    source: str
    """Where it was read."""
    remedies: tuple[Remedy, ...] = ()
    finding: Finding | None = None
    """The finding of `check` that says the same."""


@dataclass(frozen=True)
class Probe:
    """What came of the one debug pod that was started."""

    node: str
    image: str
    seconds: float | None = None
    """From the request until the pod ran; None: it did not."""
    kept: bool = False
    """--keep: it stays until its deadline."""
    error: str = ""
    hint: str = ""
    tried: bool = True
    """Not where it could not be told which node to take."""
    minimal: bool = False
    """--debug-profile minimal."""
    document: Json | None = None
    """The node as the reader saw it, without pods."""
