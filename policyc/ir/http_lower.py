"""PolicySet → HTTP tables (`policyc.ir.http_tables`, where what they mean is said)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from policyc.ir.automata.dfa import Marks
from policyc.ir.automata.expression import Bytes, Concat, Expression, byte_set, literal
from policyc.ir.http_automata import Automata, Source, automaton, host_expression, path_expression
from policyc.ir.http_components import components
from policyc.ir.http_conditions import Conditions, alike
from policyc.ir.http_guards import (
    ASTERISK,
    METHOD,
    NAME,
    ORIGIN,
    QUERY_KEY,
    QUERY_VALUE,
    host_reading,
    path_reading,
    value_reading,
)
from policyc.ir.http_runs import with_runs
from policyc.ir.http_tables import (
    FIXED_HEADERS,
    FIXED_METHODS,
    WORD_BITS,
    Component,
    HttpEntryRecord,
    HttpRule,
    HttpTables,
    NamedValues,
)
from policyc.ir.numbering import Numbering
from policyc.model import Action, HttpBlock, HttpEntry, Pattern, PolicySet, Rule

Entries = int  # a set of a component's entries: bit E for entry E
ANY_METHOD = "*"
UNLIKELY_PATH = b"/~~~~~~~~"
NO_PATH: tuple[Entries, int] = (0, -1)  # what is malformed: the first class of paths


def lower_http(policy_set: PolicySet, ranks: Mapping[int, int]) -> HttpTables | None:
    """The tables of all rules with a block; None where there is none. `ranks` maps a rule's source order to its rank. Raises OperationError where a
    component has too many conditions or an automaton would be too large."""
    rules = [rule for rule in policy_set.rules if rule.http is not None]
    if not rules:
        return None
    return _Lowering(policy_set, rules, ranks).run()


def _block(rule: Rule) -> HttpBlock:
    assert rule.http is not None
    return rule.http


class _Lowering:
    """`rules`: those with a block, in source order."""

    def __init__(self, policy_set: PolicySet, rules: Sequence[Rule], ranks: Mapping[int, int]) -> None:
        self.policy_set, self.rules, self.ranks = policy_set, rules, ranks
        self.automata = Automata()
        self.first_entries: dict[int, int] = {}  # by rank
        self.entries: list[tuple[int, int]] = []
        for rule in rules:
            rank = ranks[rule.order]
            self.first_entries[rank] = len(self.entries)
            self.entries += ((rank, entry.number) for entry in _block(rule).entries)
        self.methods = _numbered(FIXED_METHODS, (m for e in self._all_entries() for m in e.methods if m != ANY_METHOD))
        names = (c.name for e in self._all_entries() for c in e.conditions if c.kind == "header")
        self.headers = _numbered(FIXED_HEADERS, names)

    def _all_entries(self) -> Iterable[HttpEntry]:
        return (entry for rule in self.rules for entry in _block(rule).entries)

    def run(self) -> HttpTables:
        fixed = self.automata.fixed
        method = fixed(METHOD, [(literal(m.encode()), n) for n, m in enumerate(self.methods) if n])
        name = fixed(NAME, self._names())
        self.skip_value = fixed(value_reading(fold=False), [])
        self.skip_query_key = fixed(QUERY_KEY, [])
        self.skip_query = fixed(QUERY_VALUE, [])
        chunked = fixed(value_reading(fold=True), [(literal(b"chunked"), 1)])
        expect = fixed(value_reading(fold=True), [(literal(b"100-continue"), 1)])
        made = [
            self._component(rules)
            for rules in components(self.policy_set, sorted(self.rules, key=lambda r: self.ranks[r.order]))
        ]
        records = [
            HttpRule(rank, index, block.limit, self.first_entries[rank])
            for index, component in enumerate(made)
            for rank, block in component[1]
        ]
        return HttpTables(
            automata=self.automata.values(),
            method=method,
            name=name,
            skip_value=self.skip_value,
            skip_query_key=self.skip_query_key,
            skip_query=self.skip_query,
            chunked=chunked,
            expect=expect,
            methods=tuple(self.methods),
            headers=tuple(self.headers),
            components=tuple(component for component, _ in made),
            rules=tuple(sorted(records, key=lambda r: r.rank)),
            entries=tuple(self.entries),
        )

    def _names(self) -> list[tuple[Expression, int]]:
        """Header names by number, then what differs from those that must be absent only in `_` for `-`."""
        absent = {alike(c.name) for e in self._all_entries() for c in e.conditions if c.kind == "header" and c.absent}
        count = len(self.headers)
        names = [(literal(name.encode()), n) for n, name in enumerate(self.headers) if n]
        variants = [(_variants(name), count + n) for n, name in enumerate(self.headers) if n and alike(name) in absent]
        return [*names, *variants]

    def _component(self, rules: Sequence[Rule]) -> tuple[Component, list[tuple[int, HttpBlock]]]:
        """The component of rules in the order of their ranks; and their ranks and blocks."""
        placed = [(self.ranks[rule.order], _block(rule)) for rule in rules]
        deciding = [(rank, entry) for rank, block in placed for entry in block.entries]
        deciding.sort(key=lambda p: (p[1].action is not Action.DENY, p[0], p[1].number))
        entries = [entry for _, entry in deciding]
        conditions = Conditions()
        records = [self._record(rank, entry, conditions) for rank, entry in deciding]
        words = max(1, -(-len(entries) // WORD_BITS))

        def split(chosen: Entries) -> tuple[int, ...]:
            return tuple(chosen >> WORD_BITS * w & 2**WORD_BITS - 1 for w in range(words))

        path, paths, forms = self._paths(entries)
        host, hosts = self._hosts(entries)
        queries = conditions.names("query")
        component = Component(
            words=words,
            entries=tuple(records),
            path=path,
            host=host,
            methods=tuple(split(self._accepting(entries, m)) for m in self.methods),
            paths=tuple(map(split, paths)),
            forms=tuple(forms),
            hosts=tuple(map(split, hosts)),
            headers=self._headers_of(conditions),
            query_key=self._query_key(conditions) if queries else self.skip_query_key,
            queries=self._queries_of(conditions),
            rules={rank: split(_entries(n for n, r in enumerate(records) if r.rank == rank)) for rank, _ in placed},
        )
        return component, placed

    def _record(self, rank: int, entry: HttpEntry, conditions: Conditions) -> HttpEntryRecord:
        wanted, absent = conditions.of_entry(entry)
        return HttpEntryRecord(
            rank=rank,
            number=entry.number,
            index=self.first_entries[rank] + entry.number - 1,
            deny=entry.action is Action.DENY,
            conditions=wanted,
            absent=absent,
            upgrade=entry.upgrade is not None,
            body=entry.body,
        )

    def _accepting(self, entries: Sequence[HttpEntry], method: str) -> Entries:
        return _entries(
            n
            for n, e in enumerate(entries)
            if not e.methods or ANY_METHOD in e.methods or (method and method in e.methods)
        )

    def _paths(self, entries: Sequence[HttpEntry]) -> tuple[int, list[Entries], list[int]]:
        """The automaton's index; by class of path, entries and form. An absolute or authority form that nobody names is a class of its own: that it
        is malformed is said at the head's end, as of one that only other connections' entries name."""
        sources, sets = _sources(entries, lambda e: e.paths, path_expression)
        any_path = _entries(n for n, e in enumerate(entries) if not e.paths)
        found: dict[tuple[Entries, int], int] = {NO_PATH: 0}

        def classify(form: int, marks: Marks) -> int:
            chosen = _union(sets, marks)
            if form in (ORIGIN, ASTERISK):
                chosen |= any_path
            return found.setdefault((chosen, form), len(found))

        built = automaton(path_reading(), sources, len(sets), classify, "path")
        index = self.automata.add(with_runs(built, UNLIKELY_PATH))
        return index, [chosen for chosen, _ in found], [max(form, ORIGIN) for _, form in found]

    def _hosts(self, entries: Sequence[HttpEntry]) -> tuple[int, list[Entries]]:
        """The automaton's index; by class of host the entries. The first class is that of no Host line."""
        sources, sets = _sources(entries, lambda e: e.hosts, host_expression)
        any_host = _entries(n for n, e in enumerate(entries) if not e.hosts)
        found: dict[Entries, int] = {}

        def classify(_: int, marks: Marks) -> int:
            return found.setdefault(_union(sets, marks) | any_host, len(found) + 1)

        index = self.automata.add(automaton(host_reading(), sources, len(sets), classify, "host"))
        return index, [any_host, *found]

    def _headers_of(self, conditions: Conditions) -> tuple[NamedValues | None, ...]:
        asked = set(conditions.names("header"))
        own = [
            conditions.named("header", name, self.automata, self.skip_value)
            if name in asked
            else conditions.variant("header", name, self.skip_value)
            for name in self.headers
        ]
        return (*own, *(conditions.variant("header", name, self.skip_value) for name in self.headers))

    def _queries_of(self, conditions: Conditions) -> tuple[NamedValues, ...]:
        names = conditions.names("query")
        own = [conditions.named("query", name, self.automata, self.skip_query) for name in names]
        variants = [conditions.variant("query", name, self.skip_query) for name in names]
        return (*own, *(v for v in variants if v is not None))

    def _query_key(self, conditions: Conditions) -> int:
        names = conditions.names("query")
        variants = [name for name in names if conditions.variant("query", name, 0) is not None]
        texts = [literal(name.encode()) for name in names] + [_variants(name) for name in variants]
        return self.automata.fixed(QUERY_KEY, [(text, number) for number, text in enumerate(texts, start=1)])


def _numbered(fixed: Sequence[str], others: Iterable[str]) -> list[str]:
    """Names by number: "" for all others, then `fixed`, then `others` in order."""
    return list(dict.fromkeys(("", *fixed, *others)))


def _variants(name: str) -> Expression:
    """What differs from a name only in `_` for `-` or the other way round; the name, too."""
    either = Bytes(byte_set(b"-_"))
    return Concat(tuple(either if c in "-_" else literal(c.encode()) for c in name))


def _entries(numbers: Iterable[int]) -> Entries:
    return sum(1 << n for n in numbers)


def _union(sets: Sequence[Entries], marks: Iterable[int]) -> Entries:
    chosen = 0
    for mark in marks:
        chosen |= sets[mark]
    return chosen


def _sources(
    entries: Sequence[HttpEntry],
    patterns_of: Callable[[HttpEntry], Sequence[Pattern]],
    expression_of: Callable[[Pattern], Expression],
) -> tuple[list[Source], list[Entries]]:
    """The patterns of all entries, equal ones once, marked by the set of entries that have them; and these sets."""
    having: dict[tuple[str, str], Entries] = {}
    first: dict[tuple[str, str], Pattern] = {}
    for number, entry in enumerate(entries):
        for pattern in patterns_of(entry):
            key = (pattern.kind, pattern.text)
            first.setdefault(key, pattern)
            having[key] = having.get(key, 0) | 1 << number
    marks = Numbering[Entries]()
    sources = [Source(expression_of(p), marks(having[key]), p.text, p.span) for key, p in first.items()]
    return sources, list(marks.values())
