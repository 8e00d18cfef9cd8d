"""Random bad input for as long as one likes: `python -m tests.robustness.fuzz --seconds 600 [--seed N] [--kind KIND]`.

Every input has a number; `--seed NUMBER --count 1 --kind KIND` plays one again. What fails is written to a file.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import traceback
from pathlib import Path
from random import Random

from tests.robustness.inputs import KINDS, TooSlow, check

MEMORY = 4 << 30  # bytes of address space


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9)
    parser.add_argument("--count", type=int, default=sys.maxsize)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write what fails")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    kinds = given.kind or list(KINDS)
    end = time.monotonic() + given.seconds
    seed, failed = given.seed, 0
    print(f"from seed {seed}: {', '.join(kinds)}", flush=True)
    while time.monotonic() < end and seed - given.seed < given.count and failed < 20:
        for kind in kinds:
            failed += not _holds(kind, seed, given.folder)
        seed += 1
    print(f"{(seed - given.seed) * len(kinds)} inputs, {failed} failed")
    return 1 if failed else 0


def _holds(kind: str, seed: int, folder: Path) -> bool:
    try:
        check(kind, seed)
    except (Exception, TooSlow):
        file = folder / f"failed-{kind}-{seed}"
        file.write_bytes(KINDS[kind][0](Random(seed)))
        print(f"--seed {seed} --count 1 --kind {kind}: {file}")
        traceback.print_exc(limit=-4)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
