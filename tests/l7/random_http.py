"""Random HTTP rules of one port, and streams of requests near to them: mostly sound, some cut, mutated or hostile. All by `random.Random`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from tests.ir.http_random import (
    HOST_REGEXES,
    HOST_VALUES,
    KEYS,
    LABELS,
    LINES,
    NAMES,
    PATH_REGEXES,
    PIECES,
    QUERY_PIECES,
    SEGMENTS,
    SOUND_HOSTS,
    SOUND_PIECES,
    TARGETS,
    VALUE_REGEXES,
    VALUES,
)
from tests.l7.differential_case import Case, Rules, RuleText, Segment
from tests.reference.http_corpus import CASES

Allows = Callable[[bytes], bool]
"""Whether a request of its own is allowed."""

METHODS = ("GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "FROB", "*", "*")
ABSOLUTE = ("http://a/*", "http://a/**", "https://*/a", "http://*.b/**")
AUTHORITIES = ("a:80", "[::1]:80", "*.b:80", "c.b:*")
PROTOCOLS = ("websocket", "h2c", "a/1")
PEERS = ("{ app == web }",) * 5 + ("any", "endpoints", "10.9.0.0/16, fd09::/32", "world", "{ app == api }")
LIMITS = ("256", "257", "512", "1k")
SIZES = {"256": 256, "257": 257, "512": 512, "1k": 1024}
SENT_METHODS = ("GET", "GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "FROB", "get")
SOUND_LINES = ("X-A: a", "x-a:  a b\t", "X-a:a,a", "x_a: 12", "x-A:", "x-b: b", "x-b: \xc3\xa9", "Accept: *", "accept: a  ", "accept:\ta ,a", "X_A: b",
               "Connection: close", "X-C: " + "c" * 70, "User-Agent: x/1 (y; z)", "Expect: tea")  # fmt: skip
UPGRADES = ("websocket", "WebSocket", "h2c", "a/1", "websocket, h2c", "")
NEEDLES = (
    b"\r",
    b"\n",
    b"\r\n",
    b"\x00",
    b" ",
    b"\t",
    b":",
    b"%",
    b"/",
    b"//",
    b"..",
    b";",
    b"\xff",
    b"\r\n ",
    b"GET / HTTP/1.1\r\n\r\n",
    b"0\r\n\r\n",
    b"?",
)
MOST_REQUESTS = 6


# --- rules --------------------------------------------------------------------------------------------------------------


def _quoted(texts: Sequence[str]) -> str:
    return ", ".join(f'"{text}"' for text in dict.fromkeys(texts))


def _some(r: Random, of: Sequence[str], most: int = 2) -> list[str]:
    return r.sample(of, r.randint(1, min(most, len(of))))


def _patterns(r: Random, plain: Callable[[], str], regexes: Sequence[str]) -> str:
    drawn = [f'~"{r.choice(regexes)}"' if r.random() < 0.3 else f'"{plain()}"' for _ in range(r.choice((1, 1, 2)))]
    return ", ".join(dict.fromkeys(drawn))


def _path(r: Random) -> str:
    return "/" + "/".join(r.choice(SEGMENTS) for _ in range(r.randint(1, 3))) if r.random() < 0.9 else "/"


def _host(r: Random) -> str:
    return ".".join(r.choice(LABELS) for _ in range(r.randint(1, 3))) if r.random() < 0.9 else "[::1]"


def _conditions(r: Random) -> list[str]:
    found = []
    if r.random() < 0.2:
        found.append(f"host {_patterns(r, lambda: _host(r), HOST_REGEXES)}")
    for kind, names in (("header", NAMES), ("query", KEYS)):
        for name in r.sample(names, r.choice((0, 0, 0, 1, 1, 2))):
            values = r.choice(("", " absent", None, None))
            if values is None:
                values = " " + _patterns(r, lambda: r.choice(VALUES), VALUE_REGEXES)
            found.append(f'{kind} "{name}"{values}')
    if r.random() < 0.15:
        found.append("upgrade" + (f" {_quoted(_some(r, PROTOCOLS))}" if r.random() < 0.6 else ""))
    if r.random() < 0.15:
        found.append("body")
    return found


def entry(r: Random) -> str:
    action = r.choice(("", "", "", "allow ", "deny "))
    kind = r.random()
    if kind < 0.04:
        return f'{action}OPTIONS "*"'
    if kind < 0.1:
        return f"{action}{r.choice(('GET', '*', 'POST'))} {_quoted(_some(r, ABSOLUTE))}"
    if kind < 0.14:
        return f"{action}CONNECT {_quoted(_some(r, AUTHORITIES))}"
    drawn = _some(r, METHODS)
    methods = "*" if "*" in drawn else ", ".join(dict.fromkeys(drawn))
    paths = f" {_patterns(r, lambda: _path(r), PATH_REGEXES)}" if r.random() < 0.8 else ""
    if r.random() < 0.15:
        paths = ' "/**"'
    return " ".join([f"{action}{methods}{paths}", *_conditions(r)])


def rule(r: Random) -> RuleText:
    block, entries = "", ()
    if r.random() < 0.85:
        block = "http" + " audit" * (r.random() < 0.12) + (f" limit {r.choice(LIMITS)}" if r.random() < 0.15 else "")
        entries = tuple(entry(r) for _ in range(r.choice((1, 1, 2, 3, 5))))
    tail = r.choice(("",) * 6 + ("log", "audit", "priority 50", "log priority 150"))
    return RuleText(block, entries, r.choice(PEERS), r.choice(("normal",) * 7 + ("admin", "baseline")), tail)


def rules(r: Random) -> Rules:
    return tuple(rule(r) for _ in range(r.choice((1, 1, 2, 2, 3, 4))))


# --- requests -----------------------------------------------------------------------------------------------------------


def _target(r: Random) -> str:
    odd = r.random()
    if odd < 0.06:
        return r.choice(TARGETS)
    pieces = PIECES if odd < 0.14 else SOUND_PIECES
    path = "/" + "/".join(r.choice(pieces) for _ in range(r.choice((0, 1, 1, 1, 2, 2, 3))))
    query = "?" + "&".join(r.choice(QUERY_PIECES) for _ in range(r.randint(0, 3))) if r.random() < 0.35 else ""
    return path + query


def _chunks(r: Random, odd: bool) -> str:
    body = ""
    for _ in range(r.randint(0, 3)):
        size = r.choice((1, 2, 15, 16, 200))
        digits = r.choice(("%x", "%X", "%04x", "%08x", *(("%09x", "%x;a", "%x ", "0x%x", "%d") if odd else ()))) % size
        body += f"{digits}\r\n{'z' * (size + (odd and r.random() < 0.2))}\r\n"
    trailers = r.choice(
        ("", "", "X-T: 1\r\n", "x_a:\r\nb: c\r\n", *(("Host: x\r\n", "Content-Length: 1\r\n", " x\r\n") if odd else ()))
    )
    return f"{body}{r.choice(('0', '0', '00', '00000000'))}\r\n{trailers}\r\n"


def request(r: Random, sizes: Sequence[int] = ()) -> bytes:
    """Head and body. `sizes`: some heads have these many bytes, one less or one more."""
    odd = r.random() < 0.08
    target = _target(r)
    method = "CONNECT" if target in ("a:80", "c.b:80", "[::1]:80") and r.random() < 0.9 else r.choice(SENT_METHODS)
    if target.startswith("*") and r.random() < 0.8:
        method = "OPTIONS"
    version = (
        "HTTP/1.0" if r.random() < 0.08 else r.choice(("HTTP/2.0", "HTTP/1.1 ", "http/1.1")) if odd else "HTTP/1.1"
    )
    lines = [r.choice(LINES if r.random() < 0.06 else SOUND_LINES) for _ in range(r.choice((0, 0, 1, 2, 3)))]
    if version != "HTTP/1.0" or r.random() < 0.7:
        value = r.choice(HOST_VALUES if r.random() < 0.06 else SOUND_HOSTS)
        lines.insert(
            r.randint(0, len(lines)), f"{r.choice(('Host', 'host', 'HOST'))}:{r.choice(('', ' ', chr(9)))}{value}"
        )
    if r.random() < 0.07:
        lines.append(f"Upgrade: {r.choice(UPGRADES)}")
    body = ""
    framing = r.random()
    if framing < 0.15 or (method in ("POST", "PUT") and framing < 0.5):
        size = r.choice((0, 0, 1, 3, 10, 700))
        lines.insert(r.randint(0, len(lines)), f"Content-Length:{r.choice((' ', '', '  ', ' 00'))}{size}")
        body = "y" * size
    elif framing < 0.2 or (method in ("POST", "PUT") and framing < 0.75):
        lines.insert(
            r.randint(0, len(lines)),
            f"{r.choice(('Transfer-Encoding', 'transfer-encoding'))}: {r.choice(('chunked', 'Chunked'))}",
        )
        body = _chunks(r, r.random() < 0.1)
    if sizes and r.random() < 0.04:
        size = r.choice(sizes) + r.choice((-1, 0, 1))
        empty = len("\r\n".join([f"{method} {target} {version}", *lines, "X-Pad: ", "", ""]))
        lines.insert(r.randint(0, len(lines)), "X-Pad: " + "p" * max(size - empty, 0))
    sent = "\r\n".join([f"{method} {target} {version}", *lines, "", ""]).encode("latin-1")
    return mutated(r, sent) + body.encode() if r.random() < 0.05 else sent + body.encode()


def mutated(r: Random, data: bytes) -> bytes:
    for _ in range(r.choice((1, 1, 2))):
        at = r.randrange(len(data) + 1)
        end = min(at + r.choice((0, 1, 1, 2, 5)), len(data))
        insert = r.choice((b"", r.choice(NEEDLES), bytes((r.randrange(256),)), data[at:end] * 2))
        data = data[:at] + insert + data[end:]
    return data


def requests(r: Random, allows: Allows, sizes: Sequence[int] = ()) -> list[bytes]:
    """All but the last are such as are allowed, where such are found."""
    count = r.randint(1, MOST_REQUESTS) if r.random() < 0.97 else r.randint(20, 60)
    found = []
    for number in range(count):
        drawn = request(r, sizes)
        for _ in range(5 if number < count - 1 or r.random() < 0.5 else 0):
            if allows(drawn):
                break
            drawn = request(r, sizes)
        found.append(drawn)
    if r.random() < 0.06:
        found.append(r.choice(CASES).stream)
    if r.random() < 0.1:
        found[-1] = found[-1][: r.randrange(len(found[-1]) + 1)]
    return found


def segments(r: Random, parts: Sequence[bytes]) -> tuple[Segment, ...]:
    """One write, one a request, or cut somewhere."""
    how, data = r.random(), b"".join(parts)
    if how < 0.2:
        cut = [data]
    elif how < 0.45:
        cut = list(parts)
    elif how < 0.55 and len(data) < 300:
        cut = [data[i : i + 1] for i in range(len(data))]
    else:
        places = sorted(r.randrange(len(data) + 1) for _ in range(r.randint(1, 2 + 2 * len(parts))))
        if r.random() < 0.5:
            ends = [sum(map(len, parts[: n + 1])) for n in range(len(parts))]
            places = sorted(
                places[: r.randint(0, 3)] + [max(min(e + r.choice((-2, -1, 0, 0, 1)), len(data)), 0) for e in ends]
            )
        cut = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    answers = r.random()
    return tuple(Segment(piece, answers < 0.7 or r.random() < 0.5) for piece in cut)


def case(r: Random, name: str, on: Rules, allows: Allows) -> Case:
    limits = [SIZES[word] for rule in on for word in rule.block.split() if word in SIZES]
    return Case(name, on, segments(r, requests(r, allows, limits or ([8192] if r.random() < 0.2 else []))))
