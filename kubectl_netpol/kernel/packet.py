"""A flow -> the first packet of it, as a tc program would meet it on the host veth.

For BPF_PROG_TEST_RUN: the packet is put before a loaded program and goes nowhere. It is whole all the same (lengths,
checksums, full layer 4 headers), since a program lets pass unjudged what is too short for it (TCP 20, UDP 8, SCTP 12
bytes), and since other programs may look at more than the agent's do.

All fields are in network order, but for SCTP's checksum (RFC 9260, appendix A).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from kubectl_netpol.model.flow import Address, Flow

ETHERNET = struct.Struct("!6s6sH")
IPV4 = struct.Struct("!BBHHHBBH4s4s")
IPV6 = struct.Struct("!IHBB16s16s")
TCP = struct.Struct("!HHIIBBHHH")
UDP = struct.Struct("!HHHH")
SCTP = struct.Struct("!HHI4s")
SCTP_INIT = struct.Struct("!BBHIIHHI")
ICMP_ECHO = struct.Struct("!BBHHH")

assert (ETHERNET.size, IPV4.size, IPV6.size) == (14, 20, 40)
assert (TCP.size, UDP.size, SCTP.size, SCTP_INIT.size, ICMP_ECHO.size) == (20, 8, 12, 20, 8)

ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86DD
# Locally administered; no program of the agent looks at them.
VETH_MAC, POD_MAC = bytes.fromhex("02 00 00 00 00 01"), bytes.fromhex("02 00 00 00 00 02")
ICMP, TCP_NUMBER, UDP_NUMBER, ICMPV6, SCTP_NUMBER = 1, 6, 17, 58, 132
DONT_FRAGMENT, HOP_LIMIT = 0x4000, 64
SYN = 0x02
WINDOW = 64240
PAYLOAD = b"netpol-ebpf test run"
"""Of protocols without a header of their own here, and of echo requests. 20 bytes."""


def frame(flow: Flow, source_port: int) -> bytes:
    """Ethernet, IPv4 or IPv6, and the first packet of ``flow``: TCP SYN, UDP, SCTP INIT, ICMP or ICMPv6 echo.

    Of any other protocol number it is the IP header and 20 bytes of payload. ``source_port`` (0 to 65535) and
    ``flow.port`` are used where the protocol has ports. Raises ``ValueError`` for addresses of two families and for
    numbers that do not fit.
    """
    if flow.source.version != flow.destination.version:
        raise ValueError(f"{flow.source} and {flow.destination} are of different families")
    if not (0 <= flow.protocol <= 255 and 0 <= flow.port <= 65535 and 0 <= source_port <= 65535):
        raise ValueError(f"protocol {flow.protocol}, ports {source_port} and {flow.port}: out of range")
    body = _layer4(flow, source_port)
    if flow.source.version == 4:
        return ETHERNET.pack(POD_MAC, VETH_MAC, ETHERTYPE_IPV4) + _ipv4(flow, len(body)) + body
    return ETHERNET.pack(POD_MAC, VETH_MAC, ETHERTYPE_IPV6) + _ipv6(flow, len(body)) + body


def checksum(data: bytes) -> int:
    """The ones' complement sum of RFC 1071, as u16; 0 over data that holds its own checksum."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) % 2:
        total += data[-1] << 8
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), as u32: what SCTP uses; zlib has another polynomial."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _ipv4(flow: Flow, length: int) -> bytes:
    def header(check: int) -> bytes:
        ends = (flow.source.packed, flow.destination.packed)
        return IPV4.pack(0x45, 0, IPV4.size + length, 0, DONT_FRAGMENT, HOP_LIMIT, flow.protocol, check, *ends)

    return header(checksum(header(0)))


def _ipv6(flow: Flow, length: int) -> bytes:
    ends = (flow.source.packed, flow.destination.packed)
    return IPV6.pack(6 << 28, length, flow.protocol, HOP_LIMIT, *ends)


def _layer4(flow: Flow, source_port: int) -> bytes:
    if flow.protocol == TCP_NUMBER:
        return _tcp(flow, source_port)
    if flow.protocol == UDP_NUMBER:
        return _udp(flow, source_port)
    if flow.protocol == SCTP_NUMBER:
        return _sctp(flow, source_port)
    if (flow.source.version, flow.protocol) in ((4, ICMP), (6, ICMPV6)):
        return _echo(flow)
    return PAYLOAD


def _tcp(flow: Flow, source_port: int) -> bytes:
    def header(check: int) -> bytes:
        return TCP.pack(source_port, flow.port, 0, 0, TCP.size // 4 << 4, SYN, WINDOW, check, 0)

    return header(_with_pseudo_header(flow, header(0)))


def _udp(flow: Flow, source_port: int) -> bytes:
    def header(check: int) -> bytes:
        return UDP.pack(source_port, flow.port, UDP.size + len(PAYLOAD), check) + PAYLOAD

    # Zero would say that there is no checksum (RFC 768).
    return header(_with_pseudo_header(flow, header(0)) or 0xFFFF)


def _sctp(flow: Flow, source_port: int) -> bytes:
    """The verification tag of an INIT is 0, its initiate tag is not (RFC 9260, 3.3.2)."""
    chunk = SCTP_INIT.pack(1, 0, SCTP_INIT.size, 1, 1 << 16, 1, 1, 1)
    bare = SCTP.pack(source_port, flow.port, 0, bytes(4)) + chunk
    return SCTP.pack(source_port, flow.port, 0, crc32c(bare).to_bytes(4, "little")) + chunk


def _echo(flow: Flow) -> bytes:
    def message(check: int) -> bytes:
        return ICMP_ECHO.pack(8 if flow.protocol == ICMP else 128, 0, check, 1, 1) + PAYLOAD

    # ICMP has no pseudo header, ICMPv6 has (RFC 4443, 2.3).
    return message(checksum(message(0)) if flow.protocol == ICMP else _with_pseudo_header(flow, message(0)))


def _with_pseudo_header(flow: Flow, body: bytes) -> int:
    return checksum(_pseudo_header(flow.source, flow.destination, flow.protocol, len(body)) + body)


def _pseudo_header(source: Address, destination: Address, protocol: int, length: int) -> bytes:
    """RFC 9293, 3.1 for IPv4 and RFC 8200, 8.1 for IPv6."""
    ends = source.packed + destination.packed
    if isinstance(source, IPv4Address):
        return ends + struct.pack("!BBH", 0, protocol, length)
    return ends + struct.pack("!I3xB", length, protocol)
