"""Bombs: small inputs that would unpack, nest or multiply into something that fits into no memory.

They are read in a process that may have 1 GiB of addresses: what takes more ends as MemoryError, and the test fails.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.targets import api, bundles, node

ZEROS = 16 << 20
MEMORY = 1 << 30
CHILD = """
import resource, sys
from kubectl_netpol.cli import run
from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.errors import NetpolError
from kubectl_netpol.node.transport import parse_answer
from kubectl_netpol import bundle, manifests
import yaml, kubectl_netpol.yaml_text
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
for path in sys.argv[1:]:
    print("file", path, flush=True)
    try:
        if path.endswith(".answer"):
            parse_answer(ExecResult(open(path, "rb").read(), b"", 0), "pod a/b")
        elif path.endswith(".yaml"):
            manifests.read_policies([path], "default")
        else:
            bundle.read(path)
    except NetpolError as error:
        print("error", error, flush=True)
"""


def header(kind: bytes, size: int, name: str = "bundle.json") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def zeros(count: int) -> bytes:
    """Gzip members of 16 MiB each."""
    return gzip.compress(bytes(ZEROS), 9) * count


def repeated(text: bytes, size: int) -> bytes:
    """A gzip file of this text again and again."""
    block = text * (ZEROS // len(text))
    return gzip.compress(block, 9) * (size // len(block) + 1)


def sparse() -> bytes:
    """An old GNU sparse header whose list of holes goes on for ever."""
    block = bytearray(header(b"S", 0))
    block[482] = 1
    return bundles.with_checksums(bytes(block))


def pax_sparse() -> bytes:
    """A member of format 1.0, whose map of holes is in its data and says that it has a billion."""
    record = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n34 GNU.sparse.realsize=1099511627776\n"
    return header(b"x", len(record)) + record.ljust(512, b"\0") + header(b"0", 1 << 40) + b"1000000000\n"


def bombs() -> Iterator[tuple[str, bytes]]:
    yield "pax.tar.gz", gzip.compress(header(b"x", 3 << 30)) + zeros(192)
    yield "pax-global.tar.gz", gzip.compress(header(b"g", 3 << 30)) + zeros(192)
    yield "long-name.tar.gz", gzip.compress(header(b"L", 3 << 30)) + zeros(192)
    yield "long-link.tar.gz", gzip.compress(header(b"K", 3 << 30)) + zeros(192)
    ones = b"\0\0\0\0\0\0\0\0\0\0\1\0" * 42 + b"\1" + bytes(7)
    yield "sparse.tar.gz", gzip.compress(sparse()) + repeated(ones, 1 << 30)
    yield "sparse-pax.tar.gz", gzip.compress(pax_sparse()) + repeated(b"1\n", 1 << 30)
    yield "holes.tar.gz", gzip.compress(header(b"0", 1 << 60))
    yield "values.tar.gz", gzip.compress(header(b"0", 1 << 29) + b"[") + repeated(b"[],", 1 << 29)
    some = b"[" + b"[]," * (4 << 20) + b"0]"
    some = b"".join(header(b"0", len(some), f"cluster/{kind}.json") + some + bytes(-len(some) % 512) for kind in "abc")
    yield "members.tar.gz", gzip.compress(some, 1)
    yield "deep.tar.gz", gzip.compress(header(b"0", 1 << 24) + b"[" * (1 << 24))
    values = b"[" + b"[]," * (40 << 20) + b"0]"
    yield "values.answer", node.framed(zlib.compress(values, 1))
    yield "deep.answer", node.framed(zlib.compress(b"[" * (1 << 24), 1))
    yield (
        "aliases.yaml",
        ("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))).encode(),
    )
    yield (
        "merges.yaml",
        (
            "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}\n" for n in range(1, 40))
        ).encode(),
    )
    yield "deep.yaml", b"[" * (3 << 20)
    yield "deeper.yaml", b"- " * (1 << 20)
    yield "keys.yaml", b"? " * (1 << 20)
    yield "json.yaml", b'{"a":' * (1 << 19)
    yield "number.yaml", b"a: " + b"9" * (3 << 20)
    key = b"k" * (1 << 20)
    yield "key.yaml", b'{"' + key + b'": 1, "' + key + b'": 2}'
    yield "key-yaml.yaml", b"? " + key + b"\n: 1\n? " + key + b"\n: 2\n"
    yield "tag.yaml", b"a: !<" + key + b"> 1"


def test_bombs_are_refused_in_little_memory(tmp_path: Path) -> None:
    names = []
    for name, data in bombs():
        (tmp_path / name).write_bytes(data)
        names.append(name)
    command = [sys.executable, "-c", CHILD.format(memory=MEMORY), *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0::2]) == (0, [f"file {name}" for name in names]), done.stderr[-2000:]
    for name, line in zip(names, lines[1::2], strict=True):
        assert line.startswith("error ") and name.partition(".")[0] in (line if name.endswith("gz") else name), line
        assert len(line) < 1000, (name, len(line))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


# ---- archives that are no bombs


def read(data: bytes, tmp_path: Path) -> str:
    """The refusal."""
    from kubectl_netpol import bundle
    from kubectl_netpol.errors import BundleError

    path = tmp_path / "b.tar.gz"
    path.write_bytes(data)
    with pytest.raises(BundleError) as caught:
        bundle.read(str(path))
    assert [one.name for one in tmp_path.iterdir()] == ["b.tar.gz"]
    return caught.value.message


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_a_link_or_a_device_is_no_member(kind: bytes, tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("bundle.json")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    assert "bundle.json" in read(gzip.compress(file.getvalue()), tmp_path)


@pytest.mark.parametrize(
    "name", ["../bundle.json", "/bundle.json", "nodes/../bundle.json", "bundle.json\n", "./bundle.json"]
)
def test_a_path_that_leads_elsewhere_is_no_member(name: str, tmp_path: Path) -> None:
    found = {name: bundles.members()["bundle.json"]}
    assert "bundle.json" in read(gzip.compress(bundles.archive(found)), tmp_path)


def test_a_member_that_is_there_twice_is_not_believed(tmp_path: Path) -> None:
    tar = bundles.archive(bundles.members())
    again = bundles.archive({"bundle.json": bundles.members()["bundle.json"]})
    end = tar.rstrip(b"\0")
    assert "bundle.json twice" in read(gzip.compress(end + bytes(-len(end) % 512) + again), tmp_path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "9" * 5000])
def test_numbers_that_json_does_not_have(number: str, tmp_path: Path) -> None:
    found = bundles.members()
    found["cluster/pods.json"] = json.dumps(found["cluster/pods.json"])[:-1] + f', "x": {number}}}'
    assert "b.tar.gz" in read(gzip.compress(bundles.archive(found)), tmp_path)


# ---- lists


def test_a_list_whose_next_page_is_the_same_one() -> None:
    from kubectl_netpol.errors import ApiError

    page = json.dumps({"items": [{"metadata": {"name": "a"}}], "metadata": {"continue": "t"}}).encode()
    with pytest.raises(ApiError, match="does not end"):
        api.client([api.Response(200, {}, page) for _ in range(5)]).list("/api/v1/pods")
