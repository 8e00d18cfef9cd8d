"""A line of help for a word that cannot stand where it stands."""

from __future__ import annotations

from collections.abc import Set

from policyc.grammar.lexer import HARD, SPELLING, Token

# Words of other languages for the actions.
SYNONYMS = {
    "accept": "allow",
    "permit": "allow",
    "block": "deny",
    "drop": "deny",
    "reject": "deny",
    "forbid": "deny",
}
_ACTIONS = frozenset({"ALLOW", "DENY", "PASS"})
_SECTIONS = frozenset({"INGRESS", "EGRESS"})
_HARD = frozenset(HARD.values())
_ELEMENTS = frozenset({"NAME", "ADDRESS", "SERVICE", "RBRACE", "RSQB", "RPAR", "ANY", "WORLD", "HOST", "ENDPOINTS"})


def advice(token: Token, before: Token | None, accepted: Set[str]) -> str | None:
    """`before` is the token before, `accepted` the terminals that could stand here."""
    kind = token.type
    if {"STAR", "WORD"} <= accepted and "ADDRESS" not in accepted:
        return _in_block(token, before, accepted)
    if kind in _UNQUOTED and _wants_string(before, accepted):
        return "paths, values and the names of headers stand in quotes"
    if kind == "STRING" and "QNAME" in accepted and before is not None and before.type == "NAME":
        return "a request stands behind its service: tcp/8080 GET …"
    if kind in _ACTIONS | _SECTIONS:
        return _misplaced(kind, accepted)
    if before is not None and before.type in _ACTIONS and "FROM" in accepted:
        return "a rule says `from` or `to` whom: `allow from PEERS on SERVICES`"
    if before is not None and before.type in ("EXISTS", "NOT") and kind in ("EQ", "NE", "IN"):
        return f"`{SPELLING[before.type]}` as a label key stands in quotes"
    if before is not None and before.type == "NOT":
        return "only labels are negated: `{ key != value }`, `{ not exists key }`; for peers write a `deny` rule"
    if kind == "ON" and "AS" in accepted:
        return "`on` stands right after the peers, before `log`, `audit`, `priority` and `as`"
    if kind == "NUMBER" and ("SERVICE" in accepted or (before is not None and before.type == "SERVICE")):
        return "a port stands behind its protocol: tcp/80"
    if kind == "SERVICE" and "ON" in accepted:
        return "services stand after `on`"
    if accepted == {"LSQB"}:
        return "a set stands in brackets: [ … ]"
    if kind == "RBRACE" and "$END" in accepted:
        return "there is no open block here; remove it"
    if "NAME" in accepted:
        return _no_name(token)
    if "COMMA" in accepted and _follows_element(token, before):
        return "several stand with commas between them"
    return None


_UNQUOTED = ("NAME", "WORD", "NUMBER", "ADDRESS", "SERVICE", "STAR")


def _wants_string(before: Token | None, accepted: Set[str]) -> bool:
    """Whether a string of an entry or of a request must stand here."""
    if "TILDE" in accepted and "ADDRESS" not in accepted:
        return True
    return accepted == {"STRING"} and before is not None and before.type in ("HEADER", "QUERY", "HOST", "NAME", "WORD")


def _in_block(token: Token, before: Token | None, accepted: Set[str]) -> str | None:
    """Where an entry of a block, or another of its methods, could begin."""
    if token.type in _ACTIONS:
        return "end the block with `}`; rules stand behind it"
    if token.type not in ("STRING", "TILDE"):
        return None
    if "COMMA" in accepted and before is not None and before.type == "STRING":
        if token.value.startswith("/"):
            return "paths stand right behind the methods, several with commas between them"
        return "several stand with commas between them"
    return 'an entry begins with its methods, `*` for any: GET "/v1/**"'


def _misplaced(kind: str, accepted: Set[str]) -> str | None:
    if kind in _ACTIONS and "INGRESS" in accepted:
        return "rules stand in `ingress { … }` or `egress { … }`"
    if "$END" not in accepted:
        return None
    if kind in _ACTIONS:
        return "rules stand in a policy: `policy NAME for SUBJECT { ingress { … } }`"
    return "sections stand in a policy: `policy NAME for SUBJECT { … }`"


def _no_name(token: Token) -> str | None:
    if token.type == "STRING":
        return "names stand without quotes"
    if token.type in _HARD:
        return f"`{token.text}` is a word of the language and cannot name things"
    if token.type == "WORD":
        return "names are of letters, digits, `-` and `_`"
    return None


def _follows_element(token: Token, before: Token | None) -> bool:
    """Whether the token looks like the next element of a list that goes on on the same line."""
    if before is None or before.span.line != token.span.line or before.type not in _ELEMENTS:
        return False
    return token.type in ("NAME", "ADDRESS", "SERVICE")
