"""Encoders and decoders are each other's inverse, for every layout."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.kernel import decode, encode, layouts
from kubectl_netpol.model.kernel import ClusterSlot, ConntrackEntry, Slot

U32 = st.integers(0, (1 << 32) - 1)
PORT = st.integers(0, 65535)
ADDRESSES = {
    4: st.integers(0, (1 << 32) - 1).map(IPv4Address),
    6: st.integers(0, (1 << 128) - 1).map(IPv6Address),
}
CONNTRACK = [layout for layout in layouts.LAYOUTS if layout.role == "conntrack"]
RULES = [layout for layout in layouts.LAYOUTS if layout.role in ("np", "cp")]


@pytest.mark.parametrize("layout", CONNTRACK, ids=lambda layout: layout.name)
@given(st.data())
def test_conntrack_entries(layout, data):
    address = ADDRESSES[layout.family]
    has_owner = layout.value != layouts.POD_ADDRESS
    entry = ConntrackEntry(
        data.draw(address),
        data.draw(PORT),
        data.draw(address),
        data.draw(PORT),
        data.draw(st.integers(0, 255)),
        data.draw(address),
        data.draw(U32) if layout.key_size in (24, 60) else None,
        data.draw(st.integers(0, 255)) if has_owner else None,
        data.draw(st.integers(0, (1 << 64) - 1)) if layout.value_size == 16 and has_owner else None,
    )
    key, value = encode.conntrack_key(entry, layout), encode.conntrack_value(entry, layout)
    assert (len(key), len(value)) == (layout.key_size, layout.value_size)
    assert decode.conntrack_entries(key, value, layout) == (entry,)


@pytest.mark.parametrize("layout", RULES, ids=lambda layout: layout.name)
@given(st.data())
def test_rules(layout, data):
    network = IPv4Network if layout.family == 4 else IPv6Network
    length = data.draw(st.integers(0, 32 if layout.family == 4 else 128))
    prefix = network((data.draw(ADDRESSES[layout.family]), length), strict=False)
    width, kind = (3, Slot) if layout.role == "np" else (4, ClusterSlot)
    count = layout.value_size // (4 * width)
    slots = [kind(*data.draw(st.tuples(*[U32] * width))) for _ in range(data.draw(st.integers(0, count)))]
    pack = encode.np_value if layout.role == "np" else encode.cp_value
    key, value = encode.lpm_key(prefix), pack(slots, layout.value_size)
    [found] = decode.lpm_entries(key, value, layout).entries
    assert found.prefix == prefix
    assert found.slots == tuple(slots + [kind(*[0] * width)] * (count - len(slots)))


def test_more_slots_than_room_are_refused():
    with pytest.raises(ValueError, match="bytes of slots"):
        encode.np_value([Slot(6, 80, 0)] * 9, 96)


def test_pod_states():
    keys, values = encode.pod_states([(0, 0), (1, 2)])
    assert decode.pod_states(keys, values) == {0: 0, 1: 2}


def test_both_keys_of_a_packet():
    layout = layouts.layout_of(9, 24, 1)
    ends = IPv4Address("10.0.1.5"), 61000, IPv4Address("10.0.2.9"), 80
    forward, reverse = encode.flow_keys(layout, ends, 6, IPv4Address("10.0.2.9"), 12)
    [there] = decode.conntrack_entries(forward, b"\0", layout)
    [back] = decode.conntrack_entries(reverse, b"\0", layout)
    assert (there.source, there.source_port, there.destination, there.port) == ends
    assert (back.destination, back.port, back.source, back.source_port) == ends
    assert there.owner == back.owner == ends[2]
    assert (there.ifindex, back.ifindex) == (12, 12)
