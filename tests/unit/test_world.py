"""The API objects of a Snapshot: who is meant by which policy, who has which address."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.model.snapshot import Collection
from kubectl_netpol.policy import selectors
from kubectl_netpol.policy import world as worlds
from kubectl_netpol.policy.world import World, kind_of, labels_of, name_of, namespace_of, subject_selectors
from tests.random_cluster import random_cluster
from tests.unit.builders import NODE_IP, match, namespace, node, pod, policy, service, snapshot, world
from tests.unit.policy_builders import cnp, pods

WEB = {"app": "web"}
ME = pod("web-1", "10.0.1.1", labels=WEB)
HOST = pod("edge", NODE_IP, labels=WEB, host_network=True)
FAR = pod("web-1", "10.0.2.1", namespace="team-b", labels=WEB)
NAMESPACES = [namespace("default", {"team": "a"}), namespace("team-b", {"team": "b"})]


def names(found) -> list[str]:
    return [name_of(one) for one in found]


# ---- which policies select a pod


def test_policies_of_the_namespace_whose_selector_means_the_pod():
    found = world(
        networkpolicies=[
            policy("b", selects=WEB),
            policy("all"),
            policy("other", selects={"app": "db"}),
            policy("far", namespace="team-b"),
        ],
        applicationnetworkpolicies=[
            policy("app", selects=WEB),
            policy("a-far", namespace="team-b"),
            policy("no", selects={"x": "y"}),
        ],
    )
    assert names(found.policies_selecting(ME)) == ["b", "all", "app"]
    assert [kind_of(one) for one in found.policies_selecting(ME)] == [
        "NetworkPolicy",
        "NetworkPolicy",
        "ApplicationNetworkPolicy",
    ]
    assert names(found.policies_selecting(FAR)) == ["far", "a-far"]
    assert found.policies_selecting(HOST) == []
    assert names(found.policies_selecting(pod("bare"))) == ["all"]


def test_policies_without_a_spec_mean_all_pods():
    bare = {"metadata": {"name": "bare", "namespace": "default"}}
    assert names(world(networkpolicies=[bare, {**bare, "spec": None}]).policies_selecting(ME)) == ["bare", "bare"]


SUBJECTS = {
    "all namespaces": ({"namespaces": {}}, ["web-1", "far"]),
    "namespaces": ({"namespaces": match(team="b")}, ["far"]),
    "by the label that the API server sets": (
        {"namespaces": match(**{"kubernetes.io/metadata.name": "default"})},
        ["web-1"],
    ),
    "pods": (pods({"app": "web"}), ["web-1"]),
    "pods of namespaces": (pods({"app": "web"}, {"team": "b"}), []),
    "pods without selectors": ({"pods": {}}, ["web-1", "far"]),
    "nothing": ({}, []),
    "null": (None, []),
}


@pytest.mark.parametrize(("subject", "expected"), SUBJECTS.values(), ids=SUBJECTS)
def test_cluster_policies_whose_subject_means_a_pod(subject, expected):
    far = pod("far", "10.0.2.2", namespace="team-b", labels={"app": "db"})
    made = cnp()
    made["spec"]["subject"] = subject
    found = world(namespaces=NAMESPACES, clusternetworkpolicies=[made])
    assert [name_of(one) for one in (ME, far) if found.cluster_policies_selecting(one)] == expected
    assert found.cluster_policies_selecting(HOST) == []


def test_cluster_policies_have_their_kind_and_order():
    found = world(namespaces=NAMESPACES, clusternetworkpolicies=[cnp("b"), cnp("a"), cnp("no", subject={})])
    assert names(found.cluster_policies_selecting(ME)) == ["b", "a"]
    assert {kind_of(one) for one in found.cluster_policies_selecting(ME)} == {"ClusterNetworkPolicy"}
    assert found.cluster_policies_selecting(ME)[0] is found.cluster_policies[0]


@given(st.integers(0, 2**32))
def test_indexes_find_what_a_look_at_everything_would(seed):
    cluster = random_cluster(random.Random(seed))
    found = World(snapshot(**cluster))
    for one in cluster["pods"]:
        assert found.policies_selecting(one) == _policies_by_looking(found, one)
        assert found.cluster_policies_selecting(one) == _cluster_by_looking(found, one)


def _policies_by_looking(found, one):
    if worlds.on_host_network(one):
        return []
    every = (*found.policies_of.get(namespace_of(one), ()), *found.application_policies_of.get(namespace_of(one), ()))
    return [made for made in every if selectors.matches(made["spec"].get("podSelector") or {}, labels_of(one))]


def _cluster_by_looking(found, one):
    if worlds.on_host_network(one):
        return []
    chosen = []
    for made in found.cluster_policies:
        where, who = subject_selectors(made)
        here = found.namespaces.get(namespace_of(one), {})
        if selectors.matches(where, here) and selectors.matches(who, labels_of(one)):
            chosen.append(made)
    return chosen


# ---- whom selectors mean


def test_pods_of_a_namespace_by_selector():
    found = world(pods=[ME, FAR, pod("db", "10.0.1.2", labels={"app": "db"}), pod("done", labels=WEB, phase="Failed")])
    assert names(found.pods_matching("default", {"matchLabels": WEB})) == ["web-1", "done"]
    assert names(found.pods_matching("default", {})) == ["web-1", "db", "done"]
    assert found.pods_matching("nowhere", {}) == ()


def test_namespaces_by_selector():
    found = world(namespaces=NAMESPACES)
    assert found.namespaces_matching(match(team="b")) == ("team-b",)
    assert found.namespaces_matching({}) == ("default", "team-b")
    assert found.namespaces_matching(match(**{"kubernetes.io/metadata.name": "team-b"})) == ("team-b",)


def test_services_by_their_own_selector():
    bare, web = service("bare", "10.100.0.1"), service("web", "10.100.0.2", selector={"app": "web", "tier": "fe"})
    found = world(services=[bare, web, service("far", "10.100.0.3", namespace="team-b", selector=WEB)])
    assert names(found.services_selecting("default", {"matchLabels": WEB})) == ["web"]
    assert names(found.services_selecting("default", {})) == ["bare", "web"]
    assert names(found.services_selecting("default", match(app="web", tier="be"))) == []
    assert names(found.services_selecting("team-b", {"matchLabels": WEB})) == ["far"]


# ---- addresses

IPS = {
    "podIP first": (
        {"podIP": "10.0.1.1", "podIPs": [{"ip": "2001:db8::1"}, {"ip": "10.0.1.1"}]},
        ["10.0.1.1", "2001:db8::1"],
    ),
    "podIPs alone": ({"podIPs": [{"ip": "10.0.1.1"}]}, ["10.0.1.1"]),
    "none": ({}, []),
    "no addresses": ({"podIP": "", "podIPs": [{"ip": "x"}, {}]}, []),
}


@pytest.mark.parametrize(("status", "expected"), IPS.values(), ids=IPS)
def test_addresses_of_a_pod(status, expected):
    one = {**ME, "status": status}
    assert [str(address) for address in worlds.pod_ips(one)] == expected
    assert worlds.pod_ip(one) == (ip_address(expected[0]) if expected else None)


def test_who_has_an_address():
    """Finished pods give their addresses back, and those of the host network have their node's."""
    done = pod("done", "10.0.1.1", labels=WEB, phase="Succeeded")
    gone = pod("gone", "10.0.1.9", phase="Failed")
    for listed in ([done, ME], [ME, done]):
        found = world(pods=[*listed, HOST, gone], services=[service("web", "10.100.0.1")])
        assert found.who(ip_address("10.0.1.1")) == "pod default/web-1"
        assert found.who(ip_address("10.0.1.9")) == "pod default/gone"
        assert found.who(ip_address(NODE_IP)) == "node node-a"
        assert found.who(ip_address("10.100.0.1")) == "service default/web"
        assert found.who(ip_address("192.0.2.1")) == ""


CLUSTER_IPS = {
    "one": ({"clusterIP": "10.100.0.1"}, ["10.100.0.1"]),
    "two": ({"clusterIP": "10.100.0.1", "clusterIPs": ["10.100.0.1", "fd00::1"]}, ["10.100.0.1", "fd00::1"]),
    "headless": ({"clusterIP": "None", "clusterIPs": ["None"]}, []),
    "ExternalName": ({"type": "ExternalName", "clusterIP": ""}, []),
}


@pytest.mark.parametrize(("spec", "expected"), CLUSTER_IPS.values(), ids=CLUSTER_IPS)
def test_cluster_ips(spec, expected):
    assert [str(address) for address in worlds.cluster_ips({"spec": spec})] == expected


OWN_NODE = {
    "hostIP": (ME, 4, NODE_IP),
    "hostIP before the node's": (pod("x", "10.0.1.1", host_ip="10.0.0.7"), 4, "10.0.0.7"),
    "hostIP of the other family: the node's": (pod("x", "2001:db8::1"), 6, "2001:db8:f::1"),
    "no hostIP: the node's": (pod("x", "10.0.1.1", host_ip=""), 4, NODE_IP),
    "no hostIP and an unknown node": (pod("x", "10.0.1.1", host_ip="", node="gone"), 4, None),
    "the node has no such address": (pod("x", "2001:db8::1", node="node-b"), 6, None),
}


@pytest.mark.parametrize(("one", "version", "expected"), OWN_NODE.values(), ids=OWN_NODE)
def test_the_own_nodes_address(one, version, expected):
    found = world(nodes=[node("node-a", NODE_IP, "2001:db8:f::1"), node("node-b", "10.0.0.2")])
    assert found.own_node_address(one, version) == (ip_address(expected) if expected else None)


def test_addresses_of_a_node_are_its_internal_ones():
    made = node("node-a", NODE_IP)
    made["status"]["addresses"] += [
        {"type": "ExternalIP", "address": "192.0.2.1"},
        {"type": "Hostname", "address": "node-a"},
        {"type": "InternalIP", "address": "no address"},
        {"type": "InternalIP", "address": "2001:db8::1"},
    ]
    assert [str(address) for address in worlds.node_addresses(made)] == [NODE_IP, "2001:db8::1"]
    assert world(nodes=[made]).who(ip_address("192.0.2.1")) == ""


def test_what_could_not_be_read():
    found = world(
        pods=Collection(reason="forbidden"), services=Collection(absent=True), nodes=Collection(reason="gone")
    )
    assert found.unread("namespaces", "services") == ""
    assert found.unread("pods", "services", "nodes") == "pods: forbidden; nodes: gone"
