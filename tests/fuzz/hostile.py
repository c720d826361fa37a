"""Snapshots whose texts try to steer the terminal, or to forge a line of output."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from kubectl_netpol.policy.world import name_of
from tests.fuzz.targets import verbs
from tests.unit import builders

Json = dict[str, Any]
EVIL = (
    "\x1b[31m\x1b]0;t\x07\x1b]8;;http://x\x1b\\\x9b1m\x9d\r\b\x00\x7f\x85\x0b\x0c\x1c\n\nFORGED ok\t"
    "\u202e\u2066\u200b\u200d\u2028\u2029\ufeff\ud800\ue000\U000e0041\u2029FORGED"
)
FILE = EVIL.replace("\x00", "").replace("/", "").replace("\ud800", "\udc80")
"""What a name of a file can be."""
NEWLINE, BLANK = "\nFORGED ok", " FORGED ok"
KEYED = ("labels", "annotations", "matchLabels", "selector", "data", "nodeSelector")
"""Objects whose keys are texts from outside too."""

Path = tuple[str, ...]


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Where texts are: `*` for any element of a list, `key` at the end for the keys of an object."""
    if isinstance(value, dict):
        if path and path[-1] in KEYED and value:
            yield (*path, "key")
        for name, one in value.items():
            yield from leaves(one, (*path, "*" if path and path[-1] in KEYED else name))
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one, (*path, "*"))
    elif isinstance(value, str):
        yield path


def places(value: Any) -> list[Path]:
    return sorted(set(leaves(value)))


def put(value: Any, path: Path, more: Callable[[str], str]) -> Any:
    """The value with other texts at one place."""
    if not path:
        return more(value) if isinstance(value, str) else value
    first, rest = path[0], path[1:]
    if isinstance(value, dict):
        if path == ("key",):
            return {more(name): one for name, one in value.items()}
        return {name: put(one, rest, more) if first in (name, "*") else one for name, one in value.items()}
    if isinstance(value, list) and first == "*":
        return [put(one, rest, more) for one in value]
    return value


def with_text(whole: Json, paths: list[Path], text: str) -> Json:
    for path in paths:
        whole = put(whole, path, lambda old: old + text)
    return whole


@cache
def _whole() -> str:
    found = verbs.whole()
    return json.dumps({"nodes": found["nodes"], "collections": found["collections"]})


def whole() -> Json:
    return json.loads(_whole())  # type: ignore[no-any-return]


# ---- names that are the same everywhere, so that all layers still meet

NAMES = (
    "nginx-f8d9c6576-8b4vf",
    "accesstrue",
    "accessfalse",
    "access-nginx",
    "deny-all",
    "web",
    "true",
    "false",
    "nginx",
)
QUESTIONS = [[word.replace(builders.NGINX["metadata"]["name"], "nginx") for word in words] for words in verbs.QUESTIONS]
"""By the beginning of a pod's name, which stands for the only one that has it."""


def renamed(text: str) -> Json:
    """Names of pods, policies and nodes, and values of labels, each with ``text`` behind it, in all objects alike."""

    def other(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: other(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [other(one, key) for one in value]
        if isinstance(value, str) and value in NAMES:
            return f"{value}-{text}"
        return value

    found = whole()
    objects = other(found["collections"])
    nginx = next(pod for pod in objects["pods"] if pod["metadata"]["name"].startswith("nginx"))
    old = found["nodes"][builders.NODE]
    owner = {**nginx, "metadata": {**nginx["metadata"], "name": name_of(nginx)}}
    document = builders.pod_document(owner, ingress=builders.ACCESS_MAP)
    kept = {name: old[name] for name in ("flow_log", "agent", "notes", "errors", "clock")}
    return {"nodes": {builders.NODE: {**document, **kept}}, "collections": objects}


# ---- what is seen


def normal(answer: tuple[int, str, str]) -> tuple[int, list[str], list[str]]:
    """An answer without what differs by the text alone: hashes of names, what is written in place of a newline, and the
    width of columns (a cell that begins with a blank begins with what follows it)."""
    code, out, err = answer
    told = []
    for text in (out, err):
        text = re.sub(r"(eni|vlan)[0-9a-f]{11}", r"\1", text.replace("\ufffd", " ").replace("\\n", " "))
        told.append(re.sub(" {2,}", " ", text).split("\n"))
    return code, told[0], told[1]


def problems(out: str, err: str) -> list[str]:
    """Control characters, and lines that the text has made."""
    found = verbs.controls(out + err)
    found += [f"a forged line: {line!r}" for line in (out + "\n" + err).split("\n") if re.match(r"\s*FORGED", line)]
    if err.count("error: ") > 1 and re.search(r"(?m)^error: .*\n(.*\n)*error: ", err):
        found.append(f"two errors: {err!r}")
    return found


LONG = "NETPOL_FUZZ_LONG" in os.environ


def forms(words: list[str]) -> tuple[str, ...]:
    return verbs.FORMS if words[0] == "check" else verbs.FORMS[:4]
