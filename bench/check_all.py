"""`check -A` of 500 nodes and 15,000 pods from a bundle: time, memory, requests; and how they grow.

`python bench/check_all.py [PODS ...]`. The cluster is that of ``bench.cluster``, 30 pods a node; each node's document
has the programs, filters, pins and maps that an agent would have made, filled by the model of the agent. Of the second
one each hundredth pod has a fault. Each command is a process of its own, and its peak memory its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import cluster
from kubectl_netpol import bundle
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.policy.world import World
from tests.lab import cni_objects
from tests.lab.agent import GENERATIONS
from tests.lab.apiserver import ApiServer
from tests.unit import modelled_node

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
SIZES = (1600, 16_000)
PODS_OF_NODE = (30, 30)
GENERATION = GENERATIONS["1.4.2"]
EACH_FAULTY = 100
OF_NODE = 6
"""Requests for one debug pod: `bench/run.py requests` counts them, as `check -A` less `check -A --api-only`."""


# ---- the cluster


def build(pods: int) -> Snapshot:
    """All that `check -A` reads of the API."""
    cluster.PODS_OF_NODE = PODS_OF_NODE
    lists = cluster.build(pods, pods // 20)
    daemonset = cni_objects.daemonset(GENERATION)
    for pod in lists["pods"]:
        if pod["metadata"]["labels"].get("k8s-app") == "aws-node":
            # As the tool keeps them: without what the containers are told.
            containers = daemonset["spec"]["template"]["spec"]["containers"]
            pod["spec"]["containers"] = [{"name": c["name"], "image": c["image"]} for c in containers]
    settings = {
        "daemonsets": [daemonset],
        "configmaps": [cni_objects.config_map()],
        "clusterroles": [cni_objects.cluster_role()],
        "versions": [{"metadata": {"name": "kubernetes"}, "gitVersion": "v1.32.9-eks-1"}],
        "events": [],
    }
    collections = {kind: Collection(tuple(items)) for kind, items in {**lists, **settings}.items()}
    collections["applicationnetworkpolicies"] = Collection((), absent=True)
    return Snapshot(collections, {}, "2026-01-02T03:04:05Z", "bench", "default")


def with_faults(name: str, document: Json) -> Json:
    """One filter of each hundredth pod is gone."""
    number = int(name.split(".")[0].replace("ip-10-0-", "").replace("-", ""))
    kept = [one for at, one in enumerate(document["filters"]) if (number * 60 + at) % (2 * EACH_FAULTY)]
    return {**document, "filters": kept}


# ---- what is measured


@dataclass(frozen=True)
class Measured:
    """One process."""

    seconds: float
    cpu: float
    mib: float
    output: str
    code: int


def run(*argv: str, **more: str) -> Measured:
    """The command as a process whose peak memory is its own; ``more``: its environment."""
    import resource

    with tempfile.NamedTemporaryFile() as peak:
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        command = [sys.executable, "-IS", str(ROOT / "bench" / "peak.py"), peak.name, sys.executable, *argv]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **more})
        seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Measured(seconds, cpu, int(Path(peak.name).read_text()) / 1024, done.stdout, done.returncode)


PARSE = """
import gzip, json, sys, tarfile
with tarfile.open(sys.argv[1], "r:gz") as tar:
    for member in tar:
        json.loads(tar.extractfile(member).read())
"""


def measure(pods: int, folder: Path) -> None:
    snapshot = build(pods)
    nodes = dict(modelled_node.documents(World(snapshot)))
    made = {"clean": nodes, "1 % faulty": {name: with_faults(name, d) for name, d in nodes.items()}}
    size = sum(len(json.dumps(d)) for d in nodes.values()) / 2**20
    policies = len(snapshot.items("networkpolicies"))
    print(f"\n  {pods} pods on {len(nodes)} nodes, {policies} policies, {size:.0f} MiB of documents")
    print(f"  {'':44} {'seconds':>8} {'cpu':>7} {'ratio':>7} {'MiB':>7}  code", flush=True)
    base: Measured | None = None
    for name, found in made.items():
        path = folder / f"{pods}-{name.split()[0]}.tar.gz"
        readings = {node: NodeReading(document) for node, document in found.items()}
        bundle.write(Snapshot(snapshot.collections, readings, snapshot.taken_at, "bench", "default"), str(path))
        if base is None:
            base = show("reading and parsing the bundle alone", run("-c", PARSE, str(path)), None)
        plugin = ("-m", "kubectl_netpol", "check", "-A", "--bundle", str(path))
        told = show(f"check -A: {name}", run(*plugin), base)
        print(f"  {'':44} {told.output.strip().splitlines()[-1]}")
        show(f"check -A --api-only: {name}", run(*plugin, "--api-only"), base)
        page = show(f"check -A -o html: {name}", run(*plugin, "-o", "html"), base)
        print(f"  {'':44} a page of {len(page.output) / 1e6:.1f} MB")
    asked, found = live(snapshot, folder)
    show("check -A --api-only, live", found, base)
    total = asked + OF_NODE * len(nodes)
    print(f"  {'':44} {asked} requests counted; with {OF_NODE} more a node {total} in all")


def live(snapshot: Snapshot, folder: Path) -> tuple[int, Measured]:
    """`check -A --api-only` against the lab's API server that has all the objects, and the requests that it got."""
    server = ApiServer(controllers=False)
    for kind, collection in snapshot.collections.items():
        if kind == "versions":  # no list: the server's own answer
            continue
        resource = server.registry.of(kind)
        for one in collection.items:
            server.put({**one, "kind": resource.kind, "apiVersion": resource.api_version})
    with server:
        path = server.write_kubeconfig(folder / "kubeconfig")
        found = run("-m", "kubectl_netpol", "check", "-A", "--api-only", KUBECONFIG=str(path))
        return len(server.requests), found


def show(name: str, found: Measured, base: Measured | None) -> Measured:
    ratio = f"{found.cpu / base.cpu:.1f} x" if base else ""
    print(f"  {name:44} {found.seconds:8.1f} {found.cpu:7.1f} {ratio:>7} {found.mib:7.0f}  {found.code}", flush=True)
    return found


def main(sizes: Sequence[int] = SIZES) -> None:
    """`check -A` of large clusters from bundles: time, memory, against reading the same bundle."""
    with tempfile.TemporaryDirectory() as folder:
        for pods in sizes:
            measure(pods, Path(folder))


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or SIZES)
