"""PolicyEndpoints as the controller would write them."""

from __future__ import annotations

import pytest

from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.snapshot import Collection
from kubectl_netpol.policy import controller, endpoints, modelled
from tests.unit.builders import container_port, endpoint, match, namespace, pod, policy, service, service_port, world
from tests.unit.policy_builders import cluster_endpoint, cnp, number, rule, to, with_policy

WEB = {"app": "web"}
ME = pod("web-1", "10.0.1.1", labels=WEB, ports=[container_port(8080, "http")])
FRESH = pod("web-2", labels=WEB, phase="Pending", host_ip="10.0.0.2")
FRESH["metadata"]["annotations"] = {"vpc.amazonaws.com/pod-ips": "10.0.1.2"}
CLIENT = pod("client", "10.0.1.3", labels={"app": "client"})
FAR = pod("web-1", "10.0.2.1", namespace="team-b", labels=WEB)
V6 = pod("six", "2001:db8::6", labels={"app": "six"})
CLUSTER = {
    "pods": [ME, FRESH, CLIENT, FAR, V6],
    "namespaces": [namespace("default"), namespace("team-b", {"team": "b"})],
    "services": [service("web", "10.100.0.1", selector=WEB, ports=[service_port(80, 8080)])],
}
RULE = {"from": [{"podSelector": match(app="client")}], "ports": [{"port": 80}, {"port": 8000, "endPort": 8010}]}


def made(kind, one, **objects):
    cluster, known = with_policy(kind, one, **{**CLUSTER, **objects})
    return modelled.endpoint_of(controller.resolution(known, cluster))


def test_the_whole_policy_endpoint():
    """Field by field as in agent facts 6.1."""
    found = made("NetworkPolicy", policy("np", selects=WEB, ingress=[RULE], egress=[{}]))
    assert found == {
        "metadata": {"name": "np-modelled", "namespace": "default"},
        "spec": {
            "policyRef": {"name": "np", "namespace": "default"},
            "podIsolation": ["Ingress", "Egress"],
            "podSelectorEndpoints": [
                {"name": "web-1", "namespace": "default", "podIP": "10.0.1.1", "hostIP": "10.0.0.1"},
                {"name": "web-2", "namespace": "default", "podIP": "10.0.1.2", "hostIP": "10.0.0.2"},
            ],
            "ingress": [
                {
                    "cidr": "10.0.1.3",
                    "ports": [{"protocol": "TCP", "port": 80}, {"protocol": "TCP", "port": 8000, "endPort": 8010}],
                }
            ],
            "egress": [{"cidr": "0.0.0.0/0"}, {"cidr": "::/0"}],
        },
    }


def test_the_whole_cluster_policy_endpoint():
    one = cnp(
        "guard",
        tier="Baseline",
        priority=7,
        subject={"namespaces": match(team="b")},
        ingress=[rule("Deny", {"namespaces": {}}, ports=[number(80)])],
        egress=[to("Pass", {"domainNames": ["example.com"]}, ports=[number(443)])],
    )
    found = made("ClusterNetworkPolicy", one, pods=[FAR, CLIENT])
    spec = found["spec"]
    assert found["metadata"]["name"] == "guard-modelled"
    assert spec["policyRef"]["name"] == "guard"
    assert (spec["tier"], spec["priority"]) == ("Baseline", 7)
    assert [p["podIP"] for p in spec["podSelectorEndpoints"]] == ["10.0.2.1"]
    assert spec["ingress"] == [
        {"cidr": ip, "action": "Deny", "ports": [{"protocol": "TCP", "port": 80}]} for ip in ("10.0.1.3", "10.0.2.1")
    ]
    assert spec["egress"] == [
        {"domainName": "example.com", "action": "Pass", "ports": [{"protocol": "TCP", "port": 443}]}
    ]


def test_domain_names_of_an_application_policy_have_no_action():
    one = policy("app", egress=[{"to": [{"domainNames": ["example.com"]}]}])
    assert made("ApplicationNetworkPolicy", one)["spec"]["egress"] == [{"domainName": "example.com", "ports": []}]


ELEMENTS = {
    "a host has no length": ({"podSelector": match(app="client")}, {"cidr": "10.0.1.3"}),
    "an IPv6 host neither": ({"podSelector": match(app="six")}, {"cidr": "2001:db8::6"}),
    "a block of one address": ({"ipBlock": {"cidr": "192.0.2.1/32"}}, {"cidr": "192.0.2.1"}),
    "a block": ({"ipBlock": {"cidr": "192.0.2.0/24"}}, {"cidr": "192.0.2.0/24"}),
    "with excepts": (
        {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.9/32", "192.0.2.0/28"]}},
        {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/28", "192.0.2.9/32"]},
    ),
}


@pytest.mark.parametrize(("peer", "element"), ELEMENTS.values(), ids=ELEMENTS)
def test_how_elements_are_written(peer, element):
    assert made("NetworkPolicy", policy("np", ingress=[{"from": [peer]}]))["spec"]["ingress"] == [element]


def test_a_policy_that_selects_nobody_has_an_endpoint_all_the_same():
    """6.2: always at least one."""
    found = made("NetworkPolicy", policy("np", selects={"app": "gone"}))
    assert found["spec"]["podSelectorEndpoints"] == found["spec"]["ingress"] == found["spec"]["egress"] == []
    assert found["spec"]["podIsolation"] == ["Ingress"]


def test_a_cluster_policy_without_tier_and_priority():
    one = cnp()
    del one["spec"]["tier"], one["spec"]["priority"]
    spec = made("ClusterNetworkPolicy", one)["spec"]
    assert (spec["tier"], spec["priority"]) == ("Admin", 0)


def names(found) -> list[str]:
    return [one["metadata"]["name"] for one in found]


def test_the_modelled_world_has_the_policies_of_one_namespace_and_of_the_cluster():
    cluster = world(
        **CLUSTER,
        networkpolicies=[policy("np", selects=WEB), policy("far", namespace="team-b")],
        applicationnetworkpolicies=[policy("app", selects=WEB), policy("far", namespace="team-b")],
        clusternetworkpolicies=[cnp("guard")],
        policyendpoints=[endpoint("old", pods=[ME])],
        clusterpolicyendpoints=[cluster_endpoint("old", pods=[ME])],
    )
    found = modelled.modelled(cluster, "default")
    assert names(found.snapshot.items("policyendpoints")) == ["np-modelled", "app-modelled"]
    assert names(found.snapshot.items("clusterpolicyendpoints")) == ["guard-modelled"]
    assert names(endpoints.of_pod(found, ME)) == ["np-modelled", "app-modelled"]
    assert names(endpoints.cluster_of_pod(found, ME)) == ["guard-modelled"]
    assert names(endpoints.of_pod(cluster, ME)) == ["old-abcde"]
    assert found.snapshot.items("pods") == cluster.snapshot.items("pods")


def test_a_namespace_without_policies():
    found = modelled.modelled(world(**CLUSTER), "nowhere")
    assert found.snapshot.items("policyendpoints") == ()


def test_endpoints_take_the_place_of_what_could_not_be_read():
    unread = world(policyendpoints=Collection(reason="forbidden"), clusterpolicyendpoints=Collection(absent=True))
    found = modelled.with_endpoints(unread.snapshot, [endpoint("a")], [cluster_endpoint("b")])
    assert not found.unread("policyendpoints", "clusterpolicyendpoints")
    assert names(found.snapshot.items("policyendpoints")) == ["a-abcde"]
    assert names(found.snapshot.items("clusterpolicyendpoints")) == ["b-abcde"]


def test_what_is_written_reads_back_as_what_was_meant():
    """For each kind of port: none, all of a protocol, one, a range."""
    ports = [{"protocol": "UDP"}, {"port": 80}, {"port": 90, "endPort": 99, "protocol": "SCTP"}]
    one = policy("np", ingress=[{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": ports}])
    [entry] = endpoints.entries([made("NetworkPolicy", one)], Direction.INGRESS)
    assert {port.text for port in entry.ports} == {"all UDP ports", "80/TCP", "90-99/SCTP"}
