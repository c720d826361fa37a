"""ATTACHED: what runs on the pod's host veth, against what the agent pinned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.checks.base import NodeCase, PodCase, policy_text, recreate, restart_agent, toward
from kubectl_netpol.diagnose.direction import OPEN_HOOK, WRONG_ATTACHMENT
from kubectl_netpol.kernel import identity, layouts
from kubectl_netpol.model.finding import NO_EFFECT, Evidence, Finding, Kind, Remedy
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import Difference, DirectionView, InterfaceView, MapView
from kubectl_netpol.policy import endpoints
from kubectl_netpol.policy.cni import Version
from kubectl_netpol.policy.world import name_of, namespace_of

CODES: dict[str, Kind] = {
    "OTHER_PROGRAM": findings.OTHER_PROGRAM,
    "NO_PROGRAM_PIN": findings.OTHER_PROGRAM,
    "OTHER_MAP": findings.OTHER_MAP,
    "UNPINNED_MAP": findings.OTHER_MAP,
    "PIN_OF_ANOTHER": findings.OTHER_MAP,
    "NO_MAPS": findings.NO_MAPS,
    "OTHER_DIRECTION": findings.OTHER_DIRECTION,
    "NEVER_RUNS": findings.NEVER_RUNS,
    "NOT_DIRECT_ACTION": findings.NEVER_RUNS,
    "FOREIGN_FIRST": findings.FOREIGN,
    "FOREIGN_FILTER": findings.FOREIGN,
    "FOREIGN_TCX": findings.FOREIGN,
    "FOREIGN_XDP": findings.FOREIGN,
}
"""Differences of one direction that are findings by themselves."""
CONNTRACK_MAP = "aws_conntrack_map"
BEHIND: dict[Kind, tuple[Kind, ...]] = {
    findings.OTHER_MAP: (findings.OTHER_PROGRAM, findings.NO_MAPS, findings.OTHER_DIRECTION),
    findings.OTHER_PROGRAM: (findings.OTHER_DIRECTION,),
    findings.NOT_ATTACHED: (findings.NEVER_RUNS,),
    findings.OPEN_POD: (findings.NEVER_RUNS,),
}
"""A kind -> those of the same direction whose consequence it is."""


@dataclass(frozen=True)
class _Found:
    """One kind of one pod, with the differences that tell of it in either direction."""

    kind: Kind
    differences: tuple[tuple[DirectionView, Difference], ...]


def of_pod(case: PodCase) -> Iterator[Finding]:
    """Findings about the filters and programs of one pod."""
    if case.kernel is None:
        return
    first = case.kernel.interfaces[0]
    yield from _veth(case, first)
    for found in _kinds(case, first):
        yield from toward([_made(case, first, found)], *dict.fromkeys(view.direction for view, _ in found.differences))
    for further in case.kernel.interfaces[1:]:
        yield from _further(case, first, further)
    yield from _unknown_program(case, first)
    for difference in case.kernel.differences:
        if difference.code == "TWO_GENERATIONS":
            title = f"pod {case.name} runs programs of two agent releases: {difference.text}"
            yield case.made(findings.TWO_GENERATIONS, title, _evidence(first, ()), (recreate(case.pod),))


def of_node(case: NodeCase) -> Iterator[Finding]:
    """Two generations of programs on one node: some pods were not given the newer one."""
    found = case.view.generations()
    if len(found) < 2:
        return
    evidence = tuple(
        Evidence(f"programs on node {case.name}", f"{len(ids)} of agents {generation.agents}, such as program {ids[0]}")
        for generation, ids in sorted(found.items(), key=lambda item: item[1])
    )
    title = f"node {case.name} runs programs of {len(found)} releases of the agent: some pods kept the old ones"
    yield Finding(findings.TWO_GENERATIONS, title, evidence, (restart_agent(case.name),), subject=f"node {case.name}")


def restricting(case: PodCase, direction: Direction) -> tuple[str, ...]:
    """The policies that restrict a direction of the pod, by YAML or by PolicyEndpoint."""
    kind = direction.value.capitalize()
    by_yaml = [
        policy_text(policy)
        for policy in case.scope.policies_of(case.pod)
        if kind in _types(policy, direction) or (policy.get("spec") or {}).get(direction.value)
    ]
    by_endpoint = endpoints.restricting(case.world, case.pod, direction)
    return tuple(dict.fromkeys([*by_yaml, *(name for name in by_endpoint if not _among(name, by_yaml))]))


def _among(name: str, texts: Iterable[str]) -> bool:
    return any(text.endswith((f"/{name}", f" {name}")) for text in texts)


def _types(policy: dict[str, object], direction: Direction) -> tuple[str, ...]:
    spec = policy.get("spec")
    types = spec.get("policyTypes") if isinstance(spec, dict) else None
    if types is None and policy.get("kind", "NetworkPolicy") == "NetworkPolicy":
        # The API server fills it in; one from a file may lack it.
        return ("Ingress",)
    return tuple(str(one) for one in types or ()) if isinstance(types, list) else ()


def _kinds(case: PodCase, interface: InterfaceView) -> Iterator[_Found]:
    by_kind: dict[Kind, list[tuple[DirectionView, Difference]]] = {}
    for direction in Direction:
        view = interface.directions[direction]
        kinds = _of_direction(case, view, interface)
        for kind, difference in kinds:
            if not any(cause in (k for k, _ in kinds) for cause in BEHIND.get(kind, ())):
                by_kind.setdefault(kind, []).append((view, difference))
    if findings.NOT_ATTACHED in by_kind:
        # That the direction without a policy has no filter either goes without saying.
        by_kind.pop(findings.OPEN_POD, None)
    for kind, found in by_kind.items():
        yield _Found(kind, tuple(found))


def _of_direction(case: PodCase, view: DirectionView, interface: InterfaceView) -> list[tuple[Kind, Difference]]:
    found: list[tuple[Kind, Difference]] = []
    for difference in view.differences:
        if f" {CONNTRACK_MAP} " in difference.text:
            # The node's own map has a finding of its own (``conntrack``).
            continue
        kind = CODES.get(difference.code)
        if difference.code in ("NO_FILTER", "NO_CLSACT"):
            kind = findings.NOT_ATTACHED if restricting(case, view.direction) else findings.OPEN_POD
            if kind is findings.OPEN_POD and not _attaches_to_all(case):
                continue
        if kind is not None:
            found.append((kind, difference))
    if case.kernel is not None and _nothing_for_a_policy(case, view):
        text = f"no filter {view.direction.program_name} on the tc {view.direction.tc_hook} hook of {interface.veth}"
        found.append((findings.NOT_ATTACHED, Difference("NO_FILTER", f"{text}: nothing is filtered in this direction")))
    return found


def _attaches_to_all(case: PodCase) -> bool:
    """Not while network policies are off, nor agents before 1.2.0 (agent facts 2.1)."""
    running = case.scope.agent_on(case.node) or case.scope.cni.agent
    return case.scope.cni.policy_enabled is not False and (running is None or running >= FIRST_FOR_ALL)


FIRST_FOR_ALL = Version(1, 2, 0)


def _nothing_for_a_policy(case: PodCase, view: DirectionView) -> bool:
    """Agents before 1.2.0 attach on demand: without a policy no filter is right, and none is told of."""
    if view.differences or view.reason or view.clsact is None or view.filter is not None or view.foreign:
        return False
    return bool(restricting(case, view.direction))


def _made(case: PodCase, interface: InterfaceView, found: _Found) -> Finding:
    kind, veth = found.kind, interface.veth
    sides = " and ".join(dict.fromkeys(str(view.direction) for view, _ in found.differences))
    texts = list(dict.fromkeys(difference.text for _, difference in found.differences))
    text = texts[0] + (f" (and {len(texts) - 1} more like it)" if len(texts) > 1 else "")
    if kind is findings.NOT_ATTACHED:
        names = ", ".join(dict.fromkeys(name for v, _ in found.differences for name in restricting(case, v.direction)))
        title = f"{sides} of pod {case.name} is open: {names} applies, and no program is attached to {veth}"
    elif kind is findings.OPEN_POD:
        title = f"no program is attached to {veth} of pod {case.name} for {sides}: replies are not known as such"
    else:
        title = f"{sides} of pod {case.name}: {text}"
    evidence = _evidence(interface, found.differences)
    if kind is findings.FOREIGN:
        evidence = _order(interface, found.differences)
    if kind is findings.OTHER_MAP:
        evidence = _used_maps(interface, found.differences)
    parts = frozenset(f"{d.code} {objects(view)}" for view, d in found.differences)
    return replace(case.made(kind, title, evidence, _remedies(case, kind)), parts=parts)


def objects(view: DirectionView) -> str:
    """The objects behind a difference: with others in their place it is another one, as while an agent loads anew."""
    if view.filter is not None:
        return f"{view.direction} program {view.filter.program_id}"
    pinned = view.pinned_program.id if view.pinned_program else "none"
    return f"{view.direction} without a filter, pinned {pinned}"


def _sides(differences: Iterable[tuple[DirectionView, Difference]]) -> list[Direction]:
    return list(dict.fromkeys(view.direction for view, _ in differences))


def _order(interface: InterfaceView, differences: tuple[tuple[DirectionView, Difference], ...]) -> tuple[Evidence, ...]:
    """What is on the hooks, in the order in which it runs, and which of it is the agent's."""
    found = []
    for direction in _sides(differences):
        view = interface.directions[direction]
        hook = f"tc {direction.tc_hook} hook of {interface.veth}"
        runs = [f"tcx program {number}" for number in view.tcx] + [one.text for one in view.filters]
        runs = [f"XDP program {number}" for number in view.xdp] + runs
        found.append(Evidence(f"{hook}, in the order of running", "; ".join(runs) or "nothing"))
        own = view.filter.text if view.filter else "none"
        found.append(Evidence(f"the agent's filter on the {hook}", own))
    return tuple(found)


def _used_maps(
    interface: InterfaceView, differences: tuple[tuple[DirectionView, Difference], ...]
) -> tuple[Evidence, ...]:
    """The maps that packets meet, and those that the agent writes."""
    found = []
    for direction in _sides(differences):
        view = interface.directions[direction]
        program = f"program {view.program.id}" if view.program else "no program"
        found.append(Evidence(f"maps of {program} on {interface.veth}", _named(view.maps, direction)))
        found.append(Evidence(f"pinned maps for {direction}", _named(view.pinned_maps, direction)))
    return tuple(found)


def _named(maps: Mapping[str, MapView], direction: Direction) -> str:
    own = ("np", "cp", "pod_state")
    return ", ".join(f"{layouts.map_name(role, direction)} {maps[role].id}" for role in own if role in maps) or "none"


def _remedies(case: PodCase, kind: Kind) -> tuple[Remedy, ...]:
    if kind is findings.FOREIGN:
        look = Remedy(
            "kubectl get daemonsets -A", "none: it only reads; look for a CNI plugin or agent that attaches programs"
        )
        return (look,)
    if kind in (findings.OTHER_PROGRAM, findings.OTHER_MAP, findings.NO_MAPS, findings.OTHER_DIRECTION):
        # aws-network-policy-agent issue 646: a restart of the agent does not mend pods that are attached already.
        return (recreate(case.pod), restart_agent(case.node))
    return (restart_agent(case.node), recreate(case.pod))


def _evidence(
    interface: InterfaceView, differences: Iterable[tuple[DirectionView, Difference]]
) -> tuple[Evidence, ...]:
    """What runs and what is pinned, for each direction that is told of; of both where none is."""
    views = list(dict.fromkeys(view.direction for view, _ in differences)) or list(Direction)
    found = []
    for direction in views:
        view = interface.directions[direction]
        name = f"tc {direction.tc_hook} hook of {interface.veth}"
        runs = f"program {view.program.id}, maps {_ids(view.program.map_ids)}" if view.program else "no program"
        found.append(Evidence(name, f"{view.filter.text}: {runs}" if view.filter else _others(view)))
        pinned = view.pinned_program
        where = f"pin {pinned.pin}" if pinned else f"pins of {direction.program_name}"
        found.append(Evidence(where, f"program {pinned.id}, maps {_ids(pinned.map_ids)}" if pinned else "none"))
    return tuple(found)


def _others(view: DirectionView) -> str:
    if view.foreign:
        return f"no filter of the agent; {', '.join(view.foreign)}"
    if view.filters:
        return f"no filter that packets meet, only {', '.join(one.text for one in view.filters)}"
    return (
        "no filter" if view.clsact else "no clsact qdisc, no filter" if view.clsact is False else "no filter was seen"
    )


def _ids(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _further(case: PodCase, first: InterfaceView, further: InterfaceView) -> Iterator[Finding]:
    wrong = []
    for direction in Direction:
        view = further.directions[direction]
        if first.directions[direction].filter is None or not restricting(case, direction):
            continue
        wrong += [(view, d) for d in view.differences if d.code in (*WRONG_ATTACHMENT, *OPEN_HOOK)]
    if wrong:
        sides = " and ".join(dict.fromkeys(str(view.direction) for view, _ in wrong))
        title = (
            f"interface {further.index} of pod {case.name} ({further.veth}) is not filtered as its first one is: "
            f"{sides}: {wrong[0][1].text}"
        )
        evidence = (*_evidence(first, wrong), *_evidence(further, wrong))
        yield case.made(findings.SECOND_INTERFACE, title, evidence, (recreate(case.pod),))


def _veth(case: PodCase, interface: InterfaceView) -> Iterator[Finding]:
    if interface.agrees is not False or interface.ifindex is None:
        return
    names = " or ".join(identity.veth_names(namespace_of(case.pod), name_of(case.pod)))
    title = f"pod {case.name}: {interface.disputed or interface.evidence[0]}"
    evidence = (
        Evidence("name that the agent looks for", names),
        Evidence(f"route to the pod on node {case.node}", "; ".join(interface.evidence)),
    )
    look = Remedy(
        "kubectl -n kube-system get daemonset aws-node -o yaml | grep -A1 VETHPREFIX",
        NO_EFFECT,
    )
    yield case.made(findings.OTHER_VETH, title, evidence, (look,))


def _unknown_program(case: PodCase, interface: InterfaceView) -> Iterator[Finding]:
    for direction in Direction:
        view = interface.directions[direction]
        if view.program is None or view.agents or view.reason or not view.program.map_ids:
            continue
        if any(not one.type for one in view.other_maps):
            # Not unknown, but unread: the pod's row says so.
            continue
        what = f"what program {view.program.id} does is not known"
        title = f"{direction} of pod {case.name}: {what}: {view.generation_reason}"
        evidence = tuple(
            Evidence(f"map {one.id} of program {view.program.id}", one.layout)
            for one in (*view.maps.values(), *view.other_maps)
        )
        look = Remedy(f"kubectl netpol-ebpf maps {name_of(case.pod)} -n {namespace_of(case.pod)}", NO_EFFECT)
        yield from toward([case.made(findings.UNKNOWN_PROGRAM, title, evidence, (look,))], direction)
        return
