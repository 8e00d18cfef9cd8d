"""Requests as bytes (semantics 4): heads, bodies and trailers, read a byte at a time, and what is malformed in them.

Every reader is a generator that is sent one byte after the other and raises `Malformed` with the byte at which that is certain:
the byte that may not stand there, else the delimiter of what it is a part of (RFC 9112).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from policyc.artifact.stream_layout import Saw

Result = TypeVar("Result")
Reader = Generator[None, int, Result]

TAB, LF, CR, SPACE, COLON = b"\t\n\r :"
TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")  # RFC 9110, 5.6.2
HEX = frozenset(b"0123456789abcdefABCDEF")
TLS_HANDSHAKE = 0x16  # the first byte of a TLS record that begins a connection (RFC 8446, 5.1); no token begins with it
BODYLESS = (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE")
FRAMING = (b"content-length", b"transfer-encoding", b"host")  # not in trailers
MAX_CHUNK_DIGITS = 8


class Malformed(Exception):
    """`saw` says what is wrong."""

    def __init__(self, saw: Saw) -> None:
        super().__init__(saw.words)
        self.saw = saw


class Form(Enum):
    """Of a target (RFC 9112, 3.2)."""

    ORIGIN = "origin"
    ASTERISK = "asterisk"
    ABSOLUTE = "absolute"
    AUTHORITY = "authority"


NAMED_FORMS = (Form.ABSOLUTE, Form.AUTHORITY)  # malformed unless a pattern names them

Line = tuple[bytes, bytes]  # a header's name in lower case and its trimmed value; a query's key and value, decoded


@dataclass
class Head:
    """What is known of a head; an element is filled in when it is complete. `target`, `sent_path` (without the query), `sent_host` are as
    sent; `path` is decoded (of an absolute or authority form: the whole target); `host` is lower-cased, without port and trailing dot."""

    method: bytes = b""
    target: bytes = b""
    sent_path: bytes = b""
    path: bytes = b""
    form: Form = Form.ORIGIN
    query: list[Line] = field(default_factory=list)
    minor: int | None = None
    lines: list[Line] = field(default_factory=list)
    sent_host: bytes = b""
    host: bytes | None = None
    content_length: int | None = None
    chunked: bool = False
    size: int = 0  # bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for n, value in self.lines if n == name]

    @property
    def upgrades(self) -> bool:
        return bool(self.values(b"upgrade"))

    @property
    def switches(self) -> bool:
        """The stream may be something else behind it."""
        return self.upgrades or self.method == b"CONNECT"

    @property
    def has_unexpected_body(self) -> bool:
        return self.method in BODYLESS and (self.chunked or bool(self.content_length))


class _Counted:
    """Bytes of a head, or of trailers: no more than `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit, self.count = limit, 0

    def next(self) -> Reader[int]:
        byte = yield
        return self.note(byte)

    def note(self, byte: int) -> int:
        self.count += 1
        if self.count > self.limit:
            raise Malformed(Saw.HEAD_LIMIT)
        return byte


# --- the start line -------------------------------------------------------------------------------------------------


def read_head(head: Head, first: int, limit: int) -> Reader[None]:
    """Read from the first byte, which is given, to the LF of the empty line. `limit` in bytes. Whether there must be a Host, and a pattern that names
    a target of absolute or authority form, is for those to ask who judge the whole."""
    source = _Counted(limit)
    source.note(first)
    yield from _read_method(head, first, source)
    yield from _read_target(head, source)
    yield from _read_version(head, source)
    while True:
        first = yield from source.next()
        line = yield from _read_line(first, source)
        if line is None:
            break
        head.lines.append(line)
        _note_line(head, *line)
    head.size = source.count


def _read_method(head: Head, byte: int, source: _Counted) -> Reader[None]:
    if byte == TLS_HANDSHAKE:
        raise Malformed(Saw.TLS)
    method = bytearray()
    while byte != SPACE or not method:
        if byte not in TOKEN:
            raise Malformed(Saw.START_LINE)
        method.append(byte)
        byte = yield from source.next()
    head.method = bytes(method)


def _read_target(head: Head, source: _Counted) -> Reader[None]:
    path, decoded = bytearray(), bytearray()
    while True:
        byte = yield from source.next()
        if byte in b" ?":
            break
        _refuse_raw(byte)
        path.append(byte)
        if byte == ord("\\"):
            raise Malformed(Saw.TARGET)
        if byte != ord("%"):
            decoded.append(byte)
            continue
        high = yield from _hex_digit(path, source)
        low = yield from _hex_digit(path, source)
        value = int(bytes((high, low)), 16)
        if value in b"/\\\x7f" or value < 0x20:
            raise Malformed(Saw.TARGET)
        decoded.append(value)
    head.sent_path, head.path = bytes(path), bytes(decoded)
    if head.method == b"PRI" and path == b"*" and byte == SPACE:
        raise Malformed(Saw.HTTP2)
    head.form = _form(head.method, head.sent_path)
    _check_path(head, with_query=byte != SPACE)
    target = bytearray(path)
    while byte != SPACE:
        target.append(byte)
        byte = yield from source.next()
        if byte != SPACE:
            _refuse_raw(byte)
    head.target = bytes(target)
    if len(target) > len(path):
        head.query = parse_query(bytes(target[len(path) + 1 :]))


def _refuse_raw(byte: int) -> None:
    if byte <= 0x20 or byte >= 0x7F or byte == ord("#"):
        raise Malformed(Saw.TARGET)


def _hex_digit(path: bytearray, source: _Counted) -> Reader[int]:
    byte = yield from source.next()
    if byte not in HEX:
        raise Malformed(Saw.TARGET)
    path.append(byte)
    return byte


_AUTHORITY = re.compile(rb"([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\]):[0-9]+")


def _form(method: bytes, path: bytes) -> Form:
    """`HOST:PORT`, without escapes, stands only with CONNECT, and nothing else with it."""
    if path.startswith(b"/") and method != b"CONNECT":
        return Form.ORIGIN
    if path == b"*" and method == b"OPTIONS":
        return Form.ASTERISK
    absolute = path.startswith((b"http://", b"https://"))
    if absolute and method != b"CONNECT":
        return Form.ABSOLUTE
    if method == b"CONNECT" and _AUTHORITY.fullmatch(path):
        return Form.AUTHORITY
    raise Malformed(Saw.TARGET)


def _check_path(head: Head, *, with_query: bool) -> None:
    if with_query and head.form in (Form.ASTERISK, Form.AUTHORITY):
        raise Malformed(Saw.TARGET)
    if re.search(rb"%[0-9A-Fa-f]{2}", head.path):
        raise Malformed(Saw.TARGET)  # decoded once more it would be something else
    path = head.path.partition(b"://")[2] if head.form is Form.ABSOLUTE else head.path
    if b"//" in path or (head.form is Form.ABSOLUTE and (not path or path.startswith(b"/"))):
        raise Malformed(Saw.TARGET)
    if any(segment.partition(b";")[0] in (b".", b"..") for segment in path.split(b"/")):
        raise Malformed(Saw.TARGET)


def parse_query(text: bytes) -> list[Line]:
    """Keys and values, decoded; an empty piece is none, a key without `=` has an empty value."""
    pieces = [piece.partition(b"=") for piece in text.split(b"&") if piece]
    return [(_decoded(key), _decoded(value)) for key, _, value in pieces]


def _decoded(text: bytes) -> bytes:
    """An escape that is none stays as it is."""
    spaced = text.replace(b"+", b" ")
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes((int(m[1], 16),)), spaced)


def _read_version(head: Head, source: _Counted) -> Reader[None]:
    """To the end of the start line."""
    for expected in (b"H", b"T", b"T", b"P", b"/", b"1", b".", b"01", b"\r", b"\n"):
        byte = yield from source.next()
        if byte not in expected:
            raise Malformed(Saw.VERSION)
        if expected == b"01":
            head.minor = byte - ord("0")


# --- header lines ---------------------------------------------------------------------------------------------------


def _read_line(byte: int, source: _Counted) -> Reader[Line | None]:
    """A header line from its first byte; None: the empty line."""
    if byte == CR:
        byte = yield from source.next()
        if byte != LF:
            raise Malformed(Saw.HEADER_NAME)
        return None
    if byte in (SPACE, TAB):
        raise Malformed(Saw.FOLDED_LINE)
    name, value = bytearray(), bytearray()
    while byte != COLON or not name:
        if byte not in TOKEN:
            raise Malformed(Saw.HEADER_NAME)
        name.append(byte)
        byte = yield from source.next()
    while True:
        byte = yield from source.next()
        if byte == CR:
            break
        if byte in (0, LF):
            raise Malformed(Saw.HEADER_VALUE)
        value.append(byte)
    byte = yield from source.next()
    if byte != LF:
        raise Malformed(Saw.HEADER_VALUE)
    return bytes(name).lower(), bytes(value).strip(b" \t")


def _note_line(head: Head, name: bytes, value: bytes) -> None:
    """What a line says about where the message ends and whom it is for."""
    match name:
        case b"host":
            _note_host(head, value)
        case b"content-length":
            if head.content_length is not None or not re.fullmatch(rb"[0-9]{1,19}", value) or int(value) >= 1 << 63:
                raise Malformed(Saw.CONTENT_LENGTH)
            head.content_length = int(value)
        case b"transfer-encoding":
            if head.chunked or head.minor == 0 or value.lower() != b"chunked":
                raise Malformed(Saw.TRANSFER_ENCODING)
            head.chunked = True
    if head.content_length is not None and head.chunked:
        raise Malformed(Saw.BOTH_LENGTHS)


_HOST = re.compile(rb"([A-Za-z0-9.-]*|\[[A-Za-z0-9.:-]+\])(:[0-9]*)?")


def _note_host(head: Head, value: bytes) -> None:
    found = _HOST.fullmatch(value)
    if head.host is not None or found is None:
        raise Malformed(Saw.HOST)
    head.sent_host = value
    head.host = found[1].lower().removesuffix(b".")


# --- bodies ---------------------------------------------------------------------------------------------------------


def read_body(head: Head, limit: int, at_chunk: Callable[[], None]) -> Reader[None]:
    """To the last byte of the body, or of its trailers, which have the head's `limit`. Without a length there is no body. Calls `at_chunk` with the last byte before
    those of a chunk, and with the last of them."""
    if not head.chunked:
        yield from _skip(head.content_length or 0)
        return
    while True:
        size = yield from _read_chunk_size()
        if size == 0:
            break
        at_chunk()
        yield from _skip(size)
        at_chunk()
        yield from _expect_crlf((yield))
    yield from _read_trailers(limit)


def _skip(count: int) -> Reader[None]:
    for _ in range(count):
        yield


def _expect_crlf(byte: int) -> Reader[None]:
    if byte != CR:
        raise Malformed(Saw.CHUNK)
    byte = yield
    if byte != LF:
        raise Malformed(Saw.CHUNK)


def _read_chunk_size() -> Reader[int]:
    digits = bytearray()
    byte = yield
    while byte in HEX:
        digits.append(byte)
        if len(digits) > MAX_CHUNK_DIGITS:
            raise Malformed(Saw.CHUNK)
        byte = yield
    if not digits:
        raise Malformed(Saw.CHUNK)
    yield from _expect_crlf(byte)
    return int(digits, 16)


def _read_trailers(limit: int) -> Reader[None]:
    source = _Counted(limit)
    while True:
        try:
            first = yield from source.next()
            line = yield from _read_line(first, source)
        except Malformed:
            raise Malformed(Saw.TRAILER) from None
        if line is None:
            return
        if line[0] in FRAMING:
            raise Malformed(Saw.TRAILER)
