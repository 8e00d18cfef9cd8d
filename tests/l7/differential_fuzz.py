"""`make fuzz-http`: random HTTP rules and streams for as long as one likes. What differs is made small and written to a file, which CASE plays again.

make fuzz-http SECONDS=600 SEED=7
make fuzz-http CASE=fuzz-http-7-1.json
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests import fuzzing
from tests.l7.differential import Difference, Kernel, Played, draw, play
from tests.l7.differential_case import Case, is_egress, read, write
from tests.l7.differential_shrink import shrink
from tests.l7.place import Scene

PORTS, STREAMS = 60, 60  # of one load; streams a port
MOST = 3  # cases of one load that are made small


@dataclass
class StreamCampaign(fuzzing.Campaign):
    """Every second policy on IPv6; every third one waits for what it denies to close, every fourth one is the client's."""

    scene: Scene
    played: Played = field(default_factory=Played)

    def one(self, seed: int) -> None:
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


@contextmanager
def _scene() -> Iterator[Scene]:
    with TemporaryDirectory() as folder, Scene(Path(folder), loopback=True) as scene:
        yield scene


def _again(written: tuple[Case, bool], scene: Scene) -> Iterable[Difference]:
    case, egress = written
    return play(Kernel(scene), [case], True, egress).differences.values()


def main() -> int:
    description = "random HTTP streams through the kernel and the reference evaluator"
    return fuzzing.main(description, lambda text: (read(text), is_egress(text)), _scene, _again, StreamCampaign)


if __name__ == "__main__":
    sys.exit(main())
