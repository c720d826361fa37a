"""Ports of rules, in one form for policies, PolicyEndpoints and map slots."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kubectl_netpol.model.flow import PROTOCOL_NUMBERS, Flow

Json = dict[str, Any]


@dataclass(frozen=True, order=True)
class Port:
    """One allowed port or range. ``number`` 0: all ports; ``protocol`` "" : any protocol."""

    protocol: str = ""
    number: int = 0
    end: int = 0

    def admits(self, flow: Flow) -> bool:
        if self.protocol and PROTOCOL_NUMBERS.get(self.protocol) != flow.protocol:
            return False
        return not self.number or self.number <= flow.port <= max(self.number, self.end)

    @property
    def text(self) -> str:
        ports = f"{self.number}-{self.end}" if self.end else str(self.number)
        if not self.number:
            return f"all {self.protocol} ports" if self.protocol else "all ports"
        return f"{ports}/{self.protocol or 'any protocol'}"


ALL_PORTS = (Port(),)
"""What an empty port list means."""


def admits(ports: tuple[Port, ...], flow: Flow) -> bool:
    return not ports or any(port.admits(flow) for port in ports)


def text(ports: tuple[Port, ...]) -> str:
    return ", ".join(port.text for port in sorted(set(ports))) or "all ports"


def from_endpoint(port: Json) -> Port:
    """A port of a PolicyEndpoint: {protocol, port, endPort}, all optional."""
    return _shared(str(port.get("protocol") or ""), _number(port.get("port")), _number(port.get("endPort")))


@lru_cache(maxsize=4096)
def _shared(protocol: str, number: int, end: int) -> Port:
    # A cluster has some dozen ports, and hundreds of thousands of entries that name them.
    return Port(protocol, number, end)


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
