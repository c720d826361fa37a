"""The flow lines of the node agent's log (agent facts 8.3): text in, flows out.

Four generations of one line: fields of a JSON object (agents 1.0.1 to 1.2.1), a sentence in ``msg`` (1.2.2 to 1.2.7),
the same with its tier (from 1.3.0), and the text that goes to CloudWatch. IPv4 and IPv6 sentences differ in their
colons.
"""

from __future__ import annotations

import calendar
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from kubectl_netpol.model.flow import PROTOCOL_NUMBERS, WITH_PORTS, Address, Direction, Flow

Json = dict[str, Any]

DENY, ACCEPT = "DENY", "ACCEPT"
UNKNOWN_PROTOCOL = 255
"""IANA's reserved number, for a name that says nothing: older agents write UNKNOWN for all but four protocols."""
LONGEST = 4096
"""Characters of a line that is looked at: real ones have a few hundred."""


@dataclass(frozen=True)
class LoggedFlow:
    """One line. What the line of an older agent does not say is None or empty."""

    time: float | None
    """Seconds since the epoch, by the clock of the node."""
    flow: Flow
    verdict: str
    """DENY | ACCEPT."""
    direction: Direction | None
    """The pod's: whose program decided. Not told before agent 1.2.2, and not in CloudWatch."""
    tier: str = ""
    """ADMIN | NETWORK_POLICY | BASELINE | DEFAULT | ERROR, from agent 1.3.0 on."""


_SENTENCE = re.compile(
    r"Src IP:?\s*(?P<sip>[0-9A-Fa-f.:]+)\s+Src Port:?\s*(?P<sport>\d{1,10})\s+"
    r"Dest IP:?\s*(?P<dip>[0-9A-Fa-f.:]+)\s+Dest Port:?\s*(?P<dport>\d{1,10})\s+"
    r"Proto:?\s*(?P<proto>\w+)\s+Verdict:?\s*(?P<verdict>[\w/]+)"
    r"(?:,?\s+Direction:?\s*(?P<direction>\w+))?(?:,?\s+Tier:?\s*(?P<tier>\w+))?",
    re.ASCII,
)
_CLOUDWATCH = re.compile(
    r"SIP:\s*(?P<sip>[0-9A-Fa-f.:]+);\s*SPORT:\s*(?P<sport>\d{1,10});\s*"
    r"DIP:\s*(?P<dip>[0-9A-Fa-f.:]+);\s*DPORT:\s*(?P<dport>\d{1,10});\s*"
    r"PROTOCOL:\s*(?P<proto>\w+);\s*PolicyVerdict:\s*(?P<verdict>[\w/]+)"
    r"(?:;\s*Tier:\s*(?P<tier>\w+))?",
    re.ASCII,
)
_FIELDS = {
    "sip": "Src IP",
    "sport": "Src Port",
    "dip": "Dest IP",
    "dport": "Dest Port",
    "proto": "Proto",
    "verdict": "Verdict",
    "direction": "Direction",
    "tier": "Tier",
}
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(?:(Z)|([+-])(\d\d):?(\d\d))?(?![\d:])", re.ASCII
)


def parse(line: str) -> LoggedFlow | None:
    """The flow that a line tells of; None for every other text. Never raises."""
    line = line[:LONGEST].strip()
    found = _object(line)
    if found is None:
        return _flow(_told(line), _leading_time(line))
    time = parse_time(found.get("ts", found.get("timestamp")))
    if "Src IP" in found:
        return _flow({key: found.get(name) for key, name in _FIELDS.items()}, time)
    return _flow(_told(str(found.get("msg", ""))), time)


def _object(line: str) -> Json | None:
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _told(text: str) -> Mapping[str, Any]:
    found = _SENTENCE.search(text) or _CLOUDWATCH.search(text)
    return found.groupdict() if found else {}


def _flow(fields: Mapping[str, Any], time: float | None) -> LoggedFlow | None:
    source, destination = parse_logged_address(fields.get("sip")), parse_logged_address(fields.get("dip"))
    source_port, port = _port(fields.get("sport")), _port(fields.get("dport"))
    verdict = str(fields.get("verdict") or "")
    if source is None or destination is None or source.version != destination.version:
        return None
    if source_port is None or port is None or verdict not in (DENY, ACCEPT):
        return None
    protocol = _protocol(fields.get("proto"))
    flow = Flow(source, destination, protocol, port, source_port) if protocol in WITH_PORTS else None
    direction = str(fields.get("direction") or "").lower()
    return LoggedFlow(
        time=time,
        flow=flow or Flow(source, destination, protocol, 0),
        verdict=verdict,
        direction=Direction(direction) if direction in ("ingress", "egress") else None,
        tier=str(fields.get("tier") or ""),
    )


def parse_logged_address(value: object) -> Address | None:
    """The agent's IPv4 printer drops octets that are zero at the end: `10.0.5` is 10.0.5.0 (agent facts 8.3)."""
    text = str(value)
    try:
        if ":" in text:
            address = IPv6Address(text)
            return address.ipv4_mapped or address
        octets = text.split(".")
        return IPv4Address(".".join([*octets, *["0"] * (4 - len(octets))]))
    except ValueError:
        return None


def _port(value: object) -> int | None:
    text = str(value)
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII):
        return None
    return int(text) if int(text) < 1 << 16 else None


def _protocol(value: object) -> int:
    text = str(value).upper()
    if re.fullmatch(r"\d{1,3}", text, re.ASCII) and int(text) < 256:
        return int(text)
    return PROTOCOL_NUMBERS.get(text, UNKNOWN_PROTOCOL)


# ---- times


def _leading_time(line: str) -> float | None:
    """Tools that print lines of CloudWatch put the time in front."""
    found = _TIME.match(line)
    return parse_time(found[0]) if found else None


def parse_time(value: object) -> float | None:
    """Seconds since the epoch of RFC 3339, of zap's ISO 8601 (`2026-01-02T15:04:05.000+0100`), or of a number of
    seconds. A time without a zone is UTC."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        # Beyond the year 9999 it is no time.
        return float(value) if abs(value) < 253402300800 and math.isfinite(value) else None
    found = _TIME.fullmatch(str(value).strip())
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(found[index]) for index in range(1, 7))
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60 and year):
        return None
    whole = calendar.timegm((year, month, day, hour, minute, second))
    if found[9]:
        offset = int(found[10]) * 3600 + int(found[11]) * 60
        whole += -offset if found[9] == "+" else offset
    return whole + float(f"0.{found[7] or 0}")


def time_text(seconds: float) -> str:
    """`2026-01-02T03:04:05Z`: the civil date of a day number (the proleptic Gregorian calendar, eras of 400 years)."""
    days, rest = divmod(math.floor(seconds), 86400)
    era, day = divmod(days + 719468, 146097)
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    of_year = day - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    date = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year += era * 400 + (month <= 2)
    return f"{year:04d}-{month:02d}-{date:02d}T{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}Z"
