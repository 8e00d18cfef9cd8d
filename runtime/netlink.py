"""Questions to rtnetlink: devices, addresses and tc filters of this network namespace (rtnetlink(7), linux/rtnetlink.h)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from policyc.runtime.addresses import Address
from policyc.runtime.libbpf import error

NETLINK_ROUTE = 0
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_GETLINK, RTM_GETADDR, RTM_GETQDISC, RTM_GETTFILTER = 18, 22, 38, 46
IFLA_IFNAME, IFA_ADDRESS, IFA_LOCAL = 3, 1, 2
TCA_KIND, TCA_OPTIONS, TCA_BPF_ID = 1, 2, 11
ARPHRD_ETHER = 1
IFF_LOOPBACK = 8
CLSACT_PARENT = 0xFFFFFFF1
CLSACT_INGRESS, CLSACT_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3  # parents of the filters of a clsact qdisc

MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, port
IFINFO = struct.Struct("=BxHiII")  # family, ARPHRD type, index, flags, change
IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
TCMSG = struct.Struct("=BxHiIII")  # family, (padding), ifindex, handle, parent, priority << 16 | protocol


@dataclass(frozen=True)
class Device:
    name: str
    ifindex: int
    ethernet: bool
    loopback: bool


@dataclass(frozen=True)
class Filter:
    """A tc filter; `program` is the number of its BPF program, 0 where it has none."""

    kind: str
    priority: int
    handle: int
    program: int


def devices() -> dict[str, Device]:
    """Devices of this network namespace by name."""
    found = {}
    for body in dump(RTM_GETLINK, IFINFO.pack(0, 0, 0, 0, 0)):
        _, arphrd, ifindex, flags, _ = IFINFO.unpack_from(body)
        name = attributes(body[IFINFO.size :]).get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
        found[name] = Device(name, ifindex, arphrd == ARPHRD_ETHER, bool(flags & IFF_LOOPBACK))
    return found


def interface_addresses() -> set[Address]:
    """All addresses of all devices of this network namespace."""
    found: set[Address] = set()
    for body in dump(RTM_GETADDR, IFADDR.pack(0, 0, 0, 0, 0)):
        family = IFADDR.unpack_from(body)[0]
        given = attributes(body[IFADDR.size :])
        # On a point-to-point device IFA_ADDRESS is the other end's.
        address = given.get(IFA_LOCAL) or given.get(IFA_ADDRESS)
        if address is not None and family in (socket.AF_INET, socket.AF_INET6):
            found.add(("4" if family == socket.AF_INET else "6", int.from_bytes(address, "big")))
    return found


def filters(ifindex: int, parent: int) -> list[Filter]:
    """The filters at one side of a device; none where it has no clsact qdisc."""
    found = []
    for body in dump(RTM_GETTFILTER, TCMSG.pack(0, 0, ifindex, 0, parent, 0)):
        _, _, _, handle, _, info = TCMSG.unpack_from(body)
        given = attributes(body[TCMSG.size :])
        options = attributes(given.get(TCA_OPTIONS, b""))
        program = int.from_bytes(options.get(TCA_BPF_ID, b"")[:4], "little" if _LITTLE else "big")
        kind = given.get(TCA_KIND, b"").rstrip(b"\0").decode(errors="replace")
        if handle:  # handle 0 announces the priority itself
            found.append(Filter(kind, info >> 16, handle, program))
    return found


def ingress_qdisc(ifindex: int) -> str | None:
    """The kind of qdisc that holds filters of arriving packets (`clsact`, `ingress`), None where there is none."""
    for body in dump(RTM_GETQDISC, TCMSG.pack(0, 0, 0, 0, 0, 0)):
        _, _, index, _, parent, _ = TCMSG.unpack_from(body)
        if index == ifindex and parent == CLSACT_PARENT:
            return attributes(body[TCMSG.size :]).get(TCA_KIND, b"").rstrip(b"\0").decode(errors="replace")
    return None


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def dump(kind: int, body: bytes, protocol: int = NETLINK_ROUTE) -> Iterator[bytes]:
    """The bodies of the messages that answer a dump request; none where the kernel does not know what is asked for."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as channel:
        channel.bind((0, 0))
        channel.send(MESSAGE.pack(MESSAGE.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        while True:
            data = channel.recv(1 << 17)
            offset = 0
            while offset + MESSAGE.size <= len(data):
                length, answer, _, _, _ = MESSAGE.unpack_from(data, offset)
                content = data[offset + MESSAGE.size : offset + length]
                if answer == NLMSG_DONE:
                    return
                if answer == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", content)[0]
                    if number in (2, 19, 22):  # ENOENT, ENODEV, EINVAL: no such qdisc or device
                        return
                    raise error(number, "ask the kernel for its devices and sockets (netlink)")
                yield content
                offset += (length + 3) & ~3


def command(kind: int, body: bytes, protocol: int = NETLINK_ROUTE, flags: int = 0) -> int:
    """Has the kernel do something, with more `flags` than a command needs; the errno of its answer, 0 where it is done."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as channel:
        channel.bind((0, 0))
        channel.send(MESSAGE.pack(MESSAGE.size + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0) + body)
        answer = channel.recv(1 << 16)
    return -int(struct.unpack_from("=i", answer, MESSAGE.size)[0])


def attributes(data: bytes) -> dict[int, bytes]:
    """struct rtattr, one after another: type without its flag bits → payload."""
    found, offset = {}, 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def namespace() -> int:
    """The inode of this process's network namespace."""
    return os.stat("/proc/self/ns/net").st_ino
