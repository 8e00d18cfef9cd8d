"""build-rows: flat groups → tables. A peer's matches become a row; equal rows are one row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from policyc.ir.flat import CidrPeer, ClassPeer, FlatGroup, Match, Module, Partition, SamePeer, SelectorPeer
from policyc.ir.numbering import Numbering
from policyc.ir.passes.base import Pass
from policyc.ir.passes.limits import CellBudget
from policyc.ir.passes.paint import EMPTY_ROW, FlatRow, Painter, Term
from policyc.ir.tables import CidrTable, Group, GroupCidrs, Row, Tables
from policyc.model import PeerClass


def _run(module: Module) -> Tables:
    builder = _Builder(module)
    groups = tuple(builder.group(group) for group in module.groups)
    return Tables(
        selectors=module.selectors,
        same_keys=module.same_keys,
        rules=module.rules,
        rows=builder.finished_rows(),
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
    cidrs: GroupCidrs | None


class _Builder:
    """Numbers rows; row 0 is the empty row."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.budget = CellBudget("rules")
        self.painter = Painter(module.rules, module.services, self.budget)
        self.rows = Numbering[FlatRow]()
        self.rows(EMPTY_ROW)
        self._known: dict[int, _GroupRows] = {}

    def finished_rows(self) -> tuple[Row, ...]:
        cells = self.painter.cells()
        return tuple(
            Row(tuple((row[i], cells[row[i + 1]]) for i in range(0, len(row), 2))) for row in self.rows.indices
        )

    def group(self, group: FlatGroup) -> Group:
        rows = self._known.get(id(group.matches))
        if rows is None:
            partition = None if group.partition is None else self.module.partitions[group.partition]
            rows = self._known[id(group.matches)] = self._rows(group, partition)
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

    def _rows(self, group: FlatGroup, partition: Partition | None) -> _GroupRows:
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
            cidrs=None if partition is None else self._cidrs(group, partition, any_class, world_only),
        )

    def _cidrs(
        self,
        group: FlatGroup,
        partition: Partition,
        any_class: dict[int, list[Term]],
        world_only: dict[int, list[Term]],
    ) -> GroupCidrs:
        assert group.partition is not None
        self.budget.take(len(partition.members))
        known: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {((), ()): 0}

        def row(plain: tuple[int, ...], world: tuple[int, ...]) -> int:
            found = known.get((plain, world))
            if found is None:
                terms = _union([any_class[s] for s in plain] + [world_only[s] for s in world])
                found = known[plain, world] = self._row(terms)
            return found

        rows_any, rows_world = [], []
        for members in partition.members:
            plain = tuple(s for s in members if s in any_class)
            rows_any.append(row(plain, ()))
            rows_world.append(row(plain, tuple(s for s in members if s in world_only)))
        return GroupCidrs(group.partition, tuple(rows_any), tuple(rows_world))

    def _row(self, terms: list[Term]) -> int:
        return self.rows(self.painter.row(terms))


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
