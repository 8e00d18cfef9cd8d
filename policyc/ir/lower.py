"""PolicySet → flat IR: ranks, levels, canonical selectors, key intervals, one group a policy, direction and subject."""

from __future__ import annotations

from collections.abc import Sequence

from policyc.ir.flat import CidrPeer, ClassPeer, FlatGroup, FlatPeer, Match, Module, SamePeer, SelectorPeer, ServiceSet
from policyc.ir.numbering import Numbering
from policyc.ir.tables import Block, GroupSubject, Isolation, KeyKind, RankedRule, SelectedBy, service_key
from policyc.model import (
    AddressSet,
    Direction,
    Op,
    Peer,
    PeerCidrs,
    PeerClass,
    PeerSame,
    PeerSelector,
    Policy,
    PolicySet,
    Requirement,
    Rule,
    Selector,
    Service,
    Subject,
)

EVERYTHING = AddressSet(v4=((0, 2**32 - 1),), v6=((0, 2**128 - 1),))
PORT_MAX = 0xFFFF


def lower(policy_set: PolicySet) -> Module:
    """The flat module of a checked policy."""
    rules = rank_rules(policy_set)
    lowering = _Lowering({rule.order: rank for rank, rule in enumerate(rules)})
    groups = [group for policy in policy_set.policies for group in lowering.policy(policy)]
    return Module(
        selectors=lowering.selectors.values(),
        same_keys=lowering.same_keys.values(),
        address_sets=lowering.address_sets.values(),
        services=lowering.services.values(),
        peers=lowering.peers.values(),
        rules=_ranked(rules),
        partitions=(),
        groups=tuple(groups),
        selected=tuple(SelectedBy(subject, enforced) for subject, enforced in lowering.selected.items()),
        has_audit=any(p.audit or any(_is_audited(r) for r in p.rules) for p in policy_set.policies),
    )


def _is_audited(rule: Rule) -> bool:
    return rule.audit or (rule.http is not None and rule.http.audit)


def rank_rules(policy_set: PolicySet) -> list[Rule]:
    """All rules in the total order of decision."""
    rules = [rule for policy in policy_set.policies for rule in policy.rules]
    return sorted(rules, key=lambda r: (r.tier, r.priority, r.action, r.order))


def _ranked(rules: Sequence[Rule]) -> tuple[RankedRule, ...]:
    levels = Numbering[tuple[int, int]]()
    return tuple(
        RankedRule(
            ref=r.ref,
            direction=r.direction,
            tier=r.tier,
            priority=r.priority,
            level=levels((r.tier, r.priority)),
            action=r.action,
            log=r.log,
            audit=r.audit,
            span=r.span,
            block=None if r.http is None else Block.AUDITED if r.http.audit else Block.ENFORCED,
        )
        for r in rules
    )


def canonical_selector(selector: Selector) -> Selector:
    """The same selection with requirements and values sorted, without repetitions, `in (v)` as `== v`."""
    requirements = {_canonical_requirement(r) for r in selector.requirements}
    return Selector(tuple(sorted(requirements, key=lambda r: (r.key, r.op.value, r.values))))


def _canonical_requirement(requirement: Requirement) -> Requirement:
    values = tuple(sorted(set(requirement.values)))
    op = requirement.op
    if len(values) == 1:
        op = {Op.IN: Op.EQ, Op.NOT_IN: Op.NE}.get(op, op)
    return Requirement(requirement.key, op, values)


def service_intervals(services: Sequence[Service]) -> ServiceSet:
    """Key intervals of alternatives, in source order; no services match every protocol."""
    return tuple(interval for service in services or (Service(),) for interval in _intervals(service))


def _intervals(service: Service) -> ServiceSet:
    protocol = service.protocol
    if protocol is None:
        return tuple((service_key(kind, 0, 0), service_key(kind, 255, PORT_MAX)) for kind in _PORTLESS_TOO)
    ports = service.ports
    if service.icmp_type is not None:
        code = service.icmp_code
        first = service.icmp_type << 8 | (code or 0)
        ports = (first, first | 0xFF if code is None else first)
    if ports is None:
        return tuple((service_key(kind, protocol, 0), service_key(kind, protocol, PORT_MAX)) for kind in _PORTLESS_TOO)
    full = (service_key(KeyKind.FULL, protocol, ports[0]), service_key(KeyKind.FULL, protocol, ports[1]))
    named = (service_key(KeyKind.NAMED, protocol, 0), service_key(KeyKind.NAMED, protocol, PORT_MAX))
    return full, named


_PORTLESS_TOO = (KeyKind.FULL, KeyKind.PORTLESS)


class _Lowering:
    """Numbers what rules refer to. `ranks` maps a rule's source order to its rank."""

    def __init__(self, ranks: dict[int, int]) -> None:
        self.ranks = ranks
        self.selectors = Numbering[Selector]()
        self.same_keys = Numbering[str]()
        self.address_sets = Numbering[AddressSet]()
        self.services = Numbering[ServiceSet]()
        self.peers = Numbering[FlatPeer]()
        self.selected: dict[GroupSubject, bool] = {}
        self._known_selectors: dict[Selector, int] = {}
        self._known_services: dict[tuple[Service, ...], int] = {}
        # Hashing a set of 100,000 ranges for each rule that names it would be quadratic; the model keeps the objects alive.
        self._sets_by_identity: dict[int, int] = {}

    def policy(self, policy: Policy) -> list[FlatGroup]:
        subjects = list(dict.fromkeys(self.subject(s) for s in policy.subjects))
        for subject in subjects:
            self.selected[subject] = self.selected.get(subject, False) or not policy.audit
        return [group for direction in Direction for group in self._section(policy, direction, subjects)]

    def _section(self, policy: Policy, direction: Direction, subjects: list[GroupSubject]) -> list[FlatGroup]:
        rules = [rule for rule in policy.rules if rule.direction is direction]
        stated = policy.isolation.get(direction)
        if not rules and stated is None:
            return []
        isolation, span = Isolation(), policy.span
        if stated is not None:
            enforced = not policy.audit
            isolation, span = Isolation(enforced, True, stated.log and enforced, stated.log), stated.span
        matches = tuple(sorted({match for rule in rules for match in self._matches(rule)}))
        return [FlatGroup(direction, policy.tier, s, isolation, matches, (), span) for s in subjects]

    def _matches(self, rule: Rule) -> list[Match]:
        services = self._known_services.get(rule.services)
        if services is None:
            services = self._known_services[rule.services] = self.services(service_intervals(rule.services))
        rank = self.ranks[rule.order]
        return [Match(rank, self.peers(self.peer(peer)), services) for peer in rule.peers]

    def subject(self, subject: Subject) -> GroupSubject:
        if isinstance(subject, PeerSelector):
            return self._selector(subject.selector)
        return PeerClass.HOST if subject is PeerClass.HOST else self._selector(Selector())

    def peer(self, peer: Peer) -> FlatPeer:
        if isinstance(peer, PeerClass):
            return ClassPeer(peer)
        if isinstance(peer, PeerSelector):
            if not peer.selector.requirements:
                return ClassPeer(PeerClass.ENDPOINTS)
            return SelectorPeer(self._selector(peer.selector))
        if isinstance(peer, PeerSame):
            return SamePeer(tuple(sorted({self.same_keys(key) for key in peer.keys})))
        return self._cidrs(peer)

    def _cidrs(self, peer: PeerCidrs) -> FlatPeer:
        if peer.addresses == EVERYTHING:
            return ClassPeer(PeerClass.WORLD if peer.world_only else PeerClass.ANY)
        identity = id(peer.addresses)
        index = self._sets_by_identity.get(identity)
        if index is None:
            index = self._sets_by_identity[identity] = self.address_sets(peer.addresses)
        return CidrPeer(index, peer.world_only)

    def _selector(self, selector: Selector) -> int:
        index = self._known_selectors.get(selector)
        if index is None:
            index = self._known_selectors[selector] = self.selectors(canonical_selector(selector))
        return index
