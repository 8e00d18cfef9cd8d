"""The verdict on a flow: egress at its source, then ingress at its destination, as at an uplink that judges everybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from policyc.model import Direction
from policyc.reference.http import HttpStream, RequestVerdict
from policyc.reference.verdict import Judgement, Traffic, judge
from policyc.reference.world import Address, Subject, World

NO_SUBJECT = Judgement("allow", "no-subject")


@dataclass(frozen=True)
class Step:
    """One direction of a flow. `subject` is None where nobody is judged. `requests`: those that were judged here; `end`: what became of
    the stream here."""

    direction: Direction
    subject: Subject | None
    judgement: Judgement
    requests: tuple[RequestVerdict, ...] = ()
    end: Literal["open", "closed"] = "open"


def judge_flow(
    world: World,
    src: Address,
    dst: Address,
    traffic: Traffic,
    direction: Direction | None = None,
    segments: Sequence[bytes] = (),
) -> tuple[Step, ...]:
    """The steps: both directions, or the one asked for. `segments`: what the client then sends, one write after the other."""
    order = (Direction.EGRESS, Direction.INGRESS) if direction is None else (direction,)
    steps = tuple(_step(world, src, dst, traffic, d) for d in order)
    if any(s.judgement.verdict == "deny" for s in steps):
        return steps
    return _judge_stream(steps, segments)


def _judge_stream(steps: tuple[Step, ...], segments: Sequence[bytes]) -> tuple[Step, ...]:
    """What the first end denies, and what follows in that segment, never reaches the second; where either closes both are closed."""
    streams = [_stream(step) for step in steps]
    requests: list[list[RequestVerdict]] = [[] for _ in steps]
    for segment in segments:
        for stream, judged in zip(streams, requests, strict=True):
            for verdict in stream.feed(segment):
                if verdict.again:
                    judged.pop()
                judged.append(verdict)
            segment = segment[: stream.passed]
        if any(stream.end == "closed" for stream in streams):
            break
    return tuple(
        replace(step, requests=tuple(judged), end=stream.end)
        for step, judged, stream in zip(steps, requests, streams, strict=True)
    )


def _step(world: World, src: Address, dst: Address, traffic: Traffic, direction: Direction) -> Step:
    local, remote = (src, dst) if direction is Direction.EGRESS else (dst, src)
    subject = world.subject(local)
    if subject is None:
        return Step(direction, None, NO_SUBJECT)
    return Step(direction, subject, judge(world, subject, direction, remote, traffic))


def _stream(step: Step) -> HttpStream:
    judgement, sends = step.judgement, step.direction is Direction.EGRESS
    return HttpStream(judgement.rules, prospective=judgement.prospective_rules, reason=judgement.reason, sends=sends)
