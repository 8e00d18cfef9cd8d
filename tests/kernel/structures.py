"""How rows and CIDR tables are stored. What the cost model takes for large policies only is forced upon small ones, so that it is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from unittest import mock

from policyc.artifact.reader import Artifact, read
from policyc.ir.passes import partition_cidrs
from policyc.ir.pipeline import build
from policyc.ir.tables import EMPTY, Tables
from policyc.model import PolicySet

MOST_INLINED = 64  # intervals of a row as code


@dataclass(frozen=True)
class Structure:
    """`tables` changes what the cost model chose. `layer_cells`: from so many cells on nested CIDR sets are searched in layers;
    `dense_limit`: up to so many entries the rows of selectors stand in a table by group and selector. None: as always."""

    tables: Callable[[Tables], Tables] = lambda tables: tables
    layer_cells: int | None = None
    dense_limit: int | None = None


def _class_rows(tables: Tables) -> Iterable[int]:
    return {row for g in tables.groups for row in (g.row_world, g.row_host, g.row_endpoint)}


def _inlined(tables: Tables) -> Tables:
    rows = (n for n in _class_rows(tables) if sum(c != EMPTY for _, c in tables.rows[n].cells) <= MOST_INLINED)
    return replace(tables, inline_rows=tuple(sorted(rows)))


def _searched(tables: Tables) -> Tables:
    return replace(tables, inline_rows=())


def _buckets(tables: Tables, bits4: int, steps4: int, bits6: int) -> Tables:
    cut = tuple(
        replace(t, bits4=bits4, steps4=steps4, bits6=bits6) if len(t.v4) > 1 else replace(t, bits6=bits6)
        for t in tables.cidr_tables
    )
    return replace(_searched(tables), cidr_tables=cut)


STRUCTURES = {
    "chosen": Structure(),
    "searched": Structure(_searched, layer_cells=8, dense_limit=0),
    "inlined": Structure(_inlined, layer_cells=30),
    "one bucket": Structure(lambda tables: _buckets(tables, 0, 0, 0), layer_cells=8),
    "many buckets": Structure(lambda tables: _buckets(tables, 13, 3, 9)),
}


def compiled(policy: PolicySet, structure: str) -> Artifact:
    """The policy's artifact; `structure` is one of STRUCTURES."""
    from policyc.codegen import match  # not where compiled objects are brought along
    from policyc.codegen.emit import compile_object

    how = STRUCTURES[structure]
    with ExitStack() as stack:
        if how.layer_cells is not None:
            stack.enter_context(mock.patch.object(partition_cidrs, "LAYER_CELLS", how.layer_cells))
        if how.dense_limit is not None:
            stack.enter_context(mock.patch.object(match, "DENSE_LIMIT", how.dense_limit))
        return read(compile_object(how.tables(build(policy)), policy, {}, "").object)
