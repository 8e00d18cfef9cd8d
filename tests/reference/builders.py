"""Policies, endpoints and flows in few words, for the tests of the reference evaluator."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from policyc.model import (
    Action,
    AddressSet,
    Direction,
    Endpoint,
    Isolation,
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
    Span,
    Subject,
    Test,
    Tier,
)
from policyc.reference.verdict import Judgement, Traffic, judge
from policyc.reference.world import HOST, Address, World

IN, OUT = Direction.INGRESS, Direction.EGRESS
ANY, WORLD_PEER, HOST_PEER, ENDPOINTS = PeerClass.ANY, PeerClass.WORLD, PeerClass.HOST, PeerClass.ENDPOINTS
_OPS = {"==": Op.EQ, "!=": Op.NE, "in": Op.IN, "not in": Op.NOT_IN, "exists": Op.EXISTS, "not exists": Op.NOT_EXISTS}


def span(line: int = 1, column: int = 1) -> Span:
    return Span("t.pol", line, column, line, column + 1)


def addr(text: str) -> Address:
    parsed = ipaddress.ip_address(text)
    return ("4", int(parsed)) if parsed.version == 4 else ("6", int(parsed))


def ranges(*prefixes: str) -> AddressSet:
    """Disjoint prefixes of either family."""
    nets = [ipaddress.ip_network(p) for p in prefixes]
    v4, v6 = (
        tuple(sorted((int(n[0]), int(n[-1])) for n in nets if n.version == version)) for version in (4, 6)
    )  # fmt: skip
    return AddressSet(v4, v6)


def cidr(*prefixes: str, world: bool = False) -> PeerCidrs:
    return PeerCidrs(ranges(*prefixes), world)


def sel(*requirements: tuple[str, ...], **labels: str) -> Selector:
    """`sel(app="web")`, `sel(("exists", "ns"), ("in", "app", "a", "b"))`."""
    equal = [Requirement(k, Op.EQ, (v,)) for k, v in labels.items()]
    return Selector(tuple(equal + [Requirement(r[1], _OPS[r[0]], r[2:]) for r in requirements]))


def peer(*requirements: tuple[str, ...], **labels: str) -> PeerSelector:
    return PeerSelector(sel(*requirements, **labels))


def same(*keys: str) -> PeerSame:
    return PeerSame(keys)


def tcp(first: int | None = None, last: int | None = None) -> Service:
    return Service(6, None if first is None else (first, last or first))


def udp(first: int | None = None, last: int | None = None) -> Service:
    return Service(17, None if first is None else (first, last or first))


def icmp(kind: int | None = None, code: int | None = None, protocol: int = 1) -> Service:
    return Service(protocol, icmp_type=kind, icmp_code=code)


def rule(
    action: str,
    peers: Peer | list[Peer] = ANY,
    *services: Service,
    direction: Direction = IN,
    priority: int | None = None,
    tier: Tier | None = None,
    log: bool = False,
    audit: bool = False,
    name: str | None = None,
) -> Rule:
    """A rule whose place, policy and tier `policy` fills in."""
    peers = peers if isinstance(peers, list) else [peers]
    return Rule(
        0, name or "", "", direction, tier or Tier.NORMAL, -1 if priority is None else priority,
        Action[action.upper()], tuple(peers), tuple(services), log, audit, span(),
    )  # fmt: skip


def policy(
    *rules: Rule,
    name: str = "p",
    on: Subject | list[Subject] = ENDPOINTS,
    tier: Tier = Tier.NORMAL,
    priority: int = 100,
    audit: bool = False,
    isolate: tuple[Direction, ...] | None = None,
    log: bool = False,
) -> Policy:
    """`isolate` defaults to the directions of the rules in the normal tier, to none in the others."""
    if isolate is None:
        isolate = tuple(sorted({r.direction for r in rules})) if tier is Tier.NORMAL else ()
    counts = dict.fromkeys(Direction, 0)
    filled = []
    for r in rules:
        counts[r.direction] += 1
        ref = f"{name}.{r.ref or f'{r.direction.word}.{counts[r.direction]}'}"
        own = priority if r.priority < 0 else r.priority
        filled.append(replace(r, ref=ref, policy=name, tier=tier, priority=own, audit=r.audit or audit))
    subjects = tuple(on) if isinstance(on, list) else (on,)
    isolation = {d: Isolation(log, span()) for d in isolate}
    return Policy(name, subjects, tier, priority, audit, isolation, tuple(filled), span())


def policies(
    *items: Policy,
    identities: dict[str, Selector | None] | None = None,
    prefixes: AddressSet | None = None,
    tests: tuple[Test, ...] = (),
) -> PolicySet:
    """A compilation; rules are numbered in the order given, one a line."""
    order, numbered = 0, []
    for item in items:
        rules = []
        for r in item.rules:
            rules.append(replace(r, order=order, span=span(order + 1)))
            order += 1
        numbered.append(replace(item, rules=tuple(rules)))
    return PolicySet(1, (), identities or {}, tuple(numbered), prefixes or AddressSet(), tests)


def ep(name: str, *addresses: str, cgroup: str | None = None, **labels: str) -> Endpoint:
    return Endpoint(name, tuple(addr(a) for a in addresses), labels, cgroup)


WEB = ep("web", "10.0.0.1", "2001:db8::1", app="web", ns="shop")
DB = ep("db", "10.0.0.2", "2001:db8::2", app="db", ns="shop")
JOB = ep("job", "10.0.0.3", app="job", ns="batch")
BARE = ep("bare", "10.0.0.4")
ALL = (WEB, DB, JOB, BARE)
THIS_MACHINE = ("192.168.0.1", "fd00::1")
OUTSIDE = "203.0.113.7"


def world(*items: Policy, endpoints: tuple[Endpoint, ...] = ALL, **more: object) -> World:
    return World(policies(*items, **more), endpoints, [addr(a) for a in THIS_MACHINE])  # type: ignore[arg-type]


def ask(
    w: World,
    source: str,
    subject: str = "web",
    traffic: Traffic | int = 80,
    direction: Direction = IN,
) -> Judgement:
    """Judge one direction; `source` is the peer's address or endpoint, an integer is a tcp port."""
    who = HOST if subject == "host" else w.endpoints[subject]
    other = w.endpoints[source].addresses[0] if source in w.endpoints else addr(source)
    seen = Traffic(6, traffic) if isinstance(traffic, int) else traffic
    return judge(w, who, direction, other, seen)


def says(judgement: Judgement) -> tuple[str, str, str | None]:
    """Verdict, reason and reference."""
    return judgement.verdict, judgement.reason, judgement.rule.ref if judgement.rule else None
