"""Every struct that the kernel side stores, chosen by the sizes that the kernel reports.

Sizes, not agent versions: an image tag says what was installed, the map says what is loaded. A pair of sizes
that is not listed is an unknown layout and is shown as raw bytes, never decoded by a guess.

All integers are little-endian (host order of every EKS node) except addresses, which are in network order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAP_TYPE_HASH = 1
MAP_TYPE_LRU_HASH = 9
MAP_TYPE_LPM_TRIE = 11
MAP_TYPE_RINGBUF = 27

MAP_TYPE_NAMES = {1: "HASH", 2: "ARRAY", 9: "LRU_HASH", 11: "LPM_TRIE", 27: "RINGBUF"}

# Slots of ingress_map and egress_map: protocol, start port, end port. 8 of them up to agent 1.0.4, then 24.
NP_SLOT = struct.Struct("<III")
# Slots of cp_ingress_map and cp_egress_map: protocol, priority word, start port, end port (agent >= 1.3.0).
CP_SLOT = struct.Struct("<IIII")
SLOTS = 24
LPM_KEY4 = struct.Struct("<I4s")
LPM_KEY6 = struct.Struct("<I16s")
POD_STATE_KEY = struct.Struct("<I")
# Conntrack keys: source, port, destination, port, protocol; then the owner (1.0.5), then the ifindex (1.3.7).
# Ports are in host order. The IPv6 key of 1.0.1 and 1.0.2 has no padding at all but one byte at its end.
CONNTRACK_KEYS = {
    16: struct.Struct("<4sH2x4sHBx"),
    20: struct.Struct("<4sH2x4sHBx4s"),
    24: struct.Struct("<4sH2x4sHBx4sI"),
    38: struct.Struct("<16sH16sHBx"),
    40: struct.Struct("<16sH2x16sHBx"),
    56: struct.Struct("<16sH2x16sHBx16s"),
    60: struct.Struct("<16sH2x16sHBx16sI"),
}
CONNTRACK_VALUE1 = struct.Struct("<B")
# Agent >= 1.4.2: state pair, and when the entry was last hit, ns of CLOCK_MONOTONIC.
CONNTRACK_VALUE16 = struct.Struct("<QQ")

assert NP_SLOT.size * SLOTS == 288
assert CP_SLOT.size * SLOTS == 384
assert (LPM_KEY4.size, LPM_KEY6.size) == (8, 20)
assert all(structure.size == size for size, structure in CONNTRACK_KEYS.items())

PROTOCOL_ANY = 254
PROTOCOL_DENY = 255
"""Marks a prefix of an `except`: the scan stops and denies."""

POLICIES_APPLIED, DEFAULT_ALLOW, DEFAULT_DENY = 0, 1, 2
STATE_NAMES = {0: "POLICIES_APPLIED", 1: "DEFAULT_ALLOW", 2: "DEFAULT_DENY"}
STATE_KEY_NAMES = {0: "NetworkPolicy", 1: "cluster policy"}

STATE_PAIRS = {
    (1, 1): 2,
    (1, 2): 3,
    (1, 0): 4,
    (0, 1): 5,
    (0, 2): 6,
    (0, 0): 7,
}
"""(NetworkPolicy state, cluster policy state) -> conntrack value, agent >= 1.3.0. Pairs with a
DEFAULT_DENY NetworkPolicy state are not in the table of the program and fall through to 7."""
STATE_PAIR_FALLTHROUGH = 7


@dataclass(frozen=True)
class Layout:
    """One known struct pair: which maps have it, and which agents write it. Sizes in bytes."""

    name: str
    role: str
    map_type: int
    key_size: int
    value_size: int
    family: int
    agents: str
    value: str = ""
    """Of a conntrack map, what its value is: see ``POD_ADDRESS``."""

    @property
    def has_ifindex(self) -> bool:
        """Conntrack keys of agents >= 1.3.7 end in the ifindex of the host veth."""
        return self.role == "conntrack" and self.key_size in (24, 60)


POD_ADDRESS, PRESENCE, STATE, STATE_AND_TIME = "pod address", "presence", "state", "state and time"
"""Values of a conntrack map: the address of the pod that the flow belongs to, compared on a hit | one byte, always 1 up
to agent 1.1.6, the state of the pod from 1.2.0 on, a pair of states from 1.3.0 on | the same, always a pair | u64 pair
of states, u64 last seen (ns of CLOCK_MONOTONIC)."""

LAYOUTS = (
    Layout("NetworkPolicy rules, 24 slots, IPv4", "np", MAP_TYPE_LPM_TRIE, 8, 288, 4, ">= 1.0.5"),
    Layout("NetworkPolicy rules, 24 slots, IPv6", "np", MAP_TYPE_LPM_TRIE, 20, 288, 6, ">= 1.0.5"),
    Layout("NetworkPolicy rules, 8 slots, IPv4", "np", MAP_TYPE_LPM_TRIE, 8, 96, 4, "1.0.1 to 1.0.4"),
    Layout("NetworkPolicy rules, 8 slots, IPv6", "np", MAP_TYPE_LPM_TRIE, 20, 96, 6, "1.0.1 to 1.0.4"),
    Layout("cluster policy rules, 24 slots, IPv4", "cp", MAP_TYPE_LPM_TRIE, 8, 384, 4, ">= 1.3.0"),
    Layout("cluster policy rules, 24 slots, IPv6", "cp", MAP_TYPE_LPM_TRIE, 20, 384, 6, ">= 1.3.0"),
    Layout("pod state", "pod_state", MAP_TYPE_HASH, 4, 1, 0, ">= 1.2.0"),
    Layout("conntrack with last seen, IPv4", "conntrack", MAP_TYPE_LRU_HASH, 24, 16, 4, ">= 1.4.2", STATE_AND_TIME),
    Layout("conntrack with last seen, IPv6", "conntrack", MAP_TYPE_LRU_HASH, 60, 16, 6, ">= 1.4.2", STATE_AND_TIME),
    Layout("conntrack with ifindex, IPv4", "conntrack", MAP_TYPE_LRU_HASH, 24, 1, 4, "1.3.7 to 1.4.1", STATE),
    Layout("conntrack with ifindex, IPv6", "conntrack", MAP_TYPE_LRU_HASH, 60, 1, 6, "1.3.7 to 1.4.1", STATE),
    Layout("conntrack with owner, IPv4", "conntrack", MAP_TYPE_LRU_HASH, 20, 1, 4, "1.0.5 to 1.3.5", PRESENCE),
    Layout("conntrack with owner, IPv6", "conntrack", MAP_TYPE_LRU_HASH, 56, 1, 6, "1.0.5 to 1.3.5", PRESENCE),
    Layout("first conntrack, IPv4", "conntrack", MAP_TYPE_LRU_HASH, 16, 4, 4, "1.0.1 to 1.0.4", POD_ADDRESS),
    Layout("first conntrack, IPv6", "conntrack", MAP_TYPE_LRU_HASH, 40, 16, 6, "1.0.4", POD_ADDRESS),
    Layout("first conntrack, unaligned, IPv6", "conntrack", MAP_TYPE_LRU_HASH, 38, 16, 6, "1.0.1, 1.0.2", POD_ADDRESS),
    Layout("policy events", "events", MAP_TYPE_RINGBUF, 0, 0, 0, "all"),
)

_BY_SHAPE = {(layout.map_type, layout.key_size, layout.value_size): layout for layout in LAYOUTS}


def layout_of(map_type: int, key_size: int, value_size: int) -> Layout | None:
    """The layout of a map with this type and these sizes (bytes), or None where it is not known."""
    return _BY_SHAPE.get((map_type, key_size, value_size))


def unknown_layout(map_type: int, key_size: int, value_size: int) -> str:
    kind = MAP_TYPE_NAMES.get(map_type, f"type {map_type}")
    return f"{kind} of unknown layout (key {key_size} B, value {value_size} B)"


def map_name(role: str, direction: str) -> str:
    """The name that the agent gives to a map of this role, as its pins end in it."""
    return {
        "np": f"{direction}_map",
        "cp": f"cp_{direction}_map",
        "pod_state": f"{direction}_pod_state_map",
        "conntrack": "aws_conntrack_map",
        "events": "policy_events",
    }.get(role, "")


def state_pair_text(value: int) -> str:
    """The pod states under which a conntrack entry was made."""
    for (np_state, cp_state), number in STATE_PAIRS.items():
        if number == value:
            text = f"{STATE_NAMES[np_state]} (cluster policies: {STATE_NAMES[cp_state]})"
            return f"{text}, or DEFAULT_DENY" if value == STATE_PAIR_FALLTHROUGH else text
    return f"unknown state pair {value}"


def state_pair(np_state: int, cp_state: int) -> int:
    """The conntrack value that a flow gets when it is allowed under these two states."""
    return STATE_PAIRS.get((np_state, cp_state), STATE_PAIR_FALLTHROUGH)
