"""Protects the rig: who asks reaches who serves, from the cgroups and namespaces that the tests think, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.l7 import raw, recorder
from tests.l7.agent import Silent
from tests.l7.place import PORT, Scene

pytestmark = pytest.mark.bpf
REQUEST = b"GET /a HTTP/1.1\r\nHost: api\r\n\r\n"
POLICY = "policy api for { app == api } { ingress { allow from { app == web } on tcp/8080 as pages } }"


def group_of(pid: int) -> str:
    return next(line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::"))[3:]


@pytest.mark.parametrize("kind", ["scene", "on_loopback"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_recorder_sees_what_was_sent(kind: str, version: int, request: pytest.FixtureRequest) -> None:
    place: Scene = request.getfixturevalue(kind)
    api, web = place.agent("api"), place.agent("web")
    assert group_of(web.pid).endswith("/web")
    assert group_of(api.pid).endswith("/api")
    number = api.call(recorder.start, recorder.Listening("::", PORT))
    plan = raw.Plan(
        place.address("api", version), PORT, (REQUEST[:9], REQUEST[9:] + REQUEST), source=place.address("web", version)
    )
    done = web.call(raw.exchange, plan)
    (seen,) = api.call(recorder.records, number)
    place.rest()
    assert (done.answers, done.end) == ([200, 200], "open")
    assert seen.port == done.port
    assert seen.data == REQUEST * 2
    assert [(r.method, r.target) for r in seen.requests] == [("GET", "/a")] * 2


@pytest.mark.parametrize("mode", ["keep-alive", "slow", "chunked", "close", "silent"])
def test_modes_of_the_recorder(scene: Scene, mode: recorder.Mode) -> None:
    api, web = scene.agent("api"), scene.agent("web")
    api.call(recorder.start, recorder.Listening("::", PORT, mode))
    done = web.call(raw.exchange, raw.Plan(scene.address("api"), PORT, (REQUEST * 2,)))
    scene.rest()
    expected = {"close": ([200], {"eof", "reset"}), "silent": ([], {"open"})}
    answers, ends = expected.get(mode, ([200, 200], {"open"}))
    assert done.answers == answers
    assert done.end in ends


@pytest.mark.parametrize("kind", ["scene", "on_loopback"])
def test_a_policy_judges_here(kind: str, request: pytest.FixtureRequest) -> None:
    place: Scene = request.getfixturevalue(kind)
    api, web, world = place.agent("api"), place.agent("web"), place.agent("world")
    api.call(recorder.start, recorder.Listening("::", PORT))
    with place.loaded(POLICY):
        done = [
            agent.call(raw.exchange, raw.Plan(place.address("api"), PORT, (REQUEST,), source=place.address(name)))
            for name, agent in (("web", web), ("world", world))
        ]
        events = [(e["verdict"], e["ref"]) for e in place.events() if e["dst"]["endpoint"] == "api"]
    place.rest()
    assert [(d.answers, d.end) for d in done] == [([200], "open"), ([], "TimeoutError")]
    assert ("allow", "api.pages") in events
    assert "deny" in {verdict for verdict, _ in events}


def test_an_agent_that_does_not_answer(scene: Scene) -> None:
    agent = scene.agent("web")
    with pytest.raises(Silent):
        agent.call(time.sleep, 60, patience=0.1)
    scene.rest()


def test_what_a_function_raises_comes_back(scene: Scene) -> None:
    agent = scene.agent("web")
    with pytest.raises(FileNotFoundError):
        agent.call(os.stat, "/nowhere")
    assert agent.call(os.getpid) == agent.pid
    scene.rest()


def test_nothing_stays_behind(tmp_path: Path) -> None:
    with Scene(tmp_path) as made:
        agent, top = made.agent("api"), made.groups.top
        made.agent("web", group="outside")
        assert top.is_dir()
    assert not top.exists()
    assert not Path(f"/proc/{agent.pid}").exists()


def held() -> tuple[set[tuple[str, str]], set[str]]:
    """The descriptors that this process has open, with what they are, and its children."""
    own = Path("/proc/self/fd")
    numbers = os.listdir(own)  # among them that of this listing itself, which is gone
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {(n, os.readlink(own / n)) for n in numbers if (own / n).is_symlink()}, set(children)


def test_a_scene_leaves_no_descriptors_and_no_children(tmp_path: Path) -> None:
    """Nor do agents and programs once they rest, also where they end in the middle of a call: hundreds of tests share a process."""
    before = held()
    with Scene(tmp_path) as made:
        alone = held()
        for _ in range(2):
            api, web = made.agent("api"), made.agent("web")
            made.start("api", "sleep", "60", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            api.call(recorder.start, recorder.Listening("::", PORT))
            with made.loaded(POLICY):
                made.events()
            api.begin(os.kill, api.pid, signal.SIGKILL)
            with pytest.raises(Silent):
                api.result()
            with pytest.raises(Silent):
                api.call(raw.statuses, b"more than is written at once" * 10_000)
            with pytest.raises(Silent):
                web.call(time.sleep, 60, patience=0.0)
            made.rest()
            assert held() == alone
    assert held() == before
