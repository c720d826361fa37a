"""Random clusters in the lab, programmed by the product's own models, and their truth tables.

    INTENT -> policy.modelled (controller) -> diagnose.expected (agent) -> entries of real maps -> packets

Everything to the left of the packets is the product's, so that a table of predictions and a table of what connections
met can only be equal where the models of controller and agent, the bytes of the entries and the model of the datapath
are right together. What the models say of the maps' contents is compared with the lab's own agent elsewhere.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from typing import Any

from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.diagnose import deviations, expected, layers, plan
from kubectl_netpol.diagnose.expected import ExpectedMaps
from kubectl_netpol.kernel import encode, layouts
from kubectl_netpol.model.flow import Direction, Flow
from kubectl_netpol.model.kernel import MapView
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.node import transport
from kubectl_netpol.policy import endpoints, modelled, selectors, tiers
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.world import World, labels_of, name_of, namespace_of, on_host_network, ref
from tests.kernel import agreement
from tests.lab import bpfsys
from tests.lab.agent import Agent
from tests.lab.connections import ICMP, ICMPV6, TCP, UDP, Attempt, Outcome, Switchboard
from tests.lab.node import Fabric, Node, Sandbox, Services
from tests.lab.ringbuf import RingBuffer

Json = dict[str, Any]
Key = tuple[str, str]

TCP_PORTS = (80, 87, 443, 8050, 8080)
UDP_PORTS = (53, 80)
"""What everybody is asked for: ports of rules, inside of ranges, of the 30 rules that do not all fit, and others."""
NETWORKS = {4: "172.31.96.0/20", 6: "2001:db8:42:1::/64"}
CANONICAL_FROM = 10402
"""Agents before keep one of several texts of a prefix (agent facts 5.3)."""
WORDS = {TCP: "TCP", UDP: "UDP", ICMP: "ICMP", ICMPV6: "ICMPv6"}


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

    def maps(self, pod: Json, direction: Direction) -> ExpectedMaps:
        key = (namespace_of(pod), name_of(pod)), direction
        if key not in self._maps:
            self._maps[key] = expected.expected_maps(pod, direction, self.world)
        return self._maps[key]

    def living(self) -> list[Json]:
        """The pods that are anywhere at all."""
        return [pod for pod in self.world.snapshot.items("pods") if pod["status"].get("phase") == "Running"]


def kept_slots(one: Any, npa_gen: int, choose: random.Random) -> list[tuple[int, ...]]:
    """The slots of an entry as an agent of the generation might write them: in any order, and some by chance."""
    slots = list(one.slots)
    others = getattr(one, "others", ())
    if npa_gen < CANONICAL_FROM and others:
        slots = list(choose.choice([slots, *others]))
    return choose.sample(slots, min(len(slots), layouts.SLOTS))


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
        self.model, self.generation, self.family = model, generation, family
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
        rules = {
            encode.lpm_key(prefix): encode.np_value(kept_slots(one, npa_gen, choose), layouts.NP_SLOT.size * 24)
            for prefix, one in maps.rules.items()
        }
        self._replace(agent, agent.map_pin(identifier, f"{direction}_map"), rules)
        if agent.generation.has_cluster_policy:
            cluster = {
                encode.lpm_key(prefix): encode.cp_value(kept_slots(one, npa_gen, choose), layouts.CP_SLOT.size * 24)
                for prefix, one in maps.tiers.items()
            }
            self._replace(agent, agent.map_pin(identifier, f"cp_{direction}_map"), cluster)
        states = {key: layouts.DEFAULT_ALLOW if state is None else state for key, state in maps.states.items()}
        known = [(key, state) for key, state in states.items() if key < agent.generation.pod_state_keys]
        entries = dict(zip(*(list(part) for part in _pairs(known)), strict=True))
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
        names += [f"cp_{direction}_map"] if agent.generation.has_cluster_policy else []
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


# ---- cells


@dataclass(frozen=True)
class Leg:
    """One judged side of a cell."""

    ends: Ends
    maps: ExpectedMaps
    backends: tuple[Ends, ...] = ()
    """Of egress to a ClusterIP: where it may end."""

    @property
    def direction(self) -> Direction:
        return self.ends.direction


@dataclass
class Cell:
    """One place of the table: who asks whom for what, and what became of it."""

    source: Place
    column: str
    """The destination: a place's name, or a Service's."""
    address: str
    protocol: int
    port: int
    question: str
    destination: Place | None
    """None: a Service."""
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def what(self) -> str:
        word = WORDS[self.protocol]
        return f"{self.port}/{word}" if self.protocol in (TCP, UDP) else word

    @property
    def text(self) -> str:
        return f"{self.source.text} -> {self.column} {self.what}"

    @property
    def attempt(self) -> Attempt:
        return Attempt(self.source.sandbox, self.source.address, self.address, self.protocol, self.port)

    @property
    def met(self) -> str:
        """"pass", or where it was dropped: "egress" | "ingress"; anything else is odd."""
        if self.outcome.refused:
            return self.outcome.refused
        if self.outcome.passed:
            return "passed though denied" if self.outcome.denials else "pass"
        first = self.outcome.denials[0]
        asked = first.source == self.source.address or not first.egress
        return ("egress" if first.egress else "ingress") if asked else "reply denied"

    @property
    def reached(self) -> str:
        """The address that it was for in the end; empty where nobody can know."""
        if self.destination is not None:
            return self.address
        ingress = [r.destination for r in self.outcome.denials if not r.egress]
        return self.outcome.answered_by or next(iter(ingress), "")


class Table:
    """All cells of one scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.model = scene, scene.model
        self.cells = [*self._between_places(), *self._to_services()]
        self._views: dict[tuple[str, Direction], dict[str, MapView]] = {}

    def _between_places(self) -> Iterator[Cell]:
        echo = ICMP if self.scene.family == 4 else ICMPV6
        asked = [(TCP, p) for p in TCP_PORTS] + [(UDP, p) for p in UDP_PORTS] + [(echo, 0)]
        for source in self.scene.places:
            for other in self.scene.places:
                if source is not other and not (source.pod is None and other.pod is None):
                    for protocol, port in asked:
                        yield Cell(source, other.text, other.address, protocol, port, other.question, other)

    def _to_services(self) -> Iterator[Cell]:
        services = {s["spec"].get("clusterIP"): s for s in self.model.world.snapshot.items("services")}
        for address, ports in self.scene.backends.items():
            service = services[address]
            for protocol, port in ports:
                number, question = (TCP if protocol == "TCP" else UDP), f"{namespace_of(service)}/svc/{name_of(service)}"
                for source in self.scene.places:
                    yield Cell(source, f"service {ref(service)}", address, number, port, question, None)

    def fill(self) -> None:
        """Connect. An echo's answer looks like one that is asked the other way round: these go one way at a time."""
        order = {place.address: number for number, place in enumerate(self.scene.places)}
        with_ports = [cell for cell in self.cells if cell.protocol in (TCP, UDP)]
        echoes = [cell for cell in self.cells if cell.protocol not in (TCP, UDP)]
        up = [cell for cell in echoes if order[cell.source.address] < order[cell.address]]
        for some in (with_ports, up, [cell for cell in echoes if cell not in up]):
            self.scene.forget()
            outcomes = self.scene.switchboard.run([cell.attempt for cell in some])
            for cell, outcome in zip(some, outcomes, strict=True):
                cell.outcome = outcome

    # ---- the legs of a cell

    def legs(self, cell: Cell) -> list[Leg]:
        """As far as it is known: behind a ClusterIP only where the cell got to somebody."""
        found = []
        by_address = {place.address: place for place in self.scene.places}
        reached = self._behind(cell)
        if cell.source.pod is not None:
            flow = self._flow(cell.source.address, cell.address, cell.protocol, cell.port)
            peer = cell.destination.pod if cell.destination else None
            behind = tuple(
                Ends(
                    cell.source.pod, Direction.EGRESS,
                    self._flow(cell.source.address, address, cell.protocol, port), by_address[address].pod,
                )
                for address, port in reached
            )  # fmt: skip
            ends = Ends(cell.source.pod, Direction.EGRESS, flow, peer)
            found.append(Leg(ends, self.model.maps(cell.source.pod, Direction.EGRESS), behind))
        destination = by_address.get(cell.reached)
        if destination is not None and destination.pod is not None:
            found.append(self._ingress(cell, destination.pod, reached))
        return found

    def _behind(self, cell: Cell) -> list[tuple[str, int]]:
        """Where a connection to a ClusterIP went, or may have gone."""
        if cell.destination is not None:
            return []
        word = WORDS[cell.protocol]
        ends = self.scene.backends[cell.address][word, cell.port]
        return [end for end in ends if cell.reached in ("", end[0])]

    def _ingress(self, cell: Cell, pod: Json, reached: Sequence[tuple[str, int]]) -> Leg:
        port = reached[0][1] if reached else cell.port
        source, peer = cell.source.address, cell.source.pod
        if source == cell.reached:
            # Through its own Service: kube-proxy masquerades it (agent facts 3.6, no. 13).
            source, peer = str(self.model.world.own_node_address(pod, self.scene.family)), None
        ends = Ends(pod, Direction.INGRESS, self._flow(source, cell.reached, cell.protocol, port), peer)
        return Leg(ends, self.model.maps(pod, Direction.INGRESS))

    @staticmethod
    def _flow(source: str, destination: str, protocol: int, port: int) -> Flow:
        return Flow(ip_address(source), ip_address(destination), protocol, port)

    # ---- predictions

    def expected(self, leg: Leg) -> Verdict:
        """EXPECTED, the verdict by the maps that the agent should write."""
        like = self._like(leg.ends.pod, leg.direction)
        found = expected.verdict(leg.maps, leg.ends.flow, like)
        if found.code == "NOT_LISTED":
            # The enforcing mode decides, and it is the standard one.
            return Verdict(found.layer, Decision.ALLOW, found.code, found.why)
        return found

    def _like(self, pod: Json, direction: Direction) -> dict[str, MapView]:
        """The real maps. Those of 1.2.x leave open which of its releases it is, so 1.2.7 is judged by the newest."""
        if self.scene.generation.startswith("1.2."):
            return {}
        key = f"{namespace_of(pod)}/{name_of(pod)}", direction
        if key not in self._views:
            self._views[key] = self.scene.views(pod, direction)
        return self._views[key]

    def predicted(self, cell: Cell) -> str:
        """As ``Cell.met``; "open" where the model may not say."""
        for leg in self.legs(cell):
            decision = self.expected(leg).decision
            if decision is not Decision.ALLOW:
                return leg.direction.value if decision is Decision.DENY else "open"
        return "pass"

    # ---- INTENT

    def intents(self, leg: Leg) -> Iterator[tuple[tuple[Ends, ...], Verdict]]:
        """INTENT of a leg: of each pod behind a ClusterIP on its own."""
        for ends in leg.backends or (leg.ends,):
            yield leg.backends and (ends,), tiers.evaluate(ends, self.model.world)

    def unexplained(self, leg: Leg) -> Iterator[str]:
        """Where INTENT says otherwise than the maps and no deviation says why."""
        verdict = self.expected(leg)
        resolved = endpoints.evaluate(leg.ends, self.model.world)
        for backends, intent in self.intents(leg):
            if verdict.decision is Decision.UNKNOWN or intent.decision in (verdict.decision, Decision.UNKNOWN):
                continue
            world = self.model.world
            reasons = deviations.of_resolution(leg.ends, backends, intent, resolved, world)
            reasons += deviations.of_agent(leg.ends, resolved, verdict, leg.maps, world)
            if not reasons:
                yield f"{leg.direction}: INTENT {intent.why}; ENDPOINTS {resolved.why}; EXPECTED {verdict.why}"

    # ---- the whole product, from a node's document to the verdict

    def attached(self, cell: Cell, world: World, views: Mapping[str, layers.NodeView]) -> str:
        """As ``Cell.met``, by the ATTACHED layer of the legs that a user's question leads to."""
        for leg in self._planned(cell, world):
            found = layers.judge(leg, world, views)
            verdict = next(v for v in found.verdicts if v.layer is Layer.ATTACHED)
            assert found.decision is verdict.decision, (cell.text, found)
            if verdict.decision is not Decision.ALLOW:
                return leg.ends.direction.value if verdict.decision is Decision.DENY else verdict.why
        return "pass"

    def _planned(self, cell: Cell, world: World) -> list[plan.Leg]:
        port = f"{cell.port}/{WORDS[cell.protocol]}" if cell.port else "icmp"
        if cell.source.pod is None:
            return list(plan.make_plan(plan.Question(cell.question, source=cell.source.question, port=port), "", world).legs)
        question = plan.Question(cell.source.question, destination=cell.question, port=port)
        legs = plan.make_plan(question, "", world).legs
        # Of the pods behind a Service the one that was reached counts.
        return [
            leg for leg in legs
            if leg.ends.direction is Direction.EGRESS or leg.ends.flow.destination == ip_address(cell.reached or cell.address)
        ]  # fmt: skip

    def can_be_asked(self, cell: Cell) -> bool:
        """Not from a node to a Service, which no pod judges, nor from a pod to a Service that it is behind itself."""
        if cell.destination is not None:
            return True
        behind = {address for address, _ in self._behind(cell)}
        return cell.source.pod is not None and cell.source.address not in behind
