"""Findings about the configuration: each with what triggers it, its healthy twins, and what nobody could read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.check import asked_pods
from kubectl_netpol.diagnose.checks import config
from kubectl_netpol.diagnose.checks.base import NodeCase, Scope
from kubectl_netpol.diagnose.plan import EVERYTHING
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.model.finding import Finding, Where
from kubectl_netpol.model.snapshot import Collection, Snapshot
from kubectl_netpol.policy.cni import cni_of
from kubectl_netpol.policy.world import World
from tests.unit import builders as build
from tests.unit.modelled_node import aws_node

Json = dict[str, Any]
READ = ["get", "list", "watch"]
NOT_READ = "forbidden"


class Objects:
    """A healthy cluster of one node, to be edited."""

    def __init__(self) -> None:
        self.web = build.pod("web-1", "10.0.1.1", labels={"app": "web"})
        self.agent: Json = {
            "metadata": build.meta("aws-node-x", "kube-system", {"k8s-app": "aws-node"}),
            "spec": {"nodeName": build.NODE, "hostNetwork": True, "containers": []},
            "status": {
                "phase": "Running",
                "podIP": build.NODE_IP,
                "containerStatuses": [
                    {"name": "aws-node", "ready": True, "restartCount": 99},
                    {"name": "aws-eks-nodeagent", "ready": True, "restartCount": 0},
                ],
            },
        }
        self.node = build.node()
        self.node["status"]["nodeInfo"] = {"kernelVersion": "6.1.147-172.266.amzn2023.x86_64"}
        self.daemonset = aws_node()
        self.config_map: Json = {
            "metadata": build.meta("amazon-vpc-cni", "kube-system"),
            "data": {"enable-network-policy-controller": "true"},
        }
        self.role: Json = {
            "metadata": build.meta("aws-node"),
            "rules": [
                {"apiGroups": [""], "resources": ["namespaces", "pods"], "verbs": READ},
                {"apiGroups": ["networking.k8s.aws"], "resources": ["policyendpoints"], "verbs": READ},
                {"apiGroups": ["networking.k8s.aws"], "resources": ["clusterpolicyendpoints"], "verbs": READ},
            ],
        }
        self.version: Json = {"metadata": build.meta("kubernetes"), "gitVersion": "v1.31.4-eks-473151a"}
        policy = build.policy("web", selects={"app": "web"}, ingress=[], egress=[], types=["Ingress", "Egress"])
        self.lists: dict[str, list[Json]] = {
            "pods": [self.web, self.agent],
            "namespaces": [build.namespace("default"), build.namespace("kube-system")],
            "nodes": [self.node],
            "networkpolicies": [policy],
            "policyendpoints": [build.endpoint("web", pods=[self.web], isolation=["Ingress", "Egress"])],
            "daemonsets": [self.daemonset],
            "configmaps": [self.config_map],
            "clusterroles": [self.role],
            "versions": [self.version],
        }
        self.absent: set[str] = set()

    # ---- what cases edit

    def container(self, name: str) -> Json:
        containers: list[Json] = self.daemonset["spec"]["template"]["spec"]["containers"]
        return next(one for one in containers if one["name"] == name)

    def env(self, **values: str | None) -> None:
        """None: from another object."""
        self.container("aws-node")["env"] = [
            {"name": name, "valueFrom": {}} if value is None else {"name": name, "value": value}
            for name, value in {"NETWORK_POLICY_ENFORCING_MODE": "standard", **values}.items()
        ]

    def flags(self, *args: str) -> None:
        self.container("aws-eks-nodeagent")["args"] = list(args)

    def releases(self, cni: str, agent: str) -> None:
        self.container("aws-node")["image"] = f"r.example/amazon-k8s-cni:{cni}"
        self.container("aws-eks-nodeagent")["image"] = f"r.example/aws-network-policy-agent:{agent}"

    def status(self, **more: Any) -> None:
        self.agent["status"]["containerStatuses"][1].update(more)

    def kernel(self, release: str) -> None:
        self.node["status"]["nodeInfo"] = {"kernelVersion": release}

    def engine(self, name: str, namespace: str = "kube-system") -> None:
        self.lists["daemonsets"].append({"metadata": build.meta(name, namespace)})

    def event(self, message: str = "plugin failed: failed to setup network policy", *, address: str = "") -> None:
        waiting = build.pod("fresh", address, phase="Pending")
        self.lists["pods"].append(waiting)
        about = {"namespace": "default", "name": "fresh"}
        self.lists.setdefault("events", []).append(
            {"metadata": build.meta("e", "default"), "message": message, "involvedObject": about, "count": 3}
        )

    def patch_pods(self) -> None:
        self.role["rules"][0]["verbs"] = [*READ, "patch"]

    def off(self) -> None:
        self.flags("--enable-network-policy=false")

    def no_policies(self) -> None:
        self.lists["networkpolicies"].clear()

    def no_endpoints(self) -> None:
        self.lists["policyendpoints"].clear()

    def controller(self, value: str | None) -> None:
        data = {} if value is None else {"enable-network-policy-controller": value}
        self.config_map["data"] = data

    def ipv6(self) -> None:
        self.flags("--enable-network-policy=true", "--enable-ipv6=true")

    # ---- what is found

    def world(self, unread: Iterable[str] = (), partly: Iterable[str] = ()) -> World:
        """``unread``: nothing of these kinds is known; ``partly``: what is there may not be all of it."""
        kinds = {}
        for kind in EVERYTHING:
            items = tuple(self.lists.get(kind, ()))
            if kind in self.absent:
                kinds[kind] = Collection(absent=True)
            elif kind in unread:
                kinds[kind] = Collection(reason=NOT_READ)
            else:
                kinds[kind] = Collection(items, NOT_READ if kind in partly else "")
        return World(Snapshot(kinds))

    def found(self, unread: Iterable[str] = (), *, partly: Iterable[str] = (), wanted: bool = False) -> list[Finding]:
        world = self.world(unread, partly)
        scope = Scope(world, asked_pods(world.snapshot.items("pods")))
        return [*config.of_cluster(scope, wanted=wanted), *config.no_flow_log(cni_of(world))]

    def codes(self, unread: Iterable[str] = (), **more: Any) -> set[str]:
        # Nobody logs flows unless asked to: of one case only.
        return {one.code for one in self.found(unread, **more)} - {"NPE615"}


Edit = Callable[[Objects], Any]


@dataclass
class Case:
    code: str
    edit: Edit
    needs: tuple[str, ...]
    """Kinds without which nothing can be said."""
    beside: tuple[str, ...] = ()
    """Other codes of the same fault."""
    title: str = ""


def both(*edits: Edit) -> Edit:
    def made(objects: Objects) -> None:
        for edit in edits:
            edit(objects)

    return made


def without_verb(verb: str, rule: int) -> Edit:
    def made(objects: Objects) -> None:
        objects.role["rules"][rule]["verbs"] = [one for one in READ if one != verb]

    return made


DAEMONSET = ("daemonsets",)
CASES = {
    "controller off": Case(
        "NPE601", lambda o: o.controller("false"), ("configmaps", "networkpolicies"), title='"false"): nobody resolves'
    ),
    "no key and no PolicyEndpoints": Case(
        "NPE601",
        both(lambda o: o.controller(None), Objects.no_endpoints),
        ("configmaps", "networkpolicies", "policyendpoints"),
        title="no such key",
    ),
    "no ConfigMap and no PolicyEndpoints": Case(
        "NPE601",
        both(lambda o: o.lists["configmaps"].clear(), Objects.no_endpoints),
        ("configmaps", "networkpolicies", "policyendpoints"),
    ),
    "agent off": Case(
        "NPE602",
        both(Objects.off, Objects.no_endpoints),
        (*DAEMONSET, "networkpolicies"),
        title="--enable-network-policy=false): 1 policy has no effect",
    ),
    "flag not given": Case(
        "NPE602", both(lambda o: o.flags(), Objects.no_endpoints), (*DAEMONSET, "networkpolicies"), title="is not given"
    ),
    "no container of the agent": Case(
        "NPE602",
        both(lambda o: o.daemonset["spec"]["template"]["spec"]["containers"].pop(), Objects.no_endpoints),
        (*DAEMONSET, "networkpolicies"),
        title="no container aws-eks-nodeagent",
    ),
    "no CRD": Case(
        "NPE603",
        both(lambda o: o.absent.add("policyendpoints")),
        (),
        title="policyendpoints.networking.k8s.aws is not installed",
    ),
    "no CRD of cluster policies": Case("NPE603", lambda o: o.absent.add("clusterpolicyendpoints"), DAEMONSET),
    "old Kubernetes": Case(
        "NPE604", lambda o: o.version.update(gitVersion="v1.24.17-eks-1"), ("versions",), title="Kubernetes is 1.24.17"
    ),
    "old CNI": Case("NPE604", lambda o: o.releases("v1.13.4", "v1.0.0"), DAEMONSET, title="the VPC CNI is 1.13.4"),
    "known defect": Case("NPE605", lambda o: o.releases("v1.22.3-eksbuild.1", "v1.3.7"), DAEMONSET),
    "defect without the CRD": Case(
        "NPE605",
        both(lambda o: o.releases("v1.21.2", "v1.3.4"), lambda o: o.absent.add("clusterpolicyendpoints")),
        DAEMONSET,
        ("NPE603",),
    ),
    "right to PolicyEndpoints": Case(
        "NPE606", without_verb("watch", 1), (*DAEMONSET, "clusterroles"), title="watch policyendpoints"
    ),
    "right to ClusterPolicyEndpoints": Case(
        "NPE606", without_verb("list", 2), (*DAEMONSET, "clusterroles"), title="list clusterpolicyendpoints"
    ),
    "right to one object only": Case(
        "NPE606",
        lambda o: o.role["rules"][1].update(resourceNames=["one"]),
        (*DAEMONSET, "clusterroles"),
        title="get, list, watch policyendpoints",
    ),
    "no agent on the node": Case(
        "NPE607", lambda o: o.lists["pods"].remove(o.agent), (*DAEMONSET, "pods", "nodes"), title="no pod of aws-node"
    ),
    "agent not ready": Case(
        "NPE607",
        lambda o: o.status(ready=False, state={"waiting": {"reason": "CrashLoopBackOff"}}),
        (*DAEMONSET, "pods", "nodes"),
        title="(CrashLoopBackOff)",
    ),
    "many restarts": Case(
        "NPE608", lambda o: o.status(restartCount=5), (*DAEMONSET, "pods", "nodes"), title="restarted 5 times"
    ),
    "out of memory once": Case(
        "NPE608",
        lambda o: o.status(restartCount=1, lastState={"terminated": {"reason": "OOMKilled", "exitCode": 137}}),
        (*DAEMONSET, "pods", "nodes"),
        title="last because of OOMKilled, exit code 137",
    ),
    "bandwidth plugin": Case("NPE609", lambda o: o.env(ENABLE_BANDWIDTH_PLUGIN="true"), DAEMONSET),
    "veth prefix": Case("NPE610", lambda o: o.env(AWS_VPC_K8S_CNI_VETHPREFIX="veth"), DAEMONSET, title="veth…"),
    "IPv4 egress by default": Case("NPE611", Objects.ipv6, (*DAEMONSET, "networkpolicies")),
    "IPv4 egress on": Case(
        "NPE611", both(Objects.ipv6, lambda o: o.env(ENABLE_V4_EGRESS="true")), (*DAEMONSET, "networkpolicies")
    ),
    "Calico": Case(
        "NPE612", lambda o: o.engine("calico-node", "calico-system"), DAEMONSET, title="calico-system/calico-node"
    ),
    "left on": Case("NPE613", both(Objects.off, Objects.no_policies), (*DAEMONSET, "policyendpoints")),
    "CNI newer than its agent": Case(
        "NPE614", lambda o: o.releases("v1.23.0", "v1.3.7"), DAEMONSET, ("NPE605",), title="ipamd.sock"
    ),
    "agent newer than its CNI": Case(
        "NPE614", lambda o: o.releases("v1.20.1", "v1.4.2"), DAEMONSET, title="npa.sock"
    ),
    "no sandbox": Case("NPE616", Objects.event, ("events", "pods"), title="pod default/fresh cannot be created"),
    "mode misspelt": Case("NPE619", lambda o: o.env(NETWORK_POLICY_ENFORCING_MODE="sstrict"), DAEMONSET),
    "mode not set": Case(
        "NPE619", lambda o: o.env(NETWORK_POLICY_ENFORCING_MODE=""), DAEMONSET, title="tells the agent of no new pod"
    ),
    "IPv6 egress of an IPv4 cluster": Case(
        "NPE611", lambda o: o.env(ENABLE_V6_EGRESS="true"), (*DAEMONSET, "networkpolicies")
    ),
    "no right to annotate": Case("NPE617", lambda o: o.env(ANNOTATE_POD_IP="true"), (*DAEMONSET, "clusterroles")),
    "old kernel": Case(
        "NPE618", lambda o: o.kernel("5.4.226-129.415.amzn2.x86_64"), (*DAEMONSET, "pods", "nodes"), title="5.4.226"
    ),
}  # fmt: skip

TWINS: dict[str, Edit] = {
    "nothing": lambda o: None,
    "controller on, in other letters": lambda o: o.controller(" True "),
    "controller off without policies": both(lambda o: o.controller("false"), Objects.no_policies, Objects.no_endpoints),
    "no key, and PolicyEndpoints are made": lambda o: o.controller(None),
    "agent off without policies": both(Objects.off, Objects.no_policies, Objects.no_endpoints),
    "no CRD that nobody needs": both(
        Objects.off, Objects.no_policies, Objects.no_endpoints, lambda o: o.absent.update({"policyendpoints"})
    ),
    "no CRD of cluster policies, and an agent that may not need it": both(
        lambda o: o.releases("latest", "latest"),
        lambda o: o.absent.add("clusterpolicyendpoints"),
    ),
    "Kubernetes 1.25": lambda o: o.version.update(gitVersion="v1.25.0"),
    "a version that is none": lambda o: o.version.update(gitVersion="main"),
    "images without a version": lambda o: o.releases("latest", "sha-123"),
    "all rights": lambda o: o.role.update(rules=[{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]),
    "rights in two rules": lambda o: o.role["rules"].extend(
        [
            {**o.role["rules"][1], "verbs": ["watch"]},
            o.role["rules"].pop(1) | {"verbs": ["get", "list"]},
        ]
    ),
    "no ClusterRole of this name": lambda o: o.lists["clusterroles"].clear(),
    "an agent without a status": lambda o: o.agent["status"].pop("containerStatuses"),
    "four restarts": lambda o: o.status(restartCount=4, lastState={"terminated": {"reason": "Error", "exitCode": 1}}),
    "an old agent pod that ends": lambda o: o.lists["pods"].append(
        {
            **o.agent,
            "metadata": {**o.agent["metadata"], "name": "old", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"containerStatuses": [{"name": "aws-eks-nodeagent", "ready": False}]},
        }
    ),
    "a node without pods": lambda o: (o.lists["pods"].clear(), o.lists["nodes"].append(build.node("idle", "10.0.0.9"))),
    "Fargate": both(
        lambda o: o.lists["pods"].remove(o.agent),
        lambda o: o.node["metadata"].update(labels={"eks.amazonaws.com/compute-type": "fargate"}),
    ),
    "Auto Mode": both(
        lambda o: o.lists["pods"].remove(o.agent),
        lambda o: o.node["metadata"].update(labels={"eks.amazonaws.com/compute-type": "auto"}),
    ),
    "Windows": both(
        lambda o: o.lists["pods"].remove(o.agent),
        lambda o: o.node["metadata"].update(labels={"kubernetes.io/os": "windows"}),
    ),
    "mode of another object": lambda o: o.env(NETWORK_POLICY_ENFORCING_MODE=None),
    "IPv6 egress in an IPv6 cluster": both(
        Objects.ipv6, lambda o: o.env(ENABLE_V6_EGRESS="true", ENABLE_V4_EGRESS="false")
    ),
    "bandwidth plugin off": lambda o: o.env(ENABLE_BANDWIDTH_PLUGIN="false"),
    "bandwidth plugin set to nothing": lambda o: o.env(ENABLE_BANDWIDTH_PLUGIN=""),
    "the usual prefix": lambda o: o.env(AWS_VPC_K8S_CNI_VETHPREFIX="eni"),
    "no prefix": lambda o: o.env(AWS_VPC_K8S_CNI_VETHPREFIX=""),
    "variables of another object": lambda o: o.env(
        ENABLE_BANDWIDTH_PLUGIN=None, AWS_VPC_K8S_CNI_VETHPREFIX=None, ANNOTATE_POD_IP=None, ENABLE_V4_EGRESS=None
    ),
    "IPv6 with variables of another object": both(Objects.ipv6, lambda o: o.env(ENABLE_V4_EGRESS=None)),
    "IPv4 egress off": both(Objects.ipv6, lambda o: o.env(ENABLE_V4_EGRESS="false")),
    "IPv4 egress in an IPv4 cluster": lambda o: o.env(ENABLE_V4_EGRESS="true"),
    "IPv4 egress that no policy restricts": both(
        Objects.ipv6,
        lambda o: o.lists["networkpolicies"][0]["spec"].update(policyTypes=["Ingress"], egress=[]),
    ),
    "a DaemonSet of others": lambda o: o.engine("fluent-bit"),
    "releases that go together": lambda o: o.releases("v1.23.1-eksbuild.3", "v1.4.2-eksbuild.1"),
    "an event of something else": lambda o: o.event("failed to assign an IP address"),
    "an event of a pod that runs now": lambda o: o.event(address="10.0.1.77"),
    "an event of a pod that is gone": both(Objects.event, lambda o: o.lists["pods"].pop()),
    "annotated with the right to": both(lambda o: o.env(ANNOTATE_POD_IP="true"), Objects.patch_pods),
    "not annotated": lambda o: o.env(ANNOTATE_POD_IP="false"),
    "kernel 5.10": lambda o: o.kernel("5.10.0"),
    "a kernel without a version": lambda o: o.kernel("custom"),
    "a node that says nothing": lambda o: o.node.update(status={}),
}  # fmt: skip


def made(edit: Edit) -> Objects:
    objects = Objects()
    edit(objects)
    return objects


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_triggers_it(case):
    found = made(case.edit).found()
    assert {one.code for one in found} - {"NPE615"} == {case.code, *case.beside}
    one = next(one for one in found if one.code == case.code)
    assert case.title in one.title
    assert len(one.evidence) >= 2
    assert all(e.source and e.value for e in one.evidence)
    assert one.remedies
    assert all(remedy.command and remedy.effect for remedy in one.remedies)


@pytest.mark.parametrize("edit", TWINS.values(), ids=TWINS)
def test_healthy_twins(edit):
    assert made(edit).codes() == set()


@pytest.mark.parametrize(
    ("case", "kind"),
    [(case, kind) for case in CASES.values() for kind in case.needs],
    ids=lambda x: getattr(x, "code", x),
)
def test_what_was_not_read_is_no_fault(case, kind):
    assert case.code not in made(case.edit).codes([kind])
    # Who asks for it does not ask for policies.
    assert kind == "networkpolicies" or case.code not in made(case.edit).codes([kind], wanted=True)


@pytest.mark.parametrize("kind", EVERYTHING)
def test_the_less_is_known_the_less_is_found(kind):
    """Nothing is made up where a kind could not be read."""
    for name, edit in {**TWINS, **{name: case.edit for name, case in CASES.items()}}.items():
        objects = made(edit)
        for wanted in (False, True):
            assert objects.codes([kind], wanted=wanted) <= objects.codes(wanted=wanted), name


def test_nothing_at_all_was_read():
    assert Objects().found(EVERYTHING, wanted=True) == []


@pytest.mark.parametrize(
    "name", ["bandwidth plugin", "veth prefix", "agent off", "known defect", "CNI newer than its agent"]
)
def test_without_the_right_to_list_daemonsets_its_own_is_known(name):
    case = CASES[name]
    assert case.code in made(case.edit).codes(partly=["daemonsets"])


def test_where_some_pods_or_nodes_are_unknown_no_agent_is_missed():
    for kind in ("pods", "nodes"):
        assert made(CASES["no agent on the node"].edit).codes(partly=[kind]) == set()


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (both(lambda o: o.controller("false"), Objects.no_policies, Objects.no_endpoints), "NPE601"),
        (both(Objects.off, Objects.no_policies, Objects.no_endpoints), "NPE602"),
        (both(Objects.off, Objects.no_policies, Objects.no_endpoints, without_verb("get", 1)), "NPE606"),
        (both(Objects.ipv6, Objects.no_policies, Objects.no_endpoints), "NPE611"),
    ],
    ids=["controller", "agent", "rights", "IPv4 egress"],
)
def test_who_asks_for_it_is_told_before_there_is_a_policy(edit, code):
    """`doctor` asks whether policies would be enforced."""
    objects = made(edit)
    assert code not in objects.codes()
    assert code in objects.codes(wanted=True)


# ---- whom they concern


def test_what_concerns_the_cluster_and_what_a_node():
    everywhere = {"NPE601", "NPE602", "NPE603", "NPE604", "NPE605", "NPE606", "NPE609", "NPE610", "NPE611", "NPE612"}
    everywhere |= {"NPE613", "NPE614", "NPE617", "NPE619"}
    for case in CASES.values():
        one = next(found for found in made(case.edit).found() if found.code == case.code)
        assert one.kind.where is Where.CONFIG
        assert one.everywhere is (case.code in everywhere)
        assert one.node == (build.NODE if case.code in ("NPE607", "NPE608", "NPE618") else "")
        assert one.pods == ({("default", "fresh")} if case.code == "NPE616" else frozenset())


def test_every_code_has_a_case():
    codes = {code for code, kind in findings.KINDS.items() if kind.where is Where.CONFIG}
    assert codes == {case.code for case in CASES.values()} | {"NPE615"}


@pytest.mark.parametrize(("absent", "told"), [(True, True), (False, False), (None, False)])
def test_a_defect_that_needs_that_a_crd_is_not_there(absent, told):
    """None: whether it is there could not be read."""
    objects = made(lambda o: o.releases("v1.21.2", "v1.3.4"))
    if absent:
        objects.absent.add("clusterpolicyendpoints")
    one = next(f for f in objects.found(["clusterpolicyendpoints"] if absent is None else ()) if f.code == "NPE605")
    assert any("without the CRD" in evidence.value for evidence in one.evidence) is told


@pytest.mark.parametrize(
    ("case", "starts"),
    [
        ("controller off", "kubectl -n kube-system patch configmap amazon-vpc-cni --type merge "),
        (
            "no ConfigMap and no PolicyEndpoints",
            "kubectl -n kube-system create configmap amazon-vpc-cni --from-literal=",
        ),
    ],
)
def test_the_controller_is_switched_on_where_there_is_no_configmap_too(case, starts):
    [one] = [one for one in made(CASES[case].edit).found() if one.code == "NPE601"]
    assert [remedy.command.startswith(starts) for remedy in one.remedies] == [True]


def test_several_defects_are_one_finding():
    one = next(f for f in made(lambda o: o.releases("v1.16.4", "v1.0.8")).found() if f.code == "NPE605")
    assert "more known defects)" in one.title
    assert len(one.evidence) > 2


def test_pods_that_cannot_be_created_are_one_finding():
    def many(objects):
        objects.event()
        events = objects.lists["events"]
        events.append(copy.deepcopy(events[0]))

    one = next(f for f in made(many).found() if f.code == "NPE616")
    assert one.title.endswith("(and 1 more)")


# ---- flows are not logged


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (("--enable-policy-event-logs=true",), 0),
        (("--enable-policy-event-logs=false",), 1),
        (("--enable-policy-event-logs",), 0),
        ((), 1),
    ],
)
def test_the_flow_log(args, found):
    objects = made(lambda o: o.flags("--enable-network-policy=true", *args))
    told = list(config.no_flow_log(cni_of(objects.world())))
    assert [one.code for one in told] == ["NPE615"] * found


def test_whether_flows_are_logged_is_not_known():
    assert list(config.no_flow_log(cni_of(Objects().world(["daemonsets"])))) == []
    assert list(config.no_flow_log(cni_of(made(lambda o: o.lists["daemonsets"].clear()).world()))) == []


# ---- what is left on a node


def on_node(objects: Objects, document: Json, unread: Iterable[str] = ()) -> list[str]:
    world = objects.world(unread)
    scope = Scope(world, asked_pods(world.snapshot.items("pods")))
    return [one.code for one in config.of_node(NodeCase(build.NODE, NodeView(document), scope))]


def test_filters_that_are_left_on_a_node():
    document = build.pod_document(build.pod("web-1", "10.0.1.1"))
    switched_off = made(both(Objects.off, Objects.no_policies, Objects.no_endpoints))
    assert on_node(switched_off, document) == ["NPE613"]
    assert on_node(switched_off, build.document()) == []
    assert on_node(switched_off, document, ["daemonsets"]) == []
    assert on_node(Objects(), document) == []
    assert on_node(made(Objects.off), document) == [], "the cluster's own finding says so"
