"""What could stand at a place, in words, from the terminals the parser would accept."""

from __future__ import annotations

from collections.abc import Set

from policyc.grammar.lexer import SOFT, SPELLING

_WORDS = frozenset({"NAME", "WORD", "NUMBER", "ADDRESS", "SERVICE", "STRING"})
_PEER = frozenset({"ANY", "WORLD", "HOST", "ENDPOINTS", "SAME", "LBRACE", "ADDRESS", "FILE", "NAME", "LSQB"})
_SUMMARIES: tuple[tuple[frozenset[str], frozenset[str], str], ...] = (
    (_WORDS | {"ALLOW", "FROM"}, frozenset(SPELLING) - frozenset({"EXISTS", "NOT"}) | _WORDS, "a label key or value"),
    (frozenset({"ENDPOINTS", "SAME"}), _PEER, "a peer (an identity, `any`, a prefix, a selector, …)"),
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
    "SERVICE": "a service such as tcp/80",
    "STRING": "a string in quotes",
}
_CLOSERS = ("RBRACE", "RSQB", "RPAR")
_SOFT = frozenset(SOFT.values())
_NOT_YET = frozenset({"SERVICE_DECL", "NEVER", "ALWAYS", "HTTP", "GRPC", "KAFKA", "DNS", "VIA"})


def describe(accepted: Set[str]) -> tuple[str, ...]:
    """Shapes first, then words, then marks; constructs that are not there yet are left out."""
    kinds = set(accepted) - {"$END"}
    summaries: list[str] = []
    for needed, covered, text in _SUMMARIES:
        if needed <= kinds:
            marks = {k for k in kinds if k in _CLOSERS or k == "COMMA"}
            summaries.append(text)
            kinds = (kinds - covered) | marks
    if "NAME" in kinds or summaries:
        kinds -= _SOFT - {"EXISTS", "NOT"} if "a label key or value" in summaries else _SOFT
    kinds -= _NOT_YET | ({"WORD"} if len(kinds) > 1 else set())
    shapes = [text for kind, text in _SHAPES.items() if kind in kinds]
    words = [f"`{text}`" for kind, text in SPELLING.items() if kind in kinds]
    return tuple(summaries + shapes + words)
