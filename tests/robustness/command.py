"""The command as a process with little memory and little time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
MEMORY = 2 << 30  # bytes of address space
SECONDS = 60


def policyc(
    *arguments: object,
    folder: Path,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    stdout: int | IO[Any] = subprocess.PIPE,
    stderr: int | IO[Any] = subprocess.PIPE,
    seconds: float = SECONDS,
) -> subprocess.CompletedProcess[bytes]:
    """Runs it in `folder`. Fails where it does not end in time, ends by a signal, or shows a traceback or a bug."""
    words: Sequence[str | bytes] = [a if isinstance(a, bytes) else str(a) for a in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "policyc", *words],
        input=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        timeout=seconds,
        check=False,
    )
    said = (done.stdout or b"") + (done.stderr or b"")
    assert b"Traceback" not in said, said[-2000:]
    assert b"internal error" not in said, said[-2000:]
    assert done.returncode in (0, 1, 2, 3), (done.returncode, said[-2000:])
    return done
