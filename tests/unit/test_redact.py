"""Other names and addresses, and the same verdicts: nothing of the user's is left, and nothing else changes."""

from __future__ import annotations

import base64
import io
import json
import random
import re
import tarfile
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kubectl_netpol import bundle, redact
from kubectl_netpol.cli import run
from kubectl_netpol.diagnose.check import Check, asked_pods
from kubectl_netpol.diagnose.explain import explain
from kubectl_netpol.diagnose.plan import Question, make_plan
from kubectl_netpol.errors import UsageError
from kubectl_netpol.kernel.identity import identifiers, pinned_identifier, veth_names
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from kubectl_netpol.node.document import check_document
from kubectl_netpol.policy.world import World
from kubectl_netpol.redact import documents
from kubectl_netpol.redact.addresses import KEPT_RANGES, KEPT_WHOLE, Addresses
from kubectl_netpol.redact.names import Names
from kubectl_netpol.redact.vocabulary import PLAIN_WORDS
from tests.random_cluster import addresses, random_cluster
from tests.unit.builders import article
from tests.unit.modelled_node import aws_node, resolved
from tests.unit.modelled_node import documents as modelled_documents

KEY = bytes(range(32))
v4, v6 = st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address)
private = st.integers(10 << 24, (11 << 24) - 1).map(IPv4Address)
some = st.one_of(v4, private, v6)
WORD = re.compile(r"[A-Za-z0-9]+")


def shared(one, other) -> int:
    """How many first bits two addresses have in common."""
    return one.max_prefixlen - (int(one) ^ int(other)).bit_length()


# ---- addresses


@given(st.one_of(st.tuples(v4, v4), st.tuples(private, private), st.tuples(v6, v6)), st.binary(min_size=8, max_size=32))
def test_addresses_share_as_many_bits_afterwards_as_before(pair, key):
    one, other = pair
    made = Addresses(key)
    if not any(whole.version == one.version and (one in whole or other in whole) for whole in KEPT_WHOLE):
        assert shared(made.address(one), made.address(other)) == shared(one, other)


@given(some, st.data())
@example(ip_address("0.0.0.0"), None)
def test_a_network_holds_the_same_addresses_afterwards(one, data):
    length = one.max_prefixlen // 2 if data is None else data.draw(st.integers(0, one.max_prefixlen))
    network = ip_network(f"{one}/{length}", strict=False)
    made = Addresses(KEY)
    assert made.address(one) in made.network(network)
    assert made.network(network).prefixlen == length
    text = made.text(str(network))
    assert text is not None and ip_network(text) == made.network(network)


@given(some)
def test_ranges_that_mean_something_stay(one):
    made = Addresses(KEY).address(one)
    for kept in KEPT_RANGES:
        assert (one in kept) == (made in kept)
    for whole in KEPT_WHOLE:
        assert (one in whole) == (made in whole)
        if one in whole:
            assert made == one


def test_most_addresses_are_others_and_the_key_decides_which():
    own = [ip_address(f"10.{i}.{i * 7 % 256}.{i * 13 % 256}") for i in range(256)]
    first, second = Addresses(KEY), Addresses(KEY[::-1])
    assert sum(first.address(one) == one for one in own) < 3
    assert sum(first.address(one) == second.address(one) for one in own) < 3
    assert [first.address(one) for one in own] == [Addresses(KEY).address(one) for one in own]


def test_texts_of_addresses():
    made = Addresses(KEY)
    for text in ("10.0.0.5/24", "10.0.0.0/24", "10.0.0.5", "2001:db8::/64", "0.0.0.0/0", "::/0"):
        renamed = made.text(text)
        assert renamed is not None and renamed.partition("/")[2] == text.partition("/")[2]
    assert made.text("0.0.0.0/0") == "0.0.0.0/0"
    # Host bits that are set are a fault of their own, and stay set.
    assert str(ip_network(made.text("10.0.0.5/24"), strict=False)) == made.text("10.0.0.0/24")
    for text in ("nginx", "10", "10.0.0", "10.0.0.0/33", "x/24", "10.0.0.0/x"):
        assert made.text(text) is None


# ---- names

parts = st.text("abcXYZ019", min_size=1, max_size=4)
kube_names = st.lists(parts, min_size=1, max_size=4).map("-".join)


@given(kube_names, kube_names)
def test_identifiers_and_host_veths_follow_the_names(space, pod):
    names = Names(KEY)
    assert tuple(map(names.name, identifiers(space, pod))) == identifiers(names.name(space), names.name(pod))
    names.know_pods([(space, pod)])
    for index in (0, 3):
        renamed = tuple(map(names.link, veth_names(space, pod, index)))
        assert renamed == veth_names(names.name(space), names.name(pod), index)


@given(st.lists(kube_names, min_size=2, max_size=6, unique=True))
def test_different_names_stay_different_and_equal_ones_equal(given_names):
    names = Names(KEY)
    renamed = [names.name(one) for one in given_names]
    assert len(set(renamed)) == len(given_names)
    assert renamed == [names.name(one) for one in given_names]
    for name in renamed:
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*[a-z0-9]", name)


def test_labels_stay_labels():
    names = Names(KEY)
    assert names.label_key("kubernetes.io/metadata.name") == "kubernetes.io/metadata.name"
    assert names.label_key("topology.ebs.csi.eks.amazonaws.com/zone").startswith("topology.ebs")
    assert "acme" not in names.label_key("acme.example.com/team")
    assert "evil" not in names.label_key("evilkubernetes.io/x")
    long = ".".join("abcdefghij")
    assert len(names.label(long)) <= 63 and len(names.label(long * 3)) <= 63
    assert names.label("") == ""


@pytest.mark.parametrize(
    "text",
    [
        'pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "shop"',
        "node ip-10-0-7-5.eu-central-1.compute.internal: the debug pod netpol-ebpf-secretnode-x2 was ended",
        '{"level":"error","ts":"2026-01-02T03:04:05.678Z","msg":"unable to update map","pod":"shop/cart-7d4f-abcde"}',
        "filters eni0123456789a ingress: EPERM: Operation not permitted",
        "failed for 10.0.7.5, 10.0.7.0/24 and fd12:3456::7 of account 123456789012",
    ],
)
def test_sentences_keep_their_plain_words_only(text):
    names = Names(KEY)
    renamed = names.text(text)
    for secret in (
        "alice",
        "shop",
        "10-0-7-5",
        "secretnode",
        "cart",
        "abcde",
        "eni0123456789a",
        "10.0.7",
        "3456",
        "12345",
    ):
        assert secret not in renamed
    assert names.text(text) == renamed
    for word in (
        "forbidden",
        "cannot",
        "list",
        "level",
        "2026-01-02T03:04:05.678Z",
        "ingress",
        "EPERM",
        "failed",
        "map",
    ):
        assert (word in text) == (word in renamed)


@given(st.text(max_size=200))
def test_no_word_that_is_not_plain_stays_in_any_text(text):
    names = Names(KEY)
    left = set(WORD.findall(text)) & set(WORD.findall(names.text(text)))
    kept = {word for word in left if word.lower() not in PLAIN_WORDS and not word.isdecimal()}
    assert not {word for word in kept if not re.fullmatch(r"[0-9A-Fa-fTZ]+", word)}


def test_logged_addresses_are_written_out():
    names = Names(KEY)
    renamed = names.text('{"Src IP":"10.0.5","Src Port":1,"Dest IP":"10.0.5.7","Verdict":"DENY"}')
    base = names.addresses.address(ip_address("10.0.5.0"))
    assert f'"{base}"' in renamed and str(names.addresses.address(ip_address("10.0.5.7"))) in renamed
    assert "DENY" in renamed and "Src Port" in renamed


# ---- whole snapshots


def checked(snapshot: Snapshot) -> Snapshot:
    nodes = {
        name: NodeReading(None if r.document is None else check_document(json.loads(json.dumps(r.document))), r.reason)
        for name, r in snapshot.nodes.items()
    }
    rest = snapshot.taken_at, snapshot.tool_version, snapshot.namespace, snapshot.redacted
    return Snapshot(snapshot.collections, nodes, *rest)


def redacted(snapshot: Snapshot, names: Names) -> Snapshot:
    return checked(redact.renamed(checked(snapshot), names))


def report(snapshot: Snapshot):
    found = Check(World(snapshot), asked_pods(snapshot.items("pods")), whole=True)
    for node in found.by_node:
        found.node(node, snapshot.nodes.get(node, NodeReading(None, "not read")))
    return found.report()


def told(made, names=None):
    """What a report says, without its sentences; ``names``: in the words of the redacted one."""
    name = names.name if names else str
    rows = sorted(
        (name(r.namespace), name(r.name), r.intent, r.endpoints, r.pinned, r.attached, str(r.state), r.codes)
        for r in made.rows
    )
    found = sorted((f.code, f.severity, sorted((name(a), name(b)) for a, b in f.pods)) for f in made.findings)
    return rows, found


def decisions(snapshot: Snapshot, pod: str, end: str, port: str):
    """The verdict of a flow at each layer, or that it cannot be asked about."""
    try:
        plan = make_plan(Question(pod, source=end, port=port), snapshot.namespace, World(snapshot))
    except UsageError:
        return "no question"
    found = explain(plan, snapshot)
    layers = [(v.layer, v.decision, v.code) for leg in found.legs for v in leg.verdicts]
    return found.decision, found.cause, layers


def random_snapshot(seed: int, family: int) -> Snapshot:
    rng = random.Random(seed)
    objects = random_cluster(rng, family=family)
    world = resolved({**objects, "daemonsets": [aws_node()]})
    nodes = {name: NodeReading(document) for name, document in modelled_documents(world)}
    kept = world.snapshot
    damaged = {
        name: NodeReading(_damaged(reading.document, rng)) if rng.random() < 0.5 else reading
        for name, reading in nodes.items()
    }
    return checked(Snapshot(kept.collections, damaged, "2026-01-02T03:04:05Z", "1", kept.namespace))


def _damaged(document, rng):
    """Something that layers disagree about: an entry that is not in a map."""
    document = json.loads(json.dumps(document))
    rows = [row for row in document["maps"] if row["type"] == 11 and row["contents"] and row["contents"]["count"] > 1]
    for row in rng.sample(rows, min(len(rows), 1)):
        contents = row["contents"]
        for part, size in (("keys", row["key_size"]), ("values", row["value_size"])):
            contents[part] = base64.b64encode(base64.b64decode(contents[part])[size:]).decode()
        contents["count"] -= 1
        contents["total"] -= 1
    return document


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_is_said_of_every_pod_and_flow(seed, family):
    snapshot = random_snapshot(seed, family)
    names = Names(random.Random(seed).randbytes(32))
    other = redacted(snapshot, names)
    assert told(report(other)) == told(report(snapshot), names)
    pods = [p["metadata"] for p in snapshot.items("pods")]
    ends = addresses({kind: list(snapshot.items(kind)) for kind in ("pods", "nodes", "services")} | _nodes(snapshot))
    rng = random.Random(seed)
    for pod in rng.sample(pods, min(len(pods), 4)):
        for end in rng.sample(ends, min(len(ends), 5)):
            for port in ("80/TCP", "53/UDP"):
                was = decisions(snapshot, f"{pod['namespace']}/{pod['name']}", end, port)
                renamed = f"{names.name(pod['namespace'])}/{names.name(pod['name'])}"
                assert decisions(other, renamed, str(names.addresses.address(ip_address(end))), port) == was


def _nodes(snapshot):
    return {"nodes": list(snapshot.items("nodes"))}


def test_nothing_of_the_cluster_is_left_in_the_file(tmp_path, capsys):
    path, out, words = (str(tmp_path / name) for name in ("whole.tar.gz", "redacted.tar.gz", "names.json"))
    bundle.write(article(), path)
    assert run(["capture", "-A", "--redact", "--redact-names", words, "-f", out, "--bundle", path]) == 0
    given = json.loads(Path(words).read_text())
    with tarfile.open(out) as tar:
        text = "".join(f"{m.name}\n{tar.extractfile(m).read().decode()}\n" for m in tar if m.isfile())
    found = set(re.findall(r"[A-Za-z0-9]+", text))
    for word in given["words"].values():
        assert word not in found - PLAIN_WORDS, word
    for address in given["addresses"].values():
        if given["addresses"].get(address) != address:
            assert address not in text
    for new, old in given["addresses"].items():
        if new != old:
            packed = ip_address(old).packed
            assert not any(packed in raw for raw in contents(out) if len(packed) == 16)
    assert "redacted" in capsys.readouterr().err


def contents(path: str):
    for reading in bundle.read(path).nodes.values():
        for row in reading.document["maps"]:
            if row["contents"]:
                yield from row["contents"].entries


def test_a_redacted_bundle_answers_like_the_whole_one(tmp_path, capsys):
    path, out, words = (str(tmp_path / name) for name in ("whole.tar.gz", "redacted.tar.gz", "names.json"))
    bundle.write(article(), path)
    run(["capture", "-A", "--redact", "--redact-names", words, "-f", out, "--bundle", path])
    capsys.readouterr()
    back = {old: new for new, old in json.loads(Path(words).read_text())["words"].items()}

    def new(text: str) -> str:
        return re.sub(r"[A-Za-z0-9]+", lambda m: back.get(m[0], m[0]), text)

    for arguments in (["explain", "{}/{}"], ["maps", "{}/{}"], ["conntrack", "{}/{}"], ["check", "-A"]):
        for pod in article().items("pods"):
            space, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
            codes = []
            for file, rename in ((path, str), (out, new)):
                asked = [part.format(rename(space), rename(name)) for part in arguments]
                codes.append(run([*asked, "--bundle", file]))
            assert codes[0] == codes[1], arguments
    assert "Traceback" not in capsys.readouterr().err


def test_a_map_of_unknown_layout_is_left_out_and_said_to_be():
    snapshot = checked(article())
    document = next(iter(snapshot.nodes.values())).document
    row = next(row for row in document["maps"] if row["contents"] and row["contents"]["count"])
    row["value_size"] += 4
    raw = {**row["contents"], "values": base64.b64encode(bytes(row["value_size"] * row["contents"]["count"])).decode()}
    row["contents"] = {k: v for k, v in raw.items() if k not in ("columns", "index")}
    whole = check_document(document)
    made = documents.document(whole, Names(KEY))
    assert next(r for r in made["maps"] if r["id"] == row["id"])["contents"] is None
    assert {"what": f"map {row['id']}", "error": documents.LEFT_OUT} in made["errors"]


def test_sections_that_are_not_known_are_left_out():
    document = next(iter(checked(article()).nodes.values())).document
    made = documents.document({**document, "of_a_later_reader": {"pod": "secret"}}, Names(KEY))
    assert "of_a_later_reader" not in made and "secret" not in json.dumps(made)


def test_what_the_tools_could_not_tell_stays_untold():
    document = next(iter(checked(article()).nodes.values())).document
    row = next(row for row in document["maps"] if row["type"] == 11 and row["contents"]["count"])
    row["contents"]["first_slot_only"] = True
    made = check_document(documents.document(document, Names(KEY)))
    assert next(r for r in made["maps"] if r["id"] == row["id"])["contents"]["first_slot_only"] is True


def test_owners_and_finalizers_of_somebodys_own_making_are_renamed():
    metadata = {
        "name": "a",
        "namespace": "b",
        "finalizers": ["acme.example/guard", "networking.k8s.aws/resources"],
        "ownerReferences": [{"kind": "AcmeThing", "name": "x"}, {"kind": "ReplicaSet", "name": "y"}],
    }
    made = redact.renamed(Snapshot({"pods": Collection(({"metadata": metadata},))}), Names(KEY)).items("pods")[0]
    assert "acme" not in json.dumps(made).lower()
    assert made["metadata"]["finalizers"][1] == "networking.k8s.aws/resources"
    assert made["metadata"]["ownerReferences"][1]["kind"] == "ReplicaSet"


def test_what_changed_while_it_was_read_is_renamed_alike():
    document = next(iter(checked(article()).nodes.values())).document
    names = Names(KEY)
    names.know_pods([("shop", "cart-7d4f")])
    veth, pin = veth_names("shop", "cart-7d4f")[0], "maps/cart@shop_ingress_map"
    section = {
        "attempts": 2,
        "steady": False,
        "changed": [f"filter {veth} ingress: program 12 -> 15"],
        "open": {"links": [veth], "programs": [12], "maps": [], "pins": [pin]},
        "unchecked": [],
        "took_ns": 5,
        "in_progress": ["NPE301 pod shop/cart-7d4f lacks 10.1.2.3/32"],
    }
    made = check_document(documents.document({**document, "consistency": section}, names))["consistency"]
    renamed = veth_names(names.name("shop"), names.name("cart-7d4f"))[0]
    assert made["open"]["links"] == [renamed] and made["changed"] == [f"filter {renamed} ingress: program 12 -> 15"]
    assert made["open"]["pins"] == [f"maps/{names.name('cart@shop')}_ingress_map"]
    assert not re.search(r"shop|cart|10\.1\.2\.3", json.dumps(made))


def test_an_unknown_field_of_an_object_is_renamed():
    pod = {"metadata": {"name": "a", "namespace": "b"}, "spec": {"later": {"words": ["secret", {"deep": "acme-7"}]}}}
    names = Names(KEY)
    made = redact.renamed(Snapshot({"pods": Collection((pod,))}), names)
    assert not re.search(r"secret|acme", json.dumps(made.items("pods")))


def test_pins_and_ports_and_owners():
    names = Names(KEY)
    row = {"path": "maps/cart-7d4f@shop_ingress_map", "kind": "map", "id": 1, "reason": ""}
    made = documents._pin(row, names)["path"]
    assert made.startswith("maps/") and made.endswith("_ingress_map")
    assert pinned_identifier(made.rpartition("/")[2]) == names.name("cart-7d4f@shop")
    assert documents._pin({**row, "path": "maps/global_policy_events"}, names)["path"] == "maps/global_policy_events"


def test_a_redacted_file_says_so(tmp_path, capsys):
    path = tmp_path / "b.tar.gz"
    file = io.BytesIO()
    bundle.write_to(redacted(article(), Names(KEY)), file)
    path.write_bytes(file.getvalue())
    assert bundle.read(str(path)).redacted
    run(["check", "-A", "--bundle", str(path)])
    assert "redacted: names and addresses stand for others" in capsys.readouterr().err
