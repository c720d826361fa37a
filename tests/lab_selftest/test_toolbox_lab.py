"""One node, read by the reader and by the tools: both must say the same wherever both can see."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.kernel.identity import identifiers, veth_names
from kubectl_netpol.node import na_cli as texts
from kubectl_netpol.node import transport
from kubectl_netpol.node.document import raw_entries
from kubectl_netpol.node.reader import LRU_HASH
from kubectl_netpol.node.toolbox import ToolOptions, read_node_through_agent, read_node_with_tools
from tests.lab import na_cli
from tests.lab.agent import GENERATIONS, Agent
from tests.lab.node import Fabric, Image, Node, image
from tests.lab.require import require_lab, require_tools

from .helpers import allow, cluster_endpoint, connects, endpoint, selected, tcp_server

Json = dict[str, Any]
MOUNTS = (("/", "/host", True), ("/sys/fs/bpf", "/sys/fs/bpf", True))
NAMESPACE = "shop"
PODS = {4: {"web-1": "10.0.0.21", "client-1": "10.0.0.31"}, 6: {"web-1": "fd00:10::21", "client-1": "fd00:10::31"}}
HTTP = 80


@pytest.fixture(scope="module", autouse=True)
def machine() -> None:
    require_lab()
    require_tools("tc", "ip", "busybox")


@dataclass
class DebugPod:
    """A container of the node as an ``ExecPod``."""

    node: Node
    rootfs: Image | str = "busybox"
    mounts: tuple[tuple[str, str, bool], ...] = MOUNTS
    name: str = "debug"
    namespace: str = "kube-system"
    execs: list[list[str]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.container = self.node.add_container(["/bin/sleep", "1000"], mounts=self.mounts, rootfs=self.rootfs)

    def exec(self, argv: list[str], stdin: bytes = b"") -> ExecResult:
        self.execs.append(argv)
        pipe = subprocess.PIPE
        process = self.node.popen(argv, self.container, pipe, pipe, pipe)
        out, err = process.communicate(stdin, timeout=30)
        return ExecResult(out, err, process.returncode)

    def with_tools(self, request: Json, options: ToolOptions | None = None) -> Json:
        return read_node_with_tools(self, request, options or ToolOptions(), self.shown.append)


@dataclass
class Place:
    node: Node
    agent: Agent
    family: int

    def request(self, **changes: Any) -> Json:
        pods = [
            {
                "namespace": NAMESPACE,
                "name": name,
                "ips": [ip],
                "links": list(veth_names(NAMESPACE, name)),
                "identifiers": list(identifiers(NAMESPACE, name)),
            }
            for name, ip in PODS[self.family].items()
        ]
        return {"format": 1, "pods": pods, "all": False, "conntrack": "pods", **changes}

    def read_twice(self, pod: DebugPod, request: Json) -> tuple[Json, Json]:
        """By the tools and by the reader, at a moment when nothing changed: links come up and IPv6 talks to itself."""
        reader = DebugPod(self.node, "python3.11")
        before = transport.read_node(reader, request)
        for _ in range(20):
            pod.execs.clear()
            pod.shown.clear()
            tools = pod.with_tools(request)
            after = transport.read_node(reader, request)
            if at_rest(before) == at_rest(after):
                return tools, after
            before = after
        raise AssertionError("the node does not come to rest")


def at_rest(document: Json) -> list[Any]:
    """What is compared and may change by itself. Maps without contents are those of anyone on this machine."""
    maps = [row for row in document["maps"] if row["contents"] is not None]
    return [maps, *(document[section] for section in ("links", "addresses", "routes", "filters"))]


@contextlib.contextmanager
def place(generation: str, family: int = 4) -> Iterator[Place]:
    """A node with two pods, policies for one of them, and a flow between them."""
    with Fabric("10.0.0.0/20" if family == 4 else "fd00:10::/64") as fabric:
        node = Node("node-a", "10.0.0.10" if family == 4 else "fd00:10::10", fabric)
        agent = Agent(node, generation)
        pods = PODS[family]
        for name, ip in pods.items():
            node.add_pod(NAMESPACE, name, ip)
            agent.pod_added(NAMESPACE, name)
        full = 32 if family == 4 else 128
        rules = [
            allow(f"{pods['client-1']}/{full}", ("TCP", HTTP), ("UDP", 53), ("TCP", 1000, 2000)),
            allow(
                "10.5.0.0/16" if family == 4 else "fd00:5::/64",
                **{"except": ["10.5.6.0/24" if family == 4 else "fd00:5::/96"]},
            ),
        ]
        web = selected(node, NAMESPACE, "web-1")
        cluster = [
            cluster_endpoint("base", web, "Baseline", 5, ingress=[allow("10.0.0.0/8", ("TCP", 8080), action="Accept")])
        ]
        if GENERATIONS[generation].npa_gen < 10300 or family == 6:
            cluster = []
        agent.sync([endpoint("web", web, ingress=rules)], cluster)
        na_cli.install(node, agent.generation.npa_gen, family == 6)
        if family == 4:
            with tcp_server(node.pods[NAMESPACE, "web-1"], pods["web-1"], HTTP):
                assert connects(node.pods[NAMESPACE, "client-1"], pods["web-1"], HTTP) == "open"
        yield Place(node, agent, family)


def errors(document: Json) -> dict[str, str]:
    return {error["what"]: error["error"] for error in document["errors"]}


def contents(document: Json) -> dict[int, Json]:
    return {row["id"]: row for row in document["maps"] if row["contents"] is not None}


def by_path(document: Json) -> Mapping[str, Json]:
    return {pin["path"]: pin for pin in document["pins"]}


def own(rows: list[Json], *without: str) -> list[Json]:
    return sorted(
        ({key: value for key, value in row.items() if key not in without} for row in rows), key=lambda row: str(row)
    )


def assert_same_network(tools: Json, reader: Json) -> None:
    for section in ("links", "addresses", "routes", "filters"):
        assert own(tools[section]) == own(reader[section]), section
    # These go on: multicast of IPv6.
    counters = ("bytes", "packets", "drops")
    assert own(tools["qdiscs"], *counters) == own(reader["qdiscs"], *counters)
    assert all(row["bytes"] is not None for row in tools["qdiscs"])
    assert (tools["uname"], tools["bpffs"]) == (reader["uname"], reader["bpffs"])
    for clock in ("monotonic_ns", "boottime_ns", "realtime_ns"):
        gap = reader["clock"]["begin"][clock] - tools["clock"]["end"][clock]
        assert -1.1e9 < gap < 60e9, clock


def assert_same_programs(tools: Json, reader: Json, pinned: set[int]) -> None:
    """All that the CLI can tell of the pinned programs; others are left out."""
    # One program lists its maps in the kernel's order, the CLI in any.
    untold = ("xlated_len", "jited_len", "load_time_ns", "map_ids")
    wanted = [row for row in reader["programs"] if row["id"] in pinned]
    assert {row["id"] for row in tools["programs"]} == pinned
    assert own(tools["programs"], *untold) == own(wanted, *untold)
    maps = {row["id"]: sorted(row["map_ids"]) for row in wanted}
    assert {row["id"]: sorted(row["map_ids"]) for row in tools["programs"]} == maps


def assert_same_maps(tools: Json, reader: Json, unread: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    found, wanted = contents(tools), contents(reader)
    assert found.keys() == wanted.keys() - unread
    for number, row in found.items():
        other = wanted[number]
        if row["contents"]["first_slot_only"]:
            assert {key for key, _ in raw_entries(row)} == {key for key, _ in raw_entries(other)}
            continue
        assert dict(raw_entries(row)) == dict(raw_entries(other)), f"map {number}"
        # IPv6 links send multicast reports of their own accord, which come and go in conntrack.
        keys = ("count", "complete", "filtered", "reason", *(("total",) if row["type"] != LRU_HASH else ()))
        assert {key: row["contents"][key] for key in keys} == {key: other["contents"][key] for key in keys}
    sizes = ("id", "type", "key_size", "value_size", "max_entries")
    mine = {row["id"]: tuple(row[size] for size in sizes) for row in tools["maps"]}
    assert {number: mine[number] for number in wanted} == {
        row["id"]: tuple(row[size] for size in sizes) for row in reader["maps"] if row["id"] in wanted
    }


# From 1.0.7 on the CLI tells whole values and the ids of programs.
TELLING = [name for name, generation in GENERATIONS.items() if generation.npa_gen >= 10007]


@pytest.mark.parametrize("generation", TELLING)
def test_the_tools_say_what_the_reader_says(generation: str) -> None:
    with place(generation) as there:
        request = there.request()
        pod = DebugPod(there.node)
        tools, reader = there.read_twice(pod, request)
    assert len(pod.execs) == 3
    assert errors(tools).keys() <= {"tcx"} and reader["errors"] == []
    assert_same_network(tools, reader)
    assert {f["name"] for f in tools["filters"]} == {"handle_ingress", "handle_egress"}
    pinned = {pin["id"] for pin in reader["pins"] if pin["kind"] == "prog"}
    assert_same_programs(tools, reader, pinned)
    assert own(tools["pins"]) == own(reader["pins"])
    assert_same_maps(tools, reader)
    flows = next(row for row in contents(tools).values() if row["type"] == 9)
    assert flows["contents"]["count"] > 0, "there was a flow to tell of"


@pytest.mark.parametrize("generation", ["1.1.6", "1.4.2"])
def test_everything_on_a_node(generation: str) -> None:
    with place(generation) as there:
        request = there.request(pods=[], all=True, conntrack="all")
        tools, reader = there.read_twice(DebugPod(there.node), request)
    assert_same_network(tools, reader)
    assert_same_maps(tools, reader)
    assert own(tools["pins"]) == own(reader["pins"])


@pytest.mark.parametrize("generation", ["1.0.4", "1.0.5"])
def test_early_agents_tell_less_and_it_is_said(generation: str) -> None:
    with place(generation) as there:
        request = there.request()
        tools, reader = there.read_twice(DebugPod(there.node), request)
    assert_same_network(tools, reader)
    flows = next(row["id"] for row in reader["maps"] if row["id"] in contents(reader) and row["type"] == 9)
    assert_same_maps(tools, reader, {flows} if generation == "1.0.4" else set())
    assert ("one octet" in errors(tools).get(f"map {flows}", "")) is (generation == "1.0.4")
    rules = [row["contents"] for row in contents(tools).values() if row["type"] == 11]
    assert rules and all((c["complete"], c["reason"]) == (False, texts.FIRST_SLOT_ONLY) for c in rules)
    assert tools["programs"] == []
    assert {f"program {f['program_id']}" for f in tools["filters"]} <= errors(tools).keys()
    pins, wanted = by_path(tools), by_path(reader)
    assert pins.keys() == wanted.keys()
    assert {p: row["id"] for p, row in pins.items() if row["kind"] == "map"} == {
        p: row["id"] for p, row in wanted.items() if row["kind"] == "map"
    }


@pytest.mark.parametrize("generation", ["1.1.6", "1.2.7", "1.4.2"])
def test_ipv6(generation: str) -> None:
    """The IPv6 build shows rules and conntrack only: pod states and cluster policies are not read, and it says so."""
    with place(generation, 6) as there:
        request = there.request()
        tools, reader = there.read_twice(DebugPod(there.node), request)
    assert_same_network(tools, reader)
    unseen = {n for n, row in contents(reader).items() if row["type"] == 1 or row["value_size"] == 384}
    assert_same_maps(tools, reader, unseen)
    assert {f"map {number}" for number in unseen} == errors(tools).keys() - {"tcx"}
    assert bool(unseen) is (generation != "1.1.6")


def test_a_filter_that_runs_a_program_without_a_pin() -> None:
    """The CLI cannot see it: the document must not show the pinned one in its place."""
    with place("1.3.7") as there:
        there.agent.faults.add("stale_program")
        there.agent.restart()
        request = there.request()
        tools, reader = there.read_twice(DebugPod(there.node), request)
    attached = {f["program_id"] for f in tools["filters"]}
    assert attached == {f["program_id"] for f in reader["filters"]} and len(attached) == 4
    assert attached.isdisjoint({program["id"] for program in tools["programs"]})
    for number in attached:
        assert "sees pins only" in errors(tools)[f"program {number}"]
    assert {p: row["id"] for p, row in by_path(tools).items()} == {p: row["id"] for p, row in by_path(reader).items()}


FOREIGN = (
    "ingress protocol ip pref 2 u32 match ip src 1.2.3.4/32 flowid 1:1",
    "ingress protocol ipv6 pref 3 chain 5 u32 match u8 6 0xff at 6 flowid 1:2",
    "ingress protocol 0x88a8 pref 9 bpf bytecode '1,6 0 0 0,' flowid 1:1",
    "egress protocol 0x1234 pref 4 handle 0x77 bpf bytecode '1,6 0 0 0,' flowid 1:1",
)


def test_filters_of_others() -> None:
    """What this machine's tc makes of them is what its kernel has."""
    with place("1.4.1") as there:
        veth = veth_names(NAMESPACE, "web-1")[0]
        for words in FOREIGN:
            there.node.run(["sh", "-c", f"tc filter add dev {veth} {words}"], check=True)
        # Not clsact: its one hook is called as clsact's first.
        there.node.run(["tc", "qdisc", "add", "dev", "eth0", "ingress"], check=True)
        tools, reader = there.read_twice(DebugPod(there.node), there.request())
    assert_same_network(tools, reader)
    assert [f["kind"] for f in tools["filters"]].count("u32") >= 4
    assert [f["program_id"] for f in tools["filters"] if f["kind"] == "bpf"].count(None) == 2


def test_eks_auto_mode_has_the_cli_elsewhere() -> None:
    """A symbolic link of the node, which points nowhere as seen from the container."""
    with place("1.4.1") as there:
        na_cli.install(there.node, 10401, path="/run/node-only/aws-eks-na-cli")
        there.node.run(["rm", na_cli.PATH], check=True)
        link = "/run/aws-network-policy-agent/aws-eks-na-cli"
        there.node.run(["mkdir", "-p", str(Path(link).parent)], check=True)
        there.node.run(["ln", "-s", "/run/node-only/aws-eks-na-cli", link], check=True)
        pod = DebugPod(there.node)
        tools, reader = there.read_twice(pod, there.request())
    assert f"chroot /host {link} ebpf maps" in pod.shown
    assert_same_maps(tools, reader)


def test_a_node_where_nothing_was_ever_loaded(fabric: Fabric) -> None:
    node = Node("node-a", "10.0.0.10", fabric)
    na_cli.install(node, 10401)
    tools = DebugPod(node).with_tools({"format": 1, "pods": [], "all": True, "conntrack": "all"})
    assert tools["pins"] == tools["programs"] == tools["filters"] == []
    assert any("loaded nothing" in note for note in tools["notes"])


def test_the_agents_container() -> None:
    with place("1.4.2") as there:
        request = there.request()
        v4, v6 = na_cli.compile_cli(10402), na_cli.compile_cli(10402, ipv6=True)
        base = image("busybox")
        rootfs = Image({**base.binds, "/aws-eks-na-cli": str(v4), "/aws-eks-na-cli-v6": str(v6)}, base.links, base.env)
        pod = DebugPod(there.node, rootfs, (("/sys/fs/bpf", "/sys/fs/bpf", False),))
        agent = read_node_through_agent(pod, request, pod.shown.append)
        reader = transport.read_node(DebugPod(there.node, "python3.11"), request)
    assert pod.shown == [" ".join(argv) for argv in pod.execs] and not any("sh" in argv for argv in pod.execs)
    assert errors(agent).keys() == {"links", "addresses", "routes", "qdiscs", "filters", "tcx"}
    untold = ("tag", "jited", "xlated_len", "jited_len", "load_time_ns", "map_ids")
    pinned = {pin["id"] for pin in reader["pins"] if pin["kind"] == "prog"}
    assert own(agent["programs"], *untold) == own([p for p in reader["programs"] if p["id"] in pinned], *untold)
    assert own(agent["pins"]) == own(reader["pins"])
    assert_same_maps(agent, reader)


# ---- where tools are missing


def image_with(directory: Path, **programs: str) -> Image:
    """busybox, and scripts in its /bin."""
    base = image("busybox")
    binds = dict(base.binds)
    for name, text in programs.items():
        script = directory / name
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
        binds[f"/bin/{name}"] = str(script)
    return Image(binds, base.links, base.env)


@pytest.fixture
def without_tc() -> Iterator[Place]:
    """A node whose tc cannot be run: in its mounts, not on the machine. A copy of it is /run/kept-tc."""
    with place("1.4.1") as there:
        tc = Path(shutil.which("tc") or "").resolve()
        there.node.run(["cp", str(tc), "/run/kept-tc"], check=True)
        there.node.run(["mount", "--bind", "/dev/null", str(tc)], check=True)
        yield there


def test_a_missing_tc_is_installed_in_the_container(without_tc: Place, tmp_path: Path) -> None:
    dnf = (
        'printf "%s\\n" "$*" >>/tmp/dnf.log\n'
        "printf '#!/bin/sh\\nexec chroot /host /run/kept-tc \"$@\"\\n' >/bin/tc && chmod 755 /bin/tc"
    )
    pod = DebugPod(without_tc.node, image_with(tmp_path, dnf=dnf))
    document = pod.with_tools(without_tc.request())
    log = Path(f"{pod.container.root}/tmp/dnf.log").read_text()
    assert log == "install -y iproute-tc\n"
    assert "dnf install -y iproute-tc" in pod.shown and not any("chroot /host dnf" in shown for shown in pod.shown)
    assert len(document["filters"]) == 4
    assert any(shown.startswith("tc filter show dev ") for shown in pod.shown)


def test_a_tc_that_cannot_be_installed_is_an_error_and_the_rest_goes_on(without_tc: Place, tmp_path: Path) -> None:
    dnf = 'printf "%s\\n" "$*" >>/tmp/dnf.log\necho "Error: Failed to download metadata" >&2\nexit 1'
    pod = DebugPod(without_tc.node, image_with(tmp_path, dnf=dnf))
    document = pod.with_tools(without_tc.request())
    assert document["filters"] is document["qdiscs"] is None
    assert "Failed to download metadata" in errors(document)["filters"]
    assert len(document["programs"]) == 4 and contents(document), "what is pinned is known"


def test_the_host_is_written_to_only_where_that_is_asked_for(without_tc: Place, tmp_path: Path) -> None:
    log = Path(f"{without_tc.node.root}/run/dnf.log")
    stub = Path(f"{without_tc.node.root}/run/bin")
    stub.mkdir()
    (stub / "dnf").write_text('#!/bin/sh\nprintf "%s\\n" "$*" >>/run/dnf.log\n')
    (stub / "dnf").chmod(0o755)
    # In the place of the host's dnf: what runs below chroot /host is looked up through PATH.
    base = image("busybox")
    pod = DebugPod(without_tc.node, Image(base.binds, base.links, {**base.env, "PATH": "/bin:/run/bin"}))
    pod.with_tools(without_tc.request())
    assert not log.exists()
    pod.with_tools(without_tc.request(), ToolOptions(install_on_host=True))
    assert log.read_text() == "install -y iproute-tc\n"
    assert pod.shown.count("chroot /host dnf install -y iproute-tc") == 1


def test_busybox_alone_without_ip_on_the_node() -> None:
    """Then links come from sysfs, routes are not known, and the filters are read all the same."""
    with place("1.4.1") as there:
        ip = Path(shutil.which("ip") or "").resolve()
        there.node.run(["mount", "--bind", "/dev/null", str(ip)], check=True)
        request = there.request()
        tools, reader = there.read_twice(DebugPod(there.node), request)
    untold = ("kind", "link_netnsid", "xdp")
    assert own(tools["links"], *untold) == own(reader["links"], *untold)
    assert own(tools["filters"]) == own(reader["filters"])
    assert tools["routes"] is None and "`ip`" in errors(tools)["routes"]
    assert_same_maps(tools, reader)
