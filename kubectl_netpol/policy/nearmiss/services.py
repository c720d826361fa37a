"""Near misses of Services: egress is judged on the ClusterIP, which the controller adds by rules of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from kubectl_netpol.model.flow import Address
from kubectl_netpol.model.verdict import Decision, Layer
from kubectl_netpol.policy import controller, endpoints, selectors, tiers
from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.nearmiss.case import Case, leads_to, with_rule
from kubectl_netpol.policy.nearmiss.record import Candidate, Change, Proof, candidate
from kubectl_netpol.policy.networkpolicy import Ends, RulePeer
from kubectl_netpol.policy.world import cluster_ips, labels_of, namespace_of, ref

Json = dict[str, Any]

SHOWN = 3
"""Addresses of pods that one sentence names."""
DENIED = Proof(decision=Decision.DENY, layer=Layer.ENDPOINTS)


def candidates(case: Case) -> Iterator[Candidate]:
    if case.incoming:
        return
    service = case.world.service_by_ip.get(case.ends.peer)
    if service is not None and case.backends and case.intent.decision is Decision.ALLOW:
        for rule in case.rules:
            yield from _not_added(case, rule, service)
    elif case.intent.decision is Decision.DENY:
        yield from _only_the_cluster_ip(case)


# ---- the pods are allowed, and the ClusterIP is not


def _not_added(case: Case, rule: RulePeer, service: Json) -> Iterator[Candidate]:
    """Why a rule that allows the pods behind a Service does not allow its ClusterIP (agent facts 6.4)."""
    passing = [ends for ends in case.backends if _allows(rule, ends, case)]
    if not passing or rule.peer is None:
        return
    address, name, where = case.ends.peer, f"service {ref(service)}", case.where(rule)
    only = _through_pods(case, passing)
    own = (service.get("spec") or {}).get("selector") or {}
    wanted = rule.peer.get("podSelector") or {}
    if rule.peer.get("ipBlock"):
        text = (
            f"{where} allows {np.peer_text(rule.peer)}, which holds the pods behind {name} but not its ClusterIP "
            f"{address}, and egress is judged on the ClusterIP{only}"
        )
        block = {"ipBlock": {"cidr": str(address)}}
        added = with_rule(rule.policy, rule.direction, (block,), ())
        yield candidate("SERVICE_BLOCK", 0, text, DENIED, Proof((added,), layer=Layer.ENDPOINTS))
    elif not selectors.matches(wanted, own):
        selects = selectors.text({"matchLabels": own})
        text = (
            f"{name} selects {selects}, which does not satisfy {selectors.text(wanted)} of {where}: its ClusterIP "
            f"{address} is not allowed with the pods{only}"
        )
        labels = dict(labels_of(passing[0].peer_pod or {"metadata": {}}))
        mended = Change("services", {**service, "spec": {**(service.get("spec") or {}), "selector": labels}})
        yield candidate("SERVICE_SELECTOR", 0, text, DENIED, Proof((mended,), layer=Layer.ENDPOINTS))
    elif address in cluster_ips(service)[:1]:
        ports = controller.service_ports(rule, service, case.world)
        leads = f"leads to {port_lists.text(ports)}" if ports else "leads to no port"
        text = (
            f"{where} allows {_ports(rule, passing[0])} on the pods, which {leads} of {name} and not to "
            f"{case.ends.flow.port_text}{only}"
        )
        numbers = {"protocol": case.protocol, "port": case.ends.flow.port}
        block = {"ipBlock": {"cidr": str(address)}}
        added = with_rule(rule.policy, rule.direction, (block,), (numbers,))
        yield candidate("SERVICE_PORT", 0, text, DENIED, Proof((added,), layer=Layer.ENDPOINTS))


def _ports(rule: RulePeer, ends: Ends) -> str:
    return port_lists.text(np.resolve_ports(rule.ports, ends.receiver) or ())


def _allows(rule: RulePeer, ends: Ends, case: Case) -> bool:
    return np.rule_admits(rule, ends) and np.peer_matches(rule, ends, case.world)


def _through_pods(case: Case, passing: list[Ends]) -> str:
    """Which of the pods' own addresses do pass, by the YAML and by the PolicyEndpoints."""
    unread = case.world.unread("policyendpoints", "clusterpolicyendpoints")
    found = [
        str(ends.peer)
        for ends in passing
        if tiers.evaluate(ends, case.world).decision is Decision.ALLOW
        and (unread or endpoints.evaluate(ends, case.world).decision is Decision.ALLOW)
    ]
    if not found:
        return ""
    shown = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
    return f"; this works only through the pod address{'' if len(found) == 1 else 'es'} {shown}"


# ---- the ClusterIP is allowed, and the pod is not


def _only_the_cluster_ip(case: Case) -> Iterator[Candidate]:
    receiver = case.judged.receiver
    if receiver is None:
        return
    for service in case.fronting:
        for address in cluster_ips(service)[:1]:
            for outside, inside in leads_to(service, case.protocol, receiver):
                if inside == case.judged.flow.port:
                    yield from _by_service(case, service, address, outside)


def _by_service(case: Case, service: Json, address: Address, port: int) -> Iterator[Candidate]:
    flow = replace(case.judged.flow, destination=address, port=port)
    ends = Ends(case.pod, case.direction, flow)
    rule = next((rule for rule in case.rules if _means_service(rule, service, ends, case)), None)
    unread = case.world.unread("policyendpoints", "clusterpolicyendpoints")
    if rule is None or (not unread and endpoints.evaluate(ends, case.world).decision is not Decision.ALLOW):
        return
    receiver = case.judged.receiver or {"metadata": {}}
    text = (
        f"{case.where(rule)} allows {address}, the ClusterIP of service {ref(service)}, on {flow.port_text}, and not "
        f"{case.called(receiver)} itself ({case.judged.peer} on {case.judged.flow.port_text}): this works only through "
        "the ClusterIP"
    )
    yield candidate("CLUSTER_IP_ONLY", 1, text, Proof(decision=Decision.DENY), Proof(layer=Layer.ENDPOINTS, flow=flow))


def _means_service(rule: RulePeer, service: Json, ends: Ends, case: Case) -> bool:
    """Whether the controller makes of this rule an entry for the ClusterIP."""
    if rule.domains:
        return False
    if rule.peer is None or rule.peer.get("ipBlock"):
        return _allows(rule, ends, case)
    own = (service.get("spec") or {}).get("selector") or {}
    if not np.means_namespace(rule, namespace_of(service), case.world):
        return False
    if not selectors.matches(rule.peer.get("podSelector") or {}, own):
        return False
    ports = controller.service_ports(rule, service, case.world)
    return ports is not None and port_lists.admits(ports, ends.flow)
