"""What fuzzing found, as it was written down: found/*.json. The name of a file says what was wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import played
from packets_differential import Place
from scenario import read

pytestmark = pytest.mark.bpf
FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))


@pytest.mark.parametrize("file", FOUND, ids=lambda file: file.stem)
def test_what_differed_once_does_not_differ_again(file: Path, place: Place) -> None:
    done = played(read(file.read_text()), place)
    assert (done.differences, done.packets > 0) == ([], True)
