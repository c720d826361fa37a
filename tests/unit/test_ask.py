"""Questions, their checked answers, and the asker before a kernel that is played: what a real one does not do."""

from __future__ import annotations

import ast
import base64
import copy
import ctypes
import errno
import hashlib
import ipaddress
import json
import os
import re
import signal
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.errors import NodeError
from kubectl_netpol.kernel import layouts
from kubectl_netpol.kernel.packet import frame
from kubectl_netpol.model.flow import Flow
from kubectl_netpol.model.kernel import MapView
from kubectl_netpol.node import ask, asker, transport

PEER, POD = ipaddress.ip_address("10.0.1.2"), ipaddress.ip_address("10.0.1.1")
PEER6, POD6 = ipaddress.ip_address("fd00::2"), ipaddress.ip_address("fd00::1")
FLOW = Flow(PEER, POD, 6, 80)
CONNTRACK = MapView(44, "conntrack", "x", layouts.MAP_TYPE_LRU_HASH, 24, 16, 524288)
PROGRAM, IFINDEX = 7, 1
PORTS = [61000, 62000, 63000]


def view(key_size: int, value_size: int, **changes: Any) -> MapView:
    return MapView(
        **{**vars(CONNTRACK), "key_size": key_size, "value_size": value_size, **changes}  # type: ignore[arg-type]
    )


def asked(flow: Flow = FLOW, conntrack: MapView | None = CONNTRACK, **changes: Any) -> Any:
    owner = changes.pop("owner", flow.destination)
    return ask.question("q", flow, owner, IFINDEX, PROGRAM, conntrack, changes.pop("ports", PORTS), **changes)


def raw(candidate: dict[str, Any], name: str) -> bytes:
    return base64.b64decode(candidate[name], validate=True)


# ---- source ports


def test_source_ports_are_different_and_outside_the_ephemeral_range() -> None:
    ports = ask.source_ports("a seed")
    assert len(set(ports)) == len(ports) == 8
    assert all(61000 <= port <= 65535 for port in ports)
    assert ports == ask.source_ports("a seed") != ask.source_ports("another")
    assert len(ask.source_ports("a seed", 3)) == 3


# ---- questions


def test_a_question() -> None:
    question = asked()
    assert {name: question[name] for name in ("id", "program_id", "ifindex")} == {
        "id": "q",
        "program_id": PROGRAM,
        "ifindex": IFINDEX,
    }
    assert question["conntrack"] == {"map_id": 44, "key_size": 24, "value_size": 16, "max_entries": 524288}
    assert [c["source_port"] for c in question["candidates"]] == PORTS
    for port, candidate in zip(PORTS, question["candidates"], strict=True):
        assert raw(candidate, "packet") == frame(FLOW, port)
    json.dumps(question)


# Written by hand from the layouts: source, port, [2], destination, port, protocol, [1], owner, ifindex.
KEY_SIZES = {(16, 4): False, (20, 1): False, (24, 1): False, (24, 16): False,
             (38, 16): True, (40, 16): True, (56, 1): True, (60, 1): True, (60, 16): True}  # fmt: skip


@pytest.mark.parametrize(("sizes", "ipv6"), KEY_SIZES.items())
def test_keys_of_every_generation(sizes: tuple[int, int], ipv6: bool) -> None:
    peer, pod = (PEER6, POD6) if ipv6 else (PEER, POD)
    question = asked(Flow(peer, pod, 17, 53), view(*sizes), owner=pod, ports=[61001])
    pad = b"" if sizes[0] == 38 else bytes(2)
    tail = pod.packed if sizes[0] in (20, 24, 56, 60) else b""
    tail += struct.pack("<I", IFINDEX) if sizes[0] in (24, 60) else b""
    (candidate,) = question["candidates"]
    forward = peer.packed + struct.pack("<H", 61001) + pad + pod.packed + struct.pack("<HBB", 53, 17, 0) + tail
    reverse = pod.packed + struct.pack("<H", 53) + pad + peer.packed + struct.pack("<HBB", 61001, 17, 0) + tail
    assert (raw(candidate, "forward"), raw(candidate, "reverse")) == (forward, reverse)
    assert len(forward) == sizes[0]


@pytest.mark.parametrize("protocol", [1, 47, 58])
def test_a_protocol_without_ports_has_one_candidate(protocol: int) -> None:
    (candidate,) = asked(Flow(PEER, POD, protocol, 80))["candidates"]
    assert candidate["source_port"] == 0
    assert raw(candidate, "forward")[4:8] == bytes(4)
    assert raw(candidate, "forward")[12:14] == bytes(2), "no destination port either"


def test_a_flow_with_its_own_source_port_is_asked_with_that_one() -> None:
    assert [c["source_port"] for c in asked(Flow(PEER, POD, 6, 80, 40000))["candidates"]] == [40000]


@pytest.mark.parametrize(
    "conntrack", [None, view(24, 2), view(24, 16, type=layouts.MAP_TYPE_HASH), view(8, 288, type=11)]
)
def test_a_map_that_is_not_known_is_said_to_the_asker(conntrack: MapView | None) -> None:
    question = asked(conntrack=conntrack)
    assert (question["conntrack"], question["candidates"]) == (None, [])


@pytest.mark.parametrize("flow", [Flow(PEER6, POD6, 6, 80), Flow(PEER, POD, 6, 80)])
def test_a_flow_of_the_other_family_cannot_be_asked(flow: Flow) -> None:
    assert asked(flow, view(60, 16) if flow.source.version == 4 else CONNTRACK) is None


# ---- answers


def answer(**changes: Any) -> dict[str, Any]:
    good = {"id": "q", "verdict": 0, "source_port": 61000, "entry": "made and removed", "reason": ""}
    return {**good, **changes}


def document(*answers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"format": 1, "asker": "1.0", "answers": list(answers or [answer()]), **changes}


REQUEST = ask.request([asked()])


class Pod:
    """Answers one exec, and keeps what was sent."""

    name, namespace = "p", "kube-system"

    def __init__(self, stdout: bytes, **changes: Any) -> None:
        self.result = ExecResult(stdout, changes.pop("stderr", b""), changes.pop("exit_code", 0), **changes)
        self.sent: dict[str, Any] = {}

    def exec(self, argv: list[str], stdin: bytes = b"") -> ExecResult:
        assert int(argv[-1]) == len(stdin)
        self.sent = json.loads(zlib.decompress(stdin))
        return self.result


def framed(value: Any) -> bytes:
    payload = zlib.compress(json.dumps(value).encode())
    return f"NPE1 {len(payload)} {hashlib.sha256(payload).hexdigest()}\n".encode() + payload


def test_a_good_answer() -> None:
    pod = Pod(framed(document()))
    assert ask.ask_node(pod, REQUEST) == [answer()]
    assert pod.sent["request"] == REQUEST
    assert pod.sent["script"] == Path(asker.__file__).read_text()


def test_the_asker_frames_as_the_transport_parses() -> None:
    assert ask.ask_node(Pod(asker.framed(document())), REQUEST) == [answer()]


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": 2, "entry": "none"},
        {"verdict": -1, "entry": "none"},
        {"verdict": None, "source_port": None, "entry": "none", "reason": "EPERM"},
        {"verdict": None, "reason": "EINTR"},
        {"entry": "made, not removed: EPERM: Operation not permitted"},
    ],
)
def test_other_good_answers(changes: dict[str, Any]) -> None:
    assert ask.check_answers(document(answer(**changes)), REQUEST) == [answer(**changes)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "the document should be an object"),
        (document(format=2), "another format than 1"),
        (document(answers=None), "answers should be an array, it is null"),
        (document(answers=[]), "ids are not those of the questions"),
        (document(answer(id="other")), "ids are not those of the questions"),
        (document(answer(), answer()), "ids are not those of the questions"),
        (document(answer(id=7)), r"answers\[0\].id should be a text"),
        (document(answer(verdict=True)), r"answers\[0\].verdict should be an integer, it is true"),
        (document(answer(verdict=0.0)), r"answers\[0\].verdict should be an integer"),
        (document(answer(verdict=1 << 40)), r"answers\[0\].verdict should be between"),
        (document(answer(source_port=65536)), r"answers\[0\].source_port should be between"),
        (document(answer(source_port=40000)), "port 40000 was not offered"),
        (document(answer(source_port=None)), "q has a verdict without a packet"),
        (document(answer(source_port=None, verdict=None, reason="x")), "q has a verdict without a packet"),
        (document(answer(verdict=None)), "neither a verdict nor a reason"),
        (document(answer(entry="kept")), r"answers\[0\].entry should be"),
        (document({"id": "q"}), r"answers\[0\].verdict is missing"),
    ],
)
def test_wrong_answers(value: Any, message: str) -> None:
    with pytest.raises(NodeError, match=message) as raised:
        ask.ask_node(Pod(framed(value)), REQUEST)
    assert raised.value.message.isprintable()


def test_texts_come_out_printable() -> None:
    answers = ask.check_answers(document(answer(reason="\x1b[2J", entry="made, not removed: \u202e")), REQUEST)
    assert (answers[0]["reason"], answers[0]["entry"]) == ("\ufffd[2J", "made, not removed: \ufffd")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*answer(), *document()]), JSON)
def test_a_changed_field_is_fine_or_a_node_error(name: str, value: Any) -> None:
    changed = document(**{name: value}) if name in document() else document(answer(**{name: value}))
    try:
        ask.check_answers(changed, REQUEST)
    except NodeError as error:
        assert error.message.isprintable()


@pytest.mark.parametrize(
    ("pod", "message"),
    [
        (Pod(b"", exit_code=137), "the asker in pod kube-system/p was killed with exit code 137"),
        (
            Pod(b"", exit_code=1, stderr=b"Traceback\nKeyError: 'x'\n"),
            "the asker in .* ended with exit code 1: KeyError",
        ),
        (Pod(b"hello"), "is not one of the asker"),
        (Pod(framed(document())[:-4]), "was cut"),
    ],
)
def test_an_asker_that_failed(pod: Pod, message: str) -> None:
    with pytest.raises(NodeError, match=message) as raised:
        ask.ask_node(pod, REQUEST)
    assert "--all" not in raised.value.hint


# ---- the asker, before a kernel that is played


class Kernel:
    """bpf(2) with one program and one map, and faults to order. Descriptors are real ones of /dev/null."""

    def __init__(self) -> None:
        self.programs = {PROGRAM: (asker.SCHED_CLS, [3, 44])}
        self.maps = {44: {"type": asker.LRU_HASH, "key_size": 24, "value_size": 16, "max_entries": 524288, "flags": 0}}
        self.entries: dict[bytes, bytes] = {}
        self.verdict = 0
        self.inserts: bytes | None = None
        """The key that the program inserts when it runs."""
        self.on: dict[int, Callable[[], None]] = {}
        """command -> called before it is done; may raise."""
        self.calls: list[int] = []
        self.opened: dict[int, tuple[int, int, int]] = {}
        self.ran: list[tuple[bytes, bytes]] = []

    def bpf(self, command: int, attr: bytearray) -> int:
        assert len(attr) == asker.ATTR_SIZE
        self.calls.append(command)
        if command in self.on:
            self.on[command]()
        return {
            asker.PROG_GET_FD_BY_ID: self._open,
            asker.MAP_GET_FD_BY_ID: self._open,
            asker.OBJ_GET_INFO_BY_FD: self._info,
            asker.MAP_LOOKUP_ELEM: self._lookup,
            asker.MAP_DELETE_ELEM: self._delete,
            asker.MAP_GET_NEXT_KEY: self._next,
            asker.MAP_LOOKUP_BATCH: self._batch,
            asker.PROG_TEST_RUN: self._run,
        }[command](command, attr)

    def _open(self, command: int, attr: bytearray) -> int:
        number, _, flags = struct.unpack_from("=III", attr)
        if number not in (self.programs if command == asker.PROG_GET_FD_BY_ID else self.maps):
            raise OSError(errno.ENOENT, "")
        fd = os.open(os.devnull, os.O_RDONLY)
        self.opened[fd] = (command, number, flags)
        return fd

    def _info(self, _: int, attr: bytearray) -> int:
        fd, size, pointer = struct.unpack_from("=IIQ", attr)
        command, number, _ = self.opened[fd]
        if command == asker.MAP_GET_FD_BY_ID:
            info = self.maps[number]
            names = ("key_size", "value_size", "max_entries", "flags")
            out = struct.pack("=6I", info["type"], number, *(info[name] for name in names))
        else:
            kind, map_ids = self.programs[number]
            buffer = bytearray(ctypes.string_at(pointer, size))
            room, where = struct.unpack_from("=IQ", buffer, 52)
            struct.pack_into("=I", buffer, 0, kind)
            struct.pack_into("=I", buffer, 52, len(map_ids))
            packed = struct.pack(f"={len(map_ids)}I", *map_ids)[: room * 4]
            ctypes.memmove(where, packed, len(packed))
            out = bytes(buffer)
        ctypes.memmove(pointer, out, len(out))
        return 0

    def _key(self, attr: bytearray) -> bytes:
        fd, _, key = struct.unpack_from("=IIQ", attr)
        return ctypes.string_at(key, self.maps[self.opened[fd][1]]["key_size"])

    def _lookup(self, _: int, attr: bytearray) -> int:
        value = self.entries.get(self._key(attr))
        if value is None:
            raise OSError(errno.ENOENT, "")
        ctypes.memmove(struct.unpack_from("=Q", attr, 16)[0], value, len(value))
        return 0

    def _delete(self, _: int, attr: bytearray) -> int:
        assert self.opened[struct.unpack_from("=I", attr)[0]][2] == 0, "not through the read-only descriptor"
        if self.entries.pop(self._key(attr), None) is None:
            raise OSError(errno.ENOENT, "")
        return 0

    def _next(self, _: int, attr: bytearray) -> int:
        keys = list(self.entries)
        position = keys.index(self._key(attr)) + 1 if struct.unpack_from("=Q", attr, 8)[0] else 0
        if position >= len(keys):
            raise OSError(errno.ENOENT, "")
        ctypes.memmove(struct.unpack_from("=Q", attr, 16)[0], keys[position], len(keys[position]))
        return 0

    def _batch(self, _: int, attr: bytearray) -> int:
        """All in one batch, as a small map gives them."""
        room = struct.unpack_from("=I", attr, 32)[0]
        if len(self.entries) > room:
            struct.pack_into("=I", attr, 32, 0)
            raise OSError(errno.ENOSPC, "")
        struct.pack_into("=I", attr, 32, len(self.entries))
        raise OSError(errno.ENOENT, "")

    def _run(self, _: int, attr: bytearray) -> int:
        size, _, data = struct.unpack_from("=IIQ", attr, 8)
        context_size, _, context = struct.unpack_from("=IIQ", attr, 40)
        assert struct.unpack_from("=I", attr, 32)[0] == 1, "once"
        self.ran.append((ctypes.string_at(data, size), ctypes.string_at(context, context_size)))
        if self.inserts is not None:
            self.entries[self.inserts] = bytes(16)
        struct.pack_into("=I", attr, 4, self.verdict & 0xFFFFFFFF)
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    played = Kernel()
    monkeypatch.setattr(asker, "bpf", played.bpf)
    monkeypatch.setattr(asker, "possible_cpus", lambda: 4)
    return played


def forward(index: int = 0) -> bytes:
    return raw(REQUEST["questions"][0]["candidates"][index], "forward")


def reverse(index: int = 0) -> bytes:
    return raw(REQUEST["questions"][0]["candidates"][index], "reverse")


def ask_it(**changes: Any) -> dict[str, Any]:
    """The answer, which is also one that the other side takes."""
    request = copy.deepcopy(REQUEST)
    request["questions"][0].update(changes)
    answers = asker.answers_to(request["questions"])
    ask.check_answers({"format": 1, "asker": "x", "answers": answers}, request)
    return answers[0]


def raising(code: int, times: int = 1 << 30) -> Callable[[], None]:
    left = [times]

    def fail() -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(code, os.strerror(code))

    return fail


def test_an_allowed_flow(kernel: Kernel) -> None:
    kernel.entries = {b"x" * 24: b"y" * 16}
    kernel.inserts = forward()
    assert ask_it() == answer()
    assert kernel.entries == {b"x" * 24: b"y" * 16}
    ((packet, context),) = kernel.ran
    assert packet == frame(FLOW, PORTS[0])
    assert struct.unpack("=40xI", context) == (IFINDEX,)


@pytest.mark.parametrize("verdict", [2, -1, 7, -(1 << 31)])
def test_other_verdicts(kernel: Kernel, verdict: int) -> None:
    kernel.verdict = verdict
    assert ask_it() == answer(verdict=verdict, entry="none")


def test_a_packet_that_passes_unseen_is_remarked(kernel: Kernel) -> None:
    assert ask_it() == answer(entry="none", reason="the program let the packet pass without making an entry")


def test_the_map_is_opened_for_writing_only_to_delete(kernel: Kernel) -> None:
    ask_it()
    maps = [flags for command, _, flags in kernel.opened.values() if command == asker.MAP_GET_FD_BY_ID]
    assert sorted(maps) == [0, asker.BPF_F_RDONLY]


def test_descriptors_are_closed(kernel: Kernel) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    kernel.on[asker.PROG_TEST_RUN] = raising(errno.EINVAL)
    ask_it()
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("taken", [forward, reverse])
def test_a_candidate_with_an_entry_is_passed_over(kernel: Kernel, taken: Callable[[int], bytes]) -> None:
    kernel.entries = {taken(0): b"1" * 16}
    kernel.inserts = forward(1)
    assert ask_it() == answer(source_port=PORTS[1])
    assert kernel.entries == {taken(0): b"1" * 16}


def test_all_candidates_taken(kernel: Kernel) -> None:
    kernel.entries = {forward(0): bytes(16), reverse(1): bytes(16), forward(2): bytes(16)}
    found = ask_it()
    assert (found["verdict"], found["entry"], kernel.ran) == (None, "none", [])
    assert found["reason"] == "established flows use all of the 3 source ports that were offered"
    assert len(kernel.entries) == 3


def test_the_only_candidate_taken(kernel: Kernel) -> None:
    kernel.entries = {reverse(0): bytes(16)}
    found = ask_it(candidates=REQUEST["questions"][0]["candidates"][:1])
    assert found["reason"].startswith("an established flow has the same key")
    assert kernel.ran == []


def test_no_candidate(kernel: Kernel) -> None:
    assert ask_it(candidates=[])["reason"] == "no packet was offered"


def test_an_unknown_conntrack_map_is_not_run(kernel: Kernel) -> None:
    found = ask_it(conntrack=None)
    assert "conntrack map is not known" in found["reason"]
    assert kernel.calls == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda k: k.programs.clear(), "program 7 is no longer there: things changed"),
        (lambda k: k.programs.update({7: (6, [44])}), "program 7 is of type 6, not a tc classifier"),
        (lambda k: k.programs.update({7: (3, [3, 45])}), "program 7 does not use map 44"),
        (lambda k: k.maps.clear(), "map 44 is no longer there"),
        (lambda k: k.maps[44].update(type=1), "map 44 is of type 1, not an LRU hash"),
        (lambda k: k.maps[44].update(key_size=20), "map 44 has key_size 20, not 24"),
        (lambda k: k.maps[44].update(value_size=1), "map 44 has value_size 1, not 16"),
        (lambda k: k.maps[44].update(max_entries=65536), "map 44 has max_entries 65536, not 524288"),
        (lambda k: k.maps[44].update(flags=1 << 3), "not open to both reading and writing"),
        (lambda k: k.maps[44].update(flags=1 << 1), "an LRU list for each CPU"),
        (lambda k: k.on.update({asker.PROG_GET_FD_BY_ID: raising(errno.EPERM)}), "program 7 cannot be opened (EPERM"),
        (lambda k: k.on.update({asker.MAP_GET_FD_BY_ID: raising(errno.EPERM)}), "map 44 cannot be opened (EPERM"),
        (lambda k: k.on.update({asker.OBJ_GET_INFO_BY_FD: raising(errno.EFAULT)}), "EFAULT: Bad address"),
        (lambda k: k.on.update({asker.MAP_LOOKUP_BATCH: raising(errno.ENOMEM)}), "cannot be counted (ENOMEM"),
        (lambda k: k.on.update({asker.MAP_LOOKUP_ELEM: raising(errno.ENOMEM)}), "ENOMEM: "),
    ],
)
def test_nothing_runs_when_things_are_not_as_said(kernel: Kernel, change: Callable[[Kernel], Any], reason: str) -> None:
    change(kernel)
    found = ask_it()
    assert reason in found["reason"]
    assert (found["verdict"], found["entry"], kernel.ran) == (None, "none", [])
    assert asker.MAP_DELETE_ELEM not in kernel.calls


def test_a_map_that_cannot_be_opened_for_writing_is_not_run(kernel: Kernel) -> None:
    opens: list[int] = []

    def second() -> None:
        opens.append(1)
        if len(opens) == 2:
            raise OSError(errno.EPERM, "")

    kernel.on[asker.MAP_GET_FD_BY_ID] = second
    assert ask_it()["reason"] == "map 44 cannot be opened (EPERM: Operation not permitted)"
    assert kernel.ran == []


def test_a_link_that_is_not_here(kernel: Kernel) -> None:
    assert "no link with ifindex 1999999999" in ask_it(ifindex=1999999999)["reason"]
    assert "no link with ifindex 0" in ask_it(ifindex=0)["reason"]
    assert kernel.ran == []


def test_a_key_of_another_size(kernel: Kernel) -> None:
    wrong = {**REQUEST["questions"][0]["candidates"][0], "forward": base64.b64encode(bytes(20)).decode()}
    assert "a key of [20, 24] bytes" in ask_it(candidates=[wrong])["reason"]
    assert kernel.ran == []


@pytest.mark.parametrize("entries", [1023, 1024, 1025])
@pytest.mark.parametrize("batch", [True, False])
def test_a_nearly_full_map_is_left_alone(kernel: Kernel, entries: int, batch: bool) -> None:
    """4 CPUs: 2 * 128 * 4 = 1024 entries of 2048 must be free."""
    kernel.maps[44]["max_entries"] = 2048
    kernel.entries = {struct.pack("<Q16x", n): bytes(16) for n in range(entries)}
    kernel.verdict = 2
    if not batch:
        kernel.on[asker.MAP_LOOKUP_BATCH] = raising(errno.EINVAL)
    conntrack = {**REQUEST["questions"][0]["conntrack"], "max_entries": 2048}
    found = ask_it(conntrack=conntrack)
    assert (asker.MAP_GET_NEXT_KEY in kernel.calls) is not batch
    if entries <= 1024:
        assert found == answer(verdict=2, entry="none")
    else:
        assert "nearly full: it has room for 2048 entries, 1024 of them must be free" in found["reason"]
        assert kernel.ran == []


def test_a_map_smaller_than_the_margin_is_not_even_counted(kernel: Kernel) -> None:
    kernel.maps[44]["max_entries"] = 1023
    found = ask_it(conntrack={**REQUEST["questions"][0]["conntrack"], "max_entries": 1023})
    assert "nearly full" in found["reason"]
    assert asker.MAP_LOOKUP_BATCH not in kernel.calls


def test_a_bucket_that_does_not_fit_is_read_with_more_room(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asker, "BATCH", 2)
    kernel.entries = {struct.pack("<Q16x", n): bytes(16) for n in range(50)}
    kernel.verdict = 2
    assert ask_it() == answer(verdict=2, entry="none")
    assert kernel.calls.count(asker.MAP_LOOKUP_BATCH) == 6


@pytest.mark.parametrize(
    ("text", "number"),
    [("0\n", 1), ("0-1\n", 2), ("0-3,8-11\n", 8), ("0,2,4-5", 4), ("", None), ("x", None), ("1-0", None)],
)
def test_possible_cpus(text: str, number: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "possible").write_text(text)
    monkeypatch.setattr(asker, "POSSIBLE_CPUS", str(tmp_path / "possible"))
    if number is not None:
        assert asker.possible_cpus() == number
        return
    with pytest.raises(asker.Unknown, match="possible CPUs cannot be read"):
        asker.possible_cpus()


def test_possible_cpus_of_this_machine() -> None:
    assert asker.possible_cpus() >= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EINTR, "EINTR: .*its verdict was lost"),
        (asker.ENOTSUPP, "ENOTSUPP: not supported by this kernel"),
        (errno.EINVAL, "EINVAL: .*before 5.9"),
        (errno.EPERM, "EPERM: .*privileged"),
        (errno.ENODEV, "ENODEV: .*the link is gone"),
        (errno.ENOMEM, "ENOMEM: "),
        (4095, "4095: "),
    ],
)
@pytest.mark.parametrize("inserted", [True, False], ids=["ran", "did not run"])
def test_a_run_that_fails_is_cleaned_up_all_the_same(kernel: Kernel, code: int, reason: str, inserted: bool) -> None:
    """Kernels that answer EINTR have run the program before."""

    def fail() -> None:
        if inserted:
            kernel.entries[forward()] = bytes(16)
        raise OSError(code, "")

    kernel.on[asker.PROG_TEST_RUN] = fail
    found = ask_it()
    assert re.search(reason, found["reason"])
    assert (found["verdict"], found["entry"]) == (None, "made and removed" if inserted else "none")
    assert kernel.entries == {}


@pytest.mark.parametrize("error", [MemoryError(), ValueError("x"), RuntimeError()])
def test_anything_that_is_raised_during_the_run_is_cleaned_up(kernel: Kernel, error: Exception) -> None:
    def fail() -> None:
        kernel.entries[forward()] = bytes(16)
        raise error

    kernel.on[asker.PROG_TEST_RUN] = fail
    found = ask_it()
    assert (found["entry"], found["verdict"], kernel.entries) == ("made and removed", None, {})
    assert type(error).__name__ in found["reason"]


def test_a_deletion_that_is_busy_is_tried_again(kernel: Kernel) -> None:
    kernel.inserts = forward()
    kernel.on[asker.MAP_DELETE_ELEM] = raising(errno.EBUSY, times=3)
    assert ask_it() == answer()
    assert kernel.entries == {}


def test_an_entry_that_cannot_be_deleted_is_said(kernel: Kernel) -> None:
    kernel.inserts = forward()
    kernel.on[asker.MAP_DELETE_ELEM] = raising(errno.EPERM)
    assert ask_it() == answer(entry="made, not removed: EPERM: Operation not permitted")


def test_a_deletion_that_fails_without_an_entry_is_no_matter(kernel: Kernel) -> None:
    kernel.verdict = 2
    kernel.on[asker.MAP_DELETE_ELEM] = raising(errno.EPERM)
    assert ask_it() == answer(verdict=2, entry="none")


def test_what_cannot_be_seen_may_be_left_over(kernel: Kernel) -> None:
    kernel.on[asker.PROG_TEST_RUN] = lambda: kernel.on.update(
        {asker.MAP_DELETE_ELEM: raising(errno.EPERM), asker.MAP_LOOKUP_ELEM: raising(errno.EIO)}
    )
    assert ask_it()["entry"] == "made, not removed: EPERM: Operation not permitted"


def test_an_entry_that_comes_back_belongs_to_somebody_else(kernel: Kernel) -> None:
    kernel.inserts = forward()
    looked: list[int] = []

    def come_back() -> None:
        looked.append(1)
        # The two lookups before the run, then the one that verifies.
        if len(looked) == 3:
            kernel.entries[forward()] = b"2" * 16

    kernel.on[asker.MAP_LOOKUP_ELEM] = come_back
    assert ask_it() == answer(entry="made, not removed: an entry of this key came back")
    assert kernel.entries == {forward(): b"2" * 16}
    assert kernel.calls.count(asker.MAP_DELETE_ELEM) == 1


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("during", [asker.PROG_TEST_RUN, asker.MAP_DELETE_ELEM, asker.MAP_LOOKUP_BATCH])
def test_a_signal_waits_for_the_clean_up_and_ends_the_questions(kernel: Kernel, number: int, during: int) -> None:
    kernel.inserts = forward()
    kernel.on[during] = lambda: os.kill(os.getpid(), number)
    handler = signal.getsignal(number)
    answers = asker.answers_to([REQUEST["questions"][0], {**REQUEST["questions"][0], "id": "next"}])
    assert answers[0] == answer()
    assert answers[1] == {
        "id": "next",
        "verdict": None,
        "source_port": None,
        "entry": "none",
        "reason": f"{signal.Signals(number).name} came before it was asked",
    }
    assert len(kernel.ran) == 1
    assert kernel.entries == {}
    assert signal.getsignal(number) is handler
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_no_signal_is_delivered_between_run_and_clean_up(kernel: Kernel) -> None:
    blocked: list[set[int]] = []
    kernel.inserts = forward()
    for command in (asker.PROG_TEST_RUN, asker.MAP_DELETE_ELEM):
        kernel.on[command] = lambda: blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    ask_it()
    assert len(blocked) == 2
    for mask in blocked:
        assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGALRM, signal.SIGUSR1} <= mask


# ---- the script


def test_a_request_of_another_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert asker.main({"format": 2}) == 3
    assert "request format 2, this asker speaks 1" in capsys.readouterr().err


def test_one_bad_question_does_not_hinder_the_next(kernel: Kernel) -> None:
    kernel.verdict = 2
    answers = asker.answers_to([{"id": "bad"}, REQUEST["questions"][0]])
    assert answers[0] == {
        "id": "bad",
        "verdict": None,
        "source_port": None,
        "entry": "none",
        "reason": "KeyError: 'conntrack'",
    }
    assert answers[1] == answer(verdict=2, entry="none")


def test_it_needs_the_standard_library_only_and_parses_as_python_3_9() -> None:
    tree = ast.parse(Path(asker.__file__).read_text(), feature_version=(3, 9))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_it_knows_no_command_that_writes_but_the_two() -> None:
    """linux/bpf.h: what would create, change, pin, attach or consume is not there, but test run and deletion."""
    commands = {name: value for name, value in vars(asker).items() if name.startswith(("MAP_", "PROG_", "OBJ_"))}
    assert commands == {
        "MAP_LOOKUP_ELEM": 1,
        "MAP_DELETE_ELEM": 3,
        "MAP_GET_NEXT_KEY": 4,
        "PROG_TEST_RUN": 10,
        "PROG_GET_FD_BY_ID": 13,
        "MAP_GET_FD_BY_ID": 14,
        "OBJ_GET_INFO_BY_FD": 15,
        "MAP_LOOKUP_BATCH": 24,
    }
    assert Path(asker.__file__).read_text().count("MAP_DELETE_ELEM") == 2, "the number, and one place that deletes"


def test_the_request_is_small() -> None:
    assert len(transport.packed_request(REQUEST, "asker")) < 16 * 1024
