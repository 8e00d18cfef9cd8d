"""Streams of requests with what semantics 4 says of them: at least one case for each of its sentences on HTTP/1.x.

Data only: whoever judges streams plays it. `Case.policy` is a whole policy; the client is `web`, the server `api`, at tcp/8080."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policyc.artifact.stream_layout import Saw


@dataclass(frozen=True)
class Expected:
    """One request. `ref` is below the policy's name: `r1.2` is entry 2 of the first rule's block."""

    verdict: Literal["allow", "deny"]
    reason: str
    ref: str
    answer: Literal["403", "closed"] | None = None
    saw: Saw = Saw.NOTHING


@dataclass(frozen=True)
class Case:
    """`rules`: what stands behind the services of each allow rule, `http … { … }` or nothing. `segments`: single writes, before each of
    which the client has the answers to all before."""

    name: str
    rules: tuple[str, ...]
    segments: tuple[bytes, ...]
    expected: tuple[Expected, ...]

    @property
    def policy(self) -> str:
        numbered = [f"{r} as r{n}".lstrip() for n, r in enumerate(self.rules, 1)]
        rules = "".join(f"    allow from {{ app == web }} on tcp/8080 {r}\n" for r in numbered)
        return f"policy p for {{ app == api }} {{\n  ingress {{\n{rules}  }}\n}}\n"

    @property
    def end(self) -> Literal["open", "closed"]:
        return "closed" if any(e.verdict == "deny" for e in self.expected) else "open"

    @property
    def stream(self) -> bytes:
        return b"".join(self.segments)


# --- short words ------------------------------------------------------------------------------------------------------


def by(ref: str) -> Expected:
    """Allowed: by an entry (`r1.1`) or by a plain rule (`r1`)."""
    return Expected("allow", "l7-entry" if "." in ref else "rule", ref)


def denied(ref: str, answer: Literal["403", "closed"] = "403") -> Expected:
    return Expected("deny", "l7-entry", ref, answer)


def no_entry(answer: Literal["403", "closed"] = "403") -> Expected:
    return Expected("deny", "l7-no-entry", "r1", answer)


def bad(saw: Saw, answer: Literal["403", "closed"] = "403") -> Expected:
    return Expected("deny", "l7-malformed", "r1", answer, saw)


def case(name: str, rules: str | tuple[str, ...], sent: bytes | tuple[bytes, ...], *expected: Expected) -> Case:
    """A rule that does not begin with `http` is the inside of a block; an empty one is a plain rule."""
    given = (rules,) if isinstance(rules, str) else rules
    blocks = tuple(r if not r or r.startswith("http") else f"http {{ {r} }}" for r in given)
    return Case(name, blocks, sent if isinstance(sent, tuple) else (sent,), expected)


def req(start: str, *headers: str, host: str | None = "x", body: bytes = b"") -> bytes:
    """A request of HTTP/1.1 unless `start` says another; all of Latin-1 stands for its bytes."""
    line = start if " HTTP/" in start else f"{start} HTTP/1.1"
    lines = [line, *([] if host is None else [f"Host: {host}"]), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def post(*headers: str, body: bytes = b"") -> bytes:
    return req("POST /a", *headers, body=body)


ALL, ENTRY = '* "/**"', by("r1.1")
CHUNKED = "Transfer-Encoding: chunked"
HIDDEN = req("GET /hidden")
PUBLIC = '* "/a"'  # everything else is hidden


# --- entries ----------------------------------------------------------------------------------------------------------


def path(pattern: str, target: str, *expected: Expected) -> Case:
    return case(f"path {pattern}: {target}", f"GET {pattern}", req(f"GET {target}"), *expected)


def host(pattern: str, value: str, *expected: Expected) -> Case:
    return case(f"host {pattern}: {value}", f'GET "/" host {pattern}', req("GET /", host=value), *expected)


def query(condition: str, target: str, *expected: Expected) -> Case:
    return case(f"query {condition}: {target}", f'GET "/" query {condition}', req(f"GET {target}"), *expected)


def header(condition: str, lines: tuple[str, ...], *expected: Expected) -> Case:
    return case(f"header {condition}: {lines}", f'GET "/" header {condition}', req("GET /", *lines), *expected)


NO = no_entry()
METHODS = [
    case("a method of several", 'GET, HEAD "/a"', req("HEAD /a"), ENTRY),
    case("another method", 'GET, HEAD "/a"', req("POST /a"), NO),
    case("any method", '* "/a"', req("FROB /a"), ENTRY),
    case("methods are told apart by case", 'GET "/a"', req("get /a"), NO),
    case("without a path any", "GET", req("GET /what/ever;x?y"), ENTRY),
    case("OPTIONS *", 'OPTIONS "*"', req("OPTIONS *"), ENTRY),
    case("OPTIONS * without a path", "OPTIONS", req("OPTIONS *"), ENTRY),
    case("OPTIONS * is no path below /", 'OPTIONS "/**"', req("OPTIONS *"), NO),
]
PATHS = [
    path('"/a"', "/a", ENTRY),
    path('"/a"', "/a/", NO),
    path('"/a"', "/A", NO),
    path('"/a"', "/a?b=/c", ENTRY),
    path('"/a"', "/%61", ENTRY),
    path('"/a b"', "/a%20b", ENTRY),
    path('~"/a."', "/a%3f", ENTRY),
    path('"/é"', "/%c3%a9", ENTRY),
    path('"/a", "/b"', "/b", ENTRY),
    path('"/a/*"', "/a/b", ENTRY),
    path('"/a/*"', "/a/", NO),
    path('"/a/*"', "/a/b/c", NO),
    path('"/a/*"', "/a/b;c", NO),
    path('"/a/*"', "/a/b%3bc", NO),
    path('"/a/b*d"', "/a/bd", ENTRY),
    path('"/a/b*d"', "/a/bcd", ENTRY),
    path('"/a/b*d"', "/a/b/d", NO),
    path('"/a/*/c"', "/a/b/c", ENTRY),
    path('"/a/**/d"', "/a/d", ENTRY),
    path('"/a/**/d"', "/a/b/c/d", ENTRY),
    path('"/a/**/d"', "/ad", NO),
    path('"/a/**"', "/a", ENTRY),
    path('"/a/**"', "/a/", ENTRY),
    path('"/a/**"', "/a/b/c", ENTRY),
    path('"/a/**"', "/a/b/", ENTRY),
    path('"/a/**"', "/ab", NO),
    path('"/a/**"', "/a/b;c", NO),
    path('"/**"', "/", ENTRY),
    path('~"/a[0-9]+"', "/a17", ENTRY),
    path('~"/a[0-9]+"', "/a17b", NO),
    path('~"/a(b|c){2}"', "/abc", ENTRY),
    path('~"a"', "/a", NO),
    path('~"/.*"', "/a/b;c", ENTRY),
]
T = bad(Saw.TARGET)
TARGETS = [
    *(path('"/**"', target, T) for target in (
        "/a%2fb", "/a%2Fb", "/a%5cb", "/a%00", "/a%1f", "/a%0d%0a", "/a%7f", "/a%2541", "/a%252e%252e/b", "/a%25%34%31", "/%", "/%4", "/%4g", "/%zz",
        "/.", "/..", "/a/../b", "/a/./b", "/a/..", "/%2e%2e/b", "/.%2e/b", "/a/..;x/b", "/a/.;/b", "/a/..%3bx", "//", "//a", "/a//b", "/a/b//", "/a\\b",
        "/a#b", "/a\tb", "/a\x01", "/a\x7f", "/a\x80", "/a\xe9", "/a?b#c", "/a?b\x7f", "/a?\xe9", "a", "*", "",
    )),
    *(path('~"/.*"', target, ENTRY) for target in (
        "/a%25", "/a%25zz", "/a%254", "/...", "/a..b", "/..a", "/a;b", "/a;..", "/%20", "/%80%ff", "/%23", "/a?b//c/../%2f%zz\\", "/a%3f/b", "/?", "/a/?x",
    )),
    case("OPTIONS * with a query", "OPTIONS", req("OPTIONS *?a"), T),
    case("absolute form", ALL, req("GET http://x/a"), T),
    case("absolute form without paths", "GET", req("GET http://x/a"), T),
    case("absolute form that a pattern names", 'GET "http://x/**"', req("GET http://x/a?q=1"), ENTRY),
    case("absolute form without a path", 'GET "http://x/**"', req("GET http://x"), ENTRY),
    case("absolute form of another host", 'GET "http://x/**"', req("GET http://y/a"), T),
    case("absolute form with another scheme", 'GET "http://x/**"', req("GET https://x/a"), T),
    case("absolute form, the scheme in capitals", 'GET "http://x/**"', req("GET HTTP://x/a"), T),
    case("absolute form, decoded", 'GET "http://x/a"', req("GET http://x/%61"), ENTRY),
    case("absolute form with dot segments", 'GET "http://x/**"', req("GET http://x/a/../b"), T),
    case("absolute form with //", 'GET "http://x/**"', req("GET http://x//a"), T),
    case("absolute form that another entry names", ('GET "http://x/a"', ""), req("POST http://x/a"), by("r2")),
    case("absolute form and host: the line decides", 'GET "http://x/a" host "y"', req("GET http://x/a", host="y"), ENTRY),
    case("CONNECT", "* ", req("CONNECT x:443"), T),
    case("CONNECT that a pattern names", 'CONNECT "x:443"', req("CONNECT x:443"), ENTRY),
    case("CONNECT to another port", 'CONNECT "x:443"', req("CONNECT x:25"), T),
    case("CONNECT, a glob", 'CONNECT "*.x:443"', req("CONNECT a.x:443"), ENTRY),
    case("CONNECT with a path", '* "/a"', req("CONNECT /a"), T),
    case("CONNECT with an absolute form", '* "http://x/"', req("CONNECT http://x/"), T),
    case("CONNECT without a port", 'CONNECT ~".*"', req("CONNECT x"), T),
    case("CONNECT with an escape", 'CONNECT ~".*"', req("CONNECT %78:443"), T),
    case("CONNECT to a path behind a port", 'CONNECT ~".*"', req("CONNECT x:443/a"), T),
    case("an absolute form without an authority", '* ~".*"', req("GET http://"), T),
    case("an authority with another method", '* "x:443"', req("GET x:443"), T),
    case("behind CONNECT nothing is HTTP", 'CONNECT "x:443"', (req("CONNECT x:443"), b"\x16\x03\x01\x00"), ENTRY),
    case("behind CONNECT before the answer", 'CONNECT "x:443"', req("CONNECT x:443") + b"\x16", ENTRY, bad(Saw.EARLY_BYTES, "closed")),
]  # fmt: skip
H = bad(Saw.HOST)
LONG_NAMES = [("x-" + "0a1b2c3d" * 4)[:n] for n in (7, 8, 31, 32, 33)]
HOSTS = [
    host('"a.example"', "a.example", ENTRY),
    host('"a.example"', "A.Example", ENTRY),
    host('"A.Example"', "a.example", ENTRY),
    host('"a.example"', "a.example:8080", ENTRY),
    host('"a.example"', "a.example:", ENTRY),
    host('"a.example"', "a.example.", ENTRY),
    host('"a.example"', "a.example.:80", ENTRY),
    host('"a.example"', "a.example..", NO),
    host('"a.example"', "b.a.example", NO),
    host('"a.example", "b"', "b", ENTRY),
    host('"*.example"', "a.example", ENTRY),
    host('"*.example"', ".example", NO),
    host('"*.example"', "a.b.example", NO),
    host('"a*.example"', "a.example", ENTRY),
    host('"**.example"', "a.b.example", ENTRY),
    host('"**.example"', "example", NO),
    host('~"[a-c]+"', "ABC:1", ENTRY),
    host('"[fd00::1]"', "[fd00::1]:80", ENTRY),
    host('"[fd00::1]"', "[FD00::1]", ENTRY),
    *(host('~".*"', v, H) for v in ("a b", "a/b", "a@b", "a_b", "a,b", "a%41", "\xe9", "a:b", "a:1:2", "[a", "a]", "[]", "[::1]a", "fd00::1")),
    host('~".*"', "", ENTRY),
    case("no Host in 1.1", ALL, req("GET /", host=None), H),
    case("Host twice", ALL, req("GET /", "host: x"), H),
    case("Host twice in 1.0", ALL, req("GET / HTTP/1.0", "host: x"), H),
    case("no Host in 1.0", ALL, req("GET / HTTP/1.0", host=None), ENTRY),
    case("no Host in 1.0: a condition does not hold", 'GET "/" host ~".*"', req("GET / HTTP/1.0", host=None), NO),
    *(case(f"host {first!r} and then {second!r}", f'* host "{first}"', (req("GET /a", host=first), req("GET /b", host=second)), ENTRY, found)
      for first in ("a.example", "8letters", "l" * 59) for second, found in (
        (first, ENTRY), (first.upper(), ENTRY), (first + ":80", ENTRY), (first + "x", NO), (first[:-1], NO), ("x" + first[1:], NO), (first[:-1] + "x", NO),
        (None, H), ("", NO), (first + " x", H), (first + "\r\nHost: " + first, H),
    )),
    case("a Host line in trailers, said before", ALL, (req("POST /a", CHUNKED, body=b"0\r\nHost: x\r\n\r\n"),), bad(Saw.TRAILER, "closed")),
]  # fmt: skip
HEADERS = [
    header('"N" "v"', ("N: v",), ENTRY),
    header('"N" "v"', ("n:v",), ENTRY),
    header('"N" "v"', ("N: \t v \t",), ENTRY),
    header('"N" "v"', ("N: V",), NO),
    header('"N" "v"', (), NO),
    header('"N" "v"', ("N: v", "N: v"), ENTRY),
    header('"N" "v"', ("N: v", "N: w"), NO),
    header('"N" "v"', ("N: v, w",), NO),
    header('"N" "v", "w"', ("N: v", "N: w"), ENTRY),
    header('"N" "*"', ("N: v",), NO),
    header('"N" ~"[a-z]*"', ("N: abc",), ENTRY),
    header('"N" ~"[a-z]*"', ("N:",), ENTRY),
    header('"N" ~"[a-z]*"', ("N: abc1",), NO),
    header('"N"', ("N: what",), ENTRY),
    header('"N"', ("N:",), ENTRY),
    header('"N"', ("M: what",), NO),
    header('"A-B"', ("A_B: what",), NO),
    *(header(f'"{name}" "v"', (f"{name}: v",), ENTRY) for name in LONG_NAMES),
    *(header(f'"{name}" absent', (f"{name}x: v", f"{name[:-1]}: v", f"{name[:-1]}x: v"), ENTRY) for name in LONG_NAMES),
    *(header(f'"{name}" absent', (f"{name[:-1]}: v", f"{name.upper()}: v"), NO) for name in LONG_NAMES),
    header('"_-A" absent', ("-_A: v",), NO),
    header('"A-B" absent', (), ENTRY),
    header('"A-B" absent', ("a-b: 1",), NO),
    header('"A-B" absent', ("A_B: 1",), NO),
    header('"A_B-C" absent', ("A-B_C:",), NO),
    header('"A-B" absent', ("AB: 1",), ENTRY),
    header('"N" "é"', ("N: Ã©",), ENTRY),
    header('"N" "v" header "M" "w"', ("N: v", "M: w"), ENTRY),
    header('"N" "v" header "M" "w"', ("N: v",), NO),
]  # fmt: skip
QUERIES = [
    query('"k" "v"', "/?k=v", ENTRY),
    query('"k" "v"', "/?a&k=v&b=c", ENTRY),
    query('"k" "v"', "/?%6b=%76", ENTRY),
    query('"k" "v w"', "/?k=v+w", ENTRY),
    query('"k" "v w"', "/?k=v%20w", ENTRY),
    query('"k" "v+w"', "/?k=v%2bw", ENTRY),
    query('"k" "%zz"', "/?k=%zz", ENTRY),
    query('"k" "%"', "/?k=%", ENTRY),
    query('"k" "%A"', "/?k=%%41", ENTRY),
    query('"k" "a=b"', "/?k=a=b", ENTRY),
    query('"k" "a&b"', "/?k=a%26b", ENTRY),
    query('"k" "v"', "/?k=v&k=w", NO),
    query('"k" "v"', "/?K=v", NO),
    query('"k" "v"', "/", NO),
    query('"k" "v"', "/?k=v;k=w", NO),
    query('"k"', "/?k", ENTRY),
    query('"k"', "/?k=", ENTRY),
    query('"k" ""', "/?k", ENTRY),
    query('"" "v"', "/?=v", ENTRY),
    query('""', "/?&&", NO),
    query('"k"', "/?kk", NO),
    query('"k" absent', "/?a", ENTRY),
    query('"k" absent', "/?k", NO),
    query('"a-b" absent', "/?a_b", NO),
    query('"k" ~"[0-9]+"', "/?k=12", ENTRY),
]  # fmt: skip
DENIES = [
    # What the machine takes at once ends in the middle of such a line, or at its end.
    *(case(f"a line of {before} bytes, then {tabs} tabs and {n} letters before what is denied", f'{ALL} deny * header "B"',
           req("GET /a", "P: " + "x" * (before - 5), "A:" + "\t" * tabs + "x" * n, "B: 1"), denied("r1.2"))
      for before in (75,) for tabs in (0, 2, 3, 9) for n in range(122, 126)),
    case("deny beats allow", f'{ALL} deny * "/a"', req("GET /a"), denied("r1.2")),
    case("deny of another rule beats allow", (ALL, 'deny * "/a"'), req("GET /a"), denied("r2.1")),
    case("the first denying entry is told", 'deny * "/**" deny * "/a"', req("GET /a"), denied("r1.1")),
    case("the first allowing entry is told", (f'GET "/b" {ALL}', 'GET "/a"'), req("GET /a"), by("r1.2")),
    case("deny beats a rule without a block", ("", 'deny * "/a"'), req("GET /a"), denied("r2.1")),
    case("a rule without a block allows every request", ("", 'GET "/a"'), req("GET /b"), by("r1")),
    case("an entry before a rule without a block", ('GET "/a"', ""), req("GET /a"), by("r1.1")),
    case("a rule without a block allows what no entry does", ('GET "/a"', ""), req("GET /b"), by("r2")),
    case("a rule without a block allows nothing malformed", ('GET "/a"', ""), req("GET /b//"), T),
    case("a rule without a block does not lift Upgrade", ("", 'GET "/a"'), req("GET /b", "Upgrade: a"), bad(Saw.UPGRADE)),
    case("a rule without a block does not lift bodies", ("", 'GET "/a"'), req("GET /b", "Content-Length: 1"), bad(Saw.BODY)),
    case("no entry", 'GET "/a"', req("GET /b"), NO),
    case("an empty block", "http { }", req("GET /"), NO),
    case("malformed wins over a deny entry", f'deny {ALL}', req("GET /a//b"), T),
    case("a deny entry wins over Upgrade", f'deny {ALL}', req("GET /a", "Upgrade: a"), denied("r1.1")),
    case("a deny entry needs one header line", f'{ALL} deny * header "N" "v"', req("GET /", "N: w", "N: v"), denied("r1.2")),
    case("a deny entry needs one query key", f'{ALL} deny * query "k" "v"', req("GET /?k=w&k=v"), denied("r1.2")),
    case("a deny entry without its line", f'{ALL} deny * header "N" "v"', req("GET /", "N: w"), ENTRY),
    case("a deny entry with absent", f'{ALL} deny * header "N" absent', req("GET /"), denied("r1.2")),
    case("a deny entry without a path, absolute form", '* "http://x/**" deny *', req("GET http://x/"), ENTRY),
    case("an audited block: its rule is plain", ("http audit { }", 'deny * "/a"'), req("GET /b"), by("r1")),
    case("an audited deny", (ALL, 'http audit { deny * "/a" }'), req("GET /a"), by("r1.1")),
]  # fmt: skip

# --- what is malformed --------------------------------------------------------------------------------------------------

CL, TE = bad(Saw.CONTENT_LENGTH), bad(Saw.TRANSFER_ENCODING)
N, V, S = bad(Saw.HEADER_NAME), bad(Saw.HEADER_VALUE), bad(Saw.START_LINE)
CHUNK, TRAILER = bad(Saw.CHUNK, "closed"), bad(Saw.TRAILER, "closed")
LINES = [
    *(case(f"raw {raw!r}", ALL, raw + b"\r\nHost: x\r\n\r\n", found) for raw, found in (
        (b"\r\nGET / HTTP/1.1", S), (b"\nGET / HTTP/1.1", S), (b" GET / HTTP/1.1", S), (b"G@T / HTTP/1.1", S), (b"G\x00T / HTTP/1.1", S), (b"GET\t/ HTTP/1.1", S),
        (b"GET  / HTTP/1.1", T), (b"GET /", T), (b"GET", S), (b"GET /  HTTP/1.1", bad(Saw.VERSION)), (b"GET / HTTP/0.9", bad(Saw.VERSION)),
        (b"GET / HTTP/1.2", bad(Saw.VERSION)), (b"GET / HTTP/2.0", bad(Saw.VERSION)), (b"GET / http/1.1", bad(Saw.VERSION)), (b"GET / HTTP/1.1 ", bad(Saw.VERSION)),
        (b"GET / HTTP/1.10", bad(Saw.VERSION)), (b"GET / HTTP/1.1\nA: b", bad(Saw.VERSION)), (b"GET / HTTP/1.1\rA: b", bad(Saw.VERSION)),
    )),
    *(case(f"header line {line!r}", ALL, b"GET / HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n", found) for line, found in (
        (b"A : b", N), (b"A\t: b", N), (b": b", N), (b"A", N), (b"A b: c", N), (b"A(: c", N), (b"A\x00: c", N), (b"\xe9: c", N), (b"A\nB: c", N),
        (b"A: b\x00", V), (b"A: b\nC: d", V), (b"A: b\rC: d", V), (b"A: b\r\r", V), (b"A: b\r\n c", bad(Saw.FOLDED_LINE)), (b"A: b\r\n\tc", bad(Saw.FOLDED_LINE)),
        (b" A: b", bad(Saw.FOLDED_LINE)), (b"A: \x01\x7f\xff", ENTRY), (b"A:", ENTRY), (b"!#$%&'*+-.^_`|~: x", ENTRY),
        (b"A: \t\x01\x0b\x0c\x0d\x0d", V), (b"A: 123456\x01\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t", ENTRY), (b"A: 1234567\x00", V),
        *((b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZ"[:n] + odd + b"b: c", N) for n in (7, 8, 31, 32) for odd in (b" ", b"[", b"\xba", b"\x00")),
    )),
    case("bare LF ends the head", ALL, b"GET / HTTP/1.1\r\nHost: x\r\n\n", N),
    case("CR without LF at the end", ALL, b"GET / HTTP/1.1\r\nHost: x\r\n\rX", N),
    case("HTTP/1.0", ALL, req("GET / HTTP/1.0"), ENTRY),
    case("an HTTP/2 preface", ALL, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bad(Saw.HTTP2)),
    case("TLS", ALL, b"\x16\x03\x01\x02\x00\x01\x00", bad(Saw.TLS)),
    case("a byte of TLS and no more", ALL, b"\x16\x02", bad(Saw.TLS)),
    case("TLS byte by byte", ALL, (b"\x16", b"\x03"), bad(Saw.TLS)),
]  # fmt: skip
LENGTHS = [
    *(case(f"Content-Length {value!r}", ALL, post(f"Content-Length:{value}", body=b"GET /hidden"), CL) for value in (
        "", " ", " +1", " -1", " 1x", " 0x1", " 1 1", " 1,1", " 1.0", " 9223372036854775808", " 99999999999999999999", " 00000000000000000001", " \x0b1",
    )),
    *(case(f"Content-Length {value!r}", ALL, post(f"Content-Length:{value}", body=b"abc") + req("GET /b"), ENTRY, ENTRY) for value in (
        "3", " 3 ", "\t3", " 03", " 0000000000000000003",
    )),
    case("a length as long as may be", ALL, post("Content-Length: 9223372036854775807", body=HIDDEN), ENTRY),
    case("Content-Length twice the same", ALL, post("Content-Length: 1", "content-length: 1", body=b"x"), CL),
    case("Content-Length twice", ALL, post("Content-Length: 1", "Content-Length: 0", body=b"x"), CL),
    *(case(f"Transfer-Encoding {value!r}", ALL, post(f"Transfer-Encoding:{value}", body=b"0\r\n\r\n"), TE) for value in (
        "", " identity", " xchunked", " chunked, chunked", " gzip, chunked", " chunked;q=1", " chunked,", " ,chunked", ' "chunked"', " \x0bchunked", " chunk ed", " cow",
    )),
    *(case(f"Transfer-Encoding {value!r}", ALL, post(f"Transfer-Encoding:{value}", body=b"0\r\n\r\n") + req("GET /b"), ENTRY, ENTRY) for value in (
        "chunked", " Chunked", "\tCHUNKED ",
    )),
    case("Transfer-Encoding twice (TE.TE)", ALL, post(CHUNKED, "Transfer-Encoding: identity", body=b"0\r\n\r\n"), TE),
    case("Transfer-Encoding twice the same", ALL, post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"), TE),
    case("Transfer-Encoding in 1.0", ALL, req("POST /a HTTP/1.0", CHUNKED, body=b"0\r\n\r\n"), TE),
    case("CL.TE", PUBLIC, post(f"Content-Length: {5 + len(HIDDEN)}", CHUNKED, body=b"0\r\n\r\n" + HIDDEN), bad(Saw.BOTH_LENGTHS)),
    case("TE.CL", PUBLIC, post(CHUNKED, "Content-Length: 4", body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)), bad(Saw.BOTH_LENGTHS)),
    case("0.CL: a length hidden behind a fold", PUBLIC, post("A: b", " Content-Length: 9", body=HIDDEN), bad(Saw.FOLDED_LINE)),
    case("0.CL: a length whose name has a space", PUBLIC, post("Content-Length : 9", body=HIDDEN), N),
    case("0.CL: no length, no body", PUBLIC, post() + HIDDEN, ENTRY, no_entry("closed")),
    case("CL.0: a body is not judged", PUBLIC, post(f"Content-Length: {len(HIDDEN)}", body=HIDDEN), ENTRY),
    case("underscores make another header", PUBLIC, post("Content_Length: 5", body=HIDDEN), ENTRY, no_entry("closed")),
]  # fmt: skip
BODIES = [
    *(case(f"a body on {m}", ALL, req(f"{m} /a", "Content-Length: 1", body=b"x"), bad(Saw.BODY)) for m in ("GET", "HEAD", "DELETE", "OPTIONS", "TRACE")),
    *(case(f"a body on {m}", ALL, req(f"{m} /a", "Content-Length: 1", body=b"x"), ENTRY) for m in ("POST", "PUT", "PATCH", "FROB", "get")),
    case("chunks on GET", ALL, req("GET /a", CHUNKED, body=b"0\r\n\r\n"), bad(Saw.BODY)),
    case("no bytes are no body", ALL, req("GET /a", "Content-Length: 0"), ENTRY),
    case("a body that an entry allows", 'GET "/a" body', req("GET /a", "Content-Length: 1", body=b"x"), ENTRY),
    case("a body that an entry that matches later allows", f'{ALL} GET "/a" body', req("GET /a", CHUNKED, body=b"0\r\n\r\n"), ENTRY),
    case("a body that an entry allows elsewhere", f'{ALL} GET "/b" body', req("GET /a", "Content-Length: 1", body=b"x"), bad(Saw.BODY)),
    case("body asks for no body", 'GET "/a" body', req("GET /a"), ENTRY),
    case("Expect", ALL, (post("Expect: 100-continue", "Content-Length: 3"), b"abc" + req("GET /b")), ENTRY, ENTRY),
    case("another Expect", ALL, post("Expect: tea", "Content-Length: 0"), ENTRY),
    case("Expect on GET with a body", ALL, req("GET /a", "Expect: 100-continue", "Content-Length: 3"), bad(Saw.BODY)),
]  # fmt: skip
CHUNKS = [
    *(case(f"chunks {body!r}", ALL, post(CHUNKED, body=body) + req("GET /b"), ENTRY, ENTRY) for body in (
        b"3\r\nabc\r\n0\r\n\r\n", b"00000003\r\nabc\r\n00\r\n\r\n", b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"0\r\nA: b\r\nB_c:\r\n\r\n",
    )),
    *(case(f"chunks {body!r}", ALL, post(CHUNKED, body=body), CHUNK) for body in (
        b"000000003\r\nabc\r\n", b"3;x=y\r\nabc\r\n", b"3;\r\nabc\r\n", b"3 \r\nabc\r\n", b" 3\r\nabc\r\n", b"0x3\r\nabc\r\n", b"+3\r\nabc\r\n", b"\r\n", b"g\r\n", b"3\nabc\r\n",
        b"3\r\nabcd\r\n", b"3\r\nabc\n", b"3\r\nabc0\r\n", b"3\rabc", b"0;\r\n\r\n", b"3\r\nabc\r\n\r\n", b"-1\r\n", b"3\x00\r\n",
    )),
    *(case(f"trailers {body!r}", ALL, post(CHUNKED, body=b"0\r\n" + body), TRAILER) for body in (
        b"Content-Length: 1\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n", b"Host: y\r\n\r\n", b" A: b\r\n", b"A : b\r\n", b"A: b\nC: d\r\n", b"\n", b"A: \x00", b"A: b\r\n c\r\n", b"GET / HTTP/1.1\r\n",
    )),
    case("a body that turns out malformed, in pieces", ALL, (post(CHUNKED), b"3\r\nabc", b"\r\nx"), CHUNK),
]  # fmt: skip
UPGRADES = [
    case("Upgrade that nobody allows", ALL, req("GET /a", "Upgrade: websocket"), bad(Saw.UPGRADE)),
    case("h2c", ALL, req("GET /a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), bad(Saw.UPGRADE)),
    case("an empty Upgrade", ALL, req("GET /a", "Upgrade:"), bad(Saw.UPGRADE)),
    case("Upgrade", 'GET "/ws" upgrade', req("GET /ws", "Upgrade: what, ever"), ENTRY),
    case("Upgrade of a protocol", 'GET "/ws" upgrade "websocket"', req("GET /ws", "Upgrade: WebSocket"), ENTRY),
    case("Upgrade of one of several", 'GET "/ws" upgrade "a/1", "b"', req("GET /ws", "Upgrade: b"), ENTRY),
    case("Upgrade of another protocol", 'GET "/ws" upgrade "websocket"', req("GET /ws", "Upgrade: h2c"), NO),
    case("Upgrade of another protocol, allowed without", f'GET "/ws" upgrade "websocket" {ALL}', req("GET /ws", "Upgrade: h2c"), bad(Saw.UPGRADE)),
    case("Upgrade of a list", 'GET "/ws" upgrade "websocket"', req("GET /ws", "Upgrade: websocket, h2c"), NO),
    case("Upgrade lines of which one fits", 'GET "/ws" upgrade "websocket"', req("GET /ws", "Upgrade: websocket", "Upgrade: h2c"), NO),
    case("upgrade does not ask for Upgrade", 'GET "/ws" upgrade "websocket"', req("GET /ws"), ENTRY),
    case("an entry that matches later allows Upgrade", f'{ALL} GET "/ws" upgrade', req("GET /ws", "Upgrade: a"), ENTRY),
    case("an entry elsewhere does not", f'{ALL} GET "/ws" upgrade', req("GET /a", "Upgrade: a"), bad(Saw.UPGRADE)),
    case("deny upgrade", 'GET "/ws" upgrade deny * upgrade "h2c"', req("GET /ws", "Upgrade: a", "Upgrade: H2C"), denied("r1.2")),
    case("deny upgrade of another protocol", 'GET "/ws" upgrade deny * upgrade "h2c"', req("GET /ws", "Upgrade: a"), ENTRY),
    case("deny any upgrade", 'GET "/ws" upgrade deny * upgrade', req("GET /ws", "Upgrade: a"), denied("r1.2")),
    case("deny any upgrade: without", 'GET "/ws" upgrade deny * upgrade', req("GET /ws"), ENTRY),
    case("behind Upgrade nothing is HTTP", 'GET "/ws" upgrade', (req("GET /ws", "Upgrade: a"), b"\x81\x05hello", HIDDEN), ENTRY),
    case("behind Upgrade before the answer", 'GET "/ws" upgrade', req("GET /ws", "Upgrade: a") + HIDDEN, ENTRY, bad(Saw.EARLY_BYTES, "closed")),
    case("Upgrade with a body", 'POST "/ws" upgrade', (req("POST /ws", "Upgrade: a", "Content-Length: 2"), b"xy", b"\x81"), ENTRY),
    case("Upgrade with a body, then bytes", 'POST "/ws" upgrade', (req("POST /ws", "Upgrade: a", "Content-Length: 2"), b"xyz"), ENTRY, bad(Saw.EARLY_BYTES, "closed")),
]  # fmt: skip


def padded(size: int) -> bytes:
    """A head of so many bytes."""
    empty = req("GET /a", "A: ")
    return req("GET /a", "A: " + "x" * (size - len(empty)))


def trailers(size: int) -> bytes:
    return post(CHUNKED, body=b"0\r\nA: " + b"x" * (size - 7) + b"\r\n\r\n")


LIMIT = bad(Saw.HEAD_LIMIT)
LIMITS = [
    case("a head of 8 KiB", ALL, padded(8192), ENTRY),
    case("a head over 8 KiB", ALL, padded(8193), LIMIT),
    case("a head of 32 KiB", f"http limit 32k {{ {ALL} }}", padded(32768), ENTRY),
    case("a head over 32 KiB", f"http limit 32k {{ {ALL} }}", padded(32769), LIMIT),
    case("the largest limit holds", (f"http limit 256 {{ {ALL} }}", "http limit 512 { }"), padded(512), ENTRY),
    case("a smaller limit", f"http limit 256 {{ {ALL} }}", padded(257), LIMIT),
    case("the limit of an audited block", (f"http limit 256 {{ {ALL} }}", "http audit limit 512 { }"), padded(257), LIMIT),
    case("an endless method", f"http limit 256 {{ {ALL} }}", b"G" * 257, LIMIT),
    case("an endless target", f"http limit 256 {{ {ALL} }}", b"GET /" + b"a" * 252, LIMIT),
    case("endless lines", f"http limit 256 {{ {ALL} }}", (b"GET / HTTP/1.1\r\n", *[b"A: b\r\n"] * 41), LIMIT),
    case("trailers at the limit", f"http limit 256 {{ {ALL} }}", trailers(256), ENTRY),
    case("trailers over the limit", f"http limit 256 {{ {ALL} }}", trailers(257), TRAILER),
    case("a body has no limit", f"http limit 256 {{ {ALL} }}", post("Content-Length: 5000", body=b"x" * 5000) + req("GET /"), ENTRY, ENTRY),
]  # fmt: skip

# --- streams ------------------------------------------------------------------------------------------------------------

A, B = req("GET /a"), req("GET /b")
ONE = 'GET, POST "/a"'
STREAMS = [
    case("nothing", ONE, b""),
    case("no segments", ONE, ()),
    case("keep-alive", ONE, (A, A, A), ENTRY, ENTRY, ENTRY),
    case("pipelined", ONE, A * 3, ENTRY, ENTRY, ENTRY),
    case("denied: 403", ONE, B, NO),
    case("denied later: 403", ONE, (A, B), ENTRY, NO),
    case("denied behind another in one write: closed", ONE, A + B, ENTRY, no_entry("closed")),
    case("denied, begun behind another: closed", ONE, (A + B[:1], B[1:]), ENTRY, no_entry("closed")),
    case("denied behind a body", ONE, (post("Content-Length: 3", body=b"ab"), b"c" + B), ENTRY, no_entry("closed")),
    case("denied behind a body, later", ONE, (post("Content-Length: 3", body=b"ab"), b"c", B), ENTRY, NO),
    case("nothing behind a denied request is judged", ONE, (B + A, A), NO),
    case("split in two", ONE, (A[:9], A[9:]), ENTRY),
    case("byte by byte", ONE, tuple(A[i : i + 1] for i in range(len(A))), ENTRY),
    case("denied byte by byte", ONE, tuple(B[i : i + 1] for i in range(len(B))), NO),
    case("empty writes", ONE, (b"", A[:20], b"", A[20:], b""), ENTRY),
    case("incomplete", ONE, (A, B[:-1]), ENTRY),
    case("incomplete body", ONE, post("Content-Length: 3", body=b"ab"), ENTRY),
    case("Connection: close does not close", ONE, (req("GET /a", "Connection: close"), B), ENTRY, NO),
    case("1.0 does not close", ONE, (req("GET /a HTTP/1.0"), B), ENTRY, NO),
]  # fmt: skip

CASES: tuple[Case, ...] = (
    *METHODS, *PATHS, *TARGETS, *HOSTS, *HEADERS, *QUERIES, *DENIES, *LINES, *LENGTHS, *BODIES, *CHUNKS, *UPGRADES, *LIMITS, *STREAMS,
)  # fmt: skip
