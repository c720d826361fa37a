"""Attached against pinned: every difference by its code, on documents of one pod."""

from __future__ import annotations

import pytest

from kubectl_netpol.kernel.identity import veth_names
from kubectl_netpol.kernel.inventory import of_node
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.model.flow import Direction
from tests.unit.builders import (
    ACCESS_MAP,
    NGINX,
    clsact,
    ct_row,
    link,
    lpm_row,
    map_row,
    pin,
    pod_document,
    program,
    state_row,
    tc_filter,
)

GOOD = pod_document(NGINX, ingress=ACCESS_MAP)
NAME, IP = NGINX["metadata"]["name"], NGINX["status"]["podIP"]
IDENTIFIER = "nginx-f8d9c6576@default"
FILTERS = {f["name"]: f for f in GOOD["filters"]}


def pod_view(**sections):
    return NodeView({**GOOD, **sections}).pod("default", NAME, [IP])


def codes(direction=Direction.INGRESS, **sections):
    return [found.code for found in pod_view(**sections).directions[direction].differences]


def pins_without(*endings):
    return [p for p in GOOD["pins"] if not p["path"].endswith(endings)]


def test_a_healthy_pod_has_no_differences():
    view = pod_view()
    assert not view.differences
    assert all(not view.directions[d].differences for d in Direction)
    assert {view.directions[d].agents for d in Direction} == {"1.3.7 to 1.4.1"}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"filters": [FILTERS["handle_egress"]]}, ["NO_FILTER", "ONE_HOOK_ONLY"]),
        ({"filters": []}, ["NO_FILTER"]),
        ({"filters": [], "qdiscs": []}, ["NO_CLSACT"]),
        ({"filters": [tc_filter(7, "egress", "other", 9)]}, ["NO_FILTER", "FOREIGN_FILTER"]),
        ({"filters": [], "tcx": [{"ifindex": 7, "hook": "egress", "program_ids": [9]}]}, ["NO_FILTER", "FOREIGN_TCX"]),
        ({"tcx": [{"ifindex": 7, "hook": "egress", "program_ids": [9]}]}, ["FOREIGN_FIRST"]),
        ({"tcx": [{"ifindex": 7, "hook": "ingress", "program_ids": [9]}]}, []),
        ({"filters": [tc_filter(7, "egress", "other", 9, pref=0), *GOOD["filters"]]}, ["FOREIGN_FIRST"]),
        # Filters of one pref run in the order of the dump.
        ({"filters": [tc_filter(7, "egress", "other", 9, handle=2), *GOOD["filters"]]}, ["FOREIGN_FIRST"]),
        ({"filters": [*GOOD["filters"], tc_filter(7, "egress", "other", 9, pref=2)]}, []),
        # ARP only, and a chain that nothing jumps to.
        ({"filters": [tc_filter(7, "egress", "o", 9, pref=0, protocol=0x0806), *GOOD["filters"]]}, []),
        ({"filters": [tc_filter(7, "egress", "o", 9, pref=0, chain=3), *GOOD["filters"]]}, []),
        (
            {"filters": [{**FILTERS["handle_ingress"], "direct_action": False}, FILTERS["handle_egress"]]},
            ["NOT_DIRECT_ACTION"],
        ),
        ({"programs": [program(432, []), GOOD["programs"][1]]}, ["NO_MAPS"]),
        ({"pins": pins_without("handle_ingress")}, ["NO_PROGRAM_PIN"]),
        ({"pins": pins_without("e_pod_state_map", "ingress_pod_state_map")}, ["UNPINNED_MAP"]),
        (
            {"pins": [*pins_without("global_aws_conntrack_map"), pin("maps/global_aws_conntrack_map", 40)],
             "maps": [*GOOD["maps"], ct_row(40)]},
            ["OTHER_MAP"],
        ),
        (
            {"pins": [*pins_without("default_ingress_map"), pin("maps/other-7@default_ingress_map", 101)]},
            ["PIN_OF_ANOTHER"],
        ),
        (
            {"pins": [*pins_without("default_ingress_map"), pin(f"maps/{IDENTIFIER}_ingress_map", 501)],
             "maps": [*GOOD["maps"], lpm_row(501, {})]},
            ["OTHER_MAP"],
        ),
    ],
)  # fmt: skip
def test_differences_of_a_direction(sections, expected):
    assert codes(**sections) == expected


def test_an_old_program_that_is_still_attached():
    old = [lpm_row(601, ACCESS_MAP), map_row(602, 11, 8, 384), state_row(603, {0: 0, 1: 1})]
    sections = {
        "filters": [tc_filter(7, "egress", "handle_ingress", 600), FILTERS["handle_egress"]],
        "programs": [*GOOD["programs"], program(600, [601, 602, 603, 21, 22])],
        "maps": [*GOOD["maps"], *old],
    }
    view = pod_view(**sections).directions[Direction.INGRESS]
    assert [found.code for found in view.differences] == ["OTHER_PROGRAM", "OTHER_MAP", "OTHER_MAP", "OTHER_MAP"]
    assert "the filter runs program 600" in view.differences[0].text
    assert "is program 432" in view.differences[0].text
    assert view.differences[1].text == "the program uses ingress_map 601, held by no pin; the agent writes map 101"


def test_an_agents_filter_of_another_name_is_known_by_the_pinned_program():
    renamed = [tc_filter(7, "egress", "renamed", 432), FILTERS["handle_egress"]]
    view = pod_view(filters=renamed).directions[Direction.INGRESS]
    assert view.filter is not None
    assert view.filter.name == "renamed"
    assert not view.differences


def test_without_the_pins_nothing_is_said_of_them():
    unread = {"pins": None, "errors": [{"what": "pins", "error": "EPERM"}]}
    assert codes(**unread) == []
    assert codes(filters=[], **unread) == ["NO_FILTER"]


def test_pins_of_both_forms():
    old = [pin(p["path"].replace("@", "-"), p["id"] + 1000) for p in GOOD["pins"] if "@" in p["path"]]
    view = pod_view(pins=[*GOOD["pins"], *old])
    assert [found.code for found in view.differences] == ["BOTH_FORMS"]
    # The form whose program runs is the one that counts.
    assert view.identifier == IDENTIFIER
    runs_old = [{**f, "program_id": f["program_id"] + 1000} for f in GOOD["filters"]]
    programs = [*GOOD["programs"], *({**p, "id": p["id"] + 1000} for p in GOOD["programs"])]
    assert pod_view(pins=[*GOOD["pins"], *old], filters=runs_old, programs=programs).identifier == IDENTIFIER.replace(
        "@", "-"
    )


def test_a_pod_without_anything():
    view = pod_view(pins=[], filters=[], qdiscs=[])
    assert [found.code for found in view.differences] == ["NO_PIN"]
    assert not view.identifier_pinned


def test_directions_of_different_generations():
    old = [lpm_row(701, {}), state_row(703, {0: 0}), map_row(721, 9, 20, 1)]
    old[1]["max_entries"] = 1
    sections = {
        "maps": [*GOOD["maps"], *old],
        "programs": [GOOD["programs"][0], program(433, [701, 703, 721, 22])],
    }
    view = pod_view(**sections)
    assert "TWO_GENERATIONS" in [found.code for found in view.differences]
    node = NodeView({**GOOD, **sections})
    assert [found.code for found in of_node(node, [("default", NAME)], pods_known=True)] == ["TWO_GENERATIONS"]


def test_further_interfaces_of_a_pod():
    second = veth_names("default", NAME, 1)[0]
    sections = {"links": [*GOOD["links"], link(second, 8)], "qdiscs": [*GOOD["qdiscs"], clsact(8)]}
    view = pod_view(**sections)
    assert [(one.index, one.veth, one.ifindex) for one in view.interfaces[1:]] == [(1, second, 8)]
    assert [f.code for f in view.interfaces[1].directions[Direction.INGRESS].differences] == ["NO_FILTER"]
    attached = [*GOOD["filters"], *({**f, "ifindex": 8} for f in GOOD["filters"])]
    one = pod_view(**sections, filters=attached).interfaces[1]
    assert not one.directions[Direction.INGRESS].differences


# ---- the node as a whole


def node_codes(pods, **sections):
    return [found.code for found in of_node(NodeView({**GOOD, **sections}), pods, pods_known=True)]


def test_the_node():
    own = [("default", NAME)]
    assert node_codes(own) == []
    assert node_codes([]) == ["PIN_WITHOUT_POD"]
    assert node_codes([*own, ("shop", "cart-1")]) == ["POD_WITHOUT_PIN"]
    mixed = [*GOOD["pins"], pin("maps/cart-shop_ingress_map", 901)]
    assert node_codes([*own, ("shop", "cart-1")], pins=mixed) == ["BOTH_FORMS"]
    assert node_codes([], pins=None) == []


def test_without_the_pods_no_pin_is_called_left_over():
    assert of_node(NodeView(GOOD), [], pods_known=False) == ()


def test_nodes_of_old_agents_have_pods_without_pins_by_design():
    conntrack = map_row(21, 9, 20, 1)
    programs = [program(432, [101, 21, 22]), program(433, [201, 21, 22])]
    maps = [conntrack, *GOOD["maps"][1:]]
    own = [("default", NAME), ("shop", "cart-1")]
    assert node_codes(own, programs=programs, maps=maps) == []


def test_many_names_are_counted():
    [found] = of_node(NodeView(GOOD), [("default", NAME), *(("shop", f"cart{n}-1") for n in range(9))], pods_known=True)
    assert found.text.endswith("and 4 more")
