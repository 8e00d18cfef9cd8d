"""Endpoints that come and go while a policy is loaded, by `policyc.runtime.registry`. `pytest benchmarks/bench_endpoints.py`, as root."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import loads, place, rulesets
from policyc.model import Endpoint
from policyc.runtime.registry import Registry, open_registry

RULES, ENDPOINTS = 1000, 10_000
FIRST = 10 << 24 | 1 << 20  # addresses that no endpoint of the rule set has


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    """1,000 rules, 10,000 endpoints, attached at an uplink."""
    place.enter()
    place.add_link()
    rules = rulesets.services(RULES, ENDPOINTS)
    with loads.loaded(loads.compiled(rules), rules, f"uplink:{place.DEVICE}"), open_registry(loads.NAME) as opened:
        yield opened


@pytest.fixture(params=["a new identity", "an identity that others have"])
def fresh(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    """Endpoints that nobody has yet."""
    others = request.param.endswith("others have")
    return (
        Endpoint(
            f"new{n}",
            (("4", FIRST + n),),
            {"app": f"app{n % RULES}", "zone": "z0", "env": "prod" if others else f"e{n}"},
        )
        for n in itertools.count()
    )


def test_add(benchmark: Any, registry: Registry, fresh: Iterator[Endpoint]) -> None:
    added: list[str] = []

    def one() -> tuple[tuple[Endpoint], dict[str, Any]]:
        endpoint = next(fresh)
        added.append(endpoint.name)
        return (endpoint,), {}

    benchmark.pedantic(registry.put, setup=one, rounds=1000)
    assert registry.get(added[-1]).slot
    for name in added:
        registry.remove(name)


def test_remove(benchmark: Any, registry: Registry, fresh: Iterator[Endpoint]) -> None:
    def one() -> tuple[tuple[str], dict[str, Any]]:
        endpoint = next(fresh)
        registry.put(endpoint)
        return (endpoint.name,), {}

    benchmark.pedantic(registry.remove, setup=one, rounds=1000)
    assert "new0" not in registry.endpoints
