"""A snapshot of a whole node against the article's commands for each of its pods."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import decoder, lab, timing
from kubectl_netpol.diagnose import plan
from tests.lab import na_cli
from tests.lab.agent import Agent
from tests.lab.node import Node, host_veth_name

Json = dict[str, Any]

PODS, PEERS = 110, 40
"""Pods of a large node (its default limit), and the addresses that each one's policy lets in."""
NAMESPACE = "default"
ROUNDS = 5


@dataclass(frozen=True)
class Pod:
    name: str
    ip: str

    @property
    def as_object(self) -> Json:
        """The fields of the API object that the plugin looks at here."""
        return {
            "metadata": {"namespace": NAMESPACE, "name": self.name},
            "spec": {},
            "status": {"podIP": self.ip, "podIPs": [{"ip": self.ip}]},
        }


def pods() -> list[Pod]:
    """Each of a Deployment of its own, so that no two share an identifier."""
    return [Pod(f"app{n:03}-5d4f8c7b9-x2k4p", f"172.31.104.{n + 10}") for n in range(PODS)]


def endpoint(pod: Pod, peers: list[str]) -> Json:
    """The PolicyEndpoint of a policy that lets the peers in on one port, and out to three networks."""
    ports = [{"protocol": "TCP", "port": 8080}]
    return {
        "metadata": {"namespace": NAMESPACE, "name": f"{pod.name}-policy"},
        "spec": {
            "policyRef": {"namespace": NAMESPACE, "name": f"{pod.name}-policy"},
            "podIsolation": ["Ingress", "Egress"],
            "podSelectorEndpoints": [
                {"hostIP": lab.NODE_IP, "podIP": pod.ip, "name": pod.name, "namespace": NAMESPACE}
            ],
            "ingress": [{"cidr": address, "ports": ports} for address in peers],
            "egress": [{"cidr": cidr, "ports": ports} for cidr in ("10.0.0.0/8", "172.31.0.0/16", "192.168.0.0/16")],
        },
    }  # fmt: skip


def fill(node: Node) -> Agent:
    """All pods on the node, loaded, attached and with rules."""
    agent = Agent(node)
    for pod in pods():
        node.add_pod(NAMESPACE, pod.name, pod.ip)
        agent.pod_added(NAMESPACE, pod.name)
    peers = [f"172.31.100.{n}" for n in range(1, PEERS + 1)]
    agent.sync([endpoint(pod, peers) for pod in pods()])
    return agent


def article(agent: Agent) -> Iterator[str]:
    """The article's commands, pod by pod. Map ids are known here without a search: no loop can be faster."""
    for pod in pods():
        for hook in ("ingress", "egress"):
            yield f"tc filter show dev {host_veth_name(NAMESPACE, pod.name)} {hook}"
        identifier = agent.identifier(NAMESPACE, pod.name)
        yield f"{na_cli.PATH} ebpf loaded-ebpfdata | grep -A11 -F {shlex.quote(identifier)}"
        for direction, handle in agent.handles(NAMESPACE, pod.name).items():
            yield f"{na_cli.PATH} ebpf dump-maps {handle.map_ids[f'{direction}_map']}"


def with_bpftool(agent: Agent) -> Iterator[str]:
    """The same with bpftool, which goes to a pinned program directly and does not list all of them."""
    for pod in pods():
        for hook in ("ingress", "egress"):
            yield f"tc filter show dev {host_veth_name(NAMESPACE, pod.name)} {hook}"
        for direction, handle in agent.handles(NAMESPACE, pod.name).items():
            yield f"bpftool prog show pinned {shlex.quote(handle.program_pin)}"
            yield f"bpftool map dump id {handle.map_ids[f'{direction}_map']}"


def main() -> None:
    """One reading of a node with 110 pods and the views of all, against shell loops of the article's commands."""
    with lab.node() as (node, directory):
        agent = fill(node)
        na_cli.install(node, agent.generation.npa_gen)
        loops = [
            _loop(node, "tc, aws-eks-na-cli", directory / "article.sh", article(agent)),
            _loop(node, "tc, bpftool", directory / "bpftool.sh", with_bpftool(agent)),
        ]
        request = plan.reader_request([pod.as_object for pod in pods()], everything=True)
        named = [(NAMESPACE, pod.name, pod.ip) for pod in pods()]
        commands = [
            *loops,
            lab.reader(node, directory, "reader alone", request),
            lab.reader(node, directory, "reader, and all pods decoded", request, lambda a: decoder.all_pods(a, named)),
        ]
        print(f" {_loaded(node)} below globals/aws")
        timing.compare(commands, loops, ROUNDS)
        print("  looking again at all of it:", _look(node, request))
        print("  looking again at what one pod rests on:", _look(node, plan.reader_request([pods()[0].as_object])))


LOOK = """
import json, statistics, sys, time
from kubectl_netpol.node import reader

request = json.loads(sys.argv[1])
wanted = reader.Wanted(request, request["pods"], reader.requested_addresses(request["pods"], reader.Report()))
spent = {"reading": [], "look": []}
for _ in range(15):
    watch, begin = reader.Watch(), time.process_time()
    picture = reader.Picture(wanted, reader.find_bpffs())
    middle = time.process_time()
    assert not picture.changes(watch).texts
    spent["reading"].append(middle - begin)
    spent["look"].append(time.process_time() - middle)
    watch.close()
reading, look = (statistics.median(spent[name]) * 1000 for name in ("reading", "look"))
print(f"{look:.1f} ms of cpu after {reading:.1f} ms of reading")
"""


def _look(node: Node, request: Json) -> str:
    """What the look at the end of a reading takes, beside the reading itself: in a process, without its start."""
    argv = lab.inside(node, sys.executable, "-c", LOOK, json.dumps(request))
    return subprocess.run(argv, cwd=timing.ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _loop(node: Node, name: str, path: Path, lines: Iterable[str]) -> timing.Command:
    path.write_text("set -e\n" + "\n".join(lines) + "\n")
    return timing.command(name, *lab.inside(node, "sh", str(path)))


def _loaded(node: Node) -> str:
    """How many programs and maps are pinned on the node."""
    root = Path(f"{node.root}/sys/fs/bpf/globals/aws")
    counts = {kind: sum(1 for _ in (root / kind).iterdir()) for kind in ("programs", "maps")}
    return f"{counts['programs']} programs, {counts['maps']} maps"
