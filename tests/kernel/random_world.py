"""Random policies, endpoints and flows over a small world, so that rules collide; seeded, so that a case can be replayed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from policyc.flows import Flow
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
    Tier,
)
from policyc.reference.verdict import Traffic
from policyc.reference.world import Address

KEYS, VALUES = ("app", "env", "ns"), ("x", "y", "z")
PORTS = (1, 79, 80, 81, 443, 8000, 8100, 8101, 65535)
# Neighbours of every bound that `ranges` draws.
BASES = {"4": (10 << 24, 203 << 24 | 113 << 8, 0), "6": (0x20010DB8 << 96, 0xFD00 << 112, 1 << 64)}
ADDRESSES: dict[str, list[int]] = {
    f: sorted({b + o for b in bases for o in (1, 2, 3, 4, 7, 8, 9, 15, 16)}) for f, bases in BASES.items()
}
ADDRESSES["4"] += [127 << 24 | 1, 2**32 - 1]
ADDRESSES["6"] += [1, 2**128 - 1]


@dataclass(frozen=True)
class Case:
    policy: PolicySet
    endpoints: tuple[Endpoint, ...]
    host: tuple[Address, ...]


def requirement(r: Random) -> Requirement:
    op, key = r.choice(list(Op)), r.choice(KEYS)
    count = {Op.EXISTS: 0, Op.NOT_EXISTS: 0, Op.IN: 2, Op.NOT_IN: 2}.get(op, 1)
    return Requirement(key, op, tuple(r.sample(VALUES, count)))


def selector(r: Random) -> Selector:
    return Selector(tuple(requirement(r) for _ in range(r.choice((0, 1, 1, 2)))))


def merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return tuple(out)


def ranges(r: Random, family: str) -> tuple[tuple[int, int], ...]:
    if r.random() < 0.1:
        return ((0, 2 ** (32 if family == "4" else 128) - 1),)
    drawn = []
    for _ in range(r.randrange(4)):
        low, high = sorted(r.choices(ADDRESSES[family], k=2))
        drawn.append((low, low) if r.random() < 0.4 else (low, high))
    return merged(drawn)


def peer(r: Random) -> Peer:
    kind = r.randrange(8)
    if kind < 2:
        return r.choice(list(PeerClass))
    if kind < 4:
        return PeerSelector(selector(r))
    if kind == 4:
        return PeerSame(tuple(sorted(r.sample(KEYS, r.choice((1, 1, 2))))))
    return PeerCidrs(AddressSet(ranges(r, "4"), ranges(r, "6")), r.random() < 0.4)


def subject(r: Random) -> Subject:
    kind = r.randrange(5)
    if kind == 0:
        return PeerClass.HOST
    return PeerClass.ENDPOINTS if kind == 1 else PeerSelector(selector(r))


def service(r: Random) -> Service:
    kind = r.randrange(6)
    if kind == 0:
        return Service(r.choice((None, 6, 17, 1, 58, 47, 132)))
    if kind == 1:
        return Service(r.choice((1, 58)), None, r.choice((0, 3, 8, 128, 129)), r.choice((None, 0, 1)))
    low, high = sorted(r.choices(PORTS, k=2))
    return Service(r.choice((6, 6, 17, 132)), (low, low) if r.random() < 0.5 else (low, high))


def policy_set(r: Random, policies: int = 5, rules: int = 6, audit: float = 0.15) -> PolicySet:
    """Up to `policies` policies of up to `rules` rules; some audited with probability `audit`."""
    made, order = [], 0
    for number in range(r.randrange(1, policies + 1)):
        name, tier, audited = f"p{number}", r.choice((Tier.NORMAL, *Tier)), r.random() < audit
        own = []
        for n in range(r.randrange(rules + 1)):
            direction = r.choice(list(Direction))
            own.append(
                Rule(
                    order, f"{name}.r{n}", name, direction, tier, r.choice((10, 100, 100, 200)), r.choice(list(Action)),
                    tuple(peer(r) for _ in range(r.choice((1, 1, 2)))), tuple(service(r) for _ in range(r.randrange(4))),
                    r.random() < 0.2, audited or r.random() < audit, Span("a.pol", order + 2, 3, order + 2, 9),
                )
            )  # fmt: skip
            order += 1
        isolation = {
            d: Isolation(r.random() < 0.2, Span("a.pol", 1, 1, 1, 2)) for d in Direction if r.random() < 0.5
        }  # fmt: skip
        subjects = tuple(subject(r) for _ in range(r.choice((1, 1, 2))))
        made.append(Policy(name, subjects, tier, 100, audited, isolation, tuple(own), Span("a.pol", 1, 1, 1, 2)))
    return PolicySet(1, (("a.pol", "0" * 64),), {}, tuple(made), AddressSet())


def endpoints(r: Random) -> tuple[tuple[Endpoint, ...], tuple[Address, ...]]:
    """Endpoints, and this machine's addresses, out of `ADDRESSES`."""
    free: list[Address] = [("4", a) for a in ADDRESSES["4"][:-2]] + [("6", a) for a in ADDRESSES["6"][:-2]]
    r.shuffle(free)
    made = []
    for number in range(6):
        labels = {k: r.choice(VALUES) for k in KEYS if r.random() < 0.7}
        made.append(Endpoint(f"e{number}", tuple(free.pop() for _ in range(r.choice((1, 2, 3)))), labels))
    return tuple(made), tuple(free.pop() for _ in range(3))


def case(r: Random, **shape: float) -> Case:
    ends, host = endpoints(r)
    return Case(policy_set(r, **shape), ends, host)  # type: ignore[arg-type]


def flow(r: Random) -> Flow:
    family = r.choice("46")
    src, dst = (Address_(family, r.choice(ADDRESSES[family])) for _ in range(2))
    protocol = r.choice((6, 6, 6, 17, 132, 1, 58, 47))
    if protocol in (1, 58):
        traffic = Traffic(protocol, None, r.choice((0, 3, 8, 128, 129, 255)), r.choice((0, 0, 1)))
    elif protocol == 47:
        traffic = Traffic(protocol)
    else:
        port = min(max(r.choice(PORTS) + r.choice((-1, 0, 0, 1)), 1), 65535)
        traffic = Traffic(protocol, port)
    return Flow(src, dst, traffic, None, r.choice((None, *Direction)))


def Address_(family: str, number: int) -> Address:
    return (family, number)  # type: ignore[return-value]
