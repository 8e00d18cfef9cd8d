"""The programs: what each hook does before and after the verdict that all share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from policyc.artifact.layout import (
    ENTRY_PREFIX,
    HOOK_SECTIONS,
    HOST_ENDPOINT,
    NEXT_PREFIX,
    PROGRAM_PREFIX,
    CgroupKind,
    EndpointFlag,
    Events,
    Hook,
    PointKind,
    Reason,
    State,
)
from policyc.codegen import direct, known, known_streams, parse, recent, state
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.direct import (
    SKB_IFINDEX,
    SKB_LEN,
    SKB_PROTOCOL,
    SKB_VLAN_PRESENT,
    XDP_INGRESS_IFINDEX,
    Context,
)
from policyc.codegen.flow import CONFIG_FLAGS_SHIFT, EVENTS_SHIFT, SCRATCH, Flag, Flow, debug_type, new_flow
from policyc.codegen.function import I8, I16, I32, I64, PTR, Function, Helper, Value
from policyc.codegen.maps import Maps
from policyc.codegen.match import Matcher
from policyc.codegen.near import Near
from policyc.codegen.peer import near_owner, peer_of, set_peer
from policyc.codegen.records import (
    CGROUP_ENDPOINT,
    CGROUP_KIND,
    CONFIG_CGROUP_LEVELS,
    CONFIG_EVENTS,
    CONFIG_FLAGS,
    CONFIG_GENERATION,
    CONFIG_STATE,
    ENDPOINT_FLAGS,
    ENDPOINT_SLOT,
    POINT_ENDPOINT,
    POINT_KIND,
)
from policyc.codegen.report import audit_load, leave_behind
from policyc.ir.flat import ServiceSet
from policyc.model import Direction, Span

INGRESS, EGRESS = int(Direction.INGRESS), int(Direction.EGRESS)
LOOPBACK_IFINDEX = 1
DEEPEST_CGROUP = 31


@dataclass(frozen=True)
class HookTraits:
    """What differs between hooks: their verdicts, and whether the device's direction is the subject's at an uplink."""

    hook: Hook
    context: Context
    passed: int
    denied: int
    direction: int


HOOKS = (
    HookTraits(Hook.TC_INGRESS, Context.TC, -1, 2, INGRESS),  # TC_ACT_UNSPEC: other filters are asked too; TC_ACT_SHOT
    HookTraits(Hook.TC_EGRESS, Context.TC, -1, 2, EGRESS),
    HookTraits(Hook.CGROUP_INGRESS, Context.CGROUP, 1, 0, INGRESS),
    HookTraits(Hook.CGROUP_EGRESS, Context.CGROUP, 1, 0, EGRESS),
    HookTraits(Hook.XDP_INGRESS, Context.XDP, 2, 1, INGRESS),  # XDP_PASS, XDP_DROP
)


def _context_type(debug: DebugInfo) -> Any:
    return debug.pointer(debug.struct("context", [], 0))


def _program(module: ir.Module, debug: DebugInfo, name: str, hook: Hook, span: Span) -> Function:
    args = [("ctx", PTR, _context_type(debug))]
    return Function(module, debug, name, args, span, section=HOOK_SECTIONS[hook])


def build_entry(module: ir.Module, debug: DebugInfo, maps: Maps, traits: HookTraits, span: Span) -> None:
    """enter_HOOK: passes while dormant, tail-calls the generation that `switch` names, else denies."""
    name = traits.hook.name.lower()
    f = _program(module, debug, ENTRY_PREFIX + name, traits.hook, span)
    switch = f.lookup_index(maps["switch"], 0)
    with f.if_(f.not_null(switch)):
        state = f.load(switch, I32)
        with f.if_(f.eq(state, int(State.DORMANT))):
            f.ret(traits.passed)
        # Constant indices: the JIT makes them direct jumps.
        for slot, value in enumerate((State.ACTIVE, State.ACTIVE_1)):
            with f.if_(f.eq(state, int(value))):
                f.helper(Helper.TAIL_CALL, f.args[0], maps[NEXT_PREFIX + name], I32(slot))
    f.ret(traits.denied)
    f.close()


def build_parser(module: ir.Module, debug: DebugInfo, context: Context, span: Span) -> ir.Function:
    """parse_CONTEXT(ctx, flow): fills the flow record; 0 if the packet is not IP. A function of its own, so that what
    it keeps on the stack is gone when the packet is judged, and a global one, so that its paths are walked once and not
    for everything that follows: kernel 6.1 would need a million instructions."""
    # The kernel knows the context of a global function by the name of its type.
    type_ = debug.pointer(debug.struct("xdp_md" if context is Context.XDP else "__sk_buff", [], 0))
    args = [("ctx", PTR, type_), ("flow", PTR, debug_type(debug))]
    f = Function(module, debug, f"parse_{context.value}", args, span)
    with f.if_(f.is_null(f.args[1])):
        f.ret(0)
    flow = Flow(f, f.args[1])
    helper = Helper.XDP_LOAD_BYTES if context is Context.XDP else Helper.SKB_LOAD_BYTES
    reader = parse.Reader(f, f.args[0], helper, f.at_offset(f.args[1], SCRATCH))
    bad = f.b.append_basic_block("bad_l3")
    if context is Context.CGROUP:
        ethertype: Value = f.swap(f.to(f.load(f.args[0], I32, SKB_PROTOCOL), I16))
        offset: Value = I32(0)
    else:
        tags = I32(0)
        if context is Context.TC:
            tags = f.to(f.ne(f.load(f.args[0], I32, SKB_VLAN_PRESENT), 0), I32)
        kind, at = parse.ethernet(f, reader, tags, bad)
        ethertype, offset = kind.get(), at.get()
    for family, number in ((4, parse.ETH_IPV4), (6, parse.ETH_IPV6)):
        with f.if_(f.eq(ethertype, number)):
            parse.packet(f, reader, flow, family, offset, bad)
            f.ret(1)
    f.ret(0)
    f.b.position_at_end(bad)
    flow.raise_flag(Flag.MALFORMED | Flag.NO_ADDRESSES)
    f.ret(1)
    return f.close()


@dataclass(frozen=True)
class Streams:
    """Functions for packets of connections whose requests are judged."""

    see: ir.Function  # at a cgroup whose endpoint is judged at its interface
    watch: ir.Function  # reads a server's answers, and denied packets
    services: Mapping[Direction, ServiceSet]  # by direction the port intervals of all rules with blocks


@dataclass(frozen=True)
class Parts:
    """The functions that programs share."""

    parsers: dict[Context, ir.Function]
    matcher: Matcher
    judge: ir.Function
    report: ir.Function
    remember: ir.Function | None  # None: without connections every packet is judged by itself
    needs_peer: bool
    streams: Streams | None  # None where nothing judges streams


def build_program(
    module: ir.Module, debug: DebugInfo, maps: Maps, parts: Parts, traits: HookTraits, span: Span
) -> None:
    """policyc_HOOK: judges by `config` alone."""
    _ProgramBuilder(module, debug, maps, parts, traits, span).build()


class _ProgramBuilder:
    def __init__(
        self, module: ir.Module, debug: DebugInfo, maps: Maps, parts: Parts, traits: HookTraits, span: Span
    ) -> None:
        self.maps, self.traits = maps, traits
        self.is_parsed = False  # what is emitted from here on knows the packet
        self.parts = parts
        self.f = _program(module, debug, PROGRAM_PREFIX + traits.hook.name.lower(), traits.hook, span)

    def build(self) -> None:
        f, traits = self.f, self.traits
        self.context = f.args[0]
        self.flow = flow = new_flow(f)
        flow.set("hook", int(traits.hook))
        flow.set("direction", traits.direction)
        self.finish = f.b.append_basic_block("finish")
        self.pass_unjudged = f.b.append_basic_block("pass_unjudged")
        self._config()
        if traits.context is Context.CGROUP:
            self._read()
            if self.parts.streams is not None and self.parts.remember is not None:
                known_streams.let_through(
                    f,
                    self.maps,
                    flow,
                    self.context,
                    Direction(traits.direction),
                    self.parts.streams.services,
                    self.parts.streams.watch,
                    traits.passed,
                )
            self._nearest_cgroup()
            if self.parts.streams is not None:
                with f.if_(f.ne(flow.get("streams_only"), 0)):
                    self._streams_only(self.parts.streams.see)
        else:
            self._read()
            self._attach_point()
        self._connection()
        self._subject()
        self._judge()
        f.leave(self.finish)
        f.b.position_at_end(self.pass_unjudged)
        flow.settle(1, int(Reason.NONE))
        f.leave(self.finish)
        f.b.position_at_end(self.finish)
        self._watch()
        leave_behind(f, self.maps, flow, self.parts.report, connections=self.parts.remember is not None)
        f.ret(f.select(f.ne(flow.get("verdict"), 0), I32(traits.passed), I32(traits.denied)))
        f.close()

    def _judge(self) -> None:
        f, flow = self.f, self.flow
        if self.parts.remember is not None:
            f.call(self.parts.judge, flow.pointer)
            return
        # A call less for what needs nothing but the policy.
        with f.if_else(flow.has_flag(Flag.MALFORMED | Flag.LATER_FRAGMENT)) as (special, plain):
            with special:
                f.call(self.parts.judge, flow.pointer)
            with plain:
                self.parts.matcher.inline(f, flow)
                flow.raise_flag(Flag.JUDGED)
                audit_load(f, flow)

    def deny(self, reason: Reason, always: bool = False) -> None:
        """Denies without asking the policy; under whole-load audit only `always` holds."""
        if not self.is_parsed:
            # The packet is not the reason: all such denials are one flow, whatever was read of it.
            self.flow.forget_packet()
            self._whole_length()
        self.flow.settle(0, int(reason))
        if not always:
            audit_load(self.f, self.flow)
        self.f.leave(self.finish)

    def _whole_length(self) -> None:
        """Takes the buffer's length for the packet's, frames of several buffers included."""
        f = self.f
        if self.traits.context is Context.XDP:
            length = f.to(f.helper(Helper.XDP_GET_BUFF_LEN, self.context), I32)
        else:
            length = f.load(self.context, I32, SKB_LEN)
        self.flow.set("length", length)

    # --- where ------------------------------------------------------------------------------------------------

    def _config(self) -> None:
        f, traits = self.f, self.traits
        self.config = f.lookup_index(self.maps["config"], 0)
        with f.if_(f.is_null(self.config)):
            f.ret(traits.denied)
        present = f.load(self.config, I32, CONFIG_STATE)
        with f.if_(f.eq(present, int(State.DORMANT))):
            f.ret(traits.passed)
        device = XDP_INGRESS_IFINDEX if traits.context is Context.XDP else SKB_IFINDEX
        self.flow.set("ifindex", f.load(self.context, I32, device))
        self.flow.set("generation", f.load(self.config, I32, CONFIG_GENERATION))
        flags = f.shl(f.load(self.config, I32, CONFIG_FLAGS), CONFIG_FLAGS_SHIFT)
        events = f.shl(f.load(self.config, I32, CONFIG_EVENTS), EVENTS_SHIFT)
        self.flow.set("flags", f.to(f.or_(flags, events), I16))
        with f.if_(f.ne(present, int(State.ACTIVE))):
            self.deny(Reason.NOT_READY, always=True)

    def _attach_point(self) -> None:
        """Sets the flow's direction and, where an endpoint is bound, its subject, else that it is an uplink."""
        f = self.f
        self.flow.raise_flag(Flag.UPLINK)  # unless the point says otherwise
        point = self._point()
        with f.if_(f.eq(f.and_(point, 3), int(PointKind.WORKLOAD))):
            # The host's end of a link: what arrives there is what the workload sends.
            self.flow.set("direction", EGRESS if self.traits.direction == INGRESS else INGRESS)
            self.flow.drop_flag(Flag.UPLINK)
            self.flow.set("subject", f.shr(point, 2))
        with f.if_(f.both(self._is_common(), f.eq(self.flow.get("direction"), EGRESS))):
            parse.swap_addresses(f, self.flow)
            parse.swap_ports(f, self.flow)
        with f.if_(f.not_(self.flow.has_flag(Flag.UPLINK))):
            self._take_subject(self.flow.get("subject"))

    def _point(self) -> Value:
        """The device's entry in `points`, as endpoint index << 2 | PointKind; denies where there is none."""
        f = self.f
        device = self.flow.get("ifindex")
        near = Near.at(f, self.maps, "near_points", [f.to(device, I64)], self.flow)
        point = f.var(near.get())
        with f.if_(f.eq(point.get(), 0)):
            entry = f.lookup_index(self.maps["points"], device)
            with f.if_(f.is_null(entry)):
                self.deny(Reason.NOT_READY, always=True)
            point.set(f.or_(f.shl(f.load(entry, I32, POINT_ENDPOINT), 2), f.load(entry, I32, POINT_KIND)))
            near.put(point.get())
        return point.get()

    def _nearest_cgroup(self) -> None:
        f = self.f
        levels = f.load(self.config, I32, CONFIG_CGROUP_LEVELS)
        with f.loop(DEEPEST_CGROUP, DEEPEST_CGROUP) as (i, done):
            level = f.sub(DEEPEST_CGROUP, i)
            with f.if_(f.bits(f.shr(levels, level), 1)):
                key = f.at_offset(self.flow.pointer, SCRATCH)
                f.store(key, f.helper(Helper.SKB_ANCESTOR_CGROUP_ID, self.context, level))
                bound = f.lookup(self.maps["cgroups"], key)
                with f.if_(f.not_null(bound)):
                    with f.if_(f.eq(f.load(bound, I32, CGROUP_KIND), int(CgroupKind.STREAMS_ONLY))):
                        if self.parts.streams is None:
                            self._pass_unread()
                        else:
                            self.flow.set("streams_only", 1)
                    self.flow.set("subject", f.load(bound, I32, CGROUP_ENDPOINT))
                    f.leave(done)
        # Loopback inside a workload's own network namespace is not judged.
        flags = f.load(self._take_subject(self.flow.get("subject")), I32, ENDPOINT_FLAGS)
        own_netns = f.bits(flags, EndpointFlag.OWN_NETNS)
        with f.if_(f.both(own_netns, f.eq(self.flow.get("ifindex"), LOOPBACK_IFINDEX))):
            self._pass_unread()

    def _pass_unread(self) -> None:
        """Whatever the packet is."""
        self.flow.forget_packet()
        self._whole_length()
        self.f.leave(self.pass_unjudged)

    def _take_subject(self, index: Value) -> Value:
        """Takes the endpoint for the subject; denies where it is nobody or has no identity (everything is denied at a workload
        point that has none now). Its word in `endpoints`."""
        f = self.f
        word = f.lookup_index(self.maps["endpoints"], index)
        with f.if_(f.is_null(word)):
            self.deny(Reason.UNREGISTERED)
        slot = f.load(word, I32, ENDPOINT_SLOT)
        with f.if_(f.either(f.eq(slot, 0), f.eq(index, 0))):
            self.deny(Reason.UNREGISTERED)
        self.flow.set("subject", index)
        self.flow.set("subject_slot", slot)
        return word

    # --- what -------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Fills the record from a common packet, as if it arrived; those let through a moment ago end here."""
        f = self.f
        context, direction = self.traits.context, self.traits.direction
        leaves = context is Context.CGROUP and direction == EGRESS
        is_common = direct.read(f, context, self.context, self.flow, leaves, self.parts.streams is not None)
        if context is not Context.CGROUP and self.parts.remember is not None:
            with f.if_(is_common), f.if_(self._is_quiet()), f.if_(f.not_(state.opens_or_closes(f, self.flow))):
                recent.let_through(f, self.maps, self.flow, self.traits.hook, self.traits.passed)

    def _is_common(self) -> Value:
        """Whether `_read` filled the record."""
        return self.f.ne(self.flow.get("family"), 0)

    def _is_quiet(self) -> Value:
        return self.f.ne(self.flow.events(), int(Events.TRACE))

    def _connection(self) -> None:
        """Fills the record from an uncommon packet; common ones of known connections end here."""
        f, flow = self.f, self.flow
        asked = f.b.append_basic_block("asked")
        with f.if_else(self._is_common()) as (common, other):
            with common:
                if self.traits.context is not Context.CGROUP:
                    with f.if_(flow.has_flag(Flag.UPLINK)):
                        self._find_owner(asked)
                if self.parts.remember is not None:
                    with f.if_(f.not_(self._is_quiet())):
                        f.leave(asked)
                    rule = known.let_through(
                        f,
                        self.maps,
                        flow,
                        asked,
                        remembers=self.traits.context is not Context.CGROUP,
                        has_streams=self.parts.streams is not None,
                    )
                    self._watch()
                    self._remember(rule)
                    f.ret(self.traits.passed)
            with other:
                self._whole_length()
                is_ip = f.call(self.parts.parsers[self.traits.context], self.context, flow.pointer)
                with f.if_(f.either(f.eq(is_ip, 0), flow.has_flag(Flag.EXEMPT))):
                    f.leave(self.pass_unjudged)
        f.leave(asked)
        f.b.position_at_end(asked)
        self.is_parsed = True

    def _streams_only(self, see_stream: ir.Function) -> None:
        """The endpoint's interface judges and counts; here only what belongs to a stream that nobody sees is denied."""
        f, flow = self.f, self.flow
        with f.if_(f.not_(self._is_common())):
            self._whole_length()
            is_ip = f.call(self.parts.parsers[self.traits.context], self.context, flow.pointer)
            skipped = f.either(f.eq(is_ip, 0), flow.has_flag(Flag.EXEMPT | Flag.MALFORMED | Flag.LATER_FRAGMENT))
            with f.if_(skipped):
                f.ret(self.traits.passed)
        with f.if_(f.ne(f.call(see_stream, flow.pointer), 0)):
            f.ret(self.traits.passed)
        f.leave(self.finish)

    def _remember(self, rule: Value) -> None:
        f, flow = self.f, self.flow
        assert self.parts.remember is not None
        if self.traits.context is Context.CGROUP:
            if self.parts.streams is not None:
                with f.if_(f.ne(flow.get("stream"), 0)):
                    way = Direction(self.traits.direction)
                    known_streams.remember(f, self.maps, flow, self.context, way, rule)
            return
        if self.parts.streams is None:
            f.call(self.parts.remember, flow.pointer, rule)
            return
        with f.if_(f.eq(flow.get("stream"), 0)):
            f.call(self.parts.remember, flow.pointer, rule)

    def _watch(self) -> None:
        """Reads the answers that a packet of a judged stream may have, and of one that is denied why its stream is not seen."""
        f, flow, streams = self.f, self.flow, self.parts.streams
        if streams is not None and self.traits.context is not Context.XDP:
            with f.if_(f.either(f.ne(flow.get("answers"), 0), f.eq(flow.get("verdict"), 0))):
                f.call(streams.watch, self.context, flow.pointer)

    def _find_owner(self, nobody: ir.Block) -> None:
        """At an uplink: takes the owner of the local address for the subject, or leaves where it is not judged there."""
        f, flow = self.f, self.flow
        owner = near_owner(f, self.maps, flow)
        word = f.lookup_index(self.maps["endpoints"], owner)
        with f.if_(f.is_null(word)):
            f.leave(nobody)
        slot = f.load(word, I32, ENDPOINT_SLOT)
        bound = f.bits(f.load(word, I32, ENDPOINT_FLAGS), EndpointFlag.BOUND)
        with f.if_(f.either(f.eq(slot, 0), bound)):
            f.leave(nobody)
        flow.set("subject", owner)
        flow.set("subject_slot", slot)

    # --- who --------------------------------------------------------------------------------------------------

    def _subject(self) -> None:
        f, flow = self.f, self.flow
        has_addresses = f.not_(flow.has_flag(Flag.NO_ADDRESSES))
        flow.copy_address("match", "remote")
        with f.if_(has_addresses):
            self._peer()
        sends = f.both(has_addresses, f.eq(flow.get("direction"), EGRESS))
        if self.traits.context is Context.CGROUP:
            with f.if_(sends):
                self._own_source()
            return
        with f.if_else(flow.has_flag(Flag.UPLINK)) as (uplink, workload):
            with uplink:
                self._uplink_subject(has_addresses)
            with workload, f.if_(sends):
                self._own_source()

    def _peer(self) -> None:
        """Fills in the peer, unless nothing depends on it: no rule, and no endpoint is bound whose addresses an uplink protects."""
        f, flow = self.f, self.flow
        if self.parts.needs_peer:
            set_peer(f, self.maps, flow)
            return
        with f.if_else(flow.has_flag(Flag.NONE_BOUND)) as (skip, ask):
            with skip:
                flow.raise_flag(Flag.PEER_SKIPPED)
            with ask:
                set_peer(f, self.maps, flow)

    def _owner(self, address: str) -> Value:
        return peer_of(self.f, self.maps, self.flow.get("family"), self.flow.address(address))

    def _is_bound(self, index: Value) -> Value:
        f = self.f
        bound = f.var(0, I8)
        endpoint = f.lookup_index(self.maps["endpoints"], index)
        with f.if_(f.not_null(endpoint)):
            is_bound = f.bits(f.load(endpoint, I32, ENDPOINT_FLAGS), EndpointFlag.BOUND)
            bound.set(f.to(f.both(is_bound, f.cmp(">", index, HOST_ENDPOINT)), I8))
        return f.ne(bound.get(), 0)

    def _uplink_subject(self, has_addresses: Value) -> None:
        """The owner of the local address, unless it is judged at its own attach point."""
        f, flow = self.f, self.flow
        with f.if_(f.not_(has_addresses)):
            self.deny(Reason.MALFORMED)
        asks = f.both(f.eq(flow.get("direction"), INGRESS), f.not_(flow.has_flag(Flag.PEER_SKIPPED)))
        with f.if_(asks), f.if_(self._is_bound(flow.get("peer"))):
            flow.set("subject", 0)
            self.deny(Reason.SPOOFED_SOURCE)
        with f.if_(f.eq(flow.get("subject"), 0)):  # else found already
            owner = self._owner("local")
            with f.if_(f.either(f.eq(owner, 0), self._is_bound(owner))):
                flow.settle(1, int(Reason.NO_SUBJECT))
                f.leave(self.finish)
            self._take_subject(owner)

    def _own_source(self) -> None:
        """Denies what a workload sends from a source that is not its own, address configuration excepted."""
        f, flow = self.f, self.flow
        owner = self._owner("local")
        expected = f.var(HOST_ENDPOINT, I32)
        word = f.lookup_index(self.maps["endpoints"], flow.get("subject"))
        with f.if_(f.not_null(word)), f.if_(f.bits(f.load(word, I32, ENDPOINT_FLAGS), EndpointFlag.ADDRESSES)):
            expected.set(flow.get("subject"))
        with f.if_(f.ne(owner, expected.get())):
            local = flow.address("local")
            port = f.swap(flow.get("remote_port"))
            is_udp = f.eq(flow.get("protocol"), parse.UDP)
            unspecified = f.both(f.eq(f.load(local, I64), 0), f.eq(f.load(local, I64, 8), 0))
            link_local = f.eq(f.and_(f.swap(f.load(local, I16)), 0xFFC0), 0xFE80)
            v6 = f.eq(flow.get("family"), 6)
            configures = f.either(
                f.both(f.not_(v6), unspecified, f.eq(port, 67)),
                f.both(v6, f.either(unspecified, link_local), f.eq(port, 547)),
            )
            with f.if_(f.not_(f.both(is_udp, configures))):
                self.deny(Reason.SPOOFED_SOURCE)
