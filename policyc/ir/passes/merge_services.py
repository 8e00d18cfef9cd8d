"""merge-services: key intervals sorted, overlapping and adjacent ones merged, equal service sets shared."""

from __future__ import annotations

from dataclasses import replace

from policyc.ir.flat import Match, Module, ServiceSet
from policyc.ir.numbering import Numbering
from policyc.ir.passes.base import Pass


def merge_intervals(intervals: ServiceSet) -> ServiceSet:
    """Sorted, disjoint, not adjacent."""
    if len(intervals) == 1:
        return intervals
    merged: list[tuple[int, int]] = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def _run(module: Module) -> Module:
    services = Numbering[ServiceSet]()
    renumbered = [services(merge_intervals(intervals)) for intervals in module.services]
    known: dict[int, tuple[Match, ...]] = {}  # groups of one policy share their matches
    groups = []
    for group in module.groups:
        matches = known.get(id(group.matches))
        if matches is None:
            # A rule's services are one set, so that renumbering keeps the order.
            matches = tuple(Match(rank, peer, renumbered[index]) for rank, peer, index in group.matches)
            known[id(group.matches)] = matches
        groups.append(replace(group, matches=matches))
    return replace(module, services=services.values(), groups=tuple(groups))


MERGE_SERVICES = Pass("merge-services", Module, Module, _run)
