"""The names in kubeconfig files. The kubernetes package is not asked: importing it takes longer than kubectl itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST = 16 << 20
"""Bytes of a file that are read: with a thousand clusters and their certificates it has about 3 MiB."""


def names(section: str, path: str = "") -> Iterator[str]:
    """Of all entries of ``section``: `contexts`, `clusters` or `users`. ``path``: --kubeconfig, if it was given."""
    files = [path] if path else (os.environ.get("KUBECONFIG") or "~/.kube/config").split(os.pathsep)
    for file in filter(None, files):
        for entry in _section(Path(file).expanduser(), section):
            name = entry.get("name") if isinstance(entry, dict) else None
            # One that begins with a dash would be taken for a flag.
            if isinstance(name, str) and not name.startswith("-"):
                yield name


def _section(file: Path, section: str) -> list[Any]:
    import yaml

    try:
        # Not a pipe or a device: reading one would wait, or take what somebody else waits for.
        if not file.is_file():
            return []
        with file.open("rb") as opened:
            config = yaml.load(opened.read(LARGEST), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return []
    found = config.get(section) if isinstance(config, dict) else None
    return found if isinstance(found, list) else []
