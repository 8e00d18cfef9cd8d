"""Regular expressions over bytes: what globs and regexes are read into. A set of bytes is an integer of 256 bits, bit B for byte B."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

ANY_BYTE = (1 << 256) - 1


@dataclass(frozen=True)
class Bytes:
    """One byte out of a set."""

    mask: int


@dataclass(frozen=True)
class Concat:
    """Its parts one after the other; none: the empty string."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Alternation:
    """One of its parts; none: nothing matches."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Repeat:
    """`least` to `most` times; None: without end."""

    part: Expression
    least: int
    most: int | None


Expression = Bytes | Concat | Alternation | Repeat
EMPTY = Concat(())
NOTHING = Alternation(())


def byte_set(values: Iterable[int]) -> int:
    """The set of these bytes."""
    mask = 0
    for value in values:
        mask |= 1 << value
    return mask


def literal(data: bytes) -> Concat:
    """Exactly these bytes."""
    return Concat(tuple(map(_single, data)))


@cache
def _single(value: int) -> Bytes:
    return Bytes(1 << value)


def positions(expression: Expression) -> int:
    """How many bytes there are to match once repetitions are written out; that many states its automaton has before it is determinised."""
    if isinstance(expression, Bytes):
        return 1
    if isinstance(expression, Repeat):
        times = max(expression.least, 1) if expression.most is None else expression.most
        return times * positions(expression.part)
    return sum(map(positions, expression.parts))


def loops(expression: Expression) -> int:
    """How many repetitions without end it has: what makes automata grow."""
    if isinstance(expression, Bytes):
        return 0
    if isinstance(expression, Repeat):
        return loops(expression.part) + (expression.most is None)
    return sum(map(loops, expression.parts))
