"""HTTP blocks: what a rule must be to carry one, its options, its entries.

Blocks of HTTP that meet on a connection add up. Two protocols that meet there would be an error; HTTP is the only one so far.
"""

from __future__ import annotations

from typing import Literal

from policyc.check import http_patterns, http_words
from policyc.check.findings import Findings
from policyc.check.scope import Scope
from policyc.check.services import Services
from policyc.grammar import syntax
from policyc.model import (
    HTTP_HEAD_LIMIT,
    HTTP_HEAD_LIMIT_MAX,
    Action,
    HttpBlock,
    HttpCondition,
    HttpEntry,
    Pattern,
    Service,
    Span,
)

TCP = 6
MIN_LIMIT = 256  # bytes of a head


def block(
    node: syntax.HttpBlock, rule: syntax.Rule, services: tuple[Service, ...], scope: Scope, read: Services
) -> HttpBlock:
    """The block of `rule`; what is wrong is reported and left out. `services` is what the rule's services mean."""
    found = read.found
    _fits(node, rule, services, scope, read)
    audit, limit = _options(node, found)
    entries = tuple(_Entry(entry, number, found).read() for number, entry in enumerate(node.entries, 1))
    if not entries:
        help = "write an entry for each request that may pass, or leave the block out to let all pass"
        found.add("empty-block", "this block has no entry and denies every request", node.span, help=help)
    _never_decide(entries, found)
    return HttpBlock(entries, node.span, audit, limit)


def _fits(
    node: syntax.HttpBlock, rule: syntax.Rule, services: tuple[Service, ...], scope: Scope, read: Services
) -> None:
    if rule.action.text != "allow":
        message = f"a {rule.action.text} rule cannot carry a block"
        help = "an `allow` rule carries it, with entries `deny …` for the requests to refuse"
        read.found.add("misplaced-block", message, node.word.span, help=help)
    if not rule.services:
        help = "say the ports before the block: `on tcp/8080 http { … }`"
        read.found.add("block-services", "a rule with a block says its services", node.word.span, help=help)
    if not_tcp(services):
        for listed in rule.services:
            if not_tcp(read.read((listed,), scope)):
                message = "HTTP is spoken over tcp only"
                help = "put other services into a rule without this block"
                read.found.add("block-services", message, listed.span, expected=("tcp/N",), help=help)


def not_tcp(services: tuple[Service, ...]) -> bool:
    return any(s.protocol != TCP for s in services)


def _options(node: syntax.HttpBlock, found: Findings) -> tuple[bool, int]:
    first: dict[type, Span] = {}
    limit = HTTP_HEAD_LIMIT
    for option in node.options:
        span = first.setdefault(type(option), option.span)
        if span is not option.span:
            found.add("duplicate-modifier", "this is said twice", option.span, notes=(("first said here", span),))
        elif isinstance(option, syntax.HeadLimit):
            limit = _limit(option.number, found)
    return syntax.Audit in first, limit


def _limit(number: syntax.Word, found: Findings) -> int:
    digits = number.text.removesuffix("k")
    value = int(digits) << (10 if digits != number.text else 0) if digits.isdecimal() and digits.isascii() else 0
    if MIN_LIMIT <= value <= HTTP_HEAD_LIMIT_MAX:
        return value
    plain = number.text.lower().rstrip("ib")
    suggestion = plain if plain != number.text and plain.removesuffix("k").isdecimal() and plain.endswith("k") else None
    message = f"`{number.text[:40]}` is no limit for a head"
    expected = ("bytes from 256 to 65536, or with `k`: 32k",)
    found.add("bad-limit", message, number.span, expected=expected, suggestion=suggestion)
    return HTTP_HEAD_LIMIT


class _Entry:
    """Reads one entry."""

    def __init__(self, node: syntax.HttpEntry, number: int, found: Findings) -> None:
        self.node = node
        self.number = number
        self.found = found
        self.hosts: tuple[Pattern, ...] = ()
        self.conditions: list[HttpCondition] = []
        self.upgrade: tuple[str, ...] | None = None
        self.body = False
        self.said: dict[tuple[str, str], Span] = {}

    def read(self) -> HttpEntry:
        deny = self.node.action is not None and self.node.action.text == "deny"
        action: Literal[Action.ALLOW, Action.DENY] = Action.DENY if deny else Action.ALLOW
        methods = http_words.methods(self.node.methods, self.found)
        paths: tuple[Pattern, ...] = ()
        if not http_words.is_misspelt_condition(self.node.methods[0]):
            paths = http_patterns.paths(self.node, methods, self.found)
            for condition in self.node.conditions:
                self._condition(condition)
        return HttpEntry(
            self.number,
            action,
            methods,
            paths,
            self.hosts,
            tuple(self.conditions),
            self.upgrade,
            self.body,
            self.node.span,
        )

    def _condition(self, node: syntax.HttpCondition) -> None:
        match node.keyword.text:
            case "host":
                if self._once(node, ""):
                    self.hosts = http_patterns.distinct(http_patterns.host(p, self.found) for p in node.values)
            case "upgrade":
                if self._once(node, ""):
                    self.upgrade = http_words.protocols(node.values, self.found)
            case "body":
                self.body = self._once(node, "") or self.body
            case "header":
                self._header(node)
            case _:
                self._query(node)

    def _header(self, node: syntax.HttpCondition) -> None:
        assert node.name is not None
        name = http_words.header_name(node.name, self.found)
        if name is None or http_words.is_framing(name, node.name, self.found) or not self._once(node, name):
            return
        values = http_patterns.distinct(http_patterns.header_value(p, self.found) for p in node.values)
        self.conditions.append(HttpCondition("header", name, values, node.absent))

    def _query(self, node: syntax.HttpCondition) -> None:
        assert node.name is not None
        if self._once(node, node.name.text):
            values = http_patterns.distinct(http_patterns.value(p, self.found) for p in node.values)
            self.conditions.append(HttpCondition("query", node.name.text, values, node.absent))

    def _once(self, node: syntax.HttpCondition, name: str) -> bool:
        """Whether this is the first condition of its kind on `name` in the entry; another is reported."""
        keyword = node.keyword.text
        first = self.said.setdefault((keyword, name), node.span)
        if first is node.span:
            return True
        what = f'`{keyword} "{name[:40]}"`' if node.name is not None else f"`{keyword}`"
        help = "say it once" if keyword == "body" else "several values of one condition stand with commas between them"
        notes = (("first said here", first),)
        self.found.add("duplicate-condition", f"this entry says {what} twice", node.span, help=help, notes=notes)
        return False


def _never_decide(entries: tuple[HttpEntry, ...], found: Findings) -> None:
    """Warns of entries that match what another matches that decides before them: deny before allow, then in source order."""
    first: dict[object, HttpEntry] = {}
    for entry in sorted(entries, key=lambda e: (e.action, e.number)):
        other = first.setdefault(_matched(entry), entry)
        if other is not entry:
            help = "remove it: deny entries are asked before allow entries, then the first decides"
            notes = (("this one decides", other.span),)
            found.add("repeated-entry", "this entry can never decide", entry.span, help=help, notes=notes)


def _matched(entry: HttpEntry) -> object:
    """What an entry matches, equal for entries that match the same by the same words in any order. `upgrade` means other requests
    in a deny entry than in an allow entry."""
    return (
        None if entry.upgrade is None else entry.action,
        frozenset(entry.methods),
        _texts(entry.paths),
        _texts(entry.hosts),
        frozenset((c.kind, c.name, c.absent, _texts(c.values)) for c in entry.conditions),
        None if entry.upgrade is None else frozenset(entry.upgrade),
        entry.body,
    )


def _texts(patterns: tuple[Pattern, ...]) -> frozenset[tuple[str, str]]:
    return frozenset((p.kind, p.text) for p in patterns)
