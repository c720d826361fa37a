"""Debug pods that are still in the cluster: which are there, whose, and which of them nobody uses any more.

Labels are claims: a pod counts as one of the tool's only if it also has the shape that ``debug_pod.manifest`` gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from kubectl_netpol.model.leftover import Leftover, Use
from kubectl_netpol.node.debug_pod import CONTAINER, KEPT, MANAGED_BY, STARTED_BY, TOOL

Json = dict[str, Any]
SELECTOR = f"{MANAGED_BY}={TOOL}"


def leftovers(pods: Iterable[object], now: float) -> Iterator[Leftover]:
    """Those of ``pods`` that carry the tool's label; objects of odd shapes are left out."""
    for pod in pods:
        metadata = _dict(pod, "metadata")
        name, namespace = metadata.get("name"), metadata.get("namespace")
        if not (isinstance(name, str) and isinstance(namespace, str) and name and namespace):
            continue
        spec = _dict(pod, "spec")
        created, ends = _time(metadata.get("creationTimestamp")), None
        deadline = spec.get("activeDeadlineSeconds")
        # The server counts from the moment the kubelet takes the pod, which is hardly later than its creation.
        began = _time(_dict(pod, "status").get("startTime")) or created
        if began is not None and isinstance(deadline, int):
            ends = began + deadline
        yield Leftover(
            namespace,
            name,
            str(metadata.get("uid") or ""),
            str(spec.get("nodeName") or ""),
            str(_dict(metadata, "annotations").get(STARTED_BY) or ""),
            created,
            ends,
            _use(pod, ends, now),
        )


def _use(pod: object, ends: float | None, now: float) -> Use:
    metadata, status = _dict(pod, "metadata"), _dict(pod, "status")
    if not _ours(pod):
        return Use.FOREIGN
    if status.get("phase") in ("Succeeded", "Failed"):
        return Use.ENDED
    if metadata.get("deletionTimestamp") or (ends is not None and ends < now):
        return Use.ENDING
    return Use.KEPT if _dict(metadata, "labels").get(KEPT) == "true" else Use.RUNNING


def _ours(pod: object) -> bool:
    metadata, spec = _dict(pod, "metadata"), _dict(pod, "spec")
    containers = spec.get("containers")
    if not isinstance(containers, list) or len(containers) != 1:
        return False
    command = _dict(containers, 0).get("command")
    return (
        _dict(metadata, "labels").get(MANAGED_BY) == TOOL
        and not metadata.get("ownerReferences")
        and str(metadata.get("generateName") or "").startswith("netpol-ebpf-")
        and _dict(containers, 0).get("name") == CONTAINER
        and isinstance(command, list)
        and command[:1] == ["sleep"]
        and spec.get("restartPolicy") == "Never"
    )


def _dict(value: object, key: str | int) -> Json:
    try:
        found = value[key]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _time(text: object) -> float | None:
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
