"""Structured emission of one BPF function over llvmlite: variables, memory, branches, loops and helper calls.

Variables are stack slots that LLVM's SROA turns into registers; everything else is emitted as written, because the
middle end is kept away from match code (docs/platform.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

from llvmlite import ir

from policyc.codegen.debuginfo import DebugInfo
from policyc.model import Span

I1, I8, I16, I32, I64, PTR = (
    ir.IntType(1),
    ir.IntType(8),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
    ir.PointerType(),
)
Value = Any  # llvmlite's values are untyped


class Helper(IntEnum):
    """Helper numbers, linux/bpf.h."""

    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    KTIME_GET_NS = 5
    SKB_STORE_BYTES = 9
    TAIL_CALL = 12
    SKB_LOAD_BYTES = 26
    SKB_CHANGE_TAIL = 38
    SKB_PULL_DATA = 39
    GET_SOCKET_COOKIE = 46
    SETSOCKOPT = 49
    SKB_ADJUST_ROOM = 50
    SOCK_OPS_CB_FLAGS_SET = 59
    MSG_APPLY_BYTES = 61
    MSG_PULL_DATA = 63
    SOCK_HASH_UPDATE = 70
    MSG_REDIRECT_HASH = 71
    SK_REDIRECT_HASH = 72
    GET_LOCAL_STORAGE = 81
    SKB_ANCESTOR_CGROUP_ID = 83
    MSG_PUSH_DATA = 90
    MSG_POP_DATA = 91
    SK_STORAGE_GET = 107
    PROBE_READ_KERNEL = 113
    JIFFIES64 = 118  # inlined by the verifier
    RINGBUF_RESERVE = 131
    RINGBUF_SUBMIT = 132
    SKC_TO_TCP_SOCK = 137
    KTIME_GET_COARSE_NS = 160
    LOOP = 181
    XDP_GET_BUFF_LEN = 188
    XDP_LOAD_BYTES = 189


class _Nameless:
    """A scope of names that asks nothing of them: what is in a function is written with numbers (`module_text`)."""

    def register(self, name: str, deduplicate: bool = False) -> str:
        return name


class Function:
    """One function under construction. Integers given as Python ints take the type of the other operand."""

    def __init__(
        self,
        module: ir.Module,
        debug: DebugInfo,
        name: str,
        args: Sequence[tuple[str, ir.Type, Any]],
        span: Span,
        section: str | None = None,
        static: bool = False,
    ) -> None:
        """`args`: (name, type, debug type). Result is i32 (0 where nothing else is returned). A function that is not `static`
        and has no section is global: the kernel verifies it once, from its prototype alone."""
        fn = ir.Function(module, ir.FunctionType(I32, [t for _, t, _ in args]), name)
        fn.attributes.add("nounwind")
        fn.attributes.add("noinline")
        fn.linkage = "internal" if static else ""
        if section:
            fn.section = section
        self.function, self.module, self.debug = fn, module, debug
        self.args = list(fn.args)
        fn.scope = _Nameless()
        self._allocas = fn.append_basic_block("slots")
        body = fn.append_basic_block("body")
        self.b = ir.IRBuilder(body)
        self._body = body
        self._index: Value | None = None
        self._shared: dict[str, Value] = {}
        self.scope = debug.subprogram(name, span.line, span.file, [(n, d) for n, _, d in args], debug.i32, local=static)
        fn.set_metadata("dbg", self.scope)
        self.at(span)

    def at(self, span: Span) -> None:
        """The source place of what is emitted from here on."""
        self.b.debug_metadata = self.debug.location(self.debug.block_in(self.scope, span.file), span.line, span.column)

    @contextmanager
    def line(self, span: Span) -> Iterator[None]:
        saved = self.b.debug_metadata
        self.at(span)
        yield
        self.b.debug_metadata = saved

    def close(self) -> ir.Function:
        """Ends the function with 0 where control still falls through."""
        if not self.b.block.is_terminated:
            self.ret(0)
        entry = ir.IRBuilder(self._allocas)
        entry.debug_metadata = self.debug.location(self.scope, 0, 0)
        entry.branch(self._body)
        return self.function

    # --- values -----------------------------------------------------------------------------------------------

    def _pair(self, a: Value, b: Value) -> tuple[Value, Value]:
        if isinstance(a, int):
            return b.type(a), b
        return (a, a.type(b)) if isinstance(b, int) else (a, b)

    def add(self, a: Value, b: Value) -> Value:
        return self.b.add(*self._pair(a, b))

    def sub(self, a: Value, b: Value) -> Value:
        return self.b.sub(*self._pair(a, b))

    def mul(self, a: Value, b: Value) -> Value:
        return self.b.mul(*self._pair(a, b))

    def and_(self, a: Value, b: Value) -> Value:
        return self.b.and_(*self._pair(a, b))

    def or_(self, a: Value, b: Value) -> Value:
        return self.b.or_(*self._pair(a, b))

    def xor(self, a: Value, b: Value) -> Value:
        return self.b.xor(*self._pair(a, b))

    def shl(self, a: Value, n: Value) -> Value:
        return self.b.shl(*self._pair(a, n))

    def shr(self, a: Value, n: Value) -> Value:
        return self.b.lshr(*self._pair(a, n))

    def sar(self, a: Value, n: Value) -> Value:
        return self.b.ashr(*self._pair(a, n))

    def cmp(self, op: str, a: Value, b: Value) -> Value:
        """Unsigned comparison, an i1."""
        return self.b.icmp_unsigned(op, *self._pair(a, b))

    def eq(self, a: Value, b: Value) -> Value:
        return self.cmp("==", a, b)

    def ne(self, a: Value, b: Value) -> Value:
        return self.cmp("!=", a, b)

    def both(self, *conditions: Value) -> Value:
        result = conditions[0]
        for c in conditions[1:]:
            result = self.b.and_(result, c)
        return result

    def either(self, *conditions: Value) -> Value:
        result = conditions[0]
        for c in conditions[1:]:
            result = self.b.or_(result, c)
        return result

    def within(self, value: Value, intervals: Sequence[tuple[int, int]]) -> Value:
        """Whether it is in one of the intervals, of which there are some; both ends belong to them."""
        return self.either(*(self.both(self.cmp(">=", value, a), self.cmp("<=", value, b)) for a, b in intervals))

    def not_(self, condition: Value) -> Value:
        return self.b.not_(condition)

    def bits(self, value: Value, mask: int) -> Value:
        """Whether any bit of `mask` is set."""
        return self.ne(self.and_(value, mask), 0)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.b.select(condition, *self._pair(a, b))

    def to(self, value: Value, type_: ir.IntType) -> Value:
        """Zero-extended or truncated."""
        if value.type.width == type_.width:
            return value
        return self.b.zext(value, type_) if value.type.width < type_.width else self.b.trunc(value, type_)

    def at_most(self, value: Value, limit: int) -> Value:
        """`value` (i32, not 0) or `limit`, as the verifier sees it: from 1 to `limit`. Kernels before 6.8 learn nothing from a comparison with 0."""
        less = self.var(self.sub(value, 1))
        with self.if_(self.cmp(">=", less.get(), limit)):
            less.set(limit - 1)
        return self.add(less.get(), 1)

    def swap(self, value: Value) -> Value:
        """Between network and host order."""
        return self.b.bswap(value)

    # --- memory -----------------------------------------------------------------------------------------------

    def slot(self, type_: ir.Type, name: str = "", align: int = 8) -> Value:
        """Uninitialised stack memory of the function."""
        here = self.b.block
        self.b.position_at_end(self._allocas)
        saved, self.b.debug_metadata = self.b.debug_metadata, None
        pointer = self._opaque(self.b.alloca(type_, name=name))
        pointer.align = align
        self.b.debug_metadata = saved
        self.b.position_at_end(here)
        return pointer

    def shared_slot(self, type_: ir.Type, name: str) -> Value:
        """Stack memory that all who ask for this name share: for keys of which one at a time is alive."""
        if name not in self._shared:
            self._shared[name] = self.slot(type_, name)
        return self._shared[name]

    @staticmethod
    def _opaque(pointer: Value) -> Value:
        """llvmlite gives slots, globals and addresses typed pointers; LLVM knows none."""
        pointer.type = PTR
        return pointer

    def var(self, value: Value, type_: ir.IntType | None = None) -> Var:
        if isinstance(value, int):
            assert type_ is not None
            value = type_(value)
        return Var(self, value)

    def pointer(self, value: Value) -> Value:
        """The packet pointer that a 32-bit field of the context stands for."""
        return self.b.inttoptr(self.to(value, I64), PTR)

    def at_offset(self, pointer: Value, offset: Value) -> Value:
        """`pointer` + `offset` bytes; the offset an int or an integer value."""
        if isinstance(offset, int):
            if offset == 0:
                return pointer
            offset = I64(offset)
        return self._opaque(self.b.gep(pointer, [self.to(offset, I64)], source_etype=I8))

    def load(self, pointer: Value, type_: ir.IntType, offset: Value = 0) -> Value:
        value = self.b.load(self.at_offset(pointer, offset), typ=type_)
        value.align = type_.width // 8
        return value

    def store(self, pointer: Value, value: Value, type_: ir.IntType | None = None, offset: Value = 0) -> None:
        if isinstance(value, int):
            assert type_ is not None
            value = type_(value)
        self.b.store(value, self.at_offset(pointer, offset)).align = value.type.width // 8

    def zero(self, pointer: Value, size: int) -> None:
        """`size` is a multiple of 4; `pointer` is aligned to 8."""
        for offset in range(0, size - size % 8, 8):
            self.store(pointer, 0, I64, offset)
        if size % 8:
            self.store(pointer, 0, I32, size - 4)

    def copy(self, target: Value, to: int, source: Value, from_: int, size: int, step: ir.IntType = I64) -> None:
        for i in range(0, size, step.width // 8):
            self.store(target, self.load(source, step, from_ + i), offset=to + i)

    # --- control ----------------------------------------------------------------------------------------------

    @contextmanager
    def if_(self, condition: Value) -> Iterator[None]:
        with self.b.if_then(condition):
            yield

    @contextmanager
    def if_else(self, condition: Value) -> Iterator[tuple[Any, Any]]:
        with self.b.if_else(condition) as branches:
            yield branches

    @contextmanager
    def loop(self, bound: Value, limit: int) -> Iterator[tuple[Value, ir.Block]]:
        """Counts an i32 from 0 while it is below `bound` and `limit`; yields the index and the block that leaves the loop."""
        index = self.var(0, I32)
        head = self.b.append_basic_block("head")
        body = self.b.append_basic_block("loop")
        done = self.b.append_basic_block("done")
        self.b.branch(head)
        self.b.position_at_end(head)
        i = index.get()
        within = self.b.append_basic_block("within")
        self.b.cbranch(self.cmp("<", i, limit), within, done)
        self.b.position_at_end(within)
        if isinstance(bound, int):
            self.b.branch(body)
        else:
            self.b.cbranch(self.cmp("<", i, bound), body, done)
        self.b.position_at_end(body)
        yield i, done
        if not self.b.block.is_terminated:
            index.set(self.add(index.get(), 1))
            self.b.branch(head)
        self.b.position_at_end(done)

    def leave(self, block: ir.Block) -> None:
        """Jumps to `block`; nothing may follow in this branch."""
        self.b.branch(block)

    def ret(self, value: Value) -> None:
        self.b.ret(I32(value) if isinstance(value, int) else value)

    def switch(self, value: Value, cases: Mapping[int, Callable[[], None]], otherwise: ir.Block) -> None:
        """Emits each case's code where `value` is its number; what falls through goes on behind, everything else to `otherwise`."""
        after = self.b.append_basic_block("after_switch")
        table = self.b.switch(value, otherwise)
        for number, emit in cases.items():
            block = self.b.append_basic_block(f"case_{number}")
            table.add_case(value.type(number), block)
            self.b.position_at_end(block)
            emit()
            if not self.b.block.is_terminated:
                self.b.branch(after)
        self.b.position_at_end(after)

    # --- calls ------------------------------------------------------------------------------------------------

    def helper(self, helper: Helper, *args: Value, result: ir.Type = I64) -> Value:
        """A helper call; Python ints become i64."""
        values = [I64(a) if isinstance(a, int) else a for a in args]
        type_ = ir.FunctionType(result, [v.type for v in values])
        return self.b.call(self.b.inttoptr(I64(int(helper)), type_.as_pointer()), values)

    def kernel_field(self, pointer: Value, struct: str, member: str) -> Value:
        """An int (i32) of a kernel's object, wherever this kernel has it."""
        offset = self.kernel_offset(struct, member)
        return self.b.load(self.b.gep(pointer, [offset], source_etype=I8), typ=I32)

    def kernel_pointer(self, pointer: Value, struct: str, member: str) -> Value:
        """A pointer of a kernel's object likewise; only to be compared with null."""
        offset = self.kernel_offset(struct, member)
        return self.b.load(self.b.gep(pointer, [offset], source_etype=I8), typ=PTR)

    def kernel_offset(self, struct: str, member: str) -> Value:
        """Where (i64) this kernel's struct has the member."""
        return self.b.load(self.debug.kernel_offset(struct, member), typ=I64)

    def call(self, callee: ir.Function, *args: Value) -> Value:
        values = [t.type(a) if isinstance(a, int) else a for a, t in zip(args, callee.args, strict=True)]
        return self.b.call(callee, values)

    def repeat(self, times: int, callback: ir.Function, context: Value) -> None:
        """bpf_loop: calls the static `callback(index, context)` until it returns 1, at most `times` times; `context` is stack memory."""
        self.helper(Helper.LOOP, I32(times), callback, context, 0)

    def lookup(self, map_: Value, key: Value) -> Value:
        """The value's address or null."""
        return self.helper(Helper.MAP_LOOKUP, map_, key, result=PTR)

    def lookup_index(self, map_: Value, index: Value) -> Value:
        if self._index is None:
            self._index = self.slot(I32, align=4)
        self.store(self._index, index, I32)
        return self.lookup(map_, self._index)

    def is_null(self, pointer: Value) -> Value:
        return self.b.icmp_unsigned("==", pointer, ir.Constant(PTR, None))

    def not_null(self, pointer: Value) -> Value:
        return self.b.icmp_unsigned("!=", pointer, ir.Constant(PTR, None))

    def add_to(self, pointer: Value, amount: Value, offset: int = 0) -> None:
        """Plain addition, for memory that only this CPU writes, or where a count lost in a race does no harm."""
        self.store(pointer, self.add(self.load(pointer, amount.type, offset), amount), offset=offset)

    def count(self, pointer: Value, offset: int, amount: int) -> None:
        """Atomically adds to an aligned i64 that other CPUs write, too."""
        self.b.atomic_rmw("add", self.at_offset(pointer, offset), I64(amount), "monotonic")

    def set_bits(self, pointer: Value, bits: Value, offset: int = 0) -> None:
        """Atomically sets bits of an aligned i32 that other CPUs write, too."""
        self.b.atomic_rmw("or", self.at_offset(pointer, offset), bits, "monotonic")


class Var:
    """A mutable integer of a function."""

    def __init__(self, function: Function, value: Value) -> None:
        self.function, self.type = function, value.type
        self.pointer = function.slot(value.type, align=value.type.width // 8)
        self.set(value)

    def get(self) -> Value:
        return self.function.load(self.pointer, self.type)

    def set(self, value: Value) -> None:
        self.function.store(self.pointer, value, self.type)
