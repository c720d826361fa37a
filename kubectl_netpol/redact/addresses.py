"""Other addresses for addresses: two that share their first N bits share them afterwards as well, and no longer ones.

So a CIDR still holds the addresses that it held, the longest prefix still wins, and an `except` still takes out what it
took out. (The idea is Crypto-PAn's, Xu et al. 2002: each bit is flipped or not by a keyed function of those before it.)

Ranges that mean something by themselves stay ranges: private addresses stay private, link-local ones link-local.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from kubectl_netpol.model.flow import Address, Network

KEPT_RANGES: tuple[Network, ...] = tuple(
    map(
        ip_network,
        # RFC 1918 and RFC 6598, which VPCs are made of; unique local, global and link-local IPv6; NAT64 of a VPC.
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "2000::/3", "fe80::/64"),
    )
)
"""An address in one of them stays in it."""
KEPT_WHOLE: tuple[Network, ...] = tuple(
    map(
        ip_network,
        # Nobody's own: loopback, the link-local services of EC2 and of node-local DNS, multicast, NAT64's prefix.
        (
            *("0.0.0.0/32", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"),
            *("::/128", "::1/128", "ff00::/8", "fd00:ec2::/32", "64:ff9b::/128"),
        ),
    )
)
"""These stay as they are."""
_MAPPED = int(IPv6Address("::ffff:0.0.0.0"))


class Addresses:
    """One renaming of all addresses. ``key``: random bytes; the same key renames the same way."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._flips: dict[tuple[int, int, int], int] = {}
        self._known: dict[Address, Address] = {}
        self._packed: dict[bytes, bytes] = {}
        self._fixed = {
            (one.version, length, int(one.network_address) >> one.max_prefixlen - length)
            for one in (*KEPT_RANGES, *KEPT_WHOLE, ip_network("::ffff:0:0/96"))
            for length in range(one.prefixlen)
        }

    @property
    def given(self) -> dict[str, str]:
        """New address -> the one it stands for."""
        return {str(new): str(old) for old, new in self._known.items()}

    def address(self, one: Address) -> Address:
        found = self._known.get(one)
        if found is None:
            found = self._known[one] = self._renamed(one)
        return found

    def network(self, one: Network) -> Network:
        """Its own host bits are zero, so those of the answer are."""
        number = int(self.address(one.network_address))
        shift = one.max_prefixlen - one.prefixlen
        kind = IPv4Network if one.version == 4 else IPv6Network
        return kind((number >> shift << shift, one.prefixlen))

    def packed(self, data: bytes) -> bytes:
        """4 or 16 bytes in network order."""
        found = self._packed.get(data)
        if found is None:
            found = self._packed[data] = self.address(ip_address(data)).packed
        return found

    def prefix(self, data: bytes, length: int) -> bytes:
        """The same of a prefix: bits behind ``length`` that are zero stay zero; those that are not are host bits."""
        bits = len(data) * 8
        shift = bits - min(length, bits)
        number = int.from_bytes(data, "big")
        renamed = int.from_bytes(self.packed(data), "big")
        if number >> shift << shift == number:
            renamed = renamed >> shift << shift
        return renamed.to_bytes(len(data), "big")

    def text(self, text: str) -> str | None:
        """An address or CIDR as text, with host bits or without; None for any other text."""
        head, slash, length = text.partition("/")
        try:
            address = ip_address(head)
            bits = ip_network(f"{head}/{length}", strict=False).prefixlen if slash else address.max_prefixlen
        except ValueError:
            return None
        return f"{ip_address(self.prefix(address.packed, bits))}{slash}{length}"

    def _renamed(self, one: Address) -> Address:
        if isinstance(one, IPv6Address) and one.ipv4_mapped is not None:
            return IPv6Address(_MAPPED | int(self.address(one.ipv4_mapped)))
        if any(one.version == whole.version and one in whole for whole in KEPT_WHOLE):
            return one
        number, made = int(one), 0
        for length in range(one.max_prefixlen):
            before = number >> one.max_prefixlen - length
            bit = number >> one.max_prefixlen - length - 1 & 1
            made = made << 1 | bit ^ self._flip(one.version, length, before)
        return IPv4Address(made) if one.version == 4 else IPv6Address(made)

    def _flip(self, version: int, length: int, before: int) -> int:
        """Whether the bit after the ``length`` bits ``before`` is another one afterwards."""
        place = version, length, before
        found = self._flips.get(place)
        if found is None:
            text = f"{version}/{length}/{before:x}".encode()
            digest = hashlib.blake2b(text, key=self._key, digest_size=1).digest()
            found = self._flips[place] = 0 if place in self._fixed else digest[0] & 1
        return found
