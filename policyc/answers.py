"""The answer to a flow as a JSON document, built from what an engine says about each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from policyc.flows import Flow
from policyc.model import Direction, Rule, Tier
from policyc.reference.verdict import judge
from policyc.reference.world import Address, Subject, World, subject_name


@dataclass(frozen=True)
class Outcome:
    """A verdict, its reason, and the rule that decided (None: none did)."""

    verdict: Literal["allow", "deny"]
    reason: str
    rule: Rule | None = None


@dataclass(frozen=True)
class StepAnswer:
    """What an engine says about one direction. `audit` stands where the prospective verdict differs.

    `isolation`: tier and policies of a denial by default, if the engine knows them; else the document asks the reference."""

    direction: Direction
    outcome: Outcome
    audit: Outcome | None = None
    isolation: tuple[Tier | None, tuple[str, ...]] | None = None


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


def _outcome_fields(outcome: Outcome) -> dict[str, Any]:
    rule = outcome.rule
    return {
        "verdict": outcome.verdict,
        "rule": None if rule is None else str(rule.span),
        "ref": None if rule is None else rule.ref,
        "reason": outcome.reason,
    }


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
    return {
        "direction": step.direction.word,
        "subject": None if subject is None else subject_name(subject),
        **_outcome_fields(step.outcome),
        "tier": None if tier is None else tier.word,
        "priority": None if rule is None else rule.priority,
        "isolated_by": list(isolated_by),
    }


def document(world: World, flow: Flow, answer: FlowAnswer) -> dict[str, Any]:
    """The object that `policyc eval` prints for a flow, the same whichever engine judged."""
    result = {
        **_outcome_fields(flow_outcome(answer)),
        "src": _end(world, flow.src),
        "dst": _end(world, flow.dst),
        "steps": [_step(world, flow, step) for step in answer],
    }
    audit = audit_outcome(answer)
    if audit is not None:
        result["audit"] = _outcome_fields(audit)
    return result


def error_document(message: str, line: int) -> dict[str, Any]:
    """What stands in the place of a bad line; lines count from 1."""
    return {"error": message, "line": line}
