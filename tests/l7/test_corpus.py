"""Protects applications from requests that are read in two ways: what servers see behind a policy is what the policy allows.

What they see with nobody between is kept in `corpus/seen.json`, and checked for the versions it was recorded with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from tests.l7 import raw, servers, survey
from tests.l7.corpus import policy
from tests.l7.corpus.all_cases import BY_NAME, CASES
from tests.l7.corpus.case import Case
from tests.l7.place import PORT, Scene

pytestmark = pytest.mark.bpf
# http.server and its like read no chunks: the bytes of a chunked body that was allowed are their next requests.
READS_NO_CHUNKS = {"python"}
LONG = 14000  # bytes of a write that may not be cut before a denied request
CLOSED_WITHIN = 4.0  # seconds: a denied connection is closed within 3
LOST = "closed without an answer instead of 403"


@dataclass(frozen=True)
class Problem:
    case: Case
    what: str
    saw: list[str]

    def __str__(self) -> str:
        return f"{self.case.name}: saw {self.saw}, {self.what}"


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(CASES)


def test_nothing_is_judged_behind_a_denied_request() -> None:
    for case in CASES:
        assert all(o.verdict == "allow" for o in case.expected[:-1]), case.name


@pytest.mark.parametrize("name", servers.NAMES)
def test_without_policy_servers_do_as_recorded(scene: Scene, name: str) -> None:
    versions, kept = survey.read()
    if versions[name] != servers.version(name):
        return  # another version may do otherwise: `python -m tests.l7.survey` tells
    found = survey.survey(scene, [name])
    scene.rest()
    assert survey.changes(kept, found) == []


@pytest.mark.parametrize("name", servers.NAMES)
def test_behind_the_policy(scene: Scene, name: str) -> None:
    web = scene.agent("web")
    with scene.loaded(policy.TEXT):
        server = servers.start(name, scene, PORT + 1)

        def problems(cases: Sequence[Case]) -> list[Problem]:
            played = survey.play(web, server, cases, scene.address("api"), CLOSED_WITHIN)
            return [
                Problem(case, problem, [survey.brief(s) for s in survey.accepted(seen)][-3:])
                for case, (seen, done) in zip(cases, played, strict=True)
                if (problem := differs(case, seen, done, name)) is not None
            ]

        wrong = problems(CASES)
        if name in servers.BLOCKING:
            for _ in range(servers.AGAIN):
                lost = [one.case for one in wrong if one.what == LOST]
                wrong = [one for one in wrong if one.what != LOST] + (problems(lost) if lost else [])
    scene.rest()
    assert not wrong, "\n".join(map(str, wrong))


def differs(case: Case, seen: list[servers.Seen], done: raw.Exchange, server: str) -> str | None:
    """What is not as the case says, or None."""
    reached = [(one.method, one.target) for one in survey.accepted(seen)]
    chunks = server in READS_NO_CHUNKS and any(b"chunked" in segment.lower() for segment in case.segments)
    for method, target in reached:
        if (method, target) not in case.visible and not chunks:
            return f"a request {method} {target[:60]} that is not allowed"
    if len(reached) > len(case.visible) and not chunks:
        return f"{len(reached)} requests, {len(case.visible)} are allowed"
    last = case.expected[-1] if case.expected else None
    pieces = len(case.segments) > 1 or len(case.segments[0]) > 1400
    # A FIN may have the server close before. Of a head that came in pieces an event loop may refuse what it has, and who is blocked is given a NUL.
    own = pieces and (server in servers.BLOCKING or any(status >= 400 for status in done.answers[-1:]))
    refused = done.answers[-1:] == [403] or own or case.finish
    if last is not None and last.answer == "403" and not refused:
        unanswered = not done.received and done.end in ("eof", "reset")
        return LOST if unanswered else f"answers {done.answers[-3:]} instead of 403"
    # Of a long buffer nothing may have been delivered; then the refusal answers its first request (docs/l7.md).
    long = sum(map(len, case.segments)) > LONG
    if last is not None and last.answer == "closed" and 403 in done.answers and not long:
        return "a 403 that may be taken for another answer"
    # That denied connections are closed is tried elsewhere: of those that were denied before they were accepted some stay open (docs/l7.md). One whose server
    # gave its final answer before it had the body that it was asked about is closed, as the semantics want it; a server that reads no chunks closes.
    asks = any(b"100-continue" in segment.lower() for segment in case.segments)
    if not case.denied and done.end not in ("open", "eof") and not asks and not chunks:
        return f"a spurious {done.end}"
    return None
