"""Ethernet frames, byte by byte, for BPF_PROG_TEST_RUN and raw sockets."""

from __future__ import annotations

import ipaddress
import struct

ETHERTYPE = {4: 0x0800, 6: 0x86DD}
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
L4_SIZE = {TCP: 20, UDP: 8, SCTP: 12}


def l4_header(protocol: int, sport: int, dport: int, size: int | None = None) -> bytes:
    """Ports and zeroes; `size` cuts or fills. For protocols without ports, eight bytes that look like ports."""
    wanted = L4_SIZE.get(protocol, 8) if size is None else size
    return struct.pack("!HH", sport, dport).ljust(max(wanted, 20), b"\0")[:wanted]


def _ipv4(protocol: int, src: str, dst: str, payload: bytes, version: int, options: bytes) -> bytes:
    words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH", version << 4 | words, 0, 20 + len(options) + len(payload), 0, 0, 64, protocol, 0
    )  # fmt: skip
    return head + ipaddress.IPv4Address(src).packed + ipaddress.IPv4Address(dst).packed + options + payload


def _ipv6(protocol: int, src: str, dst: str, payload: bytes, version: int) -> bytes:
    head = struct.pack("!IHBB", version << 28, len(payload), protocol, 64)
    return head + ipaddress.IPv6Address(src).packed + ipaddress.IPv6Address(dst).packed + payload


def frame(
    src: str,
    dst: str,
    protocol: int = TCP,
    sport: int = 40000,
    dport: int = 80,
    *,
    payload: bytes | None = None,
    l4_size: int | None = None,
    ethertype: int | None = None,
    version: int | None = None,
    options: bytes = b"",
) -> bytes:
    """One frame of the family of `src`.

    `protocol`: IPv4's protocol or IPv6's first next-header. `payload`: instead of a layer 4 header made from the
    ports. `l4_size`: its length. `version`: the nibble. `options`: IPv4 only, a multiple of four bytes.
    """
    family = ipaddress.ip_address(src).version
    body = l4_header(protocol, sport, dport, l4_size) if payload is None else payload
    nibble = family if version is None else version
    packet = (
        _ipv4(protocol, src, dst, body, nibble, options) if family == 4 else _ipv6(protocol, src, dst, body, nibble)
    )
    return bytes(12) + struct.pack("!H", ETHERTYPE[family] if ethertype is None else ethertype) + packet
