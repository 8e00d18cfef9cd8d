"""Parsing a packet into the flow record: Ethernet and VLAN tags, IPv4, IPv6 with extension headers, L4 heads, quoted packets.

Every read is a helper call that copies a few bytes to the stack and fails beyond the packet's end, whatever part of the packet
is linear. What cannot be parsed raises a flag; judging it is not the parser's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from policyc.codegen.flow import SCRATCH_SIZE, Flag, Flow
from policyc.codegen.function import I8, I16, I32, I64, Function, Helper, Value, Var
from policyc.ir.tables import KeyKind
from policyc.model import Direction

ETH_IPV4, ETH_IPV6 = 0x0800, 0x86DD
VLAN_ETHERTYPES = (0x8100, 0x88A8)
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
MAX_EXTENSIONS = 8
IPV4_FRAGMENT_OFFSET, IPV4_MORE_FRAGMENTS = 0x1FFF, 0x2000  # bits of the word at 6 (RFC 791)
IPV6_FRAGMENT_OFFSET, IPV6_MORE_FRAGMENTS = 0xFFF8, 1  # bits of the word at 2 of the fragment header (RFC 8200)
ECHO = {ICMP: (8, 0), ICMPV6: (128, 129)}  # types, at REQUEST and REPLY
REQUEST, REPLY = 0, 1
ERRORS = {ICMP: (3, 11, 12), ICMPV6: (1, 2, 3, 4)}
HEADER_BYTES = {TCP: 20, UDP: 8, SCTP: 12, ICMP: 8, ICMPV6: 8}


@dataclass
class Reader:
    """Reads packet bytes through `helper` into `buffer` (SCRATCH_SIZE bytes, aligned to 8)."""

    f: Function
    context: Value
    helper: Helper
    buffer: Value

    def read(self, offset: Value, size: int) -> Value:
        """Copies `size` bytes at `offset` (i32) to the buffer; an i1 that tells whether they were there."""
        assert size <= SCRATCH_SIZE
        f = self.f
        wide = I64 if self.helper is Helper.SKB_LOAD_BYTES else I32
        result = f.helper(self.helper, self.context, f.to(offset, wide), self.buffer, I32(size))
        return f.eq(result, 0)

    def u8(self, offset: int) -> Value:
        return self.f.load(self.buffer, I8, offset)

    def u16(self, offset: int) -> Value:
        """Host order."""
        return self.f.swap(self.raw16(offset))

    def raw16(self, offset: int) -> Value:
        f = self.f
        low, high = f.to(self.u8(offset), I16), f.to(self.u8(offset + 1), I16)
        return f.load(self.buffer, I16, offset) if offset % 2 == 0 else f.or_(low, f.shl(high, 8))

    def raw32(self, offset: int) -> Value:
        if offset % 4 == 0:
            return self.f.load(self.buffer, I32, offset)
        f = self.f
        return f.or_(f.to(self.raw16(offset), I32), f.shl(f.to(self.raw16(offset + 2), I32), 16))


@dataclass
class Head:
    """What a chain of IP headers told. `l4` is the offset of what follows, `end` the end of the IP packet."""

    protocol: Var  # i8
    hop_limit: Var  # i8, of IPv6
    l4: Var  # i32
    end: Var  # i32
    first: Var  # i8, a first fragment
    later: Var  # i8, a later fragment
    fragment_id: Var  # i32, network


def _head(f: Function) -> Head:
    return Head(*(f.var(0, type_) for type_ in (I8, I8, I32, I32, I8, I8, I32)))


def ethernet(f: Function, reader: Reader, tags_before: Value, bad: ir.Block) -> tuple[Var, Var]:
    """Skips the Ethernet header and up to two VLAN tags (`tags_before`, an i32, of them already taken off). Returns ethertype (i16,
    host order) and the offset of what follows; leaves to `bad` where that cannot be read or there are more tags."""
    ethertype, offset = f.var(0, I16), f.var(14, I32)
    with f.if_(f.not_(reader.read(I32(12), 2))):
        f.leave(bad)
    ethertype.set(reader.u16(0))
    tags = f.var(tags_before)
    with f.loop(3, 3) as (_, done):
        kind = ethertype.get()
        with f.if_(f.both(*(f.ne(kind, v) for v in VLAN_ETHERTYPES))):
            f.leave(done)
        tags.set(f.add(tags.get(), 1))
        with f.if_(f.cmp(">", tags.get(), 2)):
            f.leave(bad)
        with f.if_(f.not_(reader.read(offset.get(), 4))):
            f.leave(bad)
        ethertype.set(reader.u16(2))
        offset.set(f.add(offset.get(), 4))
    return ethertype, offset


def _is_big(f: Function, flow: Flow, stated: Value) -> Value:
    """A packet of segments longer than 64 KiB on its way through this machine says 0 (BIG TCP); then the buffer's length holds."""
    return f.both(f.eq(stated, 0), f.cmp(">", flow.get("length"), 0xFFFF))


def _addresses(f: Function, flow: Flow, is_quoted: bool, bad: ir.Block, words: list[Value]) -> None:
    """Source and destination, one or two words each as in the packet, into the record as of a packet that arrives. A quoted
    packet's source must be the destination of the error, which is in the record already; else leaves to `bad`."""
    half = len(words) // 2
    for i, word in enumerate(words[:half]):
        if is_quoted:
            with f.if_(f.ne(f.load(flow.address("local"), I64, 8 * i), word)):
                f.leave(bad)
        else:
            f.store(flow.address("remote"), word, offset=8 * i)
    for i, word in enumerate(words[half:]):
        f.store(flow.address("quoted_destination" if is_quoted else "local"), word, offset=8 * i)


def ipv4(f: Function, reader: Reader, flow: Flow, offset: Value, packet_end: Value | None, bad: ir.Block) -> Head:
    """`packet_end`: None where the total length binds (a whole packet), else the end that binds (a quoted one)."""
    h = _head(f)
    with f.if_(f.not_(reader.read(offset, 20))):
        f.leave(bad)
    version_ihl = reader.u8(0)
    header = f.shl(f.to(f.and_(version_ihl, 15), I32), 2)
    with f.if_(f.either(f.ne(f.shr(version_ihl, 4), 4), f.cmp("<", header, 20))):
        f.leave(bad)
    if packet_end is None:
        total = f.to(reader.u16(2), I32)
        h.end.set(f.select(_is_big(f, flow, total), flow.get("length"), f.add(offset, total)))
    else:
        h.end.set(packet_end)
    with f.if_(f.cmp("<", h.end.get(), f.add(offset, header))):
        f.leave(bad)
    position = reader.u16(6)
    later = f.bits(position, IPV4_FRAGMENT_OFFSET)
    h.later.set(f.to(later, I8))
    h.first.set(f.to(f.both(f.not_(later), f.bits(position, IPV4_MORE_FRAGMENTS)), I8))
    h.fragment_id.set(f.to(reader.raw16(4), I32))
    h.protocol.set(reader.u8(9))
    _addresses(f, flow, packet_end is not None, bad, [f.to(reader.raw32(n), I64) for n in (12, 16)])
    h.l4.set(f.add(offset, header))
    with f.if_(f.cmp(">", header, 20)), f.if_(f.not_(reader.read(f.sub(h.l4.get(), 1), 1))):
        f.leave(bad)  # the options are not all there
    return h


def ipv6(
    f: Function,
    reader: Reader,
    flow: Flow,
    offset: Value,
    packet_end: Value | None,
    bad: ir.Block,
    bad_chain: ir.Block,
) -> Head:
    """Leaves to `bad` where the fixed header is not there, to `bad_chain` where the extension headers are not."""
    h = _head(f)
    with f.if_(f.not_(reader.read(offset, 40))):
        f.leave(bad)
    with f.if_(f.ne(f.shr(reader.u8(0), 4), 6)):
        f.leave(bad)
    if packet_end is None:
        payload = f.to(reader.u16(4), I32)
        h.end.set(f.select(_is_big(f, flow, payload), flow.get("length"), f.add(f.add(offset, 40), payload)))
    else:
        h.end.set(packet_end)
        with f.if_(f.cmp("<", packet_end, f.add(offset, 40))):
            f.leave(bad)
    h.protocol.set(reader.u8(6))
    h.hop_limit.set(reader.u8(7))
    _addresses(f, flow, packet_end is not None, bad, [f.load(reader.buffer, I64, n) for n in (8, 16, 24, 32)])
    h.l4.set(f.add(offset, 40))
    with f.loop(MAX_EXTENSIONS + 1, MAX_EXTENSIONS + 1) as (i, done):
        kind = h.protocol.get()
        with f.if_(f.both(*(f.ne(kind, n) for n in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION)))):
            f.leave(done)
        with f.if_(f.eq(i, MAX_EXTENSIONS)):
            f.leave(bad_chain)
        at = h.l4.get()
        with f.if_(f.either(f.cmp(">", f.add(at, 8), h.end.get()), f.not_(reader.read(at, 8)))):
            f.leave(bad_chain)
        h.protocol.set(reader.u8(0))
        with f.if_else(f.eq(kind, FRAGMENT)) as (fragment, other):
            with fragment:
                position = reader.u16(2)
                h.l4.set(f.add(at, 8))
                with f.if_(f.bits(position, IPV6_FRAGMENT_OFFSET | IPV6_MORE_FRAGMENTS)):  # not atomic
                    h.fragment_id.set(reader.raw32(4))
                    with f.if_(f.bits(position, IPV6_FRAGMENT_OFFSET)):
                        h.later.set(1)
                        f.leave(done)
                    h.first.set(1)
            with other:
                size = f.shl(f.add(f.to(reader.u8(1), I32), 1), 3)
                after = f.add(at, size)
                h.l4.set(after)
                with f.if_(f.either(f.cmp(">", after, h.end.get()), f.not_(reader.read(f.sub(after, 1), 1)))):
                    f.leave(bad_chain)
    return h


def is_one_of(f: Function, value: Value, numbers: tuple[int, ...]) -> Value:
    return f.either(*(f.eq(value, n) for n in numbers))


def transport(f: Function, reader: Reader, flow: Flow, h: Head, bad: ir.Block) -> None:
    """The L4 head of a whole packet or first fragment: ports (network), key, TCP flags, ICMP type."""
    protocol, at = h.protocol.get(), h.l4.get()
    port_key = f.var(0, I32)
    ended = f.b.append_basic_block("transport_done")

    def need(number: int) -> None:
        size = HEADER_BYTES[number]
        with f.if_(f.either(f.cmp(">", f.add(at, size), h.end.get()), f.not_(reader.read(at, size)))):
            f.leave(bad)

    def ports() -> None:
        flow.set("remote_port", reader.raw16(0))
        flow.set("local_port", reader.raw16(2))
        port_key.set(f.to(reader.u16(2), I32))

    for number in (TCP, UDP, SCTP):
        with f.if_(f.eq(protocol, number)):
            need(number)
            ports()
            if number == TCP:
                with f.if_(f.cmp("<", f.shr(reader.u8(12), 4), 5)):
                    f.leave(bad)
                flow.set("tcp_flags", reader.u8(13))
                flow.set("sequence", f.swap(reader.raw32(4)))
                head = f.add(at, f.shl(f.to(f.shr(reader.u8(12), 4), I32), 2))
                flow.set("payload_at", head)
                flow.set("payload", f.select(f.cmp(">", h.end.get(), head), f.sub(h.end.get(), head), I32(0)))
            f.leave(ended)
    for number in (ICMP, ICMPV6):
        with f.if_(f.eq(protocol, number)):
            need(number)
            type_code = reader.u16(0)
            flow.set("icmp", type_code)
            port_key.set(f.to(type_code, I32))
            with f.if_(is_one_of(f, reader.u8(0), ECHO[number])):
                flow.set("remote_port", reader.raw16(4))
                flow.set("local_port", reader.raw16(4))
            f.leave(ended)
    f.leave(ended)
    f.b.position_at_end(ended)
    key = f.or_(f.shl(f.to(protocol, I32), 16), port_key.get())
    flow.set("key", f.or_(key, int(KeyKind.FULL) << 24))


def exempt(f: Function, flow: Flow, h: Head) -> None:
    """Raises EXEMPT for neighbour discovery (133-137, hop limit 255) and MLD (130-132, 143, hop limit 1)."""
    type_, hop_limit = f.shr(flow.get("icmp"), 8), h.hop_limit.get()
    discovery = f.both(f.cmp(">=", type_, 133), f.cmp("<=", type_, 137), f.eq(hop_limit, 255))
    listener = f.either(f.both(f.cmp(">=", type_, 130), f.cmp("<=", type_, 132)), f.eq(type_, 143))
    whole = f.both(f.eq(h.first.get(), 0), f.eq(h.protocol.get(), ICMPV6))
    with f.if_(f.both(whole, f.either(discovery, f.both(listener, f.eq(hop_limit, 1))))):
        flow.raise_flag(Flag.EXEMPT)


def quoted(f: Function, reader: Reader, flow: Flow, h: Head, leaves: Value) -> None:
    """The packet that an ICMP error quotes: its tuple as the subject knows it. The error must go to the quoted source."""
    done = f.b.append_basic_block("quoted_done")
    protocol, type_ = h.protocol.get(), f.shr(flow.get("icmp"), 8)
    is_error = f.either(*(f.both(f.eq(protocol, n), is_one_of(f, type_, types)) for n, types in ERRORS.items()))
    with f.if_(f.not_(is_error)):
        f.leave(done)
    at, end = f.add(h.l4.get(), 8), h.end.get()
    with f.if_else(f.eq(flow.get("family"), 4)) as (v4, v6):
        with v4:
            _quoted_tuple(f, reader, flow, ipv4(f, reader, flow, at, end, done), leaves, done)
        with v6:
            _quoted_tuple(f, reader, flow, ipv6(f, reader, flow, at, end, done, done), leaves, done)
    f.leave(done)
    f.b.position_at_end(done)


def _quoted_tuple(f: Function, reader: Reader, flow: Flow, q: Head, leaves: Value, done: ir.Block) -> None:
    with f.if_(f.ne(q.later.get(), 0)):
        f.leave(done)
    protocol, at = q.protocol.get(), q.l4.get()
    with f.if_(is_one_of(f, protocol, (TCP, UDP, SCTP, ICMP, ICMPV6))):
        with f.if_(f.either(f.cmp(">", f.add(at, 8), q.end.get()), f.not_(reader.read(at, 8)))):
            f.leave(done)
        with f.if_else(is_one_of(f, protocol, (ICMP, ICMPV6))) as (icmp, other):
            with icmp:
                echoes = (f.both(f.eq(protocol, n), is_one_of(f, reader.u8(0), types)) for n, types in ECHO.items())
                with f.if_(f.not_(f.either(*echoes))):
                    f.leave(done)
                for name in ("quoted_local_port", "quoted_remote_port"):
                    flow.set(name, reader.raw16(4))
            with other:
                flow.set("quoted_local_port", reader.raw16(0))
                flow.set("quoted_remote_port", reader.raw16(2))
    # An error that arrives quotes what the subject sent; one that leaves quotes what it received.
    with f.if_(leaves):
        swap_ports(f, flow, "quoted_")
    flow.set("quoted_protocol", protocol)
    flow.raise_flag(Flag.QUOTES)


def swap_ports(f: Function, flow: Flow, prefix: str = "") -> None:
    ports = flow.get(prefix + "local_port"), flow.get(prefix + "remote_port")
    flow.set(prefix + "local_port", ports[1])
    flow.set(prefix + "remote_port", ports[0])


def swap_addresses(f: Function, flow: Flow) -> None:
    local, remote = flow.address("local"), flow.address("remote")
    for offset in (0, 8):
        a, b = f.load(local, I64, offset), f.load(remote, I64, offset)
        f.store(local, b, offset=offset)
        f.store(remote, a, offset=offset)


def packet(f: Function, reader: Reader, flow: Flow, family: int, offset: Value, no_addresses: ir.Block) -> None:
    """Fills the flow record from the IP packet of `family` at `offset`; leaves to `no_addresses` where its fixed header is bad."""
    flow.set("family", family)
    leaves = f.ne(flow.get("direction"), int(Direction.INGRESS))
    done = f.b.append_basic_block("parsed")
    chain, bad = f.b.append_basic_block("bad_chain"), f.b.append_basic_block("bad_l4")
    if family == 4:
        h = ipv4(f, reader, flow, offset, None, no_addresses)
    else:
        h = ipv6(f, reader, flow, offset, None, no_addresses, chain)
    flow.set("length", f.sub(h.end.get(), offset))
    flow.set("protocol", h.protocol.get())
    flow.set("fragment_id", h.fragment_id.get())
    flow.set("key", f.shl(f.to(h.protocol.get(), I32), 16))
    with f.if_(f.ne(h.later.get(), 0)):
        flow.raise_flag(Flag.LATER_FRAGMENT)
        flow.set("key", f.or_(flow.get("key"), int(KeyKind.PORTLESS) << 24))
        if family == 6:
            with f.if_(is_one_of(f, h.protocol.get(), (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION))):
                flow.raise_flag(Flag.LATER_UNKNOWN)
        f.leave(done)
    with f.if_(f.ne(h.first.get(), 0)):
        flow.raise_flag(Flag.FIRST_FRAGMENT)
    transport(f, reader, flow, h, bad)
    if family == 6:
        exempt(f, flow, h)
    with f.if_(f.eq(h.first.get(), 0)):
        quoted(f, reader, flow, h, leaves)
    f.leave(done)
    f.b.position_at_end(chain)
    flow.set("fragment_id", h.fragment_id.get())
    with f.if_(f.ne(h.first.get(), 0)):
        flow.raise_flag(Flag.FIRST_FRAGMENT)
    f.leave(bad)
    f.b.position_at_end(bad)
    flow.raise_flag(Flag.MALFORMED)
    f.leave(done)
    f.b.position_at_end(done)
    with f.if_(leaves):
        swap_addresses(f, flow)
        swap_ports(f, flow)
