"""Start lines and header lines: RFC 9112 sections 2 to 5, RFC 9110 section 5."""

from __future__ import annotations

from policyc.artifact.stream_layout import Saw
from tests.l7.corpus.case import allow, case, malformed, no_entry, request
from tests.l7.corpus.framing import SMUGGLED

GET = "GET /public/a"
LINES = b"GET /public/a HTTP/1.1\r\nHost: api\r\n"


def start(line: bytes, rest: bytes = b"Host: api\r\n\r\n") -> bytes:
    return line + rest


START = [
    case("start: two spaces before the target", "RFC 9112 3", start(b"GET  /public/a HTTP/1.1\r\n"), malformed(Saw.TARGET)),
    case("start: two spaces before the version", "RFC 9112 3", start(b"GET /public/a  HTTP/1.1\r\n"), malformed(Saw.VERSION)),
    case("start: space at the end", "RFC 9112 3", start(b"GET /public/a HTTP/1.1 \r\n"), malformed(Saw.VERSION)),
    case("start: space at the beginning", "RFC 9112 3", start(b" GET /public/a HTTP/1.1\r\n"), malformed(Saw.START_LINE)),
    case("start: tabs", "RFC 9112 3", start(b"GET\t/public/a\tHTTP/1.1\r\n"), malformed(Saw.START_LINE)),
    case("start: vertical tab", "RFC 9112 3", start(b"GET\x0b/public/a HTTP/1.1\r\n"), malformed(Saw.START_LINE)),
    case("start: an empty line before", "RFC 9112 2.2", b"\r\n" + start(b"GET /public/a HTTP/1.1\r\n"), malformed(Saw.START_LINE)),
    case("start: lf before", "RFC 9112 2.2", b"\n" + start(b"GET /public/a HTTP/1.1\r\n"), malformed(Saw.START_LINE)),
    case("start: an empty line between", "RFC 9112 2.2", request(GET) + b"\r\n" + request(GET), allow(GET), malformed(Saw.START_LINE, "closed")),
    case("start: lf at the end", "RFC 9112 2.2", start(b"GET /public/a HTTP/1.1\n"), malformed(Saw.VERSION)),
    case("start: cr at the end", "RFC 9112 2.2", start(b"GET /public/a HTTP/1.1\r"), malformed(Saw.VERSION)),
    case("start: http/0.9", "HTTP/0.9", b"GET /public/a\r\n", malformed(Saw.TARGET)),
    case("start: http/0.9 with a version", "HTTP/0.9", start(b"GET /public/a HTTP/0.9\r\n"), malformed(Saw.VERSION)),
    case("start: http/1.2", "RFC 9110 2.5", start(b"GET /public/a HTTP/1.2\r\n"), malformed(Saw.VERSION)),
    case("start: http/1.10", "RFC 9112 2.3", start(b"GET /public/a HTTP/1.10\r\n"), malformed(Saw.VERSION)),
    case("start: http/01.1", "RFC 9112 2.3", start(b"GET /public/a HTTP/01.1\r\n"), malformed(Saw.VERSION)),
    case("start: http/2.0", "RFC 9112 2.3", start(b"GET /public/a HTTP/2.0\r\n"), malformed(Saw.VERSION)),
    case("start: small letters", "RFC 9112 2.3", start(b"GET /public/a http/1.1\r\n"), malformed(Saw.VERSION)),
    case("start: another protocol", "RFC 9112 2.3", start(b"GET /public/a ICY/1.1\r\n"), malformed(Saw.VERSION)),
    case("start: no target", "RFC 9112 3", start(b"GET HTTP/1.1\r\n"), malformed(Saw.TARGET)),
    case("start: method in small letters", "RFC 9110 9.1", start(b"get /public/a HTTP/1.1\r\n"), no_entry()),
    case("start: unknown method", "RFC 9110 9.1", start(b"BREW /public/a HTTP/1.1\r\n"), no_entry()),
    case("start: a method that begins like another", "prefix of a method", start(b"GETS /public/a HTTP/1.1\r\n"), no_entry()),
    case("start: method with a colon", "RFC 9110 5.6.2", start(b"GET: /public/a HTTP/1.1\r\n"), malformed(Saw.START_LINE)),
    case("start: method with nul", "RFC 9110 5.6.2", start(b"GE\x00T /public/a HTTP/1.1\r\n"), malformed(Saw.START_LINE)),
    case("start: long method", "RFC 9110 9.1", start(b"G" * 300 + b" /public/a HTTP/1.1\r\n"), no_entry()),
    case("tls", "a ClientHello", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", malformed(Saw.TLS)),
    case("tls behind a request", "a ClientHello", request(GET) + b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", allow(GET), malformed(Saw.TLS, "closed")),
    case("http/2 preface", "RFC 9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", malformed(Saw.HTTP2)),
    case("zeros", "another protocol", b"\x00" * 16, malformed(Saw.START_LINE)),
    case("proxy protocol", "PROXY header", b"PROXY TCP4 10.9.1.2 10.9.2.2 1 80\r\n" + request(GET), malformed(Saw.TARGET)),
]  # fmt: skip

FIELDS = [
    case("field: folded with a space", "RFC 9112 5.2", request(GET, "X: a\r\n b"), malformed(Saw.FOLDED_LINE)),
    case("field: folded with a tab", "RFC 9112 5.2", request(GET, "X: a\r\n\tb"), malformed(Saw.FOLDED_LINE)),
    case("field: a space before the first", "RFC 9112 2.2", request(GET, host=" Host: api\r\n"), malformed(Saw.FOLDED_LINE)),
    case("field: bare lf", "RFC 9112 2.2", request(GET, "X: a\n"), malformed(Saw.HEADER_VALUE)),
    case("field: bare lf before a smuggled line", "RFC 9112 2.2", request(GET, "X: a\nX-Role: reader"), malformed(Saw.HEADER_VALUE)),
    case("field: bare cr", "RFC 9112 2.2", request(GET, "X: a\rb"), malformed(Saw.HEADER_VALUE)),
    case("field: cr cr lf", "RFC 9112 2.2", request(GET, "X: a\r\r\n"), malformed(Saw.HEADER_VALUE)),
    case("field: the head ends in lf lf", "RFC 9112 2.2", LINES + b"\n" + SMUGGLED, malformed(Saw.HEADER_NAME)),
    case("field: the head ends in cr", "RFC 9112 2.2", LINES + b"\rX", malformed(Saw.HEADER_NAME)),
    case("field: nul in a value", "RFC 9110 5.5", request(GET, "X: a\x00b"), malformed(Saw.HEADER_VALUE)),
    case("field: nul in a name", "RFC 9110 5.6.2", request(GET, "X\x00: a"), malformed(Saw.HEADER_NAME)),
    case("field: space before the colon", "RFC 9112 5.1", request(GET, "X : a"), malformed(Saw.HEADER_NAME)),
    case("field: space in a name", "RFC 9112 5.1", request(GET, "X Y: a"), malformed(Saw.HEADER_NAME)),
    case("field: no name", "RFC 9112 5", request(GET, ": a"), malformed(Saw.HEADER_NAME)),
    case("field: no colon", "RFC 9112 5", request(GET, "X-Y"), malformed(Saw.HEADER_NAME)),
    case("field: brackets in a name", "RFC 9110 5.6.2", request(GET, "X[0]: a"), malformed(Saw.HEADER_NAME)),
    case("field: byte ff in a name", "RFC 9110 5.6.2", request(GET, "X\xff: a"), malformed(Saw.HEADER_NAME)),
    case("field: no value", "RFC 9110 5.5", request(GET, "X:"), allow(GET)),
    case("field: other bytes in a value", "RFC 9110 5.5", request(GET, "X: \xff\x01\x7f"), allow(GET)),
    case("field: all signs of a name", "RFC 9110 5.6.2", request(GET, "!#$%&'*+-.^_`|~09: a"), allow(GET)),
]  # fmt: skip

HOSTS = [
    case("host: none in 1.1", "RFC 9112 3.2", request(GET, host=""), malformed(Saw.HOST)),
    case("host: none in 1.0", "RFC 9112 3.2", request(f"{GET} HTTP/1.0", host=""), allow(GET)),
    case("host: two", "RFC 9112 3.2", request(GET, "Host: api"), malformed(Saw.HOST)),
    case("host: two in 1.0", "RFC 9112 3.2", request(f"{GET} HTTP/1.0", "Host: api"), malformed(Saw.HOST)),
    case("host: two, one in capitals", "RFC 9112 3.2", request(GET, "HOST: other"), malformed(Saw.HOST)),
    case("host: user", "RFC 9112 3.2", request(GET, host="Host: api@other\r\n"), malformed(Saw.HOST)),
    case("host: path", "RFC 9112 3.2", request(GET, host="Host: api/x\r\n"), malformed(Saw.HOST)),
    case("host: list", "RFC 9112 3.2", request(GET, host="Host: api, other\r\n"), malformed(Saw.HOST)),
    case("host: underscore", "bytes of a host", request(GET, host="Host: a_b\r\n"), malformed(Saw.HOST)),
    case("host: escape", "RFC 9112 3.2", request(GET, host="Host: a%70i\r\n"), malformed(Saw.HOST)),
    case("host: ipv6 and port", "RFC 9112 3.2", request(GET, host="Host: [fd00::1]:8080\r\n"), allow(GET)),
    case("host: space before the colon", "RFC 9112 5.1", request(GET, host="Host : api\r\n"), malformed(Saw.HEADER_NAME)),
]  # fmt: skip

CASES = [*START, *FIELDS, *HOSTS]
