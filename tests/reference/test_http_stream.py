"""Streams as the reference evaluator reads them: audit, log, what is told of a request, what goes on to the other end, cuts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyc.artifact.stream_layout import Saw
from policyc.model import Rule
from policyc.reference.http import Court, HttpStream, RequestVerdict
from tests.reference.http_corpus import Case, padded, req
from tests.reference.test_http_corpus import rules

A, B = req("GET /a"), req("GET /b")


def of(*blocks: str) -> tuple[Rule, ...]:
    return rules(Case("", blocks, (), ()).policy)


def judged(stream: HttpStream, *segments: bytes) -> list[RequestVerdict]:
    return [verdict for segment in segments for verdict in stream.feed(segment)]


def verdicts(requests: list[RequestVerdict]) -> list[tuple[str, str, str | None]]:
    """Enforced verdict, reason, and the prospective verdict where it differs."""
    return [(r.verdict, r.reason, r.prospective.reason if r.prospective else None) for r in requests]


ONLY_A = 'http { GET "/a" }'
AUDITED = 'http audit { GET "/a" }'


# --- audit --------------------------------------------------------------------------------------------------------


def test_an_audited_block_denies_nothing_and_its_requests_are_told() -> None:
    stream = HttpStream(of(AUDITED))
    assert verdicts(judged(stream, A + B + A)) == [
        ("allow", "rule", None), ("allow", "rule", "l7-no-entry"), ("allow", "rule", None),
    ]  # fmt: skip
    assert stream.end == "open"
    assert not Court(of(AUDITED), audited=False).judges
    assert Court(of(AUDITED), audited=True).judges


def test_behind_what_an_audited_block_cannot_read_nothing_is_told() -> None:
    stream = HttpStream(of(AUDITED))
    assert verdicts(judged(stream, A, b"\x16\x03\x01", B)) == [
        ("allow", "rule", None),
        ("allow", "rule", "l7-malformed"),
    ]
    assert stream.passed == len(B)
    assert stream.end == "open"


def test_behind_an_upgrade_that_an_audited_block_would_deny_nothing_is_told() -> None:
    stream = HttpStream(of(AUDITED))
    assert verdicts(judged(stream, req("GET /a", "Upgrade: x"), B)) == [("allow", "rule", "l7-malformed")]


def test_with_audit_in_force_the_block_decides() -> None:
    stream = HttpStream(of(AUDITED), audited=True)
    assert verdicts(judged(stream, A, B, A)) == [("allow", "l7-entry", None), ("deny", "l7-no-entry", None)]


def test_an_audited_block_beside_another() -> None:
    stream = HttpStream(of(ONLY_A, 'http audit { deny GET "/a" }'))
    (request,) = judged(stream, A)
    assert request.prospective is not None
    assert request.prospective.entry is not None
    assert (request.verdict, request.prospective.verdict, request.prospective.rule.ref) == ("allow", "deny", "p.r2")


def test_an_audited_block_takes_its_rules_place_as_a_plain_one() -> None:
    assert verdicts(judged(HttpStream(of(ONLY_A, 'http audit { GET "/c" }')), B)) == [("allow", "rule", "l7-no-entry")]


def test_prospective_rules_may_be_others() -> None:
    (request,) = judged(HttpStream(of(ONLY_A), prospective=of('http { GET "/b" }')), B)
    assert verdicts([request]) == [("deny", "l7-no-entry", "l7-entry")]
    assert judged(HttpStream(of(ONLY_A), prospective=()), B)[0].prospective is None
    (large,) = judged(
        HttpStream(of(f"http limit 512 {ONLY_A[5:]}"), prospective=of("http limit 256 { * }")), padded(257)
    )
    assert verdicts([large]) == [("allow", "l7-entry", "l7-malformed")]


# --- what is told --------------------------------------------------------------------------------------------------


def test_a_connection_without_a_block_is_not_judged() -> None:
    for none in ((), of("")):
        stream = HttpStream(none)
        assert judged(stream, b"\x00\x01") == []
        assert (stream.end, stream.passed) == ("open", 2)


def test_elements_are_told_as_sent_and_only_when_complete() -> None:
    (request,) = judged(HttpStream(of("http { * }")), req("GET /%61?x=y", host="X.:80"))
    assert (request.method, request.target, request.path, request.host, request.minor) == (
        b"GET",
        b"/%61?x=y",
        b"/%61",
        b"X.:80",
        1,
    )
    (cut,) = judged(HttpStream(of("http { * }")), b"GET /a\x00")
    assert (cut.method, cut.target, cut.path, cut.minor) == (b"GET", b"", b"", None)
    (late,) = judged(HttpStream(of("http { * }")), b"GET /a?b\x00")
    assert (late.target, late.path) == (b"", b"/a")
    (dots,) = judged(HttpStream(of("http { * }")), b"GET /.. HTTP/1.1\r\n")
    assert dots.path == b"/.."
    (zero,) = judged(HttpStream(of("http { * }")), req("GET / HTTP/1.0", host=None))
    assert (zero.minor, zero.host) == (0, b"")


def test_a_body_that_is_malformed_denies_the_request_that_was_allowed() -> None:
    stream = HttpStream(of(ONLY_A, "http { POST }"))
    first, second = judged(stream, req("POST /a", "Transfer-Encoding: chunked"), b"0\r\nx;\r\n")
    assert (first.verdict, first.again, second.verdict, second.again) == ("allow", False, "deny", True)
    assert (second.method, second.path, second.answer, second.saw) == (b"POST", b"/a", "closed", Saw.TRAILER)


def test_a_request_is_logged_if_a_rule_of_the_connection_says_so() -> None:
    first, second = of(ONLY_A, 'http { GET "/b" }')
    assert not judged(HttpStream((first, second)), A)[0].log
    assert judged(HttpStream((first, replace(second, log=True))), A)[0].log


def test_source_order_is_that_of_the_rules_not_of_the_list() -> None:
    first, second = of(ONLY_A, ONLY_A)
    assert judged(HttpStream((second, first)), A)[0].rule is first


@pytest.mark.parametrize(
    ("segments", "passed"),
    [((A,), [len(A)]), ((A + B,), [len(A)]), ((A + B + A,), [len(A)]), ((B,), [0]), ((B[:5], B[5:]), [5, 0]), ((B, A), [0, 0])],
)  # fmt: skip
def test_what_stands_before_a_denied_request_goes_on(segments: tuple[bytes, ...], passed: list[int]) -> None:
    stream = HttpStream(of(ONLY_A))
    found = []
    for segment in segments:
        stream.feed(segment)
        found.append(stream.passed)
    assert found == passed


def test_an_answer_that_is_not_there_yet() -> None:
    stream = HttpStream(of(ONLY_A))
    stream.feed(A, answered=False)
    stream.feed(A[:3], answered=True)
    assert stream.feed(A[3:] + B)[-1].answer == "closed"
    slow = HttpStream(of('http { GET "/a" upgrade }'))
    slow.feed(req("GET /a", "Upgrade: x"), answered=False)
    assert slow.feed(b"x")[0].saw is Saw.EARLY_BYTES


# --- any bytes -----------------------------------------------------------------------------------------------------

PIECES = st.sampled_from([
    b"GET ", b"POST ", b"/a", b"/b", b"/", b"*", b"?k=v", b"%41", b"%2", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: x\r\n", b"A: b\r\n", b" ", b"\r\n", b"\r", b"\n", b":",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Upgrade: x\r\n", b"3\r\nabc\r\n", b"0\r\n", b"abc", b"\x00", b"\x16\x03", A, B,
    b"GET /a HTTP/1.1\r\nHost: x\r\n", b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n",
])  # fmt: skip
BLOCKS = (
    (ONLY_A,),
    (AUDITED,),
    ('http { * "/a" upgrade body  deny * "/b" query "k" "v" }',),
    ("", "http audit { }"),
    ('http limit 256 { * "/**" header "A" "b" }', AUDITED),
)


@given(
    st.sampled_from(BLOCKS),
    st.lists(PIECES | st.binary(max_size=4), max_size=12),
    st.lists(st.integers(0, 200), max_size=4),
)
def test_no_bytes_raise_and_cuts_change_nothing(blocks: tuple[str, ...], pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    whole, cut = HttpStream(of(*blocks)), HttpStream(of(*blocks))
    places = [0, *sorted(c for c in cuts if c < len(data)), len(data)]
    found = [v for a, b in pairwise(places) for v in cut.feed(data[a:b], answered=False)]
    assert found == whole.feed(data, answered=False)
    assert cut.end == whole.end
