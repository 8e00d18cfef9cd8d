"""A module as text for LLVM. What is not inside a function llvmlite writes. Values in functions and their blocks are numbered instead of having names,
which is written faster, is a quarter shorter, and spares LLVM tables of names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from llvmlite.ir import instructions

from policyc.codegen.function import Value


def module_text(module: ir.Module) -> str:
    """LLVM IR. KeyError where a function has an instruction of a kind that none had before."""
    lines = [f'target triple = "{module.triple}"', f'target datalayout = "{module.data_layout}"']
    for value in module.globals.values():
        if isinstance(value, ir.Function) and value.blocks:
            _Writer(value).write(lines)
        else:
            lines.append(str(value))
    for name, node in module.namedmetadata.items():
        lines.append(f"!{name} = !{{ {', '.join(o.get_reference() for o in node.operands)} }}")
    lines += map(str, module.metadata)
    return "\n".join(lines)


class _Writer:
    """One function. By identity: how blocks and results of instructions are written (`numbers`), and types (`types`)."""

    def __init__(self, function: ir.Function) -> None:
        self.function = function
        self.numbers: dict[int, str] = {}
        self.types: dict[int, str] = {}
        for block in function.blocks:
            self._number(block)
            for instruction in block.instructions:
                if not isinstance(instruction.type, ir.VoidType):
                    self._number(instruction)

    def _number(self, value: Value) -> None:
        self.numbers[id(value)] = f"%{len(self.numbers)}"

    def write(self, lines: list[str]) -> None:
        prototype: list[str] = []
        self.function.descr_prototype(prototype)
        lines += ("".join(prototype), "{")
        numbers = self.numbers
        for block in self.function.blocks:
            lines.append(f"{numbers[id(block)][1:]}:")
            for instruction in block.instructions:
                text = _WRITERS[instruction.__class__](self, instruction)
                result = numbers.get(id(instruction))
                where = instruction.metadata.get("dbg")
                if result is not None:
                    text = f"{result} = {text}"
                lines.append(text if where is None else f"{text}, !dbg {where.get_reference()}")
        lines.append("}")

    def reference(self, value: Value) -> str:
        return self.numbers.get(id(value)) or str(value.get_reference())

    def operand(self, value: Value) -> str:
        """With its type."""
        return f"{self.type(value.type)} {self.numbers.get(id(value)) or value.get_reference()}"

    def type(self, type_: ir.Type) -> str:
        text = self.types.get(id(type_))
        if text is None:
            text = self.types[id(type_)] = str(type_)
        return text

    def operands(self, values: Any) -> str:
        return ", ".join(map(self.operand, values))

    def binary(self, i: Any) -> str:
        a, b = i.operands
        return f"{i.opname} {self.type(i.type)} {self.reference(a)}, {self.reference(b)}"

    def compare(self, i: Any) -> str:
        a, b = i.operands
        return f"icmp {i.op} {self.type(a.type)} {self.reference(a)}, {self.reference(b)}"

    def cast(self, i: Any) -> str:
        return f"{i.opname} {self.operand(i.operands[0])} to {self.type(i.type)}"

    def load(self, i: Any) -> str:
        return f"load {self.type(i.type)}, {self.operand(i.operands[0])}{_aligned(i)}"

    def store(self, i: Any) -> str:
        value, pointer = i.operands
        return f"store {self.operand(value)}, {self.operand(pointer)}{_aligned(i)}"

    def alloca(self, i: Any) -> str:
        return f"alloca {i.allocated_type}{_aligned(i)}"

    def address(self, i: Any) -> str:
        return f"getelementptr {self.type(i.source_etype)}, {self.operand(i.pointer)}, {self.operands(i.indices)}"

    def jump(self, i: Any) -> str:
        return f"{i.opname} {self.operands(i.operands)}"

    def switch(self, i: Any) -> str:
        cases = " ".join(f"{self.operand(value)}, {self.operand(block)}" for value, block in i.cases)
        return f"switch {self.operand(i.value)}, {self.operand(i.default)} [{cases}]"

    def select(self, i: Any) -> str:
        return f"select {self.operands(i.operands)}"

    def phi(self, i: Any) -> str:
        return f"phi {i.type} " + ", ".join(f"[{self.reference(v)}, {self.reference(b)}]" for v, b in i.incomings)

    def call(self, i: Any) -> str:
        return f"call {i.callee.function_type.return_type} {self.reference(i.callee)}({self.operands(i.args)})"

    def atomic(self, i: Any) -> str:
        return f"atomicrmw {i.operation} {self.operands(i.operands)} {i.ordering}"


def _aligned(i: Any) -> str:
    return "" if i.align is None else f", align {i.align}"


_WRITERS: dict[type, Callable[[_Writer, Any], str]] = {
    instructions.Instruction: _Writer.binary,
    instructions.ICMPInstr: _Writer.compare,
    instructions.CastInstr: _Writer.cast,
    instructions.LoadInstr: _Writer.load,
    instructions.StoreInstr: _Writer.store,
    instructions.AllocaInstr: _Writer.alloca,
    instructions.GEPInstr: _Writer.address,
    instructions.Branch: _Writer.jump,
    instructions.ConditionalBranch: _Writer.jump,
    instructions.Ret: _Writer.jump,
    instructions.SwitchInstr: _Writer.switch,
    instructions.SelectInstr: _Writer.select,
    instructions.PhiInstr: _Writer.phi,
    instructions.CallInstr: _Writer.call,
    instructions.AtomicRMW: _Writer.atomic,
}
