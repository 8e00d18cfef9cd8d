"""Expressions → one position automaton (Glushkov) over all of them.

A *position* stands for one byte that is matched next: the set it is from, and the positions that may follow. Expressions are built from their
end, and equal positions are one, so that patterns with the same mark share their ends; what patterns begin with they share, too. An *accepting* position stands for no byte: it says that
a pattern with its mark matches where it is reached. Positions 0 to `marks` - 1 are the accepting ones, by mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policyc.ir.automata.expression import Alternation, Bytes, Concat, Expression
from policyc.ir.automata.limits import BudgetExceeded, Limits

Positions = frozenset[int]


@dataclass(frozen=True)
class Nfa:
    """`masks[p]`: the bytes of position p (0 of accepting ones), `follow[p]`: what may follow it, `start`: what may come first."""

    marks: int
    masks: tuple[int, ...]
    follow: tuple[Positions, ...]
    start: Positions


def build_nfa(patterns: Sequence[tuple[Expression, int]], marks: int, limits: Limits | None = None) -> Nfa:
    """The automaton of patterns, each with its mark (0 to `marks` - 1); several may have one mark. Raises BudgetExceeded."""
    builder = _Builder(marks, (limits or Limits()).links)
    tree = _Tree()
    for expression, mark in patterns:
        tree.add(expression, mark)
    return builder.finished(tree.built(builder))


class _Tree:
    """Patterns by what they begin with: a repetition that many begin with is one, not many that are always passed together.

    Nodes are numbered as they are found, so that children come behind their parents. Node 0 is the root."""

    def __init__(self) -> None:
        self.children: list[dict[Expression, int]] = [{}]
        self.marks: list[set[int]] = [set()]

    def add(self, expression: Expression, mark: int) -> None:
        node = 0
        for part in expression.parts if isinstance(expression, Concat) else (expression,):
            child = self.children[node].get(part)
            if child is None:
                child = self.children[node][part] = len(self.children)
                self.children.append({})
                self.marks.append(set())
            node = child
        self.marks[node].add(mark)

    def built(self, builder: _Builder) -> Positions:
        """What may come first."""
        first: list[Positions] = [frozenset()] * len(self.children)
        for node in reversed(range(len(self.children))):
            parts = [builder.build(part, first[child]) for part, child in self.children[node].items()]
            first[node] = frozenset(self.marks[node]).union(*parts)
        return first[0]


class _Builder:
    """`loops`: positions without a byte that stand for the beginning of a repetition, and what they stand for. `links`: how many
    there may still be."""

    def __init__(self, marks: int, links: int) -> None:
        self.marks = marks
        self.links = links
        self.masks: list[int] = [0] * marks
        self.follow: list[Positions] = [frozenset()] * marks
        self.loops: dict[int, Positions] = {}
        self._known: dict[tuple[int, Positions], int] = {}
        self._known_loops: dict[tuple[Expression, Positions], Positions] = {}

    def build(self, expression: Expression, then: Positions) -> Positions:
        """What may come first of `expression` with `then` behind it."""
        if isinstance(expression, Bytes):
            return frozenset((self._position(expression.mask, then),)) if expression.mask else frozenset()
        if isinstance(expression, Concat):
            for part in reversed(expression.parts):
                then = self.build(part, then)
            return then
        if isinstance(expression, Alternation):
            return frozenset().union(*(self.build(part, then) for part in expression.parts))
        if expression.most is None:
            first = self._loop(expression.part, then)
        else:
            first = then
            for _ in range(expression.most - expression.least):
                first = then | self.build(expression.part, first)
        for _ in range(expression.least):
            first = self.build(expression.part, first)
        return first

    def _position(self, mask: int, then: Positions) -> int:
        known = self._known.get((mask, then))
        if known is None:
            known = self._known[mask, then] = self._new(mask, then)
        return known

    def _new(self, mask: int, then: Positions) -> int:
        self.masks.append(mask)
        self.follow.append(then)
        self.links -= 1 + len(then)
        if self.links < 0:
            raise BudgetExceeded
        return len(self.masks) - 1

    def _loop(self, part: Expression, then: Positions) -> Positions:
        known = self._known_loops.get((part, then))
        if known is not None:
            return known
        again = self._new(0, frozenset())
        self.loops[again] = frozenset()
        first = then | self.build(part, frozenset((again,)))
        self.loops[again] = first
        self._known_loops[part, then] = first
        return first

    def finished(self, start: Positions) -> Nfa:
        """With loops replaced by what they stand for. `links`: how many
        there may still be."""
        if not self.loops:
            return Nfa(self.marks, tuple(self.masks), tuple(self.follow), start)
        closed = {loop: self._closed(frozenset((loop,))) for loop in self.loops}
        looping = self.loops.keys()

        def resolved(positions: Positions) -> Positions:
            if looping.isdisjoint(positions):
                return positions
            return frozenset().union(*(closed.get(p) or (p,) for p in positions))

        follow = [frozenset() if p in self.loops else resolved(then) for p, then in enumerate(self.follow)]
        return Nfa(self.marks, tuple(self.masks), tuple(follow), resolved(start))

    def _closed(self, positions: Positions) -> Positions:
        seen: set[int] = set()
        waiting = list(positions)
        while waiting:
            position = waiting.pop()
            if position in seen:
                continue
            seen.add(position)
            waiting += self.loops.get(position, ())
        return frozenset(position for position in seen if position not in self.loops)
