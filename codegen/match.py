"""Matching: the rows, CIDR tables and groups of `ir.Tables` as read-only data, and the functions that search them.

A cell's best rule is one u64, `level << 42 | action << 40 | rank << 8 | log`, all ones for none: the smaller one wins, and the upper
24 bits tell whether two are of the same level and action. Sizes of searched arrays are powers of two, so that an index
masked with size - 1 is within bounds for the verifier without a branch.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from llvmlite import ir

from policyc.artifact.layout import NO_RULE, IdentityFlag, IdentityLayout, PeerClassCode, Reason
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.flow import Flow, debug_type
from policyc.codegen.function import I8, I32, I64, PTR, Function, Value, Var
from policyc.codegen.maps import Maps
from policyc.codegen.records import IDENTITY_FLAGS, IDENTITY_GROUPS, IDENTITY_PEERS
from policyc.ir.tables import Best, Group, KeyKind, Row, Tables
from policyc.model import Action, Direction, Span, Tier

NONE = (1 << 64) - 1
ISOLATES, ISOLATES_PROSPECTIVE, ISOLATION_LOG, ISOLATION_LOG_PROSPECTIVE = 1, 2, 4, 8
Fold = Callable[[Value], None]  # takes a row into the flow's best cells
# A group in the array `groups`: so many words, and the place of each.
_GROUP_WORDS = 16
_ROW_WORLD, _ROW_HOST, _ROW_ENDPOINT, _ISOLATION, _CIDR, _ANY, _WORLD, _SEL, _SEL_LEN, _SAME = range(10)
_NO_SAME = 0xFFFFFFFF  # at _SAME of a group without such rows


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


class Data:
    """A read-only array of fixed-width integers. `f` loads element `index & mask`."""

    def __init__(self, module: ir.Module, name: str, width: int, values: Sequence[int]) -> None:
        self.width, self.length = width, _power_of_two(max(len(values), 1))
        code = {4: "I", 8: "Q"}[width]
        content = struct.pack(f"<{len(values)}{code}", *values).ljust(self.length * width, b"\0")
        type_ = ir.ArrayType(I8, len(content))
        var = ir.GlobalVariable(module, type_, name)
        var.initializer = ir.Constant(type_, bytearray(content))
        var.global_constant, var.linkage, var.section, var.align = True, "internal", ".rodata", 8
        var.type = PTR
        self.var = var

    def __call__(self, f: Function, index: Value) -> Value:
        masked = f.and_(f.to(index, I64), self.length - 1)
        type_ = I32 if self.width == 4 else I64
        return f.load(self.var, type_, f.shl(masked, 2 if self.width == 4 else 3))


def build(
    module: ir.Module, debug: DebugInfo, maps: Maps, tables: Tables, layout: IdentityLayout, span: Span
) -> ir.Function:
    """match_policy(flow, direction, key): fills the outcome of a flow record."""
    return _Builder(module, debug, maps, tables, layout, span).build()


class _Builder:
    def __init__(
        self, module: ir.Module, debug: DebugInfo, maps: Maps, tables: Tables, layout: IdentityLayout, span: Span
    ) -> None:
        self.module, self.debug, self.maps = module, debug, maps
        self.tables, self.layout, self.span = tables, layout, span
        self.variants = ("", "audit_") if tables.has_audit else ("",)  # prefixes of the flow's outcomes

    def function(self, name: str, *args: tuple[str, ir.Type]) -> Function:
        kinds = {I32: self.debug.u32, I64: self.debug.u64}
        typed = [(n, t, debug_type(self.debug) if t is PTR else kinds[t]) for n, t in args]
        return Function(self.module, self.debug, name, typed, self.span)

    def build(self) -> ir.Function:
        self.row = self._row_search()
        self.cidr4 = self._cidr_search(4)
        self.cidr6 = self._cidr_search(6)
        self.group = self._match_group()
        return self._verdict()

    # --- data -------------------------------------------------------------------------------------------------

    def _best(self, best: Best | None) -> int:
        if best is None:
            return NONE
        rule = self.tables.rules[best.rank]
        return (rule.level << 2 | int(rule.action)) << 40 | best.rank << 8 | int(best.log)

    @staticmethod
    def _search_steps(lengths: Sequence[int]) -> int:
        return max((n - 1).bit_length() for n in lengths) if lengths else 0

    # --- rows -------------------------------------------------------------------------------------------------

    def _row_search(self) -> ir.Function:
        """match_row(row, key): the index of the row's cell that holds for `key`."""
        keys: list[int] = []
        enforced: list[int] = []
        prospective: list[int] = []
        bounds: list[int] = []
        for row in self.tables.rows:
            bounds += (len(keys), len(row.cells))
            for first, cell in row.cells:
                keys.append(first)
                enforced.append(self._best(cell.enforced))
                prospective.append(self._best(cell.prospective))
        self.cells = [Data(self.module, "cells", 8, enforced)]
        if self.tables.has_audit:
            self.cells.append(Data(self.module, "cells_prospective", 8, prospective))
        f = self.function("match_row", ("row", I32), ("key", I32))
        row, key = f.args
        if self.tables.inline_rows:
            firsts = bounds[::2]
            self._tree(
                f, row, list(range(len(firsts))), lambda r: self._row_tree(f, key, self.tables.rows[r], firsts[r])
            )
            return f.close()
        key_data, bound_data = Data(self.module, "row_keys", 4, keys), Data(self.module, "rows", 4, bounds)
        at = f.shl(row, 1)
        low, length = f.var(bound_data(f, at)), f.var(bound_data(f, f.or_(at, 1)))
        self._search(f, low, length, bounds[1::2], lambda mid: f.to(self._not_above(f, key_data(f, mid), key), I32))
        f.ret(low.get())
        return f.close()

    def _row_tree(self, f: Function, key: Value, row: Row, first: int) -> None:
        """Returns the cell of `row` that holds for `key`; each leaf stands at the line of the rule that it decides for."""

        def leaf(position: int) -> None:
            cell = row.cells[position][1]
            best = cell.enforced or cell.prospective
            with f.line(self.tables.rules[best.rank].span if best else self.span):
                f.ret(first + position)

        self._tree(f, key, [start for start, _ in row.cells], leaf)

    def _tree(
        self, f: Function, value: Value, starts: Sequence[int], leaf: Callable[[int], None], base: int = 0
    ) -> None:
        """A balanced decision tree: runs `leaf(i)` for the last i whose start is not above `value`; leaves return."""
        if len(starts) == 1:
            leaf(base)
            return
        middle = len(starts) // 2
        with f.if_else(f.cmp("<", value, starts[middle])) as (below, above):
            with below:
                self._tree(f, value, starts[:middle], leaf, base)
            with above:
                self._tree(f, value, starts[middle:], leaf, base + middle)
        f.b.unreachable()

    @staticmethod
    def _not_above(f: Function, value: Value, key: Value) -> Value:
        """All ones (i64) if value <= key, else zero, without a branch; both i32, unsigned."""
        difference = f.sub(f.to(value, I64), f.to(key, I64))
        return f.sar(f.sub(difference, 1), 63)

    def _search(
        self, f: Function, low: Var, length: Var, lengths: Sequence[int], not_above: Callable[[Value], Value]
    ) -> None:
        """Narrows `low` to the last of `length` sorted elements that `not_above` holds for; the first always does."""
        steps = self._search_steps(lengths)
        if not steps:
            return
        with f.loop(steps, steps):
            half = f.shr(length.get(), 1)
            mask = not_above(f.add(low.get(), half))
            low.set(f.add(low.get(), f.and_(half, mask)))
            length.set(f.sub(length.get(), half))

    # --- CIDR tables ------------------------------------------------------------------------------------------

    def _cidr_search(self, family: int) -> ir.Function | None:
        """match_cidrN(table, address): the address's class. IPv6 addresses are two u64, the high one first, host order."""
        tables = [t.v4 if family == 4 else t.v6 for t in self.tables.cidr_tables]
        if not tables:
            return None
        bounds: list[int] = []
        entries: list[tuple[int, int]] = []
        for table in tables:
            bounds += (len(entries), len(table))
            entries += table
        bound_data = Data(self.module, f"cidr{family}_tables", 4, bounds)
        classes = Data(self.module, f"cidr{family}_classes", 4, [c for _, c in entries])
        lengths = bounds[1::2]
        if family == 4:
            starts = Data(self.module, "cidr4_starts", 4, [s for s, _ in entries])
            f = self.function("match_cidr4", ("table", I32), ("address", I32))
            address = f.args[1]

            def not_above(mid: Value) -> Value:
                return f.to(self._not_above(f, starts(f, mid), address), I32)

        else:
            high = Data(self.module, "cidr6_high", 8, [s >> 64 for s, _ in entries])
            low_half = Data(self.module, "cidr6_low", 8, [s & NONE for s, _ in entries])
            f = self.function("match_cidr6", ("table", I32), ("high", I64), ("low", I64))

            def not_above(mid: Value) -> Value:
                # start <= address, as borrow of address - start, from the top bit
                h, low_ = high(f, mid), low_half(f, mid)
                below = self._borrow(f, f.args[1], h)
                differs = f.xor(f.args[1], h)
                same = f.sub(f.shr(f.or_(differs, f.sub(0, differs)), 63), 1)  # all ones if equal
                above = f.or_(below, f.and_(same, self._borrow(f, f.args[2], low_)))
                return f.to(f.sub(above, 1), I32)

        at = f.shl(f.args[0], 1)
        low, length = f.var(bound_data(f, at)), f.var(bound_data(f, f.or_(at, 1)))
        self._search(f, low, length, lengths, not_above)
        f.ret(classes(f, low.get()))
        return f.close()

    @staticmethod
    def _borrow(f: Function, a: Value, b: Value) -> Value:
        """1 if a < b (u64), else 0, without a branch (Hacker's Delight 2-13)."""
        not_a = f.xor(a, NONE)
        return f.shr(f.or_(f.and_(not_a, b), f.and_(f.or_(not_a, b), f.sub(a, b))), 63)

    # --- groups -----------------------------------------------------------------------------------------------

    def _group_data(self) -> None:
        words: list[int] = []
        row_maps: list[int] = []
        selectors: list[tuple[int, int]] = []
        self.same_tuples = sorted({keys for g in self.tables.groups for keys, _ in g.same})
        same_rows: list[int] = []
        map_at: dict[tuple[int, ...], int] = {}

        def row_map(rows: tuple[int, ...]) -> int:
            if rows not in map_at:
                map_at[rows] = len(row_maps)
                row_maps.extend(rows)
            return map_at[rows]

        for g in self.tables.groups:
            cidr = (g.cidrs.table + 1, row_map(g.cidrs.rows_any), row_map(g.cidrs.rows_world)) if g.cidrs else (0, 0, 0)
            entry = [
                g.row_world,
                g.row_host,
                g.row_endpoint,
                self._isolation(g),
                *cidr,
                len(selectors),
                len(g.selectors),
            ]
            entry.append(len(same_rows))
            selectors += g.selectors
            rows = dict(g.same)
            if rows:
                same_rows += [rows.get(t, 0) for t in self.same_tuples]
            else:
                entry[_SAME] = _NO_SAME
            words += entry + [0] * (_GROUP_WORDS - len(entry))
        self.group_words = Data(self.module, "groups", 4, words)
        self.row_maps = Data(self.module, "cidr_rows", 4, row_maps)
        self.selector_ids = Data(self.module, "group_selectors", 4, [s for s, _ in selectors])
        self.selector_rows = Data(self.module, "group_selector_rows", 4, [r for _, r in selectors])
        self.same_rows = Data(self.module, "same_rows", 4, same_rows)

    @staticmethod
    def _isolation(g: Group) -> int:
        i = g.isolation
        return i.enforced | i.prospective << 1 | i.log << 2 | i.log_prospective << 3

    def _word(self, f: Function, group: Value, word: Value) -> Value:
        return self.group_words(f, f.add(f.mul(group, _GROUP_WORDS), word))

    def _identity(self, f: Function, slot: Value) -> Value:
        return f.lookup_index(self.maps["identities"], slot)

    def _match_group(self) -> ir.Function:
        """match_group(flow, group, key, named): folds the best cells of the group's rows that the peer selects into the flow's
        `best` fields, or into its `named` fields if `named`."""
        self._group_data()
        f = self.function("match_group", ("flow", PTR), ("group", I32), ("key", I32), ("named", I32))
        pointer, group, key, named = f.args
        with f.if_(f.is_null(pointer)):
            f.ret(0)
        flow = Flow(f, pointer)
        targets = [("best", "named"), ("best_prospective", "named_prospective")]

        def fold(row: Value) -> None:
            with f.if_(f.ne(row, 0)):
                cell = f.call(self.row, row, key)
                with f.if_else(f.ne(named, 0)) as (yes, no):
                    for branch, which in ((yes, 1), (no, 0)):
                        with branch:
                            for data, names in zip(self.cells, targets, strict=False):
                                self._fold(f, flow, names[which], data(f, cell))

        class_ = flow.get("peer_class")
        is_world = f.eq(class_, int(PeerClassCode.WORLD))
        word = f.select(
            is_world,
            I32(_ROW_WORLD),
            f.select(f.eq(class_, int(PeerClassCode.HOST)), I32(_ROW_HOST), I32(_ROW_ENDPOINT)),
        )
        fold(self._word(f, group, word))
        if self.cidr4 is not None and self.cidr6 is not None:
            self._fold_cidrs(f, flow, group, is_world, fold)
        peers = any(g.selectors for g in self.tables.groups)
        if peers or self.same_tuples:
            with f.if_(f.eq(class_, int(PeerClassCode.ENDPOINT))):
                if peers:
                    self._fold_selectors(f, flow, group, fold)
                if self.same_tuples:
                    self._fold_same(f, flow, group, fold)
        return f.close()

    @staticmethod
    def _fold(f: Function, flow: Flow, name: str, value: Value) -> None:
        """The smaller wins; of equal level and action the logs add up."""
        old = flow.get(name)
        smaller = f.select(f.cmp("<", value, old), value, old)
        same = f.eq(f.shr(f.xor(value, old), 40), 0)
        log = f.and_(f.and_(f.or_(value, old), 1), f.to(same, I64))
        flow.set(name, f.or_(smaller, log))

    def _fold_cidrs(self, f: Function, flow: Flow, group: Value, is_world: Value, fold: Fold) -> None:
        table = self._word(f, group, _CIDR)
        with f.if_(f.ne(table, 0)):
            class_ = f.var(0, I32)
            match = flow.address("match")
            number = f.sub(table, 1)
            with f.if_else(f.eq(flow.get("family"), 4)) as (v4, v6):
                with v4:
                    class_.set(f.call(self.cidr4, number, f.swap(f.load(match, I32))))
                with v6:
                    class_.set(f.call(self.cidr6, number, f.swap(f.load(match, I64)), f.swap(f.load(match, I64, 8))))
            base = self._word(f, group, f.select(is_world, I32(_WORLD), I32(_ANY)))
            fold(self.row_maps(f, f.add(base, class_.get())))

    def _fold_selectors(self, f: Function, flow: Flow, group: Value, fold: Fold) -> None:
        """For each selector of the peer: its row in the group, by binary search."""
        length = self._word(f, group, _SEL_LEN)
        first = self._word(f, group, _SEL)
        record = self._identity(f, flow.get("peer_slot"))
        with f.if_(f.both(f.not_null(record), f.ne(length, 0))):
            count = f.load(record, I32, IDENTITY_PEERS)
            with f.loop(count, self.layout.max_peers) as (i, _):
                offset = f.add(f.shl(f.to(i, I64), 2), self.layout.peers_offset)
                wanted = f.load(record, I32, offset)
                low, left = f.var(first), f.var(length)
                self._search(
                    f, low, left, [len(g.selectors) for g in self.tables.groups if g.selectors],
                    lambda mid: f.to(self._not_above(f, self.selector_ids(f, mid), wanted), I32),
                )  # fmt: skip
                with f.if_(f.eq(self.selector_ids(f, low.get()), wanted)):
                    fold(self.selector_rows(f, low.get()))

    def _fold_same(self, f: Function, flow: Flow, group: Value, fold: Fold) -> None:
        """A `same` row counts if the two identity records have equal, non-zero values for each of its keys."""
        first = self._word(f, group, _SAME)
        done = f.b.append_basic_block("same_done")
        with f.if_(f.eq(first, _NO_SAME)):
            f.leave(done)
        records = [self._identity(f, flow.get(n)) for n in ("peer_slot", "subject_slot")]
        with f.if_(f.either(*(f.is_null(r) for r in records))):
            f.leave(done)
        for number, keys in enumerate(self.same_tuples):
            row = self.same_rows(f, f.add(first, number))
            equal = f.ne(row, 0)
            for key in keys:
                peer, subject = (f.load(r, I64, self.layout.same_offset + 8 * key) for r in records)
                equal = f.both(equal, f.ne(peer, 0), f.eq(peer, subject))
            with f.if_(equal):
                fold(row)
        f.leave(done)
        f.b.position_at_end(done)

    # --- the verdict ------------------------------------------------------------------------------------------

    def _verdict(self) -> ir.Function:
        """match_policy(flow, direction, key): sets verdict, reason, rank and log (and the prospective ones) of the flow."""
        f = self.function("match_policy", ("flow", PTR), ("direction", I32), ("key", I32))
        pointer, direction, key = f.args
        with f.if_(f.is_null(pointer)):
            f.ret(0)
        flow = Flow(f, pointer)
        record = self._identity(f, flow.get("subject_slot"))
        with f.if_(f.is_null(record)):
            self._outcome(flow, "", 0, Reason.NOT_READY)
            self._outcome(flow, "audit_", 0, Reason.NOT_READY)
            f.ret(0)
        decided = f.var(0, I8)  # a bit a variant
        for tier in sorted({g.tier for g in self.tables.groups}):
            self._tier(f, flow, record, direction, key, tier, decided)
        for i, prefix in enumerate(self.variants):
            with f.if_(f.not_(f.bits(decided.get(), 1 << i))):
                selected = IdentityFlag.SELECTED if i == 0 else IdentityFlag.SELECTED_AUDIT
                some = f.bits(f.load(record, I32, IDENTITY_FLAGS), int(selected))
                self._outcome(flow, prefix, 1, f.select(some, I8(Reason.DEFAULT), I8(Reason.NO_POLICY)))
        if not self.tables.has_audit:
            for name in ("verdict", "reason", "rank"):
                flow.set(f"audit_{name}", flow.get(name))
        return f.close()

    @staticmethod
    def _outcome(flow: Flow, prefix: str, verdict: Value, reason: Value, rank: Value = NO_RULE, log: Value = 0) -> None:
        flow.set(f"{prefix}verdict", verdict)
        flow.set(f"{prefix}reason", int(reason) if isinstance(reason, Reason) else reason)
        flow.set(f"{prefix}rank", rank)
        if not prefix:
            flow.set("log", log)

    def _tier(
        self,
        f: Function,
        flow: Flow,
        record: Value,
        direction: Value,
        key: Value,
        tier: Tier,
        decided: Var,
    ) -> None:
        """Asks one tier, for the variants that are not decided: the best cells of the subject's groups, then isolation."""
        after = f.b.append_basic_block(f"after_{tier.word}")
        with f.if_(f.eq(decided.get(), (1 << len(self.variants)) - 1)):
            f.leave(after)
        for name in ("best", "best_prospective", "named", "named_prospective"):
            flow.set(name, NONE)
        isolation = f.var(0, I32)
        number = f.select(f.eq(direction, int(Direction.INGRESS)), I32(int(tier)), I32(3 + int(tier)))
        count = f.load(record, I32, f.add(f.shl(f.to(number, I64), 2), IDENTITY_GROUPS))
        base = f.add(f.mul(f.to(number, I64), 4 * self.layout.max_groups), self.layout.groups_offset)
        with f.loop(count, self.layout.max_groups) as (i, _):
            group = f.load(record, I32, f.add(base, f.shl(f.to(i, I64), 2)))
            isolation.set(f.or_(isolation.get(), self._word(f, group, _ISOLATION)))
            f.call(self.group, flow.pointer, group, key, 0)
            with f.if_(self._is_portless(f, key)):
                named_key = f.add(f.and_(key, 0xFF0000), int(KeyKind.NAMED) << 24)
                f.call(self.group, flow.pointer, group, named_key, 1)
        for i, prefix in enumerate(self.variants):
            self._decide(f, flow, key, prefix, i, isolation, decided)
        f.leave(after)
        f.b.position_at_end(after)

    @staticmethod
    def _is_portless(f: Function, key: Value) -> Value:
        return f.eq(f.shr(key, 24), int(KeyKind.PORTLESS))

    def _decide(self, f: Function, flow: Flow, key: Value, prefix: str, i: int, isolation: Var, decided: Var) -> None:
        """What the tier's best cells, or else its isolation, decide for variant `i`, if anything."""
        end = f.b.append_basic_block("tier_decided")
        with f.if_(f.bits(decided.get(), 1 << i)):
            f.leave(end)
        best, named = (flow.get(n + ("_prospective" if i else "")) for n in ("best", "named"))
        with f.if_(
            f.both(self._is_portless(f, key), f.ne(named, NONE), f.cmp("<=", f.shr(named, 42), f.shr(best, 42)))
        ):
            self._outcome(flow, prefix, 0, Reason.FRAGMENT)
            decided.set(f.or_(decided.get(), 1 << i))
            f.leave(end)
        with f.if_(f.ne(best, NONE)):
            action = f.and_(f.shr(best, 40), 3)
            with f.if_(f.ne(action, int(Action.PASS))):
                verdict = f.to(f.eq(action, int(Action.ALLOW)), I8)
                rank = f.to(f.shr(best, 8), I32)
                self._outcome(flow, prefix, verdict, Reason.RULE, rank, f.to(f.and_(best, 1), I8))
                decided.set(f.or_(decided.get(), 1 << i))
            f.leave(end)
        bit, log_bit = (ISOLATES_PROSPECTIVE, ISOLATION_LOG_PROSPECTIVE) if i else (ISOLATES, ISOLATION_LOG)
        with f.if_(f.bits(isolation.get(), bit)):
            log = f.to(f.bits(isolation.get(), log_bit), I8)
            self._outcome(flow, prefix, 0, Reason.DEFAULT, NO_RULE, log)
            decided.set(f.or_(decided.get(), 1 << i))
        f.leave(end)
        f.b.position_at_end(end)
