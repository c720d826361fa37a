"""The API server stand-in as the Python client sees it."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

from tests.lab.api_admission import pod_security_violations
from tests.lab.apiserver import ApiServer, Rule, make_node
from tests.lab_selftest.apiserver_support import NODE, api_client, core, pod_body, raw, server

__all__ = ["core", "server"]


def status(error: ApiException) -> dict[str, Any]:
    return json.loads(error.body)  # type: ignore[no-any-return]


def running(server: ApiServer, name: str = "p", **spec: Any) -> dict[str, Any]:
    server.create(pod_body(name, **spec))
    return server.wait_running(name)


def shell(core: client.CoreV1Api, script: str, **options: Any) -> Any:
    wanted = {
        "stdin": False,
        "stdout": True,
        "stderr": True,
        "tty": False,
        "_preload_content": False,
    } | options
    return stream(core.connect_get_namespaced_pod_exec, "p", "default", command=["sh", "-c", script], **wanted)


def test_life_of_a_pod(server: ApiServer, core: client.CoreV1Api) -> None:
    made = core.create_namespaced_pod("default", {**pod_body(), "metadata": {"generateName": "debug-"}})
    name = made.metadata.name
    assert name.startswith("debug-") and len(name) == 11
    assert made.metadata.uid and made.metadata.resource_version and made.metadata.creation_timestamp
    assert made.spec.dns_policy == "ClusterFirst" and made.spec.restart_policy == "Always"
    assert made.spec.service_account_name == "default"
    assert made.spec.volumes[0].projected.sources
    server.wait_running(name)
    pod = core.read_namespaced_pod(name, "default")
    assert pod.spec.node_name == NODE
    assert pod.status.host_ip == "192.168.0.10" and pod.status.pod_ips[0].ip == pod.status.pod_ip
    assert {c.type: c.status for c in pod.status.conditions}["Ready"] == "True"
    assert pod.status.container_statuses[0].state.running.started_at
    reasons = [event.reason for event in core.list_namespaced_event("default").items]
    assert reasons.index("Scheduled") >= 0 and "Started" in reasons
    gone = core.delete_namespaced_pod(name, "default", grace_period_seconds=1)
    assert gone.metadata.deletion_timestamp and gone.metadata.deletion_grace_period_seconds == 1
    server.wait_gone("Pod", name)
    with pytest.raises(ApiException) as missing:
        core.delete_namespaced_pod(name, "default")
    assert (missing.value.status, status(missing.value)["message"]) == (404, f'pods "{name}" not found')


def test_no_token_volume_when_not_wanted(core: client.CoreV1Api) -> None:
    made = core.create_namespaced_pod("default", pod_body(automountServiceAccountToken=False))
    assert made.spec.volumes is None and made.spec.containers[0].volume_mounts is None


def test_preconditions(server: ApiServer, core: client.CoreV1Api) -> None:
    pod = running(server)
    body = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="somebody-else"))
    with pytest.raises(ApiException) as refused:
        core.delete_namespaced_pod("p", "default", body=body)
    assert refused.value.status == 409 and "the UID in the precondition (somebody-else)" in refused.value.body
    uid = pod["metadata"]["uid"]
    body = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=uid), grace_period_seconds=0)
    core.delete_namespaced_pod("p", "default", body=body)
    assert server.find("Pod", "p") is None


def test_exec_channels(server: ApiServer, core: client.CoreV1Api) -> None:
    running(server)
    session = shell(core, "echo out; echo err >&2; exit 3")
    session.run_forever(timeout=10)
    assert (session.read_stdout(), session.read_stderr(), session.returncode) == ("out\n", "err\n", 3)
    session = shell(core, "exit 0")
    session.run_forever(timeout=10)
    assert session.returncode == 0
    assert shell(core, "echo all", _preload_content=True) == "all\n"


@pytest.mark.parametrize("binary", [True, False])
def test_exec_stdin(server: ApiServer, core: client.CoreV1Api, binary: bool) -> None:
    """Binary frames and text frames; v5 can end the input, the command sees end of file."""
    running(server)
    session = shell(core, "tr a-z A-Z", stdin=True, binary=binary)
    assert session.subprotocol == "v5.channel.k8s.io"
    session.write_stdin(b"shout\n" if binary else "shout\n")
    session.close_channel(0)
    session.run_forever(timeout=10)
    assert session.read_stdout() in (b"SHOUT\n", "SHOUT\n")
    assert session.returncode == 0


def test_exec_v4(server: ApiServer, core: client.CoreV1Api) -> None:
    running(server)
    core.api_client.set_default_header("sec-websocket-protocol", "v4.channel.k8s.io")
    session = shell(core, "read line; echo got $line", stdin=True)
    assert session.subprotocol == "v4.channel.k8s.io"
    session.write_stdin("it\n")
    session.run_forever(timeout=10)
    assert session.read_stdout() == "got it\n"


def test_exec_tty(server: ApiServer, core: client.CoreV1Api) -> None:
    running(server)
    session = shell(core, "test -t 1 && stty size; echo err >&2", tty=True, stdin=True)
    session.run_forever(timeout=10)
    assert session.read_stdout().splitlines()[-1] == "err"
    assert session.returncode == 0


def test_exec_ten_megabytes(server: ApiServer, core: client.CoreV1Api) -> None:
    running(server)
    size = 10 * 1024 * 1024
    program = f"import random,sys;random.seed(1);sys.stdout.buffer.write(random.randbytes({size}))"
    session = shell(core, f"python3 -c '{program}'", binary=True)
    session.run_forever(timeout=30)
    random.seed(1)
    assert session.read_stdout() == random.randbytes(size)
    assert session.returncode == 0


def test_exec_refusals(server: ApiServer, core: client.CoreV1Api) -> None:
    running(server)
    for options, code, words in (
        ({"container": "other"}, 400, "container other is not valid for pod p"),
        ({"stdout": False, "stderr": False}, 400, "at least 1 of stdin, stdout, stderr"),
    ):
        with pytest.raises(ApiException) as refused:
            shell(core, "true", **options)
        assert f"Handshake status {code}" in str(refused.value)
        assert words in str(refused.value)
    server.faults.exec_refused(403, "pods is forbidden: not today")
    with pytest.raises(ApiException) as refused:
        shell(core, "true")
    assert "Handshake status 403" in str(refused.value)
    server.faults.clear()
    server.set_node_ready(NODE, False)
    with pytest.raises(ApiException) as refused:
        shell(core, "true")
    assert "Handshake status 500" in str(refused.value) and "error dialing backend" in str(refused.value)


def test_exec_cut_and_error(server: ApiServer, core: client.CoreV1Api) -> None:
    running(server)
    server.faults.exec_cut(1000, count=1)
    session = shell(core, "head -c 100000 /dev/zero", binary=True)
    with pytest.raises(Exception, match=r"(?i)closed|reset|lost|Connection"):
        session.run_forever(timeout=10)
        assert session.returncode is not None
    server.faults.exec_error("container runtime is down", count=1)
    session = shell(core, "true")
    session.run_forever(timeout=10)
    assert "container runtime is down" in session.read_channel(3)


def config_maps(server: ApiServer, count: int) -> None:
    for number in range(count):
        meta = {"name": f"c{number:03}", "namespace": "default"}
        server.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})


def test_paging_is_a_snapshot(server: ApiServer, core: client.CoreV1Api) -> None:
    config_maps(server, 25)
    page = core.list_namespaced_config_map("default", limit=10)
    assert page.metadata.remaining_item_count == 15
    names, version = [i.metadata.name for i in page.items], page.metadata.resource_version
    server.delete("ConfigMap", "c020")
    config_maps_later = {"name": "c0155", "namespace": "default"}
    server.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": config_maps_later})
    while page.metadata._continue:
        page = core.list_namespaced_config_map("default", limit=10, _continue=page.metadata._continue)
        names += [i.metadata.name for i in page.items]
        assert page.metadata.resource_version == version
    assert names == [f"c{number:03}" for number in range(25)]


def test_expired_token(server: ApiServer, core: client.CoreV1Api) -> None:
    config_maps(server, 5)
    token = core.list_namespaced_config_map("default", limit=2).metadata._continue
    server.store.expire_tokens()
    with pytest.raises(ApiException) as gone:
        core.list_namespaced_config_map("default", limit=2, _continue=token)
    told = status(gone.value)
    assert (told["code"], told["reason"]) == (410, "Expired")
    rest = core.list_namespaced_config_map("default", _continue=told["metadata"]["continue"])
    assert [i.metadata.name for i in rest.items] == ["c002", "c003", "c004"]
    with pytest.raises(ApiException) as bad:
        core.list_namespaced_config_map("default", limit=2, _continue="rubbish")
    assert bad.value.status == 400


def test_watch(server: ApiServer, core: client.CoreV1Api) -> None:
    running(server)
    version = core.list_namespaced_pod("default").metadata.resource_version
    seen: list[tuple[str, str]] = []

    def follow() -> None:
        options = {"label_selector": "watched=yes", "resource_version": version, "timeout_seconds": 5}
        for event in watch.Watch().stream(core.list_namespaced_pod, "default", **options):
            seen.append((event["type"], event["object"].metadata.name))
            if len(seen) == 3:
                return

    thread = threading.Thread(target=follow)
    thread.start()
    core.patch_namespaced_pod("p", "default", {"metadata": {"labels": {"watched": "yes"}}})
    core.patch_namespaced_pod("p", "default", {"metadata": {"annotations": {"a": "b"}}})
    core.patch_namespaced_pod("p", "default", {"metadata": {"labels": {"watched": None}}})
    thread.join(10)
    assert seen == [("ADDED", "p"), ("MODIFIED", "p"), ("DELETED", "p")]


def test_watch_from_too_old_a_version(server: ApiServer, core: client.CoreV1Api) -> None:
    config_maps(server, 3)
    server.store.compact()
    answer = core.list_namespaced_config_map(
        "default", watch=True, resource_version="5", timeout_seconds=2, _preload_content=False
    )
    event = json.loads(answer.data)
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_watch_ends_and_sends_bookmarks(server: ApiServer, core: client.CoreV1Api) -> None:
    server.bookmark_seconds = 0.1
    begin = time.monotonic()
    answer = core.list_namespaced_pod(
        "default", watch=True, timeout_seconds=1, allow_watch_bookmarks=True, _preload_content=False
    )
    events = [json.loads(line)["type"] for line in answer.data.splitlines()]
    assert events and set(events) == {"BOOKMARK"}
    assert 0.8 < time.monotonic() - begin < 5


def test_selectors(server: ApiServer, core: client.CoreV1Api) -> None:
    for name, labels in (("a", {"x": "1"}), ("b", {"x": "2", "y": "1"}), ("c", {})):
        meta = {"name": name, "labels": labels, "namespace": "default"}
        server.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})

    def names(**options: str) -> str:
        return "".join(i.metadata.name for i in core.list_namespaced_config_map("default", **options).items)

    assert names(label_selector="x in (1,2)") == "ab"
    assert names(label_selector="x notin (1)") == "bc"
    assert names(label_selector="x!=1,y") == "b"
    assert names(label_selector="!x") == "c"
    assert names(label_selector="x") == "ab"
    assert names(label_selector="x>1") == "b"
    assert names(field_selector="metadata.name!=a") == "bc"
    for options in ({"label_selector": "x in"}, {"field_selector": "data.a=b"}):
        with pytest.raises(ApiException) as bad:
            names(**options)
        assert bad.value.status == 400


REFUSED_PODS = [
    ({"containers": []}, 422, "spec.containers: Required value"),
    ({"containers": [{"name": "A", "image": "x"}]}, 422, "spec.containers[0].name: Invalid value"),
    ({"containers": [{"name": "a"}]}, 422, "spec.containers[0].image: Required value"),
    (
        {"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]},
        422,
        'spec.containers[0].volumeMounts[0].name: Not found: "v"',
    ),
    (
        {"hostNetwork": "yes"},
        400,
        "cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
    ),
    ({"hostNetwrok": True}, 400, 'strict decoding error: unknown field "spec.hostNetwrok"'),
    ({"activeDeadlineSeconds": 0}, 422, "spec.activeDeadlineSeconds: Invalid value: 0"),
    ({"restartPolicy": "Sometimes"}, 422, 'spec.restartPolicy: Unsupported value: "Sometimes"'),
    ({"volumes": [{"name": "v"}]}, 422, "spec.volumes[0]: Required value: must specify a volume type"),
    ({"tolerations": [{"effect": "NoSchedule"}]}, 422, "operator must be Exists when `key` is empty"),
    (
        {"serviceAccountName": "nobody"},
        403,
        'error looking up service account default/nobody: serviceaccount "nobody"',
    ),
]


@pytest.mark.parametrize(("spec", "code", "words"), REFUSED_PODS)
def test_refused_pods(server: ApiServer, spec: dict[str, Any], code: int, words: str) -> None:
    body = json.dumps(pod_body(**spec)).encode()
    answered, text = raw(server, "POST", "/api/v1/namespaces/default/pods", body)
    assert answered == code, text
    told = json.loads(text)
    assert told["kind"] == "Status" and words in told["message"]
    if code == 422:
        assert told["details"]["causes"][0]["field"].startswith("spec.")


def test_other_refusals(server: ApiServer, core: client.CoreV1Api) -> None:
    def refusal(call: Any, *args: Any, **more: Any) -> tuple[int, str]:
        with pytest.raises(ApiException) as refused:
            call(*args, **more)
        return refused.value.status, status(refused.value)["message"]

    assert refusal(core.create_namespaced_pod, "nowhere", pod_body()) == (
        404,
        'namespaces "nowhere" not found',
    )
    elsewhere = pod_body()
    elsewhere["metadata"]["namespace"] = "kube-system"
    code, text = refusal(core.create_namespaced_pod, "default", elsewhere)
    assert code == 400 and "does not match the namespace sent on the request" in text
    code, text = refusal(core.create_namespaced_pod, "default", pod_body("Big"))
    assert code == 422 and "a lowercase RFC 1123 subdomain" in text
    core.create_namespaced_pod("default", pod_body())
    assert refusal(core.create_namespaced_pod, "default", pod_body()) == (409, 'pods "p" already exists')
    code, text = refusal(core.create_namespaced_pod, "default", {"kind": "Node", "apiVersion": "v1"})
    assert code == 400


def test_conflict_and_patches(server: ApiServer, core: client.CoreV1Api) -> None:
    made = core.create_namespaced_config_map("default", {"metadata": {"name": "c"}, "data": {"a": "1"}})
    core.patch_namespaced_config_map("c", "default", {"data": {"b": "2"}})
    made.data = {"z": "9"}
    with pytest.raises(ApiException) as stale:
        core.replace_namespaced_config_map("c", "default", made)
    assert stale.value.status == 409 and "the object has been modified" in stale.value.body
    core.patch_namespaced_config_map("c", "default", [{"op": "remove", "path": "/data/a"}])
    assert core.read_namespaced_config_map("c", "default").data == {"b": "2"}


def test_network_policy_validation(server: ApiServer) -> None:
    api = client.NetworkingV1Api(api_client(server))

    def make(name: str, spec: dict[str, Any]) -> Any:
        return api.create_namespaced_network_policy("default", {"metadata": {"name": name}, "spec": spec})

    assert make("a", {"podSelector": {}}).spec.policy_types == ["Ingress"]
    assert make("b", {"podSelector": {}, "egress": [{}]}).spec.policy_types == ["Ingress", "Egress"]
    for spec, words in (
        ({"podSelector": {}, "ingress": [{"from": [{}]}]}, "must specify a peer"),
        (
            {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.1"}}]}]},
            "must be a valid CIDR",
        ),
        (
            {"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": 70}]}]},
            "must be greater than or equal to `port`",
        ),
        ({"podSelector": {"matchLabels": {"a": "not good"}}}, "a valid label must be"),
    ):
        with pytest.raises(ApiException) as refused:
            make("c", spec)
        assert refused.value.status == 422 and words in refused.value.body


def test_custom_objects(server: ApiServer) -> None:
    api = client.CustomObjectsApi(api_client(server))
    where = ("networking.k8s.aws", "v1alpha1")
    spec = {"policyRef": {"name": "a", "namespace": "default"}}
    body = {"apiVersion": "/".join(where), "kind": "PolicyEndpoint", "metadata": {"name": "e"}, "spec": spec}
    api.create_namespaced_custom_object(*where, "default", "policyendpoints", body)
    (found,) = api.list_cluster_custom_object(*where, "policyendpoints")["items"]
    assert found["kind"] == "PolicyEndpoint"
    server.enable("policyendpoints", False)
    with pytest.raises(ApiException) as gone:
        api.list_cluster_custom_object(*where, "policyendpoints")
    assert (gone.value.status, gone.value.body) == (404, "404 page not found\n")


def test_access(server: ApiServer) -> None:
    server.add_user("viewer", [Rule(["get", "list"], ["pods"], ["default"])])
    limited = client.CoreV1Api(api_client(server, "viewer"))
    limited.list_namespaced_pod("default")
    with pytest.raises(ApiException) as refused:
        limited.connect_get_namespaced_pod_exec("p", "default", command=["true"], stdout=True)
    assert refused.value.status == 403
    assert 'cannot get resource "pods/exec" in API group ""' in status(refused.value)["message"]
    with pytest.raises(ApiException) as unknown:
        client.CoreV1Api(api_client(server, "ghost")).list_namespaced_pod("default")
    assert (unknown.value.status, status(unknown.value)["message"]) == (401, "Unauthorized")
    review = client.AuthorizationV1Api(api_client(server, "viewer"))
    for verb, allowed in (("list", True), ("create", False)):
        attributes = {"verb": verb, "resource": "pods", "namespace": "default"}
        answer = review.create_self_subject_access_review({"spec": {"resourceAttributes": attributes}})
        assert answer.status.allowed is allowed


def test_deadline(server: ApiServer, core: client.CoreV1Api) -> None:
    running(server, activeDeadlineSeconds=1)
    failed = server.wait("Pod", "p", lambda p: p["status"]["phase"] == "Failed", timeout=5)
    assert failed["status"]["reason"] == "DeadlineExceeded"
    assert failed["status"]["message"] == "Pod was active on the node longer than the specified deadline"
    assert all(local.main.poll() is not None for local in server.runtime.pods)  # type: ignore[attr-defined]
    with pytest.raises(ApiException) as refused:
        shell(core, "true")
    assert "unable to upgrade connection: container not found" in str(refused.value)
    core.delete_namespaced_pod("p", "default")
    assert server.find("Pod", "p") is None


def test_exit_codes(server: ApiServer) -> None:
    for code, phase in ((0, "Succeeded"), (4, "Failed")):
        name = f"exit{code}"
        server.create(pod_body(name, ["sh", "-c", f"exit {code}"], restartPolicy="Never"))
        done = server.wait("Pod", name, lambda p, want=phase: p["status"].get("phase") == want)
        assert done["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == code
    server.create(pod_body("again", ["sh", "-c", "exit 1"]))
    server.wait("Pod", "again", lambda p: p["status"]["containerStatuses"][0]["restartCount"] > 0)


def waiting(pod: dict[str, Any]) -> str:
    states = pod["status"].get("containerStatuses") or [{"state": {}}]
    return str((states[0]["state"].get("waiting") or {}).get("reason"))


def test_pods_that_never_start(server: ApiServer) -> None:
    server.faults.image_pull("image", message="pull access denied")
    server.faults.pod_stuck("creating")
    server.faults.pod_stuck("silent", reason="")
    server.faults.unschedulable("nowhere", message="0/1 nodes are available: 1 Insufficient cpu.")
    server.faults.start_error("broken", message="exec format error", reason="CreateContainerError")
    for name in ("image", "creating", "silent", "nowhere", "broken"):
        server.create(pod_body(name))
    server.wait("Pod", "image", lambda p: waiting(p) == "ErrImagePull")
    stuck = server.wait("Pod", "image", lambda p: waiting(p) == "ImagePullBackOff")
    assert "pull access denied" in stuck["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
    server.wait("Pod", "creating", lambda p: waiting(p) == "ContainerCreating")
    server.wait("Pod", "broken", lambda p: waiting(p) == "CreateContainerError")
    assert server.get("Pod", "silent")["status"].get("startTime") is None
    assert server.get("Pod", "nowhere")["spec"].get("nodeName") is None
    reasons = {event["reason"] for event in server.list("Event")}
    assert {"FailedScheduling", "Failed", "BackOff", "Scheduled"} <= reasons
    for name in ("image", "creating", "silent", "nowhere", "broken"):
        server.delete("Pod", name)
        server.wait_gone("Pod", name)


def test_eviction_and_nodes(server: ApiServer) -> None:
    running(server)
    server.kubelet.evict("default", "p")
    evicted = server.wait("Pod", "p", lambda p: p["status"]["phase"] == "Failed")
    assert evicted["status"]["reason"] == "Evicted"
    server.add_node(make_node("fargate-1", "192.168.0.20", compute_type="fargate"))
    server.add_node(make_node("down", "192.168.0.21", ready=False))
    for name, node in (("f", "fargate-1"), ("d", "down"), ("m", "missing")):
        server.create(pod_body(name, nodeName=node))
    time.sleep(0.2)
    assert all(server.get("Pod", name)["status"]["phase"] == "Pending" for name in "fdm")
    server.set_node_ready("down", True)
    server.wait_running("d")
    server.set_node_ready("down", False)
    server.delete("Pod", "d")
    time.sleep(0.2)
    assert server.get("Pod", "d")["metadata"]["deletionTimestamp"]
    server.set_node_ready("down", True)
    server.wait_gone("Pod", "d")


def test_finalizers(server: ApiServer, core: client.CoreV1Api) -> None:
    meta = {"name": "c", "finalizers": ["networking.k8s.aws/resources"]}
    core.create_namespaced_config_map("default", {"metadata": meta})
    core.delete_namespaced_config_map("c", "default")
    assert core.read_namespaced_config_map("c", "default").metadata.deletion_timestamp
    core.patch_namespaced_config_map("c", "default", {"metadata": {"finalizers": None}})
    assert server.find("ConfigMap", "c") is None


def test_on_change(server: ApiServer) -> None:
    seen: list[tuple[str, str]] = []

    def reconcile(change: Any) -> None:
        if change.resource.kind == "ConfigMap":
            seen.append((change.type, change.object["metadata"]["name"]))
            if change.object["metadata"]["name"] == "first" and change.type == "ADDED":
                server.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "second"}})

    server.on_change(reconcile)
    server.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "first"}})
    server.settle()
    server.delete("ConfigMap", "first")
    server.settle()
    assert seen == [("ADDED", "first"), ("ADDED", "second"), ("DELETED", "first")]


def test_secret_data_is_kept(core: client.CoreV1Api) -> None:
    text = base64.b64encode(b"secret").decode()
    core.create_namespaced_secret("default", {"metadata": {"name": "s"}, "data": {"k": text}})
    assert core.read_namespaced_secret("s", "default").data == {"k": text}


def test_restricted_wording() -> None:
    pod = pod_body(hostNetwork=True, volumes=[{"name": "a", "hostPath": {"path": "/"}}])
    found = pod_security_violations(pod, "restricted")
    assert found[:2] == ["host namespaces (hostNetwork=true)", 'hostPath volumes (volume "a")']
    assert 'allowPrivilegeEscalation != false (container "main" must set' in found[2]
    assert found[-1].startswith('seccompProfile (pod or container "main" must set')
