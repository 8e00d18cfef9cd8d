"""Protects policies with L7 rules as an operator has them: loaded, replaced, watched, refused and unloaded while connections live."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import talker
from tests.l7 import recorder
from tests.l7.agent import Agent
from tests.l7.place import LOAD, PORT, Scene

pytestmark = pytest.mark.bpf

PUBLIC = """\
policy api for { app == api } {
  ingress {
    allow from { app == web } on tcp/8080 http {
      GET "/public/**"
      deny GET "/public/secret"
    } as pages
  }
}
"""
PRIVATE = PUBLIC.replace('GET "/public/**"', 'GET "/private/**"')
OPEN = PUBLIC.split(" http {")[0] + " as pages\n  }\n}\n"
RESET = {"ConnectionResetError", "ConnectionAbortedError", "BrokenPipeError"}
DENIED = {"403", "closed", *RESET}  # what may become of a denied request behind others


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("streams")) as made:
        yield made


@pytest.fixture
def scene(shared: Scene) -> Iterator[Scene]:
    yield shared
    shared.rest()
    shared.unload()


@pytest.fixture
def web(scene: Scene) -> Agent:
    """Who asks; `api` serves."""
    scene.agent("api").call(recorder.start, recorder.Listening("::", PORT))
    return scene.agent("web")


def connect(scene: Scene, agent: Agent, version: int = 4) -> int:
    return agent.call(talker.connect, scene.address("api", version), PORT)


def status(scene: Scene) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(scene.operator.run("status", LOAD, "--format", "json", code=None).stdout)
    (load,) = found["loads"]
    return load


def replace(scene: Scene, text: str) -> str:
    """Its warnings."""
    return scene.operator.run("load", str(scene.compile(text)), "--name", LOAD, "--events", "all").stderr


def leftovers(scene: Scene) -> list[str]:
    """Pins and state files. bpffs itself brings two files that end in `.debug`."""
    found = scene.network.machine.run(
        "find", str(scene.folder / "bpf"), "-type", "f", "-o", "-type", "l"
    ).stdout.split()
    return [f for f in found if not f.endswith(".debug")]


# --- what is seen ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_requests_in_monitor_and_counters(scene: Scene, web: Agent, version: int) -> None:
    scene.load(PUBLIC)
    one, two = connect(scene, web, version), connect(scene, web, version)
    assert [web.call(talker.ask, one, path) for path in ("/public/a?token=geheim", "/public/")] == ["200", "200"]
    assert web.call(talker.ask, connect(scene, web, version), "/public/secret") == "403"
    assert web.call(talker.send, two, b"\x16\x03\x01\x00\x05hello") in DENIED
    shown = scene.operator.run("monitor", LOAD, "--timeout", "0.5", "--type", "l7").stdout
    assert "geheim" not in shown
    lines = shown.splitlines()
    assert lines[:3] == [
        "([app=web]) => ([app=api]) http GET http://api/public/a Forwarded  e2e.pol:4:7",
        "([app=web]) => ([app=api]) http GET http://api/public/ Forwarded  e2e.pol:4:7",
        "([app=web]) => ([app=api]) http GET http://api/public/secret Denied (l7-entry) 403  e2e.pol:5:7",
    ]
    assert "Denied (l7-malformed: TLS ClientHello) " in lines[3]
    found = scene.operator.json("counters", LOAD)
    assert {e["ref"]: e["requests"] for e in found["entries"]} == {"api.pages.1": 2, "api.pages.2": 1}


def test_filters(scene: Scene, web: Agent) -> None:
    scene.load(PUBLIC)
    for path in ("/public/a", "/public/b/c", "/public/secret"):
        web.call(talker.ask, connect(scene, web), path)
    command = [
        "monitor",
        LOAD,
        "--timeout",
        "0.5",
        "--format",
        "json",
        "--from-selector",
        "app=web,!zone",
        "--verdict",
        "allow",
    ]
    lines = scene.operator.run(
        *command, "--path", "/public/*", "--port", str(PORT), "--method", "GET"
    ).stdout.splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["/public/a"]


def test_status_names_what_is_attached(scene: Scene, web: Agent) -> None:
    scene.load(PUBLIC)
    number = connect(scene, web)
    web.call(talker.ask, number, "/public/a")
    found = status(scene)
    group = scene.groups["api"]
    assert (found["healthy"], found["judged_streams"]) == (True, 1)
    assert {p["point"]: p["attached"] for p in found["points"]}[f"streams:{group}=api"] is True
    links = scene.folder / "bpf" / LOAD / "links"
    scene.network.machine.run("sh", "-c", f"rm {links}/cgroup-streams-*", check=True)
    found = status(scene)
    assert found["healthy"] is False
    assert {p["point"]: p["attached"] for p in found["points"]}[f"streams:{group}=api"] is False
    replace(scene, PUBLIC)
    assert status(scene)["healthy"] is True


# --- while connections live -----------------------------------------------------------------------------------------------


def test_the_next_request_is_judged_by_the_new_policy(scene: Scene, web: Agent) -> None:
    scene.load(PUBLIC)
    number, begun = connect(scene, web), connect(scene, web)
    assert web.call(talker.ask, number, "/public/a") == "200"
    for text, path in ((PRIVATE, "/private/a"), (PUBLIC, "/public/a"), (PRIVATE, "/private/a")):
        assert "reset" not in replace(scene, text)
        assert web.call(talker.ask, number, path) == "200"
    assert web.call(talker.ask, begun, "/public/a") in DENIED
    assert web.call(talker.ask, number, "/public/a") in DENIED


def test_a_head_under_way_is_finished_by_its_own_policy(scene: Scene, web: Agent) -> None:
    scene.load(PUBLIC)
    number, twice = connect(scene, web), connect(scene, web)
    head = talker.request("/public/a")
    for one in (number, twice):
        assert web.call(talker.send, one, head[:9], 0.2) == "TimeoutError"
    replace(scene, PRIVATE)
    assert web.call(talker.send, number, head[9:]) == "200"
    assert web.call(talker.ask, number, "/public/a") in DENIED
    replace(scene, PUBLIC)
    assert web.call(talker.send, twice, head[9:], 5.0) in DENIED


def test_older_connections_are_reset(scene: Scene, web: Agent) -> None:
    number = connect(scene, web)
    assert web.call(talker.ask, number, "/x") == "200"
    done = scene.operator.run(
        "load", str(scene.compile(PUBLIC)), "--name", LOAD, "--endpoints", str(scene.endpoints({"api": "cgroup"}))
    )
    assert "1 socket was reset" in done.stderr
    assert web.call(talker.state, number) in RESET
    assert web.call(talker.ask, connect(scene, web), "/public/a") == "200"


def test_a_label_that_brings_rules_resets(scene: Scene, web: Agent) -> None:
    text = PUBLIC + "policy other for { app == other } { ingress { allow from any on tcp/8080 } }\n"
    scene.load(text)
    where = [
        "--address",
        scene.address("api"),
        "--address",
        scene.address("api", 6),
        "--cgroup",
        str(scene.groups["api"]),
    ]
    scene.operator.run("endpoint", "add", LOAD, "api", *where, "--label", "app=other")
    number = connect(scene, web)
    assert web.call(talker.ask, number, "/x") == "200"
    done = scene.operator.run("endpoint", "add", LOAD, "api", *where, "--label", "app=api")
    assert "1 socket was reset" in done.stderr
    assert web.call(talker.state, number) in RESET
    assert web.call(talker.ask, connect(scene, web), "/public/a") == "200"


def test_to_a_policy_without_blocks_and_back(scene: Scene, web: Agent) -> None:
    scene.load(PUBLIC)
    number = connect(scene, web)
    assert web.call(talker.ask, number, "/public/a") == "200"
    replace(scene, OPEN)
    assert web.call(talker.state, number) in RESET
    number = connect(scene, web)
    assert web.call(talker.ask, number, "/x") == "200"
    assert "1 socket was reset" in replace(scene, PUBLIC)
    assert web.call(talker.state, number) in RESET
    assert web.call(talker.ask, connect(scene, web), "/public/a") == "200"


def test_an_endpoint_brings_its_cgroup_and_takes_it_away(scene: Scene, web: Agent) -> None:
    scene.load(PUBLIC, web="", api="")
    assert web.call(talker.ask, connect(scene, web), "/x") == "200"
    labels = ["--address", scene.address("api"), "--label", "app=api"]
    scene.operator.run("endpoint", "add", LOAD, "api", *labels, "--cgroup", str(scene.groups["api"]))
    assert [web.call(talker.ask, connect(scene, web), path) for path in ("/public/a", "/x")] == ["200", "403"]
    scene.operator.run("endpoint", "add", LOAD, "api", *labels)
    assert web.call(talker.ask, connect(scene, web), "/x") == "200"
    assert status(scene)["healthy"] is True


def test_unload_resets_and_leaves_nothing(scene: Scene, web: Agent) -> None:
    scene.load(PUBLIC, web="cgroup", api="both")
    number = connect(scene, web)
    assert web.call(talker.ask, number, "/public/a") == "200"
    scene.operator.run("unload", LOAD)
    assert web.call(talker.state, number) in RESET
    assert leftovers(scene) == []
    assert web.call(talker.ask, connect(scene, web), "/x") == "200"


# --- what is refused ------------------------------------------------------------------------------------------------------


def test_bound_by_interface_only(scene: Scene, web: Agent) -> None:
    built, file = str(scene.compile(PUBLIC)), str(scene.endpoints({"api": "interface"}))
    refused = scene.operator.run("load", built, "--name", LOAD, "--endpoints", file, code=2)
    assert "endpoint 'api' is bound by interface only" in refused.stderr
    assert "--l7-deny" in refused.stderr
    done = scene.operator.run("load", built, "--name", LOAD, "--endpoints", file, "--l7-deny", "--events", "all")
    assert "api, by api.pages: bound by interface only" in done.stderr
    assert web.call(talker.ask, connect(scene, web), "/public/a", 0.5) == "TimeoutError"
    assert "l7-not-seen" in {e["reason"] for e in scene.events()}


def test_an_interface_with_a_cgroup(scene: Scene, web: Agent) -> None:
    scene.load(PUBLIC, api="both")
    assert [web.call(talker.ask, connect(scene, web), path) for path in ("/public/a", "/x")] == ["200", "403"]


def test_endpoint_commands_refuse_the_same(scene: Scene) -> None:
    scene.load(PUBLIC, web="", api="")
    labels = ["--address", scene.address("api"), "--label", "app=api", "--interface", "api"]
    assert "--l7-deny" in scene.operator.run("endpoint", "add", LOAD, "api", *labels, code=2).stderr
    assert (
        "--l7-deny"
        in scene.operator.run("endpoint", "apply", LOAD, str(scene.endpoints({"api": "interface"})), code=2).stderr
    )
    scene.operator.run("endpoint", "add", LOAD, "api", *labels, "--l7-deny")
    scene.operator.run("endpoint", "add", LOAD, "more", "--address", "192.0.2.9", "--label", "app=none")


def test_one_load_judges_the_streams_of_a_cgroup(scene: Scene) -> None:
    scene.load(PUBLIC)
    built = str(scene.compile(PRIVATE))
    refused = scene.operator.run(
        "load", built, "--name", "second", "--endpoints", str(scene.endpoints({"api": "cgroup"})), code=2
    )
    assert f"load '{LOAD}' judges the streams of cgroup {scene.groups['api']}" in refused.stderr
    scene.operator.run(
        "load", str(scene.compile(OPEN)), "--name", "second", "--endpoints", str(scene.endpoints({"api": "cgroup"}))
    )


# --- who sends is judged --------------------------------------------------------------------------------------------------

EGRESS = """\
policy web for { app == web } {
  egress { allow to { app == api } on tcp/8080 http { GET "/public/**" } as pages }
}
"""


def test_a_client_under_policy(scene: Scene, web: Agent) -> None:
    """An older connection is reset, the others are judged before bytes leave; the monitor tells both ends as on the wire."""
    number = connect(scene, web)
    assert web.call(talker.ask, number, "/x") == "200"
    built, file = str(scene.compile(EGRESS)), str(scene.endpoints({"web": "cgroup"}))
    done = scene.operator.run("load", built, "--name", LOAD, "--endpoints", file, "--events", "all")
    assert "1 socket was reset" in done.stderr
    assert web.call(talker.state, number) in RESET
    number = connect(scene, web)
    assert [web.call(talker.ask, number, "/public/a"), web.call(talker.ask, connect(scene, web), "/x")] == [
        "200",
        "403",
    ]
    shown = scene.operator.run("monitor", LOAD, "--timeout", "0.5", "--type", "l7", "--from-selector", "app=web").stdout
    assert shown.splitlines() == [
        "([app=web]) => ([app=api]) http GET http://api/public/a Forwarded  e2e.pol:2:55",
        "([app=web]) => ([app=api]) http GET http://api/x Denied (l7-no-entry) 403  e2e.pol:2:12",
    ]
    scene.operator.run("unload", LOAD)
    assert web.call(talker.state, number) in RESET
    assert leftovers(scene) == []
