"""A server that asks level-triggered whether there is something to read, as event loops do, and counts how often it is told so in vain. Called in an agent."""

from __future__ import annotations

import select
import socket
import threading
import time

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_vain: list[int] = []


def start(port: int, seconds: float) -> None:
    """One connection, for so long; what comes is answered once."""
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=_serve, args=(listener, seconds), daemon=True).start()


def _serve(listener: socket.socket, seconds: float) -> None:
    with listener, listener.accept()[0] as channel:
        channel.setblocking(False)
        vain, answered, end = 0, False, time.monotonic() + seconds
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        while (left := end - time.monotonic()) > 0:
            if not poll.poll(left * 1000):
                continue
            try:
                if not channel.recv(1 << 16):
                    break
            except BlockingIOError:
                vain += 1
            except OSError:
                break
            else:
                if not answered:
                    channel.send(OK)
                answered = True
        _vain.append(vain)


def in_vain(patience: float) -> int:
    """How often, once the connection has been served."""
    end = time.monotonic() + patience
    while not _vain and time.monotonic() < end:
        time.sleep(0.02)
    return _vain.pop()
