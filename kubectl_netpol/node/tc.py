"""The text of `tc qdisc show` and `tc filter show` as rows of the document.

iproute2 writes for people: the order of words is fixed, their spacing is not, and each release adds a few. What is
not understood is a ``TcError``: a filter that is left out would be a filter that is said not to be there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

PROTOCOLS = {
    "all": 0x0003,
    "ip": 0x0800,
    "arp": 0x0806,
    "802.1Q": 0x8100,
    "ipv6": 0x86DD,
    "802.1ad": 0x88A8,
}
"""Names that tc has for EtherTypes (lib/ll_proto.c); it writes others as `[number]`."""
ROOT = 0xFFFFFFFF
"""TC_H_ROOT."""

_QDISC = re.compile(
    r"qdisc (?P<kind>\S+) (?P<major>[0-9a-f]{1,4}):(?P<minor>[0-9a-f]{0,4}) dev (?P<dev>\S+)"
    r"(?: parent (?P<parent>[0-9a-f]{0,4}:[0-9a-f]{0,4})| (?P<root>root))?(?: .*)?"
)
_SENT = re.compile(r"Sent (?P<bytes>\d{1,20}) bytes (?P<packets>\d{1,20}) pkts? \(dropped (?P<drops>\d{1,10}),.*")
_FILTER = re.compile(
    r"filter (?:(?:parent \S+|ingress|egress|root|block \d+) )*"
    r"protocol (?P<protocol>\S+) pref (?P<pref>\d{1,5}) (?P<kind>\S+)(?: chain (?P<chain>\d{1,10}))?(?P<rest> .*)?"
)
_HANDLE = re.compile(r" (?:handle (?P<handle>0x[0-9a-f]{1,8}|\d{1,10})|fh (?P<u32>[0-9a-f:]{1,16}))(?= |$)")
# f_bpf.c prints in this order. An empty program name leaves `name  tag`; a program of that name has `name tag tag`.
# The filter's own name may be any text, but is believed as one word only: in more than one there is no telling what
# is name and what are words that this version does not know.
_BPF = re.compile(
    r"(?: flowid \S+)?(?P<name> \S+)??(?P<direct> direct-action)?(?: skip_hw)?(?: skip_sw)?"
    r"(?: in_hw| not_in_hw)?(?: in_hw_count \d+)?(?: bytecode '[^']*')?"
    r"(?: id (?P<id>\d{1,10})(?: name(?: (?!tag [0-9a-f]{16}(?: |$))\S+)?)?)?(?: tag (?P<tag>[0-9a-f]{1,16}))?"
    r"(?P<jited> jited)?(?: load_time .*)?"
)


class TcError(ValueError):
    """The text is not what tc prints, as far as it is known here."""


def parse_qdiscs(text: str, links: Mapping[str, int]) -> list[Json]:
    """Rows of ``qdiscs``. ``links``: name -> ifindex; qdiscs of links that came later are left out.

    The counters are there with `tc -s` only, and null otherwise. Raises ``TcError``.
    """
    found: list[Json] = []
    skip = False
    for line in _lines(text):
        match = _QDISC.fullmatch(line.strip())
        if match:
            skip = match["dev"] not in links
            if not skip:
                found.append(_qdisc(match, links[match["dev"]]))
        elif not line[0].isspace():
            raise TcError(f"not a line of `tc qdisc show`: {line[:80]!r}")
        elif (sent := _SENT.fullmatch(line.strip())) and found and not skip:
            found[-1].update(
                bytes=_number(sent["bytes"], 64), packets=_number(sent["packets"], 64), drops=_number(sent["drops"], 32)
            )
    return found


def _qdisc(match: re.Match[str], ifindex: int) -> Json:
    parent = ROOT
    if match["parent"]:
        major, _, minor = match["parent"].partition(":")
        parent = (int(major or "0", 16) << 16) | int(minor or "0", 16)
    handle = (int(match["major"], 16) << 16) | int(match["minor"] or "0", 16)
    counters: Json = {"bytes": None, "packets": None, "drops": None}
    return {"ifindex": ifindex, "kind": match["kind"], "handle": handle, "parent": parent, **counters}


def parse_filters(text: str, ifindex: int, hook: str) -> list[Json]:
    """Rows of ``filters`` of one hook of one link, in tc's order, which is the kernel's. Raises ``TcError``.

    Each has one key more, ``jited``: whether tc says so of the program. Other classifiers than bpf have neither
    name nor program; their details, which tc writes on indented lines, are left out.
    """
    found = []
    for line in _lines(text):
        if line[0].isspace():
            continue
        line = " ".join(line.split())
        match = _FILTER.fullmatch(line)
        if match is None:
            raise TcError(f"not a line of `tc filter show`: {line[:80]!r}")
        # For each classifier of a chain there is first a line without a handle, which is no filter.
        if match["rest"]:
            found.append(_filter(match, line, ifindex, hook))
    return found


def _filter(match: re.Match[str], line: str, ifindex: int, hook: str) -> Json:
    handle = _HANDLE.match(match["rest"])
    if handle is None:
        raise TcError(f"a filter without a handle: {line[:80]!r}")
    row: Json = {
        "ifindex": ifindex,
        "hook": hook,
        "kind": match["kind"],
        "protocol": _protocol(match["protocol"]),
        "pref": _number(match["pref"], 16),
        "chain": _number(match["chain"] or "0", 32),
        "handle": _u32_handle(handle["u32"]) if handle["u32"] else _number(handle["handle"], 32),
        "name": "",
        "program_id": None,
        "tag": "",
        "direct_action": False,
        "jited": False,
    }
    if match["kind"] == "bpf":
        row.update(_program(match["rest"][handle.end() :], line))
    return row


def _program(text: str, line: str) -> Json:
    match = _BPF.fullmatch(text)
    if match is None:
        raise TcError(f"a bpf filter with words that are not known: {line[:120]!r}")
    return {
        "name": (match["name"] or "").strip(),
        "program_id": None if match["id"] is None else _number(match["id"], 32),
        "tag": match["tag"] or "",
        "direct_action": bool(match["direct"]),
        "jited": bool(match["jited"]),
    }


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _number(text: str, bits: int) -> int:
    number = int(text, 0) if text.startswith("0x") else int(text)
    if number >= 1 << bits:
        raise TcError(f"{text} does not fit into {bits} bits")
    return number


def _protocol(text: str) -> int:
    if text in PROTOCOLS:
        return PROTOCOLS[text]
    if match := re.fullmatch(r"\[(\d{1,5})\]", text):
        return _number(match[1], 16)
    raise TcError(f"protocol {text[:40]!r} is not known")


def _u32_handle(text: str) -> int:
    """`fh 800:2:1`: hash table (12 bits), bucket (8), node (12); see f_u32.c, sprint_u32_handle."""
    parts = [int(part or "0", 16) for part in text.split(":")]
    if len(parts) < 2 or len(parts) > 3 or parts[0] >= 1 << 12:
        raise TcError(f"u32 handle {text!r}")
    table, bucket, node = (*parts, 0)[:3]
    if bucket >= 1 << 8 or node >= 1 << 12:
        raise TcError(f"u32 handle {text!r}")
    return table << 20 | bucket << 12 | node
