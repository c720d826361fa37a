"""Nothing is said of random healthy clusters: policies as the controller resolves them, no rule of EKS deviating."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import Any

import pytest

from kubectl_netpol.checking import API_ONLY
from kubectl_netpol.cluster.trim import trim
from kubectl_netpol.diagnose.check import Check, asked_pods
from kubectl_netpol.model.snapshot import NodeReading
from kubectl_netpol.node.document import check_document
from kubectl_netpol.policy.world import World
from tests.kernel.modelled_lab import NETWORKS, Model, Scene
from tests.lab import cni_objects
from tests.lab.agent import GENERATIONS
from tests.lab.require import require_lab
from tests.random_cluster import random_cluster
from tests.unit import modelled_node

Json = dict[str, Any]
CLUSTERS = 50
IN_THE_KERNEL = int(os.environ.get("NETPOL_HEALTHY") or 8)


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
    return modelled_node.resolved(lists)


def healthy(seed: int, network: str = "172.31.96.0/20", nodes: int = 3, pods: int = 12) -> tuple[int, World]:
    """(IP family, a random cluster in which nothing is wrong, with its PolicyEndpoints)."""
    family = 6 if seed % 5 == 4 else 4
    choose = random.Random(seed)
    made = random_cluster(choose, family=family, network=network, nodes=nodes, pods=pods, policies=6, deviating=False)
    for kind in ("networkpolicies", "applicationnetworkpolicies", "clusternetworkpolicies"):
        without_other_family(made[kind], family)
    return family, resolved(made, family)


def nothing_is_found(world: World, nodes: Mapping[str, NodeReading], *, api_only: bool = False) -> None:
    found = Check(world, asked_pods(world.snapshot.items("pods")), whole=True, api_only=api_only)
    for node in found.by_node:
        found.node(node, nodes[node])
    report = found.report()
    assert [f"{one.code} {one.title}" for one in report.findings] == []
    assert report.unread == ()
    assert len(report.rows) >= 2


@pytest.mark.parametrize("seed", range(CLUSTERS))
def test_a_random_healthy_cluster_has_no_findings(seed: int) -> None:
    """By its API objects, and with what an agent of the model makes on its nodes."""
    _, world = healthy(seed)
    unread = {str(name): NodeReading(None, API_ONLY) for name in world.nodes}
    nothing_is_found(world, unread, api_only=True)
    documents = {str(name): NodeReading(None, "no pods") for name in world.nodes}
    documents.update((name, NodeReading(check_document(made))) for name, made in modelled_node.documents(world))
    nothing_is_found(world, documents)


@pytest.mark.parametrize("seed", range(IN_THE_KERNEL))
def test_a_random_healthy_cluster_has_no_findings_in_a_real_kernel(seed: int) -> None:
    """With programs, maps and filters that are there; NETPOL_HEALTHY=50 tries as many."""
    require_lab()
    family, world = healthy(seed, NETWORKS[6 if seed % 5 == 4 else 4], nodes=2, pods=8)
    with Scene(Model.of(world), "1.4.2", family, random.Random(seed)) as scene:
        nodes = {name: NodeReading(scene.document(name)) for name in scene.nodes}
        nothing_is_found(world, nodes)
