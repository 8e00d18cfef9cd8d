"""Scenes for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.l7.place import Scene


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
