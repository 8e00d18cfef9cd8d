"""The policies in examples/ check clean, each on its own, and mean what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyc.frontend import load
from policyc.model import Direction, PeerSelector, Tier

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.pol"))


def test_there_are_eleven() -> None:
    assert len(FILES) == 11


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_clean(file: Path) -> None:
    result = load([str(file)])
    assert result.diagnostics == []
    assert result.policy is not None
    assert result.policy.tests


def test_all_together_without_the_names_that_clash() -> None:
    result = load([str(EXAMPLES / n) for n in ("starwars.pol", "guard-rails.pol", "host.pol")])
    assert result.diagnostics == []
    assert result.policy is not None
    assert [r.order for r in result.policy.rules] == list(range(len(result.policy.rules)))


def test_starwars() -> None:
    policy = load([str(EXAMPLES / "starwars.pol")]).policy
    assert policy is not None
    [landing] = policy.policies
    assert landing.tier is Tier.NORMAL
    assert set(landing.isolation) == {Direction.INGRESS}
    assert [r.ref for r in landing.rules] == ["landing.ingress.1", "landing.ingress.2", "landing.ingress.3"]
    assert isinstance(landing.subjects[0], PeerSelector)
    assert landing.subjects[0].name == "deathstar"
    assert [name for name, _ in policy.files] == ["starwars.pol"]
