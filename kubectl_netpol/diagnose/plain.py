"""Expected maps as plain numbers, for comparing whole maps of many pods: made once for all pods with the same slices.

Most pods of a cluster hold exactly what they should. Seeing that must not cost what saying what is wrong does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.model.flow import Address, Direction, Network
from kubectl_netpol.policy import agent
from kubectl_netpol.policy.endpoints import ACTIONS
from kubectl_netpol.policy.slices import Slices
from kubectl_netpol.policy.world import World

Json = dict[str, Any]
Contents = Mapping[tuple[int, int], frozenset[tuple[int, ...]]]
"""(address without host bits, length) -> slots, as ``LpmTable.contents`` has it."""

MOST = 8192
"""Maps that are kept: a cluster has some for each namespace and application."""
ANY = frozenset({(254, 0, 0)})


@dataclass(frozen=True)
class Plain:
    """One map without what depends on the pod's own node."""

    contents: Contents
    denied: tuple[Network, ...] = ()
    """Of cluster policies: blocks that some rule denies."""


def rules(slices: Slices, direction: Direction, family: int, world: World) -> Plain | None:
    """The rule map but for the own node's entry; None where the release of the agent makes a difference."""
    return _kept(("np", id(slices), direction, family), world, lambda: _rules(slices, direction, family))


def _rules(slices: Slices, direction: Direction, family: int) -> Plain | None:
    made = agent.program(slices, direction, None, family)
    if any(one.cut_off or one.others for one in made.values()):
        return None
    return Plain({_key(prefix): frozenset(map(tuple, one.slots)) for prefix, one in made.items()})


def tiers(cluster: Slices, direction: Direction, family: int, world: World) -> Plain | None:
    """The map of cluster policies, for pods whose node's address begins no rule."""
    return _kept(("cp", id(cluster), direction, family), world, lambda: _tiers(cluster, direction, family))


def _tiers(cluster: Slices, direction: Direction, family: int) -> Plain | None:
    made = agent.program_tiers(cluster, direction, None, family)
    if any(one.cut_off for one in made.values()):
        return None
    contents = {_key(prefix): frozenset(map(tuple, one.slots)) for prefix, one in made.items()}
    denied = tuple(prefix for prefix, one in made.items() if any(slot.action == DENY for slot in one.slots))
    return Plain(contents, denied)


DENY = ACTIONS["Deny"]


def _kept(key: tuple[Any, ...], world: World, make: Callable[[], Plain | None]) -> Plain | None:
    kept = world.plain_maps
    if key not in kept:
        while len(kept) >= MOST:
            kept.pop(next(iter(kept)))
        kept[key] = make()
    found: Plain | None = kept[key]
    return found


def _key(prefix: Network) -> tuple[int, int]:
    return int(prefix.network_address), prefix.prefixlen


def holds_rules(contents: Contents, plain: Plain, own: Address | None, family: int) -> bool:
    """Whether a map that was read is the expected one, with the own node's entry."""
    if own is None or own.version != family:
        return contents == plain.contents
    node = int(own), own.max_prefixlen
    if any(address == node[0] for address, _ in plain.contents):
        # The agent passes over rules that begin at its node's address.
        return False
    return contents == {**plain.contents, node: ANY}


def holds_tiers(contents: Contents, plain: Plain, own: Address | None) -> bool:
    """The same of cluster policies; not where one of them may deny the own node."""
    if own is not None and any(address == int(own) for address, _ in plain.contents):
        return False
    if own is not None and any(own in block for block in plain.denied):
        return False
    return contents == plain.contents
