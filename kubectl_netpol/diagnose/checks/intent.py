"""INTENT: what the YAML says, where EKS makes something else of it or nobody can have meant it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.checks.base import UPGRADE, PodKey, Scope, policy_text, resource, toward
from kubectl_netpol.diagnose.dns import dns_answers
from kubectl_netpol.diagnose.layers import resolution_verdicts
from kubectl_netpol.diagnose.plan import service_legs
from kubectl_netpol.model.finding import NO_EFFECT, Evidence, Finding, Kind, Remedy
from kubectl_netpol.model.flow import PROTOCOL_NUMBERS, Direction, Flow, Network, host_network
from kubectl_netpol.model.verdict import Decision, Layer
from kubectl_netpol.policy import controller, endpoints, selectors, targets
from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy import nodes as node_kinds
from kubectl_netpol.policy.cni import FIRST_WITH_CLUSTER_POLICIES
from kubectl_netpol.policy.nearmiss import typos
from kubectl_netpol.policy.networkpolicy import RulePeer
from kubectl_netpol.policy.nodes import AUTO_MODE
from kubectl_netpol.policy.world import (
    CLUSTER_POLICY,
    World,
    cluster_ips,
    finished,
    kind_of,
    labels_of,
    name_of,
    namespace_of,
    node_of,
    on_host_network,
    pod_ip,
    ref,
    subject_selectors,
)

Json = dict[str, Any]

SHOWN = 3
MOST_SERVICES = 200
"""Services of one policy that are looked at."""


def of_cluster(scope: Scope) -> Iterator[Finding]:
    """Findings about the policies that are asked about, by the API alone."""
    if scope.world.unread("pods", "namespaces"):
        return
    for policy in scope.policies:
        if policy["metadata"].get("deletionTimestamp"):
            continue
        yield from _named_ports(policy, scope)
        yield from _typos(policy, scope)
        yield from _host_network(policy, scope)
        yield from _policy_types(policy, scope)
        yield from _other_family(policy, scope)
        yield from toward(_domains(policy, scope), Direction.EGRESS)
        yield from toward(_services(policy, scope), Direction.EGRESS)
    yield from toward(_dns(scope), Direction.EGRESS)
    yield from strict(scope)
    yield from not_enforced(scope)


def _about(
    kind: Kind,
    policy: Json,
    title: str,
    evidence: Iterable[Evidence],
    remedies: Iterable[Remedy],
    pods: frozenset[PodKey],
) -> Finding:
    return Finding(kind, title, tuple(evidence), tuple(remedies), subject=f"policy {ref(policy)}", pods=pods)


def _edit(policy: Json, what: str) -> Remedy:
    return Remedy(f"kubectl edit {resource(policy)}", f"changes the policy: {what}")


def _try(policy: Json) -> Remedy:
    place = f" -n {namespace_of(policy)}" if namespace_of(policy) else ""
    return Remedy(
        f"kubectl netpol-ebpf explain POD{place} -f POLICY.yaml", "none: it only says what a changed policy would do"
    )


# ---- ports


def _named_ports(policy: Json, scope: Scope) -> Iterator[Finding]:
    """Rules that vanish because no pod has the port; those that mean nobody anyway are none."""
    found = controller.resolution(policy, scope.world)
    # While a workload starts from nothing no pod has an address, and no port means anything yet.
    living = any(not finished(pod) and pod_ip(pod) is not None for pod in controller.subjects(policy, scope.world))
    for direction in Direction:
        for skipped in found.skipped[direction]:
            if "named port" not in skipped.reason and "container port of that name" not in skipped.reason:
                continue
            if not living:
                continue
            title = f"{policy_text(policy)} {skipped.path} allows nothing: {skipped.reason}"
            if "keeps" in skipped.reason or "cannot be resolved" in skipped.reason:
                title = f"{policy_text(policy)} {skipped.path}: {skipped.reason}"
            evidence = (
                Evidence(f"{policy_text(policy)} {skipped.path}", f"ports by name for {skipped.selects}"),
                Evidence("containers' ports of the pods it is looked up on", skipped.reason),
            )
            remedies = (_edit(policy, "use the port's number, or the name that the containers declare"), _try(policy))
            made = _about(findings.NAMED_PORT, policy, title, evidence, remedies, scope.selected(policy))
            yield from toward([made], direction)


def _policy_types(policy: Json, scope: Scope) -> Iterator[Finding]:
    """Agent facts 9, row 11: rules of a direction are shipped whether policyTypes lists it or not."""
    if kind_of(policy) == CLUSTER_POLICY:
        return
    spec = policy.get("spec") or {}
    types = [str(one) for one in spec.get("policyTypes") or ()]
    if not types:
        return
    for direction in Direction:
        if spec.get(direction.value) and direction.value.capitalize() not in types:
            listed = ", ".join(types)
            title = (
                f"{policy_text(policy)} has {direction} rules, and policyTypes ({listed}) do not list {direction}: on "
                f"EKS they restrict {direction} all the same"
            )
            evidence = (
                Evidence(f"{policy_text(policy)} spec.policyTypes", ", ".join(types)),
                Evidence(f"{policy_text(policy)} spec.{direction}", f"{len(spec[direction.value])} of them"),
            )
            remedies = (_edit(policy, f"list {direction.value.capitalize()} in policyTypes, or take the rules out"),)
            made = _about(findings.POLICY_TYPES, policy, title, evidence, remedies, scope.selected(policy))
            yield from toward([made], direction)


def _other_family(policy: Json, scope: Scope) -> Iterator[Finding]:
    """A policy that names both families is for both kinds of clusters; one that names the other only is lost."""
    address = next((a for pod in scope.world.snapshot.items("pods") if (a := pod_ip(pod)) is not None), None)
    if address is None:
        return
    for direction in Direction:
        blocks = [n for rule in _rules(policy, direction) if (n := _block(rule)) is not None]
        if blocks and all(block.version != address.version for block in blocks):
            other = 10 - address.version
            title = (
                f"{policy_text(policy)}: all {direction} blocks are IPv{other} ({_some(blocks)}), and "
                f"this cluster's pods are IPv{address.version}: they mean nobody"
            )
            evidence = (
                Evidence(f"{policy_text(policy)} spec.{direction}", ", ".join(map(str, blocks[:SHOWN]))),
                Evidence("addresses of pods", f"IPv{address.version}, such as {address}"),
            )
            edit = _edit(policy, f"add the IPv{address.version} blocks")
            made = _about(findings.OTHER_FAMILY, policy, title, evidence, (edit,), scope.selected(policy))
            yield from toward([made], direction)


def _some(blocks: Iterable[Network]) -> str:
    return ", ".join(map(str, list(blocks)[:SHOWN]))


def _rules(policy: Json, direction: Direction) -> Iterator[RulePeer]:
    return controller.rule_peers_of(policy, direction)


def _block(rule: RulePeer) -> Network | None:
    return np.parse_network(((rule.peer or {}).get("ipBlock") or {}).get("cidr"))


def _domains(policy: Json, scope: Scope) -> Iterator[Finding]:
    """Agent facts 9, row 15. The agent of EKS Auto Mode enforces them."""
    found = controller.resolution(policy, scope.world).domains
    if not found:
        return
    keys = scope.selected(policy)
    open_agent = [pod for pod in scope.pods_among(keys) if not _on_auto_mode(pod, scope.world)]
    if not open_agent:
        return
    names = ", ".join(sorted({one.name for one in found})[:SHOWN])
    title = (
        f"{policy_text(policy)} allows domain names ({names}), which the open agent does not enforce: they stay closed"
    )
    evidence = (
        Evidence(f"{policy_text(policy)} {found[0].path}", f"domainNames {names}"),
        Evidence(f"nodes of its pods, such as {node_of(open_agent[0])}", "not EKS Auto Mode"),
    )
    remedies = (_edit(policy, "name address blocks, or run the pods on EKS Auto Mode nodes"),)
    yield _about(findings.DOMAIN_NAME, policy, title, evidence, remedies, keys)


def _on_auto_mode(pod: Json, world: World) -> bool:
    node = world.nodes.get(node_of(pod))
    return node is not None and node_kinds.kind_of(node) is AUTO_MODE


# ---- selectors


def _typos(policy: Json, scope: Scope) -> Iterator[Finding]:
    """A selector that means nobody, one typing error away from one that does."""
    world = scope.world
    if kind_of(policy) != CLUSTER_POLICY:
        selector = (policy.get("spec") or {}).get("podSelector") or {}
        pods = world.pods_of.get(namespace_of(policy), ())
        yield from _typo(policy, "spec.podSelector", selector, pods, frozenset(), scope)
    else:
        where, who = subject_selectors(policy)
        spaces = world.namespaces_matching(where) if where is not None else ()
        pods = [pod for space in spaces for pod in world.pods_of.get(space, ())]
        yield from _typo(policy, "spec.subject", who, pods, frozenset(), scope)
    for direction in Direction:
        for rule in _rules(policy, direction):
            peer = rule.peer or {}
            if peer.get("podSelector") is None:
                continue
            pods = [pod for space in np.peer_namespaces(rule, world) for pod in world.pods_of.get(space, ())]
            path, touched = f"{rule.path}.podSelector", scope.selected(policy)
            yield from toward(_typo(policy, path, peer["podSelector"], pods, touched, scope), direction)


def _typo(
    policy: Json, path: str, selector: Json, pods: Iterable[Json], touched: frozenset[PodKey], scope: Scope
) -> Iterator[Finding]:
    wanted = selector.get("matchLabels") or {}
    if not wanted or not isinstance(wanted, dict):
        return
    near: dict[str, list[Json]] = defaultdict(list)
    for pod in pods:
        labels = labels_of(pod)
        if selectors.matches(selector, labels):
            return
        text = _nearly(wanted, labels, selector)
        if text:
            near[text].append(pod)
    if not near:
        return
    text, alike = max(near.items(), key=lambda item: len(item[1]))
    keys = frozenset((namespace_of(pod), name_of(pod)) for pod in alike) & scope.keys
    names = ", ".join(sorted(name_of(pod) for pod in alike)[:SHOWN])
    title = f"{policy_text(policy)} {path} means no pod: {selectors.text(selector)} is wanted, and {names} {text}"
    evidence = (
        Evidence(f"{policy_text(policy)} {path}", selectors.text(selector)),
        Evidence(f"labels of pod {ref(alike[0])}", selectors.text({"matchLabels": dict(labels_of(alike[0]))})),
    )
    remedies = (
        _edit(policy, "correct the label"),
        Remedy(
            f"kubectl -n {namespace_of(alike[0])} label pod {name_of(alike[0])} KEY=VALUE --overwrite", LABEL_EFFECT
        ),
    )
    yield _about(findings.TYPO, policy, title, evidence, remedies, keys | touched)


LABEL_EFFECT = (
    "changes the pod's labels: Services and other policies may mean it then; its owner makes new pods without it"
)


def _nearly(wanted: Json, labels: Any, selector: Json) -> str:
    """What a pod has in the place of the one requirement that it does not meet; empty: it is not alike."""
    missing = [(key, value) for key, value in wanted.items() if labels.get(key) != value]
    if len(missing) != 1:
        return ""
    key, value = missing[0]
    if key in labels:
        alike = typos.likeness(value, labels[key])
        fixed = {**labels, key: value}
        return f"has {key}={labels[key]}, {alike}" if alike and selectors.matches(selector, fixed) else ""
    for other, has in labels.items():
        alike = typos.likeness(key, other)
        if alike and has == value and selectors.matches(selector, {**labels, key: value}):
            return f"has {other}={has}, {alike}"
    return ""


def _host_network(policy: Json, scope: Scope) -> Iterator[Finding]:
    """They are in no PolicyEndpoint, and no program is on their way (agent facts 9, row 13)."""
    pods = [pod for pod in controller.subjects(policy, scope.world) if on_host_network(pod) and not finished(pod)]
    if not pods or kind_of(policy) == CLUSTER_POLICY:
        return
    names = ", ".join(sorted(name_of(pod) for pod in pods)[:SHOWN])
    more = f" and {len(pods) - SHOWN} more" if len(pods) > SHOWN else ""
    title = f"{policy_text(policy)} selects pods on the host network, which are never restricted: {names}{more}"
    evidence = (
        Evidence(
            f"{policy_text(policy)} spec.podSelector", selectors.text((policy.get("spec") or {}).get("podSelector"))
        ),
        Evidence(f"pod {ref(pods[0])} spec.hostNetwork", "true"),
    )
    look = Remedy(f"kubectl -n {namespace_of(policy)} get pods -o wide", NO_EFFECT)
    keys = frozenset((namespace_of(pod), name_of(pod)) for pod in pods)
    yield _about(findings.HOST_NETWORK, policy, title, evidence, (look,), keys)


# ---- Services and DNS


def _services(policy: Json, scope: Scope) -> Iterator[Finding]:
    """Services of which all pods are allowed, and the ClusterIP or its port is not.

    Judged by whole verdicts, so that what another policy allows is allowed: INTENT on the pods, ENDPOINTS on the
    ClusterIP (user pain, rows 6 and 7).
    """
    world = scope.world
    if kind_of(policy) == CLUSTER_POLICY or world.unread("services", "networkpolicies", "applicationnetworkpolicies"):
        return
    pod = next(iter(scope.pods_among(scope.selected(policy))), None)
    if pod is None or pod_ip(pod) is None or not scope.comparable(policy):
        return
    wanted = controller.resolution(policy, world).wanted[Direction.EGRESS]
    allowed = {one.prefix for one in wanted}
    spaces = {one.who.removeprefix("pod ").partition("/")[0] for one in wanted if one.who.startswith("pod ")}
    looked_at = 0
    for space in sorted(spaces):
        for service in world.services_of.get(space, ()):
            if looked_at >= MOST_SERVICES:
                return
            if _all_allowed(service, allowed, world):
                looked_at += 1
                yield from _service(policy, pod, service, scope)


def _all_allowed(service: Json, allowed: set[Network], world: World) -> bool:
    pods = targets.service_pods(service, world) if cluster_ips(service) else []
    addresses = [address for pod in pods if (address := pod_ip(pod)) is not None]
    return bool(addresses) and all(host_network(address) in allowed for address in addresses)


def _service(policy: Json, pod: Json, service: Json, scope: Scope) -> Iterator[Finding]:
    own = pod_ip(pod)
    address = next((a for a in cluster_ips(service) if own is not None and a.version == own.version), None)
    if own is None or address is None:
        return
    for entry in (service.get("spec") or {}).get("ports") or ():
        protocol = PROTOCOL_NUMBERS.get(str(entry.get("protocol") or "TCP"))
        if protocol is None or not isinstance(entry.get("port"), int):
            continue
        legs = service_legs(pod, service, Flow(own, address, protocol, entry["port"]), scope.world)
        if legs is None:
            continue
        intent, resolved, reasons = resolution_verdicts(legs[0], scope.world)
        told = [one for one in reasons if one.code in SERVICE_RULES]
        if intent.decision is Decision.ALLOW and resolved.decision is Decision.DENY and told:
            port = legs[0].ends.flow.port_text
            title = (
                f"pod {ref(pod)} may reach the pods behind service {ref(service)}, and not its ClusterIP {address} on "
                f"{port}: {told[0].text}"
            )
            evidence = (
                Evidence(f"{Layer.INTENT}, the pods behind service {ref(service)}", intent.why),
                Evidence(f"{Layer.ENDPOINTS}, {address} on {port}", resolved.why),
            )
            remedies = (
                _edit(policy, f"add the Service's port, or its ClusterIP {address} as an ipBlock"),
                Remedy(f"kubectl -n {namespace_of(service)} get service {name_of(service)} -o yaml", NO_EFFECT),
            )
            yield _about(findings.SERVICE_DENIED, policy, title, evidence, remedies, scope.selected(policy))
            return


SERVICE_RULES = ("SERVICE_SELECTOR", "SERVICE_PORT", "TARGET_PORT_BYPASS", "CLUSTER_IP", "NAMED_PORT")


def _dns(scope: Scope) -> Iterator[Finding]:
    """Pods with the same PolicyEndpoints ask the same way: one of each is judged."""
    world = scope.world
    if world.unread("policyendpoints", "clusterpolicyendpoints", "services"):
        return
    groups: dict[tuple[int, int, str], list[Json]] = defaultdict(list)
    for pod in scope.pods:
        slices, cluster = endpoints.of_identifier(world, pod), endpoints.cluster_of_identifier(world, pod)
        if pod_ip(pod) is not None and (_restricts(slices) or cluster) and _asks_the_cluster(pod):
            groups[id(slices), id(cluster), node_of(pod) if _on_auto_mode(pod, world) else ""].append(pod)
    for pods in groups.values():
        answers = dns_answers(pods[0], world)
        denied = [answer for answer in answers if answer.allowed is False]
        # Of a Service and its pods the Service counts: nobody has the pods' addresses in resolv.conf.
        first = next((answer for answer in denied if answer.text.startswith("pods ask")), None)
        if first is None or _reaches_another(answers):
            continue
        names = sorted({endpoints.policy_of(one) for one in endpoints.of_identifier(world, pods[0])})
        title = f"{len(pods)} pods such as {ref(pods[0])} may not ask DNS: {first.text}"
        if len(pods) == 1:
            title = f"pod {ref(pods[0])} may not ask DNS: {first.text}"
        evidence = (
            Evidence(f"DNS at {first.address}, 53/UDP and 53/TCP", first.why),
            Evidence("policies of these pods", ", ".join(names[:SHOWN]) or "cluster policies"),
        )
        look = Remedy(
            f"kubectl netpol-ebpf explain {ref(pods[0])} --to {first.address} --port 53/UDP",
            NO_EFFECT,
        )
        edit = Remedy(
            f"kubectl -n {namespace_of(pods[0])} edit networkpolicy {names[0] if names else 'POLICY'}",
            "changes the policy: allow 53/UDP and 53/TCP to kube-dns in its egress rules",
        )
        yield Finding(
            findings.DNS_DENIED,
            title,
            evidence,
            (look, edit),
            subject=f"pod {ref(pods[0])}",
            pods=frozenset((namespace_of(pod), name_of(pod)) for pod in pods),
        )


def _restricts(slices: Any) -> bool:
    """Whether egress is restricted and something is allowed: who may reach nobody needs no names."""
    return bool(slices) and slices.has_entries(Direction.EGRESS)


def _asks_the_cluster(pod: Json) -> bool:
    """Whether the cluster's DNS is in its resolv.conf: not with dnsPolicy Default or None, nor for CoreDNS itself."""
    policy = (pod.get("spec") or {}).get("dnsPolicy") or "ClusterFirst"
    return policy.startswith("ClusterFirst") and labels_of(pod).get("k8s-app") != "kube-dns"


def _reaches_another(answers: Iterable[Any]) -> bool:
    """Whether a NodeLocal DNSCache is there and may be asked: it answers for the Service."""
    return any(answer.text.startswith("NodeLocal") and answer.allowed is True for answer in answers)


# ---- who is restricted at all


def strict(scope: Scope) -> Iterator[Finding]:
    """User pain, row 15: in strict mode every pod needs a policy, CoreDNS too."""
    if scope.cni.mode != "strict" or scope.world.unread(
        "networkpolicies", "applicationnetworkpolicies", "policyendpoints"
    ):
        return
    pods = [pod for pod in scope.pods if not endpoints.of_identifier(scope.world, pod)]
    pods = [pod for pod in pods if not scope.policies_of(pod)]
    if not pods:
        return
    names = ", ".join(sorted(map(ref, pods))[:SHOWN])
    more = f" and {len(pods) - SHOWN} more" if len(pods) > SHOWN else ""
    title = f"the enforcing mode is strict, and no policy selects {names}{more}: all their packets are dropped"
    evidence = (
        Evidence("DaemonSet kube-system/aws-node NETWORK_POLICY_ENFORCING_MODE", "strict"),
        Evidence("policies that select them", "none"),
    )
    look = Remedy(
        f"kubectl -n {namespace_of(pods[0])} get networkpolicies",
        "none: it only reads; then write a policy with ingress and egress rules for these pods",
    )
    keys = frozenset((namespace_of(pod), name_of(pod)) for pod in pods)
    yield Finding(findings.STRICT_UNCOVERED, title, evidence, (look,), subject="cluster", pods=keys)


def not_enforced(scope: Scope) -> Iterator[Finding]:
    """Fargate and Windows have no agent (user pain, row 13), and older agents know no cluster policies."""
    yield from _cluster_policies(scope)
    found: dict[str, list[Json]] = defaultdict(list)
    for pod in scope.pods:
        node = scope.world.nodes.get(node_of(pod))
        where = without_agent(node) if node is not None else ""
        if where and scope.policies_of(pod):
            found[where].append(pod)
    for where, pods in found.items():
        names = ", ".join(sorted(map(ref, pods))[:SHOWN])
        title = f"policies select pods on {where}, where nothing enforces them: {names}"
        on = node_of(pods[0])
        policies = ", ".join(policy_text(policy) for policy in scope.policies_of(pods[0]))
        evidence = (Evidence(f"node {on}", where), Evidence(f"policies that select pod {ref(pods[0])}", policies))
        look = Remedy(f"kubectl get node {on} --show-labels", "none: it only reads; move the pods to EC2 Linux nodes")
        keys = frozenset((namespace_of(pod), name_of(pod)) for pod in pods)
        yield Finding(findings.NOT_ENFORCED_HERE, title, evidence, (look,), subject=f"node {on}", pods=keys)


def _cluster_policies(scope: Scope) -> Iterator[Finding]:
    agent = scope.cni.agent
    if agent is None or agent >= FIRST_WITH_CLUSTER_POLICIES:
        return
    for policy in scope.policies:
        keys = scope.selected(policy)
        if kind_of(policy) != CLUSTER_POLICY or not keys:
            continue
        title = f"{policy_text(policy)} is enforced nowhere: agent {agent} knows no cluster policies"
        evidence = (
            Evidence(policy_text(policy), f"selects {len(keys)} pod{'' if len(keys) == 1 else 's'}"),
            Evidence(
                "DaemonSet kube-system/aws-node", f"agent {agent}, and from {FIRST_WITH_CLUSTER_POLICIES} on it does"
            ),
        )
        yield _about(findings.NOT_ENFORCED_HERE, policy, title, evidence, (UPGRADE,), keys)


def without_agent(node: Json) -> str:
    """What kind of node it is that has no agent; empty where it may have one."""
    labels = labels_of(node)
    info = (node.get("status") or {}).get("nodeInfo") or {}
    kind = labels.get("eks.amazonaws.com/compute-type")
    if kind in ("fargate", "hybrid"):
        # The VPC CNI does not run there (EKS user guide, Fargate and hybrid nodes).
        return "Fargate" if kind == "fargate" else "EKS Hybrid Nodes"
    if "windows" in (labels.get("kubernetes.io/os"), info.get("operatingSystem")):
        return "Windows"
    return ""


def unenforced(name: str, world: World) -> str:
    """Why nothing on a node enforces policies, so that there is nothing to read; empty where something may."""
    node = world.nodes.get(name)
    kind = without_agent(node) if node is not None else ""
    return f"{kind}: nothing enforces policies there" if kind else ""
