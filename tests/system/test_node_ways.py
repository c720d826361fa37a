"""The three ways to read a node: what the tools and the agent's container tell is what the reader tells."""

from __future__ import annotations

import functools
import json
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubectl_netpol.diagnose.plan import KINDS
from kubectl_netpol.node.toolbox_commands import FIND_CLI
from tests.lab import article
from tests.lab.agent_pod import pod_name
from tests.lab.apiserver import Rule
from tests.lab.article import NODE
from tests.lab.cluster import LabCluster
from tests.lab.require import require_lab, require_tools
from tests.lab_selftest.helpers import connects
from tests.system.conftest import User
from tests.timeless import timeless

Json = dict[str, Any]
Told = Callable[..., tuple[int, Json]]
TOOLS = ("--via", "tools", "--image", "busybox")
AGENT = ("--via", "agent")
DENIED = ("explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80")
ALLOWED = ("explain", "pod/nginx", "--from", "pod/accesstrue", "--port", "80")
POD = ("explain", "pod/nginx")
MAPS, CONNTRACK = ("maps", "pod/nginx"), ("conntrack", "pod/nginx")
QUESTIONS = (DENIED, ALLOWED, POD, MAPS, CONNTRACK)
AUTO_NODE, AUTO_POD = "i-0123456789abcdef0.ap-northeast-1.compute.internal", "far"
MOUNTS = (("/", "/host", True), ("/sys/fs/bpf", "/sys/fs/bpf", True))
TOLD = (("1.1.6", 4), ("1.2.7", 4), ("1.3.5", 4), ("1.4.2", 4), ("1.1.6", 6))
UNTOLD = ("1.4.2", 6)
"""The IPv6 build of the CLI shows no pod states and no cluster policies, which agents have from 1.2.0 on."""

HAS_TCX = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2]) >= (6, 6)
TCX = "tcx: tc does not show programs that are attached by tcx"

DIFFERENT = {
    "errors": "tc shows no tcx; each test says what else is not told",
    "notes": "the CLI tells no names, sizes and flags, and map pins by name only: a note says so",
    "tcxPrograms": "None in the place of a list, where the kernel has tcx",
    "tcxUnread": "the reason of that",
    "droppedPackets": "a counter that moves: an IPv6 veth talks to itself",
    "lastSeenAgoNs": "a moment later it is longer ago",
    "reading": "when it was read, how long that took, and whether it held still",
}
CAVEATS = (
    " (unless a program that runs before tc filters decides, which could not be read)",
    ", as far as tc shows (what runs before tc filters was not read)",
)
"""What the tools add to a sentence of the reader, since they cannot see tcx."""
"""What may differ between the reader and the tools, at any depth, and why. All else is equal."""


def is_established(lab: LabCluster) -> bool:
    """One flow, so that conntrack has something to tell."""
    nginx = article.addresses(lab.family)["nginx"]
    return connects(lab.sandbox("default", "accesstrue"), nginx, 80) == "open"


def named(cluster: tuple[str, int]) -> str:
    return f"{cluster[0]}-v{cluster[1]}"


told_all = pytest.mark.parametrize("any_lab", TOLD, ids=named, indirect=True)
untold = pytest.mark.parametrize("any_lab", [UNTOLD], ids=named, indirect=True)


@pytest.fixture(scope="module", params=[*TOLD, UNTOLD], ids=named)
def any_lab(request: pytest.FixtureRequest) -> Iterator[LabCluster]:
    require_lab()
    require_tools("kubectl", "tc", "ip", "busybox")
    generation, family = request.param
    with article.cluster(generation=generation, family=family, agent_pods=True) as made:
        article.build(made)
        assert is_established(made)
        yield made


@pytest.fixture(scope="module")
def lab() -> Iterator[LabCluster]:
    """The newest agent, and besides the article's node one of EKS Auto Mode."""
    require_lab()
    require_tools("kubectl", "tc", "ip", "busybox")
    with article.cluster(generation="1.4.2", agent_pods=True) as made:
        article.build(made)
        assert is_established(made)
        made.add_node(AUTO_NODE, "172.31.103.140", compute_type="auto")
        containers = [{"name": "c", "image": "busybox", "command": ["sleep", "infinity"]}]
        spec = {"nodeName": AUTO_NODE, "containers": containers}
        made.server.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": AUTO_POD}, "spec": spec})
        made.server.wait_running(AUTO_POD)
        made.settle()
        yield made


def using(lab: LabCluster, plugin_bin: Path) -> Iterator[User]:
    """A user after whom nothing is left."""
    found = User(lab, plugin_bin)
    yield found
    left = found.debug_pods()
    for name in left:
        lab.server.delete("Pod", name, "kube-system", grace_seconds=0)
    assert left == []
    assert not lab.server.errors


@pytest.fixture
def user(lab: LabCluster, plugin_bin: Path) -> Iterator[User]:
    yield from using(lab, plugin_bin)


@pytest.fixture
def any_user(any_lab: LabCluster, plugin_bin: Path) -> Iterator[User]:
    yield from using(any_lab, plugin_bin)


def ask(user: User, *arguments: str) -> tuple[int, Json]:
    done = user.run(*arguments, "-o", "json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def by_reader(any_lab: LabCluster, plugin_bin: Path) -> Told:
    """What the reader tells. Each question is asked once, since nothing changes in between."""
    return functools.cache(lambda *question: ask(User(any_lab, plugin_bin), *question))


def same(found: Any, key: str = "") -> Any:
    """An answer less what may differ, see DIFFERENT."""
    if isinstance(found, dict):
        return {name: same(value, name) for name, value in found.items() if name not in DIFFERENT}
    if key == "mapIds":
        return sorted(found)  # the CLI tells a program's maps in an order of its own
    if isinstance(found, str):
        for caveat in CAVEATS:
            found = found.replace(caveat, "")
    if key == "evidence":
        # Of findings it is a list of objects.
        found = [one for one in found if not str(one).startswith("what runs before tc filters was not read ")]
    return [same(value) for value in found] if isinstance(found, list) else found


def only_error(done: subprocess.CompletedProcess[str]) -> str:
    """The single `error:` line of a run that had nothing to show, and its hint."""
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return "\n".join(line for line in done.stderr.splitlines() if line.startswith(("error: ", "hint: ")))


def posted(user: User, since: int) -> list[Json]:
    """The pods that were asked for since then."""
    requests = user.lab.server.requests[since:]
    return [r.body for r in requests if r.verb == "create" and r.resource == "pods"]


def layers(leg: Json) -> dict[str, Json]:
    return {layer["layer"]: layer for layer in leg["layers"]}


# ---- --via tools


def is_all_told(lab: LabCluster) -> bool:
    return (lab.generation, lab.family) != UNTOLD


@told_all
@pytest.mark.parametrize("question", [POD, MAPS, CONNTRACK], ids=" ".join)
def test_the_tools_tell_of_a_pod_what_the_reader_tells(
    any_user: User, by_reader: Told, question: tuple[str, ...]
) -> None:
    code, reader = by_reader(*question)
    code_of_tools, tools = ask(any_user, *question, *TOOLS)
    assert (code, code_of_tools) == (0, 0)
    assert same(tools) == same(reader)
    for side in tools.get("directions", ()):
        assert (side["tcxPrograms"], side["tcxUnread"]) == ((None, TCX) if HAS_TCX else ([], ""))
        assert sorted(side["program"]["mapIds"]) == sorted(m["id"] for m in side.get("maps", ())) or question == POD
    for flow, before in zip(tools.get("flows", ()), reader.get("flows", ()), strict=True):
        assert (flow["lastSeenAgoNs"] is not None) is (any_user.lab.generation == "1.4.2")
        assert 0 <= (flow["lastSeenAgoNs"] or 0) - (before["lastSeenAgoNs"] or 0) < 60e9
    assert question != CONNTRACK or tools["flows"]


@told_all
@pytest.mark.parametrize(("question", "code"), [(DENIED, 1), (ALLOWED, 0)], ids=["denied", "allowed"])
def test_the_tools_judge_a_flow_as_the_reader_does(
    any_user: User, by_reader: Told, question: tuple[str, ...], code: int
) -> None:
    exit_reader, reader = by_reader(*question)
    exit_tools, tools = ask(any_user, *question, *TOOLS)
    assert exit_reader == code
    assert same(tools["legs"][0]) == same(reader["legs"][0]), "the ingress of nginx"
    attached = layers(tools["legs"][0])["ATTACHED"]["evidence"]
    assert any(TCX in line for line in attached) is HAS_TCX
    assert tools["kernel"]["errors"] == ([TCX] if HAS_TCX else [])
    assert (exit_tools, same(tools)) == (code, same(reader))


@untold
def test_ipv6_pod_states_are_not_told_and_it_is_said(any_user: User, by_reader: Told) -> None:
    reader, (code, tools) = by_reader(*MAPS)[1], ask(any_user, *MAPS, *TOOLS)
    assert code == 0
    for side, other in zip(tools["directions"], reader["directions"], strict=True):
        assert same(side["program"]) == same(other["program"])
        for mine, theirs in zip(side["maps"], other["maps"], strict=True):
            told = not mine["layout"].startswith(("pod state", "cluster"))
            assert same(mine) == same(theirs) if told else (mine["entries"] is None and mine["reason"])
    for question in (DENIED, ALLOWED):
        reader, (code, tools) = by_reader(*question)[1], ask(any_user, *question, *TOOLS)
        assert (code, tools["verdict"]) == (3, "UNKNOWN")
        mine, theirs = layers(tools["legs"][0]), layers(reader["legs"][0])
        assert same(mine["INTENT"]) == same(theirs["INTENT"])
        assert same(mine["ENDPOINTS"]) == same(theirs["ENDPOINTS"])
        assert {mine[name]["code"] for name in ("PINNED", "ATTACHED")} == {"MAP_UNREADABLE"}
    assert ask(any_user, *POD, *TOOLS)[0] == 3
    code, tools = ask(any_user, *CONNTRACK, *TOOLS)
    flow = tools["flows"][0]
    assert (flow["passes"], flow["rulesNow"], flow["rulesCode"]) == (None, "UNKNOWN", "MAP_UNREADABLE")
    assert flow["source"] == article.addresses(6)["accesstrue"]


@untold
def test_established_flows_are_unknown_where_pod_states_are(any_user: User) -> None:
    leg = ask(any_user, *ALLOWED, *TOOLS)[1]["legs"][0]
    assert layers(leg)["CONNTRACK"]["verdict"] == "UNKNOWN"


def test_shown_commands_work_when_pasted(any_user: User) -> None:
    quiet, shown = any_user.run(*MAPS, *TOOLS), any_user.run(*MAPS, *TOOLS, "--show-commands")
    assert timeless(shown.stdout) == timeless(quiet.stdout)
    commands = shown_commands(shown)
    assert [line for line in shown.stderr.splitlines() if not line.startswith("+ ")] == quiet.stderr.splitlines()
    assert sum(bool(re.search(r"\btc filter show dev ", command)) for command in commands) >= 2
    said = pasted(any_user.lab, commands)
    assert {command: (done.returncode, done.stderr) for command, done in said.items() if command != FIND_CLI} == {
        command: (0, "") for command in commands if command != FIND_CLI
    }
    assert said[FIND_CLI].stdout == "chroot /host /opt/cni/bin/aws-eks-na-cli\n"
    rules = [done.stdout for command, done in said.items() if " dump-maps " in command]
    assert any(article.addresses(any_user.lab.family)["accesstrue"] in text for text in rules)


def test_the_search_for_the_cli_ends_well_when_pasted(user: User) -> None:
    assert pasted(user.lab, [FIND_CLI])[FIND_CLI].returncode == 0


def shown_commands(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line[2:] for line in done.stderr.splitlines() if line.startswith("+ ")]


def pasted(lab: LabCluster, commands: list[str]) -> dict[str, subprocess.CompletedProcess[str]]:
    """What commands say in a shell of a debug container on the node."""
    node = lab.nodes[NODE]
    with node.add_container(["/bin/sleep", "60"], mounts=MOUNTS, rootfs="busybox") as container:
        return {command: node.run(["sh", "-c", command], container) for command in commands}


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_bundle_of_the_tools_answers_as_the_live_node(user: User, form: str, tmp_path: Path) -> None:
    bundle = tmp_path / "tools.tar.gz"
    done = user.run("capture", "pod/nginx", "-f", str(bundle), *TOOLS)
    assert done.returncode == 0, done.stderr
    for question in QUESTIONS:
        live = user.run(*question, *TOOLS, "-o", form)
        before = len(user.lab.server.requests)
        offline = user.run(*question, "--bundle", str(bundle), "-o", form, KUBECONFIG="/nonexistent")
        assert offline.returncode == live.returncode
        assert len(user.lab.server.requests) == before
        if form == "json":
            assert same(json.loads(offline.stdout)) == same(json.loads(live.stdout))
        elif question != CONNTRACK:  # its ages go on
            assert timeless(offline.stdout) == timeless(live.stdout)
    assert json.loads(user.run(*MAPS, "--bundle", str(bundle), "-o", "json").stdout)["errors"] == ([TCX] * HAS_TCX)


def test_an_image_without_python_names_the_other_way(user: User) -> None:
    assert "--via tools" in only_error(user.run(*MAPS, "--image", "busybox"))
    done = user.run(*ALLOWED, "--image", "busybox")
    assert done.returncode == 3
    assert [line for line in done.stderr.splitlines() if "--via tools" in line] == [done.stderr.splitlines()[-1]]


def test_the_tools_read_a_node_of_auto_mode(user: User) -> None:
    done = user.run("maps", AUTO_POD, *TOOLS, "--show-commands")
    assert done.returncode == 0, done.stderr
    assert "chroot /host /run/aws-network-policy-agent/aws-eks-na-cli ebpf maps" in done.stderr
    reader, tools = (ask(user, "maps", AUTO_POD, *way)[1] for way in ((), TOOLS))
    assert same(tools) == same(reader)


# ---- --via agent


def test_the_agent_sees_what_is_pinned_without_any_debug_pod(any_user: User, by_reader: Told) -> None:
    for question in (DENIED, ALLOWED):
        reader = by_reader(*question)[1]
        before = len(any_user.lab.server.requests)
        code, agent = ask(any_user, *question, *AGENT)
        assert posted(any_user, before) == []
        execs = [r for r in any_user.lab.server.requests[before:] if r.resource == "pods/exec"]
        assert {(r.name, r.query["container"][0]) for r in execs} == {(pod_name(NODE), "aws-eks-nodeagent")}
        assert all(r.query["command"][0].startswith("/aws-eks-na-cli") for r in execs), "there is no shell"
        assert (code, agent["verdict"]) == (3, "UNKNOWN")
        mine, theirs = layers(agent["legs"][0]), layers(reader["legs"][0])
        assert mine["ATTACHED"]["verdict"] == "UNKNOWN"
        if is_all_told(any_user.lab):
            told = ("verdict", "code", "why", "decidedBy")
            assert [mine["PINNED"].get(key) for key in told] == [theirs["PINNED"].get(key) for key in told]
        else:
            assert mine["PINNED"]["code"] == "MAP_UNREADABLE"


def test_the_agent_shows_the_pinned_maps(any_user: User, by_reader: Told) -> None:
    reader, (code, agent) = by_reader(*MAPS)[1], ask(any_user, *MAPS, *AGENT)
    assert code == 3
    for side, other in zip(agent["directions"], reader["directions"], strict=True):
        assert (side["program"], side["filters"]) == (None, [])
        assert (side["pinnedProgram"]["id"], side["reason"]) == (other["program"]["id"], agent["errors"][0])
        for mine, theirs in zip(side["maps"], other["maps"], strict=True):
            assert (mine["id"], mine["pin"], mine["layout"]) == (theirs["id"], theirs["pin"], theirs["layout"])
            if mine["reason"] == theirs["reason"] and "conntrack" not in mine["layout"]:
                assert mine["entries"] == theirs["entries"]
            elif "conntrack" not in mine["layout"]:
                assert not is_all_told(any_user.lab)
    rules = next(m for m in agent["directions"][0]["maps"] if "rules" in m["layout"])
    addresses = article.addresses(any_user.lab.family)
    assert any(entry["prefix"].startswith(f"{addresses['accesstrue']}/") for entry in rules["entries"])


def test_the_agents_commands_work_when_pasted(user: User) -> None:
    quiet, shown = user.run(*MAPS, *AGENT), user.run(*MAPS, *AGENT, "--show-commands")
    assert timeless(shown.stdout) == timeless(quiet.stdout)
    commands = shown_commands(shown)
    assert len(commands) > 3
    place = ("exec", "-n", "kube-system", pod_name(NODE), "-c", "aws-eks-nodeagent", "--")
    for command in commands:
        assert "Failed" not in user.lab.kubectl(*place, *command.split()).stdout
    assert user.lab.kubectl(*place, "sh", "-c", "true", check=False).returncode != 0


def test_the_agents_flows(user: User) -> None:
    reader, (code, agent) = ask(user, *CONNTRACK)[1], ask(user, *CONNTRACK, *AGENT)
    assert (code, len(agent["flows"])) == (3, len(reader["flows"]))
    for mine, theirs in zip(agent["flows"], reader["flows"], strict=True):
        ends = ("direction", "source", "destination", "protocol", "port", "sourcePort")
        assert [mine[key] for key in ends] == [theirs[key] for key in ends]
        assert mine["passes"] is None
    assert {flow["rulesNow"] for flow in agent["flows"]} == {"UNKNOWN"}, "judged by hooks that were not read"
    assert {flow["lastSeenAgoNs"] for flow in agent["flows"]} == {None}, "an age that the agent does not tell"


@pytest.mark.parametrize("question", [ALLOWED, POD], ids=["flow", "pod"])
def test_the_next_step_leads_somewhere(user: User, question: tuple[str, ...]) -> None:
    done = user.run(*question, *AGENT)
    [step] = [line for line in done.stdout.splitlines() if line.startswith("Next")]
    assert "--via python" in step
    assert user.run(*question).returncode == 0


READ = Rule(("list", "get"), KINDS)
EXEC = Rule(("create",), ("pods/exec",), ("kube-system",))


@pytest.mark.parametrize(("name", "rules"), [("looker", [READ]), ("half", [READ, EXEC])])
def test_the_right_that_the_agent_needs_is_named(user: User, name: str, rules: list[Rule]) -> None:
    user.lab.server.add_user(name, rules)
    before = len(user.lab.server.requests)
    line = only_error(user.run(*MAPS, *AGENT, "--as", name))
    refused = re.search(r'cannot (\w+) resource "pods/exec"', line)
    assert refused, line
    assert f"kubectl auth can-i {refused[1]} pods --subresource=exec -n kube-system" in line
    assert posted(user, before) == []


def test_with_the_rights_in_kube_system_alone_the_agent_is_read(user: User) -> None:
    user.lab.server.add_user("execer", [READ, Rule(("create", "get"), ("pods/exec",), ("kube-system",))])
    found = [user.run(*MAPS, *AGENT, *flags).stdout for flags in (("--as", "execer"), ())]
    assert timeless(found[0]) == timeless(found[1])


def test_a_node_without_the_daemonset_says_what_else_reads_it(user: User) -> None:
    before = len(user.lab.server.requests)
    line = only_error(user.run("maps", AUTO_POD, *AGENT))
    assert f"node {AUTO_NODE} has no running aws-node pod" in line
    assert "--via python or --via tools" in line
    assert posted(user, before) == []


# ---- how the debug pod is made


@pytest.mark.parametrize("way", [(), TOOLS], ids=["python", "tools"])
def test_a_selinux_type_takes_the_place_of_privileged(user: User, way: tuple[str, ...]) -> None:
    usual, before = ask(user, *MAPS, *way)[1], len(user.lab.server.requests)
    code, found = ask(user, *MAPS, *way, "--selinux-type", "super_t")
    assert (code, same(found)) == (0, same(usual))
    (pod,) = posted(user, before)
    security = pod["spec"]["containers"][0]["securityContext"]
    assert "privileged" not in security
    assert security["seLinuxOptions"] == {"type": "super_t"}
    assert security["capabilities"] == {"add": ["ALL"]}
    assert user.debug_pods() == []


def test_it_is_not_privileged_in_the_lab_either(user: User) -> None:
    """Without that word the container runtime hides parts of /proc: the reading must do without them."""
    done = user.run(*MAPS, "--selinux-type", "super_t", "--keep", *TOOLS)
    (kept,) = user.debug_pods()
    timers = user.lab.kubectl("exec", "-n", "kube-system", kept, "--", "cat", "/proc/timer_list").stdout
    user.lab.server.delete("Pod", kept, "kube-system", grace_seconds=0)
    user.lab.server.wait_gone("Pod", kept, "kube-system")
    assert (done.returncode, timers) == (0, "")


@pytest.mark.parametrize("flag", [False, True])
def test_the_host_is_mounted_writable_only_for_an_installation(user: User, flag: bool) -> None:
    before = len(user.lab.server.requests)
    assert user.run(*MAPS, *TOOLS, *(["--install-on-host"] if flag else [])).returncode == 0
    (pod,) = posted(user, before)
    mounts = {m["mountPath"]: m for m in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounts["/host"].get("readOnly", False) is not flag
    assert mounts["/sys/fs/bpf"]["readOnly"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*MAPS, "--install-on-host"), "--install-on-host goes with --via tools"),
        ((*MAPS, "--install-on-host", *AGENT), "--install-on-host goes with --via tools"),
        ((*MAPS, "--show-commands"), "--show-commands goes with --via tools or --via agent"),
        ((*ALLOWED, "--ask-kernel", *TOOLS), "--ask-kernel needs --via python"),
        ((*ALLOWED, "--ask-kernel", *AGENT), "--ask-kernel needs --via python"),
        ((*ALLOWED, "--ask-kernel", "--bundle", "x.tar.gz"), "--ask-kernel needs the live node"),
        ((*MAPS, "--via", "magic"), "magic"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, tuple) else "",
)
def test_flags_that_do_not_go_together_touch_nothing(user: User, arguments: tuple[str, ...], says: str) -> None:
    before = len(user.lab.server.requests)
    done = user.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr.splitlines()[0]
    assert len(user.lab.server.requests) == before
