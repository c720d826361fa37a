"""`drops POD`: the flows that the agent logged for a pod, each DENY judged again by the maps of now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

from kubectl_netpol.diagnose import plan as planning
from kubectl_netpol.diagnose.checks.config import no_flow_log
from kubectl_netpol.diagnose.layers import LegVerdict, judge, node_views
from kubectl_netpol.diagnose.plan import Leg
from kubectl_netpol.kernel.flowlog import DENY, UNKNOWN_PROTOCOL, LoggedFlow, parse, parse_time, time_text
from kubectl_netpol.model.finding import Finding
from kubectl_netpol.model.flow import Address, Direction, Flow
from kubectl_netpol.model.snapshot import Snapshot
from kubectl_netpol.model.verdict import Decision, Layer
from kubectl_netpol.policy import endpoints
from kubectl_netpol.policy.cni import AGENT, AWS_NODE, NAMESPACE, Version, cni_of
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.nodes import AGENT_LOG
from kubectl_netpol.policy.world import World, container_ports, labels_of, name_of, namespace_of, node_of, pod_ips

Json = dict[str, Any]

CHANGED = "networking.k8s.aws/last-change-trigger-time"
STARTUP_SECONDS = 30.0
"""After the pod's start: within it the agent attaches its programs and writes the first rules (user pain 1, row 4)."""
CHANGE_SECONDS = 10.0
"""After the change of a policy: controller and agent have it in the maps within it (user pain 1, row 4)."""
CLEANUP_SECONDS = "300"
"""--conntrack-cache-cleanup-period where it is not given (agent facts 8.2)."""
LAST_WITH_462 = Version(1, 4, 1)
FIRST_WITH_DEBUG_ACCEPT = Version(1, 2, 2)
"""From here on ACCEPT is logged at level debug only (agent facts 8.3)."""
FIRST_EPHEMERAL = 32768
"""Linux opens connections from ports from here on (net.ipv4.ip_local_port_range)."""
IGMP = 2
BROADCAST = "255.255.255.255"


class Kind(StrEnum):
    """What a DENY of the past means now."""

    STILL_DENIED = "STILL_DENIED"
    STARTUP = "STARTUP"
    """The pod or its rules were new: the maps of now let it pass."""
    STALE_REPLY = "STALE_REPLY"
    """An answer to a flow of the other direction, whose conntrack entry was gone."""
    NOISE = "NOISE"
    """Multicast and broadcast, which no policy can allow by a peer."""
    ALLOWED_NOW = "ALLOWED_NOW"
    """The rules have changed since."""
    OTHER_END = "OTHER_END"
    """Dropped by the program of the other pod, on the same node."""
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class DropRow:
    """Equal flows of the log: all but their source ports and times."""

    flow: Flow
    """The newest one, with its source port."""
    direction: Direction
    """The pod's whose program decided; where the agent does not log it, this pod's."""
    verdict: str
    tier: str
    count: int
    first: float | None
    """Seconds since the epoch; None where the lines have no time."""
    last: float | None
    source: str
    """Whose address it is, or empty."""
    destination: str
    kind: Kind | None
    """None: of an ACCEPT."""
    why: str


@dataclass(frozen=True)
class DropReport:
    """The logged flows of a pod, the newest first."""

    pod: Json
    rows: tuple[DropRow, ...]
    seconds: float
    """The period that was asked for."""
    unread: tuple[str, ...] = ()
    """What keeps the rows from being all there is to say."""
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    """That the agent logs no flows, where it is told not to."""

    @property
    def denied(self) -> int:
        """Lines that tell of a drop."""
        return sum(row.count for row in self.rows if row.verdict == DENY)

    def of_kind(self, kind: Kind) -> int:
        return sum(row.kind is kind for row in self.rows)

    @cached_property
    def undecided(self) -> bool:
        return bool(self.unread) or self.of_kind(Kind.UNKNOWN) > 0


def log_request(pods: Sequence[Json], world: World, *, seconds: float, everything: bool, most: int) -> Json:
    """The part of the reader's request that asks for the flows of these pods."""
    path = cni_of(world).log_file
    return {
        "addresses": [str(address) for pod in pods for address in pod_ips(pod)],
        "since_ns": 0,
        "last_ns": int(seconds * 1e9),
        "all": everything,
        "most": most,
        "after": None,
        "path": path if path != AGENT_LOG else "",
    }


def drops(pod: Json, snapshot: Snapshot, *, seconds: float, everything: bool = False) -> DropReport:
    """Pure. ``seconds``: the period, by the clock of the node; ``everything``: ACCEPT too.

    The document of the pod's node must be there; its ``flow_log`` may be missing.
    """
    world, document = World(snapshot), snapshot.nodes[node_of(pod)].document or {}
    section = document.get("flow_log")
    now = float(document["clock"]["end"]["realtime_ns"]) / 1e9
    if section is None:
        why = next((str(e["error"]) for e in document.get("errors") or () if e["what"] == "flow_log"), "")
        return _without_log(pod, world, seconds, why or "this bundle was made without the agent's log")
    lines, unknown = _parsed(section["lines"])
    started = parse_time((pod.get("status") or {}).get("startTime"))
    in_period = [one for one in lines if one.time is None or one.time >= now - seconds]
    own = [one for one in in_period if one.time is None or started is None or one.time >= started]
    wanted = [one for one in own if everything or one.verdict == DENY]
    rows = tuple(_Judge(pod, world, snapshot).rows(wanted))
    notes = []
    if len(own) < len(in_period):
        notes.append(f"{len(in_period) - len(own)} lines are older than the pod: its address was another pod's then")
    unread = [*_gaps(pod, section, now - seconds, everything)]
    if unknown:
        unread.append(f"{unknown} lines of the log are in a form that is not known")
    report = DropReport(pod, rows, seconds, tuple(unread), tuple(notes))
    return _with_settings(report, world, section, everything)


def _parsed(lines: Iterable[str]) -> tuple[list[LoggedFlow], int]:
    """(flows, lines that are none). Entries that the agent removed are none of either."""
    found = [(line, parse(line)) for line in lines]
    return [one for _, one in found if one], sum(one is None and "EXPIRED" not in line for line, one in found)


def _gaps(pod: Json, section: Json, since: float, everything: bool) -> Iterator[str]:
    """What of the log was not read, though it was asked for."""
    missing = [str(a) for a in pod_ips(pod) if str(a) not in section["addresses"]]
    if missing:
        yield f"the log was read for other pods: {', '.join(missing)} was not asked for"
    if section["since_ns"] > (since + 60) * 1e9:
        yield f"the log was read from {time_text(section['since_ns'] / 1e9)} on only"
    if everything and not section["all"]:
        yield "the log was read without the lines of ACCEPT"
    if section["left_out"]:
        yield f"{section['left_out']} older lines of this pod were left out: ask for less with --since"
    if section["reason"]:
        yield on_the_node(str(section["reason"]))
    elif not section["complete"] and not section["left_out"]:
        yield "the log was not read to its end"


def on_the_node(text: str) -> str:
    """Paths as the node has them; in the debug pod the node's files are below /host."""
    return "; ".join(dict.fromkeys(part.removeprefix("/host") for part in text.split("; ")))


def _without_log(pod: Json, world: World, seconds: float, why: str) -> DropReport:
    return _with_settings(DropReport(pod, (), seconds, (why,)), world, {"seen": 0}, False)


def _with_settings(report: DropReport, world: World, section: Json, everything: bool) -> DropReport:
    """Whether the agent logs flows at all, and where."""
    cni, node = cni_of(world), node_of(report.pod)
    unread, notes = list(report.unread), list(report.notes)
    seen = bool(report.rows or section["seen"])
    if cni.known and cni.log_file == "stdout":
        unread.append(
            f"the agent logs to stdout (--log-file=stdout): `kubectl logs -n {NAMESPACE} -c {AGENT} "
            f"{_agent_pod(world, node)}` has the flow lines"
        )
    off = cni.event_logs is False
    if off and seen:
        notes.append(
            "policy event logs are off now (--enable-policy-event-logs is not set): newer flows are not logged"
        )
    elif off:
        unread.append("the agent logs no flows (NPE615)")
    elif cni.event_logs is None and not seen:
        unread.append(
            "whether the agent logs flows (--enable-policy-event-logs) could not be read"
            + (f": {cni.unread}" if cni.unread else ": there is no DaemonSet kube-system/aws-node")
        )
    accepted = any(row.verdict != DENY for row in report.rows)
    quiet = cni.agent is not None and cni.agent >= FIRST_WITH_DEBUG_ACCEPT and cni.flags.get("log-level") != "debug"
    if everything and quiet and not accepted:
        notes.append(f"agent {_version(cni.agent)} logs ACCEPT with --log-level=debug only")
    told = tuple(no_flow_log(cni))
    return replace(report, unread=tuple(dict.fromkeys(unread)), notes=tuple(notes), findings=told)


def _agent_pod(world: World, node: str) -> str:
    pods = world.pods_of.get(NAMESPACE, ())
    return next(
        (name_of(pod) for pod in pods if node_of(pod) == node and labels_of(pod).get("k8s-app") == AWS_NODE), "POD"
    )


def _version(version: Version | None) -> str:
    return f"{version.major}.{version.minor}.{version.patch}" if version else "?"


# ---- rows


_Key = tuple[Address, Address, int, int, Direction, str, bool]


class _Judge:
    """Judges the logged flows of one pod by the maps of one reading."""

    def __init__(self, pod: Json, world: World, snapshot: Snapshot) -> None:
        self.pod, self.world, self.snapshot = pod, world, snapshot
        self.own = set(pod_ips(pod))

    @cached_property
    def views(self) -> Mapping[str, Any]:
        return node_views(self.snapshot)

    def rows(self, lines: Iterable[LoggedFlow]) -> list[DropRow]:
        groups: dict[_Key, list[LoggedFlow]] = {}
        for one in lines:
            flow = one.flow
            if flow.source in self.own or flow.destination in self.own:
                side = self._direction(one)
                # A request and an answer that look alike but for the source port are not one flow.
                answer = flow.source_port is not None and self._answers(flow, side)
                key = flow.source, flow.destination, flow.protocol, flow.port, side, one.verdict, answer
                groups.setdefault(key, []).append(one)
        found = [self._row(key[4], group) for key, group in groups.items()]
        return sorted(found, key=lambda row: row.last or 0.0, reverse=True)

    def _direction(self, one: LoggedFlow) -> Direction:
        """Lines of older agents do not tell it: the pod's side then."""
        side = Direction.EGRESS if one.flow.source in self.own else Direction.INGRESS
        return one.direction or side

    def _row(self, direction: Direction, group: Sequence[LoggedFlow]) -> DropRow:
        times = [one.time for one in group if one.time is not None]
        # The log is in the order of time; where two lines are equally old the later one is newer.
        newest = max(enumerate(group), key=lambda pair: (pair[1].time or 0.0, pair[0]))[1]
        kind, why = self._judged(newest, direction) if newest.verdict == DENY else (None, "")
        return DropRow(
            flow=newest.flow,
            direction=direction,
            verdict=newest.verdict,
            tier=newest.tier,
            count=len(group),
            first=min(times, default=None),
            last=max(times, default=None),
            source=self.world.who(newest.flow.source),
            destination=self.world.who(newest.flow.destination),
            kind=kind,
            why=why,
        )

    def _judged(self, one: LoggedFlow, direction: Direction) -> tuple[Kind, str]:
        flow = one.flow
        noise = _noise(flow)
        if noise:
            return Kind.NOISE, noise
        if flow.owner(direction) not in self.own:
            return Kind.OTHER_END, self._other_end(flow, direction)
        if flow.protocol == UNKNOWN_PROTOCOL:
            return Kind.UNKNOWN, "this agent does not log which protocol it was"
        found = self._leg(direction, flow)
        if found.decision is Decision.DENY:
            return self._reply(one, direction) or (Kind.STILL_DENIED, self._still(found))
        if found.decision is not Decision.ALLOW:
            return Kind.UNKNOWN, found.decided_by.why
        startup = self._startup(one.time)
        if startup:
            return Kind.STARTUP, f"{startup}; the maps of now let it pass: {found.decided_by.why}"
        if one.direction is None and self._local(flow.peer(direction)):
            peer = self.world.pod_by_ip.get(flow.peer(direction))
            return Kind.OTHER_END, (
                f"this pod lets it pass ({found.decided_by.why}); this agent does not log at which end it was: "
                f"{self._ask(peer)}"
            )
        return Kind.ALLOWED_NOW, f"the rules have changed since: {found.decided_by.why}"

    def _leg(self, direction: Direction, flow: Flow) -> LegVerdict:
        """A new flow like it, by the maps of now."""
        flow = replace(flow, source_port=None)
        service = self.world.service_by_ip.get(flow.destination) if direction is Direction.EGRESS else None
        legs = planning.service_legs(self.pod, service, flow, self.world) if service is not None else None
        other = self.world.pod_by_ip.get(flow.peer(direction))
        leg = legs[0] if legs else Leg(Ends(self.pod, direction, flow, other))
        return judge(leg, self.world, self.views)

    def _reply(self, one: LoggedFlow, direction: Direction) -> tuple[Kind, str] | None:
        """Whether it is an answer: what it would answer to is allowed, and it goes to a port that nobody serves."""
        flow = one.flow
        if flow.source_port is None or not self._answers(flow, direction):
            return None
        opposite = Direction.EGRESS if direction is Direction.INGRESS else Direction.INGRESS
        asked = Flow(flow.destination, flow.source, flow.protocol, flow.source_port)
        found = self._leg(opposite, asked)
        if found.decision is not Decision.ALLOW:
            return None
        answers = (
            f"an answer to {opposite} {asked.source} -> {asked.destination} on {asked.port_text}, which is allowed"
        )
        startup = self._startup(one.time)
        if startup:
            return Kind.STARTUP, f"{startup}; {answers}: no conntrack entry was there yet"
        return Kind.STALE_REPLY, f"{answers} ({found.decided_by.why}): its conntrack entry was gone; {self._cleaner()}"

    def _answers(self, flow: Flow, direction: Direction) -> bool:
        """Whether its ports are those of an answer: from what the other end serves to where clients begin."""
        receiver = self.pod if direction is Direction.INGRESS else self.world.pod_by_ip.get(flow.destination)
        sender = self.world.pod_by_ip.get(flow.source) if direction is Direction.INGRESS else self.pod
        if flow.port < FIRST_EPHEMERAL or flow.port in self._served(receiver):
            return False
        return (flow.source_port or 0) < FIRST_EPHEMERAL or flow.source_port in self._served(sender)

    def _served(self, pod: Json | None) -> frozenset[int]:
        """Ports that a pod says it listens on."""
        ports = container_ports(pod) if pod is not None else ()
        return frozenset(int(port["containerPort"]) for port in ports if port.get("containerPort"))

    def _cleaner(self) -> str:
        cni = cni_of(self.world)
        period = cni.flags.get("conntrack-cache-cleanup-period") or CLEANUP_SECONDS
        text = f"the agent removes entries every {period} s"
        if cni.agent is not None and cni.agent > LAST_WITH_462:
            return text
        mended = "agents up to 1.4.1 also those of flows that are alive (aws-network-policy-agent issue 462)"
        return f"{text}, {mended}"

    def _startup(self, time: float | None) -> str:
        """Why the rules may not have been there yet: both times; empty where they should have been."""
        if time is None:
            return ""
        text = (self.pod.get("status") or {}).get("startTime")
        started = parse_time(text)
        if started is not None and 0 <= time - started <= STARTUP_SECONDS:
            return f"logged at {time_text(time)}, {time - started:.0f} s after the pod was started at {text}"
        for endpoint in (*endpoints.of_pod(self.world, self.pod), *endpoints.cluster_of_pod(self.world, self.pod)):
            text = (endpoint["metadata"].get("annotations") or {}).get(CHANGED)
            changed = parse_time(text)
            if changed is not None and 0 <= time - changed <= CHANGE_SECONDS:
                name = name_of(endpoint)
                return (
                    f"logged at {time_text(time)}, {time - changed:.0f} s after PolicyEndpoint {name} changed at {text}"
                )
        return ""

    def _still(self, found: LegVerdict) -> str:
        intent = found.verdict(Layer.INTENT)
        parts = [found.decided_by.why]
        if intent.decision is Decision.DENY:
            parts.append("INTENT denies it too")
        elif intent.decision is Decision.ALLOW and found.by_rule:
            parts.append(f"INTENT allows it, and a rule of EKS makes the difference: {found.by_rule[0].text}")
        elif intent.decision is Decision.ALLOW and found.break_between:
            left, right = found.break_between
            parts.append(f"although INTENT allows it: {left} and {right} differ (cause: {found.cause})")
        else:
            parts.append(f"what INTENT says is not known: {intent.why}")
        return "; ".join([*parts, *self._of_node(found)])

    def _of_node(self, found: LegVerdict) -> Iterator[str]:
        """User pain 1, row 17: addresses of nodes are nobody's whom a selector means."""
        peer = found.leg.ends.flow.peer(found.direction)
        node = self.world.node_by_ip.get(peer)
        if node is None or name_of(node) == node_of(self.pod):
            return
        what = "traffic through a NodePort or from a hostNetwork pod"
        if found.direction is Direction.EGRESS:
            what = "traffic to a NodePort or to a hostNetwork pod"
        yield f"{peer} is node {name_of(node)}: {what}, which needs an ipBlock"

    def _other_end(self, flow: Flow, direction: Direction) -> str:
        owner = self.world.pod_by_ip.get(flow.owner(direction))
        return f"dropped at the {direction} of the other end, which is on the same node: {self._ask(owner)}"

    def _local(self, address: Address) -> bool:
        other = self.world.pod_by_ip.get(address)
        return other is not None and node_of(other) == node_of(self.pod)

    def _ask(self, pod: Json | None) -> str:
        if pod is None:
            return "no pod has its address now"
        return f"kubectl netpol-ebpf drops {name_of(pod)} -n {namespace_of(pod)} judges it"


def _noise(flow: Flow) -> str:
    """Why no policy is at fault; empty where one may be."""
    if flow.destination.is_multicast:
        return f"multicast ({flow.destination}): MLD, IGMP, mDNS and their like are denied wherever a policy restricts"
    if str(flow.destination) == BROADCAST:
        return "broadcast"
    return "IGMP" if flow.protocol == IGMP and flow.destination.version == 4 else ""
