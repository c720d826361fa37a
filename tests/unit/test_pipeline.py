"""YAML -> PolicyEndpoints -> maps -> verdict, as controller, agent and kernel do it, against the YAML itself.

For random clusters: where what comes out is not what Kubernetes defines, ``deviations`` names the rule of EKS that
makes the difference; where it is, nothing is named.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubectl_netpol.diagnose import deviations, expected
from kubectl_netpol.diagnose.deviations import Deviation
from kubectl_netpol.diagnose.reasons import needed
from kubectl_netpol.model.flow import Direction, Flow
from kubectl_netpol.model.verdict import Decision, Verdict
from kubectl_netpol.policy import agent_newer, endpoints, modelled, targets, tiers
from kubectl_netpol.policy.cni import cni_of
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.world import World, namespace_of, on_host_network, pod_ip
from tests.random_cluster import OUTSIDE, PROBES, addresses, random_cluster
from tests.unit import reference
from tests.unit.builders import world
from tests.unit.test_reference import SEEDS, living

Json = dict[str, Any]
Cluster = dict[str, list[Json]]
DECIDED = (Decision.ALLOW, Decision.DENY)
ICMPV6 = 58


@dataclass(frozen=True)
class Asked:
    """One leg of a flow, as ``diagnose.plan`` makes it."""

    ends: Ends
    backends: tuple[Ends, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the layers say of one leg, and which rules are named."""

    intent: Verdict
    resolved: Verdict
    should: Verdict
    found: tuple[Deviation, ...]

    @property
    def codes(self) -> set[str]:
        return {one.code for one in self.found}

    @property
    def chain(self) -> str:
        return " -> ".join(
            f"{v.layer} {v.decision} ({v.code}: {v.why})" for v in (self.intent, self.resolved, self.should)
        )


class Pipeline:
    """A cluster, and what the controller makes of it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.before = world(**cluster)
        self.made = cache(lambda namespace: modelled.modelled(self.before, namespace))

    def legs(self) -> Iterator[Asked]:
        """All pairs, ports and directions; through Services too, and of the other family."""
        for pod in living(self.cluster):
            if on_host_network(pod):
                continue
            own = ip_address(pod["status"]["podIP"])
            for peer in map(ip_address, addresses(self.cluster)):
                service = self.before.service_by_ip.get(peer)
                if service is None:
                    yield from self._plain(pod, own, peer)
                else:
                    yield from self._through(service, pod, own, peer)
            yield from self._plain(pod, *other_family(own.version))

    def _plain(self, pod: Json, own: Any, peer: Any) -> Iterator[Asked]:
        other = reference.pod_with(self.cluster, peer)
        for protocol, port in PROBES:
            number = ICMPV6 if protocol == 1 and peer.version == 6 else protocol
            yield Asked(Ends(pod, Direction.INGRESS, Flow(peer, own, number, port), other))
            yield Asked(Ends(pod, Direction.EGRESS, Flow(own, peer, number, port), other))

    def _through(self, service: Json, pod: Json, own: Any, peer: Any) -> Iterator[Asked]:
        for entry in service["spec"]["ports"]:
            number = reference.PROTOCOLS[entry["protocol"]]
            behind = []
            for one in targets.service_pods(service, self.before):
                port = targets.target_port(service, entry["protocol"], entry["port"], one)
                address = pod_ip(one)
                if address is None or port is None or one is pod:
                    continue
                flow = Flow(own, address, number, port)
                behind.append(Ends(pod, Direction.EGRESS, flow, None if on_host_network(one) else one))
            yield Asked(Ends(pod, Direction.EGRESS, Flow(own, peer, number, entry["port"])), tuple(behind))

    def ask(self, asked: Asked) -> Answer:
        return answer_of(asked, self.made(namespace_of(asked.ends.pod)))

    def intent(self, asked: Asked) -> str:
        """What the reference says: of several pods behind a Service the one that fares worst."""
        found = [
            reference.decide(self.cluster, asked.ends.pod, packet(ends)) for ends in asked.backends or (asked.ends,)
        ]
        return next((one for one in found if one != "allow"), "allow")


def answer_of(asked: Asked, found: World) -> Answer:
    """INTENT, ENDPOINTS and EXPECTED of one leg, and what makes them differ."""
    ends = asked.ends
    verdicts = [tiers.evaluate(one, found) for one in asked.backends or (ends,)]
    intent = next((one for one in verdicts if one.decision is not Decision.ALLOW), verdicts[0])
    resolved = endpoints.evaluate(ends, found)
    maps = expected.expected_maps(ends.pod, ends.direction, found)
    should = expected.verdict(maps, ends.flow, {}, strict=cni_of(found).mode == "strict")
    named = deviations.of_resolution(ends, asked.backends, intent, resolved, found)
    if should.decision is not Decision.NONE:
        named += deviations.of_agent(ends, resolved, should, maps, found)
    return Answer(intent, resolved, should, tuple(named))


def packet(ends: Ends) -> reference.Packet:
    return reference.Packet(ends.direction.value, ends.peer, ends.flow.protocol, ends.flow.port)


def other_family(version: int) -> tuple[Any, Any]:
    """A flow of the family that the cluster does not have: from the pod's second interface to somewhere outside."""
    own = "169.254.172.9" if version == 6 else "2001:db8:f::9"
    return ip_address(own), ip_network(OUTSIDE[10 - version][0])[5]


def differ(left: Verdict, right: Verdict) -> bool:
    return left.decision in DECIDED and right.decision in DECIDED and left.decision is not right.decision


def check(cluster: Cluster) -> Iterator[tuple[Asked, Answer]]:
    """All questions with their answers; fails where a reason is missing, or is there without a difference."""
    pipeline = Pipeline(cluster)
    for asked in pipeline.legs():
        answer = pipeline.ask(asked)
        where = f"{asked.ends.pod['metadata']['name']} {packet(asked.ends)}: {answer.chain}: {answer.found}"
        assert answer.intent.decision.value == pipeline.intent(asked), where
        by_controller = [one for one in answer.found if one.between == ("INTENT", "ENDPOINTS")]
        by_agent = [one for one in answer.found if one.between == ("ENDPOINTS", "EXPECTED")]
        assert len(by_controller) + len(by_agent) == len(answer.found), where
        if answer.intent.code == "DOMAIN_NAME":
            assert answer.codes <= {"DOMAIN_NAME", *(one.code for one in by_agent)}, where
        else:
            assert bool(by_controller) is differ(answer.intent, answer.resolved), where
        if answer.should.decision is Decision.UNKNOWN:
            assert [one.code for one in by_agent] == [answer.should.code], where
        else:
            assert bool(by_agent) is differ(answer.resolved, answer.should), where
        # The controller's model has made the PolicyEndpoints: it cannot be behind.
        assert answer.codes <= set(deviations.CODES) - {"NOT_RESOLVED_YET", "FIRST_PEER"}, where
        yield asked, answer


@pytest.mark.parametrize("family", [4, 6])
@settings(max_examples=10)
@given(seed=SEEDS)
def test_every_difference_has_its_reason(family: int, seed: int) -> None:
    for _ in check(random_cluster(random.Random(seed), family=family, pods=4, policies=5)):
        pass


@pytest.mark.parametrize("family", [4, 6])
@settings(max_examples=10)
@given(seed=SEEDS)
def test_without_deviating_policies_all_layers_agree(family: int, seed: int) -> None:
    """ICMPv6 and the other family pass whatever the policies are."""
    pipeline = Pipeline(random_cluster(random.Random(seed), family=family, pods=4, policies=5, deviating=False))
    for asked in pipeline.legs():
        answer = pipeline.ask(asked)
        if asked.ends.flow.protocol == ICMPV6 or asked.ends.peer.version != family:
            continue
        assert not answer.found, (packet(asked.ends), answer.found)
        assert answer.intent.decision is answer.resolved.decision, (packet(asked.ends), answer.chain)
        assert answer.should.decision in (answer.intent.decision, Decision.NONE), (packet(asked.ends), answer.chain)


@pytest.mark.parametrize("family", [4, 6])
@settings(max_examples=10)
@given(seed=SEEDS)
def test_every_difference_has_its_reason_with_agents_after_1_4_2(family: int, seed: int) -> None:
    """The maps that are there are as they write them."""
    pipeline = Pipeline(random_cluster(random.Random(seed), family=family, pods=4, policies=5))
    for asked in pipeline.legs():
        ends, found = asked.ends, pipeline.made(namespace_of(asked.ends.pod))
        maps = expected.expected_maps(ends.pod, ends.direction, found)
        later = _as_after_1_4_2(maps, ends.pod, found)
        should = expected.verdict(maps, ends.flow, expected.as_views(later, {}))
        if should.decision is Decision.NONE:
            continue
        resolved = endpoints.evaluate(ends, found)
        named = deviations.of_agent(ends, resolved, should, maps, found)
        assert bool(named) is (differ(resolved, should) or should.code == "CUT_OFF"), (packet(ends), resolved, should)
        if should.decided.get("agents"):
            codes = {one.code for one in named}
            assert not codes & {"EXCEPT_WINS", "EXCEPT_LOST", "NOT_INHERITED"}, (packet(ends), named)


def _as_after_1_4_2(maps: expected.ExpectedMaps, pod: Json, found: World) -> expected.ExpectedMaps:
    own = found.own_node_address(pod, maps.family)
    slices, cluster = endpoints.of_identifier(found, pod), endpoints.cluster_of_identifier(found, pod)
    rules = agent_newer.program(slices, maps.direction, own, maps.family)
    return replace(maps, rules=rules, tiers=agent_newer.program_tiers(cluster, maps.direction, own, maps.family))


SEEDS_OF_CODES = (0, 17, 34, 38, 61, 128, 138, 161, 170, 177, 181, 188, 206, 268, 273, 318, 366)
"""Found by a search over the first 400: together they meet all codes but those of ``ELSEWHERE``."""
ELSEWHERE = {
    "EXCEPT_LOST",
    "FIRST_ADDRESS",
    "FIRST_PEER",
    "HOST_BITS",
    "NOT_RESOLVED_YET",
    "RANGE_LOST",
    "STRICT_MODE",
}
"""Too seldom, or not in a random cluster at all: test_deviations.py has an example of each."""


@pytest.fixture(scope="module")
def clusters() -> list[tuple[Pipeline, list[tuple[Asked, Answer]]]]:
    """The same ones each time, with all that is to be said of them."""
    found = []
    for seed in SEEDS_OF_CODES:
        cluster = random_cluster(random.Random(seed), family=4 if seed % 2 else 6, pods=4, policies=6)
        found.append((Pipeline(cluster), list(check(cluster))))
    return found


def test_the_search_meets_all_codes(clusters: list[tuple[Pipeline, list[tuple[Asked, Answer]]]]) -> None:
    met = {code for _, answers in clusters for _, answer in answers for code in answer.codes}
    assert met == set(deviations.CODES) - ELSEWHERE


# ---- what is named is the reason: without it the layers agree


def without_unlisted_rules(cluster: Cluster) -> None:
    for policy in (*cluster["networkpolicies"], *cluster["applicationnetworkpolicies"]):
        for direction in ("ingress", "egress"):
            types = policy["spec"].get("policyTypes")
            if types and direction.capitalize() not in types:
                policy["spec"].pop(direction, None)


def with_policy_types(cluster: Cluster) -> None:
    for policy in cluster["applicationnetworkpolicies"]:
        egress = ["Egress"] if policy["spec"].get("egress") else []
        policy["spec"].setdefault("policyTypes", ["Ingress", *egress])


def with_to(cluster: Cluster) -> None:
    for policy in cluster["applicationnetworkpolicies"]:
        for rule in policy["spec"].get("egress") or ():
            rule["to"] = rule.get("to") or [{"ipBlock": {"cidr": cidr}} for cidr in ("0.0.0.0/0", "::/0")]


def with_names_of_their_own(cluster: Cluster) -> None:
    for number, pod in enumerate(cluster["pods"]):
        pod["metadata"]["name"] = f"x{number}"


def without_excepts(cluster: Cluster) -> None:
    """Blocks that leave out what was excepted."""
    for policy in (*cluster["networkpolicies"], *cluster["applicationnetworkpolicies"]):
        for side, direction in (("from", "ingress"), ("to", "egress")):
            for rule in policy["spec"].get(direction) or ():
                if rule.get(side):
                    rule[side] = [one for peer in rule[side] for one in split(peer)]


def split(peer: Json) -> list[Json]:
    block = peer.get("ipBlock") or {}
    if not block.get("except"):
        return [peer]
    blocks: list[Any] = [ip_network(block["cidr"])]
    for text in block["except"]:
        out = ip_network(text)
        blocks = [
            part
            for one in blocks
            for part in (one.address_exclude(out) if out.subnet_of(one) else [] if one.subnet_of(out) else [one])
        ]
    nobody = {"podSelector": {"matchLabels": {"no": "one"}}}
    return [{"ipBlock": {"cidr": str(one)}} for one in blocks] or [nobody]


def without_the_host_network(cluster: Cluster) -> None:
    cluster["pods"] = [pod for pod in cluster["pods"] if not pod["spec"].get("hostNetwork")]


def with_one_rule_each(cluster: Cluster) -> None:
    """The order of rules as an order of policies."""
    found = []
    for policy in cluster["clusternetworkpolicies"]:
        spec, name = policy["spec"], policy["metadata"]["name"]
        for direction in ("ingress", "egress"):
            for number, rule in enumerate(spec.get(direction) or ()):
                one = {key: spec[key] for key in ("tier", "subject")}
                one |= {"priority": spec["priority"] // 2 + number, direction: [rule]}
                found.append({"metadata": {"name": f"{name}-{direction}-{number}"}, "spec": one})
    cluster["clusternetworkpolicies"] = found


def with_all_ports_as_ranges(cluster: Cluster) -> None:
    for policy in cluster["clusternetworkpolicies"]:
        for direction in ("ingress", "egress"):
            for rule in policy["spec"].get(direction) or ():
                ranges = [{"protocol": name, "start": 1, "end": 65535} for name in reference.PROTOCOLS]
                rule["ports"] = rule.get("ports") or [{"portRange": span} for span in ranges]


REMEDIES: dict[str, Callable[[Cluster], None]] = {
    "POLICY_TYPES": without_unlisted_rules,
    "NO_POLICY_TYPES": with_policy_types,
    "EMPTY_TO": with_to,
    "SHARED_IDENTIFIER": with_names_of_their_own,
    "EXCEPT_WINS": without_excepts,
    "EXCEPT_LOST": without_excepts,
    "NOT_INHERITED": without_excepts,
    "HOST_NETWORK_PEER": without_the_host_network,
    "RULE_ORDER": with_one_rule_each,
    "ALL_PORTS_LOST": with_all_ports_as_ranges,
}
"""For each code a change of the objects after which Kubernetes means the same and that rule of EKS does not apply."""


def remedied(cluster: Cluster, codes: set[str], asked: Asked) -> tuple[Pipeline, Asked] | None:
    """The cluster without what is named, and the same question; None where the YAML then means something else."""
    number = next(n for n, pod in enumerate(cluster["pods"]) if pod is asked.ends.pod)
    changed = deepcopy(cluster)
    pod = changed["pods"][number]
    for code in sorted(codes):
        REMEDIES[code](changed)
    pipeline = Pipeline(changed)
    again = Asked(Ends(pod, asked.ends.direction, asked.ends.flow, reference.pod_with(changed, asked.ends.peer)))
    return (pipeline, again) if pipeline.intent(again) == Pipeline(cluster).intent(asked) else None


def test_without_what_is_named_the_layers_agree(
    clusters: list[tuple[Pipeline, list[tuple[Asked, Answer]]]],
) -> None:
    """But where two rules lead to the same, each alone: one of them is named, and then the other."""
    settled, another, tried = 0, 0, Counter[str]()
    for pipeline, answers in clusters:
        seen = Counter[frozenset[str]]()
        for asked, answer in answers:
            codes = frozenset(answer.codes)
            if not codes or not codes <= set(REMEDIES) or asked.backends or seen[codes] >= 6:
                continue
            seen[codes] += 1
            then = remedied(pipeline.cluster, set(codes), asked)
            if then is None:
                continue
            after = then[0].ask(then[1])
            tried.update(codes)
            assert not codes & after.codes, (answer.found, after.found)
            # Layers that came after, and agreed by chance with what was wrong before them, may differ now.
            again = {one.between for one in answer.found} & {one.between for one in after.found}
            settled += not again
            another += bool(again)
    assert set(tried) == set(REMEDIES) - {"EXCEPT_LOST"}
    assert another * 10 < settled, (settled, another)


# ---- needed


@given(st.sets(st.integers(0, 6), min_size=1), st.sets(st.integers(0, 6)))
def test_needed_differences_are_those_that_it_takes(it_takes: set[int], others: set[int]) -> None:
    def decide(found: frozenset[int]) -> Decision:
        return Decision.DENY if it_takes <= found else Decision.ALLOW

    assert set(needed(sorted(it_takes | others), decide, Decision.DENY)) == it_takes


@given(st.sets(st.integers(0, 6), min_size=1))
def test_of_those_that_are_enough_alone_one_is_named(enough: set[int]) -> None:
    def decide(found: frozenset[int]) -> Decision:
        return Decision.DENY if found & enough else Decision.ALLOW

    [one] = needed(range(8), decide, Decision.DENY)
    assert one in enough
