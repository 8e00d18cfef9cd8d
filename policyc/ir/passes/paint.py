"""Painting: a row from ranked matches.

Matches are painted in rank order on the elementary key intervals (slots) between all their borders; a slot keeps the
first rule that reaches it. A union-find over slots that are already painted makes it near-linear in matches and slots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from policyc.ir.flat import ServiceSet
from policyc.ir.numbering import Numbering
from policyc.ir.passes.limits import CellBudget
from policyc.ir.tables import EMPTY, KEY_END, Best, Cell, RankedRule

FlatRow = tuple[int, ...]  # first key, cell number, first key, cell number, …
Term = tuple[int, int]  # rank, service set
Painted = tuple[list[int], bytearray]  # the best rank of each slot (NOBODY: none), and its log flag
Spans = Sequence[tuple[int, int]]  # slots, half open

NOBODY = -1
NOTHING = (NOBODY, 0, NOBODY, 0)
EMPTY_ROW: FlatRow = (0, 0)


class Painter:
    """Makes rows as flat tuples of integers; `cells` are what their cell numbers stand for."""

    def __init__(self, rules: Sequence[RankedRule], services: Sequence[ServiceSet], budget: CellBudget) -> None:
        self.services = services
        self.audit = [rule.audit for rule in rules]
        self.log = [rule.log for rule in rules]
        batches = Numbering[tuple[int, int]]()
        self.batch = [batches((rule.level, rule.action)) for rule in rules]
        self._cells = Numbering[tuple[int, int, int, int]]()
        self._cells(NOTHING)
        self._budget = budget

    def cells(self) -> list[Cell]:
        return [EMPTY if cell == NOTHING else _cell(*cell) for cell in self._cells.indices]

    def row(self, terms: Sequence[Term]) -> FlatRow:
        """The row of terms in ascending rank."""
        if not terms:
            return EMPTY_ROW
        if len(terms) == 1:
            return self._single(*terms[0])
        borders = {0}
        for index in {index for _, index in terms}:
            for first, last in self.services[index]:
                borders.add(first)
                borders.add(last + 1)
        borders.discard(KEY_END)
        starts = sorted(borders)
        self._budget.take(len(starts))
        slots = {key: slot for slot, key in enumerate(starts)}
        slots[KEY_END] = len(starts)
        spans: dict[int, Spans] = {
            index: [(slots[first], slots[last + 1]) for first, last in self.services[index]]
            for index in {index for _, index in terms}
        }
        return self._join(starts, *self._both(len(starts), terms, spans))

    def _single(self, rank: int, services: int) -> FlatRow:
        log = int(self.log[rank])
        number = self._cells((NOBODY, 0, rank, log) if self.audit[rank] else (rank, log, rank, log))
        intervals = self.services[services]
        row = [] if intervals[0][0] == 0 else [0, 0]
        for first, last in intervals:
            row += (first, number, last + 1, 0)
        if row[-2] == KEY_END:
            del row[-2:]
        self._budget.take(len(row) // 2)
        return tuple(row)

    def _both(self, slots: int, terms: Sequence[Term], spans: dict[int, Spans]) -> tuple[Painted, Painted]:
        prospective = self._paint(slots, ((rank, spans[index]) for rank, index in terms))
        if not any(self.audit[rank] for rank, _ in terms):
            return prospective, prospective
        enforced = self._paint(slots, ((rank, spans[index]) for rank, index in terms if not self.audit[rank]))
        return enforced, prospective

    def _paint(self, slots: int, terms: Iterable[tuple[int, Spans]]) -> Painted:
        best, logs = [NOBODY] * slots, bytearray(slots)
        free, unlogged = list(range(slots + 1)), list(range(slots + 1))
        batch = NOBODY
        won: list[int] = []
        for rank, spans in terms:
            if self.batch[rank] != batch:
                for slot in won:  # later batches cannot log what this one decided
                    unlogged[slot] = slot + 1
                batch, won = self.batch[rank], []
            log = self.log[rank]
            for begin, end in spans:
                slot = _find(free, begin)
                while slot < end:
                    best[slot] = rank
                    free[slot] = slot + 1
                    won.append(slot)
                    slot = _find(free, slot + 1)
                if not log:
                    continue
                slot = _find(unlogged, begin)
                while slot < end:
                    logs[slot] = 1
                    unlogged[slot] = slot + 1
                    slot = _find(unlogged, slot + 1)
        return best, logs

    def _join(self, starts: list[int], enforced: Painted, prospective: Painted) -> FlatRow:
        row: list[int] = []
        before = -1
        for start, *cell in zip(starts, *enforced, *prospective, strict=True):
            number = self._cells((cell[0], cell[1], cell[2], cell[3]))
            if number != before:
                row += (start, number)
                before = number
        return tuple(row)


def _find(links: list[int], slot: int) -> int:
    """The first slot from `slot` on that links to itself, with path halving."""
    while links[slot] != slot:
        links[slot] = links[links[slot]]
        slot = links[slot]
    return slot


def _cell(enforced: int, enforced_log: int, prospective: int, prospective_log: int) -> Cell:
    best = None if prospective == NOBODY else Best(prospective, bool(prospective_log))
    if (enforced, enforced_log) == (prospective, prospective_log):
        return Cell(best, best)
    return Cell(None if enforced == NOBODY else Best(enforced, bool(enforced_log)), best)
