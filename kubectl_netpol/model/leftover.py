"""A debug pod that is still in the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Use(StrEnum):
    """Whether somebody may still need the pod."""

    ENDED = "ended"
    """Its container is over, by its deadline or otherwise: nobody can use it."""
    ENDING = "ending"
    """It is being deleted, or long past its deadline."""
    RUNNING = "running"
    """Of a run that may still be going. One that was killed leaves a pod that looks the same."""
    KEPT = "kept"
    """Made with --keep: later runs work in it until its deadline."""
    FOREIGN = "not ours"
    """It has the label, and not the shape of a debug pod of this tool: it is never deleted."""


@dataclass(frozen=True)
class Leftover:
    """One pod. Times in Unix seconds; None where the pod does not say."""

    namespace: str
    name: str
    uid: str
    node: str
    owner: str
    created: float | None
    ends: float | None
    use: Use


UNUSED = (Use.ENDED, Use.ENDING)
"""Nobody can work in these any more."""
