"""Documents of nodes whose maps are as the models say that the agent writes them: a healthy node without a lab."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kubectl_netpol.diagnose import expected
from kubectl_netpol.diagnose.plan import EVERYTHING
from kubectl_netpol.kernel.identity import identifiers, veth_names
from kubectl_netpol.kernel.layouts import DEFAULT_ALLOW, SLOTS
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.snapshot import Collection, Snapshot
from kubectl_netpol.policy import modelled
from kubectl_netpol.policy.world import World, finished, namespace_of, node_of, on_host_network, pod_ip
from tests.unit import builders as build

Json = dict[str, Any]
CONNTRACK, EVENTS = 21, 22
CONNTRACK_SIZES = {"1.2.7": (20, 56, 1), "1.3.5": (20, 56, 1), "1.4.1": (24, 60, 1), "1.4.2": (24, 60, 16)}
"""Agent -> bytes of a conntrack key of both families, and of a value."""
HOOKS = {Direction.INGRESS: "egress", Direction.EGRESS: "ingress"}


def resolved(objects: Mapping[str, Sequence[Json]]) -> World:
    """The cluster with the PolicyEndpoints that the controller makes of its policies."""
    bare = World(Snapshot({kind: Collection(tuple(objects.get(kind, ()))) for kind in EVERYTHING}))
    spaces = sorted({namespace_of(pod) for pod in bare.snapshot.items("pods")} | set(bare.namespaces))
    made = [e for space in spaces for e in modelled.modelled(bare, space).snapshot.items("policyendpoints")]
    return modelled.with_endpoints(
        bare.snapshot, made, modelled.modelled(bare, "").snapshot.items("clusterpolicyendpoints")
    )


def aws_node(agent: str = "1.4.2", cni: str = "1.23.1", *, env: Mapping[str, str] | None = None, **flags: str) -> Json:
    """The DaemonSet with network policies switched on, as it is kept. ``flags``: with underscores."""
    given = {"enable_network_policy": "true", **flags}
    args = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    containers: list[Json] = [
        {"name": "aws-node", "image": f"r.example/amazon-k8s-cni:v{cni}"},
        {"name": "aws-eks-nodeagent", "image": f"r.example/aws-network-policy-agent:v{agent}", "args": args},
    ]
    # The manifest of the VPC CNI sets it.
    variables = {"NETWORK_POLICY_ENFORCING_MODE": "standard", **(env or {})}
    containers[0]["env"] = [{"name": name, "value": value} for name, value in variables.items()]
    metadata = build.meta("aws-node", "kube-system", {"k8s-app": "aws-node"})
    return {"metadata": metadata, "spec": {"template": {"spec": {"containers": containers}}}}


def documents(world: World) -> Iterator[tuple[str, Json]]:
    """Each node that has pods with a network of their own, as the reader would find it."""
    by_node: dict[str, list[Json]] = defaultdict(list)
    for pod in world.snapshot.items("pods"):
        if node_of(pod) and not on_host_network(pod) and not finished(pod) and pod_ip(pod) is not None:
            by_node[node_of(pod)].append(pod)
    for name, pods in sorted(by_node.items()):
        yield name, NodeDocument(world, pods, random.Random(name)).made()


class NodeDocument:
    """One node, and where each of its pods is in the document: ids by what they are."""

    def __init__(self, world: World, pods: Iterable[Json], choose: random.Random, agent: str = "1.4.2") -> None:
        self.world, self.choose, self.agent = world, choose, agent
        self.ids: dict[str, dict[str, int]] = {}
        """Pod identifier -> `ingress np`, `egress program` ... -> id."""
        self.rows: dict[str, list[Json]] = {name: [] for name in ("links", "routes", "qdiscs", "filters", "programs")}
        listed = list(pods)
        addresses = [a for pod in listed if (a := pod_ip(pod)) is not None]
        self.family = addresses[0].version if addresses else 4
        four, six, value = CONNTRACK_SIZES[agent]
        self.maps = [
            build.map_row(CONNTRACK, 9, four if self.family == 4 else six, value),
            build.map_row(EVENTS, 27, 0, 0, None),
        ]
        self.pins = [
            build.pin("maps/global_aws_conntrack_map", CONNTRACK),
            build.pin("maps/global_policy_events", EVENTS),
        ]
        for number, pod in enumerate(listed):
            self._add(pod, 30 + number)

    def made(self) -> Json:
        return build.document(**self.rows, maps=self.maps, pins=self.pins)

    def _add(self, pod: Json, ifindex: int) -> None:
        space, name = namespace_of(pod), pod["metadata"]["name"]
        identifier = identifiers(space, name)[0]
        if identifier not in self.ids:
            self._program(pod, identifier)
        ids = self.ids[identifier]
        self.rows["links"].append(build.link(veth_names(space, name)[0], ifindex))
        if pod["status"].get("podIP"):
            self.rows["routes"].append(build.route(pod["status"]["podIP"], ifindex))
        self.rows["qdiscs"].append(build.clsact(ifindex))
        for direction in Direction:
            program = ids[f"{direction} program"]
            self.rows["filters"].append(build.tc_filter(ifindex, HOOKS[direction], direction.program_name, program))

    def _program(self, pod: Json, identifier: str) -> None:
        """Programs and maps of one identifier, for all of its pods."""
        first = 100 * (len(self.ids) + 1)
        self.ids[identifier] = ids = {}
        tiers = self.agent != "1.2.7"
        for number, direction in enumerate(Direction):
            base = first + 10 * number
            maps = expected.expected_maps(pod, direction, self.world)
            used = {"np": base + 1, "pod_state": base + 3, **({"cp": base + 2} if tiers else {})}
            rules = {str(prefix): self._some(sorted(one.slots)) for prefix, one in maps.rules.items()}
            self.maps.append(build.lpm_row(base + 1, rules, self.family))
            if tiers:
                found = {str(prefix): self._some(one.slots) for prefix, one in maps.tiers.items()}
                self.maps.append(self._tier_row(base + 2, found))
            states = {k: DEFAULT_ALLOW if s is None else s for k, s in maps.states.items() if tiers or k == 0}
            row = build.state_row(base + 3, states)
            self.maps.append({**row, "max_entries": 2 if tiers else 1})
            self.rows["programs"].append(build.program(base + 5, [*used.values(), CONNTRACK, EVENTS]))
            ids |= {f"{direction} {role}": number for role, number in used.items()} | {f"{direction} program": base + 5}
            self.pins.append(build.pin(f"programs/{identifier}_{direction.program_name}", base + 5))
            names = {"np": f"{direction}_map", "cp": f"cp_{direction}_map", "pod_state": f"{direction}_pod_state_map"}
            self.pins += [build.pin(f"maps/{identifier}_{names[role]}", number) for role, number in used.items()]

    def _some(self, slots: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """In any order, and of more than fit some by chance (agent facts 5.3)."""
        return self.choose.sample(list(slots), min(len(slots), SLOTS))

    def _tier_row(self, number: int, entries: Mapping[str, Sequence[tuple[int, ...]]]) -> Json:
        row = build.lpm_row(number, entries, self.family)
        return {**row, "value_size": 384} if not entries else row
