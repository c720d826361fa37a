"""bpf(2) for tests, through ctypes. Nothing here gives a kernel object a name.

Agent facts: the loader passes no names and no BTF, so bpf_prog_info.name and bpf_map_info.name are empty.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_SYSCALL = {"x86_64": 321, "aarch64": 280}

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY, PROG_LOAD, OBJ_PIN, OBJ_GET = range(8)
PROG_ATTACH, PROG_DETACH, PROG_TEST_RUN, PROG_QUERY, LINK_CREATE = 8, 9, 10, 16, 28
PROG_GET_NEXT_ID, MAP_GET_NEXT_ID = 11, 12
PROG_FD_BY_ID, MAP_FD_BY_ID, OBJ_INFO = 13, 14, 15

SCHED_CLS = 3
TC_ACT_OK, TC_ACT_SHOT = 0, 2
TCX_INGRESS, TCX_EGRESS = 46, 47  # enum bpf_attach_type
BPF_ANY, BPF_NOEXIST, BPF_EXIST = 0, 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


class BpfError(OSError):
    """A refused bpf(2) call; for a program load the verifier's log is in the text."""


@dataclass(frozen=True)
class ProgInfo:
    id: int
    type: int
    tag: str
    name: str
    map_ids: tuple[int, ...]
    btf_id: int


@dataclass(frozen=True)
class MapInfo:
    id: int
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str
    btf_id: int


def _bpf(command: int, attr: bytes, what: str, quiet: tuple[int, ...] = ()) -> tuple[int, bytes]:
    """Returns the call's result and the attributes as the kernel left them; -errno for those in `quiet`."""
    block = ctypes.create_string_buffer(attr, max(len(attr), 128))
    number = _SYSCALL.get(os.uname().machine)
    if number is None:
        raise BpfError(errno.ENOSYS, f"bpf(2) has no known number on {os.uname().machine}")
    result = _libc.syscall(number, command, block, ctypes.c_uint(len(block)))
    if result < 0:
        code = ctypes.get_errno()
        if code in quiet:
            return -code, b""
        raise BpfError(code, f"{what}: {os.strerror(code)}")
    return result, block.raw


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def map_create(type_: int, key_size: int, value_size: int, max_entries: int, flags: int = 0) -> int:
    attr = struct.pack("<5I", type_, key_size, value_size, max_entries, flags)
    return _bpf(MAP_CREATE, attr, f"create map of type {type_}")[0]


def prog_load(instructions: bytes, licence: str = "GPL", type_: int = SCHED_CLS) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence_text = ctypes.create_string_buffer(licence.encode())
    head = struct.pack("<IIQQ", type_, len(instructions) // 8, _address(code), _address(licence_text))
    # The log makes the verifier slower, so it is asked for only after a refusal.
    result, _ = _bpf(PROG_LOAD, head, "load program", quiet=(errno.EACCES, errno.EINVAL, errno.E2BIG, errno.EPERM))
    if result >= 0:
        return result
    log = ctypes.create_string_buffer(1 << 22)
    attr = head + struct.pack("<IIQ", 1, len(log), _address(log))
    try:
        return _bpf(PROG_LOAD, attr, "load program")[0]
    except BpfError as exc:
        tail = log.value.decode(errors="replace")[-8000:]
        raise BpfError(exc.errno, f"{exc.strerror}\n{tail}") from None


def pin(fd: int, path: str) -> None:
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(OBJ_PIN, struct.pack("<QI", _address(name), fd), f"pin {path}")


def obj_get(path: str) -> int:
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(OBJ_GET, struct.pack("<QI", _address(name), 0), f"open pin {path}")[0]


def prog_attach(prog_fd: int, ifindex: int, attach_type: int) -> None:
    """Attaches to a link of the calling thread's network namespace; it ends with the link."""
    _bpf(PROG_ATTACH, struct.pack("<IIIIIIQ", ifindex, prog_fd, attach_type, 0, 0, 0, 0), "attach program")


def prog_query(ifindex: int, attach_type: int) -> list[int]:
    """Ids of the programs on a tcx hook of a link of the calling thread's network namespace, first to run first."""
    ids = (ctypes.c_uint32 * 64)()
    attr = struct.pack("<IIIIQIIQQQQ", ifindex, attach_type, 0, 0, ctypes.addressof(ids), len(ids), 0, 0, 0, 0, 0)
    _, out = _bpf(PROG_QUERY, attr, "query programs")
    return list(ids[: struct.unpack_from("<I", out, 24)[0]])


def link_create(prog_fd: int, ifindex: int, attach_type: int) -> int:
    """A bpf_link: attached as long as somebody holds it, by descriptor or pin."""
    attr = struct.pack("<IIIIIIQ", prog_fd, ifindex, attach_type, 0, 0, 0, 0)
    return _bpf(LINK_CREATE, attr, "create link")[0]


def close(fd: int) -> None:
    os.close(fd)


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    k = ctypes.create_string_buffer(key, len(key))
    # The kernel copies whole multiples of 8 for some map types.
    v = ctypes.create_string_buffer(value_size + 8)
    attr = struct.pack("<IIQQQ", fd, 0, _address(k), _address(v), 0)
    result, _ = _bpf(MAP_LOOKUP, attr, "map lookup", quiet=(errno.ENOENT,))
    return None if result < 0 else v.raw[:value_size]


def map_update(fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _bpf(MAP_UPDATE, struct.pack("<IIQQQ", fd, 0, _address(k), _address(v), flags), "map update")


def map_delete(fd: int, key: bytes) -> bool:
    """False when there was no such entry."""
    k = ctypes.create_string_buffer(key, len(key))
    attr = struct.pack("<IIQQQ", fd, 0, _address(k), 0, 0)
    return _bpf(MAP_DELETE, attr, "map delete", quiet=(errno.ENOENT,))[0] == 0


def map_keys(fd: int, key_size: int) -> Iterator[bytes]:
    current: bytes | None = None
    while True:
        k = ctypes.create_string_buffer(current or b"", key_size)
        following = ctypes.create_string_buffer(key_size)
        attr = struct.pack("<IIQQQ", fd, 0, _address(k) if current is not None else 0, _address(following), 0)
        if _bpf(MAP_NEXT_KEY, attr, "map next key", quiet=(errno.ENOENT,))[0] < 0:
            return
        current = following.raw
        yield current


def map_items(fd: int) -> dict[bytes, bytes]:
    """All entries. The keys are listed before anything is read, so deleting while iterating is safe."""
    info = map_info(fd)
    found = {key: map_lookup(fd, key, info.value_size) for key in list(map_keys(fd, info.key_size))}
    return {key: value for key, value in found.items() if value is not None}


def map_clear(fd: int) -> int:
    """Deletes every entry; returns how many there were."""
    key_size, count = map_info(fd).key_size, 0
    while (key := next(map_keys(fd, key_size), None)) is not None:
        # An LRU map may drop the key by itself in between: that is as good.
        count += map_delete(fd, key)
    return count


def _info(fd: int, size: int, prefill: bytes = b"") -> bytes:
    buffer = ctypes.create_string_buffer(prefill, size)
    _bpf(OBJ_INFO, struct.pack("<IIQ", fd, size, _address(buffer)), "object info")
    return buffer.raw


def prog_info(fd: int) -> ProgInfo:
    ids = (ctypes.c_uint32 * 64)()
    # nr_map_ids at 52 and the address of the array at 56 go in, the real number and the ids come back
    prefill = bytearray(232)
    struct.pack_into("<IQ", prefill, 52, len(ids), ctypes.addressof(ids))
    raw = _info(fd, 232, bytes(prefill))
    type_, id_ = struct.unpack_from("<II", raw, 0)
    count = struct.unpack_from("<I", raw, 52)[0]
    btf_id = struct.unpack_from("<I", raw, 128)[0]
    return ProgInfo(id_, type_, raw[8:16].hex(), raw[64:80].split(b"\0")[0].decode(), tuple(ids[:count]), btf_id)


def map_info(fd: int) -> MapInfo:
    raw = _info(fd, 88)
    type_, id_, key, value, entries, flags = struct.unpack_from("<6I", raw, 0)
    btf_id = struct.unpack_from("<I", raw, 64)[0]
    return MapInfo(id_, type_, key, value, entries, flags, raw[24:40].split(b"\0")[0].decode(), btf_id)


def prog_fd_by_id(id_: int) -> int | None:
    result, _ = _bpf(PROG_FD_BY_ID, struct.pack("<III", id_, 0, 0), "program by id", quiet=(errno.ENOENT,))
    return result if result >= 0 else None


def map_fd_by_id(id_: int) -> int | None:
    result, _ = _bpf(MAP_FD_BY_ID, struct.pack("<III", id_, 0, 0), "map by id", quiet=(errno.ENOENT,))
    return result if result >= 0 else None


def prog_test_run(fd: int, packet: bytes, ifindex: int = 0) -> int:
    """What the program returns for one frame. `ifindex`: a link of the calling thread's network namespace."""
    data = ctypes.create_string_buffer(packet, len(packet))
    context = bytearray(192)
    struct.pack_into("<I", context, 40, ifindex)  # __sk_buff.ifindex
    ctx = ctypes.create_string_buffer(bytes(context), len(context))
    attr = struct.pack(
        "<IIIIQQIIIIQQ",
        fd, 0, len(packet), 0, _address(data), 0, 1, 0, len(ctx) if ifindex else 0, 0,
        _address(ctx) if ifindex else 0, 0,
    )  # fmt: skip
    _, out = _bpf(PROG_TEST_RUN, attr, "program test run")
    return int(struct.unpack_from("<I", out, 4)[0])
