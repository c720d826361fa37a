"""A node's document -> the kernel's part of one pod."""

from __future__ import annotations

import base64

import pytest

from kubectl_netpol.kernel.identity import veth_names
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.node.document import check_document
from tests.unit.builders import (
    ACCESS_MAP,
    ANY,
    APPLIED,
    NGINX,
    clsact,
    ct_key,
    document,
    link,
    map_row,
    pin,
    pod,
    pod_document,
    program,
    route,
    tc_filter,
    u32,
)

NAME, IP = NGINX["metadata"]["name"], NGINX["status"]["podIP"]
VETH = veth_names("default", NAME)[0]
SECTIONS = ("links", "addresses", "routes", "qdiscs", "filters", "tcx", "programs", "maps", "pins")


def view(doc, ips=(IP,)):
    return NodeView(check_document(doc)).pod("default", NAME, ips)


def ingress(doc):
    return view(doc).directions[Direction.INGRESS]


def without(doc, section, keep=lambda row: False):
    return {**doc, section: [row for row in doc[section] if keep(row)]}


GOOD = pod_document(NGINX, ingress=ACCESS_MAP)


def test_everything_of_a_pod():
    found = view(GOOD)
    assert (found.veth, found.ifindex, found.veth_agrees) == (VETH, 7, True)
    assert (found.identifier, found.identifier_pinned) == ("nginx-f8d9c6576@default", True)
    side = found.directions[Direction.INGRESS]
    assert (side.filter.program_id, side.program.id, side.pinned_program.id) == (432, 432, 432)
    assert side.program.pin == "programs/nginx-f8d9c6576@default_handle_ingress"
    assert {role: m.id for role, m in side.maps.items()} == {
        "np": 101,
        "cp": 102,
        "pod_state": 103,
        "conntrack": 21,
        "events": 22,
    }
    assert {role: m.id for role, m in side.pinned_maps.items()} == {role: m.id for role, m in side.maps.items()}
    assert [str(e.prefix) for e in side.maps["np"].lpm.entries] == ["10.0.0.1/32", "10.0.1.218/32"]
    assert side.maps["np"].lpm.entries[0].slots[0] == ANY
    assert side.maps["pod_state"].states == {0: APPLIED, 1: 1}
    assert side.maps["np"].pin == "maps/nginx-f8d9c6576@default_ingress_map"
    assert side.reason == ""


def test_the_tc_hook_is_the_opposite_of_the_pods_direction():
    found = view(GOOD)
    assert found.directions[Direction.INGRESS].filter.hook == "egress"
    assert found.directions[Direction.EGRESS].filter.hook == "ingress"


def test_a_filter_on_the_wrong_hook_is_not_the_pods():
    swapped = [{**f, "hook": "ingress"} for f in GOOD["filters"]]
    assert ingress({**GOOD, "filters": swapped}).filter is None


def test_ring_buffers_are_never_read():
    events = ingress(GOOD).maps["events"]
    assert "ring buffer" in events.reason


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_that_could_not_be_read_is_no_crash_and_has_its_reason(section):
    doc = {**GOOD, section: None, "errors": [{"what": section, "error": "EPERM"}]}
    found = view(doc)
    assert NodeView(doc).unread(section) == f"{section}: EPERM"
    if section in ("filters", "programs"):
        assert found.directions[Direction.INGRESS].reason == f"{section}: EPERM"
    if section == "pins":
        assert found.pins_unread == "pins: EPERM"
    if section == "maps":
        assert not found.directions[Direction.INGRESS].maps
        assert {m.reason for m in found.directions[Direction.INGRESS].other_maps} == {"maps: EPERM"}
    if section == "links":
        assert (found.ifindex, found.veth_agrees) == (None, None)
        assert found.directions[Direction.INGRESS].reason == "links: EPERM"
    if section == "routes":
        assert found.veth_agrees is None
        assert "routes: EPERM" in found.veth_evidence[0]


def test_null_without_an_error_is_still_unread():
    assert NodeView({**GOOD, "pins": None}).unread("pins") == "pins could not be read"


def test_an_error_of_one_hook_concerns_that_hook_only():
    doc = {**GOOD, "filters": [], "errors": [{"what": f"filters {VETH} egress", "error": "EIO"}]}
    found = view(doc)
    assert found.directions[Direction.INGRESS].reason == f"filters {VETH} egress: EIO"
    assert found.directions[Direction.EGRESS].reason == ""


# ---- the veth


@pytest.mark.parametrize(
    ("links", "routes", "ifindex", "agrees", "says"),
    [
        ([link(VETH, 7)], [route(IP, 7)], 7, True, "agree"),
        ([link(VETH, 7)], [], 7, None, "no route"),
        ([link(VETH, 7), link("eni1", 8)], [route(IP, 8)], 7, False, "goes to eni1, not to"),
        ([link("eni1", 8)], [route(IP, 8)], 8, False, "goes to eni1: that one is used"),
        ([link("eni1", 8)], [], None, False, "no link"),
        ([link("eni1", 8)], [route(IP, 99)], None, False, "no link"),
        ([link(veth_names("default", NAME)[1], 7)], [route(IP, 7)], 7, True, "agree"),
        ([link(VETH, 7)], [route(IP, 7, table=10)], 7, None, "no route"),
        ([link(VETH, 7)], [route("10.0.4.0", 8, prefixlen=24)], 7, None, "no route"),
    ],
)
def test_the_veth_is_checked_against_the_route(links, routes, ifindex, agrees, says):
    found = view({**GOOD, "links": links, "routes": routes})
    assert (found.ifindex, found.veth_agrees) == (ifindex, agrees)
    assert says in found.veth_evidence[0]


def test_without_a_veth_the_attachment_is_unknown_not_absent():
    side = view({**GOOD, "links": [], "routes": []}).directions[Direction.INGRESS]
    assert side.filter is None
    assert side.reason.startswith(f"no link {VETH}")


# ---- identifiers and pins


def test_old_and_new_pins():
    assert view(pod_document(NGINX, separator="-")).identifier == "nginx-f8d9c6576-default"
    unpinned = view(without(GOOD, "pins"))
    assert (unpinned.identifier, unpinned.identifier_pinned) == ("nginx-f8d9c6576@default", False)
    assert unpinned.directions[Direction.INGRESS].pinned_program is None


def test_where_both_forms_are_pinned_the_new_one_counts():
    both = GOOD["pins"] + pod_document(NGINX, separator="-")["pins"]
    assert view({**GOOD, "pins": both}).identifier == "nginx-f8d9c6576@default"


def test_maps_alone_pin_an_identifier():
    maps_only = without(GOOD, "pins", lambda row: row["path"].startswith("maps/"))
    assert view(maps_only).identifier_pinned


def test_the_pin_of_another_pod_with_a_similar_name_is_not_taken():
    other = pod_document(pod("nginx-f8d9c6576-x-8b4vf", IP))
    assert not view({**GOOD, "pins": other["pins"]}).identifier_pinned


def test_a_pin_without_a_known_object_is_unread_not_absent():
    path = "programs/nginx-f8d9c6576@default_handle_ingress"
    found = view({**GOOD, "pins": [pin(path, None, "EPERM")]})
    assert found.pins_unread == f"pin {path}: EPERM"


def test_attached_and_pinned_are_kept_apart():
    """The filter runs 500 with map 501; the agent writes 101, that no packet meets."""
    doc = {
        **GOOD,
        "filters": [tc_filter(7, "egress", "handle_ingress", 500)],
        "programs": [*GOOD["programs"], program(500, [501, 103])],
        "maps": [*GOOD["maps"], map_row(501, 11, 8, 288)],
    }
    side = ingress(doc)
    assert (side.program.id, side.pinned_program.id) == (500, 432)
    assert (side.maps["np"].id, side.pinned_maps["np"].id) == (501, 101)
    assert side.maps["np"].pin == ""


# ---- filters and programs


def test_foreign_filters_are_listed_and_not_taken():
    foreign = [
        tc_filter(7, "egress", "other_tool", 900, pref=5),
        tc_filter(7, "egress", "", None, pref=49152, kind="u32"),
        tc_filter(8, "egress", "handle_ingress", 901),
    ]
    side = ingress({**GOOD, "filters": foreign + GOOD["filters"]})
    assert [(f.pref, f.name) for f in side.filters] == [(1, "handle_ingress"), (5, "other_tool"), (49152, "")]
    assert side.filter.program_id == 432
    assert ingress({**GOOD, "filters": foreign}).filter is None


def test_a_filter_whose_program_is_gone_says_so():
    side = ingress(without(GOOD, "programs"))
    assert side.filter is not None
    assert side.program is None
    assert side.reason == "program 432 is gone"


@pytest.mark.parametrize(
    ("qdiscs", "has", "drops"),
    [([], False, None), ([clsact(7, 5)], True, 5), ([clsact(8, 5)], False, None), ([clsact(7, None)], True, None)],
)
def test_clsact(qdiscs, has, drops):
    node = NodeView(document(qdiscs=qdiscs))
    assert (node.has_clsact(7), node.drops(7)) == (has, drops)


# ---- maps


def with_map(row, *, errors=()):
    """The ingress direction of a node where map 101 is this one."""
    maps = [row if m["id"] == 101 else m for m in GOOD["maps"]]
    return ingress({**GOOD, "maps": maps, "errors": list(errors)})


def test_contents_that_were_not_read_have_a_reason():
    assert with_map(map_row(101, 11, 8, 288, None)).maps["np"].reason == "contents were not asked for"
    errors = [{"what": "map 101", "error": "EPERM"}, {"what": "map 10", "error": "no"}]
    found = with_map(map_row(101, 11, 8, 288, None), errors=errors).maps["np"]
    assert (found.lpm, found.complete, found.reason) == (None, False, "map 101: EPERM")


def test_a_failed_read_is_not_an_empty_map():
    failed = map_row(101, 11, 8, 288, [], complete=False, reason="EIO")
    assert (with_map(failed).maps["np"].lpm, with_map(failed).maps["np"].reason) == (None, "EIO")
    empty = with_map(map_row(101, 11, 8, 288, [])).maps["np"]
    assert (empty.lpm.entries, empty.complete) == ((), True)


def test_a_map_read_in_part_keeps_what_was_read():
    part = map_row(101, 11, 8, 288, [(u32(0, 0), bytes(288))], complete=False, reason="it changed")
    found = with_map(part).maps["np"]
    assert (len(found.lpm.entries), found.complete, found.reason) == (1, False, "it changed")


def test_an_unknown_layout_keeps_its_bytes():
    old = map_row(101, 11, 8, 100, [(b"\2" * 8, b"\3" * 100), (b"\1" * 8, b"\4" * 100)])
    side = with_map(old)
    assert "np" not in side.maps
    [found] = side.other_maps
    assert found.role == "unknown"
    assert found.raw == ((b"\1" * 8, b"\4" * 100), (b"\2" * 8, b"\3" * 100))
    assert "value 100 B" in found.layout
    assert found.lpm is None


def test_undecodable_contents_are_a_reason_and_no_crash():
    broken = map_row(101, 11, 8, 288, [(u32(77, 0), bytes(288))])
    assert "prefix length 77" in with_map(broken).maps["np"].reason


def test_a_second_map_of_one_role_is_not_mixed_in():
    programs = [program(432, [101, 101 + 100, 103]), GOOD["programs"][1]]
    side = ingress({**GOOD, "programs": programs})
    assert side.maps["np"].id == 101
    assert [m.id for m in side.other_maps] == [201]


def test_a_map_that_is_gone():
    side = ingress(without(GOOD, "maps", lambda row: row["id"] != 101))
    assert [m.reason for m in side.other_maps] == ["the map is gone"]


def test_conntrack_is_decoded():
    key = ct_key("10.0.1.218", 4000, IP, 80, IP, 7)
    side = ingress(pod_document(NGINX, conntrack=[(key, 5)]))
    [entry] = side.maps["conntrack"].conntrack
    assert (str(entry.source), entry.source_port, entry.port, entry.ifindex, entry.value) == (
        "10.0.1.218",
        4000,
        80,
        7,
        5,
    )


def test_base64_that_is_none_is_a_reason():
    row = map_row(101, 11, 8, 288, [(u32(0, 0), bytes(288))])
    row["contents"]["values"] = "*" + base64.b64encode(bytes(288)).decode()
    found = NodeView({**GOOD, "maps": [row]}).map(101)
    assert (found.lpm, found.complete) == (None, False)
    assert "cannot be decoded" in found.reason


def test_of_two_links_the_one_that_the_route_leads_to():
    """An `eni` link may be left over from a pod that had the name before; now the pod hangs on a `vlan` link."""
    names = veth_names("default", NAME)
    doc = {**GOOD, "links": [link(names[0], 6), link(names[1], 7)]}
    found = view(doc)
    assert (found.veth, found.ifindex, found.veth_agrees) == (names[1], 7, True)
    assert found.interfaces[0].disputed == ""
    assert view({**doc, "routes": []}).veth == names[0]


def test_a_route_to_another_link_puts_the_veth_in_dispute():
    doc = {**GOOD, "links": [link(VETH, 7), link("other", 8)], "routes": [route(IP, 8)]}
    assert f"the route to {IP} goes to other, not to {VETH}" in view(doc).interfaces[0].disputed
    # Without a link of the computed name there is nothing to dispute.
    assert view({**doc, "links": [link("other", 8)]}).interfaces[0].disputed == ""


@pytest.mark.parametrize(
    ("change", "meets"),
    [
        ({}, True),
        ({"protocol": 0x0800}, True),
        ({"protocol": 0x86DD}, False),
        ({"protocol": 0x0806}, False),
        ({"chain": 5}, False),
        ({"kind": "u32"}, False),
    ],
)
def test_the_agents_filter_is_one_that_packets_meet(change, meets):
    doc = {**GOOD, "filters": [{**f, **change} if f["name"] == "handle_ingress" else f for f in GOOD["filters"]]}
    side = ingress(doc)
    assert (side.filter is not None) is meets
    assert ("NEVER_RUNS" in [d.code for d in side.differences]) is not meets
    if "kind" not in change:
        assert side.foreign == (() if not meets else (side.filter.text,))


def test_of_two_filters_of_the_agents_name_the_one_that_packets_meet():
    first = tc_filter(7, "egress", "handle_ingress", 9, pref=0, protocol=0x0806)
    assert ingress({**GOOD, "filters": [first, *GOOD["filters"]]}).filter.program_id == 432


def test_a_program_that_is_pinned_for_the_other_direction():
    swapped = [{**f, "program_id": 433} if f["name"] == "handle_ingress" else f for f in GOOD["filters"]]
    side = ingress({**GOOD, "filters": swapped})
    assert "runs program 433, which is pinned as programs/nginx" in side.other_direction
    assert "OTHER_DIRECTION" in [d.code for d in side.differences]
    assert ingress(GOOD).other_direction == ""


def test_xdp_programs_come_before_the_pods_own_packets_only():
    found = view({**GOOD, "links": [{**link(VETH, 7), "xdp": [77]}]})
    assert found.directions[Direction.EGRESS].in_front == ("XDP program 77",)
    assert found.directions[Direction.INGRESS].in_front == ()
    unread = view({**GOOD, "links": [{**link(VETH, 7), "xdp": None}]})
    assert "xdp" in unread.directions[Direction.EGRESS].tcx_unread
    assert unread.directions[Direction.INGRESS].tcx_unread == ""
    open_hook = view({**GOOD, "filters": [], "links": [{**link(VETH, 7), "xdp": [77]}]})
    assert "FOREIGN_XDP" in [d.code for d in open_hook.directions[Direction.EGRESS].differences]
