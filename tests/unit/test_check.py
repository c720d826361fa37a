"""`check`: rows and findings of many pods, node by node, on modelled nodes; what is unread, ignored, a consequence."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from kubectl_netpol import bundle, checking, cli
from kubectl_netpol.checking import API_ONLY, Asked, exit_code, not_in_force
from kubectl_netpol.diagnose import check as checks
from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.check import CAUSES, RANK, Check, Report, asked_pods, consequences_left_out
from kubectl_netpol.errors import ExitCode, UsageError
from kubectl_netpol.kernel.identity import veth_names
from kubectl_netpol.model.finding import Finding, Kind, Severity, Where
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.policy.world import World, name_of, node_of
from tests.unit import builders as build
from tests.unit.builders import ACCESS_FALSE, ACCESS_NGINX, ACCESS_TRUE, NGINX, NODE
from tests.unit.modelled_node import NodeDocument, aws_node, resolved
from tests.unit.test_live import COMMON

Json = dict[str, Any]
NAME = "nginx-f8d9c6576-8b4vf"
KEY = "default", NAME


def agent_pod(node: str = NODE, address: str = build.NODE_IP, **status: Any) -> Json:
    found = build.pod(
        f"aws-node-{node}",
        address,
        namespace="kube-system",
        labels={"k8s-app": "aws-node"},
        node=node,
        host_ip=address,
        host_network=True,
    )
    found["spec"]["containers"] = [{"name": "aws-eks-nodeagent", "image": "r.example/agent:v1.4.2"}]
    found["status"]["containerStatuses"] = [{"name": "aws-eks-nodeagent", "ready": True, "restartCount": 0, **status}]
    return found


CONFIG_MAP = {
    "metadata": build.meta("amazon-vpc-cni", "kube-system"),
    "data": {"enable-network-policy-controller": "true"},
}
SETTINGS: dict[str, Any] = {
    "daemonsets": [aws_node(env={"NETWORK_POLICY_ENFORCING_MODE": "standard"})],
    "configmaps": [CONFIG_MAP],
}


@dataclass
class Cluster:
    """A healthy one, whose API or documents a test edits before it asks."""

    objects: dict[str, Any] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, Json] = field(default_factory=dict)
    """Documents; None of it is made again once it is there."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Nodes that could not be read."""

    def __post_init__(self) -> None:
        base = {
            "pods": [NGINX, ACCESS_TRUE, ACCESS_FALSE, agent_pod()],
            "nodes": [build.node()],
            "namespaces": [build.namespace("default"), build.namespace("kube-system")],
            "networkpolicies": [ACCESS_NGINX],
            **SETTINGS,
        }
        made = resolved({**base, **self.objects})
        self.objects = {kind: list(found.items) for kind, found in made.snapshot.collections.items()}
        for pod in asked_pods(self.objects["pods"]):
            if node_of(pod) not in self.nodes:
                here = [p for p in asked_pods(self.objects["pods"]) if node_of(p) == node_of(pod)]
                self.nodes[node_of(pod)] = NodeDocument(made, here, random.Random(1)).made()
        self.objects, self.nodes = copy.deepcopy(self.objects), copy.deepcopy(self.nodes)

    @property
    def world(self) -> World:
        kinds = {
            kind: Collection(tuple(items) if kind not in self.unread else (), self.unread.get(kind, ""))
            for kind, items in self.objects.items()
        }
        return World(Snapshot(kinds))

    def check(self, *names: str, api_only: bool = False) -> Check:
        world = self.world
        pods = [pod for pod in asked_pods(self.objects["pods"]) if not names or name_of(pod) in names]
        return Check(world, pods, whole=not names, api_only=api_only)

    def report(self, *names: str, api_only: bool = False) -> Report:
        found = self.check(*names, api_only=api_only)
        for node in found.by_node:
            if api_only:
                found.node(node, NodeReading(None, API_ONLY))
            elif node in self.reasons:
                found.node(node, NodeReading(None, self.reasons[node]))
            else:
                found.node(node, NodeReading(self.nodes[node]))
        return found.report()

    def row_of(self, section: str, **wanted: Any) -> Json:
        rows = self.nodes[NODE][section]
        return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))

    def filters_of(self, name: str) -> list[Json]:
        index = self.row_of("links", name=veth_names("default", name)[0])["ifindex"]
        return [one for one in self.nodes[NODE]["filters"] if one["ifindex"] == index]

    def break_state(self, name: str = NAME) -> None:
        """NPE304: its ingress pod state is lost."""
        program = next(f["program_id"] for f in self.filters_of(name) if f["name"] == "handle_ingress")
        maps = self.row_of("programs", id=program)["map_ids"]
        state = next(row for row in self.nodes[NODE]["maps"] if row["id"] in maps and row["max_entries"] == 2)
        state["contents"] = build.state_row(1, {1: build.DEFAULT_ALLOW})["contents"]


def codes(report: Report) -> list[str]:
    return [one.code for one in report.findings]


def row(report: Report, name: str = NAME):
    [found] = [one for one in report.rows if one.name == name]
    return found


# ---- rows


def test_a_healthy_cluster():
    report = Cluster().report()
    assert (report.findings, report.unread) == ((), ())
    assert [one.name for one in report.rows] == ["accessfalse", "accesstrue", NAME]
    found = row(report)
    assert (found.intent, found.endpoints, found.pinned, found.attached) == ("1 policy", "1", "ok", "ok")
    assert (found.state, found.codes, found.identifier) == ("POLICIES_APPLIED", (), "nginx-f8d9c6576@default")
    free = row(report, "accesstrue")
    assert (free.intent, free.endpoints, free.state) == ("open", "-", "DEFAULT_ALLOW")


def test_a_node_that_was_not_read():
    cluster = Cluster(reasons={NODE: "no debug pod could be started"})
    report = cluster.report()
    assert report.unread == (f"node {NODE}: no debug pod could be started",)
    for found in report.rows:
        assert (found.pinned, found.attached, found.state) == ("?", "?", "?")
        assert found.reason == "no debug pod could be started"
    assert (row(report).intent, row(report).endpoints) == ("1 policy", "1"), "the API was read"
    assert exit_code(report, [Severity.ERROR]) is ExitCode.UNDECIDED


def test_with_api_only_nodes_are_not_missed():
    report = Cluster().report(api_only=True)
    assert report.api_only
    assert report.unread == ()
    assert exit_code(report, [Severity.ERROR]) is ExitCode.OK
    assert {(one.pinned, one.attached, one.state) for one in report.rows} == {("?", "?", "?")}


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("networkpolicies", "intent"),
        ("applicationnetworkpolicies", "intent"),
        ("clusternetworkpolicies", "intent"),
        ("policyendpoints", "endpoints"),
        ("clusterpolicyendpoints", "endpoints"),
    ],
)
def test_what_the_api_refused_is_a_question_mark(kind, column):
    report = Cluster(unread={kind: "forbidden"}).report()
    assert {getattr(one, column) for one in report.rows} == {"?"}
    assert report.unread == (f"{kind}: forbidden",)
    assert exit_code(report, [Severity.ERROR]) is ExitCode.UNDECIDED


@pytest.mark.parametrize(
    "kind", ["daemonsets", "configmaps", "clusterroles", "versions", "events", "services", "nodes"]
)
def test_all_that_could_not_be_read_is_told(kind):
    report = Cluster(unread={kind: "forbidden"}).report()
    assert f"{kind}: forbidden" in report.unread
    assert codes(report) == [], "unknown is no fault"


def test_a_crd_that_is_not_there_is_not_unread():
    cluster = Cluster()
    collections = {**cluster.world.snapshot.collections, "clusternetworkpolicies": Collection((), "gone", absent=True)}
    found = Check(World(Snapshot(collections)), (), whole=True)
    assert found.report().unread == ()


@pytest.mark.parametrize(
    ("section", "column"), [("filters", "attached"), ("programs", "attached"), ("pins", "pinned"), ("maps", "pinned")]
)
def test_a_part_of_the_node_that_was_not_read(section, column):
    cluster = Cluster()
    cluster.nodes[NODE][section] = None
    cluster.nodes[NODE]["errors"].append({"what": section, "error": "EPERM"})
    report = cluster.report()
    assert getattr(row(report), column) == "?"
    assert f"{section}: EPERM" in row(report).reason
    assert f"pod default/{NAME}: {row(report).reason}" in report.unread
    assert exit_code(report, [Severity.ERROR]) is not ExitCode.OK


def test_a_missing_pod_state():
    cluster = Cluster()
    cluster.break_state()
    report = cluster.report()
    found = row(report)
    assert codes(report) == ["NPE304"]
    assert (found.pinned, found.attached, found.state) == ("DRIFT", "ok", "MISSING/POLICIES_APPLIED")
    assert found.codes == ("NPE304",)
    assert row(report, "accesstrue").codes == ()


def test_a_pod_without_filters():
    cluster = Cluster()
    for one in cluster.filters_of(NAME):
        cluster.nodes[NODE]["filters"].remove(one)
    report = cluster.report()
    assert codes(report) == ["NPE402"]
    assert (row(report).attached, row(report).state) == ("NONE", "-")


def test_a_stale_program():
    cluster = Cluster()
    [ingress] = [f for f in cluster.filters_of(NAME) if f["name"] == "handle_ingress"]
    old = cluster.row_of("programs", id=ingress["program_id"])
    cluster.nodes[NODE]["programs"].append({**old, "id": 9000})
    ingress["program_id"] = 9000
    report = cluster.report()
    assert codes(report) == ["NPE401"]
    assert row(report).attached == "STALE"


def test_a_foreign_filter():
    cluster = Cluster()
    first = cluster.filters_of(NAME)[0]
    cluster.nodes[NODE]["filters"].insert(0, {**first, "name": "cil_from", "program_id": 77, "pref": 0})
    report = cluster.report()
    assert codes(report) == ["NPE406"]
    assert row(report).attached == "FOREIGN"


def test_endpoints_that_drifted():
    cluster = Cluster()
    cluster.objects["policyendpoints"].clear()
    report = cluster.report()
    assert "NPE201" in codes(report)
    assert row(report).endpoints == "DRIFT"


# ---- order


def two_nodes() -> Cluster:
    other = build.pod("api-1", "10.0.1.9", node="node-b", host_ip="10.0.0.2")
    early = build.pod("zz", "10.0.1.10", namespace="alpha", node="node-b", host_ip="10.0.0.2")
    return Cluster(
        {
            "pods": [NGINX, other, early, ACCESS_TRUE, agent_pod(), agent_pod("node-b", "10.0.0.2")],
            "nodes": [build.node(), build.node("node-b", "10.0.0.2")],
            "namespaces": [build.namespace("default"), build.namespace("alpha"), build.namespace("kube-system")],
        }
    )


def test_rows_are_in_the_order_of_names_whatever_comes_first():
    cluster = two_nodes()
    orders = []
    for nodes in (["node-a", "node-b"], ["node-b", "node-a"]):
        found = cluster.check()
        assert list(found.by_node) == ["node-a", "node-b"]
        for node in nodes:
            made = found.node(node, NodeReading(cluster.nodes[node]))
            assert {one.node for one in made} == {node}
        orders.append([(one.namespace, one.name) for one in found.report().rows])
    assert orders[0] == orders[1] == sorted(orders[0])
    assert orders[0][0] == ("alpha", "zz")


def test_findings_are_told_the_worst_first():
    cluster = Cluster()
    cluster.break_state()
    cluster.break_state("accesstrue")
    for one in cluster.filters_of("accessfalse"):
        cluster.nodes[NODE]["filters"].remove(one)
    report = cluster.report()
    assert [(one.code, one.subject) for one in report.findings] == [
        ("NPE304", "pod default/accesstrue"),
        ("NPE304", f"pod default/{NAME}"),
        ("NPE411", "pod default/accessfalse"),
    ]
    ranks = [RANK[one.severity] for one in report.findings]
    assert ranks == sorted(ranks)


def test_one_node_that_fails_leaves_the_others():
    cluster = two_nodes()
    cluster.reasons["node-b"] = "timed out"
    report = cluster.report()
    assert {one.name: one.reason for one in report.rows if one.reason} == {"api-1": "timed out", "zz": "timed out"}
    assert row(report).pinned == "ok"
    assert report.unread == ("node node-b: timed out",)


def test_a_finding_is_told_once_however_often_its_node_is_handed_in():
    cluster = Cluster()
    cluster.break_state()
    found = cluster.check()
    for _ in range(2):
        found.node(NODE, NodeReading(cluster.nodes[NODE]))
    assert codes(found.report()) == ["NPE304"]


# ---- whose findings


def test_a_finding_of_the_whole_cluster_is_in_no_row():
    cluster = Cluster({"daemonsets": [aws_node(env={"ENABLE_BANDWIDTH_PLUGIN": "true"})]})
    report = cluster.report()
    assert codes(report) == ["NPE609"]
    assert report.findings[0].everywhere
    assert {one.codes for one in report.rows} == {()}


def test_a_finding_of_a_node_is_in_no_row_and_names_its_node():
    cluster = two_nodes()
    down = {"ready": False, "restartCount": 9}
    cluster.objects["pods"] = [p for p in cluster.objects["pods"] if name_of(p) != "aws-node-node-b"]
    cluster.objects["pods"].append(agent_pod("node-b", "10.0.0.2", **down))
    report = cluster.report()
    assert [(one.code, one.node) for one in report.findings] == [("NPE607", "node-b")]
    assert {one.codes for one in report.rows} == {()}


def test_a_policy_s_finding_is_on_the_rows_of_its_pods():
    cluster = Cluster()
    cluster.objects["policyendpoints"].clear()
    report = cluster.report(api_only=True)
    assert {one.name: one.codes for one in report.rows} == {NAME: ("NPE201",), "accesstrue": (), "accessfalse": ()}


def test_of_one_pod_other_pods_are_not_told():
    cluster = Cluster()
    cluster.break_state()
    report = cluster.report("accesstrue")
    assert [one.name for one in report.rows] == ["accesstrue"]
    assert codes(report) == []


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({}, True),
        ({"host_network": True}, False),
        ({"phase": "Succeeded"}, False),
        ({"phase": "Failed"}, False),
        ({"phase": "Pending"}, True),
        ({"node": ""}, False),
    ],
)
def test_which_pods_are_asked_about(more, asked):
    made = build.pod("web", "10.0.1.1", **more)
    assert asked_pods([made]) == ((made,) if asked else ())


# ---- consequences


def finding(kind: Kind, *, everywhere: bool = False, pods=(), title: str = "") -> Finding:
    return Finding(kind, title or kind.summary, subject=title, pods=frozenset(pods), everywhere=everywhere)


@pytest.mark.parametrize(
    ("cause", "effect"),
    [(cause, effect) for cause, effects in CAUSES for effect in effects],
    ids=lambda kind: kind.code,
)
def test_what_follows_from_a_cause_is_not_told_beside_it(cause, effect):
    first, second = finding(cause, everywhere=True), finding(effect, pods=[KEY])
    assert consequences_left_out([second, first]) == [first]
    assert consequences_left_out([second]) == [second]
    assert consequences_left_out([finding(cause), second])[-1] == second, "a cause that is not everywhere"


def test_other_findings_stay_beside_a_cause():
    causes = {cause.code: effects for cause, effects in CAUSES}
    for code, effects in causes.items():
        for kind in findings.KINDS.values():
            if kind not in effects and kind.code != code:
                found = [finding(findings.KINDS[code], everywhere=True), finding(kind, pods=[KEY])]
                assert consequences_left_out(found) == found


def test_an_open_pod_is_not_told_to_lack_pins_too():
    open_pod, no_pin = finding(findings.NOT_ATTACHED, pods=[KEY]), finding(findings.POD_WITHOUT_PIN, pods=[KEY])
    assert consequences_left_out([open_pod, no_pin]) == [open_pod]
    other = finding(findings.POD_WITHOUT_PIN, pods=[("default", "other")])
    assert consequences_left_out([open_pod, other]) == [open_pod, other]


@pytest.mark.parametrize("streamed", [False, True])
def test_consequences_are_not_in_the_rows_either(streamed):
    """Neither at the end nor as rows come: no row names a code of which nothing is told."""
    cluster = Cluster()
    cluster.objects["configmaps"][0]["data"]["enable-network-policy-controller"] = "false"
    cluster.objects["policyendpoints"].clear()
    found = cluster.check()
    rows = found.node(NODE, NodeReading(cluster.nodes[NODE]))
    report = found.report()
    assert "NPE601" in codes(report)
    assert "NPE201" not in codes(report)
    told = {code for one in (rows if streamed else report.rows) for code in one.codes}
    assert told <= {*codes(report)}
    assert {one.endpoints for one in report.rows if one.name == NAME} == {"DRIFT"}, "what the row says stays true"


# ---- what is done with it


ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO


@pytest.mark.parametrize(
    ("kinds", "unread", "failing", "code"),
    [
        ((), (), (ERROR,), ExitCode.OK),
        ((), ("x",), (ERROR,), ExitCode.UNDECIDED),
        ((findings.NO_POD_STATE,), (), (ERROR,), ExitCode.DENIED),
        ((findings.NO_POD_STATE,), ("x",), (ERROR,), ExitCode.DENIED),
        ((findings.STILL_OPEN,), (), (ERROR,), ExitCode.OK),
        ((findings.STILL_OPEN,), ("x",), (ERROR,), ExitCode.UNDECIDED),
        ((findings.STILL_OPEN,), (), (ERROR, WARNING), ExitCode.DENIED),
        ((findings.ICMP,), (), (ERROR, WARNING), ExitCode.OK),
    ],
)
def test_the_exit_code(kinds, unread, failing, code):
    assert exit_code(Report((), tuple(map(finding, kinds)), unread), failing) is code


@pytest.mark.parametrize(("fail_on", "failing"), [("error", (ERROR,)), ("warning", (ERROR, WARNING))])
def test_the_threshold(fail_on, failing):
    assert checking._checked(Asked(fail_on=fail_on), COMMON) == failing


@pytest.mark.parametrize("asked", [Asked(fail_on="info"), Asked(fail_on=""), Asked(ignore=("NPE999",))])
def test_a_threshold_or_code_that_is_none(asked):
    with pytest.raises(UsageError):
        checking._checked(asked, COMMON)


def test_ignored_codes_are_in_neither_rows_nor_findings():
    cluster = Cluster()
    cluster.break_state()
    cluster.objects["policyendpoints"].clear()
    report = cluster.report()
    assert {"NPE201", "NPE304"} <= {*codes(report)}
    left = checking._without(report, ("NPE304",), COMMON)
    assert "NPE304" not in codes(left)
    assert "NPE201" in codes(left)
    assert "NPE304" not in row(left).codes
    assert "NPE201" in row(left).codes
    assert row(left).pinned == row(report).pinned, "what the row says stays true"
    assert left.unread == report.unread


def run(cluster: Cluster, tmp_path, *arguments: str) -> int:
    """The verb itself, on a bundle of the cluster."""
    path = tmp_path / "bundle.tar.gz"
    nodes = {name: NodeReading(document) for name, document in cluster.nodes.items()}
    taken_at, version = "2026-01-02T03:04:05Z", "test"
    bundle.write(Snapshot(cluster.world.snapshot.collections, nodes, taken_at, version), str(path))
    return cli.run(["check", *arguments, "--bundle", str(path)])


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml", "junit", "prometheus"])
@pytest.mark.parametrize("asked", [("-A",), ("-n", "default"), (f"pod/{NAME}",)])
def test_ignored_codes_are_named_as_such_alone(form, asked, tmp_path, capsys):
    cluster = Cluster()
    cluster.break_state()
    assert run(cluster, tmp_path, *asked, "-o", form) == ExitCode.DENIED
    assert "NPE304" in capsys.readouterr().out
    assert run(cluster, tmp_path, *asked, "-o", form, "--ignore", "NPE304") == ExitCode.OK
    out = capsys.readouterr().out
    if form in ("json", "yaml"):
        data = yaml.safe_load(out)
        assert (data["ignored"], data["findings"]) == (["NPE304"], [])
        assert not any(pod["findings"] for pod in data["pods"])
    else:
        told = out.replace("; ignored: NPE304.", "")
        assert "NPE304" not in told and (told != out) is (form in ("table", "wide"))


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml", "junit", "prometheus"])
def test_no_row_names_a_consequence(form, tmp_path, capsys):
    cluster = Cluster()
    cluster.objects["configmaps"][0]["data"]["enable-network-policy-controller"] = "false"
    cluster.objects["policyendpoints"].clear()
    assert run(cluster, tmp_path, "-A", "-o", form) == ExitCode.DENIED
    out = capsys.readouterr().out
    assert "NPE601" in out
    assert "NPE201" not in out


def test_with_api_only_no_test_case_of_junit_is_an_error(tmp_path, capsys):
    """Nodes were not to be read: the exit code is 0, and a pipeline must not be red."""
    assert run(Cluster(), tmp_path, "-A", "--api-only", "-o", "junit") == ExitCode.OK
    suite = ElementTree.fromstring(capsys.readouterr().out)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "0", "0")
    assert suite.find(".//error") is None


def test_the_worst_severity():
    report = Report((), tuple(map(finding, (findings.ICMP, findings.NO_POD_STATE, findings.STILL_OPEN))), ())
    assert report.worst() is ERROR
    assert report.worst(frozenset({"NPE304"})) is WARNING
    assert Report((), (), ()).worst() is None


def test_in_force_is_what_the_kernel_does():
    """Neither what the policies mean nor how the CNI is set up is waited for."""
    kinds = [kind for kind in findings.KINDS.values() if kind.severity is ERROR]
    report = Report(
        (), tuple(map(finding, kinds)), ("daemonsets: no", "events: no", "node n: lost", "policyendpoints: x")
    )
    left, unread = not_in_force(report)
    assert {*left} == {k.summary for k in kinds if k.where in (Where.ENDPOINTS, Where.PINNED, Where.ATTACHED)}
    assert unread == ["node n: lost", "policyendpoints: x"]
    assert not_in_force(Report((), (finding(findings.FOREIGN),), ())) == ([], [])


def test_nothing_is_looked_at_closely_where_all_is_as_it_should_be(monkeypatch):
    def refuse(*_):
        raise AssertionError("a closer look")

    monkeypatch.setattr(checks.attached, "of_pod", refuse)
    monkeypatch.setattr(checks.pinned, "of_pod", refuse)
    assert Cluster().report().findings == ()
    broken = Cluster()
    broken.break_state()
    with pytest.raises(AssertionError, match="a closer look"):
        broken.report()
