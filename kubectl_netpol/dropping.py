"""`drops`: the agent's flow log of the pod's node, once or as it grows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import typer

from kubectl_netpol.diagnose import plan as planning
from kubectl_netpol.diagnose.drops import DropReport, DropRow, Kind, log_request, on_the_node
from kubectl_netpol.diagnose.drops import drops as judged
from kubectl_netpol.errors import ExitCode, NodeError, UsageError
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.options import Common, Way, duration, with_flags
from kubectl_netpol.policy.world import World, node_of, on_host_network, ref
from kubectl_netpol.progress import Progress
from kubectl_netpol.report import drops as report
from kubectl_netpol.report.output import Format, emit, json_text, yaml_text
from kubectl_netpol.source import Source
from kubectl_netpol.verbs import not_read, session, snapshot_of

Json = dict[str, Any]

POLL_SECONDS = 2.0
MOST_LINES = 20_000
TIME_LEFT = 60
"""Seconds before its deadline at which the debug pod of `--follow` is given back, and another one started."""


@dataclass(frozen=True)
class Asked:
    """The flags of `drops`, as typed."""

    pod: str
    since: str = "1h"
    everything: bool = False
    """--all"""
    follow: bool = False


def drops(common: Common, asked: Asked) -> None:
    """`drops`. Ends the process with an exit code."""
    if common.via is not Way.PYTHON:
        raise UsageError("drops needs --via python: the log is read by the script in the debug pod")
    if asked.follow and common.bundle:
        raise UsageError("--follow needs the live node: the log of a bundle does not grow")
    seconds = duration("--since", asked.since)
    with session(common) as (origin, progress):
        logged = _Logged(origin, asked, seconds, progress)
        if asked.follow:
            _follow(logged, common, progress)
            raise typer.Exit(int(ExitCode.UNDECIDED))
        found = logged.once()
        found = replace(found, rows=tuple(_with_flags(found.rows, common)))
        progress.done()
        emit(
            sys.stdout,
            common.output,
            lambda: report.as_data(found),
            lambda wide: report.as_text(found, wide, not common.no_headers),
        )
    raise typer.Exit(int(exit_code(found)))


def once(origin: Source, asked: Asked, progress: Progress) -> DropReport:
    """What there is now."""
    return _Logged(origin, asked, duration("--since", asked.since), progress).once()


def exit_code(found: DropReport) -> ExitCode:
    """What is still denied counts more than what could not be judged."""
    if found.of_kind(Kind.STILL_DENIED):
        return ExitCode.DENIED
    return ExitCode.UNDECIDED if found.undecided else ExitCode.OK


def _with_flags(rows: Iterable[DropRow], common: Common) -> Iterator[DropRow]:
    return (replace(row, why=with_flags(row.why, common)) for row in rows)


class _Logged:
    """The API's part of the question, and what a document of the node means with it."""

    def __init__(self, origin: Source, asked: Asked, seconds: float, progress: Progress) -> None:
        self.origin, self.asked, self.seconds, self.progress = origin, asked, seconds, progress
        question = planning.Question(asked.pod)
        self.namespaces = planning.namespaces_of(question, origin.namespace)
        progress.step("reading policies, pods, services and settings")
        self.collections = self._collections()
        plan = planning.make_plan(question, origin.namespace, World(Snapshot(self.collections)))
        for note in plan.notes:
            progress.note(note)
        if on_host_network(plan.pod):
            raise NodeError(
                f"pod {ref(plan.pod)} is on the host network: it has no veth, no programs and no maps",
                "NetworkPolicy does not apply to hostNetwork pods",
            )
        self.pod, self.node = plan.pod, node_of(plan.pod)

    def _collections(self) -> Mapping[str, Collection]:
        kinds = (*planning.CLUSTER_KINDS, *planning.SETTINGS_KINDS)
        found = dict(self.origin.collections(kinds, self.namespaces))
        found.update(self.origin.of_namespaces(planning.OWN_KINDS, self.namespaces))
        return found

    def request(self) -> Json:
        world = World(Snapshot(self.collections))
        log = log_request([self.pod], world, seconds=self.seconds, everything=self.asked.everything, most=MOST_LINES)
        return {**planning.reader_request([self.pod]), "log": log}

    def once(self) -> DropReport:
        self.progress.step(f"reading node {self.node}")
        reading = self.origin.nodes({self.node: self.request()})[self.node]
        if reading.document is None:
            raise not_read(self.node, reading)
        return self.judge(reading.document)

    def judge(self, document: Json) -> DropReport:
        nodes = {self.node: NodeReading(document)}
        snapshot = snapshot_of(self.origin, self.collections, nodes)
        return judged(self.pod, snapshot, seconds=self.seconds, everything=self.asked.everything)

    def refresh(self) -> None:
        """The objects as they are now: rules may have changed while the log was watched."""
        self.collections = self._collections()


# ---- as it grows


def _follow(logged: _Logged, common: Common, progress: Progress) -> None:
    """Until Ctrl-C; one debug pod for as long as its deadline allows, then the next one."""
    from kubectl_netpol.live import held_reader

    followed = _Followed(logged, common, progress)
    while not followed.ended:
        with held_reader(logged.origin, logged.node, common, progress) as read:
            progress.step(f"reading node {logged.node}")
            followed.watch(read)


class _Followed:
    """What has been printed, and where the next reading goes on."""

    def __init__(self, logged: _Logged, common: Common, progress: Progress) -> None:
        self.logged, self.common, self.progress = logged, common, progress
        self.request = logged.request()
        self.begun = self.ended = False
        self.told: set[str] = set()

    def watch(self, read: Callable[[Json], Json]) -> None:
        """Poll through one debug pod, until it is about to end or has ended. A pod that never answered is an error."""
        until = time.monotonic() + max(self.common.deadline - TIME_LEFT, self.common.deadline / 2)
        answered = False
        while time.monotonic() < until and not self.ended:
            try:
                document = read(self.request)
            except NodeError:
                if not answered:
                    raise
                return
            answered = True
            self.take(document)
            if not self.ended:
                time.sleep(POLL_SECONDS)

    def take(self, document: Json) -> None:
        section = document.get("flow_log") or {}
        if self.begun and section.get("lines"):
            self.logged.refresh()
        found = self.logged.judge(document) if section.get("lines") or not self.begun else None
        if found is not None:
            found = replace(found, rows=tuple(_with_flags(found.rows, self.common)))
            # Nothing will come where the agent logs no flows.
            self.ended = bool(found.findings) and not found.rows
            self._print(found)
        elif section.get("reason"):
            self._warn(on_the_node(str(section["reason"])))
        if section.get("position"):
            self.request = {**self.request, "log": {**self.request["log"], "after": section["position"], "last_ns": 0}}
        self.begun = True

    def _warn(self, text: str) -> None:
        if text not in self.told:
            self.told.add(text)
            self.progress.note(f"warning: {text}")

    def _print(self, found: DropReport) -> None:
        form, wide = self.common.output, self.common.output is Format.WIDE
        lines: list[str] = []
        if form in (Format.TABLE, Format.WIDE):
            if not self.begun:
                lines += [*report.as_text(replace(found, rows=()), wide, False).split("\n")[1:]] if found.unread else []
                lines = [report.summary(found), *lines]
                lines += [] if self.common.no_headers or self.ended else ["", report.header(wide)]
            lines += report.followed(found.rows, wide)
        else:
            lines += _documents(found.rows, form)
        if self.begun or form in (Format.JSON, Format.YAML):
            # The rows are all that goes to stdout then.
            for reason in found.unread:
                self._warn(reason)
        self.progress.pause()
        # Not `emit`: whoever closed the pipe has seen enough, and that has to end the following.
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()


def _documents(rows: Iterable[DropRow], form: Format) -> Iterator[str]:
    """One JSON object a line, or one YAML document a row."""
    for row in sorted(rows, key=lambda row: row.last or 0.0):
        if form is Format.JSON:
            yield json_text(report.row_data(row))
        else:
            yield "---\n" + yaml_text(report.row_data(row)).rstrip()
