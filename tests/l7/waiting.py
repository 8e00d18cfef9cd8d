"""Waiting for a descriptor of any number: `select.select` takes those below 1,024 only. Called in an agent, or by any test."""

from __future__ import annotations

import math
import select
import socket


def readable(channel: socket.socket | int, seconds: float) -> bool:
    """Whether there is something to read within that time: bytes, the end, or an error."""
    return _comes(channel, select.POLLIN, seconds)


def writable(channel: socket.socket | int, seconds: float) -> bool:
    """Whether there is room, or an error, within that time."""
    return _comes(channel, select.POLLOUT, seconds)


def _comes(channel: socket.socket | int, what: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(channel, what)
    return bool(poll.poll(math.ceil(max(seconds, 0) * 1000)))
