"""drop-shadowed: matches whose rule can never be the counted one nor change whether an event is logged.

A match is shadowed where each of its key intervals is covered by matches of lower rank in its group whose peer covers
its peer. Covering rules must take part wherever it does: an enforced match needs enforced ones. A match that says `log`, and every one of
a batch (level and action) in which some rule has an L7 block, matters to its whole batch, so only earlier batches shadow it. NAMED keys matter by level alone: those of a
protocol are also covered once an earlier level decides all its PORTLESS keys. Ranks stay."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import groupby

from policyc.ir.flat import CidrPeer, ClassPeer, FlatPeer, Match, Module, SamePeer, SelectorPeer
from policyc.ir.passes.base import Pass
from policyc.ir.passes.coverage import Coverage
from policyc.ir.tables import KeyKind, service_key
from policyc.model import PeerClass

PORTLESS_FIRST, PORTLESS_LAST = service_key(KeyKind.PORTLESS, 0, 0), service_key(KeyKind.PORTLESS, 255, 0xFFFF)
PORTLESS_TO_NAMED = service_key(KeyKind.NAMED, 0, 0) - PORTLESS_FIRST


def _run(module: Module) -> Module:
    coverers = [_coverers(peer) for peer in module.peers]
    known: dict[int, tuple[Match, ...]] = {}
    groups = []
    for group in module.groups:
        matches = known.get(id(group.matches))
        if matches is None:
            matches = known[id(group.matches)] = _Shadows(module, coverers, group.matches).unshadowed()
        groups.append(replace(group, matches=matches))
    return replace(module, groups=tuple(groups))


def _coverers(peer: FlatPeer) -> tuple[FlatPeer, ...]:
    """Peers that cover `peer`, itself first."""
    everything = ClassPeer(PeerClass.ANY)
    if isinstance(peer, SelectorPeer | SamePeer):
        return peer, ClassPeer(PeerClass.ENDPOINTS), everything
    if isinstance(peer, CidrPeer):
        whole = CidrPeer(peer.addresses, world_only=False)
        return (peer, whole, ClassPeer(PeerClass.WORLD), everything) if peer.world_only else (peer, everything)
    return (peer,) if peer == everything else (peer, everything)


class _Shadows:
    """What the matches of one group, in ascending rank, have covered so far."""

    def __init__(self, module: Module, coverers: list[tuple[FlatPeer, ...]], matches: tuple[Match, ...]) -> None:
        self.rules = module.rules
        self.peers = module.peers
        self.services = module.services
        self.coverers = coverers
        self.matches = matches
        uses = Counter(match.peer for match in matches)
        present = {self.peers[index] for index in uses}
        # A peer of a single match covers nothing else, unless another peer is narrower.
        self._covering = {self.peers[index] for index, count in uses.items() if count > 1}
        self._covering |= {c for index in uses for c in coverers[index][1:] if c in present}
        self._enforced = {peer: Coverage() for peer in self._covering}
        self._prospective = {peer: Coverage() for peer in self._covering}

    def unshadowed(self) -> tuple[Match, ...]:
        kept: list[Match] = []
        for _, level in groupby(self.matches, key=lambda m: self.rules[m.rank].level):
            in_level: list[Match] = []
            for _, batch in groupby(level, key=lambda m: self.rules[m.rank].action):
                in_level += self._batch(list(batch))
            for match in in_level:
                self._decide_fragments(match)
            kept += in_level
        return self.matches if len(kept) == len(self.matches) else tuple(kept)

    def _batch(self, batch: list[Match]) -> list[Match]:
        has_blocks = any(self.rules[match.rank].block for match in batch)
        matters = {match for match in batch if has_blocks or self.rules[match.rank].log}
        shadowed = {match for match in matters if self._is_covered(match)}
        kept = []
        for match in batch:
            if match in shadowed or (match not in matters and self._is_covered(match)):
                continue
            kept.append(match)
            for first, last in self.services[match.services]:
                self._cover(match, first, last)
        return kept

    def _is_covered(self, match: Match) -> bool:
        covered = self._prospective if self.rules[match.rank].audit else self._enforced
        candidates = [covered[peer] for peer in self.coverers[match.peer] if peer in covered]
        return bool(candidates) and all(
            any(c.contains(first, last) for c in candidates) for first, last in self.services[match.services]
        )

    def _cover(self, match: Match, first: int, last: int) -> None:
        peer = self.peers[match.peer]
        if peer not in self._covering:
            return
        self._prospective[peer].add(first, last)
        if not self.rules[match.rank].audit:
            self._enforced[peer].add(first, last)

    def _decide_fragments(self, match: Match) -> None:
        for first, last in self.services[match.services]:
            first, last = max(first, PORTLESS_FIRST), min(last, PORTLESS_LAST)
            if first <= last:
                self._cover(match, first + PORTLESS_TO_NAMED, last + PORTLESS_TO_NAMED)


DROP_SHADOWED = Pass("drop-shadowed", Module, Module, _run)
