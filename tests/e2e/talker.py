"""Connections that an agent keeps open between calls."""

from __future__ import annotations

import socket

_open: dict[int, socket.socket] = {}


def connect(host: str, port: int) -> int:
    """A connection's number."""
    made = socket.create_connection((host, port), 5)
    _open[made.fileno()] = made
    return made.fileno()


def request(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: api\r\n\r\n".encode()


def ask(number: int, path: str, patience: float = 5.0) -> str:
    """The status of the answer, else how the connection ended."""
    return send(number, request(path), patience)


def send(number: int, data: bytes, patience: float = 5.0) -> str:
    channel = _open[number]
    channel.settimeout(patience)
    try:
        channel.sendall(data)
        received = channel.recv(65536)
    except OSError as error:
        return type(error).__name__
    return received.split(b" ")[1].decode() if received else "closed"


def state(number: int) -> str:
    """`open`, or how the connection ended."""
    channel = _open[number]
    channel.settimeout(0.3)
    try:
        return "closed" if channel.recv(1) == b"" else "open"
    except TimeoutError:
        return "open"
    except OSError as error:
        return type(error).__name__


def close(number: int) -> None:
    _open.pop(number).close()
