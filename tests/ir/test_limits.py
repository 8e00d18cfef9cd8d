"""Protects the compiler's memory and time: near-linear where sets are disjoint, a refusal where tables would explode."""

from __future__ import annotations

import pytest

from policyc.diagnostics import OperationError
from policyc.ir.passes import limits, partition_cidrs
from policyc.ir.passes.limits import CellBudget
from policyc.ir.passes.partition_cidrs import partition
from policyc.ir.pipeline import build
from policyc.model import (
    Action,
    AddressSet,
    Direction,
    PeerCidrs,
    PeerClass,
    Policy,
    PolicySet,
    Rule,
    Service,
    Span,
    Tier,
)

SPAN = Span("a.pol", 1, 1, 1, 2)


def policy_set(ranges_and_ports):
    rules = tuple(
        Rule(
            order=i,
            ref=f"p.{i}",
            policy="p",
            direction=Direction.INGRESS,
            tier=Tier.NORMAL,
            priority=100,
            action=Action.ALLOW,
            peers=(PeerCidrs(AddressSet(v4=(addresses,))),),
            services=(Service(6, (port, port)),),
            log=False,
            audit=False,
            span=SPAN,
        )
        for i, (addresses, port) in enumerate(ranges_and_ports)
    )
    policy = Policy("p", (PeerClass.HOST,), Tier.NORMAL, 100, False, {}, rules, SPAN)
    return PolicySet(1, (), {}, (policy,), AddressSet())


def test_disjoint_prefixes_cost_a_few_cells_each():
    count = 3000
    tables = build(policy_set([((i << 8, i << 8 | 255), 443) for i in range(count)]))
    assert tables.cidr_tables[0].classes == count + 1
    assert sum(len(row.cells) for row in tables.rows) <= 5 * count + 1


def test_memberships_that_come_back_are_built_once():
    everywhere = AddressSet(v4=((0, 2**31),))
    many = AddressSet(v4=tuple((4 * i, 4 * i + 1) for i in range(10_000)))
    budget = CellBudget("classes")
    made = partition((0, 1), [everywhere, many], budget)
    assert made.members == ((), (0, 1), (0,))
    assert budget.taken < 10


def test_nested_sets_with_many_ports_are_cut_into_layers(monkeypatch):
    outer = [((0, 2**24 - 1), port) for port in range(1, 301, 2)]
    inner = [((i << 8, i << 8 | 255), 1000 + i) for i in range(200)]
    whole = build(policy_set(outer + inner))
    monkeypatch.setattr(partition_cidrs, "LAYER_CELLS", 1000)
    layered = build(policy_set(outer + inner))
    assert [len(group.cidrs) for group in whole.groups + layered.groups] == [1, 2]
    cells = [sum(len(row.cells) for row in tables.rows) for tables in (whole, layered)]
    assert cells[0] > 20 * cells[1]


def test_a_nested_policy_beyond_the_limit_is_refused_with_advice(monkeypatch):
    monkeypatch.setattr(limits, "CELL_LIMIT", 10_000)
    monkeypatch.setattr(partition_cidrs, "MOST_LAYERS", 1)
    outer = [((0, 2**24 - 1), port) for port in range(1, 300, 2)]
    inner = [((i << 8, i << 8 | 255), 1000 + i) for i in range(200)]
    with pytest.raises(OperationError) as caught:
        build(policy_set(outer + inner))
    assert caught.value.message == "the policy's rules need more than 10,000 table cells"
    assert caught.value.help is not None
    assert caught.value.exit_code == 2
