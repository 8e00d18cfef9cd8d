"""The compiled programs against the reference evaluator: random policies, random flows and packets, none may differ."""

from __future__ import annotations

import time
from random import Random

import pytest

pytestmark = pytest.mark.bpf

FLOW_SEEDS, FLOWS = range(15), 400
PACKET_SEEDS, PACKETS = range(1000, 1024), 600


@pytest.mark.parametrize("seed", FLOW_SEEDS)
def test_first_packets_of_flows_are_judged_as_the_reference_judges_them(seed: int) -> None:
    from packets_differential import compiled
    from random_world import case, flow

    from policyc.answers import document
    from policyc.engine import ReferenceEngine
    from policyc.kernel_engine import KernelEngine

    r = Random(seed)
    drawn = case(r)
    reference = ReferenceEngine(drawn.policy, drawn.endpoints, drawn.host)
    artifact = compiled(drawn.policy, searched=seed % 2 == 1)
    kernel = KernelEngine(drawn.policy, drawn.endpoints, drawn.host, artifact)
    for _ in range(FLOWS):
        drawn_flow = flow(r)
        answers = [document(e.world, drawn_flow, e.judge(drawn_flow)) for e in (kernel, reference)]
        assert answers[0] == answers[1], f"seed {seed}: {drawn_flow}"


@pytest.mark.parametrize("seed", PACKET_SEEDS)
def test_packets_with_state_are_judged_as_the_machine_judges_them(seed: int, place) -> None:  # type: ignore[no-untyped-def]
    from packets_differential import differences

    assert differences(seed, place, PACKETS, time.monotonic_ns) == []
