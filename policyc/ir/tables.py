"""The low-level IR: tables that code generation turns into instructions and read-only data.

Conventions
-----------
- Everything is immutable and refers to other things by index into the module's tuples; index order is meaning where
  said, else the order of first use in source order, so that output is deterministic.
- A *rank* is a rule's place in the total order of decision: by (tier, priority, action, source order). Lower wins.
- A *level* is the ordinal of a (tier, priority) pair in ascending order over the module.
- A *key* is the service of a packet as one integer: kind << 24 | protocol << 16 | port. `port` is the destination port,
  icmp type << 8 | code for icmp and icmpv6, else 0. Kinds: FULL for a packet whose port (or type) is known or whose protocol has none;
  PORTLESS for a later fragment of any protocol; NAMED asks which rules that name a port or type of that
  protocol could match such a fragment.
- A *row* maps every key to a `Cell`: a sorted tuple of (first key, cell); a cell holds up to the next first key, the last one to the end.
  The first key of a row is always 0. For PORTLESS keys the cell tells the best rule that names no port or type; for NAMED
  keys the best rule that does name one (only its level is used).
- A *cell* tells the best rule twice: `enforced` (audited rules left out) and `prospective` (all in). None: no rule matches. `log`
  is true if any rule in this row that matches the key, of the best rule's level and action, says `log`.
- Where rules of one level with L7 blocks match, `stream` of the best rule tells which: all of its level and action that have a
  block (in force in that variant) and match, and the first without one.
- A *group* is all rules of one direction and tier whose policies share one subject. The runtime gives each identity the
  groups that select it. A packet's verdict in a tier is the best cell over the subject's groups, and over the rows of a group that the peer
  selects. Row 0 is always the empty row (one cell: nothing, nothing).
- A *CIDR table* maps every address to a class (0: no `CIDR` or `world(CIDR)` peer of any of its groups matches); starts are sorted and begin with 0, one per family.
  A group has a table, or several that each hold some of its CIDR sets; for each it has, for each class, the row of its `CIDR` peers (`rows_any`) and the row
  for peers of class world, with the `world(CIDR)` peers merged in (`rows_world`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from policyc.ir.http_tables import HttpTables
from policyc.model import Action, Direction, PeerClass, Selector, Span, Tier


class KeyKind(IntEnum):
    FULL = 0
    PORTLESS = 1
    NAMED = 2


def service_key(kind: KeyKind, protocol: int, port: int) -> int:
    return kind << 24 | protocol << 16 | port


KEY_END = 3 << 24  # one past the last key


@dataclass(frozen=True, slots=True)
class StreamRules:
    """The rules that judge the requests of a connection: ranks of those with a block, ascending, and the lowest rank of one without."""

    rules: tuple[int, ...]
    plain: int | None = None


@dataclass(frozen=True, slots=True)
class Best:
    """The best rule of a cell. `log`, `stream`: see the module's docstring."""

    rank: int
    log: bool
    stream: StreamRules | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    enforced: Best | None
    prospective: Best | None


EMPTY = Cell(None, None)


@dataclass(frozen=True, slots=True)
class Row:
    cells: tuple[tuple[int, Cell], ...]


class Block(IntEnum):
    """Whether the L7 block of a rule is in force or only reports."""

    ENFORCED = 1
    AUDITED = 2


@dataclass(frozen=True)
class RankedRule:
    """`RankedRule` number R is the rule of rank R. `level` ascends with rank; `span` is its source line."""

    ref: str
    direction: Direction
    tier: Tier
    priority: int
    level: int
    action: Action
    log: bool
    audit: bool
    span: Span
    block: Block | None = None


@dataclass(frozen=True)
class CidrTable:
    """starts → class. `v4` and `v6`: sorted (start address, class), neighbours differ in class, first start 0.

    What the cost model chose: the upper `bits4` bits of an IPv4 address lead to a bucket of starts, in which every search
    makes `steps4` steps, and more only where that bucket has more starts; `bits6` bits lead to one of IPv6."""

    v4: tuple[tuple[int, int], ...]
    v6: tuple[tuple[int, int], ...]
    classes: int
    bits4: int = 0
    steps4: int = 0
    bits6: int = 0


@dataclass(frozen=True)
class GroupCidrs:
    """A group's use of a CIDR table: row index for each class. `rows_world` is used for peers of class world."""

    table: int
    rows_any: tuple[int, ...]
    rows_world: tuple[int, ...]


@dataclass(frozen=True)
class Isolation:
    """Whether a tier ends with deny for the group's subject. `log` / `log_prospective`: such a denial is reported."""

    enforced: bool = False
    prospective: bool = False
    log: bool = False
    log_prospective: bool = False


GroupSubject = int | PeerClass  # an index into `selectors`, or PeerClass.HOST


@dataclass(frozen=True)
class Group:
    """Rows by peer. Row indices: `row_world`, `row_host`, `row_endpoint` for a peer of that class (rules from `any` are in
    all three); `selectors`: (selector index, row), ascending; `same`: (indices into `same_keys`, row)."""

    direction: Direction
    tier: Tier
    subject: GroupSubject
    isolation: Isolation
    row_world: int
    row_host: int
    row_endpoint: int
    selectors: tuple[tuple[int, int], ...]
    same: tuple[tuple[tuple[int, ...], int], ...]
    cidrs: tuple[GroupCidrs, ...]
    span: Span


@dataclass(frozen=True)
class SelectedBy:
    """A subject that some policy has, whether or not it has rules: who is `selected` (enforced / any)."""

    subject: GroupSubject
    enforced: bool


@dataclass(frozen=True)
class Tables:
    """The module. `selectors` are distinct; the empty selector stands for `endpoints` as a subject (as a peer,
    `endpoints` is in `row_endpoint`). `has_audit`: some rule or policy is audited, so prospective verdicts are computed.
    `inline_rows`: the rows, ascending, that the cost model has decided by constants in the code where a group names them,
    instead of by a search over read-only data. `stateless`: asked for at compilation; every packet is judged by itself.
    `http`: what judges requests, where a rule has a block."""

    selectors: tuple[Selector, ...]
    same_keys: tuple[str, ...]
    rules: tuple[RankedRule, ...]
    rows: tuple[Row, ...]
    cidr_tables: tuple[CidrTable, ...]
    groups: tuple[Group, ...]
    selected: tuple[SelectedBy, ...]
    has_audit: bool
    inline_rows: tuple[int, ...] = ()
    stateless: bool = False
    http: HttpTables | None = None

    @property
    def needs_peer_class(self) -> bool:
        """Whether any verdict depends on the class or the identity of the peer, not on its address alone."""
        return any(
            not g.row_world == g.row_host == g.row_endpoint
            or g.selectors
            or g.same
            or any(use.rows_any != use.rows_world for use in g.cidrs)
            for g in self.groups
        )
