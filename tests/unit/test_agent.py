"""PolicyEndpoints -> the entries that the agent writes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from kubectl_netpol.model.flow import Direction
from kubectl_netpol.policy import agent
from kubectl_netpol.policy.ports import Port
from tests.unit.builders import ANY, DENY, NODE_IP, TCP80, endpoint, entry, pe_port

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
