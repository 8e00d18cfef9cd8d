"""HTTP rules as tables that code generation turns into read-only data.

Conventions (those of `policyc.ir.tables` hold, too)
-----------
- A *component* is a set of rules that can meet on one connection (same direction and level, services that share a port, subjects that
  one endpoint can match), closed over meeting. Every rule with a block is in exactly one.
- A component's *entries* are numbered in the order in which they decide: deny entries first, then allow entries, each by the rank of their
  rule, then by their number in its block. The first that matches decides. *Words* are 64 of them each: bit E % 64 of word E // 64.
- An *automaton* decides over bytes. `next[state * width + class]` is a state, or ACTION | code, which ends the walk with that code (`Stop`). States
  are below ACTION. `classes[b]` is the class of byte b as it stands in the stream, `decoded[b]` that of a byte that an escape stands for
  (such a class has no actions). `outcome[state]` is what is known if it ends there: an index into whatever the automaton's user says.
- A *condition* is one `header` or `query` condition of a component, at most 64; bit C of a mask. A value automaton's outcome is an index
  into `masks`: the conditions on that name whose values match. A condition without values holds for any value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from policyc.model import Span

ACTION = 0x8000
WORD_BITS = 64
MAX_CONDITIONS = 64


class Stop(IntEnum):
    """Why a walk over an automaton ended. MALFORMED: the byte may not stand there. END: the delimiter that ends what the automaton reads (of a
    target's path or query: a space; of a query's key or value: `&`; of a header's value: CR; of a method: a space; of a name: a colon)."""

    MALFORMED = 0
    END = 1
    QUERY = 2  # `?` after a path
    ESCAPE = 3  # `%`: two hex digits follow
    VALUE = 4  # `=` after a query's key
    TARGET = 5  # the space after a query's key or value, which ends the target
    EMPTY = 6  # of names: CR at their first byte, the end of the head


@dataclass(frozen=True)
class Automaton:
    classes: bytes  # 256
    decoded: bytes  # 256
    width: int
    next: tuple[int, ...]
    outcome: tuple[int, ...]
    start: int = 0


@dataclass(frozen=True)
class HttpEntryRecord:
    """`rank`: of its rule. `conditions`: the mask of those that must hold. `absent`: those of them that hold where there is no such line.
    `upgrade`: it allows `Upgrade` (its protocols are a condition on the header `upgrade`)."""

    rank: int
    number: int
    deny: bool
    audit: bool
    conditions: int
    absent: int
    upgrade: bool
    body: bool
    span: Span


@dataclass(frozen=True)
class NamedValues:
    """What is asked of the values of one header or query key: `automaton` (index) reads a value, its outcome indexes `masks`; `all`: every
    condition on the name, `absent` ones included; those of `present` ask nothing of the value."""

    name: str
    automaton: int
    masks: tuple[int, ...]
    all: int


@dataclass(frozen=True)
class Component:
    """Indices of automata are into `HttpTables.automata`.

    `methods[m]`, `paths[p]`, `hosts[h]`: the words of entries that accept method number m, a path of class p, a host of class h; path class 0
    is malformed (dot segments, `//` and the like) and has no words; host class 0 stands for no Host line. `headers[n]` is what is asked of the
    header number n (None: nothing); `query_key` reads a query's key (decoded), its outcome is 0 or 1 + index into `queries`; None where no
    entry asks for a query. `rules`: rank → words of its entries."""

    words: int
    entries: tuple[HttpEntryRecord, ...]
    path: int
    host: int
    methods: tuple[tuple[int, ...], ...]
    paths: tuple[tuple[int, ...], ...]
    hosts: tuple[tuple[int, ...], ...]
    headers: tuple[NamedValues | None, ...]
    query_key: int | None
    queries: tuple[NamedValues, ...]
    rules: dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class HttpRule:
    """A rule with a block: rank, component, the block's limit, whether the block is audited, and the index of each entry (by number) in the
    module's list of entries, in source order, by which they are counted and reported (`HttpTables.entries`)."""

    rank: int
    component: int
    limit: int
    audit: bool


METHOD_OTHER, METHOD_GET, METHOD_HEAD, METHOD_DELETE, METHOD_OPTIONS, METHOD_TRACE, METHOD_CONNECT = range(7)
FIXED_METHODS = ("GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT")  # numbers 1 to 6; 0 is any other token
FIXED_HEADERS = ("host", "content-length", "transfer-encoding", "connection", "upgrade", "expect")
"""Header numbers 1 to 6; 0 is a name that nobody asks for. Then the names of conditions; number `header_count + n` is a name that differs
from number n only in `_` for `-`, which is asked for nothing but absence."""


@dataclass(frozen=True)
class HttpTables:
    """`method`: its outcome is a method number. `name`: its outcome is a header number; it folds case, and reads from a line's first byte to the
    colon. `headers`, `methods`: names by number, [0] "". `entries`: (rank, number in its block) in source order."""

    automata: tuple[Automaton, ...]
    method: int
    name: int
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    components: tuple[Component, ...]
    rules: tuple[HttpRule, ...]
    entries: tuple[tuple[int, int], ...]
