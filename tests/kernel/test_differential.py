"""The compiled programs against the reference evaluator: random policies, flows and packets, none may differ."""

from __future__ import annotations

from random import Random

import pytest
from packets_differential import Loads, Place, compile_text, play, total
from random_world import flow, who
from scenario import checked, draw, ground

from policyc.answers import document
from policyc.engine import ReferenceEngine
from policyc.kernel_engine import KernelEngine

pytestmark = pytest.mark.bpf

FLOW_SEEDS, FLOWS = range(8), 800
# 60 policies with 4 cases of 850 packets each: 204,000 packets.
SEEDS, CASES, PACKETS = range(1000, 1060), 4, 850
BEHIND_NO_OPS = 20  # each seed that this divides


@pytest.mark.parametrize("seed", FLOW_SEEDS)
def test_first_packets_of_flows_are_judged_as_the_reference_judges_them(seed: int) -> None:
    on, r = ground(seed), Random(seed)
    text, now = on.policies[0], who(Random(seed), on.edges)
    reference = ReferenceEngine(checked(text), now.endpoints, now.host)
    kernel = KernelEngine(checked(text), now.endpoints, now.host, compile_text(text, on.structure))
    for _ in range(FLOWS):
        drawn = flow(r, on.edges, now)
        answers = [document(e.world, drawn, e.judge(drawn)) for e in (kernel, reference)]
        assert answers[0] == answers[1], f"seed {seed}: {drawn}"


@pytest.mark.parametrize("seed", SEEDS)
def test_packets_with_state_are_judged_told_and_counted_as_the_machine_says(seed: int, place: Place) -> None:
    on = ground(seed, no_ops=seed % BEHIND_NO_OPS == 0)
    with Loads(on.policies, on.structure) as loads:
        differences, packets, _ = total(play(draw(on, seed, part, PACKETS), place, loads) for part in range(CASES))
    assert differences == [], f"seed {seed}"
    assert packets > PACKETS
