"""PolicyEndpoints -> the entries that the agent writes."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubectl_netpol.kernel.verdict import scan
from kubectl_netpol.model.flow import Direction, Flow, host_network
from kubectl_netpol.model.kernel import LpmEntry, LpmTable
from kubectl_netpol.policy import agent, agent_newer, endpoints
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.ports import Port
from tests.random_cluster import random_blocks
from tests.unit.builders import ANY, DENY, NODE_IP, TCP80, endpoint, entry, pe_port
from tests.unit.policy_builders import acts, cluster_endpoint

INGRESS = Direction.INGRESS
OWN = ip_address(NODE_IP)
HTTP, DNS = pe_port(80), pe_port(53, protocol="UDP")
UDP53 = (17, 53, 0)


def program(*rules, direction=INGRESS, node=OWN, family=4, isolation=("Ingress",)) -> dict[str, set]:
    """Prefix -> slots, of one PolicyEndpoint with these elements, without the own node's entry."""
    slice_ = endpoint(isolation=isolation, **{direction.value: list(rules)})
    return contents(agent.program([slice_], direction, node, family), node)


def contents(found, node=OWN) -> dict[str, set]:
    texts = {str(prefix): {tuple(slot) for slot in entry.slots} for prefix, entry in found.items()}
    if node is not None and node.version == 4:
        assert texts.pop(f"{NODE_IP}/32") == {ANY}
    return texts


def test_nothing_is_programmed_where_no_endpoint_concerns_the_identifier():
    assert agent.program([], INGRESS, OWN, 4) == {}


def test_the_own_node_is_always_there():
    found = agent.program([endpoint(ingress=[entry("10.0.1.1")])], INGRESS, OWN, 4)
    assert found[ip_network(f"{NODE_IP}/32")].origin == agent.NODE
    assert program(entry("10.0.1.1"), node=None) == {"10.0.1.1/32": {ANY}}


def test_a_rule_for_the_own_node_cannot_narrow_it():
    assert program(entry(NODE_IP, HTTP)) == {}
    assert program(entry(f"{NODE_IP}/32", HTTP)) == {}


@pytest.mark.parametrize(
    ("direction", "isolation", "expected"),
    [
        (INGRESS, ("Ingress",), {}),
        (INGRESS, ("Ingress", "Egress"), {}),
        (INGRESS, ("Egress",), {"0.0.0.0/0": {ANY}}),
        (Direction.EGRESS, ("Ingress",), {"0.0.0.0/0": {ANY}}),
        (Direction.EGRESS, (), {"0.0.0.0/0": {ANY}}),
    ],
)
def test_without_rules_isolation_chooses_deny_all_or_catch_all(direction, isolation, expected):
    assert program(direction=direction, isolation=isolation) == expected


def test_the_catch_all_has_the_family_of_the_cluster():
    assert program(isolation=(), family=6, node=None) == {"::/0": {ANY}}


def test_rules_are_programmed_whatever_the_isolation_says():
    assert program(entry("10.0.1.1"), isolation=()) == {"10.0.1.1/32": {ANY}}


def test_one_slice_with_rules_is_enough_to_have_no_catch_all():
    slices = [endpoint("a", isolation=()), endpoint("b", isolation=(), ingress=[entry("10.0.1.1")])]
    assert contents(agent.program(slices, INGRESS, OWN, 4)) == {"10.0.1.1/32": {ANY}}


def test_entries_with_a_domain_name_only_are_no_rules():
    named = {"domainName": "example.com"}
    assert program(named, direction=Direction.EGRESS, isolation=("Egress",)) == {}


@pytest.mark.parametrize(
    ("port", "slot"),
    [
        (Port("TCP", 80), (6, 80, 0)),
        (Port("UDP", 53), (17, 53, 0)),
        (Port("SCTP", 9), (132, 9, 0)),
        (Port("TCP", 80, 90), (6, 80, 90)),
        (Port("TCP"), (6, 0, 0)),
        (Port(), (254, 0, 0)),
        (Port("", 80), (254, 80, 0)),
        (Port("ICMP"), (254, 0, 0)),
        (Port("DCCP", 5), (254, 5, 0)),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else value.text,
)
def test_slots_of_ports(port, slot):
    assert agent.slot(port) == slot


# ---- inheritance


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (
            [entry("10.0.0.0/8", HTTP), entry("10.1.0.0/16", DNS)],
            {"10.0.0.0/8": {TCP80}, "10.1.0.0/16": {TCP80, UDP53}},
        ),
        (
            [entry("10.1.1.1", DNS), entry("10.1.0.0/16"), entry("10.0.0.0/8", HTTP)],
            {"10.0.0.0/8": {TCP80}, "10.1.0.0/16": {TCP80, ANY}, "10.1.1.1/32": {TCP80, ANY, UDP53}},
        ),
        (
            [entry("0.0.0.0/0", HTTP), entry("10.0.1.1", DNS)],
            {"0.0.0.0/0": {TCP80}, "10.0.1.1/32": {TCP80, UDP53}},
        ),
        (
            [entry("10.0.0.0/8", HTTP), entry("11.0.0.0/16", DNS)],
            {"10.0.0.0/8": {TCP80}, "11.0.0.0/16": {UDP53}},
        ),
        (
            [entry("10.0.1.1", HTTP), entry("10.0.1.1", DNS)],
            {"10.0.1.1/32": {TCP80, UDP53}},
        ),
    ],
    ids=["wider", "sorted-by-length", "everybody", "apart", "same-prefix"],
)
def test_narrower_prefixes_inherit_the_ports_of_wider_ones(rules, expected):
    assert program(*rules) == expected
    assert program(*reversed(rules)) == expected


def test_an_except_keeps_what_is_inside_from_inheriting():
    wide = entry("10.0.0.0/8", HTTP, excepts=["10.1.0.0/16"])
    assert program(wide, entry("10.1.5.0/24", DNS), entry("10.2.5.0/24", DNS)) == {
        "10.0.0.0/8": {TCP80},
        "10.1.0.0/16": {DENY},
        "10.1.5.0/24": {UDP53},
        "10.2.5.0/24": {TCP80, UDP53},
    }


def test_the_base_address_alone_decides_about_an_except():
    """10.1.0.0/16 starts inside the except 10.1.0.0/24, so all of it inherits nothing."""
    wide = entry("10.0.0.0/8", HTTP, excepts=["10.1.0.0/24"])
    assert program(wide, entry("10.1.0.0/16", DNS))["10.1.0.0/16"] == {UDP53}


def test_an_except_of_one_policy_denies_for_all():
    slices = [
        endpoint("a", ingress=[entry("10.0.0.0/8", excepts=["10.1.0.0/16"])]),
        endpoint("b", ingress=[entry("10.0.0.0/8")]),
    ]
    assert contents(agent.program(slices, INGRESS, OWN, 4)) == {"10.0.0.0/8": {ANY}, "10.1.0.0/16": {DENY}}


def test_an_except_that_is_a_rule_of_its_own_is_no_deny():
    wide = entry("10.0.0.0/8", excepts=["10.1.0.0/16"])
    assert program(wide, entry("10.1.0.0/16", HTTP))["10.1.0.0/16"] == {TCP80}


def test_a_skipped_rule_still_brings_its_excepts():
    assert program(entry("2001:db8::/32", excepts=["10.1.0.0/16"])) == {"10.1.0.0/16": {DENY}}


def test_prefixes_of_32_bits_are_hosts_in_both_families():
    rules = [entry("2001:db8::/32", HTTP), entry("2001:db8:1::/48", DNS)]
    assert program(*rules, family=6, node=None)["2001:db8:1::/48"] == {UDP53}
    rules = [entry("2001:db8::/33", HTTP), entry("2001:db8::/48", DNS)]
    assert program(*rules, family=6, node=None)["2001:db8::/48"] == {TCP80, UDP53}


def test_inherited_ports_know_where_they_come_from():
    slices = [endpoint(ingress=[entry("10.0.0.0/8", HTTP), entry("10.1.0.0/16")])]
    found = agent.program(slices, INGRESS, OWN, 4)[ip_network("10.1.0.0/16")]
    assert [str(e.prefix) for e in found.inherited] == ["10.0.0.0/8"]
    assert [str(e.prefix) for e in found.sources] == ["10.1.0.0/16"]


# ---- family, canonical form, limits


def test_the_other_family_is_skipped_and_leaves_a_closed_direction():
    """Rules that are all of the other family are still rules: no catch-all."""
    assert program(entry("2001:db8::1")) == {}
    both = [entry("0.0.0.0/0"), entry("::/0")]
    assert program(*both) == {"0.0.0.0/0": {ANY}}
    assert program(*both, family=6, node=None) == {"::/0": {ANY}}


def test_the_node_address_of_the_other_family_is_not_written():
    assert program(entry("::/0"), family=6, node=None) == {"::/0": {ANY}}
    assert set(agent.program([endpoint()], INGRESS, OWN, 6)) == set()


def test_host_bits_are_masked_off():
    assert program(entry("10.1.2.3/8", HTTP), entry("10.0.0.0/8", DNS)) == {"10.0.0.0/8": {TCP80, UDP53}}


@pytest.mark.parametrize(("count", "cut_off"), [(24, False), (25, True)])
def test_more_than_24_slots_are_cut_off(count, cut_off):
    ports = [pe_port(port) for port in range(1, count + 1)] + [pe_port(1)]
    found = agent.program([endpoint(ingress=[entry("10.0.1.1", *ports)])], INGRESS, OWN, 4)
    assert found[ip_network("10.0.1.1/32")].cut_off is cut_off


# ---- direction and contents, rule by rule (agent facts 5.2, 5.3)

EGRESS = Direction.EGRESS
WEB_ALL, WEB_HTTP, WEB_DNS = entry("10.1.0.0/16"), entry("10.1.0.0/16", HTTP), entry("10.1.0.0/16", DNS)
HOST_DNS = entry("10.1.2.3", DNS)
V6 = entry("2001:db8::/48", HTTP)
NAMED = {"domainName": "example.com"}
N = f"{NODE_IP}/32"
MANY = [pe_port(port) for port in range(1, 26)]

DIRECTIONS = {
    # slices (isolation, elements), expected prefixes beside the own node's
    "5.2 rules program": ([(("Ingress",), [WEB_HTTP])], {"10.1.0.0/16": {TCP80}}),
    "5.2 no rules, isolated: default deny": ([(("Ingress",), [])], {}),
    "5.2 no rules, not isolated: catch-all": ([(("Egress",), [])], {"0.0.0.0/0": {ANY}}),
    "5.2 no rules, isolated by one of several": ([(("Egress",), []), (("Ingress",), [])], {}),
    "5.2 rules of one, isolated by another": ([((), [WEB_HTTP]), (("Ingress",), [])], {"10.1.0.0/16": {TCP80}}),
    "5.2 rules whatever podIsolation says": ([((), [WEB_HTTP])], {"10.1.0.0/16": {TCP80}}),
    "5.2 rules of the other family only: deny": ([((), [V6])], {}),
    "5.2 entries without a cidr are no rules": ([((), [NAMED])], {"0.0.0.0/0": {ANY}}),
    "4.3 the union over all slices": (
        [(("Ingress",), [WEB_HTTP]), (("Ingress",), [HOST_DNS])],
        {"10.1.0.0/16": {TCP80}, "10.1.2.3/32": {TCP80, UDP53}},
    ),
}


@pytest.mark.parametrize(("slices", "expected"), DIRECTIONS.values(), ids=DIRECTIONS)
def test_what_a_direction_gets(slices, expected):
    for direction in Direction:
        kinds = {"Ingress": direction.value.capitalize(), "Egress": _other(direction).value.capitalize()}
        made = [
            endpoint(f"p{number}", isolation=[kinds[kind] for kind in isolation], **{direction.value: elements})
            for number, (isolation, elements) in enumerate(slices)
        ]
        found = agent.program(made, direction, OWN, 4)
        assert contents(found) == expected
        assert contents(agent.program(made[::-1], direction, OWN, 4)) == expected


def _other(direction):
    return EGRESS if direction is INGRESS else INGRESS


def test_rules_of_the_other_direction_do_not_count():
    assert program(direction=EGRESS, isolation=()) == {"0.0.0.0/0": {ANY}}
    made = [endpoint(ingress=[WEB_HTTP], isolation=())]
    assert contents(agent.program(made, EGRESS, OWN, 4)) == {"0.0.0.0/0": {ANY}}


CONTENTS = {
    "5.3 a bare address is a host": ([entry("10.1.2.3", DNS)], {"10.1.2.3/32": {UDP53}}),
    "5.3 no ports: any": ([WEB_ALL], {"10.1.0.0/16": {ANY}}),
    "5.3 skipped: the own node": ([entry(NODE_IP, HTTP)], {}),
    "5.3 a block that holds the own node": ([entry("10.0.0.0/28", HTTP)], {"10.0.0.0/28": {TCP80}}),
    "5.3 skipped: the other family": ([V6, WEB_DNS], {"10.1.0.0/16": {UDP53}}),
    "5.3 protocol nil: any, with its port": (
        [entry("10.1.2.3", pe_port(80, protocol=None))],
        {"10.1.2.3/32": {(254, 80, 0)}},
    ),
    "5.3 protocol unknown: any": ([entry("10.1.2.3", pe_port(80, protocol="ICMP"))], {"10.1.2.3/32": {(254, 80, 0)}}),
    "5.3 protocol only": ([entry("10.1.2.3", pe_port(protocol="UDP"))], {"10.1.2.3/32": {(17, 0, 0)}}),
    "5.3 endPort": ([entry("10.1.2.3", pe_port(80, 90))], {"10.1.2.3/32": {(6, 80, 90)}}),
    "5.3 equal CIDRs: ports joined": ([WEB_HTTP, WEB_DNS], {"10.1.0.0/16": {TCP80, UDP53}}),
    "5.3 equal CIDRs: all ports beside others, never swallowed": ([WEB_HTTP, WEB_ALL], {"10.1.0.0/16": {TCP80, ANY}}),
    "5.3 duplicates are dropped": ([WEB_HTTP, WEB_HTTP], {"10.1.0.0/16": {TCP80}}),
    "5.3 a host inherits": ([WEB_HTTP, HOST_DNS], {"10.1.0.0/16": {TCP80}, "10.1.2.3/32": {TCP80, UDP53}}),
    "5.3 a host does not inherit from a host": (
        [entry("10.1.2.3", HTTP), entry("10.1.2.4", DNS)],
        {"10.1.2.3/32": {TCP80}, "10.1.2.4/32": {UDP53}},
    ),
    "5.3 from every wider one": (
        [
            entry("0.0.0.0/0", pe_port(1)),
            entry("10.0.0.0/8", pe_port(2)),
            entry("10.1.0.0/16", pe_port(3)),
            entry("10.1.2.3", pe_port(4)),
        ],
        {
            "0.0.0.0/0": {(6, 1, 0)},
            "10.0.0.0/8": {(6, 1, 0), (6, 2, 0)},
            "10.1.0.0/16": {(6, 1, 0), (6, 2, 0), (6, 3, 0)},
            "10.1.2.3/32": {(6, 1, 0), (6, 2, 0), (6, 3, 0), (6, 4, 0)},
        },
    ),
    "5.3 from the second rule of a CIDR too": (
        [WEB_HTTP, WEB_DNS, entry("10.1.2.3", pe_port(9))],
        {"10.1.0.0/16": {TCP80, UDP53}, "10.1.2.3/32": {TCP80, UDP53, (6, 9, 0)}},
    ),
    "5.3 the second rule of a CIDR inherits nothing more": (
        [entry("10.0.0.0/8", HTTP), WEB_DNS, entry("10.1.0.0/16", pe_port(9))],
        {"10.0.0.0/8": {TCP80}, "10.1.0.0/16": {TCP80, UDP53, (6, 9, 0)}},
    ),
    "5.3 excepts are deny markers": (
        [entry("10.0.0.0/8", HTTP, excepts=["10.1.0.0/16", "10.2.0.0/16"])],
        {"10.0.0.0/8": {TCP80}, "10.1.0.0/16": {DENY}, "10.2.0.0/16": {DENY}},
    ),
    "5.3 no deny marker where the except is a rule's CIDR": (
        [entry("10.0.0.0/8", HTTP, excepts=["10.1.0.0/16"]), WEB_DNS],
        {"10.0.0.0/8": {TCP80}, "10.1.0.0/16": {UDP53}},
    ),
    "5.3 an except denies for the broader rule of another policy": (
        [entry("10.0.0.0/8", HTTP, excepts=["10.1.0.0/16"]), entry("0.0.0.0/0", DNS)],
        {"0.0.0.0/0": {UDP53}, "10.0.0.0/8": {TCP80, UDP53}, "10.1.0.0/16": {DENY}},
    ),
    "5.3 more specific rules inside an except work, and do not inherit": (
        [entry("10.0.0.0/8", HTTP, excepts=["10.1.0.0/16"]), HOST_DNS],
        {"10.0.0.0/8": {TCP80}, "10.1.0.0/16": {DENY}, "10.1.2.3/32": {UDP53}},
    ),
    "5.3 they inherit from rules that do not except them": (
        [entry("10.0.0.0/8", HTTP, excepts=["10.1.0.0/16"]), entry("0.0.0.0/0", pe_port(9)), HOST_DNS],
        {
            "0.0.0.0/0": {(6, 9, 0)},
            "10.0.0.0/8": {TCP80, (6, 9, 0)},
            "10.1.0.0/16": {DENY},
            "10.1.2.3/32": {(6, 9, 0), UDP53},
        },
    ),
    "5.3 the base address alone is asked: in the except": (
        [entry("10.0.0.0/8", HTTP, excepts=["10.1.0.0/24"]), WEB_DNS],
        {"10.0.0.0/8": {TCP80}, "10.1.0.0/16": {UDP53}, "10.1.0.0/24": {DENY}},
    ),
    "5.3 the base address alone is asked: beside the except": (
        [entry("10.0.0.0/8", HTTP, excepts=["10.1.1.0/24"]), WEB_DNS],
        {"10.0.0.0/8": {TCP80}, "10.1.0.0/16": {TCP80, UDP53}, "10.1.1.0/24": {DENY}},
    ),
    "5.3 excepted by the widest, inherited through the middle": (
        [entry("10.0.0.0/8", HTTP, excepts=["10.1.2.0/24"]), WEB_DNS, entry("10.1.2.3", pe_port(9))],
        {
            "10.0.0.0/8": {TCP80},
            "10.1.0.0/16": {TCP80, UDP53},
            "10.1.2.0/24": {DENY},
            "10.1.2.3/32": {TCP80, UDP53, (6, 9, 0)},
        },
    ),
    "5.3 equal CIDRs: excepts joined, for what is inherited": (
        [entry("10.0.0.0/8", HTTP), entry("10.0.0.0/8", excepts=["10.1.0.0/16"]), HOST_DNS],
        {"10.0.0.0/8": {TCP80, ANY}, "10.1.0.0/16": {DENY}, "10.1.2.3/32": {UDP53}},
    ),
    "5.3 two policies, one excepts: denied": (
        [entry("10.0.0.0/8", excepts=["10.1.0.0/16"]), entry("10.0.0.0/8")],
        {"10.0.0.0/8": {ANY}, "10.1.0.0/16": {DENY}},
    ),
    "5.3 excepts of the other family are not": (
        [entry("10.0.0.0/8", excepts=["2001:db8::/64"])],
        {"10.0.0.0/8": {ANY}},
    ),
    "5.3 host bits are masked, since 1.4.2": (
        [entry("10.9.9.9/8", HTTP, excepts=["10.1.2.3/16"]), entry("10.1.2.3/24", DNS)],
        {"10.0.0.0/8": {TCP80}, "10.1.0.0/16": {DENY}, "10.1.2.0/24": {UDP53}},
    ),
    "5.3 host bits make no second rule": (
        [entry("10.9.9.9/8", HTTP), entry("10.0.0.0/8", DNS)],
        {"10.0.0.0/8": {TCP80, UDP53}},
    ),
    "5.3 more than 24 are all expected": (
        [entry("10.1.2.3", *MANY)],
        {"10.1.2.3/32": {(6, port, 0) for port in range(1, 26)}},
    ),
}


@pytest.mark.parametrize(("rules", "expected"), CONTENTS.values(), ids=CONTENTS)
def test_contents_of_rule_maps(rules, expected):
    """Whatever the order in which the controller wrote them, and in however many slices."""
    assert program(*rules) == expected
    assert program(*reversed(rules), direction=EGRESS) == expected
    slices = [endpoint(suffix=str(number), ingress=[rule]) for number, rule in enumerate(rules)]
    assert contents(agent.program(slices, INGRESS, OWN, 4)) == expected


def test_a_block_that_begins_at_the_own_node_is_skipped_and_its_excepts_are_not():
    """5.3: the address part alone is compared. In the maps of cluster policies as well (5.5)."""
    node = ip_address("10.0.1.128")
    rules = [entry("10.0.1.128/25", HTTP, excepts=["10.0.1.192/28"]), WEB_DNS]
    found = agent.program([endpoint(ingress=rules)], INGRESS, node, 4)
    assert {str(p): set(map(tuple, e.slots)) for p, e in found.items()} == {
        "10.0.1.128/32": {ANY},
        "10.0.1.192/28": {DENY},
        "10.1.0.0/16": {UDP53},
    }
    assert tiers(admin(acts("Deny", "10.0.1.128/25"), acts("Deny", "10.0.1.0/24")), node=node) == {
        "10.0.1.0/24": [(254, 100, 0, 0)]
    }


def test_an_except_that_is_the_own_node_takes_the_place_of_its_entry():
    """5.3: excepts are written last."""
    made = [endpoint(ingress=[entry("10.0.0.0/8", HTTP, excepts=[f"{NODE_IP}/32"])])]
    found = agent.program(made, INGRESS, OWN, 4)
    assert {str(p): set(map(tuple, e.slots)) for p, e in found.items()} == {"10.0.0.0/8": {TCP80}, N: {DENY}}


V6_NODE = ip_address("2001:db8:ffff::1")
CONTENTS_V6 = {
    "5.3 a bare address is a host": ([entry("2001:db8::1", DNS)], {"2001:db8::1/128": {UDP53}}),
    "5.3 inheritance": (
        [entry("2001:db8::/48", HTTP), entry("2001:db8::1", DNS)],
        {"2001:db8::/48": {TCP80}, "2001:db8::1/128": {TCP80, UDP53}},
    ),
    "5.3 a /32 counts as a host: its ports are not inherited": (
        [entry("2001:db8::/32", HTTP), entry("2001:db8::/48", DNS)],
        {"2001:db8::/32": {TCP80}, "2001:db8::/48": {UDP53}},
    ),
    "5.3 a /32 inherits": (
        [entry("2001::/16", HTTP), entry("2001:db8::/32", DNS)],
        {"2001::/16": {TCP80}, "2001:db8::/32": {TCP80, UDP53}},
    ),
    "5.3 a /31 is inherited from": (
        [entry("2001:db8::/31", HTTP), entry("2001:db8::/48", DNS)],
        {"2001:db8::/31": {TCP80}, "2001:db8::/48": {TCP80, UDP53}},
    ),
    "5.3 skipped: the other family": ([entry("10.0.0.0/8"), entry("2001:db8::1")], {"2001:db8::1/128": {ANY}}),
    "5.3 skipped: the own node": ([entry(str(V6_NODE), HTTP)], {}),
    "5.3 written in full": ([entry("2001:0db8:0001:0002:0003:0004:0005:0006")], {"2001:db8:1:2:3:4:5:6/128": {ANY}}),
    "5.2 no rules, not isolated: ::/0": ([], {"::/0": {ANY}}),
}


@pytest.mark.parametrize(("rules", "expected"), CONTENTS_V6.values(), ids=CONTENTS_V6)
def test_contents_of_rule_maps_of_ipv6_clusters(rules, expected):
    made = [endpoint(isolation=(), ingress=rules)]
    found = agent.program(made, INGRESS, V6_NODE, 6)
    texts = {str(prefix): {tuple(slot) for slot in one.slots} for prefix, one in found.items()}
    assert texts.pop(f"{V6_NODE}/128") == {ANY}
    assert texts == expected


def test_entries_know_their_origin_and_their_rules():
    wide = entry("10.0.0.0/8", HTTP, excepts=["10.2.0.0/16"])
    found = agent.program([endpoint(ingress=[wide, WEB_DNS, WEB_HTTP])], INGRESS, OWN, 4)
    assert {str(p): e.origin for p, e in found.items()} == {
        N: agent.NODE,
        "10.0.0.0/8": agent.RULE,
        "10.1.0.0/16": agent.RULE,
        "10.2.0.0/16": agent.EXCEPT,
    }
    middle = found[ip_network("10.1.0.0/16")]
    assert [e.path for e in middle.sources] == ["spec.ingress[1]", "spec.ingress[2]"]
    assert [e.path for e in middle.inherited] == ["spec.ingress[0]"]
    assert [str(n) for n in found[ip_network("10.0.0.0/8")].excepts] == ["10.2.0.0/16"]
    assert not any(e.others for e in found.values())
    [anywhere] = agent.program([endpoint(isolation=())], INGRESS, None, 4).values()
    assert anywhere.origin == agent.CATCH_ALL


OTHERS = {
    # rules, the prefix, what agents before 1.4.2 may hold instead
    "two texts of one key: either": (
        [entry("10.9.9.9/8", HTTP), entry("10.0.0.0/8", DNS)],
        "10.0.0.0/8",
        [{TCP80}, {UDP53}],
    ),
    "an except of the same key": ([entry("10.0.0.0/8", HTTP, excepts=["10.9.0.0/8"])], "10.0.0.0/8", [{DENY}]),
    "the text's own address is asked for containment": (
        [entry("10.1.0.0/16", HTTP, excepts=["10.1.2.0/24"]), entry("10.1.2.3/20", DNS)],
        "10.1.0.0/20",
        [{UDP53}],
    ),
    "a text that begins at the own node's address is skipped": (
        [entry(f"{NODE_IP}/16", HTTP), entry("10.0.0.0/16", DNS)],
        "10.0.0.0/16",
        [{UDP53}],
    ),
}


@pytest.mark.parametrize(("rules", "prefix", "instead"), OTHERS.values(), ids=OTHERS)
def test_what_agents_before_1_4_2_may_hold_where_host_bits_are_written(rules, prefix, instead):
    """5.3: other texts are other rules there, and which of those with one key is written last is random."""
    found = agent.program([endpoint(ingress=rules)], INGRESS, OWN, 4)[ip_network(prefix)]
    assert [set(map(tuple, other)) for other in found.others] == instead


def test_a_length_that_is_not_written_is_that_of_a_host():
    """Two texts of one host differ in the length alone: that is one rule to all agents."""
    found = agent.program(
        [endpoint(ingress=[entry("10.1.2.3", HTTP), entry("10.1.2.3/32", DNS), entry("10.9.9.9/8")])], INGRESS, OWN, 4
    )
    host = found[ip_network("10.1.2.3/32")]
    assert set(map(tuple, host.slots)) == {ANY, TCP80, UDP53}
    assert host.others == []


# ---- agents after 1.4.2: what their source says of it, in words

PORTS_30 = [pe_port(port) for port in range(1, 31)]
BLOCK, WORLD = entry("10.0.0.0/8", HTTP, excepts=["10.1.0.0/16"]), entry("0.0.0.0/0", DNS)
NEWER = {
    "an except with nothing to inherit gets the deny marker": (
        [entry("0.0.0.0/0", excepts=["10.0.0.0/8"])],
        {"0.0.0.0/0": {ANY}, "10.0.0.0/8": {DENY}},
    ),
    "an except inherits the ports of every other rule that contains it": (
        [BLOCK, WORLD],
        {"0.0.0.0/0": {UDP53}, "10.0.0.0/8": {TCP80, UDP53}, "10.1.0.0/16": {UDP53}},
    ),
    "also of one with the same CIDR, which does not except it": (
        [entry("0.0.0.0/0", DNS), entry("0.0.0.0/0", excepts=["10.0.0.0/8", "172.16.0.0/12"])],
        {"0.0.0.0/0": {ANY}, "10.0.0.0/8": {UDP53}, "172.16.0.0/12": {UDP53}},
    ),
    "never of its own subnet": (
        [entry("0.0.0.0/0", excepts=["10.0.0.0/8"]), entry("10.0.0.0/24", HTTP)],
        {"0.0.0.0/0": {ANY}, "10.0.0.0/8": {DENY}, "10.0.0.0/24": {TCP80}},
    ),
    "an except that is a rule's CIDR gets the rule's entry": (
        [BLOCK, WEB_DNS],
        {"10.0.0.0/8": {TCP80}, "10.1.0.0/16": {UDP53}},
    ),
    "each rule of a CIDR is tested on its own": (
        [entry("10.0.0.0/8", HTTP), entry("10.0.0.0/8", pe_port(9), excepts=["10.1.0.0/16"]), HOST_DNS],
        {"10.0.0.0/8": {TCP80, (6, 9, 0)}, "10.1.0.0/16": {TCP80}, "10.1.2.3/32": {TCP80, UDP53}},
    ),
    "only an except that covers the prefix as a whole carves it out": (
        [entry("0.0.0.0/0", pe_port(9), excepts=["10.1.0.0/24"]), entry("10.0.0.0/8", HTTP), WEB_DNS],
        {
            "0.0.0.0/0": {(6, 9, 0)},
            "10.0.0.0/8": {TCP80, (6, 9, 0)},
            "10.1.0.0/16": {TCP80, (6, 9, 0), UDP53},
            "10.1.0.0/24": {TCP80, UDP53},
        },
    ),
    "inherited are the ports of the rule as authored, not what it has inherited": (
        [entry("10.0.0.0/8", HTTP, excepts=["10.1.2.0/24"]), WEB_DNS, entry("10.1.2.3", pe_port(9))],
        {
            "10.0.0.0/8": {TCP80},
            "10.1.0.0/16": {TCP80, UDP53},
            "10.1.2.0/24": {UDP53},
            "10.1.2.3/32": {UDP53, (6, 9, 0)},
        },
    ),
    "an unconditional allow makes the others dead weight": ([WEB_HTTP, WEB_ALL], {"10.1.0.0/16": {ANY}}),
    "also one that is inherited, and one with an end and no start": (
        [entry("10.0.0.0/8", pe_port(None, 100, protocol=None)), WEB_HTTP],
        {"10.0.0.0/8": {ANY}, "10.1.0.0/16": {ANY}},
    ),
    "one for any protocol and a port does not": (
        [entry("10.1.0.0/16", HTTP, pe_port(80, protocol=None))],
        {"10.1.0.0/16": {TCP80, (254, 80, 0)}},
    ),
    "nor one for all ports of a protocol": (
        [entry("10.1.0.0/16", HTTP, pe_port())],
        {"10.1.0.0/16": {TCP80, (6, 0, 0)}},
    ),
    "excepts of rules that are skipped are skipped": ([entry("2001:db8::/32", excepts=["10.1.0.0/16"]), V6], {}),
    "an except of the other family makes no key": (
        [entry("10.0.0.0/8", excepts=["2001:db8::/64"])],
        {"10.0.0.0/8": {ANY}},
    ),
    "host bits of excepts are masked": (
        [entry("10.9.9.9/8", HTTP, excepts=["10.1.2.3/16"])],
        {"10.0.0.0/8": {TCP80}, "10.1.0.0/16": {DENY}},
    ),
    "of more than 24 the first in the order are kept": (
        [entry("10.1.0.0/16", *PORTS_30, DNS, pe_port(7, protocol=None))],
        {"10.1.0.0/16": {(254, 7, 0), *((6, port, 0) for port in range(1, 24))}},
    ),
    "also of the ports that an except inherits": (
        [entry("10.0.0.0/8", excepts=["10.1.0.0/16"]), entry("0.0.0.0/0", *PORTS_30)],
        {
            "0.0.0.0/0": {(6, port, 0) for port in range(1, 25)},
            "10.0.0.0/8": {ANY},
            "10.1.0.0/16": {(6, port, 0) for port in range(1, 25)},
        },
    ),
}


@pytest.mark.parametrize(("rules", "expected"), NEWER.values(), ids=NEWER)
def test_contents_as_agents_after_1_4_2_write_them(rules, expected):
    for order in (rules, rules[::-1]):
        slices = [endpoint(suffix=str(number), ingress=[rule]) for number, rule in enumerate(order)]
        assert contents(agent_newer.program(slices, INGRESS, OWN, 4)) == expected


def test_what_agents_after_1_4_2_leave_out_is_known():
    ports = [*PORTS_30, DNS, pe_port(7, protocol=None)]
    [_, found] = agent_newer.program([endpoint(ingress=[entry("10.1.0.0/16", *ports)])], INGRESS, OWN, 4).values()
    assert set(map(tuple, found.lost)) == {UDP53, *((6, port, 0) for port in range(24, 31))}
    assert not found.cut_off


def test_what_agents_after_1_4_2_inherit_knows_where_it_comes_from():
    found = agent_newer.program([endpoint(ingress=[BLOCK, WORLD, WEB_DNS, HOST_DNS])], INGRESS, OWN, 4)
    assert {str(p): [str(e.prefix) for e in one.inherited] for p, one in found.items()} == {
        N: [],
        "0.0.0.0/0": [],
        "10.0.0.0/8": ["0.0.0.0/0"],
        "10.1.0.0/16": ["0.0.0.0/0"],
        "10.1.2.3/32": ["0.0.0.0/0", "10.1.0.0/16"],
    }
    origins = {
        str(p): one.origin for p, one in agent_newer.program([endpoint(ingress=[BLOCK])], INGRESS, OWN, 4).items()
    }
    assert origins == {N: agent.NODE, "10.0.0.0/8": agent.RULE, "10.1.0.0/16": agent.EXCEPT}


def test_agents_after_1_4_2_and_the_own_node():
    """Only the node's host route as an except is skipped: anything broader loses to it."""
    node = ip_address("10.0.1.128")
    rules = [entry("10.0.0.0/8", HTTP, excepts=["10.0.1.128/25", "10.0.1.128/32"]), entry("10.0.1.128/26", DNS)]
    found = agent_newer.program([endpoint(ingress=rules)], INGRESS, node, 4)
    assert {str(p): set(map(tuple, e.slots)) for p, e in found.items()} == {
        "10.0.1.128/32": {ANY},
        "10.0.0.0/8": {TCP80},
        "10.0.1.128/25": {DENY},
    }


def test_an_ipv6_block_of_32_bits_is_no_host_to_agents_after_1_4_2():
    rules = [entry("2001:db8::/32", DNS), entry("2001:db8::/32", excepts=["2001:db8:9::/48"])]
    found = agent_newer.program([endpoint(ingress=rules)], INGRESS, V6_NODE, 6)
    assert set(map(tuple, found[ip_network("2001:db8:9::/48")].slots)) == {UDP53}


@pytest.mark.parametrize("isolation", [(), ("Ingress",)])
def test_without_rules_agents_after_1_4_2_write_the_same(isolation):
    slices = [endpoint(isolation=isolation)]
    assert agent_newer.program(slices, INGRESS, OWN, 4) == agent.program(slices, INGRESS, OWN, 4)
    assert agent_newer.program([], INGRESS, OWN, 4) == {}


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_agents_after_1_4_2_write_what_the_rules_together_allow(seed):
    """But for the own node, rules that begin there, and what does not fit: the union, as Kubernetes defines it."""
    family = 4 if seed % 2 else 6
    slices = [endpoint(ingress=random_blocks(random.Random(seed), family))]
    made = agent_newer.program(slices, INGRESS, None, family)
    table = LpmTable(tuple(LpmEntry(prefix, tuple(sorted(one.slots))) for prefix, one in made.items()))
    rules = list(endpoints.entries(slices, INGRESS))
    ends = [edge for prefix in made for edge in (prefix[0], prefix[-1], prefix[prefix.num_addresses // 2])]
    for peer in ends:
        for protocol, port in ((6, 80), (6, 443), (17, 53), (1, 0)):
            asked = Flow(peer, peer, protocol, port)
            meaning = [one for one in rules if peer in one.prefix and not any(peer in out for out in one.excepts)]
            union = any(port_lists.admits(one.ports, asked) for one in meaning)
            found = table.lookup(host_network(peer))
            assert (found is not None and scan(found, asked)[1]) is union, (peer, protocol, port)


# ---- pod states (agent facts 5.6)

ACCEPT = acts("Accept", "10.1.0.0/16")
STATES = {
    "5.6 nobody": ([], [], {0: None, 1: 1}),
    "5.6 a PolicyEndpoint": ([endpoint()], [], {0: 0, 1: 1}),
    "5.6 of any content": ([endpoint(isolation=())], [], {0: 0, 1: 1}),
    "5.5 a cluster rule of one direction": ([], [cluster_endpoint(ingress=[ACCEPT])], {0: None, 1: 0}),
    "5.5 of the other": ([], [cluster_endpoint(egress=[ACCEPT])], {0: None, 1: 0}),
    "5.5 no cluster rule": ([], [cluster_endpoint(ingress=[], egress=[])], {0: None, 1: 1}),
    "5.5 domain names only are no rules": (
        [],
        [cluster_endpoint(egress=[{**NAMED, "action": "Accept"}])],
        {0: None, 1: 1},
    ),
    "5.6 both": ([endpoint()], [cluster_endpoint(), cluster_endpoint("b", ingress=[ACCEPT])], {0: 0, 1: 0}),
}


@pytest.mark.parametrize(("slices", "cluster", "expected"), STATES.values(), ids=STATES)
def test_pod_states(slices, cluster, expected):
    assert agent.states(slices, cluster) == expected


# ---- cluster policy maps (agent facts 5.5)


def tiers(*slices, direction=INGRESS, node=OWN, family=4) -> dict[str, list[tuple[int, int, int, int]]]:
    found = agent.program_tiers(list(slices), direction, node, family)
    return {str(prefix): [tuple(slot) for slot in one.slots] for prefix, one in found.items()}


def admin(*elements, priority=10, **more):
    return cluster_endpoint(ingress=list(elements), priority=priority, **more)


D8, D16, D32 = (acts("Deny", cidr) for cidr in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3"))
TIERS = {
    "5.5 no catch-all, no own node": ([admin()], {}),
    "1.4 Deny, Accept, Pass": (
        [admin(acts("Deny", "10.0.0.1/8"), acts("Accept", "11.0.0.0/8"), acts("Pass", "12.0.0.0/8"))],
        {"10.0.0.0/8": [(254, 100, 0, 0)], "11.0.0.0/8": [(254, 101, 0, 0)], "12.0.0.0/8": [(254, 102, 0, 0)]},
    ),
    "1.4 priority 0": ([admin(D8, priority=0)], {"10.0.0.0/8": [(254, 0, 0, 0)]}),
    "1.4 priority 1000": ([admin(acts("Pass", "10.0.0.0/8"), priority=1000)], {"10.0.0.0/8": [(254, 10002, 0, 0)]}),
    "5.5 Baseline: 2000 more": ([admin(D8, priority=7, tier="Baseline")], {"10.0.0.0/8": [(254, 20070, 0, 0)]}),
    "5.5 ports": (
        [
            admin(
                acts("Deny", "10.0.0.0/8", HTTP, pe_port(53, protocol="UDP"), pe_port(80, 90), pe_port(protocol="SCTP"))
            )
        ],
        {"10.0.0.0/8": [(6, 100, 80, 0), (17, 100, 53, 0), (6, 100, 80, 90), (132, 100, 0, 0)]},
    ),
    "5.5 protocol nil is TCP": (
        [admin(acts("Deny", "10.0.0.0/8", pe_port(80, protocol=None)))],
        {"10.0.0.0/8": [(6, 100, 80, 0)]},
    ),
    "5.5 protocol unknown is TCP": (
        [admin(acts("Deny", "10.0.0.0/8", pe_port(80, protocol="ICMP")))],
        {"10.0.0.0/8": [(6, 100, 80, 0)]},
    ),
    "5.5 skipped: the own node": ([admin(acts("Deny", NODE_IP))], {}),
    "5.5 skipped: a block that begins there": (
        [admin(acts("Deny", f"{NODE_IP}/32"), acts("Deny", "10.0.0.0/30"))],
        {"10.0.0.0/30": [(254, 100, 0, 0)]},
    ),
    "5.5 skipped: the other family": ([admin(acts("Deny", "2001:db8::/64"), D8)], {"10.0.0.0/8": [(254, 100, 0, 0)]}),
    "5.5 canonical": (
        [admin(acts("Deny", "10.9.9.9/8", HTTP), acts("Deny", "10.0.0.0/8", DNS))],
        {"10.0.0.0/8": [(6, 100, 80, 0), (17, 100, 53, 0)]},
    ),
    "5.5 the most specific wider one is copied": (
        [
            admin(
                acts("Deny", "10.0.0.0/8", pe_port(1)),
                acts("Deny", "10.1.0.0/16", pe_port(2)),
                acts("Deny", "10.1.2.3", pe_port(3)),
            )
        ],
        {
            "10.0.0.0/8": [(6, 100, 1, 0)],
            "10.1.0.0/16": [(6, 100, 1, 0), (6, 100, 2, 0)],
            "10.1.2.3/32": [(6, 100, 1, 0), (6, 100, 2, 0), (6, 100, 3, 0)],
        },
    ),
    "5.5 whatever the order": (
        [admin(acts("Deny", "10.1.2.3", pe_port(3)), acts("Deny", "10.0.0.0/8", pe_port(1)))],
        {"10.0.0.0/8": [(6, 100, 1, 0)], "10.1.2.3/32": [(6, 100, 1, 0), (6, 100, 3, 0)]},
    ),
    "5.5 not from a neighbour": (
        [admin(acts("Deny", "10.2.0.0/16", pe_port(1)), acts("Deny", "10.1.2.3", pe_port(3)))],
        {"10.2.0.0/16": [(6, 100, 1, 0)], "10.1.2.3/32": [(6, 100, 3, 0)]},
    ),
    "5.5 hosts do not copy from hosts": (
        [admin(acts("Deny", "10.1.2.3", pe_port(1)), acts("Deny", "10.1.2.4", pe_port(2)))],
        {"10.1.2.3/32": [(6, 100, 1, 0)], "10.1.2.4/32": [(6, 100, 2, 0)]},
    ),
    "5.5 the second rule of a CIDR copies nothing more": (
        [
            admin(
                acts("Deny", "10.0.0.0/8", pe_port(1)),
                acts("Deny", "10.1.0.0/16", pe_port(2)),
                acts("Accept", "10.1.0.0/16", pe_port(3)),
            )
        ],
        {"10.0.0.0/8": [(6, 100, 1, 0)], "10.1.0.0/16": [(6, 100, 1, 0), (6, 100, 2, 0), (6, 101, 3, 0)]},
    ),
    "5.5 equal ports of different rules are kept twice": (
        [admin(acts("Deny", "10.0.0.0/8", HTTP)), admin(acts("Deny", "10.0.0.0/8", HTTP), policy_name="b")],
        {"10.0.0.0/8": [(6, 100, 80, 0), (6, 100, 80, 0)]},
    ),
    "5.5 also what is copied": (
        [admin(acts("Deny", "10.0.0.0/8", HTTP), acts("Deny", "10.1.0.0/16", HTTP))],
        {"10.0.0.0/8": [(6, 100, 80, 0)], "10.1.0.0/16": [(6, 100, 80, 0), (6, 100, 80, 0)]},
    ),
    "5.5 all ports twice are one: they have no protocol": (
        [admin(D8, D16), admin(D8, policy_name="b")],
        {"10.0.0.0/8": [(254, 100, 0, 0)], "10.1.0.0/16": [(254, 100, 0, 0)]},
    ),
    "5.5 all ports of other priorities and actions are not": (
        [admin(D8, acts("Accept", "10.0.0.0/8")), admin(D8, priority=11, policy_name="b")],
        {"10.0.0.0/8": [(254, 100, 0, 0), (254, 101, 0, 0), (254, 110, 0, 0)]},
    ),
    "4.3 the union over all slices": (
        [admin(D8), admin(D16, suffix="2")],
        {"10.0.0.0/8": [(254, 100, 0, 0)], "10.1.0.0/16": [(254, 100, 0, 0)]},
    ),
    "5.5 domain names are skipped": ([cluster_endpoint(egress=[{**NAMED, "action": "Accept"}])], {}),
}


@pytest.mark.parametrize(("slices", "expected"), TIERS.values(), ids=TIERS)
def test_contents_of_cluster_policy_maps(slices, expected):
    assert tiers(*slices) == expected


def test_cluster_policy_maps_by_direction_and_family():
    made = cluster_endpoint(ingress=[D8], egress=[acts("Accept", "2001:db8::/32"), acts("Deny", "2001:db8::1")])
    assert tiers(made) == {"10.0.0.0/8": [(254, 100, 0, 0)]}
    assert tiers(made, direction=EGRESS) == {}
    assert tiers(made, direction=EGRESS, family=6, node=V6_NODE) == {
        "2001:db8::/32": [(254, 101, 0, 0)],
        "2001:db8::1/128": [(254, 101, 0, 0), (254, 100, 0, 0)],
    }
    assert tiers(made, family=6) == {}


def test_agents_after_1_4_2_let_the_own_node_pass_before_cluster_policies():
    """Accept with priority 0, in both directions (agent facts 5.5); without cluster policies nothing is known of it."""
    made = [admin(D8, acts("Deny", NODE_IP, HTTP))]
    for direction in Direction:
        found = agent_newer.program_tiers(made, direction, OWN, 4)
        older = agent.program_tiers(made, direction, OWN, 4)
        assert {str(prefix): [tuple(slot) for slot in one.slots] for prefix, one in found.items()} == {
            **{str(prefix): [tuple(slot) for slot in one.slots] for prefix, one in older.items()},
            N: [(254, 1, 0, 0)],
        }
    assert agent_newer.program_tiers([], INGRESS, OWN, 4) == {}
    assert agent_newer.program_tiers(made, INGRESS, V6_NODE, 4) == agent.program_tiers(made, INGRESS, V6_NODE, 4)


def test_cluster_policy_entries_know_their_rules():
    made = [admin(D8, suffix="1"), admin(D32, suffix="2", policy_name="b")]
    found = agent.program_tiers(made, INGRESS, OWN, 4)[ip_network("10.1.2.3/32")]
    assert [(e.endpoint, str(e.prefix)) for e in found.sources] == [("guard-1", "10.0.0.0/8"), ("b-2", "10.1.2.3/32")]


@pytest.mark.parametrize(("count", "cut_off"), [(12, False), (13, True)])
def test_cluster_policy_entries_have_24_slots_and_duplicates_count(count, cut_off):
    """5.5: the limit is reached sooner."""
    ports = [pe_port(port) for port in range(1, count + 1)]
    made = [admin(acts("Deny", "10.0.0.0/8", *ports)), admin(acts("Deny", "10.0.0.0/8", *ports), policy_name="b")]
    [found] = agent.program_tiers(made, INGRESS, OWN, 4).values()
    assert len(found.slots) == 2 * count
    assert found.cut_off is cut_off
