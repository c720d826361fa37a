"""Why the map is what it is: from the API alone, over all tiers, and as it would be, through the real kubectl."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import article
from tests.lab.api_auth import Rule
from tests.lab.article import FALSE_IP, NGINX, NGINX_IP, NODE, NODE_IP, TRUE_IP
from tests.lab.cluster import LabCluster
from tests.lab_selftest.helpers import connects
from tests.system.conftest import User, answers, reaches, with_a_cluster_of_its_own

READ_POLICIES = Rule(("list",), ("*",))
FALSE_QUESTION = ("explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80")
TRUE_QUESTION = ("explain", "pod/nginx", "--from", "pod/accesstrue", "--port", "80")


@pytest.fixture
def own(plugin_bin: Path) -> Iterator[User]:
    yield from with_a_cluster_of_its_own(plugin_bin)


def data(user: User, *arguments: str, **more: Any) -> tuple[int, Any]:
    done = user.run(*arguments, "-o", "json", **more)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def layers(leg: Any) -> dict[str, str]:
    return {layer["layer"]: layer["verdict"] for layer in leg["layers"]}


# ---- from the API alone


def asked_since(lab: LabCluster, before: int) -> list[Any]:
    return list(lab.server.requests[before:])


def test_api_only_lists_and_does_nothing_else(user: User) -> None:
    before = len(user.lab.server.requests)
    code, answer = data(user, *FALSE_QUESTION, "--api-only")
    assert (code, answer["verdict"], answer["cause"]) == (1, "DROP", "selector")
    assert layers(answer["legs"][0]) == {
        "INTENT": "DENY",
        "ENDPOINTS": "DENY",
        "EXPECTED": "DROP",
        "PINNED": "UNKNOWN",
        "ATTACHED": "UNKNOWN",
        "CONNTRACK": "UNKNOWN",
    }
    # The empty verb: the server's version, which is no object.
    assert {request.verb for request in asked_since(user.lab, before)} == {"list", "get", ""}
    assert {request.method for request in asked_since(user.lab, before)} == {"GET"}
    assert data(user, *TRUE_QUESTION, "--api-only")[0] == 0


def test_each_kind_is_listed_once_and_policies_of_the_own_namespace_only(user: User) -> None:
    before = len(user.lab.server.requests)
    assert user.run(*TRUE_QUESTION, "--api-only").returncode == 0
    paths = [request.path for request in asked_since(user.lab, before)]
    assert len(paths) == len(set(paths)) == 13
    settings = {path for path in paths if path.endswith(("/daemonsets", "/amazon-vpc-cni", "/aws-node", "/version"))}
    assert len(settings) == 4
    own = [path for path in paths if "/namespaces/" in path and path not in settings]
    assert {path.rpartition("/")[2] for path in own} == {
        "networkpolicies",
        "policyendpoints",
        "applicationnetworkpolicies",
    }
    assert all("/namespaces/default/" in path for path in own)


def test_without_the_right_to_make_pods_the_api_answers(user: User) -> None:
    user.lab.server.add_user("looker", [READ_POLICIES, Rule(("get",), ("nodes",))])
    done = user.run(*FALSE_QUESTION, "--as", "looker")
    assert done.returncode == 3
    assert done.stdout.startswith("UNKNOWN: ")
    assert "By the API objects alone it should be dropped at the ingress of nginx" in done.stdout
    assert "warning: no node was read: the answer is from the API objects alone" in done.stderr
    assert 'cannot create resource "pods"' in done.stderr or "pods is forbidden" in done.stderr
    assert user.run(*FALSE_QUESTION, "--as", "looker", "--api-only").returncode == 1


# ---- as it would be

OTHERS = article.POLICY.replace('access: "true"', 'access: "false"')


def what_if(user: User, *arguments: str, policy: str = "") -> tuple[int, Any, str]:
    """With the policy on stdin."""
    lab = user.lab
    done = subprocess.run(
        ["kubectl", "netpol-ebpf", "explain", "pod/nginx", *arguments, "-o", "json"],
        env=user.environment(),
        input=policy,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout, done.stderr
    assert not lab.server.errors
    return done.returncode, json.loads(done.stdout), done.stderr


def test_what_a_change_would_do_is_what_it_then_does(own: User) -> None:
    lab = own.lab
    with lab.sandbox("default", "accesstrue").socket() as connection:
        connection.settimeout(2)
        connection.connect((NGINX_IP, 80))
        code, answer, _ = what_if(own, "-f", "-", policy=OTHERS)
        assert code == 1
        assert "1 of 1 established flows" in answer["answer"]
        [flow] = answer["whatIf"]["establishedFlows"]["denied"]
        assert (flow["source"], flow["sourcePort"]) == (TRUE_IP, connection.getsockname()[1])
        assert flow["cut"] is False
        predicted = {one["entry"]: one["then"] for one in answer["whatIf"]["maps"] if one["map"] == "ingress_map"}
        assert predicted == {f"{TRUE_IP}/32": None, f"{FALSE_IP}/32": "all ports"}
        for pod, verdict in (("accesstrue", "DROP"), ("accessfalse", "ALLOW")):
            _, found, _ = what_if(own, "--from", f"pod/{pod}", "--port", "80", "-f", "-", policy=OTHERS)
            assert found["verdict"] == verdict

        # Nothing was changed by asking.
        assert reaches(lab, "accesstrue")
        lab.kubectl("apply", "-f", "-", input=OTHERS)
        lab.settle()
        assert reaches(lab, "accessfalse")
        assert not reaches(lab, "accesstrue")
        assert answers(connection), "a change of rules alone does not end established flows"
        _, after = data(own, "maps", "pod/nginx", "--direction", "ingress")
        held = {e["prefix"] for m in after["directions"][0]["maps"] if m["name"] == "ingress_map" for e in m["entries"]}
        assert held == {f"{FALSE_IP}/32", f"{NODE_IP}/32"}


def test_a_first_policy_cuts_flows_at_once(own: User) -> None:
    lab = own.lab
    lab.kubectl("delete", "networkpolicy", "access-nginx")
    lab.settle()
    with lab.sandbox("default", "accessfalse").socket() as connection:
        connection.settimeout(2)
        connection.connect((NGINX_IP, 80))
        code, answer, _ = what_if(own, "-f", "-", policy=article.POLICY)
        assert code == 1
        [flow] = answer["whatIf"]["establishedFlows"]["denied"]
        assert (flow["source"], flow["cut"]) == (FALSE_IP, True)
        lab.kubectl("apply", "-f", "-", input=article.POLICY)
        lab.settle()
        assert not answers(connection)


def test_without_a_policy(own: User) -> None:
    code, answer, _ = what_if(own, "--from", "pod/accessfalse", "--port", "80", "--without", "access-nginx")
    assert (code, answer["verdict"]) == (0, "ALLOW")
    own.lab.kubectl("delete", "networkpolicy", "access-nginx")
    own.lab.settle()
    assert reaches(own.lab, "accessfalse")


@pytest.mark.parametrize(
    ("arguments", "policy", "message"),
    [
        (["-f", "nothing.yaml"], "", "nothing.yaml: the file could not be read"),
        (["-f", "-"], "a: [", "stdin line 1: not YAML"),
        (["-f", "-"], article.POLICY.replace('"true"', "true"), "is true, not a string: put it in quotes"),
        (["--without", "nothing"], "", 'policy "nothing" not found in namespace "default"'),
        (["--without", ""], "", "--without is empty"),
        (["-f", "-", "--ask-kernel", "--from", "accesstrue", "--port", "80"], article.POLICY, "--ask-kernel asks the"),
    ],
)
def test_changes_that_make_no_sense_are_one_line(user: User, arguments: list[str], policy: str, message: str) -> None:
    done = subprocess.run(
        ["kubectl", "netpol-ebpf", "explain", "pod/nginx", *arguments],
        env=user.environment(),
        input=policy,
        capture_output=True,
        text=True,
        timeout=60,
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, done.stdout, len(errors)) == (2, "", 1), done.stderr
    assert message in errors[0]


# ---- tiers

CLUSTER_POLICY = """\
apiVersion: networking.k8s.aws/v1alpha1
kind: ClusterNetworkPolicy
metadata: {name: no-true}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: default}}}
  ingress:
  - name: no-pods
    action: Deny
    from:
    - pods: {namespaceSelector: {}, podSelector: {matchLabels: {access: "true"}}}
"""
CLUSTER_ENDPOINT = f"""\
apiVersion: networking.k8s.aws/v1alpha1
kind: ClusterPolicyEndpoint
metadata: {{name: no-true-abcde}}
spec:
  policyRef: {{name: no-true}}
  tier: Admin
  priority: 10
  podSelectorEndpoints:
  - {{name: {NGINX}, namespace: default, podIP: {NGINX_IP}, hostIP: {NODE_IP}}}
  - {{name: accesstrue, namespace: default, podIP: {TRUE_IP}, hostIP: {NODE_IP}}}
  - {{name: accessfalse, namespace: default, podIP: {FALSE_IP}, hostIP: {NODE_IP}}}
  ingress:
  - {{cidr: {TRUE_IP}, action: Deny}}
"""


def test_an_admin_deny_wins_over_the_policy_that_allows(own: User) -> None:
    lab = own.lab
    lab.kubectl("apply", "-f", "-", input=CLUSTER_POLICY)
    code, answer = data(own, *TRUE_QUESTION)
    assert (code, answer["verdict"], answer["cause"]) == (0, "ALLOW", "resolution")
    assert "NOT_RESOLVED_YET" in [one["code"] for one in answer["legs"][0]["deviations"]]

    lab.kubectl("apply", "-f", "-", input=CLUSTER_ENDPOINT)
    lab.sync_agents()
    assert connects(lab.sandbox("default", "accesstrue"), NGINX_IP, 80) != "open"
    code, answer = data(own, *TRUE_QUESTION)
    assert (code, answer["verdict"], answer["cause"]) == (1, "DROP", "selector")
    intent = answer["legs"][0]["layers"][0]
    assert intent["code"] == "ADMIN_DENY"
    assert intent["tiers"] == [
        {"tier": "Admin", "outcome": "Deny", "by": 'no-true (priority 10) spec.ingress[0] "no-pods"'},
    ]
    assert "edit clusternetworkpolicy no-true" in answer["nextStep"]

    code, answer = data(own, "explain", "pod/nginx", "--direction", "ingress")
    assert (code, answer["layersAgree"]) == (0, True), answer["answer"]
    [row] = answer["directions"][0]["clusterRows"]
    assert (row["intent"], row["resolved"], row["status"]) == ("Deny all ports", "Deny all ports", "OK")
    assert row["kernel"] == "admin 10 Deny all ports"

    _, found, _ = what_if(own, "--from", "pod/accesstrue", "--port", "80", "--without", "cnp/no-true")
    assert found["verdict"] == "ALLOW"


def test_a_cluster_policy_that_the_node_did_not_program(own: User) -> None:
    lab = own.lab
    lab.agents[NODE].faults.add("skip_map_update")
    lab.kubectl("apply", "-f", "-", input=CLUSTER_POLICY)
    lab.kubectl("apply", "-f", "-", input=CLUSTER_ENDPOINT)
    lab.sync_agents()
    assert reaches(lab, "accesstrue")
    code, answer = data(own, *TRUE_QUESTION)
    assert (code, answer["verdict"], answer["cause"]) == (0, "ALLOW", "kernel")
    assert answer["legs"][0]["firstDifference"] == ["EXPECTED", "PINNED"]
    code, answer = data(own, "explain", "pod/nginx", "--direction", "ingress")
    assert code == 1
    assert answer["directions"][0]["clusterRows"][0]["status"] == "NOT_IN_MAP"


# ---- rules that differ from upstream

EXCEPTS = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: wide}
spec:
  podSelector: {matchLabels: {app: nginx}}
  ingress:
  - from:
    - ipBlock: {cidr: 172.31.0.0/16, except: [172.31.96.0/24]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: wider}
spec:
  podSelector: {matchLabels: {app: nginx}}
  ingress:
  - from:
    - ipBlock: {cidr: 172.0.0.0/8}
"""


def test_an_except_wins_over_another_policy_and_it_is_said(own: User) -> None:
    own.lab.kubectl("apply", "-f", "-", input=EXCEPTS)
    own.lab.settle()
    assert not reaches(own.lab, "accessfalse")
    code, answer = data(own, *FALSE_QUESTION)
    assert (code, answer["verdict"]) == (1, "DROP")
    assert layers(answer["legs"][0])["INTENT"] == "ALLOW"
    assert [one["code"] for one in answer["legs"][0]["deviations"]] == ["EXCEPT_WINS"]
    assert answer["nextStep"].startswith("nothing is broken: EKS does the same on every cluster (172.31.96.0/24 is an")
    code, answer = data(own, "explain", "pod/nginx", "--direction", "ingress")
    assert (code, answer["layersAgree"]) == (0, True), answer["answer"]
