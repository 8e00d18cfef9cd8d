"""The process that plays streams for `policyc.kernel_streams`: in network and mount namespaces of its own, where every address is its own, with a load of
the artifact at two cgroups. `python -m policyc.stream_worker` reads pickled messages from its input, each behind its length, and answers each with one.

When it ends, its namespaces go, with the load; the cgroups and the folder are its parent's to remove."""

from __future__ import annotations

import ctypes
import os
import pickle
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import BinaryIO

from policyc.artifact import reader
from policyc.artifact.layout import CGROUP, CGROUP_KEY, ENDPOINT, HOST_ENDPOINT, CgroupKind, EndpointFlag
from policyc.artifact.stream_layout import STREAM_EVENT_HOOK, StreamHook
from policyc.diagnostics import OperationError
from policyc.model import Direction, Endpoint
from policyc.reference.world import Address
from policyc.runtime import netlink, requests, streams
from policyc.runtime.cgroups import resolve
from policyc.runtime.libbpf import error
from policyc.runtime.load import Options, load
from policyc.runtime.namespaces import CLONE_NEWNET
from policyc.runtime.pins import NUMBER
from policyc.runtime.points import CgroupPoint
from policyc.runtime.query import View, view
from policyc.runtime.ringbuf import RingBuffer
from policyc.stream_answers import Answering

CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
RTM_NEWLINK, RTM_NEWROUTE, NLM_F_CREATE = 16, 24, 0x400
IFF_UP, RTA_OIF = 1, 4
ROUTE = struct.Struct(
    "=BBBBBBBBI"
)  # struct rtmsg: family, lengths of dst and src, tos, table, protocol, scope, type, flags
TABLE_LOCAL, PROTOCOL_STATIC, SCOPE_HOST, ROUTE_LOCAL = 255, 4, 254, 2
LOOPBACK = 1
IP_FREEBIND = 15
SO_LINGER_RESET = struct.pack("ii", 1, 0)
LENGTH = struct.Struct("!I")
NAME = "streams"
CLIENT, SERVER = "policyc-eval-client", "policyc-eval-server"  # endpoints whose cgroups the ends' are
PATIENCE_S = 5.0
QUIET_S = 0.05  # after a denial, for what is still on its way
DIRECTIONS = {
    STREAM_EVENT_HOOK + StreamHook.STREAM_IN: Direction.INGRESS,
    STREAM_EVENT_HOOK + StreamHook.STREAM_OUT: Direction.EGRESS,
}


@dataclass(frozen=True)
class Setting:
    """What a worker begins with. `cgroups`: of the client, of the server; `free`: one where nobody is judged; `folder`: for pins and state."""

    artifact: bytes
    endpoints: tuple[Endpoint, ...]
    host: tuple[Address, ...]
    cgroups: tuple[str, str]
    free: str
    folder: str


@dataclass(frozen=True)
class Stream:
    """`subjects`: who is judged at the client's and at the server's end: an endpoint's name, "" for the host, None where nobody is."""

    source: Address
    destination: Address
    port: int
    subjects: tuple[str | None, str | None]
    segments: tuple[bytes, ...]


@dataclass(frozen=True)
class Report:
    """The records of requests, in the order in which they came."""

    records: tuple[tuple[Direction, bytes], ...]


class Unplayable(Exception):
    """Sockets cannot have these ends."""


# --- where it happens -----------------------------------------------------------------------------------------------


def enter_namespaces() -> None:
    """New ones, in which every address is local. Raises `OperationError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET | CLONE_NEWNS) != 0:
        raise error(ctypes.get_errno(), "make a network namespace (CAP_SYS_ADMIN)")
    if libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        raise error(ctypes.get_errno(), "make the mounts of a process private (CAP_SYS_ADMIN)")
    _command(RTM_NEWLINK, netlink.IFINFO.pack(0, 0, LOOPBACK, IFF_UP, IFF_UP), "bring up lo")


def own_all_addresses() -> None:
    out = struct.pack("=HHI", 8, RTA_OIF, LOOPBACK)
    for family in (socket.AF_INET, socket.AF_INET6):
        route = ROUTE.pack(family, 0, 0, 0, TABLE_LOCAL, PROTOCOL_STATIC, SCOPE_HOST, ROUTE_LOCAL, 0)
        _command(RTM_NEWROUTE, route + out, "make every address local")


def _command(kind: int, body: bytes, what: str) -> None:
    number = netlink.command(kind, body, flags=NLM_F_CREATE)
    if number:
        raise error(number, what)


class Worker:
    def __init__(self, setting: Setting) -> None:
        enter_namespaces()
        folder = Path(setting.folder)
        os.environ |= {"POLICYC_BPFFS": str(folder / "bpf"), "POLICYC_STATE": str(folder / "state")}
        ends = [Endpoint(name, cgroup=path) for name, path in zip((CLIENT, SERVER), setting.cgroups, strict=True)]
        known = [Endpoint(e.name, e.addresses, e.labels) for e in setting.endpoints]
        load(reader.read(setting.artifact), NAME, Options([*known, *ends], setting.host, events="all", l7_deny=True))
        own_all_addresses()  # after the load, which takes a device's addresses for the host's
        found = view(NAME)
        self._indices = {name: entry.index for name, entry in found.endpoints.items()} | {"": HOST_ENDPOINT}
        self._free = setting.free
        self._streams = streams.Streams(found.pins)
        self._cgroups = found.pins.map("cgroups", found.header.number)
        self._points = [found.plan.cgroups[resolve(path).id] for path in setting.cgroups]
        self._judge_loopback(found)
        self._events = found.pins.map("events")
        self._ring = RingBuffer(self._events.fd)

    def _judge_loopback(self, found: View) -> None:
        """All happens on the loopback device, which is not judged in a network namespace that is an endpoint's own: here none is."""
        with closing(found.pins.map("endpoints", found.header.number)) as table:
            for index in self._indices.values():
                slot, flags = ENDPOINT.unpack(table.lookup(NUMBER.pack(index)) or bytes(ENDPOINT.size))
                table.update(NUMBER.pack(index), ENDPOINT.pack(slot, flags & ~EndpointFlag.OWN_NETNS))

    def play(self, stream: Stream) -> Report:
        """Raises Unplayable, or `OperationError` where it does not go on."""
        places = [self._place(*end) for end in zip(self._points, stream.subjects, strict=True)]
        list(self._ring.consume())
        _join(places[1])
        with _listening(stream.destination, stream.port) as listener:
            _join(places[0])
            with _connected(stream, listener.getsockname()) as client:
                listener.settimeout(PATIENCE_S)
                server, _ = listener.accept()
                with server:
                    return _Play(client, server, self._ring, stream.segments).report()

    def _place(self, point: CgroupPoint, subject: str | None) -> str:
        """The cgroup for an end at which `subject` is judged."""
        if subject is None:
            return self._free
        index = self._indices[subject]
        self._cgroups.update(CGROUP_KEY.pack(point.id), CGROUP.pack(CgroupKind.JUDGE, index))
        self._streams.settle(point, index)
        return point.path


def _join(cgroup: str) -> None:
    Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))


def _socket(address: Address) -> socket.socket:
    made = socket.socket(socket.AF_INET if address[0] == "4" else socket.AF_INET6, socket.SOCK_STREAM)
    made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)  # no device has the address
    return made


def _place(address: Address, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    family, number = address
    if family == "4":
        return str(IPv4Address(number)), port
    text = IPv6Address(number)
    return str(text), port, 0, LOOPBACK if text.is_link_local else 0


def _listening(address: Address, port: int) -> socket.socket:
    listener = _socket(address)
    try:
        if port == 0:
            raise OSError
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(_place(address, port))
        listener.listen(1)
    except OSError:
        listener.close()
        raise Unplayable from None
    return listener


def _connected(stream: Stream, place: object) -> socket.socket:
    client = _socket(stream.source)
    try:
        client.bind(_place(stream.source, 0))
        client.settimeout(PATIENCE_S)
        client.connect(place)  # type: ignore[arg-type]
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        client.close()
        raise Unplayable from None
    return client


# --- one stream -------------------------------------------------------------------------------------------------------


class _Play:
    def __init__(
        self, client: socket.socket, server: socket.socket, ring: RingBuffer, segments: Sequence[bytes]
    ) -> None:
        self._client, self._server, self._ring, self._segments = client, server, ring, segments
        self._port = client.getsockname()[1]
        self._records: list[tuple[Direction, bytes]] = []
        self._answering = Answering()
        self._sent = self._read = self._received = self._due = 0
        self._answers = b""  # that are to be sent when the write at hand has been read
        self._denied = False

    def report(self) -> Report:
        for channel in (self._client, self._server):
            channel.setblocking(False)
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SO_LINGER_RESET)
        for segment in self._segments:
            self._write(segment)
            if self._denied:
                break
            self._server.sendall(self._answers)
            self._due, self._answers = self._due + len(self._answers), b""
            self._wait(lambda: self._received >= self._due)
        self._rest()
        return Report(tuple(self._records))

    def _write(self, segment: bytes) -> None:
        """Sends one write, and waits until the server has read it whole, and what was before it."""
        self._sent += len(segment)
        left = memoryview(segment)

        def step() -> bool:
            nonlocal left
            if left:
                try:
                    left = left[self._client.send(left) :]
                except BlockingIOError:
                    pass
                except OSError:  # the connection is denied: its report is on its way
                    left = left[:0]
            return self._read >= self._sent

        self._wait(step)

    def _wait(self, step: Callable[[], bool]) -> None:
        """Until `step` says so, or a request is denied."""
        end = time.monotonic() + PATIENCE_S
        while not step() and not self._denied:
            self._look()
            self._take()
            if time.monotonic() > end:
                raise OperationError("a stream does not go on: the kernel neither passes nor denies it")

    def _rest(self) -> None:
        end = time.monotonic() + (QUIET_S if self._denied else 0)
        while True:
            self._take()
            self._look()
            if time.monotonic() >= end:
                return

    def _take(self) -> None:
        """What both ends can read now."""
        self._received += len(_read(self._client))
        data = _read(self._server)
        self._read += len(data)
        self._answers += self._answering.take(data)

    def _look(self) -> None:
        for record in self._ring.poll(1):
            if not requests.is_request(record):
                continue
            f = requests.fields(record)
            if int.from_bytes(f["source_port"], "big") == self._port:
                self._records.append((DIRECTIONS[f["hook"]], record))
                self._denied = self._denied or not f["verdict"]


def _read(channel: socket.socket) -> bytes:
    found = b""
    try:
        while piece := channel.recv(1 << 18):
            found += piece
    except OSError:
        pass
    return found


# --- messages ---------------------------------------------------------------------------------------------------------


def send(sink: BinaryIO, message: object) -> None:
    data = pickle.dumps(message)
    sink.write(LENGTH.pack(len(data)) + data)
    sink.flush()


def receive(source: BinaryIO) -> object:
    """None at the end."""
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return pickle.loads(source.read(*LENGTH.unpack(head)))


def main() -> None:
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = None
    while (message := receive(source)) is not None:
        answer: object = None
        try:
            if isinstance(message, Setting):
                worker = Worker(message)
            elif isinstance(message, Stream) and worker is not None:
                answer = worker.play(message)
        except (OperationError, Unplayable) as failure:
            answer = failure
        except OSError as failure:
            answer = OperationError(f"streams cannot be played: {failure.strerror}")
        send(sink, answer)


if __name__ == "__main__":
    # What is pickled must have this module's name, not that of the program.
    from policyc import stream_worker

    stream_worker.main()
