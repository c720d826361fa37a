"""Trouble on demand, and the request log."""

from __future__ import annotations

import json
import time

import pytest
import urllib3
from kubernetes import client
from kubernetes.client.rest import ApiException

from tests.lab.apiserver import ApiServer
from tests.lab_selftest.apiserver_support import api_client, core, pod_body, raw, server

__all__ = ["core", "server"]


@pytest.mark.parametrize("code", [401, 403, 404, 409, 410, 429, 500, 503])
def test_statuses(server: ApiServer, core: client.CoreV1Api, code: int) -> None:
    server.faults.http(code, "/pods", verb="list", count=1, retry_after=0, message="by order of the lab")
    with pytest.raises(ApiException) as refused:
        client.CoreV1Api(without_retries(server)).list_namespaced_pod("default")
    assert refused.value.status == code
    assert json.loads(refused.value.body)["message"] == "by order of the lab"
    assert refused.value.headers["Retry-After"] == "0"
    core.list_namespaced_pod("default")


def without_retries(server: ApiServer) -> client.ApiClient:
    made = api_client(server)
    made.rest_client.pool_manager.connection_pool_kw["retries"] = False
    return made


def test_count_skip_and_verb(server: ApiServer) -> None:
    fault = server.faults.http(503, verb="list", count=2, skip=1)
    codes = [raw(server, "GET", "/api/v1/namespaces/default/pods")[0] for _ in range(5)]
    assert codes == [200, 503, 503, 200, 200]
    assert fault.hits == 2
    assert raw(server, "GET", "/api/v1/namespaces/default")[0] == 200


def test_closed_and_cut(server: ApiServer) -> None:
    api = client.CoreV1Api(without_retries(server))
    server.faults.close("/pods", count=1)
    with pytest.raises((urllib3.exceptions.HTTPError, ApiException)):
        api.list_namespaced_pod("default")
    for number in range(20):
        server.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{number}"}})
    server.faults.cut(500, "/configmaps", count=1)
    with pytest.raises((urllib3.exceptions.HTTPError, ApiException)):
        api.list_namespaced_config_map("default")
    assert len(api.list_namespaced_config_map("default").items) == 20


def test_slow(server: ApiServer) -> None:
    server.faults.slow(0.4, "/pods", count=1)
    begin = time.monotonic()
    assert raw(server, "GET", "/api/v1/pods")[0] == 200
    assert time.monotonic() - begin >= 0.4


def test_malformed_and_unknown(server: ApiServer) -> None:
    code, body = raw(server, "POST", "/api/v1/namespaces/default/pods", b"{not json")
    assert code == 400 and json.loads(body)["kind"] == "Status"
    assert raw(server, "GET", "/api/v1/unknown") == (404, b"404 page not found\n")
    assert raw(server, "GET", "/apis/no.such.group/v1/things") == (404, b"404 page not found\n")
    assert raw(server, "POST", "/api/v1/pods", b"{}")[0] == 405
    assert raw(server, "GET", "/api/v1/pods", token="wrong")[0] == 401
    assert raw(server, "GET", "/api/v1/namespaces/default/pods/p/exec?command=a&stdout=1")[0] == 404


def test_request_log(server: ApiServer, core: client.CoreV1Api) -> None:
    before = len(server.requests)
    core.create_namespaced_pod("default", pod_body())
    core.list_namespaced_pod("default", label_selector="a=b")
    create, listing = server.requests[before:]
    assert (create.verb, create.method, create.resource, create.status) == ("create", "POST", "pods", 201)
    assert create.body["metadata"]["name"] == "p" and create.user == "admin"
    assert (listing.verb, listing.query["labelSelector"]) == ("list", ["a=b"])
    assert "OpenAPI-Generator" in listing.user_agent or listing.user_agent


def test_dry_run_changes_nothing(server: ApiServer, core: client.CoreV1Api) -> None:
    made = core.create_namespaced_pod("default", pod_body(), dry_run="All")
    assert made.spec.dns_policy == "ClusterFirst"
    assert server.list("Pod") == []


def test_plain_http(tmp_path: object) -> None:
    with ApiServer(tls=False) as server:
        api = client.CoreV1Api(api_client(server))
        assert api.list_namespace().items[0].metadata.name == "default"


def test_start_and_stop_are_quick() -> None:
    begin = time.monotonic()
    for _ in range(5):
        ApiServer().start().close()
    assert time.monotonic() - begin < 5
