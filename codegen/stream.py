"""The record of a judged stream: the value of the map `streams`, by its socket's cookie. Programs that judge requests keep all they know
between two buffers in it, and it is their scratch memory: what they do to one stream is serialised by its socket's lock.

Integers are host order unless marked network, as in the flow record (flow.py). A record outlives a replacement of the policy, also by an object of another
version of policyc: what changes the fields changes STREAM_SIZE, by which the loader tells.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from policyc.artifact.stream_layout import HOST_BYTES, MAX_STREAM_RULES, METHOD_BYTES, PATH_BYTES, STREAM_SIZE
from policyc.codegen import flow
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.function import I8, I16, I32, I64, Function, Value

WINDOW_BYTES = 128  # of the buffer at hand, as many as are looked at at once
SLACK = 40  # texts are copied in blocks of so many bytes, which may reach over their end: the method's into that of the path, which comes later

_FIELDS: list[tuple[str, int]] = [
    # The connection.
    ("local", 16),  # network; the subject's side
    ("remote", 16),  # network
    ("local_port", 2),  # network
    ("remote_port", 2),
    ("subject", 4),  # endpoint index
    ("generation", 4),  # under which `rules` were found
    ("load", 4),  # number of the load whose program found them
    ("family", 1),
    ("direction", 1),  # of the connection's first packet
    ("slot", 1),  # generation slot of the program that the stream was handed to last
    ("logs", 1),  # the connection's rules say `log`
    ("state", 2),  # State bits
    ("run_mode", 1),  # … and the Mode in which they were passed over (`run`), or were begun to be read
    ("more", 1),  # behind the server's buffer at hand others waited
    # The Host line that was read last, whose text is `host_text`: what is said again is not read again.
    ("known_host", 4),  # its class
    ("known_host_length", 4),  # bytes of the text; 0: there is none
    ("rank", 4),  # of the connection's rule
    ("audit_rank", 4),
    ("level", 4),  # of the rules that are being collected: level << 2 | action
    ("component", 4),
    ("limit", 4),  # bytes of a head
    ("audit_limit", 4),
    ("plain", 4),  # rank + 1 of the first rule without a block
    ("audit_plain", 4),
    ("rules_length", 2),
    ("audit_rules_length", 2),
    ("rules", 2 * MAX_STREAM_RULES),  # numbers of L7 rules that judge it
    ("audit_rules", 2 * MAX_STREAM_RULES),  # the same with all that is audited in force
    ("begun", 4),  # requests whose heads were passed
    ("answered", 4),  # requests that the server has answered whole (answers.py)
    ("base", 4),  # sequence number of a client's first byte; at a server of the next that is read
    ("run", 4),  # bytes at the end of the buffer that are of one body or chunk, or of what stands between two chunks …
    ("answer_at", 4),  # sequence number at which the next part of the server's answers begins
    ("answer_mode", 1),  # answers.Awaits
    ("told", 1),  # Told bits, which only packet programs write
    ("carried", 1),  # Carried
    ("waited", 1),  # when this buffer came some request was not answered
    # While a packet's answers are read (answers.py): here and not on the stack, where the verifier would follow each value.
    ("watch_at", 4),
    ("watch_end", 4),
    ("watch_phase", 1),
    ("watch_has_length", 1),
    ("watch_chunked", 1),
    ("watch_ended", 1),
    ("watch_status", 4),
    ("watch_length", 4),
    ("heads", 8),  # of the last 64 requests, by number: whether they get an answer without a body
    ("approved", 8),  # bytes of a client that were let out; at a server (4 bytes) the sequence number of the FIN
    # Of a packet that travelled so and was let through as one of the connection, at the subject's cgroup (known_streams.py): generation and tick; rank + 1 of
    # the rule that allowed it.
    ("known_ingress", 8),
    ("known_egress", 8),
    ("known_rule", 8),
    # The buffer at hand.
    ("length", 4),  # bytes
    ("position", 4),  # the next byte
    ("window_at", 4),
    ("window_length", 4),
    ("request_at", 4),  # where the request at hand begins, 0 if it began earlier
    # The machine.
    ("mode", 1),  # Mode
    ("escaped_mode", 1),  # to which an escape returns
    ("escape", 1),  # its first digit
    ("digits", 1),
    ("automaton", 2),
    ("at", 2),  # its state
    ("head", 4),  # bytes of the head so far
    # The request at hand, from here to `window` zero when it begins.
    ("content_length", 8),
    ("remaining", 8),  # bytes of the body or chunk
    ("held", 8),  # conditions that some line satisfies
    ("failed", 8),  # … that some line does not
    ("framing", 2),  # Framing bits
    ("method", 2),  # number
    ("path", 2),  # class
    ("host", 2),
    ("header", 2),  # number of the line at hand
    ("query", 2),  # index + 1 of the key at hand
    ("method_length", 2),
    ("host_length", 2),
    ("path_length", 2),
    ("minor", 1),  # version + 1
    ("answer", 1),  # Answer
    ("verdict", 1),
    ("reason", 1),  # Reason
    ("saw", 1),  # Saw
    ("log", 1),
    ("entry", 4),  # index + 1 into the module's entries
    ("rule", 4),  # rank + 1 of the rule that decided
    ("audit_entry", 4),
    ("audit_rule", 4),
    ("audit_verdict", 1),
    ("audit_reason", 1),
    ("pad", 2),
    ("cursor", 4),  # while entries are asked: the word
    ("candidates", 8),  # … and what is left of it
    # Between two requests a flow record stands here (SCRATCH).
    ("host_text", HOST_BYTES + SLACK),
    ("method_text", METHOD_BYTES),
    ("path_text", PATH_BYTES + SLACK),
    ("window", WINDOW_BYTES + SLACK),
]


class State(IntEnum):
    POISONED = 1  # nothing more of it is let through
    MUST_MATCH = 2  # its rules have to be found anew before the request at hand is judged
    FILLS = 4  # what a client sent last are bytes of ours
    OTHER_SLOT = 8  # the program of the other slot judges what follows the request at hand
    TOO_MANY = 16  # more rules than there is room for
    UNJUDGED = 32  # opaque not by an Upgrade, but as no policy in force judged it
    CLOSED = 64  # its socket was told to close
    ENDED = 128  # nothing of what a client sends is read any more
    HANDED = 256  # by the program of the other slot, to finish the request at hand
    RESUMES = 512  # … which has finished it


class Carried(IntEnum):
    """Whether the request at hand began in an earlier buffer."""

    NOTHING = 0
    PART = 1
    AWAITED = 2  # and a thread is blocked at the server until there is more


class Told(IntEnum):
    SWITCHED = 1  # an Upgrade was accepted: the rest is opaque
    REFUSED = 2  # a request was answered before its body was sent
    ENDED = 4  # the client's FIN was let through


class Mode(IntEnum):
    """Where the machine stands. Up to VALUE an automaton reads; from BODY on bytes are only counted."""

    START = 0
    METHOD = 1
    PATH = 2
    QUERY_KEY = 3
    QUERY_VALUE = 4
    VERSION = 5
    NAME = 6
    VALUE = 7
    ESCAPE = 8  # the first digit of an escape
    ESCAPE_2 = 9
    SKIP = 10  # a value that nobody asks for
    LENGTH = 11  # Content-Length
    LENGTH_END = 12  # spaces behind it
    LINE_END = 13  # LF of a header line
    LINE = 14  # nothing of a header line yet, nor of the empty one
    HEAD_END = 15  # LF of the empty line
    CHUNK_SIZE = 16
    CHUNK_LF = 17
    CHUNK_END = 18  # CR behind a chunk
    CHUNK_END_LF = 19
    UPGRADED = 20  # an allowed Upgrade that the server has not answered
    BODY = 21
    CHUNK = 22
    OPAQUE = 23


class Framing(IntEnum):
    HOST = 1
    LENGTH = 2
    ENCODING = 4
    CHUNKED = 8
    UPGRADE = 16
    EXPECT = 32
    TRAILERS = 64
    SWITCHES = 128  # an allowed Upgrade or CONNECT
    WAITS = 256  # it began behind a request that was not answered


OFFSET: dict[str, int] = {}
_size = 0
for _name, _bytes in _FIELDS:
    assert _name == "pad" or _size % min(_bytes, 8) == 0 or _bytes > 8, _name
    OFFSET[_name] = _size
    _size += _bytes
assert _size <= STREAM_SIZE, _size
SCRATCH = OFFSET["host_text"]
assert SCRATCH + flow.SIZE <= STREAM_SIZE
REQUEST_BEGIN, REQUEST_END = OFFSET["content_length"], SCRATCH
TUPLE_END = OFFSET["generation"]
_TYPES = {1: I8, 2: I16, 4: I32, 8: I64}
_WIDTH = dict(_FIELDS)


class Stream:
    """Typed access to the record at `pointer`."""

    def __init__(self, f: Function, pointer: Value) -> None:
        self.f, self.pointer = f, pointer

    def get(self, name: str) -> Value:
        return self.f.load(self.pointer, _TYPES[_WIDTH[name]], OFFSET[name])

    def set(self, name: str, value: Value) -> None:
        self.f.store(self.pointer, value, _TYPES[_WIDTH[name]], OFFSET[name])

    def add(self, name: str, value: Value) -> None:
        self.set(name, self.f.add(self.get(name), value))

    def address(self, name: str, index: Value = 0) -> Value:
        """Where the field stands, or a byte of it."""
        if isinstance(index, int):
            return self.f.at_offset(self.pointer, OFFSET[name] + index)
        return self.f.at_offset(self.pointer, self.f.add(self.f.to(index, I64), OFFSET[name]))

    def raise_(self, name: str, bits: int) -> None:
        self.set(name, self.f.or_(self.get(name), bits))

    def drop(self, name: str, bits: int) -> None:
        self.set(name, self.f.and_(self.get(name), (1 << 8 * _WIDTH[name]) - 1 ^ bits))

    def within_head(self) -> Value:
        """Whether a head, or trailers, are begun and not ended."""
        mode = self.get("mode")
        return self.f.both(self.f.ne(mode, Mode.START), self.f.cmp("<=", mode, Mode.HEAD_END))

    def has(self, name: str, bits: int) -> Value:
        return self.f.bits(self.get(name), bits)


def debug_type(debug: DebugInfo) -> Any:
    """Pointer to the record, whose size the kernel checks a caller's memory against."""
    return debug.pointer(debug.byte_record("stream", STREAM_SIZE))
