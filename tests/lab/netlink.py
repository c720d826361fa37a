"""rtnetlink, as little as a node needs: links, addresses, routes, neighbours, qdiscs and tc filters.

A Netlink object works in the network namespace that its socket was opened in, whatever thread uses it later.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Self

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEIGH, RTM_NEWRULE = 20, 24, 25, 28, 32
RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 36, 37, 44, 45, 46

NLM_REQUEST, NLM_ACK, NLM_DUMP = 1, 4, 0x300
NLM_REPLACE, NLM_EXCL, NLM_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
NESTED = 0x8000

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_NET_NS_FD = (
    1,
    3,
    4,
    10,
    16,
    18,
    28,
)
OPERATIONAL = 6
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFF_UP = 1

TC_H_CLSACT = 0xFFFFFFF1
TC_H_INGRESS_HOOK = 0xFFFFFFF2
TC_H_EGRESS_HOOK = 0xFFFFFFF3
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS, TCA_BPF_ID = 6, 7, 8, 11
TCA_BPF_DIRECT_ACTION = 1
ETH_P_ALL = 3

MAIN_TABLE = 254
SCOPE_GLOBAL, SCOPE_LINK = 0, 253


class NetlinkError(OSError):
    """The kernel refused a netlink request."""


def attribute(kind: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def attributes(raw: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(raw):
        length, kind = struct.unpack_from("=HH", raw, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = raw[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


@dataclass(frozen=True)
class Link:
    index: int
    name: str
    mac: bytes
    up: bool
    # Up at both ends, and the kernel is through with making it usable.
    operational: bool = False


@dataclass(frozen=True)
class Filter:
    """One cls_bpf filter as the kernel reports it."""

    parent: int
    handle: int
    pref: int
    protocol: int
    name: str
    prog_id: int
    flags: int


def _address(text: str) -> tuple[int, bytes]:
    ip = ipaddress.ip_address(text)
    return (socket.AF_INET if ip.version == 4 else socket.AF_INET6), ip.packed


class Netlink:
    """A request-and-answer socket; safe to share between threads."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        self._sock = sock or socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._sequence = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def request(self, kind: int, flags: int, body: bytes, what: str) -> list[tuple[int, bytes]]:
        """All answers as (type, body without the netlink header)."""
        with self._lock:
            self._sequence += 1
            header = struct.pack("=IHHII", 16 + len(body), kind, NLM_REQUEST | NLM_ACK | flags, self._sequence, 0)
            self._sock.send(header + body)
            return self._answers(what, dump=bool(flags & NLM_DUMP == NLM_DUMP))

    def _answers(self, what: str, dump: bool) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        while True:
            data = self._sock.recv(1 << 20)
            while data:
                length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data)
                body, data = data[16:length], data[(length + 3) & ~3 :]
                if sequence != self._sequence:
                    continue
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    if code:
                        raise NetlinkError(code, f"{what}: {os.strerror(code)}")
                    return found
                if kind == NLMSG_DONE and dump:
                    return found
                found.append((kind, body))

    # links ----------------------------------------

    @staticmethod
    def _ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
        return struct.pack("=BxHiII", 0, 0, index, flags, change)

    def add_veth(self, name: str, peer: str, peer_netns: int, master: int = 0) -> None:
        """`peer_netns` is an open file descriptor of the namespace that gets the other end."""
        other = self._ifinfo() + attribute(IFLA_IFNAME, peer) + attribute(IFLA_NET_NS_FD, peer_netns)
        info = attribute(IFLA_INFO_KIND, "veth") + attribute(
            IFLA_INFO_DATA | NESTED, attribute(VETH_INFO_PEER | NESTED, other)
        )
        body = self._ifinfo(flags=IFF_UP, change=IFF_UP) + attribute(IFLA_IFNAME, name)
        if master:
            body += attribute(IFLA_MASTER, master)
        body += attribute(IFLA_LINKINFO | NESTED, info)
        self.request(RTM_NEWLINK, NLM_CREATE | NLM_EXCL, body, f"add veth {name}")

    def add_bridge(self, name: str) -> None:
        body = self._ifinfo(flags=IFF_UP, change=IFF_UP) + attribute(IFLA_IFNAME, name)
        body += attribute(IFLA_LINKINFO | NESTED, attribute(IFLA_INFO_KIND, "bridge"))
        self.request(RTM_NEWLINK, NLM_CREATE | NLM_EXCL, body, f"add bridge {name}")

    def links(self) -> dict[str, Link]:
        answers = self.request(RTM_GETLINK, NLM_DUMP, self._ifinfo(), "list links")
        found = [self._parsed(body) for _, body in answers]
        return {link.name: link for link in found}

    def link(self, name: str) -> Link:
        answers = self.request(RTM_GETLINK, 0, self._ifinfo() + attribute(IFLA_IFNAME, name), f"link {name}")
        return self._parsed(answers[0][1])

    @staticmethod
    def _parsed(body: bytes) -> Link:
        index, flags = struct.unpack_from("=iI", body, 4)
        attrs = attributes(body[16:])
        name = attrs[IFLA_IFNAME].rstrip(b"\0").decode()
        operational = attrs.get(IFLA_OPERSTATE) == bytes([OPERATIONAL])
        return Link(index, name, attrs.get(IFLA_ADDRESS, b""), bool(flags & IFF_UP), operational)

    def set_up(self, name: str, up: bool = True) -> None:
        body = self._ifinfo(self.link(name).index, IFF_UP if up else 0, IFF_UP)
        self.request(RTM_NEWLINK, 0, body, f"set {name} up")

    def delete_link(self, name: str) -> None:
        self.request(RTM_DELLINK, 0, self._ifinfo() + attribute(IFLA_IFNAME, name), f"delete {name}")

    # addresses and routes ----------------------------------------

    def add_address(self, index: int, address: str, prefixlen: int) -> None:
        family, packed = _address(address)
        no_dad = 2 if family == socket.AF_INET6 else 0
        body = struct.pack("=BBBBi", family, prefixlen, no_dad, SCOPE_GLOBAL, index)
        body += attribute(2, packed) + attribute(1, packed)
        self.request(RTM_NEWADDR, NLM_CREATE | NLM_EXCL, body, f"add address {address}")

    @staticmethod
    def _route(destination: str, index: int, via: str | None, link_scope: bool, table: int) -> bytes:
        net = ipaddress.ip_network(destination)
        family = socket.AF_INET if net.version == 4 else socket.AF_INET6
        scope = SCOPE_LINK if link_scope and net.version == 4 else SCOPE_GLOBAL
        # protocol 3 = boot, type 1 = unicast
        body = struct.pack("=BBBBBBBBI", family, net.prefixlen, 0, 0, table, 3, scope, 1, 0)
        if net.prefixlen:
            body += attribute(1, net.network_address.packed)
        if via:
            body += attribute(5, _address(via)[1])
        return body + (attribute(4, index) if index else b"")

    def replace_route(self, destination: str, index: int = 0, via: str | None = None, table: int = MAIN_TABLE) -> None:
        body = self._route(destination, index, via, link_scope=via is None, table=table)
        self.request(RTM_NEWROUTE, NLM_CREATE | NLM_REPLACE, body, f"route {destination}")

    def delete_route(self, destination: str) -> None:
        net = ipaddress.ip_network(destination)
        family = socket.AF_INET if net.version == 4 else socket.AF_INET6
        body = struct.pack("=BBBBBBBBI", family, net.prefixlen, 0, 0, MAIN_TABLE, 0, 255, 0, 0)
        body += attribute(1, net.network_address.packed)
        self.request(RTM_DELROUTE, 0, body, f"delete route {destination}")

    def add_source_rule(self, source: str, table: int) -> None:
        family, packed = _address(source)
        # action 1 = look up a table
        body = struct.pack("=BBBBBBBBI", family, 0, len(packed) * 8, 0, table, 0, 0, 1, 0) + attribute(2, packed)
        self.request(RTM_NEWRULE, NLM_CREATE | NLM_EXCL, body, f"rule from {source}")

    def add_permanent_neighbour(self, index: int, address: str, mac: bytes) -> None:
        family, packed = _address(address)
        body = struct.pack("=BxxxiHBB", family, index, 0x80, 0, 0) + attribute(1, packed) + attribute(2, mac)
        self.request(RTM_NEWNEIGH, NLM_CREATE | NLM_REPLACE, body, f"neighbour {address}")

    # tc ----------------------------------------

    @staticmethod
    def _tcmsg(index: int, handle: int, parent: int, info: int = 0) -> bytes:
        return struct.pack("=BxxxiIII", 0, index, handle, parent, info)

    @staticmethod
    def _filter_info(pref: int) -> int:
        return pref << 16 | socket.htons(ETH_P_ALL)

    def add_clsact(self, index: int) -> None:
        body = self._tcmsg(index, 0xFFFF0000, TC_H_CLSACT) + attribute(TCA_KIND, "clsact")
        self.request(RTM_NEWQDISC, NLM_CREATE | NLM_EXCL, body, "add clsact")

    def delete_clsact(self, index: int) -> None:
        self.request(RTM_DELQDISC, 0, self._tcmsg(index, 0xFFFF0000, TC_H_CLSACT), "delete clsact")

    def add_bpf_filter(self, index: int, parent: int, prog_fd: int, name: str, pref: int = 1, handle: int = 1) -> None:
        """Agent facts: protocol all, pref 1, handle 0x1, direct-action, create-exclusive."""
        options = attribute(TCA_BPF_FD, prog_fd) + attribute(TCA_BPF_NAME, name)
        options += attribute(TCA_BPF_FLAGS, TCA_BPF_DIRECT_ACTION)
        body = self._tcmsg(index, handle, parent, self._filter_info(pref)) + attribute(TCA_KIND, "bpf")
        body += attribute(TCA_OPTIONS, options)
        self.request(RTM_NEWTFILTER, NLM_CREATE | NLM_EXCL, body, f"add filter {name}")

    def delete_filter(self, index: int, parent: int, pref: int = 1, handle: int = 1) -> None:
        body = self._tcmsg(index, handle, parent, self._filter_info(pref)) + attribute(TCA_KIND, "bpf")
        self.request(RTM_DELTFILTER, 0, body, "delete filter")

    def filters(self, index: int, parent: int) -> list[Filter]:
        body = self._tcmsg(index, 0, parent)
        found = []
        for _, answer in self.request(RTM_GETTFILTER, NLM_DUMP, body, "list filters"):
            _, handle, its_parent, info = struct.unpack_from("=iIII", answer, 4)
            attrs = attributes(answer[20:])
            options = attributes(attrs.get(TCA_OPTIONS, b""))
            if attrs.get(TCA_KIND) != b"bpf\0" or TCA_BPF_ID not in options:
                continue  # the first row of a chain is its head, without a program
            found.append(
                Filter(
                    its_parent, handle, info >> 16, socket.ntohs(info & 0xFFFF),
                    options[TCA_BPF_NAME].rstrip(b"\0").decode(),
                    struct.unpack("=I", options[TCA_BPF_ID])[0],
                    struct.unpack("=I", options[TCA_BPF_FLAGS])[0],
                )
            )  # fmt: skip
        return found
