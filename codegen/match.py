"""Matching: the groups of `ir.Tables`, and the verdict over the rows that a packet's peer selects (rows.py, cidrs.py).

Where at most one group of a direction and tier exists, its rows and tables are constants in `match_policy`; where there are several,
`match_group` finds them by number in read-only data. Later fragments always go the latter way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from policyc.artifact.layout import NO_RULE, IdentityFlag, IdentityLayout, PeerClassCode, Reason
from policyc.codegen.branchless import NONE, at_most
from policyc.codegen.cidrs import CidrData
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.flow import OFFSET, Flow, debug_type
from policyc.codegen.function import I8, I32, I64, PTR, Function, Value, Var
from policyc.codegen.maps import Maps
from policyc.codegen.records import IDENTITY_FLAGS, IDENTITY_GROUPS, IDENTITY_PEERS
from policyc.codegen.rodata import Rodata
from policyc.codegen.rows import ACTION_SHIFT, LEVEL_SHIFT, RANK_BITS, RANK_SHIFT, RowData
from policyc.ir.tables import Group, GroupCidrs, KeyKind, Tables
from policyc.model import Action, Direction, Span, Tier

ISOLATES, ISOLATES_PROSPECTIVE, ISOLATION_LOG, ISOLATION_LOG_PROSPECTIVE = 1, 2, 4, 8
Fold = Callable[[list[Value]], None]  # takes a row's best cells
# A group in the array `groups`: so many words, and the place of each.
_GROUP_WORDS = 8
_ROW_WORLD, _ROW_HOST, _ROW_ENDPOINT, _ISOLATION, _LAYERS, _SELECTORS, _SELECTOR_COUNT, _SAME = range(8)
# A group's use of a CIDR table in the array `layers`: table, where its buckets stand, and where its rows do (_DIRECT: leaves are rows).
_LAYER_WORDS = 8
_TABLE, _BASE4, _SHIFT4, _ANY, _WORLD = range(5)
_DIRECT = 0xFFFFFFFF
# The flow record's best cells while groups are asked one by one: enforced and prospective.
BESTS, NAMED = ("best", "best_prospective"), ("named", "named_prospective")
_NO_SAME = 0xFFFFFFFF  # at _SAME of a group without such rows
DENSE_LIMIT = 1 << 20  # entries of the table of rows by group and selector


def _isolation(g: Group) -> int:
    i = g.isolation
    return i.enforced | i.prospective << 1 | i.log << 2 | i.log_prospective << 3


@dataclass(frozen=True)
class _Peer:
    """What is known of the peer in a function: the record it stands in, and the packet's key."""

    flow: Flow
    key: Value
    has_class: bool  # whether any verdict depends on it
    of_any_kind: bool  # whether the key may be one of a fragment

    def is_of(self, f: Function, class_: PeerClassCode) -> Value:
        return f.eq(self.flow.get("peer_class"), int(class_))


class Matcher:
    """`match_policy(flow, direction, key)` fills the outcome of a flow record; `inline` does so without a call."""

    def __init__(
        self,
        module: ir.Module,
        debug: DebugInfo,
        maps: Maps,
        rodata: Rodata,
        tables: Tables,
        layout: IdentityLayout,
        span: Span,
    ) -> None:
        self.module, self.debug, self.maps, self.rodata = module, debug, maps, rodata
        self.tables, self.layout, self.span = tables, layout, span
        self.variants = ("", "audit_") if tables.has_audit else ("",)  # prefixes of the flow's outcomes
        self.lists: dict[tuple[Direction, Tier], list[int]] = {}
        for number, g in enumerate(tables.groups):
            self.lists.setdefault((g.direction, g.tier), []).append(number)
        self.classes = tables.needs_peer_class
        self.constant_rows = frozenset(tables.inline_rows)
        self.match_policy = self._build()

    def function(self, name: str, *args: tuple[str, ir.Type]) -> Function:
        kinds = {I32: self.debug.u32, I64: self.debug.u64}
        typed = [(n, t, debug_type(self.debug) if t is PTR else kinds[t]) for n, t in args]
        return Function(self.module, self.debug, name, typed, self.span)

    def _build(self) -> ir.Function:
        self.rows = RowData(self.rodata, self.tables)
        if self.rows.steps:
            arguments = [(name, I32) for name in ("key", "steps", "begin", "length")]
            self.rows.build_search(self.function("match_row", *arguments))
        self.cidrs = CidrData(self.rodata, self.tables)
        self.has_cidrs = bool(self.tables.cidr_tables)
        if self.cidrs.used6:
            self.cidr6 = self._cidr6()
        self._group_data()
        if self.tables.groups:
            self.group = self._match_group()
        return self._match_policy()

    # --- data -------------------------------------------------------------------------------------------------

    def _group_data(self) -> None:
        words: list[int] = []
        layers: list[int] = []
        maps: list[int] = []
        same_rows: list[int] = []
        map_at: dict[tuple[int, ...], int] = {}
        self.same_tuples = sorted({keys for g in self.tables.groups for keys, _ in g.same})
        self.layer_of: list[list[list[int]]] = []
        for g in self.tables.groups:
            own = [self._layer_words(use, maps, map_at) for use in g.cidrs]
            self.layer_of.append(own)
            same = len(same_rows)
            rows = dict(g.same)
            same_rows += [rows.get(t, 0) for t in self.same_tuples] if rows else []
            words += [g.row_world, g.row_host, g.row_endpoint, _isolation(g)]
            words += [len(layers) // _LAYER_WORDS << 8 | len(own), 0, len(g.selectors), same if rows else _NO_SAME]
            layers += [word for layer in own for word in layer]
        self._selector_data(words)
        self.group_words = self.rodata.array("groups", 4, words, align=64)
        self.layer_words = self.rodata.array("cidr_layers", 4, layers)
        self.row_maps = self.rodata.array("cidr_rows", 4, maps)
        self.same_rows = self.rodata.array("same_rows", 4, same_rows)

    def _layer_words(self, use: GroupCidrs, maps: list[int], map_at: dict[tuple[int, ...], int]) -> list[int]:
        def place(rows: tuple[int, ...]) -> int:
            if rows not in map_at:
                map_at[rows] = len(maps)
                maps.extend(rows)
            return map_at[rows]

        at = self.cidrs.tables4[use.table]
        direct = self.cidrs.leaf_is_row[use.table]
        rows = [_DIRECT, _DIRECT] if direct else [place(use.rows_any), place(use.rows_world)]
        return [use.table, at.base, at.shift, *rows, 0, 0, 0]

    def _selector_data(self, words: list[int]) -> None:
        """The row of a peer's selector in a group: by a table of all selectors for each such group, or where that is too large
        by searching the group's own."""
        groups = [(n, g) for n, g in enumerate(self.tables.groups) if g.selectors]
        width = max((s for _, g in groups for s, _ in g.selectors), default=-1) + 1
        self.has_selectors = bool(groups)
        self.is_dense = len(groups) * width <= DENSE_LIMIT
        ids: list[int] = []
        rows: list[int] = []
        for number, g in groups:
            words[number * _GROUP_WORDS + _SELECTORS] = len(rows)
            if self.is_dense:
                by_selector = [0] * width
                for selector, row in g.selectors:
                    by_selector[selector] = row
                rows += by_selector
            else:
                ids += [s for s, _ in g.selectors]
                rows += [r for _, r in g.selectors]
        self.selector_width = width
        self.selector_at = words[_SELECTORS::_GROUP_WORDS]
        self.selector_rows = self.rodata.array("selector_rows", 4, rows)
        if not self.is_dense:
            self.selector_ids = self.rodata.array("selector_ids", 4, ids)

    def _word(self, f: Function, group: Value, word: int) -> Value:
        return self.group_words(f, group, _GROUP_WORDS, word)

    def _record(self, f: Function, slot: Value) -> Value:
        return f.lookup_index(self.maps["identities"], slot)

    # --- functions --------------------------------------------------------------------------------------------

    def _cidr6(self) -> ir.Function:
        """match_cidr6(table, high, low): the leaf of an IPv6 address, of two integers in host order."""
        f = self.function("match_cidr6", ("table", I32), ("high", I64), ("low", I64))
        f.ret(self.cidrs.search6(f, *f.args))
        return f.close()

    def _match_group(self) -> ir.Function:
        """match_group(flow, group, key): folds the best cells of the group's rows that the peer selects into the flow's
        `best` fields, for a NAMED key into its `named` fields."""
        f = self.function("match_group", ("flow", PTR), ("group", I32), ("key", I32))
        pointer, group, key = f.args
        with f.if_(f.is_null(pointer)):
            f.ret(0)
        flow = Flow(f, pointer)
        peer = _Peer(flow, key, self.classes, of_any_kind=True)
        named = OFFSET["named"] - OFFSET["best"]
        is_named = int(KeyKind.NAMED).bit_length() - 1 + 24  # the bit of a key that only NAMED has

        def fold(found: list[Value]) -> None:
            # Found anew each time: what stays in a register over a call takes stack.
            target = f.at_offset(pointer, f.mul(f.and_(f.shr(key, is_named), 1), named))
            for name, value in zip(BESTS, found, strict=False):
                f.store(target, self.rows.fold(f, f.load(target, I64, OFFSET[name]), value), offset=OFFSET[name])

        self._fold_rows(f, peer, group, fold)
        return f.close()

    def fold_rows(self, f: Function, flow: Flow, group: Value, fold: Fold) -> None:
        """Has `fold` take the best cells of each row of a group that the peer selects, for the packet's own key, a FULL one."""
        self._fold_rows(f, _Peer(flow, flow.get("key"), self.classes, of_any_kind=False), group, fold)

    def _fold_rows(self, f: Function, peer: _Peer, group: Value, fold: Fold) -> None:
        fold(self.rows.lookup(f, self._class_row(f, peer, group), peer.key, peer.of_any_kind))
        if self.has_cidrs:
            self._layers(f, peer, group, fold)
        if self.has_selectors or self.same_tuples:
            with f.if_(peer.is_of(f, PeerClassCode.ENDPOINT)):
                if self.has_selectors:
                    self._fold_selectors(f, peer, group, fold)
                if self.same_tuples:
                    self._fold_same(f, peer, group, fold)

    def _class_row(self, f: Function, peer: _Peer, group: Value) -> Value:
        if not peer.has_class:
            return self._word(f, group, _ROW_WORLD)
        return self._by_class(f, peer, *(self._word(f, group, w) for w in (_ROW_WORLD, _ROW_HOST, _ROW_ENDPOINT)))

    @staticmethod
    def _by_class(f: Function, peer: _Peer, world: Value, host: Value, endpoint: Value) -> Value:
        world, host, endpoint = (I32(v) if isinstance(v, int) else v for v in (world, host, endpoint))
        other = f.select(peer.is_of(f, PeerClassCode.HOST), host, endpoint)
        return f.select(peer.is_of(f, PeerClassCode.WORLD), world, other)

    def _layers(self, f: Function, peer: _Peer, group: Value, fold: Fold) -> None:
        """The rows of the packet's address, one a CIDR table of the group."""
        span = self._word(f, group, _LAYERS)
        most = max(len(g.cidrs) for g in self.tables.groups)
        first = f.shr(span, 8)
        with f.loop(f.and_(span, 0xFF), most) as (i, _):
            layer = f.add(first, i)

            def word(which: int) -> Value:
                return self.layer_words(f, layer, _LAYER_WORDS, which)

            leaf = self._leaf(f, peer.flow, word(_TABLE), (word(_BASE4), word(_SHIFT4)))
            row = f.var(leaf)
            rows = word(_ANY)
            if peer.has_class:
                rows = f.select(peer.is_of(f, PeerClassCode.WORLD), word(_WORLD), rows)
            with f.if_(f.ne(rows, _DIRECT)):
                row.set(self.row_maps(f, f.add(rows, leaf)))
            fold(self.rows.lookup(f, row.get(), peer.key, peer.of_any_kind))

    def _leaf(self, f: Function, flow: Flow, table: Value, place: Value) -> Value:
        """The leaf of the peer's address in a CIDR table."""
        address = flow.address("match")
        leaf = f.var(0, I32)  # of addresses in no set: class 0, and row 0
        with f.if_else(f.eq(flow.get("family"), 4)) as (v4, v6):
            with v4:
                if self.cidrs.used4:
                    leaf.set(self.cidrs.search4(f, f.swap(f.load(address, I32)), place))
            with v6:
                if self.cidrs.used6:
                    high, low = (f.swap(f.load(address, I64, at)) for at in (0, 8))
                    leaf.set(f.call(self.cidr6, table, high, low))
        return leaf.get()

    def _fold_selectors(self, f: Function, peer: _Peer, group: Value, fold: Fold) -> None:
        """For each selector of the peer: its row in the group."""
        if isinstance(group, int):
            first: Value = I32(self.selector_at[group])
            length: Value = I32(len(self.tables.groups[group].selectors))
        else:
            first, length = self._word(f, group, _SELECTORS), self._word(f, group, _SELECTOR_COUNT)
        record = self._record(f, peer.flow.get("peer_slot"))
        condition = f.not_null(record) if isinstance(group, int) else f.both(f.not_null(record), f.ne(length, 0))
        with f.if_(condition), f.loop(f.load(record, I32, IDENTITY_PEERS), self.layout.max_peers) as (i, _):
            selector = f.load(record, I32, f.add(f.shl(f.to(i, I64), 2), self.layout.peers_offset))
            if self.is_dense:
                with f.if_(f.cmp("<", selector, self.selector_width)):
                    row = self.selector_rows(f, f.add(first, selector))
                    fold(self.rows.lookup(f, row, peer.key, peer.of_any_kind))
            else:
                at = self._search_selector(f, first, length, selector)
                with f.if_(f.eq(self.selector_ids(f, at), selector)):
                    fold(self.rows.lookup(f, self.selector_rows(f, at), peer.key, peer.of_any_kind))

    def _search_selector(self, f: Function, first: Value, length: Value, selector: Value) -> Value:
        """Index of the group's last selector that is not above `selector`, or of its first."""
        low, left = f.var(first), f.var(length)
        steps = max((len(g.selectors) - 1).bit_length() for g in self.tables.groups if g.selectors)
        if steps:
            with f.loop(steps, steps):
                half = f.shr(left.get(), 1)
                middle = f.to(self.selector_ids(f, f.add(low.get(), half)), I64)
                mask = f.to(at_most(f, middle, f.to(selector, I64)), I32)
                low.set(f.add(low.get(), f.and_(half, mask)))
                left.set(f.sub(left.get(), half))
        return low.get()

    def _fold_same(self, f: Function, peer: _Peer, group: Value, fold: Fold) -> None:
        """A `same` row counts if the two identity records have equal, non-zero values for each of its keys."""
        first = self._word(f, group, _SAME)
        done = f.b.append_basic_block("same_done")
        with f.if_(f.eq(first, _NO_SAME)):
            f.leave(done)
        records = [self._record(f, peer.flow.get(n)) for n in ("peer_slot", "subject_slot")]
        with f.if_(f.either(*(f.is_null(r) for r in records))):
            f.leave(done)
        for number, keys in enumerate(self.same_tuples):
            row = self.same_rows(f, f.add(first, number))
            equal = f.ne(row, 0)
            for key in keys:
                values = [f.load(r, I64, self.layout.same_offset + 8 * key) for r in records]
                equal = f.both(equal, f.ne(values[0], 0), f.eq(*values))
            with f.if_(equal):
                fold(self.rows.lookup(f, row, peer.key, peer.of_any_kind))
        f.leave(done)
        f.b.position_at_end(done)

    # --- the verdict ------------------------------------------------------------------------------------------

    def _match_policy(self) -> ir.Function:
        """match_policy(flow, direction, key): sets verdict, reason, rank and log (and the prospective ones) of the flow."""
        f = self.function("match_policy", ("flow", PTR), ("direction", I32), ("key", I32))
        pointer, direction, key = f.args
        with f.if_(f.is_null(pointer)):
            f.ret(0)
        verdict = _Verdict(f, Flow(f, pointer), self.variants, has_streams=self.tables.http is not None)
        record = self._record(f, verdict.flow.get("subject_slot"))
        with f.if_(f.is_null(record)):
            verdict.not_ready()
        if self.tables.groups:
            peer = _Peer(verdict.flow, key, self.classes, of_any_kind=False)
            undecided = f.b.append_basic_block("undecided")
            with f.if_(f.ne(f.shr(key, 24), int(KeyKind.FULL))):
                self._directions(f, direction, lambda d: self._fragment_tiers(f, verdict, record, peer, d))
                f.leave(undecided)
            self._directions(f, direction, lambda d: self._tiers(f, verdict, record, peer, d))
            f.leave(undecided)
            f.b.position_at_end(undecided)
        verdict.undecided(record)
        return f.close()

    def inline(self, f: Function, flow: Flow) -> None:
        """Emits what match_policy does into `f`, for the packet itself, which is no later fragment."""
        end = f.b.append_basic_block("matched")
        verdict = _Verdict(f, flow, self.variants, end)
        record = self._record(f, flow.get("subject_slot"))
        with f.if_(f.is_null(record)):
            verdict.not_ready()
        if self.tables.groups:
            undecided = f.b.append_basic_block("undecided")
            peer = _Peer(flow, flow.get("key"), self.classes, of_any_kind=False)
            direction = f.to(flow.get("direction"), I32)
            self._directions(f, direction, lambda d: self._tiers(f, verdict, record, peer, d))
            f.leave(undecided)
            f.b.position_at_end(undecided)
        verdict.undecided(record)
        f.leave(end)
        f.b.position_at_end(end)

    def _directions(self, f: Function, direction: Value, emit: Callable[[Direction], None]) -> None:
        used = {d for d, _ in self.lists}
        with f.if_else(f.eq(direction, int(Direction.INGRESS))) as branches:
            for branch, way in zip(branches, Direction, strict=True):
                with branch:
                    if way in used:
                        emit(way)

    def _tiers(self, f: Function, verdict: _Verdict, record: Value, peer: _Peer, direction: Direction) -> None:
        for tier in Tier:
            numbers = self.lists.get((direction, tier), [])
            if not numbers:
                continue
            with verdict.open_tier(tier) as after:
                count = f.load(record, I32, IDENTITY_GROUPS + 4 * self._list_number(direction, tier))
                with f.if_(f.eq(count, 0)):
                    f.leave(after)
                if len(numbers) == 1 and not self.tables.has_audit:  # twice as many best cells are for memory
                    bests = self._only_group(f, peer, numbers[0])
                    isolation: Value = _isolation(self.tables.groups[numbers[0]])
                else:
                    isolation = self._groups(f, peer, record, count, (direction, tier), fragments=False)
                    bests = [peer.flow.get(name) for name in BESTS[: len(self.variants)]]
                verdict.decide(bests, isolation, self._can_pass(direction, tier))

    def _can_pass(self, direction: Direction, tier: Tier) -> bool:
        return any(r.action is Action.PASS and r.direction is direction and r.tier is tier for r in self.tables.rules)

    @staticmethod
    def _list_number(direction: Direction, tier: Tier) -> int:
        return 3 * int(direction) + int(tier)

    def _groups(
        self, f: Function, peer: _Peer, record: Value, count: Value, of: tuple[Direction, Tier], fragments: bool
    ) -> Value:
        """Folds all groups of a list into the flow's best cells; what they isolate."""
        for name in (*BESTS, *(NAMED if fragments else ())):
            peer.flow.set(name, NONE)
        isolation = f.var(0, I32)
        base = self.layout.groups_offset + 4 * self.layout.max_groups * self._list_number(*of)
        with f.loop(count, self.layout.max_groups) as (i, _):
            group = f.load(record, I32, f.add(f.shl(f.to(i, I64), 2), base))
            isolation.set(f.or_(isolation.get(), self._word(f, group, _ISOLATION)))
            f.call(self.group, peer.flow.pointer, group, peer.key)
            if fragments:
                named = f.add(f.and_(peer.key, 0xFF0000), int(KeyKind.NAMED) << 24)
                f.call(self.group, peer.flow.pointer, group, named)
        return isolation.get()

    def _only_group(self, f: Function, peer: _Peer, number: int) -> list[Value]:
        """The best cells of a group that is known at compile time, for a FULL key."""
        group = self.tables.groups[number]
        parts: list[list[Value]] = []
        with f.line(group.span):
            if found := self._only_class_row(f, peer, group):
                parts.append(found)
            for use, words in zip(group.cidrs, self.layer_of[number], strict=True):
                parts.append(self._only_layer(f, peer, use, words))
            bests = parts[0] if parts else [I64(NONE) for _ in self.variants]
            for part in parts[1:]:
                bests = [self.rows.fold(f, a, b) for a, b in zip(bests, part, strict=True)]
            if group.selectors or group.same:
                bests = self._only_endpoint(f, peer, number, bests)
        return bests

    def _only_class_row(self, f: Function, peer: _Peer, group: Group) -> list[Value]:
        rows = (group.row_world, group.row_host, group.row_endpoint)
        if set(rows) == {0}:
            return []
        if len(set(rows)) == 1:
            return self._constant_row(f, peer, rows[0])
        if not self.constant_rows.issuperset(rows):
            return self.rows.lookup(f, self._by_class(f, peer, *rows), peer.key)
        bests = [f.var(NONE, I64) for _ in self.variants]
        codes = (PeerClassCode.WORLD, PeerClassCode.HOST, PeerClassCode.ENDPOINT)
        for row in sorted(set(rows) - {0}):
            classes = [peer.is_of(f, c) for c, r in zip(codes, rows, strict=True) if r == row]
            with f.if_(f.either(*classes)):
                for best, value in zip(bests, self._constant_row(f, peer, row), strict=True):
                    best.set(value)
        return [best.get() for best in bests]

    def _constant_row(self, f: Function, peer: _Peer, row: int) -> list[Value]:
        if row in self.constant_rows:
            return self.rows.inlined(f, row, peer.key)
        return self.rows.lookup(f, row, peer.key)

    def _only_layer(self, f: Function, peer: _Peer, use: GroupCidrs, words: Sequence[int]) -> list[Value]:
        leaf = self._leaf(f, peer.flow, I32(use.table), self.cidrs.tables4[use.table])
        if not self.cidrs.leaf_is_row[use.table]:
            rows: Value = words[_ANY]
            if words[_ANY] != words[_WORLD]:
                rows = f.select(peer.is_of(f, PeerClassCode.WORLD), I32(words[_WORLD]), I32(words[_ANY]))
            leaf = self.row_maps(f, f.add(leaf, rows))
        return self.rows.lookup(f, leaf, peer.key)

    def _only_endpoint(self, f: Function, peer: _Peer, number: int, bests: list[Value]) -> list[Value]:
        """With what the peer's labels select."""
        variables = [f.var(best) for best in bests]

        def fold(found: list[Value]) -> None:
            for best, value in zip(variables, found, strict=True):
                best.set(self.rows.fold(f, best.get(), value))

        group = self.tables.groups[number]
        with f.if_(peer.is_of(f, PeerClassCode.ENDPOINT)):
            if group.selectors:
                self._fold_selectors(f, peer, number, fold)
            if group.same:
                self._fold_same(f, peer, number, fold)
        return [best.get() for best in variables]

    # --- later fragments --------------------------------------------------------------------------------------

    def _fragment_tiers(self, f: Function, verdict: _Verdict, record: Value, peer: _Peer, direction: Direction) -> None:
        for tier in Tier:
            if (direction, tier) not in self.lists:
                continue
            with verdict.open_tier(tier):
                count = f.load(record, I32, IDENTITY_GROUPS + 4 * self._list_number(direction, tier))
                isolation = self._groups(f, peer, record, count, (direction, tier), fragments=True)
                bests, named = ([peer.flow.get(n) for n in names[: len(self.variants)]] for names in (BESTS, NAMED))
                verdict.decide(bests, isolation, True, named)


class _Verdict:
    """The outcome of a flow while tiers are asked one after the other. Where all variants are decided `end` follows; without
    it the function returns."""

    def __init__(
        self, f: Function, flow: Flow, variants: Sequence[str], end: ir.Block | None = None, has_streams: bool = False
    ) -> None:
        self.f, self.flow, self.variants, self.end, self.has_streams = f, flow, variants, end, has_streams
        self.decided: Var | None = f.var(0, I8) if len(variants) > 1 else None  # a bit a variant

    def outcome(self, prefix: str, verdict: Value, reason: Value, rank: Value = NO_RULE, log: Value = 0) -> None:
        """Sets a variant's outcome. Without audit the prospective outcome is the enforced one."""
        for p in (prefix,) if self.decided else ("", "audit_"):
            self.flow.set(f"{p}verdict", verdict)
            self.flow.set(f"{p}reason", int(reason) if isinstance(reason, Reason) else reason)
            self.flow.set(f"{p}rank", rank)
        if not prefix:
            self.flow.set("log", log)

    def _judges_requests(self, prefix: str, best: Value) -> None:
        for p in (prefix,) if self.decided else ("", "audit_"):
            self.flow.set(f"{p}stream", self.f.to(self.f.and_(self.f.shr(best, 1), 1), I8))

    def not_ready(self) -> None:
        for prefix in self.variants:
            self.outcome(prefix, 0, Reason.NOT_READY)
        self._finish()

    def _finish(self) -> None:
        if self.end is None:
            self.f.ret(0)
        else:
            self.f.leave(self.end)

    def open_tier(self, tier: Tier) -> _OpenTier:
        return _OpenTier(self, tier)

    def _settled(self, i: int) -> None:
        """Variant `i` has its outcome."""
        if self.decided is None:
            self._finish()
        else:
            self.decided.set(self.f.or_(self.decided.get(), 1 << i))

    def decide(self, bests: list[Value], isolation: Value, can_pass: bool, named: list[Value] | None = None) -> None:
        """What a tier's best cells, or else its isolation (constant or i32), decide, if anything. `named`: of a fragment, the best
        cells of rules that name a port."""
        f = self.f
        for i, prefix in enumerate(self.variants):
            end = f.b.append_basic_block("tier_decided")
            if self.decided:
                with f.if_(f.bits(self.decided.get(), 1 << i)):
                    f.leave(end)
            if named is not None:
                unknown = f.cmp("<=", f.shr(named[i], LEVEL_SHIFT), f.shr(bests[i], LEVEL_SHIFT))
                with f.if_(f.both(f.ne(named[i], NONE), unknown)):
                    self.outcome(prefix, 0, Reason.FRAGMENT)
                    self._leave(i, end)
            with f.if_(f.ne(bests[i], NONE)):
                self._by_rule(i, prefix, bests[i], can_pass, end)
            self._by_isolation(i, prefix, isolation, end)
            if not f.b.block.is_terminated:
                f.leave(end)
            f.b.position_at_end(end)

    def _leave(self, i: int, end: ir.Block) -> None:
        self._settled(i)
        if not self.f.b.block.is_terminated:
            self.f.leave(end)

    def _by_rule(self, i: int, prefix: str, best: Value, can_pass: bool, end: ir.Block) -> None:
        f = self.f
        action = f.and_(f.shr(best, ACTION_SHIFT), 3)
        if can_pass:
            with f.if_(f.eq(action, int(Action.PASS))):
                f.leave(end)
        rank = f.and_(f.to(f.shr(best, RANK_SHIFT), I32), (1 << RANK_BITS) - 1)
        if self.has_streams:
            self._judges_requests(prefix, best)
        # Without pass the action is 0 or 1: the verdict.
        self.outcome(prefix, f.to(f.and_(action, int(Action.ALLOW)), I8), Reason.RULE, rank, f.to(f.and_(best, 1), I8))
        self._leave(i, end)

    def _by_isolation(self, i: int, prefix: str, isolation: Value, end: ir.Block) -> None:
        f = self.f
        bit, log_bit = (ISOLATES_PROSPECTIVE, ISOLATION_LOG_PROSPECTIVE) if i else (ISOLATES, ISOLATION_LOG)
        if isinstance(isolation, int):
            if isolation & bit:
                self.outcome(prefix, 0, Reason.DEFAULT, NO_RULE, int(bool(isolation & log_bit)))
                self._leave(i, end)
            return
        with f.if_(f.bits(isolation, bit)):
            self.outcome(prefix, 0, Reason.DEFAULT, NO_RULE, f.to(f.bits(isolation, log_bit), I8))
            self._leave(i, end)

    def undecided(self, record: Value) -> None:
        """Allowed: `default` if some policy selects the subject."""
        f = self.f
        flags = f.load(record, I32, IDENTITY_FLAGS)
        for i, prefix in enumerate(self.variants):
            end = f.b.append_basic_block("decided")
            if self.decided:
                with f.if_(f.bits(self.decided.get(), 1 << i)):
                    f.leave(end)
            selected = IdentityFlag.SELECTED if i == 0 else IdentityFlag.SELECTED_AUDIT
            some = f.bits(flags, int(selected))
            self.outcome(prefix, 1, f.select(some, I8(Reason.DEFAULT), I8(Reason.NO_POLICY)))
            f.leave(end)
            f.b.position_at_end(end)


class _OpenTier:
    """`with`: emits a tier, skipped where all variants are decided; gives the block after it."""

    def __init__(self, verdict: _Verdict, tier: Tier) -> None:
        self.verdict, self.tier = verdict, tier

    def __enter__(self) -> ir.Block:
        f, decided = self.verdict.f, self.verdict.decided
        self.after = f.b.append_basic_block(f"after_{self.tier.word}")
        if decided is not None:
            with f.if_(f.eq(decided.get(), (1 << len(self.verdict.variants)) - 1)):
                f.leave(self.after)
        return self.after

    def __exit__(self, *_: object) -> None:
        f = self.verdict.f
        if not f.b.block.is_terminated:
            f.leave(self.after)
        f.b.position_at_end(self.after)
