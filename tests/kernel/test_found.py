"""What fuzzing found, as it was written down: found/*.json. The name of a file says what was wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import played
from packets_differential import Place
from random_packets import Sent
from scenario import read

pytestmark = pytest.mark.bpf
FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))


@pytest.mark.parametrize("file", FOUND, ids=lambda file: file.stem)
def test_what_differed_once_does_not_differ_again(file: Path, place: Place) -> None:
    case = read(file.read_text())
    done = played(case, place)
    assert (done.differences, done.packets > 0) == ([], any(isinstance(step, Sent) for step in case.steps))
