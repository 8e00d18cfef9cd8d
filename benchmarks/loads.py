"""Policies loaded as an operator would load them, in this process's own place (`place.enter`)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.rulesets import RuleSet
from policyc.artifact.layout import REASON_ENTRIES, Hook, Reason, reason_index
from policyc.artifact.reader import Artifact, read
from policyc.driver import compile_files
from policyc.model import Direction
from policyc.runtime.load import Options, load
from policyc.runtime.maps import Map
from policyc.runtime.pins import Pins, close_all
from policyc.runtime.points import parse_spec
from policyc.runtime.unload import unload

NAME = "bench"
SHARE = 0.99  # of the packets, that must be judged as a case says
Outcome = tuple[bool, Reason]


class Wrong(SystemExit):
    """The programs did not do what was to be measured."""


@contextmanager
def sources(rules: RuleSet) -> Iterator[Path]:
    """The policy file of a rule set, and what it reads, in a folder that goes afterwards."""
    with tempfile.TemporaryDirectory(prefix="policyc-bench-") as folder:
        path = Path(folder, "bench.pol")
        path.write_text(rules.text)
        for name, text in rules.files.items():
            Path(folder, name).write_text(text)
        yield path


def compiled(rules: RuleSet, stateless: bool = False) -> Artifact:
    with sources(rules) as path:
        return read(compile_files([str(path)], stateless=stateless))


class Loaded:
    """A load: its entry programs by hook, and how packets were judged since `begin`."""

    def __init__(self, entries: Mapping[Hook, int], reasons: Map) -> None:
        self.entries, self._reasons = entries, reasons
        self._before = [0] * REASON_ENTRIES

    def begin(self) -> None:
        self._before = self._counts()

    def judged(self) -> dict[Outcome, int]:
        """Packets of the subject's ingress by verdict and reason, since `begin`."""
        now = self._counts()
        found = {}
        for allowed in (False, True):
            for reason in Reason:
                at = reason_index(Direction.INGRESS, allowed, reason)
                if now[at] != self._before[at]:
                    found[allowed, reason] = now[at] - self._before[at]
        return found

    def check(self, case: str, expected: Sequence[Outcome], share: float = SHARE) -> int:
        """The packets judged since `begin`. Raises `Wrong` where too few of them have one of the `expected` outcomes."""
        judged = self.judged()
        right, total = sum(judged.get(outcome, 0) for outcome in expected), sum(judged.values())
        if right < share * total or total == 0:
            words = {f"{'allow' if a else 'deny'} {r.word}": n for (a, r), n in judged.items()}
            raise Wrong(f"{case}: {right} of {total} packets were judged as the case says: {words}")
        return total

    def _counts(self) -> list[int]:
        return [self._reasons.sum_cpus(value)[0] for value in self._reasons.read_array()]


@contextmanager
def loaded(artifact: Artifact, rules: RuleSet, *specs: str, name: str = NAME) -> Iterator[Loaded]:
    """Attached at `specs` (as `--attach` takes them); only what rules log is reported."""
    load(artifact, name, Options(rules.endpoints, (), [parse_spec(s) for s in specs], events="none"))
    pins = Pins(name)
    entries, reasons = pins.entries(), pins.map("reasons", 1)
    try:
        yield Loaded(entries, reasons)
    finally:
        close_all(entries)
        reasons.close()
        unload(name)
