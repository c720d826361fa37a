"""The agent stand-in's arithmetic: PolicyEndpoints -> map entries (agent facts 4 and 5). No kernel needed."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from tests.lab.agent import cp_entries, np_direction, np_entries, pod_identifier

from .helpers import allow, cluster_endpoint, endpoint

NODE = "10.0.0.10"
ANY, DENY = (254, 0, 0), (255, 0, 0)
OWN = {"10.0.0.10/32": [ANY]}


def readable(entries: Mapping[bytes, list[Any]]) -> dict[str, list[Any]]:
    return {
        f"{ipaddress.ip_address(key[4:])}/{struct.unpack('<I', key[:4])[0]}": sorted(slots)
        for key, slots in entries.items()
    }


def tcp(*ports: int) -> list[tuple[int, int, int]]:
    return [(6, port, 0) for port in ports]


@pytest.mark.parametrize(
    ("pod", "namespace", "old", "new"),
    [
        ("web-7d4b9c-abcde", "shop", "web-7d4b9c-shop", "web-7d4b9c@shop"),
        ("db-0", "x", "db-x", "db@x"),
        ("debug", "x", "debug-x", "debug@x"),
        ("a.b-1", "x", "a_b-x", "a_b@x"),
        ("deny-me-x", "ns1", "deny-me-ns1", "deny-me@ns1"),
        ("deny-x", "me-ns1", "deny-me-ns1", "deny@me-ns1"),
    ],
)
def test_identifier(pod: str, namespace: str, old: str, new: str) -> None:
    assert (pod_identifier(pod, namespace, "-"), pod_identifier(pod, namespace, "@")) == (old, new)


def test_key_bytes() -> None:
    entries = np_entries([allow("10.1.2.3/8")], NODE)
    assert struct.pack("<I", 8) + socket.inet_aton("10.0.0.0") in entries


def test_direction_decision() -> None:
    open_, closed = endpoint("a", []), endpoint("b", [], isolation=["Ingress", "Egress"])
    ruled = endpoint("c", [], egress=[allow("10.1.0.0/16", ("TCP", 80))])
    assert readable(np_direction([open_], "egress", NODE)) == OWN | {"0.0.0.0/0": [ANY]}
    assert readable(np_direction([open_], "egress", NODE, omit_catch_all=True)) == OWN
    assert readable(np_direction([open_, closed], "egress", NODE)) == OWN
    assert readable(np_direction([closed, ruled], "egress", NODE)) == OWN | {"10.1.0.0/16": tcp(80)}
    domains = endpoint("d", [], egress=[{"domainName": "example.com"}], isolation=["Egress"])
    assert readable(np_direction([domains], "egress", NODE)) == OWN


def test_rule_shapes() -> None:
    rules = [
        allow("10.1.0.1"),
        allow("10.1.0.2", ("TCP", 80), ("UDP", 53, 60)),
        {
            "cidr": "10.1.0.3",
            "ports": [{"port": 80}, {"protocol": "SCTP"}, {"protocol": "UNHEARD", "port": 1}],
        },
        allow("10.1.0.4", ("TCP", 80), ("TCP", 80)),
    ]
    assert readable(np_entries(rules, NODE)) == OWN | {
        "10.1.0.1/32": [ANY],
        "10.1.0.2/32": [(6, 80, 0), (17, 53, 60)],
        "10.1.0.3/32": [(132, 0, 0), (254, 1, 0), (254, 80, 0)],
        "10.1.0.4/32": tcp(80),
    }


def test_node_address_and_other_family_are_skipped() -> None:
    rules = [allow(NODE, ("TCP", 80)), allow("::/0"), allow("fd00::1")]
    assert readable(np_entries(rules, NODE)) == OWN


def test_inheritance_from_every_wider_block() -> None:
    rules = [
        allow("10.1.2.3", ("TCP", 1)),
        allow("10.0.0.0/8", ("TCP", 8)),
        allow("10.1.0.0/16", ("TCP", 16)),
        allow("10.2.0.0/16", ("TCP", 17)),
    ]
    assert readable(np_entries(rules, NODE)) == OWN | {
        "10.0.0.0/8": tcp(8),
        "10.1.0.0/16": tcp(8, 16),
        "10.2.0.0/16": tcp(8, 17),
        "10.1.2.3/32": tcp(1, 8, 16),
    }


def test_same_block_twice_adds_ports_without_inheriting_again() -> None:
    rules = [
        allow("10.0.0.0/8", ("TCP", 8)),
        allow("10.1.0.0/16", ("TCP", 1)),
        allow("10.1.0.0/16", ("TCP", 2)),
    ]
    assert readable(np_entries(rules, NODE))["10.1.0.0/16"] == tcp(1, 2, 8)


def test_except() -> None:
    block = allow("10.0.0.0/8", ("TCP", 8), **{"except": ["10.1.0.0/16"]})
    inside = allow("10.1.2.3", ("TCP", 1))
    assert readable(np_entries([block, inside], NODE)) == OWN | {
        "10.0.0.0/8": tcp(8),
        "10.1.0.0/16": [DENY],
        "10.1.2.3/32": tcp(1),
    }
    same = allow("10.1.0.0/16", ("TCP", 2))
    assert readable(np_entries([block, same], NODE))["10.1.0.0/16"] == tcp(2)
    plain = allow("10.0.0.0/8", ("TCP", 9))
    assert readable(np_entries([block, plain], NODE))["10.1.0.0/16"] == [DENY], "also against another policy"


def test_containment_asks_only_for_the_base_address() -> None:
    block = allow("10.0.0.0/8", ("TCP", 8), **{"except": ["10.1.0.0/24"]})
    assert readable(np_entries([block, allow("10.1.0.0/16", ("TCP", 1))], NODE))["10.1.0.0/16"] == tcp(1)


def test_ipv6_block_of_32_counts_as_a_host() -> None:
    rules = [allow("fd00::/32", ("TCP", 32)), allow("fd00::/16", ("TCP", 16)), allow("fd00::1", ("TCP", 1))]
    entries = readable(np_entries(rules, "fd00:9::1"))
    assert entries["fd00::/32"] == tcp(16, 32)
    assert entries["fd00::1/128"] == tcp(1, 16)
    assert entries["fd00:9::1/128"] == [ANY]


def test_cluster_entries() -> None:
    deny = cluster_endpoint("d", [], priority=10, ingress=[allow("10.1.0.0/16", action="Deny")])
    accept = cluster_endpoint("a", [], priority=5, ingress=[allow("10.1.2.3", ("TCP", 80), action="Accept")])
    base = cluster_endpoint("b", [], "Baseline", 0, [allow("10.9.0.0/16", ("UDP", 1, 9), action="Pass")])
    assert readable(cp_entries([accept, deny, base], "ingress", NODE)) == {
        "10.1.0.0/16": [(254, 100, 0, 0)],
        "10.1.2.3/32": [(6, 51, 80, 0), (254, 100, 0, 0)],
        "10.9.0.0/16": [(17, 20002, 1, 9)],
    }
    assert cp_entries([accept], "egress", NODE) == {}


def test_cluster_entries_keep_equal_ports_of_different_rules() -> None:
    twice = [allow("10.1.2.3", ("TCP", 80), action="Accept") for _ in range(2)]
    entries = cp_entries([cluster_endpoint("a", [], priority=5, ingress=twice)], "ingress", NODE)
    assert readable(entries) == {"10.1.2.3/32": [(6, 51, 80, 0)] * 2}
    anything = [allow("10.1.2.3", action="Deny") for _ in range(2)]
    entries = cp_entries([cluster_endpoint("a", [], priority=5, ingress=anything)], "ingress", NODE)
    assert readable(entries) == {"10.1.2.3/32": [(254, 50, 0, 0)]}
