"""Protects the judge of streams from clients and servers that try to get around it: a forbidden request reaches no server, however it is sent.

Each way is first shown to reach the server where nobody judges."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.l7 import evasion, recorder, senders
from tests.l7.evasion import ALLOWED, EVASIONS, FORBIDDEN, POLICIES, SUBJECT, Evasion, Side, attempt
from tests.l7.place import PORT, Scene

pytestmark = pytest.mark.bpf
PORTS = itertools.cycle(range(PORT, PORT + 20))
FREE = [
    pytest.param(e, v, id=f"{e.name}-{v}", marks=pytest.mark.xdist_group("nobody"))
    for e in EVASIONS.values()
    for v in e.versions
]
# At an interface too, with the cgroup for the streams: what has no socket in the cgroup is seen there.
BOUND = ("cgroup", "both")


@dataclass(frozen=True)
class Judge:
    side: Side
    bound: str

    def __str__(self) -> str:
        return f"{self.side} by {self.bound}"


JUDGES = [Judge(side, bound) for side in ("ingress", "egress") for bound in BOUND]
# Where the file's tests are spread over processes (tests/kernels/matrix.py) those of a judge stay together.
SITTING = [pytest.param(judge, id=str(judge), marks=pytest.mark.xdist_group(str(judge))) for judge in JUDGES]
JUDGED = [
    pytest.param(judge, e, v, id=f"{judge}-{e.name}-{v}", marks=pytest.mark.xdist_group(str(judge)))
    for judge in JUDGES
    for e in EVASIONS.values()
    for v in e.versions
    if judge.side in e.sides and (judge.bound == "both" or not e.outside)
]


def trying(e: Evasion, scene: Scene, **more: object) -> evasion.Outcome:
    try:
        return attempt(e, scene, next(PORTS), **more)  # type: ignore[arg-type]
    except senders.Unsupported as reason:
        # Kernels are built without kernel TLS; a way that every other kernel has must not go untried (tests/conftest.py).
        give_up = pytest.xfail if isinstance(reason, senders.NoKernelTls) else pytest.skip
        give_up(f"not on this kernel: {reason}")


@pytest.mark.parametrize(("way", "version"), FREE)
def test_gets_through_where_nobody_judges(scene: Scene, bench: Bench, way: Evasion, version: int) -> None:
    bench.clear()
    assert trying(way, scene, version=version).through


class Bench:
    """Who judges in the scene: one load for all tests that need none of their own."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._judge: Judge | None = None

    def take(self, judge: Judge) -> None:
        if judge != self._judge:
            self.clear()
            self._scene.load(POLICIES[judge.side], **{SUBJECT[judge.side]: judge.bound})
            self._judge = judge

    def clear(self) -> None:
        self._judge = None
        self._scene.unload()


@pytest.fixture(scope="module")
def bench(scene: Scene) -> Iterator[Bench]:
    made = Bench(scene)
    yield made
    made.clear()


@pytest.mark.parametrize("judge", SITTING)
def test_what_is_allowed_is_served(scene: Scene, bench: Bench, judge: Judge) -> None:
    """Without it, what follows would prove nothing."""
    bench.take(judge)
    port = next(PORTS)
    api, web = scene.agent("api"), scene.agent("web")
    api.call(recorder.start, recorder.Listening("::", port))
    done = [web.call(senders.plain, scene.address("api", version), port, ALLOWED) for version in (4, 6)]
    scene.rest()
    assert done == ["answered", "answered"]


@pytest.mark.parametrize(("judge", "way", "version"), JUDGED)
def test_is_refused(scene: Scene, bench: Bench, judge: Judge, way: Evasion, version: int) -> None:
    if way.late:
        bench.clear()
    else:
        bench.take(judge)
    outcome = trying(way, scene, version=version, load=lambda: bench.take(judge))
    assert not outcome.through, outcome
    assert FORBIDDEN not in outcome.data, outcome  # but for its last byte: what was sent before that was delivered


@pytest.mark.parametrize("judge", SITTING)
def test_mptcp_is_told(scene: Scene, bench: Bench, judge: Judge) -> None:
    bench.take(judge)
    scene.events()
    assert not trying(EVASIONS["MPTCP"], scene).through
    told = [(e["reason"], e["saw"]) for e in scene.events() if e["type"] == "l3-l4" and e["verdict"] == "deny"]
    assert ("l7-not-seen", "MPTCP") in told
