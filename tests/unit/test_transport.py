"""The frame and the document of an answer: garbage of any kind is a NodeError, never anything else."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.errors import NodeError
from kubectl_netpol.node import reader, transport
from kubectl_netpol.node.document import check_document, raw_entries

CLOCK = {"monotonic_ns": 1, "boottime_ns": 2, "realtime_ns": 3}
DOCUMENT: dict[str, Any] = {
    "format": 1,
    "reader": "1.0",
    "uname": {"sysname": "Linux", "release": "6.1", "machine": "x86_64", "nodename": "n"},
    "python": "3.9.16",
    "clock": {"begin": CLOCK, "end": {**CLOCK}},
    "bpffs": {"path": "/sys/fs/bpf", "reason": ""},
    "links": [
        {
            "ifindex": 4,
            "name": "eni1",
            "kind": "veth",
            "flags": 69699,
            "operstate": "UP",
            "mtu": 9001,
            "address": "02:00:00:00:00:01",
            "peer_ifindex": 3,
            "link_netnsid": 0,
            "master": None,
        }
    ],
    "addresses": [{"ifindex": 1, "family": 4, "address": "127.0.0.1", "prefixlen": 8}],
    "routes": [
        {
            "family": 4,
            "destination": "10.0.0.1",
            "prefixlen": 32,
            "ifindex": 4,
            "gateway": None,
            "table": 254,
            "type": 1,
            "scope": 253,
            "source": None,
        }
    ],
    "qdiscs": [
        {
            "ifindex": 4,
            "kind": "clsact",
            "handle": 0xFFFF0000,
            "parent": 0xFFFFFFF1,
            "bytes": 1,
            "packets": 1,
            "drops": None,
        }
    ],
    "filters": [
        {
            "ifindex": 4,
            "hook": "egress",
            "kind": "bpf",
            "protocol": 3,
            "pref": 1,
            "chain": 0,
            "handle": 1,
            "name": "handle_ingress",
            "program_id": 7,
            "tag": "00",
            "direct_action": True,
        }
    ],
    "tcx": [{"ifindex": 4, "hook": "ingress", "program_ids": [7]}],
    "programs": [
        {
            "id": 7,
            "type": 3,
            "tag": "00",
            "name": "",
            "jited": True,
            "xlated_len": 8,
            "jited_len": 9,
            "load_time_ns": 5,
            "map_ids": [1],
        }
    ],
    "maps": [
        {
            "id": 1,
            "type": 1,
            "key_size": 4,
            "value_size": 1,
            "max_entries": 2,
            "flags": 1,
            "name": "",
            "contents": {
                "method": "batch",
                "count": 2,
                "total": 2,
                "complete": True,
                "filtered": False,
                "keys": "AAAAAAEAAAA=",
                "values": "AAE=",
                "reason": "",
            },
        }
    ],
    "pins": [{"path": "maps/x", "kind": "map", "id": 1, "reason": ""}],
    "notes": ["n"],
    "errors": [{"what": "map 93", "error": "EPERM: Operation not permitted"}],
}


def framed(document: Any = DOCUMENT) -> bytes:
    return with_header(zlib.compress(json.dumps(document).encode()))


def with_header(payload: bytes) -> bytes:
    return f"NPE1 {len(payload)} {hashlib.sha256(payload).hexdigest()}\n".encode() + payload


def parsed(stdout: bytes, **changes: Any) -> Any:
    return transport.parse_answer(ExecResult(stdout, b"", 0, **changes), "pod a/b")


class Pod:
    """Answers execs from a list."""

    name, namespace = "p", "kube-system"

    def __init__(self, *results: ExecResult) -> None:
        self.results = list(results)
        self.argvs: list[list[str]] = []

    def exec(self, argv: list[str], stdin: bytes = b"") -> ExecResult:
        self.argvs.append(argv)
        return self.results.pop(0)


# ---- the frame


def test_a_good_answer() -> None:
    pod = Pod(ExecResult(framed(), b"a warning\n", 0))
    assert transport.read_node(pod, {"format": 1}) == DOCUMENT
    assert len(pod.argvs) == 1


def test_a_good_answer_counts_whatever_the_status_says() -> None:
    assert transport.parse_answer(ExecResult(framed(), b"", None, "the stream was cut"), "x") == DOCUMENT


def test_the_reader_frames_as_the_transport_parses() -> None:
    assert parsed(b"".join(reader.framed(DOCUMENT))) == DOCUMENT


@given(st.integers(0, len(framed()) - 1))
def test_any_cut_is_a_cut(length: int) -> None:
    with pytest.raises(NodeError, match=r"was cut|said nothing"):
        parsed(framed()[:length])


def test_a_cut_says_how_much_came() -> None:
    answer = framed()
    header, total = answer.index(b"\n") + 1, len(answer)
    with pytest.raises(NodeError, match=rf"was cut: 10 of {total - header} bytes came \(no byte for 120 s\)"):
        transport.parse_answer(ExecResult(answer[: header + 10], b"", None, "no byte for 120 s"), "x")


@given(st.binary(max_size=400))
def test_garbage_is_a_node_error(data: bytes) -> None:
    with pytest.raises(NodeError):
        parsed(data)


@given(st.binary(max_size=400))
def test_a_framed_garbage_is_a_node_error(data: bytes) -> None:
    for payload in (data, zlib.compress(data)):
        with pytest.raises(NodeError):
            parsed(with_header(payload))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_other_json_is_a_node_error(value: Any) -> None:
    with pytest.raises(NodeError):
        parsed(framed(value))


@pytest.mark.parametrize(
    ("stdout", "message"),
    [
        (framed()[:-1] + b"x", "its checksum does not fit"),
        (framed() + b"more", "4 bytes after its end"),
        (b"NPE1 999999999999 " + b"0" * 64 + b"\nx", "announces 999999999999 bytes"),
        (with_header(zlib.compress(b"{}") + b"x"), "does not end where it says"),
        (with_header(zlib.compress(b"{}" * 99)[:-6]), "does not end where it says"),
        (with_header(zlib.compress(b'{"a": ' * 100_000)), "nested too deeply"),
        (with_header(zlib.compress(b"[" + b"9" * 5000 + b"]")), "not JSON"),
        (b"hello", "is not one of the reader: it begins with b'hello'"),
        (b"\x1b[2J evil", r"begins with b'\\x1b\[2J evil'"),
    ],
)
def test_damaged_answers(stdout: bytes, message: str) -> None:
    with pytest.raises(NodeError, match=message):
        parsed(stdout)


def test_a_zlib_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MOST_DOCUMENT", 1 << 20)
    bomb = zlib.compress(b" " * (8 << 20))
    assert len(bomb) < 10_000
    with pytest.raises(NodeError, match="larger than 1048576 bytes when unpacked"):
        parsed(with_header(bomb))


# ---- what the reader said instead


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            ExecResult(b"", b"Traceback\n  File\nKeyError: 'x'\x1b[31m\n", 1),
            r"ended with exit code 1: KeyError: 'x' \[31m$",
        ),
        (ExecResult(b"", b"", 137), "was killed with exit code 137$"),
        (
            ExecResult(b"", b"", 137, "the debug pod p was ended by node n: Evicted"),
            r"137 \(the debug.*Evicted\)",
        ),
        (ExecResult(b"", b"", None, "the stream was cut"), r"did not answer \(the stream was cut\)"),
        (ExecResult(b"", b"", 0), "said nothing"),
        (ExecResult(b"", b"", 126, "container not found"), "could not be run in pod .*: container not found"),
    ],
)
def test_a_reader_that_failed(result: ExecResult, message: str) -> None:
    with pytest.raises(NodeError, match=message) as raised:
        transport.read_node(Pod(result), {})
    assert raised.value.message.isprintable()


RUNC = 'OCI runtime exec failed: exec failed: unable to start container process: exec: "python3": '


@pytest.mark.parametrize(
    "result",
    [
        ExecResult(b"", b"", 126, RUNC + "executable file not found in $PATH: unknown"),
        ExecResult(b"", b"", 126, "exec failed: executable file `python3` not found in $PATH: No such file"),
        ExecResult(RUNC.encode() + b"executable file not found in $PATH\r\n", b"", 126),
        ExecResult(b"", b"", 127, 'exec: "/usr/libexec/platform-python": stat: no such file or directory'),
        ExecResult(b"", b"sh: python3: not found\n", 127),
    ],
)
def test_an_image_without_python(result: ExecResult) -> None:
    pod = Pod(result, result)
    with pytest.raises(NodeError, match="has no python3") as raised:
        transport.read_node(pod, {})
    assert [argv[0] for argv in pod.argvs] == ["python3", "/usr/libexec/platform-python"]
    assert "--image" in raised.value.hint
    assert "aws-eks-na-cli" in raised.value.hint


def test_the_second_interpreter_is_used_when_the_first_is_missing() -> None:
    missing = ExecResult(b"", b"", 126, RUNC + "executable file not found in $PATH: unknown")
    assert transport.read_node(Pod(missing, ExecResult(framed(), b"", 0)), {}) == DOCUMENT


# ---- the command


def test_the_bootstrap_runs_the_reader_without_an_end_of_file() -> None:
    stdin = transport.packed_request({"format": 1, "pods": [], "all": False, "conntrack": "none"})
    command = transport.command(sys.executable, len(stdin))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(stdin)
        process.stdin.flush()
        out = process.stdout.read()
        assert process.stderr.read() == b""
        assert process.wait() == 0
    document = parsed(out)
    assert document["reader"] == reader.READER_VERSION
    assert [row["name"] for row in document["links"]]


def test_a_request_that_was_cut_is_said() -> None:
    stdin = transport.packed_request({"format": 1})
    done = subprocess.run(
        transport.command(sys.executable, len(stdin)), input=stdin[:-5], capture_output=True, check=False
    )
    with pytest.raises(NodeError, match=rf"the request was cut: {len(stdin) - 5} of {len(stdin)} bytes came"):
        transport.parse_answer(ExecResult(done.stdout, done.stderr, done.returncode), "x")


def test_the_request_is_small() -> None:
    assert len(transport.packed_request({"format": 1})) < 32 * 1024


# ---- the document


def test_the_sample_is_a_document() -> None:
    assert check_document(DOCUMENT) == DOCUMENT
    assert list(raw_entries(DOCUMENT["maps"][0])) == [(b"\0\0\0\0", b"\0"), (b"\1\0\0\0", b"\1")]
    assert list(raw_entries({**DOCUMENT["maps"][0], "contents": None})) == []


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [below for key, inner in items for below in paths(inner, (*path, key))]


def changed(path: tuple[Any, ...], value: Any = None, remove: bool = False) -> Any:
    document = copy.deepcopy(DOCUMENT)
    parent: Any = document
    for key in path[:-1]:
        parent = parent[key]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return document


def written(path: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)[1:]


@pytest.mark.parametrize("path", paths(DOCUMENT), ids=written)
def test_every_field_is_checked_and_named(path: tuple[Any, ...]) -> None:
    with pytest.raises(NodeError) as raised:
        check_document(changed(path, 1.5))
    assert written(path) in raised.value.message
    if isinstance(path[-1], str):
        with pytest.raises(NodeError) as raised:
            check_document(changed(path, remove=True))
        assert written(path) in raised.value.message


@given(st.sampled_from(paths(DOCUMENT)), JSON)
def test_a_changed_field_is_fine_or_a_node_error(path: tuple[Any, ...], value: Any) -> None:
    try:
        document = check_document(changed(path, value))
    except NodeError as error:
        assert error.message.isprintable()
        return
    json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), 2, "has format 2; this version reads 1"),
        (("programs", 0, "id"), True, r"programs\[0\].id should be an integer, it is true or false"),
        (("programs", 0, "id"), -1, "should be between 0 and 4294967295, it is -1"),
        (("maps", 0, "contents", "keys"), "AAAA", "has 3 bytes, 2 entries of 4 bytes need 8"),
        (("maps", 0, "contents", "keys"), "!", "should be a base64 text, it is '!'"),
        (("filters", 0, "hook"), "in", "should be one of ingress, egress, it is 'in'"),
        (("notes",), None, "notes should be an array, it is null"),
    ],
)
def test_how_a_wrong_field_is_told(path: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(NodeError, match=message):
        check_document(changed(path, value))


@pytest.mark.parametrize("section", ["links", "routes", "filters", "tcx", "programs", "maps", "pins"])
def test_a_section_may_be_unknown(section: str) -> None:
    assert check_document(changed((section,), None))[section] is None


def test_texts_come_out_printable() -> None:
    document = check_document(changed(("links", 0, "name"), "eni\x1b[2J\u202e\ud800"))
    assert document["links"][0]["name"] == "eni\ufffd[2J\ufffd\ufffd"


def test_what_a_newer_reader_adds_is_kept() -> None:
    assert check_document({**DOCUMENT, "new": 1})["new"] == 1
