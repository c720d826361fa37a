"""Random clusters: pods, Services and policies of all kinds, in the shape in which the API serves them.

Few labels with few values and a handful of prefixes and ports, so that rules meet each other often.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, TypeVar

Json = dict[str, Any]
Network = IPv4Network | IPv6Network
T = TypeVar("T")

FIRST_NODE, FIRST_POD = 10, 1024
"""Node n has ``network[10 + n]``, pod n ``network[1024 + n]``."""
V6_NETWORK = "2001:db8:42:1::/64"
SERVICE_NETWORKS = {4: "10.100.0.0/16", 6: "fd00:ec2::/108"}
OUTSIDE = {4: ("192.0.2.0/24", "198.51.100.0/24"), 6: ("2001:db8:a::/64", "2001:db8:b::/64")}
"""Networks of documentation, in which no pod, node or Service is."""

NAMESPACES = (
    ("team-a", {"team": "a", "env": "prod"}),
    ("team-b", {"team": "b", "env": "prod"}),
    ("lab", {"env": "dev"}),
)
LABELS = {"app": ("web", "api", "db"), "tier": ("fe", "be")}
NAMESPACE_LABELS = {"team": ("a", "b"), "env": ("prod", "dev")}

CONTAINER_PORTS = (
    {"containerPort": 80, "protocol": "TCP"},
    {"containerPort": 443, "protocol": "TCP", "name": "https"},
    {"containerPort": 53, "protocol": "UDP", "name": "dns"},
    {"containerPort": 9999, "protocol": "SCTP", "name": "sig"},
)
NAMED_PORTS = (("http", "TCP"), ("https", "TCP"), ("dns", "UDP"), ("sig", "SCTP"))
PORTS: tuple[Json, ...] = (
    {"protocol": "TCP", "port": 80},
    {"protocol": "TCP", "port": 8080},
    {"protocol": "TCP", "port": 443},
    {"protocol": "UDP", "port": 53},
    {"protocol": "SCTP", "port": 9999},
    {"protocol": "TCP"},
    {"protocol": "UDP"},
    {"protocol": "TCP", "port": 79, "endPort": 81},
    {"protocol": "TCP", "port": 8000, "endPort": 8100},
)
KINDS = (
    "pods",
    "namespaces",
    "services",
    "nodes",
    "networkpolicies",
    "applicationnetworkpolicies",
    "clusternetworkpolicies",
)
ACTIONS = ("Deny", "Accept", "Pass")


PROBES = ((6, 80), (6, 8080), (6, 443), (6, 79), (6, 8050), (17, 53), (17, 80), (132, 9999), (1, 0))
"""(protocol, port) of flows that the rules tell apart. Of IPv6 the last one is (58, 0)."""


def addresses(cluster: dict[str, list[Json]]) -> list[str]:
    """The other ends that rules tell apart: of pods, nodes and Services, and outside in each part of the blocks."""
    nodes = [entry["address"] for node in cluster["nodes"] for entry in node["status"]["addresses"]]
    pods = [pod["status"]["podIP"] for pod in cluster["pods"] if pod["status"].get("podIP")]
    services = [s["spec"]["clusterIP"] for s in cluster["services"] if s["spec"]["clusterIP"] != "None"]
    outside = [ip_network(text) for text in OUTSIDE[6 if ":" in nodes[0] else 4]]
    parts = [str(net[share * net.num_addresses // 4 + 5]) for net in outside for share in (0, 1, 2)]
    return list(dict.fromkeys((*nodes, *pods, *services, *parts)))


def random_cluster(
    rng: random.Random,
    *,
    family: int = 4,
    network: str = "172.31.96.0/20",
    nodes: int = 2,
    pods: int = 6,
    policies: int = 4,
    tiers: bool = True,
    deviating: bool = True,
    cluster_only: bool = False,
) -> dict[str, list[Json]]:
    """Collections by kind. ``network``: of pods and nodes; where it is not of ``family``, one of documentation.

    ``tiers``: ClusterNetworkPolicies and ApplicationNetworkPolicies as well. ``deviating`` False: nothing in it comes
    out otherwise on EKS than Kubernetes defines it (then without Services and pods on the host network).
    ``cluster_only``: all policies are ClusterNetworkPolicies.
    """
    own = ip_network(network)
    if own.version != family:
        own = ip_network(V6_NETWORK if family == 6 else "172.31.96.0/20")
    cluster = _Cluster(rng, own, deviating)
    cluster.make(nodes, pods)
    for number in range(policies):
        cluster.add_policy(number, tiers, cluster_only=cluster_only)
    return cluster.objects


def random_blocks(rng: random.Random, family: int, *, many: bool = False, rules: int = 6) -> list[Json]:
    """Elements of PolicyEndpoints, blocks inside each other with excepts everywhere. ``many``: more ports than fit."""
    bits = 32 if family == 4 else 128
    base = ip_network("10.0.0.0/8" if family == 4 else "2001:d00::/24")
    lengths = [base.prefixlen + more for more in (0, 7, 8, 9, 16)] + [bits - 1, bits]
    starts = [base[0], base[base.num_addresses // 2], base[(1 << (bits - lengths[3])) + 1]]
    pool = [ip_network((start, length), strict=False) for start in starts for length in lengths]
    found = []
    for _ in range(rng.randint(1, rules)):
        block = rng.choice(pool)
        element: Json = {"cidr": str(block)}
        inside = [one for one in pool if one.prefixlen > block.prefixlen and one.network_address in block]
        if inside and rng.random() < 0.6:
            element["except"] = [str(one) for one in rng.sample(inside, min(len(inside), rng.choice((1, 1, 2))))]
        if rng.random() < 0.7:
            element["ports"] = [dict(port) for port in rng.sample(PORTS, rng.randint(1, 2))]
        if many and rng.random() < 0.3:
            element["ports"] = [{"protocol": "TCP", "port": rng.randint(1, 99)} for _ in range(rng.randint(20, 30))]
        found.append(element)
    return found


@dataclass
class _Cluster:
    rng: random.Random
    network: Network
    deviating: bool
    objects: dict[str, list[Json]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def __post_init__(self) -> None:
        self.both_types = self.chance(0.5)
        """Not deviating: all policies restrict both directions, and Baseline rules are possible."""
        self.excepting = self.chance(0.4)
        """Not deviating: blocks have excepts, always the same ones, and none is inside another."""

    # ---- dice

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def some(self, pool: Sequence[T], least: int, most: int) -> list[T]:
        return self.rng.sample(list(pool), min(self.rng.randint(least, most), len(pool)))

    def any_of(self, *makers: Callable[[], T]) -> T:
        return self.rng.choice(makers)()

    # ---- who is there

    def make(self, nodes: int, pods: int) -> None:
        count = self.rng.randint(2, 3)
        self.namespaces = NAMESPACES[:count]
        self.objects["namespaces"] = [
            {"metadata": {"name": n, "labels": dict(labels)}} for n, labels in self.namespaces
        ]
        self.node_addresses = [str(self.network[FIRST_NODE + n]) for n in range(nodes)]
        self.objects["nodes"] = [
            {
                "metadata": {"name": f"node-{n}"},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]},
            }
            for n, address in enumerate(self.node_addresses)
        ]
        self.http = 8080
        self.extra_ports = self.some(CONTAINER_PORTS, 0, 3)
        while len(self.objects["pods"]) < pods:
            self._add_pods(pods)
        if self.deviating:
            for number in range(self.rng.randint(1, 3)):
                self.objects["services"].append(self._service(number))

    def _add_pods(self, pods: int) -> None:
        """One workload, or one pod on its own."""
        number = len(self.objects["pods"])
        namespace = self.rng.choice(self.namespaces)[0]
        labels = self._labels()
        kind = self.rng.random()
        if kind < 0.3:
            for replica in range(min(2, pods - number)):
                self._pod(f"app{number}-7d4b9c-{replica}{replica}xyz", namespace, labels)
        elif self.deviating and kind < 0.5 and number + 1 < pods:
            # Two bare pods of one pod identifier.
            if not any(pod["metadata"]["name"] == "web-a" for pod in self.objects["pods"]):
                self._pod("web-a", namespace, labels)
                self._pod("web-b", namespace, self._labels())
        elif self.deviating and kind < 0.58:
            self._pod(f"agent{number}-host", namespace, labels, host=True)
        elif kind < 0.65:
            self._pod(f"job{number}-zz", namespace, labels, phase=self.rng.choice(("Succeeded", "Failed")))
        elif kind < 0.69:
            self._pod(f"new{number}-zz", namespace, labels, phase="Pending")
        else:
            self._pod(f"pod{number}", namespace, labels)

    def _labels(self) -> dict[str, str]:
        return {key: self.rng.choice(values) for key, values in LABELS.items() if self.chance(0.8)}

    def _pod(
        self, name: str, namespace: str, labels: dict[str, str], *, phase: str = "Running", host: bool = False
    ) -> None:
        number = len(self.objects["pods"])
        node = self.rng.randrange(len(self.node_addresses))
        address = self.node_addresses[node] if host else str(self.network[FIRST_POD + number])
        if phase in ("Succeeded", "Failed") and number and self.chance(0.5):
            # Its address has gone to another pod.
            address = str(self.network[FIRST_POD + self.rng.randrange(number)])
        spec: Json = {
            "nodeName": f"node-{node}",
            "containers": [{"name": "main", "ports": self._container_ports()}],
        }
        if host:
            spec["hostNetwork"] = True
        status: Json = {"phase": phase, "hostIP": self.node_addresses[node]}
        if phase != "Pending":
            status |= {"podIP": address, "podIPs": [{"ip": address}]}
        metadata: Json = {"name": name, "namespace": namespace, "labels": dict(labels)}
        self.objects["pods"].append({"metadata": metadata, "spec": spec, "status": status})

    def _container_ports(self) -> list[Json]:
        if not self.deviating:
            return [{"containerPort": 8080, "protocol": "TCP", "name": "http"}, *map(dict, self.extra_ports)]
        found = [dict(port) for port in self.some(CONTAINER_PORTS, 0, 3)]
        if self.chance(0.6):
            found.append({"containerPort": self.rng.choice((80, 8080)), "protocol": "TCP", "name": "http"})
        return found

    def _service(self, number: int) -> Json:
        headless = self.chance(0.1)
        address = "None" if headless else str(ip_network(SERVICE_NETWORKS[self.network.version])[10 + number])
        namespace = self.rng.choice(self.namespaces)[0]
        selector = self._labels_of_some(namespace)
        targets = (80, 8080, "http", "http", 443, "https")
        ports: list[Json] = [
            {"name": f"p{n}", "protocol": "TCP", "port": port, "targetPort": self.rng.choice(targets)}
            for n, port in enumerate(self.some((80, 8080, 443, 9090), 1, 2))
        ]
        if self.chance(0.2):
            ports.append({"name": "dns", "protocol": "UDP", "port": 53, "targetPort": self.rng.choice((53, "dns"))})
        spec: Json = {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports}
        if selector:
            spec["selector"] = selector
        return {"metadata": {"name": f"svc{number}", "namespace": namespace}, "spec": spec}

    def _labels_of_some(self, namespace: str) -> dict[str, str]:
        """A selector that means some pod of the namespace, mostly; now and then none at all."""
        pods = [pod["metadata"]["labels"] for pod in self.objects["pods"] if pod["metadata"]["namespace"] == namespace]
        labels = self.rng.choice(pods) if pods and self.chance(0.8) else self._labels()
        return {key: value for key, value in labels.items() if self.chance(0.8)}

    # ---- who is meant

    def selector(self, labels: dict[str, tuple[str, ...]] | None = None) -> Json:
        labels = LABELS if labels is None else labels
        if self.chance(0.2):
            return {}
        if self.chance(0.5):
            keys = self.some(tuple(labels), 1, 2)
            return {"matchLabels": {key: self.rng.choice(labels[key]) for key in keys}}
        found: Json = {"matchExpressions": [self._requirement(labels) for _ in range(self.rng.randint(1, 2))]}
        if self.chance(0.2):
            key = self.rng.choice(tuple(labels))
            found["matchLabels"] = {key: self.rng.choice(labels[key])}
        return found

    def _requirement(self, labels: dict[str, tuple[str, ...]]) -> Json:
        key = self.rng.choice(tuple(labels))
        operator = self.rng.choice(("In", "NotIn", "Exists", "DoesNotExist"))
        values = {"values": self.some(labels[key], 1, 2)} if operator in ("In", "NotIn") else {}
        return {"key": key, "operator": operator, **values}

    def namespace_selector(self) -> Json:
        if self.chance(0.15):
            return {"matchLabels": {"kubernetes.io/metadata.name": self.rng.choice(self.namespaces)[0]}}
        return self.selector(NAMESPACE_LABELS)

    def selector_peer(self) -> Json:
        """podSelector, namespaceSelector, or both in one (AND)."""
        kind = self.rng.randrange(3)
        peer: Json = {}
        if kind != 1:
            peer["podSelector"] = self.selector()
        if kind != 0:
            peer["namespaceSelector"] = self.namespace_selector()
        return peer

    def prefixes(self) -> list[str]:
        """Blocks around the pods and nodes, outside, and of the other family."""
        bits = self.network.max_prefixlen
        pods = [f"{self.network[FIRST_POD]}/{bits - length}" for length in (4, 3, 2, 1)]
        single = [f"{self.network[FIRST_POD + n]}/{bits}" for n in range(3)]
        outside = list(OUTSIDE[self.network.version])
        other = list(OUTSIDE[10 - self.network.version])[:1]
        if not self.deviating and self.excepting:
            # None inside another.
            return [*pods[:1], *outside, *other]
        everybody = ["0.0.0.0/0" if self.network.version == 4 else "::/0"]
        nodes = [f"{address}/{bits}" for address in self.node_addresses]
        found = [*pods, *single, *outside, *other, *everybody, str(self.network), *nodes]
        if self.deviating:
            found += [SERVICE_NETWORKS[self.network.version], f"{self.node_addresses[0]}/{bits - 1}"]
        return found

    def block_peer(self) -> Json:
        network = ip_network(self.rng.choice(self.prefixes()))
        block: Json = {"cidr": str(network)}
        if network.prefixlen > network.max_prefixlen - 2:
            return {"ipBlock": block}
        if self.deviating and self.chance(0.5):
            block["except"] = self.some(self._excepts(network), 1, 2)
        if not self.deviating and self.excepting:
            block["except"] = [str(list(network.subnets(2))[1])]
        return {"ipBlock": block}

    def _excepts(self, network: Network) -> list[str]:
        halves = list(network.subnets(1))
        inner = [ip_network(text) for text in self.prefixes()]
        inside = [
            n
            for n in inner
            if n.version == network.version and n.prefixlen > network.prefixlen and n.network_address in network
        ]
        return [str(network) for network in (*halves, *inside)]

    # ---- policies

    def add_policy(self, number: int, tiers: bool, *, cluster_only: bool) -> None:
        kind = 1.0 if cluster_only else self.rng.random() if tiers else 0.0
        if kind < 0.55:
            self.objects["networkpolicies"].append(self._policy(f"np{number}", application=False))
        elif kind < 0.75:
            self.objects["applicationnetworkpolicies"].append(self._policy(f"anp{number}", application=True))
        else:
            self.objects["clusternetworkpolicies"].append(self._cluster_policy(f"cnp{number}"))

    def _policy(self, name: str, *, application: bool) -> Json:
        types: list[str] | None = self.rng.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"]))
        if not self.deviating and self.both_types:
            types = ["Ingress", "Egress"]
        listed = list(types or ())
        namespace, subject = self._some_subject()
        spec: Json = {"podSelector": subject if self.chance(0.5) else self.selector()}
        for direction in ("ingress", "egress"):
            if direction.capitalize() in listed or (self.deviating and self.chance(0.25)):
                rules = self._rules(direction, application=application)
                if rules or self.chance(0.5):
                    spec[direction] = rules
        if self.deviating and application and self.chance(0.35):
            types = None
        elif not application and types == ["Ingress"] and "egress" not in spec and self.chance(0.5):
            # Left to the defaults of the API server.
            types = None
        elif not application and len(listed) == 2 and spec.get("egress") and self.chance(0.5):
            types = None
        if types is not None:
            spec["policyTypes"] = types
        return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}

    def _some_subject(self) -> tuple[str, Json]:
        """A namespace, mostly with pods in it, and a selector that means one of them."""
        pods = [pod["metadata"] for pod in self.objects["pods"]]
        if not pods or self.chance(0.1):
            return self.rng.choice(self.namespaces)[0], {}
        one = self.rng.choice(pods)
        labels = {key: value for key, value in one["labels"].items() if self.chance(0.5)}
        return one["namespace"], {"matchLabels": labels} if labels else {}

    def _rules(self, direction: str, *, application: bool) -> list[Json]:
        with_ports = self.chance(0.6)
        found = []
        for _ in range(self.rng.choice((0, 1, 1, 1, 2, 2, 3))):
            if self.deviating or not application:
                # Of an ApplicationNetworkPolicy all rules have ports, or none has.
                with_ports = self.chance(0.6)
            found.append(self._rule(direction, with_ports=with_ports, application=application))
        return found

    def _rule(self, direction: str, *, with_ports: bool, application: bool) -> Json:
        side = "from" if direction == "ingress" else "to"
        rule: Json = {}
        everybody = self.chance(0.2) and not (not self.deviating and (self.excepting or application))
        peers: list[Json] = []
        if everybody:
            rule |= self.any_of(lambda: {}, lambda: {side: []})
        else:
            makers: list[Callable[[], Json]] = [self.selector_peer, self.block_peer]
            peers = [self.any_of(*makers) for _ in range(self.rng.choice((1, 1, 2, 3)))]
            if self.deviating and application and direction == "egress" and self.chance(0.2):
                peers.append({"domainNames": [self.rng.choice(("example.com", "*.example.org"))]})
            rule[side] = peers
        if with_ports:
            only_pods = bool(peers) and not any("ipBlock" in peer for peer in peers)
            rule["ports"] = self._ports(named=self.deviating or only_pods, application=application)
        elif self.chance(0.1):
            rule["ports"] = []
        return rule

    def _ports(self, *, named: bool, application: bool) -> list[Json]:
        if self.deviating and self.chance(0.03):
            return [{"protocol": "TCP", "port": 80 + 7 * n} for n in range(30)]
        found = [dict(port) for port in self.some(PORTS, 1, 3)]
        if named and self.chance(0.4):
            name, protocol = self.rng.choice(NAMED_PORTS) if self.deviating else ("http", "TCP")
            found.append({"protocol": protocol, "port": name})
        for port in found:
            # The controller does not survive an ApplicationNetworkPolicy's port without protocol.
            if port["protocol"] == "TCP" and not application and self.chance(0.3):
                del port["protocol"]
        return [port for port in found if port] or [{"protocol": "TCP"}]

    def _cluster_policy(self, name: str) -> Json:
        baseline = self.chance(0.35) and (self.deviating or self.both_types)
        spec: Json = {
            "tier": "Baseline" if baseline else "Admin",
            "priority": self.rng.choice((0, 5, 5, 10, 1000)),
            "subject": self._subject() if self.chance(0.6) else {"namespaces": {}},
        }
        for direction in ("ingress", "egress"):
            with_ports = self.chance(0.5)
            rules = []
            for n in range(self.rng.choice((0, 1, 2, 2))):
                if self.deviating:
                    with_ports = self.chance(0.5)
                rules.append(self._cluster_rule(direction, n, with_ports=with_ports))
            if not self.deviating:
                rules.sort(key=lambda rule: ACTIONS.index(rule["action"]))
            if rules:
                spec[direction] = rules
        return {"metadata": {"name": name}, "spec": spec}

    def _subject(self) -> Json:
        if self.chance(0.5):
            return {"namespaces": self.namespace_selector()}
        return {"pods": {"namespaceSelector": self.namespace_selector(), "podSelector": self.selector()}}

    def _cluster_rule(self, direction: str, number: int, *, with_ports: bool) -> Json:
        side = "from" if direction == "ingress" else "to"
        action = self.rng.choice(ACTIONS)
        peers = [self._subject() for _ in range(self.rng.choice((1, 1, 2)))]
        if direction == "egress" and self.chance(0.5):
            nodes = () if self.deviating else self.node_addresses
            networks = [text for text in self.prefixes() if text.partition("/")[0] not in nodes]
            peers[-1] = {"networks": self.some(networks, 1, 2 if self.deviating else 1)}
        if direction == "egress" and self.deviating and self.chance(0.1):
            peers.append({"domainNames": ["example.com"]})
        rule: Json = {"action": action, side: peers}
        if self.chance(0.5):
            rule["name"] = f"rule-{number}"
        if with_ports:
            named = self.deviating or (direction == "egress" and "networks" not in peers[-1])
            rule["ports"] = self._cluster_ports(named=named)
        return rule

    def _cluster_ports(self, *, named: bool) -> list[Json]:
        found = []
        for port in self.some([p for p in PORTS if "port" in p], 1, 3 if self.deviating else 1):
            if "endPort" in port:
                span = {"protocol": port["protocol"], "start": port["port"], "end": port["endPort"]}
                found.append({"portRange": span})
            else:
                found.append({"portNumber": dict(port)})
        if self.deviating and self.chance(0.1):
            # Another range that begins where a single port is.
            found.append({"portRange": {"protocol": "TCP", "start": 80, "end": 8080}})
        if named and self.chance(0.2):
            name = self.rng.choice(("http", "https")) if self.deviating else "http"
            found[-1] = {"namedPort": name}
        return found
