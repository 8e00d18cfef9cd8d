"""Random policies, derived from the grammar itself, and what a slip, a broken disk or an enemy makes of a text."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random

from lark import Lark
from lark.grammar import NonTerminal, Rule, Symbol

import policyc.grammar.parser as parser
from policyc.grammar import lexer

GRAMMAR = Path(parser.__file__).with_name("policy.lark")
# What the language keeps a place for; it makes most programs end at `not-there-yet`.
RESERVED = frozenset({"service_decl", "claim", "cidr_at_load", "_l7", "l7_expectation", "language", "include"})
NAMES = ("web", "db", "net", "feeds", "common", "alone", "p", "q")
DECLARED = """identity web { app == web }
identity db { app in (db, cache), env != dev }
identity alone
cidr net = [ 10.0.0.0/8 except [ 10.1.0.0/16, 10.2.3.4 ], 2001:db8::/32, 192.0.2.7 ]
cidr feeds = [ net, 203.0.113.0/24 ] except [ 203.0.113.9 ]
ports common = [ tcp/80, udp/53, icmp/echo-request, proto 112 ]
"""
POOLS: dict[str, tuple[str, ...]] = {
    "NAME": NAMES,
    "LABEL": ("app", "deny", "from", "port"),
    "WORD": ("k8s:app", "a.b", "80tcp", "v1/x", "--", "tcp/", "1-2"),
    "NUMBER": ("0", "1", "7", "100", "255", "256", "1000000", "4294967295", "9999999999"),
    "ADDRESS": (
        "10.0.0.0/8",
        "192.0.2.1",
        "0.0.0.0/0",
        "::/0",
        "::1",
        "2001:db8::/33",
        "::ffff:1.2.3.4",
        "10.0.0.1/8",
        "1.2.3",
        "255.255.255.255/32",
        "ffff::/128",
        "10.0.0.0/33",
        "fe80::1/64",
    ),
    "SERVICE": (
        "tcp/80",
        "tcp/1-65535",
        "udp/53",
        "sctp/9",
        "icmp",
        "icmpv6/128",
        "icmp/3/1",
        "tcp/0",
        "tcp/99999",
        "udp/90-80",
        "icmp/unreachable",
        "tcp",
        "icmp/8/0/1",
    ),
    "STRING": ('"web"', '""', '"é"', '"a b"', '"10"', '"\\\\"', '"../x"', '"x.txt"', '"' + "y" * 300 + '"'),
}
# What stands for a part of a rule instead of words put together at random, mostly.
PARTS: dict[str, tuple[str, ...]] = {
    "http_methods": ("*", "GET", "GET, HEAD", "POST", "PURGE", "CONNECT", "OPTIONS", "get", "GETT", "*, GET"),
    "pattern": (
        *(
            '"/v1/**"',
            '"/"',
            '"/a/*/b*"',
            '"/**/x"',
            '"*"',
            '"/a b;c"',
            '"/é"',
            '"http://x/**"',
            '"x:443"',
            '"//"',
            '"/%41"',
        ),
        *(
            '"api.example"',
            '"*.example"',
            '"**.Example"',
            '"[::1]"',
            '"a."',
            '"a:80"',
            '"v"',
            '""',
            '" v"',
            '"websocket"',
        ),
        *('~"[0-9]+"', '~"/(a|b)*"', '~"a{2,3}\\."', '~"("', '~"\\d\\"', '~""', '~".*"', '~"é?"', '~"[^/]{900}"'),
    ),
}
ODD = (
    *("\0", "\r", "\r\n", "\ufeff", "\u202e", "\u2028", "é", "\U0001f600", "\t", "\v", "\x1b[31m", "'", '"', "\\", ";"),
    *("#", "{" * 70, "}" * 70, "(" * 70, "9" * 5000, "x" * 5000, "," * 50, "-", "->", "~", "*", "==", "0x10", "٣"),
)


@cache
def _rules() -> dict[str, list[Rule]]:
    lark = Lark(
        GRAMMAR.read_text(encoding="utf-8"),
        parser="lalr",
        lexer=parser._NoLexer,
        start="file",
        keep_all_tokens=True,
        maybe_placeholders=False,
    )
    found: dict[str, list[Rule]] = {}
    for rule in lark.rules:
        found.setdefault(rule.origin.name, []).append(rule)
    return found


@cache
def _depths() -> dict[str, int]:
    """The depth of the shallowest tree of each nonterminal."""
    depths: dict[str, int] = {}
    while True:
        before = len(depths), sum(depths.values())
        for name, rules in _rules().items():
            known = [d for d in (_depth(rule, depths) for rule in rules) if d is not None]
            if known:
                depths[name] = min(known)
        if before == (len(depths), sum(depths.values())):
            return depths


def _depth(rule: Rule, depths: dict[str, int]) -> int | None:
    inner = [depths.get(s.name) for s in rule.expansion if isinstance(s, NonTerminal)]
    return None if None in inner else 1 + max((d for d in inner if d is not None), default=0)


def _usable(rule: Rule, reserved: bool) -> bool:
    parts = {rule.origin.name, *(s.name for s in rule.expansion)}
    return reserved or not parts & (RESERVED | {"VIA"})


def derive(random: Random, start: str = "file", reserved: bool = False, size: int = 300) -> list[str]:
    """The words of a random sentence of the grammar, of about `size` of them at most."""
    words: list[str] = []
    stack: list[tuple[Symbol, int]] = [(NonTerminal(start), 0)]
    while stack:
        symbol, depth = stack.pop()
        if not isinstance(symbol, NonTerminal):
            words.append(_spelled(random, symbol.name))
            continue
        if symbol.name in PARTS and random.random() < 0.9:
            words.append(random.choice(PARTS[symbol.name]))
            continue
        rules = [r for r in _rules()[symbol.name] if _usable(r, reserved)] or _rules()[symbol.name]
        if depth > 40 or len(words) + len(stack) > size:
            least = min(_depth(r, _depths()) or 0 for r in rules)
            rules = [r for r in rules if _depth(r, _depths()) == least]
        rule = random.choice(rules)
        stack.extend((s, depth + 1) for s in reversed(rule.expansion))
    return words


def _spelled(random: Random, terminal: str) -> str:
    return lexer.SPELLING.get(terminal) or random.choice(POOLS[terminal])


def program(random: Random) -> str:
    """A text that parses but perhaps means nothing."""
    items = [derive(random, "item", random.random() < 0.05, 120) for _ in range(random.randint(1, 6))]
    rules = [derive(random, "policy", False, 150) for _ in range(random.randint(0, 4))]
    lines = [" ".join(words) for words in [*items, *rules]]
    if random.random() < 0.3:
        lines = [line.replace(" { ", " {\n  ").replace(" allow ", "\n  allow ") for line in lines]
    return DECLARED * (random.random() < 0.8) + "\n".join(lines) + "\n"


def sound(random: Random) -> str:
    """A policy that mostly means something: rules from the grammar's parts, with names that are declared."""
    lines = [DECLARED]
    for index in range(random.randint(1, 4)):
        tier = random.choice(["", " tier admin", " tier baseline"]) + random.choice(["", f" priority {index * 9}"])
        tail = random.choice(["", " default deny", " default pass", " audit"])
        lines.append(f"policy r{index} for {random.choice(SUBJECTS)}{tier}{tail} {{")
        for section, side in (("ingress", "from"), ("egress", "to")):
            rules = "\n".join(_rule(random, side) for _ in range(random.randint(0, 6)))
            lines.append(f"  {section} {{\n{rules}\n  }}")
        lines.append("}")
    return "\n".join(lines) + "\n"


SUBJECTS = ("web", "db", "endpoints", "host", "alone", "{ app == x }", "web, { exists k }", "host, endpoints")
PEERS = ("web", "db", "any", "world", "host", "endpoints", "net", "feeds", "{ app != web }", "same(app)", "10.0.0.0/8")
PEERS += ("world(net, 2001:db8::/32)", "[ 10.0.0.0/8 except 10.0.0.0/9 ]", "::/0", "{ not exists k, a in (b, c) }")
SERVICES = ("tcp/80", "common", "any", "udp/1-65535", "icmp", "icmpv6/128", "proto 50", "tcp/1000-2000, sctp/9", "tcp")


def _rule(random: Random, side: str) -> str:
    peers = ", ".join(random.choices(PEERS, k=random.randint(1, 3)))
    services = f" on {', '.join(random.choices(SERVICES, k=random.randint(1, 3)))}" if random.random() < 0.7 else ""
    more = random.choice(["", "", " log", " audit", f" priority {random.randrange(200)}"])
    if random.random() < 0.15:
        return f"    allow {side} {peers} on {random.choice(TCP)} {_block(random)}{more}"
    return f"    {random.choice(['allow', 'deny', 'pass'])} {side} {peers}{services}{more}"


TCP = ("tcp", "tcp/80", "tcp/80, tcp/8000-8100", "[ tcp/1-65535 ]")
METHODS = ("*", "GET", "GET, HEAD", "POST", "PURGE", "OPTIONS")
PATHS = ("", ' "/v1/**"', ' "/", "/a/*/b*"', ' ~"/(a|b)[0-9]{1,3}"', ' "/é;x", "http://x/**"')
CONDITIONS = (
    (' host "api.example", "*.Example"', ' host ~"[a-z.]+"'),
    (' header "X-Key"', ' header "x_old" absent', ' header "Accept" "a", ~"b*"'),
    (' query "page" ~"[0-9]+"', ' query "page" absent'),
    (" upgrade", ' upgrade "websocket"'),
    (" body",),
)


def _block(random: Random) -> str:
    options = random.choice(["", "", " audit", " limit 32k", " limit 256 audit"])
    entries = "".join(_entry(random) for _ in range(random.randint(0, 5)))
    return f"http{options} {{{entries}\n    }}"


def _entry(random: Random) -> str:
    conditions = "".join(random.choice(kind) for kind in random.sample(CONDITIONS, random.choice([0, 0, 1, 2, 5])))
    action = random.choice(["", "", "allow ", "deny "])
    return f"\n      {action}{random.choice(METHODS)}{random.choice(PATHS)}{conditions}"


# --- what goes wrong with texts ---------------------------------------------------------------------------------


def broken(random: Random, text: str) -> str:
    """The text with one to six mistakes: words lost, doubled, swapped, put in; characters lost or put in; an end cut off."""
    for _ in range(random.choice([1, 1, 2, 3, 6])):
        text = random.choice(_MISTAKES)(random, text)
    return text


def damaged(random: Random, data: bytes) -> bytes:
    """The bytes with some flipped, cut off, moved or doubled."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 5, 20])):
        at = random.randrange(len(changed) + 1)
        match random.randrange(5):
            case 0 if at < len(changed):
                changed[at] ^= 1 << random.randrange(8)
            case 1:
                del changed[at : at + random.choice([1, 2, 8, 200])]
            case 2:
                changed[at:at] = random.randbytes(random.choice([1, 2, 8]))
            case 3:
                changed[at:at] = changed[: random.randrange(60)]
            case _ if random.random() < 0.2:
                del changed[at:]
    return bytes(changed)


def _words(text: str) -> list[str]:
    return text.split(" ")


def _lose(random: Random, text: str) -> str:
    words = _words(text)
    del words[random.randrange(len(words))]
    return " ".join(words)


def _double(random: Random, text: str) -> str:
    words = _words(text)
    at = random.randrange(len(words))
    return " ".join([*words[:at], *[words[at]] * random.choice([2, 3, 40]), *words[at + 1 :]])


def _swap(random: Random, text: str) -> str:
    words = _words(text)
    a, b = random.randrange(len(words)), random.randrange(len(words))
    words[a], words[b] = words[b], words[a]
    return " ".join(words)


def _put_in(random: Random, text: str) -> str:
    words = _words(text)
    known = list(lexer.KEYWORDS) + list(lexer.PUNCTUATION) + [w for pool in POOLS.values() for w in pool]
    words.insert(random.randrange(len(words) + 1), random.choice([random.choice(known), random.choice(ODD)]))
    return " ".join(words)


def _strange(random: Random, text: str) -> str:
    at = random.randrange(len(text) + 1)
    return text[:at] + random.choice(ODD) + text[at + random.randrange(2) :]


def _cut(random: Random, text: str) -> str:
    return text[: random.randrange(len(text) + 1)] or " "


def _line_ends(random: Random, text: str) -> str:
    return text.replace("\n", random.choice(["\r\n", "\r", " ", "\n\n", "\n#"]))


def _characters(random: Random, text: str) -> str:
    at = random.randrange(len(text) + 1)
    return text[:at] + text[at + random.choice([1, 1, 2, 9]) :] or " "


_MISTAKES = (_lose, _lose, _double, _swap, _put_in, _put_in, _strange, _cut, _line_ends, _characters, _characters)
