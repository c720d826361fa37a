"""Which generation of the agent's programs decides, by the maps that a program uses."""

from __future__ import annotations

import pytest

from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel.generation import ConntrackRule, Generation, generation_of
from kubectl_netpol.model.kernel import MapView

SHAPES = {
    "np": {4: (11, 8, 288), 6: (11, 20, 288)},
    "np8": {4: (11, 8, 96), 6: (11, 20, 96)},
    "cp": {4: (11, 8, 384), 6: (11, 20, 384)},
    "one state": {4: (1, 4, 1), 6: (1, 4, 1)},
    "two states": {4: (1, 4, 1), 6: (1, 4, 1)},
    "first": {4: (9, 16, 4), 6: (9, 40, 16)},
    "unaligned": {4: (9, 16, 4), 6: (9, 38, 16)},
    "owner": {4: (9, 20, 1), 6: (9, 56, 1)},
    "ifindex": {4: (9, 24, 1), 6: (9, 60, 1)},
    "last seen": {4: (9, 24, 16), 6: (9, 60, 16)},
}


def maps(family: int, *names: str) -> dict[str, MapView]:
    found = {}
    for number, name in enumerate(names, 101):
        shape = SHAPES[name][family]
        layout = layouts.layout_of(*shape)
        assert layout is not None
        entries = {"one state": 1, "two states": 2}.get(name, 65536)
        found[layout.role] = MapView(number, layout.role, layout.name, *shape, entries, family=layout.family)
    return found


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("names", "agents", "keys", "rule"),
    [
        (("np8", "unaligned"), "1.0.1 to 1.0.4", (), ConntrackRule.OWN_ADDRESS),
        (("np8", "first"), "1.0.1 to 1.0.4", (), ConntrackRule.OWN_ADDRESS),
        (("np", "owner"), "1.0.5 to 1.1.6", (), ConntrackRule.PRESENCE),
        (("np", "one state", "owner"), "1.2.0 to 1.2.7", (0,), ConntrackRule.STATE),
        (("np", "cp", "two states", "owner"), "1.3.0 to 1.3.5", (1, 0), ConntrackRule.PAIR),
        (("np", "cp", "two states", "ifindex"), "1.3.7 to 1.4.1", (1, 0), ConntrackRule.PAIR),
        (("np", "cp", "two states", "last seen"), ">= 1.4.2", (1, 0), ConntrackRule.PAIR),
    ],
)
def test_every_generation(family, names, agents, keys, rule):
    found = generation_of(maps(family, *names))
    assert isinstance(found, Generation), found
    assert (found.agents, found.state_keys, found.conntrack) == (agents, keys, rule)
    assert found.tiers is ("cp" in names)
    assert found.slots_scanned == (24 if "np8" not in names else 4 if family == 6 else 8)
    assert found.any_checks_ports == (None if "1.2.0" in agents else "cp" in names)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), "no rule map"),
        (("owner",), "no rule map"),
        (("np",), "neither a pod state map nor a conntrack map"),
        (("np", "ifindex"), "no pod state map"),
        (("np8", "owner"), "no pod state map"),
        (("np", "first"), "no pod state map"),
        (("np", "cp", "one state", "owner"), "no pod state map with two keys"),
        (("np", "cp", "owner"), "no pod state map with two keys"),
        (("np", "two states", "owner"), "no cluster policy map"),
        (("np", "one state", "ifindex"), "different generations"),
        (("np8", "one state", "owner"), "different generations"),
        (("np8", "cp", "two states", "owner"), "different generations"),
        (("np", "cp", "two states", "first"), "different generations"),
    ],
)
def test_other_combinations_are_unknown(names, says):
    found = generation_of(maps(4, *names))
    assert isinstance(found, str)
    assert says in found


def test_a_map_of_unknown_layout_makes_the_program_unknown():
    known = maps(4, "np", "cp", "two states", "ifindex")
    odd = MapView(7, "unknown", layouts.unknown_layout(9, 28, 8), 9, 28, 8, 100)
    assert "map 7, LRU_HASH of unknown layout (key 28 B, value 8 B)" in str(generation_of(known, [odd]))
    gone = MapView(8, "unknown", "not read", 0, 0, 0, 0, reason="EPERM")
    assert generation_of(known, [gone]) == "its map 8 could not be read: EPERM"
    twice = MapView(9, "np", "rules", 11, 8, 288, 65536)
    assert "two maps" in str(generation_of(known, [twice]))
