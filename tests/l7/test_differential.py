"""Protects the meaning of HTTP rules in the kernel: what the programs decide on real sockets, and which bytes reach the server, is what the reference
evaluator says, however a stream of the corpus is cut."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.l7.differential import Case, Kernel, Loaded, same
from tests.l7.differential_case import Segment, ground, of_corpus
from tests.l7.place import Scene
from tests.l7.random_splits import every_byte, every_split, groupings
from tests.reference import http_corpus as corpus

pytestmark = pytest.mark.bpf

CASES = [of_corpus(case) for case in corpus.CASES]
GROUND = ground(CASES)
BULK = 2400  # requests in one write: more than half a MiB


@pytest.fixture(scope="module")
def loaded(on_loopback: Scene) -> Iterator[Loaded]:
    with Kernel(on_loopback).loaded(GROUND) as made:
        yield made
    on_loopback.rest()


def test_the_corpus_is_judged_as_the_evaluator_says_and_denied_connections_end(loaded: Loaded) -> None:
    same(loaded.play(CASES, closing=True))


def test_every_split_point_of_every_request(loaded: Loaded) -> None:
    cases = [cut for case in CASES for cut in every_split(case)]
    assert len(cases) > 15000
    for at in range(0, len(cases), 4000):
        same(loaded.play(cases[at : at + 4000]))


def test_every_byte_alone(loaded: Loaded) -> None:
    same(loaded.play([cut for case in CASES for cut in every_byte(case)]))


def test_every_grouping_of_pipelined_requests(loaded: Loaded) -> None:
    """Bodies, chunks and a denied request, in each order of three before it."""
    by_name = {case.name: case for case in CASES}
    one = by_name["pipelined"]
    allowed = (
        corpus.A,
        corpus.post("Content-Length: 3", body=b"abc"),
        corpus.post(corpus.CHUNKED, body=b"1\r\nx\r\n0\r\nA: b\r\n\r\n"),
    )
    cases = []
    for turn in range(3):
        requests = (*allowed[turn:], *allowed[:turn], corpus.A)
        cases += groupings(f"allowed {turn}", requests, one)
        cases += groupings(f"denied {turn}", (*requests, corpus.B, corpus.A), one)
    same(loaded.play(cases))


def test_thousands_of_requests_in_one_write(loaded: Loaded) -> None:
    one = next(case for case in CASES if case.name == "pipelined")
    request = corpus.req("GET /a", "X-Pad: " + "p" * 190)
    body = corpus.post("Content-Length: 100000", body=b"b" * 100000)
    streams = {
        "allowed": request * BULK,
        "denied at last": request * BULK + corpus.B,
        "denied in the middle": request * (BULK // 2) + corpus.B + request * (BULK // 2),
        "bodies": body * 6 + request * 10,
    }
    for name, stream in streams.items():
        same(loaded.play([Case(name, one.rules, (Segment(stream),))]))
