"""Requests in a stream: split, coalesced, pipelined, upgraded, slow, and without end."""

from __future__ import annotations

from policyc.artifact.stream_layout import Saw
from tests.l7.corpus.case import allow, by_entry, case, malformed, no_entry, request
from tests.l7.corpus.framing import CHUNKED, chunks
from tests.l7.corpus.policy import HIDDEN

A, B, DENIED = request("GET /public/a"), request("GET /public/b"), request(f"GET {HIDDEN}")
GET_A, GET_B = allow("GET /public/a"), allow("GET /public/b")


def apart(sent: bytes, size: int = 1) -> tuple[bytes, ...]:
    return tuple(sent[at : at + size] for at in range(0, len(sent), size))


PIPELINES = [
    case("pipeline: two", "RFC 9112 9.3.2", A + B, GET_A, GET_B),
    case("pipeline: fifty", "RFC 9112 9.3.2", A * 50, *[GET_A] * 50),
    case("pipeline: a denied one behind", "403 would be taken for the first answer", A + DENIED, GET_A, by_entry("closed")),
    case("pipeline: a denied one before", "nothing behind it is judged", DENIED + A, by_entry()),
    case("pipeline: a denied one between", "nothing behind it is judged", A + DENIED + B, GET_A, by_entry("closed")),
    case("pipeline: a thousand and a denied one", "thousands in one buffer", A * 1000 + DENIED, *[GET_A] * 1000, by_entry("closed")),
    case("keep-alive: a denied one later", "judging only the first", (A, DENIED), GET_A, by_entry()),
    case("keep-alive: a denied one after ten", "judging only the first", (*[A] * 10, DENIED), *[GET_A] * 10, by_entry()),
    case("keep-alive: an allowed one after a denied one", "the connection stays closed", (DENIED, A), by_entry()),
    case("keep-alive: three", "RFC 9112 9.3", (A, B, A), GET_A, GET_B, GET_A),
    case("keep-alive: connection close is not interpreted", "RFC 9112 9.6", (request("GET /public/a", "Connection: close"),), GET_A),
    case("pipeline: behind connection close", "RFC 9112 9.6", request("GET /public/a", "Connection: close") + DENIED, GET_A, by_entry("closed")),
    case("pipeline: behind 1.0", "RFC 9112 9.3", request("GET /public/a HTTP/1.0") + DENIED, GET_A, by_entry("closed")),
    case("pipeline: behind head", "RFC 9110 9.3.2", request("HEAD /public/a") + DENIED, allow("HEAD /public/a"), by_entry("closed")),
    case("pipeline: behind a body", "RFC 9112 6", request("POST /public/a", "Content-Length: 5", body="hello") + DENIED, allow("POST /public/a"), by_entry("closed")),
    case("pipeline: behind chunks", "RFC 9112 7.1", request("POST /public/a", CHUNKED, body=chunks(b"hello")) + DENIED, allow("POST /public/a"), by_entry("closed")),
    case("pipeline: a large body, then a denied one", "a body over many buffers", request("POST /public/a", "Content-Length: 300000", body=b"x" * 300000) + DENIED, allow("POST /public/a"), by_entry("closed")),
]  # fmt: skip

SPLITS = [
    case("split: byte by byte", "RFC 9112 2.2", apart(A), GET_A, paced=0.002),
    case("split: byte by byte, denied", "judging only first bytes", apart(DENIED), by_entry(), paced=0.002),
    case("split: in the method", "judging only first bytes", (DENIED[:2], DENIED[2:]), by_entry()),
    case("split: in the path", "judging only first bytes", (DENIED[:12], DENIED[12:]), by_entry()),
    case("split: before the last byte", "judging only first bytes", (DENIED[:-1], DENIED[-1:]), by_entry()),
    case("split: over two requests", "judging at buffers' beginnings", (A + DENIED[:7], DENIED[7:]), GET_A, by_entry("closed")),
    case("split: in an escape", "judging only first bytes", apart(request("GET /public/%69nternal/key"), 13), by_entry(), paced=0.01),
    case("slow: a head in pieces", "slow loris", apart(A, 4), GET_A, paced=0.03),
    case("unfinished head", "no request, nothing to report", DENIED[:-2]),
    case("unfinished head, then fin", "servers that take the end of a stream for the end of a head", DENIED[:-2], finish=True),
    case("unfinished start line, then fin", "the same, with HTTP/0.9", f"GET {HIDDEN}".encode(), finish=True),
    case("split: before the last byte, then fin", "the same, behind a denial", (DENIED[:-1], DENIED[-1:]), by_entry(), finish=True),
    case("unfinished body", "RFC 9112 8", request("POST /public/a", "Content-Length: 50", body="hello"), allow("POST /public/a")),
    case("nothing", "an idle connection", b""),
]  # fmt: skip

LIMITS = [
    case("limit: a value", "over 8 KiB", request("GET /public/a", "X: " + "v" * 9000), malformed(Saw.HEAD_LIMIT)),
    case("limit: a target", "over 8 KiB", request("GET /public/" + "a" * 9000), malformed(Saw.HEAD_LIMIT)),
    case("limit: a name", "over 8 KiB", request("GET /public/a", "N" * 9000 + ": v"), malformed(Saw.HEAD_LIMIT)),
    case("limit: many lines", "over 8 KiB", request("GET /public/a", *["X: v"] * 2000), malformed(Saw.HEAD_LIMIT)),
    case("limit: just within", "8 KiB", request("GET /public/a", "X: " + "v" * (8192 - len(A) - 5)), GET_A),
    case("limit: one byte more", "8 KiB", request("GET /public/a", "X: " + "v" * (8192 - len(A) - 4)), malformed(Saw.HEAD_LIMIT)),
    case("limit: just within, twice", "the limit is each head's", request("GET /public/a", "X: " + "v" * (8192 - len(A) - 5)) * 2, GET_A, GET_A),
    case("endless lines", "a head without end", (A[:-2], *[b"X: v\r\n" * 100] * 20), malformed(Saw.HEAD_LIMIT), paced=0.002),
    case("endless value", "a head without end", (A[:-2] + b"X: ", *[b"v" * 500] * 20), malformed(Saw.HEAD_LIMIT), paced=0.002),
    case("endless target", "a head without end", (b"GET /", *[b"v" * 500] * 20), malformed(Saw.HEAD_LIMIT), paced=0.002),
    case("endless method", "a head without end", tuple([b"G" * 500] * 20), malformed(Saw.HEAD_LIMIT), paced=0.002),
]  # fmt: skip

WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
NOT_UPGRADED = malformed(Saw.UPGRADE)
UPGRADES = [
    case("upgrade: h2c", "RFC 7540 3.2", request("GET /public/a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), NOT_UPGRADED),
    case("upgrade: h2c and more", "an ignored Upgrade, then another request", request("GET /public/a", "Connection: Upgrade", "Upgrade: h2c") + DENIED, NOT_UPGRADED),
    case("upgrade: websocket where none is allowed", "RFC 9110 7.8", request("GET /public/a", *WEBSOCKET), NOT_UPGRADED),
    case("upgrade: without connection", "RFC 9110 7.8", request("GET /public/a", "Upgrade: websocket"), NOT_UPGRADED),
    case("upgrade: another protocol than the allowed", "RFC 9110 7.8", request("GET /live", "Connection: Upgrade", "Upgrade: h2c"), no_entry()),
    case("upgrade: a list", "RFC 9110 7.8", request("GET /live", "Connection: Upgrade", "Upgrade: websocket, h2c"), no_entry()),
    case("upgrade: two lines", "RFC 9110 7.8", request("GET /live", *WEBSOCKET, "Upgrade: h2c"), no_entry()),
    case("upgrade: of another method", "no entry", request("POST /live", *WEBSOCKET), no_entry()),
    case("upgrade: allowed", "RFC 6455", request("GET /live", *WEBSOCKET), allow("GET /live")),
    case("upgrade: allowed, not asked for", "an ordinary request", request("GET /live"), allow("GET /live")),
    case("upgrade: early bytes", "bytes before 101", request("GET /live", *WEBSOCKET) + DENIED, allow("GET /live"), malformed(Saw.EARLY_BYTES, "closed")),
    case("upgrade: ignored, then a request", "a server that answers 200", (request("GET /live", *WEBSOCKET), DENIED), allow("GET /live"), malformed(Saw.EARLY_BYTES, "closed"), evaluated=False),
]  # fmt: skip


CASES = [*PIPELINES, *SPLITS, *LIMITS, *UPGRADES]
