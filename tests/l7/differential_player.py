"""Plays streams on real sockets, many at once, and tells what both ends read and what the programs reported. Called in an agent.

One process has both ends, so that nothing waits for another process: it listens at the server's place (network namespace, cgroup) and connects at the
client's. A stream's next write is sent as soon as all that should pass of those before it was read by the server, and its answers by the client."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from policyc.artifact.layout import EVENT_FIELDS
from policyc.artifact.stream_layout import STREAM_EVENT, STREAM_EVENT_FIELDS
from policyc.runtime import bpffs, requests
from policyc.runtime.maps import Map
from policyc.runtime.ringbuf import RingBuffer

CLONE_NEWNET = 0x40000000
SO_SNDBUFFORCE = 32
SEND_BUFFER = 8 << 20
AT_ONCE = 256  # streams
STALLED_S = 1.0  # without a step a stream counts as stuck
QUIET_S = 0.1  # without a byte, after which a denied stream is over
LATE_S = 0.03  # for what should not come, after all that should
CLOSING_S = 4.0  # within which both ends of a denied stream are closed
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST
PORT_AT = STREAM_EVENT_FIELDS.index("source_port")

assert STREAM_EVENT_FIELDS[: len(EVENT_FIELDS)] == EVENT_FIELDS


@dataclass(frozen=True)
class Place:
    """Where one end acts: a network namespace as a file, and a cgroup."""

    namespace: str
    cgroup: str


@dataclass(frozen=True)
class Write:
    """`through`: how many bytes of the stream, this write included, should reach the server. `answer`: what the server sends then; with `denied` the
    write holds a denied request, and nothing follows."""

    data: bytes
    through: int
    answer: bytes = b""
    denied: bool = False


@dataclass(frozen=True)
class Script:
    """`events`: how many reports of requests should come. `refusal`: what the client should get in place of a denied request. `late`: the server's
    answers to what was allowed before it, sent when it is denied; they may be lost with the connection."""

    port: int
    writes: tuple[Write, ...]
    events: int
    refusal: bytes = b""
    late: bytes = b""

    @property
    def closes(self) -> bool:
        """Whether both ends are closed soon: the kernel does it when the server sends something behind the denial."""
        denied = bool(self.writes) and self.writes[-1].denied
        return denied and bool(self.refusal or self.late)


@dataclass
class Seen:
    """`read`: by the server; `received`: by the client; ends: `open`, `eof`, `reset`, or another error's name; `events`: records as they came.
    `stuck`: at which write the stream stood when it should have gone on."""

    read: bytes = b""
    received: bytes = b""
    client_end: str = "open"
    server_end: str = "open"
    events: list[bytes] = field(default_factory=list)
    stuck: str = ""


@dataclass(frozen=True)
class Playing:
    """`closing`: waits until denied streams are closed. `lost`: events that found the ring buffer full."""

    seen: list[Seen]
    lost: int


# --- the process's places -----------------------------------------------------------------------------------------------


def _enter(place: Place) -> None:
    Path(place.cgroup, "cgroup.procs").write_text(str(os.getpid()))
    with open(place.namespace, "rb") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"enter {place.namespace}")


class Player:
    """Listens at `server` on `address`, connects at `client` from `source`. `ring`, `lost`: where the events of the load are pinned, and their losses."""

    def __init__(self, server: Place, client: Place, address: str, source: str, ring: str, lost: str) -> None:
        self._address, self._source = address, source
        self._listeners: dict[int, socket.socket] = {}
        self._server, self._client = server, client
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._poll = select.epoll()
        self._events = Map(bpffs.open_pin(Path(ring)), "events")
        self._lost = Map(bpffs.open_pin(Path(lost)), "lost")
        self._ring = RingBuffer(self._events.fd)
        self._by_port: dict[int, _Stream] = {}
        self._sockets: dict[int, _Stream] = {}
        self._accepting: dict[int, socket.socket] = {}

    def listen(self, ports: Iterable[int]) -> None:
        """On these, and no others."""
        wanted = set(ports)
        for port in [p for p in self._listeners if p not in wanted]:
            self._drop(self._listeners.pop(port))
        if not wanted - set(self._listeners):
            return
        _enter(self._server)
        try:
            for port in sorted(wanted - set(self._listeners)):
                listener = socket.socket(self._family)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((self._address, port))
                listener.listen(AT_ONCE)
                listener.setblocking(False)
                self._listeners[port] = listener
                self._accepting[listener.fileno()] = listener
                self._poll.register(listener, select.EPOLLIN)
        finally:
            _enter(self._client)

    def _drop(self, listener: socket.socket) -> None:
        self._poll.unregister(listener)
        del self._accepting[listener.fileno()]
        listener.close()

    def play(self, scripts: Sequence[Script], closing: bool = False) -> Playing:
        before = self._lost_events()
        list(self._ring.consume())
        streams = [_Stream(self, script) for script in scripts]
        waiting = deque(streams)
        running: set[_Stream] = set()
        try:
            while waiting or running:
                while waiting and len(running) < AT_ONCE:
                    stream = waiting.popleft()
                    stream.begin()
                    running.add(stream)
                self.turn(0.01 if running else 0)
                running = {s for s in running if not s.done()}
            self._settle(streams, closing)
            self.turn(0)
        finally:
            for stream in streams:
                stream.close()
            self._by_port.clear()
        return Playing([s.seen for s in streams], self._lost_events() - before)

    def _settle(self, streams: Sequence[_Stream], closing: bool) -> None:
        """What is on its way arrives."""
        end = time.monotonic() + STALLED_S
        while time.monotonic() < end and not all(s.complete() for s in streams):
            self.turn(0.01)
        end = time.monotonic() + LATE_S
        while (left := end - time.monotonic()) > 0:
            self.turn(left)
        end = time.monotonic() + CLOSING_S
        while closing and time.monotonic() < end and not all(s.closed() for s in streams):
            self.turn(0.02)

    def turn(self, patience: float) -> None:
        """Once over all that is ready, and the events."""
        for number, what in self._poll.poll(patience, 512):
            if number in self._accepting:
                self._accept(self._accepting[number])
            elif number in self._sockets:
                self._sockets[number].ready(number, what)
        for record in self._ring.consume():
            if requests.is_request(record):
                port = int.from_bytes(STREAM_EVENT.unpack(record)[PORT_AT], "big")
                if port in self._by_port:
                    self._by_port[port].told(record)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                channel, peer = listener.accept()
            except OSError:
                return
            stream = self._by_port.get(peer[1])
            if stream is None:
                channel.close()
                continue
            stream.serve(channel)

    def connect(self, stream: _Stream, port: int) -> socket.socket:
        channel = socket.socket(self._family)
        channel.setblocking(False)
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if any(len(w.data) > 1 << 16 for w in stream.script.writes):
            channel.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
        channel.bind((self._source, 0))
        self._by_port[channel.getsockname()[1]] = stream
        channel.connect_ex((self._address, port))
        return channel

    def watch(self, channel: socket.socket, stream: _Stream, what: int) -> None:
        self._sockets[channel.fileno()] = stream
        self._poll.register(channel, what)

    def change(self, channel: socket.socket, what: int) -> None:
        self._poll.modify(channel, what)

    def forget(self, channel: socket.socket) -> None:
        self._sockets.pop(channel.fileno(), None)
        self._poll.unregister(channel)

    def _lost_events(self) -> int:
        return int(self._lost.sum_cpus(self._lost.read_array()[0])[0])

    def close(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        self._poll.close()
        self._ring.close()
        self._events.close()
        self._lost.close()


IN, OUT = select.EPOLLIN, select.EPOLLOUT


class _Stream:
    """One connection: what it has sent and what came."""

    def __init__(self, player: Player, script: Script) -> None:
        self._player, self.script, self.seen = player, script, Seen()
        self._client: socket.socket | None = None
        self._server: socket.socket | None = None
        self._read, self._received = bytearray(), bytearray()
        self._next = 0  # the write that is sent, or waited for
        self._sent = 0  # bytes of it
        self._answers = 0  # bytes that the server has sent
        self._answered = False  # the write at hand
        self._connected = False
        self._denied = self._is_late = False
        self._until = self._moved = 0.0

    def begin(self) -> None:
        self._until = time.monotonic() + STALLED_S
        self._client = self._player.connect(self, self.script.port)
        self._player.watch(self._client, self, OUT)

    def serve(self, channel: socket.socket) -> None:
        self._server = channel
        channel.setblocking(False)
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._player.watch(channel, self, IN)
        self._go_on()

    def told(self, record: bytes) -> None:
        self.seen.events.append(record)
        self._moved = time.monotonic()
        if requests.fields(record)["verdict"] or self._denied:
            return
        self._denied = True
        self._send_late()

    def _send_late(self) -> None:
        """The server answers what it has got, if that is all it should."""
        writes = self.script.writes
        if not self._denied or self._is_late or not writes or len(self._read) < writes[-1].through:
            return
        self._is_late = True
        if self.script.late and self._server is not None and self.seen.server_end == "open":
            with suppress(OSError):
                self._server.sendall(self.script.late)

    def ready(self, number: int, what: int) -> None:
        if self._client is not None and number == self._client.fileno():
            if what & OUT and not self._connected:
                self._connected = True
                self._player.change(self._client, IN)
            if what & ~OUT:
                self._take(self._client, self._received, True)
        elif self._server is not None:
            self._take(self._server, self._read, False)
            self._send_late()
        self._go_on()

    def _take(self, channel: socket.socket, into: bytearray, client: bool) -> None:
        while True:
            try:
                piece = channel.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError as error:
                end = "reset" if isinstance(error, ConnectionResetError) else type(error).__name__
            else:
                if piece:
                    into += piece
                    self._moved = time.monotonic()
                    continue
                end = "eof"
            if client:
                self.seen.client_end = end
            else:
                self.seen.server_end = end
            self._player.change(channel, 0)
            self._player.forget(channel)
            return

    def _go_on(self) -> None:
        """Takes every step that can be taken."""
        if self._denied or not self._connected or self._server is None or self._client is None:
            return
        while self._next < len(self.script.writes) and self.seen.client_end == "open":
            write = self.script.writes[self._next]
            if self._sent < len(write.data) and not self._push(write.data):
                return
            if write.denied:
                self._next += 1
                return
            if len(self._read) < write.through:
                return
            if not self._answered and write.answer:
                self._answered = True
                self._answers += len(write.answer)
                try:
                    self._server.sendall(write.answer)
                except OSError as error:
                    self.seen.stuck = f"the server cannot answer: {error}"
                    return
            if len(self._received) < self._answers:
                return
            self._next, self._sent, self._answered = self._next + 1, 0, False
            self._until = time.monotonic() + STALLED_S

    def _push(self, data: bytes) -> bool:
        """Whether all of the write is with the kernel."""
        assert self._client is not None
        try:
            self._sent += self._client.send(memoryview(data)[self._sent :])
        except BlockingIOError:
            pass
        except OSError as error:
            self.seen.stuck = f"the client cannot send: {error}"
            return False
        self._until = time.monotonic() + STALLED_S
        whole = self._sent == len(data)
        if self.seen.client_end == "open":
            self._player.change(self._client, IN if whole else IN | OUT)
        return whole

    def done(self) -> bool:
        """Whether nothing more is to be sent, or it does not go on."""
        if self._denied or (self._next == len(self.script.writes) and self._connected and self._server is not None):
            return True
        ended = self.seen.client_end != "open" or self.seen.server_end != "open"
        if not ended and not self.seen.stuck and time.monotonic() < self._until:
            return False
        reached = f"{len(self._read)} bytes read, {len(self._received)} received"
        self.seen.stuck = self.seen.stuck or f"at write {self._next}, {reached}"
        return True

    def complete(self) -> bool:
        """Whether all came that should."""
        writes = self.script.writes
        through = writes[-1].through if writes else 0
        expected = sum(len(w.answer) for w in writes) + len(self.script.refusal)
        quiet = self._denied and time.monotonic() > self._moved + QUIET_S  # it may be denied early
        whole = (quiet or len(self._read) >= through) and len(self._received) >= expected
        return bool(self.seen.stuck) or (whole and len(self.seen.events) >= self.script.events)

    def closed(self) -> bool:
        """Whether a stream that was denied has ended at both sides."""
        if not self.script.closes:
            return True
        return self.seen.client_end != "open" and self.seen.server_end != "open"

    def close(self) -> None:
        self.seen.read, self.seen.received = bytes(self._read), bytes(self._received)
        for channel, end in ((self._client, self.seen.client_end), (self._server, self.seen.server_end)):
            if channel is None:
                continue
            if end == "open":
                self._player.forget(channel)
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            channel.close()


# --- called in an agent -----------------------------------------------------------------------------------------------

_players: list[Player] = []


def open_player(server: Place, client: Place, address: str, source: str, ring: str, lost: str) -> None:
    """Of the load that is there now; another one is closed."""
    close_player()
    _players.append(Player(server, client, address, source, ring, lost))


def close_player() -> None:
    while _players:
        _players.pop().close()


def play(scripts: Sequence[Script], closing: bool = False) -> Playing:
    _players[0].listen(script.port for script in scripts)
    return _players[0].play(scripts, closing)
