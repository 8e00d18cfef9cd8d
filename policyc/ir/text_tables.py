"""Text form of the tables. `docs/ir.md` shows it by example; what it prints parses back to an equal module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from policyc.ir.tables import (
    EMPTY,
    Best,
    Cell,
    CidrTable,
    Group,
    GroupCidrs,
    RankedRule,
    Row,
    SelectedBy,
    StreamRules,
    Tables,
)
from policyc.ir.text_lines import (
    Line,
    parse_address,
    parse_isolation,
    parse_key,
    parse_rule,
    parse_selected,
    parse_selector,
    parse_span,
    parse_subject,
    print_isolation,
    print_key,
    print_rule,
    print_selected,
    print_selector,
    print_span,
    print_starts,
    print_subject,
    quoted,
)
from policyc.model import Direction, Selector, Tier

HEADER = "tables"


def print_tables(tables: Tables) -> Iterator[str]:
    """The module's lines."""
    yield HEADER
    for index, selector in enumerate(tables.selectors):
        yield f"selector {index} {print_selector(selector)}"
    for index, key in enumerate(tables.same_keys):
        yield f"same-key {index} {quoted(key)}"
    for rank, rule in enumerate(tables.rules):
        yield print_rule(rank, rule)
    for index, row in enumerate(tables.rows):
        yield f"row {index}"
        for first, cell in row.cells:
            yield f"  cell {print_key(first)} {_print_cell(cell)}"
    for index, table in enumerate(tables.cidr_tables):
        chosen = (table.bits4, table.steps4, table.bits6)
        yield f"cidr-table {index} classes {table.classes}" + (" index {} {} {}".format(*chosen) if any(chosen) else "")
        yield from print_starts(4, table.v4)
        yield from print_starts(6, table.v6)
    for index, group in enumerate(tables.groups):
        yield from _print_group(index, group)
    for entry in tables.selected:
        yield print_selected(entry)
    if tables.has_audit:
        yield "has-audit"
    if tables.inline_rows:
        yield " ".join(["inline-rows", *map(str, tables.inline_rows)])


def _print_cell(cell: Cell) -> str:
    if cell.enforced == cell.prospective:
        return _print_best(cell.enforced)
    return f"{_print_best(cell.enforced)} prospective {_print_best(cell.prospective)}"


def _print_best(best: Best | None) -> str:
    if best is None:
        return "none"
    stream = ""
    if best.stream is not None:
        stream = f" stream {len(best.stream.rules)} {' '.join(map(str, best.stream.rules))}"
        stream += "" if best.stream.plain is None else f" plain {best.stream.plain}"
    return f"rule {best.rank}{' log' * best.log}{stream}"


def _print_group(index: int, group: Group) -> Iterator[str]:
    yield (
        f"group {index} {group.direction.word} {group.tier.word} {print_subject(group.subject)} "
        f"{print_isolation(group.isolation)} world {group.row_world} host {group.row_host} "
        f"endpoint {group.row_endpoint} {print_span(group.span)}"
    )
    for selector, row in group.selectors:
        yield f"  peers {selector} row {row}"
    for keys, row in group.same:
        yield f"  same {' '.join(map(str, keys))} row {row}"
    for use in group.cidrs:
        yield f"  cidrs {use.table}"
        for number, rows in enumerate(zip(use.rows_any, use.rows_world, strict=True)):
            yield f"  class {number} any {rows[0]} world {rows[1]}"


class TablesParser:
    """Takes the lines after the header one by one; `module` is what they say."""

    def __init__(self) -> None:
        self.selectors: list[Selector] = []
        self.same_keys: list[str] = []
        self.rules: list[RankedRule] = []
        self.rows: list[list[tuple[int, Cell]]] = []
        self.cidr_tables: list[_CidrLines] = []
        self.groups: list[_GroupLines] = []
        self.selected: list[SelectedBy] = []
        self.flags: set[str] = set()
        self.inline_rows: tuple[int, ...] = ()
        self._kinds: dict[str, Callable[[Line], None]] = {
            "selector": self._selector,
            "same-key": self._same_key,
            "rule": self._rule,
            "row": self._row,
            "cell": self._cell,
            "cidr-table": self._cidr_table,
            "v4": lambda line: self._start(4, line),
            "v6": lambda line: self._start(6, line),
            "group": self._group,
            "peers": self._peers,
            "same": self._same,
            "cidrs": self._cidrs,
            "class": self._class,
            "selected": lambda line: self.selected.append(parse_selected(line)),
            "has-audit": lambda line: self.flags.add("has-audit"),
            "inline-rows": self._inline_rows,
        }

    def line(self, line: Line) -> None:
        kind = line.word()
        if kind not in self._kinds:
            line.fail(f"{kind!r} begins no line of the tables")
        self._kinds[kind](line)
        line.end()

    @property
    def module(self) -> Tables:
        return Tables(
            selectors=tuple(self.selectors),
            same_keys=tuple(self.same_keys),
            rules=tuple(self.rules),
            rows=tuple(Row(tuple(cells)) for cells in self.rows),
            cidr_tables=tuple(t.finished() for t in self.cidr_tables),
            groups=tuple(g.finished() for g in self.groups),
            selected=tuple(self.selected),
            has_audit="has-audit" in self.flags,
            inline_rows=self.inline_rows,
        )

    def _inline_rows(self, line: Line) -> None:
        self.inline_rows = line.integers()

    def _selector(self, line: Line) -> None:
        line.index(len(self.selectors))
        self.selectors.append(parse_selector(line))

    def _same_key(self, line: Line) -> None:
        line.index(len(self.same_keys))
        self.same_keys.append(line.string())

    def _rule(self, line: Line) -> None:
        line.index(len(self.rules))
        self.rules.append(parse_rule(line))

    def _row(self, line: Line) -> None:
        line.index(len(self.rows))
        self.rows.append([])

    def _cell(self, line: Line) -> None:
        if not self.rows:
            line.fail("a cell stands in no row")
        first, enforced = parse_key(line.word(), line), _parse_best(line)
        prospective = _parse_best(line) if line.take("prospective") else enforced
        cell = Cell(enforced, prospective)
        self.rows[-1].append((first, EMPTY if cell == EMPTY else cell))

    def _cidr_table(self, line: Line) -> None:
        line.index(len(self.cidr_tables))
        line.expect("classes")
        self.cidr_tables.append(_CidrLines(line.integer(), line.integers() if line.take("index") else ()))

    def _start(self, family: int, line: Line) -> None:
        if not self.cidr_tables:
            line.fail("a start stands in no CIDR table")
        self.cidr_tables[-1].starts[family].append((parse_address(family, line), line.integer()))

    def _group(self, line: Line) -> None:
        line.index(len(self.groups))
        direction, tier = line.named(Direction), line.named(Tier)
        subject, isolation = parse_subject(line), parse_isolation(line)
        world, host, endpoint = (_parse_row(line, word) for word in ("world", "host", "endpoint"))
        span = parse_span(line)
        group = Group(direction, tier, subject, isolation, world, host, endpoint, (), (), (), span)
        self.groups.append(_GroupLines(group))

    def _last_group(self, line: Line) -> _GroupLines:
        if not self.groups:
            line.fail("stands in no group")
        return self.groups[-1]

    def _peers(self, line: Line) -> None:
        self._last_group(line).selectors.append((line.integer(), _parse_row(line, "row")))

    def _same(self, line: Line) -> None:
        self._last_group(line).same.append((line.integers(), _parse_row(line, "row")))

    def _cidrs(self, line: Line) -> None:
        self._last_group(line).cidrs.append((line.integer(), [], []))

    def _class(self, line: Line) -> None:
        group = self._last_group(line)
        if not group.cidrs:
            line.fail("a class stands before its CIDR table")
        _, rows_any, rows_world = group.cidrs[-1]
        line.index(len(rows_any))
        rows_any.append(_parse_row(line, "any"))
        rows_world.append(_parse_row(line, "world"))


def _parse_row(line: Line, word: str) -> int:
    line.expect(word)
    return line.integer()


def _parse_best(line: Line) -> Best | None:
    if line.take("none"):
        return None
    line.expect("rule")
    rank, log = line.integer(), line.take("log")
    if not line.take("stream"):
        return Best(rank, log)
    rules = tuple(line.integer() for _ in range(line.integer()))
    return Best(rank, log, StreamRules(rules, line.integer() if line.take("plain") else None))


class _CidrLines:
    def __init__(self, classes: int, chosen: tuple[int, ...]) -> None:
        self.classes, self.chosen = classes, chosen
        self.starts: dict[int, list[tuple[int, int]]] = {4: [], 6: []}

    def finished(self) -> CidrTable:
        return CidrTable(tuple(self.starts[4]), tuple(self.starts[6]), self.classes, *self.chosen)


class _GroupLines:
    def __init__(self, group: Group) -> None:
        self.group = group
        self.selectors: list[tuple[int, int]] = []
        self.same: list[tuple[tuple[int, ...], int]] = []
        self.cidrs: list[tuple[int, list[int], list[int]]] = []  # table, rows_any, rows_world

    def finished(self) -> Group:
        cidrs = tuple(GroupCidrs(table, tuple(rows), tuple(world)) for table, rows, world in self.cidrs)
        return replace(self.group, selectors=tuple(self.selectors), same=tuple(self.same), cidrs=cidrs)
