"""What the attached program decides, against a slow second implementation of the documented steps.

The reference works on plain dicts and lists, and follows the program's steps in order without sharing any code with
``kernel.verdict``: pod states, tiers, longest prefix, slots, baseline, default.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kubectl_netpol.kernel import conntrack, verdict
from kubectl_netpol.model.flow import Direction, Flow
from kubectl_netpol.model.kernel import ClusterSlot, ConntrackEntry, Slot
from kubectl_netpol.model.verdict import Decision, Layer
from tests.unit.builders import (
    ANY,
    APPLIED,
    DEFAULT_ALLOW,
    DEFAULT_DENY,
    DENY,
    TCP80,
    cp_view,
    flow,
    np_view,
    state_view,
)

# ---- the reference


def longest(table, address):
    """The slots of the longest prefix that holds the address, 24 of them, or None."""
    best = None
    for text, slots in table.items():
        network = ip_network(text)
        bits = network.max_prefixlen
        inside = int(address) >> (bits - network.prefixlen) == int(network.network_address) >> (
            bits - network.prefixlen
        )
        if inside and (best is None or network.prefixlen > best[0]):
            best = network.prefixlen, slots
    return None if best is None else list(best[1]) + [(0,) * 4] * (24 - len(best[1]))


def reference(np_table, cp_table, np_state, cp_state, peer, protocol, port) -> bool:
    """True: the first packet of a new IPv4 flow passes."""
    if cp_state is None:
        return False
    if np_state is None:
        return False
    winner = low = None
    for slot_protocol, word, start, end in longest(cp_table, peer) or []:
        if slot_protocol == 254:
            hit = True
        elif slot_protocol == protocol:
            hit = start == 0 or port == start or (end > 0 and start <= port <= end)
        else:
            hit = False
        if not hit:
            continue
        rank = divmod(word, 10)
        if winner is None or rank < winner:
            winner = rank
        if rank[0] > 1000 and (low is None or rank < low):
            low = rank
    if winner is not None and winner[0] <= 1000:
        if winner[1] == 0:
            return False
        if winner[1] == 1:
            return True
    slots = longest(np_table, peer)
    if slots is not None:
        for slot in slots:
            slot_protocol, start, end = slot[:3]
            if slot_protocol == 255:
                return False
            if slot_protocol in (254, protocol) and (start == 0 or port == start or start < port <= end):
                return True
        return False
    if np_state == 0:
        return False
    if low is not None:
        if low[1] == 0:
            return False
        if low[1] == 1:
            return True
    return np_state == 1


# Few different values, so that flows and slots meet often; the edges of ports and ranges are all there.
PEERS = ["10.0.0.7", "10.0.0.7", "10.0.1.7", "10.0.0.0", "192.0.2.1", "255.255.255.255"]
PREFIXES = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.7/32", "10.0.1.7/32", "192.0.2.1/32"]
PORTS = [0, 1, 79, 80, 81, 90, 91, 65535]
PROTOCOLS = [6, 6, 6, 17, 254, 254, 255, 0, 1, 132]
STATES = [0, 0, 1, 1, 2, 2, None]

SLOT = st.tuples(st.sampled_from(PROTOCOLS), st.sampled_from(PORTS), st.sampled_from(PORTS))
WORD = st.builds(
    lambda priority, action: priority * 10 + action,
    st.sampled_from([0, 5, 1000, 1001, 2000, 2001, 3000]),
    st.sampled_from([0, 1, 2, 2]),
)
CP_SLOT = st.builds(lambda s, word: (s[0], word, s[1], s[2]), SLOT, WORD)


def tables(slot):
    # Sometimes full: then no unused slot matches protocol 0.
    full = st.lists(slot, min_size=1, max_size=4).map(lambda slots: (slots * 24)[:24])
    value = st.one_of(st.lists(slot, max_size=3), full)
    return st.dictionaries(st.sampled_from(PREFIXES), value, max_size=3)


@settings(max_examples=250)
@given(
    tables(SLOT),
    tables(CP_SLOT),
    st.sampled_from(STATES),
    st.sampled_from(STATES),
    st.sampled_from(PEERS),
    st.sampled_from(PROTOCOLS),
    st.sampled_from(PORTS),
    st.sampled_from(Direction),
)
@example({"0.0.0.0/0": [(6, 80, 90)]}, {}, 0, 1, "10.0.0.7", 6, 90, Direction.INGRESS)
@example({"0.0.0.0/0": [(254, 80, 0)]}, {}, 0, 1, "10.0.0.7", 17, 81, Direction.INGRESS)
@example({}, {"0.0.0.0/0": [(254, 51, 80, 0)]}, 0, 1, "10.0.0.7", 17, 81, Direction.EGRESS)
@example({}, {"0.0.0.0/0": [(6, 20012, 0, 0)]}, 1, 1, "10.0.0.7", 6, 81, Direction.EGRESS)
@example({}, {"0.0.0.0/0": [(6, 20011, 0, 0)]}, 0, 1, "10.0.0.7", 6, 81, Direction.EGRESS)
@example({}, {"0.0.0.0/0": [(6, 52, 0, 0), (6, 10001, 0, 0)]}, 2, 1, "10.0.0.7", 6, 81, Direction.EGRESS)
@example({"10.0.0.0/8": [ANY]}, {"10.0.0.7/32": [(6, 52, 0, 0)]}, 2, 0, "10.0.0.7", 6, 80, Direction.INGRESS)
def test_decisions_are_those_of_the_reference(np_table, cp_table, np_state, cp_state, peer, protocol, port, direction):
    maps = {
        "np": np_view(np_table),
        "cp": cp_view(cp_table),
        "pod_state": state_view(np_state, cp_state),
    }
    ends = (peer, "10.0.99.99") if direction is Direction.INGRESS else ("10.0.99.99", peer)
    asked = flow(*ends, port, protocol)
    found = verdict.decide(Layer.ATTACHED, direction, asked, maps)
    passes = reference(np_table, cp_table, np_state, cp_state, ip_address(peer), protocol, port)
    assert found.decision is (Decision.ALLOW if passes else Decision.DENY), found


# ---- the codes and words of single steps


def decide(np_table=None, cp_table=None, np_state=APPLIED, peer="10.0.0.7", port=80, protocol=6, **views):
    maps = {
        "np": np_view(np_table or {}),
        "cp": cp_view(cp_table or {}),
        "pod_state": state_view(np_state),
        **views,
    }
    maps = {role: view for role, view in maps.items() if view is not None}
    return verdict.decide(Layer.ATTACHED, Direction.INGRESS, flow(peer, "10.0.99.99", port, protocol), maps)


WORLD = "0.0.0.0/0"
FULL = [(6, 443, 0)] * 24


@pytest.mark.parametrize(
    ("arguments", "decision", "code"),
    [
        ({"np_table": {WORLD: [TCP80]}}, "allow", "ENTRY_ALLOWS"),
        ({"np_table": {WORLD: [TCP80]}, "port": 81}, "deny", "PORT_NOT_ALLOWED"),
        ({"np_table": {WORLD: [DENY, ANY]}}, "deny", "EXCEPT"),
        ({"np_table": {WORLD: [ANY, DENY]}}, "allow", "ENTRY_ALLOWS"),
        ({"np_table": {WORLD: [ANY], "10.0.0.7/32": [(6, 443, 0)]}}, "deny", "PORT_NOT_ALLOWED"),
        ({"np_table": {WORLD: [TCP80]}, "protocol": 0, "port": 0}, "allow", "ZERO_SLOT"),
        ({"np_table": {WORLD: FULL}, "protocol": 0, "port": 0}, "deny", "PORT_NOT_ALLOWED"),
        ({"np_table": {WORLD: [TCP80]}, "protocol": 1, "port": 0}, "deny", "PORT_NOT_ALLOWED"),
        ({"np_table": {WORLD: [ANY]}, "protocol": 1, "port": 0}, "allow", "ENTRY_ALLOWS"),
        ({}, "deny", "NO_ENTRY"),
        ({"np_state": DEFAULT_ALLOW}, "allow", "DEFAULT_ALLOW"),
        ({"np_state": DEFAULT_DENY}, "deny", "DEFAULT_DENY"),
        ({"np_state": DEFAULT_ALLOW, "np_table": {WORLD: [(6, 443, 0)]}}, "deny", "PORT_NOT_ALLOWED"),
        ({"np_table": {WORLD: [ANY]}, "cp_table": {WORLD: [(6, 50, 0, 0)]}}, "deny", "ADMIN_DENY"),
        ({"cp_table": {WORLD: [(6, 51, 0, 0), (6, 61, 0, 0)]}}, "allow", "ADMIN_ACCEPT"),
        ({"cp_table": {WORLD: [(6, 52, 0, 0), (6, 60, 0, 0)]}}, "deny", "NO_ENTRY"),
        ({"cp_table": {WORLD: [(6, 20051, 0, 0)]}, "np_state": DEFAULT_DENY}, "allow", "BASELINE_ACCEPT"),
        ({"cp_table": {WORLD: [(6, 20050, 0, 0)]}, "np_state": DEFAULT_ALLOW}, "deny", "BASELINE_DENY"),
        ({"cp_table": {WORLD: [(6, 20051, 0, 0)]}}, "deny", "NO_ENTRY"),
        ({"cp_table": {WORLD: [(254, 50, 443, 0)]}, "np_table": {WORLD: [ANY]}}, "deny", "ADMIN_DENY"),
        ({"pod_state": state_view(None, None)}, "deny", "POD_STATE_MISSING"),
        ({"pod_state": state_view(APPLIED, None)}, "deny", "POD_STATE_MISSING"),
        ({"pod_state": state_view(None, DEFAULT_ALLOW)}, "deny", "POD_STATE_MISSING"),
    ],
    ids=str,
)
def test_codes(arguments, decision, code):
    found = decide(**arguments)
    assert (found.decision.value, found.code) == (decision, code)


def unread(view):
    return type(view)(**{**vars(view), "lpm": None, "states": None, "complete": False, "reason": "EPERM"})


def partly(view):
    return type(view)(**{**vars(view), "complete": False, "reason": "the map changed"})


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"np": unread(np_view({}))}, "MAP_UNREADABLE"),
        ({"np": None}, "UNKNOWN_PROGRAM"),
        ({"cp": unread(cp_view({}))}, "MAP_UNREADABLE"),
        ({"cp": None}, "UNKNOWN_PROGRAM"),
        ({"pod_state": unread(state_view())}, "MAP_UNREADABLE"),
        ({"pod_state": None}, "UNKNOWN_PROGRAM"),
        ({"pod_state": partly(state_view(APPLIED, None))}, "MAP_UNREADABLE"),
        ({"np": partly(np_view({}))}, "MAP_UNREADABLE"),
        ({"np": partly(np_view({WORLD: [ANY]}))}, "MAP_UNREADABLE"),
        ({"cp": partly(cp_view({WORLD: [(6, 51, 0, 0)]}))}, "MAP_UNREADABLE"),
        # What was read is enough: nothing is longer than a host prefix, and an earlier step decides.
        ({"np": partly(np_view({"10.0.0.7/32": [ANY]}))}, "ENTRY_ALLOWS"),
        ({"cp": partly(cp_view({"10.0.0.7/32": [(6, 50, 0, 0)]}))}, "ADMIN_DENY"),
        ({"np": unread(np_view({})), "cp_table": {WORLD: [(6, 50, 0, 0)]}}, "ADMIN_DENY"),
    ],
)
def test_a_map_that_was_not_read_to_its_end_is_unknown_unless_decided_before(arguments, code):
    found = decide(**arguments)
    assert found.code == code
    assert (found.decision is Decision.UNKNOWN) is (code in ("MAP_UNREADABLE", "UNKNOWN_PROGRAM"))


@pytest.mark.parametrize(
    ("slots", "port", "code"),
    [([TCP80], 80, "ENTRY_ALLOWS"), ([DENY], 80, "EXCEPT"), ([TCP80], 443, "MAP_UNREADABLE")],
)
def test_a_slot_that_was_not_read_may_decide(slots, port, code):
    """aws-eks-na-cli up to 1.0.6 prints the first slot only: what it says counts, that it says nothing does not."""
    view = np_view({"10.0.0.7/32": slots}, first_slot_only=True, complete=False, reason="one slot is printed")
    found = decide(np=view, port=port)
    assert found.code == code
    assert (found.decision is Decision.UNKNOWN) is (code == "MAP_UNREADABLE")


def test_an_unreadable_map_says_why():
    assert decide(np=unread(np_view({}))).why == "ingress_map (id 11) could not be read: EPERM"


def test_the_other_family_is_never_filtered():
    found = decide(np=np_view({}, family=6))
    assert (found.decision, found.code) == (Decision.ALLOW, "OTHER_FAMILY")


def test_icmpv6_always_passes():
    maps = {"np": np_view({}, family=6), "cp": cp_view({}), "pod_state": state_view(None, None)}
    found = verdict.decide(Layer.ATTACHED, Direction.INGRESS, flow("fd00::1", "fd00::2", 0, 58), maps)
    assert (found.decision, found.code) == (Decision.ALLOW, "ICMPV6")
    tcp = verdict.decide(Layer.ATTACHED, Direction.INGRESS, flow("fd00::1", "fd00::2", 80, 6), maps)
    assert tcp.code == "POD_STATE_MISSING"


def test_the_priority_of_a_baseline_rule_is_the_one_of_its_yaml():
    found = decide(cp_table={WORLD: [(6, 20050, 0, 0)]}, np_state=DEFAULT_ALLOW)
    assert found.why == "entry 0.0.0.0/0 of cp_ingress_map (id 12): BASELINE tier, priority 5, Deny"


def test_evidence_has_the_entry_and_the_pod_state():
    found = decide({"10.0.0.0/8": [TCP80]}, port=81)
    assert found.why == (
        "the longest prefix for 10.0.0.7 in ingress_map (id 11) is 10.0.0.0/8, which allows 80/TCP, not 81/TCP"
    )
    assert found.evidence == (
        "ingress_map (id 11): 10.0.0.0/8 -> 80/TCP",
        "ingress_pod_state_map (id 13): POLICIES_APPLIED (cluster policies: DEFAULT_ALLOW)",
    )


# ---- conntrack


def entry(source="10.0.0.7", destination="10.0.99.99", port=80, protocol=6, owner="10.0.99.99", ifindex=7):
    ends = ip_address(source), 40000, ip_address(destination)
    return ConntrackEntry(*ends, port, protocol, ip_address(owner), ifindex, 5)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, True),
        ({"source": "10.0.0.8"}, False),
        ({"destination": "10.0.99.98"}, False),
        ({"port": 81}, False),
        ({"protocol": 17}, False),
        ({"owner": "10.0.0.7"}, False),
        ({"ifindex": 8}, False),
    ],
    ids=str,
)
def test_established_flows_are_those_of_this_pod_and_veth(change, found):
    asked = Flow(ip_address("10.0.0.7"), ip_address("10.0.99.99"), 6, 80)
    entries = [entry(**change)]
    assert bool(conntrack.like(entries, Direction.INGRESS, asked, 7)) is found


def test_without_an_ifindex_the_owner_is_enough():
    asked = flow("10.0.0.7", "10.0.99.99")
    assert conntrack.like([entry()], Direction.INGRESS, asked, None) == (entry(),)
    assert conntrack.like([entry()], Direction.EGRESS, asked, None) == ()


# ---- texts


@pytest.mark.parametrize(
    ("slot", "text"),
    [
        (Slot(*ANY), "all ports"),
        (Slot(*DENY), "deny (except)"),
        (Slot(6, 80, 0), "80/TCP"),
        (Slot(17, 8000, 8010), "8000-8010/UDP"),
        (Slot(254, 80, 0), "80/any protocol"),
        (Slot(6, 0, 0), "all TCP ports"),
        (Slot(47, 0, 0), "all protocol 47 ports"),
        (ClusterSlot(6, 50, 80, 0), "admin 5 Deny 80/TCP"),
        (ClusterSlot(254, 20071, 0, 0), "baseline 7 Accept all ports"),
        (ClusterSlot(255, 52, 80, 0), "admin 5 Pass 80/protocol 255"),
    ],
)
def test_slot_texts(slot, text):
    assert verdict.slot_text(slot) == text


def test_slots_are_shown_sorted_once_and_without_the_unused():
    slots = tuple(Slot(*s) for s in [(17, 53, 0), (6, 80, 0), (0, 0, 0), (6, 80, 0)])
    assert verdict.slots_text(slots) == "80/TCP, 53/UDP"
    assert verdict.slots_text((Slot(0, 0, 0),)) == "nothing"
