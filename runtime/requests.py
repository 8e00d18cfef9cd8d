"""Requests as the programs report them: a record of `STREAM_EVENT`, and its bytes made harmless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policyc.artifact.layout import EVENT, Reason
from policyc.artifact.manifest import ManifestEntry, ManifestRule
from policyc.artifact.stream_layout import (
    HOST_BYTES,
    METHOD_BYTES,
    NO_ENTRY,
    PATH_BYTES,
    STREAM_EVENT,
    STREAM_EVENT_FIELDS,
    STREAM_EVENT_HOOK,
    Answer,
    Saw,
    StreamHook,
)
from policyc.model import Direction, Span
from policyc.runtime.sides import Side

HOOK_OFFSET = 9  # of EVENT
MINOR_VERSIONS = (0, 1)


@dataclass(frozen=True)
class Text:
    """Bytes from the wire, escaped (`escaped`), as far as they were kept."""

    text: str
    truncated: bool = False

    def __str__(self) -> str:
        return self.text + ("..." if self.truncated else "")


@dataclass(frozen=True)
class Decision:
    """A verdict on a request. `rule` is the connection's where no entry decided; `entry_ref` is `RULE.N`."""

    allowed: bool
    reason: Reason
    rule: ManifestRule | None
    entry: ManifestEntry | None = None
    entry_ref: str | None = None

    @property
    def ref(self) -> str | None:
        """Of what decided."""
        return self.entry_ref or (self.rule.ref if self.rule is not None else None)

    @property
    def span(self) -> Span | None:
        """Where what decided is written."""
        if self.entry is not None:
            return self.entry.span
        return self.rule.span if self.rule is not None else None


@dataclass(frozen=True)
class Request:
    """One request. `source` is the client. `minor`: 0 or 1 of HTTP/1.0 and 1.1, None where unknown; `audit`: the prospective decision where
    it differs. There are neither query nor header values nor bodies in it."""

    time_ns: int
    direction: Direction
    hook: StreamHook
    decision: Decision
    audit: Decision | None
    source: Side
    destination: Side
    source_port: int
    destination_port: int
    method: Text
    host: Text
    path: Text
    minor: int | None
    answer: Answer
    saw: Saw

    @property
    def url(self) -> str:
        """`http://HOST/PATH`; a target that begins with no `/` as it was sent; the server's address where there is neither host nor target."""
        place = f"[{self.destination.address}]" if ":" in self.destination.address else self.destination.address
        host = str(self.host) or f"{place}:{self.destination_port}"
        path = str(self.path)
        if path and not path.startswith("/"):
            return path
        return f"http://{host}{path}" if path or self.host.text else host


def is_request(record: bytes) -> bool:
    """Whether a record of the ring tells of a request; packets' records are shorter."""
    return len(record) == STREAM_EVENT.size and STREAM_EVENT_HOOK <= record[HOOK_OFFSET] < STREAM_EVENT_HOOK + len(
        StreamHook
    )


def is_packet(record: bytes) -> bool:
    return len(record) == EVENT.size and record[HOOK_OFFSET] < STREAM_EVENT_HOOK


def fields(record: bytes) -> dict[str, Any]:
    """By `STREAM_EVENT_FIELDS`. `is_request` holds."""
    return dict(zip(STREAM_EVENT_FIELDS, STREAM_EVENT.unpack(record), strict=True))


def texts(f: dict[str, Any]) -> tuple[Text, Text, Text]:
    """Method, host and path of a record's fields. White space around the host is none of it, a query not of the path."""
    method = _text(f["method"], f["method_length"], METHOD_BYTES)
    host = _text(f["host"][: f["host_length"]].strip(b" \t"), f["host_length"], HOST_BYTES)
    path = _text(f["path"].partition(b"?")[0], f["path_length"], PATH_BYTES)
    return method, host, path


def minor(number: int) -> int | None:
    return number if number in MINOR_VERSIONS else None


def answer(number: int) -> Answer:
    """NONE for a number that this version does not know."""
    return Answer(number) if number in set(Answer) else Answer.NONE


def saw(number: int) -> Saw:
    """NOTHING for a number that this version does not know."""
    return Saw(number) if number in set(Saw) else Saw.NOTHING


def entry_of(entries: tuple[ManifestEntry, ...], index: int) -> ManifestEntry | None:
    return entries[index] if index != NO_ENTRY and index < len(entries) else None


def _text(kept: bytes, length: int, limit: int) -> Text:
    return Text(escaped(kept[: min(length, limit)]), length > limit)


def escaped(data: bytes) -> str:
    r"""Bytes for a terminal: what is invalid UTF-8, a control character, white space or a backslash stands as `\xNN`; what a terminal
    would obey or not show (C1 controls, bidirectional and other format characters, unassigned ones) as `\u{…}`."""
    return "".join(map(_escaped, data.decode("utf-8", "surrogateescape")))


def _escaped(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is no UTF-8 (surrogateescape)
        return f"\\x{number - 0xDC00:02x}"
    if character == "\\" or number <= 0x20 or number == 0x7F:
        return f"\\x{number:02x}"
    return character if character.isprintable() else f"\\u{{{number:x}}}"
