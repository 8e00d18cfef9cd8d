"""Protects docs/l7.md's word on how servers may read: what works on a judged socket, what does not, and what a denial does to a blocked reader."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.l7 import readers
from tests.l7.evasion import ALLOWED, FORBIDDEN, POLICIES
from tests.l7.place import PORT, Scene

pytestmark = pytest.mark.bpf
PORTS = itertools.cycle(range(PORT, PORT + 20))
ALL = {**readers.WORK, **readers.DO_NOT, **readers.VARIES}
PAGE = (Path(__file__).parents[2] / "docs" / "l7.md").read_text()


@pytest.fixture(scope="module")
def judged(scene: Scene) -> Iterator[Scene]:
    scene.load(POLICIES["ingress"], api="cgroup")
    yield scene
    scene.unload()


def read(scene: Scene, name: str, request: bytes = ALLOWED) -> str:
    port = next(PORTS)
    server, client = scene.agent("api"), scene.agent("web")
    server.begin(readers.accept, port, ALL[name], len(request))
    scene.namespace("api").wait_for_listeners([port])
    client.begin(readers.in_two_parts, scene.address("api"), port, request)
    said: str = server.result()
    scene.rest()
    return said


@pytest.mark.parametrize("name", ALL)
def test_where_nobody_judges(scene: Scene, name: str) -> None:
    assert read(scene, name) == "whole"


@pytest.mark.parametrize("name", readers.WORK)
def test_works(judged: Scene, name: str) -> None:
    assert read(judged, name) == "whole"


@pytest.mark.parametrize("name", readers.DO_NOT)
def test_does_not_behave(judged: Scene, name: str) -> None:
    """If one day it does, the page has to say so."""
    assert read(judged, name) != "whole"


@pytest.mark.parametrize("name", readers.WORK)
def test_a_denied_request_is_not_read(judged: Scene, name: str) -> None:
    """A blocked reader may wake without a byte (`BlockingIOError`), or wait on."""
    said = read(judged, name, FORBIDDEN)
    assert said != "whole"


def test_the_page_names_them() -> None:
    (part,) = re.findall(r"^- \*\*On judged sockets these do not behave.*?(?=^- )", PAGE, re.MULTILINE | re.DOTALL)
    assert all(f"`{name}`" in part for name in (*readers.DO_NOT, *readers.VARIES, *readers.WORK))
