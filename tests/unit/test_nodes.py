"""Kinds of nodes, by their labels and their own words."""

from __future__ import annotations

import pytest

from kubectl_netpol.policy import nodes


def node(image="", kernel="", arch="", **labels):
    info = {"osImage": image, "kernelVersion": kernel, "architecture": arch}
    return {"metadata": {"name": "n", "labels": labels}, "status": {"nodeInfo": info}}


@pytest.mark.parametrize(
    ("image", "labels", "kind"),
    [
        ("Amazon Linux 2023.9.20250929", {}, nodes.AL2023),
        ("Amazon Linux 2", {}, nodes.AL2),
        ("Bottlerocket OS 1.49.0 (aws-k8s-1.33)", {}, nodes.BOTTLEROCKET),
        ("Bottlerocket (EKS Auto, Standard) 2026.6.3", {nodes.COMPUTE_TYPE: "auto"}, nodes.AUTO_MODE),
        ("Ubuntu 24.04", {}, nodes.LINUX),
        ("", {}, nodes.LINUX),
    ],
)
def test_kinds(image, labels, kind):
    assert nodes.kind_of(node(image, **labels)) is kind


def test_a_node_without_anything():
    assert nodes.kind_of({}) is nodes.LINUX
    assert nodes.describe({}) == "Linux"


def test_descriptions():
    assert (
        nodes.describe(node("Bottlerocket OS 1.49.0", "6.1.0", "arm64"))
        == "Bottlerocket OS 1.49.0, kernel 6.1.0, arm64"
    )
    auto = node("Bottlerocket (EKS Auto) 2026", "6.12", "amd64", **{nodes.COMPUTE_TYPE: "auto"})
    assert nodes.describe(auto).startswith("EKS Auto Mode, Bottlerocket (EKS Auto) 2026, kernel 6.12")


def test_auto_mode_has_no_daemonset_and_other_ports():
    assert "no aws-node DaemonSet" in nodes.AUTO_MODE.agent
    assert nodes.AUTO_MODE.metrics != nodes.AL2023.metrics


@pytest.mark.parametrize(
    ("error", "refused"), [("EPERM: Operation not permitted", True), ("EACCES: x", True), ("ENOENT: x", False)]
)
def test_refusals(error, refused):
    assert nodes.refused([{"what": "maps", "error": error}]) is refused
