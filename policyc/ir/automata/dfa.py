"""Positions and a guard → one deterministic automaton, by the subset construction, minimised.

Works on classes of bytes that nothing tells apart, and row by row: most states are inside a literal, and differ from a state without any pattern in
one column. `Limits` bounds the work as well as the size, so that no policy makes the compiler slow before it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from policyc.ir.automata.guard import Guard, Op
from policyc.ir.automata.limits import BudgetExceeded, Limits
from policyc.ir.automata.minimise import equivalent
from policyc.ir.automata.nfa import Nfa, Positions

Marks = frozenset[int]
Classify = Callable[[int, Marks], int]  # a guard's tag and the marks of patterns that match → outcome
NO_MARKS: Marks = frozenset()


@dataclass(frozen=True)
class Dfa:
    """`classes[b]`: the class of byte b. `rows[s][c]`: the next state. `actions[s]`: what the guard's special bytes do. State 0 is the start."""

    classes: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]
    outcomes: tuple[int, ...]
    actions: tuple[tuple[int, ...], ...]


def determinise(nfa: Nfa, guard: Guard, classify: Classify, limits: Limits | None = None) -> Dfa:
    """The minimal automaton. Raises BudgetExceeded."""
    return _Construction(nfa, guard, classify, limits or Limits()).run()


def byte_classes(masks: set[int]) -> tuple[int, ...]:
    """The class of each byte: two bytes share one if every set has both or neither. Numbered by their first byte."""
    blocks = [(1 << 256) - 1]
    for mask in sorted(masks):
        split: list[int] = []
        for block in blocks:
            inside = block & mask
            split += (inside, block ^ inside) if inside not in (0, block) else (block,)
        blocks = split
    blocks.sort(key=lambda block: block & -block)
    result = [0] * 256
    for number, block in enumerate(blocks):
        while block:
            low = block & -block
            result[low.bit_length() - 1] = number
            block ^= low
    return tuple(result)


@dataclass(frozen=True)
class _Piece:
    """Classes on which the guard and the wide sets of a state agree."""

    classes: tuple[int, ...]
    target: int
    op: Op
    wide: tuple[int, ...]


_State = tuple[int, Positions, Marks]
SINK = 0


class _Construction:
    """States are numbered as they are found; `SINK` is 0, the start 1."""

    def __init__(self, nfa: Nfa, guard: Guard, classify: Classify, limits: Limits) -> None:
        self.nfa, self.guard, self.classify, self.limits = nfa, guard, classify, limits
        masks = {mask for mask in nfa.masks if mask} | {e.mask for s in guard.states for e in s.edges}
        self.classes = byte_classes(masks)
        self.width = max(self.classes) + 1
        in_classes = {mask: self._in_classes(mask) for mask in masks}
        self.guard_edges = [[(in_classes[e.mask], e.target, e.op) for e in s.edges] for s in guard.states]
        self.masks = [in_classes.get(mask, 0) for mask in nfa.masks]
        self.single = [m.bit_length() - 1 if m.bit_count() == 1 else -1 for m in self.masks]
        self.numbers: dict[_State, int] = {}
        self.states: list[_State] = []
        self.pieces: dict[tuple[int, frozenset[int]], tuple[list[_Piece], list[_Piece | None]]] = {}
        self.steps_only = [all(e.op is Op.STEP for e in s.edges) for s in guard.states]
        self.templates: dict[int, list[int]] = {}
        self.steps = 0

    def _in_classes(self, mask: int) -> int:
        result = 0
        for value, number in enumerate(self.classes):
            result |= (mask >> value & 1) << number
        return result

    def run(self) -> Dfa:
        self.number((0, self.nfa.start, NO_MARKS))
        rows: list[list[int]] = [[SINK] * self.width]
        for state in self.states:  # grows meanwhile
            rows.append(self.row(state))
        outcomes = [0, *(self.outcome(state) for state in self.states)]
        guards = [None, *(state[0] for state in self.states)]
        return self.minimal(rows, outcomes, guards)

    def number(self, state: _State) -> int:
        known = self.numbers.get(state)
        if known is not None:
            return known
        self.states.append(state)
        if len(self.states) >= self.limits.states:
            raise BudgetExceeded
        number = self.numbers[state] = len(self.states)
        return number

    def known_marks(self, state: _State) -> Marks:
        guard, positions, held = state
        return held if self.guard.states[guard].holds else self.matching(positions)

    def matching(self, positions: Positions) -> Marks:
        return frozenset(p for p in positions if p < self.nfa.marks)

    def outcome(self, state: _State) -> int:
        tag = self.guard.states[state[0]].tag
        return 0 if tag is None else self.classify(tag, self.known_marks(state))

    def row(self, state: _State) -> list[int]:
        guard, positions, _ = state
        self.steps += len(positions)
        if self.steps > self.limits.steps:
            raise BudgetExceeded
        narrow, wide = self._leaving(positions)
        own, piece_of = self._pieces(guard, frozenset(wide))
        row = self._template(guard)[:]
        for piece in own:
            number = self.number(self.after(state, piece, self._union([f for m in piece.wide for f in wide[m]])))
            for c in piece.classes:
                row[c] = number
        for c, follows in narrow.items():
            reached = piece_of[c]
            if reached is not None:
                more = [f for m in reached.wide for f in wide[m]]
                row[c] = self.number(self.after(state, reached, self._union(follows + more)))
        return row

    def _leaving(self, positions: Positions) -> tuple[dict[int, list[Positions]], dict[int, list[Positions]]]:
        """What follows positions on one class, by class, and on several, by their set."""
        narrow: dict[int, list[Positions]] = {}
        wide: dict[int, list[Positions]] = {}
        single, masks, follow = self.single, self.masks, self.nfa.follow
        for p in positions:
            c = single[p]
            if c >= 0:
                narrow.setdefault(c, []).append(follow[p])
            elif masks[p]:
                wide.setdefault(masks[p], []).append(follow[p])
        return narrow, wide

    def _union(self, sets: list[Positions]) -> Positions:
        if len(sets) == 1:
            return sets[0]
        self.steps += sum(map(len, sets))
        return frozenset().union(*sets)

    def after(self, state: _State, piece: _Piece, positions: Positions) -> _State:
        """The state after a byte of `piece` on which patterns go to `positions`."""
        if piece.op is Op.STEP:
            return piece.target, positions, NO_MARKS
        if piece.op is Op.SKIP:
            return piece.target, state[1], state[2]
        if piece.op is Op.HOLD:
            return piece.target, positions, self.known_marks(state)
        if piece.op is Op.MARK:
            return piece.target, positions, self.matching(state[1])
        return piece.target, frozenset(), self.known_marks(state)

    def _template(self, guard: int) -> list[int]:
        """The row of a state without any pattern, where the guard only steps."""
        known = self.templates.get(guard)
        if known is None:
            known = self.templates[guard] = [SINK] * self.width
            for mask, target, _ in self.guard_edges[guard] if self.steps_only[guard] else ():
                number = self.number((target, frozenset(), NO_MARKS))
                for c in _bits(mask):
                    known[c] = number
        return known

    def _pieces(self, guard: int, wide: frozenset[int]) -> tuple[list[_Piece], list[_Piece | None]]:
        """Pieces with another successor than in the template; and the piece of each class: those that have an edge of the guard, cut by `wide`."""
        known = self.pieces.get((guard, wide))
        if known is not None:
            return known
        pieces: list[_Piece] = []
        for mask, target, op in self.guard_edges[guard]:
            parts: list[tuple[int, tuple[int, ...]]] = [(mask, ())]
            for cut in sorted(wide):
                parts = [
                    part
                    for m, inside in parts
                    for part in ((m & cut, (*inside, cut)), (m & ~cut, inside))
                    if part[0]
                ]  # fmt: skip
            pieces += (_Piece(_bits(m), target, op, inside) for m, inside in parts)
        piece_of: list[_Piece | None] = [None] * self.width
        for piece in pieces:
            for c in piece.classes:
                piece_of[c] = piece
        own = [piece for piece in pieces if piece.wide or not self.steps_only[guard]]
        self.pieces[guard, wide] = own, piece_of
        return own, piece_of

    def minimal(self, rows: list[list[int]], outcomes: list[int], guards: list[int | None]) -> Dfa:
        """One state of each class of equivalent ones, numbered breadth first from the start; columns that are equal become one class."""
        actions = [self.guard.sink if g is None else self.guard.states[g].actions for g in guards]
        blocks = equivalent(rows, list(zip(outcomes, actions, strict=True)))
        order, chosen = {blocks[1]: 0}, [1]
        for state in chosen:  # grows meanwhile
            for target in dict.fromkeys(rows[state]):
                if blocks[target] not in order:
                    order[blocks[target]] = len(chosen)
                    chosen.append(target)
        numbers = [order.get(block, 0) for block in blocks]
        small = (map(numbers.__getitem__, rows[state]) for state in chosen)
        columns: dict[tuple[int, ...], int] = {}
        merged = [columns.setdefault(column, len(columns)) for column in zip(*small, strict=True)]
        return Dfa(
            classes=tuple(merged[c] for c in self.classes),
            rows=tuple(zip(*columns, strict=True)),
            outcomes=tuple(outcomes[state] for state in chosen),
            actions=tuple(actions[state] for state in chosen),
        )


def _bits(mask: int) -> tuple[int, ...]:
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)
