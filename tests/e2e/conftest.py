"""A machine with guests behind it, in namespaces of their own for the whole session, and an operator who loads policies
on it with the real commands. Each test has pins and state of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "examples")]

from operation import Operator, Site, compile_policy  # noqa: E402


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The guests `web` and `api`, which serves, and `world`, whom no endpoints file knows."""
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The object of a policy text; each text is compiled once."""
    folder = tmp_path_factory.mktemp("objects")
    known: dict[str, Path] = {}

    def compiled(text: str) -> Path:
        if text not in known:
            known[text] = compile_policy(text, folder / f"p{len(known)}")
        return known[text]

    return compiled


@pytest.fixture
def operator(site: Site, tmp_path: Path) -> Iterator[Operator]:
    """Unloads what the test loaded."""
    made = Operator(site.network.machine, tmp_path)
    try:
        yield made
    finally:
        made.unload_all()


@pytest.fixture
def cgroup(site: Site, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A cgroup of the test's own with `inner/leaf` below it; what still runs in it is moved out."""
    import os

    from policyc.runtime.cgroups import mount_point

    mount = mount_point()
    top = mount / f"policyc-e2e-{os.getpid()}"
    folders = [top / "inner" / "leaf", top / "inner", top]
    folders[0].mkdir(parents=True)
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    home = mount / own[4:] / "cgroup.procs"
    yield top
    for folder in folders:
        for process in (folder / "cgroup.procs").read_text().split():
            home.write_text(process)
        folder.rmdir()
