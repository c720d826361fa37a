"""The text of aws-eks-na-cli, of every version, as numbers and as the bytes of map entries.

The CLI is made to be read by people. It exits with status 0 also when it fails, says so on stdout, leaves out unused
slots, and each generation prints another shape. Spacing and ruler lines differ between versions and
get lost when text is copied, so neither counts here; every other line must be known, and is a ``CliError`` if it is
not: half a map read as a whole one would be a wrong verdict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from kubectl_netpol.kernel import encode, layouts
from kubectl_netpol.kernel.identity import pinned_identifier
from kubectl_netpol.model.flow import Address
from kubectl_netpol.model.kernel import ClusterSlot, ConntrackEntry, Slot

Json = dict[str, Any]

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "RESERVED": 255, "ANY PROTOCOL": 254}
"""What the CLI calls protocols. `UNKNOWN` is any other number: the bytes cannot be told from it."""
ROOT = "globals/aws/"
"""The agent's directory in the bpf filesystem, where the pin paths of the document begin."""
GLOBAL_MAPS = ("aws_conntrack_map", "policy_events")
FIRST_SLOT_ONLY = "aws-eks-na-cli of agents 1.0.1 to 1.0.6 prints the first slot of each entry only"
NO_END = "the dump stops without its last line"

_FAILED = re.compile(r"Failed to execute the cmd\s*-\s*(.*)|(Error: .*)")
_PROGRAM = re.compile(r"Type\s*:\s*(\d+)\s+ID\s*:\s*(\d+)\s+Associated maps count\s*:\s*(\d+)")
_MAP = re.compile(r"Type\s*:\s*(\d+)\s+ID\s*:\s*(\d+)")
_SIZES = re.compile(r"Keysize\s+(\d+)\s+Valuesize\s+(\d+)\s+MaxEntries\s+(\d+)")
_HEADERS = re.compile(r"(?:Programs|Maps) currently loaded\s*:")
_PIN_PATH = re.compile(r"PinPath\s*:\s*(\S.*)")
_PROGRAM_ID = re.compile(r"Prog (ID|FD)\s*:\s*(\d+)")
_MAP_NAME = re.compile(r"Map Name\s*:\s*(.*)")
_MAP_ID = re.compile(r"Map ID\s*:\s*(\d+)")
_BETWEEN = re.compile(r"pinPathName\s*:.*|Pod Identifier\s*:.*|Associated Maps\s*->")
_LPM_KEY = re.compile(r"Key\s*:\s*(?:IP/Prefixlen\s*-\s*)?(\S+)/(\d+)")
_SLOT = re.compile(r"(?:Value Entry\s*:\s*(\d+)|Entry\s+(\d+)\s*:)")
_FIELD = re.compile(r"(Protocol|Priority|StartPort|EndPort|Endport)\s*-\s*(\S.*)")
_STATE_KEY = re.compile(r"Key\s*:\s*(\d+)")
_STATE = re.compile(r"State\s*-\s*(\d+)")
_CONNTRACK = re.compile(
    r"Conntrack Key\s*:\s*Source IP\s*-\s*(\S+)\s+Source port\s*-\s*(\d+)\s+Dest IP\s*-\s*(\S+)\s+"
    r"Dest port\s*-\s*(\d+)\s+Protocol\s*-\s*(\d+)(?:\s+Owner IP\s*-\s*(\S+))?(?:\s+Ifindex\s*-\s*(\d+))?"
)
_CONNTRACK_VALUE = re.compile(r"Conntrack Val\s*-\s*(\d+)")
_LAST_SEEN = re.compile(r"Last Seen \(ns\)\s*-\s*(\d+)\s*(?:\(.*\))?")
_VALUE = re.compile(r"Value\s*:")
_WALKING = re.compile(r"Walking map\s*:.*|unable to read monotonic clock, .*")
_DONE = re.compile(r"Done reading all entries(?: in BPF_MAP_TYPE_HASH)?")
_EMPTY = re.compile(r"No entries found, empty (?:map|HASH map.*)", re.IGNORECASE)
_STOPPED = re.compile(r"Failed to get next entry,? done searching", re.IGNORECASE)
_ENTRY_FAILED = re.compile(r"error reading (?:Cluster)?NetworkPolicy entry\s*:\s*(.*)")
_NO_FIRST_KEY = re.compile(r"unable to get first key.*", re.IGNORECASE)
_GONE = "no such file or directory"


class CliError(ValueError):
    """The CLI reports an error, or the text is not what it prints as far as it is known here."""


@dataclass(frozen=True)
class LoadedProgram:
    """One line of `ebpf progs`: all programs of the node, the agent's or not."""

    id: int
    type: int
    map_count: int


@dataclass(frozen=True)
class PinnedProgram:
    """One block of `ebpf loaded-ebpfdata`. ``path`` begins below globals/aws."""

    path: str
    program_id: int | None
    """None up to agent 1.0.6, whose CLI prints a file descriptor of its own process in this place."""
    maps: tuple[tuple[str, int], ...]
    """(name, id). The name comes from the pin of the map, and is empty where it has none."""

    @property
    def identifier(self) -> str:
        """The pod identifier, by the path: the one that the CLI prints is cut at `_` up to agent 1.3.1."""
        return pinned_identifier(self.path.rpartition("/")[2])


# ---- programs, maps, pins


def parse_programs(text: str) -> list[LoadedProgram]:
    """`ebpf progs`. Raises ``CliError``."""
    found = []
    for line in _listing(text, "progs"):
        match = _PROGRAM.fullmatch(line)
        if match is None:
            raise _unknown(line)
        kind, number, count = (_number(part, 32) for part in match.groups())
        found.append(LoadedProgram(number, kind, count))
    return found


def parse_maps(text: str) -> list[Json]:
    """Rows of ``maps`` from `ebpf maps`, contents null. The CLI tells neither flags nor names: these are 0 and "".

    Raises ``CliError``.
    """
    found: list[Json] = []
    pending: tuple[int, int] | None = None
    for line in _listing(text, "maps"):
        if pending is None:
            match = _MAP.fullmatch(line)
            if match is None:
                raise _unknown(line)
            pending = _number(match[1], 32), _number(match[2], 32)
            continue
        match = _SIZES.fullmatch(line)
        if match is None:
            raise _unknown(line)
        key_size, value_size, max_entries = (_number(part, 32) for part in match.groups())
        found.append(
            {
                "id": pending[1],
                "type": pending[0],
                "key_size": key_size,
                "value_size": value_size,
                "max_entries": max_entries,
                "flags": 0,
                "name": "",
                "contents": None,
            }
        )
        pending = None
    if pending is not None:
        raise CliError(f"the sizes of map {pending[1]} are missing")
    return found


def _listing(text: str, command: str) -> Iterator[str]:
    """The lines of a list without its header, which must be there: nothing at all is no list."""
    lines = list(_lines(text))
    for line in lines:
        if match := _FAILED.fullmatch(line):
            raise CliError(match[1] or match[2] or "it failed without a reason")
    if not any(_HEADERS.fullmatch(line) for line in lines):
        raise CliError(f"`ebpf {command}` printed no list" if not lines else _unknown(lines[0]))
    return (line for line in lines if not _HEADERS.fullmatch(line))


def parse_pinned(text: str) -> list[PinnedProgram]:
    """`ebpf loaded-ebpfdata`: the pinned programs and the maps that they use. Empty text: none is pinned.

    Raises ``CliError``.
    """
    blocks: list[_Block] = []
    for line in _lines(text):
        if match := _FAILED.fullmatch(line):
            raise CliError(match[1] or match[2] or "it failed without a reason")
        if match := _PIN_PATH.fullmatch(line):
            blocks.append(_Block(match[1]))
        elif _BETWEEN.fullmatch(line):
            continue
        elif not blocks:
            raise _unknown(line)
        else:
            blocks[-1].add(line)
    return [block.done() for block in blocks]


@dataclass
class _Block:
    path: str
    program: tuple[str, int] | None = None
    name: str | None = None
    maps: list[tuple[str, int]] = field(default_factory=list)

    def add(self, line: str) -> None:
        if match := _PROGRAM_ID.fullmatch(line):
            self.program = match[1], _number(match[2], 32)
        elif match := _MAP_NAME.fullmatch(line):
            if self.name is not None:
                raise CliError(f"map {self.name!r} of {self.path} has no id")
            self.name = match[1]
        elif (match := _MAP_ID.fullmatch(line)) and self.name is not None:
            self.maps.append((self.name, _number(match[1], 32)))
            self.name = None
        else:
            raise _unknown(line)

    def done(self) -> PinnedProgram:
        _, inside, path = self.path.partition(ROOT)
        if not inside or not path:
            raise CliError(f"the pin {self.path[:120]!r} is not below {ROOT}")
        if self.program is None or self.name is not None:
            raise CliError(f"the block of {path[:120]!r} is cut")
        kind, number = self.program
        return PinnedProgram(path, number if kind == "ID" else None, tuple(self.maps))


def map_pin(program: PinnedProgram, name: str) -> str:
    """The path of the pin that gave ``name`` to a map of ``program``; empty for a name that no agent uses."""
    if name in GLOBAL_MAPS:
        return f"maps/global_{name}"
    path = f"{program.identifier}_{name}"
    return f"maps/{path}" if program.identifier and pinned_identifier(path) == program.identifier else ""


# ---- contents of maps


@dataclass
class Dump:
    """Entries of one map, key -> value, and why they are not all (or not whole); "" where they are."""

    entries: dict[bytes, bytes] = field(default_factory=dict)
    reason: str = ""


def dump_command(row: Json) -> str:
    """The subcommand that prints this map right. Raises ``CliError`` where none does.

    The size decides: `dump-maps` reads the values of a cluster policy map into a buffer that is too small for
    them, and a ring buffer would lose records.
    """
    layout = layouts.layout_of(row["type"], row["key_size"], row["value_size"])
    if layout is None or layout.role == "events":
        raise CliError(layouts.unknown_layout(row["type"], row["key_size"], row["value_size"]))
    if layout.value == layouts.POD_ADDRESS:
        raise CliError("aws-eks-na-cli shows one octet of the address that is the value of this conntrack map")
    if layout.role != "cp":
        return "dump-maps"
    if layout.family == 6:
        raise CliError("aws-eks-na-cli has no command for cluster policy maps of IPv6")
    return "dump-cp-maps"


def parse_dump(text: str, row: Json) -> Dump:
    """`ebpf dump-maps` or `dump-cp-maps` of the map ``row``, a row of ``maps``. Raises ``CliError``."""
    dump_command(row)
    layout = layouts.layout_of(row["type"], row["key_size"], row["value_size"])
    assert layout is not None
    parser: _Parser
    if layout.role == "conntrack":
        parser = _ConntrackParser(layout)
    elif layout.role == "pod_state":
        parser = _StateParser(layout)
    else:
        parser = _LpmParser(layout)
    lines = list(_lines(text))
    if not lines:
        raise CliError("it printed nothing: this build has no such command")
    ended = False
    for line in lines:
        ended = _dump_line(line, parser) or ended
    parser.close()
    if not ended and not parser.dump.reason:
        if not parser.dump.entries:
            raise CliError("it printed no entries: this build does not show maps of this kind")
        parser.dump.reason = NO_END
    return parser.dump


def _dump_line(line: str, parser: _Parser) -> bool:
    """Take one line; True for the last line of a dump that went well."""
    if _DONE.fullmatch(line) or _EMPTY.fullmatch(line):
        return True
    if _WALKING.fullmatch(line):
        return False
    if _STOPPED.fullmatch(line):
        parser.dump.reason = "it could not get the next entry"
        return False
    if match := _ENTRY_FAILED.fullmatch(line):
        # An entry that was deleted meanwhile is no entry; it is left out as the reader does.
        if _GONE not in match[1]:
            parser.dump.reason = match[1] or "an entry could not be read"
        return False
    if match := _FAILED.fullmatch(line):
        return _dump_failed(match[1] or match[2] or "it failed without a reason", parser)
    parser.add(line)
    return False


def _dump_failed(said: str, parser: _Parser) -> bool:
    # Builds that do not know an empty map fail at its first key (IPv6, and IPv4 up to 1.0.2).
    # "unable to get FD" in it means that the map itself is gone.
    if _NO_FIRST_KEY.fullmatch(said) and said.endswith(_GONE) and " FD" not in said:
        return True
    if not parser.dump.entries:
        raise CliError(said)
    parser.dump.reason = said
    return False


class _Parser:
    """Collects the lines of one dump into entries."""

    def __init__(self, layout: layouts.Layout) -> None:
        self.layout = layout
        self.dump = Dump()
        self.address: Callable[[str], Address] = _ipv4 if layout.family == 4 else _ipv6

    def add(self, line: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """No line follows: the last entry must be whole."""

    def put(self, key: bytes, value: bytes) -> None:
        if key in self.dump.entries:
            # The key under the CLI's cursor was deleted: the kernel begins again from the first one.
            self.dump.reason = "the map changed while it was read"
        self.dump.entries[key] = value


class _LpmParser(_Parser):
    """ingress_map, egress_map and their cp_ counterparts, in the three shapes that releases print."""

    def __init__(self, layout: layouts.Layout) -> None:
        super().__init__(layout)
        self.key: bytes | None = None
        self.slots: dict[int, tuple[int, ...]] = {}
        self.slot: int | None = None
        self.fields: dict[str, int] = {}
        self.slot_size = layouts.NP_SLOT.size if layout.role == "np" else layouts.CP_SLOT.size
        self.names = ["protocol", "startport", "endport"]
        if layout.role == "cp":
            self.names.insert(1, "priority")

    def add(self, line: str) -> None:
        if match := _LPM_KEY.fullmatch(line):
            self._begin(self._key(match[1], match[2]))
        elif self.key is None:
            raise _unknown(line)
        elif match := _SLOT.fullmatch(line):
            self._close_slot()
            self.slot = _number(match[1] or match[2], 16)
            if self.slot in self.slots or self.slot >= self.layout.value_size // self.slot_size:
                raise CliError(f"slot {self.slot} comes twice, or is beyond the value")
        elif _VALUE.fullmatch(line):
            self._close_slot()
            self.slot = 0
            self.dump.reason = FIRST_SLOT_ONLY
        elif match := _FIELD.fullmatch(line):
            name = match[1].lower()
            if self.slot is None or name in self.fields or name not in self.names:
                raise _unknown(line)
            self.fields[name] = _protocol(match[2]) if name == "protocol" else _number(match[2], 32)
        else:
            raise _unknown(line)

    def _key(self, address: str, length: str) -> bytes:
        # Not by way of a network: a trie keeps host bits as they were written, and so does the reader.
        number = _number(length, 8)
        packed = self.address(address).packed
        if number > len(packed) * 8:
            raise CliError(f"prefix length {number} for an address of {len(packed)} bytes")
        structure = layouts.LPM_KEY4 if self.layout.family == 4 else layouts.LPM_KEY6
        return structure.pack(number, packed)

    def _begin(self, key: bytes) -> None:
        # dump-cp-maps prints the line of each key twice.
        if key == self.key and not self.slots and self.slot is None:
            return
        self.close()
        self.key = key

    def _close_slot(self) -> None:
        if self.slot is None:
            return
        if len(self.fields) != len(self.names):
            raise CliError(f"slot {self.slot} lacks {' and '.join(n for n in self.names if n not in self.fields)}")
        self.slots[self.slot] = tuple(self.fields[name] for name in self.names)
        self.slot, self.fields = None, {}

    def close(self) -> None:
        self._close_slot()
        if self.key is None:
            return
        size, last = self.layout.value_size, max(self.slots, default=-1)
        unused = (0,) * len(self.names)
        rows = [self.slots.get(number, unused) for number in range(last + 1)]
        if self.layout.role == "np":
            value = encode.np_value((Slot(*row) for row in rows), size)
        else:
            value = encode.cp_value((ClusterSlot(*row) for row in rows), size)
        self.put(self.key, value)
        self.key, self.slots = None, {}


class _StateParser(_Parser):
    """ingress_pod_state_map and egress_pod_state_map."""

    key: int | None = None

    def add(self, line: str) -> None:
        if (match := _STATE_KEY.fullmatch(line)) and self.key is None:
            self.key = _number(match[1], 32)
        elif (match := _STATE.fullmatch(line)) and self.key is not None:
            key, value = encode.pod_states([(self.key, _number(match[1], 8))])
            self.put(key, value)
            self.key = None
        else:
            raise _unknown(line)

    def close(self) -> None:
        if self.key is not None:
            raise CliError(f"key {self.key} has no state")


class _ConntrackParser(_Parser):
    """aws_conntrack_map from agent 1.0.5 on."""

    entry: ConntrackEntry | None = None

    def add(self, line: str) -> None:
        if match := _CONNTRACK.fullmatch(line):
            self.close()
            self.entry = self._key(match)
        elif self.entry is None:
            raise _unknown(line)
        elif _VALUE.fullmatch(line):
            return
        elif (match := _CONNTRACK_VALUE.fullmatch(line)) and self.entry.value is None:
            self.entry = self.entry._replace(value=_number(match[1], 8 * min(self.layout.value_size, 8)))
            if self.layout.value_size == 1:
                self._put(self.entry)
        elif (match := _LAST_SEEN.fullmatch(line)) and self.entry.value is not None:
            self._put(self.entry._replace(last_seen=_number(match[1], 64)))
        else:
            raise _unknown(line)

    def _key(self, match: re.Match[str]) -> ConntrackEntry:
        source, source_port, destination, port, protocol, owner, ifindex = match.groups()
        # A CLI of another version than the map reads beside the fields, or beyond the key.
        if owner is None or (ifindex is not None) != (self.layout.has_ifindex):
            raise CliError("this aws-eks-na-cli and the conntrack map are of different versions")
        return ConntrackEntry(
            self.address(source),
            _number(source_port, 16),
            self.address(destination),
            _number(port, 16),
            _number(protocol, 8),
            self.address(owner),
            None if ifindex is None else _number(ifindex, 32),
            None,
        )

    def _put(self, entry: ConntrackEntry) -> None:
        self.put(encode.conntrack_key(entry, self.layout), encode.conntrack_value(entry, self.layout))
        self.entry = None

    def close(self) -> None:
        if self.entry is not None:
            raise CliError("a conntrack entry lacks its value, or the time when it was last seen")


# ---- small things


def _lines(text: str) -> Iterator[str]:
    """Lines without rulers (`====`, `----`, `****`) and what copying leaves of them before a text."""
    for line in text.split("\n"):
        line = line.strip().lstrip("*").strip()
        if line.strip("-=* "):
            yield line


def _unknown(line: str) -> CliError:
    return CliError(f"not a line of aws-eks-na-cli here: {line[:100]!r}")


def _number(text: str, bits: int) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) >= 1 << bits:
        raise CliError(f"{text[:40]!r} is not a number of {bits} bits")
    return int(text)


def _protocol(text: str) -> int:
    """A name, or a number up to agent 1.0.6."""
    if text in PROTOCOLS:
        return PROTOCOLS[text]
    if text.isdecimal():
        return _number(text, 32)
    raise CliError(f"protocol {text[:40]!r}: its number cannot be told")


@lru_cache(maxsize=65536)
def _ipv4(text: str) -> Address:
    try:
        return IPv4Address(text)
    except ValueError as error:
        raise CliError(str(error)[:200]) from error


@lru_cache(maxsize=65536)
def _ipv6(text: str) -> Address:
    """Go writes an IPv4-mapped address (::ffff:a.b.c.d) as a.b.c.d; see net.IP.String."""
    try:
        return IPv6Address(f"::ffff:{text}" if re.fullmatch(r"[0-9.]+", text) else text)
    except ValueError as error:
        raise CliError(str(error)[:200]) from error
