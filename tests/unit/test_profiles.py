"""The two shapes of the debug pod."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from kubectl_netpol import cli
from kubectl_netpol.node import profiles, reader
from kubectl_netpol.node.debug_pod import DebugPodOptions, manifest, reuse_key
from kubectl_netpol.node.leftovers import leftovers
from kubectl_netpol.options import DebugProfile

Json = dict[str, Any]


def spec(**options: Any) -> Json:
    found: Json = manifest("n1", DebugPodOptions(profile="minimal", **options), "me", "now")["spec"]
    return found


def test_the_flag_names_what_there_is() -> None:
    assert {one.value for one in DebugProfile} == {profiles.SYSADMIN, profiles.MINIMAL}
    assert DebugPodOptions().profile == profiles.SYSADMIN


def test_minimal_has_two_paths_one_capability_and_one_namespace() -> None:
    found = spec()
    (container,) = found["containers"]
    assert {volume["hostPath"]["path"] for volume in found["volumes"]} == {"/sys/fs/bpf", "/var/log/aws-routed-eni"}
    assert all(mount["readOnly"] is True for mount in container["volumeMounts"])
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SYS_ADMIN"]}
    assert {key for key in found if key.startswith("host")} == {"hostNetwork"}
    assert found["automountServiceAccountToken"] is False


def test_the_log_is_where_the_reader_looks_first() -> None:
    assert profiles.LOG_DIRECTORY == reader.LOG_DIRECTORY
    assert profiles.LOG_MOUNT["mountPath"] == reader.ROOTS[0] + reader.LOG_DIRECTORY
    assert profiles.BPFFS_MOUNT["mountPath"] == reader.BPFFS_PATHS[0]


def test_a_path_that_may_be_missing_is_not_made() -> None:
    """Without a type the container runtime makes an empty directory on the node."""
    (log,) = (volume for volume in spec()["volumes"] if volume["name"] == "agent-log")
    assert log["hostPath"]["type"] == "Directory"


def test_a_selinux_type_adds_nothing_else() -> None:
    with_type = spec(selinux_type="super_t")["containers"][0]["securityContext"]
    assert with_type.pop("seLinuxOptions") == {"type": "super_t"}
    assert with_type == spec()["containers"][0]["securityContext"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, True),
        ({"eks.amazonaws.com/nodegroup": "a"}, True),
        ({"eks.amazonaws.com/compute-type": "auto"}, False),
        ({"eks.amazonaws.com/compute-type": "hybrid"}, False),
    ],
)
def test_nodes_without_the_daemonset_have_no_log(labels: Json, expected: bool) -> None:
    assert profiles.has_log(labels) is expected
    paths = {volume["name"] for volume in spec(with_log=expected)["volumes"]}
    assert paths == ({"bpffs", "agent-log"} if expected else {"bpffs"})


def test_kinds_do_not_stand_in_for_each_other() -> None:
    kinds = [DebugPodOptions(), DebugPodOptions(profile="minimal"), DebugPodOptions(profile="minimal", with_log=False)]
    assert len({reuse_key(kind) for kind in kinds}) == 3


def test_cleanup_knows_both() -> None:
    for profile in (profiles.SYSADMIN, profiles.MINIMAL):
        pod = manifest("n1", DebugPodOptions(profile=profile, keep=True), "me", "now")
        pod["metadata"] |= {"name": "netpol-ebpf-n1-x", "namespace": "kube-system", "uid": "u"}
        (found,) = leftovers([pod], 0.0)
        assert found.use.value == "kept"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--via", "tools"], "--debug-profile minimal goes without --via tools"),
        (["--via", "agent"], "--debug-profile goes without --via agent"),
        (["--via", "tools", "--install-on-host"], "--debug-profile minimal goes without --via tools"),
    ],
)
def test_flags_that_do_not_go_with_it(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["maps", "pod/x", "--debug-profile", "minimal", *flags]) == 2
    assert said in capsys.readouterr().err


def test_other_names_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["maps", "pod/x", "--debug-profile", "netadmin"]) == 2
    assert "'sysadmin', 'minimal'" in capsys.readouterr().err


# ---- what it does not see is said

LOG: Json = {"path": None, "reason": "/host/var/log/x: ENOENT: No such file or directory", "lines": []}
AGENT: Json = {"errors": [], "reason": "/host/var/log/aws-routed-eni: ENOENT: No such file or directory"}


def test_a_log_that_was_not_found_is_the_pods_limit() -> None:
    told = profiles.with_limit_told({"flow_log": LOG})["flow_log"]["reason"]
    assert told.startswith(LOG["reason"]) and "--debug-profile sysadmin" in told
    for document in ({"flow_log": {**LOG, "path": "/host/var/log/x"}}, {"flow_log": None}, {}):
        assert profiles.with_limit_told(document) == document


def test_what_check_asked_for_is_missed() -> None:
    assert "the agent's log was not read" in profiles.unseen({"agent": AGENT})
    assert profiles.unseen({"agent": {**AGENT, "reason": "/var/run/aws-node was not found"}}) == ""
    assert profiles.unseen({"agent": None}) == profiles.unseen({}) == ""


# ---- kernels that ask for CAP_NET_ADMIN before they look at what is asked


@pytest.mark.parametrize(
    ("release", "expected"),
    [("5.10.245", []), ("6.1.147-172.266.amzn2023.x86_64", []), ("6.6.0", None), ("6.12.40-63", None), ("odd", None)],
)
def test_a_refused_query_is_unknown_only_where_there_is_tcx(
    monkeypatch: pytest.MonkeyPatch, release: str, expected: list[Json] | None
) -> None:
    def refused(*_: object) -> list[int]:
        raise OSError(errno.EPERM, "no")

    class Uname:
        def __init__(self) -> None:
            self.release = release

    monkeypatch.setattr(reader, "read_tcx", refused)
    monkeypatch.setattr(reader.os, "uname", Uname)
    report = reader.Report()
    assert reader._all_tcx({1: "eni1"}, {1}, report) == expected
    assert bool(report.errors) is (expected is None)
    assert bool(report.notes) is (expected is not None)
