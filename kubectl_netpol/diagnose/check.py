"""The answer of `check`: one row a pod with its layers side by side, and all findings.

Node by node: what one node held can be forgotten once its pods have rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.agreement import agrees
from kubectl_netpol.diagnose.checks import attached, config, conntrack, intent, merged, pinned
from kubectl_netpol.diagnose.checks import endpoints as endpoint_checks
from kubectl_netpol.diagnose.checks.base import NodeCase, PodCase, PodKey, Scope, key_of
from kubectl_netpol.diagnose.direction import why_unknown
from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel.layouts import STATE_NAMES
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.model.finding import Finding, InProgress, Kind, Severity, Where
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import DirectionView, Moment, PodKernel
from kubectl_netpol.model.snapshot import NodeReading
from kubectl_netpol.policy import endpoints
from kubectl_netpol.policy.world import World, finished, name_of, namespace_of, node_of, on_host_network, pod_ips

Json = dict[str, Any]

OK, UNREAD, NONE = "ok", "?", "-"
POLICIES = ("networkpolicies", "applicationnetworkpolicies", "clusternetworkpolicies")
RANK = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


@dataclass(frozen=True)
class PodRow:
    """One pod: what each layer holds for it, in a word."""

    namespace: str
    name: str
    node: str
    identifier: str
    intent: str
    """How many policies select it; `open` for none, `?` where that could not be read."""
    endpoints: str
    """How many PolicyEndpoints list it; `DRIFT` where they are not those of the policies."""
    pinned: str
    """ok | DRIFT | - (nothing is pinned, and nothing should be) | ?"""
    attached: str
    """ok | STALE | NONE | FOREIGN | - | ?"""
    state: str
    """Pod states as they are: POLICIES_APPLIED, or one for each direction where they differ."""
    codes: tuple[str, ...]
    reason: str = ""
    """Why the node is not known; empty where it was read."""

    @property
    def key(self) -> PodKey:
        return self.namespace, self.name


@dataclass(frozen=True)
class Report:
    """All that `check` says."""

    rows: tuple[PodRow, ...]
    findings: tuple[Finding, ...]
    unread: tuple[str, ...]
    """What could not be read, with the reason: without it the answer is not complete."""
    api_only: bool = False
    ignored: tuple[str, ...] = ()
    """Codes of findings that are left out as `--ignore` asks."""
    in_force: bool | None = None
    """Of `--wait`: whether the policies are in force on the pod."""
    waited: str = ""
    """Of `--wait`: how long it took, or what is not as it should be."""
    in_progress: tuple[InProgress, ...] = ()
    """What not every look saw: no fault."""
    moments: Mapping[str, Moment] = field(default_factory=dict)
    """When each node was read."""

    def worst(self, ignored: frozenset[str] = frozenset()) -> Severity | None:
        left = [one.severity for one in self.findings if one.code not in ignored]
        return min(left, key=RANK.__getitem__, default=None)


class Check:
    """One `check`, from what the API said; nodes are handed in one after the other."""

    def __init__(
        self, world: World, pods: Iterable[Json], *, whole: bool, api_only: bool = False, no_network: bool = False
    ) -> None:
        """``no_network``: the only pod has none that a program could filter, so that no node is read for it."""
        self.world, self.api_only, self.no_network = world, api_only, no_network
        self.scope = Scope(world, tuple(pods), whole)
        self._found: dict[tuple[str, str, str], Finding] = {}
        self._everywhere: list[Finding] = []
        self._rows: list[PodRow] = []
        self._unread: list[str] = []
        self._moments: dict[str, Moment] = {}
        self._in_progress: list[InProgress] = []
        self._add(self._by_api())

    @cached_property
    def by_node(self) -> Mapping[str, tuple[Json, ...]]:
        """The asked pods by node, in the order of their names."""
        found: dict[str, list[Json]] = defaultdict(list)
        for pod in sorted(self.scope.pods, key=key_of):
            found[node_of(pod)].append(pod)
        return {node: tuple(pods) for node, pods in sorted(found.items())}

    @cached_property
    def _nodes(self) -> Mapping[PodKey, str]:
        return {key_of(pod): node_of(pod) for pod in self.scope.pods}

    def without_agent(self, name: str) -> str:
        """Why nothing on a node enforces policies, so that there is nothing to read; empty where something may."""
        return intent.unenforced(name, self.world)

    def _by_api(self) -> Iterator[Finding]:
        yield from config.of_cluster(self.scope)
        yield from endpoint_checks.of_cluster(self.scope)
        yield from intent.of_cluster(self.scope)
        yield from merged.of_cluster(self.scope)

    def node(self, name: str, reading: NodeReading) -> tuple[PodRow, ...]:
        """The rows of one node's pods."""
        pods = self.by_node.get(name, ())
        if reading.document is None:
            if not (self.api_only or self.no_network or self.without_agent(name)) and name:
                self._unread.append(f"node {name}: {reading.reason}")
            reason = "" if self.api_only else reading.reason
            return self._with_rows(self._row(PodCase(pod, self.scope, None), reason) for pod in pods)
        view = NodeView(reading.document)
        self._moments[name] = view.moment
        self._in_progress += carried(reading.document)
        case = NodeCase(name, view, self.scope)
        for made in (pinned.of_node(case), attached.of_node(case), conntrack.of_node(case), config.of_node(case)):
            self._add(made)
        return self._with_rows(self._pod(pod, view) for pod in pods)

    def of_node(self, name: str) -> tuple[Finding, ...]:
        """What has been found about a node and the asked pods on it."""
        keys = [key_of(pod) for pod in self.by_node.get(name, ())]
        of_pods = {id(one): one for key in keys for one in self._of_pods.get(key, ())}
        return (*of_pods.values(), *(one for one in self._found.values() if one.node == name))

    def _with_rows(self, rows: Iterable[PodRow]) -> tuple[PodRow, ...]:
        found = tuple(rows)
        self._rows += found
        return found

    def _pod(self, pod: Json, view: NodeView) -> PodRow:
        kernel = view.pod(namespace_of(pod), name_of(pod), [str(address) for address in pod_ips(pod)])
        case = PodCase(pod, self.scope, kernel)
        close = not agrees(case)
        self._add(of_pod(case, close=close))
        reason = _unknown(kernel) or (self._undecided(case) if close else "")
        if pod["metadata"].get("deletionTimestamp") and kernel.ifindex is None:
            # Its network goes before its object does.
            return self._row(case, "the pod is being deleted, and its network is gone")
        if reason:
            self._unread.append(f"pod {case.name}: {reason}")
        return self._row(case, reason)

    def _undecided(self, case: PodCase) -> str:
        """Why its layers could not be compared, where no finding says what is wrong."""
        if any(one.severity is not Severity.INFO for one in self._of_pods.get(case.key, ())):
            return ""
        if self.world.unread("policyendpoints", "clusterpolicyendpoints", *POLICIES):
            # Told once, and not of each pod.
            return ""
        return next((why for report in case.reports if (why := why_unknown(report))), "")

    def _row(self, case: PodCase, reason: str) -> PodRow:
        codes = self._codes_of(case)
        kernel = case.kernel
        # The words of the row are those of all findings; it names those that are told.
        return PodRow(
            namespace=namespace_of(case.pod),
            name=name_of(case.pod),
            node=case.node,
            identifier=kernel.identifier if kernel else "",
            intent=_intent(case),
            endpoints=_endpoints(case, codes),
            pinned=_pinned(kernel, codes, reason),
            attached=_attached(kernel, codes),
            state=_state(kernel),
            codes=self._told_of(case.key) if codes else (),
            reason=reason,
        )

    def _codes_of(self, case: PodCase) -> tuple[str, ...]:
        """Of all findings that name the pod; what concerns the whole cluster or node is told once, below."""
        return tuple(sorted({one.code for one in self._of_pods.get(case.key, ())}))

    def _told_of(self, key: PodKey) -> tuple[str, ...]:
        """Less the consequences of what concerns the whole cluster: all of that is known before the first node."""
        left = consequences_left_out([*self._everywhere, *self._of_pods[key]], {key: self._nodes.get(key, "")})
        return tuple(sorted({one.code for one in left if key in one.pods}))

    @cached_property
    def _of_pods(self) -> dict[PodKey, list[Finding]]:
        found: dict[PodKey, list[Finding]] = defaultdict(list)
        for one in self._found.values():
            for key in one.pods:
                found[key].append(one)
        return found

    def _add(self, made: Iterable[Finding]) -> None:
        for one in made:
            key = one.code, one.subject, one.title
            if key not in self._found:
                self._found[key] = one
                if one.everywhere or one.kind in OF_NODES:
                    self._everywhere.append(one)
                for pod in one.pods:
                    self._of_pods[pod].append(one)

    def report(self) -> Report:
        """After the last node."""
        found = consequences_left_out(self._found.values(), self._nodes)
        left: dict[PodKey, set[str]] = defaultdict(set)
        for one in found:
            for key in one.pods:
                left[key].add(one.code)
        rows = (replace(row, codes=tuple(c for c in row.codes if c in left[row.key])) for row in self._rows)
        unread = tuple(dict.fromkeys((*self._api_unread(), *self._unread)))
        order = sorted(rows, key=lambda row: (row.namespace, row.name))
        return Report(
            tuple(order),
            tuple(sorted(found, key=_order)),
            unread,
            self.api_only,
            in_progress=tuple(self._in_progress),
            moments=dict(sorted(self._moments.items())),
        )

    def _api_unread(self) -> Iterator[str]:
        for kind, collection in self.world.snapshot.collections.items():
            if collection.reason and not collection.absent:
                yield f"{kind}: {collection.reason}"


def carried(document: Json) -> Iterator[InProgress]:
    """What was under way when a bundle was captured, as its document says."""
    for text in (document.get("consistency") or {}).get("in_progress") or ():
        yield InProgress(text)


def _order(one: Finding) -> tuple[int, str, str, str]:
    return RANK[one.severity], one.code, one.subject, one.title


def of_pod(case: PodCase, *, close: bool) -> Iterator[Finding]:
    """All findings about one pod's part of its node. ``close``: it is not plain that all is as it should be."""
    if case.kernel is None or not close:
        if case.kernel is not None:
            yield from conntrack.of_pod(case, broken=False)
            yield from pinned.of_agreeing(case)
        return
    found = [*attached.of_pod(case), *pinned.of_pod(case)]
    yield from found
    yield from conntrack.of_pod(case, broken=any(one.severity is Severity.ERROR for one in found))


CAUSES: tuple[tuple[Kind, tuple[Kind, ...]], ...] = (
    (
        findings.CONTROLLER_OFF,
        (findings.NO_ENDPOINT, findings.TERMINATING, findings.ENTRIES_BEHIND, findings.PODS_BEHIND),
    ),
    (findings.NO_CRD, (findings.NO_ENDPOINT,)),
    (findings.BANDWIDTH, (findings.NOT_ATTACHED, findings.OPEN_POD, findings.POD_WITHOUT_PIN)),
    (findings.AGENT_RIGHTS, (findings.NOT_ATTACHED, findings.OPEN_POD, findings.POD_WITHOUT_PIN)),
    (findings.VETH_PREFIX, (findings.NOT_ATTACHED, findings.OPEN_POD, findings.OTHER_VETH, findings.POD_WITHOUT_PIN)),
    (findings.AGENT_OFF, (findings.NOT_ATTACHED, findings.OPEN_POD, findings.POD_WITHOUT_PIN, findings.AGENT_DOWN)),
)
"""A finding about the whole cluster -> findings that follow from it, and are not told beside it."""


def consequences_left_out(found: Iterable[Finding], nodes: Mapping[PodKey, str] | None = None) -> list[Finding]:
    """What has its cause in another finding is not told again for each pod and policy. ``nodes``: of the pods."""
    listed = list(found)
    down, unpinned = _on_broken_nodes(listed, nodes or {}), _without_pins(listed)
    codes = {one.code for one in listed if one.everywhere}
    gone = {kind.code for cause, effects in CAUSES if cause.code in codes for kind in effects}
    without, behind = _nothing_pinned(listed), _not_resolved(listed)
    return [
        one
        for one in listed
        if one.code not in gone
        and not _follows(one, without)
        and not _still_holds(one, behind)
        and not (one.kind in ON_THEM and one.pods and one.pods <= down)
        # That the program which runs is not the pinned one goes without saying where none is.
        and not (one.kind is findings.OTHER_PROGRAM and one.pods and one.pods <= unpinned)
    ]


NOT_RESOLVED = (findings.NO_ENDPOINT, findings.PODS_BEHIND, findings.SPEC_BEHIND)
STILL_HELD = (findings.UNWANTED_ENTRIES, findings.WRONG_POD_STATE)


def _not_resolved(found: Iterable[Finding]) -> frozenset[PodKey]:
    """Pods that policies select, and that no PolicyEndpoint tells the agent of."""
    codes = {kind.code for kind in NOT_RESOLVED}
    return frozenset(pod for one in found if one.code in codes for pod in one.pods)


def _still_holds(one: Finding, behind: frozenset[PodKey]) -> bool:
    """What the agent wrote before the PolicyEndpoints went: it is what still protects these pods."""
    return one.code in {kind.code for kind in STILL_HELD} and bool(one.pods) and one.pods <= behind


def _nothing_pinned(found: Iterable[Finding]) -> frozenset[PodKey]:
    return frozenset(pod for one in found if one.code == findings.NOT_ATTACHED.code for pod in one.pods)


def _follows(one: Finding, open_pods: frozenset[PodKey]) -> bool:
    """A pod that nothing was ever made for: that it is open is what counts."""
    return one.code == findings.POD_WITHOUT_PIN.code and one.pods <= open_pods


OF_NODES = (findings.AGENT_DOWN, findings.OLD_KERNEL)
"""Findings about a node, from which follow those about its pods ..."""
ON_THEM = (findings.NOT_ATTACHED, findings.OPEN_POD, findings.POD_WITHOUT_PIN)
"""... as these."""


def _on_broken_nodes(found: Iterable[Finding], nodes: Mapping[PodKey, str]) -> frozenset[PodKey]:
    broken = {one.node for one in found if one.kind in OF_NODES and one.node}
    return frozenset(key for key, node in nodes.items() if node in broken)


def _without_pins(found: Iterable[Finding]) -> frozenset[PodKey]:
    return frozenset(pod for one in found if one.code == findings.POD_WITHOUT_PIN.code for pod in one.pods)


# ---- the words of a row


def _intent(case: PodCase) -> str:
    if case.world.unread(*POLICIES):
        return UNREAD
    count = len(case.scope.policies_of(case.pod))
    return "open" if not count else f"{count} polic{'y' if count == 1 else 'ies'}"


def _endpoints(case: PodCase, codes: tuple[str, ...]) -> str:
    if case.world.unread("policyendpoints", "clusterpolicyendpoints"):
        return UNREAD
    if _has(codes, Where.ENDPOINTS):
        return "DRIFT"
    count = len(endpoints.of_pod(case.world, case.pod)) + len(endpoints.cluster_of_pod(case.world, case.pod))
    return str(count) if count else NONE


def _has(codes: Iterable[str], where: Where) -> bool:
    return any(
        findings.KINDS[code].where is where and findings.KINDS[code].severity is Severity.ERROR for code in codes
    )


def _pinned(kernel: PodKernel | None, codes: tuple[str, ...], reason: str) -> str:
    if kernel is None or kernel.pins_unread:
        return UNREAD
    if _has(codes, Where.PINNED):
        return "DRIFT"
    if reason:
        return UNREAD
    return OK if kernel.identifier_pinned else NONE


def _attached(kernel: PodKernel | None, codes: tuple[str, ...]) -> str:
    if kernel is None or any(view.reason for view in kernel.directions.values()):
        return UNREAD
    if {findings.NOT_ATTACHED.code, findings.OPEN_POD.code, findings.NEVER_RUNS.code} & {*codes}:
        return "NONE"
    if _has(codes, Where.ATTACHED):
        return "STALE"
    if findings.FOREIGN.code in codes:
        return "FOREIGN"
    if findings.UNKNOWN_PROGRAM.code in codes:
        return UNREAD
    return OK if any(view.filter for view in kernel.directions.values()) else NONE


def _state(kernel: PodKernel | None) -> str:
    if kernel is None:
        return UNREAD
    words = {direction: _state_of(kernel, direction) for direction in Direction}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return "/".join(words.values())


def _state_of(kernel: PodKernel, direction: Direction) -> str:
    held = kernel.directions[direction].maps.get("pod_state")
    if held is None:
        return NONE
    if held.states is None or not held.complete:
        return UNREAD
    if 0 not in held.states:
        return "MISSING"
    return STATE_NAMES.get(held.states[0], str(held.states[0]))


def _unknown(kernel: PodKernel) -> str:
    """Why what packets of the pod meet is not (wholly) known."""
    for view in kernel.directions.values():
        if view.reason:
            return view.reason
    unread = kernel.pins_unread or kernel.interfaces[0].disputed
    return unread or next(filter(None, map(_unread_map, kernel.directions.values())), "")


def _unread_map(view: DirectionView) -> str:
    """A map of the attached program that was not (wholly) read, and why."""
    for one in (*view.maps.values(), *view.other_maps):
        if one.role != "events" and (not one.type or not one.complete):
            name = layouts.map_name(one.role, view.direction) or "map"
            return f"{name} {one.id} was not read to the end: {one.reason or 'the reading was cut'}"
    return ""


def asked_pods(pods: Iterable[Json]) -> tuple[Json, ...]:
    """Those that a policy can restrict: on a node, with a network of their own that is there, not ended."""
    return tuple(
        pod for pod in pods if node_of(pod) and not on_host_network(pod) and not finished(pod) and pod_ips(pod)
    )
