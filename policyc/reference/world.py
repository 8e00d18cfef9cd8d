"""Who there is: endpoints, the host, the world; which selectors and peers match them; which rules a subject has."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from policyc.model import (
    Action,
    AddressSet,
    Direction,
    Endpoint,
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
    Tier,
)
from policyc.model import Subject as PolicySubject

Address = tuple[Literal["4", "6"], int]  # family, host-order integer

LOOPBACK_V4: Final = range(127 << 24, 128 << 24)
LOOPBACK_V6: Final = 1


class AddressClass(Enum):
    """Every address is of exactly one of these."""

    ENDPOINTS = "endpoints"
    HOST = "host"
    WORLD = "world"


class Host(Enum):
    """This machine as a subject."""

    HOST = "host"


HOST: Final = Host.HOST
Subject = Endpoint | Literal[Host.HOST]


def subject_name(subject: Subject) -> str:
    return "host" if subject is HOST else subject.name


def requirement_holds(requirement: Requirement, labels: dict[str, str]) -> bool:
    """`!=` and `not in` hold where the key is absent, too."""
    value = labels.get(requirement.key)
    match requirement.op:
        case Op.EQ | Op.IN:
            return value is not None and value in requirement.values
        case Op.NE | Op.NOT_IN:
            return value is None or value not in requirement.values
        case Op.EXISTS:
            return value is not None
        case Op.NOT_EXISTS:
            return value is None


def selects(selector: Selector, labels: dict[str, str]) -> bool:
    return all(requirement_holds(r, labels) for r in selector.requirements)


def contains(addresses: AddressSet, address: Address) -> bool:
    family, number = address
    ranges = addresses.v4 if family == "4" else addresses.v6
    place = bisect_right(ranges, number, key=lambda r: r[0])  # ranges are sorted and disjoint
    return place > 0 and number <= ranges[place - 1][1]


@dataclass(frozen=True)
class End:
    """The other end of a flow: its address, the endpoint that has it, and its class."""

    address: Address
    endpoint: Endpoint | None
    address_class: AddressClass


@dataclass(frozen=True)
class Level:
    """Rules of one tier and priority: by action (deny, allow, pass), then in source order."""

    priority: int
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class TierRules:
    """What one subject has in one tier and direction: levels by ascending priority, and the policies that isolate it."""

    tier: Tier
    levels: tuple[Level, ...]
    isolating: tuple[Policy, ...]


@dataclass(frozen=True)
class RuleBook:
    """All that decides for one subject in one direction. `selected`: some policy (of those in force) selects it."""

    tiers: tuple[TierRules, ...]
    selected: bool


class EndpointConflict(Exception):
    """Two endpoints share a name or an address."""


class World:
    """A policy with the endpoints and this machine's addresses. `host` adds to 127.0.0.0/8 and ::1.

    Raises EndpointConflict if two endpoints share a name or an address."""

    def __init__(self, policy: PolicySet, endpoints: Iterable[Endpoint] = (), host: Iterable[Address] = ()) -> None:
        self.policy = policy
        self.has_audit = any(p.audit or any(r.audit for r in p.rules) for p in policy.policies)
        self.endpoints: dict[str, Endpoint] = {}
        self.host = tuple(host)
        self._host = frozenset(self.host)
        self._owners: dict[Address, Endpoint] = {}
        self._books: dict[tuple[str, bool, Direction, bool], RuleBook] = {}
        for endpoint in endpoints:
            self._register(endpoint)

    def _register(self, endpoint: Endpoint) -> None:
        if endpoint.name in self.endpoints:
            raise EndpointConflict(f"endpoint {endpoint.name!r} is registered twice")
        self.endpoints[endpoint.name] = endpoint
        for address in endpoint.addresses:
            if address in self._owners:
                raise EndpointConflict(f"an address of {endpoint.name!r} is held by {self._owners[address].name!r}")
            self._owners[address] = endpoint

    # --- addresses ---

    def owner(self, address: Address) -> Endpoint | None:
        return self._owners.get(address)

    def class_of(self, address: Address) -> AddressClass:
        if address in self._owners:
            return AddressClass.ENDPOINTS
        family, number = address
        loopback = number in LOOPBACK_V4 if family == "4" else number == LOOPBACK_V6
        return AddressClass.HOST if loopback or address in self._host else AddressClass.WORLD

    def peer(self, address: Address) -> End:
        return End(address, self.owner(address), self.class_of(address))

    def subject(self, address: Address) -> Subject | None:
        """Who is judged for this address: its endpoint, the host, or nobody (world)."""
        owner = self.owner(address)
        if owner is not None:
            return owner
        return HOST if self.class_of(address) is AddressClass.HOST else None

    def identities(self, address: Address) -> list[str]:
        """Names of the identities that the owner of an address matches, in the policy's order."""
        owner = self.owner(address)
        if owner is not None:
            named = self.policy.identities.items()
            return [name for name, selector in named if selector is not None and selects(selector, owner.labels)]
        if self.class_of(address) is AddressClass.HOST:
            return [name for name, selector in self.policy.identities.items() if selector is None]
        return []

    # --- peers and subjects ---

    def peer_matches(self, peer: Peer, subject: Subject, end: End) -> bool:
        match peer:
            case PeerClass.ANY:
                return True
            case PeerClass.WORLD:
                return end.address_class is AddressClass.WORLD
            case PeerClass.HOST:
                return end.address_class is AddressClass.HOST
            case PeerClass.ENDPOINTS:
                return end.endpoint is not None
            case PeerSelector():
                return end.endpoint is not None and selects(peer.selector, end.endpoint.labels)
            case PeerSame():
                return end.endpoint is not None and subject is not HOST and same(peer.keys, subject, end.endpoint)
            case PeerCidrs():
                world = end.address_class is AddressClass.WORLD
                return (world or not peer.world_only) and contains(peer.addresses, end.address)

    def is_subject(self, subject: Subject, of: PolicySubject) -> bool:
        if subject is HOST:
            return of is PeerClass.HOST
        if isinstance(of, PeerSelector):
            return selects(of.selector, subject.labels)
        return of is PeerClass.ENDPOINTS

    # --- rules of a subject ---

    def book(self, subject: Subject, direction: Direction, *, audited: bool) -> RuleBook:
        """The rules that decide for a subject; `audited` rules and policies are in it or left out. Made once."""
        key = (subject_name(subject), subject is HOST, direction, audited)
        book = self._books.get(key)
        if book is None:
            book = self._books[key] = self._make_book(subject, direction, audited)
        return book

    def _make_book(self, subject: Subject, direction: Direction, audited: bool) -> RuleBook:
        in_force = [p for p in self.policy.policies if audited or not p.audit]
        policies = [p for p in in_force if any(self.is_subject(subject, s) for s in p.subjects)]
        rules = [r for p in policies for r in p.rules if r.direction is direction and (audited or not r.audit)]
        tiers = []
        for tier in Tier:
            isolating = tuple(p for p in policies if p.tier is tier and direction in p.isolation)
            levels = make_levels([r for r in rules if r.tier is tier])
            tiers.append(TierRules(tier, levels, isolating))
        return RuleBook(tuple(tiers), bool(policies))


def make_levels(rules: list[Rule]) -> tuple[Level, ...]:
    priorities = sorted({r.priority for r in rules})
    return tuple(
        Level(p, tuple(sorted((r for r in rules if r.priority == p), key=lambda r: (r.action, r.order))))
        for p in priorities
    )


def same(keys: tuple[str, ...], subject: Endpoint, peer: Endpoint) -> bool:
    """Both have all the keys, with equal values."""
    return all(key in subject.labels and subject.labels[key] == peer.labels.get(key) for key in keys)


def winning_action(rules: Iterable[Rule]) -> Action:
    return min(r.action for r in rules)
