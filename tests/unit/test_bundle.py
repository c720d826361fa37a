"""A Snapshot as a file: the same bytes back and forth, and one kind of error for everything else."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol import bundle
from kubectl_netpol.errors import BundleError, ExitCode
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from tests.unit.builders import NODE, article, document


def packed(snapshot) -> bytes:
    file = io.BytesIO()
    bundle.write_to(snapshot, file)
    return file.getvalue()


def unpacked(data: bytes) -> Snapshot:
    return bundle.read_from(io.BytesIO(data), "x.tar.gz")


HEADER = {"format": 1, "tool_version": "0", "taken_at": "2026-01-02T03:04:05Z", "namespace": "default", "nodes": {}}
PODS = {"items": [{"metadata": {"name": "a"}}], "reason": "", "absent": False}
SMALL = {"bundle.json": HEADER, "cluster/pods.json": PODS}


def archive(members, *, raw=()) -> bytes:
    """A tar.gz of these JSON members; ``raw``: (TarInfo, content) added as they are."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, body in members.items():
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info, content in raw:
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


# ---- round trip


def test_everything_comes_back():
    full = article()
    whole = Snapshot(
        {**full.collections, "services": Collection(reason="forbidden"), "policyendpoints": Collection(absent=True)},
        {**full.nodes, "node-b": NodeReading(None, "no image")},
        "2026-01-02T03:04:05Z",
        "1.2.3",
        "shop",
    )
    assert unpacked(packed(whole)) == whole
    assert packed(unpacked(packed(whole))) == packed(whole)


names = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
objects = st.builds(lambda spec, name: {"metadata": {"name": name}, "spec": spec}, json_values, names)
collections = st.builds(Collection, st.lists(objects, max_size=3).map(tuple), names, st.booleans())


@given(
    st.dictionaries(st.sampled_from(["pods", "services", "nodes"]), collections),
    st.dictionaries(names, st.builds(NodeReading, st.none(), names.filter(bool)), max_size=3),
    names,
)
def test_any_snapshot_round_trips(kinds, nodes, namespace):
    snapshot = Snapshot(kinds, nodes, "2026-01-02T03:04:05Z", "0", namespace)
    assert unpacked(packed(snapshot)) == snapshot


def test_the_file_does_not_depend_on_order_time_or_time_zone(monkeypatch):
    full = article()
    rest = full.taken_at, full.tool_version, full.namespace
    turned = Snapshot(dict(reversed(full.collections.items())), full.nodes, *rest)
    first = packed(full)
    items = full.items("pods")
    pods = Collection(tuple(dict(reversed(item.items())) for item in items))
    assert packed(Snapshot({**full.collections, "pods": pods}, full.nodes, *rest)) == first
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert packed(turned) == first
        summer = bundle._seconds("2026-07-02T03:04:05Z")
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert summer == 1782961445
    assert bundle._seconds("not a time") == 0


def test_files_are_written_and_read(tmp_path):
    path = str(tmp_path / "b.tar.gz")
    bundle.write(article(), path)
    assert bundle.read(path) == article()


def test_a_file_that_cannot_be_written_or_read_is_one_line(tmp_path):
    for call in (lambda p: bundle.write(article(), p), bundle.read):
        with pytest.raises(BundleError, match="could not be"):
            call(str(tmp_path))
        with pytest.raises(BundleError, match="No such file"):
            call(str(tmp_path / "no" / "b.tar.gz"))


def test_a_bundle_error_is_a_usage_error():
    assert BundleError("x").exit_code is ExitCode.USAGE


# ---- as a Source


def test_a_bundle_as_a_source(tmp_path):
    path = str(tmp_path / "b.tar.gz")
    bundle.write(article(), path)
    source = bundle.BundleSource(path)
    assert (source.namespace, source.taken_at, source.tool_version) == ("default", "2026-01-02T03:04:05Z", "0.0.0")
    assert bundle.BundleSource(path, "shop").namespace == "shop"
    assert [p["metadata"]["name"] for p in source.collections(["pods"], [])["pods"].items][1:] == [
        "accesstrue",
        "accessfalse",
    ]
    assert source.collections(["jobs"], [])["jobs"].reason == "jobs were not read"
    assert len(source.of_namespaces(["policyendpoints"], ["default"])["policyendpoints"].items) == 1
    assert source.of_namespaces(["policyendpoints"], ["shop"])["policyendpoints"].items == ()
    assert source.of_namespaces(["jobs"], ["shop"])["jobs"].reason == "jobs were not read"
    found = source.nodes({NODE: {}, "node-x": {}})
    assert found[NODE].document is not None
    assert found["node-x"].reason == "this node is not in the bundle"


# ---- damaged and hostile files


def test_the_small_archive_is_sound():
    assert unpacked(archive(SMALL)).items("pods") == ({"metadata": {"name": "a"}},)


NODE_FILE = {"node": "n", "document": document()}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "no bundle.json"),
        ({"cluster/pods.json": PODS}, "no bundle.json"),
        ({"bundle.json": []}, "not a JSON object"),
        ({"bundle.json": b"{"}, "damaged"),
        ({"bundle.json": b"\xff\xfe"}, "damaged"),
        ({"bundle.json": b"[" * 100_000}, "damaged"),
        ({"bundle.json": {**HEADER, "format": 3}}, "bundle format 3 is not known"),
        ({**SMALL, "bundle.json": {**HEADER, "format": 2}}, "its end is missing"),
        ({**SMALL, "bundle.json": {**HEADER, "format": 2}, "nodes.json": {}}, "KeyError"),
        ({**SMALL, "bundle.json": {**HEADER, "format": 2}, "nodes.json": {"nodes": {"a": ""}}}, "should hold node a"),
        ({"bundle.json": {**HEADER, "format": "1"}}, "bundle format '1' is not known"),
        ({"bundle.json": {**HEADER, "format": None}}, "bundle format None is not known"),
        ({"bundle.json": {"format": 1}}, "KeyError"),
        ({"bundle.json": {**HEADER, "nodes": []}}, "AttributeError"),
        ({**SMALL, "cluster/pods.json": {}}, "KeyError"),
        ({**SMALL, "cluster/pods.json": {**PODS, "items": None}}, "TypeError"),
        ({**SMALL, "cluster/pods.json": {**PODS, "items": ["x"]}}, "without metadata"),
        ({**SMALL, "cluster/pods.json": {**PODS, "items": [{"metadata": None}]}}, "without metadata"),
        ({**SMALL, "nodes/0.json": {"node": "n"}}, "KeyError"),
        ({**SMALL, "nodes/0.json": {"node": "n", "document": {}}}, "format"),
        ({**SMALL, "nodes/0.json": {"node": "n", "document": {**document(), "links": 5}}}, "links should be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_contents(members, message):
    with pytest.raises(BundleError, match=message) as failed:
        unpacked(archive(members))
    assert failed.value.message.startswith("x.tar.gz: ")


@pytest.mark.parametrize(
    "name",
    [
        "../bundle.json",
        "/etc/passwd",
        "cluster/../../x.json",
        "cluster/Pods.json",
        "cluster/pods.json\n",
        "nodes/x.json",
        "nodes/1234567.json",
        "./cluster/services.json",
    ],
)
def test_members_with_other_names_are_not_looked_at(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = unpacked(archive({**SMALL, name: b"not json"}))
    assert list(found.collections) == ["pods"]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_not_followed(kind):
    info = tarfile.TarInfo("cluster/services.json")
    info.type, info.linkname = kind, "/etc/passwd"
    found = unpacked(archive(SMALL, raw=[(info, b"")]))
    assert list(found.collections) == ["pods"]


def sized(size: int, name="cluster/services.json") -> bytes:
    """An archive with a header that promises ``size`` bytes which are not there."""
    info = tarfile.TarInfo(name)
    info.size = size
    return gzip.compress(info.tobuf(tarfile.PAX_FORMAT))


@pytest.mark.parametrize("name", ["cluster/services.json", "anything"])
def test_a_huge_member_is_refused_before_it_is_read(name):
    with pytest.raises(BundleError, match="larger than a bundle can be"):
        unpacked(sized(bundle.LARGEST_MEMBER + 1, name))


def test_limits_count_over_all_members(monkeypatch):
    monkeypatch.setattr(bundle, "LARGEST_TOTAL", 300)
    with pytest.raises(BundleError, match="larger than"):
        unpacked(archive({**SMALL, "ignored": b"x" * 200}))
    monkeypatch.setattr(bundle, "LARGEST_TOTAL", 1 << 30)
    monkeypatch.setattr(bundle, "MOST_MEMBERS", 2)
    assert unpacked(archive(SMALL))
    with pytest.raises(BundleError, match="larger than"):
        unpacked(archive({**SMALL, "ignored": b""}))


def test_a_member_that_is_cut_off():
    with pytest.raises(BundleError):
        unpacked(sized(1000))


@pytest.mark.parametrize(
    "data", [b"", b"\x1f\x8b", b"text", b"PK\3\4", gzip.compress(b"", mtime=0), gzip.compress(b"text" * 200, mtime=0)]
)
def test_files_that_are_no_bundle(data):
    with pytest.raises(BundleError):
        unpacked(data)


def test_an_uncompressed_tar_is_no_bundle():
    with pytest.raises(BundleError):
        unpacked(gzip.decompress(archive(SMALL)))


WHOLE = packed(article())


@given(st.integers(1, len(WHOLE) - 1))
def test_a_truncated_bundle_is_a_bundle_error(length):
    """Never a smaller cluster that looks sound."""
    with pytest.raises(BundleError):
        unpacked(WHOLE[:length])


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_a_bundle_error_or_no_difference(position, change):
    damaged = bytearray(WHOLE)
    damaged[position] ^= change
    try:
        found = unpacked(bytes(damaged))
    except BundleError:
        return
    assert found == article()


PLAIN = gzip.decompress(archive(SMALL))


@given(st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_tar_headers_are_never_another_kind_of_error(changes):
    damaged = bytearray(PLAIN)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    try:
        unpacked(gzip.compress(bytes(damaged), 1))
    except BundleError as error:
        assert "\n" not in error.message
