"""The place that programs are test-run in, one for the tests of a module."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def place() -> Iterator[object]:
    from place import private_place

    with private_place() as made:
        yield made
