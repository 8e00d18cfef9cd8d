"""Minimisation of complete deterministic automata, by refining a partition until no class of states can be told apart."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import Any

Picker = Callable[[Sequence[int]], Any]
"""Picks out of a list by state what it has for the successors of one state; as an itemgetter that is much faster than a loop."""


def equivalent(rows: Sequence[Sequence[int]], kinds: Sequence[Hashable]) -> list[int]:
    """The number of each state's class: two states share one if their kinds are equal and so are the classes of their successors, column by column.

    After Moore, but only states some successor of which has a new class are looked at again, and the largest part of a class that
    splits keeps its number, so that a state's class changes O(log n) times."""
    numbers: dict[Hashable, int] = {}
    block = [numbers.setdefault(kind, len(numbers)) for kind in kinds]
    members: list[set[int]] = [set() for _ in numbers]
    for state, number in enumerate(block):
        members[number].add(state)
    sources: list[list[int]] = [[] for _ in rows]
    for state, row in enumerate(rows):
        for target in set(row):
            sources[target].append(state)
    pickers = [itemgetter(*row) for row in rows]
    changed: set[int] | range = range(len(rows))
    while changed:
        moved = [state for part in _parts(pickers, block, members, changed) for state in part]
        changed = {source for state in moved for source in sources[state]}
    return block


def _parts(
    pickers: Sequence[Picker], block: list[int], members: list[set[int]], changed: set[int] | range
) -> list[list[int]]:
    """Splits the classes of changed states; the states that have a new class now, by class."""
    found: dict[int, dict[Hashable, list[int]]] = {}
    for state in sorted(changed):
        found.setdefault(block[state], {}).setdefault(pickers[state](block), []).append(state)
    result: list[list[int]] = []
    for number, by_row in found.items():
        parts = _leaving(by_row, members[number], lambda state: pickers[state](block))
        for part in parts:
            members[number].difference_update(part)
            members.append(set(part))
        result += parts
    first = len(members) - len(result)
    for offset, part in enumerate(result):
        for state in part:
            block[state] = first + offset
    return result


def _leaving(
    by_row: dict[Hashable, list[int]], members: set[int], row_of: Callable[[int], Hashable]
) -> list[list[int]]:
    """Of a class's changed states, by their rows of classes, those that leave it. The unchanged ones are all alike."""
    changed = {state for part in by_row.values() for state in part}
    unchanged = len(members) - len(changed)
    staying: list[int] = []
    if unchanged:
        staying = by_row.pop(row_of(next(state for state in members if state not in changed)), [])
    parts = list(by_row.values())
    if not parts:
        return []
    largest = max(parts, key=len)
    if len(largest) <= unchanged + len(staying):
        return parts
    parts.remove(largest)
    if unchanged or staying:
        parts.append(sorted(members.difference(largest, *parts)))
    return parts
