"""Generated policies of a given size, the same for the same seed."""

from __future__ import annotations

import random

SEED = 7


def services(rules: int) -> str:
    """`rules` allow rules, each for an identity of its own and one port."""
    lines = [
        f"  allow from {{ app == app{n} }} on tcp/{1000 + n % 60000}, udp/{1000 + n % 60000}" for n in range(rules)
    ]
    return "policy services for { app == server } { ingress {\n" + "\n".join(lines) + "\n} }\n"


def blocklist(prefixes: int) -> str:
    """A set of random prefixes that is denied; everything else is let in on udp."""
    rng = random.Random(SEED)
    entries: set[str] = set()
    while len(entries) < prefixes:
        length = rng.choice((16, 20, 22, 24, 24, 24, 32))
        address = rng.getrandbits(32) >> (32 - length) << (32 - length)
        octets = ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))
        if not octets.startswith(("0.", "10.", "127.")) and address >> 28 < 14:
            entries.add(f"{octets}/{length}")
    listed = ",\n  ".join(sorted(entries))
    return f"cidr bad = [\n  {listed}\n]\npolicy block for {{ app == server }} {{ ingress {{\n  deny from bad\n  allow from any on udp\n}} }}\n"
