"""Kernels before 6.8 refuse a loop whose last block falls through into its first; they need a jump back (check_cfg)."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

from policyc.codegen.emit import compile_object
from policyc.frontend import load
from policyc.ir.pipeline import build

SOURCE = """policy p for { app == api } {
  ingress { allow from same(ns), { app == web }, 10.0.0.0/8 on tcp/80, udp/53 log  pass from host audit }
  egress default deny {}
}
"""
JUMP, JUMP32, CALL, EXIT, GOTO = 5, 6, 0x85, 0x95, 0x05


@dataclass(frozen=True)
class Instruction:
    code: int
    offset: int


def functions(data: bytes) -> dict[str, list[Instruction]]:
    """Instructions of each function of an object; the second half of a 16-byte one stands as code 0."""
    elf = ELFFile(io.BytesIO(data))
    found = {}
    for symbol in elf.get_section_by_name(".symtab").iter_symbols():
        if symbol["st_info"]["type"] != "STT_FUNC":
            continue
        content = elf.get_section(symbol["st_shndx"]).data()[
            symbol["st_value"] : symbol["st_value"] + symbol["st_size"]
        ]
        found[symbol.name] = [Instruction(c, o) for c, _, o, _ in struct.iter_unpack("<BBhi", content)]
    return found


def falling_loops(code: list[Instruction]) -> list[int]:
    """Instructions that are no jump and from which control falls into one that is still being explored, depth first as
    the kernel goes: the next instruction before the jump's target."""
    DISCOVERED, EXPLORED = 1, 2
    state: dict[int, int] = {}
    found = []
    stack: list[tuple[int, list[int]]] = [(0, _next(code, 0))]
    state[0] = DISCOVERED
    while stack:
        at, left = stack[-1]
        if not left:
            state[at] = EXPLORED
            stack.pop()
            continue
        to = left.pop(0)
        if state.get(to) == DISCOVERED and not _jumps(code[at]):
            found.append(at)
        elif to not in state:
            state[to] = DISCOVERED
            stack.append((to, _next(code, to)))
    return found


def _jumps(i: Instruction) -> bool:
    return i.code & 7 in (JUMP, JUMP32) and i.code not in (CALL, EXIT)


def _next(code: list[Instruction], at: int) -> list[int]:
    i = code[at]
    if i.code == EXIT:
        return []
    if i.code == GOTO:
        return [at + 1 + i.offset]
    return [at + 1, at + 1 + i.offset] if _jumps(i) else [at + 1]


def test_no_loop_of_any_program_falls_into_its_head(tmp_path: Path) -> None:
    file = tmp_path / "p.pol"
    file.write_text(SOURCE)
    result = load([str(file)])
    assert result.policy is not None
    compiled = compile_object(build(result.policy), result.policy, result.sources, result.root)
    found = functions(compiled.object)
    assert len(found) > 15
    assert {name: loops for name, code in found.items() if (loops := falling_loops(code))} == {}


def test_the_check_finds_such_a_loop() -> None:
    add, conditional, leave = Instruction(0x07, 0), Instruction(0x55, 1), Instruction(EXIT, 0)
    #   0: goto 2; 1: add; 2: if … goto 4; 3: goto 1; 4: exit    (1 falls into 2, the head)
    assert falling_loops([Instruction(GOTO, 1), add, conditional, Instruction(GOTO, -3), leave]) == [1]
