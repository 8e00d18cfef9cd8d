"""What a verdict costs in the kernel: ns a packet above a program that only parses.

`python -m benchmarks.bench_verdict [--quick] [--out FILE]`, as root. The policies are loaded by `policyc.runtime.load` into a
namespace of this process's own; the entry programs run under BPF_PROG_TEST_RUN behind a driver (`drivers.py`) that shows each
run another packet. In every round the floors and the program under test run in turn; a figure is the median over the rounds of
their difference in one round. The programs' own counters must say that the packets were judged as the case says."""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import figures, place, rulesets
from benchmarks.drivers import Driver, drivers, tuples
from benchmarks.figures import Figure
from benchmarks.loads import Loaded, Outcome, compiled, loaded
from benchmarks.place import DEVICE
from benchmarks.rulesets import Packet, RuleSet
from policyc.artifact.layout import Hook, Reason
from policyc.codegen.direct import Context

CONNECTIONS = 65_536  # entries of `ct4` as `load` makes it
FED = 1 << 16  # tuples of a case
ALLOWED, DENIED = (True, Reason.RULE), (False, Reason.RULE)
DEFAULT, ESTABLISHED = (False, Reason.DEFAULT), (True, Reason.ESTABLISHED)
SIZES = (10, 100, 1000, 10_000, 100_000)


@dataclass(frozen=True)
class Place:
    """An attach point under measurement. `spec` is what `--attach` takes."""

    name: str
    hook: Hook
    context: Context
    spec: str


UPLINK = Place("tc uplink", Hook.TC_INGRESS, Context.TC, f"uplink:{DEVICE}")
WORKLOAD = Place("tc workload point", Hook.TC_EGRESS, Context.TC, f"workload:{DEVICE}=server")
XDP = Place("XDP uplink", Hook.XDP_INGRESS, Context.XDP, f"uplink:{DEVICE}+xdp")


@dataclass(frozen=True)
class Effort:
    rounds: int
    repeat: int


@dataclass(frozen=True)
class Measured:
    """Medians, ns: each program above the driver alone; the verdict above policyc's parser and above the least parser."""

    hand: float
    parser: float
    lookup: float
    insert: float
    verdict: float
    above: float  # the verdict, above policyc's parser
    rest: float  # the same without what lookup and insert of a connection take in a program that does nothing else


def measure(
    driver: Driver,
    load: Loaded,
    where: Place,
    packets: Sequence[bytes],
    expected: Sequence[Outcome],
    effort: Effort,
    new: bool = False,
) -> Measured:
    """`new`: every packet begins a connection; otherwise those that do have done so before the first round."""
    device = place.ifindex(DEVICE)
    programs = {**driver.floors, "verdict": load.entries[where.hook]}
    driver.feed(packets, new_ports=new)
    for program in programs.values():
        driver.run(program, max(2 * len(packets), effort.repeat // 2), device)
    load.begin()
    taken: dict[str, list[int]] = {name: [] for name in programs}
    for n in range(effort.rounds):
        order = list(programs)
        random.Random(n).shuffle(order)
        for name in order:
            taken[name].append(driver.run(programs[name], effort.repeat, device))
    judged = load.check(f"{where.name}", expected)
    if judged != effort.rounds * effort.repeat:
        raise SystemExit(f"{where.name}: {judged} packets were judged of {effort.rounds * effort.repeat}")

    def median(plus: Sequence[str], minus: Sequence[str]) -> float:
        """Over the rounds: of the sum of some programs' times without those of others."""
        return statistics.median(
            sum(taken[n][i] for n in plus) - sum(taken[n][i] for n in minus) for i in range(effort.rounds)
        )

    return Measured(
        hand=median(["hand"], ["empty"]),
        parser=median(["parser"], ["empty"]),
        lookup=median(["lookup"], ["empty"]),
        insert=median(["insert"], ["empty"]),
        verdict=median(["verdict"], ["empty"]),
        above=median(["verdict"], ["parser"]),
        rest=median(["verdict", "hand"], ["parser", "insert"]),
    )


def drawn(rules: RuleSet, count: int = FED, seed: int = 1) -> list[Packet]:
    assert rules.packets is not None
    rng = random.Random(seed)
    return [rules.packets(rng) for _ in range(count)]


def among(live: Sequence[bytes], seed: int = 2) -> list[bytes]:
    """FED packets of `live` connections at random."""
    rng = random.Random(seed)
    return [*live, *rng.choices(live, k=FED - len(live))] if len(live) > FED // 2 else rng.choices(live, k=FED)


# --- cases ------------------------------------------------------------------------------------------------------------


def floors(m: Measured) -> str:
    return f"above hand-written parser {m.verdict - m.hand:.0f}; floors: own parser {m.parser:.0f}, hand-written {m.hand:.0f}"


def machine_sized(effort: Effort) -> Iterator[Figure]:
    """1,000 rules, 10,000 endpoints, a feed of 100,000 prefixes."""
    rules = rulesets.mixed(1000, 10_000, 100_000)
    artifact = compiled(rules)
    entries = tuples(drawn(rules))
    with drivers(CONNECTIONS) as by_context:
        for where in (UPLINK, WORKLOAD, XDP):
            driver = by_context[where.context]
            with loaded(artifact, rules, where.spec) as load:
                m = measure(driver, load, where, entries, [ALLOWED], effort, new=True)
                yield Figure("new", f"new connection, {where.name}", round(m.rest, 1), "ns", "<= 150", floors(m))
                yield Figure("new", f"… its connection-table lookup, {where.name}", round(m.lookup - m.hand, 1), "ns")
                yield Figure("new", f"… its connection-table insert, {where.name}", round(m.insert - m.lookup, 1), "ns")
            for live, limit in ((1000, 60), (64_000, 110)):
                with loaded(artifact, rules, where.spec) as load:
                    some = among(sorted(set(entries))[:live])
                    m = measure(driver, load, where, some, [ESTABLISHED], effort)
                    name = f"established, {live:,} live, {where.name}"
                    note = f"{floors(m)}; bare lookup {m.lookup - m.hand:.0f}"
                    yield Figure("established", name, round(m.above, 1), "ns", f"<= {limit}", note)


def shapes(effort: Effort) -> Iterator[Figure]:
    """New connections by rule sets of 1,000 rules of other shapes."""
    with drivers(CONNECTIONS) as by_context:
        for rules in rulesets.classbench(1000):
            artifact = compiled(rules)
            entries = tuples(drawn(rules))
            for where in (UPLINK, XDP):
                with loaded(artifact, rules, where.spec) as load:
                    # Few addresses have few ports: a few packets meet a connection of an earlier lap.
                    outcomes = [ALLOWED, DENIED, DEFAULT, ESTABLISHED]
                    m = measure(by_context[where.context], load, where, entries, outcomes, effort, new=True)
                    judged = load.judged()
                    denied = sum(n for (allowed, _), n in judged.items() if not allowed) / sum(judged.values())
                    note = f"{floors(m)}; {denied:.0%} denied; lookup and insert alone {m.insert - m.hand:.0f}"
                    yield Figure(
                        "shapes", f"{rules.name}, 1,000 rules, {where.name}", round(m.above, 1), "ns", None, note
                    )


def stateless(effort: Effort) -> Iterator[Figure]:
    """1,000 rules that allow an address and a port each; half of the packets are on the list, the others from anywhere."""
    rules = rulesets.pairs(1000)
    entries = tuples(rulesets.half_listed(random.Random(1), rulesets.pair_list(1000), FED))
    artifact = compiled(rules, stateless=True)
    with drivers(CONNECTIONS) as by_context:
        for where, target in ((XDP, "<= 30"), (UPLINK, None)):
            with loaded(artifact, rules, where.spec) as load:
                m = measure(by_context[where.context], load, where, entries, [ALLOWED, DEFAULT], effort)
                name = f"stateless, 1,000 address and port rules, {where.name}"
                yield Figure("stateless", name, round(m.above, 1), "ns", target, floors(m))


def growth(effort: Effort, sizes: Sequence[int]) -> Iterator[Figure]:
    """A list of addresses and ports that are denied, and a default that denies; half of the packets are on the list."""
    found: dict[tuple[str, int], float] = {}
    with drivers(CONNECTIONS) as by_context:
        for size in sizes:
            rules = rulesets.pairs(size, "deny")
            entries = tuples(rulesets.half_listed(random.Random(size), rulesets.pair_list(size), FED))
            for keeps, places in ((True, (UPLINK, XDP)), (False, (XDP,))):
                artifact = compiled(rules, stateless=not keeps)
                for where in places:
                    name = where.name if keeps else f"{where.name} stateless"
                    with loaded(artifact, rules, where.spec) as load:
                        driver = by_context[where.context]
                        m = measure(driver, load, where, entries, [DENIED, DEFAULT], effort, new=True)
                        found[name, size] = m.above
                        yield Figure("growth", f"{size:,} rules, {name}", round(m.above, 1), "ns", None, floors(m))
    for name in dict.fromkeys(name for name, _ in found):
        ratio = found[name, sizes[-1]] / found[name, sizes[0]]
        yield Figure("growth", f"{sizes[0]:,} to {sizes[-1]:,} rules, {name}", round(ratio, 2), "×", "<= 2")


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--quick", action="store_true", help="fewer rounds, smaller policies")
    options.add_argument("--out", type=Path, help="where the figures go")
    chosen = options.parse_args()
    place.enter()
    place.add_link()
    effort = Effort(7, 100_000) if chosen.quick else Effort(11, 250_000)
    parts = [machine_sized(effort), stateless(effort), growth(effort, (10, 1000, 10_000) if chosen.quick else SIZES)]
    if not chosen.quick:
        parts.append(shapes(effort))
    figures.report(itertools.chain(*parts), chosen.out)


if __name__ == "__main__":
    main()
