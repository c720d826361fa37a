"""Two truth tables of a cluster: what the models predict for every pair and port, and what connections met.

They can only be equal where the models of controller and agent, the bytes of the entries and the model of the datapath
are right together. Beside them the direct semantics of the YAML, whose differences have to be explained, and what the
whole product says from a node's document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import ip_address
from typing import Any

from kubectl_netpol.diagnose import deviations, expected, layers, plan
from kubectl_netpol.diagnose.plan import Leg
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.model.flow import Direction, Flow
from kubectl_netpol.model.kernel import MapView
from kubectl_netpol.model.snapshot import NodeReading
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy import endpoints, tiers
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.world import World, name_of, namespace_of, ref
from tests.kernel.modelled_lab import TCP_PORTS, UDP_PORTS, Place, Scene
from tests.lab.connections import ICMP, ICMPV6, TCP, UDP, Attempt, Outcome

Json = dict[str, Any]

WORDS = {TCP: "TCP", UDP: "UDP", ICMP: "ICMP", ICMPV6: "ICMPv6"}
SHOWN = 10
"""Mismatches that one message names."""


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
    """The destination as the product's user names it."""
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
        """`pass`, or at which pod it was dropped: `egress`, `ingress`; anything else is odd."""
        if self.outcome.refused:
            return self.outcome.refused
        if self.outcome.passed:
            return "passed though denied" if self.outcome.denials else "pass"
        first = self.outcome.denials[0]
        if first.egress and first.source != self.source.address:
            return "reply denied"
        return "egress" if first.egress else "ingress"

    @property
    def reached(self) -> str:
        """The address that it was for in the end; empty where nobody can know."""
        if self.destination is not None:
            return self.address
        ingress = [record.destination for record in self.outcome.denials if not record.egress]
        return self.outcome.answered_by or next(iter(ingress), "")


class Table:
    """All cells of one scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.model = scene, scene.model
        self.places = {place.address: place for place in scene.places}
        self.cells = [*self._between_places(), *self._to_services()]
        self._likes: dict[tuple[str, Direction], dict[str, MapView]] = {}

    def _between_places(self) -> Iterator[Cell]:
        echo = ICMP if self.scene.family == 4 else ICMPV6
        asked = [(TCP, port) for port in TCP_PORTS] + [(UDP, port) for port in UDP_PORTS] + [(echo, 0)]
        for source in self.places.values():
            for other in self.places.values():
                # Nobody judges what goes from node to node, or stays in a pod.
                if source is not other and (source.pod or other.pod):
                    for protocol, port in asked:
                        yield Cell(source, other.text, other.address, protocol, port, other.question, other)

    def _to_services(self) -> Iterator[Cell]:
        services = {s["spec"].get("clusterIP"): s for s in self.model.world.snapshot.items("services")}
        for address, ports in self.scene.backends.items():
            service = services[address]
            question = f"{namespace_of(service)}/svc/{name_of(service)}"
            for word, port in ports:
                for source in self.places.values():
                    number = TCP if word == "TCP" else UDP
                    yield Cell(source, f"service {ref(service)}", address, number, port, question, None)

    def fill(self) -> None:
        """Connect. An echo's answer looks like one that is asked the other way round: these go one way at a time."""
        order = {address: number for number, address in enumerate(self.places)}
        with_ports = [cell for cell in self.cells if cell.protocol in (TCP, UDP)]
        echoes = [cell for cell in self.cells if cell.protocol not in (TCP, UDP)]
        up = [cell for cell in echoes if order[cell.source.address] < order[cell.address]]
        down = [cell for cell in echoes if order[cell.source.address] > order[cell.address]]
        for some in (with_ports, up, down):
            self.scene.forget()
            outcomes = self.scene.switchboard.run([cell.attempt for cell in some])
            for cell, outcome in zip(some, outcomes, strict=True):
                cell.outcome = outcome

    # ---- the legs of a cell

    def legs(self, cell: Cell) -> list[Leg]:
        """As ``plan.make_plan`` has them, but only of the pod behind a ClusterIP that was reached, if any was."""
        found = []
        behind = self._behind(cell)
        if cell.source.pod is not None:
            backends = tuple(self._egress(cell, address, port) for address, port in behind)
            service = "" if cell.destination else cell.column
            found.append(Leg(self._egress(cell, cell.address, cell.port), backends, service))
        reached = self.places.get(cell.reached)
        if reached is not None and reached.pod is not None:
            found.append(Leg(self._ingress(cell, reached.pod, behind)))
        return found

    def _behind(self, cell: Cell) -> list[tuple[str, int]]:
        """Where a connection to a ClusterIP went, or may have gone."""
        if cell.destination is not None:
            return []
        ends = self.scene.backends[cell.address][WORDS[cell.protocol], cell.port]
        return [end for end in ends if cell.reached in ("", end[0])]

    def _egress(self, cell: Cell, address: str, port: int) -> Ends:
        other = self.places.get(address)
        assert cell.source.pod is not None
        flow = _flow(cell.source.address, address, cell.protocol, port)
        return Ends(cell.source.pod, Direction.EGRESS, flow, other.pod if other else None)

    def _ingress(self, cell: Cell, pod: Json, behind: Sequence[tuple[str, int]]) -> Ends:
        port = behind[0][1] if behind else cell.port
        source, peer = cell.source.address, cell.source.pod
        if source == cell.reached:
            # Through its own Service: kube-proxy masquerades it (agent facts 3.6, no. 13).
            source, peer = str(self.model.world.own_node_address(pod, self.scene.family)), None
        return Ends(pod, Direction.INGRESS, _flow(source, cell.reached, cell.protocol, port), peer)

    # ---- predictions

    def expected(self, leg: Leg) -> Verdict:
        """EXPECTED, the verdict by the maps that the agent should write."""
        maps = self.model.maps(leg.pod, leg.ends.direction)
        found = expected.verdict(maps, leg.ends.flow, self._like(leg.pod, leg.ends.direction))
        # Whom no policy concerns the enforcing mode decides about, and it is the standard one.
        return replace(found, decision=Decision.ALLOW) if found.code == "NOT_LISTED" else found

    def _like(self, pod: Json, direction: Direction) -> dict[str, MapView]:
        """The real maps. Those of 1.2.x leave open which release it is, so 1.2.7 is judged as the newest is."""
        if not self.scene.has_cluster_policy:
            return {}
        key = ref(pod), direction
        if key not in self._likes:
            self._likes[key] = self.scene.views(pod, direction)
        return self._likes[key]

    def predicted(self, cell: Cell) -> str:
        """As ``Cell.met``; `open` where the model may not say."""
        for leg in self.legs(cell):
            decision = self.expected(leg).decision
            if decision is not Decision.ALLOW:
                return leg.ends.direction.value if decision is Decision.DENY else "open"
        return "pass"

    def mismatches(self) -> list[Cell]:
        return [cell for cell in self.cells if self.predicted(cell) not in ("open", cell.met)]

    @property
    def counted(self) -> Counter[str]:
        """Cells by what they met, and those that the model left open or in which the YAML means something else."""
        left_open = sum(self.predicted(cell) == "open" for cell in self.cells)
        otherwise = sum(any(any(self._otherwise(leg)) for leg in self.legs(cell)) for cell in self.cells)
        more = {"cells": len(self.cells), "open": left_open, "deviating": otherwise}
        return Counter({**Counter(cell.met for cell in self.cells), **more})

    # ---- INTENT

    def _otherwise(self, leg: Leg) -> Iterator[tuple[tuple[Ends, ...], Verdict]]:
        """INTENT where it is not what the maps say, of each pod behind a ClusterIP on its own."""
        for ends in leg.backends or (leg.ends,):
            # Behind its own Service: nobody can ask about that.
            if ends.peer_pod is not leg.pod:
                intent, found = tiers.evaluate(ends, self.model.world), self.expected(leg).decision
                if Decision.UNKNOWN not in (intent.decision, found) and intent.decision is not found:
                    yield (ends,) if leg.backends else (), intent

    def unexplained(self) -> Iterator[str]:
        """Where the YAML says otherwise than the maps, and no deviation says why."""
        for cell in self.cells:
            for leg in self.legs(cell):
                yield from (f"{cell.text}: {text}" for text in self._unexplained(leg))

    def _unexplained(self, leg: Leg) -> Iterator[str]:
        found, world = self.expected(leg), self.model.world
        if found.code in layers.BY_DESIGN:
            return
        maps, resolved = self.model.maps(leg.pod, leg.ends.direction), endpoints.evaluate(leg.ends, world)
        for backends, intent in self._otherwise(leg):
            reasons = deviations.of_resolution(leg.ends, backends, intent, resolved, world)
            reasons += deviations.of_agent(leg.ends, resolved, found, maps, world)
            # A model is never behind itself.
            if not any(reason.code != "NOT_RESOLVED_YET" for reason in reasons):
                texts = (f"{verdict.layer} {verdict.word}, {verdict.why}" for verdict in (intent, resolved, found))
                yield f"{leg.ends.direction} of {ref(leg.pod)}: {'; '.join(texts)}"

    # ---- the whole product, from the documents of nodes to verdicts

    @cached_property
    def documents(self) -> dict[str, Json]:
        """What the reader says of each node, read once after the connections."""
        return {name: document for name, (document, _, _) in self._readings.items()}

    @cached_property
    def _readings(self) -> dict[str, tuple[Json, int, int]]:
        """With the denials that were reported before and after: pods send of their own accord too (MLD)."""
        found, board = {}, self.scene.switchboard
        for number, name in enumerate(self.scene.nodes):
            board.read_events()
            before, document = board.denied[number], self.scene.document(name)
            board.read_events()
            found[name] = document, before, board.denied[number]
        return found

    def disputed(self, cells: Iterable[Cell]) -> Iterator[str]:
        """Cells about which the product, asked as a user asks it, says something else than the packets."""
        readings = {name: NodeReading(document) for name, document in self.documents.items()}
        world = World(replace(self.model.world.snapshot, nodes=readings))
        views = layers.node_views(world.snapshot)
        for cell in cells:
            yield from (f"{cell.text}: {text}" for text in self._disputed(cell, world, views))

    def _disputed(self, cell: Cell, world: World, views: Mapping[str, NodeView]) -> Iterator[str]:
        met = "pass"
        for leg in self._planned(cell, world):
            found = layers.judge(leg, world, views)
            attached = found.verdict(Layer.ATTACHED)
            for other in (found.verdict(Layer.EXPECTED), found.verdict(Layer.PINNED)):
                if other.decision not in (attached.decision, Decision.UNKNOWN, Decision.NONE):
                    yield f"{other.layer} {other.word}, {other.why}, and ATTACHED {attached.word}, {attached.why}"
            if found.decision is not attached.decision:
                yield f"ATTACHED {attached.word}, {attached.why}, and the answer is {found.decision}"
            if met == "pass" and attached.decision is not Decision.ALLOW:
                met = leg.ends.direction.value if attached.decision is Decision.DENY else attached.why
        if met != cell.met:
            yield f"ATTACHED says {met}, the packets met {cell.met}"

    def _planned(self, cell: Cell, world: World) -> list[Leg]:
        """In the order of the packets. Of the pods behind a Service the one that was reached counts."""
        port = f"{cell.port}/{WORDS[cell.protocol]}" if cell.port else "icmp"
        if cell.source.pod is None:
            question = plan.Question(cell.question, source=cell.source.question, port=port)
        else:
            question = plan.Question(cell.source.question, destination=cell.question, port=port)
        legs = plan.make_plan(question, "", world).legs
        wanted = ip_address(cell.reached) if cell.reached else None
        return [leg for leg in legs if leg.ends.direction is Direction.EGRESS or leg.ends.flow.destination == wanted]

    def can_be_asked(self, cell: Cell) -> bool:
        """Not from a node to a Service, which no pod judges, nor from a pod to a Service that it is behind itself."""
        if cell.destination is not None:
            return True
        return cell.source.pod is not None and cell.source.address not in dict(self._behind(cell))

    def miscounted(self) -> Iterator[str]:
        """Nodes on which tc counts other drops than the programs reported: then a report is not a drop."""
        for name, (document, before, after) in self._readings.items():
            drops = sum(row["drops"] for row in document["qdiscs"] if row["kind"] == "clsact")
            if not before <= drops <= after:
                yield f"{name}: tc dropped {drops} packets, {before} to {after} were reported"

    # ---- as text

    def text(self) -> str:
        """The tables of all ports with a mismatch, and the first mismatches with what the models say."""
        wrong = self.mismatches()
        asked = dict.fromkeys(cell.what for cell in wrong)
        lines = [line for what in asked for line in self._text_of(what)]
        for cell in wrong[:SHOWN]:
            whys = "; ".join(f"{leg.ends.direction}: {self.expected(leg).why}" for leg in self.legs(cell))
            lines.append(f"{cell.text}: predicted {self.predicted(cell)}, the packet met {cell.met} ({whys})")
        return "\n".join([*lines, f"{len(wrong)} of {len(self.cells)} cells are not as predicted"])

    def _text_of(self, what: str) -> Iterator[str]:
        cells = {(cell.source.text, cell.column): cell for cell in self.cells if cell.what == what}
        rows = list(dict.fromkeys(row for row, _ in cells))
        columns = list(dict.fromkeys([*rows, *(column for _, column in cells)]))
        width = max(len(name) for name in columns)
        yield f"{what}: . passes, X is dropped, ! is not as predicted"
        for number, name in enumerate(columns):
            marks = (self._mark(cells.get((name, column))) for column in columns)
            yield f"{number:>3} {name:<{width}} " + (" ".join(f"{mark:>2}" for mark in marks) if name in rows else "")
        yield f"{'':>3} {'':<{width}} " + " ".join(f"{number:>2}" for number in range(len(columns)))

    def _mark(self, cell: Cell | None) -> str:
        if cell is None:
            return " "
        if self.predicted(cell) not in ("open", cell.met):
            return "!"
        return "." if cell.met == "pass" else "X"


def _flow(source: str, destination: str, protocol: int, port: int) -> Flow:
    return Flow(ip_address(source), ip_address(destination), protocol, port)
