"""Automata of expressions alone, and what they accept."""

from __future__ import annotations

from collections.abc import Sequence

from policyc.ir.automata.dfa import Dfa, determinise
from policyc.ir.automata.expression import ANY_BYTE, Expression
from policyc.ir.automata.guard import Edge, Guard, GuardState
from policyc.ir.automata.limits import Limits
from policyc.ir.automata.nfa import build_nfa

FREE = Guard((), (), (GuardState((), [Edge(ANY_BYTE, 0)], tag=0),))
"""A guard that lets everything pass."""


def dfa_of(expressions: Sequence[Expression], limits: Limits | None = None) -> Dfa:
    """The outcome is the set of expressions that match, as bits."""
    nfa = build_nfa([(expression, mark) for mark, expression in enumerate(expressions)], len(expressions), limits)
    return determinise(nfa, FREE, lambda _, marks: sum(1 << m for m in marks), limits)


def outcome(dfa: Dfa, text: bytes) -> int:
    state = 0
    for byte in text:
        state = dfa.rows[state][dfa.classes[byte]]
    return dfa.outcomes[state]


def accepts(dfa: Dfa, text: bytes) -> bool:
    return outcome(dfa, text) == 1
