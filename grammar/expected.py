"""What could stand at a place, in words, from the terminals the parser would accept."""

from __future__ import annotations

from collections.abc import Set

from policyc.grammar.lexer import SPELLING

_SUMMARIES: tuple[tuple[frozenset[str], frozenset[str], str], ...] = (
    (
        frozenset({"LABEL"}),
        frozenset({"LABEL", "NAME", "WORD", "NUMBER", "ADDRESS", "SERVICE", "STRING"}),
        "a label key or value",
    ),
    (
        frozenset({"ENDPOINTS", "SAME"}),
        frozenset({"ANY", "WORLD", "HOST", "ENDPOINTS", "SAME", "LBRACE", "ADDRESS", "FILE", "NAME", "LSQB"}),
        "a peer (an identity, `any`, a prefix, a selector, …)",
    ),
    (
        frozenset({"SERVICE", "PROTO"}),
        frozenset({"SERVICE", "WORD", "PROTO", "ANY", "NAME", "LSQB"}),
        "a service such as tcp/80",
    ),
    (
        frozenset({"ADDRESS", "FILE"}),
        frozenset({"ADDRESS", "FILE", "NAME", "LSQB"}),
        "a prefix, an address, a set's name or `file`",
    ),
)
_SHAPES = {
    "NAME": "a name",
    "NUMBER": "a number",
    "ADDRESS": "an address",
    "STRING": "a string in quotes",
    "PATTERN": 'a value ("…" or ~"…")',
    "METHOD": "a method (`GET`, `*`, …)",
    "REQUEST": 'a request (`GET "/…"`)',
}
_NOT_YET = frozenset(
    {"SERVICE_DECL", "NEVER", "ALWAYS", "GRPC", "KAFKA", "DNS", "VIA", "CALL", "PRODUCE", "CONSUME", "QNAME"}
)


def describe(accepted: Set[str]) -> tuple[str, ...]:
    """Shapes first, then words, then marks; constructs that are not there yet are left out."""
    kinds = set(accepted) - _NOT_YET
    if "TILDE" in kinds and "ADDRESS" not in kinds:  # a regular expression
        kinds -= {"TILDE", "STRING"}
        kinds.add("PATTERN")
    if {"STAR", "WORD"} <= kinds and "ADDRESS" not in kinds:
        kinds -= {"STAR", "WORD", "NAME"}
        kinds.add("METHOD")
    if "QNAME" in accepted:
        kinds -= {"NAME", "WORD"}
        kinds.add("REQUEST")
    summaries: list[str] = []
    for needed, covered, text in _SUMMARIES:
        if needed <= kinds:
            summaries.append(text)
            kinds -= covered
    shapes = [text for kind, text in _SHAPES.items() if kind in kinds]
    words = [f"`{text}`" for kind, text in SPELLING.items() if kind in kinds]
    return tuple(summaries + shapes + words)
