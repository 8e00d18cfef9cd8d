"""Protects real clients and servers behind a policy: what is allowed works as if nobody judged, byte for byte, and what is refused says why."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.l7 import asking, servers
from tests.l7.place import PORT, Scene

pytestmark = pytest.mark.bpf
Ask = Callable[[str, list[str]], list[int | str]]
POLICY = """\
policy api for { app == api } {
  ingress {
    allow from { app == web } on tcp/8080-8099 http {
      GET, HEAD, POST "/public/**"
      GET, PUT "/files/**"
      GET "/live" upgrade "websocket"
      deny * "/public/internal/**"
    } as pages
  }
}
"""
OUTWARDS = """\
policy web for { app == web } {
  egress {
    allow to { app == api } on tcp/8080-8099 http {
      GET, HEAD, POST "/public/**"
      GET, PUT "/files/**"
      GET "/live" upgrade "websocket"
      deny * "/public/internal/**"
    } as pages
  }
}
"""
SIDES = {"ingress": (POLICY, {"api": "cgroup"}), "egress": (OUTWARDS, {"web": "cgroup"})}
BIG = 48 << 20  # bytes
CURL_EMPTY, CURL_RESET = 52, 56  # exit codes: closed without an answer


@pytest.fixture(scope="module", params=SIDES)
def side(scene: Scene, request: pytest.FixtureRequest) -> Iterator[str]:
    text, bound = SIDES[request.param]
    scene.load(text, **bound)
    yield request.param
    scene.unload()


@pytest.fixture
def server(scene: Scene, side: str) -> Iterator[Callable[..., servers.Server]]:
    """Starts one by name; all are ended after the test."""

    def start(name: str, port: int = PORT, **more: object) -> servers.Server:
        try:
            return servers.start(name, scene, port, **more)
        except servers.Missing as reason:
            pytest.skip(str(reason))

    yield start
    scene.rest()


def curl(scene: Scene, path: str, *options: str, scheme: str = "http") -> tuple[int, str]:
    """Exit code and status."""
    url = f"{scheme}://{scene.address('api')}:{PORT}{path}"
    done = scene.run("web", "curl", "-sk", "-m", "8", "-o", "/dev/null", "-w", "%{http_code}", *options, url)
    return done.returncode, done.stdout


def blocking(name: str, side: str) -> bool:
    """Whether the server decides if a 403 is lost: one that goes out is judged at the client."""
    return name in servers.BLOCKING and side == "ingress"


@pytest.mark.parametrize(
    ("came", "blocking", "said", "plays"),
    [
        (["closed", "closed", "403"], True, "403", 3),
        (["closed", "200"], True, "200", 2),
        (["200", "403"], True, "200", 1),
        (["TimeoutError", "403"], True, "TimeoutError", 1),
        (["closed"] * 9, True, "closed", 1 + servers.AGAIN),
        (["closed", "403"], False, "closed", 1),
    ],
)
def test_only_what_was_lost_is_asked_again(came: list[str], blocking: bool, said: str, plays: int) -> None:
    """These tests themselves: what is served, hangs, or is never answered fails, and so does what event loops lose."""
    left = list(came)
    assert servers.answered(lambda: left.pop(0), "closed".__eq__, blocking) == said
    assert len(came) - len(left) == plays


def saw(scene: Scene) -> list[object]:
    """What the events of denied requests say was seen."""
    return [e.get("saw") or (e.get("http") or {}).get("saw") for e in scene.events() if e["verdict"] == "deny"]


@pytest.mark.parametrize("name", [*servers.NAMES, *servers.OTHERS])
def test_curl(scene: Scene, side: str, server: Callable[..., servers.Server], name: str) -> None:
    server(name)

    def refused(path: str, *options: str) -> tuple[int, str]:
        return servers.answered(
            lambda: curl(scene, path, *options),
            lambda said: said[0] in (CURL_EMPTY, CURL_RESET) and said[1] == "000",
            blocking(name, side),
        )

    assert curl(scene, "/public/a") == (0, "200")
    assert curl(scene, "/public/a", "-I") == (0, "200")
    assert curl(scene, "/public/a", "-d", "hello") == (0, "200")
    assert refused("/public/internal/key") == (0, "403")
    assert refused("/private") == (0, "403")
    assert refused("/public/../private", "--path-as-is") == (0, "403")


def node_client() -> list[str]:
    return [servers.installed("node"), str(servers.PROGRAMS / "node_client.js")]


def go_client() -> list[str]:
    return [str(servers.built_go_server()), "-ask"]


CLIENTS: dict[str, Callable[[], Ask]] = {
    "requests": lambda: asking.with_requests,
    "httpx": lambda: asking.with_httpx,
    "node": lambda: partial(asking.with_program, node_client()),
    "go": lambda: partial(asking.with_program, go_client()),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", [*servers.NAMES, *servers.OTHERS])
def test_a_session(scene: Scene, side: str, server: Callable[..., servers.Server], name: str, client: str) -> None:
    """A denied request costs its connection, and the client's next goes on another."""
    server(name)
    ask = CLIENTS[client]()
    paths = ["/public/a", "/public/b", "/public/internal/key", "/public/c"]
    base = f"http://{scene.address('api')}:{PORT}"
    web = scene.agent("web")
    lost = [200, 200, asking.CLOSED, 200]
    said = servers.answered(lambda: web.call(ask, base, paths), lost.__eq__, blocking(name, side))
    assert said == [200, 200, 403, 200]


def test_http2_and_tls_are_refused(scene: Scene, server: Callable[..., servers.Server]) -> None:
    server("nginx")
    scene.events()
    for what, options, scheme in (
        ("Upgrade that no entry allows", ["--http2"], "http"),
        ("HTTP/2 preface", ["--http2-prior-knowledge"], "http"),
        ("TLS ClientHello", [], "https"),
    ):
        _, status = curl(scene, "/public/a", *options, scheme=scheme)
        assert status in ("000", "403"), what
        assert what in saw(scene)


@pytest.mark.parametrize("workers", [0, 2])
def test_wrk(scene: Scene, server: Callable[..., servers.Server], workers: int) -> None:
    server("nginx", workers=workers, reuseport=bool(workers))
    url = f"http://{scene.address('api')}:{PORT}/public/a"
    said = scene.run("web", "wrk", "-t1", "-c32", "-d2s", url).stdout
    assert re.search(r"\d+ requests in", said)
    assert "Socket errors" not in said, said
    assert "Non-2xx" not in said, said


def test_a_reverse_proxy(scene: Scene, server: Callable[..., servers.Server]) -> None:
    """Go's, whose own requests are judged where it is judged."""
    server("go", PORT + 1)
    server("go", proxy=f"http://{scene.address('api')}:{PORT + 1}")
    assert curl(scene, "/public/a") == (0, "200")
    assert curl(scene, "/public/a", "-d", "x" * 100_000) == (0, "200")
    assert curl(scene, "/public/internal/key") == (0, "403")


def test_a_listener_of_mptcp_works_or_is_refused(scene: Scene, server: Callable[..., servers.Server]) -> None:
    """Go listens with it by itself."""
    made = server("go", mptcp=True)
    assert curl(scene, "/public/internal/key")[1] in ("403", "000")
    assert not [one for seen in made.settled().values() for one in seen]


def test_large_files_are_exact(scene: Scene, server: Callable[..., servers.Server], tmp_path: Path) -> None:
    root = server("nginx", workers=2).log.parent / "root" / "files"
    sent, got = tmp_path / "sent", tmp_path / "got"
    sent.write_bytes(os.urandom(1 << 20) * (BIG >> 20))
    url = f"http://{scene.address('api')}:{PORT}/files/big"
    for _ in range(2):
        done = scene.run("web", "curl", "-sf", "-m", "60", "-H", "Expect:", "-T", str(sent), url)
        assert done.returncode == 0, done
        assert asking.digest(str(root / "big")) == asking.digest(str(sent))
        done = scene.run("web", "curl", "-sf", "-m", "60", "-o", str(got), url)
        assert done.returncode == 0, done
        assert asking.digest(str(got)) == asking.digest(str(sent))


@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Transfer-Encoding: chunked"])
def test_uploads_that_wait_and_chunked_ones(
    scene: Scene, server: Callable[..., servers.Server], tmp_path: Path, expect: str
) -> None:
    made = server("go")
    sent = tmp_path / "sent"
    sent.write_bytes(os.urandom(3 << 20))
    assert curl(scene, "/public/up", "-X", "POST", "-H", expect, "-T", str(sent)) == (0, "200")
    (seen,) = (one for seen in made.settled().values() for one in seen)
    assert seen.length == 3 << 20


def test_a_websocket(scene: Scene, side: str) -> None:
    program = str(servers.PROGRAMS / "websocket_server.py")
    scene.start("api", "python3", program, "::", str(PORT))
    scene.namespace("api").wait_for_listeners([PORT])
    messages = [b"hello", b"GET /private HTTP/1.1\r\n\r\n", os.urandom(200_000)]
    try:
        assert scene.agent("web").call(asking.over_websocket, scene.address("api"), PORT, messages) == messages
    finally:
        scene.rest()
