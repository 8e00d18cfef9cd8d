"""Which rules with blocks can meet on one connection: same direction and level, a port in common, an endpoint that both can have as subject and one
that both can have as peer. Where something is audited, rules of two levels can judge a connection, too, one in force and one prospectively: its
requests are read once, for both. Where that is not cheap to know they are taken to meet: a component may be too large, never too small."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

from policyc.model import (
    AddressSet,
    Op,
    Peer,
    PeerCidrs,
    PeerClass,
    PeerSelector,
    Policy,
    PolicySet,
    Requirement,
    Rule,
    Selector,
    Service,
)

TCP = 6
PORT_END = 0x10000
MAX_RANGES = 1000  # of address sets that are compared


def components(policy_set: PolicySet, rules: Sequence[Rule]) -> list[list[Rule]]:
    """`rules` in sets that are closed over meeting; in the order of `rules`, as are the sets by their first rule."""
    policies = {rule.order: policy for policy in policy_set.policies for rule in policy.rules}
    union = _Union(len(rules))
    audits = any(p.audit or any(_is_audited(r) for r in p.rules) for p in policy_set.policies)
    for together in _sharing_ports(rules, over_levels=audits):
        _unite(union, together, rules, policies)
    result: dict[int, list[Rule]] = {}
    for index, rule in enumerate(rules):
        result.setdefault(union.root(index), []).append(rule)
    return list(result.values())


def _is_audited(rule: Rule) -> bool:
    return rule.audit or (rule.http is not None and rule.http.audit)


class _Union:
    def __init__(self, size: int) -> None:
        self.parents = list(range(size))

    def root(self, index: int) -> int:
        while self.parents[index] != index:
            self.parents[index] = self.parents[self.parents[index]]
            index = self.parents[index]
        return index

    def join(self, first: int, second: int) -> None:
        self.parents[self.root(second)] = self.root(first)


def _sharing_ports(rules: Sequence[Rule], over_levels: bool) -> list[tuple[int, ...]]:
    """Sets of rules of one direction and level (any level if `over_levels`) that have a port in common, the larger ones first; every two such rules are in one of them."""
    events: dict[tuple[int, int, int], list[tuple[int, int, int]]] = defaultdict(list)
    for index, rule in enumerate(rules):
        for first, last in _ports(rule.services):
            level = (0, 0) if over_levels else (rule.tier, rule.priority)
            events[rule.direction, *level] += [(first, 1, index), (last + 1, 0, index)]
    found: dict[tuple[int, ...], None] = {}
    for key in sorted(events):
        active: dict[int, int] = defaultdict(int)
        ordered = sorted(events[key])
        for (port, opens, index), (following, opens_next, _) in pairwise([*ordered, (PORT_END + 1, 0, 0)]):
            active[index] += 1 if opens else -1
            # Only where something ends after something began is there a set that no later one contains.
            if opens and not opens_next and following > port:
                found[tuple(sorted(i for i, count in active.items() if count))] = None
    return sorted(found, key=len, reverse=True)


def _ports(services: Sequence[Service]) -> list[tuple[int, int]]:
    """The tcp ports of services, as ranges."""
    if not services:
        return [(0, PORT_END - 1)]
    return [s.ports or (0, PORT_END - 1) for s in services if s.protocol in (None, TCP)]


def _unite(union: _Union, together: Sequence[int], rules: Sequence[Rule], policies: dict[int, Policy]) -> None:
    """Joins those of `together` that can meet. Rules of equal subjects and peers meet, and are asked once."""
    same: dict[tuple[tuple[Peer, ...], tuple[Peer, ...]], int] = {}
    for index in together:
        subjects: tuple[Peer, ...] = policies[rules[index].order].subjects
        first = same.setdefault((subjects, rules[index].peers), index)
        if first != index:
            union.join(first, index)
    ends = list(same.items())
    for position, ((subjects, peers), index) in enumerate(ends):
        for (other_subjects, other_peers), other in ends[:position]:
            if union.root(index) == union.root(other):
                continue
            if _any_meet(subjects, other_subjects) and _any_meet(peers, other_peers):
                union.join(other, index)


@cache
def _any_meet(first: tuple[Peer, ...], second: tuple[Peer, ...]) -> bool:
    return any(_meet(a, b) for a in first for b in second)


@cache
def _meet(first: Peer, second: Peer) -> bool:
    """Whether one endpoint or address can be both."""
    if isinstance(first, PeerSelector) and isinstance(second, PeerSelector):
        return _compatible(first.selector, second.selector)
    if isinstance(first, PeerCidrs) and isinstance(second, PeerCidrs):
        return _overlap(first.addresses, second.addresses)
    classes = _classes(first) & _classes(second)
    return bool(classes)


def _classes(peer: Peer) -> frozenset[PeerClass]:
    """The classes of addresses that a peer can have."""
    if peer is PeerClass.ANY or (isinstance(peer, PeerCidrs) and not peer.world_only):
        return frozenset((PeerClass.WORLD, PeerClass.HOST, PeerClass.ENDPOINTS))
    if isinstance(peer, PeerClass):
        return frozenset((peer,))
    return frozenset((PeerClass.WORLD if isinstance(peer, PeerCidrs) else PeerClass.ENDPOINTS,))


def _compatible(first: Selector, second: Selector) -> bool:
    """Whether some labels meet both selectors."""
    by_key: dict[str, list[Requirement]] = defaultdict(list)
    for requirement in (*first.requirements, *second.requirements):
        by_key[requirement.key].append(requirement)
    return all(_possible(requirements) for requirements in by_key.values())


def _possible(requirements: Sequence[Requirement]) -> bool:
    """Whether one label, or its absence, meets all requirements on a key."""
    wanted = [set(r.values) for r in requirements if r.op in (Op.EQ, Op.IN)]
    if any(r.op is Op.NOT_EXISTS for r in requirements):
        return not wanted and not any(r.op is Op.EXISTS for r in requirements)
    if not wanted:
        return True
    refused = {value for r in requirements if r.op in (Op.NE, Op.NOT_IN) for value in r.values}
    return bool(set.intersection(*wanted) - refused)


def _overlap(first: AddressSet, second: AddressSet) -> bool:
    if max(map(len, (first.v4, first.v6, second.v4, second.v6))) > MAX_RANGES:
        return True
    return _share(first.v4, second.v4) or _share(first.v6, second.v6)


def _share(first: Sequence[tuple[int, int]], second: Sequence[tuple[int, int]]) -> bool:
    """Whether two lists of sorted, disjoint ranges have an address in common."""
    i = j = 0
    while i < len(first) and j < len(second):
        if first[i][1] < second[j][0]:
            i += 1
        elif second[j][1] < first[i][0]:
            j += 1
        else:
            return True
    return False
