"""Ways in which a client brings bytes into a TCP connection, each called in an agent.

Each takes the server's address and port and what to send, and returns what became of it: `answered` (bytes came back), `eof`, `reset`,
`silent`, or the name of an error. `Unsupported` is raised where this kernel has no such way."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Concatenate

from tests.l7.recorder import IPPROTO_MPTCP, give, receive
from tests.l7.waiting import readable

Sender = Callable[Concatenate[str, int, bytes, ...], str]
TCP_FASTOPEN_CONNECT, TCP_ULP = 30, 31  # linux/tcp.h
SOL_TLS, TLS_TX, TLS_1_2, TLS_AES_GCM_128 = 282, 1, 0x0303, 51  # linux/socket.h, linux/tls.h
MSG_FASTOPEN, MSG_ZEROCOPY = 0x20000000, 0x4000000  # linux/socket.h
SO_ZEROCOPY = 60
AF_UNSPEC = struct.pack("<H14x", socket.AF_UNSPEC)
PATIENCE = 1.5  # seconds until a client gives up waiting for an answer
SYN_AGAIN = 4.0  # seconds in which a lost SYN has been sent again


class Unsupported(Exception):
    """The kernel has no such way; the text says what it said."""


class NoKernelTls(Unsupported):
    """It was built without, as some are."""


def came_of(channel: socket.socket) -> str:
    """Waits for an answer."""
    if not readable(channel, PATIENCE):
        return "silent"
    try:
        return "answered" if channel.recv(1 << 16) else "eof"
    except ConnectionResetError:
        return "reset"


def _connected(address: str, port: int, protocol: int = 0) -> socket.socket:
    channel = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, protocol)
    channel.settimeout(5)
    try:
        channel.connect((address, port))
    except OSError:
        channel.close()
        raise
    channel.settimeout(None)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 5, 0))
    return channel


def _through(address: str, port: int, payload: bytes, send: Callable[[socket.socket, bytes], object], protocol: int = 0) -> str:  # fmt: skip
    """Connects as everybody does, and sends by `send`."""
    try:
        with _connected(address, port, protocol) as channel:
            send(channel, payload)
            return came_of(channel)
    except OSError as error:
        return type(error).__name__ if error.errno is None else errno.errorcode.get(error.errno, str(error))


# --- on a connection ----------------------------------------------------------------------------------------------------


def plain(address: str, port: int, payload: bytes) -> str:
    return _through(address, port, payload, socket.socket.sendall)


def byte_by_byte(address: str, port: int, payload: bytes) -> str:
    def send(channel: socket.socket, payload: bytes) -> None:
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(payload)):
            channel.send(payload[at : at + 1])

    return _through(address, port, payload, send)


def corked(address: str, port: int, payload: bytes) -> str:
    """MSG_MORE for each byte, then FIN with the last of them."""

    def send(channel: socket.socket, payload: bytes) -> None:
        for at in range(len(payload)):
            channel.send(payload[at : at + 1], socket.MSG_MORE)
        channel.shutdown(socket.SHUT_WR)

    return _through(address, port, payload, send)


def with_urgent_byte(address: str, port: int, payload: bytes, at: int) -> str:
    """An urgent byte before `payload[at]`, which readers without SO_OOBINLINE do not see."""

    def send(channel: socket.socket, payload: bytes) -> None:
        channel.send(payload[:at] + b"X", socket.MSG_OOB)
        channel.sendall(payload[at:])

    return _through(address, port, payload, send)


def _under_tls(channel: socket.socket) -> None:
    try:
        channel.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
    except FileNotFoundError:
        raise NoKernelTls("TCP_ULP tls: the kernel has no kernel TLS") from None


def under_tls_ulp(address: str, port: int, payload: bytes) -> str:
    """The upper layer protocol `tls` without keys passes everything, by functions of its own."""

    def send(channel: socket.socket, payload: bytes) -> None:
        _under_tls(channel)
        channel.sendall(payload)

    return _through(address, port, payload, send)


def under_tls_keys(address: str, port: int, payload: bytes) -> str:
    """A part of a header in the clear, then kernel TLS with a key of the client's choice: a judge of what is sent reads the rest of the header where the
    wire has `payload`."""
    key, salt = bytes(16), bytes(4)

    def send(channel: socket.socket, payload: bytes) -> None:
        _under_tls(channel)
        wire = b"\r\n\r\n" + payload
        for nonce in (b"nonce%03d" % number for number in range(1000)):
            clear = _xor(wire, _key_stream(key, salt + nonce + b"\0\0\0\2", len(wire)))
            if not set(clear) & set(b"\0\r\n"):  # it can stand in a header
                break
        channel.sendall(b"GET /public/a HTTP/1.1\r\nHost: api\r\nX: ")
        info = struct.pack("<HH8s16s4s8s", TLS_1_2, TLS_AES_GCM_128, nonce, key, salt, bytes(8))
        channel.setsockopt(SOL_TLS, TLS_TX, info)
        channel.sendall(clear + b"a" * 40)  # as many bytes more as the record has

    return _through(address, port, payload, send)


def _key_stream(key: bytes, counter: bytes, size: int) -> bytes:
    """Of AES in counter mode, by the kernel."""
    try:
        with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as algorithm:
            algorithm.bind(("skcipher", "ctr(aes)"))
            algorithm.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, key)
            operation, _ = algorithm.accept()
            with operation:
                operation.sendmsg_afalg([bytes(size)], op=socket.ALG_OP_ENCRYPT, iv=counter)
                return operation.recv(size)
    except OSError as error:
        raise Unsupported(f"AF_ALG: {error.strerror}") from None


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def by_sendfile(address: str, port: int, payload: bytes) -> str:
    def send(channel: socket.socket, payload: bytes) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(payload)
            file.flush()
            os.sendfile(channel.fileno(), file.fileno(), 0, len(payload))

    return _through(address, port, payload, send)


def by_splice(address: str, port: int, payload: bytes) -> str:
    def send(channel: socket.socket, payload: bytes) -> None:
        reading, writing = os.pipe()
        try:
            os.write(writing, payload)
            os.splice(reading, channel.fileno(), len(payload))
        finally:
            os.close(reading)
            os.close(writing)

    return _through(address, port, payload, send)


def by_zerocopy(address: str, port: int, payload: bytes) -> str:
    def send(channel: socket.socket, payload: bytes) -> None:
        try:
            channel.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        except OSError as error:
            raise Unsupported(f"SO_ZEROCOPY: {error.strerror}") from None
        channel.send(payload, MSG_ZEROCOPY)

    return _through(address, port, payload, send)


def by_io_uring(address: str, port: int, payload: bytes, zero_copy: bool = False) -> str:
    """IORING_OP_SEND, or IORING_OP_SEND_ZC."""

    def send(channel: socket.socket, payload: bytes) -> None:
        with _Ring() as ring:
            result = ring.send(channel.fileno(), payload, zero_copy)
        if result == -errno.EINVAL and zero_copy:
            raise Unsupported("IORING_OP_SEND_ZC: Invalid argument")
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    return _through(address, port, payload, send)


def by_mptcp(address: str, port: int, payload: bytes) -> str:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError as error:
        raise Unsupported(f"IPPROTO_MPTCP: {error.strerror}") from None
    return _through(address, port, payload, socket.socket.sendall, IPPROTO_MPTCP)


# --- while connecting ---------------------------------------------------------------------------------------------------


def by_fastopen(address: str, port: int, payload: bytes) -> str:
    """Twice: the first connection may only fetch a cookie."""
    result = ""
    for _ in range(2):
        with socket.socket() as channel:
            channel.settimeout(5)
            try:
                channel.sendto(payload, MSG_FASTOPEN, (address, port))
            except OSError as error:
                return type(error).__name__
            result = came_of(channel)
    return result


def by_fastopen_connect(address: str, port: int, payload: bytes) -> str:
    """connect() returns at once, the SYN goes with the first bytes."""
    result = ""
    for _ in range(2):
        with socket.socket() as channel:
            channel.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            channel.settimeout(5)
            try:
                channel.connect((address, port))
                channel.sendall(payload)
            except OSError as error:
                return type(error).__name__
            result = came_of(channel)
    return result


def while_connecting(address: str, port: int, payload: bytes, pieces: int = 1) -> str:
    """A send() that waits inside the kernel for the connection; who calls this loses the first SYN on its way."""
    channel = socket.socket()
    try:
        channel.setblocking(False)
        if channel.connect_ex((address, port)) != errno.EINPROGRESS:
            return "connected at once"
        channel.setblocking(True)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SYN_AGAIN), 0))
        size = -(-len(payload) // pieces)
        for at in range(0, len(payload), size):
            channel.send(payload[at : at + size])
        return came_of(channel)
    except OSError as error:
        return type(error).__name__
    finally:
        channel.close()


def simultaneously(address: str, port: int, payload: bytes, source: tuple[str, int]) -> str:
    """Connects from a port to which the peer connects at the same time; the first SYNs of both are lost on their way."""
    with socket.socket() as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        channel.bind(source)
        channel.settimeout(SYN_AGAIN)
        try:
            channel.connect((address, port))
            channel.sendall(payload)
        except OSError as error:
            return type(error).__name__
        return came_of(channel)


def on_a_used_socket(address: str, port: int, payload: bytes, other: int) -> str:
    """A socket that was connected to another port, dissolved (AF_UNSPEC) and connected again."""
    libc = ctypes.CDLL(None, use_errno=True)
    with _connected(address, other) as channel:
        if libc.connect(channel.fileno(), AF_UNSPEC, len(AF_UNSPEC)) != 0:
            raise Unsupported("connect(AF_UNSPEC)")
        try:
            channel.connect((address, port))
            channel.sendall(payload)
        except OSError as error:
            return type(error).__name__
        return came_of(channel)


# --- connections that are kept ------------------------------------------------------------------------------------------

_kept: dict[str, socket.socket] = {}


def keep(address: str, port: int, first: bytes = b"") -> str:
    """Connects for later, and has `first` answered."""
    channel = _kept["it"] = _connected(address, port)
    if not first:
        return "connected"
    channel.sendall(first)
    return came_of(channel)


def use(payload: bytes) -> str:
    """Sends on the connection that was kept or received."""
    with _kept.pop("it") as channel:
        try:
            channel.sendall(payload)
        except OSError as error:
            return type(error).__name__
        return came_of(channel)


def give_kept(path: str) -> None:
    """To whoever waits at `path` (`wait_for_gift`)."""
    with _kept.pop("it") as channel:
        give(channel, path)


def wait_for_gift(path: str) -> None:
    """In the background."""

    def wait() -> None:
        _kept["it"] = receive(path)

    threading.Thread(target=wait, daemon=True).start()


def has_gift() -> bool:
    end = time.monotonic() + 5
    while "it" not in _kept and time.monotonic() < end:
        time.sleep(0.01)
    return "it" in _kept


# --- io_uring (linux/io_uring.h) ------------------------------------------------------------------------------------------

SYS_SETUP, SYS_ENTER = 425, 426
OP_SEND, OP_SEND_ZC = 26, 47
ENTER_GETEVENTS = 1
OFF_SQ_RING, OFF_CQ_RING, OFF_SQES = 0, 0x8000000, 0x10000000
PARAMS, SQE_SIZE, CQE_SIZE = 120, 64, 16


class _Ring:
    """A ring with one submission at a time."""

    def __enter__(self) -> _Ring:
        self._libc = ctypes.CDLL(None, use_errno=True)
        params = ctypes.create_string_buffer(PARAMS)
        self._fd = self._libc.syscall(SYS_SETUP, 4, params)
        if self._fd < 0:
            raise Unsupported(f"io_uring_setup: {os.strerror(ctypes.get_errno())}")
        sq_entries, cq_entries = struct.unpack_from("<II", params.raw, 0)
        # struct io_sqring_offsets at 40: head, tail, ring_mask, ring_entries, flags, dropped, array; io_cqring_offsets at 80
        self._sq = struct.unpack_from("<7I", params.raw, 40)
        self._cq = struct.unpack_from("<6I", params.raw, 80)
        self._sq_ring = mmap.mmap(self._fd, self._sq[6] + sq_entries * 4, offset=OFF_SQ_RING)
        self._cq_ring = mmap.mmap(self._fd, self._cq[5] + cq_entries * CQE_SIZE, offset=OFF_CQ_RING)
        self._sqes = mmap.mmap(self._fd, sq_entries * SQE_SIZE, offset=OFF_SQES)
        return self

    def __exit__(self, *_: object) -> None:
        for ring in (self._sq_ring, self._cq_ring, self._sqes):
            ring.close()
        os.close(self._fd)

    def send(self, descriptor: int, payload: bytes, zero_copy: bool) -> int:
        """The result of the operation: bytes sent, or an error number below 0."""
        held = ctypes.create_string_buffer(payload, len(payload))
        operation = OP_SEND_ZC if zero_copy else OP_SEND
        # struct io_uring_sqe: opcode, flags, ioprio, fd, off, addr, len, msg_flags, user_data
        sqe = struct.pack("<BBHiQQIIQ", operation, 0, 0, descriptor, 0, ctypes.addressof(held), len(payload), 0, 1)
        self._sqes[: len(sqe)] = sqe
        (tail,) = struct.unpack_from("<I", self._sq_ring, self._sq[1])
        struct.pack_into("<I", self._sq_ring, self._sq[6], 0)
        struct.pack_into("<I", self._sq_ring, self._sq[1], tail + 1)
        if self._libc.syscall(SYS_ENTER, self._fd, 1, 1, ENTER_GETEVENTS, None, 0) < 0:
            raise Unsupported(f"io_uring_enter: {os.strerror(ctypes.get_errno())}")
        (_, result, _) = struct.unpack_from("<QiI", self._cq_ring, self._cq[5])
        return int(result)
