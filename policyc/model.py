"""The checked policy: what a compilation means, with every name resolved.

The front end (`policyc.frontend`) makes a `PolicySet`; the reference evaluator, the IR lowering and the
artifact's manifest read it. It depends on nothing else, is immutable, and holds no source text. Addresses are
integers in host order (an IPv4 address is 0..2**32-1), ports are host-order integers, prefix and port ranges are
inclusive at both ends. Semantics: docs/semantics.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from functools import cached_property
from typing import Literal


class Direction(IntEnum):
    """The direction of a flow as its subject sees it."""

    INGRESS = 0
    EGRESS = 1

    @property
    def word(self) -> str:
        return self.name.lower()


class Tier(IntEnum):
    """Tiers in the order in which they are asked."""

    ADMIN = 0
    NORMAL = 1
    BASELINE = 2

    @property
    def word(self) -> str:
        return self.name.lower()


class Action(IntEnum):
    """Actions in the order in which they win inside a level."""

    DENY = 0
    ALLOW = 1
    PASS = 2

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, order=True)
class Span:
    """A place in a source: lines and columns count from 1, columns in code points; the end is exclusive."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Op(Enum):
    EQ = "=="
    NE = "!="
    IN = "in"
    NOT_IN = "not in"
    EXISTS = "exists"
    NOT_EXISTS = "not exists"


@dataclass(frozen=True)
class Requirement:
    """One condition on a label. `values` has one value for EQ and NE, at least one for IN and NOT_IN, else none."""

    key: str
    op: Op
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selector:
    """Requirements that must all hold, in source order. The empty selector selects every endpoint."""

    requirements: tuple[Requirement, ...] = ()


# --- peers and subjects ---------------------------------------------------------------------------------------


class PeerClass(Enum):
    """A peer that is a class of addresses; ENDPOINTS and HOST also stand as subjects."""

    ANY = "any"
    WORLD = "world"
    HOST = "host"
    ENDPOINTS = "endpoints"


@dataclass(frozen=True)
class AddressSet:
    """Canonical address ranges: inclusive, sorted, disjoint, not adjacent. Empty matches nothing."""

    v4: tuple[tuple[int, int], ...] = ()
    v6: tuple[tuple[int, int], ...] = ()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # many rules share one large set
        return hash((self.v4, self.v6))


@dataclass(frozen=True)
class PeerSelector:
    """Endpoints that match `selector`; `name` is the identity's name, None for an inline selector."""

    selector: Selector
    name: str | None = None


@dataclass(frozen=True)
class PeerSame:
    """`same(key, …)`: an endpoint that has all these keys with the subject's values (subject has them too)."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class PeerCidrs:
    """Addresses of a set, whatever their class; with `world_only` only where the address is of class world."""

    addresses: AddressSet
    world_only: bool = False
    name: str | None = None


Peer = PeerClass | PeerSelector | PeerSame | PeerCidrs
Subject = Literal[PeerClass.HOST, PeerClass.ENDPOINTS] | PeerSelector


# --- services -------------------------------------------------------------------------------------------------

PROTOCOLS_WITH_PORTS = {6: "tcp", 17: "udp", 132: "sctp"}
ICMP, ICMPV6 = 1, 58


@dataclass(frozen=True)
class Service:
    """A protocol by number with, for tcp/udp/sctp, an inclusive destination-port range, or, for icmp/icmpv6, a type
    and perhaps a code. A protocol alone matches every port or type of it. `protocol` None is any protocol."""

    protocol: int | None = None
    ports: tuple[int, int] | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None


# --- L7 -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pattern:
    """A value as written: a plain string, a glob (where globs are said), or a regex `~"…"`, to be matched as UTF-8 bytes, anchored
    at both ends. A glob without wildcards is of kind STRING."""

    kind: Literal["string", "glob", "regex"]
    text: str
    span: Span


@dataclass(frozen=True)
class HttpCondition:
    """`header "NAME" …` or `query "KEY" …`: `values` are alternatives; without any the bare name: present. `absent`: no such line, nor one
    that differs only in `_` for `-`. A header's name is lower-case; a query's key stands decoded."""

    kind: Literal["header", "query"]
    name: str
    values: tuple[Pattern, ...] = ()
    absent: bool = False


@dataclass(frozen=True)
class HttpEntry:
    """One entry of a block: what is given must all hold, several values of one kind are alternatives. No methods: any (`*`); no
    paths, no hosts: any. `upgrade`: None where not said; else lower-case protocols, none given: any. `number` counts from 1 in the block.
    """

    number: int
    action: Literal[Action.ALLOW, Action.DENY]
    methods: tuple[str, ...]
    paths: tuple[Pattern, ...]
    hosts: tuple[Pattern, ...]
    conditions: tuple[HttpCondition, ...]
    upgrade: tuple[str, ...] | None
    body: bool
    span: Span


HTTP_HEAD_LIMIT = 8192  # bytes of a request's head, its last empty line included
HTTP_HEAD_LIMIT_MAX = 64 << 10


@dataclass(frozen=True)
class HttpBlock:
    """`http … { … }` of an allow rule. `audit`: the rule is in force as without a block, the block only reports. `limit`: bytes of a head;
    where blocks of several limits judge a connection the largest holds."""

    entries: tuple[HttpEntry, ...]
    span: Span
    audit: bool = False
    limit: int = HTTP_HEAD_LIMIT


# --- rules and policies ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """One allow, deny or pass. `peers` and `services` are alternatives; no services means any protocol.

    `order` is the rule's place in source order over the whole compilation (from 0, unique); `ref` is
    `POLICY.NAME` or `POLICY.DIRECTION.N`; `tier` and `priority` are resolved; `audit` is true if the rule or its policy
    says so; `span` covers the rule in the source; `http`: the block of an allow rule, which judges its requests."""

    order: int
    ref: str
    policy: str
    direction: Direction
    tier: Tier
    priority: int
    action: Action
    peers: tuple[Peer, ...]
    services: tuple[Service, ...]
    log: bool
    audit: bool
    span: Span
    http: HttpBlock | None = None


@dataclass(frozen=True)
class Isolation:
    """A policy's `default deny` in one direction, stated or implied. `span` is the place that caused it (the
    `default deny` words, else the section)."""

    log: bool
    span: Span


@dataclass(frozen=True)
class Policy:
    """A policy whose names are resolved. `isolation` has a direction only where the policy isolates in it.
    `rules` are in source order, both directions mixed. `audit`: the whole policy only reports."""

    name: str
    subjects: tuple[Subject, ...]
    tier: Tier
    priority: int
    audit: bool
    isolation: dict[Direction, Isolation]
    rules: tuple[Rule, ...]
    span: Span


# --- endpoints and tests ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    """A workload. Addresses are `("4"|"6", integer)`, in the order registered; `labels` maps key to value."""

    name: str
    addresses: tuple[tuple[Literal["4", "6"], int], ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    cgroup: str | None = None
    interface: str | None = None


@dataclass(frozen=True)
class TestEnd:
    """One end of an expectation: an endpoint's or identity's name, `host`, or an address."""

    __test__ = False  # not a pytest class
    kind: Literal["endpoint", "identity", "host", "address"]
    name: str  # as written
    address: tuple[Literal["4", "6"], int] | None = None


@dataclass(frozen=True)
class HttpExpectation:
    """A request of an expectation: `GET "/v1/items?page=2" host "x" header "N" "v"`. `target` is as a client sends it; headers in
    the order written."""

    method: str
    target: str
    host: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Expectation:
    """`allow|deny SRC, … -> DST, … SERVICE, … [REQUEST] [by REF]`. Every combination must hold; without a request it is about the
    connection only."""

    verdict: Literal["allow", "deny"]
    sources: tuple[TestEnd, ...]
    destinations: tuple[TestEnd, ...]
    services: tuple[Service, ...]
    by: str | None
    span: Span
    http: HttpExpectation | None = None


@dataclass(frozen=True)
class Test:
    __test__ = False
    title: str
    endpoints: tuple[Endpoint, ...]
    expectations: tuple[Expectation, ...]
    span: Span


@dataclass(frozen=True)
class PolicySet:
    """A whole compilation. `files` are the sources in reading order with their SHA-256 (hex), names relative to the
    root with `/`. `identities` maps each named identity to its selector (None: no selector, which is `host`).
    `prefixes` is the union of all prefixes, addresses and ranges longer than /0 that the compilation mentions, before any exception."""

    language: int
    files: tuple[tuple[str, str], ...]
    identities: dict[str, Selector | None]
    policies: tuple[Policy, ...]
    prefixes: AddressSet
    tests: tuple[Test, ...] = ()

    @property
    def rules(self) -> list[Rule]:
        """All rules in source order."""
        return sorted((r for p in self.policies for r in p.rules), key=lambda r: r.order)
