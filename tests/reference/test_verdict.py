"""Semantics 2 and 3: services, levels, tiers, defaults, audit, log, fragments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyc.model import Policy, Rule, Service, Tier
from policyc.reference.verdict import Traffic, service_matches
from tests.reference.builders import (
    ANY,
    DB,
    ENDPOINTS,
    IN,
    OUT,
    OUTSIDE,
    WEB,
    WORLD_PEER,
    ask,
    cidr,
    icmp,
    peer,
    policies,
    policy,
    rule,
    same,
    says,
    tcp,
    udp,
    world,
)  # fmt: skip

PING = Traffic(1, icmp_type=8, icmp_code=0)
FRAGMENT = Traffic(6, fragment=True)


# --- services -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "traffic", "matches"),
    [
        (Service(), Traffic(112), True),
        (Service(), FRAGMENT, True),
        (tcp(), Traffic(6, 0), True),
        (tcp(80), Traffic(6, 80), True),
        (tcp(80), Traffic(17, 80), False),
        (tcp(80, 90), Traffic(6, 90), True),
        (tcp(80, 90), Traffic(6, 91), False),
        (tcp(80), FRAGMENT, False),
        (tcp(1, 65535), FRAGMENT, False),
        (tcp(), FRAGMENT, True),
        (icmp(8), PING, True),
        (icmp(8, 0), PING, True),
        (icmp(8, 1), PING, False),
        (icmp(0), PING, False),
        (icmp(8, protocol=58), PING, False),
        (icmp(), PING, True),
        (Service(112), Traffic(112), True),
    ],
)
def test_services(service: Service, traffic: Traffic, matches: bool) -> None:
    assert service_matches(service, traffic) is matches


def test_protocols_match_by_number_whatever_the_ip_version() -> None:
    w = world(policy(rule("allow", ANY, icmp(8))))
    assert ask(w, "2001:db8::99", traffic=PING).verdict == "allow"


# --- levels and tiers ---------------------------------------------------------------------------------------------


def test_deny_beats_allow_beats_pass_in_a_level_whatever_the_order() -> None:
    for order in (("allow", "deny", "pass"), ("pass", "deny", "allow"), ("deny", "allow", "pass")):
        assert ask(world(policy(*map(rule, order))), OUTSIDE).verdict == "deny"
    assert says(ask(world(policy(rule("pass"), rule("allow"))), OUTSIDE)) == ("allow", "rule", "p.ingress.2")


def test_the_lower_priority_number_decides_also_between_policies() -> None:
    late = policy(rule("deny"), name="late", priority=200)
    early = policy(rule("allow"), name="early", priority=50)
    assert says(ask(world(late, early), OUTSIDE)) == ("allow", "rule", "early.ingress.1")


def test_a_rules_priority_overrides_its_policys() -> None:
    w = world(policy(rule("deny"), rule("allow", priority=0), priority=100))
    judgement = ask(w, OUTSIDE)
    assert says(judgement) == ("allow", "rule", "p.ingress.2")
    assert (judgement.tier, judgement.priority) == (Tier.NORMAL, 0)


def test_tiers_are_asked_in_order() -> None:
    baseline = policy(rule("deny"), name="b", tier=Tier.BASELINE, priority=0)
    normal = policy(rule("allow", ANY, tcp(80)), name="n", isolate=())
    admin = policy(rule("deny", ANY, tcp(443)), name="a", tier=Tier.ADMIN, priority=1000)
    w = world(baseline, normal, admin)
    assert says(ask(w, OUTSIDE, traffic=443)) == ("deny", "rule", "a.ingress.1")
    assert says(ask(w, OUTSIDE, traffic=80)) == ("allow", "rule", "n.ingress.1")
    assert says(ask(w, OUTSIDE, traffic=22)) == ("deny", "rule", "b.ingress.1")


def test_pass_goes_to_the_next_tier_past_the_later_levels_and_the_default() -> None:
    admin = policy(rule("pass", priority=1), rule("deny", priority=2), name="a", tier=Tier.ADMIN, isolate=(IN,))
    assert says(ask(world(admin), OUTSIDE)) == ("allow", "default", None)
    normal = policy(rule("pass", WORLD_PEER), name="n")
    baseline = policy(rule("deny"), name="b", tier=Tier.BASELINE)
    assert says(ask(world(normal, baseline), OUTSIDE)) == ("deny", "rule", "b.ingress.1")


def test_where_a_normal_policy_isolates_baseline_is_not_asked() -> None:
    normal = policy(rule("allow", ANY, tcp(80)))
    baseline = policy(rule("allow"), name="b", tier=Tier.BASELINE)
    judgement = ask(world(normal, baseline), OUTSIDE, traffic=81)
    assert says(judgement) == ("deny", "default", None)
    assert (judgement.tier, judgement.priority, judgement.isolated_by) == (Tier.NORMAL, None, ("p",))


def test_between_policies_deny_wins_and_all_that_isolated_are_named() -> None:
    open_, closed, other = (policy(name=n, isolate=i) for n, i in (("o", ()), ("c", (IN,)), ("d", (IN, OUT))))
    assert ask(world(open_, closed, other), OUTSIDE).isolated_by == ("c", "d")


def test_isolation_is_of_a_direction() -> None:
    w = world(policy(rule("allow", ANY, tcp(80))))
    assert says(ask(w, OUTSIDE, direction=OUT)) == ("allow", "default", None)
    assert says(ask(w, OUTSIDE, traffic=81)) == ("deny", "default", None)


def test_nothing_decided() -> None:
    w = world(policy(rule("deny", ANY, tcp(1)), on=peer(app="web"), isolate=()))
    assert says(ask(w, OUTSIDE)) == ("allow", "default", None)
    assert says(ask(w, OUTSIDE, "db")) == ("allow", "no-policy", None)


def test_the_first_rule_in_source_order_of_the_winning_action_counts() -> None:
    w = world(
        policy(rule("allow", ANY), rule("deny", ANY, udp()), rule("deny", WORLD_PEER), name="one"),
        policy(rule("deny", ANY, name="named"), name="two"),
    )
    assert says(ask(w, OUTSIDE)) == ("deny", "rule", "one.ingress.3")
    assert says(ask(w, "db")) == ("deny", "rule", "two.named")


def test_a_rule_of_several_peers_and_services_matches_any_pair() -> None:
    w = world(policy(rule("allow", [cidr("203.0.113.0/24"), peer(app="db")], tcp(80), udp(53))))
    assert ask(w, OUTSIDE, traffic=Traffic(17, 53)).verdict == "allow"
    assert ask(w, "db").verdict == "allow"
    assert ask(w, "job").verdict == "deny"


# --- log ----------------------------------------------------------------------------------------------------------


def test_log_if_any_matching_rule_of_level_and_action_says_so() -> None:
    rules = [rule("allow"), rule("allow", log=True), rule("deny", ANY, tcp(1))]
    assert ask(world(policy(*rules)), OUTSIDE).log
    assert not ask(world(policy(*rules)), OUTSIDE, traffic=1).log
    apart = [rule("allow", priority=1), rule("allow", log=True, priority=2)]
    assert not ask(world(policy(*apart)), OUTSIDE).log


def test_log_after_a_default() -> None:
    assert ask(world(policy(isolate=(IN,), log=True)), OUTSIDE).log
    assert not ask(world(policy(isolate=(IN,))), OUTSIDE).log


# --- fragments ----------------------------------------------------------------------------------------------------


def test_a_later_fragment_is_denied_where_a_named_port_could_match_at_the_deciding_level_or_before() -> None:
    named, bare = rule("deny", ANY, tcp(22), priority=1), rule("allow", ANY, tcp(), priority=2)
    assert says(ask(world(policy(named, bare)), OUTSIDE, traffic=FRAGMENT)) == ("deny", "fragment", None)
    after = [rule("deny", ANY, tcp(22), priority=3), rule("allow", ANY, tcp(), priority=2)]
    assert says(ask(world(policy(*after)), OUTSIDE, traffic=FRAGMENT)) == ("allow", "rule", "p.ingress.2")


def test_other_protocols_and_peers_do_not_matter_to_a_fragment() -> None:
    w = world(policy(rule("deny", ANY, udp(53)), rule("deny", peer(), tcp(22)), rule("allow", ANY, tcp())))
    assert says(ask(w, OUTSIDE, traffic=FRAGMENT)) == ("allow", "rule", "p.ingress.3")
    assert says(ask(w, "db", traffic=FRAGMENT)) == ("deny", "fragment", None)


def test_a_fragment_after_a_pass_and_without_any_named_port() -> None:
    admin = policy(rule("pass"), rule("allow", ANY, tcp(1), priority=900), name="a", tier=Tier.ADMIN)
    assert says(ask(world(admin), OUTSIDE, traffic=FRAGMENT)) == ("allow", "default", None)
    named = policy(rule("pass", ANY, tcp(1)), name="a", tier=Tier.ADMIN)
    assert says(ask(world(named), OUTSIDE, traffic=FRAGMENT)) == ("deny", "fragment", None)
    assert says(ask(world(), OUTSIDE, traffic=FRAGMENT)) == ("allow", "no-policy", None)


def test_an_icmp_fragment_looks_for_named_types() -> None:
    w = world(policy(rule("allow", ANY, icmp(8)), isolate=()))
    assert ask(w, OUTSIDE, traffic=Traffic(1, fragment=True)).reason == "fragment"
    assert ask(w, OUTSIDE, traffic=Traffic(58, fragment=True)).reason == "default"


# --- audit --------------------------------------------------------------------------------------------------------


def test_an_audited_rule_does_not_match_but_its_sections_default_stands() -> None:
    judgement = ask(world(policy(rule("allow", audit=True))), OUTSIDE)
    assert says(judgement) == ("deny", "default", None)
    assert judgement.prospective is not None
    assert says(judgement.prospective) == ("allow", "rule", "p.ingress.1")


def test_an_audited_policy_selects_and_isolates_nobody() -> None:
    judgement = ask(world(policy(isolate=(IN,), audit=True)), OUTSIDE)
    assert says(judgement) == ("allow", "no-policy", None)
    assert judgement.prospective is not None
    assert judgement.prospective.isolated_by == ("p",)


def test_no_prospective_verdict_where_it_is_the_same() -> None:
    w = world(policy(rule("allow")), policy(rule("allow", priority=1), name="q", audit=True))
    assert ask(w, OUTSIDE).prospective is None


# --- invariants ---------------------------------------------------------------------------------------------------

PEERS = st.sampled_from(
    [ANY, WORLD_PEER, ENDPOINTS, peer(app="db"), same("ns"), cidr("10.0.0.0/29"), cidr("0.0.0.0/0", world=True)]
)
SERVICES = st.sampled_from([Service(), tcp(), tcp(80), tcp(50, 100), udp(), udp(53), icmp(8)])


@st.composite
def rules(draw: st.DrawFn, audit: bool | None = None) -> Rule:
    return rule(
        draw(st.sampled_from(["allow", "deny", "pass"])), draw(PEERS), *draw(st.lists(SERVICES, max_size=2)),
        direction=draw(st.sampled_from([IN, OUT])), priority=draw(st.sampled_from([None, 1, 100, 101])),
        audit=draw(st.booleans()) if audit is None else audit,
    )  # fmt: skip


@st.composite
def some_policies(draw: st.DrawFn) -> list[Policy]:
    return [
        policy(
            *draw(st.lists(rules(), max_size=4)), name=f"p{i}", tier=draw(st.sampled_from(list(Tier))),
            on=draw(st.sampled_from([ENDPOINTS, peer(app="web"), peer(ns="shop")])), audit=draw(st.booleans()),
            isolate=tuple(draw(st.sets(st.sampled_from([IN, OUT])))),
        )
        for i in range(draw(st.integers(0, 4)))
    ]  # fmt: skip


SOURCES = st.sampled_from([OUTSIDE, "db", "job", "bare", "192.168.0.1"])
TRAFFIC = st.sampled_from([Traffic(6, 80), Traffic(6, 81), Traffic(17, 53), PING, FRAGMENT, Traffic(112)])
WAYS = st.sampled_from([IN, OUT])


def without_audited(items: list[Policy]) -> list[Policy]:
    from dataclasses import replace

    return [replace(p, rules=tuple(r for r in p.rules if not r.audit)) for p in items if not p.audit]


def not_audited(items: list[Policy]) -> list[Policy]:
    from dataclasses import replace

    return [replace(p, audit=False, rules=tuple(replace(r, audit=False) for r in p.rules)) for p in items]


@given(some_policies(), SOURCES, TRAFFIC, WAYS)
def test_audit_never_changes_what_the_rest_does(
    items: list[Policy], source: str, traffic: Traffic, way: object
) -> None:
    full, rest = world(*items), world(*without_audited(items))
    enforced, alone = (ask(w, source, traffic=traffic, direction=way) for w in (full, rest))  # type: ignore[arg-type]
    assert says(enforced) == says(alone)


@given(some_policies(), SOURCES, TRAFFIC, WAYS)
def test_prospective_is_the_verdict_without_the_word(
    items: list[Policy], source: str, traffic: Traffic, way: object
) -> None:
    audited, forced = world(*items), world(*not_audited(items))
    judgement = ask(audited, source, traffic=traffic, direction=way)  # type: ignore[arg-type]
    expected = ask(forced, source, traffic=traffic, direction=way)  # type: ignore[arg-type]
    assert (judgement.prospective or judgement).verdict == expected.verdict


@given(some_policies(), st.randoms(use_true_random=False), SOURCES, TRAFFIC, WAYS)
def test_the_order_of_policies_changes_no_verdict(
    items: list[Policy], random: object, source: str, traffic: Traffic, way: object
) -> None:
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = (ask(world(*i), source, traffic=traffic, direction=way) for i in (items, shuffled))  # type: ignore[arg-type]
    assert (first.verdict, first.reason, first.tier, first.priority) == (
        second.verdict, second.reason, second.tier, second.priority,
    )  # fmt: skip


@given(some_policies(), SOURCES, TRAFFIC, WAYS)
def test_a_first_level_deny_of_all_denies(items: list[Policy], source: str, traffic: Traffic, way: object) -> None:
    guard = policy(rule("deny", direction=IN), rule("deny", direction=OUT), name="g", tier=Tier.ADMIN, priority=0)
    w = world(*items, guard)
    assert ask(w, source, traffic=traffic, direction=way).verdict == "deny"  # type: ignore[arg-type]


def test_a_thousand_rules_are_grouped_once() -> None:
    """The book of a subject is made once, not for each flow."""
    w = world(*(policy(rule("allow", ANY, tcp(n + 1)), name=f"p{n}", on=peer(app=f"a{n}")) for n in range(1000)))
    assert w.book(WEB, IN, audited=False) is w.book(WEB, IN, audited=False)
    assert w.book(DB, IN, audited=False).selected is False
    assert len(policies().rules) == 0
