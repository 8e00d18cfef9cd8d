"""Protects the tables of HTTP rules: a machine that knows only them judges heads as the reference evaluator does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from policyc.artifact.stream_layout import Saw
from policyc.diagnostics import OperationError
from policyc.ir import http_automata
from policyc.ir.automata.limits import Limits
from policyc.ir.http_lower import lower_http
from policyc.ir.http_tables import HttpTables
from policyc.ir.lower import rank_rules
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
    Tier,
)
from policyc.reference.http import HttpStream
from tests.ir.http_machine import HeadMachine, Judged
from tests.ir.http_random import HOST_REGEXES, SPAN, VALUE_REGEXES, VALUES, few, heads, hosts, patterns, rule_sets
from tests.reference.http_corpus import CASES, Case
from tests.reference.test_http_corpus import rules


def lowered(policy_set: PolicySet) -> HttpTables:
    tables = lower_http(policy_set, {rule.order: rank for rank, rule in enumerate(rank_rules(policy_set))})
    assert tables is not None
    verify_http(tables)
    return tables


def machine(policy_set: PolicySet, tables: HttpTables) -> HeadMachine:
    ranked = list(enumerate(rank_rules(policy_set)))
    return HeadMachine(tables, [n for n, r in ranked if r.http], [n for n, r in ranked if not r.http])


def reference(rules: list[Rule], head: bytes) -> Judged:
    """What the reference evaluator says of the stream's first request."""
    first, *_ = HttpStream(rules, audited=True).feed(head)
    decided = first.reason in ("l7-entry", "rule")
    return Judged(
        first.verdict,
        first.reason,
        first.rule.order if decided else None,
        first.entry.number if first.entry else None,
    )


@settings(max_examples=150, deadline=None)
@given(rule_sets(), st.lists(heads(), min_size=1, max_size=12))
def test_tables_judge_heads_as_the_reference_does(policy_set: PolicySet, tried: list[bytes]):
    tables = lowered(policy_set)
    judge = machine(policy_set, tables)
    for head in tried:
        note(repr(head))
        assert judge.judge(head) == reference(policy_set.rules, head)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_first_heads_of_the_corpus(case: Case):
    """As far as a head decides: limits, bodies and what is no HTTP are not the tables' affair."""
    policy_set = PolicySet(1, (), {}, (replace(_policy(), rules=rules(case.policy)),), AddressSet())
    if not any(rule.http for rule in policy_set.rules):
        return
    head = case.stream.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    expected = HttpStream(policy_set.rules, audited=True).feed(head)
    if expected and expected[0].saw is not Saw.HEAD_LIMIT:
        assert machine(policy_set, lowered(policy_set)).judge(head) == reference(policy_set.rules, head)


HOST_PARTS = ("a", "b", "A", "x-1", ".", "..", ":", ":8", "[", "]", "::1", " ", "\t", "_", "%", "a.b", "*")
VALUE_PARTS = ("a", "b", " ", "\t", ",", "12", "\r", "\n", "\x00", "\x01", "\xff", "A")


@settings(max_examples=100, deadline=None)
@given(
    few(patterns(hosts, HOST_REGEXES, True), 4).filter(bool),
    st.lists(st.lists(st.sampled_from(HOST_PARTS), max_size=6).map("".join), min_size=1, max_size=30),
)
def test_hosts(asked: tuple[Pattern, ...], values: list[str]):
    policy_set = _one_block(*(_entry(n, hosts=(p,)) for n, p in enumerate(asked, 1)), _entry(9, paths=(_string("/"),)))
    judge = machine(policy_set, lowered(policy_set))
    for value in values:
        head = f"GET / HTTP/1.1\r\nHost:{value}\r\n\r\n".encode("latin-1")
        assert judge.judge(head) == reference(policy_set.rules, head), value


@settings(max_examples=100, deadline=None)
@given(
    st.lists(patterns(st.sampled_from(VALUES), VALUE_REGEXES, False), min_size=1, max_size=3),
    st.booleans(),
    st.lists(st.lists(st.sampled_from(VALUE_PARTS), max_size=6).map("".join), min_size=1, max_size=30),
)
def test_values_are_trimmed_and_nothing_else(asked: list[Pattern], deny: bool, values: list[str]):
    action = Action.DENY if deny else Action.ALLOW
    entries = [
        _entry(n, action=action, conditions=(HttpCondition("header", "n", (p,)),)) for n, p in enumerate(asked, 1)
    ]
    policy_set = _one_block(*entries, _entry(9))
    judge = machine(policy_set, lowered(policy_set))
    for value in values:
        head = f"GET / HTTP/1.1\r\nHost: a\r\nN:{value}\r\n\r\n".encode("latin-1")
        assert judge.judge(head) == reference(policy_set.rules, head), value


def test_names_that_differ_only_in_an_underscore():
    """A name that is asked for itself still counts as one of those that must be absent."""
    own = HttpCondition("header", "x_a", (_string("1"),))
    absent = HttpCondition("header", "x-a", (), True)
    policy_set = _one_block(_entry(1, conditions=(own,)), _entry(2, conditions=(absent,)))
    tables = lowered(policy_set)
    judge = machine(policy_set, tables)
    for lines in ("", "x_a: 1\r\n", "x_a: 2\r\n", "X-A: 1\r\n", "x-b: 1\r\n"):
        head = f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode()
        assert judge.judge(head) == reference(policy_set.rules, head), lines
    assert [h for h in tables.headers if h.startswith("x")] == ["x_a", "x-a"]


def test_equal_automata_are_one():
    entries = [_entry(n, conditions=(HttpCondition("header", f"n{n}", (_string("v"),)),)) for n in range(1, 9)]
    tables = lowered(_one_block(*entries))
    automata = {named.automaton for named in tables.components[0].headers if named is not None}
    assert len(automata) == 1


def test_no_block_no_tables():
    policy_set = _one_block()
    plain = replace(policy_set.policies[0], rules=(replace(policy_set.rules[0], http=None),))
    assert lower_http(replace(policy_set, policies=(plain,)), {0: 0}) is None


def test_an_empty_block_denies_every_request():
    policy_set = _one_block()
    assert machine(policy_set, lowered(policy_set)).judge(HEAD) == Judged("deny", "l7-no-entry")


def test_more_entries_than_a_word_holds():
    policy_set = _one_block(*(_entry(n, paths=(_string(f"/{n}"),)) for n in range(1, 200)))
    tables = lowered(policy_set)
    assert tables.components[0].words == 4
    judge = machine(policy_set, tables)
    for n in (1, 64, 65, 128, 199):
        assert judge.judge(f"GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n".encode()).number == n


def test_too_many_conditions():
    entries = [_entry(n, conditions=(HttpCondition("header", f"n{n}"),)) for n in range(1, 66)]
    with pytest.raises(
        OperationError, match=r"^h\.pol:65:1: with this entry .* more than 64 different conditions"
    ) as raised:
        lowered(_one_block(*entries))
    assert raised.value.help


def test_conditions_that_are_equal_count_once():
    same = (HttpCondition("header", "n", (_string("a"), _string("b"))),)
    turned = (HttpCondition("header", "n", (_string("b"), _string("a"))),)
    tables = lowered(_one_block(*(_entry(n, conditions=same if n % 2 else turned) for n in range(1, 100))))
    assert {e.conditions for e in tables.components[0].entries} == {1}


def test_the_pattern_that_makes_the_automaton_too_large_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_automata, "LIMITS", Limits(states=4000))
    harmless = [_entry(n, paths=(_glob(f"/a/{n}/*/b"),)) for n in range(1, 100)]
    blowing = [_entry(n, paths=(_glob(f"/**/a{n}/**/b{n}"),)) for n in range(100, 130)]
    with pytest.raises(
        OperationError, match=r'^h\.pol:1\d\d:1: with the path pattern "/\*\*/a1\d\d/\*\*/b1\d\d"'
    ) as raised:
        lowered(_one_block(*harmless, *blowing))
    assert raised.value.help


def test_tables_do_not_depend_on_the_seed_of_hashing():
    """Sets of strings are iterated in another order in each process."""
    script = (
        "import tests.ir.test_http_lower as t\n"
        "names = [t.HttpCondition('header', f'x-{n}', (), True) for n in range(9)]\n"
        "entries = [t._entry(n + 1, conditions=(c,), hosts=(t._glob(f'*.h{n}'),)) for n, c in enumerate(names)]\n"
        "print(t.lowered(t._one_block(*entries)))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


# --- short words ------------------------------------------------------------------------------------------------

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def _entry(number: int, **given: Any) -> HttpEntry:
    """Each on a line of its own, by its number."""
    parts: dict[str, Any] = {
        "action": Action.ALLOW, "methods": (), "paths": (), "hosts": (), "conditions": (), "upgrade": None, "body": False,
    }  # fmt: skip
    span = replace(SPAN, line=number, end_line=number)
    parts |= given
    parts["paths"] = tuple(replace(p, span=span) for p in parts["paths"])
    return HttpEntry(number=number, span=span, **parts)


def _string(text: str) -> Pattern:
    return Pattern("string", text, SPAN)


def _glob(text: str) -> Pattern:
    return Pattern("glob", text, SPAN)


def _policy() -> Policy:
    return Policy("p", (PeerClass.ENDPOINTS,), Tier.NORMAL, 100, False, {}, (), SPAN)


def _one_block(*entries: HttpEntry) -> PolicySet:
    numbered = tuple(replace(e, number=n) for n, e in enumerate(entries, 1))
    rule = Rule(
        0, "p.ingress.1", "p", Direction.INGRESS, Tier.NORMAL, 100, Action.ALLOW, (PeerClass.ANY,), (Service(6, (80, 80)),),
        False, False, SPAN, HttpBlock(numbered, SPAN),
    )  # fmt: skip
    return PolicySet(1, (), {}, (replace(_policy(), rules=(rule,)),), AddressSet())
