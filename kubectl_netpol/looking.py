"""A second look at a live cluster: the API and the nodes again, a moment later, before anything is called a fault."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from kubectl_netpol.diagnose.looks import Signs, persisting
from kubectl_netpol.errors import NetpolError
from kubectl_netpol.model.snapshot import NodeReading, Snapshot
from kubectl_netpol.progress import Progress
from kubectl_netpol.source import Live, Source

Json = dict[str, Any]
T = TypeVar("T")

PAUSE_SECONDS = 1.5
"""Before the API is asked again. A controller waits up to a second for more changes, an agent writes at once."""
MOST_LOOKS = 3
"""The third one only where the second saw a difference that the first did not."""


@contextmanager
def held(origin: Source) -> Iterator[None]:
    """While it lasts, nodes are looked at again through the same debug pod."""
    if isinstance(origin, Live):
        with origin.holding():
            yield
    else:
        yield


def release(origin: Source, node: str) -> None:
    """No second look at this node."""
    if isinstance(origin, Live):
        origin.release(node)


@dataclass(frozen=True)
class Look(Generic[T]):
    """One look: the answer by it, what differs in that, and what was read."""

    answer: T
    signs: Signs
    snapshot: Snapshot

    @property
    def unread(self) -> dict[str, str]:
        """Nodes and kinds that could not be (wholly) read, and why."""
        nodes = {f"node {name}": reading.reason for name, reading in self.snapshot.nodes.items() if reading.reason}
        return nodes | {kind: one.reason for kind, one in self.snapshot.collections.items() if one.reason}


def until_settled(
    origin: Source, look: Callable[[bool], Look[T]], progress: Progress
) -> tuple[Look[T], list[tuple[Signs, int]]]:
    """The last of up to three looks, and what each of them saw, with ns from the first one to it.

    ``look`` is called with whether large maps, too, are to be read twice. Of a bundle, and where nothing differs,
    there is one look. One that fails, or that could not read what the one before read, does not count. Debug pods are
    gone when this returns: whoever reads the answer may take his time.
    """
    with held(origin):
        return _until_settled(origin, look, progress)


def _until_settled(
    origin: Source, look: Callable[[bool], Look[T]], progress: Progress
) -> tuple[Look[T], list[tuple[Signs, int]]]:
    begun = time.monotonic_ns()
    found = look(False)
    looks: list[tuple[Signs, int]] = [(found.signs, 0)]
    while isinstance(origin, Live) and len(looks) < MOST_LOOKS and _open(looks):
        progress.step("looking again: what differs may be under way")
        time.sleep(PAUSE_SECONDS)
        since = time.monotonic_ns() - begun
        try:
            later = look(True)
        except NetpolError as error:
            progress.note(f"warning: no further look: {error.message}")
            break
        lost = sorted(later.unread.keys() - found.unread.keys())
        if lost:
            progress.note(f"warning: a further look does not count: {lost[0]}: {later.unread[lost[0]]}")
            break
        found = later
        looks.append((found.signs, since))
    return found, looks


def _open(looks: list[tuple[Signs, int]]) -> bool:
    """Whether the last look saw what no look before it confirms."""
    last = looks[-1][0]
    return bool(last) if len(looks) == 1 else len(persisting(looks[-2][0], last)) < len(last)


def carrying(reading: NodeReading, texts: Sequence[str]) -> NodeReading:
    """The reading with what was in progress when it was made, so that a bundle of it says so wherever it is read."""
    section = (reading.document or {}).get("consistency")
    if reading.document is None or not section:
        return reading
    return replace(reading, document={**reading.document, "consistency": {**section, "in_progress": list(texts)}})
