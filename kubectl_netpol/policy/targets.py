"""What a user types on the command line -> the pods, nodes, services and addresses that it means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.errors import NotRead, UsageError
from kubectl_netpol.model.flow import PROTOCOL_NUMBERS, WITH_PORTS, Address
from kubectl_netpol.policy.world import (
    World,
    container_ports,
    finished,
    labels_of,
    name_of,
    namespace_of,
    parse_address,
    ref,
)

Json = dict[str, Any]

KINDS = {
    **dict.fromkeys(("pod", "pods", "po"), "pod"),
    **dict.fromkeys(("node", "nodes", "no"), "node"),
    **dict.fromkeys(("service", "services", "svc"), "service"),
    **dict.fromkeys(("deployment", "deployments", "deploy"), "deployment"),
    **dict.fromkeys(("replicaset", "replicasets", "rs"), "replicaset"),
    **dict.fromkeys(("statefulset", "statefulsets", "sts"), "statefulset"),
    **dict.fromkeys(("daemonset", "daemonsets", "ds"), "daemonset"),
    **dict.fromkeys(("job", "jobs"), "job"),
}
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z")
SHOWN = 10
"""Matches listed in an error message."""


@dataclass(frozen=True)
class TargetRef:
    """A parsed name: kind ("pod", "node", "service", "address", a workload kind), namespace, name."""

    kind: str
    namespace: str
    name: str

    @property
    def text(self) -> str:
        return self.name if self.kind == "address" else f"{self.kind}/{self.name}"


def parse(text: str, namespace: str) -> TargetRef:
    """`pod/x`, `x`, `ns/x`, `ns/pod/x`, `deploy/x`, `node/x`, `svc/x`, `10.0.0.1`."""
    # An IPv6 address may come with the brackets of a URL.
    address = parse_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    if address is not None:
        return TargetRef("address", "", str(address))
    parts = text.split("/")
    if len(parts) == 2 and parse_address(parts[0]) is not None:
        raise UsageError(f'"{text}" is a range of addresses: name one address')
    if len(parts) == 1:
        found = TargetRef("pod", namespace, parts[0])
    elif len(parts) == 2 and parts[0].lower() in KINDS:
        found = TargetRef(KINDS[parts[0].lower()], namespace, parts[1])
    elif len(parts) == 2:
        found = TargetRef("pod", parts[0], parts[1])
    elif len(parts) == 3 and parts[1].lower() in KINDS:
        found = TargetRef(KINDS[parts[1].lower()], parts[0], parts[2])
    else:
        raise UsageError(f'"{text}" is not a name: use pod/NAME, NAMESPACE/NAME, node/NAME, svc/NAME or an address')
    if "" in parts or not NAME.match(found.name) or not NAME.match(found.namespace or "x"):
        raise UsageError(f'"{text}" is not a valid Kubernetes name')
    return found


def parse_port(text: str) -> tuple[int, int]:
    """`80`, `80/TCP`, `53/udp`, `icmp` -> (protocol number, port)."""
    number, _, protocol = text.partition("/")
    if number.upper() in ("ICMP", "ICMPV6") and not protocol:
        return PROTOCOL_NUMBERS[number.upper()], 0
    code = PROTOCOL_NUMBERS.get((protocol or "TCP").upper())
    if (
        not number.isascii()
        or not number.isdigit()
        or len(number) > 5
        or not 0 < int(number) < 65536
        or code not in WITH_PORTS
    ):
        raise UsageError(f'--port "{text}" is not a port number: use 80, 80/TCP, 53/UDP, 9/SCTP or icmp')
    return code, int(number)


def find_pods(target: TargetRef, world: World) -> list[Json]:
    """The pods that a target means, living ones only unless the name is exact."""
    exact = world.pod(target.namespace, target.name) if target.kind == "pod" else None
    if exact is not None:
        return [exact]
    living = [pod for pod in world.pods_of.get(target.namespace, ()) if not finished(pod)]
    if target.kind == "pod":
        # pod/nginx stands for nginx-f8d9c6576-8b4vf, never for nginx2-...
        return [pod for pod in living if name_of(pod).startswith(f"{target.name}-")]
    if target.kind == "service":
        return service_pods(find_service(target, world), world)
    if target.kind in ("node", "address"):
        raise UsageError(f"{target.text} is not a pod: name a pod, or a workload or service with one pod")
    return [pod for pod in living if _owned(pod, target)]


def _owned(pod: Json, target: TargetRef) -> bool:
    for owner in pod["metadata"].get("ownerReferences") or ():
        kind, name = str(owner.get("kind", "")).lower(), owner.get("name")
        if target.kind == "deployment" and kind == "replicaset":
            # A Deployment names its ReplicaSets <deployment>-<pod-template-hash>.
            if name == f"{target.name}-{labels_of(pod).get('pod-template-hash')}":
                return True
        elif kind == target.kind and name == target.name:
            return True
    return False


def find_service(target: TargetRef, world: World) -> Json:
    for service in world.services_of.get(target.namespace, ()):
        if name_of(service) == target.name:
            return service
    if not world.snapshot.get("services").known:
        raise NotRead(f"{target.text}: services could not be read: {world.snapshot.get('services').reason}")
    raise UsageError(f'service "{target.name}" not found in namespace "{target.namespace}"')


def service_pods(service: Json, world: World) -> list[Json]:
    """The living pods that the Service selects; none for a Service without a selector."""
    selector = (service.get("spec") or {}).get("selector")
    if not selector:
        return []
    pods = world.pods_matching(namespace_of(service), {"matchLabels": selector})
    return [pod for pod in pods if not finished(pod)]


def target_port(service: Json, protocol: str, port: int, pod: Json) -> int | None:
    """The container port that a Service port leads to on this pod, or None where it has no such port."""
    for entry in (service.get("spec") or {}).get("ports") or ():
        if entry.get("port") != port or (entry.get("protocol") or "TCP") != protocol:
            continue
        target = entry.get("targetPort", port)
        if isinstance(target, int):
            return target
        named = (p for p in container_ports(pod) if p.get("name") == target)
        return next((int(p["containerPort"]) for p in named), None)
    return None


def pick_node(text: str, world: World) -> str:
    """The name of a node; `ip-10-0-0-1`, as tables show it, stands for the only one whose name it begins."""
    if text in world.nodes:
        return text
    if not world.snapshot.get("nodes").known:
        return text
    found = [name for name in world.nodes if name.partition(".")[0] == text]
    if len(found) != 1:
        raise UsageError(f'node "{text}" not found', "`kubectl get nodes` lists them")
    return found[0]


def pick_pod(text: str, namespace: str, world: World) -> tuple[Json, str]:
    """Exactly one pod and a note for stderr where the name was completed; never a guess."""
    target = parse(text, namespace)
    pods = find_pods(target, world)
    if not pods and not world.snapshot.get("pods").known:
        raise NotRead(f"{target.text}: pods could not be read: {world.snapshot.get('pods').reason}")
    if not pods:
        hint = "host names are not resolved: give an address" if "." in target.name else ""
        if target.name in world.nodes:
            hint = f"it is the name of a node: node/{target.name}"
        raise UsageError(_not_found(target, world), hint)
    if len(pods) > 1:
        names = [name_of(pod) for pod in pods]
        shown = ", ".join(sorted(names)[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        raise UsageError(f"{target.text} means {len(pods)} pods in {target.namespace}: {shown}", "name one of them")
    pod = pods[0]
    exact = target.kind == "pod" and name_of(pod) == target.name
    return pod, "" if exact else f"{target.text} is pod {ref(pod)}"


def _not_found(target: TargetRef, world: World) -> str:
    if world.snapshot.get("namespaces").known and target.namespace not in world.namespaces:
        return f'namespace "{target.namespace}" not found'
    if target.kind == "pod":
        names = map(name_of, world.pods_of.get(target.namespace, ()))
        near = sorted(name for name in names if name.startswith(target.name))[:SHOWN]
        more = f"; names that begin with it: {', '.join(near)}" if near else ""
        return f'pod "{target.name}" not found in namespace "{target.namespace}"{more}'
    return f'{target.text} has no running pod in namespace "{target.namespace}"'


def find_address(target: TargetRef) -> Address | None:
    return parse_address(target.name) if target.kind == "address" else None
