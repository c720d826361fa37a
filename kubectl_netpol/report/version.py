"""`version` as lines like kubectl's, and as data."""

from __future__ import annotations

from typing import Any

from kubectl_netpol.model.version import Client, Cluster, Image
from kubectl_netpol.report.output import API_VERSION
from kubectl_netpol.report.text import clean

Json = dict[str, Any]


def as_text(client: Client, cluster: Cluster | None, wide: bool) -> str:
    reads = ", ".join(map(str, client.formats))
    lines = [
        f"Client Version: {client.version}",
        f"Bundle Format: {client.format} (reads {reads})",
        f"Reader Version: {client.reader}",
    ]
    if wide:
        lines.append(f"Python Version: {client.python}")
    if cluster is not None:
        lines += [
            f"Server Version: {clean(cluster.server) or 'unknown'}",
            f"VPC CNI Version: {_image(cluster, cluster.cni, wide)}{_rollout(cluster)}",
            f"Agent Version: {_image(cluster, cluster.agent, wide)}",
        ]
    return "\n".join(lines)


def _image(cluster: Cluster, found: Image | None, wide: bool) -> str:
    if cluster.installed is None:
        return "unknown"
    if found is None:
        return (
            "none: there is no container of it in DaemonSet kube-system/aws-node"
            if cluster.installed
            else ("none: there is no DaemonSet kube-system/aws-node")
        )
    image = clean(found.image)
    if not found.version:
        return f"unknown ({image or 'no image'})"
    return f"{clean(found.version)} ({image})" if wide else clean(found.version)


def _rollout(cluster: Cluster) -> str:
    if cluster.updated is None or cluster.scheduled is None or cluster.updated >= cluster.scheduled:
        return ""
    return f" (being rolled out: on {cluster.updated} of {cluster.scheduled} nodes)"


def as_data(client: Client, cluster: Cluster | None) -> Json:
    found: Json = {
        "apiVersion": API_VERSION,
        "kind": "Version",
        "client": {
            "version": client.version,
            "bundleFormat": client.format,
            "bundleFormatsRead": list(client.formats),
            "readerVersion": client.reader,
            "pythonVersion": client.python,
        },
    }
    if cluster is not None:
        found["server"] = {"version": clean(cluster.server)} if cluster.server else None
        found["vpcCni"] = {
            "installed": cluster.installed,
            "cni": _image_data(cluster.cni),
            "agent": _image_data(cluster.agent),
            "nodesUpdated": cluster.updated,
            "nodesScheduled": cluster.scheduled,
        }
        found["unread"] = [clean(reason) for reason in cluster.unread]
    return found


def _image_data(one: Image | None) -> Json | None:
    return None if one is None else {"version": clean(one.version) or None, "image": clean(one.image)}
