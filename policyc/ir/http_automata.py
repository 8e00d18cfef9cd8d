"""Patterns of HTTP rules → automata of `HttpTables`: reading × patterns → minimal tables, and who is to blame where they become too large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from policyc.diagnostics import OperationError
from policyc.ir.automata.dfa import Classify, Dfa, determinise
from policyc.ir.automata.expression import Expression, literal, loops
from policyc.ir.automata.globs import host_glob, path_glob
from policyc.ir.automata.limits import BudgetExceeded, Limits
from policyc.ir.automata.nfa import build_nfa
from policyc.ir.automata.regex import RegexError, parse_regex
from policyc.ir.http_guards import Reading
from policyc.ir.http_tables import Automaton
from policyc.ir.numbering import Numbering
from policyc.model import Pattern, Span

LIMITS = Limits()


@dataclass(frozen=True)
class Source:
    """A pattern of a policy with its expression and mark, for the tables and for what is said of it."""

    expression: Expression
    mark: int
    text: str
    span: Span


def path_expression(pattern: Pattern) -> Expression:
    return _regex(pattern) if pattern.kind == "regex" else path_glob(pattern.text)


def host_expression(pattern: Pattern) -> Expression:
    return _regex(pattern) if pattern.kind == "regex" else host_glob(pattern.text)


def value_expression(pattern: Pattern) -> Expression:
    """Of a header's or query's value: a string or a regex, where `*` is an ordinary byte."""
    return _regex(pattern) if pattern.kind == "regex" else literal(pattern.text.encode())


def _regex(pattern: Pattern) -> Expression:
    try:
        return parse_regex(pattern.text)
    except RegexError as error:
        raise OperationError(f'{pattern.span}: ~"{pattern.text}": {error.message}', help=error.help) from error


def automaton(reading: Reading, sources: Sequence[Source], marks: int, classify: Classify, what: str) -> Automaton:
    """The minimal automaton of patterns with marks below `marks`. `what`: the kind of patterns. Raises OperationError, which names the pattern that
    makes it too large."""

    def built(chosen: Sequence[Source], outcome: Classify) -> Dfa:
        nfa = build_nfa([(s.expression, s.mark) for s in chosen], marks, LIMITS)
        return determinise(nfa, reading.guard, outcome, LIMITS)

    try:
        dfa = built(sources, classify)
    except BudgetExceeded:
        culprit = _culprit(sources, lambda chosen: built(chosen, lambda tag, found: 1))
        raise OperationError(
            f'{culprit.span}: with the {what} pattern "{culprit.text}" the automaton of the rules that can meet there becomes too large '
            f"(more than {LIMITS.states:,} states, or too many steps to find them)",
            help="several `**` or repetitions in one pattern, beside others that match the same beginnings, multiply: begin the pattern with what "
            "tells it from the others, end it with `/**` instead of having `**` inside, or give the rules services or subjects that cannot meet",
        ) from None
    return _assembled(dfa, reading)


Outcome = tuple[int, frozenset[int]]  # a guard's tag and the marks of the patterns that match


class Automata:
    """The automata of a module, equal ones once."""

    def __init__(self) -> None:
        self._numbers = Numbering[Automaton]()

    def values(self) -> tuple[Automaton, ...]:
        return self._numbers.values()

    def add(self, new: Automaton) -> int:
        """The automaton's index."""
        return self._numbers(new)

    def classes(self, reading: Reading, sources: Sequence[Source], what: str) -> tuple[int, list[Outcome]]:
        """The automaton whose outcome is 0 where no pattern matches or the bytes are of no shape, else 1 + the index of what matches."""
        found: dict[Outcome, int] = {}
        marks = max((s.mark for s in sources), default=-1) + 1
        built = automaton(
            reading, sources, marks, lambda tag, m: found.setdefault((tag, m), len(found) + 1) if m else 0, what
        )
        return self.add(built), list(found)

    def fixed(self, reading: Reading, texts: Sequence[tuple[Expression, int]]) -> int:
        """The automaton of texts, which are numbered from 1; its outcome is a text's number, the least where several match, else 0."""
        nfa = build_nfa(
            [(expression, number - 1) for expression, number in texts], max((n for _, n in texts), default=0)
        )
        return self.add(
            _assembled(determinise(nfa, reading.guard, lambda _, found: min(found, default=-1) + 1), reading)
        )


def _culprit(sources: Sequence[Source], build: Callable[[Sequence[Source]], object]) -> Source:
    """The pattern with which the automaton becomes too large, if those with fewer repetitions are added first."""
    order = sorted(sources, key=lambda s: loops(s.expression))
    low, high = 0, len(order)  # so many are few enough, so many are too many
    step = 1  # growing: to try too many takes longest
    while high - low > 1:
        middle = min(low + step, (low + high) // 2)
        step *= 2
        try:
            build(order[:middle])
            low = middle
        except BudgetExceeded:
            high = middle
    return order[high - 1]


def _assembled(dfa: Dfa, reading: Reading) -> Automaton:
    """Columns of the automaton and of special bytes, equal ones once, in the order of the bytes that have them."""
    guard = reading.guard
    special = {b: k for k, mask in enumerate(guard.specials) for b in range(256) if mask >> b & 1}
    columns = list(zip(*dfa.rows, strict=True))
    actions = list(zip(*dfa.actions, strict=True))
    raw = [actions[special[b]] if b in special else columns[dfa.classes[reading.raw[b]]] for b in range(256)]
    decoded = [columns[dfa.classes[reading.decoded[b]]] for b in range(256)]
    numbers: dict[int, int] = {}
    distinct: dict[tuple[int, ...], int] = {}
    for column in (*raw, *decoded):
        if id(column) not in numbers:  # hashing a long column for each of 512 bytes would take longer than all else
            numbers[id(column)] = distinct.setdefault(column, len(distinct))
    return Automaton(
        classes=bytes(numbers[id(column)] for column in raw),
        decoded=bytes(numbers[id(column)] for column in decoded),
        width=len(distinct),
        next=tuple(chain.from_iterable(zip(*distinct, strict=True))),
        outcome=dfa.outcomes,
    )
