"""The TCP sockets of this network namespace (sock_diag(7), linux/inet_diag.h)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from policyc.runtime.addresses import Address
from policyc.runtime.netlink import attributes, dump

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
INET_DIAG_CGROUP_ID = 21
LISTEN = 10
# ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING
CONNECTED = (1, 2, 4, 5, 8, 9, 11)
REQUEST = struct.Struct("=BBBxI48x")  # family, protocol, extensions, states; struct inet_diag_sockid
ANSWER = struct.Struct("=BBxx2s2s16s16s12x20x")  # family, state, ports and addresses (network order)
MAPPED = 0xFFFF << 32  # ::ffff:0:0, above an IPv4 address


@dataclass(frozen=True)
class Connection:
    """`arriving`: a socket listens on the local port, so the other end began. `cgroup` is 0 where it is not known."""

    local: Address
    remote: Address
    local_port: bytes  # network order
    remote_port: bytes
    arriving: bool
    cgroup: int


def connections() -> list[Connection]:
    """All that can be listed; none where the kernel has no sock_diag. IPv4 over an IPv6 socket is IPv4."""
    states = sum(1 << state for state in (LISTEN, *CONNECTED))
    listening: set[bytes] = set()
    found: list[tuple[Address, Address, bytes, bytes, int]] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in _dump(REQUEST.pack(family, socket.IPPROTO_TCP, 0, states)):
            _, state, local_port, remote_port, local, remote = ANSWER.unpack_from(body)
            if state == LISTEN:
                listening.add(local_port)
                continue
            cgroup = int.from_bytes(attributes(body[ANSWER.size :]).get(INET_DIAG_CGROUP_ID, b"")[:8], "little")
            found.append((_address(family, local), _address(family, remote), local_port, remote_port, cgroup))
    return [Connection(a, b, p, q, p in listening, cgroup) for a, b, p, q, cgroup in found]


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
