"""From an instruction's number in the verifier's log to the source line, for kernels before 6.9, whose log does not name it.

The kernel counts instructions as libbpf laid them out: the program, then the functions that it calls, each once, in
the order of first call, depth first (libbpf.c, `bpf_object__reloc_code`). Line information: `.BTF.ext`
(Documentation/bpf/btf.rst).
"""

from __future__ import annotations

import bisect
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

INSTRUCTION = 8  # bytes
CALL, PSEUDO_CALL = 0x85, 1  # opcode; src_reg of a call of a function of the object
CODE = ".text"


@dataclass(frozen=True)
class Function:
    section: str
    start: int  # bytes from the beginning of the section
    size: int


def place(data: bytes, program: str, index: int) -> tuple[str, int] | None:
    """File and line of instruction `index` of `program` in the log; None where the object does not say."""
    try:
        return _Object(data).place(program, index)
    except (ELFError, struct.error, KeyError, ValueError, AttributeError):
        return None


class _Object:
    def __init__(self, data: bytes) -> None:
        self._elf = ELFFile(io.BytesIO(data))
        self._symbols = list(self._section(".symtab").iter_symbols())
        self._functions = {
            s.name: Function(self._elf.get_section(s["st_shndx"]).name, s["st_value"], s["st_size"])
            for s in self._symbols
            if s["st_info"]["type"] == "STT_FUNC"
        }
        self._at = {(f.section, f.start): f for f in self._functions.values()}

    def _section(self, name: str) -> Any:
        section = self._elf.get_section_by_name(name)
        if section is None:
            raise KeyError(name)
        return section

    def place(self, program: str, index: int) -> tuple[str, int] | None:
        for function in self._layout(self._functions[program]):
            if index * INSTRUCTION < function.size:
                return self._line(function.section, function.start + index * INSTRUCTION)
            index -= function.size // INSTRUCTION
        return None

    def _layout(self, main: Function) -> list[Function]:
        """The functions in the order in which libbpf puts them one after another."""
        order = [main]

        def follow(function: Function) -> None:
            for callee in self._calls(function):
                if callee not in order:
                    order.append(callee)
                    follow(callee)

        follow(main)
        return order

    def _calls(self, function: Function) -> Iterator[Function]:
        code = self._section(function.section).data()
        relocated = self._relocations(function.section)
        for offset in range(function.start, function.start + function.size, INSTRUCTION):
            opcode, registers, _, immediate = struct.unpack_from("<BBhi", code, offset)
            if opcode != CALL or registers >> 4 != PSEUDO_CALL:
                continue
            base = relocated.get(offset, offset if function.section == CODE else 0)
            callee = self._at.get((CODE, base + (immediate + 1) * INSTRUCTION))
            if callee is not None:
                yield callee

    def _relocations(self, section: str) -> dict[int, int]:
        """Offset of a relocated instruction → value of the symbol it refers to."""
        table: Any = self._elf.get_section_by_name(f".rel{section}")
        if table is None:
            return {}
        return {r["r_offset"]: self._symbols[r["r_info_sym"]]["st_value"] for r in table.iter_relocations()}

    def _line(self, section: str, offset: int) -> tuple[str, int] | None:
        """The last line record at or before `offset`."""
        btf = self._section(".BTF").data()
        header, _, _, strings, _ = struct.unpack_from("<5I", btf, 4)

        def text(at: int) -> str:
            start = header + strings + at
            return str(btf[start : btf.index(b"\0", start)], "utf-8", "replace")

        records = sorted(r for name, r in self._records() if text(name) == section)
        found = bisect.bisect_right(records, (offset, 1 << 32, 1 << 32)) - 1
        if found < 0:
            return None
        _, file, line = records[found]
        return text(file), line >> 10  # the column is in the lower bits

    def _records(self) -> Iterator[tuple[int, tuple[int, int, int]]]:
        """Name of the section (in the string table), and (offset in bytes, file name, line and column)."""
        ext = self._section(".BTF.ext").data()
        header, _, _, lines, length = struct.unpack_from("<5I", ext, 4)
        at, end = header + lines, header + lines + length
        (size,) = struct.unpack_from("<I", ext, at)
        at += 4
        while at < end:
            name, count = struct.unpack_from("<2I", ext, at)
            at += 8
            for _ in range(count):
                offset, file, _, line = struct.unpack_from("<4I", ext, at)
                yield name, (offset, file, line)
                at += size
