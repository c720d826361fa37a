"""The reader on a node that changes under it: never is a torn picture taken as one that held still.

A churner on the real kernel replaces programs, maps, pins and filters, and rewrites entries, while the reader reads.
It keeps a record of every state that there was; what the reader calls steady has to be one of these.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kubectl_netpol.node import reader
from kubectl_netpol.node.document import check_document, raw_entries
from tests.lab import bpfsys
from tests.lab.netlink import TC_H_EGRESS_HOOK, TC_H_INGRESS_HOOK, Netlink
from tests.lab.require import require_lab, require_tools
from tests.lab_selftest.test_reader_kernel import IDENTIFIER, Node, in_network, lpm_key, node, pod, program

Json = dict[str, Any]
KEYS = [lpm_key(32, (10 << 24) + n * 5) for n in range(120)]
READINGS = 30
LONGEST = 60.0
"""Seconds, for readings that wait until the churner was felt."""
__all__ = ["node"]


@pytest.fixture(autouse=True)
def lab(monkeypatch: pytest.MonkeyPatch) -> None:
    require_lab()
    require_tools("bpftool", "tc", "ip", "unshare", "setpriv")
    # Readings that find no quiet moment end sooner, and so more of them are made.
    monkeypatch.setattr(reader, "PAUSES", (0.001, 0.002, 0.004))


def value(generation: int) -> bytes:
    return struct.pack("<3I", 6, generation, 0) * 24


@contextlib.contextmanager
def churning(step: Callable[[int], None]) -> Iterator[list[int]]:
    """``step`` is called with 1, 2, 3 ... by somebody else until the block is left; pauses are short and random."""
    done, chosen, steps = threading.Event(), random.Random(4), [0]
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not done.is_set():
                steps[0] += 1
                step(steps[0])
                time.sleep(chosen.choice((0, 0, 0.002, 0.01, 0.03)))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield steps
    finally:
        done.set()
        thread.join()
    assert not failures, failures


def readings(where: Node, until: Callable[[list[Json]], bool] | None = None, **request: Any) -> list[Json]:
    """The documents of many readings, from inside the node's network, beside the churner.

    ``until``: what these must have met. When the machine is busy the churner and the reader may miss each other for
    a while, so that more readings are made; not for ever.
    """
    paths = [f"/proc/{where.pid}/root/sys/fs/bpf"]
    wanted = {"format": 1, "pods": [pod()], "all": False, "conntrack": "none", **request}
    made: list[Json] = []
    end = time.monotonic() + LONGEST
    while len(made) < READINGS or (until and not until(made) and time.monotonic() < end):
        made += in_network(where.pid, lambda: [reader.collect(wanted, paths) for _ in range(10)])
    return [check_document(one) for one in made]


def disturbed(documents: list[Json]) -> bool:
    """Some had to read again, and some found a quiet moment."""
    return any(one["consistency"]["attempts"] > 1 for one in documents) and True in told(documents)


def entries(document: Json, number: int) -> dict[bytes, int]:
    [row] = [row for row in document["maps"] if row["id"] == number]
    return {key: struct.unpack_from("<I", held, 4)[0] for key, held in raw_entries(row)}


def told(documents: list[Json]) -> set[bool | None]:
    return {one["consistency"]["steady"] for one in documents}


@pytest.fixture(params=["batch", "next_key"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Key by key it takes as long as somebody needs to rewrite the map: most of these dumps are torn."""
    plain = reader._batch_pass

    def without_batch(fd: int, info: Json, entries: Any, room: int) -> str:
        if info["type"] == reader.LPM_TRIE:
            raise reader.NoBatchError
        return plain(fd, info, entries, room)

    if request.param == "next_key":
        monkeypatch.setattr(reader, "_batch_pass", without_batch)
    return str(request.param)


def test_entries_that_are_rewritten_are_never_a_mixture(node: Node, method: str) -> None:
    """Keys are rewritten in their order: at any moment those in front are of the newer generation."""
    fd = node.maps["ingress_map"]
    number = bpfsys.map_info(fd).id
    bpfsys.map_clear(fd)
    for key in KEYS:
        bpfsys.map_update(fd, key, value(0))

    def rewrite(generation: int) -> None:
        for key in KEYS:
            bpfsys.map_update(fd, key, value(generation))

    with churning(rewrite):
        documents = readings(node, disturbed)
    for document in documents:
        section = document["consistency"]
        if section["steady"]:
            found = entries(document, number)
            generations = [found[key] for key in KEYS]
            assert generations == sorted(generations, reverse=True), "one part is older than what was written before it"
            assert generations[0] - generations[-1] <= 1
        else:
            assert section["open"]["maps"] == [number] and section["attempts"] == reader.MOST_LOOKS
    assert {row["contents"]["method"] for one in documents for row in one["maps"] if row["id"] == number} == {method}
    assert any(one["consistency"]["attempts"] > 1 for one in documents), "the churn was not felt"
    assert True in told(documents), "no reading found a quiet moment"
    assert not any(one["errors"] for one in documents)


def test_entries_that_come_and_go_are_all_of_one_moment(node: Node, method: str) -> None:
    """Deleted keys make the kernel's walk begin again. Of each moment there is a contiguous run of keys."""
    fd = node.maps["egress_map"]
    number = bpfsys.map_info(fd).id
    bpfsys.map_clear(fd)
    keys = [lpm_key(32, (11 << 24) + n) for n in range(100)]
    for key in keys[:50]:
        bpfsys.map_update(fd, key, value(1))
    states = {frozenset(keys[:50])}

    held: set[bytes] = set(keys[:50])

    def recorded(number: int) -> None:
        """Every set of keys that there was, one system call after the other."""
        place = number % 100
        for key in (keys[place], keys[(place + 50) % 100]):
            if key in held:
                held.discard(key)
                states.add(frozenset(held))
                bpfsys.map_delete(fd, key)
            else:
                held.add(key)
                states.add(frozenset(held))
                bpfsys.map_update(fd, key, value(1))

    with churning(lambda number: [recorded(number * 20 + n) for n in range(20)] and None):
        documents = readings(node, disturbed)
    for document in documents:
        if document["consistency"]["steady"]:
            assert frozenset(entries(document, number)) in states
    assert {True} <= told(documents)
    assert any(one["consistency"]["attempts"] > 1 for one in documents)


# ---- one change at a time, at the worst moment


@pytest.fixture
def between(node: Node, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], Json]:
    """A reading in which something happens once after everything was read, and before the look."""

    def read(change: Callable[[], None], **request: Any) -> Json:
        pending = [change]
        look = reader.Picture.changes

        def after(picture: Any, watch: Any) -> Any:
            while pending:
                pending.pop()()
            return look(picture, watch)

        monkeypatch.setattr(reader.Picture, "changes", after)
        paths = [f"/proc/{node.pid}/root/sys/fs/bpf"]
        wanted = {"format": 1, "pods": [pod()], "all": False, "conntrack": "none", **request}
        return check_document(in_network(node.pid, lambda: reader.collect(wanted, paths)))

    return read


def run(where: Node, command: str) -> None:
    done = where.enter(*command.split())
    assert done.returncode == 0, done.stderr


def foreign(where: Node, *, present: bool) -> None:
    """A filter of somebody else's in front of the agent's one, or none any more."""
    socket, prog = in_network(where.pid, Netlink), program()
    try:
        if present:
            socket.add_bpf_filter(where.ifindex, TC_H_INGRESS_HOOK, prog, "other", pref=9)
        else:
            socket.delete_filter(where.ifindex, TC_H_INGRESS_HOOK, pref=9)
    finally:
        socket.close()
        os.close(prog)


CHANGES: dict[str, tuple[Callable[[Node], None], str]] = {
    "a value": (lambda n: bpfsys.map_update(n.maps["ingress_map"], lpm_key(8, 9 << 24), os.urandom(288)), "entries"),
    "a pod state": (
        lambda n: bpfsys.map_update(n.maps["ingress_pod_state_map"], bytes(4), os.urandom(1)),
        "entries are others",
    ),
    "mtu": (lambda n: run(n, "ip link set eni12345678901 mtu 1400"), ""),
    "another link": (lambda n: run(n, "ip link set plain0 mtu 1400"), ""),
    "a route to the pod": (lambda n: run(n, "ip route replace 172.31.104.5/32 dev plain0"), "route "),
    "the route back": (
        lambda n: run(n, "ip route replace 172.31.104.5/32 dev eni12345678901"),
        "route ",
    ),
    "a foreign filter": (lambda n: foreign(n, present=True), "filter eni12345678901 ingress: program "),
    "a filter gone": (lambda n: foreign(n, present=False), "filter eni12345678901 ingress: program "),
}


@pytest.mark.parametrize("what", CHANGES)
def test_one_change_leads_to_one_more_reading(what: str, node: Node, between: Any) -> None:
    change, text = CHANGES[what]
    section = between(lambda: change(node))["consistency"]
    assert section["steady"] is True
    if text:
        assert section["attempts"] == 2 and any(text in one for one in section["changed"]), section
    else:
        assert (section["attempts"], section["changed"]) == (1, []), "what nothing rests on was taken for a change"


def test_tcx_is_looked_at_again(node: Node, between: Any) -> None:
    made: list[int] = []

    def attach() -> None:
        prog = program()
        made.append(prog)
        made.append(bpfsys.link_create(prog, node.ifindex, reader.TCX_INGRESS))

    section = between(attach)["consistency"]
    for fd in reversed(made):
        os.close(fd)
    assert section["attempts"] == 2 and section["changed"][0].startswith("tcx eni12345678901 ingress: none -> ")


def test_large_maps_are_read_twice_where_that_is_asked_for(node: Node, between: Any, monkeypatch: Any) -> None:
    fd = node.maps["ingress_map"]
    number = bpfsys.map_info(fd).id
    for key in KEYS:
        bpfsys.map_update(fd, key, value(1))
    monkeypatch.setattr(reader, "TRACED_PER_MAP", 1000)
    change = lambda: bpfsys.map_update(fd, KEYS[3], os.urandom(288))  # noqa: E731
    section = between(change)["consistency"]
    assert (section["attempts"], section["steady"]) == (1, None) and number in section["unchecked"]
    section = between(change, thorough=True)["consistency"]
    assert (section["attempts"], section["steady"], section["unchecked"]) == (2, True, [])


def test_a_map_that_vanishes_before_it_is_read_is_no_error(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = bpfsys.map_create(reader.HASH, 4, 4, 8, 0)
    path = f"/proc/{node.pid}/root/sys/fs/bpf/globals/aws/maps/{IDENTIFIER}_gone_map"
    bpfsys.pin(fd, path)
    number = bpfsys.map_info(fd).id
    pending = [fd]
    plain = reader._collect_objects

    def listed(document: Json, report: Any) -> None:
        plain(document, report)
        while pending:
            os.unlink(path)
            os.close(pending.pop())
            # The kernel frees a map after a grace period.
            while bpfsys.map_fd_by_id(number) is not None:
                time.sleep(0.01)

    monkeypatch.setattr(reader, "_collect_objects", listed)
    wanted = {"format": 1, "pods": [pod()], "all": False, "conntrack": "none"}
    document = in_network(node.pid, lambda: reader.collect(wanted, [f"/proc/{node.pid}/root/sys/fs/bpf"]))
    assert document["errors"] == []
    section = document["consistency"]
    assert section["attempts"] == 2 and section["steady"] is True
    assert any(text.startswith(f"map {number}: gone") for text in section["changed"])
    assert number not in {row["id"] for row in document["maps"]}


# ---- last: after it the pins are others


def test_programs_maps_pins_and_filters_are_of_one_state(node: Node) -> None:
    """As an agent does that restarts: new maps, new program, pins and filter one after the other, in any order."""
    socket = in_network(node.pid, Netlink)
    top = f"/proc/{node.pid}/root/sys/fs/bpf/globals/aws"
    pins = {"map": f"{top}/maps/{IDENTIFIER}_ingress_map", "prog": f"{top}/programs/{IDENTIFIER}_handle_ingress"}
    chosen = random.Random(7)
    now: dict[str, int | None] = {}
    states: set[tuple[int | None, ...]] = set()
    kept: list[int] = []

    def record(**changes: int | None) -> None:
        now.update(changes)
        states.add(tuple(now[name] for name in ("filter", "prog", "map")))

    def pinned(kind: str, fd: int, number: int) -> None:
        # Recorded before and after: between the two system calls there is no pin.
        record(**{kind: None})
        with contextlib.suppress(FileNotFoundError):
            os.unlink(pins[kind])
        bpfsys.pin(fd, pins[kind])
        record(**{kind: number})

    def replace(step: int) -> None:
        new_map = bpfsys.map_create(reader.LPM_TRIE, 8, 288, 65536, 1)
        bpfsys.map_update(new_map, KEYS[0], value(step))
        new = program(new_map, node.maps["conntrack"])
        number, map_number = bpfsys.prog_info(new).id, bpfsys.map_info(new_map).id

        def filtered() -> None:
            record(filter=None)
            with contextlib.suppress(OSError):
                socket.delete_filter(node.ifindex, TC_H_EGRESS_HOOK)
            socket.add_bpf_filter(node.ifindex, TC_H_EGRESS_HOOK, new, "handle_ingress")
            record(filter=number)

        parts = [lambda: pinned("map", new_map, map_number), lambda: pinned("prog", new, number), filtered]
        for part in chosen.sample(parts, 3):
            part()
        for fd in kept:
            os.close(fd)
        kept[:] = [new_map, new]

    now.update(filter=0, prog=0, map=0)
    replace(0)
    states = {tuple(now[name] for name in ("filter", "prog", "map"))}
    try:
        with churning(replace):
            documents = readings(node, disturbed)
    finally:
        socket.close()
        for fd in kept:
            os.close(fd)
    steady = [one for one in documents if one["consistency"]["steady"]]
    for document in steady:
        state = seen(document)
        assert state in states, f"{state} never was: {document['consistency']}"
        # All that the answer rests on is there.
        listed = {row["id"]: row for row in document["programs"]}
        for number in (state[0], state[1]):
            if number is not None:
                maps = {row["id"]: row for row in document["maps"]}
                assert all(one in maps for one in listed[number]["map_ids"])
                assert maps[listed[number]["map_ids"][0]]["contents"]["count"] == 1
    assert steady, "no reading found a quiet moment"
    assert any(one["consistency"]["attempts"] > 1 for one in documents)
    for document in documents:
        if not document["consistency"]["steady"]:
            still = document["consistency"]["open"]
            assert still["links"] or still["pins"] or still["maps"] or still["programs"]


def seen(document: Json) -> tuple[int | None, ...]:
    """(program of the filter, program behind its pin, map behind the pin)."""
    attached = [f["program_id"] for f in document["filters"] if f["name"] == "handle_ingress"]
    by_path = {pin["path"]: pin["id"] for pin in document["pins"]}
    return (
        attached[0] if attached else None,
        by_path.get(f"programs/{IDENTIFIER}_handle_ingress"),
        by_path.get(f"maps/{IDENTIFIER}_ingress_map"),
    )
