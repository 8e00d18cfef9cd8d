"""Protects a machine whose `policyc` is killed: SIGKILL before each system call by which a command changes something. After it
every packet is judged as before the command or as after it, and the next command mends what is left, whichever it is.

Each run takes a sample of these moments, `make test-kill` all of them (`kill_points.py`)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import kill_points
import pytest
from operation import UDP_ECHO, Operator, Prober, Site, address, endpoint
from private_network import end_process
from test_loads import Machine

pytestmark = pytest.mark.bpf

COMMON = """\
policy web for {{ app == web }} {{ egress {{ allow to any on tcp, udp/5353, udp/5454 }} }}
policy api for {{ app == api }} {{ ingress {{ allow from {{ app == web }} on tcp/{port}, udp/5353, udp/5455 }} }}
"""
OLD, NEW = COMMON.format(port=80), COMMON.format(port=8080)
BOTH_ALLOW, FORBIDDEN = 5353, [5454, 5455]  # udp: the second lists what `api` and what `web` alone denies

Outcome = tuple[bool, bool]  # whether tcp/80 and tcp/8080 answer
BY_OLD, BY_NEW, UNJUDGED, DENIED = (True, False), (False, True), (True, True), (False, False)


def outcome(prober: Prober, legal: Sequence[Outcome]) -> Outcome:
    """On both families, of which one may be denied before the other. A machine that is busy answers late: what does not fit is
    asked again, with patience."""
    for wait in (0.2, 0.2, 1.0, 3.0):
        answer = prober.ask([80, 8080], [BOTH_ALLOW], wait)
        tcp, udp = answer["tcp"], answer["udp"]
        found = [next((one for one in legal if one == tuple(each)), None) for each in (tcp[:2], tcp[2:])]
        fits = all(one is DENIED or (one is not None and talks) for one, talks in zip(found, udp, strict=True))
        if fits and len({*found, DENIED} if DENIED in legal else set(found)) <= 1 + (DENIED in legal):
            return next((one for one in found if one is not DENIED and one is not None), DENIED)
    raise AssertionError(f"answers: {answer}; legal: {legal}")


@dataclass
class Case:
    """A command that is killed between two states. `mends`: what an operator may do next, each with what holds then;
    each ends in the state `before`, which `begin` makes of an empty machine. `denies`: on the way a device that goes, or an
    endpoint that comes or goes, is denied everything; where the new policy has other hooks, both must allow for a moment."""

    begin: list[list[str]]
    command: list[str]
    before: Outcome
    after: Outcome
    mends: list[list[tuple[list[str], Outcome]]]
    denies: bool = False

    @property
    def legal(self) -> list[Outcome]:
        return [self.before, self.after, *([DENIED] if self.denies else [])]


@dataclass
class Bench:
    site: Site
    operator: Operator
    machine: Machine
    prober: Prober

    def run(self, command: list[str]) -> None:
        """A command of which nothing is left is undone by another that may have had to do nothing."""
        if command[0] != "unload":
            self.operator.run(*command)
            return
        done = subprocess.run(
            self.operator.command(*command), env=self.operator.environment, capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0 or "nothing is loaded as" in done.stderr, done.stderr
        assert self.machine.snapshot() == ([], 0, [], {})

    def watch(self, *states: Outcome) -> None:
        """Forbidden packets count where all these states judge."""
        self.prober.forbid([] if UNJUDGED in states else FORBIDDEN)


@pytest.fixture
def bench(site: Site, operator: Operator, cgroup: Path) -> Iterator[Bench]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    echo = site.guest("api").start(sys.executable, "-c", UDP_ECHO, "5455", stdout=subprocess.PIPE)
    try:
        assert echo.stdout is not None
        assert echo.stdout.readline() == b"ready\n"
        with Prober(site, cgroup) as prober:
            yield Bench(site, operator, Machine(site, operator), prober)
    finally:
        end_process(echo)


def cases(operator: Operator, policy: Callable[[str], Path], cgroup: Path) -> dict[str, Case]:
    links = str(operator.endpoints(endpoint("web", interface="web"), endpoint("api", interface="api")))
    mixed = str(operator.endpoints(endpoint("web", cgroup=str(cgroup)), endpoint("api")))
    only_web = str(operator.endpoints(endpoint("web", cgroup=str(cgroup))))

    def load(text: str, *options: str) -> list[str]:
        return ["load", str(policy(text)), "--name", "shop", *options]

    unload = ["unload", "shop"]
    old = load(OLD, "--endpoints", mixed, "--attach", "workload:api+xdp=api", "--attach", "uplink:world")
    new = load(NEW, "--endpoints", links, "--attach", "uplink:world")
    add = ["endpoint", "add", "shop", "api", "--label", "app=api", "--interface", "api"]
    add += [word for v in (4, 6) for word in ("--address", address("api", v))]
    remove = ["endpoint", "remove", "shop", "api"]
    alone = load(OLD, "--endpoints", only_web)
    return {
        "load": Case([], new, UNJUDGED, BY_NEW, [[(new, BY_NEW), (unload, UNJUDGED)], [(unload, UNJUDGED)]]),
        "replace": Case([old], new, BY_OLD, BY_NEW, [[(old, BY_OLD)], [(unload, UNJUDGED), (old, BY_OLD)]], True),
        "replace back": Case([new], old, BY_NEW, BY_OLD, [[(new, BY_NEW)], [(unload, UNJUDGED), (new, BY_NEW)]], True),
        "unload": Case([old], unload, BY_OLD, UNJUDGED, [[(unload, UNJUDGED), (old, BY_OLD)], [(old, BY_OLD)]]),
        "add": Case(
            [alone], add, UNJUDGED, BY_OLD,
            [[(add, BY_OLD), (remove, UNJUDGED)], [(alone, UNJUDGED)], [(unload, UNJUDGED), (alone, UNJUDGED)]],
            True,
        ),
        "remove": Case(
            [alone, add], remove, BY_OLD, UNJUDGED,
            [[(add, BY_OLD)], [(unload, UNJUDGED), (alone, UNJUDGED), (add, BY_OLD)]],
            True,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["load", "replace", "replace back", "unload", "add", "remove"])
def test_killed(bench: Bench, policy: Callable[[str], Path], cgroup: Path, name: str) -> None:
    case = cases(bench.operator, policy, cgroup)[name]
    for command in case.begin:
        bench.run(command)
    points = kill_points.traced(bench.operator, case.command)
    outcome(bench.prober, [case.after])
    for command, then in case.mends[0][-1:]:
        bench.run(command)
        outcome(bench.prober, [then])
    chosen = kill_points.sample(points, name)
    for number, point in enumerate(chosen):
        told = f"{kill_points.told(name, point)}, {number + 1} of {len(chosen)}"
        bench.watch(case.before, case.after)
        kill_points.kill(bench.operator, case.command, point)
        try:
            outcome(bench.prober, case.legal)
            assert bench.prober.wrongs() == 0
            bench.operator.run("status", code=None)
            states = [case.before, case.after]
            for command, then in case.mends[number % len(case.mends)]:
                bench.watch(*states, then)
                states = [then]
                bench.run(command)
                outcome(bench.prober, [then])
                assert bench.prober.wrongs() == 0
        except AssertionError as error:
            raise AssertionError(f"{told}: {error}") from error
