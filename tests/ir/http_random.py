"""Strategies: HTTP rules and heads that are near each other, so that what decides is rarely the first thing that differs."""

from __future__ import annotations

from hypothesis import strategies as st

from policyc.model import (
    Action,
    AddressSet,
    Direction,
    HttpBlock,
    HttpCondition,
    HttpEntry,
    Pattern,
    PeerClass,
    Policy,
    PolicySet,
    Rule,
    Service,
    Span,
    Tier,
)

SPAN = Span("h.pol", 1, 1, 1, 2)
METHODS = ("GET", "POST", "OPTIONS", "CONNECT", "PUT", "*")
SEGMENTS = ("a", "b", "ab", "*", "**", "a*", "*b", "a*b", ".x", "a;b", "%", "é")
LABELS = ("a", "b", "x-1", "*", "**", "a*")
FIXED_PATHS = ("*", "/", "http://a/*", "http://a/**", "https://*/a", "a:80", "[::1]:80", "*.b:80")
PATH_REGEXES = (r"/a/[^/]+", r"/(a|b)*", r".*", r"/a{2,3}/?b?", r"http://.*", r"[^/]*", r"/%[0-9]*", r"/\xc3\xa9|/é/.+")
HOST_REGEXES = (r"a\.", r"[ab]+(\.b)?", r".*", r"\[::1\]", r"a:80", r"\[:*")
VALUE_REGEXES = (r"a *", r"[0-9]+", r".*", r" a|b ", r"a(,a)*", "")
VALUES = ("a", "b", "a b", "12", "", "a,a", "*", "é")
NAMES = ("x-a", "x_a", "x-b", "accept")
KEYS = ("k", "k-a", "k_a", "a b", "é")
PROTOCOLS = ("websocket", "h2c")


def patterns(strings: st.SearchStrategy[str], regexes: tuple[str, ...], glob: bool) -> st.SearchStrategy[Pattern]:
    def plain(text: str) -> Pattern:
        return Pattern("glob" if glob and "*" in text else "string", text, SPAN)

    return st.one_of(strings.map(plain), st.sampled_from(regexes).map(lambda text: Pattern("regex", text, SPAN)))


def few(of: st.SearchStrategy, most: int = 2) -> st.SearchStrategy:
    return st.lists(of, max_size=most).map(tuple)


paths = st.one_of(
    st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map(lambda s: "/" + "/".join(s)),
    st.sampled_from(FIXED_PATHS),
)
hosts = st.lists(st.sampled_from(LABELS), min_size=1, max_size=3).map(".".join) | st.just("[::1]")


@st.composite
def conditions(draw: st.DrawFn) -> HttpCondition:
    kind = draw(st.sampled_from(("header", "query")))
    name = draw(st.sampled_from(NAMES if kind == "header" else KEYS))
    if draw(st.integers(0, 3)) == 0:
        return HttpCondition(kind, name, (), True)
    return HttpCondition(kind, name, draw(few(patterns(st.sampled_from(VALUES), VALUE_REGEXES, False))))


@st.composite
def blocks(draw: st.DrawFn) -> HttpBlock:
    entries = []
    for number in range(1, draw(st.integers(1, 5)) + 1):
        asked = draw(few(conditions())) if draw(st.booleans()) else ()
        entries.append(
            HttpEntry(
                number,
                draw(st.sampled_from((Action.ALLOW, Action.ALLOW, Action.DENY))),
                draw(few(st.sampled_from(METHODS))),
                draw(few(patterns(paths, PATH_REGEXES, True))),
                draw(few(patterns(hosts, HOST_REGEXES, True))) if draw(st.integers(0, 2)) == 0 else (),
                asked,
                draw(st.none() | st.none() | few(st.sampled_from(PROTOCOLS))),
                draw(st.booleans()),
                SPAN,
            )
        )
    return HttpBlock(tuple(entries), SPAN)


@st.composite
def rule_sets(draw: st.DrawFn) -> PolicySet:
    """Rules of one level that all match each connection; at least one has a block."""
    with_block = draw(st.lists(st.sampled_from((True, True, False)), min_size=1, max_size=3).filter(any))
    rules = tuple(
        Rule(
            order, f"p.ingress.{order + 1}", "p", Direction.INGRESS, Tier.NORMAL, 100, Action.ALLOW, (PeerClass.ANY,),
            (Service(6, (80, 80)),), False, False, SPAN, draw(blocks()) if block else None,
        )
        for order, block in enumerate(with_block)
    )  # fmt: skip
    policy = Policy("p", (PeerClass.ENDPOINTS,), Tier.NORMAL, 100, False, {}, rules, SPAN)
    return PolicySet(1, (), {}, (policy,), AddressSet())


PIECES = ("a", "b", "ab", "x", ".", "..", ".x", "...", "", "a;b", ";", "..;", "%61", "%2e", "%2E%2e", "%2f", "%25", "%2541", "%25%34%31", "%254",
          "%", "%4", "%zz", "%00", "%1f", "%20", "%7f", "%80", "%c3%a9", "\\", "%5c", "#", "%23", "%3f", "*", "\x7f", "\xe9")  # fmt: skip
SOUND_PIECES = ("a", "b", "ab", "a", "b", "x", ".x", "a;b", "%61", "%c3%a9")
TARGETS = ("*", "*a", "http://a/b", "http://a", "http://a/", "http://", "https://a/a", "https://a.b/a", "http:/a", "http://a//b", "http://../a",
           "http:80", "h%74tp://a/b", "a:80", "c.b:80", "a:", "a", "[::1]:80", "a:80/x", "a%3a80", "%2fa", "", "HTTP://a/b",
           "http://%61/b", "http://a?k", "*?k", "a:80?k", "https:80", "http://?k", "-a:80")  # fmt: skip
QUERY_PIECES = ("k", "k=a", "k=b", "k=a+b", "k=12", "k=%61", "k=%6", "%6b=a", "k-a", "k_a=1", "k%5fa", "a+b=1", "a%20b", "%c3%a9=a", "", "=a", "k==",
                "k=a=b", "k=%c3%a9", "%k", "k=%", "K=a", "k=#", "k=\xe9", "k=%00", "k=%26", "k%3da", "k=%2b")  # fmt: skip
HOST_VALUES = ("a", "A", "a.b", "a.", "a..", "a:80", "a:", "a.:80", "a:b", "a:80:80", "a b", "", ".", "x-1.b", " a \t", "[::1]", "[::1]:80", "[::1", "[]",
               "[::1].", "a.80", "a.8", ":80", "a:80 ", "a.:", "b.a.c", "a/b", "a_b", "ab.b", "[:", "a:80.")  # fmt: skip
SOUND_HOSTS = ("a", "a", "b", "A", "a.b", "a.b.", "[::1]", "x-1.b:80")
LINES = ("X-A: a", "x-a:  a b\t", "X-a:a,a", "x_a: 12", "x-A:", "x-b: b", "x-b: \xc3\xa9", "Accept: *", "accept: a  ", "accept:\ta ,a", "Upgrade: websocket",
         "upgrade: WebSocket", "Upgrade: h2c", "Upgrade: x", "Content-Length: 0", "Content-Length: 5", "content-length: +5", "Content-Length: 0005",
         "Content-Length: 9223372036854775808", "Content-Length: 9223372036854775807", "Content-Length: 00000000000000000001", "Transfer-Encoding: chunked",
         "Transfer-Encoding: Chunked ", "Transfer-Encoding: gzip", "Transfer-encoding: chunked, chunked", "x-a : a", " x-a: a", ": a", "x-c: \x00",
         "x-c: a\rb", "x-c: a\nb", "x(c: a", "Connection: close", "Expect: 100-continue", "Host: b", "x-a: a\r\n b", "x\xe9: a")  # fmt: skip
STARTS = ("GET", "GET", "POST", "OPTIONS", "CONNECT", "HEAD", "PUT", "get", "G(T", "")


_ODD = st.integers(0, 5).map(lambda n: n == 0)
SOUND_LINES = ("X-A: a", "x-a:  a b\t", "X-a:a,a", "x_a: 12", "x-A:", "x-b: b", "x-b: \xc3\xa9", "Accept: *", "accept: a  ", "accept:\ta ,a", "x-b: 12",
               "Upgrade: WebSocket", "Content-Length: 5", "Transfer-Encoding: chunked", "X_A: b")  # fmt: skip


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A head up to its empty line; each character is a byte. Most parts are sound in most heads."""

    def some(odd: tuple[str, ...], sound: tuple[str, ...]) -> str:
        return draw(st.sampled_from(odd if draw(_ODD) else sound))

    if draw(_ODD):
        target = draw(st.sampled_from(TARGETS))
    else:
        target = "/" + "/".join(some(PIECES, SOUND_PIECES) for _ in range(draw(st.integers(1, 4))))
    if draw(st.booleans()):
        target += "?" + "&".join(draw(st.lists(st.sampled_from(QUERY_PIECES), max_size=3)))
    version = some(("HTTP/1.0", "HTTP/1.0", "HTTP/2.0", "HTTP/1.1 "), ("HTTP/1.1",))
    lines = [some(LINES, SOUND_LINES) for _ in range(draw(st.integers(0, 3)))]
    if not draw(_ODD) or not draw(_ODD):
        host = "Host:" + draw(st.sampled_from(("", " "))) + some(HOST_VALUES, SOUND_HOSTS)
        lines.insert(draw(st.integers(0, len(lines))), host)
    method = some(STARTS, ("GET", "GET", "POST"))
    if target in ("a:80", "c.b:80", "[::1]:80"):
        method = "CONNECT"
    return "\r\n".join([f"{method} {target} {version}", *lines, "", ""]).encode("latin-1")
