"""INTENT: what several rules and policies make of each other in one map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.checks.base import UPGRADE, Scope, key_of, toward
from kubectl_netpol.diagnose.expected import expected_maps
from kubectl_netpol.kernel.identity import pod_part
from kubectl_netpol.kernel.layouts import SLOTS
from kubectl_netpol.model.finding import Evidence, Finding, Remedy
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.policy import agent, endpoints
from kubectl_netpol.policy.cni import Version
from kubectl_netpol.policy.endpoints import EndpointEntry
from kubectl_netpol.policy.world import (
    World,
    finished,
    name_of,
    namespace_of,
    node_of,
    on_host_network,
    pod_ip,
    ref,
)

Json = dict[str, Any]

FIRST_CANONICAL = Version(1, 4, 2)
"""Of the agent (agent facts 5.3)."""
FIRST_INJECTIVE = Version(1, 4, 0)
"""Of the agent: `@` between pod part and namespace."""
SHOWN = 3
LOOK = "none: it only reads; the entries of all of them go into one map"


def of_cluster(scope: Scope) -> Iterator[Finding]:
    """Excepts that win, one block written twice, more ports than fit, shared identifiers."""
    if scope.world.unread("pods", "policyendpoints", "clusterpolicyendpoints"):
        return
    yield from _identifiers(scope)
    yield from _across_namespaces(scope)
    groups: dict[int, list[Json]] = defaultdict(list)
    for pod in scope.pods:
        slices = endpoints.of_identifier(scope.world, pod)
        if slices and pod_ip(pod) is not None:
            groups[id(slices)].append(pod)
    for pods in groups.values():
        for direction in Direction:
            yield from toward(_direction(pods, direction, scope), direction)


def _direction(pods: list[Json], direction: Direction, scope: Scope) -> Iterator[Finding]:
    world = scope.world
    rules = expected_maps(pods[0], direction, world).rules
    slices = endpoints.of_identifier(world, pods[0])
    full = [one for one in rules.values() if one.cut_off]
    if full:
        yield _cut_off(pods, direction, full, world)
    newest = scope.cni.agent is not None and scope.cni.agent >= FIRST_CANONICAL
    twice = [one for one in rules.values() if one.others]
    if twice and not newest:
        yield _host_bits(pods, direction, twice, scope)
    entries = list(endpoints.entries(slices, direction))
    if any(entry.excepts for entry in entries):
        yield from _excepts(pods, direction, entries, rules)


def _look(pods: list[Json]) -> Remedy:
    return Remedy(f"kubectl -n {namespace_of(pods[0])} get policyendpoints -o yaml", LOOK)


def _of(pods: list[Json]) -> str:
    return f"pod {ref(pods[0])}" + (f" and {len(pods) - 1} more" if len(pods) > 1 else "")


def _cut_off(pods: list[Json], direction: Direction, full: list[agent.Expected], world: World) -> Finding:
    one = full[0]
    who = world.who(one.prefix.network_address) if one.prefix.prefixlen == one.prefix.max_prefixlen else ""
    policies = sorted({entry.policy for entry in (*one.sources, *one.inherited)})
    prefix = f"{one.prefix}{f' ({who})' if who else ''}"
    title = (
        f"{len(one.slots)} port rules meet in {prefix} for {direction} of {_of(pods)}, and {SLOTS} fit: some of its "
        "ports are dropped, and which ones changes"
    )
    evidence = (
        Evidence(f"PolicyEndpoints of {', '.join(policies[:SHOWN])}", f"{len(one.slots)} port rules for {one.prefix}"),
        Evidence(f"{direction}_map", f"{SLOTS} places for one prefix"),
    )
    merge = Remedy(
        f"kubectl -n {namespace_of(pods[0])} get networkpolicies {' '.join(policies[:SHOWN])} -o yaml",
        "none: it only reads; write ranges (port and endPort) in the place of single ports",
    )
    return _made(findings.TOO_MANY_PORTS, title, evidence, merge, pods)


def _host_bits(pods: list[Json], direction: Direction, twice: list[agent.Expected], scope: Scope) -> Finding:
    one = twice[0]
    texts = sorted({entry.text for entry in one.sources} or {str(one.prefix)})
    version = str(scope.cni.agent) if scope.cni.agent else "of an unknown release"
    title = (
        f"{direction} of {_of(pods)}: {' and '.join(texts[:SHOWN])} are one block, {one.prefix}, and agent {version} "
        "may keep the ports of one of them only"
    )
    evidence = (
        Evidence("PolicyEndpoints", f"{', '.join(texts[:SHOWN])}"),
        Evidence("agents up to 1.4.1", f"write them to one entry, {one.prefix}, one after the other"),
    )
    edit = Remedy(
        f"kubectl -n {namespace_of(pods[0])} get networkpolicies -o yaml | grep -n cidr",
        f"none: it only reads; write the block as {one.prefix} everywhere",
    )
    return _made(findings.HOST_BITS, title, evidence, edit, pods)


def _excepts(pods: list[Json], direction: Direction, entries: list[EndpointEntry], rules: Any) -> Iterator[Finding]:
    """An except becomes a Deny of its own, which a wider rule does not lift (agent facts 9, row 57)."""
    for entry in entries:
        for except_ in entry.excepts:
            held = rules.get(except_)
            if held is None or held.origin != agent.EXCEPT:
                continue
            other = next((one for one in entries if _lifts(one, entry, except_)), None)
            if other is None:
                continue
            title = (
                f"{direction} of {_of(pods)}: {except_}, which {entry.endpoint} {entry.path} excepts, is denied, and "
                f"{other.endpoint} {other.path} allows {other.prefix}: on EKS an except wins over other rules"
            )
            evidence = (
                Evidence(f"{entry.endpoint} {entry.path}", f"{entry.prefix} except {except_}"),
                Evidence(f"{other.endpoint} {other.path}", f"{other.prefix}, which holds {except_}"),
            )
            edit = Remedy(
                f"kubectl -n {namespace_of(pods[0])} edit networkpolicy {other.policy}",
                f"changes the policy: name {except_} itself, or what is in it, as a block of its own",
            )
            yield _made(findings.EXCEPT_WINS, title, evidence, edit, pods)
            return


def _lifts(one: EndpointEntry, excepting: EndpointEntry, except_: Any) -> bool:
    """Whether another rule allows all of an except."""
    if one is excepting or one.prefix.version != except_.version or not except_.subnet_of(one.prefix):
        return False
    return not any(other.version == except_.version and other.overlaps(except_) for other in one.excepts)


def _made(kind: Any, title: str, evidence: Any, remedy: Remedy, pods: list[Json]) -> Finding:
    return Finding(
        kind,
        title,
        tuple(evidence),
        (remedy, _look(pods)),
        subject=f"pod {ref(pods[0])}",
        pods=frozenset(map(key_of, pods)),
    )


# ---- pod identifiers


def _identifiers(scope: Scope) -> Iterator[Finding]:
    """Pods of one node and identifier that other policies select (user pain, row 10)."""
    groups: dict[tuple[str, str, str], list[Json]] = defaultdict(list)
    for pod in scope.world.snapshot.items("pods"):
        if node_of(pod) and not _out(pod):
            groups[node_of(pod), namespace_of(pod), pod_part(name_of(pod))].append(pod)
    told: set[tuple[str, str]] = set()
    for (node, namespace, part), pods in sorted(groups.items()):
        if len(pods) < 2 or (namespace, part) in told or not scope.keys.intersection(map(key_of, pods)):
            continue
        sets = {key_of(pod): _names(pod, scope.world) for pod in pods}
        if len(set(sets.values())) < 2:
            continue
        told.add((namespace, part))
        yield _shared(node, part, pods, sets, scope)


def _out(pod: Json) -> bool:
    return on_host_network(pod) or finished(pod)


def _names(pod: Json, world: World) -> tuple[str, ...]:
    found = (*world.policies_selecting(pod), *world.cluster_policies_selecting(pod))
    return tuple(sorted(name_of(policy) for policy in found))


def _shared(node: str, part: str, pods: list[Json], sets: Any, scope: Scope) -> Finding:
    ordered = sorted(pods, key=lambda pod: sets[key_of(pod)])
    one, other = ordered[0], ordered[-1]
    title = (
        f"pods {ref(one)} and {ref(other)} on node {node} share the pod identifier of {part}, and so their rules: "
        f"{_policies(sets[key_of(one)])} selects the first, {_policies(sets[key_of(other)])} the second"
    )
    evidence = (
        Evidence(f"policies that select pod {ref(one)}", _policies(sets[key_of(one)])),
        Evidence(f"policies that select pod {ref(other)}", _policies(sets[key_of(other)])),
    )
    rename = Remedy(
        f"kubectl -n {namespace_of(one)} get pods -o wide",
        "none: it only reads; give one of the workloads a name that differs before its last dash",
    )
    keys = frozenset(map(key_of, pods)) & scope.keys
    return Finding(findings.SHARED_IDENTIFIER, title, evidence, (rename,), subject=f"pod {ref(one)}", pods=keys)


def _policies(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) or "no policy"


def _across_namespaces(scope: Scope) -> Iterator[Finding]:
    """Up to agent 1.3.7 `-` stands between pod part and namespace: `a-b` of `c` and `a` of `b-c` are one identifier."""
    if scope.cni.agent is None or scope.cni.agent >= FIRST_INJECTIVE:
        return
    groups: dict[tuple[str, str], dict[str, Json]] = defaultdict(dict)
    for pod in scope.world.snapshot.items("pods"):
        if node_of(pod) and not _out(pod):
            groups[node_of(pod), f"{pod_part(name_of(pod))}-{namespace_of(pod)}"].setdefault(namespace_of(pod), pod)
    for (node, identifier), pods in sorted(groups.items()):
        if len(pods) < 2:
            continue
        one, other = list(pods.values())[:2]
        sets = {key_of(pod): _names(pod, scope.world) for pod in (one, other)}
        keys = frozenset(map(key_of, pods.values())) & scope.keys
        if not any(sets.values()) or not keys:
            continue
        title = (
            f"pods {ref(one)} and {ref(other)} of two namespaces share the pod identifier {identifier} on node {node}: "
            f"agents before 1.4.0 write the rules of whichever was reconciled last"
        )
        evidence = tuple(
            Evidence(f"policies that select pod {ref(p)}", _policies(sets[key_of(p)])) for p in (one, other)
        )
        yield Finding(findings.SHARED_IDENTIFIER, title, evidence, (UPGRADE,), subject=f"pod {ref(one)}", pods=keys)
