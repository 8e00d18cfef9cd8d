"""The answer to a flow as a JSON document, built from what an engine says about each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal

from policyc.artifact.stream_layout import HOST_BYTES, METHOD_BYTES, PATH_BYTES, Saw
from policyc.flows import Flow
from policyc.model import Direction, HttpEntry, Rule, Span, Tier
from policyc.reference.verdict import judge
from policyc.reference.world import Address, Subject, World, subject_name


@dataclass(frozen=True)
class Outcome:
    """A verdict, its reason, and the rule that decided (None: none did); of a request perhaps the entry of its block."""

    verdict: Literal["allow", "deny"]
    reason: str
    rule: Rule | None = None
    entry: HttpEntry | None = None

    @property
    def ref(self) -> str | None:
        if self.rule is None or self.entry is None:
            return None if self.rule is None else self.rule.ref
        return f"{self.rule.ref}.{self.entry.number}"

    @property
    def span(self) -> Span | None:
        """Of the entry, else of the rule."""
        if self.rule is None or self.entry is None:
            return None if self.rule is None else self.rule.span
        return self.entry.span


End = Literal["open", "closed", "reset"]


@dataclass(frozen=True)
class RequestAnswer:
    """What an engine says about one request at one end. `answer`: what the client got in its place. `method`, `path` (without the query) and
    `host` are as `shown_…` and `shown_before` give them. `audit` as in a step. `saw`: what is malformed."""

    outcome: Outcome
    answer: Literal["403", "closed"] | None = None
    method: str | None = None
    path: str | None = None
    host: str | None = None
    audit: Outcome | None = None
    saw: Saw = Saw.NOTHING


@dataclass(frozen=True)
class StepAnswer:
    """What an engine says about one direction. `audit` stands where the prospective verdict differs. `requests`: what was judged there, `end`
    what became of the stream there.

    `isolation`: tier and policies of a denial by default, if the engine knows them; else the document asks the reference."""

    direction: Direction
    outcome: Outcome
    audit: Outcome | None = None
    isolation: tuple[Tier | None, tuple[str, ...]] | None = None
    requests: tuple[RequestAnswer, ...] = ()
    end: End = "open"


FlowAnswer = tuple[StepAnswer, ...]  # egress, then ingress; one where the flow names a direction


def top(outcomes: Sequence[Outcome]) -> Outcome:
    """The first that denies, else the last that a rule decided, else the last."""
    for outcome in outcomes:
        if outcome.verdict == "deny":
            return outcome
    by_rule = [o for o in outcomes if o.rule is not None]
    return by_rule[-1] if by_rule else outcomes[-1]


def flow_outcome(answer: FlowAnswer) -> Outcome:
    return top([step.outcome for step in answer])


def audit_outcome(answer: FlowAnswer) -> Outcome | None:
    """The prospective answer where its verdict differs from the enforced one."""
    prospective = top([step.audit or step.outcome for step in answer])
    return None if prospective.verdict == flow_outcome(answer).verdict else prospective


def shown_method(sent: bytes, length: int) -> str | None:
    return _shown(sent, length, METHOD_BYTES)


def shown_path(sent: bytes, length: int) -> str | None:
    return _shown(sent, length, PATH_BYTES)


def shown_host(sent: bytes, length: int) -> str | None:
    return _shown(sent, length, HOST_BYTES)


Texts = tuple[str | None, str | None, str | None]
# How many of method, path and host are shown of a malformed request: those that stand before what is malformed, wherever that was noticed.
_BEFORE = {
    **dict.fromkeys((Saw.START_LINE, Saw.TLS, Saw.HEAD_LIMIT, Saw.EARLY_BYTES, Saw.CONFIGURATION), 0),
    **dict.fromkeys((Saw.HTTP2, Saw.TARGET), 1),
    **dict.fromkeys((Saw.VERSION, Saw.HEADER_NAME, Saw.HEADER_VALUE, Saw.FOLDED_LINE, Saw.HOST), 2),
    **dict.fromkeys((Saw.CONTENT_LENGTH, Saw.TRANSFER_ENCODING, Saw.BOTH_LENGTHS), 2),
}


def shown_before(saw: Saw, texts: Texts) -> Texts:
    """Of a request's method, path and host those that are shown if it is malformed in that way."""
    method, path, host = (text if at < _BEFORE.get(saw, 3) else None for at, text in enumerate(texts))
    return method, path, host


def _shown(sent: bytes, length: int, most: int) -> str | None:
    """What was sent, of `length` bytes, as text: at most as many bytes as an event keeps, then `…`. None: nothing that was complete."""
    if not length:
        return None
    text = "".join(chr(b) if 0x20 < b < 0x7F and b != ord("\\") else f"\\x{b:02x}" for b in sent[:most])
    return text if length <= most else f"{text}…"


def stream_requests(answer: FlowAnswer) -> tuple[RequestAnswer, ...]:
    """Of each request what the first end says that denies it, else the last that an entry or rule decided. Behind a denied one there is none."""
    found = []
    for ends in zip_longest(*(step.requests for step in answer)):
        judged = [r for r in ends if r is not None]
        decided = top([r.outcome for r in judged])
        request = next(r for r in reversed(judged) if r.outcome is decided)
        prospective = top([r.audit or r.outcome for r in judged])
        found.append(replace(request, audit=None if prospective.verdict == decided.verdict else prospective))
        if decided.verdict == "deny":
            break
    return tuple(found)


def stream_end(answer: FlowAnswer) -> End:
    """A connection that is denied is reset."""
    if flow_outcome(answer).verdict == "deny":
        return "reset"
    ends = [step.end for step in answer]
    return next((end for end in ends if end != "open"), "open")


def _outcome_fields(outcome: Outcome) -> dict[str, Any]:
    return {
        "verdict": outcome.verdict,
        "rule": None if outcome.span is None else str(outcome.span),
        "ref": outcome.ref,
        "reason": outcome.reason,
    }


def _request(request: RequestAnswer) -> dict[str, Any]:
    fields = {
        **_outcome_fields(request.outcome),
        "answer": 403 if request.answer == "403" else request.answer,
        "method": request.method,
        "path": request.path,
        "host": request.host,
        "saw": request.saw.words or None,
    }
    if request.audit is not None:
        fields["audit"] = _outcome_fields(request.audit)
    return fields


def _end(world: World, address: Address) -> dict[str, Any]:
    owner = world.owner(address)
    return {
        "endpoint": None if owner is None else owner.name,
        "class": world.class_of(address).value,
        "identities": world.identities(address),
    }


def _isolation(
    world: World, flow: Flow, subject: Subject, direction: Direction, peer: Address
) -> tuple[Tier | None, tuple[str, ...]]:
    """Tier and policies of a denial by default: those the reference names, else the first tier that isolates."""
    judgement = judge(world, subject, direction, peer, flow.traffic)
    if judgement.isolated_by:
        return judgement.tier, judgement.isolated_by
    for tier in world.book(subject, direction, audited=False).tiers:
        if tier.isolating:
            return tier.tier, tuple(p.name for p in tier.isolating)
    return None, ()


def _step(world: World, flow: Flow, step: StepAnswer) -> dict[str, Any]:
    local, peer = (flow.src, flow.dst) if step.direction is Direction.EGRESS else (flow.dst, flow.src)
    subject, rule = world.subject(local), step.outcome.rule
    tier = None if rule is None else rule.tier
    isolated_by: tuple[str, ...] = ()
    if subject is not None and step.outcome.reason == "default" and step.outcome.verdict == "deny":
        tier, isolated_by = step.isolation or _isolation(world, flow, subject, step.direction, peer)
    fields = {
        "direction": step.direction.word,
        "subject": None if subject is None else subject_name(subject),
        **_outcome_fields(step.outcome),
        "tier": None if tier is None else tier.word,
        "priority": None if rule is None else rule.priority,
        "isolated_by": list(isolated_by),
    }
    if flow.http is not None:
        fields["requests"] = [_request(r) for r in step.requests]
    return fields


def document(world: World, flow: Flow, answer: FlowAnswer) -> dict[str, Any]:
    """The object that `policyc eval` prints for a flow, the same whichever engine judged."""
    result = {
        **_outcome_fields(flow_outcome(answer)),
        "src": _end(world, flow.src),
        "dst": _end(world, flow.dst),
        "steps": [_step(world, flow, step) for step in answer],
    }
    if flow.http is not None:
        result["requests"] = [_request(r) for r in stream_requests(answer)]
        result["end"] = stream_end(answer)
    audit = audit_outcome(answer)
    if audit is not None:
        result["audit"] = _outcome_fields(audit)
    return result


def error_document(message: str, line: int) -> dict[str, Any]:
    """What stands in the place of a bad line; lines count from 1."""
    return {"error": message, "line": line}
