"""Random clusters in the lab, programmed by the product's own models and not by the lab's agent.

    INTENT -> policy.modelled (controller) -> diagnose.expected (agent) -> entries of real maps -> packets

The lab's agent loads, pins and attaches the programs; what the maps hold is the product's. Who no PolicyEndpoint
concerns keeps what the agent began with.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.diagnose import expected, plan
from kubectl_netpol.diagnose.expected import ExpectedMaps
from kubectl_netpol.kernel import encode, layouts
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import ClusterSlot, MapView, Slot
from kubectl_netpol.model.snapshot import Collection, Snapshot
from kubectl_netpol.node import transport
from kubectl_netpol.policy import modelled, selectors
from kubectl_netpol.policy.agent import Expected, ExpectedTier
from kubectl_netpol.policy.world import World, labels_of, name_of, namespace_of, on_host_network, ref
from tests.kernel import agreement
from tests.lab import bpfsys
from tests.lab.agent import GENERATIONS, Agent
from tests.lab.connections import Switchboard
from tests.lab.node import Fabric, Node, Sandbox, Services
from tests.lab.ringbuf import RingBuffer

Json = dict[str, Any]
Key = tuple[str, str]

TCP_PORTS = (80, 81, 87, 443, 8080, 8100)
UDP_PORTS = (53, 80)
"""What everybody is asked for: ports of rules, ends of ranges, of the 30 rules that do not all fit, and others."""
NETWORKS = {4: "172.31.96.0/20", 6: "2001:db8:42:1::/64"}
CANONICAL_FROM = 10402
"""Agents before keep one of several texts of a prefix (agent facts 5.3)."""


# ---- what the models say


class Model:
    """The product's own view of a cluster: the world with the PolicyEndpoints as the controller should make them."""

    def __init__(self, collections: Mapping[str, Sequence[Json]]) -> None:
        given = {kind: Collection(tuple(collections.get(kind, ()))) for kind in plan.KINDS}
        bare = World(Snapshot(given))
        namespaces = sorted({namespace_of(pod) for pod in bare.snapshot.items("pods")} | set(bare.namespaces))
        made = [e for space in namespaces for e in modelled.modelled(bare, space).snapshot.items("policyendpoints")]
        cluster = modelled.modelled(bare, "").snapshot.items("clusterpolicyendpoints")
        self.world = modelled.with_endpoints(bare.snapshot, made, cluster)
        self._maps: dict[tuple[Key, Direction], ExpectedMaps] = {}

    @classmethod
    def of(cls, world: World) -> Model:
        """Of a cluster whose PolicyEndpoints are there."""
        found = cls({})
        found.world = world
        return found

    def maps(self, pod: Json, direction: Direction) -> ExpectedMaps:
        key = (namespace_of(pod), name_of(pod)), direction
        if key not in self._maps:
            self._maps[key] = expected.expected_maps(pod, direction, self.world)
        return self._maps[key]

    def living(self) -> list[Json]:
        """The pods that are anywhere at all."""
        return [pod for pod in self.world.snapshot.items("pods") if pod["status"].get("phase") == "Running"]


def kept_slots(one: Expected, npa_gen: int, choose: random.Random) -> list[Slot]:
    """The slots of an entry as an agent of the generation might write them: in any order, and some by chance."""
    slots = frozenset(one.slots)
    if npa_gen < CANONICAL_FROM:
        slots = choose.choice([slots, *one.others])
    return choose.sample(sorted(slots), min(len(slots), layouts.SLOTS))


def kept_tier_slots(one: ExpectedTier, choose: random.Random) -> list[ClusterSlot]:
    """The same of an entry of cluster policies."""
    return choose.sample(one.slots, min(len(one.slots), layouts.SLOTS))


# ---- the lab


@dataclass(frozen=True)
class Place:
    """Somebody who opens connections and is asked for some: a pod, or a node for whoever has its address."""

    text: str
    sandbox: Sandbox
    address: str
    pod: Json | None
    """None for those with a node's address: no program judges them."""
    question: str
    """As the product's user names it."""


class Scene:
    """A cluster in the lab: nodes, pods with programs of one generation, Services; maps by the models."""

    def __init__(self, model: Model, generation: str, family: int, choose: random.Random) -> None:
        self.model, self.family = model, family
        self.has_cluster_policy = GENERATIONS[generation].has_cluster_policy
        self._stack = contextlib.ExitStack()
        try:
            self.fabric = self._stack.enter_context(Fabric(NETWORKS[family]))
            self.nodes = {name_of(n): self._node(n) for n in model.world.snapshot.items("nodes")}
            self.agents = {name: Agent(node, generation, conntrack_size=1 << 15) for name, node in self.nodes.items()}
            for pod in model.living():
                self._add(pod)
            self.backends = self._services()
            self._program(choose)
            rings = [self._ring(agent) for agent in self.agents.values()]
            listeners = {place.address: place.sandbox for place in self.places}
            tcp, udp = self._ports()
            self.switchboard = self._stack.enter_context(Switchboard(listeners, tcp, udp, rings, family))
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    # ---- nodes and pods

    def _node(self, node: Json) -> Node:
        [address] = node["status"]["addresses"]
        return Node(name_of(node), address["address"], self.fabric)

    def _add(self, pod: Json) -> None:
        node, agent = self.nodes[pod["spec"]["nodeName"]], self.agents[pod["spec"]["nodeName"]]
        host = on_host_network(pod)
        node.add_pod(namespace_of(pod), name_of(pod), None if host else pod["status"]["podIP"], host_network=host)
        agent.pod_added(namespace_of(pod), name_of(pod))

    @cached_property
    def places(self) -> list[Place]:
        """Pods, and each node once, by the name of a pod on the host network where there is one."""
        found: dict[str, Place] = {}
        for pod in self.model.living():
            sandbox = self.nodes[pod["spec"]["nodeName"]].pods[namespace_of(pod), name_of(pod)]
            own = None if on_host_network(pod) else pod
            text = ref(pod) if own else f"{ref(pod)} (host network)"
            found.setdefault(sandbox.ip, Place(text, sandbox, sandbox.ip, own, f"{namespace_of(pod)}/{name_of(pod)}"))
        for name, node in self.nodes.items():
            found.setdefault(node.ip, Place(name, node, node.ip, None, f"node/{name}"))
        return list(found.values())

    def _ring(self, agent: Agent) -> RingBuffer:
        with agent.open_pin(agent.map_pin("", "policy_events")) as fd:
            return self._stack.enter_context(RingBuffer(fd))

    # ---- Services

    def _services(self) -> Services:
        """Backends by ClusterIP and port, as kube-proxy has them."""
        found: dict[str, dict[tuple[str, int], list[tuple[str, int]]]] = {}
        for service in self.model.world.snapshot.items("services"):
            address = service["spec"].get("clusterIP")
            if address in (None, "", "None") or not service["spec"].get("selector"):
                continue
            found[address] = {
                (entry.get("protocol", "TCP"), entry["port"]): list(self._behind(service, entry))
                for entry in service["spec"]["ports"]
            }
        # The lab refuses what has no backend, and refused is not dropped: such ports are not asked for.
        chosen = {a: {port: ends for port, ends in ports.items() if ends} for a, ports in found.items()}
        for node in self.nodes.values():
            node.set_services(chosen)
        return chosen

    def _behind(self, service: Json, entry: Json) -> Iterator[tuple[str, int]]:
        target, protocol = entry.get("targetPort", entry["port"]), entry.get("protocol", "TCP")
        for pod in self.model.living():
            if namespace_of(pod) != namespace_of(service):
                continue
            if not selectors.matches({"matchLabels": service["spec"]["selector"]}, labels_of(pod)):
                continue
            declared = [p for c in pod["spec"]["containers"] for p in c.get("ports") or ()]
            named = [p["containerPort"] for p in declared if (p.get("name"), p["protocol"]) == (target, protocol)]
            ports = [target] if isinstance(target, int) else named[:1]
            yield from ((pod["status"]["podIP"], port) for port in ports)

    def _ports(self) -> tuple[list[int], list[int]]:
        """All ports that somebody is asked for, the targets of Services among them."""
        targets = [
            (protocol, port)
            for ports in self.backends.values()
            for (protocol, _), ends in ports.items()
            for _, port in ends
        ]
        tcp, udp = ({port for protocol, port in targets if protocol == word} for word in ("TCP", "UDP"))
        return sorted(tcp | set(TCP_PORTS)), sorted(udp | set(UDP_PORTS))

    # ---- programming

    def _program(self, choose: random.Random) -> None:
        """Once for each pod identifier of a node, as its agent does it."""
        done = set()
        for pod in self.model.living():
            agent = self.agents[pod["spec"]["nodeName"]]
            identifier = agent.identifier(namespace_of(pod), name_of(pod))
            if on_host_network(pod) or (agent.node.name, identifier) in done:
                continue
            done.add((agent.node.name, identifier))
            for direction in Direction:
                maps = self.model.maps(pod, direction)
                if maps.listed:
                    self._write(agent, identifier, maps, choose)

    def _write(self, agent: Agent, identifier: str, maps: ExpectedMaps, choose: random.Random) -> None:
        npa_gen, direction = agent.generation.npa_gen, maps.direction
        size = layouts.SLOTS * layouts.NP_SLOT.size
        rules = {
            encode.lpm_key(prefix): encode.np_value(kept_slots(one, npa_gen, choose), size)
            for prefix, one in maps.rules.items()
        }
        self._replace(agent, agent.map_pin(identifier, f"{direction}_map"), rules)
        if self.has_cluster_policy:
            size = layouts.SLOTS * layouts.CP_SLOT.size
            cluster = {
                encode.lpm_key(prefix): encode.cp_value(kept_tier_slots(one, choose), size)
                for prefix, one in maps.tiers.items()
            }
            self._replace(agent, agent.map_pin(identifier, f"cp_{direction}_map"), cluster)
        states = {key: layouts.DEFAULT_ALLOW if state is None else state for key, state in maps.states.items()}
        known = [(key, state) for key, state in states.items() if key < agent.generation.pod_state_keys]
        entries = dict(zip(*_pairs(known), strict=True))
        self._replace(agent, agent.map_pin(identifier, f"{direction}_pod_state_map"), entries)

    @staticmethod
    def _replace(agent: Agent, pin: str, entries: Mapping[bytes, bytes]) -> None:
        with agent.open_pin(pin) as fd:
            bpfsys.map_clear(fd)
            for key, value in entries.items():
                bpfsys.map_update(fd, key, value)

    def forget(self) -> None:
        """Empty all conntrack tables."""
        for agent in self.agents.values():
            with agent.open_pin(agent.map_pin("", "aws_conntrack_map")) as fd:
                bpfsys.map_clear(fd)

    def views(self, pod: Json, direction: Direction) -> dict[str, MapView]:
        """The maps of a pod's program, read from the kernel and decoded by the product."""
        agent = self.agents[pod["spec"]["nodeName"]]
        names = [f"{direction}_map", "aws_conntrack_map", f"{direction}_pod_state_map"]
        names += [f"cp_{direction}_map"] if self.has_cluster_policy else []
        with contextlib.ExitStack() as stack:
            where = namespace_of(pod), name_of(pod)
            return agreement.views([stack.enter_context(agent.open_map(*where, name)) for name in names])

    def document(self, name: str) -> Json:
        """What the product's reader says of a node."""
        pods = [p for p in self.model.living() if p["spec"]["nodeName"] == name and not on_host_network(p)]
        return transport.read_node(_Inside(self.nodes[name]), plan.reader_request(pods))


def _pairs(states: Sequence[tuple[int, int]]) -> tuple[list[bytes], list[bytes]]:
    keys, values = encode.pod_states(states)
    size = layouts.POD_STATE_KEY.size
    return [keys[n : n + size] for n in range(0, len(keys), size)], [bytes([value]) for value in values]


@dataclass(frozen=True)
class _Inside:
    """The node itself in the place of a debug pod."""

    node: Node
    namespace: str = "kube-system"

    @property
    def name(self) -> str:
        return self.node.name

    def exec(self, argv: list[str], stdin: bytes = b"") -> ExecResult:
        pipe = subprocess.PIPE
        with self.node.popen([sys.executable, *argv[1:]], stdin=pipe, stdout=pipe, stderr=pipe) as process:
            out, err = process.communicate(stdin)
        return ExecResult(out, err, process.returncode)
