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
from dataclasses import dataclass, field, replace
from pathlib import Path

from packets_differential import Compiler, Loads, Place, Played, compile_text, play
from place import private_place
from scenario import Case, draw, ground, read, write
from shrink import shrink, size

CASES, PACKETS = 4, 1000  # a policy
NO_OPS = 12  # the policy of each seed that this divides stands behind no-op rules
SHRINKING_S = 120


REFUSED = "refused: "  # begins the difference of a policy that does not compile or load


def played(case: Case, place: Place, compiler: Compiler = compile_text, batch: int = 64) -> Played:
    """A case with loads of its own."""
    try:
        with Loads(case.policies, case.structure, compiler) as loads:
            return play(case, place, loads, batch)
    except Exception as failure:  # whatever it is, the case shows it
        return Played([_refusal(failure)], 0, Counter())


def _refusal(failure: Exception) -> str:
    return f"{REFUSED}{type(failure).__name__}: {failure}"


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
            except Exception:
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
    print(less.policies[0], flush=True)


@dataclass
class Campaign:
    """Policies from a seed on, one a seed, with some cases each."""

    place: Place
    folder: Path  # where cases that differ are written
    policies: int = 0
    packets: int = 0
    found: int = 0
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)

    def run(self, seed: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._one(seed + self.policies)
            self.policies += 1

    def _one(self, seed: int) -> None:
        on = ground(seed, no_ops=seed % NO_OPS == 0)
        bad: list[tuple[int, Case, str]] = []
        cases = [draw(on, seed, part, PACKETS) for part in range(CASES)]
        try:
            with Loads(on.policies, on.structure) as loads:
                for part, case in enumerate(cases):
                    done = play(case, self.place, loads)
                    self.packets += done.packets
                    self.answers += done.answers
                    bad += [(part, case, difference) for difference in done.differences[:1]]
        except Exception as failure:
            bad = [(0, replace(cases[0], steps=()), _refusal(failure))]
        for part, case, difference in bad:
            self.found += 1
            print(f"seed {seed} part {part} differs: {difference}", flush=True)
            report(case, self.place, self.folder / f"fuzz-{seed}-{part}.json", difference.startswith(REFUSED))

    def summary(self) -> str:
        lines = [f"{self.policies} policies, {self.packets} packets, {self.found} cases differ"]
        lines += [f"  {verdict:5} {reason:14} {n}" for (verdict, reason), n in self.answers.most_common()]
        return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="random packets through the kernel and the reference machine")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="of the first policy; the next ones count up from it")
    parser.add_argument("--case", type=Path, help="play this file instead")
    parser.add_argument("--folder", type=Path, default=Path(), help="where cases that differ are written")
    given = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("it needs root: network namespaces, cgroups and bpf()")
    try:
        case = None if given.case is None else read(given.case.read_text())
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        parser.error(f"{given.case} is no case: {wrong}")
    with private_place() as place:
        if case is not None:
            differences = played(case, place).differences
            print("\n".join(differences) or f"{given.case}: nothing differs")
            return bool(differences)
        seed = secrets.randbelow(10**9) if given.seed is None else given.seed
        print(f"SEED={seed} SECONDS={given.seconds:g}", flush=True)
        given.folder.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(place, given.folder)
        try:
            campaign.run(seed, given.seconds)
        except KeyboardInterrupt:
            print("stopped")
        print(campaign.summary())
        return bool(campaign.found)


if __name__ == "__main__":
    sys.exit(main())
