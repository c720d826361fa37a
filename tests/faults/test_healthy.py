"""Nothing is said of random healthy clusters: policies as the controller resolves them, no rule of EKS deviating."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kubectl_netpol.checking import API_ONLY
from kubectl_netpol.cluster.trim import trim
from kubectl_netpol.diagnose.check import Check, asked_pods
from kubectl_netpol.diagnose.plan import EVERYTHING
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.policy import modelled
from kubectl_netpol.policy.world import World, namespace_of
from tests.lab import cni_objects
from tests.lab.agent import GENERATIONS
from tests.random_cluster import random_cluster

Json = dict[str, Any]
CLUSTERS = 50


def settings(family: int) -> dict[str, list[Json]]:
    made = {
        "daemonsets": cni_objects.daemonset(GENERATIONS["1.4.2"], family),
        "configmaps": cni_objects.config_map(),
        "clusterroles": cni_objects.cluster_role(),
        "versions": {"metadata": {"name": "kubernetes"}, "gitVersion": "v1.33.1-eks-0"},
    }
    return {kind: [trim(kind, obj)] for kind, obj in made.items()}


def without_other_family(policies: list[Json], family: int) -> None:
    """Blocks of the other family mean nobody, which is worth a finding: healthy policies have none."""
    for policy in policies:
        for side, peers in (("ingress", "from"), ("egress", "to")):
            rules = policy["spec"].get(side) or []
            for rule in rules:
                if peers in rule:
                    rule[peers] = [peer for peer in rule[peers] if _fits(peer, family)]
            if rules:
                policy["spec"][side] = [rule for rule in rules if rule.get(peers, True)]


def _fits(peer: Json, family: int) -> bool:
    texts = [str((peer.get("ipBlock") or {}).get("cidr") or ""), *map(str, peer.get("networks") or ())]
    return all((":" in text) == (family == 6) for text in texts if text)


def agent_pods(nodes: list[Json]) -> list[Json]:
    def one(node: Json) -> Json:
        name, address = node["metadata"]["name"], node["status"]["addresses"][0]["address"]
        statuses = [{"name": "aws-eks-nodeagent", "ready": True, "restartCount": 0}]
        return {
            "metadata": {"name": f"aws-node-{name}", "namespace": "kube-system", "labels": {"k8s-app": "aws-node"}},
            "spec": {"nodeName": name, "hostNetwork": True},
            "status": {"phase": "Running", "podIP": address, "hostIP": address, "containerStatuses": statuses},
        }

    return [one(node) for node in nodes]


def resolved(cluster: dict[str, list[Json]], family: int) -> World:
    """The cluster with the PolicyEndpoints that the controller makes of it."""
    lists = {**cluster, **settings(family)}
    lists["pods"] = [*cluster["pods"], *agent_pods(cluster["nodes"])]
    bare = World(Snapshot({kind: Collection(tuple(lists.get(kind, ()))) for kind in EVERYTHING}))
    spaces = sorted({namespace_of(pod) for pod in bare.snapshot.items("pods")} | set(bare.namespaces))
    made = [e for space in spaces for e in modelled.modelled(bare, space).snapshot.items("policyendpoints")]
    cluster_made = modelled.modelled(bare, "").snapshot.items("clusterpolicyendpoints")
    return modelled.with_endpoints(bare.snapshot, made, cluster_made)


@pytest.mark.parametrize("seed", range(CLUSTERS))
def test_a_random_healthy_cluster_has_no_findings(seed: int) -> None:
    family = 6 if seed % 5 == 4 else 4
    made = random_cluster(random.Random(seed), family=family, nodes=3, pods=12, policies=6, deviating=False)
    for kind in ("networkpolicies", "applicationnetworkpolicies", "clusternetworkpolicies"):
        without_other_family(made[kind], family)
    world = resolved(made, family)
    found = Check(world, asked_pods(world.snapshot.items("pods")), whole=True, api_only=True)
    for node in found.by_node:
        found.node(node, NodeReading(None, API_ONLY))
    report = found.report()
    assert [f"{one.code} {one.title}" for one in report.findings] == []
    assert report.unread == ()
    assert len(report.rows) > 2
