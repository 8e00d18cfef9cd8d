"""What whole commands take, from their start to their end: compile, check, load, and how they grow.

`python -m benchmarks.bench_process [--quick] [--out FILE]`, as root (for `load`). Commands that are compared take turns; medians
count. Memory is the sum over the command's processes, sampled."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import figures, place, rulesets
from benchmarks.figures import Figure
from benchmarks.loads import Wrong, sources
from benchmarks.rulesets import RuleSet, dotted

POLICYC = (sys.executable, "-m", "policyc")
BIG, FEED = 100_000, 100_000
NOTHING = (*POLICYC, "load", "nowhere.o", "--name", "bench")  # ends with 2
SAMPLE = 0.02  # seconds between looks at a command's memory
PAGE = os.sysconf("SC_PAGE_SIZE")
HAS_LLVM = """
import sys
from policyc.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("end", end.code or 0, "llvmlite" in sys.modules)
"""


@dataclass(frozen=True)
class Ran:
    seconds: float
    cpu_seconds: float  # children that it waited for included
    peak_bytes: int  # of all its processes together; 0 where nobody looked
    output: str


def run(command: Sequence[str], watch: bool = False, code: int = 0) -> Ran:
    """Raises `Wrong` where the command ends otherwise than with `code`."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")])),
    }
    before = os.times()
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    peak = [0]
    if watch:
        watcher = threading.Thread(target=_watch, args=(process, peak))
        watcher.start()
    output, errors = process.communicate()
    seconds = time.perf_counter() - begun
    if watch:
        watcher.join()
    after = os.times()
    if process.returncode != code:
        raise Wrong(f"{' '.join(command[2:5])} ended with {process.returncode}: {errors.strip()[-300:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Ran(seconds, cpu, peak[0], output)


def _watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], _resident(process.pid))
        time.sleep(SAMPLE)


def _resident(pid: int) -> int:
    """Bytes of a process and of its children."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):
        return 0
    return pages * PAGE + sum(_resident(int(child)) for child in children)


def by_turns(
    commands: Mapping[str, Sequence[str]], rounds: int, code: Mapping[str, int] | None = None
) -> dict[str, float]:
    """Median seconds of each."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            taken[name].append(run(command, code=(code or {}).get(name, 0)).seconds)
    return {name: statistics.median(samples) for name, samples in taken.items()}


# --- figures ----------------------------------------------------------------------------------------------------------


def checking(rounds: int) -> Iterator[Figure]:
    with ExitStack() as stack:
        commands: dict[str, Sequence[str]] = {"imports": (sys.executable, "-c", "import lark, click")}
        for rules in (rulesets.services(1000), rulesets.access_list(1000)):
            path = stack.enter_context(sources(rules))
            commands[rules.name] = (*POLICYC, "check", str(path))
        seconds = by_turns(commands, rounds)
    imports = seconds.pop("imports")
    for name, taken in seconds.items():
        note = f"{taken * 1000:.0f} ms; `python -c 'import lark, click'`: {imports * 1000:.0f} ms"
        yield Figure("commands", f"check 1,000 rules ({name})", round(taken / imports, 2), "× imports", "<= 6", note)


def compiling(rounds: int) -> Iterator[Figure]:
    with ExitStack() as stack:
        commands: dict[str, Sequence[str]] = {}
        for rules in (rulesets.empty(), rulesets.services(1000), rulesets.pairs(1000), *rulesets.classbench(1000)):
            path = stack.enter_context(sources(rules))
            commands[rules.name] = (*POLICYC, "compile", str(path), "-o", str(path.with_suffix(".o")))
        seconds = by_turns(commands, rounds)
    empty = seconds.pop("empty")
    for name, taken in seconds.items():
        note = f"{taken:.2f} s; the empty policy: {empty:.2f} s"
        yield Figure("commands", f"compile 1,000 rules ({name})", round(taken / empty, 2), "× empty", "<= 4", note)


def starting(rounds: int) -> Iterator[Figure]:
    """`load` of a file that is not there: all that happens before the first look at the kernel."""
    seconds = by_turns({"load": NOTHING}, rounds, {"load": 2})["load"]
    yield Figure("commands", "`policyc load` start-up, imports included", round(seconds, 3), "s", "<= 0.4")


def loading(rounds: int, quick: bool) -> Iterator[Figure]:
    place.add_link()
    with ExitStack() as stack:
        small = stack.enter_context(sources(rulesets.access_list(1000)))
        compile_source(small)
        yield from loads_of("1,000 rules", small, rulesets.access_list(1000), rounds, "<= 0.3")
        yield from without_llvm(small.with_suffix(".o"))
        if quick:
            return
        rules = rulesets.mixed(BIG, 1000, FEED)
        large = stack.enter_context(sources(rules))
        ran = compile_source(large)
        case = f"{BIG:,} rules and {FEED:,} CIDRs"
        note = f"CPU {ran.cpu_seconds:.0f} s; object {large.with_suffix('.o').stat().st_size / 1e6:.0f} MB"
        yield Figure("commands", f"compile {case}", round(ran.seconds, 1), "s", "<= 60", note)
        peak = ran.peak_bytes / (1 << 30)
        yield Figure("commands", "… its memory at most", round(peak, 2), "GiB", "<= 2", "all processes together")
        yield from loads_of(case, large, rules, max(rounds // 3, 2), "<= 5")


def compile_source(path: Path) -> Ran:
    return run((*POLICYC, "compile", str(path), "-o", str(path.with_suffix(".o"))), watch=True)


def loads_of(case: str, path: Path, rules: RuleSet, rounds: int, target: str) -> Iterator[Figure]:
    endpoints = [
        {"name": e.name, "addresses": [dotted(number) for _, number in e.addresses], "labels": dict(e.labels)}
        for e in rules.endpoints
    ]
    listed = path.with_name("endpoints.json")
    listed.write_text(json.dumps({"version": 1, "endpoints": endpoints}))
    load = [*POLICYC, "load", str(path.with_suffix(".o")), "--name", "bench", "--endpoints", str(listed)]
    load += ["--attach", f"uplink:{place.DEVICE}+xdp", "--format", "json"]
    inner, whole, cpu, start = [], [], [], []
    for _ in range(rounds):
        ran = run(load)
        inner.append(float(json.loads(ran.output)["seconds"]))
        whole.append(ran.seconds)
        cpu.append(ran.cpu_seconds)
        start.append(run(NOTHING, code=2).seconds)
        run((*POLICYC, "unload", "bench"))
    value = statistics.median(whole) - statistics.median(start)
    note = (
        f"without start-up; of it after files were read {statistics.median(inner):.2f} s;"
        f" CPU of the whole command {statistics.median(cpu):.2f} s; {len(endpoints):,} endpoints"
    )
    yield Figure("commands", f"load {case}", round(value, 3), "s", target, note)


def without_llvm(artifact: Path) -> Iterator[Figure]:
    """A process that has loaded a policy, and what it has imported by then."""
    command = (sys.executable, "-c", HAS_LLVM, "load", str(artifact), "--name", "bench", "--dry-run")
    end = run(command).output.splitlines()[-1].split()
    if end[:2] != ["end", "0"]:
        raise Wrong(f"load --dry-run: {' '.join(end)}")
    yield Figure("commands", "llvmlite in the process of `policyc load`", float(end[2] == "True"), "modules", "<= 0")


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--quick", action="store_true", help="fewer rounds, no case of 100,000 rules")
    options.add_argument("--out", type=Path, help="where the figures go")
    chosen = options.parse_args()
    place.enter()
    rounds = 3 if chosen.quick else 9
    parts = (starting(rounds), checking(rounds), compiling(max(rounds // 2, 2)), loading(rounds, chosen.quick))
    figures.report(itertools.chain(*parts), chosen.out)


if __name__ == "__main__":
    main()
