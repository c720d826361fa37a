"""`--debug-profile minimal` on the real kernel: the same answers with less, and nothing in it that could go."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_netpol.node import debug_pod
from kubectl_netpol.node.debug_pod import CONTAINER, DebugPodOptions
from tests.faults import world
from tests.lab import article
from tests.lab.article import NODE
from tests.lab.cluster import ContainerPod
from tests.lab.flowlog import FlowLog
from tests.lab.require import require_lab, require_tools
from tests.lab_selftest.helpers import connects
from tests.system import profile_needs
from tests.system.conftest import ROOT, User
from tests.timeless import timeless

GOLDEN = ROOT / "tests/golden/debug-pod-minimal.yaml"
PAGE = ROOT / "docs/rbac.md"
BEGIN, END = "<!-- measured: tests/system/test_debug_profile.py --update -->\n", "<!-- end of measured -->"
MINIMAL = ("--debug-profile", "minimal")
NGINX = ("pod/nginx", "--from", "pod/accessfalse", "--port", "80")


@pytest.fixture(scope="module")
def made(plugin_bin: Path) -> Iterator[User]:
    """A healthy cluster whose agent logged a denied flow and an error."""
    require_lab()
    require_tools("kubectl")
    with world.healthy() as lab, FlowLog(lab.agents[NODE]) as log:
        assert connects(lab.sandbox("default", "accessfalse"), article.NGINX_IP, 80) != "open"
        assert log.write()
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with log.path.open("a") as file:
            file.write(json.dumps({"level": "error", "ts": now, "msg": "BPF map update failed"}) + "\n")
        yield User(lab, plugin_bin)
        assert not lab.server.errors


@pytest.fixture
def user(made: User) -> Iterator[User]:
    yield made
    for name in made.debug_pods():
        made.lab.server.delete("Pod", name, "kube-system", grace_seconds=0)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("explain", *NGINX), 1),
        (("explain", "pod/nginx", "-o", "json"), 0),
        (("maps", "pod/nginx", "-o", "wide"), 0),
        (("check", "-A", "-o", "wide"), None),
        (("conntrack", "pod/nginx"), 0),
        (("drops", "pod/nginx", "-o", "json"), 1),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_both_profiles_give_the_same_answer(user: User, arguments: tuple[str, ...], code: int | None) -> None:
    full, less = user.run(*arguments), user.run(*arguments, *MINIMAL)
    assert full.stdout
    assert without_clock(less.stdout) == without_clock(full.stdout)
    assert (less.returncode, less.stderr) == (full.returncode, full.stderr)
    assert code in (None, full.returncode)


def without_clock(text: str) -> str:
    """Ages of flows and programs, which go on."""
    return re.sub(r"\b\d+(\.\d+)? ?(ms|s|m|min)\b|\"\w*([sS]econds|[aA]ge)\w*\": [\d.]+", "-", timeless(text))


def test_doctor_and_the_test_run_work(user: User) -> None:
    doctor = user.run("doctor", *MINIMAL)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    asked = user.run("explain", *NGINX, "--ask-kernel", *MINIMAL)
    assert asked.returncode == 1 and re.search(r"TEST RUN +DROP", asked.stdout), asked.stdout + asked.stderr


def test_a_bundle_of_it_answers_as_a_sysadmin_one(user: User, tmp_path: Path) -> None:
    answers = []
    for flags in ((), MINIMAL):
        file = str(tmp_path / f"{len(flags)}.tar.gz")
        assert user.run("capture", "pod/nginx", "-f", file, *flags).returncode == 0
        runs = [user.run(*one, "--bundle", file) for one in (("explain", *NGINX), ("drops", "pod/nginx"))]
        answers.append([(without_clock(run.stdout), run.returncode) for run in runs])
    assert answers[0] == answers[1]


def test_the_pod_is_the_golden_one(user: User, request: pytest.FixtureRequest) -> None:
    """As the API server has it."""
    assert user.run("maps", "pod/nginx", *MINIMAL, "--keep").returncode == 0
    (name,) = user.debug_pods()
    posted = [r.body for r in user.lab.server.requests if r.verb == "create" and r.path.endswith("/kube-system/pods")]
    body = posted[-1]
    body["metadata"] = dict.fromkeys(sorted(body["metadata"]), "…")
    text = yaml.safe_dump(body, sort_keys=False, allow_unicode=True)
    if request.config.getoption("--update"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
    stored = user.lab.server.get("Pod", name, "kube-system")
    assert stored["spec"]["containers"][0]["securityContext"] == body["spec"]["containers"][0]["securityContext"]


def test_what_it_may_is_what_the_kernel_holds_it_to(user: User) -> None:
    """The lab's runtime is no stub: /proc tells, and the kernel refuses."""
    pod = debug_pod.manifest(NODE, DebugPodOptions(profile="minimal"), "me", "now")
    handle = ContainerPod(user.lab, pod)
    try:
        status = sh(handle, "cat /proc/self/status")
        found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert {found[key] for key in ("CapBnd", "CapEff", "CapPrm")} == {f"{1 << 21:016x}"}
        assert (found["NoNewPrivs"], found["Seccomp"], found["CapAmb"]) == ("1", "2", "0" * 16)
        assert "Read-only file system" in sh(handle, "touch /x 2>&1; touch /host/var/log/aws-routed-eni/x 2>&1")
        assert sh(handle, "ls /host/var/log; ls /host") == "aws-routed-eni\nvar\n"
        assert "not permitted" in sh(handle, "chown 1 /dev/shm 2>&1; mknod /dev/shm/m b 1 1 2>&1").lower()
        # Its own process table: its main process is the first one.
        assert sh(handle, "cat /proc/1/comm") == "sleep\n"
    finally:
        handle.stop(0)


def sh(handle: ContainerPod, script: str) -> str:
    process = handle.exec(["sh", "-c", script], stdin=False, tty=False, container=CONTAINER)
    return process.communicate(timeout=20)[0].decode()


def test_kept_pods_serve_their_own_profile_and_are_cleaned_up(user: User) -> None:
    assert user.run("maps", "pod/nginx", "--keep").returncode == 0
    assert user.run("maps", "pod/nginx", "--keep", *MINIMAL).returncode == 0
    assert len(user.debug_pods()) == 2
    assert user.run("maps", "pod/nginx", *MINIMAL).returncode == 0
    assert len(user.debug_pods()) == 2
    listed: Any = json.loads(user.run("cleanup", "-o", "json").stdout)["items"]
    assert [one["state"] for one in listed] == ["kept", "kept"]
    assert "2 deleted, 0 left alone" in user.run("cleanup", "--delete", "--all").stdout


def test_a_node_without_the_log_says_so(user: User) -> None:
    """A node of EKS Auto Mode, by its label: the pod starts without the directory, and what it hides is said."""
    label = "eks.amazonaws.com/compute-type"
    user.lab.server.change("Node", NODE, lambda node: node["metadata"]["labels"].update({label: "auto"}))
    try:
        done = user.run("drops", "pod/nginx", *MINIMAL)
        assert done.returncode == 3
        assert "--debug-profile sysadmin" in done.stdout + done.stderr
        checked = user.run("check", "pod/nginx", *MINIMAL)
        assert "the agent's log was not read: the minimal debug pod" in checked.stderr
        assert user.run("maps", "pod/nginx", *MINIMAL).returncode == 0
    finally:
        user.lab.server.change("Node", NODE, lambda node: node["metadata"]["labels"].pop(label))


def test_a_directory_that_is_not_there_is_not_made(user: User) -> None:
    log = Path(f"{user.lab.nodes[NODE].root}/var/log/aws-routed-eni")
    log.rename(log.with_name("away"))
    try:
        done = user.run("maps", "pod/nginx", *MINIMAL, "--start-timeout", "4")
        assert (done.returncode, done.stdout) == (3, "")
        assert "/var/log/aws-routed-eni is not a directory" in done.stderr
        assert "use --debug-profile sysadmin" in done.stderr
        assert not log.exists()
    finally:
        log.with_name("away").rename(log)


def test_podsecurity_needs_the_level_privileged(user: User) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    user.lab.server.put({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "tight", "labels": labels}})
    done = user.run("maps", "pod/nginx", "--debug-namespace", "tight", *MINIMAL)
    assert done.returncode == 3
    assert 'namespace "tight" enforces the PodSecurity level "baseline"' in done.stderr


def test_the_page_says_what_was_measured(user: User, request: pytest.FixtureRequest) -> None:
    """Every part of the minimal pod is needed, and nothing that it lacks would add to an answer.

    The row with all other capabilities speaks for each of them, since fewer never allow more: they are tried one by one
    where NETPOL_EVERY_CAPABILITY is set, and when the page is written.
    """
    bench = profile_needs.Bench(user.lab)
    rows = {row.what: row for row in profile_needs.measured(bench)}
    full, minimal = rows["`sysadmin`"], rows["`minimal`"]
    assert (full.lost, full.answer, full.test_run) == ((), "DENY", "dropped")
    assert minimal.lost == (profile_needs.RUN_DIRECTORY,)
    for what, row in rows.items():
        hidden = set(row.lost) - set(minimal.lost)
        assert bool(hidden) is ("without `" in what or "in its place" in what or "as another user" in what), row
        # What cannot be seen is never shown as fine.
        deciding = hidden & {"links", "tc filters", "tcx hooks", "programs", "maps"}
        assert row.answer == ("UNKNOWN" if deciding else "DENY")
    nothing = rows["`minimal` without `CAP_SYS_ADMIN`"]
    every = os.environ.get("NETPOL_EVERY_CAPABILITY") or request.config.getoption("--update")
    for single in profile_needs.singles(bench) if every else ():
        assert (single.lost, single.answer, single.test_run) == (nothing.lost, nothing.answer, nothing.test_run), single
    table = "\n".join([*profile_needs.HEAD, *map(str, rows.values())]) + "\n"
    before, _, rest = PAGE.read_text().partition(BEGIN)
    written, end, after = rest.partition(END)
    if request.config.getoption("--update"):
        PAGE.write_text(before + BEGIN + table + END + after)
    else:
        assert end and (written == table or not as_measured())


def as_measured() -> bool:
    """Whether this kernel asks for capabilities as the one of the page: what is lost without them follows from that."""
    disabled = Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip()
    release = platform.release().split(".")
    return disabled == "2" and (int(release[0]), int(release[1])) >= (6, 12)
