"""A blocking server of one thread a connection, which keeps for each connection every byte it read and the requests it made of them.

Its functions are called in an agent (`agent.call(start, …)`). It reads as leniently as the worst server would: header lines may end in LF,
the last Content-Length holds, a chunked body is only read as such where the line says exactly that. So what stands in its records
is what reached a process, judged by nobody."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Literal

IPPROTO_MPTCP = 262
TCP_DEFER_ACCEPT, TCP_FASTOPEN = 9, 23  # linux/tcp.h
Mode = Literal["keep-alive", "slow", "chunked", "close", "silent"]
BODY = b"served\n"
SLOW = 0.05  # seconds before each answer of mode `slow`


@dataclass(frozen=True)
class Listening:
    """How a server listens. `fastopen`: length of the queue; `defer`: seconds of TCP_DEFER_ACCEPT."""

    host: str
    port: int
    mode: Mode = "keep-alive"
    mptcp: bool = False
    fastopen: int = 0
    defer: int = 0


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass
class Connection:
    """`port` is the client's; `end` how reading ended: `open` (it has not), `eof`, `reset`, or another error's name."""

    port: int
    data: bytes = b""
    requests: list[Request] = field(default_factory=list)
    end: str = "open"
    answered: int = 0


class Recorder:
    """Serves what a listening socket accepts."""

    def __init__(self, listener: socket.socket, mode: Mode) -> None:
        self.listener, self.mode = listener, mode
        self.connections: list[Connection] = []

    def accept(self) -> None:
        """Begins to; in a thread of its own."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                channel, peer = self.listener.accept()
            except OSError:
                return
            self.serve(channel, peer[1])

    def serve(self, channel: socket.socket, port: int) -> None:
        """Takes a connection in a thread of its own."""
        made = Connection(port)
        self.connections.append(made)
        threading.Thread(target=self._converse, args=(channel, made), daemon=True).start()

    def _converse(self, channel: socket.socket, seen: Connection) -> None:
        reader = _Reader(channel, seen)
        try:
            while (request := reader.request()) is not None:
                seen.requests.append(request)
                if self.mode == "silent":
                    continue
                if self.mode == "slow":
                    time.sleep(SLOW)
                channel.sendall(self._answer(request))
                seen.answered += 1
                if self.mode == "close":
                    break
        except OSError as error:
            seen.end = "reset" if isinstance(error, ConnectionResetError) else type(error).__name__
        finally:
            channel.close()

    def _answer(self, request: Request) -> bytes:
        if self.mode == "chunked":
            head, body = b"Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
        else:
            head, body = b"Content-Length: %d\r\n" % len(BODY), BODY
        if self.mode == "close":
            head += b"Connection: close\r\n"
        return b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + (b"" if request.method == "HEAD" else body)


class _Reader:
    def __init__(self, channel: socket.socket, seen: Connection) -> None:
        self._channel, self._seen, self._held = channel, seen, b""

    def _more(self) -> bool:
        piece = self._piece()
        self._seen.data += piece
        self._held += piece
        if not piece:
            self._seen.end = "eof"
        return bool(piece)

    def _piece(self) -> bytes:
        """Goes on waiting where a denial ends recv() without a byte: who closes then may do so before the 403 has left (docs/l7.md)."""
        while True:
            try:
                return self._channel.recv(1 << 16)
            except BlockingIOError:
                continue

    def _line(self) -> bytes | None:
        while b"\n" not in self._held:
            if not self._more():
                return None
        line, _, self._held = self._held.partition(b"\n")
        return line.rstrip(b"\r")

    def _bytes(self, count: int) -> bytes | None:
        while len(self._held) < count:
            if not self._more():
                return None
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def request(self) -> Request | None:
        """The next one; None at the end of the connection."""
        start = self._line()
        while start == b"":
            start = self._line()
        if start is None:
            return None
        words = start.decode("latin-1").split(" ")
        headers = self._headers()
        if headers is None:
            return None
        lengths = [v for k, v in headers if k.lower() == "content-length"]
        chunked = any(k.lower() == "transfer-encoding" and v.lower() == "chunked" for k, v in headers)
        body = (
            self._chunks() if chunked else self._bytes(int(lengths[-1])) if lengths and lengths[-1].isdigit() else b""
        )
        if body is None:
            return None
        return Request(words[0], words[1] if len(words) > 1 else "", tuple(headers), body)

    def _headers(self) -> list[tuple[str, str]] | None:
        found = []
        while (line := self._line()) != b"":
            if line is None:
                return None
            name, _, value = line.decode("latin-1").partition(":")
            found.append((name.strip(), value.strip()))
        return found

    def _chunks(self) -> bytes | None:
        found = b""
        while (line := self._line()) is not None:
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError:
                return found
            piece = self._bytes(size)
            if piece is None:
                return None
            if size == 0:
                return found if self._headers() is not None else None
            found += piece
            self._line()
        return None


# --- called in an agent -----------------------------------------------------------------------------------------------

_recorders: dict[int, Recorder] = {}
_numbers = itertools.count()


def open_listener(how: Listening) -> socket.socket:
    family = socket.AF_INET6 if ":" in how.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if how.mptcp else 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind((how.host, how.port))
    if how.defer:
        listener.setsockopt(socket.IPPROTO_TCP, TCP_DEFER_ACCEPT, how.defer)
    if how.fastopen:
        listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, how.fastopen)
    listener.listen(512)
    return listener


def start(how: Listening) -> int:
    """Listens; the number by which the others know it."""
    return _serve(open_listener(how), how.mode)


def _serve(listener: socket.socket, mode: Mode) -> int:
    number = next(_numbers)
    _recorders[number] = Recorder(listener, mode)
    _recorders[number].accept()
    return number


def hand_over(how: Listening, path: str) -> None:
    """Listens, and gives the socket to whoever waits at `path` (`take_over`)."""
    with open_listener(how) as listener:
        give(listener, path)


def give(channel: socket.socket, path: str) -> None:
    """A file descriptor by SCM_RIGHTS."""
    with socket.socket(socket.AF_UNIX) as way:
        for _ in range(250):
            try:
                way.connect(path)
                break
            except OSError:
                time.sleep(0.02)
        socket.send_fds(way, [b"!"], [channel.fileno()])
        way.recv(1)


def receive(path: str) -> socket.socket:
    """What somebody gives at `path`."""
    with socket.socket(socket.AF_UNIX) as way:
        way.bind(path)
        way.listen(1)
        giver, _ = way.accept()
        with giver:
            _, (descriptor,), _, _ = socket.recv_fds(giver, 1, 1)
            giver.send(b"!")
    return socket.socket(fileno=descriptor)


def take_over(path: str, mode: Mode = "keep-alive") -> int:
    """Serves at a listening socket that somebody else gives at `path`."""
    return _serve(receive(path), mode)


def connect_and_serve(source: tuple[str, int], peer: tuple[str, int], patience: float = 5) -> int:
    """Serves on a connection that it opens itself, from a port of its own: the other half of a simultaneous open."""
    channel = socket.socket()
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    channel.bind(source)
    channel.settimeout(patience)
    number = next(_numbers)
    server = _recorders[number] = Recorder(channel, "keep-alive")

    def open_it() -> None:
        try:
            channel.connect(peer)
        except OSError as error:
            server.connections.append(Connection(peer[1], end=type(error).__name__))
            return
        channel.settimeout(None)
        server.serve(channel, peer[1])

    threading.Thread(target=open_it, daemon=True).start()
    return number


def records(number: int) -> list[Connection]:
    return list(_recorders[number].connections)


def clear(number: int) -> None:
    _recorders[number].connections.clear()


def stop(number: int) -> None:
    """No new connections; those there are stay."""
    listener = _recorders.pop(number).listener
    try:
        listener.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    listener.close()
