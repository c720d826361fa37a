"""Near misses: one minimal cluster for each sentence, and a twin in which it must not be said."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubectl_netpol.diagnose.plan import Leg, Question, make_plan
from kubectl_netpol.errors import UsageError
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.snapshot import Collection, Snapshot
from kubectl_netpol.model.verdict import Decision, Layer, Verdict
from kubectl_netpol.policy import endpoints, tiers
from kubectl_netpol.policy.modelled import modelled
from kubectl_netpol.policy.nearmiss import CODES, NearMiss, dns_of, near_misses, typos
from kubectl_netpol.policy.nearmiss.case import Case
from kubectl_netpol.policy.nearmiss.find import candidates, proven
from kubectl_netpol.policy.nearmiss.record import Proof
from kubectl_netpol.policy.nearmiss.trial import Trial
from kubectl_netpol.policy.networkpolicy import Ends
from kubectl_netpol.policy.world import World, name_of, namespace_of, ref
from tests.random_cluster import random_cluster
from tests.unit.builders import (
    NODE,
    container_port,
    flow,
    match,
    namespace,
    node,
    pod,
    policy,
    service,
    service_port,
    snapshot,
)

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]

# ---- the clusters

WEB = pod("web", "10.0.1.1", labels={"app": "web"}, ports=[container_port(8080, "http")])
CLIENT = pod("client", "10.0.1.2", labels={"app": "client"})
TRUE = pod("accesstrue", "10.0.1.3", labels={"access": "true"})
FALSE = pod("accessfalse", "10.0.1.4", labels={"access": "false"})
OTHER = pod("client", "10.0.2.2", namespace="shop", labels={"app": "client"})
HOST = pod("agent", "10.0.0.2", labels={"app": "agent"}, node="node-b", host_ip="10.0.0.2", host_network=True)
NODE_B = node("node-b", "10.0.0.2")
SHOP = namespace("shop", {"team": "shop", "stage": "prod"})
SERVICE = service("web", "172.20.0.7", selector={"app": "web"}, ports=[service_port(80, 8080)])
KUBE_DNS = pod("coredns-1", "10.0.3.1", namespace="kube-system", labels={"k8s-app": "kube-dns"})
DNS = service(
    "kube-dns",
    "172.20.0.10",
    namespace="kube-system",
    selector={"k8s-app": "kube-dns"},
    ports=[service_port(53, 53, "UDP"), service_port(53, 53, "TCP")],
)
NODE_LOCAL = pod(
    "node-local-dns-x",
    "10.0.0.1",
    namespace="kube-system",
    labels={"k8s-app": "node-local-dns"},
    host_network=True,
    owner=("DaemonSet", "node-local-dns"),
)
BASE: dict[str, list[Json]] = {
    "pods": [WEB, CLIENT, TRUE, FALSE, OTHER],
    "namespaces": [namespace("default"), SHOP, namespace("kube-system")],
    "nodes": [node(), NODE_B],
}


def labelled(obj: Json, **labels: str) -> Json:
    return {**obj, "metadata": {**obj["metadata"], "labels": {k.replace("__", "/"): v for k, v in labels.items()}}}


def ingress(*peers: Json, ports: list[Json] | None = None, name: str = "allow-web", **more: Any) -> Json:
    rule: Json = {**({"from": list(peers)} if peers else {}), **({"ports": ports} if ports else {})}
    return policy(name, **{"selects": {"app": "web"}, "ingress": [rule], "types": ["Ingress"], **more})


def egress(*peers: Json, ports: list[Json] | None = None, name: str = "allow-out", **more: Any) -> Json:
    rule: Json = {**({"to": list(peers)} if peers else {}), **({"ports": ports} if ports else {})}
    return policy(name, **{"selects": {"app": "client"}, "egress": [rule], "types": ["Egress"], **more})


def pods(**labels: str) -> Json:
    return {"podSelector": match(**{key.replace("__", "/"): value for key, value in labels.items()})}


def spaces(**labels: str) -> Json:
    return {"namespaceSelector": match(**{key.replace("__", "/"): value for key, value in labels.items()})}


def block(cidr: str, *excepts: str) -> Json:
    return {"ipBlock": {"cidr": cidr, **({"except": list(excepts)} if excepts else {})}}


def port(number: int | str, protocol: str | None = "TCP") -> Json:
    return {"port": number, **({"protocol": protocol} if protocol else {})}


def cluster_policy(name: str, action: str, *, priority: int = 10, tier: str = "Admin", **sides: Json) -> Json:
    """``sides``: ingress or egress, as the peers of the one rule."""
    rules = {side: [{"action": action, "name": "no", **rule}] for side, rule in sides.items()}
    spec = {"tier": tier, "priority": priority, "subject": {"namespaces": {}}, **rules}
    return {"metadata": {"name": name}, "spec": spec}


def cluster(*policies: Json, **objects: list[Json]) -> World:
    """The cluster of this file, with PolicyEndpoints as the controller's model makes them."""
    found = {**BASE, "networkpolicies": list(policies), **objects}
    for kind in ("pods", "namespaces"):
        # Others of the same name take their place.
        names = {ref(one): one for one in (*BASE[kind], *objects.get(kind, ()))}
        found[kind] = list(names.values())
    return resolved(snapshot(**found))


def resolved(taken: Snapshot) -> World:
    """With PolicyEndpoints of the model for all namespaces."""
    world, made = World(taken), []
    spaces_ = {
        namespace_of(one) for one in (*taken.items("networkpolicies"), *taken.items("applicationnetworkpolicies"))
    }
    for name in sorted(spaces_):
        made += modelled(world, name).snapshot.items("policyendpoints")
    clusterwide = modelled(world, "").snapshot.get("clusterpolicyendpoints")
    collections = {
        **taken.collections,
        "policyendpoints": Collection(tuple(made)),
        "clusterpolicyendpoints": clusterwide,
    }
    return World(replace(taken, collections=collections))


def leg_of(world: World, asked: str) -> Leg:
    """The first pod's own part in `client -> web 8080` (egress) or `web <- client 8080` (ingress)."""
    who, arrow, other, number = asked.split()
    found = Question(who, **{"destination" if arrow == "->" else "source": other}, port=number)  # type: ignore[arg-type]
    return make_plan(found, "default", world).legs[0]


def said(world: World, leg: Leg, most: int = 99) -> dict[str, list[str]]:
    """Texts by code, after a look at what holds for each answer."""
    found = near_misses(leg.ends, leg.backends, world, most=most)
    assert len(found) <= most and all(one.text.isprintable() and one.text for one in found)
    assert [one.closeness for one in found] == sorted(one.closeness for one in found)
    texts: dict[str, list[str]] = {}
    for one in found:
        texts.setdefault(one.code, []).append(one.text)
    return texts


def denied(world: World, leg: Leg) -> bool:
    """Whether near misses are asked for at all."""
    intents = [tiers.evaluate(ends, world) for ends in leg.backends or (leg.ends,)]
    verdicts = [*intents, endpoints.evaluate(leg.ends, world)]
    return any(verdict.decision is Decision.DENY for verdict in verdicts)


Scene = tuple[World, str]


def labels_scene(wanted: dict[str, str], has: dict[str, str], **selector: Any) -> Scene:
    """web admits pods with some labels; client has others."""
    peer = {"podSelector": {**({"matchLabels": wanted} if wanted else {}), **selector}}
    client = {**CLIENT, "metadata": {**CLIENT["metadata"], "labels": has}}
    return cluster(ingress(peer), pods=[client]), "web <- client 8080"


def spaces_scene(wanted: dict[str, str], has: dict[str, str], *, app: str = "client") -> Scene:
    """web admits pods of some namespaces; that of shop/client has other labels."""
    peer = {"namespaceSelector": {"matchLabels": wanted}, **pods(app=app)}
    return cluster(ingress(peer), namespaces=[namespace("shop", has)]), "web <- shop/client 8080"


ARTICLE = policy("access-nginx", selects={"app": "web"}, ingress=[{"from": [pods(access="true")]}])
IN_NAMESPACES = "in namespaces with"

CASES: dict[str, tuple[str, str, Scene, Scene]] = {
    # ---- labels
    "another value": (
        "LABEL_VALUE",
        "access-nginx allows pods with access=true; accessfalse has access=false",
        (cluster(ARTICLE), "web <- accessfalse 8080"),
        (cluster(ARTICLE), "web <- client 8080"),
    ),
    "one letter off": (
        "LABEL_TYPO",
        "allow-web allows pods with app=client; client has app=cleint, one letter off",
        labels_scene({"app": "client"}, {"app": "cleint"}),
        labels_scene({"app": "client"}, {"app": "server"}),
    ),
    "a number more is another name": (
        "LABEL_VALUE",
        "allow-web allows pods with app=client; client has app=client2",
        labels_scene({"app": "client"}, {"app": "client2"}),
        labels_scene({"app": "client"}, {"app": "clients"}),
    ),
    "upper case": (
        "LABEL_TYPO",
        "allow-web allows pods with access=true; client has access=True, differing only in upper and lower case",
        labels_scene({"access": "true"}, {"access": "True"}),
        labels_scene({"access": "true"}, {"access": "no"}),
    ),
    "underscore": (
        "LABEL_TYPO",
        "allow-web allows pods with app=web-front; client has app=web_front, differing only in `_` and `-`",
        labels_scene({"app": "web-front"}, {"app": "web_front"}),
        labels_scene({"app": "web-front"}, {"app": "web_back"}),
    ),
    "invisible": (
        "LABEL_TYPO",
        "allow-web allows pods with app=web; client has app=web\\u200b, differing only in blanks or invisible "
        "characters",
        labels_scene({"app": "web"}, {"app": "web\u200b"}),
        labels_scene({"app": "web"}, {"app": "w\u200b"}),
    ),
    "quoted twice": (
        "LABEL_TYPO",
        'allow-web allows pods with access="true"; client has access=true, differing only in quotes',
        labels_scene({"access": '"true"'}, {"access": "true"}),
        labels_scene({"access": '"true"'}, {"access": "no"}),
    ),
    "not quoted": (
        "LABEL_TYPO",
        "allow-web allows pods with access=True; client has access=true, which is no text: a label's value needs "
        "quotes",
        labels_scene({"access": True}, {"access": "true"}),  # type: ignore[dict-item]
        labels_scene({"access": True}, {"access": "no"}),  # type: ignore[dict-item]
    ),
    "a key one letter off": (
        "LABEL_TYPO",
        "allow-web allows pods with access=true; client has acess=true, its key one letter off",
        labels_scene({"access": "true"}, {"acess": "true"}),
        labels_scene({"access": "true"}, {"acess": "false"}),
    ),
    "a key with a prefix": (
        "LABEL_KEY",
        "allow-web allows pods with app=client; client has app.kubernetes.io/name=client instead",
        labels_scene({"app": "client"}, {"app.kubernetes.io/name": "client"}),
        labels_scene({"app": "client"}, {"app.kubernetes.io/name": "server"}),
    ),
    "a key that only ends alike": (
        "LABEL_KEY",
        "allow-web allows pods with example.com/group=blue; client has group=blue instead",
        labels_scene({"example.com/group": "blue"}, {"group": "blue"}),
        labels_scene({"example.com/group": "blue"}, {"group": "red"}),
    ),
    "the value under any key": (
        "LABEL_KEY",
        "allow-web allows pods with app=client; client has no label app, but owner=client",
        labels_scene({"app": "client"}, {"owner": "client"}),
        labels_scene({"ready": "true"}, {"owner": "true"}),
    ),
    "no such label": (
        "LABEL_MISSING",
        "allow-web allows pods with app=client,tier=fe; client has no label tier",
        labels_scene({"app": "client", "tier": "fe"}, {"app": "client"}),
        labels_scene({"app": "client", "tier": "fe"}, {"app": "server"}),
    ),
    "one of several values": (
        "LABEL_TYPO",
        "allow-web allows pods with app in (server, client); client has app=Client, differing only in upper and lower "
        "case",
        labels_scene(
            {}, {"app": "Client"}, matchExpressions=[{"key": "app", "operator": "In", "values": ["server", "client"]}]
        ),
        labels_scene(
            {}, {"app": "Cl"}, matchExpressions=[{"key": "app", "operator": "In", "values": ["server", "client"]}]
        ),
    ),
    "a key that has to exist": (
        "LABEL_TYPO",
        "allow-web allows pods with backend; client has the label Backend, differing only in upper and lower case",
        labels_scene({}, {"Backend": ""}, matchExpressions=[{"key": "backend", "operator": "Exists"}]),
        labels_scene({}, {"front": ""}, matchExpressions=[{"key": "backend", "operator": "Exists"}]),
    ),
    "excluded": (
        "LABEL_EXCLUDED",
        "allow-web allows pods with tier notin (db); client has tier=db",
        labels_scene({}, {"tier": "db"}, matchExpressions=[{"key": "tier", "operator": "NotIn", "values": ["db"]}]),
        # Nothing is known that would fit an operator that does not exist.
        labels_scene({}, {"tier": "db"}, matchExpressions=[{"key": "tier", "operator": "Beats", "values": ["db"]}]),
    ),
    "two differences": (
        "LABELS_DIFFER",
        "allow-web allows pods with app=api,tier=be; client has app=client and has no label tier",
        labels_scene({"app": "api", "tier": "be"}, {"app": "client"}),
        labels_scene({"app": "api", "tier": "be", "a": "b", "c": "d"}, {"app": "client"}),
    ),
    "two typos are a typo": (
        "LABEL_TYPO",
        "allow-web allows pods with app=client,tier=fe; client has app=Client, differing only in upper and lower case "
        "and "
        "has tier=FE, differing only in upper and lower case",
        labels_scene({"app": "client", "tier": "fe"}, {"app": "Client", "tier": "FE"}),
        labels_scene({"app": "client", "tier": "fe"}, {"app": "Client", "tier": "be"}),
    ),
    # ---- namespaces
    "own namespace only": (
        "OWN_NAMESPACE_ONLY",
        "allow-web has no namespaceSelector, so it means pods with app=client in namespace default only; shop/client "
        "is in "
        "namespace shop",
        (cluster(ingress(pods(app="client"))), "web <- shop/client 8080"),
        (cluster(ingress(pods(app="server"))), "web <- shop/client 8080"),
    ),
    "own namespace only, everybody": (
        "OWN_NAMESPACE_ONLY",
        "allow-web spec.ingress[0].from[1] has no namespaceSelector, so it means all pods in namespace default only; "
        "shop/client is in namespace shop",
        (cluster(ingress(block("10.9.0.0/16"), {"podSelector": {}})), "web <- shop/client 8080"),
        (cluster(ingress(block("10.9.0.0/16"), {"podSelector": {}}, ports=[port(1)])), "web <- shop/client 8080"),
    ),
    "a namespace's label one letter off": (
        "NAMESPACE_TYPO",
        "allow-web allows namespaces with team=platform; namespace shop has team=platfrom, one letter off",
        spaces_scene({"team": "platform"}, {"team": "platfrom"}),
        spaces_scene({"team": "platform"}, {"team": "platfrom"}, app="server"),
    ),
    "a namespace's name one letter off": (
        "NAMESPACE_TYPO",
        "allow-web allows namespaces with kubernetes.io/metadata.name=shpo; namespace shop has "
        "kubernetes.io/metadata.name=shop, one letter off",
        spaces_scene({"kubernetes.io/metadata.name": "shpo"}, {}),
        spaces_scene({"kubernetes.io/metadata.name": "default"}, {}),
    ),
    "another namespace": (
        "NAMESPACE_VALUE",
        "allow-web allows namespaces with kubernetes.io/metadata.name=shops; namespace shop has "
        "kubernetes.io/metadata.name=shop",
        (
            cluster(
                ingress(
                    {
                        **spaces(kubernetes__io="x"),
                        "namespaceSelector": match(**{"kubernetes.io/metadata.name": "shops"}),
                    }
                ),
                namespaces=[namespace("shops")],
            ),
            "web <- shop/client 8080",
        ),
        spaces_scene({"kubernetes.io/metadata.name": "shops"}, {}),
    ),
    "a namespace's name label": (
        "NAMESPACE_NAME",
        "allow-web allows namespaces with name=shop; namespace shop has no label name, its name is in the label "
        "kubernetes.io/metadata.name",
        spaces_scene({"name": "shop"}, {"stage": "prod"}),
        spaces_scene({"name": "shops"}, {"stage": "prod"}),
    ),
    "a namespace's key": (
        "NAMESPACE_KEY",
        "allow-web allows namespaces with env=prod; namespace shop has environment=prod instead",
        spaces_scene({"env": "prod"}, {"environment": "prod"}),
        spaces_scene({"env": "prod"}, {"environment": "dev"}),
    ),
    "a namespace's value": (
        "NAMESPACE_VALUE",
        "allow-web allows namespaces with stage=dev; namespace shop has stage=prod",
        spaces_scene({"stage": "dev"}, {"stage": "prod"}),
        spaces_scene({"stage": "dev"}, {"stage": "prod"}, app="server"),
    ),
    "a namespace without the label": (
        "NAMESPACE_MISSING",
        "allow-web allows namespaces with team=a; namespace shop has no label team",
        spaces_scene({"team": "a"}, {}),
        spaces_scene({"team": "a"}, {"team": "b"}),
    ),
    "an excluded namespace": (
        "NAMESPACE_EXCLUDED",
        "allow-web allows namespaces with !team; namespace shop has team=shop",
        (
            cluster(
                ingress({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}})
            ),
            "web <- shop/client 8080",
        ),
        spaces_scene({"team": "a"}, {"team": "b"}),
    ),
    "a namespace with two differences": (
        "NAMESPACES_DIFFER",
        "allow-web allows namespaces with stage=dev,team=a; namespace shop has stage=prod and has no label team",
        spaces_scene({"stage": "dev", "team": "a"}, {"stage": "prod"}),
        spaces_scene({"stage": "dev", "team": "a"}, {"stage": "dev"}),
    ),
    "both selectors in one item": (
        "ONE_PEER",
        "allow-web has podSelector and namespaceSelector in one list item, so it means pods with app=client that are "
        "in "
        "namespaces with team=shop; as two items, either of which is enough, it would also allow default/client",
        (cluster(ingress({**pods(app="client"), **spaces(team="shop")})), "web <- client 8080"),
        # As two items, and as one that would not do as two either.
        (cluster(ingress({**pods(app="client"), **spaces(team="shop")})), "web <- accesstrue 8080"),
    ),
    # ---- ports
    "the port of the Service": (
        "SERVICE_PORT_IN_RULE",
        "allow-web allows 80/TCP, the port of service default/web; its pod web listens on 8080/TCP, and a rule means "
        "the port "
        "of the pod",
        (cluster(ingress(pods(app="client"), ports=[port(80)]), services=[SERVICE]), "web <- client 8080"),
        (cluster(ingress(pods(app="client"), ports=[port(81)]), services=[SERVICE]), "web <- client 8080"),
    ),
    "the port of the Service, egress": (
        "SERVICE_PORT_IN_RULE",
        "allow-out allows 80/TCP, the port of service default/web; its pod web listens on 8080/TCP, and a rule means "
        "the port "
        "of the pod",
        (cluster(egress(pods(app="web"), ports=[port(80)]), services=[SERVICE]), "client -> svc/web 80"),
        (cluster(egress(pods(app="api"), ports=[port(80)]), services=[SERVICE]), "client -> svc/web 80"),
    ),
    "asked on the port of the Service": (
        "ASKED_SERVICE_PORT",
        "allow-web allows 8080/TCP, the port of web; 80/TCP is the port of service default/web, which leads there, "
        "and not the "
        "pod's own",
        (cluster(ingress(pods(app="client"), ports=[port(8080)]), services=[SERVICE]), "web <- client 80"),
        (cluster(ingress(pods(app="client"), ports=[port(8080)]), services=[SERVICE]), "web <- client 81"),
    ),
    "asked on the port of the Service, egress": (
        "ASKED_SERVICE_PORT",
        "allow-out allows 8080/TCP, the port of web; 80/TCP is the port of service default/web, which leads there, "
        "and not the "
        "pod's own",
        (cluster(egress(pods(app="web"), ports=[port("http")]), services=[SERVICE]), "client -> web 80"),
        (cluster(egress(pods(app="web"), ports=[port("http")])), "client -> web 80"),
    ),
    "no port of that name": (
        "NAMED_PORT_MISSING",
        "allow-web allows the port named metrics; no container of web declares a port of that name (init containers "
        "do not "
        "count)",
        (cluster(ingress(pods(app="client"), ports=[port("metrics")])), "web <- client 9090"),
        (cluster(ingress(pods(app="client"), ports=[port("metrics")])), "web <- client 9090/UDP"),
    ),
    "a port's name one letter off": (
        "NAMED_PORT_TYPO",
        "allow-web allows the port named htpp; web declares 8080/TCP as http, one letter off",
        (cluster(ingress(pods(app="client"), ports=[port("htpp")])), "web <- client 8080"),
        (cluster(ingress(pods(app="client"), ports=[port("htpp")])), "web <- client 9090"),
    ),
    "a named port of another protocol": (
        "NAMED_PORT_PROTOCOL",
        "allow-out allows the port named dns over TCP; web declares dns as 53/UDP",
        (
            cluster(
                egress(pods(app="web"), ports=[port("dns", None)]),
                pods=[pod("web", "10.0.1.1", labels={"app": "web"}, ports=[container_port(53, "dns", "UDP")])],
            ),
            "client -> web 53/UDP",
        ),
        (
            cluster(
                egress(pods(app="web"), ports=[port("dns", None)]),
                pods=[pod("web", "10.0.1.1", labels={"app": "web"}, ports=[container_port(53, "dns", "UDP")])],
            ),
            "client -> web 54/UDP",
        ),
    ),
    "a named port of another number": (
        "NAMED_PORT_NUMBER",
        "allow-web allows the port named http, which is 8080/TCP on web, not 80/TCP",
        (cluster(ingress(pods(app="client"), ports=[port("http")])), "web <- client 80"),
        (cluster(ingress(pods(app="client"), ports=[port("http")])), "web <- client 80/UDP"),
    ),
    "a named port of an address": (
        "NAMED_PORT_ADDRESS",
        "allow-out allows the port named https; 192.0.2.7 is no pod, so the name means no number there",
        (cluster(egress(block("192.0.2.0/24"), ports=[port("https")])), "client -> 192.0.2.7 443"),
        (cluster(egress(block("192.0.2.0/24"), ports=[port("https")])), "client -> 192.0.2.7 443/UDP"),
    ),
    "DNS over UDP": (
        "PROTOCOL",
        "allow-out allows 53/TCP (a port without a protocol means TCP), not 53/UDP; DNS asks over UDP first",
        (cluster(egress(block("10.0.0.0/8"), ports=[port(53, None)])), "client -> web 53/UDP"),
        (cluster(egress(block("10.0.0.0/8"), ports=[port(54, None)])), "client -> web 53/UDP"),
    ),
    "another protocol": (
        "PROTOCOL",
        "allow-web allows 8080/UDP, not 8080/TCP",
        (cluster(ingress(pods(app="client"), ports=[port(8080, "UDP")])), "web <- client 8080"),
        (cluster(ingress(pods(app="server"), ports=[port(8080, "UDP")])), "web <- client 8080"),
    ),
    "another port": (
        "PORT",
        "allow-web allows pods app=client on 80/TCP, 443/TCP, not on 8080/TCP",
        (cluster(ingress(pods(app="client"), ports=[port(80), port(443)])), "web <- client 8080"),
        (cluster(ingress(pods(app="server"), ports=[port(80), port(443)])), "web <- client 8080"),
    ),
    "ping": (
        "ICMP",
        "allow-web allows 8080/TCP only; ICMP has no port, and needs a rule without ports",
        (cluster(ingress(pods(app="client"), ports=[port(8080)])), "web <- client icmp"),
        (cluster(ingress(pods(app="server"), ports=[port(8080)])), "web <- client icmp"),
    ),
    "no DNS at all": (
        "DNS_NOT_ALLOWED",
        "no egress rule of allow-out allows 53/UDP to anybody, so client cannot ask DNS over UDP",
        (cluster(egress(pods(app="web"), ports=[port(8080)])), "client -> web 53/UDP"),
        (cluster(egress(pods(app="api"))), "client -> web 53/UDP"),
    ),
    # ---- policyTypes
    "a direction that is not listed": (
        "DIRECTION_NOT_LISTED",
        "allow-out spec.egress[0].to[0] would allow this, but its policyTypes do not list Egress, so Kubernetes "
        "ignores its "
        "egress rules",
        (
            cluster(egress(pods(app="web"), types=["Ingress"]), policy("deny", egress=[], types=["Egress"])),
            "client -> web 8080",
        ),
        (
            cluster(egress(pods(app="api"), types=["Ingress"]), policy("deny", egress=[], types=["Egress"])),
            "client -> web 8080",
        ),
    ),
    "a direction without rules": (
        "DIRECTION_WITHOUT_RULES",
        "allow-web lists Egress in policyTypes and has no egress rule, so web is closed for egress",
        (cluster(ingress(pods(app="client"), types=["Ingress", "Egress"])), "web -> client 80"),
        # Without this policy, another one would still deny it.
        (
            cluster(ingress(pods(app="client"), types=["Ingress", "Egress"]), policy("deny", types=["Egress"])),
            "web -> client 80",
        ),
    ),
    "a direction by default": (
        "DIRECTION_WITHOUT_RULES",
        "allow-out has no policyTypes, which means Ingress, and has no ingress rule, so client is closed for ingress",
        (cluster(egress(pods(app="web"), types=None)), "client <- web 80"),
        (cluster(egress(pods(app="web"), types=None, ingress=[{"from": [pods(app="x")]}])), "client <- web 80"),
    ),
    # ---- blocks
    "in an except": (
        "EXCEPT",
        "allow-out allows 192.0.2.0/24 but excepts 192.0.2.0/29, and 192.0.2.7 is in there",
        (cluster(egress(block("192.0.2.0/24", "192.0.2.0/29", "192.0.2.32/29"))), "client -> 192.0.2.7 443"),
        (cluster(egress(block("192.0.2.0/24", "192.0.2.0/29"), ports=[port(80)])), "client -> 192.0.2.7 443"),
    ),
    "just after the block": (
        "BLOCK_EDGE",
        "allow-out allows 192.0.2.0/28, which ends at 192.0.2.15; 192.0.2.17 is just after it",
        (cluster(egress(block("192.0.2.0/28"))), "client -> 192.0.2.17 443"),
        (cluster(egress(block("192.0.2.0/28"))), "client -> 192.0.2.40 443"),
    ),
    "just before the block": (
        "BLOCK_EDGE",
        "allow-out allows 192.0.2.16/28, which begins at 192.0.2.16; 192.0.2.15 is just before it",
        (cluster(egress(block("192.0.2.16/28"))), "client -> 192.0.2.15 443"),
        (cluster(egress(block("192.0.2.16/28", "192.0.2.15/32"))), "client -> 192.0.2.200 443"),
    ),
    "another block of the size": (
        "BLOCK_TYPO",
        "allow-out allows 198.51.10.0/24; 198.51.100.7 is in 198.51.100.0/24, one character off",
        (cluster(egress(block("198.51.10.0/24"))), "client -> 198.51.100.7 443"),
        (cluster(egress(block("198.15.10.0/24"))), "client -> 198.51.100.7 443"),
    ),
    "one address": (
        "BLOCK_ONE_ADDRESS",
        "allow-out allows 192.0.2.0/32, which is one address; 192.0.2.7 would be in 192.0.2.0/24",
        (cluster(egress(block("192.0.2.0/32"))), "client -> 192.0.2.7 443"),
        (cluster(egress(block("192.0.2.6/32"))), "client -> 192.0.2.7 443"),
    ),
    "the other family": (
        "BLOCK_FAMILY",
        "allow-out allows 0.0.0.0/0, which holds no IPv6 address such as 2001:db8::7: ::/0 does",
        (
            cluster(egress(block("0.0.0.0/0")), pods=[pod("client", "2001:db8:1::2", labels={"app": "client"})]),
            "client -> 2001:db8::7 443",
        ),
        (
            cluster(egress(block("10.0.0.0/8")), pods=[pod("client", "2001:db8:1::2", labels={"app": "client"})]),
            "client -> 2001:db8::7 443",
        ),
    ),
    "the address of a pod": (
        "BLOCK_OF_PODS",
        "allow-web allows 10.0.1.9/32, where pod client-2 is; client has 10.0.1.2: a podSelector means pods whatever "
        "their "
        "address",
        (
            cluster(ingress(block("10.0.1.9/32")), pods=[pod("client-2", "10.0.1.9", labels={"app": "client"})]),
            "web <- client 8080",
        ),
        (
            cluster(ingress(block("10.0.1.9/32")), pods=[pod("client-2", "10.0.1.9", labels={"app": "server"})]),
            "web <- client 8080",
        ),
    ),
    "the ClusterIP as a source": (
        "BLOCK_OF_SERVICE",
        "allow-web allows 172.20.0.8, the ClusterIP of service default/client: connections never come from a "
        "ClusterIP, but "
        "from the pod's own address, here 10.0.1.2 of client",
        (
            cluster(
                ingress(block("172.20.0.8/32")), services=[service("client", "172.20.0.8", selector={"app": "client"})]
            ),
            "web <- client 8080",
        ),
        (
            cluster(ingress(block("172.20.0.8/32")), services=[service("client", "172.20.0.8", selector={"app": "x"})]),
            "web <- client 8080",
        ),
    ),
    # ---- what the other end is
    "outside": (
        "SELECTOR_OUTSIDE",
        "allow-out allows all pods in all namespaces; 192.0.2.7 is no pod of this cluster, and selectors mean pods "
        "only: an "
        "address outside or of a load balancer needs an ipBlock",
        (cluster(egress({"namespaceSelector": {}})), "client -> 192.0.2.7 443"),
        (cluster(egress({"namespaceSelector": {}}, ports=[port(80)])), "client -> 192.0.2.7 443"),
    ),
    "NodeLocal DNSCache": (
        "NODE_LOCAL_DNS",
        "169.254.20.10 is NodeLocal DNSCache, which has this address on each node: no selector means it, an ipBlock "
        "does",
        (cluster(egress({"namespaceSelector": {}}), pods=[NODE_LOCAL]), "client -> 169.254.20.10 53/UDP"),
        (cluster(egress({"namespaceSelector": {}})), "client -> 169.254.20.10 53/UDP"),
    ),
    "another node": (
        "NODE",
        "10.0.0.2 is node node-b; only 10.0.0.1, the own node node-a of web, always passes, and the kubelet's probes "
        "come from "
        "there: no selector means another node, an ipBlock does",
        (cluster(ingress(pods(app="client"))), "web <- 10.0.0.2 8080"),
        (cluster(ingress(pods(app="client"))), "web <- 10.0.0.3 8080"),
    ),
    "a second address of the own node": (
        "NODE",
        "10.0.0.9 is an address of node-a, the own node of web, but only its address 10.0.0.1 always passes",
        (cluster(ingress(pods(app="client")), nodes=[node(NODE, "10.0.0.1", "10.0.0.9")]), "web <- 10.0.0.9 8080"),
        (cluster(ingress(pods(app="client")), nodes=[node(NODE, "10.0.0.1")]), "web <- 10.0.0.9 8080"),
    ),
    "to a node": (
        "NODE",
        "10.0.0.2 is node node-b: no selector means a node or what runs on its host network, an ipBlock does",
        (cluster(egress(pods(app="web"))), "client -> node/node-b 10250"),
        (cluster(egress(pods(app="web"))), "client -> shop/client 10250"),
    ),
    "a node that masquerades": (
        "NODE_MASQUERADE",
        "service default/web is a LoadBalancer with externalTrafficPolicy Cluster: connections that reach it through "
        "node node-b "
        "come from that node's address 10.0.0.2; allow the nodes by an ipBlock, or use externalTrafficPolicy: Local",
        (
            cluster(
                ingress(pods(app="client")), services=[{**SERVICE, "spec": {**SERVICE["spec"], "type": "LoadBalancer"}}]
            ),
            "web <- 10.0.0.2 8080",
        ),
        (
            cluster(
                ingress(pods(app="client")),
                services=[
                    {**SERVICE, "spec": {**SERVICE["spec"], "type": "NodePort", "externalTrafficPolicy": "Local"}}
                ],
            ),
            "web <- 10.0.0.2 8080",
        ),
    ),
    "a pod on the host network": (
        "HOST_NETWORK_PEER",
        "allow-web allows pods app=agent, as default/agent is labelled, but that pod is on the host network of "
        "node-b: 10.0.0.2 "
        "is the node's address, which an ipBlock means and no selector",
        (cluster(ingress(pods(app="agent")), pods=[HOST]), "web <- agent 8080"),
        (cluster(ingress(pods(app="client")), pods=[HOST]), "web <- agent 8080"),
    ),
    "a ClusterIP is no source": (
        "SERVICE_AS_SOURCE",
        "172.20.0.7 is the ClusterIP of service default/web, which is never the source of a packet: connections come "
        "from the "
        "address of the pod that opens them",
        (cluster(ingress(pods(app="client")), services=[SERVICE]), "web <- 172.20.0.7 8080"),
        (cluster(ingress(pods(app="client")), services=[SERVICE]), "web <- 172.20.0.8 8080"),
    ),
    "a pod that has ended": (
        "PEER_ENDED",
        "default/job has ended (Succeeded): no selector means it at 10.0.1.8 any more, which shop/heir has now",
        (
            cluster(
                ingress(pods(app="job")),
                pods=[
                    pod("job", "10.0.1.8", labels={"app": "job"}, phase="Succeeded"),
                    pod("heir", "10.0.1.8", namespace="shop"),
                ],
            ),
            "web <- job 8080",
        ),
        (cluster(ingress(pods(app="jobs")), pods=[pod("job", "10.0.1.8", labels={"app": "job"})]), "web <- job 8080"),
    ),
    # ---- Services
    "the Service's selector": (
        "SERVICE_SELECTOR",
        "service default/web selects app=web, which does not satisfy app=web,tier=fe of allow-out: its ClusterIP "
        "172.20.0.7 is "
        "not allowed with the pods; this works only through the pod address 10.0.1.1",
        (
            cluster(egress(pods(app="web", tier="fe")), pods=[labelled(WEB, app="web", tier="fe")], services=[SERVICE]),
            "client -> svc/web 80",
        ),
        (
            cluster(egress(pods(app="web", tier="fe")), pods=[labelled(WEB, app="web", tier="be")], services=[SERVICE]),
            "client -> svc/web 80",
        ),
    ),
    "the block of the pods": (
        "SERVICE_BLOCK",
        "allow-out allows 10.0.0.0/16, which holds the pods behind service default/web but not its ClusterIP "
        "172.20.0.7, and "
        "egress is judged on the ClusterIP; this works only through the pod address 10.0.1.1",
        (cluster(egress(block("10.0.0.0/16")), services=[SERVICE]), "client -> svc/web 80"),
        (cluster(egress(block("10.9.0.0/16")), services=[SERVICE]), "client -> svc/web 80"),
    ),
    "the second port of the Service": (
        "SERVICE_PORT",
        "allow-out allows 8080/TCP on the pods, which leads to 80/TCP of service default/web and not to 81/TCP; this "
        "works only "
        "through the pod address 10.0.1.1",
        (
            cluster(
                egress(pods(app="web"), ports=[port(8080)]),
                services=[
                    service(
                        "web",
                        "172.20.0.7",
                        selector={"app": "web"},
                        ports=[service_port(80, 8080), service_port(81, 8080)],
                    )
                ],
            ),
            "client -> svc/web 81",
        ),
        (
            cluster(
                egress(pods(app="web"), ports=[port(9)]),
                services=[
                    service(
                        "web",
                        "172.20.0.7",
                        selector={"app": "web"},
                        ports=[service_port(80, 8080), service_port(81, 8080)],
                    )
                ],
            ),
            "client -> svc/web 81",
        ),
    ),
    "the ClusterIP only": (
        "CLUSTER_IP_ONLY",
        "allow-out allows 172.20.0.7, the ClusterIP of service default/web, on 80/TCP, and not web itself (10.0.1.1 "
        "on 8080/TCP): "
        "this works only through the ClusterIP",
        (cluster(egress(block("172.20.0.0/16")), services=[SERVICE]), "client -> web 8080"),
        (cluster(egress(block("172.20.0.0/16")), services=[SERVICE]), "client -> web 9090"),
    ),
    # ---- policies
    "a policy for other pods": (
        "SUBJECT_LABEL",
        "allow-web would allow this, but allow-web selects pods with app=wbe; web has app=web, one letter off",
        (
            cluster(ingress(pods(app="client"), selects={"app": "wbe"}), policy("deny", types=["Ingress"])),
            "web <- client 8080",
        ),
        (
            cluster(ingress(pods(app="x"), selects={"app": "wbe"}), policy("deny", types=["Ingress"])),
            "web <- client 8080",
        ),
    ),
    "a policy of another namespace": (
        "SUBJECT_NAMESPACE",
        "allow-web would allow this, but it is in namespace shop and selects pods with app=web there only, not web in "
        "namespace "
        "default",
        (
            cluster(ingress(pods(app="client"), namespace="shop"), policy("deny", types=["Ingress"])),
            "web <- client 8080",
        ),
        (
            cluster(ingress(pods(app="x"), namespace="shop"), policy("deny", types=["Ingress"])),
            "web <- client 8080",
        ),
    ),
    "several policies": (
        "SEVERAL_POLICIES",
        "allow-web, deny isolate web for ingress together: none of them allows this flow, and without any one of them "
        "it would "
        "still be denied",
        (cluster(ingress(pods(app="x")), policy("deny", types=["Ingress"])), "web <- client 8080"),
        (cluster(ingress(pods(app="x")), policy("deny", types=["Egress"])), "web <- client 8080"),
    ),
    "the Admin tier": (
        "ADMIN_DENY",
        'ClusterNetworkPolicy no-shop (priority 10) spec.ingress[0] "no" denies all pods in namespaces team=shop, in '
        "the Admin "
        "tier, before any NetworkPolicy is asked: none can allow this flow",
        (
            cluster(
                ingress(spaces(team="shop")),
                clusternetworkpolicies=[
                    cluster_policy("no-shop", "Deny", ingress={"from": [{"namespaces": match(team="shop")}]})
                ],
            ),
            "web <- shop/client 8080",
        ),
        (
            cluster(
                ingress(pods(app="x")),
                clusternetworkpolicies=[
                    cluster_policy("no-shop", "Pass", ingress={"from": [{"namespaces": match(team="shop")}]})
                ],
            ),
            "web <- shop/client 8080",
        ),
    ),
    "the Admin tier and the kubelet": (
        "ADMIN_DENY",
        'ClusterNetworkPolicy no-nodes (priority 10) spec.ingress[0] "no" denies 10.0.0.0/24, in the Admin tier, '
        "before any "
        "NetworkPolicy is asked: none can allow this flow, and the kubelet's probes come from this address",
        (
            cluster(
                clusternetworkpolicies=[
                    cluster_policy("no-nodes", "Deny", ingress={"from": [{"networks": ["10.0.0.0/24"]}]})
                ]
            ),
            "web <- 10.0.0.1 8080",
        ),
        (cluster(ingress(pods(app="client"))), "web <- 10.0.0.2 8080"),
    ),
    "behind another in the Admin tier": (
        "ADMIN_ORDER",
        'team (priority 20) spec.ingress[0] "no" accepts this flow, but no-shop (priority 10) is asked first: lower '
        "numbers win",
        (
            cluster(
                clusternetworkpolicies=[
                    cluster_policy("no-shop", "Deny", ingress={"from": [{"namespaces": match(team="shop")}]}),
                    cluster_policy("team", "Accept", priority=20, ingress={"from": [{"namespaces": {}}]}),
                ]
            ),
            "web <- shop/client 8080",
        ),
        # Nothing comes before priority 0.
        (
            cluster(
                clusternetworkpolicies=[
                    cluster_policy(
                        "no-shop", "Deny", priority=0, ingress={"from": [{"namespaces": match(team="shop")}]}
                    ),
                    cluster_policy("team", "Accept", priority=20, ingress={"from": [{"namespaces": {}}]}),
                ]
            ),
            "web <- shop/client 8080",
        ),
    ),
    "beside another in the Admin tier": (
        "ADMIN_ORDER",
        'team (priority 10) spec.ingress[0] "no" accepts this flow, but no-shop denies it with the same priority: '
        "Deny wins",
        (
            cluster(
                clusternetworkpolicies=[
                    cluster_policy("no-shop", "Deny", ingress={"from": [{"namespaces": match(team="shop")}]}),
                    cluster_policy("team", "Accept", ingress={"from": [{"namespaces": {}}]}),
                ]
            ),
            "web <- shop/client 8080",
        ),
        (
            cluster(
                clusternetworkpolicies=[
                    cluster_policy("no-shop", "Deny", ingress={"from": [{"namespaces": match(team="shop")}]}),
                    cluster_policy("team", "Accept", ingress={"from": [{"namespaces": match(team="x")}]}),
                ]
            ),
            "web <- shop/client 8080",
        ),
    ),
    "the Baseline tier": (
        "BASELINE_DENY",
        'ClusterNetworkPolicy base (priority 10) spec.ingress[0] "no" denies all pods in all namespaces, in the '
        "Baseline tier, "
        "because no NetworkPolicy isolates web for ingress: one that allows this flow would decide first",
        (
            cluster(
                clusternetworkpolicies=[
                    cluster_policy("base", "Deny", tier="Baseline", ingress={"from": [{"namespaces": {}}]})
                ]
            ),
            "web <- client 8080",
        ),
        (
            cluster(
                ingress(pods(app="x")),
                clusternetworkpolicies=[
                    cluster_policy("base", "Deny", tier="Baseline", ingress={"from": [{"namespaces": {}}]})
                ],
            ),
            "web <- client 8080",
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_sentence(name: str) -> None:
    code, text, (world, asked), _ = CASES[name]
    leg = leg_of(world, asked)
    assert denied(world, leg), "near misses are asked for where something denies"
    found = said(world, leg)
    assert text in found.get(code, ()), found


@pytest.mark.parametrize("name", CASES)
def test_the_twin_in_which_it_would_be_wrong(name: str) -> None:
    code, text, _, (world, asked) = CASES[name]
    leg = leg_of(world, asked)
    assert denied(world, leg), "the twin is denied as well"
    found = said(world, leg).get(code, [])
    pattern = {"DIRECTION_WITHOUT_RULES", "NODE", "ADMIN_DENY", "LABEL_TYPO", "LABEL_VALUE", "PROTOCOL"}
    assert text not in found if code in pattern else not found, found


def test_every_code_has_a_case() -> None:
    there = {code for code, *_ in CASES.values()}
    assert there | {"PEER_NO_ADDRESS", "SERVICE_WITHOUT_PODS"} == set(CODES)


# ---- ends that the command line does not make


def test_a_pod_without_an_address_yet() -> None:
    pending = pod("late", labels={"app": "late"}, phase="Pending")
    world = cluster(ingress(pods(app="late")), pods=[pending])
    for peer, expected in (
        (pending, ["default/late has no address yet (Pending): nothing can be resolved for it"]),
        (pod("late", "10.0.1.8", labels={"app": "late"}), []),
    ):
        ends = Ends(WEB, Direction.INGRESS, flow("10.0.1.8", "10.0.1.1", 8080), peer)
        assert said(world, Leg(ends)).get("PEER_NO_ADDRESS", []) == expected


def test_a_pod_without_an_address_is_still_a_pod() -> None:
    world = cluster(ingress(pods(app="x")), pods=[pod("late", labels={"app": "late"}, phase="Pending")])
    ends = Ends(WEB, Direction.INGRESS, flow("10.0.1.8", "10.0.1.1", 8080), world.pod("default", "late"))
    assert set(said(world, Leg(ends))) == {"PEER_NO_ADDRESS", "LABEL_VALUE"}


def test_a_service_without_pods() -> None:
    api = service("kubernetes", "172.20.0.1", ports=[service_port(443, 6443)])
    for peers, expected in (
        (
            [pods(app="web")],
            [
                "service default/kubernetes has no running pod behind 172.20.0.1, and selectors mean pods: an ipBlock "
                "can "
                "mean it"
            ],
        ),
        ([], []),
    ):
        world = cluster(egress(*peers), services=[api])
        ends = Ends(CLIENT, Direction.EGRESS, flow("10.0.1.2", "172.20.0.1", 443))
        assert said(world, Leg(ends)).get("SERVICE_WITHOUT_PODS", []) == expected


def test_a_pod_on_the_host_network_has_no_near_miss() -> None:
    world = cluster(ingress(pods(app="x"), selects=None), pods=[HOST])
    ends = Ends(HOST, Direction.INGRESS, flow("10.0.1.2", "10.0.0.2", 8080), CLIENT)
    assert near_misses(ends, (), world) == ()


def test_nothing_is_said_where_the_yaml_was_not_read() -> None:
    world, asked = CASES["one letter off"][2]
    leg = leg_of(world, asked)
    for kind in ("networkpolicies", "pods", "namespaces", "clusternetworkpolicies"):
        unread = replace(world.snapshot.get(kind), reason="forbidden")
        blind = World(replace(world.snapshot, collections={**world.snapshot.collections, kind: unread}))
        assert near_misses(leg.ends, leg.backends, blind) == ()


def test_nor_is_a_fact_that_may_have_nothing_to_do_with_it() -> None:
    world, asked = CASES["a pod that has ended"][2]
    leg = leg_of(world, asked)
    unread = {**world.snapshot.collections, "networkpolicies": Collection(reason="forbidden")}
    assert near_misses(leg.ends, leg.backends, World(replace(world.snapshot, collections=unread))) == ()


def test_what_a_cluster_policy_denies_is_not_blamed_on_labels() -> None:
    world = cluster(
        ingress(pods(app="client")),
        pods=[labelled(CLIENT, app="Client")],
        clusternetworkpolicies=[
            cluster_policy("no", "Deny", ingress={"from": [{"pods": {"podSelector": match(app="Client")}}]})
        ],
    )
    assert set(said(world, leg_of(world, "web <- client 8080"))) == {"ADMIN_DENY"}


def test_a_flow_to_a_service_is_not_said_to_have_asked_for_the_wrong_port() -> None:
    second = service("web2", "172.20.0.8", selector={"app": "web"}, ports=[service_port(8080, 9090)])
    world = cluster(egress(pods(app="web"), ports=[port(9090)]), services=[SERVICE, second])
    assert "ASKED_SERVICE_PORT" not in said(world, leg_of(world, "client -> svc/web 80"))
    assert "ASKED_SERVICE_PORT" in said(world, leg_of(world, "client -> web 8080"))


def test_a_named_port_may_be_the_one_of_dns() -> None:
    """It is 53 on other pods: they can be asked."""
    world = cluster(egress(pods(app="web"), ports=[port("dns", "UDP")]))
    assert "DNS_NOT_ALLOWED" not in said(world, leg_of(world, "client -> web 53/UDP"))


def test_a_name_that_is_nearly_there_is_not_it_on_another_port() -> None:
    world, asked = CASES["a port's name one letter off"][3]
    assert set(said(world, leg_of(world, asked))) == {"NAMED_PORT_MISSING"}


def test_a_small_block_next_to_another_is_no_typo() -> None:
    world = cluster(egress(block("192.0.2.16/29")))
    assert "BLOCK_TYPO" not in said(world, leg_of(world, "client -> 192.0.2.160 443"))


def test_a_label_that_the_api_server_sets_is_not_changed() -> None:
    for name, kind in (
        ("a namespace's name one letter off", "networkpolicies"),
        ("a namespace's label one letter off", "namespaces"),
    ):
        code, _, (world, asked), _ = CASES[name]
        leg = leg_of(world, asked)
        found = next(one for one in candidates(Case(leg.ends, (), world)) if one.miss.code == code)
        assert [change.kind for proof in found.proofs for change in proof.changes] == [kind]


def test_a_node_is_not_behind_a_domain_name() -> None:
    """What is tried has to know as much as what was judged: else this flow would be undecided there."""
    domains = egress({"domainNames": ["example.com"]}, name="domains")
    world = cluster(egress(pods(app="web")), applicationnetworkpolicies=[domains])
    assert "SEVERAL_POLICIES" in said(world, leg_of(world, "client -> 10.0.0.2 443"))


def test_the_best_guesses_come_first_and_are_not_too_many() -> None:
    rules = [{"from": [pods(app=f"other-{number}x")]} for number in range(5)]
    rules += [{"from": [pods(app="Client")]}, {"from": [pods(app="client")], "ports": [port(80)]}]
    many = policy("many", selects={"app": "web"}, ingress=rules, types=["Ingress"])
    world = cluster(many)
    leg = leg_of(world, "web <- client 8080")
    assert [(one.code, one.closeness) for one in near_misses(leg.ends, (), world)] == [
        ("LABEL_TYPO", 0),
        ("LABEL_VALUE", 2),
        ("LABEL_VALUE", 2),
    ]
    assert [one.code for one in near_misses(leg.ends, (), world, most=1)] == ["LABEL_TYPO"]
    assert near_misses(leg.ends, (), world, most=0) == ()


def test_of_a_service_the_denied_pod_is_explained() -> None:
    """One of two pods behind it has a label that is mistyped."""
    twins = [
        pod("db-0", "10.0.4.1", labels={"svc": "db", "app": "database"}),
        pod("db-1", "10.0.4.2", labels={"svc": "db", "app": "databse"}),
    ]
    db = service("db", "172.20.0.9", selector={"svc": "db"}, ports=[service_port(5432)])
    world = cluster(egress(pods(app="database")), pods=twins, services=[db])
    leg = leg_of(world, "client -> svc/db 5432")
    assert len(leg.backends) == 2
    assert said(world, leg)["LABEL_TYPO"] == [
        "allow-out allows pods with app=database; db-1 has app=databse, one letter off"
    ]


def test_pod_addresses_are_named_only_where_they_pass() -> None:
    """PolicyEndpoints that are behind: the pod's own address is not in them either."""
    world, asked = CASES["the Service's selector"][2]
    empty = World(
        replace(world.snapshot, collections={**world.snapshot.collections, "policyendpoints": _without_rules(world)})
    )
    leg = leg_of(empty, asked)
    (text,) = said(empty, leg)["SERVICE_SELECTOR"]
    assert text.endswith("its ClusterIP 172.20.0.7 is not allowed with the pods")


def _without_rules(world: World) -> Collection:
    items = world.snapshot.items("policyendpoints")
    return Collection(tuple({**one, "spec": {**one["spec"], "egress": [], "ingress": []}} for one in items))


def test_what_cannot_pass_is_not_said_to_pass_through_the_cluster_ip() -> None:
    world, asked = CASES["the ClusterIP only"][2]
    behind = {**world.snapshot.collections, "policyendpoints": _without_rules(world)}
    empty = World(replace(world.snapshot, collections=behind))
    assert "CLUSTER_IP_ONLY" not in said(empty, leg_of(empty, asked))


def test_two_items_that_are_one_would_not_help() -> None:
    """The reverse of ONE_PEER is never said: what fits both selectors fits each of them alone."""
    both = {**pods(app="client"), **spaces(team="shop")}
    for other in ("client", "shop/client", "accesstrue"):
        apart, together = cluster(ingress(pods(app="client"), spaces(team="shop"))), cluster(ingress(both))
        allowed = [tiers.evaluate(leg_of(w, f"web <- {other} 8080").ends, w).decision for w in (together, apart)]
        assert allowed != [Decision.ALLOW, Decision.DENY]


# ---- texts that are nearly the same


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("client", "cleint", True),
        ("client", "clent", True),
        ("client", "cliient", True),
        ("client", "cliant", True),
        ("client", "client", False),
        ("client", "clein", False),
        ("ab", "ba", True),
        ("", "a", True),
        ("abcd", "badc", False),
        ("abc", "cab", False),
    ],
)
def test_one_edit(left: str, right: str, expected: bool) -> None:
    assert typos.one_edit(left, right) is expected
    assert typos.one_edit(right, left) is expected


@given(st.text("abc", max_size=5), st.text("abc", max_size=5))
def test_one_edit_is_distance_one(left: str, right: str) -> None:
    assert typos.one_edit(left, right) == (right in _edits(left) and left != right)


def _edits(text: str) -> set[str]:
    splits = [(text[:number], text[number:]) for number in range(len(text) + 1)]
    found = {a + b[1:] for a, b in splits if b}
    found |= {a + b[1] + b[0] + b[2:] for a, b in splits if len(b) > 1}
    return found | {a + c + b[skip:] for a, b in splits for c in "abc" for skip in (0, 1) if skip <= len(b)}


@pytest.mark.parametrize(
    ("left", "right"),
    [("fe", "be"), ("api", "app"), ("web", "web2"), ("node-1", "node-2"), ("team-a", "team-b"), ("v1", "v11")],
)
def test_names_that_differ_on_purpose(left: str, right: str) -> None:
    assert typos.one_edit(left, right)
    assert not typos.likeness(left, right)


def test_the_same_is_not_alike() -> None:
    assert not typos.likeness("web", "web")
    assert typos.likeness("Web_Front ", "web-front") == "differing only in its spelling"


# ---- claims are true


def key(obj: Json) -> tuple[str, str]:
    return namespace_of(obj), name_of(obj)


def tried(case: Case, proof: Proof) -> Verdict:
    """The proof on the whole cluster, made anew with the changes."""
    collections = dict(case.world.snapshot.collections)
    for change in proof.changes:
        items = [one for one in collections[change.kind].items if key(one) != key(change.obj)]
        items += [] if change.gone else [change.obj]
        collections[change.kind] = Collection(tuple(items))
    world = World(replace(case.world.snapshot, collections=collections))
    changed = {key(change.obj): change.obj for change in proof.changes if change.kind == "pods"}
    ends = case.judged if proof.layer is Layer.INTENT else case.ends
    peer = ends.peer_pod
    ends = replace(
        ends,
        pod=changed.get(key(ends.pod), ends.pod),
        peer_pod=peer and changed.get(key(peer), peer),
        flow=proof.flow or ends.flow,
    )
    if proof.layer is Layer.INTENT:
        return tiers.evaluate(ends, world)
    return endpoints.evaluate(ends, modelled(world, namespace_of(ends.pod)))


PROVEN_BY_ITSELF = {"SERVICE_AS_SOURCE", "PEER_ENDED", "PEER_NO_ADDRESS"}
"""Facts, with which no change goes."""


@pytest.mark.parametrize("name", CASES)
def test_what_a_sentence_claims_holds_in_the_whole_cluster(name: str) -> None:
    _, _, (world, asked), _ = CASES[name]
    leg = leg_of(world, asked)
    case = Case(leg.ends, leg.backends, world)
    for one in proven(case):
        assert one.proofs or one.miss.code in PROVEN_BY_ITSELF
        for proof in one.proofs:
            assert tried(case, proof).decision is proof.decision, one


def questions(rng: random.Random, objects: Mapping[str, list[Json]]) -> list[Question]:
    """A few flows among all that is there, and outside."""
    others = [ref(one) for one in objects["pods"]]
    others += [f"{namespace_of(one)}/svc/{name_of(one)}" for one in objects["services"]]
    others += ["192.0.2.7", "198.51.100.255", "172.31.96.10", "172.31.96.11", "172.31.100.9", "10.100.0.10", "8.8.8.8"]
    numbers = ("80", "8080", "443", "9090", "53/UDP", "53", "9999/SCTP", "icmp")
    found = []
    for _ in range(12):
        way = rng.choice(("source", "destination", "destination"))
        asked = {way: rng.choice(others), "port": rng.choice(numbers)}
        found.append(Question(ref(rng.choice(objects["pods"])), **asked))  # type: ignore[arg-type]
    return found


def mistyped(rng: random.Random, objects: dict[str, list[Json]]) -> None:
    """Labels as people mistype them."""
    for one in [*objects["pods"], *objects["namespaces"]]:
        labels = one["metadata"].get("labels") or {}
        for label in list(labels):
            change = rng.random()
            if change < 0.1:
                labels[label] += "s"
            elif change < 0.2:
                labels[label] = labels[label].upper()
            elif change < 0.3:
                labels["app.kubernetes.io/name"] = labels.pop(label)
            elif change < 0.33:
                labels[label] += "\u200b\n"


def mangled(rng: random.Random, objects: dict[str, list[Json]]) -> None:
    """Shapes that the API server would not store, and that the rest copes with."""
    for one in [*objects["networkpolicies"], *objects["applicationnetworkpolicies"]]:
        spec = one["spec"]
        for side in ("ingress", "egress"):
            rules = spec.get(side)
            if rules and rng.random() < 0.3:
                rules[0] = rng.choice(
                    (None, {}, {"from": None, "to": None, "ports": None}, {"from": [None], "to": [None]})
                )
            elif rng.random() < 0.1:
                spec[side] = None
        for field in ("podSelector", "policyTypes"):
            if rng.random() < 0.15:
                spec[field] = (
                    rng.choice((None, {}, {"matchLabels": None, "matchExpressions": None})) if field[1] == "o" else None
                )
        if rng.random() < 0.1:
            one["spec"] = None
        elif rng.random() < 0.2:
            broken = [
                {"ipBlock": {}},
                {"ipBlock": {"cidr": "x", "except": ["y"]}},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": None}},
            ]
            spec["ingress"] = [{"from": broken}]
    for one in objects["pods"]:
        if rng.random() < 0.1:
            one["metadata"]["labels"] = None
        if rng.random() < 0.1:
            one["spec"]["containers"] = None
    objects["namespaces"] = objects["namespaces"][: rng.randint(1, len(objects["namespaces"]))]


@settings(max_examples=150)
@given(st.integers(0, 1 << 32), st.booleans())
def test_of_any_cluster_only_what_is_true_is_said(seed: int, wild: bool) -> None:
    rng = random.Random(seed)
    objects = random_cluster(rng, pods=7, policies=6, tiers=rng.random() < 0.5)
    mistyped(rng, objects)
    if wild:
        mangled(rng, objects)
    world = World(snapshot(**objects)) if wild else resolved(snapshot(**objects))
    for question in questions(rng, objects):
        try:
            legs = make_plan(question, question.pod.partition("/")[0], world).legs
        except UsageError:
            continue
        for leg in legs:
            _check(world, leg)


def _check(world: World, leg: Leg) -> None:
    found = near_misses(leg.ends, leg.backends, world)
    assert len(found) <= 3
    assert all(one.code in CODES and one.text.isprintable() for one in found)
    assert [one.closeness for one in found] == sorted(one.closeness for one in found)
    case = Case(leg.ends, leg.backends, world)
    trial = Trial(case)
    said_ = {one.text for one in found}
    for one in candidates(case):
        holds = True
        for proof in one.proofs:
            whole = tried(case, proof).decision
            # The few objects that are tried decide as the whole cluster does.
            assert trial.verdict(proof).decision is whole, one
            holds = holds and whole is proof.decision
        assert holds or one.miss.text not in said_, one


def test_the_check_would_notice_a_false_claim() -> None:
    world, asked = CASES["another value"][2]
    leg = leg_of(world, asked)
    case = Case(leg.ends, leg.backends, world)
    assert not Trial(case).holds(Proof())
    assert tried(case, Proof()).decision is Decision.DENY


# ---- DNS

NAMED_DNS = {**spaces(kubernetes__io="x"), "namespaceSelector": match(**{"kubernetes.io/metadata.name": "kube-system"})}
TO_DNS = {**NAMED_DNS, **pods(**{"k8s-app": "kube-dns"})}
DNS_PORTS = [port(53, "UDP"), port(53, "TCP")]


def dns(world: World, who: Json = CLIENT) -> list[tuple[str, bool | None]]:
    return [(one.text, one.allowed) for one in dns_of(who, world)]


def dns_cluster(*policies: Json, **objects: Any) -> World:
    return cluster(*policies, **{"pods": [KUBE_DNS], "services": [DNS], **objects})


def test_dns_of_a_pod_that_may_ask() -> None:
    assert dns(dns_cluster(egress(TO_DNS, ports=DNS_PORTS))) == [
        ("pods ask kube-dns at 172.20.0.10: 53/UDP and 53/TCP are allowed", True),
        ("pod coredns-1 behind kube-dns answers at 10.0.3.1: 53/UDP and 53/TCP are allowed", True),
    ]


def test_dns_of_a_pod_that_may_not() -> None:
    answers = dns_of(CLIENT, dns_cluster(egress(pods(app="web"))))
    assert [(one.text, one.address, one.allowed) for one in answers] == [
        ("pods ask kube-dns at 172.20.0.10: 53/UDP and 53/TCP are denied", "172.20.0.10", False),
        ("pod coredns-1 behind kube-dns answers at 10.0.3.1: 53/UDP and 53/TCP are denied", "10.0.3.1", False),
    ]
    assert all(one.why.startswith("INTENT: allow-out isolates default/client for egress") for one in answers)


def test_dns_over_udp_only_is_not_all() -> None:
    (first, _) = dns(dns_cluster(egress(TO_DNS, ports=DNS_PORTS[:1])))
    assert first == ("pods ask kube-dns at 172.20.0.10: 53/UDP is allowed, 53/TCP is denied", False)


def test_dns_by_pod_addresses_does_not_reach_the_cluster_ip() -> None:
    answers = dns_of(CLIENT, dns_cluster(egress(block("10.0.0.0/8"))))
    assert [one.allowed for one in answers] == [False, True]
    assert answers[0].why.startswith("ENDPOINTS: ")


def test_dns_by_the_yaml_alone_where_no_endpoints_were_read() -> None:
    world = dns_cluster(egress(block("10.0.0.0/8")))
    unread = {**world.snapshot.collections, "policyendpoints": Collection(reason="forbidden")}
    answers = dns_of(CLIENT, World(replace(world.snapshot, collections=unread)))
    assert [one.allowed for one in answers] == [True, True]


def test_dns_of_the_node_itself() -> None:
    """EKS Auto Mode: no pods answer, and the ClusterIP is what pods ask."""
    auto = labelled(node(), eks__x="")
    auto["metadata"]["labels"] = {"eks.amazonaws.com/compute-type": "auto"}
    for allowed, text in ((TO_DNS, "allowed"), (pods(app="web"), "denied")):
        world = cluster(egress(allowed, ports=DNS_PORTS), services=[DNS], nodes=[auto, NODE_B])
        assert dns(world) == [
            (
                "pods ask kube-dns at 172.20.0.10, where the node itself answers (EKS Auto Mode): 53/UDP and 53/TCP "
                "are "
                f"{text}",
                text == "allowed",
            )
        ]


def test_dns_of_the_node_itself_by_the_yaml_alone() -> None:
    """A rule for the pods that other clusters have brings the ClusterIP."""
    for allowed, expected in ((TO_DNS, True), (pods(app="web"), False)):
        world = cluster(egress(allowed, ports=DNS_PORTS), services=[DNS])
        unread = {**world.snapshot.collections, "policyendpoints": Collection(reason="forbidden")}
        assert [one.allowed for one in dns_of(CLIENT, World(replace(world.snapshot, collections=unread)))] == [expected]


def test_dns_on_each_node() -> None:
    world = dns_cluster(egress(TO_DNS), pods=[KUBE_DNS, NODE_LOCAL])
    assert dns(world)[-1] == ("NodeLocal DNSCache answers at 169.254.20.10: 53/UDP and 53/TCP are denied", False)
    world = dns_cluster(egress(TO_DNS, block("169.254.20.10/32")), pods=[KUBE_DNS, NODE_LOCAL])
    assert dns(world)[-1][1] is True


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("kube-dns", {}, True),
        ("cluster-dns", {"k8s-app": "kube-dns"}, True),
        ("cluster-dns", {"kubernetes.io/name": "CoreDNS"}, True),
        ("cluster-dns", {"k8s-app": "other"}, False),
    ],
)
def test_the_service_that_answers_dns(name: str, labels: dict[str, str], expected: bool) -> None:
    found = service(name, "172.20.0.10", namespace="kube-system", ports=[service_port(53, 53, "UDP")])
    found["metadata"]["labels"] = labels
    assert bool(dns_of(CLIENT, cluster(services=[found]))) is expected
    elsewhere = {**found, "metadata": {**found["metadata"], "namespace": "default"}}
    assert dns_of(CLIENT, cluster(services=[elsewhere])) == ()


def test_dns_that_could_not_be_read_is_not_known() -> None:
    world = dns_cluster()
    for kind, expected in (("services", [None]), ("networkpolicies", [None, None])):
        unread = {**world.snapshot.collections, kind: Collection(world.snapshot.items(kind), "forbidden")}
        unread["policyendpoints"] = Collection(reason="forbidden")
        assert [one.allowed for one in dns_of(CLIENT, World(replace(world.snapshot, collections=unread)))] == expected


def test_dns_is_asked_in_the_pods_own_family() -> None:
    six = pod("six", "2001:db8::6")
    assert dns_of(six, dns_cluster(pods=[KUBE_DNS, six])) == ()


# ---- the house


def test_every_code_is_documented_with_an_example() -> None:
    page = (ROOT / "docs/near-misses.md").read_text()
    rows = {code: cells for code, *cells in re.findall(r"^\| `([A-Z_]+)` \| (\d[^|]*) \| (.+) \| (.+) \|$", page, re.M)}
    assert {code: meaning for code, (_, meaning, _) in rows.items()} == CODES
    tested = {(code, text) for code, text, *_ in CASES.values()}
    by_hand = {"PEER_NO_ADDRESS", "SERVICE_WITHOUT_PODS"}
    untested = {code for code, (*_, example) in rows.items() if (code, example) not in tested}
    assert untested == by_hand


def test_the_room_keeps_to_the_house_rules() -> None:
    """As tests/unit/test_imports.py holds for the modules beside it."""
    for path in (ROOT / "kubectl_netpol/policy/nearmiss").glob("*.py"):
        for found in ast.walk(ast.parse(path.read_text())):
            if isinstance(found, ast.ImportFrom) and str(found.module).startswith("kubectl_netpol."):
                assert str(found.module).split(".")[1] in ("policy", "model", "kernel", "errors"), path.name
            assert not (isinstance(found, ast.Name) and found.id in ("print", "open", "input")), path.name


def test_a_near_miss_is_what_the_lead_asked_for() -> None:
    one = NearMiss("LABEL_TYPO", "text", 0)
    assert (one.code, one.text, one.closeness) == ("LABEL_TYPO", "text", 0)
