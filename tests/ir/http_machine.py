"""The tables of HTTP rules played by hand: one head, judged as a program over these tables judges it. Nothing here knows a pattern."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from policyc.ir.http_tables import (
    ACTION,
    FIXED_HEADERS,
    METHOD_CONNECT,
    METHOD_OPTIONS,
    METHOD_OTHER,
    METHOD_TRACE,
    Automaton,
    Component,
    HttpTables,
    NamedValues,
    Stop,
)

HOST, CONTENT_LENGTH, TRANSFER_ENCODING, _, UPGRADE, EXPECT = range(1, len(FIXED_HEADERS) + 1)
ABSOLUTE, AUTHORITY, ASTERISK = 2, 3, 1
BODYLESS = range(METHOD_OTHER + 1, METHOD_TRACE + 1)
HEX = b"0123456789abcdefABCDEF"


class Malformed(Exception):
    pass


@dataclass(frozen=True)
class Judged:
    """`rank` and `number`: of the entry, or of the rule without a block, that decided; None: nothing did."""

    verdict: str
    reason: str
    rank: int | None = None
    number: int | None = None


@dataclass
class HeadMachine:
    """`rules`: ranks of a connection's rules with blocks, of one component; `plain`: of those without."""

    tables: HttpTables
    rules: Iterable[int]
    plain: Iterable[int] = ()
    data: bytes = b""
    at: int = 0
    held: int = 0
    failed: int = 0
    lengths: list[int] = field(default_factory=list)
    chunked: bool = False
    upgrades: bool = False
    host: int = 0

    def judge(self, data: bytes) -> Judged:
        self.data, self.at = data, 0
        self.held = self.failed = self.host = 0
        self.lengths, self.chunked, self.upgrades = [], False, False
        try:
            return self._judge()
        except (Malformed, IndexError):
            return Judged("deny", "l7-malformed")

    @property
    def component(self) -> Component:
        rules = {r.rank: r.component for r in self.tables.rules}
        (component,) = {rules[rank] for rank in self.rules}
        return self.tables.components[component]

    def _judge(self) -> Judged:
        component = self.component
        live = [0] * component.words
        for rank in self.rules:
            live = [a | b for a, b in zip(live, component.rules[rank], strict=True)]
        stop, method = self.walk(self.tables.automata[self.tables.method], escapes=False)
        self.expect(stop is Stop.END)
        stop, path = self.walk(self.tables.automata[component.path], escapes=True)
        self.expect(path != 0)
        form = component.forms[path]
        named = any(a & b for a, b in zip(live, component.paths[path], strict=True))
        self.expect(form not in (ABSOLUTE, AUTHORITY) or named)
        self.expect((form == AUTHORITY) == (method == METHOD_CONNECT))
        self.expect(form != ASTERISK or method == METHOD_OPTIONS)
        if stop is Stop.QUERY:
            self.query(component)
        version = self.data[self.at : self.at + 10]
        self.expect(version in (b"HTTP/1.0\r\n", b"HTTP/1.1\r\n"))
        self.at += 10
        minor = version[7] - 0x30
        self.lines(component, minor)
        self.expect(minor == 0 or self.host != 0)
        self.expect(not (self.lengths and self.chunked))
        rows = (component.methods[method], component.paths[path], component.hosts[self.host], live)
        chosen = [a & b & c & d for a, b, c, d in zip(*rows, strict=True)]
        return self.decide(component, method, chosen)

    def decide(self, component: Component, method: int, chosen: list[int]) -> Judged:
        matching = [
            e for n, e in enumerate(component.entries)
            if chosen[n // 64] >> n % 64 & 1 and self.holds(e.conditions, e.absent, e.deny)
        ]  # fmt: skip
        if matching and matching[0].deny:
            return Judged("deny", "l7-entry", matching[0].rank, matching[0].number)
        plain = min(self.plain, default=None)
        if not matching and plain is None:
            return Judged("deny", "l7-no-entry")
        self.expect(not self.upgrades or any(e.upgrade for e in matching))
        body = self.chunked or any(self.lengths)
        self.expect(not body or method not in BODYLESS or any(e.body for e in matching))
        if not matching or (plain is not None and plain < matching[0].rank):
            return Judged("allow", "rule", plain)
        return Judged("allow", "l7-entry", matching[0].rank, matching[0].number)

    def holds(self, conditions: int, absent: int, deny: bool) -> bool:
        needed = conditions & ~absent
        if absent & self.failed or needed & ~self.held:
            return False
        return deny or not needed & self.failed

    def expect(self, sound: bool) -> None:
        if not sound:
            raise Malformed

    def note(self, named: NamedValues, outcome: int) -> None:
        mask = named.masks[outcome]
        self.held |= mask
        self.failed |= named.all & ~mask

    def walk(self, automaton: Automaton, *, escapes: bool) -> tuple[Stop, int]:
        """To the byte that ends it, which is taken. `escapes`: one that is none is malformed."""
        state = automaton.start
        while True:
            if state < len(automaton.runs) and self.data.startswith(automaton.runs[state][0], self.at):
                text, state = automaton.runs[state]
                self.at += len(text)
            byte = self.data[self.at]
            self.at += 1
            cell = automaton.next[state * automaton.width + automaton.classes[byte]]
            if cell == ACTION | Stop.ESCAPE:
                digits = self.data[self.at : self.at + 2]
                if len(digits) == 2 and all(d in HEX for d in digits):
                    byte = int(digits, 16)
                    self.at += 2
                else:
                    self.expect(not escapes)
                cell = automaton.next[state * automaton.width + automaton.decoded[byte]]
                assert cell < ACTION
            if cell < ACTION:
                state = cell
                continue
            stop = Stop(cell & ~ACTION)
            self.expect(stop is not Stop.MALFORMED)
            return stop, automaton.outcome[state]

    def query(self, component: Component) -> None:
        tables = self.tables
        while True:
            start = self.at
            stop, outcome = self.walk(tables.automata[component.query_key], escapes=False)
            empty = stop is not Stop.VALUE and self.at == start + 1
            named = component.queries[outcome - 1] if outcome and not empty else None
            reader = tables.automata[tables.skip_query if named is None else named.automaton]
            value = reader.outcome[reader.start]
            if stop is Stop.VALUE:
                stop, value = self.walk(reader, escapes=False)
            if named is not None:
                self.note(named, value)
            if stop is Stop.TARGET:
                return

    def lines(self, component: Component, minor: int) -> None:
        tables = self.tables
        while True:
            stop, number = self.walk(tables.automata[tables.name], escapes=False)
            if stop is Stop.EMPTY:
                break
            self.line(component, number, minor)
            self.expect(self.data[self.at] == 0x0A)
            self.at += 1
        self.expect(self.data[self.at] == 0x0A)
        self.at += 1

    def line(self, component: Component, number: int, minor: int) -> None:
        tables = self.tables
        start = self.at
        named = component.headers[number] if number else None
        _, outcome = self.walk(tables.automata[tables.skip_value if named is None else named.automaton], escapes=False)
        if named is not None:
            self.note(named, outcome)
        text = self.data[start : self.at - 1].strip(b" \t")
        if number == HOST:
            self.at = start
            self.expect(self.host == 0)
            _, self.host = self.walk(tables.automata[component.host], escapes=False)
        elif number == CONTENT_LENGTH:
            self.expect(not self.lengths and text.isdigit() and len(text) <= 19 and int(text) < 1 << 63)
            self.lengths.append(int(text))
        elif number == TRANSFER_ENCODING:
            self.at = start
            _, chunked = self.walk(tables.automata[tables.chunked], escapes=False)
            self.expect(chunked == 1 and not self.chunked and minor == 1)
            self.chunked = True
        elif number == UPGRADE:
            self.upgrades = True
