"""PolicyEndpoints filed by policy, pod and address: what is found is what a look at all entries would find."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.diagnose.expected import KEPT, expected_maps
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.policy import agent, endpoints
from kubectl_netpol.policy import slices as filed
from kubectl_netpol.policy.index import AddressIndex
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.slices import EndpointIndex, Slices
from tests.unit.builders import NODE_IP, endpoint, entry, flow, pod, world

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
WEB = pod("web-5d4f8c7b9-abcde", "10.0.1.1")
TEXTS = [
    *("10.0.0.1", "10.0.0.1/32", "10.0.0.2", "10.0.0.0/8", "10.0.0.0/30", "10.0.0.1/30", "0.0.0.0/0"),
    *("fd00::1", "fd00:0:0::1", "FD00::1/128", "fd00::/64", "::/0", "::ffff:10.0.0.1"),
    *("10.0.0.01", "garbage", "10.0.0.0/33", "", None),
]
ADDRESSES = [
    ip_address(text) for text in ("10.0.0.1", "10.0.0.3", "192.0.2.1", "fd00::1", "fd01::1", "::ffff:10.0.0.1")
]
RULES = st.lists(st.lists(st.sampled_from(TEXTS), max_size=6), min_size=1, max_size=3)


def of_texts(*slices):
    """One policy with these CIDRs, slice by slice."""
    return [
        endpoint("a", suffix=str(number), pods=[WEB], ingress=[{"cidr": text} for text in texts])
        for number, texts in enumerate(slices)
    ]


def filed_slices(found) -> Slices:
    return EndpointIndex(found).of_pod("default", WEB["metadata"]["name"])


@given(RULES, st.sampled_from(ADDRESSES))
def test_entries_that_hold_an_address(texts, address):
    found = of_texts(*texts)
    wanted = [
        one
        for one in endpoints.entries(found, INGRESS)
        if one.prefix.version == address.version and address in one.prefix
    ]
    assert filed_slices(found).holding(INGRESS, address) == wanted


@given(RULES)
def test_all_entries(texts):
    found, both = of_texts(*texts), [*of_texts(*texts), endpoint("b", pods=[WEB], egress=[entry("10.0.0.1")])]
    wanted = list(endpoints.entries(found, INGRESS))
    several = filed_slices(both)
    assert list(endpoints.entries(several, INGRESS)) == list(several.entries(INGRESS)) == wanted
    assert several.has_entries(INGRESS) is filed_slices(found).has_entries(INGRESS) is bool(wanted)
    assert several.has_entries(EGRESS)
    assert not filed_slices(found).has_entries(EGRESS)


def test_a_flow_parses_the_entries_that_it_meets_and_no_others(monkeypatch):
    everyone = [entry(f"10.1.{number // 256}.{number % 256}") for number in range(1000)]
    found = world(policyendpoints=[endpoint("wide", pods=[WEB], ingress=everyone)])
    parsed: list[int] = []
    real = filed.parse
    monkeypatch.setattr(filed, "parse", lambda *call: parsed.append(call[2]) or real(*call))
    for peer, code in (("10.1.2.3", "ENTRY_ALLOWS"), ("10.2.0.1", "NO_ENTRY")):
        assert endpoints.evaluate(Ends(WEB, INGRESS, flow(peer, "10.0.1.1")), found).code == code
    # The first, to know that there is any, and the one that means the peer.
    assert set(parsed) == {0, 515}


def test_entries_are_parsed_once_for_all_pods_of_a_policy(monkeypatch):
    pods = [pod(f"web-{number}", f"10.0.1.{number}") for number in range(9)]
    slices = [
        endpoint("wide", suffix="1", pods=pods, ingress=[entry("10.1.0.1"), entry("10.2.0.0/16")]),
        endpoint("one", pods=pods[:1], ingress=[entry("10.3.0.1")]),
    ]
    found = world(policyendpoints=slices)
    parsed: list[int] = []
    real = filed.parse
    monkeypatch.setattr(filed, "parse", lambda *call: parsed.append(call[2]) or real(*call))
    for one in pods:
        assert len(list(endpoints.entries(endpoints.of_pod(found, one), INGRESS))) == (3 if one is pods[0] else 2)
    assert len(parsed) == 3
    assert endpoints.of_pod(found, pods[1]) is endpoints.of_pod(found, pods[2])


def test_pods_of_one_identifier_with_different_policies():
    twin, far = pod("web-5d4f8c7b9-fghij"), pod("web-5d4f8c7b9-klmno", namespace="other")
    slices = [
        endpoint("b", pods=[twin]),
        endpoint("a", pods=[WEB, WEB]),
        endpoint("c", pods=[far]),
        endpoint("b", suffix="2", pods=[WEB]),
        endpoint("d", pods=[twin]),
    ]
    index = EndpointIndex(slices)
    assert index.of_part("default", "web-5d4f8c7b9") == [slices[0], slices[3], slices[1], slices[4]]
    assert index.of_pod("default", twin["metadata"]["name"]) == [slices[0], slices[3], slices[4]]
    assert index.of_part("other", "web-5d4f8c7b9") == [slices[2]]
    assert sorted(index.pods_of_part("default", "web-5d4f8c7b9")) == sorted(p["metadata"]["name"] for p in (WEB, twin))
    assert index.of_part("default", "db") == index.of_pod("default", "web") == index.of_policy("e") == []


# ---- rule maps that pods share


@pytest.mark.parametrize("text", ["10.0.0.2", "10.0.0.2/31", "10.0.0.3/31", "10.0.0.0/8", "10.9.9.9", "10.0.0.2/8"])
@pytest.mark.parametrize("excepts", [(), ("10.0.0.2/32",), ("10.0.0.0/24",)])
def test_rule_maps_of_pods_on_other_nodes(text, excepts):
    """They are those that the agent's rules make for each of them, whichever was asked for first."""
    pods = [pod(f"web-{host}", f"10.0.1.{host}", node=f"node-{host}", host_ip=f"10.0.0.{host}") for host in range(5)]
    slices = [endpoint("a", pods=pods, ingress=[entry(text, excepts=excepts), entry("10.0.0.0/16")])]
    found = world(policyendpoints=slices)
    for one in [*pods, *pods]:
        own = ip_address(one["status"]["hostIP"])
        assert expected_maps(one, INGRESS, found).rules == agent.program(slices, INGRESS, own, 4)


def test_as_many_rule_maps_are_kept_as_a_namespace_needs():
    pods = [pod(f"web{number}-x", f"10.0.{number}.1") for number in range(2 * KEPT)]
    slices = [endpoint(f"p{number}", pods=[one], ingress=[entry("10.9.9.9")]) for number, one in enumerate(pods)]
    found = world(policyendpoints=slices)
    for _ in range(2):
        for one, slice_ in zip(pods, slices, strict=True):
            maps = expected_maps(one, INGRESS, found)
            assert maps.rules == agent.program([slice_], INGRESS, ip_address(NODE_IP), 4)
    assert len(found.rule_maps) == KEPT


# ---- addresses


def test_addresses_in_whatever_spelling():
    index = AddressIndex(
        [("10.0.0.1", {"n": 1}), ("fd00:0:0::A", {"n": 2}), ("garbage:", {"n": 3}), ("10.0.0.1", {"n": 4})]
    )
    assert index.get(ip_address("10.0.0.1")) == index[ip_address("10.0.0.1")] == {"n": 4}
    assert index.get(ip_address("fd00::a")) == {"n": 2}
    assert ip_address("fd00::a") in index
    assert ip_address("10.0.0.2") not in index
    assert index.get(ip_address("10.0.0.2")) is None


def test_a_sentence_names_a_few_of_many_slices():
    many = [endpoint("web", suffix=f"s{number:02}", pods=[WEB]) for number in range(30)]
    found = EndpointIndex(many).of_pod("default", "web-5d4f8c7b9-abcde")
    assert found.names == "web-s00, web-s01, web-s02, web-s03 and 26 more"
