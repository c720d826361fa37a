"""The one place where objects live: versions, history for watches, snapshots for paged lists.

Objects in the store are never changed in place: a write puts a new dict. So what a reader got stays as it was,
which makes a list over several pages one consistent picture, and lets big lists be sent without copies.
"""

from __future__ import annotations

import base64
import copy
import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

from .api_errors import already_exists, bad_request, conflict, expired, not_found
from .api_selectors import Match, everything
from .api_types import Resource

Json = dict[str, Any]
Objects: TypeAlias = list[Json]  # the class below has a method `list`
Key = tuple[str, str]  # namespace ("" for cluster-scoped), name


class Change(NamedTuple):
    """One change of one object, as watches and callbacks see it."""

    type: str  # ADDED, MODIFIED, DELETED
    resource: Resource
    object: Json
    previous: Json | None
    version: int


class Page(NamedTuple):
    items: list[Json]
    version: int
    token: str
    remaining: int | None


Changes: TypeAlias = list[Change]

TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list "
    "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
    "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
    "modified, or deleted between the time the first chunk was returned and now may show up in the list."
)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def new_uid() -> str:
    raw = secrets.token_hex(16)
    return f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-a{raw[17:20]}-{raw[20:32]}"


def key_of(obj: Json) -> Key:
    return obj["metadata"].get("namespace") or "", obj["metadata"]["name"]


def encode_token(version: int, after: Key) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": "/".join(after)})
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_token(token: str) -> tuple[int, Key]:
    try:
        raw = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, _, name = raw["start"].rpartition("/")
        return int(raw["rv"]), (namespace, name)
    except (ValueError, KeyError, TypeError) as error:
        raise bad_request(f"continue key is not valid: {error}") from None


class Store:
    def __init__(self, *, history: int = 20000, token_seconds: float = 300) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._objects: dict[tuple[str, str], dict[Key, Json]] = {}
        self._version = 1000
        self._history: deque[Change] = deque(maxlen=history)
        self._oldest = self._version
        self._snapshots: dict[tuple[str, str, int], tuple[float, list[Json]]] = {}
        self._token_seconds = token_seconds
        self._listeners: list[Callable[[Change], None]] = []
        self._undelivered: deque[Change] = deque()
        self._depth = 0

    # -- reading ---------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        return self._version

    def _table(self, resource: Resource) -> dict[Key, Json]:
        return self._objects.setdefault((resource.group, resource.plural), {})

    def find(self, resource: Resource, namespace: str | None, name: str) -> Json | None:
        with self.lock:
            return self._table(resource).get((namespace or "" if resource.namespaced else "", name))

    def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        found = self.find(resource, namespace, name)
        if found is None:
            raise not_found(resource.plural, resource.group, name)
        return found

    def list(self, resource: Resource, namespace: str | None = None, match: Match = everything) -> Objects:
        """All objects, in the order of the real server's storage keys."""
        with self.lock:
            items = sorted(self._table(resource).items())
        return [obj for key, obj in items if (not namespace or key[0] == namespace) and match(obj)]

    def page(
        self, resource: Resource, namespace: str | None, match: Match, limit: int, token: str, exact: bool
    ) -> Page:
        """One page of a list; later pages come from the snapshot that the first page was cut from."""
        with self.lock:
            if not token:
                version, rest = self._version, self.list(resource, namespace, match)
                after: Key = ("", "")
            else:
                version, after = decode_token(token)
                rest = self._continued(resource, namespace, match, version, after)
                if version < 0:
                    version = self._version
            shown = rest[:limit] if limit else rest
            if len(shown) == len(rest):
                return Page(shown, version, "", None)
            self._remember(resource, version)
            left = len(rest) - len(shown)
            return Page(shown, version, encode_token(version, key_of(shown[-1])), left if exact else None)

    def _remember(self, resource: Resource, version: int) -> None:
        key = (resource.group, resource.plural, version)
        if key not in self._snapshots:
            self._snapshots[key] = (time.monotonic(), self.list(resource))

    def _continued(self, resource: Resource, namespace: str | None, match: Match, version: int, after: Key) -> Objects:
        if version < 0:  # the token of a 410 answer: go on with what is there now
            items = self.list(resource)
        else:
            taken = self._snapshots.get((resource.group, resource.plural, version))
            if taken is None or time.monotonic() - taken[0] > self._token_seconds:
                raise expired(TOO_OLD, metadata={"continue": encode_token(-1, after)})
            items = taken[1]
        return [o for o in items if key_of(o) > after and (not namespace or key_of(o)[0] == namespace) and match(o)]

    def expire_tokens(self) -> None:
        """What compaction of etcd does to lists that are still being paged."""
        with self.lock:
            self._snapshots.clear()

    def compact(self) -> None:
        """Forget history: open pages and watches from old versions get 410."""
        with self.lock:
            self.expire_tokens()
            self._history.clear()
            self._oldest = self._version

    def check_version(self, version: int) -> None:
        with self.lock:
            if version < self._oldest:
                raise expired(f"too old resource version: {version} ({self._oldest})")

    def changes_after(self, version: int, timeout: float) -> Changes:
        """Changes newer than version; waits up to timeout for the first one."""
        with self.changed:
            if self._version <= version:
                self.changed.wait(timeout)
            self.check_version(version)
            found = []
            for change in reversed(self._history):
                if change.version <= version:
                    break
                found.append(change)
            return found[::-1]

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    # -- writing ---------------------------------------------------------------------------------------------

    def on_change(self, listener: Callable[[Change], None]) -> None:
        self._listeners.append(listener)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Several writes as one; listeners hear of them after the lock has been given back."""
        self.lock.acquire()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            pending = [] if self._depth else list(self._undelivered)
            if pending:
                self._undelivered.clear()
            self.lock.release()
            for change in pending:
                for listener in self._listeners:
                    listener(change)

    def _commit(self, kind: str, resource: Resource, obj: Json, previous: Json | None) -> Json:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        table = self._table(resource)
        if kind == "DELETED":
            table.pop(key_of(obj), None)
        else:
            table[key_of(obj)] = obj
        change = Change(kind, resource, obj, previous, self._version)
        if len(self._history) == self._history.maxlen:
            self._oldest = self._history[0].version
        self._history.append(change)
        self._undelivered.append(change)
        self.changed.notify_all()
        return obj

    def create(self, resource: Resource, obj: Json) -> Json:
        """Put a new object with the metadata that only the server can give."""
        with self.transaction():
            new = copy.deepcopy(obj)
            meta = new["metadata"]
            if self.find(resource, meta.get("namespace"), meta["name"]) is not None:
                raise already_exists(resource.plural, resource.group, meta["name"])
            meta.setdefault("uid", new_uid())
            meta.setdefault("creationTimestamp", now())
            if resource.kind in _WITH_GENERATION or resource.custom:
                meta.setdefault("generation", 1)
            return self._commit("ADDED", resource, new, None)

    def update(self, resource: Resource, obj: Json) -> Json:
        """Replace an object; a resourceVersion in obj must be the current one. No change, no event."""
        with self.transaction():
            new = copy.deepcopy(obj)
            old = self.get(resource, new["metadata"].get("namespace"), new["metadata"]["name"])
            given = new["metadata"].get("resourceVersion")
            if given and given != old["metadata"]["resourceVersion"]:
                why = "the object has been modified; please apply your changes to the latest version and try again"
                raise conflict(resource.plural, resource.group, old["metadata"]["name"], why)
            for fixed in ("uid", "creationTimestamp", "resourceVersion", "generation"):
                if fixed in old["metadata"]:
                    new["metadata"][fixed] = old["metadata"][fixed]
            if new == old:
                return old
            if "generation" in new["metadata"] and new.get("spec") != old.get("spec"):
                new["metadata"]["generation"] += 1
            if _gone(new):
                return self._commit("DELETED", resource, new, old)
            return self._commit("MODIFIED", resource, new, old)

    def change(
        self, resource: Resource, namespace: str | None, name: str, edit: Callable[[Json], object]
    ) -> Json | None:
        """Read, edit a copy, write; None when the object is no longer there."""
        with self.transaction():
            old = self.find(resource, namespace, name)
            if old is None:
                return None
            new = copy.deepcopy(old)
            edit(new)
            return self.update(resource, new)

    def remove(self, resource: Resource, namespace: str | None, name: str, uid: str | None = None) -> Json | None:
        """Take an object away now, whatever its finalizers; with uid only that very object."""
        with self.transaction():
            old = self.find(resource, namespace, name)
            if old is None or (uid and old["metadata"]["uid"] != uid):
                return None
            return self._commit("DELETED", resource, copy.deepcopy(old), old)


_WITH_GENERATION = {"Pod", "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "NetworkPolicy"}


def _gone(obj: Json) -> bool:
    """An object that is being deleted goes with its last finalizer; pods wait for their node as well."""
    meta = obj["metadata"]
    waiting = meta.get("finalizers") or (obj.get("kind") == "Pod" and meta.get("deletionGracePeriodSeconds") != 0)
    return bool(meta.get("deletionTimestamp")) and not waiting
