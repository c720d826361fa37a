"""PINNED: what the agent wrote for a pod, against what the PolicyEndpoints make it write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from kubectl_netpol.diagnose import attached, findings
from kubectl_netpol.diagnose.alignment import PORTS_RESOLVED_NOTE, Row, Status
from kubectl_netpol.diagnose.checks.attached import objects, restricting
from kubectl_netpol.diagnose.checks.base import NodeCase, PodCase, recreate, restart_agent, toward
from kubectl_netpol.diagnose.direction import WRONG_ATTACHMENT, DirectionReport, missing_states
from kubectl_netpol.kernel import identity, inventory
from kubectl_netpol.kernel.layouts import DEFAULT_ALLOW, DEFAULT_DENY, POLICIES_APPLIED, STATE_NAMES
from kubectl_netpol.model.finding import Evidence, Finding, Kind, Remedy
from kubectl_netpol.model.flow import PROTOCOL_NUMBERS, Direction, Flow, host_network
from kubectl_netpol.model.kernel import DirectionView
from kubectl_netpol.model.verdict import Decision
from kubectl_netpol.policy import agent, endpoints
from kubectl_netpol.policy.cni import Version
from kubectl_netpol.policy.nodes import AGENT_LOG
from kubectl_netpol.policy.world import container_ports, name_of, namespace_of, pod_ip

Json = dict[str, Any]
SHOWN = 3
"""Entries that one sentence names."""
STATUSES: dict[Status, tuple[Kind, str]] = {
    Status.NOT_IN_MAP: (findings.MISSING_ENTRIES, "lacks"),
    Status.UNWANTED: (findings.UNWANTED_ENTRIES, "has what no PolicyEndpoint asks for:"),
    Status.PORTS_DIFFER: (findings.OTHER_PORTS, "has other ports for"),
    Status.CUT_OFF: (findings.TOO_MANY_PORTS, "has no room for all ports of"),
}


def of_pod(case: PodCase) -> Iterator[Finding]:
    """Findings about the maps and pod states of one pod."""
    if case.kernel is None:
        return
    yield from _forms(case)
    missing = tuple(_missing_states(case))
    yield from missing
    if not missing:
        yield from _wrong_states(case)
        yield from _maps(case)
        yield from toward(_node_dropped(case), Direction.INGRESS)
    yield from _layout(case)


def of_agreeing(case: PodCase) -> Iterator[Finding]:
    """What there can be where maps and programs are as they should be: they are of another release."""
    yield from _layout(case)


def _trusted(case: PodCase, direction: Direction) -> DirectionView | None:
    """The view of a direction whose program uses the maps that the agent writes; else its differences say it all."""
    assert case.kernel is not None
    view = case.kernel.directions[direction]
    if view.filter is None or view.reason or any(d.code in WRONG_ATTACHMENT for d in view.differences):
        return None
    return view


# ---- pod states


def _missing_states(case: PodCase) -> Iterator[Finding]:
    assert case.kernel is not None
    lost: dict[Direction, list[int]] = {}
    maps: list[Evidence] = []
    for direction, view in case.kernel.directions.items():
        held = view.maps.get("pod_state")
        if view.filter is None or held is None or held.states is None or not held.complete:
            continue
        keys = missing_states(view, held.states)
        if keys:
            lost[direction] = keys
            maps.append(Evidence(f"{direction}_pod_state_map {held.id} of the attached program", _states(held.states)))
            maps.append(Evidence("keys that the program asks for", ", ".join(map(str, _keys(view)))))
    if lost:
        sides = " and ".join(map(str, lost))
        title = f"every packet of pod {case.name} is dropped ({sides}): its pod state is missing (key {_key(lost)})"
        made = case.made(findings.NO_POD_STATE, title, maps, (restart_agent(case.node), recreate(case.pod)))
        yield replace(made, parts=frozenset(objects(case.kernel.directions[direction]) for direction in lost))


def _key(lost: Mapping[Direction, list[int]]) -> str:
    return " and ".join(str(key) for key in sorted({key for keys in lost.values() for key in keys}))


def _keys(view: DirectionView) -> tuple[int, ...]:
    return (0, 1) if "cp" in view.maps else (0,)


def _states(states: Mapping[int, int]) -> str:
    return ", ".join(f"key {key} {STATE_NAMES.get(value, value)}" for key, value in sorted(states.items())) or "empty"


def _wrong_states(case: PodCase) -> Iterator[Finding]:
    """Both directions have the same states; the first that differs is told."""
    for direction in Direction:
        view = _trusted(case, direction)
        held = view.maps.get("pod_state") if view else None
        if view is None or held is None or held.states is None:
            continue
        found = _wrong_state(case, view, held.states)
        if found:
            key, wanted, why = found
            title = (
                f"pod {case.name} is in state {STATE_NAMES.get(held.states[key], held.states[key])} (key {key}), and "
                f"should be in {wanted}: {why}"
            )
            evidence = (
                Evidence(f"{direction}_pod_state_map {held.id} of the attached program", _states(held.states)),
                Evidence("PolicyEndpoints and enforcing mode", f"key {key} {wanted}: {why}"),
            )
            made = case.made(findings.WRONG_POD_STATE, title, evidence, (restart_agent(case.node), recreate(case.pod)))
            yield replace(made, parts=frozenset({objects(view)}))
            return


def _wrong_state(case: PodCase, view: DirectionView, states: Mapping[int, int]) -> tuple[int, str, str] | None:
    """(key, the state it should be in, why); None where nothing says that it is wrong."""
    world = case.world
    if world.unread("policyendpoints", "clusterpolicyendpoints") or endpoints.only_elsewhere(world, case.pod):
        return None
    slices = endpoints.of_identifier(world, case.pod)
    cluster = endpoints.cluster_of_identifier(world, case.pod)
    wanted = agent.states(slices, cluster)
    if slices and states.get(0) != POLICIES_APPLIED:
        return 0, STATE_NAMES[POLICIES_APPLIED], f"it is listed by {slices.names}"
    if "cp" in view.maps and wanted[1] == POLICIES_APPLIED and states.get(1) == DEFAULT_ALLOW:
        return 1, STATE_NAMES[POLICIES_APPLIED], f"it is listed by {cluster.names}"
    mode = case.scope.cni.mode
    if not slices and states.get(0) == DEFAULT_DENY and mode == "standard":
        return 0, STATE_NAMES[DEFAULT_ALLOW], "no policy applies, and the enforcing mode is standard"
    if not slices and states.get(0) == DEFAULT_ALLOW and mode == "strict":
        return 0, STATE_NAMES[DEFAULT_DENY], "no policy applies, and the enforcing mode is strict"
    if not slices and 0 in states and states[0] not in STATE_NAMES:
        # Programs compare: what is neither of the first two drops (agent facts 1.3).
        return 0, STATE_NAMES[DEFAULT_ALLOW] if mode != "strict" else STATE_NAMES[DEFAULT_DENY], "no policy applies"
    if not slices and states.get(0) == POLICIES_APPLIED and not _open(view):
        by_mode = {"standard": STATE_NAMES[DEFAULT_ALLOW], "strict": STATE_NAMES[DEFAULT_DENY]}
        return 0, by_mode.get(mode, "the state of the enforcing mode"), "no PolicyEndpoint lists it any more"
    return None


def _open(view: DirectionView) -> bool:
    """Whether the rule map lets everybody through, so that the state makes no difference; so where it was not read."""
    rules = view.maps.get("np")
    if rules is None or rules.lpm is None:
        return True
    return any(
        entry.prefix.prefixlen == 0 and any(slot[0] == 254 for slot in entry.slots) for entry in rules.lpm.entries
    )


# ---- maps


def _maps(case: PodCase) -> Iterator[Finding]:
    found: dict[Status, list[tuple[DirectionReport, Row]]] = {}
    for report in case.reports:
        if _trusted(case, report.direction) is None:
            continue
        for row in report.rows:
            if row.status in STATUSES and row.note != PORTS_RESOLVED_NOTE:
                found.setdefault(row.status, []).append((report, row))
    for status, rows in found.items():
        yield from toward([_of_rows(case, status, rows)], *dict.fromkeys(report.direction for report, _ in rows))


def _of_rows(case: PodCase, status: Status, rows: list[tuple[DirectionReport, Row]]) -> Finding:
    kind, verb = STATUSES[status]
    sides = list(dict.fromkeys(report.direction for report, _ in rows))
    names = [_entry(row) for _, row in rows]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    maps = list(dict.fromkeys(_map_name(report, row) for report, row in rows))
    verb = verb.replace("lacks", "lack").replace("has ", "have ") if len(maps) > 1 else verb
    title = f"{' and '.join(maps)} of pod {case.name} {verb} {', '.join(names[:SHOWN])}{more}"
    closed = [r for _, r in rows if r.prefix.prefixlen == 0 and status is Status.NOT_IN_MAP]
    if closed:
        title += f": {' and '.join(map(str, sides))} is closed, although no policy restricts it"
    evidence = tuple(one for report, row in rows[:SHOWN] for one in _row_evidence(case, report, row))
    parts = frozenset(f"{objects(report.view)} {row.prefix}" for report, row in rows if report.view)
    return replace(case.made(kind, title, evidence, _map_remedies(case, kind)), parts=parts)


def _entry(row: Row) -> str:
    """`10.0.1.5/32 (pod shop/web)`."""
    known = row.who and row.who not in ("cidr", str(row.prefix))
    return f"{row.prefix} ({row.who})" if known else str(row.prefix)


def _map_name(report: DirectionReport, row: Row) -> str:
    return f"cp_{report.direction}_map" if row in report.tiers else f"{report.direction}_map"


def _row_evidence(case: PodCase, report: DirectionReport, row: Row) -> Iterator[Evidence]:
    source = row.endpoint or ("the agent's own entries" if row.status is Status.NOT_IN_MAP else "PolicyEndpoints")
    yield Evidence(source, f"{row.prefix}: {row.resolved if row.resolved is not None else row.note or 'nothing'}")
    rules = report.view.maps.get("cp" if row in report.tiers else "np") if report.view else None
    where = f"{_map_name(report, row)} {rules.id if rules else ''} on node {case.node}"
    yield Evidence(where, f"{row.prefix}: {row.kernel or 'no entry'}")


def _map_remedies(case: PodCase, kind: Kind) -> tuple[Remedy, ...]:
    if kind is findings.TOO_MANY_PORTS:
        edit = Remedy(
            f"kubectl -n {namespace_of(case.pod)} get policyendpoints -o yaml",
            "none: it only reads; use port ranges (endPort) or fewer ports for one peer, in all policies of the pod",
        )
        return (edit,)
    log = Remedy(f"kubectl debug node/{case.node} -it --image=busybox -- tail -n 100 /host{AGENT_LOG}", DEBUG_EFFECT)
    return (log, restart_agent(case.node))


DEBUG_EFFECT = "starts a pod on the node, which stays until it is deleted"


def _node_dropped(case: PodCase) -> Iterator[Finding]:
    """The own node by cluster policies (agents up to 1.4.2, aws-network-policy-agent issue 635) or by a lost entry."""
    view = _trusted(case, Direction.INGRESS)
    own, address = case.world.own_node_address(case.pod, _family(case)), pod_ip(case.pod)
    if (
        case.kernel is None
        or view is None
        or own is None
        or address is None
        or not restricting(case, Direction.INGRESS)
    ):
        return
    port = next((int(p["containerPort"]) for p in container_ports(case.pod) if p.get("containerPort")), 80)
    flow = Flow(own, address, PROTOCOL_NUMBERS["TCP"], port)
    verdict = attached.verdict(case.kernel.interfaces[0], view, flow)
    np = view.maps.get("np")
    # With cluster policies alone the agent writes no entry of its own.
    written = bool(endpoints.of_identifier(case.world, case.pod))
    lost = written and np is not None and np.lpm is not None and np.lpm.get(host_network(own)) is None
    if verdict.decision is not Decision.DENY or lost:
        # A lost entry is told with all the others that the map lacks.
        return
    title = f"packets of node {case.node} ({own}) to pod {case.name} are dropped, and with them the kubelet's probes"
    evidence = (
        Evidence(f"ATTACHED, {own} to {address} on {flow.port_text}", verdict.why),
        Evidence(
            "rule of the agent",
            "the own node always passes NetworkPolicies; cluster policies of agents up to 1.4.2 do not spare it",
        ),
    )
    look = Remedy(
        "kubectl get clusternetworkpolicies -o yaml", "none: it only reads; except the nodes' addresses from the Deny"
    )
    yield case.made(findings.NODE_DROPPED, title, evidence, (look,))


def _family(case: PodCase) -> int:
    address = pod_ip(case.pod)
    return address.version if address else 4


# ---- pins and releases


def _forms(case: PodCase) -> Iterator[Finding]:
    assert case.kernel is not None
    for difference in case.kernel.differences:
        if difference.code == "BOTH_FORMS":
            first = case.kernel.directions[Direction.INGRESS]
            used = f"program {first.program.id}" if first.program else "no program"
            evidence = (
                Evidence("pins below /sys/fs/bpf/globals/aws", difference.text),
                Evidence("tc egress hook of " + case.kernel.veth, f"{used}, pinned as {_pin(first)}"),
            )
            title = f"pod {case.name} has {difference.text}"
            yield case.made(findings.BOTH_FORMS, title, evidence, (restart_agent(case.node), recreate(case.pod)))


def _pin(view: DirectionView) -> str:
    return view.program.pin if view.program and view.program.pin else "nothing"


def _layout(case: PodCase) -> Iterator[Finding]:
    """The release that runs on the node against the one that loaded the pinned program (agent issue 651)."""
    assert case.kernel is not None
    running = case.scope.agent_on(case.node)
    view = case.kernel.directions[Direction.INGRESS]
    if running is None or not view.agents or _trusted(case, Direction.INGRESS) is None:
        return
    first, last = _range(view.agents)
    if first is None or (first <= running and (last is None or running <= last)):
        return
    layouts = ", ".join(f"{one.role} map {one.id} {one.layout}" for one in view.maps.values())
    title = f"the maps of pod {case.name} are of agents {view.agents}, and agent {running} runs on node {case.node}"
    evidence = (
        Evidence(f"aws-node on node {case.node}", f"agent {running}"),
        Evidence("maps of the attached program", f"{layouts}: agents {view.agents}"),
    )
    yield case.made(findings.OTHER_LAYOUT, title, evidence, (recreate(case.pod), restart_agent(case.node)))


def _range(agents: str) -> tuple[Version | None, Version | None]:
    """`1.3.7 to 1.4.1`, `>= 1.4.2`."""
    if agents.startswith(">= "):
        return Version.parse(agents.removeprefix(">= ")), None
    first, _, last = agents.partition(" to ")
    return Version.parse(first), Version.parse(last)


def of_node(case: NodeCase) -> Iterator[Finding]:
    """Pins without pods and pods without pins, and what the agent's log says."""
    pods = [(namespace_of(pod), name_of(pod)) for pod in case.running]
    known = case.scope.world.snapshot.get("pods").known
    for difference in inventory.of_node(case.view, pods, pods_known=known):
        if difference.code == "PIN_WITHOUT_POD":
            evidence = (
                Evidence(f"pins on node {case.name}", difference.text),
                Evidence("pods of the node", f"{len(pods)} with a network of their own"),
            )
            title = f"node {case.name} has {difference.text}"
            made = case.made(findings.PIN_WITHOUT_POD, title, evidence, (restart_agent(case.name),))
            yield replace(made, parts=difference.items)
        if difference.code == "POD_WITHOUT_PIN":
            yield from _without_pin(case)
    yield from _log(case)


def _without_pin(case: NodeCase) -> Iterator[Finding]:
    for pod in case.running:
        key = namespace_of(pod), name_of(pod)
        if key not in case.scope.keys or case.view.has_pins(*key) or pod["metadata"].get("deletionTimestamp"):
            continue
        name = f"{key[0]}/{key[1]}"
        title = f"nothing is pinned for pod {name} on node {case.name}, where the agent makes programs for every pod"
        forms = " or ".join(identity.identifiers(*key))
        evidence = (Evidence("pod identifier", forms), Evidence("pins below /sys/fs/bpf/globals/aws", "none of it"))
        yield Finding(
            findings.POD_WITHOUT_PIN,
            title,
            evidence,
            (recreate(pod), restart_agent(case.name)),
            subject=f"pod {name}",
            pods=frozenset({key}),
        )


def _log(case: NodeCase) -> Iterator[Finding]:
    """Errors of the agent's log, where the reader was asked for them."""
    section = case.view.document.get("agent") or {}
    errors = section.get("errors") or ()
    if not errors:
        return
    count = sum(int(one["count"]) for one in errors)
    evidence = tuple(Evidence(str(one["file"]), f"{one['line']} ({one['count']} times)") for one in errors[:SHOWN])
    evidence += (Evidence("lines of the last 24 hours that tell of errors", str(count)),)
    title = (
        f"the agent of node {case.name} logged {count} errors in the last 24 hours, the last one: {errors[0]['line']}"
    )
    look = Remedy(f"kubectl debug node/{case.name} -it --image=busybox -- tail -n 100 /host{AGENT_LOG}", DEBUG_EFFECT)
    yield case.made(findings.AGENT_ERRORS, title[:300], evidence, (look,))
