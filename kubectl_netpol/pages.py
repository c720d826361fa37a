"""`-o html` of `explain` and `check`: what a page says of where it comes from, and the page on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kubectl_netpol import __version__
from kubectl_netpol.diagnose.check import Report
from kubectl_netpol.diagnose.explain import Explanation
from kubectl_netpol.options import Common
from kubectl_netpol.report.output import write_page
from kubectl_netpol.source import SnapshotSource, Source

if TYPE_CHECKING:
    from kubectl_netpol.report.html import About


def explained(found: Explanation, common: Common, origin: Source, warnings: tuple[str, ...]) -> None:
    """``warnings``: what was said on stderr."""
    from kubectl_netpol.report.html_explain import explanation

    write_page(sys.stdout, explanation(found, about(common, origin, warnings)))


def checked(report: Report, common: Common, origin: Source) -> None:
    from kubectl_netpol.report.html_check import checked

    write_page(sys.stdout, checked(report, about(common, origin)))


def about(common: Common, origin: Source, warnings: tuple[str, ...] = ()) -> About:
    from kubectl_netpol.report.html import About

    # The name of the file alone: whoever reads the page need not know where its author keeps files.
    source = f"bundle {Path(common.bundle).name}" if common.bundle else "live cluster"
    return About(__version__, origin.taken_at, source, tuple(_more(common, origin)), warnings)


def _more(common: Common, origin: Source) -> Iterator[tuple[str, str]]:
    """What the flags say of the cluster; a bundle does not know which one it is of."""
    if not common.bundle:
        named = common.connection
        given = ("Context", named.context), ("Cluster", named.cluster), ("Server", named.server), ("As", named.as_user)
        yield from ((label, value) for label, value in given if value)
    elif origin.tool_version:
        yield "Captured by", f"version {origin.tool_version}"
    if isinstance(origin, SnapshotSource) and origin.snapshot.redacted:
        yield "Redacted", "names and addresses stand for others"
