"""What the reader loses when the minimal debug pod has less, and gains when it has more: measured on the real kernel.

Each variant is the product's own pod with one thing changed, run on a node of the lab. Its document is compared with
that of a sysadmin pod, and the answer to one question with the right one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.diagnose import asking
from kubectl_netpol.diagnose import explain as explainer
from kubectl_netpol.diagnose import plan as planning
from kubectl_netpol.diagnose.drops import log_request
from kubectl_netpol.errors import NodeError
from kubectl_netpol.model.snapshot import NodeReading, Snapshot
from kubectl_netpol.node import ask, profiles
from kubectl_netpol.node.debug_pod import CONTAINER, DebugPodOptions, manifest
from kubectl_netpol.node.transport import read_node
from kubectl_netpol.policy.world import World
from tests.faults import world
from tests.lab import article
from tests.lab.api_runtime import StartError
from tests.lab.cluster import ContainerPod, LabCluster
from tests.lab.security import CAPABILITIES, confinement

Json = dict[str, Any]
Edit = Callable[[Json], object]
QUESTION = planning.Question("pod/nginx", source="pod/accessfalse", port="80")
NODE = article.NODE
SECTIONS = {
    "links": "links", "addresses": "links", "routes": "links", "qdiscs": "tc filters", "filters": "tc filters",
    "tcx": "tcx hooks", "programs": "programs", "maps": "maps", "pins": "pins", "flow_log": "the agent's flow log",
}  # fmt: skip
"""Section of the document -> what the table calls it."""


@dataclass
class RunningPod:
    """A pod of the lab's runtime as a place of execs, without an API server between."""

    handle: ContainerPod
    name: str = "measured"
    namespace: str = "kube-system"

    def exec(self, argv: list[str], stdin: bytes = b"") -> ExecResult:
        process = self.handle.exec(argv, stdin=True, tty=False, container=CONTAINER)
        out, err = process.communicate(stdin, timeout=30)
        return ExecResult(out, err, process.returncode, "")


@dataclass(frozen=True)
class Row:
    """``lost``: what differs from a sysadmin pod, less what `minimal` does not see either; ``answer``: to the question;
    ``test_run``: of --ask-kernel."""

    what: str
    lost: tuple[str, ...]
    answer: str
    test_run: str

    def __str__(self) -> str:
        return f"| {self.what} | {', '.join(self.lost) or 'nothing'} | {self.answer} | {self.test_run} |"


HEAD = (
    "| pod | not seen, beside what `minimal` does not see | `explain` of a denied flow | `--ask-kernel` |",
    "|---|---|---|---|",
)


class Bench:
    """One node, one question, and the document that a sysadmin pod gives."""

    def __init__(self, lab: LabCluster) -> None:
        self.lab = lab
        self.snapshot = world.read(lab)
        found = World(self.snapshot)
        self.plan = planning.make_plan(QUESTION, "default", found)
        pods = [pod for pod in self.snapshot.items("pods") if not pod["spec"].get("hostNetwork")]
        log = log_request(pods, found, seconds=3600, everything=True, most=1000)
        self.request = {**planning.reader_request(pods, everything=True), "log": log, "agent": True}
        self.full = self.document(profiles.SYSADMIN)
        # The ids of BPF objects are the machine's: what other nodes have loaded comes and goes meanwhile.
        self.own = _own(self.full)

    def document(self, profile: str, edit: Edit = lambda spec: None) -> Json:
        return self._with_pod(profile, edit, lambda pod: read_node(pod, self.request))

    def row(self, what: str, profile: str, edit: Edit = lambda spec: None) -> Row:
        """Raises nothing: a pod that does not start or answer is a row too."""
        try:
            return self._with_pod(profile, edit, lambda pod: self.in_pod(what, pod))
        except (NodeError, StartError) as error:
            return Row(what, ("everything",), "UNKNOWN", f"unknown: {error}")

    def _with_pod(self, profile: str, edit: Edit, use: Callable[[RunningPod], Any]) -> Any:
        pod = manifest(NODE, DebugPodOptions(profile=profile), "me", "now")
        edit(pod["spec"])
        handle = ContainerPod(self.lab, copy.deepcopy(pod))
        try:
            return use(RunningPod(handle))
        finally:
            handle.stop(0)

    def in_pod(self, what: str, pod: RunningPod) -> Row:
        document = read_node(pod, self.request)
        lost = [one for one in self.lost(document) if one != RUN_DIRECTORY or what == "`minimal`"]
        return Row(what, tuple(lost), self._answer(document), self._test_run(pod))

    def lost(self, document: Json) -> Iterator[str]:
        told = dict.fromkeys(
            name
            for section, name in SECTIONS.items()
            if _comparable(document, section, self.own) != _comparable(self.full, section, self.own)
        )
        yield from told
        agent, full = document["agent"], self.full["agent"]
        if agent["errors"] != full["errors"]:
            yield "the agent's errors"
        if agent["nf_conntrack_max"] != full["nf_conntrack_max"]:
            yield "the size of the kernel's conntrack"
        if agent["npa_socket"] != full["npa_socket"]:
            yield RUN_DIRECTORY

    def _answer(self, document: Json) -> str:
        snapshot = Snapshot(self.snapshot.collections, {NODE: NodeReading(document)}, namespace="default")
        return str(explainer.explain(self.plan, snapshot, None).decision.value).upper()

    def _test_run(self, pod: RunningPod) -> str:
        """The program is asked by what the full document knows of it: the pod's own part is the test run alone."""
        asked = next(one for one in asking.to_ask(self.plan.legs, NODE, self.full) if "ingress" in one.id)
        question = ask.question(
            asked.id, asked.flow, asked.owner, asked.ifindex, asked.program_id, asked.conntrack, [50123, 50124, 50125]
        )
        (answer,) = ask.ask_node(pod, ask.request([question]))
        return {0: "passes", 2: "dropped"}.get(answer["verdict"], "unknown")


RUN_DIRECTORY = "two files of the agent's run directory, which no answer uses"


def _own(document: Json) -> dict[str, set[int]]:
    """Programs and maps of the node itself: attached, pinned, or used by one that is."""
    pinned = {kind: {pin["id"] for pin in document["pins"] if pin["kind"] == kind} for kind in ("prog", "map")}
    programs = pinned["prog"] | {row["program_id"] for row in document["filters"]}
    used = {number for row in document["programs"] if row["id"] in programs for number in row["map_ids"]}
    return {"programs": programs, "maps": pinned["map"] | used}


def _comparable(document: Json, section: str, own: dict[str, set[int]]) -> Any:
    """Without what differs from one reading to the next."""
    found = document.get(section)
    if section == "qdiscs" and found is not None:
        return [{key: row[key] for key in ("ifindex", "kind", "handle", "parent")} for row in found]
    if section == "flow_log" and found is not None:
        return {key: found[key] for key in ("path", "lines", "complete")}
    if section in own and found is not None:
        return [row for row in found if row["id"] in own[section]]
    return found


# ---- the variants


def _security(spec: Json) -> Json:
    found: Json = spec["containers"][0]["securityContext"]
    return found


def with_capabilities(*names: str) -> Edit:
    """In place of CAP_SYS_ADMIN."""
    return lambda spec: _security(spec)["capabilities"].update(add=list(names))


def without_volume(name: str) -> Edit:
    def edit(spec: Json) -> None:
        spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != name]
        mounts = spec["containers"][0]["volumeMounts"]
        mounts[:] = [mount for mount in mounts if mount["name"] != name]

    return edit


def with_host_root(spec: Json) -> None:
    spec["volumes"].insert(0, {"name": "host-root", "hostPath": {"path": "/"}})
    mounts = spec["containers"][0]["volumeMounts"]
    mounts[:] = [one for one in mounts if one["name"] != "agent-log"]
    mounts.insert(0, {"name": "host-root", "mountPath": "/host", "readOnly": True})


def unconfined(spec: Json) -> None:
    for key in ("allowPrivilegeEscalation", "readOnlyRootFilesystem", "seccompProfile"):
        _security(spec).pop(key)


ALL_OTHERS = [name for name in CAPABILITIES if name != "SYS_ADMIN"]
TOLD_APART = ("BPF", "NET_ADMIN")
"""Of the single capabilities those that have a row of their own."""
VARIANTS: Sequence[tuple[str, str, Edit]] = (
    ("`sysadmin`", profiles.SYSADMIN, lambda spec: None),
    ("`minimal`", profiles.MINIMAL, lambda spec: None),
    ("`minimal` without `CAP_SYS_ADMIN`", profiles.MINIMAL, with_capabilities()),
    ("… with `CAP_BPF` in its place", profiles.MINIMAL, with_capabilities("BPF")),
    ("… with `CAP_NET_ADMIN` in its place", profiles.MINIMAL, with_capabilities("NET_ADMIN")),
    ("… with all other capabilities in its place", profiles.MINIMAL, with_capabilities(*ALL_OTHERS)),
    ("`minimal` without `hostNetwork`", profiles.MINIMAL, lambda spec: spec.pop("hostNetwork")),
    ("`minimal` without `/sys/fs/bpf`", profiles.MINIMAL, without_volume("bpffs")),
    ("`minimal` without `/var/log/aws-routed-eni`", profiles.MINIMAL, without_volume("agent-log")),
    ("`minimal` as another user than root", profiles.MINIMAL, lambda spec: _security(spec).update(runAsUser=65534)),
    ("`minimal` and `hostPID`", profiles.MINIMAL, lambda spec: spec.update(hostPID=True)),
    ("`minimal` and `hostIPC`", profiles.MINIMAL, lambda spec: spec.update(hostIPC=True)),
    ("`minimal` and the host's `/`", profiles.MINIMAL, with_host_root),
    ("`minimal` without seccomp, `no_new_privs` and read-only root", profiles.MINIMAL, unconfined),
)


def measured(bench: Bench) -> list[Row]:
    return [bench.row(*variant) for variant in VARIANTS]


def singles(bench: Bench) -> Iterator[Row]:
    """Each capability alone that has no row in the table: of the processes of one pod, one after the other."""
    pod = manifest(NODE, DebugPodOptions(profile=profiles.MINIMAL), "me", "now")
    handle = ContainerPod(bench.lab, pod)
    try:
        for name in ALL_OTHERS:
            if name not in TOLD_APART:
                with_capabilities(name)(pod["spec"])
                container = handle.containers[CONTAINER]
                container.security = confinement(pod["spec"], pod["spec"]["containers"][0])
                yield bench.in_pod(name, RunningPod(handle))
    finally:
        handle.stop(0)
