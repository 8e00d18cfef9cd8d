"""The one diagnostic model. Every finding of every stage is a `Diagnostic`; renderers are in `policyc.render`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from policyc.model import Span

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Diagnostic:
    """One finding. `code` is stable (`P` and four digits, never reused), `name` its readable form (`unknown-name`).

    `message` says what is wrong, `expected` what could stand there, `help` how to mend it, `notes` name other places
    (a first declaration, say). `span` is None only where there is no place in a text (an unreadable file)."""

    code: str
    name: str
    severity: Severity
    message: str
    span: Span | None
    expected: tuple[str, ...] = ()
    help: str | None = None
    suggestion: str | None = None
    notes: tuple[tuple[str, Span], ...] = ()


class PolicyError(Exception):
    """An expected failure with its diagnostics; the CLI renders them and exits with `exit_code`.

    `sources` maps the files of spans to their texts, so that lines can be shown; `root` is the folder below which these files are,
    None where they are named as the user named them."""

    def __init__(
        self,
        diagnostics: list[Diagnostic],
        exit_code: int = 2,
        sources: Mapping[str, str] | None = None,
        root: str | None = None,
    ) -> None:
        super().__init__("; ".join(d.message for d in diagnostics))
        self.diagnostics = diagnostics
        self.exit_code = exit_code
        self.sources = sources or {}
        self.root = root


class OperationError(Exception):
    """An expected failure that has no place in a text (a permission, a kernel feature, a busy hook).

    `help` tells the operator what to do. Exit codes: 1 findings, 2 usage or invalid artifact, 3 permission or kernel feature."""

    def __init__(self, message: str, help: str | None = None, exit_code: int = 2) -> None:
        super().__init__(message)
        self.message = message
        self.help = help
        self.exit_code = exit_code
