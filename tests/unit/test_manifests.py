"""Policies from files: what is read and how, what is left alone, and one line for everything that is wrong."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kubectl_netpol import yaml_text
from kubectl_netpol.errors import UsageError
from kubectl_netpol.manifests import LARGEST, read_policies
from tests.unit.test_validation import ANYTHING, KEYS

Json = dict[str, Any]

POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web%s, annotations: {a: secret}}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}
"""
HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\n"
CLUSTER = """
apiVersion: networking.k8s.aws/v1alpha1
kind: ClusterNetworkPolicy
metadata: {name: c, namespace: x}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}}
"""
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"


def read(tmp_path: Path, text: str, namespace: str = "shop") -> tuple[tuple[Json, ...], tuple[str, ...]]:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    return read_policies([str(file)], namespace)


def refusal(*paths: str | Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_policies([str(path) for path in paths], "shop")
    assert caught.value.message.isprintable()
    return caught.value.message


def spec_of(tmp_path: Path, spec: str) -> Json:
    [found], _ = read(tmp_path, f"{HEAD}spec: {spec}")
    return found["spec"]


def names(found: tuple[Json, ...]) -> list[str]:
    return [policy["metadata"]["name"] for policy in found]


def test_policies_are_taken_and_the_rest_is_named(tmp_path: Path) -> None:
    found, others = read(tmp_path, f"---\n{POLICY % '-1'}---\n{SERVICE}---\n---\n{POLICY % '-2'}")
    assert [(p["metadata"]["name"], p["metadata"]["namespace"]) for p in found] == [
        ("web-1", "shop"),
        ("web-2", "shop"),
    ]
    assert others == (f"{tmp_path}/p.yaml: Service web",)
    assert "annotations" not in found[0]["metadata"]
    assert found[0]["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]


def test_a_namespace_of_its_own_is_kept(tmp_path: Path) -> None:
    [found], _ = read(tmp_path, HEAD.replace("name: web", "name: web, namespace: own") + "spec: {}")
    assert found["metadata"]["namespace"] == "own"


def test_a_cluster_policy_has_no_namespace(tmp_path: Path) -> None:
    [found], _ = read(tmp_path, CLUSTER)
    assert "namespace" not in found["metadata"]


def test_the_status_of_a_file_is_no_evidence(tmp_path: Path) -> None:
    [found], _ = read(tmp_path, HEAD + "spec: {}\nstatus: {conditions: [1]}")
    assert "status" not in found


def test_nulls_are_gone(tmp_path: Path) -> None:
    assert spec_of(tmp_path, "{podSelector: , ingress: [{ports: [null], from: }], policyTypes: null}") == {
        "ingress": [{"ports": [{}]}]
    }


def test_the_same_policy_twice_is_given_twice_in_order(tmp_path: Path) -> None:
    """Of them the last one counts: ``policy.changes``."""
    for name, types in (("a.yaml", "Ingress"), ("b.yaml", "Egress")):
        (tmp_path / name).write_text(f"{HEAD}spec: {{policyTypes: [{types}]}}")
    found, _ = read_policies([str(tmp_path / "b.yaml"), str(tmp_path / "a.yaml")], "x")
    assert [policy["spec"]["policyTypes"] for policy in found] == [["Egress"], ["Ingress"]]


# ---- lists


def indented(text: str) -> str:
    return "- " + "\n  ".join(text.strip().split("\n")) + "\n"


def test_lists_are_opened(tmp_path: Path) -> None:
    items = indented(POLICY % "") + indented(SERVICE)
    found, others = read(tmp_path, f"apiVersion: v1\nkind: List\nitems:\n{items}")
    assert names(found) == ["web"]
    assert others == (f"{tmp_path}/p.yaml: Service web",)


def test_lists_in_lists_keep_their_order(tmp_path: Path) -> None:
    inner = {"apiVersion": "v1", "kind": "List", "items": [yaml.safe_load(POLICY % n) for n in (1, 2)]}
    outer = {"kind": "List", "items": [inner, yaml.safe_load(POLICY % 3)]}
    found, _ = read(tmp_path, json.dumps(outer) + json.dumps(yaml.safe_load(POLICY % 4)))
    assert names(found) == ["web1", "web2", "web3", "web4"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [(POLICY % "", "NetworkPolicy"), (CLUSTER, "ClusterNetworkPolicy"), (CLUSTER, "ApplicationNetworkPolicy")],
)
def test_items_take_the_kind_of_their_list(tmp_path: Path, text: str, kind: str) -> None:
    item = yaml.safe_load(text)
    if kind == "ApplicationNetworkPolicy":
        item["spec"] = {"podSelector": {}}
    version, _ = item.pop("apiVersion"), item.pop("kind")
    found, _ = read(tmp_path, json.dumps({"apiVersion": version, "kind": f"{kind}List", "items": [item]}))
    assert found[0]["kind"] == kind


def test_items_with_a_kind_keep_it(tmp_path: Path) -> None:
    text = f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nitems:\n{indented(POLICY % '')}"
    found, others = read(tmp_path, text + indented(SERVICE))
    assert names(found) == ["web"]
    assert others == (f"{tmp_path}/p.yaml: Service web",)


def test_a_kind_that_only_sounds_like_a_list_is_an_object(tmp_path: Path) -> None:
    _, others = read(tmp_path, f"{POLICY % ''}---\nkind: AllowList\nmetadata: {{name: x}}\n")
    assert others == (f"{tmp_path}/p.yaml: AllowList x",)


# ---- files


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(f"{POLICY % ''}---\n{SERVICE}".encode())

    monkeypatch.setattr(sys, "stdin", Stdin)
    [found], others = read_policies(["-"], "x")
    assert found["kind"] == "NetworkPolicy"
    assert others == ("stdin: Service web",)


def test_stdin_twice() -> None:
    assert refusal("-", "-") == "-f - is there twice: stdin can be read once"


def test_a_directory_is_read_as_kubectl_does(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "c.json", "d.txt", "e.yaml.bak"):
        text = POLICY % f"-{name[0]}"
        (tmp_path / name).write_text(json.dumps(yaml.safe_load(text)) if name.endswith("json") else text)
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "other.yaml").write_text(SERVICE)
    (tmp_path / "sub.yaml").mkdir()
    (tmp_path / "sub.yaml" / "f.yaml").write_text(POLICY % "-f")
    found, others = read_policies([str(tmp_path)], "x")
    assert names(found) == ["web-a", "web-b", "web-c"]
    assert others == (f"{tmp_path}/other.yaml: Service web",)


def test_a_directory_without_manifests(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: there is no *.yaml, *.yml or *.json file in this directory"
    (tmp_path / "a.yaml").write_text(SERVICE)
    assert refusal(tmp_path) == f"{tmp_path}: there is no policy in it, only Service web"


def test_what_is_wrong_in_a_directory_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POLICY % "")
    (tmp_path / "b.yaml").write_text("a: [")
    assert refusal(tmp_path).startswith(f"{tmp_path}/b.yaml line 1: not YAML: ")


def test_a_fifo_is_read_to_its_end(tmp_path: Path) -> None:
    """As `<(...)` of a shell, in parts."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def write() -> None:
        with fifo.open("wb", buffering=0) as file:
            for part in (POLICY % "").partition("kind"):
                file.write(part.encode())

    writer = threading.Thread(target=write)
    writer.start()
    found, _ = read_policies([str(fifo)], "x")
    writer.join()
    assert names(found) == ["web"]


def test_an_open_descriptor_is_read() -> None:
    end, start = os.pipe()
    os.write(start, (POLICY % "").encode())
    os.close(start)
    try:
        found, _ = read_policies([f"/dev/fd/{end}"], "x")
    finally:
        os.close(end)
    assert names(found) == ["web"]


@pytest.mark.parametrize("size", [0, 1])
def test_the_largest_file(tmp_path: Path, size: int) -> None:
    file = tmp_path / "p.yaml"
    text = POLICY % ""
    file.write_text(text + "#" * (LARGEST - len(text) + size))
    if size:
        assert refusal(file) == f"{file}: larger than 4 MiB: that is no policy"
    else:
        assert names(read_policies([str(file)], "x")[0]) == ["web"]


def test_an_endless_stream() -> None:
    assert refusal("/dev/zero") == "/dev/zero: larger than 4 MiB: that is no policy"


def test_no_text(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"\xff\xfe")
    assert refusal(file) == f"{file}: the file could not be read: it is not text"


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    assert names(read(tmp_path, "\ufeff" + POLICY % "")[0]) == ["web"]


def test_no_such_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "x") == f"{tmp_path}/x: the file could not be read: No such file or directory"
    assert refusal("a\0b") == "a?b: the file could not be read: it has no possible name"


# ---- texts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p.yaml: there is no policy in it, it is empty"),
        ("---\n# nothing\n---\n", "p.yaml: there is no policy in it, it is empty"),
        ("kind: List\nitems: []", "p.yaml: there is no policy in it, it is empty"),
        ("kind: NetworkPolicyList\n", "p.yaml: there is no policy in it, it is empty"),
        ("kind: NetworkPolcy\nmetadata: {name: x}\n", "p.yaml: there is no policy in it, only NetworkPolcy x"),
        ("apiVersion: v1\nkind: Pod\n", "p.yaml: there is no policy in it, only Pod"),
        ("metadata: {name: x}\n", "there is no policy in it, only an object without a kind x"),
        ("kind: 1\nmetadata: 1\n", "there is no policy in it, only an object without a kind"),
        ('kind: "a\\e[1m\\nb"\nmetadata: {name: "\\e"}', "only a\\x1b[1m\\nb \\x1b"),
        ("---\nkind: A\n" * 5, "p.yaml: there is no policy in it, only A, A, A and 2 more"),
        ("a: [", "p.yaml line 1: not YAML: "),
        ("a: b\n c: d\n", "p.yaml line 2: not YAML: "),
        ("a: \x01", "p.yaml: not YAML: "),
        ("a: !!python/object:os.system x", "p.yaml line 1: not YAML: could not determine a constructor"),
        ("a: !!binary aGk=", "not YAML: could not determine a constructor"),
        ("a: !!int x", "p.yaml line 1: expected a number"),
        ("a: !!bool x", "p.yaml line 1: expected a boolean"),
        ("a: !!map x", "p.yaml line 1: expected an object"),
        ("[a]: b", "p.yaml line 1: a key is not a string"),
        ("~: b", "p.yaml line 1: a key is not a string"),
        ("a: *b", "p.yaml line 1: not YAML: found undefined alias"),
        ("\na: &a [*a]", "p.yaml line 2: the value of &a contains itself"),
        ("a: &a b\nc: &a [*a]", "p.yaml line 2: the value of &a contains itself"),
        ("- 1", "p.yaml: not a Kubernetes object: a list"),
        ("text", 'p.yaml: not a Kubernetes object: "text"'),
        ("kind: List\nitems: [1]", "p.yaml: not a Kubernetes object: 1"),
        ("kind: List\nitems: [null]", "p.yaml: not a Kubernetes object: null"),
        ("kind: List\nitems: {}", "p.yaml: List: items is an object, not a list"),
        (HEAD + "spec: {}\nspec: {}\n", 'p.yaml line 5: the key "spec" is there twice'),
        (HEAD + "spec:\n  ingress: []\n  egress: []\n  ingress: [{}]", 'line 7: the key "ingress" is there twice'),
        (HEAD + "spec: {podSelector: {matchLabels: {a: b, a: c}}}", 'line 4: the key "a" is there twice'),
        ('{"a": 1,\n "a": 2}', 'p.yaml line 2: the key "a" is there twice'),
        ('{"a": 1,\n\t"a": 2}', 'the key "a" is there twice'),
        (HEAD.replace("name: web", "a: b"), "p.yaml: NetworkPolicy: metadata.a is unknown: name, "),
        (HEAD.replace("{name: web}", "{}"), "p.yaml: NetworkPolicy: metadata.name is missing"),
        (HEAD.replace("web", "Web_1"), 'p.yaml: NetworkPolicy Web_1: metadata.name is "Web_1": it may have'),
        (HEAD.replace("/v1", "/v1beta1"), 'NetworkPolicy web: apiVersion is "networking.k8s.io/v1beta1": '),
        (
            HEAD + "spec: {ingress: [{ports: [{protocol: tcp}]}]}",
            'spec.ingress[0].ports[0].protocol is "tcp": TCP, UDP',
        ),
        (
            HEAD + "spec: {podSelector: {matchLabels: {access: true}}}",
            "p.yaml: NetworkPolicy web: spec.podSelector.matchLabels.access is true, not a string: put it in quotes",
        ),
        ("kind: NetworkPolicyList\nitems: [{metadata: {name: x}}]", "NetworkPolicy x: apiVersion is missing: "),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    assert message in refusal(file)


NINE = ", ".join(["*a%d"] * 9)
BOMBS = {
    "lists": "a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{NINE.replace('%d', str(n))}]\n" for n in range(20)),
    "merges": "a0: &a0 {x: y}\n"
    + "".join(f"a{n + 1}: &a{n + 1} {{<<: [{NINE.replace('%d', str(n))}]}}\n" for n in range(20)),
    "in a policy": f"{HEAD}spec:\n  policyTypes: &x [{'x, ' * 2000}]\n  ingress: [{'*x, ' * 2000}]\n",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_alias_bombs(tmp_path: Path, text: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    assert "aliases stand for more than 100000 values" in refusal(file)


DEEP = {
    "lists": "[" * (LARGEST // 2),
    "objects": "{a: " * (LARGEST // 8),
    "json": '{"a":' * (LARGEST // 8),
    "closed json": '{"a":' * 65 + "1" + "}" * 65,
    "dashes": "- " * (LARGEST // 8),
    "lines": "\n".join(" " * n + "a:" for n in range(2000)),
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("plain", [False, True])
def test_deep_nesting(tmp_path: Path, text: str, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:
        monkeypatch.setattr(yaml_text, "_loader", yaml_text._PlainLoader)
    file = tmp_path / "p.yaml"
    file.write_text(text)
    assert any(words in refusal(file) for words in ("nested deeper than 64 levels", "exceeded maximum nesting depth"))


def test_deep_lists_of_lists(tmp_path: Path) -> None:
    """Each is two levels."""
    document = yaml.safe_load(POLICY % "")
    for _ in range(25):
        document = {"kind": "List", "items": [document]}
    assert names(read(tmp_path, json.dumps(document))[0]) == ["web"]


# ---- YAML as kubectl reads it


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("y", "true"),
        ("N", "false"),
        ("yes", "true"),
        ("off", "false"),
        ("12e4567", "12e4567"),
        ("1e3", "1e3"),
        ("1.10", "1.10"),
        ("08", "08"),
        ("010", "8"),
        ("0x1f", "31"),
        ("1_000", "1000"),
        (".inf", ".inf"),
        ("9" * 400, "9" * 40 + "..."),
    ],
)
def test_scalars_that_are_no_strings(tmp_path: Path, value: str, shown: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"{HEAD}spec: {{podSelector: {{matchLabels: {{v: {value}}}}}}}")
    assert refusal(file).endswith(f"spec.podSelector.matchLabels.v is {shown}, not a string: put it in quotes")


@pytest.mark.parametrize("value", ["2024-01-02", "1.2.3", "0x", "e12", "nope", "yEs", "'1'", '"true"', "!!str 1", "1e"])
def test_scalars_that_are_strings(tmp_path: Path, value: str) -> None:
    labels = spec_of(tmp_path, f"{{podSelector: {{matchLabels: {{v: {value}}}}}}}")["podSelector"]["matchLabels"]
    assert labels == {"v": value.removeprefix("!!str ").strip("'\"")}


def test_keys_are_strings(tmp_path: Path) -> None:
    labels = spec_of(tmp_path, "{podSelector: {matchLabels: {1: a, on: b, 1.5: c}}}")["podSelector"]["matchLabels"]
    assert labels == {"1": "a", "true": "b", "1.5": "c"}


def test_anchors_and_merges(tmp_path: Path) -> None:
    rule = "{from: [{podSelector: {matchLabels: {<<: *l, a: e}}}]}"
    found = spec_of(tmp_path, f"{{podSelector: {{matchLabels: &l {{a: b, c: d}}}}, ingress: [{rule}]}}")
    assert found["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == {"a": "e", "c": "d"}
    assert found["podSelector"]["matchLabels"] == {"a": "b", "c": "d"}


def test_an_anchor_may_be_used_again(tmp_path: Path) -> None:
    found = spec_of(tmp_path, "{podSelector: {matchLabels: {a: &x b, c: &x d, e: *x}}}")
    assert found["podSelector"]["matchLabels"] == {"a": "b", "c": "d", "e": "d"}


def test_json_with_tabs_and_pairs_of_surrogates(tmp_path: Path) -> None:
    document = {**yaml.safe_load(POLICY % ""), "metadata": {"name": "web", "annotations": {"a": "\U0001f600"}}}
    assert names(read(tmp_path, json.dumps(document, indent="\t"))[0]) == ["web"]


# ---- any text


def only_usage_errors(file: Path) -> bool:
    """Whether it is refused."""
    try:
        read_policies([str(file)], "x")
    except UsageError as error:
        assert error.message.isprintable(), repr(error.message)
        assert len(error.message) < 600
        return True
    return False


@given(st.text(alphabet="{}[]:,-&*!|>'\"#% \nabkindspecmeta01", max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text)
    assert only_usage_errors(file)


@given(st.binary(max_size=100))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    assert only_usage_errors(file)


KINDS = ["NetworkPolicy", "ApplicationNetworkPolicy", "ClusterNetworkPolicy", "NetworkPolicyList", "List", "Service"]


@given(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(KINDS) | ANYTHING},
        optional={
            "apiVersion": st.sampled_from(["networking.k8s.io/v1", "networking.k8s.aws/v1alpha1"]) | ANYTHING,
            "metadata": st.just({"name": "web"}) | ANYTHING,
            "spec": st.dictionaries(KEYS, ANYTHING, max_size=4) | ANYTHING,
            "items": ANYTHING,
        },
    ),
    st.booleans(),
)
def test_any_object_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: Json, as_json: bool) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(json.dumps(document) if as_json else yaml.safe_dump(document, allow_unicode=False))
    only_usage_errors(file)


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML has no libyaml here: there is one parser only")
@settings(max_examples=300)
@given(st.text(alphabet="{}[]:,-&*<~ \nabyn012.e'", max_size=60))
def test_both_parsers_read_the_same(text: str) -> None:
    found = []
    for loader in (yaml_text._FastLoader, yaml_text._PlainLoader):
        try:
            found.append(repr(list(yaml_text._read(loader(text)))))
        except yaml.YAMLError:
            return
    assert found[0] == found[1]
