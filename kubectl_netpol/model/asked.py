"""A question to a loaded program: one flow, put before it as a packet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.model.flow import Address, Flow
from kubectl_netpol.model.kernel import MapView


@dataclass(frozen=True)
class Asked:
    """One flow to put before one loaded program."""

    id: str
    flow: Flow
    owner: Address
    """The pod's own side."""
    ifindex: int
    """Of the pod's host veth."""
    program_id: int
    conntrack: MapView | None
    """The conntrack map of that program: what a test run inserts there is removed again."""


FollowUp = Callable[[str, dict[str, Any]], Iterable[Asked]]
"""(node, its document) -> what to ask the programs there, while the node is still at hand."""
