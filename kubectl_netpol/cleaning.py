"""`cleanup`: the debug pods that are still in the cluster, and their removal if that is asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from kubectl_netpol.errors import ApiError, ConnectionFailed, ExitCode, NotRead, UsageError
from kubectl_netpol.model.leftover import UNUSED, Leftover, Use
from kubectl_netpol.options import Common
from kubectl_netpol.progress import Progress
from kubectl_netpol.report import cleanup as report
from kubectl_netpol.report.output import emit

if TYPE_CHECKING:
    from kubectl_netpol.cluster.api import Api


@dataclass(frozen=True)
class Asked:
    """The flags of `cleanup`, as typed. ``everything``: also pods that a run may be using."""

    delete: bool = False
    everything: bool = False


def cleanup(common: Common, asked: Asked) -> None:
    """`cleanup`. Ends the process with an exit code; deletes nothing unless ``asked.delete``."""
    from kubectl_netpol.cluster.api import Api
    from kubectl_netpol.cluster.connection import connect

    if asked.everything and not asked.delete:
        raise UsageError("--all goes with --delete: without it all debug pods are listed anyway")
    progress = Progress()
    try:
        progress.step("looking for debug pods")
        api = Api(connect(common.connection))
        now = time.time()
        found, where = _found(api, common, progress, now)
        outcomes = dict(_deleted(api, found, asked, progress)) if asked.delete else {}
        progress.done()
        emit(
            sys.stdout,
            common.output,
            lambda: report.as_data(found, outcomes, now),
            lambda wide: report.as_text(found, outcomes, now, where, wide, not common.no_headers),
        )
    finally:
        progress.done()
    if any(outcomes.values()):
        raise typer.Exit(int(ExitCode.UNDECIDED))


def _found(api: Api, common: Common, progress: Progress, now: float) -> tuple[list[Leftover], str]:
    """Of the namespace that was named, else of all; of the debug namespace alone where not all may be listed."""
    named = common.connection.namespace
    if not named:
        try:
            return _sorted(api, "/api/v1/pods", now), "the cluster"
        except ApiError as error:
            if error.status != 403:
                raise
            progress.note(f"note: not all namespaces may be listed: only {common.debug_namespace} is looked at")
            named = common.debug_namespace
    try:
        return _sorted(api, f"/api/v1/namespaces/{named}/pods", now), f"namespace {named}"
    except ApiError as error:
        if error.status == 403:
            raise NotRead(f"cannot list pods in namespace {named}: {error.message}", error.hint) from error
        raise


def _sorted(api: Api, path: str, now: float) -> list[Leftover]:
    from kubectl_netpol.node.leftovers import SELECTOR, leftovers

    items = api.list(path, labelSelector=SELECTOR).items
    return sorted(leftovers(items, now), key=lambda one: (one.namespace, one.created or 0.0, one.name))


def _deleted(
    api: Api, found: Sequence[Leftover], asked: Asked, progress: Progress
) -> Iterator[tuple[tuple[str, str], str]]:
    """((namespace, name), why it could not be deleted or "") of each pod that was to go."""
    for one in found:
        if one.use is Use.FOREIGN or not (asked.everything or one.use in UNUSED):
            continue
        progress.step(f"deleting {one.namespace}/{one.name}")
        try:
            api.delete(f"/api/v1/namespaces/{one.namespace}/pods/{one.name}", uid=one.uid)
        except (ApiError, ConnectionFailed) as error:
            progress.note(f"warning: {one.namespace}/{one.name} could not be deleted: {error.message}")
            yield (one.namespace, one.name), error.message
        else:
            yield (one.namespace, one.name), ""
