"""Random policies (as text) and who is there, over a small world, so that rules collide; weighted towards the edges of what the policy names."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from policyc.flows import Flow
from policyc.model import (
    ICMP,
    ICMPV6,
    PROTOCOLS_WITH_PORTS,
    Action,
    Direction,
    Endpoint,
    PeerCidrs,
    PolicySet,
    Rule,
    Service,
    Tier,
)
from policyc.reference.verdict import Traffic
from policyc.reference.world import Address

KEYS, VALUES = ("app", "env", "ns"), ("x", "y", "z")
PORTS = (1, 79, 80, 81, 443, 8000, 8100, 8101, 65535)
EXTENSIONS = (0, 43, 44, 60)  # IPv6 extension headers: no protocols of packets
ICMP_TYPES = (0, 3, 8, 11, 13, 128, 129, 255)
WIDTHS = {"4": 32, "6": 128}
BASES = {"4": (10 << 24, 203 << 24 | 113 << 8, 0), "6": (0x20010DB8 << 96, 0xFD00 << 112, 1 << 64)}
OFFSETS = (1, 2, 3, 4, 7, 8, 9, 15, 16)
LENGTHS = {"4": (0, 1, 8, 24, 27, 28, 29, 30, 31, 32, 32), "6": (0, 1, 32, 64, 65, 120, 124, 126, 127, 128, 128)}
ADDRESSES = {f: sorted({b + o for b in bases for o in OFFSETS}) for f, bases in BASES.items()}
LOOPBACK = {"4": 127 << 24 | 1, "6": 1}
NAMES = tuple(f"e{n}" for n in range(8))


# --- policies ---------------------------------------------------------------------------------------------------


def selector(r: Random) -> str:
    """Of two different keys at most: some labels meet it."""
    return "{ " + ", ".join(_requirement(r, key) for key in r.sample(KEYS, r.choice((0, 1, 1, 2)))) + " }"


def _requirement(r: Random, key: str) -> str:
    a, b = r.sample(VALUES, 2)
    forms = f"{key} == {a}", f"{key} != {a}", f"{key} in ({a}, {b})", f"{key} not in ({a}, {b})"
    return r.choice((*forms, f"exists {key}", f"not exists {key}"))


def _prefix(family: str, number: int, length: int) -> str:
    number &= -1 << WIDTHS[family] - length
    address = ipaddress.IPv4Address(number) if family == "4" else ipaddress.IPv6Address(number)
    return f"{address}/{length}"


def _entry(r: Random) -> str:
    """A prefix, perhaps with up to three holes of a quarter or less."""
    family = r.choice("46")
    number, length = r.choice(ADDRESSES[family]), r.choice(LENGTHS[family])
    holes = []
    lengths = [n for n in LENGTHS[family] if n >= length + 2]
    while lengths and r.random() < 0.3 and len(holes) < 3:
        inside = number ^ r.getrandbits(min(WIDTHS[family] - length, 5))
        holes.append(_prefix(family, inside, r.choice(lengths)))
    text = _prefix(family, number, length)
    return f"{text} except [ {', '.join(holes)} ]" if holes else text


def peer(r: Random, same: bool = True) -> str:
    kind = r.randrange(9)
    if kind < 2:
        return r.choice(("any", "world", "host", "endpoints"))
    if kind < 4:
        return selector(r)
    if kind == 4 and same:
        return f"same({', '.join(sorted(r.sample(KEYS, r.choice((1, 1, 2)))))})"
    entries = "[ " + ", ".join(_entry(r) for _ in range(r.choice((0, 1, 1, 1, 2, 3)))) + " ]"
    return f"world({entries})" if r.random() < 0.4 else entries


def service(r: Random) -> str:
    kind = r.randrange(7)
    if kind == 0:
        return r.choice(("any", "tcp", "udp", "icmp", "icmpv6", "proto 47", "sctp", "proto 255"))
    if kind == 1:
        code = r.choice(("", "", "/0", "/1"))
        return f"{r.choice(('icmp', 'icmpv6'))}/{r.choice(ICMP_TYPES)}{code}"
    low, high = sorted(r.choices(PORTS, k=2))
    return f"{r.choice(('tcp', 'tcp', 'udp', 'sctp'))}/{low}" + (f"-{high}" if r.random() < 0.5 and low < high else "")


def policies(r: Random) -> str:
    """A policy file: one policy a block, one rule a line (what the shrinker takes away). Wide ones have one subject and many rules."""
    if r.random() < 0.25:
        return _policy(r, 0, rules=r.choice((20, 50)), subjects=("endpoints", "host"))
    count, rules = r.randrange(1, 7), r.choice((2, 6, 6, 12))
    return "\n".join(_policy(r, number, rules) for number in range(count))


def _policy(r: Random, number: int, rules: int, subjects: Sequence[str] = ()) -> str:
    who = subjects or [r.choice(("host", "endpoints", selector(r), selector(r))) for _ in range(r.choice((1, 1, 2)))]
    tier = r.choice((Tier.NORMAL, *Tier)).word
    words = [f"policy p{number} for {', '.join(who)} tier {tier}"]
    words += [f"priority {r.choice((10, 100))}"] * (r.random() < 0.3) + ["audit"] * (r.random() < 0.12)
    words += [_default(r)] * (r.random() < 0.2)
    lines = [" ".join(words) + " {"]
    for direction in Direction:
        if r.random() < 0.8:
            stated = f" {_default(r)}" if r.random() < (0.7 if tier == "normal" else 0.4) else ""
            lines.append(f"  {direction.word}{stated} {{")
            same = set(who) != {"host"}
            lines += [_rule(r, direction, f"{direction.word[0]}{n}", same) for n in range(r.randrange(rules + 1))]
            lines.append("  }")
    return "\n".join([*lines, "}\n"])


def _default(r: Random) -> str:
    return r.choice(("default deny", "default deny log", "default pass", "default pass"))


def _rule(r: Random, direction: Direction, name: str, same: bool) -> str:
    side = "from" if direction is Direction.INGRESS else "to"
    action = r.choice((*Action, Action.ALLOW)).word
    text = f"    {action} {side} {', '.join(peer(r, same) for _ in range(r.choice((1, 1, 2))))}"
    services = [service(r) for _ in range(r.randrange(4))]
    text += f" on {', '.join(services)}" if services else ""
    text += f" priority {r.choice((10, 100, 200))}" if r.random() < 0.5 else ""
    return text + " log" * (r.random() < 0.2) + " audit" * (r.random() < 0.12) + f" as {name}"


# --- edges ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hint:
    """What a rule names, with the neighbours of its bounds. `services`: protocol, and port or type << 8 | code; `peers`: addresses of its
    prefixes by family."""

    direction: Direction
    services: tuple[tuple[int, int], ...]
    peers: dict[str, list[int]]


@dataclass(frozen=True)
class Edges:
    """What is worth sending: the neighbours of every bound that a policy names, and some that it does not."""

    addresses: dict[str, list[int]]
    ports: list[int]
    protocols: list[int]  # without those that have ports or types
    icmp: list[tuple[int, int]]  # type, code
    hints: list[Hint]


def edges(policy: PolicySet) -> Edges:
    addresses = {f: set(ADDRESSES[f]) | {LOOPBACK[f], 2 ** WIDTHS[f] - 1} for f in WIDTHS}
    hints = [_hint(rule) for rule in policy.rules]
    services = {s for hint in hints for s in hint.services}
    for hint in hints:
        for family, numbers in hint.peers.items():
            addresses[family] |= set(numbers)
    ports = {n for protocol, n in services if protocol in PROTOCOLS_WITH_PORTS}
    icmp = {(n >> 8, n & 255) for protocol, n in services if protocol in (ICMP, ICMPV6)}
    others = {p for p, _ in services} - {ICMP, ICMPV6, *PROTOCOLS_WITH_PORTS}
    return Edges(
        {f: sorted(n) for f, n in addresses.items()},
        sorted(ports | set(PORTS)),
        sorted(others | {47, 0, 255}),
        sorted(icmp | {(8, 0), (128, 0), (0, 0), (129, 0)}),
        hints,
    )


def _hint(rule: Rule) -> Hint:
    services = {near for service in rule.services for near in _near(service)}
    peers: dict[str, set[int]] = {"4": set(), "6": set()}
    for end in rule.peers:
        if isinstance(end, PeerCidrs):
            for family, ranges in (("4", end.addresses.v4), ("6", end.addresses.v6)):
                near = (n for low, high in ranges for n in (low - 1, low, high, high + 1))
                peers[family] |= {n for n in near if 0 < n < 2 ** WIDTHS[family]}
    return Hint(rule.direction, tuple(sorted(services)), {f: sorted(n) for f, n in peers.items()})


def _near(service: Service) -> set[tuple[int, int]]:
    protocol = service.protocol
    if protocol is None:
        return set()
    if service.ports is not None:
        low, high = service.ports
        return {(protocol, n) for n in (low - 1, low, low + 1, high - 1, high, high + 1) if n < 1 << 16}
    if service.icmp_type is not None:
        kind, code = service.icmp_type, service.icmp_code or 0
        return {(protocol, (k & 255) << 8 | c & 255) for k in (kind, kind + 1) for c in (code, code + 1)}
    return {((protocol + d) & 255, 80 << 8 | 1) for d in (-1, 0, 0, 1)} - {(p, 80 << 8 | 1) for p in EXTENSIONS}


# --- who is there -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Who:
    """Endpoints, this machine's addresses, and who is bound: to the workload's device, to the caller's cgroup (`inner`) and its parent
    (`outer`), or `elsewhere`. `streams_only` and `own_netns` are about the inner cgroup."""

    endpoints: tuple[Endpoint, ...]
    host: tuple[Address, ...]
    workload: str | None = None
    inner: str | None = None
    outer: str | None = None
    elsewhere: tuple[str, ...] = ()
    streams_only: bool = False
    own_netns: bool = False

    def owner(self, address: Address) -> str | None:
        """The endpoint's name; "" for this machine's addresses."""
        for endpoint in self.endpoints:
            if address in endpoint.addresses:
                return endpoint.name
        return "" if address in self.host or address[1] == LOOPBACK[address[0]] else None

    @property
    def names(self) -> list[str]:
        return [e.name for e in self.endpoints]


def _address(family: str, number: int) -> Address:
    return ("4", number) if family == "4" else ("6", number)


def text(one: Address) -> str:
    return str(ipaddress.IPv4Address(one[1]) if one[0] == "4" else ipaddress.IPv6Address(one[1]))


def address(written: str) -> Address:
    parsed = ipaddress.ip_address(written)
    return _address(str(parsed.version), int(parsed))


def _labels(r: Random) -> dict[str, str]:
    return {k: r.choice(VALUES) for k in KEYS if r.random() < 0.7}


def who(r: Random, edge: Edges) -> Who:
    free = [_address(f, n) for f in WIDTHS for n in edge.addresses[f] if n not in (LOOPBACK[f], 2 ** WIDTHS[f] - 1)]
    r.shuffle(free)
    names = NAMES[: r.choice((4, 6, 8))]
    ends = tuple(Endpoint(n, tuple(free.pop() for _ in range(r.choice((1, 2, 2, 3)))), _labels(r)) for n in names)
    drawn = Who(ends, tuple(free.pop() for _ in range(3)))
    if r.random() < 0.15:  # an endpoint without addresses owns the host's
        drawn = replace(drawn, endpoints=(*drawn.endpoints, Endpoint("e8", (), _labels(r))))
    return _bound(r, drawn)


def _bound(r: Random, drawn: Who) -> Who:
    names = drawn.names[::-1] if r.random() < 0.3 else r.sample(drawn.names, len(drawn.names))
    workload, inner, outer, other, *_ = names
    return replace(
        drawn,
        workload=workload if r.random() < 0.95 else None,
        inner=inner if r.random() < 0.7 else None,
        outer=outer if r.random() < 0.8 else None,
        elsewhere=(other,) if r.random() < 0.4 else (),
        streams_only=r.random() < 0.1,
        own_netns=r.random() < 0.4,
    )


def changed(r: Random, now: Who, edge: Edges) -> Who:
    """What an operator or an orchestrator does to endpoints while connections live."""
    kind, ends = r.randrange(7), list(now.endpoints)
    at = r.randrange(len(ends))
    taken = {a for e in ends for a in e.addresses} | set(now.host)
    if kind == 0:  # identities change hands
        labels = [e.labels for e in ends]
        r.shuffle(labels)
        ends = [replace(e, labels=new) for e, new in zip(ends, labels, strict=True)]
    elif kind == 1:
        ends[at] = replace(ends[at], labels=_labels(r))
    elif kind == 2 and ends[at].addresses:  # an address moves to another endpoint
        moving, to = r.choice(ends[at].addresses), r.randrange(len(ends))
        ends[at] = replace(ends[at], addresses=tuple(a for a in ends[at].addresses if a != moving))
        ends[to] = replace(ends[to], addresses=(*ends[to].addresses, moving))
    elif kind == 3:  # or comes
        family = r.choice("46")
        new = _address(family, r.choice(edge.addresses[family]))
        if new not in taken and new[1] != LOOPBACK[family]:
            ends[at] = replace(ends[at], addresses=(*ends[at].addresses, new))
    elif kind == 4 and len(ends) > 4:  # an endpoint goes
        gone = ends.pop(at).name
        keep = {n: None if getattr(now, n) == gone else getattr(now, n) for n in ("inner", "outer")}
        now = replace(now, **keep, elsewhere=tuple(n for n in now.elsewhere if n != gone))
    elif kind == 5:  # this machine's addresses change
        family = r.choice("46")
        new = _address(family, r.choice(edge.addresses[family]))
        now = replace(now, host=(*now.host[1:], *([new] if new not in taken else [])))
    else:
        now = _bound(r, now)
    return replace(now, endpoints=tuple(ends))


# --- flows ------------------------------------------------------------------------------------------------------


def flow(r: Random, edge: Edges, now: Who) -> Flow:
    """The first packet of a connection, mostly of or to somebody who is judged."""
    family = r.choice("46")
    known = [a for e in now.endpoints for a in e.addresses if a[0] == family] + [a for a in now.host if a[0] == family]
    ends = [_address(family, r.choice(edge.addresses[family])) for _ in range(2)]
    if known and r.random() < 0.9:
        ends[r.randrange(2)] = r.choice(known)
    protocol = r.choice((6, 6, 6, 17, 132, 1, 58, 47))
    if protocol in (1, 58):
        traffic = Traffic(protocol, None, *r.choice(edge.icmp))
    elif protocol == 47:
        traffic = Traffic(r.choice([p for p in edge.protocols if p]))
    else:
        traffic = Traffic(protocol, r.choice(edge.ports))
    return Flow(ends[0], ends[1], traffic, None, r.choice((None, *Direction)))
