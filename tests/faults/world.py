"""A healthy cluster in the lab, and what the plugin reads of it: API objects over HTTP, nodes through debug pods."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubectl_netpol.checking import Asked, read_api, requests_of
from kubectl_netpol.cluster.connection import ConnectionFlags
from kubectl_netpol.diagnose.check import Check, Report, asked_pods
from kubectl_netpol.live import open_cluster
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.options import DEFAULT_IMAGE, Common, Way
from kubectl_netpol.policy.world import World, finished
from kubectl_netpol.progress import Progress
from kubectl_netpol.report.output import Format
from tests.lab import article, cni_objects
from tests.lab.cluster import LabCluster

Json = dict[str, Any]

GENERATION = "1.4.2"
"""The newest: it has none of the known defects."""
ALL = Asked(all_namespaces=True)


@contextlib.contextmanager
def healthy(**more: Any) -> Iterator[LabCluster]:
    """The article's cluster with all that EKS puts into one."""
    more = {"generation": GENERATION, "agent_pods": True, **more}
    with article.cluster(**more) as lab:
        article.build(lab)
        cni_objects.install(lab)
        lab.settle()
        yield lab


def read(lab: LabCluster) -> Snapshot:
    """All that `check -A` reads."""
    origin = open_cluster(common(lab), Progress(enabled=False))
    snapshot = read_api(origin, ALL, Progress(enabled=False))
    found = Check(World(snapshot), asked_pods(snapshot.items("pods")), whole=True)
    nodes = dict(origin.each_node(requests_of(found), 1))
    return Snapshot(snapshot.collections, nodes, snapshot.taken_at, snapshot.tool_version, snapshot.namespace)


def common(lab: LabCluster) -> Common:
    return common_of(lab.kubeconfig)


def common_of(kubeconfig: Path) -> Common:
    return Common(
        connection=ConnectionFlags(kubeconfig=str(kubeconfig)),
        bundle="",
        image=DEFAULT_IMAGE,
        debug_namespace="kube-system",
        keep=False,
        deadline=60,
        start_timeout=30,
        via=Way.PYTHON,
        show_commands=False,
        install_on_host=False,
        selinux_type="",
        output=Format.JSON,
        no_headers=False,
    )


def check(snapshot: Snapshot) -> Report:
    """`check -A` of what was read."""
    world = World(snapshot)
    found = Check(world, asked_pods(snapshot.items("pods")), whole=True)
    for node in found.by_node:
        found.node(node, snapshot.nodes.get(node, NodeReading(None, "not read")))
    return found.report()


@dataclass
class Objects:
    """A snapshot that a fault may edit: lists by kind, documents by node."""

    lists: dict[str, list[Json]]
    absent: set[str] = field(default_factory=set)
    unread: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, Json] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot) -> Objects:
        lists = {kind: copy.deepcopy(list(c.items)) for kind, c in snapshot.collections.items()}
        absent = {kind for kind, c in snapshot.collections.items() if c.absent}
        nodes = {name: copy.deepcopy(r.document) for name, r in snapshot.nodes.items() if r.document is not None}
        return cls(lists, absent, nodes=nodes)

    def snapshot(self) -> Snapshot:
        collections: Mapping[str, Collection] = {
            kind: Collection((), absent=True)
            if kind in self.absent
            else Collection(tuple(items), self.unread.get(kind, ""))
            for kind, items in self.lists.items()
        }
        nodes = {name: NodeReading(document) for name, document in self.nodes.items()}
        return Snapshot(collections, nodes, "2026-01-02T03:04:05Z", "test", "default")

    # ---- what faults edit

    def one(self, kind: str, name: str) -> Json:
        """The only object whose name is this, or begins with it."""
        found = [o for o in self.lists[kind] if o["metadata"]["name"] == name]
        found = found or [o for o in self.lists[kind] if o["metadata"]["name"].startswith(name)]
        [only] = found
        return only

    def drop(self, kind: str, name: str = "") -> None:
        self.lists[kind] = [o for o in self.lists[kind] if not o["metadata"]["name"].startswith(name)]

    def container(self, name: str) -> Json:
        """Of the DaemonSet aws-node."""
        spec = self.one("daemonsets", "aws-node")["spec"]["template"]["spec"]
        return next(c for c in spec["containers"] if c["name"] == name)

    def env(self, name: str, value: str) -> None:
        env = self.container("aws-node").setdefault("env", [])
        env[:] = [one for one in env if one["name"] != name] + [{"name": name, "value": value}]

    def flag(self, name: str, value: str) -> None:
        args = self.container("aws-eks-nodeagent").setdefault("args", [])
        args[:] = [one for one in args if not one.startswith(f"--{name}")] + [f"--{name}={value}"]

    def living(self) -> list[Json]:
        return [pod for pod in self.lists["pods"] if not finished(pod)]
