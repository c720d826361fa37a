"""The pure parts of the API server stand-in: frames, patches, quantities, tables, certificates."""

from __future__ import annotations

import os
import ssl
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab import api_websocket as ws
from tests.lab.api_patch import json_patch, merge_patch, strategic_merge
from tests.lab.api_tls import make_certificate
from tests.lab.api_validate import quantity


def masked(data: bytes, opcode: int = ws.BINARY, final: bool = True) -> bytes:
    mask = os.urandom(4)
    size = len(data)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        length = bytes([0x80 | 127]) + struct.pack("!Q", size)
    return bytes([(0x80 if final else 0) | opcode]) + length + mask + ws.unmask(data, mask)


def test_accept_key_of_the_rfc() -> None:
    assert ws.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 50))
def test_frames_in_any_pieces(payloads: list[bytes], step: int) -> None:
    stream = b"".join(masked(data) for data in payloads)
    receiver, found = ws.Receiver(), []
    for at in range(0, len(stream), step):
        found += receiver.feed(stream[at : at + step])
    assert [message.data for message in found] == payloads


def test_fragments_with_a_ping_between() -> None:
    stream = masked(b"ab", ws.TEXT, False) + masked(b"!", ws.PING) + masked(b"cd", ws.CONTINUATION)
    assert ws.Receiver().feed(stream) == [ws.Message(ws.PING, b"!"), ws.Message(ws.TEXT, b"abcd")]
    with pytest.raises(ws.ProtocolError):
        ws.Receiver().feed(ws.frame(b"not masked"))


def test_patches_leave_the_original_alone() -> None:
    old = {"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "x", "image": "1"}, {"name": "y"}]}}
    before = repr(old)
    patch = {"spec": {"containers": [{"name": "x", "image": "2"}]}}
    assert strategic_merge(old, patch)["spec"]["containers"] == [{"name": "x", "image": "2"}, {"name": "y"}]
    assert merge_patch(old, patch)["spec"]["containers"] == [{"name": "x", "image": "2"}]
    assert merge_patch(old, {"metadata": {"labels": {"a": None, "b": "2"}}})["metadata"] == {"labels": {"b": "2"}}
    assert json_patch(old, [{"op": "add", "path": "/metadata/labels/c~1d", "value": "3"}])["metadata"]["labels"] == {
        "a": "1",
        "c/d": "3",
    }
    assert repr(old) == before


def test_strategic_merge_of_network_policies_replaces_lists() -> None:
    old = {"spec": {"ingress": [{"ports": [{"port": 80}, {"port": 81}]}]}}
    new = {"spec": {"ingress": [{"ports": [{"port": 82}]}]}}
    assert strategic_merge(old, new) == new


@pytest.mark.parametrize(
    ("text", "value"),
    [("100m", 0.1), ("1Gi", 2**30), ("1.5", 1.5), ("2k", 2000), ("1e3", 1000), ("128974848", 128974848)],
)
def test_quantities(text: str, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


def test_bad_quantity() -> None:
    with pytest.raises(ValueError, match="much"):
        quantity("much")


def test_certificate_is_accepted_by_strict_clients(tmp_path: Path) -> None:
    certificate, key = make_certificate()
    both = tmp_path / "pem"
    both.write_text(certificate + key)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(both)
    strict = ssl.create_default_context(cadata=certificate)
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    assert strict.get_ca_certs()[0]["subject"] == ((("commonName", "lab-kubernetes-ca"),),)
