"""Targets and paths: RFC 9112 section 3.2, RFC 3986, and the spellings by which `/public/internal` hides."""

from __future__ import annotations

from policyc.artifact.stream_layout import Saw
from tests.l7.corpus.case import Outcome, allow, by_entry, case, malformed, no_entry, request

BAD = malformed(Saw.TARGET)


def get(target: str) -> bytes:
    return request(f"GET {target}")


def ok(target: str) -> Outcome:
    return allow(f"GET {target}")


REFUSED = {
    "dot segments": "/public/../public/internal/key",
    "dot segments, escaped": "/public/%2e%2e/internal",
    "dot segments, half escaped": "/public/.%2E/internal",
    "a dot segment": "/public/./internal/key",
    "a dot segment, escaped": "/public/%2e/internal/key",
    "dot segments at the end": "/public/a/..",
    "dot segments before a parameter": "/public/..;/internal/key",
    "dot segments before an escaped parameter": "/public/..%3b/internal/key",
    "a dot segment with a parameter": "/public/.;x=1/internal",
    "escaped slash": "/public%2Finternal/key",
    "escaped slash in a segment": "/public/x%2f..%2finternal",
    "escaped backslash": "/public/..%5cinternal",
    "backslash": "/public/..\\internal",
    "a backslash for the first slash": "/public\\internal/key",
    "nul": "/public/a%00/internal",
    "escaped newline": "/public/a%0d%0aX:%20y",
    "escaped tab": "/public/%09internal",
    "escaped del": "/public/%7f",
    "escaped twice": "/public/%252e%252e/internal",
    "escaped thrice": "/public/%25252e",
    "percent escaped before a digit": "/public/%25%36%39nternal",
    "escape of one digit": "/public/%6",
    "escape without digits": "/public/%",
    "escape of letters": "/public/%zz",
    "escape as in Java": "/public/%u0069nternal",
    "two slashes": "/public//internal/key",
    "two slashes at first": "//public/internal/key",
    "fragment": "/public/a#/internal",
    "raw byte ff": "/public/\xff",
    "raw utf-8": "/public/\xc3\xa9",
    "raw tab": "/public/a\tb",
    "raw nul": "/public/a\x00b",
    "raw del": "/public/a\x7f",
    "fragment in the query": "/public/a?b#c",
    "raw byte ff in the query": "/public/a?b=\xff",
    "no slash": "public/a",
    "asterisk": "*",
    "only a query": "?a=b",
    "absolute form": "http://api/public/a",
    "absolute form to another host": "http://other/public/internal/key",
    "absolute form with https": "https://api/public/a",
    "absolute form of another scheme": "file:///public/internal/key",
    "authority form": "api:80",
}
PATHS = [case(f"path: {name}", "RFC 9112 3.2, RFC 3986", get(target), BAD) for name, target in REFUSED.items()]
PATHS += [
    case("path: space", "RFC 9112 3.2", get("/public/a b"), malformed(Saw.VERSION)),
    case("path: a version within", "RFC 9112 3.2", get("/public/internal/key HTTP/1.1\r\nHost: api\r\n\r\n"), by_entry()),
    *(case(f"path: {target}", "deny entry", get(target), by_entry()) for target in (
        "/public/internal/key", "/public/internal", "/public/internal/", "/public/%69nternal/key", "/publi%63/%69%6E%74ernal/key",
        "/public/internal/a?b", "/public/internal?", "/public/internal/%e2%80%ae",
    )),
    *(case(f"path: {target}", "no entry", get(target), no_entry()) for target in (
        "/", "/publi", "/publicity", "/private", "/public;x/a", "/public/internal;x/key", "/public/a;b", "/public%3b/a", "/PUBLIC/a", "/items/a/b", "/public%20/a",
    )),
    *(case(f"path: {target}", "RFC 3986", get(target), ok(target)) for target in (
        "/public", "/public/", "/public/a", "/public/a/b/c", "/p%75blic/%61", "/public/INTERNAL/key", "/public/internals", "/public/...", "/public/.a", "/public/a..",
        "/public/%e2%98%83", "/public/%c0%ae%c0%ae/internal", "/public/%ef%bc%8e%ef%bc%8e/internal", "/public/%3f", "/public/%23", "/public/a%20b", "/public/%25", "/public/%25zz",
        "/public/a?", "/public/a?x=/../internal", "/public/a?x=//", "/public/a?x=%00%zz%", "/public/a??b", "/public/a?x=\\", "/public/~!$&'()*+,=:@-_",
    )),
    case("target: asterisk with options", "RFC 9112 3.2.4", request("OPTIONS *"), allow("OPTIONS *")),
    case("target: asterisk and more", "RFC 9112 3.2.4", request("OPTIONS *a"), BAD),
    case("target: connect", "RFC 9112 3.2.3", request("CONNECT api:80"), BAD),
    case("target: connect with a path", "RFC 9112 3.2.3", request("CONNECT /public/a"), BAD),
    case("target: absolute form behind a request", "RFC 9112 3.2.2", (get("/public/a"), get("http://api/public/b")), ok("/public/a"), BAD),
]  # fmt: skip

CASES = PATHS
