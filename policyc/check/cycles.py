"""Named sets that name other sets: each is read after those it names, without recursion, and cycles are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from policyc.check.findings import Findings
from policyc.check.scope import Declared
from policyc.grammar import syntax

T = TypeVar("T")


def settle(
    start: Declared,
    named: Callable[[Declared], Iterator[tuple[syntax.Word, Declared]]],
    read: Callable[[Declared], T],
    done: dict[Declared, T],
    nothing: T,
    found: Findings,
) -> None:
    """Fills `done` for `start` and all sets it reaches, innermost first.

    `read` finds all that its set names in `done`; what closes a cycle is `nothing` there."""
    if start in done:
        return
    open_sets: dict[Declared, Iterator[tuple[syntax.Word, Declared]]] = {start: named(start)}
    while open_sets:
        current = next(reversed(open_sets))
        for word, inner in open_sets[current]:
            if inner in open_sets:
                notes = (("this set", inner.node.name.span),)
                found.add("set-cycle", f"`{word.text}` contains itself", word.span, notes=notes)
                done[inner] = nothing
            elif inner not in done:
                open_sets[inner] = named(inner)
                break
        else:
            del open_sets[current]
            done[current] = read(current)
