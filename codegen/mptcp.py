"""Whether a denied packet is one of MPTCP (RFC 8684), whose connections cannot be taken over: what its sender should know."""

from __future__ import annotations

from policyc.artifact.layout import Reason
from policyc.artifact.stream_layout import Saw
from policyc.codegen.flow import SCRATCH, Flow
from policyc.codegen.function import I8, I32, Function, Helper, Value
from policyc.codegen.parse import TCP

IPV4_BYTES, IPV6_BYTES, TCP_BYTES, OPTION_BYTES = 20, 40, 20, 40
END, PADDING, MPTCP = 0, 1, 30  # kinds of options


def look(f: Function, context: Value, flow: Flow, begins: int) -> None:
    """Looks at the TCP options of a packet that is denied because its stream is not seen; its IP header, which has no options itself or none is looked at, is
    `begins` bytes behind the buffer's beginning."""
    done = f.b.append_basic_block("options_seen")
    not_seen = f.both(f.eq(flow.get("verdict"), 0), f.eq(flow.get("reason"), int(Reason.L7_NOT_SEEN)))
    with f.if_(f.not_(f.both(not_seen, f.eq(flow.get("protocol"), TCP)))):
        f.leave(done)
    header = f.select(f.eq(flow.get("family"), 4), I32(IPV4_BYTES), I32(IPV6_BYTES))
    options = f.add(header, begins + TCP_BYTES)
    length = f.sub(flow.get("payload_at"), options)
    with f.if_(f.either(f.eq(length, 0), f.cmp(">", length, OPTION_BYTES))):
        f.leave(done)
    memory = f.at_offset(flow.pointer, SCRATCH)
    failed = f.helper(Helper.SKB_LOAD_BYTES, context, options, memory, f.at_most(length, OPTION_BYTES))
    with f.if_(f.ne(failed, 0)):
        f.leave(done)
    place = f.var(0, I32)
    with f.loop(OPTION_BYTES, OPTION_BYTES):
        at = f.sub(f.at_most(f.add(place.get(), 1), OPTION_BYTES), 1)
        kind = f.load(f.at_offset(memory, at), I8)
        with f.if_(f.either(f.cmp(">=", place.get(), length), f.eq(kind, END))):
            f.leave(done)
        with f.if_(f.eq(kind, MPTCP)):
            flow.set("seen", int(Saw.MPTCP))
            f.leave(done)
        size = f.to(f.load(f.at_offset(memory, f.add(at, 1)), I8), I32)
        with f.if_(f.both(f.ne(kind, PADDING), f.cmp("<", size, 2))):
            f.leave(done)
        place.set(f.add(place.get(), f.select(f.eq(kind, PADDING), I32(1), size)))
    f.leave(done)
    f.b.position_at_end(done)
