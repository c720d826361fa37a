"""A stand-in for the AWS network policy agent, written from the facts about it and not from the product.

It loads the datapath, pins and attaches it, and turns PolicyEndpoints into map entries. What is loaded, when it
is attached and which states are written follow the generation. What the NetworkPolicy maps hold follows the rules
of 1.2.4 and later (agent facts 5.3) in all of them, cut to the generation's number of slots: the older content
rules (5.4) are not rebuilt. Nothing ever removes conntrack entries.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import random
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from . import bpfsys, build, elf
from .breakage import DIRECTIONS, GLOBAL_MAPS, HOOKS, Breakages
from .netlink import NetlinkError
from .node import Interface, Node, PodSandbox

Json = Mapping[str, Any]
Mode = Literal["standard", "strict"]

APPLIED, DEFAULT_ALLOW, DEFAULT_DENY = 0, 1, 2
NETWORK_POLICY_KEY, CLUSTER_POLICY_KEY = 0, 1
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
ANY_PROTOCOL, RESERVED = 254, 255
ACTIONS = {"Deny": 0, "Accept": 1, "Pass": 2}
BASELINE_OFFSET = 2000

BPFFS = "/sys/fs/bpf"
MAPS_DIR = f"{BPFFS}/globals/aws/maps"
PROGRAMS_DIR = f"{BPFFS}/globals/aws/programs"
GLOBAL_PREFIX = "global_"

# One port without anything: all protocols and ports.
NO_PORTS: tuple[Json, ...] = ({},)

FAULTS = frozenset(
    {
        "skip_map_update",
        "no_attach",
        "drop_pod_state",
        "stale_program",
        # of a pod with several interfaces only the first gets filters (agent facts 9.2 no. 23)
        "first_interface_only",
        # what belongs to a pod stays pinned when the pod goes (no. 48)
        "leave_pins",
    }
)

NpSlot = tuple[int, int, int]
CpSlot = tuple[int, int, int, int]


@dataclass(frozen=True)
class Generation:
    """What differs between agent versions, as far as this lab builds them."""

    name: str
    separator: str
    npa_gen: int
    # Agent facts 5.7: 1.3.0 to 1.4.0 forget egress's catch-all when one of several policies goes (issue 591).
    forgets_egress_catch_all: bool
    slots: int = 24

    @property
    def defines(self) -> dict[str, int | None]:
        """The IPv4 datapath's switches."""
        return self.defines_for(ipv6=False)

    def defines_for(self, ipv6: bool) -> dict[str, int | None]:
        return build.defines(self.npa_gen, ipv6)

    @property
    def pod_state_keys(self) -> int:
        return build.pod_state_keys(self.npa_gen)

    @property
    def has_cluster_policy(self) -> bool:
        return build.has_cluster_policy(self.npa_gen)

    @property
    def attaches_every_pod(self) -> bool:
        """Agent facts 2.1: at CNI ADD until CNI DEL, or while a PolicyEndpoint selects the pod."""
        return self.npa_gen >= 10200

    @property
    def strict_attaches_at_add(self) -> bool:
        return self.npa_gen >= 10100

    @property
    def empties_maps_on_release(self) -> bool:
        """Agent facts 5.7: before, old entries stay, as DEFAULT_ALLOW does not read them."""
        return self.npa_gen >= 10300

    @property
    def attaches_every_interface(self) -> bool:
        return self.npa_gen >= 10203

    @property
    def veth_prefixes(self) -> tuple[str, ...]:
        """Agent facts 4.5."""
        return ("eni", "vlan") if self.npa_gen >= 10200 else ("eni",)

    @property
    def replaces_dots(self) -> bool:
        return self.npa_gen >= 10102


GENERATIONS = {
    "1.0.1": Generation("1.0.1", "-", 10001, forgets_egress_catch_all=False, slots=8),
    "1.0.4": Generation("1.0.4", "-", 10004, forgets_egress_catch_all=False, slots=8),
    "1.0.5": Generation("1.0.5", "-", 10005, forgets_egress_catch_all=False),
    "1.1.6": Generation("1.1.6", "-", 10106, forgets_egress_catch_all=False),
    "1.2.1": Generation("1.2.1", "-", 10201, forgets_egress_catch_all=False),
    "1.2.3": Generation("1.2.3", "-", 10203, forgets_egress_catch_all=False),
    "1.2.7": Generation("1.2.7", "-", 10207, forgets_egress_catch_all=False),
    "1.3.5": Generation("1.3.5", "-", 10305, forgets_egress_catch_all=True),
    "1.3.7": Generation("1.3.7", "-", 10307, forgets_egress_catch_all=True),
    "1.4.1": Generation("1.4.1", "@", 10401, forgets_egress_catch_all=False),
    "1.4.2": Generation("1.4.2", "@", 10402, forgets_egress_catch_all=False),
}


@dataclass(frozen=True)
class DirectionHandle:
    """One direction of one pod as the agent made it; `attached` is what its veth's filter runs."""

    direction: str
    veth: str | None
    program_id: int
    map_ids: Mapping[str, int]
    program_pin: str
    map_pins: Mapping[str, str]
    attached_program_id: int | None
    attached_map_ids: tuple[int, ...]


@dataclass
class _Pod:
    namespace: str
    name: str
    sandbox: PodSandbox


@dataclass
class _Rule:
    """One CIDR of the NetworkPolicy maps while they are computed."""

    net: ipaddress.IPv4Network | ipaddress.IPv6Network
    base: ipaddress.IPv4Address | ipaddress.IPv6Address
    slots: list[NpSlot]
    excepts: list[str]
    is_host: bool


def pod_identifier(pod: str, namespace: str, separator: str, replace_dots: bool = True) -> str:
    """Agent facts 4.1: dots become underscores (>= 1.1.2), the last "-" piece of the pod's name goes."""
    prefix = pod.replace(".", "_") if replace_dots else pod
    if "-" in prefix:
        prefix = prefix.rpartition("-")[0]
    return f"{prefix}{separator}{namespace}"


# PolicyEndpoint -> map entries ----------------------------------------


def _with_mask(cidr: str) -> str:
    if "/" in cidr:
        return cidr
    return f"{cidr}/{ipaddress.ip_address(cidr).max_prefixlen}"


def _base(cidr: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(cidr.partition("/")[0])


def lpm_key(net: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bytes:
    return struct.pack("<I", net.prefixlen) + net.network_address.packed


def _np_slot(port: Json) -> NpSlot:
    # Protocol nil or unknown means any (>= 1.2.4).
    protocol = PROTOCOLS.get(port.get("protocol") or "", ANY_PROTOCOL)
    return protocol, port.get("port") or 0, port.get("endPort") or 0


def np_entries(rules: Iterable[Json], node_ip: str) -> dict[bytes, list[NpSlot]]:
    """Agent facts 5.3. Slots are deduplicated, but neither cut to the map's size nor in the agent's order."""
    version = ipaddress.ip_address(node_ip).version
    own = ipaddress.ip_address(node_ip)
    usable = [r for r in rules if r.get("cidr")]
    seen: dict[str, _Rule] = {}
    remembered: list[str] = []
    for rule in sorted(usable, key=lambda r: int(_with_mask(r["cidr"]).rpartition("/")[2])):
        cidr = _with_mask(rule["cidr"])
        excepts = list(rule.get("except") or ())
        remembered += excepts
        base = _base(cidr)
        if base == own or base.version != version:
            continue
        _merge_np_rule(seen, cidr, [_np_slot(p) for p in rule.get("ports") or NO_PORTS], excepts)
    entries = {lpm_key(ipaddress.ip_network(_host(node_ip))): [(ANY_PROTOCOL, 0, 0)]}
    # Different texts may mask to one key (<= 1.4.1 does not canonicalise): the one written last stays.
    for rule_ in seen.values():
        entries[lpm_key(rule_.net)] = list(dict.fromkeys(rule_.slots))
    for text in remembered:
        if _with_mask(text) not in seen and _base(text).version == version:
            entries[lpm_key(ipaddress.ip_network(text, strict=False))] = [(RESERVED, 0, 0)]
    return entries


def _host(address: str) -> str:
    return f"{address}/{ipaddress.ip_address(address).max_prefixlen}"


def _merge_np_rule(seen: dict[str, _Rule], cidr: str, slots: list[NpSlot], excepts: list[str]) -> None:
    known = seen.get(cidr)
    if known is not None:
        # No inheritance the second time.
        known.slots += slots
        known.excepts += excepts
        return
    base = _base(cidr)
    inherited: list[NpSlot] = []
    for other in seen.values():
        excluded = any(base in ipaddress.ip_network(e, strict=False) for e in other.excepts)
        if not other.is_host and base in other.net and not excluded:
            inherited += other.slots
    net = ipaddress.ip_network(cidr, strict=False)
    # "Host" is decided by the text of the mask, in both families: an IPv6 /32 counts as one.
    seen[cidr] = _Rule(net, base, slots + inherited, list(excepts), net.prefixlen in (32, 128))


def np_direction(
    endpoints: Sequence[Json], direction: str, node_ip: str, omit_catch_all: bool = False
) -> dict[bytes, list[NpSlot]]:
    """Agent facts 5.2: what one direction's map holds for the union of an identifier's PolicyEndpoints."""
    rules = [r for e in endpoints for r in e["spec"].get(direction) or () if r.get("cidr")]
    listed = any(direction.capitalize() in (e["spec"].get("podIsolation") or ()) for e in endpoints)
    if not rules and not listed and not omit_catch_all:
        everything = "0.0.0.0/0" if ipaddress.ip_address(node_ip).version == 4 else "::/0"
        rules = [{"cidr": everything}]
    return np_entries(rules, node_ip)


def cp_entries(endpoints: Sequence[Json], direction: str, node_ip: str) -> dict[bytes, list[CpSlot]]:
    """Agent facts 5.5: ClusterPolicyEndpoints, with the most specific earlier CIDR inherited."""
    own = ipaddress.ip_address(node_ip)
    todo: list[tuple[str, list[tuple[object, CpSlot]]]] = []
    for endpoint in endpoints:
        spec = endpoint["spec"]
        priority = int(spec.get("priority") or 0) + (BASELINE_OFFSET if spec.get("tier") == "Baseline" else 0)
        for rule in spec.get(direction) or ():
            if rule.get("cidr"):
                todo.append((_with_mask(rule["cidr"]), _cp_slots(rule, priority)))
    todo.sort(key=lambda item: int(item[0].rpartition("/")[2]))
    done: dict[str, list[tuple[object, CpSlot]]] = {}
    for cidr, slots in todo:
        base = _base(cidr)
        if base == own or base.version != own.version:
            continue
        containing = [c for c in done if base in ipaddress.ip_network(c, strict=False)]
        inherited = done[containing[-1]] if containing and containing[-1] != cidr else []
        done[cidr] = done.get(cidr, []) + inherited + slots
    return {
        lpm_key(ipaddress.ip_network(cidr, strict=False)): [slot for _, slot in dict.fromkeys(pairs)]
        for cidr, pairs in done.items()
    }


def _cp_slots(rule: Json, priority: int) -> list[tuple[object, CpSlot]]:
    """With each slot what the agent's deduplication compares: the *pointer* to the protocol, not its text."""
    word = priority * 10 + ACTIONS[rule["action"]]
    ports = rule.get("ports") or ()
    if not ports:
        return [(None, (ANY_PROTOCOL, word, 0, 0))]
    return [
        (
            id(p) if p.get("protocol") else None,
            (PROTOCOLS.get(p.get("protocol") or "TCP", 6), word, p.get("port") or 0, p.get("endPort") or 0),
        )
        for p in ports
    ]


# the agent ----------------------------------------


@dataclass
class _Memory:
    """What the agent remembers between two syncs."""

    endpoints: list[Json] = field(default_factory=list)
    cluster_endpoints: list[Json] = field(default_factory=list)
    # (identifier, namespace) -> names of policies: a reconcile knows one namespace only
    policies: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    # local pods that a PolicyEndpoint selected at the last sync
    selected: set[tuple[str, str]] = field(default_factory=set)
    cluster_identifiers: set[str] = field(default_factory=set)


class Agent(Breakages):
    """One node's agent. Everything it makes belongs to the node and ends with it.

    `faults`: what it does wrong from now on, see FAULTS. What breaks at once is in the methods of Breakages.
    """

    def __init__(
        self,
        node: Node,
        generation: Generation | str = "1.4.1",
        mode: Mode = "standard",
        conntrack_size: int | None = None,
    ) -> None:
        self.node = node
        self.generation = GENERATIONS[generation] if isinstance(generation, str) else generation
        self.mode = mode
        self.faults: set[str] = set()
        self.conntrack_size = conntrack_size
        self._restarted_stale = False
        self._pods: dict[tuple[str, str], _Pod] = {}
        self._memory = _Memory()
        # Slot order and which 24 of more than 24 survive are random in the agent; here repeatable.
        self._random = random.Random(0)
        # One node runs one family, that of its own address.
        self.ipv6 = ipaddress.ip_address(node.ip).version == 6
        defines = self.generation.defines_for(self.ipv6)
        self._objects = {d: elf.parse(build.compile_datapath(d, defines)) for d in DIRECTIONS}
        for directory in (MAPS_DIR, PROGRAMS_DIR):
            self._path(directory).mkdir(parents=True, exist_ok=True)
        self._create_global_maps()

    # pins ----------------------------------------

    def _path(self, path: str) -> Path:
        """A path of the node as seen from here: no process of ours has to enter its mount namespace."""
        return Path(f"{self.node.root}{path}")

    def identifier(self, namespace: str, name: str) -> str:
        return pod_identifier(name, namespace, self.generation.separator, self.generation.replaces_dots)

    def map_pin(self, identifier: str, name: str) -> str:
        return f"{MAPS_DIR}/{GLOBAL_PREFIX if name in GLOBAL_MAPS else identifier + '_'}{name}"

    def program_pin(self, identifier: str, direction: str) -> str:
        return f"{PROGRAMS_DIR}/{identifier}_handle_{direction}"

    def _pin(self, fd: int, path: str) -> None:
        """An existing pin is removed and replaced.

        A refusal is not noticed (agent facts 1.1): bpffs takes no dots, and a name of 255 bytes at most.
        """
        target = self._path(path)
        try:
            target.unlink(missing_ok=True)
            bpfsys.pin(fd, str(target))
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.ENAMETOOLONG):
                raise

    @contextlib.contextmanager
    def open_pin(self, path: str) -> Iterator[int]:
        fd = bpfsys.obj_get(str(self._path(path)))
        try:
            yield fd
        finally:
            os.close(fd)

    def open_map(self, namespace: str, pod: str, name: str) -> contextlib.AbstractContextManager[int]:
        """Context manager: a file descriptor of a pod's (or a global) map, for tests."""
        return self.open_pin(self.map_pin(self.identifier(namespace, pod), name))

    def _create_map(self, name: str, definition: elf.MapDef) -> int:
        entries = definition.max_entries
        if name == "aws_conntrack_map" and self.conntrack_size is not None:
            entries = self.conntrack_size
        return bpfsys.map_create(definition.type, definition.key_size, definition.value_size, entries, definition.flags)

    def _create_global_maps(self) -> None:
        for name in GLOBAL_MAPS:
            fd = self._create_map(name, self._objects["ingress"].maps[name])
            try:
                self._pin(fd, self.map_pin("", name))
            finally:
                os.close(fd)

    # programs ----------------------------------------

    def _is_loaded(self, identifier: str) -> bool:
        return all(os.path.exists(self._path(self.program_pin(identifier, d))) for d in DIRECTIONS)

    def _load(self, identifier: str) -> None:
        """One program pair and one set of maps per identifier, pinned; nothing stays open."""
        for direction in DIRECTIONS:
            self._load_direction(identifier, direction)

    def _load_objects(self, direction: str, stack: contextlib.ExitStack) -> tuple[int, dict[str, int]]:
        """A program and its maps, new except for the global ones; open until the stack ends."""
        obj = self._objects[direction]
        fds = {}
        for name, definition in obj.maps.items():
            if name in GLOBAL_MAPS:
                fds[name] = stack.enter_context(self.open_pin(self.map_pin("", name)))
            else:
                fds[name] = self._create_map(name, definition)
                stack.callback(os.close, fds[name])
        program = bpfsys.prog_load(obj.link(fds), obj.license)
        stack.callback(os.close, program)
        return program, fds

    def _load_direction(self, identifier: str, direction: str) -> None:
        with contextlib.ExitStack() as stack:
            program, fds = self._load_objects(direction, stack)
            for name, fd in fds.items():
                if name not in GLOBAL_MAPS:
                    self._pin(fd, self.map_pin(identifier, name))
            self._pin(program, self.program_pin(identifier, direction))

    def _unload(self, identifier: str) -> None:
        for direction in DIRECTIONS:
            self._path(self.program_pin(identifier, direction)).unlink(missing_ok=True)
            for name in self._objects[direction].maps:
                if name not in GLOBAL_MAPS:
                    self._path(self.map_pin(identifier, name)).unlink(missing_ok=True)

    def _interfaces(self, pod: _Pod) -> list[Interface]:
        """Those that the agent finds: it looks for links by their names."""
        found = [i for i in pod.sandbox.interfaces if i.host_name.startswith(self.generation.veth_prefixes)]
        every = self.generation.attaches_every_interface and "first_interface_only" not in self.faults
        return found if every else [i for i in found if i is pod.sandbox.interfaces[0]]

    def _attach(self, pod: _Pod) -> None:
        identifier = self.identifier(pod.namespace, pod.name)
        if not self._is_loaded(identifier):
            return
        for interface in self._interfaces(pod):
            with contextlib.suppress(NetlinkError):
                self.node._netlink.add_clsact(interface.host_index)
            for direction in DIRECTIONS:
                with self.open_pin(self.program_pin(identifier, direction)) as fd:
                    self._add_filter(interface.host_index, direction, fd)

    def _add_filter(self, index: int, direction: str, program: int) -> None:
        try:
            self.node._netlink.add_bpf_filter(index, HOOKS[direction], program, f"handle_{direction}")
        except NetlinkError as exc:
            # Agent facts 9.2 no. 30: "file exists" is ignored, which leaves an older filter in place.
            if exc.errno != errno.EEXIST:
                raise

    # pods ----------------------------------------

    @property
    def default_state(self) -> int:
        return DEFAULT_DENY if self.mode == "strict" else DEFAULT_ALLOW

    def pod_added(self, namespace: str, name: str) -> None:
        """What happens at CNI ADD: probes in both modes, and pod_state (>= 1.2.0).

        To 1.1.6 it is nothing in standard mode, and from 1.1.0 probes with empty maps in strict mode.
        """
        strict = self.mode == "strict" and self.generation.strict_attaches_at_add
        if self.generation.attaches_every_pod or strict:
            self._take_pod(namespace, name)

    def _take_pod(self, namespace: str, name: str) -> None:
        sandbox = self.node.pods[namespace, name]
        if sandbox.host_network:
            return
        identifier = self.identifier(namespace, name)
        first = not any(self.identifier(p.namespace, p.name) == identifier for p in self._pods.values())
        pod = self._pods[namespace, name] = _Pod(namespace, name, sandbox)
        if not self._is_loaded(identifier):
            self._load(identifier)
        if "no_attach" not in self.faults:
            self._attach(pod)
        if first and self._is_loaded(identifier):
            self._first_state(identifier, namespace)

    def _first_state(self, identifier: str, namespace: str) -> None:
        """Agent facts 5.6: a policy that is known already is programmed at once."""
        endpoints = self._listing(identifier, self._memory.endpoints, namespace)
        cluster = self._listing(identifier, self._memory.cluster_endpoints, None)
        self._set_state(identifier, NETWORK_POLICY_KEY, APPLIED if endpoints else self.default_state)
        self._set_state(identifier, CLUSTER_POLICY_KEY, APPLIED if cluster else DEFAULT_ALLOW)
        if endpoints:
            self._program_np(identifier, endpoints)
        if cluster:
            self._program_cp(identifier, cluster)

    def pod_removed(self, namespace: str, name: str) -> None:
        """CNI DEL: the filter goes with the veth; the last pod of an identifier takes pins and maps along.

        To 1.1.6 the agent is not told: pins go once no PolicyEndpoint lists the pod any more.
        """
        if self.generation.attaches_every_pod:
            self._give_up_pod(namespace, name)

    def _give_up_pod(self, namespace: str, name: str) -> None:
        pod = self._pods.pop((namespace, name), None)
        if pod is None:
            return
        self._detach(pod)
        identifier = self.identifier(namespace, name)
        if not any(self.identifier(p.namespace, p.name) == identifier for p in self._pods.values()):
            if "leave_pins" not in self.faults:
                self._unload(identifier)
            for key in [k for k in self._memory.policies if k[0] == identifier]:
                del self._memory.policies[key]
            self._memory.cluster_identifiers.discard(identifier)

    # reconcile ----------------------------------------

    def sync(self, policy_endpoints: Sequence[Json], cluster_policy_endpoints: Sequence[Json] = ()) -> None:
        """Makes the maps what these objects say; the lists are all that exist, not a change."""
        self._memory.endpoints = list(policy_endpoints)
        self._memory.cluster_endpoints = list(cluster_policy_endpoints)
        if "stale_program" in self.faults and not self._restarted_stale:
            self._restarted_stale = True
            self.restart()
        self._sync_network_policies()
        self._sync_cluster_policies()

    def _identifiers_listed(self, endpoint: Json) -> set[str]:
        """From all endpoints of the object, those of other nodes too (agent facts 4.3)."""
        listed = endpoint["spec"].get("podSelectorEndpoints") or ()
        return {self.identifier(e["namespace"], e["name"]) for e in listed}

    def _listing(self, identifier: str, endpoints: Sequence[Json], namespace: str | None) -> list[Json]:
        """A reconcile reads the PolicyEndpoints of one namespace; cluster objects have none."""
        return [
            e
            for e in endpoints
            if identifier in self._identifiers_listed(e)
            and (namespace is None or e["metadata"]["namespace"] == namespace)
        ]

    def _is_local(self, listed: Json, skip_host_network: bool) -> bool:
        own = ipaddress.ip_address(self.node.ip)
        if ipaddress.ip_address(listed["hostIP"]) != own:
            return False
        # A host network pod is skipped for PolicyEndpoints only (>= 1.3.2).
        return not (skip_host_network and ipaddress.ip_address(listed["podIP"]) == own)

    def _local_identifiers(self, endpoints: Iterable[Json], skip_host_network: bool) -> dict[str, str]:
        """Identifiers with a local, listed pod -> namespace. Such pods get their probes here if need be."""
        found: dict[str, str] = {}
        for namespace, name in self._local_pods(endpoints, skip_host_network):
            if self._ensure_pod(namespace, name):
                found[self.identifier(namespace, name)] = namespace
        return found

    def _local_pods(self, endpoints: Iterable[Json], skip_host_network: bool) -> list[tuple[str, str]]:
        return [
            (listed["namespace"], listed["name"])
            for endpoint in endpoints
            for listed in endpoint["spec"].get("podSelectorEndpoints") or ()
            if self._is_local(listed, skip_host_network)
        ]

    def _ensure_pod(self, namespace: str, name: str) -> bool:
        """Whether the pod is there and its maps can be written."""
        key = (namespace, name)
        known = self._pods.get(key)
        # A pod may have been replaced by one of the same name, which has another veth.
        if key in self.node.pods and (known is None or known.sandbox is not self.node.pods[key]):
            self._take_pod(*key)
        return key in self._pods and self._is_loaded(self.identifier(namespace, name))

    def _sync_network_policies(self) -> None:
        now: set[tuple[str, str]] = set()
        for namespace in sorted({e["metadata"]["namespace"] for e in self._memory.endpoints}):
            here = [e for e in self._memory.endpoints if e["metadata"]["namespace"] == namespace]
            for identifier in sorted(self._local_identifiers(here, skip_host_network=True)):
                now.add((identifier, namespace))
                self._reconcile(identifier, namespace, self._listing(identifier, here, namespace))
        still = {identifier for identifier, _ in now}
        for gone in sorted(set(self._memory.policies) - now):
            del self._memory.policies[gone]
            if gone[0] not in still and self.generation.attaches_every_pod:
                self._release(gone[0])
        if not self.generation.attaches_every_pod:
            self._give_up_unselected()

    def _give_up_unselected(self) -> None:
        """Agent facts 2.1 and 5.7 (<= 1.1.6): a pod that no policy selects any more has no filter."""
        now = set(self._local_pods(self._memory.endpoints, skip_host_network=True))
        for key in sorted(self._memory.selected - now):
            self._give_up_pod(*key)
        self._memory.selected = now

    def _reconcile(self, identifier: str, namespace: str, endpoints: list[Json]) -> None:
        policies = {e["spec"]["policyRef"]["name"] for e in endpoints}
        removed = self._memory.policies.get((identifier, namespace), set()) - policies
        self._memory.policies[identifier, namespace] = policies
        forget = bool(removed) and self.generation.forgets_egress_catch_all
        self._program_np(identifier, endpoints, forget_egress=forget)
        self._set_state(identifier, NETWORK_POLICY_KEY, APPLIED)
        self._seed_state(identifier, CLUSTER_POLICY_KEY, DEFAULT_ALLOW)

    def _release(self, identifier: str) -> None:
        """Agent facts 5.7 (>= 1.2.0): the last policy is gone; from 1.3.0 only the node's own address stays."""
        if not self._is_loaded(identifier):
            return
        if self.generation.empties_maps_on_release:
            for direction in DIRECTIONS:
                self._write(identifier, f"{direction}_map", self._encode_np(np_entries([], self.node.ip)))
        self._set_state(identifier, NETWORK_POLICY_KEY, self.default_state)

    def _sync_cluster_policies(self) -> None:
        if not self.generation.has_cluster_policy:
            return
        endpoints = self._memory.cluster_endpoints
        now = set(self._local_identifiers(endpoints, skip_host_network=False))
        for identifier in sorted(now | self._memory.cluster_identifiers):
            if not self._is_loaded(identifier):
                continue
            self._program_cp(identifier, self._listing(identifier, endpoints, None))
            self._seed_state(identifier, NETWORK_POLICY_KEY, self.default_state)
        self._memory.cluster_identifiers = now

    # maps ----------------------------------------

    def _program_np(self, identifier: str, endpoints: list[Json], forget_egress: bool = False) -> None:
        for direction in DIRECTIONS:
            entries = np_direction(
                endpoints, direction, self.node.ip, omit_catch_all=forget_egress and direction == "egress"
            )
            self._write(identifier, f"{direction}_map", self._encode_np(entries))

    def _program_cp(self, identifier: str, endpoints: list[Json]) -> None:
        count = 0
        for direction in DIRECTIONS:
            entries = cp_entries(endpoints, direction, self.node.ip)
            count += len(entries)
            self._write(identifier, f"cp_{direction}_map", self._encode(entries, "<4I", 16))
        self._set_state(identifier, CLUSTER_POLICY_KEY, APPLIED if count else DEFAULT_ALLOW)

    def _encode_np(self, entries: Mapping[bytes, Sequence[NpSlot]]) -> dict[bytes, bytes]:
        return self._encode(entries, "<3I", 12)

    def _encode(
        self, entries: Mapping[bytes, Sequence[tuple[int, ...]]], slot_format: str, slot_size: int
    ) -> dict[bytes, bytes]:
        encoded = {}
        for key, slots in entries.items():
            chosen = self._random.sample(list(slots), min(len(slots), self.generation.slots))
            body = b"".join(struct.pack(slot_format, *slot) for slot in chosen)
            encoded[key] = body.ljust(slot_size * self.generation.slots, b"\0")
        return encoded

    def _write(self, identifier: str, name: str, wanted: Mapping[bytes, bytes]) -> None:
        """Upsert, then delete what is not wanted: a reader may see both for a moment."""
        if "skip_map_update" in self.faults:
            return
        with self.open_pin(self.map_pin(identifier, name)) as fd:
            for key, value in wanted.items():
                bpfsys.map_update(fd, key, value)
            info = bpfsys.map_info(fd)
            for key in set(bpfsys.map_keys(fd, info.key_size)) - set(wanted):
                bpfsys.map_delete(fd, key)

    def _set_state(self, identifier: str, key: int, state: int) -> None:
        """Both directions are always written together. Keys that the generation has not are not written."""
        if key >= self.generation.pod_state_keys:
            return
        for direction in DIRECTIONS:
            with self.open_pin(self.map_pin(identifier, f"{direction}_pod_state_map")) as fd:
                raw = struct.pack("<I", key)
                if "drop_pod_state" in self.faults:
                    bpfsys.map_delete(fd, raw)
                else:
                    bpfsys.map_update(fd, raw, bytes([state]))

    def _seed_state(self, identifier: str, key: int, state: int) -> None:
        """Only where the key is missing."""
        if key < self.generation.pod_state_keys and self._state(identifier, key) is None:
            self._set_state(identifier, key, state)

    def _state(self, identifier: str, key: int) -> int | None:
        with self.open_pin(self.map_pin(identifier, "ingress_pod_state_map")) as fd:
            value = bpfsys.map_lookup(fd, struct.pack("<I", key), 1)
        return None if value is None else value[0]

    def restart(self) -> None:
        """A restart that loads everything anew (agent facts 2.2): empty maps, default states, new filters.

        To 1.1.6 the filters are taken off instead, and come back when the policies are reconciled.

        With the fault "stale_program" the old filters stay, as when "file exists" is taken for success: the
        pins hold programs that no packet meets. The next sync fills the pinned maps.
        """
        stale = bool(self.faults & {"stale_program", "no_attach"})
        self._memory = _Memory(self._memory.endpoints, self._memory.cluster_endpoints, selected=self._memory.selected)
        if not self.generation.attaches_every_pod and not stale:
            self._restarted_stale = False
            for key in sorted(self._pods):
                self._give_up_pod(*key)
            return
        for identifier in sorted({self.identifier(p.namespace, p.name) for p in self._pods.values()}):
            self._load(identifier)
            self._set_state(identifier, NETWORK_POLICY_KEY, self.default_state)
            self._set_state(identifier, CLUSTER_POLICY_KEY, DEFAULT_ALLOW)
        if not stale:
            self._restarted_stale = False
            for pod in self._pods.values():
                self._detach(pod)
                self._attach(pod)

    def _detach(self, pod: _Pod) -> None:
        links = self.node._netlink.links()
        for interface in pod.sandbox.interfaces:
            if interface.host_name in links:
                with contextlib.suppress(NetlinkError):
                    self.node._netlink.delete_clsact(interface.host_index)

    # for tests ----------------------------------------

    def handles(self, namespace: str, name: str) -> dict[str, DirectionHandle]:
        """Per direction, what is pinned for the pod and what its veth's filter really runs."""
        return {d: self._handle(namespace, name, d) for d in DIRECTIONS}

    def _handle(self, namespace: str, name: str, direction: str) -> DirectionHandle:
        identifier = self.identifier(namespace, name)
        map_pins = {m: self.map_pin(identifier, m) for m in self._objects[direction].maps}
        map_ids = {}
        for map_name, path in map_pins.items():
            with self.open_pin(path) as fd:
                map_ids[map_name] = bpfsys.map_info(fd).id
        program_pin = self.program_pin(identifier, direction)
        with self.open_pin(program_pin) as fd:
            program_id = bpfsys.prog_info(fd).id
        attached = self._attached_program(namespace, name, direction)
        return DirectionHandle(
            direction, self.node.pods[namespace, name].veth, program_id, map_ids, program_pin, map_pins,
            attached, _map_ids_of(attached),
        )  # fmt: skip

    def _attached_program(self, namespace: str, name: str, direction: str) -> int | None:
        link = self.node._netlink.links().get(self.node.pods[namespace, name].veth or "")
        filters = self.node._netlink.filters(link.index, HOOKS[direction]) if link else []
        return filters[0].prog_id if filters else None


def _map_ids_of(program_id: int | None) -> tuple[int, ...]:
    fd = bpfsys.prog_fd_by_id(program_id) if program_id is not None else None
    if fd is None:
        return ()
    try:
        return bpfsys.prog_info(fd).map_ids
    finally:
        os.close(fd)
