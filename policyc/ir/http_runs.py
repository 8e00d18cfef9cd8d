"""Runs: where an automaton of patterns is inside a literal, several bytes of it are one step (`Automaton.runs`).

A run is a shortcut and nothing else, so which ones there are is a matter of cost. One saves a dependent load a byte, most of which miss the first cache, and costs a comparison where
the text is another. So runs are made where one continuation alone leads to anything that a pattern says."""

from __future__ import annotations

from collections import Counter
from itertools import chain

from policyc.ir.http_tables import ACTION, RUN_BYTES, Automaton, Stop

SHORTEST = 4  # a comparison takes as long as two or three steps
LARGEST_REST = 64  # states in which no pattern is left
CELLS = ACTION + len(Stop)


def with_runs(automaton: Automaton, unlikely: bytes) -> Automaton:
    """The same automaton, states where runs begin first. `unlikely`: a text after which the state is one in which most patterns have failed."""
    rest = _closure(automaton, _after(automaton, unlikely))
    if rest is None:
        return automaton
    steps = _literal_steps(automaton, rest)
    runs = _runs(automaton, steps)
    return _renumbered(automaton, runs) if runs else automaton


def _after(automaton: Automaton, text: bytes) -> int | None:
    state = automaton.start
    for byte in text:
        state = automaton.next[state * automaton.width + automaton.classes[byte]]
        if state >= ACTION:
            return None
    return state


def _closure(automaton: Automaton, start: int | None) -> set[int] | None:
    """What can be reached from a state; None where that is much."""
    if start is None:
        return None
    found, new = {start}, [start]
    while new:
        state = new.pop()
        cells = automaton.next[state * automaton.width : (state + 1) * automaton.width]
        reached = {cell for cell in cells if cell < ACTION} - found
        found |= reached
        new += reached
        if len(found) > LARGEST_REST:
            return None
    return found


def _literal_steps(automaton: Automaton, rest: set[int]) -> dict[int, tuple[int, int]]:
    """By state the one byte that does not lead to the rest, and where it leads."""
    width = automaton.width
    count = Counter(automaton.classes)
    byte_of = {class_: byte for byte, class_ in enumerate(automaton.classes)}
    dull = rest | set(range(ACTION, CELLS))
    steps: dict[int, tuple[int, int]] = {}
    for state in range(len(automaton.outcome)):
        row = automaton.next[state * width : (state + 1) * width]
        live = set(row) - dull
        if len(live) == 1:
            (target,) = live
            classes = [c for c, cell in enumerate(row) if cell == target and c in count]
            if len(classes) == 1 and count[classes[0]] == 1:
                steps[state] = byte_of[classes[0]], target
    return steps


def _runs(automaton: Automaton, steps: dict[int, tuple[int, int]]) -> dict[int, tuple[bytes, int]]:
    """By the state where it begins. States inside a run have none, so that a text that goes another way costs one comparison."""
    inside = {target for _, target in steps.values()}
    begins = sorted(state for state in steps if state not in inside or state == automaton.start)
    runs: dict[int, tuple[bytes, int]] = {}
    while begins:
        first = state = begins.pop()
        text = bytearray()
        while state in steps and len(text) < RUN_BYTES:
            byte, state = steps[state]
            text.append(byte)
        if len(text) >= SHORTEST:
            runs[first] = bytes(text), state
            if state in steps and state not in runs:
                begins.append(state)
    return runs


def _renumbered(automaton: Automaton, runs: dict[int, tuple[bytes, int]]) -> Automaton:
    width, count = automaton.width, len(automaton.outcome)
    order = [*sorted(runs), *(state for state in range(count) if state not in runs)]
    rows = (automaton.next[old * width : (old + 1) * width] for old in order)
    number = list(range(CELLS))
    for new, old in enumerate(order):
        number[old] = new
    return Automaton(
        classes=automaton.classes,
        decoded=automaton.decoded,
        width=width,
        next=tuple(map(number.__getitem__, chain.from_iterable(rows))),
        outcome=tuple(automaton.outcome[old] for old in order),
        start=number[automaton.start],
        runs=tuple((runs[old][0], number[runs[old][1]]) for old in sorted(runs)),
    )
