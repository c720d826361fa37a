"""YAML, PolicyEndpoint and map side by side."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.diagnose import alignment
from kubectl_netpol.diagnose.alignment import Held, Status
from kubectl_netpol.model.flow import Direction, host_network
from kubectl_netpol.model.snapshot import Collection
from kubectl_netpol.policy import agent, agent_newer
from tests.random_cluster import random_blocks
from tests.unit.builders import (
    ACCESS_ENDPOINT,
    ACCESS_FALSE,
    ACCESS_MAP,
    ACCESS_NGINX,
    ACCESS_TRUE,
    ANY,
    DENY,
    NGINX,
    NODE_IP,
    TCP80,
    container_port,
    endpoint,
    entry,
    match,
    namespace,
    node,
    np_view,
    pe_port,
    pod,
    policy,
    service,
    world,
)

TRUE, FALSE = "10.0.1.218/32", "10.0.96.116/32"


def align(table, direction=Direction.INGRESS, held=None, **objects):
    """``table``: prefix -> slots of the attached map, None where it was not read; ``held``: more of ``Held``."""
    found = {
        "pods": [NGINX, ACCESS_TRUE, ACCESS_FALSE],
        "networkpolicies": [ACCESS_NGINX],
        "policyendpoints": [ACCESS_ENDPOINT],
        **objects,
    }
    lpm = None if table is None else np_view(table).lpm
    return alignment.align(NGINX, direction, world(**found), Held(lpm, **(held or {})))


def statuses(*arguments, **more) -> dict[str, Status]:
    return {str(row.prefix): row.status for row in align(*arguments, **more).rows}


def rule(*peers, **more):
    return policy("access-nginx", selects={"app": "nginx"}, ingress=[{"from": list(peers), **more}])


BLOCK = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]}}
MANY = [pe_port(number) for number in range(1, 31)]
OWN = f"{NODE_IP}/32"

CASES = {
    "as-it-should-be": (Status.OK, TRUE, ACCESS_MAP, {}),
    "own-node": (Status.NODE, OWN, ACCESS_MAP, {}),
    "catch-all": (
        Status.CATCH_ALL,
        "0.0.0.0/0",
        {"0.0.0.0/0": [ANY], OWN: [ANY]},
        {"direction": Direction.EGRESS},
    ),
    "except": (
        Status.EXCEPT,
        "10.9.0.0/16",
        {"10.0.0.0/8": [ANY], "10.9.0.0/16": [DENY], OWN: [ANY]},
        {
            "networkpolicies": [rule(BLOCK)],
            "policyendpoints": [
                endpoint("access-nginx", pods=[NGINX], ingress=[entry("10.0.0.0/8", excepts=["10.9.0.0/16"])])
            ],
        },
    ),
    "not-resolved": (
        Status.NOT_RESOLVED,
        TRUE,
        {OWN: [ANY]},
        {"policyendpoints": [endpoint("access-nginx", pods=[NGINX])]},
    ),
    "stale": (
        Status.STALE,
        FALSE,
        {**ACCESS_MAP, FALSE: [ANY]},
        {
            "policyendpoints": [
                endpoint("access-nginx", pods=[NGINX], ingress=[entry("10.0.1.218"), entry("10.0.96.116")])
            ]
        },
    ),
    "not-in-map": (Status.NOT_IN_MAP, TRUE, {OWN: [ANY]}, {}),
    "catch-all-not-in-map": (Status.NOT_IN_MAP, "0.0.0.0/0", {OWN: [ANY]}, {"direction": Direction.EGRESS}),
    "own-node-not-in-map": (Status.NOT_IN_MAP, OWN, {TRUE: [ANY]}, {}),
    "unwanted": (Status.UNWANTED, FALSE, {**ACCESS_MAP, FALSE: [ANY]}, {}),
    "yaml-and-endpoint-ports-differ": (
        Status.PORTS_DIFFER,
        TRUE,
        ACCESS_MAP,
        {"networkpolicies": [rule({"podSelector": match(access="true")}, ports=[{"port": 80}])]},
    ),
    "map-ports-differ": (Status.PORTS_DIFFER, TRUE, {**ACCESS_MAP, TRUE: [TCP80]}, {}),
    "own-node-narrowed": (Status.PORTS_DIFFER, OWN, {**ACCESS_MAP, OWN: [TCP80]}, {}),
    "cut-off": (
        Status.CUT_OFF,
        TRUE,
        {**ACCESS_MAP, TRUE: [(6, number, 0) for number in range(3, 27)]},
        {
            "networkpolicies": [rule({"podSelector": match(access="true")}, ports=[{"port": n} for n in range(1, 31)])],
            "policyendpoints": [endpoint("access-nginx", pods=[NGINX], ingress=[entry("10.0.1.218", *MANY)])],
        },
    ),
    "other-family": (
        Status.OTHER_FAMILY,
        "::/0",
        {"0.0.0.0/0": [ANY], OWN: [ANY]},
        {
            "networkpolicies": [rule()],
            "policyendpoints": [endpoint("access-nginx", pods=[NGINX], ingress=[entry("0.0.0.0/0"), entry("::/0")])],
        },
    ),
    "left-over": (
        Status.IDLE,
        TRUE,
        ACCESS_MAP,
        {"held": {"idle": True}, "networkpolicies": [], "policyendpoints": []},
    ),
    "nothing-attached": (Status.NOT_ENFORCED, TRUE, None, {"held": {"attached": False}}),
    "slots-not-looked-at": (
        Status.CUT_OFF,
        TRUE,
        {**ACCESS_MAP, TRUE: [(6, number, 0) for number in range(1, 9)]},
        {
            "held": {"slots": 4},
            "networkpolicies": [rule({"podSelector": match(access="true")}, ports=[{"port": n} for n in range(1, 9)])],
            "policyendpoints": [endpoint("access-nginx", pods=[NGINX], ingress=[entry("10.0.1.218", *MANY[:8])])],
        },
    ),
    "agent-of-other-rules": (Status.UNKNOWN, TRUE, {**ACCESS_MAP, TRUE: [TCP80]}, {"held": {"exact": False}}),
    "map-unread": (Status.UNKNOWN, TRUE, None, {}),
    "map-read-in-part": (Status.UNKNOWN, TRUE, {OWN: [ANY]}, {"held": {"complete": False}}),
    "endpoints-unread": (
        Status.UNKNOWN,
        TRUE,
        ACCESS_MAP,
        {"policyendpoints": Collection(reason="forbidden")},
    ),
    "endpoints-unread-map-entry": (
        Status.UNKNOWN,
        FALSE,
        {**ACCESS_MAP, FALSE: [ANY]},
        {"policyendpoints": Collection(reason="forbidden")},
    ),
    "policies-unread": (Status.OK, TRUE, ACCESS_MAP, {"networkpolicies": Collection(reason="forbidden")}),
}


@pytest.mark.parametrize("name", CASES)
def test_status(name):
    expected, prefix, table, more = CASES[name]
    assert statuses(table, **more)[prefix] is expected


def test_every_status_is_reached():
    assert {case[0] for case in CASES.values()} == set(Status)


def test_the_article_is_all_good():
    found = align(ACCESS_MAP)
    assert all(row.status.good for row in found.rows)
    assert (found.policies, found.reason, found.skipped) == (("access-nginx",), "", ())
    first = found.rows[0]
    assert (first.who, first.policy, first.path) == (
        "pod default/accesstrue",
        "access-nginx",
        "spec.ingress[0].from[0]",
    )
    assert (first.selects, first.intent, first.resolved, first.kernel) == (
        "pods access=true",
        "all ports",
        "all ports",
        "all ports",
    )
    assert first.endpoint == "access-nginx-abcde spec.ingress[0]"
    assert found.rows[-1].who == "node node-a"


def test_what_could_not_be_read_is_said():
    found = align(ACCESS_MAP, services=Collection(reason="no"), policyendpoints=Collection(reason="forbidden"))
    assert found.reason == "services: no; policyendpoints: forbidden"


def test_inherited_ports_are_right_and_explained():
    rules = [
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 80}]},
        {"from": [{"podSelector": match(access="true")}], "ports": [{"port": 443}]},
    ]
    made = policy("access-nginx", selects={"app": "nginx"}, ingress=rules)
    slices = [
        endpoint(
            "access-nginx", pods=[NGINX], ingress=[entry("10.0.0.0/8", pe_port(80)), entry("10.0.1.218", pe_port(443))]
        )
    ]
    table = {"10.0.0.0/8": [TCP80], TRUE: [(6, 443, 0), TCP80], OWN: [ANY]}
    found = align(table, networkpolicies=[made], policyendpoints=slices)
    row = next(row for row in found.rows if str(row.prefix) == TRUE)
    assert (row.status, row.note) == (Status.OK, "also the ports of 10.0.0.0/8")


# ---- maps as agents after 1.4.2 write them

WIDE = {"ipBlock": {"cidr": "0.0.0.0/0"}}
DNS = (17, 53, 0)


def with_rules(*rules):
    """Policies and PolicyEndpoints of (peer, ports of the YAML)."""
    made = [{"from": [peer], **({"ports": list(ports)} if ports else {})} for peer, ports in rules]
    elements = [
        entry(
            peer["ipBlock"]["cidr"],
            *(pe_port(one["port"], protocol=one.get("protocol", "TCP")) for one in ports),
            excepts=peer["ipBlock"].get("except", ()),
        )
        for peer, ports in rules
    ]
    return {
        "networkpolicies": [policy("access-nginx", selects={"app": "nginx"}, ingress=made)],
        "policyendpoints": [endpoint("access-nginx", pods=[NGINX], ingress=elements)],
    }


EXCEPTED = with_rules((BLOCK, ()), (WIDE, [{"port": 53, "protocol": "UDP"}]))
HALF = {"0.0.0.0/0": [DNS], "10.0.0.0/8": [ANY, DNS], OWN: [ANY]}
ALL_AND_MANY = with_rules((WIDE, ()), ({"ipBlock": {"cidr": "10.0.0.0/8"}}, [{"port": n} for n in range(1, 31)]))
CUT = with_rules((BLOCK, ()), (WIDE, [{"port": n} for n in range(1, 31)]))
FIRST_24 = [(6, port, 0) for port in range(1, 25)]
NEWER = {
    # map, objects, prefix, status, note
    "an except with the ports of another rule": (
        {**HALF, "10.0.0.0/8": [ANY], "10.9.0.0/16": [DNS]},
        EXCEPTED,
        "10.9.0.0/16",
        Status.EXCEPT,
        "an except of an ipBlock: also the ports of 0.0.0.0/0, as agents after 1.4.2 write it",
    ),
    "all ports swallow the others": (
        {**HALF, "10.0.0.0/8": [ANY], "10.9.0.0/16": [DNS]},
        EXCEPTED,
        "10.0.0.0/8",
        Status.OK,
        "also the ports of 0.0.0.0/0, as agents after 1.4.2 write it",
    ),
    "the same as before": (HALF | {"10.9.0.0/16": [DENY]}, EXCEPTED, "0.0.0.0/0", Status.OK, ""),
    "an except as agents up to 1.4.2 write it": (
        HALF | {"10.9.0.0/16": [DENY]},
        EXCEPTED,
        "10.9.0.0/16",
        Status.EXCEPT,
        "an except of an ipBlock: denied, also for other rules",
    ),
    "an except as nobody writes it": (
        HALF | {"10.9.0.0/16": [TCP80]},
        EXCEPTED,
        "10.9.0.0/16",
        Status.PORTS_DIFFER,
        "the map should allow deny (except)",
    ),
    "an except that is not there": (HALF, EXCEPTED, "10.9.0.0/16", Status.NOT_IN_MAP, None),
    "more than fit, but all ports are among them": (
        {"0.0.0.0/0": [ANY], "10.0.0.0/8": [ANY], OWN: [ANY]},
        ALL_AND_MANY,
        "10.0.0.0/8",
        Status.OK,
        "also the ports of 0.0.0.0/0, as agents after 1.4.2 write it",
    ),
    "more in an except than fit": (
        {"0.0.0.0/0": FIRST_24, "10.0.0.0/8": [ANY], "10.9.0.0/16": FIRST_24, OWN: [ANY]},
        CUT,
        "10.9.0.0/16",
        Status.CUT_OFF,
        "30 port rules meet here, 6 are lost, as agents after 1.4.2 write it",
    ),
    "others of more in an except than fit": (
        {"0.0.0.0/0": FIRST_24, "10.0.0.0/8": [ANY], "10.9.0.0/16": [*FIRST_24[1:], (6, 25, 0)], OWN: [ANY]},
        CUT,
        "10.9.0.0/16",
        Status.PORTS_DIFFER,
        None,
    ),
}


@pytest.mark.parametrize(("table", "objects", "prefix", "status", "note"), NEWER.values(), ids=NEWER)
def test_maps_as_agents_after_1_4_2_write_them(table, objects, prefix, status, note):
    [row] = [row for row in align(table, **objects).rows if str(row.prefix) == prefix]
    assert row.status is status
    assert note is None or row.note == note


def test_an_except_of_a_rule_that_is_passed_over_may_be_there_or_not():
    """Up to 1.4.2 agents write it."""
    peer = {"ipBlock": {"cidr": f"{NODE_IP}/24", "except": [f"{NODE_IP}/25"]}}
    me = pod("nginx-f8d9c6576-8b4vf", "10.0.4.5", labels={"app": "nginx"}, host_ip="10.0.0.0")
    objects = {**with_rules((peer, ())), "pods": [me]}
    made = world(**objects, nodes=[node("node-a", "10.0.0.0")])
    own = {"10.0.0.0/32": [ANY]}
    notes = {
        "no entry, as agents after 1.4.2 write it": own,
        "denied, also for other rules": own | {"10.0.0.0/25": [DENY]},
    }
    for note, table in notes.items():
        rows = alignment.align(me, Direction.INGRESS, made, Held(np_view(table).lpm)).rows
        [row] = [row for row in rows if str(row.prefix) == "10.0.0.0/25"]
        assert (row.status, row.note) == (Status.EXCEPT, f"an except of an ipBlock: {note}")


@pytest.mark.parametrize("held", [{"exact": False}, {"slots": 8}], ids=["before 1.2.4", "1.0.x"])
def test_programs_of_old_agents_are_of_no_newer_one(held):
    found = statuses({**HALF, "10.9.0.0/16": [DNS]}, held=held, **EXCEPTED)
    assert found["10.9.0.0/16"] in (Status.UNKNOWN, Status.PORTS_DIFFER)


WRONG = {Status.PORTS_DIFFER, Status.NOT_IN_MAP, Status.UNWANTED}


@given(seed=st.integers(0, 2**32))
def test_no_row_of_a_map_of_either_release_is_wrong(seed):
    """Of random PolicyEndpoints; with one entry more, or less, a row is."""
    rng, family = random.Random(seed), 4 if seed % 2 else 6
    me = NGINX if family == 4 else pod("nginx-f8d9c6576-8b4vf", "2001:db8:f::1", host_ip="2001:db8:f::2")
    slices = [endpoint("access-nginx", pods=[me], ingress=random_blocks(rng, family, many=True))]
    made = world(pods=[me], policyendpoints=slices, networkpolicies=Collection(reason="not asked for"))
    own = ip_address(me["status"]["hostIP"])
    for program in (agent.program, agent_newer.program):
        written = program(slices, Direction.INGRESS, own, family)
        table = {str(prefix): rng.sample(sorted(one.slots), min(len(one.slots), 24)) for prefix, one in written.items()}
        found = alignment.align(me, Direction.INGRESS, made, Held(np_view(table, family).lpm))
        assert not WRONG & {row.status for row in found.rows}, found.rows
        lost = rng.choice([one for one in table if one != str(host_network(own))])
        without = {prefix: slots for prefix, slots in table.items() if prefix != lost}
        rows = alignment.align(me, Direction.INGRESS, made, Held(np_view(without, family).lpm)).rows
        known = [str(one) for one in agent_newer.program(slices, Direction.INGRESS, own, family)]
        assert (Status.NOT_IN_MAP in {row.status for row in rows}) is (lost in known)


def test_named_ports_of_several_selected_pods_are_no_difference():
    """The controller gives every selected pod the union of what their port names mean."""
    one = pod("nginx-f8d9c6576-8b4vf", "10.0.4.5", labels={"app": "nginx"}, ports=[container_port(80, "http")])
    two = pod("nginx-f8d9c6576-x", "10.0.4.6", labels={"app": "nginx"}, ports=[container_port(8080, "http")])
    made = rule({"podSelector": match(access="true")}, ports=[{"port": "http"}])
    slices = [endpoint("access-nginx", pods=[one, two], ingress=[entry("10.0.1.218", pe_port(80), pe_port(8080))])]
    table = {TRUE: [TCP80, (6, 8080, 0)], OWN: [ANY]}
    more = {"pods": [one, two, ACCESS_TRUE], "networkpolicies": [made], "policyendpoints": slices}
    assert statuses(table, **more)[TRUE] is Status.OK


def test_the_family_of_an_empty_map_is_that_of_the_pod():
    six = pod("six-1", "fd00::6", host_ip="fd00::1", labels={"app": "nginx"})
    made = policy("p", ingress=[{"from": [{"ipBlock": {"cidr": "fd00::/64"}}]}])
    slices = [endpoint("p", pods=[six], ingress=[entry("fd00::/64")])]
    found = alignment.align(
        six,
        Direction.INGRESS,
        world(pods=[six], networkpolicies=[made], policyendpoints=slices),
        Held(np_view({}, family=6).lpm),
    )
    assert {str(row.prefix): row.status for row in found.rows} == {
        "fd00::/64": Status.NOT_IN_MAP,
        "fd00::1/128": Status.NOT_IN_MAP,
    }


def test_one_line_for_each_rule_that_means_the_same_peer():
    made = rule({"podSelector": match(access="true")}, {"podSelector": {}})
    slices = [
        endpoint("access-nginx", pods=[NGINX], ingress=[entry(ip) for ip in ("10.0.1.218", "10.0.96.116", "10.0.4.5")])
    ]
    table = {TRUE: [ANY], FALSE: [ANY], "10.0.4.5/32": [ANY], OWN: [ANY]}
    found = align(table, networkpolicies=[made], policyendpoints=slices)
    assert [row.path[-7:] for row in found.rows if str(row.prefix) == TRUE] == ["from[0]", "from[1]"]
    assert all(row.status.good for row in found.rows)


def test_peers_that_select_nobody_are_kept():
    found = align(ACCESS_MAP, networkpolicies=[rule({"podSelector": match(access="yes")})])
    assert [(s.path, s.reason) for s in found.skipped] == [("spec.ingress[0].from[0]", "no running pod matches")]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("0.0.0.0/0", "anybody"),
        ("::/0", "anybody"),
        ("10.0.0.0/8", "cidr"),
        ("2001:db8::/32", "cidr"),
        ("10.0.1.218/32", "pod default/accesstrue"),
        ("10.0.0.9/32", "node node-b"),
        ("10.100.0.1/32", "service default/web"),
        ("192.0.2.1/32", "unknown address"),
    ],
)
def test_who(prefix, expected):
    found = world(
        pods=[ACCESS_TRUE],
        nodes=[node("node-b", "10.0.0.9")],
        services=[service("web", "10.100.0.1")],
        namespaces=[namespace("default")],
    )
    assert alignment.who(ip_network(prefix), found) == expected
