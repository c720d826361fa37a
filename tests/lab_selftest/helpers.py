"""Packets and objects that the tests of the lab share."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.lab.node import Node, Sandbox

# A dropped SYN is only known by silence: long enough for a busy machine, below the second SYN at one second.
SILENCE = 0.6


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextlib.contextmanager
def tcp_server(place: Sandbox, ip: str, port: int) -> Iterator[socket.socket]:
    with place.socket(family_of(ip)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((ip, port))
        sock.listen(64)
        yield sock


def connects(place: Sandbox, ip: str, port: int, source_port: int = 0) -> str:
    """ "open", "refused" or "silent"."""
    with place.socket(family_of(ip)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if source_port:
            sock.bind(("", source_port))
        sock.settimeout(SILENCE)
        try:
            sock.connect((ip, port))
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silent"
        return "open"


def udp_answers(client: Sandbox, server: Sandbox, ip: str, port: int, client_ip: str) -> bool:
    """A datagram there and one back."""
    family = family_of(ip)
    with server.socket(family, socket.SOCK_DGRAM) as there, client.socket(family, socket.SOCK_DGRAM) as here:
        there.bind((ip, port))
        there.settimeout(SILENCE)
        here.bind((client_ip, 0))
        here.settimeout(SILENCE)
        here.sendto(b"ask", (ip, port))
        try:
            _, sender = there.recvfrom(64)
            there.sendto(b"answer", sender)
            return here.recv(64) == b"answer"
        except TimeoutError:
            return False


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return int(~(total + (total >> 16)) & 0xFFFF)


def pings(place: Sandbox, ip: str) -> bool:
    """One ICMP echo, by a raw socket: ping need not be installed."""
    if family_of(ip) == socket.AF_INET6:
        return _pings6(place, ip)
    with place.socket(kind=socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP) as sock:
        ident = os.getpid() & 0xFFFF
        head = struct.pack("!BBHHH", 8, 0, 0, ident, 1)
        sock.sendto(struct.pack("!BBHHH", 8, 0, _checksum(head), ident, 1), (ip, 0))
        sock.settimeout(SILENCE)
        with contextlib.suppress(TimeoutError):
            while True:
                data, sender = sock.recvfrom(256)
                if sender[0] == ip and data[20] == 0:
                    return True
        return False


def _pings6(place: Sandbox, ip: str) -> bool:
    with place.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        # The kernel fills in the checksum, and gives no IPv6 header back.
        sock.sendto(struct.pack("!BBHHH", 128, 0, 0, os.getpid() & 0xFFFF, 1), (ip, 0))
        sock.settimeout(SILENCE)
        with contextlib.suppress(TimeoutError):
            while True:
                data, sender = sock.recvfrom(256)
                if sender[0] == ip and data[0] == 129:
                    return True
        return False


def selected(node: Node, namespace: str, *names: str) -> list[dict[str, str]]:
    return [{"hostIP": node.ip, "podIP": node.pods[namespace, n].ip, "name": n, "namespace": namespace} for n in names]


def endpoint(
    name: str,
    pods: list[dict[str, str]],
    ingress: Iterable[Mapping[str, Any]] = (),
    egress: Iterable[Mapping[str, Any]] = (),
    isolation: Iterable[str] = ("Ingress",),
    namespace: str = "shop",
) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{name}-abcde", "namespace": namespace},
        "spec": {
            "policyRef": {"name": name, "namespace": namespace},
            "podSelectorEndpoints": pods,
            "podIsolation": list(isolation),
            "ingress": list(ingress),
            "egress": list(egress),
        },
    }


def cluster_endpoint(
    name: str,
    pods: list[dict[str, str]],
    tier: str = "Admin",
    priority: int = 10,
    ingress: Iterable[Mapping[str, Any]] = (),
    egress: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{name}-abcde"},
        "spec": {
            "policyRef": {"name": name},
            "tier": tier,
            "priority": priority,
            "podSelectorEndpoints": pods,
            "ingress": list(ingress),
            "egress": list(egress),
        },
    }


def allow(cidr: str, *ports: tuple[str, int] | tuple[str, int, int], **more: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"cidr": cidr, **more}
    if ports:
        entry["ports"] = [{"protocol": p[0], "port": p[1], **({"endPort": p[2]} if len(p) == 3 else {})} for p in ports]
    return entry
