"""What single steps of a program cost, in ns: the figures that choices of the compiler rest on (docs/platform.md).

`python -m benchmarks.bench_primitives`, as root. Each step stands many times in a program; a program without it is the
floor, and the difference of the medians is divided by the number of steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from benchmarks.bench_verdict import FRAME, compiled
from policyc.artifact.layout import ENTRY_PREFIX, Hook, MapSpec, PointKind, State
from policyc.artifact.reader import read
from policyc.codegen.function import I32, I64, PTR, Function, Helper, Value
from policyc.kernel_engine import LOOPBACK, KernelLoad
from policyc.runtime import testrun
from policyc.runtime.libbpf import lib
from policyc.runtime.object import Object
from tests.platform.program import array, loaded

COPIES = 64
LEAVES = 4096
GET_PRANDOM_U32 = 7  # linux/bpf.h
SKB_DATA, SKB_DATA_END = 76, 80
ROUNDS, REPEAT = 15, 300_000
Step = Callable[[Function, Any], None]


def nothing(f: Function, maps: Any) -> None:
    pass


def load_by_helper(f: Function, maps: Any) -> None:
    place = f.slot(I64)
    for _ in range(COPIES):
        f.helper(Helper.SKB_LOAD_BYTES, f.args[0], I32(26), place, I32(8))


def load_directly(f: Function, maps: Any) -> None:
    end = f.b.append_basic_block("end")
    for _ in range(COPIES):
        data, limit = (f.load(f.args[0], I32, at) for at in (SKB_DATA, SKB_DATA_END))
        start = f.b.inttoptr(f.to(data, I64), PTR)
        after = f.b.ptrtoint(f.at_offset(start, 34), I64)
        with f.if_(f.cmp(">", after, f.to(limit, I64))):
            f.leave(end)
        f.b.load(f.at_offset(start, 26), typ=I32).volatile = True
        f.b.load(f.at_offset(start, 30), typ=I32).volatile = True
    f.leave(end)
    f.b.position_at_end(end)


def array_lookup(f: Function, maps: Any) -> None:
    for _ in range(COPIES):
        place = f.lookup_index(maps["numbers"], 0)
        with f.if_(f.not_null(place)):
            f.load(place, I64)


def hash_lookup(f: Function, maps: Any) -> None:
    key = f.slot(I32, align=4)
    f.store(key, 0, I32)
    for _ in range(COPIES):
        f.lookup(maps["table"], key)


def random_key(f: Function) -> Value:
    return f.and_(f.to(f.helper(GET_PRANDOM_U32), I32), LEAVES - 1)  # type: ignore[arg-type]


def key_alone(f: Function, maps: Any) -> None:
    f.ret(random_key(f))


def tree(f: Function, maps: Any) -> None:
    """A balanced tree of compares over 4,096 leaves, each of which returns a number of its own."""

    def descend(low: int, high: int) -> None:
        if high - low == 1:
            f.ret(low * 7 & 0xFFFF)
            return
        middle = (low + high) // 2
        with f.if_(f.cmp("<", key, middle)):
            descend(low, middle)
        descend(middle, high)

    key = random_key(f)
    descend(0, LEAVES)


def search(f: Function, maps: Any) -> None:
    """A branch-free search for the last of 4,096 sorted numbers that is not above the key."""
    numbers = ir.GlobalVariable(f.module, ir.ArrayType(I32, LEAVES), "sorted")
    numbers.initializer = ir.Constant(numbers.value_type, list(range(LEAVES)))
    numbers.global_constant, numbers.section, numbers.type = True, ".rodata", PTR
    key = random_key(f)
    low, length = f.var(0, I32), f.var(LEAVES, I32)
    with f.loop(LEAVES.bit_length() - 1, LEAVES.bit_length() - 1):
        half = f.shr(length.get(), 1)
        at = f.add(low.get(), half)
        place = f.shl(f.to(f.and_(at, LEAVES - 1), I64), 2)
        above = f.sub(f.to(f.load(numbers, I32, place), I64), f.to(key, I64))
        mask = f.to(f.sar(f.sub(above, 1), 63), I32)
        low.set(f.add(low.get(), f.and_(half, mask)))
        length.set(f.sub(length.get(), half))
    f.ret(low.get())


def jump(f: Function, maps: Any) -> None:
    f.helper(Helper.TAIL_CALL, f.args[0], maps["next"], I32(0))


STEPS: list[tuple[str, Step, Step, int]] = [
    ("bpf_skb_load_bytes of 8 bytes", nothing, load_by_helper, COPIES),
    ("the same by direct access, checked", nothing, load_directly, COPIES),
    ("lookup in an array, constant index", nothing, array_lookup, COPIES),
    ("lookup in a hash of 1 entry", nothing, hash_lookup, COPIES),
    ("compare and branch of a tree, random keys", key_alone, tree, 12),
    ("step of a branch-free search, random keys", key_alone, search, 12),
    ("tail call, constant index", nothing, jump, 1),
]


def difference(made: Object, floor: str, step: str) -> float:
    taken: dict[str, list[int]] = {floor: [], step: []}
    for _ in range(ROUNDS):
        for name, samples in taken.items():
            samples.append(testrun.run_skb(made.program_fd(name), FRAME, repeat=REPEAT).duration_ns)
    return statistics.median(taken[step]) - statistics.median(taken[floor])


def measure(floor: Step, step: Step, count: int) -> float:
    maps = [array("numbers"), MapSpec("table", "HASH", 4, 4, 16, ""), MapSpec("next", "PROG_ARRAY", 4, 4, 1, "")]
    programs = {("tc", "floor"): floor, ("tc", "step"): step, ("tc", "target"): nothing}
    with loaded(programs, maps) as made:
        zero, target = bytes(4), made.program_fd("target").to_bytes(4, "little")
        lib().bpf_map_update_elem(made.map_fd("next"), zero, target, 0)
        lib().bpf_map_update_elem(made.map_fd("table"), zero, zero, 0)
        return difference(made, "floor", "step") / count


def entry_program() -> float:
    """enter_tc_ingress before policyc_tc_ingress, which is dormant: what an entry program adds to a packet."""
    artifact = read(compiled("policy p for { a == b } { ingress { allow from any on tcp/80 } }\n"))
    with KernelLoad(artifact) as load:
        load.attach_point(LOOPBACK, PointKind.UPLINK)
        load.configure(state=State.DORMANT)
        entry, direct = ENTRY_PREFIX + "tc_ingress", "policyc_tc_ingress"
        load.map("switch").update(bytes(4), int(State.ACTIVE).to_bytes(4, "little"))
        load.map("next_tc_ingress").update(bytes(4), load.programs[Hook.TC_INGRESS].to_bytes(4, "little"))
        return difference(load.object, direct, entry)


def main() -> None:
    for name, floor, step, count in STEPS:
        print(f"{name:45} {measure(floor, step, count):5.1f} ns", flush=True)
    print(f"{'entry program before the policy':45} {entry_program():5.1f} ns")


if __name__ == "__main__":
    main()
