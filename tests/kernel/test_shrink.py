"""What a fuzzer does with a wrong compiler: it sees the difference, makes the case small, writes it down and reads it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fuzz import played, smallest
from packets_differential import Place, compile_text
from scenario import Case, checked, draw, ground, read, write
from shrink import size
from structures import compiled

from policyc.artifact.reader import Artifact


def off_by_one(text: str, structure: str) -> Artifact:
    """A compiler that forgets the last port of each range."""
    policy = checked(text)
    policies = []
    for one in policy.policies:
        rules = []
        for rule in one.rules:
            services = [
                replace(s, ports=(s.ports[0], max(s.ports[1] - 1, s.ports[0]))) if s.ports else s for s in rule.services
            ]
            rules.append(replace(rule, services=tuple(services)))
        policies.append(replace(one, rules=tuple(rules)))
    wrong = replace(policy, policies=tuple(policies))
    return compiled(wrong, structure)


@pytest.fixture(scope="module")
def wrongly_judged(place: Place) -> Case:
    for seed in range(100):
        case = draw(ground(seed), seed, 0, 400)
        if played(case, place, off_by_one).differences:
            return case
    raise AssertionError("no case shows it")


@pytest.mark.bpf
def test_a_wrong_compiler_is_seen_and_its_case_made_small(wrongly_judged: Case, place: Place, tmp_path: Path) -> None:
    small = smallest(wrongly_judged, place, off_by_one, seconds=60)
    packets, rules, endpoints = size(small)
    assert (packets, rules) <= (2, 2)
    assert endpoints <= 2
    file = tmp_path / "case.json"
    file.write_text(write(small, played(small, place, off_by_one).differences))
    again = read(file.read_text())
    assert again == small
    assert played(again, place, off_by_one).differences
    assert played(again, place, compile_text).differences == []


@pytest.mark.parametrize("part", range(6))
def test_cases_are_the_same_after_they_were_written_and_read(part: int) -> None:
    case = draw(ground(part), part, part, 200)
    assert read(write(case, [])) == case
