"""Telling a person who is watching what takes so long; silence in a pipe."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

CLEAR_LINE = "\r\x1b[K"
PATIENCE = 0.5  # seconds before anything is shown


class Progress:
    """One line on standard error that names the step at hand and goes away at the end."""

    def __init__(self) -> None:
        self.shown = False
        self.begun = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def step(self, name: str) -> None:
        if sys.stderr.isatty() and time.monotonic() - self.begun > PATIENCE:
            sys.stderr.write(f"{CLEAR_LINE}{name} …")
            sys.stderr.flush()
            self.shown = True

    def clear(self) -> None:
        """Takes the line away, before something else is written."""
        if self.shown:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()
            self.shown = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
