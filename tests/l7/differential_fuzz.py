"""`make fuzz-http`: random HTTP rules and streams for as long as one likes. What differs is made small and written to a file, which CASE plays again.

make fuzz-http SECONDS=600 SEED=7
make fuzz-http CASE=fuzz-http-7-1.json
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.l7.differential import Difference, Kernel, Played, draw, play
from tests.l7.differential_case import Case, is_egress, read, write
from tests.l7.differential_shrink import shrink
from tests.l7.place import Scene

PORTS, STREAMS = 60, 60  # of one load; streams a port
MOST = 3  # cases of one load that are made small


@dataclass
class Campaign:
    """Policies from a seed on, one a seed. Every second one on IPv6, every third one waits for what it denies to close, every fourth one is the
    client's."""

    scene: Scene
    folder: Path
    policies: int = 0
    found: int = 0
    played: Played = field(default_factory=Played)

    def run(self, seed: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._one(seed + self.policies)
            self.policies += 1

    def _one(self, seed: int) -> None:
        version, egress = 6 if seed % 2 else 4, seed % 4 > 1
        kernel = Kernel(self.scene, version)
        try:
            on, cases = draw(seed, PORTS, STREAMS, version, egress)
            with kernel.loaded(on) as loaded:
                done = loaded.play(cases, closing=seed % 3 == 0)
            self.played.add(done)
            for number, (at, difference) in enumerate(done.differences.items()):
                self.found += 1
                print(difference, flush=True)
                if number < MOST:
                    self._report(cases[at], difference, egress, kernel, self.folder / f"fuzz-http-{seed}-{number}.json")
        finally:
            self.scene.rest()

    def _report(self, case: Case, difference: Difference, egress: bool, kernel: Kernel, path: Path) -> None:
        less = shrink(case, difference.kind, kernel, egress)
        again = list(map(str, play(kernel, [less], True, egress).differences.values()))
        path.write_text(write(less, again or [difference.text], egress))
        print(f"  {len(less.stream)} bytes, {len(less.segments)} writes, {len(less.rules)} rules: {path}")
        print("\n".join(f"  {line}" for line in again), flush=True)

    def summary(self) -> str:
        done = self.played
        lines = [
            f"{self.policies} policies, {done.streams} streams, {done.requests} requests, {self.found} streams differ"
        ]
        lines += [f"  {v:5} {reason:14} {answer or '':6} {n}" for (v, reason, answer), n in done.answers.most_common()]
        return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="random HTTP streams through the kernel and the reference evaluator")
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else namespaces and cgroups stay
    with TemporaryDirectory() as folder, Scene(Path(folder), loopback=True) as scene:
        if case is not None:
            differences = play(Kernel(scene), [case], True, is_egress(given.case.read_text())).differences
            print("\n".join(map(str, differences.values())) or f"{given.case}: nothing differs")
            return bool(differences)
        seed = secrets.randbelow(10**9) if given.seed is None else given.seed
        print(f"SEED={seed} SECONDS={given.seconds:g}", flush=True)
        given.folder.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(scene, given.folder)
        try:
            campaign.run(seed, given.seconds)
        except KeyboardInterrupt:
            print("stopped")
        print(campaign.summary())
        return bool(campaign.found)


if __name__ == "__main__":
    sys.exit(main())
