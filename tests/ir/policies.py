"""Random policies over a small world, so that rules collide: few labels, addresses, ports and priorities."""

from __future__ import annotations

from itertools import count

from hypothesis import strategies as st

from policyc.model import (
    Action,
    AddressSet,
    Direction,
    Isolation,
    Op,
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
    Tier,
)

KEYS, VALUES = ("a", "b"), ("x", "y")
TOP4, TOP6 = 2**32 - 1, 2**128 - 1
ADDRESSES4 = [*range(12), TOP4 - 1, TOP4]
ADDRESSES6 = [*range(6), 2**64, TOP6 - 1, TOP6]
PORTS = [1, 2, 3, 4, 65535]
SPAN = Span("a.pol", 1, 1, 1, 2)


@st.composite
def requirements(draw):
    op = draw(st.sampled_from(Op))
    key = draw(st.sampled_from(KEYS))
    if op in (Op.EXISTS, Op.NOT_EXISTS):
        return Requirement(key, op)
    if op in (Op.EQ, Op.NE):
        return Requirement(key, op, (draw(st.sampled_from(VALUES)),))
    return Requirement(key, op, tuple(draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=2))))


selectors = st.lists(requirements(), max_size=2).map(lambda r: Selector(tuple(r)))


def merged(ranges):
    """Canonical address ranges."""
    out = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return tuple(out)


def ranges(addresses):
    pair = st.tuples(st.sampled_from(addresses), st.sampled_from(addresses)).map(lambda p: (min(p), max(p)))
    whole = st.just(((0, max(addresses)),))
    return st.one_of(st.lists(pair, max_size=3).map(merged), whole)


address_sets = st.builds(AddressSet, ranges(ADDRESSES4), ranges(ADDRESSES6))
cidr_peers = st.builds(PeerCidrs, address_sets, st.booleans(), st.sampled_from(["n", None]))
peers = st.one_of(
    st.sampled_from(PeerClass),
    st.builds(PeerSelector, selectors),
    st.lists(st.sampled_from(KEYS), min_size=1, max_size=2).map(lambda k: PeerSame(tuple(k))),
    cidr_peers,
    cidr_peers,
)
subjects = st.one_of(
    st.sampled_from([PeerClass.HOST, PeerClass.ENDPOINTS]),
    st.builds(PeerSelector, selectors),
)
port_ranges = st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)).map(lambda p: (min(p), max(p)))
services = st.one_of(
    st.builds(Service, st.sampled_from([None, 6, 17, 1, 112])),
    st.builds(Service, st.sampled_from([6, 17]), port_ranges),
    st.builds(Service, st.just(6), port_ranges),
    st.builds(Service, st.just(1), st.none(), st.sampled_from([0, 8, 255]), st.sampled_from([None, 0, 1])),
)


@st.composite
def policy_sets(draw):
    """A policy set of up to four policies with up to five rules each."""
    order = count()
    policies = []
    for number in range(draw(st.integers(0, 4))):
        name, tier = f"p{number}", draw(st.sampled_from(Tier))
        audit = draw(st.integers(0, 4)) == 0
        rules = tuple(
            Rule(
                order=(place := next(order)),
                ref=f"{name}.{place}",
                policy=name,
                direction=draw(st.sampled_from([Direction.INGRESS, Direction.INGRESS, Direction.EGRESS])),
                tier=tier,
                priority=draw(st.sampled_from([10, 100, 100])),
                action=draw(st.sampled_from(Action)),
                peers=tuple(draw(st.lists(peers, min_size=1, max_size=2))),
                services=tuple(draw(st.lists(services, max_size=3))),
                log=draw(st.booleans()),
                audit=audit or draw(st.integers(0, 4)) == 0,
                span=Span("a.pol", place + 1, 1, place + 1, 9),
            )
            for _ in range(draw(st.integers(0, 5)))
        )
        isolation = {d: Isolation(draw(st.booleans()), SPAN) for d in Direction if draw(st.booleans())}
        chosen = tuple(draw(st.lists(subjects, min_size=1, max_size=2)))
        policies.append(Policy(name, chosen, tier, 100, audit, isolation, rules, SPAN))
    return PolicySet(1, (), {}, tuple(policies), AddressSet())


near_ports = st.tuples(st.sampled_from(PORTS[:4]), st.sampled_from(PORTS[:4])).map(lambda p: (min(p), max(p)))
near_services = st.one_of(st.builds(Service, st.just(6), near_ports), st.sampled_from([Service(), Service(6)]))
near_peers = st.sampled_from(
    [
        PeerClass.ANY,
        PeerClass.WORLD,
        PeerCidrs(AddressSet(v4=((0, 5),))),
        PeerCidrs(AddressSet(v4=((0, 5),)), world_only=True),
        PeerCidrs(AddressSet(v4=((3, 9),))),
    ]
)


@st.composite
def dense_policy_sets(draw):
    """One group whose rules all meet: what one hides of another, and which of them logs."""
    rules = tuple(
        Rule(
            order=place,
            ref=f"p.{place}",
            policy="p",
            direction=Direction.INGRESS,
            tier=Tier.NORMAL,
            priority=draw(st.sampled_from([10, 100])),
            action=draw(st.sampled_from(Action)),
            peers=(draw(near_peers),),
            services=tuple(draw(st.lists(near_services, min_size=1, max_size=2))),
            log=draw(st.booleans()),
            audit=draw(st.integers(0, 3)) == 0,
            span=Span("a.pol", place + 1, 1, place + 1, 9),
        )
        for place in range(draw(st.integers(2, 8)))
    )
    policy = Policy("p", (PeerClass.HOST,), Tier.NORMAL, 100, False, {}, rules, SPAN)
    return PolicySet(1, (), {}, (policy,), AddressSet())
