"""Protects lowering: ranks, levels, canonical selectors and key intervals."""

from __future__ import annotations

import pytest

from policyc.ir.flat import ClassPeer, SelectorPeer
from policyc.ir.lower import EVERYTHING, canonical_selector, lower, service_intervals
from policyc.ir.pipeline import build
from policyc.ir.tables import KeyKind, SelectedBy, service_key
from policyc.model import (
    Action,
    AddressSet,
    Direction,
    Isolation,
    Op,
    PeerCidrs,
    PeerClass,
    PeerSelector,
    Policy,
    PolicySet,
    Requirement,
    Rule,
    Selector,
    Service,
    Span,
    Tier,
)

SPAN = Span("a.pol", 1, 1, 1, 2)
FULL, PORTLESS, NAMED = KeyKind.FULL, KeyKind.PORTLESS, KeyKind.NAMED


def rule(order, *, tier=Tier.NORMAL, priority=100, action=Action.ALLOW, peer=PeerClass.ANY):
    return Rule(order, f"p.{order}", "p", Direction.INGRESS, tier, priority, action, (peer,), (), False, False, SPAN)


def policy(*rules, subjects=(PeerClass.HOST,), tier=Tier.NORMAL, isolation=None, audit=False):
    return Policy("p", subjects, tier, 100, audit, isolation or {}, rules, SPAN)


def policy_set(*policies):
    return PolicySet(1, (), {}, policies, AddressSet())


def test_rules_are_ranked_by_tier_priority_action_and_source_order():
    module = lower(
        policy_set(
            policy(rule(0), rule(1, action=Action.DENY), rule(2, priority=5), rule(3, action=Action.PASS), rule(4)),
            policy(rule(5, tier=Tier.ADMIN, priority=900), tier=Tier.ADMIN),
        )
    )
    assert [r.ref for r in module.rules] == ["p.5", "p.2", "p.1", "p.0", "p.4", "p.3"]
    assert [r.level for r in module.rules] == [0, 1, 2, 2, 2, 2]


def test_selectors_that_select_the_same_by_another_order_are_one():
    one = Selector((Requirement("b", Op.IN, ("y", "x", "y")), Requirement("a", Op.NOT_IN, ("x",))))
    other = Selector((Requirement("a", Op.NE, ("x",)), Requirement("b", Op.IN, ("x", "y"))))
    assert canonical_selector(one) == canonical_selector(other)
    subjects = (PeerSelector(one, "n"), PeerSelector(other))
    module = lower(policy_set(policy(rule(0), subjects=subjects)))
    assert len(module.selectors) == len(module.groups) == 1


def test_endpoints_is_the_empty_selector_as_subject_and_a_class_as_peer():
    module = lower(policy_set(policy(rule(0, peer=PeerSelector(Selector())), subjects=(PeerClass.ENDPOINTS,))))
    assert module.selectors == (Selector(),)
    assert module.groups[0].subject == 0
    assert module.peers == (ClassPeer(PeerClass.ENDPOINTS),)


def test_all_addresses_are_a_class_of_peers():
    peers = [PeerCidrs(EVERYTHING), PeerCidrs(EVERYTHING, world_only=True), PeerSelector(Selector((_exists("a"),)))]
    module = lower(policy_set(policy(*(rule(i, peer=peer) for i, peer in enumerate(peers)))))
    assert module.peers == (ClassPeer(PeerClass.ANY), ClassPeer(PeerClass.WORLD), SelectorPeer(0))
    assert not module.address_sets


@pytest.mark.parametrize(
    ("service", "intervals"),
    [
        (Service(), [(FULL, 0, 0, 255, 65535), (PORTLESS, 0, 0, 255, 65535)]),
        (Service(47), [(FULL, 47, 0, 47, 65535), (PORTLESS, 47, 0, 47, 65535)]),
        (Service(6, (80, 90)), [(FULL, 6, 80, 6, 90), (NAMED, 6, 0, 6, 65535)]),
        (Service(1, None, 8), [(FULL, 1, 0x0800, 1, 0x08FF), (NAMED, 1, 0, 1, 65535)]),
        (Service(58, None, 1, 4), [(FULL, 58, 0x0104, 58, 0x0104), (NAMED, 58, 0, 58, 65535)]),
    ],
)
def test_service_intervals(service, intervals):
    expected = tuple((service_key(k, p, a), service_key(k, q, b)) for k, p, a, q, b in intervals)
    assert service_intervals([service]) == expected


def test_a_policy_without_rules_selects_and_isolates():
    tables = build(policy_set(policy(isolation={Direction.EGRESS: Isolation(True, SPAN)}), policy(audit=True)))
    (group,) = tables.groups
    assert group.direction is Direction.EGRESS
    assert group.isolation.enforced
    assert group.isolation.log
    assert tables.selected == (SelectedBy(PeerClass.HOST, enforced=True),)


def test_an_audited_policy_isolates_prospectively_only():
    tables = build(policy_set(policy(isolation={Direction.INGRESS: Isolation(True, SPAN)}, audit=True)))
    isolation = tables.groups[0].isolation
    assert (isolation.enforced, isolation.log) == (False, False)
    assert (isolation.prospective, isolation.log_prospective) == (True, True)
    assert tables.selected == (SelectedBy(PeerClass.HOST, enforced=False),)
    assert tables.has_audit


def test_the_empty_compilation_has_only_the_empty_row():
    tables = build(policy_set())
    assert len(tables.rows) == 1
    assert not tables.groups


def _exists(key):
    return Requirement(key, Op.EXISTS)
