"""The text of `ip link`, `ip addr` and `ip route`, and of sysfs where there is no `ip`, as rows of the document."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

Json = dict[str, Any]

MAIN_TABLE = 254
UP, RUNNING, LOWER_UP = 0x1, 0x40, 0x10000
FLAGS = {
    "UP": 0x1,
    "BROADCAST": 0x2,
    "DEBUG": 0x4,
    "LOOPBACK": 0x8,
    "POINTOPOINT": 0x10,
    "NOTRAILERS": 0x20,
    "NOARP": 0x80,
    "PROMISC": 0x100,
    "ALLMULTI": 0x200,
    "MASTER": 0x400,
    "SLAVE": 0x800,
    "MULTICAST": 0x1000,
    "PORTSEL": 0x2000,
    "AUTOMEDIA": 0x4000,
    "DYNAMIC": 0x8000,
    "LOWER_UP": 0x10000,
    "DORMANT": 0x20000,
    "ECHO": 0x40000,
}
"""IFF_* by the names of ip. IFF_RUNNING has none: NO-CARRIER says that a link is up without it."""
NOT_FLAGS = {"NO-CARRIER", "M-DOWN"}
ROUTE_TYPES = {
    "unicast": 1,
    "local": 2,
    "broadcast": 3,
    "anycast": 4,
    "multicast": 5,
    "blackhole": 6,
    "unreachable": 7,
    "prohibit": 8,
    "throw": 9,
    "nat": 10,
}
SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}

_LINK = re.compile(r"(\d{1,10}): ([^\s@]+?)(?:@([^\s@:]+))?: <([^>]*)> mtu (\d{1,10})(.*)")
_ADDRESS = re.compile(r"\s+(inet6?) ([^\s/]+)(?: peer [^\s/]+)?/(\d{1,3}) .*")
_XDP = re.compile(r"\bxdp\w{0,9}(?: id |/id:)(\d{1,10})\b")
MOST_LINE = 4096
"""Characters of a line; longer ones are cut, since `ip` prints none."""


class IpError(ValueError):
    """The text is not what `ip` prints, as far as it is known here."""


def parse_links(text: str) -> list[Json]:
    """Rows of ``links`` from `ip -d link show`. Raises ``IpError``."""
    found: list[Json] = []
    peers: list[str | None] = []
    masters: list[str | None] = []
    for line in _lines(text):
        match = _LINK.fullmatch(line)
        if match:
            found.append(_link(match))
            peers.append(match[3])
            masters.append(_word_after("master", match[6]))
        elif not found or not line[0].isspace():
            raise IpError(f"not a line of `ip link show`: {line[:80]!r}")
        else:
            _more_of_link(found[-1], line.strip())
    names = {row["name"]: row["ifindex"] for row in found}
    for row, peer, master in zip(found, peers, masters, strict=True):
        row["peer_ifindex"] = _peer(peer, names)
        row["master"] = names.get(master) if master else None
    return found


def _link(match: re.Match[str]) -> Json:
    words = {word for word in match[4].split(",") if word}
    flags = 0
    for word in words - NOT_FLAGS:
        # Bits without a name come as one hexadecimal number.
        bits = FLAGS.get(word) or (int(word, 16) if re.fullmatch(r"[0-9a-f]{1,8}", word) else None)
        if bits is None:
            raise IpError(f"link flag {word[:40]!r} is not known")
        flags |= bits
    if "UP" in words and "NO-CARRIER" not in words:
        flags |= RUNNING
    return {
        "ifindex": _number(match[1], 31),
        "name": match[2],
        "kind": "",
        "flags": flags,
        "operstate": _word_after("state", match[6]) or "UNKNOWN",
        "mtu": _number(match[5], 32),
        "address": "",
        "peer_ifindex": None,
        "link_netnsid": None,
        "master": None,
        # Older versions of ip show XDP programs in this line, newer ones in a line of their own.
        "xdp": _xdp(match[6]),
    }


def _xdp(text: str) -> list[int]:
    """Ids of the programs in `prog/xdp id 31 name ...`, or `xdpgeneric/id:31`."""
    return [_number(number, 32) for number in _XDP.findall(text)]


def _more_of_link(row: Json, line: str) -> None:
    """The indented lines: the address, then with -d the kind and its options, then the kind as a slave."""
    words = line.split()
    if words[0].startswith("prog/xdp"):
        row["xdp"] += _xdp(line)
    elif words[0].startswith("link/"):
        row["address"] = words[1] if len(words) > 1 and ":" in words[1] else ""
    elif not row["kind"] and words[0] not in ("altname", "alias", "vf") and not words[0].endswith("_slave"):
        row["kind"] = words[0]
    if (netns := re.search(r" link-netnsid (-?\d{1,9})\b", line)) is not None:
        row["link_netnsid"] = int(netns[1])


def _peer(text: str | None, names: Mapping[str, int]) -> int | None:
    """`@if3` is an index in another namespace, `@eth0` a link of this one, `@NONE` index 0."""
    if text is None:
        return None
    if text == "NONE":
        return 0
    if match := re.fullmatch(r"if(\d{1,9})", text):
        return names.get(text, int(match[1]))
    return names.get(text)


def parse_sysfs_links(text: str) -> list[Json]:
    """Rows of ``links`` from `name value` lines of /sys/class/net, each link headed by `link NAME`.

    sysfs knows no kind of a veth, and no namespace of the other end. Raises ``IpError``.
    """
    rows: list[Json] = []
    for line in _lines(text):
        key, _, value = line.strip().partition(" ")
        if key == "link":
            rows.append({"name": value})
        elif not rows:
            raise IpError(f"not a line of /sys/class/net: {line[:80]!r}")
        else:
            rows[-1][key] = value
    # A link that went while it was read has no ifindex.
    return [_sysfs_link(row) for row in rows if row.get("ifindex")]


def _sysfs_link(row: Json) -> Json:
    flags = _number(row.get("flags", "0"), 32)
    # sysfs shows the flags that were set, without the state that netlink puts among them (dev_get_flags).
    if flags & UP:
        flags |= RUNNING if row.get("operstate") in ("up", "unknown") else 0
        flags |= LOWER_UP if row.get("carrier") == "1" else 0
    return {
        "ifindex": _number(row["ifindex"], 31),
        "name": row["name"],
        "kind": "",
        "flags": flags,
        "operstate": row.get("operstate", "unknown").upper(),
        "mtu": _number(row["mtu"], 32) if row.get("mtu") else None,
        "address": row.get("address", ""),
        "peer_ifindex": _number(row["iflink"], 32) if row.get("iflink") not in (None, row["ifindex"]) else None,
        "link_netnsid": None,
        "master": _number(row["master"], 32) if row.get("master") else None,
        "xdp": None,  # sysfs does not show it
    }


def parse_addresses(text: str) -> list[Json]:
    """Rows of ``addresses`` from `ip addr show`."""
    found = []
    ifindex = None
    for line in _lines(text):
        if match := re.match(r"(\d{1,9}): ", line):
            ifindex = int(match[1])
        elif ifindex is not None and (match := _ADDRESS.fullmatch(line)):
            family = 4 if match[1] == "inet" else 6
            found.append(
                {
                    "ifindex": ifindex,
                    "family": family,
                    "address": str(_address(match[2], family)),
                    "prefixlen": _number(match[3], 7) if family == 4 else _number(match[3], 8),
                }
            )
    return found


def parse_routes(text: str, family: int, names: Mapping[str, int]) -> list[Json]:
    """Rows of ``routes`` from `ip -4|-6 route show`, the main table: one per next hop. Raises ``IpError``."""
    found: list[Json] = []
    for line in _lines(text):
        words = line.split()
        if words[0] == "nexthop":
            if not found or not line[0].isspace():
                raise IpError(f"a next hop without its route: {line[:80]!r}")
            last = found[-1]
            if last["ifindex"] is None:
                found.pop()
            found.append({**last, "ifindex": _device(words, names), "gateway": _gateway(words)})
        else:
            found.append(_route(words, family, names))
    return found


def _route(words: list[str], family: int, names: Mapping[str, int]) -> Json:
    kind = ROUTE_TYPES.get(words[0])
    rest = words if kind is None else words[1:]
    if not rest:
        raise IpError(f"a route without a destination: {' '.join(words)[:80]!r}")
    destination, prefixlen = _destination(rest[0], family)
    scope = _value(rest, "scope")
    source = _value(rest, "src")
    if scope is not None and scope not in SCOPES and not re.fullmatch(r"\d{1,3}", scope):
        raise IpError(f"route scope {scope[:40]!r} is not known")
    return {
        "family": family,
        "destination": destination,
        "prefixlen": prefixlen,
        "ifindex": _device(rest, names),
        "gateway": _gateway(rest),
        "table": MAIN_TABLE,
        "type": 1 if kind is None else kind,
        "scope": 0 if scope is None else SCOPES[scope] if scope in SCOPES else _number(scope, 8),
        "source": str(_address(source, family)) if source else None,
    }


def _destination(text: str, family: int) -> tuple[str, int]:
    if text == "default":
        return ("0.0.0.0", 0) if family == 4 else ("::", 0)
    address, slash, length = text.partition("/")
    full = 32 if family == 4 else 128
    if slash and not re.fullmatch(r"\d{1,3}", length):
        raise IpError(f"route destination {text[:60]!r}")
    return str(_address(address, family)), min(int(length), full) if slash else full


def _gateway(words: list[str]) -> str | None:
    """`via A`, or `via inet6 A` where the next hop is of the other family."""
    for number, word in enumerate(words[:-1]):
        if word == "via":
            text = words[number + 2] if words[number + 1] in ("inet", "inet6") and len(words) > number + 2 else None
            try:
                return str(ipaddress.ip_address(text or words[number + 1]))
            except ValueError as error:
                raise IpError(str(error)) from error
    return None


def _device(words: list[str], names: Mapping[str, int]) -> int | None:
    name = _value(words, "dev")
    return names.get(name) if name is not None else None


def _value(words: list[str], key: str) -> str | None:
    """The word after ``key``, which comes after the destination."""
    return next((words[n + 1] for n, word in enumerate(words[:-1]) if n > 0 and word == key), None)


def _address(text: str, family: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.IPv4Address(text) if family == 4 else ipaddress.IPv6Address(text)
    except ValueError as error:
        raise IpError(str(error)) from error


def _word_after(key: str, text: str) -> str | None:
    match = re.search(rf"(?:^| ){key} (\S+)", text)
    return match[1] if match else None


def _number(text: str, bits: int) -> int:
    if not re.fullmatch(r"\d{1,20}|0x[0-9a-fA-F]{1,16}", text):
        raise IpError(f"{text[:40]!r} is not a number")
    number = int(text, 0) if text.startswith("0x") else int(text)
    if number >= 1 << bits:
        raise IpError(f"{text} does not fit into {bits} bits")
    return number


def _lines(text: str) -> Iterator[str]:
    return (line[:MOST_LINE] for line in text.split("\n") if line.strip())
