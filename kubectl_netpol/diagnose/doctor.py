"""`doctor`: whether the cluster can enforce NetworkPolicies, and whether the user can read what it does.

What `check` tells as findings about the configuration is told here by topic, with what is right as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubectl_netpol.diagnose.check import asked_pods
from kubectl_netpol.diagnose.checks import config, intent
from kubectl_netpol.diagnose.checks.base import Scope
from kubectl_netpol.diagnose.topics import TOPICS, of_topic, unknown
from kubectl_netpol.model.doctor import Line, Probe, State
from kubectl_netpol.model.finding import NO_EFFECT, Remedy
from kubectl_netpol.model.snapshot import Snapshot
from kubectl_netpol.policy.nodes import kind_of, refused
from kubectl_netpol.policy.world import World, name_of

Json = dict[str, Any]

ENFORCE = "pod-security.kubernetes.io/enforce"
RIGHTS = ("rights: API", "rights: debug pod")
NAMES = (*(topic.name for topic in TOPICS), *RIGHTS, "PodSecurity", "debug pod", "reading")
"""All topics, in the order of the answer."""


def lines(snapshot: Snapshot, debug_namespace: str, probe: Probe | None, *, live: bool = True) -> tuple[Line, ...]:
    """Pure. ``probe``: None where no debug pod was started. ``live``: the user of now asked the server."""
    world = World(snapshot)
    scope = Scope(world, asked_pods(snapshot.items("pods")))
    found = [*config.of_cluster(scope, wanted=True), *config.no_flow_log(scope.cni)]
    if not world.unread("pods", "namespaces"):
        found += [*intent.strict(scope), *intent.not_enforced(scope)]
    made = [line for topic in TOPICS for line in of_topic(topic, scope, found)]
    made += _rights(snapshot) if live else ()
    made.append(_pod_security(world, debug_namespace))
    return (*made, *(_of_probe(probe, world) if probe is not None else ()))


# ---- the user's own part


def _rights(snapshot: Snapshot) -> Iterator[Line]:
    """Of SelfSubjectAccessReviews: what the user may not."""
    source, found = "SelfSubjectAccessReviews", snapshot.get("accessreviews")
    for topic, debug in zip(RIGHTS, (False, True), strict=True):
        if found.reason:
            yield unknown(topic, source, found.reason)
            continue
        asked = [one for one in found.items if _for_debug_pod(one) is debug]
        missing = [one for one in asked if not (one.get("status") or {}).get("allowed")]
        if not missing:
            yield Line(topic, State.OK, f"all {len(asked)} are there", source)
            continue
        without = "without them check and explain go with --api-only alone" if debug else "answers have gaps without"
        text = f"not allowed: {', '.join(map(name_of, missing))}; {without}"
        yield Line(topic, State.FAILED, text, source, (_can_i(missing[0]),))


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
    other = Remedy(
        "kubectl netpol-ebpf doctor --debug-namespace NAMESPACE", "starts one debug pod there and removes it"
    )
    if labels is None:
        text = f"namespace {namespace}, in which debug pods are made, does not exist"
        return Line(topic, State.FAILED, text, source, (other,))
    level = labels.get(ENFORCE)
    if level in (None, "privileged"):
        said = f'enforces "{level}"' if level else "has no level of its own"
        return Line(topic, State.OK, f"namespace {namespace} {said}: privileged pods are admitted", source)
    label = Remedy(
        f"kubectl label namespace {namespace} {ENFORCE}=privileged --overwrite",
        "changes the namespace: whoever may create pods in it may then create privileged ones",
    )
    text = f'namespace {namespace} enforces "{level}": the privileged debug pod is refused there'
    return Line(topic, State.FAILED, text, source, (other, label))


def _of_probe(probe: Probe, world: World) -> Iterator[Line]:
    source = f"a debug pod on node {probe.node}" if probe.node else "nodes in the API"
    remedies = (Remedy(_try_again(probe), "starts one debug pod and removes it"),)
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


def _try_again(probe: Probe) -> str:
    node = f" --node {probe.node}" if probe.node else ""
    return f"kubectl netpol-ebpf doctor{node} --image IMAGE"


def _read(probe: Probe, source: str, world: World) -> Line:
    document = probe.document or {}
    errors = document.get("errors") or []
    if errors:
        node = world.nodes.get(probe.node)
        note = kind_of(node).note if node is not None and refused(errors) else ""
        first = f"{errors[0]['what']}: {errors[0]['error']}"
        more = f" and {len(errors) - 1} more" if len(errors) > 1 else ""
        text = f"part of it was refused: {first}{more}{f'; {note}' if note else ''}"
        again = Remedy(f"kubectl netpol-ebpf doctor --node {probe.node} --via tools", "starts a debug pod")
        return Line("reading", State.FAILED, text, source, (again,))
    pins = len(document.get("pins") or ())
    return Line("reading", State.OK, f"links, tc filters, programs and {pins} pins of node {probe.node}", source)
