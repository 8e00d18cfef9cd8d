"""Patterns over bytes → deterministic automata: regexes, globs, position automata, subset construction under a guard, minimisation."""

from policyc.ir.automata.regex import RegexError, parse_regex

__all__ = ["RegexError", "parse_regex"]
