"""group-by-subject: one group a direction, tier and subject; isolation of several policies adds up."""

from __future__ import annotations

from dataclasses import replace

from policyc.ir.flat import FlatGroup, Match, Module
from policyc.ir.passes.base import Pass
from policyc.ir.tables import GroupSubject, Isolation
from policyc.model import Direction, Tier


def _run(module: Module) -> Module:
    by_subject: dict[tuple[Direction, Tier, GroupSubject], list[FlatGroup]] = {}
    for group in module.groups:
        by_subject.setdefault((group.direction, group.tier, group.subject), []).append(group)
    known: dict[tuple[int, ...], tuple[Match, ...]] = {}
    return replace(module, groups=tuple(_merge(groups, known) for groups in by_subject.values()))


def _merge(groups: list[FlatGroup], known: dict[tuple[int, ...], tuple[Match, ...]]) -> FlatGroup:
    if len(groups) == 1:
        return groups[0]
    parts = tuple(id(group.matches) for group in groups)
    matches = known.get(parts)
    if matches is None:
        matches = known[parts] = tuple(sorted({match for group in groups for match in group.matches}))
    isolation = Isolation(
        enforced=any(g.isolation.enforced for g in groups),
        prospective=any(g.isolation.prospective for g in groups),
        log=any(g.isolation.log for g in groups),
        log_prospective=any(g.isolation.log_prospective for g in groups),
    )
    # The first of the strongest: an enforced isolation, else an audited one, else a policy.
    place = max(groups, key=lambda g: (g.isolation.enforced, g.isolation.prospective))
    return replace(groups[0], isolation=isolation, matches=matches, span=place.span)


GROUP_BY_SUBJECT = Pass("group-by-subject", Module, Module, _run)
