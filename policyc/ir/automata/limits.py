"""How large an automaton may become, and how long that may take, before a policy is refused instead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """`states`: before minimisation; numbers of states stay below `http_tables.ACTION`. `steps`: positions looked at, over all states. `links`: that
    positions have to the positions behind them. About a second each, and 200 MB at most (docs/ir.md has what they were measured with)."""

    states: int = 32_000
    steps: int = 3_000_000
    links: int = 1_000_000


class BudgetExceeded(Exception):
    """The automaton would be larger than its limits."""
