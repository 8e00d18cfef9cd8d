"""`make fuzz`: random cases for as long as one likes. What differs is made small and written to a file, which `--case` plays again.

make fuzz SECONDS=600 SEED=7
make fuzz CASE=fuzz-7-2.json
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # `tests`, where this file is the program

from packets_differential import Compiler, Loads, Place, Played, compile_text, play
from place import private_place
from scenario import Case, draw, ground, read, write
from shrink import shrink, size

from tests import fuzzing

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
class PacketCampaign(fuzzing.Campaign):
    """Each policy with some cases."""

    place: Place
    packets: int = 0
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)

    def one(self, seed: int) -> None:
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
    description = "random packets through the kernel and the reference machine"
    return fuzzing.main(
        description, read, private_place, lambda case, place: played(case, place).differences, PacketCampaign
    )


if __name__ == "__main__":
    sys.exit(main())
