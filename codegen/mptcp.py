"""Whether a denied packet is one of MPTCP (RFC 8684), whose connections cannot be taken over: what its sender should know."""

from __future__ import annotations

from llvmlite import ir

from policyc.artifact.layout import Hook, Reason
from policyc.artifact.stream_layout import Saw
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.direct import ETHERNET_BYTES
from policyc.codegen.flow import Flow, debug_type
from policyc.codegen.function import I8, I32, PTR, Function, Helper
from policyc.codegen.parse import TCP
from policyc.model import Span

IPV4_BYTES, IPV6_BYTES, TCP_BYTES, OPTION_BYTES = 20, 40, 20, 40
ROOM = 64  # for them; a power of two, by which every kernel knows where an index ends
END, PADDING, MPTCP = 0, 1, 30  # kinds of options
MOST_OPTIONS = 8  # that are looked at: two of padding, time stamps, three of SACK's, MPTCP's


def build(module: ir.Module, debug: DebugInfo, span: Span) -> ir.Function:
    """see_mptcp(ctx, flow): looks at the TCP options of a packet (an skb) if it is denied because its stream is not seen and its IP header has
    no options."""
    # The kernel knows the context of a global function by the name of its type.
    context = debug.pointer(debug.struct("__sk_buff", [], 0))
    args = [("ctx", PTR, context), ("flow", PTR, debug_type(debug))]
    f = Function(module, debug, "see_mptcp", args, span)
    with f.if_(f.is_null(f.args[1])):
        f.ret(0)
    flow = Flow(f, f.args[1])
    not_seen = f.both(f.eq(flow.get("verdict"), 0), f.eq(flow.get("reason"), int(Reason.L7_NOT_SEEN)))
    with f.if_(f.not_(f.both(not_seen, f.eq(flow.get("protocol"), TCP)))):
        f.ret(0)
    header = f.select(f.eq(flow.get("family"), 4), I32(IPV4_BYTES), I32(IPV6_BYTES))
    at_cgroup = f.either(*(f.eq(flow.get("hook"), int(h)) for h in (Hook.CGROUP_INGRESS, Hook.CGROUP_EGRESS)))
    options = f.add(f.add(header, f.select(at_cgroup, I32(0), I32(ETHERNET_BYTES))), TCP_BYTES)
    length = f.sub(flow.get("payload_at"), options)
    with f.if_(f.either(f.eq(length, 0), f.cmp(">", length, OPTION_BYTES))):
        f.ret(0)
    memory = f.slot(ir.ArrayType(I8, ROOM + 8), "options")
    f.zero(memory, ROOM + 8)
    failed = f.helper(Helper.SKB_LOAD_BYTES, f.args[0], options, memory, f.at_most(length, OPTION_BYTES))
    with f.if_(f.ne(failed, 0)):
        f.ret(0)
    place = f.var(0, I32)
    with f.loop(MOST_OPTIONS, MOST_OPTIONS):
        at = f.and_(place.get(), ROOM - 1)
        kind = f.load(f.at_offset(memory, at), I8)
        with f.if_(f.either(f.cmp(">=", place.get(), length), f.eq(kind, END))):
            f.ret(0)
        with f.if_(f.eq(kind, MPTCP)):
            flow.set("seen", int(Saw.MPTCP))
            f.ret(0)
        size = f.to(f.load(f.at_offset(memory, f.add(at, 1)), I8), I32)
        with f.if_(f.both(f.ne(kind, PADDING), f.cmp("<", size, 2))):
            f.ret(0)
        place.set(f.add(place.get(), f.select(f.eq(kind, PADDING), I32(1), size)))
    return f.close()
