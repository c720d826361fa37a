"""`doctor` through the real command line: topics, rights, PodSecurity, the debug pod that is made and removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import world
from tests.lab.api_auth import Rule
from tests.lab.api_auth import User as LabUser
from tests.lab.article import NODE
from tests.lab.require import require_lab, require_tools
from tests.system.conftest import User

Json = dict[str, Any]


@pytest.fixture
def user(plugin_bin: Path) -> Iterator[User]:
    require_lab()
    require_tools("kubectl")
    with world.healthy() as lab:
        yield User(lab, plugin_bin)


def topics(user: User, *arguments: str) -> tuple[int, dict[str, Json]]:
    done = user.run("doctor", "-o", "json", *arguments)
    assert done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, {one["topic"]: one for one in json.loads(done.stdout)["topics"]}


def made(user: User, before: int) -> list[Any]:
    return [r for r in user.lab.server.requests[before:] if r.verb == "create" and r.resource == "pods"]


def test_a_healthy_cluster(user: User) -> None:
    before = len(user.lab.server.requests)
    done = user.run("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("all 24 topics are ok.")
    assert len(made(user, before)) == 1 and user.debug_pods() == []
    writes = {(r.method, r.resource) for r in user.lab.server.requests[before:] if r.method not in ("GET", "HEAD")}
    assert writes <= {("POST", "pods"), ("DELETE", "pods"), ("POST", "selfsubjectaccessreviews")}, writes


def test_api_only_makes_no_pod(user: User) -> None:
    before = len(user.lab.server.requests)
    code, found = topics(user, "--api-only")
    assert code == 0 and "debug pod" not in found
    assert made(user, before) == []


def test_a_flag_that_is_off_is_mended_by_the_add_on(user: User) -> None:
    def off(daemonset: Json) -> None:
        containers = daemonset["spec"]["template"]["spec"]["containers"]
        next(c for c in containers if c["name"] == "aws-eks-nodeagent")["args"] = ["--enable-network-policy=false"]

    user.lab.server.change("DaemonSet", "aws-node", off, "kube-system")
    done = user.run("doctor", "--api-only")
    assert done.returncode == 1
    assert "aws eks update-addon --cluster-name CLUSTER --addon-name vpc-cni --configuration-values" in done.stdout


def test_podsecurity_that_refuses(user: User) -> None:
    user.lab.kubectl("create", "namespace", "locked")
    user.lab.kubectl("label", "namespace", "locked", "pod-security.kubernetes.io/enforce=restricted")
    code, found = topics(user, "--debug-namespace", "locked")
    assert code == 1
    assert found["PodSecurity"]["state"] == found["debug pod"]["state"] == "failed"
    assert 'enforces "restricted"' in found["PodSecurity"]["found"]
    assert user.lab.server.list("Pod", "locked") == []


def test_an_image_that_cannot_be_pulled(user: User) -> None:
    user.lab.server.faults.image_pull("netpol", message="manifest unknown")
    code, found = topics(user)
    assert code == 1
    assert found["debug pod"]["state"] == "failed" and "cannot be pulled" in found["debug pod"]["found"]
    assert user.debug_pods() == []


def test_a_user_with_few_rights(user: User) -> None:
    """What cannot be read is unknown, what is not allowed is named, and nothing is called fine."""
    user.lab.server.faults.http(403, "/daemonsets", message="not yours")
    user.lab.server.faults.http(403, "/clusterroles", message="not yours")
    code, found = topics(user, "--api-only")
    assert code == 3
    assert {found[name]["state"] for name in ("VPC CNI", "enforcing mode", "rights of aws-node")} == {"unknown"}
    assert "not yours" in found["VPC CNI"]["found"]


def test_the_users_own_rights_are_asked_for(user: User) -> None:
    """One that may look at the API, and make no debug pod."""
    user.lab.server.users.add(LabUser("looker", [Rule(("get", "list", "watch"), ("*",)), MAY_ASK]))
    code, found = topics(user, "--as", "looker")
    assert code == 1
    assert found["rights: API"]["state"] == "ok"
    rights = found["rights: debug pod"]
    assert rights["state"] == found["debug pod"]["state"] == "failed"
    assert "create pods in kube-system" in rights["found"] and "list pods" not in rights["found"]
    command = rights["remedies"][0]["command"]
    assert command.startswith("kubectl --as looker auth can-i ")
    done = user.lab.kubectl(*command.split()[1:], check=False)
    assert done.stdout.strip() == "no", command


MAY_ASK = Rule(("create",), ("selfsubjectaccessreviews",))


def test_a_user_that_may_look_at_nearly_nothing(user: User) -> None:
    """Neither nodes nor anything of the CNI: most is unknown, and only what was read is fine."""
    user.lab.server.users.add(LabUser("nobody", [Rule(("list",), ("pods", "namespaces")), MAY_ASK]))
    code, found = topics(user, "--as", "nobody")
    assert code == 1
    fine = {name for name, one in found.items() if one["state"] == "ok"}
    assert fine == {"Kubernetes", "PodSecurity"}
    assert found["rights: API"]["state"] == "failed" and "list nodes" in found["rights: API"]["found"]
    assert found["debug pod"]["state"] == "unknown" and "--node names a node" in found["debug pod"]["found"]
    _, named = topics(user, "--as", "nobody", "--node", NODE)
    assert named["debug pod"]["state"] == "failed" and "get nodes" in named["debug pod"]["found"]


def test_who_may_get_aws_node_alone(user: User) -> None:
    """docs/rbac.md: the right to list all DaemonSets is for other engines alone."""
    user.lab.server.faults.http(403, "/apis/apps/v1/daemonsets", message="not yours")
    code, found = topics(user, "--api-only")
    assert code == 3
    assert {name for name, one in found.items() if one["state"] != "ok"} == {"other engines"}


def test_a_server_that_fails_at_the_debug_pod(user: User) -> None:
    """The rest of the answer is there all the same."""
    user.lab.server.faults.http(500, "/api/v1/nodes/", message="etcd is away")
    code, found = topics(user)
    assert code == 1
    assert found["debug pod"]["state"] == "failed" and "etcd is away" in found["debug pod"]["found"]
    assert found["VPC CNI"]["state"] == "ok"


def test_through_the_tools_of_the_node(user: User) -> None:
    code, found = topics(user, "--via", "tools")
    assert (code, found["reading"]["state"]) == (0, "ok"), found["reading"]
    assert "tcx is not seen" in found["reading"]["found"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--node", "nowhere"), 'node "nowhere" not found'),
        (("--node", ""), "--node is empty"),
        (("--node", NODE, "--api-only"), "goes without --api-only"),
        (("--via", "agent"), "goes without --via agent"),
    ],
)
def test_wrong_usage(user: User, arguments: tuple[str, ...], text: str) -> None:
    done = user.run("doctor", *arguments)
    assert done.returncode == 2 and text in done.stderr
    assert done.stdout == ""


def test_a_bundle(user: User, tmp_path: Path) -> None:
    bundle = tmp_path / "b.tar.gz"
    assert user.run("capture", "pod/nginx", "-f", str(bundle)).returncode == 0
    code, found = topics(user, "--bundle", str(bundle))
    assert code == 0 and "rights: API" not in found and found["VPC CNI"]["state"] == "ok"
