"""Large clusters: what one question and all pods cost, against reading the same lists, and how it grows.

`python bench/scale.py [PODS/POLICIES ...]`, 1000/50 at least. Each thing measured is a process of its own, so that its
peak memory is its own, and it reads the lists itself, so that what it costs beyond them is a ratio within one process.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import cluster
from bench.timing import ROOT
from kubectl_netpol.diagnose.expected import expected_maps
from kubectl_netpol.diagnose.explain import explain
from kubectl_netpol.diagnose.plan import Question, make_plan
from kubectl_netpol.model.flow import Direction, Flow
from kubectl_netpol.model.snapshot import Snapshot
from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.policy import endpoints, resolution, tiers
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.world import World, container_ports, name_of, namespace_of, pod_ip, ref
from kubectl_netpol.start import collect_rarely

Json = dict[str, Any]
Counts = dict[str, int]

SIZES = ("10000/500", "20000/1000", "50000/2500", "100000/5000")
OUTSIDE = IPv4Address("203.0.113.9")
TCP, UDP = 6, 17


# ---- what is measured: each takes the lists, and says what it counted


def one_flow(snapshot: Snapshot) -> Counts:
    """`explain POD --from POD --port`, two neighbours of one namespace."""
    pod, other = neighbours(snapshot)
    return ask(snapshot, Question(name_of(pod), source=name_of(other), port="8080"), namespace_of(pod))


def denied_flow(snapshot: Snapshot) -> Counts:
    """The same from a pod of another namespace, which nothing allows: near misses are looked for."""
    pod, _ = neighbours(snapshot)
    other = next(pod for pod in snapshot.items("pods") if namespace_of(pod) == "team-3")
    return ask(snapshot, Question(name_of(pod), source=ref(other), port="9999"), namespace_of(pod))


def widest_flow(snapshot: Snapshot) -> Counts:
    """The same from a pod with a policy that means every pod."""
    pod, _ = neighbours(snapshot)
    return ask(snapshot, Question(name_of(pod), source=ref(scraper(snapshot)), port="9102"), namespace_of(pod))


def one_pod(snapshot: Snapshot) -> Counts:
    """`explain POD`: both directions, row by row."""
    pod, _ = neighbours(snapshot)
    return ask(snapshot, Question(name_of(pod)), namespace_of(pod))


def widest_pod(snapshot: Snapshot) -> Counts:
    """The same of a pod with a policy that means every pod: a row for each."""
    return ask(snapshot, Question(name_of(scraper(snapshot))), "monitoring")


def every_pod(snapshot: Snapshot) -> Counts:
    """Of every pod: INTENT and ENDPOINTS of three flows each way, and the maps that it should have."""
    world, found = World(snapshot), {"flows": 0, "differ": 0, "map entries": 0}
    fixed = Fixed.of(snapshot)
    previous = snapshot.items("pods")[-1]
    for pod in snapshot.items("pods"):
        for ends in fixed.flows(pod, previous):
            verdicts = tiers.evaluate(ends, world), endpoints.evaluate(ends, world)
            assert Decision.UNKNOWN not in {one.decision for one in verdicts}
            found["flows"] += 1
            found["differ"] += verdicts[0].decision is not verdicts[1].decision
        for direction in Direction:
            maps = expected_maps(pod, direction, world)
            found["map entries"] += len(maps.rules) + len(maps.tiers)
        previous = pod
    return found


def every_policy(snapshot: Snapshot) -> Counts:
    """Of every policy: its PolicyEndpoints against what the controller should have made."""
    world = World(snapshot)
    policies = [*snapshot.items("networkpolicies"), *world.cluster_policies]
    return {"drifts": sum(len(resolution.compare(policy, world).drifts) for policy in policies)}


def the_lists(_: Snapshot) -> Counts:
    """Nothing: the lists, read and parsed."""
    return {}


JOBS: dict[str, Callable[[Snapshot], Counts]] = {
    "the lists alone": the_lists,
    "one flow": one_flow,
    "one flow that is denied": denied_flow,
    "one flow, from a pod that every pod is a peer of": widest_flow,
    "one pod": one_pod,
    "one pod that every pod is a peer of": widest_pod,
    "every pod": every_pod,
    "every policy": every_policy,
}


def neighbours(snapshot: Snapshot) -> tuple[Json, Json]:
    """Two pods of a namespace of average size, of different applications, where everybody may talk to everybody."""
    pods = [pod for pod in snapshot.items("pods") if namespace_of(pod) == "team-10"]
    return pods[0], pods[-1]


def scraper(snapshot: Snapshot) -> Json:
    return next(pod for pod in snapshot.items("pods") if namespace_of(pod) == "monitoring")


def ask(snapshot: Snapshot, question: Question, namespace: str) -> Counts:
    """As the verb does it, without a node: plan and answer."""
    found = explain(make_plan(question, namespace, World(snapshot)), snapshot)
    if found.legs:
        return {"legs": len(found.legs), "near misses": sum(len(leg.near) for leg in found.legs)}
    return {"rows": sum(len(report.alignment.rows) for report in found.directions)}


@dataclass(frozen=True)
class Fixed:
    """The ends that flows of all pods share."""

    scraper: Json
    dns: Json

    @classmethod
    def of(cls, snapshot: Snapshot) -> Fixed:
        dns = next(pod for pod in snapshot.items("pods") if name_of(pod).startswith("coredns-"))
        return cls(scraper(snapshot), dns)

    def flows(self, pod: Json, other: Json) -> Iterator[Ends]:
        """From and to another pod, from what scrapes, to DNS, from and to the outside."""
        own, peer, monitor, dns = (pod_ip(one) for one in (pod, other, self.scraper, self.dns))
        assert own and peer and monitor and dns
        port = next((int(entry["containerPort"]) for entry in container_ports(pod)), 8080)
        yield Ends(pod, Direction.INGRESS, Flow(peer, own, TCP, port), other)
        yield Ends(pod, Direction.INGRESS, Flow(monitor, own, TCP, 9102), self.scraper)
        yield Ends(pod, Direction.INGRESS, Flow(OUTSIDE, own, TCP, port))
        yield Ends(pod, Direction.EGRESS, Flow(own, peer, TCP, 8080), other)
        yield Ends(pod, Direction.EGRESS, Flow(own, dns, UDP, 53), self.dns)
        yield Ends(pod, Direction.EGRESS, Flow(own, OUTSIDE, TCP, 443))


# ---- one process


@dataclass(frozen=True)
class Cost:
    """Of one process: cpu seconds and peak KiB of the lists alone, and of what came after."""

    lists: float
    own: float
    peak_lists: int
    peak: int
    counted: Counts

    @property
    def ratio(self) -> float:
        return self.own / self.lists


def child(job: str, directory: str) -> None:
    """What the measured process does; the last line of its output is for ``measure``."""
    collect_rarely()
    begin = time.process_time()
    snapshot = cluster.snapshot_of(cluster.read(Path(directory)))
    middle, peak_lists = time.process_time(), _peak()
    counted = JOBS[job](snapshot)
    cost = middle - begin, time.process_time() - middle, peak_lists, _peak(), counted
    print(json.dumps(cost))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def generate(pods: str, policies: str, directory: str) -> None:
    """A process of its own too: a child's peak begins with what its parent had."""
    lists = cluster.build(int(pods), int(policies))
    cluster.write(lists, Path(directory))
    print(json.dumps(cluster.counts(lists)))


def _process(*arguments: str) -> Any:
    argv = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


# ---- all of them


def measure(size: str) -> tuple[Counts, dict[str, Cost]]:
    """One cluster, and what each job costs on it."""
    pods, policies = size.split("/")
    with tempfile.TemporaryDirectory() as directory:
        counted: Counts = _process("generate", pods, policies, directory)
        return counted, {job: Cost(*_process("child", job, directory)) for job in JOBS}


def table(job: str, sizes: Mapping[str, Counts], costs: Mapping[str, Cost]) -> None:
    """One job over all sizes. Linear growth is where "per pod and entry" stays what it was."""
    print(f"  {job}: {JOBS[job].__doc__}")
    print("                   cpu s  x the lists  peak MiB  over them  us per pod and entry  x the size before")
    before = 0.0
    for size, cost in costs.items():
        work = sizes[size]["pods"] + sizes[size]["entries"]
        each = (cost.lists if JOBS[job] is the_lists else cost.own) / work
        grown = f"{each / before:.2f}" if before else ""
        before = each
        over = (cost.peak - cost.peak_lists) / 1024
        print(
            f"    {size:12} {each * work:7.2f} {cost.ratio:12.2f} {cost.peak / 1024:9.0f} {over:10.0f} "
            f"{each * 1e6:21.2f} {grown:>18}   "
            + ", ".join(f"{number} {what}" for what, number in cost.counted.items()),
            flush=True,
        )


def main(sizes: Sequence[str] = SIZES) -> None:
    """Clusters of up to 100,000 pods and 5,000 policies: cpu time and peak memory of questions, and how they grow."""
    counted: dict[str, Counts] = {}
    costs: dict[str, dict[str, Cost]] = {job: {} for job in JOBS}
    for size in sizes:
        counted[size], found = measure(size)
        print(f"  {size}: {', '.join(f'{number} {what}' for what, number in counted[size].items())}", flush=True)
        for job, cost in found.items():
            costs[job][size] = cost
    for job in JOBS:
        table(job, counted, costs[job])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["child", job, directory]:
            child(job, directory)
        case ["generate", pods, policies, directory]:
            generate(pods, policies, directory)
        case sizes:
            main(sizes or SIZES)
