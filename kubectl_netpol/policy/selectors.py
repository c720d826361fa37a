"""Kubernetes label selectors: matching, the reason for a mismatch, and one-line texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from kubectl_netpol.errors import UsageError

Json = dict[str, Any]
Labels = Mapping[str, str]


def matches(selector: Json | None, labels: Labels) -> bool:
    """A LabelSelector against labels. ``{}`` matches everything; None (absent) matches nothing."""
    if selector is None:
        return False
    for key, wanted in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != wanted:
            return False
    for requirement in selector.get("matchExpressions") or ():
        values = [str(value) for value in requirement.get("values") or ()]
        if not _expression(str(requirement.get("key")), str(requirement.get("operator")), values, labels):
            return False
    return True


def canonical(selector: Json) -> str:
    """One text for each selector: the same for the same."""
    return json.dumps(selector, sort_keys=True, separators=(",", ":"))


def mismatches(selector: Json, labels: Labels) -> Iterator[str]:
    """What keeps the labels from matching, one phrase for each requirement that is not met."""
    for key, wanted in sorted((selector.get("matchLabels") or {}).items()):
        if labels.get(key) != wanted:
            yield f"{key}={wanted} is wanted, {_has(labels, key)}"
    for requirement in selector.get("matchExpressions") or ():
        key, operator = str(requirement.get("key")), requirement.get("operator")
        values = [str(value) for value in requirement.get("values") or ()]
        if not _expression(key, str(operator), values, labels):
            yield f"{_expression_text(key, str(operator), values)} is wanted, {_has(labels, key)}"


def _has(labels: Labels, key: str) -> str:
    return f"it has {key}={labels[key]}" if key in labels else f"it has no label {key}"


def _expression(key: str, operator: str, values: list[str], labels: Labels) -> bool:
    match operator:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            # A missing label satisfies NotIn, as in the API server's own selectors.
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    return False


def _expression_text(key: str, operator: str, values: list[str]) -> str:
    match operator:
        case "In":
            return f"{key} in ({', '.join(values)})"
        case "NotIn":
            return f"{key} notin ({', '.join(values)})"
        case "DoesNotExist":
            return f"!{key}"
    return key


def text(selector: Json | None) -> str:
    """The selector as ``kubectl get -l`` would take it; `<all>` for ``{}``."""
    if selector is None:
        return "<none>"
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    parts += [
        _expression_text(str(r.get("key")), str(r.get("operator")), [str(v) for v in r.get("values") or ()])
        for r in selector.get("matchExpressions") or ()
    ]
    return ",".join(parts) or "<all>"


_SET = re.compile(r"\s*([^\s,!=()]+)\s+(in|notin)\s*\(([^()]*)\)\s*\Z")
_EQUAL = re.compile(r"\s*([^\s,!=()]+)\s*(==|=|!=)\s*([^\s,!=()]*)\s*\Z")
_KEY = re.compile(r"\s*(!?)\s*([^\s,!=()]+)\s*\Z")


def parse(text: str) -> Json:
    """kubectl's `-l`: `app=web,tier!=db,env in (prod, dev),!legacy` as a LabelSelector. Raises ``UsageError``."""
    return {"matchExpressions": [_requirement(part, text) for part in re.split(r",(?![^()]*\))", text)]}


def _requirement(part: str, whole: str) -> Json:
    if found := _SET.match(part):
        values = [value.strip() for value in found[3].split(",")]
        return {"key": found[1], "operator": "In" if found[2] == "in" else "NotIn", "values": values}
    if found := _EQUAL.match(part):
        return {"key": found[1], "operator": "NotIn" if found[2] == "!=" else "In", "values": [found[3]]}
    if found := _KEY.match(part):
        return {"key": found[2], "operator": "DoesNotExist" if found[1] else "Exists"}
    raise UsageError(f'-l "{whole}" is not a label selector: use app=web,tier!=db')
