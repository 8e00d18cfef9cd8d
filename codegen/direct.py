"""Reading the common packet where it lies: TCP or UDP over IPv4 without options or IPv6 without extension headers, untagged, no
fragment, its heads in the linear part. All else is left to the parser, which copies by helper (parse.py).

The two agree: what is read here the parser would read alike, and what looks unsound here the parser judges.
"""

from __future__ import annotations

from enum import Enum

from policyc.codegen.flow import OFFSET, Flow
from policyc.codegen.function import I8, I16, I32, I64, Function, Value
from policyc.codegen.parse import ETH_IPV4, ETH_IPV6, HEADER_BYTES, TCP, UDP

ETHERNET_BYTES = 14
IPV4_BYTES, IPV6_BYTES = 20, 40
IPV4_NO_OPTIONS = 0x45  # version and header length
IPV4_FRAGMENT = 0xFF3F  # network: offset and "more fragments" of the word at 6
LEAST_TCP_WORDS = 5 << 4  # data offset in the upper half of its byte


class Context(Enum):
    """Kinds of context that a packet is parsed from."""

    TC = "tc"
    CGROUP = "cgroup"
    XDP = "xdp"


# Offsets in the contexts (linux/bpf.h: struct __sk_buff, struct xdp_md).
SKB_LEN, SKB_PROTOCOL, SKB_VLAN_PRESENT, SKB_IFINDEX, SKB_DATA, SKB_DATA_END = 0, 16, 20, 40, 76, 80
XDP_DATA, XDP_DATA_END, XDP_INGRESS_IFINDEX = 0, 4, 12


def read(f: Function, kind: Context, context: Value, flow: Flow, leaves: bool, has_streams: bool) -> Value:
    """Fills the record from a common packet and tells (i1) whether it was one; else the record is as it was. `leaves`: it
    travels away from the subject, whose side is then its source."""
    is_common = f.var(0, I8)
    done = f.b.append_basic_block("not_direct")
    at = (XDP_DATA, XDP_DATA_END) if kind is Context.XDP else (SKB_DATA, SKB_DATA_END)
    data, end = (f.pointer(f.load(context, I32, offset)) for offset in at)
    start = 0 if kind is Context.CGROUP else ETHERNET_BYTES

    def need(size: int) -> None:
        with f.if_(f.cmp(">", f.at_offset(data, start + size), end)):
            f.leave(done)

    def refuse(condition: Value) -> None:
        with f.if_(condition):
            f.leave(done)

    def transport(family: int, protocol: Value, length: Value) -> None:
        """`length`: bytes of the IP packet, i32. Its head and as much as UDP's are there."""
        header = IPV4_BYTES if family == 4 else IPV6_BYTES
        l4 = start + header
        tcp_flags = f.var(0, I8)
        with f.if_else(f.eq(protocol, TCP)) as (tcp, udp):
            with tcp:
                refuse(f.cmp("<", length, header + HEADER_BYTES[TCP]))
                need(header + HEADER_BYTES[TCP])
                refuse(f.cmp("<", f.load(data, I8, l4 + 12), LEAST_TCP_WORDS))
                tcp_flags.set(f.load(data, I8, l4 + 13))
                if has_streams:
                    flow.set("sequence", f.swap(f.load(data, I32, l4 + 4)))
                    words = f.shr(f.load(data, I8, l4 + 12), 4)
                    head = f.add(f.shl(f.to(words, I32), 2), header)
                    flow.set("payload_at", f.add(head, start))
                    flow.set("payload", f.select(f.cmp(">", length, head), f.sub(length, head), I32(0)))
            with udp:
                refuse(f.ne(protocol, UDP))
                refuse(f.cmp("<", length, header + HEADER_BYTES[UDP]))
        ports = f.load(data, I32, l4)
        destination = f.swap(f.to(f.shr(ports, 16), I16))
        turned = f.or_(f.shr(ports, 16), f.shl(ports, 16))
        type_, source, size = (I32, start + 12, 4) if family == 4 else (I64, start + 8, 16)

        for name, place in zip(
            ("local", "remote") if leaves else ("remote", "local"), (source, source + size), strict=True
        ):
            f.copy(flow.pointer, OFFSET[name], data, place, size, type_)
        f.store(flow.pointer, ports if leaves else turned, offset=OFFSET["local_port"])
        flow.set("family", family)
        flow.set("protocol", protocol)
        flow.set("length", length)
        flow.set("tcp_flags", tcp_flags.get())
        flow.set("key", f.or_(f.shl(f.to(protocol, I32), 16), f.to(destination, I32)))
        is_common.set(1)

    need(IPV4_BYTES + HEADER_BYTES[UDP])
    if kind is Context.CGROUP:
        ethertype = f.swap(f.to(f.load(context, I32, SKB_PROTOCOL), I16))
    else:
        ethertype = f.swap(f.load(data, I16, 12))
    with f.if_else(f.eq(ethertype, ETH_IPV4)) as (v4, other):
        with v4:
            refuse(f.ne(f.load(data, I8, start), IPV4_NO_OPTIONS))
            refuse(f.bits(f.load(data, I16, start + 6), IPV4_FRAGMENT))
            transport(4, f.load(data, I8, start + 9), f.to(f.swap(f.load(data, I16, start + 2)), I32))
        with other:
            refuse(f.ne(ethertype, ETH_IPV6))
            need(IPV6_BYTES + HEADER_BYTES[UDP])
            refuse(f.ne(f.shr(f.load(data, I8, start), 4), 6))
            payload = f.to(f.swap(f.load(data, I16, start + 4)), I32)
            transport(6, f.load(data, I8, start + 6), f.add(payload, IPV6_BYTES))
    f.leave(done)
    f.b.position_at_end(done)
    return f.ne(is_common.get(), 0)
