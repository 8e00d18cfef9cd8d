"""What an engine is: something that judges flows. The reference evaluator as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from policyc.answers import (
    FlowAnswer,
    Outcome,
    RequestAnswer,
    StepAnswer,
    shown_before,
    shown_host,
    shown_method,
    shown_path,
)
from policyc.flows import Flow
from policyc.model import Endpoint, PolicySet
from policyc.reference.flow import Step, judge_flow
from policyc.reference.http import Decision, RequestVerdict
from policyc.reference.verdict import Judgement
from policyc.reference.world import Address, World


class Engine(Protocol):
    """Judges flows. `world` says who is who; `judge` gives a step for each direction asked for, egress first, each with the requests of
    `flow.http` that were judged there; `close` gives back what the engine holds."""

    @property
    def world(self) -> World: ...

    def judge(self, flow: Flow) -> FlowAnswer: ...

    def close(self) -> None: ...


EngineFactory = Callable[[PolicySet, tuple[Endpoint, ...], tuple[Address, ...]], Engine]


class ReferenceEngine:
    """The reference evaluator. Raises EndpointConflict if endpoints share a name or an address."""

    def __init__(self, policy: PolicySet, endpoints: Iterable[Endpoint] = (), host: Iterable[Address] = ()) -> None:
        self.world = World(policy, endpoints, host)

    def judge(self, flow: Flow) -> FlowAnswer:
        steps = judge_flow(self.world, flow.src, flow.dst, flow.traffic, flow.direction, flow.http or ())
        return tuple(map(_step_answer, steps))

    def close(self) -> None:
        """It holds nothing."""


def _step_answer(step: Step) -> StepAnswer:
    prospective = step.judgement.prospective
    audit = None if prospective is None else _outcome(prospective)
    isolated_by = step.judgement.isolated_by
    isolation = (step.judgement.tier, isolated_by) if isolated_by else None
    requests = tuple(map(request_answer, step.requests))
    return StepAnswer(step.direction, _outcome(step.judgement), audit, isolation, requests, step.end)


def _outcome(judgement: Judgement) -> Outcome:
    return Outcome(judgement.verdict, judgement.reason, judgement.rule)


def request_answer(request: RequestVerdict) -> RequestAnswer:
    prospective = request.prospective or request
    texts = (
        shown_method(request.method, len(request.method)),
        shown_path(request.path, len(request.path)),
        shown_host(request.host, len(request.host)),
    )
    return RequestAnswer(
        _request_outcome(request),
        request.answer,
        *shown_before(request.saw or prospective.saw, texts),
        None if request.prospective is None else _request_outcome(request.prospective),
        request.saw,
    )


def _request_outcome(decided: RequestVerdict | Decision) -> Outcome:
    return Outcome(decided.verdict, decided.reason, decided.rule, decided.entry)
