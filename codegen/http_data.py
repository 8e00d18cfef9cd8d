"""The tables of HTTP rules (ir/http_tables.py) as read-only data. Records stand in arrays of u32, bases are indices into other arrays."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from policyc.artifact.stream_layout import MAX_STREAM_RULES
from policyc.codegen.function import I8, I32, Function, Value
from policyc.codegen.rodata import Rodata
from policyc.codegen.rows import ACTION_SHIFT, LEVEL_SHIFT
from policyc.diagnostics import OperationError
from policyc.ir.http_tables import ACTION, RUN_BYTES, Automaton, Component, HttpTables, NamedValues, Stop
from policyc.ir.tables import StreamRules, Tables

NAME_LENGTHS = 32  # names that are at least so long are looked up as those one shorter
HOST, LENGTH, ENCODING, UPGRADE, EXPECT = FRAMING_HEADERS = 1, 2, 3, 5, 6  # of http_tables.FIXED_HEADERS
NUMBER_LIMIT = 1 << 16  # automata, L7 rules, classes: u16 in a stream's record


class AutomatonWord(IntEnum):
    NEXT = 0  # base in `next`
    WIDTH = 1
    OUTCOME = 2
    START = 3
    RUNS = 4  # how many states have one
    RUN = 5  # base in `runs`


AUTOMATON_WORDS = 8


class RunWord(IntEnum):
    """A run in `runs`, u64."""

    TEXT = 0
    TARGET = 1  # state | bits of the last word that are beyond the text << RUN_BEYOND_SHIFT


RUN_WORDS, RUN_BEYOND_SHIFT = 2, 16


class ComponentWord(IntEnum):
    """A component in `components`; 16 words."""

    WORDS = 0
    ENTRIES = 1
    PATH = 2
    HOST = 3
    METHODS = 4
    PATHS = 5
    HOSTS = 6
    CLASSES = 7  # of paths, in `http_paths`
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


FIRST_WORD_SHIFT = 8  # of a class of paths: its form, and above that the first word that has entries
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
        self._paths: list[int] = []
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
        self.paths = rodata.array("http_paths", 4, self._paths)
        self.entries = rodata.array("http_entries", 8, self._entries)
        self.names = rodata.array("http_names", 4, self._names_that_matter())
        self.sets = rodata.array("stream_sets", 4, self._sets(sets))
        self.levels = rodata.array(
            "rule_levels", 4, (r.level << LEVEL_SHIFT - ACTION_SHIFT | int(r.action) for r in tables.rules)
        )

    def automaton(self, f: Function, number: Value, word: AutomatonWord) -> Value:
        return self.records(f, number, AUTOMATON_WORDS, word)

    def path(self, f: Function, component: Value, class_: Value) -> Value:
        """What is known of a class (i16) of paths: form | first word << FIRST_WORD_SHIFT, an i32."""
        first = self.components(f, component, COMPONENT_WORDS, ComponentWord.CLASSES)
        return self.paths(f, f.add(first, f.to(class_, I32)))

    def form(self, f: Function, component: Value, class_: Value) -> Value:
        """The form (i8) of targets of a class (i16) of paths."""
        return f.to(self.path(f, component, class_), I8)

    def _automata(self, rodata: Rodata, automata: Iterable[Automaton]) -> None:
        records: list[int] = []
        classes, next_ = bytearray(), list[int]()
        runs = [0] * RUN_WORDS  # so that there is one
        outcomes: list[int] = []
        for a in automata:
            record: dict[int, int] = {
                AutomatonWord.NEXT: len(next_),
                AutomatonWord.WIDTH: a.width,
                AutomatonWord.OUTCOME: len(outcomes),
                AutomatonWord.START: a.start,
                AutomatonWord.RUNS: len(a.runs),
                AutomatonWord.RUN: len(runs) // RUN_WORDS,
            }
            records += [record.get(w, 0) for w in range(AUTOMATON_WORDS)]
            for text, target in a.runs:
                runs += [int.from_bytes(text, "little"), target | 8 * (RUN_BYTES - len(text)) << RUN_BEYOND_SHIFT]
            classes += a.classes + a.decoded
            next_ += a.next
            outcomes += a.outcome
        self.records = rodata.array("http_automata", 4, records)
        self.runs = rodata.array("http_runs", 8, runs)
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
        classes, headers, queries = len(self._paths), len(self._headers), len(self._named) // 4
        for form, words in zip(c.forms, c.paths, strict=True):
            self._paths.append(form | next((n for n, word in enumerate(words) if word), c.words) << FIRST_WORD_SHIFT)
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
            ComponentWord.CLASSES: classes,
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

    def _names_that_matter(self) -> list[int]:
        """By the low five bits of a name's first letter: bit N is set where a name of N letters is one of framing, or asked for."""
        http = self.http
        count = len(http.headers)
        texts = [(http.headers[n], False) for n in FRAMING_HEADERS]
        for n in range(1, 2 * count):
            if n % count and any(c.headers[n] is not None for c in http.components):
                texts.append((http.headers[n % count], n > count))
        lengths = [0] * NAME_LENGTHS
        for name, has_variants in texts:
            first = ord(name[0])
            for letter in b"-_" if has_variants and first in b"-_" else (first,):
                lengths[letter % NAME_LENGTHS] |= 1 << min(len(name), NAME_LENGTHS - 1)
        return lengths

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
