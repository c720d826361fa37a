"""The Kubernetes API as raw JSON: get, paged list, watch, create, delete, exec.

The generated classes of the ``kubernetes`` package are not used: turning 10,000 pods into model objects
costs more than all the rest of a question. Its configuration (kubeconfig, TLS, credentials plugins,
proxies) and its connection pool are.
"""

from __future__ import annotations

import builtins
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from kubectl_netpol import __version__
from kubectl_netpol.cluster.connection import Connection
from kubectl_netpol.cluster.refusals import PROXY, cause, no_connection, refused
from kubectl_netpol.errors import ApiError, ConnectionFailed

Json = dict[str, Any]

PAGE = 500
"""Objects per list request, the chunk size of kubectl."""
DEFAULT_TIMEOUT = 30.0
"""Seconds without an answer before a request is given up."""
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
RETRY_STATUSES = {429, 500, 503, 504}
"""Answers that say "later": retried for reads only, as client-go does."""
RETRIES = 3
LONGEST_RETRY_WAIT = 10.0


@dataclass(frozen=True)
class Listing:
    """All objects of one kind, and the resourceVersion of the collection."""

    items: tuple[Json, ...]
    resource_version: str


@dataclass
class Api:
    """One connection to one API server. ``requests`` counts every HTTP request sent."""

    connection: Connection
    requests: int = 0
    _pool: Any = field(default=None, repr=False)

    @property
    def host(self) -> str:
        return str(self.connection.configuration.host)

    @property
    def namespace(self) -> str:
        return self.connection.namespace

    def get(self, path: str, **query: str) -> Json:
        """GET one object. Raises ``ApiError`` with the Status of the server."""
        return self._json("GET", path, query)

    def list(self, path: str, **query: str) -> Listing:
        """GET all pages of a collection. A token that expired on the way (410) starts over, once."""
        try:
            return self._list(path, query)
        except ApiError as error:
            if error.status != 410:
                raise
        try:
            return self._list(path, query)
        except ApiError as error:
            if error.status != 410:
                raise
            # The server's own sentence is a paragraph on continue tokens.
            what = f"GET {path}: the server forgot the list between two of its pages, twice"
            raise ApiError(
                410, error.reason, what, "try again: lists of a busy cluster are kept for a few minutes only"
            ) from error

    def table(self, path: str, **query: str) -> Json:
        """GET the first page of a collection as the table that `kubectl get` prints, and try only once."""
        timeout = self.connection.request_timeout or DEFAULT_TIMEOUT
        response = self._send("GET", path, query, None, timeout=timeout, accept=TABLE)
        self._raise_for_status(response, "GET", path)
        found: Json = json.loads(self._read(response, "GET", path))
        return found

    def create(self, path: str, body: Json, **query: str) -> Json:
        """POST an object and return it as the server stored it."""
        return self._json("POST", path, query, body)

    def delete(self, path: str, *, uid: str = "", grace_seconds: int | None = None) -> None:
        """DELETE one object; with ``uid`` only if it is still that one. A 404 is not an error."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            self._json("DELETE", path, {}, options)
        except ApiError as error:
            if error.status != 404:
                raise

    def watch(self, path: str, *, seconds: float, **query: str) -> Iterator[tuple[str, Json]]:
        """Yield (type, object) of a watch that the server ends after ``seconds``.

        Ends quietly when the connection breaks: the caller looks again, as every watcher must.
        """
        parameters = {**query, "watch": "true", "timeoutSeconds": str(max(1, int(seconds)))}
        response = self._send("GET", path, parameters, None, timeout=seconds + 5)
        self._raise_for_status(response, "GET", path)
        try:
            for line in _lines(response):
                event = json.loads(line)
                found = event.get("object")
                yield str(event.get("type")), found if isinstance(found, dict) else {}
        except Exception as error:
            if isinstance(error, (ApiError, ConnectionFailed)):
                raise
            return
        finally:
            response.close()

    def websocket(self, path: str, query: Sequence[tuple[str, str]], protocols: Sequence[str]) -> Any:
        """Open a WebSocket, with the same identity (impersonation included) as every other request."""
        from kubectl_netpol.cluster.stream import open_websocket

        self.requests += 1
        url = f"{self.host}{path}?{urlencode(query)}"
        return open_websocket(self.connection, url, self.headers(), list(protocols))

    def headers(self) -> builtins.list[tuple[str, str]]:
        """Headers of every request: a list, since ``Impersonate-Group`` may repeat."""
        configuration = self.connection.configuration
        headers = [("Accept", "application/json"), ("User-Agent", f"kubectl-netpol-ebpf/{__version__}")]
        for setting in configuration.auth_settings().values():
            if setting["value"]:
                headers.append((setting["key"], setting["value"]))
        headers.extend(self.connection.headers.items())
        headers.extend(("Impersonate-Group", group) for group in self.connection.impersonate_groups)
        return headers

    def _list(self, path: str, query: Mapping[str, str]) -> Listing:
        items: builtins.list[Json] = []
        token, version = "", ""
        while True:
            page = dict(query, limit=str(PAGE))
            if token:
                page["continue"] = token
            body = self._json("GET", path, page)
            found, metadata = body.get("items") or [], body.get("metadata") or {}
            if not isinstance(found, list) or not isinstance(metadata, dict):
                raise ApiError(0, "BadAnswer", f"GET {path}: the answer is not a list of objects", PROXY)
            items.extend(item for item in found if isinstance(item, dict))
            version = version or str(metadata.get("resourceVersion") or "")
            before, token = token, str(metadata.get("continue") or "")
            if not token:
                return Listing(tuple(items), version)
            if token == before:
                raise ApiError(0, "BadAnswer", f"GET {path}: the list does not end: its next page is this one")

    def _json(self, method: str, path: str, query: Mapping[str, str], body: Json | None = None) -> Json:
        timeout = self.connection.request_timeout or DEFAULT_TIMEOUT
        for attempt in range(RETRIES + 1):
            response = self._send(method, path, query, body, timeout=timeout)
            wait = _retry_wait(response, attempt) if method == "GET" else None
            if wait is None:
                break
            response.drain_conn()
            response.release_conn()
            time.sleep(wait)
        self._raise_for_status(response, method, path)
        data = self._read(response, method, path)
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            what = f"{method} {path}: the answer is not JSON ({error})"
            raise ApiError(0, "BadAnswer", what, PROXY) from error
        if not isinstance(document, dict):
            raise ApiError(0, "BadAnswer", f"{method} {path}: the answer is not a JSON object", PROXY)
        return document

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Json | None,
        *,
        timeout: float,
        accept: str = "application/json",
    ) -> Any:
        import urllib3
        from urllib3.util import Timeout

        headers = urllib3.HTTPHeaderDict(self.headers())
        headers["Accept"] = accept
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        # Half a surrogate pair, which JSON can hold: the server will say that it does not know that token.
        url = f"{self.host}{path}" + (f"?{urlencode(query, errors='replace')}" if query else "")
        self.requests += 1
        try:
            return self._pool_manager().request(
                method,
                url,
                body=data,
                headers=headers,
                timeout=Timeout(connect=min(timeout, 15.0), read=timeout),
                preload_content=False,
                # Retry-After is for ``_json``: urllib3 would make a broken connection of such an answer.
                retries=urllib3.Retry(
                    connect=1, read=0, redirect=0, status=0, other=0, respect_retry_after_header=False
                ),
            )
        except urllib3.exceptions.HTTPError as error:
            raise no_connection(error, method, self.host, path) from error

    def _read(self, response: Any, method: str, path: str) -> bytes:
        import urllib3

        try:
            data = response.read()
        except urllib3.exceptions.HTTPError as error:
            what = f"{method} {path}: the answer of {self.host} was cut off ({cause(error)})"
            raise ApiError(0, "CutOff", what, "try again") from error
        finally:
            response.release_conn()
        return bytes(data)

    def _raise_for_status(self, response: Any, method: str, path: str) -> None:
        if response.status < 400:
            return
        raise refused(response.status, self._read(response, method, path), method, self.host, path)

    def _pool_manager(self) -> Any:
        if self._pool is None:
            from kubernetes.client.rest import RESTClientObject

            self._pool = RESTClientObject(self.connection.configuration).pool_manager
        return self._pool


def _lines(response: Any) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(65536, decode_content=True):
        *complete, rest = (rest + chunk).split(b"\n")
        yield from (line for line in complete if line.strip())


def _retry_wait(response: Any, attempt: int) -> float | None:
    """Seconds to wait before the next try, or None where the answer is final."""
    if response.status not in RETRY_STATUSES or attempt >= RETRIES:
        return None
    try:
        wait = float(response.headers.get("Retry-After", ""))
    except ValueError:
        wait = 0.25 * 2**attempt
    # In this order a wait that is not a number is none.
    return min(max(0.0, wait), LONGEST_RETRY_WAIT)
