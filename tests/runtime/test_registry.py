"""Protects the registry: one truth in maps, memory and journal; undone operations; addresses that change hands."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from policyc.artifact.layout import ENDPOINT, HOST_ENDPOINT, IPCACHE
from policyc.artifact.reader import Artifact
from policyc.diagnostics import OperationError
from policyc.model import Endpoint
from policyc.runtime import addresses, load
from policyc.runtime.load import Options
from policyc.runtime.maps import Map, TableFull
from policyc.runtime.pins import NUMBER
from policyc.runtime.registry import Registry, open_registry
from policyc.runtime.state import Store
from policyc.runtime.unload import unload

pytestmark = pytest.mark.bpf


def endpoint(name: str, *texts: str, **labels: str) -> Endpoint:
    return Endpoint(name, tuple(addresses.parse(t) for t in texts), labels)


@pytest.fixture
def loaded(machine: Any, artifact: Artifact) -> Iterator[Any]:
    load.load(artifact, "shop", Options(endpoints=[endpoint("web", "10.0.0.1", "fd00::1", app="web")]))
    yield machine
    unload("shop")


def owners(registry: Registry) -> dict[str, str]:
    """Every address in the maps and its owner there."""
    names = {e.index: e.name for e in registry.endpoints.values()} | {HOST_ENDPOINT: "host"}
    found = {}
    for family, table in registry._ipcache.items():
        for key, value in table.items():
            address = (family, int.from_bytes(key, "big"))
            found[addresses.text(address)] = names[IPCACHE.unpack(value)[0]]  # type: ignore[arg-type]
    return found


def check(registry: Registry) -> None:
    """Maps say what memory says, and so will a process that comes later."""
    wanted = {addresses.text(a): "host" for a in registry.host}
    for known in registry.endpoints.values():
        wanted.update((addresses.text(a), known.name) for a in known.addresses)
        word = registry._endpoints.lookup(NUMBER.pack(known.index))
        assert word is not None
        slot, flags = ENDPOINT.unpack(word)
        assert slot == known.slot
        assert bool(flags & 2) == bool(known.addresses)
        assert registry._identities.lookup(NUMBER.pack(slot)) == registry.builder.record(known.labels, known.name)
    assert owners(registry) == wanted


def test_operations_survive_the_process(loaded: Any) -> None:
    with open_registry("shop") as registry:
        registry.put(endpoint("api", "10.0.0.2", app="api"))
        registry.put(endpoint("web", "10.0.0.1", "10.0.0.3", app="web"))
        registry.put(endpoint("gone", "10.0.0.9"))
        registry.remove("gone")
        check(registry)
        known = dict(registry.endpoints)
    with open_registry(None) as registry:
        assert registry.endpoints == known
        check(registry)
        assert registry.put(endpoint("web", "10.0.0.3", "10.0.0.1", app="web")) == "unchanged"


def test_an_address_held_by_another_names_the_holder(loaded: Any) -> None:
    with open_registry("shop") as registry:
        with pytest.raises(OperationError, match=r"10\.0\.0\.1 is held by endpoint 'web'"):
            registry.put(endpoint("other", "10.0.0.7", "10.0.0.1"))
        check(registry)
        with pytest.raises(OperationError, match="there is no endpoint 'wbe'") as caught:
            registry.remove("wbe")
        assert caught.value.help == "did you mean 'web'?"


def test_a_full_table_undoes_the_operation(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_registry("shop") as registry:
        real = Map.update

        def update(table: Map, key: bytes, value: bytes, flags: int = 0) -> None:
            if table.name == "ipcache6":
                raise TableFull("table ipcache6 is full")
            real(table, key, value, flags)

        with monkeypatch.context() as patch:
            patch.setattr(Map, "update", update)
            with pytest.raises(TableFull):
                registry.put(endpoint("api", "10.0.0.2", "fd00::2", app="api"))
        check(registry)
        assert "api" not in registry.endpoints
    with open_registry("shop") as registry:
        check(registry)


def test_host_addresses_come_back_when_an_endpoint_goes(loaded: Any) -> None:
    with open_registry("shop") as registry:
        registry.put(endpoint("local", "127.0.0.1"))
        assert owners(registry)["127.0.0.1"] == "local"
        registry.remove("local")
        assert owners(registry)["127.0.0.1"] == "host"


def test_host_sync(loaded: Any) -> None:
    loaded.guest("vnew", 7)
    with open_registry("shop") as registry:
        came, went = registry.sync_host()
        assert "10.9.7.1" in {addresses.text(a) for a in came}
        assert went == []
        check(registry)
        assert registry.sync_host() == ([], [])
    with open_registry("shop") as registry:
        check(registry)


def test_host_addresses_may_be_mapped(loaded: Any, artifact: Artifact) -> None:
    """An interface may have one; at packet hooks it is an address like any other."""
    loaded.guest("vnew", 7)
    subprocess.run(["ip", "-6", "addr", "add", "::ffff:10.1.1.1/128", "dev", "vnew", "nodad"], check=True)
    with open_registry("shop") as registry:
        registry.sync_host()
        check(registry)
    load.load(artifact, "shop", Options())
    with open_registry("shop") as registry:
        assert ("6", 0xFFFF0A010101) in registry.host


def test_apply_hands_addresses_over(loaded: Any) -> None:
    with open_registry("shop") as registry:
        registry.put(endpoint("api", "10.0.0.2", app="api"))
        registry.put(endpoint("old", "10.0.0.5"))
        done = registry.apply(
            [
                endpoint("web", "10.0.0.2", "fd00::1", app="web"),
                endpoint("api", "10.0.0.1", app="api"),
                endpoint("new", "10.0.0.5"),
            ]
        )
        assert (done.added, sorted(done.changed), done.removed) == (["new"], ["api", "web"], ["old"])
        check(registry)
        assert owners(registry)["10.0.0.1"] == "api"
        assert owners(registry)["10.0.0.5"] == "new"
    with open_registry("shop") as registry:
        check(registry)


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (endpoint("late", "10.0.0.8", "10.0.0.7"), "belongs to endpoints"),
        (endpoint("late"), "neither an address nor a cgroup"),
        (dataclasses.replace(endpoint("late", "10.0.0.8"), interface="nowhere"), "no device 'nowhere'"),
        (dataclasses.replace(endpoint("late", "10.0.0.8"), cgroup="/nowhere"), "no cgroup"),
    ],
)
def test_apply_of_what_cannot_be_changes_nothing(loaded: Any, last: Endpoint, reason: str) -> None:
    """What can be known is found before the first endpoint is touched."""
    with open_registry("shop") as registry:
        registry.put(endpoint("old", "10.0.0.5"))
        before = dict(registry.endpoints)
        state = registry.store.current.read_bytes()
        with pytest.raises(OperationError, match=reason):
            registry.apply([endpoint("new", "10.0.0.7"), last])
        assert registry.endpoints == before
        assert registry.store.current.read_bytes() == state
        check(registry)


def test_apply_of_more_sets_of_labels_than_there_is_room_for(loaded: Any) -> None:
    with open_registry("shop") as registry:
        room = registry._identities.max_entries - 2  # of which two are nobody's and the host's
        many = [
            dataclasses.replace(endpoint(f"e{n}", f"10.3.{n >> 8}.{n & 255}"), labels={"ns": str(n)})
            for n in range(room + 1)
        ]
        with pytest.raises(OperationError, match="different sets of labels"):
            registry.apply(many)
        assert set(registry.endpoints) == {"web"}


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 5])
def test_a_kill_in_the_middle_is_finished(loaded: Any, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """After any number of map writes of an operation, whoever opens the load next completes it."""

    class Killed(BaseException):
        pass

    registry = open_registry("shop")
    real, left = Map.update, [steps]

    def update(table: Map, key: bytes, value: bytes, flags: int = 0) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        real(table, key, value, flags)

    with monkeypatch.context() as patch:
        patch.setattr(Map, "update", update)
        patch.setattr(Map, "delete", lambda table, key: True)  # nor does the undo run
        patch.setattr(Store, "abort", lambda store, mark: None)
        patch.setattr(Store, "done", lambda store: None)
        with pytest.raises(Killed) if steps < 5 else _nothing():
            registry.put(endpoint("api", "10.0.0.2", "fd00::2", app="api"))
    registry.close()
    with open_registry("shop") as again:
        check(again)
        if steps:  # a kill before the journal's line is a kill before the operation
            assert "api" in again.endpoints


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_a_line_cut_short_was_not_begun(loaded: Any) -> None:
    path = Store("shop").current
    with path.open("ab") as file:
        file.write(b'{"op":"put","name":"ha')
    with open_registry("shop") as registry:
        check(registry)
        registry.put(endpoint("api", "10.0.0.2"))
    with open_registry("shop") as registry:
        assert set(registry.endpoints) == {"web", "api"}


def test_damaged_state_is_told(loaded: Any) -> None:
    path = Store("shop").current
    whole = path.read_bytes()
    path.write_text(json.dumps({"format": "else"}))
    with pytest.raises(OperationError, match="is damaged"):
        open_registry("shop")
    path.write_bytes(whole)


def test_two_commands_wait_for_each_other(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyc.runtime.state.LOCK_PATIENCE", 0.1)
    with open_registry("shop"), pytest.raises(OperationError, match="another policyc command works on shop"):
        open_registry("shop")


def test_many_endpoints(machine: Any, artifact: Artifact) -> None:
    """The tables are sized by need."""
    many = [Endpoint(f"e{i}", (("4", (11 << 24) + i),), {"app": "web"}) for i in range(20_000)]
    report = load.load(artifact, "many", Options(endpoints=many))
    assert report.addresses == 20_000
    with open_registry("many") as registry:
        assert registry.put(dataclasses.replace(many[0], name="one-more", addresses=(("4", 12 << 24),))) == "added"
    unload("many")
