"""The cluster as it would be with some policies applied (`-f`) or removed (`--without`).

PolicyEndpoints of what changes are those that the controller would make; all others stay as they are.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kubectl_netpol.errors import NotRead, UsageError
from kubectl_netpol.model.snapshot import Collection, Snapshot
from kubectl_netpol.policy import controller, endpoints, modelled
from kubectl_netpol.policy.world import (
    APPLICATION_POLICY,
    CLUSTER_POLICY,
    COLLECTIONS,
    NETWORK_POLICY,
    World,
    label_of,
    name_of,
    namespace_of,
    ref,
)

Json = dict[str, Any]

KINDS = {
    **dict.fromkeys(("networkpolicy", "networkpolicies", "netpol"), NETWORK_POLICY),
    **dict.fromkeys(("applicationnetworkpolicy", "applicationnetworkpolicies", "anp"), APPLICATION_POLICY),
    **dict.fromkeys(("clusternetworkpolicy", "clusternetworkpolicies", "cnp"), CLUSTER_POLICY),
}


@dataclass(frozen=True)
class Changes:
    """What the user asks to be imagined."""

    applied: tuple[Json, ...] = ()
    """Policies with their kind; those without a namespace are of the session's."""
    removed: tuple[str, ...] = ()
    """`NAME`, `NAMESPACE/NAME`, `networkpolicy/NAME`, `NAMESPACE/anp/NAME`, `cnp/NAME`."""
    files: tuple[str, ...] = ()
    """Where the applied ones are from, as the user named it."""

    def __bool__(self) -> bool:
        return bool(self.applied or self.removed)

    def namespaces(self, default: str) -> tuple[str, ...]:
        """Those of all policies that are named; ``default``: of names without one."""
        found = [namespace_of(policy) for policy in self.applied] + [_parse(text, default)[1] for text in self.removed]
        return tuple(dict.fromkeys(namespace for namespace in found if namespace))


@dataclass(frozen=True)
class Hypothesis:
    """The imagined cluster, and what is different in it, one phrase each."""

    world: World
    texts: tuple[str, ...]
    command: str = ""
    """What makes it so, for the user to run."""
    namespaces: frozenset[str] = frozenset()
    """Those whose policies change; "" stands for cluster policies."""


def imagine(snapshot: Snapshot, changes: Changes, namespace: str) -> Hypothesis:
    """Raises ``UsageError`` for names that do not exist and namespaces that are not there."""
    world = World(snapshot)
    gone = [_named(text, namespace, world) for text in changes.removed]
    # Of one object in two files the last one counts.
    made = list({(policy["kind"], ref(policy)): policy for policy in changes.applied}.values())
    policies = {kind: list(snapshot.items(plural)) for kind, plural in COLLECTIONS.items()}
    texts = [f"without {kind} {ref(policy)}" for kind, policy in gone]
    applied: list[Json] = []
    for kind, policy in gone:
        policies[kind] = [one for one in policies[kind] if ref(one) != ref(policy)]
    for policy in made:
        kind = str(policy["kind"])
        _check_place(policy, world)
        before = next((one for one in snapshot.items(COLLECTIONS[kind]) if ref(one) == ref(policy)), None)
        applied.append(policy := _merged(policy, before))
        policies[kind] = [one for one in policies[kind] if ref(one) != ref(policy)] + [policy]
        texts.append(f"{kind} {ref(policy)} {_how(policy, before)}")
    touched = [*({**policy, "kind": kind} for kind, policy in gone), *applied]
    return Hypothesis(
        _world(snapshot, policies, touched, applied), tuple(texts), _command(changes, gone), _touched(touched)
    )


def _touched(policies: Iterable[Json]) -> frozenset[str]:
    return frozenset("" if policy["kind"] == CLUSTER_POLICY else namespace_of(policy) for policy in policies)


def _merged(policy: Json, before: Json | None) -> Json:
    """As `kubectl apply` does it: policyTypes that the server filled in stay where the file has none."""
    spec, live = policy.get("spec") or {}, ((before or {}).get("spec") or {}).get("policyTypes")
    if policy["kind"] != NETWORK_POLICY or spec.get("policyTypes") or not live:
        return policy
    return {**policy, "spec": {**spec, "policyTypes": live}}


def _how(policy: Json, before: Json | None) -> str:
    if before is None:
        return "added"
    same = _defaulted(before.get("spec") or {}) == _defaulted(policy.get("spec") or {})
    return "unchanged" if same else "changed"


def _defaulted(value: Any) -> Any:
    """A spec without what says nothing: empty lists and nulls, the default protocol."""
    if isinstance(value, list):
        return [_defaulted(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {key: _defaulted(one) for key, one in value.items() if one is not None and one != []}
    return {key: one for key, one in made.items() if (key, one) != ("protocol", "TCP")}


def _command(changes: Changes, gone: Iterable[tuple[str, Json]]) -> str:
    """`kubectl apply -f policy.yaml && kubectl -n shop delete networkpolicy old`."""
    parts = []
    files = [name for name in dict.fromkeys(changes.files) if name != "-"]
    if files:
        parts.append(f"kubectl apply {' '.join(f'-f {shlex.quote(name)}' for name in files)}")
    elif changes.applied:
        parts.append("kubectl apply -f - with the same YAML")
    for kind, policy in gone:
        where = f"-n {namespace_of(policy)} " if namespace_of(policy) else ""
        parts.append(f"kubectl {where}delete {kind.lower()} {name_of(policy)}")
    return " && ".join(parts)


def _world(snapshot: Snapshot, policies: dict[str, list[Json]], touched: Sequence[Json], made: Sequence[Json]) -> World:
    before = World(snapshot)
    collections = dict(snapshot.collections)
    for kind, plural in COLLECTIONS.items():
        collections[plural] = replace(snapshot.get(plural), items=tuple(policies[kind]))
    changed = World(replace(snapshot, collections=collections))
    stale = {id(endpoint) for policy in touched for endpoint in endpoints.of_policy(before, policy)}
    for plural, cluster in (("policyendpoints", False), ("clusterpolicyendpoints", True)):
        kept = [endpoint for endpoint in snapshot.items(plural) if id(endpoint) not in stale]
        new = [
            modelled.endpoint_of(controller.resolution(policy, changed))
            for policy in (*made, *_namesakes(touched, made, changed))
            if (policy["kind"] == CLUSTER_POLICY) is cluster
        ]
        # Without the CRD there is no controller that makes any.
        there = snapshot.get(plural)
        collections[plural] = there if there.absent else Collection((*kept, *new), there.reason)
    return World(replace(snapshot, collections=collections))


def _namesakes(touched: Iterable[Json], made: Sequence[Json], world: World) -> list[Json]:
    """Policies of the other kind with a changed one's name: their PolicyEndpoints cannot be told from its own."""
    names = {ref(policy) for policy in touched if policy["kind"] != CLUSTER_POLICY}
    known = {(policy["kind"], ref(policy)) for policy in made}
    return [
        {**policy, "kind": kind}
        for kind in (NETWORK_POLICY, APPLICATION_POLICY)
        for policy in world.snapshot.items(COLLECTIONS[kind])
        if ref(policy) in names and (kind, ref(policy)) not in known
    ]


def _check_place(policy: Json, world: World) -> None:
    namespace, plural = namespace_of(policy), COLLECTIONS[policy["kind"]]
    if world.snapshot.get(plural).absent:
        raise UsageError(f"{label_of(policy)}: this cluster does not know {plural}: kubectl apply would fail")
    if policy["kind"] == CLUSTER_POLICY or not world.snapshot.get("namespaces").known:
        return
    if namespace not in world.namespaces:
        raise UsageError(f'{label_of(policy)}: namespace "{namespace}" not found')


def _parse(text: str, namespace: str) -> tuple[str, str, str]:
    """(kind or "", namespace or "" of cluster policies, name)."""
    parts = text.split("/")
    kind = ""
    if len(parts) > 1 and parts[-2].lower() in KINDS:
        kind = KINDS[parts.pop(-2).lower()]
    if len(parts) > 2 or "" in parts:
        forms = "use NAME, NAMESPACE/NAME, networkpolicy/NAME, anp/NAME or cnp/NAME"
        raise UsageError(f'--without "{text}" is not a name: {forms}')
    where = parts[0] if len(parts) == 2 else namespace
    return kind, "" if kind == CLUSTER_POLICY else where, parts[-1]


def _named(text: str, namespace: str, world: World) -> tuple[str, Json]:
    """The one policy that a name of `--without` means, with its kind."""
    kind, where, name = _parse(text, namespace)
    found = [
        (one, policy)
        for one, plural in COLLECTIONS.items()
        for policy in world.snapshot.items(plural)
        if name_of(policy) == name and kind in ("", one) and _is_there(one, policy, kind, where, text)
    ]
    if len(found) > 1:
        kinds = ", ".join(one for one, _ in found)
        raise UsageError(
            f'--without "{text}" means {len(found)} policies ({kinds})', "name the kind: anp/NAME, cnp/NAME"
        )
    unread = {one: world.snapshot.get(plural).reason for one, plural in COLLECTIONS.items() if kind in ("", one)}
    if not found and any(unread.values()):
        why = "; ".join(f"{COLLECTIONS[one]}: {reason}" for one, reason in unread.items() if reason)
        raise NotRead(f'--without "{text}": policies could not be read: {why}')
    if not found:
        place = f' in namespace "{where}"' if where else ""
        raise UsageError(f'--without: policy "{name}" not found{place}{_others(where, world)}')
    return found[0]


def _is_there(kind: str, policy: Json, wanted: str, namespace: str, text: str) -> bool:
    """Cluster policies have no namespace: `NAME` and `cnp/NAME` mean them, `NAMESPACE/NAME` does not."""
    if kind == CLUSTER_POLICY:
        return bool(wanted) or "/" not in text
    return namespace_of(policy) == namespace


def _others(namespace: str, world: World) -> str:
    """The policies that are there, for names that are not."""
    found = sorted({name_of(one) for plural in COLLECTIONS.values() for one in world.snapshot.items(plural)
                    if namespace_of(one) in ("", namespace)})  # fmt: skip
    return f"; there are {', '.join(found[:SHOWN])}" + (" and more" if len(found) > SHOWN else "") if found else ""


SHOWN = 8
"""Policies that an error names."""
