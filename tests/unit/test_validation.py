"""What is refused of a policy, with the sentence for it, and that everything else is taken and can be judged."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubectl_netpol.policy import controller, modelled, tiers
from kubectl_netpol.policy.validation import API_VERSIONS, problem, served
from kubectl_netpol.policy.values import LONGEST_SHOWN
from kubectl_netpol.policy.world import APPLICATION_POLICY, CLUSTER_POLICY, COLLECTIONS, NETWORK_POLICY
from tests.random_cluster import random_cluster
from tests.unit.builders import snapshot, world
from tests.unit.test_reference import flows

Json = dict[str, Any]
SEEDS = st.integers(0, 2**32)
NP, ANP, CNP = NETWORK_POLICY, APPLICATION_POLICY, CLUSTER_POLICY


def made(kind: str, spec: Any, **metadata: Any) -> Json:
    return {
        "apiVersion": API_VERSIONS[kind],
        "kind": kind,
        "metadata": {"name": "web", **metadata},
        "spec": spec,
    }


def np(**spec: Any) -> Json:
    return made(NP, {"podSelector": {}, **spec})


def anp(**spec: Any) -> Json:
    return made(ANP, {"podSelector": {}, **spec})


def cnp(**spec: Any) -> Json:
    return made(CNP, {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, **spec})


def peer(one: Any) -> Json:
    return np(ingress=[{"from": [one]}])


def port(one: Any) -> Json:
    return np(ingress=[{"ports": [one]}])


def block(**one: Any) -> Json:
    return np(egress=[{"to": [{"ipBlock": one}]}])


def labelled(key: Any, value: Any) -> Json:
    return np(podSelector={"matchLabels": {key: value}})


def expression(**one: Any) -> Json:
    return np(podSelector={"matchExpressions": [{"key": "app", **one}]})


def cluster_to(*peers: Any, action: Any = "Accept", **more: Any) -> Json:
    return cnp(egress=[{"action": action, "to": list(peers), **more}])


def cluster_port(one: Any) -> Json:
    return cnp(ingress=[{"action": "Deny", "from": [{"namespaces": {}}], "ports": [one]}])


def domains(*found: Any) -> Json:
    return anp(egress=[{"to": [{"domainNames": list(found)}]}])


FROM, TO, PORT = "spec.ingress[0].from[0]", "spec.egress[0].to[0]", "spec.ingress[0].ports[0]"
EXPRESSION = "spec.podSelector.matchExpressions[0]"
LABELS = "spec.podSelector.matchLabels"
NAME_RULE = (
    'it may have lower-case letters, digits, "-" and "." only, 253 characters at most, and a letter or digit first '
    "and last"
)
LABEL_RULE = 'the value of a label has letters, digits, "-", "_" and "." only, and a letter or digit first and last'
KEY_RULE = 'the name of a label has letters, digits, "-", "_" and "." only, and a letter or digit first and last'
PORT_RULE = (
    'the name of a port has lower-case letters, digits and "-" only, at least one letter, 15 characters at most, '
    'and no "-" first, last or twice in a row'
)

REFUSED: list[tuple[Json, str]] = [
    # The object itself.
    ({**np(), "apiVersion": "extensions/v1beta1"}, 'apiVersion is "extensions/v1beta1": NetworkPolicy is of '),
    ({**np(), "apiVersion": "networking.k8s.io/v1beta1"}, 'apiVersion is "networking.k8s.io/v1beta1": '),
    ({**np(), "apiVersion": "networking.k8s.aws/v1alpha1"}, 'apiVersion is "networking.k8s.aws/v1alpha1": '),
    ({**cnp(), "apiVersion": "policy.networking.k8s.io/v1alpha2"}, 'apiVersion is "policy.networking.k8s.io/v1alpha2"'),
    ({**np(), "apiVersion": None}, "apiVersion is missing: networking.k8s.io/v1"),
    ({**np(), "apiVersion": 1}, "apiVersion is 1: NetworkPolicy is of networking.k8s.io/v1"),
    ({**np(), "sepc": {}}, "sepc is unknown: apiVersion, kind, metadata, spec and status are known"),
    ({**np(), "metadata": None}, "metadata.name is missing"),
    ({**np(), "metadata": []}, "metadata is a list, not an object"),
    (made(NP, {}, name="Web"), f'metadata.name is "Web": {NAME_RULE}'),
    (made(NP, {}, name="web_1"), f'metadata.name is "web_1": {NAME_RULE}'),
    (made(NP, {}, name="a..b"), f'metadata.name is "a..b": {NAME_RULE}'),
    (made(NP, {}, name="web\n"), f'metadata.name is "web\\n": {NAME_RULE}'),
    (made(NP, {}, name="a" * 254), "metadata.name is "),
    (made(NP, {}, name=""), f'metadata.name is "": {NAME_RULE}'),
    (made(NP, {}, name=1), "metadata.name is 1, not a string: put it in quotes"),
    (made(NP, {}, namespace="a.b"), 'metadata.namespace is "a.b": it may have lower-case letters, digits and "-" only'),
    (made(NP, {}, namespace="a" * 64), "metadata.namespace is "),
    (made(NP, {}, namepsace="x"), "metadata.namepsace is unknown: name, namespace, labels, "),
    (made(NP, {}, labels={"a": True}), "metadata.labels.a is true, not a string: put it in quotes"),
    (made(NP, {}, annotations={"a": 1}), "metadata.annotations.a is 1, not a string: put it in quotes"),
    (made(NP, {}, annotations={"a b": ""}), 'metadata.annotations has the key "a b": '),
    (made(NP, {}, ownerReferences=["x"]), 'metadata.ownerReferences[0] is "x", not an object'),
    (made(NP, {}, ownerReferences=[{"kind": "x"}]), "metadata.ownerReferences[0].apiVersion is missing"),
    (made(NP, {}, finalizers="x"), 'metadata.finalizers is "x", not a list'),
    # NetworkPolicy.
    (made(NP, []), "spec is a list, not an object"),
    (np(ingres=[]), "spec.ingres is unknown: podSelector, ingress, egress and policyTypes are known"),
    (np(podSelector=1), "spec.podSelector is 1, not an object"),
    (np(podSelector={"app": "web"}), "spec.podSelector.app is unknown: matchLabels and matchExpressions are known"),
    (np(ingress={}), "spec.ingress is an object, not a list"),
    (np(egress=[1]), "spec.egress[0] is 1, not an object"),
    (np(egress=[{"from": []}]), "spec.egress[0].from is unknown: to and ports are known"),
    (np(ingress=[{"to": []}]), "spec.ingress[0].to is unknown: from and ports are known"),
    (np(ingress=[{"action": "Deny"}]), "spec.ingress[0].action is unknown: from and ports are known"),
    (np(ingress=[{"from": {}}]), "spec.ingress[0].from is an object, not a list"),
    (np(policyTypes=["ingress"]), 'spec.policyTypes[0] is "ingress": Ingress or Egress'),
    (np(policyTypes=["Ingress", "Egress", "Egress"]), "spec.policyTypes has 3 elements: at most 2 are allowed"),
    (np(policyTypes="Ingress"), 'spec.policyTypes is "Ingress", not a list'),
    (np(policyTypes=[None]), 'spec.policyTypes[0] is "": Ingress or Egress'),
    (np(status={}), "spec.status is unknown: "),
    # Peers.
    (peer({}), f"{FROM} is empty: podSelector, namespaceSelector or ipBlock is needed (`podSelector: {{}}` is all"),
    (peer(None), f"{FROM} is empty: "),
    (peer({"podSelector": None}), f"{FROM} is empty: "),
    (peer("web"), f'{FROM} is "web", not an object'),
    (peer({"podselector": {}}), f"{FROM}.podselector is unknown: podSelector, namespaceSelector and ipBlock are known"),
    (peer({"podSelector": {"matchlabels": {}}}), f"{FROM}.podSelector.matchlabels is unknown: matchLabels and "),
    (peer({"podSelector": []}), f"{FROM}.podSelector is a list, not an object"),
    (peer({"podSelector": {}, "ipBlock": {"cidr": "::/0"}}), f"{FROM} has ipBlock beside podSelector: that takes two "),
    (peer({"namespaceSelector": {}, "ipBlock": {"cidr": "::/0"}}), f"{FROM} has ipBlock beside namespaceSelector: "),
    (peer({"domainNames": ["a.b"]}), f"{FROM}.domainNames: domain names are for egress of the policies of networking."),
    (np(egress=[{"to": [{"domainNames": ["a.b"]}]}]), f"{TO}.domainNames: domain names are for egress of the policies"),
    # Blocks.
    (block(), f"{TO}.ipBlock.cidr is missing"),
    (block(cdir="::/0"), f"{TO}.ipBlock.cdir is unknown: cidr and except are known"),
    (block(cidr=1), f"{TO}.ipBlock.cidr is 1, not a string: put it in quotes"),
    (block(cidr=""), f'{TO}.ipBlock.cidr is "": not a CIDR such as 10.0.0.0/8 or 2001:db8::/32'),
    (
        block(cidr="10.0.0.1"),
        f'{TO}.ipBlock.cidr is "10.0.0.1": an address without a length, 10.0.0.1/32 means it alone',
    ),
    (block(cidr="::1"), f'{TO}.ipBlock.cidr is "::1": an address without a length, ::1/128 means it alone'),
    (block(cidr="10.0.0.0/33"), f'{TO}.ipBlock.cidr is "10.0.0.0/33": not a CIDR'),
    (block(cidr="10.0.0/8"), f'{TO}.ipBlock.cidr is "10.0.0/8": not a CIDR'),
    (block(cidr="10.0.0.0/255.0.0.0"), f'{TO}.ipBlock.cidr is "10.0.0.0/255.0.0.0": not a CIDR'),
    (block(cidr="010.0.0.0/8"), f'{TO}.ipBlock.cidr is "010.0.0.0/8": not a CIDR'),
    (block(cidr="fe80::1%eth0/64"), f'{TO}.ipBlock.cidr is "fe80::1%eth0/64": not a CIDR'),
    (block(cidr=" 10.0.0.0/8"), f'{TO}.ipBlock.cidr is " 10.0.0.0/8": not a CIDR'),
    (block(cidr="10.0.0.0/8\n"), f'{TO}.ipBlock.cidr is "10.0.0.0/8\\n": not a CIDR'),
    (block(cidr="10.0.0.0/٨"), f'{TO}.ipBlock.cidr is "10.0.0.0/٨": not a CIDR'),
    (
        block(cidr="10.0.0.0/8", **{"except": "10.1.0.0/16"}),
        f'{TO}.ipBlock.except is "10.1.0.0/16", not a list',
    ),
    (
        block(cidr="10.0.0.0/8", **{"except": ["10.1.0.0"]}),
        f'{TO}.ipBlock.except[0] is "10.1.0.0": an address without a length',
    ),
    (
        block(cidr="10.0.0.0/8", **{"except": ["10.1.0.0/16", "11.0.0.0/16"]}),
        f'{TO}.ipBlock.except[1] is "11.0.0.0/16": it has to be inside cidr 10.0.0.0/8, and smaller',
    ),
    (
        block(cidr="10.0.0.0/8", **{"except": ["10.0.0.0/8"]}),
        f'{TO}.ipBlock.except[0] is "10.0.0.0/8": it has to be inside cidr 10.0.0.0/8, and smaller',
    ),
    (
        block(cidr="10.0.0.0/8", **{"except": ["10.0.0.0/7"]}),
        f'{TO}.ipBlock.except[0] is "10.0.0.0/7": it has to be inside',
    ),
    (
        block(cidr="0.0.0.0/0", **{"except": ["2001:db8::/32"]}),
        f'{TO}.ipBlock.except[0] is "2001:db8::/32", IPv6: cidr 0.0.0.0/0 is IPv4',
    ),
    # Ports.
    (port(80), f"{PORT} is 80, not an object"),
    (port({"protocol": "tcp"}), f'{PORT}.protocol is "tcp": TCP, UDP or SCTP'),
    (port({"protocol": "ICMP"}), f'{PORT}.protocol is "ICMP": TCP, UDP or SCTP'),
    (port({"protocol": ""}), f'{PORT}.protocol is "": TCP, UDP or SCTP'),
    (port({"protocol": 6}), f"{PORT}.protocol is 6: TCP, UDP or SCTP"),
    (port({"prot": "TCP"}), f"{PORT}.prot is unknown: protocol, port and endPort are known"),
    (port({"port": 0}), f"{PORT}.port is 0: 1 to 65535 is possible"),
    (port({"port": 65536}), f"{PORT}.port is 65536: 1 to 65535 is possible"),
    (port({"port": -1}), f"{PORT}.port is -1: 1 to 65535 is possible"),
    (port({"port": 80.5}), f"{PORT}.port is 80.5, not a whole number"),
    (port({"port": True}), f"{PORT}.port is true, neither a number nor the name of a port"),
    (port({"port": [80]}), f"{PORT}.port is a list, neither a number nor the name of a port"),
    (port({"port": 10**5000}), f"{PORT}.port is a very long number: 1 to 65535 is possible"),
    (port({"port": "80"}), f'{PORT}.port is "80", a name and not a number: take off the quotes'),
    (port({"port": "HTTP"}), f'{PORT}.port is "HTTP": {PORT_RULE}'),
    (port({"port": "8-0"}), f'{PORT}.port is "8-0": {PORT_RULE}'),
    (port({"port": "a--b"}), f'{PORT}.port is "a--b": {PORT_RULE}'),
    (port({"port": "-a"}), f'{PORT}.port is "-a": {PORT_RULE}'),
    (port({"port": "a-"}), f'{PORT}.port is "a-": {PORT_RULE}'),
    (port({"port": "web_1"}), f'{PORT}.port is "web_1": {PORT_RULE}'),
    (port({"port": "a" * 16}), f'{PORT}.port is "aaaaaaaaaaaaaaaa": {PORT_RULE}'),
    (port({"port": ""}), f'{PORT}.port is "": {PORT_RULE}'),
    (port({"port": "a\n"}), f'{PORT}.port is "a\\n": {PORT_RULE}'),
    (port({"endPort": 80}), f"{PORT}.endPort is 80: there is no port"),
    (port({"port": "web", "endPort": 80}), f'{PORT}.endPort is 80: port is "web", not a number'),
    (port({"port": 80, "endPort": 79}), f"{PORT}.endPort is 79, smaller than port 80"),
    (port({"port": 80, "endPort": 65536}), f"{PORT}.endPort is 65536: 1 to 65535 is possible"),
    (port({"port": 80, "endPort": "90"}), f'{PORT}.endPort is "90", not a whole number: take off the quotes'),
    # Selectors.
    (labelled("access", True), f"{LABELS}.access is true, not a string: put it in quotes"),
    (labelled("v", 1), f"{LABELS}.v is 1, not a string: put it in quotes"),
    (labelled("v", 1.5), f"{LABELS}.v is 1.5, not a string: put it in quotes"),
    (labelled("v", ["a"]), f"{LABELS}.v is a list, not a string"),
    (labelled("a.b/c", False), f'{LABELS}["a.b/c"] is false, not a string: put it in quotes'),
    (labelled("v", "a b"), f'{LABELS}.v is "a b": {LABEL_RULE}'),
    (labelled("v", "-a"), f'{LABELS}.v is "-a": {LABEL_RULE}'),
    (labelled("v", "a\n"), f'{LABELS}.v is "a\\n": {LABEL_RULE}'),
    (labelled("v", "a/b"), f'{LABELS}.v is "a/b": {LABEL_RULE}'),
    (labelled("v", "ä"), f'{LABELS}.v is "ä": {LABEL_RULE}'),
    (labelled("v", "a" * 64), "with 64 characters: the value of a label has 63 at most"),
    (labelled("", "a"), f'{LABELS} has the key "": {KEY_RULE}'),
    (labelled("a b", "a"), f'{LABELS} has the key "a b": {KEY_RULE}'),
    (labelled("a/b/c", "a"), f'{LABELS} has the key "a/b/c": what is before the / is no lower-case domain name'),
    (labelled("/b", "a"), f'{LABELS} has the key "/b": what is before the / is no lower-case domain name'),
    (labelled("A.b/c", "a"), f'{LABELS} has the key "A.b/c": what is before the / is no lower-case domain name'),
    (labelled("a/", "a"), f'{LABELS} has the key "a/": {KEY_RULE}'),
    (labelled("k" * 64, "a"), "whose name has 64 characters: 63 are allowed"),
    (np(podSelector={"matchLabels": ["a"]}), f"{LABELS} is a list, not an object"),
    (expression(), f"{EXPRESSION}.operator is missing"),
    (expression(operator="in", values=["a"]), f'{EXPRESSION}.operator is "in": In, NotIn, Exists or DoesNotExist'),
    (expression(operator="Equals", values=["a"]), f'{EXPRESSION}.operator is "Equals": In, NotIn, Exists or DoesNot'),
    (expression(operator="In"), f"{EXPRESSION}.values is missing: In needs at least one"),
    (expression(operator="NotIn", values=[]), f"{EXPRESSION}.values is missing: NotIn needs at least one"),
    (expression(operator="In", values="web"), f'{EXPRESSION}.values is "web", not a list'),
    (expression(operator="In", values=[True]), f"{EXPRESSION}.values[0] is true, not a string: put it in quotes"),
    (expression(operator="In", values=["a b"]), f'{EXPRESSION}.values[0] is "a b": {LABEL_RULE}'),
    (expression(operator="Exists", values=["a"]), f'{EXPRESSION}.values has "a": Exists takes no values'),
    (expression(operator="DoesNotExist", values=["a"]), f'{EXPRESSION}.values has "a": DoesNotExist takes no values'),
    (expression(operator="Exists", value="a"), f"{EXPRESSION}.value is unknown: key, operator and values are known"),
    (expression(operator="Exists", key="a b"), f'{EXPRESSION} has the key "a b": {KEY_RULE}'),
    (np(podSelector={"matchExpressions": [{"operator": "Exists"}]}), f"{EXPRESSION}.key is missing"),
    (np(podSelector={"matchExpressions": {}}), "spec.podSelector.matchExpressions is an object, not a list"),
    # ApplicationNetworkPolicy.
    (made(ANP, None), "spec is missing"),
    (made(ANP, {}), "spec.podSelector is missing"),
    (anp(ingress=None), "spec.ingress is null: leave it out"),
    (anp(podSelector={"matchLabels": {"a": None}}), f"{LABELS}.a is null: leave it out"),
    (anp(egress=[{"to": [{}]}]), f"{TO} is empty: podSelector, namespaceSelector or ipBlock is needed"),
    (anp(ingress=[{"from": [{"domainNames": ["a.b"]}]}]), f"{FROM}.domainNames: domain names are for egress of the "),
    (anp(egress=[{"domainNames": ["a.b"]}]), "spec.egress[0].domainNames is unknown: to and ports are known"),
    (domains(), f"{TO}.domainNames is empty: it needs at least 1"),
    (domains("example"), f'{TO}.domainNames[0] is "example": not a domain name such as example.com or *.example.com'),
    (domains("my-*.example.com"), f'{TO}.domainNames[0] is "my-*.example.com": not a domain name'),
    (domains("a.b", "a.b"), f'{TO}.domainNames has "a.b" twice'),
    (domains(1), f"{TO}.domainNames[0] is 1, not a string: put it in quotes"),
    (
        anp(egress=[{"to": [{"domainNames": ["a.b"], "podSelector": {}}]}]),
        f"{TO} has domainNames beside podSelector: that takes two peers",
    ),
    (
        anp(egress=[{"to": [{"domainNames": ["a.b"], "ipBlock": {"cidr": "::/0"}}]}]),
        f"{TO} has domainNames beside ipBlock: that takes two peers",
    ),
    (anp(ingress=[{"ports": [{"protocol": "tcp"}]}]), f'{PORT}.protocol is "tcp": TCP, UDP or SCTP'),
    # ClusterNetworkPolicy.
    (made(CNP, {"priority": 1, "subject": {"namespaces": {}}}), "spec.tier is missing"),
    (made(CNP, {"tier": "Admin", "subject": {"namespaces": {}}}), "spec.priority is missing"),
    (made(CNP, {"tier": "Admin", "priority": 1}), "spec.subject is missing"),
    (cnp(tier="admin"), 'spec.tier is "admin": Admin or Baseline'),
    (cnp(priority=-1), "spec.priority is -1: 0 to 1000 is possible"),
    (cnp(priority=1001), "spec.priority is 1001: 0 to 1000 is possible"),
    (cnp(priority="5"), 'spec.priority is "5", not a whole number: take off the quotes'),
    (cnp(priority=True), "spec.priority is true, not a whole number"),
    (cnp(podSelector={}), "spec.podSelector is unknown: tier, priority, subject, ingress and egress are known"),
    (cnp(subject={}), "spec.subject is empty: one of namespaces or pods is needed"),
    (
        cnp(subject={"namespaces": {}, "pods": {"namespaceSelector": {}, "podSelector": {}}}),
        "spec.subject has namespaces and pods: only one of namespaces or pods is possible",
    ),
    (cnp(subject={"pods": {"podSelector": {}}}), "spec.subject.pods.namespaceSelector is missing"),
    (
        cnp(subject={"namespaces": {"matchLabels": {"a": 1}}}),
        "spec.subject.namespaces.matchLabels.a is 1, not a string",
    ),
    (cnp(ingress=[{}]), "spec.ingress[0].action is missing"),
    (cnp(ingress=[{"action": "Deny"}]), "spec.ingress[0].from is missing"),
    (cnp(ingress=[{"action": "Deny", "from": []}]), "spec.ingress[0].from is empty: it needs at least 1"),
    (cnp(ingress=[{"action": "Deny", "from": [{}]}]), f"{FROM} is empty: one of namespaces or pods is needed"),
    (cnp(ingress=[{"action": "Deny", "to": []}]), "spec.ingress[0].to is unknown: name, action, from and ports are kn"),
    (
        cnp(ingress=[{"action": "Deny", "from": [{"networks": ["::/0"]}]}]),
        f"{FROM}.networks is unknown: namespaces and pods are known",
    ),
    (cluster_to({"namespaces": {}}, action="Allow"), 'spec.egress[0].action is "Allow": Accept, Deny or Pass'),
    (cluster_to({"namespaces": {}}, name="n" * 101), "spec.egress[0].name has 101 characters: at most 100 are allowed"),
    (cluster_to({"namespaces": {}}, ports=[]), "spec.egress[0].ports is empty: it needs at least 1"),
    (cluster_to({"namespaces": None}), f"{TO}.namespaces is null: leave it out"),
    (cluster_to({"networks": []}), f"{TO}.networks is empty: it needs at least 1"),
    (cluster_to({"networks": ["10.0.0.0"]}), f'{TO}.networks[0] is "10.0.0.0": an address without a length'),
    (cluster_to({"networks": ["::/0", "::/0"]}), f'{TO}.networks has "::/0" twice'),
    (cluster_to({"networks": [f"10.0.0.{n}/32" for n in range(26)]}), f"{TO}.networks has 26 elements: at most 25"),
    (
        cluster_to({"networks": ["::/0"], "namespaces": {}}),
        f"{TO} has namespaces and networks: only one of namespaces, ",
    ),
    (cluster_to({"domainNames": ["a.b"]}, action="Deny"), f"{TO}.domainNames: action is Deny, domain names are for "),
    (cnp(egress=[{"action": "Deny", "to": [{"namespaces": {}}]}] * 101), "spec.egress has 101 elements: at most 100"),
    (cluster_port({}), f"{PORT} is empty: one of portNumber, portRange or namedPort is needed"),
    (cluster_port({"port": 80}), f"{PORT}.port is unknown: portNumber, portRange and namedPort are known"),
    (cluster_port({"portNumber": 80}), f"{PORT}.portNumber is 80, not an object"),
    (cluster_port({"portNumber": {}}), f"{PORT}.portNumber.port is missing"),
    (cluster_port({"portNumber": {"port": 0}}), f"{PORT}.portNumber.port is 0: 1 to 65535 is possible"),
    (
        cluster_port({"portNumber": {"port": 1, "protocol": "tcp"}}),
        f'{PORT}.portNumber.protocol is "tcp": TCP, UDP or ',
    ),
    (cluster_port({"portRange": {"start": 1}}), f"{PORT}.portRange.end is missing"),
    (
        cluster_port({"portRange": {"start": 2, "end": 2}}),
        f"{PORT}.portRange.start is 2: it has to be smaller than end",
    ),
    (cluster_port({"portRange": {"start": 1, "end": 70000}}), f"{PORT}.portRange.end is 70000: 1 to 65535 is possible"),
    (cluster_port({"namedPort": "80"}), f'{PORT}.namedPort is "80", a name and not a number'),
    (cluster_port({"namedPort": 80}), f"{PORT}.namedPort is 80, not a string: put it in quotes"),
    (
        cluster_port({"namedPort": "web", "portNumber": {"port": 1}}),
        f"{PORT} has portNumber and namedPort: only one of ",
    ),
]


@pytest.mark.parametrize(("policy", "sentence"), REFUSED, ids=[sentence[:60] for _, sentence in REFUSED])
def test_what_the_api_server_refuses(policy: Json, sentence: str) -> None:
    found = problem(policy)
    assert found.startswith(sentence) or (sentence.startswith(("who", "with")) and sentence in found)


ACCEPTED: list[Json] = [
    np(),
    made(NP, {}),
    made(NP, None),
    {key: value for key, value in np().items() if key != "spec"},
    {**np(), "status": {"conditions": None}},
    np(podSelector=None, ingress=None, egress=[], policyTypes=None),
    np(ingress=[{}]),
    np(ingress=[None]),
    np(ingress=[{"from": None, "ports": None}, {"from": [], "ports": []}]),
    np(policyTypes=[]),
    np(policyTypes=["Ingress", "Ingress"]),
    np(policyTypes=["Egress", "Ingress"]),
    port({}),
    port(None),
    port({"port": 80}),
    port({"protocol": None, "port": 80, "endPort": None}),
    port({"protocol": "SCTP"}),
    port({"port": 80, "endPort": 80}),
    port({"port": 1, "endPort": 65535}),
    port({"port": "a"}),
    port({"port": "1a-b2"}),
    port({"port": "a" * 15}),
    peer({"podSelector": {}, "namespaceSelector": {}}),
    peer({"podSelector": {}, "ipBlock": None}),
    block(cidr="10.1.2.3/8"),
    block(cidr="0.0.0.0/0", **{"except": None}),
    block(cidr="10.0.0.0/08"),
    block(cidr="2001:DB8::1/32", **{"except": ["2001:db8:1::/48", "2001:db8:2::5/64"]}),
    block(cidr="10.1.2.3/8", **{"except": ["10.255.3.4/9", "10.0.0.0/32"]}),
    block(cidr="::ffff:10.0.0.0/104"),
    labelled("app", ""),
    labelled("app", None),
    labelled("app.kubernetes.io/name", "A_b.C-1"),
    labelled("k" * 63, "v" * 63),
    labelled("a" * 63 + "." + "b" * 63 + "/c", "1"),
    expression(operator="In", values=["", "a"]),
    expression(operator="Exists", values=[]),
    expression(operator="DoesNotExist", values=None),
    np(podSelector={"matchLabels": None, "matchExpressions": None}),
    made(
        NP,
        {},
        namespace=None,
        generateName="x-",
        uid="1",
        resourceVersion="5",
        generation=3,
        creationTimestamp=None,
        labels={"a": "b"},
        annotations={"Kubectl.Kubernetes.io/last-applied": '{"a": "b"}', "empty": ""},
        finalizers=["networking.k8s.aws/resources"],
        managedFields=[{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:x": None}}}],
        ownerReferences=[{"apiVersion": "v1", "kind": "A", "name": "b", "uid": "c", "controller": True}],
    ),
    made(NP, {}, namespace=""),
    made(NP, {}, name="1.a-b.c"),
    anp(ingress=[], egress=[{"to": [], "ports": []}], policyTypes=[]),
    anp(egress=[{"ports": [{"port": 80}], "to": [{"ipBlock": {"cidr": "::/0", "except": []}}]}]),
    domains("example.com", "*.example.org", "a.b.", "_x.example.com"),
    cnp(),
    cnp(priority=0, tier="Baseline", ingress=[], egress=[]),
    cnp(priority=1000, subject={"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}}),
    cluster_to({"networks": ["10.1.2.3/8", "::/0"]}, {"domainNames": ["a.b"]}, action="Pass", name="n" * 100),
    cluster_to({"networks": ["::/0"]}, action="Deny"),
    cluster_port({"portNumber": {"port": 65535}}),
    cluster_port({"portNumber": {"port": 1, "protocol": None}}),
    cluster_port({"portRange": {"start": 1, "end": 2, "protocol": "UDP"}}),
    cluster_port({"namedPort": "web"}),
    made(CNP, cnp()["spec"], namespace="ignored"),
]


@pytest.mark.parametrize("policy", ACCEPTED, ids=[json.dumps(one)[60:160] for one in ACCEPTED])
def test_what_the_api_server_accepts(policy: Json) -> None:
    assert problem(policy) == ""


def test_nulls_are_what_they_are_decoded_to() -> None:
    policy = np(
        podSelector={"matchLabels": {"app": None}, "matchExpressions": None},
        ingress=[None, {"ports": [None, {"port": 80, "endPort": None}], "from": None}],
        egress=None,
    )
    assert problem(policy) == ""
    assert served(policy)["spec"] == {
        "podSelector": {"matchLabels": {"app": ""}},
        "ingress": [{}, {"ports": [{}, {"port": 80}]}],
    }


def test_the_given_object_is_left_as_it_is() -> None:
    policy = np(ingress=[None])
    before = copy.deepcopy(policy)
    assert problem(policy) == ""
    served(policy)["spec"]["ingress"].append(1)
    assert policy == before


def test_long_and_unprintable_values_are_cut_and_escaped() -> None:
    found = problem(np(policyTypes=["\x1b[31m\n\u202e\ud800" + "x" * 5000]))
    assert found.isprintable()
    assert len(found) < LONGEST_SHOWN * 3
    assert found.startswith('spec.policyTypes[0] is "\\u001b[31m\\n\\u202e\\ud800x')
    assert len(problem(np(**{"y" * 5000: 1}))) < 200


# ---- any object


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["TCP", "In", "web", "10.0.0.0/8", "Admin", "Deny", "Ingress", 80, "a.b"]),
)
KEYS = st.sampled_from(
    (
        "podSelector",
        "namespaceSelector",
        "ipBlock",
        "cidr",
        "except",
        "ingress",
        "egress",
        "from",
        "to",
        "ports",
        "port",
        "endPort",
        "protocol",
        "policyTypes",
        "matchLabels",
        "matchExpressions",
        "key",
        "operator",
        "values",
        "tier",
        "priority",
        "subject",
        "namespaces",
        "pods",
        "networks",
        "domainNames",
        "action",
        "name",
        "portNumber",
        "portRange",
        "namedPort",
        "start",
        "end",
        "labels",
        "metadata",
    )
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4) | st.integers(), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(
    st.sampled_from(sorted(COLLECTIONS)),
    st.fixed_dictionaries({}, optional={"apiVersion": SCALARS, "metadata": ANYTHING, "spec": ANYTHING, "x": ANYTHING}),
    st.booleans(),
)
def test_any_object_is_one_line(kind: str, parts: Json, framed: bool) -> None:
    policy = {**parts, "kind": kind}
    if framed:
        policy = {**made(kind, parts.get("spec")), "kind": kind}
    found = problem(policy)
    assert found == "" or found.isprintable()
    if not found:
        served(policy)


# ---- policies of random clusters


def policies(cluster: dict[str, list[Json]]) -> Iterator[tuple[str, Json]]:
    for kind, plural in COLLECTIONS.items():
        for one in cluster[plural]:
            yield kind, {"apiVersion": API_VERSIONS[kind], "kind": kind, **one}


def is_denied_domain(policy: Json) -> bool:
    """What the CRD forbids and the generator makes for the model of the controller."""
    rules = policy["spec"].get("egress") or []
    return any(rule.get("action") == "Deny" and any("domainNames" in p for p in rule["to"]) for rule in rules)


def test_policies_of_random_clusters_are_sound() -> None:
    count = dict.fromkeys(COLLECTIONS, 0)
    for seed in range(300):
        cluster = random_cluster(random.Random(seed), family=4 if seed % 2 else 6, deviating=seed % 3 > 0)
        for kind, policy in policies(cluster):
            if is_denied_domain(policy):
                assert "domain names are for Accept and Pass" in problem(policy)
                continue
            assert problem(policy) == "", policy
            assert served(policy)["spec"] == policy["spec"]
            count[kind] += 1
    assert min(count.values()) > 100


JUNK: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    80,
    1.5,
    "",
    "80",
    "x",
    "TCP",
    "10.0.0.0/8",
    "::/0",
    [],
    [None],
    {},
    {"a": 1},
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All (container, key) below a value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def mutate(policy: Json, rng: random.Random) -> Json:
    """One thing is gone, another, renamed, or there twice."""
    found = copy.deepcopy(policy)
    container, key = rng.choice([*places(found["spec"]), (found, "spec")])
    kind = rng.randrange(5)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[rng.choice((f"{key}s", str(key)[:-1], str(key).lower()))] = container.pop(key)
    elif kind == 2 and isinstance(container, list):
        container.append(copy.deepcopy(container[key]))
    elif kind == 3 and isinstance(container[key], list):
        container[key].append(rng.choice(JUNK))
    else:
        other, place = rng.choice([*places(found["spec"]), (found, "spec")])
        container[key] = copy.deepcopy(other[place]) if rng.random() < 0.3 else rng.choice(JUNK)
    return found


def judge(cluster: dict[str, list[Json]]) -> None:
    """All that a question asks of policies, for some flows."""
    there = world(**cluster)
    for ends, _ in list(flows(cluster))[::37]:
        tiers.evaluate(ends, there)
    for plural in ("networkpolicies", "applicationnetworkpolicies"):
        for one in snapshot(**cluster).items(plural):
            kind = next(kind for kind, name in COLLECTIONS.items() if name == plural)
            modelled.endpoint_of(controller.resolution({**one, "kind": kind}, there))
    for one in there.cluster_policies:
        modelled.endpoint_of(controller.resolution(one, there))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_a_mutation_is_refused_or_can_be_judged(seed: int) -> None:
    assert mutated(seed) is not None


def mutated(seed: int) -> bool:
    """Whether the mutated policy is sound, and then judged."""
    rng = random.Random(seed)
    cluster = random_cluster(rng, pods=4, policies=3)
    kind, policy = rng.choice(list(policies(cluster)))
    changed = mutate(policy, rng)
    found = problem(changed)
    assert found == "" or found.isprintable()
    if not found:
        kept = served(changed)
        plural = COLLECTIONS[kind]
        cluster[plural] = [kept if one["metadata"] == policy["metadata"] else one for one in cluster[plural]]
        judge(cluster)
    return not found


def test_the_search_meets_refused_and_sound_ones() -> None:
    sound = sum(mutated(seed) for seed in range(200))
    assert 20 < sound < 180
