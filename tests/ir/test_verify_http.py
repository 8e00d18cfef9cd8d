"""Protects the verifier of HTTP tables: it finds what a broken lowering would leave, and names the place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from policyc.ir.http_lower import lower_http
from policyc.ir.http_tables import ACTION, Automaton, Component, HttpTables
from policyc.ir.verify import VerifyError
from policyc.ir.verify_http import verify_http
from policyc.model import (
    Action,
    AddressSet,
    Direction,
    HttpBlock,
    HttpCondition,
    HttpEntry,
    Pattern,
    PeerClass,
    Policy,
    PolicySet,
    Rule,
    Service,
    Span,
    Tier,
)

SPAN = Span("v.pol", 1, 1, 1, 2)
CONDITION = HttpCondition("header", "x-a", (Pattern("string", "a", SPAN),))


def _tables() -> HttpTables:
    entries = tuple(
        HttpEntry(n, action, ("GET",), (Pattern("glob", f"/{n}/*", SPAN),), (), (CONDITION,), None, False, SPAN)
        for n, action in ((1, Action.ALLOW), (2, Action.DENY))
    )
    rule = Rule(
        0, "p.ingress.1", "p", Direction.INGRESS, Tier.NORMAL, 100, Action.ALLOW, (PeerClass.ANY,), (Service(6, (80, 80)),), False,
        False, SPAN, HttpBlock(entries, SPAN),
    )  # fmt: skip
    policy = Policy("p", (PeerClass.ENDPOINTS,), Tier.NORMAL, 100, False, {}, (rule,), SPAN)
    tables = lower_http(PolicySet(1, (), {}, (policy,), AddressSet()), {0: 0})
    assert tables is not None
    return tables


TABLES = _tables()
PATH = TABLES.components[0].path


def automaton(**changes: Any) -> Callable[[HttpTables], HttpTables]:
    """The component's path automaton with these changes."""

    def change(tables: HttpTables) -> HttpTables:
        broken = replace(tables.automata[PATH], **{k: v(tables.automata[PATH]) for k, v in changes.items()})
        return replace(tables, automata=(*tables.automata[:PATH], broken, *tables.automata[PATH + 1 :]))

    return change


def component(**changes: Callable[[Component], Any]) -> Callable[[HttpTables], HttpTables]:
    def change(tables: HttpTables) -> HttpTables:
        (only,) = tables.components
        return replace(tables, components=(replace(only, **{k: v(only) for k, v in changes.items()}),))

    return change


def cells(value: int, class_of: Callable[[Automaton], int]) -> Callable[[Automaton], tuple[int, ...]]:
    """Transitions with `value` in the last state, in a class."""

    def change(a: Automaton) -> tuple[int, ...]:
        at = len(a.next) - a.width + class_of(a)
        return (*a.next[:at], value, *a.next[at + 1 :])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (automaton(start=lambda a: 999), f"automaton {PATH}: begins in state 999 of {len(TABLES.automata[PATH].outcome)}"),
        (automaton(next=lambda a: a.next[:-1]), "has not a cell for each state and class"),
        (automaton(next=cells(0x7000, lambda a: 0)), "neither states nor actions: [28672]"),
        (automaton(next=cells(ACTION | 9, lambda a: 0)), "neither states nor actions: [32777]"),
        (automaton(next=cells(ACTION, lambda a: a.decoded[0x41])), "has actions on bytes of escapes"),
        (automaton(classes=lambda a: b"\xff" * 256), "has a class that is not below"),
        (automaton(outcome=lambda a: (*a.outcome[:-1], 99)), f"component 0 path: automaton {PATH} has outcome 99"),
        (automaton(runs=lambda a: ((b"/", a.start),)), "has a run from state 0 that leads elsewhere"),
        (automaton(runs=lambda a: ((b"a" * 9, 0),)), "has a run from state 0 that leads elsewhere"),
        (lambda t: replace(t, automata=(*t.automata, t.automata[0])), "automata: some are equal"),
        (lambda t: replace(t, method=99), "method: automaton 99 does not exist"),
        (lambda t: replace(t, methods=t.methods[1:]), "methods: do not begin with the fixed ones"),
        (lambda t: replace(t, headers=(*t.headers, "host")), "headers: some are equal"),
        (component(words=lambda c: 2), "component 0: has 2 words for 2 entries"),
        (component(entries=lambda c: c.entries[::-1]), "its entries are not in the order in which they decide"),
        (component(paths=lambda c: ((1,), *c.paths[1:])), "has entries for malformed paths"),
        (component(hosts=lambda c: ((4,), *c.hosts[1:])), "component 0 hosts 0: has entries that do not exist"),
        (component(forms=lambda c: c.forms[1:]), "has not a form for each class of paths"),
        (component(methods=lambda c: c.methods[1:]), "has not a row for each method"),
        (component(rules=lambda c: {0: (1,)}), "component 0 rule 0: its words are not its entries"),
        (component(rules=lambda c: {1: (3,)}), "component 0 rule 1: its words are not its entries"),
        (component(headers=lambda c: c.headers[1:]), "has not two places for each header"),
        (component(headers=lambda c: (None,) * len(c.headers)), "component 0 entry 0.2: has conditions that nothing asks for"),
        (component(entries=lambda c: tuple(replace(e, absent=2) for e in c.entries)), "wants absence of what it does not ask for"),
        (component(entries=lambda c: tuple(replace(e, index=0) for e in c.entries)), "component 0 entry 0.2: is not entry 0"),
        (lambda t: replace(t, rules=()), "rules: are not those of the components"),
        (lambda t: replace(t, rules=(replace(t.rules[0], first_entry=1),)), "rule 0: begins at entry 1, not 0"),
        (lambda t: replace(t, entries=(*t.entries, (0, 3))), "entries: some are of no rule"),
    ],
)  # fmt: skip
def test_broken_tables(change: Callable[[HttpTables], HttpTables], message: str):
    verify_http(TABLES)
    with pytest.raises(VerifyError) as raised:
        verify_http(change(TABLES))
    assert message in str(raised.value)
