"""What campaigns of random cases have in common: from a seed on for some time, or one case that was written down once more."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

C = TypeVar("C")
P = TypeVar("P")


@dataclass
class Campaign(ABC):
    """Policies from a seed on, one a seed."""

    folder: Path  # where cases that differ are written
    policies: int = field(default=0, init=False)
    found: int = field(default=0, init=False)  # cases that differ

    def run(self, seed: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.one(seed + self.policies)
            self.policies += 1

    @abstractmethod
    def one(self, seed: int) -> None:
        """Draws a seed's policy and cases, plays them, and writes down what differs."""

    @abstractmethod
    def summary(self) -> str: ...


def main(
    description: str,
    read: Callable[[str], C],
    place: Callable[[], AbstractContextManager[P]],
    again: Callable[[C, P], Iterable[object]],
    campaign: Callable[[Path, P], Campaign],
) -> int:
    """`read` takes a written case and raises ValueError, KeyError or TypeError where it is none; `again` plays it and tells what differs.
    Everything is played at one `place`. 1 if something differs."""
    parser = argparse.ArgumentParser(description=description)
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
    with place() as made:
        if case is not None:
            differences = list(map(str, again(case, made)))
            print("\n".join(differences) or f"{given.case}: nothing differs")
            return bool(differences)
        seed = secrets.randbelow(10**9) if given.seed is None else given.seed
        print(f"SEED={seed} SECONDS={given.seconds:g}", flush=True)
        given.folder.mkdir(parents=True, exist_ok=True)
        running = campaign(given.folder, made)
        try:
            running.run(seed, given.seconds)
        except KeyboardInterrupt:
            print("stopped")
        print(running.summary())
        return bool(running.found)
