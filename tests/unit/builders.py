"""Small builders for API objects and reader documents, so that a test shows only what it is about."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any

from kubectl_netpol.diagnose.plan import DIAGNOSIS_KINDS, KINDS, SETTINGS_KINDS
from kubectl_netpol.kernel.identity import identifiers, veth_names
from kubectl_netpol.model.flow import Flow
from kubectl_netpol.model.kernel import ClusterSlot, LpmEntry, LpmTable, MapView, Slot
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.policy.world import World

Json = dict[str, Any]

NODE, NODE_IP = "node-a", "10.0.0.1"
ANY = (254, 0, 0)
DENY = (255, 0, 0)
TCP80 = (6, 80, 0)
APPLIED, DEFAULT_ALLOW, DEFAULT_DENY = 0, 1, 2


# ---- API objects


def meta(name: str, namespace: str = "", labels: Mapping[str, str] | None = None, **more: Any) -> Json:
    found: Json = {"name": name, **more}
    if namespace:
        found["namespace"] = namespace
    if labels:
        found["labels"] = dict(labels)
    return found


def pod(
    name: str,
    ip: str = "",
    *,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    node: str = NODE,
    host_ip: str = NODE_IP,
    ports: Sequence[Json] = (),
    phase: str = "Running",
    host_network: bool = False,
    owner: tuple[str, str] | None = None,
) -> Json:
    spec: Json = {"nodeName": node, "containers": [{"name": "main", "ports": list(ports)}]}
    if host_network:
        spec["hostNetwork"] = True
    status: Json = {"phase": phase, "hostIP": host_ip}
    if ip:
        status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
    metadata = meta(name, namespace, labels)
    if owner:
        metadata["ownerReferences"] = [{"kind": owner[0], "name": owner[1]}]
    return {"metadata": metadata, "spec": spec, "status": status}


def container_port(number: int, name: str = "", protocol: str = "TCP") -> Json:
    return {"containerPort": number, "protocol": protocol, **({"name": name} if name else {})}


def namespace(name: str, labels: Mapping[str, str] | None = None) -> Json:
    return {"metadata": meta(name, labels=labels)}


def node(name: str = NODE, *addresses: str) -> Json:
    entries = [{"type": "InternalIP", "address": address} for address in addresses or (NODE_IP,)]
    return {"metadata": meta(name), "status": {"addresses": entries}}


def service(
    name: str,
    cluster_ip: str = "",
    *,
    namespace: str = "default",
    selector: Mapping[str, str] | None = None,
    ports: Sequence[Json] = (),
) -> Json:
    spec: Json = {"clusterIP": cluster_ip, "ports": list(ports)}
    if selector:
        spec["selector"] = dict(selector)
    return {"metadata": meta(name, namespace), "spec": spec}


def service_port(port: int, target: int | str | None = None, protocol: str = "TCP") -> Json:
    return {"port": port, "protocol": protocol, **({} if target is None else {"targetPort": target})}


def policy(
    name: str = "web",
    *,
    namespace: str = "default",
    selects: Mapping[str, str] | None = None,
    ingress: Sequence[Json] | None = None,
    egress: Sequence[Json] | None = None,
    types: Sequence[str] | None = None,
) -> Json:
    """``selects``: matchLabels of the podSelector, None for all pods."""
    spec: Json = {"podSelector": {"matchLabels": dict(selects)} if selects else {}}
    for key, value in (("ingress", ingress), ("egress", egress), ("policyTypes", types)):
        if value is not None:
            spec[key] = list(value)
    return {"metadata": meta(name, namespace), "spec": spec}


def match(**labels: str) -> Json:
    """A LabelSelector by labels."""
    return {"matchLabels": labels}


def endpoint(
    policy_name: str = "web",
    *,
    suffix: str = "abcde",
    namespace: str = "default",
    pods: Iterable[Json] = (),
    ingress: Sequence[Json] | None = None,
    egress: Sequence[Json] | None = None,
    isolation: Sequence[str] = ("Ingress",),
) -> Json:
    """One PolicyEndpoint slice."""
    spec: Json = {
        "policyRef": {"name": policy_name, "namespace": namespace},
        "podIsolation": list(isolation),
        "podSelectorEndpoints": [
            {
                "name": p["metadata"]["name"],
                "namespace": p["metadata"]["namespace"],
                "podIP": p["status"].get("podIP"),
                "hostIP": p["status"].get("hostIP"),
            }
            for p in pods
        ],
    }
    for key, value in (("ingress", ingress), ("egress", egress)):
        if value is not None:
            spec[key] = list(value)
    return {"metadata": meta(f"{policy_name}-{suffix}", namespace), "spec": spec}


def entry(cidr: str, *ports: Json, excepts: Sequence[str] = ()) -> Json:
    """One ingress or egress element of a PolicyEndpoint."""
    found: Json = {"cidr": cidr}
    if ports:
        found["ports"] = list(ports)
    if excepts:
        found["except"] = list(excepts)
    return found


def pe_port(port: int | None = None, end: int | None = None, protocol: str | None = "TCP") -> Json:
    values = {"protocol": protocol, "port": port, "endPort": end}
    return {key: value for key, value in values.items() if value is not None}


def snapshot(documents: Mapping[str, Json] | None = None, /, **objects: Any) -> Snapshot:
    """All collections known; those not named are empty, with the node and namespace of the builders."""
    objects = {"nodes": [node()], "namespaces": [namespace("default")], **objects}
    found = {}
    for kind in KINDS:
        items = objects.pop(kind, ())
        found[kind] = items if isinstance(items, Collection) else Collection(tuple(items))
    for kind in (*SETTINGS_KINDS, *DIAGNOSIS_KINDS):
        if kind in objects:
            found[kind] = Collection(tuple(objects.pop(kind)))
    assert not objects, f"unknown collections: {list(objects)}"
    readings = {name: NodeReading(document) for name, document in (documents or {}).items()}
    return Snapshot(found, readings, "2026-01-02T03:04:05Z", "0.0.0")


def world(**objects: Any) -> World:
    return World(snapshot(**objects))


def flow(source: str, destination: str, port: int = 80, protocol: int = 6) -> Flow:
    return Flow(ip_address(source), ip_address(destination), protocol, port)


# ---- decoded maps


def np_view(entries: Mapping[str, Sequence[tuple[int, int, int]]], family: int = 4, **more: Any) -> MapView:
    """A decoded ingress_map or egress_map; slots are padded with unused ones to 24."""
    table = LpmTable(
        tuple(
            LpmEntry(ip_network(prefix), tuple(Slot(*slot) for slot in padded(slots, 3)))
            for prefix, slots in entries.items()
        )
    )
    return MapView(11, "np", "test", 11, 8, 288, 65536, lpm=table, family=family, **more)


def cp_view(entries: Mapping[str, Sequence[tuple[int, int, int, int]]], **more: Any) -> MapView:
    table = LpmTable(
        tuple(
            LpmEntry(ip_network(prefix), tuple(ClusterSlot(*slot) for slot in padded(slots, 4)))
            for prefix, slots in entries.items()
        )
    )
    return MapView(12, "cp", "test", 11, 8, 384, 65536, lpm=table, family=4, **more)


def state_view(np_state: int | None = APPLIED, cp_state: int | None = DEFAULT_ALLOW, **more: Any) -> MapView:
    states = {key: state for key, state in ((0, np_state), (1, cp_state)) if state is not None}
    return MapView(13, "pod_state", "test", 1, 4, 1, 2, states=states, **more)


def padded(slots: Sequence[tuple[int, ...]], width: int) -> list[tuple[int, ...]]:
    """24 slots, the rest unused. A value already longer than that stays as it is, to be noticed."""
    return [*slots, *[(0,) * width] * (24 - len(slots))]


# ---- the reader's document


def document(**sections: Any) -> Json:
    """A sound document of a node without anything; ``sections`` replace its own."""
    clocks = {"monotonic_ns": 1, "boottime_ns": 1, "realtime_ns": 1}
    empty: Json = {
        "format": 1,
        "reader": "test",
        "uname": {"sysname": "Linux", "release": "6.1", "machine": "x86_64", "nodename": NODE},
        "python": "3.11.0",
        "clock": {"begin": clocks, "end": clocks},
        "bpffs": {"path": "/sys/fs/bpf", "reason": ""},
        **{
            name: []
            for name in ("links", "addresses", "routes", "qdiscs", "filters", "tcx", "programs", "maps", "pins")
        },
        "notes": [],
        "errors": [],
    }
    return {**empty, **sections}


def link(name: str, ifindex: int) -> Json:
    return {
        "ifindex": ifindex,
        "name": name,
        "kind": "veth",
        "flags": 0,
        "operstate": "up",
        "mtu": 9001,
        "address": "",
        "peer_ifindex": 3,
        "link_netnsid": 0,
        "master": None,
    }


def route(destination: str, ifindex: int, **more: Any) -> Json:
    family = ip_address(destination).version
    return {
        "family": family,
        "destination": destination,
        "prefixlen": 32 if family == 4 else 128,
        "ifindex": ifindex,
        "gateway": None,
        "table": 254,
        "type": 1,
        "scope": 253,
        "source": None,
        **more,
    }


def clsact(ifindex: int, drops: int | None = 0) -> Json:
    return {
        "ifindex": ifindex,
        "kind": "clsact",
        "handle": 0xFFFF0000,
        "parent": 0xFFFFFFF1,
        "bytes": 0,
        "packets": 0,
        "drops": drops,
    }


def tc_filter(ifindex: int, hook: str, name: str, program_id: int | None, pref: int = 1, **more: Any) -> Json:
    return {
        "ifindex": ifindex,
        "hook": hook,
        "kind": "bpf",
        "protocol": 3,
        "pref": pref,
        "chain": 0,
        "handle": 1,
        "name": name,
        "program_id": program_id,
        "tag": "0123456789abcdef",
        "direct_action": True,
        **more,
    }


def program(number: int, map_ids: Sequence[int] = ()) -> Json:
    return {
        "id": number,
        "type": 3,
        "tag": "0123456789abcdef",
        "name": "",
        "jited": True,
        "xlated_len": 8,
        "jited_len": 8,
        "load_time_ns": 1,
        "map_ids": list(map_ids),
    }


def pin(path: str, number: int | None, reason: str = "") -> Json:
    kind = "unknown" if number is None else "map" if path.startswith("maps/") else "prog"
    return {"path": path, "kind": kind, "id": number, "reason": reason}


def map_row(
    number: int,
    kind: int,
    key_size: int,
    value_size: int,
    entries: Iterable[tuple[bytes, bytes]] | None = (),
    **more: Any,
) -> Json:
    """A row of ``maps``; ``entries`` None: contents were not read. ``more`` goes into the contents."""
    contents = None
    if entries is not None:
        pairs = list(entries)
        contents = {
            "method": "batch",
            "count": len(pairs),
            "total": len(pairs),
            "complete": True,
            "filtered": False,
            "keys": base64.b64encode(b"".join(key for key, _ in pairs)).decode(),
            "values": base64.b64encode(b"".join(value for _, value in pairs)).decode(),
            "reason": "",
            **more,
        }
    return {
        "id": number,
        "type": kind,
        "key_size": key_size,
        "value_size": value_size,
        "max_entries": 65536,
        "flags": 1,
        "name": "",
        "contents": contents,
    }


def u32(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


@cache
def lpm_key(prefix: str) -> bytes:
    network = ip_network(prefix)
    return u32(network.prefixlen) + network.network_address.packed


def lpm_row(number: int, entries: Mapping[str, Sequence[tuple[int, ...]]], family: int = 4, **more: Any) -> Json:
    """An ingress_map or egress_map, or a cp map where the slots have four fields."""
    width = next((len(slot) for slots in entries.values() for slot in slots), 3)
    pairs = [(lpm_key(prefix), _value(tuple(map(tuple, slots)), width)) for prefix, slots in entries.items()]
    return map_row(number, 11, 8 if family == 4 else 20, 24 * 4 * width, pairs, **more)


@cache
def _value(slots: tuple[tuple[int, ...], ...], width: int) -> bytes:
    return b"".join(u32(*slot) for slot in padded(slots, width))


def state_row(number: int, states: Mapping[int, int]) -> Json:
    return map_row(number, 1, 4, 1, [(u32(key), bytes([state])) for key, state in states.items()])


def ct_key(source: str, sport: int, destination: str, dport: int, owner: str, ifindex: int) -> bytes:
    """A conntrack key with ifindex, TCP, by hand from the documented offsets."""
    left, right, own = (ip_address(text).packed for text in (source, destination, owner))
    ports = [port.to_bytes(2, "little") for port in (sport, dport)]
    return left + ports[0] + b"\0\0" + right + ports[1] + b"\x06\0" + own + u32(ifindex)


def ct_row(number: int, entries: Iterable[tuple[bytes, int]] = ()) -> Json:
    return map_row(number, 9, 24, 1, [(key, bytes([value])) for key, value in entries])


def pod_document(
    owner: Json,
    *,
    ingress: Mapping[str, Sequence[tuple[int, ...]]] | None = None,
    egress: Mapping[str, Sequence[tuple[int, ...]]] | None = None,
    states: Mapping[int, int] | None = None,
    conntrack: Iterable[tuple[bytes, int]] = (),
    ifindex: int = 7,
    separator: str = "@",
    **sections: Any,
) -> Json:
    """A node on which everything is right for one pod: ids 432/433 as in a freshly programmed node.

    ids: ingress 101 (rules) 102 (cp) 103 (state), egress 201 202 203, conntrack 21, events 22.
    """
    name, space = owner["metadata"]["name"], owner["metadata"]["namespace"]
    veth = veth_names(space, name)[0]
    identifier = next(i for i in identifiers(space, name) if i.endswith(f"{separator}{space}"))
    states = {0: APPLIED, 1: DEFAULT_ALLOW} if states is None else states
    maps = [ct_row(21, conntrack), map_row(22, 27, 0, 0, None)]
    pins = [pin("maps/global_aws_conntrack_map", 21), pin("maps/global_policy_events", 22)]
    programs, filters = [], []
    everybody = {f"{NODE_IP}/32": [ANY], "0.0.0.0/0": [ANY]}
    for side, hook, first, number, rules in (
        ("ingress", "egress", 101, 432, ingress),
        ("egress", "ingress", 201, 433, egress),
    ):
        maps += [
            lpm_row(first, everybody if rules is None else rules),
            map_row(first + 1, 11, 8, 384),
            state_row(first + 2, states),
        ]
        programs.append(program(number, [first, first + 1, first + 2, 21, 22]))
        filters.append(tc_filter(ifindex, hook, f"handle_{side}", number))
        pins += [
            pin(f"programs/{identifier}_handle_{side}", number),
            pin(f"maps/{identifier}_{side}_map", first),
            pin(f"maps/{identifier}_cp_{side}_map", first + 1),
            pin(f"maps/{identifier}_{side}_pod_state_map", first + 2),
        ]
    own = {
        "links": [link(veth, ifindex)],
        "routes": [route(owner["status"]["podIP"], ifindex)],
        "qdiscs": [clsact(ifindex)],
        "filters": filters,
        "programs": programs,
        "maps": maps,
        "pins": pins,
    }
    return document(**{**own, **sections})


def both_pods(doc: Json, *others: Json) -> Json:
    """One node document that also has the veths of other, unrestricted pods."""
    links, routes, qdiscs = list(doc["links"]), list(doc["routes"]), list(doc["qdiscs"])
    for number, other in enumerate(others, 20):
        links.append(link(veth_names("default", other["metadata"]["name"])[0], number))
        routes.append(route(other["status"]["podIP"], number))
        qdiscs.append(clsact(number))
    return {**doc, "links": links, "routes": routes, "qdiscs": qdiscs}


# ---- the article's example


NGINX = pod("nginx-f8d9c6576-8b4vf", "10.0.4.5", labels={"app": "nginx"}, ports=[container_port(80)])
ACCESS_TRUE = pod("accesstrue", "10.0.1.218", labels={"access": "true"})
ACCESS_FALSE = pod("accessfalse", "10.0.96.116", labels={"access": "false"})
ACCESS_NGINX = policy(
    "access-nginx", selects={"app": "nginx"}, ingress=[{"from": [{"podSelector": match(access="true")}]}]
)
ACCESS_ENDPOINT = endpoint("access-nginx", pods=[NGINX], ingress=[entry("10.0.1.218")])
ACCESS_MAP = {"10.0.1.218/32": [ANY], f"{NODE_IP}/32": [ANY]}


def article(doc: Json | None = None, **objects: Any) -> Snapshot:
    """The cluster of the article: nginx admits pods with access=true only."""
    found = {
        "pods": [NGINX, ACCESS_TRUE, ACCESS_FALSE],
        "networkpolicies": [ACCESS_NGINX],
        "policyendpoints": [ACCESS_ENDPOINT],
        **objects,
    }
    return snapshot({NODE: pod_document(NGINX, ingress=ACCESS_MAP) if doc is None else doc}, **found)
