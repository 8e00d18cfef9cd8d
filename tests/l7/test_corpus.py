"""Protects applications from requests that are read in two ways: what servers see behind a policy is what the policy allows.

What they see with nobody between is kept in `corpus/seen.json`, and checked for the versions it was recorded with."""

from __future__ import annotations

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
        played = survey.play(web, server, CASES, scene.address("api"), CLOSED_WITHIN)
    scene.rest()
    wrong = [
        f"{case.name}: saw {[survey.brief(s) for s in survey.accepted(seen)][-3:]}, {problem}"
        for case, (seen, done) in zip(CASES, played, strict=True)
        if (problem := differs(case, seen, done, name)) is not None
    ]
    assert not wrong, "\n".join(wrong)


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
    # A FIN may have the server close before. A server that has a part of the head is not answered for.
    refused = done.answers[-1:] == [403] or pieces or case.finish
    if last is not None and last.answer == "403" and not refused:
        return f"answers {done.answers[-3:]} instead of 403"
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
