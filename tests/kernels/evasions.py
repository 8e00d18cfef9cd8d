"""Compiles the policies of tests that run in emulated machines, where compiling one takes ten seconds: `python -m tests.kernels.evasions FOLDER`.

The tests find them where `POLICYC_TEST_OBJECTS` names the folder (tests/e2e/operation.py), and compile what is not there."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "examples"))

from tests.e2e.operation import compile_policy, object_in
from tests.l7 import evasion


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        for text in evasion.POLICIES.values():
            compile_policy(text, Path(scratch)).rename(object_in(folder, text))


if __name__ == "__main__":
    main()
