"""What an engine is: something that judges flows. The reference evaluator as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from policyc.answers import FlowAnswer, Outcome, StepAnswer
from policyc.flows import Flow
from policyc.model import Endpoint, PolicySet
from policyc.reference.flow import Step, judge_flow
from policyc.reference.verdict import Judgement
from policyc.reference.world import Address, World


class Engine(Protocol):
    """Judges flows. `world` says who is who; `judge` gives a step for each direction asked for, egress first."""

    @property
    def world(self) -> World: ...

    def judge(self, flow: Flow) -> FlowAnswer: ...


EngineFactory = Callable[[PolicySet, tuple[Endpoint, ...], tuple[Address, ...]], Engine]


class ReferenceEngine:
    """The reference evaluator. Raises EndpointConflict if endpoints share a name or an address."""

    def __init__(self, policy: PolicySet, endpoints: Iterable[Endpoint] = (), host: Iterable[Address] = ()) -> None:
        self.world = World(policy, endpoints, host)

    def judge(self, flow: Flow) -> FlowAnswer:
        return tuple(map(_step_answer, judge_flow(self.world, flow.src, flow.dst, flow.traffic, flow.direction)))


def _step_answer(step: Step) -> StepAnswer:
    prospective = step.judgement.prospective
    audit = None if prospective is None else _outcome(prospective)
    isolated_by = step.judgement.isolated_by
    isolation = (step.judgement.tier, isolated_by) if isolated_by else None
    return StepAnswer(step.direction, _outcome(step.judgement), audit, isolation)


def _outcome(judgement: Judgement) -> Outcome:
    return Outcome(judgement.verdict, judgement.reason, judgement.rule)
