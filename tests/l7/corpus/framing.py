"""Where one request ends and the next begins: RFC 9112 sections 6 and 7, and the attacks that live on two readings of them."""

from __future__ import annotations

from policyc.artifact.stream_layout import Saw
from tests.l7.corpus.case import allow, bad_body, case, malformed, no_entry, request
from tests.l7.corpus.policy import HIDDEN

SMUGGLED = request(f"GET {HIDDEN}")
POST = "POST /public/a"
LENGTH = f"Content-Length: {len(SMUGGLED)}"
CHUNKED = "Transfer-Encoding: chunked"
END = b"0\r\n\r\n"


def chunks(*pieces: bytes, end: bytes = END) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + end


def te(value: str) -> bytes:
    """A request whose body ends early for who takes the value as chunked, and holds another request for who does not."""
    return request(POST, f"Content-Length: {len(END) + len(SMUGGLED)}", value, body=END + SMUGGLED)


BOTH = [
    case("cl.te", "CL.TE; RFC 9112 6.1", te(CHUNKED), malformed(Saw.BOTH_LENGTHS)),
    case(
        "te.cl",
        "TE.CL; RFC 9112 6.1",
        request(POST, "Content-Length: 4", CHUNKED, body=chunks(SMUGGLED)),
        malformed(Saw.BOTH_LENGTHS),
    ),
    case(
        "te-then-cl",
        "TE.CL with the lines the other way round",
        request(POST, CHUNKED, "Content-Length: 4", body=chunks(SMUGGLED)),
        malformed(Saw.BOTH_LENGTHS),
    ),
    case(
        "cl.te split in the head",
        "CL.TE in two writes",
        (te(CHUNKED)[:40], te(CHUNKED)[40:]),
        malformed(Saw.BOTH_LENGTHS),
    ),
    case(
        "cl 0 and te",
        "RFC 9112 6.1",
        request(POST, "Content-Length: 0", CHUNKED, body=chunks(SMUGGLED)),
        malformed(Saw.BOTH_LENGTHS),
    ),
]

# TE.TE: a Transfer-Encoding that one of two readers does not take as one.
OBFUSCATED = {
    "xchunked": "Transfer-Encoding: xchunked",
    "chunked with a letter behind": "Transfer-Encoding: chunkedx",
    "quoted": 'Transfer-Encoding: "chunked"',
    "identity": "Transfer-Encoding: identity",
    "list": "Transfer-Encoding: chunked, identity",
    "list with chunked last": "Transfer-Encoding: identity, chunked",
    "comma behind": "Transfer-Encoding: chunked,",
    "parameter": "Transfer-Encoding: chunked;a=b",
    "gzip": "Transfer-Encoding: gzip, chunked",
    "vertical tab before": "Transfer-Encoding: \x0bchunked",
    "vertical tab behind": "Transfer-Encoding: chunked\x0b",
    "byte ff behind": "Transfer-Encoding: chunked\xff",
    "empty": "Transfer-Encoding:",
    "zero-width": "Transfer-Encoding: \xe2\x80\x8bchunked",
}
TE_TE = [
    case(f"te: {name}", "TE.TE; RFC 9112 6.1", request(POST, value, body=chunks(SMUGGLED)), malformed(Saw.TRANSFER_ENCODING))
    for name, value in OBFUSCATED.items()
]  # fmt: skip
TE_TE += [
    case(
        "te twice",
        "TE.TE; RFC 9112 6.1",
        request(POST, CHUNKED, CHUNKED, body=chunks(SMUGGLED)),
        malformed(Saw.TRANSFER_ENCODING),
    ),
    case(
        "te chunked and identity on two lines",
        "TE.TE",
        request(POST, CHUNKED, "Transfer-Encoding: identity", body=chunks(SMUGGLED)),
        malformed(Saw.TRANSFER_ENCODING),
    ),
    case("te: space before the colon", "TE.TE; RFC 9112 5.1", te("Transfer-Encoding : chunked"), malformed(Saw.HEADER_NAME)),
    case("te: tab before the colon", "TE.TE; RFC 9112 5.1", te("Transfer-Encoding\t: chunked"), malformed(Saw.HEADER_NAME)),
    case("te: folded", "TE.TE; RFC 9112 5.2", te("Transfer-Encoding:\r\n chunked"), malformed(Saw.TRANSFER_ENCODING)),
    case("te: behind a bare lf", "TE.TE; RFC 9112 2.2", te("X: x\nTransfer-Encoding: chunked"), malformed(Saw.HEADER_VALUE)),
    case("te: behind a bare cr", "TE.TE; RFC 9112 2.2", te("X: x\rTransfer-Encoding: chunked"), malformed(Saw.HEADER_VALUE)),
    case("te: with an underscore", "names that a CGI variable merges", te("Transfer_Encoding: chunked"), allow(POST)),
    case("te: in capitals", "RFC 9110 5.1", request(POST, "TRANSFER-ENCODING: CHUNKED", body=chunks(SMUGGLED)), allow(POST)),
    case("te: a tab before the value", "RFC 9112 5", request(POST, "Transfer-Encoding:\tchunked", body=chunks(SMUGGLED)), allow(POST)),
    case("te: in 1.0", "RFC 9112 6.1", request(f"{POST} HTTP/1.0", CHUNKED, body=chunks(SMUGGLED)), malformed(Saw.TRANSFER_ENCODING)),
]  # fmt: skip

LENGTHS = {
    "plus": "+5",
    "minus": "-5",
    "hex": "0x5",
    "fraction": "5.0",
    "with a space": "5 5",
    "list": "5, 5",
    "empty": "",
    "letters": "five",
    "arabic digits": "\xd9\xa5",
    "2^63": "9223372036854775808",
    "2^64 + 5": "18446744073709551621",
    "2^32 times": "99999999999999999999999999999999",
}
CONTENT_LENGTH = [
    case(f"cl: {name}", "RFC 9112 6.3", request(POST, f"Content-Length: {value}", body=b"hello" + SMUGGLED), malformed(Saw.CONTENT_LENGTH))
    for name, value in LENGTHS.items()
]  # fmt: skip
CONTENT_LENGTH += [
    case("cl twice, equal", "RFC 9112 6.3", request(POST, "Content-Length: 5", "Content-Length: 5", body="hello"), malformed(Saw.CONTENT_LENGTH)),
    case("cl twice, the second longer", "CL.CL", request(POST, "Content-Length: 0", LENGTH, body=SMUGGLED), malformed(Saw.CONTENT_LENGTH)),
    case("cl twice, the first longer", "CL.CL", request(POST, LENGTH, "Content-Length: 0", body=SMUGGLED), malformed(Saw.CONTENT_LENGTH)),
    case("cl with zeros before", "RFC 9112 6.3", request(POST, "Content-Length: 0005", body="hello"), allow(POST)),
    case("cl with blanks around", "RFC 9112 5", request(POST, "Content-Length: \t 5 \t", body="hello"), allow(POST)),
    case("cl of 0", "RFC 9112 6.3", request(POST, "Content-Length: 0"), allow(POST)),
    case("cl with an underscore", "names that a CGI variable merges", request(POST, "Content-Length: 5", "Content_Length: 50", body="hello"), allow(POST)),
    case("cl space before the colon", "RFC 9112 5.1", request(POST, "Content-Length : 5", body="hello"), malformed(Saw.HEADER_NAME)),
]  # fmt: skip

BODIES = [
    case("cl.0", "CL.0: a body that is a request", request(POST, LENGTH, body=SMUGGLED), allow(POST)),
    case("cl.0 in two writes", "CL.0", (request(POST, LENGTH), SMUGGLED), allow(POST)),
    case("0.cl", "0.CL: GET with a body that is a request", request("GET /public/a", LENGTH, body=SMUGGLED), malformed(Saw.BODY)),
    case("0.cl in two writes", "0.CL", (request("GET /public/a", LENGTH), SMUGGLED), malformed(Saw.BODY)),
    case("0.cl of head", "0.CL", request("HEAD /public/a", LENGTH, body=SMUGGLED), malformed(Saw.BODY)),
    case("get with te", "GET with a chunked body", request("GET /public/a", CHUNKED, body=chunks(SMUGGLED)), malformed(Saw.BODY)),
    case("get with cl 0", "RFC 9110 9.3.1", request("GET /public/a", "Content-Length: 0"), allow("GET /public/a")),
    case("options with a body", "RFC 9110 9.3.7", request("OPTIONS *", LENGTH, body=SMUGGLED), malformed(Saw.BODY)),
    case("delete with a body that is allowed", "entry with `body`", request("DELETE /items/1", "Content-Length: 5", body="hello"), allow("DELETE /items/1")),
    case("post without a length", "RFC 9112 6.3: no body", request(POST) + request("GET /public/b"), allow(POST), allow("GET /public/b")),
    case("get behind a body", "pipelining", request(POST, "Content-Length: 5", body="hello") + request("GET /public/b"), allow(POST), allow("GET /public/b")),
    case("one byte too many", "RFC 9112 6.3", request(POST, "Content-Length: 4", body="hello") + request("GET /public/b"), allow(POST), no_entry("closed")),
]  # fmt: skip

EXPECT = "Expect: 100-continue"
EXPECTATIONS = [
    case("expect", "RFC 9110 10.1.1", (request(POST, EXPECT, "Content-Length: 5"), b"hello"), allow(POST)),
    case("expect without waiting", "RFC 9110 10.1.1", request(POST, EXPECT, "Content-Length: 5", body="hello"), allow(POST)),
    case("expect of a chunked body", "RFC 9110 10.1.1", (request(POST, EXPECT, CHUNKED), chunks(b"hello")), allow(POST)),
    case("expect with a get's body", "0.CL with Expect", request("GET /public/a", EXPECT, LENGTH, body=SMUGGLED), malformed(Saw.BODY)),
    case("expect with a get's body later", "0.CL with Expect", (request("GET /public/a", EXPECT, LENGTH), SMUGGLED), malformed(Saw.BODY)),
    case("expect without a body", "RFC 9110 10.1.1", request("GET /public/a", EXPECT), allow("GET /public/a")),
    case("expect something else", "Expect with a prefix", request(POST, "Expect: y 100-continue", LENGTH, body=SMUGGLED), allow(POST)),
    case("expect in capitals", "RFC 9110 10.1.1", (request(POST, "Expect: 100-CONTINUE", "Content-Length: 5"), b"hello"), allow(POST)),
]  # fmt: skip

# A body that is malformed: its own response may be under way, so there is no 403.
BAD_CHUNKS = {
    "extension": b"5;a=b\r\nhello\r\n0\r\n\r\n",
    "extension with a request": b'5;a="\r\n\r\nGET /public/internal/key HTTP/1.1\r\n\r\n"\r\nhello\r\n0\r\n\r\n',
    "bare semicolon": b"5;\r\nhello\r\n0\r\n\r\n",
    "space behind the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "nine digits": b"000000005\r\nhello\r\n0\r\n\r\n",
    "overflow": b"fffffffffffffff5\r\nhello\r\n0\r\n\r\n",
    "lf behind the size": b"5\nhello\r\n0\r\n\r\n",
    "cr behind the size": b"5\rhello\r\n0\r\n\r\n",
    "lf behind the data": b"5\r\nhello\n0\r\n\r\n",
    "longer than its size": b"5\r\nhello!\r\n0\r\n\r\n",
    "two bytes for a crlf": b"5\r\nhelloXX0\r\n\r\n",
    "lf at the end": b"5\r\nhello\r\n0\r\n\n",
}
CHUNKS = [
    case(f"chunk: {name}", "RFC 9112 7.1", request(POST, CHUNKED, body=body), bad_body(POST, Saw.CHUNK))
    for name, body in BAD_CHUNKS.items()
    if name != "lf at the end"
]
CHUNKS += [
    case("chunk: lf at the end", "RFC 9112 7.1", request(POST, CHUNKED, body=BAD_CHUNKS["lf at the end"]), bad_body(POST, Saw.TRAILER)),
    case("chunk: bad in a later write", "RFC 9112 7.1", (request(POST, CHUNKED), b"5\r\nhello\r\n", b"zz\r\n"), bad_body(POST, Saw.CHUNK)),
    case("chunks", "RFC 9112 7.1", request(POST, CHUNKED, body=chunks(b"hello", b"world")), allow(POST)),
    case("chunk: zeros before", "RFC 9112 7.1", request(POST, CHUNKED, body=b"0005\r\nhello\r\n0000\r\n\r\n"), allow(POST)),
    case("chunk: capitals", "RFC 9112 7.1", request(POST, CHUNKED, body=b"A\r\nhelloworld\r\n0\r\n\r\n"), allow(POST)),
    case("chunk that is a request", "chunk content read as a request", request(POST, CHUNKED, body=chunks(SMUGGLED)), allow(POST)),
    case("chunk over many writes", "RFC 9112 7.1", (request(POST, CHUNKED), b"5", b"\r", b"\nhel", b"lo\r", b"\n0\r\n", b"\r", b"\n"), allow(POST), paced=0.02),
    case("request behind chunks", "pipelining", request(POST, CHUNKED, body=chunks(b"hello")) + request("GET /public/b"), allow(POST), allow("GET /public/b")),
]  # fmt: skip

TRAILERS = [
    case("trailer", "RFC 9112 7.1.2", request(POST, CHUNKED, body=chunks(b"hello", end=b"0\r\nX-Sum: 1\r\n\r\n")), allow(POST)),
    *(
        case(f"trailer: {line.partition(':')[0]}", "RFC 9110 6.5.1", request(POST, CHUNKED, body=chunks(b"hello", end=b"0\r\n%s\r\n\r\n" % line.encode())), bad_body(POST, Saw.TRAILER))
        for line in ("Content-Length: 5", "Transfer-Encoding: chunked", "Host: other", "no colon", "space : before", " folded: line")
    ),
    case("trailer: endless", "trailers over the limit", (request(POST, CHUNKED, body=b"0\r\n"), *(b"X-%d: %s\r\n" % (n, b"t" * 500) for n in range(20))), bad_body(POST, Saw.TRAILER), paced=0.002),
]  # fmt: skip

CASES = [*BOTH, *TE_TE, *CONTENT_LENGTH, *BODIES, *EXPECTATIONS, *CHUNKS, *TRAILERS]
