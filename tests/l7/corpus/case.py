"""One case of the corpus: what a client sends on a connection, and what each request of it comes to under `policy.TEXT`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policyc.artifact.stream_layout import Saw

Answer = Literal["403", "closed"]
HOST = "Host: api\r\n"


@dataclass(frozen=True)
class Outcome:
    """One request. `method` and `target` as sent, for what is allowed and for what is denied because of its body: of that the head may
    have reached the server. `reason` is one of section 3's words, and `saw` says what was malformed."""

    verdict: Literal["allow", "deny"]
    method: str = ""
    target: str = ""
    reason: str = "l7-entry"
    answer: Answer | None = None
    saw: Saw = Saw.NOTHING


@dataclass(frozen=True)
class Case:
    """`source`: the rule or the class of attack it is from. `segments` are single writes; before each but the first the client waits
    for answers, unless `paced` says how many seconds it waits instead; with `finish` its FIN follows the last. `expected`: every request that is judged, in order; after a
    denied one nothing is. `evaluated`: false where the evaluator, which has no server, takes another answer of the server for granted.
    """

    name: str
    source: str
    segments: tuple[bytes, ...]
    expected: tuple[Outcome, ...]
    paced: float | None = None
    evaluated: bool = True
    finish: bool = False

    @property
    def allowed(self) -> list[tuple[str, str]]:
        return [(o.method, o.target) for o in self.expected if o.verdict == "allow"]

    @property
    def visible(self) -> list[tuple[str, str]]:
        """Method and target of all whose head a server may see."""
        return [(o.method, o.target) for o in self.expected if o.method]

    @property
    def denied(self) -> bool:
        return any(o.verdict == "deny" for o in self.expected)


# --- short words for tables of cases ----------------------------------------------------------------------------------


def request(start: str, *headers: str, body: str | bytes = b"", host: str = HOST) -> bytes:
    """`start` without its version is of HTTP/1.1; a header without CRLF gets one; all of Latin-1 may stand in them."""
    line = start if "HTTP/" in start else f"{start} HTTP/1.1"
    lines = "".join(h if h.endswith("\n") else h + "\r\n" for h in headers)
    head = f"{line}\r\n{host}{lines}\r\n"
    return head.encode("latin-1") + (body if isinstance(body, bytes) else body.encode("latin-1"))


def allow(what: str) -> Outcome:
    """`METHOD TARGET`."""
    method, _, target = what.partition(" ")
    return Outcome("allow", method, target)


def malformed(saw: Saw, answer: Answer = "403") -> Outcome:
    return Outcome("deny", reason="l7-malformed", answer=answer, saw=saw)


def bad_body(what: str, saw: Saw) -> Outcome:
    """The head of `METHOD TARGET` was allowed, its body turns out malformed: the answer may be under way, so there is no 403."""
    method, _, target = what.partition(" ")
    return Outcome("deny", method, target, "l7-malformed", "closed", saw)


def no_entry(answer: Answer = "403") -> Outcome:
    return Outcome("deny", reason="l7-no-entry", answer=answer)


def by_entry(answer: Answer = "403") -> Outcome:
    """Denied by a deny entry."""
    return Outcome("deny", reason="l7-entry", answer=answer)


def case(name: str, source: str, sent: bytes | tuple[bytes, ...], *expected: Outcome, paced: float | None = None, evaluated: bool = True, finish: bool = False) -> Case:  # fmt: skip
    return Case(name, source, (sent,) if isinstance(sent, bytes) else sent, expected, paced, evaluated, finish)
