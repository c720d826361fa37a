"""Tries what a near miss claims: the same evaluation, on copies of the few objects that this flow is about.

A whole World for each guess would be an index over all pods; what decides one flow is its two ends, their namespaces,
the policies that select the pod, and the cluster policies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kubectl_netpol.model.flow import Address
from kubectl_netpol.model.snapshot import Snapshot
from kubectl_netpol.model.verdict import Layer, Verdict
from kubectl_netpol.policy import controller, endpoints, tiers
from kubectl_netpol.policy.modelled import modelled
from kubectl_netpol.policy.nearmiss.case import Case, collection_of
from kubectl_netpol.policy.nearmiss.record import Change, Proof
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.world import World, name_of, namespace_of, node_of

Json = dict[str, Any]
Key = tuple[str, str]


class Trial:
    """The objects that one flow is about."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._objects = _involved(case)

    def holds(self, proof: Proof) -> bool:
        """Whether the layer decides so with the changes made."""
        return self.verdict(proof).decision is proof.decision

    def verdict(self, proof: Proof) -> Verdict:
        world = self._world(proof.changes)
        if proof.layer is Layer.INTENT:
            return tiers.evaluate(_changed(self.case.judged, proof), world)
        ends = _changed(self.case.ends, proof)
        return endpoints.evaluate(ends, modelled(world, namespace_of(ends.pod)))

    def _world(self, changes: Iterable[Change]) -> World:
        objects = {kind: dict(found) for kind, found in self._objects.items()}
        for change in changes:
            found = objects.setdefault(change.kind, {})
            if change.gone:
                found.pop(_key(change.obj), None)
            else:
                found[_key(change.obj)] = change.obj
        source = self.case.world.snapshot
        # What could not be read stays unread: nothing is claimed then.
        collections = {
            kind: replace(source.get(kind), items=tuple(objects.get(kind, {}).values()))
            for kind in {*source.collections, *objects}
        }
        return World(Snapshot(collections))


def _key(obj: Json) -> Key:
    return namespace_of(obj), name_of(obj)


def _changed(ends: Ends, proof: Proof) -> Ends:
    """The ends as the changes make them: a pod of the flow is itself one of the objects."""
    pods = {_key(change.obj): change.obj for change in proof.changes if change.kind == "pods"}
    peer = ends.peer_pod
    return replace(
        ends,
        pod=pods.get(_key(ends.pod), ends.pod),
        peer_pod=peer if peer is None else pods.get(_key(peer), peer),
        flow=proof.flow or ends.flow,
    )


def _involved(case: Case) -> dict[str, dict[Key, Json]]:
    world = case.world
    services = _services(case)
    pods = [case.pod, *(ends.peer_pod for ends in (case.ends, *case.backends) if ends.peer_pod is not None)]
    pods += [pod for service in services for pod in _backing(service, world)]
    spaces = {namespace_of(obj) for obj in (*pods, *services)}
    found: dict[str, list[Json]] = {
        "pods": pods,
        "services": services,
        "namespaces": [_namespace(name, world) for name in spaces if name in world.namespaces],
        "nodes": _nodes(case),
        "networkpolicies": [],
        "applicationnetworkpolicies": [],
        "clusternetworkpolicies": list(world.cluster_policies),
    }
    for policy in case.selecting:
        found[collection_of(policy)].append(policy)
    return {kind: {_key(obj): obj for obj in objects} for kind, objects in found.items()}


def _backing(service: Json, world: World) -> tuple[Json, ...]:
    """Not those of a Service without a selector: nothing is said about its ports."""
    return controller.backing_pods(service, world) if (service.get("spec") or {}).get("selector") else ()


def _services(case: Case) -> list[Json]:
    asked = [case.world.service_by_ip.get(address) for address in _peers(case)]
    return [*(service for service in asked if service is not None), *case.fronting]


def _nodes(case: Case) -> list[Json]:
    found = [case.world.nodes.get(node_of(case.pod)), *map(case.world.node_by_ip.get, _peers(case))]
    return [node for node in found if node is not None]


def _peers(case: Case) -> set[Address]:
    return {case.ends.peer, case.judged.peer}


def _namespace(name: str, world: World) -> Json:
    return {"metadata": {"name": name, "labels": dict(world.namespaces[name])}}
