"""Regular expressions of values: mistakes are reported at their very place."""

from __future__ import annotations

from policyc.check.findings import Findings
from policyc.grammar import syntax
from policyc.ir.automata import RegexError, parse_regex
from policyc.model import Span


def check_regex(word: syntax.Word, found: Findings) -> bool:
    """Whether `word` is a regular expression of the dialect; its text stands as it was written, without escapes of its own."""
    try:
        parse_regex(word.text)
    except RegexError as error:
        span = word.span
        at = min(span.column + 1 + error.position, span.end_column - 1)
        place = Span(span.file, span.line, at, span.line, at + 1)
        found.add("bad-regex", error.message, place, help=error.help)
        return False
    return True
