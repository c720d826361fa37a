"""PolicyEndpoints: slices, identifiers, and what they decide."""

from __future__ import annotations

import pytest

from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.snapshot import Collection
from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.policy import endpoints
from kubectl_netpol.policy.networkpolicy import Ends
from tests.unit.builders import NODE_IP, endpoint, entry, flow, pe_port, pod, world

WEB = pod("web-1", "10.0.1.1")
TWIN = pod("web-2", "10.0.1.2")
OTHER = pod("db-0", "10.0.1.3")
FOREIGN = pod("web-1", "10.0.1.4", namespace="other")


def names(found) -> list[str]:
    return [e["metadata"]["name"] for e in found]


def judge(slices, peer="10.0.2.1", port=80, direction=Direction.INGRESS, me=WEB):
    ends = (peer, me["status"]["podIP"]) if direction is Direction.INGRESS else (me["status"]["podIP"], peer)
    found = slices if isinstance(slices, Collection) else list(slices)
    return endpoints.evaluate(Ends(me, direction, flow(*ends, port)), world(policyendpoints=found))


def test_all_slices_of_a_policy_count_also_those_that_do_not_list_the_pod():
    slices = [
        endpoint("a", suffix="1", pods=[WEB]),
        endpoint("a", suffix="2", pods=[OTHER], ingress=[entry("10.0.2.1")]),
        endpoint("b", suffix="1", pods=[OTHER], ingress=[entry("0.0.0.0/0")]),
        endpoint("a", suffix="3", namespace="other", pods=[FOREIGN], ingress=[entry("0.0.0.0/0")]),
    ]
    assert names(endpoints.of_pod(world(policyendpoints=slices), WEB)) == ["a-1", "a-2"]
    assert judge(slices).code == "ENTRY_ALLOWS"
    assert judge(slices, "10.0.2.2").code == "NO_ENTRY"


def test_slices_belong_to_their_policy_reference_not_to_their_name():
    odd = endpoint("web", suffix="x", pods=[WEB])
    odd["metadata"]["name"] = "something-else"
    assert endpoints.policy_of(odd) == "web"
    assert names(endpoints.of_pod(world(policyendpoints=[odd]), WEB)) == ["something-else"]


def test_the_identifier_shares_the_rules_of_all_its_pods():
    slices = [endpoint("a", pods=[TWIN]), endpoint("b", pods=[OTHER]), endpoint("c", namespace="other", pods=[FOREIGN])]
    found = world(policyendpoints=slices)
    assert names(endpoints.of_identifier(found, WEB)) == ["a-abcde"]
    assert names(endpoints.of_pod(found, WEB)) == []


def test_a_pod_listed_without_a_namespace_is_in_that_of_the_endpoint():
    bare = endpoint("a", pods=[WEB])
    del bare["spec"]["podSelectorEndpoints"][0]["namespace"]
    assert list(endpoints.lists(bare)) == [("default", "web-1")]


def test_entries_skip_what_has_no_address():
    slices = [
        endpoint(egress=[{"domainName": "example.com"}, entry("10.0.0.0/8", pe_port(80, 90), excepts=["10.1.0.0/16"])])
    ]
    [found] = endpoints.entries(slices, Direction.EGRESS)
    assert (found.path, str(found.prefix), found.policy) == ("spec.egress[1]", "10.0.0.0/8", "web")
    assert [p.text for p in found.ports] == ["80-90/TCP"]
    assert [str(e) for e in found.excepts] == ["10.1.0.0/16"]


def test_isolation_is_listed_by_policy():
    slices = [endpoint("b"), endpoint("a"), endpoint("a"), endpoint("c", isolation=("Egress",))]
    assert endpoints.isolates(slices, Direction.INGRESS) == ["a", "b"]


@pytest.mark.parametrize(
    ("rules", "peer", "port", "decision"),
    [
        ([entry("10.0.2.1")], "10.0.2.1", 80, "allow"),
        ([entry("10.0.2.1")], "10.0.2.2", 80, "deny"),
        ([entry("10.0.0.0/16", pe_port(80))], "10.0.2.1", 80, "allow"),
        ([entry("10.0.0.0/16", pe_port(80))], "10.0.2.1", 81, "deny"),
        ([entry("10.0.0.0/16", pe_port(80, 90))], "10.0.2.1", 90, "allow"),
        ([entry("10.0.0.0/16", pe_port(80, protocol=None))], "10.0.2.1", 80, "allow"),
        ([entry("10.0.0.0/16", excepts=["10.0.2.0/24"])], "10.0.2.1", 80, "deny"),
        ([entry("10.0.0.0/16", excepts=["10.0.2.0/24"])], "10.0.3.1", 80, "allow"),
        ([entry("10.0.0.0/16", excepts=["10.0.2.0/24"]), entry("10.0.2.1")], "10.0.2.1", 80, "allow"),
        ([entry("10.0.0.0/16", pe_port(1)), entry("10.0.2.1", pe_port(80))], "10.0.2.1", 80, "allow"),
        ([entry("::/0")], "10.0.2.1", 80, "deny"),
        ([], "10.0.2.1", 80, "deny"),
        ([], NODE_IP, 80, "allow"),
    ],
)
def test_verdicts(rules, peer, port, decision):
    assert judge([endpoint(pods=[WEB], ingress=rules)], peer, port).decision.value == decision


@pytest.mark.parametrize(
    ("slices", "code"),
    [
        ([], "NOT_LISTED"),
        ([endpoint(pods=[OTHER])], "NOT_LISTED"),
        ([endpoint(pods=[WEB], isolation=("Egress",))], "NOT_ISOLATED"),
        ([endpoint(pods=[WEB], isolation=("Egress",), ingress=[entry("10.0.3.1")])], "NO_ENTRY"),
        (Collection(absent=True), "NO_CRD"),
        (Collection(reason="forbidden"), "NOT_READ"),
    ],
    ids=["none", "other-pod", "other-direction", "rules-without-isolation", "no-crd", "unread"],
)
def test_reasons(slices, code):
    assert judge(slices).code == code


def test_unread_is_unknown_and_the_host_network_is_free():
    assert judge(Collection(reason="forbidden")).decision is Decision.UNKNOWN
    assert judge([endpoint(pods=[WEB])], me=pod("web-1", "10.0.1.1", host_network=True)).code == "HOST_NETWORK"


def test_evidence_shows_the_entries_that_almost_fit():
    rules = [entry("10.0.0.0/16", excepts=["10.0.2.0/24"]), entry("10.0.2.1", pe_port(443)), entry("10.9.9.9")]
    verdict = judge([endpoint(pods=[WEB], ingress=rules)])
    assert verdict.why == "no ingress entry of web-abcde admits 10.0.2.1 on 80/TCP"
    assert verdict.evidence == (
        "web-abcde spec.ingress[0]: 10.0.0.0/16 excepts 10.0.2.0/24",
        "web-abcde spec.ingress[1]: 10.0.2.1/32 allows 443/TCP, not 80/TCP",
    )


def test_an_address_that_is_listed_but_no_longer_the_pods_is_stale():
    old = endpoint(pods=[pod("web-1", "10.0.9.9"), TWIN])
    found = world(policyendpoints=[old])
    assert endpoints.stale_address(found, WEB) == "10.0.9.9"
    assert endpoints.stale_address(found, TWIN) == ""
