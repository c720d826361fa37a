"""The reader's pure parts: netlink parsing, the address filter, what is dumped, how failures are told."""

from __future__ import annotations

import ast
import errno
import gzip
import ipaddress
import json
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.errors import NodeError
from kubectl_netpol.node import reader
from kubectl_netpol.node.document import check_document

ATTRIBUTES = st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=60), max_size=12)


def packed(found: dict[int, bytes], flags: int = 0) -> bytes:
    return b"".join(
        struct.pack("=HH", 4 + len(value), kind | flags) + value + bytes(-len(value) % 4)
        for kind, value in found.items()
    )


# ---- netlink


@given(ATTRIBUTES, st.sampled_from([0, 0x8000, 0x4000]))
def test_attributes_come_back_as_they_were_packed(found: dict[int, bytes], flags: int) -> None:
    assert reader.attributes(packed(found, flags)) == found


@given(st.binary(max_size=300))
def test_attributes_of_garbage_are_parsed_or_refused(data: bytes) -> None:
    try:
        found = reader.attributes(data)
    except ValueError:
        return
    assert sum(4 + len(value) for value in found.values()) <= len(data)


@given(ATTRIBUTES.filter(bool), st.data())
def test_a_cut_attribute_is_refused_not_shortened(found: dict[int, bytes], data: st.DataObject) -> None:
    whole = packed(found)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    try:
        parsed = reader.attributes(cut)
    except ValueError:
        return
    assert all(found[kind] == value for kind, value in parsed.items())


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=5))
def test_messages_come_back_as_they_were_packed(wanted: list[tuple[int, bytes]]) -> None:
    data = b"".join(
        struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body + bytes(-len(body) % 4) for kind, body in wanted
    )
    assert list(reader.messages(data)) == [(kind, 2, body) for kind, body in wanted]


@given(st.binary(max_size=200))
def test_messages_of_garbage_are_parsed_or_refused(data: bytes) -> None:
    try:
        list(reader.messages(data))
    except ValueError:
        return


def route(family: int, prefixlen: int, table: int, found: dict[int, bytes], flags: int = 0) -> list[Any]:
    return list(
        reader._routes(struct.pack("=BBBBBBBBI", family, prefixlen, 0, 0, table, 3, 0, 1, flags) + packed(found))
    )


def test_a_default_route_has_a_destination() -> None:
    (row,) = route(reader.AF_INET6, 0, 254, {4: struct.pack("=I", 3)})
    assert (row["destination"], row["prefixlen"], row["ifindex"], row["gateway"]) == ("::", 0, 3, None)


def test_a_large_table_number_comes_from_the_attribute() -> None:
    (row,) = route(reader.AF_INET, 32, 252, {1: bytes(4), 15: struct.pack("=I", 10001)})
    assert row["table"] == 10001


def test_a_next_hop_of_the_other_family() -> None:
    via = struct.pack("=H", reader.AF_INET6) + ipaddress.ip_address("fe80::1").packed
    (row,) = route(reader.AF_INET, 0, 254, {18: via})
    assert row["gateway"] == "fe80::1"


def test_cached_routes_are_left_out() -> None:
    assert route(reader.AF_INET6, 128, 254, {1: bytes(16)}, reader.RTM_F_CLONED) == []


def test_only_host_routes_of_other_tables() -> None:
    row = {"family": 4, "table": 5, "destination": "10.0.0.1", "prefixlen": 32}
    assert reader._wanted_route(row, {"10.0.0.1"})
    assert not reader._wanted_route({**row, "prefixlen": 24}, {"10.0.0.1"})
    assert not reader._wanted_route(row, {"10.0.0.2"})


def test_the_header_of_a_chain_is_not_a_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel sends the classifier without options before its filters."""
    head = struct.pack("=BxxxiIII", 0, 4, 0, 0xFFFFFFF2, 1 << 16 | 0x0300) + packed({1: b"bpf\0"})
    options = packed({7: b"handle_egress\0", 11: struct.pack("=I", 77), 10: b"\x01" * 8, 8: b"\1\0\0\0"})
    row = struct.pack("=BxxxiIII", 0, 4, 1, 0xFFFFFFF2, 1 << 16 | 0x0300) + packed({1: b"bpf\0", 2: options})
    monkeypatch.setattr(reader, "netlink_dump", lambda kind, body: [head, row])
    assert reader.read_filters(4, "ingress", 0xFFFFFFF2) == [
        {
            "ifindex": 4, "hook": "ingress", "kind": "bpf", "protocol": 3, "pref": 1, "chain": 0, "handle": 1,
            "name": "handle_egress", "program_id": 77, "tag": "01" * 8, "direct_action": True,
        }
    ]  # fmt: skip


def test_a_dump_that_is_torn_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [reader.TornDumpError("torn"), [b"whole"]]

    def once(kind: int, body: bytes) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(reader, "_netlink_dump_once", once)
    assert reader.netlink_dump(18, b"") == [b"whole"]
    answers[:] = [reader.TornDumpError("torn")] * reader.DUMP_TRIES
    with pytest.raises(reader.TornDumpError, match="changed during each of 5 dumps"):
        reader.netlink_dump(18, b"")


# ---- contents


@given(
    st.integers(4, 24),
    st.lists(st.integers(0, 3), max_size=120),
    st.lists(st.sampled_from([b"\0\1\2\3", b"\0\0\0\1", b"\1\1\1\1", b"\0\0\0\0"]), max_size=3),
)
def test_the_address_filter_finds_what_a_naive_search_finds(size: int, body: list[int], addresses: list[bytes]) -> None:
    """Few byte values, so that matches overlap and lie across the ends of keys."""
    keys = bytes(body)[: len(body) // size * size]
    rows = [keys[start : start + size] for start in range(0, len(keys), size)]
    naive = [index for index, row in enumerate(rows) if any(address in row for address in addresses)]
    assert reader.matching(keys, size, addresses) == naive


def info(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "type": reader.LPM_TRIE, "key_size": 4, "value_size": 1, "max_entries": 100, **changes}


def test_a_reading_that_restarts_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[bool] = []

    def once(fd: int, info: Any, entries: Any, room: int) -> str:
        passes.append(entries.tolerant)
        entries.add(b"aaaa", b"1", 1)
        entries.add(b"bbbb", b"2", 1)
        if len(passes) == 1:
            entries.add(b"aaaa", b"3", 1)
        return ""

    monkeypatch.setattr(reader, "_batch_pass", once)
    contents = reader.read_contents(3, info(), None, 1 << 20)
    assert len(passes) == 2
    assert (contents["count"], contents["complete"]) == (2, True)


def test_a_reading_that_always_restarts_is_kept_as_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(fd: int, info: Any, entries: Any, room: int) -> str:
        for key, value in ((b"aaaa", b"1"), (b"bbbb", b"2"), (b"aaaa", b"3")):
            entries.add(key, value, 1)
        return ""

    monkeypatch.setattr(reader, "_batch_pass", once)
    contents = reader.read_contents(3, info(), None, 1 << 20)
    assert (contents["count"], contents["complete"]) == (2, False)
    assert contents["reason"] == "the map changed while it was read, in each of 4 readings"


def kernel_of(codes: list[tuple[int, int]]) -> Any:
    """A stand-in for the batch lookup: (errno, entries) per call; keys are 0, 1, 2, ..."""
    counter = iter(range(1 << 20))

    def lookup(attr: bytearray) -> int:
        code, got = codes.pop(0) if codes else (errno.ENOENT, 0)
        keys = struct.unpack_from("=Q", attr, 16)[0]
        for index in range(got):
            reader.ctypes.memmove(keys + 4 * index, struct.pack("=I", next(counter)), 4)
        if code in (0, errno.ENOENT, errno.EINTR, errno.ENOSPC):
            struct.pack_into("=I", attr, 32, got)
        return code

    return lookup


def test_what_came_before_an_interruption_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_lookup_batch", kernel_of([(errno.EINTR, 2), (errno.EINTR, 0), (0, 3)]))
    contents = reader.read_contents(3, info(), None, 1 << 20)
    assert (contents["count"], contents["complete"]) == (5, True)


def test_a_cursor_that_does_not_move_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_lookup_batch", kernel_of([(0, 2)] + [(errno.EINTR, 0)] * 1000))
    contents = reader.read_contents(3, info(), None, 1 << 20)
    assert (contents["count"], contents["complete"]) == (2, False)
    assert contents["reason"].startswith("EINTR: the cursor did not move")


def test_a_map_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_lookup_batch", kernel_of([(0, 60)] * 5000))
    contents = reader.read_contents(3, info(type=reader.HASH), None, 1 << 30)
    assert not contents["complete"]
    assert "found no end" in contents["reason"]


def test_a_bucket_that_never_fits_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_lookup_batch", kernel_of([(errno.ENOSPC, 0)] * 100))
    contents = reader.read_contents(3, info(type=reader.HASH), None, 1 << 20)
    assert (contents["count"], contents["complete"]) == (0, False)
    assert contents["reason"].startswith("ENOSPC")


def test_an_error_in_the_middle_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_lookup_batch", kernel_of([(0, 2), (errno.ENOMEM, 0)]))
    with pytest.raises(OSError, match="Cannot allocate memory"):
        reader.read_contents(3, info(), None, 1 << 20)


def test_which_maps_are_dumped() -> None:
    def row(ifindex: int, program: int | None, name: str) -> dict[str, Any]:
        return {"ifindex": ifindex, "program_id": program, "name": name}

    document = {
        "filters": [
            row(4, 10, "handle_ingress"),
            row(4, None, ""),
            row(9, 12, "handle_egress"),
            row(9, 13, "x"),
        ],
        "tcx": [{"ifindex": 4, "program_ids": [11]}],
        "programs": [{"id": number, "name": "", "map_ids": [number * 10]} for number in (10, 11, 12, 13, 14)],
        "pins": [
            {"path": "maps/a-x_ingress_map", "kind": "map", "id": 1},
            {"path": "maps/a-x_b-y_ingress_map", "kind": "map", "id": 2},
            {"path": "maps/global_aws_conntrack_map", "kind": "map", "id": 3},
            {"path": "programs/a-x_handle_ingress", "kind": "prog", "id": 14},
            {"path": "maps/a-x_unreadable_map", "kind": "unknown", "id": None},
        ],
    }
    pods = [{"identifiers": ["a-x"]}]
    assert reader.wanted_maps(document, pods, {4}, False) == {100, 110, 140, 1, 3}
    # A program of someone else on a link nobody asked for is not ours to dump.
    assert reader.wanted_maps(document, pods, {4}, True) == {100, 110, 120, 140, 1, 2, 3}


# ---- failures


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EPERM, "x"), "EPERM: Operation not permitted"),
        (OSError(524, "x"), "ENOTSUPP: not supported by this kernel"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (KeyError(), "KeyError"),
    ],
)
def test_how_an_error_is_told(error: Exception, text: str) -> None:
    assert reader.describe(error) == text


def refuse(*_: Any) -> Any:
    raise OSError(errno.EPERM, "no")


SECTIONS = {
    "read_links": ("links", "filters", "tcx"),
    "read_addresses": ("addresses",),
    "read_routes": ("routes",),
    "read_qdiscs": ("qdiscs",),
    "bpf": ("programs", "maps"),
}


@pytest.mark.parametrize("function", SECTIONS)
def test_one_failure_is_null_and_the_rest_is_there(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in SECTIONS:
        monkeypatch.setattr(reader, other, (lambda *_: []) if other != "bpf" else no_objects)
    monkeypatch.setattr(reader, function, refuse)
    document = reader.collect({"format": 1, "pods": []}, bpffs_paths=[])
    null = {name for name, value in document.items() if value is None}
    assert null == {*SECTIONS[function], "pins"}
    assert null <= {row["what"] for row in document["errors"]}
    assert check_document(json.loads(b"".join(reader.pieces(document)))) == document


def no_objects(command: int, attr: bytearray) -> int:
    raise OSError(errno.ENOENT, "none")


def test_an_unknown_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "SYSCALL_NUMBERS", {})
    document = reader.collect({"format": 1, "pods": []}, bpffs_paths=[])
    (error,) = [row["error"] for row in document["errors"] if row["what"] == "maps"]
    assert error.startswith("UnknownMachineError: bpf(2) is known here for")
    assert document["links"]


def test_addresses_that_are_none_are_noted() -> None:
    report = reader.Report()
    pods = [{"ips": ["10.0.0.1", "not one", "0.0.0.0", "2001:DB8::1"]}, {"ips": None}]
    assert set(reader.requested_addresses(pods, report)) == {"10.0.0.1", "2001:db8::1"}
    assert report.notes == ["not an address, left out: 'not one'"]


def test_another_request_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert reader.main({"format": 2}) == 3
    assert capsys.readouterr() == ("", "request format 2, this reader speaks 1\n")


def test_it_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse(Path(reader.__file__).read_text(), feature_version=(3, 9))
    modules = set()
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            modules.update(name.name for name in part.names)
        elif isinstance(part, ast.ImportFrom):
            modules.add(str(part.module))
    assert {name.split(".")[0] for name in modules} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("fields", "programs"),
    [
        ({}, []),
        ({2: b"\0"}, []),
        ({2: b"\1", 4: struct.pack("=I", 31)}, [31]),
        ({2: b"\4", 5: struct.pack("=I", 32), 6: struct.pack("=I", 31)}, [31, 32]),
        ({4: b"\0"}, []),
    ],
)
def test_xdp_programs_of_a_link(fields: dict[int, bytes], programs: list[int]) -> None:
    assert reader._xdp_programs(fields) == programs


# ---- the agent's log

LOGS = "var/log/aws-routed-eni"
NOW = 1_767_323_045


def flow_line(source: str, destination: str, verdict: str = "DENY", second: int = 0) -> str:
    msg = (
        f"Flow Info: Src IP: {source} Src Port: 4 Dest IP: {destination} Dest Port: 80 Proto TCP "
        f"Verdict {verdict} Direction egress, Tier DEFAULT"
    )
    return json.dumps({"level": "info", "ts": f"2026-01-02T03:04:{second:02d}.000Z", "msg": msg}, separators=(",", ":"))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "host" / LOGS
    folder.mkdir(parents=True)
    return folder


def write_log(folder: Path, *lines: str | bytes, name: str = reader.AGENT_LOG, mtime: int = NOW) -> Path:
    path = folder / name
    data = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    os.utime(path, (mtime, mtime))
    return path


def flow_log(folder: Path, *addresses: str, **more: Any) -> dict[str, Any]:
    root = str(folder).removesuffix("/" + LOGS)
    found = reader.read_flow_log({"addresses": addresses or ("10.0.0.1",), **more}, (root, ""))
    assert check_document({**sound_document(), "flow_log": found})["flow_log"] == found
    return found


def sound_document() -> dict[str, Any]:
    from tests.unit.builders import document

    return document()


def rotated(second: int, ending: str = "") -> str:
    return f"network-policy-agent-2026-01-02T03-04-{second:02d}.000.log{ending}"


def test_flow_lines_of_an_address_and_of_no_longer_one(logs: Path) -> None:
    mine = [flow_line("10.0.0.1", "10.0.0.9"), flow_line("10.0.0.9", "10.0.0.1", second=1)]
    other = [flow_line("10.0.0.12", "10.0.0.9"), flow_line("110.0.0.1", "10.0.0.19"), "{}", '{"msg":"10.0.0.1 DENY"}']
    write_log(logs, mine[0], *other, mine[1])
    found = flow_log(logs)
    assert (found["lines"], found["seen"], found["complete"], found["reason"]) == (mine, 4, True, "")
    assert found["files"] == [reader.AGENT_LOG]


def test_zero_octets_at_the_end_are_not_written_by_the_agent(logs: Path) -> None:
    lines = [flow_line("10.0.5", "10"), flow_line("10", "10.0.5.1"), flow_line("10.0.5.0", "1.1.1.1")]
    write_log(logs, *lines)
    assert flow_log(logs, "10.0.5.0")["lines"] == [lines[0], lines[2]]
    assert flow_log(logs, "10.0.0.0")["lines"] == lines[:2]


def test_lines_of_ipv6_and_of_older_agents(logs: Path) -> None:
    old = '{"timestamp":"x","msg":"Flow Info:  ","Src IP":"10.0.5","Src Port":1,"Dest IP":"2","Verdict":"DENY"}'
    six = flow_line("2001:DB8::1", "2001:db8::12")
    write_log(logs, old, six)
    assert flow_log(logs, "10.0.5.0")["lines"] == [old]
    assert flow_log(logs, "2001:db8::1")["lines"] == [six]
    assert flow_log(logs, "2001:db8::")["lines"] == []


def test_accepted_flows_are_asked_for(logs: Path) -> None:
    lines = [flow_line("10.0.0.1", "10.0.0.9", "ACCEPT"), flow_line("10.0.0.1", "10.0.0.9")]
    write_log(logs, *lines)
    assert flow_log(logs)["lines"] == lines[1:]
    assert flow_log(logs, all=True)["lines"] == lines


def test_the_newest_lines_are_kept_and_the_others_counted(logs: Path) -> None:
    lines = [flow_line("10.0.0.1", "10.0.0.9", second=second) for second in range(6)]
    write_log(logs, *lines[2:])
    write_log(logs, *lines[:2], name=rotated(1))
    assert flow_log(logs)["lines"] == lines
    found = flow_log(logs, most=3)
    assert (found["lines"], found["left_out"], found["complete"]) == (lines[3:], 1, False)
    assert "older ones were not read" in found["reason"]


def test_only_lines_of_the_period_and_no_older_files(logs: Path) -> None:
    lines = [flow_line("10.0.0.1", "10.0.0.9", second=second) for second in range(4)]
    write_log(logs, *lines[2:])
    write_log(logs, *lines[:2], name=rotated(1), mtime=NOW - 3600)
    since = (NOW - NOW % 60 + 3) * 10**9
    found = flow_log(logs, since_ns=since)
    assert (found["lines"], found["seen"], found["files"]) == (lines[3:], 1, [reader.AGENT_LOG])
    assert flow_log(logs, last_ns=1)["lines"] == []
    assert flow_log(logs, last_ns=1)["since_ns"] > NOW * 10**9


def test_rotations_are_read_the_newest_first(logs: Path) -> None:
    lines = [flow_line("10.0.0.1", "10.0.0.9", second=second) for second in range(3)]
    write_log(logs, lines[2])
    write_log(logs, lines[1], name=rotated(2))
    write_log(logs, "half of it", name=rotated(2, ".gz"))
    write_log(logs, lines[0], name=rotated(1, ".gz"))
    write_log(logs, lines[0], name="network-policy-agent-old.log")
    found = flow_log(logs)
    assert (found["lines"], found["complete"]) == (lines, True)
    assert found["files"] == [reader.AGENT_LOG, rotated(2), rotated(1, ".gz")]


def test_a_damaged_rotation_is_named(logs: Path) -> None:
    write_log(logs, flow_line("10.0.0.1", "10.0.0.9"))
    packed = write_log(logs, *[flow_line("10.0.0.1", str(n)) for n in range(99)], name=rotated(1, ".gz"))
    packed.write_bytes(packed.read_bytes()[:-40])
    found = flow_log(logs)
    assert len(found["lines"]) == 1
    assert not found["complete"] and rotated(1, ".gz") in found["reason"]


def test_long_and_broken_lines_are_passed_over(logs: Path) -> None:
    mine = flow_line("10.0.0.1", "10.0.0.9")
    broken = mine.encode().replace(b"egress", b"\xff\xfe")
    write_log(logs, "x" * 300_000 + mine, b"\xff" * 100, mine, broken, "", "y" * reader.LONGEST_LOG_LINE, mine)
    found = flow_log(logs)
    assert found["lines"] == [mine, broken.decode("utf-8", "replace"), mine]
    assert found["position"]["offset"] == (logs / reader.AGENT_LOG).stat().st_size


def test_the_next_reading_goes_on_where_the_last_one_ended(logs: Path) -> None:
    lines = [flow_line("10.0.0.1", "10.0.0.9", second=second) for second in range(4)]
    path = write_log(logs, lines[0])
    with path.open("a") as file:
        file.write(lines[1][:50])
    first = flow_log(logs)
    assert first["lines"] == lines[:1]
    with path.open("a") as file:
        file.write(lines[1][50:] + "\n")
    second = flow_log(logs, after=first["position"])
    assert second["lines"] == lines[1:2]
    path.rename(logs / rotated(1))
    with (logs / rotated(1)).open("a") as file:
        file.write(lines[2] + "\n")
    write_log(logs, lines[3])
    third = flow_log(logs, after=second["position"])
    assert (third["lines"], third["complete"]) == (lines[2:], True)
    assert flow_log(logs, after=third["position"])["lines"] == []
    lost = flow_log(logs, after={"inode": 1, "offset": 0})
    assert not lost["complete"] and "rotated more often" in lost["reason"]


def test_a_log_that_is_rotated_while_it_is_read_is_read_again(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [flow_line("10.0.0.1", "10.0.0.9", second=second) for second in range(2)]
    path = write_log(logs, lines[0])
    whole, times = reader._take, []

    def take(*arguments: Any, **more: Any) -> int:
        if not times:
            path.rename(logs / rotated(1))
            write_log(logs, lines[1])
        times.append(1)
        return whole(*arguments, **more)

    monkeypatch.setattr(reader, "_take", take)
    found = flow_log(logs)
    assert (found["lines"], found["complete"]) == (lines, True)


def test_where_there_is_no_log(logs: Path, tmp_path: Path) -> None:
    found = flow_log(logs)
    assert (found["lines"], found["complete"], found["path"]) == ([], False, f"{logs}/{reader.AGENT_LOG}")
    assert "does not exist" in found["reason"]
    nowhere = reader.read_flow_log({"addresses": ["10.0.0.1"]}, (str(tmp_path / "no"), str(tmp_path / "none")))
    assert nowhere["path"] is None and not nowhere["complete"]
    assert nowhere["reason"].count("ENOENT") == 2
    other = tmp_path / "host" / "opt"
    other.mkdir()
    write_log(other, flow_line("10.0.0.1", "10.0.0.9"), name="np.log")
    assert len(flow_log(logs, path="/opt/np.log")["lines"]) == 1


def test_a_log_that_may_not_be_read_is_said(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(logs, flow_line("10.0.0.1", "10.0.0.9"))

    def refused(*_: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(reader, "open", refused, raising=False)
    found = flow_log(logs)
    assert (found["complete"], found["lines"]) == (False, [])
    assert "EACCES" in found["reason"]


def agent_line(level: str, msg: str, when: int, **more: Any) -> str:
    return json.dumps({"level": level, "ts": when, "caller": "x.go:1", "msg": msg, **more}, separators=(",", ":"))


def test_what_the_agent_complains_about(logs: Path, tmp_path: Path) -> None:
    now = int(time.time())
    write_log(
        logs,
        agent_line("error", "old", now - 90_000),
        agent_line("error", "BPF map update failed", now - 50, error="no space"),
        agent_line("error", "BPF map update failed", now - 40, error="no space"),
        agent_line("info", "all is well", now - 30),
        agent_line("info", "Ingress Pod State Map update failed: x", now - 20),
        agent_line("error", "Flow Info: Src IP: 1 Verdict DENY", now - 10),
        mtime=now,
    )
    write_log(logs, agent_line("warn", "\x1b[31m", now - 5), mtime=now, name=reader.SDK_LOG)
    run = tmp_path / "host/run/aws-node"
    run.mkdir(parents=True)
    (run / "npa.sock").touch()
    found = reader.read_agent((str(tmp_path / "host"), str(tmp_path / "none")))
    assert found["errors"] == [
        {"line": "warn: \x1b[31m", "count": 1, "file": "ebpf-sdk.log"},
        {"line": "info: Ingress Pod State Map update failed: x", "count": 1, "file": "network-policy-agent.log"},
        {"line": "error: BPF map update failed (error: no space)", "count": 2, "file": "network-policy-agent.log"},
    ]
    assert (found["npa_socket"], found["format_marker"], found["reason"]) == (True, False, "")
    checked = check_document({**sound_document(), "agent": found})["agent"]
    assert checked["errors"][0]["line"] == "warn: \N{REPLACEMENT CHARACTER}[31m"


def test_an_agent_that_leaves_no_trace(tmp_path: Path) -> None:
    found = reader.read_agent((str(tmp_path),))
    assert (found["errors"], found["npa_socket"], found["format_marker"]) == ([], None, None)
    assert "ENOENT" in found["reason"] and "/var/run/aws-node was not found" in found["reason"]


def test_only_the_end_of_a_long_log_is_searched(logs: Path, tmp_path: Path) -> None:
    now = int(time.time())
    first, last = agent_line("error", "first", now), agent_line("error", "last", now)
    whole = "z" * 200 + " BPF map update failed"
    write_log(logs, first, *[whole] * (reader.TAIL_BYTES // len(whole)), last, mtime=now)
    found = reader.read_agent((str(tmp_path / "host"),))
    # Nor is the line that begins before it, of which only the rest was read.
    assert {one["line"] for one in found["errors"]} == {whole, "error: last"}


@pytest.mark.parametrize(
    ("section", "change", "field"),
    [
        ("flow_log", {"lines": ["a", 1]}, r"flow_log.lines\[1\]"),
        ("flow_log", {"lines": ["a"] * 50_001}, "flow_log.lines has 50001 lines"),
        ("flow_log", {"left_out": -1}, "flow_log.left_out"),
        ("flow_log", {"position": {"inode": 1}}, "flow_log.position.offset is missing"),
        ("flow_log", {"complete": 1}, "flow_log.complete"),
        ("agent", {"errors": [{"line": "x", "count": "1", "file": ""}]}, r"agent.errors\[0\].count"),
        ("agent", {"npa_socket": 0}, "agent.npa_socket"),
        ("agent", {"nf_conntrack_max": "x"}, "agent.nf_conntrack_max"),
    ],
)
def test_a_wrong_field_of_the_new_sections_is_named(section: str, change: dict[str, Any], field: str) -> None:
    sound = {"flow_log": reader.read_flow_log({}, ()), "agent": reader.read_agent(())}[section]
    check_document({**sound_document(), section: sound})
    with pytest.raises(NodeError, match=field):
        check_document({**sound_document(), section: {**sound, **change}})


def agent_log(folder: Path, **request: Any) -> dict[str, Any]:
    root = str(folder).removesuffix("/" + LOGS)
    found = reader.read_agent_log(request, (root, ""))
    assert check_document({**sound_document(), "agent_log": found})["agent_log"] == found
    return found


def test_the_end_of_the_agents_logs_without_flows_and_long_lines(logs: Path) -> None:
    write_log(logs, "first", '{"msg":"Flow Info: Src IP: 10.0.0.1"}', "x" * 5000, "last")
    write_log(logs, "sdk", name=reader.SDK_LOG)
    found = agent_log(logs)
    assert found == {
        "files": [
            {"file": "network-policy-agent.log", "lines": ["first", "last"], "whole": True, "left_out": 2},
            {"file": "ebpf-sdk.log", "lines": ["sdk"], "whole": True, "left_out": 0},
        ],
        "reason": "",
    }


def test_of_a_long_log_whole_lines_of_its_end(logs: Path) -> None:
    write_log(logs, *(f"line {number}" for number in range(1000)))
    (file,) = agent_log(logs, bytes=100)["files"]
    assert not file["whole"] and file["lines"][-1] == "line 999"
    assert 8 <= len(file["lines"]) <= 11 and all(line.startswith("line 99") for line in file["lines"][1:])


def test_a_log_at_another_place_and_no_log_at_all(logs: Path) -> None:
    write_log(logs, "own", name="own.log")
    assert [f["file"] for f in agent_log(logs, path=f"/{LOGS}/own.log")["files"]] == ["own.log"]
    (logs / "own.log").unlink()
    assert "holds no log of the agent" in agent_log(logs)["reason"]
    logs.rmdir()
    found = agent_log(logs)
    assert not found["files"] and "ENOENT" in found["reason"]


def test_the_sections_are_there_where_they_are_asked_for() -> None:
    assert {"flow_log", "agent"}.isdisjoint(reader.collect({}, ()))
    found = reader.collect({"log": {"addresses": []}, "agent": True}, ())
    assert {"flow_log", "agent"} <= set(found)
    broken = reader.collect({"log": {"since_ns": "x"}}, ())
    assert broken["flow_log"] is None
    assert [one["what"] for one in broken["errors"] if one["what"] == "flow_log"]
