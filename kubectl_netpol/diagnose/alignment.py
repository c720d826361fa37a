"""YAML rules, PolicyEndpoint entries and map entries of one direction, aligned by prefix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from ipaddress import IPv4Network
from typing import Any

from kubectl_netpol.diagnose import agent_release
from kubectl_netpol.kernel.identity import pod_part
from kubectl_netpol.kernel.layouts import SLOTS
from kubectl_netpol.kernel.verdict import slots_text, used_slots
from kubectl_netpol.model.flow import Direction, Network
from kubectl_netpol.model.kernel import LpmEntry, LpmTable
from kubectl_netpol.policy import agent, agent_newer, controller, endpoints, networkpolicy
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.controller import Skipped, Wanted
from kubectl_netpol.policy.endpoints import EndpointEntry
from kubectl_netpol.policy.ports import ALL_PORTS
from kubectl_netpol.policy.world import World, kind_of, name_of, namespace_of, node_of, pod_ip

Json = dict[str, Any]


class Status(StrEnum):
    """How one line compares over the three columns."""

    OK = "ok"
    NODE = "ok: own node"
    CATCH_ALL = "ok: not restricted"
    EXCEPT = "ok: except"
    NOT_RESOLVED = "NOT IN POLICYENDPOINT"
    STALE = "NOT IN YAML"
    NOT_IN_MAP = "NOT IN MAP"
    UNWANTED = "NOBODY ASKED FOR IT"
    PORTS_DIFFER = "PORTS DIFFER"
    CUT_OFF = "MORE PORTS THAN FIT"
    NOT_ENFORCED = "NOT ENFORCED"
    OTHER_FAMILY = "ignored: other family"
    IDLE = "not consulted"
    UNKNOWN = "unknown"

    @property
    def good(self) -> bool:
        fine = (Status.OK, Status.NODE, Status.CATCH_ALL, Status.EXCEPT, Status.OTHER_FAMILY, Status.IDLE)
        return self in fine


@dataclass(frozen=True)
class Row:
    """One line: what one rule wants for one prefix, what was resolved, what the map holds."""

    prefix: Network
    who: str
    policy: str = ""
    path: str = ""
    selects: str = ""
    intent: str | None = None
    """Ports as the YAML means them; None: the YAML does not ask for this prefix."""
    endpoint: str = ""
    """`name spec.ingress[0]`."""
    resolved: str | None = None
    kernel: str | None = None
    """Slots of the map; None: no such entry."""
    status: Status = Status.OK
    note: str = ""


@dataclass(frozen=True)
class Alignment:
    """All rows of one direction, and the YAML peers that resolve to nothing."""

    direction: Direction
    policies: tuple[str, ...]
    """The policies that isolate the pod in this direction."""
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    reason: str = ""
    """Why a column is unknown."""


@dataclass(frozen=True)
class Held:
    """What the kernel holds for one direction, as far as the rows need it."""

    table: LpmTable | None
    """The attached rule map; None where unknown (``unread`` says why) or where nothing is attached."""
    complete: bool = True
    """All entries with all slots were read."""
    idle: bool = False
    """The pod state says that the map is not the last word (DEFAULT_ALLOW): left-over entries are no fault."""
    attached: bool = True
    """False: it is known that no program is attached."""
    slots: int | None = None
    """How many slots of an entry the program looks at; None: as many as there are."""
    exact: bool = True
    """False: an agent before 1.2.4 may have filled the map, by rules of its own."""
    elsewhere: bool = False
    """Pods of the identifier are listed on other nodes only: the agent may or may not have written their rules."""
    unread: str = ""
    asked: bool = True
    """False: the question is about the API alone."""


def align(pod: Json, direction: Direction, world: World, held: Held) -> Alignment:
    """Build the rows."""
    wanted, skipped = _wanted(pod, direction, world)
    resolved = endpoints.of_identifier(world, pod)
    family = family_of(held.table, pod)
    own = world.own_node_address(pod, family)
    expected = agent.program(resolved, direction, own, family)
    reasons = {kind: world.snapshot.get(kind).reason for kind in (*_INTENT_KINDS, "policyendpoints")}
    intent_known = not any(reasons[kind] for kind in _INTENT_KINDS)

    def newer() -> Mapping[Network, agent.Expected]:
        return agent_newer.program(resolved, direction, own, family)

    builder = _Builder(pod, direction, world, held, intent_known, not reasons["policyendpoints"], family, newer)
    rows = builder.rows(wanted, list(endpoints.entries(resolved, direction)), expected)
    names = tuple(sorted({p["metadata"]["name"] for p in networkpolicy.isolating(world, pod, direction)}))
    return Alignment(
        direction,
        names,
        tuple(rows),
        tuple(skipped),
        "; ".join(f"{kind}: {why}" for kind, why in reasons.items() if why),
    )


def family_of(table: LpmTable | None, pod: Json) -> int:
    """That of the map's entries, else that of the pod's address."""
    if table is not None and table.entries:
        return table.entries[0].prefix.version
    address = pod_ip(pod)
    return address.version if address else 4


def _wanted(pod: Json, direction: Direction, world: World) -> tuple[list[Wanted], list[Skipped]]:
    wanted: list[Wanted] = []
    skipped: list[Skipped] = []
    for policy in (*world.policies_selecting(pod), *_of_mates(pod, world)):
        more, less = controller.resolve(policy, direction, world)
        wanted += more
        skipped += less
    return wanted, skipped


def _of_mates(pod: Json, world: World) -> list[Json]:
    """Policies that select a pod of the same pod identifier and not this one: their rules are in its maps too."""
    own = {(kind_of(policy), name_of(policy)) for policy in world.policies_selecting(pod)}
    named = {endpoints.policy_of(one) for one in endpoints.of_identifier(world, pod)}
    namespace, part = namespace_of(pod), pod_part(name_of(pod))
    return [
        policy
        for policies in (world.policies_of, world.application_policies_of)
        for policy in policies.get(namespace, ())
        if name_of(policy) in named and (kind_of(policy), name_of(policy)) not in own
        if any(pod_part(name_of(mate)) == part for mate in controller.resolution(policy, world).pods)
    ]


class _Builder:
    """Joins the three columns on (prefix, policy)."""

    def __init__(
        self,
        pod: Json,
        direction: Direction,
        world: World,
        held: Held,
        intent_known: bool,
        endpoints_known: bool,
        family: int,
        make_newer: Callable[[], Mapping[Network, agent.Expected]],
    ) -> None:
        self.pod, self.direction, self.world = pod, direction, world
        self.make_newer = make_newer
        self.held, self.table = held, held.table
        self.intent_known, self.endpoints_known, self.family = intent_known, endpoints_known, family

    @cached_property
    def newer(self) -> Mapping[Network, agent.Expected]:
        """What agents after 1.4.2 write: asked for where a map is not as those before do."""
        return self.make_newer()

    def rows(
        self, wanted: list[Wanted], resolved: list[EndpointEntry], expected: dict[Network, agent.Expected]
    ) -> Iterable[Row]:
        asked: dict[tuple[Network, str], list[Wanted]] = defaultdict(list)
        given: dict[tuple[Network, str], list[EndpointEntry]] = defaultdict(list)
        for want in wanted:
            asked[want.prefix, want.policy].append(want)
        for entry in resolved:
            given[entry.prefix, entry.policy].append(entry)
        rows = []
        for key in asked | given:
            rows += self._pair(key[0], asked.get(key, []), given.get(key, []), expected.get(key[0]))
        covered = {row.prefix for row in rows}
        rows += [self._made_by_agent(e) for prefix, e in expected.items() if prefix not in covered]
        rows += [
            self._unexpected(entry)
            for entry in (self.table.entries if self.table else ())
            if entry.prefix not in covered and entry.prefix not in expected
        ]
        return sorted(rows, key=_order)

    def _pair(
        self,
        prefix: Network,
        asked: list[Wanted],
        given: list[EndpointEntry],
        expected: agent.Expected | None,
    ) -> list[Row]:
        status, note = self._status(prefix, asked, given, expected)
        common: dict[str, Any] = {
            "prefix": prefix,
            "endpoint": ", ".join(dict.fromkeys(f"{e.endpoint} {e.path}" for e in given)),
            "resolved": _union_text([e.ports for e in given]) if given else None,
            "kernel": self._kernel_text(prefix),
            "status": status,
            "note": note,
        }
        if not asked:
            return [Row(who=self._who(prefix), policy=given[0].policy, **common)]
        return [
            Row(
                who=want.who,
                policy=want.policy,
                path=want.path,
                selects=want.selects,
                intent=port_lists.text(want.ports),
                **common,
            )
            for want in asked
        ]

    def _status(
        self,
        prefix: Network,
        asked: list[Wanted],
        given: list[EndpointEntry],
        expected: agent.Expected | None,
    ) -> tuple[Status, str]:
        if prefix.version != self.family:
            return Status.OTHER_FAMILY, f"the cluster is IPv{self.family}: the agent skips this family"
        if not self.endpoints_known:
            return Status.UNKNOWN, "the PolicyEndpoints were not read"
        if self.intent_known:
            if asked and not given:
                return Status.NOT_RESOLVED, "the controller did not resolve this peer (yet)"
            if given and not asked:
                return Status.STALE, "no rule of the policy means this address now: a stale or foreign entry"
            there = _ports(e.ports for e in given)
            if there != _ports(w.ports for w in asked):
                if there != controller.narrowed(port for w in asked for port in w.ports or ALL_PORTS):
                    return Status.PORTS_DIFFER, PORTS_RESOLVED_NOTE
                status, note = self._against_map(prefix, expected)
                return status, note or NARROWED_NOTE
        return self._against_map(prefix, expected)

    def _against_map(self, prefix: Network, expected: agent.Expected | None) -> tuple[Status, str]:
        status, note = self._by_older(prefix, expected)
        if status in (Status.NOT_IN_MAP, Status.UNWANTED, Status.PORTS_DIFFER, Status.CUT_OFF):
            return self._by_newer(prefix) or (status, note)
        return status, note

    def _by_newer(self, prefix: Network) -> tuple[Status, str] | None:
        """What comes of it where the map is as agents after 1.4.2 write it; None: it is not."""
        if not self.held.exact or self.held.slots not in (None, SLOTS):
            # The program is one of agents before 1.2.4.
            return None
        expected, actual = self.newer.get(prefix), self.table.get(prefix) if self.table else None
        if not agent_release.is_written(expected, actual):
            return None
        if expected is None:
            return Status.OK, f"no entry, {NEWER_NOTE}"
        if expected.lost:
            count = len(expected.slots) + len(expected.lost)
            return Status.CUT_OFF, f"{count} port rules meet here, {len(expected.lost)} are lost, {NEWER_NOTE}"
        inherited = ", ".join(sorted({str(e.prefix) for e in expected.inherited}))
        return Status.OK, f"also the ports of {inherited}, {NEWER_NOTE}" if inherited else NEWER_NOTE

    def _by_older(self, prefix: Network, expected: agent.Expected | None) -> tuple[Status, str]:
        if not self.held.asked:
            return Status.OK, ""
        if not self.held.attached:
            return Status.NOT_ENFORCED, "no program is attached: nothing is filtered"
        if self.table is None:
            why = f": {self.held.unread}" if self.held.unread else ""
            return Status.UNKNOWN, f"the attached map was not read{why}"
        actual = self.table.get(prefix)
        if actual is None:
            if expected is None:
                return Status.OK, "the own node is always allowed" if self._is_own_node(prefix) else ""
            if not self.held.complete:
                return Status.UNKNOWN, "the map was not read to its end"
            if self.held.elsewhere:
                return Status.UNKNOWN, "its policies list pods of this pod identifier on other nodes only"
            return Status.NOT_IN_MAP, "the agent should have written this entry, and the map does not hold it"
        if expected is None:
            return (Status.NODE, self._node_note) if self._is_own_node(prefix) else (Status.UNWANTED, _NOBODY)
        return self._against_slots(actual, expected)

    def _against_slots(self, actual: LpmEntry, expected: agent.Expected) -> tuple[Status, str]:
        room = self.held.slots or len(actual.slots)
        slots = set(used_slots(actual.slots[:room]))
        if slots == expected.slots:
            inherited = sorted({str(e.prefix) for e in expected.inherited})
            return Status.OK, f"also the ports of {', '.join(inherited)}" if inherited else ""
        if frozenset(slots) in expected.others:
            return (
                Status.OK,
                "two rules of this prefix are written with other host bits: agents <= 1.4.1 keep one of them",
            )
        if not self.held.complete:
            return Status.UNKNOWN, "not all slots of the entry were read"
        if len(expected.slots) > room and slots <= expected.slots:
            missing = len(expected.slots - slots)
            return (
                Status.CUT_OFF,
                f"{len(expected.slots)} port rules meet here and {room} fit: {missing} are lost",
            )
        wanted = slots_text(tuple(sorted(expected.slots)))
        if not self.held.exact:
            return Status.UNKNOWN, f"an agent >= 1.2.4 would allow {wanted}; older ones write some entries differently"
        return Status.PORTS_DIFFER, f"the map should allow {wanted}"

    def _made_by_agent(self, expected: agent.Expected) -> Row:
        prefix = expected.prefix
        status, note = self._against_map(prefix, expected)
        if status is Status.OK:
            status, note = {
                agent.NODE: (Status.NODE, self._node_note),
                agent.CATCH_ALL: (
                    Status.CATCH_ALL,
                    f"added by the agent: policies apply to the pod, but none restricts {self.direction}",
                ),
                agent.EXCEPT: (
                    Status.EXCEPT,
                    f"an except of an ipBlock: {note or 'denied, also for other rules'}",
                ),
            }.get(expected.origin, (status, note))
        return Row(prefix=prefix, who=self._who(prefix), kernel=self._kernel_text(prefix), status=status, note=note)

    def _unexpected(self, entry: LpmEntry) -> Row:
        status, note = Status.UNWANTED, _NOBODY
        if self._is_own_node(entry.prefix):
            status, note = Status.NODE, self._node_note
        elif not self.endpoints_known:
            status, note = Status.UNKNOWN, "the PolicyEndpoints were not read"
        elif self.held.idle:
            status, note = Status.IDLE, "no policy applies to the pod: left over"
        text = slots_text(entry.slots)
        return Row(prefix=entry.prefix, who=self._who(entry.prefix), kernel=text, status=status, note=note)

    @property
    def _node_note(self) -> str:
        why = "for the kubelet's probes" if self.direction is Direction.INGRESS else "as for every pod"
        return f"added by the agent {why}: the own node always passes"

    def _is_own_node(self, prefix: Network) -> bool:
        own = self.world.own_node_address(self.pod, prefix.version)
        return own is not None and prefix.network_address == own and prefix.prefixlen == prefix.max_prefixlen

    def _who(self, prefix: Network) -> str:
        if self._is_own_node(prefix):
            return f"node {node_of(self.pod)}"
        return who(prefix, self.world)

    def _kernel_text(self, prefix: Network) -> str | None:
        entry = self.table.get(prefix) if self.table else None
        return slots_text(entry.slots) if entry else None


NEWER_NOTE = "as agents after 1.4.2 write it"
PORTS_RESOLVED_NOTE = "YAML and PolicyEndpoint allow different ports"
NARROWED_NOTE = "a rule for all ports and one for some meet here: controllers 1.0.7 to 1.1.2 keep only the latter"
_INTENT_KINDS = ("networkpolicies", "applicationnetworkpolicies", "namespaces", "pods", "services")
"""What the YAML column is made of."""
_NOBODY = "no rule and no PolicyEndpoint of this pod asks for this entry"


def who(prefix: Network, world: World) -> str:
    """`pod default/x`, `node x`, `service ns/x`, `cidr`, `anybody`, or `unknown address`."""
    if prefix.prefixlen == 0:
        return "anybody"
    if prefix.prefixlen < (32 if isinstance(prefix, IPv4Network) else 128):
        return "cidr"
    return world.who(prefix.network_address) or "unknown address"


def _ports(lists: Iterable[tuple[port_lists.Port, ...]]) -> frozenset[port_lists.Port]:
    """The union of port lists; all ports swallow the rest."""
    return controller.union(port for ports in lists for port in ports or ALL_PORTS)


def _union_text(lists: list[tuple[port_lists.Port, ...]]) -> str:
    return port_lists.text(tuple(_ports(lists)))


def _order(row: Row) -> tuple[bool, str, str, int, int]:
    """Rules in the order of the YAML, then what only the kernel has."""
    return row.intent is None, row.policy, row.path, int(row.prefix.network_address), row.prefix.prefixlen
