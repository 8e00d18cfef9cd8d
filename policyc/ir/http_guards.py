"""What of a request's bytes patterns see, part by part: the guards of HTTP automata (`policyc.ir.automata.guard`), and which raw bytes are special.

A *reading* is a guard with what a raw byte and the byte of an escape stand for. Sources: RFC 9110 (5.5, 5.6.2), RFC 9112 (2, 3, 5), docs/semantics.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from policyc.ir.automata.expression import ANY_BYTE, byte_set
from policyc.ir.automata.guard import Edge, Guard, GuardState, Op
from policyc.ir.http_tables import ACTION, Stop

Mapping = tuple[int, ...]

IDENTITY: Mapping = tuple(range(256))
LOWER: Mapping = tuple(b + 0x20 if 0x41 <= b <= 0x5A else b for b in range(256))
PLUS_IS_SPACE: Mapping = tuple(0x20 if b == 0x2B else b for b in range(256))

DIGITS = byte_set(b"0123456789")
HEX = byte_set(b"0123456789abcdefABCDEF")
ALPHA = byte_set(range(0x41, 0x5B)) | byte_set(range(0x61, 0x7B))
TOKEN = DIGITS | ALPHA | byte_set(b"!#$%&'*+-.^_`|~")
OWS = byte_set(b" \t")
CONTROLS = byte_set([*range(0x20), 0x7F])
NOT_IN_TARGETS = byte_set([*range(0x20), *range(0x7F, 256)]) | byte_set(b"#")  # a space ends them

MALFORMED = ACTION | Stop.MALFORMED
END = ACTION | Stop.END

ORIGIN, ASTERISK, ABSOLUTE, AUTHORITY = range(4)


@dataclass(frozen=True)
class Reading:
    """`raw[b]`: the byte that patterns see for byte b of the stream unless it is special; `decoded[b]`: for an escape that stands for b."""

    guard: Guard
    raw: Mapping = IDENTITY
    decoded: Mapping = IDENTITY


def _set(text: str) -> int:
    return byte_set(text.encode())


# --- paths ------------------------------------------------------------------------------------------------------

_NEVER = 0  # no path has this byte: what an escape of `/` stands for
_SLASH, _DOT, _SEMICOLON, _PERCENT = _set("/"), _set("."), _set(";"), _set("%")
_IN_PATH = ANY_BYTE & ~CONTROLS & ~_set("\\")
_HOST_START = DIGITS | ALPHA
_HOST = _HOST_START | _set(".-")
_IN_PATH_ACTIONS = (END, ACTION | Stop.QUERY, ACTION | Stop.ESCAPE, MALFORMED)
_AUTHORITY_ACTIONS = (END, MALFORMED, ACTION | Stop.ESCAPE, MALFORMED)
_NO_PATH_ACTIONS = (END, MALFORMED, MALFORMED, MALFORMED)  # neither escapes nor a query


def path_reading() -> Reading:
    """Targets up to their query, by form; tags are forms. Without an outcome: dot segments, `//`, a decoded `%` before two hex digits, and what is
    of no form. Specials: space, `?`, `%`, and bytes that no target has."""
    forms = _TargetGuard()
    specials = (_set(" "), _set("?"), _PERCENT, NOT_IN_TARGETS | _set("\\"))
    guard = Guard(specials, _NO_PATH_ACTIONS, tuple(forms.states))
    decoded = tuple(_NEVER if b == 0x2F else b for b in range(256))
    return Reading(guard, decoded=decoded)


class _TargetGuard:
    """The states of a target's guard."""

    def __init__(self) -> None:
        self.states: list[GuardState] = []
        start = self.new(_NO_PATH_ACTIONS, None)
        origin = self.segments(ORIGIN)
        absolute = self.segments(ABSOLUTE)
        before_absolute = self.new(_AUTHORITY_ACTIONS, None)  # after `://`: something comes
        self.states[before_absolute].edges = [e for e in self.states[absolute].edges if e.mask & _SLASH == 0]
        self.edge(start, _SLASH, origin)
        self.edge(start, _set("*"), self.new(_NO_PATH_ACTIONS, ASTERISK))
        self.authority_and_schemes(start, before_absolute)

    def new(self, actions: tuple[int, ...], tag: int | None) -> int:
        self.states.append(GuardState(actions, tag=tag))
        return len(self.states) - 1

    def edge(self, source: int, mask: int, target: int) -> None:
        self.states[source].edges.append(Edge(mask, target))

    def segments(self, form: int) -> int:
        """Segments from after a `/` on; the state there."""
        first, inside, percent, hex = (self.new(_IN_PATH_ACTIONS, form) for _ in range(4))
        dot, dots = (self.new(_IN_PATH_ACTIONS, None) for _ in range(2))
        others = _IN_PATH & ~_PERCENT
        for state in (first, dot, dots, inside, percent, hex):
            self.edge(state, _PERCENT, percent)
        for state in (inside, percent, hex):
            self.edge(state, _SLASH, first)
        self.edge(first, _DOT, dot)
        self.edge(first, others & ~_SLASH & ~_DOT, inside)
        self.edge(dot, _DOT, dots)
        self.edge(dot, others & ~_SLASH & ~_SEMICOLON & ~_DOT, inside)
        self.edge(dots, others & ~_SLASH & ~_SEMICOLON, inside)
        self.edge(inside, others & ~_SLASH, inside)
        self.edge(percent, HEX, hex)
        self.edge(percent, others & ~_SLASH & ~HEX, inside)
        self.edge(hex, others & ~_SLASH & ~HEX, inside)
        return first

    def authority_and_schemes(self, start: int, before_absolute: int) -> None:
        """`HOST:PORT`, and `http://` and `https://`, which begin like it."""
        host, colon, bracket, in_bracket, bracket_end = (self.new(_NO_PATH_ACTIONS, None) for _ in range(5))
        port = self.new(_NO_PATH_ACTIONS, AUTHORITY)
        self.edge(host, _HOST, host)
        self.edge(host, _set(":"), colon)
        self.edge(colon, DIGITS, port)
        self.edge(port, DIGITS, port)
        self.edge(start, _set("["), bracket)
        self.edge(bracket, HEX | _set(":."), in_bracket)
        self.edge(in_bracket, HEX | _set(":."), in_bracket)
        self.edge(in_bracket, _set("]"), bracket_end)
        self.edge(bracket_end, _set(":"), colon)
        scheme_colon, scheme_slash = (self.new(_NO_PATH_ACTIONS, None) for _ in range(2))
        self.edge(scheme_colon, _SLASH, scheme_slash)
        self.edge(scheme_colon, DIGITS, port)
        self.edge(scheme_slash, _SLASH, before_absolute)
        self.edge(start, _HOST_START & ~_set("h"), host)
        before = start
        for at, character in enumerate("https"):
            here = self.new(_NO_PATH_ACTIONS, None)
            self.edge(before, _set(character), here)
            follows = "https:"[at + 1] + (":" if at == 3 else "")
            self.edge(here, (_HOST | _set(":")) & ~_set(follows + ":"), host)
            self.edge(here, _set(":"), scheme_colon if at >= 3 else colon)
            before = here


# --- queries ----------------------------------------------------------------------------------------------------


def _query_reading(*ends: tuple[str, int]) -> Reading:
    codes = (*(ACTION | stop for _, stop in ends), MALFORMED)
    specials = (*(_set(text) for text, _ in ends), NOT_IN_TARGETS)
    guard = Guard(specials, codes, (GuardState(codes, [Edge(ANY_BYTE, 0)], tag=0),))
    return Reading(guard, raw=PLUS_IS_SPACE)


QUERY_KEY = _query_reading(("&", Stop.END), (" ", Stop.TARGET), ("=", Stop.VALUE), ("%", Stop.ESCAPE))
QUERY_VALUE = _query_reading(("&", Stop.END), (" ", Stop.TARGET), ("%", Stop.ESCAPE))


# --- header lines -------------------------------------------------------------------------------------------------


def value_reading(fold: bool) -> Reading:
    """A header's value, from after the colon to CR, without the white space around it."""
    lead, body, trail = range(3)
    codes = (END, MALFORMED)
    rest = ANY_BYTE & ~OWS
    states = (
        GuardState(codes, [Edge(OWS, lead, Op.SKIP), Edge(rest, body)], tag=0),
        GuardState(codes, [Edge(OWS, trail, Op.HOLD), Edge(rest, body)], tag=0),
        GuardState(codes, [Edge(OWS, trail, Op.HOLD), Edge(rest, body)], tag=0, holds=True),
    )
    guard = Guard((_set("\r"), byte_set((0, 0x0A))), codes, states)
    return Reading(guard, raw=LOWER if fold else IDENTITY)


def host_reading() -> Reading:
    """The value of Host: white space around it, `:PORT` and one trailing dot are no part of it; letters are lower-case. `[…]` stands whole. At
    the end of what has another shape: MALFORMED."""
    lead, body, dot, bracket, in_bracket, bracket_end, port, trail = range(8)
    name, colon, point = DIGITS | ALPHA | _set("-"), _set(":"), _set(".")
    end_of_host = [Edge(colon, port, Op.FREEZE), Edge(OWS, trail, Op.FREEZE)]
    inside = name | colon | point
    codes, unsound = (END, MALFORMED), (MALFORMED, MALFORMED)
    lead_edges = [
        Edge(OWS, lead, Op.SKIP),
        Edge(name, body),
        Edge(point, dot, Op.MARK),
        Edge(_set("["), bracket),
        Edge(colon, port, Op.FREEZE),
    ]
    states = (
        GuardState(codes, lead_edges, tag=0),
        GuardState(codes, [Edge(name, body), Edge(point, dot, Op.MARK), *end_of_host], tag=0),
        GuardState(codes, [Edge(name, body), Edge(point, dot, Op.MARK), *end_of_host], tag=0, holds=True),
        GuardState(unsound, [Edge(inside, in_bracket)]),
        GuardState(unsound, [Edge(inside, in_bracket), Edge(_set("]"), bracket_end)]),
        GuardState(codes, end_of_host, tag=0),
        GuardState(codes, [Edge(DIGITS, port, Op.FREEZE), Edge(OWS, trail, Op.FREEZE)], tag=0, holds=True),
        GuardState(codes, [Edge(OWS, trail, Op.FREEZE)], tag=0, holds=True),
    )
    specials = (_set("\r"), ANY_BYTE & ~(inside | OWS | _set("[]\r")))
    return Reading(Guard(specials, unsound, states), raw=LOWER)


def _token_reading(end: str, empty: str, fold: bool) -> Reading:
    """A token up to `end`; `empty`: a byte that may stand in its place."""
    at_start = (MALFORMED, ACTION | Stop.EMPTY, MALFORMED)
    inside = (END, MALFORMED, MALFORMED)
    states = (GuardState(at_start, [Edge(TOKEN, 1)]), GuardState(inside, [Edge(TOKEN, 1)], tag=0))
    specials = (_set(end), _set(empty), ANY_BYTE & ~TOKEN & ~_set(end + empty))
    return Reading(Guard(specials, inside, states), raw=LOWER if fold else IDENTITY)


NAME = _token_reading(":", "\r", fold=True)
METHOD = _token_reading(" ", "", fold=False)
