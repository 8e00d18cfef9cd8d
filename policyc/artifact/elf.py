"""The ELF container: the checks that come before anything else looks at a file, and adding sections to an object.

64-bit little-endian relocatable objects for BPF only (`ET_REL`, `EM_BPF`). Field layouts: ELF-64 Object File Format.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
MAGIC, CLASS_64, DATA_LITTLE, TYPE_RELOCATABLE, MACHINE_BPF = b"\x7fELF", 2, 1, 1, 247
SHT_NULL, SHT_PROGBITS, SHT_NOBITS = 0, 1, 8
SHN_LORESERVE = 0xFF00


class ElfError(ValueError):
    """A file that is not a sound BPF object; the message says what is wrong with it."""


@dataclass(frozen=True)
class Section:
    """A section: `offset` and `size` are in bytes of the file, and inside it unless the type is `SHT_NOBITS`."""

    name: str
    type: int
    flags: int
    offset: int
    size: int


@dataclass(frozen=True)
class _Header:
    section_table: int
    section_count: int
    names_index: int


def sections(data: bytes) -> list[Section]:
    """The sections of a checked BPF object, in file order. Raises `ElfError`."""
    _check_sections(data, _header(data))
    return _sections(data)


def _header(data: bytes) -> _Header:
    if not data.startswith(MAGIC):
        raise ElfError("it is not an ELF file")
    if len(data) < HEADER.size:
        raise ElfError("it is truncated: the ELF header is not whole")
    ident, kind, machine, _, _, _, table, _, _, _, _, entry_size, count, names = HEADER.unpack_from(data)
    if ident[4] != CLASS_64 or ident[5] != DATA_LITTLE:
        raise ElfError("it is not a 64-bit little-endian ELF file")
    if machine != MACHINE_BPF:
        raise ElfError("it is an ELF file for another machine, not for BPF")
    if kind != TYPE_RELOCATABLE:
        raise ElfError("it is not a relocatable object")
    if entry_size != SECTION_HEADER.size or not 0 < count < SHN_LORESERVE or names >= count:
        raise ElfError("its section header table is malformed")
    if table + count * SECTION_HEADER.size > len(data):
        raise ElfError("it is truncated: the section header table lies outside the file")
    return _Header(table, count, names)


def _check_sections(data: bytes, header: _Header) -> None:
    for index in range(header.section_count):
        at = header.section_table + index * SECTION_HEADER.size
        _, kind, _, _, offset, size, *_ = SECTION_HEADER.unpack_from(data, at)
        if kind not in (SHT_NULL, SHT_NOBITS) and offset + size > len(data):
            raise ElfError(f"it is truncated: section {index} lies outside the file")


def _sections(data: bytes) -> list[Section]:
    try:
        found = [(str(s.name), s.header) for s in ELFFile(BytesIO(data)).iter_sections()]
        return [Section(name, _type(h.sh_type), h.sh_flags, h.sh_offset, h.sh_size) for name, h in found]
    except Exception as error:  # the parser raises assertion, key, struct and its own errors on malformed files
        raise ElfError("its section headers are malformed") from error


def _type(kind: str | int) -> int:
    """pyelftools names the section types it knows; only the one without contents matters here."""
    if isinstance(kind, int):
        return kind
    return {"SHT_NULL": SHT_NULL, "SHT_NOBITS": SHT_NOBITS}.get(kind, SHT_PROGBITS)


def contents(data: bytes, section: Section) -> bytes:
    """The bytes of a section as they stand in the file. Raises `ElfError` where it has none."""
    if section.type in (SHT_NULL, SHT_NOBITS):
        raise ElfError(f"its section {section.name} has no contents")
    return data[section.offset : section.offset + section.size]


def fill(data: bytes, contents_of: Mapping[str, bytes]) -> bytes:
    """The object with the bytes of its zeroed symbols filled in, by name. Raises `ElfError` where one is not there, is of another size,
    or is not zero."""
    out = bytearray(data)
    elf = ELFFile(BytesIO(data))
    table = elf.get_section_by_name(".symtab")
    found = table.iter_symbols() if isinstance(table, SymbolTableSection) else ()
    symbols = {s.name: s.entry for s in found if s.name in contents_of}
    for name, body in contents_of.items():
        symbol = symbols.get(name)
        if symbol is None or symbol.st_size != len(body):
            raise ElfError(f"it has no symbol {name} of {len(body)} bytes")
        at = elf.get_section(symbol.st_shndx)["sh_offset"] + symbol.st_value
        if out[at : at + len(body)] != bytes(len(body)):
            raise ElfError(f"its symbol {name} is not zero")
        out[at : at + len(body)] = body
    return bytes(out)


def append_sections(data: bytes, added: list[tuple[str, bytes]]) -> bytes:
    """The object with sections added at its end, in the order given; what is there keeps its place and index.

    The new sections are `SHT_PROGBITS` without flags, so that loaders pass them by. The table of names and the table
    of sections are written anew after them. Raises `ElfError` where `data` is no sound object."""
    header = _header(data)
    _check_sections(data, header)
    table = [
        list(SECTION_HEADER.unpack_from(data, header.section_table + i * SECTION_HEADER.size))
        for i in range(header.section_count)
    ]
    names_row = table[header.names_index]
    names = bytearray(data[names_row[4] : names_row[4] + names_row[5]])
    out = bytearray(data)
    for name, body in added:
        _align(out, 8)
        table.append([len(names), SHT_PROGBITS, 0, 0, len(out), len(body), 0, 0, 8, 0])
        names += name.encode() + b"\0"
        out += body
    names_row[4], names_row[5] = len(out), len(names)
    out += names
    _align(out, 8)
    place = len(out)
    for row in table:
        out += SECTION_HEADER.pack(*row)
    fields = list(HEADER.unpack_from(data))
    fields[6], fields[12] = place, len(table)
    HEADER.pack_into(out, 0, *fields)
    return bytes(out)


def _align(out: bytearray, to: int) -> None:
    out += bytes(-len(out) % to)
