"""The flow log of a node's agent: takes what its programs report, and writes it as an agent of that generation does.

Only where a test makes one: the ring buffer has one consumer.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from .agent import Agent
from .ringbuf import RingBuffer

DIRECTORY, NAME = "/var/log/aws-routed-eni", "network-policy-agent.log"
PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 132: "SCTP"}
TIERS = ("ERROR", "ADMIN", "NETWORK_POLICY", "BASELINE", "DEFAULT")


class FlowLog:
    """``write`` moves the records that are there into the log. The directory is made, as the agent's pod does."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._stack = contextlib.ExitStack()
        fd = self._stack.enter_context(agent.open_pin(agent.map_pin("", "policy_events")))
        self._ring = self._stack.enter_context(RingBuffer(fd))
        self.path = Path(f"{agent.node.root}{DIRECTORY}/{NAME}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()

    def write(self) -> list[str]:
        """The lines that are new."""
        lines = [line_of(record, self.agent.generation.npa_gen, self.agent.ipv6) for record in self._ring.read()]
        with self.path.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        return lines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def line_of(record: bytes, generation: int, ipv6: bool) -> str:
    """Agent facts 1.7 and 8.3."""
    size = 16 if ipv6 else 4
    source, destination = record[:size], record[size + 4 : 2 * size + 4]
    (sport,) = struct.unpack_from("<I", record, size)
    dport, protocol, verdict = struct.unpack_from("<3I", record, 2 * size + 4)
    proto, word = PROTOCOLS.get(protocol, "UNKNOWN"), "ACCEPT" if verdict == 1 else "DENY"
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if generation < 10202:
        first = {"timestamp": now} if generation < 10004 else {"ts": now}
        fields = {
            "Src IP": _text(source), "Src Port": sport, "Dest IP": _text(destination), "Dest Port": dport,
            "Proto": proto, "Verdict": word,
        }  # fmt: skip
        return _packed({"level": "info", **first, "logger": "ebpf-client", "msg": "Flow Info:  ", **fields})
    # What follows the verdict: u32 packet size, u8 is_egress, u8 tier.
    egress, tier = record[2 * size + 20], record[2 * size + 21]
    colon = ":" if ipv6 else ""
    msg = (
        f"Flow Info: Src IP: {_text(source)} Src Port: {sport} Dest IP: {_text(destination)} Dest Port: {dport} "
        f"Proto{colon} {proto} Verdict{colon} {word} Direction{colon} {'egress' if egress else 'ingress'}"
    )
    if generation >= 10300:
        msg += f"{'' if ipv6 else ','} Tier{colon} {TIERS[tier]}"
    level = "info" if word == "DENY" else "debug"
    return _packed({"level": level, "ts": now, "caller": "events/events.go:1", "msg": msg})


def _packed(found: dict[str, object]) -> str:
    return json.dumps(found, separators=(",", ":"))


def _text(packed: bytes) -> str:
    """The printer for IPv4 writes a little-endian number in hexadecimal: octets that are zero at the end are lost."""
    if len(packed) == 16:
        return str(ipaddress.ip_address(packed))
    return ".".join(map(str, packed.rstrip(b"\0") or b"\0"))
