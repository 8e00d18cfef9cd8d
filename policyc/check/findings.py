"""Collecting diagnostics."""

from __future__ import annotations

from policyc.codes import diagnostic
from policyc.diagnostics import Diagnostic
from policyc.model import Span

MAX_FINDINGS = 500


class Findings(list[Diagnostic]):
    """All findings of a compilation, in the order made; the same finding at the same place is kept once."""

    def __init__(self) -> None:
        super().__init__()
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
        if self.full:
            return
        key = (name, span, message)
        if key in self._seen:
            return
        self._seen.add(key)
        self.append(diagnostic(name, message, span, expected=expected, help=help, suggestion=suggestion, notes=notes))

        if len(self) >= MAX_FINDINGS:
            more = "too many findings; the others are not shown"
            self.append(diagnostic("too-many-errors", more, span))

    @property
    def full(self) -> bool:
        return len(self) >= MAX_FINDINGS

    @property
    def failed(self) -> bool:
        return any(d.severity == "error" for d in self)
