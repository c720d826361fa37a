"""The reader against the real kernel: what it says must be what bpftool and tc say.

Maps and programs are global to a kernel, so others may come and go meanwhile: the tests look at their own
ids. Links, filters and pins live in a network and mount namespace of their own; the machine's /sys/fs/bpf is
not touched.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import ipaddress
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.node import reader, transport
from kubectl_netpol.node.document import check_document, raw_entries
from tests.lab import bpfsys
from tests.lab.netlink import TC_H_EGRESS_HOOK, TC_H_INGRESS_HOOK, Netlink
from tests.lab.require import require_lab, require_tools

CLONE_NEWNET = 0x40000000
RINGBUF = 27
POD_IP = "172.31.104.5"
IDENTIFIER = "nginx-f8d9c6576@default"


@pytest.fixture(scope="module", autouse=True)
def machine() -> None:
    require_lab()
    require_tools("bpftool", "tc", "ip", "unshare", "setpriv")


def bpftool(*words: str) -> Any:
    return json.loads(subprocess.run(["bpftool", "-j", *words], check=True, capture_output=True).stdout)


def dumped(map_id: int) -> dict[bytes, bytes]:
    """bpftool's view of a map without BTF: lists of hex texts."""
    rows = bpftool("map", "dump", "id", str(map_id))
    return {_unhex(row["key"]): _unhex(row["value"]) for row in rows}


def _unhex(words: list[str]) -> bytes:
    return bytes(int(word, 16) for word in words)


def entries_of(info: dict[str, Any], contents: dict[str, Any]) -> dict[bytes, bytes]:
    rows = list(raw_entries({**info, "contents": contents}))
    found = dict(rows)
    assert len(found) == len(rows), "no key twice"
    return found


def lpm_key(prefixlen: int, address: int) -> bytes:
    return struct.pack("<I", prefixlen) + struct.pack(">I", address)


def conntrack_key(source: int, owner: int, port: int, ifindex: int = 7) -> bytes:
    """The 24-byte IPv4 layout: source, port, destination, port, protocol, owner, ifindex."""
    return (
        struct.pack(">I", source)
        + struct.pack("<HH", port & 0xFFFF, 0)
        + struct.pack(">I", owner)
        + struct.pack("<HBB", 80, 6, 0)
        + struct.pack(">I", owner)
        + struct.pack("<I", ifindex)
    )


@pytest.fixture
def new_map() -> Iterator[Callable[..., tuple[int, dict[str, Any]]]]:
    opened: list[int] = []

    def create(*arguments: int) -> tuple[int, dict[str, Any]]:
        fd = bpfsys.map_create(*arguments)
        opened.append(fd)
        return fd, reader.map_info(fd)

    yield create
    for fd in opened:
        os.close(fd)


# ---- contents of maps


MAPS = {
    "hash": (reader.HASH, 4, 1, 8, 1, [(struct.pack("<I", n), bytes([n])) for n in range(3)]),
    "array": (reader.ARRAY, 4, 12, 5, 0, [(struct.pack("<I", n), bytes([n]) * 12) for n in range(5)]),
    "lru": (reader.LRU_HASH, 24, 16, 1024, 0, [(conntrack_key(n, 9, n), bytes([n]) * 16) for n in range(90)]),
    "lru v6": (reader.LRU_HASH, 60, 1, 1024, 0, [(os.urandom(60), b"\7") for _ in range(90)]),
    "lpm v4": (
        reader.LPM_TRIE,
        8,
        288,
        65536,
        1,
        [(lpm_key(length, (10 << 24) & (0xFFFFFFFF << (32 - length))), bytes([length]) * 288) for length in range(33)],
    ),
    "lpm v6": (
        reader.LPM_TRIE,
        20,
        384,
        65536,
        1,
        [(struct.pack("<I", 128) + ipaddress.ip_address(f"fd00::{n:x}").packed, bytes([n]) * 384) for n in range(99)],
    ),
}


@pytest.mark.parametrize("batch", [True, False], ids=["batch", "next_key"])
@pytest.mark.parametrize("kind", MAPS)
def test_contents_of_every_kind_are_those_of_bpftool(kind: str, batch: bool, new_map: Any) -> None:
    *layout, items = MAPS[kind]
    fd, info = new_map(*layout)
    for key, value in items:
        bpfsys.map_update(fd, key, value)
    contents = reader.read_contents(fd, info, None, reader.MOST_BYTES, batch=batch)
    assert (contents["complete"], contents["reason"], contents["filtered"]) == (True, "", False)
    assert contents["method"] == ("batch" if batch else "next_key")
    assert contents["count"] == contents["total"] == len(dict(items))
    assert entries_of(info, contents) == dict(items) == dumped(info["id"])


@pytest.mark.parametrize("batch", [True, False], ids=["batch", "next_key"])
@pytest.mark.parametrize("type_", [reader.HASH, reader.LRU_HASH, reader.LPM_TRIE])
def test_an_empty_map_is_complete_and_empty(type_: int, batch: bool, new_map: Any) -> None:
    fd, info = new_map(type_, 8, 8, 16, 1 if type_ == reader.LPM_TRIE else 0)
    contents = reader.read_contents(fd, info, None, reader.MOST_BYTES, batch=batch)
    assert (contents["count"], contents["complete"], contents["keys"]) == (0, True, "")


def test_a_map_type_without_batch_falls_back(new_map: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fd, info = new_map(reader.HASH, 4, 4, 8, 0)
    bpfsys.map_update(fd, b"abcd", b"efgh")
    for code in reader.UNSUPPORTED:
        monkeypatch.setattr(reader, "_lookup_batch", lambda attr, code=code: code)
        contents = reader.read_contents(fd, info, None, reader.MOST_BYTES)
        assert (contents["method"], contents["count"], contents["complete"]) == ("next_key", 1, True)


def test_a_full_lpm_trie(new_map: Any) -> None:
    """60,000 prefixes of 24 rules each: the largest map of a pod identifier. Both methods agree with
    bpftool."""
    fd, info = new_map(reader.LPM_TRIE, 8, 288, 65536, 1)
    expected = {lpm_key(32, (10 << 24) + n * 7): struct.pack("<3I", 6, n, 0) * 24 for n in range(60_000)}
    for key, value in expected.items():
        bpfsys.map_update(fd, key, value)
    started = time.perf_counter()
    by_batch = reader.read_contents(fd, info, None, reader.MOST_BYTES)
    middle = time.perf_counter()
    by_key = reader.read_contents(fd, info, None, reader.MOST_BYTES, batch=False)
    print(f"60k LPM: batch {middle - started:.3f} s, next_key {time.perf_counter() - middle:.3f} s")
    assert (by_batch["method"], by_batch["complete"]) == ("batch", True)
    assert (by_key["method"], by_key["complete"]) == ("next_key", True)
    assert entries_of(info, by_batch) == entries_of(info, by_key) == expected == dumped(info["id"])


@pytest.fixture(scope="module")
def conntrack() -> Iterator[tuple[int, dict[str, Any], dict[bytes, bytes]]]:
    """A conntrack map of the agent's size with 250,000 entries of 250 pods."""
    fd = bpfsys.map_create(reader.LRU_HASH, 24, 16, 524_288)
    try:
        pod = int(ipaddress.ip_address(POD_IP))
        expected = {conntrack_key((100 << 24) + n, pod + n % 250, n): struct.pack("<QQ", 7, n) for n in range(250_000)}
        for key, value in expected.items():
            bpfsys.map_update(fd, key, value)
        yield fd, reader.map_info(fd), expected
    finally:
        os.close(fd)


def test_a_large_conntrack_map(conntrack: Any) -> None:
    fd, info, expected = conntrack
    started = time.perf_counter()
    contents = reader.read_contents(fd, info, None, reader.MOST_BYTES)
    print(f"250k LRU, all: {time.perf_counter() - started:.3f} s")
    assert (contents["complete"], contents["count"], contents["total"]) == (True, 250_000, 250_000)
    assert entries_of(info, contents) == expected


@pytest.mark.parametrize("batch", [True, False], ids=["batch", "next_key"])
def test_the_pods_filter_of_a_large_conntrack_map(conntrack: Any, batch: bool) -> None:
    fd, info, expected = conntrack
    addresses = [ipaddress.ip_address(POD_IP).packed]
    started = time.perf_counter()
    contents = reader.read_contents(fd, info, addresses, reader.MOST_BYTES, batch=batch)
    print(f"250k LRU, pods filter, {contents['method']}: {time.perf_counter() - started:.3f} s")
    wanted = {key: value for key, value in expected.items() if addresses[0] in key}
    assert len(wanted) == 1000
    assert (contents["filtered"], contents["complete"], contents["total"]) == (True, True, 250_000)
    assert entries_of(info, contents) == wanted


def test_many_entries_in_one_bucket_grow_the_buffer(new_map: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one entry the kernel answers ENOSPC for each bucket with more; nothing may be lost."""
    fd, info = new_map(reader.HASH, 8, 8, 4096, 0)
    expected = {struct.pack("<Q", n): struct.pack("<Q", n * n) for n in range(4096)}
    for key, value in expected.items():
        bpfsys.map_update(fd, key, value)
    real_attr, real = reader._attr, reader._lookup_batch
    codes: list[int] = []

    def one_at_first(layout: str, *values: int) -> bytearray:
        if layout == "QQQQII" and values[4] == 512:
            values = (*values[:4], 1, values[5])
        return real_attr(layout, *values)

    monkeypatch.setattr(reader, "BATCH_BYTES", 1024)
    monkeypatch.setattr(reader, "_attr", lambda layout, *values: one_at_first(layout, *values))
    monkeypatch.setattr(reader, "_lookup_batch", lambda attr: codes.append(real(attr)) or codes[-1])
    contents = reader.read_contents(fd, info, None, reader.MOST_BYTES)
    assert entries_of(info, contents) == expected
    assert contents["complete"]


@pytest.mark.parametrize("type_", [reader.LPM_TRIE, reader.HASH])
@pytest.mark.parametrize("batch", [True, False], ids=["batch", "next_key"])
def test_a_map_that_changes_while_it_is_read(type_: int, batch: bool, new_map: Any) -> None:
    """Entries that stay must be there, once; a reading that cannot be sure says so."""
    fd, info = new_map(type_, 8, 8, 65536, 1)
    stable = [lpm_key(32, (10 << 24) + n) for n in range(0, 8000, 2)]
    moving = [lpm_key(32, (10 << 24) + n) for n in range(1, 8000, 2)]
    for key in stable + moving:
        bpfsys.map_update(fd, key, bytes(8))
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            key = random.choice(moving)
            bpfsys.map_delete(fd, key)
            bpfsys.map_update(fd, key, bytes(8))

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        results = [reader.read_contents(fd, info, None, reader.MOST_BYTES, batch=batch) for _ in range(3)]
    finally:
        done.set()
        thread.join()
    for contents in results:
        assert contents["complete"] == (contents["reason"] == "")
        found = entries_of(info, contents)
        assert set(found) <= {*stable, *moving}
        if contents["complete"]:
            assert set(stable) <= set(found)


def test_more_than_the_room_is_said(new_map: Any) -> None:
    fd, info = new_map(reader.HASH, 4, 1024, 8192, 1)
    for n in range(8192):
        bpfsys.map_update(fd, struct.pack("<I", n), bytes(1024))
    contents = reader.read_contents(fd, info, None, 2 << 20)
    assert (contents["complete"], contents["reason"]) == (False, "more than 2 MiB")
    assert 0 < contents["count"] < 8192


def test_the_reader_cannot_write_through_its_descriptor(new_map: Any) -> None:
    _, info = new_map(reader.HASH, 4, 4, 8, 0)
    fd = reader.open_by_id(reader.MAP_GET_FD_BY_ID, info["id"])
    try:
        with pytest.raises(OSError) as refused:
            bpfsys.map_update(fd, b"abcd", b"efgh")
        assert refused.value.errno == errno.EPERM
    finally:
        os.close(fd)


# ---- a node: namespaces, pins, links, filters


def program(*map_fds: int) -> int:
    """A SCHED_CLS program that refers to the maps and returns TC_ACT_OK."""
    code = b"".join(struct.pack("<BBhi", 0x18, 0x11, 0, fd) + struct.pack("<BBhi", 0, 0, 0, 0) for fd in map_fds)
    code += struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    return bpfsys.prog_load(code)


@dataclass
class Node:
    """Namespaces held by a sleeping process, and what was made in them."""

    pid: int
    ifindex: int
    other_ifindex: int
    maps: dict[str, int]
    programs: dict[str, int]

    def enter(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        command = ["nsenter", "-t", str(self.pid), "-m", "-n", *argv]
        return subprocess.run(command, capture_output=True, **options)

    @property
    def name(self) -> str:
        return "test"

    @property
    def namespace(self) -> str:
        return "kube-system"

    def exec(self, argv: list[str], stdin: bytes = b"", python: str = sys.executable) -> ExecResult:
        """As the debug pod would; stdin stays open after the request."""
        command = ["nsenter", "-t", str(self.pid), "-m", "-n", python, *argv[1:]]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            assert process.stdin and process.stdout and process.stderr
            process.stdin.write(stdin)
            process.stdin.flush()
            out, err = process.stdout.read(), process.stderr.read()
            return ExecResult(out, err, process.wait())

    def read(self, **request: Any) -> dict[str, Any]:
        return transport.read_node(self, {"format": 1, "pods": [], "all": False, "conntrack": "none", **request})


def in_network(pid: int, action: Callable[[], Any]) -> Any:
    """Call in a thread that has entered the network namespace; the thread ends there."""
    result: list[Any] = []

    def run() -> None:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            assert ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) == 0
            result.append(action())
        finally:
            os.close(fd)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result[0]


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    script = "mount -t bpf bpf /sys/fs/bpf && ip link set lo up && echo ready && exec sleep 900"
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "-m", "-n", "--propagation", "private"]
    with subprocess.Popen([*command, "sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == b"ready\n"
            with contextlib.ExitStack() as stack:
                yield build_node(process.pid, stack)
        finally:
            process.kill()


def build_node(pid: int, stack: contextlib.ExitStack) -> Node:
    subprocess_node = Node(pid, 0, 0, {}, {})
    for line in (
        "ip link add eni12345678901 type veth peer name far0",
        "ip link set eni12345678901 up",
        "ip link set far0 up",
        "ip link add plain0 type veth peer name plain1",
        f"ip route add {POD_IP}/32 dev eni12345678901",
        f"ip route add {POD_IP}/32 dev eni12345678901 table 7",
        "ip route add 10.99.0.0/16 dev eni12345678901 table 7",
        "ip addr add 192.0.2.1/24 dev plain0",
        "ip -6 addr add fd00:5::1/64 dev plain0 nodad",
        "ip link set plain1 up",
        "ip link set plain0 up",
        "ip route add 198.51.100.0/24 nexthop via 192.0.2.8 nexthop via 192.0.2.9",
    ):
        done = subprocess_node.enter(*line.split())
        assert done.returncode == 0, (line, done.stderr)
    socket = in_network(pid, Netlink)
    stack.callback(socket.close)
    links = socket.links()
    maps = {
        "ingress_map": bpfsys.map_create(reader.LPM_TRIE, 8, 288, 65536, 1),
        "egress_map": bpfsys.map_create(reader.LPM_TRIE, 8, 288, 65536, 1),
        "ingress_pod_state_map": bpfsys.map_create(reader.HASH, 4, 1, 2, 1),
        "conntrack": bpfsys.map_create(reader.LRU_HASH, 24, 16, 1024),
        "events": bpfsys.map_create(RINGBUF, 0, 0, 4096),
        "unpinned": bpfsys.map_create(reader.LPM_TRIE, 8, 288, 65536, 1),
        "other_pod": bpfsys.map_create(reader.LPM_TRIE, 8, 288, 65536, 1),
    }
    bpfsys.map_update(maps["ingress_map"], lpm_key(24, 10 << 24), bytes(288))
    bpfsys.map_update(maps["ingress_pod_state_map"], bytes(4), b"\0")
    bpfsys.map_update(maps["unpinned"], lpm_key(0, 0), bytes(288))
    bpfsys.map_update(maps["conntrack"], conntrack_key(1, int(ipaddress.ip_address(POD_IP)), 1), bytes(16))
    bpfsys.map_update(maps["conntrack"], conntrack_key(2, 3, 2), bytes(16))
    programs = {
        "ingress": program(maps["ingress_map"], maps["ingress_pod_state_map"], maps["conntrack"], maps["events"]),
        "egress": program(maps["unpinned"], maps["conntrack"]),
        "tcx": program(),
    }
    top = f"/proc/{pid}/root/sys/fs/bpf/globals/aws"
    Path(f"{top}/maps").mkdir(parents=True)
    Path(f"{top}/programs").mkdir()
    for name in ("ingress_map", "egress_map", "ingress_pod_state_map"):
        bpfsys.pin(maps[name], f"{top}/maps/{IDENTIFIER}_{name}")
    bpfsys.pin(maps["other_pod"], f"{top}/maps/nginx-other@default_ingress_map")
    bpfsys.pin(maps["conntrack"], f"{top}/maps/global_aws_conntrack_map")
    bpfsys.pin(maps["events"], f"{top}/maps/global_policy_events")
    bpfsys.pin(programs["ingress"], f"{top}/programs/{IDENTIFIER}_handle_ingress")
    index, other = links["eni12345678901"].index, links["plain0"].index
    socket.add_clsact(index)
    # The agent's crossing: what goes to the pod leaves the node on the egress hook of the host veth.
    socket.add_bpf_filter(index, TC_H_EGRESS_HOOK, programs["ingress"], "handle_ingress")
    socket.add_bpf_filter(index, TC_H_INGRESS_HOOK, programs["egress"], "handle_egress")
    in_network(pid, lambda: attach_tcx(other, programs["tcx"]))
    return Node(pid, index, other, maps, programs)


def attach_tcx(ifindex: int, prog_fd: int) -> None:
    """BPF_PROG_ATTACH with BPF_TCX_EGRESS: attr {u32 ifindex, u32 prog_fd, u32 type, u32 flags}."""
    reader.bpf(8, reader._attr("IIII", ifindex, prog_fd, reader.TCX_EGRESS, 0))


def map_row(document: dict[str, Any], fd: int) -> dict[str, Any]:
    identifier = bpfsys.map_info(fd).id
    return next(row for row in document["maps"] if row["id"] == identifier)


def pod(**changes: Any) -> dict[str, Any]:
    links, identifiers = ["eni12345678901", "vlan12345678901"], ["nginx-f8d9c6576-default", IDENTIFIER]
    return {
        "name": "nginx-f8d9c6576-abcde",
        "namespace": "default",
        "ips": [POD_IP],
        "links": links,
        "identifiers": identifiers,
        **changes,
    }


def test_a_pod_of_a_node(node: Node) -> None:
    document = node.read(pods=[pod()], conntrack="pods")
    assert document["errors"] == []
    assert document["bpffs"] == {"path": "/sys/fs/bpf", "reason": ""}
    row = map_row(document, node.maps["ingress_map"])
    assert dict(raw_entries(row)) == {lpm_key(24, 10 << 24): bytes(288)}
    assert map_row(document, node.maps["egress_map"])["contents"]["count"] == 0
    assert map_row(document, node.maps["ingress_pod_state_map"])["contents"]["count"] == 1
    # Attached, but no pin leads to it: only the program knows.
    assert map_row(document, node.maps["unpinned"])["contents"]["count"] == 1
    contents = map_row(document, node.maps["conntrack"])["contents"]
    assert (contents["count"], contents["total"], contents["filtered"]) == (1, 2, True)
    assert map_row(document, node.maps["other_pod"])["contents"] is None
    assert map_row(document, node.maps["events"])["contents"] is None


def test_everything_of_a_node(node: Node) -> None:
    document = node.read(all=True, conntrack="all")
    assert document["errors"] == []
    for name in ("ingress_map", "egress_map", "ingress_pod_state_map", "unpinned", "other_pod"):
        assert map_row(document, node.maps[name])["contents"]["complete"], name
    assert map_row(document, node.maps["conntrack"])["contents"]["count"] == 2
    assert map_row(document, node.maps["events"])["contents"] is None


def test_conntrack_is_left_out_unless_asked_for(node: Node) -> None:
    assert map_row(node.read(pods=[pod()]), node.maps["conntrack"])["contents"] is None


def test_a_link_is_found_by_the_route_to_the_pod(node: Node) -> None:
    document = node.read(pods=[pod(links=["other12345678901"], identifiers=[])])
    assert {row["ifindex"] for row in document["filters"]} == {node.ifindex}


def test_filters_are_those_of_tc(node: Node) -> None:
    document = node.read(pods=[pod()])
    for hook, name in (("ingress", "handle_egress"), ("egress", "handle_ingress")):
        text = node.enter("tc", "filter", "show", "dev", "eni12345678901", hook).stdout.decode()
        shown = re.search(r"pref (\d+) bpf chain (\d+) handle (0x\w+) (\S+) direct-action .*id (\d+)", text)
        assert shown, text
        (row,) = [row for row in document["filters"] if row["hook"] == hook]
        said = (row["pref"], row["chain"], hex(row["handle"]), row["name"], row["program_id"])
        assert said == (int(shown[1]), int(shown[2]), shown[3], shown[4], int(shown[5]))
        assert (row["name"], row["direct_action"], row["protocol"], row["kind"]) == (name, True, 3, "bpf")
        tag = re.search(r"tag (\w+)", text)
        assert tag and row["tag"] == tag[1]


def test_a_link_without_clsact_has_no_filters_and_no_errors(node: Node) -> None:
    document = node.read(pods=[pod(ips=[], links=["plain0"], identifiers=[])])
    assert (document["filters"], document["errors"]) == ([], [])


def test_tcx(node: Node) -> None:
    document = node.read(all=True)
    identifier = bpfsys.prog_info(node.programs["tcx"]).id
    if any("no tcx" in note for note in document["notes"]):
        pytest.skip("this kernel has no tcx")
    wanted = {"ifindex": node.other_ifindex, "hook": "egress", "program_ids": [identifier]}
    assert document["tcx"] == [wanted]


def test_links_addresses_routes_and_qdiscs_are_those_of_ip_and_tc(node: Node) -> None:
    document = node.read(pods=[pod()])
    shown = json.loads(node.enter("ip", "-j", "-d", "link").stdout)
    assert [(row["ifindex"], row["name"], row["mtu"], row["operstate"]) for row in document["links"]] == [
        (row["ifindex"], row["ifname"], row["mtu"], row["operstate"]) for row in shown
    ]
    veth = next(row for row in document["links"] if row["name"] == "eni12345678901")
    far = next(row for row in document["links"] if row["name"] == "far0")
    assert (veth["kind"], veth["peer_ifindex"]) == ("veth", far["ifindex"])
    shown = json.loads(node.enter("ip", "-j", "addr").stdout)
    addresses = {(link["ifindex"], row["local"], row["prefixlen"]) for link in shown for row in link["addr_info"]}
    assert {(row["ifindex"], row["address"], row["prefixlen"]) for row in document["addresses"]} == addresses
    pod_routes = [row for row in document["routes"] if row["destination"] == POD_IP]
    assert {(row["table"], row["ifindex"]) for row in pod_routes} == {(254, node.ifindex), (7, node.ifindex)}
    assert not any(row["destination"] == "10.99.0.0" for row in document["routes"])
    hops = [row["gateway"] for row in document["routes"] if row["destination"] == "198.51.100.0"]
    assert hops == ["192.0.2.8", "192.0.2.9"]
    (clsact,) = [row for row in document["qdiscs"] if row["kind"] == "clsact"]
    assert (clsact["ifindex"], clsact["handle"], clsact["parent"]) == (node.ifindex, 0xFFFF0000, 0xFFFFFFF1)
    assert isinstance(clsact["drops"], int)


def test_programs_and_maps_are_those_of_bpftool(node: Node) -> None:
    document = node.read()
    for fd in node.programs.values():
        shown = bpftool("prog", "show", "id", str(bpfsys.prog_info(fd).id))
        row = next(row for row in document["programs"] if row["id"] == shown["id"])
        assert (row["tag"], row["xlated_len"]) == (shown["tag"], shown["bytes_xlated"])
        assert (row["jited"], row["jited_len"]) == (shown["jited"], shown.get("bytes_jited", 0))
        assert (row["type"], row["name"], row["map_ids"]) == (3, "", shown.get("map_ids", []))
        begin = document["clock"]["begin"]
        loaded = (begin["realtime_ns"] - begin["boottime_ns"] + row["load_time_ns"]) / 1e9
        assert abs(loaded - shown["loaded_at"]) < 2
    for fd in node.maps.values():
        shown = bpftool("map", "show", "id", str(bpfsys.map_info(fd).id))
        row = map_row(document, fd)
        assert (row["key_size"], row["value_size"]) == (shown["bytes_key"], shown["bytes_value"])
        assert (row["max_entries"], row["flags"]) == (shown["max_entries"], shown["flags"])


def test_pins(node: Node) -> None:
    pins = {pin["path"]: (pin["kind"], pin["id"]) for pin in node.read()["pins"]}
    maps = {name: ("map", bpfsys.map_info(fd).id) for name, fd in node.maps.items()}
    assert pins == {
        f"maps/{IDENTIFIER}_ingress_map": maps["ingress_map"],
        f"maps/{IDENTIFIER}_egress_map": maps["egress_map"],
        f"maps/{IDENTIFIER}_ingress_pod_state_map": maps["ingress_pod_state_map"],
        "maps/nginx-other@default_ingress_map": maps["other_pod"],
        "maps/global_aws_conntrack_map": maps["conntrack"],
        "maps/global_policy_events": maps["events"],
        f"programs/{IDENTIFIER}_handle_ingress": ("prog", bpfsys.prog_info(node.programs["ingress"]).id),
    }


def test_a_bpffs_that_is_mounted_read_only_is_enough(node: Node) -> None:
    """As in the debug pod: a read-only bind mount of the host's directory."""
    length = len(transport.packed_request({"format": 1, "all": True, "conntrack": "none"}))
    remount = "mount --bind /sys/fs/bpf /sys/fs/bpf && mount -o remount,bind,ro /sys/fs/bpf && exec "
    words = [sys.executable, *transport.command("python3", length)[1:]]
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", remount + '"$@"', "sh", *words]
    packed = transport.packed_request({"format": 1, "all": True, "conntrack": "none"})
    done = node.enter(*command, input=packed)
    document = transport.parse_answer(ExecResult(done.stdout, done.stderr, done.returncode), "the node")
    assert len(document["pins"]) == 7
    assert all(pin["reason"] == "" for pin in document["pins"])
    assert map_row(document, node.maps["ingress_map"])["contents"]["count"] == 1


def test_without_rights_the_network_is_still_read(node: Node) -> None:
    """Every capability dropped: bpf(2) is refused, and nothing claims to be empty."""
    request = {"format": 1, "pods": [pod()], "all": False, "conntrack": "pods"}
    packed = transport.packed_request(request)
    words = [sys.executable, *transport.command("python3", len(packed))[1:]]
    done = node.enter("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--", *words, input=packed)
    document = transport.parse_answer(ExecResult(done.stdout, done.stderr, done.returncode), "the node")
    assert {row["name"] for row in document["links"]} >= {"eni12345678901"}
    assert len(document["filters"]) == 2
    assert (document["programs"], document["maps"]) == (None, None)
    errors = {row["what"]: row["error"] for row in document["errors"]}
    assert errors["programs"] == errors["maps"] == "EPERM: Operation not permitted"


def test_no_bpf_file_system_is_a_reason_not_an_empty_list() -> None:
    document = reader.collect({"format": 1, "pods": []}, bpffs_paths=["/proc", "/nowhere"])
    assert document["pins"] is None
    assert document["bpffs"]["path"] is None
    assert "/proc: not a bpf filesystem (type 0x9fa0)" in document["bpffs"]["reason"]
    assert "/nowhere: ENOENT" in document["bpffs"]["reason"]
    check_document(json.loads(b"".join(reader.pieces(document))))


def test_under_the_oldest_python(node: Node) -> None:
    python = oldest_python()
    if python is None:
        pytest.skip("no Python 3.9 on this machine")
    packed = transport.packed_request({"format": 1, "pods": [pod()], "all": True, "conntrack": "all"})
    result = node.exec(transport.command("python3", len(packed)), packed, python=python)
    document = transport.parse_answer(result, "the node")
    assert document["python"].startswith("3.9.")
    assert document["errors"] == []
    assert map_row(document, node.maps["conntrack"])["contents"]["count"] == 2
    ours = node.read(pods=[pod()], all=True, conntrack="all")
    for section in ("links", "routes", "filters", "tcx", "pins"):
        assert document[section] == ours[section], section


def oldest_python() -> str | None:
    """A working interpreter of 3.9: on PATH, or among those of a version manager."""
    candidates = [shutil.which("python3.9")]
    candidates += map(str, Path.home().glob(".pyenv/versions/3.9*/bin/python3"))
    for candidate in filter(None, candidates):
        said = subprocess.run([candidate, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True)
        if said.stdout.strip() == b"(3, 9)":
            return candidate
    return None


def test_nothing_is_left_open_and_nothing_is_written(node: Node, tmp_path: Path) -> None:
    """The system calls of one reading: every file is opened for reading, no bpf command writes."""
    require_tools("strace")
    log = tmp_path / "calls"
    packed = transport.packed_request({"format": 1, "pods": [pod()], "all": True, "conntrack": "all"})
    words = [sys.executable, *transport.command("python3", len(packed))[1:]]
    done = node.enter("strace", "-f", "-o", str(log), "-e", "trace=bpf,openat", *words, input=packed)
    assert done.returncode == 0, done.stderr
    calls = log.read_text()
    assert not re.search(r"O_WRONLY|O_RDWR|O_CREAT", calls)
    commands = set(re.findall(r"bpf\((\w+)", calls))
    allowed = {
        "BPF_PROG_GET_NEXT_ID",
        "BPF_MAP_GET_NEXT_ID",
        "BPF_PROG_GET_FD_BY_ID",
        "BPF_MAP_GET_FD_BY_ID",
        "BPF_OBJ_GET_INFO_BY_FD",
        "BPF_OBJ_GET",
        "BPF_PROG_QUERY",
        "BPF_MAP_LOOKUP_BATCH",
        "BPF_MAP_LOOKUP_ELEM",
        "BPF_MAP_GET_NEXT_KEY",
    }
    assert commands <= allowed


def test_descriptors_do_not_leak() -> None:
    reader.collect({"format": 1, "pods": [], "all": True, "conntrack": "all"})
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader.collect({"format": 1, "pods": [], "all": True, "conntrack": "all"})
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_answer_of_a_full_node_stays_small_and_fast(node: Node) -> None:
    """Two full LPM maps and a quarter of a million connections go through the whole protocol."""
    pod_ip = int(ipaddress.ip_address(POD_IP))
    for n in range(60_000):
        bpfsys.map_update(node.maps["egress_map"], lpm_key(32, (10 << 24) + n * 7), bytes(288))
    try:
        started = time.perf_counter()
        document = node.read(pods=[pod()], conntrack="all")
        print(f"node with a 60k LPM map, whole protocol: {time.perf_counter() - started:.2f} s")
        assert map_row(document, node.maps["egress_map"])["contents"]["count"] == 60_000
        assert base64.b64decode(map_row(document, node.maps["conntrack"])["contents"]["keys"]).count(
            struct.pack(">I", pod_ip)
        )
    finally:
        for n in range(60_000):
            bpfsys.map_delete(node.maps["egress_map"], lpm_key(32, (10 << 24) + n * 7))
