"""JSON from outside, with a bound on what it may become: a value takes up to a hundred times its bytes in memory."""

from __future__ import annotations

import json
from typing import Any

MOST_VALUES = 20_000_000
"""Of one text, or of all that a bundle has in memory at once: the document of a node with a full log has 1 million, the
pods of the largest cluster have 6 million."""
_SIGNS = (b",", b"[", b"{")


def values(text: bytes) -> int:
    """How many values a JSON text has at the most."""
    return sum(map(text.count, _SIGNS))


def loads(text: bytes) -> Any:
    """Raises ``ValueError``: no JSON, nested too deeply, too many values, or numbers that JSON does not have."""
    if values(text) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")
    try:
        return json.loads(text, parse_constant=_refused)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refused(name: str) -> None:
    """NaN and Infinity, which Python's reader takes."""
    raise ValueError(f"{name} is not JSON")
