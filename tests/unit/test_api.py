"""The API client against a small HTTP server that answers as it is told."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes.client import Configuration

from kubectl_netpol.cluster import api as api_module
from kubectl_netpol.cluster.api import PAGE, Api
from kubectl_netpol.cluster.connection import Connection
from kubectl_netpol.cluster.live import LiveSource
from kubectl_netpol.errors import ApiError, ConnectionFailed, NodeError
from kubectl_netpol.model.snapshot import NodeReading


@dataclass
class Request:
    method: str
    path: str
    query: dict
    headers: list
    body: bytes


@dataclass
class Answer:
    status: int = 200
    body: object = field(default_factory=dict)
    headers: dict = field(default_factory=dict)
    length: int | None = None
    """Content-Length, where it is to be a lie."""
    cut: bool = False
    """In chunks, one a line, as watches come, and without an end."""


class Server:
    """``answers``: one for each request, in order, or a function of the request."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.choose = None
        self.requests: list[Request] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self) -> None:
                parts = urlsplit(self.path)
                size = int(self.headers.get("Content-Length") or 0)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                asked = Request(self.command, parts.path, query, self.headers.items(), self.rfile.read(size))
                outer.requests.append(asked)
                answer = outer.choose(asked) if outer.choose else outer.answers.pop(0)
                data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.cut:
                    self.send_header("Transfer-Encoding", "chunked")
                else:
                    self.send_header("Content-Length", str(len(data) if answer.length is None else answer.length))
                self.end_headers()
                for line in data.splitlines(keepends=True) if answer.cut else [data]:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line) if answer.cut else line)
                self.close_connection = answer.cut or answer.length is not None

            do_GET = do_POST = do_DELETE = reply

            def log_message(self, *_) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # a client that gave up
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server():
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


@pytest.fixture
def waits(monkeypatch):
    """Sleeps, recorded instead of slept."""
    slept: list[float] = []
    monkeypatch.setattr(api_module.time, "sleep", slept.append)
    return slept


def client(server, **more) -> Api:
    configuration = Configuration(host=server.url)
    configuration.proxy = None
    return Api(Connection(configuration, "default", "test", **more))


def status(code: int, message: str = "no", reason: str = "Reason", **more) -> Answer:
    body = {"kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code}
    return Answer(code, body, **more)


def page(*names: str, token: str = "", version: str = "7") -> Answer:
    metadata = {"resourceVersion": version, **({"continue": token} if token else {})}
    return Answer(body={"metadata": metadata, "items": [{"metadata": {"name": name}} for name in names]})


def names(listing) -> list[str]:
    return [item["metadata"]["name"] for item in listing.items]


# ---- lists


def test_pages_are_put_together(server):
    server.answers = [page("a", "b", token="t/1=="), page("c", token="t2"), page("d", version="9")]
    api = client(server)
    found = api.list("/api/v1/pods", labelSelector="app=web")
    assert (names(found), found.resource_version, api.requests) == (["a", "b", "c", "d"], "7", 3)
    assert [r.query.get("continue") for r in server.requests] == [None, "t/1==", "t2"]
    assert {r.query["limit"] for r in server.requests} == {str(PAGE)}
    assert {r.query["labelSelector"] for r in server.requests} == {"app=web"}


@pytest.mark.parametrize("items", [None, []])
def test_an_empty_list(items, server):
    server.answers = [Answer(body={"metadata": {}, "items": items})]
    assert client(server).list("/api/v1/pods").items == ()


def test_an_expired_token_starts_over_once(server):
    gone = status(410, reason="Expired")
    server.answers = [page("a", token="t"), gone, page("a", token="u"), page("b")]
    assert names(client(server).list("/api/v1/pods")) == ["a", "b"]
    assert [r.query.get("continue") for r in server.requests] == [None, "t", None, "u"]


def test_and_only_once(server):
    server.answers = [page("a", token="t"), status(410), page("a", token="u"), status(410, "still gone")]
    with pytest.raises(ApiError, match=r"GET /api/v1/pods: the server forgot the list between two of its pages, twice"):
        client(server).list("/api/v1/pods")
    assert len(server.requests) == 4


# ---- retries


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("3", 3.0),
        ("0", 0.0),
        ("600", 10.0),
        ("-5", 0.0),
        ("nan", 0.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.25),
        (None, 0.25),
    ],
)
def test_a_read_is_tried_again_after_the_time_that_the_server_asks_for(header, expected, server, waits):
    server.answers = [status(429, headers={"Retry-After": header} if header else {}), Answer(body={"ok": 1})]
    assert client(server).get("/x") == {"ok": 1}
    assert waits == [expected]


@pytest.mark.parametrize("code", [429, 500, 503, 504])
def test_retries_end(code, server, waits):
    server.choose = lambda _: status(code, "busy")
    with pytest.raises(ApiError, match="busy") as failed:
        client(server).get("/x")
    assert (failed.value.status, len(server.requests), waits) == (code, 4, [0.25, 0.5, 1.0])


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 410, 501])
def test_final_answers_are_not_tried_again(code, server, waits):
    server.choose = lambda _: status(code)
    with pytest.raises(ApiError):
        client(server).get("/x")
    assert (len(server.requests), waits) == (1, [])


@pytest.mark.parametrize(
    "write",
    [lambda api: api.create("/x", {}), lambda api: api.delete("/x")],
    ids=["create", "delete"],
)
def test_writes_are_never_sent_twice(write, server, waits):
    server.choose = lambda _: status(429, headers={"Retry-After": "1"})
    with pytest.raises(ApiError) as failed:
        write(client(server))
    assert (failed.value.status, len(server.requests), waits) == (429, 1, [])


# ---- writes


def test_create_sends_json_and_returns_what_was_stored(server):
    server.answers = [Answer(201, {"metadata": {"uid": "u"}})]
    assert client(server).create("/pods", {"a": 1}, dryRun="All") == {"metadata": {"uid": "u"}}
    [asked] = server.requests
    assert (asked.method, json.loads(asked.body), asked.query) == ("POST", {"a": 1}, {"dryRun": "All"})
    assert ("Content-Type", "application/json") in asked.headers


def test_delete_sends_its_preconditions(server):
    server.choose = lambda _: Answer()
    client(server).delete("/pods/x", uid="u-1", grace_seconds=0)
    client(server).delete("/pods/x")
    first, second = (json.loads(r.body) for r in server.requests)
    assert (first["preconditions"], first["gracePeriodSeconds"]) == ({"uid": "u-1"}, 0)
    assert second == {"apiVersion": "v1", "kind": "DeleteOptions"}


def test_what_is_gone_is_deleted(server):
    server.answers = [status(404)]
    client(server).delete("/pods/x")


@pytest.mark.parametrize("code", [403, 409, 500])
def test_other_failures_of_delete_are_told(code, server):
    server.answers = [status(code, "not yours")]
    with pytest.raises(ApiError, match="not yours"):
        client(server).delete("/pods/x", uid="u")


# ---- errors


def test_an_error_is_the_servers_own_status_in_one_line(server):
    message = 'pods is forbidden: User "jane"\n  cannot list'
    server.answers = [status(403, message, "Forbidden")]
    with pytest.raises(ApiError) as failed:
        client(server).get("/x")
    error = failed.value
    assert error.message == 'pods is forbidden: User "jane" cannot list'
    assert (error.status, error.reason) == (403, "Forbidden")
    assert "docs/rbac.md" in error.hint


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "GET /x: HTTP 404"),
        (b"404 page\nnot found", "404 page not found"),
        (b"[1]", "[1]"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'{"message": null}', "GET /x: HTTP 404"),
        (b"x" * 5000, "x" * 300),
    ],
)
def test_errors_that_are_no_status(body, expected, server):
    server.answers = [Answer(404, body)]
    with pytest.raises(ApiError) as failed:
        client(server).get("/x")
    assert failed.value.message == expected


@pytest.mark.parametrize(("body", "says"), [(b"<html>", "the answer is not JSON"), (b"[1]", "not a JSON object")])
def test_answers_that_are_no_object(body, says, server):
    server.answers = [Answer(200, body)]
    with pytest.raises(ApiError, match=f"GET /x: .*{says}") as failed:
        client(server).get("/x")
    assert (failed.value.status, failed.value.reason) == (0, "BadAnswer")


@pytest.mark.parametrize("code", [200, 404])
def test_an_answer_that_is_cut_off(code, server):
    server.answers = [Answer(code, b'{"items": [', length=1000)]
    with pytest.raises(ApiError, match=r"GET /x: the answer of http://127\.0\.0\.1:\d+ was cut off") as failed:
        client(server).get("/x")
    assert failed.value.reason == "CutOff"
    assert "0x" not in failed.value.message


def test_nobody_there(server):
    api = client(server)
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(ConnectionFailed, match=r"no answer from http://127\.0\.0\.1:\d+ to GET /x: ") as failed:
        api.get("/x")
    assert "refused" in failed.value.message
    assert "0x" not in failed.value.message


def test_a_server_that_does_not_answer_is_given_up(server):
    release = threading.Event()
    server.choose = lambda _: (release.wait(5), Answer())[1]
    with pytest.raises(ConnectionFailed, match=r"to GET /x: .*timed out"):
        client(server, request_timeout=0.2).get("/x")
    release.set()


def test_redirects_are_not_followed(server):
    """They would carry the token to somebody else."""
    server.choose = lambda _: Answer(302, headers={"Location": f"{server.url}/elsewhere"})
    with pytest.raises((ApiError, ConnectionFailed)):
        client(server).get("/x")
    assert [r.path for r in server.requests] == ["/x"]


# ---- identity


def test_every_request_has_the_same_identity(server):
    server.choose = lambda _: Answer()
    api = client(server, headers={"Impersonate-User": "jane"}, impersonate_groups=("x", "y"))
    api.connection.configuration.api_key["BearerToken"] = "Bearer secret"
    api.get("/x")
    api.create("/x", {})
    api.delete("/x")
    for asked in server.requests:
        assert [value for name, value in asked.headers if name == "Impersonate-Group"] == ["x", "y"]
        assert [value for name, value in asked.headers if name == "Impersonate-User"] == ["jane"]
        assert [value for name, value in asked.headers if name.lower() == "authorization"] == ["Bearer secret"]
        assert next(v for n, v in asked.headers if n == "User-Agent").startswith("kubectl-netpol-ebpf/")


def test_the_token_is_not_shown_by_repr(server):
    api = client(server)
    api.connection.configuration.api_key["BearerToken"] = "Bearer secret"
    assert "secret" not in repr(api)


# ---- watch


def test_a_watch_gives_its_events(server):
    events = [{"type": "ADDED", "object": {"n": 1}}, {"type": "DELETED", "object": {"n": 2}}]
    server.answers = [Answer(body=b"\n".join(json.dumps(e).encode() for e in events) + b"\n\n")]
    found = list(client(server).watch("/pods", seconds=3.9, resourceVersion="7"))
    assert found == [("ADDED", {"n": 1}), ("DELETED", {"n": 2})]
    assert server.requests[0].query == {"resourceVersion": "7", "watch": "true", "timeoutSeconds": "3"}


def test_a_watch_that_is_refused_is_an_error(server):
    server.answers = [status(403, "no watch")]
    with pytest.raises(ApiError, match="no watch"):
        list(client(server).watch("/pods", seconds=1))


@pytest.mark.parametrize(
    "answer",
    [Answer(body=b'{"type": "ADDED", "object": {}}\n{"ty', cut=True), Answer(body=b'{"type": "ADDED"}\nnonsense\n')],
    ids=["cut", "garbage"],
)
def test_a_watch_that_breaks_ends_quietly(answer, server):
    server.answers = [answer]
    assert list(client(server).watch("/pods", seconds=1)) == [("ADDED", {})]


# ---- the live source on top


def source(server, read=None) -> LiveSource:
    return LiveSource(client(server), read or (lambda node, request, _: NodeReading({"node": node, **request})))


def test_collections_of_the_whole_cluster(server):
    server.choose = lambda asked: page(asked.path.rsplit("/", 1)[1])
    found = source(server).collections(["pods", "nodes", "policyendpoints"], ["default"])
    assert {kind: c.items[0]["metadata"]["name"] for kind, c in found.items()} == {
        "pods": "pods",
        "nodes": "nodes",
        "policyendpoints": "policyendpoints",
    }
    assert {r.path for r in server.requests} == {
        "/api/v1/pods",
        "/api/v1/nodes",
        "/apis/networking.k8s.aws/v1alpha1/policyendpoints",
    }


def test_where_the_cluster_may_not_be_listed_the_namespace_is_and_it_is_said(server):
    server.choose = lambda asked: page("a") if "/namespaces/" in asked.path else status(403, "may not")
    found = source(server).collections(["pods", "nodes"], ["shop"])
    assert [i["metadata"]["name"] for i in found["pods"].items] == ["a"]
    assert found["pods"].reason == "only namespaces shop: may not"
    assert (found["nodes"].items, found["nodes"].reason) == ((), "may not")


def test_nothing_allowed_at_all_is_a_reason(server):
    server.choose = lambda asked: status(403, f"may not {asked.path}")
    found = source(server).collections(["pods"], ["shop"])["pods"]
    assert (found.items, found.reason) == ((), "may not /api/v1/namespaces/shop/pods")


def test_a_kind_that_is_not_installed_is_absent_and_not_an_error(server):
    server.choose = lambda asked: status(404)
    found = source(server).collections(["policyendpoints"], ["shop"])["policyendpoints"]
    assert (found.absent, found.known) == (True, True)


def test_other_errors_end_the_question(server, waits):
    server.choose = lambda asked: status(401, "log in")
    with pytest.raises(ApiError, match="log in"):
        source(server).collections(["pods", "nodes"], ["shop"])
    assert len(server.requests) == 1


def test_nodes_that_cannot_be_read_have_a_reason_and_the_others_are_read(server):
    def read(node, request, follow):
        if node == "b":
            raise NodeError("no image", "set --image")
        return NodeReading({"node": node})

    found = source(server, read).nodes({"a": {}, "b": {}, "c": {}})
    assert [found[n].document for n in "abc"] == [{"node": "a"}, None, {"node": "c"}]
    assert found["b"].reason == "no image (set --image)"
    assert source(server, read).nodes({"b": {}})["b"].reason == "no image (set --image)"


def test_collections_of_namespaces_alone(server):
    server.choose = lambda asked: page(asked.path.split("/namespaces/")[1].replace("/", "-"))
    found = source(server).of_namespaces(["networkpolicies", "policyendpoints"], ["shop", "web"])
    assert [i["metadata"]["name"] for i in found["networkpolicies"].items] == [
        "shop-networkpolicies",
        "web-networkpolicies",
    ]
    assert found["policyendpoints"].known
    assert len(server.requests) == 4


@pytest.mark.parametrize(("code", "absent", "reason"), [(404, True, ""), (403, False, "no")])
def test_collections_of_namespaces_that_are_absent_or_forbidden(server, code, absent, reason):
    server.choose = lambda asked: status(code, "no")
    found = source(server).of_namespaces(["policyendpoints"], ["shop"])["policyendpoints"]
    assert (found.absent, found.reason, found.items) == (absent, reason, ())
