"""build-rows: flat groups → tables. A peer's matches become a row; equal rows are one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from policyc.ir.flat import CidrPeer, ClassPeer, FlatGroup, Match, Module, SamePeer, SelectorPeer
from policyc.ir.numbering import Numbering
from policyc.ir.passes.base import Pass
from policyc.ir.passes.limits import CellBudget
from policyc.ir.passes.paint import Painter, Term
from policyc.ir.passes.row_store import EMPTY_ROW, PairRow, RowStore
from policyc.ir.tables import CidrTable, Group, GroupCidrs, Tables
from policyc.model import PeerClass


def _run(module: Module) -> Tables:
    builder = _Builder(module)
    groups = tuple(builder.group(group) for group in module.groups)
    return Tables(
        selectors=module.selectors,
        same_keys=module.same_keys,
        rules=module.rules,
        rows=builder.store.finished(builder.rows.indices),
        cidr_tables=tuple(CidrTable(p.v4, p.v6, len(p.members)) for p in module.partitions),
        groups=groups,
        selected=module.selected,
        has_audit=module.has_audit,
    )


@dataclass(frozen=True)
class _GroupRows:
    """What a group has from its matches alone; groups with the same matches share it."""

    world: int
    host: int
    endpoint: int
    selectors: tuple[tuple[int, int], ...]
    same: tuple[tuple[tuple[int, ...], int], ...]
    cidrs: tuple[GroupCidrs, ...]


class _Builder:
    """Numbers rows; row 0 is the empty row."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.store = RowStore(module.rules, CellBudget("rules"))
        self.painter = Painter(module.rules, module.services, self.store)
        self.rows = Numbering[PairRow]()
        self.rows(EMPTY_ROW)
        self._known: dict[int, _GroupRows] = {}

    def group(self, group: FlatGroup) -> Group:
        rows = self._known.get(id(group.matches))
        if rows is None:
            rows = self._known[id(group.matches)] = self._rows(group)
        return Group(
            direction=group.direction,
            tier=group.tier,
            subject=group.subject,
            isolation=group.isolation,
            row_world=rows.world,
            row_host=rows.host,
            row_endpoint=rows.endpoint,
            selectors=rows.selectors,
            same=rows.same,
            cidrs=rows.cidrs,
            span=group.span,
        )

    def _rows(self, group: FlatGroup) -> _GroupRows:
        classes: dict[PeerClass, list[Term]] = {peer_class: [] for peer_class in PeerClass}
        selectors: dict[int, int] = {}
        same: dict[tuple[int, ...], int] = {}
        any_class: dict[int, list[Term]] = {}
        world_only: dict[int, list[Term]] = {}
        for index, terms in _by_peer(group.matches).items():
            peer = self.module.peers[index]
            if isinstance(peer, ClassPeer):
                classes[peer.peer_class] = terms
            elif isinstance(peer, SelectorPeer):
                selectors[peer.selector] = self._row(terms)
            elif isinstance(peer, SamePeer):
                same[peer.keys] = self._row(terms)
            elif isinstance(peer, CidrPeer):
                (world_only if peer.world_only else any_class)[peer.addresses] = terms
        everywhere = classes[PeerClass.ANY]
        return _GroupRows(
            world=self._row(_union([everywhere, classes[PeerClass.WORLD]])),
            host=self._row(_union([everywhere, classes[PeerClass.HOST]])),
            endpoint=self._row(_union([everywhere, classes[PeerClass.ENDPOINTS]])),
            selectors=tuple(sorted(selectors.items())),
            same=tuple(sorted(same.items())),
            cidrs=tuple(self._cidrs(index, any_class, world_only) for index in group.partitions),
        )

    def _cidrs(self, index: int, any_class: dict[int, list[Term]], world_only: dict[int, list[Term]]) -> GroupCidrs:
        partition = self.module.partitions[index]
        self.store.budget.take(len(partition.members))
        merges = _Merges(self.store)
        plain, world = (
            {s: merges.number(self.painter.row(terms[s])) for s in partition.sets if s in terms}
            for terms in (any_class, world_only)
        )
        # Sets that are in many classes first, so that classes share the rows of their common part.
        uses = Counter(s for members in partition.members for s in members)
        rows_any, rows_world = [], []
        for members in partition.members:
            ordered = sorted(members, key=lambda s: (-uses[s], s)) if len(members) > 1 else members
            row = merges.all(merges.EMPTY, [plain[s] for s in ordered if s in plain])
            rows_any.append(row)
            rows_world.append(merges.all(row, [world[s] for s in ordered if s in world]))
        final = merges.finished([*rows_any, *rows_world], self.rows)
        return GroupCidrs(
            index, tuple(final[number] for number in rows_any), tuple(final[number] for number in rows_world)
        )

    def _row(self, terms: list[Term]) -> int:
        return self.rows(self.painter.row(terms))


class _Merges:
    """Numbers the rows of a group's sets and of what they were merged to, so that no two rows are merged twice."""

    EMPTY = 0

    def __init__(self, store: RowStore) -> None:
        self.store = store
        self._rows = [EMPTY_ROW]
        self._numbers = {EMPTY_ROW: self.EMPTY}
        self._merged: dict[tuple[int, int], int] = {}

    def number(self, row: PairRow) -> int:
        number = self._numbers.setdefault(row, len(self._rows))
        if number == len(self._rows):
            self._rows.append(row)
        return number

    def all(self, row: int, others: Iterable[int]) -> int:
        """`row` merged with the others."""
        for other in others:
            row = self._merge(row, other) if row else other
        return row

    def _merge(self, a: int, b: int) -> int:
        merged = self._merged.get((a, b))
        if merged is None:
            merged = self._merged[a, b] = self.number(self.store.merge(self._rows[a], self._rows[b]))
        return merged

    def finished(self, numbers: Iterable[int], rows: Numbering[PairRow]) -> dict[int, int]:
        """For each number its row's index in `rows`, in order of first use."""
        return {number: rows(self._rows[number]) for number in dict.fromkeys(numbers)}


def _by_peer(matches: Iterable[Match]) -> dict[int, list[Term]]:
    by_peer: dict[int, list[Term]] = {}
    for rank, peer, services in matches:
        by_peer.setdefault(peer, []).append((rank, services))
    return by_peer


def _union(parts: list[list[Term]]) -> list[Term]:
    """Terms of all parts in ascending rank, once each."""
    filled = [part for part in parts if part]
    if len(filled) == 1:
        return filled[0]
    return sorted({term for part in filled for term in part})


BUILD_ROWS = Pass("build-rows", Module, Tables, _run)
