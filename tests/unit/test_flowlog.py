"""Lines of the agent's log: one formatter for each generation, written here, and what `parse` makes of its lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.kernel.flowlog import LoggedFlow, parse, parse_logged_address, parse_time, time_text
from kubectl_netpol.model.flow import Direction, Flow

TIERS = ("ADMIN", "NETWORK_POLICY", "BASELINE", "DEFAULT", "ERROR")
NAMES = {"TCP": 6, "UDP": 17, "SCTP": 132}


@dataclass(frozen=True)
class Event:
    """What the agent took from its ring buffer."""

    source: Any
    destination: Any
    source_port: int
    port: int
    proto: str
    verdict: str
    direction: str
    tier: str
    when: datetime


def go_v4(address: Any) -> str:
    """fmt of the little-endian number: leading zeros of it, which are octets at the end, are not written."""
    if address.version == 6:
        return str(address)
    octets = list(address.packed)
    while len(octets) > 1 and octets[-1] == 0:
        octets.pop()
    return ".".join(map(str, octets))


def fields(event: Event, **first: Any) -> str:
    return json.dumps(
        {
            **first,
            "msg": "Flow Info:  ",
            "Src IP": go_v4(event.source),
            "Src Port": event.source_port,
            "Dest IP": go_v4(event.destination),
            "Dest Port": event.port,
            "Proto": event.proto,
            "Verdict": event.verdict,
        },
        separators=(",", ":"),
    )


def iso(when: datetime) -> str:
    """zap's ISO8601TimeEncoder: milliseconds, and Z for UTC."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}" + when.strftime("%z").replace(
        "+0000", "Z"
    )  # fmt: skip


def first_release(event: Event) -> str:
    return fields(event, level="info", timestamp=iso(event.when), logger="ebpf-client")


def fields_1_0_4(event: Event) -> str:
    return fields(event, level="info", ts=iso(event.when), logger="ebpf-client", caller="events/events.go:193")


def epoch(event: Event) -> str:
    return fields(event, level="info", ts=event.when.timestamp(), logger="ebpf-client")


def sentence(event: Event, colon: str, tier: str) -> str:
    msg = (
        f"Flow Info: Src IP: {go_v4(event.source)} Src Port: {event.source_port} Dest IP: {go_v4(event.destination)} "
        f"Dest Port: {event.port} Proto{colon} {event.proto} Verdict{colon} {event.verdict} "
        f"Direction{colon} {event.direction}{tier}"
    )
    return json.dumps(
        {"level": "info", "ts": iso(event.when), "caller": "runtime/asm.s:1", "msg": msg}, separators=(",", ":")
    )


def sentence_1_2_2(event: Event) -> str:
    return sentence(event, "" if event.source.version == 4 else ":", "")


def sentence_1_3_0(event: Event) -> str:
    v4 = event.source.version == 4
    return sentence(event, "" if v4 else ":", f", Tier {event.tier}" if v4 else f" Tier: {event.tier}")


def cloudwatch(event: Event) -> str:
    return (
        f"Node: ip-10-0-0-1.ec2.internal;SIP: {go_v4(event.source)};SPORT: {event.source_port};"
        f"DIP: {go_v4(event.destination)};DPORT: {event.port};PROTOCOL: {event.proto};PolicyVerdict: {event.verdict}"
    )


def cloudwatch_1_3_0(event: Event) -> str:
    return f"{iso(event.when)} {cloudwatch(event)};Tier: {event.tier}"


FORMATTERS: dict[Callable[[Event], str], tuple[bool, bool, bool]] = {
    first_release: (True, False, False),
    fields_1_0_4: (True, False, False),
    epoch: (True, False, False),
    sentence_1_2_2: (True, True, False),
    sentence_1_3_0: (True, True, True),
    cloudwatch: (False, False, False),
    cloudwatch_1_3_0: (True, False, True),
}
"""Formatter -> whether its lines have a time, a direction, a tier."""

V4 = st.one_of(st.ip_addresses(v=4), st.sampled_from(["10.0.5.0", "10.0.0.0", "0.0.0.0", "10.0.0.12"]).map(ip_address))
V6 = st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=3))])
WHEN = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=ZONES).map(
    lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)
)
EVENTS = st.sampled_from([V4, V6]).flatmap(
    lambda family: st.builds(
        Event,
        family,
        family,
        st.integers(0, 65535),
        st.integers(0, 65535),
        st.sampled_from(list(NAMES)),
        st.sampled_from(["DENY", "ACCEPT"]),
        st.sampled_from(["ingress", "egress"]),
        st.sampled_from(TIERS),
        WHEN,
    )
)


@pytest.mark.parametrize("formatter", FORMATTERS)
@given(event=EVENTS)
def test_what_the_agent_writes_is_what_is_read(formatter: Callable[[Event], str], event: Event) -> None:
    timed, directed, tiered = FORMATTERS[formatter]
    found = parse(formatter(event))
    assert found is not None
    time = found.time
    assert found == LoggedFlow(
        time,
        Flow(event.source, event.destination, NAMES[event.proto], event.port, event.source_port),
        event.verdict,
        Direction(event.direction) if directed else None,
        event.tier if tiered else "",
    )
    assert (time is not None) is timed
    assert time is None or abs(time - event.when.timestamp()) < 1e-4


@given(st.text())
def test_any_text_is_a_flow_or_none(text: str) -> None:
    found = parse(text)
    assert found is None or isinstance(found, LoggedFlow)


PIECES = st.sampled_from(
    ["{", "}", '"msg":', "Flow Info: ", "Src IP: ", "10.0.5", "999.1", "::", " Src Port: ", "70000", " Dest IP: ", "١",
     " Dest Port: ", " Proto ", "TCP", " Verdict ", "DENY", " Direction ", "egress", ", Tier ", '"ts":1e999,', ";", '"',
     "SIP: ", "SPORT: ", "DIP: ", "DPORT: ", "PROTOCOL: ", "PolicyVerdict: ", "2026-02-31T25:61:61Z", "\x1b[31m"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map("".join))
def test_broken_lines_are_flows_or_none(text: str) -> None:
    found = parse(text)
    assert found is None or isinstance(found, LoggedFlow)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8), lambda x: st.lists(x, max_size=3)
)


@given(
    st.dictionaries(
        st.sampled_from(["msg", "ts", "timestamp", "Src IP", "Dest IP", "Src Port", "Verdict"]), JSON_VALUES
    )
)
def test_objects_of_any_shape_are_flows_or_none(found: dict[str, Any]) -> None:
    assert parse(json.dumps(found)) is None


def test_what_is_no_flow() -> None:
    assert parse("[" * 5000) is None
    assert parse("{" * 5000) is None
    line = sentence_1_3_0(
        Event(ip_address("10.0.0.1"), ip_address("10.0.0.2"), 1, 2, "TCP", "DENY", "egress", "ADMIN", datetime.now(UTC))
    )
    assert parse(line) is not None
    assert parse(line.replace("10.0.0.2", "2001:db8::1")) is None
    assert parse(line.replace("DENY", "EXPIRED/DELETED")) is None
    assert parse(line.replace("Dest Port: 2", "Dest Port: 65536")) is None


@pytest.mark.parametrize(
    ("proto", "number"), [("ICMP", 1), ("ICMPv6", 58), ("47", 47), ("UNKNOWN", 255), ("256", 255), ("0", 0)]
)
def test_protocols_without_ports(proto: str, number: int) -> None:
    event = Event(
        ip_address("10.0.0.1"), ip_address("10.0.0.2"), 8, 77, proto, "DENY", "egress", "DEFAULT", datetime.now(UTC)
    )
    found = parse(sentence_1_3_0(event))
    assert found is not None
    assert (found.flow.protocol, found.flow.port, found.flow.source_port) == (number, 0, None)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.5", "10.0.5.0"),
        ("10", "10.0.0.0"),
        ("0", "0.0.0.0"),
        ("10.0.0.12", "10.0.0.12"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::", "2001:db8::"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    assert parse_logged_address(text) == ip_address(address)


@pytest.mark.parametrize("text", ["", "10.0.0.0.1", "10..1", "300", "None", ":", "1.2.3.x"])
def test_what_is_no_address(text: str) -> None:
    assert parse_logged_address(text) is None


@given(st.integers(-62135596800, 253402300799))
def test_times_as_texts_come_back(seconds: int) -> None:
    assert time_text(seconds) == (datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat() + "Z"
    assert parse_time(time_text(seconds)) == seconds


@pytest.mark.parametrize(
    "value", [True, None, float("nan"), float("inf"), 10**400, 1e12, "soon", "2026-13-01T00:00:00Z"]
)
def test_what_is_no_time(value: Any) -> None:
    assert parse_time(value) is None


def test_addresses_are_of_the_standard_library() -> None:
    assert isinstance(parse_logged_address("10"), IPv4Address)
    assert isinstance(parse_logged_address("::1"), IPv6Address)
