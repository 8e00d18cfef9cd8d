"""Who waits at a socket for data.

A verdict program that lets a buffer vanish has the kernel wake those who wait all the same (sk_psock_verdict_data_ready). Who asks by epoll, poll or io_uring reads again
and sees that nothing is there; a thread that is blocked in `recv` gets EAGAIN (tcp_bpf_recvmsg), which some servers take for the end of the stream. They are told by the function
that their entry in the socket's wait queue names."""

from __future__ import annotations

from policyc.codegen.function import I8, I32, I64, Function, Helper, Value
from policyc.codegen.maps import Maps
from policyc.codegen.records import CONFIG_WAKES

MOST_WAITERS = 16  # that are looked at


def someone_is_blocked(f: Function, maps: Maps, tcp: Value) -> Value:
    """Whether (i8) a thread is blocked in a read of the socket (`struct tcp_sock`), or may be: who blocks is known by the address that the loader
    found (`config`), without it anybody might."""
    blocked = f.var(1, I8)
    done = f.b.append_basic_block("waiters_known")
    config = f.lookup_index(maps["config"], 0)
    with f.if_(f.is_null(config)):
        f.leave(done)
    wakes = f.load(config, I64, CONFIG_WAKES)
    with f.if_(f.eq(wakes, 0)):
        f.leave(done)
    queue = _read(f, f.b.ptrtoint(tcp, I64), done, ("sock", "sk_wq"))
    to_head = f.add(f.kernel_offset("socket_wq", "wait"), f.kernel_offset("wait_queue_head", "head"))
    head = f.add(queue, to_head)
    entry = f.var(_read(f, head, done))
    with f.loop(MOST_WAITERS, MOST_WAITERS):
        with f.if_(f.eq(entry.get(), head)):
            blocked.set(0)
            f.leave(done)
        waiter = f.sub(entry.get(), f.kernel_offset("wait_queue_entry", "entry"))
        with f.if_(f.eq(_read(f, waiter, done, ("wait_queue_entry", "func")), wakes)):
            f.leave(done)
        entry.set(_read(f, entry.get(), done))
    f.leave(done)
    f.b.position_at_end(done)
    return blocked.get()


def _read(f: Function, address: Value, failed: object, member: tuple[str, str] | None = None) -> Value:
    """The pointer (i64) that the kernel has at an address, or in a member of the struct there; leaves to `failed` where nothing can be read."""
    if member is not None:
        address = f.add(address, f.kernel_offset(*member))
    value = f.shared_slot(I64, "kernel_word")
    with f.if_(f.ne(f.helper(Helper.PROBE_READ_KERNEL, value, I32(8), address), 0)):
        f.leave(failed)
    return f.load(value, I64)
