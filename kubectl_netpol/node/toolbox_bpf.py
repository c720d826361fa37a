"""What aws-eks-na-cli says of programs, maps and pins, as sections of the document.

The CLI walks pins. Of a program that no pin holds, which is what a stale tc filter runs, it tells neither maps nor
size: such a program is left out of ``programs``, with an entry in ``errors``.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubectl_netpol.node import na_cli, reader
from kubectl_netpol.node.na_cli import PinnedProgram
from kubectl_netpol.node.toolbox_commands import Cli
from kubectl_netpol.node.toolbox_shell import Output

Json = dict[str, Any]

PINS_ONLY = "aws-eks-na-cli sees pins only, and none holds this program: what maps it uses is unknown"
NO_ID = "aws-eks-na-cli does not tell which object is behind it"
NO_PROGRAM_ID = "aws-eks-na-cli up to agent 1.0.6 does not tell the ids of pinned programs"
NOT_TOLD = "aws-eks-na-cli does not tell names, sizes and load times of programs, and flags of maps: empty or 0 here"
BY_NAME = "the ids of map pins are those that aws-eks-na-cli names for the program pinned beside them"


@dataclass
class Findings:
    """Notes and errors of the document, in the order in which they came up."""

    notes: list[str] = field(default_factory=list)
    errors: list[Json] = field(default_factory=list)

    def fail(self, what: str, error: object) -> None:
        self.errors.append({"what": what, "error": " ".join(str(error).split()) or type(error).__name__})

    def attempt(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a parser; a text that it does not understand becomes an entry of ``errors`` and None."""
        try:
            return function(*arguments)
        except ValueError as error:
            self.fail(what, error)
            return None


def program_rows(
    pinned: Iterable[PinnedProgram], loaded: Mapping[int, na_cli.LoadedProgram] | None, found: Findings
) -> list[Json]:
    """Rows of ``programs``: the pinned ones, as far as all their maps are told."""
    rows: dict[int, Json] = {}
    for program in pinned:
        number = program.program_id
        if number is None or number in rows:
            continue
        known = loaded.get(number) if loaded is not None else None
        map_ids = list(dict.fromkeys(map_id for _, map_id in program.maps))
        # The CLI keeps maps by name: of two without a pin, and so without a name, it prints one.
        if known is not None and known.map_count != len(map_ids):
            told = f"aws-eks-na-cli tells {len(map_ids)} of its {known.map_count} maps"
            found.fail(f"program {number}", told)
            continue
        rows[number] = {
            "id": number,
            "type": known.type if known is not None else 3,
            "tag": "",
            "name": "",
            "jited": False,
            "xlated_len": 0,
            "jited_len": 0,
            "load_time_ns": 0,
            "map_ids": map_ids,
        }
    return list(rows.values())


def add_attached(document: Json, jited: Mapping[int, bool], found: Findings) -> None:
    """What tc says of attached programs, and an error for each of which the CLI says nothing."""
    rows = {row["id"]: row for row in document["programs"]}
    told = {error["what"] for error in found.errors}
    without_id = any(pin["reason"] == NO_PROGRAM_ID for pin in document["pins"] or ())
    for row in document["filters"] or ():
        number = row["program_id"]
        if number is None:
            continue
        if number in rows:
            rows[number].update(tag=row["tag"], jited=jited.get(number, False))
        elif f"program {number}" not in told:
            told.add(f"program {number}")
            found.fail(f"program {number}", NO_PROGRAM_ID if without_id else PINS_ONLY)


def pin_rows(pinned: Iterable[PinnedProgram] | None, listed: list[str] | None) -> list[Json]:
    """Rows of ``pins``. ``listed``: all paths below globals/aws, None where nobody listed them.

    The CLI prints the pins of programs. A pin of a map it tells by its last part, with the id: it is taken for
    the pin of the identifier whose program uses the map, unless programs of two identifiers do.
    """
    programs = list(pinned or ())
    rows: dict[str, Json] = {}
    for program in programs:
        reason = "" if program.program_id is not None else NO_PROGRAM_ID
        rows[program.path] = {"path": program.path, "kind": "prog", "id": program.program_id, "reason": reason}
    for path, number in _map_pins(programs).items():
        if listed is None or path in listed:
            rows[path] = {"path": path, "kind": "map", "id": number, "reason": ""}
    for path in listed or ():
        rows.setdefault(path, {"path": path, "kind": "unknown", "id": None, "reason": NO_ID})
    return list(rows.values())


def _map_pins(programs: Iterable[PinnedProgram]) -> dict[str, int]:
    ids: dict[str, set[int]] = defaultdict(set)
    paths: dict[int, set[str]] = defaultdict(set)
    for program in programs:
        for name, number in program.maps:
            path = na_cli.map_pin(program, name)
            if path:
                ids[path].add(number)
                paths[number].add(path)
    return {
        path: next(iter(numbers))
        for path, numbers in ids.items()
        if len(numbers) == 1 and all(len(paths[number]) == 1 for number in numbers)
    }


def contents(text: str, row: Json, addresses: list[bytes] | None) -> Json:
    """The ``contents`` of a map from its dump; with ``addresses`` only entries that have one in the key, as the
    reader chooses them. Raises ``CliError``."""
    dump = na_cli.parse_dump(text, row)
    keys, values = b"".join(dump.entries), list(dump.entries.values())
    if addresses is not None:
        size = row["key_size"]
        kept = reader.matching(keys, size, addresses)
        keys = b"".join(keys[number * size : (number + 1) * size] for number in kept)
        values = [values[number] for number in kept]
    return {
        "method": "next_key",
        "count": len(values),
        "total": len(dump.entries),
        "complete": not dump.reason,
        "filtered": addresses is not None,
        "keys": base64.b64encode(keys).decode(),
        "values": base64.b64encode(b"".join(values)).decode(),
        "reason": dump.reason,
        "first_slot_only": dump.reason == na_cli.FIRST_SLOT_ONLY,
    }


def wanted_rows(document: Json, request: Json, findings: Findings) -> list[Json]:
    """Rows of ``maps`` whose contents are asked for, not there yet, and can be printed by the CLI."""
    if document["maps"] is None:
        return []
    pods = [pod for pod in request.get("pods") or () if isinstance(pod, dict)]
    links = reader.requested_links(document, pods, addresses(request))
    wanted = reader.wanted_maps(document, pods, links, bool(request.get("all")))
    rows = []
    for row in document["maps"]:
        if row["id"] not in wanted or row["contents"] is not None or row["type"] not in reader.READABLE_TYPES:
            continue
        if row["type"] == reader.LRU_HASH and str(request.get("conntrack") or "none") == "none":
            continue
        what = f"map {row['id']}"
        if any(error["what"] == what for error in findings.errors):
            continue
        if findings.attempt(what, na_cli.dump_command, row):
            rows.append(row)
    return rows


def fill(row: Json, output: Output, request: Json, found: Findings) -> None:
    """Put the contents of a dump into its row, or the reason why there are none into ``errors``."""
    only = str(request.get("conntrack") or "none") == "pods" and row["type"] == reader.LRU_HASH
    what = f"map {row['id']}"
    if output.status != 0:
        found.fail(what, output.said)
    else:
        wanted = list(addresses(request).values()) if only else None
        row["contents"] = found.attempt(what, contents, output.stdout, row, wanted)


def addresses(request: Json) -> dict[str, bytes]:
    """Text -> bytes of the requested pod addresses, as the reader understands them."""
    pods = [pod for pod in request.get("pods") or () if isinstance(pod, dict)]
    return reader.requested_addresses(pods, reader.Report())


def empty(via: str) -> Json:
    """A document in which nothing was read yet."""
    sections = ("links", "addresses", "routes", "qdiscs", "filters", "tcx", "programs", "maps", "pins")
    clock = {"monotonic_ns": 0, "boottime_ns": 0, "realtime_ns": 0}
    return {
        "format": reader.FORMAT,
        "reader": reader.READER_VERSION,
        "via": via,
        "uname": {"sysname": "", "release": "", "machine": "", "nodename": ""},
        "python": "",
        "clock": {"begin": clock, "end": clock},
        "bpffs": {"path": None, "reason": ""},
        **dict.fromkeys(sections),
        "notes": [],
        "errors": [],
    }


def objects(
    document: Json,
    pinned: list[na_cli.PinnedProgram] | None,
    loaded: list[na_cli.LoadedProgram] | None,
    found: Findings,
) -> None:
    """``programs`` from the lists of the CLI; ``maps`` are there already."""
    if pinned is None:
        return
    known = {program.id: program for program in loaded} if loaded is not None else None
    document["programs"] = program_rows(pinned, known, found)
    found.notes += [NOT_TOLD, BY_NAME]


def dump(cli: Cli, row: Json, found: Findings) -> str:
    """The command that prints a map; "" and an error where no build can."""
    binary = cli.for_map(row)
    if binary:
        return f"{binary} ebpf {na_cli.dump_command(row)} {int(row['id'])}"
    found.fail(f"map {row['id']}", "there is no aws-eks-na-cli of this map's family")
    return ""
