"""Byte layouts of the programs that judge streams (docs/l7.md), which an object has where some rule has an L7 block.

As in `policyc.artifact.layout` integers are little-endian unless marked *network*, and sizes are bytes.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Literal

from policyc.artifact.layout import CT4_KEY, CT6_KEY, EVENT, EVENT_FIELDS, MapSpec


class StreamHook(IntEnum):
    """The programs. Beside each `policyc_HOOK` stands `enter_HOOK`, constant, which is what is attached and tail-calls `next_HOOK[slot]`."""

    SOCK_OPS = 0  # at a cgroup: takes sockets over
    STREAM_IN = 1  # sk_skb verdict of `streams_in`: bytes that arrive at a server's socket
    STREAM_OUT = 2  # sk_msg verdict of `streams_out`: bytes that a client's socket sends


STREAM_SECTIONS = {
    StreamHook.SOCK_OPS: "sockops",
    StreamHook.STREAM_IN: "sk_skb/stream_verdict",
    StreamHook.STREAM_OUT: "sk_msg",
}

COOKIE = struct.Struct("<Q")  # a socket's cookie
CGROUP_STORAGE_KEY = struct.Struct("<Q")  # cgroup id, for all attach types
# Of the cgroup that the program is attached to: endpoint index (0: none), CgroupKind.
CGROUP_SUBJECT = struct.Struct("<II")
# A connection that was taken over, by the connection table's key: the cookie of its socket, the direction of its first packet, flags, and, where it is
# the server's that is judged and the connection is to be closed, the sequence number behind what that sent last.
MARK = struct.Struct("<QIIII")
MARK_POISONED = 1  # a request was denied: the connection is to be closed
# Of a client's socket (sk_storage): its own cookie, by which sk_msg finds the stream.
SOCKET_STREAM = struct.Struct("<Q")

TO_CLOSE = struct.Struct("<Q")  # a number

EXPECTED = struct.Struct("<I")  # 1
EXPECTED_ENTRIES = 4096

STREAM_SIZE = 808  # bytes of `streams`' value; what it holds only programs know (codegen/stream.py)
STREAM_ENTRIES = 16384
# L7 rules of one level that may judge one connection; of more it is not taken over: denied (`l7-not-seen`).
MAX_STREAM_RULES = 12

METHOD_BYTES, HOST_BYTES, PATH_BYTES = 16, 64, 128


class Answer(IntEnum):
    NONE = 0  # nothing was sent in the request's place
    FORBIDDEN = 1  # 403
    CLOSED = 2  # the connection is closed without an answer

    @property
    def word(self) -> Literal["403", "closed"] | None:
        return ANSWER_WORDS[self]


ANSWER_WORDS: dict[Answer, Literal["403", "closed"] | None] = {
    Answer.NONE: None,
    Answer.FORBIDDEN: "403",
    Answer.CLOSED: "closed",
}


class Saw(IntEnum):
    """What was found where a request was expected: `saw` of an event, `Saw.words` for people."""

    NOTHING = 0
    TLS = 1
    HTTP2 = 2
    START_LINE = 3
    TARGET = 4
    VERSION = 5
    HEADER_NAME = 6
    HEADER_VALUE = 7
    FOLDED_LINE = 8
    HOST = 9
    CONTENT_LENGTH = 10
    TRANSFER_ENCODING = 11
    BOTH_LENGTHS = 12
    BODY = 13
    UPGRADE = 14
    CHUNK = 15
    TRAILER = 16
    HEAD_LIMIT = 17
    EARLY_BYTES = 18
    CONFIGURATION = 19
    UNFINISHED = 20
    UNFOLLOWED = 21
    MPTCP = 22  # of a packet

    @property
    def words(self) -> str:
        return SAW_WORDS[self]


SAW_WORDS = {
    Saw.NOTHING: "",
    Saw.TLS: "TLS ClientHello",
    Saw.HTTP2: "HTTP/2 preface",
    Saw.START_LINE: "malformed start line",
    Saw.TARGET: "malformed target",
    Saw.VERSION: "version other than HTTP/1.0 and HTTP/1.1",
    Saw.HEADER_NAME: "malformed header name",
    Saw.HEADER_VALUE: "malformed header value",
    Saw.FOLDED_LINE: "folded header line",
    Saw.HOST: "missing, repeated or malformed Host",
    Saw.CONTENT_LENGTH: "malformed or repeated Content-Length",
    Saw.TRANSFER_ENCODING: "Transfer-Encoding other than chunked",
    Saw.BOTH_LENGTHS: "Content-Length with Transfer-Encoding",
    Saw.BODY: "body where none is expected",
    Saw.UPGRADE: "Upgrade that no entry allows",
    Saw.CHUNK: "malformed chunk",
    Saw.TRAILER: "malformed trailer",
    Saw.HEAD_LIMIT: "head over the limit",
    Saw.EARLY_BYTES: "bytes before the server's answer",
    Saw.CONFIGURATION: "policy replaced twice within a request",
    Saw.UNFINISHED: "end of the stream within a head",
    Saw.UNFOLLOWED: "sent bytes that were not judged",
    Saw.MPTCP: "MPTCP",
}

NO_ENTRY = 0xFFFFFFFF
# One request: an event as of a packet (`hook` is STREAM_EVENT_HOOK + StreamHook; `count` is 1), then indices into the manifest's `entries`
# (NO_ENTRY), enforced and prospective; Answer, Saw, minor version (0, 1; 255 unknown), number of bytes of method, of host and of path as
# they were sent (those that are kept are at most METHOD_BYTES, HOST_BYTES, PATH_BYTES).
STREAM_EVENT = struct.Struct(f"{EVENT.format} II BBBB HH {METHOD_BYTES}s {HOST_BYTES}s {PATH_BYTES}s")
STREAM_EVENT_FIELDS = (
    *EVENT_FIELDS, "entry", "audit_entry", "answer", "saw", "minor", "method_length", "host_length", "path_length",
    "method", "host", "path",
)  # fmt: skip
STREAM_EVENT_HOOK = 16


def stream_map_specs() -> list[MapSpec]:
    """The maps of an object with L7 rules, besides those of `layout.map_specs` and the PROG_ARRAYs `next_HOOK`."""
    return [
        MapSpec(
            "streams",
            "HASH",
            COOKIE.size,
            STREAM_SIZE,
            STREAM_ENTRIES,
            "what is known of a judged stream, by its socket's cookie",
        ),
        MapSpec("marks4", "HASH", CT4_KEY.size, MARK.size, STREAM_ENTRIES, "IPv4 connections whose stream is judged"),
        MapSpec("marks6", "HASH", CT6_KEY.size, MARK.size, STREAM_ENTRIES, "IPv6 connections whose stream is judged"),
        MapSpec(
            "expected4",
            "LRU_HASH",
            CT4_KEY.size,
            EXPECTED.size,
            EXPECTED_ENTRIES,
            "IPv4 connections that a judged listener is about to accept",
        ),
        MapSpec(
            "expected6",
            "LRU_HASH",
            CT6_KEY.size,
            EXPECTED.size,
            EXPECTED_ENTRIES,
            "IPv6 connections that a judged listener is about to accept",
        ),
        MapSpec("streams_in", "SOCKHASH", COOKIE.size, 8, STREAM_ENTRIES, "servers' sockets that are judged"),
        MapSpec("streams_out", "SOCKHASH", COOKIE.size, 8, STREAM_ENTRIES, "clients' sockets that are judged"),
        MapSpec(
            "to_close", "ARRAY", 4, TO_CLOSE.size, 1, "denied streams whose sockets have not been told to close yet"
        ),
        MapSpec(
            "cgroup_subject", "CGROUP_STORAGE", CGROUP_STORAGE_KEY.size, CGROUP_SUBJECT.size, 0, "endpoint of a cgroup"
        ),
        MapSpec("socket_stream", "SK_STORAGE", 4, SOCKET_STREAM.size, 0, "the cookie of a client's socket"),
    ]
