"""Struct layouts: sizes as documented, chosen by type and sizes alone."""

from __future__ import annotations

import pytest

from kubectl_netpol.kernel import layouts


@pytest.mark.parametrize(
    ("shape", "role", "family"),
    [
        ((11, 8, 288), "np", 4),
        ((11, 20, 288), "np", 6),
        ((11, 8, 384), "cp", 4),
        ((11, 20, 384), "cp", 6),
        ((1, 4, 1), "pod_state", 0),
        ((9, 24, 1), "conntrack", 4),
        ((9, 60, 1), "conntrack", 6),
        ((11, 8, 96), "np", 4),
        ((11, 20, 96), "np", 6),
        *(((9, *sizes), "conntrack", 4) for sizes in ((16, 4), (20, 1), (24, 16))),
        *(((9, *sizes), "conntrack", 6) for sizes in ((38, 16), (40, 16), (56, 1), (60, 16))),
        ((27, 0, 0), "events", 0),
    ],
)
def test_known_shapes(shape, role, family):
    layout = layouts.layout_of(*shape)
    assert layout is not None
    assert (layout.role, layout.family) == (role, family)


@pytest.mark.parametrize(
    "shape",
    [
        (11, 8, 289),
        (11, 24, 288),
        (1, 8, 288),
        (9, 16, 1),
        (9, 38, 4),
        (9, 28, 8),
        (11, 20, 384 + 16),
        (2, 4, 1),
        (1, 4, 2),
        (11, 4, 1),
    ],
)
def test_other_shapes_are_not_guessed(shape):
    assert layouts.layout_of(*shape) is None
    text = layouts.unknown_layout(*shape)
    assert f"key {shape[1]} B, value {shape[2]} B" in text


def test_no_shape_is_listed_twice():
    shapes = [(layout.map_type, layout.key_size, layout.value_size) for layout in layouts.LAYOUTS]
    assert len(shapes) == len(set(shapes))


def test_every_layout_is_a_whole_number_of_its_structs():
    slot = {"np": 12, "cp": 16}
    for layout in layouts.LAYOUTS:
        if layout.role in slot:
            slots = 8 if "8 slots" in layout.name else 24
            assert layout.value_size == slots * slot[layout.role]
            assert layout.key_size == 4 + (4 if layout.family == 4 else 16)
        if layout.role == "conntrack":
            assert layouts.CONNTRACK_KEYS[layout.key_size].size == layout.key_size


@pytest.mark.parametrize(
    ("np_state", "cp_state", "value"),
    [(1, 1, 2), (1, 2, 3), (1, 0, 4), (0, 1, 5), (0, 2, 6), (0, 0, 7), (2, 0, 7), (2, 1, 7), (2, 2, 7)],
)
def test_state_pairs(np_state, cp_state, value):
    assert layouts.state_pair(np_state, cp_state) == value


def test_map_names_are_the_endings_of_pins():
    assert layouts.map_name("np", "ingress") == "ingress_map"
    assert layouts.map_name("cp", "egress") == "cp_egress_map"
    assert layouts.map_name("pod_state", "egress") == "egress_pod_state_map"
    assert layouts.map_name("conntrack", "egress") == "aws_conntrack_map"
    assert layouts.map_name("unknown", "egress") == ""


def test_seven_is_also_what_a_denying_state_gives():
    assert layouts.state_pair_text(7) == "POLICIES_APPLIED (cluster policies: POLICIES_APPLIED), or DEFAULT_DENY"
    assert layouts.state_pair_text(5) == "POLICIES_APPLIED (cluster policies: DEFAULT_ALLOW)"
    assert layouts.state_pair_text(9) == "unknown state pair 9"
