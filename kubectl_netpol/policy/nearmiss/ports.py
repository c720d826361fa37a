"""Near misses of ports: the peer is meant, the port is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from kubectl_netpol.model.flow import PROTOCOL_NUMBERS, WITH_PORTS
from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy import ports as port_lists
from kubectl_netpol.policy.nearmiss import typos
from kubectl_netpol.policy.nearmiss.case import Case, leads_to, with_ports, with_rule
from kubectl_netpol.policy.nearmiss.record import Candidate, Change, Proof, candidate
from kubectl_netpol.policy.networkpolicy import RulePeer
from kubectl_netpol.policy.ports import Port
from kubectl_netpol.policy.world import container_ports, label_of, ref

Json = dict[str, Any]

DNS_PORT = 53


def candidates(case: Case) -> Iterator[Candidate]:
    for rule in case.wrong_port:
        if case.judged.flow.protocol not in WITH_PORTS:
            yield from _without_ports(case, rule)
            continue
        found = list(_of_rule(case, rule))
        yield from found or _other_port(case, rule)
    if not case.incoming and case.judged.flow.port == DNS_PORT:
        yield from _no_dns(case)


def _of_rule(case: Case, rule: RulePeer) -> Iterator[Candidate]:
    yield from _service_port(case, rule)
    yield from _asked_service_port(case, rule)
    for port in rule.ports:
        if isinstance(port.get("port"), str):
            yield from _named(case, rule, port)
        elif not isinstance(port.get("port"), bool):
            yield from _protocol(case, rule, port)


def _without_ports(case: Case, rule: RulePeer) -> Iterator[Candidate]:
    name = case.protocol
    if name not in ("ICMP", "ICMPV6"):
        return
    text = f"{case.where(rule)} allows {_allowed(rule, case)} only; {name} has no port, and needs a rule without ports"
    yield candidate("ICMP", 0, text, with_ports(rule))


def _allowed(rule: RulePeer, case: Case) -> str:
    ports = np.resolve_ports(rule.ports, case.judged.receiver)
    return port_lists.text(ports) if ports else "named ports"


# ---- numbers


def _protocol(case: Case, rule: RulePeer, port: Json) -> Iterator[Candidate]:
    flow = case.judged.flow
    written = str(port.get("protocol") or "TCP")
    own = np.resolve_ports((port,), None) or ()
    mended = tuple(replace(one, protocol=case.protocol) for one in own)
    if PROTOCOL_NUMBERS.get(written) == flow.protocol or not mended or not port_lists.admits(mended, flow):
        return
    default = " (a port without a protocol means TCP)" if written == "TCP" else ""
    dns = "; DNS asks over UDP first" if flow.port == DNS_PORT and case.protocol == "UDP" else ""
    text = f"{case.where(rule)} allows {port_lists.text(own)}{default}, not {flow.port_text}{dns}"
    yield candidate(
        "PROTOCOL", 0 if port.get("port") else 2, text, with_ports(rule, {**port, "protocol": case.protocol})
    )


def _other_port(case: Case, rule: RulePeer) -> Iterator[Candidate]:
    ports = np.resolve_ports(rule.ports, case.judged.receiver)
    if not ports:
        return
    flow = case.judged.flow
    means = np.peer_text(rule.peer)
    text = f"{case.where(rule)} allows {means} on {port_lists.text(ports)}, not on {flow.port_text}"
    yield candidate("PORT", 2, text, with_ports(rule, {"protocol": case.protocol, "port": flow.port}))


def _service_port(case: Case, rule: RulePeer) -> Iterator[Candidate]:
    """The rule names the port of a Service; the pods behind it, which the rule is about, listen on another."""
    receiver, flow = case.judged.receiver, case.judged.flow
    ports = np.resolve_ports(rule.ports, None)
    if receiver is None or not ports:
        return
    for service in case.fronting:
        for outside, inside in leads_to(service, case.protocol, receiver):
            if inside == flow.port and port_lists.admits(ports, replace(flow, port=outside)):
                text = (
                    f"{case.where(rule)} allows {outside}/{case.protocol}, the port of service {ref(service)}; its pod "
                    f"{case.called(receiver)} listens on {inside}/{case.protocol}, and a rule means the port of the pod"
                )
                proof = with_ports(rule, {"protocol": case.protocol, "port": inside})
                yield candidate("SERVICE_PORT_IN_RULE", 0, text, proof)


def _asked_service_port(case: Case, rule: RulePeer) -> Iterator[Candidate]:
    """The flow goes to the pod's own address, with the port that only its Service has."""
    receiver, flow = case.judged.receiver, case.judged.flow
    ports = np.resolve_ports(rule.ports, receiver)
    if receiver is None or not ports or case.backends:
        return
    for service in case.fronting:
        for outside, inside in leads_to(service, case.protocol, receiver):
            real = replace(flow, port=inside)
            if outside == flow.port and inside != outside and port_lists.admits(ports, real):
                text = (
                    f"{case.where(rule)} allows {real.port_text}, the port of {case.called(receiver)}; "
                    f"{flow.port_text} is the port of service {ref(service)}, which leads there, and not the pod's own"
                )
                yield candidate("ASKED_SERVICE_PORT", 0, text, Proof(flow=real))


# ---- names


def _named(case: Case, rule: RulePeer, port: Json) -> Iterator[Candidate]:
    name, protocol = str(port["port"]), str(port.get("protocol") or "TCP")
    receiver, flow = case.judged.receiver, case.judged.flow
    allows = f"{case.where(rule)} allows the port named {name}"
    if receiver is None:
        text = f"{allows}; {case.judged.peer} is no pod, so the name means no number there"
        number = {"protocol": protocol, "port": flow.port}
        yield candidate("NAMED_PORT_ADDRESS", 0, text, with_ports(rule, number))
        return
    called = case.called(receiver)
    same = [one for one in container_ports(receiver) if one.get("name") == name]
    numbers = [one for one in same if (one.get("protocol") or "TCP") == protocol]
    if numbers:
        real = Port(protocol, int(numbers[0]["containerPort"]))
        if PROTOCOL_NUMBERS.get(protocol) == flow.protocol:
            text = f"{allows}, which is {real.text} on {called}, not {flow.port_text}"
            yield candidate("NAMED_PORT_NUMBER", 1, text, Proof(flow=replace(flow, port=real.number)))
    elif same:
        declared = Port(str(same[0].get("protocol") or "TCP"), int(same[0]["containerPort"]))
        text = f"{allows} over {protocol}; {called} declares {name} as {declared.text}"
        mended = {**port, "protocol": declared.protocol}
        yield candidate("NAMED_PORT_PROTOCOL", 0, text, with_ports(rule, mended))
    else:
        yield from _undeclared(case, rule, port, receiver)


def _undeclared(case: Case, rule: RulePeer, port: Json, receiver: Json) -> Iterator[Candidate]:
    name, called = str(port["port"]), case.called(receiver)
    allows = f"{case.where(rule)} allows the port named {name}"
    for one in container_ports(receiver):
        other = one.get("name")
        declared = Port(str(one.get("protocol") or "TCP"), int(one["containerPort"]))
        if other and declared.admits(case.judged.flow) and (like := typos.likeness(name, other)):
            text = f"{allows}; {called} declares {declared.text} as {other}, {like}"
            mended = {"protocol": declared.protocol, "port": other}
            yield candidate("NAMED_PORT_TYPO", 0, text, with_ports(rule, mended))
            return
    protocol = str(port.get("protocol") or "TCP")
    text = f"{allows}; no container of {called} declares a port of that name (init containers do not count)"
    declared_so = _declaring(receiver, {"name": name, "protocol": protocol, "containerPort": case.judged.flow.port})
    yield candidate("NAMED_PORT_MISSING", 1, text, Proof((declared_so,)))


def _declaring(pod: Json, port: Json) -> Change:
    spec = pod.get("spec") or {}
    containers = [*(spec.get("containers") or ()), {"name": "with-port", "ports": [port]}]
    return Change("pods", {**pod, "spec": {**spec, "containers": containers}})


# ---- DNS


def _no_dns(case: Case) -> Iterator[Candidate]:
    """No rule allows DNS to anybody: nothing that the pod calls by a name can be reached."""
    named = any(isinstance(port.get("port"), str) for rule in case.rules for port in rule.ports)
    if not case.policies or named or any(np.rule_admits(rule, case.judged) for rule in case.rules):
        return
    names = ", ".join(sorted({label_of(policy) for policy in case.policies}))
    flow = case.judged.flow
    text = (
        f"no egress rule of {names} allows {flow.port_text} to anybody, so {case.called(case.pod)} cannot ask DNS over "
        f"{case.protocol}"
    )
    ports = ({"protocol": case.protocol, "port": flow.port},)
    change = with_rule(case.policies[0], case.direction, (), ports)
    yield candidate("DNS_NOT_ALLOWED", 1, text, Proof((change,)))
