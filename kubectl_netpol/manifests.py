"""Policies from YAML files and stdin, for `explain -f`: read, checked as far as the evaluators rely on, trimmed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kubectl_netpol.cluster.trim import trim
from kubectl_netpol.errors import UsageError
from kubectl_netpol.policy.world import CLUSTER_POLICY, COLLECTIONS, NETWORK_POLICY

Json = dict[str, Any]

LARGEST = 4 << 20
GROUPS = {NETWORK_POLICY: "networking.k8s.io/"}
AWS_GROUP = "networking.k8s.aws/"


def read_policies(paths: Sequence[str], namespace: str) -> tuple[tuple[Json, ...], tuple[str, ...]]:
    """The policies of all files in their order, and what else was in them and is left alone.

    ``paths``: `-` is stdin. Policies without a namespace get ``namespace``. Raises ``UsageError`` for what cannot be
    read, is no YAML, or holds no policy.
    """
    found: list[Json] = []
    others: list[str] = []
    for path in paths:
        count = len(found)
        for document in _documents(path):
            kind = str(document.get("kind") or "")
            if kind in COLLECTIONS:
                found.append(_policy(document, kind, namespace, path))
            else:
                name = (document.get("metadata") or {}) if isinstance(document.get("metadata"), dict) else {}
                others.append(f"{path}: {kind or 'an object without a kind'} {name.get('name', '')}".strip())
        if len(found) == count:
            raise UsageError(
                f"{_shown(path)}: there is no NetworkPolicy, ApplicationNetworkPolicy or {CLUSTER_POLICY} in it"
            )
    return tuple(found), tuple(others)


def _shown(path: str) -> str:
    return "stdin" if path == "-" else path


def _text(path: str) -> str:
    try:
        if path == "-":
            raw = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with Path(path).open("rb") as file:
                raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise UsageError(f"{_shown(path)}: larger than {LARGEST >> 20} MiB: that is no policy")
        return raw.decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"{_shown(path)}: the file could not be read: {reason}") from error


def _documents(path: str) -> Iterator[Json]:
    """The objects of a file, those of Lists one by one."""
    import yaml

    try:
        documents = list(yaml.safe_load_all(_text(path)))
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{_shown(path)}{where}: not YAML: {getattr(error, 'problem', None) or error}") from error
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict):
            raise UsageError(f"{_shown(path)}: not a Kubernetes object: {type(document).__name__}")
        items = document.get("items") if str(document.get("kind") or "").endswith("List") else None
        for item in items if isinstance(items, list) else [document]:
            if not isinstance(item, dict):
                raise UsageError(f"{_shown(path)}: not a Kubernetes object: {type(item).__name__}")
            yield item


def _policy(document: Json, kind: str, namespace: str, path: str) -> Json:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(name, str) or not name:
        raise UsageError(f"{_shown(path)}: a {kind} without metadata.name")
    group = GROUPS.get(kind, AWS_GROUP)
    if not str(document.get("apiVersion") or "").startswith(group):
        raise UsageError(
            f"{_shown(path)}: {kind} {name}: apiVersion {document.get('apiVersion')!r} is not of {group[:-1]}"
        )
    problem = _problem(document.get("spec"))
    if problem:
        raise UsageError(f"{_shown(path)}: {kind} {name}: {problem}")
    kept = trim(COLLECTIONS[kind], document)
    if kind == CLUSTER_POLICY:
        kept["metadata"].pop("namespace", None)
    else:
        kept["metadata"].setdefault("namespace", namespace)
    return {**kept, "kind": kind}


def _problem(spec: object) -> str:
    """The first part of a spec that the API server would refuse and the evaluators rely on; empty if there is none."""
    if not isinstance(spec, dict):
        return "it has no spec"
    for direction, side in (("ingress", "from"), ("egress", "to")):
        rules = spec.get(direction)
        if rules is not None and not isinstance(rules, list):
            return f"spec.{direction} is not a list"
        for number, rule in enumerate(rules or ()):
            path = f"spec.{direction}[{number}]"
            if rule is not None and not isinstance(rule, dict):
                return f"{path} is not an object"
            problem = _rule_problem(rule or {}, path, side)
            if problem:
                return problem
    if not isinstance(spec.get("podSelector"), dict | None):
        return "spec.podSelector is not an object"
    return next(_label_problems(spec, "spec"), "")


def _label_problems(value: Any, path: str) -> Iterator[str]:
    """YAML's `true`, `yes` and `1` are no texts, and the API server takes nothing else as a label value."""
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _label_problems(one, f"{path}[{index}]")
    if not isinstance(value, dict):
        return
    for key, one in value.items():
        if key != "matchLabels" or one is None:
            yield from _label_problems(one, f"{path}.{key}")
            continue
        if not isinstance(one, dict):
            yield f"{path}.{key} is not an object"
            continue
        for label, text in one.items():
            if not isinstance(text, str):
                yield f"{path}.{key}.{label} is {text!r}, and no text: put it in quotes"


KNOWN = {"from": ("from", "ports", "name", "action"), "to": ("to", "ports", "name", "action")}


def _rule_problem(rule: Json, path: str, side: str) -> str:
    unknown = sorted(str(key) for key in rule if key not in KNOWN[side])
    if unknown:
        # The API server refuses or drops such a field: a rule that is misspelt means everybody.
        return f"{path} has an unknown field {unknown[0]}: {' and '.join(KNOWN[side][:2])} are known"
    for key in (side, "ports"):
        if rule.get(key) is not None and not isinstance(rule[key], list):
            return f"{path}.{key} is not a list"
        for index, one in enumerate(rule.get(key) or ()):
            if not isinstance(one, dict):
                return f"{path}.{key}[{index}] is not an object"
    return ""
