"""Which pods are the tool's own debug pods, and which of them nobody uses any more."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubectl_netpol.model.leftover import Leftover, Use
from kubectl_netpol.node.debug_pod import KEPT, DebugPodOptions, manifest
from kubectl_netpol.node.leftovers import leftovers
from kubectl_netpol.report import cleanup as report

CREATED = "2026-11-25T03:00:00Z"
BEGAN = datetime(2026, 11, 25, 3, tzinfo=UTC).timestamp()


def pod(phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    """As the server stores the tool's own manifest."""
    found = manifest("ip-10-0-1-1", DebugPodOptions(), "alice@desk", CREATED, "run1")
    more = {"name": "netpol-ebpf-ip-10-0-1-1-x7k2p", "namespace": "kube-system", "uid": "u1"}
    found["metadata"] |= more | {"creationTimestamp": CREATED} | metadata
    found["status"] = {"phase": phase, "startTime": CREATED}
    return copy.deepcopy(found)


def one(found: object, now: float = BEGAN + 10) -> Leftover:
    (only,) = leftovers([found], now)
    return only


def kept() -> dict[str, Any]:
    found = pod()
    found["metadata"]["labels"][KEPT] = "true"
    return found


@pytest.mark.parametrize(
    ("found", "after", "use"),
    [
        (pod(), 10, Use.RUNNING),
        (pod("Pending"), 10, Use.RUNNING),
        (kept(), 10, Use.KEPT),
        (pod("Failed"), 10, Use.ENDED),
        (pod("Succeeded"), 10, Use.ENDED),
        # This machine's clock may be ahead of the server's.
        (pod(), 899, Use.RUNNING),
        (pod(), 901, Use.ENDING),
        (kept(), 901, Use.ENDING),
        (pod(deletionTimestamp=CREATED), 10, Use.ENDING),
    ],
)
def test_use(found: dict[str, Any], after: float, use: Use) -> None:
    assert one(found, BEGAN + after).use is use


def test_what_is_told() -> None:
    found = one(pod())
    assert (found.node, found.owner, found.created, found.ends) == ("ip-10-0-1-1", "alice@desk", BEGAN, BEGAN + 300)


def _change(path: str, value: object) -> dict[str, Any]:
    found: Any = pod("Failed")
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    inner = found
    for part in way:
        inner = inner[part]
    inner[last] = value
    return dict(found)


@pytest.mark.parametrize(
    "found",
    [
        _change("metadata.generateName", "web-"),
        _change("metadata.labels", {}),
        _change("metadata.uid", ""),
        _change("metadata.ownerReferences", [{"kind": "Job"}]),
        _change("spec.containers.0.name", "app"),
        _change("spec.containers.0.command", ["nginx"]),
        _change("spec.containers.0.command", None),
        _change("spec.containers", []),
        _change("spec.containers", None),
        _change("spec.restartPolicy", "Always"),
        _change("spec", None),
    ],
)
def test_a_pod_of_another_shape_is_not_ours(found: dict[str, Any]) -> None:
    assert one(found).use is Use.FOREIGN


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "spec", "status", "name", "namespace", "containers", "labels", "startTime", "phase"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_any_shape_is_told_or_left_out(found: object) -> None:
    for told in leftovers([found], BEGAN):
        assert told.use is Use.FOREIGN
        report.as_data([told], {}, BEGAN)
        report.as_text([told], {}, BEGAN, "the cluster", True, True)


def test_huge_deadlines_and_controls_in_names_do_no_harm() -> None:
    found = pod()
    found["spec"]["activeDeadlineSeconds"] = 10**400
    found["metadata"]["annotations"] = {"kubectl-netpol-ebpf/started-by": "\x1b[31malice\x07"}
    text = report.as_text([one(found)], {}, BEGAN, "the cluster", True, True)
    assert "[31malice" in text and "\x1b" not in text and "\x07" not in text
    assert report.as_data([one(found)], {}, BEGAN)["items"][0]["ends"] == ""


def test_the_answer_comes_first_and_names_the_next_step() -> None:
    found = [one(pod()), one(pod("Failed", name="netpol-ebpf-b", uid="u2"))]
    lines = report.as_text(found, {}, BEGAN + 75, "the cluster", False, True).splitlines()
    assert lines[0] == "2 debug pods in the cluster, 1 of them not in use any more."
    assert lines[3].split() == ["kube-system", found[0].name, "ip-10-0-1-1", "1m15s", "running", "alice@desk"]
    assert [line.split("`")[1] for line in lines if line.startswith("next:")] == [
        "kubectl netpol-ebpf cleanup --delete",
        "kubectl netpol-ebpf cleanup --delete --all",
    ]
    gone = {("kube-system", "netpol-ebpf-b"): ""}
    assert report.summary(found, gone, "the cluster") == "2 debug pods in the cluster: 1 deleted, 1 left alone."
    failed = {("kube-system", "netpol-ebpf-b"): "forbidden"}
    text = report.as_text(found, failed, BEGAN, "the cluster", False, True)
    assert "0 deleted, 1 could not be deleted, 1 left alone" in text and "ended: not deleted" in text
