"""Protects the judge of streams from what happens between a verdict and the wire: bytes that nobody judged, bytes that are sent twice, ends that come early."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from policyc.codegen.stream_programs import SPOILER
from tests.l7 import attacks, crowds, pollers, recorder, senders, servers, wire
from tests.l7.agent import Agent
from tests.l7.evasion import ALLOWED, FORBIDDEN, POLICIES
from tests.l7.place import SPARE, Scene, link_address

pytestmark = pytest.mark.bpf
PORTS = itertools.count(8080)
UPLOADS = POLICIES["egress"].replace("GET", "GET, POST")
CONNECTS = POLICIES["ingress"].replace('{ GET "/public/**"', '{\n  CONNECT "a:1"\n  GET "/public/**"')
AUDITED = POLICIES["ingress"].replace("http {", "http audit {")
ELSEWHERE = (
    POLICIES["ingress"]
    .replace("tcp/8080-8199 http", "tcp/9000 http")
    .replace("as plain", "as plain\n    allow from { app == web } on tcp/8080-8199")
)
POSTS = POLICIES["ingress"].replace("GET", "GET, POST")
CHANGED = (POSTS + "\n# two\n", POSTS + "\n# three\n")
TOKEN, EVIL = (
    POLICIES["ingress"].replace('"/public/**", "/Xforbidden"', f'"/public/**" header {condition}')
    for condition in ('"X-Token" "good"', '"X-Evil" absent')
)
TEXTS = (*POLICIES.values(), UPLOADS, CONNECTS, AUDITED, ELSEWHERE, POSTS, *CHANGED, TOKEN, EVIL)
assert len(set(TEXTS)) == len(TEXTS), "a replacement has replaced nothing"


@pytest.fixture(scope="module")
def egress(scene: Scene) -> Iterator[Scene]:
    with scene.loaded(UPLOADS, web="cgroup"):
        yield scene


@pytest.fixture(scope="module")
def ingress(scene: Scene) -> Iterator[Scene]:
    with scene.loaded(POLICIES["ingress"], api="cgroup"):
        yield scene


class Server:
    """A recorder at a port of its own; `targets` are those of all requests that it read."""

    def __init__(self, scene: Scene, mode: recorder.Mode = "keep-alive") -> None:
        self.port, self.address = next(PORTS), scene.address("api")
        self._agent: Agent = scene.agent("api")
        how = recorder.Listening("::", self.port, mode, fastopen=16)
        self._number = self._agent.call(recorder.start, how)

    def connections(self) -> list[recorder.Connection]:
        time.sleep(0.1)
        return self._agent.call(recorder.records, self._number)

    def targets(self) -> list[str]:
        return [request.target for c in self.connections() for request in c.requests]


@pytest.fixture(autouse=True)
def _rest(scene: Scene) -> Iterator[None]:
    yield
    scene.rest()


@contextmanager
def full(scene: Scene, table: str) -> Iterator[None]:
    """A stream table without room."""
    inside, pins = Agent(scene.network.machine), scene.operator.environment["POLICYC_BPFFS"]
    scene.agents.append(inside)
    keys = inside.call(crowds.fill, pins, table, patience=120)
    try:
        yield
    finally:
        inside.call(crowds.take_out, pins, table, keys, patience=120)


def tried_without_room(scene: Scene, table: str) -> list[str]:
    """What a server was asked for that allowed and denied requests are sent to while a table is full, and then an allowed one once more."""
    server, web = Server(scene), scene.agent("web")
    with full(scene, table):
        for payload in (ALLOWED, FORBIDDEN):
            web.call(senders.plain, server.address, server.port, payload)
        assert server.targets() == []
    web.call(senders.plain, server.address, server.port, ALLOWED)
    return server.targets()


# --- at a client ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["streams", "marks4"])
def test_a_client_without_room_in_a_table_is_refused(egress: Scene, table: str) -> None:
    assert tried_without_room(egress, table) == ["/public/a"]


def test_what_a_denied_syn_carried_is_not_let_out_for_what_is_sent_later(egress: Scene) -> None:
    server = Server(egress)
    egress.agent("web").call(attacks.fast_open_then, server.address, server.port, FORBIDDEN, ALLOWED * 1000)
    assert "/forbidden" not in server.targets()


@pytest.mark.parametrize("more", [False, True])
def test_what_was_sent_while_connecting_is_not_let_out_for_what_is_sent_later(egress: Scene, more: bool) -> None:
    server, web = Server(egress), egress.agent("web")
    with egress.cut():
        web.begin(attacks.wait_to_connect_then, server.address, server.port, FORBIDDEN, ALLOWED * 1000, more)
        time.sleep(0.3)
    web.result()
    assert "/forbidden" not in server.targets()


def test_a_send_that_was_taken_in_part_does_not_open_the_way_for_others(egress: Scene) -> None:
    server = Server(egress, "silent")
    first, second = egress.agent("web").call(
        attacks.taken_in_part_then, server.address, server.port, ALLOWED, FORBIDDEN
    )
    assert first < len(ALLOWED) * 20000, "the send was taken whole: nothing is shown"
    assert set(server.targets()) == {"/public/a"}, second


def chunks(body: bytes, size: int) -> bytes:
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [None, 700, 5000, 16_384, 100_000])
def test_an_upload_that_does_not_wait_arrives_whole(egress: Scene, size: int | None) -> None:
    """Sends are taken in part wherever the kernel has no more room: in a chunk, or between two."""
    server, body = Server(egress), b"0123456789abcdef" * (50_000 if size == 700 else 250_000)
    framing = b"Content-Length: %d" % len(body) if size is None else b"Transfer-Encoding: chunked"
    head = b"POST /public/a HTTP/1.1\r\nHost: api\r\n" + framing + b"\r\n\r\n"
    sent = body if size is None else chunks(body, size)
    for _ in range(1 if size is None else 5):
        answer = egress.agent("web").call(attacks.upload_without_waiting, server.address, server.port, head, sent)
        assert answer.startswith(b"HTTP/1.1 200 ")
    for connection in server.connections():
        assert [request.body == body for request in connection.requests] == [True]


# --- at a server ---------------------------------------------------------------------------------------------------------


def _line(scene: Scene, server: Server) -> wire.Line:
    scene.give_spare()
    return wire.Line(SPARE, server.address, server.port, link_address(scene.network.machine, "web"))


@pytest.mark.parametrize("table", ["streams", "marks4"])
def test_a_connection_without_room_in_a_table_is_refused(ingress: Scene, table: str) -> None:
    assert tried_without_room(ingress, table) == ["/public/a"]


def test_a_request_whose_end_comes_with_the_fin_is_served(ingress: Scene) -> None:
    server = Server(ingress)
    for at in (1, len(ALLOWED) - 2):
        said = ingress.agent("web").call(attacks.rest_with_fin, server.address, server.port, ALLOWED, at)
        assert said == "answered", at


@pytest.mark.parametrize("fin", [False, True])
def test_bytes_that_are_sent_again_with_new_ones_are_read_once(ingress: Scene, fin: bool) -> None:
    server, web = Server(ingress), ingress.agent("web")
    line = _line(ingress, server)
    for back in (1, 10, 20):
        assert web.call(attacks.sent_again, line, ALLOWED, 20, back, fin) == "answered", back
    assert {c.data for c in server.connections()} == {ALLOWED}


def test_a_fin_that_overtakes_a_part_of_the_request_does_not_end_it(ingress: Scene) -> None:
    server = Server(ingress)
    assert ingress.agent("web").call(attacks.fin_overtakes, _line(ingress, server), ALLOWED, 20) == "answered"
    assert server.targets() == ["/public/a"]


def test_a_part_of_a_head_with_a_fin_does_not_end_it(ingress: Scene) -> None:
    """Some servers take the end of a stream for that of a head: what no head may have is before it where the FIN comes in one segment with a part."""
    server, web = Server(ingress), ingress.agent("web")
    for at in (1, 20):
        web.call(attacks.rest_with_fin, server.address, server.port, ALLOWED[:-2], at)
    assert server.targets() == []
    assert all(c.end != "eof" or c.data.endswith(SPOILER) for c in server.connections())


def test_a_client_that_ends_within_a_head_frees_its_place(ingress: Scene) -> None:
    server, web = Server(ingress), ingress.agent("web")
    for at in (1, 20, len(ALLOWED) - 1):
        web.call(attacks.fin_behind, server.address, server.port, ALLOWED[:at])
    assert [(c.end, c.data.endswith(SPOILER)) for c in server.connections()] == [("eof", True)] * 3
    assert server.targets() == []


@pytest.mark.parametrize(
    ("text", "header"),
    [(TOKEN, b"X-Token: bad"), (TOKEN, b"X-Other: a"), (EVIL, b"X-Evil: a")],
    ids=["another value", "another header", "a header that must be absent"],
)
def test_what_was_judged_is_not_served_for_the_head_that_was_denied(scene: Scene, text: str, header: bytes) -> None:
    """Python's http.server serves what it has of a head when the stream ends: cut anywhere, the rest in one segment with the FIN."""
    request = b"GET /public/a HTTP/1.1\r\nHost: api\r\n" + header + b"\r\n\r\n"
    with scene.loaded(text, api="cgroup"):
        server, web = servers.start("python", scene, next(PORTS)), scene.agent("web")
        for whole in (request, request[:-1]):
            web.call(attacks.rests_with_fin, scene.address("api"), server.port, whole, range(1, len(whole)))
        assert server.settled() == {}


@pytest.mark.parametrize(
    "payload", [FORBIDDEN, FORBIDDEN.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 800 + b"\r\n\r\n"), ALLOWED + FORBIDDEN],
    ids=["short", "long", "behind an allowed one"],
)  # fmt: skip
def test_an_event_loop_is_not_kept_busy_by_what_was_denied(ingress: Scene, payload: bytes) -> None:
    """The kernel counts denied bytes as not read (`copied_seq`): epoll would tell of them until the connection is closed."""
    server, port = ingress.agent("api"), next(PORTS)
    server.call(pollers.start, port, 1.5)
    ingress.agent("web").call(attacks.connected, ingress.address("api"), port, payload)
    assert server.call(pollers.in_vain, 5.0) < 5


# --- answers, and changes of policy ----------------------------------------------------------------------------------------

MALFORMED = b"GET /public//a HTTP/1.1\r\nHost: api\r\n\r\n"


def test_the_answer_to_an_earlier_request_is_not_that_to_connect(scene: Scene) -> None:
    """A server that refuses CONNECT reads what follows as requests."""
    with scene.loaded(CONNECTS, api="cgroup"):
        server, web = Server(scene, "slow"), scene.agent("web")
        both = ALLOWED + b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"
        web.call(attacks.at_the_first_answer, server.address, server.port, both, FORBIDDEN)
        assert server.targets()[0] == "/public/a"
        assert "/forbidden" not in server.targets()


@pytest.mark.parametrize("first", [AUDITED, ELSEWHERE], ids=["audited", "without a block"])
def test_a_stream_that_was_not_judged_ends_once_it_is(scene: Scene, first: str) -> None:
    """What is malformed ends the judging of a stream that is only audited; so does a policy without a block for it."""
    with scene.loaded(POLICIES["ingress"], api="cgroup"):
        server, web = Server(scene), scene.agent("web")
        assert web.call(attacks.connected, server.address, server.port, ALLOWED) == "answered"
        scene.load(first, api="cgroup")
        assert web.call(attacks.goes_on, ALLOWED if first == ELSEWHERE else MALFORMED) == "answered"
        scene.load(POLICIES["ingress"], api="cgroup")
        try:
            web.call(attacks.goes_on, FORBIDDEN)
        except OSError:
            pass  # reset by the load
        assert "/forbidden" not in server.targets()


def test_a_body_outlasts_two_changes_of_policy(scene: Scene) -> None:
    """Only heads need the program under which they began."""
    for framing, parts, end in (
        (b"Content-Length: 9", (b"abc", b"def"), b"ghi"),
        (b"Transfer-Encoding: chunked", (b"9\r\nabc", b"def"), b"ghi\r\n0\r\nX: y\r\n\r\n"),
    ):
        with scene.loaded(POSTS, api="cgroup"):
            server, web = Server(scene), scene.agent("web")
            head = b"POST /public/a HTTP/1.1\r\nHost: api\r\n" + framing + b"\r\n\r\n"
            web.call(attacks.connected, server.address, server.port, head + parts[0])
            for text in CHANGED:
                scene.load(text, api="cgroup")
            web.call(attacks.goes_on, parts[1])
            assert web.call(attacks.goes_on, end) == "answered", framing
            web.call(attacks.goes_on, FORBIDDEN)
            assert server.targets() == ["/public/a"]
