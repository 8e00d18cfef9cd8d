"""Ways to read a request from a socket, as the server's part of a test, and a client that sends it in two parts."""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable
from contextlib import suppress

TCP_INQ = TCP_CM_INQ = 36  # linux/tcp.h
ENDS = b"\r\n\r\n"
PATIENCE = 3.0  # seconds; more than a client's pause between two parts
SETTLED = 1.0  # seconds in which both parts have come

Reader = Callable[[socket.socket, int], str]
"""reader(connection, length): reads a request of `length` bytes in two parts; "whole", or what it got in its place."""


def accept(port: int, reader: Reader, length: int) -> str:
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        listener.settimeout(PATIENCE)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(PATIENCE), 0))
            try:
                return reader(connection, length)
            except OSError as error:
                return type(error).__name__


def _told(read: bytes, length: int) -> str:
    return "whole" if len(read) == length and read.endswith(ENDS) else f"{len(read)} bytes"


def _until_the_end(read: Callable[[], bytes], length: int) -> str:
    got = b""
    while not got.endswith(ENDS) and (more := read()):
        got += more
    return _told(got, length)


def by_recv(connection: socket.socket, length: int) -> str:
    return _until_the_end(lambda: connection.recv(7), length)


def by_recvmsg(connection: socket.socket, length: int) -> str:
    return _until_the_end(lambda: connection.recvmsg(4096)[0], length)


def by_readv(connection: socket.socket, length: int) -> str:
    def read() -> bytes:
        parts = [bytearray(5), bytearray(4096)]
        read = os.readv(connection.fileno(), parts)
        return b"".join(parts)[:read]

    return _until_the_end(read, length)


def by_peek(connection: socket.socket, length: int) -> str:
    """Looks until all is there, then reads it."""
    end = time.monotonic() + PATIENCE
    while not connection.recv(4096, socket.MSG_PEEK).endswith(ENDS) and time.monotonic() < end:
        time.sleep(0.02)
    return _told(connection.recv(4096), length)


def by_epoll(connection: socket.socket, length: int) -> str:
    """Edge-triggered, without blocking."""
    connection.setblocking(False)
    got = b""
    with select.epoll() as poll:
        poll.register(connection, select.EPOLLIN | select.EPOLLET)
        while not got.endswith(ENDS) and poll.poll(PATIENCE):
            try:
                while more := connection.recv(7):
                    got += more
            except BlockingIOError:
                continue
    return _told(got, length)


def by_waitall(connection: socket.socket, length: int) -> str:
    return _told(connection.recv(length, socket.MSG_WAITALL), length)


def by_splice(connection: socket.socket, length: int) -> str:
    here, there = os.pipe()
    try:
        got = 0
        while got < length and (n := os.splice(connection.fileno(), there, length - got)):
            got += n
        return _told(os.read(here, length), length)
    finally:
        os.close(here)
        os.close(there)


def by_fionread(connection: socket.socket, length: int) -> str:
    """What the kernel says is left behind the first byte."""
    time.sleep(SETTLED)
    connection.recv(1)
    left = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.FIONREAD, left)
    return "whole" if left[0] == length - 1 else f"{left[0]} bytes"


def by_inq(connection: socket.socket, length: int) -> str:
    """The same, told with the byte."""
    connection.setsockopt(socket.IPPROTO_TCP, TCP_INQ, 1)
    time.sleep(SETTLED)
    _, said, _, _ = connection.recvmsg(1, 64)
    left = next((struct.unpack("i", data)[0] for _, kind, data in said if kind == TCP_CM_INQ), -1)
    return "whole" if left == length - 1 else f"{left} bytes"


def in_two_parts(address: str, port: int, payload: bytes) -> None:
    """Stays until the server closes."""
    with socket.create_connection((address, port), timeout=2 * PATIENCE) as channel:
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        channel.sendall(payload[: len(payload) // 2])
        time.sleep(SETTLED / 4)
        channel.sendall(payload[len(payload) // 2 :])
        with suppress(OSError):
            channel.recv(1)


WORK = {"recv": by_recv, "recvmsg": by_recvmsg, "readv": by_readv, "MSG_PEEK": by_peek, "epoll": by_epoll}
DO_NOT = {"MSG_WAITALL": by_waitall, "splice": by_splice, "TCP_INQ": by_inq}
VARIES = {"FIONREAD": by_fionread}  # with the kernel: 6.18.44 says what is there
