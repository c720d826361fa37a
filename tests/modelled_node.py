"""Documents of nodes as the reader sends them, made by the model of the agent: no kernel is asked.

Every pod has its programs, filters, pins and maps as agent 1.4.2 makes them, in either IP family.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import Any

from kubectl_netpol.diagnose.expected import ExpectedMaps, expected_maps
from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel.identity import identifiers, veth_names
from kubectl_netpol.model.flow import Direction, Network
from kubectl_netpol.policy.world import World, finished, name_of, namespace_of, node_of, on_host_network, pod_ip
from tests.unit import builders

Json = dict[str, Any]

HOOKS = {Direction.INGRESS: "egress", Direction.EGRESS: "ingress"}
Pairs = list[tuple[bytes, bytes]]


@cache
def _key(prefix: Network) -> bytes:
    return builders.lpm_key(str(prefix))


@cache
def _value(slots: tuple[tuple[int, ...], ...], width: int) -> bytes:
    return b"".join(builders.u32(*slot) for slot in slots).ljust(24 * 4 * width, b"\0")


def _rules(maps: ExpectedMaps) -> Pairs:
    return [(_key(entry.prefix), _value(tuple(map(tuple, entry.slots)), 3)) for entry in maps.table.entries]


def _tiers(maps: ExpectedMaps) -> Pairs:
    found = []
    for entry in maps.tier_table.entries:
        found.append((_key(entry.prefix), _value(tuple(tuple(slot) for slot in entry.slots), 4)))
    return found


class _Node:
    """The document of one node, pod by pod."""

    def __init__(self, world: World) -> None:
        self.world = world
        first = next((a for pod in world.snapshot.items("pods") if (a := pod_ip(pod)) is not None), None)
        # Sizes of the keys: of the LPM maps, and of conntrack.
        self.lpm, conntrack = (20, 60) if first is not None and first.version == 6 else (8, 24)
        self.sections: dict[str, list[Json]] = defaultdict(list)
        self.number = 100
        self.programs: dict[tuple[str, Direction], int] = {}
        self.add_map("maps/global_aws_conntrack_map", 9, conntrack, 16, [])
        self.add_map("maps/global_policy_events", 27, 0, 0, None)

    def next(self) -> int:
        self.number += 1
        return self.number

    def add_map(self, path: str, kind: int, key: int, value: int, entries: Pairs | None) -> int:
        number = self.next()
        self.sections["maps"].append(_map(number, kind, key, value, entries))
        self.sections["pins"].append(builders.pin(path, number))
        return number

    def add(self, pod: Json) -> None:
        space, name = namespace_of(pod), name_of(pod)
        index, identifier = self.next(), next(i for i in identifiers(space, name) if "@" in i)
        self.sections["links"].append(builders.link(veth_names(space, name)[0], index))
        self.sections["routes"].append(builders.route(str(pod_ip(pod)), index))
        self.sections["qdiscs"].append(builders.clsact(index))
        for side in Direction:
            if (identifier, side) not in self.programs:
                self.programs[identifier, side] = self.add_program(identifier, side, pod)
            number = self.programs[identifier, side]
            self.sections["filters"].append(builders.tc_filter(index, HOOKS[side], f"handle_{side}", number))

    def add_program(self, identifier: str, side: Direction, pod: Json) -> int:
        maps = expected_maps(pod, side, self.world)
        default = layouts.DEFAULT_ALLOW
        states = {key: default if state is None else state for key, state in maps.states.items()}
        rules = _rules(maps) if maps.listed else []
        ids = [
            self.add_map(f"maps/{identifier}_{side}_map", 11, self.lpm, 288, rules),
            self.add_map(f"maps/{identifier}_cp_{side}_map", 11, self.lpm, 384, _tiers(maps)),
            self.add_map(
                f"maps/{identifier}_{side}_pod_state_map",
                1,
                4,
                1,
                [(builders.u32(key), bytes([state])) for key, state in states.items()],
            ),
        ]
        number = self.next()
        self.sections["programs"].append(builders.program(number, [*ids, 101, 102]))
        self.sections["pins"].append(builders.pin(f"programs/{identifier}_handle_{side}", number))
        return number

    def document(self) -> Json:
        return builders.document(**self.sections)


def _map(number: int, kind: int, key: int, value: int, entries: Pairs | None) -> Json:
    return builders.map_row(number, kind, key, value, entries)


def documents(world: World) -> Iterator[tuple[str, Json]]:
    """Each node that has pods of its own network, as the reader would find it."""
    by_node: dict[str, list[Json]] = defaultdict(list)
    for pod in world.snapshot.items("pods"):
        if node_of(pod) and not on_host_network(pod) and not finished(pod) and pod_ip(pod) is not None:
            by_node[node_of(pod)].append(pod)
    for name, pods in sorted(by_node.items()):
        node = _Node(world)
        for pod in pods:
            node.add(pod)
        yield name, node.document()
