"""Ways around a judge of streams: each tries to get `GET /forbidden` to a recording server, and tells whether it got there.

An evasion says when the policy is loaded (`Stage.load`), so that some of it can happen before. Without a policy each must get through:
that is how the tests know that they could fail. `python -m tests.l7.evasion` tries all of them so."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.l7 import recorder, senders, wire
from tests.l7.agent import Agent
from tests.l7.place import PORT, SPARE, Scene, link_address

Side = Literal["ingress", "egress"]
FORBIDDEN = b"GET /forbidden HTTP/1.1\r\nHost: api\r\n\r\n"
ALLOWED = b"GET /public/a HTTP/1.1\r\nHost: api\r\n\r\n"
PLAIN_PORT = 9090  # a port without judgement
SPLIT = FORBIDDEN.index(b"forbidden")  # where urgent bytes go
# `/Xforbidden` is what a judge sees who takes an urgent byte for one of the stream.
POLICIES: Mapping[Side, str] = {
    "ingress": f"""\
policy api for {{ app == api }} {{
  ingress {{
    allow from {{ app == web }} on tcp/8080-8199 http {{ GET "/public/**", "/Xforbidden" }} as pages
    allow from {{ app == web }} on tcp/{PLAIN_PORT} as plain
  }}
}}
""",
    "egress": f"""\
policy web for {{ app == web }} {{
  egress {{
    allow to {{ app == api }} on tcp/8080-8199 http {{ GET "/public/**", "/Xforbidden" }} as pages
    allow to {{ app == api }} on tcp/{PLAIN_PORT} as plain
  }}
}}
""",
}
# What the subject is bound by: at its cgroup alone, or judged at its interface with the cgroup for its streams.
SUBJECT: Mapping[Side, str] = {"ingress": "api", "egress": "web"}


@dataclass
class Stage:
    """The scene of one try. `load` loads the policy, once; before that nobody judges."""

    scene: Scene
    port: int
    version: int
    load_policy: Callable[[], None]
    said: list[str] = field(default_factory=list)
    _loaded: bool = False
    _server: tuple[Agent, int] | None = None

    @property
    def address(self) -> str:
        return self.scene.address("api", self.version)

    def load(self) -> None:
        if not self._loaded:
            self._loaded = True
            self.load_policy()

    def serve(self, group: str | None = None, port: int = 0, **how: Any) -> Agent:
        """A recording server; the policy is not loaded by this."""
        agent = self.scene.agent("api", group)
        number = agent.call(recorder.start, recorder.Listening("::", port or self.port, **how))
        if not port:
            self._server = agent, number
        return agent

    def served_by(self, agent: Agent, number: int) -> None:
        self._server = agent, number

    def send(self, sender: Callable[..., str], *arguments: Any) -> None:
        """A client's try, judged."""
        self.load()
        self.said.append(self.scene.agent("web").call(sender, self.address, self.port, FORBIDDEN, *arguments))

    def by_hand(self, sender: Callable[..., str], *arguments: Any) -> None:
        """The same by AF_PACKET from an address that no kernel has."""
        self.load()
        self.scene.give_spare()
        mac = link_address(self.scene.network.machine, "web")
        line = wire.Line(SPARE, self.scene.address("api"), self.port, mac)
        self.said.append(self.scene.agent("web").call(sender, line, FORBIDDEN, *arguments))

    def seen(self) -> list[recorder.Connection]:
        assert self._server is not None
        agent, number = self._server
        return agent.call(recorder.records, number)


@dataclass(frozen=True)
class Evasion:
    """`sides`: where it may fool a judge. `outside`: it uses sockets of another cgroup, of which only an interface knows. `late`: some of
    it happens before the policy is loaded."""

    name: str
    run: Callable[[Stage], None]
    sides: tuple[Side, ...] = ("ingress", "egress")
    outside: bool = False
    versions: tuple[int, ...] = (4,)
    late: bool = False


@dataclass(frozen=True)
class Outcome:
    """`through`: the server had the forbidden request. `data` is all it read; `said` what the client's part told."""

    through: bool
    data: bytes
    said: tuple[str, ...]


EVASIONS: dict[str, Evasion] = {}


def evasion(
    name: str, *sides: Side, outside: bool = False, versions: tuple[int, ...] = (4,), late: bool = False
) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    def entered(run: Callable[[Stage], None]) -> Callable[[Stage], None]:
        EVASIONS[name] = Evasion(name, run, sides or ("ingress", "egress"), outside, versions, late)
        return run

    return entered


def attempt(
    evasion: Evasion, scene: Scene, port: int = PORT, version: int = 4, load: Callable[[], None] = lambda: None
) -> Outcome:
    """Runs it and ends what it started, but the policy. Raises `senders.Unsupported` where this kernel has no such way."""
    stage = Stage(scene, port, version, load)
    try:
        evasion.run(stage)
        time.sleep(0.05)
        connections = stage.seen()
    finally:
        scene.rest()
    through = any(request.target == "/forbidden" for c in connections for request in c.requests)
    return Outcome(through, b"".join(c.data for c in connections), tuple(stage.said))


# --- how bytes are sent -------------------------------------------------------------------------------------------------


@evasion("plainly", versions=(4, 6))
def _(stage: Stage) -> None:
    stage.serve()
    stage.send(senders.plain)


@evasion("over IPv4 from an IPv6 socket")
def _(stage: Stage) -> None:
    stage.serve()
    stage.load()
    mapped = f"::ffff:{stage.scene.address('api')}"
    stage.said.append(stage.scene.agent("web").call(senders.plain, mapped, stage.port, FORBIDDEN))


for _name, _sender in {
    "byte by byte": senders.byte_by_byte,
    "MSG_MORE and FIN": senders.corked,
    "TCP_ULP": senders.under_tls_ulp,
    "TCP_ULP with keys": senders.under_tls_keys,
    "sendfile": senders.by_sendfile,
    "splice": senders.by_splice,
    "MSG_ZEROCOPY": senders.by_zerocopy,
    "io_uring": senders.by_io_uring,
}.items():

    @evasion(_name)
    def _(stage: Stage, sender: Callable[..., str] = _sender) -> None:
        stage.serve()
        stage.send(sender)


@evasion("io_uring, zero copy")
def _(stage: Stage) -> None:
    stage.serve()
    stage.send(senders.by_io_uring, True)


@evasion("MSG_OOB")
def _(stage: Stage) -> None:
    stage.serve()
    stage.send(senders.with_urgent_byte, SPLIT)


# --- while connecting ---------------------------------------------------------------------------------------------------


@evasion("MSG_FASTOPEN")
def _(stage: Stage) -> None:
    stage.serve(fastopen=16)
    stage.send(senders.by_fastopen)


@evasion("TCP_FASTOPEN_CONNECT")
def _(stage: Stage) -> None:
    stage.serve(fastopen=16)
    stage.send(senders.by_fastopen_connect)


@evasion("send while connecting")
def _(stage: Stage) -> None:
    _lost_syn(stage, 1)


@evasion("sends while connecting")
def _(stage: Stage) -> None:
    _lost_syn(stage, 4)


def _lost_syn(stage: Stage, pieces: int) -> None:
    stage.serve()
    stage.load()
    web = stage.scene.agent("web")
    with stage.scene.cut():
        web.begin(senders.while_connecting, stage.address, stage.port, FORBIDDEN, pieces)
        time.sleep(0.3)
    stage.said.append(web.result())


@evasion("simultaneous open", "egress")
def _(stage: Stage) -> None:
    """Both ends connect; the side that is not judged helps. Where the server is judged and connects, it has opened the connection itself, outwards."""
    stage.load()
    api, web = stage.scene.agent("api"), stage.scene.agent("web")
    source = (stage.scene.address("web"), stage.port + 1000)
    with stage.scene.cut():
        number = api.call(recorder.connect_and_serve, (stage.address, stage.port), source)
        stage.served_by(api, number)
        web.begin(senders.simultaneously, stage.address, stage.port, FORBIDDEN, source)
        time.sleep(0.3)
    stage.said.append(web.result())


@evasion("TCP_DEFER_ACCEPT", "ingress")
def _(stage: Stage) -> None:
    stage.serve(defer=5)
    stage.send(senders.plain)


@evasion("MPTCP")
def _(stage: Stage) -> None:
    stage.serve(mptcp=True)
    stage.send(senders.by_mptcp)


@evasion("TCP to an MPTCP listener")
def _(stage: Stage) -> None:
    stage.serve(mptcp=True)
    stage.send(senders.plain)


@evasion("MPTCP to a TCP listener")
def _(stage: Stage) -> None:
    stage.serve()
    stage.send(senders.by_mptcp)


@evasion("a socket that was used before")
def _(stage: Stage) -> None:
    stage.serve()
    stage.serve(port=PLAIN_PORT)
    stage.send(senders.on_a_used_socket, PLAIN_PORT)


# --- sockets of others --------------------------------------------------------------------------------------------------


@evasion("a listener outside the cgroup", "ingress", outside=True)
def _(stage: Stage) -> None:
    stage.serve(group="outside")
    stage.send(senders.plain)


@evasion("a listener moved into the cgroup", "ingress", outside=True)
def _(stage: Stage) -> None:
    agent = stage.serve(group="outside")
    agent.move(stage.scene.groups["api"])
    stage.send(senders.plain)


@evasion("a listener passed into the cgroup", "ingress", outside=True)
def _(stage: Stage) -> None:
    outside, inside = stage.scene.agent("api", "outside"), stage.scene.agent("api")
    with _way(stage) as path:
        outside.begin(recorder.hand_over, recorder.Listening("::", stage.port), path)
        stage.served_by(inside, inside.call(recorder.take_over, path))
        outside.result()
    stage.send(senders.plain)


@evasion("a client outside the cgroup", "egress", outside=True)
def _(stage: Stage) -> None:
    stage.serve()
    stage.load()
    stage.said.append(stage.scene.agent("web", "outside").call(senders.plain, stage.address, stage.port, FORBIDDEN))


@evasion("a client moved into the cgroup", "egress", outside=True)
def _(stage: Stage) -> None:
    stage.serve()
    stage.load()
    client = stage.scene.agent("web", "outside")
    stage.said.append(client.call(senders.keep, stage.address, stage.port))
    client.move(stage.scene.groups["web"])
    stage.said.append(client.call(senders.use, FORBIDDEN))


@evasion("a connection passed into the cgroup", "egress", outside=True)
def _(stage: Stage) -> None:
    _passed(stage, "outside", "web")


@evasion("a connection passed out of the cgroup", "egress")
def _(stage: Stage) -> None:
    _passed(stage, "web", "outside")


@evasion("a client that leaves the cgroup", "egress")
def _(stage: Stage) -> None:
    stage.serve()
    stage.load()
    client = stage.scene.agent("web")
    stage.said.append(client.call(senders.keep, stage.address, stage.port, ALLOWED))
    client.move(stage.scene.groups["outside"])
    stage.said.append(client.call(senders.use, FORBIDDEN))


@evasion("a server that leaves the cgroup", "ingress")
def _(stage: Stage) -> None:
    server, client = stage.serve(), stage.scene.agent("web")
    stage.load()
    stage.said.append(client.call(senders.keep, stage.address, stage.port, ALLOWED))
    server.move(stage.scene.groups["outside"])
    stage.said.append(client.call(senders.use, FORBIDDEN))


def _passed(stage: Stage, from_group: str, to_group: str) -> None:
    stage.serve()
    stage.load()
    giver, taker = stage.scene.agent("web", from_group), stage.scene.agent("web", to_group)
    stage.said.append(giver.call(senders.keep, stage.address, stage.port))
    with _way(stage) as path:
        taker.call(senders.wait_for_gift, path)
        giver.call(senders.give_kept, path)
        taker.call(senders.has_gift)
    stage.said.append(taker.call(senders.use, FORBIDDEN))


class _way:
    """A path for a unix socket."""

    def __init__(self, stage: Stage) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=stage.scene.folder)

    def __enter__(self) -> str:
        return str(Path(self._folder.name, "s"))

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


# --- older than the policy ----------------------------------------------------------------------------------------------


@evasion("a connection older than the load", late=True)
def _(stage: Stage) -> None:
    stage.serve()
    client = stage.scene.agent("web")
    stage.said.append(client.call(senders.keep, stage.address, stage.port, ALLOWED))
    stage.load()
    stage.said.append(client.call(senders.use, FORBIDDEN))


@evasion("an idle connection older than the load", late=True)
def _(stage: Stage) -> None:
    stage.serve()
    client = stage.scene.agent("web")
    stage.said.append(client.call(senders.keep, stage.address, stage.port))
    stage.load()
    stage.said.append(client.call(senders.use, FORBIDDEN))


# --- by hand ------------------------------------------------------------------------------------------------------------


for _name, _sender in {
    "AF_PACKET": wire.by_hand,
    "AF_PACKET: data with the last ACK": wire.with_the_last_ack,
    "AF_PACKET: segments backwards": wire.backwards,
}.items():

    @evasion(_name, outside=True)
    def _(stage: Stage, sender: Callable[..., str] = _sender) -> None:
        stage.serve()
        stage.by_hand(sender)


@evasion("AF_PACKET: urgent byte", outside=True)
def _(stage: Stage) -> None:
    stage.serve()
    stage.by_hand(wire.urgently, SPLIT)


@evasion("AF_PACKET: data in the SYN", outside=True)
def _(stage: Stage) -> None:
    stage.serve(fastopen=16)
    stage.by_hand(wire.with_the_syn)


@evasion("AF_PACKET: data in the SYN and with the last ACK", outside=True)
def _(stage: Stage) -> None:
    stage.serve(fastopen=16)
    stage.by_hand(wire.with_the_syn, SPLIT)


@evasion("AF_PACKET: data in the SYN, accepted after data", outside=True)
def _(stage: Stage) -> None:
    stage.serve(fastopen=16, defer=5)
    stage.by_hand(wire.with_the_syn, SPLIT)


def main() -> int:
    """Tries all without a policy."""
    held_up = 0
    with tempfile.TemporaryDirectory(prefix="policyc-evasion-") as folder, Scene(Path(folder)) as scene:
        for made in EVASIONS.values():
            for version in made.versions:
                try:
                    outcome = attempt(made, scene, version=version)
                except senders.Unsupported as reason:
                    print(f"{made.name:55} not on this kernel: {reason}")
                    continue
                held_up += not outcome.through
                print(f"{made.name:55} {'through' if outcome.through else 'HELD UP'} {outcome.said}")
    return 1 if held_up else 0


if __name__ == "__main__":
    sys.exit(main())
