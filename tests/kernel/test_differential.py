"""The compiled programs against the reference evaluator: random policies, random flows and packets, none may differ."""

from __future__ import annotations

import time
from random import Random

import pytest

pytestmark = pytest.mark.bpf

FLOW_SEEDS, FLOWS = range(25), 400
PACKET_SEEDS, PACKETS = range(1000, 1040), 600


@pytest.mark.parametrize("seed", FLOW_SEEDS)
def test_first_packets_of_flows_are_judged_as_the_reference_judges_them(seed: int) -> None:
    from random_world import case, flow

    from policyc.engine import ReferenceEngine
    from policyc.kernel_engine import KernelEngine

    r = Random(seed)
    drawn = case(r)
    reference = ReferenceEngine(drawn.policy, drawn.endpoints, drawn.host)
    kernel = KernelEngine(drawn.policy, drawn.endpoints, drawn.host)
    for _ in range(FLOWS):
        drawn_flow = flow(r)
        assert kernel.judge(drawn_flow) == reference.judge(drawn_flow), f"seed {seed}: {drawn_flow}"


@pytest.mark.parametrize("seed", PACKET_SEEDS)
def test_packets_with_state_are_judged_as_the_machine_judges_them(seed: int, place) -> None:  # type: ignore[no-untyped-def]
    from packets_differential import differences

    assert differences(seed, place, PACKETS, time.monotonic_ns) == []
