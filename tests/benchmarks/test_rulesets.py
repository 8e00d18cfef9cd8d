"""Protects what benchmarks stand on: rule sets are the same each time, compile, and their packets meet what the cases say."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from benchmarks import rulesets
from benchmarks.loads import sources
from benchmarks.rulesets import RuleSet, dotted
from policyc.driver import check_files
from policyc.engine import ReferenceEngine
from policyc.flows import parse_flow

MAKERS: dict[str, Callable[[], RuleSet]] = {
    "services": lambda: rulesets.services(50, 200),
    "pairs": lambda: rulesets.pairs(50),
    "access list": lambda: rulesets.access_list(100),
    "firewall": lambda: rulesets.firewall(100),
    "IP chains": lambda: rulesets.ip_chains(150),
    "mixed": lambda: rulesets.mixed(100, 300, 500),
}
ALL_ALLOWED = ("services", "pairs", "mixed")
PACKETS = 100


@pytest.fixture(params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def answers(rules: RuleSet, packets: list[rulesets.Packet]) -> list[tuple[str, str]]:
    """Verdict and reason at the server."""
    with sources(rules) as path:
        engine = ReferenceEngine(check_files([str(path)]).policy, rules.endpoints)
    server = dotted(rulesets.SERVER)
    found = []
    for address, port in packets:
        text = f'{{"src": "{dotted(address)}", "dst": "{server}", "proto": "udp", "dport": {port}}}'
        outcome = engine.judge(parse_flow(text, engine.world))[-1].outcome
        found.append((outcome.verdict, outcome.reason))
    return found


def test_the_same_each_time(name: str) -> None:
    a, b = MAKERS[name](), MAKERS[name]()
    assert (a.text, a.files, a.endpoints) == (b.text, b.files, b.endpoints)
    assert a.packets is not None
    assert b.packets is not None
    assert [a.packets(random.Random(n)) for n in range(20)] == [b.packets(random.Random(n)) for n in range(20)]


def test_packets_meet_rules(name: str) -> None:
    rules = MAKERS[name]()
    assert rules.packets is not None
    rng = random.Random(1)
    found = answers(rules, [rules.packets(rng) for _ in range(PACKETS)])
    assert {reason for _, reason in found} == {"rule"}
    if name in ALL_ALLOWED:
        assert {verdict for verdict, _ in found} == {"allow"}


def test_half_of_the_packets_are_listed() -> None:
    rules = rulesets.pairs(50, "deny")
    found = answers(rules, rulesets.half_listed(random.Random(1), rulesets.pair_list(50), PACKETS))
    assert found.count(("deny", "rule")) == found.count(("deny", "default")) == PACKETS // 2


def test_a_feed_has_many_long_prefixes_and_few_short_ones() -> None:
    lengths = [length for _, length in rulesets.feed(2000)]
    assert lengths.count(32) > 1000
    assert 200 < lengths.count(24) < 800
    assert 0 < sum(length < 20 for length in lengths) < 100
