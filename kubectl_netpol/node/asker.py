"""Asks loaded programs for their verdict: BPF_PROG_TEST_RUN with one synthetic packet for each question.

Like ``reader.py`` this file is sent over `exec` into the debug pod and needs nothing but a Python 3.9 standard
library on x86_64 or aarch64. Unlike it, it has two side effects, both of the program that runs, none of them
avoidable:

conntrack entry
    A program that allows a packet inserts its key into aws_conntrack_map. The packet is one whose forward and
    reverse keys are both absent there, so the entry is known to be the program's, and it is deleted at once, by
    this key alone. Nothing runs where this could go wrong: with a map that is not known or not the one said, with
    one that cannot be opened for writing, or with one so full that the LRU would evict real flows for the new
    entry. Signals wait meanwhile. What remains: SIGKILL inside these microseconds leaves the entry to the agent,
    which removes entries of flows that the kernel's own conntrack does not have; and a real flow that begins with
    the very same addresses and ports inside them loses its entry, as it may at any time in an LRU map.
policy event
    A program that decides writes one record to policy_events (one for each run; none for ICMPv6, which it passes
    unseen). An agent that logs policy events logs it like a real packet, and counts it when it is a denial.

The packet itself goes nowhere. No other map is written, no ring buffer is read, no file is made.

Request (JSON object)
    format      1
    questions   [{id, program_id, ifindex, conntrack, candidates}], answered one after the other
                ifindex: of the host veth, in the network namespace that this runs in
                conntrack: {map_id, key_size, value_size, max_entries} (bytes, entries), or null where not known
                candidates: [{source_port, packet, forward, reverse}]: the same flow from other source ports; a
                frame and its two conntrack keys, base64. The first that no flow uses is taken.

Answer on stdout, framed like the reader's: {format, asker, answers}, one answer for each question in its order
    id, verdict, source_port, entry, reason
    verdict     what the program returned: 0 TC_ACT_OK, 2 TC_ACT_SHOT, another int; null: unknown, see reason
    source_port of the packet that was used, null where none was
    entry       "none", "made and removed", or "made, not removed: <why>"
    reason      why the verdict is unknown, or a remark on it; else empty
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import hashlib
import json
import os
import signal
import socket
import struct
import sys
import zlib
from collections.abc import Iterator
from typing import Any

ASKER_VERSION = "1.0"
FORMAT = 1
MAGIC = "NPE1"

Json = dict[str, Any]

NO_ENTRY, REMOVED, NOT_REMOVED = "none", "made and removed", "made, not removed: "


class Unknown(Exception):
    """The question has no verdict; the text is the reason."""


# ---------------------------------------------------------------------------------------------------------
# bpf(2) (linux/bpf.h: union bpf_attr, struct bpf_prog_info, struct bpf_map_info, struct __sk_buff)
# ---------------------------------------------------------------------------------------------------------

SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}
MAP_LOOKUP_ELEM, MAP_DELETE_ELEM, MAP_GET_NEXT_KEY, PROG_TEST_RUN = 1, 3, 4, 10
PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD, MAP_LOOKUP_BATCH = 13, 14, 15, 24
BPF_F_RDONLY = 1 << 3
ATTR_SIZE = 128
"""Bytes given as union bpf_attr: more than any command here uses, the rest zero as the kernel demands."""
SCHED_CLS, LRU_HASH = 3, 9
# linux/bpf.h: LRU lists of their own for each CPU; not readable or not writable by bpf(2).
NO_COMMON_LRU, RDONLY_MAP, WRONLY_MAP = 1 << 1, 1 << 3, 1 << 4
SKB_IFINDEX = 40
"""Offset of ifindex in struct __sk_buff. Only what leads up to it is given; the kernel takes the rest as zero."""
ENOTSUPP = 524
"""The kernel's own "not supported"; it has no name in errno.h, and reaches user space through bpf(2)."""
UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP)

_libc: Any = None


def describe(error: BaseException) -> str:
    """``EPERM: Operation not permitted`` for an OSError, else class and text, in one line."""
    if isinstance(error, OSError) and error.errno:
        if error.errno == ENOTSUPP:
            return "ENOTSUPP: not supported by this kernel"
        return f"{errno.errorcode.get(error.errno, error.errno)}: {os.strerror(error.errno)}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def bpf(command: int, attr: bytearray) -> int:
    """The system call. ``attr`` is read and written in place. Raises ``OSError``."""
    global _libc
    machine = os.uname().machine
    number = SYSCALL_NUMBERS.get(machine)
    if number is None or struct.calcsize("P") != 8:
        raise Unknown(f"bpf(2) is known here for 64-bit x86_64 and aarch64, this is {machine}")
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
        _libc.syscall.restype = ctypes.c_long
    buffer = (ctypes.c_char * len(attr)).from_buffer(attr)
    arguments = (ctypes.c_int(command), ctypes.byref(buffer), ctypes.c_uint(len(attr)))
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _attr(layout: str, *values: int) -> bytearray:
    """A zeroed union bpf_attr that begins with ``layout`` (struct format, no padding of its own)."""
    attr = bytearray(ATTR_SIZE)
    struct.pack_into("=" + layout, attr, 0, *values)
    return attr


def _buffer(data: bytes) -> Any:
    return (ctypes.c_char * max(len(data), 1)).from_buffer_copy(data or b"\0")


def _pointer(buffer: Any) -> int:
    return ctypes.addressof(buffer)


def _found(command: int, attr: bytearray) -> bool:
    """Whether a lookup, a deletion or a step to the next key met an entry."""
    try:
        bpf(command, attr)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


@contextlib.contextmanager
def opened(what: str, command: int, identifier: int, flags: int = 0) -> Iterator[int]:
    """A descriptor by PROG_GET_FD_BY_ID or MAP_GET_FD_BY_ID: attr {u32 id, u32, u32 flags}."""
    try:
        fd = bpf(command, _attr("III", identifier, 0, flags))
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise Unknown(f"{what} {identifier} is no longer there: things changed, ask again") from error
        raise Unknown(f"{what} {identifier} cannot be opened ({describe(error)})") from error
    try:
        yield fd
    finally:
        os.close(fd)


def program_uses(fd: int) -> tuple[int, list[int]]:
    """(type, ids of its maps) of struct bpf_prog_info: 0 type, 52 nr_map_ids, 56 map_ids pointer."""
    room = 64
    while True:
        ids = (ctypes.c_uint32 * room)()
        info = ctypes.create_string_buffer(88)
        struct.pack_into("=IQ", info, 52, room, _pointer(ids))
        bpf(OBJ_GET_INFO_BY_FD, _attr("IIQ", fd, ctypes.sizeof(info), _pointer(info)))
        number = struct.unpack_from("=I", info.raw, 52)[0]
        if number <= room:
            return struct.unpack_from("=I", info.raw)[0], list(ids[:number])
        room = number


def map_info(fd: int) -> Json:
    """struct bpf_map_info: u32 type, id, key_size, value_size (bytes), max_entries, flags."""
    info = ctypes.create_string_buffer(40)
    bpf(OBJ_GET_INFO_BY_FD, _attr("IIQ", fd, ctypes.sizeof(info), _pointer(info)))
    kind, _, key_size, value_size, max_entries, flags = struct.unpack_from("=6I", info.raw)
    return {
        "type": kind,
        "key_size": key_size,
        "value_size": value_size,
        "max_entries": max_entries,
        "flags": flags,
    }


# ---------------------------------------------------------------------------------------------------------
# Is everything still what the question says?
# ---------------------------------------------------------------------------------------------------------


def check_program(fd: int, question: Json) -> None:
    kind, map_ids = program_uses(fd)
    number, map_id = question["program_id"], question["conntrack"]["map_id"]
    if kind != SCHED_CLS:
        raise Unknown(f"program {number} is of type {kind}, not a tc classifier: things changed, ask again")
    if map_id not in map_ids:
        raise Unknown(f"program {number} does not use map {map_id}: things changed, ask again")


def check_map(info: Json, wanted: Json) -> None:
    if info["type"] != LRU_HASH:
        raise Unknown(f"map {wanted['map_id']} is of type {info['type']}, not an LRU hash")
    for name in ("key_size", "value_size", "max_entries"):
        if info[name] != wanted[name]:
            raise Unknown(f"map {wanted['map_id']} has {name} {info[name]}, not {wanted[name]}: things changed")
    if info["flags"] & (RDONLY_MAP | WRONLY_MAP):
        raise Unknown(f"map {wanted['map_id']} is not open to both reading and writing (flags {info['flags']:#x})")
    if info["flags"] & NO_COMMON_LRU:
        raise Unknown(f"map {wanted['map_id']} has an LRU list for each CPU: a new entry may evict a real flow")


def check_link(ifindex: int) -> None:
    """The kernel takes an ifindex of 0 as the loopback device, and one that does not exist as ENODEV."""
    try:
        socket.if_indextoname(ifindex)
    except OSError as error:
        raise Unknown(f"there is no link with ifindex {ifindex} here: things changed, ask again") from error


# ---------------------------------------------------------------------------------------------------------
# Is there room for one more entry?
# ---------------------------------------------------------------------------------------------------------

LOCAL_FREE_TARGET = 128
"""kernel/bpf/bpf_lru_list.c: entries that a CPU takes from the shared free list at once, and may keep for itself.
Where the shared list has fewer, old entries are evicted to make up the number. Since Linux commit d4adf1c9ee77
("bpf: Adjust free target to avoid global starvation of LRU map", in v6.16) it is less for small maps."""
BATCH = 16384
"""Entries of one batch lookup; doubled where one hash bucket does not fit."""
POSSIBLE_CPUS = "/sys/devices/system/cpu/possible"


def check_room(fd: int, info: Json) -> None:
    """The free entries must fill every CPU's own list and then the shared one, or the insert evicts real flows."""
    margin = 2 * LOCAL_FREE_TARGET * possible_cpus()
    most = int(info["max_entries"]) - margin
    if most < 0 or more_than(fd, info, most):
        raise Unknown(
            f"the conntrack map is nearly full: it has room for {info['max_entries']} entries, {margin} of them must "
            "be free, or the entry that an allowed packet makes could push out those of real flows"
        )


def possible_cpus() -> int:
    """Bits of cpu_possible_mask, which the kernel makes one list of an LRU map for each of: "0-3,8-11"."""
    try:
        with open(POSSIBLE_CPUS) as file:
            text = file.read()
        bounds = [part.partition("-") for part in text.strip().split(",")]
        number = sum(int(last or first) - int(first) + 1 for first, _, last in bounds)
    except (OSError, ValueError) as error:
        raise Unknown(f"the number of possible CPUs cannot be read ({describe(error)})") from error
    if number < 1:
        raise Unknown(f"the number of possible CPUs cannot be read ({text.strip()!r})")
    return number


def more_than(fd: int, info: Json, most: int) -> bool:
    """Whether an open LRU hash holds more than ``most`` entries.

    Lookups by bpf(2) do not mark entries as used, unlike those of programs (Linux commit 50b045a8c0cc, "bpf, lru:
    avoid messing with eviction heuristics upon syscall lookup").
    """
    total = 0
    for number in _batches(fd, info):
        total += number
        if total > most:
            return True
    return False


def _batches(fd: int, info: Json) -> Iterator[int]:
    """Numbers of entries, by MAP_LOOKUP_BATCH; by MAP_GET_NEXT_KEY where the kernel (< 5.6) has none.

    attr: u64 in_batch, u64 out_batch, u64 keys, u64 values, u32 count (in: room, out: got), u32 fd, u64, u64.
    The cursor of a hash is a u32 bucket number.
    """
    count, started = BATCH, False
    cursors = [ctypes.create_string_buffer(8) for _ in range(2)]
    while True:
        keys, values = (ctypes.create_string_buffer(count * info[size]) for size in ("key_size", "value_size"))
        first = _pointer(cursors[0]) if started else 0
        pointers = (first, _pointer(cursors[1]), _pointer(keys), _pointer(values))
        attr = _attr("QQQQII", *pointers, count, fd)
        code = _errno(MAP_LOOKUP_BATCH, attr)
        if code == errno.ENOSPC and count < 2 * info["max_entries"]:
            count *= 2
            continue
        if code in UNSUPPORTED and not started:
            yield from _keys(fd, info)
            return
        if code not in (0, errno.ENOENT):
            raise Unknown(f"the conntrack map cannot be counted ({describe(OSError(code, ''))})")
        yield struct.unpack_from("=I", attr, 32)[0]
        if code == errno.ENOENT:
            return
        cursors.reverse()
        started = True


def _keys(fd: int, info: Json) -> Iterator[int]:
    """1 for each key. A key that is deleted under the cursor begins the walk again: entries count twice then."""
    key, following = (ctypes.create_string_buffer(info["key_size"]) for _ in range(2))
    step = _attr("IIQQ", fd, 0, 0, _pointer(following))
    while _found(MAP_GET_NEXT_KEY, step):
        yield 1
        key.raw = following.raw
        step = _attr("IIQQ", fd, 0, _pointer(key), _pointer(following))


def _errno(command: int, attr: bytearray) -> int:
    try:
        bpf(command, attr)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


# ---------------------------------------------------------------------------------------------------------
# The run, and the removal of what it made
# ---------------------------------------------------------------------------------------------------------

DELETE_TRIES = 5


def has_entry(fd: int, info: Json, key: bytes) -> bool:
    """MAP_LOOKUP_ELEM: attr {u32 fd, u32, u64 key, u64 value}."""
    buffer, value = _buffer(key), ctypes.create_string_buffer(info["value_size"])
    return _found(MAP_LOOKUP_ELEM, _attr("IIQQ", fd, 0, _pointer(buffer), _pointer(value)))


def first_free(fd: int, info: Json, candidates: list[Json]) -> Json:
    """The first candidate none of whose keys is in the map, with packet and keys as bytes."""
    for candidate in candidates:
        packet, *keys = (base64.b64decode(candidate[name]) for name in ("packet", "forward", "reverse"))
        if any(len(key) != info["key_size"] for key in keys):
            raise Unknown(f"a key of {[len(key) for key in keys]} bytes for a map with keys of {info['key_size']}")
        if not any(has_entry(fd, info, key) for key in keys):
            return {"source_port": candidate["source_port"], "packet": packet, "forward": keys[0]}
    if not candidates:
        raise Unknown("no packet was offered")
    if len(candidates) == 1:
        raise Unknown("an established flow has the same key, and its entry would answer in place of the rules")
    raise Unknown(f"established flows use all of the {len(candidates)} source ports that were offered")


def test_run(fd: int, packet: bytes, ifindex: int) -> int:
    """Run the program once over a frame: its return value, a signed int (TC_ACT_*).

    attr: 0 prog_fd, 4 retval, 8 data_size_in, 12 data_size_out, 16 data_in, 24 data_out, 32 repeat, 36 duration,
    40 ctx_size_in, 44 ctx_size_out, 48 ctx_in, 56 ctx_out. ctx_in is a struct __sk_buff, whose ifindex is taken
    since Linux commit 21594c44083c ("bpf: Allow to specify ifindex for skb in bpf_prog_test_run_skb", in v5.9).
    """
    data, context = _buffer(packet), _buffer(struct.pack(f"={SKB_IFINDEX}xI", ifindex))
    sizes = (len(packet), 0, _pointer(data), 0, 1, 0, ctypes.sizeof(context), 0, _pointer(context), 0)
    attr = _attr("IIIIQQIIIIQQ", fd, 0, *sizes)
    try:
        bpf(PROG_TEST_RUN, attr)
    except OSError as error:
        raise Unknown(f"the kernel did not run the program: {_refusal(error)}") from error
    return int(struct.unpack_from("=i", attr, 4)[0])


def _refusal(error: OSError) -> str:
    hints = {
        errno.EINVAL: "kernels before 5.9 cannot be told the interface of a test packet",
        errno.EINTR: "a signal came, and its verdict was lost",
        errno.ENODEV: "the link is gone",
        errno.EPERM: "the debug pod is not privileged enough",
    }
    hint = hints.get(error.errno or 0, "")
    return describe(error) + (f" ({hint})" if hint else "")


def clean_up(reading: int, writing: int, info: Json, key: bytes) -> str:
    """Delete the entry of ``key``, see that it is gone, and tell for ``entry``. Raises nothing.

    The deletion itself tells whether there was an entry. One that is there again after it was deleted belongs to a
    real packet, and stays.
    """
    buffer = _buffer(key)
    failure = ""
    for _ in range(DELETE_TRIES):
        try:
            made = _found(MAP_DELETE_ELEM, _attr("IIQQ", writing, 0, _pointer(buffer), 0))
        except Exception as error:
            # EBUSY: another context on this CPU holds the bucket (kernel/bpf/hashtab.c, htab_lock_bucket).
            failure = describe(error)
            continue
        if not made:
            return NO_ENTRY
        return REMOVED if not _still_there(reading, info, key) else NOT_REMOVED + "an entry of this key came back"
    return NOT_REMOVED + failure if _still_there(reading, info, key) else NO_ENTRY


def _still_there(reading: int, info: Json, key: bytes) -> bool:
    """True also where it cannot be seen: an entry that may be left over is said."""
    try:
        return has_entry(reading, info, key)
    except Exception:
        return True


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """No signal but SIGKILL and SIGSTOP is delivered inside; those that came are when it is left.

    It also keeps older kernels from losing the verdict: they answer EINTR where a signal is pending after the run.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------------------------------------------------
# Questions and answers
# ---------------------------------------------------------------------------------------------------------

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _empty(question: Json, reason: str = "") -> Json:
    return {"id": question["id"], "verdict": None, "source_port": None, "entry": NO_ENTRY, "reason": reason}


def ask(question: Json) -> Json:
    """The answer to one question, whatever happens; see the top of this file."""
    answer = _empty(question)
    try:
        _ask(question, answer)
    except Unknown as unknown:
        answer["reason"] = str(unknown)
    except Exception as error:
        answer["reason"] = describe(error)
    return answer


def _ask(question: Json, answer: Json) -> None:
    conntrack = question["conntrack"]
    if conntrack is None:
        raise Unknown("the program's conntrack map is not known, so an entry that it makes could not be removed")
    map_id, ifindex = conntrack["map_id"], question["ifindex"]
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(opened("program", PROG_GET_FD_BY_ID, question["program_id"]))
        check_program(program, question)
        check_link(ifindex)
        reading = stack.enter_context(opened("map", MAP_GET_FD_BY_ID, map_id, BPF_F_RDONLY))
        info = map_info(reading)
        check_map(info, conntrack)
        # Opened before anything runs: without it the entry could not be removed.
        writing = stack.enter_context(opened("map", MAP_GET_FD_BY_ID, map_id))
        check_room(reading, info)
        with signals_held_back():
            chosen = first_free(reading, info, question["candidates"])
            answer["source_port"] = chosen["source_port"]
            try:
                answer["verdict"] = test_run(program, chosen["packet"], ifindex)
            finally:
                answer["entry"] = clean_up(reading, writing, info, chosen["forward"])
    if answer["verdict"] == 0 and answer["entry"] == NO_ENTRY:
        answer["reason"] = "the program let the packet pass without making an entry"


def answers_to(questions: list[Json]) -> list[Json]:
    """One answer for each question. After SIGTERM, SIGINT or SIGHUP the questions that are left are not asked."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in STOPPING}
    answers = []
    try:
        for question in questions:
            if came:
                answers.append(_empty(question, f"{signal.Signals(came[0]).name} came before it was asked"))
            else:
                answers.append(ask(question))
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
    return answers


def framed(document: Json) -> bytes:
    """``NPE1 <length> <sha256>\\n`` and <length> bytes of zlib-compressed JSON."""
    payload = zlib.compress(json.dumps(document).encode())
    return f"{MAGIC} {len(payload)} {hashlib.sha256(payload).hexdigest()}\n".encode() + payload


def main(request: Json) -> int:
    """Answer one request on stdout. 0 also where a verdict is unknown: the answer says so."""
    if request.get("format") != FORMAT:
        sys.stderr.write(f"request format {request.get('format')!r}, this asker speaks {FORMAT}\n")
        return 3
    answers = answers_to(request["questions"])
    sys.stdout.buffer.write(framed({"format": FORMAT, "asker": ASKER_VERSION, "answers": answers}))
    sys.stdout.buffer.flush()
    return 0
