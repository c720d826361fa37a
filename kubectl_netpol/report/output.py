"""One report in the format that was asked for, on one stream."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import IO, Any

from kubectl_netpol.errors import OutputError
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
    """Write ``data()`` as JSON or YAML, or ``text(wide)`` for people.

    A reader that closed the pipe (`| head`) has seen enough: no error, and the exit code stays the answer's.
    Raises ``OutputError`` where the output cannot be written (a full disk).
    """
    _guarded(stream, lambda: _write(stream, form, data, text))


def write_text(stream: IO[str], text: str) -> None:
    """Lines for people or for machines, as they come; errors as those of ``emit``."""

    def write() -> None:
        colour = wants_colour(stream)
        for line in text.splitlines():
            stream.write(paint(line, colour) + "\n")

    _guarded(stream, write)


def json_text(data: Json, indent: int | None = None) -> str:
    """ASCII only: escapes whatever a name could send to a terminal. DEL is ASCII, and only ever inside of a string."""
    import json

    return json.dumps(data, indent=indent).replace("\x7f", "\\u007f")


def yaml_text(data: Json) -> str:
    """ASCII only. A text with a control character is one line with escapes: folded over several, it would look like
    fields of its own."""
    import yaml

    return str(yaml.dump(data, Dumper=_dumper(), sort_keys=False, allow_unicode=False, width=1 << 20))


@cache
def _dumper() -> Any:
    # PyYAML is imported when it is needed: it takes a part of the time of a short command.
    import yaml

    # libyaml where PyYAML was built with it: the same text, eight times as fast.
    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        pass

    def text(dumper: Any, value: str) -> Any:
        # Half a surrogate pair, which JSON can hold, would make the whole text unreadable.
        whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return dumper.represent_scalar("tag:yaml.org,2002:str", whole, style=None if whole.isprintable() else '"')

    Dumper.add_representer(str, text)
    return Dumper


def write_page(stream: IO[str], page: str) -> None:
    """A whole file as it is; errors as those of ``emit``."""
    _guarded(stream, lambda: stream.write(page))


def _guarded(stream: IO[str], write: Callable[[], object]) -> None:
    try:
        write()
        stream.flush()
    except BrokenPipeError:
        # Keep the interpreter from complaining about the same pipe when it flushes at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise OutputError(f"the output could not be written: {error.strerror or error}") from error


def _write(stream: IO[str], form: Format, data: Callable[[], Json], text: Callable[[bool], str]) -> None:
    if form is Format.JSON:
        stream.write(json_text(data(), indent=2) + "\n")
    elif form is Format.YAML:
        stream.write(yaml_text(data()))
    else:
        colour = wants_colour(stream)
        for line in text(form is Format.WIDE).splitlines():
            stream.write(paint(line, colour) + "\n")
