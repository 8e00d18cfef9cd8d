"""What a verdict costs in the kernel: ns a packet, and how many times that of parsing the packet alone.

`python -m benchmarks.bench_verdict [--quick] [--format json]`, as root. A driver program writes another packet's addresses and
ports (of 65,536 random ones) into the packet at hand and tail-calls the program under test, so each run of it sees another
packet. The connection table has 1,024 entries, so "new flows" always find it full.

What the driver costs with an empty program behind it is the floor; it is taken off both the verdict and the baseline, a
program that parses the packet by policyc's own parser and passes it. All three are measured in turn, in the same minute;
the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import statistics
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import policies
from policyc.artifact.layout import Events, Hook, MapSpec, PointKind, Reason, reason_index
from policyc.artifact.reader import read
from policyc.codegen.flow import new_flow
from policyc.codegen.function import I32, I64, Function, Helper
from policyc.codegen.programs import Context, build_parser
from policyc.driver import compile_files
from policyc.kernel_engine import LOOPBACK, KernelLoad
from policyc.model import Direction, Endpoint
from policyc.runtime import testrun
from policyc.runtime.libbpf import lib
from policyc.runtime.maps import Map
from policyc.runtime.object import Object
from tests.platform.program import SPAN, array, loaded, returns

PACKETS = 1 << 16
KNOWN_FLOWS = 128  # far fewer than a KernelLoad's connection table holds
SHARE = 0.95  # of the packets, that must be judged as the case says
SKB_STORE_BYTES = 9  # linux/bpf.h
ADDRESSES = 26  # offset in a frame: source, destination, ports follow one another
TUPLE = struct.Struct("!4s4sHH")
CLONE_NEWNET = 0x40000000
SERVER = bytes([10, 0, 0, 1])
FRAME = (
    bytes(12)
    + b"\x08\x00"
    + bytes([0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0, 0])
    + bytes(8 + 4)
    + bytes([0, 30])
    + bytes(24)
)


@dataclass(frozen=True)
class Result:
    """`verdict_ns` and `parse_ns` are without the floor; `ratio` is one by the other."""

    case: str
    floor_ns: float
    parse_ns: float
    verdict_ns: float
    ratio: float


@dataclass(frozen=True)
class Case:
    """`tuples` are the packets (TUPLE), as many as a power of two; all are UDP to the server. `allowed` and `reason` are what
    nearly all of them must get, or the figure would be of something else."""

    name: str
    policy: str
    endpoints: tuple[Endpoint, ...]
    tuples: tuple[bytes, ...]
    allowed: bool
    reason: Reason


def endpoint(name: str, number: int, **labels: str) -> Endpoint:
    return Endpoint(name, (("4", 10 << 24 | number),), labels)


def world(rng: random.Random) -> bytes:
    return bytes([rng.randrange(11, 127), *rng.randbytes(3)])


def cases(quick: bool) -> Iterator[Case]:
    rng = random.Random(policies.SEED)
    server = endpoint("server", 1, app="server")
    strangers = tuple(
        TUPLE.pack(world(rng), SERVER, rng.randrange(1024, 65536), rng.randrange(65536)) for _ in range(PACKETS)
    )
    for prefixes in (100,) if quick else (100, 10_000):
        text = policies.blocklist(prefixes)
        yield Case(f"{prefixes} prefixes, new flows", text, (server,), strangers, True, Reason.RULE)
        known = strangers[:KNOWN_FLOWS]
        yield Case(f"{prefixes} prefixes, known flows", text, (server,), known, True, Reason.ESTABLISHED)
    for rules in (10, 100) if quick else (10, 100, 1000):
        callers = tuple(endpoint(f"e{n}", n + 2, app=f"app{n}") for n in range(rules))
        text = policies.services(rules)
        yield Case(f"{rules} rules, strangers denied", text, (server, *callers), strangers, False, Reason.DEFAULT)
        callers_flows = tuple(
            TUPLE.pack((10 << 24 | n + 2).to_bytes(4), SERVER, rng.randrange(1024, 65536), 1000 + n % 60000)
            for n in (rng.randrange(rules) for _ in range(PACKETS))
        )
        yield Case(f"{rules} rules, new flows", text, (server, *callers), callers_flows, True, Reason.RULE)


# --- programs -----------------------------------------------------------------------------------------------------


def drive(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
    """Writes the next tuple into the packet and goes on to the program under test."""
    cursor = f.lookup_index(maps["cursor"], 0)
    with f.if_(f.is_null(cursor)):
        f.ret(0)
    count, limit = f.load(cursor, I64), f.load(cursor, I64, 8)
    f.store(cursor, f.add(count, 1))
    packet = f.lookup_index(maps["packets"], f.to(f.and_(count, limit), I32))
    with f.if_(f.is_null(packet)):
        f.ret(0)
    f.helper(SKB_STORE_BYTES, f.args[0], I32(ADDRESSES), packet, I32(TUPLE.size), 0)  # type: ignore[arg-type]
    f.helper(Helper.TAIL_CALL, f.args[0], maps["target"], I32(0))


def parse(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
    parser = build_parser(f.module, f.debug, Context.TC, SPAN)
    f.call(parser, f.args[0], new_flow(f).pointer)
    f.ret(0xFFFFFFFF)


class Driver:
    """The driver, the empty program and the baseline, loaded."""

    def __init__(self, made: Object) -> None:
        self._made = made
        self.empty, self.parse = made.program_fd("empty"), made.program_fd("parse")

    def packets(self, tuples: tuple[bytes, ...]) -> None:
        """As many as a power of two."""
        table = Map(os.dup(self._made.map_fd("packets")), "packets")
        table.update_many([(n.to_bytes(4, "little"), t + bytes(4)) for n, t in enumerate(tuples)])
        table.close()
        cursor = struct.pack("<QQ", 0, len(tuples) - 1)
        assert lib().bpf_map_update_elem(self._made.map_fd("cursor"), bytes(4), cursor, 0) == 0

    def run(self, program: int, repeat: int) -> int:
        """ns a packet, the driver's own included."""
        fd = program.to_bytes(4, "little")
        assert lib().bpf_map_update_elem(self._made.map_fd("target"), bytes(4), fd, 0) == 0
        return testrun.run_skb(self._made.program_fd("drive"), FRAME, ifindex=LOOPBACK, repeat=repeat).duration_ns


@contextmanager
def driver() -> Iterator[Driver]:
    maps = [array("cursor", 16, 1), array("packets", 16, PACKETS), MapSpec("target", "PROG_ARRAY", 4, 4, 1, "")]
    programs = {("tc", "drive"): drive, ("tc", "empty"): returns(-1), ("tc", "parse"): parse}
    with loaded(programs, maps) as made:
        yield Driver(made)


def compiled(text: str) -> bytes:
    with TemporaryDirectory() as folder:
        source = Path(folder, "bench.pol")
        source.write_text(text)
        return compile_files([str(source)])


def measure(case: Case, rounds: int, repeat: int) -> Result:
    with driver() as made, KernelLoad(read(compiled(case.policy)), case.endpoints) as load:
        load.attach_point(LOOPBACK, PointKind.UPLINK)
        load.configure(events=Events.NONE)
        made.packets(case.tuples)
        subject = load.programs[Hook.TC_INGRESS]
        for program in (made.empty, made.parse, subject):
            made.run(program, len(case.tuples))
        samples: dict[int, list[int]] = {made.empty: [], made.parse: [], subject: []}
        for _ in range(rounds):
            for program, taken in samples.items():
                taken.append(made.run(program, repeat))
        check(case, load)
        floor, baseline, verdict = (statistics.median(taken) for taken in samples.values())
    parse_ns, verdict_ns = baseline - floor, verdict - floor
    return Result(case.name, floor, parse_ns, verdict_ns, round(verdict_ns / parse_ns, 2) if parse_ns > 0 else 0.0)


def check(case: Case, load: KernelLoad) -> None:
    """By the program's own counters (the warm-up included, in which flows become known)."""
    reasons = load.map("reasons")
    packets = [reasons.sum_cpus(value)[0] for value in reasons.read_array()]
    expected = packets[reason_index(Direction.INGRESS, case.allowed, case.reason)]
    if expected < SHARE * sum(packets):
        raise SystemExit(f"{case.name}: {expected} of {sum(packets)} packets were judged as the case says")


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--quick", action="store_true", help="smaller policies, fewer rounds")
    options.add_argument("--format", choices=("text", "json"), default="text")
    chosen = options.parse_args()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise SystemExit(f"bench_verdict: a network namespace: {os.strerror(ctypes.get_errno())}; run as root")
    rounds, repeat = (5, 100_000) if chosen.quick else (11, 400_000)
    results = []
    for case in cases(chosen.quick):
        results.append(measure(case, rounds, repeat))
        if chosen.format == "text":
            r = results[-1]
            print(
                f"{r.case:34} parse {r.parse_ns:6.0f} ns  verdict {r.verdict_ns:6.0f} ns  ratio {r.ratio:5.2f}",
                flush=True,
            )
    if chosen.format == "json":
        document = {"format": "policyc-benchmark", "version": 1, "results": [asdict(r) for r in results]}
        print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
