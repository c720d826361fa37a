"""Policies from files: what is taken, what is left alone, and one line for everything that is wrong."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.errors import UsageError
from kubectl_netpol.manifests import LARGEST, read_policies

POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web%s, annotations: {a: secret}}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}
"""


def read(tmp_path: Path, text: str, namespace: str = "shop"):
    file = tmp_path / "p.yaml"
    file.write_text(text)
    return read_policies([str(file)], namespace)


def test_policies_are_taken_and_the_rest_is_named(tmp_path):
    other = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
    found, others = read(tmp_path, f"---\n{POLICY % '-1'}---\n{other}---\n---\n{POLICY % '-2'}")
    assert [(p["metadata"]["name"], p["metadata"]["namespace"]) for p in found] == [
        ("web-1", "shop"),
        ("web-2", "shop"),
    ]
    assert others == (f"{tmp_path}/p.yaml: Service web",)
    assert "annotations" not in found[0]["metadata"]


def test_lists_are_opened(tmp_path):
    items = "".join(
        f"- {line}\n" if not number else f"  {line}\n" for number, line in enumerate(POLICY.strip().split("\n"))
    )
    found, _ = read(tmp_path, f"apiVersion: v1\nkind: List\nitems:\n{items}" % "")
    assert [p["metadata"]["name"] for p in found] == ["web"]


def test_stdin(monkeypatch):
    class Stdin:
        buffer = io.BytesIO((POLICY % "").encode())

    monkeypatch.setattr(sys, "stdin", Stdin)
    [found], _ = read_policies(["-"], "x")
    assert found["kind"] == "NetworkPolicy"


def test_a_cluster_policy_has_no_namespace(tmp_path):
    head = "apiVersion: networking.k8s.aws/v1alpha1\nkind: ClusterNetworkPolicy\n"
    text = f"{head}metadata: {{name: c, namespace: x}}\nspec: {{}}"
    [found], _ = read(tmp_path, text)
    assert "namespace" not in found["metadata"]


HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no NetworkPolicy, ApplicationNetworkPolicy or ClusterNetworkPolicy in it"),
        ("apiVersion: v1\nkind: Pod\n", "there is no NetworkPolicy"),
        ("a: [", "line 1: not YAML: "),
        ("- 1", "not a Kubernetes object: list"),
        ("text", "not a Kubernetes object: str"),
        ("kind: List\nitems: [1]", "not a Kubernetes object: int"),
        (HEAD.replace("name: web", "a: b") + "spec: {}", "a NetworkPolicy without metadata.name"),
        (HEAD, "NetworkPolicy web: it has no spec"),
        (HEAD.replace("/v1", "/v1beta1").replace(".io", ".com") + "spec: {}", "is not of networking.k8s.io"),
        (HEAD + "spec: {podSelector: 1}", "spec.podSelector is not an object"),
        (HEAD + "spec: {ingress: {}}", "spec.ingress is not a list"),
        (HEAD + "spec: {egress: [1]}", "spec.egress[0] is not an object"),
        (HEAD + "spec: {egress: [{from: []}]}", "spec.egress[0] has an unknown field from: to and ports are known"),
        (HEAD + "spec: {ingress: [{from: {}}]}", "spec.ingress[0].from is not a list"),
        (HEAD + "spec: {ingress: [{ports: [80]}]}", "spec.ingress[0].ports[0] is not an object"),
        (
            HEAD + "spec: {podSelector: {matchLabels: {access: true}}}",
            "spec.podSelector.matchLabels.access is True, and no text: put it in quotes",
        ),
        (
            HEAD + "spec: {ingress: [{from: [{podSelector: {matchLabels: {v: 1}}}]}]}",
            "spec.ingress[0].from[0].podSelector.matchLabels.v is 1, and no text",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, text, message):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * (LARGEST + 1)], ids=["no text", "too large"])
def test_no_manifest_at_all(tmp_path, content):
    file = tmp_path / "p.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"could not be read|larger than"):
        read_policies([str(file)], "x")


@pytest.mark.parametrize("path", ["nothing.yaml", "."])
def test_no_such_file(tmp_path, path):
    with pytest.raises(UsageError, match="the file could not be read: "):
        read_policies([str(tmp_path / path)], "x")


@given(st.text(alphabet="{}[]:,-&*!|>'\"#% \nabkindspecmeta01", max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text)
    with pytest.raises(UsageError):
        read_policies([str(file)], "x")
