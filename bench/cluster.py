"""Clusters of any size as their lists come from the API: the same seed makes the same cluster.

Sizes and shapes are those of real ones: Deployments of one to sixty pods with a Service each, namespaces of 75 pods on
average, nodes of 50 to 110, and of policies what people write: default-deny, DNS, same namespace, one application to
another, other namespaces, blocks with excepts, named ports, a few that mean every pod, and ClusterNetworkPolicies.
Objects are as ``cluster.trim`` keeps them. PolicyEndpoints are those that the model of the controller makes.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path
from typing import Any

from kubectl_netpol.diagnose.plan import KINDS
from kubectl_netpol.model.snapshot import Collection, Snapshot
from kubectl_netpol.policy import controller, modelled
from kubectl_netpol.policy.world import World

Json = dict[str, Any]

SEED = 20250101
PAGE = 500
"""Objects of one page of a list, and of one line of a file."""
SLICE = 1000
"""Elements of each list of one PolicyEndpoint."""
PODS_OF_NAMESPACE, PODS_OF_NODE = 75, (50, 110)
SHARES = (0.3, 0.5, 0.7, 1.0, 1.0, 1.5, 2.0)
"""Of namespaces in turn: some are larger than others, in every cluster alike."""
REPLICAS = (1, 1, 2, 2, 2, 3, 3, 3, 4, 6, 8, 12, 20, 60)
LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""Of generated names, as the API server draws them."""
WORDS = (
    "orders",
    "cart",
    "search",
    "payments",
    "users",
    "mail",
    "stock",
    "prices",
    "reviews",
    "images",
    "auth",
    "audit",
)
KINDS_OF_APP = ("api", "worker", "web", "cache", "db", "gateway")
LISTS = ("podSelectorEndpoints", "ingress", "egress")


@dataclass(frozen=True)
class App:
    """One Deployment with its Service."""

    namespace: str
    name: str
    labels: Mapping[str, str]


@dataclass
class Cluster:
    """Lists by kind, and what the policies are written about."""

    chosen: random.Random
    lists: dict[str, list[Json]] = field(default_factory=lambda: defaultdict(list))
    apps: dict[str, list[App]] = field(default_factory=lambda: defaultdict(list))
    places: list[int] = field(default_factory=list)
    """Numbers of nodes, one for each pod that is still to come."""
    pod_addresses: Iterator[int] = field(default_factory=lambda: count(int(IPv4Address("100.64.0.16"))))
    service_addresses: Iterator[int] = field(default_factory=lambda: count(int(IPv4Address("172.20.0.10"))))

    def letters(self, number: int) -> str:
        return "".join(self.chosen.choices(LETTERS, k=number))


def build(pods: int, policies: int, seed: int = SEED) -> dict[str, list[Json]]:
    """All lists that one question reads, by kind."""
    cluster = Cluster(random.Random(seed))
    _add_nodes(cluster, pods)
    _add_system(cluster)
    _add_applications(cluster, pods)
    cluster.lists["clusternetworkpolicies"] = list(_cluster_policies())
    cluster.lists["networkpolicies"] = _policies(cluster, policies)
    _add_endpoints(cluster)
    # The API server answers in the order of the keys in etcd.
    return {kind: sorted(cluster.lists[kind], key=_place) for kind in KINDS}


def _place(obj: Json) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


# ---- nodes, namespaces, pods, Services


def _node_address(number: int) -> str:
    return str(IPv4Address("10.0.0.10") + number)


def _node_name(number: int) -> str:
    return f"ip-{_node_address(number).replace('.', '-')}.eu-west-1.compute.internal"


def _add_nodes(cluster: Cluster, pods: int) -> None:
    """As many as the pods need, with the two pods on the host network that every node has."""
    while len(cluster.places) < pods:
        number, room = len(cluster.lists["nodes"]), cluster.chosen.randint(*PODS_OF_NODE)
        info = {"kernelVersion": "6.12.40-63.114.amzn2023.x86_64", "osImage": "Amazon Linux 2023.8.20250721"}
        status = {"addresses": [{"type": "InternalIP", "address": _node_address(number)}], "nodeInfo": info}
        cluster.lists["nodes"].append(
            {"metadata": {"name": _node_name(number), "uid": cluster.letters(32)}, "status": status}
        )
        cluster.places += [number] * room
    for number in range(len(cluster.lists["nodes"])):
        for name in ("aws-node", "kube-proxy"):
            pod = _pod(
                cluster,
                "kube-system",
                f"{name}-{cluster.letters(5)}",
                {"k8s-app": name},
                (),
                ("DaemonSet", name),
                number,
            )
            pod["spec"]["hostNetwork"] = True
            pod["status"]["podIP"] = pod["status"]["hostIP"]
            pod["status"]["podIPs"] = [{"ip": pod["status"]["hostIP"]}]
    del cluster.places[: len(cluster.places) - pods + len(cluster.lists["pods"])]
    cluster.chosen.shuffle(cluster.places)


def _pod(
    cluster: Cluster,
    namespace: str,
    name: str,
    labels: Mapping[str, str],
    ports: Sequence[Json],
    owner: tuple[str, str],
    node: int,
) -> Json:
    when, address = "2026-01-02T03:04:05Z", str(IPv4Address(next(cluster.pod_addresses)))
    pod = {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": cluster.letters(32),
            "labels": dict(labels),
            "creationTimestamp": when,
            "ownerReferences": [{"kind": owner[0], "name": owner[1], "uid": cluster.letters(32), "controller": True}],
        },
        "spec": {
            "nodeName": _node_name(node),
            "containers": [{"name": "main", "ports": list(ports)}, {"name": "proxy"}],
        },
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "hostIP": _node_address(node),
            "hostIPs": [{"ip": _node_address(node)}],
            "startTime": when,
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": when}],
        },
    }
    cluster.lists["pods"].append(pod)
    return pod


def _add_namespace(cluster: Cluster, name: str, **labels: str) -> None:
    found = {"kubernetes.io/metadata.name": name, **labels}
    cluster.lists["namespaces"].append({"metadata": {"name": name, "labels": found}})


def _add_app(cluster: Cluster, app: App, replicas: int, ports: Sequence[tuple[str, int, str]]) -> None:
    """``ports``: (name, number, protocol) of the container; the Service leads to them by name or by number."""
    cluster.apps[app.namespace].append(app)
    replica_set = f"{app.name}-{cluster.letters(10)}"
    labels = {**app.labels, "pod-template-hash": replica_set.rpartition("-")[2]}
    declared = [{"name": name, "containerPort": number, "protocol": protocol} for name, number, protocol in ports]
    for _ in range(replicas):
        name = f"{replica_set}-{cluster.letters(5)}"
        _pod(cluster, app.namespace, name, labels, declared, ("ReplicaSet", replica_set), cluster.places.pop())
    named = cluster.chosen.random() < 0.5
    address = str(IPv4Address(next(cluster.service_addresses)))
    entries = [
        {
            "name": name,
            "port": 80 if name == "http" else number,
            "targetPort": name if named else number,
            "protocol": protocol,
        }
        for name, number, protocol in ports
    ]
    spec = {
        "type": "ClusterIP",
        "clusterIP": address,
        "clusterIPs": [address],
        "selector": dict(app.labels),
        "ports": entries,
    }
    cluster.lists["services"].append({"metadata": {"name": app.name, "namespace": app.namespace}, "spec": spec})


DNS = (("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("metrics", 9153, "TCP"))
SYSTEM = (
    ("kube-system", "coredns", {"k8s-app": "kube-dns"}, 8, DNS),
    ("monitoring", "prometheus", {"app": "prometheus"}, 2, (("http", 9090, "TCP"),)),
    ("logging", "loki", {"app": "loki"}, 3, (("http", 3100, "TCP"),)),
    ("ingress-nginx", "controller", {"app": "ingress-nginx"}, 4, (("http", 8080, "TCP"), ("metrics", 10254, "TCP"))),
    ("vault", "vault", {"app": "vault"}, 3, (("http", 8200, "TCP"),)),
)


def _add_system(cluster: Cluster) -> None:
    for namespace, name, labels, replicas, ports in SYSTEM:
        _add_namespace(cluster, namespace, team="platform", env="prod")
        _add_app(cluster, App(namespace, name, labels), replicas, ports)


def _add_applications(cluster: Cluster, pods: int) -> None:
    """Deployments in turn into namespaces, some of which are larger than others, until all pods are there."""
    chosen = cluster.chosen
    names = [f"team-{number}" for number in range(max(3, pods // PODS_OF_NAMESPACE))]
    weights = [SHARES[number % len(SHARES)] for number in range(len(names))]
    for number, name in enumerate(names):
        labels = {"team": f"t{number // 3}", "env": ("prod", "prod", "staging", "dev")[number % 4]}
        _add_namespace(cluster, name, **labels, **({"exposed": "true"} if number % 5 == 0 else {}))
    while cluster.places:
        namespace = chosen.choices(names, weights)[0]
        word, kind = chosen.choice(WORDS), chosen.choice(KINDS_OF_APP)
        name = f"{word}-{kind}-{len(cluster.apps[namespace])}"
        labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": word, "tier": kind, "version": "v1"}
        number = chosen.choice((3000, 8000, 8080, 8443))
        ports = [("http", number, "TCP"), *([("metrics", 9102, "TCP")] if chosen.random() < 0.5 else ())]
        _add_app(cluster, App(namespace, name, labels), min(chosen.choice(REPLICAS), len(cluster.places)), ports)


# ---- policies


def _match(labels: Mapping[str, str]) -> Json:
    return {"matchLabels": dict(labels)}


def _namespace(name: str) -> Json:
    return _match({"kubernetes.io/metadata.name": name})


def _ports(*values: int | str, protocol: str = "TCP") -> list[Json]:
    return [{"protocol": protocol, "port": value} for value in values]


def _policy(namespace: str, name: str, selector: Json, types: Sequence[str], **rules: list[Json]) -> Json:
    spec = {"podSelector": selector, "policyTypes": list(types), **rules}
    return {"metadata": {"name": name, "namespace": namespace, "generation": 1}, "spec": spec}


INGRESS, EGRESS = ("Ingress",), ("Egress",)
TO_DNS = {"namespaceSelector": _namespace("kube-system"), "podSelector": _match({"k8s-app": "kube-dns"})}


def _everywhere() -> Iterator[Json]:
    """The few that mean very many pods, each for a handful: what counts there is entries."""
    everyone: Json = {"namespaceSelector": {}}
    scrape = [{"to": [everyone], "ports": _ports("metrics")}]
    yield _policy("monitoring", "scrape-everything", _match({"app": "prometheus"}), EGRESS, egress=scrape)
    ship = [{"from": [everyone], "ports": _ports("http")}]
    yield _policy("logging", "logs-of-everybody", _match({"app": "loki"}), INGRESS, ingress=ship)
    exposed = [{"to": [{"namespaceSelector": _match({"exposed": "true"})}], "ports": _ports(8080, 8443)}]
    yield _policy("ingress-nginx", "to-exposed", _match({"app": "ingress-nginx"}), EGRESS, egress=exposed)


def _of_every_namespace(names: Sequence[str]) -> Iterator[Json]:
    for name in names:
        yield _policy(name, "default-deny", {}, (*INGRESS, *EGRESS))
    for name in names:
        ports = [*_ports(53, protocol="UDP"), *_ports(53)]
        yield _policy(name, "allow-dns", {}, EGRESS, egress=[{"to": [TO_DNS], "ports": ports}])
    rule: Json = {"podSelector": {}}
    for name in names:
        if int(name.removeprefix("team-")) % 5 < 3:
            both = {"ingress": [{"from": [rule]}], "egress": [{"to": [rule]}]}
            yield _policy(name, "same-namespace", {}, (*INGRESS, *EGRESS), **both)


def _of_an_application(cluster: Cluster, names: Sequence[str], number: int) -> Json:
    chosen = cluster.chosen
    namespace = chosen.choice(names)
    app, other = (chosen.choice(cluster.apps[namespace]) for _ in range(2))
    selector, peer = _match(app.labels), _match({"app.kubernetes.io/name": other.name})
    name = f"{app.name}-{number}"
    shape = chosen.random()
    if shape < 0.35:
        return _policy(
            namespace, name, selector, INGRESS, ingress=[{"from": [{"podSelector": peer}], "ports": _ports(8080)}]
        )
    if shape < 0.55:
        return _policy(
            namespace, name, selector, EGRESS, egress=[{"to": [{"podSelector": peer}], "ports": _ports(8080, 8443)}]
        )
    if shape < 0.7:
        named = _ports("http", "metrics")
        monitoring = {"namespaceSelector": _namespace("monitoring")}
        nginx = {"namespaceSelector": _namespace("ingress-nginx"), "podSelector": _match({"app": "ingress-nginx"})}
        return _policy(namespace, name, selector, INGRESS, ingress=[{"from": [monitoring, nginx], "ports": named}])
    if shape < 0.85:
        blocks = [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "172.16.0.0/12", "169.254.169.254/32"]}}]
        blocks += [
            {"ipBlock": {"cidr": f"10.{chosen.randint(100, 200)}.{chosen.randint(0, 255)}.0/24"}} for _ in range(3)
        ]
        return _policy(namespace, name, selector, EGRESS, egress=[{"to": blocks, "ports": _ports(443, 5432)}])
    team = {
        "matchExpressions": [{"key": "team", "operator": "In", "values": [f"t{chosen.randrange(len(names) // 3 + 1)}"]}]
    }
    tier = _match({"tier": chosen.choice(KINDS_OF_APP)})
    rule = {"from": [{"namespaceSelector": team, "podSelector": tier}], "ports": _ports(8080)}
    return _policy(namespace, name, selector, INGRESS, ingress=[rule])


def _policies(cluster: Cluster, number: int) -> list[Json]:
    """As many as asked: the few wide ones, those of every namespace, and of applications what is left."""
    spaces = [one["metadata"]["name"] for one in cluster.lists["namespaces"]]
    names = [name for name in spaces if name.startswith("team-") and cluster.apps[name]]
    found = [*_everywhere(), *_of_every_namespace(names)][:number]
    return found + [_of_an_application(cluster, names, more) for more in range(number - len(found))]


def _cluster_policy(name: str, priority: int, subject: Json, tier: str = "Admin", **rules: list[Json]) -> Json:
    return {"metadata": {"name": name}, "spec": {"tier": tier, "priority": priority, "subject": subject, **rules}}


def _cluster_policies() -> Iterator[Json]:
    everyone, ports = {"namespaces": {}}, [{"portNumber": {"protocol": "UDP", "port": 53}}]
    metadata = [{"name": "no-imds", "action": "Deny", "to": [{"networks": ["169.254.169.254/32"]}]}]
    yield _cluster_policy("block-metadata", 10, everyone, egress=metadata)
    dns = [{"name": "dns", "action": "Accept", "to": [{"pods": TO_DNS}], "ports": ports}]
    yield _cluster_policy("allow-dns", 20, everyone, egress=dns)
    scraped = [{"name": "scraped", "action": "Pass", "from": [{"namespaces": _namespace("monitoring")}]}]
    yield _cluster_policy("monitoring", 30, {"namespaces": _match({"env": "prod"})}, ingress=scraped)
    shut = [{"name": "nobody", "action": "Deny", "from": [{"namespaces": _match({"env": "dev"})}]}]
    secret = {"pods": {"namespaceSelector": _namespace("vault"), "podSelector": {}}}
    yield _cluster_policy("vault", 40, secret, tier="Baseline", ingress=shut)


# ---- PolicyEndpoints


def _add_endpoints(cluster: Cluster) -> None:
    world = World(snapshot_of(cluster.lists))
    for policy in cluster.lists["networkpolicies"]:
        cluster.lists["policyendpoints"] += _slices(cluster, policy, world)
    for policy in world.cluster_policies:
        cluster.lists["clusterpolicyendpoints"] += _slices(cluster, policy, world)


def _slices(cluster: Cluster, policy: Json, world: World) -> Iterator[Json]:
    """What the controller makes of a policy, cut as it cuts it: each list by itself, at least one object."""
    whole = modelled.endpoint_of(controller.resolution(policy, world))
    world.resolutions.clear()
    own, name = whole["spec"], policy["metadata"]["name"]
    for begin in range(0, max(1, *(len(own[key]) for key in LISTS)), SLICE):
        spec = {**own, **{key: own[key][begin : begin + SLICE] for key in LISTS}}
        if "podSelector" in policy["spec"]:
            spec["podSelector"] = policy["spec"]["podSelector"]
        yield {"metadata": {**whole["metadata"], "name": f"{name}-{cluster.letters(5)}"}, "spec": spec}


def counts(lists: Mapping[str, Sequence[Json]]) -> dict[str, int]:
    """Pods, policies, and entries: what all PolicyEndpoints list, as rules and as pods."""
    slices = [*lists["policyendpoints"], *lists["clusterpolicyendpoints"]]
    policies = sum(len(lists[kind]) for kind in KINDS if kind.endswith("networkpolicies"))
    entries = sum(len(one["spec"][key]) for one in slices for key in LISTS)
    return {"pods": len(lists["pods"]), "policies": policies, "slices": len(slices), "entries": entries}


# ---- as files


def snapshot_of(lists: Mapping[str, Sequence[Json]]) -> Snapshot:
    return Snapshot({kind: Collection(tuple(lists.get(kind, ()))) for kind in KINDS})


def write(lists: Mapping[str, Sequence[Json]], directory: Path) -> None:
    """One file for each kind, one line for each page of a list answer."""
    for kind, items in lists.items():
        with Path(directory, kind).open("w") as file:
            for begin in range(0, len(items), PAGE):
                file.write(json.dumps({"items": items[begin : begin + PAGE]}) + "\n")


def read(directory: Path) -> dict[str, list[Json]]:
    lists: dict[str, list[Json]] = {}
    for kind in KINDS:
        with Path(directory, kind).open("rb") as file:
            lists[kind] = [item for line in file for item in json.loads(line)["items"]]
    return lists
