"""The verdict on a flow: egress at its source, then ingress at its destination, as at an uplink that judges everybody."""

from __future__ import annotations

from dataclasses import dataclass

from policyc.model import Direction
from policyc.reference.verdict import Judgement, Traffic, judge
from policyc.reference.world import Address, Subject, World

NO_SUBJECT = Judgement("allow", "no-subject")


@dataclass(frozen=True)
class Step:
    """One direction of a flow. `subject` is None where nobody is judged."""

    direction: Direction
    subject: Subject | None
    judgement: Judgement


def judge_flow(
    world: World, src: Address, dst: Address, traffic: Traffic, direction: Direction | None = None
) -> tuple[Step, ...]:
    """The steps: both directions, or the one asked for."""
    order = (Direction.EGRESS, Direction.INGRESS) if direction is None else (direction,)
    return tuple(_step(world, src, dst, traffic, d) for d in order)


def _step(world: World, src: Address, dst: Address, traffic: Traffic, direction: Direction) -> Step:
    local, remote = (src, dst) if direction is Direction.EGRESS else (dst, src)
    subject = world.subject(local)
    if subject is None:
        return Step(direction, None, NO_SUBJECT)
    return Step(direction, subject, judge(world, subject, direction, remote, traffic))
