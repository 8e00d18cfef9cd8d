"""Collecting diagnostics."""

from __future__ import annotations

from collections.abc import Iterable

from policyc.codes import diagnostic
from policyc.diagnostics import Diagnostic
from policyc.grammar.nearest import nearest
from policyc.model import Span

MAX_FINDINGS = 500
MAX_COMPARED = 1_000_000  # words, of all suggestions together


class Findings(list[Diagnostic]):
    """All findings of a compilation, in the order made; the same finding at the same place is kept once."""

    def __init__(self) -> None:
        super().__init__()
        self._warnings = 0
        self._compared = 0
        self._seen: set[tuple[str, Span | None, str]] = set()

    def add(
        self,
        name: str,
        message: str,
        span: Span | None,
        *,
        expected: tuple[str, ...] = (),
        help: str | None = None,
        suggestion: str | None = None,
        notes: tuple[tuple[str, Span], ...] = (),
    ) -> None:
        """`name` is the name of a code in policyc.codes."""
        found = diagnostic(name, message, span, expected=expected, help=help, suggestion=suggestion, notes=notes)
        key = (name, span, message)
        if key in self._seen or (self.full if found.severity == "error" else self._warnings > MAX_FINDINGS):
            return
        self._seen.add(key)
        self.append(found)
        if found.severity == "warning":
            self._count_warning(span)
        elif self.full:
            self.append(diagnostic("too-many-errors", "too many errors; the others are not shown", span))

    def _count_warning(self, span: Span | None) -> None:
        self._warnings += 1
        if self._warnings == MAX_FINDINGS:
            self._warnings += 1
            self.append(diagnostic("too-many-warnings", "too many warnings; the others are not shown", span))

    def suggestion(self, word: str, known: Iterable[str], count: int) -> str | None:
        """Which of `count` known words was probably meant. None, too, where so many were compared that more would take
        too long."""
        self._compared += count
        return None if self.full or self._compared > MAX_COMPARED else nearest(word, known)

    @property
    def full(self) -> bool:
        """Whether no more errors are taken. Warnings never make an error, and hide none."""
        return len(self) - self._warnings >= MAX_FINDINGS

    @property
    def failed(self) -> bool:
        return any(d.severity == "error" for d in self)
