"""The cluster as it would be: which policies, and which PolicyEndpoints."""

from __future__ import annotations

import pytest

from kubectl_netpol.errors import NotRead, UsageError
from kubectl_netpol.model.snapshot import Collection
from kubectl_netpol.policy import endpoints
from kubectl_netpol.policy.changes import Changes, imagine
from kubectl_netpol.policy.world import APPLICATION_POLICY, CLUSTER_POLICY, NETWORK_POLICY
from tests.unit.builders import ACCESS_TRUE, NGINX, article, endpoint, entry, match, meta, namespace, policy

DENY_ALL = {**policy("deny-all", types=["Ingress"]), "kind": NETWORK_POLICY}
WIDE = {
    **policy("access-nginx", selects={"app": "nginx"}, ingress=[{"from": [{"podSelector": {}}]}]),
    "kind": NETWORK_POLICY,
}
CLUSTER = {
    "kind": CLUSTER_POLICY,
    "metadata": meta("guard"),
    "spec": {
        "tier": "Admin",
        "priority": 7,
        "subject": {"namespaces": {}},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
    },
}
APPLICATION = {
    "kind": APPLICATION_POLICY,
    "metadata": meta("guard", "default"),
    "spec": {"podSelector": match(app="nginx"), "policyTypes": ["Ingress"]},
}


def after(*applied, removed=(), **objects):
    return imagine(article(**objects), Changes(tuple(applied), tuple(removed)), "default")


def slices(world, plural="policyendpoints"):
    return [
        (one["metadata"]["name"], [e["cidr"] for e in one["spec"].get("ingress") or ()])
        for one in world.snapshot.items(plural)
    ]


def test_a_changed_policy_gets_the_endpoints_that_the_controller_would_make():
    found = after(WIDE)
    assert found.texts == ("NetworkPolicy default/access-nginx changed",)
    assert slices(found.world) == [("access-nginx-modelled", ["10.0.4.5", "10.0.1.218", "10.0.96.116"])]
    assert [p["metadata"]["name"] for p in found.world.policies_selecting(NGINX)] == ["access-nginx"]


def test_what_is_not_changed_stays_as_the_controller_left_it():
    stale = endpoint("other", pods=[NGINX], ingress=[entry("192.0.2.1")])
    found = after(DENY_ALL, policyendpoints=[stale])
    assert found.texts == ("NetworkPolicy default/deny-all added",)
    assert slices(found.world) == [("other-abcde", ["192.0.2.1"]), ("deny-all-modelled", [])]
    assert [endpoints.policy_of(e) for e in endpoints.of_pod(found.world, ACCESS_TRUE)] == ["deny-all"]


def test_a_removed_policy_takes_its_endpoints_along():
    found = after(removed=["access-nginx"])
    assert found.texts == ("without NetworkPolicy default/access-nginx",)
    assert slices(found.world) == []
    assert found.world.policies_selecting(NGINX) == []


def test_cluster_policies_go_into_their_own_collections():
    found = after(CLUSTER)
    assert found.texts == ("ClusterNetworkPolicy guard added",)
    [made] = found.world.snapshot.items("clusterpolicyendpoints")
    assert (made["spec"]["tier"], made["spec"]["priority"]) == ("Admin", 7)
    assert slices(found.world) == [("access-nginx-abcde", ["10.0.1.218"])]


def test_the_last_of_two_files_counts():
    found = after(WIDE, {**DENY_ALL, "metadata": meta("access-nginx", "default")})
    assert slices(found.world) == [("access-nginx-modelled", [])]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("anp/guard", APPLICATION_POLICY),
        ("default/anp/guard", APPLICATION_POLICY),
        ("cnp/guard", CLUSTER_POLICY),
        ("default/guard", APPLICATION_POLICY),
        ("networkpolicy/access-nginx", NETWORK_POLICY),
        ("default/netpol/access-nginx", NETWORK_POLICY),
    ],
)
def test_names_of_removed_policies(name, kind):
    objects = {"applicationnetworkpolicies": [APPLICATION], "clusternetworkpolicies": [CLUSTER]}
    assert after(removed=[name], **objects).texts[0].startswith(f"without {kind} ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("guard", "means 2 policies (ApplicationNetworkPolicy, ClusterNetworkPolicy)"),
        ("nothing", 'policy "nothing" not found in namespace "default"'),
        ("cnp/nothing", 'policy "nothing" not found'),
        ("shop/access-nginx", 'not found in namespace "shop"'),
        ("a/b/c", "is not a name"),
        ("/x", "is not a name"),
        ("pod/access-nginx", 'not found in namespace "pod"'),
    ],
)
def test_names_that_mean_nothing_or_too_much(name, message):
    objects = {"applicationnetworkpolicies": [APPLICATION], "clusternetworkpolicies": [CLUSTER]}
    with pytest.raises(UsageError) as caught:
        after(removed=[name], **objects)
    assert message in caught.value.message


def test_a_policy_for_a_namespace_that_is_not_there():
    wrong = {**DENY_ALL, "metadata": meta("deny-all", "shpo")}
    with pytest.raises(UsageError, match='deny-all: namespace "shpo" not found'):
        after(wrong, namespaces=[namespace("default"), namespace("shop")])


def test_the_namespaces_whose_policies_are_to_be_read():
    changes = Changes((DENY_ALL, CLUSTER), ("x", "shop/y", "cnp/z"))
    assert changes.namespaces("team") == ("default", "team", "shop")
    assert not Changes()


def test_policy_types_that_the_server_filled_in_stay_as_kubectl_apply_leaves_them():
    live = policy("access-nginx", selects={"app": "nginx"}, ingress=[{}], types=["Ingress"])
    file = {**policy("access-nginx", selects={"app": "nginx"}, egress=[{}]), "kind": NETWORK_POLICY}
    [made] = after(file, networkpolicies=[live]).world.policies_selecting(NGINX)
    assert made["spec"]["policyTypes"] == ["Ingress"]


def test_the_file_that_made_a_policy_changes_nothing():
    rule = {"from": [{"podSelector": match(a="b")}], "ports": [{"port": 80}]}
    live = policy("p", ingress=[{**rule, "ports": [{"port": 80, "protocol": "TCP"}]}], types=["Ingress"])
    file = {**policy("p", ingress=[rule]), "kind": NETWORK_POLICY}
    assert after(file, networkpolicies=[live]).texts == ("NetworkPolicy default/p unchanged",)
    other = {**policy("p", ingress=[{**rule, "ports": [{"port": 80, "protocol": "UDP"}]}]), "kind": NETWORK_POLICY}
    assert after(other, networkpolicies=[live]).texts == ("NetworkPolicy default/p changed",)


def test_a_policy_of_the_other_kind_with_the_same_name_keeps_its_endpoints():
    same = {**APPLICATION, "metadata": meta("access-nginx", "default")}
    found = after(removed=["anp/access-nginx"], applicationnetworkpolicies=[same])
    assert slices(found.world) == [("access-nginx-modelled", ["10.0.1.218"])]


def test_kinds_that_the_cluster_does_not_know():
    with pytest.raises(UsageError, match="this cluster does not know clusternetworkpolicies"):
        after(CLUSTER, clusternetworkpolicies=Collection(absent=True))
    found = after(DENY_ALL, policyendpoints=Collection(absent=True))
    assert found.world.snapshot.get("policyendpoints").absent


def test_policies_that_were_not_read_are_not_called_missing():
    with pytest.raises(NotRead, match="policies could not be read: networkpolicies: forbidden"):
        after(removed=["x"], networkpolicies=Collection(reason="forbidden"))


def test_nulls_and_empty_lists_say_nothing():
    live = policy("p", ingress=[{"from": []}], types=["Ingress"])
    file = {**policy("p", ingress=[{"from": None}], types=["Ingress"]), "kind": NETWORK_POLICY}
    assert after(file, networkpolicies=[live]).texts == ("NetworkPolicy default/p unchanged",)


def test_names_that_are_there_are_told_for_one_that_is_not():
    with pytest.raises(UsageError) as caught:
        after(removed=["acces-nginx"])
    assert caught.value.message.endswith("; there are access-nginx")
    with pytest.raises(UsageError) as caught:
        after(removed=["x"], networkpolicies=[policy(f"p{number}") for number in range(9)])
    assert caught.value.message.endswith("p0, p1, p2, p3, p4, p5, p6, p7 and more")
