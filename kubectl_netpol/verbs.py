"""What each verb does: source -> plan -> snapshot -> pure answer -> report -> exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import typer

from kubectl_netpol import __version__, bundle, looking, pages
from kubectl_netpol.diagnose import asking, looks
from kubectl_netpol.diagnose import explain as explainer
from kubectl_netpol.diagnose import plan as planning
from kubectl_netpol.diagnose.flows import FlowReport, flows_of
from kubectl_netpol.diagnose.layers import node_differences, node_views, pod_kernel
from kubectl_netpol.errors import ExitCode, NetpolError, NodeError, UsageError
from kubectl_netpol.manifests import read_policies
from kubectl_netpol.model.asked import Asked, FollowUp
from kubectl_netpol.model.finding import Finding, InProgress
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import Difference, PodKernel
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.options import Common, Way, with_flags
from kubectl_netpol.policy import nodes as node_kinds
from kubectl_netpol.policy.changes import Changes, imagine
from kubectl_netpol.policy.world import World, node_of, on_host_network, ref
from kubectl_netpol.progress import Progress
from kubectl_netpol.report import explain as explain_report
from kubectl_netpol.report import flows as flows_report
from kubectl_netpol.report import maps as maps_report
from kubectl_netpol.report.output import emit
from kubectl_netpol.source import Live, Source

Json = dict[str, Any]

EXIT_CODES = {
    Decision.ALLOW: ExitCode.OK,
    Decision.DENY: ExitCode.DENIED,
    Decision.UNKNOWN: ExitCode.UNDECIDED,
    Decision.NONE: ExitCode.OK,
}


def explain(
    common: Common, question: planning.Question, files: Sequence[str] = (), without: Sequence[str] = ()
) -> None:
    """`explain`. Ends the process with the verdict's exit code. ``files``: `-f`; ``without``: `--without`."""
    if question.ask_kernel and common.bundle:
        raise UsageError("--ask-kernel needs the live node: a bundle has no program to ask")
    if question.ask_kernel and common.via is not Way.PYTHON:
        raise UsageError("--ask-kernel needs --via python: tc and aws-eks-na-cli cannot run a program")
    if question.ask_kernel and (question.api_only or files or without):
        raise UsageError("--ask-kernel asks the programs of now: it goes without --api-only, -f and --without")
    if question.source_port is not None and (files or without):
        raise UsageError("--source-port is about one established flow: -f and --without list those that are cut")
    if question.source_port is not None and question.api_only:
        raise UsageError("--source-port asks conntrack, which --api-only does not read")
    with session(common) as (origin, progress):
        applied, others = read_policies(files, origin.namespace)
        for other in others:
            progress.note(f"note: {other} is not a policy: left alone")
        changes = Changes(applied, tuple(without), tuple(files))
        found, plan, snapshot = _explained(origin, question, changes, progress)
        told = findings_with_flags(found.findings, common)
        found = replace(found, next_step=with_flags(found.next_step, common), findings=told)
        progress.done()
        warnings = tuple(_warnings(plan, snapshot, found))
        for warning in warnings:
            progress.note(f"warning: {warning}")
        if common.machine == "html":
            pages.explained(found, common, origin, warnings)
        else:
            emit(
                sys.stdout,
                common.output,
                lambda: explain_report.as_data(found),
                lambda wide: explain_report.as_text(found, wide, not common.no_headers),
            )
    raise typer.Exit(int(EXIT_CODES[found.decision]))


def explained(origin: Source, question: planning.Question, progress: Progress) -> explainer.Explanation:
    """The answer about what is there, settled where it can be looked at again."""
    return _explained(origin, question, Changes((), (), ()), progress)[0]


def _explained(
    origin: Source, question: planning.Question, changes: Changes, progress: Progress
) -> tuple[explainer.Explanation, planning.Plan, Snapshot]:
    namespaces = changes.namespaces(origin.namespace)
    # Of a live cluster it is what is there now that has to have settled, before it is changed in thought.
    once = not isinstance(origin, Live)

    def look(thorough: bool) -> looking.Look[tuple[planning.Plan, explainer.Explanation]]:
        plan, snapshot = read_question(origin, question, progress, namespaces, thorough=thorough)
        later = imagine(snapshot, changes, origin.namespace) if changes and once else None
        found = explainer.explain(plan, snapshot, later)
        return looking.Look((plan, found), looks.of_explanation(found, snapshot), snapshot)

    settled, seen = looking.until_settled(origin, look, progress)
    snapshot, (plan, found) = settled.snapshot, settled.answer
    found = looks.settled(found, seen)
    if changes and not once:
        after = explainer.explain(plan, snapshot, imagine(snapshot, changes, origin.namespace))
        found = replace(after, in_progress=found.in_progress)
    return found, plan, snapshot


def findings_with_flags(found: Iterable[Finding], common: Common) -> tuple[Finding, ...]:
    """With commands that ask the cluster that was asked."""
    return tuple(
        replace(one, remedies=tuple(replace(r, command=with_flags(r.command, common)) for r in one.remedies))
        for one in found
    )


def _warnings(plan: planning.Plan, snapshot: Snapshot, found: explainer.Explanation) -> Iterator[str]:
    if plan.reads and all(reading.document is None for reading in snapshot.nodes.values()):
        yield (
            "no node was read: the answer is from the API objects alone, and what the kernel does is unknown; "
            "--api-only asks for no more"
        )
    for node in found.unread:
        yield f"node {node}"
    yield from asking.left_behind(snapshot.nodes)
    for node in plan.skipped_nodes:
        yield f"node {node} was not read: at most {planning.MOST_NODES} nodes a question"


def maps(common: Common, pod: str, directions: tuple[Direction, ...]) -> None:
    """`maps`. Raises ``NodeError`` where the node could not be read: there is nothing else to show."""
    with session(common) as (origin, progress):
        found, kernel, world, odd, moved = read_maps(origin, pod, directions, progress)
        progress.done()
        emit(
            sys.stdout,
            common.output,
            lambda: maps_report.as_data(found, kernel, directions, world, odd, moved),
            lambda wide: maps_report.as_text(found, kernel, directions, world, wide, not common.no_headers, odd, moved),
        )
    if kernel.ifindex is None or any(kernel.directions[direction].reason for direction in directions):
        raise typer.Exit(int(ExitCode.UNDECIDED))


def conntrack(common: Common, pod: str, directions: tuple[Direction, ...]) -> None:
    """`conntrack`: established flows and what the rules of now say of them."""
    with session(common) as (origin, progress):
        asked, kernel, found = read_flows(origin, pod, directions, progress)
        progress.done()
        emit(
            sys.stdout,
            common.output,
            lambda: flows_report.as_data(asked, found),
            lambda wide: flows_report.as_text(asked, found, wide, not common.no_headers),
        )
    if found.unread or found.undecided or kernel.ifindex is None:
        raise typer.Exit(int(ExitCode.UNDECIDED))


def read_maps(
    origin: Source, pod: str, directions: tuple[Direction, ...], progress: Progress
) -> tuple[Json, PodKernel, World, tuple[Difference, ...], tuple[InProgress, ...]]:
    """(the pod, its part of the node, names, what is odd on the whole node, what was under way)."""

    def look(thorough: bool) -> looking.Look[tuple[planning.Plan, PodKernel, tuple[Difference, ...]]]:
        plan, snapshot, kernel = _read_pod(origin, pod, directions, progress, thorough=thorough)
        node = node_of(plan.pod)
        odd = node_differences(node, World(snapshot), node_views(snapshot)[node])
        return looking.Look((plan, kernel, odd), looks.of_kernel(kernel, odd, snapshot), snapshot)

    settled, seen = looking.until_settled(origin, look, progress)
    plan, kernel, odd = settled.answer
    return plan.pod, kernel, World(settled.snapshot), odd, looks.moved(seen)


def read_flows(
    origin: Source, pod: str, directions: tuple[Direction, ...], progress: Progress
) -> tuple[Json, PodKernel, FlowReport]:
    """(the pod, its part of the node, its established flows)."""
    plan, snapshot, kernel = _read_pod(origin, pod, directions, progress)
    return plan.pod, kernel, flows_of(plan.pod, kernel, directions, World(snapshot))


def _read_pod(
    origin: Source, pod: str, directions: tuple[Direction, ...], progress: Progress, *, thorough: bool = False
) -> tuple[planning.Plan, Snapshot, PodKernel]:
    """The pod's part of its node's kernel, for verbs that have nothing to show without it."""
    question = planning.Question(pod, directions)
    progress.step("reading pods and services")
    collections = origin.collections(planning.NAMES, planning.namespaces_of(question, origin.namespace))
    plan = planning.make_plan(question, origin.namespace, World(Snapshot(collections)))
    snapshot = _with_nodes(origin, plan, collections, progress, {"thorough": thorough})
    if on_host_network(plan.pod):
        raise NodeError(
            f"pod {ref(plan.pod)} is on the host network: it has no veth, no programs and no maps",
            "NetworkPolicy does not apply to hostNetwork pods",
        )
    kernel = pod_kernel(plan.pod, node_views(snapshot))
    if kernel is None:
        raise not_read(node_of(plan.pod), snapshot.nodes[node_of(plan.pod)])
    return plan, snapshot, kernel


def read_question(
    origin: Source,
    question: planning.Question,
    progress: Progress,
    more: Iterable[str] = (),
    *,
    thorough: bool = False,
) -> tuple[planning.Plan, Snapshot]:
    """All that a question about policies needs. ``more``: further namespaces whose policies it is about."""
    namespaces = tuple(dict.fromkeys((*planning.namespaces_of(question, origin.namespace), *more)))
    progress.step("reading policies, pods and services")
    collections = dict(origin.collections((*planning.CLUSTER_KINDS, *planning.SETTINGS_KINDS), namespaces))
    plan = planning.make_plan(question, origin.namespace, World(Snapshot(collections)))
    judged = tuple(dict.fromkeys((*planning.judged_namespaces(plan), *more)))
    collections.update(origin.of_namespaces(planning.OWN_KINDS, judged))
    return plan, _with_nodes(origin, plan, collections, progress, {"agent": True, "thorough": thorough})


def _with_nodes(
    origin: Source,
    plan: planning.Plan,
    collections: Mapping[str, Collection],
    progress: Progress,
    more: Mapping[str, Any] | None = None,
) -> Snapshot:
    """``more``: what else the reader is asked for, beside what the plan needs."""
    for note in plan.notes:
        progress.note_once(note)
    requests = {node: {**planning.reader_request(pods), **(more or {})} for node, pods in plan.reads.items()}
    if requests:
        progress.step(f"reading node {', '.join(requests)}")
    follow: FollowUp | None = None
    if plan.question.ask_kernel:

        def follow(node: str, document: Json) -> Iterable[Asked]:
            return asking.to_ask(plan.legs, node, document)

    nodes = origin.nodes(requests, follow) if requests else {}
    for name, reading in nodes.items():
        _hint(name, reading, World(Snapshot(collections)), progress)
    return snapshot_of(origin, collections, nodes)


def _hint(name: str, reading: NodeReading, world: World, progress: Progress) -> None:
    """A node whose kernel refused the debug pod says how to get further, once."""
    node, errors = world.nodes.get(name), (reading.document or {}).get("errors") or []
    if node is not None and node_kinds.refused(errors):
        kind = node_kinds.kind_of(node)
        if kind.note:
            progress.note_once(f"warning: node {name} ({kind.name}) refused part of the reading: {kind.note}")


def snapshot_of(origin: Source, collections: Mapping[str, Collection], nodes: Mapping[str, Any]) -> Snapshot:
    return Snapshot(collections, nodes, origin.taken_at, origin.tool_version or __version__, origin.namespace)


def not_read(node: str, reading: NodeReading) -> NodeError:
    """For verbs that have nothing to show without the node. Errors of a live node name it, or the pod on it."""
    return NodeError(reading.message or f"node {node}: {reading.reason}", reading.hint)


@contextmanager
def session(common: Common) -> Iterator[tuple[Source, Progress]]:
    progress = Progress()
    try:
        yield _open(common, progress), progress
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError) as error:
        # Objects of a cluster or a bundle are not trusted to have the shape that their kind promises.
        if os.environ.get("NETPOL_EBPF_DEBUG"):
            raise
        where = f"{common.bundle}: " if common.bundle else ""
        raise NetpolError(
            f"{where}an object that was read does not have the shape of its kind ({type(error).__name__}: {error})",
            "NETPOL_EBPF_DEBUG=1 shows where",
        ) from error
    finally:
        progress.done()


def _open(common: Common, progress: Progress) -> Source:
    if common.bundle:
        origin = bundle.BundleSource(common.bundle, common.connection.namespace)
        how = ", redacted: names and addresses stand for others" if origin.snapshot.redacted else ""
        progress.note(f"from {common.bundle}, taken {origin.taken_at}{how}")
        return origin
    from kubectl_netpol.live import open_cluster

    return open_cluster(common, progress)
