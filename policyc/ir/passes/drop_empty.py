"""drop-empty: matches that no packet can match (an empty CIDR set; `same(…)` with host, which has no labels)."""

from __future__ import annotations

from dataclasses import replace

from policyc.ir.flat import CidrPeer, FlatGroup, Match, Module, SamePeer
from policyc.ir.passes.base import Pass
from policyc.model import PeerClass


def _run(module: Module) -> Module:
    empty = {
        index
        for index, peer in enumerate(module.peers)
        if isinstance(peer, CidrPeer) and not (s := module.address_sets[peer.addresses]).v4 and not s.v6
    }
    same = {index for index, peer in enumerate(module.peers) if isinstance(peer, SamePeer)}
    return replace(module, groups=tuple(_without(g, empty | same if _is_host(g) else empty) for g in module.groups))


def _is_host(group: FlatGroup) -> bool:
    return group.subject is PeerClass.HOST


def _without(group: FlatGroup, peers: set[int]) -> FlatGroup:
    if not peers or all(match.peer not in peers for match in group.matches):
        return group
    kept: tuple[Match, ...] = tuple(match for match in group.matches if match.peer not in peers)
    return replace(group, matches=kept)


DROP_EMPTY = Pass("drop-empty", Module, Module, _run)
