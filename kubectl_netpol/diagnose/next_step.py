"""The last line of an answer about a flow: what to do now."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from kubectl_netpol.diagnose.layers import BY_DESIGN, OPEN_TO_THE_PROGRAM, Cause, LegVerdict
from kubectl_netpol.model.verdict import Decision, Layer
from kubectl_netpol.policy import networkpolicy
from kubectl_netpol.policy.nodes import AGENT_LOG
from kubectl_netpol.policy.world import (
    APPLICATION_POLICY,
    CLUSTER_POLICY,
    World,
    kind_of,
    name_of,
    namespace_of,
    node_of,
)

Json = dict[str, Any]

RESOURCES = {CLUSTER_POLICY: "clusternetworkpolicy", APPLICATION_POLICY: "applicationnetworkpolicy"}


def flow_next(
    legs: tuple[LegVerdict, ...], decision: Decision, cause: Cause, world: World, *, api_only: bool = False
) -> str:
    """One step, for the leg that decides."""
    # What differs by rule is told only where nothing is broken at another leg.
    leg = next((leg for leg in broken_first(legs) if leg.decision is decision and leg.cause is cause), legs[0])
    namespace, pod = namespace_of(leg.pod), name_of(leg.pod)
    if decision is Decision.UNKNOWN:
        return _unknown_next(leg, api_only=api_only)
    if leg.asked is not None and leg.asked.code == "DIFFERS":
        return (
            "the program decides otherwise than its maps say, as far as this version knows it: please report it with "
            f"kubectl netpol-ebpf capture {pod} -n {namespace} -f bundle.tar.gz"
        )
    if leg.decided_by.code in BY_DESIGN:
        return f"nothing is broken: {leg.decided_by.why}, whatever the policies say"
    only = next((one for one in legs if one.only_established), None)
    if decision is Decision.ALLOW and only is not None:
        return (
            f"the flow passes because it is established; {only.only_established}; "
            f"kubectl netpol-ebpf conntrack {name_of(only.pod)} -n {namespace_of(only.pod)} lists all such flows"
        )
    if leg.by_rule:
        rules = leg.by_rule
        return (
            f"nothing is broken: EKS does the same on every cluster ({rules[0].text}). Change the YAML to say it in "
            f"EKS's terms: kubectl {_edit(leg, world)}; docs/deviations.md has {', '.join(r.code for r in rules)}"
        )
    if cause is Cause.SELECTOR:
        return _selector_next(leg, world)
    if cause is Cause.RESOLUTION:
        if any(found.code == "NOT_RESOLVED_YET" for found in leg.deviations):
            return (
                "the controller is behind: ask again in some seconds; if it stays like that, it is off or stopped: "
                "kubectl -n kube-system get configmap amazon-vpc-cni -o yaml shows enable-network-policy-controller, "
                f"and kubectl {_made(leg)} what it has made"
            )
        return f"the controller resolved something else than the YAML says: kubectl {_made(leg)}"
    if leg.decided_by.code == "DEFAULT_DENY" and cause is Cause.UNKNOWN:
        return (
            "in strict mode this is right, and the pod needs a policy that allows the flow; in standard mode the agent "
            "left it behind: kubectl -n kube-system get ds aws-node -o yaml | grep -A1 NETWORK_POLICY_ENFORCING_MODE"
        )
    if cause is Cause.KERNEL and not api_only:
        return (
            "the node does not enforce what was resolved: compare the maps with "
            f"kubectl netpol-ebpf maps {pod} -n {namespace} --direction {leg.direction}, "
            f"then read the agent's log on node {node_of(leg.pod)}: {AGENT_LOG}"
        )
    if decision is Decision.DENY:
        return (
            "no policy that was read says so: see which layers are UNKNOWN above, then compare with "
            f"kubectl netpol-ebpf maps {pod} -n {namespace} --direction {leg.direction}"
        )
    if api_only:
        return "what the kernel does with it needs the node: ask again without --api-only"
    return "policy does not stop this flow: if it still fails, look at the application, DNS, routes and security groups"


def broken_first(legs: Iterable[LegVerdict]) -> list[LegVerdict]:
    """The legs in their order, those last whose layers differ by a rule of EKS."""
    return sorted(legs, key=lambda leg: bool(leg.by_rule))


def _made(leg: LegVerdict) -> str:
    """The arguments of kubectl that show what the controller has made."""
    codes = {leg.verdict(layer).code for layer in (Layer.INTENT, Layer.ENDPOINTS)}
    if any(code.startswith(("ADMIN_", "BASELINE_")) for code in codes):
        return "get clusterpolicyendpoints -o yaml"
    return f"-n {namespace_of(leg.pod)} get policyendpoints -o yaml"


def _selector_next(leg: LegVerdict, world: World) -> str:
    intent = leg.verdict(Layer.INTENT)
    miss = leg.near[0].text if leg.near else next(iter(intent.evidence), "")
    change = f" ({miss})" if miss else ""
    return f"nothing is broken: the YAML does not allow this flow{change}. To change that: kubectl {_edit(leg, world)}"


def _unknown_next(leg: LegVerdict, *, api_only: bool) -> str:
    """What would turn UNKNOWN into an answer."""
    code, node = leg.decided_by.code, node_of(leg.pod)
    if api_only:
        if code == "DOMAIN_NAME":
            return "resolve the name from inside the pod, and ask again with the address that it gives"
        return f"find out what could not be read or decided, or ask again without --api-only: {leg.decided_by.why}"
    if leg.kernel is not None and leg.kernel.via:
        return f"--via {leg.kernel.via} cannot see all that decides here: read node {node} with --via python"
    if code in OPEN_TO_THE_PROGRAM and leg.asked is None:
        return "let the loaded program itself decide: ask again with --ask-kernel (its help says what that writes)"
    if code in ("FOREIGN_FIRST", "FOREIGN_ONLY"):
        return (
            "find out whose program that is and what it returns: in a debug pod on the node, `bpftool prog show id ID` "
            f"and `tc filter show dev {shlex.quote(leg.kernel.veth) if leg.kernel else 'VETH'} {leg.direction.tc_hook}`"
        )
    return f"find out why node {node} could not be read, and ask again: {leg.decided_by.why}"


def _edit(leg: LegVerdict, world: World) -> str:
    """The arguments of kubectl that open the policy that is to be changed: the one that the reason is about."""
    reasons = [found.text for found in leg.by_rule] + [near.text for near in leg.near[:1]]
    intent = leg.verdict(Layer.INTENT)
    cluster = world.cluster_policies_selecting(leg.pod)
    policies = sorted(networkpolicy.isolating(world, leg.pod, leg.direction), key=name_of)
    if intent.code.startswith(("ADMIN_", "BASELINE_")):
        candidates = [*cluster, *policies]
    else:
        candidates = [*policies, *world.policies_selecting(leg.pod), *cluster]
    if not candidates:
        return f"-n {namespace_of(leg.pod)} get networkpolicies"
    for text in (*reasons, intent.why, *intent.evidence):
        words = set(text.replace(",", " ").split())
        for policy in candidates:
            if name_of(policy) in words:
                return _edit_text(policy)
    return _edit_text(candidates[0])


def _edit_text(policy: Json) -> str:
    resource = RESOURCES.get(kind_of(policy), "networkpolicy")
    where = f"-n {namespace_of(policy)} " if namespace_of(policy) else ""
    return f"{where}edit {resource} {name_of(policy)}"
