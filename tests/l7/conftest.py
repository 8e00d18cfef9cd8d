"""A scene for the tests of a module, and the question whether this policyc loads HTTP blocks at all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.l7.corpus import policy
from tests.l7.place import NotYet, Scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Guests behind a machine."""
    with Scene(tmp_path_factory.mktemp("scene")) as made:
        yield made


@pytest.fixture(scope="module")
def on_loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """All in one namespace."""
    with Scene(tmp_path_factory.mktemp("loopback"), loopback=True) as made:
        yield made


@pytest.fixture(scope="module")
def judging(scene: Scene) -> None:
    """What needs a policy with an HTTP block in the kernel is expected to fail as long as it cannot be loaded."""
    try:
        with scene.loaded(policy.TEXT):
            pass
    except NotYet as reason:
        pytest.xfail(f"policies with HTTP blocks are not loaded yet: {reason}")
