"""`rbac/`: for each level, that it is enough and that none of it could go; with the real kubectl and the real files.

Enough: every verb of the level gives what it gives to cluster-admin. Minimal: each single right of a level is used by a
request that no other right of the level allows, and who lacks it is told so.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_netpol.cluster.rights import Right, needed
from kubectl_netpol.diagnose import plan as planning
from kubectl_netpol.live import open_cluster
from kubectl_netpol.options import Common
from kubectl_netpol.progress import Progress
from tests.faults import world
from tests.lab import article
from tests.lab.api_auth import Access
from tests.lab.api_auth import User as LabUser
from tests.lab.api_rbac import rule_of
from tests.lab.article import NODE
from tests.lab.flowlog import FlowLog
from tests.lab.netns import wait_until
from tests.lab.require import require_lab, require_tools
from tests.lab_selftest.helpers import connects
from tests.system.conftest import ROOT, User
from tests.timeless import timeless

RBAC, PAGE = ROOT / "rbac", ROOT / "docs/rbac.md"
LEVELS = {"api-only": ("api-only",), "node-reader": ("api-only", "node-reader"), "all": ("api-only", "all")}
"""Level -> the files that make it up."""
OTHER = "debug"
"""A debug namespace that is not kube-system."""
FLOW = ("pod/nginx", "--from", "pod/accessfalse", "--port", "80")
POLICY = str(ROOT / "tests/golden/policy.yaml")
MINIMAL = ("--debug-profile", "minimal")

API_RUNS: Sequence[tuple[str, ...]] = (
    ("explain", *FLOW, "--api-only"),
    ("explain", "pod/nginx", "--api-only", "-f", POLICY),
    ("check", "-A", "--api-only"),
    ("check", "pod/nginx", "--api-only"),
    ("doctor", "--api-only"),
    ("cleanup",),
)
NODE_RUNS: Sequence[tuple[str, ...]] = (
    ("explain", *FLOW),
    ("maps", "pod/nginx", *MINIMAL),
    ("conntrack", "pod/nginx"),
    ("check", "-A"),
    ("drops", "pod/nginx"),
    ("doctor",),
)
ALL_RUNS: Sequence[tuple[str, ...]] = (
    ("maps", "pod/nginx", "--debug-namespace", OTHER),
    ("doctor", "--debug-namespace", OTHER),
    ("maps", "pod/nginx", "--via", "agent"),
)
RUNS = {"api-only": API_RUNS, "node-reader": NODE_RUNS, "all": ALL_RUNS}


@dataclass(frozen=True)
class Atom:
    """One single right; ``namespace`` empty: in the whole cluster."""

    verb: str
    group: str
    resource: str
    name: str = ""
    namespace: str = ""

    @property
    def rule(self) -> dict[str, Any]:
        names = {"resourceNames": [self.name]} if self.name else {}
        return {"apiGroups": [self.group], "resources": [self.resource], "verbs": [self.verb], **names}

    def allows(self, access: Access) -> bool:
        (rule,) = rule_of(self.rule, self.namespace or None)
        return rule.allows(access.verb, access.group, access.resource, access.namespace, access.name)


def atoms(name: str) -> list[Atom]:
    """All rights of one file."""
    return [
        Atom(verb, group, resource, one, role["metadata"].get("namespace", ""))
        for role in yaml.safe_load_all((RBAC / f"{name}.yaml").read_text())
        for rule in role["rules"]
        for group, resource, one, verb in product(
            rule["apiGroups"], rule["resources"], rule.get("resourceNames") or [""], rule["verbs"]
        )
    ]


def rights(level: str) -> list[Atom]:
    return [atom for name in LEVELS[level] for atom in atoms(name)]


@dataclass
class Level:
    """Somebody at a shell who has one level and no more."""

    name: str
    user: User
    account: LabUser
    kubeconfig: Path
    done: set[Any] = field(default_factory=set)
    """What was run already of what `test_minimal` looks back on."""

    def run(self, *arguments: str) -> Any:
        self.done.add(arguments)
        return self.user.run(*arguments, KUBECONFIG=str(self.kubeconfig))


@pytest.fixture(scope="module")
def made(plugin_bin: Path) -> Iterator[User]:
    """The roles are applied by the real kubectl, as their page says."""
    require_lab()
    require_tools("kubectl")
    with world.healthy() as lab, FlowLog(lab.agents[NODE]) as log:
        assert connects(lab.sandbox("default", "accessfalse"), article.NGINX_IP, 80) != "open"
        assert log.write()
        # Kubernetes 1.35 asks for `create` beside the `get` of a WebSocket.
        lab.server.authorize_websocket_create = True
        lab.kubectl("create", "namespace", OTHER)
        lab.kubectl("apply", "-f", str(RBAC))
        yield User(lab, plugin_bin)
        assert not lab.server.errors


@pytest.fixture(scope="module")
def levels(made: User) -> dict[str, Level]:
    """Bound by the examples, with a group's name in them."""
    found = {}
    for name in LEVELS:
        example = (RBAC / f"examples/{name}.yaml").read_text()
        made.lab.kubectl("apply", "-f", "-", input=example.replace("YOUR-GROUP", f"team-{name}"))
        account = made.lab.server.add_user(name, (), ("system:authenticated", f"team-{name}"))
        path = made.lab.server.write_kubeconfig(made.lab.directory / f"kubeconfig-{name}", name)
        found[name] = Level(name, made, account, path)
    return found


@pytest.fixture(autouse=True)
def no_faults(made: User) -> Iterator[None]:
    yield
    made.lab.server.faults.clear()
    for pod in made.lab.server.list("Pod", labels="app.kubernetes.io/managed-by=kubectl-netpol-ebpf"):
        made.lab.server.delete("Pod", pod["metadata"]["name"], pod["metadata"]["namespace"], grace_seconds=0)


@pytest.mark.parametrize(
    ("level", "arguments"),
    [(level, run) for level, runs in RUNS.items() for run in runs],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:3]).replace("/", "-"),
)
def test_enough(levels: dict[str, Level], level: str, arguments: tuple[str, ...]) -> None:
    theirs, ours = levels[level].user.run(*arguments), levels[level].run(*arguments)
    assert theirs.stdout
    assert steady(ours.stdout) == steady(theirs.stdout)
    assert (ours.returncode, steady(ours.stderr)) == (theirs.returncode, steady(theirs.stderr))
    assert not re.search("not allowed: |forbidden|could not be read|is missing", ours.stdout + ours.stderr)


def steady(text: str) -> str:
    """Without ages, start-up times and names of pods, which go on."""
    return re.sub(r"\b\d+(\.\d+)? ?(ms|s|m|min)\b|netpol-ebpf-ip-[\w-]+", "-", timeless(text))


def test_enough_for_the_test_run_of_a_program(levels: dict[str, Level]) -> None:
    done = levels["node-reader"].run("explain", *FLOW, "--ask-kernel")
    assert done.returncode == 1 and "TEST RUN   DROP" in done.stdout, done.stdout + done.stderr


def test_enough_to_capture(levels: dict[str, Level], tmp_path: Path) -> None:
    answers = []
    for who in (levels["node-reader"].user.run, levels["node-reader"].run):
        file = str(tmp_path / f"{len(answers)}.tar.gz")
        done = who("capture", "pod/nginx", "-f", file)
        assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
        told = levels["node-reader"].user.run("check", "-A", "--bundle", file)
        answers.append((steady(told.stdout), told.returncode))
    assert answers[0] == answers[1]


NAMESPACES = {"node-reader": "kube-system", "all": OTHER}


@pytest.mark.parametrize("level", NAMESPACES)
def test_enough_when_things_go_wrong(levels: dict[str, Level], level: str) -> None:
    things_go_wrong(levels[level])


def things_go_wrong(reader: Level) -> None:
    """A watch that ends is followed by looking; a pod that cannot start, or does not, is explained; nothing stays."""
    reader.done.add(things_go_wrong)
    arguments = ("maps", "pod/nginx", "--debug-namespace", NAMESPACES[reader.name])
    faults = reader.user.lab.server.faults
    faults.http(500, "/pods$", verb="watch", count=1)
    assert reader.run(*arguments).returncode == 0
    faults.start_error("netpol-ebpf-", message="no space left on device")
    done = reader.run(*arguments)
    assert done.returncode == 3 and "no space left on device" in done.stderr, done.stderr
    faults.clear()
    faults.pod_stuck("netpol-ebpf-")
    stuck = reader.run(*arguments, "--start-timeout", "1")
    assert stuck.returncode == 3 and "did not start within 1 s" in stuck.stderr, stuck.stderr
    events = Access(reader.name, "list", "", "events", NAMESPACES[reader.name])
    assert events in reader.account.used
    assert "forbidden" not in done.stderr + stuck.stderr and reader.user.debug_pods() == []


@pytest.mark.parametrize("level", NAMESPACES)
def test_enough_to_clean_up(levels: dict[str, Level], level: str) -> None:
    """Somebody else's run was killed; what it left is deleted."""
    user, namespace = levels[level].user, NAMESPACES[level]
    fault = user.lab.server.faults.slow(20, "/exec")
    process = user.start("maps", "pod/nginx", "--debug-namespace", namespace)
    wait_until(lambda: fault.hits > 0, "exec", 30)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    user.lab.server.faults.clear()
    done = levels[level].run("cleanup", "--delete", "--all")
    assert done.returncode == 0 and "1 deleted, 0 left alone" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("level", LEVELS)
def test_minimal(levels: dict[str, Level], level: str) -> None:
    """Of all that was done as this user: each right of the level alone allowed some of it."""
    for arguments in RUNS[level]:
        if arguments not in levels[level].done:
            levels[level].run(*arguments)
    if level in NAMESPACES and things_go_wrong not in levels[level].done:
        things_go_wrong(levels[level])
    used = list(dict.fromkeys(levels[level].account.used))
    have = rights(level)
    assert len(set(have)) == len(have)
    own = atoms(level)
    for atom in own:
        # By no other right of the level, those of the files that it builds on included.
        alone = [one for one in used if [other for other in have if other.allows(one)] == [atom]]
        assert alone, f"{atom} of {level} is not needed by {len(used)} requests"
    assert all(any(atom.allows(one) for atom in have) for one in used)


@pytest.mark.parametrize("atom", atoms("api-only"), ids=lambda atom: f"{atom.verb}-{atom.resource}")
def test_an_api_right_that_is_missing_is_told(made: User, atom: Atom, tmp_path: Path) -> None:
    origin = open_cluster(without(made, "api-only", atom, tmp_path), Progress(enabled=False))
    found = origin.collections(planning.EVERYTHING, ["default"])
    unread = {kind for kind, collection in found.items() if collection.reason}
    assert unread == {atom.resource}
    assert "cannot" in found[atom.resource].reason


SAID = {
    ("get", "nodes"): "the right `get nodes` is missing",
    ("create", "pods"): "the right `create pods` is missing",
    ("watch", "pods"): "cannot follow the start of the debug pod",
    ("get", "pods"): "cannot follow the start of the debug pod",
    ("delete", "pods"): "could not be deleted (",
    ("create", "pods/exec"): "the right `create pods/exec` is missing",
    ("get", "pods/exec"): "the right `get pods/exec` is missing",
}
"""What the user reads who lacks one right of node-reader. `watch` and `get` of pods stand in for each other where the
other one works, so it is made to fail there."""


@pytest.mark.parametrize("atom", atoms("node-reader"), ids=lambda atom: f"{atom.verb}-{atom.resource}")
def test_a_right_to_nodes_that_is_missing_is_told(made: User, atom: Atom, tmp_path: Path) -> None:
    path = without(made, "node-reader", atom, tmp_path).connection.kubeconfig
    said = SAID[atom.verb, atom.resource]
    if (atom.verb, atom.resource) == ("watch", "pods"):
        made.lab.server.faults.http(403, "/pods/netpol", verb="get", message="no looks today")
    if (atom.verb, atom.resource) == ("get", "pods"):
        made.lab.server.faults.http(500, "/pods$", verb="watch")
    done = made.run("maps", "pod/nginx", KUBECONFIG=str(path))
    assert said in done.stderr, done.stderr


def without(made: User, level: str, atom: Atom, folder: Path) -> Common:
    """Flags of somebody who has a level but for one right."""
    rules = [rule for one in rights(level) if one != atom for rule in rule_of(one.rule, one.namespace or None)]
    made.lab.server.add_user("lacking", rules)
    path = made.lab.server.write_kubeconfig(folder / "kubeconfig", "lacking")
    return world.common_of(path)


# ---- the files, the page and the code say the same


def test_files_bind_nobody() -> None:
    for path in RBAC.glob("*.yaml"):
        kinds = {document["kind"] for document in yaml.safe_load_all(path.read_text())}
        assert kinds <= {"Role", "ClusterRole"}, path
    for path in (RBAC / "examples").glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            assert [one["name"] for one in document["subjects"]] == ["YOUR-GROUP"]


@pytest.mark.parametrize("level", LEVELS)
def test_the_page_lists_what_the_file_has(level: str) -> None:
    text = PAGE.read_text().partition(f"<!-- rights: rbac/{level}.yaml -->")[2].partition("\n\n")[0]
    listed = set()
    for line in text.strip().splitlines()[2:]:
        what, verbs, where = (cell.strip() for cell in line.split("|")[1:4])
        for name in what.split(", "):
            resource, _, one = name.partition(" `")
            plural, _, group = resource.partition(".")
            for verb in verbs.split(", "):
                listed.add(Atom(verb, group, plural, one.rstrip("`"), "" if where == "cluster" else where.strip("`")))
    assert listed == set(atoms(level))


@pytest.mark.parametrize(("level", "namespace"), [("node-reader", "kube-system"), ("all", OTHER)])
def test_the_code_asks_for_what_the_level_has(level: str, namespace: str) -> None:
    """`doctor` asks the API server for exactly these; that pods may be listed follows from the wider right."""

    def access(right: Right) -> Access:
        resource = f"{right.resource}/{right.subresource}".rstrip("/")
        return Access("", right.verb, right.group, resource, right.namespace, right.name)

    asked = [access(right) for right in needed(namespace)]
    for one in asked:
        assert any(atom.allows(one) for atom in rights(level)), one
    for atom in rights(level):
        assert any(atom.allows(one) for one in asked), atom
