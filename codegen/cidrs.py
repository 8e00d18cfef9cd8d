"""CIDR tables as read-only data, and the search for an address in them.

What a search finds is a *leaf*: the row of the address where only one use of the table exists (`leaf_is_row`), else its class.

IPv4: the upper bits of an address (`CidrTable.bits4`) choose a bucket. Array `cidr4_index` tells for each bucket the entry in which it begins or the one
before, and the next number is that of the last entry in it. Array `cidr4` has the entries: `start << leaf bits | leaf`. In a *narrow* module
an entry has four bytes and of the start only what the bucket does not tell, else eight bytes.

IPv6: the upper halves of the starts between the first and the last span a range of which the upper bits choose a bucket; a branch-free
search over the bucket's starts follows. Where no start has a lower half, only upper halves are compared.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from policyc.codegen.branchless import above, borrow
from policyc.codegen.function import I32, I64, Function, Value, Var
from policyc.codegen.rodata import Rodata
from policyc.ir.tables import CidrTable, GroupCidrs, Tables

WIDE_LEAF_BITS = 31
SMALL_INDEX = 8192  # buckets that narrow entries may always cost
_HALF = (1 << 64) - 1
Starts = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Index4:
    """Where a table's buckets stand: at `base + (address >> shift)`; `steps` are made for every bucket."""

    base: int
    shift: int
    steps: int


class CidrData:
    """The CIDR tables of a module in its read-only data."""

    def __init__(self, rodata: Rodata, tables: Tables) -> None:
        uses: dict[int, dict[int, GroupCidrs]] = {}
        for group in tables.groups:
            for use in group.cidrs:
                uses.setdefault(use.table, {})[id(use)] = use
        self.leaf_is_row: list[bool] = []
        leaves: list[tuple[int, ...]] = []
        for number, table in enumerate(tables.cidr_tables):
            columns = {c for use in uses.get(number, {}).values() for c in (use.rows_any, use.rows_world)}
            self.leaf_is_row.append(len(columns) == 1)
            leaves.append(next(iter(columns)) if len(columns) == 1 else tuple(range(table.classes)))
        # One start of class 0: no address of the family is in any set. Of another class (a prefix of length 0): each is.
        self.used4 = any(table.v4 != ((0, 0),) for table in tables.cidr_tables)
        self.used6 = any(table.v6 != ((0, 0),) for table in tables.cidr_tables)
        self._build4(rodata, tables.cidr_tables, leaves)
        self._build6(rodata, tables.cidr_tables, leaves)

    # --- IPv4 -------------------------------------------------------------------------------------------------

    def _build4(self, rodata: Rodata, tables: Sequence[CidrTable], leaves: Sequence[Sequence[int]]) -> None:
        chosen = [max(table.bits4, 1) for table in tables]
        needed = max((max(leaf) for leaf in leaves), default=0).bit_length() + 1  # for start and leaf in 31 bits
        narrow = [max(bits, needed) for bits in chosen]
        affordable = SMALL_INDEX + 2 * sum((1 << bits) + len(t.v4) for bits, t in zip(chosen, tables, strict=True))
        self.is_narrow = needed <= 31 and sum(1 << bits for bits in narrow) <= affordable
        self.leaf_bits = needed - 1 if self.is_narrow else WIDE_LEAF_BITS
        index: list[int] = []
        entries: list[int] = []
        self.tables4: list[Index4] = []
        self.most_steps = 0
        for table, leaf, bits in zip(tables, leaves, narrow if self.is_narrow else chosen, strict=True):
            shift = 32 - bits
            self.tables4.append(Index4(len(index), shift, table.steps4))
            starts = [start for start, _ in table.v4]
            base, at = len(entries), 1
            begins = []
            for bucket in range((1 << bits) + 1):
                at = bisect_left(starts, bucket << shift, at)
                begins.append(at - 1)
            most = max(end - begin + 1 for begin, end in pairwise(begins))
            self.most_steps = max(self.most_steps, (most - 1).bit_length())
            index += [base + begin for begin in begins]
            kept = (1 << shift) - 1 if self.is_narrow else (1 << 32) - 1
            entries += [(start & kept) << self.leaf_bits | leaf[c] for start, c in table.v4]
        self.index4 = rodata.array("cidr4_index", 4, index, align=64)
        self.entries4 = rodata.array("cidr4", 4 if self.is_narrow else 8, entries, align=64)
        self.steps = max((t.steps for t in self.tables4), default=0)

    def search4(self, f: Function, address: Value, place: Index4 | tuple[Value, Value]) -> Value:
        """The leaf (i32) of an IPv4 address (i32, host order) in a table: known at compile time, or by base and shift (i32)."""
        kept: Value
        if isinstance(place, Index4):
            base, shift, steps = place.base, place.shift, place.steps
            kept = (1 << shift) - 1
        else:
            base, shift = place
            steps = self.steps
            kept = f.sub(f.shl(I32(1), shift), 1)
        bucket = f.add(f.shr(address, shift), base)
        low = f.var(self.index4(f, bucket))
        left = f.var(f.add(f.sub(self.index4(f, f.add(bucket, 1)), low.get()), 1))
        start = f.and_(address, kept) if self.is_narrow else address
        leaf = (1 << self.leaf_bits) - 1
        wanted = f.or_(f.shl(f.to(start, I64), self.leaf_bits), leaf)
        if self.most_steps > steps:
            more = self.most_steps - steps
            with f.if_(f.cmp(">", left.get(), 1 << steps)), f.loop(more, more) as (_, done):
                with f.if_(f.cmp("<=", left.get(), 1 << steps)):
                    f.leave(done)
                self._step(f, low, left, wanted)
        for _ in range(steps):
            self._step(f, low, left, wanted)
        return f.to(f.and_(self.entries4(f, low.get()), leaf), I32)

    def _step(self, f: Function, low: Var, left: Var, wanted: Value) -> None:
        """Halves the entries among which is the last that is not above `wanted`; the first is not."""
        half = f.shr(left.get(), 1)
        beyond = above(f, f.to(self.entries4(f, f.add(low.get(), half)), I64), wanted)
        low.set(f.add(low.get(), f.and_(half, f.not_(f.to(beyond, I32)))))
        left.set(f.sub(left.get(), half))

    # --- IPv6 -------------------------------------------------------------------------------------------------

    PLACE6 = 8  # words of a record of `cidr6_tables`: first upper half, span, shift, index, first entry, last entry
    _FIRST, _SPAN, _SHIFT, _INDEX, _BEGIN, _END = range(6)

    def _build6(self, rodata: Rodata, tables: Sequence[CidrTable], leaves: Sequence[Sequence[int]]) -> None:
        places: list[int] = []
        index: list[int] = []
        entries: list[tuple[int, int]] = []
        most = 1
        for table, leaf in zip(tables, leaves, strict=True):
            highs = [start >> 64 for start, _ in table.v6]
            base, first = len(entries), highs[1] if len(highs) > 1 else 0
            span = highs[-1] - first
            shift = max(span.bit_length() - max(table.bits6, 1), 0)
            buckets = (span >> shift) + 1
            bounds = [bisect_left(highs, first + (b << shift)) for b in range(buckets)] + [len(highs)]
            # A bucket's first address lies in the entry before the first that begins in it.
            begins = [max(b - 1, 0) for b in bounds]
            most = max(most, *(end - begin for begin, end in zip(begins, bounds[1:], strict=False)))
            places += [first, span, shift, len(index) // 2, base, base + len(highs) - 1, 0, 0]
            index += [n for b in range(buckets) for n in (base + begins[b], bounds[b + 1] - begins[b])]
            entries += [(start, leaf[c]) for start, c in table.v6]
        self.steps6 = (most - 1).bit_length()
        self.is_flat6 = not any(start & _HALF for start, _ in entries)
        self.places6 = rodata.array("cidr6_tables", 8, places)
        self.index6 = rodata.array("cidr6_index", 4, index)
        self.high6 = rodata.array("cidr6_high", 8, [start >> 64 for start, _ in entries])
        if not self.is_flat6:
            self.low6 = rodata.array("cidr6_low", 8, [start & _HALF for start, _ in entries])
        self.leaves6 = rodata.array("cidr6_leaves", 4, [leaf for _, leaf in entries])

    def search6(self, f: Function, table: Value, high: Value, low: Value) -> Value:
        """The leaf (i32) of an IPv6 address, as two i64 in host order, in a table."""

        def word(field: int) -> Value:
            return self.places6(f, table, self.PLACE6, field)

        first, span = word(self._FIRST), word(self._SPAN)
        at = f.var(f.to(word(self._BEGIN), I32))
        left = f.var(1, I32)
        offset = f.sub(high, first)
        with f.if_else(f.cmp("<=", offset, span)) as (inside, outside):
            with inside:
                bucket = f.shl(f.add(f.shr(offset, word(self._SHIFT)), word(self._INDEX)), 1)
                at.set(self.index6(f, bucket))
                left.set(self.index6(f, f.or_(bucket, 1)))
            with outside, f.if_(f.cmp(">", high, first)):
                at.set(f.to(word(self._END), I32))
        with f.if_(f.cmp(">", left.get(), 1)), f.loop(self.steps6, self.steps6):
            half = f.shr(left.get(), 1)
            middle = f.add(at.get(), half)
            at.set(f.add(at.get(), f.and_(half, self._not_above6(f, middle, high, low))))
            left.set(f.sub(left.get(), half))
        return self.leaves6(f, at.get())

    def _not_above6(self, f: Function, entry: Value, high: Value, low: Value) -> Value:
        """All ones (i32) where the entry's start is not above the address."""
        start = self.high6(f, entry)
        is_above = borrow(f, high, start)
        if not self.is_flat6:
            differs = f.xor(high, start)
            same = f.sub(f.shr(f.or_(differs, f.sub(0, differs)), 63), 1)  # all ones if equal
            is_above = f.or_(is_above, f.and_(same, borrow(f, low, self.low6(f, entry))))
        return f.to(f.sub(is_above, 1), I32)
