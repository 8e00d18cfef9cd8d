"""The tables of HTTP rules (ir/http_tables.py) as read-only data. Records stand in arrays of u32, bases are indices into other arrays."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from policyc.artifact.stream_layout import MAX_STREAM_RULES
from policyc.codegen.rodata import Rodata
from policyc.codegen.rows import ACTION_SHIFT, LEVEL_SHIFT
from policyc.diagnostics import OperationError
from policyc.ir.http_tables import ACTION, Automaton, Component, HttpTables, NamedValues, Stop
from policyc.ir.tables import StreamRules, Tables

NUMBER_LIMIT = 1 << 16  # automata, L7 rules, classes: u16 in a stream's record


class AutomatonWord(IntEnum):
    NEXT = 0  # base in `next`
    WIDTH = 1
    OUTCOME = 2
    START = 3


class ComponentWord(IntEnum):
    """A component in `components`; 16 words."""

    WORDS = 0
    ENTRIES = 1
    PATH = 2
    HOST = 3
    METHODS = 4
    PATHS = 5
    HOSTS = 6
    FORMS = 7
    HEADERS = 8
    QUERY_KEY = 9
    QUERIES = 10


COMPONENT_WORDS = 16


class NamedWord(IntEnum):
    """What is asked of a name, in `named`; record 0 asks nothing."""

    AUTOMATON = 0
    MASKS = 1
    ALL_LOW = 2
    ALL_HIGH = 3


class EntryWord(IntEnum):
    """An entry in `entries`, u64."""

    WHO = 0  # rank of the rule | flags << 32 | index in the module's list << 40
    CONDITIONS = 1
    ABSENT = 2


ENTRY_WORDS = 4
ENTRY_DENY, ENTRY_UPGRADE, ENTRY_BODY, ENTRY_LOG = 1, 2, 4, 8
ENTRY_FLAGS_SHIFT, ENTRY_INDEX_SHIFT = 32, 40


class RuleWord(IntEnum):
    """A rule with a block in `rules`; 4 words."""

    COMPONENT = 0
    LIMIT = 1
    VECTORS = 2


SET_WORDS = 16  # of a set of rules: how many, rank + 1 of the first without a block, then their numbers
assert MAX_STREAM_RULES + 2 <= SET_WORDS


class HttpData:
    """`version`: number of the automaton that reads HTTP/1.x up to the line's end."""

    def __init__(self, rodata: Rodata, tables: Tables, http: HttpTables, sets: dict[StreamRules | None, int]) -> None:
        self.http = http
        self._vectors: list[int] = []
        self._vector_at: dict[tuple[tuple[int, ...], ...], int] = {}
        self._named: list[int] = [0, 0, 0, 0]
        self._masks: list[int] = []
        self._headers: list[int] = []
        self._forms: list[int] = []
        self._entries: list[int] = []
        self.number = {rule.rank: n for n, rule in enumerate(http.rules)}
        self._log = [rule.log for rule in tables.rules]
        automata = [*http.automata, version_automaton()]
        self.version = len(automata) - 1
        _check(len(automata), "automata")
        self._automata(rodata, automata)
        components = [word for c in http.components for word in self._component(c)]
        rules = [word for rule in http.rules for word in self._rule(rule.rank, rule.component, rule.limit)]
        _check(len(http.rules), "rules with L7 blocks")
        self.components = rodata.array("http_components", 4, components)
        self.rules = rodata.array("http_rules", 4, rules)
        self.vectors = rodata.array("http_vectors", 8, self._vectors)
        self.named = rodata.array("http_named", 4, self._named)
        self.masks = rodata.array("http_masks", 8, self._masks)
        self.headers = rodata.array("http_headers", 2, self._headers)
        self.forms = rodata.array("http_forms", 1, self._forms)
        self.entries = rodata.array("http_entries", 8, self._entries)
        self.sets = rodata.array("stream_sets", 4, self._sets(sets))
        self.levels = rodata.array(
            "rule_levels", 4, (r.level << LEVEL_SHIFT - ACTION_SHIFT | int(r.action) for r in tables.rules)
        )

    def _automata(self, rodata: Rodata, automata: Iterable[Automaton]) -> None:
        records: list[int] = []
        classes, next_ = bytearray(), list[int]()
        outcomes: list[int] = []
        for a in automata:
            records += [len(next_), a.width, len(outcomes), a.start]
            classes += a.classes + a.decoded
            next_ += a.next
            outcomes += a.outcome
        self.automata = rodata.array("http_automata", 4, records)
        self.classes = rodata.array("http_classes", 1, classes)
        self.next = rodata.array("http_next", 2, next_)
        self.outcomes = rodata.array("http_outcomes", 2, outcomes)

    def _component(self, c: Component) -> list[int]:
        entries = len(self._entries) // ENTRY_WORDS
        for e in c.entries:
            flags = (
                ENTRY_DENY * e.deny | ENTRY_UPGRADE * e.upgrade | ENTRY_BODY * e.body | ENTRY_LOG * self._log[e.rank]
            )
            who = e.rank | flags << ENTRY_FLAGS_SHIFT | e.index << ENTRY_INDEX_SHIFT
            self._entries += [who, e.conditions, e.absent, 0]
        forms, headers, queries = len(self._forms), len(self._headers), len(self._named) // 4
        self._forms += c.forms
        for named in c.queries:
            self._name(named)
        for asked in c.headers:
            self._headers.append(0 if asked is None else self._name(asked))
        record: dict[int, int] = {
            ComponentWord.WORDS: c.words,
            ComponentWord.ENTRIES: entries,
            ComponentWord.PATH: c.path,
            ComponentWord.HOST: c.host,
            ComponentWord.METHODS: self._vector(c.methods),
            ComponentWord.PATHS: self._vector(c.paths),
            ComponentWord.HOSTS: self._vector(c.hosts),
            ComponentWord.FORMS: forms,
            ComponentWord.HEADERS: headers,
            ComponentWord.QUERY_KEY: c.query_key,
            ComponentWord.QUERIES: queries,
        }
        for table, what in ((c.paths, "paths"), (c.hosts, "hosts")):
            _check(len(table), f"classes of {what}")
        return [record.get(w, 0) for w in range(COMPONENT_WORDS)]

    def _vector(self, rows: tuple[tuple[int, ...], ...]) -> int:
        at = self._vector_at.get(rows)
        if at is None:
            at = self._vector_at[rows] = len(self._vectors)
            for row in rows:
                self._vectors += row
        return at

    def _name(self, named: NamedValues) -> int:
        index = len(self._named) // 4
        self._named += [named.automaton, len(self._masks), named.all & 0xFFFFFFFF, named.all >> 32]
        self._masks += named.masks
        return index

    def _rule(self, rank: int, component: int, limit: int) -> list[int]:
        return [component, limit, self._vector((self.http.components[component].rules[rank],)), 0]

    def _sets(self, sets: dict[StreamRules | None, int]) -> list[int]:
        words: list[int] = []
        for rules in sets:  # in the order of their numbers
            chosen = [self.number[rank] for rank in rules.rules] if rules is not None else []
            plain = 0 if rules is None or rules.plain is None else rules.plain + 1
            kept = chosen[:MAX_STREAM_RULES]
            words += [len(chosen), plain, *kept, *[0] * (SET_WORDS - 2 - len(kept))]
        return words


def _check(number: int, what: str) -> None:
    if number > NUMBER_LIMIT:
        raise OperationError(
            f"the policy's L7 blocks make more than {NUMBER_LIMIT:,} {what}", "split the policy by subject"
        )


def version_automaton() -> Automaton:
    """Reads `HTTP/1.0` or `HTTP/1.1` and the line's end. Its outcome is the minor version + 1."""
    texts = ["HTTP/1.0\r\n", "HTTP/1.1\r\n"]
    alphabet = sorted(set("".join(texts)))
    classes = bytes(alphabet.index(chr(b)) + 1 if chr(b) in alphabet else 0 for b in range(256))
    width = len(alphabet) + 1
    shared = len("HTTP/1.")
    # States 0 to 7 have read so much of what both begin with; then for each version the state behind its digit and the one behind CR.
    states = shared + 1 + 4
    next_ = [ACTION | Stop.MALFORMED] * (states * width)

    def step(state: int, text: str, to: int) -> None:
        next_[state * width + alphabet.index(text) + 1] = to

    for i, letter in enumerate(texts[0][:shared]):
        step(i, letter, i + 1)
    outcome = [0] * states
    for minor in (0, 1):
        behind = shared + 1 + 2 * minor
        step(shared, str(minor), behind)
        step(behind, "\r", behind + 1)
        step(behind + 1, "\n", ACTION | Stop.END)
        outcome[behind + 1] = minor + 1
    return Automaton(classes, classes, width, tuple(next_), tuple(outcome))
