"""What applications ask with, called in an agent: requests, httpx, a WebSocket by hand."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
from collections.abc import Sequence

WEBSOCKET = (
    b"GET /live HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


CLOSED_BY = ("ECONNRESET", "EPIPE", "EOF", "connection reset by peer")
CLOSED = "closed"  # in place of a status: the connection was closed or reset without an answer


def with_requests(base: str, paths: list[str]) -> list[int | str]:
    """The statuses of GETs in one session; for want of one `CLOSED`, or the name of the error."""
    import requests  # type: ignore[import-untyped, unused-ignore]
    import urllib3

    found: list[int | str] = []
    with requests.Session() as session:
        for path in paths:
            try:
                found.append(session.get(base + path, timeout=5).status_code)
            except requests.RequestException as error:
                closed = isinstance(next(iter(error.args), None), urllib3.exceptions.ProtocolError)
                found.append(CLOSED if closed else type(error).__name__)
    return found


def with_httpx(base: str, paths: list[str]) -> list[int | str]:
    import httpx

    found: list[int | str] = []
    with httpx.Client() as client:
        for path in paths:
            try:
                found.append(client.get(base + path, timeout=5).status_code)
            except httpx.TransportError as error:
                closed = isinstance(error, httpx.RemoteProtocolError | httpx.ReadError)
                found.append(CLOSED if closed else type(error).__name__)
    return found


def with_program(command: Sequence[str], base: str, paths: list[str]) -> list[int | str]:
    """The same by a program that takes them as arguments and prints a JSON list; errors by the names that `CLOSED_BY` has for a connection closed."""
    done = subprocess.run([*command, base, *paths], capture_output=True, text=True, timeout=30, check=True)
    return [CLOSED if one in CLOSED_BY else one for one in json.loads(done.stdout)]


def over_websocket(address: str, port: int, sent: list[bytes]) -> list[bytes]:
    """What came back of each, after the handshake."""
    found = []
    with socket.create_connection((address, port), 5) as channel:
        channel.sendall(WEBSOCKET)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = channel.recv(1)
            if not piece:
                return found
            head += piece
        if not head.startswith(b"HTTP/1.1 101"):
            return found
        for message in sent:
            channel.sendall(message)
            got = b""
            while len(got) < len(message):
                piece = channel.recv(65536)
                if not piece:
                    return found
                got += piece
            found.append(got)
    return found


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
