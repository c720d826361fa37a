"""The text of tc, of several ages: the article's, iproute2 5.10 and 6.1, and whatever else may come."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.node import tc
from kubectl_netpol.node.tc import TcError

LINKS = {"lo": 1, "eth0": 2, "eni9c515deae49": 7, "v1": 9}

ARTICLE = """\
filter protocol all pref 1 bpf chain 0
filter protocol all pref 1 bpf chain 0 handle 0x1 handle_egress direct-action not_in_hw id 433 \
name tag 557a80b8403d758b jited
"""


def filters(text: str) -> list[dict[str, Any]]:
    return tc.parse_filters(text, 7, "ingress")


def row(**changes: Any) -> dict[str, Any]:
    found = {
        "ifindex": 7,
        "hook": "ingress",
        "kind": "bpf",
        "protocol": 3,
        "pref": 1,
        "chain": 0,
        "handle": 1,
        "name": "handle_egress",
        "program_id": 433,
        "tag": "557a80b8403d758b",
        "direct_action": True,
        "jited": True,
    }
    return {**found, **changes}


def test_the_articles_filter() -> None:
    assert filters(ARTICLE) == [row()]


HEAD = "filter protocol all pref 1 bpf chain 0 handle 0x1 "


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        # iproute2 4.x: no chain, no name of the program
        ("filter protocol all pref 1 bpf handle 0x1 handle_egress direct-action id 433 tag 557a80b8403d758b jited ",
         row()),
        # 6.1 with an empty program name
        (HEAD + "handle_egress direct-action not_in_hw id 433 name  tag 557a80b8403d758b jited ", row()),
        (HEAD + "handle_egress direct-action not_in_hw id 433 name prog.x tag 557a80b8403d758b jited ", row()),
        (HEAD + "handle_egress direct-action not_in_hw id 433 name tag tag 557a80b8403d758b jited", row()),
        # with -d
        (HEAD + "handle_egress direct-action not_in_hw id 433 name  tag 557a80b8403d758b jited load_time 812 "
         "created_by_uid 0 btf_id 8 ", row()),
        (HEAD + "handle_egress direct-action in_hw in_hw_count 1 id 433 name  tag 557a80b8403d758b ", row(jited=False)),
        (HEAD + "flowid 1:2 handle_egress skip_hw not_in_hw id 433 name  tag 557a80b8403d758b jited",
         row(direct_action=False)),
        ("filter parent ffff:fff2 protocol ip pref 49152 bpf chain 7 handle 0x2 x.o:[tc] direct-action not_in_hw id 9",
         row(protocol=0x800, pref=49152, chain=7, handle=2, name="x.o:[tc]", program_id=9, tag="", jited=False)),
        # a classic program: no id
        (HEAD + "not_in_hw bytecode '1,6 0 0 4294967295'",
         row(name="", program_id=None, tag="", direct_action=False, jited=False)),
        (HEAD + "direct-action direct-action not_in_hw id 433 name  tag 557a80b8403d758b jited",
         row(name="direct-action")),
    ],
)  # fmt: skip
def test_filters_of_several_ages(line: str, wanted: dict[str, Any]) -> None:
    assert filters(line + "\n") == [wanted]


def test_several_filters_and_foreign_ones() -> None:
    text = (
        "filter protocol all pref 1 bpf chain 0 \n"
        "filter protocol all pref 1 bpf chain 0 handle 0x2 other direct-action not_in_hw id 5 name  "
        "tag 0011223344556677 \n"
        "filter protocol all pref 1 bpf chain 0 handle 0x1 handle_egress direct-action not_in_hw id 433 name  "
        "tag 557a80b8403d758b jited \n"
        "filter protocol ip pref 2 u32 chain 0 \n"
        "filter protocol ip pref 2 u32 chain 0 fh 800: ht divisor 1 \n"
        "filter protocol ip pref 2 u32 chain 0 fh 800::800 order 2048 key ht 800 bkt 0 terminal flowid ??? not_in_hw \n"
        "  match 01020304/ffffffff at 12\n"
        "\taction order 1: mirred (Egress Redirect to device lo) stolen\n"
        " \tindex 1 ref 1 bind 1\n"
        "\n"
        "filter protocol 802.1Q pref 3 flower chain 0 \n"
        "filter protocol 802.1Q pref 3 flower chain 0 handle 0x1 \n"
        "  vlan_id 5\n"
        "  not_in_hw\n"
        "filter protocol all pref 49152 matchall chain 0 handle 0x1 \n"
    )
    found = filters(text)
    assert [(f["kind"], f["pref"], f["handle"], f["program_id"]) for f in found] == [
        ("bpf", 1, 2, 5),
        ("bpf", 1, 1, 433),
        ("u32", 2, 0x80000000, None),
        ("u32", 2, 0x80000800, None),
        ("flower", 3, 1, None),
        ("matchall", 49152, 1, None),
    ]
    assert {f["protocol"] for f in found} == {3, 0x800, 0x8100}
    assert all(not f["name"] and not f["tag"] and not f["direct_action"] for f in found[2:])


def test_no_filters() -> None:
    assert filters("") == filters("\n") == filters("filter protocol all pref 1 bpf chain 0 \n") == []


@pytest.mark.parametrize(
    "line",
    [
        "Error: Parent Qdisc doesn't exists.",
        "filter protocol all pref 99999 bpf chain 0 handle 0x1 x id 5",
        "filter protocol weird pref 1 matchall chain 0 handle 0x1",
        "filter protocol all pref 1 matchall chain 0 something",
        "filter protocol all pref 1 bpf chain 0 handle 0x1 x direct-action new_word id 5",
        # Whoever attaches a filter names it: this name says that another program runs.
        HEAD + "x id 433 direct-action not_in_hw id 5 name  tag 557a80b8403d758b jited",
        HEAD + "bytecode '1,6 0 0 4294967295' not_in_hw ",
        "filter protocol all pref 1 u32 chain 0 fh 8000:",
        "filter protocol all pref 1 u32 chain 0 fh 1:fff:1",
    ],
)
def test_unknown_text_is_an_error(line: str) -> None:
    with pytest.raises(TcError):
        filters(line + "\n")


def test_qdiscs() -> None:
    text = (
        "qdisc noqueue 0: dev lo root refcnt 2 \n"
        "qdisc mq 0: dev eth0 root \n"
        " Sent 10 bytes 2 pkt (dropped 0, overlimits 0 requeues 0) \n"
        " backlog 0b 0p requeues 0\n"
        "qdisc fq_codel 8001: dev eth0 parent :1 limit 10240p flows 1024 quantum 1514 target 5ms\n"
        "  new_flows_len 0 old_flows_len 0\n"
        "qdisc clsact ffff: dev gone parent ffff:fff1 \n"
        " Sent 99 bytes 9 pkt (dropped 9, overlimits 0 requeues 0) \n"
        "qdisc clsact ffff: dev eni9c515deae49 parent ffff:fff1 \n"
        " Sent 930 bytes 12 pkt (dropped 3, overlimits 0 requeues 0) \n"
        "qdisc ingress ffff: dev v1 parent ffff:fff1 ---------------- \n"
    )
    found = tc.parse_qdiscs(text, LINKS)
    none = {"bytes": None, "packets": None, "drops": None}
    clsact = {"kind": "clsact", "handle": 0xFFFF0000, "parent": 0xFFFFFFF1}
    assert found == [
        {"ifindex": 1, "kind": "noqueue", "handle": 0, "parent": 0xFFFFFFFF, **none},
        {"ifindex": 2, "kind": "mq", "handle": 0, "parent": 0xFFFFFFFF, "bytes": 10, "packets": 2, "drops": 0},
        {"ifindex": 2, "kind": "fq_codel", "handle": 0x80010000, "parent": 1, **none},
        {"ifindex": 7, **clsact, "bytes": 930, "packets": 12, "drops": 3},
        {"ifindex": 9, "kind": "ingress", "handle": 0xFFFF0000, "parent": 0xFFFFFFF1, **none},
    ]
    with pytest.raises(TcError):
        tc.parse_qdiscs("Cannot open netlink socket\n", LINKS)


LINES = st.sampled_from(
    [
        *ARTICLE.split("\n"),
        HEAD,
        "filter protocol ip pref 2 u32 chain 0 fh 800::800 x",
        " Sent 1 bytes 2 pkt (dropped 3, x",
    ]
)


@given(st.one_of(st.text(max_size=200), st.lists(st.one_of(LINES, st.text(max_size=40)), max_size=9).map("\n".join)))
def test_any_text_is_parsed_or_a_clean_error(text: str) -> None:
    for parse in (lambda: filters(text), lambda: tc.parse_qdiscs(text, LINKS)):
        try:
            parse()
        except TcError as error:
            assert str(error)


NAME = st.from_regex(r"[a-zA-Z0-9_.:\[\]/-]{1,24}", fullmatch=True).filter(
    lambda name: not re.fullmatch(r"direct-action|skip_[hs]w|(not_)?in_hw|bytecode|id|name|tag|jited|flowid", name)
)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 65535), st.integers(0, 2**32 - 1), st.integers(1, 2**32 - 1), NAME, st.booleans(),
            st.integers(1, 2**32 - 1), st.from_regex(r"[a-zA-Z0-9_.]{0,15}", fullmatch=True),
            st.binary(min_size=8, max_size=8), st.booleans(),
        ),
        max_size=4,
    ),
    st.booleans(),
)  # fmt: skip
def test_printed_and_parsed(rows: list[Any], names: bool) -> None:
    text, wanted = "", []
    for pref, chain, handle, name, direct, number, program, tag, jited in rows:
        head = f"filter protocol all pref {pref} bpf chain {chain} "
        text += head + "\n" + head + f"handle {handle:#x} {name} {'direct-action ' if direct else ''}not_in_hw "
        text += f"id {number} {f'name {program} ' if names else ''}tag {tag.hex()} {'jited ' if jited else ''}\n"
        wanted.append(
            row(
                pref=pref, chain=chain, handle=handle, name=name, direct_action=direct, program_id=number,
                tag=tag.hex(), jited=jited,
            )
        )  # fmt: skip
    assert filters(text) == wanted
