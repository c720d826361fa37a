"""One small example for each rule by which EKS decides otherwise than Kubernetes, and the change that mends it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from kubectl_netpol.diagnose import deviations
from kubectl_netpol.diagnose.layers import api_verdicts
from kubectl_netpol.diagnose.plan import Leg
from kubectl_netpol.model.flow import Direction, Flow
from kubectl_netpol.model.snapshot import Collection
from kubectl_netpol.policy import modelled
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.world import World
from tests.lab import cni_objects
from tests.lab.agent import GENERATIONS
from tests.unit.builders import (
    NODE,
    NODE_IP,
    container_port,
    endpoint,
    entry,
    match,
    namespace,
    node,
    pe_port,
    pod,
    policy,
    service,
    service_port,
    world,
)
from tests.unit.test_pipeline import Answer, Asked, answer_of

Json = dict[str, Any]
IN, OUT = Direction.INGRESS, Direction.EGRESS
DOCS = Path(__file__).resolve().parents[2] / "docs/deviations.md"

WEB_LABELS = {"app": "web", "tier": "fe"}
HTTP = container_port(8080, "http")
ME = pod("me", "10.0.2.1", labels={"app": "me"})
WEB = pod("web", "10.0.1.1", labels=WEB_LABELS, ports=[HTTP])
CLIENT = pod("client", "10.0.1.9", labels={"app": "client"})
CLUSTER_IP = "10.100.0.1"
SERVICE = service("web", CLUSTER_IP, selector={"app": "web"}, ports=[service_port(80, 8080)])
TO_WEB = {"podSelector": match(app="web")}
TO_CLIENT = {"podSelector": match(app="client")}


def egress(*rules: Json, types: Sequence[str] = ("Egress",), name: str = "p") -> Json:
    return policy(name, selects={"app": "me"}, egress=rules, types=types)


def ingress(*rules: Json, name: str = "p", **more: Any) -> Json:
    return policy(name, selects={"app": "me"}, ingress=rules, types=["Ingress"], **more)


def block(cidr: str, *excepts: str) -> Json:
    return {"ipBlock": {"cidr": cidr, **({"except": list(excepts)} if excepts else {})}}


def cluster_policy(name: str = "cnp", tier: str = "Admin", priority: int = 5, **rules: Sequence[Json]) -> Json:
    spec = {"tier": tier, "priority": priority, "subject": {"namespaces": {}}}
    return {"metadata": {"name": name}, "spec": spec | {key: list(value) for key, value in rules.items()}}


def pods_of(**labels: str) -> Json:
    return {"pods": {"namespaceSelector": {}, "podSelector": match(**labels)}}


def cluster_entry(cidr: str, *ports: Json, action: str = "Accept") -> Json:
    return {**entry(cidr, *ports), "action": action}


def cluster_endpoint(name: str, pods: Sequence[Json], **rules: Sequence[Json]) -> Json:
    found = endpoint(name, pods=pods, isolation=(), **rules)
    del found["metadata"]["namespace"]
    found["spec"] |= {"tier": "Admin", "priority": 5}
    return found


@dataclass(frozen=True)
class Example:
    """A cluster in which one flow comes out otherwise than the YAML says."""

    code: str
    source: str
    """Where the rule is written down: sections of the agent facts."""
    peer: str
    objects: Mapping[str, Sequence[Json]]
    says: str
    """INTENT, ENDPOINTS and EXPECTED: `allow deny deny`."""
    text: str
    """Part of the sentence."""
    mended: Mapping[str, Sequence[Json]]
    """Objects with which it comes out as the YAML says."""
    me: Json = field(default_factory=lambda: ME)
    direction: Direction = OUT
    port: int = 8080
    protocol: int = 6
    behind: Sequence[Json] = ()
    """The pods behind a ClusterIP, all of which listen on 8080."""


ANYBODY_8080 = {"ports": [{"port": 8080}]}
TWO_HTTP = [WEB, pod("web-old", "10.0.1.2", labels=WEB_LABELS, ports=[container_port(9090, "http")], phase="Failed")]
BY_NAME = service("web", CLUSTER_IP, selector={"app": "web"}, ports=[service_port(80, "http")])
PORTS = [{"port": 1000 + n} for n in range(30)]
V6_ME = pod("me", "2001:db8::2", labels={"app": "me"}, host_ip="2001:db8::1")
SECOND = pod("web", "10.0.1.1", labels=WEB_LABELS, ports=[HTTP])
SECOND["status"]["podIPs"] = [{"ip": "10.0.1.1"}, {"ip": "10.0.1.2"}]
TWIN = pod("me-b", "10.0.2.2", labels={"app": "twin"})
ME_A = pod("me-a", "10.0.2.1", labels={"app": "me"})
AGENT = pod("agent", "10.0.0.2", labels={"app": "agent"}, node="node-b", host_ip="10.0.0.2", host_network=True)
OLD = pod("old", "10.0.1.3", labels={"app": "web", "old": "true"}, ports=[HTTP])
NOT_OLD = {**match(app="web"), "matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]}
APPLICATION = "applicationnetworkpolicies"
CLUSTER = "clusternetworkpolicies"
DENY_80 = {
    "action": "Deny",
    "from": [pods_of(app="client")],
    "ports": [{"portNumber": {"protocol": "TCP", "port": 80}}],
}
DENY_TO_90 = {
    "action": "Deny",
    "from": [pods_of(app="client")],
    "ports": [{"portRange": {"protocol": "TCP", "start": 80, "end": 90}}],
}
DENY_79_TO_90 = {**DENY_TO_90, "ports": [{"portRange": {"protocol": "TCP", "start": 79, "end": 90}}]}
ALL = [{"portRange": {"protocol": "TCP", "start": 1, "end": 65535}}]

EXAMPLES = [
    Example(
        "SERVICE_SELECTOR",
        "6.4",
        CLUSTER_IP,
        {
            "networkpolicies": [egress({"to": [{"podSelector": match(**WEB_LABELS)}]})],
            "services": [SERVICE],
        },
        "allow deny deny",
        "only where the Service's own selector (app=web) satisfies that of the rule (app=web,tier=fe)",
        {"networkpolicies": [egress({"to": [TO_WEB]})]},
        port=80,
        behind=[WEB],
    ),
    Example(
        "SERVICE_PORT",
        "6.4, 3.6 (10)",
        CLUSTER_IP,
        {"networkpolicies": [egress(ANYBODY_8080)], "services": [SERVICE]},
        "allow deny deny",
        "p spec.egress[0] allows 8080/TCP, the port of the pods behind, and not 80/TCP",
        {"networkpolicies": [egress({"ports": [{"port": 8080}, {"port": 80}]})]},
        port=80,
        behind=[WEB],
    ),
    Example(
        "TARGET_PORT_BYPASS",
        "6.4",
        CLUSTER_IP,
        {
            "networkpolicies": [egress({"to": [TO_WEB], "ports": [{"port": 8080}]})],
            "services": [BY_NAME],
            "pods": [ME, *TWO_HTTP],
        },
        "allow deny deny",
        "its targetPort http is another port than 8080 on some pod",
        {"services": [SERVICE]},
        port=80,
        behind=[WEB],
    ),
    Example(
        "CLUSTER_IP",
        "3.6 (9), 6.4",
        CLUSTER_IP,
        {
            "networkpolicies": [egress({"to": [block("10.0.0.0/8")]})],
            "services": [service("web", "172.20.0.1", selector={"app": "web"}, ports=[service_port(80, 8080)])],
        },
        "allow deny deny",
        "judged on its ClusterIP 172.20.0.1, and p spec.egress[0].to[0] allows 10.0.0.0/8: it holds 10.0.1.1 only",
        {"networkpolicies": [egress({"to": [block("10.0.0.0/8"), block("172.20.0.0/16")]})]},
        port=80,
        behind=[WEB],
    ),
    Example(
        "CLUSTER_IP_BYPASS",
        "6.6",
        CLUSTER_IP,
        {
            CLUSTER: [cluster_policy(egress=[{"action": "Deny", "to": [pods_of(**WEB_LABELS)]}])],
            "services": [SERVICE],
        },
        "deny allow allow",
        "spec.egress[0].to[0] denies pods app=web,tier=fe in all namespaces, and that does not reach the ClusterIP",
        {CLUSTER: [cluster_policy(egress=[{"action": "Deny", "to": [pods_of(app="web")]}])]},
        port=80,
        behind=[WEB],
    ),
    Example(
        "NAMED_PORT",
        "6.3",
        "10.0.1.1",
        {"networkpolicies": [egress({"to": [block("10.0.0.0/8")], "ports": [{"port": "http"}]})]},
        "allow deny deny",
        "names the port http, which the controller cannot look up for an address block",
        {"networkpolicies": [egress({"to": [block("10.0.0.0/8")], "ports": [{"port": 8080}]})]},
    ),
    Example(
        "HOST_NETWORK_PEER",
        "6.3",
        "10.0.0.2",
        {
            "networkpolicies": [ingress({"from": [{"podSelector": match(app="agent")}]})],
            "pods": [ME, AGENT],
            "nodes": [node(NODE), node("node-b", "10.0.0.2")],
        },
        "deny allow allow",
        "the rule means the whole of node node-b (10.0.0.2)",
        {"pods": [ME]},
        direction=IN,
    ),
    Example(
        "POLICY_TYPES",
        "6.3, 9.1 (11)",
        "192.0.2.1",
        {"networkpolicies": [egress({"to": [block("198.51.100.0/24")]}, types=["Ingress"])]},
        "allow deny deny",
        "p has egress rules and does not list Egress in policyTypes",
        {"networkpolicies": [policy("p", selects={"app": "me"}, types=["Ingress"])]},
    ),
    Example(
        "NO_POLICY_TYPES",
        "6.6",
        "192.0.2.1",
        {APPLICATION: [policy("p", selects={"app": "me"})]},
        "deny allow allow",
        "ApplicationNetworkPolicy p has no policyTypes and brings no ingress entry",
        {APPLICATION: [policy("p", selects={"app": "me"}, types=["Ingress"])]},
        direction=IN,
    ),
    Example(
        "EMPTY_TO",
        "6.6",
        "192.0.2.1",
        {APPLICATION: [egress({})]},
        "allow deny deny",
        "ApplicationNetworkPolicy p spec.egress[0] has no `to`",
        {APPLICATION: [egress({"to": [block("0.0.0.0/0")]})]},
    ),
    Example(
        "ALL_PORTS_LOST",
        "6.5",
        "10.0.1.9",
        {
            CLUSTER: [
                cluster_policy(ingress=[DENY_80, {"action": "Deny", "from": [pods_of(app="client")]}]),
            ]
        },
        "deny allow allow",
        "spec.ingress[1].from[0] denies 10.0.1.9 on all ports, but another rule of the policy names ports",
        {CLUSTER: [cluster_policy(ingress=[DENY_80, {**DENY_80, "ports": ALL}])]},
        direction=IN,
    ),
    Example(
        "RANGE_LOST",
        "6.5",
        "10.0.1.9",
        {CLUSTER: [cluster_policy(ingress=[DENY_80, DENY_TO_90])]},
        "deny allow allow",
        "spec.ingress[1].from[0] has a range of ports that begins like the ports of an earlier rule for 10.0.1.9",
        {CLUSTER: [cluster_policy(ingress=[DENY_80, DENY_79_TO_90])]},
        direction=IN,
        port=85,
    ),
    Example(
        "RULE_ORDER",
        "6.6, 3.4",
        "10.0.1.9",
        {
            CLUSTER: [
                cluster_policy(
                    ingress=[
                        {"action": "Accept", "from": [pods_of(app="client")]},
                        {"action": "Deny", "from": [{"namespaces": {}}]},
                    ]
                )
            ]
        },
        "allow deny deny",
        "cnp (priority 5) spec.ingress[0] comes first and says Accept",
        {
            CLUSTER: [
                cluster_policy("a", priority=1, ingress=[{"action": "Accept", "from": [pods_of(app="client")]}]),
                cluster_policy("b", priority=2, ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}]),
            ]
        },
        direction=IN,
    ),
    Example(
        "FIRST_PEER",
        "6.6",
        "10.0.1.9",
        {
            CLUSTER: [
                cluster_policy(
                    ingress=[{"action": "Deny", "from": [{"namespaces": match(no="where")}, pods_of(app="client")]}]
                )
            ],
            "policyendpoints": [],
            "clusterpolicyendpoints": [cluster_endpoint("cnp", [ME, WEB, CLIENT])],
        },
        "deny allow allow",
        "is lost as a whole, as the rule's first peer means no namespace",
        {
            CLUSTER: [cluster_policy(ingress=[{"action": "Deny", "from": [pods_of(app="client")]}])],
            "clusterpolicyendpoints": [
                cluster_endpoint("cnp", [ME, WEB, CLIENT], ingress=[cluster_entry("10.0.1.9", action="Deny")])
            ],
        },
        direction=IN,
    ),
    Example(
        "FIRST_ADDRESS",
        "6.3",
        "10.0.1.2",
        {"networkpolicies": [egress({"to": [TO_WEB]})], "pods": [ME, SECOND]},
        "allow deny deny",
        "means pod default/web, of which the controller resolves only the first address, 10.0.1.1",
        {"networkpolicies": [egress({"to": [TO_WEB, block("10.0.1.2/32")]})]},
    ),
    Example(
        "DOMAIN_NAME",
        "6.6",
        "192.0.2.1",
        {APPLICATION: [egress({"to": [{"domainNames": ["example.com"]}]})]},
        "unknown deny deny",
        "rules for domain names (example.com) are not enforced by the open agent",
        {APPLICATION: [egress({"to": [block("192.0.2.1/32")]})]},
    ),
    Example(
        "NOT_RESOLVED_YET",
        "6.2, 9.1 (19)",
        "10.0.1.1",
        {
            "networkpolicies": [egress({"to": [TO_WEB]})],
            "policyendpoints": [endpoint("p", pods=[ME], isolation=["Egress"])],
        },
        "allow deny deny",
        "not what the controller makes of the policies now: p: 1 slice: 1 egress entry is missing: 10.0.1.1",
        {"policyendpoints": [endpoint("p", pods=[ME], isolation=["Egress"], egress=[entry("10.0.1.1")])]},
    ),
    Example(
        "EXCEPT_WINS",
        "5.3",
        "10.1.0.1",
        {
            "networkpolicies": [
                egress({"to": [block("10.0.0.0/8", "10.1.0.0/16")]}, name="a"),
                egress({"to": [block("0.0.0.0/0")]}, name="b"),
            ]
        },
        "allow allow deny",
        "10.1.0.0/16 is an except of a-modelled spec.egress[0] (10.0.0.0/8)",
        {
            "networkpolicies": [
                egress({"to": [block("10.0.0.0/8", "10.1.0.0/16")]}, name="a"),
                egress({"to": [block("0.0.0.0/0"), block("10.1.0.0/16")]}, name="b"),
            ]
        },
    ),
    Example(
        "EXCEPT_LOST",
        "5.3",
        "10.1.1.1",
        {
            "networkpolicies": [
                egress(
                    {"to": [block("10.0.0.0/8", "10.1.1.0/24")]},
                    {"to": [block("10.1.0.0/16")], "ports": [{"port": 80}]},
                    {"to": [block("10.1.1.0/24")], "ports": [{"port": 443}]},
                )
            ]
        },
        "deny deny allow",
        "it inherits the ports of p-modelled spec.egress[1] (10.1.0.0/16), and with them those of p-modelled "
        "spec.egress[0] (10.0.0.0/8), although that excepts 10.1.1.1",
        {
            "networkpolicies": [
                egress(
                    {"to": [block("10.0.0.0/8", "10.1.1.0/24")]},
                    {"to": [block("10.1.1.0/24")], "ports": [{"port": 443}]},
                )
            ]
        },
    ),
    Example(
        "NOT_INHERITED",
        "5.3, 3.6 (1)",
        "10.1.2.1",
        {
            "networkpolicies": [
                egress(
                    {"to": [block("10.0.0.0/8", "10.1.0.0/24")]},
                    {"to": [block("10.1.0.0/16")], "ports": [{"port": 80}]},
                )
            ]
        },
        "allow allow deny",
        "only the longest prefix counts, 10.1.0.0/16, and it does not inherit the ports of p-modelled spec.egress[0]",
        {
            "networkpolicies": [
                egress(
                    {"to": [block("10.0.0.0/8", "10.1.0.0/24")]},
                    {"to": [block("10.1.0.0/16", "10.1.0.0/24")]},
                )
            ]
        },
    ),
    Example(
        "CUT_OFF",
        "5.3, 3.6, 9.3 (55)",
        "192.0.2.1",
        {"networkpolicies": [egress({"to": [block("192.0.2.0/24")], "ports": PORTS})]},
        "allow allow unknown",
        "30 port rules meet in the entry 192.0.2.0/24 and 24 fit",
        {"networkpolicies": [egress({"to": [block("192.0.2.0/24")], "ports": [{"port": 1000, "endPort": 1029}]})]},
        port=1003,
    ),
    Example(
        "HOST_BITS",
        "5.3, 9.3 (59)",
        "10.9.0.1",
        {
            "networkpolicies": [
                egress(
                    {"to": [block("10.0.0.0/8")], "ports": [{"port": 80}]},
                    {"to": [block("10.1.2.3/8")], "ports": [{"port": 8080}]},
                )
            ],
            "policyendpoints": [
                endpoint(
                    "p",
                    pods=[ME],
                    isolation=["Egress"],
                    egress=[entry("10.0.0.0/8", pe_port(80)), entry("10.1.2.3/8", pe_port(8080))],
                )
            ],
        },
        "allow allow unknown",
        "rules of one prefix are written with different host bits",
        {
            "policyendpoints": [
                endpoint("p", pods=[ME], isolation=["Egress"], egress=[entry("10.0.0.0/8", pe_port(80), pe_port(8080))])
            ]
        },
    ),
    Example(
        "OTHER_FAMILY",
        "3.1, 5.3, 3.6 (7)",
        "192.0.2.1",
        {"networkpolicies": [egress()], "pods": [V6_ME], "nodes": [node(NODE, "2001:db8::1")]},
        "deny deny allow",
        "192.0.2.1 is IPv4 and me has IPv6: its programs look at packets of IPv6 only",
        {"pods": [ME], "nodes": [node()]},
        me=V6_ME,
    ),
    Example(
        "ICMPV6",
        "3.1",
        "2001:db8:a::1",
        {"networkpolicies": [egress()], "pods": [V6_ME], "nodes": [node(NODE, "2001:db8::1")]},
        "deny deny allow",
        "the program lets ICMPv6 through whatever the rules say",
        {"networkpolicies": []},
        me=V6_ME,
        port=0,
        protocol=58,
    ),
    Example(
        "SHARED_IDENTIFIER",
        "4.3",
        "192.0.2.1",
        {"networkpolicies": [policy("p", selects={"app": "twin"}, types=["Egress"])], "pods": [ME_A, TWIN]},
        "allow allow deny",
        "me-a shares its pod identifier with me-b: the rules of p apply to it as well",
        {"pods": [ME_A, pod("twin-b", "10.0.2.2", labels={"app": "twin"})]},
        me=ME_A,
    ),
    Example(
        "BASELINE_DEAD",
        "3.4",
        "192.0.2.1",
        {
            "networkpolicies": [ingress({})],
            CLUSTER: [
                cluster_policy("b", "Baseline", egress=[{"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}])
            ],
        },
        "deny deny allow",
        "the pod is in the PolicyEndpoints of p, which do not restrict egress",
        {"networkpolicies": []},
    ),
    Example(
        "STRICT_MODE",
        "5.10",
        "10.0.1.1",
        {"networkpolicies": [], "daemonsets": [cni_objects.daemonset(GENERATIONS["1.4.2"], mode="strict")]},
        "allow allow deny",
        "the enforcing mode is strict, and a pod that no policy concerns is closed in it",
        {"daemonsets": [cni_objects.daemonset(GENERATIONS["1.4.2"])]},
    ),
    Example(
        "OWN_NODE",
        "3.6 (8), 5.5",
        NODE_IP,
        {CLUSTER: [cluster_policy(egress=[{"action": "Deny", "to": [{"networks": [f"{NODE_IP}/32"]}]}])]},
        "deny deny allow",
        f"{NODE_IP} is the address of the pod's own node {NODE}: the agent lets it pass",
        {CLUSTER: []},
    ),
]
MORE = [
    # The same rules from another side.
    Example(
        "NOT_RESOLVED_YET",
        "9.1 (9, 19)",
        "10.0.1.1",
        {"networkpolicies": [], "policyendpoints": [endpoint("gone", pods=[ME], isolation=["Egress"])]},
        "allow deny deny",
        "those of gone list default/me, which no policy of that name selects",
        {"policyendpoints": []},
    ),
    Example(
        "SERVICE_PORT",
        "6.4",
        CLUSTER_IP,
        {
            "networkpolicies": [egress({"to": [TO_WEB], "ports": [{"port": 8080}]})],
            "services": [
                service(
                    "web", CLUSTER_IP, selector={"app": "web"}, ports=[service_port(80, 8080), service_port(81, 8080)]
                )
            ],
        },
        "allow deny deny",
        "the first port of the Service with the targetPort 8080 is 80; the rule means the ClusterIP on 80/TCP only",
        {"networkpolicies": [egress({"to": [TO_WEB]})]},
        port=81,
        behind=[WEB],
    ),
    Example(
        "SERVICE_PORT",
        "6.4",
        CLUSTER_IP,
        {"networkpolicies": [egress({"ports": [{"port": 80}]})], "services": [SERVICE]},
        "deny allow allow",
        "p spec.egress[0] allows 80/TCP there, and does not mean 8080/TCP of pod default/web behind it",
        {"networkpolicies": [egress({"ports": [{"port": 81}]})]},
        port=80,
        behind=[WEB],
    ),
    Example(
        "CLUSTER_IP",
        "6.4",
        CLUSTER_IP,
        {
            "networkpolicies": [egress({"to": [TO_CLIENT, {"podSelector": {}}]})],
            "services": [service("kubernetes", CLUSTER_IP, ports=[service_port(443)])],
        },
        "deny allow allow",
        "p spec.egress[0].to[1] allows all pods, and with them Service default/kubernetes: no pod is behind it",
        {"networkpolicies": [egress({"to": [TO_CLIENT]})]},
        port=443,
    ),
    Example(
        "CLUSTER_IP",
        "6.4",
        CLUSTER_IP,
        {
            "networkpolicies": [egress({"to": [{"podSelector": NOT_OLD}]})],
            "services": [SERVICE],
            "pods": [ME, WEB, OLD],
        },
        "deny allow allow",
        "p spec.egress[0].to[0] (pods app=web,!old) means the Service by its selector, and does not mean pod default",
        {"pods": [ME, WEB], "networkpolicies": [egress({"to": [TO_WEB]})]},
        port=80,
        behind=[WEB, OLD],
    ),
    Example(
        "NAMED_PORT",
        "6.3",
        "10.0.1.9",
        {
            "networkpolicies": [ingress({"from": [TO_CLIENT], "ports": [{"port": "http"}]})],
            "pods": [ME, CLIENT, pod("other", "10.0.2.9", labels={"app": "me"}, ports=[HTTP])],
        },
        "deny allow allow",
        "p spec.ingress[0].from[0] names the port http, which me does not have as 8080/TCP",
        {"pods": [ME, CLIENT]},
        direction=IN,
    ),
    Example(
        "NAMED_PORT",
        "6.6",
        "10.0.1.9",
        {
            CLUSTER: [
                cluster_policy(
                    ingress=[{"action": "Deny", "from": [pods_of(app="client")], "ports": [{"namedPort": "http"}]}]
                )
            ],
            "namespaces": [namespace("default"), namespace("a-first")],
        },
        "deny allow allow",
        "looks named ports up in one namespace of its subject only, a-first, and default/web is not there",
        {"namespaces": [namespace("default")]},
        me=WEB,
        direction=IN,
    ),
    Example(
        "ALL_PORTS_LOST",
        "6.5",
        "192.0.2.1",
        {
            "networkpolicies": [
                egress(
                    {"to": [block("192.0.2.0/24")]},
                    {"to": [block("192.0.2.0/24")], "ports": [{"port": 80}]},
                )
            ],
            "policyendpoints": [
                endpoint("p", pods=[ME], isolation=["Egress"], egress=[entry("192.0.2.0/24", pe_port(80))])
            ],
        },
        "allow deny deny",
        "p spec.egress[0].to[0] allows 192.0.2.1 on all ports, but another rule of the policy names ports",
        {"policyendpoints": [endpoint("p", pods=[ME], isolation=["Egress"], egress=[entry("192.0.2.0/24")])]},
    ),
    Example(
        "OWN_NODE",
        "5.3",
        "10.0.0.3",
        {"networkpolicies": [egress({"to": [block("10.0.0.2/31")]})], "nodes": [node(NODE, "10.0.0.2")]},
        "allow allow deny",
        "the agent leaves out p-modelled spec.egress[0] (10.0.0.2/31), as the block begins with the address of",
        {"networkpolicies": [egress({"to": [block("10.0.0.3/32")]})]},
        me=pod("me", "10.0.2.1", labels={"app": "me"}, host_ip="10.0.0.2"),
    ),
    Example(
        "NOT_INHERITED",
        "5.3",
        "2001:db8:a::1",
        {
            "networkpolicies": [
                egress(
                    {"to": [block("2001:db8::/32")]},
                    {"to": [block("2001:db8:a::/64")], "ports": [{"port": 80}]},
                )
            ],
            "pods": [V6_ME],
            "nodes": [node(NODE, "2001:db8::1")],
        },
        "allow allow deny",
        "the agent takes a /32 for a single address in IPv6 as well",
        {"networkpolicies": [egress({"to": [block("2001:db8::/33")]})]},
        me=V6_ME,
    ),
    Example(
        "CUT_OFF",
        "5.5",
        "10.0.1.9",
        {
            CLUSTER: [
                cluster_policy(
                    ingress=[
                        {
                            "action": "Deny",
                            "from": [pods_of(app="client")],
                            "ports": [{"portNumber": {"protocol": "TCP", "port": 1000 + n}} for n in range(30)],
                        }
                    ]
                )
            ]
        },
        "deny deny unknown",
        "30 rules of cluster policies meet in the entry 10.0.1.9/32 and 24 fit",
        {CLUSTER: [cluster_policy(ingress=[{**DENY_80, "ports": ALL}])]},
        direction=IN,
        port=1003,
    ),
]


def ask(example: Example, **changed: Any) -> Answer:
    """What the layers say, with PolicyEndpoints as the controller makes them where the example has none of its own."""
    objects = {"pods": [example.me, WEB, CLIENT], **example.objects, **changed}
    address = ip_address(example.peer)
    services = objects.get("services") or ()
    if example.behind and services:
        address = ip_address(services[0]["spec"]["clusterIP"])
    found: World = world(**objects)
    if "policyendpoints" not in objects:
        found = modelled.modelled(found, "default")
    me = next(one for one in objects["pods"] if one["metadata"]["name"] == example.me["metadata"]["name"])
    own = ip_address(me["status"]["podIP"] if ":" in me["status"]["podIP"] or address.version == 4 else "2001:db8::9")
    if own.version != address.version:
        own = ip_address("169.254.172.9")
    behind = [
        Ends(me, OUT, Flow(own, ip_address(one["status"]["podIP"]), example.protocol, 8080), one)
        for one in example.behind
    ]
    ends = (address, own) if example.direction is IN else (own, address)
    flow = Flow(*ends, example.protocol, example.port)
    other = found.pod_by_ip.get(address)
    return answer_of(Asked(Ends(me, example.direction, flow, other), tuple(behind)), found)


def name(example: Example) -> str:
    return example.code


@pytest.mark.parametrize("example", [*EXAMPLES, *MORE], ids=name)
def test_the_rule_is_named_where_it_decides(example: Example) -> None:
    found = ask(example)
    assert " ".join(v.decision.value for v in (found.intent, found.resolved, found.should)) == example.says, found.chain
    assert [one.code for one in found.found] == [example.code], found.found
    assert example.text in found.found[0].text


@pytest.mark.parametrize("example", [*EXAMPLES, *MORE], ids=name)
def test_and_not_where_it_does_not(example: Example) -> None:
    found = ask(example, **example.mended)
    assert not found.found
    decided = {one.decision.value for one in (found.intent, found.resolved, found.should)} - {"none"}
    assert len(decided) == 1, found.chain


def test_each_code_has_an_example() -> None:
    assert [example.code for example in EXAMPLES] == list(dict.fromkeys(example.code for example in EXAMPLES))
    assert {example.code for example in EXAMPLES} == set(deviations.CODES)


# ---- what is left out, and what is said of a pod alone


def test_several_rules_of_one_kind_are_counted() -> None:
    peers = [{"podSelector": {**match(app="web"), "matchExpressions": [one]}} for one in _each_means_web()]
    found = ask(EXAMPLES[0], networkpolicies=[egress(*({"to": [peer]} for peer in peers))]).found
    assert [one.code for one in found] == ["SERVICE_SELECTOR"] * deviations.SHOWN
    assert found[-1].text.endswith(" (and 2 more like it)")
    assert not found[0].text.endswith("like it)")


def _each_means_web() -> list[Json]:
    return [
        {"key": "tier", "operator": "Exists"},
        {"key": "tier", "operator": "In", "values": ["fe"]},
        {"key": "tier", "operator": "In", "values": ["fe", "a"]},
        {"key": "tier", "operator": "In", "values": ["fe", "b"]},
        {"key": "tier", "operator": "In", "values": ["fe", "c"]},
    ]


def test_nothing_is_blamed_where_services_were_not_read() -> None:
    """The ClusterIP is in the PolicyEndpoint, and its Service is not known: that is not the controller's fault."""
    example = next(one for one in MORE if one.code == "CLUSTER_IP" and len(one.behind) == 2)
    resolved = [entry(address) for address in ("10.0.1.1", CLUSTER_IP)]
    objects = {**example.objects, "policyendpoints": [endpoint("p", pods=[ME], isolation=["Egress"], egress=resolved)]}
    flows = [Flow(ip_address("10.0.2.1"), ip_address(one["status"]["podIP"]), 6, 8080) for one in example.behind]
    behind = tuple(Ends(ME, OUT, flow, one) for flow, one in zip(flows, example.behind, strict=True))
    asked = Asked(Ends(ME, OUT, Flow(ip_address("10.0.2.1"), ip_address(CLUSTER_IP), 6, 80)), behind)
    for services, codes in (([SERVICE], {"CLUSTER_IP"}), (Collection(reason="forbidden"), set())):
        answer = answer_of(asked, world(**{**objects, "services": services}))
        assert (answer.intent.decision.value, answer.resolved.decision.value) == ("deny", "allow")
        assert answer.codes == codes


def test_pods_that_share_an_identifier_and_their_policies() -> None:
    shared = [pod(f"web-{letter}", f"10.0.3.{n}", labels={"on": letter}) for n, letter in enumerate("abcdef", 1)]
    rules = [policy(f"p-{letter}", selects={"on": letter}) for letter in "abcdef"]
    found = modelled.modelled(world(pods=[*shared, ME], networkpolicies=rules), "default")
    text = deviations.shared_identifier(shared[0], found)
    assert text.startswith(
        "web-a shares its pod identifier with web-b, web-c, web-d and 2 more: the rules of p-b, p-c, p-d, p-e, p-f "
    )
    assert deviations.shared_identifier(ME, found) == ""
    replicas = [pod(f"api-1-{n}", f"10.0.4.{n}", labels={"app": "api"}) for n in (1, 2)]
    found = modelled.modelled(world(pods=replicas, networkpolicies=[policy()]), "default")
    assert deviations.shared_identifier(replicas[0], found) == ""


def test_cluster_policies_are_shared_too() -> None:
    one, two = (pod(f"web-{letter}", f"10.0.3.{n}", labels={"on": letter}) for n, letter in ((1, "a"), (2, "b")))
    only = cluster_policy("only-b", ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}])
    only["spec"]["subject"] = pods_of(on="b")
    found = modelled.modelled(world(pods=[one, two], clusternetworkpolicies=[only]), "default")
    assert "the rules of only-b apply to it as well" in deviations.shared_identifier(one, found)


def test_auto_mode_enforces_domain_names() -> None:
    example = next(one for one in EXAMPLES if one.code == "DOMAIN_NAME")
    assert ask(example).found
    auto = node(NODE)
    auto["metadata"]["labels"] = {"eks.amazonaws.com/compute-type": "auto"}
    assert not ask(example, nodes=[auto]).found


def test_what_the_cluster_has_a_name_for_is_no_domain() -> None:
    example = next(one for one in EXAMPLES if one.code == "DOMAIN_NAME")
    found = ask(Example(**{**vars(example), "peer": "10.0.1.1"}))
    assert (found.intent.decision.value, found.found) == ("deny", ())


# ---- as `explain` tells it


def test_the_layers_tell_the_same() -> None:
    for example in EXAMPLES:
        if example.behind or "policyendpoints" in example.objects:
            continue
        objects = {"pods": [example.me, WEB, CLIENT], **example.objects}
        found = modelled.modelled(world(**objects), "default")
        answer = ask(example)
        verdicts, named = api_verdicts(Leg(_ends(example, found)), found)
        assert [one.code for one in named] == [one.code for one in answer.found], example.code
        assert [v.decision for v in verdicts] == [
            answer.intent.decision,
            answer.resolved.decision,
            verdicts[2].decision,
        ]


def _ends(example: Example, found: World) -> Ends:
    address = ip_address(example.peer)
    own = ip_address(example.me["status"]["podIP"])
    own = own if own.version == address.version else ip_address("169.254.172.9")
    ends = (address, own) if example.direction is IN else (own, address)
    flow = Flow(*ends, example.protocol, example.port)
    return Ends(example.me, example.direction, flow, found.pod_by_ip.get(address))


# ---- docs/deviations.md


def sections() -> dict[str, str]:
    parts = re.split(r"^## `([A-Z0-9_]+)`\n", DOCS.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_code_has_its_section() -> None:
    assert list(sections()) == list(deviations.CODES)


@pytest.mark.parametrize("code", deviations.CODES)
def test_a_section_says_what_is_promised_done_seen_and_to_do(code: str) -> None:
    text = sections()[code]
    for part in ("Kubernetes", "EKS", "See it", "Do", "Source"):
        assert re.search(rf"^- \*\*{part}:\*\* \S", text, flags=re.MULTILINE), part
    assert "facts" not in text
