"""Streams of requests that are judged on sockets of the running kernel as the reference evaluator judges them, with objects compiled elsewhere.

`streams.py --prepare FOLDER` compiles the policies; `streams.py FOLDER` loads each with the real commands into a scene of network namespaces and cgroups, plays its
streams on both IP versions, replaces one while connections live, and prints a line of JSON. Playing needs root and neither LLVM nor this machine's architecture."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from policyc.artifact import reader
from policyc.kernel_engine import compile_policy
from policyc.kernel_requests import Reports
from tests.e2e import talker
from tests.l7 import differential, differential_player, recorder
from tests.l7.agent import Agent
from tests.l7.differential_case import Case, Ground, RuleText, Segment, ground, of_corpus
from tests.l7.differential_player import Place
from tests.l7.place import LOAD, PORT, Scene
from tests.reference.http_corpus import CASES

PATIENCE = 10  # times that of a real machine; an emulated one is slow
CALL_S = 300
# Of the corpus: what is allowed, answered and closed, split, pipelined, chunked, upgraded, awaited, over the limit.
NAMES = (
    "a method of several", "another method", 'path "/a/**/d": /a/b/c/d', 'path "/**": /a%252e%252e/b',
    'host "**.example": a.b.example', 'header "A-B" absent: (\'A_B: 1\',)', 'query "k" "v w": /?k=v+w', "deny beats allow",
    "a rule without a block allows what no entry does", "TLS", "HTTP/1.0", "CL.TE", "a body on POST", "a body on GET", "Expect",
    "chunks b'a\\r\\n0123456789\\r\\nA\\r\\n0123456789\\r\\n0\\r\\n\\r\\n'", "chunks b'3;x=y\\r\\nabc\\r\\n'", "a body that turns out malformed, in pieces",
    "behind CONNECT nothing is HTTP", "behind Upgrade nothing is HTTP", "behind Upgrade before the answer", "Upgrade that nobody allows",
    "a head of 32 KiB", "a smaller limit", "a body has no limit", "nothing", "keep-alive", "pipelined", "denied: 403", "denied later: 403",
    "denied behind another in one write: closed", "denied, begun behind another: closed", "denied behind a body, later", "split in two",
    "byte by byte", "denied byte by byte", "incomplete",
)  # fmt: skip
PUBLIC = """\
policy api for { app == api } {
  ingress {
    allow from { app == web } on tcp/8080 http { GET "/public/**" }
  }
}
"""
PRIVATE = PUBLIC.replace("public", "private")
DENIED = {"403", "closed", "ConnectionResetError", "ConnectionAbortedError", "BrokenPipeError"}


def request(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: api", *lines, "", ""]).encode()


def routes() -> list[Case]:
    """Streams for a hundred routes, every tenth with a glob and a header of its own."""
    entries = tuple(
        f'GET "/r{n}/*/x" header "X-R" "v{n}"' if n % 10 == 0 else f'GET, POST "/r{n}/**"' for n in range(100)
    )
    rules = (RuleText("http", (*entries, 'deny * "/r7/secret"')),)
    asked = {
        "all that go by path": [request(f"/r{n}/a") for n in range(100) if n % 10],
        "globs": [request(f"/r{n}/b/x", f"X-R: v{n}") for n in range(0, 100, 10)],
        "another's header": [request("/r10/b/x", "X-R: v10"), request("/r20/b/x", "X-R: v10")],
        "no route": [request("/r7/a"), request("/r100/a")],
        "denied": [request("/r7/a"), request("/r7/secret")],
    }
    return [Case(f"routes: {name}", rules, tuple(map(Segment, all_))) for name, all_ in asked.items()]


def audited() -> list[Case]:
    """Streams that an audited block would deny, and of a rule beside it that is in force."""
    rules = (RuleText("http", ('GET "/public/**"',)), RuleText("http audit limit 256", ('deny GET "/public/old/**"',)))
    alone = (RuleText("http audit", ('GET "/public/**"',)),)
    paths = ("/public/a", "/public/old/a", "/public/b")
    return [
        Case("audit: beside another", rules, tuple(Segment(request(p)) for p in (*paths, "/private"))),
        Case("audit: a head over its limit", rules, (Segment(request("/public/a", "X: " + "x" * 300)),)),
        Case("audit: alone", alone, tuple(Segment(request(p)) for p in (*paths, "/private"))),
        Case("audit: alone, malformed", alone, (Segment(request("/public/a")), Segment(b"GET  /\r\n\r\n"))),
    ]


@dataclass(frozen=True)
class Site:
    """Cases that one policy judges: at the server, or (`egress`) at the client, by its cgroup alone or by its interface, too."""

    name: str
    cases: tuple[Case, ...]
    egress: bool = False
    bound: str = "cgroup"  # as in `Scene.endpoints`

    @property
    def ground(self) -> Ground:
        return ground(self.cases, self.egress)


CORPUS = tuple(of_corpus(case) for case in CASES if case.name in NAMES)
SITES = (
    Site("ingress", CORPUS),
    Site("audit, a hundred routes", (*routes(), *audited()), bound="both"),
    Site("egress", (*CORPUS, *routes()), egress=True),
    Site("egress at both", CORPUS, egress=True, bound="both"),
)
assert {case.name for case in CORPUS} == set(NAMES), set(NAMES) - {case.name for case in CORPUS}


def _object(folder: Path, name: str) -> Path:
    return folder / f"streams-{name.replace(', ', '-').replace(' ', '-')}.o"


def prepare(folder: Path) -> None:
    texts = {site.name: site.ground.text for site in SITES} | {"public": PUBLIC, "private": PRIVATE}
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        _object(folder, name).write_bytes(compile_policy(differential.checked(text)).object)


# --- playing ------------------------------------------------------------------------------------------------------------


@contextmanager
def loaded(scene: Scene, path: Path, **bound: str) -> Iterator[None]:
    scene.operator.load(path, "--endpoints", str(scene.endpoints(bound)), "--events", "all", name=LOAD)
    try:
        yield
    finally:
        scene.unload()


def be_patient() -> None:
    """Called in an agent: the player waits as long as this machine may take. The kernel's timers, by which connections are closed, are as fast as anywhere."""
    for name, times in (("STALLED_S", PATIENCE), ("LATE_S", PATIENCE), ("CLOSING_S", 2)):
        setattr(differential_player, name, getattr(differential_player, name) * times)


@dataclass
class Found:
    differences: list[str]
    answers: Counter[str]
    streams: int = 0


def play(scene: Scene, agent: Agent, folder: Path, site: Site, found: Found) -> None:
    path = _object(folder, site.name)
    artifact = reader.read(path.read_bytes())
    policy = differential.checked(site.ground.text)
    reports = Reports(artifact.manifest, artifact.policy)
    pins = scene.folder / "bpf" / LOAD
    scene.operator.run("load", str(path), "--name", LOAD, "--dry-run")  # verifies also what this scene does not attach
    places = [Place(f"/proc/{scene.namespace(n).pid}/ns/net", str(scene.groups[n])) for n in ("api", "web")]
    with loaded(scene, path, **{"web" if site.egress else "api": site.bound}):
        for version in (4, 6):
            ends = [scene.address(name, version) for name in ("api", "web")]
            agent.call(differential_player.open_player, *places, *ends, str(pins / "events"), str(pins / "lost"))
            judged = differential.Judge(policy, version, site.egress)
            ports = [site.ground.ports[case.rules] for case in site.cases]
            all_ = [
                differential.expect(case, port, judged.port(port), site.egress)
                for case, port in zip(site.cases, ports, strict=True)
            ]
            done = agent.call(differential_player.play, [e.script for e in all_], True, patience=CALL_S)
            agent.call(differential_player.close_player)
            found.streams += len(all_)
            for case, expected, seen in zip(site.cases, all_, done.seen, strict=True):
                different = differential.compare(expected, seen, reports, True)
                if different is not None:
                    found.differences.append(f"{site.name}, IPv{version}, {case.name}: {different}")
                found.answers.update(
                    f"{r.outcome.verdict} {r.outcome.reason} {r.answer or ''}".strip() for r in expected.requests
                )
            if done.lost:
                found.differences.append(f"{site.name}: {done.lost} events were lost")


def replaced(scene: Scene, folder: Path, found: Found) -> None:
    """The next request on a connection is judged by the policy that replaced its first."""
    scene.agent("api").call(recorder.start, recorder.Listening("::", PORT), patience=CALL_S)
    web = scene.agent("web")

    def ask(number: int, path: str) -> str:
        return web.call(talker.ask, number, path, 3.0 * PATIENCE, patience=CALL_S)

    def expect(what: str, answer: str, *right: str) -> None:
        found.streams += 1
        if answer not in right:
            found.differences.append(f"replaced, {what}: {answer}, should be {' or '.join(sorted(right))}")

    for version in (4, 6):
        with loaded(scene, _object(folder, "public"), api="cgroup"):
            first, second = (web.call(talker.connect, scene.address("api", version), PORT) for _ in range(2))
            expect("before", ask(first, "/public/a"), "200")
            scene.operator.load(_object(folder, "private"), name=LOAD)
            expect("a live connection", ask(first, "/private/a"), "200")
            expect("what was allowed before", ask(first, "/public/a"), *DENIED)
            expect("a connection that asked nothing yet", ask(second, "/public/a"), *DENIED)
            third = web.call(talker.connect, scene.address("api", version), PORT)
            expect("a new connection", ask(third, "/private/a"), "200")


def replay(folder: Path) -> dict[str, Any]:
    began = time.monotonic()
    found = Found([], Counter())
    with tempfile.TemporaryDirectory() as made, Scene(Path(made)) as scene:
        agent = scene.agent("web")
        agent.call(be_patient, patience=CALL_S)
        for site in SITES:
            play(scene, agent, folder, site, found)
        scene.rest()
        replaced(scene, folder, found)
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "streams": found.streams,
        "answers": dict(sorted(found.answers.items())),
        "differences": found.differences,
        "seconds": round(time.monotonic() - began, 1),
    }


def main(arguments: Sequence[str]) -> int:
    if arguments[0] == "--prepare":
        prepare(Path(arguments[1]))
        return 0
    result = replay(Path(arguments[0]))
    print(json.dumps(result))
    return 1 if result["differences"] else 0


if __name__ == "__main__":
    from tests.kernels import streams  # by its name, under which an agent knows its functions, too

    sys.exit(streams.main(sys.argv[1:]))
