"""Reading a node by commands: the frames around them, what is run, and what becomes of what they say."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.errors import NodeError
from kubectl_netpol.kernel.identity import identifiers, veth_names
from kubectl_netpol.node import toolbox_commands, toolbox_ip, toolbox_shell
from kubectl_netpol.node.toolbox import ToolOptions, read_node_through_agent, read_node_with_tools
from kubectl_netpol.node.toolbox_commands import Cli
from kubectl_netpol.node.toolbox_ip import IpError
from kubectl_netpol.node.toolbox_shell import Output, Shell
from tests.unit.test_na_cli import ARTICLE_DUMP, ARTICLE_LOADED, EQUALS, PROGS
from tests.unit.test_tc_text import ARTICLE as ARTICLE_FILTERS

Json = dict[str, Any]
VETH = veth_names("default", "nginx-f8d9c6576-8b4vf")[0]
REQUEST: Json = {
    "format": 1,
    "pods": [
        {
            "namespace": "default",
            "name": "nginx-f8d9c6576-8b4vf",
            "ips": ["172.31.104.5"],
            "links": list(veth_names("default", "nginx-f8d9c6576-8b4vf")),
            "identifiers": list(identifiers("default", "nginx-f8d9c6576-8b4vf")),
        }
    ],
    "all": False,
    "conntrack": "pods",
}


class LocalPod:
    """Runs the commands here."""

    name, namespace = "p", "kube-system"

    def __init__(self, change: Callable[[ExecResult], ExecResult] = lambda result: result) -> None:
        self.change = change
        self.stdin = b""

    def exec(self, argv: list[str], stdin: bytes = b"") -> ExecResult:
        self.stdin = stdin
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=20)
        return self.change(ExecResult(done.stdout, done.stderr, done.returncode))


def shell(change: Callable[[ExecResult], ExecResult] = lambda result: result) -> tuple[Shell, list[str]]:
    shown: list[str] = []
    return Shell(LocalPod(change), shown.append), shown


# ---- the shell


def test_each_command_has_its_own_streams_and_status() -> None:
    here, shown = shell()
    commands = ["echo one; echo two >&2; exit 3", "printf 'no end of line'", "cat", "cd / && missing-command", "true"]
    found = here.run(commands)
    assert shown == commands
    assert found[0] == Output(3, "one\n", "two\n")
    assert (found[0].said, found[1]) == ("two", Output(0, "no end of line", ""))
    assert found[2] == Output(0, "", ""), "a command does not read the rest of the script"
    assert (found[3].status, found[4]) == (127, Output(0, "", ""))
    assert here.run([]) == []


def test_bytes_that_are_no_text_are_replaced() -> None:
    here, _ = shell()
    (found,) = here.run([r"printf '\377\033x'"])
    assert found.stdout == "\N{REPLACEMENT CHARACTER}\x1bx"


@given(st.lists(st.text(max_size=60), min_size=1, max_size=3), st.text(max_size=40))
def test_outputs_cannot_look_like_frames(texts: list[str], noise: str) -> None:
    """Whatever is printed, a frame needs the marker, and the marker is new in every run."""
    marker = "0" * 32
    framed = "".join(f"{text}\n{marker} {n} 0\n" for n, text in enumerate(texts))
    found = toolbox_shell.split(ExecResult(framed.encode(), framed.encode(), 0), marker, len(texts))
    assert found is not None
    assert [output.stdout for output in found] == texts
    for broken in (framed + "x" + noise, framed[:-3], framed.replace(" 0 0", " 1 0", 1), noise):
        cut = ExecResult(broken.encode(), framed.encode(), 0)
        assert toolbox_shell.split(cut, marker, len(texts)) is None


def test_the_marker_is_different_each_time() -> None:
    pod = LocalPod()
    here = Shell(pod, lambda _: None)
    here.run(["true"])
    first = pod.stdin
    here.run(["true"])
    assert pod.stdin != first


def test_a_cut_script_does_nothing(tmp_path: Path) -> None:
    """A shell that loses its stdin in the middle of a script must not run the half that it has."""
    whole = toolbox_shell.script([f"touch {tmp_path}/ran", "true"], "m" * 32).encode()
    for length in range(0, len(whole) - 3, 7):
        subprocess.run(["sh", "-s"], input=whole[:length], capture_output=True)
        assert not (tmp_path / "ran").exists()
    subprocess.run(["sh", "-s"], input=whole, capture_output=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (ExecResult(b"", b"", 127, 'exec: "sh": executable file not found in $PATH'), "has no shell.*not found"),
        (ExecResult(b"half", b"", None, "connection lost"), "cut.*connection lost"),
        (ExecResult(b"", b"", 0), "cut"),
        (ExecResult(b"", b"", 137), "killed"),
    ],
)
def test_broken_answers(result: ExecResult, why: str) -> None:
    here, _ = shell(lambda _: result)
    with pytest.raises(NodeError, match=why) as caught:
        here.run(["true"])
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("words", [["dash", "-s"], ["bash", "-s"], ["busybox", "sh", "-s"]], ids=" ".join)
def test_the_commands_in_the_shells_that_images_have(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    monkeypatch.setattr(toolbox_shell, "ARGV", words)
    here, _ = shell()
    commands = toolbox_commands
    asked = (commands.CLOCKS, commands.SYSTEM, commands.SYSFS_LINKS, commands.LIST_LINKS, commands.BPF_MOUNTS)
    clocks, system, sysfs, links, mounts = here.run(asked)
    found = commands.clocks(clocks)
    assert abs(found["boottime_ns"] - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < 10e9
    assert abs(found["realtime_ns"] - time.time_ns()) < 10e9
    assert abs(found["monotonic_ns"] - time.monotonic_ns()) < 60e9
    names = os.uname()
    assert commands.system(system)["release"] == names.release
    assert commands.system(system)["nodename"] == names.nodename
    rows = toolbox_ip.parse_sysfs_links(sysfs.stdout)
    assert {row["name"] for row in rows} == set(links.stdout.split()) == {name for _, name in socket.if_nameindex()}
    assert mounts.status in (0, 1) and all(" - bpf " in line for line in mounts.stdout.splitlines())
    (nothing, tool) = here.run([commands.list_pins("/proc/self/attr"), commands.FIND_CLI])
    assert (nothing.stdout, tool.stdout) == ("", "")


def test_pins_are_listed(tmp_path: Path) -> None:
    top = tmp_path / "globals" / "aws"
    for path in ("maps/a b", "programs/x_handle_ingress"):
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).touch()
    here, _ = shell()
    (found,) = here.run([toolbox_commands.list_pins(str(tmp_path))])
    assert sorted(found.stdout.splitlines()) == sorted(
        [str(top), f"{top}/maps/a b", f"{top}/programs/x_handle_ingress"]
    )


# ---- a scripted node

MAPS = "Maps currently loaded : \n" + "".join(
    f"Type : {type_} ID : {number}\nKeysize {key} Valuesize {value} MaxEntries 65536\n{EQUALS}\n"
    for number, type_, key, value in (
        (21, 9, 24, 1), (22, 27, 0, 0), (93, 11, 8, 288), (94, 1, 4, 1), (95, 11, 8, 288), (96, 1, 4, 1), (5, 2, 4, 9)
    )
)  # fmt: skip
STATES = "Key :  0\nState -  0\n***\nKey :  1\nState -  1\n***\nDone reading all entries in BPF_MAP_TYPE_HASH\n"
CONNTRACK = (
    "Conntrack Key : Source IP - 172.31.101.218 Source port - 4000 Dest IP - 172.31.104.5 Dest port - 80 Protocol - 6 "
    "Owner IP - 172.31.104.5 Ifindex - 7\nValue : \nConntrack Val -  5\n***\n"
    "Conntrack Key : Source IP - 10.0.0.1 Source port - 4000 Dest IP - 10.0.0.2 Dest port - 80 Protocol - 6 "
    "Owner IP - 10.0.0.2 Ifindex - 8\nValue : \nConntrack Val -  5\n***\nDone reading all entries\n"
)
LINK = (
    f"7: {VETH}@if3: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 9001 qdisc noqueue state UP mode DEFAULT group default \n"
    "    link/ether 26:2b:e6:78:a7:ec brd ff:ff:ff:ff:ff:ff link-netnsid 0 promiscuity 0  minmtu 68 maxmtu 65535 \n"
    "    veth addrgenmode eui64 numtxqueues 2 numrxqueues 2 \n"
)
EGRESS_HOOK = ARTICLE_FILTERS.replace("433", "432").replace("handle_egress", "handle_ingress")
LISTED = (
    "/sys/fs/bpf/globals/aws",
    "/sys/fs/bpf/globals/aws/maps/global_aws_conntrack_map",
    "/sys/fs/bpf/globals/aws/maps/nginx-f8d9c6576-default_ingress_map",
    "/sys/fs/bpf/globals/aws/maps/other-default_ingress_map",
    "/sys/fs/bpf/globals/aws/programs/nginx-f8d9c6576-default_handle_ingress",
)
CLI = "chroot /host /opt/cni/bin/aws-eks-na-cli"
ANSWERS: dict[str, str] = {
    toolbox_commands.FIND_TC: "chroot /host /usr/sbin/tc\n",
    toolbox_commands.FIND_IP: "ip\n",
    toolbox_commands.FIND_CLI: f"{CLI}\n",
    toolbox_commands.LIST_LINKS: f"lo\n{VETH}\n",
    toolbox_commands.BPF_MOUNTS: "36 35 0:29 / /sys/fs/bpf rw,nosuid - bpf bpf rw,mode=700\n",
    toolbox_commands.CLOCKS: "timers now at 982957304423 nsecs\nuptime 983.25 1800.00\nbtime 1795000000\n",
    toolbox_commands.SYSTEM: "ostype Linux\nosrelease 6.1.100-1.amzn2023.x86_64\narch x86_64\nhostname ip-1\n",
    "ip -d link show": LINK,
    "ip addr show": "7: x\n    inet6 fe80::1/64 scope link \n",
    "ip -4 route show": (
        "default via 172.31.96.1 dev eth0 proto dhcp src 172.31.103.129 metric 512 \n"
        f"172.31.104.5 dev {VETH} scope link \n"
    ),
    "ip -6 route show": "",
    "chroot /host /usr/sbin/tc -s qdisc show": f"qdisc clsact ffff: dev {VETH} parent ffff:fff1 \n",
    f"chroot /host /usr/sbin/tc filter show dev {VETH} ingress": ARTICLE_FILTERS,
    f"chroot /host /usr/sbin/tc filter show dev {VETH} egress": EGRESS_HOOK,
    f"{CLI} ebpf loaded-ebpfdata": ARTICLE_LOADED,
    f"{CLI} ebpf maps": MAPS,
    f"{CLI} ebpf progs": PROGS + "".join(f"Type : 3 ID : {n} Associated maps count : 4\n" for n in (432, 433)),
    toolbox_commands.list_pins("/sys/fs/bpf"): "\n".join([*LISTED, ""]),
    f"{CLI} ebpf dump-maps 93": ARTICLE_DUMP,
    f"{CLI} ebpf dump-maps 95": "No Entries found, Empty map\n",
    f"{CLI} ebpf dump-maps 94": STATES,
    f"{CLI} ebpf dump-maps 96": STATES,
    f"{CLI} ebpf dump-maps 21": CONNTRACK,
}  # fmt: skip


class ScriptedPod:
    """A shell that knows what each command says; what it does not know does not exist."""

    name, namespace = "p", "kube-system"

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.ran: list[str] = []
        self.execs: list[list[str]] = []

    def exec(self, argv: list[str], stdin: bytes = b"") -> ExecResult:
        self.execs.append(argv)
        if argv != toolbox_shell.ARGV:
            return self._answer(" ".join(argv))
        out, err = b"", b""
        script = stdin.decode()
        found = re.search(r"[0-9a-f]{32}", script)
        assert found
        marker = found[0]
        for number, command in enumerate(part.split("\n) </dev/null")[0] for part in script.split("(\n")[1:]):
            result = self._answer(command)
            end = f"\n{marker} {number} {result.exit_code}\n".encode()
            out, err = out + result.stdout + end, err + result.stderr + end
        return ExecResult(out, err, 0)

    def _answer(self, command: str) -> ExecResult:
        self.ran.append(command)
        text = self.answers.get(command)
        if text is None:
            return ExecResult(b"", f"sh: {command.split()[0]}: not found\n".encode(), 127)
        return ExecResult(text.encode(), b"", 0)


def read(
    answers: dict[str, str] | None = None, options: ToolOptions | None = None, request: Json | None = None
) -> tuple[Json, ScriptedPod]:
    pod = ScriptedPod({**ANSWERS, **(answers or {})})
    shown: list[str] = []
    document = read_node_with_tools(pod, request or REQUEST, options or ToolOptions(), shown.append)
    assert shown == pod.ran, "each command is shown"
    return document, pod


def errors(document: Json) -> dict[str, str]:
    return {error["what"]: error["error"] for error in document["errors"]}


def test_the_articles_node() -> None:
    document, pod = read()
    assert (document["via"], len(pod.execs), document["errors"]) == ("tools", 3, [])
    assert document["tcx"] == [], "a kernel before 6.6 has no tcx"
    assert document["uname"]["release"] == "6.1.100-1.amzn2023.x86_64"
    assert document["clock"]["begin"] == {
        "monotonic_ns": 982957304423, "boottime_ns": 983250000000, "realtime_ns": 1795000983250000000
    }  # fmt: skip
    assert [(f["hook"], f["name"], f["program_id"]) for f in document["filters"]] == [
        ("ingress", "handle_egress", 433), ("egress", "handle_ingress", 432)
    ]  # fmt: skip
    programs = {program["id"]: program for program in document["programs"]}
    assert programs[433]["map_ids"] == [96, 22, 21, 95]
    assert (programs[433]["tag"], programs[433]["jited"]) == ("557a80b8403d758b", True)
    contents = {m["id"]: m["contents"] for m in document["maps"]}
    assert contents[93]["count"] == 2 and contents[95]["count"] == 0 and contents[94]["count"] == 2
    assert (contents[21]["count"], contents[21]["total"], contents[21]["filtered"]) == (1, 2, True)
    assert contents[22] is contents[5] is None
    pins = {pin["path"]: pin for pin in document["pins"]}
    assert pins["maps/nginx-f8d9c6576-default_ingress_map"]["id"] == 93
    assert pins["maps/other-default_ingress_map"]["id"] is None
    assert "maps/nginx-f8d9c6576-default_egress_map" not in pins, "only what is listed"
    assert document["links"][0]["peer_ifindex"] == 3 and document["links"][0]["kind"] == "veth"
    assert document["routes"][1]["ifindex"] == 7


def test_a_stale_program_is_left_out_and_said() -> None:
    stale = ANSWERS[f"chroot /host /usr/sbin/tc filter show dev {VETH} ingress"].replace("433", "77")
    document, _ = read({f"chroot /host /usr/sbin/tc filter show dev {VETH} ingress": stale})
    assert "sees pins only" in errors(document)["program 77"]
    assert 77 not in {program["id"] for program in document["programs"]}
    assert {433, 432} <= {program["id"] for program in document["programs"]}


def test_the_wrong_dumper_is_never_called() -> None:
    maps = MAPS.replace("Keysize 8 Valuesize 288", "Keysize 8 Valuesize 384")
    document, pod = read(
        {f"{CLI} ebpf maps": maps, f"{CLI} ebpf dump-cp-maps 93": "Key: 10.0.0.0/8\n***\nDone reading all entries\n"}
    )
    dumps = [command for command in pod.ran if "dump" in command]
    assert {f"{CLI} ebpf dump-cp-maps 93", f"{CLI} ebpf dump-cp-maps 95", f"{CLI} ebpf dump-maps 94"} <= set(dumps)
    assert not any(command.endswith((" 22", "dump-maps 93", "dump-maps 95")) for command in dumps)
    assert "not found" in errors(document)["map 95"]


def test_other_names_of_tools_are_taken_and_made_up_ones_are_not() -> None:
    lines = "\n".join(["chroot /host /usr/bin/aws-eks-na-cli", "rm -rf /", "chroot /host /usr/bin/aws-eks-na-cli-v6"])
    cli = toolbox_commands.cli_of(lines.split("\n"))
    assert (cli.v4, cli.v6) == ("chroot /host /usr/bin/aws-eks-na-cli", "chroot /host /usr/bin/aws-eks-na-cli-v6")
    assert toolbox_commands.chosen(Output(0, "rm -rf /\n", ""), toolbox_commands.tool("tc")) == ""
    auto = toolbox_commands.cli_of(["chroot /host /run/aws-network-policy-agent/aws-eks-na-cli", *lines.split("\n")])
    assert auto.v6 == "chroot /host /run/aws-network-policy-agent/aws-eks-na-cli"
    assert auto.for_map({"type": 1, "key_size": 4, "value_size": 1}) == "chroot /host /usr/bin/aws-eks-na-cli"
    assert auto.for_map({"type": 11, "key_size": 20, "value_size": 288}) == auto.v6
    assert Cli("four", "").for_map({"type": 11, "key_size": 20, "value_size": 288}) == ""


def test_tc_is_installed_in_the_container_and_only_there() -> None:
    document, pod = read({toolbox_commands.FIND_TC: ""})
    assert pod.ran.count("dnf install -y iproute-tc") == 1
    assert not any("chroot /host dnf" in command for command in pod.ran)
    assert "dnf: not found" in errors(document)["filters"]
    assert document["filters"] is document["qdiscs"] is None
    assert document["programs"] is not None


def test_tc_is_installed_on_the_node_only_where_that_is_asked_for() -> None:
    _, pod = read({toolbox_commands.FIND_TC: ""}, ToolOptions(install_on_host=True))
    assert "chroot /host dnf install -y iproute-tc" in pod.ran
    assert "dnf install -y iproute-tc" not in pod.ran


def test_without_the_cli_the_filters_are_there() -> None:
    document, _ = read({toolbox_commands.FIND_CLI: ""})
    assert len(document["filters"]) == 2
    assert document["programs"] is document["maps"] is None
    assert {"programs", "maps"} <= errors(document).keys()
    assert {pin["id"] for pin in document["pins"]} == {None}


def test_without_anything_there_is_no_document() -> None:
    with pytest.raises(NodeError, match=r"no tc.*and no aws-eks-na-cli"):
        read({toolbox_commands.FIND_TC: "", toolbox_commands.FIND_CLI: ""})


def test_without_ip_sysfs_is_read() -> None:
    sysfs = (
        "link lo\nifindex 1\niflink 1\nflags 0x9\nlink gone\n"
        f"link {VETH}\nifindex 7\niflink 3\nflags 0x11043\noperstate up\nmtu 9001\naddress 0a:00\n"
    )
    document, _ = read({toolbox_commands.FIND_IP: "", toolbox_commands.SYSFS_LINKS: sysfs})
    assert [(link["name"], link["ifindex"], link["peer_ifindex"]) for link in document["links"]] == [
        ("lo", 1, None), (VETH, 7, 3)
    ]  # fmt: skip
    assert document["routes"] is document["addresses"] is None
    assert len(document["filters"]) == 2


def test_a_link_that_only_a_route_names_is_asked_about_later() -> None:
    """The CNI can be told to name its links otherwise."""
    other = {command.replace(VETH, "nic0123"): text.replace(VETH, "nic0123") for command, text in ANSWERS.items()}
    pod = ScriptedPod(other)
    document = read_node_with_tools(pod, REQUEST, ToolOptions(), lambda _: None)
    assert [f["program_id"] for f in document["filters"]] == [433, 432]
    assert len(pod.execs) == 3


def test_all_links_with_clsact_are_asked_about() -> None:
    document, pod = read(request={"format": 1, "pods": [], "all": True, "conntrack": "all"})
    assert len(document["filters"]) == 2
    assert {m["id"]: m["contents"] for m in document["maps"]}[21]["count"] == 2
    assert len(pod.execs) == 3


def test_hostile_names_are_quoted() -> None:
    evil = "x;touch${IFS}y'\"$(id)"
    request = {**REQUEST, "pods": [{**REQUEST["pods"][0], "links": [evil]}]}
    _, pod = read({toolbox_commands.LIST_LINKS: f"{evil}\n"}, request=request)
    command = next(c for c in pod.ran if "touch" in c)
    words = subprocess.run(
        ["sh", "-c", command.replace("chroot /host /usr/sbin/tc", "printf '%s\\n'")], capture_output=True, text=True
    ).stdout.split("\n")
    assert words == ["filter", "show", "dev", evil, "ingress", ""]


def test_the_clis_error_is_no_answer() -> None:
    failed = "Failed to execute the cmd -  failed walking the bpfdirectory failed to get err\n"
    document, _ = read({f"{CLI} ebpf loaded-ebpfdata": failed})
    assert document["programs"] is None
    assert "failed to get err" in errors(document)["programs"]
    assert {pin["id"] for pin in document["pins"]} == {None}
    assert document["maps"] is not None


@given(st.sampled_from(sorted(ANSWERS)), st.one_of(st.text(max_size=60), st.sampled_from(list(ANSWERS.values()))))
def test_any_answer_gives_a_document_or_a_clean_error(command: str, text: str) -> None:
    pod = ScriptedPod({**ANSWERS, command: text})
    with contextlib.suppress(NodeError):
        read_node_with_tools(pod, REQUEST, ToolOptions(), lambda _: None)
    agent = ScriptedPod({key.replace(CLI, "/aws-eks-na-cli"): value for key, value in pod.answers.items()})
    with contextlib.suppress(NodeError):
        read_node_through_agent(agent, REQUEST, lambda _: None)


# ---- the agent's container


def agents(**more: str) -> ScriptedPod:
    answers = {key.replace(CLI, "/aws-eks-na-cli"): text for key, text in ANSWERS.items() if key.startswith(CLI)}
    return ScriptedPod({**answers, **{key.replace("_", " "): text for key, text in more.items()}})


def test_the_agents_container() -> None:
    pod = agents()
    shown: list[str] = []
    document = read_node_through_agent(pod, REQUEST, shown.append)
    assert shown == pod.ran and all(argv[:2] == ["/aws-eks-na-cli", "ebpf"] for argv in pod.execs)
    assert document["via"] == "agent"
    unread = {"links", "addresses", "routes", "qdiscs", "filters", "tcx"}
    assert errors(document).keys() == unread and all(document[section] is None for section in unread)
    assert {program["id"] for program in document["programs"]} == {432, 433}
    assert {m["id"]: m["contents"] for m in document["maps"]}[93]["count"] == 2
    assert {pin["path"]: pin["id"] for pin in document["pins"]}["maps/nginx-f8d9c6576-default_ingress_map"] == 93


def test_ipv6_maps_need_the_other_build_and_pod_states_this_one() -> None:
    pod = agents()
    pod.answers["/aws-eks-na-cli ebpf maps"] = MAPS.replace("Keysize 8 ", "Keysize 20 ").replace(
        "Keysize 24 ", "Keysize 60 "
    )
    pod.answers["/aws-eks-na-cli-v6 ebpf dump-maps 93"] = (
        "Key : IP/Prefixlen - fd00::1/128 \n***\nDone reading all entries\n"
    )
    document = read_node_through_agent(pod, REQUEST, lambda _: None)
    dumps = sorted(command for command in pod.ran if "dump" in command)
    assert dumps == [
        "/aws-eks-na-cli ebpf dump-maps 94", "/aws-eks-na-cli ebpf dump-maps 96",
        "/aws-eks-na-cli-v6 ebpf dump-maps 21", "/aws-eks-na-cli-v6 ebpf dump-maps 93",
        "/aws-eks-na-cli-v6 ebpf dump-maps 95",
    ]  # fmt: skip
    assert {m["id"]: m["contents"] for m in document["maps"]}[93]["count"] == 1
    assert "not found" in errors(document)["map 95"]


def test_no_such_container() -> None:
    with pytest.raises(NodeError, match="cannot run /aws-eks-na-cli in pod kube-system/p") as caught:
        read_node_through_agent(ScriptedPod({}), REQUEST, lambda _: None)
    assert caught.value.hint
    broken = agents()
    broken.answers = dict.fromkeys(broken.answers, "Failed to execute the cmd -  operation not permitted\n")
    with pytest.raises(NodeError, match="not permitted"):
        read_node_through_agent(broken, REQUEST, lambda _: None)


# ---- ip


@pytest.mark.parametrize(
    ("first", "more", "programs"),
    [
        ("", "", []),
        ("xdpgeneric ", "    prog/xdp id 31 name drop tag 57cd311f2e27366b jited \n", [31]),
        ("xdpmulti ", "    prog/xdpdrv id 31 tag 57cd \n    prog/xdpgeneric id 32 tag 57cd \n", [31, 32]),
        ("xdpgeneric/id:31 ", "", [31]),
    ],
)
def test_xdp_programs_of_ip(first: str, more: str, programs: list[int]) -> None:
    head = f"7: eni1@if3: <BROADCAST,UP,LOWER_UP> mtu 9001 {first}qdisc noqueue state UP mode DEFAULT \n"
    [link] = toolbox_ip.parse_links(
        f"{head}    link/ether 0a:00 brd ff:ff link-netnsid 0\n    veth addrgenmode none \n{more}"
    )
    assert (link["xdp"], link["kind"]) == (programs, "veth")


def test_links_of_ip() -> None:
    text = (
        "1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN mode DEFAULT group default qlen 1000\n"
        "    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00 promiscuity 0 minmtu 0 maxmtu 0 addrgenmode eui64 \n"
        "2: eth0: <NO-CARRIER,BROADCAST,MULTICAST,UP> mtu 9001 qdisc mq master br0 state DOWN mode DEFAULT \n"
        "    link/ether 0a:00:00:00:00:01 brd ff:ff:ff:ff:ff:ff promiscuity 0 \n    bridge_slave state forwarding \n"
        "    altname enp0s5\n"
        "3: br0: <BROADCAST,MULTICAST,UP,LOWER_UP,80000000> mtu 1500 qdisc noqueue state UP \n    link/ether 0a:00\n"
        "    bridge forward_delay 1500 \n"
        "4: v0@br0: <M-DOWN> mtu 1500 qdisc noop state DOWN \n    link/ether 0a:00 link-netns cni-5\n"
        "    vlan protocol 802.1Q\n"
        "5: sit0@NONE: <NOARP> mtu 1480 qdisc noop state DOWN \n    link/sit 0.0.0.0 brd 0.0.0.0\n"
    )
    found = toolbox_ip.parse_links(text)
    assert [(r["name"], r["kind"], r["flags"], r["operstate"], r["peer_ifindex"], r["master"]) for r in found] == [
        ("lo", "", 0x10049, "UNKNOWN", None, None),
        ("eth0", "", 0x1003, "DOWN", None, 3),
        ("br0", "bridge", 0x80011043, "UP", None, None),
        ("v0", "vlan", 0, "DOWN", 3, None),
        ("sit0", "", 0x80, "DOWN", 0, None),
    ]
    with pytest.raises(IpError, match="flag"):
        toolbox_ip.parse_links("1: lo: <NEW_FLAG> mtu 5 state UP\n")


def test_routes_of_ip() -> None:
    names = {"eth0": 2, "eth1": 3, "eni1": 7}
    text = (
        "default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.10 metric 512 \n"
        "10.0.0.21 dev eni1 scope link \n"
        "blackhole 10.8.0.0/16 \n"
        "10.9.0.0/16 proto static \n"
        "\tnexthop via 10.0.0.2 dev eth0 weight 1 \n\tnexthop via inet6 fe80::1 dev eth1 weight 1 \n"
    )
    found = toolbox_ip.parse_routes(text, 4, names)
    keys = ("destination", "prefixlen", "ifindex", "gateway", "type", "scope", "source")
    assert [tuple(row[key] for key in keys) for row in found] == [
        ("0.0.0.0", 0, 2, "10.0.0.1", 1, 0, "10.0.0.10"),
        ("10.0.0.21", 32, 7, None, 1, 253, None),
        ("10.8.0.0", 16, None, None, 6, 0, None),
        ("10.9.0.0", 16, 2, "10.0.0.2", 1, 0, None),
        ("10.9.0.0", 16, 3, "fe80::1", 1, 0, None),
    ]
    (six,) = toolbox_ip.parse_routes("fd00::5 dev eni1 metric 1024 pref medium\n", 6, names)
    assert (six["destination"], six["prefixlen"], six["family"]) == ("fd00::5", 128, 6)
    for bad in ("nexthop via 1.1.1.1\n", "10.0.0.300 dev eth0\n", "10.0.0.0/x\n", "blackhole\n"):
        with pytest.raises(IpError):
            toolbox_ip.parse_routes(bad, 4, names)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from([LINK, *ANSWERS.values()]))
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.text(max_size=8)) + text[at:]


@given(st.one_of(st.text(max_size=120), damaged()))
def test_any_text_of_ip_is_parsed_or_a_clean_error(text: str) -> None:
    for parse in (
        toolbox_ip.parse_links, toolbox_ip.parse_sysfs_links, toolbox_ip.parse_addresses,
        lambda text: toolbox_ip.parse_routes(text, 4, {}), lambda text: toolbox_ip.parse_routes(text, 6, {}),
    ):  # fmt: skip
        with contextlib.suppress(IpError):
            parse(text)
