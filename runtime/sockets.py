"""The TCP sockets of this network namespace (sock_diag(7), linux/inet_diag.h)."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass, replace

from policyc.runtime.addresses import Address
from policyc.runtime.libbpf import error
from policyc.runtime.netlink import attributes, command, dump

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 4, 20, 21
INET_DIAG_CGROUP_ID = 21
SYN_SENT, LISTEN = 2, 10
# ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING
CONNECTED = (1, SYN_SENT, 4, 5, 8, 9, 11)
REQUEST = struct.Struct("=BBBxI48s")  # family, protocol, extensions, states; struct inet_diag_sockid
ANSWER = struct.Struct("=BBxx2s2s16s16s4xQ20x")  # family, state; ports and addresses (network order), cookie
SOCKET = slice(4, 52)  # of ANSWER: struct inet_diag_sockid
MAPPED = 0xFFFF << 32  # ::ffff:0:0, above an IPv4 address


@dataclass(frozen=True)
class Connection:
    """`arriving`: a socket listens on the local port, so the other end began. `cgroup` is 0 where it is not known. `established`:
    it is not just being opened from here. `family` and `socket` are by what name the kernel knows the socket, `cookie` is its number."""

    local: Address
    remote: Address
    local_port: bytes  # network order
    remote_port: bytes
    arriving: bool
    cgroup: int
    established: bool = True
    cookie: int = 0
    family: int = 0
    socket: bytes = b""


def connections() -> list[Connection]:
    """All that can be listed; none where the kernel has no sock_diag. IPv4 over an IPv6 socket is IPv4."""
    states = sum(1 << state for state in (LISTEN, *CONNECTED))
    listening: set[bytes] = set()
    found: list[Connection] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in _dump(REQUEST.pack(family, socket.IPPROTO_TCP, 0, states, b"")):
            _, state, local_port, remote_port, local, remote, cookie = ANSWER.unpack_from(body)
            if state == LISTEN:
                listening.add(local_port)
                continue
            cgroup = int.from_bytes(attributes(body[ANSWER.size :]).get(INET_DIAG_CGROUP_ID, b"")[:8], "little")
            ends = _address(family, local), _address(family, remote), local_port, remote_port
            name = family, body[SOCKET]
            found.append(Connection(*ends, False, cgroup, state != SYN_SENT, cookie, *name))
    return [replace(one, arriving=True) if one.local_port in listening else one for one in found]


def destroy(connection: Connection) -> bool:
    """Resets a listed connection at both ends; whether it was still there. Raises `OperationError` where that is not permitted, or
    the kernel has no SOCK_DESTROY."""
    request = REQUEST.pack(connection.family, socket.IPPROTO_TCP, 0, 0, connection.socket)
    number = command(SOCK_DESTROY, request, NETLINK_SOCK_DIAG)
    if number in (0, errno.ENOENT):
        return number == 0
    raise error(number, "reset a connection (kernel option INET_DIAG_DESTROY)")


def _dump(request: bytes) -> list[bytes]:
    try:
        return list(dump(SOCK_DIAG_BY_FAMILY, request, NETLINK_SOCK_DIAG))
    except OSError:  # a kernel without sock_diag
        return []


def _address(family: int, data: bytes) -> Address:
    if family == socket.AF_INET:
        return "4", int.from_bytes(data[:4], "big")
    number = int.from_bytes(data, "big")
    return ("4", number & 0xFFFFFFFF) if number >> 32 == MAPPED >> 32 else ("6", number)
