"""A flow: who wants to talk to whom, on which protocol and port."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PROTOCOL_NUMBERS = {"ICMP": 1, "TCP": 6, "UDP": 17, "ICMPV6": 58, "SCTP": 132}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOL_NUMBERS.items()}
WITH_PORTS = {6, 17, 132}


class Direction(StrEnum):
    """Always the pod's: ingress is traffic to the pod, whatever the tc hook is called."""

    INGRESS = "ingress"
    EGRESS = "egress"

    @property
    def tc_hook(self) -> str:
        """The clsact hook of the host veth that sees this traffic: the veth's view is the opposite one."""
        return "egress" if self is Direction.INGRESS else "ingress"

    @property
    def program_name(self) -> str:
        return f"handle_{self.value}"


@dataclass(frozen=True)
class Flow:
    """One new connection as a packet shows it. Ports are 0 for protocols that have none."""

    source: Address
    destination: Address
    protocol: int
    port: int
    """Destination port."""
    source_port: int | None = None
    """None: any port that no established flow uses."""

    def peer(self, direction: Direction) -> Address:
        """The address that is looked up in the maps of the pod for this direction."""
        return self.source if direction is Direction.INGRESS else self.destination

    def owner(self, direction: Direction) -> Address:
        """The pod's own side."""
        return self.destination if direction is Direction.INGRESS else self.source

    @property
    def port_text(self) -> str:
        return port_text(self.protocol, self.port)


def protocol_name(number: int) -> str:
    return PROTOCOL_NAMES.get(number, f"protocol {number}")


def port_text(protocol: int, port: int) -> str:
    return f"{port}/{protocol_name(protocol)}" if protocol in WITH_PORTS else protocol_name(protocol)


@lru_cache(maxsize=1 << 18)
def host_network(address: Address) -> Network:
    """The /32 or /128 of one address."""
    # From the number: from an address the module would write a text and parse it.
    return IPv4Network(int(address)) if isinstance(address, IPv4Address) else IPv6Network(int(address))
