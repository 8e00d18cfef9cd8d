"""Reductions of the grammar to nodes of the syntax tree. A method is called with the children of its rule, all tokens in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from policyc.grammar import syntax
from policyc.grammar.lexer import Token
from policyc.model import Span


def join(first: Any, last: Any) -> Span:
    """From the start of one node or token to the end of another."""
    a, b = first.span, last.span
    return Span(a.file, a.line, a.column, b.end_line, b.end_column)


def word(token: Token) -> syntax.Word:
    return syntax.Word(token.value, token.span, token.type == "STRING")


def nodes(children: Sequence[Any], *kinds: type) -> tuple[Any, ...]:
    return tuple(c for c in children if isinstance(c, kinds))


_SERVICES = (syntax.ServiceWord, syntax.Protocol, syntax.AnyService, syntax.ServiceList, syntax.Reference)
_CIDRS = (syntax.Address, syntax.FileRef, syntax.Reference, syntax.CidrList, syntax.CidrExcept)
_PEERS = (*_CIDRS, syntax.Builtin, syntax.Selector, syntax.Same, syntax.WorldCidrs)
_POLICY_MODIFIERS = (syntax.Audit, syntax.Tier, syntax.Priority, syntax.Default)
_RULE_MODIFIERS = (
    *(syntax.Log, syntax.Audit, syntax.RuleName, syntax.Priority),
    *(syntax.HttpBlock, syntax.Reserved),
)


class Builder:
    """The `transformer` of the parser; methods are named as the rules and aliases of policy.lark."""

    # --- words
    def name(self, c: list[Token]) -> syntax.Word:
        return word(c[0])

    key = value = name

    # --- selectors
    def selector(self, c: list[Any]) -> syntax.Selector:
        return syntax.Selector(nodes(c, syntax.Requirement), join(c[0], c[-1]))

    def one_value(self, c: list[Any]) -> syntax.Requirement:
        return syntax.Requirement(c[0], c[1].text, (c[2],), join(c[0], c[2]))

    def many_values(self, c: list[Any]) -> syntax.Requirement:
        op = "not in" if len(c) == 4 else "in"
        return syntax.Requirement(c[0], op, nodes(c[-1], syntax.Word), join(c[0], c[-1][-1]))

    def values(self, c: list[Any]) -> list[Any]:
        return c

    def presence(self, c: list[Any]) -> syntax.Requirement:
        op = "not exists" if len(c) == 3 else "exists"
        return syntax.Requirement(c[-1], op, (), join(c[0], c[-1]))

    # --- addresses
    def address(self, c: list[Token]) -> syntax.Address:
        return syntax.Address(c[0].value, c[0].span)

    def file_ref(self, c: list[Token]) -> syntax.FileRef:
        return syntax.FileRef(word(c[1]), join(c[0], c[1]))

    def reference(self, c: list[syntax.Word]) -> syntax.Reference:
        return syntax.Reference(c[0])

    def file_reference(self, c: list[Token]) -> syntax.Reference:
        return syntax.Reference(word(c[0]))

    def cidr_except(self, c: list[Any]) -> syntax.CidrExcept:
        return syntax.CidrExcept(c[0], c[2], join(c[0], c[2]))

    def cidr_list(self, c: list[Any]) -> syntax.CidrList:
        return syntax.CidrList(nodes(c, *_CIDRS), join(c[0], c[-1]))

    # --- peers and services
    def builtin(self, c: list[Token]) -> syntax.Builtin:
        return syntax.Builtin(cast(Any, c[0].value), c[0].span)

    def same(self, c: list[Any]) -> syntax.Same:
        return syntax.Same(nodes(c, syntax.Word), join(c[0], c[-1]))

    def world_cidrs(self, c: list[Any]) -> syntax.WorldCidrs:
        return syntax.WorldCidrs(nodes(c, *_CIDRS), join(c[0], c[-1]))

    def service_word(self, c: list[Token]) -> syntax.ServiceWord:
        return syntax.ServiceWord(c[0].value, c[0].span)

    def protocol(self, c: list[Token]) -> syntax.Protocol:
        return syntax.Protocol(word(c[1]), join(c[0], c[1]))

    def any_service(self, c: list[Token]) -> syntax.AnyService:
        return syntax.AnyService(c[0].span)

    def service_list(self, c: list[Any]) -> syntax.ServiceList:
        return syntax.ServiceList(nodes(c, *_SERVICES), join(c[0], c[-1]))

    def expected_services(self, c: list[Any]) -> list[Any]:
        return c

    # --- modifiers
    def log(self, c: list[Token]) -> syntax.Log:
        return syntax.Log(c[0].span)

    def audit(self, c: list[Token]) -> syntax.Audit:
        return syntax.Audit(c[0].span)

    def priority(self, c: list[Token]) -> syntax.Priority:
        return syntax.Priority(word(c[1]), join(c[0], c[1]))

    def tier(self, c: list[Token]) -> syntax.Tier:
        return syntax.Tier(word(c[1]), join(c[0], c[1]))

    def rule_name(self, c: list[Any]) -> syntax.RuleName:
        name = word(c[1]) if isinstance(c[1], Token) else c[1]
        return syntax.RuleName(name, join(c[0], name))

    def default(self, c: list[Token]) -> syntax.Default:
        return syntax.Default(word(c[1]), len(c) == 3, join(c[0], c[-1]))

    def l7_option(self, c: list[Token]) -> Token:
        return c[0]

    def l7_block(self, c: list[Any]) -> syntax.Reserved:
        return syntax.Reserved(f"`{c[0].value}` on a rule", join(c[0], c[-1]))

    def via_proxy(self, c: list[Token]) -> syntax.Reserved:
        return syntax.Reserved("`via proxy`", join(c[0], c[-1]))

    # --- http
    def head_limit(self, c: list[Token]) -> syntax.HeadLimit:
        return syntax.HeadLimit(word(c[1]), join(c[0], c[1]))

    def pattern(self, c: list[Token]) -> syntax.Pattern:
        return syntax.Pattern(word(c[-1]), len(c) == 2, join(c[0], c[-1]))

    def http_methods(self, c: list[Token]) -> list[Token]:
        return c[::2]

    def http_paths(self, c: list[Any]) -> list[Any]:
        return c[::2]

    def http_host(self, c: list[Any]) -> syntax.HttpCondition:
        return syntax.HttpCondition(word(c[0]), None, nodes(c, syntax.Pattern), False, join(c[0], c[-1]))

    http_upgrade = http_body = http_host

    def http_header(self, c: list[Any]) -> syntax.HttpCondition:
        absent = isinstance(c[-1], Token) and c[-1].type == "ABSENT"
        return syntax.HttpCondition(word(c[0]), word(c[1]), nodes(c, syntax.Pattern), absent, join(c[0], c[-1]))

    http_query = http_header

    def http_entry(self, c: list[Any]) -> syntax.HttpEntry:
        action = word(c[0]) if isinstance(c[0], Token) else None
        methods, *rest = c[1:] if action else c
        paths = rest[0] if rest and isinstance(rest[0], list) else []
        conditions = nodes(rest, syntax.HttpCondition)
        last = conditions[-1] if conditions else (paths or methods)[-1]
        words = tuple(word(m) for m in methods)
        return syntax.HttpEntry(action, words, tuple(paths), conditions, join(action or methods[0], last))

    def http_block(self, c: list[Any]) -> syntax.HttpBlock:
        options = nodes(c, syntax.Audit, syntax.HeadLimit)
        return syntax.HttpBlock(word(c[0]), options, nodes(c, syntax.HttpEntry), join(c[0], c[-1]))

    def http_field(self, c: list[Token]) -> syntax.HttpField:
        name = word(c[1]) if len(c) == 3 else None
        return syntax.HttpField(word(c[0]), name, word(c[-1]), join(c[0], c[-1]))

    def http_request(self, c: list[Any]) -> syntax.HttpRequest:
        return syntax.HttpRequest(word(c[0]), word(c[1]), nodes(c, syntax.HttpField), join(c[0], c[-1]))

    # --- policies
    def rule(self, c: list[Any]) -> syntax.Rule:
        peers, services, modifiers = [], [], []
        serving = False
        for child in c[2:]:
            if isinstance(child, Token):
                serving = serving or child.type == "ON"
            elif isinstance(child, _RULE_MODIFIERS):
                modifiers.append(child)
            elif serving:
                services.append(child)
            else:
                peers.append(child)
        span = join(c[0], c[-1])
        return syntax.Rule(word(c[0]), word(c[1]), tuple(peers), tuple(services), tuple(modifiers), span)

    def section(self, c: list[Any]) -> syntax.Section:
        default = c[1] if isinstance(c[1], syntax.Default) else None
        header = join(c[0], default) if default else c[0].span
        return syntax.Section(word(c[0]), default, nodes(c, syntax.Rule), header, join(c[0], c[-1]))

    def policy(self, c: list[Any]) -> syntax.Policy:
        return syntax.Policy(
            c[1], nodes(c, *_PEERS), nodes(c, *_POLICY_MODIFIERS), nodes(c, syntax.Section), join(c[0], c[-1])
        )

    # --- tests
    def end(self, c: list[Any]) -> syntax.Word | syntax.Address:
        if not isinstance(c[0], Token):
            return cast(syntax.Word, c[0])
        return syntax.Address(c[0].value, c[0].span) if c[0].type == "ADDRESS" else word(c[0])

    def ends(self, c: list[Any]) -> list[Any]:
        return c

    def label(self, c: list[Any]) -> syntax.Label:
        return syntax.Label(c[0], c[2], join(c[0], c[2]))

    def labels(self, c: list[Any]) -> list[Any]:
        return c

    def endpoint(self, c: list[Any]) -> syntax.Endpoint:
        name = word(c[1]) if isinstance(c[1], Token) else c[1]
        addresses = [syntax.Address(t.value, t.span) for t in c[2:] if isinstance(t, Token) and t.type == "ADDRESS"]
        labels = c[-1] if isinstance(c[-1], list) else []
        last = labels[-1] if labels else addresses[-1] if addresses else name
        return syntax.Endpoint(name, tuple(addresses), nodes(labels, syntax.Label), join(c[0], last))

    def l7_expectation(self, c: list[Token]) -> syntax.Reserved:
        return syntax.Reserved(f"`{c[0].value}` in an expectation", join(c[0], c[-1]))

    def by(self, c: list[Token]) -> syntax.RuleName:
        return syntax.RuleName(word(c[1]), join(c[0], c[1]))

    def expectation(self, c: list[Any]) -> syntax.Expectation:
        services: tuple[syntax.Service, ...] = ()
        request, by = None, None
        last: Any = c[3][-1]
        for part in c[4:]:
            if isinstance(part, (syntax.HttpRequest, syntax.Reserved)):
                request = part
            elif isinstance(part, syntax.RuleName):
                by = part.name
            else:
                services = nodes(part, *_SERVICES)
                part = part[-1]
            last = part
        ends = (syntax.Word, syntax.Address)
        return syntax.Expectation(
            word(c[0]), nodes(c[1], *ends), nodes(c[3], *ends), services, request, by, join(c[0], last)
        )

    def test(self, c: list[Any]) -> syntax.Test:
        return syntax.Test(word(c[1]), nodes(c, syntax.Endpoint, syntax.Expectation), join(c[0], c[-1]))

    # --- declarations
    def language(self, c: list[Token]) -> syntax.Language:
        return syntax.Language(word(c[1]), join(c[0], c[1]))

    def include(self, c: list[Token]) -> syntax.Include:
        return syntax.Include(word(c[1]), join(c[0], c[1]))

    def identity(self, c: list[Any]) -> syntax.Identity:
        return syntax.Identity(c[1], c[2] if len(c) == 3 else None, join(c[0], c[-1]))

    def cidr(self, c: list[Any]) -> syntax.Cidr:
        return syntax.Cidr(c[1], c[3], join(c[0], c[3]))

    def cidr_at_load(self, c: list[Any]) -> syntax.Cidr:
        return syntax.Cidr(c[1], None, join(c[0], c[-1]))

    def ports(self, c: list[Any]) -> syntax.Ports:
        return syntax.Ports(c[1], c[3], join(c[0], c[3]))

    def service_decl(self, c: list[Any]) -> syntax.ServiceDecl:
        return syntax.ServiceDecl(c[1], join(c[0], c[-1]))

    def claim(self, c: list[Any]) -> syntax.Reserved:
        return syntax.Reserved(f"`{c[0].value}`", join(c[0], c[-1]))

    def claim_part(self, c: list[Any]) -> Any:
        return c[0]

    def block_part(self, c: list[Any]) -> Any:
        return c[0]

    def block(self, c: list[Any]) -> syntax.Reserved:
        return syntax.Reserved("a block", join(c[0], c[-1]))

    def file(self, c: list[Any]) -> list[Any]:
        return c
