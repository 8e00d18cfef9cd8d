"""Regular expressions of values."""

from __future__ import annotations

from policyc.check.findings import Findings
from policyc.grammar import syntax


def check_regex(word: syntax.Word, found: Findings) -> bool:
    """Whether `word` is a regular expression of the dialect."""
    return True
