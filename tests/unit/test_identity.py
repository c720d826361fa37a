"""Names computed from a pod."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.kernel import identity

LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,20}[a-z0-9])?", fullmatch=True)


def test_the_veth_of_the_articles_pod():
    """`tc filter show dev eni9c515deae49` is the nginx pod of the article."""
    assert identity.veth_names("default", "nginx-f8d9c6576-8b4vf")[0] == "eni9c515deae49"


@given(LABEL, LABEL)
def test_veths_are_the_first_11_hex_digits_of_sha1(namespace, name):
    digest = hashlib.sha1(f"{namespace}.{name}".encode()).hexdigest()
    assert identity.veth_names(namespace, name) == (f"eni{digest[:11]}", f"vlan{digest[:11]}")
    more = hashlib.sha1(f"{namespace}.{name}.1".encode()).hexdigest()
    assert identity.veth_names(namespace, name, 1)[0] == f"eni{more[:11]}"
    assert len(identity.veth_names(namespace, name)[1]) <= 15


@pytest.mark.parametrize(
    ("namespace", "name", "expected"),
    [
        ("shop", "web-7d4b9c-abcde", ("web-7d4b9c@shop", "web-7d4b9c-shop")),
        ("default", "nginx-f8d9c6576-8b4vf", ("nginx-f8d9c6576@default", "nginx-f8d9c6576-default")),
        ("x", "db-0", ("db@x", "db-x")),
        ("x", "debug", ("debug@x", "debug-x")),
        ("x", "a.b-1", ("a_b@x", "a_b-x")),
        ("x", "a.b", ("a_b@x", "a_b-x")),
        ("a.b", "web-1", ("web@a.b", "web-a.b")),
    ],
)
def test_identifiers(namespace, name, expected):
    assert identity.identifiers(namespace, name) == expected


def test_the_old_form_collides_over_namespaces_and_the_new_one_does_not():
    one, two = identity.identifiers("ns1", "deny-me-x"), identity.identifiers("me-ns1", "deny-x")
    assert one[1] == two[1]
    assert one[0] != two[0]
