"""Who, what and which verdict (semantics 1 to 3): hand-written flows, at every program and side where their subject can be judged."""

from __future__ import annotations

import pytest
from cases.flow_cases import IN, Row, names, read
from cases.scene import (
    CGROUP_IN,
    CGROUP_OUT,
    UPLINK_IN,
    UPLINK_OUT,
    UPLINK_XDP,
    WORKLOAD_IN,
    WORKLOAD_OUT,
    WORKLOAD_XDP,
    At,
    Scene,
    described,
)
from packets_differential import Place

from policyc.artifact.layout import Events
from policyc.frames import frame
from policyc.reference.flow import judge_flow
from policyc.reference.world import World

pytestmark = pytest.mark.bpf


@pytest.mark.parametrize("name", names())
def test_every_line(name: str, place: Place) -> None:
    case = read(name)
    assert case.rows
    wrong: list[str] = []
    with Scene(place, case.policy, case.who, case.host) as scene:
        for row in case.rows:
            try:
                _evaluated(scene, row)
                _at_uplinks(scene, row)
                if row.subject is not None:
                    _at_workload(scene, row)
            except AssertionError as error:
                wrong.append(f"{row.place}\n    {error}")
    assert not wrong, "\n" + "\n".join(wrong)


def _evaluated(scene: Scene, row: Row) -> None:
    (step,) = judge_flow(
        World(scene.policy, scene.endpoints, scene.host), row.flow.src, row.flow.dst, row.flow.traffic, row.direction
    )
    assert described(step.judgement) == row.expected, f"evaluator: {described(step.judgement)}"


def _at_uplinks(scene: Scene, row: Row) -> None:
    for at in (UPLINK_IN, UPLINK_XDP) if row.direction is IN else (UPLINK_OUT,):
        scene.bind()
        scene.check(at, frame(row.flow), row.expected)
        _logged(scene, at, row)


def _logged(scene: Scene, at: At, row: Row) -> None:
    """Without `log` and differences of audit an operator who wants no events gets none."""
    scene.bind()
    scene.configure(events=Events.NONE)
    _, event = scene.send(at, frame(row.flow))
    scene.configure(events=Events.TRACE)
    assert (event is not None) == (row.log or "~" in row.expected), f"event: {event}"


def _at_workload(scene: Scene, row: Row) -> None:
    """Judged at its own attach point a bound endpoint gets the same answer."""
    for at in (WORKLOAD_IN, CGROUP_IN) if row.direction is IN else (WORKLOAD_OUT, WORKLOAD_XDP, CGROUP_OUT):
        is_cgroup = at in (CGROUP_IN, CGROUP_OUT)
        scene.bind(workload=None if is_cgroup else row.subject, inner=row.subject if is_cgroup else None)
        scene.check(at, frame(row.flow), row.expected)
