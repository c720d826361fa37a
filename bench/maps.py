"""Reading and decoding large maps against `bpftool map dump`."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import decoder, lab, timing
from kubectl_netpol.node import reader
from tests.lab import bpfsys
from tests.lab.node import Node

LRU_HASH, LPM_TRIE, NO_PREALLOC = 9, 11, 1
PREFIXES, CONNECTIONS, CONNTRACK_SIZE = 60_000, 250_000, 524_288
RULE_SETS = 200
ROUNDS = 9
IDENTIFIER = "bench-5d4f8c7b9@default"


@dataclass(frozen=True)
class Case:
    """A map of the agent's shape; ``pin`` is where the agent would pin it."""

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    pin: str


CASES = (
    Case(f"LPM trie, {PREFIXES} prefixes", LPM_TRIE, 8, 288, 65536, NO_PREALLOC, f"{IDENTIFIER}_ingress_map"),
    Case(f"conntrack, {CONNECTIONS} entries, value 1", LRU_HASH, 24, 1, CONNTRACK_SIZE, 0, "global_aws_conntrack_map"),
    Case(
        f"conntrack, {CONNECTIONS} entries, value 16", LRU_HASH, 24, 16, CONNTRACK_SIZE, 0, "global_aws_conntrack_map"
    ),
)


def prefixes(chosen: random.Random) -> Iterator[tuple[bytes, bytes]]:
    """Different prefixes of mixed lengths below 10.0.0.0/8. As PolicyEndpoints make them, rule sets repeat."""
    rules = [_rules(chosen) for _ in range(RULE_SETS)]
    keys: set[bytes] = set()
    while len(keys) < PREFIXES:
        length = chosen.choice([16, 20, 24, 28, 32, 32, 32, 32])
        address = (10 << 24 | chosen.getrandbits(24)) >> 32 - length << 32 - length
        keys.add(struct.pack("<I", length) + struct.pack(">I", address))
    return ((key, chosen.choice(rules)) for key in sorted(keys))


def _rules(chosen: random.Random) -> bytes:
    """1 to 24 used slots of {protocol, port, 0}."""
    used = chosen.randrange(1, 25)
    slots = [struct.pack("<3I", chosen.choice([6, 17]), chosen.randrange(1, 65536), 0) for _ in range(used)]
    return b"".join(slots).ljust(288, b"\0")


def connections(chosen: random.Random, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Flows of 110 pods; in the larger value the time of the last packet, within the last hour."""
    keys: set[bytes] = set()
    while len(keys) < CONNECTIONS:
        pod = chosen.randrange(110)
        source = bytes([172, 31, 104, pod])
        target = bytes([172, 31, chosen.randrange(96, 112), chosen.randrange(256)])
        ports = chosen.randrange(32768, 61000), chosen.choice([53, 80, 443, 8080])
        key = struct.pack("<4sH2x4sHBx4sI", source, ports[0], target, ports[1], chosen.choice([6, 17]), source, pod + 3)
        keys.add(key)
    for key in sorted(keys):
        state = chosen.randrange(2, 8)
        last_seen = 86_400_000_000_000 + chosen.randrange(3_600_000_000_000)
        yield key, bytes([state]) if value_size == 1 else struct.pack("<QQ", state, last_seen)


@contextlib.contextmanager
def filled(node: Node, case: Case) -> Iterator[int]:
    """The id of the map, pinned on the node and full."""
    chosen = random.Random(case.name)
    entries = prefixes(chosen) if case.type == LPM_TRIE else connections(chosen, case.value_size)
    pins = node.root / "sys/fs/bpf/globals/aws/maps"
    pins.mkdir(parents=True, exist_ok=True)
    fd = bpfsys.map_create(case.type, case.key_size, case.value_size, case.max_entries, case.flags)
    try:
        for key, value in entries:
            bpfsys.map_update(fd, key, value)
        bpfsys.pin(fd, str(pins / case.pin))
        yield bpfsys.map_info(fd).id
    finally:
        (pins / case.pin).unlink(missing_ok=True)
        os.close(fd)


NOTHING = {"format": 1, "pods": [], "all": False, "conntrack": "none"}
POD = "172.31.104.7"
"""One of the 110 pods whose flows the table holds."""


def floor(number: int) -> float:
    """Seconds that the kernel alone takes for the batch lookups of the whole map: the best of some readings."""
    spent = 0.0
    plain = reader._lookup_batch

    def timed(attr: bytearray) -> int:
        nonlocal spent
        begin = time.perf_counter()
        code = plain(attr)
        spent += time.perf_counter() - begin
        return code

    fd = bpfsys.map_fd_by_id(number)
    assert fd is not None
    of_map = bpfsys.map_info(fd)
    info = {name: getattr(of_map, name) for name in ("type", "key_size", "value_size", "max_entries")}
    best = float("inf")
    reader._lookup_batch = timed
    try:
        for _ in range(ROUNDS):
            spent = 0.0
            reader.read_contents(fd, info, None, reader.MOST_BYTES_PER_MAP)
            best = min(best, spent)
    finally:
        reader._lookup_batch = plain
        os.close(fd)
    return best


def main() -> None:
    """Large maps: the reader as a whole process and its answer decoded, against bpftool with output to /dev/null."""
    with lab.node() as (node, directory):
        for case in CASES:
            with filled(node, case) as number:
                bases = [
                    timing.command(" ".join(words), *lab.inside(node, *words, "id", str(number)))
                    for words in (("bpftool", "map", "dump"), ("bpftool", "-j", "map", "dump"))
                ]
                print(f" {case.name}")
                nothing = lab.reader(node, directory, "the reader, asked for nothing", NOTHING)
                timing.compare([*bases, *_ours(node, directory, case, number), nothing], bases, ROUNDS)
                print(f"  the kernel's part of reading it: {floor(number) * 1000:.0f} ms")


def _ours(node: Node, directory: Path, case: Case, number: int) -> list[timing.Command]:
    whole = {"format": 1, "pods": [{"identifiers": [IDENTIFIER]}], "all": False, "conntrack": "all"}
    of_pod = {**whole, "pods": [{"identifiers": [IDENTIFIER], "ips": [POD]}], "conntrack": "pods"}
    if case.type == LPM_TRIE:
        return [
            lab.reader(node, directory, "one flow's question", whole, lambda a: decoder.one_lookup(a, number)),
            lab.reader(node, directory, "all entries", whole, lambda a: decoder.every_entry(a, number, PREFIXES)),
        ]
    return [
        lab.reader(node, directory, "one pod's question", of_pod, lambda a: decoder.flows_of_one_pod(a, number, POD)),
        lab.reader(node, directory, "all entries", whole, lambda a: decoder.every_entry(a, number, CONNECTIONS)),
    ]
