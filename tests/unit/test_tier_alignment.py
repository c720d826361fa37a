"""Cluster policy rules, ClusterPolicyEndpoints and cp maps on one line each."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from kubectl_netpol.diagnose.alignment import Status
from kubectl_netpol.diagnose.tier_alignment import HeldTiers, align_tiers
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import LpmTable
from kubectl_netpol.model.snapshot import Collection
from tests.unit.builders import NGINX, NODE_IP, cp_view, endpoint, entry, match, meta, pe_port, pod, world

CLIENT = pod("client", "10.0.1.9", labels={"role": "client"})
ANY_DENY, TCP_DENY, TCP_ACCEPT = (254, 50, 0, 0), (6, 50, 80, 0), (6, 51, 80, 0)
"""Words of priority 5: 5*10 + 0 Deny, 1 Accept."""
PREFIX = "10.0.1.9/32"


def cluster_policy(action="Deny", ports=(), **peer):
    peer = peer or {"pods": {"namespaceSelector": {}, "podSelector": match(role="client")}}
    rule = {"action": action, "from": [peer], "ports": list(ports)}
    spec = {"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, "ingress": [rule]}
    return {"metadata": meta("guard"), "spec": spec}


def cluster_endpoint(*entries, pods=(NGINX,), tier="Admin"):
    made = endpoint("guard", namespace="", pods=pods, ingress=list(entries))
    made["spec"] |= {"tier": tier, "priority": 5}
    return made


DENY_CLIENT = {**entry("10.0.1.9"), "action": "Deny"}
TCP = {"portNumber": {"protocol": "TCP", "port": 80}}
DENY_80 = {**entry("10.0.1.9", pe_port(80)), "action": "Deny"}


def table(entries) -> LpmTable:
    found = cp_view(entries).lpm
    assert found is not None
    return found


def rows(policies, endpoints, entries, *, intent=True, **held):
    found = policies if intent else Collection(reason="not asked for")
    made = world(pods=[NGINX, CLIENT], clusternetworkpolicies=found, clusterpolicyendpoints=endpoints)
    return align_tiers(NGINX, Direction.INGRESS, made, HeldTiers(None if entries is None else table(entries), **held))


@pytest.mark.parametrize(
    ("policies", "endpoints", "entries", "status"),
    [
        ([cluster_policy()], [cluster_endpoint(DENY_CLIENT)], {PREFIX: [ANY_DENY]}, Status.OK),
        ([cluster_policy()], [], {}, Status.NOT_RESOLVED),
        ([], [cluster_endpoint(DENY_CLIENT)], {PREFIX: [ANY_DENY]}, Status.STALE),
        ([cluster_policy(ports=[TCP])], [cluster_endpoint(DENY_CLIENT)], {PREFIX: [ANY_DENY]}, Status.PORTS_DIFFER),
        ([cluster_policy("Accept")], [cluster_endpoint(DENY_CLIENT)], {PREFIX: [ANY_DENY]}, Status.PORTS_DIFFER),
        ([cluster_policy()], [cluster_endpoint(DENY_CLIENT)], {}, Status.NOT_IN_MAP),
        ([cluster_policy()], [cluster_endpoint(DENY_CLIENT)], {PREFIX: [(254, 51, 0, 0)]}, Status.PORTS_DIFFER),
        ([cluster_policy(ports=[TCP])], [cluster_endpoint(DENY_80)], {PREFIX: [TCP_DENY, TCP_DENY]}, Status.OK),
        ([], [], {PREFIX: [ANY_DENY]}, Status.UNWANTED),
        ([], [], {f"{NODE_IP}/32": [(254, 1, 0, 0)]}, Status.NODE),
        ([], [], {f"{NODE_IP}/32": [(254, 0, 0, 0)]}, Status.UNWANTED),
        ([], [], {PREFIX: [(254, 1, 0, 0)]}, Status.UNWANTED),
        ([cluster_policy()], [cluster_endpoint(DENY_CLIENT)], None, Status.UNKNOWN),
    ],
    ids=[
        "equal", "not resolved", "stale", "other ports", "other action", "not in map", "other word in map",
        "the same twice", "nobody asked", "own node", "own node denied", "as if it were the own node", "map unread",
    ],
)  # fmt: skip
def test_status(policies, endpoints, entries, status):
    assert [row.status for row in rows(policies, endpoints, entries)] == [status]


OWN_PASSES, OWN_DENIED = {f"{NODE_IP}/32": [(254, 1, 0, 0)]}, {f"{NODE_IP}/32": [(254, 50, 0, 0)]}


@pytest.mark.parametrize(
    ("entries", "status", "note"),
    [
        ({}, Status.OK, "the agent skips rules for the own node"),
        (OWN_PASSES, Status.NODE, "agents after 1.4.2 skip rules for the own node, and let it pass"),
        (OWN_DENIED, Status.UNWANTED, "no cluster policy of this pod asks for this entry"),
    ],
)
def test_a_rule_for_the_own_node(entries, status, note):
    [row] = rows([], [cluster_endpoint({**entry(NODE_IP), "action": "Deny"})], entries, intent=False)
    assert (row.status, row.note) == (status, note)


def test_no_cluster_policy_no_rows():
    assert rows([], [], {}) == ()


def test_the_columns():
    [row] = rows([cluster_policy(ports=[TCP])], [cluster_endpoint(DENY_80)], {PREFIX: [TCP_DENY]})
    assert (row.policy, row.path) == ("guard (Admin 5)", "spec.ingress[0].from[0]")
    assert (row.intent, row.resolved, row.kernel) == ("Deny 80/TCP", "Deny 80/TCP", "admin 5 Deny 80/TCP")
    assert (row.prefix, row.who) == (ip_network(PREFIX), "pod default/client")


@pytest.mark.parametrize(
    ("held", "status"),
    [
        ({"attached": False}, Status.NOT_ENFORCED),
        ({"exists": False}, Status.NOT_ENFORCED),
        ({"complete": False}, Status.UNKNOWN),
        ({"elsewhere": True}, Status.UNKNOWN),
        ({"asked": False}, Status.OK),
    ],
)
def test_what_keeps_a_missing_entry_from_being_a_fault(held, status):
    [row] = rows([cluster_policy()], [cluster_endpoint(DENY_CLIENT)], {}, **held)
    assert row.status is status


def test_the_other_family_is_skipped():
    networks = cluster_policy(networks=["fd00::/64"])
    [row] = rows([networks], [cluster_endpoint({**entry("fd00::/64"), "action": "Deny"})], {})
    assert row.status is Status.OTHER_FAMILY


def test_inherited_rules_are_named():
    wide = {**entry("10.0.0.0/16"), "action": "Deny"}
    both = cluster_policy(networks=["10.0.0.0/16", PREFIX])
    found = rows([both], [cluster_endpoint(wide, DENY_80)], {"10.0.0.0/16": [ANY_DENY], PREFIX: [ANY_DENY, TCP_DENY]})
    narrow = next(row for row in found if str(row.prefix) == PREFIX)
    assert (narrow.status, narrow.note) == (
        Status.PORTS_DIFFER,
        "YAML and ClusterPolicyEndpoint differ in actions or ports",
    )
    every = {**entry("10.0.1.9"), "action": "Deny"}
    found = rows([both], [cluster_endpoint(wide, every)], {"10.0.0.0/16": [ANY_DENY], PREFIX: [ANY_DENY]})
    assert {row.note for row in found} == {"", "also the rules of 10.0.0.0/16"}


def test_more_than_24_rules_for_one_prefix():
    ports = [{"portNumber": {"protocol": "TCP", "port": number}} for number in range(1, 31)]
    resolved = {**entry("10.0.1.9", *(pe_port(number) for number in range(1, 31))), "action": "Deny"}
    slots = [(6, 50, number, 0) for number in range(1, 25)]
    [row] = rows([cluster_policy(ports=ports)], [cluster_endpoint(resolved)], {PREFIX: slots})
    assert (row.status, row.note) == (Status.CUT_OFF, "30 rules meet here and 24 fit: 6 are lost")


def test_unread_endpoints_are_unknown():
    made = world(
        pods=[NGINX, CLIENT],
        clusternetworkpolicies=[cluster_policy()],
        clusterpolicyendpoints=Collection(reason="forbidden"),
    )
    [row] = align_tiers(NGINX, Direction.INGRESS, made, HeldTiers(table({})))
    assert (row.status, row.note) == (Status.UNKNOWN, "not read: clusterpolicyendpoints: forbidden")


def test_rows_are_in_the_order_in_which_tiers_are_asked():
    def named(name, tier, priority):
        made = cluster_policy()
        return {"metadata": meta(name), "spec": {**made["spec"], "tier": tier, "priority": priority}}

    policies = [named("base", "Baseline", 0), named("late", "Admin", 9), named("early", "Admin", 2)]
    assert [row.policy for row in rows(policies, [], {})] == ["early (Admin 2)", "late (Admin 9)", "base (Baseline 0)"]


def test_the_reason_of_an_unread_map_is_told():
    [row] = rows([cluster_policy()], [cluster_endpoint(DENY_CLIENT)], None, unread="time ran out")
    assert row.note == "the attached map was not read: time ran out"
