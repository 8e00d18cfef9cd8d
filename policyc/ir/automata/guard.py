"""Guards: small automata that stand in front of patterns, say what of the bytes patterns see, and what may not be there at all.

The state of a guarded automaton is the guard's state, the positions of the patterns, and *held* marks: those of patterns that matched up to a byte
that perhaps is no part of the value (white space at its end, a host's trailing dot).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Op(Enum):
    """What a byte does to the patterns' positions and the held marks."""

    STEP = "step"  # patterns see it
    SKIP = "skip"  # patterns do not see it
    HOLD = "hold"  # patterns see it; what is known so far is held (known: what is held, in a state that holds)
    MARK = "mark"  # patterns see it; what matches up to it is held
    FREEZE = "freeze"  # patterns end here; what is known so far is held


@dataclass(frozen=True)
class Edge:
    """On the bytes of `mask` (256 bits) to state `target`."""

    mask: int
    target: int
    op: Op = Op.STEP


@dataclass
class GuardState:
    """`tag`: what the outcome is told where the bytes end here, None: they must not. `holds`: the held marks are what matched. `actions`: what the
    guard's special bytes do here, in their order."""

    actions: tuple[int, ...]
    edges: list[Edge] = field(default_factory=list)
    tag: int | None = None
    holds: bool = False


@dataclass(frozen=True)
class Guard:
    """State 0 is the start. A byte without an edge leads to the *sink*, a state that no byte leaves and whose outcome is 0. `specials`: sets of raw
    bytes that no edge has, because each ends the walk, and `sink`: what they do in the sink."""

    specials: tuple[int, ...]
    sink: tuple[int, ...]
    states: tuple[GuardState, ...]
