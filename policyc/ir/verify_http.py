"""The verifier of HTTP tables: what `policyc.ir.http_tables` says of them, and where it is not so. A failure is a bug of the lowering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from policyc.ir.http_tables import (
    ACTION,
    FIXED_HEADERS,
    FIXED_METHODS,
    MAX_CONDITIONS,
    RUN_BYTES,
    WORD_BITS,
    Automaton,
    Component,
    HttpTables,
    NamedValues,
    Stop,
)
from policyc.ir.tables import RankedRule
from policyc.ir.verify import VerifyError
from policyc.model import Action

FORMS = range(4)
ACTIONS = frozenset(ACTION | stop for stop in Stop)


def verify_http(tables: HttpTables, rules: Sequence[RankedRule] | None = None) -> None:
    """Raises VerifyError unless `tables` keep their conventions; `rules`: the module's, by rank."""
    _HttpVerifier(tables, rules).run()


def _check(place: str, holds: bool, message: str) -> None:
    if not holds:
        raise VerifyError(f"{place}: {message}")


def verify_automaton(place: str, automaton: Automaton) -> None:
    states, width = len(automaton.outcome), automaton.width
    _check(place, 0 < states <= ACTION, f"has {states} states")
    _check(place, 0 <= automaton.start < states, f"begins in state {automaton.start} of {states}")
    _check(place, len(automaton.classes) == len(automaton.decoded) == 256, "has not a class for each byte")
    _check(place, max(automaton.classes + automaton.decoded) < width, f"has a class that is not below {width}")
    _check(place, len(automaton.next) == states * width, "has not a cell for each state and class")
    wrong = [cell for cell in set(automaton.next) - ACTIONS if not 0 <= cell < states]
    _check(place, not wrong, f"has cells that are neither states nor actions: {sorted(wrong)}")
    columns = {c: automaton.next[c::width] for c in range(width)}
    _check(place, len(set(columns.values())) == width, "has two classes that are one")
    _check(place, set(automaton.classes + automaton.decoded) == set(columns), "has a class without a byte")
    acting = [c for c in set(automaton.decoded) if not ACTIONS.isdisjoint(columns[c])]
    _check(place, not acting, f"has actions on bytes of escapes: {acting}")
    _check(place, len(automaton.runs) <= states, "has runs of states that do not exist")
    for state, (text, target) in enumerate(automaton.runs):
        at = state
        for byte in text:
            at = automaton.next[at * width + automaton.classes[byte]] if at < ACTION else at
        _check(place, 0 < len(text) <= RUN_BYTES and at == target, f"has a run from state {state} that leads elsewhere")


class _HttpVerifier:
    def __init__(self, tables: HttpTables, rules: Sequence[RankedRule] | None) -> None:
        self.tables, self.ranked = tables, rules

    def run(self) -> None:
        tables = self.tables
        for index, automaton in enumerate(tables.automata):
            verify_automaton(f"automaton {index}", automaton)
        _check("automata", len(set(tables.automata)) == len(tables.automata), "some are equal")
        self.names("methods", tables.methods, FIXED_METHODS)
        self.names("headers", tables.headers, FIXED_HEADERS)
        self.outcomes("method", tables.method, len(tables.methods))
        self.outcomes("name", tables.name, 2 * len(tables.headers))
        for what in ("skip_value", "skip_query_key", "skip_query"):
            self.outcomes(what, getattr(tables, what), 1)
        for what in ("chunked", "expect"):
            self.outcomes(what, getattr(tables, what), 2)
        for index, component in enumerate(tables.components):
            self.component(f"component {index}", component)
        self.rules()

    def names(self, place: str, names: Sequence[str], fixed: Sequence[str]) -> None:
        _check(place, tuple(names[: len(fixed) + 1]) == ("", *fixed), "do not begin with the fixed ones")
        _check(place, len(set(names)) == len(names), "some are equal")

    def outcomes(self, place: str, automaton: int, count: int) -> None:
        _check(place, 0 <= automaton < len(self.tables.automata), f"automaton {automaton} does not exist")
        most = max(self.tables.automata[automaton].outcome)
        _check(place, most < count, f"automaton {automaton} has outcome {most}, of {count}")

    def rules(self) -> None:
        tables = self.tables
        ranks = [rule.rank for rule in tables.rules]
        _check("rules", all(a < b for a, b in pairwise(ranks)), "are not in the order of their ranks")
        having = sorted(rank for component in tables.components for rank in component.rules)
        _check("rules", having == ranks, "are not those of the components, each in one")
        _check("entries", len(set(tables.entries)) == len(tables.entries), "some are equal")
        expected = 0
        counts = Counter(rank for rank, _ in tables.entries)  # a rule without entries begins where the next does
        for rule in sorted(tables.rules, key=lambda r: (r.first_entry, counts[r.rank])):
            place = f"rule {rule.rank}"
            _check(place, rule.rank in tables.components[rule.component].rules, "is not in its component")
            own = [e.number for e in tables.components[rule.component].entries if e.rank == rule.rank]
            _check(place, rule.first_entry == expected, f"begins at entry {rule.first_entry}, not {expected}")
            expected += len(own)
            named = tables.entries[rule.first_entry : expected]
            _check(
                place,
                named == tuple((rule.rank, n + 1) for n in range(len(own))),
                "its entries do not follow its first",
            )
        _check("entries", expected == len(tables.entries), "some are of no rule")
        if self.ranked is not None:
            wrong = [r for r in ranks if r >= len(self.ranked) or self.ranked[r].action is not Action.ALLOW]
            _check("rules", not wrong, f"have a block and are no allow rules: {wrong}")

    def component(self, place: str, component: Component) -> None:
        entries, words = component.entries, component.words
        _check(place, words == max(1, -(-len(entries) // WORD_BITS)), f"has {words} words for {len(entries)} entries")
        order = [(not e.deny, e.rank, e.number) for e in entries]
        _check(place, all(a < b for a, b in pairwise(order)), "its entries are not in the order in which they decide")
        everything = (1 << len(entries)) - 1
        for what in ("methods", "paths", "hosts"):
            for number, row in enumerate(getattr(component, what)):
                self.words(f"{place} {what} {number}", row, words, everything)
        for rank, row in component.rules.items():
            own = sum(1 << n for n, e in enumerate(entries) if e.rank == rank)
            _check(
                f"{place} rule {rank}",
                self.words(place, row, words, everything) == own,
                "its words are not its entries",
            )
        _check(place, len(component.methods) == len(self.tables.methods), "has not a row for each method")
        _check(place, len(component.forms) == len(component.paths), "has not a form for each class of paths")
        _check(place, all(form in FORMS for form in component.forms), "has a form that there is not")
        _check(place, not any(component.paths[0]), "has entries for malformed paths")
        self.outcomes(f"{place} path", component.path, len(component.paths))
        self.outcomes(f"{place} host", component.host, len(component.hosts))
        self.outcomes(f"{place} query key", component.query_key, len(component.queries) + 1)
        _check(place, len(component.headers) == 2 * len(self.tables.headers), "has not two places for each header")
        self.conditions(place, component)
        for e in entries:
            at = f"{place} entry {e.rank}.{e.number}"
            _check(at, self.tables.entries[e.index : e.index + 1] == ((e.rank, e.number),), f"is not entry {e.index}")

    def words(self, place: str, row: Sequence[int], words: int, everything: int) -> int:
        _check(place, len(row) == words, f"has {len(row)} words, not {words}")
        _check(place, all(0 <= word < 1 << WORD_BITS for word in row), "has a word of more bits")
        chosen = sum(word << WORD_BITS * n for n, word in enumerate(row))
        _check(place, chosen & ~everything == 0, "has entries that do not exist")
        return chosen

    def conditions(self, place: str, component: Component) -> None:
        asked = 0
        for named in (*component.headers, *component.queries):
            if named is not None:
                self.named(f'{place} "{named.name}"', named)
                asked |= named.all
        for e in component.entries:
            at = f"{place} entry {e.rank}.{e.number}"
            _check(at, e.conditions & ~asked == 0, "has conditions that nothing asks for")
            _check(at, e.absent & ~e.conditions == 0, "wants absence of what it does not ask for")

    def named(self, place: str, named: NamedValues) -> None:
        _check(place, 0 < named.all < 1 << MAX_CONDITIONS, "asks for nothing, or too much")
        _check(place, all(mask & ~named.all == 0 for mask in named.masks), "has masks with conditions of another name")
        self.outcomes(place, named.automaton, len(named.masks))
