"""Rows as tuples of integers while they are made: cells and (first key, cell) pairs are numbered, so that rows share them,
hash fast and are cut and joined by slices."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from policyc.ir.numbering import Numbering
from policyc.ir.passes.limits import CellBudget
from policyc.ir.tables import EMPTY, KEY_END, Best, Cell, RankedRule, Row, StreamRules

PairRow = tuple[int, ...]  # numbers of (first key, cell number) pairs, ascending by key
# Enforced rank (NOBODY: none) and what it says besides, then the prospective ones. What a rank says besides: its log flag, and shifted by one the
# number of its set of stream rules (0: none has a block).
CellValue = tuple[int, int, int, int]
StreamSet = tuple[frozenset[int], int]  # ranks with a block, lowest rank without (NOBODY: none)

NOBODY = -1
NOTHING: CellValue = (NOBODY, 0, NOBODY, 0)
EMPTY_ROW: PairRow = (0,)


class RowStore:
    """Numbers cells and pairs. Cell 0 is empty, pair 0 is (key 0, cell 0)."""

    def __init__(self, rules: Sequence[RankedRule], budget: CellBudget) -> None:
        batches = Numbering[tuple[int, int]]()
        self.batch = [batches((rule.level, rule.action)) for rule in rules]  # of a rank: its level and action
        self.budget = budget
        self._cells: dict[CellValue, int] = {NOTHING: 0}
        self._values: list[CellValue] = [NOTHING]
        self._pairs: dict[tuple[int, int], int] = {(0, 0): 0}
        self._keys = [0]  # of a pair: its first key and its cell
        self._cell_of = [0]
        self._combined: dict[tuple[int, int], int] = {}
        self._stream_sets: list[StreamSet] = [(frozenset(), NOBODY)]
        self._stream_numbers: dict[StreamSet, int] = {}

    def cell(self, value: CellValue) -> int:
        number = self._cells.setdefault(value, len(self._values))
        if number == len(self._values):
            self._values.append(value)
        return number

    def says(self, log: int, rules: frozenset[int], plain: int) -> int:
        """What a rank says besides, of its batch's log flag, its rules with a block and its first without (NOBODY: none)."""
        if not rules:
            return log
        number = self._stream_numbers.setdefault((rules, plain), len(self._stream_sets))
        if number == len(self._stream_sets):
            self._stream_sets.append((rules, plain))
        return log | number << 1

    def row(self, cells: Iterable[tuple[int, int]]) -> PairRow:
        """The row of (first key, cell number), neighbours differing."""
        row = tuple([self._pair(*cell) for cell in cells])
        self.budget.take(len(row))
        return row

    def _pair(self, key: int, cell: int) -> int:
        number = self._pairs.setdefault((key, cell), len(self._keys))
        if number == len(self._keys):
            self._keys.append(key)
            self._cell_of.append(cell)
        return number

    def merge(self, a: PairRow, b: PairRow) -> PairRow:
        """For every key the better of both cells. Costs the part where both match and the shorter row; the rest is copied."""
        if len(a) < len(b):
            a, b = b, a
        key_of, cell_of = self._keys.__getitem__, self._cell_of
        merged: list[int] = []
        last = NOBODY
        end = 0
        for index, pair in enumerate(b):
            begin, cell = end, cell_of[pair]
            end = key_of(b[index + 1]) if index + 1 < len(b) else KEY_END
            low = bisect_right(a, begin, key=key_of) - 1
            high = bisect_left(a, end, key=key_of)
            for other in a[low:high] if cell else (a[low],):
                combined = self._combine(cell_of[other], cell)
                if combined != last:
                    merged.append(self._pair(max(begin, key_of(other)), combined))
                    last = combined
            if not cell and low + 1 < high:
                merged += a[low + 1 : high]
                last = cell_of[a[high - 1]]
        self.budget.take(len(merged))
        return tuple(merged)

    def _combine(self, a: int, b: int) -> int:
        if not a or not b:
            return a or b
        combined = self._combined.get((a, b))
        if combined is None:
            x, y = self._values[a], self._values[b]
            value = (*self._better(x[0], x[1], y[0], y[1]), *self._better(x[2], x[3], y[2], y[3]))
            combined = self._combined[a, b] = self.cell(value)
        return combined

    def _better(self, rank: int, says: int, other: int, other_says: int) -> tuple[int, int]:
        if rank == NOBODY or other == NOBODY:
            return (other, other_says) if rank == NOBODY else (rank, says)
        if other < rank:
            rank, says, other, other_says = other, other_says, rank, says
        if self.batch[rank] != self.batch[other]:
            return rank, says
        if says > 1 or other_says > 1:
            return rank, self._together(rank, says, other, other_says)
        return rank, says | other_says

    def _together(self, rank: int, says: int, other: int, other_says: int) -> int:
        (rules, plain), (other_rules, other_plain) = (
            self._stream_sets[s >> 1] if s > 1 else (frozenset[int](), r)
            for r, s in ((rank, says), (other, other_says))
        )
        plains = [p for p in (plain, other_plain) if p != NOBODY]
        return self.says((says | other_says) & 1, rules | other_rules, min(plains, default=NOBODY))

    def finished(self, rows: Iterable[PairRow]) -> tuple[Row, ...]:
        """The rows with their cells, which they share."""
        cells = [EMPTY if value == NOTHING else self._cell(*value) for value in self._values]
        pairs = [(key, cells[cell]) for key, cell in self._pairs]
        return tuple(Row(tuple(map(pairs.__getitem__, row))) for row in rows)

    def _cell(self, enforced: int, says: int, prospective: int, prospective_says: int) -> Cell:
        best = self._best(prospective, prospective_says)
        if (enforced, says) == (prospective, prospective_says):
            return Cell(best, best)
        return Cell(self._best(enforced, says), best)

    def _best(self, rank: int, says: int) -> Best | None:
        if rank == NOBODY:
            return None
        rules, plain = self._stream_sets[says >> 1]
        stream = StreamRules(tuple(sorted(rules)), None if plain == NOBODY else plain) if rules else None
        return Best(rank, bool(says & 1), stream)
