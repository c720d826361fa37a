"""`doctor`: reads the cluster's settings and the user's rights, and starts one debug pod to see whether it can."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import typer

from kubectl_netpol.diagnose import doctor as doctors
from kubectl_netpol.diagnose import plan as planning
from kubectl_netpol.diagnose.checks.intent import without_agent
from kubectl_netpol.errors import ApiError, ConnectionFailed, ExitCode, NodeError, UsageError
from kubectl_netpol.model.doctor import Line, Probe, State
from kubectl_netpol.options import Common, DebugProfile, Way, with_flags
from kubectl_netpol.policy import targets
from kubectl_netpol.policy.shapes import sound
from kubectl_netpol.policy.world import World
from kubectl_netpol.progress import Progress
from kubectl_netpol.report import doctor as report
from kubectl_netpol.report.output import emit
from kubectl_netpol.source import Source
from kubectl_netpol.verbs import findings_with_flags, session, snapshot_of

Json = dict[str, Any]
OF_A_BUNDLE = "a bundle: the user's rights and the debug pod are not looked at"


@dataclass(frozen=True)
class Asked:
    """The flags of `doctor`, as typed."""

    node: str = ""
    api_only: bool = False


def doctor(common: Common, asked: Asked) -> None:
    """`doctor`. Ends the process with an exit code."""
    if common.via is Way.AGENT:
        raise UsageError("doctor goes without --via agent: it is about debug pods")
    if asked.node and (asked.api_only or common.bundle):
        raise UsageError("--node names the node of the debug pod: it goes without --api-only and --bundle")
    with session(common) as (origin, progress):
        progress.step("reading settings, rights, nodes and policies")
        live = not common.bundle
        kinds = [*planning.EVERYTHING, *((planning.RIGHTS,) if live else ())]
        collections = origin.collections(kinds, [origin.namespace])
        snapshot = snapshot_of(origin, collections, {})
        notes, probe = [], None
        if common.bundle:
            notes.append(OF_A_BUNDLE)
        elif asked.api_only:
            notes.append("--api-only: no debug pod was started, and the rights for one are not looked at")
        else:
            probe = _probe(origin, asked.node, World(sound(snapshot)), common, progress)
        made = doctors.lines(snapshot, common.debug_namespace, probe, live=live, api_only=asked.api_only)
        lines = tuple(_with_flags(made, common))
        progress.done()
        emit(
            sys.stdout,
            common.output,
            lambda: report.as_data(lines, notes),
            lambda wide: report.as_text(lines, notes, wide, not common.no_headers),
        )
    raise typer.Exit(int(exit_code(lines)))


def exit_code(lines: Iterable[Line]) -> ExitCode:
    """What failed counts more than what could not be told."""
    states = {one.state for one in lines}
    if State.FAILED in states:
        return ExitCode.DENIED
    return ExitCode.UNDECIDED if State.UNKNOWN in states else ExitCode.OK


def _with_flags(lines: Iterable[Line], common: Common) -> Iterator[Line]:
    for one in lines:
        remedies = tuple(replace(r, command=with_flags(r.command, common)) for r in one.remedies)
        finding = findings_with_flags([one.finding], common)[0] if one.finding is not None else None
        yield replace(one, remedies=remedies, finding=finding)


def _probe(origin: Source, node: str, world: World, common: Common, progress: Progress) -> Probe:
    """One debug pod on the node that was named, or on the first one that is ready."""
    from kubectl_netpol.live import held_reader

    node = targets.pick_node(node, world) if node else node
    node = node or _ready_node(world)
    if not node and world.unread("nodes"):
        return Probe("", common.image, error=world.unread("nodes"), tried=False)
    if not node:
        return Probe("", common.image, error="no node is ready for a debug pod")
    probe = Probe(node, common.image, kept=common.keep, minimal=common.debug_profile is DebugProfile.MINIMAL)
    begun = time.monotonic()
    try:
        with held_reader(origin, node, common, progress) as read:
            probe = replace(probe, seconds=time.monotonic() - begun)
            progress.step(f"reading node {node}")
            return replace(probe, document=read(planning.reader_request([])))
    except (NodeError, ApiError, ConnectionFailed) as error:
        # Whatever it was, the rest of the answer is there.
        return replace(probe, error=error.message, hint=error.hint)


def _ready_node(world: World) -> str:
    return next((name for name, node in sorted(world.nodes.items()) if _ready(node) and not without_agent(node)), "")


def _ready(node: Json) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return all(one.get("status") == "True" for one in conditions if one.get("type") == "Ready")
