"""One report in the format that was asked for, on one stream."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import IO, Any

from kubectl_netpol.report.text import paint, wants_colour

Json = dict[str, Any]

API_VERSION = "netpol-ebpf/v1alpha1"
"""Of the JSON and YAML forms. Fields are added within a version, never renamed or removed."""


class Format(StrEnum):
    """-o"""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


def emit(stream: IO[str], form: Format, data: Callable[[], Json], text: Callable[[bool], str]) -> None:
    """Write ``data()`` as JSON or YAML, or ``text(wide)`` for people."""
    if form is Format.JSON:
        import json

        # ASCII only: escapes whatever a name could send to a terminal.
        stream.write(json.dumps(data(), indent=2) + "\n")
    elif form is Format.YAML:
        import yaml

        stream.write(yaml.safe_dump(data(), sort_keys=False, allow_unicode=False, width=1000))
    else:
        colour = wants_colour(stream)
        for line in text(form is Format.WIDE).splitlines():
            stream.write(paint(line, colour) + "\n")
