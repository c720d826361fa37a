"""The maps that the agent should have written, and what the datapath would decide by them."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from kubectl_netpol.diagnose import deviations, expected
from kubectl_netpol.kernel import verdict as kernel_verdict
from kubectl_netpol.kernel.layouts import DEFAULT_ALLOW, DEFAULT_DENY
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import LpmTable, MapView
from kubectl_netpol.model.verdict import Decision, Layer
from kubectl_netpol.policy import agent, agent_newer, endpoints
from kubectl_netpol.policy.networkpolicy import Ends
from tests.random_cluster import random_blocks
from tests.unit.builders import (
    ANY,
    DENY,
    NODE_IP,
    TCP80,
    cp_view,
    endpoint,
    entry,
    flow,
    node,
    np_view,
    pe_port,
    pod,
    state_view,
    world,
)
from tests.unit.policy_builders import acts, cluster_endpoint

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
ME = pod("web-1", "10.0.1.1")
TWIN = pod("web-2", "10.0.1.2", node="node-b", host_ip="10.0.0.2")
PEER = "10.0.2.1"
HTTP, DNS = pe_port(80), pe_port(53, protocol="UDP")


def maps(slices=(), cluster=(), me=ME, direction=INGRESS, **objects):
    found = world(policyendpoints=list(slices), clusterpolicyendpoints=list(cluster), **objects)
    return expected.expected_maps(me, direction, found)


def judge(slices=(), cluster=(), peer=PEER, port=80, protocol=6, like=None, default=DEFAULT_ALLOW, **more):
    found = maps(slices, cluster, **more)
    me = more.get("me", ME)["status"]["podIP"]
    ends = (peer, me) if found.direction is INGRESS else (me, peer)
    return expected.verdict(found, flow(*ends, port, protocol), like or {}, default)


def slice_(*rules, **more):
    return endpoint(pods=[ME], ingress=list(rules), **more)


def admin(*elements, name="guard", **more):
    return cluster_endpoint(name, pods=[ME], ingress=list(elements), **more)


# ---- which maps


def contents(found) -> dict[str, set]:
    return {str(e.prefix): set(map(tuple, e.slots)) for e in found.table.entries}


def test_the_maps_are_those_of_the_identifier():
    """Of all pods that share it, wherever they run; each pod with its own node's address (agent facts 4.3)."""
    slices = [endpoint("a", pods=[TWIN], ingress=[entry("10.0.2.1", HTTP)])]
    assert contents(maps(slices)) == {f"{NODE_IP}/32": {ANY}, "10.0.2.1/32": {TCP80}}
    assert contents(maps(slices, me=TWIN)) == {"10.0.0.2/32": {ANY}, "10.0.2.1/32": {TCP80}}
    assert maps(slices).listed


def test_nothing_is_expected_of_pods_that_nobody_lists():
    found = maps([endpoint("a", pods=[pod("db-0", "10.0.1.9")])])
    assert (contents(found), found.listed, found.states) == ({}, False, {0: None, 1: DEFAULT_ALLOW})


def test_cluster_policies_alone():
    found = maps([], [admin(acts("Deny", "10.0.0.0/8", HTTP))])
    assert found.listed
    assert contents(found) == {}
    assert [(str(e.prefix), e.slots) for e in found.tier_table.entries] == [("10.0.0.0/8", ((6, 100, 80, 0),))]
    assert found.states == {0: None, 1: 0}


def test_the_family_is_the_pods():
    six = pod("web-1", "2001:db8::1", host_ip="2001:db8:ffff::1")
    slices = [endpoint("a", pods=[six], ingress=[entry("2001:db8::2"), entry("10.0.2.1")])]
    found = maps(slices, [admin(acts("Deny", "2001:db8::/64"))], me=six)
    assert found.family == 6
    assert contents(found) == {"2001:db8:ffff::1/128": {ANY}, "2001:db8::2/128": {ANY}}
    assert [str(e.prefix) for e in found.tier_table.entries] == ["2001:db8::/64"]


def test_the_directions_are_apart():
    slices = [endpoint("a", pods=[ME], ingress=[entry("10.0.2.1")], egress=[entry("10.0.3.1")])]
    assert set(contents(maps(slices, direction=EGRESS))) == {f"{NODE_IP}/32", "10.0.3.1/32"}


OWN = {
    "a rule for the own node": [entry(NODE_IP, HTTP), entry("10.0.2.1")],
    "a block that begins there": [entry(f"{NODE_IP}/32", HTTP), entry("10.0.0.0/24", DNS)],
    "a block that holds it": [entry("10.0.0.0/8", HTTP), entry("10.0.2.1")],
    "an except that is it": [entry("10.0.0.0/8", HTTP, excepts=[f"{NODE_IP}/32"])],
    "host bits that are it": [entry(f"{NODE_IP}/8", HTTP), entry("10.0.0.0/8", DNS)],
    "without anything": [],
}


def test_a_block_with_host_bits_that_begins_at_the_own_node():
    """Its text is another address; masked, as agents since 1.4.2 do, it is the node's, and passed over."""
    me = pod("web-1", "10.0.1.200", host_ip="10.0.1.128")
    slices = [endpoint("a", pods=[me], ingress=[entry("10.0.1.131/25", HTTP)])]
    assert contents(maps(slices, me=me)) == {"10.0.1.128/32": {ANY}}


def test_a_pod_without_an_address_is_taken_for_ipv4():
    fresh = pod("web-1", phase="Pending")
    assert contents(maps([endpoint("a", pods=[ME], isolation=())], me=fresh)) == {
        f"{NODE_IP}/32": {ANY},
        "0.0.0.0/0": {ANY},
    }


@pytest.mark.parametrize("rules", OWN.values(), ids=OWN)
def test_pods_on_several_nodes_with_the_same_slices(rules):
    """What they share is worked out once, and must be what each would get for itself."""
    slices = [endpoint("a", pods=[ME, TWIN], ingress=rules)]
    for pair in ((ME, TWIN), (TWIN, ME)):
        found = world(policyendpoints=slices, nodes=[node(), node("node-b", "10.0.0.2")])
        for me in pair:
            alone = agent.program(slices, INGRESS, ip_address(me["status"]["hostIP"]), 4)
            got = expected.expected_maps(me, INGRESS, found).rules
            assert {str(p): (e.slots, e.origin, e.others) for p, e in got.items()} == {
                str(p): (e.slots, e.origin, e.others) for p, e in alone.items()
            }


def test_shared_rule_maps_do_not_grow_without_end():
    pods = [pod(f"p{number}", f"10.0.3.{number}") for number in range(expected.KEPT + 9)]
    slices = [
        endpoint(f"a{number}", pods=[one], ingress=[entry(f"10.0.4.{number}")]) for number, one in enumerate(pods)
    ]
    found = world(policyendpoints=slices)
    for turn in range(2):
        for number, one in enumerate(pods):
            assert f"10.0.4.{number}/32" in contents(expected.expected_maps(one, INGRESS, found)), turn
    assert len(found.rule_maps) <= expected.KEPT


# ---- as maps of a program


def test_without_a_program_the_maps_are_those_of_the_newest_agent():
    views = expected.as_views(maps([slice_(entry("10.0.2.1"))], [admin(acts("Deny", "10.0.0.0/8"))]), {})
    sizes = {role: (v.type, v.key_size, v.value_size, v.max_entries, v.family) for role, v in views.items()}
    assert sizes == {
        "np": (11, 8, 288, 65536, 4),
        "cp": (11, 8, 384, 65536, 4),
        "pod_state": (1, 4, 1, 2, 4),
        "conntrack": (9, 24, 16, 524288, 4),
    }
    assert {view.id for view in views.values()} == {0}
    assert views["pod_state"].states == {0: 0, 1: 0}
    assert views["conntrack"].conntrack == ()
    six = pod("web-1", "2001:db8::1")
    views = expected.as_views(maps([endpoint("a", pods=[six])], me=six), {})
    assert {role: v.key_size for role, v in views.items()} == {"np": 20, "cp": 20, "pod_state": 4, "conntrack": 60}


def conntrack(value=1, key=24):
    return MapView(14, "conntrack", "test", 9, key, value, 1024, conntrack=(), family=4)


NEWEST = {"np": np_view({}), "cp": cp_view({}), "pod_state": state_view(), "conntrack": conntrack(16)}
BEFORE_TIERS = {
    "np": np_view({}),
    "pod_state": MapView(13, "pod_state", "test", 1, 4, 1, 1, states={0: 0}),
    "conntrack": conntrack(1, 20),
}


def test_the_maps_take_over_the_shape_of_a_program():
    views = expected.as_views(maps([slice_()]), {**NEWEST, "conntrack": conntrack(1)})
    assert (views["conntrack"].value_size, views["conntrack"].max_entries) == (1, 1024)
    old = expected.as_views(maps([slice_()]), BEFORE_TIERS)
    assert set(old) == {"np", "pod_state", "conntrack"}
    assert old["pod_state"].states == {0: 0}


def test_of_a_program_of_no_known_generation_they_do_not():
    views = expected.as_views(maps([slice_()]), {"np": np_view({}), "cp": cp_view({})})
    assert set(views) == {"np", "cp", "pod_state", "conntrack"}


@pytest.mark.parametrize(("default", "state"), [(DEFAULT_ALLOW, 1), (DEFAULT_DENY, 2)])
def test_the_state_of_pods_without_policies_is_the_default_of_the_mode(default, state):
    found = maps([], [admin(acts("Deny", "10.0.0.0/8"))])
    assert expected.as_views(found, {}, default=default)["pod_state"].states == {0: state, 1: 0}


# ---- verdicts

ALLOWED = entry("10.0.2.1", HTTP)
DECIDED = {
    "an entry allows": ([slice_(ALLOWED)], [], "ENTRY_ALLOWS"),
    "no entry": ([slice_(entry("10.0.3.1"))], [], "NO_ENTRY"),
    "another port": ([slice_(entry("10.0.2.1", DNS))], [], "PORT_NOT_ALLOWED"),
    "5.2 default deny": ([slice_()], [], "NO_ENTRY"),
    "5.2 catch-all": ([slice_(isolation=())], [], "ENTRY_ALLOWS"),
    "5.2 the other family only": ([slice_(entry("2001:db8::/32"), isolation=())], [], "NO_ENTRY"),
    "5.3 an except of another policy": (
        [slice_(entry("10.0.0.0/8", excepts=["10.0.2.0/24"])), slice_(entry("10.0.0.0/8"), suffix="2")],
        [],
        "EXCEPT",
    ),
    "5.3 the longest prefix alone": (
        [slice_(entry("10.0.0.0/8", HTTP, excepts=["10.0.2.0/24"]), entry("10.0.2.1", DNS))],
        [],
        "PORT_NOT_ALLOWED",
    ),
    "5.3 inherited": ([slice_(entry("10.0.0.0/8", HTTP), entry("10.0.2.1", DNS))], [], "ENTRY_ALLOWS"),
    "3.4 Admin Deny before all": ([slice_(ALLOWED)], [admin(acts("Deny", "10.0.0.0/8"))], "ADMIN_DENY"),
    "3.4 Admin Accept": ([slice_()], [admin(acts("Accept", "10.0.0.0/8"))], "ADMIN_ACCEPT"),
    "3.4 Admin Pass": ([slice_()], [admin(acts("Pass", "10.0.0.0/8"))], "NO_ENTRY"),
    "3.4 one priority: Deny first": (
        [],
        [admin(acts("Accept", "10.0.0.0/8"), acts("Deny", "10.0.0.0/8"))],
        "ADMIN_DENY",
    ),
    "3.4 the longest prefix alone, with what it copies": (
        [],
        [admin(acts("Deny", "10.0.0.0/8"), priority=1), admin(acts("Accept", "10.0.2.1"), priority=2, name="b")],
        "ADMIN_DENY",
    ),
    "3.4 Baseline": ([], [admin(acts("Deny", "10.0.0.0/8"), tier="Baseline")], "BASELINE_DENY"),
    "3.4 Baseline is dead where a policy applies": (
        [slice_(isolation=("Egress",))],
        [admin(acts("Deny", "10.0.0.0/8"), tier="Baseline")],
        "ENTRY_ALLOWS",
    ),
    "3.4 the default": ([], [admin(acts("Deny", "10.9.0.0/16"))], "DEFAULT_ALLOW"),
}


@pytest.mark.parametrize(("slices", "cluster", "code"), DECIDED.values(), ids=DECIDED)
def test_verdicts(slices, cluster, code):
    assert judge(slices, cluster).code == code
    written = expected.as_views(maps(slices, cluster), NEWEST)
    assert judge(slices, cluster, like=written).code == code


def test_the_default_of_the_mode():
    found = judge([], [admin(acts("Deny", "10.9.0.0/16"))], default=DEFAULT_DENY)
    assert (found.decision, found.code) == (Decision.DENY, "DEFAULT_DENY")


def test_the_own_node():
    assert judge([slice_()], peer=NODE_IP).code == "ENTRY_ALLOWS"
    assert judge([slice_()], [admin(acts("Deny", "10.0.0.0/24"))], peer=NODE_IP).code == "ADMIN_DENY"
    assert judge([slice_()], [admin(acts("Deny", NODE_IP))], peer=NODE_IP).code == "ENTRY_ALLOWS"


def test_pods_that_nobody_lists_are_left_to_the_mode():
    found = judge()
    assert (found.decision, found.code) == (Decision.NONE, "NOT_LISTED")


def test_a_pod_talks_to_itself():
    assert judge([slice_()], peer="10.0.1.1").code == "ITSELF"


def test_established_flows_are_not_asked():
    """The question is about a new flow, whatever port the asked one comes from."""
    asked = replace(flow(PEER, "10.0.1.1"), source_port=1)
    assert expected.verdict(maps([slice_()]), asked, {}).code == "NO_ENTRY"


OLDER = {
    "1.2.x: no map tells 1.2.3 from 1.2.4": (BEFORE_TIERS, "OLDER_AGENT"),
    "1.0.5 to 1.1.6": ({"np": np_view({}), "conntrack": conntrack(1, 20)}, "OLDER_AGENT"),
    "1.3.0 and newer": ({**NEWEST, "conntrack": conntrack(1, 20)}, "NO_ENTRY"),
    "no known generation: as the newest": ({"np": np_view({})}, "NO_ENTRY"),
    "no program": ({}, "NO_ENTRY"),
}


@pytest.mark.parametrize(("like", "code"), OLDER.values(), ids=OLDER)
def test_agents_before_1_2_4_write_by_other_rules(like, code):
    found = judge([slice_()], like=like)
    assert found.code == code
    assert (found.decision is Decision.UNKNOWN) is (code == "OLDER_AGENT")


def test_an_older_agent_is_named():
    assert judge([slice_()], like=BEFORE_TIERS).why.startswith(
        "agents 1.2.0 to 1.2.7 write some entries by other rules"
    )


# ---- more port rules than fit (agent facts 5.3)


def many(count, first=1000):
    return [pe_port(port) for port in range(first, first + count)]


CUT_OFF = {
    "24 fit": ([entry(PEER, *many(23), HTTP)], Decision.ALLOW, "ENTRY_ALLOWS"),
    "25: whether the one is among them": ([entry(PEER, *many(24), HTTP)], Decision.UNKNOWN, "CUT_OFF"),
    "25, and none of them means it": ([entry(PEER, *many(25))], Decision.DENY, "PORT_NOT_ALLOWED"),
    "25, and enough of them mean it": ([entry(PEER, *many(23), pe_port(70, 90), HTTP)], Decision.ALLOW, "ENTRY_ALLOWS"),
    "26, and both of two may be lost": ([entry(PEER, *many(24), pe_port(70, 90), HTTP)], Decision.UNKNOWN, "CUT_OFF"),
    "25 with what is inherited": ([entry("10.0.0.0/8", HTTP), entry(PEER, *many(24))], Decision.UNKNOWN, "CUT_OFF"),
    "25 of another prefix": ([entry("10.0.9.9", *many(25)), entry(PEER, HTTP)], Decision.ALLOW, "ENTRY_ALLOWS"),
    "25 of a wider prefix": (
        [entry("10.0.0.0/8", *many(25), excepts=["10.0.2.0/24"]), entry(PEER, HTTP)],
        Decision.ALLOW,
        "ENTRY_ALLOWS",
    ),
}


@pytest.mark.parametrize(("rules", "decision", "code"), CUT_OFF.values(), ids=CUT_OFF)
def test_more_port_rules_than_fit(rules, decision, code):
    found = judge([slice_(*rules)])
    assert (found.decision, found.code) == (decision, code)


def test_what_is_cut_off_is_said():
    assert judge([slice_(entry(PEER, *many(24), HTTP))]).why == (
        "25 port rules meet in the entry 10.0.2.1/32 and 24 fit: which ones agents up to 1.4.2 leave out is random, "
        "and changes each time they write the entry"
    )


def rules_of(action, count, cidr="10.0.0.0/8", **more):
    """That many rules of one action, none of which means port 80."""
    return admin(acts(action, cidr, *many(count)), name=f"fill-{action}", **more)


D80, A80, P80 = (acts(action, "10.0.0.0/8", HTTP) for action in ("Deny", "Accept", "Pass"))
TIER_CUT_OFF = {
    "24 fit": ([rules_of("Deny", 23), admin(A80)], "ADMIN_ACCEPT"),
    "25: whether the Accept is among them": ([rules_of("Deny", 24), admin(A80)], "CUT_OFF"),
    "25: without the Accept it is allowed as well": ([rules_of("Deny", 24), admin(A80)], "ADMIN_ACCEPT", "allowed"),
    "25: whether the Deny is among them": ([rules_of("Accept", 24), admin(D80)], "CUT_OFF", "allowed"),
    "25: and none of them means it": ([rules_of("Deny", 25)], "NO_ENTRY"),
    "25: the same rule of two policies": (
        [rules_of("Deny", 23), admin(D80), admin(D80, name="b")],
        "ADMIN_DENY",
        "allowed",
    ),
    "26: both may be lost": ([rules_of("Deny", 24), admin(D80), admin(D80, name="b")], "CUT_OFF", "allowed"),
    "25: the first may be lost, and the second says the same": (
        [rules_of("Deny", 23), admin(D80, priority=1), admin(D80, priority=2, name="b")],
        "ADMIN_DENY",
        "allowed",
    ),
    "25: the first may be lost, and the second says otherwise": (
        [rules_of("Deny", 23), admin(D80, priority=1), admin(A80, priority=2, name="b")],
        "CUT_OFF",
        "allowed",
    ),
    "25: Pass may be lost, and makes no difference": ([rules_of("Deny", 24), admin(P80)], "NO_ENTRY"),
    "25: Baseline may be lost": ([rules_of("Deny", 24), admin(D80, tier="Baseline")], "CUT_OFF", "unlisted"),
    "25: Baseline may be lost, and is dead anyhow": ([rules_of("Deny", 24), admin(D80, tier="Baseline")], "NO_ENTRY"),
    "25: Baseline may be lost, and Admin stays": (
        [rules_of("Deny", 23), admin(P80), admin(D80, tier="Baseline", name="b")],
        "CUT_OFF",
        "unlisted",
    ),
    "25: one of three may be lost, and the second is left in any case": (
        [
            rules_of("Deny", 22),
            admin(D80, priority=1),
            admin(D80, priority=2, name="b"),
            admin(A80, priority=3, name="c"),
        ],
        "ADMIN_DENY",
        "allowed",
    ),
    "25: the same in the Baseline tier": (
        [
            rules_of("Deny", 22),
            admin(D80, priority=1, tier="Baseline"),
            admin(D80, priority=2, tier="Baseline", name="b"),
            admin(A80, priority=3, tier="Baseline", name="c"),
        ],
        "BASELINE_DENY",
        "unlisted",
    ),
    "25: one of two tiers may be lost, not both": (
        [
            rules_of("Deny", 22),
            admin(A80),
            admin(A80, priority=1, tier="Baseline", name="b"),
            admin(D80, priority=2, tier="Baseline", name="c"),
        ],
        "ADMIN_ACCEPT",
        "unlisted",
    ),
    "25: Admin may be lost, and what is left is a dead Baseline": (
        [rules_of("Deny", 23), admin(D80), admin(D80, tier="Baseline", name="b")],
        "CUT_OFF",
        "allowed",
    ),
    "25: another prefix": ([rules_of("Deny", 25, cidr="10.9.0.0/16"), admin(A80)], "ADMIN_ACCEPT"),
    "25 with what is copied": ([admin(A80), rules_of("Deny", 24, cidr="10.0.2.0/24")], "CUT_OFF"),
}


@pytest.mark.parametrize("row", TIER_CUT_OFF.values(), ids=TIER_CUT_OFF)
def test_more_cluster_rules_than_fit(row):
    """5.5: which of more than 24 stay is random there too."""
    cluster, code, *slices = row
    below = {"allowed": [slice_(ALLOWED)], "unlisted": []}.get(slices[0] if slices else "", [slice_()])
    for order in itertools.islice(itertools.permutations(cluster), 6):
        found = judge(below, list(order))
        assert found.code == code
        assert (found.decision is Decision.UNKNOWN) is (code == "CUT_OFF")


def test_what_is_cut_off_of_cluster_policies_is_said():
    assert judge([slice_()], [rules_of("Deny", 24), admin(A80)]).why == (
        "25 rules of cluster policies meet in the entry 10.0.0.0/8 and 24 fit: which ones the agent leaves out is "
        "random, and changes each time it writes the entry"
    )


# ---- host bits (agent facts 5.3)

HOST_BITS = {
    "either way it is allowed": ([entry("10.9.9.9/8", HTTP), entry("10.0.0.0/8", HTTP)], "ENTRY_ALLOWS"),
    "either way it is denied": ([entry("10.9.9.9/8", DNS), entry("10.0.0.0/8", DNS)], "PORT_NOT_ALLOWED"),
    "one text of two": ([entry("10.9.9.9/8", HTTP), entry("10.0.0.0/8", DNS)], "HOST_BITS"),
    "an except of the same key": ([entry("10.0.0.0/8", HTTP, excepts=["10.9.0.0/8"])], "HOST_BITS"),
    "one text alone": ([entry("10.9.9.9/8", HTTP)], "ENTRY_ALLOWS"),
    "another prefix": (
        [entry("10.9.9.9/8", HTTP), entry("10.0.0.0/8", DNS), entry("10.0.2.0/24", HTTP)],
        "ENTRY_ALLOWS",
    ),
}


@pytest.mark.parametrize(("rules", "code"), HOST_BITS.values(), ids=HOST_BITS)
def test_rules_of_one_prefix_with_different_host_bits(rules, code):
    found = judge([slice_(*rules)])
    assert found.code == code
    assert (found.decision is Decision.UNKNOWN) is (code == "HOST_BITS")


def test_host_bits_are_said():
    assert judge([slice_(entry("10.9.9.9/8", HTTP), entry("10.0.0.0/8", DNS))]).why == (
        "rules of one prefix are written with different host bits: which one an agent <= 1.4.1 keeps is random"
    )


# ---- agents after 1.4.2 decide otherwise

EXCEPTED = [slice_(entry("10.0.0.0/8", excepts=["10.0.2.0/24"])), slice_(entry("0.0.0.0/0", HTTP), suffix="2")]
"""Up to 1.4.2 the except denies; after it the other rule counts."""
IN_EXCEPT = "10.0.2.0/24"
OLD, NEW = {IN_EXCEPT: [DENY]}, {IN_EXCEPT: [TCP80]}
ALLOW, DROP, OPEN = (Decision.ALLOW, "ENTRY_ALLOWS"), (Decision.DENY, "EXCEPT"), (Decision.UNKNOWN, "AGENT_RELEASE")
BESIDE = {"0.0.0.0/0": [TCP80], "10.0.0.0/8": [ANY], f"{NODE_IP}/32": [ANY]}
WITH_NEWER = {
    # contents of the map, what is decided
    "as agents up to 1.4.2 write it": (np_view({**BESIDE, **OLD}), DROP),
    "as those after it do": (np_view({**BESIDE, **NEW}), ALLOW),
    "whatever stands in other entries": (np_view(NEW), ALLOW),
    "neither: other slots": (np_view({**BESIDE, IN_EXCEPT: [ANY]}), OPEN),
    "neither: not there yet": (np_view(BESIDE), OPEN),
    "neither: another entry is longer": (np_view({**NEW, "10.0.2.0/30": [TCP80]}), OPEN),
    "not read": (replace(np_view({}), lpm=None), DROP),
    "not read to its end": (np_view(NEW, complete=False), DROP),
    "only the first slots were read": (np_view(NEW, first_slot_only=True), DROP),
}


@pytest.mark.parametrize(("held", "decided"), WITH_NEWER.values(), ids=WITH_NEWER)
def test_the_entry_that_decides_says_which_release_wrote_it(held, decided):
    found = judge(EXCEPTED, like={**NEWEST, "np": held})
    assert (found.decision, found.code) == decided
    assert found.decided.get("agents") == ("after 1.4.2" if decided is ALLOW else None)
    # Where both write the same nothing else is asked for.
    assert judge(EXCEPTED, like={**NEWEST, "np": held}, peer="10.0.3.1").code == "ENTRY_ALLOWS"


def test_what_releases_make_of_it_is_said():
    where = "entry 10.0.2.0/24 of the ingress_map that the agent should write"
    older, newer = f"DROP ({where} is marked deny (an `except` of an ipBlock))", f"ALLOW ({where} allows 80/TCP)"
    assert judge(EXCEPTED, like=NEWEST).why == (
        "agents after 1.4.2 may write the entry that decides by other rules, and the map that is there does not tell: "
        f"up to 1.4.2 it should be {older}, after it {newer}"
    )
    alone = judge(EXCEPTED)
    assert (alone.decision, alone.code) == DROP
    assert alone.why == (
        f"{where} is marked deny (an `except` of an ipBlock); agents after 1.4.2 may write that otherwise, and then it "
        f"is {newer}"
    )
    for other in (judge(EXCEPTED, peer="10.0.3.1"), judge(EXCEPTED, port=81)):
        assert "after 1.4.2" not in other.why


def test_programs_of_agents_up_to_1_4_1_are_of_no_newer_one():
    found = judge(EXCEPTED, like={**NEWEST, "conntrack": conntrack(1)})
    assert (found.decision, found.code) == DROP
    assert "after 1.4.2" not in found.why


def test_an_except_of_a_rule_that_is_passed_over():
    """Up to 1.4.2 it denies; after it there is no such entry, and the wider one decides."""
    slices = [slice_(entry("2001:db8::/32", excepts=[IN_EXCEPT]), entry("10.0.0.0/8"))]
    for held, decided in ((BESIDE | OLD, DROP), ({"10.0.0.0/8": [ANY]}, ALLOW), ({"10.0.0.0/8": [TCP80]}, OPEN)):
        found = judge(slices, like={**NEWEST, "np": np_view(held)})
        assert (found.decision, found.code) == decided


TO_NODE = [admin(acts("Deny", "10.0.0.0/24"))]
OWN_ENTRY = {f"{NODE_IP}/32": [(254, 1, 0, 0)], "10.0.0.0/24": [(254, 100, 0, 0)]}


def test_the_own_node_and_cluster_policies():
    """Agents after 1.4.2 accept it before all rules (agent facts 5.5)."""
    for held, code in (({"10.0.0.0/24": [(254, 100, 0, 0)]}, "ADMIN_DENY"), (OWN_ENTRY, "ADMIN_ACCEPT")):
        assert judge([slice_()], TO_NODE, peer=NODE_IP, like={**NEWEST, "cp": cp_view(held)}).code == code
    assert judge([slice_()], TO_NODE, peer=NODE_IP, like={**NEWEST, "cp": cp_view({})}).code == "AGENT_RELEASE"
    unread = {**NEWEST, "cp": replace(cp_view({}), lpm=None)}
    for like in ({}, unread):
        found = judge([slice_()], TO_NODE, peer=NODE_IP, like=like)
        assert found.code == "ADMIN_DENY"
        assert "agents after 1.4.2 may write that otherwise" in found.why
    assert judge([slice_()], TO_NODE, peer="10.0.0.9", like=NEWEST).code == "ADMIN_DENY"


def test_that_the_own_node_passes_before_cluster_policies_has_its_reason():
    me = pod("web-1", "10.0.1.1")
    made = world(pods=[me], nodes=[node()], policyendpoints=[slice_()], clusterpolicyendpoints=TO_NODE)
    ends = Ends(me, INGRESS, flow(NODE_IP, "10.0.1.1"), None)
    found, resolved = expected.expected_maps(me, INGRESS, made), endpoints.evaluate(ends, made)
    should = expected.verdict(found, ends.flow, {**NEWEST, "cp": cp_view(OWN_ENTRY)})
    assert (resolved.decision, should.decision) == (Decision.DENY, Decision.ALLOW)
    [named] = deviations.of_agent(ends, resolved, should, found, made)
    assert named.code == "OWN_NODE"
    assert named.text == (
        "10.0.0.1 is the address of the pod's own node node-a: the agent lets it pass, and leaves out all rules for it"
    )


def test_all_ports_are_never_cut_off_by_agents_after_1_4_2():
    slices = [slice_(entry(PEER, *many(30)), entry(PEER))]
    all_fit = {f"{PEER}/32": [ANY]}
    some = {f"{PEER}/32": [ANY, *((6, port, 0) for port in range(1000, 1023))]}
    assert judge(slices).code == "CUT_OFF"
    assert judge(slices, like={**NEWEST, "np": np_view(all_fit)}).code == "ENTRY_ALLOWS"
    assert judge(slices, like={**NEWEST, "np": np_view(some)}).code == "CUT_OFF"


def test_what_agents_after_1_4_2_leave_out_is_said():
    slices = [slice_(entry("0.0.0.0/0", *many(30)), entry("10.0.0.0/8", excepts=[IN_EXCEPT]))]
    written = expected.as_views(after(maps(slices), slices), NEWEST)
    assert judge(slices, like=written, port=1023).code == "ENTRY_ALLOWS"
    found = judge(slices, like=written, port=1024)
    assert (found.decision, found.code) == (Decision.DENY, "CUT_OFF")
    assert found.why == (
        "30 port rules meet in the entry 10.0.2.0/24 and 24 fit: agents after 1.4.2 leave out 1024/TCP, 1025/TCP, "
        "1026/TCP, 1027/TCP, 1028/TCP, 1029/TCP"
    )
    assert judge(slices, like=written, port=80).code == "PORT_NOT_ALLOWED"


def after(found, slices, cluster=(), me=ME):
    """The whole maps as agents after 1.4.2 write them."""
    own = ip_address(me["status"]["hostIP"])
    return replace(
        found,
        rules=agent_newer.program(slices, INGRESS, own, found.family),
        tiers=agent_newer.program_tiers(cluster, INGRESS, own, found.family),
        make_newer=None,
    )


def by(found, asked):
    """What a program decides with these maps, where slots are not cut off."""
    return kernel_verdict.decide(Layer.EXPECTED, INGRESS, asked, expected.as_views(found, {}))


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_random_excepts(seed):
    """A map of one release gives its verdict; without one it is that up to 1.4.2, and the other is told of."""
    family = 4 if seed % 2 else 6
    me = ME if family == 4 else pod("web-1", "2001:db8:f::1", host_ip="2001:db8:f::2")
    slices = [endpoint("a", pods=[me], ingress=random_blocks(random.Random(seed), family))]
    found = maps(slices, me=me)
    later = after(found, slices, me=me)
    shape = {} if family == 6 else NEWEST
    older, newer = (expected.as_views(one, shape) for one in (found, later))
    neither = expected.as_views(found, shape, LpmTable(()))
    differing = 0
    for prefix, (protocol, port) in itertools.product(found.rules, ((6, 80), (17, 53), (1, 0))):
        asked = flow(str(prefix[-1]), me["status"]["podIP"], port, protocol)
        first, second = by(found, asked), by(later, asked)
        differs = first.decision is not second.decision
        differing += differs
        alone = expected.verdict(found, asked, {})
        assert alone.decision is first.decision
        assert ("agents after 1.4.2 may write that otherwise" in alone.why) is differs
        assert expected.verdict(found, asked, older).decision is first.decision
        assert expected.verdict(found, asked, newer).decision is second.decision
        with_neither = expected.verdict(found, asked, neither)
        if differs:
            assert (with_neither.decision, with_neither.code) == OPEN
            assert first.why in with_neither.why
            assert second.why in with_neither.why
        else:
            assert with_neither.decision is first.decision
    event(f"differing: {bool(differing)}")


def test_the_evidence_names_a_map_that_is_in_no_kernel():
    assert judge([slice_()]).why.startswith("no entry of the ingress_map that the agent should write matches 10.0.2.1")
    assert contents(maps([slice_(entry("10.0.0.0/8", excepts=["10.1.0.0/16"]))]))["10.1.0.0/16"] == {DENY}
