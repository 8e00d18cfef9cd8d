"""Many clients at once, and what the stream tables hold meanwhile. Called in an agent."""

from __future__ import annotations

import os
import resource
import socket
import time
from contextlib import closing

from policyc.runtime.pins import Pins
from tests.l7 import raw
from tests.l7.evasion import ALLOWED, FORBIDDEN
from tests.l7.place import LOAD

TABLES = ("streams", "marks4", "marks6", "streams_in", "streams_out")


def sizes(bpffs: str) -> dict[str, int]:
    """Entries in each of the stream tables."""
    os.environ["POLICYC_BPFFS"] = bpffs
    found = {}
    for name in TABLES:
        with closing(Pins(LOAD).map(name)) as table:
            found[name] = len(list(table.keys()))
    return found


def fill(bpffs: str, name: str) -> list[bytes]:
    """Has a stream table full of entries of nobody, in the place of what is left of earlier connections; their keys."""
    os.environ["POLICYC_BPFFS"] = bpffs
    made = []
    with closing(Pins(LOAD).map(name)) as table:
        for key in list(table.keys()):
            table.delete(key)
        for number in range(table.max_entries):
            key = number.to_bytes(4, "little").ljust(table.key_size, b"\xff")
            table.update(key, bytes(table.value_size))
            made.append(key)
    return made


def take_out(bpffs: str, name: str, keys: list[bytes]) -> None:
    os.environ["POLICYC_BPFFS"] = bpffs
    with closing(Pins(LOAD).map(name)) as table:
        for key in keys:
            table.delete(key)


def crowd(address: str, port: int, count: int, payload: bytes) -> dict[str, int]:
    """Opens so many connections, keeps all, then sends on each; how many were answered by which status (0: not within a second)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    channels, said = [], {"refused": 0}
    for number in range(count):
        channel = socket.socket()
        channel.settimeout(2)
        try:
            channel.bind((f"127.0.1.{number % 250 + 1}", 0))
            channel.connect((address, port))
        except OSError:
            said["refused"] += 1
            channel.close()
            continue
        channels.append(channel)
    for channel in channels:
        channel.setblocking(False)
        try:
            channel.send(payload)
        except OSError:
            pass
    time.sleep(2)
    for channel in channels:
        try:
            status = channel.recv(65536)[9:12].decode("latin-1") or "closed"
        except BlockingIOError:
            status = "silent"
        except OSError:
            status = "closed"
        said[status] = said.get(status, 0) + 1
        channel.close()
    return said


def deny(address: str, port: int, count: int) -> int:
    """Sends forbidden requests, half of them behind an allowed one; how many were served."""
    plans = [
        raw.Plan(address, port, (ALLOWED, FORBIDDEN) if n % 2 else (FORBIDDEN,), quiet=3.0, await_answers=True)
        for n in range(count)
    ]
    return sum(done.answers.count(200) > n % 2 for n, done in enumerate(raw.exchanges(plans)))
