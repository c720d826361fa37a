"""How the VPC CNI is set up, as it is read and kept: refusals are reasons, and nothing that could be secret is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol import bundle
from kubectl_netpol.cluster import rights, settings, trim
from kubectl_netpol.cluster.api import Listing
from kubectl_netpol.cluster.rights import Right
from kubectl_netpol.cluster.trim import ENVIRONMENT, FLAGS
from kubectl_netpol.diagnose import plan
from kubectl_netpol.errors import ApiError
from kubectl_netpol.model.snapshot import Collection, Snapshot
from kubectl_netpol.policy.cni import parse_flags

Json = dict[str, Any]
SECRET = "hunter2"
"""What must not be in any bundle."""


# ---- objects, full of what is none of the tool's business


def metadata(name="aws-node", namespace="kube-system"):
    return {
        "name": name,
        "namespace": namespace,
        "uid": "u-1",
        "labels": {"k8s-app": name},
        "resourceVersion": SECRET,
        "managedFields": [{"manager": SECRET}],
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": SECRET, "deprecated": SECRET},
    }


def container(name, args=(), env=()):
    return {
        "name": name,
        "image": f"602401143452.dkr.ecr.eu-west-1.amazonaws.com/{name}:v1.23.1-eksbuild.1",
        "command": [SECRET],
        "args": [*args, SECRET, f"--token={SECRET}", f"-{SECRET}", f"--x-{SECRET}={SECRET}"],
        "env": [
            {"name": "AWS_SECRET_ACCESS_KEY", "value": SECRET},
            {"name": "ENABLE_PREFIX_DELEGATION", "value": SECRET},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": SECRET, "key": SECRET}}},
            *env,
        ],
        "envFrom": [{"secretRef": {"name": SECRET}}, {"configMapRef": {"name": SECRET}}],
        "volumeMounts": [{"name": SECRET, "mountPath": SECRET}],
        "livenessProbe": {"exec": {"command": [SECRET]}},
        "lifecycle": {"postStart": {"exec": {"command": [SECRET]}}},
        "securityContext": {"seLinuxOptions": {"user": SECRET}},
    }


def daemonset(name="aws-node", namespace="kube-system"):
    env = [
        {"name": "ENABLE_POD_ENI", "value": "false"},
        {"name": "ENABLE_IPv6"},
        {"name": "NETWORK_POLICY_ENFORCING_MODE", "valueFrom": {"secretKeyRef": {"name": SECRET, "key": SECRET}}},
    ]
    args = ["--enable-network-policy=true", "--log-level", "debug"]
    template = {
        "metadata": {"annotations": {"a": SECRET}},
        "spec": {
            "containers": [container("aws-node", env=env), container("aws-eks-nodeagent", args=args)],
            "initContainers": [container("aws-vpc-cni-init", env=env[:1])],
            "volumes": [{"secret": {"secretName": SECRET}}],
            "serviceAccountName": SECRET,
            "imagePullSecrets": [{"name": SECRET}],
        },
    }
    spec = {"selector": {"matchLabels": {"k8s-app": name}}, "template": template, "updateStrategy": {"type": SECRET}}
    status = {"desiredNumberScheduled": 3, "numberReady": 2, "conditions": [{"message": SECRET}]}
    return {"metadata": metadata(name, namespace), "spec": spec, "status": status}


CONFIG_MAP = {
    "metadata": metadata("amazon-vpc-cni"),
    "data": {"enable-network-policy-controller": "true", "enable-windows-ipam": "false", "password": SECRET},
    "binaryData": {"enable-network-policy-controller": SECRET},
}
RULE = {"apiGroups": ["networking.k8s.aws"], "resources": ["policyendpoints"], "verbs": ["get", "list", "watch"]}
CLUSTER_ROLE = {
    "metadata": metadata(),
    "rules": [{**RULE, "nonResourceURLs": [SECRET]}],
    "aggregationRule": {"clusterRoleSelectors": [SECRET]},
}
EVENT = {
    "metadata": {**metadata("web-1.17", "shop"), "creationTimestamp": "2026-01-01T00:00:00Z"},
    "reason": "FailedCreatePodSandBox",
    "message": "failed to setup network policy",
    "lastTimestamp": "2026-01-01T00:01:00Z",
    "count": 3,
    "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "web-1", "uid": "u-2", "fieldPath": SECRET},
    "source": {"component": SECRET, "host": SECRET},
    "reportingInstance": SECRET,
    "series": {"count": SECRET},
}
VERSION = {"major": "1", "gitVersion": "v1.31.4-eks-473151a", "gitCommit": SECRET, "platform": SECRET}
REVIEW = {
    "metadata": {"name": "list pods", "managedFields": SECRET},
    "spec": {"verb": "list", "resource": "pods", "user": SECRET, "extra": {"token": [SECRET]}},
    "status": {"allowed": True, "reason": SECRET, "evaluationError": SECRET},
}
OBJECTS = {
    "daemonsets": daemonset(),
    "configmaps": CONFIG_MAP,
    "clusterroles": CLUSTER_ROLE,
    "events": EVENT,
    "versions": {**VERSION, "metadata": {"name": "kubernetes"}},
    "accessreviews": REVIEW,
}


# ---- what is kept


@pytest.mark.parametrize("kind", OBJECTS)
def test_no_secret_is_kept(kind):
    before = json.dumps(OBJECTS[kind])
    assert SECRET not in json.dumps(trim.trim(kind, OBJECTS[kind]))
    assert json.dumps(OBJECTS[kind]) == before, "the object itself is left alone"


@pytest.mark.parametrize("kind", OBJECTS)
def test_trimming_twice_changes_nothing(kind):
    once = trim.trim(kind, OBJECTS[kind])
    assert trim.trim(kind, once) == once
    assert trim.trim(kind, {})["metadata"] == {}


def test_of_aws_node_its_settings_are_kept():
    kept = trim.trim("daemonsets", daemonset())
    image = "602401143452.dkr.ecr.eu-west-1.amazonaws.com/{}:v1.23.1-eksbuild.1"
    assert kept["spec"]["template"]["spec"] == {
        "containers": [
            {
                "name": "aws-node",
                "image": image.format("aws-node"),
                "env": [
                    {"name": "ENABLE_POD_ENI", "value": "false"},
                    {"name": "ENABLE_IPv6", "value": ""},
                    {"name": "NETWORK_POLICY_ENFORCING_MODE", "valueFrom": {}},
                ],
            },
            {
                "name": "aws-eks-nodeagent",
                "image": image.format("aws-eks-nodeagent"),
                "args": ["--enable-network-policy=true", "--log-level=debug"],
            },
        ],
        "initContainers": [
            {
                "name": "aws-vpc-cni-init",
                "image": image.format("aws-vpc-cni-init"),
                "env": [{"name": "ENABLE_POD_ENI", "value": "false"}],
            }
        ],
    }
    assert kept["status"] == {"desiredNumberScheduled": 3, "numberReady": 2}
    assert kept["spec"]["selector"] == {"matchLabels": {"k8s-app": "aws-node"}}


@pytest.mark.parametrize(("name", "namespace"), [("calico-node", "kube-system"), ("aws-node", "default")])
def test_of_other_daemonsets_names_and_images_are_kept(name, namespace):
    """Also of one that only has the name."""
    kept = trim.trim("daemonsets", daemonset(name, namespace))
    containers = kept["spec"]["template"]["spec"]["containers"]
    assert [set(one) for one in containers] == [{"name", "image"}] * 2
    assert set(kept) == {"metadata", "spec"}
    assert set(kept["spec"]) == {"template"}


def test_the_smaller_objects():
    assert trim.trim("configmaps", CONFIG_MAP)["data"] == {
        "enable-network-policy-controller": "true",
        "enable-windows-ipam": "false",
    }
    assert trim.trim("clusterroles", CLUSTER_ROLE)["rules"] == [RULE]
    event = trim.trim("events", {**EVENT, "message": "x" * 5000})
    assert (event["message"], event["count"], event["reason"]) == ("x" * 1000, 3, "FailedCreatePodSandBox")
    assert event["involvedObject"] == {"kind": "Pod", "namespace": "shop", "name": "web-1", "uid": "u-2"}
    assert trim.trim("versions", OBJECTS["versions"]) == {
        "metadata": {"name": "kubernetes"},
        "gitVersion": "v1.31.4-eks-473151a",
    }
    assert trim.trim("accessreviews", REVIEW) == {
        "metadata": {"name": "list pods"},
        "spec": {"verb": "list", "resource": "pods"},
        "status": {"allowed": True},
    }


@pytest.mark.parametrize("allowed", [False, None, "true", 1, {}])
def test_only_true_is_allowed(allowed):
    assert trim.trim("accessreviews", {**REVIEW, "status": {"allowed": allowed}})["status"] == {"allowed": False}


NAMES = st.sampled_from([*sorted(ENVIRONMENT), "AWS_SECRET_ACCESS_KEY", "enable_ipv6", "ENABLE_IPv6 ", ""]) | st.text()


@given(st.lists(st.tuples(NAMES, st.booleans())))
def test_no_value_of_any_other_variable_is_kept(variables):
    env = [{"name": name, "value": "fine" if name in ENVIRONMENT else SECRET} for name, _ in variables]
    env += [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET}}} for name, elsewhere in variables if elsewhere
    ]
    made = daemonset()
    made["spec"]["template"]["spec"]["containers"][0]["env"] = env
    kept = trim.trim("daemonsets", made)
    assert SECRET not in json.dumps(kept)
    listed = kept["spec"]["template"]["spec"]["containers"][0].get("env", [])
    assert [one["name"] for one in listed] == [one["name"] for one in env if one["name"] in ENVIRONMENT]


def args_of(*args):
    made = daemonset()
    made["spec"]["template"]["spec"]["containers"][1]["args"] = list(args)
    return trim.trim("daemonsets", made)["spec"]["template"]["spec"]["containers"][1].get("args", [])


@pytest.mark.parametrize(
    ("args", "kept"),
    [
        (["--log-level=debug"], ["--log-level=debug"]),
        (["--log-level", "debug"], ["--log-level=debug"]),
        (["-log-level", "debug", SECRET], ["--log-level=debug"]),
        (["--log-level", "--enable-ipv6=true"], ["--log-level", "--enable-ipv6=true"]),
        (["--log-level=", SECRET], ["--log-level="]),
        (["--token", SECRET], []),
        (["--log-level", "info", "--token", SECRET], ["--log-level=info"]),
        (["--log-level-of", SECRET], []),
        ([SECRET, "--enable-ipv6"], ["--enable-ipv6"]),
        (["--enable-network-policy", SECRET], ["--enable-network-policy"]),
        ([], []),
    ],
)
def test_arguments(args, kept):
    assert args_of(*args) == kept


def test_a_switch_takes_no_argument_of_its_own():
    """The agent reads its flags with pflag: `--enable-network-policy false` switches it on."""
    assert parse_flags(args_of("--enable-network-policy", "false")) == {"enable-network-policy": "true"}
    assert {name for name in FLAGS if name.startswith("enable-")} == trim.SWITCHES


def test_the_page_about_bundles_names_all_that_is_kept():
    page = (Path(__file__).resolve().parents[2] / "docs/bundle-format.md").read_text()
    kinds = (*plan.EVERYTHING, plan.RIGHTS)
    for name in (
        *kinds,
        *ENVIRONMENT,
        *FLAGS,
        *trim.CONFIG_KEYS,
        *trim.ANNOTATIONS,
        *trim.METADATA,
        "flow_log",
        "agent",
    ):
        assert f"`{name}`" in page, name
    # And no flag or variable that is not.
    flags, variables = page.split("\nFlags (")[1].split("\nVariables (")
    assert set(re.findall(r"`([a-z0-9-]+)`", flags.split("): ")[1])) == FLAGS
    assert set(re.findall(r"`([A-Z]\w+)`", variables.split(". Of one")[0])) == ENVIRONMENT


# ---- how it is read


def refused(status, message="forbidden"):
    return ApiError(status, "Reason", message)


@dataclass
class FakeApi:
    """``answers``: by path, an object, a list of items or an error; what is not there is a 404."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    namespace: str = "default"
    review: Callable[[Json], Json] = lambda attributes: {"status": {"allowed": True}}

    def get(self, path, **query):
        return self._answer("GET", path)

    def list(self, path, **query):
        self.query = query
        return Listing(tuple(self._answer("LIST", path)), "7")

    def create(self, path, body, **query):
        self.asked.append(("POST", path))
        assert body["kind"] == "SelfSubjectAccessReview"
        return self.review(body["spec"]["resourceAttributes"])

    def _answer(self, method, path):
        self.asked.append((method, path))
        found = self.answers.get(path, refused(404, f"{path} not found"))
        if isinstance(found, ApiError):
            raise found
        return found


def read(kind, answers=None, **more) -> Collection:
    return settings.read(FakeApi(answers or {}, **more), kind, "debug-here")


ALL = {
    settings.DAEMONSETS: [daemonset(), daemonset("calico-node")],
    settings.AWS_NODE: daemonset(),
    settings.CONFIG_MAP: CONFIG_MAP,
    settings.CLUSTER_ROLE: CLUSTER_ROLE,
    settings.EVENTS: [EVENT],
    "/version": VERSION,
}


def test_all_that_is_read_fits_into_a_bundle_without_a_secret(tmp_path):
    found = {kind: read(kind, ALL) for kind in settings.KINDS}
    assert all(one.known and one.items for one in found.values())
    path = tmp_path / "b.tar.gz"
    bundle.write(Snapshot(found, taken_at="2026-01-02T03:04:05Z"), str(path))
    assert bundle.read(str(path)).collections == found
    assert SECRET not in json.dumps({kind: one.items for kind, one in bundle.read(str(path)).collections.items()})


def test_only_these_objects_are_asked_for():
    """Neither ConfigMaps nor ClusterRoles are listed, and no Secret is read."""
    api = FakeApi(ALL)
    for kind in settings.KINDS:
        settings.read(api, kind, "debug-here")
    reads = {one for one in api.asked if one[0] != "POST"}
    assert reads == {
        ("LIST", "/apis/apps/v1/daemonsets"),
        ("GET", "/api/v1/namespaces/kube-system/configmaps/amazon-vpc-cni"),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/aws-node"),
        ("LIST", "/api/v1/events"),
        ("GET", "/version"),
    }
    assert {path for method, path in api.asked if method == "POST"} == {settings.REVIEWS}


@pytest.mark.parametrize("kind", settings.KINDS)
@pytest.mark.parametrize("status", [403, 429, 500, 0])
def test_a_refusal_is_a_reason(kind, status):
    def review(attributes):
        raise refused(status)

    answers = dict.fromkeys(ALL, refused(status))
    found = read(kind, answers, review=review)
    assert (found.items, found.absent) == ((), False)
    assert found.reason.endswith("forbidden")


@pytest.mark.parametrize("kind", settings.KINDS)
def test_refused_credentials_end_the_run(kind):
    def review(attributes):
        raise refused(401)

    with pytest.raises(ApiError):
        read(kind, dict.fromkeys(ALL, refused(401)), review=review)


def test_without_the_right_to_list_daemonsets_aws_node_alone_is_read():
    found = read("daemonsets", {**ALL, settings.DAEMONSETS: refused(403)})
    assert [one["metadata"]["name"] for one in found.items] == ["aws-node"]
    assert found.reason == "only kube-system/aws-node was read: forbidden"
    failed = read("daemonsets", {**ALL, settings.DAEMONSETS: refused(500, "etcd is slow")})
    assert failed == Collection(reason="etcd is slow")
    gone = read("daemonsets", {settings.DAEMONSETS: refused(403)})
    assert gone == Collection(reason="only kube-system/aws-node was asked for, and it is not there: forbidden")


@pytest.mark.parametrize("kind", ["configmaps", "clusterroles"])
def test_an_object_that_is_not_there_is_known_not_to_be_there(kind):
    assert read(kind) == Collection()


def test_events_are_the_youngest_of_one_reason():
    def event(number, **more):
        made = {**EVENT, "metadata": metadata(f"e{number}"), "lastTimestamp": f"2026-01-01T00:00:{number % 60:02}Z"}
        return {**made, **more}

    many = [event(n, lastTimestamp=f"2026-01-01T{n // 60:02}:{n % 60:02}:00Z") for n in range(settings.MOST_EVENTS + 9)]
    foreign = event(1, reason="Started", message=SECRET, lastTimestamp="2027-01-01T00:00:00Z")
    api = FakeApi({settings.EVENTS: [foreign, *many]})
    found = settings.read(api, "events", "")
    assert api.query == {"fieldSelector": "reason=FailedCreatePodSandBox"}
    assert len(found.items) == settings.MOST_EVENTS
    assert found.items[0]["metadata"]["name"] == f"e{settings.MOST_EVENTS + 8}"
    assert SECRET not in json.dumps(found.items)


WRONG: list[Any] = [None, 7, "text", [], {}, [7], ["text"], {"name": 7}, {"x": [7]}, [[]], True]


def with_part(obj, path, value):
    """A copy with one part replaced."""
    made = json.loads(json.dumps(obj))
    at = made
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return made


def paths(value, above=()):
    """The ways to all parts of an object."""
    if above:
        yield above
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*above, key))


PLACES = {
    "daemonsets": settings.DAEMONSETS,
    "configmaps": settings.CONFIG_MAP,
    "clusterroles": settings.CLUSTER_ROLE,
    "events": settings.EVENTS,
    "versions": "/version",
}


@pytest.mark.parametrize("kind", PLACES)
def test_answers_of_another_shape_are_no_crash_and_tell_no_secret(kind):
    raw = VERSION if kind == "versions" else OBJECTS[kind]
    kept, unread = 0, 0
    for path in paths(raw):
        for value in WRONG:
            odd = with_part(raw, path, value)
            answer: Any = [odd] if kind in ("daemonsets", "events") else odd
            found = read(kind, {PLACES[kind]: answer})
            assert isinstance(found, Collection)
            assert SECRET not in json.dumps(found.items)
            assert not (found.reason and found.items)
            kept, unread = kept + found.known, unread + (not found.known)
    assert kept > 40
    assert unread or kind == "versions"


@pytest.mark.parametrize("answer", [{}, {"status": None}, {"status": {}}, {"status": {"allowed": "yes"}}])
def test_an_answer_about_rights_that_says_nothing_is_no(answer):
    found = read("accessreviews", review=lambda attributes: answer)
    assert {one["status"]["allowed"] for one in found.items} == {False}


# ---- rights


def test_each_right_is_asked_for_once():
    api = FakeApi(review=lambda attributes: {"status": {"allowed": attributes["resource"] != "events"}})
    found = settings.read(api, "accessreviews", "debug-here").items
    texts = [one["metadata"]["name"] for one in found]
    assert texts == [right.text for right in rights.needed("debug-here")]
    assert len({*texts}) == len(texts)
    assert [one["metadata"]["name"] for one in found if not one["status"]["allowed"]] == ["list events"]
    assert {one["spec"]["verb"] for one in found} <= {"list", "get", "create", "watch", "delete"}
    writes = [one["spec"] for one in found if one["spec"]["verb"] in ("create", "delete")]
    assert {(one["resource"], one["namespace"]) for one in writes} == {("pods", "debug-here")}


def test_rights_in_words_and_as_attributes():
    exec_right = Right("create", "pods", namespace="debug-here", subresource="exec")
    assert exec_right.text == "create pods/exec in debug-here"
    assert exec_right.attributes == {
        "verb": "create",
        "resource": "pods",
        "namespace": "debug-here",
        "subresource": "exec",
    }
    one = Right("get", "configmaps", namespace="kube-system", name="amazon-vpc-cni")
    assert one.text == "get configmaps/amazon-vpc-cni in kube-system"
    assert Right("list", "pods").attributes == {"verb": "list", "resource": "pods"}
