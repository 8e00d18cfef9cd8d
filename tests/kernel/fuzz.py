"""`make fuzz`: random cases for as long as one likes. What differs is made small and written to a file, which `--case` plays again.

make fuzz SECONDS=600 SEED=7
make fuzz CASE=fuzz-7-2.json
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from packets_differential import Compiler, Loads, Place, Played, compile_text, play
from place import private_place
from scenario import Case, draw, ground, read, write
from shrink import shrink, size

from policyc.diagnostics import OperationError

CASES, PACKETS = 4, 1000  # a policy
NO_OPS = 12  # one policy in so many stands behind no-op rules
SHRINKING_S = 120


REFUSED = "refused: "  # begins the difference of a policy that does not compile or load


def _refusal(refused: OperationError) -> Played:
    return Played([REFUSED + str(refused)], 0, Counter())


def played(case: Case, place: Place, compiler: Compiler = compile_text, batch: int = 64) -> Played:
    """A case with loads of its own."""
    try:
        with Loads(case.policies, case.structure, compiler) as loads:
            return play(case, place, loads, batch)
    except OperationError as refused:
        return _refusal(refused)


def smallest(
    case: Case, place: Place, compiler: Compiler = compile_text, seconds: float = SHRINKING_S, refused: bool = False
) -> Case:
    """The case, shrunk; `refused`: its policy is. Loads are made anew only where the policies change."""
    loads: dict[tuple[str, ...], Loads] = {}

    def differs(smaller: Case) -> bool:
        if smaller.policies not in loads:
            for old in loads.values():
                old.close()
            loads.clear()
            try:
                loads[smaller.policies] = Loads(smaller.policies, smaller.structure, compiler)
            except OperationError:
                return refused
        return not refused and bool(play(smaller, place, loads[smaller.policies]).differences)

    try:
        return shrink(case, differs, seconds)
    finally:
        for left in loads.values():
            left.close()


def report(case: Case, place: Place, path: Path, refused: bool) -> None:
    """Shrinks a case that differs and writes it down."""
    less = smallest(case, place, refused=refused)
    again = played(less, place, batch=1).differences or played(less, place).differences
    path.write_text(write(less, again))
    packets, rules, endpoints = size(less)
    print(f"  {packets} packets, {rules} rules, {endpoints} endpoints: {path}")
    for line in again:
        print(f"  {line}")
    print(less.policies[0])


def fuzz(place: Place, seed: int, seconds: float, folder: Path) -> int:
    """The number of cases that differed."""
    until = time.monotonic() + seconds
    packets, found, number = 0, 0, 0
    answers = Counter[tuple[str, str]]()
    while time.monotonic() < until:
        on = ground(seed + number, no_ops=number % NO_OPS == NO_OPS - 1)
        bad = []
        cases = [draw(on, seed + number, part, PACKETS) for part in range(CASES)]
        try:
            with Loads(on.policies, on.structure) as loads:
                for part, case in enumerate(cases):
                    done = play(case, place, loads)
                    packets += done.packets
                    answers += done.answers
                    bad += [(part, case, d) for d in done.differences[:1]]
        except OperationError as refused:
            bad = [(0, replace(cases[0], steps=()), REFUSED + str(refused))]
        for part, case, difference in bad:
            found += 1
            print(f"seed {seed + number} part {part} differs: {difference}", flush=True)
            path = folder / f"fuzz-{seed + number}-{part}.json"
            report(case, place, path, difference.startswith(REFUSED))
        number += 1
    print(f"{number} policies, {packets} packets, {found} cases differ")
    for (verdict, reason), count in answers.most_common():
        print(f"  {verdict:5} {reason:14} {count}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="random packets through the kernel and the reference machine")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="of the first policy; the next ones count up from it")
    parser.add_argument("--case", type=Path, help="play this file instead")
    parser.add_argument("--folder", type=Path, default=Path(), help="where cases that differ are written")
    given = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("it needs root: network namespaces, cgroups and bpf()")
    with private_place() as place:
        if given.case is not None:
            differences = played(read(given.case.read_text()), place).differences
            print("\n".join(differences) or f"{given.case}: nothing differs")
            return bool(differences)
        seed = secrets.randbelow(10**9) if given.seed is None else given.seed
        print(f"SEED={seed} SECONDS={given.seconds:g}", flush=True)
        return bool(fuzz(place, seed, given.seconds, given.folder))


if __name__ == "__main__":
    sys.exit(main())
