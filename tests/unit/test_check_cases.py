"""`check` through the command line, on what clusters have besides running pods: each case on the shipped bundle."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubectl_netpol import bundle
from kubectl_netpol.cli import run
from kubectl_netpol.policy.cni import NAMESPACE
from tests.faults.world import Objects

Json = dict[str, Any]
BUNDLE = Path(bundle.__file__).parent / "examples" / "article.tar.gz"
NODE = "ip-172-31-103-129.ap-northeast-1.compute.internal"


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    def asked(change: Callable[[Objects], object], *arguments: str, form: str = "json") -> tuple[int, Any, str]:
        objects = Objects.of(bundle.read(str(BUNDLE)))
        change(objects)
        path = tmp_path / "b.tar.gz"
        bundle.write(objects.snapshot(), str(path))
        code = run(["check", *arguments, "-o", form, "--bundle", str(path)])
        said = capsys.readouterr()
        return code, json.loads(said.out) if form == "json" and said.out else said.out, said.err

    return asked


def codes(data: Json) -> list[str]:
    return [one["code"] for one in data["findings"]]


def row(data: Json, name: str) -> Json:
    found: Json = next(one for one in data["pods"] if name in one["pod"])
    return found


def nothing(_: Objects) -> None:
    pass


def edit(name: str, **status: Any) -> Callable[[Objects], None]:
    return lambda objects: objects.one("pods", name)["status"].update(status)


def without_address(objects: Objects) -> None:
    status = objects.one("pods", "accessfalse")["status"]
    status["phase"] = "Pending"
    for key in ("podIP", "podIPs"):
        status.pop(key)


def test_a_pod_without_an_address_is_left_out_and_can_be_asked_about(check: Any) -> None:
    code, data, _ = check(without_address, "-A")
    assert (code, codes(data), data["unread"]) == (0, [], [])
    assert not any("accessfalse" in one["pod"] for one in data["pods"])
    code, data, _ = check(without_address, "accessfalse")
    assert code == 0
    assert row(data, "accessfalse")["unread"] == "the pod has no address yet (phase Pending)"


def test_what_keeps_a_pending_pod_is_told_of_it(check: Any) -> None:
    def waiting(objects: Objects) -> None:
        without_address(objects)
        about = {"namespace": "default", "name": "accessfalse"}
        event = {"metadata": {"name": "e"}, "involvedObject": about, "message": "failed to setup network policy"}
        objects.lists["events"].append(event)

    code, data, _ = check(waiting, "accessfalse")
    assert (code, codes(data)) == (1, ["NPE616"])


def test_a_pod_on_the_host_network(check: Any) -> None:
    def host(objects: Objects) -> None:
        pod = objects.one("pods", "nginx")
        pod["spec"]["hostNetwork"] = True
        pod["status"]["podIP"] = pod["status"]["hostIP"]
        objects.lists["policyendpoints"] = []

    code, data, _ = check(host, "nginx")
    assert (code, codes(data)) == (0, ["NPE110"])
    assert "host network" in row(data, "nginx")["unread"]


def test_a_pod_that_has_ended_is_no_question(check: Any) -> None:
    code, _, err = check(edit("accessfalse", phase="Succeeded"), "accessfalse")
    assert code == 2 and "has ended (Succeeded)" in err


def test_a_pod_that_is_being_deleted_and_has_no_network_any_more(check: Any) -> None:
    def going(objects: Objects) -> None:
        pod = objects.one("pods", "accessfalse")
        pod["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:00Z"
        [document] = objects.nodes.values()
        links = {one["ifindex"] for one in document["links"] if one["kind"] == "veth"}
        own = next(r for r in document["routes"] if r["destination"] == pod["status"]["podIP"])["ifindex"]
        assert own in links
        for section in ("links", "routes", "qdiscs", "filters"):
            document[section] = [one for one in document[section] if one.get("ifindex") != own]
        document["pins"] = [one for one in document["pins"] if "accessfalse" not in one["path"]]

    code, data, _ = check(going, "-A")
    assert (code, codes(data), data["unread"]) == (0, [], [])
    assert row(data, "accessfalse")["unread"] == "the pod is being deleted, and its network is gone"


@pytest.mark.parametrize(("kind", "word"), [("fargate", "Fargate"), ("hybrid", "EKS Hybrid Nodes")])
def test_nodes_without_an_agent_are_not_read_and_no_gap(check: Any, kind: str, word: str) -> None:
    def elsewhere(objects: Objects) -> None:
        objects.lists["nodes"][0]["metadata"]["labels"]["eks.amazonaws.com/compute-type"] = kind
        objects.nodes.clear()

    code, data, _ = check(elsewhere, "-A")
    assert (code, codes(data), data["unread"]) == (1, ["NPE117"], [])
    assert {one["unread"] for one in data["pods"]} == {f"{word}: nothing enforces policies there"}

    def and_no_policies(objects: Objects) -> None:
        elsewhere(objects)
        objects.lists["networkpolicies"] = objects.lists["policyendpoints"] = []

    code, data, _ = check(and_no_policies, "-A")
    assert (code, codes(data), data["unread"]) == (0, [], [])


def test_the_node_column_can_be_asked_for(check: Any) -> None:
    code, data, _ = check(nothing, "--node", NODE.partition(".")[0])
    assert code == 0 and len(data["pods"]) == 3
    code, _, err = check(nothing, "--node", "ip-172")
    assert code == 2 and 'node "ip-172" not found' in err


def test_no_pods_is_said(check: Any) -> None:
    code, data, err = check(nothing, "-l", "app=nope")
    assert (code, data["pods"]) == (0, []) and "no pods to check" in err
    _, _, err = check(nothing, "-n", NAMESPACE)
    assert "no pods to check: 1 are on the host network, have ended or have no address" in err


def _damaged(objects: Objects) -> None:
    """The rules of a pod's map were not read."""
    [document] = objects.nodes.values()
    pin = next(p for p in document["pins"] if p["path"].endswith("nginx-f8d9c6576@default_ingress_map"))
    row = next(m for m in document["maps"] if m["id"] == pin["id"])
    row["contents"] = None


def test_a_map_that_was_not_read_is_a_gap_and_no_finding(check: Any) -> None:
    code, data, _ = check(_damaged, "-A")
    assert (code, codes(data)) == (3, [])
    assert len(data["unread"]) == 1 and "ingress_map" in data["unread"][0]
    assert row(data, "nginx")["pinned"] == "?"
    _, text, _ = check(_damaged, "-A", form="table")
    assert text.count("was not read to the end") == 1 and "1 reading failed." in text


def test_a_state_that_the_mode_would_tell_is_a_gap_where_the_mode_is_not_known(check: Any) -> None:
    def closed(objects: Objects) -> None:
        [document] = objects.nodes.values()
        for pin in document["pins"]:
            if "accesstrue" in pin["path"] and pin["path"].endswith("_pod_state_map"):
                row = next(m for m in document["maps"] if m["id"] == pin["id"])
                keys = base64.b64decode(row["contents"]["keys"])
                # Key 0 DEFAULT_DENY, key 1 DEFAULT_ALLOW.
                values = bytes(2 if keys[at] == 0 else 1 for at in (0, 4))
                row["contents"]["values"] = base64.b64encode(values).decode()

    code, data, _ = check(closed, "-A")
    assert (code, codes(data)) == (1, ["NPE305"])

    def and_no_mode(objects: Objects) -> None:
        closed(objects)
        env = objects.container("aws-node")["env"]
        env[:] = [one for one in env if one["name"] != "NETWORK_POLICY_ENFORCING_MODE"]
        env.append({"name": "NETWORK_POLICY_ENFORCING_MODE", "valueFrom": {}})

    code, data, _ = check(and_no_mode, "-A")
    assert (code, codes(data)) == (3, [])
    assert any("DEFAULT_DENY" in reason for reason in data["unread"])


def test_faults_of_other_pods_are_none_of_the_one_that_is_asked_about(check: Any) -> None:
    def another(objects: Objects) -> None:
        twin = copy.deepcopy(objects.one("pods", "nginx"))
        twin["metadata"] |= {"name": "nginx-other-1", "uid": "twin"}
        twin["status"] |= {"podIP": "172.31.98.77", "podIPs": [{"ip": "172.31.98.77"}]}
        twin["spec"]["nodeName"] = "elsewhere"
        objects.lists["pods"].append(twin)

    code, data, _ = check(another, "nginx-f8d9c6576-8b4vf")
    assert (code, codes(data)) == (0, [])
    code, data, _ = check(another, "nginx-other-1", "--api-only")
    assert (code, codes(data)) == (1, ["NPE203"])


def test_what_is_ignored_is_said(check: Any) -> None:
    code, text, _ = check(lambda o: o.drop("policyendpoints"), "-A", "--ignore", "NPE201", form="table")
    assert code == 0 and text.rstrip().endswith("no findings; ignored: NPE201.")
