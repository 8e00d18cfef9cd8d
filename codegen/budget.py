"""The static budget of each program: what the kernel limits, counted in the object before the kernel is asked.

Instructions: Documentation/bpf/standardization/instruction-set.rst; relocations: Documentation/bpf/llvm_reloc.rst; symbols: ELF-64
Object File Format.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from policyc.artifact import elf
from policyc.artifact.layout import ENTRY_PREFIX, PROGRAM_PREFIX
from policyc.artifact.manifest import ProgramBudget
from policyc.diagnostics import OperationError

MAX_STACK, MAX_MAPS, MAX_INSTRUCTIONS, MAX_JUMPS = 512, 64, 1_000_000, 8192

_SYMBOL, _RELOCATION, _INSTRUCTION = struct.Struct("<IBBHQQ"), struct.Struct("<QQ"), struct.Struct("<BBhi")
_TYPE_FUNCTION = 2
_LDX, _ST, _STX, _JMP, _JMP32 = 1, 2, 3, 5, 6
_SECOND_HALF, _LOAD_64, _MOVE_64, _ADD_64, _CALL, _EXIT = 0x00, 0x18, 0xBF, 0x07, 0x85, 0x95
_FRAME_POINTER, _PSEUDO_CALL = 10, 1


class Place(NamedTuple):
    """The index of a section, and bytes from its beginning."""

    section: int
    offset: int


@dataclass(frozen=True)
class _Symbol:
    name: str
    is_function: bool
    place: Place
    size: int


@dataclass
class Function:
    """A function by itself. `stack` is in bytes, `maps` are places in `.maps`. `calls` are the functions called, and those whose
    address is taken, which are callbacks of helpers: the kernel counts them as called where that is done
    (`check_max_stack_depth` in kernel/bpf/verifier.c)."""

    name: str
    instructions: int = 0
    jumps: int = 0
    stack: int = 0
    calls: set[Place] = field(default_factory=set)
    maps: set[Place] = field(default_factory=set)


class _Object:
    """An object's symbols, and by section the symbols its code refers to; data is not read, however much there is of it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._sections = elf.sections(data)
        self._index = {s.name: i for i, s in enumerate(self._sections)}
        self.symbols = self._read_symbols()
        self.maps = self._index.get(".maps")

    def _contents(self, name: str) -> bytes:
        index = self._index.get(name)
        return b"" if index is None else elf.contents(self._data, self._sections[index])

    def _read_symbols(self) -> list[_Symbol]:
        names = self._contents(".strtab")
        return [
            _Symbol(
                names[name : names.index(b"\0", name)].decode(), info & 15 == _TYPE_FUNCTION, Place(index, value), size
            )
            for name, info, _, index, value, size in _SYMBOL.iter_unpack(self._contents(".symtab"))
        ]

    def code(self, function: _Symbol) -> bytes:
        start = self._sections[function.place.section].offset + function.place.offset
        return self._data[start : start + function.size]

    def relocations(self, section: int) -> dict[int, _Symbol]:
        """The symbol that an instruction of a section refers to, by the instruction's offset."""
        content = self._contents(f".rel{self._sections[section].name}")
        return {offset: self.symbols[info >> 32] for offset, info in _RELOCATION.iter_unpack(content)}


def functions(data: bytes) -> dict[Place, Function]:
    """What each function of an object takes, by where it begins."""
    read = _Object(data)
    symbols = [s for s in read.symbols if s.is_function]
    relocations = {section: read.relocations(section) for section in {s.place.section for s in symbols}}
    found = {s.place: _count(s, read.code(s), relocations[s.place.section]) for s in symbols}
    for function in found.values():
        function.calls &= found.keys()
        function.maps = {m for m in function.maps if m.section == read.maps}
    return found


def _count(symbol: _Symbol, code: bytes, relocations: Mapping[int, _Symbol]) -> Function:
    """Addresses of anything are among the calls and maps: the caller knows what is one."""
    made = Function(symbol.name)
    section, begin = symbol.place
    copy = -1  # the register that the instruction before set to the frame pointer
    at = begin - _INSTRUCTION.size
    for operation, registers, offset, immediate in _INSTRUCTION.iter_unpack(code):
        at += _INSTRUCTION.size
        if operation == _SECOND_HALF:
            continue
        made.instructions += 1
        target, source, kind = registers & 15, registers >> 4, operation & 7
        before, copy = copy, -1
        if (source if kind == _LDX else target) == _FRAME_POINTER and kind in (_LDX, _ST, _STX):
            made.stack = max(made.stack, -offset)
        elif operation == _MOVE_64 and source == _FRAME_POINTER:
            copy = target
        elif operation == _ADD_64 and target == before:
            # LLVM makes the address of a slot in two instructions that stand together (BPFRegisterInfo::eliminateFrameIndex).
            made.stack = max(made.stack, -immediate)
        elif operation == _LOAD_64 and at in relocations:
            base = relocations[at].place
            address = Place(base.section, base.offset + immediate)
            made.calls.add(address)
            made.maps.add(address)
        elif operation == _CALL:
            if source == _PSEUDO_CALL:
                # The distance counts from the next instruction, with a relocation from its symbol.
                base = relocations[at].place if at in relocations else Place(section, at)
                made.calls.add(Place(base.section, base.offset + (immediate + 1) * _INSTRUCTION.size))
        elif kind in (_JMP, _JMP32):
            made.jumps += operation != _EXIT
    return made


def _reach(found: Mapping[Place, Function], place: Place) -> set[Place]:
    seen: set[Place] = set()
    waiting = [place]
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        waiting.extend(found[at].calls)
    return seen


def _deepest(found: Mapping[Place, Function], place: Place) -> int:
    """Bytes of stack along the deepest chain of calls; the kernel rounds each frame, also an empty one, up to 32."""
    own = (max(found[place].stack, 1) + 31) & ~31
    return own + max((_deepest(found, c) for c in found[place].calls), default=0)


def check(data: bytes) -> tuple[ProgramBudget, ...]:
    """The budget of each program of an object, by name. Raises OperationError where one is over the kernel's limits."""
    found = functions(data)
    budgets = []
    programs = {f.name: place for place, f in found.items() if f.name.startswith((PROGRAM_PREFIX, ENTRY_PREFIX))}
    for name, place in sorted(programs.items()):
        parts = [found[p] for p in _reach(found, place)]
        maps = {m for p in parts for m in p.maps}
        used = ProgramBudget(
            name,
            instructions=sum(p.instructions for p in parts),
            stack=_deepest(found, place),
            maps=len(maps),
            jumps=max(p.jumps for p in parts),
        )
        limits = (
            ("instructions", used.instructions, MAX_INSTRUCTIONS),
            ("bytes of stack", used.stack, MAX_STACK),
            ("maps", used.maps, MAX_MAPS),
            ("jumps in one function", used.jumps, MAX_JUMPS),
        )
        for what, value, limit in limits:
            if value > limit:
                raise OperationError(
                    f"the policy needs a program of {value} {what}; the kernel allows {limit} ({name})",
                    help="split the policy into several files and load each under a name of its own",
                )
        budgets.append(used)
    return tuple(budgets)
