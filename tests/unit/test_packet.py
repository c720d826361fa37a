"""Frames taken apart again by other code than the one that made them."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.kernel.packet import PAYLOAD, crc32c, frame
from kubectl_netpol.model.flow import Address, Flow

V4 = (ipaddress.ip_address("10.0.1.2"), ipaddress.ip_address("172.31.104.5"))
V6 = (ipaddress.ip_address("fd00:1::2"), ipaddress.ip_address("2001:db8::5"))
PORTS = st.integers(0, 65535)
ENDS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
)


@dataclass
class Parts:
    """What a receiver would make of a frame."""

    source: Address
    destination: Address
    protocol: int
    payload: bytes
    pseudo: bytes


def folded(data: bytes) -> int:
    """Ones' complement sum, one byte at a time: 0xFFFF where the checksum inside is right."""
    total = 0
    for index, byte in enumerate(data):
        total += byte << (0 if index & 1 else 8)
        total = (total & 0xFFFF) + (total >> 16)
    return total


def taken_apart(data: bytes) -> Parts:
    """Every length and the IPv4 header checksum are checked on the way."""
    kind, packet = int.from_bytes(data[12:14], "big"), data[14:]
    if kind == 0x0800:
        assert packet[0] == 0x45, "version 4, five words, no options"
        assert int.from_bytes(packet[2:4], "big") == len(packet)
        assert int.from_bytes(packet[6:8], "big") & 0x3FFF == 0, "not a fragment"
        assert packet[8] == 64
        assert folded(packet[:20]) == 0xFFFF
        source, destination = packet[12:16], packet[16:20]
        protocol, payload = packet[9], packet[20:]
        pseudo = source + destination + bytes([0, protocol]) + len(payload).to_bytes(2, "big")
    else:
        assert kind == 0x86DD
        assert packet[0] >> 4 == 6
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
        assert packet[7] == 64
        source, destination = packet[8:24], packet[24:40]
        protocol, payload = packet[6], packet[40:]
        pseudo = source + destination + len(payload).to_bytes(4, "big") + bytes([0, 0, 0, protocol])
    return Parts(ipaddress.ip_address(source), ipaddress.ip_address(destination), protocol, payload, pseudo)


def made(ends: tuple[Any, Any], protocol: int, source_port: int = 61234, port: int = 80) -> Parts:
    parts = taken_apart(frame(Flow(*ends, protocol, port), source_port))
    assert (parts.source, parts.destination, parts.protocol) == (*ends, protocol)
    return parts


@given(ENDS, PORTS, PORTS)
def test_tcp_is_a_syn(ends: tuple[Any, Any], source_port: int, port: int) -> None:
    parts = made(ends, 6, source_port, port)
    assert len(parts.payload) == 20
    sport, dport, _, acknowledged, offset, flags, window, _, urgent = struct.unpack("!HHIIBBHHH", parts.payload)
    assert (sport, dport, acknowledged, offset >> 4, flags, urgent) == (source_port, port, 0, 5, 0x02, 0)
    assert window > 0
    assert folded(parts.pseudo + parts.payload) == 0xFFFF


@given(ENDS, PORTS, PORTS)
def test_udp(ends: tuple[Any, Any], source_port: int, port: int) -> None:
    parts = made(ends, 17, source_port, port)
    sport, dport, length, check = struct.unpack_from("!HHHH", parts.payload)
    assert (sport, dport, length) == (source_port, port, len(parts.payload))
    assert length >= 8
    assert check != 0, "0 would say that there is none"
    assert folded(parts.pseudo + parts.payload) == 0xFFFF


def test_a_udp_checksum_of_zero_is_sent_as_ones() -> None:
    """The source port that makes the sum come out as 0 is found by trying."""
    checks = {source: made(V4, 17, source).payload[6:8] for source in range(65536)}
    assert b"\0\0" not in checks.values()
    assert b"\xff\xff" in checks.values()


@given(ENDS, PORTS, PORTS)
def test_sctp_is_an_init(ends: tuple[Any, Any], source_port: int, port: int) -> None:
    parts = made(ends, 132, source_port, port)
    sport, dport, tag, check = struct.unpack_from("!HHI4s", parts.payload)
    assert (sport, dport, tag) == (source_port, port, 0)
    kind, flags, length, initiate, window, out, into, _ = struct.unpack("!BBHIIHHI", parts.payload[12:])
    assert (kind, flags, length) == (1, 0, len(parts.payload) - 12)
    assert initiate > 0
    assert window >= 1500, "RFC 9260, 3.3.2"
    assert min(out, into) > 0
    assert int.from_bytes(check, "little") == crc32c(parts.payload[:8] + bytes(4) + parts.payload[12:])


def test_crc32c_of_known_texts() -> None:
    """RFC 3720, B.4, and the check value of the CRC catalogue."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize(("ends", "protocol", "kind"), [(V4, 1, 8), (V6, 58, 128)])
def test_echo_requests(ends: tuple[Any, Any], protocol: int, kind: int) -> None:
    parts = made(ends, protocol)
    assert parts.payload[:2] == bytes([kind, 0])
    assert len(parts.payload) > 8
    assert folded((parts.pseudo if protocol == 58 else b"") + parts.payload) == 0xFFFF


@given(ENDS, st.integers(0, 255))
def test_any_protocol_has_a_header_and_something_behind_it(ends: tuple[Any, Any], protocol: int) -> None:
    parts = made(ends, protocol)
    assert len(parts.payload) >= 20
    if (ends[0].version, protocol) not in {(4, 1), (6, 58)} and protocol not in (6, 17, 132):
        assert parts.payload == PAYLOAD


@pytest.mark.parametrize(
    ("flow", "port"),
    [
        (Flow(V4[0], V6[0], 6, 80), 1),
        (Flow(*V4, 256, 80), 1),
        (Flow(*V4, 6, 65536), 1),
        (Flow(*V4, 6, 80), 65536),
        (Flow(*V4, 6, 80), -1),
    ],
)
def test_what_cannot_be_a_packet_is_refused(flow: Flow, port: int) -> None:
    with pytest.raises(ValueError, match=r"families|out of range"):
        frame(flow, port)
