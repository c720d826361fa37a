"""The stand-in for aws-eks-na-cli prints what the facts say that the real one prints."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.lab import bpfsys, na_cli
from tests.lab.agent import Agent
from tests.lab.node import Fabric, Node
from tests.lab.require import require_lab

LPM, HASH, LRU, RINGBUF = 11, 1, 9, 27
DASHES, STARS, EQUALS = "-" * 19, "*" * 31, "=" * 88


@pytest.fixture(autouse=True)
def machine() -> None:
    require_lab()


def cli(npa_gen: int, *words: object, ipv6: bool = False) -> subprocess.CompletedProcess[str]:
    command = [str(na_cli.compile_cli(npa_gen, ipv6)), "ebpf", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


@contextlib.contextmanager
def new_map(type_: int, key: int, value: int, entries: int = 64) -> Iterator[tuple[int, int]]:
    fd = bpfsys.map_create(type_, key, value, entries, 1 if type_ in (LPM, HASH) else 0)
    try:
        yield fd, bpfsys.map_info(fd).id
    finally:
        os.close(fd)


def lpm_key(text: str) -> bytes:
    address, _, length = text.partition("/")
    return struct.pack("<I", int(length)) + ip_address(address).packed


ANY_AND_TCP = struct.pack("<6I", 254, 0, 0, 6, 80, 0)


def test_rules_by_generation() -> None:
    with new_map(LPM, 8, 288) as (fd, number):
        bpfsys.map_update(fd, lpm_key("10.0.12.7/32"), ANY_AND_TCP.ljust(288, b"\0"))
        first = cli(10006, "dump-maps", number).stdout
        old = cli(10106, "dump-maps", number).stdout
        new = cli(10307, "dump-maps", number).stdout
    assert first == (
        "Key : IP/Prefixlen - 10.0.12.7/32 \nValue : \nProtocol -  254\nStartPort -  0\nEndport -  0\n"
        f"{STARS}\nDone reading all entries\n"
    )
    assert old == (
        "Key : IP/Prefixlen - 10.0.12.7/32 \n"
        f"{DASHES}\nValue Entry :  0\nProtocol -  ANY PROTOCOL\nStartPort -  0\nEndport -  0\n{DASHES}\n"
        f"{DASHES}\nValue Entry :  1\nProtocol -  TCP\nStartPort -  80\nEndport -  0\n{DASHES}\n"
        f"{STARS}\nDone reading all entries\n"
    )
    assert new == (
        "Key: 10.0.12.7/32\n"
        f"{DASHES}\nEntry 0:\nProtocol  - ANY PROTOCOL\nStartPort - 0\nEndPort   - 0\n{DASHES}\n"
        f"{DASHES}\nEntry 1:\nProtocol  - TCP\nStartPort - 80\nEndPort   - 0\n{DASHES}\n"
        f"{STARS}\nDone reading all entries\n"
    )


def test_cluster_rules_have_their_own_command() -> None:
    with new_map(LPM, 8, 384) as (fd, number):
        bpfsys.map_update(fd, lpm_key("10.0.0.0/8"), struct.pack("<4I", 17, 10001, 53, 0).ljust(384, b"\0"))
        shown = cli(10307, "dump-cp-maps", number)
        old = cli(10207, "dump-cp-maps", number)
        wrong = cli(10307, "dump-maps", number)
    assert shown.stdout == (
        "Key: 10.0.0.0/8\nKey: 10.0.0.0/8\n"
        f"{DASHES}\nEntry 0:\nProtocol  - UDP\nPriority  - 10001\nStartPort - 53\nEndPort   - 0\n{DASHES}\n"
        f"{STARS}\nDone reading all entries\n"
    )
    assert (old.stdout, old.returncode) == ("", 0), "a command that does not exist does nothing"
    assert wrong.returncode == 66 and "overrun" in wrong.stdout


def test_ipv6_addresses_as_go_writes_them() -> None:
    texts = [
        "fd00::1/128",
        "::/0",
        "2001:db8:0:1::/64",
        "fd00:0:0:5::5/128",
        "fe80::/10",
        "1:2:3:4:5:6:7:8/128",
        "::5/128",
    ]
    with new_map(LPM, 20, 288) as (fd, number):
        for text in [*texts, "::ffff:10.0.0.1/128"]:
            bpfsys.map_update(fd, lpm_key(text), ANY_AND_TCP.ljust(288, b"\0"))
        shown = cli(10402, "dump-maps", number, ipv6=True).stdout
    lines = shown.split("\n")
    assert lines[0] == f"Walking map:  (type=11, id={number})"
    keys = {line.split(" - ")[1].strip() for line in lines if line.startswith("Key")}
    assert keys == {*texts, "10.0.0.1/128"}


CONNTRACK = {10004: 16, 10106: 20, 10307: 24, 10402: 24}


@pytest.mark.parametrize("npa_gen", CONNTRACK)
def test_conntrack_by_generation(npa_gen: int) -> None:
    key = (
        ip_address("10.0.1.5").packed + struct.pack("<HH", 40312, 0) + ip_address("10.0.2.9").packed
        + struct.pack("<HBB", 80, 6, 0) + ip_address("10.0.2.9").packed + struct.pack("<I", 12)
    )[: CONNTRACK[npa_gen]]  # fmt: skip
    seen = time.monotonic_ns() - 62_300_000_000
    value = {10004: ip_address("10.0.2.9").packed, 10402: struct.pack("<QQ", 5, seen)}.get(npa_gen, b"\5")
    with new_map(LRU, len(key), len(value)) as (fd, number):
        empty = cli(npa_gen, "dump-maps", number).stdout
        bpfsys.map_update(fd, key, value)
        lines = cli(npa_gen, "dump-maps", number).stdout.split("\n")
    assert empty == "No Entries found, Empty map\n"
    wanted = "Conntrack Key : Source IP - 10.0.1.5 Source port - 40312 Dest IP - 10.0.2.9 Dest port - 80 Protocol - 6"
    wanted += " Owner IP - 10.0.2.9" if npa_gen >= 10005 else ""
    wanted += " Ifindex - 12" if npa_gen >= 10307 else ""
    assert lines[:3] == [wanted, "Value : ", f"Conntrack Val -  {10 if npa_gen == 10004 else 5}"]
    if npa_gen == 10402:
        assert re.fullmatch(rf"Last Seen \(ns\) -  {seen}  \(1m2\.\d*s ago\)", lines.pop(3))
    assert lines[3:] == [STARS, "Done reading all entries", ""]


def test_pod_states_and_empty_maps() -> None:
    with new_map(HASH, 4, 1) as (fd, number):
        assert cli(10307, "dump-maps", number).stdout == "No entries found, empty HASH map (pod_state_map?)\n"
        bpfsys.map_update(fd, struct.pack("<I", 0), b"\1")
        assert cli(10307, "dump-maps", number).stdout == (
            f"Key :  0\nState -  1\n{STARS}\nDone reading all entries in BPF_MAP_TYPE_HASH\n"
        )
        assert "Unsupported map type" in cli(10106, "dump-maps", number).stdout
        assert cli(10402, "dump-maps", number, ipv6=True).stdout == f"Walking map:  (type=1, id={number})\n"
    with new_map(LPM, 20, 288) as (_, number):
        shown = cli(10402, "dump-maps", number, ipv6=True).stdout.split("\n")
        assert shown[1] == "Failed to execute the cmd -  Unable to get First key: no such file or directory"


def test_errors_are_on_stdout_with_status_0() -> None:
    with new_map(RINGBUF, 0, 0, 4096) as (_, number):
        kinds = cli(10307, "dump-maps", number)
    gone = cli(10307, "dump-maps", 4_000_000_000 % (1 << 31))
    for done, why in (
        (kinds, "unsupported map type: 27"),
        (gone, "no such file"),
        (cli(10307, "dump-maps", 0), "Invalid"),
    ):
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Failed to execute the cmd -  ") and why in done.stdout


def test_pinned_programs(fabric: Fabric) -> None:
    node = Node("node-a", "10.0.0.10", fabric)
    agent = Agent(node, "1.4.1")
    node.add_pod("shop", "web-7d4b9c-abcde", "10.0.0.21")
    agent.pod_added("shop", "web-7d4b9c-abcde")
    na_cli.install(node, 10401)
    loaded = node.run([na_cli.PATH, "ebpf", "loaded-ebpfdata"], check=True).stdout
    handles = agent.handles("shop", "web-7d4b9c-abcde")
    blocks = loaded.split(f"{EQUALS}\n")
    block = next(b for b in blocks if "handle_ingress" in b).split("\n")
    assert block[:4] == [
        "PinPath:  /sys/fs/bpf/globals/aws/programs/web-7d4b9c@shop_handle_ingress",
        "Pod Identifier : web-7d4b9c@shop  Direction : ingress ",
        f"Prog ID:  {handles['ingress'].program_id}",
        "Associated Maps -> ",
    ]
    names = {line.removeprefix("Map Name:  ") for line in block if line.startswith("Map Name")}
    assert names == set(handles["ingress"].map_ids)
    maps = node.run([na_cli.PATH, "ebpf", "maps"], check=True).stdout
    assert maps.startswith("Maps currently loaded : \n")
    rules = handles["ingress"].map_ids["ingress_map"]
    assert f"Type : 11 ID : {rules}\nKeysize 8 Valuesize 288 MaxEntries 65536\n{EQUALS}\n" in maps
    programs = node.run([na_cli.PATH, "ebpf", "progs"], check=True).stdout
    assert f"Type : 3 ID : {handles['egress'].program_id} Associated maps count : 5\n{EQUALS}\n" in programs


def test_a_pinned_dotted_name_fails_the_whole_list(fabric: Fabric) -> None:
    node = Node("node-a", "10.0.0.10", fabric)
    agent = Agent(node, "1.4.1")
    for pod, ip in (("a.b-1", "10.0.0.21"), ("web-1", "10.0.0.22")):
        node.add_pod("x", pod, ip)
        agent.pod_added("x", pod)
    na_cli.install(node, 10401)
    loaded = node.run([na_cli.PATH, "ebpf", "loaded-ebpfdata"], check=True).stdout
    assert loaded == "Failed to execute the cmd -  failed walking the bpfdirectory failed to get err\n"


def test_no_pins_print_nothing(fabric: Fabric) -> None:
    node = Node("node-a", "10.0.0.10", fabric)
    na_cli.install(node, 10007)
    assert node.run([na_cli.PATH, "ebpf", "loaded-ebpfdata"], check=True).stdout == ""
    assert not Path("/opt/cni/bin/aws-eks-na-cli").exists(), "the machine is not touched"
