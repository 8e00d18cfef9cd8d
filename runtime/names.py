"""Names of loads: they become folders on bpffs, whose names cannot hold a dot."""

from __future__ import annotations

import re

from policyc.diagnostics import OperationError

PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", re.ASCII)


def check_name(name: str) -> str:
    """`name` if it can name a load, else `OperationError`."""
    if not PATTERN.fullmatch(name):
        raise OperationError(
            f"{name!r} cannot name a load",
            "use 1 to 64 letters, digits, `_` and, not first, `-` (bpffs allows no dots)",
        )
    return name
