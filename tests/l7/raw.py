"""A client that sends given segments with given pauses, and tells what came back. Called in an agent, or by any test."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.l7.waiting import readable

QUIET = 0.3  # seconds without a byte after which an open connection counts as quiet


@dataclass(frozen=True)
class Plan:
    """What a client does on one connection. `pauses`: seconds before each segment, the last holds for those after it. `await_answers`:
    before a segment it waits until something came and then nothing for a moment, at most for `quiet`."""

    address: str
    port: int
    segments: tuple[bytes, ...]
    pauses: tuple[float, ...] = (0.0,)
    source: str = ""
    source_port: int = 0
    quiet: float = QUIET
    await_answers: bool = False
    finish: bool = False  # sends FIN after the last segment


@dataclass
class Exchange:
    """`port` is the client's own. `end`: `open` (quiet at last), `eof`, `reset`, or the name of another error; `seconds` from the last
    byte sent to that end; `answers` are the status codes of the responses in `received`."""

    port: int = 0
    received: bytes = b""
    sent: int = 0
    end: str = "open"
    seconds: float = 0.0
    answers: list[int] = field(default_factory=list)


def exchange(plan: Plan) -> Exchange:
    """Never raises for what the peer does."""
    made = Exchange()
    family = socket.AF_INET6 if ":" in plan.address else socket.AF_INET
    with socket.socket(family) as channel:
        channel.settimeout(5)
        try:
            if plan.source or plan.source_port:
                channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                channel.bind((plan.source, plan.source_port))
            channel.connect((plan.address, plan.port))
            made.port = channel.getsockname()[1]
            channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _send(channel, plan, made)
        except OSError as error:
            made.end = _name(error)
        _drain(channel, plan.quiet, made)
    made.answers = statuses(made.received)
    return made


def exchanges(plans: Sequence[Plan], at_once: int = 64) -> list[Exchange]:
    """Many at a time, in the order of the plans."""
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        return list(pool.map(exchange, plans))


def _send(channel: socket.socket, plan: Plan, made: Exchange) -> None:
    for number, segment in enumerate(plan.segments):
        time.sleep(plan.pauses[min(number, len(plan.pauses) - 1)])
        if number and plan.await_answers:
            _await(channel, plan.quiet, made)
        channel.sendall(segment)
        made.sent += len(segment)
    if plan.finish:
        channel.shutdown(socket.SHUT_WR)


def _await(channel: socket.socket, patience: float, made: Exchange) -> None:
    end = time.monotonic() + patience
    while readable(channel, end - time.monotonic()):
        piece = channel.recv(1 << 16)
        if not piece:
            return
        made.received += piece
        end = min(end, time.monotonic() + 0.02)


def _drain(channel: socket.socket, quiet: float, made: Exchange) -> None:
    """Reads what is left, also after an error of sending: an answer may have come before a reset."""
    begun = time.monotonic()
    channel.settimeout(quiet)
    try:
        while piece := channel.recv(1 << 16):
            made.received += piece
        made.end = made.end if made.end != "open" else "eof"
    except TimeoutError:
        pass
    except OSError as error:
        made.end = made.end if made.end != "open" else _name(error)
    made.seconds = time.monotonic() - begun


def _name(error: OSError) -> str:
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "reset"
    return type(error).__name__


def statuses(received: bytes) -> list[int]:
    """The status codes of a stream of responses, by their framing (RFC 9112 section 6); what cannot be framed ends the list. An answer
    to HEAD or to CONNECT is not known here: such tests look at `received`."""
    found = []
    while received.startswith(b"HTTP/"):
        head, gap, rest = received.partition(b"\r\n\r\n")
        if not gap:
            break
        lines = head.split(b"\r\n")
        status = int(lines[0].split(b" ")[1])
        found.append(status)
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(b":") for line in lines[1:])}
        if status < 200 or status in (204, 304):
            received = rest
        elif headers.get(b"transfer-encoding") == b"chunked":
            received = _after_chunks(rest)
        else:
            received = rest[int(headers.get(b"content-length", b"0") or b"0") :]
    return found


def _after_chunks(rest: bytes) -> bytes:
    while True:
        size, gap, rest = rest.partition(b"\r\n")
        if not gap:
            return b""
        count = int(size.partition(b";")[0], 16)
        rest = rest[count + 2 :]
        if count == 0:
            return rest
