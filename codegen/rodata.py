"""Read-only arrays. LLVM sees them as zeros; their bytes are put into the finished object (`artifact.elf.fill`), so that
megabytes of tables pass neither through LLVM's text form nor through its assembler."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence

from llvmlite import ir

from policyc.codegen.function import I8, I16, I32, I64, PTR, Function, Value

SECTION = ".rodata"
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_TYPES = {1: I8, 2: I16, 4: I32, 8: I64}


class Rodata:
    """The arrays of one module. `contents`: their bytes by symbol."""

    def __init__(self, module: ir.Module) -> None:
        self.module = module
        self.contents: dict[str, bytes] = {}

    def array(self, name: str, width: int, values: Iterable[int], align: int = 8) -> Data:
        """An array of unsigned little-endian integers of 1, 2, 4 or 8 bytes, filled up with zeros to a power of two."""
        numbers = array(_CODES[width], values)
        length = len(numbers)
        if sys.byteorder == "big":
            numbers.byteswap()
        size = power_of_two(length) * width
        self.contents[name] = numbers.tobytes().ljust(size, b"\0")
        type_ = ir.ArrayType(I8, size)
        var = ir.GlobalVariable(self.module, type_, name)
        var.initializer = ir.Constant(type_, None)
        var.global_constant, var.linkage, var.section, var.align = True, "internal", SECTION, align
        var.type = PTR
        return Data(var, width, power_of_two(length), numbers)


class Data:
    """One array. Its length is a power of two, so that an index masked with length - 1 is within bounds for the verifier
    without a branch."""

    def __init__(self, var: ir.GlobalVariable, width: int, length: int, values: Sequence[int]) -> None:
        self.var, self.width, self.length, self.values = var, width, length, values

    def __call__(self, f: Function, index: Value, record: int = 1, field: int = 0) -> Value:
        """Loads field `field` of record `index` of records of `record` fields (a power of two), the index taken modulo the
        number of records. An index known at compile time costs no masking."""
        shift = record.bit_length() - 1 + self.width.bit_length() - 1
        if isinstance(index, int):
            return f.load(
                self.var, _TYPES[self.width], ((index % (self.length // record)) << shift) + field * self.width
            )
        masked = f.and_(f.to(index, I64), self.length // record - 1)
        place = f.at_offset(self.var, f.shl(masked, shift))
        return f.load(place, _TYPES[self.width], field * self.width)


def power_of_two(n: int) -> int:
    """The least power of two that is not below n, at least 1."""
    return 1 << max(n - 1, 0).bit_length()
