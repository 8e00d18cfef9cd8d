"""cost-model: whether rows become decision trees in the code or arrays that are searched.

Figures in ns a packet, measured (docs/platform.md): a compare-and-branch of a tree, a step of a branch-free search over
an array in the cache, a load from a small array. A tree is always the faster one; what limits it is the number of instructions,
which the verifier walks and every packet's code cache pays for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from policyc.ir.passes.base import Pass
from policyc.ir.tables import Row, Tables

TREE_STEP, SEARCH_STEP, ARRAY_LOAD = 0.9, 1.1, 5.0
INSTRUCTIONS_PER_CELL = 5  # one compare of the tree; a 64-bit constant and a return for each best rule of its leaf
INSTRUCTION_LIMIT = 4096


def _steps(choices: int) -> int:
    """Compares to tell `choices` things apart."""
    return max(choices - 1, 0).bit_length()


def searched_cost(rows: Sequence[Row]) -> float:
    """ns to find a cell of the largest row by searching its keys, after its bounds were loaded."""
    return 2 * ARRAY_LOAD + SEARCH_STEP * max((_steps(len(row.cells)) for row in rows), default=0)


def inlined_cost(rows: Sequence[Row]) -> float:
    """ns to find a cell of the largest row by one decision tree over rows and then keys."""
    return TREE_STEP * (_steps(len(rows)) + max((_steps(len(row.cells)) for row in rows), default=0))


def inlined_size(rows: Sequence[Row]) -> int:
    """Instructions of the tree, about."""
    return INSTRUCTIONS_PER_CELL * sum(len(row.cells) for row in rows)


def _run(tables: Tables) -> Tables:
    fits = inlined_size(tables.rows) <= INSTRUCTION_LIMIT
    return replace(tables, inline_rows=fits and inlined_cost(tables.rows) < searched_cost(tables.rows))


COST_MODEL = Pass("cost-model", Tables, Tables, _run)
