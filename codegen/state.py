"""State: the connection table, re-judging after a change, ICMP errors, fragments (docs/architecture.md, "State")."""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from policyc.artifact.layout import (
    CT,
    CT6_KEY,
    FRAG,
    FRAG_KEY,
    IDLE_CLOSING,
    IDLE_FRAGMENT,
    IDLE_OTHER,
    IDLE_TCP,
    IDLE_TCP_OPENING,
    CtFlag,
    IdentityFlag,
    Reason,
)
from policyc.codegen import recent
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.flow import OFFSET, Flag, Flow, debug_type
from policyc.codegen.function import I1, I8, I16, I32, I64, PTR, Function, Helper, Value
from policyc.codegen.maps import Maps
from policyc.codegen.marks import gate
from policyc.codegen.parse import ECHO, ICMP, ICMPV6, REPLY, REQUEST, SCTP, TCP, UDP, is_one_of
from policyc.codegen.peer import set_peer
from policyc.codegen.records import (
    CT_CHECKED,
    CT_DIRECTION,
    CT_FLAGS,
    CT_GENERATION,
    CT_ICMP_TYPE,
    CT_RULE,
    CT_SEEN,
    FRAG_GENERATION,
    FRAG_KEY_DESTINATION,
    FRAG_KEY_ID,
    FRAG_KEY_SOURCE,
    FRAG_KEY_SUBJECT,
    FRAG_REASON,
    FRAG_RULE,
    FRAG_SEEN,
    FRAG_UNUSED,
    FRAG_VERDICT,
    IDENTITY_FLAGS,
)
from policyc.codegen.report import audit_load
from policyc.ir.flat import ServiceSet
from policyc.ir.tables import KeyKind
from policyc.model import Direction, Span

TCP_FIN, TCP_SYN, TCP_RST, TCP_ACK = 1, 2, 4, 16
ANY, NO_EXIST = 0, 1  # of an update, linux/bpf.h
CHECKED_UPLINK_SHIFT = 31 - (Flag.UPLINK.bit_length() - 1)


def build(
    module: ir.Module,
    debug: DebugInfo,
    maps: Maps,
    match_policy: ir.Function,
    stateless: bool,
    has_streams: bool,
    span: Span,
) -> ir.Function:
    """judge(flow): the packet's outcome, from its connection (unless `stateless`) or from the policy, into the flow record. `has_streams`: there are
    connections whose requests are judged."""
    return _Builder(module, debug, maps, match_policy, stateless, has_streams, span).build()


def build_streams_only(
    module: ir.Module, debug: DebugInfo, maps: Maps, services: Mapping[Direction, ServiceSet], span: Span
) -> ir.Function:
    """see_stream(flow): 1 if a packet whose connection is judged at the endpoint's interface may pass its cgroup: its stream is seen, or need not
    be. `services`: by direction the port intervals of rules with blocks."""
    return _Builder(module, debug, maps, None, False, True, span, "see_stream").build_streams_only(services)


def time_units(f: Function) -> Value:
    """The time (i32) in the units of idle times (layout.IDLE_TCP)."""
    return f.to(f.shr(f.helper(Helper.KTIME_GET_COARSE_NS), 30), I32)


def opens(f: Function, flow: Flow) -> Value:
    """Of a TCP packet: a SYN without ACK, a new connection also on a known tuple."""
    return f.eq(f.and_(flow.get("tcp_flags"), TCP_SYN | TCP_ACK), TCP_SYN)


def opens_or_closes(f: Function, flow: Flow) -> Value:
    """Whether a packet's TCP flags mean anything to a connection's state."""
    return f.bits(flow.get("tcp_flags"), TCP_FIN | TCP_SYN | TCP_RST)


def tcp_marks(f: Function, flow: Flow, same: Value) -> Value:
    """What a packet's FIN and RST set in its entry's flags (i8); `same`: it goes the way of the first packet."""
    tcp = flow.get("tcp_flags")
    fin = f.select(f.bits(tcp, TCP_FIN), f.select(same, I8(CtFlag.FIN), I8(CtFlag.FIN_REPLY)), I8(0))
    return f.or_(fin, f.select(f.bits(tcp, TCP_RST), I8(CtFlag.RST), I8(0)))


def mark(f: Function, entry: Value, flags: Value) -> None:
    """Sets flags (i8) of a connection's entry: atomically, in the word around them, as another CPU may be marking it DENIED."""
    word = CT_FLAGS & ~3
    f.set_bits(entry, f.shl(f.to(flags, I32), 8 * (CT_FLAGS - word)), word)


def checked_at(f: Function, direction: Value) -> Value:
    """Where in a connection's entry stands as what (`checked_as`) a packet of this direction was let through."""
    assert CT_CHECKED[1] == CT_CHECKED[0] + 4
    return f.add(f.shl(f.and_(f.to(direction, I64), 1), 2), CT_CHECKED[0])


def checked_as(f: Function, flow: Flow) -> Value:
    """The generation (i32), and in the top bit whether it was at an uplink: the subject's own point does not ask whose address
    the peer has. While an endpoint is being bound both judge it."""
    uplink = f.and_(f.to(flow.get("flags"), I32), Flag.UPLINK)
    return f.or_(flow.get("generation"), f.shl(uplink, CHECKED_UPLINK_SHIFT))


class _Builder:
    def __init__(
        self,
        module: ir.Module,
        debug: DebugInfo,
        maps: Maps,
        match_policy: ir.Function | None,
        stateless: bool,
        has_streams: bool,
        span: Span,
        name: str = "judge",
    ) -> None:
        self.maps, self.match_policy, self.stateless, self.has_streams = maps, match_policy, stateless, has_streams
        self.f = f = Function(module, debug, name, [("flow", PTR, debug_type(debug))], span)
        with f.if_(f.is_null(f.args[0])):
            f.ret(0)
        self.flow = Flow(f, f.args[0])
        # One key at a time is alive.
        self.key = f.slot(ir.ArrayType(I8, max(CT6_KEY.size, FRAG_KEY.size)), "key")

    def build_streams_only(self, services: Mapping[Direction, ServiceSet]) -> ir.Function:
        f, flow = self.f, self.flow
        flow.set("verdict", 1)
        with f.if_(f.ne(flow.get("protocol"), TCP)):
            f.ret(1)
        entry = self._lookup("")
        with f.if_else(f.not_null(entry)) as (known, unknown):
            with known:
                with f.if_(f.not_(f.bits(f.load(entry, I8, CT_FLAGS), CtFlag.STREAM))):
                    f.ret(1)
                flow.set("stream", f.add(f.load(entry, I8, CT_DIRECTION), 1))
            with unknown:
                # The interface let it through, and its entry was evicted since: what may have a block must have its stream seen.
                for direction, name in zip(Direction, ("local_port", "remote_port"), strict=True):
                    port = f.to(f.swap(flow.get(name)), I32)
                    if services[direction]:
                        with f.if_(f.within(port, services[direction])):
                            flow.set("stream", int(direction) + 1)
        self._write_key("")
        gate(f, self.maps, flow, self.key)
        flow.set("answers", 0)  # they are watched at the interface
        f.ret(f.to(flow.get("verdict"), I32))
        return f.close()

    def build(self) -> ir.Function:
        f, flow = self.f, self.flow
        self.value = f.slot(ir.ArrayType(I8, max(CT.size, FRAG.size)), "value")
        self.done = f.b.append_basic_block("judged")
        self.fresh = f.b.append_basic_block("fresh")
        with f.if_(flow.has_flag(Flag.MALFORMED)):
            self._malformed()
        if self.stateless:
            with f.if_(flow.has_flag(Flag.LATER_UNKNOWN)):
                self._malformed()
        else:
            self._remembered()
        f.leave(self.fresh)
        f.b.position_at_end(self.fresh)
        self._fresh()
        f.leave(self.done)
        f.b.position_at_end(self.done)
        if self.has_streams:
            self._gate()
        if not self.stateless:
            with f.if_(flow.has_flag(Flag.FIRST_FRAGMENT)):
                self._remember_fragment()
        return f.close()

    def _gate(self) -> None:
        """What travels on a connection whose requests must be judged passes while its stream is seen."""
        f, flow = self.f, self.flow
        is_tcp = f.both(f.eq(flow.get("protocol"), TCP), f.not_(flow.has_flag(Flag.LATER_FRAGMENT)))
        with f.if_(f.both(is_tcp, f.ne(flow.get("stream"), 0))):
            self._write_key("")
            gate(f, self.maps, flow, self.key)

    def _remembered(self) -> None:
        """Packets of what is known have its outcome."""
        f, flow = self.f, self.flow
        with f.if_(flow.has_flag(Flag.LATER_FRAGMENT)):
            self._later_fragment()
        with f.if_(flow.has_flag(Flag.QUOTES)):
            self._related()
        with f.if_(f.both(self._is_stateful(), f.not_(flow.has_flag(Flag.UNKNOWN)))):
            self._established()

    def _malformed(self) -> None:
        """Denied for a subject that some policy selects."""
        f, flow = self.f, self.flow
        flow.settle(0, int(Reason.MALFORMED))
        flow.raise_flag(Flag.JUDGED)
        record = f.lookup_index(self.maps["identities"], flow.get("subject_slot"))
        with f.if_(f.not_null(record)):
            selected = f.load(record, I32, IDENTITY_FLAGS)
            for prefix, flag in (("", IdentityFlag.SELECTED), ("audit_", IdentityFlag.SELECTED_AUDIT)):
                with f.if_(f.not_(f.bits(selected, int(flag)))):
                    flow.set(prefix + "verdict", 1)
                    flow.set(prefix + "reason", int(Reason.NO_POLICY))
        audit_load(f, flow)
        f.leave(self.done)

    # --- connections ------------------------------------------------------------------------------------------

    def _is_echo(self, which: int) -> Value:
        """Whether the packet is an echo REQUEST or REPLY."""
        f, protocol = self.f, self.flow.get("protocol")
        type_ = f.shr(self.flow.get("icmp"), 8)
        return f.either(*(f.both(f.eq(protocol, n), f.eq(type_, ECHO[n][which])) for n in (ICMP, ICMPV6)))

    def _is_icmp(self, protocol: Value) -> Value:
        return is_one_of(self.f, protocol, (ICMP, ICMPV6))

    def _is_stateful(self) -> Value:
        """Whether the packet, no later fragment, may belong to a connection."""
        f = self.f
        return f.either(f.not_(self._is_icmp(self.flow.get("protocol"))), self._is_echo(REQUEST), self._is_echo(REPLY))

    def _lookup(self, prefix: str) -> Value:
        """The connection entry of the packet ("") or of the packet it quotes ("quoted_"), or null."""
        f = self.f
        self._write_key(prefix)
        entries: list[tuple[Value, ir.Block]] = []
        with f.if_else(f.eq(self.flow.get("family"), 4)) as branches:
            for branch, name in zip(branches, ("ct4", "ct6"), strict=True):
                with branch:
                    entries.append((f.lookup(self.maps[name], self.key), f.b.block))
        entry = f.b.phi(PTR)
        for value, block in entries:
            entry.add_incoming(value, block)
        return entry

    def _write_key(self, prefix: str) -> None:
        """The tuple's key in the table of its family (layout.CT4_KEY, CT6_KEY) into `self.key`."""
        f, flow, key = self.f, self.flow, self.key
        subject = f.or_(f.shl(flow.get("subject"), 8), f.to(flow.get(prefix + "protocol"), I32))
        with f.if_else(f.eq(flow.get("family"), 4)) as branches:
            for branch, size, step in zip(branches, (4, 16), (I32, I64), strict=True):
                with branch:
                    f.copy(key, 0, flow.pointer, OFFSET["local"], size, step)
                    f.copy(key, size, flow.pointer, OFFSET["remote"], size, step)
                    if prefix:
                        with f.if_else(self._arrives()) as (arrives, leaves):
                            for way, at in ((arrives, size), (leaves, 0)):
                                with way:
                                    f.copy(key, at, flow.pointer, OFFSET["quoted_destination"], size, step)
                    f.copy(key, 2 * size, flow.pointer, OFFSET[prefix + "local_port"], 4, I32)
                    f.store(key, subject, offset=2 * size + 4)

    def _arrives(self) -> Value:
        return self.f.eq(self.flow.get("direction"), int(Direction.INGRESS))

    def _is_live(self, entry: Value, protocol: Value) -> Value:
        """Whether the entry has not idled out."""
        f = self.f
        flags = f.load(entry, I8, CT_FLAGS)
        fins = f.and_(flags, CtFlag.FIN | CtFlag.FIN_REPLY)
        closing = f.either(f.bits(flags, CtFlag.RST), f.eq(fins, CtFlag.FIN | CtFlag.FIN_REPLY))
        opened = f.select(f.bits(flags, CtFlag.REPLY), I32(IDLE_TCP), I32(IDLE_TCP_OPENING))
        tcp = f.select(closing, I32(IDLE_CLOSING), opened)
        limit = f.select(f.eq(protocol, TCP), tcp, I32(IDLE_OTHER))
        return self._is_recent(f.load(entry, I32, CT_SEEN), limit)

    def _is_recent(self, seen: Value, units: Value) -> Value:
        """Whether no more than `units` have passed; signed, as another CPU may have set `seen` after this one took the time."""
        return self.f.b.icmp_signed("<=", self.f.sub(time_units(self.f), seen), units)

    def _judge_again(self, entry: Value, prefix: str) -> None:
        """Judges an entry of an older generation, or one that is denied, in the direction of its first packet and marks it."""
        f, flow = self.f, self.flow
        older = f.ne(f.load(entry, I32, CT_GENERATION), self.flow.get("generation"))
        with f.if_(f.either(older, f.bits(f.load(entry, I8, CT_FLAGS), CtFlag.DENIED))):
            flow.copy_address("match", "remote")
            if prefix:
                with f.if_(self._arrives()):
                    flow.copy_address("match", "quoted_destination")
            set_peer(f, self.maps, flow, self.key)
            direction = f.load(entry, I8, CT_DIRECTION)
            protocol = flow.get(prefix + "protocol")
            port = f.var(f.load(entry, I16, CT_ICMP_TYPE))
            with f.if_(is_one_of(f, protocol, (TCP, UDP, SCTP))):
                local, remote = (f.swap(flow.get(prefix + n)) for n in ("local_port", "remote_port"))
                port.set(f.select(f.eq(direction, int(Direction.INGRESS)), local, remote))
            key = f.or_(f.shl(f.to(protocol, I32), 16), f.to(port.get(), I32))
            f.call(self.match_policy, flow.pointer, f.to(direction, I32), f.or_(key, int(KeyKind.FULL) << 24))
            audit_load(f, flow)
            flags = f.and_(f.load(entry, I8, CT_FLAGS), 0xFF ^ CtFlag.DENIED)
            refused = f.select(f.eq(flow.get("verdict"), 0), I8(CtFlag.DENIED), I8(0))
            if self.has_streams:
                flags = f.and_(flags, 0xFF ^ CtFlag.STREAM)
                refused = f.or_(refused, f.select(f.ne(flow.get("stream"), 0), I8(CtFlag.STREAM), I8(0)))
            f.store(entry, f.or_(flags, refused), offset=CT_FLAGS)
            f.store(entry, f.add(flow.get("rank"), 1), offset=CT_RULE)
            f.store(entry, self.flow.get("generation"), offset=CT_GENERATION)

    def _take(self, entry: Value, reason: Reason) -> None:
        """The outcome of a packet that belongs to a known connection; a denied one has that of being judged again."""
        f, flow = self.f, self.flow
        with f.if_(f.not_(f.bits(f.load(entry, I8, CT_FLAGS), CtFlag.DENIED))):
            flow.settle(1, int(reason), f.sub(f.load(entry, I32, CT_RULE), 1))
            if self.has_streams:
                flow.set("stream", 0)
                with f.if_(f.bits(f.load(entry, I8, CT_FLAGS), CtFlag.STREAM)):
                    flow.set("stream", f.add(f.load(entry, I8, CT_DIRECTION), 1))

    def _related(self) -> None:
        """An ICMP error about a known connection has the outcome of that; others are judged like all else."""
        f, flow = self.f, self.flow
        entry = self._lookup("quoted_")
        with f.if_(f.not_null(entry)), f.if_(self._is_live(entry, flow.get("quoted_protocol"))):
            self._judge_again(entry, "quoted_")
            self._take(entry, Reason.RELATED)
            f.leave(self.done)

    def _established(self) -> None:
        """A packet of a known connection that has not idled out, and opens no new one, has its outcome."""
        f, flow = self.f, self.flow
        entry = self._lookup("")
        with f.if_(f.both(f.not_null(entry), f.not_(f.both(f.eq(flow.get("protocol"), TCP), opens(f, flow))))):
            same = f.eq(f.load(entry, I8, CT_DIRECTION), flow.get("direction"))
            # Between equal ends nothing tells a reply from the packet itself, arriving: both ways are judged.
            with f.if_(f.not_(f.either(same, self._is_icmp(flow.get("protocol"))))), f.if_(self._ends_are_equal()):
                f.leave(self.fresh)
            # Of an echo, requests go the way of the first packet and replies the other.
            fits = f.either(
                f.not_(self._is_icmp(flow.get("protocol"))),
                f.both(same, self._is_echo(REQUEST)),
                f.both(f.not_(same), self._is_echo(REPLY)),
            )
            with f.if_(f.both(fits, self._is_live(entry, flow.get("protocol")))):
                self._judge_again(entry, "")
                self._take(entry, Reason.ESTABLISHED)
                with f.if_(f.ne(flow.get("verdict"), 0)):
                    self._note(entry, same)
                f.leave(self.done)

    def _ends_are_equal(self) -> Value:
        """Whether an endpoint talks to itself from the port to which it talks, or without ports."""
        f, flow = self.f, self.flow
        local, remote = flow.address("local"), flow.address("remote")
        addresses = (f.eq(f.load(local, I64, o), f.load(remote, I64, o)) for o in (0, 8))
        return f.both(f.eq(flow.get("local_port"), flow.get("remote_port")), *addresses)

    def _note(self, entry: Value, same: Value) -> None:
        """Time and TCP flags of a packet that passed, and that the next one like it need not be asked more than its entry."""
        f = self.f
        checked, as_ = checked_at(f, self.flow.get("direction")), checked_as(f, self.flow)
        with f.if_(f.ne(f.load(entry, I32, checked), as_)):
            f.store(entry, as_, offset=checked)
        seen = f.or_(tcp_marks(f, self.flow, same), f.select(same, I8(0), I8(CtFlag.REPLY)))
        flags = f.load(entry, I8, CT_FLAGS)
        with f.if_(f.ne(f.or_(flags, seen), flags)):
            mark(f, entry, seen)
        now = time_units(f)
        with f.if_(f.ne(f.load(entry, I32, CT_SEEN), now)):
            f.store(entry, now, offset=CT_SEEN)

    # --- new packets ------------------------------------------------------------------------------------------

    def _fresh(self) -> None:
        """Judges the packet in the direction in which it travels and enters the connection that it opens."""
        f, flow = self.f, self.flow
        flow.copy_address("match", "remote")
        f.call(self.match_policy, flow.pointer, f.to(flow.get("direction"), I32), flow.get("key"))
        audit_load(f, flow)
        flow.raise_flag(Flag.JUDGED)
        makes_entry = f.both(
            f.ne(flow.get("verdict"), 0),
            f.not_(flow.has_flag(Flag.LATER_FRAGMENT)),
            f.either(f.not_(self._is_icmp(flow.get("protocol"))), self._is_echo(REQUEST)),
        )
        if self.stateless:
            return
        if self.has_streams:
            way = f.add(flow.get("direction"), 1)
            flow.set("stream", f.select(f.ne(flow.get("stream"), 0), way, I8(0)))
        with f.if_(makes_entry):
            flow.set("connection", 1)
            self._insert()

    def _insert(self) -> None:
        """Enters the packet's connection, in the place of one with that tuple; denies the packet if that fails."""
        f, flow = self.f, self.flow
        value = self.value
        f.store(value, self.flow.get("generation"), offset=CT_GENERATION)
        f.store(value, f.add(flow.get("rank"), 1), offset=CT_RULE)
        f.store(value, time_units(f), offset=CT_SEEN)
        f.store(value, flow.get("direction"), offset=CT_DIRECTION)
        marks = tcp_marks(f, flow, I1(1))
        if self.has_streams:
            marks = f.or_(marks, f.select(f.ne(flow.get("stream"), 0), I8(CtFlag.STREAM), I8(0)))
        f.store(value, marks, offset=CT_FLAGS)
        f.store(value, flow.get("icmp"), offset=CT_ICMP_TYPE)
        for direction, offset in zip((Direction.INGRESS, Direction.EGRESS), CT_CHECKED, strict=True):
            travels = f.eq(flow.get("direction"), int(direction))
            f.store(value, f.select(travels, checked_as(f, flow), I32(0)), offset=offset)
        failed = f.var(0, I64)
        with f.loop(2, 2) as (_, done):  # once more where another CPU enters it meanwhile
            old = self._lookup("")
            with f.if_(f.not_null(old)):
                self._replace(old)
            failed.set(self._update(f.select(f.is_null(old), I64(NO_EXIST), I64(ANY))))
            with f.if_(f.eq(failed.get(), 0)):
                f.leave(done)
        with f.if_(f.ne(failed.get(), 0)):
            flow.settle(0, int(Reason.TABLE_FULL))
            audit_load(f, flow)
            flow.set("connection", 0)

    def _replace(self, old: Value) -> None:
        """What an entry that is to be replaced leaves behind. Both ends may open a connection at once: it must not become one of the other direction, whose requests
        nobody judges."""
        f, flow = self.f, self.flow
        flags = f.load(old, I8, CT_FLAGS)
        with f.if_(f.bits(flags, CtFlag.REMEMBERED)):
            recent.void(f, self.maps)
        if not self.has_streams:
            return
        open_ = f.not_(f.bits(flags, CtFlag.FIN | CtFlag.FIN_REPLY | CtFlag.RST))
        turned = f.ne(f.load(old, I8, CT_DIRECTION), flow.get("direction"))
        with f.if_(f.both(f.bits(flags, CtFlag.STREAM), turned, open_, self._is_live(old, flow.get("protocol")))):
            flow.settle(0, int(Reason.L7_NOT_SEEN))
            flow.set("connection", 0)
            f.leave(self.done)

    def _update(self, how: Value) -> Value:
        """Enters `value` under `key`; 0 or what the helper failed with."""
        f = self.f
        result = f.var(0, I64)
        with f.if_else(f.eq(self.flow.get("family"), 4)) as branches:
            for branch, name in zip(branches, ("ct4", "ct6"), strict=True):
                with branch:
                    result.set(f.helper(Helper.MAP_UPDATE, self.maps[name], self.key, self.value, how))
        return result.get()

    # --- fragments --------------------------------------------------------------------------------------------

    def _fragment_key(self) -> Value:
        f, flow = self.f, self.flow
        key = self.key
        with f.if_else(self._arrives()) as (ingress, egress):
            for branch, source, destination in ((ingress, "remote", "local"), (egress, "local", "remote")):
                with branch:
                    f.copy(key, FRAG_KEY_SOURCE, flow.pointer, OFFSET[source], 16)
                    f.copy(key, FRAG_KEY_DESTINATION, flow.pointer, OFFSET[destination], 16)
        f.store(key, flow.get("fragment_id"), offset=FRAG_KEY_ID)
        protocol = f.select(f.eq(flow.get("family"), 4), f.to(flow.get("protocol"), I32), I32(0))
        who = f.or_(f.shl(flow.get("subject"), 9), f.shl(f.to(flow.get("direction"), I32), 8))
        f.store(key, f.or_(who, protocol), offset=FRAG_KEY_SUBJECT)
        return key

    def _later_fragment(self) -> None:
        """The outcome of the first fragment, if it is known and was judged under this generation; else the policy's."""
        f, flow = self.f, self.flow
        entry = f.lookup(self.maps["frags"], self._fragment_key())
        with f.if_(f.not_null(entry)):
            current = f.eq(f.load(entry, I32, FRAG_GENERATION), self.flow.get("generation"))
            recent = self._is_recent(f.load(entry, I32, FRAG_SEEN), I32(IDLE_FRAGMENT))
            with f.if_(f.both(current, recent)):
                rank = f.sub(f.load(entry, I32, FRAG_RULE), 1)
                with f.if_else(f.ne(f.load(entry, I8, FRAG_VERDICT), 0)) as (allowed, denied):
                    for branch, verdict in ((allowed, 1), (denied, 0)):
                        with branch:
                            flow.settle(verdict, f.load(entry, I8, FRAG_REASON), rank)
                f.leave(self.done)
        with f.if_(flow.has_flag(Flag.LATER_UNKNOWN)):
            self._malformed()
        f.leave(self.fresh)

    def _remember_fragment(self) -> None:
        """Enters a first fragment's outcome. If that fails, later ones are judged as if it had not been seen."""
        f, flow = self.f, self.flow
        value = self.value
        f.store(value, self.flow.get("generation"), offset=FRAG_GENERATION)
        f.store(value, f.add(flow.get("rank"), 1), offset=FRAG_RULE)
        f.store(value, time_units(f), offset=FRAG_SEEN)
        f.store(value, flow.get("verdict"), offset=FRAG_VERDICT)
        f.store(value, flow.get("reason"), offset=FRAG_REASON)
        f.store(value, 0, I16, FRAG_UNUSED)
        f.helper(Helper.MAP_UPDATE, self.maps["frags"], self._fragment_key(), value, 0)
