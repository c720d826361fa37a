"""A loader of the ELF objects that clang -target bpf makes: one program section, maps by symbol name."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

PROGRAM_SECTION = "tc_cls"
MAPS_SECTION = "maps"
LICENSE_SECTION = "license"
EM_BPF = 247
R_BPF_64_64 = 1
BPF_PSEUDO_MAP_FD = 1
LD_IMM64 = 0x18


class ElfError(ValueError):
    """The object is not one that this loader understands."""


@dataclass(frozen=True)
class MapDef:
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True)
class _Section:
    name: str
    type: int
    body: bytes
    info: int


@dataclass(frozen=True)
class _Symbol:
    name: str
    section: int
    value: int
    size: int


@dataclass(frozen=True)
class BpfObject:
    """One program with the maps that it names."""

    function: str
    instructions: bytes
    license: str
    maps: Mapping[str, MapDef]
    relocations: tuple[tuple[int, str], ...]

    def link(self, map_fds: Mapping[str, int]) -> bytes:
        """The instructions with every map reference replaced by a file descriptor."""
        code = bytearray(self.instructions)
        for offset, name in self.relocations:
            if code[offset] != LD_IMM64:
                raise ElfError(f"relocation of {name} at {offset} is not on a 64-bit load")
            code[offset + 1] = (code[offset + 1] & 0x0F) | (BPF_PSEUDO_MAP_FD << 4)
            struct.pack_into("<i", code, offset + 4, map_fds[name])
        return bytes(code)


def _text(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode()


def _sections(data: bytes) -> list[_Section]:
    if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", data, 18)[0] != EM_BPF:
        raise ElfError("not a 64-bit little-endian BPF object")
    offset = struct.unpack_from("<Q", data, 40)[0]
    entry_size, count, names_index = struct.unpack_from("<HHH", data, 58)
    raw = [struct.unpack_from("<IIQQQQIIQQ", data, offset + i * entry_size) for i in range(count)]
    names = data[raw[names_index][4] : raw[names_index][4] + raw[names_index][5]]
    return [_Section(_text(names, r[0]), r[1], data[r[4] : r[4] + r[5]], r[7]) for r in raw]


def _symbols(sections: list[_Section]) -> list[_Symbol]:
    table = next(s for s in sections if s.type == 2)
    names = next(s for s in sections if s.name == ".strtab").body
    rows = struct.iter_unpack("<IBBHQQ", table.body)
    return [_Symbol(_text(names, name), section, value, size) for name, _, _, section, value, size in rows]


def _index(sections: list[_Section], name: str) -> int:
    for i, section in enumerate(sections):
        if section.name == name:
            return i
    raise ElfError(f"no section {name}")


def parse(data: bytes) -> BpfObject:
    sections = _sections(data)
    symbols = _symbols(sections)
    program, maps = _index(sections, PROGRAM_SECTION), _index(sections, MAPS_SECTION)
    functions = [s.name for s in symbols if s.section == program and s.size]
    if len(functions) != 1:
        raise ElfError(f"section {PROGRAM_SECTION} holds {functions}, expected one function")
    definitions = {
        s.name: MapDef(*struct.unpack_from("<5I", sections[maps].body, s.value))
        for s in symbols
        if s.section == maps and s.name
    }
    relocations = []
    for section in sections:
        if section.name != f".rel{PROGRAM_SECTION}":
            continue
        for offset, info in struct.iter_unpack("<QQ", section.body):
            symbol = symbols[info >> 32]
            if info & 0xFFFFFFFF != R_BPF_64_64 or symbol.name not in definitions:
                raise ElfError(f"relocation type {info & 0xFFFFFFFF} of {symbol.name!r} is not a map reference")
            relocations.append((offset, symbol.name))
    licence = sections[_index(sections, LICENSE_SECTION)].body.rstrip(b"\0").decode()
    return BpfObject(functions[0], sections[program].body, licence, definitions, tuple(relocations))
