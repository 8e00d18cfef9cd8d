"""HTTP rules as tables that code generation turns into read-only data.

Conventions (those of `policyc.ir.tables` hold, too)
-----------
- A *component* is a set of rules that can meet on one connection (same direction and level, or any level where something is
  audited, services that share a port, subjects that one endpoint can match), closed over meeting. Every rule with a block is in exactly one.
- A component's *entries* are numbered in the order in which they decide: deny entries first, then allow entries, each by the rank of their
  rule, then by their number in its block. The first that matches decides. *Words* are 64 of them each: bit E % 64 of word E // 64;
  at least one.
- An *automaton* decides over bytes. `next[state * width + class]` is a state, or ACTION | code, which ends the walk with that code (`Stop`). States
  are below ACTION. `classes[b]` is the class of byte b as it stands in the stream, `decoded[b]` that of a byte that an escape stands for
  (such a class has no actions). `outcome[state]` is what is known if it ends there: an index into whatever the automaton's user says. Automata
  are minimal, and equal ones are one. A walk never has to go back: what is trimmed or taken off (white space around values, a host's port) is
  the automaton's affair. Letters of header names, of hosts and of protocols are folded by `classes`.
- In a query an escape that is none stays as it is: its `%` is read by `decoded`, and what follows it as if there were no `%`.
- A *condition* is one `header` or `query` condition of a component, or the protocols of an `upgrade`, at most 64; bit C of a mask. Those of
  entries that ask the same of the same name are one. A value automaton's outcome is an index into `masks`: the conditions on that name
  that this line (or key) satisfies. A condition without values holds for any value.

What a request's lines and keys say of conditions is in two masks: `held |= masks[outcome]`, `failed |= all & ~masks[outcome]`. At the end of the head, with
`absent` the entry's, the conditions of an entry hold if those of `absent` are not in `failed` (a condition that wants absence is in no mask, so that any
line fails it), and the others are in `held` and, for an allow entry, not in `failed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

ACTION = 0x8000
RUN_BYTES = 8
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
    """`runs[s]`, for the first so many states: a text of up to RUN_BYTES and the state that `next` leads to over it, without an action."""

    classes: bytes  # 256
    decoded: bytes  # 256
    width: int
    next: tuple[int, ...]
    outcome: tuple[int, ...]
    start: int = 0
    runs: tuple[tuple[bytes, int], ...] = ()

    @property
    def size(self) -> int:
        """Bytes of read-only data."""
        cells = len(self.next) + len(self.outcome)
        return len(self.classes) + len(self.decoded) + 2 * cells + 2 * RUN_BYTES * len(self.runs)


@dataclass(frozen=True)
class HttpEntryRecord:
    """`rank`: of its rule; `number`: in its block, from 1; `index`: into `HttpTables.entries`. `conditions`: the mask of those that must
    hold. `absent`: those of them that hold where there is no such line. `upgrade`: it allows `Upgrade`. Protocols that it names are one of its `conditions`,
    on the header `upgrade`: of `absent`, too, if it is an allow entry. A deny entry's `upgrade` without protocols is the condition that there is such a line.
    """

    rank: int
    number: int
    deny: bool
    conditions: int
    absent: int
    upgrade: bool
    body: bool
    index: int


@dataclass(frozen=True)
class NamedValues:
    """What is asked of the values of one header or query key: `automaton` (index) reads a value, its outcome indexes `masks`; `all`: every
    condition on the name, `absent` ones included (they are in no mask); those of `present` ask nothing of the value and are in each. If nothing
    is asked of the value `masks` has one element, and `automaton` is the one that only skips (`skip_value`, `skip_query`)."""

    name: str
    automaton: int
    masks: tuple[int, ...]
    all: int


@dataclass(frozen=True)
class Component:
    """Indices of automata are into `HttpTables.automata`.

    `methods[m]`, `paths[p]`, `hosts[h]`: the words of entries that accept method number m, a path of class p, a host of class h. Path class 0
    is malformed (dot segments, `//` and the like) and has no words. `forms[p]` is what kind of target a class stands for (`http_guards`: 0 origin, 1
    `*`, 2 absolute, 3 authority); one of form 2 or 3 is malformed, too, unless an entry of the connection's own rules is in `paths[p]`; form 1 stands
    with OPTIONS only, form 3 with CONNECT only, and CONNECT with it only. Host class 0 stands for no Host line; a value of
    an unsound shape ends with MALFORMED, at its CR at the latest.
    `headers[n]` is what is asked of the header number n (None: nothing), for both kinds of numbers: it has 2 * len(`HttpTables.headers`) elements.
    `query_key` reads a query's key (decoded), its outcome is 0 (nobody asks for it) or 1 + index into `queries`; where no entry
    asks for a query it is `HttpTables.skip_query_key`. An empty piece of a query is no key; a bare key has the value "", so
    what its value automaton says in its start state. `rules`: rank → words of its entries."""

    words: int
    entries: tuple[HttpEntryRecord, ...]
    path: int
    host: int
    methods: tuple[tuple[int, ...], ...]
    paths: tuple[tuple[int, ...], ...]
    forms: tuple[int, ...]
    hosts: tuple[tuple[int, ...], ...]
    headers: tuple[NamedValues | None, ...]
    query_key: int
    queries: tuple[NamedValues, ...]
    rules: dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class HttpRule:
    """A rule with a block: rank, component, the block's limit. `first_entry`: the index of its entry 1 in
    `HttpTables.entries`, by which they are counted and reported; the others follow."""

    rank: int
    component: int
    limit: int
    first_entry: int


METHOD_OTHER, METHOD_GET, METHOD_HEAD, METHOD_DELETE, METHOD_OPTIONS, METHOD_TRACE, METHOD_CONNECT = range(7)
FIXED_METHODS = ("GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT")  # numbers 1 to 6; 0 is any other token
FIXED_HEADERS = ("host", "content-length", "transfer-encoding", "connection", "upgrade", "expect")
"""Header numbers 1 to 6; 0 is a name that nobody asks for. Then the names of conditions; number `header_count + n` is a name that differs
from number n only in `_` for `-` or the other way round, which is asked for nothing but absence. A name that is asked for itself has its own number,
whatever it differs from; absence of its like is then among what it is asked for. Only names some condition wants absent have such numbers."""


@dataclass(frozen=True)
class HttpTables:
    """`method`: its outcome is a method number; `methods`: names by number, [0] "". `name`: its outcome is a header number; it folds case, and
    reads from a line's first byte to the colon; `headers`: names by number, [0] "". `entries`: (rank, number in its block) in source order.
    `rules`: by rank.

    Readers that all share: `skip_value` (a header's value of which nothing is asked), `skip_query_key` and `skip_query` (a query's key or value,
    likewise), `chunked` (outcome 1: the value is exactly `chunked`), `expect` (outcome 1: exactly `100-continue`); case is folded in these two."""

    automata: tuple[Automaton, ...]
    method: int
    name: int
    skip_value: int
    skip_query_key: int
    skip_query: int
    chunked: int
    expect: int
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    components: tuple[Component, ...]
    rules: tuple[HttpRule, ...]
    entries: tuple[tuple[int, int], ...]
