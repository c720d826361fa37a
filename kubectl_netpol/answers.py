"""Copies for people in a bundle: what the verbs answer from it, as YAML, made while its nodes come in.

Each file is what `--bundle FILE -o yaml` prints for it, so that whoever has no plugin at hand reads the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from kubectl_netpol import checking, dropping, verbs
from kubectl_netpol.diagnose import doctor as doctors
from kubectl_netpol.diagnose import plan as planning
from kubectl_netpol.diagnose.check import Check
from kubectl_netpol.diagnose.checks.base import key_of
from kubectl_netpol.doctoring import OF_A_BUNDLE
from kubectl_netpol.errors import NetpolError
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.snapshot import NodeReading, Snapshot
from kubectl_netpol.policy.world import World, name_of, namespace_of, node_of, pod_ip
from kubectl_netpol.progress import Progress
from kubectl_netpol.report import check as check_report
from kubectl_netpol.report import doctor as doctor_report
from kubectl_netpol.report import drops as drops_report
from kubectl_netpol.report import explain as explain_report
from kubectl_netpol.report import flows as flows_report
from kubectl_netpol.report import maps as maps_report
from kubectl_netpol.report.output import yaml_text
from kubectl_netpol.source import SnapshotSource, Source

Json = dict[str, Any]

MOST_PODS = 50
"""Pods that get files of their own: those that were asked about, as their nodes come. The bundle answers for all."""
MOST_OBJECTS = 2000
"""Objects of a kind that are written as YAML, which is slow."""
POLICIES = {
    "networkpolicies": ("networking.k8s.io/v1", "NetworkPolicy"),
    "applicationnetworkpolicies": ("networking.k8s.aws/v1alpha1", "ApplicationNetworkPolicy"),
    "clusternetworkpolicies": ("networking.k8s.aws/v1alpha1", "ClusterNetworkPolicy"),
    "policyendpoints": ("networking.k8s.aws/v1alpha1", "PolicyEndpoint"),
    "clusterpolicyendpoints": ("networking.k8s.aws/v1alpha1", "ClusterPolicyEndpoint"),
}
SHAPE_ERRORS = (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError)
"""What an object that has not the shape of its kind raises (see ``verbs.session``)."""


class _Silent(Progress):
    """Nobody waits for these answers, and the notes belong to the questions."""

    def __init__(self) -> None:
        super().__init__(enabled=False)

    def note(self, text: str) -> None:
        pass


def check_of(source: Source, asked: checking.Asked, progress: Progress) -> Check:
    """The `check` of a scope, before its nodes. Raises what `check` raises."""
    world = World(checking.read_api(source, asked, progress))
    pods = checking.asked_for(source, asked, world, progress)
    return Check(world, pods, whole=not (asked.pod or asked.node), api_only=asked.api_only)


def first_check(source: Source, asked: checking.Asked) -> Check | None:
    """The same, or None where there is nothing that it could be about."""
    try:
        return check_of(source, asked, _Silent())
    except (NetpolError, *SHAPE_ERRORS):
        return None


class Answers:
    """(name, text) of each file. ``asked``: the scope of the bundle, by the names in it."""

    def __init__(self, snapshot: Snapshot, asked: checking.Asked) -> None:
        self.snapshot, self.asked = snapshot, asked
        self.nodes_read = 0
        self.findings: int | None = None
        """How many `check` has of the scope; None where it could not be made."""
        self._pods_left = MOST_PODS
        self._quiet = _Silent()
        self._failed = ""

    @cached_property
    def _check(self) -> Check | None:
        """The `check` of the scope; None where there is nothing that it could be about."""
        source = SnapshotSource(self.snapshot)
        try:
            return check_of(source, self.asked, self._quiet)
        except (NetpolError, *SHAPE_ERRORS) as error:
            self._failed = _why(error)
            return None

    @cached_property
    def _wanted(self) -> frozenset[tuple[str, str]]:
        pods = () if self._check is None else self._check.scope.pods
        return frozenset(key_of(pod) for pod in pods if pod_ip(pod) is not None)

    def policies(self) -> Iterator[tuple[str, str]]:
        """Of all namespaces that were read."""
        for kind, (version, name) in POLICIES.items():
            items = self.snapshot.items(kind)
            if not items:
                continue
            # In one order, however they came: live and from a bundle the copies are the same.
            kept = (json.loads(json.dumps(item, sort_keys=True)) for item in items[:MOST_OBJECTS])
            whole = [{"apiVersion": version, "kind": name, **item} for item in kept]
            text = "---\n".join(map(yaml_text, whole))
            left = len(items) - len(whole)
            more = f"# and {left} more: see cluster/{kind}.json\n" if left else ""
            yield f"policies/{kind}.yaml", more + text

    def node(self, name: str, reading: NodeReading) -> Iterator[tuple[str, str]]:
        """Of the pods of one node, while its document is at hand."""
        self.nodes_read += reading.document is not None
        if self._check is not None and not self._failed:
            try:
                self._check.node(name, reading)
            except SHAPE_ERRORS as error:
                # A node that is not in the report must not look like one without findings.
                self._failed = f"node {name}: {_why(error)}"
        if reading.document is None:
            return
        source = SnapshotSource(replace(self.snapshot, nodes={name: reading}))
        for pod in self.snapshot.items("pods"):
            if self._pods_left and node_of(pod) == name and key_of(pod) in self._wanted:
                self._pods_left -= 1
                yield from self._of_pod(source, namespace_of(pod), name_of(pod))

    def _of_pod(self, source: SnapshotSource, namespace: str, name: str) -> Iterator[tuple[str, str]]:
        if not (_SAFE.fullmatch(namespace) and _SAFE.fullmatch(name)):
            # Not a name that an API server takes, so not one for a file.
            return
        pod = f"{namespace}/{name}"
        for verb, data in _VERBS.items():
            text = self._yaml(partial(data, source, pod, self._quiet))
            yield f"answers/{namespace}/{name}/{verb}.yaml", text

    def whole(self) -> Iterator[tuple[str, str]]:
        """When all nodes are there."""
        yield "answers/doctor.yaml", self._yaml(self._doctor)
        if self._check is not None or self._failed:
            yield "answers/check.yaml", self._yaml(self._report)

    def _doctor(self) -> Json:
        lines = tuple(doctors.lines(self.snapshot, "kube-system", None, live=False))
        return doctor_report.as_data(lines, [OF_A_BUNDLE])

    def _report(self) -> Json:
        if self._check is None or self._failed:
            return {"error": self._failed}
        report = self._check.report()
        self.findings = len(report.findings)
        return check_report.as_data(report)

    def _yaml(self, make: Callable[[], Json]) -> str:
        """An object that does not have the shape of its kind is told: the bundle is worth having all the same."""
        try:
            data = make()
        except (NetpolError, *SHAPE_ERRORS) as error:
            data = {"error": _why(error)}
        return yaml_text(data)


_SAFE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def _why(error: Exception) -> str:
    return error.message if isinstance(error, NetpolError) else f"{type(error).__name__}: {error}"


def _explain(source: SnapshotSource, pod: str, progress: Progress) -> Json:
    return explain_report.as_data(verbs.explained(source, planning.Question(pod), progress))


def _maps(source: SnapshotSource, pod: str, progress: Progress) -> Json:
    found, kernel, world, odd, moved = verbs.read_maps(source, pod, tuple(Direction), progress)
    return maps_report.as_data(found, kernel, tuple(Direction), world, odd, moved)


def _conntrack(source: SnapshotSource, pod: str, progress: Progress) -> Json:
    found, _, flows = verbs.read_flows(source, pod, tuple(Direction), progress)
    return flows_report.as_data(found, flows)


def _drops(source: SnapshotSource, pod: str, progress: Progress) -> Json:
    return drops_report.as_data(dropping.once(source, dropping.Asked(pod, everything=True), progress))


_VERBS: dict[str, Callable[[SnapshotSource, str, Progress], Json]] = {
    "explain": _explain,
    "maps": _maps,
    "conntrack": _conntrack,
    "drops": _drops,
}
