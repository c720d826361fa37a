"""Debug pods that are still in the cluster: which are there, whose, and which of them nobody uses any more.

Labels are claims: a pod counts as one of the tool's only if it also has the shape that ``debug_pod.manifest`` gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kubectl_netpol.model.leftover import Leftover, Use
from kubectl_netpol.node.debug_pod import CONTAINER, KEPT, MANAGED_BY, STARTED_BY, TOOL, ends_at, time_of

Json = dict[str, Any]
SELECTOR = f"{MANAGED_BY}={TOOL}"


SKEW = 600.0
"""Seconds by which this machine's clock may be ahead of the server's: a pod that looks past its deadline by less may
still be in use."""


def leftovers(pods: Iterable[object], now: float) -> Iterator[Leftover]:
    """Those of ``pods`` that have a name; ``now`` in Unix seconds. Objects of odd shapes are left out."""
    for pod in pods:
        if not isinstance(pod, dict):
            continue
        metadata = _dict(pod, "metadata")
        name, namespace = metadata.get("name"), metadata.get("namespace")
        if not (isinstance(name, str) and isinstance(namespace, str) and name and namespace):
            continue
        ends = ends_at(pod)
        yield Leftover(
            namespace,
            name,
            str(metadata.get("uid") or ""),
            str(_dict(pod, "spec").get("nodeName") or ""),
            str(_dict(metadata, "annotations").get(STARTED_BY) or ""),
            time_of(metadata.get("creationTimestamp")),
            ends,
            _use(pod, ends, now),
        )


def _use(pod: Json, ends: float | None, now: float) -> Use:
    metadata, status = _dict(pod, "metadata"), _dict(pod, "status")
    if not _ours(pod):
        return Use.FOREIGN
    if status.get("phase") in ("Succeeded", "Failed"):
        return Use.ENDED
    if metadata.get("deletionTimestamp") or (ends is not None and ends + SKEW < now):
        return Use.ENDING
    return Use.KEPT if _dict(metadata, "labels").get(KEPT) == "true" else Use.RUNNING


def _ours(pod: Json) -> bool:
    metadata, spec = _dict(pod, "metadata"), _dict(pod, "spec")
    containers = spec.get("containers")
    if not isinstance(containers, list) or len(containers) != 1 or not isinstance(containers[0], dict):
        return False
    command = containers[0].get("command")
    return (
        _dict(metadata, "labels").get(MANAGED_BY) == TOOL
        and bool(metadata.get("uid"))  # what is deleted must be the one that was seen
        and not metadata.get("ownerReferences")
        and str(metadata.get("generateName") or "").startswith("netpol-ebpf-")
        and containers[0].get("name") == CONTAINER
        and isinstance(command, list)
        and command[:1] == ["sleep"]
        and spec.get("restartPolicy") == "Never"
    )


def _dict(parent: Json, key: str) -> Json:
    value = parent.get(key)
    return value if isinstance(value, dict) else {}
