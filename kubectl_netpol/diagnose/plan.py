"""From a question to what has to be judged (legs) and what has to be read (pods by node)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubectl_netpol.errors import NotRead, UsageError
from kubectl_netpol.kernel.identity import MOST_INTERFACES, identifiers, veth_names
from kubectl_netpol.model.flow import PROTOCOL_NUMBERS, WITH_PORTS, Address, Direction, Flow, protocol_name
from kubectl_netpol.policy import targets
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.world import (
    World,
    cluster_ips,
    container_ports,
    finished,
    name_of,
    namespace_of,
    node_addresses,
    node_of,
    on_host_network,
    phase_of,
    pod_ip,
    pod_ips,
    ref,
)

Json = dict[str, Any]

MOST_NODES = 4
"""Nodes read for one question: a Service with pods on fifty nodes does not start fifty debug pods."""
NAMES = ("pods", "namespaces", "services", "nodes")
"""Collections that give names to addresses: all that verbs about the kernel alone need."""
CLUSTER_KINDS = (*NAMES, "clusterpolicyendpoints", "clusternetworkpolicies")
"""Collections that an answer about policies needs of the whole cluster: selectors may mean any of its pods."""
OWN_KINDS = ("networkpolicies", "policyendpoints", "applicationnetworkpolicies")
"""Collections that it needs of the judged pods' own namespaces only."""
KINDS = (*CLUSTER_KINDS, *OWN_KINDS)
"""All objects that decide about packets. One paged list for each."""
SETTINGS_KINDS = ("daemonsets", "configmaps", "clusterroles", "versions")
"""What tells how the VPC CNI and its agent are set up (``policy.cni``)."""
DIAGNOSIS_KINDS = ("events",)
"""What only a diagnosis looks at."""
EVERYTHING = (*KINDS, *SETTINGS_KINDS, *DIAGNOSIS_KINDS)
"""All that a diagnosis of a cluster reads of its API."""
RIGHTS = "accessreviews"
"""What the API server says of the user's own rights: asked by `doctor` and `capture` alone."""


@dataclass(frozen=True)
class Question:
    """What the user asks, as typed."""

    pod: str
    directions: tuple[Direction, ...] = tuple(Direction)
    source: str = ""
    """--from"""
    destination: str = ""
    """--to"""
    port: str = ""
    source_port: int | None = None
    """--source-port: one established flow, with what conntrack knows of it."""
    ask_kernel: bool = False
    """--ask-kernel"""
    api_only: bool = False
    """--api-only: no node is read."""


@dataclass(frozen=True)
class Leg:
    """One pod's part in a flow. ``backends``: the real ends behind a ClusterIP, which the intent is about."""

    ends: Ends
    backends: tuple[Ends, ...] = ()
    service: str = ""

    @property
    def pod(self) -> Json:
        return self.ends.pod


@dataclass(frozen=True)
class Plan:
    """The answer's outline: the pod, the legs of the flow (if one was asked), the nodes to read."""

    pod: Json
    question: Question
    legs: tuple[Leg, ...] = ()
    source_text: str = ""
    destination_text: str = ""
    notes: tuple[str, ...] = ()
    """For stderr."""
    reads: Mapping[str, tuple[Json, ...]] = field(default_factory=dict)
    """Node name -> the pods whose kernel objects are needed there."""
    skipped_nodes: tuple[str, ...] = ()


def make_plan(question: Question, namespace: str, world: World) -> Plan:
    """Raises ``UsageError`` for names that do not exist, are ambiguous, or make no sense together."""
    if question.source and question.destination:
        raise UsageError("--from and --to exclude each other: POD is the other end of the flow")
    if (question.source or question.destination) and len(question.directions) < len(Direction):
        raise UsageError("--direction goes without --from and --to: these say which way the flow goes")
    pod, note = targets.pick_pod(question.pod, namespace, world)
    if not node_of(pod):
        raise UsageError(f"pod {ref(pod)} is not on a node yet: it has not been scheduled")
    notes = [note] if note else []
    if finished(pod):
        raise UsageError(f"pod {ref(pod)} has ended ({phase_of(pod)}): it has no network any more")
    legs: tuple[Leg, ...] = ()
    texts = "", ""
    if question.source or question.destination:
        # Names of the other end without a namespace are looked up where the pod is.
        legs, texts, more = _flow(question, namespace_of(pod), pod, world)
        notes += more
    elif question.port or question.source_port is not None:
        raise UsageError(f"{'--port' if question.port else '--source-port'} needs --from or --to")
    elif question.ask_kernel:
        raise UsageError("--ask-kernel needs a flow: --from or --to, and --port")
    reads, skipped = _reads([] if question.api_only else [pod, *(leg.pod for leg in legs)])
    return Plan(pod, question, legs, *texts, tuple(notes), reads, skipped)


def namespaces_of(question: Question, namespace: str) -> tuple[str, ...]:
    """The namespaces that the question names, as far as its words tell: an address may be of any."""
    ends = [question.pod, *(text for text in (question.source, question.destination) if text)]
    own = targets.parse(question.pod, namespace).namespace or namespace
    return tuple(dict.fromkeys(place for end in ends if (place := targets.parse(end, own).namespace)))


def judged_namespaces(plan: Plan) -> tuple[str, ...]:
    """The namespaces of all pods that are judged."""
    return tuple(dict.fromkeys(namespace_of(pod) for pod in (plan.pod, *(leg.pod for leg in plan.legs))))


def _reads(pods: Iterable[Json]) -> tuple[dict[str, tuple[Json, ...]], tuple[str, ...]]:
    found: dict[str, list[Json]] = {}
    for pod in pods:
        if not on_host_network(pod) and node_of(pod):
            on_node = found.setdefault(node_of(pod), [])
            if pod not in on_node:
                on_node.append(pod)
    names = list(found)
    return {name: tuple(found[name]) for name in names[:MOST_NODES]}, tuple(names[MOST_NODES:])


def reader_request(pods: Iterable[Json], *, everything: bool = False) -> Json:
    """The reader's request for one node (see ``node.reader``)."""
    return {
        "format": 1,
        "pods": [
            {
                "namespace": namespace_of(pod),
                "name": name_of(pod),
                "ips": [str(address) for address in pod_ips(pod)],
                "links": [
                    name
                    for index in range(MOST_INTERFACES)
                    for name in veth_names(namespace_of(pod), name_of(pod), index)
                ],
                "identifiers": list(identifiers(namespace_of(pod), name_of(pod))),
            }
            for pod in pods
        ],
        "all": everything,
        "conntrack": "all" if everything else "pods",
    }


@dataclass(frozen=True)
class _End:
    """The other end of the flow."""

    address: Address
    text: str
    pod: Json | None = None
    service: Json | None = None


def _flow(
    question: Question, namespace: str, pod: Json, world: World
) -> tuple[tuple[Leg, ...], tuple[str, str], list[str]]:
    incoming = bool(question.source)
    end, notes = _other_end(question.source or question.destination, namespace, pod, world, incoming)
    own = next((a for a in pod_ips(pod) if a.version == end.address.version), None)
    if own is None:
        raise UsageError(f"pod {ref(pod)} has no IPv{end.address.version} address")
    if end.pod is pod:
        raise UsageError(f"{ref(pod)} talking to itself stays inside the pod: no policy ever sees it")
    protocol, port, note = _port(question, end, pod)
    if end.address.version == 6 and protocol == PROTOCOL_NUMBERS["ICMP"]:
        protocol = PROTOCOL_NUMBERS["ICMPV6"]
    notes += [note] if note else []
    own_text = f"{ref(pod)} ({own})"
    source_port = question.source_port
    if source_port is not None and protocol not in WITH_PORTS:
        raise UsageError(f"--source-port goes with TCP, UDP and SCTP: {protocol_name(protocol)} has no ports")
    if incoming:
        legs = _legs_between(end, pod, Flow(end.address, own, protocol, port, source_port))
        return legs, (end.text, own_text), notes
    flow = Flow(own, end.address, protocol, port, source_port)
    if end.service is not None:
        return _legs_to_service(pod, end, flow, world), (own_text, end.text), notes
    egress = Leg(Ends(pod, Direction.EGRESS, flow, end.pod))
    others = () if end.pod is None else (Leg(Ends(end.pod, Direction.INGRESS, flow, pod)),)
    return (egress, *others), (own_text, end.text), notes


def _legs_between(end: _End, pod: Json, flow: Flow) -> tuple[Leg, ...]:
    """The asked pod's leg first, then the source's, where the source is a pod."""
    ingress = Leg(Ends(pod, Direction.INGRESS, flow, end.pod))
    if end.pod is None:
        return (ingress,)
    return ingress, Leg(Ends(end.pod, Direction.EGRESS, flow, pod))


def _service_ports(service: Json) -> list[str]:
    """`80/TCP` for each."""
    entries = (service.get("spec") or {}).get("ports") or ()
    return [f"{entry['port']}/{entry.get('protocol') or 'TCP'}" for entry in entries]


def _legs_to_service(pod: Json, end: _End, flow: Flow, world: World) -> tuple[Leg, ...]:
    """Egress is judged on the ClusterIP and the Service port; each backend on its own address and port."""
    assert end.service is not None
    asked = f"{flow.port}/{protocol_name(flow.protocol)}"
    ports = _service_ports(end.service)
    if asked not in ports:
        raise UsageError(f"service {ref(end.service)} has no port {asked}; it has {', '.join(ports) or 'none'}")
    legs = service_legs(pod, end.service, flow, world)
    if legs is None:
        raise UsageError(
            f"service {ref(end.service)} has no running pod behind {asked}: no policy can let anything pass",
            f"kubectl -n {namespace_of(end.service)} describe service {name_of(end.service)}",
        )
    return legs


def service_legs(pod: Json, service: Json, flow: Flow, world: World) -> tuple[Leg, ...] | None:
    """The egress leg to the ClusterIP first, then one for each pod behind it; None where no pod is."""
    ingress: list[Leg] = []
    behind: list[Ends] = []
    for backend in targets.service_pods(service, world):
        address = next((a for a in pod_ips(backend) if a.version == flow.source.version), None)
        port = targets.target_port(service, protocol_name(flow.protocol), flow.port, backend)
        if address is None or port is None:
            continue
        real = Flow(flow.source, address, flow.protocol, port, flow.source_port)
        # Selectors do not mean pods on the host network: their address is that of their node.
        behind.append(Ends(pod, Direction.EGRESS, real, None if on_host_network(backend) else backend))
        if backend is not pod:
            # What comes back to the pod itself comes from its node's address (hairpin), which always passes.
            ingress.append(Leg(Ends(backend, Direction.INGRESS, real, pod)))
    if not behind:
        return None
    egress = Leg(Ends(pod, Direction.EGRESS, flow), tuple(behind), ref(service))
    return (egress, *ingress)


def _other_end(text: str, namespace: str, pod: Json, world: World, incoming: bool) -> tuple[_End, list[str]]:
    target = targets.parse(text, namespace)
    if target.kind == "address":
        address = targets.find_address(target)
        assert address is not None
        return _end_of_address(address, world), []
    if target.kind == "node":
        return _end_of_node(target.name, pod, world), []
    if target.kind == "service":
        if incoming:
            hint = "name the pod, node or address that opens the connection"
            raise UsageError(f"{target.text} cannot be a source: connections come from pods", hint)
        service = targets.find_service(target, world)
        addresses = cluster_ips(service)
        if not addresses:
            raise UsageError(f"{target.text} has no ClusterIP: name one of its pods instead")
        address = _of_family(addresses, pod)
        assert address is not None
        return _End(address, f"service {ref(service)} ({address})", service=service), []
    other, note = targets.pick_pod(text, namespace, world)
    address = _of_family(pod_ips(other), pod)
    if address is None:
        raise UsageError(f"pod {ref(other)} has no address yet")
    end = _End(address, f"{ref(other)} ({address})", None if on_host_network(other) else other)
    return end, [note] if note else []


def _end_of_address(address: Address, world: World) -> _End:
    who = world.who(address)
    text = f"{who.removeprefix('pod ')} ({address})" if who else str(address)
    pod = world.pod_by_ip.get(address)
    living = pod if pod is not None and not finished(pod) else None
    return _End(address, text, living, world.service_by_ip.get(address))


def _of_family(addresses: Sequence[Address], pod: Json) -> Address | None:
    """The address to talk to: of the pod's own family where there is one, else the first."""
    own = pod_ip(pod)
    return next((a for a in addresses if own and a.version == own.version), addresses[0] if addresses else None)


def _end_of_node(name: str, pod: Json, world: World) -> _End:
    node = world.nodes.get(name)
    if node is None and not world.snapshot.get("nodes").known:
        raise NotRead(f"node/{name}: nodes could not be read: {world.snapshot.get('nodes').reason}")
    if node is None:
        raise UsageError(f'node "{name}" not found')
    address = _of_family(node_addresses(node), pod)
    if address is None:
        raise UsageError(f'node "{name}" has no InternalIP')
    return _End(address, f"node {name} ({address})")


def _port(question: Question, end: _End, pod: Json) -> tuple[int, int, str]:
    if question.port:
        return *targets.parse_port(question.port), ""
    receiver = pod if question.source else end.pod
    declared: list[tuple[str, int]] = []
    if end.service is not None:
        entries = (end.service.get("spec") or {}).get("ports") or ()
        declared = [(e.get("protocol") or "TCP", int(e["port"])) for e in entries]
    elif receiver is not None:
        declared = [(e.get("protocol") or "TCP", int(e["containerPort"])) for e in container_ports(receiver)]
    if len(set(declared)) != 1:
        known = ", ".join(f"{port}/{protocol}" for protocol, port in declared)
        why = f"the receiving side has several ports: {known}" if known else "the receiving side declares no port"
        raise UsageError(f"--port is needed: {why}")
    protocol, port = declared[0]
    return *targets.parse_port(f"{port}/{protocol}"), f"--port {port}/{protocol}: the only one that is declared"
