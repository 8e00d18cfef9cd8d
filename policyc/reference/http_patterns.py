"""Strings, globs and regexes over bytes (semantics 4), matched by sets of positions. Slow and obvious; docs/regex.md has the dialect."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from policyc.model import Pattern

Place = Literal["path", "host", "value"]  # where a pattern stands; a value is a header's or a query key's


# --- what patterns mean -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class One:
    """One byte of these."""

    bytes: frozenset[int]


@dataclass(frozen=True)
class Chain:
    """All of these, one after the other; of none: nothing."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Choice:
    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Repeat:
    """`part` any number of times, also none."""

    part: Expression


Expression = One | Chain | Choice | Repeat

NOTHING = Chain(())
ALL_BYTES = frozenset(range(256))


def literal(data: bytes) -> Expression:
    return Chain(tuple(One(frozenset({b})) for b in data))


def chain(*parts: Expression) -> Expression:
    return Chain(parts)


def optional(part: Expression) -> Expression:
    return Choice((NOTHING, part))


def some(part: Expression) -> Expression:
    """At least once."""
    return Chain((part, Repeat(part)))


# --- globs ----------------------------------------------------------------------------------------------------------

_IN_SEGMENT = One(ALL_BYTES - frozenset(b"/;"))
_IN_LABEL = One(ALL_BYTES - frozenset(b"."))


def _piece(text: bytes, wild: One) -> Expression:
    """A segment or label: `*` alone is one or more bytes, inside it zero or more."""
    if text == b"*":
        return some(wild)
    parts: list[Expression] = []
    for number, part in enumerate(text.split(b"*")):
        if number:
            parts.append(Repeat(wild))
        parts.append(literal(part))
    return Chain(tuple(parts))


def path_glob(text: bytes) -> Expression:
    """`**` is any number of segments, each one or more bytes; a final one also matches without its slash, or with nothing behind it."""
    if text == b"*":
        return literal(text)  # the target of `OPTIONS *`
    first, *rest = text.split(b"/")
    any_segments = Repeat(chain(literal(b"/"), some(_IN_SEGMENT)))
    parts = [_piece(first, _IN_SEGMENT)]
    for number, segment in enumerate(rest, 1):
        if segment != b"**":
            parts.append(chain(literal(b"/"), _piece(segment, _IN_SEGMENT)))
            continue
        parts.append(any_segments)
        if number == len(rest):
            parts.append(optional(literal(b"/")))
    return Chain(tuple(parts))


def host_glob(text: bytes) -> Expression:
    """`**` is one or more labels, each one or more bytes."""
    label = some(_IN_LABEL)
    labels = chain(label, Repeat(chain(literal(b"."), label)))
    parts: list[Expression] = []
    for number, piece in enumerate(text.split(b".")):
        if number:
            parts.append(literal(b"."))
        parts.append(labels if piece == b"**" else _piece(piece, _IN_LABEL))
    return Chain(tuple(parts))


# --- regexes --------------------------------------------------------------------------------------------------------

_DIGITS = frozenset(b"0123456789")
_WORD = _DIGITS | frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_SPACE = frozenset(b" \t\n\r\f\v")
_CLASSES = {
    "d": _DIGITS, "w": _WORD, "s": _SPACE, "D": ALL_BYTES - _DIGITS, "W": ALL_BYTES - _WORD, "S": ALL_BYTES - _SPACE,
}  # fmt: skip
_CONTROLS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11}
_REPETITIONS: dict[str, Callable[[Expression], Expression]] = {"*": Repeat, "+": some, "?": optional}


class BadRegex(ValueError):
    """What is outside the dialect; the front end has refused it."""


class _Regex:
    """Recursive descent over the text. Raises BadRegex."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0

    def parse(self) -> Expression:
        whole = self._choice()
        if self.place < len(self.text):
            raise BadRegex(f"unexpected {self._peek()!r} at {self.place}")
        return whole

    def _peek(self) -> str:
        return self.text[self.place : self.place + 1]

    def _take(self) -> str:
        character = self._peek()
        if not character:
            raise BadRegex("the regex ends too early")
        self.place += 1
        return character

    def _accept(self, text: str) -> bool:
        if not self.text.startswith(text, self.place):
            return False
        self.place += len(text)
        return True

    def _choice(self) -> Expression:
        parts = [self._sequence()]
        while self._accept("|"):
            parts.append(self._sequence())
        return Choice(tuple(parts))

    def _sequence(self) -> Expression:
        parts = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated())
        return Chain(tuple(parts))

    def _repeated(self) -> Expression:
        part = self._atom()
        while self._peek() in ("*", "+", "?", "{"):
            sign = self._take()
            part = self._counted(part) if sign == "{" else _REPETITIONS[sign](part)
        return part

    def _counted(self, part: Expression) -> Expression:
        end = self.text.find("}", self.place)
        if end < 0:
            raise BadRegex("`{` without `}`")
        least, comma, most = self.text[self.place : end].partition(",")
        self.place = end + 1
        needed = Chain((part,) * self._number(least))
        if not comma:
            return needed
        if not most:
            return chain(needed, Repeat(part))
        return chain(needed, Chain((optional(part),) * (self._number(most) - self._number(least))))

    def _number(self, text: str, base: int = 10) -> int:
        try:
            return int(text, base)
        except ValueError:
            raise BadRegex(f"{text!r} is no number") from None

    def _atom(self) -> Expression:
        character = self._take()
        match character:
            case "(":
                self._accept("?:")
                inside = self._choice()
                if not self._accept(")"):
                    raise BadRegex("`(` without `)`")
                return inside
            case ".":
                return One(ALL_BYTES)
            case "[":
                return One(self._class())
            case "\\":
                return One(self._escape())
            case "*" | "+" | "?" | "{" | "^" | "$":
                raise BadRegex(f"{character!r} at {self.place - 1}")
        return literal(character.encode())

    def _escape(self) -> frozenset[int]:
        character = self._take()
        if character in _CLASSES:
            return _CLASSES[character]
        if character in _CONTROLS:
            return frozenset({_CONTROLS[character]})
        if character == "x":
            return frozenset({self._number(self._take() + self._take(), 16)})
        if character.isalnum() or not character.isascii():
            raise BadRegex(f"unknown escape \\{character}")
        return frozenset(character.encode())

    def _class(self) -> frozenset[int]:
        negated = self._accept("^")
        found: frozenset[int] = frozenset()
        first = True
        while first or self._peek() != "]":
            first = False
            low = self._member()
            if self._peek() == "-" and self.text[self.place + 1 : self.place + 2] != "]":
                self._take()
                low = frozenset(range(min(low), max(self._member()) + 1))
            found |= low
        self._take()
        return ALL_BYTES - found if negated else found

    def _member(self) -> frozenset[int]:
        character = self._take()
        if character == "\\":
            return self._escape()
        if not character.isascii():
            raise BadRegex("a class is of bytes")
        return frozenset(character.encode())


def regex(text: str) -> Expression:
    return _Regex(text).parse()


# --- matching -------------------------------------------------------------------------------------------------------


class Matcher:
    """An expression as numbered positions: each is read by one byte and leads on, or leads on by itself."""

    def __init__(self, expression: Expression) -> None:
        self._reads: dict[int, tuple[frozenset[int], int]] = {}
        self._leads: dict[int, list[int]] = {}
        self._count = 0
        self._start, self._end = self._new(), self._new()
        self._add(expression, self._start, self._end)

    def _new(self) -> int:
        self._count += 1
        return self._count

    def _add(self, expression: Expression, before: int, after: int) -> None:
        match expression:
            case One():
                read = self._new()
                self._leads.setdefault(before, []).append(read)
                self._reads[read] = (expression.bytes, after)
            case Chain():
                for part in expression.parts:
                    behind = self._new()
                    self._add(part, before, behind)
                    before = behind
                self._leads.setdefault(before, []).append(after)
            case Choice():
                for part in expression.parts:
                    self._add(part, before, after)
            case Repeat():
                middle = self._new()
                self._leads.setdefault(before, []).append(middle)
                self._leads.setdefault(middle, []).append(after)
                again = self._new()
                self._add(expression.part, middle, again)
                self._leads.setdefault(again, []).append(middle)

    def _closure(self, positions: Iterable[int]) -> set[int]:
        found = set(positions)
        waiting = list(found)
        while waiting:
            for position in self._leads.get(waiting.pop(), ()):
                if position not in found:
                    found.add(position)
                    waiting.append(position)
        return found

    def matches(self, data: bytes) -> bool:
        positions = self._closure({self._start})
        for byte in data:
            read = [self._reads[p] for p in positions if p in self._reads]
            positions = self._closure(after for wanted, after in read if byte in wanted)
            if not positions:
                return False
        return self._end in positions


@cache
def _matcher(kind: str, text: str, place: Place) -> Matcher:
    if kind == "regex":
        return Matcher(regex(text))
    data = text.lower().encode() if place == "host" else text.encode()
    if kind == "string" or place == "value":
        return Matcher(literal(data))
    return Matcher(path_glob(data) if place == "path" else host_glob(data))


def matches(pattern: Pattern, data: bytes, place: Place) -> bool:
    """Whether the whole of `data` matches: a path decoded, a host lower-cased and without port, a value trimmed or decoded."""
    return _matcher(pattern.kind, pattern.text, place).matches(data)
