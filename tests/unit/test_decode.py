"""Bytes of map entries, written here from the documented offsets, read back by the decoder."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.kernel import decode, layouts
from kubectl_netpol.model.flow import host_network
from kubectl_netpol.model.kernel import LpmTable
from tests.unit.builders import ct_key, lpm_key, u32

NP4, NP6 = layouts.layout_of(11, 8, 288), layouts.layout_of(11, 20, 288)
CP4, CP6 = layouts.layout_of(11, 8, 384), layouts.layout_of(11, 20, 384)
CT4, CT6 = layouts.layout_of(9, 24, 1), layouts.layout_of(9, 60, 1)
assert NP4 and NP6 and CP4 and CP6 and CT4 and CT6

U32 = st.integers(0, 2**32 - 1)
U16 = st.integers(0, 2**16 - 1)
V4 = st.builds(IPv4Address, U32)
V6 = st.builds(IPv6Address, st.integers(0, 2**128 - 1))
PREFIX4 = st.builds(lambda a, n: IPv4Network((a, n), strict=False), U32, st.integers(0, 32))
PREFIX6 = st.builds(lambda a, n: IPv6Network((a, n), strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128))


def fields(value: bytes, width: int) -> list[tuple[int, ...]]:
    """A value cut by hand: ``width`` little-endian u32 for each slot."""
    numbers = [int.from_bytes(value[at : at + 4], "little") for at in range(0, len(value), 4)]
    return [tuple(numbers[at : at + width]) for at in range(0, len(numbers), width)]


@pytest.mark.parametrize(
    ("layout", "prefixes", "width"),
    [(NP4, PREFIX4, 3), (NP6, PREFIX6, 3), (CP4, PREFIX4, 4), (CP6, PREFIX6, 4)],
    ids=["np4", "np6", "cp4", "cp6"],
)
@given(data=st.data())
def test_lpm_maps_round_trip_sorted(layout, prefixes, width, data):
    size = 24 * 4 * width
    wanted = data.draw(st.dictionaries(prefixes, st.binary(min_size=size, max_size=size), max_size=4))
    keys = b"".join(lpm_key(str(prefix)) for prefix in wanted)
    found = decode.lpm_entries(keys, b"".join(wanted.values()), layout).entries
    assert {e.prefix: [tuple(slot) for slot in e.slots] for e in found} == {
        prefix: fields(value, width) for prefix, value in wanted.items()
    }
    order = [(e.prefix.network_address, e.prefix.prefixlen) for e in found]
    assert order == sorted(order)


@given(st.sets(PREFIX4, max_size=12), V4)
def test_lookup_is_the_longest_prefix(prefixes, address):
    keys = b"".join(lpm_key(str(prefix)) for prefix in prefixes)
    table = decode.lpm_entries(keys, bytes(288 * len(prefixes)), NP4)
    found = table.lookup(host_network(address))
    expected = max((p for p in prefixes if address in p), key=lambda p: p.prefixlen, default=None)
    assert (found.prefix if found else None) == expected


def test_the_prefix_length_is_in_host_order_and_host_bits_do_not_count():
    assert decode.prefix(bytes([8, 0, 0, 0, 10, 1, 2, 3])) == ip_network("10.0.0.0/8")
    assert decode.prefix(bytes(20)) == ip_network("::/0")
    assert decode.prefix(bytes([32, 0, 0, 0, 10, 1, 2, 3])) == ip_network("10.1.2.3/32")


@pytest.mark.parametrize("length", [33, 256, 2**32 - 1])
def test_an_impossible_prefix_length(length):
    with pytest.raises(decode.DecodeError, match="prefix length"):
        decode.lpm_entries(u32(length) + bytes(4), bytes(288), NP4)


FLOW4 = st.tuples(V4, U16, V4, U16, st.integers(0, 255), V4, U32, st.integers(0, 255))
FLOW6 = st.tuples(V6, U16, V6, U16, st.integers(0, 255), V6, U32, st.integers(0, 255))


CT4_SEEN, CT6_SEEN = layouts.layout_of(9, 24, 16), layouts.layout_of(9, 60, 16)


@pytest.mark.parametrize(
    ("layout", "flows"),
    [(CT4, FLOW4), (CT6, FLOW6), (CT4_SEEN, FLOW4), (CT6_SEEN, FLOW6)],
    ids=["v4", "v6", "v4 with last seen", "v6 with last seen"],
)
@given(data=st.data())
def test_conntrack_round_trips(layout, flows, data):
    wanted = data.draw(st.lists(flows, max_size=5))
    seen = [data.draw(st.integers(0, 2**64 - 1)) if layout.value_size == 16 else None for _ in wanted]
    keys = b""
    for source, sport, destination, dport, protocol, owner, ifindex, _ in wanted:
        ports = [port.to_bytes(2, "little") for port in (sport, dport)]
        keys += source.packed + ports[0] + b"\0\0" + destination.packed + ports[1] + bytes([protocol, 0])
        keys += owner.packed + u32(ifindex)
    values = b"".join(
        bytes([flow[-1]]) if last is None else flow[-1].to_bytes(8, "little") + last.to_bytes(8, "little")
        for flow, last in zip(wanted, seen, strict=True)
    )
    found = decode.conntrack_entries(keys, values, layout)
    assert [tuple(entry) for entry in found] == [(*flow, last) for flow, last in zip(wanted, seen, strict=True)]


def test_a_conntrack_key_by_hand():
    [found] = decode.conntrack_entries(ct_key("10.0.0.5", 40312, "10.0.1.9", 80, "10.0.1.9", 12), b"\5", CT4)
    assert (str(found.source), found.source_port, str(found.destination)) == ("10.0.0.5", 40312, "10.0.1.9")
    assert (found.port, found.protocol, found.ifindex, found.value) == (80, 6, 12, 5)


@given(st.dictionaries(U32, st.integers(0, 255), max_size=4))
def test_pod_states_round_trip(states):
    assert decode.pod_states(u32(*states), bytes(states.values())) == states


@given(st.binary(max_size=700), st.binary(max_size=700))
def test_garbage_is_a_decode_error_or_whole_entries(keys, values):
    """Any bytes: either the sizes fit, or the one documented error."""
    for layout in (NP4, NP6, CP4, CP6):
        try:
            found = decode.lpm_entries(keys, values, layout)
        except decode.DecodeError:
            continue
        assert len(found.entries) == len(keys) // layout.key_size == len(values) // layout.value_size
    for layout in (CT4, CT6):
        try:
            flows = decode.conntrack_entries(keys, values, layout)
        except decode.DecodeError:
            continue
        assert len(flows) == len(values)
    try:
        assert len(decode.pod_states(keys, values)) <= len(values)
    except decode.DecodeError:
        assert len(keys) != 4 * len(values)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (decode.lpm_entries, (bytes(7), bytes(288), NP4)),
        (decode.lpm_entries, (bytes(8), bytes(287), NP4)),
        (decode.lpm_entries, (bytes(16), bytes(288), NP4)),
        (decode.lpm_entries, (bytes(8), bytes(288), NP6)),
        (decode.pod_states, (bytes(5), bytes(1))),
        (decode.pod_states, (bytes(4), bytes(2))),
        (decode.conntrack_entries, (bytes(23), bytes(1), CT4)),
        (decode.conntrack_entries, (bytes(24), bytes(2), CT4)),
        (decode.split, (bytes(4), 0, "keys")),
    ],
)
def test_sizes_that_do_not_fit(call, arguments):
    with pytest.raises(decode.DecodeError):
        call(*arguments)


ADDRESSES = st.sampled_from([0, 1, 0x0A000000, 0x0A000001, 0x0A000100, 0x0A010000, 0xC0000201, 0xFFFFFFFF])
LENGTHS = st.sampled_from([0, 1, 7, 8, 9, 15, 16, 24, 31, 32])


@pytest.mark.parametrize("searches", [0, 1, 1000])
@given(st.dictionaries(st.tuples(LENGTHS, ADDRESSES), st.integers(1, 9), max_size=12), st.lists(ADDRESSES, min_size=1))
def test_a_packed_table_finds_what_a_plain_one_finds(searches, contents, asked):
    """With and without an index, and with host bits set in keys, as nothing keeps them from being."""
    layout = layouts.layout_of(11, 8, 288)
    # Two keys of one prefix cannot be in a trie.
    unique = {(length, address >> 32 - length): (length, address) for length, address in contents}
    keys = b"".join(length.to_bytes(4, "little") + address.to_bytes(4, "big") for length, address in unique.values())
    values = b"".join(bytes([contents[key]]).ljust(288, b"\0") for key in unique.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "SEARCHES", searches)
        packed = decode.lpm_entries(keys, values, layout)
        plain = LpmTable(decode.lpm_entries(keys, values, layout).entries)
        for address in asked:
            host = ip_network(address)
            assert packed.lookup(host) == plain.lookup(host)
            for length in (0, 7, 8, 24, 32):
                prefix = ip_network((address, length), strict=False)
                assert packed.get(prefix) == plain.get(prefix)
