"""`doctor`: whether the cluster can enforce NetworkPolicies, and whether the user can read what it does.

What `check` tells as findings about the configuration is told here by topic, with what is right as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.check import asked_pods
from kubectl_netpol.diagnose.checks import config, intent
from kubectl_netpol.diagnose.checks.base import Scope
from kubectl_netpol.diagnose.topics import TOPICS, of_topic, unknown
from kubectl_netpol.model.doctor import Line, Probe, State
from kubectl_netpol.model.finding import NO_EFFECT, Remedy
from kubectl_netpol.model.snapshot import Snapshot
from kubectl_netpol.policy.nodes import kind_of, refused
from kubectl_netpol.policy.shapes import sound
from kubectl_netpol.policy.world import World

Json = dict[str, Any]

EFFECT = "starts one debug pod, which is removed again"
ENFORCE = "pod-security.kubernetes.io/enforce"
RIGHTS = ("rights: API", "rights: debug pod")
NAMES = (*(topic.name for topic in TOPICS), *RIGHTS, "PodSecurity", "debug pod", "reading")
"""All topics, in the order of the answer."""


def lines(
    snapshot: Snapshot, debug_namespace: str, probe: Probe | None, *, live: bool = True, api_only: bool = False
) -> tuple[Line, ...]:
    """Pure. ``probe``: None where no debug pod was started. ``live``: the user of now asked the server. ``api_only``:
    the user wants no debug pod, so rights for one are not missed.

    Objects of any shape are taken: see ``policy.shapes``.
    """
    snapshot = sound(snapshot)
    world = World(snapshot)
    scope = Scope(world, asked_pods(snapshot.items("pods")))
    found = [*config.of_cluster(scope, wanted=True), *config.no_flow_log(scope.cni)]
    told = {one.node for one in found if one.kind is findings.OLD_KERNEL}
    found += [one for one in config.old_kernels(world) if one.node not in told]
    if not world.unread("pods", "namespaces"):
        found += [*intent.strict(scope), *intent.not_enforced(scope)]
    made = [line for topic in TOPICS for line in of_topic(topic, scope, found)]
    made += _rights(snapshot, RIGHTS[:1] if api_only else RIGHTS) if live else ()
    made.append(_pod_security(world, debug_namespace))
    return (*made, *(_of_probe(probe, world) if probe is not None else ()))


# ---- the user's own part


def _rights(snapshot: Snapshot, topics: Iterable[str]) -> Iterator[Line]:
    """Of SelfSubjectAccessReviews: what the user may not."""
    source, found = "SelfSubjectAccessReviews", snapshot.get("accessreviews")
    for topic in topics:
        debug = topic == RIGHTS[1]
        if found.reason:
            yield unknown(topic, source, found.reason)
            continue
        asked = [one for one in found.items if _for_debug_pod(one) is debug]
        missing = [one for one in asked if not (one.get("status") or {}).get("allowed")]
        if not asked:
            yield unknown(topic, source, "the API server was asked for none")
        elif not missing:
            text = "nodes can be read" if debug else "--api-only needs no more"
            yield Line(topic, State.OK, f"all {len(asked)} are there: {text}", source)
        else:
            without = WITHOUT_DEBUG_POD if debug else _gaps(missing)
            text = f"not allowed: {', '.join(map(_right, missing))}; {without}"
            yield Line(topic, State.FAILED, text, source, (_can_i(missing[0]),))


WITHOUT_DEBUG_POD = "maps, conntrack and drops need them, and explain and check go with --api-only alone"
NAMES_OF_ALL = frozenset(("pods", "namespaces", "services", "nodes"))
SETTINGS = frozenset(("events", "daemonsets", "configmaps", "clusterroles"))


def _gaps(missing: Iterable[Json]) -> str:
    """Which verbs say less without these rights (docs/rbac.md)."""
    resources = {str((one.get("spec") or {}).get("resource")) for one in missing}
    if resources & NAMES_OF_ALL:
        return "the answers of all verbs have gaps"
    if resources - SETTINGS:
        return "the answers of explain, check, drops and capture have gaps"
    return "check and capture cannot tell all of the CNI's settings"


def _right(review: Json) -> str:
    """`list daemonsets`: it has no name of its own."""
    return str(review["metadata"].get("name") or "")


def _for_debug_pod(review: Json) -> bool:
    spec = review.get("spec") or {}
    return (spec.get("verb"), spec.get("resource")) == ("get", "nodes") or (
        spec.get("resource") == "pods" and bool(spec.get("namespace"))
    )


def _can_i(review: Json) -> Remedy:
    """As kubectl asks for it."""
    spec = review.get("spec") or {}
    what = ".".join(str(spec[key]) for key in ("resource", "group") if spec.get(key))
    what += f"/{spec['name']}" if spec.get("name") else ""
    flags = [f"--subresource={spec['subresource']}"] if spec.get("subresource") else []
    flags += [f"-n {spec['namespace']}"] if spec.get("namespace") else []
    command = " ".join(("kubectl auth can-i", str(spec.get("verb")), what, *flags))
    return Remedy(command, f"{NO_EFFECT}; docs/rbac.md has the role to ask for")


def _pod_security(world: World, namespace: str) -> Line:
    topic, source = "PodSecurity", f"namespace {namespace}, label {ENFORCE}"
    unread = world.unread("namespaces")
    if unread:
        return unknown(topic, source, unread)
    labels = world.namespaces.get(namespace)
    other = Remedy("kubectl netpol-ebpf doctor --debug-namespace NAMESPACE", EFFECT)
    if labels is None:
        text = f"namespace {namespace}, in which debug pods are made, does not exist"
        return Line(topic, State.FAILED, text, source, (other,))
    level = labels.get(ENFORCE)
    if level in (None, "privileged"):
        said = "enforces privileged" if level else "has no label: what the server has by default cannot be read"
        return Line(topic, State.OK, f"namespace {namespace} {said}", source)
    label = Remedy(
        f"kubectl label namespace {namespace} {ENFORCE}=privileged --overwrite",
        "changes the namespace: whoever may create pods in it may then create privileged ones",
    )
    text = f'namespace {namespace} enforces "{level}": the privileged debug pod is refused there'
    return Line(topic, State.FAILED, text, source, (other, label))


def _of_probe(probe: Probe, world: World) -> Iterator[Line]:
    source = f"a debug pod on node {probe.node}" if probe.node else "nodes in the API"
    remedies = tuple(_ways_on(probe))
    if not probe.tried:
        yield unknown("debug pod", source, f"{probe.error}; --node names a node to try")
        return
    if probe.seconds is None:
        hint = f" ({probe.hint})" if probe.hint else ""
        yield Line("debug pod", State.FAILED, f"{probe.error}{hint}", source, remedies)
        return
    after = "it stays until its deadline (--keep)" if probe.kept else "it is removed again"
    text = f"ran on node {probe.node} after {probe.seconds:.1f} s, with image {probe.image}; {after}"
    yield Line("debug pod", State.OK, text, source)
    if probe.document is None:
        hint = f" ({probe.hint})" if probe.hint else ""
        yield Line("reading", State.FAILED, f"{probe.error}{hint}", source, remedies)
        return
    yield _read(probe, source, world)


FLAGS = {
    "--image": "--image IMAGE",
    "--debug-namespace": "--debug-namespace NAMESPACE",
    "--start-timeout": "--start-timeout 180",
    "--via tools": "--via tools",
    "--debug-profile sysadmin": "--debug-profile sysadmin",
}
"""What a hint may name, and how it is given."""


def _ways_on(probe: Probe) -> Iterator[Remedy]:
    """The flags and commands that the error's hint names; without any a look at the node."""
    node = f" --node {probe.node}" if probe.node else ""
    found = [given for flag, given in FLAGS.items() if flag in probe.hint]
    looks = re.findall(r"`(kubectl [^`\n]+)`", probe.hint)
    yield from (Remedy(f"kubectl netpol-ebpf doctor{node} {one}", EFFECT) for one in found)
    if found:
        return
    what = f"kubectl describe node {probe.node}" if probe.node else "kubectl get nodes"
    yield from (Remedy(one, NO_EFFECT) for one in looks or [what])


def _read(probe: Probe, source: str, world: World) -> Line:
    document = probe.document or {}
    tools = document.get("via") == "tools"
    errors = [one for one in document.get("errors") or () if not (tools and one["what"] == "tcx")]
    if errors:
        node = world.nodes.get(probe.node)
        note = kind_of(node).note if node is not None and refused(errors) else ""
        first = f"{errors[0]['what']}: {errors[0]['error']}"
        more = f" and {len(errors) - 1} more" if len(errors) > 1 else ""
        what = "was refused" if refused(errors) else "could not be read"
        text = f"part of it {what}: {first}{more}{f'; {note}' if note else ''}"
        way = "--selinux-type super_t" if "super_t" in note else "--via python" if tools else "--via tools"
        way = "--debug-profile sysadmin" if probe.minimal and not note else way
        again = Remedy(f"kubectl netpol-ebpf doctor --node {probe.node} {way}", EFFECT)
        return Line("reading", State.FAILED, text, source, (again,))
    seen = "links, tc filters" if tools else "links, tc and tcx hooks"
    pins = len(document.get("pins") or ())
    unseen = "; what is attached by tcx is not seen with --via tools" if tools else ""
    return Line("reading", State.OK, f"{seen}, programs and {pins} pins of node {probe.node}{unseen}", source)
