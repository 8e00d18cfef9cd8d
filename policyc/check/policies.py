"""Policies: header, sections, rules, references."""

from __future__ import annotations

from policyc.check import http
from policyc.check.findings import Findings
from policyc.check.peers import Peers, matches_nothing
from policyc.check.scope import Scope
from policyc.check.services import Services
from policyc.grammar import syntax
from policyc.model import (
    Action,
    Direction,
    Isolation,
    Peer,
    PeerClass,
    Policy,
    Rule,
    Span,
    Subject,
    Tier,
)

DEFAULT_PRIORITY = 100
MAX_PRIORITY = 1_000_000
SIDES = {Direction.INGRESS: "from", Direction.EGRESS: "to"}


class Policies:
    """Checks policies one by one. `order` is the number of rules so far; `spans` has the places of the names."""

    def __init__(self, peers: Peers, services: Services, found: Findings) -> None:
        self.peers = peers
        self.services = services
        self.found = found
        self.order = 0
        self.spans: dict[str, Span] = {}

    def check(self, node: syntax.Policy, scope: Scope) -> Policy:
        """The policy; where something is wrong it is reported and left out."""
        self._unique(node.name)
        modifiers = self._once(node.modifiers)
        tier = modifiers.get(syntax.Tier)
        priority = self.priority(modifiers.get(syntax.Priority), DEFAULT_PRIORITY)
        header = Header(
            node.name.text,
            self.peers.subjects(node.subjects, scope),
            Tier[tier.word.text.upper()] if isinstance(tier, syntax.Tier) else Tier.NORMAL,
            priority,
            syntax.Audit in modifiers,
        )
        default = modifiers.get(syntax.Default)
        stated = default if isinstance(default, syntax.Default) else None
        sections = self._sections(node)
        isolation = self._isolation(header.tier, stated, sections)
        names: dict[str, Span] = {}
        rules = tuple(
            rule
            for section in sections.values()
            for rule in self._rules(section, header, scope, names)
        )  # fmt: skip
        return Policy(header.name, header.subjects, header.tier, priority, header.audit, isolation, rules, node.span)

    def _unique(self, name: syntax.Word) -> None:
        if not name.text:
            return
        first = self.spans.setdefault(name.text, name.span)
        if first != name.span:
            notes = (("first declared here", first),)
            self.found.add("duplicate-policy", f"policy `{name.text}` is declared twice", name.span, notes=notes)

    def _once(
        self, modifiers: tuple[syntax.PolicyModifier | syntax.RuleModifier, ...]
    ) -> dict[type, syntax.PolicyModifier | syntax.RuleModifier]:
        """Modifiers by their type; a second of one type is reported."""
        result: dict[type, syntax.PolicyModifier | syntax.RuleModifier] = {}
        for modifier in modifiers:
            if isinstance(modifier, syntax.Reserved):
                not_there_yet(modifier.what, modifier.span, self.found)
                continue
            first = result.setdefault(type(modifier), modifier)
            if first is not modifier:
                notes = (("first said here", first.span),)
                self.found.add("duplicate-modifier", "this is said twice", modifier.span, notes=notes)
        return result

    def priority(self, node: object, default: int) -> int:
        if not isinstance(node, syntax.Priority):
            return default
        value = int(node.number.text)
        if value > MAX_PRIORITY:
            expected = (f"a number from 0 to {MAX_PRIORITY}",)
            self.found.add("bad-priority", f"priority {value} is too great", node.number.span, expected=expected)
            return default
        return value

    def _sections(self, node: syntax.Policy) -> dict[Direction, syntax.Section]:
        """The sections in source order."""
        result: dict[Direction, syntax.Section] = {}
        for section in node.sections:
            direction = Direction[section.direction.text.upper()]
            first = result.setdefault(direction, section)
            if first is not section:
                notes = (("first here", first.header),)
                message = f"the policy has `{direction.word}` twice"
                self.found.add(
                    "duplicate-section", message, section.direction.span, help="put the rules into one", notes=notes
                )
        return result

    def _isolation(
        self, tier: Tier, header: syntax.Default | None, sections: dict[Direction, syntax.Section]
    ) -> dict[Direction, Isolation]:
        for default in (header, *(s.default for s in sections.values())):
            if default is not None and default.log and default.action.text == "pass":
                help = "drop `log`, or say `default deny log`"
                self.found.add("log-without-deny", "`default pass` denies nothing to log", default.span, help=help)
        result: dict[Direction, Isolation] = {}
        for direction in Direction:
            section = sections.get(direction)
            stated = section.default if section and section.default else header
            if stated is not None:
                if stated.action.text == "deny":
                    result[direction] = Isolation(stated.log, stated.span)
            elif section is not None and tier is Tier.NORMAL:
                result[direction] = Isolation(False, section.span)
        return result

    def _rules(self, section: syntax.Section, header: Header, scope: Scope, names: dict[str, Span]) -> list[Rule]:
        direction = Direction[section.direction.text.upper()]
        return [
            self._rule(node, f"{direction.word}.{number}", direction, header, scope, names)
            for number, node in enumerate(section.rules, 1)
        ]

    def _rule(
        self,
        node: syntax.Rule,
        place: str,
        direction: Direction,
        header: Header,
        scope: Scope,
        names: dict[str, Span],
    ) -> Rule:
        if node.side.text != SIDES[direction]:
            right = SIDES[direction]
            message = f"{direction.word} rules say `{right}`"
            self.found.add("wrong-side", message, node.side.span, expected=(f"`{right}`",), suggestion=right)
        peers = self.peers.peers(node.peers, scope)
        services = self.services.read(node.services, scope)
        modifiers = self._once(node.modifiers)
        self._host_has_no_labels(node, header)
        self._can_match(node, peers)
        block = modifiers.get(syntax.HttpBlock)
        judged = (
            http.block(block, node, services, scope, self.services) if isinstance(block, syntax.HttpBlock) else None
        )
        order, self.order = self.order, self.order + 1
        return Rule(
            order,
            f"{header.name}.{self._name(modifiers.get(syntax.RuleName), names) or place}",
            header.name,
            direction,
            header.tier,
            self.priority(modifiers.get(syntax.Priority), header.priority),
            Action[node.action.text.upper()],
            peers,
            services,
            syntax.Log in modifiers,
            header.audit or syntax.Audit in modifiers,
            node.span,
            judged,
        )

    def _name(self, node: object, names: dict[str, Span]) -> str | None:
        if not isinstance(node, syntax.RuleName):
            return None
        name = node.name
        if "." in name.text or not (name.text[0].isalpha() or name.text[0] == "_") or set(name.text) & set("/:@"):
            help = "a name begins with a letter and goes on with letters, digits, `-` and `_`"
            message = f"`{name.text}` is not a name for a rule"
            self.found.add("positional-name", message, name.span, help=help)
            return None
        first = names.setdefault(name.text, name.span)
        if first is not name.span:
            notes = (("first given here", first),)
            self.found.add(
                "duplicate-rule-name", f"the policy has a rule `{name.text}` already", name.span, notes=notes
            )
        return name.text

    def _host_has_no_labels(self, node: syntax.Rule, header: Header) -> None:
        if not header.subjects or any(s is not PeerClass.HOST for s in header.subjects):
            return
        for peer in node.peers:
            if isinstance(peer, syntax.Same):
                help = "the subject of this policy is the host, which has no labels; name the peers by a selector"
                self.found.add("same-without-labels", "`same(…)` can match nothing here", peer.span, help=help)

    def _can_match(self, node: syntax.Rule, peers: tuple[Peer, ...]) -> None:
        if len(peers) and matches_nothing(peers):
            span = node.peers[0].span
            help = "an empty set matches nothing and never means any"
            self.found.add(
                "never-matches", "this rule can never match: its addresses are an empty set", span, help=help
            )


class Header:
    """What the rules of a policy take from its header."""

    def __init__(self, name: str, subjects: tuple[Subject, ...], tier: Tier, priority: int, audit: bool) -> None:
        self.name = name
        self.subjects = subjects
        self.tier = tier
        self.priority = priority
        self.audit = audit


def not_there_yet(what: str, span: Span, found: Findings) -> None:
    help = "this version of policyc keeps the place for it but does not know it"
    found.add("not-there-yet", f"{what} is not there yet", span, help=help)
