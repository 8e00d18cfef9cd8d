"""What single steps of a program cost, in ns: the figures that choices of the compiler rest on (docs/performance.md).

`python -m benchmarks.bench_primitives [--quick] [--out FILE]`, as root. Each step stands many times in a program; a program without it
is the floor, and the median of their differences is divided by the number of steps.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llvmlite import ir

from benchmarks import drivers, figures
from benchmarks.figures import Figure
from benchmarks.loads import compiled
from benchmarks.rulesets import RuleSet
from policyc.artifact.layout import ENTRY_PREFIX, Hook, MapSpec, PointKind, State
from policyc.codegen.function import I32, I64, PTR, Function, Helper, Value
from policyc.ir.passes import cost_model
from policyc.kernel_engine import LOOPBACK, KernelLoad
from policyc.runtime import testrun
from policyc.runtime.libbpf import lib
from policyc.runtime.object import Object
from tests.platform.program import array, loaded

COPIES = 64
LEAVES = 4096
GET_PRANDOM_U32 = 7  # linux/bpf.h
SKB_DATA, SKB_DATA_END = 76, 80
MULTIPLIER, INCREMENT = 6364136223846793005, 1442695040888963407  # Knuth's MMIX generator
MEMORIES = (16 << 10, 512 << 10, 8 << 20, 256 << 20)  # bytes
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


def coarse_time(f: Function, maps: Any) -> None:
    for _ in range(COPIES):
        f.helper(Helper.KTIME_GET_COARSE_NS)


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


def wander(load: bool, size: int) -> Step:
    """A chain of COPIES random places in `size` bytes, each loaded where `load`: the next place depends on what was found."""

    def body(f: Function, maps: Any) -> None:
        memory = f.lookup_index(maps["memory"], 0)
        with f.if_(f.is_null(memory)):
            f.ret(0)
        number = f.to(f.helper(GET_PRANDOM_U32), I64)  # type: ignore[arg-type]
        for _ in range(COPIES):
            number = f.add(f.mul(number, I64(MULTIPLIER)), I64(INCREMENT))
            place = f.and_(f.shr(number, 24), size - 8)
            found = f.load(memory, I64, place) if load else place
            number = f.add(number, found)
        f.ret(f.to(number, I32))

    return body


def interval(f: Function, maps: Any) -> None:
    """Whether a key is in an interval of constants, and what stands for it; each depends on the one before."""
    key = f.to(f.helper(GET_PRANDOM_U32), I32)  # type: ignore[arg-type]
    for n in range(COPIES):
        key = f.select(f.cmp("<=", f.sub(key, n << 20), 1 << 18), I32(n * 77), f.add(key, 1))
    f.ret(key)


def interval_floor(f: Function, maps: Any) -> None:
    f.ret(f.to(f.helper(GET_PRANDOM_U32), I32))  # type: ignore[arg-type]


def record(f: Function, maps: Any) -> None:
    """A record of 16 bytes among 1,024, and whether a key is in its interval."""
    records = f.lookup_index(maps["memory"], 0)
    with f.if_(f.is_null(records)):
        f.ret(0)
    key = f.to(f.helper(GET_PRANDOM_U32), I32)  # type: ignore[arg-type]
    for _ in range(COPIES):
        at = f.at_offset(records, f.shl(f.to(f.and_(key, 1023), I64), 4))
        first, span, cell = (f.load(at, I32, offset) for offset in (0, 4, 8))
        key = f.select(f.cmp("<=", f.sub(key, first), span), cell, f.add(key, 7))
    f.ret(key)


@dataclass(frozen=True)
class Probe:
    """`step` has `count` steps that `floor` has not. `model`: what the cost model takes one for, None where it asks for none."""

    name: str
    floor: Step
    step: Step
    count: int
    model: float | None = None
    memory: int = 1 << 14  # bytes of `memory`


def size_name(size: int) -> str:
    return f"{size >> 20} MiB" if size >> 20 else f"{size >> 10} KiB"


PROBES = [
    Probe("`bpf_skb_load_bytes` of 8 bytes", nothing, load_by_helper, COPIES),
    Probe("the same by direct access, checked", nothing, load_directly, COPIES),
    Probe("lookup in an array, constant index", nothing, array_lookup, COPIES),
    Probe("lookup in a hash of 1 entry", nothing, hash_lookup, COPIES),
    Probe("`bpf_ktime_get_coarse_ns`", nothing, coarse_time, COPIES),
    Probe("compare and branch of a tree, random keys", key_alone, tree, 12, cost_model.BRANCH),
    Probe("step of a branch-free search, random keys", key_alone, search, 12, cost_model.SEARCH_STEP),
    Probe("interval of constants", interval_floor, interval, COPIES, cost_model.CONSTANT),
    Probe("record of a row and its interval", interval_floor, record, COPIES, cost_model.RECORD),
    *(
        Probe(
            f"load at a random place of {size_name(size)}",
            wander(False, size),
            wander(True, size),
            COPIES,
            cost_model.load_cost(size),
            size,
        )
        for size in MEMORIES
    ),
    Probe("tail call, constant index", nothing, jump, 1),
]


def difference(made: Object, floor: str, step: str, quick: bool) -> float:
    rounds, repeat = (7, 20_000) if quick else (15, 100_000)
    frame = drivers.frame()
    taken = []
    for _ in range(rounds):
        a, b = (testrun.run_skb(made.program_fd(n), frame, repeat=repeat).duration_ns for n in (floor, step))
        taken.append(b - a)
    return statistics.median(taken)


def measure(probe: Probe, quick: bool) -> float:
    maps = [
        array("numbers"),
        array("memory", probe.memory, 1),
        MapSpec("table", "HASH", 4, 4, 16, ""),
        MapSpec("next", "PROG_ARRAY", 4, 4, 1, ""),
    ]
    programs = {("tc", "floor"): probe.floor, ("tc", "step"): probe.step, ("tc", "target"): nothing}
    with loaded(programs, maps) as made:
        zero, target = bytes(4), made.program_fd("target").to_bytes(4, "little")
        lib().bpf_map_update_elem(made.map_fd("next"), zero, target, 0)
        lib().bpf_map_update_elem(made.map_fd("table"), zero, zero, 0)
        return difference(made, "floor", "step", quick) / probe.count


def entry_program(quick: bool) -> float:
    """enter_tc_ingress before policyc_tc_ingress, which is dormant: what an entry program adds to a packet."""
    artifact = compiled(RuleSet("entry", 1, "policy p for { a == b } { ingress { allow from any on tcp/80 } }\n", ()))
    with KernelLoad(artifact) as load:
        load.attach_point(LOOPBACK, PointKind.UPLINK)
        load.configure(state=State.DORMANT)
        entry, direct = ENTRY_PREFIX + "tc_ingress", "policyc_tc_ingress"
        load.map("switch").update(bytes(4), int(State.ACTIVE).to_bytes(4, "little"))
        load.map("next_tc_ingress").update(bytes(4), load.programs[Hook.TC_INGRESS].to_bytes(4, "little"))
        return difference(load.object, direct, entry, quick)


def measured(quick: bool) -> Iterator[Figure]:
    for probe in PROBES:
        model = "" if probe.model is None else f"{probe.model:g}"
        yield Figure("steps", probe.name, round(measure(probe, quick), 2), "ns", None, model)
    yield Figure("steps", "entry program before the policy", round(entry_program(quick), 2), "ns")


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--quick", action="store_true", help="fewer rounds")
    options.add_argument("--out", type=Path, help="where the figures go")
    chosen = options.parse_args()
    figures.report(measured(chosen.quick), chosen.out)


if __name__ == "__main__":
    main()
