"""Label and field selectors as query parameters carry them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .api_errors import bad_request
from .api_types import Resource

Json = dict[str, Any]
Match = Callable[[Json], bool]

_TOKEN = re.compile(r"\s*(==|!=|=|,|\(|\)|!|>|<|[^\s,()!=<>]+)")
_METADATA = ("metadata.name", "metadata.namespace")
_FIELDS: dict[str, tuple[str, ...]] = {
    "pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
    "secrets": ("type",),
    "services": ("spec.clusterIP", "spec.type"),
    "replicasets": ("status.replicas",),
    "jobs": ("status.successful",),
    "events": (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
}


def everything(_: Json) -> bool:
    return True


def requirement(key: str, operator: str, values: list[str]) -> Callable[[Mapping[str, str]], bool]:
    """One requirement on labels; `notin` and `!=` also hold where the label is missing."""

    def test(labels: Mapping[str, str]) -> bool:
        value = labels.get(key)
        if operator == "exists":
            return value is not None
        if operator == "!":
            return value is None
        if operator in ("in", "="):
            return value in values
        if operator in ("notin", "!="):
            return value not in values
        if value is None or not value.lstrip("-").isdigit():
            return False
        return int(value) > int(values[0]) if operator == ">" else int(value) < int(values[0])

    return test


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self.error(f"unexpected character at {position}")
            self.tokens.append(match.group(1))
            position = match.end()
        self.tokens.append("")

    def error(self, why: str) -> Exception:
        return bad_request(f'unable to parse requirement: {why} in "{self.text}"')

    def next(self) -> str:
        return self.tokens.pop(0) if self.tokens else ""

    def peek(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def word(self) -> str:
        token = self.next()
        if not token or token in "==!=,()!<>":
            raise self.error(f"found '{token}', expected: identifier")
        return token

    def one(self) -> Callable[[Mapping[str, str]], bool]:
        if self.peek() == "!":
            self.next()
            return requirement(self.word(), "!", [])
        key = self.word()
        operator = self.peek()
        if operator in ("", ","):
            return requirement(key, "exists", [])
        self.next()
        if operator in ("in", "notin"):
            return requirement(key, operator, self.values())
        if operator in ("=", "==", "!="):
            value = "" if self.peek() in ("", ",") else self.word()
            return requirement(key, "!=" if operator == "!=" else "=", [value])
        if operator in (">", "<"):
            return requirement(key, operator, [self.word()])
        raise self.error(f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")

    def values(self) -> list[str]:
        if self.next() != "(":
            raise self.error("expected: '('")
        found = [""] if self.peek() in (",", ")") else [self.word()]
        while self.peek() == ",":
            self.next()
            found.append("" if self.peek() in (",", ")") else self.word())
        if self.next() != ")":
            raise self.error("expected: ',' or ')'")
        return found


def label_selector(text: str) -> Match:
    """`a=b,c in (d,e),!f` -> a test on whole objects."""
    if not text.strip():
        return everything
    parser = _Parser(text)
    tests = [parser.one()]
    while parser.peek():
        if parser.next() != ",":
            raise parser.error("expected: ',' or end of string")
        tests.append(parser.one())
    return lambda obj: all(test(obj["metadata"].get("labels") or {}) for test in tests)


def object_selector(selector: Mapping[str, Any] | None) -> Match:
    """A LabelSelector object; None selects nothing, an empty one everything."""
    if selector is None:
        return lambda _: False
    names = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}
    tests = [requirement(k, "=", [v]) for k, v in (selector.get("matchLabels") or {}).items()]
    for item in selector.get("matchExpressions") or []:
        tests.append(requirement(item["key"], names[item["operator"]], item.get("values") or []))
    return lambda obj: all(test(obj["metadata"].get("labels") or {}) for test in tests)


def _field(obj: Json, path: str) -> str:
    value: Any = obj
    if path == "source":
        return str((obj.get("source") or {}).get("component", ""))
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "false" if path in ("spec.hostNetwork", "spec.unschedulable") else ""
    return str(value)


def field_selector(text: str, resource: Resource) -> Match:
    known = _METADATA + _FIELDS.get(resource.plural, ())
    tests: list[tuple[str, bool, str]] = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"([^=!]+)(==|!=|=)(.*)", part.strip())
        if match is None:
            raise bad_request(f"invalid field selector: {part!r}; can't understand '{part}'")
        path, operator, value = match.groups()
        if path not in known:
            gvr = f"{resource.api_version}, Resource={resource.plural}".replace("v1,", "v1,", 1)
            if not resource.group:
                gvr = "/" + gvr
            raise bad_request(
                f'Unable to find "{gvr}" that match label selector "", '
                f'field selector "{text}": field label not supported: {path}'
            )
        tests.append((path, operator != "!=", value))
    if not tests:
        return everything
    return lambda obj: all((_field(obj, path) == value) == equal for path, equal, value in tests)
