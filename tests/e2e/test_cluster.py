"""The verbs on a real cluster: real kubectl, API server, kubelet, container runtime; real programs on its pods' veths.

One file: it shares one cluster, which test workers could not.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.e2e import images
from tests.e2e.cluster import POLICY_ENDPOINTS, Cluster
from tests.e2e.conftest import User, document, within
from tests.lab.node import host_veth_name

ROOT = Path(__file__).resolve().parents[2]
FLOW = ("explain", "pod/nginx", "--port", "80")
DENIED, ALLOWED = ("--from", "pod/accessfalse"), ("--from", "pod/accesstrue")


def wget(cluster: Cluster, pod: str) -> int:
    """The article's question, by the name of the Service: egress, DNS, kube-proxy, ingress."""
    return cluster.kubectl(
        "exec", pod, "--", "timeout", "2", "wget", "-q", "-O", "/dev/null", "http://nginx", check=False
    ).returncode


def only_error(done: subprocess.CompletedProcess[str]) -> str:
    """The single `error:` line; no traceback, and nothing on stdout."""
    assert done.stdout == "" and "Traceback" not in done.stderr, done
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


# ---- the article


def test_packets(cluster: Cluster) -> None:
    assert wget(cluster, "accesstrue") == 0
    assert wget(cluster, "accessfalse") != 0


def test_explain_says_what_the_packets_do(user: User) -> None:
    denied = user.read(*FLOW, *DENIED)
    assert denied.returncode == 1, denied.stderr
    source, target = user.cluster.pod("accessfalse"), user.cluster.pod("nginx")
    first = denied.stdout.splitlines()[0]
    assert first.startswith(
        f"DROP: default/accessfalse ({source['status']['podIP']}) -> "
        f"default/{target['metadata']['name']} ({target['status']['podIP']}) 80/TCP"
    )
    assert "Cause: selector" in denied.stdout
    allowed = user.read(*FLOW, *ALLOWED)
    assert allowed.returncode == 0, allowed.stderr
    assert allowed.stdout.startswith("ALLOW: ")
    assert user.nothing_left()


def test_maps_shows_what_tc_and_bpftool_show(user: User) -> None:
    answer = document(user.read("maps", "pod/nginx", "-o", "json"))
    veth = host_veth_name("default", user.cluster.pod("nginx")["metadata"]["name"])
    said = user.cluster.node.run(["bpftool", "-j", "net", "show", "dev", veth], check=True).stdout
    assert {one["program"]["id"] for one in answer["directions"]} == {int(n) for n in re.findall(r'"id":(\d+)', said)}
    shown = user.read("maps", "pod/nginx", "--direction", "ingress").stdout
    address = user.cluster.pod("accesstrue")["status"]["podIP"]
    assert re.search(rf"ingress_map +\d+ +{address}/32 +pod default/accesstrue +all ports", shown)
    assert re.search(rf"ingress_map +\d+ +{user.cluster.node.ip}/32 +node {user.cluster.node.name} +all ports", shown)


def test_a_healthy_cluster_has_no_error(user: User) -> None:
    done = user.read("check", "-A", "-o", "json", "--fail-on", "error")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [one for one in document(done)["findings"] if one["severity"] == "error"]


def test_the_other_verbs(user: User, tmp_path: Path) -> None:
    assert wget(user.cluster, "accesstrue") == 0 and wget(user.cluster, "accessfalse") != 0
    tracked = user.read("conntrack", "pod/nginx")
    assert tracked.returncode == 0 and user.cluster.pod("accesstrue")["status"]["podIP"] in tracked.stdout, tracked
    assert user.read("doctor").returncode in (0, 1)
    user.cluster.flow_log.write()
    dropped = user.read("drops", "pod/nginx")
    assert dropped.returncode in (0, 1) and "default/accessfalse" in dropped.stdout, dropped
    version = document(user.run("version", "-o", "json"))
    server = json.loads(user.cluster.kubectl("version", "-o", "json").stdout)["serverVersion"]["gitVersion"]
    assert server in json.dumps(version) and "1.4.1" in json.dumps(version)
    bundle = tmp_path / "support.tar.gz"
    assert user.read("capture", "pod/nginx", "--file", str(bundle)).returncode == 0
    again = user.run(*FLOW, *DENIED, "--bundle", str(bundle))
    assert again.returncode == 1 and again.stdout.startswith("DROP: ")


def test_completion_of_pods(user: User) -> None:
    done = subprocess.run(
        ["kubectl", "__complete", "netpol-ebpf", "explain", "pod/ngin"],
        env=user.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"pod/{user.cluster.pod('nginx')['metadata']['name']}" in done.stdout, done


# ---- the three causes


def test_resolution(user: User) -> None:
    """A PolicyEndpoint that lacks a pod which the policy selects."""
    [endpoint] = user.cluster.get(POLICY_ENDPOINTS, "-n", "default")
    patch = [{"op": "remove", "path": "/spec/ingress"}]
    user.cluster.kubectl(
        "patch", POLICY_ENDPOINTS, endpoint["metadata"]["name"], "--type=json", "-p", json.dumps(patch)
    )
    user.cluster.program()
    assert wget(user.cluster, "accesstrue") != 0
    done = user.read(*FLOW, *ALLOWED)
    assert done.returncode == 1 and "Cause: resolution" in done.stdout, done


def test_kernel(user: User) -> None:
    """The agent leaves a map as it was."""
    user.cluster.kubectl("label", "pod", "accessfalse", "--overwrite", "access=true")
    try:
        user.cluster.resolve()
        assert wget(user.cluster, "accessfalse") != 0
        done = user.read(*FLOW, *DENIED)
        assert done.returncode == 1 and "Cause: kernel" in done.stdout, done
        user.cluster.program()
        assert wget(user.cluster, "accessfalse") == 0
        assert user.read(*FLOW, *DENIED).returncode == 0
    finally:
        user.cluster.kubectl("label", "pod", "accessfalse", "--overwrite", "access=false")


def test_no_filter_on_the_veth(user: User) -> None:
    pod = user.cluster.pod("nginx")["metadata"]["name"]
    user.cluster.agent.remove_clsact("default", pod)
    try:
        assert wget(user.cluster, "accessfalse") == 0
        done = user.read(*FLOW, *DENIED)
        assert done.returncode == 0 and done.stdout.startswith("ALLOW, although the YAML denies it: "), done
        assert "Cause: kernel" in done.stdout, done.stdout
    finally:
        user.cluster.agent.restart()
        user.cluster.program()
    assert wget(user.cluster, "accessfalse") != 0


# ---- the debug pod


def test_the_debug_pod_is_made_read_and_removed(user: User, tmp_path: Path) -> None:
    """As the API server saw it."""
    log = tmp_path / "events"
    with log.open("w") as file:
        command = ["kubectl", "get", "pods", "-n", "kube-system", "-w", "--output-watch-events", "-o", "json"]
        watch = subprocess.Popen(command, env=user.environment, stdout=file)
    try:
        assert within(30, log.read_text)
        assert user.read("maps", "pod/nginx").returncode == 0
        assert within(30, lambda: '"DELETED"' in log.read_text())
    finally:
        watch.terminate()
        watch.wait()
    events = [(one["type"], one["object"]) for one in map(json.loads, log.read_text().splitlines())]
    seen = [(kind, pod) for kind, pod in events if pod["metadata"]["name"].startswith("netpol-ebpf-")]
    kinds = [kind for kind, _ in seen]
    assert (kinds[0], kinds[-1]) == ("ADDED", "DELETED") and kinds.count("ADDED") == 1
    assert "Running" in {pod["status"].get("phase") for _, pod in seen}
    assert all(pod["spec"]["activeDeadlineSeconds"] == 300 for _, pod in seen)


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_podsecurity_refuses(user: User, level: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": level}
    name = f"tight-{level}"
    user.cluster.apply({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name, "labels": labels}})
    done = user.read("maps", "pod/nginx", "--debug-namespace", name)
    assert done.returncode == 3
    assert f'namespace "{name}" enforces the PodSecurity level "{level}"' in only_error(done)


def test_an_image_without_python(user: User) -> None:
    done = user.run("maps", "pod/nginx", "--image", images.PLAIN.value)
    assert done.returncode == 3
    assert "has no python3" in only_error(done) and "--image" in done.stderr
    assert user.nothing_left()


def test_an_image_that_cannot_be_pulled(user: User) -> None:
    done = user.run("maps", "pod/nginx", "--image", "registry.invalid/none:1", "--start-timeout", "60")
    assert done.returncode == 3
    assert "registry.invalid/none:1" in only_error(done)
    assert user.nothing_left()


def test_the_minimal_profile(user: User) -> None:
    """Less than privileged, under a real container runtime: its masks, its seccomp, its read-only /sys."""
    done = user.read(*FLOW, *DENIED, "--debug-profile", "minimal")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[0] == user.read(*FLOW, *DENIED).stdout.splitlines()[0]


def test_a_kept_pod_is_used_again(user: User) -> None:
    assert user.read("maps", "pod/nginx", "--keep").returncode == 0
    [kept] = user.debug_pods()
    assert user.read("maps", "pod/nginx", "--keep").returncode == 0
    assert user.read(*FLOW, *ALLOWED).returncode == 0
    [still] = user.debug_pods()
    assert still["metadata"]["uid"] == kept["metadata"]["uid"]
    [listed] = document(user.run("cleanup", "-o", "json"))["items"]
    assert listed["state"] == "kept"
    assert user.run("cleanup", "--delete", "--all").returncode == 0


def test_two_at_once(user: User) -> None:
    running = [user.start(*FLOW, *ALLOWED) for _ in range(2)]
    outcomes = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], outcomes
    assert user.nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(user: User, number: signal.Signals) -> None:
    process = user.start("maps", "pod/nginx")
    assert within(30, user.debug_pods)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "", err
    assert err.splitlines()[-1] == "error: interrupted"
    assert user.nothing_left()


def test_sigkill_leaves_nothing_after_the_deadline(user: User) -> None:
    """The kubelet ends the pod, and the next run on that node removes the object."""
    process = user.start("maps", "pod/nginx", "--deadline", "30")
    assert within(30, user.debug_pods)
    process.kill()
    process.communicate()
    assert within(30, user.on_the_node)
    ended = within(60, lambda: [one for one in user.debug_pods() if one["status"].get("phase") == "Failed"])
    assert [one["status"]["reason"] for one in ended] == ["DeadlineExceeded"]
    assert within(30, lambda: not user.on_the_node())
    assert user.read("maps", "pod/nginx").returncode == 0
    assert user.nothing_left()


# ---- rights


def bind(cluster: Cluster, level: str, person: str) -> None:
    """The shipped examples, with a person in the place of the group."""
    text = (ROOT / f"rbac/examples/{level}.yaml").read_text()
    for file in {"api-only", level}:
        cluster.kubectl("apply", "-f", str(ROOT / f"rbac/{file}.yaml"))
    bindings = [one for one in yaml.safe_load_all(text) if one]
    for one in bindings:
        one["metadata"]["name"] += f"-{person}"
        one["subjects"] = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": person}]
    cluster.apply(*bindings)


def test_nobody_is_told_what_is_missing(user: User) -> None:
    done = user.read("maps", "pod/nginx", "--as", "nobody")
    assert done.returncode == 3
    assert 'User "nobody" cannot' in only_error(done)


def test_rights_on_the_api_alone(user: User) -> None:
    bind(user.cluster, "api-only", "looker")
    done = user.read(*FLOW, *DENIED, "--as", "looker")
    assert done.returncode == 3 and done.stdout.startswith("UNKNOWN: "), done
    assert "no node was read" in done.stderr and "get nodes" in done.stderr
    assert re.search(r"INTENT +DENY", done.stdout) and re.search(r"ATTACHED +UNKNOWN", done.stdout)
    assert user.run(*FLOW, *DENIED, "--api-only", "--as", "looker").returncode == 1


@pytest.mark.parametrize("level", ["node-reader", "all"])
def test_the_shipped_roles_are_enough(user: User, level: str) -> None:
    bind(user.cluster, level, level)
    own = user.read(*FLOW, *DENIED)
    done = user.read(*FLOW, *DENIED, "--as", level)
    assert (done.returncode, done.stderr) == (1, own.stderr)
    assert done.stdout.splitlines()[0] == own.stdout.splitlines()[0]
    assert user.read("check", "-A", "--fail-on", "error", "--as", level).returncode == 0
    assert user.nothing_left()


def test_a_token_of_a_service_account(user: User, tmp_path: Path) -> None:
    """Not impersonated: somebody else, with a kubeconfig of their own."""
    user.cluster.kubectl("create", "serviceaccount", "robot")
    try:
        token = user.cluster.kubectl("create", "token", "robot").stdout.strip()
        config = yaml.safe_load(user.cluster.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        own = tmp_path / "kubeconfig"
        own.write_text(yaml.safe_dump(config))
        done = user.read("maps", "pod/nginx", KUBECONFIG=str(own))
        assert done.returncode == 3
        assert "system:serviceaccount:default:robot" in only_error(done)
        refused = user.read("maps", "pod/nginx", "--as", "somebody", KUBECONFIG=str(own))
        assert refused.returncode == 3 and "impersonate" in only_error(refused)
    finally:
        user.cluster.kubectl("delete", "serviceaccount", "robot")


def test_groups_are_impersonated_too(user: User) -> None:
    """In requests and in the exec session: this person has no right of their own."""
    done = user.read(*FLOW, *DENIED, "--as", "stranger", "--as-group", "system:masters")
    assert done.returncode == 1 and done.stdout.startswith("DROP: "), done
