"""The verifier: states what every module is, and says where one is not. A failure is a bug of a pass, never of a policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import eq, lt
from typing import NoReturn

from policyc.ir.flat import CidrPeer, FlatGroup, Match, Module, Partition, SamePeer, SelectorPeer
from policyc.ir.tables import (
    EMPTY,
    KEY_END,
    Best,
    Cell,
    CidrTable,
    Group,
    GroupCidrs,
    GroupSubject,
    Isolation,
    RankedRule,
    Row,
    SelectedBy,
    Tables,
)
from policyc.model import Direction, PeerClass, Tier


class VerifyError(Exception):
    """The IR breaks one of its conventions; the message names the place."""


def verify(module: Module | Tables) -> None:
    """Raises VerifyError unless `module` keeps the conventions of its level."""
    Verifier().verify(module)


class Verifier:
    """Verifies the modules of one pipeline. What a pass handed on as the same objects is not looked at again: modules are
    immutable."""

    def __init__(self) -> None:
        self._known: dict[
            tuple[str, tuple[int, ...]], tuple[object, ...]
        ] = {}  # the objects stay alive, and their ids theirs
        self.row_cells: list[frozenset[int]] = []  # of the rows seen last: numbers of their distinct cells

    def verify(self, module: Module | Tables) -> None:
        """Raises VerifyError unless `module` keeps the conventions of its level."""
        if isinstance(module, Tables):
            _TablesVerifier(module, self).run()
        else:
            _FlatVerifier(module, self).run()

    def is_new(self, what: str, *parts: object) -> bool:
        """Whether `what` was not yet asked of these objects."""
        key = (what, tuple(map(id, parts)))
        if key in self._known:
            return False
        self._known[key] = parts
        return True


def _fail(place: str, message: str) -> NoReturn:
    raise VerifyError(f"{place}: {message}")


def _check_index(place: str, what: str, index: int, length: int) -> None:
    if not 0 <= index < length:
        _fail(place, f"{what} {index} does not exist (there are {length})")


def _check_distinct(what: str, values: Sequence[object]) -> None:
    if len(set(values)) != len(values):
        _fail(what, "some are equal")


def _check_ascending(place: str, values: Iterable[object]) -> None:
    if any(not a < b for a, b in pairwise(values)):  # type: ignore[operator]
        _fail(place, "is not strictly ascending")


def _check_rules(rules: Sequence[RankedRule], has_audit: bool, verifier: Verifier) -> None:
    if not verifier.is_new("rules", rules, has_audit):
        return
    for rank, (before, rule) in enumerate(pairwise(rules), start=1):
        order_before = (before.tier, before.priority, before.action)
        order = (rule.tier, rule.priority, rule.action)
        if order < order_before:
            _fail(f"rule {rank}", "has a later place in the order of decision than its rank")
        if rule.level - before.level != int(order[:2] != order_before[:2]):
            _fail(f"rule {rank}", f"level {rule.level} does not follow from level {before.level}")
    if rules and rules[0].level != 0:
        _fail("rule 0", "the first level is not 0")
    if not has_audit and any(rule.audit for rule in rules):
        _fail("module", "has audited rules but says that it has none")


def _check_subject(place: str, subject: GroupSubject, selectors: int) -> None:
    if isinstance(subject, PeerClass):
        if subject is not PeerClass.HOST:
            _fail(place, f"{subject.value} is not a subject")
        return
    _check_index(place, "selector", subject, selectors)


def _check_isolation(place: str, isolation: Isolation) -> None:
    if isolation.enforced and not isolation.prospective:
        _fail(place, "isolates enforced but not prospectively")
    if isolation.log and not (isolation.enforced and isolation.log_prospective):
        _fail(place, "logs a default that it does not have")
    if isolation.log_prospective and not isolation.prospective:
        _fail(place, "logs a prospective default that it does not have")


def _check_selected(selected: Sequence[SelectedBy], selectors: int, subjects: set[GroupSubject]) -> None:
    for entry in selected:
        _check_subject("selected", entry.subject, selectors)
    known = [entry.subject for entry in selected]
    _check_distinct("selected", known)
    if not subjects <= set(known):
        _fail("selected", "lacks a subject that a group has")


def _check_starts(place: str, starts: Sequence[tuple[int, int]], classes: int, end: int) -> None:
    if not starts or starts[0][0] != 0:
        _fail(place, "does not begin at address 0")
    before, class_before = -1, -1
    for start, number in starts:
        if not before < start < end:
            _fail(place, f"start {start} is out of order or range")
        if number == class_before:
            _fail(place, f"start {start} repeats class {number}")
        if not 0 <= number < classes:
            _fail(place, f"class {number} does not exist (there are {classes})")
        before, class_before = start, number


class _FlatVerifier:
    def __init__(self, module: Module, verifier: Verifier) -> None:
        self.module = module
        self.verifier = verifier
        self._seen: set[tuple[int, Direction, Tier]] = set()

    def run(self) -> None:
        module = self.module
        _check_distinct("selectors", module.selectors)
        _check_distinct("same keys", module.same_keys)
        if self.verifier.is_new("services", module.services):
            self._services()
        if self.verifier.is_new("peers", module.peers, module.selectors, module.same_keys, module.address_sets):
            self._peers()
        _check_rules(module.rules, module.has_audit, self.verifier)
        for index, partition in enumerate(module.partitions):
            self._partition(f"partition {index}", partition)
        for index, group in enumerate(module.groups):
            self._group(f"group {index}", group)
        _check_selected(module.selected, len(module.selectors), {group.subject for group in module.groups})

    def _services(self) -> None:
        _check_distinct("services", self.module.services)
        for index, intervals in enumerate(self.module.services):
            if not intervals or any(not 0 <= first <= last < KEY_END for first, last in intervals):
                _fail(f"services {index}", "has no interval or one out of range")

    def _peers(self) -> None:
        module = self.module
        _check_distinct("peers", module.peers)
        for index, peer in enumerate(module.peers):
            place = f"peer {index}"
            if isinstance(peer, SelectorPeer):
                _check_index(place, "selector", peer.selector, len(module.selectors))
            elif isinstance(peer, CidrPeer):
                _check_index(place, "address set", peer.addresses, len(module.address_sets))
            elif isinstance(peer, SamePeer):
                if not peer.keys:
                    _fail(place, "has no keys")
                _check_ascending(place, peer.keys)
                _check_index(place, "same key", peer.keys[-1], len(module.same_keys))

    def _partition(self, place: str, partition: Partition) -> None:
        _check_ascending(f"{place} sets", partition.sets)
        for index in partition.sets:
            _check_index(place, "address set", index, len(self.module.address_sets))
        if not partition.members or partition.members[0]:
            _fail(place, "class 0 has members")
        sets = set(partition.sets)
        if any(not sets.issuperset(members) for members in partition.members):
            _fail(place, "a class has a member that is not one of its sets")
        _check_starts(f"{place} v4", partition.v4, len(partition.members), 2**32)
        _check_starts(f"{place} v6", partition.v6, len(partition.members), 2**128)

    def _group(self, place: str, group: FlatGroup) -> None:
        _check_subject(place, group.subject, len(self.module.selectors))
        _check_isolation(place, group.isolation)
        for index in group.partitions:
            _check_index(place, "partition", index, len(self.module.partitions))
        shared = (id(group.matches), group.direction, group.tier)  # groups of one policy share their matches
        if shared not in self._seen:
            self._seen.add(shared)
            self._matches(place, group, group.matches)

    def _matches(self, place: str, group: FlatGroup, matches: tuple[Match, ...]) -> None:
        module = self.module
        ranks, peers, services = len(module.rules), len(module.peers), len(module.services)
        before = (-1, -1)
        for rank, peer, service in matches:
            if not (0 <= rank < ranks and 0 <= peer < peers and 0 <= service < services):
                _fail(place, f"match {rank} {peer} {service} refers to nothing")
            if (rank, peer) <= before:
                _fail(place, f"match {rank} {peer} {service} is out of order")
            before = (rank, peer)
            rule = module.rules[rank]
            if rule.direction is not group.direction or rule.tier is not group.tier:
                _fail(place, f"rule {rank} is of another direction or tier")


class _TablesVerifier:
    def __init__(self, tables: Tables, verifier: Verifier) -> None:
        self.tables = tables
        self.verifier = verifier
        self._cells: dict[Cell, int] = {}
        self._cell_numbers: dict[int, int] = {}  # by identity
        self._checked: set[tuple[int, Direction, Tier]] = set()
        self._checked_cells: dict[tuple[Direction, Tier], set[int]] = {}
        self._checked_cidrs: set[tuple[int, Direction, Tier]] = set()

    def run(self) -> None:
        tables = self.tables
        _check_distinct("selectors", tables.selectors)
        _check_distinct("same keys", tables.same_keys)
        _check_rules(tables.rules, tables.has_audit, self.verifier)
        if not tables.rows or tables.rows[0].cells != ((0, EMPTY),):
            _fail("row 0", "is not the empty row")
        if self.verifier.is_new("rows", tables.rows, tables.rules, tables.has_audit):
            self.verifier.row_cells = [self._row(f"row {index}", row) for index, row in enumerate(tables.rows)]
        for index, table in enumerate(tables.cidr_tables):
            self._cidr_table(f"cidr table {index}", table)
        for index, group in enumerate(tables.groups):
            self._group(f"group {index}", group)
        keys = [(group.direction, group.tier, group.subject) for group in tables.groups]
        _check_distinct("groups", keys)
        _check_ascending("inline rows", tables.inline_rows)
        for index in tables.inline_rows:
            _check_index("inline rows", "row", index, len(tables.rows))
        _check_selected(tables.selected, len(tables.selectors), {group.subject for group in tables.groups})

    def _row(self, place: str, row: Row) -> frozenset[int]:
        """Numbers of the row's distinct cells."""
        if not row.cells or row.cells[0][0] != 0:
            _fail(place, "does not begin at key 0")
        firsts = [first for first, _ in row.cells]
        if firsts[-1] >= KEY_END or not all(map(lt, firsts, firsts[1:])):
            bad = next(b for a, b in pairwise([*firsts, KEY_END]) if a >= b)
            _fail(place, f"key {bad} is out of order or range")
        numbers = self._numbered(place, row)
        if any(map(eq, numbers, numbers[1:])):
            bad = next(firsts[i + 1] for i, (a, b) in enumerate(pairwise(numbers)) if a == b)
            _fail(place, f"key {bad} repeats the cell before it")
        return frozenset(numbers)

    def _numbered(self, place: str, row: Row) -> list[int]:
        """A number for each cell, equal for equal cells. Rows share cells, so that each is looked at once."""
        identities = [id(cell) for _, cell in row.cells]
        if not self._cell_numbers.keys() >= set(identities):
            for _, cell in row.cells:
                if id(cell) in self._cell_numbers:
                    continue
                self._cell(place, cell)
                number = self._cells.setdefault(cell, len(self._cells))
                self._cell_numbers[id(cell)] = number
        return list(map(self._cell_numbers.__getitem__, identities))

    def _cell(self, place: str, cell: Cell) -> None:
        for best in (cell.enforced, cell.prospective):
            if best is not None:
                _check_index(place, "rule", best.rank, len(self.tables.rules))
        if cell.enforced is None:
            if cell.prospective is not None and not self.tables.rules[cell.prospective.rank].audit:
                _fail(place, "an enforced rule is best only prospectively")
            return
        if self.tables.rules[cell.enforced.rank].audit:
            _fail(place, f"audited rule {cell.enforced.rank} is enforced")
        self._prospective(place, cell.enforced, cell.prospective)

    def _prospective(self, place: str, enforced: Best, prospective: Best | None) -> None:
        if prospective is None or prospective.rank > enforced.rank:
            _fail(place, f"enforced rule {enforced.rank} is better than the prospective one")
        if prospective.rank != enforced.rank and not self.tables.rules[prospective.rank].audit:
            _fail(place, f"enforced rule {prospective.rank} is best only prospectively")
        if not self.tables.has_audit and prospective != enforced:
            _fail(place, "differs prospectively in a module without audit")

    def _cidr_table(self, place: str, table: CidrTable) -> None:
        _check_starts(f"{place} v4", table.v4, table.classes, 2**32)
        _check_starts(f"{place} v6", table.v6, table.classes, 2**128)

    def _group(self, place: str, group: Group) -> None:
        _check_subject(place, group.subject, len(self.tables.selectors))
        _check_isolation(place, group.isolation)
        _check_ascending(f"{place} selectors", (selector for selector, _ in group.selectors))
        for selector, _ in group.selectors:
            _check_index(place, "selector", selector, len(self.tables.selectors))
        for keys, _ in group.same:
            _check_ascending(f"{place} same", keys)
            _check_index(place, "same key", keys[-1] if keys else -1, len(self.tables.same_keys))
        rows = [group.row_world, group.row_host, group.row_endpoint]
        rows += [row for _, row in group.selectors] + [row for _, row in group.same]
        self._group_rows(place, group, rows)
        for cidrs in group.cidrs:
            self._group_cidrs(place, group, cidrs)

    def _group_cidrs(self, place: str, group: Group, cidrs: GroupCidrs) -> None:
        shared = (id(cidrs), group.direction, group.tier)
        if shared in self._checked_cidrs:
            return
        self._checked_cidrs.add(shared)
        _check_index(place, "cidr table", cidrs.table, len(self.tables.cidr_tables))
        classes = self.tables.cidr_tables[cidrs.table].classes
        if len(cidrs.rows_any) != classes or len(cidrs.rows_world) != classes:
            _fail(place, f"has not a row for each of the {classes} classes of table {cidrs.table}")
        if cidrs.rows_any[0] != 0 or cidrs.rows_world[0] != 0:
            _fail(place, "class 0 has a row")
        self._group_rows(place, group, [*cidrs.rows_any, *cidrs.rows_world])

    def _group_rows(self, place: str, group: Group, rows: Sequence[int]) -> None:
        for index in rows:
            shared = (index, group.direction, group.tier)
            if shared in self._checked:
                continue
            self._checked.add(shared)
            _check_index(place, "row", index, len(self.tables.rows))
            self._row_of_group(place, group, index)

    def _row_of_group(self, place: str, group: Group, index: int) -> None:
        checked = self._checked_cells.setdefault((group.direction, group.tier), set())
        if self.verifier.row_cells[index] <= checked:
            return
        rules = self.tables.rules
        for _, cell in self.tables.rows[index].cells:
            best = cell.prospective
            if best is None:
                continue
            rule = rules[best.rank]
            if rule.direction is not group.direction or rule.tier is not group.tier:
                _fail(place, f"row {index} has rule {best.rank} of another direction or tier")
        checked |= self.verifier.row_cells[index]
