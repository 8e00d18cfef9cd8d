"""Random bad input of every kind: nothing raises, hangs, or points outside its text. `make fuzz-input` goes on from here."""

from __future__ import annotations

import pytest

from tests.robustness.inputs import check

BATCH = 40


@pytest.mark.parametrize("kind", ["policy", "object", "endpoints", "flow"])
@pytest.mark.parametrize("batch", range(3))
def test_nothing_breaks(kind: str, batch: int) -> None:
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        try:
            check(kind, seed)
        except BaseException as error:
            error.add_note(f"python -m tests.robustness.fuzz --kind {kind} --seed {seed} --count 1")
            raise
