"""Painting: a row from ranked matches.

Matches are painted in rank order on the elementary key intervals (slots) between all their borders; a slot keeps the
first rule that reaches it. A union-find over slots that are already painted makes it near-linear in matches and slots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from policyc.ir.flat import ServiceSet
from policyc.ir.passes.row_store import EMPTY_ROW, NOBODY, PairRow, RowStore
from policyc.ir.tables import KEY_END, RankedRule

Term = tuple[int, int]  # rank, service set
Painted = tuple[list[int], bytearray]  # the best rank of each slot (NOBODY: none), and its log flag
Spans = Sequence[tuple[int, int]]  # slots, half open


class Painter:
    """Makes rows in a store."""

    def __init__(self, rules: Sequence[RankedRule], services: Sequence[ServiceSet], store: RowStore) -> None:
        self.services = services
        self.store = store
        self.batch = store.batch
        self.audit = [rule.audit for rule in rules]
        self.log = [rule.log for rule in rules]

    def row(self, terms: Sequence[Term]) -> PairRow:
        """The row of terms in ascending rank."""
        if not terms:
            return EMPTY_ROW
        if len(terms) == 1:
            return self.store.row(self._single(*terms[0]))
        borders = {0}
        used = {index for _, index in terms}
        for index in used:
            for first, last in self.services[index]:
                borders.add(first)
                borders.add(last + 1)
        borders.discard(KEY_END)
        starts = sorted(borders)
        slots = {key: slot for slot, key in enumerate(starts)}
        slots[KEY_END] = len(starts)
        spans: dict[int, Spans] = {
            index: [(slots[first], slots[last + 1]) for first, last in self.services[index]] for index in used
        }
        return self.store.row(self._join(starts, *self._both(len(starts), terms, spans)))

    def _single(self, rank: int, services: int) -> Iterator[tuple[int, int]]:
        log = int(self.log[rank])
        number = self.store.cell((NOBODY, 0, rank, log) if self.audit[rank] else (rank, log, rank, log))
        intervals = self.services[services]
        if intervals[0][0] != 0:
            yield 0, 0
        for first, last in intervals:
            yield first, number
            if last + 1 != KEY_END:
                yield last + 1, 0

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

    def _join(self, starts: list[int], enforced: Painted, prospective: Painted) -> Iterator[tuple[int, int]]:
        before = NOBODY
        for start, *cell in zip(starts, *enforced, *prospective, strict=True):
            number = self.store.cell((cell[0], cell[1], cell[2], cell[3]))
            if number != before:
                yield start, number
                before = number


def _find(links: list[int], slot: int) -> int:
    """The first slot from `slot` on that links to itself, with path halving."""
    while links[slot] != slot:
        links[slot] = links[links[slot]]
        slot = links[slot]
    return slot
