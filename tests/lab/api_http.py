"""HTTP: paths and parameters in, JSON, tables, streams and upgrades out."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import select
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from . import api_discovery as discovery
from . import api_errors as errors
from . import api_exec as execs
from . import api_protobuf, api_schema, api_tables
from .api_auth import User, access_review, rules_review
from .api_errors import ApiError, PageNotFoundError
from .api_faults import Fault
from .api_kubelet import node_address, node_is_ready
from .api_patch import APPLY
from .api_runtime import ExecError
from .api_selectors import Match, everything, field_selector, label_selector
from .api_service import Options
from .api_types import Resource
from .api_websocket import accept_key

if TYPE_CHECKING:
    from .apiserver import ApiServer

Json = dict[str, Any]

_FINAL = ("close", "http", "raw", "cut", "exec_cut", "exec_stall", "exec_change", "exec_error")
"""Trouble that is the whole answer, or comes inside of it: one of them at most for a request."""
_SUB_VERBS = {"exec": "exec", "attach": "attach", "log": "log"}


@dataclass
class Request:
    """One line of the request log. `verb` is the API's (list, watch, exec ...), "" for discovery and the like."""

    verb: str
    method: str
    path: str
    query: dict[str, list[str]]
    user: str
    user_agent: str
    body: Any
    resource: str = ""  # plural, with subresource: pods/exec
    namespace: str = ""
    name: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """What a path means."""

    resource: Resource
    namespace: str
    name: str
    subresource: str


def parse_path(path: str, find: Any) -> Target | None:
    """The resource that a path names; None for discovery and other paths."""
    match = re.fullmatch(r"/(?:api/(v1)|apis/([^/]+)/([^/]+))/(.+?)/?", path)
    if match is None:
        return None
    group, version = match.group(2) or "", match.group(1) or match.group(3)
    parts = [unquote(part) for part in match.group(4).split("/")]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) >= 3 and parts[2] not in ("status", "finalize"):
        namespace, parts = parts[1], parts[2:]
    resource = find(group, version, parts[0])
    if resource is None or len(parts) > 3 or bool(namespace) > resource.namespaced:
        raise PageNotFoundError
    name, subresource = [*parts, "", ""][1:3]
    if subresource and subresource not in resource.subresources:
        raise PageNotFoundError
    return Target(resource, namespace, name, subresource)


class _CutError(Exception):
    """The answer was cut on purpose; the connection must go."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "lab"
    disable_nagle_algorithm = True
    server: LabHttpServer

    # -- one request -----------------------------------------------------------------------------------------

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the request log is for tests."""

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_GET

    @property
    def api(self) -> ApiServer:
        return self.server.api

    def _handle(self) -> None:
        self.fault: Fault | None = None
        self.warnings: list[str] = []
        self.entry = Request("", self.command, "", {}, "", self.headers.get("User-Agent", ""), None)
        try:
            self._dispatch()
        except ApiError as error:
            self._respond(error.code, error.status(), headers=error.headers)
        except PageNotFoundError:
            self._respond_bytes(404, b"404 page not found\n", "text/plain; charset=utf-8")
        except (_CutError, ConnectionError, ssl.SSLError, TimeoutError):
            self._abort()
        except Exception as error:
            self.api.errors.append(error)
            with contextlib.suppress(OSError):
                self._respond(500, errors.internal(f"{type(error).__name__}: {error}").status())

    def _abort(self) -> None:
        """Close as a lost connection does: no goodbye, and a reset instead of an end."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.lost.add(self.connection)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _dispatch(self) -> None:
        raw = self._read_body()
        url = urlsplit(self.path)
        self.query = parse_qs(url.query, keep_blank_values=True)
        entry = self.entry
        entry.path, entry.query, entry.headers = url.path, self.query, dict(self.headers.items())
        entry.body = _peek(raw)
        try:
            target = parse_path(url.path, self.api.registry.find)
        except PageNotFoundError:
            target = None
            missing: PageNotFoundError | None = PageNotFoundError()
        else:
            missing = None
        if target:
            self._describe(target)
        self.api.requests.append(entry)
        user = self._user_or_none()
        entry.user = user.name if isinstance(user, User) else ""
        self._trouble(entry.user)
        if self.fault and self.fault.kind == "raw":
            self._respond_bytes(self.fault.status, self.fault.body, self.fault.content_type)
            return
        if isinstance(user, ApiError):
            raise user
        if missing:
            raise missing
        if target is None:
            self._other_path(url.path)
        else:
            self._resource(target, user, raw)

    def _user_or_none(self) -> User | ApiError:
        groups = self.headers.get_all("Impersonate-Group") or []
        try:
            return self.api.users.authenticate(
                self.headers.get("Authorization", ""), self.headers.get("Impersonate-User", ""), groups
            )
        except ApiError as error:
            return error

    def _describe(self, target: Target) -> None:
        entry = self.entry
        entry.namespace, entry.name = target.namespace, target.name
        entry.resource = target.resource.plural + (f"/{target.subresource}" if target.subresource else "")
        entry.verb = _SUB_VERBS.get(target.subresource) or self._verb(target)

    def _verb(self, target: Target) -> str:
        many = not target.name
        if self.command in ("GET", "HEAD"):
            if many or self._flag("watch"):
                return "watch" if self._flag("watch") else "list"
            return "get"
        if self.command == "DELETE":
            return "deletecollection" if many else "delete"
        return {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(self.command, self.command.lower())

    def _trouble(self, user: str) -> None:
        """What tests asked to go wrong."""
        entry, faults = self.entry, self.api.faults
        slow = faults.take(("slow", "call"), entry.verb, entry.method, entry.path, user)
        if slow:
            _strike(slow)
            self.api.closing.wait(slow.seconds)
        fault = faults.take(_FINAL, entry.verb, entry.method, entry.path, user)
        if fault is None:
            return
        if fault.kind in ("close", "http", "raw"):
            _strike(fault)
        if fault.kind == "close":
            raise _CutError
        if fault.kind == "http":
            raise _http_fault(fault)
        self.fault = fault

    # -- parameters ------------------------------------------------------------------------------------------

    def _param(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def _flag(self, name: str) -> bool:
        return self._param(name).lower() in ("true", "1")

    def _options(self) -> Options:
        validation = self._param("fieldValidation")
        if validation not in ("", "Ignore", "Warn", "Strict"):
            raise errors.bad_request(f'invalid fieldValidation "{validation}"')
        return Options(validation, self._param("dryRun") == "All", self.warnings)

    def _match(self, resource: Resource) -> Match:
        labels = label_selector(self._param("labelSelector"))
        fields = field_selector(self._param("fieldSelector"), resource)
        if labels is everything:
            return fields
        return lambda obj: labels(obj) and fields(obj)

    def _body(self, raw: bytes, optional: bool = False) -> Any:
        if not raw.strip():
            if optional:
                return None
            raise errors.bad_request("the request body is empty")
        kind = self.headers.get("Content-Type", "application/json").partition(";")[0].strip()
        if "protobuf" in kind:
            return api_protobuf.decode(raw)
        if "cbor" in kind:
            raise ApiError(415, f"the body of the request was in an unknown format: {kind}")
        try:
            return yaml.safe_load(raw) if "yaml" in kind else json.loads(raw)
        except (ValueError, yaml.YAMLError) as error:
            raise errors.bad_request(
                f"the object provided is unrecognized (must be of type {self.entry.resource}): couldn't get "
                f"version/kind; json parse error: {error}"
            ) from None

    # -- answers ---------------------------------------------------------------------------------------------

    def _respond(self, code: int, body: Json, headers: dict[str, str] | None = None) -> None:
        self._respond_bytes(code, json.dumps(body).encode() + b"\n", "application/json", headers)

    def _respond_bytes(self, code: int, data: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        self.entry.status = code
        self.send_response(code)
        self.send_header("Audit-Id", "00000000-0000-4000-a000-000000000000")
        self.send_header("Cache-Control", "no-cache, private")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        for warning in self.warnings:
            text = warning.replace("\\", "\\\\").replace('"', '\\"')
            self.send_header("Warning", f'299 - "{text}"')
        self.end_headers()
        if self.command != "HEAD":
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self.fault and self.fault.kind == "cut":
            left = max(0, self.fault.after_bytes - getattr(self, "_sent", 0))
            self._sent = getattr(self, "_sent", 0) + len(data)
            if len(data) >= left:
                self.wfile.write(data[:left])
                # An abrupt reset may overtake data: let what was sent arrive first.
                time.sleep(0.05)
                raise _CutError
        self.wfile.write(data)

    # -- what is no resource ---------------------------------------------------------------------------------

    def _other_path(self, path: str) -> None:
        body = self._document(path.rstrip("/"))
        if isinstance(body, bytes):
            self._respond_bytes(200, body, "text/plain; charset=utf-8")
        elif body.get("kind") == "APIGroupDiscoveryList":
            self._respond_bytes(200, json.dumps(body).encode(), discovery.AGGREGATED)
        else:
            self._respond(200, body)

    def _document(self, path: str) -> Json | bytes:
        registry = self.api.registry
        aggregated = discovery.wants_aggregated(self.headers.get("Accept", ""))
        if path in ("/api", "/apis") and aggregated and self.api.aggregated_discovery:
            return discovery.aggregated(registry, core=path == "/api")
        if path == "/version":
            return discovery.version_document(self.api.git_version)
        if path == "/api":
            return discovery.core_versions(self.api.address)
        if path == "/apis":
            return discovery.group_list(registry)
        if path in ("/healthz", "/livez", "/readyz"):
            return b"ok"
        if path.startswith("/openapi/"):
            return self._openapi(path)
        parts = path.strip("/").split("/")
        if parts[0] == "api" and len(parts) == 2:
            return discovery.resource_list(registry, "", parts[1])
        if parts[0] == "apis" and len(parts) == 2:
            return discovery.one_group(registry, parts[1])
        if parts[0] == "apis" and len(parts) == 3:
            return discovery.resource_list(registry, parts[1], parts[2])
        raise PageNotFoundError

    def _openapi(self, path: str) -> Json:
        resources = self.api.registry.all()
        if path == "/openapi/v3":
            prefixes = dict.fromkeys(resource.prefix.lstrip("/") for resource in resources)
            return {"paths": {p: {"serverRelativeURL": f"/openapi/v3/{p}"} for p in prefixes}}
        if path == "/openapi/v2":
            if "protobuf" in self.headers.get("Accept", "").split(",")[0]:
                raise ApiError(406, "only application/json is served here")
            return api_schema.Documents(resources).v2()
        found = [r for r in resources if r.prefix == path.removeprefix("/openapi/v3")]
        if not found:
            raise PageNotFoundError
        return api_schema.Documents(found).v3()

    # -- resources -------------------------------------------------------------------------------------------

    def _resource(self, target: Target, user: User, raw: bytes) -> None:
        resource, verb = target.resource, self._verb(target)
        self._authorize(target, user, verb)
        if target.subresource in ("exec", "attach"):
            self._exec(target)
        elif target.subresource == "log":
            self._log(target)
        elif target.subresource == "eviction":
            self._require(self.command == "POST")
            body = self._body(raw, optional=True) or {}
            self.api.service.delete(resource, target.namespace, target.name, body.get("deleteOptions"))
            self._respond(201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
        elif target.subresource == "scale":
            self._scale(target, verb, raw)
        else:
            self._plain(target, user, verb, raw)

    def _authorize(self, target: Target, user: User, verb: str) -> None:
        resource = target.resource
        if resource.group == "authorization.k8s.io":
            return  # everybody may ask about themselves
        full = resource.plural + (f"/{target.subresource}" if target.subresource else "")
        namespace = target.namespace
        if resource.kind == "Namespace":
            namespace = target.name
        user.require(verb, resource.group, full, namespace, target.name or self._one_name(verb))
        if target.subresource in ("exec", "attach") and verb == "get" and self.api.authorize_websocket_create:
            user.require("create", resource.group, full, namespace, target.name)

    def _one_name(self, verb: str) -> str:
        """A list or watch of one object counts as by its name, which a rule with resourceNames then allows."""
        found = re.fullmatch(r"metadata\.name==?([^,=!]+)", self._param("fieldSelector"))
        return found[1] if found and verb in ("list", "watch") else ""

    def _require(self, allowed: bool) -> None:
        if not allowed:
            raise ApiError(405, "the server does not allow this method on the requested resource", details={})

    def _plain(self, target: Target, user: User, verb: str, raw: bytes) -> None:
        resource, service = target.resource, self.api.service
        allowed = verb in resource.verbs and (verb != "create" or not target.name)
        self._require(allowed and (bool(target.namespace) or not resource.namespaced or verb in ("list", "watch")))
        if verb == "get":
            self._send_object(resource, self.api.store.get(resource, target.namespace, target.name))
        elif verb == "list":
            self._list(target)
        elif verb == "watch":
            self._watch(target)
        elif verb == "create":
            self._create(target, user, self._body(raw))
        elif verb == "update":
            done = service.update(
                resource, target.namespace, target.name, self._body(raw), self._options(), target.subresource
            )
            self._send_object(resource, done)
        elif verb == "patch":
            self._patch(target, user, raw)
        elif verb == "delete":
            options = self._delete_options(raw)
            dry = self._param("dryRun") == "All"
            done = service.delete(resource, target.namespace, target.name, options, dry)
            self._respond(200, done)
        elif verb == "deletecollection":
            options, match = self._delete_options(raw), self._match(resource)
            dry = self._param("dryRun") == "All"
            gone = service.delete_collection(resource, target.namespace or None, match, options, dry)
            self._send_list(resource, gone, {"resourceVersion": str(self.api.store.version)})

    def _delete_options(self, raw: bytes) -> Json:
        options: Json = self._body(raw, optional=True) or {}
        if self._param("gracePeriodSeconds"):
            options["gracePeriodSeconds"] = int(self._param("gracePeriodSeconds"))
        if self._param("propagationPolicy"):
            options["propagationPolicy"] = self._param("propagationPolicy")
        return options

    def _create(self, target: Target, user: User, body: Any) -> None:
        resource = target.resource
        if resource.group == "authorization.k8s.io":
            review = access_review if resource.kind == "SelfSubjectAccessReview" else rules_review
            if not isinstance(body, dict) or not isinstance(body.get("spec"), dict):
                raise errors.bad_request(f"{resource.kind} needs a spec")
            self._respond(201, review(user, body))
            return
        done = self.api.service.create(resource, target.namespace, body, self._options())
        self._send_object(resource, done, 201)

    def _patch(self, target: Target, user: User, raw: bytes) -> None:
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
        patch = self._body(raw)
        if kind == APPLY:
            if not self._param("fieldManager"):
                raise errors.invalid(
                    "PatchOptions",
                    "meta.k8s.io",
                    "",
                    [("fieldManager", "FieldValueRequired", "Required value: is required for apply patch")],
                )
            if self.api.store.find(target.resource, target.namespace, target.name) is None:
                user.require("create", target.resource.group, target.resource.plural, target.namespace, target.name)
        done, created = self.api.service.patch(
            target.resource, target.namespace, target.name, patch, kind, self._options(), target.subresource
        )
        self._send_object(target.resource, done, 201 if created else 200)

    def _scale(self, target: Target, verb: str, raw: bytes) -> None:
        resource, service = target.resource, self.api.service
        if verb in ("update", "patch"):
            replicas = ((self._body(raw) or {}).get("spec") or {}).get("replicas")
            patch = {"spec": {"replicas": replicas}}
            merge = "application/merge-patch+json"
            service.patch(resource, target.namespace, target.name, patch, merge, self._options())
        obj = self.api.store.get(resource, target.namespace, target.name)
        kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        self._respond(
            200,
            {
                "kind": "Scale",
                "apiVersion": "autoscaling/v1",
                "metadata": {k: v for k, v in obj["metadata"].items() if k in kept},
                "spec": {"replicas": obj["spec"].get("replicas", 1)},
                "status": {"replicas": (obj.get("status") or {}).get("replicas", 0)},
            },
        )

    # -- reading ---------------------------------------------------------------------------------------------

    def _as_table(self) -> bool:
        return api_tables.wants_table(self.headers.get("Accept", ""))

    def _send_object(self, resource: Resource, obj: Json, code: int = 200) -> None:
        if self._as_table():
            obj = api_tables.table(resource, [obj], {}, self._param("includeObject", "Metadata"))
        self._respond(code, obj)

    def _send_list(self, resource: Resource, items: list[Json], metadata: Json) -> None:
        if self._as_table():
            self._respond(200, api_tables.table(resource, items, metadata, self._param("includeObject", "Metadata")))
            return
        if not resource.custom:  # lists of built-in types leave out what the list itself says
            items = [{k: v for k, v in obj.items() if k not in ("kind", "apiVersion")} for obj in items]
        body = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata}
        self._respond(200, body | {"items": items})

    def _list(self, target: Target) -> None:
        resource = target.resource
        match = self._match(resource)
        try:
            limit = int(self._param("limit") or 0)
        except ValueError:
            raise errors.bad_request(f'strconv.ParseInt: parsing "{self._param("limit")}": invalid syntax') from None
        if limit and self.api.most_in_page:
            limit = min(limit, self.api.most_in_page)
        namespace = target.namespace or None
        version, token = self._param("resourceVersion"), self._param("continue")
        if token and version not in ("", "0"):
            raise errors.bad_request("specifying resource version is not allowed when using continue")
        exact = not self._param("labelSelector") and not self._param("fieldSelector")
        page = self.api.store.page(resource, namespace, match, limit, token, exact)
        metadata: Json = {"resourceVersion": str(page.version)}
        if page.token:
            metadata["continue"] = page.token
            if page.remaining is not None:
                metadata["remainingItemCount"] = page.remaining
        self._send_list(resource, page.items, metadata)

    def _watch(self, target: Target) -> None:
        resource, store = target.resource, self.api.store
        match = self._match(resource)
        if target.name:
            by_name = match

            def match(obj: Json) -> bool:
                return bool(obj["metadata"]["name"] == target.name and by_name(obj))

        version = self._param("resourceVersion")
        self.entry.status = 200
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        seconds = float(self._param("timeoutSeconds") or 1800)
        initial = self._flag("sendInitialEvents") or version in ("", "0")
        try:
            if initial:
                with store.lock:
                    start, items = store.version, store.list(resource, target.namespace or None, match)
                for obj in items:
                    self._event(resource, "ADDED", obj)
                if self._flag("sendInitialEvents"):
                    self._bookmark(resource, start, {"k8s.io/initial-events-end": "true"})
            else:
                start = int(version)
            self._stream(target, match, start, time.monotonic() + seconds)
        except ApiError as error:
            self._chunk({"type": "ERROR", "object": error.status()})
        except ValueError:
            self._chunk({"type": "ERROR", "object": errors.bad_request("invalid resource version").status()})
        self._write(b"0\r\n\r\n")

    def _stream(self, target: Target, match: Match, start: int, until: float) -> None:
        store, resource = self.api.store, target.resource
        bookmark = time.monotonic()
        while not self.api.closing.is_set() and (left := until - time.monotonic()) > 0:
            for change in store.changes_after(start, min(left, 0.2)):
                start = change.version
                if change.resource != resource:
                    continue
                if target.namespace and change.object["metadata"].get("namespace") != target.namespace:
                    continue
                kind = _seen_as(change.type, change.previous, change.object, match)
                if kind:
                    self._event(resource, kind, change.object)
            if self._client_left():
                raise _CutError
            if self._flag("allowWatchBookmarks") and time.monotonic() - bookmark > self.api.bookmark_seconds:
                bookmark = time.monotonic()
                self._bookmark(resource, start, {})

    def _client_left(self) -> bool:
        """A client says nothing more while it watches: whatever can be read is the end of the connection."""
        return bool(select.select([self.connection], [], [], 0)[0])

    def _bookmark(self, resource: Resource, version: int, annotations: dict[str, str]) -> None:
        meta: Json = {"resourceVersion": str(version), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = annotations
        obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}
        self._chunk({"type": "BOOKMARK", "object": obj})

    def _event(self, resource: Resource, kind: str, obj: Json) -> None:
        if self._as_table():
            metadata = {"resourceVersion": obj["metadata"]["resourceVersion"]}
            obj = api_tables.table(resource, [obj], metadata, self._param("includeObject", "Metadata"))
        self._chunk({"type": kind, "object": obj})

    def _chunk(self, event: Json) -> None:
        data = json.dumps(event).encode() + b"\n"
        self._write(b"%x\r\n%s\r\n" % (len(data), data))

    # -- pods ------------------------------------------------------------------------------------------------

    def _container(self, pod: Json) -> str:
        names = [c["name"] for c in pod["spec"]["containers"]]
        wanted = self._param("container")
        name = pod["metadata"]["name"]
        if wanted and wanted not in names:
            raise errors.bad_request(f"container {wanted} is not valid for pod {name}")
        if not wanted and len(names) > 1:
            raise errors.bad_request(
                f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]"
            )
        return wanted or names[0]

    def _reach_node(self, pod: Json) -> None:
        """The API server talks to the kubelet; when that is away the client hears it like this."""
        if not pod["spec"].get("nodeName"):
            raise errors.bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
        node = self.api.store.find(self.api.registry.of("Node"), None, pod["spec"]["nodeName"])
        if node is not None and not node_is_ready(node):
            raise errors.internal(f"error dialing backend: dial tcp {node_address(node)}:10250: i/o timeout")

    def _log(self, target: Target) -> None:
        pod = self.api.store.get(target.resource, target.namespace, target.name)
        container = self._container(pod)
        self._reach_node(pod)
        text = self.api.kubelet.logs(pod, container)
        if self._param("tailLines"):
            lines = text.splitlines(keepends=True)
            text = b"".join(lines[max(0, len(lines) - int(self._param("tailLines"))) :])
        self._respond_bytes(200, text, "text/plain")

    def _upgrade(self) -> str:
        """The protocol to speak, or a refusal."""
        if "websocket" not in self.headers.get("Upgrade", "").lower():
            raise ApiError(400, "unable to upgrade: only websocket connections are served here")
        if not self.headers.get("Sec-WebSocket-Key") or self.headers.get("Sec-WebSocket-Version") != "13":
            raise errors.bad_request("unable to upgrade: not a websocket handshake")
        offered = ",".join(self.headers.get_all("Sec-WebSocket-Protocol") or [])
        protocol = execs.choose_protocol(offered)
        if protocol is None:
            raise errors.bad_request(
                f"unable to upgrade: requested protocol(s) are not supported: [{offered}]; "
                f"supports [{' '.join(execs.PROTOCOLS)}]"
            )
        return protocol

    def _exec(self, target: Target) -> None:
        pod = self.api.store.get(target.resource, target.namespace, target.name)
        container = self._container(pod)
        argv = self.query.get("command") or []
        if target.subresource == "exec" and not argv:
            raise errors.bad_request("you must specify at least 1 command for the container")
        if not any(self._flag(name) for name in ("stdin", "stdout", "stderr")):
            raise errors.bad_request("you must specify at least 1 of stdin, stdout, stderr")
        self._reach_node(pod)
        protocol = self._upgrade()
        handle = self.api.kubelet.handle(pod)
        if handle is None:
            raise errors.internal(f'unable to upgrade connection: container not found ("{container}")')
        self.entry.status = 101
        self.close_connection = True
        self.send_response(101, "Switching Protocols")
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept_key(self.headers["Sec-WebSocket-Key"]))
        self.send_header("Sec-WebSocket-Protocol", protocol)
        self.end_headers()
        tty = self._flag("tty")
        if self.fault and self.fault.kind == "exec_error":
            self._session(protocol, None, tty).fail(execs.internal_error(self.fault.message))
            return
        try:
            if target.subresource == "attach":
                process = handle.attach(container)  # type: ignore[attr-defined]
            else:
                process = handle.exec(argv, stdin=self._flag("stdin"), tty=tty, container=container)
        except ExecError as error:
            self._session(protocol, None, tty).fail(_not_started(error))
            return
        session = self._session(protocol, process, tty)
        session.run()
        if not session.wire.open:
            self._abort()

    def _session(self, protocol: str, process: Any, tty: bool) -> execs.ExecSession:
        asked = {"stdout": execs.STDOUT, "stderr": execs.STDERR}
        return execs.ExecSession(
            self.connection,
            protocol,
            process,
            tty=tty,
            fault=self.fault,
            closing=self.api.closing,
            muted=frozenset(channel for name, channel in asked.items() if not self._flag(name)),
        )


def _not_started(error: ExecError) -> Json:
    text = (
        f"error executing command in container: failed to exec in container: failed to start exec: OCI runtime exec "
        f"failed: exec failed: unable to start container process: {error}: unknown"
    )
    return execs.internal_error(text)


def _peek(raw: bytes) -> Any:
    try:
        if raw.startswith(api_protobuf.MAGIC):
            return api_protobuf.decode(raw)
        return json.loads(raw) if raw else None
    except (ValueError, ApiError):
        return raw


def _strike(fault: Fault) -> None:
    if fault.then is not None:
        fault.then()


def _http_fault(fault: Fault) -> ApiError:
    texts = {
        401: "Unauthorized",
        429: "Too many requests, please try again later.",
        500: "Internal error occurred: etcdserver: request timed out",
        503: "apiserver is shutting down",
    }
    message = fault.message or texts.get(fault.status) or "the lab refuses this request"
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    details = {} if fault.retry_after is None else {"retryAfterSeconds": fault.retry_after}
    return ApiError(fault.status, message, reason=fault.reason or None, details=details or None, headers=headers)


def _seen_as(kind: str, previous: Json | None, obj: Json, match: Match) -> str | None:
    """How a watch with selectors sees a change: objects enter and leave what it looks at."""
    before = previous is not None and match(previous)
    if kind == "DELETED":
        return "DELETED" if before else None
    if not match(obj):
        return "DELETED" if before else None
    return "MODIFIED" if before else "ADDED"


class LabHttpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, api: ApiServer, tls: ssl.SSLContext | None) -> None:
        self.api = api
        self.tls = tls
        self.lost: set[Any] = set()
        self.open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), Handler)

    def server_bind(self) -> None:
        # Without the look-up of our own name that the base class does.
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's thread: a slow handshake must not hold up the others."""
        connection = request
        try:
            if self.tls:
                request.settimeout(10)
                connection = self.tls.wrap_socket(request, server_side=True)
                connection.settimeout(None)
            self.open.add(connection)
            Handler(connection, client_address, self)
        except (OSError, ssl.SSLError):
            pass
        finally:
            self.open.discard(connection)
            self._close(connection)

    def _close(self, connection: Any) -> None:
        with contextlib.suppress(OSError):
            if connection in self.lost:
                self.lost.discard(connection)
            elif isinstance(connection, ssl.SSLSocket):
                connection.settimeout(1)
                connection.unwrap()
        with contextlib.suppress(OSError):
            connection.close()

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(OSError):
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are everyday life here."""

    def close_connections(self) -> None:
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
