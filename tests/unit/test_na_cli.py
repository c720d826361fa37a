"""The text of aws-eks-na-cli: the article's, that of each generation, and whatever else may come."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.kernel import decode, layouts
from kubectl_netpol.model.kernel import ConntrackEntry, Slot
from kubectl_netpol.node import na_cli, toolbox_bpf
from kubectl_netpol.node.na_cli import CliError, PinnedProgram

Json = dict[str, Any]
EQUALS, DASHES = "=" * 88, "-" * 19

# As printed in the article: the last lines of each ruler and many blanks are lost.
ARTICLE_LOADED = f"""\
PinPath: /sys/fs/bpf/globals/aws/programs/nginx-f8d9c6576-default_handle_egress
Pod Identifier : nginx-f8d9c6576-default Direction : egress
Prog ID: 433
Associated Maps ->
Map Name: egress_pod_state_map
Map ID: 96
Map Name: policy_events
Map ID: 22
Map Name: aws_conntrack_map
Map ID: 21
Map Name: egress_map
Map ID: 95
{EQUALS}
PinPath: /sys/fs/bpf/globals/aws/programs/nginx-f8d9c6576-default_handle_ingress
Pod Identifier : nginx-f8d9c6576-default Direction : ingress
Prog ID: 432
Associated Maps ->
Map Name: policy_events
Map ID: 22
Map Name: aws_conntrack_map
Map ID: 21
Map Name: ingress_map
Map ID: 93
Map Name: ingress_pod_state_map
Map ID: 94
{EQUALS}
"""
ARTICLE_DUMP = """\
Key : IP/Prefixlen - 172.31.101.218/32
-------------------
Value Entry : 0
Protocol - ANY PROTOCOL
StartPort - 0
Endport - 0
-------------------
* Key : IP/Prefixlen - 172.31.103.129/32
-------------------
Value Entry : 0
Protocol - ANY PROTOCOL
StartPort - 0
Endport - 0
-------------------
* Done reading all entries
"""


def row(type_: int, key_size: int, value_size: int, number: int = 93) -> Json:
    return {"id": number, "type": type_, "key_size": key_size, "value_size": value_size}


NP4, NP6, CP4 = row(11, 8, 288), row(11, 20, 288), row(11, 8, 384)
STATES = row(1, 4, 1)


def lpm_key(text: str) -> bytes:
    address, _, length = text.partition("/")
    return int(length).to_bytes(4, "little") + ip_address(address).packed


def np_value(*slots: tuple[int, tuple[int, int, int]], size: int = 288) -> bytes:
    words = [0] * (size // 4)
    for number, slot in slots:
        words[3 * number : 3 * number + 3] = slot
    return b"".join(word.to_bytes(4, "little") for word in words)


# ---- the article


def test_the_articles_programs() -> None:
    egress, ingress = na_cli.parse_pinned(ARTICLE_LOADED)
    assert egress == PinnedProgram(
        "programs/nginx-f8d9c6576-default_handle_egress",
        433,
        (("egress_pod_state_map", 96), ("policy_events", 22), ("aws_conntrack_map", 21), ("egress_map", 95)),
    )
    assert (ingress.program_id, ingress.identifier) == (432, "nginx-f8d9c6576-default")
    assert dict(ingress.maps)["ingress_map"] == 93


def test_the_articles_dump() -> None:
    dump = na_cli.parse_dump(ARTICLE_DUMP, NP4)
    assert dump.reason == ""
    anything = np_value((0, (254, 0, 0)))
    assert dump.entries == {lpm_key("172.31.101.218/32"): anything, lpm_key("172.31.103.129/32"): anything}


def test_pins_are_told_as_far_as_the_cli_names_them() -> None:
    rows = toolbox_bpf.pin_rows(na_cli.parse_pinned(ARTICLE_LOADED), None)
    assert {r["path"]: (r["kind"], r["id"]) for r in rows} == {
        "programs/nginx-f8d9c6576-default_handle_egress": ("prog", 433),
        "programs/nginx-f8d9c6576-default_handle_ingress": ("prog", 432),
        "maps/nginx-f8d9c6576-default_egress_pod_state_map": ("map", 96),
        "maps/nginx-f8d9c6576-default_ingress_pod_state_map": ("map", 94),
        "maps/nginx-f8d9c6576-default_egress_map": ("map", 95),
        "maps/nginx-f8d9c6576-default_ingress_map": ("map", 93),
        "maps/global_policy_events": ("map", 22),
        "maps/global_aws_conntrack_map": ("map", 21),
    }


# ---- lists


PROGS = f"Programs currently loaded : \nType : 26 ID : 6 Associated maps count : 1\n{EQUALS}\n"
MAPS = f"Maps currently loaded : \nType : 9 ID : 201\nKeysize 24 Valuesize 16 MaxEntries 524288\n{EQUALS}\n"


def test_lists() -> None:
    assert na_cli.parse_programs(PROGS) == [na_cli.LoadedProgram(6, 26, 1)]
    (found,) = na_cli.parse_maps(MAPS)
    assert (found["id"], found["type"], found["key_size"], found["value_size"]) == (201, 9, 24, 16)
    assert (found["max_entries"], found["contents"]) == (524288, None)
    assert na_cli.parse_programs("Programs currently loaded : \n") == []
    assert na_cli.parse_pinned("") == []


def test_a_file_descriptor_is_no_program_id() -> None:
    text = (
        "pinPathName:  a-x_handle_ingress\nPinPath:  /sys/fs/bpf/globals/aws/programs/a-x_handle_ingress\n"
        "Pod Identifier : a-x  Direction : ingress \nProg FD:  9\nAssociated Maps -> \nMap Name:  \nMap ID:  224\n"
        f"Map Name:  ingress_map\nMap ID:  225\n{EQUALS}\n"
    )
    (program,) = na_cli.parse_pinned(text)
    assert (program.program_id, program.maps) == (None, (("", 224), ("ingress_map", 225)))
    pins = {pin["path"]: pin for pin in toolbox_bpf.pin_rows([program], None)}
    assert pins["programs/a-x_handle_ingress"]["id"] is None
    assert "1.0.6" in pins["programs/a-x_handle_ingress"]["reason"]
    assert pins["maps/a-x_ingress_map"]["id"] == 225
    assert toolbox_bpf.program_rows([program], None, toolbox_bpf.Findings()) == []


def test_the_identifier_comes_from_the_path_where_the_cli_cuts_it() -> None:
    text = (
        "PinPath:  /sys/fs/bpf/globals/aws/programs/a_b-x_handle_egress\nPod Identifier : a  Direction : b-x \n"
        "Prog ID:  5\nAssociated Maps -> \n"
    )
    (program,) = na_cli.parse_pinned(text)
    assert program.identifier == "a_b-x"


def test_a_program_whose_maps_are_not_all_told_is_left_out() -> None:
    """Two maps without a pin have one name, the empty one, and the CLI keeps maps by name."""
    program = PinnedProgram("programs/a-x_handle_egress", 5, (("", 1), ("egress_map", 2)))
    found = toolbox_bpf.Findings()
    loaded = {5: na_cli.LoadedProgram(5, 3, 3)}
    assert toolbox_bpf.program_rows([program], loaded, found) == []
    assert found.errors == [{"what": "program 5", "error": "aws-eks-na-cli tells 2 of its 3 maps"}]
    assert [r["map_ids"] for r in toolbox_bpf.program_rows([program], None, found)] == [[1, 2]]


def test_a_map_of_two_identifiers_is_no_pin_of_either() -> None:
    """The name says that some pin holds the map, not whose."""
    a = PinnedProgram("programs/a-x_handle_egress", 5, (("egress_map", 2), ("aws_conntrack_map", 1)))
    b = PinnedProgram("programs/b-x_handle_egress", 6, (("egress_map", 2), ("aws_conntrack_map", 1)))
    listed = [a.path, b.path, "maps/a-x_egress_map", "maps/b-x_egress_map", "maps/global_aws_conntrack_map"]
    pins = {pin["path"]: pin for pin in toolbox_bpf.pin_rows([a, b], listed)}
    assert pins["maps/global_aws_conntrack_map"]["id"] == 1
    assert pins["maps/a-x_egress_map"]["id"] is pins["maps/b-x_egress_map"]["id"] is None
    assert pins["maps/a-x_egress_map"]["reason"]


def test_a_pin_that_is_not_listed_is_not_there() -> None:
    program = PinnedProgram("programs/a-x_handle_egress", 5, (("egress_map", 2),))
    assert {pin["path"] for pin in toolbox_bpf.pin_rows([program], [program.path])} == {program.path}


# ---- dumps, by shape

SHAPES: dict[str, tuple[str, Json]] = {
    "1.0.7 to 1.2.7": (
        "Key : IP/Prefixlen - 10.0.0.1/32 \n" + "-" * 19 + "\nValue Entry :  1\nProtocol -  TCP\nStartPort -  80\n"
        "Endport -  90\n" + "-" * 19 + "\n" + "*" * 31 + "\nDone reading all entries\n",
        NP4,
    ),
    ">= 1.3.0": (
        "Key: 10.0.0.1/32\n" + "-" * 19 + "\nEntry 1:\nProtocol  - TCP\nStartPort - 80\nEndPort   - 90\n"
        "" + "-" * 19 + "\n" + "*" * 31 + "\nDone reading all entries\n",
        NP4,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_lpm_shapes(shape: str) -> None:
    text, where = SHAPES[shape]
    dump = na_cli.parse_dump(text, where)
    assert (dump.reason, dump.entries) == ("", {lpm_key("10.0.0.1/32"): np_value((1, (6, 80, 90)))})


def test_the_first_slot_is_not_the_entry() -> None:
    text = (
        "Key : IP/Prefixlen - 192.168.61.236/32 \nValue : \nProtocol -  254\nStartPort -  0\nEndport -  0\n"
        + "*" * 31
        + "\nKey : IP/Prefixlen - 0.0.0.0/0 \nValue : \nProtocol -  0\nStartPort -  0\nEndport -  0\n"
        + "*" * 31
        + "\nDone reading all entries\n"
    )
    dump = na_cli.parse_dump(text, row(11, 8, 96))
    assert dump.reason == na_cli.FIRST_SLOT_ONLY
    assert dump.entries == {
        lpm_key("192.168.61.236/32"): np_value((0, (254, 0, 0)), size=96),
        lpm_key("0.0.0.0/0"): bytes(96),
    }
    contents = toolbox_bpf.contents(text, row(11, 8, 96), None)
    assert (contents["complete"], contents["first_slot_only"], contents["count"]) == (False, True, 2)


def test_cluster_policies_print_each_key_twice() -> None:
    slot = (
        "-" * 19 + "\nEntry 0:\nProtocol  - UDP\nPriority  - 10001\nStartPort - 53\nEndPort   - 0\n" + "-" * 19 + "\n"
    )
    text = f"Key: 10.0.0.0/8\nKey: 10.0.0.0/8\n{slot}{'*' * 31}\nDone reading all entries\n"
    dump = na_cli.parse_dump(text, CP4)
    (table,) = decode.lpm_entries(
        b"".join(dump.entries),
        b"".join(dump.entries.values()),
        layouts.layout_of(11, 8, 384),  # type: ignore[arg-type]
    ).entries
    assert (dump.reason, tuple(table.slots[0])) == ("", (17, 10001, 53, 0))


def test_host_bits_stay_as_they_are_stored() -> None:
    dump = na_cli.parse_dump("Key: 10.1.2.3/8\n***\nDone reading all entries\n", NP4)
    assert list(dump.entries) == [lpm_key("10.1.2.3/8")]


def test_ipv6_and_what_go_makes_of_mapped_addresses() -> None:
    text = (
        "Walking map:  (type=11, id=93)\nKey : IP/Prefixlen - fd00::1/128 \n***\n"
        "Key : IP/Prefixlen - 10.0.0.1/128 \n***\nDone reading all entries\n"
    )
    dump = na_cli.parse_dump(text, NP6)
    assert list(dump.entries) == [lpm_key("fd00::1/128"), lpm_key("::ffff:10.0.0.1/128")]


def test_pod_states() -> None:
    text = "Key :  0\nState -  1\n***\nKey :  1\nState -  0\n***\nDone reading all entries in BPF_MAP_TYPE_HASH\n"
    assert na_cli.parse_dump(text, STATES).entries == {b"\0\0\0\0": b"\1", b"\1\0\0\0": b"\0"}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("No Entries found, Empty map\n", NP4),
        ("No entries found, empty HASH map (pod_state_map?)\n", STATES),
        ("Failed to execute the cmd -  Unable to get First key: no such file or directory\n", NP6),
        ("Walking map:  (type=11, id=3)\nFailed to execute the cmd -  Unable to get First key: "
         "no such file or directory\n", NP6),
    ],
)  # fmt: skip
def test_empty_maps(text: str, where: Json) -> None:
    dump = na_cli.parse_dump(text, where)
    assert (dump.entries, dump.reason) == ({}, "")


CONNTRACK = (
    "Conntrack Key : Source IP - 10.0.1.5 Source port - 40312 Dest IP - 10.0.2.9 Dest port - 80 Protocol - 6"
    "{more}\nValue : \nConntrack Val -  5\n{seen}*******************************\nDone reading all entries\n"
)
ENTRY = ConntrackEntry(IPv4Address("10.0.1.5"), 40312, IPv4Address("10.0.2.9"), 80, 6, IPv4Address("10.0.2.9"), None, 5)


@pytest.mark.parametrize(
    ("key_size", "value_size", "more", "seen", "ifindex", "last_seen"),
    [
        (20, 1, " Owner IP - 10.0.2.9", "", None, None),
        (24, 1, " Owner IP - 10.0.2.9 Ifindex - 12", "", 12, None),
        (24, 16, " Owner IP - 10.0.2.9 Ifindex - 12", "Last Seen (ns) -  8123456789  (1m2.3s ago)\n", 12, 8123456789),
        (24, 16, " Owner IP - 10.0.2.9 Ifindex - 12", "Last Seen (ns) -  0  (never)\n", 12, 0),
    ],
)  # fmt: skip
def test_conntrack(
    key_size: int, value_size: int, more: str, seen: str, ifindex: int | None, last_seen: int | None
) -> None:
    where = row(9, key_size, value_size)
    dump = na_cli.parse_dump(CONNTRACK.format(more=more, seen=seen), where)
    layout = layouts.layout_of(9, key_size, value_size)
    assert layout is not None
    (entry,) = decode.conntrack_entries(b"".join(dump.entries), b"".join(dump.entries.values()), layout)
    assert entry == ENTRY._replace(ifindex=ifindex, last_seen=last_seen)


@pytest.mark.parametrize(
    ("where", "more", "seen"),
    [
        (row(9, 24, 1), " Owner IP - 10.0.2.9", ""),
        (row(9, 20, 1), " Owner IP - 10.0.2.9 Ifindex - 12", ""),
        (row(9, 20, 1), "", ""),
        (row(9, 24, 16), " Owner IP - 10.0.2.9 Ifindex - 12", ""),
        (row(9, 24, 1), " Owner IP - 10.0.2.9 Ifindex - 12", "Last Seen (ns) -  0  (never)\n"),
    ],
)
def test_a_cli_of_another_version_than_the_map_is_not_believed(where: Json, more: str, seen: str) -> None:
    with pytest.raises(CliError):
        na_cli.parse_dump(CONNTRACK.format(more=more, seen=seen), where)


def test_contents_are_filtered_as_the_reader_filters() -> None:
    text = CONNTRACK.format(more=" Owner IP - 10.0.2.9", seen="")
    ours = [IPv4Address("10.0.1.5").packed]
    kept = toolbox_bpf.contents(text, row(9, 20, 1), ours)
    assert (kept["count"], kept["total"], kept["filtered"], kept["values"]) == (
        1,
        1,
        True,
        base64.b64encode(b"\5").decode(),
    )
    dropped = toolbox_bpf.contents(text, row(9, 20, 1), [IPv4Address("10.9.9.9").packed])
    assert (dropped["count"], dropped["total"], dropped["keys"]) == (0, 1, "")


# ---- the right dumper


@pytest.mark.parametrize(
    ("where", "command"),
    [(NP4, "dump-maps"), (NP6, "dump-maps"), (row(11, 8, 96), "dump-maps"), (CP4, "dump-cp-maps"),
     (STATES, "dump-maps"), (row(9, 24, 16), "dump-maps"), (row(9, 20, 1), "dump-maps")],
)  # fmt: skip
def test_the_size_chooses_the_dumper(where: Json, command: str) -> None:
    assert na_cli.dump_command(where) == command


@pytest.mark.parametrize(
    ("where", "why"),
    [(row(27, 0, 0), "unknown layout"), (row(11, 20, 384), "IPv6"), (row(9, 16, 4), "one octet"),
     (row(9, 40, 16), "one octet"), (row(9, 38, 16), "one octet"), (row(1, 4, 8), "unknown layout")],
)  # fmt: skip
def test_what_no_dumper_prints_right(where: Json, why: str) -> None:
    with pytest.raises(CliError, match=why):
        na_cli.dump_command(where)
    with pytest.raises(CliError, match=why):
        na_cli.parse_dump("No Entries found, Empty map\n", where)


# ---- errors


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("", NP4, "no such command"),
        ("Walking map:  (type=1, id=3)\n", STATES, "does not show"),
        ("Failed to execute the cmd -  failed to get map FD: no such file or directory\n", NP4, "map FD"),
        (
            "Failed to execute the cmd -  Unable to get First key: unable to get FD: no such file or directory\n",
            NP6,
            "FD",
        ),
        ("Failed to execute the cmd -  unsupported map type: 27 (expected LPM_TRIE)\n", STATES, "unsupported"),
        ("Error: unknown command\n", NP4, "unknown command"),
        ("Key: 10.0.0.1/32\nEntry 0:\nProtocol  - UNKNOWN\nStartPort - 0\nEndPort   - 0\n", NP4, "cannot be told"),
        ("Key: 10.0.0.1/32\nEntry 24:\nProtocol  - TCP\nStartPort - 0\nEndPort   - 0\n", NP4, "beyond"),
        (
            "Key: 10.0.0.1/32\nEntry 0:\nProtocol  - TCP\nStartPort - 0\nDone reading all entries\n",
            NP4,
            "lacks endport",
        ),
        ("Key: 10.0.0.1/32\nEntry 0:\nProtocol  - TCP\nPriority  - 1\n", NP4, "not a line"),
        ("Key: 10.0.0.1/33\n", NP4, "prefix length"),
        ("Key: 10.0.0.1/99999999999999999999999\n", NP4, "not a number"),
        ("Key: fd00::1/32\n", NP4, "fd00::1"),
        ("Entry 0:\n", NP4, "not a line"),
        ("Something new - 5\n", NP4, "not a line"),
        ("Key :  0\nDone reading all entries in BPF_MAP_TYPE_HASH\n", STATES, "no state"),
        ("Key :  0\nState -  256\n", STATES, "8 bits"),
    ],
)
def test_clean_errors(text: str, where: Json, why: str) -> None:
    with pytest.raises(CliError, match=why):
        na_cli.parse_dump(text, where)


@pytest.mark.parametrize(
    "parse", [na_cli.parse_programs, na_cli.parse_maps, na_cli.parse_pinned], ids=["progs", "maps", "loaded"]
)
def test_the_clis_own_errors_are_found_on_stdout(parse: Callable[[str], Any]) -> None:
    with pytest.raises(CliError, match="failed to get err"):
        parse("Failed to execute the cmd -  failed walking the bpfdirectory failed to get err\n")
    with pytest.raises(CliError, match="not a line"):
        parse("something else\n")


def test_nothing_is_no_list() -> None:
    for parse in (na_cli.parse_programs, na_cli.parse_maps):
        with pytest.raises(CliError, match="printed no list"):
            parse("")
    with pytest.raises(CliError, match="sizes"):
        na_cli.parse_maps("Maps currently loaded : \nType : 9 ID : 201\n")
    with pytest.raises(CliError, match="cut"):
        na_cli.parse_pinned("PinPath:  /sys/fs/bpf/globals/aws/programs/a-x_handle_egress\n")
    with pytest.raises(CliError, match="not below"):
        na_cli.parse_pinned("PinPath:  /sys/fs/bpf/x\nProg ID:  5\n")


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("Failed to get next entry Done searching\n", "next entry"),
        ("Failed to execute the cmd -  Unable to get map entry: operation not permitted\n", "not permitted"),
        ("error reading NetworkPolicy entry: unable to get map entry: invalid argument\nDone reading all entries\n",
         "invalid argument"),
        ("Key: 10.0.0.1/32\n***\nDone reading all entries\n", "changed"),
        ("", "without its last line"),
    ],
)  # fmt: skip
def test_half_a_dump_says_so(end: str, why: str) -> None:
    dump = na_cli.parse_dump(f"Key: 10.0.0.1/32\n***\nKey: 10.0.0.2/32\n***\n{end}", NP4)
    assert why in dump.reason
    assert len(dump.entries) == 2


def test_an_entry_that_went_meanwhile_is_no_entry() -> None:
    gone = "error reading NetworkPolicy entry: unable to get map entry: no such file or directory\n"
    dump = na_cli.parse_dump(f"Key: 10.0.0.1/32\n***\n{gone}Done reading all entries\n", NP4)
    assert (dump.reason, len(dump.entries)) == ("", 1)


# ---- any text, and printer against parser

LINES = st.sampled_from(
    [line for text in (ARTICLE_LOADED, ARTICLE_DUMP, PROGS, MAPS, CONNTRACK) for line in text.split("\n")]
    + [
        "Entry 3:",
        "Value :",
        "Last Seen (ns) - 5",
        "Key :  7",
        "State -  1",
        "Failed to execute the cmd -  x",
        "\x1b[2J",
    ]
)
GARBAGE = st.one_of(st.text(max_size=200), st.lists(st.one_of(LINES, st.text(max_size=30)), max_size=25).map("\n".join))


@given(GARBAGE)
def test_any_text_is_parsed_or_a_clean_error(text: str) -> None:
    for parse in (na_cli.parse_programs, na_cli.parse_maps, na_cli.parse_pinned):
        with contextlib.suppress(CliError):
            parse(text)
    for where in (NP4, NP6, CP4, STATES, row(9, 24, 16), row(9, 20, 1), row(9, 60, 16), row(11, 8, 96)):
        try:
            toolbox_bpf.contents(text, where, None)
        except CliError as error:
            assert str(error)


PORT = st.integers(0, 65535)
WORD = st.integers(0, 2**32 - 1)
NAMES = {6: "TCP", 17: "UDP", 132: "SCTP", 1: "ICMP", 255: "RESERVED", 254: "ANY PROTOCOL"}
SLOT = st.tuples(st.sampled_from(sorted(NAMES)), PORT, PORT)
SLOTS = st.dictionaries(st.integers(0, 23), SLOT, max_size=5)
ADDRESS4 = st.integers(0, 2**32 - 1).map(IPv4Address)
# Not in ::ffff:0:0/96 and the like, whose texts differ between languages: those have a test of their own.
ADDRESS6 = st.integers(2**125, 2**128 - 1).map(IPv6Address)
BLANKS = st.sampled_from(["", " ", "  "])


def print_old(key: str, slots: Sequence[tuple[int, tuple[int, int, int]]], gap: str) -> str:
    """1.0.7 to 1.2.7, and IPv6."""
    body = "".join(
        f"{'-' * 19}\nValue Entry : {gap}{n}\nProtocol - {gap}{NAMES[p]}\nStartPort - {gap}{a}\nEndport - {gap}{b}\n"
        f"{'-' * 19}\n"
        for n, (p, a, b) in slots
    )
    return f"Key : IP/Prefixlen - {key} \n{body}{'*' * 31}\n"


def print_new(key: str, slots: Sequence[tuple[int, tuple[int, int, int]]], gap: str) -> str:
    body = "".join(
        f"{'-' * 19}\nEntry {n}:\nProtocol  -{gap} {NAMES[p]}\nStartPort -{gap} {a}\nEndPort   -{gap} {b}\n{'-' * 19}\n"
        for n, (p, a, b) in slots
    )
    return f"Key: {key}\n{body}{'*' * 31}\n"


@given(st.data(), st.booleans(), st.booleans(), BLANKS)
def test_lpm_printed_and_parsed(data: st.DataObject, new: bool, six: bool, gap: str) -> None:
    keys = st.tuples(ADDRESS6 if six else ADDRESS4, st.integers(0, 128 if six else 32))
    table = data.draw(st.dictionaries(keys, SLOTS, min_size=1, max_size=4))
    printer = print_new if new else print_old
    text = "".join(printer(f"{a}/{n}", sorted(slots.items()), gap) for (a, n), slots in table.items())
    dump = na_cli.parse_dump(text + "Done reading all entries\n", NP6 if six else NP4)
    assert dump.reason == ""
    assert dump.entries == {lpm_key(f"{a}/{n}"): np_value(*slots.items()) for (a, n), slots in table.items()}
    for slots, value in zip(table.values(), dump.entries.values(), strict=True):
        decoded = decode.np_slots(value)
        assert {n: s for n, s in enumerate(decoded) if any(s)} == {n: Slot(*s) for n, s in slots.items()}


@given(st.dictionaries(st.integers(0, 23), st.tuples(st.sampled_from(sorted(NAMES)), WORD, PORT, PORT), max_size=5))
def test_cluster_policies_printed_and_parsed(slots: dict[int, tuple[int, int, int, int]]) -> None:
    body = "".join(
        f"{DASHES}\nEntry {n}:\nProtocol  - {NAMES[p]}\nPriority  - {w}\nStartPort - {a}\nEndPort   - {b}\n{DASHES}\n"
        for n, (p, w, a, b) in sorted(slots.items())
    )
    text = f"Key: 10.0.0.0/8\nKey: 10.0.0.0/8\n{body}{'*' * 31}\nDone reading all entries\n"
    dump = na_cli.parse_dump(text, CP4)
    decoded = decode.cp_slots(dump.entries[lpm_key("10.0.0.0/8")])
    assert dump.reason == ""
    assert {n: tuple(s) for n, s in enumerate(decoded) if any(s)} == slots


@given(st.data(), st.sampled_from([(20, 1), (24, 1), (24, 16), (56, 1), (60, 1), (60, 16)]), BLANKS)
def test_conntrack_printed_and_parsed(data: st.DataObject, sizes: tuple[int, int], gap: str) -> None:
    six = sizes[0] > 24
    address = ADDRESS6 if six else ADDRESS4
    with_ifindex, with_time = sizes[0] in (24, 60), sizes[1] == 16
    entries = data.draw(
        st.lists(
            st.builds(
                ConntrackEntry, address, PORT, address, PORT, st.integers(0, 255), address,
                WORD if with_ifindex else st.none(), st.integers(0, 255),
                st.integers(0, 2**64 - 1) if with_time else st.none(),
            ),
            min_size=1, max_size=4, unique_by=lambda e: e[:7],
        )
    )  # fmt: skip
    text = ""
    for e in entries:
        text += (
            f"Conntrack Key : Source IP - {e.source} Source port - {e.source_port} Dest IP - {e.destination} "
            f"Dest port - {e.port} Protocol - {e.protocol} Owner IP - {e.owner}"
            + (f" Ifindex - {e.ifindex}" if with_ifindex else "")
            + f"\nValue : \nConntrack Val - {gap}{e.value}\n"
            + (f"Last Seen (ns) - {gap}{e.last_seen}  (1.5s ago)\n" if with_time else "")
            + f"{'*' * 31}\n"
        )
    layout = layouts.layout_of(9, *sizes)
    assert layout is not None
    dump = na_cli.parse_dump(text + "Done reading all entries\n", row(9, *sizes))
    found = decode.conntrack_entries(b"".join(dump.entries), b"".join(dump.entries.values()), layout)
    assert (dump.reason, found) == ("", tuple(entries))


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z0-9_]{1,20}[-@][a-z]{1,9}", fullmatch=True),
            st.sampled_from(["ingress", "egress"]),
            WORD,
            st.dictionaries(st.sampled_from(["", "ingress_map", "aws_conntrack_map"]), WORD, max_size=3),
        ),
        max_size=4,
    ),
    BLANKS,
)
def test_pinned_programs_printed_and_parsed(blocks: list[tuple[str, str, int, dict[str, int]]], gap: str) -> None:
    text = ""
    for identifier, direction, number, maps in blocks:
        text += f"PinPath: {gap}/sys/fs/bpf/globals/aws/programs/{identifier}_handle_{direction}\n"
        text += f"Pod Identifier : {identifier} {gap}Direction : {direction} \n"
        text += f"Prog ID: {gap}{number}\nAssociated Maps -> \n"
        text += "".join(f"Map Name: {gap}{name}\nMap ID: {gap}{map_id}\n" for name, map_id in maps.items())
        text += f"{EQUALS}\n"
    assert na_cli.parse_pinned(text) == [
        PinnedProgram(f"programs/{identifier}_handle_{direction}", number, tuple(maps.items()))
        for identifier, direction, number, maps in blocks
    ]
