"""`test` blocks: every combination of an expectation's ends and services as flows, judged by an engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from policyc.answers import FlowAnswer, Outcome, StepAnswer, flow_outcome, top
from policyc.artifact.stream_layout import Saw
from policyc.engine import Engine, EngineFactory
from policyc.flows import IPV6_EXTENSION_HEADERS, LOOPBACK, Flow, address_text, authority
from policyc.model import Expectation, HttpExpectation, PolicySet, Span, Test, TestEnd
from policyc.reference.world import Address, EndpointConflict
from policyc.requests import Segments, compose
from policyc.service_values import representatives, service_text
from policyc.synthetic import NoAddress, synthetic_endpoints

FLOW_LIMIT = 1_000_000  # flows of one expectation


@dataclass(frozen=True)
class Result:
    """One expectation. `message` is empty where it holds, else what was expected, what happened and what decided.
    `flows` is how many were judged."""

    test: str
    expectation: Expectation
    passed: bool
    message: str
    flows: int

    @property
    def span(self) -> Span:
        return self.expectation.span


def run_test(policy: PolicySet, test: Test, engine_factory: EngineFactory) -> list[Result]:
    """The results of one `test` block, in source order."""
    try:
        endpoints = (*test.endpoints, *synthetic_endpoints(policy, test))
        engine = engine_factory(policy, endpoints, ())
    except (NoAddress, EndpointConflict) as error:
        return [Result(test.title, e, False, str(error), 0) for e in test.expectations]
    return [_run(engine, test, expectation) for expectation in test.expectations]


def _run(engine: Engine, test: Test, expectation: Expectation) -> Result:
    flows = 0
    for source in expectation.sources:
        for destination in expectation.destinations:
            pair = list(_pair_flows(engine, expectation, source, destination))
            if not pair:
                message = f"{source.name} -> {destination.name}: the ends have no address family in common"
                return Result(test.title, expectation, False, message, flows)
            for flow in pair:
                if flows == FLOW_LIMIT:
                    message = (
                        f"it stands for more than {FLOW_LIMIT:,} flows; write several, with fewer ends or services"
                    )
                    return Result(test.title, expectation, False, message, flows)
                flows += 1
                message = _mistake(engine, expectation, flow, f"{source.name} -> {destination.name}")
                if message:
                    return Result(test.title, expectation, False, message, flows)
    return Result(test.title, expectation, True, "", flows)


def _pair_flows(engine: Engine, expectation: Expectation, source: TestEnd, destination: TestEnd) -> Iterator[Flow]:
    """Every flow one pair of ends stands for: in each family both have, every service value that can matter."""
    sources, destinations = _addresses(engine, source), _addresses(engine, destination)
    for family in ("4", "6"):
        if family not in sources or family not in destinations:
            continue
        for traffic in representatives(engine.world.policy, expectation.services):
            if family == "6" and traffic.protocol in IPV6_EXTENSION_HEADERS:
                continue
            destination_address = destinations[family]
            http = _segments(expectation.http, destination_address)
            yield Flow(sources[family], destination_address, traffic, http=http)


def _segments(request: HttpExpectation | None, destination: Address) -> Segments | None:
    """The request in one write; its host is the destination's address unless it says another."""
    if request is None:
        return None
    host = authority(destination) if request.host is None else request.host
    return (compose(request.method, request.target, "1.1", host, request.headers),)


def _addresses(engine: Engine, end: TestEnd) -> dict[str, Address]:
    """The first address of each family that an end has."""
    if end.kind == "address":
        assert end.address is not None
        return {end.address[0]: end.address}
    endpoint = engine.world.endpoints.get(end.name) if end.kind != "host" else None
    if endpoint is None:  # `host`, or an identity that means it
        return LOOPBACK
    first: dict[str, Address] = {}
    for address in endpoint.addresses:
        first.setdefault(address[0], address)
    return first


def _mistake(engine: Engine, expectation: Expectation, flow: Flow, pair: str) -> str:
    """Empty where the flow is judged as expected."""
    answer = engine.judge(flow)
    decided = _decided(answer)
    verdict = decided.outcome.verdict
    ends = f"{address_text(flow.src)} -> {address_text(flow.dst)}"
    what = f"{pair} {service_text(flow.traffic)}{_request_text(expectation)} ({ends})"
    if verdict != expectation.verdict:
        return f"expected {expectation.verdict}, got {verdict}: {what}: {_why(decided)}"
    if expectation.by is not None and not _decided_by(answer, expectation.by):
        return f"expected {expectation.verdict} by {expectation.by}: {what}: {_why(decided)}"
    return ""


def _request_text(expectation: Expectation) -> str:
    return "" if expectation.http is None else f" {expectation.http.method} {expectation.http.target}"


@dataclass(frozen=True)
class _Decided:
    """What one end, or both, say; `saw` of a malformed request."""

    outcome: Outcome
    saw: Saw = Saw.NOTHING


def _decided(answer: FlowAnswer) -> _Decided:
    """The connection's verdict where it is denied, else the request's, else, where no end judged it, the connection's."""
    connection = flow_outcome(answer)
    if connection.verdict == "deny":
        return _Decided(connection)
    decisive = [_decisive(step) for step in answer]
    winner = top([d.outcome for d in decisive])
    return next(d for d in decisive if d.outcome is winner)


def _decisive(step: StepAnswer) -> _Decided:
    """What one end says: about the request if it judged one."""
    if not step.requests:
        return _Decided(step.outcome)
    denied = (r for r in step.requests if r.outcome.verdict == "deny")
    request = next(denied, step.requests[-1])
    return _Decided(request.outcome, request.saw)


def _decided_by(answer: FlowAnswer, ref: str) -> bool:
    """An entry is meant by its own reference or by its rule's."""
    outcomes = [_decisive(step).outcome for step in answer]
    return any(o.rule is not None and ref in (o.rule.ref, o.ref) for o in outcomes)


def _why(decided: _Decided) -> str:
    outcome = decided.outcome
    if outcome.rule is None:
        return f"no rule decided ({outcome.reason})"
    place = f"{outcome.ref} ({outcome.span})"
    match outcome.reason:
        case "l7-no-entry":
            return f"no entry matches: l7-no-entry of {place}"
        case "l7-malformed":
            return f"{decided.saw.words}: l7-malformed for {place}"
        case "l7-entry":
            return f"decided by the entry {place}"
    return f"decided by {place}"
