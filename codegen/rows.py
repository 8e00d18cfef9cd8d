"""Rows as read-only data, and what finds a row's best cell for a key.

A best cell is one i64, `level << 41 | action << 39 | rank << 18 | streams << 2 | stream << 1 | log`, `branchless.NONE` for none: the smaller
one wins, and the upper 24 bits tell whether two are of the same level and action. `stream`: requests are judged, by the rules of set number
`streams` (`RowData.stream_sets`; 0: by none but the rule itself).

Array `rows` has a record for each kind of key and row, at [kind * rows + row]: a u64 `first | span << 32`, then the best cell (with audit two,
enforced and prospective, and one unused) for keys from `first` to `first + span`. Other keys have none. Rows of more than one interval
have `SEARCHED | steps` as `first`, and the span's place holds where their cells begin; the next u64 is their number: sorted keys, each with the best
cell up to the next.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from policyc.codegen.branchless import NONE, above, smaller
from policyc.codegen.function import I32, I64, Function, Value
from policyc.codegen.rodata import Rodata
from policyc.diagnostics import OperationError
from policyc.ir.tables import KEY_END, Best, Cell, KeyKind, Row, StreamRules, Tables

LEVEL_SHIFT, ACTION_SHIFT, RANK_SHIFT, RANK_BITS, STREAMS_SHIFT, STREAMS_BITS = 41, 39, 18, 21, 2, 16
LOG, STREAM = 1, 2  # bits of a best cell that add up
SEARCHED = 1 << 31
_NO_KEY = 0x7FFFFFFF  # above all keys


@dataclass(frozen=True, slots=True)
class Interval:
    """Keys first..last have the cell."""

    first: int
    last: int
    cell: Cell


def intervals(row: Row, kind: KeyKind) -> Iterator[Interval]:
    """Where the row matches anything, of keys of one kind."""
    begin, end = int(kind) << 24, (int(kind) + 1) << 24
    cells = row.cells
    for i in range(bisect_right(cells, begin, key=itemgetter(0)) - 1, len(cells)):
        first, cell = cells[i]
        if first >= end:
            return
        if cell.enforced is None and cell.prospective is None:
            continue
        after = cells[i + 1][0] if i + 1 < len(cells) else KEY_END
        yield Interval(max(first, begin), min(after, end) - 1, cell)


class RowData:
    """The rows of a module in its read-only data."""

    def __init__(self, rodata: Rodata, tables: Tables) -> None:
        self.tables = tables
        self.variants = 2 if tables.has_audit else 1
        if len(tables.rules) >> RANK_BITS:
            raise OperationError(f"the policy has more than {1 << RANK_BITS:,} rules", "split it")
        self.flags = LOG * any(rule.log for rule in tables.rules) | STREAM * (tables.http is not None)
        self.stream_sets: dict[StreamRules | None, int] = {None: 0}
        self.record = 4 if tables.has_audit else 2
        self._words: list[int] = []
        self._keys: list[int] = []
        self._cells: list[list[int]] = [[] for _ in range(self.variants)]
        self.steps = 0  # of the longest search
        known: dict[tuple[int, ...], tuple[int, ...]] = {}
        for kind in KeyKind:
            for row in tables.rows:
                self._words += self._described(row, kind, known)
        self.words = rodata.array("rows", 8, self._words, align=64)
        if self.steps:
            self.keys = rodata.array("row_keys", 4, self._keys)
            names = ("row_cells", "row_cells_prospective")
            self.cells = [rodata.array(n, 8, c) for n, c in zip(names, self._cells, strict=False)]
        del self._words, self._keys, self._cells

    def best(self, best: Best | None) -> int:
        """A best cell as a number."""
        if best is None:
            return NONE
        rule = self.tables.rules[best.rank]
        number = rule.level << LEVEL_SHIFT | int(rule.action) << ACTION_SHIFT | best.rank << RANK_SHIFT | LOG * best.log
        if best.stream is None:
            return number
        streams = self.stream_sets.setdefault(best.stream, len(self.stream_sets))
        if streams >> STREAMS_BITS:
            help = "many rules with L7 blocks overlap in their ports and peers: let fewer of them meet, or split the policy by subject"
            raise OperationError(f"more than {1 << STREAMS_BITS:,} sets of L7 rules can judge a connection", help)
        return number | streams << STREAMS_SHIFT | STREAM

    def _bests(self, cell: Cell) -> list[int]:
        return [self.best(b) for b in (cell.enforced, cell.prospective)[: self.variants]]

    def _described(self, row: Row, kind: KeyKind, known: dict[tuple[int, ...], tuple[int, ...]]) -> Sequence[int]:
        found = list(intervals(row, kind))
        nothing = [NONE] * self.variants
        rest = [0] * (self.record - 1 - self.variants)
        if not found:
            return [_NO_KEY, *nothing, *rest]
        if len(found) == 1:
            only = found[0]
            return [only.first | (only.last - only.first) << 32, *self._bests(only.cell), *rest]
        keys, cells = self._sorted(found, int(kind) << 24)
        # What a row says of fragments is often the same as another's; whole rows are distinct.
        signature = (*keys, *(n for cell in cells for n in cell)) if kind is not KeyKind.FULL else ()
        if signature and signature in known:
            return known[signature]
        steps = (len(keys) - 1).bit_length()
        self.steps = max(self.steps, steps)
        described = (SEARCHED | steps | len(self._keys) << 32, len(keys), *nothing[1:], *rest)
        if signature:
            known[signature] = described
        self._keys += keys
        for column, values in zip(self._cells, zip(*cells, strict=True), strict=True):
            column += values
        return described

    def _sorted(self, found: list[Interval], begin: int) -> tuple[list[int], list[list[int]]]:
        keys: list[int] = []
        cells: list[list[int]] = []
        nothing = [NONE] * self.variants
        end = begin
        for interval in found:
            if interval.first > end:
                keys.append(end)
                cells.append(nothing)
            keys.append(interval.first)
            cells.append(self._bests(interval.cell))
            end = interval.last + 1
        if end < begin + (1 << 24):
            keys.append(end)
            cells.append(nothing)
        return keys, cells

    # --- code -------------------------------------------------------------------------------------------------

    def lookup(self, f: Function, row: Value, key: Value, of_any_kind: bool = False) -> list[Value]:
        """The best cells (one a variant) of `row` for `key`, a FULL one unless `of_any_kind`."""
        if of_any_kind:
            row = f.add(f.mul(f.shr(key, 24), len(self.tables.rows)), row)
        word = self.words(f, row, self.record, 0)
        bests = [self.words(f, row, self.record, 1 + i) for i in range(self.variants)]
        first, span = f.to(word, I32), f.shr(word, 32)
        outside = above(f, f.to(f.sub(key, first), I64), span)
        found = [f.or_(f.and_(outside, NONE), best) for best in bests]
        if not self.steps:
            return found
        results = [f.var(value) for value in found]
        with f.if_(f.cmp(">=", first, SEARCHED)):
            cell = f.call(self.search, key, f.and_(first, 31), f.to(span, I32), f.to(bests[0], I32))
            for result, data in zip(results, self.cells, strict=True):
                result.set(data(f, cell))
        return [result.get() for result in results]

    def build_search(self, f: Function) -> None:
        """match_row(key, steps, begin, length): index of the last of `length` sorted keys from `begin` on that is not above `key`; the
        first never is."""
        key, steps, begin, length = f.args
        low, left, wanted = f.var(begin), f.var(length), f.to(key, I64)
        with f.loop(steps, self.steps):
            half = f.shr(left.get(), 1)
            beyond = above(f, f.to(self.keys(f, f.add(low.get(), half)), I64), wanted)
            low.set(f.add(low.get(), f.and_(half, f.not_(f.to(beyond, I32)))))
            left.set(f.sub(left.get(), half))
        f.ret(low.get())
        self.search = f.close()

    def inlined(self, f: Function, row: int, key: Value) -> list[Value]:
        """The best cells for a FULL key of a row that is known at compile time, from constants in the code."""
        bests: list[Value] = [I64(NONE)] * self.variants
        for i, interval in enumerate(intervals(self.tables.rows[row], KeyKind.FULL)):
            rule = interval.cell.enforced or interval.cell.prospective
            assert rule is not None
            with f.line(self.tables.rules[rule.rank].span):
                numbers = self._bests(interval.cell)
                if interval.last - interval.first == (1 << 24) - 1:
                    return [I64(n) for n in numbers]
                distance = f.to(f.sub(key, interval.first), I64)
                outside = f.and_(above(f, distance, I64(interval.last - interval.first)), NONE)
                here = [f.or_(outside, n) for n in numbers]
                bests = here if i == 0 else [smaller(f, a, b) for a, b in zip(bests, here, strict=True)]
        return bests

    def fold(self, f: Function, a: Value, b: Value) -> Value:
        """Of two best cells the better one; of equal level and action the flags add up."""
        result = smaller(f, a, b)
        if not self.flags:
            return result
        differs = f.shr(f.xor(a, b), ACTION_SHIFT)
        same = f.sar(f.sub(differs, 1), 63)
        return f.or_(result, f.and_(f.and_(f.or_(a, b), self.flags), same))
