"""`check`: which pods, what to read, rows as they come, and the exit code."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import typer

from kubectl_netpol import looking, pages
from kubectl_netpol.diagnose import plan as planning
from kubectl_netpol.diagnose.again import as_seen, confirmed, doubtful, fresh, together
from kubectl_netpol.diagnose.check import RANK, Check, PodRow, Report, asked_pods
from kubectl_netpol.diagnose.findings import KINDS
from kubectl_netpol.diagnose.looks import unsteady
from kubectl_netpol.errors import ExitCode, NetpolError, NodeError, UsageError
from kubectl_netpol.model.finding import Severity, Where
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.options import Common, Way, duration
from kubectl_netpol.policy import selectors, targets
from kubectl_netpol.policy.world import (
    World,
    finished,
    labels_of,
    name_of,
    namespace_of,
    node_of,
    on_host_network,
    phase_of,
    pod_ip,
    ref,
)
from kubectl_netpol.progress import Progress
from kubectl_netpol.report import check as report_form
from kubectl_netpol.report.output import Format, emit, write_text
from kubectl_netpol.source import Live, Source
from kubectl_netpol.verbs import findings_with_flags, session, snapshot_of

Json = dict[str, Any]

POLL_SECONDS = 2.0
TIME_LEFT = 60
"""Seconds before its deadline at which the debug pod of `--wait` is given back, and another one started."""
MOST_HELD = 50
"""Nodes that are looked at a second time; the rest of them is told as it was found."""
API_ONLY = "--api-only: nodes were not read"
IN_FORCE = (Where.ENDPOINTS, Where.PINNED, Where.ATTACHED)
"""Layers of which `--wait` waits until no error is left."""


@dataclass(frozen=True)
class Asked:
    """The flags of `check`, as typed."""

    pod: str = ""
    all_namespaces: bool = False
    selector: str = ""
    node: str = ""
    fail_on: str = "error"
    ignore: tuple[str, ...] = ()
    parallel: int = 4
    wait: str = ""
    api_only: bool = False


def check(common: Common, asked: Asked) -> None:
    """`check`. Ends the process with an exit code."""
    failing = _checked(asked, common)
    with session(common) as (origin, progress):
        if asked.wait:
            code = _waited(origin, asked, common, progress)
        else:
            code = exit_code(_once(origin, asked, common, progress), failing)
    raise typer.Exit(int(code))


def exit_code(found: Report, failing: Sequence[Severity]) -> ExitCode:
    """A finding counts more than what could not be read."""
    if any(one.severity in failing for one in found.findings):
        return ExitCode.DENIED
    return ExitCode.UNDECIDED if found.unread else ExitCode.OK


def _checked(asked: Asked, common: Common) -> tuple[Severity, ...]:
    if asked.fail_on not in ("error", "warning"):
        raise UsageError(f'--fail-on "{asked.fail_on}" is not one of error, warning')
    unknown = [code for code in asked.ignore if code not in KINDS]
    if unknown:
        raise UsageError(f'--ignore "{unknown[0]}" is not a code of a finding, such as NPE306')
    ways = [flag for flag, given in _ways(asked) if given]
    if asked.pod and ways:
        raise UsageError(f"{ways[0]} goes without POD")
    if asked.all_namespaces and (asked.node or common.connection.namespace):
        raise UsageError(f"-A goes without {'--node' if asked.node else '-n'}")
    if asked.wait and not asked.pod:
        raise UsageError("--wait needs a POD to wait for")
    if asked.wait and (common.bundle or asked.api_only):
        raise UsageError("--wait asks the live node: it goes without --bundle and --api-only")
    if asked.wait:
        duration("--wait", asked.wait)
    if common.via is Way.AGENT and asked.wait:
        raise UsageError("--wait goes without --via agent: what is attached stays unknown that way")
    return tuple(one for one in Severity if RANK[one] <= RANK[Severity(asked.fail_on)])


def _ways(asked: Asked) -> tuple[tuple[str, bool], ...]:
    return ("-A", asked.all_namespaces), ("--selector", bool(asked.selector)), ("--node", bool(asked.node))


# ---- what to read


def read_api(origin: Source, asked: Asked, progress: Progress) -> Snapshot:
    """All that checks need of the API: one paged list a kind, policies only of the namespace that is asked about."""
    progress.step("reading policies, pods, services and settings")
    namespace = origin.namespace
    if asked.pod:
        namespace = targets.parse(asked.pod, namespace).namespace or namespace
    everywhere = asked.all_namespaces or bool(asked.node)
    kinds = [*planning.CLUSTER_KINDS, *planning.SETTINGS_KINDS, *planning.DIAGNOSIS_KINDS]
    kinds += planning.OWN_KINDS if everywhere else ()
    collections: dict[str, Collection] = dict(origin.collections(kinds, [namespace]))
    if not everywhere:
        collections.update(origin.of_namespaces(planning.OWN_KINDS, [namespace]))
    return snapshot_of(origin, collections, {})


def asked_for(origin: Source, asked: Asked, world: World, progress: Progress) -> tuple[Json, ...]:
    """The pods that the flags mean. Raises ``UsageError`` where there are none, or where POD is not one."""
    if asked.pod:
        return (_one_pod(origin, asked, world, progress),)
    pods = world.snapshot.items("pods")
    if asked.node:
        node = targets.pick_node(asked.node, world)
        pods = tuple(pod for pod in pods if node_of(pod) == node)
    elif not asked.all_namespaces:
        if origin.namespace not in world.namespaces and world.snapshot.get("namespaces").known:
            raise UsageError(f'namespace "{origin.namespace}" not found')
        pods = tuple(pod for pod in pods if namespace_of(pod) == origin.namespace)
    if asked.selector:
        wanted = selectors.parse(asked.selector)
        pods = tuple(pod for pod in pods if selectors.matches(wanted, labels_of(pod)))
    found = asked_pods(pods)
    if not found:
        rest = f": {len(pods)} are on the host network, have ended or have no address" if pods else ""
        progress.note_once(f"no pods to check{rest}")
    return found


def no_network(pod: Json) -> str:
    """Why no program can be on the way of a pod's packets; empty where one can."""
    if on_host_network(pod):
        return "the pod is on the host network, where no program filters it"
    if not node_of(pod):
        return "the pod is not on a node yet"
    return "" if pod_ip(pod) is not None else f"the pod has no address yet (phase {phase_of(pod) or 'unknown'})"


def _one_pod(origin: Source, asked: Asked, world: World, progress: Progress) -> Json:
    pod, note = targets.pick_pod(asked.pod, origin.namespace, world)
    if note:
        progress.note_once(note)
    if finished(pod):
        raise UsageError(f"pod {ref(pod)} has ended ({phase_of(pod)}): it has no network any more")
    return pod


def requests_of(found: Check) -> Mapping[str, Json]:
    """One request a node, for all its pods and the agent's log."""
    return {node: {**planning.reader_request(pods), "agent": True} for node, pods in found.by_node.items()}


# ---- once


def _once(origin: Source, asked: Asked, common: Common, progress: Progress) -> Report:
    snapshot = read_api(origin, asked, progress)
    world = World(snapshot)
    pods = asked_for(origin, asked, world, progress)
    unfiltered = no_network(pods[0]) if asked.pod else ""
    # Policies do not mean a pod without a network; those of its namespace are looked at for what they say of it.
    whole = not (asked.pod or asked.selector or asked.node) or bool(unfiltered)
    found = Check(world, pods, whole=whole, api_only=asked.api_only, no_network=bool(unfiltered))
    wide = common.output is Format.WIDE
    live = common.output in (Format.TABLE, Format.WIDE) and not asked.pod and not common.machine
    rows = report_form.Rows(((namespace_of(p), name_of(p), node_of(p)) for p in pods), wide)
    if live and pods and not common.no_headers:
        write_text(sys.stdout, rows.header() + "\n")
    held: dict[str, NodeReading] = {}
    # Debug pods are gone before the answer is written: whoever reads it may take his time.
    with (
        looking.held(origin),
        contextlib.closing(_readings(origin, found, asked, progress, unfiltered)) as readings,
    ):
        for number, (node, reading) in enumerate(readings):
            made = found.node(node, reading)
            progress.step(f"{number + 1} of {len(found.by_node)} nodes checked")
            if len(held) < MOST_HELD and isinstance(origin, Live) and may_be_late(found, node, reading, made):
                held[node] = reading
                continue
            looking.release(origin, node)
            if live:
                _write_rows(rows, made, asked, progress)
        report = found.report()
        if held or (doubtful(report.findings) and isinstance(origin, Live)):
            report = look_again(origin, asked, report, held, progress, whole=whole)
    report = _without(report, asked.ignore, common)
    if live:
        _write_rows(rows, [row for row in report.rows if row.node in held], asked, progress)
    if unfiltered:
        key = namespace_of(pods[0]), name_of(pods[0])
        kept = tuple(one for one in report.findings if key in one.pods or one.everywhere)
        report = replace(report, findings=kept)
    progress.done()
    if live:
        write_text(sys.stdout, ("\n" if pods else "") + report_form.after_rows(report, wide) + "\n")
    else:
        print_report(report, asked, common, origin)
    return report


def _write_rows(rows: report_form.Rows, made: Iterable[PodRow], asked: Asked, progress: Progress) -> None:
    progress.pause()
    write_text(sys.stdout, "".join(f"{rows.line(_row_without(row, asked.ignore))}\n" for row in made))


def may_be_late(found: Check, node: str, reading: NodeReading, made: Iterable[PodRow]) -> bool:
    """Whether what a node holds differs from the API's answer, or was not to be told: somebody may be at work. What
    the reader was refused it would be refused again."""
    if reading.document is None:
        return False
    missing = any(row.reason for row in made) and not reading.document["errors"]
    return missing or bool(unsteady(reading)) or doubtful(found.of_node(node))


def look_again(
    origin: Source,
    asked: Asked,
    first: Report,
    held: dict[str, NodeReading],
    progress: Progress,
    *,
    whole: bool,
    ask: Callable[[Check], Mapping[str, Json]] = requests_of,
) -> Report:
    """The API and the nodes once more, and a third time where the second look saw what the first one did not.

    ``held``: the nodes with their first readings; the last ones afterwards. ``ask``: what is asked of each node.
    """
    begun, report, before = time.monotonic_ns(), first, 0
    for last in (False, True):
        progress.step("looking again: what differs may be under way")
        time.sleep(looking.PAUSE_SECONDS)
        since = time.monotonic_ns() - begun
        try:
            later = _second_look(origin, asked, held, progress, whole=whole, ask=ask)
        except NetpolError as error:
            # The pod that was asked about is gone, or the API does not answer any more.
            progress.note(f"warning: no further look: {error.message}")
            return replace(report, in_progress=together(report.in_progress, report.findings))
        if last or not fresh(report, later, held):
            return confirmed(report, later, held, since - before)
        report, before = as_seen(report, later, held, since - before), since
    return report


def _second_look(
    origin: Source,
    asked: Asked,
    held: dict[str, NodeReading],
    progress: Progress,
    *,
    whole: bool,
    ask: Callable[[Check], Mapping[str, Json]],
) -> Report:
    """All that is asked about on the held nodes, read anew. A node that cannot be read again stays as it was."""
    world = World(read_api(origin, asked, progress))
    pods = asked_for(origin, asked, world, progress)
    found = Check(world, pods, whole=whole, api_only=asked.api_only)
    requests = {node: {**one, "thorough": True} for node, one in ask(found).items() if node in held}
    for node, reading in origin.each_node(requests, asked.parallel) if requests else ():
        if reading.document is not None:
            held[node] = reading
        else:
            progress.note(f"warning: node {node} was not looked at again: {reading.reason}")
    for node, reading in held.items():
        found.node(node, reading)
    return found.report()


def _readings(
    origin: Source, found: Check, asked: Asked, progress: Progress, unfiltered: str
) -> Generator[tuple[str, NodeReading], None, None]:
    if asked.api_only or unfiltered:
        yield from ((node, NodeReading(None, unfiltered or API_ONLY)) for node in found.by_node)
        return
    bare = {node: why for node in found.by_node if (why := found.without_agent(node))}
    yield from ((node, NodeReading(None, why)) for node, why in bare.items())
    requests = {node: request for node, request in requests_of(found).items() if node not in bare}
    if requests:
        progress.step(f"reading {len(requests)} node{'' if len(requests) == 1 else 's'}")
    yield from origin.each_node(requests, asked.parallel)


def print_report(report: Report, asked: Asked, common: Common, origin: Source) -> None:
    """The forms that are written when all is known."""
    if common.machine == "junit":
        failing = [one for one in Severity if RANK[one] <= RANK[Severity(asked.fail_on)]]
        write_text(sys.stdout, report_form.as_junit(report, failing))
    elif common.machine == "prometheus":
        write_text(sys.stdout, report_form.as_prometheus(report))
    elif common.machine == "html":
        pages.checked(report, common, origin)
    else:
        emit(
            sys.stdout,
            common.output,
            lambda: report_form.as_data(report),
            lambda wide: _text(report, asked, wide, not common.no_headers),
        )


def _text(report: Report, asked: Asked, wide: bool, headers: bool) -> str:
    if asked.pod:
        return report_form.one_pod(report, wide, headers)
    return report_form.after_rows(report, wide)


def _without(report: Report, ignored: Sequence[str], common: Common) -> Report:
    """Less what `--ignore` names, and with commands that ask the cluster that was asked."""
    kept = findings_with_flags((one for one in report.findings if one.code not in ignored), common)
    gone = tuple(one.code for one in report.findings if one.code in ignored)
    return replace(report, rows=tuple(_row_without(row, ignored) for row in report.rows), findings=kept, ignored=gone)


def _row_without(row: PodRow, ignored: Sequence[str]) -> PodRow:
    return replace(row, codes=tuple(code for code in row.codes if code not in ignored))


# ---- until it is in force


def _waited(origin: Source, asked: Asked, common: Common, progress: Progress) -> ExitCode:
    """Read again and again, through one debug pod, until the policies are in force or the time is over."""
    begun = time.monotonic()
    until = begun + duration("--wait", asked.wait)
    with contextlib.ExitStack() as stack:
        reader = _Held(origin, common, progress, stack)
        while True:
            report = _state(origin, asked, common, progress, reader)
            left, unread = not_in_force(report)
            if not (left or unread) or time.monotonic() + POLL_SECONDS >= until:
                break
            progress.step(f"waiting: {(*left, *unread)[0]}")
            time.sleep(POLL_SECONDS)
    progress.done()
    waited = f"{round(time.monotonic() - begun)}s"
    in_force = False if left else None if unread else True
    words = {True: "in force after", False: "not in force after", None: "not known to be in force after"}
    report = replace(report, in_force=in_force, waited=f"its policies are {words[in_force]} {waited}")
    print_report(report, asked, common, origin)
    if left:
        return ExitCode.DENIED
    return ExitCode.UNDECIDED if unread else ExitCode.OK


def not_in_force(report: Report) -> tuple[list[str], list[str]]:
    """What keeps the policies from being in force on the pod, and what keeps that from being known.

    Neither what the policies mean nor how the CNI is set up is waited for.
    """
    left = [one.title for one in report.findings if one.kind.where in IN_FORCE and one.severity is Severity.ERROR]
    settings = tuple(f"{kind}: " for kind in (*planning.SETTINGS_KINDS, *planning.DIAGNOSIS_KINDS))
    return left, [reason for reason in report.unread if not reason.startswith(settings)]


class _Held:
    """Readings through one debug pod for as long as its deadline allows; a pod on another node gets another one."""

    def __init__(self, origin: Source, common: Common, progress: Progress, stack: contextlib.ExitStack) -> None:
        self.origin, self.common, self.progress, self.stack = origin, common, progress, stack
        self.node, self.until = "", 0.0
        self.read: Callable[[Json], Json] | None = None

    def __call__(self, node: str, request: Json) -> NodeReading:
        from kubectl_netpol.live import held_reader

        if node != self.node or time.monotonic() > self.until:
            self._release()
        try:
            if self.read is None:
                self.read = self.stack.enter_context(held_reader(self.origin, node, self.common, self.progress))
                self.node = node
                self.until = time.monotonic() + max(self.common.deadline - TIME_LEFT, self.common.deadline / 2)
            return NodeReading(self.read(request))
        except NodeError as error:
            self._release()
            return NodeReading(None, error.message + (f" ({error.hint})" if error.hint else ""))

    def _release(self) -> None:
        self.stack.close()
        self.node, self.read = "", None


def _state(origin: Source, asked: Asked, common: Common, progress: Progress, read: _Held) -> Report:
    world = World(read_api(origin, asked, progress))
    pod = _one_pod(origin, asked, world, progress)
    if on_host_network(pod):
        raise NodeError(
            f"pod {ref(pod)} is on the host network: it has no veth, no programs and no maps",
            "NetworkPolicy does not apply to hostNetwork pods",
        )
    if why := no_network(pod):
        return Report((), (), (f"pod {ref(pod)}: {why}",))
    found = Check(world, (pod,), whole=False)
    for node, request in requests_of(found).items():
        found.node(node, read(node, request))
    return _without(found.report(), asked.ignore, common)
