"""Protects the stream programs of a load: attached where a cgroup is bound, its subject written, over replacements, failures and ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from policyc.artifact.layout import CONFIG
from policyc.artifact.reader import Artifact, read
from policyc.artifact.stream_layout import CGROUP_STORAGE_KEY, CGROUP_SUBJECT, StreamHook
from policyc.codegen.emit import compile_object
from policyc.ir import pipeline
from policyc.model import Endpoint
from policyc.runtime import addresses, load, query
from policyc.runtime.load import Options
from policyc.runtime.pins import STREAM_ENTRIES, STREAM_NEXT, STREAM_TABLES, ZERO, Pins
from policyc.runtime.recovery import recover
from policyc.runtime.registry import open_registry
from policyc.runtime.state import Store
from policyc.runtime.unload import unload
from tests.runtime.conftest import policy_set
from tests.runtime.streams import with_block

pytestmark = pytest.mark.bpf
NAME = "shop"


def compiled(port: int) -> Artifact:
    policy = with_block(policy_set(port))
    return read(compile_object(pipeline.build(policy), policy, {}, "").object)


@pytest.fixture(scope="module")
def l7() -> Artifact:
    return compiled(80)


@pytest.fixture(scope="module")
def other_l7() -> Artifact:
    return compiled(8080)


def endpoint(name: str, app: str, group: Path | None = None, *texts: str) -> Endpoint:
    owned = tuple(addresses.parse(text) for text in texts)
    return Endpoint(name, owned, {"app": app}, str(group) if group is not None else None, None)


def subject(group: Path) -> int | None:
    """Whose sockets those of a cgroup are; None where no program was ever attached."""
    table = Pins(NAME).map("cgroup_subject")
    value = table.lookup(CGROUP_STORAGE_KEY.pack(group.stat().st_ino))
    table.close()
    return CGROUP_SUBJECT.unpack(value)[0] if value is not None else None


def takes_over(group: Path) -> bool:
    """Whether a sock_ops program is attached at the cgroup itself."""
    return any(p.point.startswith(f"streams:{group}=") and p.present for p in query.attachments(query.view(NAME)))


def pins() -> list[str]:
    folder = Pins(NAME).folder
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def stream_pins() -> set[str]:
    return {p for p in pins() if p in (*STREAM_ENTRIES, *STREAM_NEXT, *STREAM_TABLES) or "streams" in p}


def loads(artifact: Artifact, *endpoints: Endpoint) -> load.Report:
    return load.load(artifact, NAME, Options(endpoints=endpoints or None))


def test_every_bound_cgroup_has_its_subject(machine: Any, cgroup: Path, l7: Artifact) -> None:
    inner = cgroup / "inner"
    loads(l7, endpoint("api", "api", cgroup), endpoint("web", "web", inner))
    assert (subject(cgroup), subject(inner)) == (2, 3)
    assert takes_over(cgroup)
    assert takes_over(inner)
    unload(NAME)


def test_over_a_replacement(machine: Any, cgroup: Path, l7: Artifact, other_l7: Artifact) -> None:
    """Entry programs and shared maps stay, the programs of the old slot too; a cgroup that changes hands is its new endpoint's."""
    inner = cgroup / "inner"
    loads(l7, endpoint("api", "api", cgroup), endpoint("web", "web", inner))
    numbers = entry_numbers()
    loads(other_l7, endpoint("api", "api", inner), endpoint("web", "web", cgroup))
    assert entry_numbers() == numbers
    assert (subject(cgroup), subject(inner)) == (3, 2)
    assert filled_slots() == {hook: [0, 1] for hook in StreamHook}
    config = Pins(NAME).map("config", 2)
    assert CONFIG.unpack(config.lookup(ZERO) or b"")[5] == 2
    config.close()
    unload(NAME)


def entry_numbers() -> dict[str, int]:
    from policyc.runtime.programs import program_id

    found = {}
    for hook in StreamHook:
        fd = Pins(NAME).stream_entry(hook)
        found[hook.name] = program_id(fd)
        os.close(fd)
    return found


def filled_slots() -> dict[StreamHook, list[int]]:
    found = {}
    for hook in StreamHook:
        table = Pins(NAME).map(f"next_{hook.name.lower()}")
        found[hook] = [slot for slot in (0, 1) if table.lookup(slot.to_bytes(4, "little")) is not None]
        table.close()
    return found


def test_a_policy_without_blocks_leaves_nothing_of_them(
    machine: Any, cgroup: Path, l7: Artifact, artifact: Artifact
) -> None:
    loads(l7, endpoint("api", "api", cgroup))
    loads(artifact)
    assert stream_pins() == set()
    loads(l7)
    assert subject(cgroup) == 2
    unload(NAME)


@pytest.mark.parametrize("without_cgroup", [True, False])
def test_the_first_cgroup_comes_with_an_endpoint(
    machine: Any, cgroup: Path, l7: Artifact, other_l7: Artifact, without_cgroup: bool
) -> None:
    loads(l7, endpoint("web", "web", None, "10.0.0.9"))
    if without_cgroup:
        loads(other_l7)
    assert not {"enter_sock_ops", "g1/policyc_sock_ops", "g2/policyc_sock_ops"} & set(pins())
    with open_registry(NAME) as registry:
        registry.put(endpoint("api", "api", cgroup))
    assert takes_over(cgroup)
    assert subject(cgroup) == 3
    unload(NAME)


def test_a_cgroup_follows_its_endpoint(machine: Any, cgroup: Path, l7: Artifact) -> None:
    inner = cgroup / "inner"
    loads(l7, endpoint("web", "web", None, "10.0.0.9"), endpoint("api", "api", cgroup))
    with open_registry(NAME) as registry:
        registry.put(endpoint("api", "api", inner))
        assert (subject(cgroup), subject(inner)) == (0, 3)
        assert not takes_over(cgroup)
        registry.remove("api")
        assert subject(inner) == 0
        registry.put(endpoint("new", "api", inner))
        assert subject(inner) == 4
    unload(NAME)


@pytest.mark.parametrize("before", ["nothing", "plain", "l7"])
def test_a_load_that_fails_takes_all_back(
    machine: Any, cgroup: Path, l7: Artifact, other_l7: Artifact, artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch, before: str,
) -> None:  # fmt: skip
    inner = cgroup / "inner"
    if before != "nothing":
        loads(l7 if before == "l7" else artifact, endpoint("api", "api", cgroup))
    known = pins()
    monkeypatch.setattr(load._Installation, "_enter_connections", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loads(other_l7, endpoint("api", "api", inner), endpoint("web", "web", cgroup))
    assert pins() == known
    if before == "l7":
        assert subject(cgroup) == 2
        assert subject(inner) in (0, None)
        assert filled_slots() == {hook: [0] for hook in StreamHook}
    if before != "nothing":
        unload(NAME)


def kill_at(owner: Any, step: str, artifact: Artifact, endpoints: list[Endpoint]) -> None:
    """Loads in a process that ends at this step."""
    child = os.fork()
    if child == 0:
        try:
            setattr(owner, step, lambda *_: os._exit(9))
            loads(artifact, *endpoints)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("before", ["nothing", "plain", "l7"])
@pytest.mark.parametrize("switched", [False, True])
def test_a_load_that_was_killed(
    machine: Any, cgroup: Path, l7: Artifact, other_l7: Artifact, artifact: Artifact, before: str, switched: bool
) -> None:
    inner = cgroup / "inner"
    if before != "nothing":
        loads(l7 if before == "l7" else artifact, endpoint("api", "api", cgroup), endpoint("web", "web", inner))
    swapped = [endpoint("api", "api", inner), endpoint("web", "web", cgroup)]
    kill_at(load if switched else load._Installation, "finish" if switched else "_enter_connections", other_l7, swapped)
    with Store(NAME) as store:
        recover(store)
    if switched:
        names = {e.name: e.index for e in query.view(NAME).endpoints.values()}
        assert (subject(cgroup), subject(inner)) == (names["web"], names["api"])
        assert takes_over(inner)
    elif before == "l7":
        assert (subject(cgroup), subject(inner)) == (2, 3)
    elif before == "plain":
        assert stream_pins() == set()
    else:
        assert not Pins(NAME).folder.exists()
    if switched or before != "nothing":
        unload(NAME)


def test_on_one_cpu(machine: Any, cgroup: Path, l7: Artifact) -> None:
    """Programs are verified one after the other, entry programs first."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        loads(l7, endpoint("api", "api", cgroup))
    finally:
        os.sched_setaffinity(0, cpus)
    assert takes_over(cgroup)
    unload(NAME)


def test_dry_run_leaves_nothing(machine: Any, cgroup: Path, l7: Artifact) -> None:
    load.load(l7, NAME, Options(endpoints=[endpoint("api", "api", cgroup)], dry_run=True))
    assert not Pins(NAME).folder.exists()
