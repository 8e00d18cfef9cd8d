"""Protects that rules which can meet on a connection share a component, and that those which surely cannot do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policyc.ir.http_components import components
from policyc.model import (
    Action,
    AddressSet,
    Direction,
    HttpBlock,
    Op,
    Peer,
    PeerCidrs,
    PeerClass,
    PeerSame,
    PeerSelector,
    Policy,
    PolicySet,
    Requirement,
    Rule,
    Selector,
    Service,
    Span,
    Subject,
    Tier,
)

SPAN = Span("c.pol", 1, 1, 1, 2)
BASE = Rule(
    0, "p.ingress.1", "p", Direction.INGRESS, Tier.NORMAL, 100, Action.ALLOW, (PeerClass.ANY,), (Service(6, (80, 80)),), False,
    False, SPAN, HttpBlock((), SPAN),
)  # fmt: skip


def label(op: Op, *values: str, key: str = "app") -> PeerSelector:
    return PeerSelector(Selector((Requirement(key, op, values),)))


def cidr(first: int, last: int, world_only: bool = False) -> PeerCidrs:
    return PeerCidrs(AddressSet(((first, last),)), world_only)


def meet(
    first: Rule, second: Rule, subjects: tuple[Subject, Subject] = (PeerClass.ENDPOINTS, PeerClass.ENDPOINTS)
) -> bool:
    rules = (first, replace(second, order=1))
    policies = tuple(
        Policy(f"p{n}", (subject,), Tier.NORMAL, 100, False, {}, (rule,), SPAN)
        for n, (rule, subject) in enumerate(zip(rules, subjects, strict=True))
    )
    return len(components(PolicySet(1, (), {}, policies, AddressSet()), rules)) == 1


A, B, NOT_A, NO_APP = label(Op.EQ, "a"), label(Op.EQ, "b"), label(Op.NE, "a"), label(Op.NOT_EXISTS)
A_OR_B, NOT_A_OR_B = label(Op.IN, "a", "b"), label(Op.NOT_IN, "a", "b")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (A, A, True),
        (A, B, False),
        (A, NOT_A, False),
        (A, A_OR_B, True),
        (A, NOT_A_OR_B, False),
        (NOT_A, NOT_A_OR_B, True),
        (A_OR_B, NOT_A, True),
        (A, NO_APP, False),
        (NOT_A, NO_APP, True),
        (label(Op.EXISTS), NO_APP, False),
        (label(Op.EXISTS), A, True),
        (A, label(Op.EQ, "b", key="tier"), True),
        (A, PeerClass.ENDPOINTS, True),
        (A, PeerClass.ANY, True),
        (A, PeerClass.WORLD, False),
        (A, PeerClass.HOST, False),
        (PeerClass.HOST, PeerClass.WORLD, False),
        (PeerClass.HOST, PeerClass.HOST, True),
        (A, PeerSame(("app",)), True),
        (A, cidr(1, 9), True),
        (A, cidr(1, 9, world_only=True), False),
        (PeerClass.HOST, cidr(1, 9), True),
        (PeerClass.WORLD, cidr(1, 9, world_only=True), True),
        (cidr(1, 9), cidr(9, 12), True),
        (cidr(1, 9), cidr(10, 12), False),
    ],
)  # fmt: skip
def test_peers_and_subjects(first: Peer, second: Peer, expected: bool):
    assert meet(replace(BASE, peers=(first,)), replace(BASE, peers=(second,))) is expected
    if isinstance(first, PeerSelector | PeerClass) and isinstance(second, PeerSelector | PeerClass):
        assert meet(BASE, BASE, (first, second)) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((Service(6, (80, 80)),), (Service(6, (80, 80)),), True),
        ((Service(6, (80, 80)),), (Service(6, (81, 81)),), False),
        ((Service(6, (80, 90)),), (Service(6, (90, 99)),), True),
        ((Service(6, (80, 90)),), (Service(6, (91, 99)),), False),
        ((Service(6, (1, 1)), Service(6, (80, 90))), (Service(6, (5, 5)), Service(6, (85, 85))), True),
        ((Service(6, (1, 5)), Service(6, (9, 9))), (Service(6, (7, 8)),), False),
        ((Service(6),), (Service(6, (65535, 65535)),), True),
    ],
)
def test_ports(first: tuple[Service, ...], second: tuple[Service, ...], expected: bool):
    assert meet(replace(BASE, services=first), replace(BASE, services=second)) is expected


@pytest.mark.parametrize("other", [{"direction": Direction.EGRESS}, {"tier": Tier.ADMIN}, {"priority": 7}])
def test_other_levels_and_directions_never_meet(other: dict):
    assert not meet(BASE, replace(BASE, **other))


def test_meeting_is_closed():
    """Two that cannot meet share a component with one that meets both."""
    rules = [replace(BASE, order=n, peers=(peer,)) for n, peer in enumerate((A, B, PeerClass.WORLD, A_OR_B))]
    policy = Policy("p", (PeerClass.ENDPOINTS,), Tier.NORMAL, 100, False, {}, tuple(rules), SPAN)
    found = components(PolicySet(1, (), {}, (policy,), AddressSet()), rules)
    assert [[r.order for r in together] for together in found] == [[0, 1, 3], [2]]


def test_a_thousand_services_that_meet_nowhere():
    rules = [replace(BASE, order=n, services=(Service(6, (n + 1, n + 1)),)) for n in range(1000)]
    policy = Policy("p", (PeerClass.ENDPOINTS,), Tier.NORMAL, 100, False, {}, tuple(rules), SPAN)
    assert len(components(PolicySet(1, (), {}, (policy,), AddressSet()), rules)) == 1000
