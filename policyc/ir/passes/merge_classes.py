"""merge-classes: address classes for which every group has the same rows become one, and their ranges join."""

from __future__ import annotations

from dataclasses import replace

from policyc.ir.numbering import Numbering
from policyc.ir.passes.base import Pass
from policyc.ir.tables import CidrTable, GroupCidrs, Tables


def _run(tables: Tables) -> Tables:
    users: dict[int, dict[int, GroupCidrs]] = {}
    for group in tables.groups:
        for use in group.cidrs:
            users.setdefault(use.table, {})[id(use)] = use
    merged: dict[int, GroupCidrs] = {}
    cidr_tables = list(tables.cidr_tables)
    for index, by_identity in users.items():
        cidr_tables[index], kept = _merge(tables.cidr_tables[index], list(by_identity.values()))
        for identity, use in by_identity.items():
            merged[identity] = GroupCidrs(
                index, tuple(use.rows_any[c] for c in kept), tuple(use.rows_world[c] for c in kept)
            )
    groups = tuple(replace(g, cidrs=tuple(merged[id(use)] for use in g.cidrs)) for g in tables.groups)
    return replace(tables, cidr_tables=tuple(cidr_tables), groups=groups)


def _merge(table: CidrTable, uses: list[GroupCidrs]) -> tuple[CidrTable, list[int]]:
    """The table with fewer classes, and for each of them an old class that stands for it."""
    columns = [column for use in uses for column in (use.rows_any, use.rows_world)]
    classes = Numbering[tuple[int, ...]]()
    kept: list[int] = []
    renumbered = []
    for old, rows in enumerate(zip(*columns, strict=True)):
        new = classes(rows)
        if new == len(kept):
            kept.append(old)
        renumbered.append(new)
    return CidrTable(_join(table.v4, renumbered), _join(table.v6, renumbered), len(kept)), kept


def _join(starts: tuple[tuple[int, int], ...], renumbered: list[int]) -> tuple[tuple[int, int], ...]:
    joined: list[tuple[int, int]] = []
    for start, old in starts:
        new = renumbered[old]
        if not joined or joined[-1][1] != new:
            joined.append((start, new))
    return tuple(joined)


MERGE_CLASSES = Pass("merge-classes", Tables, Tables, _run)
