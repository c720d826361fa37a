"""INTENT of the product, with its indexes, against the plain reference, for random clusters."""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubectl_netpol.model.flow import Direction, Flow
from kubectl_netpol.policy import networkpolicy, selectors, tiers
from kubectl_netpol.policy.index import LabelIndex, SelectorIndex
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.world import World
from tests.random_cluster import KINDS, LABELS, PROBES, addresses, random_cluster
from tests.unit import reference
from tests.unit.builders import flow, namespace, node, pod, policy, world
from tests.unit.test_imports import imports

Json = dict[str, Any]
SEEDS = st.integers(0, 2**32)


def living(cluster: dict[str, list[Json]]) -> list[Json]:
    """The pods that can talk: those that a question may be about."""
    return [
        one
        for one in cluster["pods"]
        if one["status"].get("podIP") and one["status"]["phase"] not in ("Succeeded", "Failed")
    ]


def flows(cluster: dict[str, list[Json]]) -> Iterator[tuple[Ends, reference.Packet]]:
    """All pairs of a pod and another end, in both directions, with all protocols and ports."""
    for mine in living(cluster):
        own = ip_address(mine["status"]["podIP"])
        for peer in map(ip_address, addresses(cluster)):
            other = reference.pod_with(cluster, peer)
            for protocol, port in PROBES:
                number = 58 if protocol == 1 and peer.version == 6 else protocol
                for direction in Direction:
                    ends = (peer, own) if direction is Direction.INGRESS else (own, peer)
                    packet = reference.Packet(direction.value, peer, number, port)
                    yield Ends(mine, direction, Flow(*ends, number, port), other), packet


def check(cluster: dict[str, list[Json]]) -> dict[str, int]:
    """How often each decision was met; fails where the two differ."""
    found, count = world(**cluster), {"allow": 0, "deny": 0, "unknown": 0}
    for ends, packet in flows(cluster):
        got, wanted = tiers.evaluate(ends, found), reference.decide(cluster, ends.pod, packet)
        assert got.decision.value == wanted, f"{ends.pod['metadata']['name']} {packet}: {got.code} {got.why}"
        count[wanted] += 1
    return count


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("deviating", [True, False])
@settings(max_examples=15)
@given(seed=SEEDS)
def test_intent_over_all_tiers(family: int, deviating: bool, seed: int) -> None:
    cluster = random_cluster(random.Random(seed), family=family, pods=5, policies=5, deviating=deviating)
    check(cluster)


@settings(max_examples=10)
@given(seed=SEEDS)
def test_intent_where_many_cluster_policies_meet(seed: int) -> None:
    """With few priorities among them."""
    check(random_cluster(random.Random(seed), pods=4, policies=7, cluster_only=True))


@settings(max_examples=10)
@given(seed=SEEDS)
def test_intent_of_network_policies_alone(seed: int) -> None:
    cluster = random_cluster(random.Random(seed), pods=5, policies=6, tiers=False)
    found = world(**cluster)
    for ends, packet in flows(cluster):
        got = networkpolicy.evaluate(ends, found)
        assert got.decision.value == reference.decide(cluster, ends.pod, packet), (packet, got.why)


def test_the_search_meets_all_decisions() -> None:
    """Property tests of what never happens would prove nothing."""
    total = {"allow": 0, "deny": 0, "unknown": 0}
    for seed in range(40):
        cluster = random_cluster(random.Random(seed), pods=3, policies=6, cluster_only=seed % 2 == 0)
        for decision, count in check(cluster).items():
            total[decision] += count
    assert total["deny"] > 3000
    assert total["allow"] > 3000
    assert total["unknown"]


def test_a_domain_rule_that_passes_makes_an_allowed_flow_unknown() -> None:
    """Were the address example.com's, it would go on to the NetworkPolicies, and those deny."""
    rules = [
        {"action": "Pass", "to": [{"domainNames": ["example.com"]}]},
        {"action": "Accept", "to": [{"networks": ["192.0.2.0/24"]}]},
    ]
    one = pod("web-0", "10.0.1.1")
    cluster = {kind: [] for kind in KINDS} | {"pods": [one], "namespaces": [namespace("default")], "nodes": [node()]}
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": rules}
    cluster["clusternetworkpolicies"] = [{"metadata": {"name": "names"}, "spec": spec}]
    ends = Ends(one, Direction.EGRESS, flow("10.0.1.1", "192.0.2.1"))
    assert tiers.evaluate(ends, world(**cluster)).decision.value == "allow"
    cluster["networkpolicies"] = [policy("deny", types=["Egress"])]
    verdict = tiers.evaluate(ends, world(**cluster))
    assert (verdict.decision.value, verdict.code) == ("unknown", "DOMAIN_NAME")
    packet = reference.Packet("egress", ip_address("192.0.2.1"), 6, 80)
    assert reference.decide(cluster, one, packet) == "unknown"


def test_a_domain_rule_that_cannot_win_leaves_nothing_open() -> None:
    """Of two policies with one priority Deny counts, whatever the other end is called."""
    one = pod("web-0", "10.0.1.1")
    cluster = {kind: [] for kind in KINDS} | {"pods": [one], "namespaces": [namespace("default")], "nodes": [node()]}
    rules = [
        {"action": "Accept", "to": [{"domainNames": ["example.com"]}]},
        {"action": "Deny", "to": [{"networks": ["192.0.2.0/24"]}]},
    ]
    for priorities, wanted in (((1, 1), "deny"), ((1, 2), "unknown"), ((2, 1), "deny")):
        cluster["clusternetworkpolicies"] = [
            {
                "metadata": {"name": f"cnp-{number}"},
                "spec": {"tier": "Admin", "priority": priority, "subject": {"namespaces": {}}, "egress": [rule]},
            }
            for number, (priority, rule) in enumerate(zip(priorities, rules, strict=True))
        ]
        verdict = tiers.evaluate(Ends(one, Direction.EGRESS, flow("10.0.1.1", "192.0.2.1")), world(**cluster))
        assert verdict.decision.value == wanted
        packet = reference.Packet("egress", ip_address("192.0.2.1"), 6, 80)
        assert reference.decide(cluster, one, packet) == wanted


def test_the_reference_knows_nothing_of_the_product() -> None:
    assert not any(name.startswith("kubectl_netpol") for name in imports(Path(reference.__file__)))


# ---- selectors and their indexes


@st.composite
def label_sets(draw: st.DrawFn) -> dict[str, str]:
    return {key: draw(st.sampled_from(values)) for key, values in LABELS.items() if draw(st.booleans())}


@st.composite
def any_selector(draw: st.DrawFn) -> Json:
    found: Json = {}
    if draw(st.booleans()):
        found["matchLabels"] = draw(label_sets())
    expressions = []
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(LABELS)))
        operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]))
        values = draw(st.lists(st.sampled_from(LABELS[key]), min_size=1, max_size=3))
        expressions.append(
            {"key": key, "operator": operator, **({"values": values} if operator in ("In", "NotIn") else {})}
        )
    if expressions or draw(st.booleans()):
        found["matchExpressions"] = expressions
    return found


@settings(max_examples=200)
@given(selector=any_selector(), labels=label_sets())
def test_selectors(selector: Json, labels: dict[str, str]) -> None:
    wanted = reference.selects(selector, labels)
    assert selectors.matches(selector, labels) is wanted
    assert (not list(selectors.mismatches(selector, labels))) is wanted


@settings(max_examples=200)
@given(some=st.lists(any_selector(), max_size=8), people=st.lists(label_sets(), max_size=8))
def test_indexes_find_whom_a_look_at_everybody_finds(some: list[Json], people: list[dict[str, str]]) -> None:
    by_label = LabelIndex([(labels, number) for number, labels in enumerate(people)])
    by_selector = SelectorIndex([(selector, number) for number, selector in enumerate(some)])
    for selector in some:
        for _ in range(2):  # asked again, the answer is remembered
            wanted = tuple(n for n, labels in enumerate(people) if reference.selects(selector, labels))
            assert by_label.select(selector) == wanted
    for labels in people:
        assert list(by_selector.matching(labels)) == [
            number for number, selector in enumerate(some) if reference.selects(selector, labels)
        ]


@settings(max_examples=40)
@given(seed=SEEDS)
def test_whom_policies_select(seed: int) -> None:
    cluster = random_cluster(random.Random(seed), pods=6, policies=6)
    found: World = world(**cluster)
    for mine in cluster["pods"]:
        own, labels = mine["metadata"]["namespace"], mine["metadata"]["labels"]
        wanted = {
            one["metadata"]["name"]
            for kind in ("networkpolicies", "applicationnetworkpolicies")
            for one in cluster[kind]
            if one["metadata"]["namespace"] == own and reference.selects(one["spec"]["podSelector"], labels)
        }
        host = bool(mine["spec"].get("hostNetwork"))
        assert {p["metadata"]["name"] for p in found.policies_selecting(mine)} == (set() if host else wanted)
        subjects = {
            one["metadata"]["name"]
            for one in cluster["clusternetworkpolicies"]
            if not host and reference.subject_fits(cluster, one["spec"]["subject"], mine)
        }
        assert {p["metadata"]["name"] for p in found.cluster_policies_selecting(mine)} == subjects
