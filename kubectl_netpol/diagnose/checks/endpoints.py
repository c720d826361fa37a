"""ENDPOINTS: what the controller made of the policies, against what it should have made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.checks.base import PodKey, Scope, key_of, policy_text, resource
from kubectl_netpol.kernel.flowlog import parse_time
from kubectl_netpol.model.finding import NO_EFFECT, Evidence, Finding, Kind, Remedy
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.policy import controller
from kubectl_netpol.policy import endpoints as pe
from kubectl_netpol.policy.resolution import Comparison, Drift
from kubectl_netpol.policy.world import (
    APPLICATION_POLICY,
    CLUSTER_POLICY,
    finished,
    kind_of,
    name_of,
    namespace_of,
    on_host_network,
    pod_ip,
    ref,
)

Json = dict[str, Any]

DRIFTS: dict[str, Kind] = {
    "NO_ENDPOINT": findings.NO_ENDPOINT,
    "SAME_NAME": findings.SAME_NAME,
    "MISSING": findings.ENTRIES_BEHIND,
    "EXTRA": findings.ENTRIES_BEHIND,
    "PORTS": findings.ENTRIES_BEHIND,
    "PODS_MISSING": findings.PODS_BEHIND,
    "PODS_EXTRA": findings.PODS_BEHIND,
    "ISOLATION": findings.SPEC_BEHIND,
    "SELECTOR": findings.SPEC_BEHIND,
    "RANK": findings.SPEC_BEHIND,
}
CHANGED = "networking.k8s.aws/last-change-trigger-time"
FINALIZER = "networking.k8s.aws/resources"


def of_cluster(scope: Scope) -> Iterator[Finding]:
    """Findings about the PolicyEndpoints of the policies that are asked about."""
    for policy in scope.policies:
        yield from _terminating(policy, scope)
        found = scope.comparisons.get(id(policy))
        if found is not None:
            yield from _drifts(found, scope)
            yield from _older(found, scope)
    yield from _left_behind(scope)
    yield from _addresses(scope)


def _drifts(found: Comparison, scope: Scope) -> Iterator[Finding]:
    """One finding a kind: several drifts of one sort have one cause."""
    by_kind: dict[Kind, list[Drift]] = {}
    for drift in found.drifts:
        by_kind.setdefault(DRIFTS[drift.code], []).append(drift)
    if findings.SAME_NAME in by_kind:
        # The PolicyEndpoints are those of the other policy: what differs follows from that.
        by_kind = {findings.SAME_NAME: by_kind[findings.SAME_NAME]}
    if findings.SPEC_BEHIND in by_kind and findings.PODS_BEHIND in by_kind:
        # The pods are those of the earlier selector.
        by_kind[findings.SPEC_BEHIND] += by_kind.pop(findings.PODS_BEHIND)
    for kind, drifts in by_kind.items():
        if kind is findings.SAME_NAME and kind_of(found.policy) != APPLICATION_POLICY and _both(found.policy, scope):
            # Told once, of the one that is easier to rename.
            continue
        made = _drift(found.policy, kind, drifts, scope)
        if made.pods or scope.whole:
            # Of a policy that selects an asked pod, what it lacks may concern others alone.
            yield made


def _both(policy: Json, scope: Scope) -> bool:
    """Whether its namesake of the other kind is asked about, too."""
    return any(one is not policy and ref(one) == ref(policy) for one in scope.policies)


def _drift(policy: Json, kind: Kind, drifts: list[Drift], scope: Scope) -> Finding:
    text = "; ".join(drift.text for drift in drifts)
    slices = pe.of_policy(scope.world, policy)
    names = ", ".join(name_of(one) for one in slices[:3]) or "PolicyEndpoints"
    pods = scope.selected(policy)
    named = frozenset(pod for drift in drifts for pod in drift.pods)
    if kind is findings.PODS_BEHIND:
        pods = frozenset(named & scope.keys)
    return Finding(
        kind,
        f"{policy_text(policy)}: {text}",
        (Evidence(policy_text(policy), _wanted(policy, scope)), Evidence(names, _held(slices))),
        _same_name(policy) if kind is findings.SAME_NAME else _remedies(policy, slices),
        subject=f"policy {ref(policy)}",
        pods=pods | (named & scope.keys),
        parts=frozenset(part for drift in drifts for part in _parts(drift)),
    )


def _parts(drift: Drift) -> frozenset[str]:
    """Entries or pods, each with how it differs; of what is one whole that alone."""
    items = drift.items | {f"{ns}/{name}" for ns, name in drift.pods}
    return frozenset(f"{drift.code} {item}" for item in items or ("",))


def _wanted(policy: Json, scope: Scope) -> str:
    """`generation 3: 2 ingress and 0 egress entries for 4 pods`."""
    found = controller.resolution(policy, scope.world)
    pods = sum(
        pod_ip(pod) is not None and not (finished(pod) or on_host_network(pod))
        for pod in controller.subjects(policy, scope.world)
    )
    return f"generation {policy['metadata'].get('generation') or 'not known'}: {_counts(found.wanted, pods)}"


def _held(slices: list[Json]) -> str:
    if not slices:
        return "none has its name in spec.policyRef"
    entries = {side: [e for one in slices for e in (one.get("spec") or {}).get(side) or ()] for side in Direction}
    changed = max(map(_changed, slices), default="")
    text = _counts(entries, len({pod for one in slices for pod in pe.lists(one)}))
    return f"{text}{f'; last change {changed}' if changed else ''}"


def _counts(entries: Mapping[Direction, Sized], pods: int) -> str:
    sides = " and ".join(f"{len(entries.get(side, ()))} {side}" for side in Direction)
    return f"{sides} entries for {pods} pod{'' if pods == 1 else 's'}"


def _same_name(policy: Json) -> tuple[Remedy, ...]:
    """Only a new name helps: the controller finds PolicyEndpoints by name."""
    return (
        Remedy(
            f"kubectl get {resource(policy)} -o yaml",
            "none: it only reads; apply it under another name, and wait for its PolicyEndpoints before the next step",
        ),
        Remedy(f"kubectl delete {resource(policy)}", "the policy of this name and kind is gone; the other one stays"),
    )


def _changed(endpoint: Json) -> str:
    return str((endpoint["metadata"].get("annotations") or {}).get(CHANGED) or "")


def _remedies(policy: Json, slices: list[Json]) -> tuple[Remedy, ...]:
    kind = "clusterpolicyendpoints" if kind_of(policy) == CLUSTER_POLICY else "policyendpoints"
    place = "" if kind_of(policy) == CLUSTER_POLICY else f" -n {namespace_of(policy)}"
    touch = Remedy(
        f'kubectl annotate {resource(policy)} netpol-ebpf/touched="$(date +%s)" --overwrite',
        "adds an annotation to the policy: the controller resolves it anew",
    )
    if not slices:
        look = Remedy(f"kubectl describe {resource(policy)}", "none: it only reads; events tell of refused objects")
        return (Remedy("kubectl netpol-ebpf doctor --api-only", NO_EFFECT), look, touch)
    names = " ".join(name_of(one) for one in slices[:5])
    drop = Remedy(
        f"kubectl{place} delete {kind} {names}",
        "until the controller makes them again the pods are not restricted by this policy; AWS advises against it",
    )
    return (touch, drop)


def _older(found: Comparison, scope: Scope) -> Iterator[Finding]:
    """An older controller made it, by rules under which something is lost."""
    if not found.release or found.drifts:
        return
    policy = found.policy
    yield Finding(
        findings.OLDER_CONTROLLER,
        f"{policy_text(policy)}: {found.release}",
        (
            Evidence(policy_text(policy), "all of its rules, as newer controllers resolve them"),
            Evidence("its PolicyEndpoints", found.release),
        ),
        (
            Remedy(
                "aws eks describe-cluster --name CLUSTER --query cluster.platformVersion",
                "none: it only reads; the controller comes with the platform version, which AWS updates",
            ),
        ),
        subject=f"policy {ref(policy)}",
        pods=scope.selected(policy),
    )


def _terminating(policy: Json, scope: Scope) -> Iterator[Finding]:
    metadata = policy["metadata"]
    since = metadata.get("deletionTimestamp")
    held = [str(one) for one in metadata.get("finalizers") or ()]
    if not since or FINALIZER not in held or _just_now(str(since), scope):
        return
    yield Finding(
        findings.TERMINATING,
        f"{policy_text(policy)} is being deleted since {since}, and still applies: the controller has not let it go",
        (
            Evidence(f"{policy_text(policy)} metadata.deletionTimestamp", str(since)),
            Evidence(f"{policy_text(policy)} metadata.finalizers", ", ".join(held)),
        ),
        (
            Remedy("kubectl netpol-ebpf doctor --api-only", NO_EFFECT),
            Remedy(
                f'kubectl patch {resource(policy)} --type=merge -p \'{{"metadata":{{"finalizers":null}}}}\'',
                "the policy goes at once; its PolicyEndpoints may stay behind and go on being enforced",
            ),
        ),
        subject=f"policy {ref(policy)}",
        pods=scope.selected(policy),
    )


GRACE_SECONDS = 60.0


def _just_now(since: str, scope: Scope) -> bool:
    """Whether the deletion is younger than what the controller may take for it."""
    begun, read = parse_time(since), parse_time(scope.world.snapshot.taken_at)
    return begun is not None and read is not None and 0 <= read - begun < GRACE_SECONDS


def _left_behind(scope: Scope) -> Iterator[Finding]:
    """PolicyEndpoints of policies that are not there, as far as they list a pod that is asked about."""
    world = scope.world
    kinds = ("networkpolicies", "applicationnetworkpolicies", "clusternetworkpolicies")
    if world.unread(*kinds):
        return
    for cluster, collection in ((False, "policyendpoints"), (True, "clusterpolicyendpoints")):
        known = _known(scope, cluster=cluster)
        gone: dict[tuple[str, str], list[Json]] = {}
        for endpoint in world.snapshot.items(collection):
            place = "" if cluster else namespace_of(endpoint)
            if (place, pe.policy_of(endpoint)) not in known:
                gone.setdefault((place, pe.policy_of(endpoint)), []).append(endpoint)
        for (place, name), slices in gone.items():
            pods = frozenset(pod for one in slices for pod in pe.lists(one)) & scope.keys
            if pods or scope.whole:
                yield _gone(place, name, slices, pods, collection)


def _known(scope: Scope, *, cluster: bool) -> set[tuple[str, str]]:
    world = scope.world
    if cluster:
        return {("", name_of(policy)) for policy in world.cluster_policies}
    spaces = [*world.policies_of.values(), *world.application_policies_of.values()]
    return {(namespace_of(policy), name_of(policy)) for found in spaces for policy in found}


def _gone(place: str, name: str, slices: list[Json], pods: frozenset[PodKey], kind: str) -> Finding:
    names = ", ".join(name_of(one) for one in slices[:3])
    where = f"{place}/{name}" if place else name
    listed = sum(1 for one in slices for _ in pe.lists(one))
    count = f"{listed} pod{'' if listed == 1 else 's'}"
    return Finding(
        findings.LEFT_BEHIND,
        f"PolicyEndpoint {names} is still enforced on {count}, and its policy {where} does not exist",
        (
            Evidence(f"{kind} {names} spec.policyRef", where),
            Evidence("policies in the API", f"none of that name{f' in namespace {place}' if place else ''}"),
        ),
        (
            Remedy(
                f"kubectl{f' -n {place}' if place else ''} delete {kind} {names.replace(',', '')}",
                "its pods are no longer restricted by it; AWS advises against deleting those of live policies",
            ),
        ),
        subject=f"policy {where}",
        pods=pods,
    )


def _addresses(scope: Scope) -> Iterator[Finding]:
    """Pods that are listed by an address that is not theirs: the agent finds them by name, their peers do not."""
    if scope.world.unread("policyendpoints"):
        return
    for pod in scope.pods:
        wrong = "" if finished(pod) else pe.stale_address(scope.world, pod)
        if not wrong:
            continue
        own = str((pod.get("status") or {}).get("podIP") or "none yet")
        yield Finding(
            findings.WRONG_ADDRESS,
            f"pod {ref(pod)} has the address {own}, and PolicyEndpoints list it as {wrong}",
            (Evidence(f"pod {ref(pod)} status.podIP", own), Evidence("podSelectorEndpoints", wrong)),
            (
                Remedy(
                    f"kubectl -n {namespace_of(pod)} get policyendpoints -o yaml",
                    "none: it only reads; lastTransitionTime and the annotation of the last change tell how late it is",
                ),
            ),
            subject=f"pod {ref(pod)}",
            pods=frozenset({key_of(pod)}),
        )
