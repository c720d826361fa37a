"""Rules of the EKS controller and agent that differ from what Kubernetes promises, said where they decide about a flow.

None of them is a fault of this cluster: the same YAML does the same on every EKS cluster, and a restart mends nothing.
docs/deviations.md has the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.diagnose.expected import ExpectedMaps
from kubectl_netpol.kernel.identity import pod_part
from kubectl_netpol.model.flow import Direction, host_network
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy import agent, controller, endpoints, modelled, selectors, tiers
from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.networkpolicy import Ends, RulePeer
from kubectl_netpol.policy.nodes import AUTO_MODE
from kubectl_netpol.policy.nodes import kind_of as node_kind
from kubectl_netpol.policy.world import (
    APPLICATION_POLICY,
    World,
    cluster_ips,
    kind_of,
    label_of,
    name_of,
    namespace_of,
    node_of,
    pod_ip,
    pod_ips,
    ref,
)

Json = dict[str, Any]


@dataclass(frozen=True)
class Deviation:
    """One rule that makes a flow come out otherwise than the YAML says. ``code`` is stable for scripts."""

    code: str
    text: str
    between: tuple[Layer, Layer]


CODES = {
    "SERVICE_SELECTOR": "a ClusterIP is allowed only where the Service's own selector satisfies the peer's podSelector",
    "SERVICE_PORT": "egress to a ClusterIP is judged on the Service port, which follows from the rule's port by targetPort",
    "TARGET_PORT_BYPASS": "a named targetPort that leads past the policy on some pod takes the ClusterIP out",
    "NAMED_PORT": "a named port means nothing for address blocks, for everybody, and for pods without that name",
    "POLICY_TYPES": "rules restrict a direction that policyTypes does not list",
    "NO_POLICY_TYPES": "an ApplicationNetworkPolicy without policyTypes isolates no direction by itself",
    "EMPTY_TO": "an egress rule of an ApplicationNetworkPolicy without `to` means nobody",
    "ALL_PORTS_LOST": "a rule for all ports gives way to another rule's ports for the same prefix",
    "RULE_ORDER": "the rules of one ClusterNetworkPolicy have no order: Deny before Accept before Pass",
    "CLUSTER_IP_BYPASS": "a Deny for pods does not mean the ClusterIP of their Service",
    "FIRST_ADDRESS": "of a pod's addresses only the first is resolved",
    "DOMAIN_NAME": "the open agent does not enforce rules for domain names",
    "NOT_RESOLVED_YET": "the PolicyEndpoints are behind the policy",
    "EXCEPT_WINS": "an except of one rule is denied for all other rules too",
    "NOT_INHERITED": "only the longest prefix counts, and it does not inherit what a wider one excepts",
    "CUT_OFF": "24 port rules at most fit for one prefix",
    "OTHER_FAMILY": "rules of the other IP family are skipped, and still isolate",
    "SHARED_IDENTIFIER": "pods that share a pod identifier share their rules",
    "BASELINE_DEAD": "Baseline rules are not asked where any NetworkPolicy applies to the pod",
    "OWN_NODE": "the own node passes",
}
"""All codes, with the rule behind each. ``NOT_RESOLVED_YET`` is the one that passes by itself."""


def of_resolution(
    ends: Ends, backends: tuple[Ends, ...], intent: Verdict, resolved: Verdict, world: World
) -> list[Deviation]:
    """Why INTENT and ENDPOINTS differ: by the controller's rules, or because it is behind."""
    if not _differ(intent, resolved) or resolved.code == "NO_CRD":
        return []
    between = (Layer.INTENT, Layer.ENDPOINTS)
    model = endpoints.evaluate(ends, modelled.modelled(world, namespace_of(ends.pod)))
    if model.decision is not resolved.decision:
        text = "by the controller's own rules the PolicyEndpoints should say otherwise: it is behind, or stopped"
        return [Deviation("NOT_RESOLVED_YET", text, between)]
    found = _Resolution(ends, backends, world, model)
    reasons = found.denied() if model.decision is Decision.DENY else found.allowed()
    return [Deviation(code, text, between) for code, text in dict(reasons).items()]


def _differ(left: Verdict, right: Verdict) -> bool:
    decided = (Decision.ALLOW, Decision.DENY)
    return left.decision in decided and right.decision in decided and left.decision is not right.decision


class _Resolution:
    """The policies of one pod that the controller resolves otherwise than Kubernetes defines them."""

    def __init__(self, ends: Ends, backends: tuple[Ends, ...], world: World, model: Verdict) -> None:
        self.ends, self.backends, self.world, self.model = ends, backends, world, model
        self.policies = world.policies_selecting(ends.pod)
        self.cluster = world.cluster_policies_selecting(ends.pod)

    def denied(self) -> Iterator[tuple[str, str]]:
        """The YAML allows it, and what the controller makes of it does not."""
        if self.model.code == "ADMIN_DENY":
            yield from self._order()
            return
        yield from self._types()
        for policy in self.policies:
            for rule in np.rule_peers(policy, self.ends.direction):
                yield from self._rule_lost(rule)

    def allowed(self) -> Iterator[tuple[str, str]]:
        """The YAML denies it, and what the controller makes of it does not."""
        if self.model.code == "ADMIN_ACCEPT":
            yield from self._order()
        service = self.world.service_by_ip.get(self.ends.peer)
        if service is not None and self.cluster:
            yield (
                "CLUSTER_IP_BYPASS",
                (
                    f"a Deny for pods means their addresses, not the ClusterIP of {ref(service)}: egress is judged before the "
                    "ClusterIP becomes a pod's address"
                ),
            )
        for policy in self.policies:
            types = (policy.get("spec") or {}).get("policyTypes")
            if kind_of(policy) == APPLICATION_POLICY and not types:
                yield (
                    "NO_POLICY_TYPES",
                    f"{label_of(policy)} has no policyTypes: it isolates no direction without rules",
                )

    def _order(self) -> Iterator[tuple[str, str]]:
        for policy in self.cluster:
            rules = [
                rule
                for rule in tiers.cluster_rules(policy, self.ends.direction)
                if any(np.rule_admits(p, self.ends) and np.peer_matches(p, self.ends, self.world) for p in rule.peers)
            ]
            if len({rule.action for rule in rules}) > 1:
                first, wins = rules[0], min(rules, key=lambda rule: tiers.ACTIONS.index(rule.action))
                yield (
                    "RULE_ORDER",
                    (
                        f"{first.text} says {first.action} first, but the rules of one ClusterNetworkPolicy lose their order: "
                        f"{wins.action} of {wins.path} wins"
                    ),
                )

    def _types(self) -> Iterator[tuple[str, str]]:
        for policy in self.policies:
            rules = (policy.get("spec") or {}).get(self.ends.direction.value)
            if rules and self.ends.direction not in np.directions(policy):
                yield (
                    "POLICY_TYPES",
                    (
                        f"{label_of(policy)} has {self.ends.direction} rules and does not list "
                        f"{self.ends.direction.value.capitalize()} in policyTypes: Kubernetes ignores them, EKS enforces them"
                    ),
                )

    def _rule_lost(self, rule: RulePeer) -> Iterator[tuple[str, str]]:
        """Why a rule that allows the flow brings no entry that does."""
        fitting = [e for e in self.backends or (self.ends,) if np.peer_matches(rule, e, self.world)]
        fitting = [e for e in fitting if np.rule_admits(rule, e)]
        if not fitting:
            return
        service = self.world.service_by_ip.get(self.ends.peer) if self.ends.direction is Direction.EGRESS else None
        if rule.domains:
            yield "DOMAIN_NAME", f"{rule.label} is for domain names, which the open agent does not enforce"
        elif (
            rule.peer is None and kind_of(rule.policy) == APPLICATION_POLICY and self.ends.direction is Direction.EGRESS
        ):
            yield "EMPTY_TO", f"{rule.label} has no `to`: in an ApplicationNetworkPolicy that means nobody"
        elif rule.peer is None or rule.peer.get("ipBlock"):
            yield from self._named(rule)
        elif service is not None:
            yield from self._service(rule, service)
        elif any(self.ends.peer not in pod_ips(e.peer_pod)[:1] for e in fitting if e.peer_pod is not None):
            yield "FIRST_ADDRESS", f"only the first address of a pod is resolved, and {self.ends.peer} is another one"
        elif kind_of(rule.policy) == APPLICATION_POLICY:
            yield "ALL_PORTS_LOST", f"{rule.label} allows all ports, but another rule names ports for the same address"

    def _named(self, rule: RulePeer) -> Iterator[tuple[str, str]]:
        names = [str(port["port"]) for port in rule.ports if isinstance(port.get("port"), str)]
        if names:
            yield (
                "NAMED_PORT",
                (
                    f"{rule.label} names the port {', '.join(names)}, which the controller cannot resolve for addresses and leaves out"
                ),
            )

    def _service(self, rule: RulePeer, service: Json) -> Iterator[tuple[str, str]]:
        selector = (rule.peer or {}).get("podSelector") or {}
        own = (service.get("spec") or {}).get("selector") or {}
        address = next(iter(cluster_ips(service)), None)
        if not selectors.matches(selector, own):
            yield (
                "SERVICE_SELECTOR",
                (
                    f"{rule.label} allows pods {selectors.text(selector)}, and Service {ref(service)} selects "
                    f"{selectors.text({'matchLabels': own})}: the controller adds the ClusterIP {address} only where the "
                    "Service's selector has all labels of the rule's; through the pods' own addresses it works"
                ),
            )
        elif address != self.ends.peer:
            yield (
                "FIRST_ADDRESS",
                f"only the first ClusterIP of {ref(service)} is resolved, and {self.ends.peer} is another",
            )
        else:
            yield from self._service_port(rule, service)

    def _service_port(self, rule: RulePeer, service: Json) -> Iterator[tuple[str, str]]:
        resolved = controller.service_ports(rule, service, self.world)
        for port in rule.ports:
            protocol, value = str(port.get("protocol") or "TCP"), port.get("port")
            match = controller.service_port(value, protocol, service, self.world) if value is not None else None
            if match and controller.bypasses(match, value, protocol, rule, service, self.world):
                yield (
                    "TARGET_PORT_BYPASS",
                    (
                        f"{rule.label} allows {value}/{protocol}, but the targetPort {match.get('targetPort')} of {ref(service)} "
                        "is another port on some pod: the controller leaves that port of the ClusterIP out"
                    ),
                )
        allowed = port_lists.text(resolved) if resolved else "nothing"
        yield (
            "SERVICE_PORT",
            (
                f"{rule.label} becomes {allowed} for the ClusterIP of {ref(service)}: the first Service port whose targetPort "
                f"is the rule's port; {self.ends.flow.port_text} is not among it"
            ),
        )


# ---- ENDPOINTS against EXPECTED


def of_agent(ends: Ends, resolved: Verdict, expected: Verdict, maps: ExpectedMaps, world: World) -> list[Deviation]:
    """Why the maps, written as the agent writes them, decide otherwise than the PolicyEndpoints of the pod say."""
    if expected.code == "CUT_OFF":
        return [Deviation("CUT_OFF", expected.why, (Layer.ENDPOINTS, Layer.EXPECTED))]
    if not _differ(resolved, expected):
        return []
    reasons = dict(_agent_reasons(ends, expected, maps, world))
    return [Deviation(code, text, (Layer.ENDPOINTS, Layer.EXPECTED)) for code, text in reasons.items()]


def _agent_reasons(ends: Ends, expected: Verdict, maps: ExpectedMaps, world: World) -> Iterator[tuple[str, str]]:
    entry = maps.table.lookup(host_network(ends.peer))
    found = maps.rules.get(entry.prefix) if entry is not None else None
    if ends.peer == world.own_node_address(ends.pod, ends.peer.version):
        yield "OWN_NODE", f"{ends.peer} is the address of the pod's own node, which the agent always lets pass"
        return
    if found is not None and found.origin == agent.EXCEPT:
        yield (
            "EXCEPT_WINS",
            (
                f"{found.prefix} is an except of {_excepting(ends, maps, world, found)}: the agent denies it for every other "
                "rule too; Kubernetes allows what any rule allows"
            ),
        )
    elif found is not None and expected.decision is Decision.DENY and _wider_allows(ends, maps, found):
        yield (
            "NOT_INHERITED",
            (
                f"only the longest prefix counts, {found.prefix}, and it does not take over the ports of a wider rule that "
                "excepts its address"
            ),
        )
    if _mates(ends.pod, world):
        yield "SHARED_IDENTIFIER", shared_identifier(ends.pod, world)
    if expected.decision is Decision.ALLOW and any(one.tier == "Baseline" for one in _tier_sources(maps, ends)):
        yield (
            "BASELINE_DEAD",
            (
                "a policy applies to the pod, so its maps have an entry for everybody in this direction: Baseline rules are "
                "not asked any more"
            ),
        )
    other = [rule for rule in _all_rules(ends, world) if rule.prefix.version != ends.peer.version]
    if other and not any(one.origin == agent.RULE for one in maps.rules.values()):
        yield (
            "OTHER_FAMILY",
            (
                f"all rules for {ends.direction} are of the other IP family: the agent skips them and leaves the pod isolated"
            ),
        )


def _all_rules(ends: Ends, world: World) -> list[endpoints.EndpointEntry]:
    return list(endpoints.entries(endpoints.of_identifier(world, ends.pod), ends.direction))


def _tier_sources(maps: ExpectedMaps, ends: Ends) -> list[endpoints.EndpointEntry]:
    entry = maps.tier_table.lookup(host_network(ends.peer))
    return maps.tiers[entry.prefix].sources if entry is not None else []


def _excepting(ends: Ends, maps: ExpectedMaps, world: World, found: agent.Expected) -> str:
    names = {f"{rule.endpoint} {rule.path}" for rule in _all_rules(ends, world) if found.prefix in rule.excepts}
    return ", ".join(sorted(names)) or "a rule"


def _wider_allows(ends: Ends, maps: ExpectedMaps, found: agent.Expected) -> bool:
    """Whether a rule for a wider prefix would admit the flow, were it not for the longer one."""
    return any(
        ends.peer in rule.prefix and port_lists.admits(rule.ports, ends.flow)
        for one in maps.rules.values()
        if one.prefix.prefixlen < found.prefix.prefixlen and one.prefix.version == ends.peer.version
        for rule in one.sources
    )


def _mates(pod: Json, world: World) -> list[str]:
    """Names of the pods, anywhere in the cluster, that share the pod's identifier and not its policies."""
    own = {id(endpoint) for endpoint in endpoints.of_pod(world, pod)}
    shared = [e for e in endpoints.of_identifier(world, pod) if id(e) not in own]
    part, namespace = pod_part(name_of(pod)), namespace_of(pod)
    found = {
        name
        for endpoint in shared
        for space, name in endpoints.lists(endpoint)
        if space == namespace and pod_part(name) == part and name != name_of(pod)
    }
    return sorted(found)


def shared_identifier(pod: Json, world: World) -> str:
    """`web-a shares its pod identifier web with web-b: the rules of their policies apply to both`; empty: it does not."""
    mates = _mates(pod, world)
    if not mates:
        return ""
    own = {id(endpoint) for endpoint in endpoints.of_pod(world, pod)}
    policies = {endpoints.policy_of(e) for e in endpoints.of_identifier(world, pod) if id(e) not in own}
    names = ", ".join(mates[:3]) + (f" and {len(mates) - 3} more" if len(mates) > 3 else "")
    return (
        f"{name_of(pod)} shares its pod identifier with {names}: the rules of {', '.join(sorted(policies))} apply to it "
        "as well (pods are one for the agent when their names differ in the last part only)"
    )


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
    return f"rules for domain names ({', '.join(sorted(set(names)))}) are not enforced by the open agent: they allow nothing"
