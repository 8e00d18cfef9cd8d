"""Protects a machine with L7 rules whose `policyc` is killed before a system call by which a command changes something: no request
passes that neither the state before nor the one after allows, and the next command mends what is left.

Moments as in `test_killed`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import kill_points
import pytest

from tests.e2e import talker
from tests.e2e.test_streams import DENIED, OPEN, PRIVATE, PUBLIC, leftovers, status
from tests.l7 import recorder
from tests.l7.agent import Agent
from tests.l7.place import LOAD, PORT, Scene

pytestmark = [pytest.mark.bpf, pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")]

PATHS = ("/public/a", "/private/a", "/x")
Outcome = tuple[bool, ...]  # by path, whether it is answered
UNJUDGED, BY_PUBLIC, BY_PRIVATE = (True, True, True), (True, False, False), (False, True, False)


@dataclass
class Case:
    """`begin` makes the state before of an empty machine."""

    begin: list[list[str]]
    command: list[str]
    before: Outcome
    after: Outcome


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("killed")) as made:
        made.agent("api").call(recorder.start, recorder.Listening("::", PORT))
        yield made


@pytest.fixture(scope="module")
def web(scene: Scene) -> Agent:
    return scene.agent("web")


def cases(scene: Scene) -> dict[str, Case]:
    def load(text: str, *options: str) -> list[str]:
        return ["load", str(scene.compile(text)), "--name", LOAD, "--endpoints", str(scene.endpoints(bound)), *options]

    bound = {"api": "cgroup"}
    public, private, plain = load(PUBLIC), load(PRIVATE), load(OPEN)
    unload = ["unload", LOAD]
    bound = {}
    without = load(PUBLIC)
    add = ["endpoint", "add", LOAD, "api", "--label", "app=api", "--cgroup", str(scene.groups["api"])]
    add += [word for version in (4, 6) for word in ("--address", scene.address("api", version))]
    remove = ["endpoint", "remove", LOAD, "api"]
    return {
        "load": Case([], public, UNJUDGED, BY_PUBLIC),
        "replace": Case([public], private, BY_PUBLIC, BY_PRIVATE),
        "blocks come": Case([plain], public, UNJUDGED, BY_PUBLIC),
        "blocks go": Case([public], plain, BY_PUBLIC, UNJUDGED),
        "add": Case([without], add, UNJUDGED, BY_PUBLIC),
        "remove": Case([public], remove, BY_PUBLIC, UNJUDGED),
        "unload": Case([public], unload, BY_PUBLIC, UNJUDGED),
    }


def outcome(scene: Scene, web: Agent, patience: float = 3.0) -> Outcome:
    """Each on a connection of its own."""
    found = []
    for path in PATHS:
        try:
            number = web.call(talker.connect, scene.address("api"), PORT)
        except OSError:
            found.append(False)
            continue
        answer = web.call(talker.ask, number, path, patience)
        web.call(talker.close, number)
        assert answer in {"200", "TimeoutError", *DENIED}
        found.append(answer == "200")
    return tuple(found)


def passes_no_more(found: Outcome, *states: Outcome) -> bool:
    """Less is denied for the moment, until the next command."""
    return any(all(now <= allowed for now, allowed in zip(found, state, strict=True)) for state in states)


def clean(scene: Scene) -> None:
    done = subprocess.run(
        scene.operator.command("unload", LOAD), env=scene.operator.environment, capture_output=True, text=True
    )
    assert done.returncode == 0 or "nothing is loaded as" in done.stderr, done.stderr
    assert leftovers(scene) == []


@pytest.mark.parametrize("name", ["load", "replace", "blocks come", "blocks go", "add", "remove", "unload"])
def test_killed(scene: Scene, web: Agent, name: str) -> None:
    case = cases(scene)[name]

    def begin() -> None:
        clean(scene)
        for command in case.begin:
            scene.operator.run(*command)
        assert outcome(scene, web) == case.before

    begin()
    points = kill_points.traced(scene.operator, case.command)
    assert outcome(scene, web) == case.after
    for point in kill_points.sample(points, name):
        told = kill_points.told(name, point)
        begin()
        kill_points.kill(scene.operator, case.command, point)
        found = outcome(scene, web, 0.7)
        assert passes_no_more(found, case.before, case.after), f"{told}: {found}"
        mended = cases(scene)["load"].command
        scene.operator.run(*mended)
        assert outcome(scene, web) == BY_PUBLIC, told
        assert status(scene)["healthy"], told
    clean(scene)
