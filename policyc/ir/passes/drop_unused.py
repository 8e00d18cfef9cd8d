"""drop-unused: groups that neither match nor isolate, then whatever nothing refers to, renumbered by first use."""

from __future__ import annotations

from dataclasses import replace

from policyc.ir.flat import CidrPeer, FlatGroup, FlatPeer, Match, Module, SamePeer, SelectorPeer, ServiceSet
from policyc.ir.numbering import Numbering
from policyc.ir.passes.base import Pass
from policyc.ir.tables import GroupSubject, SelectedBy
from policyc.model import PeerClass


def _run(module: Module) -> Module:
    return _Renumbering(module).run()


class _Renumbering:
    """Old index → new index of everything that the kept groups and `selected` reach."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.selectors = Numbering[int]()
        self.same_keys = Numbering[int]()
        self.address_sets = Numbering[int]()
        self.services = Numbering[int]()
        self.peers = Numbering[int]()
        self._known: dict[int, tuple[Match, ...]] = {}

    def run(self) -> Module:
        module = self.module
        selected = tuple(SelectedBy(self._subject(s.subject), s.enforced) for s in module.selected)
        groups = tuple(self._group(g) for g in module.groups if g.matches or g.isolation.prospective)
        peers = tuple(self._peer(module.peers[index]) for index in self.peers.indices)
        services: tuple[ServiceSet, ...] = tuple(module.services[index] for index in self.services.indices)
        return replace(
            module,
            selectors=tuple(module.selectors[index] for index in self.selectors.indices),
            same_keys=tuple(module.same_keys[index] for index in self.same_keys.indices),
            address_sets=tuple(module.address_sets[index] for index in self.address_sets.indices),
            services=services,
            peers=peers,
            groups=groups,
            selected=selected,
        )

    def _group(self, group: FlatGroup) -> FlatGroup:
        matches = self._known.get(id(group.matches))
        if matches is None:
            matches = self._known[id(group.matches)] = self._matches(group.matches)
        return replace(group, subject=self._subject(group.subject), matches=matches)

    def _matches(self, matches: tuple[Match, ...]) -> tuple[Match, ...]:
        peers, services = self.peers, self.services
        return tuple(sorted(Match(rank, peers(peer), services(index)) for rank, peer, index in matches))

    def _subject(self, subject: GroupSubject) -> GroupSubject:
        return subject if isinstance(subject, PeerClass) else self.selectors(subject)

    def _peer(self, peer: FlatPeer) -> FlatPeer:
        if isinstance(peer, SelectorPeer):
            return SelectorPeer(self.selectors(peer.selector))
        if isinstance(peer, SamePeer):
            return SamePeer(tuple(sorted(self.same_keys(key) for key in peer.keys)))
        if isinstance(peer, CidrPeer):
            return CidrPeer(self.address_sets(peer.addresses), peer.world_only)
        return peer


DROP_UNUSED = Pass("drop-unused", Module, Module, _run)
