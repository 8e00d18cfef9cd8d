"""Protects the tables of HTTP rules: a machine that knows only them judges heads as the reference evaluator does."""

from __future__ import annotations

from hypothesis import given, note, settings
from hypothesis import strategies as st

from policyc.ir.http_lower import lower_http
from policyc.ir.http_tables import HttpTables
from policyc.ir.lower import rank_rules
from policyc.ir.verify_http import verify_http
from policyc.model import PolicySet, Rule
from policyc.reference.http import HttpStream
from tests.ir.http_machine import HeadMachine, Judged
from tests.ir.http_random import heads, rule_sets


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


@settings(max_examples=300, deadline=None)
@given(rule_sets(), st.lists(heads(), min_size=1, max_size=12))
def test_tables_judge_heads_as_the_reference_does(policy_set: PolicySet, tried: list[bytes]):
    tables = lowered(policy_set)
    judge = machine(policy_set, tables)
    for head in tried:
        note(repr(head))
        assert judge.judge(head) == reference(policy_set.rules, head)
