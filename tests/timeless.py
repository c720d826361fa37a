"""Answers without when a node was read and how long that took: two runs differ in nothing else."""

from __future__ import annotations

import re
from typing import Any

_IN_TEXT = re.compile(r"\bin [0-9.e-]+ s(,)?(?: at [0-9:]+Z,?)?(?: [0-9.]+ s after the API was asked)?")
_IN_DATA = re.compile(r"""(["']?(?:at|tookSeconds|apiAgeSeconds)["']?: )(?:"[^"]*"|'[^']*'|[0-9.e+-]+)""")


def timeless(text: str) -> str:
    """Of `-o table`, `wide`, `json` and `yaml`."""
    return _IN_DATA.sub(r"\1T", _IN_TEXT.sub("in N s", text))


def undated(data: Any) -> Any:
    """Parsed JSON without `reading`, which also differs between the ways to read a node."""
    if isinstance(data, dict):
        return {key: undated(value) for key, value in data.items() if key not in ("reading", "readings")}
    return [undated(one) for one in data] if isinstance(data, list) else data
