"""Clients that make use of what the kernel does between a program's verdict and the wire; each is called in an agent."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.l7 import wire
from tests.l7.senders import MSG_FASTOPEN, came_of
from tests.l7.waiting import readable, writable

TCP_FASTOPEN_NO_COOKIE = 34  # linux/tcp.h
PATIENCE = 3.0  # seconds
_kept: dict[str, socket.socket] = {}


def fast_open_then(address: str, port: int, early: bytes, later: bytes) -> str:
    """`early` in a SYN, whose data a judge has denied: the kernel keeps them and sends them again before `later`."""
    with socket.socket() as channel:
        channel.settimeout(8)
        channel.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
        channel.sendto(early, MSG_FASTOPEN, (address, port))
        channel.sendall(later)
        return came_of(channel)


def wait_to_connect_then(address: str, port: int, early: bytes, later: bytes, more: bool) -> str:
    """`early` by a send() that waits in connect, with MSG_MORE or without; whoever calls this loses the first SYN."""
    with socket.socket() as channel:
        channel.setblocking(False)
        assert channel.connect_ex((address, port)) == errno.EINPROGRESS
        channel.setblocking(True)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 8, 0))
        channel.send(early, socket.MSG_MORE if more else 0)
        channel.sendall(later)
        return came_of(channel)


def taken_in_part_then(address: str, port: int, request: bytes, other: bytes) -> tuple[int, int]:
    """More requests in one send() than it takes, then the rest of the one that was cut and `other`: what each send took."""
    with socket.create_connection((address, port)) as channel:
        channel.setblocking(False)
        many = request * 20000
        first = channel.send(many)
        rest = request[first % len(request) :]
        end, second = time.monotonic() + PATIENCE, 0
        while not second and time.monotonic() < end:
            try:
                second = channel.send(rest + other)
            except BlockingIOError:
                writable(channel, 0.05)
        time.sleep(0.5)
        return first, second


def upload_without_waiting(address: str, port: int, head: bytes, body: bytes) -> bytes:
    """As event loops do it: each send() takes what there is room for. The answer."""
    with socket.create_connection((address, port)) as channel:
        channel.setblocking(False)
        left = memoryview(head + body)
        while left and writable(channel, PATIENCE):
            try:
                left = left[channel.send(left) :]
            except BlockingIOError:
                continue
        return channel.recv(1 << 16) if readable(channel, PATIENCE) else b""


def fin_behind(address: str, port: int, part: bytes) -> str:
    """The FIN some time behind a part of a request."""
    with socket.create_connection((address, port)) as channel:
        channel.send(part)
        time.sleep(0.1)
        channel.shutdown(socket.SHUT_WR)
        return came_of(channel)


def rest_with_fin(address: str, port: int, request: bytes, at: int) -> str:
    """The end of a request in one segment with the FIN."""
    with socket.create_connection((address, port)) as channel:
        channel.send(request[:at])
        time.sleep(0.1)
        channel.send(request[at:], socket.MSG_MORE)
        channel.shutdown(socket.SHUT_WR)
        return came_of(channel)


def rests_with_fin(address: str, port: int, request: bytes, places: Sequence[int]) -> list[str]:
    """The same at many places, each on a connection of its own."""
    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(lambda at: rest_with_fin(address, port, request, at), places))


def sent_again(line: wire.Line, request: bytes, at: int, back: int, fin: bool) -> str:
    """A segment that repeats `back` bytes before what is new, as after a loss."""
    made = wire.HandMade(line)
    if made.connect():
        made.push(request[:at])
        time.sleep(0.05)
        made.send(wire.ACK | wire.PSH | (wire.FIN if fin else 0), request[at - back :], ahead=-back)
        made.sequence += len(request) - at + fin
    result = made.answer()
    made.close()
    return result


def fin_overtakes(line: wire.Line, request: bytes, at: int) -> str:
    """The first segment comes last, behind that with the FIN."""
    made = wire.HandMade(line)
    if made.connect():
        made.send(wire.ACK | wire.PSH | wire.FIN, request[at:], ahead=at)
        time.sleep(0.05)
        made.push(request[:at])
        made.sequence += len(request) - at + 1
    result = made.answer()
    made.close()
    return result


def connected(address: str, port: int, first: bytes) -> str:
    """Connects for `goes_on`, and has `first` answered, or not."""
    channel = _kept["it"] = socket.create_connection((address, port))
    channel.sendall(first)
    return came_of(channel) if first else ""


def goes_on(payload: bytes) -> str:
    """Sends on that connection."""
    _kept["it"].sendall(payload)
    return came_of(_kept["it"])


def at_the_first_answer(address: str, port: int, first: bytes, then: bytes) -> str:
    """Sends `then` as soon as anything came for `first`."""
    with socket.create_connection((address, port)) as channel:
        channel.sendall(first)
        came_of(channel)
        channel.sendall(then)
        return came_of(channel)
