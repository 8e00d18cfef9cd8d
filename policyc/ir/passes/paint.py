"""Painting: a row from ranked matches.

Matches are painted in rank order on the elementary key intervals (slots) between all their borders; a slot keeps the
first rule that reaches it. A union-find over slots that are already painted makes it near-linear in matches and slots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from policyc.ir.flat import ServiceSet
from policyc.ir.passes.row_store import EMPTY_ROW, NOBODY, PairRow, RowStore
from policyc.ir.tables import KEY_END, Block, RankedRule

Term = tuple[int, int]  # rank, service set
Painted = tuple[
    list[int], Sequence[int]
]  # the best rank of each slot (NOBODY: none), and what it says besides (row_store)
Spans = Sequence[tuple[int, int]]  # slots, half open


class Painter:
    """Makes rows in a store."""

    def __init__(self, rules: Sequence[RankedRule], services: Sequence[ServiceSet], store: RowStore) -> None:
        self.services = services
        self.store = store
        self.batch = store.batch
        self.audit = [rule.audit for rule in rules]
        self.log = [rule.log for rule in rules]
        self.enforced = [rule.block is Block.ENFORCED for rule in rules]
        self.blocks = [rule.block is not None for rule in rules]
        self.batches_with_blocks = {self.batch[rank] for rank, has in enumerate(self.blocks) if has}

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
        enforced, prospective = (self._says(rank, blocks) for blocks in (self.enforced, self.blocks))
        number = self.store.cell(
            (NOBODY, 0, rank, prospective) if self.audit[rank] else (rank, enforced, rank, prospective)
        )
        intervals = self.services[services]
        if intervals[0][0] != 0:
            yield 0, 0
        for first, last in intervals:
            yield first, number
            if last + 1 != KEY_END:
                yield last + 1, 0

    def _says(self, rank: int, blocks: Sequence[bool]) -> int:
        """What a rule says besides its rank where it stands alone."""
        return self.store.says(int(self.log[rank]), frozenset((rank,) if blocks[rank] else ()), NOBODY)

    def _both(self, slots: int, terms: Sequence[Term], spans: dict[int, Spans]) -> tuple[Painted, Painted]:
        prospective = self._paint(slots, [(rank, spans[index]) for rank, index in terms], self.blocks)
        if not any(self.audit[rank] or self.enforced[rank] != self.blocks[rank] for rank, _ in terms):
            return prospective, prospective
        in_force = [(rank, spans[index]) for rank, index in terms if not self.audit[rank]]
        return self._paint(slots, in_force, self.enforced), prospective

    def _paint(self, slots: int, terms: list[tuple[int, Spans]], blocks: Sequence[bool]) -> Painted:
        best, logs = self._paint_ranks(slots, terms)
        if self.batches_with_blocks.isdisjoint(self.batch[rank] for rank, _ in terms):
            return best, logs
        return best, self._paint_streams(terms, blocks, best, logs)

    def _paint_streams(
        self, terms: list[tuple[int, Spans]], blocks: Sequence[bool], best: list[int], logs: Sequence[int]
    ) -> list[int]:
        """Which rules of the best one's batch judge requests, by slot."""
        rules: list[set[int]] = [set() for _ in best]
        plain = [NOBODY] * len(best)
        for rank, spans in terms:
            if self.batch[rank] not in self.batches_with_blocks:
                continue
            for slot in (slot for begin, end in spans for slot in range(begin, end)):
                if self.batch[best[slot]] != self.batch[rank]:
                    continue
                if blocks[rank]:
                    rules[slot].add(rank)
                elif plain[slot] == NOBODY:  # terms ascend
                    plain[slot] = rank
        return [self.store.says(*slot) for slot in zip(logs, map(frozenset, rules), plain, strict=True)]

    def _paint_ranks(self, slots: int, terms: Iterable[tuple[int, Spans]]) -> tuple[list[int], bytearray]:
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
