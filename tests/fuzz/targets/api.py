"""Answers of the API server: statuses, lists, watches, and objects of any shape."""

from __future__ import annotations

import hashlib
import io
import json
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import urllib3.util.connection  # noqa: F401 - the product imports it late, and it binds a socket once

from kubectl_netpol.cluster.api import Api
from kubectl_netpol.cluster.connection import Connection
from kubectl_netpol.cluster.trim import trim
from kubectl_netpol.errors import NetpolError
from kubectl_netpol.model.snapshot import Collection, Snapshot
from kubectl_netpol.node.leftovers import leftovers
from kubectl_netpol.policy.shapes import sound
from kubectl_netpol.policy.world import World
from tests.fuzz import mutation
from tests.fuzz.target import Target, loaded
from tests.unit import builders

Json = dict[str, Any]
WRONG_SHAPE = (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError)
"""Of objects: ``verbs.session`` makes one line of them. ``verbs`` has the whole way."""


class Response:
    """What urllib3 gives."""

    def __init__(self, status: int, headers: Json, body: bytes) -> None:
        self.status, self.headers, self._body = status, headers, io.BytesIO(body)

    def read(self) -> bytes:
        return self._body.read()

    def stream(self, size: int, decode_content: bool) -> Any:
        yield from iter(lambda: self._body.read(64), b"")

    def drain_conn(self) -> None: ...

    def release_conn(self) -> None: ...

    def close(self) -> None: ...


class Server:
    """Answers each request with the next answer of the input, and then with the last one."""

    def __init__(self, answers: list[Response]) -> None:
        self.answers = answers
        self.requests = 0

    def request(self, *_: Any, **__: Any) -> Response:
        self.requests += 1
        if self.requests > 60:
            raise AssertionError("requests without an end")
        return self.answers.pop(0) if self.answers else Response(200, {}, b'{"items": []}')


def client(answers: list[Response]) -> Api:
    configuration = SimpleNamespace(host="https://a", auth_settings=lambda: {})
    return Api(Connection(configuration, "default", "c"), _pool=Server(answers))


def read_answer(data: bytes) -> str:
    """``{"status", "headers", "body"}``, or bytes that are the body."""
    answers = [_response(one) for one in _several(data)]
    outcomes = []
    for ask in (
        lambda api: api.get("/api/v1/x"),
        lambda api: api.list("/api/v1/pods"),
        lambda api: api.delete("/api/v1/x"),
        lambda api: list(api.watch("/api/v1/pods", seconds=1)),
    ):
        try:
            outcomes.append(repr(ask(client([Response(*one) for one in answers]))))
        except NetpolError as error:
            outcomes.append(f"{type(error).__name__}: {error}")
    return hashlib.sha256(repr(outcomes).encode("utf-8", "surrogatepass")).hexdigest()


def _several(data: bytes) -> list[Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return [data]
    return found if isinstance(found, list) else [found]


def _response(one: Any) -> tuple[int, Json, bytes]:
    if isinstance(one, bytes):
        return 200, {}, one
    if not isinstance(one, dict):
        return 200, {}, json.dumps(one).encode()
    status = one.get("status")
    status = status if isinstance(status, int) and 200 <= status < 600 else 200
    wait = one.get("wait")
    headers = {"Retry-After": wait} if isinstance(wait, str) else {}
    body = one.get("body")
    return status, headers, body.encode("utf-8", "replace") if isinstance(body, str) else json.dumps(body).encode()


def answers() -> tuple[bytes, ...]:
    pods = [builders.NGINX, builders.ACCESS_TRUE]
    page = {"items": pods, "metadata": {"resourceVersion": "5", "continue": "t"}}
    status = {"kind": "Status", "reason": "Forbidden", "message": "no", "code": 403}
    event = json.dumps({"type": "ADDED", "object": pods[0]})
    return tuple(
        mutation.dumped(one)
        for one in (
            [{"body": page}, {"body": {**page, "metadata": {}}}],
            [{"status": 403, "body": status}],
            [{"status": 429, "wait": "1", "body": status}, {"body": page}],
            [{"status": 500, "body": "no JSON"}],
            [{"body": f"{event}\n{event}\n"}],
            [{"body": "[" * 3000}],
            [{"status": 410, "body": status}, {"body": {"items": []}}],
        )
    )


# ---- objects


def read_objects(data: bytes) -> str:
    """Objects of every kind: trimmed, of the shape of their kind or left out, and indexed."""
    found = loaded(data)
    if not isinstance(found, dict):
        return ""
    outcomes: list[Any] = []
    kept = {}
    for kind, items in found.items():
        items = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        try:
            kept[kind] = Collection(tuple(trim(kind, item) for item in items if item.get("metadata")))
        except WRONG_SHAPE as error:
            outcomes.append(f"{kind} {type(error).__name__}")
        if kind == "pods":
            outcomes.append(list(leftovers(items, 1e9)))
    snapshot = Snapshot(kept, {}, "", "")
    # What is left has the shape of its kind: nothing may go wrong.
    rest = sound(snapshot)
    outcomes.append([(kind, len(one.items), one.reason) for kind, one in rest.collections.items()])
    try:
        World(rest)
    except WRONG_SHAPE as error:
        outcomes.append(type(error).__name__)
    return hashlib.sha256(repr(outcomes).encode("utf-8", "surrogatepass")).hexdigest()


@cache
def objects() -> tuple[bytes, ...]:
    from tests.fuzz.targets.verbs import collections

    return (mutation.dumped(collections()),)


def quick(data: bytes) -> str:
    with patch("time.sleep", lambda _: None):
        return read_answer(data)


TARGETS = (
    Target("api", quick, cache(answers), mutation.json_input, (), short=200, long=60_000),
    Target("objects", read_objects, objects, mutation.json_input, (), short=150, long=40_000),
)
