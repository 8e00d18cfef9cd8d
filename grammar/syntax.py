"""The syntax tree: what is written, with exact spans and nothing resolved. All nodes are immutable.

A `Word` carries the text as it means (quotes and escapes removed). Columns count code points from 1, ends are
exclusive. A header that did not parse leaves a node whose name is the empty word, so that its body is still checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policyc.model import Span


@dataclass(frozen=True)
class Word:
    """A name, number, keyword, label key or value, or string."""

    text: str
    span: Span
    quoted: bool = False


# --- selectors ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Requirement:
    """`op` is `==`, `!=`, `in`, `not in`, `exists` or `not exists`."""

    key: Word
    op: str
    values: tuple[Word, ...]
    span: Span


@dataclass(frozen=True)
class Selector:
    requirements: tuple[Requirement, ...]
    span: Span


# --- addresses ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Address:
    """An address or prefix as written."""

    text: str
    span: Span


@dataclass(frozen=True)
class FileRef:
    path: Word
    span: Span


@dataclass(frozen=True)
class Reference:
    """A name that stands for an identity, a CIDR set or a port set."""

    name: Word

    @property
    def span(self) -> Span:
        return self.name.span


@dataclass(frozen=True)
class CidrList:
    entries: tuple[CidrEntry, ...]
    span: Span


@dataclass(frozen=True)
class CidrExcept:
    """`base except removed`. After a prefix the exception must lie inside, after a list it is subtracted."""

    base: CidrEntry
    removed: CidrEntry
    span: Span


CidrEntry = Address | FileRef | Reference | CidrList | CidrExcept

# --- peers and services ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Builtin:
    word: Literal["any", "world", "host", "endpoints"]
    span: Span


@dataclass(frozen=True)
class Same:
    keys: tuple[Word, ...]
    span: Span


@dataclass(frozen=True)
class WorldCidrs:
    entries: tuple[CidrEntry, ...]
    span: Span


Peer = Builtin | Selector | Same | WorldCidrs | Address | FileRef | Reference | CidrList | CidrExcept


@dataclass(frozen=True)
class ServiceWord:
    """A protocol with what follows its slash, as written: `tcp/80`, `icmp/3/4`."""

    text: str
    span: Span


@dataclass(frozen=True)
class Protocol:
    """`proto N`; the number as written."""

    number: Word
    span: Span


@dataclass(frozen=True)
class AnyService:
    span: Span


@dataclass(frozen=True)
class ServiceList:
    entries: tuple[Service, ...]
    span: Span


Service = ServiceWord | Protocol | AnyService | Reference | ServiceList

# --- modifiers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    span: Span


@dataclass(frozen=True)
class Audit:
    span: Span


@dataclass(frozen=True)
class Priority:
    number: Word
    span: Span


@dataclass(frozen=True)
class Tier:
    word: Word
    span: Span


@dataclass(frozen=True)
class RuleName:
    name: Word
    span: Span


@dataclass(frozen=True)
class Default:
    """`default deny|pass [log]`."""

    action: Word
    log: bool
    span: Span


@dataclass(frozen=True)
class Reserved:
    """A construct that the grammar reserves: an L7 block, `via proxy`, a service, a claim. `what` names it."""

    what: str
    span: Span


# --- http --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadLimit:
    """`limit N` of a block; the number as written."""

    number: Word
    span: Span


@dataclass(frozen=True)
class Pattern:
    """`"…"`, or `~"…"`, whose text is as written, backslashes included."""

    word: Word
    regex: bool
    span: Span


@dataclass(frozen=True)
class HttpCondition:
    """`keyword` is `host`, `header`, `query`, `upgrade` or `body`; only `header` and `query` have a name, and perhaps `absent`."""

    keyword: Word
    name: Word | None
    values: tuple[Pattern, ...]
    absent: bool
    span: Span


@dataclass(frozen=True)
class HttpEntry:
    """`action` is None where neither `allow` nor `deny` is said."""

    action: Word | None
    methods: tuple[Word, ...]
    paths: tuple[Pattern, ...]
    conditions: tuple[HttpCondition, ...]
    span: Span


@dataclass(frozen=True)
class HttpBlock:
    """`word` is `http`."""

    word: Word
    options: tuple[Audit | HeadLimit, ...]
    entries: tuple[HttpEntry, ...]
    span: Span


@dataclass(frozen=True)
class HttpField:
    """`host "…"` (without name) or `header "NAME" "…"` of a request."""

    keyword: Word
    name: Word | None
    value: Word
    span: Span


@dataclass(frozen=True)
class HttpRequest:
    """The request of an expectation."""

    method: Word
    target: Word
    fields: tuple[HttpField, ...]
    span: Span


RuleModifier = Log | Audit | Priority | RuleName | HttpBlock | Reserved
PolicyModifier = Audit | Priority | Tier | Default

# --- declarations ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    action: Word
    side: Word
    peers: tuple[Peer, ...]
    services: tuple[Service, ...]
    modifiers: tuple[RuleModifier, ...]
    span: Span


@dataclass(frozen=True)
class Section:
    """`header` spans from the direction to what stands before the brace."""

    direction: Word
    default: Default | None
    rules: tuple[Rule, ...]
    header: Span
    span: Span


@dataclass(frozen=True)
class Policy:
    name: Word
    subjects: tuple[Peer, ...]
    modifiers: tuple[PolicyModifier, ...]
    sections: tuple[Section, ...]
    span: Span


@dataclass(frozen=True)
class Language:
    number: Word
    span: Span


@dataclass(frozen=True)
class Include:
    path: Word
    span: Span


@dataclass(frozen=True)
class Identity:
    name: Word
    selector: Selector | None
    span: Span


@dataclass(frozen=True)
class Cidr:
    """`entries` is None for a set that is filled at load."""

    name: Word
    entries: CidrEntry | None
    span: Span


@dataclass(frozen=True)
class Ports:
    name: Word
    services: ServiceList
    span: Span


@dataclass(frozen=True)
class Label:
    key: Word
    value: Word
    span: Span


@dataclass(frozen=True)
class Endpoint:
    name: Word
    addresses: tuple[Address, ...]
    labels: tuple[Label, ...]
    span: Span


@dataclass(frozen=True)
class Expectation:
    """Ends are words or addresses; `request` is Reserved for other protocols than HTTP."""

    verdict: Word
    sources: tuple[Word | Address, ...]
    destinations: tuple[Word | Address, ...]
    services: tuple[Service, ...]
    request: HttpRequest | Reserved | None
    by: Word | None
    span: Span


@dataclass(frozen=True)
class Test:
    __test__ = False
    title: Word
    entries: tuple[Endpoint | Expectation, ...]
    span: Span


@dataclass(frozen=True)
class ServiceDecl:
    """A reserved service declaration."""

    name: Word
    span: Span


Item = Language | Include | Identity | Cidr | Ports | Policy | Test | ServiceDecl | Reserved


@dataclass(frozen=True)
class File:
    """A source file. `broken` has the names of declarations that did not parse and the names of policies that lost a
    part: whoever looks a name up must not complain about these. `lost` is true if an `include` did not parse, or
    something whose name is not known."""

    items: tuple[Item, ...]
    broken: frozenset[str]
    lost: bool
    span: Span
