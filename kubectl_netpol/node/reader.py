"""Reads the network policy state of one node: links, routes, tc filters, BPF programs, maps and pins.

This file is the only code of the project that runs on a node. It is sent over `exec` into the debug pod and
needs nothing but a Python 3.9 standard library on x86_64 or aarch64. It writes nothing, anywhere: pins and
maps are opened with BPF_F_RDONLY, no map is updated, no ring buffer is consumed (its one reader is the
agent), no file is made. What cannot be read is named in ``errors`` and is null, never an empty list.

Request (JSON object)
    format      1
    pods        [{name, namespace, ips, links, identifiers}]: whose links, pins and conntrack entries to read
    all         true: also every link with clsact, and every map below globals/aws
    conntrack   "none" | "pods" | "all"
    log         {addresses, since_ns, last_ns, all, most, after, path}: the agent's flow lines, section ``flow_log``
    agent       true: what the agent's logs complain about, section ``agent``
    agent_log   {bytes, path}: the ends of the agent's logs without their flow lines, section ``agent_log``
    thorough    true: large maps, too, are read twice and compared (see ``Trace``)

Answer on stdout: ``NPE1 <length> <sha256>\\n`` and <length> bytes of zlib-compressed JSON, see ``collect``.

Numbers are as the kernel gives them. Byte order: this machine's; addresses are in network order.
"""

from __future__ import annotations

import binascii
import calendar
import collections
import ctypes
import errno
import hashlib
import ipaddress
import json
import os
import re
import socket
import struct
import sys
import time
import zlib

# For type checkers: importing typing takes longer than reading a small node's maps.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Callable

    Json = dict[str, Any]

READER_VERSION = "1.0"
FORMAT = 1
MAGIC = "NPE1"

# ---------------------------------------------------------------------------------------------------------
# What went wrong on the way
# ---------------------------------------------------------------------------------------------------------

ENOTSUPP = 524
"""The kernel's own "not supported"; it has no name in errno.h, and reaches user space through bpf(2)."""


def describe(error: BaseException) -> str:
    """``EPERM: Operation not permitted`` for an OSError, else class and text, in one line."""
    if isinstance(error, OSError) and error.errno:
        if error.errno == ENOTSUPP:
            return "ENOTSUPP: not supported by this kernel"
        return f"{errno.errorcode.get(error.errno, error.errno)}: {os.strerror(error.errno)}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Report:
    """Collects what could not be read (errors) and what a reader of the document should know (notes)."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.errors: list[Json] = []

    def fail(self, what: str, error: BaseException) -> None:
        self.errors.append({"what": what, "error": describe(error)})

    def attempt(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call ``function``; a failure becomes an entry of ``errors`` and None, and the rest goes on."""
        try:
            return function(*arguments)
        except Exception as error:
            self.fail(what, error)
            return None


# ---------------------------------------------------------------------------------------------------------
# Netlink: links, addresses, routes, qdiscs, tc filters (linux/netlink.h, rtnetlink.h, if_link.h, pkt_sched.h)
# ---------------------------------------------------------------------------------------------------------

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE, RTM_GETQDISC, RTM_GETTFILTER = 18, 22, 26, 38, 46
NLA_TYPE_MASK = 0x3FFF
AF_INET, AF_INET6 = 2, 10
IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS = 29, 8
RTM_F_CLONED = 0x200
MAIN_TABLE = 254
TC_H_INGRESS, TC_H_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
"""TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS / TC_H_MIN_EGRESS): the two hooks of a clsact qdisc."""
HOOKS = (("ingress", TC_H_INGRESS), ("egress", TC_H_EGRESS))
OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")
NETLINK_TIMEOUT = 15.0
DUMP_TRIES = 5


class TornDumpError(Exception):
    """The kernel's table changed while it was dumped (NLM_F_DUMP_INTR): the parts do not fit together."""


def attributes(data: bytes) -> dict[int, bytes]:
    """Split a run of ``struct nlattr`` {u16 length with header, u16 type} padded to 4 bytes: type -> payload.

    Raises ``ValueError`` when an attribute does not fit. Of a repeated type the last one stays.
    """
    found: dict[int, bytes] = {}
    offset, end = 0, len(data)
    while end - offset >= 4:
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > end:
            raise ValueError(f"netlink attribute of {length} bytes at {offset} of {end}")
        found[kind & NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, payload) of each ``struct nlmsghdr`` {u32 length, u16 type, u16 flags, u32, u32}."""
    offset = 0
    while len(data) - offset >= 16:
        length, kind, flags = struct.unpack_from("=IHH", data, offset)
        if length < 16 or offset + length > len(data):
            raise ValueError(f"netlink message of {length} bytes at {offset} of {len(data)}")
        yield kind, flags, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def netlink_dump(kind: int, body: bytes) -> list[bytes]:
    """All payloads of one NETLINK_ROUTE dump request; asked again while the table changes under it."""
    for _ in range(DUMP_TRIES):
        try:
            return _netlink_dump_once(kind, body)
        except TornDumpError:
            continue
    raise TornDumpError(f"the table changed during each of {DUMP_TRIES} dumps")


def _netlink_dump_once(kind: int, body: bytes) -> list[bytes]:
    found: list[bytes] = []
    interrupted = False
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(NETLINK_TIMEOUT)
        link.bind((0, 0))
        link.send(struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        while True:
            data, _, truncated, _ = link.recvmsg(1 << 20)
            if truncated & socket.MSG_TRUNC:
                raise OSError(errno.EMSGSIZE, "a netlink message is larger than 1 MiB")
            for got, flags, payload in messages(data):
                interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                if got in (NLMSG_DONE, NLMSG_ERROR):
                    _raise_status(payload)
                    if interrupted:
                        raise TornDumpError("the table changed while it was dumped")
                    return found
                found.append(payload)


def _raise_status(payload: bytes) -> None:
    """NLMSG_DONE and NLMSG_ERROR begin with an int: 0, or a negative errno."""
    status = struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
    if status < 0:
        raise OSError(-status, os.strerror(-status))


def _u32(data: bytes | None) -> int | None:
    return struct.unpack_from("=I", data)[0] if data is not None and len(data) >= 4 else None


def _text(data: bytes | None) -> str:
    return (data or b"").split(b"\0", 1)[0].decode("utf-8", "replace")


def _address(family: int, data: bytes | None) -> str | None:
    """An address of 4 or 16 network-order bytes as text."""
    if not data or len(data) not in (4, 16) or family not in (AF_INET, AF_INET6):
        return None
    return str(ipaddress.ip_address(bytes(data)))


def read_links() -> list[Json]:
    """RTM_GETLINK. ``flags`` are IFF_* bits, ``mtu`` bytes; ``peer_ifindex`` is IFLA_LINK: for a veth the
    index of the other end inside the namespace ``link_netnsid``, for a vlan its parent; ``xdp``: program ids."""
    mask = struct.pack("=HHI", 8, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + mask
    return [_link(payload) for payload in netlink_dump(RTM_GETLINK, body)]


def _link(payload: bytes) -> Json:
    _, ifindex, flags = struct.unpack_from("=BxxxiI", payload)
    found = attributes(payload[16:])
    state = found.get(16, b"\0")[0]
    netns = found.get(37)
    return {
        "ifindex": ifindex,
        "name": _text(found.get(3)),
        "kind": _text(attributes(found.get(18, b"")).get(1)),
        "flags": flags,
        "operstate": OPERSTATES[state] if state < len(OPERSTATES) else str(state),
        "mtu": _u32(found.get(4)),
        "address": found.get(1, b"").hex(":") if found.get(1) else "",
        "peer_ifindex": _u32(found.get(5)),
        "link_netnsid": struct.unpack("=i", netns)[0] if netns is not None and len(netns) == 4 else None,
        "master": _u32(found.get(10)),
        "xdp": _xdp_programs(attributes(found.get(43, b""))),
    }


def _xdp_programs(fields: dict[int, bytes]) -> list[int]:
    """IFLA_XDP (linux/if_link.h): one program in IFLA_XDP_PROG_ID, or one for each mode: driver, generic, hardware."""
    numbers = {struct.unpack("=I", fields[kind])[0] for kind in (4, 5, 6, 7) if len(fields.get(kind, b"")) == 4}
    return sorted(numbers - {0})


def read_addresses() -> list[Json]:
    """RTM_GETADDR. ``family`` is 4 or 6; of a point-to-point pair the interface's own address."""
    found = []
    for payload in netlink_dump(RTM_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        family, prefixlen, _, _, ifindex = struct.unpack_from("=BBBBI", payload)
        fields = attributes(payload[8:])
        address = _address(family, fields.get(2) or fields.get(1))
        if address:
            found.append({"ifindex": ifindex, "family": _version(family), "address": address, "prefixlen": prefixlen})
    return found


def _version(family: int) -> int:
    return 4 if family == AF_INET else 6


def read_routes(pod_ips: set[str]) -> list[Json]:
    """RTM_GETROUTE: the main table, and of the others only routes to one requested pod address.

    ``type`` (RTN_*) and ``scope`` (RT_SCOPE_*) are the kernel's numbers. One row per next hop.
    """
    found: list[Json] = []
    for family in (AF_INET, AF_INET6):
        body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        for payload in netlink_dump(RTM_GETROUTE, body):
            found.extend(route for route in _routes(payload) if _wanted_route(route, pod_ips))
    return found


def _wanted_route(route: Json, pod_ips: set[str]) -> bool:
    if route["table"] == MAIN_TABLE:
        return True
    full = 32 if route["family"] == 4 else 128
    return bool(route["prefixlen"] == full and route["destination"] in pod_ips)


def _routes(payload: bytes) -> Iterator[Json]:
    family, prefixlen, _, _, table, _, scope, kind, flags = struct.unpack_from("=BBBBBBBBI", payload)
    if flags & RTM_F_CLONED or family not in (AF_INET, AF_INET6):
        return
    fields = attributes(payload[12:])
    row: Json = {
        "family": _version(family),
        "destination": _address(family, fields.get(1)) or ("0.0.0.0" if family == AF_INET else "::"),
        "prefixlen": prefixlen,
        "ifindex": _u32(fields.get(4)),
        "gateway": _gateway(family, fields),
        "table": table if fields.get(15) is None else _u32(fields.get(15)),
        "type": kind,
        "scope": scope,
        "source": _address(family, fields.get(7)),
    }
    multipath = fields.get(9)
    if multipath is None:
        yield row
        return
    for ifindex, hop in _next_hops(multipath):
        yield dict(row, ifindex=ifindex, gateway=_gateway(family, hop))


def _gateway(family: int, fields: dict[int, bytes]) -> str | None:
    """RTA_GATEWAY, or RTA_VIA {u16 family, address} where the next hop is of the other family."""
    via = fields.get(18)
    if via is not None and len(via) > 2:
        return _address(struct.unpack_from("=H", via)[0], via[2:])
    return _address(family, fields.get(5))


def _next_hops(data: bytes) -> Iterator[tuple[int, dict[int, bytes]]]:
    """RTA_MULTIPATH: a run of ``struct rtnexthop`` {u16 len, u8 flags, u8 hops, int ifindex}, attributes."""
    offset = 0
    while len(data) - offset >= 8:
        length, _, _, ifindex = struct.unpack_from("=HBBi", data, offset)
        if length < 8 or offset + length > len(data):
            raise ValueError("netlink next hop does not fit")
        yield ifindex, attributes(data[offset + 8 : offset + length])
        offset += (length + 3) & ~3


def read_qdiscs() -> list[Json]:
    """RTM_GETQDISC of all links. ``handle`` and ``parent`` are u32 (major << 16 | minor); the counters run
    since the qdisc was made and are null where the kernel sends none."""
    found = []
    for payload in netlink_dump(RTM_GETQDISC, struct.pack("=BxHiIII", 0, 0, 0, 0, 0, 0)):
        _, ifindex, handle, parent, _ = struct.unpack_from("=BxxxiIII", payload)
        fields = attributes(payload[20:])
        row = {"ifindex": ifindex, "kind": _text(fields.get(1)), "handle": handle, "parent": parent}
        row.update(_qdisc_counters(attributes(fields.get(7, b""))))
        found.append(row)
    return found


def _qdisc_counters(stats: dict[int, bytes]) -> Json:
    """TCA_STATS2 (linux/gen_stats.h): gnet_stats_basic {u64 bytes, u32 packets}, gnet_stats_queue {u32 qlen,
    u32 backlog, u32 drops, ...}, and the packets as u64 where they outgrew the u32."""
    basic, queue, wide = stats.get(1, b""), stats.get(3, b""), stats.get(8, b"")
    octets, packets = struct.unpack_from("=QI", basic) if len(basic) >= 12 else (None, None)
    if len(wide) >= 8:
        packets = struct.unpack_from("=Q", wide)[0]
    drops = struct.unpack_from("=I", queue, 8)[0] if len(queue) >= 12 else None
    return {"bytes": octets, "packets": packets, "drops": drops}


def read_filters(ifindex: int, hook: str, parent: int) -> list[Json]:
    """RTM_GETTFILTER of one hook of one link, in the order in which the kernel runs them (pref, then handle).

    ``hook`` is the tc hook, seen from the node: packets from a pod meet the `ingress` hook of its host veth.
    ``protocol`` is an EtherType number (3: all). Other classifiers than bpf are listed with program_id null.
    """
    found = []
    body = struct.pack("=BxHiIII", 0, 0, ifindex, 0, parent, 0)
    for payload in netlink_dump(RTM_GETTFILTER, body):
        _, index, handle, _, info = struct.unpack_from("=BxxxiIII", payload)
        fields = attributes(payload[20:])
        # The kernel first sends one message for the chain's classifier itself: no options, no filter. A hook that
        # shares a block of filters with others answers with TCM_IFINDEX_MAGIC_BLOCK, -1, in place of its link.
        if index in (ifindex, -1) and fields.get(2) is not None:
            found.append(_filter(ifindex, hook, handle, info, fields))
    return found


def _filter(ifindex: int, hook: str, handle: int, info: int, fields: dict[int, bytes]) -> Json:
    """tcm_info is pref << 16 | protocol (network order); options of cls_bpf: TCA_BPF_* of linux/pkt_cls.h."""
    kind = _text(fields.get(1))
    options = attributes(fields.get(2, b"")) if kind == "bpf" else {}
    return {
        "ifindex": ifindex,
        "hook": hook,
        "kind": kind,
        "protocol": socket.ntohs(info & 0xFFFF),
        "pref": info >> 16,
        "chain": _u32(fields.get(11)) or 0,
        "handle": handle,
        "name": _text(options.get(7)),
        "program_id": _u32(options.get(11)),
        "tag": options.get(10, b"").hex(),
        "direct_action": bool((_u32(options.get(8)) or 0) & 1),
    }


RTMGRP_LINK, RTMGRP_TC, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE = 0x1, 0x8, 0x40, 0x400
MOST_HEARD = 10_000
"""Messages of one drain: more come only while somebody makes links faster than they are looked at."""


class Watch:
    """Hears of every change of links, routes, qdiscs and tc filters from when it is made (rtnetlink groups).

    The kernel sends the message after the change, with the rtnl lock held: what was dumped before a drain that
    hears nothing is what is there. tcx is not told there.
    """

    def __init__(self) -> None:
        self.link: Any = None
        try:
            self.link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
            self.link.bind((0, RTMGRP_LINK | RTMGRP_TC | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE))
            self.link.setblocking(False)
        except (OSError, AttributeError):
            self.close()

    def quiet(self) -> bool:
        """Whether nothing was heard since the last call. False where it cannot be told."""
        if self.link is None:
            return False
        heard = False
        for _ in range(MOST_HEARD):
            try:
                self.link.recv(1 << 16)
            except BlockingIOError:
                return not heard
            except OSError:
                # ENOBUFS: more than the socket holds, and some of it is lost.
                pass
            heard = True
        return False

    def close(self) -> None:
        if self.link is not None:
            self.link.close()
        self.link = None


# ---------------------------------------------------------------------------------------------------------
# bpf(2) (linux/bpf.h: union bpf_attr, struct bpf_prog_info, struct bpf_map_info)
# ---------------------------------------------------------------------------------------------------------

SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}
MAP_LOOKUP_ELEM, MAP_GET_NEXT_KEY, OBJ_GET = 1, 4, 7
PROG_GET_NEXT_ID, MAP_GET_NEXT_ID, PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID = 11, 12, 13, 14
OBJ_GET_INFO_BY_FD, PROG_QUERY, MAP_LOOKUP_BATCH = 15, 16, 24
BPF_F_RDONLY = 1 << 3
TCX_INGRESS, TCX_EGRESS = 46, 47
TCX_SINCE = (6, 6)
"""Linux commit e420bed02507 ("bpf: Add fd-based tcx multi-prog infra with link support")."""
ATTR_SIZE = 128
"""Bytes given as union bpf_attr: more than any command here uses, the rest zero as the kernel demands."""
HASH, ARRAY, LRU_HASH, LPM_TRIE = 1, 2, 9, 11
READABLE_TYPES = (HASH, ARRAY, LRU_HASH, LPM_TRIE)
"""Map types whose lookup changes nothing. Queues and ring buffers are consumed by reading: never touched."""
MOST_OBJECTS = 1 << 20
MOST_USED_MAPS = 1 << 12
"""Of one program; the verifier takes 64 (MAX_USED_MAPS)."""
UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP)


class UnknownMachineError(Exception):
    """No system call number for this processor."""


MACHINE, POINTER_SIZE = os.uname().machine, struct.calcsize("P")
_libc: Any = None


def bpf(command: int, attr: bytearray) -> int:
    """The system call. ``attr`` is read and written in place. Raises ``OSError``."""
    global _libc
    number = SYSCALL_NUMBERS.get(MACHINE)
    if number is None or POINTER_SIZE != 8:
        raise UnknownMachineError(f"bpf(2) is known here for 64-bit x86_64 and aarch64, this is {MACHINE}")
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
        _libc.syscall.restype = ctypes.c_long
        _libc.syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)
    buffer = (ctypes.c_char * len(attr)).from_buffer(attr)
    result = int(_libc.syscall(number, command, ctypes.addressof(buffer), len(attr)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _attr(layout: str, *values: int) -> bytearray:
    """A zeroed union bpf_attr that begins with ``layout`` (struct format, no padding of its own)."""
    attr = bytearray(ATTR_SIZE)
    struct.pack_into("=" + layout, attr, 0, *values)
    return attr


def _pointer(buffer: Any) -> int:
    return ctypes.addressof(buffer)


def object_ids(command: int) -> Iterator[int]:
    """All ids by PROG_GET_NEXT_ID or MAP_GET_NEXT_ID: attr {u32 start_id, u32 next_id}."""
    current = 0
    for _ in range(MOST_OBJECTS):
        attr = _attr("I", current)
        try:
            bpf(command, attr)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        current = struct.unpack_from("=I", attr, 4)[0]
        yield current


def open_by_id(command: int, identifier: int) -> int:
    """A descriptor by PROG_GET_FD_BY_ID, or read-only by MAP_GET_FD_BY_ID: attr {u32 id, u32, u32 flags}."""
    return bpf(command, _attr("III", identifier, 0, BPF_F_RDONLY if command == MAP_GET_FD_BY_ID else 0))


def is_loaded(next_id: int, identifier: int) -> bool:
    """Whether there is a program or map of this id. One system call, and nothing is opened."""
    attr = _attr("I", identifier - 1)
    try:
        bpf(next_id, attr)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return bool(struct.unpack_from("=I", attr, 4)[0] == identifier)


def object_info(fd: int, info: Any) -> None:
    """Fill ``info`` by OBJ_GET_INFO_BY_FD: attr {u32 fd, u32 length, u64 pointer}."""
    bpf(OBJ_GET_INFO_BY_FD, _attr("IIQ", fd, ctypes.sizeof(info), _pointer(info)))


def program_info(fd: int) -> Json:
    """struct bpf_prog_info: 0 type, 4 id, 8 tag[8], 16 jited_len, 20 xlated_len, 40 load_time (ns since boot,
    CLOCK_BOOTTIME), 52 nr_map_ids, 56 map_ids pointer, 64 name[16]. Lengths in bytes."""
    room = 64
    while True:
        ids = (ctypes.c_uint32 * room)()
        info = ctypes.create_string_buffer(88)
        struct.pack_into("=IQ", info, 52, room, _pointer(ids))
        object_info(fd, info)
        raw = info.raw
        number = struct.unpack_from("=I", raw, 52)[0]
        if number <= room:
            break
        if number > MOST_USED_MAPS:
            raise OSError(errno.E2BIG, "more maps than a program can use")
        room = number
    kind, identifier, tag, jited, xlated = struct.unpack_from("=II8sII", raw)
    return {
        "id": identifier,
        "type": kind,
        "tag": tag.hex(),
        "name": _text(raw[64:80]),
        "jited": jited > 0,
        "xlated_len": xlated,
        "jited_len": jited,
        "load_time_ns": struct.unpack_from("=Q", raw, 40)[0],
        "map_ids": list(ids[:number]),
    }


def map_info(fd: int) -> Json:
    """struct bpf_map_info: u32 type, id, key_size, value_size (bytes), max_entries, flags; 24 name[16]."""
    info = ctypes.create_string_buffer(40)
    object_info(fd, info)
    kind, identifier, key_size, value_size, max_entries, flags = struct.unpack_from("=6I", info.raw)
    return {
        "id": identifier,
        "type": kind,
        "key_size": key_size,
        "value_size": value_size,
        "max_entries": max_entries,
        "flags": flags,
        "name": _text(info.raw[24:40]),
        "contents": None,
    }


def read_objects(what: str, next_id: int, by_id: int, info: Callable[[int], Json], report: Report) -> list[Json]:
    """Info of every loaded program or map. One that is gone before it is opened was never there."""
    found = []
    for identifier in object_ids(next_id):
        try:
            fd = open_by_id(by_id, identifier)
            try:
                found.append(info(fd))
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno != errno.ENOENT:
                report.fail(f"{what} {identifier}", error)
    return found


def kernel_before(version: tuple[int, int]) -> bool:
    """Whether this kernel is known to be older."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", os.uname().release)
    return found is not None and (int(found.group(1)), int(found.group(2))) < version


def read_tcx(ifindex: int, attach_type: int) -> list[int]:
    """Program ids of one tcx hook by PROG_QUERY, in the order in which they run; empty: nothing is attached.

    attr: 0 ifindex, 4 attach_type, 8 query_flags, 12 attach_flags, 16 u64 prog_ids, 24 u32 count.
    """
    room = 64
    for _ in range(4):
        ids = (ctypes.c_uint32 * room)()
        attr = _attr("IIIIQI", ifindex, attach_type, 0, 0, _pointer(ids), room)
        try:
            bpf(PROG_QUERY, attr)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return []
            if error.errno != errno.ENOSPC:
                raise
            room *= 4
            continue
        return list(ids[: struct.unpack_from("=I", attr, 24)[0]])
    raise OSError(errno.ENOSPC, "more programs than room")


# ---------------------------------------------------------------------------------------------------------
# Map contents
# ---------------------------------------------------------------------------------------------------------

BATCH_BYTES = 1 << 20
"""Keys and values of one batch lookup; the first guess, doubled where one hash bucket does not fit."""
PASSES = 4
"""Readings of a map that changes under the cursor, before an incomplete one is accepted."""
MOST_BYTES_PER_MAP = 160 << 20
"""Above the largest map of the agent: conntrack, 1,048,576 entries of 60 + 16 bytes."""
COLUMNS_FROM = 4096
"""Entries from which a map is sent by columns."""
INDEX_FROM = 4096
"""Bytes that must be saved for equal values to be sent once."""
MOST_BYTES = 256 << 20
"""All contents together, so that the reader stays inside the memory limit of its pod."""
TRACED_PER_MAP, TRACED = 2 << 20, 16 << 20
"""Bytes of a map, and of all maps, that are read twice: 7000 IPv4 prefixes. That costs little beside the rest."""
TRACED_THOROUGHLY = 64 << 20
"""The same for both where the request says ``thorough``."""


NO_END = "the map changed so fast that its reading found no end"


class NoBatchError(Exception):
    """This kernel has no batch lookup for this map type."""


class RestartedError(Exception):
    """A key came twice: the key under the cursor was deleted, and the kernel began again from the first."""


class ChangedError(Exception):
    """The second reading of a map is not the first one."""


class Trace:
    """The bytes that one reading of a map saw, in their order, so that a second one can be held against it.

    The kernel keeps no generation of a map, and no snapshot: that a dump is not torn is known only where another
    one, begun after its end, sees the same bytes. Not for conntrack: packets change it all the time, and each of
    its entries stands for itself.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.begin("")

    def begin(self, method: str) -> None:
        self.method = method
        self.parts: list[tuple[bytes, bytes]] = []
        self.size = self.count = 0
        self.torn = False

    def add(self, keys: bytes, values: bytes, count: int) -> None:
        self.count += count
        self.size += len(keys) + len(values)
        if self.size <= self.room:
            self.parts.append((keys, values))
        else:
            self.parts.clear()

    @property
    def whole(self) -> bool:
        """Whether all of it is kept."""
        return self.size <= self.room


class Again:
    """Stands in for ``Entries`` in a second reading. Raises ``ChangedError`` at the first other byte."""

    def __init__(self, trace: Trace) -> None:
        self.expected = iter(trace.parts)
        self.total = self.bytes = 0

    def add(self, keys: bytes, values: bytes, count: int) -> None:
        self.total += count
        if next(self.expected, None) != (keys, values):
            raise ChangedError


def is_unchanged(fd: int, info: Json, trace: Trace) -> bool:
    """Whether the map holds the same bytes in the same order as when ``trace`` was made."""
    if trace.method == "batch" and len(trace.parts) < 2:
        return _is_same_piece(fd, info, trace)
    again = Again(trace)
    try:
        read = _batch_pass if trace.method == "batch" else _next_key_pass
        reason = read(fd, info, again, trace.size + 1)
    except ChangedError:
        return False
    return not reason and again.total == trace.count


def _is_same_piece(fd: int, info: Json, trace: Trace) -> bool:
    """One batch lookup with room for one entry more: all of them, and the end (ENOENT)."""
    sizes = [(trace.count + 1) * int(info[name]) for name in ("key_size", "value_size")]
    keys, values = _buffer("keys", sizes[0]), _buffer("values", sizes[1])
    cursor = _buffer("cursor", max(8, int(info["key_size"])))
    attr = _attr("QQQQII", 0, _pointer(cursor), _pointer(keys), _pointer(values), trace.count + 1, fd)
    code = _lookup_batch(attr)
    if code not in (0, errno.ENOENT, errno.EINTR, errno.ENOSPC):
        raise OSError(code, os.strerror(code))
    if code != errno.ENOENT or struct.unpack_from("=I", attr, 32)[0] != trace.count:
        return False
    old_keys, old_values = trace.parts[0] if trace.parts else (b"", b"")
    return _head(keys, len(old_keys)) == old_keys and _head(values, len(old_values)) == old_values


class Numbers(dict):  # type: ignore[type-arg]
    """Numbers for what it is asked for, in the order of asking: 0, 1, 2 ..."""

    def __missing__(self, key: bytes) -> int:
        number = self[key] = len(self)
        return number


class Entries:
    """Gathers keys and values of one reading, keeping those whose key contains one of ``addresses``.

    ``unique``: the cursor is a key, so a key that comes twice tells of a restart. ``tolerant``: take that and
    go on, with the newer value.
    """

    trace: Trace | None = None

    def __init__(self, info: Json, addresses: list[bytes] | None, unique: bool, tolerant: bool) -> None:
        self.key_size, self.value_size = int(info["key_size"]), int(info["value_size"])
        self.addresses = addresses
        self.unique, self.tolerant = unique, tolerant
        self.seen: set[Any] = set()
        # The rules of most prefixes are the same few ones: a value is kept once, and by its number after that.
        self.distinct = Numbers()
        self.kept: dict[Any, int] = {}
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.total = self.bytes = 0
        self.restarts = 0

    def add(self, keys: bytes, values: bytes, count: int) -> None:
        self.total += count
        if self.trace is not None:
            self.trace.add(keys, values, count)
        if self.unique:
            self._add_unique(keys, values, count)
        elif self.addresses is None:
            self.keys.append(keys)
            self.values.append(values)
            self.bytes += len(keys) + len(values)
        else:
            wanted = matching(keys, self.key_size, self.addresses)
            self.keys.extend(_element(keys, self.key_size, index) for index in wanted)
            self.values.extend(_element(values, self.value_size, index) for index in wanted)
            self.bytes += len(wanted) * (self.key_size + self.value_size)

    def _add_unique(self, keys: bytes, values: bytes, count: int) -> None:
        names = _names(keys, self.key_size)
        known = self.kept if self.addresses is None else self.seen
        before = len(known)
        if self.addresses is None:
            self.kept.update(zip(names, map(self.distinct.__getitem__, _cut(values, self.value_size))))
        else:
            self.seen.update(names)
            for index in matching(keys, self.key_size, self.addresses):
                self.kept[names[index]] = self.distinct[_element(values, self.value_size, index)]
        if len(known) - before < count:
            self.restarts += 1
            if not self.tolerant:
                raise RestartedError
        self.bytes = len(self.kept) * (self.key_size + self.value_size)

    def joined(self) -> tuple[bytes, bytes, bytes]:
        """Keys, values, and nothing or, where it is worth it, for each key the u32 index of its value."""
        if not self.unique:
            return b"".join(self.keys), b"".join(self.values), b""
        keys, numbers = _joined(self.kept, self.key_size), self.kept.values()
        repeated = (len(numbers) - len(self.distinct)) * self.value_size
        if repeated - 4 * len(numbers) >= INDEX_FROM:
            return keys, b"".join(self.distinct), struct.pack(f"<{len(numbers)}I", *numbers)
        values = list(self.distinct)
        return keys, b"".join([values[number] for number in numbers]), b""

    def seen_entries(self) -> int:
        """Entries of the map that passed by, kept or not."""
        if not self.unique:
            return self.total
        return len(self.kept if self.addresses is None else self.seen)


def _names(keys: bytes, size: int) -> list[Any]:
    """The packed keys one by one, to be told apart. Those of 8 bytes as numbers: an IPv4 trie is read faster so."""
    return list(memoryview(keys).cast("Q")) if size == 8 else _cut(keys, size)


def _joined(names: Iterable[Any], size: int) -> bytes:
    """The inverse of ``_names``."""
    if size != 8:
        return b"".join(names)
    numbers = list(names)
    return struct.pack(f"={len(numbers)}Q", *numbers)


def _element(packed: bytes, size: int, index: int) -> bytes:
    return packed[index * size : (index + 1) * size]


def _cut(packed: bytes, size: int) -> list[bytes]:
    return [packed[start : start + size] for start in range(0, len(packed), size)]


def matching(keys: bytes, key_size: int, addresses: list[bytes]) -> list[int]:
    """Indexes of the packed keys that contain one of the addresses (4 or 16 network-order bytes) anywhere.

    A byte search, not a decoder: an address that lies across two fields is kept too. What the entry means is
    decided by whoever knows the layout.
    """
    found: set[int] = set()
    for address in addresses:
        position = keys.find(address)
        while position >= 0:
            index, inside = divmod(position, key_size)
            if inside + len(address) <= key_size:
                found.add(index)
                position = keys.find(address, (index + 1) * key_size)
            else:
                position = keys.find(address, position + 1)
    return sorted(found)


def read_contents(
    fd: int,
    info: Json,
    addresses: list[bytes] | None,
    room: int,
    batch: bool = True,
    trace: Trace | None = None,
) -> Json:
    """All entries of an open map, or those with one of ``addresses`` in the key. ``trace``: gets what was seen.

    The kernel has no snapshot of a map: entries that come and go during the reading may be in or out. A
    cursor that is a key and loses it begins again from the first one; such a reading is thrown away and
    repeated, and the last try is kept with ``complete`` false.
    """
    method, reader = ("batch", _batch_pass) if batch else ("next_key", _next_key_pass)
    for attempt in range(PASSES):
        last = attempt == PASSES - 1
        # The batch cursor of a hash is a bucket number: it cannot get lost, and copies
        # a bucket under its lock.
        unique = method == "next_key" or info["type"] not in (HASH, LRU_HASH)
        entries = Entries(info, addresses, unique, tolerant=last)
        entries.trace = trace
        if trace is not None:
            trace.begin(method)
        try:
            reason = reader(fd, info, entries, min(room, MOST_BYTES_PER_MAP))
        except NoBatchError:
            return read_contents(fd, info, addresses, room, batch=False, trace=trace)
        except RestartedError:
            continue
        if trace is not None:
            trace.torn = entries.restarts > 0 or reason == NO_END
        return _contents(method, entries, addresses is not None, reason)
    raise AssertionError("the last pass is tolerant")


def _contents(method: str, entries: Entries, filtered: bool, reason: str) -> Json:
    """The row's ``contents``: keys and values in base64, see ``joined`` and ``by_columns`` for their packing.

    ``index`` is there where equal values are sent once, ``columns`` is true where all parts are by columns.
    """
    keys, values, index = entries.joined()
    count = len(keys) // entries.key_size
    if entries.restarts and not reason:
        reason = f"the map changed while it was read, in each of {PASSES} readings"
    contents: Json = {
        "method": method,
        "count": count,
        "total": entries.seen_entries(),
        "complete": not reason,
        "filtered": filtered,
    }
    columns = count >= COLUMNS_FROM
    for name, packed, size in (
        ("keys", keys, entries.key_size),
        ("values", values, entries.value_size),
        ("index", index, 4),
    ):
        if packed or name != "index":
            contents[name] = _text64(by_columns(packed, size) if columns else packed)
    if columns:
        contents["columns"] = True
    contents["reason"] = reason
    return contents


def _text64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def by_columns(packed: bytes, size: int) -> bytes:
    """Byte 0 of every element, then byte 1 of every element ... Equal bytes of neighbours come together, which
    makes a large map smaller, and fast to compress."""
    return b"".join([packed[offset::size] for offset in range(size)])


def _bound(info: Json) -> int:
    """Entries after which a cursor that finds no end is given up."""
    return 3 * int(info["max_entries"]) + 65536


_buffers: dict[str, Any] = {}


def _buffer(name: str, size: int) -> Any:
    """Memory for one batch, kept for the next one: to get it anew takes longer than a small map."""
    found = _buffers.get(name)
    if found is None or len(found) < size:
        found = _buffers[name] = ctypes.create_string_buffer(size)
    return found


def _batch_pass(fd: int, info: Json, entries: Entries | Again, room: int) -> str:
    """One reading with MAP_LOOKUP_BATCH. Returns why it is incomplete, or "".

    attr: u64 in_batch, u64 out_batch, u64 keys, u64 values, u32 count (in: room, out: got), u32 fd, u64, u64.
    The cursor is a u32 bucket number for hashes and a whole key for the rest: both buffers are large enough.
    """
    key_size, value_size = int(info["key_size"]), int(info["value_size"])
    count = max(64, min(16384, BATCH_BYTES // (key_size + value_size)))
    cursors = [_buffer(name, max(8, key_size)) for name in ("cursor", "next cursor")]
    keys = values = None
    started, idle = False, 0
    while entries.total < _bound(info):
        if keys is None or values is None:
            keys, values = _buffer("keys", count * key_size), _buffer("values", count * value_size)
        attr = _attr(
            "QQQQII",
            _pointer(cursors[0]) if started else 0,
            _pointer(cursors[1]),
            _pointer(keys),
            _pointer(values),
            count,
            fd,
        )
        code = _lookup_batch(attr)
        if code == errno.ENOSPC:
            if count > 2 * int(info["max_entries"]) + 64:
                return "ENOSPC: a bucket does not fit into the buffer"
            count, keys, values = count * 2, None, None
            continue
        if code in UNSUPPORTED and not started:
            raise NoBatchError
        # EINTR: older kernels give up after a few entries that were deleted under them; what came is good.
        if code not in (0, errno.ENOENT, errno.EINTR):
            raise OSError(code, os.strerror(code))
        got = struct.unpack_from("=I", attr, 32)[0]
        if got:
            entries.add(memoryview(keys)[: got * key_size].tobytes(), _head(values, got * value_size), got)
            cursors.reverse()
            started = True
        if code == errno.ENOENT:
            return ""
        idle = 0 if got else idle + 1
        if idle > 100:
            return f"{errno.errorcode.get(code, 'no progress')}: the cursor did not move in {idle} lookups"
        if entries.bytes > room:
            return f"more than {room >> 20} MiB"
    return NO_END


def _head(buffer: Any, length: int) -> bytes:
    return memoryview(buffer)[:length].tobytes()


def _lookup_batch(attr: bytearray) -> int:
    """errno of one batch lookup, 0 for success."""
    try:
        bpf(MAP_LOOKUP_BATCH, attr)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _next_key_pass(fd: int, info: Json, entries: Entries | Again, room: int) -> str:
    """One reading with MAP_GET_NEXT_KEY and MAP_LOOKUP_ELEM: attr {u32 fd, u32, u64 key, u64 value or next}.

    Returns why it is incomplete, or "". An entry deleted between the two calls is left out.
    """
    key = ctypes.create_string_buffer(int(info["key_size"]))
    following = ctypes.create_string_buffer(int(info["key_size"]))
    value = ctypes.create_string_buffer(int(info["value_size"]))
    first_key = _attr("IIQQ", fd, 0, 0, _pointer(following))
    next_key = _attr("IIQQ", fd, 0, _pointer(key), _pointer(following))
    lookup = _attr("IIQQ", fd, 0, _pointer(key), _pointer(value))
    step = first_key
    for _ in range(_bound(info)):
        if not _found(MAP_GET_NEXT_KEY, step):
            return ""
        key.raw, step = following.raw, next_key
        if _found(MAP_LOOKUP_ELEM, lookup):
            entries.add(key.raw, value.raw, 1)
        if entries.bytes > room:
            return f"more than {room >> 20} MiB"
    return NO_END


def _found(command: int, attr: bytearray) -> bool:
    try:
        bpf(command, attr)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


# ---------------------------------------------------------------------------------------------------------
# bpffs and pins
# ---------------------------------------------------------------------------------------------------------

BPFFS_PATHS = ("/sys/fs/bpf", "/host/sys/fs/bpf")
"""The pod's own mount of the host's bpffs first; below /host it depends on how the runtime binds /."""
BPF_FS_MAGIC = 0xCAFE4A11
AGENT_DIRECTORY = "globals/aws"
CONNTRACK_PIN = "global_aws_conntrack_map"
PIN_KINDS = (("bpf-map", "map"), ("bpf-prog", "prog"), ("bpf_link", "link"), ("bpf-link", "link"))


def file_system_magic(path: str) -> int:
    """f_type of statfs(2), its first field: a long."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(256)
    if libc.statfs(ctypes.c_char_p(os.fsencode(path)), buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(struct.unpack_from("=q", buffer.raw)[0]) & 0xFFFFFFFF


def find_bpffs(paths: Iterable[str] = BPFFS_PATHS) -> Json:
    """The first path that really is a bpf filesystem, one with the agent's directory before one without."""
    reasons, mounted = [], []
    for path in paths:
        try:
            magic = file_system_magic(path)
        except OSError as error:
            reasons.append(f"{path}: {describe(error)}")
            continue
        if magic == BPF_FS_MAGIC:
            mounted.append(path)
        else:
            reasons.append(f"{path}: not a bpf filesystem (type {magic:#x})")
    for path in mounted:
        if os.path.isdir(f"{path}/{AGENT_DIRECTORY}"):  # noqa: PTH112 - one string is enough here
            return {"path": path, "reason": ""}
    return {"path": mounted[0] if mounted else None, "reason": "" if mounted else "; ".join(reasons)}


def read_pins(root: str, report: Report) -> list[Json]:
    """Every file below ``root``/globals/aws with the kind and id of the object behind it."""
    top = f"{root}/{AGENT_DIRECTORY}"
    found: list[Json] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            names = sorted(os.listdir(f"{top}/{folder}"))  # noqa: PTH208 - a name is enough here
        except OSError as error:
            if error.errno == errno.ENOENT and not folder:
                report.notes.append(f"{top} does not exist: the agent loaded nothing since the node's boot")
                return []
            report.fail(f"pins {folder or AGENT_DIRECTORY}", error)
            continue
        for name in names:
            path = f"{folder}/{name}" if folder else name
            if os.path.isdir(f"{top}/{path}"):  # noqa: PTH112
                pending.append(path)
            else:
                found.append(_pin(top, path))
    return found


def pin_inodes(root: str) -> dict[str, int]:
    """Path -> inode number of every pin. An inode of bpffs stands for one object as long as it lives, and its number
    is not given to another one: a path with the same number leads to the same object."""
    top = f"{root}/{AGENT_DIRECTORY}"
    found: dict[str, int] = {}
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(f"{top}/{folder}") as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(path)
                    else:
                        found[path] = entry.inode()
        except FileNotFoundError:
            continue
    return found


def _pin(top: str, path: str) -> Json:
    try:
        kind, identifier = open_pin(f"{top}/{path}")
    except OSError as error:
        # The kernel opens a pinned link for writing only, and refuses read-only with EINVAL.
        if error.errno == errno.EINVAL:
            return {"path": path, "kind": "link", "id": None, "reason": "a link cannot be opened read-only"}
        return {"path": path, "kind": "unknown", "id": None, "reason": describe(error)}
    return {"path": path, "kind": kind, "id": identifier, "reason": ""}


def open_pin(path: str) -> tuple[str, int | None]:
    """(kind, id) of a pin by OBJ_GET with BPF_F_RDONLY: attr {u64 path, u32 fd, u32 file_flags}."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    fd = bpf(OBJ_GET, _attr("QII", _pointer(name), 0, BPF_F_RDONLY))
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
        kind = next((kind for word, kind in PIN_KINDS if word in target), "unknown")
        if kind == "unknown":
            return kind, None
        # The id is the second u32 of all three info structs.
        info = ctypes.create_string_buffer(40)
        object_info(fd, info)
        return kind, struct.unpack_from("=I", info.raw, 4)[0]
    finally:
        os.close(fd)


# ---------------------------------------------------------------------------------------------------------
# The agent's log and run directory
# ---------------------------------------------------------------------------------------------------------

ROOTS = ("/host", "")
"""Where the node's files are: below /host in a debug pod, and at / where the reader runs on the node itself."""
LOG_DIRECTORY = "/var/log/aws-routed-eni"
AGENT_LOG, SDK_LOG = "network-policy-agent.log", "ebpf-sdk.log"
RUN_DIRECTORIES = ("/var/run/aws-node", "/run/aws-node")
"""/var/run is a link to /run, which below /host may lead out of it."""
LONGEST_LOG_LINE = 2048
"""Bytes; a flow line has about 300. Longer ones (the agent writes whole rule sets) are passed over."""
MOST_LOG_LINES = 50_000
ROTATIONS_MET = 3
"""Times that the log is read again because it was rotated meanwhile."""
TAIL_BYTES = 4 << 20
"""Of each log, what is searched for errors."""
MOST_ERRORS = 40
DAY_NS = 86_400 * 10**9
FLOW_MARK = b"Flow Info"
FLOW_ADDRESS = re.compile(rb'(?:Src|Dest) IP"?:\s*"?([0-9A-Fa-f.:]+)')
FLOW_VERDICT = re.compile(rb'Verdict"?:?\s*"?([A-Z/]+)')
LOG_TIME = re.compile(
    rb'"(?:ts|timestamp)":\s*"?(?:(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?'
    rb"(?:Z|([+-])(\d\d):?(\d\d))?|(\d{1,11}(?:\.\d{1,9})?))"
)
LOG_LEVEL = re.compile(rb'"level":\s*"(error|warn|fatal|panic|dpanic)"')
TELLING = re.compile(
    rb"Pod State Map update failed|BPF map update failed|Failed to Attach (?:Ingress|Egress) TC probe"
    rb"|Attaching eBPF probe failed for pod|Not found any interface starting with prefixes|supported maximum of 24"
    rb"|BPF State Recovery failed|One of the policy reconcilers is not ready|Network Policy Mode validation failed"
    rb"|unable to create/update map entry and ret -1|required BPF map pin missing"
)
"""User pain, "Log lines worth grepping", whatever their level is. Not "Target Pod doesn't belong to the current pod
Identifier": agents that write it do so for every other pod of a policy, with nothing wrong."""


def read_flow_log(request: Json, roots: Iterable[str] = ROOTS) -> Json:
    """Flow lines with one of the addresses, of the log and its rotations, the newest ``most`` of them.

    ``seen``: flow lines of the period with any address. ``left_out``: lines that were wanted and are too many.
    ``position``: the end of what was read, for ``after`` of the next request.
    """
    wanted = LogWanted(request)
    found: Json = {
        "path": None, "lines": [], "complete": False, "left_out": 0, "seen": 0, "position": None, "files": [],
        "reason": "", "addresses": wanted.addresses, "since_ns": wanted.since_ns, "all": wanted.all,
    }  # fmt: skip
    folder, name, found["reason"] = _log_folder(str(request.get("path") or ""), roots)
    if folder is None:
        return found
    found["path"] = f"{folder}/{name}"
    after = request.get("after")
    for _ in range(ROTATIONS_MET):
        result = _flow_lines(folder, name, wanted, after if isinstance(after, dict) else None)
        found.update(result)
        if not found.pop("rotated"):
            return found
    found.update(complete=False, reason=f"{found['path']} was rotated each time while it was read")
    return found


class LogWanted:
    """What of the log is asked for."""

    def __init__(self, request: Json) -> None:
        self.addresses = [str(text) for text in request.get("addresses") or ()]
        self.tokens = {token for text in self.addresses for token in logged_forms(text)}
        since = int(request.get("since_ns") or 0)
        last = int(request.get("last_ns") or 0)
        # The period by the node's own clock: that of the user's machine may be another.
        self.since_ns = max(since, time.time_ns() - last) if last else since
        self.all = bool(request.get("all"))
        self.most = max(1, min(int(request.get("most") or MOST_LOG_LINES), MOST_LOG_LINES))

    def takes(self, line: bytes) -> bool:
        if not any(token.lower() in self.tokens for token in FLOW_ADDRESS.findall(line)):
            return False
        if self.all:
            return True
        verdict = FLOW_VERDICT.search(line)
        return verdict is not None and verdict.group(1) == b"DENY"


def logged_forms(text: str) -> Iterator[bytes]:
    """How the agent may write an address: in IPv4 without the octets at the end that are zero."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return
    mapped = address.ipv4_mapped if address.version == 6 else None
    for one in (address, mapped) if mapped else (address,):
        yield str(one).encode()
        if one.version == 4:
            octets = str(one).split(".")
            while len(octets) > 1 and octets[-1] == "0":
                octets.pop()
            yield ".".join(octets).encode()


def _log_folder(path: str, roots: Iterable[str]) -> tuple[str | None, str, str]:
    """(directory as seen from here, name of the log, why there is none)."""
    folder, name = path.rsplit("/", 1) if path.startswith("/") and path.endswith(".log") else (LOG_DIRECTORY, AGENT_LOG)
    reasons = []
    for root in roots:
        try:
            os.listdir(root + folder)  # noqa: PTH208 - whether it can be listed is what is asked
            return root + folder, name, ""
        except OSError as error:
            reasons.append(f"{root}{folder}: {describe(error)}")
    return None, name, "; ".join(reasons)


def _rotations(folder: str, name: str) -> list[str]:
    """Names of the rotated logs, the newest first: `<name>-<time>.log`, or packed with `.gz` (lumberjack)."""
    stem, dot, ending = name.rpartition(".")
    pattern = re.compile(
        re.escape(stem) + r"-(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3})" + re.escape(dot + ending) + r"(\.gz)?"
    )
    found: dict[str, str] = {}
    for entry in sorted(os.listdir(folder)):  # noqa: PTH208
        match = pattern.fullmatch(entry)
        # While it is packed both are there, and the packed one is not whole.
        if match and not (match.group(1) in found and match.group(2)):
            found[match.group(1)] = entry
    return [found[when] for when in sorted(found, reverse=True)]


def _flow_lines(folder: str, name: str, wanted: LogWanted, after: Json | None) -> Json:
    """One reading: the log itself first, then its rotations, until one ended before the period."""
    result: Json = {
        "lines": [],
        "left_out": 0,
        "seen": 0,
        "position": None,
        "files": [],
        "rotated": False,
        "reason": "",
    }
    path, reasons, inode = f"{folder}/{name}", [], None
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            inode = status.st_ino
            same = after is not None and after.get("inode") == inode and 0 <= int(after["offset"]) <= status.st_size
            file.seek(int(after["offset"]) if after is not None and same else 0)
            result["position"] = {"inode": inode, "offset": _take(file, wanted, result, whole=False)}
            result["files"].append(name)
    except FileNotFoundError:
        same = False
    except OSError as error:
        reasons.append(f"{path}: {describe(error)}")
        same = False
    if not same:
        reasons += _older_lines(folder, name, wanted, after, inode, result)
    if not result["files"] and not reasons:
        reasons.append(f"{path} does not exist")
    try:
        result["rotated"] = inode is not None and os.stat(path).st_ino != inode  # noqa: PTH116
    except OSError:
        result["rotated"] = inode is not None
    result["reason"] = "; ".join(reasons)
    result["complete"] = not reasons and not result["left_out"]
    return result


def _older_lines(
    folder: str, name: str, wanted: LogWanted, after: Json | None, inode: int | None, result: Json
) -> list[str]:
    """Of the rotations; with ``after`` those since then. Returns what could not be read."""
    reasons: list[str] = []
    for entry in _rotations(folder, name):
        path = f"{folder}/{entry}"
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino == inode:
                    continue
                if status.st_mtime_ns < wanted.since_ns:
                    return reasons
                if len(result["lines"]) >= wanted.most:
                    return [*reasons, f"{entry} and older ones were not read: there are enough lines"]
                last = after is not None and after.get("inode") == status.st_ino
                if after is not None and not last and entry.endswith(".gz"):
                    return [*reasons, f"the log was rotated and packed meanwhile: {entry} was not read"]
                if last and after is not None:
                    file.seek(max(0, int(after["offset"])))
                _take(_unpacked(file) if entry.endswith(".gz") else file, wanted, result, whole=True)
                result["files"].append(entry)
                if last:
                    return reasons
        except (OSError, EOFError, ValueError, zlib.error) as error:
            reasons.append(f"{path}: {describe(error)}")
    if after is not None:
        reasons.append("where the last reading ended is gone: the log was rotated more often than it is kept")
    return reasons


def _unpacked(file: Any) -> Any:
    import gzip
    import io

    return io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 20)


def _take(file: Any, wanted: LogWanted, result: Json, whole: bool) -> int:
    """Put the lines of a file, which is older than what is there, in front. Returns the offset after its last whole
    line; ``whole``: the file has an end, and its last line needs no newline."""
    room = wanted.most - len(result["lines"])
    kept: collections.deque[str] = collections.deque(maxlen=max(0, room))
    offset, found = int(file.tell()), 0
    for line, length in log_lines(file, whole):
        offset += length
        if FLOW_MARK not in line:
            continue
        when = line_time(line)
        if when is not None and when < wanted.since_ns:
            continue
        result["seen"] += 1
        if wanted.takes(line):
            found += 1
            kept.append(line.decode("utf-8", "replace").strip())
    result["left_out"] += found - len(kept)
    result["lines"][:0] = kept
    return offset


def log_lines(file: Any, whole: bool) -> Iterator[tuple[bytes, int]]:
    """(line, bytes it takes in the file); of a line that is too long an empty one."""
    while True:
        line = file.readline(LONGEST_LOG_LINE)
        length = len(line)
        if not line.endswith(b"\n") and length == LONGEST_LOG_LINE:
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(1 << 16)
                length += len(rest)
            if not rest and not whole:
                return
            yield b"", length
            continue
        if not line or (not line.endswith(b"\n") and not whole):
            # The agent is in the middle of a line: the next reading has it whole.
            return
        yield line, length


def line_time(line: bytes) -> int | None:
    """``ts`` or ``timestamp`` of a line, in ns since the epoch; None where it has none."""
    found = LOG_TIME.search(line)
    if found is None:
        return None
    if found.group(11):
        return int(float(found.group(11)) * 1e9)
    try:
        seconds = calendar.timegm(tuple(int(found.group(index)) for index in range(1, 7)))
    except (ValueError, OverflowError):
        return None
    if found.group(8):
        offset = int(found.group(9)) * 3600 + int(found.group(10)) * 60
        seconds += -offset if found.group(8) == b"+" else offset
    return seconds * 10**9 + int((found.group(7) or b"0").ljust(9, b"0"))


def read_agent_log(request: Json, roots: Iterable[str] = ROOTS) -> Json:
    """The last ``bytes`` of each log, as lines. ``left_out``: flow lines, which are asked for by address, and long
    ones, in which the agent writes whole rule sets."""
    most = max(1, min(int(request.get("bytes") or TAIL_BYTES), TAIL_BYTES))
    folder, name, reason = _log_folder(str(request.get("path") or ""), roots)
    found: Json = {"files": [], "reason": reason if folder is None else ""}
    reasons = []
    for entry in (name, SDK_LOG) if folder is not None else ():
        try:
            with open(f"{folder}/{entry}", "rb") as file:
                found["files"].append(_log_end(file, entry, most))
        except FileNotFoundError:
            continue
        except OSError as error:
            reasons.append(f"{folder}/{entry}: {describe(error)}")
    if folder is not None:
        found["reason"] = "; ".join(reasons) or ("" if found["files"] else f"{folder} holds no log of the agent")
    return found


def _log_end(file: Any, name: str, most: int) -> Json:
    size = os.fstat(file.fileno()).st_size
    start = max(0, size - most)
    file.seek(start)
    kept: collections.deque[str] = collections.deque(maxlen=MOST_LOG_LINES)
    left_out = 0
    for number, (line, _) in enumerate(log_lines(file, whole=True)):
        if start and not number:
            # What the first line lost is not known.
            continue
        if not line or FLOW_MARK in line:
            left_out += 1
            continue
        kept.append(line.decode("utf-8", "replace").rstrip())
    return {"file": name, "lines": list(kept), "whole": not start, "left_out": left_out}


def read_agent(roots: Iterable[str] = ROOTS) -> Json:
    """What the agent complains about, what is in its run directory, and the node's own conntrack."""
    roots = tuple(roots)
    found: Json = {"errors": [], "npa_socket": None, "format_marker": None, "reason": ""}
    reasons = []
    folder, _, reason = _log_folder("", roots)
    if folder is None:
        reasons.append(reason)
    else:
        found["errors"], unread = _log_errors(folder)
        reasons += unread
    run = next((r + d for r in roots for d in RUN_DIRECTORIES if os.path.isdir(r + d)), None)  # noqa: PTH112
    if run is None:
        reasons.append(f"{RUN_DIRECTORIES[0]} was not found")
    else:
        found["npa_socket"] = os.path.exists(f"{run}/npa.sock")  # noqa: PTH110
        found["format_marker"] = os.path.exists(f"{run}/.npa_format_v2")  # noqa: PTH110
    for name in ("nf_conntrack_count", "nf_conntrack_max"):
        found[name] = _number_in(f"/proc/sys/net/netfilter/{name}")
    found["reason"] = "; ".join(reasons)
    return found


def _number_in(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return None


def _log_errors(folder: str) -> tuple[list[Json], list[str]]:
    """(complaints of the last 24 hours, the newest first, equal ones once; what could not be read)."""
    since = time.time_ns() - DAY_NS
    newest: dict[tuple[str, str], int] = {}
    counts: dict[tuple[str, str], int] = {}
    unread = []
    for name in (AGENT_LOG, SDK_LOG):
        path = f"{folder}/{name}"
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_mtime_ns < since:
                    continue
                start = max(0, status.st_size - TAIL_BYTES)
                file.seek(start)
                # What the first line lost is not known: it is passed over.
                lines = log_lines(file, whole=True)
                for number, (line, _) in enumerate(lines):
                    when = line_time(line)
                    if (start and not number) or not _complains(line) or (when is not None and when < since):
                        continue
                    key = complaint(line), name
                    counts[key] = counts.get(key, 0) + 1
                    newest[key] = when or status.st_mtime_ns
        except FileNotFoundError:
            continue
        except OSError as error:
            unread.append(f"{path}: {describe(error)}")
    order = sorted(newest, key=lambda key: newest[key], reverse=True)[:MOST_ERRORS]
    return [{"line": line, "count": counts[line, name], "file": name} for line, name in order], unread


def _complains(line: bytes) -> bool:
    return FLOW_MARK not in line and (LOG_LEVEL.search(line) is not None or TELLING.search(line) is not None)


def complaint(line: bytes) -> str:
    """The line without what differs each time: `error: unable to update map (error: permission denied)`."""
    text = line.decode("utf-8", "replace").strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return LOG_TIME.sub(b"", line).decode("utf-8", "replace").strip()[:300]
    plain = ("level", "ts", "timestamp", "logger", "caller", "msg", "stacktrace")
    rest = ", ".join(f"{name}: {value}" for name, value in found.items() if name not in plain)
    said = f"{found.get('level', '')}: {found.get('msg', '')}" + (f" ({rest})" if rest else "")
    return " ".join(said.split())[:300]


# ---------------------------------------------------------------------------------------------------------
# The document
# ---------------------------------------------------------------------------------------------------------


def clocks() -> Json:
    """Now, in ns: CLOCK_MONOTONIC (conntrack's last_seen), CLOCK_BOOTTIME (load_time), CLOCK_REALTIME."""
    return {
        "monotonic_ns": time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        "boottime_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        "realtime_ns": time.clock_gettime_ns(time.CLOCK_REALTIME),
    }


def collect(request: Json, bpffs_paths: Iterable[str] = BPFFS_PATHS) -> Json:
    """All that the request asks for, as the JSON document. Every key is there; null: could not be read."""
    report, begin = Report(), clocks()
    system = os.uname()
    pods = [pod for pod in request.get("pods") or () if isinstance(pod, dict)]
    document: Json = {
        "format": FORMAT,
        "reader": READER_VERSION,
        "uname": {name: getattr(system, name) for name in ("sysname", "release", "machine", "nodename")},
        "python": sys.version.split()[0],
        "clock": {"begin": begin, "end": begin},
        "bpffs": find_bpffs(bpffs_paths),
    }
    wanted = Wanted(request, pods, requested_addresses(pods, report))
    picture, document["consistency"] = look_until_steady(wanted, document["bpffs"])
    document.update(picture.document)
    # After the maps: a line about the rules that were read is then there, rather than the rules of a line.
    if isinstance(request.get("log"), dict):
        document["flow_log"] = report.attempt("flow_log", read_flow_log, request["log"])
    if request.get("agent"):
        document["agent"] = report.attempt("agent", read_agent)
    if isinstance(request.get("agent_log"), dict):
        document["agent_log"] = report.attempt("agent_log", read_agent_log, request["agent_log"])
    document["notes"] = [*report.notes, *picture.report.notes]
    document["errors"] = [*picture.report.errors, *report.errors]
    document["clock"]["end"] = clocks()
    return document


def requested_addresses(pods: list[Json], report: Report) -> dict[str, bytes]:
    """Canonical text -> network-order bytes of every requested pod address."""
    found: dict[str, bytes] = {}
    for pod in pods:
        for text in pod.get("ips") or ():
            try:
                address = ipaddress.ip_address(str(text))
            except ValueError:
                report.notes.append(f"not an address, left out: {text!r}")
                continue
            if not address.is_unspecified:
                found[str(address)] = address.packed
    return found


def _collect_network(
    document: Json, report: Report, pods: list[Json], pod_ips: dict[str, bytes], everything: bool
) -> None:
    document["links"] = report.attempt("links", read_links)
    document["addresses"] = report.attempt("addresses", read_addresses)
    document["routes"] = report.attempt("routes", read_routes, set(pod_ips))
    document["qdiscs"] = report.attempt("qdiscs", read_qdiscs)
    names = {link["ifindex"]: link["name"] for link in document["links"] or ()}
    wanted = set(names) if everything else requested_links(document, pods, pod_ips)
    document["filters"] = None
    document["tcx"] = None
    if document["links"] is None:
        for section in ("filters", "tcx"):
            report.fail(section, RuntimeError("without the links it is not known whose hooks to read"))
        return
    document["filters"] = _all_filters(document["qdiscs"], names, wanted, report)
    document["tcx"] = _all_tcx(names, wanted, report)


def requested_links(document: Json, pods: list[Json], pod_ips: dict[str, bytes]) -> set[int]:
    """Indexes of the links with a requested name, and of those that a host route to a requested address
    names: the route is right also where the CNI was told to give its links another prefix."""
    names = {str(name) for pod in pods for name in pod.get("links") or ()}
    found = {link["ifindex"] for link in document["links"] or () if link["name"] in names}
    for route in document["routes"] or ():
        full = 32 if route["family"] == 4 else 128
        if route["destination"] in pod_ips and route["prefixlen"] == full and route["ifindex"]:
            found.add(route["ifindex"])
    return found


def routed_addresses(document: Json, links: set[int]) -> dict[str, bytes]:
    """Text -> bytes of the addresses whose host routes lead to one of ``links``: those of a pod's further interfaces
    are not in its status."""
    return {
        route["destination"]: ipaddress.ip_address(route["destination"]).packed
        for route in document["routes"] or ()
        if route["ifindex"] in links and route["prefixlen"] == (32 if route["family"] == 4 else 128)
    }


def _all_filters(qdiscs: list[Json] | None, names: dict[int, str], wanted: set[int], report: Report) -> list[Json]:
    if qdiscs is not None:
        wanted = wanted & {qdisc["ifindex"] for qdisc in qdiscs if qdisc["kind"] in ("clsact", "ingress")}
    found: list[Json] = []
    for ifindex in sorted(wanted):
        for hook, parent in HOOKS:
            what = f"filters {names.get(ifindex, ifindex)} {hook}"
            found.extend(report.attempt(what, read_filters, ifindex, hook, parent) or ())
    return found


def _all_tcx(names: dict[int, str], wanted: set[int], report: Report) -> list[Json] | None:
    found: list[Json] = []
    for ifindex in sorted(wanted):
        for hook, attach_type in (("ingress", TCX_INGRESS), ("egress", TCX_EGRESS)):
            try:
                programs = read_tcx(ifindex, attach_type)
            except OSError as error:
                if error.errno in UNSUPPORTED:
                    report.notes.append(f"this kernel has no tcx ({describe(error)})")
                    return []
                if error.errno == errno.EPERM:
                    # Older kernels ask for CAP_NET_ADMIN before they look at what is asked; none of them has tcx.
                    if kernel_before(TCX_SINCE):
                        report.notes.append("this kernel has no tcx (it is older than {}.{})".format(*TCX_SINCE))
                        return []
                    report.fail("tcx", error)
                    return None
                report.fail(f"tcx {names.get(ifindex, ifindex)} {hook}", error)
                continue
            except UnknownMachineError as error:
                report.fail("tcx", error)
                return None
            if programs:
                found.append({"ifindex": ifindex, "hook": hook, "program_ids": programs})
    return found


def _collect_objects(document: Json, report: Report) -> None:
    programs = (PROG_GET_NEXT_ID, PROG_GET_FD_BY_ID, program_info, report)
    maps = (MAP_GET_NEXT_ID, MAP_GET_FD_BY_ID, map_info, report)
    document["programs"] = report.attempt("programs", read_objects, "program", *programs)
    document["maps"] = report.attempt("maps", read_objects, "map", *maps)
    root = document["bpffs"]["path"]
    document["pins"] = report.attempt("pins", read_pins, root, report) if root else None
    if not root:
        report.errors.append({"what": "pins", "error": document["bpffs"]["reason"]})


def wanted_maps(document: Json, pods: list[Json], links: set[int], everything: bool) -> set[int]:
    """Ids of the maps to dump: used by a program on a requested link, or pinned for a requested identifier,
    or the conntrack pin; with ``everything`` also by any attached handle_* program and by any pin."""
    programs = attached_programs(document, links)
    if everything:
        programs |= handle_programs(document)
    pinned = pinned_ids(document, pods, everything)
    programs |= pinned["prog"]
    used = {number for row in document["programs"] or () if row["id"] in programs for number in row["map_ids"]}
    return used | pinned["map"]


def attached_programs(document: Json, links: set[int]) -> set[int]:
    """Ids of the programs on the hooks of ``links``, whatever their names."""
    found = {row["program_id"] for row in document["filters"] or () if row["ifindex"] in links}
    for row in document["tcx"] or ():
        found.update(row["program_ids"] if row["ifindex"] in links else ())
    return found - {None}


def handle_programs(document: Json) -> set[int]:
    """Ids of the attached programs that are named like the agent's: a tc filter carries the name, and with
    tcx only the program itself can."""
    found = {row["program_id"] for row in document["filters"] or () if row["name"].startswith("handle_")}
    tcx = {number for row in document["tcx"] or () for number in row["program_ids"]}
    for row in document["programs"] or ():
        if row["id"] in tcx and row["name"].startswith("handle_"):
            found.add(row["id"])
    return found - {None}


def pinned_ids(document: Json, pods: list[Json], everything: bool) -> dict[str, set[int]]:
    """By kind, the ids behind the pins of conntrack and the requested identifiers; or ``everything``."""
    identifiers = tuple(str(name) for pod in pods for name in pod.get("identifiers") or ())
    found: dict[str, set[int]] = {"map": set(), "prog": set()}
    for pin in document["pins"] or ():
        name = pin["path"].rsplit("/", 1)[-1]
        if pin["kind"] not in found or pin["id"] is None:
            continue
        if everything or name == CONNTRACK_PIN or _pin_of(name, identifiers):
            found[pin["kind"]].add(pin["id"])
    return found


def _pin_of(name: str, identifiers: tuple[str, ...]) -> bool:
    """Whether the file name is ``<identifier>_<object>``. An object name has no ``-`` or ``@``, an identifier
    has one of them: this tells ``a-x_ingress_map`` from the identifier ``a-x_b-y``."""
    return any(
        name.startswith(identifier + "_") and re.fullmatch(r"[a-z_]+", name[len(identifier) + 1 :])
        for identifier in identifiers
    )


# ---------------------------------------------------------------------------------------------------------
# One consistent picture
# ---------------------------------------------------------------------------------------------------------

MOST_LOOKS = 4
"""Readings of a node that changes under them, before the last one is sent as it is."""
LOOKING_SECONDS = 3.0
"""After this long no further reading is begun."""
PAUSES = (0.02, 0.1, 0.3)
"""Seconds between them: an agent replaces a program, its pins and maps within some tens of milliseconds."""
MOST_CHANGES = 40
"""Of them as many are told."""


class Wanted:
    """What a request asks for."""

    def __init__(self, request: Json, pods: list[Json], pod_ips: dict[str, bytes]) -> None:
        self.pods, self.pod_ips = pods, pod_ips
        self.everything = bool(request.get("all"))
        self.conntrack = str(request.get("conntrack") or "none")
        self.identifiers = tuple(str(name) for pod in pods for name in pod.get("identifiers") or ())
        thorough = bool(request.get("thorough"))
        self.traced = TRACED_THOROUGHLY if thorough else TRACED
        self.traced_per_map = TRACED_THOROUGHLY if thorough else TRACED_PER_MAP


class Changes:
    """What was otherwise at a second look: in words, and by what it concerns."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.links: set[str] = set()
        self.programs: set[int] = set()
        self.maps: set[int] = set()
        self.pins: set[str] = set()

    def any_open(self) -> bool:
        """Whether anything was otherwise; without it ``texts`` says why that could not be told."""
        return bool(self.links or self.programs or self.maps or self.pins)

    def link(self, name: str, text: str) -> None:
        self.links.add(name)
        self.texts.append(text)

    def rows(self) -> Json:
        return {
            "links": sorted(self.links),
            "programs": sorted(self.programs),
            "maps": sorted(self.maps),
            "pins": sorted(self.pins),
        }


class Picture:
    """One reading of what the answer rests on, and what is needed to see whether it still holds.

    All that ``changes`` finds as it was has been so from when it was read until then: so at the moment between the
    reading and the look the node was as the document says, in all its parts.
    """

    def __init__(self, wanted: Wanted, bpffs: Json) -> None:
        self.wanted, self.root = wanted, bpffs["path"]
        self.report = Report()
        self.document: Json = {}
        self.gone: set[int] = set()
        self.traces: dict[int, Trace] = {}
        self.unchecked: set[int] = set()
        # Before anything else: a pin that is another one after that has changed.
        self.inodes = self._inodes()
        _collect_network(self.document, self.report, wanted.pods, wanted.pod_ips, wanted.everything)
        self.document["bpffs"] = bpffs
        _collect_objects(self.document, self.report)
        self.links = requested_links(self.document, wanted.pods, wanted.pod_ips)
        self.maps: set[int] = set()
        if self.document["maps"] is not None:
            self.maps = wanted_maps(self.document, wanted.pods, self.links, wanted.everything)
            self._read_contents()

    def _inodes(self) -> dict[str, int] | None:
        try:
            return pin_inodes(self.root) if self.root else None
        except OSError:
            return None

    def _read_contents(self) -> None:
        wanted, room, traced = self.wanted, MOST_BYTES, self.wanted.traced
        addresses = list({**wanted.pod_ips, **routed_addresses(self.document, self.links)}.values())
        for row in self.document["maps"]:
            number = row["id"]
            if number not in self.maps or row["type"] not in READABLE_TYPES:
                continue
            if row["type"] == LRU_HASH:
                if wanted.conntrack != "none":
                    room -= self._fill(row, addresses if wanted.conntrack == "pods" else None, room, None)
                continue
            trace = self.traces[number] = Trace(max(0, min(wanted.traced_per_map, traced)))
            room -= self._fill(row, None, room, trace)
            if trace.whole:
                traced -= trace.size
            else:
                self.unchecked.add(number)

    def _fill(self, row: Json, addresses: list[bytes] | None, room: int, trace: Trace | None) -> int:
        """Read the contents of one map into its row; returns the bytes they take."""
        try:
            fd = open_by_id(MAP_GET_FD_BY_ID, row["id"])
        except OSError as error:
            if error.errno == errno.ENOENT:
                # It was there when maps were listed: a reason to look again, and no error.
                self.gone.add(row["id"])
            else:
                self.report.fail(f"map {row['id']}", error)
            return 0
        except Exception as error:
            self.report.fail(f"map {row['id']}", error)
            return 0
        try:
            row["contents"] = read_contents(fd, row, addresses, max(room, 0), trace=trace)
        except Exception as error:
            self.report.fail(f"map {row['id']}", error)
            return 0
        finally:
            os.close(fd)
        return int(row["contents"]["count"]) * int(row["key_size"] + row["value_size"])

    def forget(self) -> None:
        """Let go of all that takes room."""
        self.document, self.traces = {}, {}

    # the look

    def changes(self, watch: Watch) -> Changes:
        """What is otherwise now than it was read. What could not be read is not compared."""
        found = Changes()
        for look in (self._changed_contents, self._changed_objects, self._changed_pins, self._changed_tcx):
            self._tried(look, found)
        # Last: whatever of these moved a filter has been heard by now.
        if not watch.quiet():
            self._tried(self._changed_network, found)
        return found

    def _tried(self, look: Callable[[Changes], None], found: Changes) -> None:
        """What cannot be looked at again has not been seen to be steady."""
        try:
            look(found)
        except Exception as error:
            found.texts.append(f"could not look again: {describe(error)}")

    def _changed_contents(self, found: Changes) -> None:
        rows = {row["id"]: row for row in self.document["maps"] or ()}
        for number in sorted(self.gone):
            found.maps.add(number)
            found.texts.append(f"map {number}: gone before it was read")
        for number, trace in self.traces.items():
            row = rows[number]
            if row["contents"] is None:
                continue
            if trace.torn:
                found.maps.add(number)
                found.texts.append(f"map {number}: its entries changed while they were read")
            elif trace.whole and row["contents"]["complete"]:
                self._changed_map(row, trace, found)

    def _changed_map(self, row: Json, trace: Trace, found: Changes) -> None:
        number = row["id"]
        try:
            fd = open_by_id(MAP_GET_FD_BY_ID, number)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            found.maps.add(number)
            found.texts.append(f"map {number}: gone")
            return
        try:
            same = is_unchanged(fd, row, trace)
        finally:
            os.close(fd)
        if not same:
            found.maps.add(number)
            found.texts.append(f"map {number}: its entries are others than before")

    def _changed_objects(self, found: Changes) -> None:
        """Programs and maps that are gone, or were not there yet when all were listed."""
        document = self.document
        if document["programs"] is None or document["maps"] is None:
            return
        links = self.links if not self.wanted.everything else {row["ifindex"] for row in document["links"] or ()}
        programs = attached_programs(document, links)
        programs |= pinned_ids(document, self.wanted.pods, self.wanted.everything)["prog"]
        refused = {error["what"] for error in self.report.errors}
        for what, numbers, kept, command in (
            ("program", programs, found.programs, PROG_GET_NEXT_ID),
            ("map", self.maps, found.maps, MAP_GET_NEXT_ID),
        ):
            listed = {row["id"] for row in document[f"{what}s"]}
            for number in sorted(numbers - kept):
                if f"{what} {number}" in refused:
                    continue
                if number not in listed:
                    kept.add(number)
                    found.texts.append(f"{what} {number}: it was not there when all were listed")
                elif not is_loaded(command, number):
                    kept.add(number)
                    found.texts.append(f"{what} {number}: gone")

    def _changed_pins(self, found: Changes) -> None:
        before, now = self.inodes, self._inodes()
        if before is None or now is None:
            return
        ids = {pin["path"]: pin["id"] for pin in self.document["pins"] or ()}
        for path in sorted(before.keys() | now.keys()):
            if before.get(path) != now.get(path) and self._rests_on(path, ids.get(path)):
                found.pins.add(path)
                how = "gone" if path not in now else "new" if path not in before else "leads to another object"
                found.texts.append(f"pin {path}: {how}")

    def _rests_on(self, path: str, number: int | None) -> bool:
        name = path.rsplit("/", 1)[-1]
        if self.wanted.everything or name.startswith("global_") or _pin_of(name, self.wanted.identifiers):
            return True
        # Somebody else's pin of a map that is used here.
        return number is not None and path.startswith("maps/") and number in self.maps

    def _changed_tcx(self, found: Changes) -> None:
        if self.document["tcx"] is None or self.document["links"] is None:
            return
        names = {link["ifindex"]: link["name"] for link in self.document["links"]}
        wanted = set(names) if self.wanted.everything else self.links
        before = {(row["ifindex"], row["hook"]): row["program_ids"] for row in self.document["tcx"]}
        rows = _all_tcx(names, wanted, Report())
        now = {(row["ifindex"], row["hook"]): row["program_ids"] for row in rows or ()}
        for key in sorted(before.keys() | now.keys()) if rows is not None else ():
            if before.get(key) != now.get(key):
                name = names.get(key[0], str(key[0]))
                found.link(name, f"tcx {name} {key[1]}: {_ids(before.get(key))} -> {_ids(now.get(key))}")

    def _changed_network(self, found: Changes) -> None:
        """Links, routes to the pods, qdiscs and filters: all of them anew, and those that count compared."""
        wanted, document = self.wanted, self.document
        if document["links"] is None:
            return
        now: Json = {
            "links": read_links(),
            # What could not be read before is not held against what there is now.
            "routes": read_routes(set(wanted.pod_ips)) if document["routes"] is not None else None,
            "qdiscs": read_qdiscs() if document["qdiscs"] is not None else None,
        }
        links = self.links | requested_links(now, wanted.pods, wanted.pod_ips)
        names = {link["ifindex"]: link["name"] for link in (*now["links"], *document["links"])}
        if wanted.everything:
            links = set(names)
        now["filters"] = _all_filters(now["qdiscs"], names, links, Report())
        before, after = (_network_facts(part, links, wanted.pod_ips) for part in (document, now))
        for key in sorted(before.keys() | after.keys()):
            old, new = before.get(key), after.get(key)
            if old != new:
                name = names.get(key[1], str(key[1]))
                found.link(name, _network_change(key, name, old, new))


def _network_facts(document: Json, links: set[int], pod_ips: dict[str, bytes]) -> dict[tuple[str, int, str], Any]:
    """(what, ifindex, which one) -> what it was, of all that an answer about these links rests on."""
    facts: dict[tuple[str, int, str], Any] = {}
    for link in document["links"] or ():
        if link["ifindex"] in links:
            facts["link", link["ifindex"], ""] = link["name"], link["xdp"]
    for qdisc in document["qdiscs"] or ():
        if qdisc["ifindex"] in links and qdisc["kind"] in ("clsact", "ingress"):
            facts["qdisc", qdisc["ifindex"], qdisc["kind"]] = True
    for route in document["routes"] or ():
        full = 32 if route["family"] == 4 else 128
        if route["destination"] in pod_ips and route["prefixlen"] == full and route["ifindex"] is not None:
            facts["route", route["ifindex"], f"{route['destination']} table {route['table']}"] = True
    for row in document["filters"] or ():
        if row["ifindex"] in links:
            facts.setdefault(("filter", row["ifindex"], row["hook"]), []).append(row)
    return facts


def _network_change(key: tuple[str, int, str], name: str, old: Any, new: Any) -> str:
    what, _, which = key
    if what == "filter":
        old_ids, new_ids = ([row["program_id"] for row in rows or ()] for rows in (old, new))
        if old_ids == new_ids:
            return f"filter {name} {which}: replaced, program {_ids(new_ids)} as before"
        return f"filter {name} {which}: program {_ids(old_ids)} -> {_ids(new_ids)}"
    how = "gone" if new is None else "new" if old is None else "changed"
    return f"{what} {name}{f' {which}' if which else ''}: {how}"


def _ids(numbers: list[int | None] | None) -> str:
    return ", ".join("?" if number is None else str(number) for number in numbers or ()) or "none"


def look_until_steady(wanted: Wanted, bpffs: Json) -> tuple[Picture, Json]:
    """A picture that held until it was looked at again, or the last one of some; and the section ``consistency``."""
    begun = time.monotonic_ns()
    told: dict[str, None] = {}
    watch = Watch()
    try:
        for attempt in range(1, MOST_LOOKS + 1):
            # What was heard up to now is older than the reading that begins.
            watch.quiet()
            picture = Picture(wanted, bpffs)
            changes = picture.changes(watch)
            told.update(dict.fromkeys(changes.texts))
            late = time.monotonic_ns() - begun > LOOKING_SECONDS * 1e9
            if not changes.any_open() or attempt == MOST_LOOKS or late:
                break
            # Before the next one is read: both do not fit into the pod's memory where maps are large.
            picture.forget()
            time.sleep(PAUSES[attempt - 1])
    finally:
        watch.close()
    return picture, {
        "attempts": attempt,
        "steady": False if changes.any_open() else None if changes.texts or picture.unchecked else True,
        "changed": list(told)[:MOST_CHANGES],
        "open": changes.rows(),
        "unchecked": sorted(picture.unchecked),
        "took_ns": time.monotonic_ns() - begun,
    }


class Bulk(bytes):
    """A piece that is base64 of columns."""


def pieces(document: Json) -> Iterator[bytes]:
    """The document as JSON, map by map, so that the text of all maps is never in memory at once."""
    yield b"{"
    for number, (name, value) in enumerate(document.items()):
        yield (", " if number else "").encode() + json.dumps(name).encode() + b": "
        if name == "maps" and value is not None:
            yield b"["
            for position, row in enumerate(value):
                yield b", " if position else b""
                yield from _row_pieces(row)
            yield b"]"
        else:
            yield json.dumps(value).encode()
    yield b"}"


def _row_pieces(row: Json) -> Iterator[bytes]:
    """One row of ``maps``. Base64 needs no escapes, so long texts go past the encoder."""
    contents = row["contents"]
    if not contents or not contents.get("columns"):
        yield json.dumps(row).encode()
        return
    parts = [name for name in ("keys", "values", "index") if name in contents]
    head = {name: value for name, value in row.items() if name != "contents"}
    head["contents"] = {name: value for name, value in contents.items() if name not in parts}
    yield json.dumps(head)[:-2].encode()
    for name in parts:
        yield f', "{name}": "'.encode()
        yield Bulk(contents[name].encode())
        yield b'"'
    yield b"}}"


def framed(document: Json) -> Iterator[bytes]:
    """The header line, then the payload: one zlib stream."""
    parts = list(_compressed(pieces(document)))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    yield f"{MAGIC} {sum(map(len, parts))} {digest.hexdigest()}\n".encode()
    yield from parts


def _compressed(plain: Iterable[bytes]) -> Iterator[bytes]:
    """A zlib stream (RFC 1950) of blocks from two compressors. In columns there is nothing to find but runs:
    looking for runs only is several times faster there, and as small. A full flush ends a compressor's part
    on a byte, with nothing that a later block could refer to."""
    checksum = zlib.adler32(b"")
    yield b"\x78\x01"
    text = _deflate(zlib.Z_DEFAULT_STRATEGY)
    for piece in plain:
        checksum = zlib.adler32(piece, checksum)
        if isinstance(piece, Bulk):
            runs = _deflate(zlib.Z_RLE)
            yield text.flush(zlib.Z_FULL_FLUSH)
            yield runs.compress(piece)
            yield runs.flush(zlib.Z_FULL_FLUSH)
        else:
            yield text.compress(piece)
    yield text.flush(zlib.Z_FINISH)
    yield struct.pack(">I", checksum)


def _deflate(strategy: int) -> Any:
    """Level 1: the time that a higher one takes on the node is more than it saves on the way."""
    return zlib.compressobj(1, zlib.DEFLATED, -15, 9, strategy)


def main(request: Json) -> int:
    """Answer one request on stdout. 0 also where something could not be read: the document says so."""
    if request.get("format") != FORMAT:
        sys.stderr.write(f"request format {request.get('format')!r}, this reader speaks {FORMAT}\n")
        return 3
    document = collect(request)
    for part in framed(document):
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()
    return 0
