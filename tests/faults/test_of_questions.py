"""Findings that a question brings up: those of one flow by `explain`, that of the log by `drops`; and their twins."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from kubectl_netpol.diagnose.drops import DropReport, drops
from kubectl_netpol.diagnose.explain import Explanation, explain
from kubectl_netpol.diagnose.plan import Question, make_plan
from kubectl_netpol.model.finding import Finding
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.policy.world import World
from tests.faults import catalogue, world
from tests.lab.require import require_lab, require_tools

Json = dict[str, Any]
OTHER_NODE, OUTSIDE = "172.31.103.200", "192.0.2.7"


@pytest.fixture(scope="module")
def healthy() -> Iterator[world.Objects]:
    require_lab()
    require_tools("kubectl", "tc")
    with world.healthy() as lab:
        yield world.Objects.of(world.read(lab))


def asked(found: world.Objects, pod: str = "nginx", **more: Any) -> Explanation:
    snapshot = found.snapshot()
    return explain(make_plan(Question(pod, **more), "default", World(snapshot)), snapshot)


def codes(found: Explanation) -> list[str]:
    return [one.code for one in found.findings]


def only(found: Explanation) -> Finding:
    [one] = found.findings
    assert len(one.evidence) == 2 and one.remedies and one.title
    return one


def test_nothing_is_said_of_a_healthy_pod_and_its_flows(healthy: world.Objects) -> None:
    assert codes(asked(healthy)) == []
    for pod in ("accesstrue", "accessfalse"):
        assert codes(asked(healthy, source=pod, port="80")) == [], pod
        assert codes(asked(healthy, pod, destination="nginx", port="80")) == [], pod


def with_ports(healthy: world.Objects) -> world.Objects:
    found = world.Objects.of(healthy.snapshot())
    ports = [{"port": 80, "protocol": "TCP"}]
    found.one("networkpolicies", "access-nginx")["spec"]["ingress"][0]["ports"] = ports
    for entry in found.one("policyendpoints", "access-nginx")["spec"]["ingress"]:
        entry["ports"] = ports
    return found


def test_ping_needs_a_rule_without_ports(healthy: world.Objects) -> None:
    found = with_ports(healthy)
    one = next(o for o in asked(found, source="accesstrue", port="ICMP", api_only=True).findings if o.code == "NPE114")
    assert one.title.startswith("ping from default/accesstrue (") and "ICMP has no port" in one.title
    assert "NPE114" not in codes(asked(healthy, source="accesstrue", port="ICMP"))
    assert "NPE114" not in codes(asked(found, source="accesstrue", port="443", api_only=True))
    assert "NPE114" not in codes(asked(found, source="accessfalse", port="ICMP", api_only=True))
    # The map is still the old one: the ping passes, and is not said to be dropped.
    assert "NPE114" not in codes(asked(found, source="accesstrue", port="ICMP"))


@pytest.mark.parametrize("address", [OUTSIDE, OTHER_NODE])
def test_an_address_of_no_pod_is_named(healthy: world.Objects, address: str) -> None:
    found = world.Objects.of(healthy.snapshot())
    node = found.lists["nodes"][0]
    other = {**node, "metadata": {**node["metadata"], "name": "other"}}
    other["status"] = {**node["status"], "addresses": [{"type": "InternalIP", "address": OTHER_NODE}]}
    found.lists["nodes"].append(other)
    one = only(asked(found, source=address, port="80"))
    assert one.code == "NPE115" and address in one.title
    assert one.evidence[0].value == ("node other" if address == OTHER_NODE else one.evidence[0].value)
    found.one("networkpolicies", "access-nginx")["spec"]["ingress"][0]["from"] = [{"ipBlock": {"cidr": "0.0.0.0/0"}}]
    assert "NPE115" not in codes(asked(found, source=address, port="80"))


def test_a_fault_of_the_asked_direction_is_told_and_that_of_the_other_not(healthy: world.Objects) -> None:
    found = world.Objects.of(healthy.snapshot())
    for document in found.nodes.values():
        document["filters"] = [f for f in document["filters"] if f["name"] != "handle_ingress"]
    assert codes(asked(found, source="accessfalse", port="80")) == ["NPE402"]
    assert "NPE402" in codes(asked(found))
    assert "NPE402" not in codes(asked(found, destination="accesstrue", port="80"))


def test_entries_of_others_do_not_bear_on_a_flow_that_all_layers_judge_alike(healthy: world.Objects) -> None:
    found = world.Objects.of(healthy.snapshot())
    found.one("pods", "accessfalse")["metadata"]["labels"]["access"] = "true"
    pod = found.one("pods", "accessfalse")
    found.one("policyendpoints", "access-nginx")["spec"]["ingress"].append({"cidr": pod["status"]["podIP"]})
    assert codes(asked(found)) == ["NPE301"]
    assert codes(asked(found, source="accesstrue", port="80")) == []
    assert codes(asked(found, source="accessfalse", port="80")) == ["NPE301"]


def test_settings_are_told_where_something_is_wrong(healthy: world.Objects) -> None:
    found = world.Objects.of(healthy.snapshot())
    aws_node = next(p for p in found.lists["pods"] if p["metadata"]["namespace"] == "kube-system")
    agent = next(s for s in aws_node["status"]["containerStatuses"] if s["name"] == "aws-eks-nodeagent")
    agent["restartCount"] = 40
    for pod in ("accesstrue", "accessfalse"):
        # No layer differs: the agent's restarts are no reason of what the YAML means.
        assert codes(asked(found, source=pod, port="80")) == []
    found.one("networkpolicies", "access-nginx")["spec"]["ingress"] = []
    assert "NPE608" in codes(asked(found, source="accesstrue", port="80"))
    found.flag("enable-network-policy", "false")
    assert "NPE602" in codes(asked(found, source="accesstrue", port="80"))
    found.unread["daemonsets"] = "forbidden"
    found.lists["daemonsets"] = []
    explained = asked(found, source="accesstrue", port="80")
    assert explained.settings_unread == ("daemonsets: forbidden",)
    assert "NPE602" not in codes(explained)


def table_full(found: world.Objects) -> None:
    for document in found.nodes.values():
        pin = next(p for p in document["pins"] if p["path"] == "maps/global_aws_conntrack_map")
        row = next(m for m in document["maps"] if m["id"] == pin["id"])
        row["contents"]["total"] = row["max_entries"] - 1


def test_a_full_conntrack_table_bears_on_every_flow_of_its_node(healthy: world.Objects) -> None:
    found = world.Objects.of(healthy.snapshot())
    table_full(found)
    assert codes(asked(found, source="accesstrue", port="80")) == ["NPE502"]
    # Of a pod whose layers agree the whole node is not asked about.
    assert codes(asked(found)) == []


def test_what_concerns_a_node_is_told_of_a_pod_that_is_wrong_itself(healthy: world.Objects) -> None:
    found = world.Objects.of(healthy.snapshot())
    table_full(found)
    found.one("networkpolicies", "access-nginx")["spec"]["ingress"] = []
    assert "NPE502" in codes(asked(found))
    other = world.Objects.of(found.snapshot())
    for document in other.nodes.values():
        document["pins"].append({"path": "programs/gone@default_handle_ingress", "kind": "prog", "id": 1, "reason": ""})
    # Pins of pods that are gone make no difference to those that are there.
    assert "NPE306" in {one.code for one in world.check(other.snapshot()).findings}
    assert "NPE306" not in codes(asked(other))
    assert "NPE306" not in codes(asked(other, source="accesstrue", port="80"))


def test_findings_about_dns_bear_on_questions_about_dns(healthy: world.Objects) -> None:
    found = world.Objects.of(healthy.snapshot())
    catalogue.egress_without_dns(found)
    dns = copy.deepcopy(found.one("pods", "accessfalse"))
    dns["metadata"] |= {"name": "coredns-1", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    dns["status"] |= {"podIP": "172.31.98.53", "podIPs": [{"ip": "172.31.98.53"}]}
    found.lists["pods"].append(dns)
    assert "NPE103" in codes(asked(found, "accesstrue", api_only=True))
    assert "NPE103" not in codes(asked(found, "accesstrue", destination="192.0.2.7", port="443", api_only=True))
    assert "NPE103" in codes(asked(found, "accesstrue", destination="10.100.0.10", port="53/UDP", api_only=True))
    assert "NPE103" not in codes(asked(found, "accesstrue", directions=(Direction.INGRESS,), api_only=True))


def test_a_log_that_is_switched_off(healthy: world.Objects) -> None:
    assert _drops(healthy).findings == ()
    found = world.Objects.of(healthy.snapshot())
    found.flag("enable-policy-event-logs", "false")
    [one] = _drops(found).findings
    assert one.code == "NPE615" and len(one.evidence) == 2 and one.remedies
    assert one.evidence[0].value == "--enable-policy-event-logs=false"


def _drops(found: world.Objects) -> DropReport:
    snapshot = found.snapshot()
    pod = next(p for p in snapshot.items("pods") if p["metadata"]["name"].startswith("nginx"))
    return drops(pod, snapshot, seconds=60)
