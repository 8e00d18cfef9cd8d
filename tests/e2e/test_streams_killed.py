"""Protects a machine with L7 rules whose `policyc` is killed before a system call by which a command changes something: no request
passes that neither the state before nor the one after allows, and the next command mends what is left.

Samples and seeds as in `test_killed`."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from operation import ROOT
from test_killed import CALLS, LINE, MADE, POINTS, SEED

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


def strace(scene: Scene, options: list[str], command: list[str]) -> int:
    full = scene.operator.namespace.command("strace", *options, sys.executable, "-m", "policyc", *command)
    done = subprocess.run(full, env=scene.operator.environment, capture_output=True, text=True, timeout=180, cwd=ROOT)
    assert done.returncode in (0, -9, 137), done.stderr
    return done.returncode


def traced(scene: Scene, command: list[str]) -> list[tuple[str, int]]:
    """Runs the command; its system calls in order, each with its count so far of that name."""
    log = scene.folder / "trace"
    strace(scene, ["-o", str(log), "-e", f"trace={CALLS}"], command)
    counts: Counter[str] = Counter()
    points = []
    for line in log.read_text(errors="replace").splitlines():
        if match := LINE.match(line):
            counts[match["call"]] += 1
            if not MADE.match(line):
                points.append((match["call"], counts[match["call"]]))
    return points


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
    points = traced(scene, case.command)
    assert outcome(scene, web) == case.after
    chosen = points
    if POINTS != "all":
        chosen = random.Random(f"{SEED} {name}").sample(points, min(int(POINTS), len(points)))
    for call, count in chosen:
        told = f"seed {SEED}, {name}: killed before call {count} of {call}"
        begin()
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={count}"]
        strace(scene, ["-o", "/dev/null", *inject], case.command)
        found = outcome(scene, web, 0.7)
        assert passes_no_more(found, case.before, case.after), f"{told}: {found}"
        mended = cases(scene)["load"].command
        scene.operator.run(*mended)
        assert outcome(scene, web) == BY_PUBLIC, told
        assert status(scene)["healthy"], told
    clean(scene)
