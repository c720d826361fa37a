"""Checks of what a node sent, field by field: each gives the value back, or a ``NodeError`` that names the field.

A check is a function of (value, path). Texts come out printable: nothing that a node says may steer a terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from kubectl_netpol.errors import NodeError

Json = dict[str, Any]
Check = Callable[[Any, str], Any]

MOST_TEXT = 4096
"""Characters of one text field; the longest real one is a path of 255 or an error message."""


def wrong(path: str, wanted: str, value: Any) -> NodeError:
    return NodeError(f"the node's document is damaged: {path} should be {wanted}, it is {short(value)}")


def short(value: Any) -> str:
    names = {dict: "an object", list: "an array", type(None): "null", bool: "true or false"}
    if type(value) in names:
        return names[type(value)]
    shown = repr(value)
    return printable(shown if len(shown) <= 40 else shown[:37] + "...")


def printable(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise wrong(path, "a text", value)
    return printable(value[:MOST_TEXT])


def address(value: Any, path: str) -> str:
    """The text of an IP address."""
    found = text(value, path)
    try:
        ip_address(found)
    except ValueError:
        raise wrong(path, "an IP address", value) from None
    return found


def number(lowest: int, highest: int) -> Check:
    def check(value: Any, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong(path, "an integer", value)
        if not lowest <= value <= highest:
            raise wrong(path, f"between {lowest} and {highest}", value)
        return value

    return check


def flag(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise wrong(path, "true or false", value)
    return value


def one_of(*allowed: Any) -> Check:
    wanted = "one of " + ", ".join(map(str, allowed))

    def check(value: Any, path: str) -> Any:
        if not any(value == one and type(value) is type(one) for one in allowed):
            raise wrong(path, wanted, value)
        return value

    return check


def or_null(inner: Check) -> Check:
    return lambda value, path: None if value is None else inner(value, path)


def list_of(inner: Check) -> Check:
    def check(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise wrong(path, "an array", value)
        return [inner(item, f"{path}[{index}]") for index, item in enumerate(value)]

    return check


def object_of(fields: dict[str, Check]) -> Check:
    """All of ``fields`` must be there; others are kept as they are (a newer reader may say more)."""

    def check(value: Any, path: str) -> Json:
        if not isinstance(value, dict):
            raise wrong(path or "the document", "an object", value)
        prefix = f"{path}." if path else ""
        checked = dict(value)
        for name, inner in fields.items():
            if name not in value:
                raise NodeError(f"the node's document is damaged: {prefix}{name} is missing")
            checked[name] = inner(value[name], prefix + name)
        return checked

    return check
