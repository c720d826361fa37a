"""The API server stand-in as the real kubectl sees it."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import time

import pytest
import yaml

from tests.lab.apiserver import ApiServer, Rule
from tests.lab.require import require_tools
from tests.lab_selftest.apiserver_support import NODE, Kubectl, kubectl, pod_body, server

__all__ = ["kubectl", "server"]


@pytest.fixture(autouse=True)
def real_kubectl() -> None:
    require_tools("kubectl")


NETPOL = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: access-nginx
spec:
  podSelector:
    matchLabels:
      app: nginx
  ingress:
  - from:
    - podSelector:
        matchLabels:
          access: "true"
"""


def test_the_article(server: ApiServer, kubectl: Kubectl) -> None:
    """Every kubectl command of the article, in its order."""
    server.controllers.name_hook = lambda kind, _: {
        "ReplicaSet": "nginx-f8d9c6576",
        "Pod": "nginx-f8d9c6576-8b4vf",
    }.get(kind)
    assert "access-nginx created" in kubectl("apply", "-f", "-", stdin=NETPOL)
    kubectl("create", "deploy", "nginx", "--image=nginx", "--replicas=1")
    kubectl("expose", "deploy", "nginx", "--port", "80")
    for value in ("true", "false"):
        name = f"access{value}"
        kubectl("run", name, "--image=busybox", "--labels", f"access={value}", "--", "sleep", "infinity")
    for name in ("accesstrue", "accessfalse", "nginx-f8d9c6576-8b4vf"):
        server.wait_running(name)
    lines = kubectl("get", "pods", "-o", "wide").splitlines()
    assert lines[0].split()[:7] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    assert [line.split()[0] for line in lines[1:]] == ["accessfalse", "accesstrue", "nginx-f8d9c6576-8b4vf"]
    assert all(line.split()[1:3] == ["1/1", "Running"] and NODE in line for line in lines[1:])
    policy = yaml.safe_load(kubectl("get", "netpol", "access-nginx", "-o", "yaml"))
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert kubectl("get", "endpoints", "nginx", "-o", "jsonpath={.subsets[0].ports[0].port}") == "80"
    kubectl("delete", "deploy", "nginx")
    kubectl("delete", "svc", "nginx")
    kubectl("delete", "pod", "accesstrue", "accessfalse", "--now")
    kubectl("delete", "networkpolicy", "access-nginx")
    server.wait_gone("Pod", "nginx-f8d9c6576-8b4vf", timeout=40)


def test_debug_node_makes_the_pod_of_the_sysadmin_profile(server: ApiServer, kubectl: Kubectl) -> None:
    said = kubectl("debug", f"node/{NODE}", "--image=amazonlinux:2023", "--profile=sysadmin", "--", "sleep", "1")
    assert said.startswith("Creating debugging pod node-debugger-")
    (pod,) = server.list("Pod")
    spec = pod["spec"]
    assert spec["nodeName"] == NODE
    assert spec["hostNetwork"] and spec["hostPID"] and spec["hostIPC"]
    assert spec["restartPolicy"] == "Never"
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["volumes"][0] == {"name": "host-root", "hostPath": {"path": "/", "type": ""}}
    container = spec["containers"][0]
    assert container["command"] == ["sleep", "1"]
    assert container["securityContext"] == {"privileged": True}
    assert container["volumeMounts"][0] == {"name": "host-root", "mountPath": "/host"}
    assert any(v["name"].startswith("kube-api-access-") for v in spec["volumes"])
    name = pod["metadata"]["name"]
    done = server.wait("Pod", name, lambda p: p["status"].get("phase") == "Succeeded")
    assert done["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    assert done["status"]["hostIP"] == done["status"]["podIP"] == "192.168.0.10"


def test_exec(server: ApiServer, kubectl: Kubectl) -> None:
    server.create(pod_body())
    server.wait_running("p")
    done = kubectl.run("exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, b"out\n")
    assert b"err\n" in done.stderr and b"exit code 7" in done.stderr
    assert (
        kubectl("exec", "-i", "p", "--", "sha256sum", stdin=b"x" * 300_000).split()[0]
        == hashlib.sha256(b"x" * 300_000).hexdigest()
    )
    missing = kubectl.run("exec", "p", "--", "/no/such/program")
    assert missing.returncode == 1 and b"executable file not found" in missing.stderr


def test_exec_of_ten_megabytes(server: ApiServer, kubectl: Kubectl) -> None:
    server.create(pod_body())
    server.wait_running("p")
    size = 10 * 1024 * 1024
    script = f"import random,sys;random.seed(5);sys.stdout.buffer.write(random.randbytes({size}))"
    out = kubectl.run("exec", "p", "--", "python3", "-c", script)
    random.seed(5)
    assert out.returncode == 0
    assert out.stdout == random.randbytes(size)


def test_exec_ends_with_its_client(server: ApiServer, kubectl: Kubectl) -> None:
    server.create(pod_body())
    server.wait_running("p")
    process = subprocess.Popen(
        [
            "kubectl",
            f"--kubeconfig={kubectl.path}",
            "exec",
            "p",
            "--",
            "sh",
            "-c",
            "echo $$; exec sleep 1000",
        ],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 5
    while subprocess.run(["kill", "-0", str(pid)], capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < deadline, "the command outlived its client"
        time.sleep(0.02)


def test_everyday_commands(server: ApiServer, kubectl: Kubectl) -> None:
    kubectl("run", "p", "--image=busybox", "--", "sh", "-c", "echo hello from the pod; sleep infinity")
    kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=10s")
    kubectl("label", "pod", "p", "team=a")
    kubectl("annotate", "pod", "p", "note=b")
    assert kubectl("get", "pods", "-l", "team in (a,b),!absent", "-o", "name") == "pod/p\n"
    assert kubectl("get", "pods", "--field-selector", f"spec.nodeName={NODE}", "-o", "name") == "pod/p\n"
    assert "hello from the pod" in kubectl("logs", "p")
    assert "Scheduled" in kubectl("describe", "pod", "p")
    kubectl("create", "namespace", "other")
    kubectl("create", "configmap", "c", "--from-literal=a=b", "-n", "other")
    assert server.get("ConfigMap", "c", "other")["data"] == {"a": "b"}
    kubectl("delete", "namespace", "other")
    assert server.find("ConfigMap", "c", "other") is None
    kubectl("create", "deploy", "d", "--image=x:1", "--replicas=1")
    kubectl("rollout", "status", "deploy/d", "--timeout=10s")
    kubectl("scale", "deploy", "d", "--replicas=2")
    assert len(server.list("Pod", labels="app=d")) == 2
    assert kubectl("auth", "can-i", "create", "pods/exec").strip() == "yes"
    assert "policyendpoints" in kubectl("api-resources", "--api-group=networking.k8s.aws")
    assert "podSelector" in kubectl("explain", "networkpolicy.spec")
    kubectl("taint", "node", NODE, "a=b:NoSchedule")
    kubectl("delete", "pod", "p", "--now")
    assert server.find("Pod", "p") is None


def test_apply_twice_and_server_side(server: ApiServer, kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=NETPOL)
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=NETPOL)
    changed = NETPOL.replace('access: "true"', "access: yes-please")
    assert "configured" in kubectl("apply", "-f", "-", stdin=changed)
    rule = server.get("NetworkPolicy", "access-nginx")["spec"]["ingress"][0]
    assert rule["from"][0]["podSelector"]["matchLabels"] == {"access": "yes-please"}
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=NETPOL)
    assert "unknown field" in kubectl.refused("apply", "-f", "-", stdin=NETPOL + "  ingres: []\n")


def test_custom_resources(server: ApiServer, kubectl: Kubectl) -> None:
    endpoint = {
        "apiVersion": "networking.k8s.aws/v1alpha1",
        "kind": "PolicyEndpoint",
        "metadata": {"name": "access-nginx-x7k2p"},
        "spec": {
            "policyRef": {"name": "access-nginx", "namespace": "default"},
            "podSelector": {"matchLabels": {"app": "nginx"}},
            "podIsolation": ["Ingress"],
            "ingress": [{"cidr": "10.0.0.1", "ports": [{"port": 80}]}],
        },
    }
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(endpoint))
    (found,) = yaml.safe_load(kubectl("get", "policyendpoints", "-A", "-o", "yaml"))["items"]
    assert found["spec"]["ingress"] == [{"cidr": "10.0.0.1", "ports": [{"port": 80, "protocol": "TCP"}]}]
    assert "access-nginx-x7k2p" in kubectl("get", "policyendpoints")
    endpoint["spec"] = {"policyRef": {"name": 5}}
    said = kubectl.refused("apply", "-f", "-", stdin=yaml.safe_dump(endpoint))
    assert 'must be of type string: "integer"' in said
    assert kubectl("get", "cpe") == ""
    server.enable("clusterpolicyendpoints", False)
    shutil.rmtree(kubectl.directory / "cache")
    assert "the server doesn't have a resource type" in kubectl.refused("get", "cpe")
    assert server.find("crd", "clusterpolicyendpoints.networking.k8s.aws") is None


def test_users(server: ApiServer, kubectl: Kubectl) -> None:
    server.add_user("viewer", [Rule(["get", "list"], ["pods"], ["default"])])
    kubectl.path = server.write_kubeconfig(kubectl.path, extra_users=["viewer", "nobody"])
    kubectl("--context=viewer", "get", "pods")
    said = kubectl.refused("--context=viewer", "get", "pods", "-A")
    assert 'pods is forbidden: User "viewer" cannot list resource "pods" in API group "" at the cluster scope' in said
    said = kubectl.refused("--as=viewer", "get", "secrets")
    assert 'User "viewer" cannot list resource "secrets" in API group "" in the namespace "default"' in said
    assert "Unauthorized" in kubectl.refused("--context=nobody", "get", "pods")
    assert kubectl.run("--as=viewer", "auth", "can-i", "create", "pods").returncode == 1
    assert server.requests[-1].user == "viewer"


ROLES = """
kind: ClusterRole
apiVersion: rbac.authorization.k8s.io/v1
metadata: {name: look}
rules:
- {apiGroups: [""], resources: [pods], verbs: [list]}
- {apiGroups: [""], resources: [configmaps], resourceNames: [one], verbs: [get, list]}
- {nonResourceURLs: [/metrics], verbs: [get]}
---
kind: Role
apiVersion: rbac.authorization.k8s.io/v1
metadata: {name: enter, namespace: default}
rules:
- {apiGroups: [""], resources: [pods/exec], verbs: [create]}
- {apiGroups: [apps], resources: ["*"], verbs: ["*"]}
---
kind: ClusterRoleBinding
apiVersion: rbac.authorization.k8s.io/v1
metadata: {name: look}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: look}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: team}]
---
kind: RoleBinding
apiVersion: rbac.authorization.k8s.io/v1
metadata: {name: enter, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: enter}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ann}]
---
kind: RoleBinding
apiVersion: rbac.authorization.k8s.io/v1
metadata: {name: look-here, namespace: kube-public}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: look}
subjects: [{kind: ServiceAccount, name: bot, namespace: default}]
"""


def test_roles_and_bindings(server: ApiServer, kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=ROLES)
    kubectl("create", "configmap", "one")
    ann, team = ("--as=ann",), ("--as=ben", "--as-group=team")
    bot = ("--as=system:serviceaccount:default:bot",)

    def may(who: tuple[str, ...], *what: str) -> bool:
        return kubectl.run(*who, "auth", "can-i", *what).returncode == 0

    assert may(team, "list", "pods", "-A") and not may(team, "get", "pods")
    assert may(team, "get", "configmaps/one") and not may(team, "get", "configmaps/two")
    assert not may(team, "list", "configmaps")
    kubectl(*team, "get", "configmaps", "--field-selector=metadata.name=one")
    assert "forbidden" in kubectl.refused(*team, "get", "configmaps")
    assert may(ann, "create", "pods", "--subresource=exec") and not may(ann, "create", "pods")
    assert not may(ann, "create", "pods", "--subresource=exec", "-n", "kube-system")
    assert may(ann, "patch", "deployments.apps") and not may(ann, "list", "pods")
    assert may(bot, "list", "pods", "-n", "kube-public") and not may(bot, "list", "pods")
    kubectl("delete", "clusterrolebinding", "look")
    assert not may(team, "list", "pods", "-A")


def test_pod_security_and_quota(server: ApiServer, kubectl: Kubectl) -> None:
    kubectl("label", "namespace", "default", "pod-security.kubernetes.io/enforce=baseline")
    said = kubectl.refused("debug", f"node/{NODE}", "--image=x", "--profile=sysadmin", "--", "true")
    assert (
        'is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true, hostPID=true, '
        'hostIPC=true), hostPath volumes (volume "host-root"), privileged (container "debugger" must not set '
        "securityContext.privileged=true)"
    ) in said
    kubectl("create", "namespace", "q")
    kubectl("create", "quota", "compute", "--hard=limits.cpu=100m,pods=1", "-n", "q")
    said = kubectl.refused("run", "a", "--image=x", "-n", "q")
    assert 'pods "a" is forbidden: failed quota: compute: must specify limits.cpu for: a' in said
    limits = '{"spec":{"containers":[{"name":"a","image":"x","resources":{"limits":{"cpu":"200m"}}}]}}'
    said = kubectl.refused("run", "a", "--image=x", "-n", "q", f"--overrides={limits}")
    assert "exceeded quota: compute, requested: limits.cpu=200m, used: limits.cpu=0, limited: limits.cpu=100m" in said


def test_two_servers_side_by_side(server: ApiServer, kubectl: Kubectl) -> None:
    with ApiServer() as other:
        other.create(pod_body("elsewhere"))
        assert other.address != server.address
        assert kubectl("get", "pods", "-o", "name") == ""


def test_attach(server: ApiServer, kubectl: Kubectl) -> None:
    """`run -i` and `debug -i`: kubectl waits for the pod, attaches, and passes its exit code on."""
    done = kubectl.run(
        *("run", "p", "-i", "--rm", "--image=x", "--restart=Never", "--command", "--"),
        *("sh", "-c", "read line; echo heard $line; sleep 0.3; exit 5"),
        stdin="a word\n",
    )
    assert b"heard a word" in done.stdout
    assert done.returncode == 5
    server.wait_gone("Pod", "p", timeout=40)


def test_exec_refused_by_fault(server: ApiServer, kubectl: Kubectl) -> None:
    server.create(pod_body())
    server.wait_running("p")
    server.faults.exec_refused(500, "container runtime is down")
    assert "container runtime is down" in kubectl.refused("exec", "p", "--", "true")
    server.faults.clear()
    server.faults.exec_refused(403, "exec is not for you")
    assert "exec is not for you" in kubectl.refused("exec", "p", "--", "true")
    server.faults.clear()
    server.faults.exec_cut(10)
    assert kubectl.run("exec", "p", "--", "head", "-c", "100", "/dev/zero").returncode != 0


def test_watch_in_a_table(server: ApiServer, kubectl: Kubectl) -> None:
    process = subprocess.Popen(
        ["kubectl", f"--kubeconfig={kubectl.path}", "get", "pods", "-w", "--no-headers"], stdout=subprocess.PIPE
    )
    try:
        time.sleep(0.5)
        server.create(pod_body())
        assert process.stdout is not None
        assert process.stdout.readline().split()[:3] == [b"p", b"0/1", b"Pending"]
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
