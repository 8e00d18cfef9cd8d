"""What both text forms of the IR are made of: lines of words, and the things that stand on them.

A line is words, numbers and strings (as in JSON) apart by blanks; the first word says what it is. Indentation is for
the eye. Empty lines and lines that begin with `#` are comments."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NoReturn, TypeVar

from policyc.ir.tables import Block, GroupSubject, Isolation, KeyKind, RankedRule, SelectedBy
from policyc.model import Action, Direction, Op, PeerClass, Requirement, Selector, Span, Tier

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[(),]|[^\s"(),]+')
_KEY = re.compile(r"(full|portless|named)/([0-9]+)/([0-9]+)")
_PLACE = re.compile(r"([0-9]+):([0-9]+)-([0-9]+):([0-9]+)")
_UNARY = {Op.EXISTS: "exists", Op.NOT_EXISTS: "lacks"}
_BINARY = {op: op.value.replace(" ", "-") for op in Op if op not in _UNARY}
_COMPARISONS = {word: op for op, word in _BINARY.items()}
_ISOLATION = ("enforced", "prospective", "log", "log_prospective")

Named = TypeVar("Named", bound=IntEnum)


class TextError(Exception):
    """A text is not IR; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


class Line:
    """The words of one line, taken from the left. Every method raises TextError where the line goes on differently."""

    def __init__(self, text: str, number: int) -> None:
        self.number = number
        self._tokens = _TOKEN.findall(text)
        if "".join(self._tokens) != "".join(_outside_strings(text)):
            self.fail("a string does not end")
        self._next = 0

    def fail(self, message: str) -> NoReturn:
        raise TextError(message, self.number)

    def peek(self) -> str | None:
        """The next word without taking it, None at the end."""
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def word(self) -> str:
        token = self.peek()
        if token is None:
            self.fail("ends too early")
        self._next += 1
        return str(token)

    def take(self, word: str) -> bool:
        """Whether the next word is `word`; takes it if so."""
        if self.peek() != word:
            return False
        self._next += 1
        return True

    def expect(self, word: str) -> None:
        found = self.word()
        if found != word:
            self.fail(f"{word!r} expected, not {found!r}")

    def end(self) -> None:
        if self._next != len(self._tokens):
            self.fail(f"{self.peek()!r} is too much")

    def integer(self) -> int:
        token = self.word()
        if not re.fullmatch(r"[0-9]+", token):
            self.fail(f"a number expected, not {token!r}")
        return int(token)

    def integers(self) -> tuple[int, ...]:
        """All numbers up to the next other word."""
        found = []
        while (token := self.peek()) is not None and token.isdecimal():
            found.append(self.integer())
        return tuple(found)

    def string(self) -> str:
        token = self.word()
        if not token.startswith('"'):
            self.fail(f"a string expected, not {token!r}")
        try:
            return str(json.loads(token))
        except ValueError as error:
            self.fail(f"{token} is not a string: {error}")

    def named(self, enum: type[Named]) -> Named:
        token = self.word()
        try:
            return enum[token.upper()]
        except KeyError:
            self.fail(f"{token!r} is no {enum.__name__.lower()}")

    def index(self, expected: int) -> None:
        """The number of a thing, which stands in order."""
        if (found := self.integer()) != expected:
            self.fail(f"number {expected} expected, not {found}")


def _outside_strings(text: str) -> Iterator[str]:
    """The pieces of a line without the blanks that stand between words."""
    position = 0
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"', text):
        yield "".join(text[position : match.start()].split())
        yield match.group()
        position = match.end()
    yield "".join(text[position:].split())


def lines(text: str) -> Iterator[Line]:
    # Not splitlines: only a newline ends a line, JSON escapes it inside strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield Line(line, number)


def quoted(text: str) -> str:
    return json.dumps(text)


# --- keys and addresses -------------------------------------------------------------------------------------


def print_key(key: int) -> str:
    return f"{KeyKind(key >> 24).name.lower()}/{key >> 16 & 0xFF}/{key & 0xFFFF}"


def parse_key(text: str, line: Line) -> int:
    found = _KEY.fullmatch(text)
    if not found or int(found[2]) > 0xFF or int(found[3]) > 0xFFFF:
        line.fail(f"a key (KIND/PROTOCOL/PORT) expected, not {text!r}")
    return KeyKind[found[1].upper()] << 24 | int(found[2]) << 16 | int(found[3])


def print_address(family: int, address: int) -> str:
    return str(ipaddress.IPv4Address(address) if family == 4 else ipaddress.IPv6Address(address))


def parse_address(family: int, line: Line) -> int:
    text = line.word()
    try:
        return int(ipaddress.IPv4Address(text) if family == 4 else ipaddress.IPv6Address(text))
    except ValueError:
        line.fail(f"an IPv{family} address expected, not {text!r}")


def print_starts(family: int, starts: Iterable[tuple[int, int]]) -> Iterator[str]:
    """`  v4 START CLASS` lines."""
    for start, number in starts:
        yield f"  v{family} {print_address(family, start)} {number}"


# --- selectors ------------------------------------------------------------------------------------------------


def print_selector(selector: Selector) -> str:
    return ", ".join(_print_requirement(r) for r in selector.requirements) or "everything"


def _print_requirement(requirement: Requirement) -> str:
    key, op = quoted(requirement.key), requirement.op
    if op in _UNARY:
        return f"{_UNARY[op]} {key}"
    if op in (Op.EQ, Op.NE):
        return f"{key} {_BINARY[op]} {quoted(requirement.values[0])}"
    return f"{key} {_BINARY[op]} ({', '.join(quoted(v) for v in requirement.values)})"


def parse_selector(line: Line) -> Selector:
    if line.take("everything"):
        return Selector()
    requirements = [_parse_requirement(line)]
    while line.take(","):
        requirements.append(_parse_requirement(line))
    return Selector(tuple(requirements))


def _parse_requirement(line: Line) -> Requirement:
    for op, word in _UNARY.items():
        if line.take(word):
            return Requirement(line.string(), op)
    key, word = line.string(), line.word()
    if word not in _COMPARISONS:
        line.fail(f"{word!r} is no comparison")
    op = _COMPARISONS[word]
    if op in (Op.EQ, Op.NE):
        return Requirement(key, op, (line.string(),))
    line.expect("(")
    values = [line.string()]
    while line.take(","):
        values.append(line.string())
    line.expect(")")
    return Requirement(key, op, tuple(values))


# --- spans, rules, subjects, isolation ------------------------------------------------------------------------


def print_span(span: Span) -> str:
    return f"at {quoted(span.file)} {span.line}:{span.column}-{span.end_line}:{span.end_column}"


def parse_span(line: Line) -> Span:
    line.expect("at")
    file, place = line.string(), line.word()
    found = _PLACE.fullmatch(place)
    if not found:
        line.fail(f"LINE:COLUMN-LINE:COLUMN expected, not {place!r}")
    return Span(file, int(found[1]), int(found[2]), int(found[3]), int(found[4]))


def print_rule(rank: int, rule: RankedRule) -> str:
    flags = " log" * rule.log + " audit" * rule.audit + (f" block-{rule.block.name.lower()}" if rule.block else "")
    return (
        f"rule {rank} {quoted(rule.ref)} {rule.direction.word} {rule.tier.word} {rule.priority} level {rule.level} "
        f"{rule.action.word}{flags} {print_span(rule.span)}"
    )


def parse_rule(line: Line) -> RankedRule:
    ref, direction, tier, priority = line.string(), line.named(Direction), line.named(Tier), line.integer()
    line.expect("level")
    level, action = line.integer(), line.named(Action)
    log, audit = line.take("log"), line.take("audit")
    block = next((b for b in Block if line.take(f"block-{b.name.lower()}")), None)
    return RankedRule(ref, direction, tier, priority, level, action, log, audit, parse_span(line), block)


def print_subject(subject: GroupSubject) -> str:
    return subject.value if isinstance(subject, PeerClass) else f"selector {subject}"


def parse_subject(line: Line) -> GroupSubject:
    if line.take("host"):
        return PeerClass.HOST
    line.expect("selector")
    return line.integer()


def print_isolation(isolation: Isolation) -> str:
    words = [name.replace("_", "-") for name in _ISOLATION if getattr(isolation, name)]
    return " ".join(["isolation", *(words or ["none"])])


def parse_isolation(line: Line) -> Isolation:
    line.expect("isolation")
    if line.take("none"):
        return Isolation()
    flags = {name: line.take(name.replace("_", "-")) for name in _ISOLATION}
    if not any(flags.values()):
        line.fail("what isolates expected, or `none`")
    return Isolation(**flags)


def print_selected(entry: SelectedBy) -> str:
    return f"selected {print_subject(entry.subject)}{' enforced' * entry.enforced}"


def parse_selected(line: Line) -> SelectedBy:
    return SelectedBy(parse_subject(line), line.take("enforced"))
