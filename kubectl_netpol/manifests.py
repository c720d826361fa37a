"""Policies from YAML files, directories and stdin, for `explain -f`: read, checked as the API server does, trimmed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kubectl_netpol.cluster.trim import trim
from kubectl_netpol.errors import UsageError
from kubectl_netpol.policy.validation import problem, served
from kubectl_netpol.policy.values import printable, shown
from kubectl_netpol.policy.world import CLUSTER_POLICY, COLLECTIONS

Json = dict[str, Any]

LARGEST = 4 << 20
LONGEST_WHY = 300
"""Characters of an error."""
SUFFIXES = (".json", ".yaml", ".yml")
"""Of the files that kubectl reads in a directory."""
NAMED = 3
"""How many of the objects that are no policies an error names."""


def read_policies(paths: Sequence[str], namespace: str) -> tuple[tuple[Json, ...], tuple[str, ...]]:
    """The policies of all files in their order, and what else was in them and is left alone.

    ``paths``: `-` is stdin; of a directory the YAML and JSON files are read, in the order of their names. Policies
    without a namespace get ``namespace``. Raises ``UsageError`` for what cannot be read, is no YAML, holds no policy,
    or holds one that the API server would refuse.
    """
    if list(paths).count("-") > 1:
        raise UsageError("-f - is there twice: stdin can be read once")
    found: list[Json] = []
    others: list[str] = []
    for path in paths:
        count, strangers = len(found), []
        for file in _files(path):
            for document in _objects(file):
                if _kind(document) in COLLECTIONS:
                    found.append(_policy(document, namespace, file))
                else:
                    strangers.append((file, _name(document)))
        if len(found) == count:
            raise UsageError(f"{_shown(path)}: there is no policy in it, {_only([name for _, name in strangers])}")
        others += [f"{_shown(file)}: {name}" for file, name in strangers]
    return tuple(found), tuple(others)


def _shown(path: str) -> str:
    return "stdin" if path == "-" else "".join(c if c.isprintable() else "?" for c in path)


def _only(names: Sequence[str]) -> str:
    """What there is instead of a policy."""
    if not names:
        return "it is empty"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"only {', '.join(names[:NAMED])}{more}"


# ---- files


def _files(path: str) -> list[str]:
    """The file itself, or those of a directory as kubectl takes them: not those of directories in it."""
    if path == "-" or not Path(path).is_dir():
        return [path]
    try:
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(SUFFIXES) and not entry.is_dir())
    except OSError as error:
        raise UsageError(f"{_shown(path)}: the directory could not be read: {error.strerror}") from error
    if not names:
        raise UsageError(f"{_shown(path)}: there is no *.yaml, *.yml or *.json file in this directory")
    return [str(Path(path) / name) for name in names]


def _text(path: str) -> str:
    try:
        if path == "-":
            raw = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with Path(path).open("rb") as file:
                raw = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it has no possible name"
        raise UsageError(f"{_shown(path)}: the file could not be read: {reason}") from error
    if len(raw) > LARGEST:
        raise UsageError(f"{_shown(path)}: larger than {LARGEST >> 20} MiB: that is no policy")
    try:
        return raw.decode("utf-8-sig")
    except ValueError as error:
        raise UsageError(f"{_shown(path)}: the file could not be read: it is not text") from error


# ---- objects


def _objects(path: str) -> Iterator[Json]:
    """The objects of a file, those of Lists one by one."""
    # PyYAML is imported when it is needed: it takes a part of the time of a short command.
    from kubectl_netpol.yaml_text import TextError, documents

    try:
        waiting = [document for document in documents(_text(path)) if document is not None]
    except TextError as error:
        where = f" line {error.line}" if error.line else ""
        raise UsageError(f"{_shown(path)}{where}: {_line(error.why)}") from error
    waiting.reverse()
    while waiting:
        document = waiting.pop()
        if not isinstance(document, dict):
            raise UsageError(f"{_shown(path)}: not a Kubernetes object: {shown(document)}")
        if _is_list(document):
            waiting += reversed(_items(document, path))
        else:
            yield document


def _line(text: str) -> str:
    """Why a file is not taken may hold a key of it, which can be the whole file."""
    cut = text if len(text) <= LONGEST_WHY else f"{text[:LONGEST_WHY]}..."
    return "".join(c if c.isprintable() else " " for c in cut)


def _kind(document: Json) -> str:
    kind = document.get("kind")
    return kind if isinstance(kind, str) else ""


def _is_list(document: Json) -> bool:
    kind = _kind(document)
    return kind.endswith("List") and ("items" in document or kind == "List" or kind.removesuffix("List") in COLLECTIONS)


def _items(document: Json, path: str) -> list[Any]:
    """Those of a NetworkPolicyList and its like need not say their kind."""
    kind, items = _kind(document), document.get("items")
    if items is None:
        return []
    if not isinstance(items, list):
        raise UsageError(f"{_shown(path)}: {printable(kind)}: items is {shown(items)}, not a list")
    own = kind.removesuffix("List")
    known = {"kind": own, "apiVersion": document.get("apiVersion")} if own else {}
    return [{**known, **item} if isinstance(item, dict) else item for item in items]


def _name(document: Json) -> str:
    """`Service web`"""
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    kind = printable(_kind(document)) or "an object without a kind"
    return f"{kind} {printable(name)}" if isinstance(name, str) and name else kind


# ---- policies


def _policy(document: Json, namespace: str, path: str) -> Json:
    """As it would be in the cluster. Its status stays out: applying a file does not change it."""
    kind = _kind(document)
    wrong = problem(document)
    if wrong:
        raise UsageError(f"{_shown(path)}: {_name(document)}: {wrong}")
    kept = trim(COLLECTIONS[kind], served(document))
    if kind == CLUSTER_POLICY:
        kept["metadata"].pop("namespace", None)
    else:
        kept["metadata"].setdefault("namespace", namespace)
    return {**kept, "kind": kind}
