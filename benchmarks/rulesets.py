"""Generated rule sets, the same for the same seed, each with endpoints and packets that meet its rules.

The shapes are those that published studies of real filters found (Taylor and Turner, "ClassBench: A Packet Classification
Benchmark", 2007), made anew here: access lists (nested source prefixes, mostly exact ports, an order), firewalls (wildcards,
port ranges, few prefixes), IP chains (both, for several subjects); and a feed of bad addresses (many /32 and /24, few short
prefixes, clustered). `pairs` is what peers can express too: a list of address and port.

Packets are UDP to the server of the set; `Packet` is (source address, destination port)."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from policyc.model import Endpoint

SEED = 7
SERVER = 10 << 24 | 1
FIRST_PORT, PORTS = 1000, 60_000
FEED_FILE = "feed.txt"
Packet = tuple[int, int]
Prefix = tuple[int, int]  # first address, length

# Lengths and how often, out of 100.
FEED_LENGTHS = {32: 68, 24: 20, 22: 3, 23: 3, 21: 1, 20: 2, 19: 1, 16: 1, 28: 1}
ACL_LENGTHS = {32: 30, 30: 4, 28: 10, 27: 6, 26: 6, 24: 24, 23: 4, 22: 5, 20: 5, 16: 6}
FIREWALL_LENGTHS = {32: 45, 24: 30, 16: 15, 8: 10}
SERVICE_PORTS = (21, 22, 25, 53, 80, 110, 123, 143, 161, 389, 443, 445, 514, 993, 1433, 1521, 3306, 3389, 5060, 8080)


@dataclass(frozen=True)
class RuleSet:
    """`files` are what the policy reads besides itself. `packets(rng)` draws a packet that some rule matches; for sets without
    packets it is None."""

    name: str
    rules: int
    text: str
    endpoints: tuple[Endpoint, ...]
    packets: Callable[[random.Random], Packet] | None = None
    files: dict[str, str] = field(default_factory=dict)


def dotted(address: int) -> str:
    return ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))


def written(prefix: Prefix) -> str:
    return f"{dotted(prefix[0])}/{prefix[1]}"


def is_world(address: int) -> bool:
    """Neither what endpoints have nor loopback, multicast or above."""
    return address >> 24 not in (0, 10, 127) and address >> 28 < 14


def server() -> Endpoint:
    return Endpoint("server", (("4", SERVER),), {"app": "server"})


def callers(count: int, apps: int) -> tuple[Endpoint, ...]:
    """Endpoints of `apps` applications, with the labels that a cluster gives its pods."""
    return tuple(
        Endpoint(
            f"e{n}",
            (("4", 10 << 24 | n + 2),),
            {"app": f"app{n % apps}", "zone": f"z{n % 3}", "env": "prod" if n % 5 else "test"},
        )
        for n in range(count)
    )


def draw(rng: random.Random, lengths: dict[int, int]) -> int:
    return rng.choices(list(lengths), list(lengths.values()))[0]


def cut(address: int, length: int) -> Prefix:
    return address >> (32 - length) << (32 - length), length


def inside(rng: random.Random, prefix: Prefix) -> int:
    return prefix[0] | rng.getrandbits(32 - prefix[1]) if prefix[1] < 32 else prefix[0]


def world_address(rng: random.Random) -> int:
    while True:
        address = rng.getrandbits(32)
        if is_world(address):
            return address


def prefixes(rng: random.Random, count: int, lengths: dict[int, int], nested: float) -> list[Prefix]:
    """Different world prefixes; `nested` of them inside one that was drawn before."""
    found: dict[Prefix, None] = {}
    parents: list[Prefix] = []
    while len(found) < count:
        length = draw(rng, lengths)
        base = world_address(rng)
        if parents and rng.random() < nested:
            base = inside(rng, rng.choice(parents))
        prefix = cut(base, length)
        if prefix not in found and is_world(prefix[0]):
            found[prefix] = None
            if length < 30:
                parents.append(prefix)
    return list(found)


def feed(count: int, seed: int = SEED) -> list[Prefix]:
    """A feed of bad addresses: clustered, since bad neighbours live together."""
    rng = random.Random(seed)
    clusters = [cut(world_address(rng), 14) for _ in range(max(count // 200, 8))]
    found: dict[Prefix, None] = {}
    while len(found) < count:
        base = inside(rng, rng.choice(clusters)) if rng.random() < 0.6 else world_address(rng)
        found[cut(base, draw(rng, FEED_LENGTHS))] = None
    return sorted(found)


def feed_text(entries: Sequence[Prefix]) -> str:
    return "".join(f"{written(p)}\n" for p in entries)


class Covered:
    """Whether an address is in any of some prefixes."""

    def __init__(self, entries: Sequence[Prefix]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for first, length in sorted(entries, key=lambda p: (p[0], p[1])):
            end = first + (1 << (32 - length))
            if self._ends and first < self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(first)
                self._ends.append(end)

    def __contains__(self, address: int) -> bool:
        at = bisect_right(self._starts, address) - 1
        return at >= 0 and address < self._ends[at]


# --- rule sets --------------------------------------------------------------------------------------------------------


def empty() -> RuleSet:
    """Denies everything: what each compilation takes at least."""
    return RuleSet("empty", 0, "policy nothing for { app == server } { ingress {} }\n", (server(),))


def services(rules: int, endpoints: int | None = None) -> RuleSet:
    """Each rule allows one application one port."""
    lines = [f"  allow from {{ app == app{n} }} on tcp/{_port(n)}, udp/{_port(n)}" for n in range(rules)]
    count = endpoints if endpoints is not None else rules

    def packets(rng: random.Random) -> Packet:
        n = rng.randrange(count)
        return 10 << 24 | n + 2, _port(n % rules)

    return RuleSet("services", rules, _policy("services", lines), (server(), *callers(count, rules)), packets)


def _port(n: int) -> int:
    return FIRST_PORT + n % PORTS


def _policy(name: str, lines: Sequence[str], subject: str = "{ app == server }") -> str:
    return f"policy {name} for {subject} {{ ingress {{\n" + "\n".join(lines) + "\n} }\n"


def pair_list(rules: int) -> list[Packet]:
    """Different single world addresses, each with a port."""
    rng = random.Random(SEED)
    found: dict[int, int] = {}
    while len(found) < rules:
        found[world_address(rng)] = rng.randrange(1, 65536)
    return list(found.items())


def half_listed(rng: random.Random, listed: Sequence[Packet], count: int) -> list[Packet]:
    """Members of the list and strangers by turns, all random."""
    strangers = ((world_address(rng), rng.randrange(1, 65536)) for _ in range(count // 2))
    return [packet for stranger in strangers for packet in (rng.choice(listed), stranger)]


def pairs(rules: int, action: str = "allow") -> RuleSet:
    """Each rule is about one address and one UDP port; what none matches is denied."""
    listed = pair_list(rules)
    lines = [f"  {action} from {dotted(address)} on udp/{port}" for address, port in listed]
    return RuleSet("pairs", rules, _policy("pairs", lines), (server(),), lambda rng: rng.choice(listed))


def access_list(rules: int) -> RuleSet:
    """Nested source prefixes in an order; mostly exact ports; one rule in five denies."""
    rng = random.Random(SEED)
    sources = prefixes(rng, rules, ACL_LENGTHS, nested=0.55)
    lines = []
    open_rules: list[tuple[Prefix, int]] = []
    for n, source in enumerate(sources):
        service, port = _service(rng, exact=0.8)
        action = "deny" if rng.random() < 0.2 else "allow"
        priority = "" if n * 10 > 1_000_000 else f" priority {n * 10}"
        lines.append(f"  {action} from {written(source)}{service}{priority}")
        if port is not None:
            open_rules.append((source, port))

    def packets(rng: random.Random) -> Packet:
        source, port = rng.choice(open_rules)
        return inside(rng, source), port

    return RuleSet("access list", rules, _policy("acl", lines), (server(),), packets)


def firewall(rules: int) -> RuleSet:
    """Few and short prefixes that come back, wildcards, port ranges, no order: deny beats allow."""
    rng = random.Random(SEED)
    sources = prefixes(rng, max(rules // 6, 4), FIREWALL_LENGTHS, nested=0.3)
    lines = []
    open_rules: list[tuple[Prefix, int]] = []
    for _ in range(rules):
        service, port = _service(rng, exact=0.45)
        source = rng.choice(sources)
        everyone = rng.random() < 0.08
        action = "deny" if not everyone and rng.random() < 0.15 else "allow"
        lines.append(f"  {action} from {'world' if everyone else written(source)}{service}")
        if port is not None:
            open_rules.append((source, port))

    def packets(rng: random.Random) -> Packet:
        source, port = rng.choice(open_rules)
        return inside(rng, source), port

    return RuleSet("firewall", rules, _policy("firewall", lines), (server(),), packets)


def ip_chains(rules: int) -> RuleSet:
    """Prefixes, exact ports and ranges, and applications, for several subjects."""
    rng = random.Random(SEED)
    chains = max(rules // 50, 1)
    sources = prefixes(rng, rules, ACL_LENGTHS, nested=0.4)
    bodies: list[list[str]] = [[] for _ in range(chains)]
    open_rules: list[tuple[Prefix, int]] = []
    for n in range(rules):
        service, port = _service(rng, exact=0.6)
        chain = n % chains
        is_prefix = n // chains % 3 > 0
        peer = written(sources[n]) if is_prefix else f"{{ app == app{n} }}"
        bodies[chain].append(f"  {'deny' if rng.random() < 0.1 else 'allow'} from {peer}{service}")
        if chain == 0 and is_prefix and port is not None:
            open_rules.append((sources[n], port))
    subjects = ["{ app == server }", *(f"{{ app == server, chain == c{n} }}" for n in range(1, chains))]
    text = "".join(_policy(f"chain{n}", bodies[n], subjects[n]) for n in range(chains))

    def packets(rng: random.Random) -> Packet:
        source, port = rng.choice(open_rules)
        return inside(rng, source), port

    return RuleSet("IP chains", rules, text, (server(), *callers(rules, rules)), packets)


def _service(rng: random.Random, exact: float) -> tuple[str, int | None]:
    """A service list as it stands behind `on`, and a UDP port of it, None if it has none."""
    shape = rng.random()
    protocols = rng.choices((("tcp",), ("udp",), ("tcp", "udp")), (45, 20, 35))[0]
    if shape < exact:
        port = rng.choice(SERVICE_PORTS) if rng.random() < 0.5 else rng.randrange(1, 65536)
        form, inner = f"{port}", port
    elif shape < exact + (1 - exact) * 0.4:
        form, inner = "1024-65535", rng.randrange(1024, 65536)
    elif shape < exact + (1 - exact) * 0.8:
        first = rng.randrange(1, 65000)
        last = min(first + rng.choice((1, 4, 10, 99, 500)), 65535)
        form, inner = f"{first}-{last}", rng.randrange(first, last + 1)
    else:
        return ("", rng.randrange(1, 65536)) if rng.random() < 0.3 else (" on udp", rng.randrange(1, 65536))
    return " on " + ", ".join(f"{p}/{form}" for p in protocols), inner if "udp" in protocols else None


def mixed(rules: int, endpoints: int, feed_entries: int) -> RuleSet:
    """The machine of the headline: a feed is denied, half of the other rules are about applications, half about prefixes
    of an access list. Packets: half from endpoints, half from outside, all allowed by a rule."""
    rng = random.Random(SEED)
    bad = feed(feed_entries)
    covered = Covered(bad)
    apps = max(rules // 2, 1)
    sources = prefixes(rng, max(rules - apps - 1, 1), ACL_LENGTHS, nested=0.3)
    lines = [f"  deny from file {FEED_FILE!r}".replace("'", '"')]
    lines += [f"  allow from {{ app == app{n} }} on tcp/{_port(n)}, udp/{_port(n)}" for n in range(apps)]
    ports = [rng.choice(SERVICE_PORTS) if rng.random() < 0.5 else rng.randrange(1, 65536) for _ in sources]
    lines += [f"  allow from {written(s)} on tcp/{p}, udp/{p}" for s, p in zip(sources, ports, strict=True)]

    def packets(rng: random.Random) -> Packet:
        while True:
            if rng.random() < 0.5:
                n = rng.randrange(endpoints)
                return 10 << 24 | n + 2, _port(n % apps)
            n = rng.randrange(len(sources))
            address = inside(rng, sources[n])
            if address not in covered:
                return address, ports[n]

    text = _policy("edge", lines)
    files = {FEED_FILE: feed_text(bad)}
    return RuleSet("mixed", rules, text, (server(), *callers(endpoints, apps)), packets, files)


def classbench(rules: int) -> Iterator[RuleSet]:
    for make in (access_list, firewall, ip_chains):
        yield make(rules)
