"""Protects what `monitor` shows of requests: who, what, why, and no byte from the wire that a terminal would obey."""

from __future__ import annotations

import json
import re
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyc.artifact.layout import EVENT, HOST_ENDPOINT, NO_RULE, NOT_DIFFERENT, PeerClassCode, Reason
from policyc.artifact.reader import Artifact
from policyc.artifact.stream_layout import (
    HOST_BYTES,
    NO_ENTRY,
    PATH_BYTES,
    STREAM_EVENT,
    STREAM_EVENT_FIELDS,
    STREAM_EVENT_HOOK,
    Answer,
    Saw,
    StreamHook,
)
from policyc.cli import request_lines
from policyc.cli.event_filter import Filter, parse_selector, path_pattern
from policyc.cli.monitor import _shown
from policyc.cli.output import plain
from policyc.diagnostics import OperationError
from policyc.runtime.query import EventReader
from policyc.runtime.requests import Request, escaped, is_packet, is_request
from tests.runtime.streams import described, endpoint


@pytest.fixture(scope="module")
def reader(artifact: Artifact) -> EventReader:
    """Of a load of which only the records are missing."""
    made = object.__new__(EventReader)
    made._view = SimpleNamespace(artifact=described(artifact))  # type: ignore[assignment]
    api, web = endpoint("api", 2, "api"), endpoint("web", 3, "web")
    api.labels = {"k8s:app": "api"}
    made._by_index = {2: api, 3: web}
    return made


def padded(address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address).ljust(16, b"\0")


def record(**given: Any) -> bytes:
    """An allowed request of `web` to `api`."""
    values: dict[str, Any] = dict.fromkeys(STREAM_EVENT_FIELDS, 0) | {
        "time_ns": 9, "hook": STREAM_EVENT_HOOK + StreamHook.STREAM_IN, "verdict": 1, "reason": Reason.L7_ENTRY,
        "audit_verdict": NOT_DIFFERENT, "audit_reason": NOT_DIFFERENT, "peer_class": PeerClassCode.ENDPOINT, "family": 4,
        "rank": 0, "audit_rank": NO_RULE, "count": 1, "subject": 2, "peer": 3, "protocol": 6,
        "source": padded("10.9.1.2"), "destination": padded("10.9.2.2"), "source_port": b"\x9c\x40",
        "destination_port": b"\x00\x50", "entry": 0, "audit_entry": NO_ENTRY, "minor": 1,
        "method": b"GET", "host": b"api", "path": b"/public/a",
    } | given  # fmt: skip
    for name in ("method", "host", "path"):
        values[f"{name}_length"] = given.get(f"{name}_length", len(values[name]))
    return STREAM_EVENT.pack(*(values[name] for name in STREAM_EVENT_FIELDS))


def request(reader: EventReader, **given: Any) -> Request:
    found = reader._read(record(**given))
    assert isinstance(found, Request)
    return found


def line(reader: EventReader, **given: Any) -> str:
    shown = _shown(request(reader, **given), Filter(), "text")
    assert shown is not None
    assert shown.isprintable()
    return shown


def test_forwarded(reader: EventReader) -> None:
    assert line(reader) == "([app=web]) => ([k8s:app=api]) http GET http://api/public/a Forwarded  runtime.pol:2:30"


def test_denied_by_an_entry(reader: EventReader) -> None:
    shown = line(reader, verdict=0, entry=1, method=b"POST", answer=Answer.FORBIDDEN)
    assert shown.endswith("http POST http://api/public/a Denied (l7-entry) 403  runtime.pol:2:41")


def test_denied_without_an_entry(reader: EventReader) -> None:
    shown = line(reader, verdict=0, entry=NO_ENTRY, reason=Reason.L7_NO_ENTRY, answer=Answer.CLOSED)
    assert shown.endswith(" Denied (l7-no-entry) closed  runtime.pol:2:3")


def test_what_a_refusal_saw(reader: EventReader) -> None:
    nothing = {"method": b"", "host": b"", "path": b"", "entry": NO_ENTRY, "answer": Answer.CLOSED, "minor": 255}
    shown = line(reader, verdict=0, reason=Reason.L7_MALFORMED, saw=Saw.TLS, **nothing)
    assert shown == (
        "([app=web]) => ([k8s:app=api]) http - 10.9.2.2:80 Denied (l7-malformed: TLS ClientHello) closed  runtime.pol:2:3"
    )


def test_ends_that_are_no_endpoints(reader: EventReader) -> None:
    world = line(reader, peer=0, peer_class=PeerClassCode.WORLD, source=padded("203.0.113.7"))
    assert world.startswith("([203.0.113.7]) => ([k8s:app=api]) ")
    assert line(reader, peer=HOST_ENDPOINT, peer_class=PeerClassCode.HOST).startswith("([host]) => ")
    six = {"family": 6, "source": padded("2001:db8::7"), "destination": padded("fd00::2"), "host": b""}
    assert "=> ([app=web]) http GET http://[fd00::2]:80/public/a " in line(reader, direction=1, **six)


def test_other_targets(reader: EventReader) -> None:
    assert " http OPTIONS * " in line(reader, method=b"OPTIONS", path=b"*")
    assert " http CONNECT db:5432 " in line(reader, method=b"CONNECT", path=b"db:5432")
    assert " http GET http://x/y " in line(reader, path=b"http://x/y")


def test_audit(reader: EventReader) -> None:
    shown = line(reader, audit_verdict=0, audit_reason=Reason.L7_NO_ENTRY, audit_rank=0)
    assert shown.endswith("runtime.pol:2:30  audit: would be Denied (l7-no-entry) runtime.pol:2:3")


def test_what_was_cut_says_so(reader: EventReader) -> None:
    long = b"/" + b"a" * (PATH_BYTES - 1)
    found = request(reader, path=long, path_length=500, host=b"h" * HOST_BYTES, host_length=65)
    document = request_lines.document(found)
    assert document["truncated"] == {"method": False, "host": True, "path": True}
    assert document["path"] == long.decode()
    assert request_lines.line(found).count("...") == 2


def test_white_space_around_the_host(reader: EventReader) -> None:
    assert request(reader, host=b" \tapi:80 ").host.text == "api:80"


def test_a_query_is_not_shown(reader: EventReader) -> None:
    found = request(reader, path=b"/a?token=secret", path_length=2)
    assert "secret" not in request_lines.line(found) + json.dumps(request_lines.document(found))


def test_document(reader: EventReader) -> None:
    shown = _shown(request(reader), Filter(), "json")
    assert shown is not None
    found = json.loads(shown)
    assert {k: found[k] for k in ("format", "version", "type", "verdict", "reason", "ref", "entry", "rule", "rule_ref")} == {
        "format": "policyc-event", "version": 1, "type": "l7", "verdict": "allow", "reason": "l7-entry",
        "ref": "api.ingress.1.1", "entry": "api.ingress.1.1", "rule": "runtime.pol:2:30", "rule_ref": "api.ingress.1",
    }  # fmt: skip
    assert (found["src"]["endpoint"], found["dst"]["port"], found["method"], found["minor"]) == ("web", 80, "GET", 1)
    assert (found["answer"], found["saw"], found["audit"]) == (None, None, None)


@given(st.binary(max_size=64))
def test_no_byte_reaches_the_terminal_as_it_is(data: bytes) -> None:
    text = escaped(data)
    assert text.isprintable()
    assert " " not in text
    assert plain(text) == text
    pieces = re.split(r"\\x([0-9a-f]{2})|\\u\{([0-9a-f]+)\}", text)
    back = b""
    for plain_text, byte, character in zip(pieces[::3], [*pieces[1::3], None], [*pieces[2::3], None], strict=True):
        back += plain_text.encode()
        back += bytes([int(byte, 16)]) if byte else chr(int(character, 16)).encode() if character else b""
    assert back == data


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\x1b[2J", r"\x1b[2J"),
        (b"\x7f\r\n", r"\x7f\x0d\x0a"),
        (b"\xff", r"\xff"),
        ("\x9b\u202e\u200b\u2028".encode(), r"\u{9b}\u{202e}\u{200b}\u{2028}"),
        ("ä\\".encode(), r"ä\x5c"),
    ],
)
def test_escapes(data: bytes, shown: str) -> None:
    assert escaped(data) == shown


@given(st.binary(max_size=2 * STREAM_EVENT.size))
def test_only_records_of_the_two_kinds_are_read(reader: EventReader, data: bytes) -> None:
    assert not (is_request(data) and is_packet(data))
    if not is_request(data) and not is_packet(data):
        assert reader._read(data) is None


@given(st.binary(min_size=STREAM_EVENT.size, max_size=STREAM_EVENT.size), st.sampled_from(StreamHook))
def test_any_record_can_be_shown(reader: EventReader, data: bytes, hook: StreamHook) -> None:
    data = data[:9] + bytes([STREAM_EVENT_HOOK + hook]) + data[10:15] + b"\x04" + data[16:]
    found = reader._read(data)
    assert isinstance(found, Request)
    assert plain(request_lines.line(found)).isprintable()
    json.dumps(request_lines.document(found))


def test_packets_are_packets(reader: EventReader) -> None:
    packet = record(hook=2)[: EVENT.size]
    assert is_packet(packet)
    assert not isinstance(reader._read(packet), Request)
    assert reader._read(packet[:-1]) is None
    assert reader._read(record(hook=2)) is None


# --- filters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (Filter(), True),
        (Filter("l7"), True),
        (Filter("l3-l4"), False),
        (Filter(source=parse_selector("app=web", "x")), True),
        (Filter(source=parse_selector("app!=web", "x")), False),
        (Filter(source=parse_selector("app,!zone,app==web", "x")), True),
        (Filter(destination=parse_selector("k8s:app=api", "x")), True),
        (Filter(destination=parse_selector("app", "x")), False),
        (Filter(verdict="allow"), True),
        (Filter(verdict="deny"), False),
        (Filter(port=80), True),
        (Filter(port=81), False),
        (Filter(methods=("PUT", "GET")), True),
        (Filter(methods=("get",)), False),
        (Filter(path=path_pattern("/public/*")), True),
        (Filter(path=path_pattern("/*")), False),
        (Filter(path=path_pattern("/**")), True),
        (Filter(path=path_pattern("/public/.")), False),
        (Filter(rule="api.ingress.1"), True),
        (Filter(rule="api.ingress.1.1"), True),
        (Filter(rule="api.ingress.1.2"), False),
    ],
)
def test_filters(reader: EventReader, wanted: Filter, shown: bool) -> None:
    assert wanted.shows_request(request(reader)) is shown


def test_no_selector_selects_who_is_no_endpoint(reader: EventReader) -> None:
    found = request(reader, peer=0, peer_class=PeerClassCode.WORLD)
    assert not Filter(source=parse_selector("app!=web", "x")).shows_request(found)


def test_filters_of_packets(reader: EventReader) -> None:
    packet = reader._read(record(hook=2)[: EVENT.size])
    assert packet is not None
    assert not isinstance(packet, Request)
    for wanted, shown in (
        (Filter("l3-l4"), True),
        (Filter("l7"), False),
        (Filter(methods=("GET",)), False),
        (Filter(path=path_pattern("/**")), False),
        (Filter(rule="api.ingress.1", port=80), True),
    ):
        assert wanted.shows_packet(packet) is shown


@pytest.mark.parametrize("text", ["", "=", "a=", "=b", "a,", "!", "a!=", ",a"])
def test_bad_selectors(text: str) -> None:
    with pytest.raises(OperationError, match="--from-selector"):
        parse_selector(text, "--from-selector")
