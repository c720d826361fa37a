"""Rules of the EKS controller and agent that differ from what Kubernetes promises, said where they decide about a flow.

None of them is a fault of this cluster: the same YAML does the same on every EKS cluster, and a restart mends nothing.
docs/deviations.md has the list; ``resolved_otherwise`` and ``written_otherwise`` find the reasons of one flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.diagnose import resolved_otherwise, written_otherwise
from kubectl_netpol.diagnose.expected import AFTER, ExpectedMaps
from kubectl_netpol.diagnose.resolved_otherwise import NEWEST, Merging
from kubectl_netpol.diagnose.written_otherwise import shared_identifier
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy import endpoints, resolution
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.nodes import AUTO_MODE
from kubectl_netpol.policy.nodes import kind_of as node_kind
from kubectl_netpol.policy.world import (
    CLUSTER_POLICY,
    NETWORK_POLICY,
    World,
    kind_of,
    name_of,
    node_of,
    pod_ip,
    ref,
)

Json = dict[str, Any]

__all__ = ["CODES", "Deviation", "domain_names", "of_agent", "of_resolution", "shared_identifier"]


@dataclass(frozen=True)
class Deviation:
    """One rule that makes a flow come out otherwise than the YAML says. ``code`` is stable for scripts."""

    code: str
    text: str
    between: tuple[Layer, Layer]


CODES = {
    "SERVICE_SELECTOR": "a ClusterIP is allowed only where the Service's own selector satisfies the peer's podSelector",
    "SERVICE_PORT": "egress to a Service is judged on the Service port, not on the port of the pods behind it",
    "TARGET_PORT_BYPASS": "a named targetPort that leads past the policy on some pod takes the ClusterIP out",
    "CLUSTER_IP": "egress to a Service is judged on its ClusterIP, not on the pods behind it",
    "CLUSTER_IP_BYPASS": "a Deny for pods does not mean the ClusterIP of their Service",
    "NAMED_PORT": "a named port is one list of numbers for all pods of a policy, and none for address blocks",
    "HOST_NETWORK_PEER": "a selector that means a pod on the host network means its node",
    "POLICY_TYPES": "rules restrict a direction that policyTypes does not list",
    "NO_POLICY_TYPES": "an ApplicationNetworkPolicy without policyTypes isolates no direction by itself",
    "EMPTY_TO": "an egress rule of an ApplicationNetworkPolicy without `to` means nobody",
    "ALL_PORTS_LOST": "a rule for all ports gives way to another rule's ports for the same prefix",
    "RANGE_LOST": "of two rules whose ports begin alike only the first counts",
    "RULE_ORDER": "the rules of one ClusterNetworkPolicy have no order: Deny before Accept before Pass",
    "FIRST_PEER": "an ingress rule is lost where its first peer means no namespace",
    "FIRST_ADDRESS": "of the addresses of a pod or Service only the first is resolved",
    "DOMAIN_NAME": "the open agent does not enforce rules for domain names",
    "NOT_RESOLVED_YET": "the PolicyEndpoints are behind the policy",
    "EXCEPT_WINS": "an except of one rule is denied for all other rules too",
    "EXCEPT_LOST": "an except is lost for what inherits by way of another rule",
    "NOT_INHERITED": "only the longest prefix counts, and it does not inherit what a wider one excepts",
    "CUT_OFF": "24 port rules at most fit for one prefix",
    "HOST_BITS": "agents up to 1.4.1 lose rules of one prefix that is written in two ways",
    "OTHER_FAMILY": "packets and rules of the other IP family are skipped",
    "ICMPV6": "ICMPv6 always passes",
    "SHARED_IDENTIFIER": "pods that share a pod identifier share their rules",
    "BASELINE_DEAD": "Baseline rules are not asked where any NetworkPolicy applies to the pod",
    "STRICT_MODE": "in strict enforcing mode a pod that no policy concerns is closed",
    "OWN_NODE": "the own node passes, and rules whose block begins with its address are left out",
}
"""All codes, with the rule behind each. ``NOT_RESOLVED_YET`` is the one that passes by itself."""

OLDER = (
    # Slices of one cluster policy are merged one by one: what stands in two of them is not narrowed.
    Merging(frozenset()),
    Merging(frozenset({CLUSTER_POLICY}), first_peer=True),
    Merging(frozenset({CLUSTER_POLICY, NETWORK_POLICY}), first_peer=True),
)
"""What else a controller makes of the same policies, the newer first (agent facts 6.5, 6.6)."""


def of_resolution(
    ends: Ends, backends: tuple[Ends, ...], intent: Verdict, resolved: Verdict, world: World
) -> list[Deviation]:
    """Why INTENT and ENDPOINTS differ: by the controller's rules, or because it is behind."""
    between = (Layer.INTENT, Layer.ENDPOINTS)
    if intent.code == "DOMAIN_NAME" and resolved.decision is Decision.DENY:
        text = domain_names(ends, world)
        return [Deviation("DOMAIN_NAME", text, between)] if text else []
    if not _differ(intent, resolved) or resolved.code == "NO_CRD" or world.unread("services"):
        return []
    newest = resolved_otherwise.Case(ends, backends, world, NEWEST)
    if newest.resolved is not resolved.decision:
        late = _late(newest, world)
        if late:
            return [Deviation("NOT_RESOLVED_YET", late, between)]
    for merging in (NEWEST, *OLDER):
        case = newest if merging is NEWEST else resolved_otherwise.Case(ends, backends, world, merging)
        if case.resolved is resolved.decision:
            return _made(case.reasons(resolved.decision), between)
    return []


def _differ(left: Verdict, right: Verdict) -> bool:
    decided = (Decision.ALLOW, Decision.DENY)
    return left.decision in decided and right.decision in decided and left.decision is not right.decision


def _late(case: resolved_otherwise.Case, world: World) -> str:
    """What of the policies' PolicyEndpoints no release of the controller would leave like that; empty: nothing."""
    found = [resolution.compare(policy, world) for policy in (*case.policies, *case.cluster)]
    late = [one.text for one in found if one.drifts]
    late += left_behind(case.ends.pod, (*case.policies, *case.cluster), world)
    if not late:
        return ""
    return f"the PolicyEndpoints are not what the controller makes of the policies now: {'; '.join(late[:SHOWN])}"


def left_behind(pod: Json, selecting: Iterable[Json], world: World) -> Iterator[str]:
    """PolicyEndpoints that list the pod, of policies that are gone or do not select it (any more)."""
    known = {(kind_of(policy) == CLUSTER_POLICY, name_of(policy)) for policy in selecting}
    for cluster, slices in ((False, endpoints.of_pod(world, pod)), (True, endpoints.cluster_of_pod(world, pod))):
        for name in sorted({endpoints.policy_of(one) for one in slices}):
            if (cluster, name) not in known:
                yield f"those of {name} list {ref(pod)}, which no policy of that name selects"


SHOWN = 3
"""Sentences of one code."""


def _made(reasons: Iterable[tuple[str, str]], between: tuple[Layer, Layer]) -> list[Deviation]:
    """At most three sentences for each code, the last with the number of those left out."""
    by_code: dict[str, list[str]] = {}
    for code, text in dict.fromkeys(reasons):
        by_code.setdefault(code, []).append(text)
    return [
        Deviation(code, f"{text} (and {len(texts) - SHOWN} more like it)" if more else text, between)
        for code, texts in by_code.items()
        for number, text in enumerate(texts[:SHOWN])
        for more in [number == SHOWN - 1 and len(texts) > SHOWN]
    ]


def of_agent(ends: Ends, resolved: Verdict, expected: Verdict, maps: ExpectedMaps, world: World) -> list[Deviation]:
    """Why the maps, written as the agent writes them, decide otherwise than the PolicyEndpoints of the pod say."""
    between = (Layer.ENDPOINTS, Layer.EXPECTED)
    if expected.decision is Decision.UNKNOWN and expected.code in ("CUT_OFF", "HOST_BITS"):
        return [Deviation(expected.code, expected.why, between)]
    if not _differ(resolved, expected):
        return []
    if not maps.listed:
        return [Deviation("STRICT_MODE", expected.why, between)]
    if expected.code == "CUT_OFF":
        # Agents after 1.4.2 always leave out the same.
        return [Deviation(expected.code, expected.why, between)]
    case = written_otherwise.Case(ends, world, newer=expected.decided.get("agents") == AFTER)
    if case.decide(frozenset(case.rules)) is not expected.decision:
        # The enforcing mode, or an agent that knows no cluster policies.
        return []
    return _made(case.reasons(expected.decision), between)


def domain_names(ends: Ends, world: World) -> str:
    """Why a rule for a domain name does not help here; empty where there is none, or where the agent enforces it."""
    if ends.direction is Direction.INGRESS:
        return ""
    node = world.nodes.get(node_of(ends.pod))
    if node is not None and node_kind(node) is AUTO_MODE:
        return ""
    slices = [*endpoints.of_pod(world, ends.pod), *endpoints.cluster_of_pod(world, ends.pod)]
    names = [name for _, name, ports in endpoints.domains(slices) if port_lists.admits(ports, ends.flow)]
    if not names or pod_ip(ends.pod) is None or world.who(ends.peer):
        return ""
    listed = ", ".join(sorted(set(names)))
    return f"rules for domain names ({listed}) are not enforced by the open agent: they allow nothing"
